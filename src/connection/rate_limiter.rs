//! Rate limiter of one client: token buckets for messages and for bytes per second.
//!
//! A bucket stores one instant, GCRA's "theoretical arrival time": it advances by 1/`rate` seconds
//! per unit received, and may be ahead of the clock by at most [`BURST`].

use std::time::{Duration, Instant};

use crate::{
    config::{Config, RateLimitPolicy},
    util::time::after,
};

/// The largest burst: one second's worth of tokens.
const BURST: Duration = Duration::from_secs(1);

/// A paused client is read again once it has a 16th of a second's worth of tokens, or one token if
/// that is more. This bounds the wake-ups per paused client and second.
const QUANTA: u64 = 16;

const NANOS: u64 = 1_000_000_000;

/// The state of one client under `max_messages_per_second`, `max_bytes_per_second`, or both.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    policy: RateLimitPolicy,
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    /// When reading resumes; `None` while the client is not paused.
    resume_at: Option<Instant>,
    /// The unparsed input begins with a message that the tick or the limit had no room for. It is
    /// processed before anything is read.
    pub(crate) held: bool,
    /// The bytes received exceed the limit ([`RateLimitPolicy::Close`]).
    exceeded: bool,
}

impl RateLimiter {
    /// Returns `None` if no rate limit is configured.
    pub(crate) fn new(config: &Config, now: Instant) -> Option<Box<RateLimiter>> {
        let messages = config.max_messages_per_second.map(|rate| Bucket::new(rate.into(), now));
        let bytes = config.max_bytes_per_second.map(|rate| Bucket::new(rate as u64, now));
        (messages.is_some() || bytes.is_some()).then(|| {
            let policy = config.rate_limit;
            Box::new(RateLimiter { policy, messages, bytes, resume_at: None, held: false, exceeded: false })
        })
    }

    pub(crate) fn policy(&self) -> RateLimitPolicy {
        self.policy
    }

    /// Drops the tokens saved before `since`, except one burst, unless a message is held. All input
    /// older than `since` has been read. Until then a client keeps its tokens, since it may have
    /// sent at a steady rate while the server did not read.
    pub(crate) fn caught_up(&mut self, since: Instant) {
        if !self.held {
            self.buckets().for_each(|bucket| bucket.floor(since));
        }
    }

    /// The most bytes that the next read may take. Zero: process the held message first. `None`:
    /// call [`pause`](RateLimiter::pause). Under [`RateLimitPolicy::Close`] it is one byte more
    /// than there are tokens, to detect the excess.
    pub(crate) fn may_read(&self, now: Instant) -> Option<usize> {
        if self.lacking(now).next().is_some() {
            return None;
        }
        if self.held {
            return Some(0);
        }
        let tokens = self.bytes.as_ref().map_or(u64::MAX, |bytes| bytes.tokens(now));
        let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
        Some(tokens.saturating_add(usize::from(self.policy == RateLimitPolicy::Close)))
    }

    /// Counts bytes that were read. Returns `false` if they exceed the limit.
    pub(crate) fn received(&mut self, count: usize, now: Instant) -> bool {
        if let Some(bytes) = &mut self.bytes
            && count > 0
        {
            self.exceeded |= self.policy == RateLimitPolicy::Close && !bytes.holds(count as u64, now);
            bytes.take(count as u64);
        }
        !self.exceeded
    }

    /// Whether the bytes received exceed the limit.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.exceeded
    }

    /// Counts a message. Returns `false` if it exceeds the limit.
    pub(crate) fn message(&mut self, now: Instant) -> bool {
        let Some(messages) = &mut self.messages else { return true };
        let fits = messages.holds(1, now) || self.policy != RateLimitPolicy::Close;
        messages.take(u64::from(fits));
        fits
    }

    /// Whether the next message has to wait.
    pub(crate) fn is_out_of_messages(&self, now: Instant) -> bool {
        self.policy == RateLimitPolicy::Pause
            && self.messages.as_ref().is_some_and(|messages| !messages.holds(1, now))
    }

    /// Pauses the client until its buckets have tokens again.
    pub(crate) fn pause(&mut self, now: Instant) {
        self.resume_at = self.lacking(now).map(|bucket| bucket.refilled_at(now)).max();
    }

    /// When the pause ends; `None` if the client is not paused.
    #[inline]
    pub(crate) fn resume_at(&self) -> Option<Instant> {
        self.resume_at
    }

    /// Ends the pause if its time is over.
    pub(crate) fn resume(&mut self, now: Instant) -> bool {
        self.resume_at.take_if(|at| *at <= now).is_some()
    }

    /// The buckets that have to refill before the client is served. The bytes of a held message are
    /// counted already.
    fn lacking(&self, now: Instant) -> impl Iterator<Item = &Bucket> {
        let bytes = self.bytes.iter().filter(|_| !self.held);
        let pausing = self.policy == RateLimitPolicy::Pause;
        self.messages.iter().chain(bytes).filter(move |bucket| pausing && !bucket.holds(1, now))
    }

    fn buckets(&mut self) -> impl Iterator<Item = &mut Bucket> {
        self.messages.iter_mut().chain(&mut self.bytes)
    }
}

