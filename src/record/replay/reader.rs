//! The entries of a tape, one after the other, and where a replay left them.

#![allow(
    clippy::indexing_slicing,
    reason = "`at` and `last` stand in the block: they come from what is left of it"
)]

use std::{
    fmt,
    io::{self, Read},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;

use crate::{
    tape::{
        MAGIC, VERSION,
        code::Decode,
        entry::{Entry, HostOrder},
    },
    util::fnv::Fnv,
};

/// Why a recording cannot be replayed, or not any further.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The file cannot be opened or read.
    #[error("the recording cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It does not begin as a recording does.
    #[error("this is no recording of a tickws server")]
    Foreign,
    /// The recording has another version of the format than this library reads.
    #[error("the recording has format version {0}, but this version of tickws reads version {VERSION} only")]
    Version(u8),
    /// It ends in the middle: the process died, or the writer failed. Everything before was replayed.
    #[error("the recording ends in the middle, at byte {byte}")]
    Truncated {
        /// Where the file ends.
        byte: u64,
    },
    /// The bytes are not those that were written; or the recorded server had a Cargo feature that is not built in
    /// here (`deflate`).
    #[error("the recording is damaged at byte {byte}, or needs a feature that is not built in")]
    Corrupt {
        /// Where the damaged block begins.
        byte: u64,
    },
    /// The engine did something else than it did when this was recorded.
    #[error("{0}")]
    Diverged(Divergence),
}

/// The first difference between a recording and its replay.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("entry {entry}, in the block at byte {byte}: {found}, but recorded is {expected}")]
#[non_exhaustive]
pub struct Divergence {
    /// Which entry of the recording, counted from one.
    pub entry: u64,
    /// Where its block begins in the file.
    pub byte: u64,
    /// What the recording has there, shortened.
    pub expected: String,
    /// What the engine wanted instead, or what came of it.
    pub found: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<Tracks>>);

impl Shared {
    pub(super) fn new(tracks: Tracks) -> Self {
        Shared(Arc::new(Mutex::new(tracks)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Tracks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Tracks {
    input: Box<dyn Read + Send>,
    block: Vec<u8>,
    /// Read so far of the block, and where its last entry began.
    at: usize,
    last: usize,
    /// Where the block begins in the file, and where the next one does.
    byte: u64,
    next_byte: u64,
    entries: u64,
    /// In the middle of a call.
    error: Option<ReplayError>,
}

impl Tracks {
    pub(super) fn open(mut input: Box<dyn Read + Send>) -> Result<Self, ReplayError> {
        let mut start = Vec::new();
        let len = MAGIC.len() + 1;
        input.by_ref().take(len as u64).read_to_end(&mut start)?;
        let Some(version) = start.strip_prefix(MAGIC) else { return Err(ReplayError::Foreign) };
        match version {
            [VERSION] => {}
            [] => return Err(ReplayError::Truncated { byte: len as u64 - 1 }),
            [other, ..] => return Err(ReplayError::Version(*other)),
        }
        let (byte, next_byte) = (0, len as u64);
        Ok(Tracks { input, block: Vec::new(), at: 0, last: 0, byte, next_byte, entries: 0, error: None })
    }

    /// The next block. Memory grows as it is read, whatever length it claims.
    fn read_block(&mut self) -> Result<(), ReplayError> {
        let mut head = Vec::new();
        self.byte = self.next_byte;
        self.input.by_ref().take(12).read_to_end(&mut head)?;
        let (Some((len, rest)), end) = (head.split_first_chunk(), self.byte + head.len() as u64) else {
            return Err(ReplayError::Truncated { byte: self.byte + head.len() as u64 });
        };
        let Some((recorded, _)) = rest.split_first_chunk() else {
            return Err(ReplayError::Truncated { byte: end });
        };
        let len = u64::from(u32::from_le_bytes(*len));
        self.block.clear();
        (self.at, self.last) = (0, 0);
        self.input.by_ref().take(len).read_to_end(&mut self.block)?;
        self.next_byte = end + len;
        if (self.block.len() as u64) < len {
            return Err(ReplayError::Truncated { byte: end + self.block.len() as u64 });
        }
        let mut digest = Fnv::new();
        digest.add(&self.block);
        if digest.value() != u64::from_le_bytes(*recorded) {
            return Err(self.corrupt());
        }
        Ok(())
    }

    pub(super) fn decode<T>(&mut self, get: impl Fn(&mut &[u8]) -> Option<T>) -> Result<T, ReplayError> {
        while self.at == self.block.len() {
            self.read_block()?;
        }
        let mut rest = &self.block[self.at..];
        let value = get(&mut rest);
        let left = rest.len();
        let value = value.ok_or_else(|| self.corrupt())?;
        (self.last, self.at) = (self.at, self.block.len() - left);
        Ok(value)
    }

    pub(crate) fn next(&mut self) -> Result<Entry, ReplayError> {
        let entry = self.decode(Entry::get)?;
        self.entries += 1;
        Ok(entry)
    }

    /// Nothing follows the last entry: what does, was not written by this server.
    pub(super) fn end(&mut self) -> Result<(), ReplayError> {
        if self.at < self.block.len() {
            return Err(self.corrupt());
        }
        let mut more = Vec::new();
        self.input.by_ref().take(1).read_to_end(&mut more)?;
        if more.is_empty() { Ok(()) } else { Err(ReplayError::Corrupt { byte: self.next_byte }) }
    }

    /// An answer in the middle of a call; `None`: something is wrong, and `check` tells.
    pub(crate) fn answer<T>(
        &mut self,
        what: impl Fn() -> String,
        take: impl FnOnce(Entry) -> Option<T>,
    ) -> Option<T> {
        if self.error.is_some() {
            return None;
        }
        let taken = match self.next() {
            Ok(entry) => take(entry).ok_or_else(|| self.diverged(what())),
            Err(error) => Err(error),
        };
        taken.map_err(|error| self.error = Some(error)).ok()
    }

    /// The engine asks the host for this.
    pub(super) fn ordered(&mut self, order: &HostOrder) {
        let what = || format!("{order:?}");
        self.answer(what, |entry| match entry {
            Entry::Ordered { order: recorded } if recorded == *order => Some(()),
            _ => None,
        });
    }

    pub(super) fn random(&mut self, bytes: &mut [u8]) {
        let drawn = self.answer(
            || "random numbers".to_owned(),
            |entry| match entry {
                Entry::Random { bytes: drawn } if drawn.len() == bytes.len() => Some(drawn),
                _ => None,
            },
        );
        match drawn {
            Some(drawn) => bytes.copy_from_slice(&drawn),
            None => bytes.fill(0),
        }
    }

    /// What went wrong in the call that is over.
    pub(super) fn check(&mut self) -> Result<(), ReplayError> {
        mem::take(&mut self.error).map_or(Ok(()), Err)
    }

    pub(super) fn corrupt(&self) -> ReplayError {
        ReplayError::Corrupt { byte: self.byte }
    }

    /// The last entry is not what the engine asks for.
    pub(super) fn diverged(&self, found: String) -> ReplayError {
        let expected = Entry::get(&mut &self.block[self.last..]);
        let expected = expected.map_or_else(String::new, |entry| format!("{entry:?}"));
        let shorten = |text: String| text.chars().take(300).collect::<String>();
        ReplayError::Diverged(Divergence {
            entry: self.entries,
            byte: self.byte,
            expected: shorten(expected),
            found: shorten(found),
        })
    }
}

impl fmt::Debug for Tracks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracks")
            .field("byte", &self.byte)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}
