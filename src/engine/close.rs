//! Ends of connections: every `Open` gets exactly one `Close`, then the socket lingers until its
//! last bytes have left (RFC 6455 §7.1.1: the server sends FIN first and waits for the peer's).

use std::{
    io,
    time::{Duration, Instant},
};

use super::{Engine, Stream, endings::Sweep, timers::Alarm};
use crate::{
    close_code::CloseCode,
    connection::slot::{FinalClose, Stage, Step},
    error::{CloseError, NotConnectedError, ProtocolError},
    event::close_reason::CloseReason,
    http1::rejection::Rejection,
    id::ClientId,
    proto::close::{self, MAX_REASON},
    util::time::after,
};

impl<S: Stream> Engine<S> {
    // ---- commands ----

    /// Begins the close handshake behind everything queued.
    pub(crate) fn close(
        &mut self,
        id: ClientId,
        code: CloseCode,
        text: &str,
        now: Instant,
    ) -> Result<(), CloseError> {
        self.flush_batch();
        close::check(code.into(), text)?;
        if self.cancel_dial(id) {
            return Ok(());
        }
        let (open, ..) = self.open_mut(id)?;
        if !open.accepts_messages() {
            return Err(CloseError::Closing(id));
        }
        self.forget_policy(id.index());
        let pending_reason = CloseReason::Local { code, text: text.to_owned() };
        self.begin_close(id.index(), code, text, pending_reason, now);
        Ok(())
    }

    /// Drops the connection without a close frame.
    pub(crate) fn disconnect(&mut self, id: ClientId) -> Result<(), NotConnectedError> {
        self.flush_batch();
        if self.cancel_dial(id) {
            return Ok(());
        }
        let reported = self.open_mut(id)?.0.reported;
        self.forget_policy(id.index());
        // A client reported closed still gets the close frame that it is owed.
        if reported {
            return Ok(());
        }
        self.remove(id.index(), CloseReason::Disconnected);
        Ok(())
    }

    /// Begins a shutdown: closes every connection with `code`, or 1001 if that may not be sent, and
    /// rejects new ones. Connections that are left after `deadline` are dropped.
    pub(crate) fn shutdown(&mut self, code: CloseCode, reason: &str, deadline: Duration, now: Instant) {
        self.flush_batch();
        if std::mem::replace(&mut self.shutting_down, true) {
            return;
        }
        let end = (0..=MAX_REASON).rev().find(|end| reason.is_char_boundary(*end));
        let reason = end.and_then(|end| reason.get(..end)).unwrap_or_default();
        let code = if code.is_sendable() { code } else { CloseCode::GOING_AWAY };
        self.begin_sweep(Sweep::closing(code, reason), now);
        self.wheel.insert(after(now, deadline), Alarm::Shutdown);
    }

    /// Whether a shutdown is complete: every connection is gone and every event was handed out.
    pub(crate) fn is_drained(&self) -> bool {
        self.shutting_down && self.clients.is_empty() && self.tick.is_empty()
    }

    /// Whether a shutdown waits only for lingering connections, so that listening can stop.
    pub(crate) fn only_lingers(&self) -> bool {
        self.shutting_down && self.clients.len() == self.lingering
    }

    /// Frees the connection at `index`, whose stream cannot be registered.
    pub(crate) fn abandon(&mut self, index: usize) {
        match self.clients.get(index).map(|client| &client.stage) {
            // The connection was rejected and counted by `accept`.
            Some(Stage::Linger { .. }) => self.free(index),
            Some(_) => self.forget_handshake(index),
            None => {}
        }
    }

    // ---- ends found while reading ----

    /// Handles the peer's close frame (RFC 6455 §5.5.1). The reply carries the same body, which a
    /// browser then shows to its page.
    pub(super) fn ended_by_peer(&mut self, index: usize, code: u16, text: String) {
        let final_close = FinalClose::Close((code != 1005).then(|| (code, text.clone())));
        self.end(index, CloseReason::Peer { code: code.into(), text }, final_close);
    }

    pub(super) fn ended_by_violation(&mut self, index: usize, violation: ProtocolError) {
        // RFC 6455 §7.1.7: fail the connection with the fitting code. The text helps the developer
        // of the peer.
        let mut text = violation.to_string();
        if text.len() > MAX_REASON {
            text.clear();
        }
        let final_close = FinalClose::Close(Some((violation.close_code().into(), text)));
        self.end(index, CloseReason::Protocol(violation), final_close);
    }

    /// Handles FIN without a close frame. Queued output may still reach a peer that only
    /// half-closed.
    pub(super) fn ended_by_eof(&mut self, index: usize, now: Instant) {
        self.ended_by_fin(index, CloseReason::Eof, now);
    }

