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

/// How long accepting rests when the process is out of descriptors; a closed connection ends it
/// early.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// One listening socket, registered edge-triggered.
#[derive(Debug)]
pub(crate) struct Listener {
    /// `None` once it has died.
    socket: Option<TcpListener>,
    addr: SocketAddr,
    /// The backlog may hold connections. Cleared when an accept would block.
    ready: bool,
}

/// The outcome of one accept.
#[derive(Debug)]
pub(crate) enum Accepted {
    Connection(TcpStream, SocketAddr),
    /// The backlog is empty.
    Empty,
    /// A connection was lost before it was accepted; the next may be fine.
    Lost,
    /// No descriptors or no memory: trying again at once would spin.
    Exhausted(io::Error),
    /// The socket listens no more, and never will: it was closed. Said once.
    Dead,
}

impl Listener {
    pub(crate) fn new(socket: std::net::TcpListener, registry: &Registry, token: Token) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let addr = socket.local_addr()?;
        let mut socket = TcpListener::from_std(socket);
        registry.register(&mut socket, token, Interest::READABLE)?;
        // A socket that was handed over may have a backlog from before.
        Ok(Listener { socket: Some(socket), addr, ready: true })
    }

    /// `None` of a dead one.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.is_some().then_some(self.addr)
    }

    pub(crate) fn set_ready(&mut self) {
        self.ready = true;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(crate) fn accept(&mut self) -> Accepted {
        let Some(socket) = &self.socket else {
            self.ready = false;
            return Accepted::Empty;
        };
        match socket.accept() {
            Ok((stream, remote)) => Accepted::Connection(stream, remote),
            Err(error) => match kind(&error) {
                ErrorClass::Empty => {
                    self.ready = false;
                    Accepted::Empty
                }
                ErrorClass::Exhausted => Accepted::Exhausted(error),
                ErrorClass::Lost => Accepted::Lost,
                ErrorClass::Dead => {
                    log::error!("nobody listens at {} any more: {error}", self.addr);
                    (self.socket, self.ready) = (None, false);
                    Accepted::Dead
                }
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

#[derive(Debug, PartialEq)]
enum ErrorClass {
    Empty,
    Lost,
    Exhausted,
    Dead,
}

fn kind(error: &io::Error) -> ErrorClass {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, InvalidInput, NetworkDown,
        NetworkUnreachable, PermissionDenied, TimedOut, Unsupported, WouldBlock,
    };
    match error.kind() {
        WouldBlock => ErrorClass::Empty,
        // accept(2): what befell the connection before it was accepted is reported here, too.
        ConnectionAborted | ConnectionReset | Interrupted | HostUnreachable | NetworkDown
        | NetworkUnreachable | PermissionDenied | TimedOut => ErrorClass::Lost,
        // EINVAL, EOPNOTSUPP: it does not listen. Somebody has shut it down.
        InvalidInput | Unsupported => ErrorClass::Dead,
        // EMFILE, ENFILE, ENOBUFS, ENOMEM have no kinds of their own; anything unknown is treated
        // as gravely, so that it cannot spin.
        _ => ErrorClass::Exhausted,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_accept_may_say() {
        let class = |errno: i32| kind(&io::Error::from_raw_os_error(errno));
        assert_eq!(class(11), ErrorClass::Empty, "EAGAIN");
        // EPERM, EINTR, ENETDOWN, ENETUNREACH, ECONNABORTED, ECONNRESET, ETIMEDOUT, EHOSTUNREACH
        for errno in [1, 4, 100, 101, 103, 104, 110, 113] {
            assert_eq!(class(errno), ErrorClass::Lost, "{errno}");
        }
        // ENOMEM, ENFILE, EMFILE, ENOBUFS, and what nobody has thought of
        for errno in [12, 23, 24, 105, 9999] {
            assert_eq!(class(errno), ErrorClass::Exhausted, "{errno}");
        }
        // EINVAL, EOPNOTSUPP
        for errno in [22, 95] {
            assert_eq!(class(errno), ErrorClass::Dead, "{errno}");
        }
    }
}
