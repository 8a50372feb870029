//! Output: messages that the application queues.

pub(super) mod broadcast_batch;
mod direct;

use std::{num::NonZeroU32, time::Instant};

use slab::Slab;

use super::{Engine, Stream, note_dirty, slot_mut};
use crate::{
    close_code::CloseCode,
    config::{
        Config, OverflowPolicy,
        audience::Audience,
        send_options::{LatestKey, Priority, SendOptions},
    },
    connection::slot::{FinalClose, Open, Slot, Stage},
    error::{NotConnectedError, SendError},
    event::{close_reason::CloseReason, delivery::Delivery},
    id::ClientId,
    message::Kind,
    outbox::{
        Outbox, OutboxPool,
        pending::{Pending, PendingPool, Pushed, Terms},
        {outgoing::Outgoing, prepared::Prepared},
    },
    proto::{deflate::Codec, frame},
    stats::Stats,
    util::time::after,
};

/// Reason why a message cannot be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Misfit {
    /// The message alone exceeds `max_buffered`.
    TooLarge {
        len: usize,
    },
    Full,
}

/// The engine's shared parts that are needed to queue a message.
struct SendContext<'e> {
    outbound: &'e mut OutboxPool,
    pending_pool: &'e mut PendingPool,
    codec: &'e mut Codec,
    stats: &'e mut Stats,
    max_buffered: usize,
    /// The time of the last flush. It lags behind the clock, so no message expires too early.
    now: Instant,
}

impl<S: Stream> Engine<S> {
    /// Queues one message for one client. Inlined, so that a small message is passed in registers.
    #[inline(always)]
    pub(crate) fn send(&mut self, id: ClientId, message: Outgoing<'_>) -> Result<(), SendError> {
        if self.batch.is_empty()
            && let Outgoing::Message(message) = &message
            && self.send_short(id, message.kind(), message.as_bytes())
        {
            return Ok(());
        }
        self.send_on(id, &message, Terms::default())
    }

    /// Fast path for small messages that need no compression and no masking, with no pending
    /// messages before them and no broadcast batch. `false`: nothing was done.
    #[inline(never)]
    fn send_short(&mut self, id: ClientId, kind: Kind, payload: &[u8]) -> bool {
        let Some((head, size)) = frame::short_header(kind, payload.len()) else { return false };
        let Engine { clients, outbound, pending_pool, codec, stats, config, now, dirty, .. } = self;
        let mut context = SendContext {
            outbound,
            pending_pool,
            codec,
            stats,
            max_buffered: config.max_buffered,
            now: *now,
        };
        let Some(client) = slot_mut(clients, id) else { return false };
        let Some((open, outbox)) = client.open_mut() else { return false };
        let held = outbox.memory();
        if !context.append(open, outbox, head, size, payload) {
            return false;
        }
        let grown = outbox.memory() > held;
        note_dirty(client, id.index(), dirty);
        if grown {
            self.enforce_memory_limit();
        }
        true
    }

    /// Queues one message for one client, with options. `now` is needed for an expiry only.
    pub(crate) fn send_with(
        &mut self,
        id: ClientId,
        message: Outgoing<'_>,
        options: &SendOptions,
        now: Option<Instant>,
    ) -> Result<(), SendError> {
        let terms = terms_of(options, now);
        // A recording does not tell a plain `send_with` from a `send`, and a replay runs both here.
        // Buffers grow differently on the two paths, so a plain message takes the path of `send`.
        if terms.is_plain() && !terms.uncompressed {
            return self.send(id, message);
        }
        self.send_on(id, &message, terms)
    }

    pub(super) fn send_on(
        &mut self,
        id: ClientId,
        message: &Outgoing<'_>,
        terms: Terms,
    ) -> Result<(), SendError> {
        self.flush_batch();
        if let Outgoing::Message(message) = message
            && message.len() >= Self::DIRECT_LEN
            && self.send_direct(id, message, &terms)
        {
            return Ok(());
        }
        let Engine { clients, outbound, pending_pool, codec, stats, config, now, .. } = self;
        let client = slot_mut(clients, id);
        let Some((open, outbox)) = client.and_then(|client| client.open_mut()) else {
            return self.keep(id, message, terms);
        };
        if !open.connection.close_state().may_send_data() {
            return Err(SendError::Closing(id));
        }
        let max = config.max_buffered;
        let mut context = SendContext { outbound, pending_pool, codec, stats, max_buffered: max, now: *now };
        match context.queue(open, outbox, message, terms) {
            Ok(()) => {
                self.make_dirty(id.index());
                self.enforce_memory_limit();
                Ok(())
            }
            Err(Misfit::TooLarge { len }) => Err(SendError::TooLarge { len, max }),
            Err(Misfit::Full) => Err(self.overflow(id)),
        }
    }

