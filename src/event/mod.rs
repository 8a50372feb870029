//! The events that a poll returns to the application.

pub(crate) mod close_reason;
pub(crate) mod delivery;
pub(crate) mod pressure;
pub(crate) mod tick;
pub(crate) mod tick_buffer;

use std::{fmt, slice, time::Duration};

use crate::{
    error::ConnectError,
    event::{
        close_reason::CloseReason,
        pressure::Pressure,
        tick_buffer::{Failure, Record, TickBuffer},
    },
    http1::request::Request,
    id::{ClientId, ExchangeId, LinkId, TimerId, UpgradeId},
    message::Message,
};

/// One event, borrowed from its [`Tick`](crate::Tick). `Copy`, and allocates nothing.
///
/// Each client has one `Open`, then any number of `Message` and `Drained`, then exactly one
/// `Close`, which is the last event of that id. An outbound connection (from
/// [`connect`](crate::Server::connect)) may have any number of `Reconnecting` before its `Open`,
/// or, instead of the `Open`, a `ConnectFailed` as its last event.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'t> {
    /// A client completed the opening handshake, or an outbound connection was opened. From now on
    /// sends to the id are accepted.
    Open {
        /// The new client.
        client: ClientId,
        /// The upgrade request: path, query and headers. For an outbound connection it is the
        /// request that this side sent, with the whole URL. It is dropped with the tick unless
        /// [`keep_requests`](crate::ServerBuilder::keep_requests) is set.
        request: Request<'t>,
    },
    /// An outbound connection failed, and no further attempt follows. This is the last event of the
    /// id, which had no `Open`.
    ConnectFailed {
        /// The id that [`connect`](crate::Server::connect) or the last [`Event::Reconnecting`]
        /// returned. With [`ConnectError::GaveUp`] it is a new id, used for no other event.
        client: ClientId,
        /// The outbound connection's id over all its attempts.
        link: LinkId,
        /// Why the last attempt failed.
        error: &'t ConnectError,
    },
    /// An outbound connection was lost, or an attempt failed, and a new attempt follows according
    /// to its [`Reconnect`](crate::Reconnect) policy.
    Reconnecting {
        /// The id of the next connection. After a `Close` it is a new id, and sends (see
        /// [`WhileDown`](crate::WhileDown)) and closes are accepted from now on. After a failed
        /// attempt the id stays the same.
        client: ClientId,
        /// The outbound connection's id over all its attempts.
        link: LinkId,
        /// The number of the attempt, counted from 1. It starts again after a stable connection.
        attempt: u32,
        /// The randomised delay before the attempt.
        delay: Duration,
        /// Why the attempt failed. `None` if an open connection was lost; its `Close` has the
        /// reason.
        error: Option<&'t ConnectError>,
    },
    /// A whole message: reassembled and, if text, validated as UTF-8.
    Message {
        /// The sender.
        client: ClientId,
        /// The content.
        message: Message<'t>,
    },
    /// A client is gone. Sends to the id may still succeed until the next poll or flush, so that
    /// responses to its earlier messages need no special case; after that they fail.
    Close {
        /// The client that is gone.
        client: ClientId,
        /// Why the connection ended.
        reason: &'t CloseReason,
    },
    /// A client's outbox is empty again, after a flush could not write all of it or a message was
    /// dropped.
    Drained {
        /// The client.
        client: ClientId,
    },
    /// The server's memory use crossed a threshold of
    /// [`max_total_buffered`](crate::ServerBuilder::max_total_buffered).
    Pressure {
        /// The new level.
        pressure: Pressure,
    },
    /// A client requests an upgrade, and [`on_upgrade`](crate::ServerBuilder::on_upgrade) returned
    /// [`Decision::Defer`](crate::Decision::Defer). Respond, in this tick or a later one, with
    /// [`accept`](crate::Server::accept), [`accept_with`](crate::Server::accept_with) or
    /// [`reject`](crate::Server::reject).
    Upgrade {
        /// The id to respond to.
        upgrade: UpgradeId,
        /// The request.
        request: Request<'t>,
    },
    /// A deferred upgrade ended without a response, because the client left or its
    /// `handshake_timeout` passed.
    UpgradeGone {
        /// The id from [`Event::Upgrade`].
        upgrade: UpgradeId,
    },
    /// A plain HTTP request, if [`http`](crate::ServerBuilder::http) is on and no built-in path or
    /// static file matches. Respond, in this tick or a later one, with
    /// [`respond`](crate::Server::respond); after `handshake_timeout` the client gets a 503.
    Http {
        /// The id to respond to.
        exchange: ExchangeId,
        /// The request.
        request: Request<'t>,
    },
    /// An application timer fired.
    Timer {
        /// The id that [`set_timer`](crate::Server::set_timer) or
        /// [`set_interval`](crate::Server::set_interval) returned.
        timer: TimerId,
        /// The periods of an interval that passed without an event, because the program polled
        /// late; 0 for a timer that fires once. A simulation with a fixed step runs `missed + 1`
        /// steps to catch up.
        missed: u32,
    },
}

/// Iterates over the events of a [`Tick`](crate::Tick).
#[derive(Clone)]
pub struct Events<'t> {
    data: &'t TickBuffer,
    records: slice::Iter<'t, Record>,
}

impl<'t> Events<'t> {
    pub(crate) fn new(data: &'t TickBuffer) -> Self {
        Events { data, records: data.records().iter() }
    }
}

impl<'t> Iterator for Events<'t> {
    type Item = Event<'t>;

    // Inlined, so that the application's `match` reads the fields directly. Without inlining an
    // event is built in memory and copied, which costs 15 ns.
    #[inline(always)]
    fn next(&mut self) -> Option<Event<'t>> {
        let data = self.data;
        Some(match *self.records.next()? {
            Record::Open { client, request } => Event::Open { client, request: data.request(request) },
            Record::Message { client, kind, place, start, len } => {
                Event::Message { client, message: data.message(kind, place, start, len) }
            }
            Record::Close { client, reason } => Event::Close { client, reason: data.reason(reason) },
            Record::Drained { client } => Event::Drained { client },
            Record::Pressure { pressure } => Event::Pressure { pressure },
            Record::Upgrade { upgrade, request } => {
                Event::Upgrade { upgrade, request: data.request(request) }
            }
            Record::UpgradeGone { upgrade } => Event::UpgradeGone { upgrade },
            Record::Http { exchange, request } => Event::Http { exchange, request: data.request(request) },
            Record::Timer { timer, missed } => Event::Timer { timer, missed },
            Record::Reconnecting { client, failure } => {
                let Failure { link, error, attempt, wait } = data.failure(failure);
                Event::Reconnecting {
                    client,
                    link: *link,
                    attempt: *attempt,
                    delay: *wait,
                    error: error.as_ref(),
                }
            }
            Record::ConnectFailed { client, failure } => {
                let Failure { link, error, .. } = data.failure(failure);
                Event::ConnectFailed {
                    client,
                    link: *link,
                    error: error.as_ref().unwrap_or(&ConnectError::GaveUp),
                }
            }
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.records.size_hint()
    }
}

impl ExactSizeIterator for Events<'_> {}

impl fmt::Debug for Events<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
