//! What the application says: everything here queues, nothing blocks, and a stale id is an error.

use std::time::Duration;

use tungstenite::protocol::frame::coding::CloseCode;

use super::Server;
use crate::{
    config::Overflow,
    engine::Delivery,
    error::{CloseError, NotConnected, SendError},
    id::{ClientId, TimerId},
    proto::prepared::Outgoing,
    send_options::{LatestKey, SendTerms},
};

impl Server {
    /// Queues a message for one client. It leaves whole at the next flush, or as its peer takes it.
    ///
    /// A payload of 16 KiB or more that finds nothing queued before it is written at once, from where it is, as far
    /// as the socket takes it without blocking; the rest is queued. A write that fails is reported by a later
    /// poll, like any other. Compressed messages, and those of outbound connections, are always queued.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why nothing was queued: a stale id, a closing connection, a full outbox.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{ClientId, SendError, Server};
    ///
    /// fn greet(server: &mut Server, client: ClientId, state: &[u8]) -> Result<(), SendError> {
    ///     server.send(client, "welcome")?; // text
    ///     server.send(client, state) // binary
    /// }
    /// ```
    #[inline]
    pub fn send<'m>(&mut self, client: ClientId, message: impl Into<Outgoing<'m>>) -> Result<(), SendError> {
        self.engine.send(client, message.into())
    }

    /// Queues a message that takes the place of the client's message with the same key, if that has not
    /// begun to leave: a client behind a slow link gets the newest state, not a minute-old queue.
    ///
    /// The newer message stands where the older one stood, so it may arrive before messages that were
    /// queued between the two; all others keep their order. What the kernel has taken is out of reach:
    /// see [`send_buffer`](crate::ServerBuilder::send_buffer).
    ///
    /// # Errors
    ///
    /// As [`send`](Server::send). Each message that waits here counts some 100 bytes more towards
    /// `max_buffered` than its payload.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{ClientId, SendError, Server};
    ///
    /// fn snapshot(server: &mut Server, client: ClientId, entity: u32, state: &[u8]) -> Result<(), SendError> {
    ///     server.send_latest(client, entity, state)
    /// }
    /// ```
    pub fn send_latest<'m>(
        &mut self,
        client: ClientId,
        key: impl Into<LatestKey>,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<(), SendError> {
        self.engine.send_latest(client, key.into(), message.into())
    }

    /// Queues a message that may expire, pass others, or replace one: see [`SendOptions`](crate::SendOptions).
    ///
    /// # Errors
    ///
    /// As [`send_latest`](Server::send_latest).
    pub fn send_with<'m>(
        &mut self,
        client: ClientId,
        message: impl Into<Outgoing<'m>>,
        options: impl Into<SendTerms>,
    ) -> Result<(), SendError> {
        self.engine.send_with(client, message.into(), options, self.now())
    }

    /// Queues a message for every open client. It is framed once, and a large one is held once however
    /// many clients are slow. [`Delivery`] counts who gets it and who does not. Work: O(connections).
    pub fn broadcast<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> Delivery {
        self.engine.broadcast(message.into(), None)
    }

    /// As [`broadcast`](Server::broadcast), for all but one: usually the client that said it.
    pub fn broadcast_except<'m>(&mut self, except: ClientId, message: impl Into<Outgoing<'m>>) -> Delivery {
        self.engine.broadcast(message.into(), Some(except))
    }

    /// Queues a ping; its pong updates [`rtt`](Server::rtt). The server pings by itself every
    /// `ping_interval`.
    ///
    /// # Errors
    ///
    /// The id is stale or the connection is closing.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn measure(server: &mut tickws::Server, client: tickws::ClientId) -> Result<(), Box<dyn std::error::Error>> {
    /// server.ping(client)?;
    /// server.poll_for(std::time::Duration::from_millis(50))?; // ... a few ticks later
    /// println!("{client} is {:?} away", server.rtt(client));
    /// # Ok(())
    /// # }
    /// ```
    pub fn ping(&mut self, client: ClientId) -> Result<(), SendError> {
        self.engine.ping(client, self.now())
    }

    /// Begins the close handshake (RFC 6455 §7.1.2) behind what is queued. From now on nothing can be
    /// sent to the client and its messages are dropped; its `Close` event comes when it has answered,
    /// left, or kept quiet for `close_timeout`. An outbound connection that is not open yet is given up:
    /// [`ConnectFailed`](crate::Event::ConnectFailed) comes, with [`Cancelled`](crate::ConnectError::Cancelled).
    ///
    /// # Errors
    ///
    /// The id is stale, the connection is closing already, the code may not be sent, or the reason is
    /// longer than 123 bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn kick(server: &mut tickws::Server, client: tickws::ClientId) -> Result<(), tickws::CloseError> {
    /// server.close(client, 4001, "kicked")
    /// # }
    /// ```
    pub fn close(
        &mut self,
        client: ClientId,
        code: impl Into<CloseCode>,
        reason: &str,
    ) -> Result<(), CloseError> {
        self.engine.close(client, code.into(), reason, self.now())
    }

    /// Drops the connection now, without a close frame and with whatever is queued. Its `Close` event
    /// comes with the next tick. One that is not open yet is given up, as by [`close`](Server::close).
    ///
    /// # Errors
    ///
    /// The id is stale.
    pub fn disconnect(&mut self, client: ClientId) -> Result<(), NotConnected> {
        self.engine.disconnect(client)
    }

    /// Begins the end: stops listening, closes every client with `code` (usually
    /// [`CloseCode::Away`], 1001) behind what is queued for it, and drops after `deadline` what is left.
    /// Plain requests that wait for an answer get 503. With [`health`](crate::ServerBuilder::health) it listens
    /// until the last client has left, and tells everyone 503. Outbound connections that are not open yet are given
    /// up, and none is begun any more.
    /// Keep polling until [`is_drained`](Server::is_drained). A code that may not be sent becomes 1001; a
    /// second call changes nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tickws::{CloseCode, Server};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// server.shutdown(CloseCode::Away, Duration::from_secs(5));
    /// server.run(|_, event| println!("{event:?}"))?;
    /// assert!(server.is_drained());
    /// # Ok(())
    /// # }
    /// ```
    pub fn shutdown(&mut self, code: impl Into<CloseCode>, deadline: Duration) {
        // New clients are refused by the kernel from here on, but for those who ask how we are.
        if self.engine.config().health.is_none() {
            self.host.stop_listening();
        }
        self.engine.shutdown(code.into(), deadline, self.now());
    }

    /// Whether a shutdown is complete: every connection is gone and every event handed out.
    pub fn is_drained(&self) -> bool {
        self.engine.is_drained()
    }

    /// Overrides the overflow policy for one client.
    ///
    /// # Errors
    ///
    /// The id is stale.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{ClientId, NotConnected, Overflow, Server};
    ///
    /// /// A spectator may miss messages, a player may not.
    /// fn spectate(server: &mut Server, client: ClientId) -> Result<(), NotConnected> {
    ///     server.set_overflow(client, Overflow::DropNewest)
    /// }
    /// ```
    pub fn set_overflow(&mut self, client: ClientId, overflow: Overflow) -> Result<(), NotConnected> {
        self.engine.set_overflow(client, overflow)
    }

    /// Reads no more from this client until [`resume_reading`](Server::resume_reading): the kernel's
    /// buffer fills and TCP slows the peer down. Messages of the current tick still come. Meanwhile
    /// pings are not answered and silence is not counted. A client that is closing is read on, so that
    /// its close handshake can end, and so is one whose connection broke.
    ///
    /// # Errors
    ///
    /// The id is stale.
    pub fn pause_reading(&mut self, client: ClientId) -> Result<(), NotConnected> {
        self.engine.pause_reading(client)
    }

    /// Reads again from a client that was paused; does nothing for one that was not. A pause that is due to
    /// [`Limit::Pause`](crate::Limit::Pause) is another one and goes on.
    ///
    /// # Errors
    ///
    /// The id is stale.
    pub fn resume_reading(&mut self, client: ClientId) -> Result<(), NotConnected> {
        self.engine.resume_reading(client, self.now())
    }

    /// Fires [`Event::Timer`](crate::Event::Timer) once, at the first poll `delay` from now or later; the resolution is 1 ms.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let mut server = tickws::Server::bind("127.0.0.1:0")?;
    /// let timer = server.set_timer(Duration::from_secs(30));
    /// assert!(server.cancel_timer(timer));
    /// assert!(!server.cancel_timer(timer));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_timer(&mut self, delay: Duration) -> TimerId {
        self.engine.set_timer(delay, false, self.now())
    }

    /// Fires [`Event::Timer`](crate::Event::Timer) every `period` (at least 1 ms) until cancelled. It keeps its rhythm: a
    /// poll that comes late gets one event for all the periods it missed.
    pub fn set_interval(&mut self, period: Duration) -> TimerId {
        self.engine.set_timer(period, true, self.now())
    }

    /// Stops a timer. `false` if it has fired for the last time or was cancelled before.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.engine.cancel_timer(timer)
    }
}