    /// Queues one message for all of `audience`. It is framed once; a large one is shared. `now` is
    /// needed for an expiry only.
    pub(crate) fn deliver(
        &mut self,
        audience: Audience<'_>,
        message: Outgoing<'_>,
        options: &SendOptions,
        now: Option<Instant>,
    ) -> Delivery {
        let terms = terms_of(options, now);
        if let Audience::Everyone = audience
            && terms.is_plain()
            && options.except.is_none()
            && let Some(delivery) = self.add_to_batch(&message)
        {
            return delivery;
        }
        self.flush_batch();
        if let Audience::Client(id) = audience {
            return self.deliver_to(&[id], &message, &terms, options.except);
        }
        let message = self.encoder.encode(message);
        if let Audience::Clients(ids) = audience {
            return self.deliver_to(ids, &message.into(), &terms, options.except);
        }
        let Engine {
            clients, rooms, users, outbound, pending_pool, codec, stats, config, now, dirty, ..
        } = self;
        let context = SendContext {
            outbound,
            pending_pool,
            codec,
            stats,
            max_buffered: config.max_buffered,
            now: *now,
        };
        let except = options.except;
        let short = terms.is_plain().then(|| message.clone());
        let message = Outgoing::Prepared(message);
        let (delivery, full) = (Delivery::default(), Vec::new());
        let mut fanout = Fanout { context, message, terms, short, except, dirty, delivery, full };
        match audience {
            // Delivered above.
            Audience::Client(_) | Audience::Clients(_) => {}
            Audience::Everyone => {
                for (index, client) in clients.iter_mut() {
                    fanout.offer(ClientId::new(index as u32, client.serial), client);
                }
            }
            Audience::Room(room) => fanout.offer_to(rooms.members(room), clients),
            Audience::User(key) => fanout.offer_to(users.members(key.into()), clients),
        }
        let Fanout { mut delivery, full, .. } = fanout;
        self.stats.dropped += delivery.dropped as u64;
        for id in full {
            match self.overflow(id) {
                SendError::Dropped(_) => delivery.dropped += 1,
                _ => delivery.overflowed += 1,
            }
        }
        self.enforce_memory_limit();
        delivery
    }

    /// Queues one message for each of `ids`, of which any may be stale or not open.
    fn deliver_to(
        &mut self,
        ids: &[ClientId],
        message: &Outgoing<'_>,
        terms: &Terms,
        except: Option<ClientId>,
    ) -> Delivery {
        let mut delivery = Delivery::default();
        for &id in ids.iter().filter(|id| Some(**id) != except) {
            match self.send_on(id, message, terms.clone()) {
                Ok(()) => delivery.queued += 1,
                Err(SendError::TooLarge { .. }) => {
                    self.stats.dropped += 1;
                    delivery.dropped += 1;
                }
                Err(SendError::Dropped(_)) => delivery.dropped += 1,
                Err(SendError::Overflow(_)) => delivery.overflowed += 1,
                Err(SendError::NotConnected(_) | SendError::Connecting(_) | SendError::Closing(_)) => {
                    delivery.not_open += 1;
                }
            }
        }
        delivery
    }

    /// Queues a ping; the pong sets `rtt`.
    pub(crate) fn ping(&mut self, id: ClientId, now: Instant) -> Result<(), SendError> {
        self.flush_batch();
        let max = self.config.max_buffered;
        let sent = self.get(id).ok_or(NotConnectedError(id))?.deadlines.since_opened(now);
        let (open, outbox, pool) = self.open_mut(id)?;
        if !open.connection.close_state().may_send_data() {
            return Err(SendError::Closing(id));
        }
        open.connection.ping(sent, outbox.len() >= max / 2, outbox, pool);
        self.stats.pings += 1;
        self.make_dirty(id.index());
        Ok(())
    }

