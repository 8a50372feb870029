//! Counters of one client.

use std::time::{Duration, Instant};

/// The counters of one client, from [`Server::client_stats`](crate::Server::client_stats).
///
/// They begin with the connection; a link that reconnects is a new client with new counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// When the opening handshake was completed, by the clock of [`now`](crate::Server::now).
    pub opened: Instant,
    /// When bytes of the client last arrived, by the same clock. A poll reads the clock once.
    pub last_heard: Instant,
    /// Messages received, reported as events.
    pub messages_in: u64,
    /// Messages queued. One that was replaced by a newer one, or expired, counts as well.
    pub messages_out: u64,
    /// Bytes read from the socket, framing and the opening handshake included.
    pub bytes_in: u64,
    /// Bytes that the kernel took, framing and the opening handshake included.
    pub bytes_out: u64,
    /// Bytes queued and not yet taken by the kernel.
    pub buffered: usize,
    /// The round-trip time of the last ping that was answered; `None` before the first.
    pub rtt: Option<Duration>,
}
