//! Random numbers for the unit tests. The same seed, or the same bytes, gives the same stream.

use std::collections::VecDeque;

/// Generic random numbers. A test's own module maps them to its actions.
#[derive(Debug)]
pub(crate) struct Rng(Source);

#[derive(Debug)]
enum Source {
    Seed(fastrand::Rng),
    /// The bytes chosen by a fuzzer, followed by zeros.
    Bytes(VecDeque<u8>),
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        // Forked, because adjacent seeds would otherwise begin with similar numbers.
        Rng(Source::Seed(fastrand::Rng::with_seed(seed).fork()))
    }

    /// Takes its numbers from `bytes`. A small range uses few bytes, so that a fuzzer can control
    /// each choice.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Rng(Source::Bytes(bytes.to_vec().into()))
    }

    /// Whether all bytes are used up. A seed never is.
    pub(crate) fn is_spent(&self) -> bool {
        matches!(&self.0, Source::Bytes(bytes) if bytes.is_empty())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.number(8)
    }

    /// A number below `end`, which must not be zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        match &mut self.0 {
            // Drawn as `u64`, so that a seed gives the same numbers on 32-bit systems.
            Source::Seed(rng) => rng.u64(..end as u64) as usize,
            Source::Bytes(_) => {
                let len = (usize::BITS - (end - 1).leading_zeros()).div_ceil(8);
                (self.number(len as usize) % end as u64) as usize
            }
        }
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        match &mut self.0 {
            Source::Seed(rng) => rng.fill(&mut bytes),
            // A long payload repeats its first bytes, so that it does not use up the source.
            Source::Bytes(source) => {
                let some: Vec<u8> = source.drain(..len.min(32).min(source.len())).collect();
                bytes.iter_mut().zip(some.iter().cycle()).for_each(|(to, from)| *to = *from);
            }
        }
        bytes
    }

    /// A number from `len` bytes of the source, or any number from a seed.
    fn number(&mut self, len: usize) -> u64 {
        match &mut self.0 {
            Source::Seed(rng) => rng.u64(..),
            Source::Bytes(bytes) => {
                bytes.drain(..len.min(bytes.len())).fold(0, |number, byte| number << 8 | u64::from(byte))
            }
        }
    }
}
