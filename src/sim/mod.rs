//! A whole server in memory, with a virtual clock and a seed, for tests of programs that use this
//! library.
//!
//! [`Sim::server`] returns the same [`Server`] that a program binds to a port, so that the
//! program's code runs unchanged; only the sockets and the clock are simulated. Time passes only in
//! [`Sim::advance`] and while a server sleeps ([`poll_for`](Server::poll_for),
//! [`poll_wait`](Server::poll_wait), [`run`](Server::run)). A sleep jumps to the next arrival or
//! deadline, so that a test of an hour takes milliseconds. [`NetworkConditions`] sets the behaviour
//! of the network. The same seed and the same calls give the same events, and the same bytes at the
//! same times.
//!
//! Differences from a real server:
//!
//! - No time passes within a poll, so a `time_budget` never ends a poll.
//! - A [`Handle`](crate::Handle) works on other threads, but the time at which its commands arrive
//!   is not deterministic, and a sleep without a timeout does not wait for them.
//! - The backlog of a listener has no limit, and each client has an address of its own.
//! - Served files are read from the disk.
//! - Only names set with [`Sim::name`] can be resolved.
//! - Clients do not offer compression.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use tickws::{Event, Message, Server, sim::{Received, Sim, NetworkConditions}};
//!
//! /// The code of the game, the same with real sockets.
//! fn frame(server: &mut Server) -> std::io::Result<()> {
//!     for event in &server.poll_once()? {
//!         match event {
//!             Event::Open { client, .. } => _ = server.join(client, "lobby"),
//!             Event::Message { client, message } => {
//!                 server.publish_except("lobby", client, message);
//!             }
//!             _ => {}
//!         }
//!     }
//!     server.flush();
//!     Ok(())
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! let sim = Sim::with_conditions(42, NetworkConditions::foul());
//! let mut server = sim.server(Server::builder())?;
//! let (mut ada, mut bob) = (sim.connect(&server, "/"), sim.connect(&server, "/"));
//! for number in 0..100 {
//!     if number == 50 {
//!         ada.send("hello");
//!     }
//!     sim.advance(Duration::from_millis(16));
//!     frame(&mut server)?;
//! }
//! assert_eq!(bob.received(), [Received::Text("hello".into())]);
//! assert_eq!(ada.received(), []);
//! # Ok(())
//! # }
//! ```

mod client;
mod replay;
mod seeds;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

pub use client::SimClient;
pub use replay::Replay;
pub use seeds::for_each_seed;

use crate::{
    error::BindError,
    net::{kernel, sim::Shared},
    server::{Server, builder::ServerBuilder},
};
pub use crate::{
    net::sim::{NetworkConditions, Received},
    record::{Divergence, Recording, ReplayError},
};

/// A simulated network with its clock, servers and clients.
///
/// A clone is the same network.
#[derive(Debug, Clone)]
pub struct Sim {
    network: Shared,
}

impl Sim {
    /// Creates a network in [calm](NetworkConditions::calm) conditions.
    pub fn new(seed: u64) -> Self {
        Sim::with_conditions(seed, NetworkConditions::calm())
    }

    /// Creates a network with these conditions.
    pub fn with_conditions(seed: u64, conditions: NetworkConditions) -> Self {
        Sim { network: Shared::new(seed, conditions, kernel::clock()) }
    }

    /// Changes the conditions. Existing connections keep their
    /// [`buffer`](NetworkConditions::buffer).
    pub fn set_conditions(&self, conditions: NetworkConditions) {
        self.network.lock().conditions = conditions;
    }

    /// Builds a server in this network. It listens on one address, which
    /// [`local_addrs`](Server::local_addrs) returns. Listeners that were passed to the builder are
    /// closed.
    ///
    /// Servers of one network can [`connect`](Server::connect) to each other.
    ///
    /// With [`tls`](ServerBuilder::tls) all connections to the server are encrypted, and its
    /// [`SimClient`]s speak TLS 1.3. The bytes are other ones in each run, as keys are random, so
    /// that [`digest`](Sim::digest) has their lengths only. With an Ed25519 certificate the lengths
    /// are always the same; signatures of ECDSA vary by a byte or two.
    ///
    /// # Errors
    ///
    /// Same as [`ServerBuilder::build`]. A poll of the server whose sleep would never end fails
    /// with [`Deadlock`](std::io::ErrorKind::Deadlock).
    pub fn server(&self, builder: ServerBuilder) -> Result<Server, BindError> {
        #[cfg(feature = "tls")]
        let tls = builder.certificates();
        let (config, hooks, _) = builder.into_parts()?;
        let server = Server::simulated(config, hooks, self.network.clone());
        #[cfg(feature = "tls")]
        let server = server.with_tls(tls);
        Ok(server)
    }

    /// Connects a client that requests a WebSocket at `path`. The WebSocket is open after the
    /// server has accepted the connection in a poll, the request has arrived, and the server has
    /// polled again.
    ///
    /// The connection is refused if `server` is not in this network.
    pub fn connect(&self, server: &Server, path: &str) -> SimClient {
        self.connect_with(server, path, &[])
    }

    /// Same as [`connect`](Sim::connect), with more headers: `Origin`, `Cookie`,
    /// `Sec-WebSocket-Protocol`, ….
    pub fn connect_with(&self, server: &Server, path: &str, headers: &[(&str, &str)]) -> SimClient {
        let mut client = self.open(server);
        client.request_upgrade(path, headers);
        client
    }

    /// Connects a client that sends no request. Use [`SimClient::raw`] to send plain HTTP or
    /// invalid bytes.
    pub fn open(&self, server: &Server) -> SimClient {
        // No host has the number `usize::MAX`, so the connection is refused.
        SimClient::new(self.network.clone(), server.number_in(&self.network).unwrap_or(usize::MAX))
    }

    /// Sets the address of a host name for [`Server::connect`], e.g. of `feed.example` in
    /// `ws://feed.example/`.
    pub fn name(&self, name: &str, addr: SocketAddr) {
        self.network.lock().names.insert(name.to_owned(), addr);
    }

    /// Moves the clock and delivers the bytes that arrive meanwhile. No server polls in this time,
    /// as during a long frame of a game or while a computer is suspended.
    pub fn advance(&self, by: Duration) {
        self.network.lock().advance(by);
    }

    /// The time of this network's clock.
    pub fn now(&self) -> Instant {
        self.network.lock().now()
    }

    /// The time since the network was created.
    pub fn elapsed(&self) -> Duration {
        self.network.lock().elapsed()
    }

    /// Whether no bytes are in flight and no server has readiness to report. Timers, queued
    /// messages and work left over by a poll are not considered: see [`Server::next_timeout`].
    pub fn is_quiet(&self) -> bool {
        self.network.lock().is_quiet()
    }

    /// A digest of all bytes that have arrived, with the connection and the time of their arrival.
    /// It is the same for the same seed and the same calls.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{Server, sim::Sim};
    ///
    /// let run = |seed| {
    ///     let sim = Sim::new(seed);
    ///     let mut server = sim.server(Server::builder()).unwrap();
    ///     let client = sim.connect(&server, "/");
    ///     server.poll_once().unwrap();
    ///     (sim.digest(), client.status())
    /// };
    /// assert_eq!(run(1), run(1));
    /// ```
    pub fn digest(&self) -> u64 {
        self.network.lock().digest()
    }
}
