//! A whole server without sockets or a clock: generic over the stream, told what is ready and what
//! time it is.
//!
//! | kind | methods |
//! |---|---|
//! | what happened | `accept`, `ready`, `fire_timers`, `service_next` |
//! | what to do | `send`, `broadcast`, `ping`, `close`, `disconnect`, `shutdown`, … |
//! | what comes out | `flush` (to the streams), `finish_tick` (to the application), `next_timeout` |
//!
//! One poll: `flush`, `start_poll`, then `accept` and `ready` for what the kernel reports, then
//! `fire_timers`, then `service_next` until it gives `false`, then `finish_tick`.

#![allow(
    clippy::indexing_slicing,
    reason = "an index is a client's whose serial was compared on the way here, or comes from the slab itself; a read gives at most the room it was given"
)]

mod admission;
mod at_once;
mod ceiling;
mod chorus;
mod closing;
mod dial;
mod groups;
mod http;
mod limits;
mod receive;
mod send;
#[cfg(any(test, fuzzing))]
mod sim;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
mod timers;
mod upgrade;

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{
    backlog::BacklogPool,
    client::{Client, Farewell, Open, Stage},
    config::Config,
    deadlines::after,
    dial::Link,
    entropy::Entropy,
    error::NotConnected,
    hub::{Hub, HubLimits},
    id::ClientId,
    outbox::{Outbox, OutboxPool, Written},
    pool::BufferPool,
    proto::{deflate::Codec, handshake::Request, prepared::Encoder},
    reconnect::Jitter,
    send_options::Priority,
    services::Services,
    stats::Stats,
    tick::{Recycler, Tick},
    tick_data::TickData,
    wheel::Wheel,
};
use admission::Addresses;
use ceiling::Ceiling;
use chorus::Chorus;
pub(crate) use dial::Order;
pub use send::Delivery;
pub(crate) use send::Whom;
use timers::{Alarm, AppTimer};

/// A non-blocking byte stream. A readiness source tells the engine when to use it.
pub(crate) trait Stream: Read + Write {
    /// Sends FIN: no more will be written.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Of one that is being connected: whether it is by now.
    fn connected(&mut self) -> io::Result<bool>;

    /// Sets what the configuration says of sockets, once it is connected.
    fn tune(&self, config: &Config);
}

/// What the readiness source reports of one stream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer will send no more, or the connection failed.
    pub(crate) read_closed: bool,
    /// TCP urgent data has come.
    pub(crate) urgent: bool,
}

/// The server's state and all of its rules.
#[derive(Debug)]
pub(crate) struct Engine<S> {
    config: Config,
    services: Services,
    clients: Slab<Client<S>>,
    next_serial: u32,
    /// The number of the last request that the application was asked about.
    next_request: u64,
    /// Live connections: open and not reported closed.
    open: usize,
    /// Connections whose last bytes are on their way.
    lingering: usize,
    addresses: Addresses,
    /// Connections that go out, lingering ones not counted.
    outbound_count: usize,
    /// Those that have a next step to be taken, which only the host can.
    dials: VecDeque<ClientId>,
    /// Lost since the last tick, to be connected again.
    lost: Vec<(ClientId, Box<Link>, Instant)>,
    next_link: u32,
    jitter: Jitter,
    /// Since the first connection that went out.
    entropy: Option<Entropy>,
    rooms: Hub,
    users: Hub,
    ceiling: Ceiling,
    /// Clients with input to read, each once, served in turns. Those that are gone fall out at their turn.
    ready: VecDeque<ClientId>,
    /// Clients whose turn comes in the next poll: their read budget is spent.
    postponed: Vec<ClientId>,
    /// They are to be `ready` again, behind those that have been quiet until this poll.
    resumes: bool,
    /// Indices with something to write that are not blocked, each once.
    dirty: Vec<u32>,
    chorus: Chorus,
    /// Reported closed since the last flush.
    ended: Vec<(ClientId, Farewell)>,
    /// Spare for `flush`, so that it need not allocate.
    work: Vec<u32>,
    poll: u32,
    /// What had arrived by then was reported before this poll.
    reported_until: Instant,
    /// What had arrived by then has been reported.
    looked: Instant,

    wheel: Wheel<Alarm>,
    timers: Slab<AppTimer>,
    next_timer: u32,
    timers_left: bool,
    shutting_down: bool,

    tick: TickData,
    recycler: Arc<Recycler>,
    inbound: BufferPool,
    outbound: OutboxPool,
    backlogs: BacklogPool,
    /// A message to many is framed here once.
    encoder: Encoder,
    codec: Codec,
    stats: Stats,
    /// The last moment that the engine was told of.
    now: Instant,
}

