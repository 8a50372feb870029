//! Recordings that somebody has forged, with digests that fit: a replay ends, and holds no more than it may.
//!
//! A test of its own, because it counts in the global allocator.
#![cfg(feature = "sim")]

#[path = "replay/app.rs"]
mod app;
#[path = "support/counting.rs"]
mod counting;

use std::{io, time::Duration};

use app::{App, Memory};
use counting::{Counting, peak};
use tickws::{
    Server,
    sim::{Replay, Sim, Weather},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MS: Duration = Duration::from_millis(1);

/// What a replay may hold for each byte of its recording: a connection that is accepted stands there in eight
/// bytes. What a broadcast to many and a compressed message make of it, the limits on the tape bound.
const TIMES: usize = 256;
/// And besides: the block that is read into, and two batches of random numbers.
const CONSTANT: usize = 1 << 20;

/// A file of one block.
fn tape_of(block: &[u8]) -> Vec<u8> {
    let digest = block.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let len = (block.len() as u32).to_le_bytes();
    [b"tickws\0tape\x02", &len[..], &digest.to_le_bytes(), block].concat()
}

/// What stands in the blocks of a file.
fn content(tape: &[u8]) -> Vec<u8> {
    let (mut at, mut content) = (12, Vec::new());
    while at < tape.len() {
        let end = at + 12 + u32::from_le_bytes(tape[at..at + 4].try_into().unwrap()) as usize;
        content.extend_from_slice(&tape[at + 12..end]);
        at = end;
    }
    content
}

/// Replays it to its end, and gives the number of its polls.
fn replay(tape: Vec<u8>) -> usize {
    let (len, mut polls) = (tape.len(), 0);
    let held = peak(|| {
        let Ok(mut replay) = Replay::new(io::Cursor::new(tape)) else { return };
        while let Ok(Some(_)) = replay.next_tick() {
            polls += 1;
        }
    });
    assert!(held <= CONSTANT + TIMES * len, "{held} bytes for {len}");
    assert!(polls <= len);
    polls
}

/// A server with a bit of everything.
fn recording(seed: u64) -> Vec<u8> {
    let memory = Memory::new(usize::MAX);
    let sim = Sim::with_weather(seed, Weather::foul());
    let mut server = sim.server(App::builder(seed).record(memory.clone())).unwrap();
    let mut other = sim.server(Server::builder()).unwrap();
    sim.name("other.example", other.local_addrs()[0]);
    let mut app = App::new(seed);
    app.dial(&mut server, "ws://other.example/x");
    let mut clients = ["/", "/?1", "/?22", "/"].map(|path| sim.connect(&server, path));
    for step in 0..40 {
        clients[step % 4].send(&vec![1; step * step]);
        app.act(&mut server);
        for event in &server.poll_for(20 * MS).unwrap() {
            app.handle(&mut server, event);
        }
        drop(other.poll_once().unwrap());
    }
    drop(server);
    memory.take()
}

#[test]
fn a_forged_recording_ends_and_holds_little() {
    let mut told = 0;
    for seed in 0..30 {
        let mut throws = fastrand::Rng::with_seed(seed);
        let tape = recording(seed);
        let polls = replay(tape.clone());
        assert!(polls >= 40, "{polls}");
        let content = content(&tape);
        for _ in 0..40 {
            let mut forged = content.clone();
            for _ in 0..throws.usize(1..4) {
                let at = throws.usize(..forged.len());
                let until = (at + throws.usize(..200)).min(forged.len());
                match throws.u8(..5) {
                    0 => forged[at] = throws.u8(..),
                    1 => forged[at] ^= 1 << throws.u8(..8),
                    2 => drop(forged.drain(at..until)),
                    3 => forged.extend_from_within(at..until),
                    _ => drop(forged.splice(at..at, vec![throws.u8(..); 9])),
                }
            }
            told += usize::from(replay(tape_of(&forged)) < polls);
        }
    }
    assert!(told > 500, "{told}");
}

#[test]
fn noise_is_no_recording() {
    let mut throws = fastrand::Rng::with_seed(1);
    for len in (0..2_000).chain([100_000, 1_000_000]) {
        let noise: Vec<u8> = (0..len).map(|_| throws.u8(..)).collect();
        assert_eq!(replay(tape_of(&noise)), 0);
        assert_eq!(replay(noise), 0);
    }
}

/// A few bytes that stand for much, as often as they fit.
#[test]
fn what_is_claimed_is_not_allocated() {
    let memory = Memory::new(usize::MAX);
    drop(Server::builder().record(memory.clone()).build().unwrap());
    let tape = memory.take();
    // The first block holds the head alone.
    let end = 24 + u32::from_le_bytes(tape[12..16].try_into().unwrap()) as usize;
    let head = &tape[24..end];
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for (what, entry, count) in [
        ("connections", &b"\x01\x04\0\0\0\0\x01\0"[..], 100_000),
        ("timers", &[29, 1, 0, 0], 100_000),
        ("repeating timers", &[29, 0, 1, 1], 100_000),
        ("wake-ups", &[12, 2], 100_000),
        ("connections out", b"\x27\x07ws://a/\0\0\0\x0a\0\0\0\0", 100_000),
        ("a header map", &[b"\x27\x07ws://a/", &huge[..], b"\x01a\x00"].concat(), 1),
        ("subprotocols", &[b"\x27\x07ws://a/\0", &huge[..], b"\x01a"].concat(), 1),
        ("a url", &[b"\x27", &huge[..], b"ws://a/"].concat(), 1),
        ("a read", &[&[60, 1], &huge[..], &[1], &huge[..]].concat(), 1),
    ] {
        let forged = [head, &entry.repeat(count)].concat();
        assert_eq!(replay(tape_of(&forged)), 0, "{what}");
    }
    // Each of these is looked for among all before it, where an application says them.
    let names: String = (10_000..90_000).map(|name| format!("\x05{name}")).collect();
    let subprotocols = [b"\x27\x07ws://a/\0\x80\xf1\x04", names.as_bytes(), b"\0\x0a\0\0\0\0"].concat();
    assert_eq!(replay(tape_of(&[head, &subprotocols].concat())), 0);
    // And a block that is not there.
    let mut claims = tape[..end].to_vec();
    claims.extend([0xff; 12]);
    assert_eq!(replay(claims), 0);
}
