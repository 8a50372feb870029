//! Outbound connections: attempts, their ends, and reconnecting. The host resolves names and opens
//! sockets; everything else is here.
//!
//! ```text
//! connect ─► Begin ─► (Resolving) ─► Next ─► Connecting ─► Asked ─► Open
//!              ▲                      ▲ another address │     │        │
//!              │                      └─────────────────┘     │        │ Close
//!              └────────── Waiting ◄──────────────────────────┴────────┘
//!
//! The steps from `Next` to `Connecting` are in race.rs.
//! ```

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Engine, Stream, race,
    receive::{Turn, after_read, budget_left, drained_by, keep_unparsed, read},
    slot, slot_mut,
};
use crate::{
    config::connect::{Attempt, Plan, WhileDown},
    connection::{
        Connection, Role,
        deadlines::Deadlines,
        dial::{Asked, Dial, DialStep, Link, Outbound},
        slot::{Provenance, Slot, Stage},
        stream::StreamSlot,
    },
    error::{ConnectError, SendError},
    event::tick_buffer::{Failure, TickBuffer},
    handshake::client::{self, Opened, RequestParts},
    http1::head::HeadLimits,
    id::{ClientId, LinkId},
    outbox::{outgoing::Outgoing, pending::Terms},
    peer_addr::PeerAddr,
    proto::deflate::PerMessage,
    util::{entropy::Entropy, split_mix::SplitMix, time::after},
};

/// An operation that the host must do for an outbound connection. The host reports its outcome with
/// `dialed` or `resolved`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Open a socket to this address.
    Connect(ClientId, SocketAddr),
    /// Open a Unix domain socket to this path.
    ConnectUnix(ClientId, PathBuf),
    /// Resolve this host name and port.
    Resolve(ClientId, String, u16),
    /// Do nothing: the attempt has already failed. The host still counts it as a step of its
    /// budget.
    Nothing,
}

impl<S: Stream> Engine<S> {
    /// The most addresses of one name that are tried.
    const MAX_ADDRS: usize = 16;

    /// Extra time to read input that arrived while the host was away.
    pub(super) const GRACE_TO_READ: Duration = Duration::from_millis(100);

    // ---- commands ----

    /// Begins an outbound connection; `next_dial` then returns its first `Order`.
    pub(crate) fn connect(&mut self, plan: Plan, now: Instant) -> Result<ClientId, ConnectError> {
        if self.shutting_down {
            return Err(ConnectError::ShuttingDown);
        }
        if self.entropy.is_none() {
            self.draw_from(Entropy::new().ok_or(ConnectError::NoRandom)?);
        }
        let id = LinkId::new(self.next_link.take());
        let id = self.add_dial(Box::new(Link { id, plan, attempt: 0 }), DialStep::Begin, now);
        self.dials.push_back(id);
        Ok(id)
    }

    /// Sets the source of all random numbers.
    pub(crate) fn draw_from(&mut self, entropy: Entropy) {
        self.jitter = SplitMix::new(u64::from_ne_bytes(entropy.take()));
        self.entropy = Some(entropy);
    }

    /// Seeds the waits between attempts.
    #[cfg(any(test, fuzzing))]
    pub(super) fn seed_jitter(&mut self, seed: u64) {
        self.entropy = Entropy::new();
        self.jitter = SplitMix::new(seed);
    }

    /// The `connect` call that this client comes from, open or not; `None` if it was accepted or is
    /// gone.
    pub(crate) fn link(&self, id: ClientId) -> Option<LinkId> {
        let client = slot(&self.clients, id)?;
        match &client.stage {
            Stage::Dialing(dial) => Some(dial.link.id),
            Stage::Open(open) => Some(open.provenance.as_ref()?.outbound.as_ref()?.link.id),
            _ => None,
        }
    }

    /// The plan of an outbound connection that is not open yet.
    #[cfg(feature = "tls")]
    pub(crate) fn plan(&self, id: ClientId) -> Option<&Plan> {
        match &slot(&self.clients, id)?.stage {
            Stage::Dialing(dial) => Some(&dial.link.plan),
            _ => None,
        }
    }

