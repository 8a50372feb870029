//! An id never refers to a later connection, every `Open` has one `Close`, and the counters add up.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::{Harness, Seen, raw};
use tickws::{ClientId, CloseError, CloseReason, NotConnectedError, OverflowPolicy, SendError, Server};

/// Checks every call that takes an id.
fn assert_stale(h: &mut Harness, id: ClientId) {
    let server = &mut h.server;
    assert_eq!(server.send(id, "x"), Err(SendError::NotConnected(id)));
    assert_eq!(server.send(id, vec![0; 2 << 20]), Err(SendError::NotConnected(id)));
    assert_eq!(server.ping(id), Err(SendError::NotConnected(id)));
    assert_eq!(server.close(id, 1000, ""), Err(CloseError::NotConnected(id)));
    assert_eq!(server.disconnect(id), Err(NotConnectedError(id)));
    assert_eq!(server.set_overflow(id, OverflowPolicy::DropNewest), Err(NotConnectedError(id)));
    assert_eq!(server.pause_reading(id), Err(NotConnectedError(id)));
    assert_eq!(server.resume_reading(id), Err(NotConnectedError(id)));
    assert_eq!(server.remote_addr(id), None);
    assert_eq!(server.rtt(id), None);
    assert_eq!(server.buffered(id), 0);
    assert!(server.request(id).is_none());
    assert!(!server.clients().any(|client| client == id));
}

#[test]
fn a_stale_id_is_an_error_after_its_slot_is_reused() {
    let mut h = Harness::with(Server::builder().keep_requests(true));
    let (first, stale) = h.connect();
    drop(first);
    assert_eq!(h.close_reason(stale), CloseReason::Eof);
    h.settle();
    assert_stale(&mut h, stale);

    let (mut second, fresh) = h.connect();
    assert_eq!(fresh.index(), stale.index(), "this test needs the slot to be reused");
    assert_ne!(fresh, stale);
    assert!(fresh > stale, "ids order by age");
    assert_stale(&mut h, stale);
    assert_eq!(h.server.broadcast_except(stale, "to all").queued, 1, "a stale id excludes no client");
    assert_eq!(h.frame(&mut second).payload, b"to all");

    h.settle();
    second.read_some();
    assert_eq!((second.take_frames(), second.end), (vec![], None), "nothing reached the new client");
    assert_eq!(h.server.buffered(fresh), 0);
    assert!(h.server.request(fresh).is_some());
    assert_eq!(h.server.remote_addr(fresh), Some(second.local_addr().into()));
    h.write(&mut second, &raw::text("not paused"));
    h.until("a message", |h| h.texts(fresh) == ["not paused"]);
    assert_eq!(h.texts(stale), [""; 0]);
}

#[test]
fn broadcast_except_skips_the_given_client() {
    let mut h = Harness::new();
    let (mut first, first_id) = h.connect();
    let (mut second, _) = h.connect();
    let delivery = h.server.broadcast_except(first_id, "psst");
    assert_eq!((delivery.queued, delivery.dropped, delivery.overflowed), (1, 0, 0));
    assert_eq!(h.server.broadcast([1, 2]).queued, 2);
    assert_eq!(h.frame(&mut second), raw::Frame::new(raw::TEXT, "psst"));
    assert_eq!(h.frame(&mut second), raw::Frame::new(raw::BINARY, [1, 2]));
    assert_eq!(h.frame(&mut first), raw::Frame::new(raw::BINARY, [1, 2]));
}

#[test]
fn large_and_small_broadcasts_arrive_whole_and_in_order() {
    let mut h = Harness::new();
    let mut clients: Vec<_> = (0..5).map(|_| h.connect()).collect();
    let large: Vec<u8> = (0..60_000u32).map(|i| (i % 251) as u8).collect();
    for i in 0..10u8 {
        let _ = h.server.broadcast([i]);
        let _ = h.server.broadcast(&large);
        h.server.send(clients[0].1, "yours").unwrap();
    }
    for (at, (raw, _)) in clients.iter_mut().enumerate() {
        for i in 0..10u8 {
            assert_eq!(h.frame(raw).payload, [i]);
            assert!(h.frame(raw).payload == large);
            if at == 0 {
                assert_eq!(h.frame(raw).payload, b"yours");
            }
        }
    }
}

