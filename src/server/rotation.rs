//! Polls and flushes with a time budget: all kinds of work in turns, step by step, until the time
//! is over (law 1, ARCHITECTURE.md).

use std::{
    io,
    time::{Duration, Instant},
};

use super::Server;
use crate::{engine::Work, event::tick::Tick};

/// What is left of the budgets that count, in one poll.
struct Counts {
    commands: usize,
    accepts: usize,
    dials: usize,
}

/// A kind of work of which a poll does one step at a time.
#[derive(Clone, Copy)]
enum Kind {
    Engine(Work),
    Commands,
    Accepts,
    Dials,
}

/// The work of a flush: it makes no events.
const FLUSH: [Kind; 2] = [Kind::Engine(Work::Output), Kind::Engine(Work::Endings)];

const POLL: [Kind; 8] = [
    Kind::Engine(Work::Output),
    Kind::Engine(Work::Input),
    Kind::Engine(Work::Handshakes),
    Kind::Engine(Work::Endings),
    Kind::Engine(Work::Timers),
    Kind::Accepts,
    Kind::Commands,
    Kind::Dials,
];

impl Server {
    /// How long output may be left over by each call before the log says so.
    const PATIENCE: Duration = Duration::from_secs(1);

    /// As `poll_wait`, with a time budget. The time that the poll sleeps does not count.
    pub(super) fn poll_in_turns(&mut self, timeout: Option<Duration>, budget: Duration) -> io::Result<Tick> {
        let mut counts = Counts {
            commands: self.command_budget(),
            accepts: self.engine.config().accept_budget,
            dials: self.engine.config().accept_budget,
        };
        let woken = self.open_mailbox();
        let called = self.now();
        let mut left = budget;
        // What is queued leaves before a sleep. Without a sleep it has its turns below.
        if !woken && timeout != Some(Duration::ZERO) {
            self.take_turns(&FLUSH, &mut counts, called, called.checked_add(left / 2));
            left = left.saturating_sub(self.now().saturating_duration_since(called));
        }
        let timeout = if woken { Some(Duration::ZERO) } else { self.sleep_time(timeout, called) };
        self.host.sleep(timeout)?;
        let slept = timeout != Some(Duration::ZERO);
        let now = self.now();
        let stop = now.checked_add(left);
        if slept {
            self.open_mailbox();
        }
        let full = self.host.has_full_report();
        let Server { host, engine, .. } = self;
        engine.start_poll(called, now, full);
        host.report(|index, readiness| engine.ready(index, readiness, now));
        self.take_resolved(now);
        self.engine.begin_steps();
        self.swapped_in = false;
        let cut = self.take_turns(&POLL, &mut counts, now, stop);
        if std::mem::take(&mut self.swapped_in) {
            // This server has not begun a poll.
            return self.poll_wait(Some(Duration::ZERO));
        }
        self.note_cut(cut, now);
        Ok(self.finish_poll(now, full))
    }

    /// As `flush`, with a time budget.
    pub(super) fn flush_in_turns(&mut self, budget: Duration) {
        let now = self.now();
        let mut counts = Counts { commands: 0, accepts: 0, dials: 0 };
        let cut = self.take_turns(&FLUSH, &mut counts, now, now.checked_add(budget));
        self.note_cut(cut, now);
    }

    /// Does one step of each kind, and goes on in this way until nothing is left or the time is
    /// over. Returns whether the time was over.
    fn take_turns(
        &mut self,
        kinds: &[Kind],
        counts: &mut Counts,
        now: Instant,
        stop: Option<Instant>,
    ) -> bool {
        // The first round is always complete, so that no kind of work starves.
        let (mut is_first, mut any) = (true, true);
        // A full report leaves input for the next poll, of clients that this poll does not know.
        let leaves_input = self.host.has_full_report();
        while std::mem::take(&mut any) {
            let mut has_input = leaves_input;
            for kind in kinds {
                if !is_first && stop.is_some_and(|stop| self.now() >= stop) {
                    return true;
                }
                // A handshake costs as much as many messages: it waits until all input is read.
                if has_input && !is_first && matches!(kind, Kind::Engine(Work::Handshakes)) {
                    continue;
                }
                let is_done = self.take_turn(*kind, counts, now);
                has_input |= is_done && matches!(kind, Kind::Engine(Work::Input));
                any |= is_done;
                if self.swapped_in {
                    return false;
                }
            }
            is_first = false;
        }
        false
    }

    fn take_turn(&mut self, kind: Kind, counts: &mut Counts, now: Instant) -> bool {
        match kind {
            Kind::Engine(work) => self.engine.step(work, now),
            Kind::Commands => self.carry_out_next(&mut counts.commands),
            Kind::Accepts => self.accept_next(&mut counts.accepts, now),
            Kind::Dials => self.dial_next(&mut counts.dials, now),
        }
    }

    /// Counts a call that ended with output left over, and warns if such calls go on for long.
    fn note_cut(&mut self, cut: bool, now: Instant) {
        let waiting = self.engine.unflushed();
        if !cut || waiting == 0 {
            self.cut_since = None;
            return;
        }
        self.engine.count_cut();
        match &mut self.cut_since {
            None => self.cut_since = Some((now, false)),
            Some((since, warned)) if !*warned && now.saturating_duration_since(*since) >= Self::PATIENCE => {
                *warned = true;
                log::warn!(
                    "time_budget is too small for what is sent: for {:?} no call has written all \
                     output, and {waiting} clients wait now; raise the budget or poll more often",
                    Self::PATIENCE
                );
            }
            Some(_) => {}
        }
    }
}
