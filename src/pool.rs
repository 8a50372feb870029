//! Recycled byte buffers, so that the steady state allocates nothing.

/// A stack of spare buffers with a cap on the bytes it keeps.
///
/// A buffer comes back with the length it was given up with: bytes below `len` are initialised, so a
/// reader that overwrites them need not zero them again.
#[derive(Debug)]
pub(crate) struct BufferPool {
    spare: Vec<Vec<u8>>,
    bytes: usize,
    max_bytes: usize,
}

impl BufferPool {
    pub(crate) fn new(max_bytes: usize) -> Self {
        BufferPool { spare: Vec::new(), bytes: 0, max_bytes }
    }

    /// The buffer given back last, or a new one without capacity.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let buffer = self.spare.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    /// Keeps `buffer` for later, or frees it when the pool is full.
    pub(crate) fn give(&mut self, buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity > 0 && self.bytes + capacity <= self.max_bytes {
            self.bytes += capacity;
            self.spare.push(buffer);
        }
    }

    /// The bytes kept.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        debug_assert_eq!(self.bytes, self.spare.iter().map(Vec::capacity).sum());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_buffers_up_to_its_cap() {
        let mut pool = BufferPool::new(1000);
        pool.give(Vec::with_capacity(600));
        pool.give(Vec::with_capacity(600));
        assert_eq!(pool.take().capacity(), 600);
        assert_eq!(pool.take().capacity(), 0);
        pool.give(Vec::with_capacity(1000));
        assert_eq!(pool.take().capacity(), 1000);
    }
}
