//! The server-wide memory limit on buffered bytes, and the steps taken as they approach it:
//!
//! | buffered, of `max_total_buffered` | step | until |
//! |---|---|---|
//! | input above 1/4 | large messages are read a few at a time (`precedence.rs`) | 1/4 |
//! | above 3/4 | new connections get a 503 response, or FIN instead of a TLS handshake | 5/8 |
//! | above 7/8 | no client is read: TCP slows the peers down | 3/4 |
//! | above 8/8, or [`Engine::GRACE`] without reads | the largest are closed with 1013 | 3/4 |

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Engine, Stream, timers::Alarm};
use crate::{
    close_code::CloseCode,
    connection::slot::{FinalClose, Slot, Stage},
    error::ConnectError,
    event::{close_reason::CloseReason, pressure::Pressure},
    id::ClientId,
    util::{time::after, timer_wheel},
};

/// State of the memory limit.
#[derive(Debug, Default)]
pub(super) struct MemoryLimit {
    pub(super) pressure: Pressure,
    /// Bytes of memory held by partial messages and request heads.
    pub(super) inbound: usize,
    /// Ready clients that are not read until the pressure falls.
    pub(super) held_back: VecDeque<ClientId>,
    /// When reading stopped, and the alarm that ends the wait.
    stopped: Option<(Instant, timer_wheel::Key)>,
}

impl<S: Stream> Engine<S> {
    /// How long peers may drain their data while no client is read, before the largest are closed.
    const GRACE: Duration = Duration::from_millis(250);

    /// Bounds of the rest that is kept so that a close frame can follow it, in bytes: of a
    /// half-sent frame, and what TLS holds. Between them it may be half of what closing the client
    /// frees.
    const MIN_REST: usize = 256;
    const MAX_REST: usize = 16 * 1024;

    /// Bytes held for all connections: partial messages, request heads, and queued output.
    pub(crate) fn total_buffered(&self) -> usize {
        self.memory_limit.inbound + self.outbound.held() + self.pending_pool.held() + self.batch.held()
    }

    pub(crate) fn pressure(&self) -> Pressure {
        self.memory_limit.pressure
    }

    /// Enforces the limit after something was queued: above it the largest clients are closed at
    /// once, whatever the pressure was.
    pub(super) fn enforce_memory_limit(&mut self) {
        if self.config.max_total_buffered.is_some_and(|memory_limit| self.total_buffered() > memory_limit) {
            self.close_largest();
        }
    }

    /// As `update_pressure`, and closes the largest clients if reading has stopped for too long.
    /// Called only after the kernel's events: the peers may have drained everything while the host
    /// was away.
    pub(super) fn end_grace(&mut self, now: Instant) {
        if self.memory_limit.stopped.is_some_and(|(since, _)| after(since, Self::GRACE) <= now) {
            self.close_largest();
        }
        self.update_pressure(now);
    }

    /// Sets the pressure that the buffered bytes call for, and reports a change.
    pub(super) fn update_pressure(&mut self, now: Instant) {
        let Some(memory_limit) = self.config.max_total_buffered else { return };
        if self.total_buffered() > memory_limit {
            self.close_largest();
        }
        let eighths = |count: usize| memory_limit / 8 * count;
        let total = self.total_buffered();
        let before = self.memory_limit.pressure;
        let above = |enter: usize, leave: usize, at: Pressure| {
            total > if before >= at { eighths(leave) } else { eighths(enter) }
        };
        let pressure = if above(7, 6, Pressure::NotReading) {
            Pressure::NotReading
        } else if above(6, 5, Pressure::Refusing) {
            Pressure::Refusing
        } else {
            Pressure::Low
        };
        if pressure == before {
            return;
        }
        self.memory_limit.pressure = pressure;
        log::log!(
            if pressure > before { log::Level::Warn } else { log::Level::Info },
            "memory pressure is {pressure:?}: {total} of at most {memory_limit} bytes are buffered"
        );
        self.tick.pressure(pressure);
        if pressure == Pressure::NotReading {
            self.stats.reading_stops += 1;
            let key = self.wheel.insert(after(now, Self::GRACE), Alarm::Grace);
            self.memory_limit.stopped = Some((now, key));
        } else if let Some((_, key)) = self.memory_limit.stopped.take() {
            self.wheel.cancel(key);
        }
    }

