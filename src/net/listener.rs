//! Listening sockets, and what a failed accept means.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{
    Interest, Registry, Token,
    net::{TcpListener, TcpStream},
};

/// How long accepting rests when the process is out of descriptors; a closed connection ends it early.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// One listening socket, registered edge-triggered.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    addr: SocketAddr,
    /// The backlog may hold connections. Cleared when an accept would block.
    ready: bool,
}

/// What an accept gave.
#[derive(Debug)]
pub(crate) enum Accepted {
    Connection(TcpStream, SocketAddr),
    /// The backlog is empty.
    Empty,
    /// That connection is lost; the next may be fine.
    Lost,
    /// No descriptors or no memory: trying again at once would spin.
    Exhausted(io::Error),
}

impl Listener {
    pub(crate) fn new(socket: std::net::TcpListener, registry: &Registry, token: Token) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let addr = socket.local_addr()?;
        let mut socket = TcpListener::from_std(socket);
        registry.register(&mut socket, token, Interest::READABLE)?;
        // A socket that was handed over may have a backlog from before.
        Ok(Listener { socket, addr, ready: true })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn set_ready(&mut self) {
        self.ready = true;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(crate) fn accept(&mut self) -> Accepted {
        match self.socket.accept() {
            Ok((stream, remote)) => Accepted::Connection(stream, remote),
            Err(error) => match kind(&error) {
                ErrorClass::Empty => {
                    self.ready = false;
                    Accepted::Empty
                }
                ErrorClass::Exhausted => Accepted::Exhausted(error),
                ErrorClass::Lost => Accepted::Lost,
            },
        }
    }
}

/// Accepting rests after the process ran out of descriptors.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    until: Option<Instant>,
    /// Connections at that time: one fewer means a free descriptor.
    connections: usize,
    logged: bool,
}

impl Backoff {
    /// Whether accepting still rests; `connections` are open now.
    pub(crate) fn rests(&mut self, now: Instant, connections: usize) -> bool {
        let rests = self.until.is_some_and(|until| now < until && connections >= self.connections);
        if !rests {
            self.until = None;
        }
        rests
    }

    /// Begins a rest; gives its end. Logged once until accepting works again.
    pub(crate) fn begin(&mut self, error: &io::Error, now: Instant, connections: usize) -> Instant {
        if !std::mem::replace(&mut self.logged, true) {
            log::warn!("accepting pauses with {connections} connections open: {error}");
        }
        let until = now + PAUSE;
        (self.until, self.connections) = (Some(until), connections);
        until
    }

    /// An accept worked.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.logged) {
            log::info!("accepting again");
        }
    }
}

enum ErrorClass {
    Empty,
    Lost,
    Exhausted,
}

fn kind(error: &io::Error) -> ErrorClass {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable,
        PermissionDenied, TimedOut, WouldBlock,
    };
    match error.kind() {
        WouldBlock => ErrorClass::Empty,
        // accept(2): what befell the connection before it was accepted is reported here, too.
        ConnectionAborted | ConnectionReset | Interrupted | HostUnreachable | NetworkDown
        | NetworkUnreachable | PermissionDenied | TimedOut => ErrorClass::Lost,
        // EMFILE, ENFILE, ENOBUFS, ENOMEM have no kinds of their own; anything unknown is treated as
        // gravely, so that it cannot spin.
        _ => ErrorClass::Exhausted,
    }
}
