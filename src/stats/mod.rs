//! Counters of a server since its start.

pub(crate) mod client_stats;
mod prometheus;
pub(crate) mod tls_stats;

use std::fmt;

use crate::{
    event::close_reason::{CloseReason, TimeoutKind},
    http1::rejection::Rejection,
};
use tls_stats::TlsFailureCounts;

/// The counters of a server since its start, from [`Server::stats`](crate::Server::stats).
///
/// All values but [`open`](Stats::open) and [`buffered`](Stats::buffered) only grow. Displays as
/// one readable line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// TCP connections accepted.
    pub accepted: u64,
    /// Connections that never became a WebSocket, by cause.
    pub rejected: RejectCounts,
    /// TLS handshakes with an exchange of certificates, as server and as client.
    pub tls_full: u64,
    /// TLS handshakes that resumed an earlier session.
    pub tls_resumed: u64,
    /// TLS handshakes that failed, by cause.
    pub tls_failed: TlsFailureCounts,
    /// Microseconds that TLS handshakes have taken of the polls.
    pub tls_micros: u64,
    /// Responses sent to plain HTTP requests.
    pub http_requests: u64,
    /// Connections that ended after plain HTTP requests, without an upgrade request.
    pub http_only: u64,
    /// Outbound connection attempts.
    pub dialed: u64,
    /// Outbound connection attempts that failed.
    pub dial_failed: u64,
    /// Opening handshakes completed, as server or as client.
    pub opened: u64,
    /// WebSocket connections open now.
    pub open: u64,
    /// Bytes buffered now for all connections: partial messages, request heads and outboxes. A
    /// frame shared by several outboxes counts once. `max_total_buffered` limits this sum.
    pub buffered: u64,
    /// Messages received, reported as events.
    pub messages_in: u64,
    /// Times that a rate limit paused a client under
    /// [`RateLimitPolicy::Pause`](crate::RateLimitPolicy::Pause).
    pub throttled: u64,
    /// Messages queued. A broadcast counts once per client.
    pub messages_out: u64,
    /// Bytes read from sockets, HTTP and framing included; over TLS the plain text.
    pub bytes_in: u64,
    /// Bytes written to sockets, HTTP and framing included; over TLS the plain text.
    pub bytes_out: u64,
    /// Messages dropped under [`OverflowPolicy::DropNewest`](crate::OverflowPolicy::DropNewest),
    /// broadcasts larger than `max_buffered`, and messages that
    /// [`WhileDown::KeepLast`](crate::WhileDown::KeepLast) did not keep.
    pub dropped: u64,
    /// Queued messages replaced by a newer one with the same [`LatestKey`](crate::LatestKey).
    pub replaced: u64,
    /// Queued messages dropped after their `expires_in`.
    pub expired: u64,
    /// Commands of a [`Handle`](crate::Handle) that failed because their client was gone, closing
    /// or had a full outbox. Use [`Handle::call`](crate::Handle::call) to get each result.
    pub undelivered: u64,
    /// Pings sent.
    pub pings: u64,
    /// WebSocket connections ended, by cause.
    pub closed: CloseCounts,
    /// Times that reading stopped for all clients because of `max_total_buffered`.
    pub reading_stops: u64,
    /// Polls and flushes that ended with output left over because their `time_budget` was used up.
    pub budget_cuts: u64,
    /// Connections that failed before they were accepted.
    pub accept_failures: u64,
    /// Times that accepting paused because the process was out of descriptors or memory, or because
    /// the system refused every accept.
    pub accept_pauses: u64,
    /// Listening sockets lost because another holder of the socket shut it down. The server
    /// continues without them.
    pub listeners_lost: u64,
}

