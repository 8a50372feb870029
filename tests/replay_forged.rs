//! Forged recordings with digests that match: a replay ends, and its memory is bounded.
//!
//! This file is a test binary of its own because it counts in the global allocator.
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
    sim::{NetworkConditions, Replay, Sim},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MS: Duration = Duration::from_millis(1);

/// The bytes that a replay may hold for each byte of its recording: an accepted connection takes
/// eight bytes there. Broadcasts to many and compressed messages are bounded by the limits in the
/// header.
const TIMES: usize = 256;
/// The bytes that a replay may hold besides: the block it reads, and two batches of random numbers.
const CONSTANT: usize = 1 << 20;

/// A file of one block.
fn file_of(block: &[u8]) -> Vec<u8> {
    let digest = block.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let len = (block.len() as u32).to_le_bytes();
    [b"tickws\0tape\x06", &len[..], &digest.to_le_bytes(), block].concat()
}

/// The contents of all blocks of a file.
fn content(recording: &[u8]) -> Vec<u8> {
    let (mut at, mut content) = (12, Vec::new());
    while at < recording.len() {
        let end = at + 12 + u32::from_le_bytes(recording[at..at + 4].try_into().unwrap()) as usize;
        content.extend_from_slice(&recording[at + 12..end]);
        at = end;
    }
    content
}

/// Replays to the end and gives the number of polls.
fn replay(recording: Vec<u8>) -> usize {
    let (len, mut polls) = (recording.len(), 0);
    let held = peak(|| {
        let Ok(mut replay) = Replay::new(io::Cursor::new(recording)) else { return };
        while let Ok(Some(_)) = replay.next_tick() {
            polls += 1;
        }
    });
    assert!(held <= CONSTANT + TIMES * len, "{held} bytes for {len}");
    assert!(polls <= len);
    polls
}

/// The recording of a server that does a bit of everything.
fn recording(seed: u64) -> Vec<u8> {
    let memory = Memory::new(usize::MAX);
    let sim = Sim::with_conditions(seed, NetworkConditions::foul());
    let mut server = sim.server(App::builder(seed).record(memory.clone())).unwrap();
    let mut other = sim.server(Server::builder()).unwrap();
    sim.name("other.example", other.local_addrs()[0]);
    let mut app = App::new(seed);
    app.dial(&mut server, "ws://other.example/x");
    let mut clients = ["/", "/?1", "/?22", "/"].map(|path| sim.connect(&server, path));
    for step in 0..40 {
        clients[step % 4].send(vec![1; step * step]);
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
fn replay_of_a_forged_recording_ends_within_its_memory() {
    let mut cut_short = 0;
    for seed in 0..30 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let recording = recording(seed);
        let polls = replay(recording.clone());
        assert!(polls >= 40, "{polls}");
        let content = content(&recording);
        for _ in 0..40 {
            let mut forged = content.clone();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..forged.len());
                let until = (at + rng.usize(..200)).min(forged.len());
                match rng.u8(..5) {
                    0 => forged[at] = rng.u8(..),
                    1 => forged[at] ^= 1 << rng.u8(..8),
                    2 => drop(forged.drain(at..until)),
                    3 => forged.extend_from_within(at..until),
                    _ => drop(forged.splice(at..at, vec![rng.u8(..); 9])),
                }
            }
            cut_short += usize::from(replay(file_of(&forged)) < polls);
        }
    }
    assert!(cut_short > 500, "{cut_short}");
}

#[test]
fn noise_is_refused() {
    let mut rng = fastrand::Rng::with_seed(1);
    for len in (0..2_000).chain([100_000, 1_000_000]) {
        let noise: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
        assert_eq!(replay(file_of(&noise)), 0);
        assert_eq!(replay(noise), 0);
    }
}

/// Each entry takes few bytes and asks for much, and is repeated.
#[test]
fn memory_is_not_allocated_by_claims() {
    let memory = Memory::new(usize::MAX);
    drop(Server::builder().record(memory.clone()).build().unwrap());
    let recording = memory.take();
    // The first block holds only the header.
    let end = 24 + u32::from_le_bytes(recording[12..16].try_into().unwrap()) as usize;
    let header = &recording[24..end];
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
        let forged = [header, &entry.repeat(count)].concat();
        assert_eq!(replay(file_of(&forged)), 0, "{what}");
    }
    // `Connect::subprotocols` would compare each name with all before it.
    let names: String = (10_000..90_000).map(|name| format!("\x05{name}")).collect();
    let subprotocols = [b"\x27\x07ws://a/\0\x80\xf1\x04", names.as_bytes(), b"\0\x0a\0\0\0\0"].concat();
    assert_eq!(replay(file_of(&[header, &subprotocols].concat())), 0);
    // The last block claims a length and has no content.
    let mut claims = recording[..end].to_vec();
    claims.extend([0xff; 12]);
    assert_eq!(replay(claims), 0);
}
