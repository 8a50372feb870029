//! Reconnect policy: the delay before another attempt.

use std::time::Duration;

use crate::util::split_mix::SplitMix;

/// Policy for reconnecting after a lost outbound connection or a failed attempt: exponential
/// backoff with full jitter.
///
/// The delay before the n-th attempt in succession is uniformly random between zero and `base` ·
/// 2ⁿ⁻¹, at most `cap`. This spreads the reconnects of clients that lost the same server over that
/// time. A connection that was open for `stable_after` resets n.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tickws::{Connect, Reconnect};
///
/// let policy = Reconnect::new()
///     .base(Duration::from_millis(200))
///     .cap(Duration::from_secs(10))
///     .max_tries(20);
/// let connect = Connect::new("ws://127.0.0.1:9001/feed").reconnect(policy);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    base: Duration,
    cap: Duration,
    stable_after: Duration,
    max_tries: Option<u32>,
}

impl Default for Reconnect {
    fn default() -> Self {
        Reconnect::new()
    }
}

impl Reconnect {
    /// Base 1 s, cap 30 s, stable after 10 s, unlimited tries.
    pub const fn new() -> Self {
        Reconnect {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(30),
            stable_after: Duration::from_secs(10),
            max_tries: None,
        }
    }

    /// Sets the longest delay before the first new attempt. It doubles with each failed one.
    #[must_use]
    pub const fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// Sets the longest delay of all attempts.
    #[must_use]
    pub const fn cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// Sets how long a connection must have been open to reset the count of attempts.
    #[must_use]
    pub const fn stable_after(mut self, stable_after: Duration) -> Self {
        self.stable_after = stable_after;
        self
    }

    /// Sets how many new attempts in succession, without a stable connection between them, are made
    /// before [`Event::ConnectFailed`](crate::Event::ConnectFailed).
    #[must_use]
    pub const fn max_tries(mut self, tries: u32) -> Self {
        self.max_tries = Some(tries);
        self
    }

    /// The settings: base, cap, stable after, most tries.
    #[cfg(feature = "sim")]
    pub(crate) fn parts(&self) -> (Duration, Duration, Duration, Option<u32>) {
        (self.base, self.cap, self.stable_after, self.max_tries)
    }

    /// The delay before new attempt number `attempt`, counted from 1; `None` if no tries are left.
    pub(crate) fn delay(&self, attempt: u32, jitter: &mut SplitMix) -> Option<Duration> {
        if self.max_tries.is_some_and(|max| attempt > max) {
            return None;
        }
        let factor = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        Some(jitter.up_to(self.base.saturating_mul(factor).min(self.cap)))
    }

    /// Whether a connection that was open for this long resets the count of attempts.
    pub(crate) fn is_stable(&self, open_for: Duration) -> bool {
        open_for >= self.stable_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_generator_is_splitmix64() {
        // Output of the authors' reference implementation.
        let mut jitter = SplitMix::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([jitter.next(), jitter.next(), jitter.next()], expected);
    }

    #[test]
    fn delays_are_uniform_in_a_range_that_doubles_up_to_the_cap() {
        let policy = Reconnect::new().base(100 * MS).cap(1000 * MS);
        let mut jitter = SplitMix::new(1);
        for (attempt, most) in
            [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (40, 1000), (u32::MAX, 1000)]
        {
            let waits: Vec<_> = (0..2000).map(|_| policy.delay(attempt, &mut jitter).unwrap()).collect();
            assert!(waits.iter().all(|wait| *wait < most * MS), "{attempt}");
            // Uniform: each quarter of the range has about a quarter of the delays.
            for quarter in 0..4 {
                let (from, to) = (most * MS * quarter / 4, most * MS * (quarter + 1) / 4);
                let share = waits.iter().filter(|wait| (from..to).contains(wait)).count();
                assert!((400..600).contains(&share), "attempt {attempt}, quarter {quarter}: {share}");
            }
        }
    }

    #[test]
    fn tries_are_limited_and_extremes_do_not_overflow() {
        let mut jitter = SplitMix::new(2);
        let policy = Reconnect::new().max_tries(2);
        assert!(policy.delay(2, &mut jitter).is_some() && policy.delay(3, &mut jitter).is_none());
        assert_eq!(Reconnect::new().max_tries(0).delay(1, &mut jitter), None);
        let policy = Reconnect::new().base(Duration::MAX).cap(Duration::MAX);
        assert!(policy.delay(33, &mut jitter).is_some());
        assert_eq!(Reconnect::new().base(Duration::ZERO).delay(9, &mut jitter), Some(Duration::ZERO));
    }
}
