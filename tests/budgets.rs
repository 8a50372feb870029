//! One poll's work is bounded, the rest is done by later polls, and no client waits longer than one
//! round (law 1 in ARCHITECTURE.md).

mod support;

use std::time::Duration;

use support::{Deadline, Harness, Seen, raw};
use tickws::{ClientId, Event, Server};

/// `count` numbered texts as one run of bytes.
fn numbered(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| raw::text(&i.to_string())).collect()
}

fn expected(count: usize) -> Vec<String> {
    (0..count).map(|i| i.to_string()).collect()
}

/// Writes `bytes` into the kernel's buffer without a poll.
fn push(raw: &mut raw::Raw, bytes: &[u8]) {
    assert_eq!(raw.write_some(bytes).unwrap(), bytes.len(), "fits into the kernel's buffers");
}

#[test]
fn event_budget_bounds_the_events_of_a_tick() {
    const BUDGET: usize = 7;
    let mut h = Harness::with(Server::builder().event_budget(BUDGET));
    let mut clients: Vec<_> = (0..3).map(|_| h.connect()).collect();
    for (raw, _) in &mut clients {
        push(raw, &numbered(100));
    }
    let mut ticks = 0;
    let deadline = Deadline::new();
    while clients.iter().any(|(_, id)| h.texts(*id).len() < 100) {
        let tick = h.server.poll_once().unwrap();
        assert!(tick.len() <= BUDGET, "{} events", tick.len());
        if tick.len() == BUDGET {
            // A full tick has more to come, except at the very end.
            let left = clients.iter().map(|(_, id)| 100 - h.texts(*id).len()).sum::<usize>();
            assert!(tick.more() || left <= BUDGET);
            assert!(!tick.more() || tick.next_timeout() == Some(Duration::ZERO));
            ticks += 1;
        }
        h.seen.extend(tick.iter().map(Seen::from));
        deadline.check("all messages");
    }
    for (_, id) in &clients {
        assert_eq!(h.texts(*id), expected(100), "each client's order is kept");
    }
    assert!(ticks >= 300 / BUDGET, "only {ticks} full ticks");
    h.settle();
    assert!(!h.server.poll_once().unwrap().more(), "nothing is left");
}

#[test]
fn close_events_are_not_limited_by_the_event_budget() {
    let mut h = Harness::with(Server::builder().event_budget(2));
    let clients: Vec<_> = (0..10).map(|_| h.connect()).collect();
    for (_, id) in &clients {
        h.server.disconnect(*id).unwrap();
    }
    assert_eq!(h.server.poll_once().unwrap().len(), 10);
}

#[test]
fn messages_before_a_close_survive_a_small_event_budget() {
    let mut h = Harness::with(Server::builder().event_budget(3));
    let (mut raw, id) = h.connect();
    push(&mut raw, &[numbered(50), raw::close(1000, "")].concat());
    drop(raw);
    h.close_reason(id);
    assert_eq!(h.texts(id), expected(50));
    assert!(matches!(h.seen.last(), Some(Seen::Close(..))), "Close is the last event");
}

/// Lets one client flood while another sends now and then; each message of the other must arrive
/// without delay.
fn assert_delivered_during_flood(mut h: Harness, flood: &[u8]) {
    // The flooder's turn may come first and fill one tick; the next tick begins with the other
    // client. The rest is slack for a loaded machine whose kernel delivers late.
    const ROUNDS: u32 = 5;
    let (mut flooder, _) = h.connect();
    let (mut quiet, quiet_id) = h.connect();
    let (mut cursor, mut rounds_in_all) = (0, 0);
    // Keeps the kernel's buffers of the flooder full.
    let mut refill = || {
        loop {
            let written = flooder.write_some(&flood[cursor..]).unwrap();
            if written == 0 {
                break;
            }
            cursor = (cursor + written) % flood.len();
        }
    };
    for sent in 0..20 {
        // At first the quiet client is served before the flooder, later after it.
        push(&mut quiet, &raw::text(&sent.to_string()));
        let mut rounds = 0;
        while h.texts(quiet_id).len() == sent {
            refill();
            let before = h.server.stats().bytes_in;
            let tick = h.server.poll_once().unwrap();
            h.seen.extend(tick.iter().filter(|event| is_text_of(event, quiet_id)).map(Seen::from));
            rounds += u32::from(h.server.stats().bytes_in > before);
            assert!(rounds <= ROUNDS, "a message waited for {rounds} rounds of a flood");
        }
        rounds_in_all += rounds;
    }
    assert_eq!(h.texts(quiet_id), expected(20));
    assert!(rounds_in_all >= 20, "there was no flood");
}

