//! Many clients that never read, and a broadcaster at full speed: the ceiling on buffered bytes holds, and those
//! who read lose nothing.
#![cfg(target_os = "linux")]

mod support;

use std::time::Duration;

use support::{
    Deadline, Harness,
    raw::{self, Raw},
};
use tickws::{ClientId, CloseReason, Event, Server};

const MB: usize = 1 << 20;
const CEILING: usize = 32 * MB;
/// What the process may hold besides: the pools' spares, the events of a tick, the allocator's own, and what the
/// readers here keep.
const CONSTANT: usize = 32 * MB;
const DEAF: usize = 200;
const HEALTHY: usize = 8;
const MESSAGES: usize = 4_000;
/// The broadcaster waits for the healthy when they are this far behind.
const WINDOW: usize = 32;

/// Most are small, and each client holds its own copy; one in sixteen is large, and they hold it together.
fn message(number: usize) -> Vec<u8> {
    let mut bytes = vec![number as u8; if number.is_multiple_of(16) { 20_000 } else { 900 }];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    bytes
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a resident size");
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Takes what has come, and checks that it is the next numbers.
fn take(raw: &mut Raw, received: &mut usize) {
    raw.read_some();
    while let Some(frame) = raw.take_frame() {
        assert_eq!(frame.opcode, raw::BINARY, "{frame:?}");
        assert!(frame.payload == message(*received), "message {received} is another or not whole");
        *received += 1;
    }
}

/// Connections that are never read, and what became of them.
#[derive(Default)]
struct Deaf {
    /// Their handshake is under way.
    pending: Vec<Raw>,
    open: Vec<(Raw, ClientId)>,
    shed: usize,
    refused: usize,
    /// Those of them that were not told.
    unheard: usize,
    pressures: usize,
}

impl Deaf {
    /// Dials as many as are missing, but no more than a poll accepts.
    fn refill(&mut self, h: &Harness) {
        for _ in (self.pending.len() + self.open.len()..DEAF).take(20) {
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
                    let index = self.pending.iter().position(|raw| raw.local_addr() == remote);
                    // The healthy ones are not among them.
                    if let Some(index) = index {
                        self.open.push((self.pending.swap_remove(index), client));
                    }
                }
                Event::Pressure { .. } => self.pressures += 1,
                Event::Close { client, reason } => {
                    assert_eq!(*reason, CloseReason::Shed, "{client}");
                    let index = self.open.iter().position(|(_, id)| *id == client);
                    self.open.swap_remove(index.expect("only those who never read are closed"));
                    self.shed += 1;
                }
                Event::Drained { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        self.pending.retain_mut(|raw| {
            // The server has hung up on it after its answer. One that is open now would not be read here: it has
            // left `pending` in the poll that answered it.
            raw.read_some();
            match raw.take_head() {
                Some(head) => assert!(head.starts_with("HTTP/1.1 503 "), "{head}"),
                // The server tells no more than so many at once; the others are dropped without a word.
                None if raw.end.is_some() => self.unheard += 1,
                None => return true,
            }
            self.refused += 1;
            false
        });
    }
}

#[test]
fn two_hundred_that_never_read_cost_no_more_than_the_ceiling() {
    // Only the ceiling closes them, however long it takes: each takes nothing for as long as the test runs.
    let builder = Server::builder().max_buffered(CEILING).write_timeout(Duration::MAX);
    let builder = builder.ping_interval(None).silence_timeout(None).handshake_timeout(Duration::MAX);
    let builder = builder.max_total_buffered(CEILING).send_buffer(16 * 1024);
    let mut h = Harness::with(builder);
    let mut healthy: Vec<(Raw, usize)> = (0..HEALTHY).map(|_| (h.connect().0, 0)).collect();
    let mut deaf = Deaf::default();
    let deadline = Deadline::new();
    while deaf.open.len() < DEAF {
        deaf.refill(&h);
        deaf.poll(&mut h.server);
        deadline.check("all to be open");
    }

    let (before, mut most, mut queued) = (resident(), 0, 0);
    for number in 0..MESSAGES {
        let open = h.server.client_count();
        let delivery = h.server.broadcast(&message(number));
        assert_eq!(delivery.queued, open, "everybody is open and has room: {delivery:?}");
        queued += delivery.queued;
        deaf.poll(&mut h.server);
        let behind = if number + 1 < MESSAGES { WINDOW } else { 0 };
        let deadline = Deadline::new();
        while healthy.iter().any(|(_, received)| received + behind < number + 1) {
            healthy.iter_mut().for_each(|(raw, received)| take(raw, received));
            deaf.poll(&mut h.server);
            deadline.check("the healthy ones");
        }
        assert!(h.server.stats().buffered <= CEILING as u64, "{}", h.server.stats());
        if number.is_multiple_of(16) {
            most = most.max(resident());
            deaf.refill(&h);
        }
    }
    let deadline = Deadline::new();
    while !deaf.pending.is_empty() {
        deaf.poll(&mut h.server);
        deadline.check("an answer for all");
    }

    let (grown, stats) = (most.saturating_sub(before), h.server.stats());
    println!("{} MiB more than before; {} shed, {} refused; {stats}", grown / MB, deaf.shed, deaf.refused);
    assert!(grown > CEILING / 2, "the load was none: {grown} bytes");
    assert!(grown < CEILING + CONSTANT, "{grown} bytes");
    assert!(deaf.shed > DEAF * 3 / 4 && deaf.refused > deaf.unheard && deaf.pressures > 0);

    assert_eq!(stats.messages_out, queued as u64);
    assert_eq!((stats.dropped, stats.replaced, stats.expired), (0, 0, 0));
    assert_eq!((stats.closed.shed, stats.closed.total()), (deaf.shed as u64, deaf.shed as u64));
    assert_eq!(
        (stats.rejected.overloaded, stats.rejected.total()),
        (deaf.refused as u64, deaf.refused as u64)
    );
    assert_eq!(stats.accepted, stats.opened + stats.rejected.total());
    assert_eq!(stats.opened, stats.open + stats.closed.total());
    assert_eq!(stats.open as usize, HEALTHY + deaf.open.len());

    for (_, id) in deaf.open.drain(..) {
        h.server.disconnect(id).expect("is open");
    }
    h.until("the memory to be free", |h| h.server.stats().buffered == 0);
    assert_eq!(h.server.client_count(), HEALTHY);
}
