//! One slab entry: stream, stage, outbox and deadlines of a connection.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Instant,
};

use crate::{
    config::{Config, OverflowPolicy, RateLimitPolicy},
    connection::{
        Connection,
        deadlines::Deadlines,
        dial::{Dial, Outbound},
        rate_limiter::RateLimiter,
        stream::StreamSlot,
    },
    event::close_reason::CloseReason,
    handshake::{decision::UpgradeResponse, server::Opening},
    http1::head::{HeadReader, RequestHead},
    id::{ExchangeId, Serial, UpgradeId},
    outbox::{Outbox, pending::Pending},
    peer_addr::PeerAddr,
    util::timer_wheel,
};

/// One connection, from accept to the last byte.
#[derive(Debug)]
pub(crate) struct Slot<S> {
    /// The serial of the id, which makes it generational.
    pub(crate) serial: Serial,
    /// The client. Behind a trusted proxy it is the one that the last request was from.
    pub(crate) remote: PeerAddr,
    pub(crate) stream: StreamSlot<S>,
    pub(crate) stage: Stage,
    pub(crate) outbox: Outbox,
    /// Unparsed input that precedes the next read: part of a header, or frames that the event
    /// budget left over.
    pub(crate) unparsed: Vec<u8>,
    pub(crate) deadlines: Deadlines,
    /// The timer in the wheel, set to the next deadline.
    pub(crate) timer: Option<timer_wheel::Key>,
    /// Memory of the inbound data as last counted towards the memory limit.
    pub(crate) counted_inbound: u32,
    /// The number of a poll, and the bytes read in it.
    pub(crate) spent: (u32, u32),
    /// Bytes read from the stream.
    pub(crate) bytes_in: u64,
    /// Bytes written to the stream.
    pub(crate) bytes_out: u64,

    /// The kernel may have input for this client. Cleared by a short read.
    pub(crate) readable: bool,
    /// The peer has shut down its side: read to the end, ignoring short reads.
    pub(crate) read_closed: bool,
    /// TCP urgent data arrived. A read stops at it, so a short read does not mean that the socket
    /// is drained.
    pub(crate) urgent: bool,
    /// The application paused reading.
    pub(crate) paused: bool,
    /// A plain HTTP request of this connection got its response.
    pub(crate) served: bool,
    /// Outbound: this side initiated the connection.
    pub(crate) outbound: bool,
    /// `remote` is counted towards `max_connections_per_ip`.
    pub(crate) counted_address: bool,
    /// Unwritten bytes of a 101 that leaves in a write of its own.
    pub(crate) apart: u16,
    /// In the memory limit's list of ready clients that are not read.
    pub(crate) held_back: bool,
    /// Among the clients that are read while others are held back.
    pub(crate) leads: bool,
    /// In the ready list.
    pub(crate) in_ready: bool,
    /// In the dirty list.
    pub(crate) in_dirty: bool,
    /// A flush could not write everything, or a message was dropped, since the last `Drained`.
    pub(crate) backed_up: bool,
    /// Whether a deadline passed while input was unread.
    pub(crate) grace: Grace,
    /// The error of a failed connection. It is reported once the remaining input was read.
    pub(crate) failed: Option<std::io::ErrorKind>,
}

/// The extension of a deadline that passed while the client's input was unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grace {
    /// No deadline has passed.
    None,
    /// The deadline is extended until the client has had its turn.
    Given,
    /// The client has had its turn since. There is no other extension, or an occasional byte could
    /// extend the deadline for ever.
    Used,
}

/// The stage of a connection: `Handshake` (→ `Request` → `Handshake` …) → `Open` → `Linger`, or
/// `Dialing` → `Open` → `Linger` for an outbound one.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Waiting for a request head, or receiving it.
    Handshake(HeadReader),
    /// Handling a request that could not get its response immediately.
    Request(Box<Exchange>),
    /// An outbound connection that is not open yet.
    Dialing(Box<Dial>),
    /// An open WebSocket connection. Not boxed: most clients are open, and a box would cost each of
    /// them memory.
    Open(Open),
    /// A connection that was reported closed. Its last bytes are written, and its input is
    /// discarded.
    Linger {
        /// FIN has been sent.
        half_closed: bool,
    },
}

