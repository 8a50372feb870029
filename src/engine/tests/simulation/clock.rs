//! Checks of time: timers are never early and at most one wheel tick late, no deadline passes too
//! early, and no client gets more than its read budget in a poll.

use std::time::Instant;

use super::*;
use crate::{TimeoutKind, connection::slot::Slot};

/// A model of the application's timers.
#[derive(Debug, Default)]
pub(super) struct Timers(Vec<Timer>);

#[derive(Debug)]
struct Timer {
    id: TimerId,
    due: Instant,
    period: Option<Duration>,
}

impl Timers {
    pub(super) fn set(&mut self, id: TimerId, due: Instant, period: Option<Duration>) {
        self.0.push(Timer { id, due, period });
    }

    /// Removes the newest timer, to be cancelled.
    pub(super) fn take(&mut self) -> Option<TimerId> {
        self.0.pop().map(|timer| timer.id)
    }

    pub(super) fn fired(&mut self, id: TimerId, now: Instant) {
        let at = self.0.iter().position(|timer| timer.id == id).expect("a timer that nobody set, or twice");
        let timer = &mut self.0[at];
        assert!(timer.due <= now, "{:?} early", timer.due - now);
        match timer.period {
            None => _ = self.0.remove(at),
            // Missed periods are skipped.
            Some(period) => {
                while timer.due <= now {
                    timer.due += period;
                }
            }
        }
    }

    /// Checks that no timer is overdue after a poll that left none over. The resolution is 1 ms.
    pub(super) fn check(&self, now: Instant) {
        let late = self.0.iter().find(|timer| timer.due + MS <= now);
        assert!(late.is_none(), "at {now:?} still waiting: {late:?}");
    }
}

/// Times of one client's activity, from which its deadlines count.
#[derive(Debug)]
pub(super) struct Moments {
    born: Instant,
    traffic: (u64, u64),
    heard: Instant,
    took: Instant,
    closing: Option<Instant>,
}

impl Moments {
    pub(super) fn new(now: Instant) -> Self {
        Moments { born: now, traffic: (0, 0), heard: now, took: now, closing: None }
    }

    /// Notes the client's traffic after each poll.
    pub(super) fn note(&mut self, actor: &Actor, read_budget: usize, now: Instant) {
        let (up, down) = actor.peer.traffic();
        assert!(up - self.traffic.0 <= read_budget as u64, "more than its share: {actor:?}");
        if up > self.traffic.0 {
            self.heard = now;
        }
        if down > self.traffic.1 {
            self.took = now;
        }
        self.traffic = (up, down);
        if actor.closing {
            self.closing.get_or_insert(now);
        }
    }

    /// Checks that a client's timeout was due, in a poll that was not noted yet.
    pub(super) fn check(&self, timeout: TimeoutKind, actor: &Actor, config: &Config, now: Instant) {
        let (since, wait) = match timeout {
            TimeoutKind::Silence => {
                assert_eq!(actor.peer.traffic().0, self.traffic.0, "it was heard: {actor:?}");
                (Some(self.heard), config.silence_timeout)
            }
            TimeoutKind::Write => (Some(self.took), Some(config.write_timeout)),
            TimeoutKind::Close => (self.closing, Some(config.close_timeout)),
            TimeoutKind::Lifetime => (Some(self.born), config.max_lifetime),
        };
        let since = since
            .unwrap_or_else(|| panic!("{timeout:?} without a beginning at {now:?}: {self:?}, {actor:?}"));
        assert!(now >= since + wait.expect("it is set"), "{timeout:?} too early: {self:?}, {actor:?}");
    }
}

/// Checks that no deadline of a client is overdue after a poll, unless alarms were left over.
pub(super) fn check_deadlines<S>(client: &Slot<S>, config: &Config, now: Instant) {
    let due = client.next_deadline(config);
    assert!(due.is_none_or(|due| now < due + MS), "overdue by {:?}", due.map(|due| now - due));
}
