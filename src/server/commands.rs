//! Commands of the application. All of them queue and return without blocking; most fail if the
//! client id is stale.

use std::time::{Duration, Instant};

use super::Server;
use crate::{
    close_code::CloseCode,
    config::{
        OverflowPolicy,
        audience::Audience,
        send_options::{LatestKey, SendOptions},
    },
    error::{CloseError, NotConnectedError, SendError},
    event::delivery::Delivery,
    id::{ClientId, TimerId},
    outbox::outgoing::AsMessage,
};

impl Server {
    /// Queues a message for one client. The whole message leaves at the next flush, or as its peer
    /// accepts it.
    ///
    /// A payload of 16 KiB or more with nothing queued before it is written at once, without a
    /// copy, as far as the socket accepts it without blocking; the rest is queued. An error of this
    /// write is reported by a later poll, as for any other write. Compressed messages, and messages
    /// on outbound connections, are always queued.
    ///
    /// # Errors
    ///
    /// [`SendError`] if nothing was queued: the id is stale, the connection is closing, or the
    /// outbox is full.
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
    pub fn send(&mut self, client: ClientId, message: impl AsMessage) -> Result<(), SendError> {
        self.engine.send(client, message.as_message())
    }

    /// Queues a message in place of the client's message with the same key, if that has not begun
    /// to leave. A client on a slow link thus gets the newest state instead of a queue that is a
    /// minute old.
    ///
    /// The newer message takes the position of the older one, so it may arrive before messages that
    /// were queued between the two; all others keep their order. Bytes that the kernel has taken
    /// cannot be replaced: see [`send_buffer`](crate::ServerBuilder::send_buffer).
    ///
    /// # Errors
    ///
    /// As [`send`](Server::send). Each message that waits here counts about 100 bytes more towards
    /// `max_buffered` than its payload.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{ClientId, SendError, Server};
    ///
    /// fn snapshot(server: &mut Server, client: ClientId, state: &[u8]) -> Result<(), SendError> {
    ///     server.send_latest(client, "positions", state)
    /// }
    /// ```
    pub fn send_latest(
        &mut self,
        client: ClientId,
        key: impl Into<LatestKey>,
        message: impl AsMessage,
    ) -> Result<(), SendError> {
        self.send_with(client, message, &SendOptions::new().latest(key))
    }

    /// Queues a message that may expire, overtake other messages, or replace one: see
    /// [`SendOptions`](crate::SendOptions).
    ///
    /// # Errors
    ///
    /// As [`send_latest`](Server::send_latest).
    pub fn send_with(
        &mut self,
        client: ClientId,
        message: impl AsMessage,
        options: &SendOptions,
    ) -> Result<(), SendError> {
        let now = self.expiry_base(options);
        self.engine.send_with(client, message.as_message(), options, now)
    }

