//! Sends the latest state of a world at 60 Hz to fast and slow readers, and prints how old each
//! reader's copy is.
//!
//! ```sh
//! cargo run --release --example snapshots [-- SECONDS]
//! ```
//!
//! Server and readers are in this program. With `send`, a reader that is slower than the sender
//! falls further and further behind, until its outbox overflows. With `send_latest` outdated states
//! are skipped. The ages are printed just before the next states are sent, so a reader that has all
//! is one frame (17 ms) behind.

use std::{
    error::Error,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tickws::{ClientId, Event, Server};
use tungstenite::{Message, client::client_with_config, protocol::WebSocketConfig};

const FRAME: Duration = Duration::from_nanos(1_000_000_000 / 60);
/// 20 entities of 500 bytes: 600 KB for each reader and second.
const ENTITIES: usize = 20;
const STATE: usize = 500;

/// Name, bytes read per second, and whether the server uses `send_latest`.
const READERS: [(&str, f64, bool); 3] =
    [("fast, send_latest", 1e9, true), ("slow, send_latest", 1e5, true), ("slow, send", 1e5, false)];

/// The time, in ms since the start, at which the oldest state that a reader holds was made.
static OLDEST: [AtomicU64; READERS.len()] = [const { AtomicU64::new(0) }; READERS.len()];

fn read(addr: SocketAddr, reader: usize) -> Result<(), Box<dyn Error + Send + Sync>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(16 * 1024)?; // a slow link rather than a long queue in the kernel
    socket.connect(&addr.into())?;
    let config = WebSocketConfig::default().read_buffer_size(1024);
    let (mut socket, _) =
        client_with_config(format!("ws://{addr}/{reader}"), TcpStream::from(socket), Some(config))?;
    let mut made = [0; ENTITIES];
    loop {
        let Message::Binary(state) = socket.read()? else { continue };
        made[state[0] as usize] = u64::from_be_bytes(state[1..9].try_into()?);
        OLDEST[reader].store(made.into_iter().min().unwrap_or(0), Relaxed);
        thread::sleep(Duration::from_secs_f64(STATE as f64 / READERS[reader].1));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let seconds: u64 = std::env::args().nth(1).map_or(Ok(8), |arg| arg.parse())?;
    // Bytes in the kernel cannot be replaced any more, so its buffer is small.
    let mut server = Server::builder().send_buffer(16 * 1024).max_buffered(2 << 20).bind("127.0.0.1:0")?;
    let addr = server.local_addrs()[0];
    for reader in 0..READERS.len() {
        thread::spawn(move || read(addr, reader));
    }
    println!("{:>8}{}", "second", READERS.map(|(name, ..)| format!("{name:>20}")).concat());
    let (mut clients, mut state) = ([None::<ClientId>; READERS.len()], [0; STATE]);
    let start = Instant::now();

    for frame in 1..=seconds * 60 {
        for event in &server.poll_once()? {
            match event {
                Event::Open { client, request } => {
                    let reader: usize = request.uri().path()[1..].parse()?;
                    *clients.get_mut(reader).ok_or("no such reader")? = Some(client);
                }
                Event::Close { client, reason } => {
                    let reader =
                        clients.iter().position(|known| *known == Some(client)).ok_or("unknown client")?;
                    clients[reader] = None;
                    println!("the reader \"{}\" left: {reason}", READERS[reader].0);
                }
                _ => {}
            }
        }
        let now = start.elapsed().as_millis() as u64;
        if frame % 60 == 0 {
            let behind = OLDEST.each_ref().map(|made| format!("{:>17} ms", now - made.load(Relaxed)));
            println!("{:>8}{}", frame / 60, behind.concat());
        }
        state[1..9].copy_from_slice(&now.to_be_bytes());
        for (client, (.., latest)) in clients.iter().zip(READERS) {
            for entity in 0..ENTITIES {
                state[0] = entity as u8;
                let Some(client) = *client else { break };
                // A client that overflows is reported by its `Close`.
                let _ = match latest {
                    true => server.send_latest(client, entity, state),
                    false => server.send(client, state),
                };
            }
        }
        server.flush();
        thread::sleep((start + FRAME * frame as u32).saturating_duration_since(Instant::now()));
    }
    Ok(())
}
