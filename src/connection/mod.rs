//! One RFC 6455 endpoint, sans-IO: received bytes → messages, messages → bytes to send.

#![allow(
    clippy::indexing_slicing,
    reason = "`at` is at most the length of `bytes`; a header that was parsed, and a payload found whole, lie within it"
)]

pub(crate) mod deadlines;
pub(crate) mod dial;
mod fast_path;
pub(crate) mod rate_limiter;
pub(crate) mod slot;
pub(crate) mod stream;

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use tungstenite::protocol::frame::coding::{Control as ControlCode, Data, OpCode};

use crate::{
    config::{MessageLimits, send_options::Priority},
    error::ProtocolError,
    message::Kind,
    outbox::{Control, Outbox, OutboxPool, pending::Pending, prepared::Prepared},
    proto::{
        assembler::{Assembled, Assembler, check_size},
        close::{self, CloseState},
        deflate::{Codec, PerMessage},
        frame::{self, Header, opcode},
        mask::{MaskSource, apply_mask},
        utf8,
    },
    util::{buffer_pool::BufferPool, packed_duration::PackedDuration},
};

/// Which side of the connection this is (RFC 6455 §5.1).
pub(crate) enum Role {
    /// Receives masked frames, sends unmasked ones.
    Server,
    /// Receives unmasked frames, sends masked ones.
    /// The source of keys is boxed once more, so that a server's connection is no larger for it.
    Client(Box<MaskSource>),
}

impl std::fmt::Debug for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::Server => "Server",
            Role::Client(_) => "Client",
        })
    }
}

/// Parameters and buffers of one call of `receive`, lent by the engine.
#[derive(Debug)]
pub(crate) struct Io<'a> {
    pub(crate) now: Instant,
    /// The start of the connection, from which the time of a ping is counted.
    pub(crate) opened: Instant,
    pub(crate) limits: MessageLimits,
    pub(crate) inbound: &'a mut BufferPool,
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) outbound: &'a mut OutboxPool,
    pub(crate) codec: &'a mut Codec,
    /// How many bytes the caller can read behind the given ones to complete a message.
    pub(crate) more: usize,
    /// How many more frames that complete no message (control frames, fragments) may be taken.
    pub(crate) frames: usize,
    /// Outbound limit in bytes. From half of it on, the next pong replaces one that waits.
    pub(crate) max_buffered: usize,
}

/// Result of `receive` that the layer above has to act on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A whole message, unmasked in place: its range in the bytes given to `receive`.
    InPlace(Kind, Range<usize>),
    /// A whole message that arrived in pieces or compressed, in a buffer of its own.
    Assembled(Assembled),
    /// The rest of `bytes` is the beginning of a message of which this many bytes are missing.
    Unfinished(usize),
    /// The peer's close frame: 1005 and no text if its body was empty (§7.1.5).
    Close { code: u16, text: String },
}

/// One endpoint. Call `receive` after each read until it returns `None`; call `send_*`, `ping` and
/// `close` at any time. After an `Err` only `close` with the code of the violation may be called.
/// After `Received::Close` queued data may still be sent, then `close`.
#[derive(Debug)]
pub(crate) struct Connection {
    role: Role,
    close: CloseState,
    assembler: Assembler,
    /// `None` if compression was not negotiated.
    deflate: Option<Box<PerMessage>>,
    /// Number of the oldest unanswered ping, and its time since `Io::opened`. The newest would not
    /// do: if pings are sent more often than a round trip takes, its pong would never arrive before
    /// the next ping.
    ping: Option<(u32, PackedDuration)>,
    ping_serial: u32,
    rtt: Option<PackedDuration>,
}

impl Connection {
    /// A payload from `LARGE` on is left for the next read if fewer bytes than this are there.
    const CARRIED: usize = 64;
    const LARGE: u64 = 16 * 1024;

    pub(crate) fn new(role: Role) -> Self {
        Connection {
            role,
            close: CloseState::Open,
            assembler: Assembler::default(),
            deflate: None,
            ping: None,
            ping_serial: 0,
            rtt: None,
        }
    }

    /// Sets the compression that the handshake has negotiated.
    pub(crate) fn with_deflate(self, deflate: Option<PerMessage>) -> Self {
        Connection { deflate: deflate.map(Box::new), ..self }
    }

    /// Whether messages may be compressed.
    pub(crate) fn deflates(&self) -> bool {
        self.deflate.is_some()
    }

