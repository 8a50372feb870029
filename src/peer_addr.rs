//! The address of a peer, and of the client behind it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// The address of the other end of a connection.
///
/// # Examples
///
/// ```
/// use std::net::SocketAddr;
/// use tickws::PeerAddr;
///
/// let addr = PeerAddr::from(SocketAddr::from(([192, 0, 2, 7], 40_000)));
/// assert!(addr.ip().is_some_and(|ip| !ip.is_loopback()));
/// assert_eq!(addr.port(), Some(40_000));
/// assert_eq!(addr.to_string(), "192.0.2.7:40000");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddr {
    /// An IP address with a port.
    Ip(SocketAddr),
    /// An IP address without a port: a client as the header of a trusted proxy names it.
    Portless(IpAddr),
    /// A Unix domain socket, with the process that connected. `None` where the system does not tell
    /// (all but Linux and Android).
    Unix(Option<UnixCredentials>),
}

/// The process at the other end of a Unix domain socket when it connected (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct UnixCredentials {
    /// The id of the process; 0 if it is in another namespace.
    pub pid: u32,
    /// The effective user id of the process.
    pub uid: u32,
    /// The effective group id of the process.
    pub gid: u32,
}

impl PeerAddr {
    /// The IP address, if the peer has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            PeerAddr::Ip(addr) => Some(addr.ip()),
            PeerAddr::Portless(ip) => Some(*ip),
            PeerAddr::Unix(_) => None,
        }
    }

    /// The port, if it is known.
    pub fn port(&self) -> Option<u16> {
        match self {
            PeerAddr::Ip(addr) => Some(addr.port()),
            PeerAddr::Portless(_) | PeerAddr::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> Self {
        PeerAddr::Ip(addr)
    }
}

impl PartialEq<SocketAddr> for PeerAddr {
    fn eq(&self, addr: &SocketAddr) -> bool {
        *self == PeerAddr::Ip(*addr)
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddr::Ip(addr) => addr.fmt(f),
            PeerAddr::Portless(ip) => ip.fmt(f),
            PeerAddr::Unix(None) => f.write_str("unix"),
            PeerAddr::Unix(Some(process)) => write!(f, "unix:pid={},uid={}", process.pid, process.uid),
        }
    }
}

impl fmt::Debug for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The client.
    pub(crate) remote: PeerAddr,
    /// The other end of the connection: the client itself, or a proxy in front of it.
    pub(crate) peer: PeerAddr,
    /// Whether the client's connection is encrypted, as far as the server knows.
    pub(crate) secure: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_takes_no_more_memory_than_one_of_ip_with_a_port() {
        assert_eq!(size_of::<PeerAddr>(), size_of::<SocketAddr>());
    }
}
