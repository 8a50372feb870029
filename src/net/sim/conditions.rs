//! The conditions of a simulated network, and its random numbers.

use std::{ops::RangeInclusive, time::Duration};

use crate::util::split_mix::SplitMix;

/// How a simulated network behaves.
///
/// Whatever the weather, it behaves as TCP may: bytes arrive in order, whole and once, or the
/// connection is reset. All chances are in percent of the calls or pieces that they are about; what
/// is above 100 counts as 100.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tickws::sim::{Sim, Weather};
///
/// let ms = Duration::from_millis;
/// let mobile = Weather::foul().latency(ms(40)..=ms(250)).buffer(16 * 1024);
/// let sim = Sim::with_weather(7, mobile);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weather {
    pub(super) latency: RangeInclusive<Duration>,
    pub(super) buffer: usize,
    pub(super) short_reads: u8,
    pub(super) partial_writes: u8,
    pub(super) interrupts: u8,
    pub(super) late_readiness: u8,
    /// How often a connection is reported readable though nothing has changed; only in this crate's
    /// own tests.
    pub(super) spurious_readiness: u8,
    pub(super) shuffles: bool,
    pub(super) resets: u8,
}

/// The weather of [`calm`](Weather::calm).
impl Default for Weather {
    fn default() -> Self {
        Weather::calm()
    }
}

impl Weather {
    /// Nothing takes time, and nothing happens by chance.
    pub const fn calm() -> Self {
        Weather {
            latency: Duration::ZERO..=Duration::ZERO,
            buffer: 256 * 1024,
            short_reads: 0,
            partial_writes: 0,
            interrupts: 0,
            late_readiness: 0,
            spurious_readiness: 0,
            shuffles: false,
            resets: 0,
        }
    }

    /// Everything that a network may do without losing a connection: up to 80 ms of latency, reads
    /// and writes in pieces, interrupted calls, readiness that comes late and in any order. No
    /// resets.
    pub const fn foul() -> Self {
        Weather {
            latency: Duration::from_millis(1)..=Duration::from_millis(80),
            buffer: 64 * 1024,
            short_reads: 30,
            partial_writes: 20,
            interrupts: 2,
            late_readiness: 20,
            spurious_readiness: 0,
            shuffles: true,
            resets: 0,
        }
    }

    /// How long each piece takes, evenly spread; those of one direction never overtake each other.
    #[must_use]
    pub fn latency(mut self, latency: RangeInclusive<Duration>) -> Self {
        self.latency = latency;
        self
    }

    /// Bytes that each direction of a connection holds, on the way or unread, before its writer has
    /// to wait; at least one. Calm: 256 KiB, foul: 64 KiB.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes.max(1);
        self
    }

    /// How often bytes arrive, and are read, in smaller pieces than they were sent in.
    #[must_use]
    pub fn short_reads(mut self, percent: u8) -> Self {
        self.short_reads = percent;
        self
    }

    /// How often the kernel takes less than a server writes, or nothing (`WouldBlock`), though
    /// there is room.
    #[must_use]
    pub fn partial_writes(mut self, percent: u8) -> Self {
        self.partial_writes = percent;
        self
    }

    /// How often a server's call is interrupted by a signal.
    #[must_use]
    pub fn interrupts(mut self, percent: u8) -> Self {
        // At 100 a call would be repeated for ever.
        self.interrupts = if percent > 90 { 90 } else { percent };
        self
    }

    /// How often a server hears one poll later that a connection is ready.
    #[must_use]
    pub fn late_readiness(mut self, percent: u8) -> Self {
        // At 100 it would never hear.
        self.late_readiness = if percent > 90 { 90 } else { percent };
        self
    }

    /// Whether connections are reported ready in any order instead of that of their coming.
    #[must_use]
    pub fn shuffles(mut self, shuffles: bool) -> Self {
        self.shuffles = shuffles;
        self
    }

    /// How often a piece meets a router that has forgotten the connection: both ends see a reset.
    #[must_use]
    pub fn resets(mut self, percent: u8) -> Self {
        self.resets = percent;
        self
    }
}

/// The same numbers for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct SimRng(SplitMix);

impl SimRng {
    pub(crate) fn new(seed: u64) -> Self {
        SimRng(SplitMix::new(seed))
    }

    /// Below `end`; zero if that is zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.0.next()) * end as u128) >> 64) as usize
    }

    pub(crate) fn percent(&mut self, chance: u8) -> bool {
        // A certain outcome takes no number: a setting at zero changes nothing else.
        chance > 0 && self.below(100) < usize::from(chance)
    }

    pub(crate) fn within(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        let (least, most) = (*range.start(), *range.end());
        match most.checked_sub(least) {
            None | Some(Duration::ZERO) => least,
            Some(spread) => least + self.0.up_to(spread),
        }
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.next().to_le_bytes()[..chunk.len()]);
        }
    }
}