impl<S: Stream> Engine<S> {
    /// Spare buffers kept, in bytes, each way: for a few messages of the largest size that is allowed by default.
    const POOL_BYTES: usize = 8 * 1024 * 1024;

    pub(crate) fn new(config: Config, services: Services, now: Instant) -> Self {
        let rooms = HubLimits {
            rooms: config.max_rooms,
            rooms_per_client: config.max_rooms_per_client,
            name: config.max_room_name,
        };
        let outbound = OutboxPool::new(Self::POOL_BYTES);
        Engine {
            codec: Codec::new(&config),
            config,
            services,
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
            jitter: Jitter::new(0),
            entropy: None,
            rooms: Hub::new(rooms),
            users: Hub::new(HubLimits::USERS),
            ceiling: Ceiling::default(),
            ready: VecDeque::new(),
            postponed: Vec::new(),
            resumes: false,
            dirty: Vec::new(),
            chorus: Chorus::default(),
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
            tick: TickData::default(),
            recycler: Arc::default(),
            inbound: BufferPool::new(Self::POOL_BYTES),
            backlogs: BacklogPool::new(outbound.shared().clone()),
            outbound,
            encoder: Encoder::default(),
            stats: Stats::default(),
            now,
        }
    }

    /// From here on what a read is offered does not depend on which ticks the application has dropped: a recycled
    /// buffer may be longer than a new one would be.
    #[cfg(feature = "sim")]
    pub(crate) fn keep_no_buffers(&mut self) {
        self.inbound = BufferPool::new(0);
    }

    // ---- what happened ----

