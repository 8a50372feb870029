//! Accepting connections, within the budget of a poll.

use std::time::Instant;

use super::Server;
use crate::{
    engine::Stream,
    net::{host::Accepted, socket::Socket},
    peer_addr::PeerAddr,
};

impl Server {
    /// Whether a listener may have connections that this poll has not accepted.
    pub(super) fn has_backlog(&mut self) -> bool {
        self.host.has_backlog(self.engine.connection_count())
    }

    /// Accepts up to `accept_budget` connections.
    pub(super) fn accept_connections(&mut self, now: Instant) {
        let mut left = self.engine.config().accept_budget;
        while self.accept_next(&mut left, now) {}
    }

    /// Accepts once, within the budget. `false`: no listener may have further connections now, or
    /// the budget is used up.
    #[inline]
    pub(super) fn accept_next(&mut self, budget: &mut usize, now: Instant) -> bool {
        let Some(left) = budget.checked_sub(1) else { return false };
        *budget = left;
        match self.host.accept(now, self.engine.connection_count()) {
            Some(Accepted::Connection(stream, remote)) => self.register(stream, remote, now),
            Some(Accepted::Nothing) => {}
            Some(Accepted::Lost) => self.engine.count_lost_connection(),
            Some(Accepted::Dead) => self.engine.count_lost_listener(),
            Some(Accepted::Exhausted(until)) => {
                self.engine.count_pause();
                self.engine.wake_at(until);
                return false;
            }
            None => return false,
        }
        true
    }

    /// Stops listening. Connections that wait already are still accepted: the system would reset
    /// them.
    pub(super) fn stop_listening(&mut self) {
        self.host.stop_listening(self.engine.config().backlog);
    }

    /// Hands an accepted connection to the engine, and watches its socket.
    fn register(&mut self, stream: Socket, remote: PeerAddr, now: Instant) {
        stream.tune(self.engine.config());
        let Some(index) = self.engine.accept(stream, remote, now) else { return };
        let Some(stream) = self.engine.stream_mut(index) else { return };
        if let Err(error) = self.host.watch(stream, index) {
            log::warn!("cannot watch {remote}: {error}");
            self.engine.abandon(index);
        }
    }
}