    /// Memory of the compression contexts, in bytes.
    #[cfg(all(test, feature = "deflate"))]
    pub(crate) fn contexts(&self) -> usize {
        self.deflate.as_ref().map_or(0, |deflate| deflate.memory())
    }

    /// Releases memory that an idle connection can do without; called periodically.
    pub(crate) fn rest(&mut self) {
        if let Some(deflate) = &mut self.deflate {
            deflate.rest();
        }
    }

    pub(crate) fn close_state(&self) -> CloseState {
        self.close
    }

    /// Round-trip time of the last ping that was answered.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt.map(PackedDuration::get)
    }

    /// Consumes `bytes[*at..]` up to the end of the next message, and answers pings on the way.
    /// `None`: no further message is complete, or `io.frames` frames were taken. The caller has to
    /// put the remaining `bytes[*at..]` in front of its next read. Unless `io.frames` ended the
    /// call, they are an incomplete header or control frame, or the first bytes of a large message.
    pub(crate) fn receive(
        &mut self,
        bytes: &mut [u8],
        at: &mut usize,
        io: &mut Io<'_>,
    ) -> Result<Option<Received>, ProtocolError> {
        if !self.close.may_receive() {
            *at = bytes.len();
            return Ok(None);
        }
        loop {
            if self.assembler.in_frame() {
                *at += self.assembler.absorb(&bytes[*at..], io.inbound)?;
                if let Some(message) = self.finish_frame(io.limits, io.inbound, io.codec)? {
                    return Ok(Some(Received::Assembled(message)));
                }
                if self.assembler.in_frame() {
                    return Ok(None);
                }
            }
            if io.frames == 0 {
                return Ok(None);
            }
            let Some((header, size)) = Header::parse(&bytes[*at..])? else { return Ok(None) };
            self.check(&header)?;
            let start = *at + size;
            let whole = header.len <= (bytes.len() - start) as u64;
            match header.opcode {
                OpCode::Data(data) if whole && header.fin && !self.assembler.in_message() => {
                    if header.rsv1 {
                        return self.receive_compressed(header, data, start, bytes, at, io);
                    }
                    check_size(&self.assembler, &header, data, io.limits)?;
                    *at = start + header.len as usize;
                    let payload = &mut bytes[start..*at];
                    unmask(payload, &header);
                    let kind = if data == Data::Text { Kind::Text } else { Kind::Binary };
                    if kind == Kind::Text && !utf8::is_valid(payload) {
                        return Err(ProtocolError::InvalidUtf8);
                    }
                    return Ok(Some(Received::InPlace(kind, start..*at)));
                }
                OpCode::Data(data) if self.may_stay(&header, bytes.len() - start, io.more) => {
                    check_size(&self.assembler, &header, data, io.limits)?;
                    let missing = header.len - (bytes.len() - start) as u64;
                    return Ok((missing <= io.more as u64).then_some(Received::Unfinished(missing as usize)));
                }
                OpCode::Data(data) => {
                    self.begin_frame(header, data, io.limits)?;
                    (*at, io.frames) = (start, io.frames - 1);
                }
                OpCode::Control(_) if !whole => return Ok(None),
                OpCode::Control(code) => {
                    (*at, io.frames) = (start + header.len as usize, io.frames - 1);
                    let payload = &mut bytes[start..*at];
                    unmask(payload, &header);
                    if let Some(received) = self.control(code, payload, io)? {
                        return Ok(Some(received));
                    }
                }
            }
        }
    }

    /// Room to read a large payload into directly, at most `max` bytes; `arrived` must follow.
    pub(crate) fn room(&mut self, max: usize) -> Option<&mut [u8]> {
        self.assembler.room(max)
    }

    /// Processes `count` bytes that were read into `room`; returns the message if they complete it.
    pub(crate) fn arrived(
        &mut self,
        count: usize,
        limits: MessageLimits,
        inbound: &mut BufferPool,
        codec: &mut Codec,
    ) -> Result<Option<Received>, ProtocolError> {
        self.assembler.arrived(count)?;
        Ok(self.finish_frame(limits, inbound, codec)?.map(Received::Assembled))
    }

    /// The length in bytes of an outbound data frame; compression never makes it longer.
    pub(crate) fn frame_len(&self, payload: usize) -> usize {
        let mask = self.masks().then_some([0; 4]);
        let opcode = opcode(Kind::Binary);
        Header { fin: true, rsv1: false, opcode, mask, len: payload as u64 }.encoded_len() + payload
    }

    /// The header of a message that can be sent as it is: neither masked nor compressed.
    pub(crate) fn plain_header(&self, kind: Kind, len: usize) -> Option<([u8; frame::MAX_HEADER], usize)> {
        if self.masks() || self.deflates() || !self.close.may_send_data() {
            return None;
        }
        let header = Header { fin: true, rsv1: false, opcode: opcode(kind), mask: None, len: len as u64 };
        Some(header.encode())
    }

    /// Whether outbound frames are masked, and so cannot be shared with other connections.
    pub(crate) fn masks(&self) -> bool {
        matches!(self.role, Role::Client(_))
    }

    /// Whether a message may be sent, and its frame would be neither masked nor compressed.
    #[inline]
    pub(crate) fn sends_plain(&self) -> bool {
        !self.masks() && self.deflate.is_none() && self.close.may_send_data()
    }

    /// Queues one message as one frame; without a codec it is not compressed.
    #[inline]
    pub(crate) fn send(
        &mut self,
        kind: Kind,
        payload: &[u8],
        codec: Option<&mut Codec>,
        outbox: &mut Outbox,
        pool: &mut OutboxPool,
    ) {
        debug_assert!(self.close.may_send_data());
        if self.deflate.is_some() {
            self.send_compressed(kind, payload, codec, outbox, pool);
        } else {
            self.send_plain(kind, payload, outbox, pool);
        }
    }

    /// Forced inline: the compiler's own choice differs from one set of Cargo features to another.
    #[inline(always)]
    fn send_plain(&mut self, kind: Kind, payload: &[u8], outbox: &mut Outbox, pool: &mut OutboxPool) {
        let mask = self.mask();
        outbox.push(pool, |tail| frame::write_frame(tail, opcode(kind), payload, mask));
    }

    /// Queues a message that is framed already: a small frame is copied, a large one shared. Its
    /// compressed form refers to no earlier message, so all connections can share that as well.
    pub(crate) fn send_prepared(
        &mut self,
        message: &Prepared,
        codec: Option<&mut Codec>,
        outbox: &mut Outbox,
        pool: &mut OutboxPool,
    ) {
        debug_assert!(self.close.may_send_data());
        let mut message = message;
        if let (Some(deflate), Some(codec)) = (&mut self.deflate, codec)
            && let Some(compressed) = message.compressed(deflate.bits(), codec)
        {
            deflate.note(codec, message.payload());
            message = compressed;
        }
        if let Some(mask) = self.mask() {
            // §5.3: "the client MUST pick a fresh masking key" for each frame.
            outbox.push(pool, |tail| message.write_masked(tail, mask));
        } else if message.is_shared() {
            outbox.push_shared(message, pool);
        } else {
            outbox.push(pool, |tail| tail.extend_from_slice(message.frame()));
        }
    }

    /// Frames pending messages, those of high priority first, until about `room` bytes are queued;
    /// `usize::MAX` takes all of them. Returns how many pending messages had expired.
    pub(crate) fn fill(
        &mut self,
        pending: &mut Pending,
        room: usize,
        now: Instant,
        codec: &mut Codec,
        outbox: &mut Outbox,
        pool: &mut OutboxPool,
    ) -> u64 {
        let mut expired = 0;
        while (room == usize::MAX || outbox.takes_ahead())
            && let Some(item) = pending.next(Priority::High, now, &mut expired)
        {
            let codec = item.compress.then_some(&mut *codec);
            outbox.push_ahead(|out| self.write(out, item.kind, pending.payload(&item), codec, true), pool);
        }
        while outbox.len() < room
            && !pending.waits(Priority::High)
            && let Some(item) = pending.next(Priority::Normal, now, &mut expired)
        {
            let codec = item.compress.then_some(&mut *codec);
            match item.shared() {
                Some(prepared) => self.send_prepared(prepared, codec, outbox, pool),
                None => self.send(item.kind, pending.payload(&item), codec, outbox, pool),
            }
        }
        expired
    }

    /// Queues a ping (RFC 6455 §5.5.2), whose body is a serial number that identifies its pong.
    /// `sent` is the time since `Io::opened`. With `must_wait`, for an outbox that is rather full,
    /// it replaces a ping that waits already.
    pub(crate) fn ping(
        &mut self,
        sent: PackedDuration,
        must_wait: bool,
        outbox: &mut Outbox,
        pool: &mut OutboxPool,
    ) {
        self.ping_serial = self.ping_serial.wrapping_add(1);
        self.ping.get_or_insert((self.ping_serial, sent));
        let body = self.ping_serial.to_be_bytes();
        self.push_control(ControlCode::Ping, &body, must_wait, outbox, pool);
    }

    /// Queues our close frame behind all that is queued (RFC 6455 §5.5.1); `None` is an empty body.
    pub(crate) fn close(&mut self, body: Option<(u16, &str)>, outbox: &mut Outbox, pool: &mut OutboxPool) {
        debug_assert!(self.close.may_send_data());
        let mut bytes = Vec::new();
        if let Some((code, reason)) = body {
            close::write_body(code, reason, &mut bytes);
        }
        outbox.seal(pool);
        let mask = self.mask();
        outbox.push(pool, |tail| frame::write_frame(tail, OpCode::Control(ControlCode::Close), &bytes, mask));
        self.close = self.close.on_sent();
    }

    /// Memory of an incomplete message, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.assembler.memory()
    }

    /// Returns the memory of an incomplete message to the pool.
    pub(crate) fn release(&mut self, pool: &mut BufferPool) {
        self.assembler.release(pool);
    }

    fn check(&self, header: &Header) -> Result<(), ProtocolError> {
        // §5.2, RFC 7692 §6: only the first frame of a compressed message may set RSV1.
        if header.rsv1
            && (self.deflate.is_none() || !matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary)))
        {
            return Err(ProtocolError::ReservedBits);
        }
        // §5.1: a client masks all its frames, a server none.
        match (&self.role, header.mask) {
            (Role::Server, None) => Err(ProtocolError::UnmaskedFrame),
            (Role::Client(_), Some(_)) => Err(ProtocolError::MaskedFrame),
            _ => Ok(()),
        }
    }

    /// Whether the first `there` payload bytes of a message stay in `bytes`: the rest can be read
    /// right behind them, or they are so few that copying them costs next to nothing.
    #[inline(never)]
    fn may_stay(&self, header: &Header, there: usize, more: usize) -> bool {
        let large = header.len >= Self::LARGE && header.fin && !header.rsv1 && !self.assembler.in_message();
        large && (header.len - there as u64 <= more as u64 || there < Self::CARRIED)
    }

    /// Out of line, for a short path of whole frames; by value, or the header lives in memory.
    #[inline(never)]
    fn begin_frame(
        &mut self,
        header: Header,
        data: Data,
        limits: MessageLimits,
    ) -> Result<(), ProtocolError> {
        let compressed = header.rsv1 || self.assembler.is_compressed();
        self.assembler.begin_frame(&header, data, if compressed { limits.compressed() } else { limits })
    }

    /// Ends the frame if all of it has arrived; returns the message if this was its last frame.
    #[inline(never)]
    fn finish_frame(
        &mut self,
        limits: MessageLimits,
        inbound: &mut BufferPool,
        codec: &mut Codec,
    ) -> Result<Option<Assembled>, ProtocolError> {
        let compressed = self.assembler.is_compressed();
        match self.assembler.finish_frame()? {
            Some(Assembled { kind, buffer, len }) if compressed => {
                let message = self.inflate(kind, &buffer[..len], limits, inbound, codec);
                inbound.give(buffer);
                message.map(Some)
            }
            finished => Ok(finished),
        }
    }

    /// Inflates the payload of a compressed message, up to the limit, and validates its text.
    fn inflate(
        &mut self,
        kind: Kind,
        payload: &[u8],
        limits: MessageLimits,
        inbound: &mut BufferPool,
        codec: &mut Codec,
    ) -> Result<Assembled, ProtocolError> {
        // Unreachable: `check` has rejected RSV1 without compression.
        let deflate = self.deflate.as_mut().ok_or(ProtocolError::ReservedBits)?;
        let mut buffer = inbound.take(payload.len().saturating_mul(4));
        buffer.clear();
        deflate.inflate(codec, payload, &mut buffer, limits.message)?;
        if kind == Kind::Text && !utf8::is_valid(&buffer) {
            return Err(ProtocolError::InvalidUtf8);
        }
        let len = buffer.len();
        Ok(Assembled { kind, buffer, len })
    }

    /// `send` for connections that compress; not inlined, to keep the path of the others short.
    #[inline(never)]
    fn send_compressed(
        &mut self,
        kind: Kind,
        payload: &[u8],
        codec: Option<&mut Codec>,
        outbox: &mut Outbox,
        pool: &mut OutboxPool,
    ) {
        outbox.push(pool, |tail| self.write(tail, kind, payload, codec, false));
    }

    /// Receives an unfragmented compressed message whose payload stands whole at `start`.
    #[inline(never)]
    fn receive_compressed(
        &mut self,
        header: Header,
        data: Data,
        start: usize,
        bytes: &mut [u8],
        at: &mut usize,
        io: &mut Io<'_>,
    ) -> Result<Option<Received>, ProtocolError> {
        check_size(&self.assembler, &header, data, io.limits.compressed())?;
        *at = start + header.len as usize;
        let payload = &mut bytes[start..*at];
        unmask(payload, &header);
        let kind = if data == Data::Text { Kind::Text } else { Kind::Binary };
        let message = self.inflate(kind, payload, io.limits, io.inbound, io.codec)?;
        Ok(Some(Received::Assembled(message)))
    }

    /// Appends a message's frame to `out`; with `ahead` it leaves before frames written earlier.
    fn write(
        &mut self,
        out: &mut Vec<u8>,
        kind: Kind,
        payload: &[u8],
        codec: Option<&mut Codec>,
        ahead: bool,
    ) {
        let mask = self.mask();
        if let (Some(deflate), Some(codec)) = (&mut self.deflate, codec)
            && let Some(payload) = deflate.compress(codec, payload, ahead)
        {
            return frame::write_compressed(out, opcode(kind), payload, mask);
        }
        frame::write_frame(out, opcode(kind), payload, mask);
    }

    fn control(
        &mut self,
        code: ControlCode,
        payload: &[u8],
        io: &mut Io<'_>,
    ) -> Result<Option<Received>, ProtocolError> {
        match code {
            // §5.5.2: each ping gets a pong, but none may follow our close frame (§5.5.1).
            ControlCode::Ping if self.close.may_send_data() => {
                // Half of the outbox stays free for the application, also in a flood of pings.
                let full = io.outbox.len() >= io.max_buffered / 2;
                self.push_control(ControlCode::Pong, payload, full, io.outbox, io.outbound);
            }
            ControlCode::Pong => {
                // §5.5.3: an unsolicited pong needs no response and is ignored. A pong to a later
                // ping answers the earlier ones too, but does not tell their round-trip time.
                if let (Some((first, sent)), Ok(body)) = (self.ping, payload.try_into()) {
                    let later = u32::from_be_bytes(body).wrapping_sub(first);
                    if later == 0 {
                        let received = io.now.saturating_duration_since(io.opened);
                        self.rtt = Some(PackedDuration::new(received.saturating_sub(sent.get())));
                    }
                    if later <= self.ping_serial.wrapping_sub(first) {
                        self.ping = None;
                    }
                }
            }
            ControlCode::Close => {
                let body = close::parse_body(payload)?;
                self.close = self.close.on_received();
                // §7.1.5: without a code in the close frame, the code is considered to be 1005.
                let (code, text) = body.unwrap_or((1005, ""));
                return Ok(Some(Received::Close { code, text: text.to_owned() }));
            }
            ControlCode::Ping | ControlCode::Reserved(_) => {}
        }
        Ok(None)
    }

    fn push_control(
        &mut self,
        code: ControlCode,
        payload: &[u8],
        must_wait: bool,
        outbox: &mut Outbox,
        pool: &mut OutboxPool,
    ) {
        // On the stack: pongs may be sent thousands of times per second.
        let mut bytes = [0; frame::MAX_HEADER + frame::MAX_CONTROL_PAYLOAD];
        let header = Header {
            fin: true,
            rsv1: false,
            opcode: OpCode::Control(code),
            mask: self.mask(),
            len: payload.len() as u64,
        };
        let (head, size) = header.encode();
        bytes[..size].copy_from_slice(&head[..size]);
        let body = &mut bytes[size..size + payload.len()];
        body.copy_from_slice(payload);
        unmask(body, &header);
        let kind = if code == ControlCode::Ping { Control::Ping } else { Control::Pong };
        outbox.push_control(kind, &bytes[..size + payload.len()], must_wait, pool);
    }

    fn mask(&mut self) -> Option<[u8; 4]> {
        match &mut self.role {
            Role::Server => None,
            Role::Client(source) => Some(source()),
        }
    }
}

fn unmask(payload: &mut [u8], header: &Header) {
    if let Some(key) = header.mask {
        apply_mask(payload, key);
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
