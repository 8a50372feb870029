//! The mio poll loop and the public face. The only file that reads the clock.

#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use mio::{Interest, Poll, Token, net::TcpStream};
use tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    config::{Config, Overflow},
    engine::{Delivery, Engine, Readiness},
    error::{CloseError, NotConnected, SendError},
    event::Event,
    id::{ClientId, TimerId},
    message::Message,
    net::listener::{Accepted, Backoff, Listener},
    proto::handshake::Request,
    stats::Stats,
    tick::Tick,
};

/// A WebSocket server that its program polls.
///
/// | kind | methods |
/// |---|---|
/// | make one | [`bind`](Server::bind), [`builder`](Server::builder) |
/// | do the I/O | [`poll_once`](Server::poll_once), [`poll_for`](Server::poll_for), [`poll_wait`](Server::poll_wait), [`flush`](Server::flush), [`run`](Server::run) |
/// | say something | [`send`](Server::send), [`broadcast`](Server::broadcast), [`ping`](Server::ping), [`close`](Server::close), [`shutdown`](Server::shutdown), … |
/// | ask | [`clients`](Server::clients), [`buffered`](Server::buffered), [`rtt`](Server::rtt), [`stats`](Server::stats), … |
/// | sit in another loop | [`next_timeout`](Server::next_timeout), `AsFd`, `AsRawFd` |
///
/// Nothing happens between calls: there is no thread and no runtime behind it. What is said is queued
/// and leaves at the next flush; every poll begins with one.
///
/// # Examples
///
/// ```no_run
/// use tickws::{Event, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind("127.0.0.1:9001")?;
/// loop {
///     let tick = server.poll_wait(None)?;
///     for event in &tick {
///         match event {
///             Event::Message { message, .. } => {
///                 server.broadcast(message);
///             }
///             Event::Close { client, reason } => println!("{client} left: {reason}"),
///             _ => {}
///         }
///     }
/// }
/// # }
/// ```
pub struct Server {
    poll: Poll,
    events: mio::Events,
    engine: Engine<TcpStream>,
    listeners: Vec<Listener>,
    /// Listener to accept from first, so that none starves.
    next_listener: usize,
    backoff: Backoff,
}

/// Listeners take the tokens from the top.
const fn listener_token(index: usize) -> Token {
    Token(usize::MAX - index)
}

impl Server {
    /// The kernel counts milliseconds in 32 bits; for longer it is asked again.
    const MAX_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

    /// Kernel events taken in one poll; more wait for the next.
    const EVENTS: usize = 1024;

    pub(crate) fn new(config: Config, sockets: Vec<TcpListener>) -> io::Result<Server> {
        let poll = Poll::new()?;
        let mut listeners = Vec::with_capacity(sockets.len());
        for (index, socket) in sockets.into_iter().enumerate() {
            listeners.push(Listener::new(socket, poll.registry(), listener_token(index))?);
        }
        Ok(Server {
            poll,
            events: mio::Events::with_capacity(Self::EVENTS),
            engine: Engine::new(config, Instant::now()),
            listeners,
            next_listener: 0,
            backoff: Backoff::default(),
        })
    }

    // ---- do the I/O ----

    /// Flushes what is queued, does the I/O that is ready within the budgets, fires due timers. Never
    /// blocks.
    ///
    /// # Errors
    ///
    /// Only if the poller itself fails; what befalls a client is an event.
    pub fn poll_once(&mut self) -> io::Result<Tick> {
        self.poll_for(Duration::ZERO)
    }

    /// As [`poll_once`](Server::poll_once), but sleeps up to `timeout` while there is nothing to do.
    /// Wakes for I/O, for a deadline and for a signal; a tick may be empty.
    ///
    /// # Errors
    ///
    /// As [`poll_once`](Server::poll_once).
    pub fn poll_for(&mut self, timeout: Duration) -> io::Result<Tick> {
        self.poll_wait(Some(timeout))
    }

