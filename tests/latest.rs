//! Latest values, expiry and priority over real sockets, for a client that reads late.

mod support;

use std::{collections::BTreeMap, time::Duration};

use support::{Harness, Seen, raw};
use tickws::{OverflowPolicy, Prepared, Priority, SendOptions, Server};

const KEYS: u32 = 50;

/// Sends until the kernel's buffers are full and 100 kB wait in the outbox; gives the number of
/// messages sent.
fn fill_send_buffers(h: &mut Harness, id: tickws::ClientId) -> u32 {
    // More bytes than the socket buffers of any kernel hold.
    for number in 0..8_192 {
        if h.server.buffered(id) > 100_000 {
            // The kernel may resize its buffers for a while.
            h.settle();
            if h.server.buffered(id) > 100_000 {
                return number;
            }
        }
        h.server.send(id, plain(number)).unwrap();
        h.step();
    }
    panic!("128 MiB went to a client that reads nothing");
}

fn plain(number: u32) -> Vec<u8> {
    let mut bytes = vec![number as u8; 16 * 1024];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

#[test]
fn a_late_reader_gets_latest_values_and_all_other_messages() {
    let mut h = Harness::with(Server::builder().max_buffered(1 << 20).overflow(OverflowPolicy::DropNewest));
    let (mut slow, id) = h.connect();
    let mut number = fill_send_buffers(&mut h, id);
    let filled = number;

    let large = Prepared::new(vec![7; 5_000]);
    let before = h.server.stats();
    for round in 0..500 {
        for key in 0..KEYS {
            h.server.send_latest(id, key, format!("{key}:{round}").as_str()).unwrap();
        }
        h.server.send_latest(id, "map", &large).unwrap();
        if round % 100 == 0 {
            h.server.send(id, plain(number)).unwrap();
            number += 1;
        }
        h.step();
    }
    let stats = h.server.stats();
    let waiting = u64::from(KEYS) + 1;
    assert_eq!(stats.replaced - before.replaced, 499 * waiting);
    assert_eq!(stats.messages_out - before.messages_out, 500 * waiting + 5);
    // One message that has expired, and two of high priority.
    let expired = SendOptions::new().expires_in(Duration::ZERO);
    h.server.send_with(id, "expired", &expired).unwrap();
    let urgent = SendOptions::new().priority(Priority::High);
    for text in ["first", "second"] {
        h.server.send_with(id, text, &urgent).unwrap();
    }

    let (mut values, mut urgent, mut next, mut maps) = (BTreeMap::new(), Vec::new(), 0, 0);
    while next < number || values.len() < KEYS as usize || maps < 1 {
        let frame = h.frame(&mut slow);
        match frame.opcode {
            raw::BINARY if frame.payload.len() == 5_000 => {
                assert_eq!(frame.payload, [7; 5_000]);
                maps += 1;
            }
            raw::BINARY => {
                assert!(frame.payload == plain(next), "message {next} is not whole, or not the next");
                next += 1;
            }
            _ => {
                let text = String::from_utf8(frame.payload).unwrap();
                match text.split_once(':') {
                    Some((key, round)) => {
                        let key: u32 = key.parse().unwrap();
                        assert_eq!(
                            values.insert(key, round.to_owned()),
                            None,
                            "more than one value of a key"
                        );
                    }
                    // High-priority messages precede the bulk messages that had not begun to leave.
                    None => {
                        assert!(next < filled, "{text} arrived late");
                        urgent.push(text);
                    }
                }
            }
        }
    }
    assert!(values.values().all(|round| round == "499"), "{values:?}");
    assert_eq!(urgent, ["first", "second"]);
    assert_eq!(h.server.stats().expired, 1);
    h.until_seen("Drained", 1, |seen| *seen == Seen::Drained(id));
    assert_eq!(h.server.buffered(id), 0);
    assert_eq!(slow.take_frames(), []);
}

#[test]
fn a_prepared_message_works_with_every_send() {
    let mut h = Harness::new();
    let mut clients: Vec<_> = (0..3).map(|_| h.connect()).collect();
    for len in [0, 10, 1_019, 1_020, 1_021, 70_000] {
        let message = Prepared::new("x".repeat(len).as_str());
        assert_eq!(h.server.broadcast(&message).queued, 3);
        assert_eq!(h.server.broadcast_except(clients[0].1, message.clone()).queued, 2);
        for (_, id) in &clients {
            h.server.send(*id, &message).unwrap();
            h.server.send_latest(*id, 7, &message).unwrap();
            h.server.send_with(*id, message.clone(), &SendOptions::new()).unwrap();
        }
        for (who, (raw, _)) in clients.iter_mut().enumerate() {
            for _ in 0..if who == 0 { 4 } else { 5 } {
                assert_eq!(h.frame(raw), raw::Frame::new(raw::TEXT, "x".repeat(len)));
            }
        }
    }
    h.settle();
    assert!(clients.iter_mut().all(|(raw, _)| raw.take_frames().is_empty()));
}
