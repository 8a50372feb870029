//! Listening sockets, and the classes of errors of accept(2).

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

#[cfg(unix)]
use mio::net::UnixListener;
use mio::{Interest, Registry, Token, net::TcpListener};
use socket2::{Domain, Protocol, Type};

use super::socket::Socket;
#[cfg(unix)]
use super::unix;
use crate::peer_addr::PeerAddr;

/// The pause of accepting after the process ran out of descriptors. A closed connection ends the
/// pause early.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// Listens on `addr` as the standard library does, but with a `backlog` of the caller's choice.
pub(crate) fn bind(addr: SocketAddr, backlog: usize) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // On Windows the option would let other programs take over the port.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// A socket that listens, for [`ServerBuilder::listener`](crate::ServerBuilder::listener): of TCP,
/// or on Unix a Unix domain socket.
///
/// # Examples
///
/// ```
/// use std::net::TcpListener;
/// use tickws::{Listener, Server};
///
/// # fn main() -> std::io::Result<()> {
/// let for_proxies = Listener::from(TcpListener::bind("127.0.0.1:0")?).proxy_protocol();
/// let server = Server::builder().listener(for_proxies).trusted_proxies(["127.0.0.1"]).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Listener {
    socket: Unregistered,
    pub(crate) proxy_protocol: bool,
    pub(crate) is_tls: bool,
}

#[derive(Debug)]
enum Unregistered {
    Tcp(std::net::TcpListener),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Requires that each connection begins with a header of the PROXY protocol, version 1 or 2, as
    /// HAProxy, nginx and load balancers send it. Others get a 400. Without this call such a header
    /// is never looked for.
    ///
    /// The header names the client, and whether its connection is encrypted. It counts only if the
    /// peer is one of [`trusted_proxies`](crate::ServerBuilder::trusted_proxies), without which the
    /// server is not built; that of another peer is read and ignored.
    pub fn proxy_protocol(mut self) -> Self {
        self.proxy_protocol = true;
        self
    }

    /// Has each connection begin with a TLS handshake, behind the PROXY header if there is one.
    /// The certificates are those of [`tls`](crate::ServerBuilder::tls), without which the server
    /// is not built.
    #[cfg(feature = "tls")]
    pub fn tls(mut self) -> Self {
        self.is_tls = true;
        self
    }
}

impl From<std::net::TcpListener> for Listener {
    fn from(listener: std::net::TcpListener) -> Self {
        Listener { socket: Unregistered::Tcp(listener), proxy_protocol: false, is_tls: false }
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::UnixListener> for Listener {
    fn from(listener: std::os::unix::net::UnixListener) -> Self {
        Listener { socket: Unregistered::Unix(listener), proxy_protocol: false, is_tls: false }
    }
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

/// One listening socket, registered edge-triggered.
#[derive(Debug)]
pub(crate) struct Registered {
    /// `None` after an error that is final.
    socket: Option<ListeningSocket>,
    /// `None` for a Unix domain socket.
    addr: Option<SocketAddr>,
    /// Connections begin with a PROXY header.
    named: bool,
    is_tls: bool,
    /// Whether the backlog may hold connections; cleared when an accept would block.
    ready: bool,
    /// Accepts in a row that failed with an error of one connection.
    failures: u32,
    /// The log has a line about such a failure.
    logged: bool,
    /// The listener closes when its backlog is empty, or after this many accepts.
    closing: Option<usize>,
}

/// The outcome of one accept.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// `named`: it begins with a PROXY header. `is_tls`: it is encrypted behind that.
    Connection { socket: Socket, peer: PeerAddr, named: bool, is_tls: bool },
    /// The backlog is empty.
    Empty,
    /// A connection was lost before it was accepted; the backlog may hold others.
    Lost,
    /// Accepting does not work now. An immediate retry would spin.
    Exhausted(io::Error),
    /// The socket no longer listens, because it was shut down. Returned once.
    Dead,
}

impl Registered {
    /// Failed accepts in a row after which accepting pauses.
    const MAX_FAILURES: u32 = 64;

    pub(crate) fn new(listener: Listener, registry: &Registry, token: Token) -> io::Result<Self> {
        let Listener { socket, proxy_protocol: named, is_tls } = listener;
        let (socket, addr) = match socket {
            Unregistered::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                let addr = socket.local_addr()?;
                let mut socket = TcpListener::from_std(socket);
                registry.register(&mut socket, token, Interest::READABLE)?;
                (ListeningSocket::Tcp(socket), Some(addr))
            }
            #[cfg(unix)]
            Unregistered::Unix(socket) => {
                socket.set_nonblocking(true)?;
                let mut socket = UnixListener::from_std(socket);
                registry.register(&mut socket, token, Interest::READABLE)?;
                (ListeningSocket::Unix(socket), None)
            }
        };
        // A socket from another process may already have connections in its backlog.
        Ok(Registered {
            socket: Some(socket),
            addr,
            named,
            is_tls,
            ready: true,
            failures: 0,
            logged: false,
            closing: None,
        })
    }

    /// The address; `None` if the socket no longer listens, or will not much longer.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.addr.filter(|_| self.listens())
    }

