//! Many half-done TLS handshakes against the memory limit. The only test of its binary, because it
//! measures the memory of the process.
#![cfg(all(feature = "tls", target_os = "linux"))]

mod support;

use std::{
    env,
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{raw, resident, tls};
use tickws::{Event, Server};

/// Half-done handshakes of one attacker.
const CROWD: usize = 9_000;

/// Set in the environment of the process of the attackers: the address of the server.
const ATTACKED: &str = "TICKWS_TEST_ATTACKED";

const MB: usize = 1 << 20;

/// Raises the limit of descriptors of this process as far as it may, and returns it.
fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    limit.map_or(usize::MAX, |limit| limit as usize)
}

/// Sends a hello on each of many connections, and holds them until the standard input ends.
fn hold_half_done_handshakes(addr: &str, count: usize) {
    let hello = tls::hello();
    let attackers: Vec<_> = (0..count)
        .map(|_| {
            let mut stream = TcpStream::connect(addr).unwrap();
            // A connection above the limit may be reset at once.
            let _ = stream.write_all(&hello);
            stream
        })
        .collect();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(attackers);
}

/// The attackers are in a process of their own, so that what they hold is not measured.
#[test]
fn a_crowd_of_half_done_handshakes_stays_within_the_memory_limit() {
    let crowd = CROWD.min(raise_descriptor_limit() - 200);
    if let Ok(addr) = env::var(ATTACKED) {
        return hold_half_done_handshakes(&addr, crowd);
    }
    let mut h = tls::served(Server::builder().max_total_buffered(32 * MB), tls::server());
    let (mut healthy, id) = h.connect();
    let before = resident();
    let mut attack = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_crowd_of_half_done_handshakes_stays_within_the_memory_limit"])
        .env(ATTACKED, h.addr.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut longest = 0;
    h.poll_until("the hellos to be handled", |h, _| {
        longest = longest.max(h.server.stats().buffered as usize);
        assert!(longest <= 32 * MB, "{longest}");
        h.server.stats().accepted > crowd as u64 && h.server.next_timeout() != Some(Duration::ZERO)
    });
    let grown = resident().saturating_sub(before);
    println!("{crowd} half-done handshakes: {longest} bytes counted, {grown} more resident");
    // The client that was there before is served as ever.
    healthy.write_some(&raw::text("still here")).unwrap();
    h.poll_until("the message", |_, tick| {
        tick.iter().any(|event| matches!(event, Event::Message { client, .. } if client == id))
    });
    let stats = h.server.stats();
    assert!(stats.rejected.overloaded > crowd as u64 / 2, "{:?}", stats.rejected);
    assert_eq!(stats.reading_stops, 0, "connected clients are read all the time");
    assert!(longest > 16 * MB, "there was no load: {longest}");
    assert!(grown < 32 * MB, "{grown}");
    drop(attack.stdin.take());
    h.poll_until("the attackers to be gone", |h, _| h.server.stats().buffered <= MB as u64);
    assert!(attack.wait().unwrap().success());
}
