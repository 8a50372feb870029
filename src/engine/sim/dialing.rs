//! What becomes of the engine's attempts to connect to elsewhere.

use std::{
    cell::RefCell,
    collections::HashMap,
    io::{self, ErrorKind},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use super::{Host, Link, Peer, SimStream};
use crate::{engine::Order, error::ConnectError, util::test_rng::Rng};

/// What becomes of a connection to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::engine) enum Outcome {
    #[default]
    Connects,
    /// The kernel says no later.
    Refused,
    /// The kernel says no at once.
    Unreachable,
    /// Nobody ever answers.
    Silence,
}

impl Outcome {
    pub(super) fn now(self) -> io::Result<bool> {
        match self {
            Outcome::Connects => Ok(true),
            Outcome::Refused => Err(ErrorKind::ConnectionRefused.into()),
            Outcome::Unreachable | Outcome::Silence => Ok(false),
        }
    }
}

/// The world outside, and what was asked of it.
#[derive(Debug, Default)]
pub(in crate::engine) struct Dialing {
    pub(in crate::engine) outcomes: HashMap<SocketAddr, Outcome>,
    pub(in crate::engine) names: HashMap<String, Vec<SocketAddr>>,
    /// When each address was tried.
    pub(in crate::engine) log: Vec<(Duration, SocketAddr)>,
    /// The servers' ends of what is connected, for whoever takes them.
    pub(in crate::engine) peers: Vec<Peer>,
}

impl Host {
    pub(super) fn carry_out_dials(&mut self) {
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
                    let elapsed = self.elapsed();
                    self.dialing.log.push((elapsed, addr));
                    let outcome = self.dialing.outcomes.get(&addr).copied().unwrap_or_default();
                    if outcome == Outcome::Unreachable {
                        let error = ErrorKind::NetworkUnreachable.into();
                        self.engine.dialed(id, Err(error), self.now);
                        continue;
                    }
                    let chaos = self.chaos.as_mut().map(|rng| Rng::new(rng.next()));
                    let mut link = Link::new(chaos);
                    link.connected = outcome;
                    link.writable_edge = outcome != Outcome::Silence;
                    link.reset = outcome == Outcome::Refused;
                    let link = Rc::new(RefCell::new(link));
                    self.links.push((id.index(), link.clone()));
                    if outcome == Outcome::Connects {
                        self.connected += 1;
                        self.dialing.peers.push(Peer::new(link.clone(), self.connected));
                    }
                    self.engine.dialed(id, Ok(SimStream(link)), self.now);
                }
            }
        }
    }
}
