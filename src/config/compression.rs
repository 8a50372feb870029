//! Settings of permessage-deflate (RFC 7692).

use std::ops::RangeInclusive;

use crate::error::ConfigError;

/// Whether each client keeps a compression context.
///
/// All clients share one compressor and one decompressor in both modes, so no client has its own,
/// which would cost 250 to 370 KiB. A client's own cost is at most its context: the last bytes that
/// were sent or received, which are loaded into the compressor before the client's next message.
///
/// A message to many ([`broadcast`](crate::Server::broadcast), `publish`, a
/// [`Prepared`](crate::Prepared)) is compressed once for all clients with the same window, in
/// either mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DeflateMode {
    /// Each message is compressed independently, without memory per client. JSON of a few hundred
    /// bytes shrinks by a third, binary snapshots by a fifth.
    #[default]
    Shared,
    /// Each client has a context in each direction, so that a message may refer to earlier ones.
    /// This takes 8 KiB per direction and client with the default window. The same messages shrink
    /// by two thirds or more. A broadcast refers to no earlier message, but later messages may
    /// refer to it. A client that is idle from one ping to the next frees the context for messages
    /// sent to it; the context for messages it sends must stay.
    Dedicated,
}

/// Compression of messages, permessage-deflate (RFC 7692), for
/// [`ServerBuilder::deflate`](crate::ServerBuilder::deflate). Needs the feature `deflate`.
///
/// Negotiated with each client that offers it; other clients get uncompressed messages. Size limits
/// apply after inflation, so a small message that inflates to a huge one costs no more than
/// `max_message_size`.
///
/// Do not compress secrets together with data chosen by an attacker (CRIME, BREACH): send such a
/// message with [`SendOptions::uncompressed`](crate::SendOptions::uncompressed).
///
/// # Examples
///
/// ```
/// use tickws::{Deflate, DeflateMode, Server};
///
/// # fn main() -> std::io::Result<()> {
/// let server = Server::builder()
///     .deflate(Deflate::new(DeflateMode::Dedicated).server_max_window_bits(12).threshold(128))
///     .bind("127.0.0.1:0")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "settings do nothing until `ServerBuilder::deflate` takes them"]
pub struct Deflate {
    mode: DeflateMode,
    level: Option<u32>,
    threshold: Option<usize>,
    server_max_window_bits: Option<u8>,
    client_max_window_bits: Option<u8>,
    server_context_takeover: Option<bool>,
    client_context_takeover: Option<bool>,
}

impl Deflate {
    /// The configurable window sizes, as powers of two. A client may also request 8 (RFC 7692
    /// §7.1.2).
    pub(crate) const WINDOW_BITS: RangeInclusive<u8> = 9..=15;
    pub(crate) const LEVELS: RangeInclusive<u32> = 1..=9;

    /// The default settings of a mode. `Deflate::default()` uses [`DeflateMode::Shared`].
    pub fn new(mode: DeflateMode) -> Self {
        Deflate { mode, ..Deflate::default() }
    }

    /// Sets the compression level, from 1 (fastest) to 9 (smallest). Default 6.
    pub fn level(mut self, level: u32) -> Self {
        self.level = Some(level);
        self
    }

    /// Sets the size in bytes below which a message is sent uncompressed, because it would hardly
    /// shrink. Default 128, or 64 with
    /// [`server_context_takeover`](Deflate::server_context_takeover).
    pub fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = Some(bytes);
        self
    }

    /// Sets the window of messages that the server sends, as a power of two from 9 to 15. The
    /// window is how far back a repetition is found, and the size of a client's context. A client
    /// may request a smaller one. Default 15 (32 KiB), or 13 (8 KiB) with context takeover.
    pub fn server_max_window_bits(mut self, bits: u8) -> Self {
        self.server_max_window_bits = Some(bits);
        self
    }

    /// Sets the window of messages that clients send. It can be limited only for clients that offer
    /// `client_max_window_bits`, as browsers do (RFC 7692 §7.1.2.2). Other clients use 15, and get
    /// no context if that exceeds this setting. Default 15, or 13 with context takeover.
    pub fn client_max_window_bits(mut self, bits: u8) -> Self {
        self.client_max_window_bits = Some(bits);
        self
    }

    /// Sets whether a message that the server sends may refer to earlier ones, which takes one
    /// context per client. A client may decline. Default: only in [`DeflateMode::Dedicated`].
    pub fn server_context_takeover(mut self, on: bool) -> Self {
        self.server_context_takeover = Some(on);
        self
    }

    /// Sets whether a message that a client sends may refer to its earlier ones, which takes one
    /// context per client. Default: only in [`DeflateMode::Dedicated`].
    pub fn client_context_takeover(mut self, on: bool) -> Self {
        self.client_context_takeover = Some(on);
        self
    }

    /// Finds the first setting that cannot work.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let bits = (usize::from(*Self::WINDOW_BITS.start()), usize::from(*Self::WINDOW_BITS.end()));
        let levels = (*Self::LEVELS.start() as usize, *Self::LEVELS.end() as usize);
        for (setting, value, (min, max)) in [
            ("Deflate::level", self.get_level() as usize, levels),
            ("Deflate::server_max_window_bits", self.server_bits().into(), bits),
            ("Deflate::client_max_window_bits", self.client_bits().into(), bits),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::OutOfRange { setting, min, max });
            }
        }
        Ok(())
    }

    pub(crate) fn get_level(&self) -> u32 {
        self.level.unwrap_or(6)
    }

    pub(crate) fn get_threshold(&self) -> usize {
        self.threshold.unwrap_or(if self.server_takeover() { 64 } else { 128 })
    }

    pub(crate) fn server_bits(&self) -> u8 {
        self.server_max_window_bits.unwrap_or(if self.server_takeover() { 13 } else { 15 })
    }

    pub(crate) fn client_bits(&self) -> u8 {
        self.client_max_window_bits.unwrap_or(if self.client_takeover() { 13 } else { 15 })
    }

    pub(crate) fn server_takeover(&self) -> bool {
        self.server_context_takeover.unwrap_or(self.mode == DeflateMode::Dedicated)
    }

    pub(crate) fn client_takeover(&self) -> bool {
        self.client_context_takeover.unwrap_or(self.mode == DeflateMode::Dedicated)
    }
}
