//! An engine on a simulated network, polled as a server polls it. Its clock moves only when a test
//! moves it.
//!
//! In calm conditions all bytes arrive before the other side reads. In harsh conditions they take
//! some polls and arrive in pieces: the network's clock moves by a random step in each poll, also
//! while the engine's clock does not move. A run depends on the seed only.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::SEC;
use crate::{
    Audience, ClientId, Delivery, LatestKey, Outgoing, SendError, SendOptions,
    config::Config,
    engine::{Engine, Order, Work, hooks::Hooks},
    error::ConnectError,
    event::tick::Tick,
    net::sim::{NetworkConditions, Outcome, Peer, Shared, SimSocket},
    util::test_rng::Rng,
};

/// Short forms of `deliver` and `send_with`, as `Server` has them.
impl Engine<SimSocket> {
    pub(in crate::engine) fn broadcast(
        &mut self,
        message: Outgoing<'_>,
        except: Option<ClientId>,
    ) -> Delivery {
        self.deliver(Audience::Everyone, message, &SendOptions { except, ..SendOptions::new() }, None)
    }

    pub(in crate::engine) fn send_latest(
        &mut self,
        id: ClientId,
        key: LatestKey,
        message: Outgoing<'_>,
    ) -> Result<(), SendError> {
        self.send_with(id, message, &SendOptions::new().latest(key), None)
    }
}

/// The engine's number in its network.
const HOST: usize = 0;

/// Whether calm networks report readiness as on Windows. Harsh networks do so with odd seeds.
pub(super) fn has_windows_readiness() -> bool {
    std::env::var_os("TICKWS_SIM_READINESS").is_some_and(|rule| rule == "windows")
}

/// The outcomes of outbound connections, and a log of the attempts.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    pub(super) outcomes: HashMap<SocketAddr, Outcome>,
    pub(super) names: HashMap<String, Vec<SocketAddr>>,
    /// The time and the address of each attempt.
    pub(super) log: Vec<(Duration, SocketAddr)>,
    /// The remote ends of the connections; a test takes them.
    pub(super) peers: Vec<Peer>,
}

/// An engine with its network and its clock. It polls as `Server::poll_wait` does.
#[derive(Debug)]
pub(super) struct Host {
    pub(in crate::engine) engine: Engine<SimSocket>,
    pub(super) now: Instant,
    start: Instant,
    network: Shared,
    chaos: Option<Rng>,
    connected: u16,
    /// Connections begin with a PROXY header.
    pub(super) named: bool,
    pub(super) outbound: Outbound,
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

    /// With `chaos`, the conditions are harsh and take their random numbers from it.
    pub(super) fn with_hooks(mut config: Config, hooks: Hooks, mut chaos: Option<Rng>) -> Self {
        assert_eq!(config.validate(), Ok(()));
        let start = Instant::now();
        let network = match &mut chaos {
            None => {
                Shared::new(0, NetworkConditions::calm().windows_readiness(has_windows_readiness()), start)
            }
            Some(rng) => Shared::new(rng.next(), NetworkConditions::harsh(), start),
        };
        assert_eq!(network.lock().add_host(), HOST);
        config.rearm = network.lock().rearm;
        Host {
            engine: Engine::new(config, hooks, start),
            now: start,
            start,
            network,
            chaos,
            connected: 0,
            named: false,
            outbound: Outbound::default(),
            turns: 0,
        }
    }

    /// Connects a peer, which has sent nothing yet. The next poll accepts it.
    pub(super) fn connect(&mut self) -> Peer {
        self.connected += 1;
        Peer::connect(&self.network, HOST, self.connected)
    }

    /// Connects a peer whose connection is accepted elsewhere; gives its socket.
    pub(super) fn accept_elsewhere(&mut self) -> (Peer, SimSocket) {
        let peer = self.connect();
        self.deliver_all();
        let (id, _) = self.network.lock().accept(HOST).expect("a connection");
        (peer, SimSocket::new(&self.network, id))
    }

    /// Reports the readiness of a socket under this token.
    pub(super) fn watch(&self, id: crate::net::sim::EndId, token: usize) {
        self.network.lock().watch(HOST, id, token);
    }

