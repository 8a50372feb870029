//! Connections that go out.

use std::time::Instant;

use tungstenite::http::Response;

use super::Server;
use crate::{
    config::connect::Connect,
    engine::Order,
    error::ConnectError,
    id::{ClientId, LinkId},
};

impl Server {
    /// Connects to a WebSocket server at `ws://host[:port][/path][?query]`, in this same loop. As
    /// [`connect_with`](Server::connect_with) with nothing but the URL.
    ///
    /// # Errors
    ///
    /// As [`connect_with`](Server::connect_with).
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
    ///             Event::Open { client, .. } if client == upstream => server.send(upstream, "hello")?,
    ///             Event::ConnectFailed { client, error, .. } => println!("{client}: {error}"),
    ///             event => println!("{event:?}"),
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    pub fn connect(&mut self, url: impl AsRef<str>) -> Result<ClientId, ConnectError> {
        self.connect_with(Connect::new(url))
    }

    /// Begins to connect, and never blocks: the id is known at once, and [`Event::Open`](crate::Event::Open)
    /// comes when the handshake is complete, or [`Event::ConnectFailed`](crate::Event::ConnectFailed) if it
    /// fails. From `Open` on it is a client as all others are: the same events, limits, pings, rooms and
    /// [`broadcast`](Server::broadcast)s. It takes no place of `max_connections`. Before `Open` it is not
    /// among [`clients`](Server::clients), and what is sent to it is up to [`WhileDown`](crate::WhileDown).
    ///
    /// An IP address and `localhost` need no resolving. The first other name starts a thread, the only one
    /// that the library ever starts, as the system's resolver blocks; give the [`addrs`](Connect::addrs) to
    /// do without. As many attempts as `accept_budget` begin in one poll, the rest in the next.
    ///
    /// # Errors
    ///
    /// What can be told at once: a URL, a header or a subprotocol that cannot be, `wss://`, a server that is
    /// shutting down.
    pub fn connect_with(&mut self, connect: Connect) -> Result<ClientId, ConnectError> {
        self.engine.connect(connect.into_plan()?, self.now())
    }

    /// What an outbound connection has in common with those that a [`Reconnect`](crate::Reconnect) policy
    /// brings about after it. Answers from `connect` on, until the connection has ended; `None` for a client
    /// that has connected to us.
    pub fn link(&self, client: ClientId) -> Option<LinkId> {
        self.engine.link(client)
    }

    /// The head of the response that opened an outbound connection: its headers. `None` for all others.
    pub fn response(&self, client: ClientId) -> Option<&Response<()>> {
        self.engine.response(client)
    }

    /// Does for outbound connections what only the poll loop can, within the budget.
    pub(super) fn dial(&mut self, budget: &mut usize, now: Instant) {
        for (id, addrs) in self.host.resolved() {
            self.engine.resolved(id, addrs, now);
        }
        while *budget > 0
            && let Some(order) = self.engine.next_dial(now)
        {
            *budget -= 1;
            match order {
                Order::Nothing => {}
                Order::Connect(id, addr) => {
                    let stream = self.host.connect(id.index(), addr);
                    self.engine.dialed(id, stream, now);
                }
                Order::Resolve(id, host, port) => {
                    if let Some(addrs) = self.host.resolve(id, host, port) {
                        self.engine.resolved(id, addrs, now);
                    }
                }
            }
        }
    }
}
