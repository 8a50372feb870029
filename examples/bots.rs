//! Many bots from one thread: they connect to a server, talk, drop, and come back, also when the server was away.
//!
//! ```sh
//! cargo run --release --example echo_broadcast    # somebody to talk to
//! cargo run --release --example bots [-- --url ws://127.0.0.1:9001/] [--bots N] [--seconds S]
//! ```
//!
//! Each says something every ten seconds, and leaves once in a while for good, so that a new one comes. Kill the
//! server and start it again: the attempts of a second are the herd that it meets. One line is printed per second.

use std::{collections::HashSet, error::Error, time::Duration};

use tickws::{Connect, Event, LinkId, Reconnect, Server};

/// What happened in this second.
#[derive(Default)]
struct Second {
    opened: u64,
    lost: u64,
    heard: u64,
    said: u64,
    attempts: u64,
}

/// One bot is a link: it keeps that through all of its connections.
fn send_out(server: &mut Server, url: &str) -> Result<LinkId, Box<dyn Error>> {
    let policy = Reconnect::new().base(Duration::from_secs(2)).cap(Duration::from_secs(10));
    let client = server.connect_with(Connect::new(url).header("user-agent", "bots").reconnect(policy))?;
    server.link(client).ok_or("it has just been made".into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut url, mut bots, mut seconds) = ("ws://127.0.0.1:9001/".to_string(), 100, u64::MAX);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or("--url URL, --bots N, --seconds S")?;
        match arg.as_str() {
            "--url" => url = value,
            "--bots" => bots = value.parse()?,
            "--seconds" => seconds = value.parse()?,
            other => return Err(format!("{other}? There are --url, --bots and --seconds").into()),
        }
    }

    // It listens nowhere: `build` instead of `bind`.
    let mut server = Server::builder().build()?;
    let mut alive = HashSet::new();
    for _ in 0..bots {
        alive.insert(send_out(&mut server, &url)?);
    }
    let (beat, line) = (Duration::from_millis(100), Duration::from_secs(1));
    let (beat, line) = (server.set_interval(beat), server.set_interval(line));
    let (mut now, mut beats, mut lines, mut attempts) = (Second::default(), 0, 0, 0);
    while lines < seconds {
        for event in &server.poll_wait(None)? {
            match event {
                Event::Open { .. } => now.opened += 1,
                Event::Message { .. } => now.heard += 1,
                Event::Close { reason, .. } if reason.is_unexpected() => now.lost += 1,
                Event::ConnectFailed { link, error, .. } => {
                    println!("{link} gives up: {error}");
                    alive.remove(&link);
                }
                Event::Timer { timer } if timer == beat => {
                    beats += 1;
                    // Every hundredth at a time.
                    let turn: Vec<_> =
                        server.clients().filter(|client| client.index() % 100 == beats % 100).collect();
                    for &client in &turn {
                        now.said += u64::from(server.send(client, "to whom it may concern").is_ok());
                    }
                    // Each second one of them goes, and another one comes.
                    if let (0, Some(&client)) = (beats % 10, turn.first())
                        && let Some(link) = server.link(client)
                        && server.close(client, 1000, "enough").is_ok()
                    {
                        alive.remove(&link);
                        alive.insert(send_out(&mut server, &url)?);
                    }
                }
                Event::Timer { timer } if timer == line => {
                    lines += 1;
                    now.attempts =
                        server.stats().dialed - std::mem::replace(&mut attempts, server.stats().dialed);
                    println!(
                        "{lines:4} s: {} of {} bots are there | {} attempts, {} opened, {} lost | {} said, {} heard",
                        server.client_count(),
                        alive.len(),
                        now.attempts,
                        now.opened,
                        now.lost,
                        now.said,
                        now.heard
                    );
                    now = Second::default();
                }
                _ => {}
            }
        }
    }
    server.shutdown(1001, Duration::from_secs(2));
    Ok(server.run(|_, _| {})?)
}
