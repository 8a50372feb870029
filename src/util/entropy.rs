//! Unpredictable random bytes, for masking keys and handshake nonces.

#![allow(
    clippy::indexing_slicing,
    reason = "a batch is refilled when fewer bytes than requested are left; a chunk is at most eight bytes"
)]

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::BuildHasher,
    sync::{Arc, Mutex, PoisonError},
};

/// Random bytes of the operating system, fetched in batches. Clones share the batch.
///
/// RFC 6455 §10.3: a party that chooses the payloads must not be able to predict the masking keys.
/// Each byte of a batch is used once.
#[derive(Clone)]
pub(crate) struct Entropy(Arc<Mutex<Batch>>);

struct Batch {
    bytes: [u8; Batch::SIZE],
    used: usize,
    /// Replaces the operating system as the source.
    #[cfg(feature = "sim")]
    source: Option<Source>,
    /// The fallback if the system fails after the first batch, which no healthy system does. Its
    /// secret key is random too.
    spare: RandomState,
    counter: u64,
}

impl Batch {
    const SIZE: usize = 2048;

    fn take<const N: usize>(&mut self) -> [u8; N] {
        if self.used + N > Self::SIZE {
            self.refill();
        }
        let mut taken = [0; N];
        taken.copy_from_slice(&self.bytes[self.used..self.used + N]);
        self.bytes[self.used..self.used + N].fill(0);
        self.used += N;
        taken
    }

    fn refill(&mut self) {
        self.used = 0;
        #[cfg(feature = "sim")]
        if let Some(source) = &mut self.source {
            return source(&mut self.bytes);
        }
        if let Err(error) = getrandom::fill(&mut self.bytes) {
            log::error!("the operating system returned no random numbers, falling back to SipHash: {error}");
            // SipHash of a counter with a secret key, which a peer cannot predict either.
            for chunk in self.bytes.chunks_mut(8) {
                self.counter += 1;
                chunk.copy_from_slice(&self.spare.hash_one(self.counter).to_ne_bytes()[..chunk.len()]);
            }
        }
    }
}

#[cfg(feature = "sim")]
type Source = Box<dyn FnMut(&mut [u8]) + Send>;

impl From<Batch> for Entropy {
    fn from(batch: Batch) -> Self {
        Entropy(Arc::new(Mutex::new(batch)))
    }
}

impl Entropy {
    /// Returns `None` if the system returns no random numbers.
    pub(crate) fn new() -> Option<Self> {
        let mut bytes = [0; Batch::SIZE];
        getrandom::fill(&mut bytes).ok()?;
        Some(Entropy::from(Batch {
            bytes,
            used: 0,
            #[cfg(feature = "sim")]
            source: None,
            spare: RandomState::new(),
            counter: 0,
        }))
    }

    /// Takes its bytes from `source`, a batch at a time.
    #[cfg(feature = "sim")]
    pub(crate) fn of(source: impl FnMut(&mut [u8]) + Send + 'static) -> Self {
        Entropy::from(Batch {
            bytes: [0; Batch::SIZE],
            used: Batch::SIZE,
            source: Some(Box::new(source)),
            spare: RandomState::new(),
            counter: 0,
        })
    }

    /// Takes bytes that were never returned before.
    pub(crate) fn take<const N: usize>(&self) -> [u8; N] {
        const { assert!(N <= Batch::SIZE) };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_bytes_repeat_across_batches_and_bits_are_uniform() {
        let entropy = Entropy::new().unwrap();
        let mut seen = HashSet::new();
        let mut ones = 0;
        const COUNT: usize = 4 * Batch::SIZE / 7;
        for _ in 0..COUNT {
            // Seven does not divide the batch size, so the last bytes of each batch are skipped.
            let key: [u8; 7] = entropy.clone().take();
            ones += key.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
            assert!(seen.insert(key), "returned twice");
        }
        let share = ones as f64 / (COUNT * 7 * 8) as f64;
        assert!((0.48..0.52).contains(&share), "{share} of the bits are set");
    }
}
