//! The poll loop. The calls of the application are in `commands.rs`, `rooms.rs`, `respond.rs` and
//! `queries.rs`, those of other threads in `handle.rs`.

mod accept;
pub(crate) mod builder;
mod commands;
mod handle;
mod mailbox;
mod outbound;
mod queries;
mod respond;
mod rooms;
mod rotation;
#[cfg(feature = "sim")]
mod simulated;
mod tls;

#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::{
    fmt, io,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use crate::{
    config::{Config, hosts::HostPolicy},
    engine::{Work, hooks::Hooks},
    event::{Event, tick::Tick},
    net::{
        host::{Host, Waker},
        listener::Listener,
    },
    record::RecordedEngine,
    server::mailbox::Mailbox,
};
use handle::Command;
pub use handle::Handle;
#[cfg(feature = "tls")]
use tls::Encryption;

/// A WebSocket server that its program polls.
///
/// The kinds of method:
///
/// - Create a server: [`bind`](Server::bind), [`builder`](Server::builder).
/// - Do the I/O: [`poll_once`](Server::poll_once), [`poll_for`](Server::poll_for),
///   [`poll_until`](Server::poll_until),
///   [`poll_wait`](Server::poll_wait), [`flush`](Server::flush), [`run`](Server::run).
/// - Send and close: [`send`](Server::send), [`broadcast`](Server::broadcast),
///   [`publish`](Server::publish), [`ping`](Server::ping), [`close`](Server::close),
///   [`shutdown`](Server::shutdown), …
/// - Connect to other servers: [`connect`](Server::connect).
/// - Encrypt: `bind_tls` of the builder, `set_tls` (feature `tls`).
/// - Respond to requests: [`accept`](Server::accept), [`accept_with`](Server::accept_with),
///   [`reject`](Server::reject), [`respond`](Server::respond).
/// - Query: [`clients`](Server::clients), [`buffered`](Server::buffered), [`rtt`](Server::rtt),
///   [`stats`](Server::stats), …
/// - Run inside another event loop: [`next_timeout`](Server::next_timeout), `AsFd`, `AsRawFd`.
/// - Control the server from other threads: [`handle`](Server::handle).
///
/// Nothing happens between calls: there is no thread and no runtime behind a server. Messages are
/// queued and leave at the next flush, with which every poll begins. Dropping the server writes
/// what is queued, as far as the sockets accept it at once, and drops all connections, those that
/// are open without a close frame; [`shutdown`](Server::shutdown) closes them in an orderly way
/// first.
///
/// # Portability
///
/// - The server waits in epoll on Linux and Android, in kqueue on macOS and the BSDs, and in IOCP
///   on Windows, through mio. It was measured on Linux.
/// - `AsFd` and `AsRawFd` exist on Unix. On Windows the completion port gives another event loop
///   nothing to wait for: let the server wait, in [`poll_until`](Server::poll_until) with the time
///   of the next frame, and end the wait from another thread with
///   [`Handle::wake`](crate::Handle::wake).
/// - Sleeps are rounded up to milliseconds. On Windows the system's timer may be coarser.
/// - A signal ends a sleep early on Unix; the tick may then be empty.
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
///                 let _ = server.broadcast(message); // slow clients miss it
///             }
///             Event::Close { client, reason } => println!("{client} left: {reason}"),
///             _ => {}
///         }
///     }
/// }
/// # }
/// ```
pub struct Server {
    engine: RecordedEngine,
    host: Host,
    /// Made with the first handle.
    mailbox: Option<Mailbox<Command, Waker>>,
    /// A closure of [`Handle::call`] is running.
    in_call: Arc<AtomicBool>,
    /// A closure has put this server in the place of one that was polled.
    swapped_in: bool,
    /// Since when each call has left output over for its time budget, and whether the log says so.
    cut_since: Option<(Instant, bool)>,
    #[cfg(feature = "tls")]
    encryption: Encryption,
}

impl Server {
    /// The longest single sleep. The kernel counts milliseconds in 32 bits, so that longer sleeps
    /// are split.
    const MAX_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

