//! Pending messages of one client. They wait before its outbox, where they can still be replaced,
//! expire or be overtaken.
//!
//! ```text
//! send_latest, send_with ──► lane High   ──┐
//!                        ──► lane Normal ──┴─► framed when there is room ──► outbox
//! send behind these      ──►
//! ```
//!
//! Payloads are kept unframed, because a dropped message must not have been masked or compressed.

#![allow(
    clippy::indexing_slicing,
    reason = "a message's `start` and `len` are set when its payload is copied to `bytes`, and updated when it moves"
)]

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::{
    config::send_options::{LatestKey, Priority},
    message::Kind,
    outbox::{
        outgoing::Outgoing,
        prepared::{Prepared, Queued, SharedBytes},
    },
};

/// The options of one message: [`SendOptions`](crate::SendOptions) with an instant instead of a
/// duration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    /// Sent without compression.
    pub(crate) uncompressed: bool,
    pub(crate) priority: Priority,
    pub(crate) expires: Option<Instant>,
    pub(crate) latest: Option<LatestKey>,
}

impl Terms {
    /// Whether the message has no special options and can go directly to the outbox.
    pub(crate) fn is_plain(&self) -> bool {
        self.priority == Priority::Normal && self.expires.is_none() && self.latest.is_none()
    }
}

/// A pending message.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) kind: Kind,
    /// The message may be compressed.
    pub(crate) compress: bool,
    payload: Payload,
    expires: Option<Instant>,
    latest: Option<LatestKey>,
}

#[derive(Debug)]
enum Payload {
    /// The message was replaced by one in the other lane, or has expired.
    Gone,
    /// A copy, in `bytes`.
    Copied { start: usize, len: usize },
    /// A frame shared with other clients.
    Shared(Queued),
}

impl Item {
    fn is_live(&self) -> bool {
        !matches!(self.payload, Payload::Gone)
    }

    fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// The shared frame, if the payload is shared.
    pub(crate) fn shared(&self) -> Option<&Prepared> {
        match &self.payload {
            Payload::Shared(queued) => Some(queued),
            Payload::Copied { .. } | Payload::Gone => None,
        }
    }

    fn len(&self) -> usize {
        match &self.payload {
            Payload::Gone => 0,
            Payload::Copied { len, .. } => *len,
            Payload::Shared(prepared) => prepared.len(),
        }
    }
}

/// Messages of one priority. An item's number is its position since the lane was created.
#[derive(Debug, Default)]
struct Lane {
    items: VecDeque<Item>,
    /// The number of the first item.
    first: u64,
    /// The number of items that were not replaced or expired.
    live: usize,
}

impl Lane {
    fn at(&mut self, number: u64) -> Option<&mut Item> {
        self.items.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

/// The result of pushing a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The message is the last of its lane.
    Added,
    /// The message replaced an older one with its key.
    Replaced,
}

/// The pending messages of one client.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    normal: Lane,
    high: Lane,
    /// The position of each key's message.
    places: HashMap<LatestKey, (Priority, u64)>,
    /// Payloads that are not shared, with gaps left by removed ones.
    bytes: Vec<u8>,
    /// Bytes of `bytes` in use.
    used: usize,
    /// Payload bytes of all pending messages.
    len: usize,
    /// Heap bytes of all keys.
    names: usize,
    /// A lower bound of all expiry instants.
    next_expiry: Option<Instant>,
    /// The memory as last counted by the pool.
    counted: usize,
    shared: SharedBytes,
}

impl Pending {
    /// The cost of a pending message besides its payload, so that a million empty messages are not
    /// free.
    pub(crate) const OVERHEAD: usize = size_of::<Item>();

    /// The size of gaps in `bytes` below which they are not closed.
    const GAPS: usize = 4 * 1024;

    /// The size of unused memory below which it is not freed while messages are pending.
    const SLACK: usize = 16 * 1024;

    /// Payload bytes of all pending messages.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// The number of pending messages.
    pub(crate) fn count(&self) -> usize {
        self.normal.live + self.high.live
    }