    /// Whether the listener accepts connections and will go on to do so.
    pub(crate) fn listens(&self) -> bool {
        self.socket.is_some() && self.closing.is_none()
    }

    /// Closes the listener once its backlog is empty: the system resets the connections in it when
    /// the socket is closed. `most` bounds the accepts, because new ones may come all the time.
    pub(crate) fn begin_close(&mut self, most: usize) {
        if self.closing.is_none() {
            (self.closing, self.ready) = (Some(most), self.socket.is_some());
        }
    }

    /// Whether the listener still has to serve its backlog before it closes.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_some() && self.socket.is_some()
    }

    fn name(&self) -> String {
        self.addr.map_or_else(|| "a Unix domain socket".to_owned(), |addr| addr.to_string())
    }

    fn close(&mut self) {
        (self.socket, self.ready) = (None, false);
    }

    pub(crate) fn set_ready(&mut self) {
        self.ready = true;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(crate) fn accept(&mut self) -> Accepted {
        let accepted = self.accept_once();
        if let Some(left) = &mut self.closing {
            *left = left.saturating_sub(1);
            let goes_on = matches!(accepted, Accepted::Connection { .. } | Accepted::Lost);
            if *left == 0 || !goes_on {
                self.close();
            }
        }
        accepted
    }

    fn accept_once(&mut self) -> Accepted {
        let Some(socket) = &self.socket else {
            self.ready = false;
            return Accepted::Empty;
        };
        let accepted = match socket {
            ListeningSocket::Tcp(socket) => {
                socket.accept().map(|(stream, peer)| (Socket::Tcp(stream), peer.into()))
            }
            #[cfg(unix)]
            ListeningSocket::Unix(socket) => socket.accept().map(|(stream, _)| {
                let peer = unix::peer_of(&stream);
                (Socket::Unix(stream), peer)
            }),
        };
        match accepted {
            Ok((socket, peer)) => {
                self.failures = 0;
                Accepted::Connection { socket, peer, named: self.named, is_tls: self.is_tls }
            }
            Err(error) => match classify(&error) {
                ErrorClass::Empty => {
                    (self.ready, self.failures) = (false, 0);
                    Accepted::Empty
                }
                ErrorClass::Exhausted => Accepted::Exhausted(error),
                ErrorClass::Interrupted => Accepted::Empty,
                ErrorClass::Lost => self.lost(error),
                ErrorClass::Dead => {
                    log::error!("the listener at {} was shut down and accepts no more: {error}", self.name());
                    self.close();
                    Accepted::Dead
                }
            },
        }
    }

    /// Handles an error that may concern one connection only. If it comes again and again, it
    /// concerns all: a security module refuses every accept, for instance.
    fn lost(&mut self, error: io::Error) -> Accepted {
        if !std::mem::replace(&mut self.logged, true) {
            log::warn!("a connection to {} failed before it was accepted: {error}", self.name());
        }
        self.failures += 1;
        if self.failures < Self::MAX_FAILURES {
            return Accepted::Lost;
        }
        self.failures = 0;
        Accepted::Exhausted(error)
    }
}

