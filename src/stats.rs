//! Counters: what a server has done since it began.

mod prometheus;

use std::fmt;

use crate::{
    close_reason::{CloseReason, Timeout},
    proto::handshake::Rejection,
};

/// What a server has done since it began, from [`Server::stats`](crate::Server::stats).
///
/// Everything but [`open`](Stats::open) and [`buffered`](Stats::buffered) only grows. Displays as one readable line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// TCP connections accepted.
    pub accepted: u64,
    /// Connections that never became a WebSocket, by cause.
    pub rejected: Rejected,
    /// Plain HTTP requests answered.
    pub http_requests: u64,
    /// Connections that ended after plain HTTP requests, and never asked for anything else.
    pub http_only: u64,
    /// Attempts to connect to elsewhere.
    pub dialed: u64,
    /// Those of them that failed.
    pub dial_failed: u64,
    /// Opening handshakes completed, on either side.
    pub opened: u64,
    /// WebSocket connections open now.
    pub open: u64,
    /// Bytes held now for all connections: partial messages, request heads, and what waits to be written, a
    /// frame that many wait for counting once. What `max_total_buffered` caps.
    pub buffered: u64,
    /// Messages handed to the application.
    pub messages_in: u64,
    /// Times that a client was paused by a limit under [`Limit::Pause`](crate::Limit::Pause).
    pub throttled: u64,
    /// Messages queued, a broadcast counting once per client.
    pub messages_out: u64,
    /// Bytes read from sockets, HTTP and framing included.
    pub bytes_in: u64,
    /// Bytes written to sockets, HTTP and framing included.
    pub bytes_out: u64,
    /// Messages dropped under [`Overflow::DropNewest`](crate::Overflow::DropNewest), messages to many
    /// that are above `max_buffered`, and what [`WhileDown::KeepLast`](crate::WhileDown::KeepLast) did not keep.
    pub dropped: u64,
    /// Queued messages that a newer one with their [`LatestKey`](crate::LatestKey) has replaced.
    pub replaced: u64,
    /// Queued messages dropped because their `expires_in` had passed.
    pub expired: u64,
    /// Commands of a [`Handle`](crate::Handle) for a client that was gone, closing or full by the time the
    /// server came to them. Use [`Handle::call`](crate::Handle::call) to learn of each.
    pub undelivered: u64,
    /// Pings sent.
    pub pings: u64,
    /// WebSocket connections ended, by cause.
    pub closed: Closed,
    /// Times that reading from everyone had to stop because of `max_total_buffered`.
    pub reading_stops: u64,
    /// Times that accepting had to pause because the process was out of descriptors or memory.
    pub accept_pauses: u64,
    /// Listening sockets that have died: somebody else has shut them down. The server goes on without them.
    pub listeners_lost: u64,
}

/// Connections that never became a WebSocket, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Rejected {
    /// 400: no HTTP, or an upgrade request that breaks RFC 6455 §4.1.
    pub bad_request: u64,
    /// 405 and 426: HTTP, but no request for a WebSocket of version 13.
    pub not_an_upgrade: u64,
    /// 431: too many headers or too many bytes of them.
    pub head_too_large: u64,
    /// 403: the page's origin is not allowed.
    pub origin: u64,
    /// 404: an upgrade at none of the server's paths.
    pub path: u64,
    /// 400: no subprotocol in common, and one is required.
    pub subprotocol: u64,
    /// Any status: the application rejected the upgrade.
    pub application: u64,
    /// 503: the application did not answer within `handshake_timeout`.
    pub unanswered: u64,
    /// 413 and 501: a body that is too long, or of unknown length.
    pub bad_body: u64,
    /// 503: `max_connections` reached, or shutting down.
    pub at_capacity: u64,
    /// 503: `max_connections_per_ip` reached.
    pub per_ip: u64,
    /// 503: `max_total_buffered` is near.
    pub overloaded: u64,
    /// The head was not complete within `handshake_timeout`.
    pub timeout: u64,
    /// The peer left before its head was complete.
    pub gone: u64,
}

/// Ended WebSocket connections by cause, one counter for each [`CloseReason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Closed {
    /// [`CloseReason::Peer`].
    pub peer: u64,
    /// [`CloseReason::Local`].
    pub local: u64,
    /// [`CloseReason::Disconnected`].
    pub disconnected: u64,
    /// [`CloseReason::Shutdown`].
    pub shutdown: u64,
    /// [`Timeout::Silence`].
    pub silence: u64,
    /// [`Timeout::Write`].
    pub write_timeout: u64,
    /// [`Timeout::Close`].
    pub close_timeout: u64,
    /// [`Timeout::Lifetime`].
    pub lifetime: u64,
    /// [`CloseReason::Overflow`].
    pub overflow: u64,
    /// [`CloseReason::Shed`].
    pub shed: u64,
    /// [`CloseReason::RateLimited`].
    pub rate_limited: u64,
    /// [`CloseReason::Protocol`].
    pub protocol: u64,
    /// [`CloseReason::Eof`].
    pub eof: u64,
    /// [`CloseReason::Io`].
    pub io: u64,
}

