//! Clients that are not read for a while: the application wants it, or they sent more than their limits
//! allow, which may also close them.

use std::time::Instant;

use tungstenite::protocol::frame::coding::CloseCode;

use super::{Engine, Stream};
use crate::{client::Farewell, close_reason::CloseReason, error::NotConnected, id::ClientId};

/// What the peer of a client that is closed is told.
pub(super) const TOO_MANY_MESSAGES: &str = "too many messages per second";
pub(super) const TOO_MANY_BYTES: &str = "too many bytes per second";

impl<S: Stream> Engine<S> {
    /// No more input from this client: its messages wait in the kernel, and TCP slows the peer down.
    pub(crate) fn pause_reading(&mut self, id: ClientId) -> Result<(), NotConnected> {
        let (open, ..) = self.open_mut(id)?;
        // A close handshake has to be read to its end, and so has what a broken connection has left.
        let closing = open.verdict.is_some() || open.reported;
        let client = &mut self.clients[id.index()];
        client.paused |= !closing && client.failed.is_none();
        Ok(())
    }

    pub(crate) fn resume_reading(&mut self, id: ClientId, now: Instant) -> Result<(), NotConnected> {
        self.open_mut(id)?;
        let client = &mut self.clients[id.index()];
        if std::mem::take(&mut client.paused) {
            // Nothing could be heard while it was paused.
            client.deadlines.heard(now);
            if client.readable || !client.carry.is_empty() {
                self.make_ready(id.index());
            }
            self.rearm(id.index());
        }
        Ok(())
    }

    /// RFC 6455 §7.4.1: 1008 is for what violates a policy.
    pub(super) fn ended_by_limit(&mut self, index: usize, text: &str) {
        let farewell = Farewell::Close(Some((CloseCode::Policy.into(), text.to_owned())));
        self.end(index, CloseReason::RateLimited, farewell);
    }

    /// Reads no more from this client until its limit allows it; its alarm wakes it up.
    pub(super) fn throttle(&mut self, index: usize, now: Instant) {
        let Some(limiter) = self.clients[index].limiter_mut() else { return };
        limiter.pause(now);
        debug_assert!(limiter.resume_at().is_some_and(|at| at > now), "nobody would wake it up");
        self.stats.throttled += 1;
        self.rearm(index);
    }

    /// Reads on if the limit's pause is over; the application's is another one.
    pub(super) fn unthrottle(&mut self, index: usize, now: Instant) {
        let client = &mut self.clients[index];
        if client.limiter_mut().is_some_and(|limiter| limiter.resume(now)) {
            // Nothing could be heard meanwhile.
            client.deadlines.heard(now);
            self.make_ready(index);
        }
    }
}
