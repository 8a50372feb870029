//! Compressed messages (RFC 7692): one [`Codec`] for all connections, and of each connection the contexts that it
//! agreed on.
//!
//! A context is the window that the next message may refer to, and nothing else: the last bytes of the messages
//! before. The codec is shown it ahead of each message, so that no client has a compressor (251 to 380 KB each) or a
//! decompressor (48 KB) of its own. That makes the difference between 10,000 clients in 160 MB and in 4 GB.
//!
//! Measured on JSON chat lines of 300 bytes on average and on snapshots of 4 KiB, level 6; CPU per message:
//!
//! | window | ratio JSON | compress | ratio snapshots | compress | inflate JSON | per client and direction |
//! |---|---|---|---|---|---|---|
//! | no context | 0.69 | 7.5 µs | 0.81 | 52 µs | 1.6 µs | 0 |
//! | 4 KiB | 0.32 | 8.9 µs | 0.81 | 61 µs | 0.7 µs | 4 KiB |
//! | 8 KiB | 0.30 | 12 µs | 0.28 | 43 µs | – | 8 KiB |
//! | 32 KiB | 0.27 | 30 µs | 0.28 | 69 µs | 0.5 µs | 32 KiB |
//! | 32 KiB, a compressor of its own | 0.27 | 7.8 µs | 0.28 | 45 µs | 0.3 µs | 371 KiB |
//!
//! Who is sent several messages in a row is not shown its context again in between.
//!
//! The backend is flate2 with zlib-rs: windows can be chosen, which miniz_oxide cannot do, and it needs no C
//! compiler and no CMake, as zlib-ng does. JSON without a context and with one of 32 KiB, then the snapshots
//! likewise, compressed at level 6, and inflated:
//!
//! | | JSON | with context | snapshots | with context | inflate JSON | snapshots |
//! |---|---|---|---|---|---|---|
//! | zlib-rs 0.6 | 7.5 µs | 7.8 µs | 52 µs | 45 µs | 1.6 µs | 11 µs |
//! | zlib-ng 2.2 | 7.7 µs | 7.3 µs | 78 µs | 57 µs | 1.8 µs | 11 µs |
//! | miniz_oxide 0.9 | 6.6 µs | 11 µs | 76 µs | 63 µs | 3.5 µs | 15 µs |

#![allow(clippy::indexing_slicing, reason = "what a codec used is at most what it was given")]

mod history;
mod negotiation;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tungstenite::http::header::{HeaderMap, HeaderValue};

use crate::{config::Config, deflate::Deflate, error::PeerMisbehaved};
use history::History;
use negotiation::{Agreed, Way};

/// §7.2.1: what ends every message, and is left out of it.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// An empty final block, which only ends a stream where a block has ended.
const END: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// The largest window (§7.1.2), in bytes.
const WINDOW: usize = 1 << *Deflate::WINDOW_BITS.end();

/// What compresses and inflates for all connections. Owns nothing until it is used.
#[derive(Debug)]
pub(crate) struct Codec {
    config: Option<Deflate>,
    threshold: usize,
    /// By the bits of their windows, from 9.
    compressors: [Option<Compressor>; 7],
    inflater: Option<Decompress>,
    /// The last message compressed.
    packed: Vec<u8>,
    /// A context in one piece.
    context: Vec<u8>,
    /// The number of the last connection.
    serial: u64,
    /// Messages compressed so far.
    #[cfg(test)]
    pub(crate) runs: u64,
}

#[derive(Debug)]
struct Compressor {
    raw: Compress,
    /// The connection whose context it stands in; 0: nobody's.
    owner: u64,
}

/// What one connection agreed on, and its contexts.
#[derive(Debug)]
pub(crate) struct PerMessage {
    serial: u64,
    /// Of our messages: the window, and the context if there is one.
    bits: u8,
    sent: Option<History>,
    /// Of the peer's.
    received: Option<History>,
    /// Something was compressed in our context since the last `rest`.
    active: bool,
}

impl Codec {
    /// The most that is kept of a buffer between two messages.
    const KEPT: usize = 256 * 1024;

    /// Final blocks in one message. It needs none, and each costs as much as a message.
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

    /// Whether a message of this length is worth being compressed.
    pub(crate) fn wants(&self, len: usize) -> bool {
        len >= self.threshold
    }

    /// What to answer a client that offers compression, if the configuration wants it.
    pub(crate) fn negotiate(&mut self, request: &HeaderMap) -> Option<(PerMessage, HeaderValue)> {
        let (agreed, answer) = negotiation::accept(request, self.config.as_ref()?)?;
        Some((self.open(agreed.server, agreed.client), answer))
    }

