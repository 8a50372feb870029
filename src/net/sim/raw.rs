//! A peer that a test controls byte by byte. It parses the server's bytes only when the test reads
//! them, and panics if a frame is illegal.

use std::{fmt, mem, net::SocketAddr, time::Duration};

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{
    EndId, NetworkConditions, Shared, SimSocket,
    deflate::PeerDeflate,
    frame::{self, Frame, Inbox, close_body, parse_head},
    link::{Half, Segment},
    probe::Fault,
};

/// The result of connecting to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Outcome {
    #[default]
    Connects,
    /// The connection is refused after a round trip.
    Refused,
    /// The call to connect fails.
    Unreachable,
    /// The connection is neither established nor refused.
    Silence,
}

impl NetworkConditions {
    /// Everything that TCP and the kernel may do, at once.
    pub(crate) const fn harsh() -> Self {
        NetworkConditions {
            latency: Duration::ZERO..=Self::STEP,
            short_reads: 40,
            late_readiness: 35,
            spurious_readiness: 3,
            buffer: 256 * 1024,
            ..NetworkConditions::foul()
        }
    }

    /// The longest time that should pass between two polls in harsh conditions.
    pub(crate) const STEP: Duration = Duration::from_millis(20);
}

/// A paused [`SimPeer`](super::peer::SimPeer) whose bytes the test reads and sends.
pub(crate) struct Peer {
    network: Shared,
    number: usize,
    end: EndId,
    pub(crate) port: u16,
    /// Bytes that were read and not parsed yet.
    inbox: Inbox,
    key: u8,
    /// Whether the handshake offers compression.
    pub(crate) offers: bool,
    /// The compression that the server's response agreed to.
    pub(crate) deflate: Option<PeerDeflate>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (port, Inbox { bytes, status, close_received }) = (self.port, &self.inbox);
        let unparsed = bytes.len();
        write!(
            f,
            "Peer {{ port: {port}, status: {status:?}, closed: {close_received}, unparsed: {unparsed} }}"
        )
    }
}

impl Peer {
    fn new(network: &Shared, number: usize, port: u16) -> Self {
        let mut net = network.lock();
        net.set_paused(number, true);
        let end = net.peer(number).end;
        let (network, inbox) = (network.clone(), Inbox::default());
        Peer { network, number, end, port, inbox, key: 0, offers: false, deflate: None }
    }

    /// Connects to a host, from this port.
    pub(crate) fn connect(network: &Shared, host: usize, port: u16) -> Self {
        let number = network.lock().connect_client(host, ([127, 0, 0, 1], port).into());
        Peer::new(network, number, port)
    }

    /// Connects a host to `addr` with this outcome. If it [`Connects`](Outcome::Connects), a peer
    /// with this `port` accepts.
    pub(crate) fn accept(
        network: &Shared,
        (host, token): (usize, usize),
        addr: SocketAddr,
        outcome: Outcome,
        port: u16,
    ) -> (SimSocket, Option<Peer>) {
        let mut net = network.lock();
        let end = (net.add_link(addr), 0);
        net.watch(host, end, token);
        match outcome {
            Outcome::Connects => net.post(end, Segment::Connected),
            Outcome::Refused => net.post(end, Segment::Refused),
            Outcome::Unreachable | Outcome::Silence => {}
        }
        let number = (outcome == Outcome::Connects).then(|| net.add_peer((end.0, 1)));
        drop(net);
        (SimSocket::new(network, end), number.map(|number| Peer::new(network, number, port)))
    }

    /// The server's end.
    fn server(&self) -> EndId {
        (self.end.0, 1 - self.end.1)
    }

    fn server_half<T>(&self, get: impl FnOnce(&mut Half) -> T) -> T {
        get(self.network.lock().half(self.server()))
    }

    // ---- from the peer to the server ----

