//! Frames → messages: holds the received part of a message that is not complete yet.

#![allow(
    clippy::indexing_slicing,
    reason = "`filled` is at most the buffer's length, and new bytes were read into the room behind it"
)]

use tungstenite::protocol::frame::coding::Data;

use crate::{
    config::MessageLimits,
    error::ProtocolError,
    message::Kind,
    proto::{frame::Header, mask::apply_mask_at, utf8::Utf8Validator},
    util::buffer_pool::BufferPool,
};

/// A complete payload in its own buffer: `buffer[..len]`. Bytes beyond `len` are stale.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Assembled {
    pub(crate) kind: Kind,
    pub(crate) buffer: Vec<u8>,
    pub(crate) len: usize,
}

/// Collects one message from fragments and from frames of which only a part has arrived.
///
/// Memory grows with the bytes that arrive, never by what a header claims.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// The message in progress; `None` between messages.
    kind: Option<Kind>,
    /// `buffer[..filled]` has arrived and is unmasked; the rest is initialised spare room.
    buffer: Vec<u8>,
    filled: usize,
    utf8: Utf8Validator,
    /// Payload bytes of the current frame that have not arrived.
    frame_left: u64,
    /// Masking key of the current frame.
    mask: Option<[u8; 4]>,
    /// Payload bytes of the current frame that are unmasked already, modulo 4.
    phase: u8,
    /// The current frame is the last of its message.
    fin: bool,
    /// The header of the current frame is known, and its payload is not complete.
    in_frame: bool,
    /// The message in progress is compressed (RFC 7692 §6): its text is validated once inflated.
    compressed: bool,
    /// Empty fragments in a row so far.
    empty_run: u8,
}

impl Assembler {
    /// Empty fragments in a row that are accepted; more count as an attack.
    const MAX_EMPTY_RUN: u8 = 64;

    /// Size in bytes from which reading directly into the buffer is faster than copying.
    const DIRECT_FROM: u64 = 8 * 1024;

    /// Whether a message has begun and is not complete (RFC 6455 §5.4).
    pub(crate) fn in_message(&self) -> bool {
        self.kind.is_some()
    }

    /// Whether the message in progress is compressed.
    pub(crate) fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// Whether the next bytes belong to the payload of a frame whose header is known.
    pub(crate) fn in_frame(&self) -> bool {
        self.in_frame
    }

    /// Starts the data frame `header`. Checks the order of fragments (RFC 6455 §5.4) and the sizes.
    pub(crate) fn begin_frame(
        &mut self,
        header: &Header,
        data: Data,
        limits: MessageLimits,
    ) -> Result<(), ProtocolError> {
        debug_assert!(!self.in_frame);
        check_size(self, header, data, limits)?;
        match data {
            Data::Text => self.kind = Some(Kind::Text),
            Data::Binary => self.kind = Some(Kind::Binary),
            Data::Continue | Data::Reserved(_) => {}
        }
        self.compressed |= header.rsv1;
        if header.len == 0 && !header.fin {
            self.empty_run += 1;
            if self.empty_run > Self::MAX_EMPTY_RUN {
                return Err(ProtocolError::EmptyFragments);
            }
        } else {
            self.empty_run = 0;
        }
        (self.frame_left, self.mask, self.phase, self.fin) = (header.len, header.mask, 0, header.fin);
        self.in_frame = true;
        Ok(())
    }

    /// Takes payload, still masked, from the front of `bytes`; returns the number of bytes taken.
    pub(crate) fn absorb(&mut self, bytes: &[u8], pool: &mut BufferPool) -> Result<usize, ProtocolError> {
        let count = bytes.len().min(usize::try_from(self.frame_left).unwrap_or(usize::MAX));
        if self.buffer.capacity() == 0 && count > 0 {
            // The length of a first fragment does not tell how large the message is.
            let want = if self.fin { self.frame_left } else { u64::MAX };
            self.buffer = pool.take(usize::try_from(want).unwrap_or(usize::MAX));
        }
        let end = self.filled + count;
        if end <= self.buffer.len() {
            self.buffer[self.filled..end].copy_from_slice(&bytes[..count]);
        } else {
            self.buffer.truncate(self.filled);
            self.buffer.extend_from_slice(&bytes[..count]);
        }
        self.arrived(count)?;
        Ok(count)
    }

