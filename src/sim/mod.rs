//! A whole server in memory, with a virtual clock and a seed, for tests of programs that use this
//! library.
//!
//! [`Sim::server`] returns the same [`Server`] that a program binds to a port, so that the
//! program's own code runs unchanged; only sockets and clock are simulated. Time passes only in
//! [`Sim::advance`] and while a server sleeps ([`poll_for`](Server::poll_for),
//! [`poll_wait`](Server::poll_wait), [`run`](Server::run)). A sleep jumps to the next arrival or
//! deadline, so a test of an hour takes a moment. The network behaves as its [`Weather`] says. The
//! same seed and the same calls give the same events and the same bytes at the same times.
//!
//! Differences from a real server:
//!
//! - No time passes within a poll, so a `time_budget` never ends one.
//! - A [`Handle`](crate::Handle) works on other threads, but the threads decide when its commands
//!   arrive, and a sleep without a timeout does not wait for them.
//! - The backlog of a listener has no limit, and each client has an address of its own.
//! - Served files are read from the disk.
//! - Only names set with [`Sim::name`] can be resolved.
//! - Clients do not offer compression.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use tickws::{Event, Message, Server, sim::{Received, Sim, Weather}};
//!
//! /// The game, which does not know that it is simulated.
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

/// A simulated network with its clock, servers and clients.
///
/// A clone is the same network.
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
        self.network.lock().conditions = weather;
    }

    /// Builds a server in this network. It listens at one address, which
    /// [`local_addrs`](Server::local_addrs) returns. Sockets that the builder was given are closed.
    ///
    /// Servers of one network can [`connect`](Server::connect) to each other.
    ///
    /// # Errors
    ///
    /// Same as [`ServerBuilder::build`]. A poll of the server that would sleep for ever fails with
    /// [`Deadlock`](io::ErrorKind::Deadlock).
    pub fn server(&self, builder: ServerBuilder) -> io::Result<Server> {
        let (config, hooks, _) = builder.into_parts()?;
        Ok(Server::simulated(config, hooks, self.network.clone()))
    }

    /// A client that requests a WebSocket at `path` from `server`. It is open after the server has
    /// polled, its bytes have arrived, and the server has polled again.
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

    /// A connection without a request. Use [`SimClient::raw`] to send plain HTTP or invalid bytes.
    pub fn open(&self, server: &Server) -> SimClient {
        // No host has this number.
        SimClient::new(self.network.clone(), server.number_in(&self.network).unwrap_or(usize::MAX))
    }

    /// Sets the address of a host name for [`connect`](Server::connect), e.g. of
    /// `ws://feed.example/`.
    pub fn name(&self, name: &str, addr: SocketAddr) {
        self.network.lock().names.insert(name.to_owned(), addr);
    }

    /// Lets time pass, and delivers the bytes that arrive in it. No server polls meanwhile, as in a
    /// long frame or on a laptop that is suspended.
    pub fn advance(&self, by: Duration) {
        self.network.lock().advance(by);
    }

    /// The time by this network's clock.
    pub fn now(&self) -> Instant {
        self.network.lock().now()
    }

    /// The time since the network was created.
    pub fn elapsed(&self) -> Duration {
        self.network.lock().elapsed()
    }

    /// Whether no bytes are on their way and the next poll of each server has no readiness to
    /// report. Timers, queued messages and work left over are not considered: see
    /// [`Server::next_timeout`].
    pub fn is_quiet(&self) -> bool {
        self.network.lock().is_quiet()
    }

    /// A digest of every byte that has arrived so far, and of the place and the time of its
    /// arrival. It is the same for the same seed and the same calls.
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