    /// The head of the 101 response that opened an outbound connection.
    pub(crate) fn response(&self, id: ClientId) -> Option<&http::Response<()>> {
        Some(&self.get(id)?.open()?.provenance.as_ref()?.outbound.as_ref()?.response)
    }

    /// Implements `close` and `disconnect` for a connection that is not open yet. `false`: the
    /// client is no such connection.
    pub(super) fn cancel_dial(&mut self, id: ClientId) -> bool {
        let client = slot_mut(&mut self.clients, id);
        let dials = client.is_some_and(|client| client.dial_mut().is_some());
        if dials {
            self.abandon_dial(id.index(), ConnectError::Cancelled);
        }
        dials
    }

    /// Keeps a message for an outbound connection that is not open yet, if its plan allows it.
    pub(super) fn keep(
        &mut self,
        id: ClientId,
        message: &Outgoing<'_>,
        terms: Terms,
    ) -> Result<(), SendError> {
        let max = self.config.max_buffered;
        let client = slot_mut(&mut self.clients, id);
        let Some(dial) = client.and_then(Slot::dial_mut) else { return Err(SendError::NotConnected(id)) };
        let WhileDown::KeepLast(count) = dial.link.plan.while_down else {
            return Err(SendError::Connecting(id));
        };
        self.stats.dropped += dial.kept.push(message.clone().prepare(), terms, count, max)?;
        self.count_inbound(id.index());
        self.enforce_memory_limit();
        Ok(())
    }

    // ---- the host's part ----

    /// Whether `next_dial` has something to return.
    pub(crate) fn has_dials(&self) -> bool {
        !self.dials.is_empty()
    }

    /// The next operation for the host.
    pub(crate) fn next_dial(&mut self, now: Instant) -> Option<Order> {
        while let Some(id) = self.dials.pop_front() {
            let Some(dial) = self.dial_of(id) else { continue };
            let order = match dial.step {
                DialStep::Begin => self.begin_attempt(id, now),
                DialStep::Next => self.next_address(id, now),
                _ => continue,
            };
            return Some(order.unwrap_or(Order::Nothing));
        }
        None
    }

    /// Takes the outcome of `Order::Resolve`.
    pub(crate) fn resolved(
        &mut self,
        id: ClientId,
        addrs: Result<Vec<SocketAddr>, ConnectError>,
        now: Instant,
    ) {
        let Some(dial) = self.dial_of(id).filter(|dial| dial.step == DialStep::Resolving) else { return };
        match addrs {
            Ok(addrs) => {
                dial.addrs = race::interleaved(addrs).take(Self::MAX_ADDRS).collect();
                if dial.addrs.is_empty() {
                    let (host, error) = (dial.link.plan.target.host.clone(), "it has no address".to_owned());
                    return self.attempt_failed(id.index(), ConnectError::Resolve { host, error }, now);
                }
                dial.step = DialStep::Next;
                self.dials.push_back(id);
            }
            Err(error) => self.attempt_failed(id.index(), error, now),
        }
    }

    // ---- steps of an attempt ----

    pub(super) fn dial_of(&mut self, id: ClientId) -> Option<&mut Dial> {
        let client = slot_mut(&mut self.clients, id);
        client.and_then(Slot::dial_mut)
    }

    fn add_dial(&mut self, link: Box<Link>, step: DialStep, now: Instant) -> ClientId {
        let serial = self.next_serial.take();
        let dial = Dial { step, ..Dial::new(link, now) };
        let index = self.clients.insert(Slot::dialing(dial, serial, now));
        self.outbound_count += 1;
        ClientId::new(index as u32, serial)
    }