/// One token bucket, exact to the token: the remainder below a nanosecond is kept as a fraction.
#[derive(Debug)]
struct Bucket {
    /// Tokens per second; not zero.
    rate: u64,
    /// The theoretical arrival time is `paid_at` plus `fraction` / `rate` nanoseconds.
    paid_at: Instant,
    fraction: u64,
}

impl Bucket {
    /// Creates a full bucket.
    fn new(rate: u64, now: Instant) -> Self {
        Bucket { rate: rate.max(1), paid_at: now, fraction: 0 }
    }

    /// Drops the tokens saved before `at`.
    fn floor(&mut self, at: Instant) {
        if self.paid_at < at {
            (self.paid_at, self.fraction) = (at, 0);
        }
    }

    /// The tokens available, in billionths.
    fn level(&self, now: Instant) -> u128 {
        let ahead = after(now, BURST).saturating_duration_since(self.paid_at);
        ahead.as_nanos().saturating_mul(self.rate.into()).saturating_sub(self.fraction.into())
    }

    fn tokens(&self, now: Instant) -> u64 {
        u64::try_from(self.level(now) / u128::from(NANOS)).unwrap_or(u64::MAX)
    }

    /// Whether `count` tokens are available. Needs no division.
    fn holds(&self, count: u64, now: Instant) -> bool {
        self.level(now) >= u128::from(count) * u128::from(NANOS)
    }

    /// Takes tokens, also more than are available.
    fn take(&mut self, count: u64) {
        let cost = count.saturating_mul(NANOS).saturating_add(self.fraction);
        self.paid_at = after(self.paid_at, Duration::from_nanos(cost / self.rate));
        self.fraction = cost % self.rate;
    }

