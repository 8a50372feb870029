//! Law 1 (ARCHITECTURE.md): with a time budget all work is done in steps, and what peers cause is
//! bounded without one as well. The host of these tests does one step of each kind per poll.

use super::*;
use crate::close_code::CloseCode;

fn one_step() -> Config {
    Config { time_budget: Some(Duration::ZERO), ..Config::default() }
}

fn open(host: &mut Host, count: usize) -> Vec<(Peer, ClientId)> {
    (0..count).map(|_| open_one(host)).collect()
}

/// Opens a client, for which a poll of single steps takes more polls than `Host::open` expects.
fn open_one(host: &mut Host) -> (Peer, ClientId) {
    let mut peer = host.connect();
    peer.handshake();
    while peer.status().is_none() {
        let _ = host.poll();
        assert_eq!(peer.frames(), []);
    }
    let id = host.engine.clients().max().unwrap();
    (peer, id)
}

#[test]
fn output_goes_on_where_it_ended_and_each_poll_says_that_there_is_more() {
    let mut host = Host::new(one_step());
    let mut peers = open(&mut host, 30);
    let _ = host.engine.broadcast("x".into(), None);
    assert_eq!(host.engine.unflushed(), 30);
    let mut got = vec![0; peers.len()];
    for poll in 1..=15 {
        let tick = host.poll();
        // One client has its turn in the flush, and one in the poll.
        assert_eq!(host.engine.unflushed(), 30 - 2 * poll);
        assert_eq!(tick.more(), poll < 15, "after {poll} polls");
    }
    for ((peer, _), got) in peers.iter_mut().zip(&mut got) {
        *got += peer.frames().len();
    }
    assert_eq!(got, vec![1; 30], "each client has its message once");
    assert_ne!(host.engine.next_timeout(host.now), Some(Duration::ZERO));
}

#[test]
fn a_step_writes_at_most_64_kib_and_clients_take_turns() {
    let mut host = Host::new(Config { max_buffered: 4 << 20, ..one_step() });
    let (mut large, first) = open_one(&mut host);
    let (mut small, second) = open_one(&mut host);
    large.set_buffers(4 << 20, 4 << 20);
    // Many messages below the size of a direct write.
    for _ in 0..100 {
        host.engine.send(first, (&[7; 10_000]).into()).unwrap();
    }
    host.engine.send(second, "small".into()).unwrap();
    // Output that continues and output that is new take turns.
    let _ = (host.poll(), host.poll());
    assert_eq!(small.frames(), [text("small")], "it does not wait for the end of the large output");
    let mut polls = 0;
    while host.engine.buffered(first) > 0 {
        let before = host.engine.stats().bytes_out;
        assert!(host.poll().more() || host.engine.buffered(first) == 0);
        assert!(host.engine.stats().bytes_out - before <= 2 * 64 * 1024);
        polls += 1;
    }
    assert!(polls >= 5, "{polls} polls for the rest of a megabyte");
    assert_eq!(large.frames().len(), 100);
}

