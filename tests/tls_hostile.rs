//! Hostile peers of TLS: handshakes that never end, storms of them, and records that no peer sends.
#![cfg(all(feature = "tls", target_os = "linux"))]

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use support::{
    Deadline, Harness,
    raw::{self, Raw},
    tls::{self, plain},
};
use tickws::{Event, Server, ServerBuilder, tls::rustls_0_23::rustls::ClientConnection};

/// Half-done handshakes of one attacker.
const CROWD: usize = 9_000;

const MB: usize = 1 << 20;

fn served(builder: ServerBuilder) -> Harness {
    tls::served(builder, tls::server())
}

fn client() -> ClientConnection {
    ClientConnection::new(tls::client(), "localhost".try_into().unwrap()).unwrap()
}

fn hello() -> Vec<u8> {
    let mut hello = Vec::new();
    client().write_tls(&mut hello).unwrap();
    hello
}

/// The resident memory of this process in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn handshakes_that_stop_at_any_step_are_dropped_at_the_deadline() {
    let mut h = served(Server::builder().handshake_timeout(Duration::from_millis(400)));
    let hello = hello();
    let mut raws = vec![plain(&h)];
    for end in [1, 4, 5, 6, hello.len() / 2, hello.len() - 1, hello.len()] {
        let mut raw = plain(&h);
        h.write(&mut raw, &hello[..end]);
        raws.push(raw);
    }
    // A complete handshake, of which only the request does not come: the deadline is for both.
    let mut silent = Raw::connect(h.addr);
    h.write(&mut silent, b"GET ");
    raws.push(silent);
    let count = raws.len() as u64;
    h.until("all to be dropped", |h| h.server.stats().rejected.timeout == count);
    for mut raw in raws {
        h.until("the end", |_| {
            raw.read_some();
            raw.end.is_some()
        });
    }
    assert_eq!(h.server.next_timeout(), None, "no deadline is left");
    assert_eq!((h.server.stats().buffered, h.seen.len()), (0, 0));
}

#[test]
fn a_crowd_of_half_done_handshakes_stays_within_the_memory_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit, maximum: limit },
    )
    .unwrap();
    // Each end of a connection takes a descriptor.
    let crowd = CROWD.min((limit.unwrap_or(u64::MAX) as usize - 200) / 2);
    let mut h = served(Server::builder().max_total_buffered(32 * MB));
    let (mut healthy, id) = h.connect();
    let before = resident();
    let hello = hello();
    let mut attackers = Vec::with_capacity(crowd);
    let mut longest = 0;
    while attackers.len() < crowd {
        let mut stream = TcpStream::connect(h.addr).unwrap();
        // A connection above the limit may be reset at once.
        let _ = stream.write_all(&hello);
        attackers.push(stream);
        // The memory pressure is reported, too.
        let _ = h.server.poll_once().unwrap();
        longest = longest.max(h.server.stats().buffered as usize);
        assert!(longest <= 32 * MB);
    }
    let deadline = Deadline::new();
    while h.server.next_timeout() == Some(Duration::ZERO) {
        let _ = h.server.poll_once().unwrap();
        deadline.check("the hellos to be handled");
    }
    let grown = resident().saturating_sub(before);
    println!("{crowd} half-done handshakes: {longest} bytes counted, {grown} more resident");
    // The client that was there before is served as ever.
    healthy.write_some(&raw::text("still here")).unwrap();
    let mut heard = false;
    while !heard {
        let tick = h.server.poll_for(Duration::from_millis(1)).unwrap();
        heard = tick.iter().any(|event| matches!(event, Event::Message { client, .. } if client == id));
        deadline.check("the message");
    }
    let stats = h.server.stats();
    assert!(stats.rejected.overloaded > crowd as u64 / 2, "{:?}", stats.rejected);
    assert!(longest > 16 * MB, "there was no load: {longest}");
    assert!(grown < 32 * MB + 64 * MB, "{grown}");
    drop(attackers);
    while h.server.stats().buffered > MB as u64 {
        let _ = h.server.poll_for(Duration::from_millis(1)).unwrap();
        deadline.check("the attackers to be gone");
    }
}

#[test]
fn a_storm_of_hellos_delays_no_established_client_by_more_than_a_few_handshakes() {
    let mut h = served(Server::builder());
    let (mut healthy, _) = h.connect();
    let hello = hello();
    let mut storm: Vec<_> = (0..256).map(|_| TcpStream::connect(h.addr).unwrap()).collect();
    h.until("all to be accepted", |h| h.server.stats().accepted == 257);
    h.settle();
    storm.iter_mut().for_each(|stream| stream.write_all(&hello).unwrap());
    let mut order = Vec::new();
    let mut polls = 0;
    while order.len() < storm.len() {
        healthy.write_some(&raw::text("tick")).unwrap();
        let tick = h.server.poll_once().unwrap();
        // The message of the established client is in the same tick as ever.
        let messages = tick.iter().filter(|event| matches!(event, Event::Message { .. })).count();
        assert_eq!(messages, 1, "in poll {polls}");
        assert!(tick.more() || order.len() + 4 >= storm.len(), "the next poll goes on");
        polls += 1;
        let before = order.len();
        for (number, stream) in storm.iter().enumerate() {
            stream.set_nonblocking(true).unwrap();
            if !order.contains(&number) && stream.peek(&mut [0]).is_ok() {
                order.push(number);
            }
        }
        assert!(order.len() - before <= 4, "at most tls_handshakes_per_poll in a poll");
    }
    // Oldest first: each group of four is of the next four.
    for (at, number) in order.iter().enumerate() {
        assert!(number.abs_diff(at) < 4, "{order:?}");
    }
    assert!((64..=80).contains(&polls), "{polls}");
}