    /// Whether a ready client must wait until the pressure falls. A client that is closing need
    /// not: reading it frees what it holds.
    pub(super) fn hold_back(&mut self, index: usize) -> bool {
        if self.memory_limit.pressure < Pressure::NotReading {
            return false;
        }
        let id = self.id(index);
        let client = &mut self.clients[index];
        let leaves = match &client.stage {
            Stage::Handshake(_) | Stage::Request(_) | Stage::Dialing(_) => false,
            Stage::Open(open) => open.pending_reason.is_some() || client.failed.is_some(),
            Stage::Linger { .. } => true,
        };
        if !leaves && !std::mem::replace(&mut client.held_back, true) {
            self.memory_limit.held_back.push_back(id);
        }
        !leaves
    }

    /// Accounts for the memory of a client's input.
    pub(super) fn count_inbound(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let held = u32::try_from(client.inbound_memory() + stream_memory(client)).unwrap_or(u32::MAX);
        self.memory_limit.inbound =
            self.memory_limit.inbound + held as usize - client.counted_inbound as usize;
        client.counted_inbound = held;
        if client.leads {
            self.after_leaders_turn(index);
        }
    }

    /// Closes the clients that hold the most until the buffered bytes are below 3/4 of the limit.
    fn close_largest(&mut self) {
        let Some(memory_limit) = self.config.max_total_buffered else { return };
        let target = memory_limit / 8 * 6;
        let memory_of = |(index, client): (usize, &Slot<S>)| (held_memory(client), index);
        let mut largest: Vec<(usize, usize)> = self.clients.iter().map(memory_of).collect();
        largest.sort_unstable_by(|a, b| b.cmp(a));
        for (memory, index) in largest {
            if memory == 0 || self.total_buffered() <= target {
                break;
            }
            self.shed(index);
        }
    }

    /// Closes one client now and frees the memory it holds.
    fn shed(&mut self, index: usize) {
        let before = self.total_buffered();
        let client = &mut self.clients[index];
        log::debug!("closing {} to free memory: it held {} bytes", client.remote, held_memory(client));
        let open = match &mut client.stage {
            Stage::Open(open) => open,
            Stage::Handshake(_) | Stage::Request(_) => {
                self.stats.rejected.overloaded += 1;
                return self.free(index);
            }
            Stage::Dialing(_) => return self.abandon_dial(index, ConnectError::Overloaded),
            Stage::Linger { .. } => return self.free(index),
        };
        let may_say = open.accepts_messages();
        if let Some(pending) = open.pending.take() {
            self.pending_pool.give(pending);
        }
        open.connection.release(&mut self.inbound);
        self.inbound.give(std::mem::take(&mut client.unparsed));
        client.outbox.cut(&mut self.outbound);
        let rest = client.outbox.len() + stream_memory(client);
        self.count_inbound(index);
        // A rest that is most of what the client held would cost other clients their connections.
        let freed = before.saturating_sub(self.total_buffered());
        if !may_say || rest > (freed / 2).clamp(Self::MIN_REST, Self::MAX_REST) {
            return self.remove(index, CloseReason::Shed);
        }
        self.queue_close(index, CloseCode::TRY_AGAIN_LATER, "the server is overloaded");
        self.end(index, CloseReason::Shed, FinalClose::Silent);
        self.make_dirty(index);
    }
}

/// Memory that the client's stream holds for TLS, in bytes.
fn stream_memory<S: Stream>(client: &Slot<S>) -> usize {
    client.stream.get().map_or(0, Stream::memory)
}

/// The bytes that closing the client would free.
fn held_memory<S: Stream>(client: &Slot<S>) -> usize {
    client.buffered_memory() + stream_memory(client)
}
