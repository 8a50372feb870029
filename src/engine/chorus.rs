//! Small messages to everyone, one behind the other: queued for each client in one pass, which is the flush's.
//!
//! The application broadcasts some messages per tick to clients that are too many for the cache. Queued one by one,
//! each of them goes through the memory of all; here each client's is gone through once.

use std::time::Instant;

use super::{Engine, Stream, note_dirty, send::Delivery};
use crate::{
    client::{Client, Stage},
    id::ClientId,
    outbox::Outbox,
    proto::{
        connection::Connection,
        frame,
        prepared::{Outgoing, Prepared},
    },
};

/// What is to be queued, and for whom. Nothing that would change what becomes of it happens meanwhile: whatever else
/// the engine is asked for comes after [`Engine::settle`].
#[derive(Debug, Default)]
pub(super) struct Chorus {
    /// Whole frames.
    bytes: Vec<u8>,
    listeners: Vec<ClientId>,
    /// Bytes that still fit into each outbox, and below the ceiling.
    room: usize,
    /// How many stand in `bytes`.
    frames: usize,
    /// Until the next flush: someone takes no plain frames, or has no room, or each broadcast is followed by
    /// something else.
    refused: bool,
}

impl Chorus {
    /// Bytes at most, so that they stay in the cache.
    const MAX: usize = 16 * 1024;

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that wait for all listeners together.
    pub(super) fn held(&self) -> usize {
        self.bytes.len() * self.listeners.len()
    }

    /// Bytes that wait for this client.
    pub(super) fn held_for<S>(&self, client: &Client<S>) -> usize {
        if listens(client).is_some() { self.bytes.len() } else { 0 }
    }
}

/// Who gets a broadcast.
fn listens<S>(client: &Client<S>) -> Option<(&Connection, &Outbox, bool)> {
    let Stage::Open(open) = &client.stage else { return None };
    let listens = !open.reported && open.connection.close_state().may_send_data();
    listens.then_some((&open.connection, &client.outbox, open.backlog.is_none()))
}

impl<S: Stream> Engine<S> {
    /// Takes a small message for everyone, if it is certain now that all of them get it as it is.
    pub(super) fn join_chorus(&mut self, message: &Outgoing<'_>) -> Option<Delivery> {
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
                // Nothing is to be handed out, and the next would hardly fit either.
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

    /// Finds out who listens. `false`: not everyone takes plain frames now, or nobody is there.
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
            // A buffer may be twice as long as what is in it.
            let left = ceiling.saturating_sub(self.total_buffered()) / self.chorus.listeners.len().max(1);
            self.chorus.room = self.chorus.room.min(left / 2);
        }
        !self.chorus.listeners.is_empty()
    }

    /// Queues now what waits for the flush: something else is to come behind it, and looks at the ceiling then.
    #[inline(always)]
    pub(super) fn settle(&mut self) {
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

    /// Queues what waits, and writes it for those that are not blocked if it is `now` that all is written: a buffer
    /// that one client's write has emptied is the next one's, and still in the cache.
    pub(super) fn hand_out(&mut self, now: Option<Instant>) {
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
