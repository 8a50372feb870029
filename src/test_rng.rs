//! The unit tests' randomness. The same seed, or the same tape, gives the same stream.

use std::collections::VecDeque;

/// Numbers without meaning; what a test makes of them is in its own module.
#[derive(Debug)]
pub(crate) struct Rng(Source);

#[derive(Debug)]
enum Source {
    Seed(fastrand::Rng),
    /// The bytes that a fuzzer chooses. Behind their end there are zeros.
    Tape(VecDeque<u8>),
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        // Forked, as the first numbers of neighbouring seeds would be neighbours.
        Rng(Source::Seed(fastrand::Rng::with_seed(seed).fork()))
    }

    /// Takes its numbers from `bytes`, few for small ones, so that a fuzzer can steer by them.
    pub(crate) fn tape(bytes: &[u8]) -> Self {
        Rng(Source::Tape(bytes.to_vec().into()))
    }

    /// Whether a tape is at its end. A seed has none.
    pub(crate) fn is_spent(&self) -> bool {
        matches!(&self.0, Source::Tape(tape) if tape.is_empty())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.number(8)
    }

    /// Below `end`, which is above zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        match &mut self.0 {
            Source::Seed(rng) => rng.usize(..end),
            Source::Tape(_) => {
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
            // A long payload is no reason to use up the tape: its beginning comes again and again.
            Source::Tape(tape) => {
                let some: Vec<u8> = tape.drain(..len.min(32).min(tape.len())).collect();
                bytes.iter_mut().zip(some.iter().cycle()).for_each(|(to, from)| *to = *from);
            }
        }
        bytes
    }

    /// A number of `len` bytes.
    fn number(&mut self, len: usize) -> u64 {
        match &mut self.0 {
            Source::Seed(rng) => rng.u64(..),
            Source::Tape(tape) => {
                tape.drain(..len.min(tape.len())).fold(0, |number, byte| number << 8 | u64::from(byte))
            }
        }
    }
}
