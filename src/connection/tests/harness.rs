//! Drives a connection as `engine/receive.rs` does, and records its outcomes and the bytes it
//! sends.

use std::{
    io::{self, IoSlice, Write},
    time::Instant,
};

use crate::{
    config::{Config, MessageLimits},
    connection::{Connection, Io, Received, Role},
    error::ProtocolError,
    message::Kind,
    outbox::{Outbox, OutboxPool},
    proto::deflate::Codec,
    util::{buffer_pool::BufferPool, packed_duration::PackedDuration, rearm::Rearm},
};

/// The masking key of the examples in RFC 6455 §5.7.
pub(super) const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub(super) const LIMITS: MessageLimits = MessageLimits { frame: 1 << 20, message: 1 << 20 };

/// `Role`, but `Copy`. The client masks with [`KEY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Server,
    Client,
}

pub(super) const SIDES: [Side; 2] = [Side::Server, Side::Client];

impl Side {
    pub(super) fn role(self) -> Role {
        match self {
            Side::Server => Role::Server,
            Side::Client => Role::Client(Box::new(Box::new(|| KEY))),
        }
    }

    /// The masking key of the frames that this side receives.
    pub(super) fn key(self) -> Option<[u8; 4]> {
        (self == Side::Server).then_some(KEY)
    }

    /// A frame as this side receives it: masked for a server, unmasked for a client.
    pub(super) fn gets(self, first: u8, payload: &[u8]) -> Vec<u8> {
        frame(first, self.key(), payload)
    }

    /// The same frame as this side sends it.
    pub(super) fn sends(self, first: u8, payload: &[u8]) -> Vec<u8> {
        frame(first, (self == Side::Client).then_some(KEY), payload)
    }
}

/// Encodes a frame (RFC 6455 §5.2), independently of the code under test.
pub(super) fn frame(first: u8, key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, key, payload.len() as u64);
    match key {
        None => bytes.extend_from_slice(payload),
        Some(key) => bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key)),
    }
    bytes
}

pub(super) fn header(first: u8, key: Option<[u8; 4]>, len: u64) -> Vec<u8> {
    let masked = if key.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    if len < 126 {
        bytes.push(masked | len as u8);
    } else if len < 65536 {
        bytes.push(masked | 126);
        bytes.extend_from_slice(&(len as u16).to_be_bytes());
    } else {
        bytes.push(masked | 127);
        bytes.extend_from_slice(&len.to_be_bytes());
    }
    bytes.extend_from_slice(key.as_ref().map_or(&[][..], |key| &key[..]));
    bytes
}

/// Results for the layer above, whichever variant of [`Received`] carried them.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Text(String),
    Binary(Vec<u8>),
    Close(u16, String),
    Broken(ProtocolError),
}

impl std::fmt::Debug for Outcome {
    /// Prints a summary, because a failing comparison prints whole lists.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Text(text) => write!(f, "Text({} bytes, {:.20?})", text.len(), text),
            Outcome::Binary(bytes) => {
                write!(f, "Binary({} bytes, {:x?})", bytes.len(), &bytes[..bytes.len().min(8)])
            }
            Outcome::Close(code, text) => write!(f, "Close({code}, {text:?})"),
            Outcome::Broken(violation) => write!(f, "Broken({violation:?})"),
        }
    }
}

pub(super) fn text(text: &str) -> Outcome {
    Outcome::Text(text.into())
}

pub(super) fn binary(bytes: &[u8]) -> Outcome {
    Outcome::Binary(bytes.into())
}

/// One end of a connection with everything that the engine keeps for it.
pub(super) struct Endpoint {
    pub(super) connection: Connection,
    pub(super) outbox: Outbox,
    pub(super) outbound: OutboxPool,
    pub(super) limits: MessageLimits,
    pub(super) max_buffered: usize,
    pub(super) now: Instant,
    opened: Instant,
    pub(super) codec: Codec,
    inbound: BufferPool,
    unparsed: Vec<u8>,
    pub(super) ended: bool,
    pub(super) outcomes: Vec<Outcome>,
    /// Bytes that the kernel has taken from the outbox.
    pub(super) written: Vec<u8>,
}

impl Endpoint {
    pub(super) fn new(side: Side, limits: MessageLimits) -> Self {
        Self::with_role(side.role(), limits)
    }

