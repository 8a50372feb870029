//! Queries of the application. For a stale id they return `None`, or 0 where that means the same.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::Server;
use crate::{
    event::pressure::Pressure,
    http1::request::Request,
    id::ClientId,
    peer_addr::PeerAddr,
    stats::{Stats, client_stats::ClientStats},
};

impl Server {
    /// The addresses of the listening sockets, in the order of binding. Sockets that have failed
    /// are missing ([`Stats::listeners_lost`](crate::Stats::listeners_lost)), and so are Unix
    /// domain sockets.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.host.local_addrs()
    }

    /// The open clients, in the order of their slots. Work: O(connections).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut server = tickws::Server::bind("127.0.0.1:0")?;
    /// let slow: Vec<_> = server.clients().filter(|id| server.buffered(*id) > 64 * 1024).collect();
    /// for client in slow {
    ///     server.close(client, 4008, "too slow")?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn clients(&self) -> impl Iterator<Item = ClientId> {
        self.engine.clients()
    }

    /// The number of open clients.
    pub fn client_count(&self) -> usize {
        self.engine.client_count()
    }

    /// Whether the client is open: its `Open` was reported or is in the next tick, and its `Close`
    /// was not. Messages can be sent to it unless a close frame was sent.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{ClientId, Server};
    ///
    /// /// Removes the players whose connection is gone.
    /// fn prune(server: &Server, players: &mut Vec<ClientId>) {
    ///     players.retain(|player| server.is_open(*player));
    /// }
    /// ```
    pub fn is_open(&self, client: ClientId) -> bool {
        self.engine.is_open(client)
    }

    /// Whether bytes for this connection have not left yet.
    pub(crate) fn owes(&self, client: ClientId) -> bool {
        self.engine.owes(client)
    }

    /// The time of the last poll in which bytes of the client arrived, pongs included, by the clock
    /// of [`now`](Server::now); `None` for a stale id.
    pub fn last_heard(&self, client: ClientId) -> Option<Instant> {
        self.engine.last_heard(client)
    }

    /// The counters of an open client; `None` for a stale id.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tickws::{ClientId, Server};
    ///
    /// /// Whether the client sends more than 100 messages per second.
    /// fn is_spamming(server: &Server, client: ClientId) -> bool {
    ///     let Some(stats) = server.client_stats(client) else { return false };
    ///     let age = server.now().saturating_duration_since(stats.opened);
    ///     stats.messages_in as f64 > 100.0 * age.max(Duration::from_secs(1)).as_secs_f64()
    /// }
    /// ```
    pub fn client_stats(&self, client: ClientId) -> Option<ClientStats> {
        self.engine.client_stats(client)
    }

    /// The client's address, behind a trusted proxy as the proxy names it; `None` for a stale id.
    pub fn remote_addr(&self, client: ClientId) -> Option<PeerAddr> {
        self.engine.remote_addr(client)
    }

    /// The address of the other end of the client's connection: of the client, or of the proxy in
    /// front of it; `None` for a stale id.
    pub fn peer_addr(&self, client: ClientId) -> Option<PeerAddr> {
        self.engine.peer_addr(client)
    }

    /// The round-trip time of the last answered ping; `None` before the first, and for a stale id.
    pub fn rtt(&self, client: ClientId) -> Option<Duration> {
        self.engine.rtt(client)
    }

    /// Bytes queued for the client and not yet taken by the kernel; 0 for a stale id.
    pub fn buffered(&self, client: ClientId) -> usize {
        self.engine.buffered(client)
    }

    /// The subprotocol agreed on in the handshake (RFC 6455 §1.9), if any; `None` for a stale id.
    pub fn subprotocol(&self, client: ClientId) -> Option<&str> {
        self.engine.subprotocol(client)
    }

    /// The client's upgrade request, if [`keep_requests`](crate::ServerBuilder::keep_requests) is
    /// set; `None` for a stale id.
    pub fn request(&self, client: ClientId) -> Option<Request<'_>> {
        self.engine.request(client)
    }

    /// The current step of load shedding under
    /// [`max_total_buffered`](crate::ServerBuilder::max_total_buffered).
    pub fn pressure(&self) -> Pressure {
        self.engine.pressure()
    }

    /// Counters since the server was created.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let server = tickws::Server::bind("127.0.0.1:0")?;
    /// let stats = server.stats();
    /// assert_eq!(stats.opened, stats.open + stats.closed.total());
    /// println!("{stats}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }
}
