//! Deadlines: a hierarchical timer wheel with a resolution of one millisecond.

#![allow(
    clippy::indexing_slicing,
    reason = "levels and digits are below LEVELS and SLOTS; a list contains only keys of existing entries"
)]

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use slab::Slab;

/// Each level uses this many bits of a deadline's tick.
const BITS: usize = 6;
const SLOTS: usize = 1 << BITS;
/// Six levels reach to the next multiple of 2^36 ms (2.2 years) after the origin.
const LEVELS: usize = 6;
/// The list of all timers beyond that. It follows the top level's slots, like a seventh level with
/// one slot.
const OVERFLOW: usize = LEVELS * SLOTS;

/// Timers keyed by deadline, polled with the time of the caller.
///
/// Time is counted in *ticks*, whole milliseconds since the origin. A deadline is rounded up to a
/// tick and `now` is rounded down, so a timer never fires early. A timer with tick `d` fires as
/// soon as `now` is in tick `d` or later. Timers of the same tick fire in the order of their
/// insertion.
///
/// The wheel's own time is the latest `now` at which [`pop_expired`](Wheel::pop_expired) found
/// nothing, or the tick of the last timer that fired if that is later. An earlier deadline is moved
/// to that time: it is due immediately, unless the clock went backwards. Ticks saturate: `now`
/// before the origin fires nothing, a deadline before the origin counts as the origin, and all
/// instants later than 2^64 ms after it (584 million years) are equal.
///
/// # Cost
///
/// `insert` and `cancel` are O(1). A timer is moved at most once per level on its way down, when a
/// timer of its slot is due or the earliest timer of its slot was cancelled. Clock jumps cost
/// nothing. Timers beyond the horizon share one list, walked once per span of 2.2 years that
/// contains a timer. Only `insert` allocates, and only when there are more timers than ever before.
pub(crate) struct Wheel<T> {
    origin: Instant,
    /// The wheel's own time. No timer is earlier.
    reached: u64,
    /// The tick to which the places of the timers are relative. It lags behind `reached` where
    /// following would require walking a slot. A timer's level is that of the highest digit (base
    /// 64) in which its deadline differs from `base`. So all timers of a level come before all of
    /// the next, slots never wrap around, and the first slot of the first occupied level holds the
    /// next timer.
    base: u64,
    /// A lower bound of all deadlines, which makes a call with nothing due cheap.
    next: u64,
    /// One bit per non-empty slot; the last word is for the overflow list.
    occupied: [u64; LEVELS + 1],
    slots: Box<[Slot]>,
    entries: Slab<Entry<T>>,
    /// The generation of the latest entry. A stale key could match again only after exactly 2^32
    /// inserts.
    generation: NonZeroU32,
    /// How many entries `relink` has visited.
    #[cfg(any(test, fuzzing))]
    relinked: u64,
}

/// Names one timer. Stale once the timer fired or was cancelled, also when the slot is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    generation: NonZeroU32,
}

impl<T: Copy> Wheel<T> {
    pub(crate) fn new(origin: Instant) -> Self {
        Wheel {
            origin,
            reached: 0,
            base: 0,
            next: u64::MAX,
            occupied: [0; LEVELS + 1],
            slots: vec![Slot::EMPTY; OVERFLOW + 1].into_boxed_slice(),
            entries: Slab::new(),
            generation: NonZeroU32::MIN,
            #[cfg(any(test, fuzzing))]
            relinked: 0,
        }
    }

    /// Arms a timer. O(1).
    pub(crate) fn insert(&mut self, deadline: Instant, value: T) -> Key {
        let deadline = self.ceil(deadline).max(self.reached);
        self.follow();
        self.next = self.next.min(deadline);
        self.generation = self.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let entry = Entry { deadline, prev: 0, next: 0, generation: self.generation, value };
        let index = self.entries.insert(entry) as u32;
        self.link(index);
        Key { index, generation: self.generation }
    }

    /// Disarms a timer and returns its value, or `None` if it has fired or been cancelled. O(1).
    pub(crate) fn cancel(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get(key.index as usize)?;
        (entry.generation == key.generation).then(|| self.remove(key.index))
    }

