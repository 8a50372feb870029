//! The steady state allocates nothing (ARCHITECTURE.md).
//!
//! This test is a binary of its own, because it counts in the global allocator.

#[path = "support/counting.rs"]
mod counting;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use counting::{Counting, allocations};
use tickws::{Event, Prepared, Priority, RateLimitPolicy, SendOptions, Server, ServerBuilder};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const KEY: [u8; 4] = [1, 2, 3, 4];

/// A server and raw clients on one thread, so that the test decides the order of every step.
struct Bench {
    server: Server,
    clients: Vec<TcpStream>,
    reply: Vec<u8>,
    allocations: u64,
}

impl Bench {
    fn new(clients: usize) -> Bench {
        Bench::with(Server::builder(), clients)
    }

    fn with(builder: ServerBuilder, clients: usize) -> Bench {
        let mut server = builder.max_buffered(4 << 20).bind("127.0.0.1:0").unwrap();
        let addr = server.local_addrs()[0];
        let clients = (0..clients).map(|_| {
            let mut stream = TcpStream::connect(addr).unwrap();
            let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                           Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            let mut head = [0; 129];
            let before = server.client_count();
            while server.client_count() == before {
                let _ = server.poll_for(Duration::from_secs(1)).unwrap();
            }
            server.flush();
            stream.read_exact(&mut head).unwrap();
            assert!(head.ends_with(b"\r\n\r\n"));
            stream.set_nonblocking(true).unwrap();
            // Without this, Nagle's algorithm would join the pieces.
            stream.set_nodelay(true).unwrap();
            stream
        });
        let clients = clients.collect();
        Bench { server, clients, reply: vec![0; 1 << 20], allocations: 0 }
    }

    /// Client 0 sends `input` in pieces of `piece` bytes. The application handles each message with
    /// `answer`. Each of the first `readers` clients must receive `expected` bytes.
    fn round(
        &mut self,
        input: &[u8],
        piece: usize,
        readers: usize,
        expected: usize,
        answer: impl Fn(&mut Server, Event<'_>),
    ) {
        let mut got = [0; 8];
        let (mut sent, before_all) = (0, self.server.stats().bytes_in);
        for _ in 0..1_000_000 {
            // One piece at a time: if two were now and then read together, the load would vary, and
            // with it the high-water mark of the pools.
            if sent < input.len() && self.server.stats().bytes_in - before_all == sent as u64 {
                let end = input.len().min(sent.saturating_add(piece));
                sent += self.clients[0].write(&input[sent..end]).unwrap_or(0);
            }
            let before = allocations();
            let tick = self.server.poll_for(Duration::from_micros(100)).unwrap();
            for event in &tick {
                answer(&mut self.server, event);
            }
            drop(tick);
            self.server.flush();
            self.allocations += allocations() - before;
            for (client, got) in self.clients.iter_mut().zip(&mut got[..readers]) {
                *got += client.read(&mut self.reply).unwrap_or(0);
            }
            if got[..readers].iter().all(|got| *got == expected) {
                return;
            }
        }
        panic!("got {got:?} of {expected} bytes");
    }

    /// Runs `rounds` rounds to warm up and as many again, and gives the allocations of the latter.
    fn steady(&mut self, rounds: usize, mut round: impl FnMut(&mut Bench)) -> u64 {
        for _ in 0..rounds {
            round(self);
        }
        self.allocations = 0;
        for _ in 0..rounds {
            round(self);
        }
        self.allocations
    }
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
            if len < 65_536 {
                bytes.truncate(1);
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(len as u16).to_be_bytes());
            }
        }
    }
    bytes.extend_from_slice(&KEY);
    bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

fn echo(server: &mut Server, event: Event<'_>) {
    if let Event::Message { client, message } = event {
        server.send(client, message).unwrap();
    }
}