    /// The readiness source reports on the stream at `index`.
    pub(crate) fn ready(&mut self, index: usize, readiness: Readiness, now: Instant) {
        let Some(client) = self.clients.get_mut(index) else { return };
        client.read_closed |= readiness.read_closed;
        client.urgent |= readiness.urgent;
        if matches!(client.stage, Stage::Dialing(_)) && !self.greet(index, readiness, now) {
            return;
        }
        let client = &mut self.clients[index];
        if readiness.readable || readiness.read_closed || readiness.urgent {
            if !client.readable
                && let Some(limiter) = client.limiter_mut()
            {
                limiter.caught_up(self.reported_until);
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

    // ---- what comes out ----

    /// Writes what is queued, one write per client, and bids farewell to those reported closed.
    pub(crate) fn flush(&mut self, now: Instant) {
        self.now = now;
        self.bid_farewell(now);
        let mut work = std::mem::replace(&mut self.dirty, std::mem::take(&mut self.work));
        self.hand_out(Some(now));
        for index in work.drain(..) {
            let index = index as usize;
            if let Some(client) = self.clients.get_mut(index)
                && std::mem::take(&mut client.in_dirty)
            {
                // A writable event may have come to it first, or a write at once, and found that there is no room.
                match client.outbox.is_blocked() {
                    true => self.refused(index, 0, now),
                    false => self.write(index, now),
                }
            }
        }
        self.work = work;
        self.feel_pressure(now);
    }

    /// Begins a poll: budgets are fresh. It was asked for at `called`; until `now` it waited for
    /// something to happen. `partial`: more has happened than will be reported in this poll.
    pub(crate) fn start_poll(&mut self, called: Instant, now: Instant, partial: bool) {
        self.settle();
        self.poll = self.poll.wrapping_add(1);
        // The host was away for so long; while it waits in a poll, nothing arrives unnoticed.
        let away = called.saturating_duration_since(self.looked);
        self.reported_until = now.checked_sub(away).unwrap_or(now);
        self.looked = if partial { self.reported_until } else { now };
        self.timers_left = false;
        self.recycler.lend_block(&mut self.tick);
        self.resumes = true;
    }

    /// Hands out everything that happened since the last tick. `more` of the caller's is added.
    pub(crate) fn finish_tick(&mut self, now: Instant, more: bool) -> Tick {
        self.end_grace(now);
        self.redial_lost(now);
        let data = std::mem::replace(&mut self.tick, self.recycler.take(&mut self.inbound));
        let more = more || self.has_more();
        let timeout = if more { Some(Duration::ZERO) } else { self.next_timeout(now) };
        Tick::new(data, self.recycler.clone(), more, timeout)
    }

    /// How long the host may sleep: zero if something is queued, ready or reported, `None` if nothing
    /// is going to happen by itself.
    pub(crate) fn next_timeout(&mut self, now: Instant) -> Option<Duration> {
        if self.has_more()
            || !self.dials.is_empty()
            || !self.dirty.is_empty()
            || !self.chorus.is_empty()
            || !self.ended.is_empty()
            || !self.tick.is_empty()
        {
            return Some(Duration::ZERO);
        }
        self.wheel.next_deadline().map(|deadline| deadline.saturating_duration_since(now))
    }

    /// Whether work was carried over.
    pub(crate) fn has_more(&self) -> bool {
        !self.ready.is_empty() || !self.postponed.is_empty() || self.timers_left
    }

    // ---- questions ----

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats { open: self.open as u64, buffered: self.total_buffered() as u64, ..self.stats }
    }

    /// Accepting rests, as the process is out of descriptors.
    pub(crate) fn count_pause(&mut self) {
        self.stats.accept_pauses += 1;
    }

    /// A listening socket has died.
    pub(crate) fn count_lost_listener(&mut self) {
        self.stats.listeners_lost += 1;
    }

    /// What a handle asked for came too late.
    pub(crate) fn count_undelivered(&mut self) {
        self.stats.undelivered += 1;
    }

    pub(crate) fn client_count(&self) -> usize {
        self.open
    }

    /// Every connection, handshakes and lingering ones included.
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
        self.get(id).map_or(0, |client| client.buffered() + self.chorus.held_for(client))
    }

    pub(crate) fn subprotocol(&self, id: ClientId) -> Option<&str> {
        self.get(id)?.open()?.origin.as_ref()?.subprotocol.as_deref()
    }

    pub(crate) fn request(&self, id: ClientId) -> Option<&Request> {
        self.get(id)?.open()?.origin.as_ref()?.request.as_deref()
    }

    // ---- shared by the parts ----

    fn get(&self, id: ClientId) -> Option<&Client<S>> {
        self.clients.get(id.index()).filter(|client| client.serial == id.serial() && client.open().is_some())
    }

    /// The open connection behind an id and the outbox beside it.
    fn open_mut(&mut self, id: ClientId) -> Result<(&mut Open, &mut Outbox, &mut OutboxPool), NotConnected> {
        let Engine { clients, outbound, .. } = self;
        let client = clients.get_mut(id.index()).filter(|client| client.serial == id.serial());
        let (open, outbox) = client.and_then(Client::open_mut).ok_or(NotConnected(id))?;
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

    /// Bytes of a backlog that are framed at a time. For a client that is behind it is little: what is framed
    /// can no longer be replaced.
    const FILL: usize = 64 * 1024;
    const FILL_SLOW: usize = 4 * 1024;

    /// Writes as much as the stream takes.
    fn write(&mut self, index: usize, now: Instant) {
        if self.clients[index].failed.is_some() {
            return self.drop_output(index);
        }
        loop {
            let room = if self.clients[index].backed_up { Self::FILL_SLOW } else { Self::FILL };
            // What is ahead of the data, and cannot be lined up all at once, stays ahead of it.
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
                    return self.refused(index, count, now);
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

    /// The stream took `count` bytes and no more.
    fn refused(&mut self, index: usize, count: usize, now: Instant) {
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

    /// Frames up to about `room` bytes of what waits in the client's backlog. Gives whether messages of high
    /// priority still wait there.
    fn fill(&mut self, index: usize, room: usize, now: Instant) -> bool {
        let Engine { clients, outbound, backlogs, codec, stats, .. } = self;
        let client = &mut clients[index];
        let Some((open, outbox)) = client.open_mut() else { return false };
        let Some(mut backlog) = open.backlog.take() else { return false };
        stats.expired += open.connection.fill(&mut backlog, room, now, codec, outbox, outbound);
        let ahead = backlog.waits(Priority::High);
        open.backlog = backlogs.settle(backlog);
        ahead
    }

    /// Nothing more can be written.
    fn drop_output(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.outbox.clear(&mut self.outbound);
        if let Stage::Open(open) = &mut client.stage
            && let Some(backlog) = open.backlog.take()
        {
            self.backlogs.give(backlog);
        }
    }

    fn write_failed(&mut self, index: usize, kind: io::ErrorKind, now: Instant) {
        self.drop_output(index);
        // Of one that takes no answer, no request is of interest.
        if matches!(self.clients[index].stage, Stage::Handshake(_) | Stage::Request(_)) {
            return self.forget_handshake(index);
        }
        // The peer may have said why before it reset: what has arrived is read first.
        let client = &mut self.clients[index];
        client.failed = Some(kind);
        client.readable = true;
        client.read_closed = true;
        client.end_pauses();
        client.deadlines.unstuck();
        // One that is being made has its deadline.
        if client.dial_mut().is_none() {
            client.deadlines.close_by(after(now, self.config.close_timeout));
        }
        self.rearm(index);
        self.make_ready(index);
    }
}

/// The client at `index` has something to write.
#[inline]
fn note_dirty<S>(client: &mut Client<S>, index: usize, dirty: &mut Vec<u32>) {
    if !client.in_dirty && !client.outbox.is_blocked() {
        client.in_dirty = true;
        dirty.push(index as u32);
    }
}
