//! The broadcast batch: small messages to all clients, queued for each client in one pass at the
//! next flush.
//!
//! An application broadcasts several messages per tick to clients that are too many for the CPU
//! cache. Queuing each message at once would walk through the memory of all clients every time; the
//! batch walks through it once.

use std::time::Instant;

use crate::{
    connection::{
        Connection,
        slot::{Slot, Stage},
    },
    engine::{Engine, Stream, note_dirty, slot_mut},
    event::delivery::Delivery,
    id::ClientId,
    outbox::{
        Outbox,
        {outgoing::Outgoing, prepared::Prepared},
    },
    proto::frame,
};

/// Frames to be queued, and their recipients. Any other call into the engine that could change the
/// outcome flushes the batch first, with [`Engine::flush_batch`].
#[derive(Debug, Default)]
pub(in crate::engine) struct BroadcastBatch {
    /// Whole frames, one behind the other.
    bytes: Vec<u8>,
    recipients: Vec<ClientId>,
    /// Bytes that still fit into each recipient's outbox and below the memory limit.
    room: usize,
    /// The number of frames in `bytes`.
    frames: usize,
    /// No batch before the next flush: a client cannot take plain frames or has no room, or each
    /// broadcast is followed by another call.
    suspended: bool,
}

impl BroadcastBatch {
    /// The most bytes in a batch, which therefore stays in the CPU cache.
    const MAX: usize = 16 * 1024;

    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of the batch, counted once per recipient.
    pub(in crate::engine) fn held(&self) -> usize {
        self.bytes.len() * self.recipients.len()
    }

    /// Bytes of the batch that this client will get.
    pub(in crate::engine) fn held_for<S>(&self, client: &Slot<S>) -> usize {
        if recipient(client).is_some() { self.bytes.len() } else { 0 }
    }

    /// Frames of the batch that this client will get.
    pub(in crate::engine) fn frames_for<S>(&self, client: &Slot<S>) -> usize {
        if recipient(client).is_some() { self.frames } else { 0 }
    }
}

/// The connection and outbox of a client that gets broadcasts, and whether it has no pending
/// messages.
fn recipient<S>(client: &Slot<S>) -> Option<(&Connection, &Outbox, bool)> {
    let Stage::Open(open) = &client.stage else { return None };
    let recipient = open.accepts_messages();
    recipient.then_some((&open.connection, &client.outbox, open.pending.is_none()))
}

impl<S: Stream> Engine<S> {
    /// Adds a small message to the batch if every client is certain to get it unchanged.
    pub(in crate::engine) fn add_to_batch(&mut self, message: &Outgoing<'_>) -> Option<Delivery> {
        let (header, frame) = match message {
            Outgoing::Message(message) => {
                (frame::short_header(message.kind(), message.len())?, message.as_bytes())
            }
            Outgoing::Prepared(prepared) => (([0; 4], 0), prepared.frame()),
        };
        let (header, len) = (header.0.get(..header.1)?, header.1 + frame.len());
        if len >= Prepared::SHARE_FROM {
            return None;
        }
        if self.batch.is_empty() && !self.gather() {
            return None;
        }
        let batch = &mut self.batch;
        let Some(room) = batch.room.checked_sub(len) else {
            if batch.is_empty() {
                // The batch is empty, so the caller flushes nothing; a next message would hardly
                // fit.
                batch.recipients.clear();
                batch.suspended = true;
            }
            return None;
        };
        batch.room = room;
        batch.frames += 1;
        batch.bytes.extend_from_slice(header);
        batch.bytes.extend_from_slice(frame);
        self.stats.messages_out += batch.recipients.len() as u64;
        Some(Delivery { queued: batch.recipients.len(), ..Delivery::default() })
    }

    /// Collects the recipients. `false`: one of them cannot take plain frames now, or there are
    /// none.
    fn gather(&mut self) -> bool {
        let Engine { clients, batch, config, .. } = self;
        // With a time budget a flush may end before all clients have had their turn.
        if batch.suspended || config.time_budget.is_some() {
            return false;
        }
        batch.recipients.clear();
        batch.room = BroadcastBatch::MAX;
        for (index, client) in clients.iter() {
            let Some((connection, outbox, straight)) = recipient(client) else { continue };
            if !straight || !connection.sends_plain() {
                batch.suspended = true;
                batch.recipients.clear();
                return false;
            }
            batch.room = batch.room.min(config.max_buffered.saturating_sub(outbox.frames_len()));
            batch.recipients.push(ClientId::new(index as u32, client.serial));
        }
        if let Some(memory_limit) = self.config.max_total_buffered {
            // The capacity of a buffer may be twice its length.
            let left =
                memory_limit.saturating_sub(self.total_buffered()) / self.batch.recipients.len().max(1);
            self.batch.room = self.batch.room.min(left / 2);
        }
        !self.batch.recipients.is_empty()
    }

    /// Queues the batch before another call of the engine, which then checks the memory limit.
    #[inline(always)]
    pub(in crate::engine) fn flush_batch(&mut self) {
        if !self.batch.is_empty() {
            self.flush_batch_now();
        }
    }

    #[inline(never)]
    fn flush_batch_now(&mut self) {
        let frames = self.batch.frames;
        self.deliver_batch(None);
        self.batch.suspended = frames == 1;
    }

    /// Queues the batch for each recipient. During a flush, at time `now`, it also writes to each
    /// that is not blocked: the buffer that one write has emptied serves the next client while it
    /// is still in the CPU cache.
    pub(in crate::engine) fn deliver_batch(&mut self, now: Option<Instant>) {
        let mut recipients = std::mem::take(&mut self.batch.recipients);
        let mut bytes = std::mem::take(&mut self.batch.bytes);
        let frames = self.batch.frames as u64;
        for id in recipients.drain(..) {
            let Engine { clients, outbound, dirty, .. } = self;
            let Some(client) = slot_mut(clients, id) else { continue };
            if let Stage::Open(open) = &mut client.stage {
                open.messages_out += frames;
            }
            client.outbox.append(bytes.len(), usize::MAX, outbound, |tail| tail.extend_from_slice(&bytes));
            match now {
                Some(now) if !client.outbox.is_blocked() => {
                    client.in_dirty = false;
                    self.write(id.index(), usize::MAX, now);
                }
                _ => note_dirty(client, id.index(), dirty),
            }
        }
        bytes.clear();
        self.batch = BroadcastBatch { bytes, recipients, ..BroadcastBatch::default() };
    }
}
