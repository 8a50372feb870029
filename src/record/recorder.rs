//! The recorder appends entries to a block and writes the block at the end of each poll.

use std::{
    collections::HashMap,
    fmt,
    io::{self, Write},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::format::{
    block::{self, PREFIX},
    codec::Encode,
    entry::{Entry, MessageCopy},
    header::{Header, MAGIC, VERSION},
};
use crate::outbox::{
    outgoing::Outgoing,
    prepared::{Identity, Prepared},
};

/// A block is written when it reaches this length, also in the middle of a poll.
const BLOCK: usize = 64 * 1024;

/// The state of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recording {
    /// The recording goes on.
    Running {
        /// Bytes written so far.
        bytes: u64,
    },
    /// The recording has ended early: a write failed, or something happened that cannot be
    /// recorded. What was written before can be replayed. The log names the cause.
    Stopped {
        /// Bytes written before that.
        bytes: u64,
        /// [`Unsupported`](io::ErrorKind::Unsupported) if something cannot be recorded, otherwise
        /// the error of the writer.
        error: io::ErrorKind,
    },
}

/// A handle to the recording, shared by a server, its sockets and its closures.
#[derive(Debug, Clone)]
pub(crate) struct Recorder(Arc<Mutex<BlockWriter>>);

struct BlockWriter {
    out: Box<dyn Write + Send>,
    /// Empty, or room for the prefix and the entries that are not written yet.
    block: Vec<u8>,
    written: u64,
    failed: Option<io::ErrorKind>,
    /// The time of the last entry.
    last: Instant,
    streams: u32,
    prepared: PreparedNumbers,
}

/// Numbers for the application's [`Prepared`] messages, so that each is recorded once.
#[derive(Default)]
struct PreparedNumbers {
    by_address: HashMap<usize, (Identity, u64)>,
    last: u64,
    /// The size of the map at which dropped messages are looked for.
    full: usize,
}

impl PreparedNumbers {
    /// The number of a message, and whether it had one before.
    fn number(&mut self, message: &Prepared) -> (u64, bool) {
        let identity = Identity::of(message);
        let address = identity.place();
        let before = self.last;
        let entry = self.by_address.entry(address).or_insert_with(|| {
            self.last += 1;
            (identity, self.last)
        });
        (entry.1, self.last == before)
    }

    /// Removes the messages that the application has dropped, and gives their numbers. Visits all
    /// messages, but only after their count has doubled: the work per message stays constant.
    fn take_dropped(&mut self) -> Vec<u64> {
        let mut dropped = Vec::new();
        if self.by_address.len() >= self.full {
            dropped.extend(
                self.by_address
                    .values()
                    .filter(|(identity, _)| identity.is_gone())
                    .map(|(_, number)| *number),
            );
            self.by_address.retain(|_, (identity, _)| !identity.is_gone());
            self.full = 2 * self.by_address.len() + 64;
            dropped.sort_unstable();
        }
        dropped
    }
}

impl Recorder {
    pub(crate) fn new(out: Box<dyn Write + Send>, header: &Header, now: Instant) -> Self {
        let (block, failed) = (Vec::new(), None);
        let prepared = PreparedNumbers::default();
        let mut writer = BlockWriter { out, block, written: 0, failed, last: now, streams: 0, prepared };
        writer.write(&[MAGIC, &[VERSION]].concat());
        header.put(writer.block());
        writer.end_block();
        Recorder(Arc::new(Mutex::new(writer)))
    }

