//! The simulated peer of a connection. It answers pings and close frames as a browser does. A
//! paused peer reads nothing; a test may read its bytes and reply to them instead.

use std::{
    collections::VecDeque,
    mem,
    net::{Ipv4Addr, SocketAddr},
};

use tungstenite::{
    handshake::derive_accept_key,
    protocol::frame::coding::{Control, OpCode},
};

#[cfg(feature = "tls")]
use super::secure::PeerTls;
use super::{
    EndId, Network,
    frame::{Frame, Inbox, close_body, masked},
};

/// Input of a simulated client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Received {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// The server's reply to a ping of this client.
    Pong(Vec<u8>),
    /// A close frame. The client has replied with a close frame, unless it sent one before.
    Close {
        /// 1005 if the frame had no code (RFC 6455 §7.1.5).
        code: u16,
        /// The reason, often empty.
        reason: String,
    },
    /// The server sent FIN, and the client has replied with FIN.
    End,
    /// The connection was refused or reset. Bytes in flight are lost.
    Reset,
}

#[derive(Debug, Default)]
pub(crate) struct SimPeer {
    pub(super) end: EndId,
    /// The client's end of TLS; `None` if its host is not encrypted.
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Box<PeerTls>>,
    /// Bytes that wait for room in the network.
    pub(super) unsent: VecDeque<u8>,
    /// FIN follows the unsent bytes.
    fin_queued: bool,
    pub(crate) inbox: Inbox,
    /// Frames that wait for the server's 101.
    queued_before_101: Vec<u8>,
    /// FIN follows the frames that wait for the 101.
    fin_before_101: bool,
    /// The key that a 101 has to accept; `None` if the test wrote the request itself.
    accept: Option<String>,
    /// The head of the response.
    pub(crate) head: String,
    pub(crate) received: Vec<Received>,
    paused: bool,
    close_sent: bool,
    pub(crate) ended: bool,
}

impl Network {
    /// Adds a client that connects to `host`.
    pub(crate) fn add_client(&mut self, host: usize) -> usize {
        let ip = Ipv4Addr::from(0x0a01_0001 + self.peers.len() as u32);
        self.connect_client(host, SocketAddr::from((ip, self.next_port())))
    }

    /// Adds a client that connects to `host` from this address.
    pub(super) fn connect_client(&mut self, host: usize, from: SocketAddr) -> usize {
        // No host has this address: the connection is refused.
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let link = self.link(from, self.hosts.get(host).map_or(nowhere, |host| host.addr));
        let number = self.add_peer((link, 0));
        #[cfg(feature = "tls")]
        if self.hosts.get(host).is_some_and(|host| host.is_tls) {
            self.peer(number).tls = Some(Box::new(PeerTls::new()));
            // Sends the hello.
            self.send(number, &[]);
        }
        number
    }

    pub(super) fn add_peer(&mut self, end: EndId) -> usize {
        let number = self.peers.len();
        self.half(end).peer = Some(number);
        self.peers.push(SimPeer { end, ..SimPeer::default() });
        number
    }

    pub(crate) fn peer(&mut self, number: usize) -> &mut SimPeer {
        &mut self.peers[number]
    }