    /// Overrides the server's overflow policy for one client.
    pub(crate) fn set_overflow(
        &mut self,
        id: ClientId,
        overflow: OverflowPolicy,
    ) -> Result<(), NotConnectedError> {
        self.flush_batch();
        self.open_mut(id)?.0.overflow = Some(overflow);
        Ok(())
    }

    /// Overrides the largest incoming message for one client, clamped to what is supported.
    pub(crate) fn set_max_message_size(
        &mut self,
        id: ClientId,
        bytes: usize,
    ) -> Result<(), NotConnectedError> {
        self.flush_batch();
        let bytes = bytes.clamp(1, Config::MAX_MESSAGE_SIZE) as u32;
        self.open_mut(id)?.0.max_message_size = NonZeroU32::new(bytes);
        Ok(())
    }

    /// Applies the overflow policy to `id`, whose outbox is full.
    fn overflow(&mut self, id: ClientId) -> SendError {
        let default = self.config.overflow;
        let Ok((open, ..)) = self.open_mut(id) else { return SendError::NotConnected(id) };
        if open.reported {
            return SendError::Closing(id);
        }
        let overflow = open.overflow.unwrap_or(default);
        // Nobody is closed because the time budget is too small: the client takes what it gets, but
        // its turn has not come.
        let client = &self.clients[id.index()];
        let waits = self.config.time_budget.is_some() && client.in_dirty && !client.outbox.is_blocked();
        match if waits { OverflowPolicy::DropNewest } else { overflow } {
            OverflowPolicy::DropNewest => {
                self.stats.dropped += 1;
                // A `Drained` event follows each drop, even if the next flush writes everything.
                self.clients[id.index()].backed_up = true;
                SendError::Dropped(id)
            }
            OverflowPolicy::Disconnect => {
                // The close is reported now. Queued messages and 1013 still leave while it lingers.
                self.queue_close(id.index(), CloseCode::TRY_AGAIN_LATER, "too slow");
                self.end(id.index(), CloseReason::Overflow, FinalClose::Silent);
                SendError::Overflow(id)
            }
        }
    }
}

fn terms_of(options: &SendOptions, now: Option<Instant>) -> Terms {
    let SendOptions { expires_in, priority, ref latest, uncompressed, except: _ } = *options;
    let expires = expires_in.zip(now).map(|(wait, now)| after(now, wait));
    Terms { uncompressed, priority, expires, latest: latest.clone() }
}

/// One message that is being queued for many clients.
struct Fanout<'e> {
    context: SendContext<'e>,
    message: Outgoing<'static>,
    terms: Terms,
    /// The same message, if it has no options and may take the fast path.
    short: Option<Prepared>,
    except: Option<ClientId>,
    dirty: &'e mut Vec<u32>,
    delivery: Delivery,
    /// Clients whose outbox is full.
    full: Vec<ClientId>,
}

impl Fanout<'_> {
    fn offer_to<S>(&mut self, members: impl Iterator<Item = ClientId>, clients: &mut Slab<Slot<S>>) {
        for id in members {
            // Clients leave all rooms before they are freed, so the serial needs no check.
            if let Some(client) = clients.get_mut(id.index()) {
                self.offer(id, client);
            }
        }
    }

    fn offer<S>(&mut self, id: ClientId, client: &mut Slot<S>) {
        let Stage::Open(open) = &mut client.stage else { return };
        if !open.accepts_messages() || self.except == Some(id) {
            return;
        }
        let outbox = &mut client.outbox;
        let queued = match &self.short {
            Some(message) if self.context.repeat(open, outbox, message) => Ok(()),
            _ => self.context.queue(open, outbox, &self.message, self.terms.clone()),
        };
        match queued {
            Ok(()) => {
                self.delivery.queued += 1;
                note_dirty(client, id.index(), self.dirty);
            }
            Err(Misfit::TooLarge { .. }) => self.delivery.dropped += 1,
            Err(Misfit::Full) => self.full.push(id),
        }
    }
}

/// Whether a message goes directly to the outbox, as the same bytes for all clients.
#[inline(always)]
fn takes_plain(open: &Open) -> bool {
    open.pending.is_none() && open.connection.sends_plain()
}