impl Rejected {
    /// The sum of all causes.
    pub fn total(&self) -> u64 {
        self.bad_request
            + self.not_an_upgrade
            + self.head_too_large
            + self.origin
            + self.path
            + self.subprotocol
            + self.application
            + self.unanswered
            + self.bad_body
            + self.at_capacity
            + self.per_ip
            + self.overloaded
            + self.timeout
            + self.gone
    }

    pub(crate) fn count(&mut self, rejection: Rejection) {
        *match rejection.status() {
            _ if rejection == Rejection::TooManyFromAddress => &mut self.per_ip,
            _ if rejection == Rejection::Overloaded => &mut self.overloaded,
            _ if rejection == Rejection::NoSubprotocol => &mut self.subprotocol,
            _ if rejection == Rejection::Unanswered => &mut self.unanswered,
            404 => &mut self.path,
            413 | 501 => &mut self.bad_body,
            403 => &mut self.origin,
            405 | 426 => &mut self.not_an_upgrade,
            431 => &mut self.head_too_large,
            503 => &mut self.at_capacity,
            _ => &mut self.bad_request,
        } += 1;
    }
}

impl Closed {
    /// The sum of all causes.
    pub fn total(&self) -> u64 {
        self.timeouts()
            + self.peer
            + self.local
            + self.disconnected
            + self.shutdown
            + self.overflow
            + self.shed
            + self.rate_limited
            + self.protocol
            + self.eof
            + self.io
    }

    /// The sum over all deadlines.
    pub fn timeouts(&self) -> u64 {
        self.silence + self.write_timeout + self.close_timeout + self.lifetime
    }

    pub(crate) fn count(&mut self, reason: &CloseReason) {
        *match reason {
            CloseReason::Peer { .. } => &mut self.peer,
            CloseReason::Local { .. } => &mut self.local,
            CloseReason::Disconnected => &mut self.disconnected,
            CloseReason::Shutdown => &mut self.shutdown,
            CloseReason::Timeout(Timeout::Silence) => &mut self.silence,
            CloseReason::Timeout(Timeout::Write) => &mut self.write_timeout,
            CloseReason::Timeout(Timeout::Close) => &mut self.close_timeout,
            CloseReason::Timeout(Timeout::Lifetime) => &mut self.lifetime,
            CloseReason::Overflow => &mut self.overflow,
            CloseReason::Shed => &mut self.shed,
            CloseReason::RateLimited => &mut self.rate_limited,
            CloseReason::Protocol(_) => &mut self.protocol,
            CloseReason::Eof => &mut self.eof,
            CloseReason::Io(_) => &mut self.io,
        } += 1;
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} open ({} opened, {} rejected) | in {} messages, {} bytes, {} throttled | out {} messages, {} bytes, {} dropped | closed",
            self.open,
            self.opened,
            self.rejected.total(),
            self.messages_in,
            self.bytes_in,
            self.throttled,
            self.messages_out,
            self.bytes_out,
            self.dropped,
        )?;
        let closed = &self.closed;
        let causes = [
            ("peer", closed.peer),
            ("local", closed.local),
            ("disconnected", closed.disconnected),
            ("shutdown", closed.shutdown),
            ("silence", closed.silence),
            ("write timeout", closed.write_timeout),
            ("close timeout", closed.close_timeout),
            ("lifetime", closed.lifetime),
            ("overflow", closed.overflow),
            ("shed", closed.shed),
            ("rate limited", closed.rate_limited),
            ("protocol", closed.protocol),
            ("eof", closed.eof),
            ("i/o", closed.io),
        ];
        let mut separator = " ";
        for (cause, count) in causes.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{count} {cause}")?;
            separator = ", ";
        }
        if closed.total() == 0 { f.write_str(" none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_as_one_readable_line() {
        let mut stats = Stats { open: 2, opened: 4, messages_in: 9, ..Stats::default() };
        assert!(stats.to_string().ends_with("| closed none"), "{stats}");
        stats.closed.count(&CloseReason::Eof);
        stats.closed.count(&CloseReason::Timeout(Timeout::Silence));
        stats.rejected.count(Rejection::AtCapacity);
        assert!(stats.to_string().starts_with("2 open (4 opened, 1 rejected) | in 9 messages"), "{stats}");
        assert!(stats.to_string().ends_with("closed 1 silence, 1 eof"), "{stats}");
        assert_eq!(stats.closed.total(), 2);
        stats.closed.count(&CloseReason::RateLimited);
        stats.throttled = 7;
        assert!(stats.to_string().contains(" 7 throttled | out"), "{stats}");
        assert!(stats.to_string().ends_with("closed 1 silence, 1 rate limited, 1 eof"), "{stats}");
        assert_eq!((stats.closed.rate_limited, stats.closed.total()), (1, 3));
    }
}
