//! The mio poll loop. The only file that reads the clock; what the application says and asks is in
//! `commands.rs` and `queries.rs`, what other threads say in `handle.rs`.

mod commands;
mod connect;
mod groups;
mod handle;
mod queries;
mod requests;
#[cfg(feature = "sim")]
mod simulated;

#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::Config,
    engine::{Readiness, Stream},
    event::Event,
    mailbox::Mailbox,
    net::{
        listener::{Accepted, Backoff, Listener},
        resolver::Resolver,
        seat::{self, Seat, Socket},
    },
    services::Services,
    tape::Core,
    tick::Tick,
};
use handle::Command;
pub use handle::Handle;
use mio::{Interest, Poll, Token, Waker};

/// A WebSocket server that its program polls.
///
/// | kind | methods |
/// |---|---|
/// | make one | [`bind`](Server::bind), [`builder`](Server::builder) |
/// | do the I/O | [`poll_once`](Server::poll_once), [`poll_for`](Server::poll_for), [`poll_wait`](Server::poll_wait), [`flush`](Server::flush), [`run`](Server::run) |
/// | say something | [`send`](Server::send), [`broadcast`](Server::broadcast), [`ping`](Server::ping), [`close`](Server::close), [`shutdown`](Server::shutdown), … |
/// | connect to others | [`connect`](Server::connect), [`connect_with`](Server::connect_with) |
/// | answer requests | [`accept`](Server::accept), [`accept_with`](Server::accept_with), [`reject`](Server::reject), [`respond`](Server::respond) |
/// | ask | [`clients`](Server::clients), [`buffered`](Server::buffered), [`rtt`](Server::rtt), [`stats`](Server::stats), … |
/// | sit in another loop | [`next_timeout`](Server::next_timeout), `AsFd`, `AsRawFd` |
/// | be heard from other threads | [`handle`](Server::handle) |
///
/// Dropping it drops every connection without a close frame; [`shutdown`](Server::shutdown) first to be
/// polite. Nothing happens between calls: there is no thread and no runtime behind it. What is said is queued
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
    engine: Core,
    listeners: Vec<Listener>,
    /// Listener to accept from first, so that none starves.
    next_listener: usize,
    backoff: Backoff,
    waker: Arc<Waker>,
    /// Made with the first handle.
    mailbox: Option<Mailbox<Command, Waker>>,
    /// Made when the first name has to be resolved.
    resolver: Option<Resolver>,
    /// In a simulated network; the kernel is not asked then.
    seat: Option<Seat>,
    /// A closure of a handle has the server: it must not poll.
    in_call: bool,
}

/// The one place that reads the clock.
pub(crate) fn clock() -> Instant {
    Instant::now()
}

fn is_interrupted(outcome: &io::Result<()>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted)
}

/// Of the event that ends a sleep. Clients have the tokens from zero, the waker has the top one.
const WAKER: Token = Token(usize::MAX);

/// What a client's socket is watched for.
fn interest() -> Interest {
    let interest = Interest::READABLE | Interest::WRITABLE;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let interest = interest | Interest::PRIORITY;
    interest
}

/// Listeners take the tokens from below the waker's downwards.
const fn listener_token(index: usize) -> Token {
    Token(WAKER.0 - 1 - index)
}

impl Server {
    /// The kernel counts milliseconds in 32 bits; for longer it is asked again.
    const MAX_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

    /// Kernel events taken in one poll; more wait for the next.
    const EVENTS: usize = 1024;

