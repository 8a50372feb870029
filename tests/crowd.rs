//! A thousand clients at once, each of whose messages is broadcast to all.

mod support;

use support::{Deadline, Harness, Seen, raw};
use tickws::Event;

const CLIENTS: usize = 1000;
const MESSAGES: usize = 2;

/// A payload of 16 bytes: the sender, the number, and both again inverted.
fn payload(sender: usize, number: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&(sender as u32).to_be_bytes());
    bytes[4..8].copy_from_slice(&(number as u32).to_be_bytes());
    bytes[8..12].copy_from_slice(&(!sender as u32).to_be_bytes());
    bytes[12..].copy_from_slice(&(!number as u32).to_be_bytes());
    bytes
}

/// Checks a payload and gives its sender and number.
fn read_payload(bytes: &[u8]) -> (usize, usize) {
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(bytes.len(), 16);
    assert_eq!((word(0), word(4)), (!word(8), !word(12)), "a torn message: {bytes:?}");
    (word(0) as usize, word(4) as usize)
}

#[test]
fn a_thousand_clients_broadcast_to_each_other() {
    raise_descriptor_limit(2 * CLIENTS as u64 + 200);
    let mut h = Harness::new();

    let request = raw::upgrade_request("/", "");
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut raw = h.dial();
        h.write(&mut raw, request.as_bytes());
        clients.push(raw);
        h.step();
    }
    h.until_seen("all to be open", CLIENTS, |seen| matches!(seen, Seen::Open(..)));
    assert_eq!(h.server.client_count(), CLIENTS);

    // All send at once; the broadcasts queue up in the server.
    for (sender, raw) in clients.iter_mut().enumerate() {
        for number in 0..MESSAGES {
            let frame = raw::binary(&payload(sender, number));
            assert_eq!(raw.write_some(&frame).unwrap(), frame.len());
        }
    }

    let mut heads = vec![false; CLIENTS];
    // Messages received so far: `counts[receiver][sender]`.
    let mut counts = vec![vec![0u8; CLIENTS]; CLIENTS];
    let mut delivered = 0;
    let deadline = Deadline::new();
    while delivered < CLIENTS * CLIENTS * MESSAGES {
        let tick = h.server.poll_once().unwrap();
        for event in &tick {
            match event {
                Event::Message { message, .. } => {
                    let delivery = h.server.broadcast(message);
                    assert_eq!((delivery.queued, delivery.dropped, delivery.overflowed), (CLIENTS, 0, 0));
                }
                other => panic!("unexpected event: {other:?}"),
            }
        }
        for (receiver, raw) in clients.iter_mut().enumerate() {
            if raw.read_some() == 0 && raw.input().is_empty() {
                continue;
            }
            if !heads[receiver] {
                heads[receiver] = raw.take_head().is_some();
            }
            while let Some(frame) = raw.take_frame() {
                assert_eq!(frame.opcode, raw::BINARY);
                let (sender, number) = read_payload(&frame.payload);
                let count = &mut counts[receiver][sender];
                assert_eq!(number, usize::from(*count), "{sender} to {receiver}: messages out of order");
                *count += 1;
                delivered += 1;
            }
        }
        deadline.check("all deliveries");
    }
    assert!(counts.iter().flatten().all(|count| usize::from(*count) == MESSAGES));
    let stats = h.server.stats();
    assert_eq!(stats.messages_in as usize, CLIENTS * MESSAGES);
    assert_eq!(stats.messages_out as usize, delivered);
    assert_eq!((stats.dropped, stats.open as usize), (0, CLIENTS));
}

/// Raises the soft limit, which is often 1,024: both ends of each connection are in this process.
#[cfg(unix)]
fn raise_descriptor_limit(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).expect("the hard limit allows it");
    }
}

#[cfg(not(unix))]
fn raise_descriptor_limit(_: u64) {}
