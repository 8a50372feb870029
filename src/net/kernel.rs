//! The kernel as the system of a server: poller, listeners and clock. No other file reads the
//! clock (law 4, ARCHITECTURE.md).

#[cfg(unix)]
use std::path::Path;
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use mio::{Events, Interest, Poll, Token, Waker, event::Source, net::TcpStream};

#[cfg(unix)]
use super::unix;
use super::{
    listener::{self, Backoff, Listener, Registered},
    resolver::{Resolved, Resolver},
    socket::Socket,
};
use crate::{engine::Readiness, error::ConnectError, id::ClientId, peer_addr::PeerAddr};

/// Reads the clock.
pub(crate) fn clock() -> Instant {
    Instant::now()
}

/// The time since 1970-01-01 UTC; zero if the clock is set to an earlier date.
pub(crate) fn wall_clock() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The token of the waker's events, the highest. Clients have the tokens from zero upwards.
const WAKER: Token = Token(usize::MAX);

/// The token of a listener. Listeners have the tokens below the waker's, downwards.
const fn listener_token(index: usize) -> Token {
    Token(WAKER.0 - 1 - index)
}

/// The kinds of readiness for which a client's socket is registered.
fn interest() -> Interest {
    let interest = Interest::READABLE | Interest::WRITABLE;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let interest = interest | Interest::PRIORITY;
    interest
}

fn is_interrupted(outcome: &io::Result<()>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted)
}

/// The outcome of one accept.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// `named`: it begins with a PROXY header. `is_tls`: it is encrypted behind that.
    Connection { socket: Socket, peer: PeerAddr, named: bool, is_tls: bool },
    /// This accept returned no connection; the next one may.
    Nothing,
    /// A connection failed before it was accepted.
    Lost,
    /// A listener no longer accepts. Reported once for each.
    Dead,
    /// Accepting does not work now, and pauses until this time.
    Exhausted(Instant),
}

#[derive(Debug)]
pub(crate) struct Kernel {
    pub(super) poll: Poll,
    events: Events,
    pub(super) waker: Arc<Waker>,
    listeners: Vec<Registered>,
    /// The listener of the last accept. The next accept starts at the following listener, so that
    /// no listener starves.
    last_listener: usize,
    backoff: Backoff,
    /// The resolver; created when the first name has to be resolved.
    resolver: Option<Resolver>,
}

impl Kernel {
    /// `events` is the maximum number of the kernel's events in one poll; others are reported by
    /// the next poll.
    pub(super) fn new(sockets: Vec<Listener>, events: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut listeners = Vec::with_capacity(sockets.len());
        for (index, socket) in sockets.into_iter().enumerate() {
            listeners.push(Registered::new(socket, poll.registry(), listener_token(index))?);
        }
        Ok(Kernel {
            poll,
            events: Events::with_capacity(events),
            waker,
            listeners,
            last_listener: 0,
            backoff: Backoff::default(),
            resolver: None,
        })
    }

    #[inline]
    pub(super) fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut outcome = self.poll.poll(&mut self.events, timeout);
        if is_interrupted(&outcome) {
            // A SIGCONT may end a suspension of many hours. Input that arrived meanwhile has to be
            // read before deadlines are checked.
            outcome = self.poll.poll(&mut self.events, Some(Duration::ZERO));
        }
        if is_interrupted(&outcome) {
            self.events.clear();
            return Ok(());
        }
        outcome
    }

    #[inline]
    pub(super) fn has_full_report(&self) -> bool {
        self.events.iter().count() == self.events.capacity()
    }

    #[inline]
    pub(super) fn report(&mut self, mut ready: impl FnMut(usize, Readiness)) {
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
            ready(event.token().0, readiness);
        }
    }

    // ---- listeners ----

    pub(super) fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(Registered::local_addr).collect()
    }

    /// Whether all listeners accept on loopback addresses only; `false` without listeners.
    pub(super) fn is_local(&self) -> bool {
        let is_local = |listener: &Registered| {
            listener.local_addr().is_some_and(|addr| addr.ip().to_canonical().is_loopback())
        };
        // No page reaches a Unix domain socket but through a proxy.
        let mut tcp = self.listeners.iter().filter(|listener| listener.local_addr().is_some()).peekable();
        tcp.peek().is_some() && tcp.all(is_local)
    }

    #[inline]
    pub(super) fn has_backlog(&mut self, connections: usize) -> bool {
        self.listeners.iter().any(Registered::is_ready) && !self.backoff.is_active(clock(), connections)
    }

    #[inline]
    pub(super) fn accept(&mut self, now: Instant, connections: usize) -> Option<Accepted> {
        let count = self.listeners.len();
        let next = (1..=count)
            .map(|step| (self.last_listener + step) % count)
            .find(|index| self.listeners.get(*index).is_some_and(Registered::is_ready))?;
        if self.backoff.is_active(now, connections) {
            return None;
        }
        self.last_listener = next;
        Some(match self.listeners.get_mut(next)?.accept() {
            listener::Accepted::Connection { socket, peer, named, is_tls } => {
                self.backoff.end();
                Accepted::Connection { socket, peer, named, is_tls }
            }
            listener::Accepted::Empty => Accepted::Nothing,
            listener::Accepted::Lost => Accepted::Lost,
            listener::Accepted::Dead => Accepted::Dead,
            listener::Accepted::Exhausted(error) => {
                Accepted::Exhausted(self.backoff.begin(&error, now, connections))
            }
        })
    }

    /// Closes the listeners after at most `most` accepts each, for connections that wait already.
    pub(super) fn stop_listening(&mut self, most: usize) {
        self.listeners.iter_mut().for_each(|listener| listener.begin_close(most));
    }

    pub(super) fn close_listeners(&mut self) {
        self.listeners.clear();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.listeners.iter().any(Registered::is_closing)
    }

    // ---- connections ----

    pub(super) fn watch(&self, stream: &mut impl Source, token: usize) -> io::Result<()> {
        self.poll.registry().register(stream, Token(token), interest())
    }

    pub(super) fn connect(&self, token: usize, addr: SocketAddr) -> io::Result<Socket> {
        let mut stream = TcpStream::connect(addr)?;
        self.watch(&mut stream, token)?;
        Ok(Socket::Tcp(stream))
    }

    #[cfg(unix)]
    pub(super) fn connect_unix(&self, token: usize, path: &Path) -> io::Result<Socket> {
        let mut stream = unix::connect(path)?;
        self.watch(&mut stream, token)?;
        Ok(Socket::Unix(stream))
    }

    pub(super) fn resolve(&mut self, id: ClientId, host: String, port: u16) -> Result<(), ConnectError> {
        let resolver = match &mut self.resolver {
            Some(resolver) => resolver,
            None => match Resolver::new(Arc::clone(&self.waker)) {
                Ok(resolver) => self.resolver.insert(resolver),
                Err(error) => return Err(ConnectError::Resolve { host, error: error.to_string() }),
            },
        };
        resolver.start(id, host, port)
    }

    #[inline]
    pub(super) fn resolved(&mut self) -> Option<Vec<Resolved>> {
        self.resolver.as_mut().map(Resolver::take_results)
    }
}
