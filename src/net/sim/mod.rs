//! A network in memory with a clock of its own. It replaces the kernel for a simulated server and
//! for the engine's tests.
//!
//! ```text
//! peer ────send───► in flight ──latency──► arrived ──read──► Engine
//! peer ◄──deliver── arrived ◄──latency── in flight ◄──write── Engine
//!                      └─ edges: bytes arrived; room came back after a short write
//! ```
//!
//! Edges are reported once, as epoll does, or as mio's port to Windows does (`util/rearm.rs`). The
//! clock moves in [`Network::advance`] and while a server sleeps, from one arrival to the next.

#![allow(
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "links, hosts and peers are never removed and their numbers are indices; a side is 0 or 1; an illegal frame of the server fails the test"
)]

mod conditions;
#[cfg(any(test, fuzzing))]
mod deflate;
mod frame;
mod link;
mod peer;
mod probe;
#[cfg(any(test, fuzzing))]
mod raw;
#[cfg(feature = "tls")]
mod secure;
pub(crate) mod seeds;
mod socket;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use conditions::NetworkConditions;
pub(crate) use conditions::SimRng;
#[cfg(any(test, fuzzing))]
pub(crate) use frame::Frame;
use link::{Half, Link, Segment};
pub use peer::Received;
use peer::SimPeer;
#[cfg(any(test, fuzzing))]
pub(crate) use probe::{Call, Fault};
#[cfg(any(test, fuzzing))]
pub(crate) use raw::{Outcome, Peer, masked};
pub(crate) use socket::SimSocket;

use crate::{
    engine::Readiness,
    util::{fnv::Fnv, rearm::Rearm, time::after},
};

/// One end of a link: the link's number, and its side: 0 connected, 1 accepted.
pub(crate) type EndId = (usize, usize);

/// A handle of a network; clones refer to the same network.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Network>>);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

impl Shared {
    pub(crate) fn new(seed: u64, conditions: NetworkConditions, now: Instant) -> Self {
        Shared(Arc::new(Mutex::new(Network {
            start: now,
            now,
            rearm: conditions.rearm(seed),
            conditions,
            rng: SimRng::new(seed),
            links: Vec::new(),
            hosts: Vec::new(),
            peers: Vec::new(),
            names: BTreeMap::new(),
            due: BinaryHeap::new(),
            posted: 0,
            digest: Fnv::new(),
        })))
    }

