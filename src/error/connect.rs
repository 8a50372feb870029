//! Errors of outbound connections.

use std::{fmt, io};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use thiserror::Error;

use super::HeaderError;
use crate::peer_addr::PeerAddr;

/// Why an outbound connection failed. [`Server::connect`](crate::Server::connect) returns the
/// errors it detects itself. Later ones arrive in
/// [`Event::ConnectFailed`](crate::Event::ConnectFailed), or in
/// [`Event::Reconnecting`](crate::Event::Reconnecting) if another attempt follows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL is not usable. The error does not repeat it, because a URL may contain a token.
    #[error("not a URL to connect to: {0}")]
    Url(&'static str),
    /// The URL begins with `wss://`, and the feature `tls` is off.
    #[error("wss:// needs TLS: turn on the feature `tls` of tickws, or use ws://")]
    Tls,
    /// The TLS handshake failed: the certificate is not trusted or not for the name of the URL, for
    /// instance. The text names the cause.
    #[error("the TLS handshake failed: {0}")]
    TlsHandshake(String),
    /// A header cannot be part of the request.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// A subprotocol is not a token, or is offered twice (RFC 6455 §4.1).
    #[error("{0:?} is not a subprotocol, or is offered twice: use letters, digits and !#$%&'*+-.^_`|~")]
    Subprotocol(String),
    /// The operating system returned no random numbers, which masking keys need (RFC 6455 §10.3).
    #[error("the operating system returned no random numbers")]
    NoRandom,
    /// The operating system's poller could not be created. Only [`Client`](crate::Client) returns
    /// this.
    #[error("cannot create a poller: {0}")]
    Poller(io::ErrorKind),
    /// [`Server::shutdown`](crate::Server::shutdown) was called.
    #[error("the server is shutting down and opens no more connections")]
    ShuttingDown,
    /// The name has no address, or the system's resolver failed.
    #[error("{host} does not resolve: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// The error of the operating system.
        error: String,
    },
    /// Too many names are waiting for the resolver.
    #[error("too many names are waiting to be resolved: try again later, or connect by address")]
    ResolverBusy,
    /// No address accepted a connection, or the connection was lost before the end of the
    /// handshake. With several addresses this is the error of the last.
    #[error("{addr}: {error}")]
    Io {
        /// The address; [`PeerAddr::Unix`] for a Unix domain socket.
        addr: PeerAddr,
        /// The error of the operating system.
        error: io::ErrorKind,
    },
    /// The deadline passed.
    #[error("the deadline passed {0}")]
    Timeout(ConnectStep),
    /// The server ended the connection before its response was complete.
    #[error("the server closed the connection before its response was complete")]
    HungUp,
    /// The server redirects to another URL. The redirect is not followed: the application decides
    /// whether the new URL may receive the same headers and tokens.
    #[error("the server redirects with {status} to {location:?}: connect there if you trust it")]
    Redirect {
        /// The 3xx status.
        status: StatusCode,
        /// The `Location` header as sent by the server, possibly relative.
        location: String,
    },
    /// The server's response has a status other than 101.
    #[error("the server refused: {0}")]
    Refused(Box<Refusal>),
    /// The server sent no valid HTTP response, or one that RFC 6455 §4.1 does not allow. The text
    /// names the fault.
    #[error("the server's response is invalid: {0}")]
    BadResponse(&'static str),
    /// The connection was open and has been lost once more than
    /// [`Reconnect::max_tries`](crate::Reconnect::max_tries) allows.
    #[error("connection lost, and no tries are left")]
    GaveUp,
    /// [`Server::close`](crate::Server::close) or [`Server::disconnect`](crate::Server::disconnect)
    /// was called.
    #[error("cancelled by the application")]
    Cancelled,
    /// The server is at its memory limit,
    /// [`max_total_buffered`](crate::ServerBuilder::max_total_buffered).
    #[error("the server is at its memory limit (max_total_buffered)")]
    Overloaded,
}

/// The step in which an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectStep {
    /// Resolving the name.
    Resolve,
    /// Connecting over TCP.
    Connect,
    /// Sending the request and waiting for the response.
    Handshake,
}

/// A response with a status that is neither 101 nor a redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The first bytes of the body, at most 1 KiB, with chunked coding removed.
    pub body: Bytes,
}

impl fmt::Display for ConnectStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectStep::Resolve => "while resolving the name",
            ConnectStep::Connect => "while connecting",
            ConnectStep::Handshake => "while waiting for the response",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        // Only the first line, so that a log entry stays on one line.
        let text = String::from_utf8_lossy(&self.body);
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty() { Ok(()) } else { write!(f, ", {line:?}") }
    }
}