/// A request without a complete response.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) request: Arc<RequestHead>,
    /// The size of the head as received, in bytes.
    pub(crate) head: usize,
    pub(crate) step: Step,
}

/// The next step of a request.
#[derive(Debug)]
pub(crate) enum Step {
    /// Waits for the rest of its body, of `len` bytes in all.
    Body { body: Vec<u8>, len: usize },
    /// Waits for the application's decision on an upgrade.
    Upgrade { id: UpgradeId, opening: Opening, response: UpgradeResponse },
    /// Waits for the application's response.
    Http { id: ExchangeId },
    /// Writes a response from a file, of which `left` bytes have not been read.
    File { file: File, left: u64, close: bool },
    /// Writes the last bytes of the connection's last response. The connection counts towards
    /// limits until then.
    Last,
}

/// The state of an open connection.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) connection: Connection,
    /// This side sent a close frame. The reason to report once the peer has answered or left.
    pub(crate) pending_reason: Option<Box<CloseReason>>,
    /// `Close` has been reported. The next flush sends the final close frame after the
    /// application's last messages.
    pub(crate) reported: bool,
    pub(crate) overflow: Option<OverflowPolicy>,
    /// Overrides `max_message_size`. Fits into the padding of this struct.
    pub(crate) max_message_size: Option<NonZeroU32>,
    /// The last message was large, so the next may be large too.
    pub(crate) expects_large: bool,
    /// The client sent more frames in one turn than a poll takes, and has not been drained since.
    pub(crate) frame_flood: bool,
    /// Pending messages, which can still be replaced, expire or be overtaken; `None` if there are
    /// none.
    pub(crate) pending: Option<Box<Pending>>,
    /// `None` if no rate limit applies: none is configured, or the connection is closing and is
    /// read to the end.
    pub(crate) rate_limiter: Option<Box<RateLimiter>>,
    /// Messages reported as events.
    pub(crate) messages_in: u64,
    /// Messages queued.
    pub(crate) messages_out: u64,
    /// `None` if none of its fields is set.
    pub(crate) provenance: Option<Box<Provenance>>,
}

/// Data from the handshake that only few connections keep.
#[derive(Debug)]
pub(crate) struct Provenance {
    /// The subprotocol chosen in the handshake.
    pub(crate) subprotocol: Option<Box<str>>,
    /// The upgrade request, kept only with `keep_requests`.
    pub(crate) request: Option<Arc<RequestHead>>,
    /// The outbound part, for an outbound connection.
    pub(crate) outbound: Option<Outbound>,
}

impl Open {
    #[inline(always)]
    pub(crate) fn new(
        connection: Connection,
        rate_limiter: Option<Box<RateLimiter>>,
        provenance: Provenance,
    ) -> Open {
        Open {
            connection,
            pending_reason: None,
            reported: false,
            overflow: None,
            max_message_size: None,
            expects_large: false,
            frame_flood: false,
            pending: None,
            rate_limiter,
            messages_in: 0,
            messages_out: 0,
            provenance: provenance.keep(),
        }
    }

    /// Whether messages may be queued: `Close` is not reported, and no close frame was sent.
    #[inline(always)]
    pub(crate) fn accepts_messages(&self) -> bool {
        !self.reported && self.connection.close_state().may_send_data()
    }
}

impl Provenance {
    /// Boxes the data, or returns `None` if no field is set.
    fn keep(self) -> Option<Box<Provenance>> {
        let any = self.subprotocol.is_some() || self.request.is_some() || self.outbound.is_some();
        any.then(|| Box::new(self))
    }
}

