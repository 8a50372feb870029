//! Deadlines and timers fire never early and at most one wheel tick (1 ms) late, and `next_timeout`
//! wakes the host for each.

use super::*;
use crate::{CloseCode, TimeoutKind, TimerId, id::Serial};

/// Sleeps for `next_timeout` between polls until `done`; returns the time since the start.
fn sleep_until(host: &mut Host, mut done: impl FnMut(&mut Host, &Tick) -> bool) -> Duration {
    for _ in 0..1_000 {
        let timeout = host.engine.next_timeout(host.now).expect("something is due");
        host.advance(timeout);
        let tick = host.poll();
        host.check();
        if done(host, &tick) {
            return host.elapsed();
        }
    }
    panic!("it never comes");
}

fn assert_on_time(at: Duration, due: Duration) {
    assert!(due <= at && at < due + MS, "due at {due:?}, came at {at:?}");
}

fn timed_out(tick: &Tick, client: ClientId, timeout: TimeoutKind) -> bool {
    closes(tick) == [(client, CloseReason::Timeout(timeout))]
}

#[test]
fn handshake_timeout_covers_the_whole_head() {
    let mut host = Host::new(Config::default());
    host.advance(MS / 3);
    let accepted = host.elapsed();
    let slow = host.connect();
    for byte in Peer::REQUEST.as_bytes().chunks(1).take(10) {
        slow.raw(byte);
        assert_eq!(host.settle(), 0);
        host.advance(SEC - MS / 9);
    }
    assert!(!slow.is_dropped());
    let at = sleep_until(&mut host, |_, _| slow.is_dropped());
    assert_on_time(at, accepted + 10 * SEC);
    assert_eq!(host.engine.stats().rejected.timeout, 1);
    host.check_empty();
}

#[test]
fn idle_client_is_pinged_and_silent_client_is_dropped() {
    let mut host = Host::new(Config::default());
    host.advance(MS / 3);
    let opened = host.elapsed();
    let (mut peer, client) = host.open();
    let at = sleep_until(&mut host, |host, _| host.engine.stats().pings == 1);
    assert_on_time(at, opened + 54 * SEC);
    host.settle();
    assert!(matches!(peer.frames()[..], [Frame::Ping(_)]));
    let at = sleep_until(&mut host, |_, tick| timed_out(tick, client, TimeoutKind::Silence));
    assert_on_time(at, opened + 60 * SEC);
    assert!(peer.is_dropped());
    assert_eq!(host.engine.stats().closed.silence, 1);
    host.check_empty();
    assert_eq!(host.engine.next_timeout(host.now), None);
}

#[test]
fn any_received_byte_resets_the_silence_timeout() {
    let mut host = Host::new(Config::default());
    let (peer, client) = host.open();
    let mut heard = Duration::ZERO;
    // A frame that arrives one byte at a time.
    for byte in [b"\x82", b"\x84", b"k", b"e", b"y", b"!"] {
        host.advance(59 * SEC);
        heard = host.elapsed();
        peer.raw(byte);
        assert_eq!(host.settle(), 0);
    }
    let at = sleep_until(&mut host, |_, tick| timed_out(tick, client, TimeoutKind::Silence));
    assert_on_time(at, heard + 60 * SEC);
}

#[test]
fn host_pause_does_not_count_as_silence() {
    let mut host = Host::new(Config::default());
    let (mut lively, _) = host.open();
    let (mut quiet, lost) = host.open();
    // A pause at a breakpoint: no ping was sent, and input waits in the kernel.
    host.advance(300 * SEC);
    lively.text("still here");
    assert_eq!(closes(&host.poll()), []);
    host.settle();
    for peer in [&mut lively, &mut quiet] {
        let [Frame::Ping(ping)] = &peer.frames()[..] else { panic!("no ping") };
        if peer.port == 1 {
            peer.pong(&ping.clone());
        }
    }
    host.settle();
    // The time from `ping_interval` to `silence_timeout`.
    let asked = host.elapsed();
    let at = sleep_until(&mut host, |_, tick| timed_out(tick, lost, TimeoutKind::Silence));
    assert_on_time(at, asked + 6 * SEC);
}

#[test]
fn silent_client_is_dropped_even_with_rare_polls() {
    let mut host = Host::new(Config::default());
    let (_peer, client) = host.open();
    let end = (0..20).find_map(|_| {
        host.advance(10 * SEC);
        timed_out(&host.poll(), client, TimeoutKind::Silence).then(|| host.elapsed())
    });
    assert!(end.is_some_and(|end| end <= 70 * SEC), "{end:?}");
}

