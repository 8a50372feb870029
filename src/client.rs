//! One slab entry: stream + stage + outbox + deadlines.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use crate::{
    backlog::Backlog,
    close_reason::CloseReason,
    config::{Config, Limit, Overflow},
    deadlines::Deadlines,
    dial::{Dial, Outbound},
    id::{RequestId, UpgradeId},
    limiter::Limiter,
    outbox::Outbox,
    proto::{
        connection::Connection,
        handshake::{HeadReader, Opening, Request},
    },
    upgrade::UpgradeResponse,
    wheel,
    wire::Wire,
};

/// One connection, from accept to the last byte.
#[derive(Debug)]
pub(crate) struct Client<S> {
    /// Makes the id generational.
    pub(crate) serial: u32,
    pub(crate) remote: SocketAddr,
    pub(crate) stream: Wire<S>,
    pub(crate) stage: Stage,
    pub(crate) outbox: Outbox,
    /// Raw input that has to stand before the next read: a piece of a header, or what an event budget
    /// left over.
    pub(crate) carry: Vec<u8>,
    pub(crate) deadlines: Deadlines,
    /// The wheel entry.
    pub(crate) timer: Option<wheel::Key>,
    /// Memory of its input, as the ceiling has counted it.
    pub(crate) counted_inbound: usize,
    /// Bytes read in the poll of that number.
    pub(crate) spent: (u32, u32),

    /// The kernel may hold input for us. Cleared by a short read.
    pub(crate) readable: bool,
    /// The peer will send no more: read until the end, short reads or not.
    pub(crate) read_closed: bool,
    /// TCP urgent data has come: a read stops short at it, drained or not.
    pub(crate) urgent: bool,
    /// The application asked for no input.
    pub(crate) paused: bool,
    /// A plain HTTP request of its was answered.
    pub(crate) served: bool,
    /// We have made it, or make it: nobody asked to be let in.
    pub(crate) outbound: bool,
    /// In the ceiling's list of those that are ready and not read.
    pub(crate) held_back: bool,
    /// In the ready list.
    pub(crate) in_ready: bool,
    /// In the dirty list.
    pub(crate) in_dirty: bool,
    /// A flush left bytes behind, or a message was dropped, since the last `Drained`.
    pub(crate) backed_up: bool,
    /// Its input was found unread when its deadline passed.
    pub(crate) excused: bool,
    /// The connection failed; what can still be read is read, then it ends with this.
    pub(crate) failed: Option<std::io::ErrorKind>,
}

/// Where a connection is in its life: `Handshake` (→ `Request` → `Handshake` …) → `Open` → `Linger`, or
/// `Dialing` → `Open` → `Linger` if it goes out.
#[derive(Debug)]
pub(crate) enum Stage {
    /// A request head is arriving, or awaited.
    Handshake(HeadReader),
    /// A request is under way that was not answered at once.
    Request(Box<Exchange>),
    /// It goes out, and is not open yet.
    Dialing(Box<Dial>),
    /// The application knows it. Not boxed: most are open, and a box would cost each of them memory.
    Open(Open),
    /// The application has forgotten it; the last bytes leave, the rest of its input is thrown away.
    Linger {
        /// FIN has been sent.
        half_closed: bool,
    },
}

/// A request on its way to its answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) request: Arc<Request>,
    /// What the head takes, in bytes as it came.
    pub(crate) head: usize,
    pub(crate) step: Step,
}

/// What a request waits for.
#[derive(Debug)]
pub(crate) enum Step {
    /// The rest of its body, of `len` bytes in all.
    Body { body: Vec<u8>, len: usize },
    /// The application's decision on an upgrade.
    Upgrade { id: UpgradeId, opening: Opening, response: UpgradeResponse },
    /// The application's answer.
    Http { id: RequestId },
    /// That the peer takes its answer, of which `left` bytes have not been read.
    File { file: File, left: u64, close: bool },
    /// That the peer takes the last bytes of its last answer. Until then it keeps its place.
    Last,
}

