//! How much one client may send: messages and bytes per second, each as a token bucket.
//!
//! A bucket is one moment (GCRA's "theoretical arrival time"): everything received, at one second per
//! `rate` units, is paid for until then. The client may be ahead of the clock by [`BURST`], no more.

use std::time::{Duration, Instant};

use crate::{
    config::{Config, Limit},
    deadlines::after,
};

/// What may come at once: one second's worth.
const BURST: Duration = Duration::from_secs(1);

/// A client that was paused reads on when a 16th of a second's worth is there, or one unit if that is
/// more: so many times a second the host wakes up for it at most.
const QUANTA: u64 = 16;

const NANOS: u64 = 1_000_000_000;

/// The books of one client under `max_messages_per_second`, `max_bytes_per_second`, or both.
#[derive(Debug)]
pub(crate) struct Limiter {
    policy: Limit,
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    /// Nothing is read before; `None` while the client is not paused.
    resume_at: Option<Instant>,
    /// The carry begins with a message that there was no room for: it comes before anything is read.
    pub(crate) held: bool,
    /// The last byte received is one too many ([`Limit::Close`]).
    exceeded: bool,
}

impl Limiter {
    /// `None` if nothing is limited.
    pub(crate) fn new(config: &Config, now: Instant) -> Option<Box<Limiter>> {
        let messages = config.max_messages_per_second.map(|rate| Bucket::new(rate.into(), now));
        let bytes = config.max_bytes_per_second.map(|rate| Bucket::new(rate as u64, now));
        (messages.is_some() || bytes.is_some()).then(|| {
            let policy = config.rate_limit;
            Box::new(Limiter { policy, messages, bytes, resume_at: None, held: false, exceeded: false })
        })
    }

    pub(crate) fn policy(&self) -> Limit {
        self.policy
    }

    /// Whatever was sent before `since` has been read, unless something is held: what was not used by
    /// then is lost, but for a burst. As long as it is behind, a client keeps what it has saved: it may
    /// have sent it at a steady rate while nobody read.
    pub(crate) fn caught_up(&mut self, since: Instant) {
        if !self.held {
            self.buckets().for_each(|bucket| bucket.floor(since));
        }
    }

    /// How many bytes the next read may bring; zero: what is held comes first. `None`: nothing may come
    /// before [`pause`](Limiter::pause) is over. Under [`Limit::Close`] it is one more than are there,
    /// which proves the excess.
    pub(crate) fn may_read(&self, now: Instant) -> Option<usize> {
        if self.lacking(now).next().is_some() {
            return None;
        }
        if self.held {
            return Some(0);
        }
        let tokens = self.bytes.as_ref().map_or(u64::MAX, |bytes| bytes.tokens(now));
        let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
        Some(tokens.saturating_add(usize::from(self.policy == Limit::Close)))
    }

    /// Counts bytes that were read. `false`: the last of them is one too many.
    pub(crate) fn received(&mut self, count: usize, now: Instant) -> bool {
        if let Some(bytes) = &mut self.bytes
            && count > 0
        {
            self.exceeded |= self.policy == Limit::Close && !bytes.holds(count as u64, now);
            bytes.take(count as u64);
        }
        !self.exceeded
    }

    /// Whether the last byte received is one too many.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.exceeded
    }

    /// Counts a message. `false`: it is one too many.
    pub(crate) fn message(&mut self, now: Instant) -> bool {
        let Some(messages) = &mut self.messages else { return true };
        let fits = messages.holds(1, now) || self.policy != Limit::Close;
        messages.take(u64::from(fits));
        fits
    }

    /// Whether the next message has to wait.
    pub(crate) fn is_out_of_messages(&self, now: Instant) -> bool {
        self.policy == Limit::Pause && self.messages.as_ref().is_some_and(|messages| !messages.holds(1, now))
    }

    /// Pauses the client until there is something to spend again.
    pub(crate) fn pause(&mut self, now: Instant) {
        self.resume_at = self.lacking(now).map(|bucket| bucket.refilled_at(now)).max();
    }

    /// While paused: until when.
    pub(crate) fn resume_at(&self) -> Option<Instant> {
        self.resume_at
    }

    /// Ends the pause if its time is over.
    pub(crate) fn resume(&mut self, now: Instant) -> bool {
        self.resume_at.take_if(|at| *at <= now).is_some()
    }

    /// Buckets that have to fill before the client is served. What is held has its bytes paid for.
    fn lacking(&self, now: Instant) -> impl Iterator<Item = &Bucket> {
        let bytes = self.bytes.iter().filter(|_| !self.held);
        let pausing = self.policy == Limit::Pause;
        self.messages.iter().chain(bytes).filter(move |bucket| pausing && !bucket.holds(1, now))
    }

    fn buckets(&mut self) -> impl Iterator<Item = &mut Bucket> {
        self.messages.iter_mut().chain(&mut self.bytes)
    }
}

/// One token bucket, exact to the token: what a nanosecond cannot hold is kept as a fraction of it.
#[derive(Debug)]
struct Bucket {
    /// Tokens per second; not zero.
    rate: u64,
    /// What was taken is paid for at `paid_at`, plus `fraction` / `rate` nanoseconds.
    paid_at: Instant,
    fraction: u64,
}

