//! A 60 Hz game loop that polls once per frame and sends each client a snapshot per frame.
//!
//! ```sh
//! cargo run --release --example game_tick [-- ADDR] [--frames N] [--tls CERT KEY]
//! ```
//!
//! Clients steer with the text messages `left` and `right`. All clients receive the positions of
//! all players in a binary message, 60 times per second. The longest poll is printed once per
//! second.

#[path = "support/tls.rs"]
mod tls;

use std::{
    error::Error,
    thread,
    time::{Duration, Instant},
};

use simple_logger::SimpleLogger;
use tickws::{ClientId, CloseCode, Event, Message, Server};
use tls::Security;

const FRAME: Duration = Duration::from_nanos(1_000_000_000 / 60);

/// Most polls per frame. Each reads about 64 KiB, and there is rarely more than one.
const POLLS: usize = 8;

struct Player {
    client: ClientId,
    x: i16,
    speed: i16,
}

/// A side table: a player has the index of its client.
#[derive(Default)]
struct World(Vec<Option<Player>>);

impl World {
    fn apply(&mut self, event: Event<'_>) {
        match event {
            Event::Open { client, .. } => {
                self.0.resize_with(self.0.len().max(client.index() + 1), || None);
                self.0[client.index()] = Some(Player { client, x: 0, speed: 0 });
            }
            Event::Message { client, message } => {
                let Some(player) = &mut self.0[client.index()] else { return };
                match message {
                    Message::Text("left") => player.speed = player.speed.saturating_sub(1),
                    Message::Text("right") => player.speed = player.speed.saturating_add(1),
                    other => log::debug!("{client} sent {other:?}"),
                }
            }
            Event::Close { client, reason } => {
                log::info!("{client} left: {reason}");
                self.0[client.index()] = None;
            }
            _ => {}
        }
    }

    /// Moves all players. Writes the frame's number, then index and position of each player.
    fn simulate(&mut self, frame: u64, snapshot: &mut Vec<u8>) {
        snapshot.clear();
        snapshot.extend_from_slice(&frame.to_be_bytes());
        for player in self.0.iter_mut().flatten() {
            player.x = player.x.saturating_add(player.speed);
            snapshot.extend_from_slice(&(player.client.index() as u16).to_be_bytes());
            snapshot.extend_from_slice(&player.x.to_be_bytes());
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    SimpleLogger::new().with_level(log::LevelFilter::Info).env().init()?;
    let (mut addr, mut frames) = ("127.0.0.1:9001".to_string(), u64::MAX);
    let (security, args) = Security::from_args()?;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--frames" => frames = args.next().ok_or("--frames needs a number")?.parse()?,
            other => addr = other.to_string(),
        }
    }

    // A frame has 16 ms. Whatever clients send, a poll stops reading after half a millisecond.
    let s = security.s();
    let mut server = security.bind(Server::builder().time_budget(Duration::from_micros(500)), &addr)?;
    log::info!("playing on ws{s}://{}/", server.local_addrs()[0]);
    let second = server.set_interval(Duration::from_secs(1));
    let (mut world, mut snapshot, mut longest) = (World::default(), Vec::new(), Duration::ZERO);
    let mut next_frame = Instant::now();

    for frame in 0..frames {
        for _ in 0..POLLS {
            let start = Instant::now();
            let tick = server.poll_once()?;
            longest = longest.max(start.elapsed());
            for event in &tick {
                match event {
                    Event::Timer { timer, .. } if timer == second => {
                        log::info!("{} players, longest poll {longest:?}", server.client_count());
                        longest = Duration::ZERO;
                    }
                    event => world.apply(event),
                }
            }
            if !tick.more() {
                break;
            }
        }
        world.simulate(frame, &mut snapshot);
        let _ = server.broadcast(&snapshot); // queues only
        server.flush(); // one write per client
        next_frame += FRAME;
        thread::sleep(next_frame.saturating_duration_since(Instant::now()));
    }

    server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(1));
    server.run(|_, _| {})?;
    Ok(())
}
