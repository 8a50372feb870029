//! The system that a server runs on, the kernel or a simulated network: its clock, sockets and
//! names.

#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use super::kernel::Accepted;
#[cfg(feature = "sim")]
use super::sim_host::SimHost;
use super::{
    kernel::{self, Kernel},
    listener::Listener,
    resolver::Resolved,
    socket::Socket,
};
use crate::{
    engine::{Readiness, hooks::WallClock},
    error::ConnectError,
    id::ClientId,
    util::rearm::Rearm,
};

/// The operations of a server on its system. Without the feature `sim` there is one variant, and
/// the matches compile to nothing.
#[derive(Debug)]
pub(crate) enum Host {
    Kernel(Kernel),
    #[cfg(feature = "sim")]
    Simulated(SimHost),
}

/// Ends the current sleep of a mailbox's owner, or the next one if the owner is awake.
pub(crate) trait Wake {
    fn wake(&self) -> io::Result<()>;
}

/// Ends the sleep of a server from another thread.
#[derive(Debug)]
pub(crate) enum Waker {
    Kernel(Arc<mio::Waker>),
    /// Does nothing: a simulated sleep never waits for other threads.
    #[cfg(feature = "sim")]
    Simulated,
}

impl Wake for Waker {
    fn wake(&self) -> io::Result<()> {
        match self {
            Waker::Kernel(waker) => waker.wake(),
            #[cfg(feature = "sim")]
            Waker::Simulated => Ok(()),
        }
    }
}

impl Host {
    /// `events` is the most readiness that is reported at a time.
    pub(crate) fn kernel(listeners: Vec<Listener>, events: usize) -> io::Result<Self> {
        Kernel::new(listeners, events).map(Host::Kernel)
    }

    // ---- time and readiness ----

    /// When this host reports readiness again.
    pub(crate) fn rearm(&self) -> Rearm {
        match self {
            Host::Kernel(_) => Rearm::NATIVE,
            #[cfg(feature = "sim")]
            Host::Simulated(host) => host.rearm(),
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> Instant {
        match self {
            Host::Kernel(_) => kernel::clock(),
            #[cfg(feature = "sim")]
            Host::Simulated(host) => host.now(),
        }
    }

    /// The clock that shows the date.
    pub(crate) fn wall_clock(&self) -> WallClock {
        match self {
            Host::Kernel(_) => Box::new(kernel::wall_clock),
            #[cfg(feature = "sim")]
            Host::Simulated(host) => host.wall_clock(),
        }
    }

    /// Waits until there is readiness to report or `timeout` is over.
    #[inline]
    pub(crate) fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Host::Kernel(kernel) => kernel.sleep(timeout),
            #[cfg(feature = "sim")]
            Host::Simulated(host) => host.sleep(timeout),
        }
    }

    /// Whether the last report was full, so that more readiness may wait in the system.
    #[inline]
    pub(crate) fn has_full_report(&self) -> bool {
        match self {
            Host::Kernel(kernel) => kernel.has_full_report(),
            #[cfg(feature = "sim")]
            Host::Simulated(_) => false,
        }
    }

    /// Calls `ready` with the token and the readiness of each connection that became ready by the
    /// end of the last sleep.
    #[inline]
    pub(crate) fn report(&mut self, ready: impl FnMut(usize, Readiness)) {
        match self {
            Host::Kernel(kernel) => kernel.report(ready),
            #[cfg(feature = "sim")]
            Host::Simulated(host) => host.report(ready),
        }
    }

    /// A handle with which other threads end a sleep.
    pub(crate) fn waker(&self) -> Waker {
        match self {
            Host::Kernel(kernel) => Waker::Kernel(Arc::clone(&kernel.waker)),
            #[cfg(feature = "sim")]
            Host::Simulated(_) => Waker::Simulated,
        }
    }

    // ---- listening ----

    /// The addresses of the listeners that still accept.
    pub(crate) fn local_addrs(&self) -> Vec<SocketAddr> {
        match self {
            Host::Kernel(kernel) => kernel.local_addrs(),
            #[cfg(feature = "sim")]
            Host::Simulated(host) => host.local_addr().into_iter().collect(),
        }
    }

