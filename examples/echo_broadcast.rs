//! Sends every message to all clients, its sender included.
//!
//! ```sh
//! cargo run --release --example echo_broadcast [-- ADDR] [--max-message BYTES] [--any-origin]
//! ```
//!
//! Then open `http://127.0.0.1:9001/` in a browser, or connect any WebSocket client to
//! `ws://127.0.0.1:9001/`, with any path. Pages of other origins are rejected unless `--any-origin`
//! is given. With `--features tls` it takes `--tls CERT KEY`, or `--dev-tls`. On Ctrl-C the server
//! closes all connections with 1001 and exits with 0.

#[path = "support/tls.rs"]
mod tls;

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use log::{LevelFilter, info};
use signal_hook::consts::{SIGINT, SIGTERM};
use simple_logger::SimpleLogger;
use tickws::{CloseCode, Event, Server};
use tls::Security;

fn main() -> Result<(), Box<dyn Error>> {
    SimpleLogger::new().with_level(LevelFilter::Info).env().init()?;

    let mut addr = "127.0.0.1:9001".to_string();
    let page = include_str!("echo_broadcast.html");
    let mut builder = Server::builder().serve_bytes("/", "text/html; charset=utf-8", page);
    let (security, args) = Security::from_args()?;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--max-message" => {
                let bytes: usize = args.next().ok_or("--max-message needs a number of bytes")?.parse()?;
                // Room for a few such messages to a client that reads more slowly than the sender
                // sends.
                builder = builder.max_message_size(bytes).max_buffered(bytes.saturating_mul(4).max(1 << 20));
            }
            "--any-origin" => builder = builder.allow_any_origin(),
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}").into()),
            other => addr = other.to_string(),
        }
    }

    let s = security.s();
    let mut server = security.bind(builder, &addr)?;
    for addr in server.local_addrs() {
        info!("listening on ws{s}://{addr}/, page at http{s}://{addr}/");
    }

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let report = server.set_interval(Duration::from_secs(5));
    let mut last = server.stats();

    while !server.is_drained() {
        // A signal ends the sleep. The timeout covers a signal just before the sleep.
        let tick = server.poll_for(Duration::from_millis(500))?;
        for event in &tick {
            match event {
                Event::Open { client, request } => {
                    let addr = server.remote_addr(client).map(|addr| addr.to_string()).unwrap_or_default();
                    info!("{client} joined from {addr}, path {}", request.uri().path());
                }
                Event::Message { message, .. } => {
                    let delivery = server.broadcast(message);
                    if delivery.dropped + delivery.overflowed > 0 {
                        info!(
                            "{} clients were too slow for a message",
                            delivery.dropped + delivery.overflowed
                        );
                    }
                }
                Event::Close { client, reason } => info!("{client} left: {reason}"),
                Event::Timer { timer, .. } if timer == report && server.stats() != last => {
                    last = server.stats();
                    info!("{last}");
                }
                _ => {}
            }
        }
        if stop.swap(false, Ordering::Relaxed) {
            info!("closing {} clients", server.client_count());
            server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(5));
        }
    }
    info!("{}", server.stats());
    Ok(())
}
