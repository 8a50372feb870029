//! What the application sees.

use std::{fmt, slice};

use crate::{
    close_reason::CloseReason,
    id::{ClientId, RequestId, TimerId, UpgradeId},
    message::{Kind, Message},
    pressure::Pressure,
    proto::{handshake::Request, utf8},
    request::HttpRequest,
    tick_data::{Record, TickData},
};

/// One thing that happened. Borrowed from its [`Tick`](crate::Tick), `Copy`, no allocation.
///
/// For each client: one `Open`, then any number of `Message` and `Drained`, then exactly one `Close`,
/// after which nothing more comes from that id.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'t> {
    /// A client has completed the opening handshake; from now on it can be sent to.
    Open {
        /// The new client.
        client: ClientId,
        /// The upgrade request: path, query and headers. It is gone with the tick unless
        /// [`keep_requests`](crate::ServerBuilder::keep_requests) is set.
        request: &'t Request,
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
    /// An upgrade that was not answered cannot be any more: the client has left, or its `handshake_timeout` has
    /// passed.
    UpgradeGone {
        /// What came in [`Event::Upgrade`].
        upgrade: UpgradeId,
    },
    /// A plain HTTP request, if [`http`](crate::ServerBuilder::http) is on and nothing that is served covers it.
    /// Answer, in this tick or a later one, with [`respond`](crate::Server::respond); after
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

    fn next(&mut self) -> Option<Event<'t>> {
        let data = self.data;
        Some(match *self.records.next()? {
            Record::Open { client, request } => Event::Open { client, request: data.request(request) },
            Record::Message { client, kind, source } => {
                Event::Message { client, message: message(kind, data.payload(source)) }
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

fn message(kind: Kind, bytes: &[u8]) -> Message<'_> {
    match kind {
        Kind::Binary => Message::Binary(bytes),
        // Checked when it arrived. Without unsafe code a `&str` costs a second look.
        Kind::Text => Message::Text(utf8::as_str(bytes).expect("text is validated on arrival")),
    }
}
