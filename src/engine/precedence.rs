//! Who is read while much input is held: few clients at a time, until their messages are complete.
//!
//! If all clients were read in turns while each sends a large message, all messages would stay
//! incomplete until the memory limit closes clients that are allowed to send what they send.

use std::time::{Duration, Instant};

use super::{Engine, Stream, slot_mut, timers::Alarm};
use crate::{
    connection::slot::Stage,
    id::ClientId,
    util::{time::after, timer_wheel},
};

/// The clients that are read to the end of their messages.
#[derive(Debug, Default)]
pub(super) struct Precedence {
    leaders: Vec<ClientId>,
    /// Set while a client is a leader or is held back for one.
    timer: Option<timer_wheel::Key>,
}

impl Precedence {
    #[cfg(any(test, fuzzing))]
    pub(super) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }
}

impl<S: Stream> Engine<S> {
    /// A leader that has sent nothing for this long loses its precedence.
    const STALL: Duration = Duration::from_millis(250);

    /// Whether this client may not be read now, because enough others are read.
    #[inline]
    pub(super) fn yields(&mut self, index: usize, now: Instant) -> bool {
        if self.memory_limit.inbound <= self.memory_limit.uncrowded {
            return false;
        }
        self.yields_to_leaders(index, now)
    }

    #[inline(never)]
    fn yields_to_leaders(&mut self, index: usize, now: Instant) -> bool {
        let most = (self.memory_limit.uncrowded / self.config.max_message_size).max(1);
        let id = self.id(index);
        let client = &mut self.clients[index];
        let Stage::Open(open) = &client.stage else { return false };
        // A connection that ends holds no further messages.
        if client.leads || open.pending_reason.is_some() || client.failed.is_some() {
            return false;
        }
        let leads = self.precedence.leaders.len() < most;
        if leads {
            client.leads = true;
            self.precedence.leaders.push(id);
        } else if !std::mem::replace(&mut client.held_back, true) {
            self.memory_limit.held_back.push_back(id);
        }
        if self.precedence.timer.is_none() {
            self.precedence.timer = Some(self.wheel.insert(after(now, Self::STALL), Alarm::Stall));
        }
        !leads
    }

    /// Ends the precedence of a client whose message is complete, and lets another client be read.
    pub(super) fn end_precedence(&mut self, id: ClientId) {
        self.precedence.leaders.retain(|leader| *leader != id);
        if let Some(client) = slot_mut(&mut self.clients, id) {
            client.leads = false;
        }
        self.admit_next();
    }

    /// Lets the client that was held back first be read, or all if the input is no longer much.
    pub(super) fn admit_next(&mut self) {
        if self.memory_limit.pressure >= crate::event::pressure::Pressure::NotReading {
            return;
        }
        let all = self.memory_limit.inbound <= self.memory_limit.uncrowded;
        while let Some(id) = self.memory_limit.held_back.pop_front() {
            if let Some(client) = slot_mut(&mut self.clients, id)
                && std::mem::take(&mut client.held_back)
            {
                self.make_ready(id.index());
                if !all {
                    return;
                }
            }
        }
    }

    /// Ends the precedence of leaders that have sent nothing for a while.
    pub(super) fn end_stalled(&mut self, now: Instant) {
        self.precedence.timer = None;
        for id in std::mem::take(&mut self.precedence.leaders) {
            let Some(client) = slot_mut(&mut self.clients, id) else {
                self.admit_next();
                continue;
            };
            if after(client.deadlines.last_heard(), Self::STALL) <= now && !client.in_ready {
                client.leads = false;
                self.admit_next();
            } else {
                self.precedence.leaders.push(id);
            }
        }
        if !self.precedence.leaders.is_empty() || !self.memory_limit.held_back.is_empty() {
            // Leaders are few; if there are none, the next client to be read becomes one.
            if self.precedence.leaders.is_empty() {
                self.admit_next();
            }
            self.precedence.timer = Some(self.wheel.insert(after(now, Self::STALL), Alarm::Stall));
        }
    }
}