/// Connections that never became a WebSocket, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RejectCounts {
    /// 400: not HTTP, or an upgrade request that violates RFC 6455 §4.1.
    pub bad_request: u64,
    /// 405 and 426: an HTTP request, but not for a WebSocket of version 13.
    pub not_an_upgrade: u64,
    /// 431: the head exceeds `max_headers` or `max_head_bytes`.
    pub head_too_large: u64,
    /// 403: the `Origin` is not allowed.
    pub origin: u64,
    /// 421: the `Host` is not allowed.
    pub host: u64,
    /// 404: the path does not accept upgrades.
    pub path: u64,
    /// 400: a subprotocol is required, and none offered is supported.
    pub subprotocol: u64,
    /// Any status: the application rejected the upgrade.
    pub application: u64,
    /// 503: the application did not respond within `handshake_timeout`.
    pub unanswered: u64,
    /// 413 and 501: the body is too long, or its length is unknown.
    pub bad_body: u64,
    /// 503: `max_connections` is reached, or the server is shutting down.
    pub at_capacity: u64,
    /// 503: `max_connections_per_ip` is reached.
    pub per_ip: u64,
    /// 503: the server is near `max_total_buffered`.
    pub overloaded: u64,
    /// The head was not complete within `handshake_timeout`, or the body within `body_timeout`.
    pub timeout: u64,
    /// The peer left before its head was complete.
    pub gone: u64,
    /// The TLS handshake failed; [`Stats::tls_failed`] has the causes.
    pub tls: u64,
}

/// Ended WebSocket connections by cause, one counter for each [`CloseReason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CloseCounts {
    /// [`CloseReason::Peer`].
    pub peer: u64,
    /// [`CloseReason::Local`].
    pub local: u64,
    /// [`CloseReason::Disconnected`].
    pub disconnected: u64,
    /// [`CloseReason::Shutdown`].
    pub shutdown: u64,
    /// [`TimeoutKind::Silence`].
    pub silence: u64,
    /// [`TimeoutKind::Write`].
    pub write_timeout: u64,
    /// [`TimeoutKind::Close`].
    pub close_timeout: u64,
    /// [`TimeoutKind::Lifetime`].
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
    /// [`CloseReason::Truncated`].
    pub truncated: u64,
    /// [`CloseReason::Io`].
    pub io: u64,
}

impl RejectCounts {
    /// The sum of all causes.
    pub fn total(&self) -> u64 {
        self.bad_request
            + self.not_an_upgrade
            + self.head_too_large
            + self.origin
            + self.host
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
            + self.tls
    }

    pub(crate) fn count(&mut self, rejection: Rejection) {
        *match rejection.status() {
            _ if rejection == Rejection::TooManyFromAddress => &mut self.per_ip,
            _ if rejection == Rejection::Overloaded => &mut self.overloaded,
            _ if rejection == Rejection::NoSubprotocol => &mut self.subprotocol,
            _ if rejection == Rejection::NoResponse => &mut self.unanswered,
            404 => &mut self.path,
            413 | 501 => &mut self.bad_body,
            403 => &mut self.origin,
            408 => &mut self.timeout,
            421 => &mut self.host,
            405 | 426 => &mut self.not_an_upgrade,
            431 => &mut self.head_too_large,
            503 => &mut self.at_capacity,
            _ => &mut self.bad_request,
        } += 1;
    }
}

impl CloseCounts {
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
            + self.truncated
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
            CloseReason::Timeout(TimeoutKind::Silence) => &mut self.silence,
            CloseReason::Timeout(TimeoutKind::Write) => &mut self.write_timeout,
            CloseReason::Timeout(TimeoutKind::Close) => &mut self.close_timeout,
            CloseReason::Timeout(TimeoutKind::Lifetime) => &mut self.lifetime,
            CloseReason::Overflow => &mut self.overflow,
            CloseReason::Shed => &mut self.shed,
            CloseReason::RateLimited => &mut self.rate_limited,
            CloseReason::Protocol(_) => &mut self.protocol,
            CloseReason::Eof => &mut self.eof,
            CloseReason::Truncated => &mut self.truncated,
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
            ("truncated", closed.truncated),
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
        stats.closed.count(&CloseReason::Timeout(TimeoutKind::Silence));
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
