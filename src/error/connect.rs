//! Why an outbound connection does not come about.

use std::{fmt, io, net::SocketAddr};

use thiserror::Error;
use tungstenite::{
    Bytes,
    http::{HeaderMap, StatusCode},
};

use super::HeaderError;

/// Why an outbound connection did not come about. [`Server::connect`](crate::Server::connect) returns what it
/// can tell at once; the rest comes as [`Event::ConnectFailed`](crate::Event::ConnectFailed), or with
/// [`Event::Reconnecting`](crate::Event::Reconnecting) if there will be another attempt.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL cannot be connected to. It is not repeated here: it may hold a token.
    #[error("this is no URL to connect to: {0}")]
    Url(&'static str),
    /// `wss://`.
    #[error("wss:// needs TLS, which is not built in: use ws://, or a local proxy that adds TLS")]
    Tls,
    /// A header cannot stand in the request.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A subprotocol is no token (RFC 6455 §4.1), or stands there twice.
    #[error("{0:?} is no subprotocol, or is offered twice: letters, digits and !#$%&'*+-.^_`|~")]
    Subprotocol(String),
    /// The operating system gives no random numbers, and without them nothing can be masked (RFC 6455 §10.3).
    #[error("the operating system gives no random numbers")]
    NoRandom,
    /// The operating system gives no poller; only [`Client`](crate::Client) makes one.
    #[error("no poller: {0}")]
    Poller(io::ErrorKind),
    /// After [`Server::shutdown`](crate::Server::shutdown).
    #[error("the server is shutting down and connects nowhere any more")]
    ShuttingDown,
    /// The name has no address, or the system's resolver failed.
    #[error("{host} does not resolve: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// What the system says.
        error: String,
    },
    /// Too many names wait for the resolver.
    #[error("too many names wait to be resolved: try again later, or give the addresses")]
    ResolverBusy,
    /// No address could be connected to, or the connection broke before the handshake was over. Of several
    /// addresses the last one.
    #[error("{addr}: {error}")]
    Io {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        error: io::ErrorKind,
    },
    /// The deadline passed.
    #[error("the deadline passed {0}")]
    Timeout(ConnectStep),
    /// The server ended the connection before its response was complete.
    #[error("the server hung up before its response was complete")]
    HungUp,
    /// The server is elsewhere. It is not followed: whether the new place gets the same headers and tokens is
    /// for the application to say.
    #[error("the server redirects with {status} to {location:?}: connect there if you trust it")]
    Redirect {
        /// 3xx.
        status: StatusCode,
        /// As the server wrote it, perhaps relative.
        location: String,
    },
    /// The server answered with another status than 101.
    #[error("the server refused: {0}")]
    Refused(Box<Refusal>),
    /// What the server sent is no response, or none that RFC 6455 §4.1 lets through; the text says where.
    #[error("the server's response is wrong: {0}")]
    BadResponse(&'static str),
    /// It was open, and lost once more than [`Reconnect::max_tries`](crate::Reconnect::max_tries) allows.
    #[error("lost too often, and there are no tries left")]
    GaveUp,
    /// [`Server::close`](crate::Server::close) or [`Server::disconnect`](crate::Server::disconnect) was
    /// called.
    #[error("given up by the application")]
    Cancelled,
    /// More is buffered than [`max_total_buffered`](crate::ServerBuilder::max_total_buffered) allows.
    #[error("too much is buffered for all connections together")]
    Overloaded,
}

/// How far an attempt came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectStep {
    /// The name was being resolved.
    Resolve,
    /// The TCP connection was being made.
    Connect,
    /// The request was sent and the response awaited.
    Handshake,
}

/// An answer that is no 101 and no redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The beginning of the body, at most 1 KiB; a chunked one is put together.
    pub body: Bytes,
}

impl fmt::Display for ConnectStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectStep::Resolve => "while the name was being resolved",
            ConnectStep::Connect => "while the connection was being made",
            ConnectStep::Handshake => "while the response was awaited",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        // One line, whatever the server sent.
        let text = String::from_utf8_lossy(&self.body);
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty() { Ok(()) } else { write!(f, ", {line:?}") }
    }
}
