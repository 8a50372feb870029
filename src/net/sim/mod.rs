//! A network in memory with a clock of its own: a simulated server has it in place of the kernel,
//! and the engine's tests run on it.
//!
//! ```text
//! peer ──say──► in flight ──latency──► arrived ──read──► Engine
//! peer ◄─hear── arrived ◄──latency── in flight ◄──write── Engine
//!                  └─ edges: something arrived; room came back after a short write
//! ```
//!
//! Edges are reported once, as epoll does. The clock moves from one arrival to the next, when a
//! server sleeps or when it is told to.

#![allow(
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "links, hosts and peers stay, and their numbers are places; a side is 0 or 1; a peer that receives an illegal frame fails the test"
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

pub(crate) use conditions::SimRng;
pub use conditions::Weather;
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
    util::{fnv::Fnv, time::after},
};

/// One end of a link: the link's number, and 0 for the side that connected, 1 for the side that
/// accepted.
pub(crate) type EndId = (usize, usize);

/// A network that several may hold.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Network>>);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

impl Shared {
    pub(crate) fn new(seed: u64, conditions: Weather, now: Instant) -> Self {
        Shared(Arc::new(Mutex::new(Network::new(seed, conditions, now))))
    }

    /// Whether both are the same network.
    pub(crate) fn is(&self, other: &Shared) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Network> {
        // A test that panics still drops its sockets.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server's place in the network.
#[derive(Debug)]
struct Host {
    addr: SocketAddr,
    listens: bool,
    backlog: VecDeque<(EndId, SocketAddr)>,
    /// Its ends, each with its token.
    ends: Vec<(EndId, usize)>,
}

#[derive(Debug)]
pub(crate) struct Network {
    start: Instant,
    now: Instant,
    pub(crate) conditions: Weather,
    rng: SimRng,
    links: Vec<Link>,
    hosts: Vec<Host>,
    peers: Vec<SimPeer>,
    names: BTreeMap<String, SocketAddr>,
    /// When the next segment of an end arrives; the count keeps those of one moment in order.
    due: BinaryHeap<Reverse<(Instant, u64, EndId)>>,
    posted: u64,
    /// Covers all bytes written and read, each with its time.
    digest: Fnv,
}

impl Network {
    fn new(seed: u64, conditions: Weather, now: Instant) -> Self {
        Network {
            start: now,
            now,
            conditions,
            rng: SimRng::new(seed),
            links: Vec::new(),
            hosts: Vec::new(),
            peers: Vec::new(),
            names: BTreeMap::new(),
            due: BinaryHeap::new(),
            posted: 0,
            digest: Fnv::new(),
        }
    }

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

    /// Lets time pass, and everything arrive that arrives in it.
    pub(crate) fn advance(&mut self, by: Duration) {
        let end = after(self.now, by);
        while self.step(end) {}
        self.now = end;
    }

    /// The next arrival, if it comes by `end`.
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

    /// Nothing is on its way, and nothing waits for a server to take it.
    pub(crate) fn is_quiet(&self) -> bool {
        let idle = |host: &Host| !self.has_news(host);
        self.due.is_empty() && self.hosts.iter().all(idle)
    }

    /// Sleeps as a server does: until there is something to report to it, or `timeout` is over.
    /// `false`: nothing will ever end this sleep.
    pub(crate) fn sleep(&mut self, host: usize, timeout: Option<Duration>) -> bool {
        let end = timeout.map(|timeout| after(self.now, timeout));
        // Segments that are due arrive, slept or not.
        while self.step(self.now) {}
        loop {
            if self.has_news(&self.hosts[host]) {
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

    fn has_news(&self, host: &Host) -> bool {
        let news = |((link, side), _): &(EndId, usize)| {
            let half = &self.links[*link].halves[*side];
            !half.dropped && (half.readable_edge || half.writable_edge)
        };
        !host.backlog.is_empty() || host.ends.iter().any(news)
    }

    // ---- hosts ----

    /// A place for a server.
    pub(crate) fn add_host(&mut self) -> usize {
        let number = self.hosts.len();
        let ip = Ipv4Addr::from(0x0a00_0001 + number as u32);
        let addr = SocketAddr::from((ip, 80));
        self.hosts.push(Host { addr, listens: true, backlog: VecDeque::new(), ends: Vec::new() });
        number
    }

    pub(crate) fn host_addr(&self, host: usize) -> SocketAddr {
        self.hosts[host].addr
    }

    pub(crate) fn listens(&self, host: usize) -> bool {
        self.hosts[host].listens
    }

    /// Connections that were not accepted are reset, as the kernel does.
    pub(crate) fn stop_listening(&mut self, host: usize) {
        self.hosts[host].listens = false;
        for ((link, side), _) in std::mem::take(&mut self.hosts[host].backlog) {
            let half = self.half((link, side));
            (half.dropped, half.arrived) = (true, VecDeque::new());
            self.post((link, 1 - side), Segment::Reset);
        }
    }

    pub(crate) fn name(&mut self, name: String, addr: SocketAddr) {
        self.names.insert(name, addr);
    }

    pub(crate) fn resolve(&self, name: &str) -> Option<SocketAddr> {
        self.names.get(name).copied()
    }

    pub(crate) fn has_backlog(&self, host: usize) -> bool {
        !self.hosts[host].backlog.is_empty()
    }

    pub(crate) fn accept(&mut self, host: usize) -> Option<(EndId, SocketAddr)> {
        self.hosts[host].backlog.pop_front()
    }

    /// From here on the host is told of this end, under this token.
    pub(crate) fn watch(&mut self, host: usize, id: EndId, token: usize) {
        self.hosts[host].ends.push((id, token));
    }

    /// The readiness that a poll of this host is told of.
    pub(crate) fn report(&mut self, host: usize) -> Vec<(usize, Readiness)> {
        let Network { hosts, links, rng, conditions, .. } = self;
        let ends = &mut hosts[host].ends;
        ends.retain(|((link, side), _)| !links[*link].halves[*side].dropped);
        let mut reports = Vec::new();
        for ((link, side), token) in ends.iter() {
            let link = &mut links[*link];
            let has_room = link.has_room(*side);
            let half = &mut link.halves[*side];
            let has_edge = half.readable_edge || half.writable_edge;
            let reported = match has_edge {
                true => !rng.percent(conditions.late_readiness),
                false => rng.percent(conditions.spurious_readiness),
            };
            if !reported {
                continue;
            }
            let readable = std::mem::take(&mut half.readable_edge) || !has_edge;
            // epoll adds what else is true.
            let writable = std::mem::take(&mut half.writable_edge) || (readable && has_room);
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
        self.links.push(Link::new(addr, self.conditions.buffer, self.now));
        self.links.len() - 1
    }

    /// A connection from `from` to `addr`. The side that connects learns later what becomes of it.
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

    /// A server connects.
    pub(crate) fn dial(&mut self, host: usize, token: usize, addr: SocketAddr) -> EndId {
        let from = SocketAddr::new(self.hosts[host].addr.ip(), self.next_port());
        let id = (self.link(from, addr), 0);
        self.watch(host, id, token);
        id
    }

    fn next_port(&self) -> u16 {
        1024 + (self.links.len() % 64_000) as u16
    }

    /// Sends to an end.
    fn post(&mut self, to: EndId, segment: Segment) {
        let wait = self.rng.within(&self.conditions.latency);
        let half = &mut self.links[to.0].halves[to.1];
        let at = after(self.now, wait).max(half.last_at);
        half.last_at = at;
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

    /// The first segment in flight to an end arrives, if it is due. `false`: there is none.
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
                self.note(to, &bytes);
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
        self.hear(to);
        true
    }

    /// Both ends see a reset, at once.
    fn reset_link(&mut self, link: usize) {
        self.reset_end((link, 0));
        self.reset_end((link, 1));
    }

    fn reset_end(&mut self, id: EndId) {
        let half = &mut self.links[id.0].halves[id.1];
        if !half.reset && !half.dropped {
            half.break_off(io::ErrorKind::ConnectionReset);
            self.hear(id);
        }
    }

    /// The owner of an end closes it.
    fn drop_end(&mut self, id: EndId) {
        let (link, side) = id;
        let half = &mut self.links[link].halves[side];
        if std::mem::replace(&mut half.dropped, true) {
            return;
        }
        let unread = !half.arrived.is_empty();
        half.probe.aborted = unread;
        half.arrived = VecDeque::new();
        // As Linux does: unread input is answered with RST.
        match unread {
            true => self.post((link, 1 - side), Segment::Reset),
            false => self.finish(id),
        }
    }

    /// FIN behind everything written, once.
    fn finish(&mut self, id: EndId) {
        let (link, side) = id;
        let half = &mut self.links[link].halves[side];
        if !std::mem::replace(&mut half.fin_sent, true) && !half.reset {
            self.post((link, 1 - side), Segment::Fin);
        }
    }

    /// Room has come back in front of the end that writes to this one.
    fn make_room(&mut self, read: EndId) {
        let writer = (read.0, 1 - read.1);
        let link = &mut self.links[writer.0];
        if link.halves[writer.1].would_block && link.has_room(writer.1) {
            link.halves[writer.1].writable_edge = true;
        }
        self.say_more(writer);
    }

    /// Adds to the digest.
    fn note(&mut self, id: EndId, bytes: &[u8]) {
        let stamp = [self.elapsed().as_nanos() as u64, id.0 as u64, id.1 as u64];
        stamp.iter().for_each(|number| self.digest.add(&number.to_le_bytes()));
        self.digest.add(bytes);
    }

    fn half(&mut self, id: EndId) -> &mut Half {
        &mut self.links[id.0].halves[id.1]
    }
}