#[test]
fn unread_input_resets_the_silence_timeout() {
    let mut host = Host::new(Config { event_budget: 1, ..Config::default() });
    let (mut peer, client) = host.open();
    host.advance(54 * SEC);
    assert!(host.poll().is_empty());
    let _ = host.poll();
    let [Frame::Ping(ping)] = &peer.frames()[..] else { panic!("no ping") };
    // The pong arrived in time, but the host polled late.
    peer.pong(&ping.clone());
    host.advance(6 * SEC);
    assert_eq!(closes(&host.poll()), []);
    assert_eq!(host.engine.rtt(client), Some(6 * SEC));
}

#[test]
fn paused_client_does_not_count_as_silent() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    host.engine.pause_reading(client).unwrap();
    for _ in 0..40 {
        host.advance(10 * SEC);
        assert_eq!(host.settle(), 0);
        peer.frames();
    }
    host.engine.resume_reading(client, host.now).unwrap();
    let resumed = host.elapsed();
    let at = sleep_until(&mut host, |_, tick| timed_out(tick, client, TimeoutKind::Silence));
    assert_on_time(at, resumed + 60 * SEC);
}

#[test]
fn a_pong_gives_the_round_trip_time() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    assert_eq!(host.engine.rtt(client), None);
    host.engine.ping(client, host.now).unwrap();
    host.settle();
    let [Frame::Ping(body)] = &peer.frames()[..] else { panic!("no ping") };
    host.advance(25 * MS);
    peer.pong(b"what?");
    host.settle();
    assert_eq!(host.engine.rtt(client), None, "not the pong for our ping");
    peer.pong(body);
    host.settle();
    assert_eq!(host.engine.rtt(client), Some(25 * MS));
    host.advance(SEC);
    peer.pong(body);
    host.settle();
    assert_eq!(host.engine.rtt(client), Some(25 * MS), "once is enough");
}

#[test]
fn write_timeout_spares_a_slow_reader_that_makes_progress() {
    let mut host = Host::new(Config { max_buffered: 10_000, ping_interval: None, ..Config::default() });
    let (mut peer, client) = host.open();
    peer.set_buffers(1_000, 100);
    host.engine.send(client, (&[7; 1_000]).into()).unwrap();
    let mut taken = host.elapsed();
    host.settle();
    for _ in 0..5 {
        host.advance(9 * SEC + 999 * MS);
        assert_eq!(host.settle(), 0);
        peer.pong(b"alive");
        assert_eq!(peer.read(90), 90);
        taken = host.elapsed();
        host.settle();
    }
    let at = sleep_until(&mut host, |_, tick| timed_out(tick, client, TimeoutKind::Write));
    assert_on_time(at, taken + 10 * SEC);
    assert_eq!(host.engine.stats().closed.write_timeout, 1);
}

#[test]
fn unanswered_close_frame_ends_at_close_timeout() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    host.engine.close(client, CloseCode::NORMAL_CLOSURE, "", host.now).unwrap();
    let asked = host.elapsed();
    host.settle();
    peer.text("let me finish");
    host.settle();
    let at = sleep_until(&mut host, |_, tick| timed_out(tick, client, TimeoutKind::Close));
    assert_on_time(at, asked + 10 * SEC);
    assert_eq!(peer.frames(), [Frame::Close(1000, String::new())]);
    host.check_empty();
}

#[test]
fn max_lifetime_closes_with_1001() {
    let mut host = Host::new(Config { max_lifetime: Some(40 * SEC), ..Config::default() });
    let opened = host.elapsed();
    let (mut peer, client) = host.open();
    let mut frames = Vec::new();
    let at = sleep_until(&mut host, |host, _| {
        host.engine.flush(host.now);
        frames = peer.frames();
        !frames.is_empty()
    });
    assert_on_time(at, opened + 40 * SEC);
    assert!(matches!(frames[..], [Frame::Close(1001, _)]), "{frames:?}");
    peer.close(1001);
    let tick = host.poll();
    assert!(timed_out(&tick, client, TimeoutKind::Lifetime), "{tick:?}");
    assert_eq!(host.engine.stats().closed.lifetime, 1);
}

