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
