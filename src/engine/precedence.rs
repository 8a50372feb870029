//! Who is read while much input is held: all clients with small messages, and few clients at a time
//! whose messages are large, until those are complete.
//!
//! If all clients were read in turns while each sends a large message, all messages would stay
//! incomplete until the memory limit closes clients that are allowed to send what they send.
//!
//! The input held is bounded by the sum of: a quarter of the memory limit, from where on this
//! applies; as much again, for the messages of the leaders; and 8 KiB for each other client.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Engine, Stream, slot_mut, timers::Alarm};
use crate::{
    connection::slot::{Slot, Stage},
    event::pressure::Pressure,
    id::ClientId,
    util::{time::after, timer_wheel},
};

/// The clients that are read to the end of their large messages, and those that wait for it.
#[derive(Debug)]
pub(super) struct Precedence {
    /// Up to this many bytes of input all clients are read alike.
    uncrowded: usize,
    /// The most leaders at a time.
    most: usize,
    leaders: Vec<Leader>,
    /// Ready clients that hold the beginning of a large message, in the order of their wait.
    waiting: VecDeque<ClientId>,
    /// Set while there are leaders.
    timer: Option<timer_wheel::Key>,
}

/// A client that is read while others wait.
#[derive(Debug)]
struct Leader {
    client: ClientId,
    /// Messages that the client had sent when it became a leader.
    messages: u64,
    /// Bytes that the client had sent at the last check of its progress.
    bytes: u64,
    /// Whether the client had a turn since that check.
    had_turn: bool,
}

impl Precedence {
    pub(super) fn new(memory_limit: Option<usize>, max_message_size: usize) -> Self {
        let uncrowded = memory_limit.map_or(usize::MAX, |limit| limit / 4);
        Precedence {
            uncrowded,
            most: (uncrowded / max_message_size.max(1)).max(1),
            leaders: Vec::new(),
            waiting: VecDeque::new(),
            timer: None,
        }
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }
}

impl<S: Stream> Engine<S> {
    /// A client with no more input than this holds no large message. While much input is held, a
    /// client that is not a leader is read in pieces of this size.
    const SMALL: u32 = 4 * 1024;

    /// A leader loses its precedence if it sends less than `PACE` bytes in this time.
    const STALL: Duration = Duration::from_millis(250);
    const PACE: u64 = 8 * 1024;

    /// Whether so much input is held that large messages are read a few at a time.
    #[inline]
    fn is_crowded(&self) -> bool {
        self.memory_limit.inbound > self.precedence.uncrowded
    }

    /// The most bytes that the client may be read in this turn; `None` if it has to wait until a
    /// leader's message is complete.
    #[inline]
    pub(super) fn share(&mut self, index: usize, now: Instant) -> Option<usize> {
        if self.is_crowded() { self.crowded_share(index, now) } else { Some(usize::MAX) }
    }

    #[inline(never)]
    fn crowded_share(&mut self, index: usize, now: Instant) -> Option<usize> {
        let id = self.id(index);
        let client = &mut self.clients[index];
        let Stage::Open(open) = &client.stage else { return Some(usize::MAX) };
        // A connection that ends holds no further messages.
        if client.leads || open.pending_reason.is_some() || client.failed.is_some() {
            return Some(usize::MAX);
        }
        if client.counted_inbound <= Self::SMALL {
            return Some(Self::SMALL as usize);
        }
        if self.precedence.leaders.len() < self.precedence.most {
            self.lead(id, now);
            return Some(usize::MAX);
        }
        if !std::mem::replace(&mut client.held_back, true) {
            self.precedence.waiting.push_back(id);
            self.forget_gone();
        }
        None
    }

    /// Removes the ids of clients that are gone when they are most of those that wait, so that
    /// clients that come and go cannot make the queue grow.
    fn forget_gone(&mut self) {
        let Engine { precedence, clients, .. } = self;
        if precedence.waiting.len() > 2 * clients.len() + 64 {
            precedence.waiting.retain(|id| slot_mut(clients, *id).is_some());
        }
    }

    fn lead(&mut self, id: ClientId, now: Instant) {
        let Some(client) = slot_mut(&mut self.clients, id) else { return };
        client.leads = true;
        let (messages, bytes) = (messages_of(client), client.bytes_in);
        self.precedence.leaders.push(Leader { client: id, messages, bytes, had_turn: false });
        if self.precedence.timer.is_none() {
            self.precedence.timer = Some(self.wheel.insert(after(now, Self::STALL), Alarm::Stall));
        }
    }

    /// Ends the precedence of a client whose message is complete. Called after a leader's turn.
    pub(super) fn after_leaders_turn(&mut self, index: usize) {
        let id = self.id(index);
        let client = &self.clients[index];
        let small = client.counted_inbound <= Self::SMALL;
        let Some(leader) = self.precedence.leaders.iter_mut().find(|leader| leader.client == id) else {
            return;
        };
        leader.had_turn = true;
        if small || messages_of(client) != leader.messages {
            self.end_precedence(id);
        }
    }

    /// Removes a client from the leaders.
    pub(super) fn end_precedence(&mut self, id: ClientId) {
        self.precedence.leaders.retain(|leader| leader.client != id);
        if let Some(client) = slot_mut(&mut self.clients, id) {
            client.leads = false;
        }
    }

    /// Whether a client that was held back may be read now.
    #[inline]
    pub(super) fn may_admit(&self) -> bool {
        let waits = !self.precedence.waiting.is_empty();
        (waits && (!self.is_crowded() || self.precedence.leaders.len() < self.precedence.most))
            || (!self.memory_limit.held_back.is_empty() && self.pressure() < Pressure::NotReading)
    }

    /// Makes the client ready that was held back first. Each turn of a client admits one, so that
    /// no call is long.
    #[inline(never)]
    pub(super) fn admit_next(&mut self, now: Instant) {
        let stopped = self.pressure() >= Pressure::NotReading;
        let next = if stopped { None } else { self.memory_limit.held_back.pop_front() };
        let leads = next.is_none() && self.is_crowded();
        let Some(id) = next.or_else(|| self.precedence.waiting.pop_front()) else { return };
        let Some(client) = slot_mut(&mut self.clients, id) else { return };
        client.held_back = false;
        if leads {
            self.lead(id, now);
        }
        self.make_ready(id.index());
    }

    /// Ends the precedence of leaders that have sent little since the last check, although they
    /// were read.
    pub(super) fn end_stalled(&mut self, now: Instant) {
        let Engine { precedence, clients, .. } = self;
        precedence.leaders.retain_mut(|leader| {
            let Some(client) = slot_mut(clients, leader.client) else { return false };
            let was_read = std::mem::take(&mut leader.had_turn) || !client.in_ready;
            client.leads = !was_read || client.bytes_in >= leader.bytes + Self::PACE;
            leader.bytes = client.bytes_in;
            client.leads
        });
        precedence.timer = None;
        if !precedence.leaders.is_empty() {
            precedence.timer = Some(self.wheel.insert(after(now, Self::STALL), Alarm::Stall));
        }
    }
}

/// The number of messages that an open connection has sent.
fn messages_of<S>(client: &Slot<S>) -> u64 {
    client.open().map_or(0, |open| open.messages_in)
}