/// What only an open connection has.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) connection: Connection,
    /// We sent a close frame; this is what to report once the peer has answered or left.
    pub(crate) verdict: Option<Box<CloseReason>>,
    /// `Close` has been reported. The next flush says farewell, behind the application's last messages.
    pub(crate) reported: bool,
    pub(crate) overflow: Option<Overflow>,
    /// Its last message was large, and so the next may be.
    pub(crate) bulky: bool,
    /// It has sent more in one turn than a poll takes, and has not been drained since.
    pub(crate) dense: bool,
    /// What may yet be replaced, expire, or be passed; `None` if nothing.
    pub(crate) backlog: Option<Box<Backlog>>,
    /// `None`: nothing is limited, or we are closing and it is read to the end.
    pub(crate) limiter: Option<Box<Limiter>>,
    /// `None`: it has nothing of the kind.
    pub(crate) origin: Option<Box<Origin>>,
}

/// What few connections keep of how they came to be.
#[derive(Debug)]
pub(crate) struct Origin {
    /// As chosen in the handshake.
    pub(crate) subprotocol: Option<Box<str>>,
    /// Kept only if the configuration asks.
    pub(crate) request: Option<Arc<Request>>,
    /// Of a connection that goes out.
    pub(crate) outbound: Option<Outbound>,
}

impl Origin {
    /// Boxed, if there is anything.
    pub(crate) fn keep(self) -> Option<Box<Origin>> {
        let any = self.subprotocol.is_some() || self.request.is_some() || self.outbound.is_some();
        any.then(|| Box::new(self))
    }
}

/// The last frame to a client that has been reported closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// No frame: both sides have sent one, or the peer hung up.
    Silent,
    /// A close frame with this body; `None` answers an empty body.
    Close(Option<(u16, String)>),
}

impl Exchange {
    /// What a header takes in its table, in bytes, besides its name and value.
    const FIELD: usize = 112;

    fn memory(&self) -> usize {
        let body = if let Step::Body { body, .. } = &self.step { body.capacity() } else { 0 };
        self.head + self.request.headers().capacity() * Self::FIELD + body
    }
}

impl<S> Client<S> {
    pub(crate) fn new(stream: S, remote: SocketAddr, serial: u32, stage: Stage, now: Instant) -> Self {
        Client::with_wire(Wire::new(stream), remote, serial, stage, now)
    }

    fn with_wire(stream: Wire<S>, remote: SocketAddr, serial: u32, stage: Stage, now: Instant) -> Self {
        Client {
            serial,
            remote,
            stream,
            stage,
            outbox: Outbox::default(),
            carry: Vec::new(),
            deadlines: Deadlines::new(now),
            timer: None,
            counted_inbound: 0,
            spent: (0, 0),
            readable: false,
            read_closed: false,
            urgent: false,
            paused: false,
            served: false,
            outbound: false,
            held_back: false,
            in_ready: false,
            in_dirty: false,
            backed_up: false,
            excused: false,
            failed: None,
        }
    }

    /// One that is to go out, and has no stream yet.
    pub(crate) fn dialing(dial: Dial, serial: u32, now: Instant) -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let stage = Stage::Dialing(Box::new(dial));
        Client { outbound: true, ..Client::with_wire(Wire::none(), nowhere, serial, stage, now) }
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

    /// The open connection, mutably, and the outbox beside it.
    pub(crate) fn open_mut(&mut self) -> Option<(&mut Open, &mut Outbox)> {
        match &mut self.stage {
            Stage::Open(open) => Some((open, &mut self.outbox)),
            _ => None,
        }
    }

    /// Whether anything waits to be written.
    pub(crate) fn has_output(&self) -> bool {
        self.outbox.has_work() || self.open().is_some_and(|open| open.backlog.is_some())
    }

    /// Bytes of messages that wait to be written.
    pub(crate) fn buffered(&self) -> usize {
        let backlog = self.open().and_then(|open| open.backlog.as_ref());
        self.outbox.len() + backlog.map_or(0, |backlog| backlog.len())
    }

