//! The simulated peer of a connection. By itself it answers pings and close frames as a browser
//! does; one that stalls reads nothing, and a test may take its bytes and play it instead.

use std::{
    collections::VecDeque,
    mem,
    net::{Ipv4Addr, SocketAddr},
};

use tungstenite::{
    handshake::derive_accept_key,
    protocol::frame::coding::{Control, OpCode},
};

use super::{
    EndId, Network,
    frame::{Frame, head_of, masked},
};

/// Something that a simulated client has received.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Received {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// The answer to a ping of its own.
    Pong(Vec<u8>),
    /// A close frame; it has been answered unless it was the answer.
    Close {
        /// 1005 if there was none (RFC 6455 §7.1.5).
        code: u16,
        /// Why, often empty.
        reason: String,
    },
    /// The server has hung up (FIN), and so has the client now.
    End,
    /// The connection was refused, or is reset: what was on its way is lost.
    Reset,
}

#[derive(Debug)]
pub(super) struct SimPeer {
    pub(super) end: EndId,
    /// Bytes that the network has not taken yet.
    pub(super) unsaid: VecDeque<u8>,
    /// FIN follows the unsaid bytes.
    pub(super) wants_end: bool,
    /// Bytes received that are no whole frame yet.
    inbox: Vec<u8>,
    /// Frames that wait for the server's 101.
    early: Vec<u8>,
    ends_early: bool,
    /// The key that a 101 has to accept; `None` if the request was the test's own.
    accept: Option<String>,
    status: Option<u16>,
    head: String,
    heard: Vec<Received>,
    stalls: bool,
    says_close: bool,
    hears_close: bool,
    over: bool,
}

impl Network {
    /// A client connects to `host`.
    pub(crate) fn add_client(&mut self, host: usize) -> usize {
        let ip = Ipv4Addr::from(0x0a01_0001 + self.peers.len() as u32);
        self.connect_client(host, SocketAddr::from((ip, self.next_port())))
    }

    /// A client connects to `host` from this address.
    pub(super) fn connect_client(&mut self, host: usize, from: SocketAddr) -> usize {
        // Nobody listens there: the connection is refused.
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let link = self.link(from, self.hosts.get(host).map_or(nowhere, |host| host.addr));
        self.add_peer((link, 0))
    }

    pub(super) fn add_peer(&mut self, end: EndId) -> usize {
        let number = self.peers.len();
        self.half(end).peer = Some(number);
        self.peers.push(SimPeer {
            end,
            unsaid: VecDeque::new(),
            wants_end: false,
            inbox: Vec::new(),
            early: Vec::new(),
            ends_early: false,
            accept: None,
            status: None,
            head: String::new(),
            heard: Vec::new(),
            stalls: false,
            says_close: false,
            hears_close: false,
            over: false,
        });
        number
    }

