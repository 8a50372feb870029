//! A chat for browsers: rooms, names, who is here, the last messages of a room.
//!
//! ```sh
//! cargo run --release --example chat [-- ADDR] [--token TOKEN] [--any-origin]
//! ```
//!
//! Then open the address that it prints. This file decides who is let in: the page brings a token, and looking
//! one up takes 300 ms here, as a database might, during which the server goes on serving everyone else. What is
//! said once inside is in `hub.rs`. Ctrl-C says 1001 to all, whose pages then wait for the server to come back.

mod hub;

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

/// An upgrade whose token is being looked up, and what the lookup will find.
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
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--token" => token = args.next().ok_or("--token needs one")?,
            "--any-origin" => builder = builder.allow_any_origin(),
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}").into()),
            other => addr = other.to_string(),
        }
    }
    let mut server = builder.bind(addr)?;
    println!("open http://{}/?token={token}", server.local_addrs()[0]);

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let mut lookups: HashMap<TimerId, Lookup> = HashMap::new();
    let mut hub = hub::Hub::default();
    while !server.is_drained() {
        // A signal ends the sleep; the timeout is for one that comes just before it.
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
                Event::Timer { timer } => {
                    // It fails if the browser has left in this very tick.
                    if let Some(Err(error)) = lookups.remove(&timer).map(|found| answer(&mut server, found)) {
                        println!("no answer to an upgrade: {error}");
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
            server.shutdown(CloseCode::Away, Duration::from_secs(5));
        }
    }
    Ok(())
}

fn answer(server: &mut Server, lookup: Lookup) -> Result<(), UpgradeError> {
    if !lookup.valid {
        let mut refusal = http::Response::new("this token opens nothing\n");
        *refusal.status_mut() = http::StatusCode::UNAUTHORIZED;
        return server.reject(lookup.upgrade, refusal);
    }
    // What a real chat would know the user by from now on; no script of the page can read it. `RandomState` makes
    // it unlike any other, which is enough for a demo: for a secret, ask the system for random bytes.
    let session = RandomState::new().hash_one(lookup.upgrade);
    let cookie = format!("chat-session={session:016x}; HttpOnly; SameSite=Strict; Path=/");
    let cookie = http::HeaderValue::try_from(cookie).expect("plain ASCII");
    let client =
        server.accept_with(lookup.upgrade, [(http::header::SET_COOKIE, cookie)].into_iter().collect())?;
    println!("{client} came in");
    Ok(())
}

/// The value of a query parameter, as it was sent.
fn query<'u>(uri: &'u http::Uri, name: &str) -> Option<&'u str> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}