    pub(crate) fn new(mut config: Config, hooks: Hooks, sockets: Vec<Listener>) -> io::Result<Server> {
        // Readiness is reported before the first step of a poll with a time budget.
        let events = if config.time_budget.is_some() { 128 } else { 1024 };
        let host = Host::kernel(sockets, events)?;
        // A page whose name was changed to point at this machine could reach a server that is meant
        // for this machine alone.
        if host.is_local() && config.hosts == HostPolicy::Unset && config.trusted_proxies.is_empty() {
            config.hosts = HostPolicy::Loopback;
        }
        Ok(Server::on(host, config, hooks))
    }

    fn on(host: Host, mut config: Config, mut hooks: Hooks) -> Server {
        config.rearm = host.rearm();
        #[cfg(feature = "tls")]
        let encryption = Encryption::new(config.rearm);
        hooks.wall_clock = Some(host.wall_clock());
        let engine = RecordedEngine::new(config, hooks, host.now());
        Server {
            engine,
            host,
            mailbox: None,
            in_call: Arc::default(),
            swapped_in: false,
            cut_since: None,
            #[cfg(feature = "tls")]
            encryption,
        }
    }

    /// Flushes queued messages, does the I/O that is ready, within the budgets, and fires timers
    /// that are due. Never blocks.
    ///
    /// # Errors
    ///
    /// Only if the poller itself fails; the failure of a connection is an event. Inside a closure
    /// of [`Handle::call`] always [`ResourceBusy`](io::ErrorKind::ResourceBusy).
    pub fn poll_once(&mut self) -> io::Result<Tick> {
        self.poll_for(Duration::ZERO)
    }

    /// Same as [`poll_once`](Server::poll_once), but sleeps up to `timeout` while there is nothing
    /// to do. I/O, a deadline, a [`Handle`] and a signal end the sleep, so a tick may be empty.
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

    /// Same as [`poll_for`](Server::poll_for); `None` sleeps until something happens.
    ///
    /// # Errors
    ///
    /// As [`poll_once`](Server::poll_once).
    pub fn poll_wait(&mut self, timeout: Option<Duration>) -> io::Result<Tick> {
        self.check_may_poll()?;
        if let Some(budget) = self.engine.config().time_budget {
            return self.poll_in_turns(timeout, budget);
        }
        let mut commands = self.command_budget();
        let woken = self.carry_out(&mut commands);
        self.swapped_in = false;
        let called = self.now();
        self.engine.flush(called);
        let mut dials = self.engine.config().accept_budget;
        self.dial(&mut dials, called);
        let timeout = if woken { Some(Duration::ZERO) } else { self.sleep_time(timeout, called) };
        self.host.sleep(timeout)?;
        let slept = timeout != Some(Duration::ZERO);
        let mut now = if slept { self.now() } else { called };
        let full = self.host.has_full_report();
        let Server { host, engine, .. } = self;
        engine.start_poll(called, now, full);
        host.report(|index, readiness| engine.ready(index, readiness, now));
        engine.write_resumed(now);
        // Commands that ended the sleep run now and not one frame later. They run after the
        // readiness events, which the kernel reports only once, because a command may panic.
        let carried_out = slept && self.carry_out(&mut commands);
        if std::mem::take(&mut self.swapped_in) {
            // This server has not begun a poll.
            return self.poll_wait(Some(Duration::ZERO));
        }
        if carried_out {
            now = self.now();
            self.engine.flush(now);
        }
        self.accept_connections(now);
        self.engine.fire_timers(now);
        self.dial(&mut dials, now);
        while self.engine.service_next(now) {}
        if self.engine.awaits_handshakes() {
            self.engine.do_handshakes(now);
        }
        Ok(self.finish_poll(now, full))
    }

    /// Ends a poll. `full`: the kernel has more events than it has reported.
    fn finish_poll(&mut self, now: Instant, full: bool) -> Tick {
        if self.engine.shutdown_is_due {
            self.host.close_listeners();
        } else if self.engine.only_lingers() {
            self.stop_listening();
        }
        let more = full || self.has_backlog() || self.has_commands() || self.engine.has_dials();
        self.engine.finish_tick(now, more)
    }

