//! The other end of a simulated connection: speaks WebSocket, and checks that the server does.

use std::{cell::RefCell, io::Read, rc::Rc};

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{Link, wire::StreamSlot};
use crate::proto::frame::{self, Header};

/// A frame from the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::engine) enum Frame {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// 1005 if the body was empty.
    Close(u16, String),
}

pub(in crate::engine) type Opcode = OpCode;

/// A WebSocket client without a will of its own.
#[derive(Debug)]
pub(in crate::engine) struct Peer {
    pub(super) link: Rc<RefCell<Link>>,
    pub(in crate::engine) port: u16,
    /// From the server, not parsed yet.
    inbox: Vec<u8>,
    status: Option<u16>,
    closed: bool,
    key: u8,
    /// It offers compression, and this is what came of it.
    pub(in crate::engine) offers: bool,
    pub(in crate::engine) wire: Option<StreamSlot>,
}

impl Peer {
    pub(super) fn new(link: Rc<RefCell<Link>>, port: u16) -> Self {
        let (inbox, status) = (Vec::new(), None);
        Peer { link, port, inbox, status, closed: false, key: 0, offers: false, wire: None }
    }

    // ---- to the server ----

    pub(in crate::engine) const HEAD: &str = "GET /chat?room=1 HTTP/1.1\r\nHost: a.example\r\n\
        Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    pub(in crate::engine) fn handshake(&mut self) {
        self.raw(self.head().as_bytes());
    }

    /// What `handshake` sends.
    pub(in crate::engine) fn head(&self) -> String {
        let offer = if self.offers { StreamSlot::OFFER } else { "" };
        format!("{}{offer}\r\n", Self::HEAD.trim_end_matches("\r\n\r\n").to_owned() + "\r\n")
    }

    pub(in crate::engine) fn raw(&self, bytes: &[u8]) {
        let mut link = self.link.borrow_mut();
        if !link.reset && !link.fin_flying {
            link.flying.extend(bytes);
        }
    }

    /// One masked frame.
    pub(in crate::engine) fn frame(&mut self, opcode: Opcode, fin: bool, payload: &[u8]) {
        self.key = self.key.wrapping_add(37);
        self.raw(&masked(opcode, fin, payload, self.key));
    }

    pub(in crate::engine) fn text(&mut self, text: &str) {
        self.frame(OpCode::Data(Data::Text), true, text.as_bytes());
    }

    pub(in crate::engine) fn binary(&mut self, bytes: &[u8]) {
        self.frame(OpCode::Data(Data::Binary), true, bytes);
    }

    pub(in crate::engine) fn ping(&mut self, body: &[u8]) {
        self.frame(OpCode::Control(Control::Ping), true, body);
    }

    pub(in crate::engine) fn pong(&mut self, body: &[u8]) {
        self.frame(OpCode::Control(Control::Pong), true, body);
    }

    pub(in crate::engine) fn close(&mut self, code: u16) {
        let body = if code == 1005 { Vec::new() } else { code.to_be_bytes().to_vec() };
        self.frame(OpCode::Control(Control::Close), true, &body);
    }

    /// All that is under way is there now, and not told of yet.
    pub(in crate::engine) fn arrive(&self) {
        self.link.borrow_mut().arrive(usize::MAX);
    }

    /// FIN; it goes on reading.
    pub(in crate::engine) fn fin(&self) {
        self.link.borrow_mut().fin_flying = true;
    }

    /// Closes the socket: FIN, and RST to whatever comes.
    pub(in crate::engine) fn hang_up(&self) {
        let mut link = self.link.borrow_mut();
        (link.fin_flying, link.gone) = (true, true);
        link.down.clear();
    }

    /// RST: what was under way is lost; `purge`: also what the server has not read yet.
    pub(in crate::engine) fn reset(&self, purge: bool) {
        let mut link = self.link.borrow_mut();
        link.reset();
        if purge {
            link.arrived.clear();
        }
    }

    /// The sizes of the kernel's buffers.
    pub(in crate::engine) fn windows(&self, receive: usize, send: usize) {
        let mut link = self.link.borrow_mut();
        (link.receive_window, link.send_window) = (receive, send);
    }

    // ---- from the server ----

    /// Takes up to `most` bytes off the wire.
    pub(in crate::engine) fn read(&mut self, most: usize) -> usize {
        let mut link = self.link.borrow_mut();
        let count = link.down.len().min(most);
        let start = self.inbox.len();
        self.inbox.resize(start + count, 0);
        link.down.read_exact(&mut self.inbox[start..]).expect("that many bytes");
        count
    }

    /// Reads everything, whatever it is.
    pub(in crate::engine) fn take_all(&mut self) -> Vec<u8> {
        self.read(usize::MAX);
        std::mem::take(&mut self.inbox)
    }

    /// Reads everything and gives the frames that are complete. Panics if one is illegal.
    pub(in crate::engine) fn frames(&mut self) -> Vec<Frame> {
        self.read(usize::MAX);
        self.parse()
    }

    /// The complete frames of what was read.
    pub(in crate::engine) fn parse(&mut self) -> Vec<Frame> {
        let mut at = 0;
        if self.status.is_none() {
            let Some(end) = self.inbox.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                return vec![];
            };
            let head = std::str::from_utf8(&self.inbox[..end]).expect("a head is ASCII");
            let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest[..3].parse().ok());
            self.status = Some(status.expect("an HTTP/1.1 response"));
            if self.offers {
                self.wire = StreamSlot::of(head);
            }
            at = end + 4;
        }
        let mut frames = Vec::new();
        while self.status == Some(101)
            && let Some((header, size)) = Header::parse(&self.inbox[at..]).expect("a legal header")
            && self.inbox.len() - at - size >= header.len as usize
        {
            assert!(!self.closed, "{header:?} after a close frame");
            assert!(header.fin && header.mask.is_none(), "{header:?}");
            let payload = &self.inbox[at + size..][..header.len as usize];
            at += size + payload.len();
            let frame = if header.rsv1 {
                assert!(matches!(header.opcode, OpCode::Data(_)));
                let wire = self.wire.as_mut().expect("it is agreed on");
                read_frame(header.opcode, &wire.inflate(payload))
            } else {
                read_frame(header.opcode, payload)
            };
            self.closed = matches!(frame, Frame::Close(..));
            frames.push(frame);
        }
        self.inbox.drain(..at);
        frames
    }

    /// The next HTTP answer of what was read, if it is whole: its head and its body. Frames follow a 101.
    /// `to_head`: it has no body, whatever length it names (RFC 9112 §6.3).
    pub(in crate::engine) fn answer(&mut self, to_head: bool) -> Option<(String, Vec<u8>)> {
        let end = self.inbox.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&self.inbox[..end]).expect("a head is ASCII").to_owned();
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest[..3].parse::<u16>().ok());
        let status = status.expect("an HTTP/1.1 answer");
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
    pub(in crate::engine) fn take(&mut self, most: usize) -> Vec<u8> {
        let most = most.min(self.inbox.len());
        self.inbox.drain(..most).collect()
    }

    /// Of the server's HTTP response, once it was read.
    pub(in crate::engine) fn status(&self) -> Option<u16> {
        self.status
    }

    /// What was read and is no frame yet: a piece of one, or the body of an HTTP answer.
    pub(in crate::engine) fn rest(&self) -> &[u8] {
        &self.inbox
    }

    /// Everything was read, and FIN or RST came behind it.
    pub(in crate::engine) fn at_end(&self) -> bool {
        let link = self.link.borrow();
        link.down.is_empty() && (link.fin_down || link.reset)
    }

    /// The server's end is gone.
    pub(in crate::engine) fn is_dropped(&self) -> bool {
        self.link.borrow().dropped
    }

    /// The server closed while input was unread.
    pub(in crate::engine) fn was_aborted(&self) -> bool {
        self.link.borrow().aborted
    }

    /// Written by the server and not read by the peer.
    pub(in crate::engine) fn unread(&self) -> usize {
        self.link.borrow().down.len()
    }

    /// Written by the peer and not read by the server.
    pub(in crate::engine) fn pending(&self) -> usize {
        let link = self.link.borrow();
        link.flying.len() + link.arrived.len()
    }

    /// Reads and writes of the server so far.
    pub(in crate::engine) fn calls(&self) -> (usize, usize) {
        let link = self.link.borrow();
        (link.read_calls, link.write_calls)
    }

    /// Bytes read and written by the server so far.
    pub(in crate::engine) fn traffic(&self) -> (u64, u64) {
        let link = self.link.borrow();
        (link.bytes_read, link.bytes_written)
    }
}

fn read_frame(opcode: OpCode, payload: &[u8]) -> Frame {
    match opcode {
        OpCode::Data(Data::Text) => Frame::Text(String::from_utf8(payload.to_vec()).expect("UTF-8")),
        OpCode::Data(Data::Binary) => Frame::Binary(payload.to_vec()),
        OpCode::Control(Control::Ping) => Frame::Ping(payload.to_vec()),
        OpCode::Control(Control::Pong) => Frame::Pong(payload.to_vec()),
        OpCode::Control(Control::Close) => match payload {
            [] => Frame::Close(1005, String::new()),
            [a, b, text @ ..] => Frame::Close(
                u16::from_be_bytes([*a, *b]),
                String::from_utf8(text.to_vec()).expect("a reason is UTF-8"),
            ),
            [_] => panic!("a close body of one byte"),
        },
        other => panic!("the server never sends {other:?}"),
    }
}

/// A client's frame.
pub(in crate::engine) fn masked(opcode: Opcode, fin: bool, payload: &[u8], key: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 14);
    frame::write_frame(&mut bytes, opcode, payload, Some([key, 1, key ^ 0x5a, 0x80]));
    if !fin {
        bytes[0] &= 0x7f;
    }
    bytes
}