fn is_text_of(event: &Event<'_>, id: ClientId) -> bool {
    matches!(event, Event::Message { client, message } if *client == id && message.as_text().is_some())
}

#[test]
fn a_flood_of_small_messages_delays_others_by_one_round() {
    let flood: Vec<u8> = (0..4000).flat_map(|_| raw::binary(b"flood")).collect();
    assert_delivered_during_flood(Harness::with(Server::builder().event_budget(16)), &flood);
    assert_delivered_during_flood(Harness::new(), &flood);
}

#[test]
fn a_flood_of_large_messages_delays_others_by_one_round() {
    let flood = raw::binary(&vec![7; 200_000]);
    assert_delivered_during_flood(Harness::new(), &flood);
    assert_delivered_during_flood(Harness::with(Server::builder().read_budget(10_000)), &flood);
}

#[test]
fn every_client_is_served_before_one_is_served_twice() {
    // Each tick holds one event and four clients have many messages, so each must get its turn.
    let mut h = Harness::with(Server::builder().event_budget(1));
    let mut clients: Vec<_> = (0..4).map(|_| h.connect()).collect();
    for (raw, _) in &mut clients {
        push(raw, &numbered(50));
    }
    h.until_seen("all messages", 200, |seen| matches!(seen, Seen::Text(..)));
    let turns: Vec<ClientId> = h
        .seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Text(id, _) => Some(*id),
            _ => None,
        })
        .collect();
    for (round, turn) in turns.chunks(4).enumerate() {
        let mut turn = turn.to_vec();
        turn.sort();
        turn.dedup();
        assert_eq!(turn.len(), 4, "round {round}: {turn:?}");
    }
}

#[test]
fn clients_that_could_each_fill_a_tick_take_turns() {
    // Each client has more in the kernel's buffers than a tick takes.
    let mut h = Harness::new();
    let mut clients: Vec<_> = (0..4).map(|_| h.connect()).collect();
    let flood = raw::binary(b"flood").repeat(20_000);
    for (raw, _) in &mut clients {
        assert!(raw.write_some(&flood).unwrap() > 64 * 1024);
    }
    let mut received = std::collections::BTreeSet::new();
    let mut rounds = 0;
    while received.len() < 4 {
        let tick = h.server.poll_once().unwrap();
        received.extend(tick.iter().map(|event| match event {
            Event::Message { client, .. } => client,
            other => panic!("{other:?}"),
        }));
        rounds += u32::from(!tick.is_empty());
        assert!(rounds <= 6, "after {rounds} ticks only {received:?} had messages");
    }
}

#[test]
fn read_budget_bounds_the_bytes_read_per_client_and_poll() {
    const BUDGET: usize = 1000;
    let mut h = Harness::with(Server::builder().read_budget(BUDGET));
    let (mut raw, id) = h.connect();
    push(&mut raw, &raw::binary(&vec![3; 30_000]));
    push(&mut raw, &numbered(100));
    let deadline = Deadline::new();
    while h.texts(id).len() < 100 {
        let before = h.server.stats().bytes_in;
        let tick = h.server.poll_for(Duration::from_millis(1)).unwrap();
        let read = (h.server.stats().bytes_in - before) as usize;
        assert!(read <= BUDGET, "{read} bytes in one poll");
        if read == BUDGET {
            assert!(tick.more());
        }
        h.seen.extend(tick.iter().map(Seen::from));
        deadline.check("all messages");
    }
    assert!(h.seen.contains(&Seen::Binary(id, vec![3; 30_000])));
    assert_eq!(h.texts(id), expected(100));
}

