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
use tickws::{Event, Server, ServerBuilder};

const MB: usize = 1 << 20;

fn served(builder: ServerBuilder) -> Harness {
    tls::served(builder, tls::server())
}

#[test]
fn handshakes_that_stop_at_any_step_are_dropped_at_the_deadline() {
    let mut h = served(Server::builder().handshake_timeout(Duration::from_millis(400)));
    let hello = tls::hello();
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
fn clients_that_hold_much_of_incomplete_records_are_closed_at_the_memory_limit() {
    let mut h = served(Server::builder().max_total_buffered(MB));
    let (mut healthy, id) = h.connect();
    let part = [&[23, 3, 3, 0x40, 0][..], &[0; 16_000]].concat();
    let holders: Vec<_> = (0..80).map(|_| h.connect()).collect();
    // Together they would hold more than the limit.
    for (raw, _) in &holders {
        raw.stream().try_clone().unwrap().write_all(&part).unwrap();
    }
    let shed = |h: &Harness| h.server.stats().closed.shed as usize;
    h.poll_until("some to be closed", |h, _| shed(h) > 0);
    h.poll_until("the pressure to fall", |h, _| h.server.stats().buffered <= MB as u64 / 4 * 3);
    healthy.write_some(&raw::text("still here")).unwrap();
    h.poll_until("the message", |_, tick| {
        tick.iter().any(|event| matches!(event, Event::Message { client, .. } if client == id))
    });
    assert!(shed(&h) < holders.len());
}

#[test]
fn a_storm_of_hellos_delays_no_established_client_by_more_than_a_few_handshakes() {
    let mut h = served(Server::builder());
    let (mut healthy, _) = h.connect();
    let hello = tls::hello();
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
    let hello = tls::hello();
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
    let hello = tls::hello();
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
    let mut hello = tls::hello();
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
    let hello = tls::hello();
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
