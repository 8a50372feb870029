//! The counters of one client: exact on every path of input and output.

mod support;

use std::time::Duration;

use support::{Harness, raw};
use tickws::{SendOptions, Server};

#[track_caller]
fn check(h: &Harness, client: tickws::ClientId) {
    let (own, all) = (h.server.client_stats(client).unwrap(), h.server.stats());
    // This client has been the only one of the server.
    assert_eq!((own.messages_in, own.messages_out), (all.messages_in, all.messages_out));
    assert_eq!((own.bytes_in, own.bytes_out), (all.bytes_in, all.bytes_out));
    assert_eq!((own.buffered, own.rtt), (h.server.buffered(client), h.server.rtt(client)));
    assert_eq!(Some(own.last_heard), h.server.last_heard(client));
}

#[test]
fn counters_of_an_only_client_equal_those_of_the_server() {
    let mut h = Harness::with(Server::builder().max_message_size(4 << 20).max_buffered(4 << 20));
    let before = h.server.now();
    let (mut raw, client) = h.connect();
    check(&h, client);
    let opened = h.server.client_stats(client).unwrap();
    assert!(opened.opened >= before && opened.opened <= h.server.now());
    assert_eq!((opened.messages_in, opened.messages_out), (0, 0));

    // Short messages, an empty one, one in fragments with a ping between them, large ones.
    let large = vec![7; 1 << 20];
    let mut input = [raw::text("a"), raw::binary(b""), raw::text(&"b".repeat(300))].concat();
    input.extend(raw::masked(false, 1, b"in "));
    input.extend(raw::masked(true, 9, b"ping"));
    input.extend(raw::masked(true, 0, b"pieces"));
    input.extend(raw::binary(&large));
    input.extend(raw::binary(&[8; 20_000]));
    let inbound = input.len() as u64;
    h.write(&mut raw, &input);
    while h.server.client_stats(client).unwrap().messages_in < 6 {
        h.step();
        check(&h, client);
    }
    let stats = h.server.client_stats(client).unwrap();
    assert_eq!((stats.messages_in, stats.bytes_in - opened.bytes_in), (6, inbound));

    // A queued message, a large one that is written at once, a batch of broadcasts, replaced ones.
    h.server.send(client, "short").unwrap();
    h.server.send(client, &large).unwrap();
    check(&h, client);
    for text in ["x", "y", "z"] {
        let _ = h.server.broadcast(text);
        check(&h, client);
    }
    let latest = SendOptions::new().latest(1);
    for text in ["old", "new"] {
        h.server.send_with(client, text, &latest).unwrap();
    }
    check(&h, client);
    assert_eq!(h.server.client_stats(client).unwrap().messages_out, 7);
    while h.server.buffered(client) > 0 {
        h.step();
        raw.read_some();
        check(&h, client);
    }
    let stats = h.server.client_stats(client).unwrap();
    // The pong and the frames, without the message that was replaced.
    let frames = (2 + 4) + (2 + 5) + (10 + large.len()) + 3 * (2 + 1) + (2 + 3);
    assert_eq!(stats.bytes_out - opened.bytes_out, frames as u64);

    raw.half_close();
    h.close_reason(client);
    assert_eq!(h.server.client_stats(client), None);
}

#[test]
fn clients_are_counted_apart_and_a_reused_slot_begins_at_zero() {
    let mut h = Harness::new();
    let (mut raw, first) = h.connect();
    let (_other, second) = h.connect();
    h.write(&mut raw, &raw::text("hello"));
    h.until("the message", |h| h.server.client_stats(first).unwrap().messages_in == 1);
    h.server.send(second, "hello").unwrap();
    let count = |h: &Harness, client| {
        let stats = h.server.client_stats(client).unwrap();
        (stats.messages_in, stats.messages_out)
    };
    assert_eq!((count(&h, first), count(&h, second)), ((1, 0), (0, 1)));
    h.server.disconnect(first).unwrap();
    h.step();
    let (_raw, third) = h.connect();
    assert_eq!((third.index(), count(&h, third)), (first.index(), (0, 0)));
    assert!(h.server.client_stats(third).unwrap().bytes_in < 1_000);
    let age = h.server.now().saturating_duration_since(h.server.client_stats(third).unwrap().opened);
    assert!(age < Duration::from_secs(60));
}