    /// Queues a message for an audience, with options. The calls to many clients (`broadcast`,
    /// `publish`, `send_to_user`, …) are short forms of this one.
    ///
    /// It is framed once, and all slow clients share one copy of a large message. [`Delivery`]
    /// counts the clients that get it and those that do not. A member of a room that is closing is
    /// skipped; a client that was listed by id and is not open is counted in `not_open`. Work:
    /// O(clients in the audience).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tickws::{Audience, ClientId, SendOptions, Server};
    ///
    /// /// All but the one that typed it see the hint, and nobody later than after a second.
    /// fn typing(server: &mut Server, typist: ClientId) {
    ///     let options = SendOptions::new()
    ///         .except(typist)
    ///         .latest("typing")
    ///         .expires_in(Duration::from_secs(1));
    ///     let delivery = server.deliver(Audience::Room("lobby".into()), "…", &options);
    ///     println!("{} of them see it", delivery.queued);
    /// }
    /// ```
    pub fn deliver<'a>(
        &mut self,
        audience: impl Into<Audience<'a>>,
        message: impl AsMessage,
        options: &SendOptions,
    ) -> Delivery {
        let now = self.expiry_base(options);
        self.engine.deliver(audience.into(), message.as_message(), options, now)
    }

    /// The time from which an expiry counts. Without one the clock is not read.
    fn expiry_base(&self, options: &SendOptions) -> Option<Instant> {
        options.expires_in.map(|_| self.now())
    }

    /// Queues a message for every open client. It is framed once, and all slow clients share one
    /// copy of a large message. [`Delivery`] counts the clients that get it and those that do not.
    /// Work: O(connections).
    pub fn broadcast(&mut self, message: impl AsMessage) -> Delivery {
        self.deliver(Audience::Everyone, message, &SendOptions::new())
    }

    /// As [`broadcast`](Server::broadcast), for all clients but one: usually the one that sent the
    /// message.
    pub fn broadcast_except(&mut self, except: ClientId, message: impl AsMessage) -> Delivery {
        self.deliver(Audience::Everyone, message, &SendOptions::new().except(except))
    }

    /// As [`broadcast`](Server::broadcast), but for each client the message replaces the one with
    /// the same key, if that has not begun to leave: see [`send_latest`](Server::send_latest).
    ///
    /// # Examples
    ///
    /// ```
    /// fn frame(server: &mut tickws::Server, positions: &[u8]) {
    ///     let _ = server.broadcast_latest("positions", positions); // the next one replaces it
    /// }
    /// ```
    pub fn broadcast_latest(&mut self, key: impl Into<LatestKey>, message: impl AsMessage) -> Delivery {
        self.deliver(Audience::Everyone, message, &SendOptions::new().latest(key))
    }

    /// Queues a ping; its pong updates [`rtt`](Server::rtt). The server also pings every client at
    /// `ping_interval`.
    ///
    /// # Errors
    ///
    /// The id is stale or the connection is closing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::error::Error;
    /// # use tickws::{ClientId, Server};
    /// # fn measure(server: &mut Server, client: ClientId) -> Result<(), Box<dyn Error>> {
    /// server.ping(client)?;
    /// server.poll_for(std::time::Duration::from_millis(50))?; // ... a few ticks later
    /// println!("{client} is {:?} away", server.rtt(client));
    /// # Ok(())
    /// # }
    /// ```
    pub fn ping(&mut self, client: ClientId) -> Result<(), SendError> {
        self.engine.ping(client, self.now())
    }

    /// Begins the close handshake (RFC 6455 §7.1.2) behind queued messages. From now on nothing can
    /// be sent to the client, and messages from it are dropped. Its `Close` event comes when the
    /// peer has replied or hung up, or after `close_timeout`. An outbound connection that is not
    /// open yet is given up: [`ConnectFailed`](crate::Event::ConnectFailed) comes, with
    /// [`Cancelled`](crate::ConnectError::Cancelled).
    ///
    /// # Errors
    ///
    /// The id is stale, the connection is closing already, the code may not be sent, or the reason
    /// is longer than 123 bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tickws::{ClientId, CloseError, Server};
    /// # fn kick(server: &mut Server, client: ClientId) -> Result<(), CloseError> {
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

    /// Drops the connection now, without a close frame, and discards what is queued. Its `Close`
    /// event comes with the next tick. An outbound connection that is not open yet is given up, as
    /// by [`close`](Server::close). A client whose `Close` was reported in the last tick still gets
    /// the close frame that it is owed.
    ///
    /// # Errors
    ///
    /// The id is stale.
    pub fn disconnect(&mut self, client: ClientId) -> Result<(), NotConnectedError> {
        self.engine.disconnect(client)
    }

    /// Begins a shutdown: stops listening, closes every client with `code` (usually
    /// [`CloseCode::GOING_AWAY`], 1001) and `reason` behind its queued messages, and drops the
    /// connections that are left after `deadline`. Plain requests that wait for a response get 503,
    /// and so do connections that waited to be accepted.
    /// Outbound connections that are not open yet are given up, and new ones fail.
    ///
    /// With [`health`](crate::ServerBuilder::health) the server listens until the last client has
    /// left, and responds to every request with 503.
    ///
    /// Keep polling until [`is_drained`](Server::is_drained). A code that may not be sent becomes
    /// 1001, a reason is cut to 123 bytes (RFC 6455 §5.5.1); a second call has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tickws::{CloseCode, Server};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(5));
    /// server.run(|_, event| println!("{event:?}"))?;
    /// assert!(server.is_drained());
    /// # Ok(())
    /// # }
    /// ```
    pub fn shutdown(&mut self, code: impl Into<CloseCode>, reason: &str, deadline: Duration) {
        let now = self.now();
        self.engine.shutdown(code.into(), reason, deadline, now);
        // With a health check the server keeps listening, to report the shutdown.
        if self.engine.config().health.is_none() {
            self.stop_listening();
            self.accept_waiting(now);
        }
    }

    /// Whether a shutdown is complete: every connection is gone and every event was handed out.
    pub fn is_drained(&self) -> bool {
        self.engine.is_drained() && !self.host.is_closing()
    }

    /// Overrides [`max_message_size`](crate::ServerBuilder::max_message_size) for one client, from
    /// the next frame header on: for instance more for a client that has signed in. In bytes, 1 to
    /// 2,147,483,647; other values count as the nearest of these.
    /// [`max_frame_size`](crate::ServerBuilder::max_frame_size) applies as before if it is set. An
    /// outbound connection has the server's limit again after a reconnect.
    ///
    /// # Errors
    ///
    /// The id is stale.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{ClientId, NotConnectedError, Server};
    ///
    /// fn signed_in(server: &mut Server, client: ClientId) -> Result<(), NotConnectedError> {
    ///     server.set_max_message_size(client, 16 << 20)
    /// }
    /// ```
    pub fn set_max_message_size(&mut self, client: ClientId, bytes: usize) -> Result<(), NotConnectedError> {
        self.engine.set_max_message_size(client, bytes)
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
    /// use tickws::{ClientId, NotConnectedError, OverflowPolicy, Server};
    ///
    /// /// A spectator may miss messages, a player may not.
    /// fn spectate(server: &mut Server, client: ClientId) -> Result<(), NotConnectedError> {
    ///     server.set_overflow(client, OverflowPolicy::DropNewest)
    /// }
    /// ```
    pub fn set_overflow(
        &mut self,
        client: ClientId,
        overflow: OverflowPolicy,
    ) -> Result<(), NotConnectedError> {
        self.engine.set_overflow(client, overflow)
    }

    /// Stops reading from this client until [`resume_reading`](Server::resume_reading): the
    /// kernel's buffer fills and TCP slows the peer down. Messages of the current tick still come.
    /// Meanwhile pings are not answered and silence is not counted. A client that is closing, or
    /// whose connection broke, is still read, so that its close handshake can end.
    ///
    /// # Errors
    ///
    /// The id is stale.
    pub fn pause_reading(&mut self, client: ClientId) -> Result<(), NotConnectedError> {
        self.engine.pause_reading(client)
    }

    /// Resumes reading from a paused client; has no effect on other clients. A pause by
    /// [`RateLimitPolicy::Pause`](crate::RateLimitPolicy::Pause) is independent of this one and
    /// goes on.
    ///
    /// # Errors
    ///
    /// The id is stale.
    pub fn resume_reading(&mut self, client: ClientId) -> Result<(), NotConnectedError> {
        self.engine.resume_reading(client, self.now())
    }

    /// Fires [`Event::Timer`](crate::Event::Timer) once, at the first poll that is `delay` or more
    /// from now. The resolution is 1 ms.
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

    /// Fires [`Event::Timer`](crate::Event::Timer) every `period` (at least 1 ms) until it is
    /// cancelled. The phase is kept: a late poll gets one event for all the periods it missed.
    pub fn set_interval(&mut self, period: Duration) -> TimerId {
        self.engine.set_timer(period, true, self.now())
    }

    /// Cancels a timer; `false` if it fired for the last time or was cancelled before.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.engine.cancel_timer(timer)
    }
}
