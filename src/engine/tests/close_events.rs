//! Law 6 (ARCHITECTURE.md) and the close handshake: one `Close` for each `Open`, nothing after it,
//! and stale ids reach no other client.

use std::io::ErrorKind;

use super::*;
use crate::{CloseCode, CloseError, NotConnectedError, SendError, id::Serial};

fn refused(peer: &mut Peer, status: u16) {
    peer.read(usize::MAX);
    assert_eq!(peer.parse(), []);
    assert_eq!(peer.status(), Some(status));
}

#[test]
fn sends_in_the_tick_of_a_close_precede_the_close_reply() {
    for code in [1000, 3000, 1005] {
        let mut host = Host::new(Config::default());
        let (mut peer, client) = host.open();
        peer.text("question");
        peer.close(code);
        peer.text("noise after the close frame");
        let tick = host.poll();
        for (from, _) in messages(&tick) {
            host.engine.send(from, "answer".into()).unwrap();
        }
        let reason = CloseReason::Peer { code: code.into(), text: String::new() };
        assert_eq!(closes(&tick), [(client, reason)]);
        host.engine.send(client, "goodbye".into()).unwrap();
        let closing = host.engine.close(client, CloseCode::NORMAL_CLOSURE, "", host.now);
        assert_eq!(closing, Err(CloseError::Closing(client)));
        host.engine.flush(host.now);
        assert_eq!(peer.frames(), [text("answer"), text("goodbye"), Frame::Close(code, String::new())]);
        assert_eq!(host.engine.send(client, "too late".into()), Err(SendError::NotConnected(client)));
        // RFC 6455 §7.1.1: the server closes TCP first.
        assert!(peer.at_end());
        peer.fin();
        assert_eq!(host.settle(), 0);
        assert!(!peer.was_aborted());
        host.check_empty();
    }
}

#[test]
fn half_closed_peer_gets_its_replies() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    peer.set_buffers(1_000, 500);
    peer.text("one");
    peer.text("two");
    peer.fin();
    let tick = host.poll();
    assert_eq!(messages(&tick).len(), 2);
    assert_eq!(closes(&tick), [(client, CloseReason::Eof)]);
    host.engine.send(client, (&[7; 3_000]).into()).unwrap();
    let mut frames = Vec::new();
    while host.settle() + peer.read(100) > 0 {
        frames.extend(peer.parse());
    }
    assert_eq!(frames, [Frame::Binary(vec![7; 3_000])]);
    assert!(peer.at_end());
    host.check_empty();
}

#[test]
fn stale_id_never_reaches_the_next_client_of_its_slot() {
    let mut host = Host::new(Config::default());
    let mut stale = Vec::new();
    for round in 0..20 {
        let (mut peer, client) = host.open();
        assert_eq!(client.index(), 0, "the slot is used again");
        let not = NotConnectedError(client);
        for old in &stale {
            let old: ClientId = *old;
            let engine = &mut host.engine;
            assert_eq!(engine.send(old, "psst".into()), Err(SendError::NotConnected(old)));
            assert_eq!(engine.ping(old, host.now), Err(SendError::NotConnected(old)));
            assert_eq!(engine.disconnect(old), Err(NotConnectedError(old)));
            assert_eq!(engine.pause_reading(old), Err(NotConnectedError(old)));
            assert_eq!(engine.resume_reading(old, host.now), Err(NotConnectedError(old)));
            assert_eq!(
                engine.set_overflow(old, crate::OverflowPolicy::DropNewest),
                Err(NotConnectedError(old))
            );
            let closing = engine.close(old, CloseCode::NORMAL_CLOSURE, "", host.now);
            assert_eq!(closing, Err(CloseError::NotConnected(old)));
            assert_eq!((engine.remote_addr(old), engine.rtt(old), engine.buffered(old)), (None, None, 0));
            assert_eq!((engine.is_open(old), engine.last_heard(old)), (false, None));
            assert!(old < client);
        }
        // Its old id stays in the ready list, the dirty list, or both.
        peer.text("x");
        host.engine.send(client, "y".into()).unwrap();
        if round % 2 == 0 {
            host.engine.disconnect(client).unwrap();
            assert_eq!(host.engine.disconnect(client), Err(not));
            assert_eq!(closes(&host.poll()), [(client, CloseReason::Disconnected)]);
        } else {
            peer.reset(true);
            assert_eq!(closes(&host.poll()), [(client, CloseReason::Io(ErrorKind::ConnectionReset))]);
        }
        stale.push(client);
        // The next id differs from this one only in the upper half of its serial.
        host.engine.next_serial = Serial::new(client.serial().get() + (1 << 32));
    }
    host.check_empty();
}

