//! Compressed messages (RFC 7692): one [`Codec`] for all connections, and for each connection the
//! contexts that it has negotiated.
//!
//! A context is the window that the next message may refer to, and nothing else: the last bytes of
//! the messages before it. The codec loads it before each message, so that no client needs a
//! compressor (251 to 380 KB) or a decompressor (48 KB) of its own. For 10,000 clients that makes
//! the difference between 160 MB and 4 GB. The context is not loaded again for a client that is
//! sent several messages in a row.
//!
//! Measured with JSON chat lines of 300 bytes on average and with snapshots of 4 KiB, at level 6:
//! CPU time per message, and memory per client and direction:
//!
//! | window | ratio JSON | compress | ratio snapshots | compress | inflate JSON | memory |
//! |---|---|---|---|---|---|---|
//! | no context | 0.69 | 7.5 µs | 0.81 | 52 µs | 1.6 µs | 0 |
//! | 4 KiB | 0.32 | 8.9 µs | 0.81 | 61 µs | 0.7 µs | 4 KiB |
//! | 8 KiB | 0.30 | 12 µs | 0.28 | 43 µs | – | 8 KiB |
//! | 32 KiB | 0.27 | 30 µs | 0.28 | 69 µs | 0.5 µs | 32 KiB |
//! | 32 KiB, a compressor of its own | 0.27 | 7.8 µs | 0.28 | 45 µs | 0.3 µs | 371 KiB |
//!
//! The backend is flate2 with zlib-rs: its windows can be chosen, unlike those of miniz_oxide, and
//! it needs no C compiler and no CMake, unlike zlib-ng. CPU time per message at level 6, for JSON
//! and snapshots without a context and with one of 32 KiB, and for inflating them:
//!
//! | | JSON | with context | snapshots | with context | inflate JSON | snapshots |
//! |---|---|---|---|---|---|---|
//! | zlib-rs 0.6 | 7.5 µs | 7.8 µs | 52 µs | 45 µs | 1.6 µs | 11 µs |
//! | zlib-ng 2.2 | 7.7 µs | 7.3 µs | 78 µs | 57 µs | 1.8 µs | 11 µs |
//! | miniz_oxide 0.9 | 6.6 µs | 11 µs | 76 µs | 63 µs | 3.5 µs | 15 µs |

#![allow(clippy::indexing_slicing, reason = "a codec never reports more bytes than it was given")]

mod context;
mod negotiation;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use http::header::{HeaderMap, HeaderValue};

use crate::{
    config::{Config, compression::Deflate},
    error::ProtocolError,
};
use context::Context;
use negotiation::{Agreed, Way};

/// The end of every compressed message, which is not transmitted (§7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// An empty final block; it ends a stream only where a block has ended.
const END: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// Size of the largest window in bytes (§7.1.2).
const WINDOW: usize = 1 << *Deflate::WINDOW_BITS.end();

/// Compresses and inflates for all connections. Owns no memory until it is used.
#[derive(Debug)]
pub(crate) struct Codec {
    config: Option<Deflate>,
    threshold: usize,
    /// Indexed by the bits of the window less 9.
    compressors: [Option<Compressor>; 7],
    inflater: Option<Decompress>,
    /// The message that was compressed last.
    packed: Vec<u8>,
    /// Scratch buffer for a context in one piece.
    context: Vec<u8>,
    /// Number of the connection that was opened last; the first one is 1.
    serial: u64,
    /// Messages compressed so far.
    #[cfg(test)]
    pub(crate) runs: u64,
}

#[derive(Debug)]
struct Compressor {
    raw: Compress,
    /// The connection whose context is loaded; 0 if none is.
    owner: u64,
}

/// The agreed parameters of one connection, and its contexts.
#[derive(Debug)]
pub(crate) struct PerMessage {
    serial: u64,
    /// Window of our messages, in bits.
    bits: u8,
    /// Context of our messages; `None` without context takeover (§7.1.1).
    sent: Option<Context>,
    /// Context of the peer's messages; `None` without context takeover.
    received: Option<Context>,
    /// A message was added to `sent` since the last `rest`.
    active: bool,
}

impl Codec {
    /// Bytes of capacity that `packed` keeps from one message to the next, at most.
    const KEPT: usize = 256 * 1024;

    /// Limit of final blocks in one message. A message needs none, and each costs as much time as a
    /// message.
    const MAX_FINAL: usize = 8;

    pub(crate) fn new(config: &Config) -> Self {
        let config = config.deflate.clone();
        Codec {
            threshold: config.as_ref().map_or(0, |config| config.get_threshold()).max(1),
            config,
            compressors: [const { None }; 7],
            inflater: None,
            packed: Vec::new(),
            context: Vec::new(),
            serial: 0,
            #[cfg(test)]
            runs: 0,
        }
    }

    /// Whether a message of this length reaches the configured threshold.
    pub(crate) fn wants(&self, len: usize) -> bool {
        len >= self.threshold
    }

