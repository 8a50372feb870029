//! A server whose page plots the server's own statistics, live over its own WebSocket.
//!
//! ```sh
//! cargo run --release --example dashboard [-- ADDR] [--load CLIENTS] [--tls CERT KEY]
//! ```
//!
//! Then open the address that it prints. The load comes from clients of the path `/load`: each
//! message is echoed, and a text that begins with `all` goes to all of them. `--load 20` starts
//! twenty such clients, which come and go. With `--features tls` it takes `--tls CERT KEY`, or
//! `--dev-tls`.

mod load;
#[path = "../support/tls.rs"]
mod tls;

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use signal_hook::consts::{SIGINT, SIGTERM};
use tickws::{CloseCode, Event, Message, Prepared, Server, Stats};
use tls::Security;

const TICK: Duration = Duration::from_millis(5);
const SAMPLE: Duration = Duration::from_millis(500);

fn main() -> Result<(), Box<dyn Error>> {
    let (mut addr, mut clients) = ("127.0.0.1:9003".to_string(), 0);
    let (security, args) = Security::from_args()?;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--load" => clients = args.next().ok_or("--load needs a number of clients")?.parse()?,
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}").into()),
            other => addr = other.to_string(),
        }
    }
    let builder = Server::builder()
        .serve_bytes("/", "text/html; charset=utf-8", include_str!("index.html"))
        .health("/healthz")
        .metrics("/metrics")
        .path("/stats")
        .path("/load")
        .send_buffer(64 * 1024); // so that the plot shows the bytes that slow clients do not read
    let s = security.s();
    if !s.is_empty() && clients > 0 {
        return Err("the clients of --load speak no TLS".into());
    }
    let mut server = security.bind(builder, &addr)?;
    let addr = server.local_addrs()[0];
    println!("open http{s}://{addr}/, load goes to ws{s}://{addr}/load");
    load::start(addr, clients);

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let sample = server.set_interval(SAMPLE);
    let (start, mut longest) = (Instant::now(), Duration::ZERO);
    while !server.is_drained() {
        // A loop with a fixed rhythm, as in a game. Polls never sleep, so their duration is the
        // work done.
        let polled = Instant::now();
        let tick = server.poll_once()?;
        longest = longest.max(polled.elapsed());
        for event in &tick {
            match event {
                Event::Open { client, request } => server.join(client, request.uri().path())?,
                Event::Message { message: Message::Text(text), .. } if text.starts_with("all") => {
                    let _ = server.publish("/load", text);
                }
                // A client that is too slow for its echoes is closed, and counted in the plot.
                Event::Message { client, message } => drop(server.send(client, message)),
                Event::Timer { timer, .. } if timer == sample => {
                    // A page that is behind needs only the latest sample.
                    let _ = server.publish_latest(
                        "/stats",
                        "sample",
                        encode(&server.stats(), start.elapsed(), longest)?,
                    );
                    longest = Duration::ZERO;
                }
                _ => {}
            }
        }
        server.flush();
        if stop.swap(false, Ordering::Relaxed) {
            server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(2));
        }
        if !tick.more() {
            thread::sleep(TICK);
        }
    }
    Ok(())
}

/// Totals, as the server counts them. The page computes the rates.
fn encode(stats: &Stats, at: Duration, longest: Duration) -> Result<Prepared, serde_json::Error> {
    let closed = &stats.closed;
    let sample = serde_json::json!({
        "at": at.as_millis() as u64,
        "open": stats.open,
        "opened": stats.opened,
        "rejected": stats.rejected.total(),
        "messages_in": stats.messages_in,
        "messages_out": stats.messages_out,
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
        "buffered": stats.buffered,
        "longest_poll_us": longest.as_micros() as u64,
        "closed": [
            ["by the peer", closed.peer],
            ["by the server", closed.local + closed.disconnected + closed.shutdown],
            ["hung up", closed.eof],
            ["too slow", closed.overflow + closed.shed],
            ["too fast", closed.rate_limited],
            ["timeout", closed.timeouts()],
            ["protocol violation", closed.protocol],
            ["i/o error", closed.io],
        ],
    });
    Ok(Prepared::new(&serde_json::to_string(&serde_json::json!({ "type": "stats", "data": sample }))?))
}
