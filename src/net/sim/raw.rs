//! Peers that a test plays byte by byte, with windows, outcomes and errors of its choice. They
//! speak WebSocket, and check that the server does; the network reads nothing for them.

use std::{fmt, net::SocketAddr, time::Duration};

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{
    EndId, Network, Shared, SimSocket, Weather,
    deflate::PeerDeflate,
    frame::{self, Frame, Inflate, head_of},
    link::{Half, Segment},
    probe::Fault,
};

/// The result of connecting to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Outcome {
    #[default]
    Connects,
    /// The kernel says no later.
    Refused,
    /// The kernel says no at once.
    Unreachable,
    /// No answer ever comes.
    Silence,
}

impl Weather {
    /// Everything that TCP and the kernel may do, at once.
    pub(crate) const fn harsh() -> Self {
        Weather {
            latency: Duration::ZERO..=Self::STEP,
            short_reads: 40,
            late_readiness: 35,
            spurious_readiness: 3,
            buffer: 256 * 1024,
            ..Weather::foul()
        }
    }

    /// The most that the network's clock should move between two polls in harsh conditions.
    pub(crate) const STEP: Duration = Duration::from_millis(20);
}

impl Network {
    /// Whether servers have nothing to be told of, and nothing is in flight but what a peer finds
    /// if it reads now.
    pub(crate) fn is_still(&self) -> bool {
        let lands = |half: &Half| match half.peer {
            None => half.in_flight.is_empty(),
            Some(_) => half.in_flight.iter().all(|(at, _)| *at <= self.now),
        };
        self.due.iter().all(|entry| {
            let (link, side) = entry.0.2;
            lands(&self.links[link].halves[side])
        }) && !self.hosts.iter().any(|host| self.has_news(host))
    }
}

/// A peer without a will of its own.
pub(crate) struct Peer {
    network: Shared,
    number: usize,
    end: EndId,
    pub(crate) port: u16,
    /// From the server, not parsed yet.
    inbox: Vec<u8>,
    status: Option<u16>,
    closed: bool,
    key: u8,
    /// Whether the handshake offers compression.
    pub(crate) offers: bool,
    /// The compression that the server's response agreed to.
    pub(crate) deflate: Option<PeerDeflate>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peer { port, status, closed, inbox, .. } = self;
        write!(f, "Peer {{ port: {port}, status: {status:?}, closed: {closed}, unparsed: {} }}", inbox.len())
    }
}

impl Peer {
    fn new(network: &Shared, number: usize, port: u16) -> Self {
        let end = {
            let mut network = network.lock();
            network.stall(number, true);
            network.peers[number].end
        };
        Peer {
            network: network.clone(),
            number,
            end,
            port,
            inbox: Vec::new(),
            status: None,
            closed: false,
            key: 0,
            offers: false,
            deflate: None,
        }
    }

    /// Connects to a host, from this port.
    pub(crate) fn connect(network: &Shared, host: usize, port: u16) -> Self {
        let number = network.lock().connect_client(host, ([127, 0, 0, 1], port).into());
        Peer::new(network, number, port)
    }

    /// A host connects to `addr`, and this is what comes of it: a peer accepts if it
    /// [`Connects`](Outcome::Connects), and is known by `port`.
    pub(crate) fn accept(
        network: &Shared,
        (host, token): (usize, usize),
        addr: SocketAddr,
        outcome: Outcome,
        port: u16,
    ) -> (SimSocket, Option<Peer>) {
        let mut net = network.lock();
        let link = net.add_link(addr);
        net.watch(host, (link, 0), token);
        match outcome {
            Outcome::Connects => net.post((link, 0), Segment::Connected),
            Outcome::Refused => net.post((link, 0), Segment::Refused),
            Outcome::Unreachable | Outcome::Silence => {}
        }
        let number = (outcome == Outcome::Connects).then(|| net.add_peer((link, 1)));
        drop(net);
        let peer = number.map(|number| Peer::new(network, number, port));
        (SimSocket::new(network, (link, 0)), peer)
    }

    /// The server's end.
    fn server(&self) -> EndId {
        (self.end.0, 1 - self.end.1)
    }

    fn of<T>(&self, end: EndId, ask: impl FnOnce(&mut Half) -> T) -> T {
        ask(self.network.lock().half(end))
    }