#[test]
fn lingering_ends_at_close_timeout() {
    let mut host = Host::new(Config::default());
    let (mut ended, _) = host.open();
    let (stuck, client) = host.open();
    ended.close(1000);
    let refused = host.connect();
    refused.raw(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    stuck.set_buffers(1_000, 0);
    host.engine.send(client, (&[7; 1_000]).into()).unwrap();
    stuck.fin();
    // None of the peers closes its socket, and one accepts no bytes.
    host.settle();
    let since = host.elapsed();
    assert_eq!((host.engine.connection_count(), host.engine.client_count()), (3, 0));
    let at = sleep_until(&mut host, |host, _| host.engine.connection_count() == 0);
    assert_on_time(at, since + 10 * SEC);
    host.check_empty();
}

#[test]
fn every_deadline_is_on_time_at_any_phase_of_the_wheel() {
    for phase in [0, 1, 333_333, 500_000, 999_999] {
        let mut host = Host::new(Config::default());
        host.advance(Duration::from_nanos(phase));
        let mut due = Vec::new();
        for step in 0..200_u64 {
            let delay = Duration::from_nanos(step * step * 7_654_321);
            host.advance(Duration::from_nanos(step * 98_765));
            let timer = host.engine.set_timer(delay, false, host.now);
            due.push((host.elapsed() + delay, timer));
        }
        while !due.is_empty() {
            let before = host.elapsed();
            let mut fired = Vec::new();
            let at = sleep_until(&mut host, |_, tick| {
                fired.extend(timers(tick));
                !fired.is_empty()
            });
            for timer in fired {
                let found = due.iter().position(|(_, waiting)| *waiting == timer).expect("fires once");
                let (due, _) = due.swap_remove(found);
                assert!(due <= at && at < due.max(before) + MS, "due at {due:?}, fired at {at:?}");
            }
        }
        assert_eq!(host.engine.next_timeout(host.now), None);
    }
}

fn timers(tick: &Tick) -> Vec<TimerId> {
    let timer = |event: Event<'_>| match event {
        Event::Timer { timer, .. } => Some(timer),
        _ => None,
    };
    tick.iter().filter_map(timer).collect()
}

#[test]
fn interval_keeps_its_phase_and_counts_missed_periods() {
    let mut host = Host::new(Config::default());
    let timer = host.engine.set_timer(50 * MS, true, host.now);
    // Each event counts the periods that were missed before it.
    let on_time = Some(0);
    for (advance, expected) in [
        (49, None),
        (1, on_time),
        (50, on_time),
        (49, None),
        (21, on_time),
        (30, on_time),
        (1_234, Some(23)),
        (15, None),
        (1, on_time),
    ] {
        host.advance(MS * advance);
        let tick = host.poll();
        let missed = tick.iter().map(|event| match event {
            Event::Timer { timer: fired, missed } if fired == timer => missed,
            other => panic!("unexpected {other:?}"),
        });
        assert_eq!(missed.collect::<Vec<_>>(), Vec::from_iter(expected), "at {:?}", host.elapsed());
        assert_eq!(timers(&host.poll()), [], "once is enough");
    }
    assert!(host.engine.cancel_timer(timer));
    assert!(!host.engine.cancel_timer(timer));
    host.advance(SEC);
    assert!(host.poll().is_empty());
    assert_eq!(host.engine.next_timeout(host.now), None);
}

#[test]
fn an_interval_survives_a_sleep_of_months() {
    let mut host = Host::new(Config::default());
    let timer = host.engine.set_timer(Duration::ZERO, true, host.now);
    for _ in 0..3 {
        host.advance(60 * 24 * 3600 * SEC);
        assert_eq!(timers(&host.poll()), [timer]);
        assert_eq!(host.engine.next_timeout(host.now), Some(MS), "a period of zero is one of 1 ms");
        host.advance(MS);
        assert_eq!(timers(&host.poll()), [timer]);
    }
}

#[test]
fn a_stale_timer_id_cancels_nothing_else() {
    let mut host = Host::new(Config::default());
    let first = host.engine.set_timer(MS, false, host.now);
    host.advance(MS);
    assert_eq!(timers(&host.poll()), [first]);
    // The next id differs from this one only in the upper half of its serial.
    host.engine.next_timer = Serial::new(first.serial().get() + (1 << 32));
    let second = host.engine.set_timer(MS, false, host.now);
    assert_eq!(first.index(), second.index());
    assert!(first < second && !host.engine.cancel_timer(first));
    let never = host.engine.set_timer(Duration::MAX, false, host.now);
    let never_again = host.engine.set_timer(Duration::MAX, true, host.now);
    host.advance(MS);
    assert_eq!(timers(&host.poll()), [second]);
    assert!(host.engine.cancel_timer(never) && host.engine.cancel_timer(never_again));
}

