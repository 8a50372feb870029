//! The seam to the host: a byte stream, and how the host reports that it is ready.

use std::{
    io::{self, Read, Write},
    sync::Arc,
    time::Duration,
};

use crate::{
    config::Config,
    tls::info::{TlsFailure, TlsInfo},
};

/// A non-blocking byte stream. The readiness source tells the engine when to use it.
///
/// A stream may be encrypted: then [`needs_handshake`](Stream::needs_handshake) is `Some` at first,
/// nothing is read or written before the handshake is complete, and `flush` writes the ciphertext
/// that earlier writes have left in the stream.
pub(crate) trait Stream: Read + Write {
    /// Sends FIN; nothing is written afterwards.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Whether a connection attempt has succeeded; an error if it failed.
    fn connected(&mut self) -> io::Result<bool>;

    /// Applies the socket options of the configuration, once the stream is connected.
    fn tune(&self, config: &Config);

    /// Sets the size of the kernel's send buffer, once the WebSocket is open.
    fn set_send_buffer(&self, bytes: usize);

    /// The part of a handshake that is to be done; `None` once it is complete, and for a stream
    /// without TLS.
    fn needs_handshake(&self) -> Option<HandshakePart> {
        None
    }

    /// Does one step of the handshake. `ahead` was read from the stream before it began.
    fn handshake(&mut self, ahead: &[u8]) -> HandshakeStep {
        let _ = ahead;
        HandshakeStep::default()
    }

    /// The parameters of the handshake; `None` before it is complete and without TLS.
    fn tls(&self) -> Option<&Arc<TlsInfo>> {
        None
    }

    /// Whether TLS is expected of a peer that speaks plain text.
    fn is_plain_by_mistake(&self) -> bool {
        false
    }

    /// Whether there is input, or the end of it, of which no readable event will tell. A read that
    /// returns less than there was room for may leave some behind.
    fn has_input(&self) -> bool {
        false
    }

    /// Memory that the stream holds for bytes that are incomplete or not taken, in bytes.
    fn memory(&self) -> usize {
        0
    }

    /// Announces that nothing is written after what is queued: the end of the encrypted stream
    /// leaves together with the last bytes.
    fn end_after_output(&mut self) {}
}

/// A part of a TLS handshake.
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only encrypted streams have handshakes"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakePart {
    /// The step that signs, which takes up to a millisecond.
    Costly,
    /// Any other.
    Cheap,
}

/// The outcome of one step of a TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct HandshakeStep {
    pub(crate) state: HandshakeState,
    /// The time that the step took.
    pub(crate) spent: Duration,
    /// The step has done the costly part.
    pub(crate) was_costly: bool,
    /// The socket did not take all that the step has to send: a flush has to follow.
    pub(crate) is_congested: bool,
}

#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only encrypted streams have handshakes"))]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum HandshakeState {
    /// More bytes of the peer are needed, or the socket takes no more.
    #[default]
    Waiting,
    /// The handshake is complete; further input may be there already.
    Complete(Arc<TlsInfo>),
    /// The peer does not speak TLS, but seems to speak HTTP. Its bytes are read next, and a
    /// response can be written in plain text.
    PlainText,
    /// The peer has closed the connection, or it is broken.
    Gone(io::ErrorKind),
    /// The handshake has failed. An alert may still have to be flushed.
    Failed { cause: TlsFailure, error: String },
}

/// Readiness of one stream, as the readiness source reports it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has sent FIN, or the connection failed.
    pub(crate) read_closed: bool,
    /// TCP urgent data has arrived.
    pub(crate) urgent: bool,
}
