//! What the application says of permessage-deflate (RFC 7692).

use std::ops::RangeInclusive;

use crate::error::ConfigError;

/// How the compression contexts of the clients are kept.
///
/// Either way there is one compressor and one decompressor for all clients, so a client never costs the 250 to
/// 370 KiB of a compressor of its own. What a client may cost is a context: the last bytes that went through,
/// which the compressor is shown again before the client's next message.
///
/// A message to many ([`broadcast`](crate::Server::broadcast), `publish`, a [`Prepared`](crate::Prepared)) is
/// compressed once for all clients with the same window, in either mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DeflateMode {
    /// Every message stands for itself: no memory per client. JSON of a few hundred bytes shrinks by a third,
    /// binary snapshots by a fifth.
    #[default]
    Shared,
    /// Each client has a context of its own in each direction, so that a message to it may refer to the ones before:
    /// 8 KiB per direction and client with the default window. The same messages shrink by two thirds and more.
    /// Those to many refer to nothing, but may be referred to. A client that is idle from one ping to the next gives
    /// the context of what it is sent back; that of what it sends has to stay.
    Dedicated,
}

/// Compression of messages, permessage-deflate (RFC 7692), for
/// [`ServerBuilder::deflate`](crate::ServerBuilder::deflate). Needs the feature `deflate`.
///
/// Negotiated with each client that offers it; the others get plain messages. The limits hold for what a message is
/// after inflation, so a small message that claims to be a huge one costs no more than `max_message_size`.
///
/// Do not compress secrets together with what an attacker chooses (CRIME, BREACH): send such a message with
/// [`SendOptions::uncompressed`](crate::SendOptions::uncompressed).
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
    /// The windows that can be asked for, as powers of two. (The RFC knows 8, too; a client may ask for it.)
    pub(crate) const WINDOW_BITS: RangeInclusive<u8> = 9..=15;
    pub(crate) const LEVELS: RangeInclusive<u32> = 1..=9;

    /// The defaults of a mode. `Deflate::default()` is those of [`DeflateMode::Shared`].
    pub fn new(mode: DeflateMode) -> Self {
        Deflate { mode, ..Deflate::default() }
    }

    /// From 1, fast, to 9, small. Default 6.
    pub fn level(mut self, level: u32) -> Self {
        self.level = Some(level);
        self
    }

    /// A message of fewer bytes is sent as it is: it would hardly shrink. Default 256, and 64 with contexts
    /// towards the client ([`server_context_takeover`](Deflate::server_context_takeover)).
    pub fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = Some(bytes);
        self
    }

    /// The window for what the server sends, as a power of two from 9 to 15: how far back a repetition is found,
    /// and the bytes of a client's context. A client may ask for less. Default 15 (32 KiB), and 13 (8 KiB) with
    /// contexts.
    pub fn server_max_window_bits(mut self, bits: u8) -> Self {
        self.server_max_window_bits = Some(bits);
        self
    }

    /// The same for what clients send. It can be asked only of a client that lets itself be asked, as browsers do;
    /// another one keeps its 15, and gets no context if that is more than this. Default 15, and 13 with contexts.
    pub fn client_max_window_bits(mut self, bits: u8) -> Self {
        self.client_max_window_bits = Some(bits);
        self
    }

    /// Whether what the server sends may refer to earlier messages, at the price of a context per client. A
    /// client may refuse. Default: only in [`DeflateMode::Dedicated`].
    pub fn server_context_takeover(mut self, on: bool) -> Self {
        self.server_context_takeover = Some(on);
        self
    }

    /// The same for what clients send.
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
        self.threshold.unwrap_or(if self.server_takeover() { 64 } else { 256 })
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
