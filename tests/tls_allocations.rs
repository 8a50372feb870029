//! Allocations of an echo over TLS: those of rustls, per record, and none of tickws.
//!
//! This test is a binary of its own, because it counts in the global allocator.
#![cfg(feature = "tls")]

#[path = "support/counting.rs"]
mod counting;
mod support;

use std::time::Duration;

use counting::{Counting, allocations};
use support::{
    Deadline, Harness, echo,
    raw::{self, Raw},
    tls,
};
use tickws::Server;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Of each record rustls allocates the plaintext that it has received, or the ciphertext that it
/// gives.
const PER_RECORD_IN: u64 = 1;
const PER_RECORD_OUT: u64 = 1;

/// The most allocations of one poll that reads and answers messages of this size, after a warm-up.
fn allocations_of_echoes(len: usize, messages: usize) -> u64 {
    let server = Server::builder().tls(tls::server()).bind_tls("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0];
    tls::note(addr);
    let mut h = Harness { server, addr, seen: Vec::new() };
    let mut raw = Raw::connect(addr);
    h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
    let message = raw::binary(&vec![7; len]).repeat(messages);
    let mut most = 0;
    for round in 0..40 {
        raw.write_some(&message).unwrap();
        let (mut got, mut taken) = (0, 0);
        let deadline = Deadline::new();
        while got < messages {
            let before = allocations();
            let tick = h.server.poll_for(Duration::from_micros(100)).unwrap();
            for event in &tick {
                echo(&mut h.server, event);
            }
            drop(tick);
            h.server.flush();
            taken += allocations() - before;
            raw.read_some();
            got += raw.take_frames().len();
            deadline.check("the echoes");
        }
        if round >= 10 {
            most = most.max(taken);
        }
    }
    most
}

#[test]
fn an_echo_allocates_what_rustls_allocates_per_record_and_no_more() {
    // One record in, one out.
    let small = allocations_of_echoes(100, 1);
    // The same two records, with many messages in each.
    let many = allocations_of_echoes(100, 50);
    // Four full records and the rest in each direction.
    let large = allocations_of_echoes(64 * 1024, 1);
    println!("{small} for a small message, {many} for fifty, {large} for one of 64 KiB");
    assert_eq!((small, many), (PER_RECORD_IN + PER_RECORD_OUT, PER_RECORD_IN + PER_RECORD_OUT));
    // A record may arrive in two reads, and its first part is kept then.
    assert!(large <= 5 * (PER_RECORD_IN + PER_RECORD_OUT) + 8, "{large}");
}
