//! Costs and savings of compression, for JSON chat lines and binary snapshots, with compression
//! off, shared and dedicated: the ratio and the CPU time per message, sent to one client, to all,
//! and received; and the memory per client.
//!
//! ```sh
//! cargo bench --features deflate --bench deflate [-- quick]
//! ```
//!
//! Server and clients run on one thread. Only the server's work is measured: queueing and flushing
//! of outgoing messages, and polls that receive messages.

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use flate2::{Compress, Compression, FlushCompress};
use rustix::time::{ClockId, clock_gettime};
use support::{Outcome, median, raise_descriptor_limit};
use tickws::{Deflate, DeflateMode, Event, Server};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Outcome<()> {
    raise_descriptor_limit();
    let quick = std::env::args().any(|arg| arg == "quick");
    let (clients, rounds) = if quick { (20, 6) } else { (200, 40) };
    let dedicated = || Deflate::new(DeflateMode::Dedicated);
    let small = dedicated().server_max_window_bits(12).client_max_window_bits(12);
    let large = dedicated().server_max_window_bits(15).client_max_window_bits(15);
    let modes = [
        ("off", None),
        ("Shared", Some(Deflate::default())),
        ("Shared, level 1", Some(Deflate::default().level(1))),
        ("Dedicated", Some(dedicated())),
        ("Dedicated, 4 KiB", Some(small)),
        ("Dedicated, 32 KiB", Some(large)),
    ];
    println!(
        "{clients} clients, each in turn, {rounds} rounds; bytes on the wire / bytes of the messages, CPU in µs:"
    );
    println!("                                    to one client      to everyone       received     KiB per");
    println!("  messages        mode              ratio      CPU     ratio     CPU    ratio    CPU   client");
    for data in [Data::Chat, Data::Snapshot(1024), Data::Snapshot(4096), Data::Snapshot(16 * 1024)] {
        for (name, deflate) in &modes {
            let row = measure(data, deflate.clone(), clients, rounds)?;
            let Row { sent, everyone, received, memory } = row;
            println!(
                "  {:<15} {name:<18} {:>5.3} {:>8.2}     {:>5.3} {:>7.2}    {:>5.3} {:>6.2} {memory:>8.1}",
                data.name(),
                sent.0,
                sent.1,
                everyone.0,
                everyone.1,
                received.0,
                received.1,
            );
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Data {
    Chat,
    /// Size in bytes.
    Snapshot(usize),
}

/// Ratio and microseconds per message.
type Cost = (f64, f64);

struct Row {
    sent: Cost,
    everyone: Cost,
    received: Cost,
    /// Memory per client, in KiB, after all messages are sent.
    memory: f64,
}

impl Data {
    fn name(self) -> String {
        match self {
            Data::Chat => "JSON chat".into(),
            Data::Snapshot(bytes) => format!("snapshot {} KiB", bytes / 1024),
        }
    }
}

/// Generates messages: chat lines of 150 to 500 bytes, or the state of a world that changes a
/// little.
struct Source {
    data: Data,
    rng: fastrand::Rng,
    entities: Vec<[f32; 6]>,
    number: usize,
}

impl Source {
    fn next(&mut self) -> Vec<u8> {
        self.number += 1;
        let rng = &mut self.rng;
        match self.data {
            Data::Chat => {
                let words: Vec<&str> = "the game is on tonight who joins me at north gate hello everyone lag again \
                    nice shot well played see you tomorrow attack defend with brought never map level boss need \
                    healer sword please thanks where are grüße to all of my friends from server seven"
                    .split_whitespace()
                    .collect();
                let text: Vec<&str> =
                    (0..rng.usize(8..60)).map(|_| words[rng.usize(..words.len())]).collect();
                let (room, from, at) = (rng.u8(..9), rng.u32(..5_000), 1_760_000_000_000 + self.number * 137);
                format!(
                    "{{\"type\":\"chat\",\"id\":{},\"room\":\"lobby-{room}\",\"from\":{{\"id\":{from},\
                     \"name\":\"player{from}\"}},\"at\":{at},\"text\":\"{}\"}}",
                    100_000 + self.number,
                    text.join(" ")
                )
                .into_bytes()
            }
            Data::Snapshot(bytes) => {
                self.entities.resize(bytes / 32, [0.0; 6]);
                let mut snapshot = Vec::with_capacity(bytes);
                for (id, entity) in self.entities.iter_mut().enumerate() {
                    if rng.u8(..3) == 0 {
                        for axis in 0..3 {
                            entity[axis] += rng.f32() * 0.1;
                            entity[axis + 3] = rng.f32();
                        }
                    }
                    snapshot.extend_from_slice(&(id as u32).to_le_bytes());
                    entity.iter().for_each(|value| snapshot.extend_from_slice(&value.to_le_bytes()));
                    snapshot.extend_from_slice(&[0, 0, (id % 4) as u8, 0]);
                }
                snapshot
            }
        }
    }
}

struct Client {
    stream: TcpStream,
    /// `None`: no compression was negotiated.
    compressor: Option<Compress>,
    no_context_takeover: bool,
}

impl Client {
    fn connect(server: &mut Server) -> Outcome<Client> {
        let mut stream = TcpStream::connect(server.local_addrs()[0])?;
        let head = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
        stream.write_all(head.as_bytes())?;
        let before = server.client_count();
        while server.client_count() == before {
            drop(server.poll_for(Duration::from_secs(1))?);
        }
        server.flush();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head)?;
        let bits = head
            .split_once("client_max_window_bits=")
            .and_then(|(_, rest)| rest.lines().next()?.parse().ok());
        let compressor = head
            .contains("permessage-deflate")
            .then(|| Compress::new_with_window_bits(Compression::new(6), false, bits.unwrap_or(15)));
        stream.set_nonblocking(true)?;
        Ok(Client { stream, compressor, no_context_takeover: head.contains("client_no_context_takeover") })
    }

    /// A masked frame with the message, compressed if negotiated.
    fn frame(&mut self, message: &[u8]) -> Vec<u8> {
        let mut payload = message.to_vec();
        let mut first = 0x82;
        if let Some(compressor) = &mut self.compressor {
            if self.no_context_takeover {
                compressor.reset();
            }
            payload = Vec::with_capacity(message.len() * 2 + 64);
            let _ = compressor.compress_vec(message, &mut payload, FlushCompress::Sync);
            payload.truncate(payload.len() - 4);
            first = 0xc2;
        }
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..126 => frame.push(0x80 | len as u8),
            len => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&payload);
        frame
    }

    /// Reads and discards everything that has arrived.
    fn drain(&mut self) -> Outcome<()> {
        let mut buffer = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err("the server hung up".into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn measure(data: Data, deflate: Option<Deflate>, clients: usize, rounds: usize) -> Outcome<Row> {
    let mut builder = Server::builder().ping_interval(None).silence_timeout(None).max_buffered(64 << 20);
    if let Some(deflate) = deflate {
        builder = builder.deflate(deflate);
    }
    let mut server = builder.bind("127.0.0.1:0")?;
    let mut peers = Vec::new();
    for _ in 0..clients {
        peers.push(Client::connect(&mut server)?);
    }
    let ids: Vec<_> = server.clients().collect();
    // Each client has a stream of messages of its own.
    let mut sources: Vec<_> = (0..clients as u64)
        .map(|seed| Source { data, rng: fastrand::Rng::with_seed(seed), entities: Vec::new(), number: 0 })
        .collect();
    let mut run = |server: &mut Server, peers: &mut Vec<Client>, what: What| -> Outcome<Cost> {
        let (mut bytes, mut wire, mut times) = (0, 0, Vec::new());
        for round in 0..rounds {
            let messages: Vec<_> = sources.iter_mut().map(Source::next).collect();
            let before = server.stats();
            let mut count = clients;
            let mut raw = messages.iter().map(Vec::len).sum::<usize>();
            let mut spent = Duration::ZERO;
            match what {
                What::One => {
                    let begin = cpu();
                    for (id, message) in ids.iter().zip(&messages) {
                        server.send(*id, message)?;
                    }
                    server.flush();
                    spent = cpu() - begin;
                }
                What::Everyone => {
                    count = 4 * clients;
                    raw = messages[..4].iter().map(Vec::len).sum::<usize>() * clients;
                    let begin = cpu();
                    for message in &messages[..4] {
                        let _ = server.broadcast(message);
                    }
                    server.flush();
                    spent = cpu() - begin;
                }
                What::Received => {
                    for (peer, message) in peers.iter_mut().zip(&messages) {
                        let frame = peer.frame(message);
                        peer.stream.write_all(&frame)?;
                    }
                    let mut got = 0;
                    while got < clients {
                        let begin = cpu();
                        let tick = server.poll_once()?;
                        for event in &tick {
                            got += usize::from(matches!(event, Event::Message { .. }));
                        }
                        drop(tick);
                        spent += cpu() - begin;
                    }
                }
            }
            for peer in &mut *peers {
                peer.drain()?;
            }
            drop(server.poll_once()?);
            // In the first rounds the compression contexts are filled.
            if round >= rounds / 4 {
                let after = server.stats();
                let (out, into) = (after.bytes_out - before.bytes_out, after.bytes_in - before.bytes_in);
                wire += if matches!(what, What::Received) { into } else { out };
                bytes += raw;
                times.push(spent.as_secs_f64() * 1e6 / count as f64);
            }
        }
        Ok((wire as f64 / bytes as f64, median(times)))
    };
    let sent = run(&mut server, &mut peers, What::One)?;
    let everyone = run(&mut server, &mut peers, What::Everyone)?;
    let received = run(&mut server, &mut peers, What::Received)?;
    // Half of the clients leave, and the memory freed is theirs: the rest does not depend on their
    // number.
    let held = HELD.load(Relaxed);
    let left = peers.split_off(clients / 2);
    let own: usize = HELD.load(Relaxed);
    drop(left);
    let freed_here = own - HELD.load(Relaxed);
    while server.client_count() > clients / 2 {
        drop(server.poll_for(Duration::from_secs(1))?);
    }
    drop(server.poll_once()?);
    let freed = held - HELD.load(Relaxed);
    let memory = freed.saturating_sub(freed_here) as f64 / (clients - clients / 2) as f64 / 1024.0;
    Ok(Row { sent, everyone, received, memory })
}

/// CPU time of this thread, so that other load of the machine does not count.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[derive(Clone, Copy)]
enum What {
    One,
    Everyone,
    Received,
}
