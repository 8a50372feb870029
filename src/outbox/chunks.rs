//! The queue of chunks before the tail.

use std::collections::VecDeque;

use super::prepared::Queued;

#[derive(Debug)]
pub(super) enum Chunk {
    Owned(Vec<u8>),
    /// One frame that is shared with other outboxes.
    Shared(Queued),
}

impl Chunk {
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Owned(buffer) => buffer,
            Chunk::Shared(prepared) => prepared.frame(),
        }
    }

    /// Memory owned by this outbox alone.
    #[inline]
    pub(super) fn held(&self) -> usize {
        match self {
            Chunk::Owned(buffer) => size_of::<Chunk>() + buffer.capacity(),
            Chunk::Shared(_) => size_of::<Chunk>(),
        }
    }
}

/// Chunks in the order in which they are written. Boxed, because most outboxes are empty.
#[derive(Debug, Default)]
pub(super) struct ChunkQueue(Option<Box<Chunks>>);

#[derive(Debug, Default)]
struct Chunks {
    list: VecDeque<Chunk>,
    held: usize,
}

impl ChunkQueue {
    pub(super) fn push_back(&mut self, chunk: Chunk) {
        let chunks = self.0.get_or_insert_default();
        chunks.held += chunk.held();
        chunks.list.push_back(chunk);
    }

    pub(super) fn pop_front(&mut self) -> Option<Chunk> {
        let chunks = self.0.as_mut()?;
        let chunk = chunks.list.pop_front()?;
        chunks.held -= chunk.held();
        Some(chunk)
    }

    pub(super) fn front(&self) -> Option<&Chunk> {
        self.0.as_ref()?.list.front()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.0.iter().flat_map(|chunks| &chunks.list)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.front().is_none()
    }

    pub(super) fn is_single(&self) -> bool {
        self.0.as_ref().is_some_and(|chunks| chunks.list.len() == 1)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.iter().count()
    }

    /// The number of chunks that fit without reallocation.
    pub(super) fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |chunks| chunks.list.capacity())
    }

    /// Memory of the chunks that is owned by this outbox alone.
    pub(super) fn held(&self) -> usize {
        self.0.as_ref().map_or(0, |chunks| chunks.held)
    }
}