#[test]
fn accept_budget_bounds_the_accepts_of_one_poll() {
    let mut h = Harness::with(Server::builder().accept_budget(3));
    let waiting: Vec<_> = (0..20).map(|_| h.dial()).collect();
    let deadline = Deadline::new();
    while h.server.stats().accepted < 20 {
        let before = h.server.stats().accepted;
        let tick = h.server.poll_once().unwrap();
        let accepted = h.server.stats().accepted - before;
        assert!(accepted <= 3, "{accepted} in one poll");
        assert!(accepted < 3 || h.server.stats().accepted == 20 || tick.more());
        deadline.check("all to be accepted");
    }
    drop(waiting);
}

#[test]
fn a_tiny_time_budget_still_serves_a_client_per_poll() {
    let mut h = Harness::with(Server::builder().time_budget(Duration::from_nanos(1)));
    let mut clients: Vec<_> = (0..5).map(|_| h.connect()).collect();
    for (raw, _) in &mut clients {
        push(raw, &numbered(10));
    }
    let deadline = Deadline::new();
    let mut postponed = 0;
    while clients.iter().any(|(_, id)| h.texts(*id).len() < 10) {
        let tick = h.server.poll_once().unwrap();
        postponed += u32::from(tick.more());
        h.seen.extend(tick.iter().map(Seen::from));
        deadline.check("all messages");
    }
    for (_, id) in &clients {
        assert_eq!(h.texts(*id), expected(10));
    }
    assert!(postponed > 0, "one turn for each poll");
}

#[test]
fn a_flood_is_held_in_the_kernel_and_not_in_a_tick() {
    let mut h = Harness::new();
    let (mut raw, _) = h.connect();
    let flood = raw::binary(&[1; 1000]).repeat(4000);
    let mut at = 0;
    let deadline = Deadline::new();
    while at < flood.len() {
        at += raw.write_some(&flood[at..]).unwrap();
        let tick = h.server.poll_once().unwrap();
        let held: usize =
            tick.iter().map(|event| matches!(event, Event::Message { .. }) as usize * 1000).sum();
        assert!(held <= 4 * 64 * 1024, "a tick holds {held} bytes");
        deadline.check("the flood");
    }
}

#[test]
fn a_kept_tick_is_unchanged_by_later_polls() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    let mut kept = Vec::new();
    let deadline = Deadline::new();
    for round in 0..50u32 {
        // Small messages lie in the tick's block, large ones in buffers of their own; both are
        // recycled.
        h.write(&mut raw, &raw::text(&format!("small {round}")));
        h.write(&mut raw, &raw::binary(&vec![round as u8; 100_000]));
        let mut messages = 0;
        while messages < 2 * (round as usize + 1) {
            let tick = h.server.poll_for(Duration::from_millis(1)).unwrap();
            if !tick.is_empty() {
                kept.push(tick);
            }
            messages = kept.iter().map(|tick| tick.len()).sum::<usize>() + h.seen.len() - 1;
            deadline.check("the messages");
        }
    }
    let mut all: Vec<Seen> = h.take_seen();
    all.extend(kept.iter().flat_map(|tick| tick.iter().map(Seen::from)));
    all.retain(|seen| !matches!(seen, Seen::Open(..)));
    for round in 0..50u32 {
        let small = Seen::Text(id, format!("small {round}"));
        let large = Seen::Binary(id, vec![round as u8; 100_000]);
        assert_eq!(all.iter().filter(|seen| **seen == small).count(), 1, "{round}");
        assert_eq!(all.iter().filter(|seen| **seen == large).count(), 1, "{round}");
    }
    drop(h);
    assert!(kept.iter().all(|tick| tick.iter().count() == tick.len()), "also after the server's end");
}

#[test]
fn a_paused_client_is_not_read_until_it_is_resumed() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    let (mut other, other_id) = h.connect();
    h.server.pause_reading(id).unwrap();
    push(&mut raw, &numbered(100));
    h.write(&mut other, &raw::text("not paused"));
    h.until("the other's message", |h| h.texts(other_id).len() == 1);
    h.settle();
    assert_eq!(h.texts(id), [""; 0]);
    assert!(!h.server.poll_once().unwrap().more(), "a paused client causes no work");
    // Sends to a paused client still work.
    h.server.send(id, "paused").unwrap();
    assert_eq!(h.frame(&mut raw).payload, b"paused");
    h.server.resume_reading(id).unwrap();
    h.until("all messages", |h| h.texts(id).len() == 100);
    assert_eq!(h.texts(id), expected(100));
}

