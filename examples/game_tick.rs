//! A 60 Hz game loop that polls once per frame and sends each client a snapshot per frame.
//!
//! ```sh
//! cargo run --release --example game_tick [-- ADDR] [--frames N]
//! ```
//!
//! Clients steer with the text messages `left` and `right`; everyone gets the positions of all players
//! as binary, 60 times per second. Once per second the longest poll and the longest flush are printed.

use std::{
    error::Error,
    thread,
    time::{Duration, Instant},
};

use simple_logger::SimpleLogger;
use tickws::{ClientId, CloseCode, Event, Message, Server};

const FRAME: Duration = Duration::from_nanos(1_000_000_000 / 60);

/// Polls in one frame, each of about 64 KiB of input.
const POLLS: usize = 8;

struct Player {
    client: ClientId,
    x: i16,
    speed: i16,
}

fn main() -> Result<(), Box<dyn Error>> {
    SimpleLogger::new().with_level(log::LevelFilter::Info).env().init()?;
    let (mut addr, mut frames) = ("127.0.0.1:9001".to_string(), u64::MAX);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--frames" => frames = args.next().ok_or("--frames needs a number")?.parse()?,
            other => addr = other.to_string(),
        }
    }

    // A frame has 16 ms. Whatever the network does, a poll reads for half of one at most.
    let mut server = Server::builder().time_budget(Duration::from_micros(500)).bind(addr)?;
    log::info!("playing on ws://{}/", server.local_addrs()[0]);
    let second = server.set_interval(Duration::from_secs(1));

    // A side table: the slot of a client is its player's.
    let mut players: Vec<Option<Player>> = Vec::new();
    let mut snapshot = Vec::new();
    let (mut longest_poll, mut longest_flush) = (Duration::ZERO, Duration::ZERO);
    let mut next_frame = Instant::now();

    for frame in 0..frames {
        // What a frame leaves over waits for the next one, in the kernel.
        for _ in 0..POLLS {
            let start = Instant::now();
            let tick = server.poll_once()?;
            longest_poll = longest_poll.max(start.elapsed());
            for event in &tick {
                match event {
                    Event::Open { client, .. } => {
                        players.resize_with(players.len().max(client.index() + 1), || None);
                        players[client.index()] = Some(Player { client, x: 0, speed: 0 });
                    }
                    Event::Message { client, message: Message::Text(command) } => {
                        if let Some(player) = &mut players[client.index()] {
                            match command {
                                "left" => player.speed = player.speed.saturating_sub(1),
                                "right" => player.speed = player.speed.saturating_add(1),
                                other => log::debug!("{client} says {other:?}"),
                            }
                        }
                    }
                    Event::Close { client, reason } => {
                        log::info!("{client} left: {reason}");
                        players[client.index()] = None;
                    }
                    Event::Timer { timer } if timer == second => {
                        let count = server.client_count();
                        log::info!(
                            "{count} players, longest poll {longest_poll:?}, longest flush {longest_flush:?}"
                        );
                        (longest_poll, longest_flush) = (Duration::ZERO, Duration::ZERO);
                    }
                    _ => {}
                }
            }
            if !tick.more() {
                break;
            }
        }

        // Simulate, then queue this frame's snapshot: frame number, then (slot, x) of each player.
        snapshot.clear();
        snapshot.extend_from_slice(&frame.to_be_bytes());
        for player in players.iter_mut().flatten() {
            player.x = player.x.saturating_add(player.speed);
            snapshot.extend_from_slice(&(player.client.index() as u16).to_be_bytes());
            snapshot.extend_from_slice(&player.x.to_be_bytes());
        }
        server.broadcast(&snapshot);

        let start = Instant::now();
        server.flush();
        longest_flush = longest_flush.max(start.elapsed());

        next_frame += FRAME;
        thread::sleep(next_frame.saturating_duration_since(Instant::now()));
    }

    server.shutdown(CloseCode::Away, Duration::from_secs(1));
    server.run(|_, _| {})?;
    Ok(())
}