    /// Room for at most `max` bytes to read payload into directly; `None` where a copy is as good.
    ///
    /// The buffer doubles only when its room is used up: a peer that sends a few bytes at a time
    /// must not cause a copy of the whole message at every read.
    pub(crate) fn room(&mut self, max: usize) -> Option<&mut [u8]> {
        if !self.in_frame || self.frame_left < Self::DIRECT_FROM || (self.filled as u64) < Self::DIRECT_FROM {
            return None;
        }
        let left = usize::try_from(self.frame_left).unwrap_or(usize::MAX);
        let spare = self.buffer.len() - self.filled;
        if spare < left && (spare as u64) < Self::DIRECT_FROM {
            let grown = self.filled + left.min(self.filled);
            if self.buffer.capacity() < grown {
                // `grown` doubles the buffer already, and must not overshoot in the last step.
                self.buffer.reserve_exact(grown - self.buffer.len());
            }
            self.buffer.resize(grown, 0);
        }
        let end = self.buffer.len().min(self.filled.saturating_add(left.min(max)));
        Some(&mut self.buffer[self.filled..end])
    }

    /// Unmasks and validates `count` bytes that were read into `room` or copied.
    pub(crate) fn arrived(&mut self, count: usize) -> Result<(), ProtocolError> {
        let new = &mut self.buffer[self.filled..self.filled + count];
        if let Some(key) = self.mask {
            apply_mask_at(new, key, usize::from(self.phase));
            self.phase = ((usize::from(self.phase) + count) % 4) as u8;
        }
        if self.kind == Some(Kind::Text) && !self.compressed {
            self.utf8.feed(new)?;
        }
        self.filled += count;
        self.frame_left -= count as u64;
        Ok(())
    }

    /// Ends the frame if all of it has arrived, and returns the message if this was its last frame.
    pub(crate) fn finish_frame(&mut self) -> Result<Option<Assembled>, ProtocolError> {
        if !self.in_frame || self.frame_left > 0 {
            return Ok(None);
        }
        self.in_frame = false;
        if !self.fin {
            return Ok(None);
        }
        self.utf8.finish()?;
        let Some(kind) = self.kind.take() else { return Ok(None) };
        let (buffer, len) = (std::mem::take(&mut self.buffer), self.filled);
        *self = Assembler::default();
        Ok(Some(Assembled { kind, buffer, len }))
    }

    /// Memory held, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    /// Returns the buffer to the pool; the message in progress is lost.
    pub(crate) fn release(&mut self, pool: &mut BufferPool) {
        pool.give(std::mem::take(self).buffer);
    }
}