    /// As `ended_by_eof`, for an encrypted stream without its end (close_notify, RFC 8446 §6.1).
    pub(super) fn ended_by_truncation(&mut self, index: usize, now: Instant) {
        self.ended_by_fin(index, CloseReason::Truncated, now);
    }

    fn ended_by_fin(&mut self, index: usize, reason: CloseReason, now: Instant) {
        let client = &mut self.clients[index];
        client.read_closed = true;
        client.readable = false;
        if let Some(kind) = client.failed {
            return self.ended_by_error(index, kind, now);
        }
        match &client.stage {
            Stage::Handshake(_) | Stage::Request(_) => self.forget_handshake(index),
            Stage::Dialing(_) => self.hung_up(index, now),
            Stage::Open(_) => self.end(index, reason, FinalClose::Silent),
            // The next flush or writable event continues the output.
            Stage::Linger { .. } if client.has_output() => {}
            Stage::Linger { .. } => self.free(index),
        }
    }

    pub(super) fn ended_by_error(&mut self, index: usize, kind: io::ErrorKind, now: Instant) {
        match &self.clients[index].stage {
            Stage::Dialing(_) => self.broken(index, kind, now),
            Stage::Handshake(_) | Stage::Request(_) => self.forget_handshake(index),
            _ => self.remove(index, CloseReason::Io(kind)),
        }
    }

    // ---- steps of an end ----

    /// Sends a close frame behind everything queued. `pending_reason` is reported once the peer has
    /// replied or hung up, or `close_timeout` has passed.
    pub(super) fn begin_close(
        &mut self,
        index: usize,
        code: CloseCode,
        text: &str,
        pending_reason: CloseReason,
        now: Instant,
    ) {
        let deadline = after(now, self.config.close_timeout);
        self.queue_close(index, code, text);
        let client = &mut self.clients[index];
        let Stage::Open(open) = &mut client.stage else { return };
        open.pending_reason = Some(Box::new(pending_reason));
        open.rate_limiter = None;
        if let Some(stream) = client.stream.get_mut() {
            stream.end_after_output();
        }
        client.deadlines.close_by(deadline);
        // The peer's close frame must be read, even if the application or a rate limit paused
        // reads.
        client.paused = false;
        let has_input = client.readable || !client.unparsed.is_empty();
        self.rearm(index);
        self.make_dirty(index);
        if has_input {
            self.make_ready(index);
        }
    }

    /// Queues a close frame behind everything else.
    pub(super) fn queue_close(&mut self, index: usize, code: CloseCode, text: &str) {
        self.fill(index, usize::MAX, self.now);
        let client = &mut self.clients[index];
        let Stage::Open(open) = &mut client.stage else { return };
        open.connection.close(Some((code.into(), text)), &mut client.outbox, &mut self.outbound);
    }

    /// Reports the end of an open connection. Its final close frame follows at the next flush, so
    /// that the application can still reply to earlier messages of the same tick.
    pub(super) fn end(&mut self, index: usize, reason: CloseReason, final_close: FinalClose) {
        let id = self.id(index);
        let client = &mut self.clients[index];
        let Stage::Open(open) = &mut client.stage else { return };
        if std::mem::replace(&mut open.reported, true) {
            return;
        }
        let (reason, final_close) = match open.pending_reason.take() {
            Some(pending_reason) => (*pending_reason, FinalClose::Silent),
            None => (reason, final_close),
        };
        self.ended.push_back((id, final_close));
        self.report(id, reason);
    }

    /// Moves a connection to `Linger`: its output is written to the end, its input is discarded.
    pub(super) fn linger(&mut self, index: usize, now: Instant) {
        let deadline = after(now, self.config.close_timeout);
        self.forget_upgrade(index);
        let client = &mut self.clients[index];
        if let Stage::Open(open) = &mut client.stage {
            open.connection.release(&mut self.inbound);
        }
        self.inbound.give(std::mem::take(&mut client.unparsed));
        client.stage = Stage::Linger { half_closed: false };
        if let Some(stream) = client.stream.get_mut() {
            stream.end_after_output();
        }
        let counted = std::mem::take(&mut client.counted_address);
        let (remote, outbound) = (client.remote, client.outbound);
        client.paused = false;
        client.deadlines.close_by(deadline);
        let readable = client.readable;
        self.count_inbound(index);
        self.lingering += 1;
        self.leave_place(remote, outbound, counted);
        self.rearm(index);
        self.make_dirty(index);
        if readable {
            self.make_ready(index);
        }
    }