    fn lock(&self) -> MutexGuard<'_, BlockWriter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn append(&self, entry: &Entry) {
        self.lock().append(entry);
    }

    /// Records that the following entries happen at `now`.
    pub(crate) fn advance_to(&self, now: Instant) {
        let mut writer = self.lock();
        let nanos = nanos_between(writer.last, now);
        if nanos != 0 {
            writer.last = now;
            writer.append(&Entry::At { nanos });
        }
    }

    /// The number of the next stream that is recorded.
    pub(crate) fn next_stream(&self) -> u32 {
        let mut writer = self.lock();
        writer.streams = writer.streams.wrapping_add(1);
        writer.streams
    }

    /// A copy of a message. A [`Prepared`] is copied once; later copies hold only its number.
    pub(crate) fn copy_message(&self, message: &Outgoing<'_>) -> MessageCopy {
        let (shared, known) = match message {
            Outgoing::Message(_) => (0, false),
            Outgoing::Prepared(prepared) => self.lock().prepared.number(prepared),
        };
        let payload = if known { &[] } else { message.payload() };
        MessageCopy::new(message.kind(), shared, payload)
    }

    /// Nanoseconds from the time of the last entry to `deadline`.
    pub(crate) fn nanos_until(&self, deadline: Instant) -> i64 {
        nanos_between(self.lock().last, deadline)
    }

    pub(crate) fn end_poll(&self) {
        let mut writer = self.lock();
        for shared in writer.prepared.take_dropped() {
            writer.append(&Entry::Forget { shared });
        }
        writer.end_block();
    }

    /// Stops the recording after something that no replay could repeat.
    pub(crate) fn stop(&self, why: &str) {
        self.lock().fail(io::ErrorKind::Unsupported, why);
    }

    pub(crate) fn state(&self) -> Recording {
        let writer = self.lock();
        let bytes = writer.written;
        match writer.failed {
            None => Recording::Running { bytes },
            Some(error) => Recording::Stopped { bytes, error },
        }
    }
}

impl BlockWriter {
    fn append(&mut self, entry: &Entry) {
        if self.failed.is_none() {
            entry.put(self.block());
            if self.block.len() >= BLOCK {
                self.end_block();
            }
        }
    }

    /// The buffer that the next entry is appended to.
    fn block(&mut self) -> &mut Vec<u8> {
        if self.block.is_empty() {
            self.block.resize(PREFIX, 0);
        }
        &mut self.block
    }

    fn end_block(&mut self) {
        let mut block = mem::take(&mut self.block);
        let Some((prefix, content)) = block.split_first_chunk_mut() else { return };
        match block::prefix(content) {
            Some(bytes) => {
                *prefix = bytes;
                self.write(&block);
            }
            None => self.fail(io::ErrorKind::FileTooLarge, "a message is longer than a block may be"),
        }
        block.clear();
        // One long message must not keep its memory allocated.
        block.shrink_to(2 * BLOCK);
        self.block = block;
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        // Set during the call, so that a writer that panics counts as failed.
        self.failed = Some(io::ErrorKind::Other);
        let outcome = self.out.write_all(bytes);
        self.failed = None;
        match outcome {
            Ok(()) => self.written += bytes.len() as u64,
            Err(error) => self.fail(error.kind(), &error.to_string()),
        }
    }

    fn fail(&mut self, kind: io::ErrorKind, why: &str) {
        if self.failed.is_none() {
            log::error!("the recording stops here: {why}");
            self.failed = Some(kind);
            self.block = Vec::new();
        }
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        self.append(&Entry::End {});
        self.end_block();
        if self.failed.is_none()
            && let Err(error) = self.out.flush()
        {
            log::error!("the end of the recording is lost: {error}");
        }
    }
}

impl fmt::Debug for BlockWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockWriter")
            .field("written", &self.written)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Negative if `to` is the earlier one.
fn nanos_between(from: Instant, to: Instant) -> i64 {
    let nanos = |wait: Duration| i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX);
    if to >= from { nanos(to - from) } else { -nanos(from - to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepared_message_keeps_its_number_until_it_is_dropped() {
        let mut numbers = PreparedNumbers::default();
        let kept: Vec<_> = (0..5).map(|_| Prepared::new("kept")).collect();
        let first: Vec<_> = kept.iter().map(|message| numbers.number(message)).collect();
        assert_eq!(first, [(1, false), (2, false), (3, false), (4, false), (5, false)]);
        let mut dropped = Vec::new();
        for number in 6..=1_000 {
            // The allocator tends to reuse the address of the message before, if it is free.
            let message = Prepared::new("dropped");
            let numbers_given = (numbers.number(&message), numbers.number(&message.clone()));
            assert_eq!(numbers_given, ((number, false), (number, true)));
            dropped.extend(numbers.take_dropped());
            assert!(numbers.by_address.len() < 100);
        }
        let last = dropped.iter().copied().max();
        assert!(dropped.len() > 900 && dropped.is_sorted() && dropped[0] == 6, "{last:?}");
        assert_eq!(kept.iter().map(|message| numbers.number(message).0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }
}