    /// What an outbound connection asks for in its request.
    pub(crate) fn offer(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&negotiation::offer(self.config.as_ref()?)).ok()
    }

    /// What an outbound connection gets of it. An error: the server answers what was not asked.
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
            sent: ours.takeover.then(|| History::new(ours.bits)),
            received: theirs.takeover.then(|| History::new(theirs.bits)),
            active: false,
        }
    }

    /// A message on its own, for whoever has a window of at least 2^bits; `None` if it had better go as it is.
    pub(crate) fn compress(&mut self, bits: u8, payload: &[u8]) -> Option<&[u8]> {
        if !self.wants(payload.len()) {
            return None;
        }
        self.run(bits, 0, None, payload)
    }

    /// Compresses into `packed`, in the context of `owner`.
    fn run(&mut self, bits: u8, owner: u64, context: Option<&History>, payload: &[u8]) -> Option<&[u8]> {
        #[cfg(test)]
        {
            self.runs += 1;
        }
        let Codec { config, compressors, packed, context: bytes, .. } = self;
        // zlib knows no window of 256 bytes for raw streams, but with 512 nothing refers further back than 250.
        let bits = bits.clamp(*Deflate::WINDOW_BITS.start(), *Deflate::WINDOW_BITS.end());
        let slot = compressors.get_mut(usize::from(bits - *Deflate::WINDOW_BITS.start()))?;
        let compressor = slot.get_or_insert_with(|| {
            let level = Compression::new(config.as_ref().map_or(6, Deflate::get_level));
            Compressor { raw: Compress::new_with_window_bits(level, false, bits), owner: 0 }
        });
        // Until it is known that what it has seen is sent, it stands in nobody's context.
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
        // The worst: fixed codes of 9 bits. What is not compressed takes 5 bytes per block on top. It has to fit: zlib-rs
        // 0.6.8 panics at level 1 when it is to go on after its output was full (`deflate_quick` forgets that
        // what is pending does not begin at the buffer's start).
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

    /// This connection's context has gone on without the compressor that stood in it.
    fn disown(&mut self, owner: u64) {
        let compressors = self.compressors.iter_mut().flatten();
        for compressor in compressors.filter(|compressor| compressor.owner == owner) {
            compressor.owner = 0;
        }
    }

    /// Appends what `payload` becomes, in this context, to `out`.
    fn inflate(
        &mut self,
        context: Option<&History>,
        payload: &[u8],
        out: &mut Vec<u8>,
        max: u64,
    ) -> Result<(), PeerMisbehaved> {
        let Codec { inflater, context: bytes, .. } = self;
        // Whatever window was agreed on: the smaller ones would be allocated anew at each reset.
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
            // §7.2.3.4: a final block, and more may follow in the same context.
            if rest.is_empty() {
                return Ok(());
            }
            finals += 1;
            if finals > Self::MAX_FINAL {
                return Err(PeerMisbehaved::CorruptDeflate);
            }
            let context = bytes.len();
            bytes.extend_from_slice(&run.out[run.out.len().saturating_sub(WINDOW)..]);
            run.restart(&bytes[bytes.len().saturating_sub(WINDOW)..])?;
            bytes.truncate(context);
        }
        // §7.2.2: "Append 4 octets of 0x00 0x00 0xff 0xff to the tail end of the payload of the message."
        let (used, ended) = run.feed(&TAIL)?;
        // The last block has to end there, or the message is cut off.
        let len = run.out.len();
        if (used, ended) == (TAIL.len(), true) {
            return Ok(());
        }
        if !ended && run.feed(&END)? == (END.len(), true) && run.out.len() == len {
            return Ok(());
        }
        Err(PeerMisbehaved::CorruptDeflate)
    }
}

/// One message on its way out of the inflater.
struct Inflation<'i> {
    inflater: &'i mut Decompress,
    out: &'i mut Vec<u8>,
    max: u64,
}

impl Inflation<'_> {
    fn restart(&mut self, context: &[u8]) -> Result<(), PeerMisbehaved> {
        self.inflater.reset(false);
        if !context.is_empty() {
            self.inflater.set_dictionary(context).map_err(|_| PeerMisbehaved::CorruptDeflate)?;
        }
        Ok(())
    }

    /// Takes all of `input`, or up to the end of a final block: how much, and whether there was one. Memory grows
    /// with what comes out, and not beyond the limit.
    fn feed(&mut self, input: &[u8]) -> Result<(usize, bool), PeerMisbehaved> {
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
                .map_err(|_| PeerMisbehaved::CorruptDeflate)?;
            let taken = (self.inflater.total_in() - taken) as usize;
            used += taken;
            let len = self.out.len() as u64;
            if len > self.max {
                return Err(PeerMisbehaved::MessageTooBig { len, max: self.max });
            }
            if status == Status::StreamEnd {
                return Ok((used, true));
            }
            if self.out.len() < self.out.capacity() {
                if used == input.len() {
                    return Ok((used, false));
                }
                if taken == 0 && self.out.len() == given {
                    return Err(PeerMisbehaved::CorruptDeflate);
                }
            }
        }
    }
}

impl PerMessage {
    /// The window to compress for is 2^bits bytes.
    pub(crate) fn bits(&self) -> u8 {
        self.bits
    }

    /// This message is sent, compressed without the context: the next may refer to it like to any other.
    pub(crate) fn note(&mut self, codec: &mut Codec, payload: &[u8]) {
        if let Some(context) = &mut self.sent {
            context.push(payload);
            self.active = true;
            codec.disown(self.serial);
        }
    }

    /// The payload of a compressed frame with this message, or `None` if it had better go as it is. It has to leave
    /// behind everything compressed before; `ahead`: it will not.
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

    /// Appends the message in the payload of a compressed one to `out`, which is empty.
    pub(crate) fn inflate(
        &mut self,
        codec: &mut Codec,
        payload: &[u8],
        out: &mut Vec<u8>,
        max: u64,
    ) -> Result<(), PeerMisbehaved> {
        codec.inflate(self.received.as_ref(), payload, out, max)?;
        if let Some(context) = &mut self.received {
            context.push(out);
        }
        Ok(())
    }

    /// Called once in a while: a connection that sends nothing gives the context of what it sent back. The next
    /// message simply refers to nothing. That of what it received has to stay, as the peer may refer to it.
    pub(crate) fn rest(&mut self) {
        if !std::mem::take(&mut self.active)
            && let Some(context) = &mut self.sent
        {
            context.clear();
        }
    }

    /// Memory of the contexts, in bytes.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn memory(&self) -> usize {
        self.sent.iter().chain(&self.received).map(History::memory).sum()
    }
}