    /// Same as [`poll_for`](Server::poll_for), but sleeps until `deadline` at the latest: for a
    /// loop with a fixed step, whose next frame begins then.
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
    /// let mut next_frame = server.now();
    /// for _ in 0..3 {
    ///     next_frame += Duration::from_millis(16);
    ///     // Events are handled as they come, until the frame begins.
    ///     while server.now() < next_frame {
    ///         for event in &server.poll_until(next_frame)? {
    ///             println!("{event:?}");
    ///         }
    ///     }
    ///     // ... simulate
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_until(&mut self, deadline: Instant) -> io::Result<Tick> {
        self.poll_for(deadline.saturating_duration_since(self.now()))
    }

    /// Writes what is queued, one write per client, and returns how many clients have output that
    /// waits for a later call. Call it at the end of a frame; a loop that only polls need not.
    ///
    /// - Without a [`time_budget`](crate::ServerBuilder::time_budget) it writes all that the
    ///   application has queued. A client costs one system call, about 8 µs on loopback. What peers
    ///   cause is bounded: 128 final close frames, and 24 pieces of 64 KiB to clients whose sockets
    ///   can be written to again.
    /// - With one it writes in turns, at most 64 KiB to a client at a time, until the time is over.
    ///   The next call goes on where this one ended. Latest values are framed when their client's
    ///   turn comes, so a client whose turn comes later gets fresher ones.
    ///
    /// A program that stops may call it until it returns 0.
    pub fn flush(&mut self) -> usize {
        match self.engine.config().time_budget {
            Some(budget) => self.flush_in_turns(budget),
            None => self.engine.flush(self.now()),
        }
        self.engine.unflushed()
    }

    /// Polls until a [`shutdown`](Server::shutdown) is complete, and calls `on_event` for each
    /// event. For a program that does nothing but run the server.
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
    ///         server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(1));
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

    /// How long the program may sleep before it has to poll again: zero if output is queued, work
    /// was left over or a [`Handle`] has sent a command; `None` if only I/O can cause work.
    ///
    /// For use inside another event loop: wait until the server's descriptor becomes readable or
    /// this time has passed, then call [`poll_once`](Server::poll_once).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let mut server = tickws::Server::bind("127.0.0.1:0")?;
    /// server.poll_once()?;
    /// assert_eq!(server.next_timeout(), None); // no client is connected and no timer is set
    /// server.set_timer(Duration::from_secs(1));
    /// assert!(server.next_timeout() <= Some(Duration::from_millis(1001)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_timeout(&mut self) -> Option<Duration> {
        self.sleep_time(None, self.now())
    }

    /// The time of this server's clock: [`Instant::now`], or the virtual time of a simulation.
    pub fn now(&self) -> Instant {
        self.host.now()
    }

    /// `limit`, or less if something is due earlier.
    fn sleep_time(&mut self, limit: Option<Duration>, now: Instant) -> Option<Duration> {
        if limit == Some(Duration::ZERO) || self.has_commands() || self.has_backlog() {
            return Some(Duration::ZERO);
        }
        let due = self.engine.next_timeout(now);
        [limit, due].into_iter().flatten().min().map(|sleep| sleep.min(Self::MAX_SLEEP))
    }
}

/// Writes what is queued, as far as the sockets accept it without blocking: a program that ends
/// right after an event does not keep its peers from their close frames.
impl Drop for Server {
    fn drop(&mut self) {
        // A second panic would end the process.
        if std::thread::panicking() {
            return;
        }
        let now = self.now();
        while self.engine.step(Work::Endings, now) {}
        self.engine.flush(now);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("local_addrs", &self.local_addrs())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Readable if a poll would find I/O to do or a command of a [`Handle`]. The descriptor of a
/// simulated server never becomes readable.
#[cfg(unix)]
impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.host.as_fd()
    }
}

/// Readable if a poll would find I/O to do or a command of a [`Handle`]. The descriptor of a
/// simulated server never becomes readable.
#[cfg(unix)]
impl AsRawFd for Server {
    fn as_raw_fd(&self) -> RawFd {
        self.host.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For instance a resource of Bevy, which is `Send + Sync + 'static`.
    #[test]
    fn a_server_and_its_ticks_may_be_shared_between_threads() {
        fn is_shared<T: Send + Sync + 'static>() {}
        is_shared::<Server>();
        is_shared::<Tick>();
        is_shared::<Handle>();
        is_shared::<crate::Client>();
    }
}