    /// Takes the earliest timer that is due. Call until `None`, or stop and continue later;
    /// `insert` and `cancel` are allowed in between.
    ///
    /// With nothing due this is O(1), mostly one comparison, regardless of the number of timers and
    /// of how far the clock moved. The exception: once `now` reaches the deadline of a cancelled
    /// timer that was the earliest, one call may move the rest of its slot to lower levels, which
    /// would be necessary later anyway.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let now = self.floor(now)?;
        while self.next <= now
            && let Some(first) = self.first()
        {
            let Slot { head, min, .. } = self.slots[first];
            self.next = min;
            if min > now {
                break;
            }
            if first < SLOTS {
                self.reached = min;
                return Some(self.remove(head));
            }
            self.relink(first, min);
        }
        self.reached = self.reached.max(now);
        None
    }

    /// The first instant at which [`pop_expired`](Wheel::pop_expired) returns a timer. It may have
    /// passed.
    ///
    /// O(1), except when all the earliest timers of the first slot were cancelled: then one call is
    /// linear in the timers left in that slot (a slot spans 64 ms, 4 s, 4.4 min, 4.7 h, 12.4 days
    /// on the levels above the lowest).
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        let mut first = self.first()?;
        while self.slots[first].at_min == 0 {
            self.relink(first, self.reached);
            first = self.first()?;
        }
        self.next = self.slots[first].min;
        // `now` never reaches an instant that the platform cannot express.
        self.origin.checked_add(Duration::from_millis(self.next))
    }

    /// Whether the timer is armed and fires no later than a timer with this deadline would.
    pub(crate) fn fires_by(&self, key: Key, deadline: Instant) -> bool {
        let entry = self.entries.get(key.index as usize).filter(|entry| entry.generation == key.generation);
        entry.is_some_and(|entry| entry.deadline <= self.ceil(deadline).max(self.reached))
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn ceil(&self, deadline: Instant) -> u64 {
        let since = deadline.saturating_duration_since(self.origin);
        ticks(since.as_secs(), since.subsec_nanos().div_ceil(1_000_000))
    }

    fn floor(&self, now: Instant) -> Option<u64> {
        let since = now.checked_duration_since(self.origin)?;
        Some(ticks(since.as_secs(), since.subsec_millis()))
    }

    /// The index of the slot that holds the next timer.
    fn first(&self) -> Option<usize> {
        let level = self.occupied.iter().position(|&bits| bits != 0)?;
        Some(level * SLOTS + self.occupied[level].trailing_zeros() as usize)
    }

    /// The slot of a timer with this deadline. It depends on `base` alone.
    fn place(&self, deadline: u64) -> usize {
        debug_assert!(self.base <= deadline);
        let level = ((self.base ^ deadline) | 1).ilog2() as usize / BITS;
        let digit = (deadline >> (BITS * level)) as usize % SLOTS;
        if level < LEVELS { level * SLOTS + digit } else { OVERFLOW }
    }

    /// Advances `base` to the wheel's time if that changes no timer's place, so that near timers
    /// get low levels.
    fn follow(&mut self) {
        let start = |slot: usize| self.slots[slot].min >> (BITS * (slot / SLOTS)) << (BITS * (slot / SLOTS));
        if self.base < self.reached && self.first().is_none_or(|slot| start(slot) > self.reached) {
            self.base = self.reached;
        }
    }

    /// Advances the wheel to `base`, which is neither before the old base nor after any timer, and
    /// relinks the timers of the first slot. They move to lower levels if `base` is in that slot;
    /// otherwise this only finds the slot's minimum again.
    fn relink(&mut self, slot: usize, base: u64) {
        debug_assert!(self.base <= base && base <= self.slots[slot].min);
        self.base = base;
        let head = self.clear(slot);
        let mut next = head;
        loop {
            #[cfg(any(test, fuzzing))]
            {
                self.relinked += 1;
            }
            let index = next;
            next = self.entries[index as usize].next;
            self.link(index);
            if next == head {
                return;
            }
        }
    }

    /// Appends an entry to the list of its slot.
    fn link(&mut self, index: u32) {
        let deadline = self.entries[index as usize].deadline;
        let place = self.place(deadline);
        let slot = &mut self.slots[place];
        slot.count(deadline);
        let (word, bit) = (&mut self.occupied[place / SLOTS], 1 << (place % SLOTS));
        if *word & bit == 0 {
            *word |= bit;
            slot.head = index;
            self.entries[index as usize].prev = index;
        }
        let (head, tail) = (slot.head, self.entries[slot.head as usize].prev);
        self.entries[tail as usize].next = index;
        self.entries[head as usize].prev = index;
        let entry = &mut self.entries[index as usize];
        (entry.prev, entry.next) = (tail, head);
    }

    /// Removes an entry from its list and from the slab.
    fn remove(&mut self, index: u32) -> T {
        let Entry { deadline, prev, next, value, .. } = self.entries.remove(index as usize);
        let place = self.place(deadline);
        if next == index {
            self.clear(place);
            return value;
        }
        let slot = &mut self.slots[place];
        if slot.head == index {
            slot.head = next;
        }
        slot.at_min -= u32::from(slot.min == deadline);
        self.entries[prev as usize].next = next;
        self.entries[next as usize].prev = prev;
        value
    }

    /// Empties a slot and returns the head of its former list.
    fn clear(&mut self, slot: usize) -> u32 {
        self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
        std::mem::replace(&mut self.slots[slot], Slot::EMPTY).head
    }
}

/// Omits the 385 slots, which do not help the reader of a log.
impl<T> fmt::Debug for Wheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel").field("len", &self.entries.len()).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry<T> {
    deadline: u64,
    // A circular list: the head's `prev` is the tail.
    prev: u32,
    next: u32,
    generation: NonZeroU32,
    value: T,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Valid while the slot's bit in `occupied` is set.
    head: u32,
    /// How many of the slot's timers have the deadline `min`. 0 if all of them were cancelled.
    at_min: u32,
    /// A lower bound of the slot's deadlines.
    min: u64,
}

impl Slot {
    const EMPTY: Slot = Slot { head: 0, at_min: 0, min: u64::MAX };

    fn count(&mut self, deadline: u64) {
        if deadline < self.min {
            (self.min, self.at_min) = (deadline, 0);
        }
        self.at_min += u32::from(deadline == self.min);
    }
}

fn ticks(secs: u64, millis: u32) -> u64 {
    secs.saturating_mul(1000).saturating_add(u64::from(millis))
}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
