//! Reads the entries of a recording one by one, checks the blocks, and builds the errors of a
//! replay.

#![allow(
    clippy::indexing_slicing,
    reason = "`at` and `last` are positions in the block, computed from the rest of it"
)]

use std::{
    fmt,
    io::{self, Read},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;

use crate::record::format::{
    block::{self, PREFIX},
    codec::Decode,
    entry::{Entry, OrderCopy},
    header::{Header, MAGIC, VERSION},
};

/// Why a recording cannot be replayed, or not to its end.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The file cannot be opened or read.
    #[error("the recording cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The input does not begin as a recording does.
    #[error("the input is not a recording of a tickws server")]
    Foreign,
    /// The recording has another version of the format than this library reads; the text names
    /// both.
    #[error("the recording has format version {0}, but this version of tickws reads version {VERSION} only")]
    Version(u8),
    /// The recording ends in the middle: the process died, or the writer failed. Everything before
    /// was replayed.
    #[error("the recording ends in the middle, at byte {byte}")]
    Truncated {
        /// Where the file ends.
        byte: u64,
    },
    /// The bytes are not those that were written, or the recorded server used a Cargo feature that
    /// is not enabled here (`deflate`).
    #[error("the recording is damaged at byte {byte}, or needs a Cargo feature that is not enabled")]
    Corrupt {
        /// Where the damaged block begins.
        byte: u64,
    },
    /// The engine did something else than the recorded one.
    #[error("{0}")]
    Diverged(Divergence),
}

/// The first difference between a recording and its replay.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "entry {entry}, in the block at byte {byte}: the engine made {found}, but the recording has {expected}"
)]
#[non_exhaustive]
pub struct Divergence {
    /// The number of the entry in the recording, counted from one.
    pub entry: u64,
    /// Where its block begins in the file.
    pub byte: u64,
    /// The entry of the recording, shortened.
    pub expected: String,
    /// The action of the engine in its place, shortened.
    pub found: String,
}

/// A handle to the reader, shared by a replay, its streams and its closures.
#[derive(Debug, Clone)]
pub(crate) struct SharedReader(Arc<Mutex<Reader>>);

impl SharedReader {
    pub(super) fn open(input: Box<dyn Read + Send>) -> Result<Self, ReplayError> {
        Ok(SharedReader(Arc::new(Mutex::new(Reader::open(input)?))))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Reader> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Reader {
    input: Box<dyn Read + Send>,
    block: Vec<u8>,
    /// The position in the block.
    at: usize,
    /// The position at which the last entry began.
    last: usize,
    /// Where the block begins in the file.
    byte: u64,
    /// Where the next block begins in the file.
    next_byte: u64,
    /// The number of entries read.
    entries: u64,
    /// An error from the middle of a call, until the call is over.
    error: Option<ReplayError>,
}

impl Reader {
    fn open(mut input: Box<dyn Read + Send>) -> Result<Self, ReplayError> {
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
        Ok(Reader { input, block: Vec::new(), at: 0, last: 0, byte, next_byte, entries: 0, error: None })
    }

    /// Reads the next block. Memory grows with the bytes that are there, never by the length that
    /// is claimed.
    fn read_block(&mut self) -> Result<(), ReplayError> {
        let mut prefix = Vec::new();
        self.byte = self.next_byte;
        self.input.by_ref().take(PREFIX as u64).read_to_end(&mut prefix)?;
        let content = self.byte + prefix.len() as u64;
        let Some((len, digest)) = block::parse(&prefix) else {
            return Err(ReplayError::Truncated { byte: content });
        };
        let len = u64::from(len);
        self.block.clear();
        (self.at, self.last) = (0, 0);
        self.input.by_ref().take(len).read_to_end(&mut self.block)?;
        self.next_byte = content + len;
        if (self.block.len() as u64) < len {
            return Err(ReplayError::Truncated { byte: content + self.block.len() as u64 });
        }
        if block::digest_of(&self.block) != digest {
            return Err(self.corrupt());
        }
        Ok(())
    }

    fn decode<T>(&mut self, get: impl Fn(&mut &[u8]) -> Option<T>) -> Result<T, ReplayError> {
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

    /// The header, which comes first.
    pub(super) fn header(&mut self) -> Result<Header, ReplayError> {
        self.decode(Header::get)
    }

    pub(crate) fn next(&mut self) -> Result<Entry, ReplayError> {
        let entry = self.decode(Entry::get)?;
        self.entries += 1;
        Ok(entry)
    }

    /// Checks that nothing follows the last entry: this server has not written it.
    pub(super) fn end(&mut self) -> Result<(), ReplayError> {
        if self.at < self.block.len() {
            return Err(self.corrupt());
        }
        let mut more = Vec::new();
        self.input.by_ref().take(1).read_to_end(&mut more)?;
        if more.is_empty() { Ok(()) } else { Err(ReplayError::Corrupt { byte: self.next_byte }) }
    }

    /// The recorded result for something that the engine did in the middle of a call. `None` if the
    /// recording has another entry here or none: [`check`](Reader::check) gives the error.
    pub(crate) fn result<T>(
        &mut self,
        found: impl Fn() -> String,
        take: impl FnOnce(Entry) -> Option<T>,
    ) -> Option<T> {
        if self.error.is_some() {
            return None;
        }
        let taken = match self.next() {
            Ok(entry) => take(entry).ok_or_else(|| self.diverged(found())),
            Err(error) => Err(error),
        };
        taken.map_err(|error| self.error = Some(error)).ok()
    }

    /// Compares the work that the engine asks of its host.
    pub(super) fn ordered(&mut self, order: &OrderCopy) {
        let found = || format!("the order {order:?}");
        self.result(found, |entry| match entry {
            Entry::Ordered { order: recorded } if recorded == *order => Some(()),
            _ => None,
        });
    }

    pub(super) fn random(&mut self, bytes: &mut [u8]) {
        let drawn = self.result(
            || format!("a draw of {} random bytes", bytes.len()),
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

    /// The error from the call that has just ended.
    pub(super) fn check(&mut self) -> Result<(), ReplayError> {
        mem::take(&mut self.error).map_or(Ok(()), Err)
    }

    pub(super) fn corrupt(&self) -> ReplayError {
        ReplayError::Corrupt { byte: self.byte }
    }

    /// The error for a last entry that does not match what the engine did.
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

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("byte", &self.byte)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}
