//! Many clients that never read, and a broadcaster at full speed: the memory limit holds, and
//! clients that read lose nothing.
#![cfg(target_os = "linux")]

mod support;

use std::time::Duration;

use support::{
    Deadline, Harness, is_over_tls,
    raw::{self, Raw},
    resident,
};
use tickws::{ClientId, CloseReason, Event, Server};

const MB: usize = 1 << 20;
const MEMORY_LIMIT: usize = 32 * MB;
/// Other memory of the process: pooled buffers, the events of a tick, the allocator's overhead, and
/// the test's own buffers.
const CONSTANT: usize = 32 * MB;
const NON_READERS: usize = 200;
const READERS: usize = 8;
const MESSAGES: usize = 4_000;
/// The broadcaster waits for the reading clients when they are this many messages behind.
const WINDOW: usize = 32;

/// Most messages are small, and each client has its own copy. One in sixteen is large, and all
/// clients share one copy.
fn message(number: usize) -> Vec<u8> {
    let mut bytes = vec![number as u8; if number.is_multiple_of(16) { 20_000 } else { 900 }];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    bytes
}

/// Reads what has arrived, and checks that it is the next messages in order.
fn take(raw: &mut Raw, received: &mut usize) {
    raw.read_some();
    while let Some(frame) = raw.take_frame() {
        assert_eq!(frame.opcode, raw::BINARY, "{frame:?}");
        assert!(frame.payload == message(*received), "message {received} is another or not whole");
        *received += 1;
    }
}

/// The connections that never read, with counts of how they ended.
#[derive(Default)]
struct NonReaders {
    /// Their handshake is not complete.
    pending: Vec<Raw>,
    open: Vec<(Raw, ClientId)>,
    shed: usize,
    rejected: usize,
    /// Connections rejected without a response.
    unanswered: usize,
    pressures: usize,
}

impl NonReaders {
    /// Connects as many as are missing, but no more than one poll accepts.
    fn refill(&mut self, h: &Harness) {
        for _ in (self.pending.len() + self.open.len()..NON_READERS).take(20) {
            let mut raw = h.dial();
            let request = raw::upgrade_request("/", "");
            assert_eq!(raw.write_some(request.as_bytes()).unwrap(), request.len());
            self.pending.push(raw);
        }
    }

    fn poll(&mut self, server: &mut Server) {
        for event in &server.poll_once().expect("polls") {
            match event {
                Event::Open { client, .. } => {
                    let remote = server.remote_addr(client).expect("is open");
                    let index = self.pending.iter().position(|raw| remote == raw.local_addr());
                    // The reading clients are not in `pending`.
                    if let Some(index) = index {
                        self.open.push((self.pending.swap_remove(index), client));
                    }
                }
                Event::Pressure { .. } => self.pressures += 1,
                Event::Close { client, reason } => {
                    assert_eq!(*reason, CloseReason::Shed, "{client}");
                    let index = self.open.iter().position(|(_, id)| *id == client);
                    self.open.swap_remove(index.expect("only clients that never read are closed"));
                    self.shed += 1;
                }
                Event::Drained { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        self.pending.retain_mut(|raw| {
            // Only a rejected connection is read here: an accepted one has left `pending` in the
            // poll that sent the 101.
            raw.read_some();
            match raw.take_head() {
                Some(head) => assert!(head.starts_with("HTTP/1.1 503 "), "{head}"),
                // The server sends a limited number of 503 responses at a time; further connections
                // are dropped without one.
                None if raw.end.is_some() => self.unanswered += 1,
                None => return true,
            }
            self.rejected += 1;
            false
        });
    }
}

#[test]
fn non_readers_stay_within_max_total_buffered() {
    // No deadline closes these clients, only the memory limit does: they read nothing for as long
    // as the test runs.
    let builder = Server::builder().max_buffered(MEMORY_LIMIT).write_timeout(Duration::MAX);
    let builder = builder.ping_interval(None).silence_timeout(None).handshake_timeout(Duration::MAX);
    let builder = builder.max_total_buffered(MEMORY_LIMIT).send_buffer(16 * 1024);
    let mut h = Harness::with(builder);
    let mut readers: Vec<(Raw, usize)> = (0..READERS).map(|_| (h.connect().0, 0)).collect();
    let mut non_readers = NonReaders::default();
    let deadline = Deadline::new();
    while non_readers.open.len() < NON_READERS {
        non_readers.refill(&h);
        non_readers.poll(&mut h.server);
        deadline.check("all to be open");
    }

    let (before, mut most, mut queued) = (resident(), 0, 0);
    for number in 0..MESSAGES {
        let open = h.server.client_count();
        let delivery = h.server.broadcast(message(number));
        assert_eq!(delivery.queued, open, "every client is open and has room: {delivery:?}");
        queued += delivery.queued;
        non_readers.poll(&mut h.server);
        let behind = if number + 1 < MESSAGES { WINDOW } else { 0 };
        let deadline = Deadline::new();
        while readers.iter().any(|(_, received)| received + behind < number + 1) {
            readers.iter_mut().for_each(|(raw, received)| take(raw, received));
            non_readers.poll(&mut h.server);
            deadline.check("the reading clients");
        }
        assert!(h.server.stats().buffered <= MEMORY_LIMIT as u64, "{}", h.server.stats());
        if number.is_multiple_of(16) {
            most = most.max(resident());
            non_readers.refill(&h);
        }
    }
    let deadline = Deadline::new();
    while !non_readers.pending.is_empty() {
        non_readers.poll(&mut h.server);
        deadline.check("a response to all");
    }

    let (grown, stats) = (most.saturating_sub(before), h.server.stats());
    println!(
        "{} MiB more than before; {} shed, {} rejected; {stats}",
        grown / MB,
        non_readers.shed,
        non_readers.rejected
    );
    assert!(grown > MEMORY_LIMIT / 2, "there was no load: {grown} bytes");
    assert!(grown < MEMORY_LIMIT + CONSTANT, "{grown} bytes");
    assert!(non_readers.shed > NON_READERS * 3 / 4 && non_readers.pressures > 0);
    // Over TLS a response would take the handshake.
    assert!(non_readers.rejected > non_readers.unanswered || is_over_tls());

    assert_eq!(stats.messages_out, queued as u64);
    assert_eq!((stats.dropped, stats.replaced, stats.expired), (0, 0, 0));
    assert_eq!((stats.closed.shed, stats.closed.total()), (non_readers.shed as u64, non_readers.shed as u64));
    assert_eq!(
        (stats.rejected.overloaded, stats.rejected.total()),
        (non_readers.rejected as u64, non_readers.rejected as u64)
    );
    assert_eq!(stats.accepted, stats.opened + stats.rejected.total());
    assert_eq!(stats.opened, stats.open + stats.closed.total());
    assert_eq!(stats.open as usize, READERS + non_readers.open.len());

    for (_, id) in non_readers.open.drain(..) {
        h.server.disconnect(id).expect("is open");
    }
    h.until("the memory to be free", |h| h.server.stats().buffered == 0);
    assert_eq!(h.server.client_count(), READERS);
}