    pub(crate) fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill(&mut bytes);
        bytes
    }

    // ---- from the peer to the server ----

    /// Sends an opening handshake (RFC 6455 §4.1).
    pub(crate) fn request_upgrade(&mut self, peer: usize, path: &str, headers: &[(&str, &str)]) {
        let key = data_encoding::BASE64.encode(&self.random::<16>());
        let host = self.links[self.peers[peer].end.0].addr;
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{headers}\r\n"
        );
        self.peer(peer).accept = Some(derive_accept_key(key.as_bytes()));
        self.send(peer, head.as_bytes());
    }

    pub(crate) fn send(&mut self, peer: usize, bytes: &[u8]) {
        let SimPeer {
            end,
            unsent,
            ended,
            fin_queued,
            #[cfg(feature = "tls")]
            tls,
            ..
        } = self.peer(peer);
        if *ended || *fin_queued {
            return;
        }
        #[cfg(feature = "tls")]
        match tls {
            Some(tls) => unsent.extend(tls.seal(bytes)),
            None => unsent.extend(bytes),
        }
        #[cfg(not(feature = "tls"))]
        unsent.extend(bytes);
        let end = *end;
        self.send_unsent(end);
    }

    /// Sends a frame, or queues it until the server's 101.
    pub(crate) fn send_frame(&mut self, peer: usize, opcode: OpCode, payload: &[u8]) {
        // No frame follows a close frame (RFC 6455 §5.5.1).
        if self.peer(peer).close_sent {
            return;
        }
        self.peer(peer).close_sent = opcode == OpCode::Control(Control::Close);
        let bytes = masked(opcode, true, payload, self.random());
        match self.peer(peer).inbox.status {
            Some(101) => self.send(peer, &bytes),
            Some(_) => {}
            None => self.peer(peer).queued_before_101.extend(bytes),
        }
    }

    pub(crate) fn send_close(&mut self, peer: usize, code: u16, reason: &str) {
        self.send_frame(peer, OpCode::Control(Control::Close), &close_body(code, reason));
    }

    /// Sends FIN behind everything queued.
    pub(crate) fn send_fin(&mut self, peer: usize) {
        let SimPeer { end, inbox, queued_before_101, fin_before_101, .. } = self.peer(peer);
        if inbox.status.is_none() && !queued_before_101.is_empty() {
            *fin_before_101 = true;
            return;
        }
        let end = *end;
        #[cfg(feature = "tls")]
        if let SimPeer { tls: Some(tls), fin_queued: false, unsent, .. } = self.peer(peer) {
            unsent.extend(tls.end());
        }
        self.peer(peer).fin_queued = true;
        self.send_unsent(end);
    }

    pub(crate) fn reset_peer(&mut self, peer: usize) {
        self.reset_link(self.peers[peer].end.0);
    }

    /// Sends as many of the peer's unsent bytes as there is room for.
    pub(super) fn send_unsent(&mut self, writer: EndId) {
        let Some(peer) = self.half(writer).peer else { return };
        let room = self.links[writer.0].room(writer.1);
        let SimPeer { unsent, fin_queued, .. } = self.peer(peer);
        let count = unsent.len().min(room);
        let bytes: Vec<u8> = unsent.drain(..count).collect();
        let sends_fin = *fin_queued && unsent.is_empty();
        let half = self.half(writer);
        if half.reset || half.fin_sent {
            return;
        }
        self.post_bytes((writer.0, 1 - writer.1), &bytes);
        if sends_fin {
            self.finish(writer);
        }
    }

    // ---- from the server to the peer ----

    /// Passes the input that arrived at an end to the peer there, unless the peer is paused.
    pub(super) fn deliver(&mut self, end: EndId) {
        let half = self.half(end);
        let Some(peer) = half.peer else { return };
        (half.readable_edge, half.writable_edge) = (false, false);
        if self.peer(peer).paused || self.peer(peer).ended {
            return;
        }
        let half = self.half(end);
        let arrived = mem::take(&mut half.arrived);
        let (fin_arrived, reset) = (half.fin_arrived, half.reset);
        let arrived = self.decrypted(peer, arrived);
        self.peer(peer).inbox.bytes.extend(arrived);
        self.make_room(end);
        self.process_inbox(peer);
        // A reply of the peer may have met a reset, which is then reported already.
        if self.peer(peer).ended {
            return;
        }
        let last = if reset {
            Received::Reset
        } else if fin_arrived {
            self.peer(peer).queued_before_101.clear();
            self.send_fin(peer);
            Received::End
        } else {
            return;
        };
        self.peer(peer).received.push(last);
        self.peer(peer).ended = true;
    }

    /// The plaintext of what has arrived.
    #[cfg(feature = "tls")]
    fn decrypted(&mut self, peer: usize, arrived: VecDeque<u8>) -> VecDeque<u8> {
        let SimPeer { tls, unsent, fin_queued, end, .. } = self.peer(peer);
        let Some(tls) = tls else { return arrived };
        let (plaintext, reply) = tls.open(&Vec::from(arrived));
        if !*fin_queued && !reply.is_empty() {
            unsent.extend(reply);
            let end = *end;
            self.send_unsent(end);
        }
        plaintext.into()
    }

    #[cfg(not(feature = "tls"))]
    fn decrypted(&mut self, _: usize, arrived: VecDeque<u8>) -> VecDeque<u8> {
        arrived
    }

    /// Reports all complete frames, and replies to them afterwards: a reply may meet a reset, which
    /// is reported behind the frames.
    fn process_inbox(&mut self, peer: usize) {
        self.peer(peer).read_head();
        if self.peer(peer).inbox.status.is_some() {
            let queued = mem::take(&mut self.peer(peer).queued_before_101);
            if self.peer(peer).inbox.status == Some(101) {
                self.send(peer, &queued);
            }
            if mem::take(&mut self.peer(peer).fin_before_101) {
                self.send_fin(peer);
            }
        }
        let frames = self.peer(peer).inbox.take_frames(|_| None);
        self.peer(peer).received.extend(frames.iter().cloned().filter_map(Received::from_frame));
        for frame in frames {
            match frame {
                Frame::Ping(body) => self.send_frame(peer, OpCode::Control(Control::Pong), &body),
                Frame::Close(code, reason) => self.send_close(peer, code, &reason),
                _ => {}
            }
        }
    }

    // ---- the peer's socket ----

    pub(crate) fn set_paused(&mut self, peer: usize, paused: bool) {
        self.peer(peer).paused = paused;
        if !paused {
            self.deliver(self.peers[peer].end);
        }
    }

    /// Closes the peer's socket.
    pub(crate) fn close_socket(&mut self, peer: usize) {
        let SimPeer { unsent, ended, end, fin_queued, .. } = self.peer(peer);
        (*fin_queued, *ended) = (true, true);
        unsent.clear();
        let end = *end;
        self.drop_end(end);
    }
}

