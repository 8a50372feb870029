//! A whole server in memory, under a virtual clock and a seed: for tests of what is built on this library.
//!
//! [`Sim::server`] gives the very same [`Server`] that a program binds to a port, so the program's own code runs
//! unchanged; only its sockets and its clock are simulated. Time stands still but for [`Sim::advance`] and a
//! server that sleeps ([`poll_for`](Server::poll_for), [`poll_wait`](Server::poll_wait), [`run`](Server::run)):
//! then it jumps to whatever comes next, so a test of an hour takes a moment. The network behaves as its
//! [`Weather`] says. The same seed and the same calls give the same events and the same bytes at the same times.
//!
//! Within a poll no time passes, so a `time_budget` never ends one. What is not simulated: [`Handle`](crate::Handle)s
//! on other threads work, but when they are heard is up to those threads, and a sleep without an end does not wait for
//! them; a listener keeps as many waiting as come, and each client comes from an address of its own; files that are
//! served are read from the disk; names are not resolved unless [`Sim::name`] knows them. Clients do not offer
//! compression.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use tickws::{Event, Message, Server, sim::{Received, Sim, Weather}};
//!
//! /// The game: nothing here knows of the simulation.
//! fn frame(server: &mut Server) -> std::io::Result<()> {
//!     for event in &server.poll_once()? {
//!         match event {
//!             Event::Open { client, .. } => _ = server.join(client, "lobby"),
//!             Event::Message { client, message } => _ = server.publish_except("lobby", client, message),
//!             _ => {}
//!         }
//!     }
//!     server.flush();
//!     Ok(())
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! let sim = Sim::with_weather(42, Weather::foul());
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
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

pub use client::SimClient;
pub use replay::Replay;
pub use seeds::for_each_seed;

pub use crate::{
    net::sim::{Received, Weather},
    record::{Divergence, Recording, ReplayError},
};
use crate::{
    net::{kernel, sim::Shared},
    server::{Server, builder::ServerBuilder},
};

/// A simulated network with its clock, and everyone in it.
///
/// Clones are the same network.
#[derive(Debug, Clone)]
pub struct Sim {
    network: Shared,
}

impl Sim {
    /// A network in [calm](Weather::calm) weather.
    pub fn new(seed: u64) -> Self {
        Sim::with_weather(seed, Weather::calm())
    }

    /// A network in any weather.
    pub fn with_weather(seed: u64, weather: Weather) -> Self {
        Sim { network: Shared::new(seed, weather, kernel::clock()) }
    }

    /// Changes the weather. A connection keeps the [`buffer`](Weather::buffer) that it began with.
    pub fn set_weather(&self, weather: Weather) {
        self.network.lock().weather = weather;
    }

    /// Builds a server in this network. It listens at the one address that
    /// [`local_addrs`](Server::local_addrs) tells; sockets that the builder was given are closed.
    ///
    /// Servers of one network can [`connect`](Server::connect) to each other.
    ///
    /// # Errors
    ///
    /// As [`ServerBuilder::build`]. Its polls fail with [`Deadlock`](io::ErrorKind::Deadlock) where the real one
    /// would sleep for ever.
    pub fn server(&self, builder: ServerBuilder) -> io::Result<Server> {
        let (config, hooks, _) = builder.into_parts()?;
        Ok(Server::simulated(config, hooks, self.network.clone()))
    }

    /// A client that asks `server` for a WebSocket at `path`. It is open once the server has polled, its bytes
    /// have arrived, and the server has polled again.
    ///
    /// A server that is not of this network refuses the connection.
    pub fn connect(&self, server: &Server, path: &str) -> SimClient {
        self.connect_with(server, path, &[])
    }

    /// As [`connect`](Sim::connect), with more headers: `Origin`, `Cookie`, `Sec-WebSocket-Protocol`, ….
    pub fn connect_with(&self, server: &Server, path: &str, headers: &[(&str, &str)]) -> SimClient {
        let mut client = self.open(server);
        client.ask(path, headers);
        client
    }

    /// A connection on which nothing has been said: for what is no WebSocket, see [`SimClient::raw`].
    pub fn open(&self, server: &Server) -> SimClient {
        // No host has the last number.
        SimClient::new(self.network.clone(), server.number_in(&self.network).unwrap_or(usize::MAX))
    }

    /// Makes a name known to the servers' [`connect`](Server::connect): `ws://feed.example/`.
    pub fn name(&self, name: &str, addr: SocketAddr) {
        self.network.lock().name(name.to_owned(), addr);
    }

    /// Lets time pass, and everything arrive that arrives in it. No server does anything meanwhile: for it, this
    /// is a long frame, or a laptop that was closed.
    pub fn advance(&self, by: Duration) {
        self.network.lock().advance(by);
    }

    /// The time by this network's clock.
    pub fn now(&self) -> Instant {
        self.network.lock().now()
    }

    /// How much time has passed since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.network.lock().elapsed()
    }

    /// Whether nothing is on its way, and no server has anything to hear in its next poll. Timers and deadlines,
    /// and what servers have queued or carried over, are theirs: see [`Server::next_timeout`].
    pub fn is_quiet(&self) -> bool {
        self.network.lock().is_quiet()
    }

    /// A digest of every byte that has arrived so far, with where and when: the same for the same seed and the
    /// same calls.
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
