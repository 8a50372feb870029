//! The conditions of a simulated network, and its random numbers.

use std::{ops::RangeInclusive, time::Duration};

use crate::util::{rearm::Rearm, split_mix::SplitMix};

/// How a simulated network behaves.
///
/// Under all conditions it is a correct TCP: all bytes arrive once and in order, or the connection
/// is reset. Chances are in percent of the affected calls or pieces; values above 100 count as 100.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tickws::sim::{Sim, NetworkConditions};
///
/// let ms = Duration::from_millis;
/// let mobile = NetworkConditions::foul().latency(ms(40)..=ms(250)).buffer(16 * 1024);
/// let sim = Sim::with_conditions(7, mobile);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConditions {
    pub(super) latency: RangeInclusive<Duration>,
    pub(super) buffer: usize,
    pub(super) short_reads: u8,
    pub(super) partial_writes: u8,
    pub(super) interrupts: u8,
    pub(super) late_readiness: u8,
    /// The chance that a connection is reported readable without new input. Only used by the tests
    /// of this crate.
    pub(super) spurious_readiness: u8,
    pub(super) shuffles: bool,
    pub(super) resets: u8,
    /// `None`: the seed decides.
    pub(super) windows_readiness: Option<bool>,
}

/// Same as [`calm`](NetworkConditions::calm).
impl Default for NetworkConditions {
    fn default() -> Self {
        NetworkConditions::calm()
    }
}

impl NetworkConditions {
    /// No latency and no random behaviour.
    pub const fn calm() -> Self {
        NetworkConditions {
            latency: Duration::ZERO..=Duration::ZERO,
            buffer: 256 * 1024,
            short_reads: 0,
            partial_writes: 0,
            interrupts: 0,
            late_readiness: 0,
            spurious_readiness: 0,
            shuffles: false,
            resets: 0,
            windows_readiness: Some(false),
        }
    }

    /// All behaviour that a connection survives: up to 80 ms of latency, short reads and writes,
    /// interrupted calls, readiness that is late and in random order. No resets.
    pub const fn foul() -> Self {
        NetworkConditions {
            latency: Duration::from_millis(1)..=Duration::from_millis(80),
            buffer: 64 * 1024,
            short_reads: 30,
            partial_writes: 20,
            interrupts: 2,
            late_readiness: 20,
            spurious_readiness: 0,
            shuffles: true,
            resets: 0,
            windows_readiness: None,
        }
    }

    /// Sets the latency of each piece, uniformly distributed. Pieces of one direction stay in
    /// order.
    #[must_use]
    pub fn latency(mut self, latency: RangeInclusive<Duration>) -> Self {
        self.latency = latency;
        self
    }

    /// Sets the maximum number of bytes in flight or unread in each direction of a connection, at
    /// least 1. Further writes would block. Default: 256 KiB if calm, 64 KiB if foul.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes.max(1);
        self
    }

    /// Sets the chance that bytes arrive or are read in smaller pieces than they were sent.
    #[must_use]
    pub fn short_reads(mut self, percent: u8) -> Self {
        self.short_reads = percent;
        self
    }

    /// Sets the chance that a write of a server is short or returns `WouldBlock` though there is
    /// room.
    #[must_use]
    pub fn partial_writes(mut self, percent: u8) -> Self {
        self.partial_writes = percent;
        self
    }

    /// Sets the chance that a call of a server fails with `Interrupted`. At most 90.
    #[must_use]
    pub fn interrupts(mut self, percent: u8) -> Self {
        // With 100 a call would be repeated without end.
        self.interrupts = if percent > 90 { 90 } else { percent };
        self
    }

    /// Sets the chance that a poll reports the readiness of a connection only in the next poll. At
    /// most 90.
    #[must_use]
    pub fn late_readiness(mut self, percent: u8) -> Self {
        // With 100 readiness would never be reported.
        self.late_readiness = if percent > 90 { 90 } else { percent };
        self
    }

    /// Sets whether ready connections are reported in random order instead of the order in which
    /// they were opened.
    #[must_use]
    pub fn shuffles(mut self, shuffles: bool) -> Self {
        self.shuffles = shuffles;
        self
    }

    /// Sets whether a connection is reported ready as on Windows: again only after a read or a
    /// write of the server has returned `WouldBlock`, and then also writable, although nothing was
    /// written. Otherwise it is reported when something changes, as with epoll and kqueue. Neither
    /// depends on the system that runs the simulation. Default: as with epoll if calm; if foul, odd
    /// seeds are as on Windows.
    #[must_use]
    pub fn windows_readiness(mut self, windows: bool) -> Self {
        self.windows_readiness = Some(windows);
        self
    }

    /// When a network with this seed reports readiness again.
    pub(super) fn rearm(&self, seed: u64) -> Rearm {
        match self.windows_readiness.unwrap_or(seed % 2 == 1) {
            true => Rearm::AfterWouldBlock,
            false => Rearm::OnChange,
        }
    }

    /// Sets the chance that a piece resets the connection for both ends.
    #[must_use]
    pub fn resets(mut self, percent: u8) -> Self {
        self.resets = percent;
        self
    }
}

/// The random numbers of a network. They depend on the seed only.
#[derive(Debug, Clone)]
pub(crate) struct SimRng(SplitMix);

impl SimRng {
    pub(crate) fn new(seed: u64) -> Self {
        SimRng(SplitMix::new(seed))
    }

    /// A number below `end`, or zero if `end` is zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.0.next()) * end as u128) >> 64) as usize
    }

    pub(crate) fn percent(&mut self, chance: u8) -> bool {
        // A chance of zero takes no number, so that it does not change other random choices.
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
