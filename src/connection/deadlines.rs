//! The deadlines of one client. They share one wheel entry, set to the earliest.

use std::time::{Duration, Instant};

use crate::{
    config::Config,
    event::close_reason::TimeoutKind,
    util::{packed_duration::PackedDuration, time::after},
};

/// An action that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Ping,
    Timeout(TimeoutKind),
}

/// The instants from which a client's deadlines are computed. A message only sets `heard` and
/// re-arms nothing. Instants that change rarely are stored relative to `opened`, in half the
/// memory.
#[derive(Debug)]
pub(crate) struct Deadlines {
    opened: Instant,
    heard: Instant,
    pinged: PackedDuration,
    /// The first ping since the last byte was received.
    asked: Option<PackedDuration>,
    /// When the kernel last took a byte; `None` while no bytes are queued.
    stuck: Option<PackedDuration>,
    close_by: Option<PackedDuration>,
}

impl Deadlines {
    pub(crate) fn new(now: Instant) -> Self {
        let pinged = PackedDuration::new(Duration::ZERO);
        Deadlines { opened: now, heard: now, pinged, asked: None, stuck: None, close_by: None }
    }

    /// A byte was received, so the peer is alive.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
    }

    pub(crate) fn last_heard(&self) -> Instant {
        self.heard
    }

    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    pub(crate) fn pinged(&mut self, now: Instant) {
        self.pinged = self.since_opened(now);
        self.asked.get_or_insert(self.pinged);
    }

    /// Bytes are queued, and at `now` the kernel took some of them or the first write would block.
    pub(crate) fn stuck_since(&mut self, now: Instant) {
        self.stuck = Some(self.since_opened(now));
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    pub(crate) fn unstuck(&mut self) {
        self.stuck = None;
    }

    /// Sets the deadline at which a closing connection is dropped.
    pub(crate) fn close_by(&mut self, deadline: Instant) {
        self.close_by = Some(self.since_opened(deadline));
    }

    /// The first deadline of an open connection. While reading is `paused`, silence does not count.
    #[inline]
    pub(crate) fn next(&self, config: &Config, paused: bool) -> Option<Instant> {
        self.all(config, paused).into_iter().flatten().map(|(when, _)| when).min()
    }

    /// The most severe action that is due at `now`.
    pub(crate) fn due(&self, config: &Config, paused: bool, now: Instant) -> Option<Due> {
        self.all(config, paused).into_iter().flatten().find(|(when, _)| *when <= now).map(|(_, due)| due)
    }

    pub(crate) fn since_opened(&self, when: Instant) -> PackedDuration {
        PackedDuration::new(when.saturating_duration_since(self.opened))
    }

    fn all(&self, config: &Config, paused: bool) -> [Option<(Instant, Due)>; 5] {
        let at = |since: PackedDuration| after(self.opened, since.get());
        let after = |start: Instant, wait: Option<Duration>| Some(after(start, wait?));
        let due = |when: Option<Instant>, due: Due| when.map(|when| (when, due));
        let closing = self.close_by.is_some();
        let unless = |off: bool, wait: Option<Duration>| if off { None } else { wait };
        // A peer is dead after `silence_timeout`, but not before it had time to answer a ping.
        // Otherwise a host that was suspended would close all clients because of pings that it did
        // not send.
        let silence = match (config.silence_timeout, config.ping_interval, self.asked) {
            _ if closing || paused => None,
            (Some(silence), Some(ping), Some(asked)) => {
                let pong_by = after(at(asked), Some(silence.saturating_sub(ping)));
                after(self.heard, Some(silence)).max(pong_by)
            }
            (Some(_), Some(_), None) => None,
            (silence, ..) => after(self.heard, silence),
        };
        let stuck = self.stuck.and_then(|since| after(at(since), Some(config.write_timeout)));
        [
            due(self.close_by.map(at), Due::Timeout(TimeoutKind::Close)),
            due(stuck, Due::Timeout(TimeoutKind::Write)),
            due(silence, Due::Timeout(TimeoutKind::Silence)),
            due(
                after(self.opened, unless(closing, config.max_lifetime)),
                Due::Timeout(TimeoutKind::Lifetime),
            ),
            due(after(at(self.pinged), unless(closing, config.ping_interval)), Due::Ping),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_is_the_earliest_deadline_and_due_the_most_severe() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let config = Config { max_lifetime: Some(Duration::from_secs(100)), ..Config::default() };
        let mut deadlines = Deadlines::new(start);
        assert_eq!(deadlines.next(&config, false), Some(at(54)));
        assert_eq!(deadlines.due(&config, false, at(53)), None);
        assert_eq!(deadlines.due(&config, false, at(54)), Some(Due::Ping));
        deadlines.pinged(at(54));
        assert_eq!(deadlines.due(&config, false, at(60)), Some(Due::Timeout(TimeoutKind::Silence)));
        assert_eq!(deadlines.due(&config, true, at(60)), None, "paused");
        deadlines.heard(at(60));
        deadlines.stuck_since(at(61));
        assert_eq!(deadlines.due(&config, false, at(71)), Some(Due::Timeout(TimeoutKind::Write)));
        deadlines.unstuck();
        assert_eq!(deadlines.due(&config, false, at(100)), Some(Due::Timeout(TimeoutKind::Lifetime)));
        deadlines.close_by(at(110));
        assert_eq!(deadlines.next(&config, false), Some(at(110)), "only the close deadline is left");
    }

    #[test]
    fn disabled_deadlines_are_never_due() {
        let config = Config { ping_interval: None, silence_timeout: None, ..Config::default() };
        assert_eq!(Deadlines::new(Instant::now()).next(&config, false), None);
    }
}
