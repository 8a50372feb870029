//! The whole server without sockets or a clock: generic over the stream, and driven by the
//! readiness and the times that the host passes in.
//!
//! | kind | methods |
//! |---|---|
//! | input | `accept`, `ready`, `fire_timers`, `service_next` |
//! | commands | `send`, `broadcast`, `ping`, `close`, `disconnect`, `shutdown`, … |
//! | output | `flush` (to the streams), `finish_tick` (to the application), `next_timeout` |
//!
//! One poll calls `flush`, `start_poll`, then `accept` and `ready` for what the kernel reports,
//! then `fire_timers`, then `service_next` until it returns `false`, then `finish_tick`.

#![allow(
    clippy::indexing_slicing,
    reason = "each index comes from the slab, or from an id whose serial was checked; a read returns at most the length offered"
)]

mod close;
mod connection_limits;
mod endings;
mod flush;
mod handshake;
pub(crate) mod hooks;
mod http;
mod identity;
mod memory_limit;
mod outbound;
mod precedence;
mod race;
mod receive;
mod refusal_log;
mod reject;
pub(crate) mod rooms;
mod send;
mod steps;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
mod throttle;
mod timers;
mod tls;
mod transport;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{
    config::Config,
    connection::{
        dial::Link,
        slot::{FinalClose, Open, Slot, Stage},
    },
    engine::{
        hooks::Hooks,
        rooms::registry::{RegistryLimits, RoomRegistry},
    },
    error::NotConnectedError,
    event::{
        tick::{Recycler, Tick},
        tick_buffer::TickBuffer,
    },
    http1::{date::DateValue, request::Request},
    id::{ClientId, Serial},
    outbox::{Outbox, OutboxPool, encoder::Encoder, pending::PendingPool},
    peer_addr::PeerAddr,
    proto::deflate::Codec,
    stats::{Stats, client_stats::ClientStats},
    util::{buffer_pool::BufferPool, entropy::Entropy, split_mix::SplitMix, timer_wheel::Wheel},
};
use connection_limits::Addresses;
use endings::Sweep;
use flush::note_dirty;
use identity::Proxied;
use memory_limit::MemoryLimit;
pub(crate) use outbound::Order;
use precedence::Precedence;
use refusal_log::RefusalLog;
use send::broadcast_batch::BroadcastBatch;
pub(crate) use steps::Work;
use timers::{Alarm, AppTimer};
use tls::Handshakes;
pub(crate) use transport::{HandshakePart, HandshakeState, HandshakeStep, Readiness, Stream};

/// The state and all rules of the server.
#[derive(Debug)]
pub(crate) struct Engine<S> {
    config: Config,
    hooks: Hooks,
    clients: Slab<Slot<S>>,
    next_serial: Serial,
    /// The number of the last request that was passed to the application.
    next_request: u64,
    /// Open connections whose `Close` has not been reported.
    open: usize,
    /// Connections in `Stage::Linger`: their last bytes are being written.
    lingering: usize,
    addresses: Addresses,
    /// The connections from trusted proxies, by index.
    proxied: HashMap<usize, Proxied>,
    /// Outbound connections, without lingering ones.
    outbound_count: usize,
    /// Outbound connections whose next step is up to the host: to resolve a name or open a socket.
    dials: VecDeque<ClientId>,
    /// The streams of outbound connections that are connecting, by the index of the client.
    races: HashMap<usize, Vec<(PeerAddr, S)>>,
    /// Outbound connections lost since the last tick, waiting to be reconnected.
    lost: Vec<(ClientId, Box<Link>, Instant)>,
    next_link: Serial,
    jitter: SplitMix,
    /// Created by the first outbound connection.
    entropy: Option<Entropy>,
    rooms: RoomRegistry,
    users: RoomRegistry,
    memory_limit: MemoryLimit,
    precedence: Precedence,
    /// Clients with input to read, each at most once, served round-robin. Stale ids are skipped
    /// when their turn comes.
    ready: VecDeque<ClientId>,
    /// Clients that used up a budget in this poll; their turn comes in the next one.
    postponed: Vec<ClientId>,
    /// Clients whose TLS handshake waits for its turn, each at most once.
    handshakes: Handshakes,
    /// Costly steps of handshakes since the start.
    costly_handshakes: usize,
    /// A poll has begun and `postponed` has not yet been appended to `ready`. That happens after
    /// the kernel's events, so that clients that were quiet until now come first.
    resumes: bool,
    /// Indices of clients with output whose stream is not blocked, each at most once.
    dirty: Vec<u32>,
    batch: BroadcastBatch,
    /// The part of `dirty` that is being written; the first `worked` have had their turn.
    work: Vec<u32>,
    worked: usize,
    /// Indices of clients whose output continues: the stream accepts more, or a file has more.
    resumed: VecDeque<u32>,
    resumed_is_next: bool,
    /// Clients reported closed, each with the final close frame that it gets at a flush.
    ended: VecDeque<(ClientId, FinalClose)>,
    /// The rest of a pass over all connections, which close or are dropped one by one.
    sweep: Option<Sweep>,
    /// Connections that ended in this poll.
    endings: usize,
    /// How many of `ended` may get their final close frame. Those that a poll reports wait until
    /// the application has seen the tick, because it may still reply to earlier messages.
    closable: usize,
    poll: u32,
    /// Input older than this was reported by an earlier poll.
    reported_until: Instant,
    /// Input older than this has been reported.
    looked: Instant,