/// Checks a data frame against the message in progress (RFC 6455 §5.4) and against the limits,
/// before a byte of its payload is taken.
pub(crate) fn check_size(
    assembler: &Assembler,
    header: &Header,
    data: Data,
    limits: MessageLimits,
) -> Result<(), ProtocolError> {
    match (data, assembler.in_message()) {
        (Data::Continue, false) => return Err(ProtocolError::UnexpectedContinuation),
        (Data::Text | Data::Binary, true) => return Err(ProtocolError::ExpectedContinuation),
        (Data::Reserved(code), _) => return Err(ProtocolError::ReservedOpcode(code)),
        _ => {}
    }
    if header.len > limits.frame {
        return Err(ProtocolError::FrameTooBig { len: header.len, max: limits.frame });
    }
    let len = (assembler.filled as u64).saturating_add(header.len);
    if len > limits.message {
        return Err(ProtocolError::MessageTooBig { len, max: limits.message });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tungstenite::protocol::frame::coding::OpCode;

    use super::*;

    const LIMITS: MessageLimits = MessageLimits { frame: 1 << 20, message: 1 << 20 };

    fn header(data: Data, fin: bool, len: u64) -> Header {
        Header { fin, rsv1: false, opcode: OpCode::Data(data), mask: None, len }
    }

    #[test]
    fn fragments_join_and_the_buffer_is_handed_over() {
        let (mut assembler, mut pool) = (Assembler::default(), BufferPool::new(1 << 20));
        let parts: [(Data, &[u8]); 3] =
            [(Data::Text, b"gr\xc3"), (Data::Continue, b""), (Data::Continue, b"\xbcn")];
        let mut message = None;
        for (i, (data, bytes)) in parts.into_iter().enumerate() {
            assembler.begin_frame(&header(data, i == 2, bytes.len() as u64), data, LIMITS).unwrap();
            assert_eq!(assembler.absorb(bytes, &mut pool), Ok(bytes.len()));
            message = assembler.finish_frame().unwrap();
            assert_eq!(message.is_some(), i == 2);
        }
        let message = message.unwrap();
        assert_eq!((&message.buffer[..message.len], message.kind), ("grün".as_bytes(), Kind::Text));
        assert!(!assembler.in_message());
        assert_eq!(assembler.buffer.capacity(), 0);
    }

    #[test]
    fn memory_grows_with_the_data_not_with_the_claim() {
        let (mut assembler, mut pool) = (Assembler::default(), BufferPool::new(1 << 20));
        assembler.begin_frame(&header(Data::Binary, true, 1 << 20), Data::Binary, LIMITS).unwrap();
        assert!(assembler.room(usize::MAX).is_none(), "nothing has arrived yet");
        assembler.absorb(&[7; 10_000], &mut pool).unwrap();
        let room = assembler.room(usize::MAX).unwrap().len();
        assert!(room <= 10_000, "{room}");
        assert!(assembler.buffer.capacity() <= 20_000);
        while assembler.frame_left > 0 {
            let room = assembler.room(usize::MAX).map_or(0, |room| room.len());
            if room == 0 {
                assembler.absorb(&[7; 8192], &mut pool).unwrap();
            } else {
                assembler.arrived(room).unwrap();
            }
            assert!(assembler.buffer.capacity() <= 2 * assembler.filled);
        }
        assert_eq!(assembler.finish_frame().unwrap().unwrap().len, 1 << 20);
    }

    #[test]
    fn too_many_empty_fragments_in_a_row_are_an_error() {
        let mut assembler = Assembler::default();
        let mut outcome = assembler.begin_frame(&header(Data::Text, false, 0), Data::Text, LIMITS);
        for _ in 0..Assembler::MAX_EMPTY_RUN {
            outcome.unwrap();
            assembler.finish_frame().unwrap();
            outcome = assembler.begin_frame(&header(Data::Continue, false, 0), Data::Continue, LIMITS);
        }
        assert_eq!(outcome, Err(ProtocolError::EmptyFragments));
    }

    #[test]
    fn sizes_are_checked_before_any_payload_arrives() {
        let limits = MessageLimits { frame: 10, message: 15 };
        let mut assembler = Assembler::default();
        let frame = assembler.begin_frame(&header(Data::Binary, false, 11), Data::Binary, limits);
        assert_eq!(frame, Err(ProtocolError::FrameTooBig { len: 11, max: 10 }));
        let mut assembler = Assembler::default();
        let mut pool = BufferPool::new(0);
        assembler.begin_frame(&header(Data::Binary, false, 10), Data::Binary, limits).unwrap();
        assembler.absorb(&[0; 10], &mut pool).unwrap();
        assembler.finish_frame().unwrap();
        let message = assembler.begin_frame(&header(Data::Continue, true, 6), Data::Continue, limits);
        assert_eq!(message, Err(ProtocolError::MessageTooBig { len: 16, max: 15 }));
    }
}
