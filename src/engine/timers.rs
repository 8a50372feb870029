//! Deadlines and application timers, all on one wheel.

use std::time::{Duration, Instant};

use super::{Engine, Stream, endings::Sweep};
use crate::{
    close_code::CloseCode,
    connection::{
        deadlines::Due,
        slot::{Grace, Stage},
    },
    event::close_reason::{CloseReason, TimeoutKind},
    id::{Serial, TimerId},
    util::{time::after, timer_wheel},
};

/// The target of a wheel entry.
#[derive(Debug, Clone, Copy)]
pub(super) enum Alarm {
    /// The client at this index. The entry is cancelled before the slot is reused.
    Slot(u32),
    Timer(u32),
    Shutdown,
    /// Reading was stopped for too long under memory pressure.
    Grace,
    /// A leader may have stalled, so that others are held back for nothing.
    Stall,
    /// Ends the host's sleep for a deadline that is kept outside the engine.
    Wake,
}

/// A timer of the application.
#[derive(Debug)]
pub(super) struct AppTimer {
    serial: Serial,
    key: timer_wheel::Key,
    deadline: Instant,
    period: Option<Duration>,
}

impl<S: Stream> Engine<S> {
    /// Alarms handled in one poll without a time budget. One that ends a connection counts twice,
    /// because it closes a socket, and one that queues a last response counts four times.
    const MAX_ALARMS: usize = 256;

    /// The resolution of the wheel; a shorter period would keep the host awake.
    const MIN_PERIOD: Duration = Duration::from_millis(1);

    /// Fires timers that are due, within the event budget.
    pub(crate) fn fire_timers(&mut self, now: Instant) {
        self.tick.leave_room(self.config.event_budget, 2);
        let mut left = Self::MAX_ALARMS;
        while left > 0 {
            let before = (self.endings, self.lingering);
            if !self.timer_next(now) {
                break;
            }
            let cost = match (self.endings > before.0, self.lingering > before.1) {
                (_, true) => 4,
                (true, false) => 2,
                (false, false) => 1,
            };
            left = left.saturating_sub(cost);
        }
        self.sweep_some(now);
    }

    /// Fires one timer. `false`: none is due, or the tick has no room for its event.
    #[inline]
    pub(super) fn timer_next(&mut self, now: Instant) -> bool {
        // One event is reserved for input. With a budget of one, timers and input alternate.
        let reserved = if self.config.event_budget == 1 { self.poll as usize % 2 } else { 1 };
        if self.tick.events_left(self.config.event_budget) <= reserved {
            self.timers_left = self.wheel.next_deadline().is_some_and(|deadline| deadline <= now);
            return false;
        }
        let alarm = self.wheel.pop_expired(now);
        // Whether further timers are due is known when the next one is looked for.
        self.timers_left = alarm.is_some();
        match alarm {
            None => return false,
            Some(Alarm::Slot(index)) => self.client_due(index as usize, now),
            Some(Alarm::Timer(index)) => self.timer_due(index, now),
            Some(Alarm::Shutdown) => {
                self.shutdown_is_due = true;
                self.begin_sweep(Sweep::dropping(), now);
            }
            Some(Alarm::Grace) => self.end_grace(now),
            Some(Alarm::Stall) => self.end_stalled(now),
            Some(Alarm::Wake) => {}
        }
        true
    }

    /// Fires once after `delay`, or every `delay` if it repeats.
    pub(crate) fn set_timer(&mut self, delay: Duration, repeat: bool, now: Instant) -> TimerId {
        let period = repeat.then(|| delay.max(Self::MIN_PERIOD));
        let deadline = after(now, period.unwrap_or(delay));
        let serial = self.next_timer.take();
        let entry = self.timers.vacant_entry();
        let index = entry.key() as u32;
        let key = self.wheel.insert(deadline, Alarm::Timer(index));
        entry.insert(AppTimer { serial, key, deadline, period });
        TimerId::new(index, serial)
    }

    /// Cancels a timer; `false` if it fired for the last time or was cancelled before.
    pub(crate) fn cancel_timer(&mut self, id: TimerId) -> bool {
        let known = self.timers.get(id.index()).is_some_and(|timer| timer.serial == id.serial());
        if known {
            let timer = self.timers.remove(id.index());
            self.wheel.cancel(timer.key);
        }
        known
    }

    /// Makes the host's sleep end at `deadline`.
    pub(crate) fn wake_at(&mut self, deadline: Instant) {
        self.wheel.insert(deadline, Alarm::Wake);
    }

