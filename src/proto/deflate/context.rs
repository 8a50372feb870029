//! A context (RFC 7692 §7.1.1): the last bytes of the messages in one direction.

#![allow(
    clippy::indexing_slicing,
    reason = "the ring has `max` bytes, `oldest` is below that, and at most `max` new bytes are kept"
)]

/// A ring buffer of at most 2^bits bytes. Its memory grows with the bytes pushed.
#[derive(Debug)]
pub(super) struct Context {
    bytes: Vec<u8>,
    /// Index of the oldest byte once the ring is full.
    oldest: usize,
    max: usize,
}

impl Context {
    pub(super) fn new(bits: u8) -> Self {
        Context { bytes: Vec::new(), oldest: 0, max: 1 << bits }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn push(&mut self, new: &[u8]) {
        let new = &new[new.len().saturating_sub(self.max)..];
        let (growth, new) = new.split_at(new.len().min(self.max - self.bytes.len()));
        let len = self.bytes.len() + growth.len();
        if len > self.bytes.capacity() {
            // Doubles, but not beyond the window.
            let capacity = (2 * self.bytes.capacity()).clamp(len.max(256).min(self.max), self.max);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(growth);
        // The other bytes overwrite the oldest ones.
        let (first, second) = new.split_at(new.len().min(self.max - self.oldest));
        self.bytes[self.oldest..self.oldest + first.len()].copy_from_slice(first);
        self.bytes[..second.len()].copy_from_slice(second);
        self.oldest = (self.oldest + new.len()) % self.max;
    }

    /// Replaces the content of `out` by all bytes, the oldest first.
    pub(super) fn copy_to(&self, out: &mut Vec<u8>) {
        let (newer, older) = self.bytes.split_at(self.oldest);
        out.clear();
        out.extend_from_slice(older);
        out.extend_from_slice(newer);
    }

    /// Removes all bytes and releases the memory.
    pub(super) fn clear(&mut self) {
        (self.bytes, self.oldest) = (Vec::new(), 0);
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::test_rng::Rng;

    #[test]
    fn holds_the_last_bytes_in_order() {
        let mut rng = Rng::new(0);
        for bits in [8, 9, 10] {
            let (mut history, mut all, mut found) = (Context::new(bits), Vec::new(), Vec::new());
            for _ in 0..500 {
                let len = rng.pick(&[0, 1, 3, 100, 255, 256, 257, 600, 3000]);
                let new = rng.bytes(len);
                history.push(&new);
                all.extend_from_slice(&new);
                history.copy_to(&mut found);
                assert_eq!(found, all[all.len().saturating_sub(1 << bits)..]);
                assert!(history.memory() <= 1 << bits);
            }
            history.clear();
            assert_eq!((history.is_empty(), history.memory()), (true, 0));
            history.push(b"again");
            history.copy_to(&mut found);
            assert_eq!(found, b"again");
        }
    }
}