/// The pause of accepting after the process ran out of descriptors or memory.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    until: Option<Instant>,
    /// The number of connections at the start of the pause; with fewer, a descriptor is free.
    connections: usize,
    logged: bool,
}

impl Backoff {
    /// Whether accepting is paused. `connections` is the number of open ones.
    pub(crate) fn is_active(&mut self, now: Instant, connections: usize) -> bool {
        self.until = self.until.filter(|until| now < *until && connections >= self.connections);
        self.until.is_some()
    }

    /// Starts a pause and returns its end. Logs only the first pause until an accept succeeds.
    pub(crate) fn begin(&mut self, error: &io::Error, now: Instant, connections: usize) -> Instant {
        if !std::mem::replace(&mut self.logged, true) {
            log::warn!("accepting pauses with {connections} connections open: {error}");
        }
        let until = now + PAUSE;
        (self.until, self.connections) = (Some(until), connections);
        until
    }

    /// Notes that an accept succeeded.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.logged) {
            log::info!("accepting works again");
        }
    }
}

/// The classes of errors of accept(2).
///
/// | class | errors | reaction |
/// |---|---|---|
/// | `Empty` | EAGAIN | wait for readiness |
/// | `Interrupted` | EINTR | retry at once |
/// | `Lost` | ECONNABORTED, ECONNRESET, ETIMEDOUT | retry at once; rest after `MAX_FAILURES` |
/// | `Lost` | ENETDOWN, ENETUNREACH, EHOSTUNREACH, EPERM, EACCES | the same |
/// | `Exhausted` | EMFILE, ENFILE, ENOBUFS, ENOMEM, all others | rest |
/// | `Dead` | EINVAL, EOPNOTSUPP | give the listener up |
#[derive(Debug, PartialEq)]
enum ErrorClass {
    Empty,
    Interrupted,
    Lost,
    Exhausted,
    Dead,
}

fn classify(error: &io::Error) -> ErrorClass {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, InvalidInput, NetworkDown,
        NetworkUnreachable, PermissionDenied, TimedOut, Unsupported, WouldBlock,
    };
    match error.kind() {
        WouldBlock => ErrorClass::Empty,
        Interrupted => ErrorClass::Interrupted,
        // accept(2) also returns errors that a connection had before it was accepted. A firewall
        // may refuse one connection, and a security module all of them.
        ConnectionAborted | ConnectionReset | HostUnreachable | NetworkDown | NetworkUnreachable
        | PermissionDenied | TimedOut => ErrorClass::Lost,
        // EINVAL, EOPNOTSUPP: the socket does not listen, because it was shut down.
        InvalidInput | Unsupported => ErrorClass::Dead,
        // EMFILE, ENFILE, ENOBUFS and ENOMEM have no `ErrorKind`. An unknown error also pauses
        // accepting, so that it cannot make the loop spin.
        _ => ErrorClass::Exhausted,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn accept_errors_are_classified() {
        let class = |errno: i32| classify(&io::Error::from_raw_os_error(errno));
        assert_eq!(class(11), ErrorClass::Empty, "EAGAIN");
        assert_eq!(class(4), ErrorClass::Interrupted, "EINTR");
        // EPERM, EACCES, ENETDOWN, ENETUNREACH, ECONNABORTED, ECONNRESET, ETIMEDOUT, EHOSTUNREACH
        for errno in [1, 13, 100, 101, 103, 104, 110, 113] {
            assert_eq!(class(errno), ErrorClass::Lost, "{errno}");
        }
        // ENOMEM, ENFILE, EMFILE, ENOBUFS, and an unknown error
        for errno in [12, 23, 24, 105, 9999] {
            assert_eq!(class(errno), ErrorClass::Exhausted, "{errno}");
        }
        // EINVAL, EOPNOTSUPP
        for errno in [22, 95] {
            assert_eq!(class(errno), ErrorClass::Dead, "{errno}");
        }
    }
}
