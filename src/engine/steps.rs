//! The steps of a poll or flush with a time budget. The host reads the clock between them.

use std::time::Instant;

use super::{Engine, Stream};

/// A kind of work of which a poll does one step at a time, in turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// A write to one client, of at most 64 KiB.
    Output,
    /// The final close frame of one client, or the next connection of a shutdown.
    Endings,
    /// One timer.
    Timers,
    /// One step of one TLS handshake.
    Handshakes,
    /// One turn of one client: a read, and the messages that it completes.
    Input,
}

impl<S: Stream> Engine<S> {
    /// Does one step. `false`: no work of this kind is left, or the tick has no room for it.
    pub(crate) fn step(&mut self, work: Work, now: Instant) -> bool {
        match work {
            Work::Output => self.output_next(now),
            Work::Endings => self.end_next(now),
            Work::Timers => self.timer_next(now),
            Work::Handshakes => self.handshake_next(now),
            Work::Input => self.input_next(now),
        }
    }

    /// The turn of the next client that has input. A client whose turn only queues its TLS
    /// handshake takes none: else a storm of hellos would keep the clients behind it waiting.
    fn input_next(&mut self, now: Instant) -> bool {
        loop {
            let queued = self.queued_handshakes();
            if !self.service_next(now) {
                return false;
            }
            if self.queued_handshakes() == queued {
                return true;
            }
        }
    }

    /// Prepares for the steps of a poll, after the readiness of streams was reported.
    pub(crate) fn begin_steps(&mut self) {
        self.tick.leave_room(self.config.event_budget, 2);
    }
}
