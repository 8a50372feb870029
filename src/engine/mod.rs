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
mod handshake;
pub(crate) mod hooks;
mod http;
mod memory_limit;
mod outbound;
mod receive;
pub(crate) mod rooms;
mod send;
#[cfg(any(test, fuzzing))]
mod sim;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
mod throttle;
mod timers;

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{
    config::{Config, send_options::Priority},
    connection::{
        dial::Link,
        slot::{FinalClose, Open, Slot, Stage},
    },
    engine::{
        hooks::Hooks,
        rooms::registry::{RegistryLimits, RoomRegistry},
    },
    error::NotConnected,
    event::{
        tick::{Recycler, Tick},
        tick_buffer::TickBuffer,
    },
    http1::head::Request,
    id::ClientId,
    outbox::{Outbox, OutboxPool, Written, pending::PendingPool, prepared::Encoder},
    proto::deflate::Codec,
    stats::Stats,
    util::{buffer_pool::BufferPool, entropy::Entropy, split_mix::SplitMix, time::after, timer_wheel::Wheel},
};
use connection_limits::Addresses;
use memory_limit::MemoryLimit;
pub(crate) use outbound::Order;
pub(crate) use send::Audience;
use send::broadcast_batch::BroadcastBatch;
use timers::{Alarm, AppTimer};

/// A non-blocking byte stream. The readiness source tells the engine when to use it.
pub(crate) trait Stream: Read + Write {
    /// Sends FIN; nothing is written afterwards.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Whether a connection attempt has succeeded; an error if it failed.
    fn connected(&mut self) -> io::Result<bool>;

    /// Applies the socket options of the configuration, once the stream is connected.
    fn tune(&self, config: &Config);
}

/// Readiness of one stream, as the readiness source reports it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has sent FIN, or the connection failed.
    pub(crate) read_closed: bool,
    /// TCP urgent data has arrived.
    pub(crate) urgent: bool,
}

/// The state and all rules of the server.
#[derive(Debug)]
pub(crate) struct Engine<S> {
    config: Config,
    hooks: Hooks,
    clients: Slab<Slot<S>>,
    next_serial: u32,
    /// The number of the last request that was passed to the application.
    next_request: u64,
    /// Open connections whose `Close` has not been reported.
    open: usize,
    /// Connections in `Stage::Linger`: their last bytes are being written.
    lingering: usize,
    addresses: Addresses,
    /// Outbound connections, without lingering ones.
    outbound_count: usize,
    /// Outbound connections whose next step is up to the host: to resolve a name or open a socket.
    dials: VecDeque<ClientId>,
    /// Outbound connections lost since the last tick, waiting to be reconnected.
    lost: Vec<(ClientId, Box<Link>, Instant)>,
    next_link: u32,
    jitter: SplitMix,
    /// Created by the first outbound connection.
    entropy: Option<Entropy>,
    rooms: RoomRegistry,
    users: RoomRegistry,
    memory_limit: MemoryLimit,
    /// Clients with input to read, each at most once, served round-robin. Stale ids are skipped
    /// when their turn comes.
    ready: VecDeque<ClientId>,
    /// Clients that used up a budget in this poll; their turn comes in the next one.
    postponed: Vec<ClientId>,
    /// A poll has begun and `postponed` has not yet been appended to `ready`. That happens after
    /// the kernel's events, so that clients that were quiet until now come first.
    resumes: bool,
    /// Indices of clients with output whose stream is not blocked, each at most once.
    dirty: Vec<u32>,
    batch: BroadcastBatch,
    /// Clients reported closed since the last flush, each with its final close frame.
    ended: Vec<(ClientId, FinalClose)>,
    /// Spare vector that `flush` swaps with `dirty`, so that it does not allocate.
    work: Vec<u32>,
    poll: u32,
    /// Input older than this was reported by an earlier poll.
    reported_until: Instant,
    /// Input older than this has been reported.
    looked: Instant,

    wheel: Wheel<Alarm>,
    timers: Slab<AppTimer>,
    next_timer: u32,
    timers_left: bool,
    shutting_down: bool,

