//! Clients that read late or never (law 2 in ARCHITECTURE.md: every queue has a cap, and every cap
//! a policy).

mod support;

use std::time::Duration;

use support::{Deadline, Harness, Seen, raw};
use tickws::{CloseReason, OverflowPolicy, SendError, Server, TimeoutKind};

const CHUNK: usize = 32 * 1024;
/// The cap of a client's outbox in these tests.
const CAP: usize = 256 * 1024;

/// A message that starts with its number.
fn chunk(number: u32) -> Vec<u8> {
    let mut bytes = vec![number as u8; CHUNK];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn check_chunk(bytes: &[u8]) -> u32 {
    let number = u32::from_be_bytes(bytes[..4].try_into().unwrap());
    assert!(bytes == chunk(number), "message {number} is not whole");
    number
}

/// Sends numbered chunks, one per poll, until `send` fails; gives the number of accepted ones and
/// the error.
fn fill(h: &mut Harness, id: tickws::ClientId) -> (u32, SendError) {
    // More bytes than the socket buffers of any kernel hold.
    for number in 0..4096 {
        if let Err(error) = h.server.send(id, chunk(number)) {
            return (number, error);
        }
        h.step();
    }
    panic!("128 MiB went to a client that reads nothing");
}

#[test]
fn a_client_that_never_reads_is_closed_at_max_buffered() {
    let close_timeout = Duration::from_millis(30);
    let mut h = Harness::with(Server::builder().max_buffered(CAP).close_timeout(close_timeout));
    let (mut good, good_id) = h.connect();
    let (_slow, id) = h.connect();
    let (sent, error) = fill(&mut h, id);
    assert_eq!(error, SendError::Overflow(id));
    assert!(sent as usize * CHUNK >= CAP, "{sent} messages are less than the cap");
    assert_eq!(h.server.send(id, "more"), Err(SendError::Closing(id)));
    assert_eq!(h.server.ping(id), Err(SendError::Closing(id)));
    assert_eq!(h.close_reason(id), CloseReason::Overflow);
    h.step();
    assert_eq!(h.server.send(id, "more"), Err(SendError::NotConnected(id)));
    assert_eq!(h.server.stats().closed.overflow, 1);

    h.server.send(good_id, "still here").unwrap();
    assert_eq!(h.frame(&mut good).payload, b"still here");
}

#[test]
fn an_overflowed_client_gets_its_queue_and_then_1013() {
    let mut h = Harness::with(Server::builder().max_buffered(CAP));
    let (mut slow, id) = h.connect();
    let (sent, error) = fill(&mut h, id);
    assert_eq!(error, SendError::Overflow(id));
    for number in 0..sent {
        let frame = h.frame(&mut slow);
        assert_eq!((frame.opcode, check_chunk(&frame.payload)), (raw::BINARY, number));
    }
    let close = h.frame(&mut slow);
    assert_eq!((close.opcode, &close.payload[..2]), (raw::CLOSE, &1013u16.to_be_bytes()[..]));
    h.write(&mut slow, &raw::close(1013, ""));
    assert_eq!(h.close_reason(id), CloseReason::Overflow);
    assert_eq!(h.read_to_end(&mut slow), b"");
}

#[test]
fn drop_newest_keeps_the_client_and_reports_drained() {
    let builder = Server::builder().max_buffered(CAP).overflow(OverflowPolicy::DropNewest);
    let mut h = Harness::with(builder);
    let (mut slow, id) = h.connect();
    let (sent, error) = fill(&mut h, id);
    assert_eq!(error, SendError::Dropped(id));
    assert_eq!(h.server.stats().dropped, 1);
    let full = h.server.buffered(id);
    assert!(full > CAP - CHUNK - 16 && full <= CAP, "{full} bytes are buffered");
    // A small message still fits: the cap counts bytes.
    h.server.send(id, "small").unwrap();
    assert_eq!(h.server.buffered(id), full + 7);
    assert_eq!(h.server.broadcast(chunk(7)).dropped, 1);
    h.settle();
    assert!(!h.seen.contains(&Seen::Drained(id)), "nothing was read yet");

    // Every accepted message arrives once, whole and in order; a dropped one does not.
    for number in 0..sent {
        assert_eq!(check_chunk(&h.frame(&mut slow).payload), number);
    }
    assert_eq!(h.frame(&mut slow), raw::Frame::new(raw::TEXT, "small"));
    h.until_seen("Drained", 1, |seen| *seen == Seen::Drained(id));
    assert_eq!(h.server.buffered(id), 0);

    h.server.send(id, "and on it goes").unwrap();
    assert_eq!(h.frame(&mut slow).payload, b"and on it goes");
    h.settle();
    assert_eq!(h.seen.iter().filter(|seen| **seen == Seen::Drained(id)).count(), 1);
    assert_eq!(h.closes(id).next(), None);
}

#[test]
fn drained_also_follows_a_drop_within_one_tick() {
    let mut h = Harness::with(Server::builder().max_buffered(1000).overflow(OverflowPolicy::DropNewest));
    let (mut raw, id) = h.connect();
    h.server.send(id, [1; 900]).unwrap();
    assert_eq!(h.server.send(id, [2; 900]), Err(SendError::Dropped(id)));
    // An application that was told of a drop waits for `Drained` before it sends more.
    h.until_seen("Drained", 1, |seen| *seen == Seen::Drained(id));
    assert_eq!(h.frame(&mut raw).payload, [1; 900]);
}

#[test]
fn set_overflow_applies_to_one_client() {
    let mut h = Harness::with(Server::builder().max_buffered(CAP));
    let (_tolerated, tolerated) = h.connect();
    let (_other, other) = h.connect();
    h.server.set_overflow(tolerated, OverflowPolicy::DropNewest).unwrap();
    assert_eq!(fill(&mut h, tolerated).1, SendError::Dropped(tolerated));
    assert_eq!(fill(&mut h, other).1, SendError::Overflow(other));
    h.server.set_overflow(tolerated, OverflowPolicy::Disconnect).unwrap();
    assert_eq!(h.server.send(tolerated, chunk(0)), Err(SendError::Overflow(tolerated)));
    assert_eq!(h.server.clients().count(), h.server.client_count());
}

#[test]
fn a_full_client_does_not_block_a_broadcast() {
    let mut h = Harness::with(Server::builder().max_buffered(CAP));
    let (_slow, slow) = h.connect();
    let (mut good, _) = h.connect();
    let (mut overflowed, mut received) = (0, 0);
    for number in 0..4096 {
        let delivery = h.server.broadcast(chunk(number));
        overflowed += delivery.overflowed;
        assert_eq!(check_chunk(&h.frame(&mut good).payload), number);
        received += 1;
        if overflowed > 0 {
            assert_eq!(delivery.queued, 1);
            break;
        }
        assert_eq!(delivery.queued, 2);
    }
    assert!(overflowed == 1 && received > 8, "{overflowed} {received}");
    assert_eq!(h.close_reason(slow), CloseReason::Overflow);
    assert_eq!(h.server.broadcast("x").queued, 1, "a closing client is skipped");
}

#[test]
fn a_message_above_max_buffered_is_an_error() {
    let mut h = Harness::with(Server::builder().max_buffered(1000));
    let (mut raw, id) = h.connect();
    // The header takes four bytes.
    assert_eq!(h.server.send(id, [0; 997]), Err(SendError::TooLarge { len: 1001, max: 1000 }));
    assert_eq!(h.server.buffered(id), 0);
    h.server.send(id, [7; 996]).unwrap();
    assert_eq!(h.server.buffered(id), 1000);
    assert_eq!(h.frame(&mut raw).payload, [7; 996]);
    assert_eq!(h.server.buffered(id), 0);
    let delivery = h.server.broadcast([0; 997]);
    assert_eq!((delivery.queued, delivery.dropped, delivery.overflowed), (0, 1, 0));
}

#[test]
fn a_client_that_reads_nothing_is_closed_at_write_timeout() {
    let mut h =
        Harness::with(Server::builder().write_timeout(Duration::from_millis(50)).max_buffered(64 << 20));
    let (_slow, id) = h.connect();
    for number in 0..2000 {
        if h.server.send(id, chunk(number)).is_err() {
            break;
        }
        if number % 64 == 0 {
            h.step();
        }
    }
    assert_eq!(h.close_reason(id), CloseReason::Timeout(TimeoutKind::Write));
    assert_eq!(h.server.stats().closed.write_timeout, 1);
}

#[test]
fn pongs_precede_queued_data() {
    let builder = Server::builder().max_buffered(CAP).overflow(OverflowPolicy::DropNewest);
    let mut h = Harness::with(builder);
    let (mut slow, id) = h.connect();
    let (sent, _) = fill(&mut h, id);
    let pings = [raw::masked(true, raw::PING, b"first"), raw::masked(true, raw::PING, b"second")].concat();
    let before = h.server.stats().bytes_in;
    h.write(&mut slow, &pings);
    h.until("both pings", |h| h.server.stats().bytes_in == before + pings.len() as u64);
    let (mut pongs, mut data_after, mut number) = (Vec::new(), 0, 0);
    while number < sent {
        let frame = h.frame(&mut slow);
        if frame.opcode == raw::PONG {
            pongs.push(frame.payload);
        } else {
            assert_eq!(check_chunk(&frame.payload), number);
            number += 1;
            data_after += u32::from(!pongs.is_empty());
        }
    }
    assert_eq!(pongs, [b"second"], "only the newest of the queued pongs is sent (RFC 6455 §5.5.3)");
    assert!(data_after > 0, "the pong was sent after all data");
}

#[test]
fn pings_count_towards_max_buffered() {
    let mut h = Harness::with(Server::builder().max_buffered(1000));
    let (mut raw, id) = h.connect();
    for _ in 0..100_000 {
        h.server.ping(id).unwrap();
    }
    assert!(h.server.buffered(id) <= 1000, "{} bytes of pings", h.server.buffered(id));
    h.server.send(id, "there is still room").unwrap();
    h.server.flush();
    // All pings that were queued arrive before the text.
    while h.frame(&mut raw).opcode != raw::TEXT {}
}

#[test]
fn the_101_does_not_count_towards_max_buffered() {
    let mut h = Harness::with(Server::builder().max_buffered(100));
    let mut raw = h.dial();
    h.write(&mut raw, raw::upgrade_request("/", "").as_bytes());
    let message = [7; 98];
    let (mut outcome, deadline) = (None, Deadline::new());
    while outcome.is_none() {
        for event in &h.server.poll_once().unwrap() {
            if let tickws::Event::Open { client, .. } = event {
                outcome = Some(h.server.send(client, message));
            }
        }
        deadline.check("the upgrade");
    }
    assert_eq!(outcome, Some(Ok(())));
    assert!(h.head(&mut raw).starts_with("HTTP/1.1 101 "));
    assert_eq!(h.frame(&mut raw).payload, message);
}

/// Counts the bytes that the kernel accepts for a client that reads nothing.
fn taken_by_the_kernel(builder: tickws::ServerBuilder) -> usize {
    let mut h = Harness::with(builder.max_buffered(64 << 20));
    let (_slow, id) = h.connect();
    let mut sent = 0;
    while h.server.buffered(id) < 1 << 20 {
        h.server.send(id, chunk(0)).unwrap();
        sent += CHUNK;
        h.step();
        assert!(sent < 48 << 20, "the kernel takes everything");
    }
    h.settle();
    sent - h.server.buffered(id)
}

#[test]
fn a_small_send_buffer_bounds_bytes_in_the_kernel() {
    let small = taken_by_the_kernel(Server::builder().send_buffer(16 * 1024));
    let large = taken_by_the_kernel(Server::builder().send_buffer(256 * 1024));
    assert!(2 * small < large, "{small} bytes of 16 KiB, {large} of 256 KiB");
    if cfg!(target_os = "linux") {
        // A buffer that the system tunes grows, here to megabytes.
        let default = taken_by_the_kernel(Server::builder().send_buffer(None));
        assert!(2 * small < default, "{small} bytes of 16 KiB, {default} by default");
    }
}