    pub(crate) fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill(&mut bytes);
        bytes
    }

    // ---- to the server ----

    /// Asks for a WebSocket.
    pub(crate) fn ask(&mut self, peer: usize, path: &str, headers: &[(&str, &str)]) {
        let key = data_encoding::BASE64.encode(&self.random::<16>());
        let host = self.links[self.peers[peer].end.0].addr;
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{headers}\r\n"
        );
        self.peers[peer].accept = Some(derive_accept_key(key.as_bytes()));
        self.say(peer, head.as_bytes());
    }

    pub(crate) fn say(&mut self, peer: usize, bytes: &[u8]) {
        let SimPeer { end, unsaid, over, wants_end, .. } = &mut self.peers[peer];
        if *over || *wants_end {
            return;
        }
        unsaid.extend(bytes);
        let end = *end;
        self.say_more(end);
    }

    pub(crate) fn say_frame(&mut self, peer: usize, opcode: OpCode, payload: &[u8]) {
        // RFC 6455 §5.5.1: nothing follows a close frame.
        if self.peers[peer].says_close {
            return;
        }
        self.peers[peer].says_close = opcode == OpCode::Control(Control::Close);
        let bytes = masked(opcode, true, payload, self.random());
        match self.peers[peer].status {
            Some(101) => self.say(peer, &bytes),
            Some(_) => {}
            None => self.peers[peer].early.extend(bytes),
        }
    }

    pub(crate) fn say_end(&mut self, peer: usize) {
        // Behind what waits for the 101.
        let SimPeer { status, early, ends_early, .. } = &mut self.peers[peer];
        if status.is_none() && !early.is_empty() {
            *ends_early = true;
            return;
        }
        self.peers[peer].wants_end = true;
        self.say_more(self.peers[peer].end);
    }

    pub(crate) fn say_reset(&mut self, peer: usize) {
        self.reset_link(self.peers[peer].end.0);
    }

    /// Sends as many of the peer's unsaid bytes as there is room for.
    pub(super) fn say_more(&mut self, writer: EndId) {
        let Some(peer) = self.half(writer).peer else { return };
        let room = self.links[writer.0].room(writer.1);
        let SimPeer { unsaid, wants_end, .. } = &mut self.peers[peer];
        let count = unsaid.len().min(room);
        let bytes: Vec<u8> = unsaid.drain(..count).collect();
        let ends = *wants_end && unsaid.is_empty();
        let half = self.half(writer);
        if half.reset || half.fin_sent {
            return;
        }
        self.post_bytes((writer.0, 1 - writer.1), &bytes);
        if ends {
            self.finish(writer);
        }
    }

    // ---- from the server ----

    /// Something has arrived at an end; if a client is there, it hears it.
    pub(super) fn hear(&mut self, end: EndId) {
        let half = self.half(end);
        let Some(peer) = half.peer else { return };
        (half.readable_edge, half.writable_edge) = (false, false);
        let Network { links, peers, .. } = self;
        if peers[peer].stalls || peers[peer].over {
            return;
        }
        let half = &mut links[end.0].halves[end.1];
        let arrived = mem::take(&mut half.arrived);
        let (ends, breaks) = (half.fin_arrived, half.reset);
        self.peers[peer].inbox.extend(arrived);
        self.make_room(end);
        self.understand(peer);
        // An answer of its own has met a reset.
        if self.peers[peer].over {
            return;
        }
        let heard = if breaks {
            Received::Reset
        } else if ends {
            self.peers[peer].early.clear();
            self.say_end(peer);
            Received::End
        } else {
            return;
        };
        self.peers[peer].heard.push(heard);
        self.peers[peer].over = true;
    }

    /// Takes the whole frames out of the inbox, and then answers those that want one: an answer may
    /// meet a reset, and that is heard behind what was here before.
    fn understand(&mut self, peer: usize) {
        self.peers[peer].read_head();
        if self.peers[peer].status.is_some() {
            let early = mem::take(&mut self.peers[peer].early);
            if self.peers[peer].status == Some(101) {
                self.say(peer, &early);
            }
            if mem::take(&mut self.peers[peer].ends_early) {
                self.say_end(peer);
            }
        }
        for (control, payload) in self.peers[peer].read_frames() {
            self.say_frame(peer, OpCode::Control(control), &payload);
        }
    }

    // ---- for its owner ----

    pub(crate) fn stall(&mut self, peer: usize, stalls: bool) {
        self.peers[peer].stalls = stalls;
        if !stalls {
            self.hear(self.peers[peer].end);
        }
    }

    pub(crate) fn heard(&mut self, peer: usize) -> Vec<Received> {
        mem::take(&mut self.peers[peer].heard)
    }

    pub(crate) fn status(&self, peer: usize) -> Option<u16> {
        self.peers[peer].status
    }

    pub(crate) fn response_head(&self, peer: usize) -> String {
        self.peers[peer].head.clone()
    }

    /// The bytes behind a head that opens no WebSocket.
    pub(crate) fn body(&mut self, peer: usize) -> Vec<u8> {
        match self.peers[peer].status {
            Some(101) => Vec::new(),
            _ => mem::take(&mut self.peers[peer].inbox),
        }
    }

    pub(crate) fn is_over(&self, peer: usize) -> bool {
        self.peers[peer].over
    }

    /// The client's socket is closed.
    pub(crate) fn hang_up(&mut self, peer: usize) {
        let SimPeer { unsaid, over, end, wants_end, .. } = &mut self.peers[peer];
        (*wants_end, *over) = (true, true);
        unsaid.clear();
        let end = *end;
        self.drop_end(end);
    }
}

impl SimPeer {
    fn read_head(&mut self) {
        if self.status.is_some() {
            return;
        }
        let Some((status, head)) = head_of(&self.inbox) else { return };
        self.status = Some(status);
        // The application's headers may be in any encoding.
        self.head = String::from_utf8_lossy(head).into_owned();
        self.inbox.drain(..head.len());
        if let (101, Some(accept)) = (status, &self.accept) {
            let accepts = |line: &str| {
                let (name, value) = line.split_once(':').unwrap_or_default();
                name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == accept
            };
            assert!(self.head.lines().any(accepts), "tickws accepts another key: {}", self.head);
        }
    }

