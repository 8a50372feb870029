//! One client's write buffer.
//!
//! ```text
//! push ──► tail (pooled, contiguous) ──rotates──► queue of chunks ──► one vectored write
//! control frames while blocked, high priority ──► priority ────┘ at the next frame boundary
//! ```
//!
//! A large frame for an empty outbox may be written directly. Then `tail` is the rest of it.

#![allow(
    clippy::indexing_slicing,
    reason = "`written` and `boundary` are at most the length of the first chunk; other ranges come from the same buffer"
)]

mod chunks;
mod direct_write;
pub(crate) mod encoder;
pub(crate) mod outgoing;
pub(crate) mod pending;
mod pool;
pub(crate) mod prepared;
mod priority;

use std::io::{self, IoSlice, Read, Write};

use crate::{outbox::prepared::Prepared, proto::frame, util::rearm::Rearm};
use chunks::{Chunk, ChunkQueue};
pub(crate) use pool::OutboxPool;
use priority::{AHEAD_MAX, PriorityFrames};

/// A tail beyond this moves into the queue, so that bytes sent to a slow reader are freed chunk by
/// chunk.
const TAIL_MAX: usize = 64 * 1024;

/// Slices per vectored write. Further slices need another write.
const SLICES: usize = 32;

/// The result of `write_to`, with the number of bytes written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing remains to be written now.
    All(usize),
    /// The write would block. A writable event follows.
    Blocked(usize),
    /// The limit of the call is reached, and the stream may accept more.
    Limited(usize),
}

/// Bytes queued for one client: whole frames, of which at most the first is partly written.
///
/// An empty outbox owns no memory.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Chunks before the tail. Each begins with a frame, except for raw HTTP at the start.
    queue: ChunkQueue,
    tail: Vec<u8>,
    /// Bytes of the first chunk that have been written.
    written: usize,
    /// A frame boundary in the first chunk. May be less than `written`; `find_boundary` moves it to
    /// the first boundary at or after `written`.
    boundary: usize,
    /// Unsent bytes in `queue`, `tail` and `priority_frames.leaving`.
    len: usize,
    /// Memory of this outbox as last counted by the pool.
    counted: u32,
    /// The first `boundary` bytes of the first chunk are HTTP and not frames.
    raw: bool,
    blocked: bool,
    /// An encrypted stream holds bytes that are no longer in this outbox, and that its socket does
    /// not take. Here it costs no memory.
    pub(crate) congested: bool,
    /// Error of a direct write, until `write_to` returns it.
    failed: Option<io::ErrorKind>,
    priority_frames: Option<Box<PriorityFrames>>,
}

/// The kind of a control frame. A newer one replaces a waiting one of the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Ping,
    Pong,
}

impl Outbox {
    /// Spare bytes that `append` reserves behind a small frame.
    const SLACK: usize = 4;

