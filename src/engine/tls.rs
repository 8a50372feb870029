//! TLS handshakes: costly steps wait in a queue, first come first served, and a poll does a bounded
//! number of them.

use std::time::Instant;

use super::{
    Engine, HandshakePart, HandshakeState, Stream,
    receive::{Turn, drained_by},
    slot_mut,
};
use crate::{
    connection::slot::{Slot, Stage},
    error::ConnectError,
    event::pressure::Pressure,
    http1::rejection::Rejection,
    id::ClientId,
    tls::info::TlsFailure,
};

impl<S: Stream> Engine<S> {
    /// Steps of handshakes in one poll that are cheap, because the peer has sent only a part.
    const CHEAP_HANDSHAKES: usize = 64;

    /// Does the next step of a handshake, or queues the client if the step is costly. `None`: there
    /// is no handshake to do.
    #[inline]
    pub(super) fn secure(&mut self, index: usize, now: Instant) -> Option<Turn> {
        let client = &mut self.clients[index];
        let part = client.stream.get()?.needs_handshake()?;
        // The header of the PROXY protocol comes first, in plain text.
        if client.awaits_proxy_header() {
            return None;
        }
        if part == HandshakePart::Cheap {
            return Some(self.shake_hands(index, now).0);
        }
        client.in_ready = true;
        let id = self.id(index);
        self.handshakes.push_back(id);
        Some(Turn::Drained)
    }

    /// Does the steps of handshakes that one poll allows without a time budget.
    pub(crate) fn do_handshakes(&mut self, now: Instant) {
        let mut left = self.config.tls_handshakes_per_poll;
        for _ in 0..Self::CHEAP_HANDSHAKES {
            let before = self.costly_handshakes;
            if left == 0 || !self.handshake_next(now) {
                return;
            }
            left -= (self.costly_handshakes - before).min(left);
        }
    }

    /// One step of one handshake. `false`: none waits.
    pub(super) fn handshake_next(&mut self, now: Instant) -> bool {
        self.update_pressure(now);
        let Some(id) = self.handshakes.pop_front() else { return false };
        // The client may be gone, and its slot reused.
        let Some(client) = slot_mut(&mut self.clients, id) else { return true };
        client.in_ready = false;
        if self.hold_back(id.index()) {
            return true;
        }
        let client = &mut self.clients[id.index()];
        if self.memory_limit.pressure >= Pressure::Refusing && is_unanswered(client) {
            self.refuse_handshake(id.index(), now);
        } else if matches!(client.stage, Stage::Handshake(_) | Stage::Dialing(_)) {
            let (turn, was_costly) = self.shake_hands(id.index(), now);
            self.costly_handshakes += usize::from(was_costly);
            match turn {
                Turn::Again => self.make_ready(id.index()),
                Turn::Eof => self.ended_by_eof(id.index(), now),
                Turn::Failed(kind) => self.ended_by_error(id.index(), kind, now),
                _ => {}
            }
        } else if client.readable {
            self.make_ready(id.index());
        }
        self.count_inbound(id.index());
        self.enforce_memory_limit();
        true
    }

    /// The number of clients whose handshake waits for its turn.
    pub(super) fn queued_handshakes(&self) -> usize {
        self.handshakes.len()
    }

    /// Whether the handshake of a client waits for its turn.
    pub(crate) fn awaits_handshakes(&self) -> bool {
        !self.handshakes.is_empty()
    }

    /// Does one step of the handshake. Returns also whether it was costly.
    fn shake_hands(&mut self, index: usize, now: Instant) -> (Turn, bool) {
        let Engine { clients, inbound, stats, .. } = self;
        let client = &mut clients[index];
        let ahead = std::mem::take(&mut client.unparsed);
        let Some(stream) = client.stream.get_mut() else { return (Turn::Drained, false) };
        let step = stream.handshake(&ahead);
        inbound.give(ahead);
        stats.tls_micros += u64::try_from(step.spent.as_micros()).unwrap_or(u64::MAX);
        client.outbox.congested = step.is_congested;
        if client.outbox.congested {
            client.outbox.block();
            client.deadlines.stuck_since(now);
            self.rearm(index);
        }
        let client = &mut self.clients[index];
        let turn = match step.state {
            HandshakeState::Waiting => drained_by(client, Turn::Drained),
            HandshakeState::Complete(info) => {
                match info.is_resumed() {
                    true => self.stats.tls_resumed += 1,
                    false => self.stats.tls_full += 1,
                }
                self.after_handshake(index)
            }
            HandshakeState::PlainText => {
                self.stats.tls_failed.plain_text += 1;
                self.after_handshake(index)
            }
            HandshakeState::Gone(std::io::ErrorKind::UnexpectedEof) => Turn::Eof,
            HandshakeState::Gone(kind) => Turn::Failed(kind),
            HandshakeState::Failed { cause, error } => {
                self.handshake_failed(index, cause, &error, now);
                Turn::Drained
            }
        };
        (turn, step.was_costly)
    }

    /// Closes a new connection because of the memory pressure, before its handshake takes memory.
    fn refuse_handshake(&mut self, index: usize, now: Instant) {
        if !self.rejects_silently() {
            return self.reject_unread(index, Rejection::Overloaded, now);
        }
        self.stats.rejected.count(Rejection::Overloaded);
        self.free(index);
    }

    /// Output may leave from now on, and input may be in the stream already.
    fn after_handshake(&mut self, index: usize) -> Turn {
        let client = &mut self.clients[index];
        client.readable = true;
        if !client.outbox.congested {
            client.outbox.unblock();
            client.deadlines.unstuck();
        }
        if client.has_output() {
            self.make_dirty(index);
        }
        Turn::Again
    }

    fn handshake_failed(&mut self, index: usize, cause: TlsFailure, error: &str, now: Instant) {
        self.stats.tls_failed.count(cause);
        let client = &mut self.clients[index];
        if client.dial_mut().is_some() {
            return self.attempt_failed(index, ConnectError::TlsHandshake(error.to_owned()), now);
        }
        self.stats.rejected.tls += 1;
        self.log_failed_handshake(index, error, now);
        // The alert leaves before the socket is closed.
        self.linger(index, now);
    }
}

/// Whether nothing can be read or written yet but the handshake of TLS, and a PROXY header before
/// it.
pub(super) fn is_unsecured<S: Stream>(client: &Slot<S>) -> bool {
    client.stream.get().is_some_and(|stream| stream.needs_handshake().is_some())
}

/// Whether a client is connecting, and its TLS hello has not been answered.
fn is_unanswered<S: Stream>(client: &Slot<S>) -> bool {
    matches!(client.stage, Stage::Handshake(_))
        && client.stream.get().and_then(Stream::needs_handshake) == Some(HandshakePart::Costly)
}

/// Whether the client's connection is encrypted by this server.
pub(super) fn is_secure<S: Stream>(client: &Slot<S>) -> bool {
    client.stream.get().is_some_and(|stream| stream.tls().is_some())
}

/// The queue of clients whose handshake waits for its turn.
pub(super) type Handshakes = std::collections::VecDeque<ClientId>;