#[test]
fn the_steady_state_allocates_nothing() {
    let mut bench = Bench::new(4);

    let pipelined = frame(1, "grüße, 32 in flight".as_bytes()).repeat(32);
    let expected = 32 * (2 + "grüße, 32 in flight".len());
    let echoes = bench.steady(200, |bench| bench.round(&pipelined, usize::MAX, 1, expected, echo));
    assert_eq!(echoes, 0, "pipelined echo");

    // Pieces of 7 bytes split frames at every place, headers included.
    let split = bench.steady(20, |bench| bench.round(&pipelined, 7, 1, expected, echo));
    assert_eq!(split, 0, "echo of frames that arrive in pieces");

    let large = frame(2, &[7; 300_000]);
    let echoes = bench.steady(10, |bench| bench.round(&large, usize::MAX, 1, 300_000 + 10, echo));
    assert_eq!(echoes, 0, "echo of messages larger than the receive block");

    let small = frame(2, &[7; 100]);
    let broadcast = |server: &mut Server, event: Event<'_>| {
        if let Event::Message { message, .. } = event {
            assert_eq!(server.broadcast(message).queued, 4);
        }
    };
    let casts = bench.steady(100, |bench| bench.round(&small, usize::MAX, 4, 102, broadcast));
    assert_eq!(casts, 0, "broadcast of small messages");

    let ping = frame(9, b"are you there");
    let pongs = bench.steady(100, |bench| bench.round(&ping, usize::MAX, 1, 15, |_, _| ()));
    assert_eq!(pongs, 0, "pongs");

    // All recipients share one copy of a large broadcast: its allocations do not grow with their
    // number.
    let shared = frame(2, &[7; 50_000]);
    let casts = bench.steady(20, |bench| bench.round(&shared, usize::MAX, 4, 50_004, broadcast));
    assert!(casts <= 2 * 20, "{casts} allocations for 20 large broadcasts to 4 clients");

    // 200 keyed values in each tick, to a client that reads. Each flush is one write.
    let values: Vec<Vec<u8>> = (0..200).map(|key| vec![key; 20 + usize::from(key)]).collect();
    let framed = |payload: usize| payload + if payload < 126 { 2 } else { 4 };
    let expected: usize = values.iter().map(|value| framed(value.len())).sum();
    let send_values = |server: &mut Server, event: Event<'_>| {
        if let Event::Message { client, .. } = event {
            for (key, value) in values.iter().enumerate() {
                server.send_latest(client, key, b"an older value").unwrap();
                server.send_latest(client, key, value).unwrap();
            }
        }
    };
    let latest = bench.steady(50, |bench| bench.round(&small, usize::MAX, 1, expected, send_values));
    assert_eq!(latest, 0, "latest values");

    // The other ways to send: with high priority and an expiry, and prepared, small and large.
    let prepared = [Prepared::new([7; 100]), Prepared::new([7; 5_000])];
    let urgent = SendOptions::new().priority(Priority::High).expires_in(Duration::from_secs(60));
    let expected = 2 * 102 + 2 * 5_004 + 22 + 22;
    let send_all = |server: &mut Server, event: Event<'_>| {
        if let Event::Message { client, .. } = event {
            for prepared in &prepared {
                server.send(client, prepared).unwrap();
                server.send_latest(client, prepared.len(), prepared).unwrap();
            }
            server.send_with(client, [7; 20], &urgent).unwrap();
            server.send_with(client, [7; 20], &urgent).unwrap();
        }
    };
    let ways = bench.steady(50, |bench| bench.round(&small, usize::MAX, 1, expected, send_all));
    assert_eq!(ways, 0, "prepared messages, latest, expiring, of high priority");

    let clients: Vec<_> = bench.server.clients().collect();
    for client in clients {
        bench.server.join(client, "lobby").unwrap();
        bench.server.set_user(client, "ada").unwrap();
    }
    let publish = |server: &mut Server, event: Event<'_>| {
        if let Event::Message { client, message } = event {
            let room = server.room("lobby").unwrap();
            assert_eq!(server.publish("lobby", message).queued, 4);
            assert_eq!(server.publish(room, message).queued, 4);
            assert_eq!(server.publish_except("elsewhere", client, message).queued, 0);
            assert_eq!(server.send_to_user("ada", message).queued, 4);
        }
    };
    let published = bench.steady(100, |bench| bench.round(&small, usize::MAX, 4, 3 * 102, publish));
    assert_eq!(published, 0, "small messages to a room and to a user");

    // Two values for each of two keys: only the latest of each key is sent.
    let latest = |server: &mut Server, event: Event<'_>| {
        if let Event::Message { message, .. } = event {
            for key in [1, 2, 1, 2] {
                assert_eq!(server.publish_latest("lobby", key, message).queued, 4);
            }
        }
    };
    let published = bench.steady(100, |bench| bench.round(&small, usize::MAX, 4, 2 * 102, latest));
    assert_eq!(published, 0, "latest values to a room");

    bench.server.set_interval(Duration::from_millis(1));
    let timers = bench.steady(100, |bench| bench.round(&small, usize::MAX, 1, 102, echo));
    assert_eq!(timers, 0, "timers");
}

#[test]
fn rate_limits_allocate_nothing() {
    let builder = Server::builder().max_messages_per_second(40).max_bytes_per_second(1_000_000);
    let mut bench = Bench::with(builder.rate_limit(RateLimitPolicy::Pause), 1);
    // One message at a time, so that every pause begins in the same state. A machine that is slower
    // than the rate limit is never paused.
    let small = frame(2, &[7; 100]);
    let echoes = bench.steady(70, |bench| bench.round(&small, usize::MAX, 1, 102, echo));
    assert!(bench.server.stats().throttled > 10, "{}", bench.server.stats());
    assert_eq!(echoes, 0, "echo to a client that is paused again and again");
}

#[test]
fn replacing_values_for_a_stalled_client_allocates_nothing() {
    let mut bench = Bench::new(1);
    let client = bench.server.clients().next().unwrap();
    // Enough that the kernel's buffers stay full, even if the kernel resizes them later.
    while bench.server.buffered(client) < 2 << 20 {
        bench.server.send(client, [7; 16 * 1024]).unwrap();
        bench.server.flush();
    }
    let value = [7; 300];
    let mut tick = 0;
    let blocked = bench.steady(200, |bench| {
        tick += 1;
        let before = allocations();
        for key in 0..200 {
            // The sizes vary, so that a new value rarely fits into the space of the old one.
            let len = (key * 7 + tick * 31) % value.len();
            bench.server.send_latest(client, key, &value[..len]).unwrap();
        }
        drop(bench.server.poll_once().unwrap());
        bench.allocations += allocations() - before;
    });
    assert_eq!(blocked, 0, "values that are replaced");
    assert!(bench.server.stats().replaced >= 399 * 200);
}