    pub(super) fn with_role(role: Role, limits: MessageLimits) -> Self {
        let mut inbound = BufferPool::new(1 << 20);
        // A recycled buffer, whose old bytes must never show.
        inbound.give(vec![0xee; 100]);
        let now = Instant::now();
        Endpoint {
            connection: Connection::new(role),
            outbox: Outbox::default(),
            outbound: OutboxPool::new(1 << 20),
            limits,
            max_buffered: 1 << 20,
            now,
            opened: now,
            codec: Codec::new(&Config::default()),
            inbound,
            unparsed: Vec::new(),
            ended: false,
            outcomes: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Reads `piece`, in as many reads as that takes.
    pub(super) fn read(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && !self.ended {
            let taken = self.turn(piece);
            piece = &piece[taken..];
        }
    }

    /// Reads each piece, and flushes the outbox before the next. After the last piece an empty read
    /// follows, so that no unfinished message is left for a next read.
    pub(super) fn read_all<'a>(&mut self, pieces: impl IntoIterator<Item = &'a [u8]>) {
        for piece in pieces {
            self.read(piece);
            self.flush(usize::MAX);
        }
        if !self.unparsed.is_empty() && !self.ended {
            self.turn(&[]);
        }
    }

    /// Writes the outbox to a kernel that takes at most `room` bytes.
    pub(super) fn flush(&mut self, room: usize) {
        self.outbox.unblock();
        let mut kernel = Kernel { taken: &mut self.written, room };
        self.outbox
            .write_to(&mut kernel, false, usize::MAX, Rearm::NATIVE, &mut self.outbound)
            .expect("this kernel never fails");
    }

    /// Queues a message to the peer.
    pub(super) fn send(&mut self, kind: Kind, payload: &[u8]) {
        self.connection.send(kind, payload, Some(&mut self.codec), &mut self.outbox, &mut self.outbound);
    }

    pub(super) fn close(&mut self, body: Option<(u16, &str)>) {
        self.connection.close(body, &mut self.outbox, &mut self.outbound);
    }

    pub(super) fn ping(&mut self) {
        let sent = PackedDuration::new(self.now - self.opened);
        self.connection.ping(sent, false, &mut self.outbox, &mut self.outbound);
    }

    /// Does one read as the engine's `read_frames` does. Returns the number of bytes taken.
    fn turn(&mut self, piece: &[u8]) -> usize {
        if self.unparsed.is_empty()
            && let Some(room) = self.connection.room(256 * 1024)
        {
            assert!(!room.is_empty());
            let count = room.len().min(piece.len());
            room[..count].copy_from_slice(&piece[..count]);
            let result = self.connection.arrived(count, self.limits, &mut self.inbound, &mut self.codec);
            self.note(result, &[]);
            return count;
        }
        let mut block = std::mem::take(&mut self.unparsed);
        block.extend_from_slice(piece);
        let mut at = 0;
        // In some reads the caller could read more bytes behind those given.
        let more = if !piece.is_empty() && piece.len().is_multiple_of(3) { 100_000 } else { 0 };
        // In some calls only one frame may be taken.
        let frames = if piece.len().is_multiple_of(2) { 1 } else { 1000 };
        let unfinished = loop {
            if !self.short(&mut block, &mut at) {
                break false;
            }
            let mut io = Io {
                now: self.now,
                opened: self.opened,
                limits: self.limits,
                inbound: &mut self.inbound,
                outbox: &mut self.outbox,
                outbound: &mut self.outbound,
                codec: &mut self.codec,
                more,
                frames,
                max_buffered: self.max_buffered,
            };
            let result = self.connection.receive(&mut block, &mut at, &mut io);
            let stopped = io.frames == 0;
            assert!(at <= block.len());
            if stopped && at < block.len() && result == Ok(None) {
                continue;
            }
            if let Ok(Some(Received::Unfinished(missing))) = result {
                assert!((1..=more).contains(&missing));
                break true;
            }
            if !self.note(result, &block) {
                break false;
            }
        };
        if !self.ended {
            self.unparsed = block[at..].to_vec();
            assert!(
                unfinished || self.unparsed.len() < 14 + 125,
                "more than a header and a control payload is left: {}",
                self.unparsed.len()
            );
        }
        piece.len()
    }

    /// Takes small messages by the fast path, one or a whole run at a time. `false`: a text is
    /// invalid.
    fn short(&mut self, block: &mut [u8], at: &mut usize) -> bool {
        let one = self.outcomes.len().is_multiple_of(3);
        loop {
            let (from, mut places) = (*at, Vec::new());
            self.connection.receive_short(block, at, self.limits, |kind, range| {
                places.push((kind, range));
                !one
            });
            let Some((first, _)) = places.first() else { return true };
            assert!(places.iter().all(|(kind, _)| kind == first), "one run has one kind");
            let texts: Vec<_> =
                places.iter().map(|(_, range)| std::str::from_utf8(&block[range.clone()])).collect();
            if *first == Kind::Text {
                let all = std::str::from_utf8(&block[from..*at]).is_ok();
                assert_eq!(all, texts.iter().all(Result::is_ok), "the run is valid if each text is");
            }
            for ((kind, range), text_) in places.iter().zip(texts) {
                self.outcomes.push(match (kind, text_) {
                    (Kind::Binary, _) => binary(&block[range.clone()]),
                    (Kind::Text, Ok(payload)) => text(payload),
                    (Kind::Text, Err(_)) => Outcome::Broken(ProtocolError::InvalidUtf8),
                });
                if *kind == Kind::Text
                    && self.outcomes.last() == Some(&Outcome::Broken(ProtocolError::InvalidUtf8))
                {
                    self.ended = true;
                    return false;
                }
            }
        }
    }

    /// Records the result; returns whether `receive` may have more.
    fn note(&mut self, result: Result<Option<Received>, ProtocolError>, block: &[u8]) -> bool {
        let outcome = match result {
            Ok(None | Some(Received::Unfinished(_))) => return false,
            Ok(Some(Received::InPlace(kind, range))) => message(kind, &block[range]),
            Ok(Some(Received::Assembled(message_))) => {
                let outcome = message(message_.kind, &message_.buffer[..message_.len]);
                self.inbound.give(message_.buffer);
                outcome
            }
            Ok(Some(Received::Close { code, text })) => Outcome::Close(code, text),
            Err(violation) => Outcome::Broken(violation),
        };
        self.ended = matches!(outcome, Outcome::Close(..) | Outcome::Broken(_));
        self.outcomes.push(outcome);
        !self.ended
    }
}

fn message(kind: Kind, bytes: &[u8]) -> Outcome {
    match kind {
        Kind::Text => text(std::str::from_utf8(bytes).expect("received text is valid UTF-8")),
        Kind::Binary => binary(bytes),
    }
}

struct Kernel<'a> {
    taken: &'a mut Vec<u8>,
    room: usize,
}