impl SendContext<'_> {
    /// Fast path: queues a message behind the first `size` bytes of `head`. `false`: nothing was
    /// done.
    #[inline(always)]
    fn append(
        &mut self,
        open: &mut Open,
        outbox: &mut Outbox,
        head: [u8; 4],
        size: usize,
        body: &[u8],
    ) -> bool {
        let len = size + body.len();
        let queued = takes_plain(open)
            && outbox.append(len, self.max_buffered, self.outbound, |tail| {
                // A copy of constant length compiles to a single store.
                let end = tail.len() + size;
                tail.extend_from_slice(&head);
                tail.truncate(end);
                tail.extend_from_slice(body);
            });
        self.stats.messages_out += u64::from(queued);
        open.messages_out += u64::from(queued);
        queued
    }

    /// As `append`, for a message to many clients, which is shared if it is large.
    #[inline(always)]
    fn repeat(&mut self, open: &mut Open, outbox: &mut Outbox, message: &Prepared) -> bool {
        let (frame, max) = (message.frame(), self.max_buffered);
        let queued = takes_plain(open)
            && match message.is_shared() {
                false => outbox.append(frame.len(), max, self.outbound, |tail| tail.extend_from_slice(frame)),
                true if outbox.frames_len() + frame.len() > max => false,
                true => {
                    outbox.push_shared(message, self.outbound);
                    true
                }
            };
        self.stats.messages_out += u64::from(queued);
        open.messages_out += u64::from(queued);
        queued
    }

    /// Queues a message in its order, if it fits.
    fn queue(
        &mut self,
        open: &mut Open,
        outbox: &mut Outbox,
        message: &Outgoing<'_>,
        terms: Terms,
    ) -> Result<(), Misfit> {
        let straight = self.check(open, outbox, message, &terms)?;
        let codec = (!terms.uncompressed).then_some(&mut *self.codec);
        match message {
            Outgoing::Message(message) if straight => {
                open.connection.send(message.kind(), message.as_bytes(), codec, outbox, self.outbound);
            }
            Outgoing::Prepared(prepared) if straight => {
                open.connection.send_prepared(prepared, codec, outbox, self.outbound);
            }
            _ => {
                // One copy is shared by all clients, and so compressed only once.
                let share = message.is_shared()
                    || (open.connection.deflates()
                        && !terms.uncompressed
                        && self.codec.wants(message.payload().len()));
                if self.pending_pool.push(&mut open.pending, message, terms, share) == Pushed::Replaced {
                    self.stats.replaced += 1;
                }
            }
        }
        self.stats.messages_out += 1;
        open.messages_out += 1;
        Ok(())
    }

    /// Whether a message goes directly to the outbox; an error if it does not fit, even without
    /// expired messages.
    fn check(
        &mut self,
        open: &mut Open,
        outbox: &Outbox,
        message: &Outgoing<'_>,
        terms: &Terms,
    ) -> Result<bool, Misfit> {
        let max = self.max_buffered;
        let payload = message.payload().len();
        let framed = open.connection.frame_len(payload);
        let waiting = payload + terms.latest.as_ref().map_or(0, LatestKey::heap) + Pending::OVERHEAD;
        // A plain message costs only its frame once the pending ones have left.
        let least = if terms.is_plain() { framed } else { waiting };
        if least > max {
            return Err(Misfit::TooLarge { len: least });
        }
        let room = max.saturating_sub(outbox.frames_len());
        let Some(pending) = &mut open.pending else {
            return if least <= room { Ok(terms.is_plain()) } else { Err(Misfit::Full) };
        };
        let place = |pending: &mut Pending| {
            let straight = terms.is_plain() && !pending.waits(Priority::Normal);
            let freed = terms.latest.as_ref().map_or(0, |key| pending.cost_of(key));
            let len = if straight { framed } else { waiting };
            (straight, pending.cost() - freed + len <= room)
        };
        let (mut straight, mut fits) = place(pending);
        if !fits {
            self.stats.expired += pending.expire(self.now);
            self.pending_pool.count(pending);
            (straight, fits) = place(pending);
        }
        if fits { Ok(straight) } else { Err(Misfit::Full) }
    }
}