    tick: TickBuffer,
    recycler: Arc<Recycler>,
    inbound: BufferPool,
    outbound: OutboxPool,
    pending_pool: PendingPool,
    /// Frames a message to many clients once.
    encoder: Encoder,
    codec: Codec,
    stats: Stats,
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
        Engine {
            codec: Codec::new(&config),
            config,
            hooks,
            clients: Slab::new(),
            next_serial: 1,
            next_request: 0,
            open: 0,
            lingering: 0,
            addresses: Addresses::default(),
            outbound_count: 0,
            dials: VecDeque::new(),
            lost: Vec::new(),
            next_link: 1,
            jitter: SplitMix::new(0),
            entropy: None,
            rooms: RoomRegistry::new(rooms),
            users: RoomRegistry::new(RegistryLimits::USERS),
            memory_limit: MemoryLimit::default(),
            ready: VecDeque::new(),
            postponed: Vec::new(),
            resumes: false,
            dirty: Vec::new(),
            batch: BroadcastBatch::default(),
            ended: Vec::new(),
            work: Vec::new(),
            poll: 0,
            reported_until: now,
            looked: now,
            wheel: Wheel::new(now),
            timers: Slab::new(),
            next_timer: 1,
            timers_left: false,
            shutting_down: false,
            tick: TickBuffer::default(),
            recycler: Arc::default(),
            inbound: BufferPool::new(Self::POOL_BYTES),
            pending_pool: PendingPool::new(outbound.shared().clone()),
            outbound,
            encoder: Encoder::default(),
            stats: Stats::default(),
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
        client.read_closed |= readiness.read_closed;
        client.urgent |= readiness.urgent;
        if matches!(client.stage, Stage::Dialing(_)) && !self.on_connected(index, readiness, now) {
            return;
        }
        let client = &mut self.clients[index];
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
            if client.has_output() {
                self.write(index, now);
            }
        }
    }

    // ---- output ----

    /// Writes queued output, one write per client, and the final close frames of clients reported
    /// closed.
    pub(crate) fn flush(&mut self, now: Instant) {
        self.now = now;
        self.send_final_close(now);
        let mut work = std::mem::replace(&mut self.dirty, std::mem::take(&mut self.work));
        self.deliver_batch(Some(now));
        for index in work.drain(..) {
            let index = index as usize;
            if let Some(client) = self.clients.get_mut(index)
                && std::mem::take(&mut client.in_dirty)
            {
                // The stream may have become blocked since this client was queued, by a writable
                // event or a direct write; its write deadline is set here.
                match client.outbox.is_blocked() {
                    true => self.would_block(index, 0, now),
                    false => self.write(index, now),
                }
            }
        }
        self.work = work;
        self.update_pressure(now);
    }

    /// Begins a poll with fresh budgets. The poll was called at `called`, and waited until `now`
    /// for something to happen. `partial`: more has happened than this poll will report.
    pub(crate) fn start_poll(&mut self, called: Instant, now: Instant, partial: bool) {
        self.flush_batch();
        self.poll = self.poll.wrapping_add(1);
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
            || !self.dirty.is_empty()
            || !self.batch.is_empty()
            || !self.ended.is_empty()
            || !self.tick.is_empty()
        {
            return Some(Duration::ZERO);
        }
        self.wheel.next_deadline().map(|deadline| deadline.saturating_duration_since(now))
    }

    /// Whether work is left over for the next poll.
    pub(crate) fn has_more(&self) -> bool {
        !self.ready.is_empty() || !self.postponed.is_empty() || self.timers_left
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

    pub(crate) fn remote_addr(&self, id: ClientId) -> Option<SocketAddr> {
        self.get(id).map(|client| client.remote)
    }

    pub(crate) fn rtt(&self, id: ClientId) -> Option<Duration> {
        self.get(id)?.open()?.connection.rtt()
    }

    pub(crate) fn buffered(&self, id: ClientId) -> usize {
        self.get(id).map_or(0, |client| client.buffered() + self.batch.held_for(client))
    }

    pub(crate) fn subprotocol(&self, id: ClientId) -> Option<&str> {
        self.get(id)?.open()?.provenance.as_ref()?.subprotocol.as_deref()
    }

    pub(crate) fn request(&self, id: ClientId) -> Option<&Request> {
        self.get(id)?.open()?.provenance.as_ref()?.request.as_deref()
    }

    // ---- helpers for the submodules ----

    fn get(&self, id: ClientId) -> Option<&Slot<S>> {
        slot(&self.clients, id).filter(|client| client.open().is_some())
    }

    /// The open connection with this id, and its outbox.
    fn open_mut(&mut self, id: ClientId) -> Result<(&mut Open, &mut Outbox, &mut OutboxPool), NotConnected> {
        let Engine { clients, outbound, .. } = self;
        let client = slot_mut(clients, id);
        let (open, outbox) = client.and_then(Slot::open_mut).ok_or(NotConnected(id))?;
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

    fn make_dirty(&mut self, index: usize) {
        note_dirty(&mut self.clients[index], index, &mut self.dirty);
    }

    /// Bytes of pending messages framed at a time. The limit is lower for a client that is behind,
    /// since a framed message can no longer be replaced.
    const FILL: usize = 64 * 1024;
    const FILL_SLOW: usize = 4 * 1024;

    /// Writes as much as the stream accepts.
    fn write(&mut self, index: usize, now: Instant) {
        if self.clients[index].failed.is_some() {
            return self.drop_output(index);
        }
        loop {
            let room = if self.clients[index].backed_up { Self::FILL_SLOW } else { Self::FILL };
            // While high-priority messages are pending, normal data that has not begun to leave
            // waits.
            let ahead_only = self.fill(index, room, now);
            let Engine { clients, outbound, stats, .. } = self;
            let client = &mut clients[index];
            match client.outbox.write_to(&mut client.stream, ahead_only, outbound) {
                Ok(Written::All(count)) => {
                    stats.bytes_out += count as u64;
                    client.deadlines.unstuck();
                    if !client.has_output() {
                        break;
                    }
                }
                Ok(Written::Blocked(count)) => {
                    stats.bytes_out += count as u64;
                    return self.would_block(index, count, now);
                }
                Err(error) => return self.write_failed(index, error.kind(), now),
            }
        }
        let client = &mut self.clients[index];
        if std::mem::take(&mut client.backed_up) && client.is_live() {
            let id = self.id(index);
            self.tick.drained(id);
        }
        self.after_last_byte(index, now);
    }

    /// Handles a stream that accepted `count` bytes and would block on the rest.
    fn would_block(&mut self, index: usize, count: usize, now: Instant) {
        let client = &mut self.clients[index];
        if !client.outbox.has_work() || client.failed.is_some() {
            return;
        }
        if count > 0 || !client.deadlines.is_stuck() {
            client.deadlines.stuck_since(now);
        }
        client.backed_up = true;
        self.rearm(index);
    }

    /// Frames pending messages of the client until about `room` bytes are queued. Returns whether
    /// high-priority messages are still pending.
    fn fill(&mut self, index: usize, room: usize, now: Instant) -> bool {
        let Engine { clients, outbound, pending_pool, codec, stats, .. } = self;
        let client = &mut clients[index];
        let Some((open, outbox)) = client.open_mut() else { return false };
        let Some(mut pending) = open.pending.take() else { return false };
        stats.expired += open.connection.fill(&mut pending, room, now, codec, outbox, outbound);
        let ahead = pending.waits(Priority::High);
        open.pending = pending_pool.retain_or_give(pending);
        ahead
    }

    /// Discards the client's queued output and pending messages.
    fn drop_output(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.outbox.clear(&mut self.outbound);
        if let Stage::Open(open) = &mut client.stage
            && let Some(pending) = open.pending.take()
        {
            self.pending_pool.give(pending);
        }
    }

    fn write_failed(&mut self, index: usize, kind: io::ErrorKind, now: Instant) {
        self.drop_output(index);
        // A request whose response cannot be written need not be read.
        if matches!(self.clients[index].stage, Stage::Handshake(_) | Stage::Request(_)) {
            return self.forget_handshake(index);
        }
        // The peer may have sent its reason before it reset the connection: read that first.
        let client = &mut self.clients[index];
        client.failed = Some(kind);
        client.readable = true;
        client.read_closed = true;
        client.end_pauses();
        client.deadlines.unstuck();
        // An outbound connection that is not open yet keeps the deadline of its attempt.
        if client.dial_mut().is_none() {
            client.deadlines.close_by(after(now, self.config.close_timeout));
        }
        self.rearm(index);
        self.make_ready(index);
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

/// Adds the client at `index` to the dirty list, unless it is there or its stream is blocked.
#[inline]
fn note_dirty<S>(client: &mut Slot<S>, index: usize, dirty: &mut Vec<u32>) {
    if !client.in_dirty && !client.outbox.is_blocked() {
        client.in_dirty = true;
        dirty.push(index as u32);
    }
}
