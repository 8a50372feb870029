//! Application timers with the real clock, and the server inside an external poll loop. The tests
//! assert which events happen and in which order, never how long they take.

mod support;

use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use support::raw;
use support::{Deadline, Harness, Seen};

const MS: Duration = Duration::from_millis(1);
const FOREVER: Duration = Duration::from_secs(3600);

#[test]
fn a_timer_fires_once_and_not_early() {
    let mut h = Harness::new();
    let begin = Instant::now();
    let timer = h.server.set_timer(30 * MS);
    h.until_seen("the timer", 1, |seen| *seen == Seen::Timer(timer));
    assert!(begin.elapsed() >= 30 * MS);
    assert!(!h.server.cancel_timer(timer), "the timer has fired");
    h.settle();
    assert_eq!(h.seen.len(), 1);
    assert_eq!(h.server.next_timeout(), None);
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines() {
    let mut h = Harness::new();
    let delays = [40, 10, 30, 0, 20];
    let timers = loop {
        let begin = Instant::now();
        let timers = delays.map(|delay| h.server.set_timer(delay * MS));
        // Each delay counts from its own call. If the process was held up in between, the order
        // could differ.
        if begin.elapsed() < 10 * MS {
            break timers;
        }
        assert!(timers.iter().all(|timer| h.server.cancel_timer(*timer)));
    };
    h.until_seen("all timers", 5, |seen| matches!(seen, Seen::Timer(_)));
    let expected = [3, 1, 4, 2, 0].map(|at: usize| Seen::Timer(timers[at]));
    assert_eq!(h.seen, expected);
}

#[test]
fn an_interval_repeats_until_it_is_cancelled() {
    let mut h = Harness::new();
    let timer = h.server.set_interval(2 * MS);
    h.until_seen("five periods", 5, |seen| *seen == Seen::Timer(timer));
    assert!(h.server.cancel_timer(timer));
    assert!(!h.server.cancel_timer(timer));
    h.take_seen();
    h.settle();
    assert_eq!(h.seen, []);
    assert_eq!(h.server.next_timeout(), None);
}

#[test]
fn a_cancelled_timer_never_fires_and_its_id_stays_unused() {
    let mut h = Harness::new();
    let cancelled = h.server.set_timer(MS);
    assert!(h.server.cancel_timer(cancelled));
    let other = h.server.set_timer(5 * MS);
    assert_ne!(cancelled, other);
    assert!(!h.server.cancel_timer(cancelled), "a stale id reaches no other timer");
    h.until_seen("the other timer", 1, |seen| *seen == Seen::Timer(other));
    assert_eq!(h.seen.len(), 1);
}

#[test]
fn next_timeout_is_the_time_to_the_next_deadline() {
    let mut h = Harness::new();
    h.settle();
    assert_eq!(h.server.next_timeout(), None, "no deadline is set");
    let far = h.server.set_timer(FOREVER);
    let near = h.server.set_timer(FOREVER / 2);
    let timeout = h.server.next_timeout().unwrap();
    assert!(timeout <= FOREVER / 2 + MS && timeout > FOREVER / 4, "{timeout:?}");
    assert!(h.server.cancel_timer(near));
    let timeout = h.server.next_timeout().unwrap();
    assert!(timeout <= FOREVER + MS && timeout > FOREVER / 2, "{timeout:?}");
    let tick = h.server.poll_once().unwrap();
    assert!(tick.next_timeout().is_some_and(|timeout| timeout > FOREVER / 2));
    assert!(h.server.cancel_timer(far));

    let (mut raw, id) = h.connect();
    h.settle();
    assert!(h.server.next_timeout().unwrap() > Duration::from_secs(5), "the next ping is far");
    h.server.send(id, "queued").unwrap();
    assert_eq!(h.server.next_timeout(), Some(Duration::ZERO), "something is queued");
    h.server.flush();
    assert_ne!(h.server.next_timeout(), Some(Duration::ZERO));
    // The message has left without a poll.
    let deadline = Deadline::new();
    while raw.take_frame().is_none() {
        raw.read_some();
        deadline.check("the flushed message");
    }
}

#[test]
fn the_longest_delays_do_not_panic() {
    let mut h = Harness::new();
    let timer = h.server.set_timer(Duration::MAX);
    let interval = h.server.set_interval(Duration::MAX);
    let zero = h.server.set_interval(Duration::ZERO);
    h.until_seen("two periods", 2, |seen| *seen == Seen::Timer(zero));
    assert!(h.server.cancel_timer(zero));
    h.settle();
    assert!(h.server.next_timeout().unwrap() > FOREVER);
    let tick = h.server.poll_for(MS).unwrap();
    assert!(tick.is_empty());
    assert!(h.server.cancel_timer(timer) && h.server.cancel_timer(interval));
}

#[test]
fn polls_return_at_their_limit_or_the_next_timer() {
    let mut h = Harness::new();
    assert!(h.server.poll_once().unwrap().is_empty());
    assert!(h.server.poll_for(5 * MS).unwrap().is_empty());
    // Without a limit only the timer can end the sleep. A sleep may end slightly early by rounding,
    // but not by an event.
    let timer = h.server.set_timer(10 * MS);
    let deadline = Deadline::new();
    let mut polls = 0;
    while h.seen.is_empty() {
        let tick = h.server.poll_wait(None).unwrap();
        h.seen.extend(tick.iter().map(Seen::from));
        polls += 1;
        deadline.check("the timer");
    }
    assert_eq!(h.seen, [Seen::Timer(timer)]);
    assert!(polls <= 5, "{polls} polls: the server does not sleep");
}

#[test]
fn an_idle_server_with_clients_sleeps() {
    let mut h = Harness::new();
    let clients: Vec<_> = (0..10).map(|_| h.connect()).collect();
    h.settle();
    let timer = h.server.set_timer(100 * MS);
    let mut polls = 0;
    while !h.seen.contains(&Seen::Timer(timer)) {
        let tick = h.server.poll_wait(None).unwrap();
        h.seen.extend(tick.iter().map(Seen::from));
        polls += 1;
        assert!(polls < 20, "the server does not sleep");
    }
    drop(clients);
}

#[cfg(unix)]
mod external_loop {
    use std::os::fd::{AsFd, AsRawFd};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    /// Whether the server's descriptor becomes readable within [`support::PATIENCE`].
    fn becomes_readable(h: &Harness) -> bool {
        let patience = support::PATIENCE.try_into().unwrap();
        let mut fds = [PollFd::new(&h.server, PollFlags::IN)];
        poll(&mut fds, Some(&patience)).unwrap() == 1
    }

    fn is_readable(h: &Harness) -> bool {
        poll(&mut [PollFd::new(&h.server, PollFlags::IN)], Some(&Default::default())).unwrap() == 1
    }

    #[test]
    fn the_descriptor_is_readable_only_when_io_is_pending() {
        let mut h = Harness::new();
        assert_eq!(h.server.as_fd().as_raw_fd(), h.server.as_raw_fd());
        h.settle();
        assert!(!is_readable(&h));

        let mut raw = h.dial();
        assert!(becomes_readable(&h), "a connection is pending");
        h.settle();
        assert!(!is_readable(&h), "a poll has accepted it");

        let request = raw::upgrade_request("/", "");
        raw.write_some(request.as_bytes()).unwrap();
        assert!(becomes_readable(&h), "a request is pending");
        h.head(&mut raw);
        h.settle();
        assert!(!is_readable(&h));

        raw.write_some(&raw::text("hello")).unwrap();
        assert!(becomes_readable(&h), "a message is pending");
        h.settle();
        assert!(!is_readable(&h));
        drop(raw);
        assert!(becomes_readable(&h), "the end of a connection is pending");
    }

    #[test]
    fn polling_only_when_readable_or_due_misses_nothing() {
        let mut h = Harness::new();
        let (mut raw, id) = h.connect();
        let timer = h.server.set_interval(7 * MS);
        let deadline = Deadline::new();
        let (mut sent, mut echoed) = (0, 0);
        while echoed < 50 || !h.seen.contains(&Seen::Timer(timer)) {
            if sent == echoed {
                raw.write_some(&raw::text(&sent.to_string())).unwrap();
                sent += 1;
            }
            let timeout = h.server.next_timeout().unwrap_or(support::PATIENCE).try_into().unwrap();
            poll(&mut [PollFd::new(&h.server, PollFlags::IN)], Some(&timeout)).unwrap();
            let tick = h.server.poll_once().unwrap();
            for event in &tick {
                support::echo(&mut h.server, event);
            }
            h.seen.extend(tick.iter().map(Seen::from));
            h.server.flush();
            raw.read_some();
            echoed += raw.take_frames().len();
            deadline.check("the echoes");
        }
        assert_eq!(h.closes(id).next(), None);
    }
}