    /// As [`poll_for`](Server::poll_for); `None` sleeps until something happens.
    ///
    /// # Errors
    ///
    /// As [`poll_once`](Server::poll_once).
    pub fn poll_wait(&mut self, timeout: Option<Duration>) -> io::Result<Tick> {
        let mut now = Instant::now();
        self.engine.flush(now);
        let timeout = self.sleep_time(timeout, now);
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            outcome => outcome?,
        }
        if timeout != Some(Duration::ZERO) {
            now = Instant::now();
        }
        self.engine.start_poll();
        let mut full = false;
        for (count, event) in self.events.iter().enumerate() {
            full = count + 1 == Self::EVENTS;
            let index = usize::MAX - event.token().0;
            if let Some(listener) = self.listeners.get_mut(index) {
                listener.set_ready();
                continue;
            }
            let readiness = Readiness {
                readable: event.is_readable(),
                writable: event.is_writable(),
                read_closed: event.is_read_closed() || event.is_error(),
            };
            self.engine.ready(event.token().0, readiness, now);
        }
        self.accept(now);
        self.engine.fire_timers(now);
        let stop = self.engine.config().time_budget.and_then(|budget| now.checked_add(budget));
        while self.engine.service_next(now) {
            if stop.is_some_and(|stop| Instant::now() >= stop) {
                break;
            }
        }
        let more = full || self.backlog();
        Ok(self.engine.finish_tick(now, more))
    }

    /// Writes everything queued now, one write per client. Call it at the end of a frame; a loop that
    /// only polls need not.
    pub fn flush(&mut self) {
        self.engine.flush(Instant::now());
    }

    /// Polls until a [`shutdown`](Server::shutdown) is complete, calling `on_event` for each event: for
    /// a program whose whole job is the server.
    ///
    /// # Errors
    ///
    /// As [`poll_once`](Server::poll_once).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tickws::{CloseCode, Event, Server};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// server.set_timer(Duration::from_millis(5));
    /// server.run(|server, event| {
    ///     if let Event::Timer { .. } = event {
    ///         server.shutdown(CloseCode::Away, Duration::from_secs(1));
    ///     }
    /// })?;
    /// assert!(server.is_drained());
    /// # Ok(())
    /// # }
    /// ```
    pub fn run(&mut self, mut on_event: impl FnMut(&mut Server, Event<'_>)) -> io::Result<()> {
        while !self.is_drained() {
            for event in &self.poll_wait(None)? {
                on_event(self, event);
            }
        }
        Ok(())
    }

    /// How long the program may sleep before it has to poll again: zero if something is queued or was
    /// carried over, `None` if only I/O can make work.
    ///
    /// For a foreign event loop: wait for the server's descriptor to become readable or for this time to
    /// pass, then call [`poll_once`](Server::poll_once).
    pub fn next_timeout(&mut self) -> Option<Duration> {
        self.sleep_time(None, Instant::now())
    }

    // ---- say something ----

    /// Queues a message for one client. It leaves whole at the next flush, or as its peer takes it.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why nothing was queued: a stale id, a closing connection, a full outbox.
    pub fn send<'m>(&mut self, client: ClientId, message: impl Into<Message<'m>>) -> Result<(), SendError> {
        self.engine.send(client, message.into())
    }

    /// Queues a message for every open client. It is framed once, and a large one is held once however
    /// many clients are slow. Work: O(clients).
    pub fn broadcast<'m>(&mut self, message: impl Into<Message<'m>>) -> Delivery {
        self.engine.broadcast(message.into(), None)
    }

    /// As [`broadcast`](Server::broadcast), for all but one: usually the client that said it.
    pub fn broadcast_except<'m>(&mut self, except: ClientId, message: impl Into<Message<'m>>) -> Delivery {
        self.engine.broadcast(message.into(), Some(except))
    }

    /// Queues a ping; its pong updates [`rtt`](Server::rtt). The server pings by itself every
    /// `ping_interval`.
    ///
    /// # Errors
    ///
    /// The id is stale or the connection is closing.
    pub fn ping(&mut self, client: ClientId) -> Result<(), SendError> {
        self.engine.ping(client, Instant::now())
    }

    /// Begins the close handshake (RFC 6455 §7.1.2) behind what is queued. From now on nothing can be
    /// sent to the client and its messages are dropped; its `Close` event comes when it has answered,
    /// left, or kept quiet for `close_timeout`.
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
        self.engine.close(client, code.into(), reason, Instant::now())
    }

    /// Drops the connection now, without a close frame and with whatever is queued. Its `Close` event
    /// comes with the next tick.
    ///
    /// # Errors
    ///
    /// The id is stale.
    pub fn disconnect(&mut self, client: ClientId) -> Result<(), NotConnected> {
        self.engine.disconnect(client)
    }

    /// Begins the end: stops listening, closes every client with `code` (usually
    /// [`CloseCode::Away`], 1001) behind what is queued for it, and drops after `deadline` what is left.
    /// Keep polling until [`is_drained`](Server::is_drained). A code that may not be sent becomes 1001.
    pub fn shutdown(&mut self, code: impl Into<CloseCode>, deadline: Duration) {
        // New clients are refused by the kernel from here on.
        self.listeners.clear();
        self.engine.shutdown(code.into(), deadline, Instant::now());
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
    pub fn set_overflow(&mut self, client: ClientId, overflow: Overflow) -> Result<(), NotConnected> {
        self.engine.set_overflow(client, overflow)
    }

    /// Reads no more from this client until [`resume_reading`](Server::resume_reading): the kernel's
    /// buffer fills and TCP slows the peer down. Messages of the current tick still come. Meanwhile
    /// pings are not answered and silence is not counted.
    ///
    /// # Errors
    ///
    /// The id is stale.
    pub fn pause_reading(&mut self, client: ClientId) -> Result<(), NotConnected> {
        self.engine.pause_reading(client)
    }

    /// Reads again from a client that was paused.
    ///
    /// # Errors
    ///
    /// The id is stale.
    pub fn resume_reading(&mut self, client: ClientId) -> Result<(), NotConnected> {
        self.engine.resume_reading(client, Instant::now())
    }

    /// Fires [`Event::Timer`] once, at the first poll `delay` from now or later; the resolution is 1 ms.
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
        self.engine.set_timer(delay, false, Instant::now())
    }

    /// Fires [`Event::Timer`] every `period` (at least 1 ms) until cancelled. It keeps its rhythm: a
    /// poll that comes late gets one event for all the periods it missed.
    pub fn set_interval(&mut self, period: Duration) -> TimerId {
        self.engine.set_timer(period, true, Instant::now())
    }

    /// Stops a timer. `false` if it has fired for the last time or was cancelled before.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.engine.cancel_timer(timer)
    }

    // ---- ask ----

    /// The addresses listened on, in the order of binding.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(Listener::local_addr).collect()
    }

    /// The open clients. Work: O(connections).
    pub fn clients(&self) -> impl Iterator<Item = ClientId> {
        self.engine.clients()
    }

    /// How many clients are open.
    pub fn client_count(&self) -> usize {
        self.engine.client_count()
    }

    /// The client's address; `None` for a stale id.
    pub fn remote_addr(&self, client: ClientId) -> Option<SocketAddr> {
        self.engine.remote_addr(client)
    }

    /// The round trip of the last answered ping; `None` before the first, and for a stale id.
    pub fn rtt(&self, client: ClientId) -> Option<Duration> {
        self.engine.rtt(client)
    }

    /// Bytes queued for the client and not yet taken by the kernel; 0 for a stale id.
    pub fn buffered(&self, client: ClientId) -> usize {
        self.engine.buffered(client)
    }

    /// The client's upgrade request, if [`keep_requests`](crate::ServerBuilder::keep_requests) is set.
    pub fn request(&self, client: ClientId) -> Option<&Request> {
        self.engine.request(client)
    }

    /// Counters since the server began.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    // ---- helpers ----

    /// `limit`, or less if something is due before.
    fn sleep_time(&mut self, limit: Option<Duration>, now: Instant) -> Option<Duration> {
        if limit == Some(Duration::ZERO) || self.backlog() {
            return Some(Duration::ZERO);
        }
        let due = self.engine.next_timeout(now);
        [limit, due].into_iter().flatten().min().map(|sleep| sleep.min(Self::MAX_SLEEP))
    }

    /// Whether a listener may have connections that this poll has not taken.
    fn backlog(&mut self) -> bool {
        let connections = self.engine.connection_count();
        self.listeners.iter().any(Listener::is_ready) && !self.backoff.rests(Instant::now(), connections)
    }

    /// Accepts within the budget, one listener after the other.
    fn accept(&mut self, now: Instant) {
        if !self.listeners.iter().any(Listener::is_ready)
            || self.backoff.rests(now, self.engine.connection_count())
        {
            return;
        }
        let mut budget = self.engine.config().accept_budget;
        let mut idle = 0;
        while budget > 0 && idle < self.listeners.len() {
            self.next_listener = (self.next_listener + 1) % self.listeners.len();
            let listener = &mut self.listeners[self.next_listener];
            if !listener.is_ready() {
                idle += 1;
                continue;
            }
            match listener.accept() {
                Accepted::Connection(stream, remote) => {
                    idle = 0;
                    self.backoff.end();
                    self.welcome(stream, remote, now);
                }
                Accepted::Empty => idle += 1,
                Accepted::Lost => {}
                Accepted::Exhausted(error) => {
                    self.engine.stats_mut().accept_pauses += 1;
                    let until = self.backoff.begin(&error, now, self.engine.connection_count());
                    self.engine.wake_at(until);
                    return;
                }
            }
            budget -= 1;
        }
    }

    fn welcome(&mut self, stream: TcpStream, remote: SocketAddr, now: Instant) {
        if self.engine.config().nodelay
            && let Err(error) = stream.set_nodelay(true)
        {
            // The peer has reset it already; the first read will tell.
            log::debug!("no TCP_NODELAY for {remote}: {error}");
        }
        let Some(index) = self.engine.accept(stream, remote, now) else { return };
        let interest = Interest::READABLE | Interest::WRITABLE;
        // Once and for all: nothing is re-registered later.
        if let Some(stream) = self.engine.stream_mut(index)
            && let Err(error) = self.poll.registry().register(stream, Token(index), interest)
        {
            log::warn!("cannot watch {remote}: {error}");
            self.engine.abandon(index);
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listeners", &self.listeners)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Readable when a poll would find I/O to do.
#[cfg(unix)]
impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

/// Readable when a poll would find I/O to do.
#[cfg(unix)]
impl AsRawFd for Server {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_and_its_ticks_may_move_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<Server>();
        is_send::<Tick>();
    }
}
