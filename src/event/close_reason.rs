//! The reason that a `Close` event reports.

use std::{fmt, io};

use crate::{close_code::CloseCode, error::ProtocolError};

/// Why a connection ended, from [`Event::Close`](crate::Event::Close).
///
/// # Examples
///
/// ```
/// use tickws::{CloseCode, CloseReason};
///
/// let left = CloseReason::Peer { code: CloseCode::GOING_AWAY, text: String::new() };
/// assert!(!left.is_unexpected());
/// assert!(CloseReason::Eof.is_unexpected());
/// assert_eq!(left.to_string(), "the peer closed with 1001");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer began the close handshake. A close frame without a body has code 1005,
    /// [`CloseCode::NO_STATUS_RECEIVED`] (RFC 6455 §7.1.5).
    Peer {
        /// The peer's code.
        code: CloseCode,
        /// The peer's reason, often empty.
        text: String,
    },
    /// [`Server::close`](crate::Server::close) was called, and the peer sent its close frame or
    /// disconnected.
    Local {
        /// The code that this side sent.
        code: CloseCode,
        /// The reason that this side sent.
        text: String,
    },
    /// [`Server::disconnect`](crate::Server::disconnect) was called.
    Disconnected,
    /// [`Server::shutdown`](crate::Server::shutdown) was called.
    Shutdown,
    /// A deadline passed.
    Timeout(TimeoutKind),
    /// The outbox was full under [`OverflowPolicy::Disconnect`](crate::OverflowPolicy::Disconnect);
    /// closed with 1013.
    Overflow,
    /// The server was above [`max_total_buffered`](crate::ServerBuilder::max_total_buffered), or
    /// near it for too long, and this client had more buffered than others. It was closed with
    /// 1013, and its buffers were dropped.
    Shed,
    /// The peer sent more than `max_messages_per_second` or `max_bytes_per_second` allows under
    /// [`RateLimitPolicy::Close`](crate::RateLimitPolicy::Close); closed with 1008.
    RateLimited,
    /// The peer violated the protocol; closed with [`ProtocolError::close_code`].
    Protocol(ProtocolError),
    /// The peer ended the TCP connection without a close frame.
    Eof,
    /// As [`Eof`](CloseReason::Eof), and the connection was encrypted and ended without the
    /// close_notify of TLS (RFC 8446 §6.1): someone on the way may have cut it off. What came
    /// before was reported.
    Truncated,
    /// Reading or writing failed, for instance with
    /// [`ConnectionReset`](std::io::ErrorKind::ConnectionReset).
    Io(io::ErrorKind),
}

/// Which deadline ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeoutKind {
    /// No byte, not even a pong, arrived within `silence_timeout`.
    Silence,
    /// Bytes were queued, and none could be written within `write_timeout`.
    Write,
    /// The peer did not complete the close handshake within `close_timeout`.
    Close,
    /// The connection reached `max_lifetime`; closed with 1001.
    Lifetime,
}

impl CloseReason {
    /// Whether the end deserves an operator's attention. For a close by the peer this is gorilla's
    /// `IsUnexpectedCloseError` with the codes 1000, 1001 and 1005. Ends requested by this side and
    /// `max_lifetime` are expected; exceeded limits, other timeouts and lost connections are not.
    pub fn is_unexpected(&self) -> bool {
        match self {
            CloseReason::Peer { code, .. } => !matches!(
                *code,
                CloseCode::NORMAL_CLOSURE | CloseCode::GOING_AWAY | CloseCode::NO_STATUS_RECEIVED
            ),
            CloseReason::Local { .. } | CloseReason::Disconnected | CloseReason::Shutdown => false,
            CloseReason::Timeout(timeout) => *timeout != TimeoutKind::Lifetime,
            CloseReason::Overflow | CloseReason::Shed | CloseReason::RateLimited => true,
            CloseReason::Protocol(_) | CloseReason::Eof | CloseReason::Truncated | CloseReason::Io(_) => true,
        }
    }