    /// Whether a message of that priority is pending.
    pub(crate) fn waits(&self, priority: Priority) -> bool {
        self.lane(priority).live > 0
    }

    /// The bytes that count towards `max_buffered`: payloads, keys and overhead.
    pub(crate) fn cost(&self) -> usize {
        self.len + self.names + self.count() * Self::OVERHEAD
    }

    /// The cost of the pending message with this key, which a replacement frees.
    pub(crate) fn cost_of(&mut self, key: &LatestKey) -> usize {
        let Some((priority, number)) = self.places.get(key).copied() else { return 0 };
        self.lane_mut(priority).at(number).map_or(0, |item| item.len() + key.heap() + Self::OVERHEAD)
    }

    /// Appends a message to its lane, or puts it in the position of the message with its key. If
    /// that one is in the other lane, the message goes to the end of its own.
    ///
    /// With `share`, a message that is framed already is not copied. `scratch` is a temporary
    /// buffer.
    fn push(&mut self, message: &Outgoing<'_>, terms: Terms, share: bool, scratch: &mut Vec<u8>) -> Pushed {
        let Terms { uncompressed, priority, expires, latest } = terms;
        let compress = !uncompressed;
        self.next_expiry = [self.next_expiry, expires].into_iter().flatten().min();
        let kind = message.kind();
        let mut pushed = Pushed::Added;
        if let Some(key) = &latest
            && let Some((place, number)) = self.places.get(key).copied()
        {
            pushed = Pushed::Replaced;
            let old = self.drop_payload(place, number);
            if place == priority {
                let payload = self.overwrite(old, message, share, scratch);
                let lane = self.lane_mut(priority);
                lane.live += 1;
                if let Some(item) = lane.at(number) {
                    (item.kind, item.payload, item.expires) = (kind, payload, expires);
                    item.compress = compress;
                }
                return pushed;
            }
            self.names -= key.heap();
        }
        let payload = self.store(message, share, scratch);
        let lane = self.lane_mut(priority);
        let number = lane.first + lane.items.len() as u64;
        lane.items.push_back(Item { kind, compress, payload, expires, latest: latest.clone() });
        lane.live += 1;
        if let Some(key) = latest {
            self.names += key.heap();
            self.places.insert(key, (priority, number));
        }
        self.sweep();
        pushed
    }

    /// Takes the next message of a lane. Drops expired messages and adds their number to `expired`.
    pub(crate) fn next(&mut self, priority: Priority, now: Instant, expired: &mut u64) -> Option<Item> {
        loop {
            let lane = self.lane_mut(priority);
            let item = lane.items.pop_front()?;
            lane.first += 1;
            if !item.is_live() {
                continue;
            }
            lane.live -= 1;
            self.forget(&item);
            if item.has_expired(now) {
                *expired += 1;
                continue;
            }
            return Some(item);
        }
    }

    /// The payload of an item from `next`. Call it before the next `push`, which may move payloads.
    pub(crate) fn payload<'a>(&'a self, item: &'a Item) -> &'a [u8] {
        match &item.payload {
            Payload::Gone => &[],
            Payload::Copied { start, len } => &self.bytes[*start..*start + *len],
            Payload::Shared(prepared) => prepared.payload(),
        }
    }