    fn begin_attempt(&mut self, id: ClientId, now: Instant) -> Option<Order> {
        self.stats.dialed += 1;
        let client = &mut self.clients[id.index()];
        let dial = client.dial_mut()?;
        let deadline = after(now, dial.link.plan.timeout);
        (dial.deadline, dial.late) = (deadline, false);
        client.deadlines = Deadlines::new(now);
        client.deadlines.close_by(deadline);
        // The deadline is set before the closure is called: if that panics, the attempt still ends.
        self.rearm(id.index());
        let Engine { clients, entropy, .. } = self;
        let dial = clients[id.index()].dial_mut()?;
        let (link, last) = (&mut dial.link, dial.error.take());
        let mut attempt = Attempt::new(link.attempt, last.as_ref(), &link.plan);
        // An error of the closure is final: there is no other attempt.
        if let Some(before) = &mut link.plan.before
            && let Err(error) = before(&mut attempt)
        {
            self.stats.dial_failed += 1;
            self.give_up(id.index(), error);
            return None;
        }
        let asking = RequestParts {
            authority: &link.plan.target.authority,
            path: &attempt.path,
            headers: attempt.headers,
            subprotocols: &link.plan.subprotocols,
            extensions: self.codec.offer(),
            nonce: entropy.as_ref()?.take(),
        };
        match client::ask(asking) {
            Ok((request, bytes, reader)) => {
                dial.asked = Some(Asked { request: Arc::new(request), bytes, reader });
            }
            Err(error) => {
                self.attempt_failed(id.index(), error, now);
                return None;
            }
        }
        if let Some(path) = &dial.link.plan.target.unix {
            dial.step = DialStep::Connecting(PeerAddr::Unix(None));
            return Some(Order::ConnectUnix(id, path.clone()));
        }
        let known = dial.link.plan.addrs.iter().copied().collect();
        dial.addrs = known;
        let target = &dial.link.plan.target;
        let (resolve, host, port) = (dial.addrs.is_empty(), target.host.clone(), target.port);
        dial.step = if resolve { DialStep::Resolving } else { DialStep::Next };
        if resolve { Some(Order::Resolve(id, host, port)) } else { self.next_address(id, now) }
    }