#[test]
fn reused_slot_keeps_its_turn_in_the_lists() {
    let mut host = Host::new(Config { event_budget: 1, ..Config::default() });
    let mut peers: Vec<_> = (0..5).map(|_| host.open()).collect();
    let mut seen = 0;
    for round in 0..200 {
        for (peer, _) in &mut peers {
            peer.text("a");
            peer.text("b");
        }
        // All clients are listed when one leaves, and a new one takes its slot at once.
        seen += messages(&host.poll()).len();
        let at = round % peers.len();
        let (_, gone) = peers.remove(at);
        host.engine.disconnect(gone).unwrap();
        let mut peer = host.connect();
        peer.handshake();
        let id = loop {
            let tick = host.poll();
            assert!(messages(&tick).iter().all(|(from, _)| *from != gone));
            seen += messages(&tick).len();
            let open =
                |event: Event<'_>| if let Event::Open { client, .. } = event { Some(client) } else { None };
            if let Some(id) = tick.iter().find_map(open) {
                break id;
            }
        };
        assert_eq!(id.index(), gone.index());
        peers.push((peer, id));
        host.check();
    }
    assert!(seen > 400);
    host.settle();
    assert!(host.engine.ready.is_empty() && host.engine.postponed.is_empty());
}

#[test]
fn local_close_waits_for_the_reply_and_drops_earlier_input() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    host.engine.send(client, "last".into()).unwrap();
    host.engine.close(client, CloseCode::from(4001), "kicked", host.now).unwrap();
    assert_eq!(host.engine.send(client, "no more".into()), Err(SendError::Closing(client)));
    assert_eq!(host.engine.ping(client, host.now), Err(SendError::Closing(client)));
    assert_eq!(host.engine.broadcast("no more".into(), None).queued, 0);
    assert_eq!(host.settle(), 0);
    peer.text("wait!");
    peer.ping(b"no pong after a close frame");
    assert_eq!(host.settle(), 0);
    assert_eq!(host.engine.client_count(), 1);
    peer.close(4001);
    let tick = host.poll();
    let reason = CloseReason::Local { code: CloseCode::from(4001), text: "kicked".into() };
    assert_eq!(closes(&tick), [(client, reason)]);
    assert_eq!(tick.len(), 1);
    host.settle();
    assert_eq!(peer.frames(), [text("last"), Frame::Close(4001, "kicked".into())]);
    peer.fin();
    host.settle();
    host.check_empty();
}

#[test]
fn close_with_an_invalid_code_or_reason_is_an_error() {
    let mut host = Host::new(Config::default());
    let (_peer, client) = host.open();
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000] {
        let closing = host.engine.close(client, code.into(), "", host.now);
        assert_eq!(closing, Err(CloseError::InvalidCode(code.into())));
    }
    let closing = host.engine.close(client, CloseCode::NORMAL_CLOSURE, &"x".repeat(124), host.now);
    assert_eq!(closing, Err(CloseError::ReasonTooLong(124)));
    assert_eq!(host.engine.close(client, CloseCode::NORMAL_CLOSURE, &"x".repeat(123), host.now), Ok(()));
}

#[test]
fn reset_is_reported_after_earlier_messages() {
    // The rest is read at once, carried over by the event budget, or found by a failed write.
    for (event_budget, write_first) in [(16, false), (1, false), (16, true), (1, true)] {
        let mut host = Host::new(Config { event_budget, ..Config::default() });
        let (mut peer, client) = host.open();
        (0..5).for_each(|number| peer.text(&number.to_string()));
        let mut got = messages(&host.poll());
        peer.reset(false);
        if write_first {
            host.engine.send(client, "into the void".into()).unwrap();
            host.engine.flush(host.now);
        }
        let mut ends = Vec::new();
        while ends.is_empty() {
            let tick = host.poll();
            host.check();
            assert!(!tick.is_empty());
            got.extend(messages(&tick));
            ends = closes(&tick);
        }
        assert_eq!(got.len(), 5);
        assert_eq!(ends, [(client, CloseReason::Io(ErrorKind::ConnectionReset))]);
        host.check_empty();
    }
}

#[test]
fn failed_connection_is_reported_while_paused() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    host.engine.pause_reading(client).unwrap();
    peer.text("unread");
    host.settle();
    peer.close_socket();
    assert_eq!(host.settle(), 0, "it is paused, after all");
    host.engine.send(client, "are you there?".into()).unwrap();
    host.settle();
    host.engine.send(client, "hello?".into()).unwrap();
    let mut ends = Vec::new();
    for _ in 0..3 {
        ends.extend(closes(&host.poll()));
    }
    assert!(matches!(ends[..], [(id, CloseReason::Io(_))] if id == client), "{ends:?}");
    host.check_empty();
}

#[test]
fn failed_connection_cannot_be_paused() {
    let mut host = Host::new(Config::default());
    let (peer, client) = host.open();
    peer.reset(true);
    host.engine.send(client, "are you there?".into()).unwrap();
    host.engine.flush(host.now);
    assert_eq!(host.engine.pause_reading(client), Ok(()));
    let mut ends = Vec::new();
    (0..3).for_each(|_| ends.extend(closes(&host.poll())));
    assert!(matches!(ends[..], [(id, CloseReason::Io(_))] if id == client), "{ends:?}");
}