impl Write for Kernel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = self.room;
        for slice in slices {
            let count = slice.len().min(self.room);
            self.taken.extend_from_slice(&slice[..count]);
            self.room -= count;
        }
        Ok(before - self.room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The outcomes of `pieces` received one after the other, and the bytes written in response.
pub(super) fn run<'a>(
    side: Side,
    limits: MessageLimits,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Outcome>, Vec<u8>) {
    let mut endpoint = Endpoint::new(side, limits);
    endpoint.read_all(pieces);
    (endpoint.outcomes, endpoint.written)
}

/// The outcomes of `bytes`, which must be the same whole, cut in two at any place, and byte by
/// byte.
pub(super) fn any_way(side: Side, limits: MessageLimits, bytes: &[u8]) -> (Vec<Outcome>, Vec<u8>) {
    let whole = run(side, limits, [bytes]);
    let len = bytes.len();
    // Long input is cut only near its ends and at some places between.
    let edges = |at: &usize| len < 700 || *at < 40 || *at > len - 40 || at.is_multiple_of(4999);
    for at in (1..len).filter(edges) {
        let (first, second) = bytes.split_at(at);
        assert_eq!(run(side, limits, [first, second]), whole, "{side:?} cut at {at}");
    }
    assert_eq!(run(side, limits, bytes.chunks(1)), whole, "{side:?} byte by byte");
    assert_eq!(run(side, limits, bytes.chunks(7)), whole, "{side:?} in pieces of 7 bytes");
    whole
}

/// Checks that `bytes` give the `expected` outcomes, and nothing is written.
#[track_caller]
pub(super) fn expect(side: Side, bytes: &[u8], expected: &[Outcome]) {
    let (outcomes, written) = any_way(side, LIMITS, bytes);
    assert_eq!((&outcomes[..], written.len()), (expected, 0), "{side:?}");
}

/// The violation in which `bytes` end, and after how many bytes it is reported.
#[track_caller]
pub(super) fn breaks(side: Side, limits: MessageLimits, bytes: &[u8]) -> (usize, ProtocolError) {
    any_way(side, limits, bytes);
    let mut endpoint = Endpoint::new(side, limits);
    for (at, byte) in bytes.iter().enumerate() {
        endpoint.read(&[*byte]);
        if let Some(Outcome::Broken(violation)) = endpoint.outcomes.last() {
            return (at + 1, *violation);
        }
    }
    panic!("{side:?} found no violation: {:?}", endpoint.outcomes);
}