    pub(crate) fn new(config: Config, services: Services, sockets: Vec<TcpListener>) -> io::Result<Server> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut listeners = Vec::with_capacity(sockets.len());
        for (index, socket) in sockets.into_iter().enumerate() {
            listeners.push(Listener::new(socket, poll.registry(), listener_token(index))?);
        }
        Ok(Server {
            poll,
            events: mio::Events::with_capacity(Self::EVENTS),
            engine: Core::new(config, services, clock()),
            listeners,
            next_listener: 0,
            backoff: Backoff::default(),
            waker,
            mailbox: None,
            resolver: None,
            seat: None,
            in_call: false,
        })
    }

    /// Flushes what is queued, does the I/O that is ready within the budgets, fires due timers. Never
    /// blocks.
    ///
    /// # Errors
    ///
    /// Only if the poller itself fails; what befalls a client is an event. Inside a closure of
    /// [`Handle::call`] it is always [`ResourceBusy`](io::ErrorKind::ResourceBusy).
    pub fn poll_once(&mut self) -> io::Result<Tick> {
        self.poll_for(Duration::ZERO)
    }

    /// As [`poll_once`](Server::poll_once), but sleeps up to `timeout` while there is nothing to do.
    /// Wakes for I/O, for a deadline, for a [`Handle`] and for a signal; a tick may be empty.
    ///
    /// # Errors
    ///
    /// As [`poll_once`](Server::poll_once).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let mut server = tickws::Server::bind("127.0.0.1:0")?;
    /// server.set_timer(Duration::from_millis(5));
    /// let tick = server.poll_for(Duration::from_secs(60))?;
    /// assert!(tick.len() <= 1); // the timer ended the sleep, long before the minute
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_for(&mut self, timeout: Duration) -> io::Result<Tick> {
        self.poll_wait(Some(timeout))
    }

    /// As [`poll_for`](Server::poll_for); `None` sleeps until something happens.
    ///
    /// # Errors
    ///
    /// As [`poll_once`](Server::poll_once).
    pub fn poll_wait(&mut self, timeout: Option<Duration>) -> io::Result<Tick> {
        self.check_may_poll()?;
        let mut commands = self.command_budget();
        let woken = self.carry_out(&mut commands);
        let called = self.now();
        self.engine.flush(called);
        let mut dials = self.engine.config().accept_budget;
        self.dial(&mut dials, called);
        let timeout = if woken { Some(Duration::ZERO) } else { self.sleep_time(timeout, called) };
        self.sleep(timeout)?;
        let slept = timeout != Some(Duration::ZERO);
        let mut now = if slept { self.now() } else { called };
        let full = self.events.iter().count() == Self::EVENTS;
        self.engine.start_poll(called, now, full);
        for event in &self.events {
            if event.token() == WAKER {
                continue;
            }
            let index = listener_token(0).0 - event.token().0;
            if let Some(listener) = self.listeners.get_mut(index) {
                listener.set_ready();
                continue;
            }
            let readiness = Readiness {
                readable: event.is_readable(),
                writable: event.is_writable(),
                read_closed: event.is_read_closed() || event.is_error(),
                urgent: event.is_priority(),
            };
            self.engine.ready(event.token().0, readiness, now);
        }
        for (index, readiness) in self.seat.iter().flat_map(Seat::report) {
            self.engine.ready(index, readiness, now);
        }
        // What ended the sleep is done now, not one frame later. Not before the events: they are told once,
        // and a command may panic.
        if slept && self.carry_out(&mut commands) {
            now = self.now();
            self.engine.flush(now);
        }
        self.admit(now);
        self.engine.fire_timers(now);
        self.dial(&mut dials, now);
        let stop = self.engine.config().time_budget.and_then(|budget| now.checked_add(budget));
        while self.engine.service_next(now) {
            if stop.is_some_and(|stop| self.now() >= stop) {
                break;
            }
        }
        if self.engine.only_lingers() {
            self.stop_listening();
        }
        let more = full || self.backlog() || self.has_commands() || self.engine.has_dials();
        Ok(self.engine.finish_tick(now, more))
    }

    /// Writes everything queued now, one write per client. Call it at the end of a frame; a loop that
    /// only polls need not. Work: O(clients that something is queued for).
    pub fn flush(&mut self) {
        self.engine.flush(self.now());
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

    /// How long the program may sleep before it has to poll again: zero if something is queued, was
    /// carried over, or was asked for by a [`Handle`], `None` if only I/O can make work.
    ///
    /// For a foreign event loop: wait for the server's descriptor to become readable or for this time to
    /// pass, then call [`poll_once`](Server::poll_once).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let mut server = tickws::Server::bind("127.0.0.1:0")?;
    /// server.poll_once()?;
    /// assert_eq!(server.next_timeout(), None); // nobody is connected and no timer is set
    /// server.set_timer(Duration::from_secs(1));
    /// assert!(server.next_timeout() <= Some(Duration::from_millis(1001)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_timeout(&mut self) -> Option<Duration> {
        self.sleep_time(None, self.now())
    }

    /// The time, as this server has it.
    fn now(&self) -> Instant {
        self.seat.as_ref().map_or_else(clock, Seat::now)
    }

    /// Waits for the kernel's reports, or takes those that are there.
    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if let Some(seat) = &self.seat {
            return seat.sleep(timeout);
        }
        let mut outcome = self.poll.poll(&mut self.events, timeout);
        if is_interrupted(&outcome) {
            // Perhaps by SIGCONT, a day later: before deadlines are judged, somebody has to look.
            outcome = self.poll.poll(&mut self.events, Some(Duration::ZERO));
        }
        if is_interrupted(&outcome) {
            self.events.clear();
            return Ok(());
        }
        outcome
    }

    fn stop_listening(&mut self) {
        self.listeners.clear();
        self.seat.iter().for_each(Seat::stop_listening);
    }

    /// `limit`, or less if something is due before.
    fn sleep_time(&mut self, limit: Option<Duration>, now: Instant) -> Option<Duration> {
        if limit == Some(Duration::ZERO) || self.has_commands() || self.backlog() {
            return Some(Duration::ZERO);
        }
        let due = self.engine.next_timeout(now);
        [limit, due].into_iter().flatten().min().map(|sleep| sleep.min(Self::MAX_SLEEP))
    }

    /// Whether a listener may have connections that this poll has not taken.
    fn backlog(&mut self) -> bool {
        if self.seat.as_ref().is_some_and(Seat::has_backlog) {
            return true;
        }
        let connections = self.engine.connection_count();
        self.listeners.iter().any(Listener::is_ready) && !self.backoff.rests(self.now(), connections)
    }

    /// Accepts within the budget, one listener after the other.
    fn admit(&mut self, now: Instant) {
        if self.seat.is_some() {
            return self.admit_simulated(now);
        }
        if !self.listeners.iter().any(Listener::is_ready)
            || self.backoff.rests(now, self.engine.connection_count())
        {
            return;
        }
        let mut budget = self.engine.config().accept_budget;
        let mut idle = 0;
        while budget > 0 && idle < self.listeners.len() {
            self.next_listener = (self.next_listener + 1) % self.listeners.len();
            let Some(listener) = self.listeners.get_mut(self.next_listener) else { return };
            if !listener.is_ready() {
                idle += 1;
                continue;
            }
            match listener.accept() {
                Accepted::Connection(stream, remote) => {
                    idle = 0;
                    self.backoff.end();
                    self.welcome(seat::socket(stream), remote, now);
                }
                Accepted::Empty => idle += 1,
                Accepted::Lost => {}
                Accepted::Dead => self.engine.count_lost_listener(),
                Accepted::Exhausted(error) => {
                    self.engine.count_pause();
                    let until = self.backoff.begin(&error, now, self.engine.connection_count());
                    self.engine.wake_at(until);
                    return;
                }
            }
            budget -= 1;
        }
    }

    fn admit_simulated(&mut self, now: Instant) {
        for _ in 0..self.engine.config().accept_budget {
            let Some((stream, remote)) = self.seat.as_ref().and_then(Seat::accept) else { return };
            self.welcome(stream, remote, now);
        }
    }

    fn welcome(&mut self, stream: Socket, remote: SocketAddr, now: Instant) {
        stream.tune(self.engine.config());
        let Some(index) = self.engine.accept(stream, remote, now) else { return };
        let Some(stream) = self.engine.stream_mut(index) else { return };
        if let Some(seat) = &self.seat {
            seat.watch(stream, index);
        }
        // Once and for all: nothing is re-registered later.
        if let Some(stream) = seat::tcp(stream)
            && let Err(error) = self.poll.registry().register(stream, Token(index), interest())
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

/// Readable when a poll would find I/O to do, or a [`Handle`] has called.
#[cfg(unix)]
impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

/// Readable when a poll would find I/O to do, or a [`Handle`] has called.
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
        fn is_shared<T: Send + Sync + Clone>() {}
        is_shared::<Handle>();
    }
}
