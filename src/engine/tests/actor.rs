//! One simulated user that acts at random, and a model of it: the messages it sent, which must be
//! delivered, and those queued for it, which must arrive.

use std::{collections::VecDeque, time::Instant};

use super::*;
use crate::{error::ProtocolError, net::sim::masked, util::test_rng::Rng};

/// How a user ended its side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    Close(u16),
    Garbage(ProtocolError),
    /// The user sent FIN, or closed its socket.
    Fin,
    Reset,
}

#[derive(Debug)]
pub(super) struct Actor {
    pub(super) peer: Peer,
    pub(super) id: Option<ClientId>,
    /// The time of its `Open`.
    pub(super) since: Option<Instant>,
    pub(super) reason: Option<CloseReason>,

    // ---- from the user to the server ----
    handshake_sent: bool,
    /// Messages that were sent whole before `ended`.
    pub(super) sent: Vec<(bool, Vec<u8>)>,
    pub(super) delivered: usize,
    pub(super) ended: Option<Ended>,
    pings: u32,
    /// Bytes that are held back, so that the user can stop in the middle of a frame.
    draft: Vec<u8>,
    /// The draft is the last byte of a message, not of a ping.
    draft_ends_message: bool,

    // ---- from the server to the user ----
    pub(super) queued: VecDeque<(bool, Vec<u8>)>,
    pub(super) got: usize,
    pub(super) reads: bool,
    pongs: Vec<u32>,
    pub(super) closed_with: Option<u16>,
    /// Its socket is closed, so that nothing is known about later messages.
    pub(super) socket_closed: bool,

    // ---- calls of the application ----
    pub(super) paused: bool,
    /// The server began to close: messages that arrive now are dropped.
    pub(super) closing: bool,
    pub(super) disconnected: bool,
}