#[test]
fn no_kind_of_work_starves_another() {
    let mut host = Host::new(one_step());
    let mut peers = open(&mut host, 20);
    for _ in 0..50 {
        host.engine.set_timer(Duration::ZERO, false, host.now);
    }
    for (peer, _) in &mut peers {
        for _ in 0..3 {
            peer.text("in");
        }
    }
    let _ = host.engine.broadcast("out".into(), None);
    let (mut messages, mut timers) = (0, 0);
    for _ in 0..5 {
        let before = host.engine.unflushed();
        let tick = host.poll();
        for event in &tick {
            match event {
                Event::Message { .. } => messages += 1,
                Event::Timer { .. } => timers += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(host.engine.unflushed() < before, "output stands still");
    }
    assert!(messages >= 5 && timers == 5, "{messages} messages, {timers} timers in five polls");
}

#[test]
fn latest_values_are_framed_when_their_turn_comes() {
    let mut host = Host::new(one_step());
    let mut peers = open(&mut host, 10);
    let send = |host: &mut Host, text: &str| {
        for (_, id) in &peers {
            host.engine.send_latest(*id, 1.into(), text.into()).unwrap();
        }
    };
    send(&mut host, "old");
    let _ = host.poll();
    send(&mut host, "new");
    for _ in 0..10 {
        let _ = host.poll();
    }
    let got: Vec<Vec<Frame>> = peers.iter_mut().map(|(peer, _)| peer.frames()).collect();
    let stale = got.iter().filter(|frames| frames.contains(&text("old"))).count();
    assert_eq!(stale, 2, "only those whose turn had come");
    assert!(got.iter().all(|frames| frames.last() == Some(&text("new"))), "{got:?}");
}

#[test]
fn a_shutdown_and_its_deadline_are_spread_over_polls() {
    let mut host = Host::new(one_step());
    let mut peers = open(&mut host, 40);
    host.engine.shutdown(CloseCode::GOING_AWAY, "", SEC, host.now);
    assert_eq!(host.engine.unflushed(), 0, "the call only marks");
    let mut told = 0;
    for _ in 0..10 {
        assert!(host.poll().more());
        let now = peers.iter_mut().map(|(peer, _)| peer.frames().len()).sum::<usize>();
        assert!(now <= 2);
        told += now;
    }
    assert!(told >= 5, "{told} of 40 have their close frame");
    host.advance(2 * SEC);
    let mut polls = 0;
    while !host.engine.is_drained() {
        let before = host.engine.connection_count();
        let _ = host.poll();
        assert!(before - host.engine.connection_count() <= 3, "one poll has ended too many");
        polls += 1;
    }
    assert!(polls >= 13, "{polls} polls");
    host.check_empty();
}

#[test]
fn nobody_is_closed_because_the_budget_is_too_small() {
    let config =
        Config { max_buffered: 1_000, write_timeout: SEC, silence_timeout: Some(3 * SEC), ..one_step() };
    let config = Config { ping_interval: Some(2 * SEC), close_timeout: SEC, ..config };
    let mut host = Host::new(config);
    let mut peers = open(&mut host, 20);
    let (mut dropped, mut queued) = (0, 0);
    for _ in 0..60 {
        // More than two steps per poll can write, and each client waits for seconds.
        let delivery = host.engine.broadcast((&[7; 300]).into(), None);
        (dropped, queued) = (dropped + delivery.dropped, queued + delivery.queued);
        assert_eq!(delivery.overflowed, 0);
        host.advance(SEC / 2);
        let tick = host.poll();
        assert_eq!(closes(&tick), [], "at {:?}", host.elapsed());
        for (peer, _) in &mut peers {
            for frame in peer.frames() {
                if let Frame::Ping(body) = frame {
                    peer.pong(&body);
                }
            }
        }
    }
    assert!(dropped > 0 && queued > 0, "the test needs a budget that is too small");
    assert_eq!(host.engine.stats().closed.total(), 0);
}

#[test]
fn a_close_frame_waits_for_its_turn_and_not_for_a_timeout() {
    let config = Config { close_timeout: SEC, ..one_step() };
    let mut host = Host::new(config);
    let mut peers = open(&mut host, 12);
    for (_, id) in &peers {
        host.engine.close(*id, CloseCode::from(4000), "done", host.now).unwrap();
    }
    let mut codes = 0;
    for _ in 0..40 {
        // Each client waits longer for its turn than a peer may take to reply.
        host.advance(SEC / 2);
        let _ = host.poll();
        for (peer, _) in &mut peers {
            for frame in peer.frames() {
                assert_eq!(frame, Frame::Close(4000, "done".into()));
                peer.close(4000);
                codes += 1;
            }
        }
    }
    assert_eq!(codes, 12);
    assert_eq!((host.engine.stats().closed.local, host.engine.stats().closed.total()), (12, 12));
}

// ---- without a time budget ----

#[test]
fn resets_and_closings_of_a_crowd_are_spread_over_polls() {
    const CROWD: usize = 500;
    for reset in [false, true] {
        let mut host = Host::new(Config::default());
        let mut peers = open(&mut host, CROWD);
        for (peer, _) in &mut peers {
            match reset {
                true => peer.reset(false),
                false => peer.close(1000),
            }
        }
        let mut polls = 0;
        while host.engine.connection_count() > 0 {
            let (closed, open) = (host.engine.stats().closed.total(), host.engine.connection_count());
            let tick = host.poll();
            let closed = host.engine.stats().closed.total() - closed;
            assert!(closed <= 128, "{closed} ends in one poll");
            assert!(open - host.engine.connection_count() <= 2 * 128 + 24);
            assert!(tick.more() || host.engine.ready.is_empty());
            for (peer, _) in &mut peers {
                let _ = peer.frames();
                if peer.at_end() {
                    peer.fin();
                }
            }
            polls += 1;
        }
        assert!(polls >= CROWD / 128, "{polls} polls");
        host.check_empty();
    }
}

#[test]
fn outboxes_that_begin_to_drain_are_written_in_pieces() {
    let mut host = Host::new(Config { max_buffered: 2 << 20, ..Config::default() });
    let mut peers = open(&mut host, 100);
    for (peer, id) in &mut peers {
        peer.set_buffers(1 << 20, 10_000);
        host.engine.send(*id, (&vec![7; 300_000]).into()).unwrap();
    }
    host.settle();
    peers.iter_mut().for_each(|(peer, _)| peer.set_buffers(1 << 20, 1 << 20));
    peers.iter_mut().for_each(|(peer, _)| _ = peer.frames());
    let mut polls = 0;
    while peers.iter().any(|(_, id)| host.engine.buffered(*id) > 0) {
        let before = host.engine.stats().bytes_out;
        let _ = host.poll();
        let written = host.engine.stats().bytes_out - before;
        // A poll continues output twice: at its beginning, and after the readiness was reported.
        assert!(written <= 2 * 24 * 64 * 1024, "{written} bytes in one poll");
        peers.iter_mut().for_each(|(peer, _)| _ = peer.frames());
        polls += 1;
    }
    assert!(polls >= 9, "{polls} polls");
}

// ---- survivors of planted faults ----

/// Closing a socket with unread input sends RST, which can destroy output that is on its way.
#[test]
fn a_lingering_connection_is_read_to_its_end_before_it_is_freed() {
    let mut host = Host::new(Config::default());
    let (mut peer, id) = host.open();
    peer.set_buffers(1 << 20, 100);
    host.engine.send(id, (&[7; 5_000]).into()).unwrap();
    peer.close(1000);
    let tick = host.poll();
    assert_eq!(closes(&tick).len(), 1);
    let _ = host.poll();
    // More input and FIN arrive while the output waits for the peer.
    peer.raw(&[0; 3_000]);
    peer.fin();
    host.deliver_all();
    peer.set_buffers(1 << 20, 1 << 20);
    for _ in 0..10 {
        let _ = host.poll();
    }
    assert_eq!(peer.frames().len(), 2, "the message and the close frame");
    assert!(peer.at_end() && !peer.was_aborted(), "the socket was closed with unread input");
}

#[test]
fn messages_behind_our_close_frame_use_up_the_event_budget() {
    let mut host = Host::new(Config { event_budget: 10, ..Config::default() });
    let (mut flooder, id) = host.open();
    let (mut peer, other) = host.open();
    host.engine.close(id, CloseCode::from(4000), "", host.now).unwrap();
    (0..200).for_each(|_| flooder.binary(b"x"));
    peer.text("mine");
    let tick = host.poll();
    assert!(tick.more(), "the discarded messages were limited");
    let mut polls = 1;
    let mut got = messages(&tick);
    while host.poll().more() {
        polls += 1;
    }
    got.extend(messages(&host.poll()));
    assert!(polls >= 200 / 10 / 2, "{polls} polls for 200 discarded messages");
    assert!(got.is_empty() || got == [(other, b"mine".to_vec())]);
}

/// The read that completes the head is as long as the budget allows, so the socket may hold more.
#[test]
fn a_client_that_opens_with_input_in_the_kernel_is_read_without_another_readable_event() {
    let len = {
        let mut host = Host::new(Config::default());
        host.connect().request().len()
    };
    let mut host = Host::new(Config { read_budget: len, ..Config::default() });
    let mut peer = host.connect();
    peer.handshake();
    peer.text("first");
    let mut got = Vec::new();
    for _ in 0..10 {
        got.extend(messages(&host.poll()));
        host.check();
    }
    let client = host.engine.clients().next().unwrap();
    assert_eq!(got, [(client, b"first".to_vec())]);
}