    /// One read of the response head.
    pub(super) fn read_response(&mut self, index: usize, now: Instant) -> Turn {
        let client = &mut self.clients[index];
        let Some(Dial { step: DialStep::Asked, .. }) = client.dial_mut() else { return Turn::Drained };
        if let Some(turn) = self.secure(index, now) {
            return turn;
        }
        let client = &mut self.clients[index];
        let Some(budget) = budget_left(client, self.poll, self.config.read_budget) else {
            return Turn::Postponed;
        };
        let (mut block, base) = self.tick.take_block();
        // Bytes behind the 101 response stay unparsed until the next turn, and must then fit into
        // the block.
        let end = TickBuffer::BLOCK.min(base.saturating_add(budget));
        let room = &mut block[base..end];
        let offered = room.len();
        let count = match read(&mut client.stream, room) {
            Ok(count) => count,
            Err(turn) => {
                self.tick.put_block(block);
                return drained_by(client, turn);
            }
        };
        self.tick.received(count);
        self.stats.bytes_in += count as u64;
        after_read(client, count, offered, self.config.rearm, now);
        let limits =
            HeadLimits { max_bytes: self.config.max_head_bytes, max_headers: self.config.max_headers };
        let bytes = &block[base..base + count];
        let outcome = match client.dial_mut().and_then(|dial| dial.asked.as_mut()) {
            Some(asked) => asked.reader.push(bytes, limits),
            None => Ok(None),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(opened)) => match self.codec.confirm(opened.response.headers()) {
                Ok(deflate) => {
                    // Frames that the server sent right behind its 101 response.
                    keep_unparsed(&mut client.unparsed, &bytes[opened.used..], &mut self.inbound);
                    self.opened(index, opened, deflate, now);
                }
                Err(_) => {
                    let error = ConnectError::BadResponse("its extensions do not fit the offer");
                    self.attempt_failed(index, error, now);
                }
            },
            Err(error) => self.attempt_failed(index, error, now),
        }
        self.tick.put_block(block);
        let Some(client) = self.clients.get_mut(index) else { return Turn::Drained };
        if client.readable || !client.unparsed.is_empty() { Turn::Again } else { Turn::Drained }
    }

    fn opened(&mut self, index: usize, opened: Opened, deflate: Option<PerMessage>, now: Instant) {
        let id = self.id(index);
        let Some(entropy) = self.entropy.clone() else { return };
        let client = &mut self.clients[index];
        let stage = std::mem::replace(&mut client.stage, Stage::Linger { half_closed: false });
        let Stage::Dialing(dial) = stage else { return };
        let Dial { link, asked, mut kept, .. } = *dial;
        let Some(Asked { mut request, .. }) = asked else { return };
        if let Some(tls) = client.stream.get().and_then(Stream::tls) {
            Arc::make_mut(&mut request).extensions_mut().insert(tls.clone());
        }
        let Opened { response, subprotocol, .. } = opened;
        let provenance = Provenance {
            subprotocol,
            request: self.config.keep_requests.then(|| request.clone()),
            outbound: Some(Outbound { link, response, opened: now }),
        };
        let role = Role::Client(Box::new(Box::new(move || entropy.take())));
        let connection = Connection::new(role).with_deflate(deflate);
        self.open_connection(index, connection, provenance, request, now);
        while let Some((message, terms)) = kept.pop() {
            // Kept messages fit, because together they were limited to `max_buffered`.
            if let Err(error) = self.send_on(id, &Outgoing::Prepared(message), terms) {
                log::debug!("a kept message was not queued: {error}");
                self.stats.dropped += 1;
            }
        }
        self.count_inbound(index);
    }

    // ---- ends ----

    /// Handles the deadline of a step.
    pub(super) fn dial_due(&mut self, index: usize, now: Instant) {
        let id = self.id(index);
        let unread = self.clients[index].readable;
        let Some(dial) = self.clients[index].dial_mut() else { return };
        match dial.step {
            DialStep::Waiting => {
                dial.step = DialStep::Begin;
                self.dials.push_back(id);
            }
            DialStep::Connecting(_) if now < dial.deadline => self.start_next(index),
            DialStep::Asked if unread && !dial.late => {
                dial.late = true;
                self.clients[index].deadlines.close_by(after(now, Self::GRACE_TO_READ));
                self.rearm(index);
            }
            step => {
                // A rejection that arrived in part explains the failure better than a timeout.
                let error = match &mut dial.asked {
                    Some(asked) if asked.reader.is_refused() => asked.reader.end(),
                    _ => ConnectError::Timeout(step.public()),
                };
                self.attempt_failed(index, error, now);
            }
        }
    }

    /// Handles FIN from the server before the handshake was complete.
    pub(super) fn hung_up(&mut self, index: usize, now: Instant) {
        let asked = self.clients[index].dial_mut().and_then(|dial| dial.asked.as_mut());
        let error = asked.map_or(ConnectError::HungUp, |asked| asked.reader.end());
        self.attempt_failed(index, error, now);
    }

    /// Handles a failed read or write before the handshake was complete.
    pub(super) fn broken(&mut self, index: usize, error: io::ErrorKind, now: Instant) {
        let client = &mut self.clients[index];
        let addr = client.remote;
        let error = match client.dial_mut().and_then(|dial| dial.asked.as_mut()) {
            Some(asked) if asked.reader.is_refused() => asked.reader.end(),
            _ => ConnectError::Io { addr, error },
        };
        self.attempt_failed(index, error, now);
    }

    /// Handles a failed attempt: waits for the next one, or gives up.
    pub(super) fn attempt_failed(&mut self, index: usize, error: ConnectError, now: Instant) {
        self.stats.dial_failed += 1;
        log::debug!("a connection attempt failed: {error}");
        let Some(dial) = self.clients[index].dial_mut() else { return };
        let attempt = dial.link.attempt.saturating_add(1);
        let wait = dial.link.plan.reconnect.and_then(|policy| policy.delay(attempt, &mut self.jitter));
        match wait.filter(|_| !self.shutting_down) {
            Some(wait) => self.wait(index, attempt, wait, Some(error), now),
            None => self.give_up(index, error),
        }
    }

    /// Reports that a connection never opened and will not be tried again, and frees its id.
    fn give_up(&mut self, index: usize, error: ConnectError) {
        let id = self.id(index);
        let Some(dial) = self.clients[index].dial_mut() else { return };
        let (link, attempt, wait) = (dial.link.id, 0, Duration::ZERO);
        let mut lost = 0;
        while dial.kept.pop().is_some() {
            lost += 1;
        }
        self.stats.dropped += lost;
        self.tick.connect_failed(id, Failure { link, error: Some(error), attempt, wait });
        self.free(index);
    }

    /// Gives up a connection at any step before it is open. An attempt that has begun counts as
    /// failed.
    pub(super) fn abandon_dial(&mut self, index: usize, error: ConnectError) {
        let under_way = |dial: &mut Dial| !matches!(dial.step, DialStep::Waiting | DialStep::Begin);
        self.stats.dial_failed += u64::from(self.clients[index].dial_mut().is_some_and(under_way));
        self.give_up(index, error);
    }

    /// Turns reconnecting off, because the application ends the connection.
    pub(super) fn forget_policy(&mut self, index: usize) {
        let (id, goes_out) = (self.id(index), self.clients[index].outbound);
        match self.outbound_mut(index) {
            Some(Some(outbound)) => outbound.link.plan.reconnect = None,
            // Its `Close` was reported since the last tick.
            Some(None) if goes_out => self.lost.retain(|(lost, ..)| *lost != id),
            Some(None) | None => {}
        }
    }

    /// Remembers a connection whose `Close` is being reported, if its policy is to reconnect.
    pub(super) fn note_loss(&mut self, index: usize) {
        let id = self.id(index);
        let again = |outbound: &mut Outbound| outbound.link.plan.reconnect.is_some();
        if !self.shutting_down
            && let Some(Outbound { link, opened, .. }) =
                self.outbound_mut(index).and_then(|outbound| outbound.take_if(again))
        {
            self.lost.push((id, link, opened));
        }
    }

    fn outbound_mut(&mut self, index: usize) -> Option<&mut Option<Outbound>> {
        let Stage::Open(open) = &mut self.clients[index].stage else { return None };
        Some(&mut open.provenance.as_mut()?.outbound)
    }

    /// Gives each connection lost since the last tick a new id, and schedules its next attempt.
    pub(super) fn redial_lost(&mut self, now: Instant) {
        for (_, mut link, opened) in std::mem::take(&mut self.lost) {
            let Some(policy) = link.plan.reconnect.filter(|_| !self.shutting_down) else { continue };
            if policy.is_stable(now.saturating_duration_since(opened)) {
                link.attempt = 0;
            }
            let attempt = link.attempt.saturating_add(1);
            let wait = policy.delay(attempt, &mut self.jitter);
            let id = self.add_dial(link, DialStep::Waiting, now);
            match wait {
                Some(wait) => self.wait(id.index(), attempt, wait, None, now),
                None => self.give_up(id.index(), ConnectError::GaveUp),
            }
        }
    }

    fn wait(
        &mut self,
        index: usize,
        attempt: u32,
        wait: Duration,
        error: Option<ConnectError>,
        now: Instant,
    ) {
        let id = self.id(index);
        self.drop_stream(index);
        let client = &mut self.clients[index];
        let Some(dial) = client.dial_mut() else { return };
        (dial.step, dial.asked) = (DialStep::Waiting, None);
        dial.addrs.clear();
        dial.error = error.clone();
        dial.link.attempt = attempt;
        let link = dial.link.id;
        client.deadlines = Deadlines::new(now);
        client.deadlines.close_by(after(now, wait));
        self.rearm(index);
        self.tick.reconnecting(id, Failure { link, error, attempt, wait });
        self.count_inbound(index);
    }

    /// Closes the socket, and resets all state that belongs to it.
    fn drop_stream(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.stream = StreamSlot::none();
        self.races.remove(&index);
        (client.bytes_in, client.bytes_out) = (0, 0);
        client.outbox.clear(&mut self.outbound);
        client.outbox.unblock();
        client.outbox.congested = false;
        self.inbound.give(std::mem::take(&mut client.unparsed));
        client.deadlines.unstuck();
        (client.readable, client.read_closed, client.urgent) = (false, false, false);
        (client.failed, client.backed_up) = (None, false);
    }
}
