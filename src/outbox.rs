//! One client's write buffer.
//!
//! ```text
//! push ──► tail (pooled, contiguous) ──rotates──► queue of chunks ──► one vectored write
//! control frames while blocked, frames of high priority ──► urgent ────┘ at the next frame boundary
//! ```
//!
//! A large frame that finds it empty may be written before it is queued: then `tail` is the rest of it.

#![allow(
    clippy::indexing_slicing,
    reason = "`written` and `boundary` are at most the length of what stands first; the rest is cut from the very buffer"
)]

mod at_once;
mod queue;
mod urgent;

use std::io::{self, IoSlice, Read, Write};

use crate::{
    pool::BufferPool,
    proto::{
        frame,
        prepared::{Prepared, Queued, SharedBytes},
    },
};
use queue::Queue;
use urgent::Urgent;

/// A tail beyond this moves into the queue, so that a slow reader's sent bytes are freed chunk by chunk.
const TAIL_MAX: usize = 64 * 1024;

/// Slices per vectored write; more need another write.
const SLICES: usize = 32;

/// The kernel took less than was offered: its buffer is full. Windows re-arms only after `WouldBlock`.
const SHORT_WRITE_MEANS_FULL: bool = cfg!(not(windows));

/// Frames of high priority that are lined up at a time. What has come later and is graver, a pong, passes
/// those that are not.
const AHEAD_MAX: usize = 4 * 1024;

/// Spare parts for outboxes, so that filling and draining one allocates nothing, and how much those in use
/// hold.
#[derive(Debug)]
pub(crate) struct OutboxPool {
    tails: BufferPool,
    queues: Vec<Queue>,
    // Boxed, as the outboxes hold them.
    #[expect(clippy::vec_box)]
    urgents: Vec<Box<Urgent>>,
    /// Memory of all outboxes in bytes, but for shared frames.
    held: usize,
    shared: SharedBytes,
}

impl OutboxPool {
    const MAX_QUEUES: usize = 1024;
    const MAX_URGENTS: usize = 256;

    pub(crate) fn new(max_bytes: usize) -> Self {
        OutboxPool {
            tails: BufferPool::new(max_bytes),
            queues: Vec::new(),
            urgents: Vec::new(),
            held: 0,
            shared: SharedBytes::default(),
        }
    }

    /// Memory that all outboxes hold, in bytes; a shared frame counts once.
    pub(crate) fn held(&self) -> usize {
        self.held + self.shared.get()
    }

    /// The bytes kept.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn bytes(&self) -> usize {
        self.tails.bytes()
    }

    /// Counts the shared frames that wait here, and elsewhere if that counts with it.
    pub(crate) fn shared(&self) -> &SharedBytes {
        &self.shared
    }

    fn give_chunk(&mut self, chunk: Chunk) {
        if let Chunk::Owned(mut buffer) = chunk {
            buffer.clear();
            self.tails.give(buffer);
        }
    }

    fn give_urgent(&mut self, mut urgent: Box<Urgent>) {
        urgent.clear();
        if urgent.held() <= 2 * AHEAD_MAX && self.urgents.len() < Self::MAX_URGENTS {
            self.urgents.push(urgent);
        }
    }
}

/// What `write_to` achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing is left.
    All(usize),
    /// The kernel takes no more for now; a writable event will come.
    Blocked(usize),
}

/// Bytes on their way to one client: whole frames, of which at most the first is partly gone.
///
/// Owns no memory while it is empty.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Chunks before the tail. Each begins with a frame, except raw HTTP at the very start.
    queue: Queue,
    tail: Vec<u8>,
    /// Bytes of the first chunk that have left.
    written: usize,
    /// A frame boundary in the first chunk. Equals `written`, or lies before it until someone asks.
    boundary: usize,
    /// Bytes at the very start that are no frames.
    raw: usize,
    /// Unsent bytes in `queue`, `tail` and the urgent frames that are leaving.
    len: usize,
    /// Memory of everything, as the pool has counted it.
    counted: usize,
    blocked: bool,
    /// A write has failed that nobody has been told of.
    failed: Option<io::ErrorKind>,
    urgent: Option<Box<Urgent>>,
}

#[derive(Debug)]
enum Chunk {
    Owned(Vec<u8>),
    /// One frame that other clients hold too.
    Shared(Queued),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Owned(buffer) => buffer,
            Chunk::Shared(prepared) => prepared.frame(),
        }
    }

    /// Memory that is this outbox's alone.
    fn held(&self) -> usize {
        match self {
            Chunk::Owned(buffer) => size_of::<Chunk>() + buffer.capacity(),
            Chunk::Shared(_) => size_of::<Chunk>(),
        }
    }
}

/// Which waiting control frame a newer one replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Ping,
    Pong,
}