#[test]
fn a_pause_keeps_messages_that_were_already_read() {
    let mut h = Harness::with(Server::builder().event_budget(5));
    let (mut raw, id) = h.connect();
    push(&mut raw, &numbered(50));
    h.until("some", |h| !h.texts(id).is_empty());
    h.server.pause_reading(id).unwrap();
    let before = h.texts(id).len();
    h.settle();
    assert_eq!(h.texts(id).len(), before);
    assert!(before < 50);
    h.server.resume_reading(id).unwrap();
    h.until("all messages", |h| h.texts(id).len() == 50);
    assert_eq!(h.texts(id), expected(50));
}

#[test]
fn a_paused_client_can_complete_the_close_handshake() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    h.server.pause_reading(id).unwrap();
    h.server.close(id, 1000, "").unwrap();
    assert_eq!(h.frame(&mut raw), raw::Frame::close(1000, ""));
    h.write(&mut raw, &raw::close(1000, ""));
    assert!(matches!(h.close_reason(id), tickws::CloseReason::Local { .. }));
}

#[test]
fn bytes_of_large_messages_per_tick_are_bounded() {
    const LEN: usize = 300_000;
    const CLIENTS: usize = 20;
    let mut h = Harness::new();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| h.connect()).collect();
    let frame = raw::binary(&[7; LEN]);
    let arrived = |h: &Harness| h.server.stats().bytes_in;
    for (raw, _) in &mut clients {
        let before = arrived(&h);
        h.write(raw, &frame[..frame.len() - 1]);
        h.until("all but the last byte", |h| arrived(h) - before == frame.len() as u64 - 1);
    }
    for (raw, _) in &mut clients {
        push(raw, &frame[frame.len() - 1..]);
    }
    let (mut whole, deadline) = (0, Deadline::new());
    while whole < CLIENTS {
        let tick = h.server.poll_once().unwrap();
        let held: usize = tick.iter().map(|event| message_len(&event)).sum();
        assert!(held <= 256 * 1024 + LEN, "{held} bytes in one tick");
        whole += held / LEN;
        deadline.check("all messages");
    }
}

fn message_len(event: &Event<'_>) -> usize {
    match event {
        Event::Message { message, .. } => message.len(),
        _ => 0,
    }
}

/// A tiny budget still does everything, one step of each kind per call, and loses nothing.
#[test]
fn a_tiny_time_budget_writes_everything_in_turns() {
    let mut h = Harness::with(Server::builder().time_budget(Duration::ZERO));
    let mut clients: Vec<_> = (0..20).map(|_| h.connect()).collect();
    h.settle();
    for number in 0..5 {
        let _ = h.server.broadcast(format!("{number}"));
    }
    let left = h.server.flush();
    assert_eq!(left, 19, "one client per flush");
    assert_eq!(h.server.flush(), 18);
    assert!(h.server.poll_once().unwrap().more());
    while h.server.flush() > 0 {}
    for (raw, _) in &mut clients {
        for number in 0..5 {
            assert_eq!(h.frame(raw), raw::Frame::new(raw::TEXT, number.to_string()));
        }
    }
    assert!(h.server.stats().budget_cuts > 0);
    assert!(!h.server.poll_once().unwrap().more());
}

#[test]
fn commands_of_a_handle_are_carried_out_in_turns() {
    let mut h = Harness::with(Server::builder().time_budget(Duration::ZERO));
    let (mut raw, id) = h.connect();
    h.settle();
    let handle = h.server.handle();
    for number in 0..10 {
        handle.send(id, number.to_string()).unwrap();
    }
    let mut polls = 0;
    while h.server.poll_once().unwrap().more() {
        polls += 1;
    }
    assert!(polls >= 9, "{polls} polls for ten commands");
    for number in 0..10 {
        assert_eq!(h.frame(&mut raw), raw::Frame::new(raw::TEXT, number.to_string()));
    }
}