    /// Drops expired messages and returns how many. O(1) if none can have expired.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        if self.next_expiry.is_none_or(|next| next > now) {
            return 0;
        }
        let mut expired = 0;
        let mut next_expiry = None;
        for priority in [Priority::High, Priority::Normal] {
            let mut lane = std::mem::take(self.lane_mut(priority));
            for item in lane.items.iter_mut().filter(|item| item.is_live()) {
                if item.has_expired(now) {
                    expired += 1;
                    lane.live -= 1;
                    self.forget(item);
                    item.payload = Payload::Gone;
                } else {
                    next_expiry = [next_expiry, item.expires].into_iter().flatten().min();
                }
            }
            *self.lane_mut(priority) = lane;
        }
        self.next_expiry = next_expiry;
        self.sweep();
        expired
    }

    /// Drops all messages and keeps the memory.
    pub(crate) fn clear(&mut self) {
        for lane in [&mut self.normal, &mut self.high] {
            lane.items.clear();
            (lane.first, lane.live) = (0, 0);
        }
        self.places.clear();
        self.bytes.clear();
        (self.used, self.len, self.names, self.next_expiry) = (0, 0, 0, None);
    }

    /// The pending payloads, lane by lane.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &[u8]> {
        let items = self.high.items.iter().chain(&self.normal.items);
        items.filter(|item| item.is_live()).map(|item| self.payload(item))
    }

    /// Memory of the pending messages, without shared frames, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let items = self.normal.items.capacity() + self.high.items.capacity();
        let place = size_of::<(LatestKey, (Priority, u64))>() + 1;
        let heap = self.bytes.capacity() + items * size_of::<Item>() + self.places.capacity() * place;
        size_of::<Pending>() + heap + self.names
    }

    fn lane(&self, priority: Priority) -> &Lane {
        match priority {
            Priority::Normal => &self.normal,
            Priority::High => &self.high,
        }
    }

    fn lane_mut(&mut self, priority: Priority) -> &mut Lane {
        match priority {
            Priority::Normal => &mut self.normal,
            Priority::High => &mut self.high,
        }
    }

    /// Stores a payload: as a shared frame if `share` is set and it is framed already, otherwise as
    /// a copy.
    fn store(&mut self, message: &Outgoing<'_>, share: bool, scratch: &mut Vec<u8>) -> Payload {
        let payload = message.payload();
        self.len += payload.len();
        match message {
            Outgoing::Prepared(prepared) if share => Payload::Shared(prepared.queue(&self.shared)),
            _ => {
                if self.bytes.len() > 2 * self.used + Self::GAPS {
                    self.close_gaps(scratch);
                }
                let (start, len) = (self.bytes.len(), payload.len());
                self.bytes.extend_from_slice(payload);
                self.used += len;
                Payload::Copied { start, len }
            }
        }
    }

    /// Stores a payload like `store`, in the space of a dropped one if it fits.
    fn overwrite(
        &mut self,
        old: Payload,
        message: &Outgoing<'_>,
        share: bool,
        scratch: &mut Vec<u8>,
    ) -> Payload {
        let payload = message.payload();
        match old {
            Payload::Copied { start, len } if payload.len() <= len && !share => {
                let len = payload.len();
                self.bytes[start..start + len].copy_from_slice(payload);
                (self.len, self.used) = (self.len + len, self.used + len);
                Payload::Copied { start, len }
            }
            _ => self.store(message, share, scratch),
        }
    }

    /// Updates the counters and keys for an item that leaves its lane.
    fn forget(&mut self, item: &Item) {
        self.len -= item.len();
        if let Payload::Copied { len, .. } = item.payload {
            self.used -= len;
        }
        if let Some(key) = &item.latest {
            self.names -= key.heap();
            self.places.remove(key);
        }
    }

    /// Takes the payload of the item at that position, which is about to be replaced.
    fn drop_payload(&mut self, priority: Priority, number: u64) -> Payload {
        let lane = self.lane_mut(priority);
        let Some(item) = lane.at(number) else { return Payload::Gone };
        let len = item.len();
        let payload = std::mem::replace(&mut item.payload, Payload::Gone);
        lane.live -= 1;
        self.len -= len;
        if let Payload::Copied { len, .. } = payload {
            self.used -= len;
        }
        payload
    }

    /// Moves the payloads together to close the gaps. Empty payloads move too, so that their
    /// `start` stays within `bytes`.
    fn close_gaps(&mut self, scratch: &mut Vec<u8>) {
        scratch.clear();
        for item in self.normal.items.iter_mut().chain(&mut self.high.items) {
            if let Payload::Copied { start, len } = &mut item.payload {
                let moved = scratch.len();
                scratch.extend_from_slice(&self.bytes[*start..*start + *len]);
                *start = moved;
            }
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(scratch);
    }

    /// Frees memory once it is much more than the pending messages need. Not called while messages
    /// are added, because reused memory begins almost empty.
    fn trim(&mut self, scratch: &mut Vec<u8>) {
        if self.memory() <= 8 * self.cost() + Self::SLACK {
            return;
        }
        self.close_gaps(scratch);
        self.bytes.shrink_to(2 * self.used);
        for lane in [&mut self.normal, &mut self.high] {
            lane.items.shrink_to(2 * lane.items.len());
        }
        self.places.shrink_to(2 * self.places.len());
    }

    /// Removes replaced and expired items from a lane when they outnumber the live ones.
    fn sweep(&mut self) {
        for priority in [Priority::High, Priority::Normal] {
            let lane = self.lane(priority);
            if lane.items.len() <= 2 * lane.live + 16 {
                continue;
            }
            let mut lane = std::mem::take(self.lane_mut(priority));
            lane.items.retain(Item::is_live);
            for (number, item) in (lane.first..).zip(&lane.items) {
                if let Some(place) = item.latest.as_ref().and_then(|key| self.places.get_mut(key)) {
                    place.1 = number;
                }
            }
            *self.lane_mut(priority) = lane;
        }
    }
}