impl Outbox {
    /// Bytes for which there is room behind a small frame.
    const SLACK: usize = 4;

    /// Unsent bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Memory held, but for shared frames, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.counted
    }

    /// Unsent bytes of frames: what `max_buffered` caps. The answer to the handshake is not the
    /// application's doing.
    pub(crate) fn frames_len(&self) -> usize {
        self.len - self.raw.saturating_sub(self.written)
    }

    /// Whether the kernel refused bytes and a writable event is awaited.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// A writable event came.
    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// The buffer to append whole frames to; `pushed` must follow.
    #[inline]
    pub(crate) fn tail(&mut self, pool: &mut OutboxPool) -> &mut Vec<u8> {
        if self.tail.len() >= TAIL_MAX {
            self.rotate(pool);
        }
        if self.tail.capacity() == 0 {
            // What it will hold is not known yet; most are emptied at the next flush.
            self.tail = pool.tails.take_last();
        }
        &mut self.tail
    }

    /// Appends a small frame of `len` bytes, which `write` appends, and takes `SLACK` more for it. `false`: more than `max` bytes of frames would
    /// wait, and nothing was done.
    #[inline(always)]
    pub(crate) fn append(
        &mut self,
        len: usize,
        max: usize,
        pool: &mut OutboxPool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        if self.frames_len() + len > max {
            return false;
        }
        let room = len + Self::SLACK;
        if self.tail.len() >= TAIL_MAX || room > self.tail.capacity() - self.tail.len() {
            self.make_room(room, pool);
        }
        write(&mut self.tail);
        self.len += len;
        debug_assert_eq!(self.len, self.count());
        true
    }

    /// Room in the tail, counted now and not with each frame.
    #[inline(never)]
    fn make_room(&mut self, bytes: usize, pool: &mut OutboxPool) {
        self.tail(pool).reserve(bytes);
        self.count_memory(pool);
    }

    /// Accounts for bytes appended to `tail`.
    #[inline]
    pub(crate) fn pushed(&mut self, bytes: usize, pool: &mut OutboxPool) {
        self.len += bytes;
        self.count_memory(pool);
        debug_assert_eq!(self.len, self.count());
    }

    /// Appends one whole frame that is shared with others.
    pub(crate) fn push_shared(&mut self, frame: &Prepared, pool: &mut OutboxPool) {
        self.rotate(pool);
        self.len += frame.frame().len();
        self.push_chunk(Chunk::Shared(frame.queue(&pool.shared)), pool);
        self.count_memory(pool);
    }

    /// Whether a frame of high priority may be lined up. Not before those that are have left, or a later
    /// control frame would come behind too many.
    pub(crate) fn takes_ahead(&self) -> bool {
        let urgent = self.urgent.as_ref();
        urgent.is_none_or(|u| u.left == u.leaving.len() || (u.left == 0 && u.leaving.len() < AHEAD_MAX))
    }

    /// Queues whole frames before all data that has not begun to leave. `write` appends them.
    pub(crate) fn push_ahead(&mut self, write: impl FnOnce(&mut Vec<u8>), pool: &mut OutboxPool) {
        let urgent = self.urgent(pool);
        urgent.forget_left();
        let before = urgent.leaving.len();
        write(&mut urgent.leaving);
        let added = urgent.leaving.len() - before;
        self.pushed(added, pool);
    }

    /// Appends bytes that are no frame (HTTP). No frame may stand before them.
    pub(crate) fn push_raw(&mut self, bytes: &[u8], pool: &mut OutboxPool) {
        self.raw_tail(pool).extend_from_slice(bytes);
        self.pushed_raw(bytes.len(), pool);
    }

    /// As `push_raw`, `len` bytes of `source`, or nothing if it has not so many.
    pub(crate) fn push_raw_from(
        &mut self,
        source: &mut impl Read,
        len: usize,
        pool: &mut OutboxPool,
    ) -> io::Result<()> {
        let tail = self.raw_tail(pool);
        let before = tail.len();
        // Zeroing what is read over costs less than the read that finds the end.
        tail.resize(before + len, 0);
        let read = source.read_exact(&mut tail[before..]);
        let len = if read.is_ok() { len } else { 0 };
        tail.truncate(before + len);
        self.pushed_raw(len, pool);
        read
    }

    /// The tail as it is: bytes that are no frames stay in one piece, however many they are.
    fn raw_tail(&mut self, pool: &mut OutboxPool) -> &mut Vec<u8> {
        debug_assert!(self.queue.is_empty() && self.raw == self.tail.len());
        if self.tail.capacity() == 0 {
            self.tail = pool.tails.take_last();
        }
        &mut self.tail
    }

    fn pushed_raw(&mut self, bytes: usize, pool: &mut OutboxPool) {
        (self.boundary, self.raw) = (self.tail.len(), self.tail.len());
        self.pushed(bytes, pool);
    }

    /// Queues a control frame: behind what is queued while that is about to leave, else in the urgent
    /// lane, where a newer one of its kind replaces it.
    pub(crate) fn push_control(
        &mut self,
        kind: Control,
        frame: &[u8],
        must_wait: bool,
        pool: &mut OutboxPool,
    ) {
        if !self.blocked && !must_wait {
            self.tail(pool).extend_from_slice(frame);
            return self.pushed(frame.len(), pool);
        }
        let urgent = self.urgent(pool);
        let slot = match kind {
            Control::Ping => &mut urgent.ping,
            Control::Pong => &mut urgent.pong,
        };
        slot.clear();
        slot.extend_from_slice(frame);
        self.count_memory(pool);
    }

    /// The last frame comes next: control frames that wait leave before it, also if one is half gone.
    pub(crate) fn seal(&mut self, pool: &mut OutboxPool) {
        if let Some(urgent) = &mut self.urgent {
            urgent.forget_left();
            self.len += urgent.admit();
            self.count_memory(pool);
        }
    }

    /// Drops every frame that has not begun to leave. The rest of one that has stays: without it the peer
    /// could not read the next.
    pub(crate) fn cut(&mut self, pool: &mut OutboxPool) {
        self.find_boundary();
        let raw = self.raw.saturating_sub(self.written);
        // A buffer of its own, with room for a close frame: what the others have is to be freed.
        let mut rest = Vec::with_capacity(self.boundary - self.written + 128);
        rest.extend_from_slice(&self.first()[self.written..self.boundary]);
        if let Some(urgent) = &self.urgent {
            // Of the two only one can be half gone.
            rest.extend_from_slice(urgent.begun());
        }
        self.clear(pool);
        (self.boundary, self.raw) = (rest.len(), raw);
        self.tail = rest;
        self.pushed(self.boundary, pool);
    }

    /// Whether anything waits, a control frame in the urgent lane included.
    pub(crate) fn has_work(&self) -> bool {
        self.len > 0 || self.urgent.is_some()
    }

    /// Writes until everything is gone or the kernel takes no more. A byte is offered again only if
    /// the kernel did not take it. `ahead_only`: data that has not begun to leave stays, as more is to go
    /// before it.
    pub(crate) fn write_to(
        &mut self,
        stream: &mut impl Write,
        ahead_only: bool,
        pool: &mut OutboxPool,
    ) -> io::Result<Written> {
        if let Some(kind) = self.failed.take() {
            return Err(kind.into());
        }
        let mut total = 0;
        loop {
            self.admit_urgent(pool);
            if self.len == 0 {
                self.blocked = false;
                self.release(pool);
                return Ok(Written::All(total));
            }
            if ahead_only && self.urgent.is_none() {
                self.blocked = false;
                return Ok(Written::All(total));
            }
            let (result, offered) = self.write_once(stream, ahead_only);
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    // Never trust a stream that claims more than it was given.
                    let count = count.min(offered);
                    self.advance(count, pool);
                    total += count;
                    if count < offered && SHORT_WRITE_MEANS_FULL {
                        self.blocked = true;
                        return Ok(Written::Blocked(total));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(Written::Blocked(total));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Memory held besides shared frames: buffer and queue slots.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn capacity(&self) -> usize {
        self.tail.capacity() + self.queue.capacity() + usize::from(self.urgent.is_some())
    }

    /// Frees everything, sent or not.
    pub(crate) fn clear(&mut self, pool: &mut OutboxPool) {
        self.len = 0;
        self.release(pool);
    }

    /// Gives the memory back. The content must be gone or unwanted.
    fn release(&mut self, pool: &mut OutboxPool) {
        debug_assert_eq!(self.len, 0);
        self.drop_urgent(pool);
        pool.give_chunk(Chunk::Owned(std::mem::take(&mut self.tail)));
        while let Some(chunk) = self.queue.pop_front() {
            pool.give_chunk(chunk);
        }
        let queue = std::mem::take(&mut self.queue);
        if queue.capacity() > 0 && queue.capacity() <= 64 && pool.queues.len() < OutboxPool::MAX_QUEUES {
            pool.queues.push(queue);
        }
        (self.written, self.boundary, self.raw) = (0, 0, 0);
        self.count_memory(pool);
    }

    /// Moves the tail behind the queue.
    fn rotate(&mut self, pool: &mut OutboxPool) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.push_chunk(Chunk::Owned(tail), pool);
        }
    }

    fn push_chunk(&mut self, chunk: Chunk, pool: &mut OutboxPool) {
        if self.queue.capacity() == 0 {
            self.queue = pool.queues.pop().unwrap_or_default();
        }
        self.queue.push_back(chunk);
    }

    fn urgent(&mut self, pool: &mut OutboxPool) -> &mut Urgent {
        self.urgent.get_or_insert_with(|| pool.urgents.pop().unwrap_or_default())
    }

    fn drop_urgent(&mut self, pool: &mut OutboxPool) {
        if let Some(urgent) = self.urgent.take() {
            pool.give_urgent(urgent);
        }
    }

    /// Tells the pool how much memory this outbox holds now.
    #[inline]
    fn count_memory(&mut self, pool: &mut OutboxPool) {
        let urgent = self.urgent.as_ref().map_or(0, |urgent| urgent.held());
        let held = self.queue.held() + self.tail.capacity() + urgent;
        pool.held = pool.held + held - self.counted;
        self.counted = held;
    }

    fn first(&self) -> &[u8] {
        self.queue.front().map_or(&self.tail, Chunk::bytes)
    }

    /// Lets the waiting control frames leave next, once those before them have left.
    fn admit_urgent(&mut self, pool: &mut OutboxPool) {
        let Some(urgent) = &mut self.urgent else { return };
        urgent.forget_left();
        if urgent.takes_control() {
            self.len += urgent.admit();
        }
        if urgent.leaving.is_empty() {
            self.drop_urgent(pool);
        } else {
            self.find_boundary();
        }
        self.count_memory(pool);
    }

    /// Moves `boundary` to the first frame boundary at or after `written`.
    fn find_boundary(&mut self) {
        while self.boundary < self.written {
            let first = self.first();
            // `None` cannot happen: the outbox holds whole frames only.
            self.boundary += frame::wire_len(&first[self.boundary..]).unwrap_or(first.len());
        }
    }

    /// One write of as much as fits: its result, and how many bytes it was offered.
    fn write_once(&self, stream: &mut impl Write, ahead_only: bool) -> (io::Result<usize>, usize) {
        // Of one piece: a vectored write costs more, here and in the kernel.
        let alone = self.queue.is_empty() || (self.tail.is_empty() && self.queue.is_single());
        if self.urgent.is_none() && alone {
            let bytes = &self.first()[self.written..];
            return (stream.write(bytes), bytes.len());
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut used, mut offered) = (0, 0);
        let mut add = |bytes: &'_ [u8]| {
            if used < SLICES && !bytes.is_empty() {
                offered += bytes.len();
                used += 1;
                Some(used - 1)
            } else {
                None
            }
        };
        let chunks = self.queue.iter().map(Chunk::bytes).chain([self.tail.as_slice()]);
        for (position, bytes) in chunks.take(if ahead_only { 1 } else { SLICES }).enumerate() {
            let mut parts: [&[u8]; 3] = [bytes, &[], &[]];
            if position == 0 {
                parts = match &self.urgent {
                    None => [&bytes[self.written..], &[], &[]],
                    Some(urgent) => [
                        &bytes[self.written..self.boundary],
                        &urgent.leaving[urgent.left..],
                        if ahead_only { &[] } else { &bytes[self.boundary..] },
                    ],
                };
            }
            for part in parts {
                if let Some(slot) = add(part) {
                    slices[slot] = IoSlice::new(part);
                }
            }
        }
        (stream.write_vectored(&slices[..used]), offered)
    }

    /// Accounts for `count` bytes that have left, in the order of `write_once`.
    fn advance(&mut self, mut count: usize, pool: &mut OutboxPool) {
        self.len -= count;
        if let Some(urgent) = &mut self.urgent {
            let before = count.min(self.boundary - self.written);
            self.written += before;
            count -= before;
            if self.written == self.boundary {
                let control = count.min(urgent.leaving.len() - urgent.left);
                urgent.left += control;
                count -= control;
            }
        }
        while count > 0 {
            let rest = self.first().len() - self.written;
            if count < rest {
                self.written += count;
                break;
            }
            count -= rest;
            self.next_chunk(pool);
        }
        if !self.queue.is_empty() && self.written == self.first().len() {
            self.next_chunk(pool);
        }
        self.count_memory(pool);
        debug_assert_eq!(self.len, self.count());
    }

    /// The first chunk has left whole.
    fn next_chunk(&mut self, pool: &mut OutboxPool) {
        match self.queue.pop_front() {
            Some(chunk) => {
                pool.give_chunk(chunk);
            }
            None => self.tail.clear(),
        }
        (self.written, self.boundary, self.raw) = (0, 0, 0);
    }

    fn count(&self) -> usize {
        let chunks = self.queue.iter().map(|chunk| chunk.bytes().len()).sum::<usize>();
        let urgent = self.urgent.as_ref().map_or(0, |urgent| urgent.leaving.len() - urgent.left);
        chunks + self.tail.len() - self.written + urgent
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