    /// Moves the client's wheel entry if its next deadline is earlier now. If it is later, the
    /// entry fires once without effect and is set anew, which is cheaper than moving it for each
    /// message.
    pub(super) fn rearm(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(next) = client.next_deadline(&self.config) else { return };
        if let Some(key) = client.timer {
            if self.wheel.fires_by(key, next) {
                return;
            }
            self.wheel.cancel(key);
        }
        client.timer = Some(self.wheel.insert(next, Alarm::Slot(index as u32)));
    }

    fn client_due(&mut self, index: usize, now: Instant) {
        let Some(client) = self.clients.get_mut(index) else { return };
        client.timer = None;
        self.unthrottle(index, now);
        let client = &mut self.clients[index];
        // Time in which our own budget did not reach the client does not count.
        let waits = self.config.time_budget.is_some() && client.in_dirty;
        match client.deadlines.due(&self.config, client.is_paused(), now) {
            None => {}
            Some(Due::Ping) => {
                client.deadlines.pinged(now);
                if let Some((open, _)) = client.open_mut() {
                    open.connection.rest();
                }
                if client.is_live() {
                    let id = self.id(index);
                    // A client that is closing needs no ping.
                    let _ = self.ping(id, now);
                }
            }
            // Unread input is a sign of life. A ping that waits for its turn cannot be answered.
            Some(Due::Timeout(TimeoutKind::Silence)) if client.readable || waits => {
                client.deadlines.heard(now);
            }
            // The close frame or the last response waits for its turn.
            Some(Due::Timeout(TimeoutKind::Close)) if waits && client.dial_mut().is_none() => {
                client.deadlines.close_by(after(now, self.config.close_timeout));
            }
            Some(Due::Timeout(TimeoutKind::Close)) if client.failed.is_some() && client.open().is_some() => {
                return self.broken_is_due(index, now);
            }
            // The input may have arrived in time while the host was away.
            Some(Due::Timeout(TimeoutKind::Close))
                if client.readable
                    && client.awaits_input()
                    && (client.grace == Grace::None || (client.grace == Grace::Given && client.in_ready)) =>
            {
                client.grace = Grace::Given;
                client.deadlines.close_by(after(now, Self::GRACE_TO_READ));
            }
            Some(Due::Timeout(timeout)) => match (&client.stage, timeout) {
                // The connection is not idle while its response leaves or its next request is
                // unread.
                (Stage::Handshake(_), TimeoutKind::Close)
                    if client.is_idle_http() && (client.outbox.has_work() || client.readable) =>
                {
                    client.deadlines.close_by(after(now, self.config.keep_alive_timeout));
                }
                (Stage::Dialing(_), _) => return self.dial_due(index, now),
                (Stage::Handshake(_) | Stage::Request(_) | Stage::Linger { .. }, _) => {
                    return self.overdue(index, now);
                }
                (Stage::Open(open), TimeoutKind::Lifetime)
                    if open.connection.close_state().may_send_data() =>
                {
                    let reason = CloseReason::Timeout(TimeoutKind::Lifetime);
                    self.begin_close(index, CloseCode::GOING_AWAY, "maximum lifetime", reason, now);
                }
                (Stage::Open(_), timeout) => return self.remove(index, CloseReason::Timeout(timeout)),
            },
        }
        self.rearm(index);
    }

    /// Handles the deadline of a broken connection that was not read to its end. If its turn is
    /// still to come, because the host was away, it gets a grace period.
    fn broken_is_due(&mut self, index: usize, now: Instant) {
        let client = &mut self.clients[index];
        if client.in_ready {
            client.deadlines.close_by(after(now, Self::GRACE_TO_READ));
            return self.rearm(index);
        }
        if let Some(kind) = client.failed {
            self.remove(index, CloseReason::Io(kind));
        }
    }

    fn timer_due(&mut self, index: u32, now: Instant) {
        let Some(timer) = self.timers.get_mut(index as usize) else { return };
        let id = TimerId::new(index, timer.serial);
        let mut missed = 0;
        match timer.period {
            None => {
                self.timers.remove(index as usize);
            }
            Some(period) => {
                // Missed periods are skipped; the phase is kept.
                let late = now.saturating_duration_since(timer.deadline).as_nanos();
                missed = u32::try_from(late / period.as_nanos()).unwrap_or(u32::MAX);
                let late = late % period.as_nanos();
                let late = Duration::from_nanos(u64::try_from(late).unwrap_or(0));
                timer.deadline = after(now, period - late);
                timer.key = self.wheel.insert(timer.deadline, Alarm::Timer(index));
            }
        }
        self.tick.timer(id, missed);
    }
}