    /// Negotiates compression with a client that offers it: the connection's state, and the value
    /// of the response's `Sec-WebSocket-Extensions`. `None` if it is not configured, not offered or
    /// declined.
    pub(crate) fn negotiate(&mut self, request: &HeaderMap) -> Option<(PerMessage, HeaderValue)> {
        let (agreed, response) = negotiation::accept(request, self.config.as_ref()?)?;
        Some((self.open(agreed.server, agreed.client), response))
    }

    /// The offer in the request of an outbound connection.
    pub(crate) fn offer(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&negotiation::offer(self.config.as_ref()?)).ok()
    }

    /// Applies the server's response to [`offer`](Self::offer). Fails if the server accepted
    /// something that was not offered.
    pub(crate) fn confirm(
        &mut self,
        response: &HeaderMap,
    ) -> Result<Option<PerMessage>, negotiation::Unasked> {
        let Some(config) = &self.config else { return Ok(None) };
        let agreed = negotiation::confirm(response, config)?;
        Ok(agreed.map(|Agreed { server, client }| self.open(client, server)))
    }

    fn open(&mut self, ours: Way, theirs: Way) -> PerMessage {
        self.serial += 1;
        PerMessage {
            serial: self.serial,
            bits: ours.bits,
            sent: ours.takeover.then(|| Context::new(ours.bits)),
            received: theirs.takeover.then(|| Context::new(theirs.bits)),
            active: false,
        }
    }

    /// Compresses a message without a context, for any client with a window of at least 2^bits
    /// bytes; `None` if it is too short or would not shrink.
    pub(crate) fn compress(&mut self, bits: u8, payload: &[u8]) -> Option<&[u8]> {
        if !self.wants(payload.len()) {
            return None;
        }
        self.run(bits, 0, None, payload)
    }

    /// Compresses into `packed`, with the context of `owner`.
    fn run(&mut self, bits: u8, owner: u64, context: Option<&Context>, payload: &[u8]) -> Option<&[u8]> {
        #[cfg(test)]
        {
            self.runs += 1;
        }
        let Codec { config, compressors, packed, context: bytes, .. } = self;
        // zlib has no window of 256 bytes for raw streams. That of 512 will do, because zlib then
        // refers no further back than 250 bytes.
        let bits = bits.clamp(*Deflate::WINDOW_BITS.start(), *Deflate::WINDOW_BITS.end());
        let slot = compressors.get_mut(usize::from(bits - *Deflate::WINDOW_BITS.start()))?;
        let compressor = slot.get_or_insert_with(|| {
            let level = Compression::new(config.as_ref().map_or(6, Deflate::get_level));
            Compressor { raw: Compress::new_with_window_bits(level, false, bits), owner: 0 }
        });
        // The owner is set again only when the result is going to be sent.
        if std::mem::take(&mut compressor.owner) != owner || owner == 0 {
            compressor.raw.reset();
            if let Some(context) = context.filter(|context| !context.is_empty()) {
                context.copy_to(bytes);
                compressor.raw.set_dictionary(bytes).ok()?;
            }
        }
        packed.clear();
        if packed.capacity() > Self::KEPT {
            *packed = Vec::new();
        }
        // Worst case: fixed codes of 9 bits, or stored blocks with 5 bytes each on top. The output
        // must fit at once, because zlib-rs 0.6.8 panics at level 1 when it continues after its
        // output was full (`deflate_quick` assumes that pending output begins at the start of the
        // buffer).
        packed.reserve(payload.len() + payload.len() / 8 + 1024);
        let before = compressor.raw.total_in();
        compressor.raw.compress_vec(payload, packed, FlushCompress::Sync).ok()?;
        let whole = compressor.raw.total_in() - before == payload.len() as u64;
        // §7.2.1: "Remove 4 octets (that are 0x00 0x00 0xff 0xff) from the tail end."
        if !whole || !packed.ends_with(&TAIL) || packed.len() - TAIL.len() >= payload.len() {
            return None;
        }
        packed.truncate(packed.len() - TAIL.len());
        compressor.owner = owner;
        Some(packed)
    }

    /// Marks the compressors that have loaded this connection's context: it has changed since.
    fn disown(&mut self, owner: u64) {
        let compressors = self.compressors.iter_mut().flatten();
        for compressor in compressors.filter(|compressor| compressor.owner == owner) {
            compressor.owner = 0;
        }
    }

    /// Inflates `payload` with this context, and appends the result to `out`.
    fn inflate(
        &mut self,
        context: Option<&Context>,
        payload: &[u8],
        out: &mut Vec<u8>,
        max: u64,
    ) -> Result<(), ProtocolError> {
        let Codec { inflater, context: bytes, .. } = self;
        // The largest window, whichever was agreed on: zlib would allocate a smaller one at each
        // reset.
        let inflater = inflater.get_or_insert_with(|| Decompress::new(false));
        bytes.clear();
        if let Some(context) = context {
            context.copy_to(bytes);
        }
        let mut run = Inflation { inflater, out, max };
        run.restart(bytes)?;
        let mut rest = payload;
        let mut finals = 0;
        loop {
            let (used, ended) = run.feed(rest)?;
            rest = &rest[used..];
            if !ended {
                break;
            }
            // §7.2.3.4: blocks may follow a final block, in the same context.
            if rest.is_empty() {
                return Ok(());
            }
            finals += 1;
            if finals > Self::MAX_FINAL {
                return Err(ProtocolError::CorruptDeflate);
            }
            let context = bytes.len();
            bytes.extend_from_slice(&run.out[run.out.len().saturating_sub(WINDOW)..]);
            run.restart(&bytes[bytes.len().saturating_sub(WINDOW)..])?;
            bytes.truncate(context);
        }
        // §7.2.2: "Append 4 octets of 0x00 0x00 0xff 0xff to the tail end of the payload of the
        // message."
        let (used, ended) = run.feed(&TAIL)?;
        // The last block must end there, or the message is cut off.
        let len = run.out.len();
        if (used, ended) == (TAIL.len(), true) {
            return Ok(());
        }
        if !ended && run.feed(&END)? == (END.len(), true) && run.out.len() == len {
            return Ok(());
        }
        Err(ProtocolError::CorruptDeflate)
    }
}