    /// Whether what its peer sends now is looked at: not while an answer is awaited or leaves.
    pub(crate) fn takes_request(&self) -> bool {
        match &self.stage {
            Stage::Handshake(_) => !self.outbox.has_work(),
            Stage::Request(exchange) => matches!(exchange.step, Step::Body { .. } | Step::Upgrade { .. }),
            Stage::Dialing(_) | Stage::Open(_) | Stage::Linger { .. } => false,
        }
    }

    /// Whether its next message may be large.
    pub(crate) fn is_bulky(&self) -> bool {
        matches!(&self.stage, Stage::Open(open) if open.bulky)
    }

    /// Whether its next turn, too, may bring more than a poll takes.
    pub(crate) fn is_dense(&self) -> bool {
        matches!(&self.stage, Stage::Open(open) if open.dense)
    }

    /// Whether its deadline is for something that its peer has to send: a head, a body, a close frame.
    pub(crate) fn awaits_input(&self) -> bool {
        match &self.stage {
            Stage::Handshake(_) => !self.is_idle_http(),
            Stage::Request(exchange) => matches!(exchange.step, Step::Body { .. }),
            Stage::Open(_) => true,
            // A dial looks after itself.
            Stage::Dialing(_) | Stage::Linger { .. } => false,
        }
    }

    /// Between two plain requests.
    pub(crate) fn is_idle_http(&self) -> bool {
        self.served && matches!(&self.stage, Stage::Handshake(head) if head.is_empty())
    }

    /// Whatever it asked for is answered, if not to the last byte.
    pub(crate) fn is_answered(&self) -> bool {
        match &self.stage {
            Stage::Request(exchange) => matches!(exchange.step, Step::File { .. } | Step::Last),
            _ => self.is_idle_http(),
        }
    }

    /// Memory of a request or a message of which only a part has arrived, in bytes.
    pub(crate) fn inbound_memory(&self) -> usize {
        let partial = match &self.stage {
            Stage::Handshake(head) => head.memory(),
            Stage::Request(exchange) => exchange.memory(),
            Stage::Dialing(dial) => dial.memory(),
            Stage::Open(open) => open.connection.memory(),
            Stage::Linger { .. } => 0,
        };
        self.carry.capacity() + partial
    }

    /// What its end would free, in bytes. A shared frame counts in full: its last reader's end frees it.
    pub(crate) fn buffered_memory(&self) -> usize {
        let backlog = self.open().and_then(|open| open.backlog.as_ref());
        self.inbound_memory()
            + self.outbox.len().max(self.outbox.memory())
            + backlog.map_or(0, |backlog| backlog.len().max(backlog.memory()))
    }

    /// Open, and no `Close` reported.
    pub(crate) fn is_live(&self) -> bool {
        self.open().is_some_and(|open| !open.reported)
    }

    pub(crate) fn limiter_mut(&mut self) -> Option<&mut Limiter> {
        self.open_mut()?.0.limiter.as_deref_mut()
    }

    /// When the limit's pause ends, if there is one.
    pub(crate) fn resume_at(&self) -> Option<Instant> {
        self.open()?.limiter.as_ref()?.resume_at()
    }

    /// Nothing is read: the application or a limit wants it so.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused || self.resume_at().is_some()
    }

    /// Ends every pause for good: what has arrived is all that comes.
    pub(crate) fn end_pauses(&mut self) {
        self.paused = false;
        if let Some((open, _)) = self.open_mut() {
            open.limiter.take_if(|limiter| limiter.policy() == Limit::Pause);
        }
    }

    pub(crate) fn next_deadline(&self, config: &Config) -> Option<Instant> {
        let next = self.deadlines.next(config, self.is_paused());
        next.into_iter().chain(self.resume_at()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This and a wheel entry of 32 bytes are all that an idle client has. What is rarely there belongs behind a
    /// pointer.
    #[test]
    fn an_idle_client_is_small() {
        let size = size_of::<Client<mio::net::TcpStream>>();
        let compression = if cfg!(feature = "deflate") { 8 } else { 0 };
        assert!(size <= 424 + compression, "{size} bytes");
    }
}
