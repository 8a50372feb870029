//! A recording of all that an engine is told and answered, from which another engine does the same again.
//!
//! ```text
//! file  = "tickws\0tape" version(1 byte) block*
//! block = length(u32, little endian) digest(u64, little endian, FNV-1a of the content) content
//! ```
//!
//! The contents, one behind the other, are a head (what the server was built with) and entries: a number and its
//! fields, see `entry.rs`. Numbers are varints (`code.rs`). A block ends with each poll, so that what is lost when
//! a process dies is the poll in which it died; no entry lies in two blocks.

mod code;
mod core;
mod digest;
mod entry;
mod head;
mod player;
mod services;
mod stream;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;

use std::{
    collections::HashMap,
    fmt,
    io::{self, Write},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

pub(crate) use self::core::Core;
use code::Encode;
use entry::Entry;
pub(crate) use head::Head;
pub(crate) use player::Player;
pub use player::{Divergence, ReplayError};

use crate::{
    outbox::prepared::{Identity, Prepared},
    util::fnv::Fnv,
};

const MAGIC: &[u8] = b"tickws\0tape";

/// The version of the format.
const VERSION: u8 = 2;

/// A block is not made longer on purpose.
const BLOCK: usize = 64 * 1024;

/// Length and digest before a block.
const BLOCK_HEAD: usize = 12;

/// What has become of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recording {
    /// It goes on.
    Running {
        /// Bytes written so far.
        bytes: u64,
    },
    /// It could not be written any more, or something happened that cannot be recorded. What was written before
    /// can be replayed. The log said so, too.
    Stopped {
        /// Bytes written before.
        bytes: u64,
        /// [`Unsupported`](io::ErrorKind::Unsupported) if something cannot be recorded; else what the writer said.
        error: io::ErrorKind,
    },
}

/// Where a server, its sockets and its closures write what happens.
#[derive(Debug, Clone)]
pub(crate) struct Tape(Arc<Mutex<Recorder>>);

struct Recorder {
    out: Box<dyn Write + Send>,
    /// Entries that are not written yet, behind room for the block's head; or nothing at all.
    block: Vec<u8>,
    written: u64,
    failed: Option<io::ErrorKind>,
    /// When the last entry happened.
    last: Instant,
    streams: u32,
    prepared: Numbers,
}

/// The application's `Prepared`s.
#[derive(Default)]
struct Numbers {
    by_place: HashMap<usize, (Identity, u64)>,
    last: u64,
    /// With so many, it is time to look which are gone.
    full: usize,
}

impl Numbers {
    /// Its number, and whether it had one before.
    fn of(&mut self, message: &Prepared) -> (u64, bool) {
        let identity = Identity::of(message);
        let place = identity.place();
        let before = self.last;
        let entry = self.by_place.entry(place).or_insert_with(|| {
            self.last += 1;
            (identity, self.last)
        });
        (entry.1, self.last == before)
    }

    /// Takes out those that nobody has any more. Work for each that there is, once for each that has come.
    fn take_gone(&mut self) -> Vec<u64> {
        let mut gone = Vec::new();
        if self.by_place.len() >= self.full {
            gone.extend(
                self.by_place.values().filter(|(identity, _)| identity.is_gone()).map(|(_, number)| *number),
            );
            self.by_place.retain(|_, (identity, _)| !identity.is_gone());
            self.full = 2 * self.by_place.len() + 64;
            gone.sort_unstable();
        }
        gone
    }
}

impl Tape {
    pub(crate) fn new(out: Box<dyn Write + Send>, head: &Head, now: Instant) -> Self {
        let (block, failed) = (Vec::new(), None);
        let mut recorder =
            Recorder { out, block, written: 0, failed, last: now, streams: 0, prepared: Numbers::default() };
        recorder.write(&[MAGIC, &[VERSION]].concat());
        head.put(recorder.block());
        recorder.end_block();
        Tape(Arc::new(Mutex::new(recorder)))
    }

    fn lock(&self) -> MutexGuard<'_, Recorder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, entry: &Entry) {
        self.lock().note(entry);
    }

    /// What follows happens now.
    pub(crate) fn at(&self, now: Instant) {
        let mut recorder = self.lock();
        let nanos = nanos_between(recorder.last, now);
        if nanos != 0 {
            recorder.last = now;
            recorder.note(&Entry::At { nanos });
        }
    }

    /// The number of a stream that has come.
    pub(crate) fn next_stream(&self) -> u32 {
        let mut recorder = self.lock();
        recorder.streams = recorder.streams.wrapping_add(1);
        recorder.streams
    }

    /// The number of a message that may be sent again, and whether it stands here already.
    fn number_of(&self, message: &Prepared) -> (u64, bool) {
        self.lock().prepared.of(message)
    }

    pub(crate) fn last(&self) -> Instant {
        self.lock().last
    }

    pub(crate) fn end_poll(&self) {
        let mut recorder = self.lock();
        for shared in recorder.prepared.take_gone() {
            recorder.note(&Entry::Forget { shared });
        }
        recorder.end_block();
    }

    /// Something has happened that no replay could repeat.
    pub(crate) fn give_up(&self, why: &str) {
        self.lock().fail(io::ErrorKind::Unsupported, why);
    }

    pub(crate) fn state(&self) -> Recording {
        let recorder = self.lock();
        let bytes = recorder.written;
        match recorder.failed {
            None => Recording::Running { bytes },
            Some(error) => Recording::Stopped { bytes, error },
        }
    }
}

impl Recorder {
    fn note(&mut self, entry: &Entry) {
        if self.failed.is_none() {
            entry.put(self.block());
            if self.block.len() >= BLOCK {
                self.end_block();
            }
        }
    }

    /// Where the next entry goes.
    fn block(&mut self) -> &mut Vec<u8> {
        if self.block.is_empty() {
            self.block.resize(BLOCK_HEAD, 0);
        }
        &mut self.block
    }

    fn end_block(&mut self) {
        let mut block = mem::take(&mut self.block);
        let Some((head, entries)) = block.split_at_mut_checked(BLOCK_HEAD) else { return };
        let mut digest = Fnv::new();
        digest.add(entries);
        match u32::try_from(entries.len()) {
            Ok(len) => {
                head.copy_from_slice(&[&len.to_le_bytes()[..], &digest.value().to_le_bytes()].concat());
                self.write(&block);
            }
            Err(_) => self.fail(io::ErrorKind::FileTooLarge, "a message is longer than a block may be"),
        }
        block.clear();
        // One long message need not hold its memory for ever.
        block.shrink_to(2 * BLOCK);
        self.block = block;
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        // As long as it does not come back: a writer that panics has failed, too.
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

impl Drop for Recorder {
    fn drop(&mut self) {
        self.note(&Entry::End {});
        self.end_block();
        if self.failed.is_none()
            && let Err(error) = self.out.flush()
        {
            log::error!("the end of the recording is lost: {error}");
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("written", &self.written)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Negative if `to` is the earlier one.
fn nanos_between(from: Instant, to: Instant) -> i64 {
    let nanos = |wait: std::time::Duration| i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX);
    if to >= from { nanos(to - from) } else { -nanos(from - to) }
}
