//! Many bots on one thread: they connect to a server, send messages, leave, and reconnect after a
//! restart of the server.
//!
//! ```sh
//! cargo run --release --example echo_broadcast    # a server to connect to
//! cargo run --release --example bots [-- --url ws://127.0.0.1:9001/] [--bots N] [--seconds S]
//! ```
//!
//! Each bot sends a message every ten seconds. Once a second a bot leaves for good and a new one
//! connects. Restart the server to see all bots reconnect: the printed attempts are its load. One
//! line is printed per second.

use std::{collections::HashSet, error::Error, time::Duration};

use tickws::{Connect, Event, LinkId, Reconnect, Server};

/// Counts of one second.
#[derive(Default)]
struct Second {
    opened: u64,
    lost: u64,
    received: u64,
    sent: u64,
    attempts: u64,
}

/// Starts a bot; its link id stays the same through all of its connections.
fn start_bot(server: &mut Server, url: &str) -> Result<LinkId, Box<dyn Error>> {
    let policy = Reconnect::new().base(Duration::from_secs(2)).cap(Duration::from_secs(10));
    let client = server.connect(Connect::new(url).header("user-agent", "bots").reconnect(policy))?;
    server.link(client).ok_or("the connection was just created".into())
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

    // The program listens nowhere, so `build` rather than `bind`.
    let mut server = Server::builder().build()?;
    let mut alive = HashSet::new();
    for _ in 0..bots {
        alive.insert(start_bot(&mut server, &url)?);
    }
    let (beat, line) = (Duration::from_millis(100), Duration::from_secs(1));
    let (beat, line) = (server.set_interval(beat), server.set_interval(line));
    let (mut now, mut beats, mut lines, mut attempts) = (Second::default(), 0, 0, 0);
    while lines < seconds {
        for event in &server.poll_wait(None)? {
            match event {
                Event::Open { .. } => now.opened += 1,
                Event::Message { .. } => now.received += 1,
                Event::Close { reason, .. } if reason.is_unexpected() => now.lost += 1,
                Event::ConnectFailed { link, error, .. } => {
                    println!("{link} gives up: {error}");
                    alive.remove(&link);
                }
                Event::Timer { timer, .. } if timer == beat => {
                    beats += 1;
                    // A hundredth of the bots sends at each beat.
                    let turn: Vec<_> =
                        server.clients().filter(|client| client.index() % 100 == beats % 100).collect();
                    for &client in &turn {
                        now.sent += u64::from(server.send(client, "hello from a bot").is_ok());
                    }
                    // Once a second one bot leaves and another one starts.
                    if let (0, Some(&client)) = (beats % 10, turn.first())
                        && let Some(link) = server.link(client)
                        && server.close(client, 1000, "enough").is_ok()
                    {
                        alive.remove(&link);
                        alive.insert(start_bot(&mut server, &url)?);
                    }
                }
                Event::Timer { timer, .. } if timer == line => {
                    lines += 1;
                    now.attempts =
                        server.stats().dialed - std::mem::replace(&mut attempts, server.stats().dialed);
                    println!(
                        "{lines:4} s: {} of {} bots are there | {} attempts, {} opened, {} lost | {} sent, {} received",
                        server.client_count(),
                        alive.len(),
                        now.attempts,
                        now.opened,
                        now.lost,
                        now.sent,
                        now.received
                    );
                    now = Second::default();
                }
                _ => {}
            }
        }
    }
    server.shutdown(1001, "", Duration::from_secs(2));
    Ok(server.run(|_, _| {})?)
}
