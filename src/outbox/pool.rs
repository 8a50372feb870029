//! Spare buffers that all outboxes share.

use super::{
    chunks::{Chunk, ChunkQueue},
    prepared::SharedBytes,
    priority::{AHEAD_MAX, PriorityFrames},
};
use crate::util::buffer_pool::BufferPool;

/// Spare buffers for outboxes, so that filling and draining one does not allocate. Also counts the
/// memory of the outboxes in use.
#[derive(Debug)]
pub(crate) struct OutboxPool {
    pub(super) tails: BufferPool,
    pub(super) queues: Vec<ChunkQueue>,
    // Boxed, because the outboxes own them as boxes.
    #[expect(clippy::vec_box)]
    pub(super) spare_priority: Vec<Box<PriorityFrames>>,
    /// Memory of all outboxes, without shared frames, in bytes.
    pub(super) held: usize,
    pub(super) shared: SharedBytes,
}

impl OutboxPool {
    pub(super) const MAX_QUEUES: usize = 1024;
    const MAX_SPARE_PRIORITY: usize = 256;

    pub(crate) fn new(max_bytes: usize) -> Self {
        OutboxPool {
            tails: BufferPool::new(max_bytes),
            queues: Vec::new(),
            spare_priority: Vec::new(),
            held: 0,
            shared: SharedBytes::default(),
        }
    }

    /// Memory of all outboxes, in bytes. A shared frame counts once.
    pub(crate) fn held(&self) -> usize {
        self.held + self.shared.get()
    }

    /// The size of the spare buffers.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn bytes(&self) -> usize {
        self.tails.bytes()
    }

    /// The counter of shared frames in these outboxes. The pending messages use the same counter.
    pub(crate) fn shared(&self) -> &SharedBytes {
        &self.shared
    }

    #[inline]
    pub(super) fn give_chunk(&mut self, chunk: Chunk) {
        if let Chunk::Owned(mut buffer) = chunk {
            buffer.clear();
            self.tails.give(buffer);
        }
    }

    #[inline]
    pub(super) fn give_priority(&mut self, mut priority_frames: Box<PriorityFrames>) {
        priority_frames.clear();
        if priority_frames.held() <= 2 * AHEAD_MAX && self.spare_priority.len() < Self::MAX_SPARE_PRIORITY {
            self.spare_priority.push(priority_frames);
        }
    }
}
