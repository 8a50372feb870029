//! An engine on a simulated network, polled as a server polls it, with a clock that stands until it
//! is moved.
//!
//! In calm conditions everything written is there when the other side reads. In harsh conditions it
//! takes some polls and comes in pieces: the network has a clock of its own, which moves at random
//! between two polls, however still the engine's clock stands. The same seed, the same run.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::SEC;
use crate::{
    config::Config,
    engine::{Engine, Order, hooks::Hooks},
    error::ConnectError,
    event::tick::Tick,
    net::sim::{Outcome, Peer, Shared, SimSocket, Weather},
    util::test_rng::Rng,
};

/// The engine's number in its network.
const HOST: usize = 0;

/// Outbound connections: the world outside, and what was asked of it.
#[derive(Debug, Default)]
pub(super) struct Dialing {
    pub(super) outcomes: HashMap<SocketAddr, Outcome>,
    pub(super) names: HashMap<String, Vec<SocketAddr>>,
    /// When each address was tried.
    pub(super) log: Vec<(Duration, SocketAddr)>,
    /// The servers' ends of connections, until a test takes them.
    pub(super) peers: Vec<Peer>,
}

/// An engine, its network, and its clock: polls as `Server::poll_wait` does.
#[derive(Debug)]
pub(super) struct Host {
    pub(in crate::engine) engine: Engine<SimSocket>,
    pub(super) now: Instant,
    start: Instant,
    network: Shared,
    chaos: Option<Rng>,
    connected: u16,
    pub(super) dialing: Dialing,
    /// Turns given to clients in the last poll.
    pub(super) turns: usize,
}

impl Host {
    pub(super) fn new(config: Config) -> Self {
        Self::with_chaos(config, None)
    }

    pub(super) fn with_chaos(config: Config, chaos: Option<Rng>) -> Self {
        Self::with_hooks(config, Hooks::default(), chaos)
    }

    /// `chaos`: the conditions are harsh, and everything that is up to chance comes from there.
    pub(super) fn with_hooks(config: Config, hooks: Hooks, mut chaos: Option<Rng>) -> Self {
        assert_eq!(config.validate(), Ok(()));
        let start = Instant::now();
        let network = match &mut chaos {
            None => Shared::new(0, Weather::calm(), start),
            Some(rng) => Shared::new(rng.next(), Weather::harsh(), start),
        };
        assert_eq!(network.lock().add_host(), HOST);
        Host {
            engine: Engine::new(config, hooks, start),
            now: start,
            start,
            network,
            chaos,
            connected: 0,
            dialing: Dialing::default(),
            turns: 0,
        }
    }

    /// A new connection; nothing has been sent on it. Accepted by the next poll.
    pub(super) fn connect(&mut self) -> Peer {
        self.connected += 1;
        Peer::connect(&self.network, HOST, self.connected)
    }

    /// A client whose handshake is over and whose `Open` has been handed out.
    pub(super) fn open(&mut self) -> (Peer, crate::ClientId) {
        let mut peer = self.connect();
        peer.handshake();
        // Accepted, read, answered.
        assert_eq!([self.poll().len(), self.poll().len(), self.poll().len()], [0, 1, 0]);
        assert_eq!(peer.frames(), []);
        assert_eq!(peer.status(), Some(101));
        let id = self.engine.clients().max().unwrap();
        (peer, id)
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// One poll at the present moment.
    pub(super) fn poll(&mut self) -> Tick {
        self.poll_after(Duration::ZERO)
    }

    /// One poll in which nothing happens for some time.
    pub(super) fn poll_after(&mut self, wait: Duration) -> Tick {
        self.engine.flush(self.now);
        self.carry_out_dials();
        let called = self.now;
        self.advance(wait);
        let step = self.chaos.as_mut().map_or(0, |rng| rng.below(Weather::STEP.as_millis() as usize));
        self.network.lock().advance(Duration::from_millis(step as u64));
        self.engine.start_poll(called, self.now, false);
        let reports = self.network.lock().report(HOST);
        for (index, readiness) in reports {
            self.engine.ready(index, readiness, self.now);
        }
        while let Some((id, remote)) = self.next_accepted() {
            let socket = SimSocket::new(&self.network, id);
            if let Some(index) = self.engine.accept(socket, remote, self.now) {
                self.network.lock().watch(HOST, id, index);
            }
        }
        self.engine.fire_timers(self.now);
        self.carry_out_dials();
        self.turns = 0;
        while self.engine.service_next(self.now) {
            self.turns += 1;
        }
        self.engine.finish_tick(self.now, false)
    }

    /// Everything in flight arrives, and nobody does anything meanwhile.
    pub(super) fn land(&mut self) {
        self.network.lock().advance(SEC);
    }

    /// The network is free again before the connection is used.
    fn next_accepted(&self) -> Option<((usize, usize), SocketAddr)> {
        self.network.lock().accept(HOST)
    }

    /// Polls until nothing is left to do at this moment, and gives the number of events.
    pub(super) fn settle(&mut self) -> usize {
        let mut events = 0;
        for _ in 0..100_000 {
            events += self.poll().len();
            if self.is_quiet() {
                return events;
            }
        }
        panic!("the engine never comes to rest: {:?}", self.engine.next_timeout(self.now));
    }

    /// Whether time has to pass, or a peer to act, before anything happens.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.engine.next_timeout(self.now) != Some(Duration::ZERO) && self.network.lock().is_still()
    }

    fn carry_out_dials(&mut self) {
        while let Some(order) = self.engine.next_dial(self.now) {
            match order {
                Order::Nothing => {}
                Order::Resolve(id, host, port) => {
                    let found = self.dialing.names.get(&host).cloned();
                    let error = ConnectError::Resolve { host, error: "unknown".into() };
                    let addrs = found.ok_or(error);
                    let addrs = addrs.map(|addrs| {
                        addrs.into_iter().map(|addr| SocketAddr::new(addr.ip(), port)).collect()
                    });
                    self.engine.resolved(id, addrs, self.now);
                }
                Order::Connect(id, addr) => {
                    self.dialing.log.push((self.elapsed(), addr));
                    let outcome = self.dialing.outcomes.get(&addr).copied().unwrap_or_default();
                    if outcome == Outcome::Unreachable {
                        self.engine.dialed(id, Err(ErrorKind::NetworkUnreachable.into()), self.now);
                        continue;
                    }
                    let (at, port) = ((HOST, id.index()), self.connected + 1);
                    let (socket, peer) = Peer::accept(&self.network, at, addr, outcome, port);
                    self.connected += u16::from(peer.is_some());
                    self.dialing.peers.extend(peer);
                    self.engine.dialed(id, Ok(socket), self.now);
                }
            }
        }
    }
}