    /// Whether both are the same network.
    pub(crate) fn is(&self, other: &Shared) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Network> {
        // A test that panics poisons the lock, and still drops its sockets.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server in the network.
#[derive(Debug)]
struct Host {
    addr: SocketAddr,
    listens: bool,
    /// Connections to it are encrypted.
    is_tls: bool,
    backlog: VecDeque<(EndId, SocketAddr)>,
    /// The ends whose readiness is reported, with their tokens.
    ends: Vec<(EndId, usize)>,
}

#[derive(Debug)]
pub(crate) struct Network {
    start: Instant,
    now: Instant,
    pub(crate) conditions: NetworkConditions,
    pub(crate) rearm: Rearm,
    rng: SimRng,
    links: Vec<Link>,
    hosts: Vec<Host>,
    peers: Vec<SimPeer>,
    pub(crate) names: BTreeMap<String, SocketAddr>,
    /// The times at which segments arrive at an end; the count orders those of one moment.
    due: BinaryHeap<Reverse<(Instant, u64, EndId)>>,
    posted: u64,
    /// The digest of all bytes that arrived, with times and ends.
    digest: Fnv,
}

impl Network {
    // ---- the clock ----

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest.value()
    }

    /// Moves the clock, and delivers the segments that arrive meanwhile.
    pub(crate) fn advance(&mut self, by: Duration) {
        let end = after(self.now, by);
        while self.step(end) {}
        self.now = end;
    }

    /// Delivers the next segment if it arrives by `end`; returns whether it does.
    fn step(&mut self, end: Instant) -> bool {
        let Some(&Reverse((at, _, id))) = self.due.peek() else { return false };
        if at > end {
            return false;
        }
        self.due.pop();
        self.now = self.now.max(at);
        self.arrive(id);
        true
    }

    /// Whether no segment is in flight and no host has readiness to report.
    pub(crate) fn is_quiet(&self) -> bool {
        self.due.is_empty() && !self.hosts.iter().any(|host| self.has_readiness(host))
    }

    /// Moves the clock until this host has readiness to report or `timeout` is over. `false` if
    /// neither can happen.
    pub(crate) fn sleep(&mut self, host: usize, timeout: Option<Duration>) -> bool {
        let end = timeout.map(|timeout| after(self.now, timeout));
        // Segments that are due arrive even if readiness is known already.
        while self.step(self.now) {}
        loop {
            if self.has_readiness(&self.hosts[host]) {
                return true;
            }
            let until = end.or_else(|| self.due.peek().map(|Reverse((at, ..))| *at));
            let Some(until) = until else { return false };
            if !self.step(until) {
                self.now = self.now.max(until);
                return true;
            }
        }
    }

    fn has_readiness(&self, host: &Host) -> bool {
        let is_ready = |((link, side), _): &(EndId, usize)| {
            let link = &self.links[*link];
            !link.halves[*side].dropped && link.readiness(*side, self.rearm) != (false, false)
        };
        !host.backlog.is_empty() || host.ends.iter().any(is_ready)
    }

    // ---- hosts ----

    /// Adds a host, which listens.
    pub(crate) fn add_host(&mut self) -> usize {
        let number = self.hosts.len();
        let ip = Ipv4Addr::from(0x0a00_0001 + number as u32);
        let addr = SocketAddr::from((ip, 80));
        self.hosts.push(Host {
            addr,
            listens: true,
            is_tls: false,
            backlog: VecDeque::new(),
            ends: Vec::new(),
        });
        number
    }

    /// Has the connections to this host be encrypted.
    #[cfg(feature = "tls")]
    pub(crate) fn encrypt(&mut self, host: usize) {
        self.hosts[host].is_tls = true;
    }

    /// Whether the connections to this host are encrypted.
    pub(crate) fn is_encrypted(&self, host: usize) -> bool {
        self.hosts[host].is_tls
    }

    /// The address that the host listens on.
    pub(crate) fn local_addr(&self, host: usize) -> Option<SocketAddr> {
        self.hosts[host].listens.then_some(self.hosts[host].addr)
    }

    /// Stops listening, and resets the connections of the backlog as the kernel does.
    pub(crate) fn stop_listening(&mut self, host: usize) {
        self.hosts[host].listens = false;
        for ((link, side), _) in std::mem::take(&mut self.hosts[host].backlog) {
            let half = self.half((link, side));
            (half.dropped, half.arrived) = (true, VecDeque::new());
            self.post((link, 1 - side), Segment::Reset);
        }
    }

    pub(crate) fn has_backlog(&self, host: usize) -> bool {
        !self.hosts[host].backlog.is_empty()
    }

    pub(crate) fn accept(&mut self, host: usize) -> Option<(EndId, SocketAddr)> {
        self.hosts[host].backlog.pop_front()
    }

    /// Reports the readiness of this end to the host under this token from now on.
    pub(crate) fn watch(&mut self, host: usize, id: EndId, token: usize) {
        self.hosts[host].ends.push((id, token));
        self.half(id).arm();
    }

    /// Takes the readiness that a poll of this host reports, with tokens.
    pub(crate) fn report(&mut self, host: usize) -> Vec<(usize, Readiness)> {
        let Network { hosts, links, rng, conditions, rearm, .. } = self;
        let ends = &mut hosts[host].ends;
        ends.retain(|((link, side), _)| !links[*link].halves[*side].dropped);
        let mut reports = Vec::new();
        for ((link, side), token) in ends.iter() {
            let link = &mut links[*link];
            let has_room = link.has_room(*side);
            let (has_input, takes_output) = link.readiness(*side, *rearm);
            let has_edge = has_input || takes_output;
            let reported = match has_edge {
                true => !rng.percent(conditions.late_readiness),
                false => rng.percent(conditions.spurious_readiness),
            };
            if !reported {
                continue;
            }
            let readable = has_input || !has_edge;
            // An event of epoll has the full readiness, not only its cause.
            let writable = takes_output || (*rearm == Rearm::OnChange && readable && has_room);
            let half = &mut link.halves[*side];
            (half.readable_edge, half.writable_edge) = (false, false);
            half.read_armed &= !readable;
            half.write_armed &= !writable;
            half.would_block &= !writable;
            let read_closed = half.fin_arrived || half.reset;
            reports.push((*token, Readiness { readable, writable, read_closed, urgent: false }));
        }
        if conditions.shuffles {
            for last in (1..reports.len()).rev() {
                reports.swap(last, rng.below(last + 1));
            }
        }
        reports
    }

    // ---- links ----

    fn add_link(&mut self, addr: SocketAddr) -> usize {
        self.links.push(Link::new(addr, self.conditions.buffer));
        self.links.len() - 1
    }

    /// Adds a link from `from` to `addr`. A segment reports the outcome to the side that connects.
    fn link(&mut self, from: SocketAddr, addr: SocketAddr) -> usize {
        let number = self.add_link(addr);
        match self.hosts.iter().position(|host| host.addr == addr && host.listens) {
            Some(host) => {
                self.hosts[host].backlog.push_back(((number, 1), from));
                self.post((number, 0), Segment::Connected);
            }
            None => self.post((number, 0), Segment::Refused),
        }
        number
    }

    /// Connects a host to `addr`, and reports the readiness of its end under this token.
    pub(crate) fn connect(&mut self, host: usize, token: usize, addr: SocketAddr) -> EndId {
        let from = SocketAddr::new(self.hosts[host].addr.ip(), self.next_port());
        let id = (self.link(from, addr), 0);
        self.watch(host, id, token);
        id
    }

    fn next_port(&self) -> u16 {
        1024 + (self.links.len() % 64_000) as u16
    }

    /// Sends a segment to an end.
    fn post(&mut self, to: EndId, segment: Segment) {
        let wait = self.rng.within(&self.conditions.latency);
        let half = &mut self.links[to.0].halves[to.1];
        // Segments arrive in order.
        let last_at = half.in_flight.back().map_or(self.now, |(at, _)| *at);
        let at = after(self.now, wait).max(last_at);
        if let Segment::Bytes(bytes) = &segment {
            half.bytes_in_flight += bytes.len();
        }
        half.in_flight.push_back((at, segment));
        self.due.push(Reverse((at, self.posted, to)));
        self.posted += 1;
    }

    /// Sends bytes to an end, in pieces if the conditions say so.
    fn post_bytes(&mut self, to: EndId, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.rng.percent(self.conditions.resets) {
                return self.reset_link(to.0);
            }
            let cut = rest.len() > 1 && self.rng.percent(self.conditions.short_reads);
            let count = if cut { 1 + self.rng.below(rest.len() - 1) } else { rest.len() };
            let (piece, left) = rest.split_at(count);
            self.post(to, Segment::Bytes(piece.to_vec()));
            rest = left;
        }
    }