#[test]
fn shutdown_closes_all_with_1001_and_reports_completion() {
    let mut host = Host::new(Config::default());
    let (mut open, one) = host.open();
    let (mut stubborn, two) = host.open();
    let (leaving, _) = host.open();
    leaving.fin();
    let _ = host.poll();
    let mut unfinished = host.connect();
    unfinished.raw(&Peer::REQUEST.as_bytes()[..50]);
    host.settle();
    assert!(!host.engine.is_drained());
    host.engine.send(one, "the last word".into()).unwrap();
    host.engine.shutdown(CloseCode::GOING_AWAY, "", 5 * SEC, host.now);
    host.engine.shutdown(CloseCode::NORMAL_CLOSURE, "", Duration::ZERO, host.now);
    let mut late = host.connect();
    late.handshake();
    host.settle();
    assert_eq!(open.frames(), [text("the last word"), Frame::Close(1001, String::new())]);
    assert_eq!(stubborn.frames(), [Frame::Close(1001, String::new())]);
    refused(&mut unfinished, 503);
    refused(&mut late, 503);
    open.close(1001);
    let tick = host.poll();
    assert_eq!(closes(&tick), [(one, CloseReason::Shutdown)]);
    host.settle();
    for peer in [&open, &unfinished, &late] {
        assert!(peer.at_end());
        peer.fin();
    }
    host.settle();
    assert_eq!((host.engine.connection_count(), host.engine.is_drained()), (1, false));
    host.advance(5 * SEC - MS);
    assert!(host.poll().is_empty());
    assert_eq!(host.engine.next_timeout(host.now), Some(MS));
    host.advance(MS);
    let tick = host.poll();
    assert_eq!(closes(&tick), [(two, CloseReason::Shutdown)]);
    assert!(host.engine.is_drained());
    assert_eq!((host.engine.stats().closed.shutdown, host.engine.stats().rejected.at_capacity), (2, 2));
    host.check_empty();
}

#[test]
fn shutdown_replaces_an_invalid_code_by_1001() {
    let mut host = Host::new(Config::default());
    let (mut peer, _) = host.open();
    host.engine.shutdown(CloseCode::ABNORMAL_CLOSURE, "", SEC, host.now);
    host.settle();
    assert_eq!(peer.frames(), [Frame::Close(1001, String::new())]);
    peer.close(1001);
    peer.fin();
    host.settle();
    assert!(host.engine.is_drained());
    host.check_empty();
}

#[test]
fn full_server_sends_503_to_a_limited_number() {
    let mut host = Host::new(Config { max_connections: Some(2), ..Config::default() });
    let (_first, client) = host.open();
    let (_second, _) = host.open();
    let mut more: Vec<Peer> = (0..70).map(|_| host.connect()).collect();
    more.iter_mut().for_each(Peer::handshake);
    host.settle();
    for peer in &mut more[..64] {
        refused(peer, 503);
        peer.fin();
    }
    assert!(more[64..].iter().all(|peer| peer.is_dropped()), "a crowd is not even answered");
    assert_eq!(host.engine.stats().rejected.at_capacity, 70);
    host.settle();
    assert_eq!(host.engine.connection_count(), 2);
    host.engine.disconnect(client).unwrap();
    host.settle();
    host.open();
    host.check();
}

#[test]
fn failed_handshakes_are_counted_by_reason() {
    let mut host = Host::new(Config::default());
    let gone = host.connect();
    gone.raw(b"GET / HT");
    gone.fin();
    let reset = host.connect();
    reset.reset(true);
    let mut plain = host.connect();
    plain.raw(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let mut foreign = host.connect();
    foreign.raw(Peer::REQUEST.replace("Upgrade:", "Origin: https://evil.example\r\nUpgrade:").as_bytes());
    let mut eager = host.connect();
    eager.handshake();
    eager.text("before the answer");
    assert_eq!(host.settle(), 0);
    refused(&mut plain, 426);
    assert!(std::str::from_utf8(plain.rest()).unwrap().contains("ws://"));
    refused(&mut foreign, 403);
    refused(&mut eager, 400);
    for peer in [&plain, &foreign, &eager] {
        assert!(peer.at_end() && !peer.is_dropped());
        peer.fin();
    }
    host.settle();
    let rejected = host.engine.stats().rejected;
    assert_eq!((rejected.gone, rejected.not_an_upgrade, rejected.origin, rejected.bad_request), (2, 1, 1, 1));
    assert_eq!(rejected.total(), 5);
    host.check_empty();
}

#[test]
fn broken_connection_is_read_first_after_a_host_pause() {
    let mut host = Host::new(Config::default());
    let (mut peer, id) = host.open();
    peer.text("last words");
    // The last messages have arrived but are unread when a write fails.
    assert_eq!(host.poll().len(), 1);
    peer.text("the very last");
    host.deliver_all();
    peer.reset(false);
    host.engine.send(id, crate::Message::Text("hello?").into()).unwrap();
    host.engine.flush(host.now);
    host.advance(30 * SEC);
    let tick = host.poll();
    assert_eq!(messages(&tick), [(id, b"the very last".to_vec())]);
    let mut ends = closes(&tick);
    ends.extend(closes(&host.poll()));
    assert!(matches!(&ends[..], [(closed, CloseReason::Io(_))] if *closed == id), "{ends:?}");
}