    /// Unsent bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Memory of this outbox, without shared frames, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.counted as usize
    }

    /// Unsent bytes of frames, which `max_buffered` limits. The handshake's response is excluded,
    /// because the application did not send it.
    pub(crate) fn frames_len(&self) -> usize {
        self.len - self.raw_len()
    }

    /// Unsent bytes of HTTP.
    #[inline(always)]
    fn raw_len(&self) -> usize {
        if self.raw { self.boundary.saturating_sub(self.written) } else { 0 }
    }

    /// Whether a write would block until a writable event.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Handles a stream that takes nothing before its next writable event.
    pub(crate) fn block(&mut self) {
        self.blocked = true;
    }

    /// Handles a writable event.
    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// The buffer to which whole frames are appended. `pushed` must follow.
    #[inline]
    fn tail(&mut self, pool: &mut OutboxPool) -> &mut Vec<u8> {
        if self.tail.len() >= TAIL_MAX {
            self.rotate(pool);
        }
        if self.tail.capacity() == 0 {
            // The final size is not known yet. Most tails are emptied at the next flush.
            self.tail = pool.tails.take_last();
        }
        &mut self.tail
    }

    /// Appends whole frames, which `write` adds to the tail.
    #[inline(always)]
    pub(crate) fn push(&mut self, pool: &mut OutboxPool, write: impl FnOnce(&mut Vec<u8>)) {
        let tail = self.tail(pool);
        let before = tail.len();
        write(tail);
        let added = tail.len() - before;
        self.pushed(added, pool);
    }

    /// Appends a small frame of `len` bytes, written by `write`, and reserves `SLACK` bytes more.
    /// Returns `false` and does nothing if more than `max` bytes of frames would be queued.
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

    /// Reserves space in the tail. The memory is counted here and not for each frame.
    #[inline(never)]
    fn make_room(&mut self, bytes: usize, pool: &mut OutboxPool) {
        self.tail(pool).reserve(bytes);
        self.count_memory(pool);
    }

    /// Accounts for bytes appended to `tail`.
    #[inline]
    fn pushed(&mut self, bytes: usize, pool: &mut OutboxPool) {
        self.len += bytes;
        self.count_memory(pool);
        debug_assert_eq!(self.len, self.count());
    }

    /// Appends one whole frame that is shared with other outboxes.
    pub(crate) fn push_shared(&mut self, frame: &Prepared, pool: &mut OutboxPool) {
        self.rotate(pool);
        self.len += frame.frame().len();
        self.push_chunk(Chunk::Shared(frame.queue(&pool.shared)), pool);
        self.count_memory(pool);
    }

    /// Whether a frame of high priority may be queued ahead. It must wait while queued ones exceed
    /// `AHEAD_MAX` or are partly written, or a later control frame would be behind too many of
    /// them.
    pub(crate) fn takes_ahead(&self) -> bool {
        let priority_frames = self.priority_frames.as_ref();
        priority_frames
            .is_none_or(|u| u.left == u.leaving.len() || (u.left == 0 && u.leaving.len() < AHEAD_MAX))
    }

    /// Queues whole frames before all data that is not partly written. `write` appends them.
    pub(crate) fn push_ahead(&mut self, write: impl FnOnce(&mut Vec<u8>), pool: &mut OutboxPool) {
        let priority_frames = self.priority_frames(pool);
        priority_frames.forget_left();
        let before = priority_frames.leaving.len();
        write(&mut priority_frames.leaving);
        let added = priority_frames.leaving.len() - before;
        self.pushed(added, pool);
    }

    /// Appends raw HTTP. No frame may be queued before it.
    pub(crate) fn push_raw(&mut self, bytes: &[u8], pool: &mut OutboxPool) {
        self.raw_tail(pool).extend_from_slice(bytes);
        self.pushed_raw(bytes.len(), pool);
    }

    /// Appends `len` bytes of `source` like `push_raw`, or nothing if `source` has fewer.
    pub(crate) fn push_raw_from(
        &mut self,
        source: &mut impl Read,
        len: usize,
        pool: &mut OutboxPool,
    ) -> io::Result<()> {
        let tail = self.raw_tail(pool);
        let before = tail.len();
        // Zeroing the buffer first costs less than the extra read that would find the end.
        tail.resize(before + len, 0);
        let read = source.read_exact(&mut tail[before..]);
        let len = if read.is_ok() { len } else { 0 };
        tail.truncate(before + len);
        self.pushed_raw(len, pool);
        read
    }

    /// The tail without rotation: raw HTTP stays in one chunk of any size.
    fn raw_tail(&mut self, pool: &mut OutboxPool) -> &mut Vec<u8> {
        debug_assert!(self.queue.is_empty() && self.boundary == self.tail.len());
        if self.tail.capacity() == 0 {
            self.tail = pool.tails.take_last();
        }
        &mut self.tail
    }

    fn pushed_raw(&mut self, bytes: usize, pool: &mut OutboxPool) {
        (self.boundary, self.raw) = (self.tail.len(), true);
        self.pushed(bytes, pool);
    }

    /// Queues a control frame. If the outbox is neither blocked nor `must_wait`, it goes behind the
    /// queued data. Otherwise it goes to the priority frames, where a newer one of its kind
    /// replaces it.
    pub(crate) fn push_control(
        &mut self,
        kind: Control,
        frame: &[u8],
        must_wait: bool,
        pool: &mut OutboxPool,
    ) {
        if !self.blocked && !must_wait {
            return self.push(pool, |tail| tail.extend_from_slice(frame));
        }
        let priority_frames = self.priority_frames(pool);
        let slot = match kind {
            Control::Ping => &mut priority_frames.ping,
            Control::Pong => &mut priority_frames.pong,
        };
        slot.clear();
        slot.extend_from_slice(frame);
        self.count_memory(pool);
    }

    /// Prepares for the last frame: waiting control frames are queued before it, even if a
    /// priority frame is partly written.
    pub(crate) fn seal(&mut self, pool: &mut OutboxPool) {
        if let Some(priority_frames) = &mut self.priority_frames {
            priority_frames.forget_left();
            self.len += priority_frames.admit();
            self.count_memory(pool);
        }
    }

    /// Drops all frames but the rest of a partly written one, without which the peer could not
    /// parse the next frame.
    pub(crate) fn cut(&mut self, pool: &mut OutboxPool) {
        self.find_boundary();
        let raw = self.raw_len() > 0;
        // A new buffer with space for a close frame, so that the old ones can be freed.
        let mut rest = Vec::with_capacity(self.boundary - self.written + 128);
        rest.extend_from_slice(&self.first()[self.written..self.boundary]);
        if let Some(priority_frames) = &self.priority_frames {
            // Either this frame or the one in `first` can be partly written, not both.
            rest.extend_from_slice(priority_frames.begun());
        }
        self.clear(pool);
        (self.boundary, self.raw) = (rest.len(), raw);
        self.tail = rest;
        self.pushed(self.boundary, pool);
    }

    /// Whether anything is queued, including waiting control frames.
    pub(crate) fn has_work(&self) -> bool {
        self.len > 0 || self.priority_frames.is_some()
    }

    /// Writes until the outbox is empty, the write would block or `max` bytes are written. A byte
    /// that the kernel took is never written again. With `ahead_only`, data that is not partly
    /// written stays, because further high-priority frames go before it.
    pub(crate) fn write_to(
        &mut self,
        stream: &mut impl Write,
        ahead_only: bool,
        max: usize,
        rearm: Rearm,
        pool: &mut OutboxPool,
    ) -> io::Result<Written> {
        if let Some(kind) = self.failed.take() {
            return Err(kind.into());
        }
        let mut total = 0;
        loop {
            self.admit_priority(pool);
            if self.len == 0 {
                self.release(pool);
                return self.flushed(stream, total);
            }
            if ahead_only && self.priority_frames.is_none() {
                return self.flushed(stream, total);
            }
            let (result, offered) = self.write_once(stream, ahead_only, max - total);
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    // Do not trust a stream that reports more than it was given.
                    let count = count.min(offered);
                    self.advance(count, pool);
                    total += count;
                    if rearm.follows(count, offered) {
                        self.blocked = true;
                        return Ok(Written::Blocked(total));
                    }
                    if total >= max && self.has_work() {
                        self.blocked = false;
                        return Ok(Written::Limited(total));
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

    /// Has an encrypted stream write what it holds back. All bytes of the outbox have gone to it.
    #[inline]
    fn flushed(&mut self, stream: &mut impl Write, total: usize) -> io::Result<Written> {
        match stream.flush() {
            Ok(()) => {
                self.blocked = false;
                Ok(Written::All(total))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = true;
                Ok(Written::Blocked(total))
            }
            Err(error) => Err(error),
        }
    }

    /// Capacity held besides shared frames: buffer bytes and queue slots.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn capacity(&self) -> usize {
        self.tail.capacity() + self.queue.capacity() + usize::from(self.priority_frames.is_some())
    }

    /// Drops everything, sent or not.
    pub(crate) fn clear(&mut self, pool: &mut OutboxPool) {
        self.len = 0;
        self.release(pool);
    }

    /// Returns the memory to the pool. `len` must be 0.
    fn release(&mut self, pool: &mut OutboxPool) {
        debug_assert_eq!(self.len, 0);
        self.drop_priority(pool);
        pool.give_chunk(Chunk::Owned(std::mem::take(&mut self.tail)));
        while let Some(chunk) = self.queue.pop_front() {
            pool.give_chunk(chunk);
        }
        let queue = std::mem::take(&mut self.queue);
        if queue.capacity() > 0 && queue.capacity() <= 64 && pool.queues.len() < OutboxPool::MAX_QUEUES {
            pool.queues.push(queue);
        }
        (self.written, self.boundary, self.raw) = (0, 0, false);
        self.count_memory(pool);
    }

    /// Moves the tail to the end of the queue.
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

    fn priority_frames(&mut self, pool: &mut OutboxPool) -> &mut PriorityFrames {
        self.priority_frames.get_or_insert_with(|| pool.spare_priority.pop().unwrap_or_default())
    }

    fn drop_priority(&mut self, pool: &mut OutboxPool) {
        if let Some(priority_frames) = self.priority_frames.take() {
            pool.give_priority(priority_frames);
        }
    }

    /// Updates the pool's count of this outbox's memory.
    #[inline]
    fn count_memory(&mut self, pool: &mut OutboxPool) {
        let priority_frames =
            self.priority_frames.as_ref().map_or(0, |priority_frames| priority_frames.held());
        let held = self.queue.held() + self.tail.capacity() + priority_frames;
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        pool.held = pool.held + held as usize - self.counted as usize;
        self.counted = held;
    }

    fn first(&self) -> &[u8] {
        self.queue.front().map_or(&self.tail, Chunk::bytes)
    }

    /// Queues the waiting control frames to be written next, unless earlier ones are still being
    /// written.
    fn admit_priority(&mut self, pool: &mut OutboxPool) {
        let Some(priority_frames) = &mut self.priority_frames else { return };
        priority_frames.forget_left();
        if priority_frames.takes_control() {
            self.len += priority_frames.admit();
        }
        if priority_frames.leaving.is_empty() {
            self.drop_priority(pool);
        } else {
            self.find_boundary();
        }
        self.count_memory(pool);
    }

    /// Moves `boundary` to the first frame boundary at or after `written`.
    fn find_boundary(&mut self) {
        while self.boundary < self.written {
            self.raw = false;
            let first = self.first();
            // `None` cannot occur: the outbox contains whole frames only.
            self.boundary += frame::wire_len(&first[self.boundary..]).unwrap_or(first.len());
        }
    }

    /// Does one write of at most `max` bytes. Returns its result and the number of bytes offered.
    fn write_once(
        &self,
        stream: &mut impl Write,
        ahead_only: bool,
        max: usize,
    ) -> (io::Result<usize>, usize) {
        // A single slice: a vectored write costs more, here and in the kernel.
        let alone = self.queue.is_empty() || (self.tail.is_empty() && self.queue.is_single());
        if self.priority_frames.is_none() && alone {
            let bytes = &self.first()[self.written..];
            let bytes = &bytes[..bytes.len().min(max)];
            return (stream.write(bytes), bytes.len());
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut used, mut offered) = (0, 0);
        let chunks = self.queue.iter().map(Chunk::bytes).chain([self.tail.as_slice()]);
        for (position, bytes) in chunks.take(if ahead_only { 1 } else { SLICES }).enumerate() {
            let mut parts: [&[u8]; 3] = [bytes, &[], &[]];
            if position == 0 {
                parts = match &self.priority_frames {
                    None => [&bytes[self.written..], &[], &[]],
                    Some(priority_frames) => [
                        &bytes[self.written..self.boundary],
                        &priority_frames.leaving[priority_frames.left..],
                        if ahead_only { &[] } else { &bytes[self.boundary..] },
                    ],
                };
            }
            for part in parts {
                let part = &part[..part.len().min(max - offered)];
                if used < SLICES && !part.is_empty() {
                    slices[used] = IoSlice::new(part);
                    offered += part.len();
                    used += 1;
                }
            }
        }
        (stream.write_vectored(&slices[..used]), offered)
    }

    /// Accounts for `count` written bytes, in the order of `write_once`.
    fn advance(&mut self, mut count: usize, pool: &mut OutboxPool) {
        self.len -= count;
        if let Some(priority_frames) = &mut self.priority_frames {
            let before = count.min(self.boundary - self.written);
            self.written += before;
            count -= before;
            if self.written == self.boundary {
                let control = count.min(priority_frames.leaving.len() - priority_frames.left);
                priority_frames.left += control;
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

    /// Removes the first chunk, which was written completely.
    fn next_chunk(&mut self, pool: &mut OutboxPool) {
        match self.queue.pop_front() {
            Some(chunk) => {
                pool.give_chunk(chunk);
            }
            None => self.tail.clear(),
        }
        (self.written, self.boundary, self.raw) = (0, 0, false);
    }

    fn count(&self) -> usize {
        let chunks = self.queue.iter().map(|chunk| chunk.bytes().len()).sum::<usize>();
        let priority_frames = self
            .priority_frames
            .as_ref()
            .map_or(0, |priority_frames| priority_frames.leaving.len() - priority_frames.left);
        chunks + self.tail.len() - self.written + priority_frames
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