#[test]
fn client_lists_agree_with_events() {
    let mut h = Harness::new();
    let mut clients: BTreeMap<ClientId, raw::Raw> = BTreeMap::new();
    for round in 0..5 {
        for _ in 0..10 {
            let (raw, id) = h.connect();
            assert!(clients.insert(id, raw).is_none(), "an id is given once");
        }
        let leaving: Vec<ClientId> = clients.keys().copied().skip(round).step_by(2).collect();
        for id in leaving {
            clients.remove(&id);
            assert_eq!(h.close_reason(id), CloseReason::Eof);
        }
        let listed: BTreeSet<ClientId> = h.server.clients().collect();
        assert_eq!(listed, clients.keys().copied().collect());
        assert_eq!(h.server.client_count(), clients.len());
    }
}

#[test]
fn every_open_has_one_close_and_counters_add_up() {
    let mut h = Harness::new();
    let check = |h: &Harness| {
        let stats = h.server.stats();
        assert_eq!(stats.opened, stats.open + stats.closed.total(), "{stats}");
    };
    for i in 0..60 {
        let (mut raw, id) = h.connect();
        h.write(&mut raw, &raw::text("hello"));
        h.until("the message", |h| h.texts(id).len() == 1);
        h.server.send(id, "hello yourself").unwrap();
        match i % 6 {
            0 => drop(raw),
            1 => h.write(&mut raw, &raw::close(1000, "")),
            2 => h.write(&mut raw, &raw::masked(true, 5, b"no such opcode")),
            3 => h.server.disconnect(id).unwrap(),
            4 => {
                h.server.close(id, 4000, "go").unwrap();
                h.write(&mut raw, &raw::close(4000, ""));
            }
            _ => {
                // Both sides close at the same time: there is still one `Close`.
                h.write(&mut raw, &raw::close(1000, ""));
                h.server.close(id, 4000, "go").unwrap();
            }
        }
        check(&h);
        h.close_reason(id);
        check(&h);
    }
    let mut refused = h.dial();
    h.write(&mut refused, b"nonsense\r\n\r\n");
    h.read_to_end(&mut refused);
    h.settle();

    let stats = h.server.stats();
    assert_eq!((stats.accepted, stats.opened, stats.open), (61, 60, 0));
    assert_eq!(stats.rejected.total(), 1);
    assert_eq!((stats.messages_in, stats.messages_out, stats.dropped), (60, 60, 0));
    let closed = stats.closed;
    assert_eq!((closed.peer + closed.local, closed.protocol, closed.disconnected), (30, 10, 10));
    assert_eq!((closed.eof + closed.io, closed.timeouts()), (10, 0));
    assert!(stats.bytes_in > 60 * 160 && stats.bytes_out > 60 * 120, "{stats}");
    assert!(stats.to_string().starts_with("0 open (60 opened, 1 rejected)"), "{stats}");

    let mut state: BTreeMap<ClientId, u32> = BTreeMap::new();
    for seen in &h.seen {
        match seen {
            Seen::Open(id, _) => assert_eq!(state.insert(*id, 1), None, "{id} opened twice"),
            Seen::Close(id, _) => assert_eq!(state.insert(*id, 2), Some(1), "{id} closed twice"),
            Seen::Text(id, _) => assert_eq!(state.get(id), Some(&1), "{id} sent a message after its Close"),
            other => panic!("{other:?}"),
        }
    }
    assert!(state.values().all(|state| *state == 2) && state.len() == 60);
}

#[test]
fn bytes_in_and_bytes_out_count_socket_bytes() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    let before = h.server.stats();
    let sent = [raw::text("four"), raw::binary(&[0; 1000]), raw::masked(true, raw::PING, b"p")].concat();
    h.write(&mut raw, &sent);
    h.until("both messages", |h| h.server.stats().messages_in == before.messages_in + 2);
    h.server.send(id, "answer").unwrap();
    assert_eq!(h.frame(&mut raw), raw::Frame::new(raw::PONG, "p"));
    assert_eq!(h.frame(&mut raw), raw::Frame::new(raw::TEXT, "answer"));
    let after = h.server.stats();
    assert_eq!(after.bytes_in - before.bytes_in, sent.len() as u64);
    assert_eq!(after.bytes_out - before.bytes_out, (2 + 1) + (2 + 6));
}
