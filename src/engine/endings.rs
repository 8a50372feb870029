//! Ends of many connections, one by one: final close frames, a shutdown and its deadline.

use std::time::Instant;

use super::{Engine, Stream};
use crate::{
    close_code::CloseCode,
    connection::slot::{FinalClose, Stage, Step},
    error::ConnectError,
    event::close_reason::{CloseReason, TimeoutKind},
    http1::rejection::Rejection,
};

/// A pass over all connections, which handles them in the order of their slots.
#[derive(Debug)]
pub(super) struct Sweep {
    kind: SweepKind,
    /// The first slot that was not handled.
    next: usize,
    /// The end of the slots when the pass began. Later connections are rejected when accepted.
    end: usize,
}

#[derive(Debug)]
enum SweepKind {
    /// A shutdown closes each connection with this code and reason.
    Close { code: CloseCode, reason: String },
    /// The deadline of the shutdown has passed: what is left is dropped.
    Drop,
}

impl Sweep {
    pub(super) fn closing(code: CloseCode, reason: &str) -> Self {
        Sweep { kind: SweepKind::Close { code, reason: reason.to_owned() }, next: 0, end: 0 }
    }

    pub(super) fn dropping() -> Self {
        Sweep { kind: SweepKind::Drop, next: 0, end: 0 }
    }
}

impl<S: Stream> Engine<S> {
    /// Connections that end in one poll or flush without a time budget. Each costs up to 15 µs: its
    /// last write, its FIN and the closing of its socket.
    pub(super) const ENDINGS: usize = 128;

    /// Slots that one step of a pass looks at.
    const SLOTS: usize = 64;

    /// Begins a pass over all connections. It replaces an earlier one.
    pub(super) fn begin_sweep(&mut self, sweep: Sweep, now: Instant) {
        let end = self.clients.iter().next_back().map_or(0, |(index, _)| index + 1);
        self.sweep = Some(Sweep { end, ..sweep });
        // The call of the application that begins a shutdown is not part of a poll.
        if self.config.time_budget.is_none()
            && matches!(self.sweep, Some(Sweep { kind: SweepKind::Close { .. }, .. }))
        {
            while self.sweep_next(now) {}
        }
    }

    /// Ends connections one by one, up to the bound of one call.
    pub(super) fn end_some(&mut self, now: Instant) {
        if self.ended.is_empty() && self.sweep.is_none() {
            return;
        }
        for _ in 0..Self::ENDINGS {
            if !self.end_next(now) {
                break;
            }
        }
    }

    /// Continues a pass, up to the bound of one call.
    pub(super) fn sweep_some(&mut self, now: Instant) {
        if self.sweep.is_none() {
            return;
        }
        for _ in 0..Self::ENDINGS {
            if !self.sweep_next(now) {
                break;
            }
        }
    }

    /// One step: the final close frame of one client, or the next connection of a pass. `false`:
    /// nothing is left.
    pub(super) fn end_next(&mut self, now: Instant) -> bool {
        self.send_final_close(now) || self.sweep_next(now)
    }

    /// Queues the final close frame of the client that was reported closed first. From here on its
    /// id is stale.
    fn send_final_close(&mut self, now: Instant) -> bool {
        if self.closable == 0 {
            return false;
        }
        let Some((id, final_close)) = self.ended.pop_front() else { return false };
        self.closable -= 1;
        let index = id.index();
        // The client may be gone by now, and its slot reused.
        if self.get(id).is_none() {
            return true;
        }
        self.fill(index, usize::MAX, now);
        let client = &mut self.clients[index];
        let Stage::Open(open) = &mut client.stage else { return true };
        if let FinalClose::Close(body) = final_close
            && open.connection.close_state().may_send_data()
        {
            let body = body.as_ref().map(|(code, text)| (*code, text.as_str()));
            open.connection.close(body, &mut client.outbox, &mut self.outbound);
        }
        self.linger(index, now);
        true
    }

    /// Handles the next connection of the pass that is under way.
    fn sweep_next(&mut self, now: Instant) -> bool {
        let Some(mut sweep) = self.sweep.take() else { return false };
        let last = sweep.end.min(sweep.next + Self::SLOTS);
        let found = (sweep.next..last).find(|index| self.clients.contains(*index));
        sweep.next = found.map_or(last, |index| index + 1);
        if let Some(index) = found {
            match &sweep.kind {
                SweepKind::Close { code, reason } => self.shut_down(index, *code, reason, now),
                SweepKind::Drop => self.drop_late(index),
            }
        }
        let more = sweep.next < sweep.end;
        if more {
            self.sweep = Some(sweep);
        }
        more || found.is_some()
    }

    /// Begins the end of one connection in a shutdown.
    fn shut_down(&mut self, index: usize, code: CloseCode, reason: &str, now: Instant) {
        let client = &mut self.clients[index];
        let idle = client.is_idle_http();
        match &mut client.stage {
            // The last response to this idle connection may still be leaving.
            Stage::Handshake(_) if idle => {
                self.stats.http_only += 1;
                self.linger(index, now);
            }
            Stage::Request(exchange) => match &mut exchange.step {
                Step::File { close, .. } => *close = true,
                Step::Last => {}
                _ => self.reject_current(index, Rejection::AtCapacity, now),
            },
            Stage::Handshake(_) => self.reject_unread(index, Rejection::AtCapacity, now),
            Stage::Dialing(_) => self.abandon_dial(index, ConnectError::ShuttingDown),
            Stage::Open(open) if open.accepts_messages() => {
                self.begin_close(index, code, reason, CloseReason::Shutdown, now);
            }
            Stage::Open(_) | Stage::Linger { .. } => {}
        }
    }

    /// Drops a connection that is left when the deadline of a shutdown has passed.
    fn drop_late(&mut self, index: usize) {
        match self.clients[index].stage {
            Stage::Handshake(_) | Stage::Request(_) => self.forget_handshake(index),
            Stage::Dialing(_) => self.abandon_dial(index, ConnectError::ShuttingDown),
            _ => self.remove(index, CloseReason::Timeout(TimeoutKind::Close)),
        }
    }
}