/// The final close frame to a client that was reported closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FinalClose {
    /// No frame: both sides have sent one, or the peer disconnected.
    Silent,
    /// A close frame with this body. `None` is an empty body, in reply to an empty one.
    Close(Option<(u16, String)>),
}

impl Exchange {
    /// The size of a header's entry in a `HeaderMap`, in bytes, without its name and value.
    const FIELD: usize = 112;

    fn memory(&self) -> usize {
        let body = if let Step::Body { body, .. } = &self.step { body.capacity() } else { 0 };
        self.head + self.request.headers().capacity() * Self::FIELD + body
    }
}

impl<S> Slot<S> {
    pub(crate) fn new(stream: S, remote: PeerAddr, serial: Serial, stage: Stage, now: Instant) -> Self {
        Slot::with_stream(StreamSlot::new(stream), remote, serial, stage, now)
    }

    fn with_stream(
        stream: StreamSlot<S>,
        remote: PeerAddr,
        serial: Serial,
        stage: Stage,
        now: Instant,
    ) -> Self {
        Slot {
            serial,
            remote,
            stream,
            stage,
            outbox: Outbox::default(),
            unparsed: Vec::new(),
            deadlines: Deadlines::new(now),
            timer: None,
            counted_inbound: 0,
            spent: (0, 0),
            bytes_in: 0,
            bytes_out: 0,
            readable: false,
            read_closed: false,
            urgent: false,
            paused: false,
            served: false,
            outbound: false,
            counted_address: false,
            apart: 0,
            held_back: false,
            leads: false,
            in_ready: false,
            in_dirty: false,
            backed_up: false,
            grace: Grace::None,
            failed: None,
        }
    }

