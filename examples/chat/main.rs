//! A chat for browsers: rooms, names, who is here, the last messages of a room.
//!
//! ```sh
//! cargo run --release --example chat [-- ADDR] [--token TOKEN] [--any-origin] [--behind PROXY]
//! cargo run --release --example chat --features tls -- --dev-tls   # or --tls CERT KEY
//! ```
//!
//! Then open the address that it prints. This file decides which clients may connect: the page
//! sends a token, and looking it up takes 300 ms here, as in a database, while the server goes on
//! serving all others. The messages of the chat are in `hub.rs`. On Ctrl-C the server closes all
//! connections with 1001; the pages wait for it to come back. Behind a proxy, `--behind 127.0.0.1`
//! makes the server believe what it says about its clients.

mod hub;
#[path = "../support/tls.rs"]
mod tls;

use std::{
    collections::HashMap,
    error::Error,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use signal_hook::consts::{SIGINT, SIGTERM};
use tickws::{CloseCode, Decision, Event, Server, TimerId, UpgradeError, UpgradeId, http};
use tls::Security;

/// An upgrade whose token is being looked up, and the result of the lookup.
struct Lookup {
    upgrade: UpgradeId,
    valid: bool,
}

const LOOKUP: Duration = Duration::from_millis(300);

fn main() -> Result<(), Box<dyn Error>> {
    let (mut addr, mut token) = ("127.0.0.1:9002".to_string(), "letmein".to_string());
    let mut builder = Server::builder()
        .serve_bytes("/", "text/html; charset=utf-8", include_str!("index.html"))
        .health("/healthz")
        .path("/ws")
        .on_upgrade(|_, _| Decision::Defer)
        .max_connections(1000)
        .max_message_size(16 * 1024)
        .max_messages_per_second(20);
    let (security, args) = Security::from_args()?;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--token" => token = args.next().ok_or("--token needs a value")?,
            "--behind" => builder = builder.trusted_proxies(args.next()),
            "--any-origin" => builder = builder.allow_any_origin(),
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}").into()),
            other => addr = other.to_string(),
        }
    }
    let s = security.s();
    let mut server = security.bind(builder, &addr)?;
    println!("open http{s}://{}/?token={token}", server.local_addrs()[0]);

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let mut lookups: HashMap<TimerId, Lookup> = HashMap::new();
    let mut hub = hub::Hub::default();
    while !server.is_drained() {
        // A signal ends the sleep. The timeout covers a signal just before the sleep.
        for event in &server.poll_for(Duration::from_millis(500))? {
            match event {
                Event::Upgrade { upgrade, request } => {
                    let valid = query(request.uri(), "token") == Some(&token);
                    lookups.insert(server.set_timer(LOOKUP), Lookup { upgrade, valid });
                }
                Event::UpgradeGone { upgrade } => lookups.retain(|timer, lookup| {
                    let waits = lookup.upgrade != upgrade;
                    waits || {
                        server.cancel_timer(*timer);
                        false
                    }
                }),
                Event::Timer { timer, .. } => {
                    // This fails if the browser has left in this very tick.
                    if let Some(Err(error)) = lookups.remove(&timer).map(|found| answer(&mut server, found)) {
                        println!("cannot answer an upgrade: {error}");
                    }
                }
                Event::Message { client, message } => hub.message(&mut server, client, message),
                Event::Close { client, reason } => {
                    println!("{client} left: {reason}");
                    hub.leave(&mut server, client);
                }
                _ => {}
            }
        }
        if stop.swap(false, Ordering::Relaxed) {
            server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(5));
        }
    }
    Ok(())
}

fn answer(server: &mut Server, lookup: Lookup) -> Result<(), UpgradeError> {
    if !lookup.valid {
        let mut rejection = http::Response::new("this token is not valid\n");
        *rejection.status_mut() = http::StatusCode::UNAUTHORIZED;
        return server.reject(lookup.upgrade, rejection);
    }
    // A real chat would recognise the user by this cookie, which scripts of the page cannot read.
    // `RandomState` makes it unique, which is enough for a demo; a secret needs random bytes of the
    // system.
    let session = RandomState::new().hash_one(lookup.upgrade);
    let cookie = format!("chat-session={session:016x}; HttpOnly; SameSite=Strict; Path=/");
    let cookie = http::HeaderValue::try_from(cookie).expect("plain ASCII");
    let client =
        server.accept_with(lookup.upgrade, [(http::header::SET_COOKIE, cookie)].into_iter().collect())?;
    if let Some(addr) = server.remote_addr(client) {
        println!("{client} joined from {addr}");
    }
    Ok(())
}

/// The value of a query parameter, still percent-encoded.
fn query<'u>(uri: &'u http::Uri, name: &str) -> Option<&'u str> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}