#[test]
fn a_storm_of_hellos_delays_no_established_client_with_a_time_budget() {
    // The shortest budget: each poll does one step of each kind.
    let mut h = served(Server::builder().time_budget(Some(Duration::from_nanos(1))));
    let (mut healthy, _) = h.connect();
    let hello = hello();
    let mut storm: Vec<_> = (0..64).map(|_| TcpStream::connect(h.addr).unwrap()).collect();
    h.until("all to be accepted", |h| h.server.stats().accepted == 65);
    h.settle();
    storm.iter_mut().for_each(|stream| stream.write_all(&hello).unwrap());
    for poll in 0..storm.len() {
        healthy.write_some(&raw::text("tick")).unwrap();
        let tick = h.server.poll_once().unwrap();
        let messages = tick.iter().filter(|event| matches!(event, Event::Message { .. })).count();
        assert_eq!(messages, 1, "in poll {poll}");
    }
    h.settle();
    for stream in &storm {
        assert!(stream.peek(&mut [0]).is_ok(), "each hello is answered");
    }
}

/// Sends the client's side of a handshake, and then `records` in its place of data.
fn after_handshake(h: &mut Harness, records: &[u8]) -> Raw {
    let mut raw = Raw::connect(h.addr);
    h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
    raw.stream().try_clone().unwrap().write_all(records).unwrap();
    raw
}

#[test]
fn records_that_no_peer_sends_end_their_own_connection() {
    let mut h = served(Server::builder());
    let (mut healthy, id) = h.connect();
    let record =
        |kind: u8, len: usize| [&[kind, 3, 3][..], &(len as u16).to_be_bytes(), &vec![7; len]].concat();
    let hello = hello();
    // In place of a hello.
    for bytes in [
        record(23, 40),
        record(22, 0),
        record(22, 17_000),
        record(20, 1),
        record(21, 2),
        [&[22, 3, 1, 0, 4][..], &[1, 0xff, 0xff, 0xff]].concat(),
        [&[0x80, 0x2e, 1, 3, 1][..], &[0; 60]].concat(),
        vec![22; 70_000],
        hello.repeat(2),
    ] {
        let mut raw = plain(&h);
        let _ = raw.write_some(&bytes);
        h.until("the end", |_| {
            raw.read_some();
            raw.end.is_some()
        });
    }
    // In place of data.
    for bytes in
        [record(23, 0), record(23, 16_900), record(22, 40), record(21, 2), record(20, 1), record(99, 9)]
    {
        let opened = h.server.stats().opened;
        let mut raw = after_handshake(&mut h, &bytes);
        assert_eq!(h.server.stats().opened, opened + 1);
        h.until("the end", |_| {
            raw.read_some();
            raw.end.is_some()
        });
    }
    h.write(&mut healthy, &raw::text("still here"));
    h.until("the message", |h| !h.texts(id).is_empty());
    assert_eq!(h.server.client_count(), 1);
    assert_eq!(h.server.stats().buffered, 0);
}

#[test]
fn a_flood_of_empty_records_and_warnings_is_bounded() {
    let mut h = served(Server::builder());
    let mut stream = TcpStream::connect(h.addr).unwrap();
    stream.set_nonblocking(true).unwrap();
    // CCS records are ignored during the handshake, but not without end (RFC 8446 §5).
    let flood = [20, 3, 3, 0, 1, 1].repeat(10_000);
    let mut hello = hello();
    hello.extend_from_slice(&flood);
    let deadline = Deadline::new();
    let mut at = 0;
    loop {
        match stream.write(&hello[at..]) {
            Ok(count) => at = (at + count) % hello.len(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        h.step();
        if matches!(stream.read(&mut [0; 4096]), Ok(0)) || h.server.stats().rejected.tls > 0 {
            break;
        }
        deadline.check("the end of the flood");
    }
    h.until("the failure", |h| h.server.stats().rejected.tls == 1);
}

/// A record costs the server as much as many bytes, so a poll reads fewer of them than its budget
/// has bytes.
#[test]
fn a_poll_reads_a_bounded_number_of_records_of_one_byte() {
    let mut h = served(Server::builder().read_budget(16 * 1024));
    let (mut raw, id) = h.connect();
    let message = "x".repeat(10_000);
    for byte in raw::text(&message) {
        h.write(&mut raw, &[byte]);
    }
    let mut before = h.server.stats().bytes_in;
    h.until("the message", |h| {
        let bytes = h.server.stats().bytes_in;
        assert!(bytes - before < 2000, "{} records in one poll", bytes - before);
        before = bytes;
        !h.texts(id).is_empty()
    });
    assert_eq!(h.texts(id), [message]);
}

/// Each piece of the message is a record of its own, so that the bytes are six times the message.
#[test]
fn a_hello_in_tiny_records_is_taken_and_an_endless_one_is_not() {
    let mut h = served(Server::builder());
    let hello = hello();
    let tiny =
        |message: &[u8]| -> Vec<u8> { message.iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect() };
    let mut raw = plain(&h);
    h.write(&mut raw, &tiny(&hello[5..]));
    h.until("the server's hello", |_| raw.read_some() > 0);
    // A message of 64 KiB that never ends.
    let endless = [&[1, 0, 0xff, 0xff][..], &vec![0; 60_000]].concat();
    let mut raw = plain(&h);
    let (bytes, mut at) = (tiny(&endless), 0);
    let deadline = Deadline::new();
    while h.server.stats().rejected.tls == 0 {
        at += raw.write_some(&bytes[at..]).unwrap_or(0);
        h.step();
        assert!(h.server.stats().buffered < MB as u64);
        deadline.check("the failure");
    }
    assert!(at < bytes.len() || at > 80_000);
}