    wheel: Wheel<Alarm>,
    timers: Slab<AppTimer>,
    next_timer: Serial,
    timers_left: bool,
    shutting_down: bool,
    /// The deadline of the shutdown has passed.
    pub(crate) shutdown_is_due: bool,

    tick: TickBuffer,
    recycler: Arc<Recycler>,
    inbound: BufferPool,
    outbound: OutboxPool,
    pending_pool: PendingPool,
    /// Frames a message to many clients once.
    encoder: Encoder,
    codec: Codec,
    stats: Stats,
    date: DateValue,
    refusal_log: RefusalLog,
    /// The time of the last flush.
    now: Instant,
}

impl<S: Stream> Engine<S> {
    /// Bytes of spare buffers kept in each direction: enough for a few messages of the largest size
    /// allowed by default.
    const POOL_BYTES: usize = 8 * 1024 * 1024;

    pub(crate) fn new(config: Config, hooks: Hooks, now: Instant) -> Self {
        let rooms = RegistryLimits {
            rooms: config.max_rooms,
            rooms_per_client: config.max_rooms_per_client,
            name: config.max_room_name,
        };
        let outbound = OutboxPool::new(Self::POOL_BYTES);
        let precedence = Precedence::new(config.max_total_buffered, config.max_message_size);
        Engine {
            codec: Codec::new(&config),
            config,
            hooks,
            clients: Slab::new(),
            next_serial: Serial::new(1),
            next_request: 0,
            open: 0,
            lingering: 0,
            addresses: Addresses::default(),
            proxied: HashMap::new(),
            outbound_count: 0,
            dials: VecDeque::new(),
            races: HashMap::new(),
            lost: Vec::new(),
            next_link: Serial::new(1),
            jitter: SplitMix::new(0),
            entropy: None,
            rooms: RoomRegistry::new(rooms),
            users: RoomRegistry::new(RegistryLimits::USERS),
            memory_limit: MemoryLimit::default(),
            precedence,
            ready: VecDeque::new(),
            postponed: Vec::new(),
            handshakes: Handshakes::new(),
            costly_handshakes: 0,
            resumes: false,
            dirty: Vec::new(),
            batch: BroadcastBatch::default(),
            work: Vec::new(),
            worked: 0,
            resumed: VecDeque::new(),
            resumed_is_next: false,
            ended: VecDeque::new(),
            sweep: None,
            endings: 0,
            closable: usize::MAX,
            poll: 0,
            reported_until: now,
            looked: now,
            wheel: Wheel::new(now),
            timers: Slab::new(),
            next_timer: Serial::new(1),
            timers_left: false,
            shutting_down: false,
            shutdown_is_due: false,
            tick: TickBuffer::default(),
            recycler: Arc::default(),
            inbound: BufferPool::new(Self::POOL_BYTES),
            pending_pool: PendingPool::new(outbound.shared().clone()),
            outbound,
            encoder: Encoder::default(),
            stats: Stats::default(),
            date: DateValue::default(),
            refusal_log: RefusalLog::default(),
            now,
        }
    }

    /// Disables buffer reuse. The length offered to a read then does not depend on which ticks the
    /// application has dropped: a recycled buffer may be longer than a new one.
    #[cfg(feature = "sim")]
    pub(crate) fn keep_no_buffers(&mut self) {
        self.inbound = BufferPool::new(0);
    }

