//! Clients that are not read for a while: the application paused them, or they exceeded a rate
//! limit, which may also close them.

use std::time::Instant;

use super::{Engine, Stream};
use crate::{
    close_code::CloseCode, connection::slot::FinalClose, error::NotConnectedError,
    event::close_reason::CloseReason, id::ClientId,
};

/// The close reasons sent to a client that exceeded a rate limit.
pub(super) const TOO_MANY_MESSAGES: &str = "too many messages per second";
pub(super) const TOO_MANY_BYTES: &str = "too many bytes per second";

impl<S: Stream> Engine<S> {
    /// Stops reading from this client: its messages wait in the kernel, and TCP slows the peer
    /// down.
    pub(crate) fn pause_reading(&mut self, id: ClientId) -> Result<(), NotConnectedError> {
        let (open, ..) = self.open_mut(id)?;
        // A close handshake must be read to its end, and so must the rest of a broken connection.
        let closing = open.pending_reason.is_some() || open.reported;
        let client = &mut self.clients[id.index()];
        client.paused |= !closing && client.failed.is_none();
        Ok(())
    }

    pub(crate) fn resume_reading(&mut self, id: ClientId, now: Instant) -> Result<(), NotConnectedError> {
        self.open_mut(id)?;
        let client = &mut self.clients[id.index()];
        if std::mem::take(&mut client.paused) {
            // Silence did not count while the client was paused.
            client.deadlines.heard(now);
            if client.readable || !client.unparsed.is_empty() {
                self.make_ready(id.index());
            }
            self.rearm(id.index());
        }
        Ok(())
    }

    /// Closes a client with 1008, the code for a violated policy (RFC 6455 §7.4.1).
    pub(super) fn ended_by_limit(&mut self, index: usize, text: &str) {
        let final_close = FinalClose::Close(Some((CloseCode::POLICY_VIOLATION.into(), text.to_owned())));
        self.end(index, CloseReason::RateLimited, final_close);
    }

    /// Pauses this client until its rate limit allows more; its wheel entry ends the pause.
    pub(super) fn throttle(&mut self, index: usize, now: Instant) {
        let Some(rate_limiter) = self.clients[index].rate_limiter_mut() else { return };
        rate_limiter.pause(now);
        debug_assert!(rate_limiter.resume_at().is_some_and(|at| at > now), "the pause would never end");
        self.stats.throttled += 1;
        self.rearm(index);
    }

    /// Resumes reading if the rate limit's pause is over. The application's pause is independent.
    pub(super) fn unthrottle(&mut self, index: usize, now: Instant) {
        let client = &mut self.clients[index];
        if client.rate_limiter_mut().is_some_and(|rate_limiter| rate_limiter.resume(now)) {
            // Silence did not count while the client was paused.
            client.deadlines.heard(now);
            self.make_ready(index);
        }
    }
}
