//! The proxies whose headers are believed.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use crate::{error::ConfigError, peer_addr::PeerAddr};

/// Peers whose statements about their clients are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrustedProxy {
    /// The addresses of a network. Those of an IPv4 network match in their IPv6-mapped form too.
    Network(IpNet),
    /// All processes that connect through a Unix domain socket.
    Unix,
}

impl TrustedProxy {
    pub(crate) fn covers(&self, peer: PeerAddr) -> bool {
        match (self, peer) {
            (TrustedProxy::Network(network), peer) => {
                peer.ip().is_some_and(|ip| network.contains(&ip.to_canonical()))
            }
            (TrustedProxy::Unix, PeerAddr::Unix(_)) => true,
            (TrustedProxy::Unix, _) => false,
        }
    }
}

/// A network in CIDR form (`10.0.0.0/8`), a single address, or `unix:`.
impl FromStr for TrustedProxy {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if text == "unix:" {
            return Ok(TrustedProxy::Unix);
        }
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(TrustedProxy::Network).map_err(|_| ConfigError::InvalidProxy(text.to_owned()))
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustedProxy::Network(network) => network.fmt(f),
            TrustedProxy::Unix => f.write_str("unix:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_addresses_cover_their_peers() {
        let covers = |proxy: &str, peer: &str| {
            let proxy: TrustedProxy = proxy.parse().unwrap();
            assert_eq!(proxy.to_string().parse::<TrustedProxy>(), Ok(proxy));
            proxy.covers(PeerAddr::Portless(peer.parse().unwrap()))
        };
        assert!(covers("10.0.0.0/8", "10.255.1.2") && !covers("10.0.0.0/8", "11.0.0.0"));
        assert!(covers("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(covers("127.0.0.1", "127.0.0.1") && !covers("127.0.0.1", "127.0.0.2"));
        assert!(covers("2001:db8::/32", "2001:db8:1::1") && !covers("::1", "::2"));
        assert!(covers("0.0.0.0/0", "1.2.3.4") && !covers("0.0.0.0/0", "::1"));
        assert!(TrustedProxy::Unix.covers(PeerAddr::Unix(None)));
        assert!(!covers("unix:", "127.0.0.1"));
        for text in ["", "localhost", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/", "::/129", "unix"] {
            assert_eq!(text.parse::<TrustedProxy>(), Err(ConfigError::InvalidProxy(text.to_owned())));
        }
    }
}