#[test]
fn ten_thousand_simultaneous_deadlines_are_spread_over_polls() {
    let mut host = Host::new(Config::default());
    let peers: Vec<Peer> = (0..10_000).map(|_| host.connect()).collect();
    let _ = host.poll();
    host.advance(10 * SEC);
    let mut polls = 0;
    loop {
        let before = host.engine.stats().rejected.timeout;
        let tick = host.poll();
        polls += 1;
        let dropped = host.engine.stats().rejected.timeout - before;
        assert!(dropped <= 128, "{dropped} in one poll");
        assert_eq!(tick.more(), host.engine.connection_count() > 0);
        assert_eq!(tick.next_timeout() == Some(Duration::ZERO), tick.more());
        if !tick.more() {
            break;
        }
    }
    assert_eq!(polls, 10_000usize.div_ceil(128));
    assert!(peers.iter().all(Peer::is_dropped));
    host.check_empty();
}

#[test]
fn timer_events_stay_within_the_event_budget() {
    // One of the 41 events is reserved for input.
    let mut host =
        Host::new(Config { event_budget: 41, silence_timeout: Some(60 * SEC), ..Config::default() });
    let peers: Vec<_> = (0..100).map(|_| host.open()).collect();
    let set: Vec<TimerId> = (0..100).map(|_| host.engine.set_timer(60 * SEC, false, host.now)).collect();
    host.advance(54 * SEC);
    host.settle();
    host.advance(6 * SEC);
    let (mut fired, mut closed) = (Vec::new(), 0);
    for left in (0..5).rev() {
        let tick = host.poll();
        assert_eq!((tick.len(), tick.more()), (40, left > 0));
        fired.extend(timers(&tick));
        closed += closes(&tick).len();
    }
    assert_eq!((fired, closed), (set, peers.len()));
    host.check_empty();
}

#[test]
fn backward_clock_step_is_harmless() {
    let mut host = Host::new(Config::default());
    host.advance(100 * SEC);
    let (mut peer, client) = host.open();
    let timer = host.engine.set_timer(SEC, false, host.now);
    host.now -= 50 * SEC;
    peer.text("hello");
    let tick = host.poll();
    assert_eq!(messages(&tick), [(client, b"hello".to_vec())]);
    host.engine.ping(client, host.now).unwrap();
    host.advance(51 * SEC);
    assert_eq!(timers(&host.poll()), [timer]);
}

#[test]
fn timers_do_not_starve_input() {
    for event_budget in [1, 2, 3] {
        let mut host = Host::new(Config { event_budget, ..Config::default() });
        let (mut peer, client) = host.open();
        for _ in 0..3 {
            host.engine.set_timer(MS, true, host.now);
        }
        let (mut fired, mut heard) = (0, 0);
        for sent in 1..=20 {
            peer.text("hello");
            for _ in 0..2 {
                host.advance(5 * MS);
                let tick = host.poll();
                fired += timers(&tick).len();
                heard += messages(&tick).iter().filter(|(from, _)| *from == client).count();
            }
            assert!(heard >= sent, "{heard} of {sent} messages, budget {event_budget}");
        }
        assert!(fired >= 20, "{fired} timers, budget {event_budget}");
    }
}

#[test]
fn maximal_durations_never_expire() {
    let forever = Duration::MAX;
    let mut host = Host::new(Config {
        handshake_timeout: forever,
        close_timeout: forever,
        write_timeout: forever,
        max_lifetime: Some(SEC),
        ..Config::default()
    });
    let (mut peer, client) = host.open();
    host.advance(SEC);
    host.settle();
    // The close frame was sent, and its reply is awaited.
    assert!(matches!(peer.frames()[..], [Frame::Close(1001, _)]));
    assert_eq!(host.engine.connection_count(), 1);
    assert!(host.engine.send(client, "x".into()).is_err());
}

#[test]
fn silence_counts_again_after_a_pause() {
    let config = Config { ping_interval: None, silence_timeout: Some(60 * SEC), ..Config::default() };
    let mut host = Host::new(config);
    let (_peer, client) = host.open();
    host.engine.pause_reading(client).unwrap();
    host.advance(100 * SEC);
    assert_eq!((host.settle(), host.engine.next_timeout(host.now)), (0, None));
    host.engine.resume_reading(client, host.now).unwrap();
    host.advance(60 * SEC);
    assert_eq!(closes(&host.poll()), [(client, CloseReason::Timeout(crate::TimeoutKind::Silence))]);
}
