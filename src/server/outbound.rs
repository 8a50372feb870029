//! Outbound connections.

use std::time::Instant;

use http::Response;

use super::Server;
use crate::{
    config::connect::Connect,
    engine::Order,
    error::ConnectError,
    id::{ClientId, LinkId},
};

impl Server {
    /// Begins to connect to the WebSocket server at `ws://host[:port][/path][?query]`, or at
    /// `wss://…` with the feature `tls`, in the same loop; a [`Connect`] adds headers, subprotocols
    /// and a policy to reconnect. Never blocks. The id is valid from now on.
    /// [`Event::Open`](crate::Event::Open) follows when the handshake is complete, or
    /// [`Event::ConnectFailed`](crate::Event::ConnectFailed) if it fails.
    ///
    /// From `Open` on the connection is a client like all others, with the same events, limits,
    /// pings, rooms and [`broadcast`](Server::broadcast)s. It does not count towards
    /// `max_connections`. Before `Open` it is not among the [`clients`](Server::clients), and
    /// [`WhileDown`](crate::WhileDown) decides about messages that are sent to it.
    ///
    /// IP addresses and `localhost` are not looked up. The first other name starts a thread, the
    /// only one that the library ever starts, because the resolver of the system blocks. If
    /// [`addrs`](Connect::addrs) are given, no name is looked up. At most `accept_budget` attempts
    /// begin in one poll, and the others in the next.
    ///
    /// # Errors
    ///
    /// An invalid URL, header or subprotocol, `wss://` without the feature `tls`, or a server that
    /// is shutting down.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use tickws::{Event, Server};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut server = Server::builder().build()?; // it need not listen anywhere
    /// let upstream = server.connect("ws://127.0.0.1:9001/feed")?;
    /// loop {
    ///     for event in &server.poll_wait(None)? {
    ///         match event {
    ///             Event::Open { client, .. } if client == upstream => {
    ///                 server.send(upstream, "hello")?
    ///             }
    ///             Event::ConnectFailed { client, error, .. } => println!("{client}: {error}"),
    ///             event => println!("{event:?}"),
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    pub fn connect(&mut self, connect: impl Into<Connect>) -> Result<ClientId, ConnectError> {
        let connect = connect.into();
        self.engine.connect(connect.into_plan()?, self.now())
    }

    /// The id that an outbound connection shares with the connections that its
    /// [`Reconnect`](crate::Reconnect) policy makes after it. Available from `connect` until the
    /// connection has ended. `None` for a client that connected to this server.
    pub fn link(&self, client: ClientId) -> Option<LinkId> {
        self.engine.link(client)
    }

    /// The head of the response that opened an outbound connection. `None` for other clients.
    pub fn response(&self, client: ClientId) -> Option<&Response<()>> {
        self.engine.response(client)
    }

    /// Opens sockets and looks up names for outbound connections, within the budget.
    pub(super) fn dial(&mut self, budget: &mut usize, now: Instant) {
        self.take_resolved(now);
        while self.dial_next(budget, now) {}
    }

    /// Hands the results of the resolver to the engine.
    #[inline]
    pub(super) fn take_resolved(&mut self, now: Instant) {
        if let Some(found) = self.host.resolved() {
            for (id, addrs) in found {
                self.engine.resolved(id, addrs, now);
            }
        }
    }

    /// Opens one socket or looks up one name, within the budget. `false`: nothing is left to do, or
    /// the budget is used up.
    #[inline]
    pub(super) fn dial_next(&mut self, budget: &mut usize, now: Instant) -> bool {
        let Some(left) = budget.checked_sub(1) else { return false };
        let Some(order) = self.engine.next_dial(now) else { return false };
        *budget = left;
        match order {
            Order::Nothing => {}
            Order::Connect(id, addr) => {
                let stream = self.host.connect(id.index(), addr);
                let stream = stream.and_then(|socket| self.encrypted_if_wss(id, socket));
                self.engine.dialed(id, stream, now);
            }
            Order::ConnectUnix(id, path) => {
                let stream = self.host.connect_unix(id.index(), &path);
                self.engine.dialed(id, stream, now);
            }
            Order::Resolve(id, host, port) => {
                if let Some(addrs) = self.host.resolve(id, host, port) {
                    self.engine.resolved(id, addrs, now);
                }
            }
        }
        true
    }
}