    /// The connection's close code (RFC 6455 §7.1.5): the code that was received or sent, or 1006
    /// if there was none.
    pub fn code(&self) -> CloseCode {
        match self {
            CloseReason::Peer { code, .. } | CloseReason::Local { code, .. } => *code,
            CloseReason::Shutdown | CloseReason::Timeout(TimeoutKind::Lifetime) => CloseCode::GOING_AWAY,
            CloseReason::Overflow | CloseReason::Shed => CloseCode::TRY_AGAIN_LATER,
            CloseReason::RateLimited => CloseCode::POLICY_VIOLATION,
            CloseReason::Protocol(violation) => violation.close_code(),
            CloseReason::Disconnected
            | CloseReason::Timeout(_)
            | CloseReason::Eof
            | CloseReason::Truncated
            | CloseReason::Io(_) => CloseCode::ABNORMAL_CLOSURE,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Peer { code, text } => closed_with(f, "the peer", *code, text),
            CloseReason::Local { code, text } => closed_with(f, "this side", *code, text),
            CloseReason::Disconnected => f.write_str("disconnected by the application"),
            CloseReason::Shutdown => f.write_str("the server shut down"),
            CloseReason::Timeout(TimeoutKind::Silence) => f.write_str("the peer was silent for too long"),
            CloseReason::Timeout(TimeoutKind::Write) => f.write_str("the peer took no data for too long"),
            CloseReason::Timeout(TimeoutKind::Close) => {
                f.write_str("the peer did not answer the close frame in time")
            }
            CloseReason::Timeout(TimeoutKind::Lifetime) => {
                f.write_str("the connection reached its maximum lifetime")
            }
            CloseReason::Overflow => f.write_str("the peer reads too slowly: its outbox was full"),
            CloseReason::Shed => {
                f.write_str("the server was at its memory limit, and this client had most buffered")
            }
            CloseReason::RateLimited => f.write_str("the peer sent more than the rate limit allows"),
            CloseReason::Protocol(violation) => write!(f, "protocol violation: {violation}"),
            CloseReason::Eof => f.write_str("the peer disconnected without a close frame"),
            CloseReason::Truncated => {
                f.write_str("the encrypted connection ended without a close frame or close_notify")
            }
            CloseReason::Io(kind) => write!(f, "connection lost: {kind}"),
        }
    }
}

fn closed_with(f: &mut fmt::Formatter<'_>, who: &str, code: CloseCode, text: &str) -> fmt::Result {
    match text {
        "" => write!(f, "{who} closed with {code}"),
        // Debug form: a peer must not write line breaks into a log.
        text => write!(f, "{who} closed with {code}: {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_unexpected_matches_gorilla() {
        let peer = |code: u16| CloseReason::Peer { code: code.into(), text: String::new() };
        for code in [1000, 1001, 1005] {
            assert!(!peer(code).is_unexpected(), "{code}");
        }
        for code in [1002, 1006, 1011, 4000] {
            assert!(peer(code).is_unexpected(), "{code}");
        }
        assert!(CloseReason::Timeout(TimeoutKind::Silence).is_unexpected());
        assert!(!CloseReason::Timeout(TimeoutKind::Lifetime).is_unexpected());
        assert_eq!(CloseReason::Timeout(TimeoutKind::Silence).code(), CloseCode::ABNORMAL_CLOSURE);
        assert!(CloseReason::RateLimited.is_unexpected());
        assert_eq!(u16::from(CloseReason::RateLimited.code()), 1008);
        assert_eq!(CloseReason::Protocol(ProtocolError::InvalidUtf8).code(), CloseCode::INVALID_PAYLOAD_DATA);
    }

    #[test]
    fn peer_text_is_escaped_in_display() {
        let reason = CloseReason::Peer { code: CloseCode::NORMAL_CLOSURE, text: "bye\nERROR fake".into() };
        assert_eq!(reason.to_string(), r#"the peer closed with 1000: "bye\nERROR fake""#);
    }
}