    // ---- to the server ----

    pub(crate) const HEAD: &str = "GET /chat?room=1 HTTP/1.1\r\nHost: a.example\r\n\
        Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    pub(crate) fn handshake(&mut self) {
        self.raw(self.head().as_bytes());
    }

    /// The request that `handshake` sends.
    pub(crate) fn head(&self) -> String {
        let offer = if self.offers { PeerDeflate::OFFER } else { "" };
        format!("{}{offer}\r\n", Self::HEAD.trim_end_matches("\r\n\r\n").to_owned() + "\r\n")
    }

    pub(crate) fn raw(&self, bytes: &[u8]) {
        self.network.lock().say(self.number, bytes);
    }

    /// One masked frame.
    pub(crate) fn frame(&mut self, opcode: OpCode, fin: bool, payload: &[u8]) {
        self.key = self.key.wrapping_add(37);
        self.raw(&masked(opcode, fin, payload, self.key));
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.frame(OpCode::Data(Data::Text), true, text.as_bytes());
    }

    pub(crate) fn binary(&mut self, bytes: &[u8]) {
        self.frame(OpCode::Data(Data::Binary), true, bytes);
    }

    pub(crate) fn ping(&mut self, body: &[u8]) {
        self.frame(OpCode::Control(Control::Ping), true, body);
    }

    pub(crate) fn pong(&mut self, body: &[u8]) {
        self.frame(OpCode::Control(Control::Pong), true, body);
    }

    pub(crate) fn close(&mut self, code: u16) {
        let body = if code == 1005 { Vec::new() } else { code.to_be_bytes().to_vec() };
        self.frame(OpCode::Control(Control::Close), true, &body);
    }

    /// Everything in flight arrives, and the server is not told of it yet.
    pub(crate) fn arrive(&self) {
        let (mut network, server) = (self.network.lock(), self.server());
        let now = network.now;
        network.half(server).in_flight.iter_mut().for_each(|(at, _)| *at = now);
        while network.arrive(server) {}
    }

    /// FIN; it goes on reading.
    pub(crate) fn fin(&self) {
        self.network.lock().say_end(self.number);
    }

    /// Closes the socket: FIN behind everything said, and RST to whatever comes.
    pub(crate) fn hang_up(&self) {
        self.of(self.end, |half| {
            half.dropped = true;
            half.arrived.clear();
        });
        self.fin();
    }

    /// RST: everything in flight is lost; `purge`: also input that the server has not read yet.
    pub(crate) fn reset(&self, purge: bool) {
        let mut network = self.network.lock();
        network.reset_link(self.end.0);
        network.peers[self.number].unsaid.clear();
        for end in [self.end, self.server()] {
            let half = network.half(end);
            half.in_flight.clear();
            half.bytes_in_flight = 0;
            if end == self.end || purge {
                half.arrived.clear();
            }
        }
    }

    /// The sizes of the kernel's buffers, on the server's side.
    pub(crate) fn windows(&self, receive: usize, send: usize) {
        let mut network = self.network.lock();
        network.half(self.server()).buffer = receive;
        network.half(self.end).buffer = send;
        network.make_room(self.server());
        network.make_room(self.end);
    }

    // ---- from the server ----

    /// Takes up to `most` bytes off the wire.
    pub(crate) fn read(&mut self, most: usize) -> usize {
        let mut network = self.network.lock();
        while network.arrive(self.end) {}
        let arrived = &mut network.half(self.end).arrived;
        let count = arrived.len().min(most);
        self.inbox.extend(arrived.drain(..count));
        network.make_room(self.end);
        count
    }

    /// Reads everything, whatever it is.
    pub(crate) fn take_all(&mut self) -> Vec<u8> {
        self.read(usize::MAX);
        std::mem::take(&mut self.inbox)
    }

    /// Reads everything and gives the frames that are complete. Panics if one is illegal.
    pub(crate) fn frames(&mut self) -> Vec<Frame> {
        self.read(usize::MAX);
        self.parse()
    }

    /// The complete frames of what was read.
    pub(crate) fn parse(&mut self) -> Vec<Frame> {
        if self.status.is_none() {
            let Some((status, head)) = head_of(&self.inbox) else { return vec![] };
            let text = std::str::from_utf8(head).expect("a head is ASCII");
            if self.offers {
                self.deflate = PeerDeflate::from_response(text);
            }
            let len = head.len();
            self.status = Some(status);
            self.inbox.drain(..len);
        }
        let (mut at, mut frames) = (0, Vec::new());
        while self.status == Some(101) {
            let mut inflate = self.deflate.as_mut().map(|deflate| |payload: &[u8]| deflate.inflate(payload));
            let inflate = inflate.as_mut().map(|inflate| inflate as Inflate<'_>);
            let Some((frame, size)) = Frame::read(&self.inbox[at..], inflate) else { break };
            assert!(!self.closed, "{frame:?} after a close frame");
            at += size;
            self.closed = matches!(frame, Frame::Close(..));
            frames.push(frame);
        }
        self.inbox.drain(..at);
        frames
    }

    /// The next HTTP answer of what was read, if it is whole: its head and its body. Frames follow
    /// a 101. `to_head`: it has no body, whatever length it names (RFC 9112 §6.3).
    pub(crate) fn answer(&mut self, to_head: bool) -> Option<(String, Vec<u8>)> {
        let (status, head) = head_of(&self.inbox)?;
        let end = head.len();
        let head = std::str::from_utf8(head).expect("a head is ASCII").to_owned();
        let len = match status {
            _ if to_head => 0,
            100..200 | 204 | 304 => 0,
            _ => {
                let lines = head.lines().filter_map(|line| line.split_once(": "));
                let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
                let (_, len) = lengths.next().expect("a length");
                assert_eq!(lengths.next(), None, "two lengths: {head}");
                len.parse().expect("digits")
            }
        };
        let body = self.inbox.get(end..end + len)?.to_vec();
        self.inbox.drain(..end + len);
        self.status = Some(status);
        Some((head, body))
    }

    /// Up to `most` bytes of what was read.
    pub(crate) fn take(&mut self, most: usize) -> Vec<u8> {
        let most = most.min(self.inbox.len());
        self.inbox.drain(..most).collect()
    }

    /// The status of the server's HTTP response, once it was read.
    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }

    /// Bytes that were read and are no frame: a piece of one, or the body of an HTTP response.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.inbox
    }

    /// Everything was read, and FIN or RST came behind it.
    pub(crate) fn at_end(&self) -> bool {
        let mut network = self.network.lock();
        while network.arrive(self.end) {}
        let half = network.half(self.end);
        half.arrived.is_empty() && half.bytes_in_flight == 0 && (half.fin_arrived || half.reset)
    }

    /// The server's end is closed.
    pub(crate) fn is_dropped(&self) -> bool {
        self.of(self.server(), |half| half.dropped)
    }

    /// The server closed while input was unread.
    pub(crate) fn was_aborted(&self) -> bool {
        self.of(self.server(), |half| half.probe.aborted)
    }

    /// Bytes written by the server and not read by the peer.
    pub(crate) fn unread(&self) -> usize {
        self.of(self.end, |half| half.bytes_in_flight + half.arrived.len())
    }

    /// Bytes written by the peer and not read by the server.
    pub(crate) fn pending(&self) -> usize {
        let mut network = self.network.lock();
        let unsaid = network.peers[self.number].unsaid.len();
        let half = network.half(self.server());
        unsaid + half.bytes_in_flight + half.arrived.len()
    }

    /// Reads and writes of the server so far.
    pub(crate) fn calls(&self) -> (usize, usize) {
        self.of(self.server(), |half| (half.probe.read_calls, half.probe.write_calls))
    }

    /// Bytes read and written by the server so far.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        self.of(self.server(), |half| (half.probe.bytes_read, half.probe.bytes_written))
    }

    /// The server's end of this connection will fail.
    pub(crate) fn will_fail(&self, fault: Fault) {
        self.of(self.server(), |half| half.probe.fault = Some(fault));
    }

    /// Whether it has not failed yet.
    pub(crate) fn is_to_fail(&self) -> bool {
        self.of(self.server(), |half| half.probe.fault.is_some())
    }
}

/// A client's frame.
pub(crate) fn masked(opcode: OpCode, fin: bool, payload: &[u8], key: u8) -> Vec<u8> {
    frame::masked(opcode, fin, payload, [key, 1, key ^ 0x5a, 0x80])
}