    /// Hears all whole frames; gives the answers to them.
    fn read_frames(&mut self) -> Vec<(Control, Vec<u8>)> {
        let (mut at, mut answers) = (0, Vec::new());
        while self.status == Some(101)
            && let Some((frame, size)) = Frame::read(&self.inbox[at..], None)
        {
            assert!(!self.hears_close, "tickws sends {frame:?} behind its close frame");
            at += size;
            let heard = match frame {
                Frame::Text(text) => Received::Text(text),
                Frame::Binary(bytes) => Received::Binary(bytes),
                Frame::Pong(body) => Received::Pong(body),
                Frame::Ping(body) => {
                    answers.push((Control::Pong, body));
                    continue;
                }
                Frame::Close(code, reason) => {
                    let body = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
                    answers.push((Control::Close, if code == 1005 { Vec::new() } else { body }));
                    self.hears_close = true;
                    Received::Close { code, reason }
                }
            };
            self.heard.push(heard);
        }
        self.inbox.drain(..at);
        answers
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        panic::{AssertUnwindSafe, catch_unwind},
        time::{Duration, Instant},
    };

    use crate::net::sim::{Shared, SimSocket, Weather};

    /// A server of the test's own, and a client whose request it has read.
    fn pair() -> (Shared, usize, SimSocket) {
        let shared = Shared::new(1, Weather::calm(), Instant::now());
        let mut network = shared.lock();
        let host = network.add_host();
        let peer = network.add_client(host);
        network.ask(peer, "/", &[]);
        network.advance(Duration::ZERO);
        let (id, _) = network.accept(host).expect("a client");
        drop(network);
        let mut socket = SimSocket::new(&shared, id);
        let read = socket.read(&mut [0; 1000]).expect("a request");
        assert!(read > 100);
        (shared, peer, socket)
    }

    fn accept(shared: &Shared, peer: usize) -> String {
        let accept = shared.lock().peers[peer].accept.clone().expect("a key");
        format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n\r\n")
    }

    fn say(shared: &Shared, socket: &mut SimSocket, bytes: &[u8]) {
        assert_eq!(socket.write(bytes).expect("room"), bytes.len());
        shared.lock().advance(Duration::ZERO);
    }

    #[test]
    fn what_no_server_may_send_is_not_hidden() {
        let close = b"\x88\x02\x03\xe8";
        for (what, legal, bytes) in [
            ("a message", true, &b"\x81\x01a"[..]),
            ("two messages and a close", true, b"\x81\x01a\x82\x01\xff\x88\x02\x03\xe8"),
            ("an empty close", true, b"\x88\x00"),
            ("a code of its own", true, b"\x88\x02\x0f\xa0"),
            ("half a close code", false, b"\x88\x01\x03"),
            ("a close code that is never sent", false, b"\x88\x02\x03\xed"),
            ("a close code of nobody", false, b"\x88\x02\x00\x01"),
            ("a second close", false, &[&close[..], close].concat()),
            ("a message behind a close", false, &[&close[..], b"\x81\x01a"].concat()),
            ("the end of a message that has not begun", false, b"\x80\x01a"),
            ("the beginning of a message", false, b"\x01\x01a"),
            ("a bit of no extension", false, b"\xc1\x01a"),
            ("a masked frame", false, b"\x81\x81\0\0\0\0a"),
            ("a reserved opcode", false, b"\x83\x00"),
            ("a long ping", false, b"\x89\x7e\x00\x7e"),
            ("a text that is none", false, b"\x81\x01\xff"),
            ("a reason that is none", false, b"\x88\x03\x03\xe8\xff"),
        ] {
            let (shared, peer, mut socket) = pair();
            let head = accept(&shared, peer);
            say(&shared, &mut socket, head.as_bytes());
            let outcome = catch_unwind(AssertUnwindSafe(|| say(&shared, &mut socket, bytes)));
            assert_eq!(outcome.is_ok(), legal, "{what}");
        }
    }

    #[test]
    fn an_answer_to_another_key_is_not_hidden() {
        let (shared, _, mut socket) = pair();
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert!(catch_unwind(AssertUnwindSafe(|| say(&shared, &mut socket, head.as_bytes()))).is_err());
    }
}
