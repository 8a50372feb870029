//! The broadcast batch: small messages to all clients, queued for each client in one pass at the
//! next flush.
//!
//! An application broadcasts several messages per tick to clients that are too many for the CPU
//! cache. Queuing each message at once would walk through the memory of all clients every time; the
//! batch walks through it once.

use std::time::Instant;

use super::super::{Engine, Stream, note_dirty};
use crate::event::delivery::Delivery;
use crate::{
    connection::{
        Connection,
        slot::{Client, Stage},
    },
    id::ClientId,
    outbox::{
        Outbox,
        prepared::{Outgoing, Prepared},
    },
    proto::frame,
};

/// Frames to be queued, and their recipients. Any other call into the engine that could change the
/// outcome flushes the batch first, with [`Engine::settle`].
#[derive(Debug, Default)]
pub(in crate::engine) struct Chorus {
    /// Whole frames, one behind the other.
    bytes: Vec<u8>,
    listeners: Vec<ClientId>,
    /// Bytes that still fit into each recipient's outbox and below the memory limit.
    room: usize,
    /// The number of frames in `bytes`.
    frames: usize,
    /// No batch before the next flush: a client cannot take plain frames or has no room, or each
    /// broadcast is followed by another call.
    refused: bool,
}

impl Chorus {
    /// The most bytes in a batch, which therefore stays in the CPU cache.
    const MAX: usize = 16 * 1024;

    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of the batch, counted once per recipient.
    pub(in crate::engine) fn held(&self) -> usize {
        self.bytes.len() * self.listeners.len()
    }

    /// Bytes of the batch that this client will get.
    pub(in crate::engine) fn held_for<S>(&self, client: &Client<S>) -> usize {
        if listens(client).is_some() { self.bytes.len() } else { 0 }
    }
}

/// The connection and outbox of a client that gets broadcasts, and whether it has no pending
/// messages.
fn listens<S>(client: &Client<S>) -> Option<(&Connection, &Outbox, bool)> {
    let Stage::Open(open) = &client.stage else { return None };
    let listens = !open.reported && open.connection.close_state().may_send_data();
    listens.then_some((&open.connection, &client.outbox, open.backlog.is_none()))
}

impl<S: Stream> Engine<S> {
    /// Adds a small message to the batch if every client is certain to get it unchanged.
    pub(in crate::engine) fn join_chorus(&mut self, message: &Outgoing<'_>) -> Option<Delivery> {
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
        if self.chorus.is_empty() && !self.gather() {
            return None;
        }
        let chorus = &mut self.chorus;
        let Some(room) = chorus.room.checked_sub(len) else {
            if chorus.is_empty() {
                // The batch is empty, so the caller flushes nothing; a next message would hardly
                // fit.
                chorus.listeners.clear();
                chorus.refused = true;
            }
            return None;
        };
        chorus.room = room;
        chorus.frames += 1;
        chorus.bytes.extend_from_slice(header);
        chorus.bytes.extend_from_slice(frame);
        self.stats.messages_out += chorus.listeners.len() as u64;
        Some(Delivery { queued: chorus.listeners.len(), ..Delivery::default() })
    }

    /// Collects the recipients. `false`: one of them cannot take plain frames now, or there are
    /// none.
    fn gather(&mut self) -> bool {
        let Engine { clients, chorus, config, .. } = self;
        if chorus.refused {
            return false;
        }
        chorus.listeners.clear();
        chorus.room = Chorus::MAX;
        for (index, client) in clients.iter() {
            let Some((connection, outbox, straight)) = listens(client) else { continue };
            if !straight || !connection.sends_plain() {
                chorus.refused = true;
                chorus.listeners.clear();
                return false;
            }
            chorus.room = chorus.room.min(config.max_buffered.saturating_sub(outbox.frames_len()));
            chorus.listeners.push(ClientId::new(index as u32, client.serial));
        }
        if let Some(ceiling) = self.config.max_total_buffered {
            // The capacity of a buffer may be twice its length.
            let left = ceiling.saturating_sub(self.total_buffered()) / self.chorus.listeners.len().max(1);
            self.chorus.room = self.chorus.room.min(left / 2);
        }
        !self.chorus.listeners.is_empty()
    }

    /// Queues the batch before another call of the engine, which then checks the memory limit.
    #[inline(always)]
    pub(in crate::engine) fn settle(&mut self) {
        if !self.chorus.is_empty() {
            self.settle_now();
        }
    }

    #[inline(never)]
    fn settle_now(&mut self) {
        let frames = self.chorus.frames;
        self.hand_out(None);
        self.chorus.refused = frames == 1;
    }

    /// Queues the batch for each recipient. During a flush, at time `now`, it also writes to each
    /// that is not blocked: the buffer that one write has emptied serves the next client while it
    /// is still in the CPU cache.
    pub(in crate::engine) fn hand_out(&mut self, now: Option<Instant>) {
        let mut listeners = std::mem::take(&mut self.chorus.listeners);
        let mut bytes = std::mem::take(&mut self.chorus.bytes);
        for id in listeners.drain(..) {
            let Engine { clients, outbound, dirty, .. } = self;
            let client = clients.get_mut(id.index()).filter(|client| client.serial == id.serial());
            let Some(client) = client else { continue };
            client.outbox.append(bytes.len(), usize::MAX, outbound, |tail| tail.extend_from_slice(&bytes));
            match now {
                Some(now) if !client.outbox.is_blocked() => {
                    client.in_dirty = false;
                    self.write(id.index(), now);
                }
                _ => note_dirty(client, id.index(), dirty),
            }
        }
        bytes.clear();
        self.chorus = Chorus { bytes, listeners, ..Chorus::default() };
    }
}