    // ---- input ----

    /// Handles the readiness of the stream at `index`.
    pub(crate) fn ready(&mut self, index: usize, readiness: Readiness, now: Instant) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let is_dialing = matches!(client.stage, Stage::Dialing(_));
        if is_dialing && !self.on_connected(index, readiness, now) {
            return;
        }
        let readiness = if is_dialing { self.of_winner(index, readiness) } else { readiness };
        let client = &mut self.clients[index];
        client.read_closed |= readiness.read_closed;
        client.urgent |= readiness.urgent;
        if readiness.readable || readiness.read_closed || readiness.urgent {
            if !client.readable
                && let Some(rate_limiter) = client.rate_limiter_mut()
            {
                rate_limiter.caught_up(self.reported_until);
            }
            client.readable = true;
            self.make_ready(index);
        }
        if readiness.writable {
            let client = &mut self.clients[index];
            client.outbox.unblock();
            // The peer or the kernel took bytes.
            client.deadlines.unstuck();
            if client.has_output() {
                self.resume_output(index);
            }
        }
    }

    // ---- one poll ----

    /// Begins a poll with fresh budgets. The poll was called at `called`, and waited until `now`
    /// for something to happen. `partial`: more has happened than this poll will report.
    pub(crate) fn start_poll(&mut self, called: Instant, now: Instant, partial: bool) {
        self.flush_batch();
        self.poll = self.poll.wrapping_add(1);
        self.endings = 0;
        self.closable = self.ended.len();
        // The host was away this long. While it waits in a poll, input is reported as it arrives.
        let away = called.saturating_duration_since(self.looked);
        self.reported_until = now.checked_sub(away).unwrap_or(now);
        self.looked = if partial { self.reported_until } else { now };
        self.timers_left = false;
        self.recycler.lend_block(&mut self.tick);
        self.resumes = true;
    }

    /// Returns everything that happened since the last tick. `more`: the caller has work left, too.
    pub(crate) fn finish_tick(&mut self, now: Instant, more: bool) -> Tick {
        self.end_grace(now);
        self.redial_lost(now);
        self.closable = usize::MAX;
        let data = std::mem::replace(&mut self.tick, self.recycler.take(&mut self.inbound));
        let more = more || self.has_more();
        let timeout = if more { Some(Duration::ZERO) } else { self.next_timeout(now) };
        Tick::new(data, self.recycler.clone(), more, timeout)
    }

    /// How long the host may sleep: zero if something is queued, ready or reported, and `None` if
    /// no deadline is set.
    pub(crate) fn next_timeout(&mut self, now: Instant) -> Option<Duration> {
        if self.has_more()
            || !self.dials.is_empty()
            || self.unflushed() > 0
            || !self.batch.is_empty()
            || !self.tick.is_empty()
        {
            return Some(Duration::ZERO);
        }
        self.wheel.next_deadline().map(|deadline| deadline.saturating_duration_since(now))
    }

    /// Whether work is left over for the next poll.
    pub(crate) fn has_more(&self) -> bool {
        !self.ready.is_empty()
            || !self.postponed.is_empty()
            || self.awaits_handshakes()
            || self.timers_left
            || !self.resumed.is_empty()
            || self.sweep.is_some()
            || self.may_admit()
            || (self.config.time_budget.is_some() && self.unflushed() > 0)
    }

    // ---- queries ----

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats { open: self.open as u64, buffered: self.total_buffered() as u64, ..self.stats }
    }

    /// Counts a pause of accepting because the process is out of file descriptors.
    pub(crate) fn count_pause(&mut self) {
        self.stats.accept_pauses += 1;
    }

    /// Counts a connection that failed before it was accepted.
    pub(crate) fn count_lost_connection(&mut self) {
        self.stats.accept_failures += 1;
    }

    /// Counts a call that left output over for its time budget.
    pub(crate) fn count_cut(&mut self) {
        self.stats.budget_cuts += 1;
    }

    /// Counts a listening socket that failed.
    pub(crate) fn count_lost_listener(&mut self) {
        self.stats.listeners_lost += 1;
    }

    /// Counts a command of a handle that could not be carried out.
    pub(crate) fn count_undelivered(&mut self) {
        self.stats.undelivered += 1;
    }

    pub(crate) fn client_count(&self) -> usize {
        self.open
    }

    /// All connections, including handshakes and lingering ones.
    pub(crate) fn connection_count(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn clients(&self) -> impl Iterator<Item = ClientId> {
        let live = self.clients.iter().filter(|(_, client)| client.is_live());
        live.map(|(index, client)| ClientId::new(index as u32, client.serial))
    }

    pub(crate) fn stream_mut(&mut self, index: usize) -> Option<&mut S> {
        self.clients.get_mut(index)?.stream.get_mut()
    }

    pub(crate) fn is_open(&self, id: ClientId) -> bool {
        self.get(id).is_some_and(Slot::is_live)
    }

    /// Whether bytes for this connection have not left yet, its final close frame included. Unlike
    /// in other queries, the id may be of a connection that was reported closed.
    pub(crate) fn owes(&self, id: ClientId) -> bool {
        slot(&self.clients, id).is_some_and(|client| client.open().is_some() || client.has_output())
    }

    pub(crate) fn last_heard(&self, id: ClientId) -> Option<Instant> {
        self.get(id).map(|client| client.deadlines.last_heard())
    }

    pub(crate) fn remote_addr(&self, id: ClientId) -> Option<PeerAddr> {
        self.get(id).map(|client| client.remote)
    }

    pub(crate) fn peer_addr(&self, id: ClientId) -> Option<PeerAddr> {
        self.get(id).map(|_| self.endpoint(id.index()).peer)
    }

    pub(crate) fn rtt(&self, id: ClientId) -> Option<Duration> {
        self.get(id)?.open()?.connection.rtt()
    }

    pub(crate) fn buffered(&self, id: ClientId) -> usize {
        self.get(id).map_or(0, |client| client.buffered() + self.batch.held_for(client))
    }

    pub(crate) fn client_stats(&self, id: ClientId) -> Option<ClientStats> {
        let client = self.get(id).filter(|client| client.is_live())?;
        let open = client.open()?;
        Some(ClientStats {
            opened: client.deadlines.opened(),
            last_heard: client.deadlines.last_heard(),
            messages_in: open.messages_in,
            messages_out: open.messages_out + self.batch.frames_for(client) as u64,
            bytes_in: client.bytes_in,
            bytes_out: client.bytes_out,
            buffered: self.buffered(id),
            rtt: open.connection.rtt(),
        })
    }

    pub(crate) fn subprotocol(&self, id: ClientId) -> Option<&str> {
        self.get(id)?.open()?.provenance.as_ref()?.subprotocol.as_deref()
    }

    pub(crate) fn request(&self, id: ClientId) -> Option<Request<'_>> {
        let client = self.get(id)?;
        let head = client.open()?.provenance.as_ref()?.request.as_deref()?;
        Some(Request::new(head, &[], self.endpoint(id.index())))
    }

    // ---- helpers for the submodules ----

    fn get(&self, id: ClientId) -> Option<&Slot<S>> {
        slot(&self.clients, id).filter(|client| client.open().is_some())
    }

    /// The open connection with this id, and its outbox.
    fn open_mut(
        &mut self,
        id: ClientId,
    ) -> Result<(&mut Open, &mut Outbox, &mut OutboxPool), NotConnectedError> {
        let Engine { clients, outbound, .. } = self;
        let client = slot_mut(clients, id);
        let (open, outbox) = client.and_then(Slot::open_mut).ok_or(NotConnectedError(id))?;
        Ok((open, outbox, outbound))
    }

    fn id(&self, index: usize) -> ClientId {
        ClientId::new(index as u32, self.clients[index].serial)
    }

    fn make_ready(&mut self, index: usize) {
        let id = self.id(index);
        let client = &mut self.clients[index];
        if !client.in_ready && !client.is_paused() {
            client.in_ready = true;
            self.ready.push_back(id);
        }
    }
}

/// The slot of a client; `None` if the client is gone, even if its index is in use again.
#[inline(always)]
fn slot<S>(clients: &Slab<Slot<S>>, id: ClientId) -> Option<&Slot<S>> {
    clients.get(id.index()).filter(|client| client.serial == id.serial())
}

/// Same as [`slot`], mutable.
#[inline(always)]
fn slot_mut<S>(clients: &mut Slab<Slot<S>>, id: ClientId) -> Option<&mut Slot<S>> {
    clients.get_mut(id.index()).filter(|client| client.serial == id.serial())
}