impl SimPeer {
    fn read_head(&mut self) {
        if self.inbox.status.is_some() {
            return;
        }
        let Some(head) = self.inbox.take_head() else { return };
        // The application's headers may be in any encoding.
        self.head = String::from_utf8_lossy(&head).into_owned();
        if let (Some(101), Some(accept)) = (self.inbox.status, &self.accept) {
            let accepts = |line: &str| {
                let (name, value) = line.split_once(':').unwrap_or_default();
                name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == accept
            };
            assert!(self.head.lines().any(accepts), "tickws accepts another key: {}", self.head);
        }
    }
}

impl Received {
    /// `None` for a ping: the peer replies to it and does not report it.
    fn from_frame(frame: Frame) -> Option<Received> {
        Some(match frame {
            Frame::Text(text) => Received::Text(text),
            Frame::Binary(bytes) => Received::Binary(bytes),
            Frame::Pong(body) => Received::Pong(body),
            Frame::Ping(_) => return None,
            Frame::Close(code, reason) => Received::Close { code, reason },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        panic::{AssertUnwindSafe, catch_unwind},
        time::{Duration, Instant},
    };

    use crate::net::sim::{NetworkConditions, Shared, SimSocket};

    /// A client, and the server's socket, from which the request was read.
    fn pair() -> (Shared, usize, SimSocket) {
        let shared = Shared::new(1, NetworkConditions::calm(), Instant::now());
        let mut network = shared.lock();
        let host = network.add_host();
        let peer = network.add_client(host);
        network.request_upgrade(peer, "/", &[]);
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

    fn send(shared: &Shared, socket: &mut SimSocket, bytes: &[u8]) {
        assert_eq!(socket.write(bytes).expect("room"), bytes.len());
        shared.lock().advance(Duration::ZERO);
    }

    #[test]
    fn illegal_frames_of_a_server_panic() {
        let close = b"\x88\x02\x03\xe8";
        for (what, legal, bytes) in [
            ("a message", true, &b"\x81\x01a"[..]),
            ("two messages and a close", true, b"\x81\x01a\x82\x01\xff\x88\x02\x03\xe8"),
            ("an empty close", true, b"\x88\x00"),
            ("a private close code", true, b"\x88\x02\x0f\xa0"),
            ("half a close code", false, b"\x88\x01\x03"),
            ("a reserved close code", false, b"\x88\x02\x03\xed"),
            ("an unused close code", false, b"\x88\x02\x00\x01"),
            ("a second close", false, &[&close[..], close].concat()),
            ("a message after a close", false, &[&close[..], b"\x81\x01a"].concat()),
            ("a continuation without a message", false, b"\x80\x01a"),
            ("a fragmented message", false, b"\x01\x01a"),
            ("RSV1 without an extension", false, b"\xc1\x01a"),
            ("a masked frame", false, b"\x81\x81\0\0\0\0a"),
            ("a reserved opcode", false, b"\x83\x00"),
            ("a ping of 126 bytes", false, b"\x89\x7e\x00\x7e"),
            ("a text that is not UTF-8", false, b"\x81\x01\xff"),
            ("a reason that is not UTF-8", false, b"\x88\x03\x03\xe8\xff"),
        ] {
            let (shared, peer, mut socket) = pair();
            let head = accept(&shared, peer);
            send(&shared, &mut socket, head.as_bytes());
            let outcome = catch_unwind(AssertUnwindSafe(|| send(&shared, &mut socket, bytes)));
            assert_eq!(outcome.is_ok(), legal, "{what}");
        }
    }

    #[test]
    fn response_to_another_key_panics() {
        let (shared, _, mut socket) = pair();
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert!(catch_unwind(AssertUnwindSafe(|| send(&shared, &mut socket, head.as_bytes()))).is_err());
    }
}