impl Bucket {
    /// Full.
    fn new(rate: u64, now: Instant) -> Self {
        Bucket { rate: rate.max(1), paid_at: now, fraction: 0 }
    }

    /// What was saved up before `at` is lost.
    fn floor(&mut self, at: Instant) {
        if self.paid_at < at {
            (self.paid_at, self.fraction) = (at, 0);
        }
    }

    /// Billionths of a token.
    fn level(&self, now: Instant) -> u128 {
        let ahead = after(now, BURST).saturating_duration_since(self.paid_at);
        ahead.as_nanos().saturating_mul(self.rate.into()).saturating_sub(self.fraction.into())
    }

    fn tokens(&self, now: Instant) -> u64 {
        u64::try_from(self.level(now) / u128::from(NANOS)).unwrap_or(u64::MAX)
    }

    /// Whether `count` tokens are there; spares the division.
    fn holds(&self, count: u64, now: Instant) -> bool {
        self.level(now) >= u128::from(count) * u128::from(NANOS)
    }

    /// Takes tokens, there or not.
    fn take(&mut self, count: u64) {
        let cost = count.saturating_mul(NANOS).saturating_add(self.fraction);
        self.paid_at = after(self.paid_at, Duration::from_nanos(cost / self.rate));
        self.fraction = cost % self.rate;
    }

    /// When a quantum is there, if it is not yet: later than `now`.
    fn refilled_at(&self, now: Instant) -> Instant {
        let quantum = u128::from((self.rate / QUANTA).max(1)) * u128::from(NANOS);
        let wait = quantum.saturating_sub(self.level(now)).div_ceil(self.rate.into());
        after(now, Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rng::Rng;

    /// The same in billionths of a token, with nothing rounded.
    struct Model {
        rate: u128,
        level: u128,
        at: Instant,
        /// Until when nothing was lost by being full.
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
            // Every magnitude, up to what a file system would be proud of.
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

    fn limiter(rate_limit: Limit, messages: Option<u32>, bytes: Option<usize>, now: Instant) -> Limiter {
        let config = Config {
            rate_limit,
            max_messages_per_second: messages,
            max_bytes_per_second: bytes,
            ..Config::default()
        };
        *Limiter::new(&config, now).expect("something is limited")
    }

    #[test]
    fn without_limits_there_is_no_limiter() {
        assert!(Limiter::new(&Config::default(), Instant::now()).is_none());
    }

    #[test]
    fn a_burst_is_free_and_the_next_is_one_too_many() {
        let start = Instant::now();
        for rate in [1, 3, 7, 1_000, 999_999] {
            let mut limiter = limiter(Limit::Close, Some(rate), None, start);
            assert!((0..rate).all(|_| limiter.message(start)), "{rate}");
            assert!(!limiter.message(start), "{rate}");
            let interval = Duration::from_nanos(NANOS.div_ceil(rate.into()));
            assert!(!limiter.message(start + interval / 2));
            assert!(limiter.message(start + interval), "{rate}: who was refused is not punished");
            assert_eq!(limiter.may_read(start), Some(usize::MAX), "bytes are not limited");
        }
    }

    #[test]
    fn under_close_one_byte_more_may_be_read_and_proves_the_excess() {
        let start = Instant::now();
        let mut limiter = limiter(Limit::Close, None, Some(100), start);
        assert_eq!(limiter.may_read(start), Some(101));
        assert!(limiter.received(100, start) && !limiter.is_exceeded());
        assert_eq!(limiter.may_read(start), Some(1));
        assert!(limiter.received(0, start));
        assert!(!limiter.received(1, start) && limiter.is_exceeded());
    }

    #[test]
    fn under_pause_the_longest_wait_counts_and_what_is_held_waits_for_messages_only() {
        let start = Instant::now();
        let mut limiter = limiter(Limit::Pause, Some(10), Some(1_600), start);
        assert_eq!(limiter.may_read(start), Some(1_600));
        assert!(limiter.received(1_600, start));
        assert_eq!(limiter.may_read(start), None);
        limiter.pause(start);
        assert_eq!(limiter.resume_at(), Some(start + BURST / 16));
        limiter.held = true;
        assert_eq!(limiter.may_read(start), Some(0), "its bytes are paid for");
        (0..10).for_each(|_| assert!(!limiter.is_out_of_messages(start) && limiter.message(start)));
        assert!(limiter.is_out_of_messages(start));
        limiter.held = false;
        limiter.pause(start);
        assert_eq!(limiter.resume_at(), Some(start + BURST / 10));
        assert!(!limiter.resume(start + BURST / 11) && limiter.resume(start + BURST / 10));
        assert_eq!(limiter.resume_at(), None);
    }

    #[test]
    fn savings_are_kept_as_long_as_something_is_held() {
        let start = Instant::now();
        let mut limiter = limiter(Limit::Close, Some(10), None, start);
        let now = start + Duration::from_secs(5);
        limiter.held = true;
        limiter.caught_up(now);
        assert!((0..60).all(|_| limiter.message(now)) && !limiter.message(now));
        limiter.held = false;
        let now = start + Duration::from_secs(50);
        limiter.caught_up(now - Duration::from_secs(2));
        assert!((0..30).all(|_| limiter.message(now)) && !limiter.message(now));
    }
}