    /// When a quantum of tokens is available. Later than `now` if it is not yet.
    fn refilled_at(&self, now: Instant) -> Instant {
        let quantum = u128::from((self.rate / QUANTA).max(1)) * u128::from(NANOS);
        let wait = quantum.saturating_sub(self.level(now)).div_ceil(self.rate.into());
        after(now, Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::test_rng::Rng;

    /// A model of `Bucket` that counts billionths of a token and rounds nothing.
    struct Model {
        rate: u128,
        level: u128,
        at: Instant,
        /// The latest instant given to `floor`.
        floor: Instant,
    }

    impl Model {
        fn new(rate: u64, now: Instant) -> Self {
            let rate = u128::from(rate);
            Model { rate, level: rate * u128::from(NANOS), at: now, floor: now }
        }

        fn cap(&self) -> u128 {
            self.rate * (self.at - self.floor + BURST).as_nanos()
        }

        fn advance(&mut self, by: Duration) {
            self.at += by;
            self.level += self.rate * by.as_nanos();
            assert!(self.level <= self.cap());
        }

        fn floor(&mut self, at: Instant) {
            self.floor = self.floor.max(at);
            self.level = self.level.min(self.cap());
        }
    }

    #[test]
    fn a_bucket_is_exact() {
        let start = Instant::now();
        for seed in 0..500 {
            let mut rng = Rng::new(seed);
            // Rates of every magnitude.
            let rate = (rng.next() >> (24 + rng.below(40))).max(1);
            let (mut bucket, mut model) = (Bucket::new(rate, start), Model::new(rate, start));
            for _ in 0..300 {
                model.advance(Duration::from_nanos(rng.next() >> (29 + rng.below(35))));
                let now = model.at;
                if rng.one_in(3) {
                    let at = now - (now - model.floor) / (1 + rng.below(3) as u32);
                    bucket.floor(at);
                    model.floor(at);
                }
                let tokens = (model.level / u128::from(NANOS)) as u64;
                assert_eq!(bucket.tokens(now), tokens, "seed {seed}, rate {rate}");
                assert!(bucket.holds(tokens, now) && !bucket.holds(tokens + 1, now));
                let quantum = (rate / QUANTA).max(1);
                if tokens < quantum {
                    let at = bucket.refilled_at(now);
                    assert!(at > now && bucket.holds(quantum, at), "seed {seed}");
                    assert!(!bucket.holds(quantum, at - Duration::from_nanos(1)), "seed {seed}: too late");
                }
                let count = match rng.below(4) {
                    0 => tokens,
                    1 => tokens.min(1),
                    _ => (rng.next() >> rng.below(64)).min(tokens),
                };
                let count = count.min(1 << 33);
                bucket.take(count);
                model.level -= u128::from(count) * u128::from(NANOS);
            }
        }
    }

    #[test]
    fn extreme_rates_and_counts_saturate() {
        let start = Instant::now();
        let later = after(start, Duration::from_secs(1 << 62));
        for rate in [0, 1, NANOS, NANOS + 1, u64::MAX] {
            for count in [0, 1, u64::MAX] {
                let mut bucket = Bucket::new(rate, start);
                for _ in 0..3 {
                    bucket.take(count);
                    bucket.floor(start);
                    for now in [start, later] {
                        let _ = (bucket.tokens(now), bucket.holds(count, now));
                        assert!(bucket.refilled_at(now) >= now);
                    }
                }
                bucket.floor(later);
                assert!(bucket.holds(1, later));
            }
        }
    }

    fn rate_limiter(
        rate_limit: RateLimitPolicy,
        messages: Option<u32>,
        bytes: Option<usize>,
        now: Instant,
    ) -> RateLimiter {
        let config = Config {
            rate_limit,
            max_messages_per_second: messages,
            max_bytes_per_second: bytes,
            ..Config::default()
        };
        *RateLimiter::new(&config, now).expect("something is limited")
    }

    #[test]
    fn without_limits_there_is_no_limiter() {
        assert!(RateLimiter::new(&Config::default(), Instant::now()).is_none());
    }

    #[test]
    fn a_burst_fits_and_the_next_message_exceeds_the_limit() {
        let start = Instant::now();
        for rate in [1, 3, 7, 1_000, 999_999] {
            let mut rate_limiter = rate_limiter(RateLimitPolicy::Close, Some(rate), None, start);
            assert!((0..rate).all(|_| rate_limiter.message(start)), "{rate}");
            assert!(!rate_limiter.message(start), "{rate}");
            let interval = Duration::from_nanos(NANOS.div_ceil(rate.into()));
            assert!(!rate_limiter.message(start + interval / 2));
            assert!(rate_limiter.message(start + interval), "{rate}: a refused message takes no tokens");
            assert_eq!(rate_limiter.may_read(start), Some(usize::MAX), "bytes are not limited");
        }
    }

    #[test]
    fn limit_close_reads_one_byte_more_to_detect_excess() {
        let start = Instant::now();
        let mut rate_limiter = rate_limiter(RateLimitPolicy::Close, None, Some(100), start);
        assert_eq!(rate_limiter.may_read(start), Some(101));
        assert!(rate_limiter.received(100, start) && !rate_limiter.is_exceeded());
        assert_eq!(rate_limiter.may_read(start), Some(1));
        assert!(rate_limiter.received(0, start));
        assert!(!rate_limiter.received(1, start) && rate_limiter.is_exceeded());
    }

    #[test]
    fn limit_pause_waits_for_all_buckets_but_held_only_for_messages() {
        let start = Instant::now();
        let mut rate_limiter = rate_limiter(RateLimitPolicy::Pause, Some(10), Some(1_600), start);
        assert_eq!(rate_limiter.may_read(start), Some(1_600));
        assert!(rate_limiter.received(1_600, start));
        assert_eq!(rate_limiter.may_read(start), None);
        rate_limiter.pause(start);
        assert_eq!(rate_limiter.resume_at(), Some(start + BURST / 16));
        rate_limiter.held = true;
        assert_eq!(rate_limiter.may_read(start), Some(0), "its bytes are counted already");
        (0..10).for_each(|_| assert!(!rate_limiter.is_out_of_messages(start) && rate_limiter.message(start)));
        assert!(rate_limiter.is_out_of_messages(start));
        rate_limiter.held = false;
        rate_limiter.pause(start);
        assert_eq!(rate_limiter.resume_at(), Some(start + BURST / 10));
        assert!(!rate_limiter.resume(start + BURST / 11) && rate_limiter.resume(start + BURST / 10));
        assert_eq!(rate_limiter.resume_at(), None);
    }

    #[test]
    fn saved_tokens_are_kept_while_a_message_is_held() {
        let start = Instant::now();
        let mut rate_limiter = rate_limiter(RateLimitPolicy::Close, Some(10), None, start);
        let now = start + Duration::from_secs(5);
        rate_limiter.held = true;
        rate_limiter.caught_up(now);
        assert!((0..60).all(|_| rate_limiter.message(now)) && !rate_limiter.message(now));
        rate_limiter.held = false;
        let now = start + Duration::from_secs(50);
        rate_limiter.caught_up(now - Duration::from_secs(2));
        assert!((0..30).all(|_| rate_limiter.message(now)) && !rate_limiter.message(now));
    }
}