impl Actor {
    pub(super) fn new(peer: Peer) -> Self {
        Actor {
            peer,
            id: None,
            since: None,
            reason: None,
            handshake_sent: false,
            sent: Vec::new(),
            delivered: 0,
            ended: None,
            pings: 0,
            draft: Vec::new(),
            draft_ends_message: false,
            queued: VecDeque::new(),
            got: 0,
            reads: true,
            pongs: Vec::new(),
            closed_with: None,
            socket_closed: false,
            paused: false,
            closing: false,
            disconnected: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.id.is_some() && self.reason.is_none()
    }

    /// Acts at random. `calm`: the action must lose no data.
    pub(super) fn act(&mut self, rng: &mut Rng, calm: bool) {
        if !self.handshake_sent {
            return self.send_handshake(rng, calm);
        }
        if self.ended.is_some() || self.peer.status() != Some(101) {
            return;
        }
        match rng.below(if calm { 100 } else { 110 }) {
            0..60 => self.message(rng),
            60..72 => self.ping(rng),
            72..76 => self.flush_draft(),
            76..78 => {
                let code = rng.pick(&[1000, 1001, 1005, 3000, 4999, 1014]);
                self.flush_draft();
                self.peer.close(code);
                self.ended = Some(Ended::Close(code));
            }
            78 => self.half_close(),
            79 => self.garbage(rng),
            80..100 => {}
            100..106 => self.reads = !self.reads,
            106 => {
                self.half_close();
                self.peer.close_socket();
                self.socket_closed = true;
            }
            107 => {
                // The last byte of a frame may be missing.
                self.half_close();
                self.reads = false;
            }
            _ => {
                self.peer.reset(rng.one_in(2));
                (self.ended, self.socket_closed) = (Some(Ended::Reset), true);
            }
        }
    }

    /// Completes what was begun and reads everything, but begins nothing new.
    pub(super) fn rest(&mut self) {
        self.reads = true;
        if self.handshake_sent {
            self.flush_draft();
        }
    }

    pub(super) fn finish(&mut self) {
        if self.ended.is_none() {
            self.half_close();
        }
    }

    fn send_handshake(&mut self, rng: &mut Rng, calm: bool) {
        self.handshake_sent = true;
        match rng.below(if calm { 1_000 } else { 20 }) {
            0 => self.peer.raw(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
            1 => self.peer.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
            2 => self.peer.raw(&self.peer.request().as_bytes()[..rng.below(Peer::REQUEST.len())]),
            3 => {
                self.peer.raw(&self.peer.request().as_bytes()[..rng.below(Peer::REQUEST.len())]);
                self.half_close();
            }
            _ => self.peer.handshake(),
        }
    }

    /// Sends a message in frames of random sizes, with pings between them.
    pub(super) fn message(&mut self, rng: &mut Rng) {
        let len = match rng.below(80) {
            0 => rng.below(100_000),
            1..6 => rng.below(5_000),
            6..20 => rng.below(300),
            _ => rng.below(20),
        };
        let is_text = rng.one_in(2);
        let tag = format!("{}:{}:", self.peer.port, self.sent.len());
        let body: Vec<u8> = if is_text {
            let filler = rng.pick(&["x", "ü", "語", "🦀"]);
            (tag + &filler.repeat(len / filler.len())).into_bytes()
        } else {
            let salt = rng.next() as u8;
            tag.into_bytes().into_iter().chain((0..len).map(|i| (i as u8) ^ salt)).collect()
        };
        let mut opcode = if is_text { TEXT } else { BINARY };
        let mut at = 0;
        let compressed = match &mut self.peer.deflate {
            Some(deflate) if !rng.one_in(4) => Some(deflate.compress(&body)),
            _ => None,
        };
        let payload = compressed.as_ref().unwrap_or(&body);
        // RFC 7692 §6: RSV1 on the first frame.
        let mut bit = if compressed.is_some() { 0x40 } else { 0 };
        while rng.one_in(3) {
            let piece = rng.below(payload.len() - at + 1);
            let mut frame = masked(opcode, false, &payload[at..at + piece], rng.next() as u8);
            frame[0] |= std::mem::take(&mut bit);
            self.write(&frame);
            (at, opcode) = (at + piece, CONTINUE);
            if rng.one_in(3) {
                self.ping(rng);
            }
        }
        let mut frame = masked(opcode, true, &payload[at..], rng.next() as u8);
        frame[0] |= bit;
        self.write(&frame);
        self.draft_ends_message = true;
        self.sent.push((is_text, body));
        match rng.below(8) {
            // The rest of the frame follows with the next one, or never.
            0 => {}
            _ => self.flush_draft(),
        }
    }

    fn ping(&mut self, rng: &mut Rng) {
        self.pings += 1;
        let frame = masked(PING, true, &self.pings.to_be_bytes(), rng.next() as u8);
        self.write(&frame);
    }

    /// Writes the draft and `bytes`, and holds the last byte back.
    fn write(&mut self, bytes: &[u8]) {
        self.peer.raw(&self.draft);
        self.draft.clear();
        self.draft_ends_message = false;
        if let Some((last, first)) = bytes.split_last() {
            self.peer.raw(first);
            self.draft.push(*last);
        }
    }

    fn flush_draft(&mut self) {
        self.write(&[]);
    }

    fn half_close(&mut self) {
        // The last byte of a message may be missing.
        if self.draft_ends_message {
            self.sent.pop();
        }
        self.peer.fin();
        self.ended = Some(Ended::Fin);
    }

    fn garbage(&mut self, rng: &mut Rng) {
        use ProtocolError::*;
        self.flush_draft();
        let choices: [(&[u8], ProtocolError); 10] = [
            (b"\x81\x01a", UnmaskedFrame),
            (b"\xc1\x80abcd", ReservedBits),
            (b"\xa1\x80abcd", ReservedBits),
            (b"\x83\x80abcd", ReservedOpcode(3)),
            (b"\x09\x80abcd", FragmentedControl),
            (b"\x89\xfe\x00\x7eabcd", ControlTooLong),
            (b"\x81\x82\0\0\0\0a\xff", InvalidUtf8),
            (b"\x80\x80abcd", UnexpectedContinuation),
            (b"\x88\x81\0\0\0\0a", CloseBodyTooShort),
            (b"\x88\x82\0\0\0\0\x03\xed", InvalidCloseCode(1005)),
        ];
        let (bytes, mut violation) = rng.pick(&choices);
        if self.peer.deflate.is_some() && bytes[0] == 0xc1 {
            // RSV1 is valid with compression, but the payload is not.
            violation = CorruptDeflate;
        }
        self.peer.raw(bytes);
        for _ in 0..rng.below(3_000) {
            self.peer.raw(&[rng.next() as u8]);
        }
        self.ended = Some(Ended::Garbage(violation));
    }

    /// Reads some of the received bytes, and replies as RFC 6455 requires.
    pub(super) fn read(&mut self, most: usize) -> Vec<Frame> {
        if self.socket_closed {
            return Vec::new();
        }
        if self.reads {
            self.peer.read(most);
        }
        let frames = self.peer.parse();
        for frame in &frames {
            match frame {
                Frame::Text(text) => self.receive(true, text.as_bytes()),
                Frame::Binary(bytes) => self.receive(false, bytes),
                Frame::Ping(body) if self.ended.is_none() => {
                    self.flush_draft();
                    self.peer.pong(body);
                }
                Frame::Ping(_) => {}
                Frame::Pong(body) => {
                    let number = u32::from_be_bytes(body[..].try_into().expect("our ping's body"));
                    // On a blocked connection a pong overtakes queued messages and replaces an
                    // older pong.
                    assert!(number <= self.pings && !self.pongs.contains(&number), "pong {number}");
                    self.pongs.push(number);
                }
                Frame::Close(code, _) => {
                    self.closed_with = Some(*code);
                    if self.ended.is_none() {
                        self.flush_draft();
                        self.peer.close(*code);
                        self.ended = Some(Ended::Close(*code));
                    }
                }
            }
        }
        if self.peer.at_end() && self.ended != Some(Ended::Reset) {
            self.peer.fin();
            self.ended.get_or_insert(Ended::Fin);
        }
        frames
    }

    fn receive(&mut self, is_text: bool, bytes: &[u8]) {
        let (expected_text, expected) = self.queued.pop_front().expect("a message that was queued");
        assert_eq!((is_text, bytes), (expected_text, &expected[..]), "not the next message in order");
        self.got += 1;
    }

    /// Checks a message event.
    pub(super) fn deliver(&mut self, is_text: bool, bytes: &[u8]) {
        let expected = self.sent.get(self.delivered).expect("a message that was sent");
        assert_eq!((expected.0, &expected.1[..]), (is_text, bytes), "not the next message in order");
        self.delivered += 1;
    }

    /// Checks the reason of a `Close` event against the actions of both sides.
    pub(super) fn close(&mut self, reason: &CloseReason, calm: bool) {
        assert_eq!(self.reason, None, "closed twice");
        let ended = self.ended.as_ref();
        let complete = match reason {
            CloseReason::Peer { code, .. } => {
                assert_eq!(ended, Some(&Ended::Close(u16::from(*code))));
                true
            }
            CloseReason::Protocol(violation) => {
                assert_eq!(ended, Some(&Ended::Garbage(*violation)));
                true
            }
            CloseReason::Eof => {
                assert_eq!(ended, Some(&Ended::Fin));
                true
            }
            CloseReason::Truncated => unreachable!("the streams are not encrypted"),
            CloseReason::Io(_) => {
                assert!(self.socket_closed && !calm, "an I/O error out of nothing");
                false
            }
            CloseReason::Disconnected => {
                assert!(self.disconnected);
                false
            }
            CloseReason::Local { .. } | CloseReason::Shutdown => {
                assert!(self.closing);
                false
            }
            CloseReason::Overflow => false,
            CloseReason::Shed | CloseReason::RateLimited => {
                assert!(!calm, "{reason}");
                false
            }
            CloseReason::Timeout(_) => {
                assert!(!calm, "{reason}");
                false
            }
        };
        if complete {
            assert_eq!(self.delivered, self.sent.len(), "messages were lost before {reason}");
        }
        self.reason = Some(reason.clone());
    }

    /// Checks that nothing is missing on an open connection that has come to rest.
    pub(super) fn check_open(&self) {
        assert_eq!(self.delivered, self.sent.len(), "not delivered");
        assert_eq!(self.queued.len(), 0, "not received");
        assert!(self.pings == 0 || self.pongs.contains(&self.pings), "the last ping was not answered");
        assert_eq!(self.peer.rest(), b"", "a piece of a frame");
    }

    /// Checks a closed connection that was read to its end. Under calm conditions an orderly end
    /// loses nothing.
    pub(super) fn check_closed(&self, calm: bool) {
        let Some(reason) = &self.reason else { return };
        let orderly = !matches!(reason, CloseReason::Io(_) | CloseReason::Timeout(_));
        // A disconnect by the application in the tick of the end may also lose data.
        if !calm || !orderly || self.disconnected || self.socket_closed {
            return;
        }
        assert!(!self.peer.was_aborted(), "closed with input unread");
        assert_eq!(self.queued.len(), 0, "lost at {reason}");
        assert_eq!(self.peer.rest(), b"", "a frame was cut");
        let expected = match (reason, &self.ended) {
            (CloseReason::Eof, _) => return,
            (CloseReason::Overflow, _) => 1013,
            (reason, _) => u16::from(reason.code()),
        };
        assert_eq!(self.closed_with, Some(expected), "{reason}: {self:?}");
    }
}