/// Spare [`Pending`]s, so that a tick of latest values does not allocate. Also counts the memory of
/// those in use.
#[derive(Debug, Default)]
pub(crate) struct PendingPool {
    // Boxed, because the clients own them as boxes.
    #[expect(clippy::vec_box)]
    spare: Vec<Box<Pending>>,
    /// Memory of the spares, in bytes.
    kept: usize,
    /// Memory of all in use, without shared frames, in bytes.
    held: usize,
    /// A temporary buffer for closing gaps.
    scratch: Vec<u8>,
    /// The counter of shared frames, which the outboxes use too.
    shared: SharedBytes,
}

impl PendingPool {
    /// The most memory of all spares together and of one spare, in bytes.
    const MAX_KEPT: usize = 4 * 1024 * 1024;
    const MAX_EACH: usize = 256 * 1024;

    pub(crate) fn new(shared: SharedBytes) -> Self {
        PendingPool { shared, ..PendingPool::default() }
    }

    /// Adds a message to a client's pending messages.
    pub(crate) fn push(
        &mut self,
        pending: &mut Option<Box<Pending>>,
        message: &Outgoing<'_>,
        terms: Terms,
        share: bool,
    ) -> Pushed {
        let pending = pending.get_or_insert_with(|| {
            let new = || Box::new(Pending { shared: self.shared.clone(), ..Pending::default() });
            let spare = self.spare.pop().unwrap_or_else(new);
            self.kept = self.kept.saturating_sub(spare.memory());
            spare
        });
        let pushed = pending.push(message, terms, share, &mut self.scratch);
        self.count(pending);
        pushed
    }

    /// Tidies a client's pending messages after some were taken. Returns `None` if no message is
    /// left.
    pub(crate) fn retain_or_give(&mut self, mut pending: Box<Pending>) -> Option<Box<Pending>> {
        if pending.is_empty() {
            self.give(pending);
            return None;
        }
        pending.sweep();
        pending.trim(&mut self.scratch);
        self.count(&mut pending);
        Some(pending)
    }

    /// Drops all pending messages of a client and keeps the memory as a spare.
    pub(crate) fn give(&mut self, mut pending: Box<Pending>) {
        self.held -= std::mem::take(&mut pending.counted);
        pending.clear();
        let held = pending.memory();
        if held <= Self::MAX_EACH && self.kept + held <= Self::MAX_KEPT {
            self.kept += held;
            self.spare.push(pending);
        }
    }

    /// Memory of all in use, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Updates the count after a change of one in use.
    pub(crate) fn count(&mut self, pending: &mut Pending) {
        let held = pending.memory();
        self.held = self.held + held - pending.counted;
        pending.counted = held;
    }
}

#[cfg(test)]
mod tests;