    /// Delivers the first segment in flight to an end if it is due; returns whether it is.
    fn arrive(&mut self, to: EndId) -> bool {
        let now = self.now;
        let half = self.half(to);
        if half.in_flight.front().is_none_or(|(at, _)| *at > now) {
            return false;
        }
        let Some((_, segment)) = half.in_flight.pop_front() else { return false };
        match segment {
            Segment::Bytes(bytes) => {
                half.bytes_in_flight -= bytes.len();
                if half.dropped {
                    self.reset_end((to.0, 1 - to.1));
                    return true;
                }
                if half.reset {
                    return true;
                }
                half.arrived.extend(&bytes);
                half.readable_edge = true;
                self.add_to_digest(to, &bytes);
            }
            Segment::Fin => {
                half.fin_arrived = true;
                half.readable_edge = true;
            }
            Segment::Connected => (half.connected, half.writable_edge) = (Some(true), true),
            Segment::Refused => {
                half.connected = Some(false);
                half.break_off(io::ErrorKind::ConnectionRefused);
            }
            Segment::Reset => half.break_off(io::ErrorKind::ConnectionReset),
        }
        self.deliver(to);
        true
    }

    /// Resets both ends at once.
    fn reset_link(&mut self, link: usize) {
        self.reset_end((link, 0));
        self.reset_end((link, 1));
    }

    fn reset_end(&mut self, id: EndId) {
        let half = &mut self.links[id.0].halves[id.1];
        if !half.reset && !half.dropped {
            half.break_off(io::ErrorKind::ConnectionReset);
            self.deliver(id);
        }
    }

    /// Closes an end. The other end gets FIN, or RST if input was unread, as on Linux.
    fn drop_end(&mut self, id: EndId) {
        let (link, side) = id;
        let half = &mut self.links[link].halves[side];
        if std::mem::replace(&mut half.dropped, true) {
            return;
        }
        let unread = !half.arrived.is_empty();
        half.probe.aborted = unread;
        half.arrived = VecDeque::new();
        match unread {
            true => self.post((link, 1 - side), Segment::Reset),
            false => self.finish(id),
        }
    }

    /// Sends FIN behind the bytes written; only the first call does.
    fn finish(&mut self, id: EndId) {
        let (link, side) = id;
        let half = &mut self.links[link].halves[side];
        if !std::mem::replace(&mut half.fin_sent, true) && !half.reset {
            self.post((link, 1 - side), Segment::Fin);
        }
    }

    /// Continues the output to an end from which bytes were read.
    fn make_room(&mut self, read: EndId) {
        let writer = (read.0, 1 - read.1);
        let link = &mut self.links[writer.0];
        if link.halves[writer.1].would_block && link.has_room(writer.1) {
            link.halves[writer.1].writable_edge = true;
        }
        self.send_unsent(writer);
    }

    /// Adds bytes that arrived to the digest.
    fn add_to_digest(&mut self, id: EndId, bytes: &[u8]) {
        let stamp = [self.elapsed().as_nanos() as u64, id.0 as u64, id.1 as u64];
        stamp.iter().for_each(|number| self.digest.add(&number.to_le_bytes()));
        // Ciphertext differs from run to run, but its length does not.
        let addr = self.links[id.0].addr;
        match self.hosts.iter().any(|host| host.is_tls && host.addr == addr) {
            true => self.digest.add(&bytes.len().to_le_bytes()),
            false => self.digest.add(bytes),
        }
    }

    fn half(&mut self, id: EndId) -> &mut Half {
        &mut self.links[id.0].halves[id.1]
    }
}