    /// Handles an outbox that became empty: a lingering connection is half-closed, or freed.
    pub(super) fn after_last_byte(&mut self, index: usize, now: Instant) {
        let may_linger = self.may_linger();
        let client = &mut self.clients[index];
        let half_closed = match &mut client.stage {
            Stage::Open(_) | Stage::Dialing(_) => return,
            Stage::Handshake(_) | Stage::Request(_) => return self.after_response(index, now),
            Stage::Linger { half_closed } => half_closed,
        };
        if (client.read_closed && !client.readable) || !may_linger {
            return self.free(index);
        }
        // RFC 6455 §7.1.1: the server closes TCP first, so that the client can reconnect at once.
        // An outbound connection therefore waits for its server.
        if client.outbound {
            return;
        }
        let Some(stream) = client.stream.get_mut() else { return };
        if !std::mem::replace(half_closed, true) && stream.shutdown_write().is_err() {
            self.free(index);
        }
    }

    /// Drops a connection now, and reports it if it was open.
    pub(super) fn remove(&mut self, index: usize, reason: CloseReason) {
        let id = self.id(index);
        if let Stage::Open(open) = &mut self.clients[index].stage
            && !open.reported
        {
            let pending_reason = open.pending_reason.take();
            // A pending close reason takes precedence over EOF and I/O errors. A timeout is
            // reported as such, except during a shutdown.
            let reason = match (pending_reason, reason) {
                (Some(pending_reason), CloseReason::Timeout(_))
                    if *pending_reason == CloseReason::Shutdown =>
                {
                    *pending_reason
                }
                (Some(pending_reason), CloseReason::Eof | CloseReason::Truncated | CloseReason::Io(_)) => {
                    *pending_reason
                }
                (_, reason) => reason,
            };
            self.report(id, reason);
        }
        self.free(index);
    }

    /// Handles the deadline of a connection that is not open.
    pub(super) fn overdue(&mut self, index: usize, now: Instant) {
        let client = &self.clients[index];
        match &client.stage {
            _ if client.is_responded() => self.stats.http_only += 1,
            Stage::Request(exchange) if matches!(exchange.step, Step::Upgrade { .. } | Step::Http { .. }) => {
                return self.reject_current(index, Rejection::NoResponse, now);
            }
            Stage::Request(exchange) if matches!(exchange.step, Step::Body { .. }) => {
                return self.reject_current(index, Rejection::BodyTimeout, now);
            }
            Stage::Handshake(_) | Stage::Request(_) => self.stats.rejected.timeout += 1,
            Stage::Dialing(_) | Stage::Open(_) | Stage::Linger { .. } => {}
        }
        self.free(index);
    }

    /// Frees a connection that ended before it became a WebSocket.
    pub(super) fn forget_handshake(&mut self, index: usize) {
        match self.clients[index].is_responded() {
            true => self.stats.http_only += 1,
            false => self.stats.rejected.gone += 1,
        }
        self.free(index);
    }

    /// Reports that a deferred upgrade can no longer be decided, if there is one.
    fn forget_upgrade(&mut self, index: usize) {
        if let Stage::Request(exchange) = &self.clients[index].stage
            && let Step::Upgrade { id, .. } = exchange.step
        {
            self.tick.upgrade_gone(id);
        }
    }

    fn report(&mut self, id: ClientId, reason: CloseReason) {
        self.open -= 1;
        self.endings += 1;
        self.note_loss(id.index());
        self.unregister(id);
        self.stats.closed.count(&reason);
        self.tick.close(id, reason);
    }

    /// Drops the stream and returns all buffers of the connection.
    pub(super) fn free(&mut self, index: usize) {
        self.forget_upgrade(index);
        self.endings += 1;
        let mut client = self.clients.remove(index);
        if client.outbound {
            self.races.remove(&index);
        } else if !self.proxied.is_empty() {
            self.proxied.remove(&index);
        }
        self.memory_limit.inbound -= client.counted_inbound as usize;
        if client.leads {
            self.end_precedence(ClientId::new(index as u32, client.serial));
        }
        match client.stage {
            Stage::Linger { .. } => self.lingering -= 1,
            _ => self.leave_place(client.remote, client.outbound, client.counted_address),
        }
        if let Some(key) = client.timer {
            self.wheel.cancel(key);
        }
        if let Stage::Open(open) = &mut client.stage {
            open.connection.release(&mut self.inbound);
        }
        if let Stage::Open(open) = &mut client.stage
            && let Some(pending) = open.pending.take()
        {
            self.pending_pool.give(pending);
        }
        self.inbound.give(client.unparsed);
        client.outbox.clear(&mut self.outbound);
    }
}
