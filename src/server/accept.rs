//! Accepting connections, within the budget of a poll.

use std::{io, time::Instant};

use super::Server;
use crate::{
    engine::Stream,
    error::AdoptError,
    http1::head::upgrade_request,
    id::ClientId,
    net::{
        host::Accepted,
        socket::{AdoptedStream, Socket},
    },
    peer_addr::PeerAddr,
};

impl Server {
    /// Whether a listener may have connections that this poll has not accepted.
    pub(super) fn has_backlog(&mut self) -> bool {
        !self.postpones_backlog() && self.host.has_backlog(self.engine.connection_count())
    }

    /// Whether the backlog of a closing listener has to wait until rejected connections have got
    /// their responses.
    fn postpones_backlog(&self) -> bool {
        self.engine.rejects_silently() && self.host.is_closing()
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
        if self.postpones_backlog() {
            return false;
        }
        *budget = left;
        match self.host.accept(now, self.engine.connection_count()) {
            Some(Accepted::Connection { socket, peer, named, is_tls }) => {
                let socket = if is_tls { self.encrypted(socket) } else { socket };
                self.register(socket, peer, named, now);
            }
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

    /// Accepts some of the connections that wait on closing listeners; one with a time budget,
    /// which is a single step. Polls accept the others.
    pub(super) fn accept_waiting(&mut self, now: Instant) {
        let config = self.engine.config();
        let mut left = if config.time_budget.is_some() { 1 } else { config.accept_budget };
        while self.accept_next(&mut left, now) {}
    }

    /// Hands an accepted connection to the engine, and watches its socket.
    pub(super) fn register(&mut self, socket: Socket, peer: PeerAddr, named: bool, now: Instant) {
        socket.tune(self.engine.config());
        let Some(index) = self.engine.accept(socket, peer, named, now) else { return };
        if let Err(error) = self.watch(index) {
            log::warn!("cannot watch {peer}: {error}");
            self.engine.abandon(index);
        }
    }

    fn watch(&mut self, index: usize) -> io::Result<()> {
        match self.engine.stream_mut(index) {
            Some(stream) => self.host.watch(stream, index),
            None => Ok(()),
        }
    }

    /// Takes over a connection that was accepted elsewhere: by a launcher, or by another server
    /// that looks at the first bytes without taking them. Its opening handshake follows here, and
    /// counts for the limits and the log as that of every connection.
    ///
    /// # Errors
    ///
    /// [`AdoptError::Io`]: the stream is not connected.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::{TcpListener, TcpStream};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut server = tickws::Server::builder().build()?; // without listeners
    /// let elsewhere = TcpListener::bind("127.0.0.1:0")?;
    /// let client = TcpStream::connect(elsewhere.local_addr()?)?;
    /// let (stream, _) = elsewhere.accept()?;
    /// server.adopt(stream)?;
    /// assert_eq!(server.stats().accepted, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn adopt(&mut self, stream: impl Into<AdoptedStream>) -> Result<(), AdoptError> {
        let (socket, peer) = stream.into().into_socket()?;
        self.register(socket, peer, false, self.now());
        Ok(())
    }

    /// Takes over a connection whose opening handshake was made elsewhere, for instance by an HTTP
    /// server of the same program. The 101 response must have been written, without
    /// `Sec-WebSocket-Extensions`. `request` is the client's, and `leftover` the bytes that were
    /// read behind it, at most 64 KiB. `Event::Open` follows in the next tick; messages can be sent
    /// to the id at once. [`subprotocol`](Server::subprotocol) does not know what was agreed.
    ///
    /// # Errors
    ///
    /// [`AdoptError`]: a limit is reached, a shutdown has begun, or the stream is not connected.
    /// The stream is closed then.
    pub fn adopt_upgraded(
        &mut self,
        stream: impl Into<AdoptedStream>,
        request: http::Request<()>,
        leftover: &[u8],
    ) -> Result<ClientId, AdoptError> {
        let (socket, peer) = stream.into().into_socket()?;
        socket.tune(self.engine.config());
        let (parts, ()) = request.into_parts();
        let request = upgrade_request(parts.uri, parts.headers);
        let client = self.engine.adopt_upgraded(socket, peer, request, leftover, self.now())?;
        if let Err(error) = self.watch(client.index()) {
            // The id was never given out, but its `Open` is in the next tick.
            let _ = self.engine.disconnect(client);
            return Err(error.into());
        }
        Ok(client)
    }
}