    pub(crate) const REQUEST: &str = "GET /chat?room=1 HTTP/1.1\r\nHost: a.example\r\n\
        Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    pub(crate) fn handshake(&mut self) {
        self.raw(self.request().as_bytes());
    }

    /// The request that `handshake` sends.
    pub(crate) fn request(&self) -> String {
        let offer = if self.offers { PeerDeflate::OFFER } else { "" };
        format!("{}\r\n{offer}\r\n", Self::REQUEST.trim_end())
    }

    pub(crate) fn raw(&self, bytes: &[u8]) {
        self.network.lock().send(self.number, bytes);
    }

    /// Sends one masked frame.
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
        self.frame(OpCode::Control(Control::Close), true, &close_body(code, ""));
    }

    /// Sends FIN, and can still read.
    pub(crate) fn fin(&self) {
        self.network.lock().send_fin(self.number);
    }

    /// Closes the socket: sends FIN behind everything queued, and RST when more bytes arrive.
    pub(crate) fn close_socket(&self) {
        let mut network = self.network.lock();
        let half = network.half(self.end);
        half.dropped = true;
        half.arrived.clear();
        network.send_fin(self.number);
    }

    /// Sends RST: all bytes in flight are lost. `purge` discards also the input that the server has
    /// not read yet.
    pub(crate) fn reset(&self, purge: bool) {
        let mut network = self.network.lock();
        network.reset_peer(self.number);
        network.peer(self.number).unsent.clear();
        for end in [self.end, self.server()] {
            let half = network.half(end);
            half.in_flight.clear();
            half.bytes_in_flight = 0;
            if end == self.end || purge {
                half.arrived.clear();
            }
        }
    }

    /// Sets the sizes of the kernel's buffers on the server's side.
    pub(crate) fn set_buffers(&self, receive: usize, send: usize) {
        let mut network = self.network.lock();
        for (end, size) in [(self.server(), receive), (self.end, send)] {
            network.half(end).buffer = size;
            network.make_room(end);
        }
    }

    // ---- from the server to the peer ----

    /// Reads up to `most` bytes that have arrived, and returns their number.
    pub(crate) fn read(&mut self, most: usize) -> usize {
        let mut network = self.network.lock();
        while network.arrive(self.end) {}
        let arrived = &mut network.half(self.end).arrived;
        let count = arrived.len().min(most);
        self.inbox.bytes.extend(arrived.drain(..count));
        network.make_room(self.end);
        count
    }

    /// Reads everything that has arrived, and returns it unparsed.
    pub(crate) fn take_all(&mut self) -> Vec<u8> {
        self.read(usize::MAX);
        mem::take(&mut self.inbox.bytes)
    }

    /// Reads everything that has arrived, and returns the complete frames. Panics if one is
    /// illegal.
    pub(crate) fn frames(&mut self) -> Vec<Frame> {
        self.read(usize::MAX);
        self.parse()
    }

    /// Returns the complete frames of the bytes that were read. Panics if one is illegal.
    pub(crate) fn parse(&mut self) -> Vec<Frame> {
        if self.inbox.status.is_none() {
            let Some(head) = self.take_head() else { return vec![] };
            if self.offers {
                self.deflate = PeerDeflate::from_response(&head);
            }
        }
        let Peer { inbox, deflate, .. } = self;
        inbox.take_frames(|payload| Some(deflate.as_mut()?.inflate(payload)))
    }

    fn take_head(&mut self) -> Option<String> {
        Some(String::from_utf8(self.inbox.take_head()?).expect("a head is ASCII"))
    }

    /// Returns the head and the body of the next response of the bytes that were read, if it is
    /// complete. Frames follow a 101. A response to HEAD has no body, whatever length it names (RFC
    /// 9112 §6.3).
    pub(crate) fn response(&mut self, to_head: bool) -> Option<(String, Vec<u8>)> {
        let (status, end) = parse_head(&self.inbox.bytes)?;
        let len = match status {
            _ if to_head => 0,
            100..200 | 204 | 304 => 0,
            _ => {
                let head = std::str::from_utf8(&self.inbox.bytes[..end]).expect("a head is ASCII");
                let lines = head.lines().filter_map(|line| line.split_once(": "));
                let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
                let (_, len) = lengths.next().expect("a length");
                assert_eq!(lengths.next(), None, "two lengths: {head}");
                len.parse().expect("digits")
            }
        };
        if self.inbox.bytes.len() < end + len {
            return None;
        }
        Some((self.take_head()?, self.take(len)))
    }

    /// Returns up to `most` bytes of those that were read.
    pub(crate) fn take(&mut self, most: usize) -> Vec<u8> {
        let most = most.min(self.inbox.bytes.len());
        self.inbox.bytes.drain(..most).collect()
    }

    /// The status of the last response that was parsed.
    pub(crate) fn status(&self) -> Option<u16> {
        self.inbox.status
    }

    /// Bytes that were read and are not parsed: a piece of a frame, or the body of a response.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.inbox.bytes
    }

    /// Whether everything was read and FIN or RST followed it.
    pub(crate) fn at_end(&self) -> bool {
        let mut network = self.network.lock();
        while network.arrive(self.end) {}
        let half = network.half(self.end);
        half.arrived.is_empty() && half.bytes_in_flight == 0 && (half.fin_arrived || half.reset)
    }

    /// Whether the server's socket is closed.
    pub(crate) fn is_dropped(&self) -> bool {
        self.server_half(|half| half.dropped)
    }

    /// Whether the server closed its socket while input was unread.
    pub(crate) fn was_aborted(&self) -> bool {
        self.server_half(|half| half.probe.aborted)
    }

    /// The number of bytes that the server has written and the peer has not read.
    pub(crate) fn unread(&self) -> usize {
        let mut network = self.network.lock();
        let half = network.half(self.end);
        half.bytes_in_flight + half.arrived.len()
    }

    /// The number of bytes that the peer has sent and the server has not read.
    pub(crate) fn pending(&self) -> usize {
        let unsent = self.network.lock().peer(self.number).unsent.len();
        self.server_half(|half| unsent + half.bytes_in_flight + half.arrived.len())
    }

    /// The number of reads and of writes of the server.
    pub(crate) fn calls(&self) -> (usize, usize) {
        let [reads, writes, _] = self.server_half(|half| half.probe.calls);
        (reads, writes)
    }

    /// The number of bytes that the server has read and written.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        self.server_half(|half| (half.probe.bytes_read, half.probe.bytes_written))
    }

    /// Makes a later call of the server on this connection fail.
    pub(crate) fn inject_fault(&self, fault: Fault) {
        self.server_half(|half| half.probe.fault = Some(fault));
    }

    /// Whether the injected fault has not occurred yet.
    pub(crate) fn has_pending_fault(&self) -> bool {
        self.server_half(|half| half.probe.fault.is_some())
    }
}

/// A frame of a client, with a masking key that depends on `key`.
pub(crate) fn masked(opcode: OpCode, fin: bool, payload: &[u8], key: u8) -> Vec<u8> {
    frame::masked(opcode, fin, payload, [key, 1, key ^ 0x5a, 0x80])
}