/// One message that is being inflated.
struct Inflation<'i> {
    inflater: &'i mut Decompress,
    out: &'i mut Vec<u8>,
    max: u64,
}

impl Inflation<'_> {
    fn restart(&mut self, context: &[u8]) -> Result<(), ProtocolError> {
        self.inflater.reset(false);
        if !context.is_empty() {
            self.inflater.set_dictionary(context).map_err(|_| ProtocolError::CorruptDeflate)?;
        }
        Ok(())
    }

    /// Inflates all of `input`, or up to the end of a final block. Returns how many bytes it took,
    /// and whether a final block ended. Memory grows with the output, and not beyond the limit.
    fn feed(&mut self, input: &[u8]) -> Result<(usize, bool), ProtocolError> {
        let mut used = 0;
        loop {
            if self.out.len() == self.out.capacity() {
                let left = self.max.saturating_sub(self.out.len() as u64).saturating_add(1);
                let more = self.out.len().max(4 * input.len()).max(512);
                self.out.reserve_exact(more.min(usize::try_from(left).unwrap_or(usize::MAX)));
            }
            let (taken, given) = (self.inflater.total_in(), self.out.len());
            let status = self
                .inflater
                .decompress_vec(&input[used..], self.out, FlushDecompress::Sync)
                .map_err(|_| ProtocolError::CorruptDeflate)?;
            let taken = (self.inflater.total_in() - taken) as usize;
            used += taken;
            let len = self.out.len() as u64;
            if len > self.max {
                return Err(ProtocolError::MessageTooBig { len, max: self.max });
            }
            if status == Status::StreamEnd {
                return Ok((used, true));
            }
            if self.out.len() < self.out.capacity() {
                if used == input.len() {
                    return Ok((used, false));
                }
                if taken == 0 && self.out.len() == given {
                    return Err(ProtocolError::CorruptDeflate);
                }
            }
        }
    }
}

impl PerMessage {
    /// Size of the window to compress for: 2^bits bytes.
    pub(crate) fn bits(&self) -> u8 {
        self.bits
    }

    /// Adds a message that was compressed without the context: the next one may refer to it as
    /// well.
    pub(crate) fn note(&mut self, codec: &mut Codec, payload: &[u8]) {
        if let Some(context) = &mut self.sent {
            context.push(payload);
            self.active = true;
            codec.disown(self.serial);
        }
    }

    /// Returns the payload of a compressed frame for this message, or `None` if the message is too
    /// short or would not shrink. The frame has to leave after all that were compressed before.
    /// With `ahead` it may leave earlier, and is not compressed if its context is taken over.
    pub(crate) fn compress<'c>(
        &mut self,
        codec: &'c mut Codec,
        payload: &[u8],
        ahead: bool,
    ) -> Option<&'c [u8]> {
        let Some(context) = &mut self.sent else { return codec.compress(self.bits, payload) };
        if ahead || !codec.wants(payload.len()) {
            return None;
        }
        let packed = codec.run(self.bits, self.serial, Some(context), payload)?;
        context.push(payload);
        self.active = true;
        Some(packed)
    }

    /// Inflates the payload of a compressed message into `out`, which is empty.
    pub(crate) fn inflate(
        &mut self,
        codec: &mut Codec,
        payload: &[u8],
        out: &mut Vec<u8>,
        max: u64,
    ) -> Result<(), ProtocolError> {
        codec.inflate(self.received.as_ref(), payload, out, max)?;
        if let Some(context) = &mut self.received {
            context.push(out);
        }
        Ok(())
    }

    /// Called periodically: a connection that has sent nothing since the last call releases the
    /// context of its sent messages, and the next message refers to none. The context of received
    /// messages must be kept, because the peer may refer to it.
    pub(crate) fn rest(&mut self) {
        if !std::mem::take(&mut self.active)
            && let Some(context) = &mut self.sent
        {
            context.clear();
        }
    }

    /// Memory of both contexts, in bytes.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn memory(&self) -> usize {
        self.sent.iter().chain(&self.received).map(Context::memory).sum()
    }
}