    /// Creates an outbound connection, which has no stream yet.
    pub(crate) fn dialing(dial: Dial, serial: Serial, now: Instant) -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into();
        let stage = Stage::Dialing(Box::new(dial));
        Slot { outbound: true, ..Slot::with_stream(StreamSlot::none(), nowhere, serial, stage, now) }
    }

    pub(crate) fn dial_mut(&mut self) -> Option<&mut Dial> {
        match &mut self.stage {
            Stage::Dialing(dial) => Some(dial),
            _ => None,
        }
    }

    /// The open connection, also after its `Close` was reported, until the next flush.
    pub(crate) fn open(&self) -> Option<&Open> {
        match &self.stage {
            Stage::Open(open) => Some(open),
            _ => None,
        }
    }

    /// The open connection and its outbox, mutably.
    pub(crate) fn open_mut(&mut self) -> Option<(&mut Open, &mut Outbox)> {
        match &mut self.stage {
            Stage::Open(open) => Some((open, &mut self.outbox)),
            _ => None,
        }
    }

    /// Whether anything is queued or pending.
    pub(crate) fn has_output(&self) -> bool {
        self.outbox.has_work()
            || self.outbox.congested
            || self.open().is_some_and(|open| open.pending.is_some())
    }

    /// Bytes queued or pending.
    pub(crate) fn buffered(&self) -> usize {
        let pending = self.open().and_then(|open| open.pending.as_ref());
        self.outbox.len() + pending.map_or(0, |pending| pending.len())
    }

    /// Whether HTTP input is processed now. It is not while a response is awaited or being written.
    pub(crate) fn takes_request(&self) -> bool {
        match &self.stage {
            Stage::Handshake(_) => !self.outbox.has_work(),
            Stage::Request(exchange) => matches!(exchange.step, Step::Body { .. } | Step::Upgrade { .. }),
            Stage::Dialing(_) | Stage::Open(_) | Stage::Linger { .. } => false,
        }
    }

    /// Whether the client's next message may be large.
    pub(crate) fn expects_large(&self) -> bool {
        matches!(&self.stage, Stage::Open(open) if open.expects_large)
    }

    /// Whether the client's next turn may again have more frames than a poll takes.
    pub(crate) fn is_frame_flood(&self) -> bool {
        matches!(&self.stage, Stage::Open(open) if open.frame_flood)
    }

    /// Whether the client's deadline is for data that its peer has to send: a head, a body, a close
    /// frame.
    pub(crate) fn awaits_input(&self) -> bool {
        match &self.stage {
            Stage::Handshake(_) => !self.is_idle_http(),
            Stage::Request(exchange) => matches!(exchange.step, Step::Body { .. }),
            Stage::Open(_) => true,
            // An outbound attempt handles its own deadline.
            Stage::Dialing(_) | Stage::Linger { .. } => false,
        }
    }

    /// Whether the header of the PROXY protocol comes next.
    pub(crate) fn awaits_proxy_header(&self) -> bool {
        matches!(&self.stage, Stage::Handshake(reader) if reader.proxy_header.is_some())
    }

    /// Whether the connection is idle between two plain requests.
    pub(crate) fn is_idle_http(&self) -> bool {
        self.served && matches!(&self.stage, Stage::Handshake(head) if head.is_empty())
    }

    /// Whether all requests have got their response, even if its last bytes are not written yet.
    pub(crate) fn is_responded(&self) -> bool {
        match &self.stage {
            Stage::Request(exchange) => matches!(exchange.step, Step::File { .. } | Step::Last),
            _ => self.is_idle_http(),
        }
    }

    /// Memory of partial requests and messages, in bytes.
    pub(crate) fn inbound_memory(&self) -> usize {
        let partial = match &self.stage {
            Stage::Handshake(head) => head.memory(),
            Stage::Request(exchange) => exchange.memory(),
            Stage::Dialing(dial) => dial.memory(),
            Stage::Open(open) => open.connection.memory(),
            Stage::Linger { .. } => 0,
        };
        self.unparsed.capacity() + partial
    }

    /// The bytes that ending the connection would free, without those of its stream. A shared frame
    /// counts in full, because its last recipient frees it.
    pub(crate) fn buffered_memory(&self) -> usize {
        let pending = self.open().and_then(|open| open.pending.as_ref());
        self.inbound_memory()
            + self.outbox.len().max(self.outbox.memory())
            + pending.map_or(0, |pending| pending.len().max(pending.memory()))
    }

    /// Whether the connection is open and no `Close` was reported.
    pub(crate) fn is_live(&self) -> bool {
        self.open().is_some_and(|open| !open.reported)
    }

    pub(crate) fn rate_limiter_mut(&mut self) -> Option<&mut RateLimiter> {
        self.open_mut()?.0.rate_limiter.as_deref_mut()
    }

    /// When the rate limiter's pause ends, if there is one.
    pub(crate) fn resume_at(&self) -> Option<Instant> {
        self.open()?.rate_limiter.as_ref()?.resume_at()
    }

    /// Whether reading is paused, by the application or by the rate limiter.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused || self.resume_at().is_some()
    }

    /// Ends all pauses permanently, because no more data will arrive.
    pub(crate) fn end_pauses(&mut self) {
        self.paused = false;
        if let Some((open, _)) = self.open_mut() {
            open.rate_limiter.take_if(|rate_limiter| rate_limiter.policy() == RateLimitPolicy::Pause);
        }
    }

    #[inline]
    pub(crate) fn next_deadline(&self, config: &Config) -> Option<Instant> {
        let next = self.deadlines.next(config, self.is_paused());
        next.into_iter().chain(self.resume_at()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle client has only this and a wheel entry of 32 bytes. Put rarely used fields behind a
    /// pointer.
    #[test]
    fn an_idle_client_is_small() {
        // A socket in a release build has the size of this type. Debug builds of mio add to it.
        let size = size_of::<Slot<std::num::NonZeroU32>>();
        let compression = if cfg!(feature = "deflate") { 8 } else { 0 };
        assert!(size <= 416 + compression, "{size} bytes");
    }
}