    /// Whether the server can be reached from this machine only.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Host::Kernel(kernel) => kernel.is_local(),
            #[cfg(feature = "sim")]
            Host::Simulated(_) => false,
        }
    }

    /// Whether connections may wait to be accepted. `connections` is the number of open ones.
    #[inline]
    pub(crate) fn has_backlog(&mut self, connections: usize) -> bool {
        match self {
            Host::Kernel(kernel) => kernel.has_backlog(connections),
            #[cfg(feature = "sim")]
            Host::Simulated(host) => host.has_backlog(),
        }
    }

    /// Accepts once, from the listeners in turn; `None` if no listener is ready.
    #[inline]
    pub(crate) fn accept(&mut self, now: Instant, connections: usize) -> Option<Accepted> {
        match self {
            Host::Kernel(kernel) => kernel.accept(now, connections),
            #[cfg(feature = "sim")]
            Host::Simulated(host) => {
                let accepted = host.accept();
                accepted.map(|(socket, peer)| Accepted::Connection {
                    socket,
                    peer: peer.into(),
                    named: false,
                    is_tls: host.is_encrypted(),
                })
            }
        }
    }

    /// Stops listening, after at most `most` accepts by each listener of connections that wait
    /// already.
    pub(crate) fn stop_listening(&mut self, most: usize) {
        match self {
            Host::Kernel(kernel) => kernel.stop_listening(most),
            #[cfg(feature = "sim")]
            Host::Simulated(host) => host.stop_listening(),
        }
    }

    /// Closes the listeners; the system resets the connections that wait.
    pub(crate) fn close_listeners(&mut self) {
        match self {
            Host::Kernel(kernel) => kernel.close_listeners(),
            #[cfg(feature = "sim")]
            Host::Simulated(host) => host.stop_listening(),
        }
    }

    /// Whether connections may wait that `stop_listening` has left to accept.
    pub(crate) fn is_closing(&self) -> bool {
        match self {
            Host::Kernel(kernel) => kernel.is_closing(),
            #[cfg(feature = "sim")]
            Host::Simulated(_) => false,
        }
    }

    // ---- connections ----

    /// Reports the readiness of the socket under this token from now on. Called once for each
    /// socket.
    pub(crate) fn watch(&self, socket: &mut Socket, token: usize) -> io::Result<()> {
        match (self, socket) {
            #[cfg(feature = "tls")]
            (_, Socket::Tls(stream)) => self.watch(stream.socket_mut(), token),
            (Host::Kernel(kernel), Socket::Tcp(stream)) => kernel.watch(stream, token),
            #[cfg(unix)]
            (Host::Kernel(kernel), Socket::Unix(stream)) => kernel.watch(stream, token),
            #[cfg(feature = "sim")]
            (Host::Simulated(host), Socket::Sim(stream)) => {
                host.watch(stream, token);
                Ok(())
            }
            #[cfg(feature = "sim")]
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Starts to connect, and reports the readiness of the socket under this token.
    pub(crate) fn connect(&self, token: usize, addr: SocketAddr) -> io::Result<Socket> {
        match self {
            Host::Kernel(kernel) => kernel.connect(token, addr),
            #[cfg(feature = "sim")]
            Host::Simulated(host) => Ok(host.connect(token, addr)),
        }
    }

    /// Connects to a Unix domain socket, and reports its readiness under this token.
    pub(crate) fn connect_unix(&self, token: usize, path: &Path) -> io::Result<Socket> {
        match self {
            #[cfg(unix)]
            Host::Kernel(kernel) => kernel.connect_unix(token, path),
            #[cfg(not(unix))]
            Host::Kernel(_) => {
                let _ = (token, path);
                Err(io::ErrorKind::Unsupported.into())
            }
            #[cfg(feature = "sim")]
            Host::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Resolves a name for a connection. `None` if [`resolved`](Host::resolved) returns the result
    /// later.
    pub(crate) fn resolve(
        &mut self,
        id: ClientId,
        name: String,
        port: u16,
    ) -> Option<Result<Vec<SocketAddr>, ConnectError>> {
        match self {
            Host::Kernel(kernel) => kernel.resolve(id, name, port).err().map(Err),
            #[cfg(feature = "sim")]
            Host::Simulated(host) => Some(host.resolve(name, port)),
        }
    }

    /// Takes the results since the last call; `None` if no name was ever resolved.
    #[inline]
    pub(crate) fn resolved(&mut self) -> Option<Vec<Resolved>> {
        match self {
            Host::Kernel(kernel) => kernel.resolved(),
            #[cfg(feature = "sim")]
            Host::Simulated(_) => None,
        }
    }
}

#[cfg(unix)]
impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Host::Kernel(kernel) => kernel.poll.registry().as_fd(),
            #[cfg(feature = "sim")]
            Host::Simulated(host) => host.descriptor().registry().as_fd(),
        }
    }
}

#[cfg(unix)]
impl AsRawFd for Host {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
