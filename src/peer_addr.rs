//! The address of a peer.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// The address of the other end of a connection.
///
/// Today it is an IP address with a port. More kinds will come (Unix sockets, addresses without a
/// port from a proxy's header), so both parts are optional.
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
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddr {
    /// An IP address with a port.
    Ip(SocketAddr),
}

impl PeerAddr {
    /// The IP address, if the peer has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            PeerAddr::Ip(addr) => Some(addr.ip()),
        }
    }

    /// The port, if it is known.
    pub fn port(&self) -> Option<u16> {
        match self {
            PeerAddr::Ip(addr) => Some(addr.port()),
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
        }
    }
}

impl fmt::Debug for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
