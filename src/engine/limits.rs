//! What becomes of a client that sends more than its limits allow: it is closed, or paused for a while.

use std::time::Instant;

use tungstenite::protocol::frame::coding::CloseCode;

use super::{Engine, Stream};
use crate::{client::Farewell, close_reason::CloseReason};

/// What the peer of a client that is closed is told.
pub(super) const TOO_MANY_MESSAGES: &str = "too many messages per second";
pub(super) const TOO_MANY_BYTES: &str = "too many bytes per second";

impl<S: Stream> Engine<S> {
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