    /// Connects a peer, and completes its handshake up to its `Open` event.
    pub(super) fn open(&mut self) -> (Peer, crate::ClientId) {
        let mut peer = self.connect();
        peer.handshake();
        // The first poll accepts, the second reads the request, the third writes the response.
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

    /// Polls without moving the engine's clock.
    pub(super) fn poll(&mut self) -> Tick {
        self.poll_after(Duration::ZERO)
    }

    /// Polls, and moves the engine's clock by `wait` during the sleep.
    pub(super) fn poll_after(&mut self, wait: Duration) -> Tick {
        let in_turns = self.engine.config().time_budget.is_some();
        match in_turns {
            true => self.take_turns(&[Work::Output, Work::Endings]),
            false => self.engine.flush(self.now),
        }
        self.execute_orders();
        let called = self.now;
        self.advance(wait);
        let step =
            self.chaos.as_mut().map_or(0, |rng| rng.below(NetworkConditions::STEP.as_millis() as usize));
        self.network.lock().advance(Duration::from_millis(step as u64));
        self.engine.start_poll(called, self.now, false);
        let reports = self.network.lock().report(HOST);
        for (index, readiness) in reports {
            self.engine.ready(index, readiness, self.now);
        }
        match in_turns {
            true => self.engine.begin_steps(),
            false => self.engine.write_resumed(self.now),
        }
        loop {
            // The lock is released before the socket is used.
            let accepted = self.network.lock().accept(HOST);
            let Some((id, remote)) = accepted else { break };
            let socket = SimSocket::new(&self.network, id);
            if let Some(index) = self.engine.accept(socket, remote.into(), self.named, self.now) {
                self.network.lock().watch(HOST, id, index);
            }
        }
        self.turns = 0;
        if in_turns {
            self.take_turns(&[Work::Output, Work::Input, Work::Endings, Work::Timers]);
            self.execute_orders();
        } else {
            self.engine.fire_timers(self.now);
            self.execute_orders();
            while self.engine.service_next(self.now) {
                self.turns += 1;
            }
        }
        self.engine.finish_tick(self.now, false)
    }

    /// Whether the final close frame of a client that was reported closed has not been queued.
    pub(super) fn awaits_close(&self, id: crate::ClientId) -> bool {
        self.engine.ended.iter().any(|(ended, _)| *ended == id)
    }

    /// Whether the time budget has not reached a client that would take output.
    pub(super) fn awaits_turn(&self, id: crate::ClientId) -> bool {
        let client = &self.engine.clients[id.index()];
        self.engine.config().time_budget.is_some() && client.in_dirty && !client.outbox.is_blocked()
    }

    /// Does one step of each kind, and some more at random, as a server with a small time budget.
    fn take_turns(&mut self, kinds: &[Work]) {
        let more = self.chaos.as_mut().map_or(0, |rng| rng.pick(&[0, 0, 0, 1, 5, 100]));
        for _ in 0..1 + more {
            for work in kinds {
                let stepped = self.engine.step(*work, self.now);
                self.turns += usize::from(stepped && *work == Work::Input);
            }
        }
    }

    /// Delivers everything in flight, without a poll.
    pub(super) fn deliver_all(&mut self) {
        self.network.lock().advance(SEC);
    }

    /// Polls until nothing is left to do at this time, and returns the number of events.
    pub(super) fn settle(&mut self) -> usize {
        let mut events = 0;
        for _ in 0..100_000 {
            events += self.poll().len();
            if self.is_quiet() {
                return events;
            }
        }
        panic!("the engine is never idle: {:?}", self.engine.next_timeout(self.now));
    }

    /// Whether a poll at this time would do nothing.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut network = self.network.lock();
        network.advance(Duration::ZERO);
        self.engine.next_timeout(self.now) != Some(Duration::ZERO) && network.is_quiet()
    }

    fn execute_orders(&mut self) {
        while let Some(order) = self.engine.next_dial(self.now) {
            match order {
                Order::Nothing => {}
                Order::ConnectUnix(id, _) => {
                    self.engine.dialed(id, Err(ErrorKind::Unsupported.into()), self.now);
                }
                Order::Resolve(id, host, port) => {
                    let found = self.outbound.names.get(&host).cloned();
                    let error = ConnectError::Resolve { host, error: "unknown".into() };
                    let addrs = found.ok_or(error);
                    let addrs = addrs.map(|addrs| {
                        addrs.into_iter().map(|addr| SocketAddr::new(addr.ip(), port)).collect()
                    });
                    self.engine.resolved(id, addrs, self.now);
                }
                Order::Connect(id, addr) => {
                    self.outbound.log.push((self.elapsed(), addr));
                    let outcome = self.outbound.outcomes.get(&addr).copied().unwrap_or_default();
                    if outcome == Outcome::Unreachable {
                        self.engine.dialed(id, Err(ErrorKind::NetworkUnreachable.into()), self.now);
                        continue;
                    }
                    let (at, port) = ((HOST, id.index()), self.connected + 1);
                    let (socket, peer) = Peer::accept(&self.network, at, addr, outcome, port);
                    self.connected += u16::from(peer.is_some());
                    self.outbound.peers.extend(peer);
                    self.engine.dialed(id, Ok(socket), self.now);
                }
            }
        }
    }
}
