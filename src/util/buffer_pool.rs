//! Recycled byte buffers, so that the steady state does not allocate.

/// Spare buffers, with a cap on their total size.
///
/// A buffer keeps its length in the pool: bytes below `len` are initialised, so a reader that
/// overwrites them need not zero them again.
#[derive(Debug)]
pub(crate) struct BufferPool {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    bytes: usize,
    max_bytes: usize,
}

impl BufferPool {
    /// A buffer above this is large, and is not given to a caller that wants little: a client that
    /// idles in the middle of a header must not occupy a megabyte.
    const SMALL: usize = 4 * 1024;

    /// The cost of a buffer besides its capacity, so that the number of tiny buffers is bounded
    /// too.
    const OVERHEAD: usize = 64;

    pub(crate) fn new(max_bytes: usize) -> Self {
        BufferPool { small: Vec::new(), large: Vec::new(), bytes: 0, max_bytes }
    }

    /// How many of the large buffers, the most recent ones, are searched for the best fit.
    const LOOKED_AT: usize = 32;

    /// Takes a spare buffer for about `want` bytes, or a new one without capacity.
    pub(crate) fn take(&mut self, want: usize) -> Vec<u8> {
        let large = if want > Self::SMALL { self.take_large(want) } else { None };
        let Some(buffer) = large.or_else(|| self.small.pop()) else { return Vec::new() };
        self.bytes -= buffer.capacity() + Self::OVERHEAD;
        buffer
    }

    /// Takes the most recent spare buffer, or a new one without capacity. For a caller that does
    /// not know the size yet.
    pub(crate) fn take_last(&mut self) -> Vec<u8> {
        let Some(buffer) = self.large.pop().or_else(|| self.small.pop()) else { return Vec::new() };
        self.bytes -= buffer.capacity() + Self::OVERHEAD;
        buffer
    }

    /// Takes the smallest large buffer that need not grow, or else the largest.
    fn take_large(&mut self, want: usize) -> Option<Vec<u8>> {
        let misfit = |capacity: usize| if capacity >= want { capacity } else { usize::MAX - capacity };
        let recent = self.large.iter().enumerate().rev().take(Self::LOOKED_AT);
        let (best, _) = recent.min_by_key(|(_, buffer)| misfit(buffer.capacity()))?;
        Some(self.large.swap_remove(best))
    }

    /// Keeps `buffer` for later, or frees it when the pool is full.
    pub(crate) fn give(&mut self, buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        let cost = capacity + Self::OVERHEAD;
        if capacity > 0 && self.bytes + cost <= self.max_bytes {
            self.bytes += cost;
            if capacity > Self::SMALL { self.large.push(buffer) } else { self.small.push(buffer) }
        }
    }

    /// The total size of the spare buffers.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn bytes(&self) -> usize {
        let buffers = self.small.iter().chain(&self.large);
        debug_assert_eq!(self.bytes, buffers.map(|buffer| buffer.capacity() + Self::OVERHEAD).sum::<usize>());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_buffers_up_to_the_cap() {
        let mut pool = BufferPool::new(1000);
        pool.give(Vec::with_capacity(600));
        pool.give(Vec::with_capacity(600));
        assert_eq!(pool.take(1).capacity(), 600);
        assert_eq!(pool.take(1).capacity(), 0);
        pool.give(Vec::with_capacity(900));
        assert_eq!(pool.take(1).capacity(), 900);
        assert_eq!(pool.bytes(), 0);
    }

    #[test]
    fn take_gives_no_large_buffer_for_a_small_size() {
        let mut pool = BufferPool::new(1 << 20);
        pool.give(Vec::with_capacity(100_000));
        assert_eq!(pool.take(14).capacity(), 0);
        assert_eq!(pool.take(50_000).capacity(), 100_000);
    }

    #[test]
    fn take_gives_the_best_fitting_large_buffer() {
        let mut pool = BufferPool::new(1 << 30);
        let fill = |pool: &mut BufferPool| {
            [50_000, 200_000, 1_000_000, 100_000]
                .into_iter()
                .for_each(|size| pool.give(Vec::with_capacity(size)));
        };
        fill(&mut pool);
        let sizes = [60_000, 60_000, 60_000, 60_000].map(|want| pool.take(want).capacity());
        assert_eq!(sizes, [100_000, 200_000, 1_000_000, 50_000]);
        fill(&mut pool);
        assert_eq!(pool.take(usize::MAX).capacity(), 1_000_000);
    }

    #[test]
    fn the_number_of_tiny_buffers_is_bounded() {
        let mut pool = BufferPool::new(1000);
        (0..1000).for_each(|_| pool.give(Vec::with_capacity(1)));
        assert!(pool.small.len() <= 1000 / BufferPool::OVERHEAD);
    }
}
