//! What the application sees.

use std::{fmt, slice, time::Duration};

use crate::{
    close_reason::CloseReason,
    error::ConnectError,
    id::{ClientId, LinkId, RequestId, TimerId, UpgradeId},
    message::Message,
    pressure::Pressure,
    proto::handshake::Request,
    request::HttpRequest,
    tick_data::{Failure, Record, TickData},
};

/// One thing that happened. Borrowed from its [`Tick`](crate::Tick), `Copy`, no allocation.
///
/// For each client: one `Open`, then any number of `Message` and `Drained`, then exactly one `Close`, after
/// which nothing more comes from that id. For one that [`connect`](crate::Server::connect) has named there
/// may be any number of `Reconnecting` before the `Open`, or `ConnectFailed` instead of it, which then is the
/// last.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'t> {
    /// A client has completed the opening handshake, or an outbound connection is there; from now on it can
    /// be sent to.
    Open {
        /// The new client.
        client: ClientId,
        /// The upgrade request: path, query and headers; of an outbound connection our own, with its whole
        /// URL. It is gone with the tick unless [`keep_requests`](crate::ServerBuilder::keep_requests) is
        /// set.
        request: &'t Request,
    },
    /// An outbound connection could not be made and will not be tried again, or not any more: the last event
    /// of this id, which never had an `Open`.
    ConnectFailed {
        /// What [`connect`](crate::Server::connect) returned, or the last [`Event::Reconnecting`] brought.
        /// With [`ConnectError::GaveUp`] it is one that stands for a connection that will not be.
        client: ClientId,
        /// What it has in common with its earlier connections.
        link: LinkId,
        /// Why the last attempt failed.
        error: &'t ConnectError,
    },
    /// An outbound connection was lost, or an attempt has failed, and there will be a new one, as its
    /// [`Reconnect`](crate::Reconnect) policy says.
    Reconnecting {
        /// The id of the connection to be. After a `Close` it is a new one, which can be sent to (see
        /// [`WhileDown`](crate::WhileDown)) and closed from now on; after an attempt that failed it is the
        /// same.
        client: ClientId,
        /// What it has in common with its earlier connections.
        link: LinkId,
        /// One for the first new attempt, and one more with each until a connection was stable.
        attempt: u32,
        /// How long until then, by chance.
        in_: Duration,
        /// Why the attempt failed; `None` if a connection was lost, whose `Close` has told why.
        error: Option<&'t ConnectError>,
    },
    /// A whole message, reassembled and, if text, validated.
    Message {
        /// Who sent it.
        client: ClientId,
        /// Its content.
        message: Message<'t>,
    },
    /// A client is gone. Sends to the id may still succeed until the next poll or flush, since the
    /// client may have asked before it left; after that they fail.
    Close {
        /// The client that has gone.
        client: ClientId,
        /// Why.
        reason: &'t CloseReason,
    },
    /// A client that could not take its data as fast as it was sent has now taken all of it.
    Drained {
        /// The client.
        client: ClientId,
    },
    /// The server sheds more, or less, because of
    /// [`max_total_buffered`](crate::ServerBuilder::max_total_buffered).
    Pressure {
        /// What it sheds from now on.
        pressure: Pressure,
    },
    /// A client wants to upgrade, and [`on_upgrade`](crate::ServerBuilder::on_upgrade) has said
    /// [`Decision::Defer`](crate::Decision::Defer): answer, in this tick or a later one, with
    /// [`accept`](crate::Server::accept), [`accept_with`](crate::Server::accept_with) or
    /// [`reject`](crate::Server::reject).
    Upgrade {
        /// What to answer to.
        upgrade: UpgradeId,
        /// What it asks for.
        request: HttpRequest<'t>,
    },
    /// An upgrade that was not answered cannot be any more: the client has left, or its `handshake_timeout`
    /// has passed.
    UpgradeGone {
        /// What came in [`Event::Upgrade`].
        upgrade: UpgradeId,
    },
    /// A plain HTTP request, if [`http`](crate::ServerBuilder::http) is on and nothing that is served covers
    /// it. Answer, in this tick or a later one, with [`respond`](crate::Server::respond); after
    /// `handshake_timeout` the client gets a 503.
    Http {
        /// What to answer to.
        request_id: RequestId,
        /// What it asks for.
        request: HttpRequest<'t>,
    },
    /// An application timer fired.
    Timer {
        /// What [`set_timer`](crate::Server::set_timer) or
        /// [`set_interval`](crate::Server::set_interval) returned.
        timer: TimerId,
    },
}

/// Iterates over the events of a [`Tick`](crate::Tick).
#[derive(Clone)]
pub struct Events<'t> {
    data: &'t TickData,
    records: slice::Iter<'t, Record>,
}

impl<'t> Events<'t> {
    pub(crate) fn new(data: &'t TickData) -> Self {
        Events { data, records: data.records().iter() }
    }
}

impl<'t> Iterator for Events<'t> {
    type Item = Event<'t>;

    // Inlined, so that the application's `match` takes what it wants from where it is: put together in memory and
    // copied, an event costs 15 ns.
    #[inline(always)]
    fn next(&mut self) -> Option<Event<'t>> {
        let data = self.data;
        Some(match *self.records.next()? {
            Record::Open { client, request } => Event::Open { client, request: data.request(request) },
            Record::Message { client, kind, source } => {
                Event::Message { client, message: data.message(kind, source) }
            }
            Record::Close { client, reason } => Event::Close { client, reason: data.reason(reason) },
            Record::Drained { client } => Event::Drained { client },
            Record::Pressure { pressure } => Event::Pressure { pressure },
            Record::Upgrade { upgrade, asked } => Event::Upgrade { upgrade, request: data.asked(asked) },
            Record::UpgradeGone { upgrade } => Event::UpgradeGone { upgrade },
            Record::Http { request, asked } => {
                Event::Http { request_id: request, request: data.asked(asked) }
            }
            Record::Timer { timer } => Event::Timer { timer },
            Record::Reconnecting { client, failure } => {
                let Failure { link, error, attempt, wait } = data.failure(failure);
                Event::Reconnecting {
                    client,
                    link: *link,
                    attempt: *attempt,
                    in_: *wait,
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
