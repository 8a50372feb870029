//! Tests of the single rules, then of all of them against a sorted set.

use std::collections::BTreeSet;

use super::*;
use crate::util::test_rng::Rng;

impl Rng {
    fn nanos(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number of up to `bits` bits, every length equally likely.
    fn spread(&mut self, bits: usize) -> u64 {
        self.next() >> (63 - self.below(bits))
    }
}

const MS: u64 = 1_000_000;

/// The wheel and its model, a sorted set of (tick, serial number). Times are nanoseconds after the
/// origin.
struct Pair {
    wheel: Wheel<usize>,
    set: BTreeSet<(u64, usize)>,
    keys: Vec<(Key, u64)>,
    reached: u64,
}

impl Pair {
    fn new() -> Self {
        Pair { wheel: Wheel::new(Instant::now()), set: BTreeSet::new(), keys: Vec::new(), reached: 0 }
    }

    fn at(&self, nanos: u64) -> Instant {
        self.wheel.origin + Duration::from_nanos(nanos)
    }

    fn insert(&mut self, deadline: u64) {
        let (tick, serial) = (deadline.div_ceil(MS).max(self.reached), self.keys.len());
        self.keys.push((self.wheel.insert(self.at(deadline), serial), tick));
        self.set.insert((tick, serial));
    }

    fn cancel(&mut self, serial: usize) {
        let (key, tick) = self.keys[serial];
        assert_eq!(self.wheel.cancel(key), self.set.remove(&(tick, serial)).then_some(serial));
    }

    fn pop(&mut self, now: u64) -> bool {
        let due = self.set.first().copied().filter(|first| first.0 <= now / MS);
        assert_eq!(self.wheel.pop_expired(self.at(now)), due.map(|(_, serial)| serial));
        due.inspect(|first| _ = self.set.remove(first));
        self.reached = self.reached.max(due.map_or(now / MS, |(tick, _)| tick));
        due.is_some()
    }

    fn next(&self) -> Option<u64> {
        self.set.first().map(|(tick, _)| tick * MS)
    }

    fn check_fires_by(&self, serial: usize, deadline: u64) {
        let (key, tick) = self.keys[serial];
        let fires = self.set.contains(&(tick, serial)) && tick <= deadline.div_ceil(MS).max(self.reached);
        assert_eq!(self.wheel.fires_by(key, self.at(deadline)), fires);
    }

    fn check_next(&mut self) {
        assert_eq!(self.wheel.next_deadline(), self.next().map(|nanos| self.at(nanos)));
    }
}

#[test]
fn behaves_like_a_sorted_set() {
    for seed in 1..=60 {
        play(&mut Rng::new(seed), seed as u8);
    }
}

/// The fuzz target that runs the same steps.
pub(crate) fn target(data: &[u8]) {
    let Some((kind, steps)) = data.split_first() else { return };
    play(&mut Rng::from_bytes(steps), *kind);
}

/// Runs up to 3,000 steps on the wheel and the set.
fn play(rng: &mut Rng, kind: u8) {
    let mut pair = Pair::new();
    // Deadlines from microseconds to 9 years: beyond the horizon for every second kind.
    let (mut now, reach) = (0_u64, if kind.is_multiple_of(2) { 58 } else { 40 });
    for _ in 0..3_000 {
        if rng.is_spent() {
            break;
        }
        match rng.below(16) {
            0..6 => pair.insert(now + rng.spread(reach)),
            6 => pair.insert(now.saturating_sub(rng.spread(40))),
            // Any key ever returned, so most often a stale one.
            7 if !pair.keys.is_empty() => pair.cancel(rng.below(pair.keys.len())),
            // The earliest timer: its slot has to find its minimum again.
            8 => _ = pair.set.first().copied().map(|(_, serial)| pair.cancel(serial)),
            9 => now += rng.spread(30),
            // Capped at 146 years, because a fuzzer may repeat this step only.
            10 if rng.one_in(20) => now = (now + rng.spread(57)).min(1 << 62),
            11 => now = pair.next().unwrap_or(0).max(now + 1) - rng.nanos(2),
            12 => _ = pair.pop(now.saturating_sub(rng.spread(40))),
            13 if !pair.keys.is_empty() => {
                pair.check_fires_by(rng.below(pair.keys.len()), now + rng.spread(reach));
            }
            _ => _ = (0..rng.below(8)).all(|_| pair.pop(now)),
        }
        assert_eq!(pair.wheel.len(), pair.set.len());
        // For half of the kinds not after every step, because `next_deadline` itself relinks slots.
        if kind % 4 < 2 || rng.one_in(8) {
            pair.check_next();
        }
    }
    while let Some(next) = pair.next() {
        now = now.max(next);
        assert!(pair.pop(now));
    }
    assert_eq!((pair.wheel.len(), pair.wheel.occupied), (0, [0; LEVELS + 1]));
}

#[test]
fn a_stale_key_matches_no_later_timer() {
    let origin = Instant::now();
    let mut wheel = Wheel::new(origin);
    let fired = wheel.insert(origin, 'a');
    assert_eq!(wheel.pop_expired(origin), Some('a'));
    let cancelled = wheel.insert(origin, 'b');
    assert_eq!(fired.index, cancelled.index);
    assert_eq!((wheel.cancel(fired), wheel.cancel(cancelled)), (None, Some('b')));
    let live = wheel.insert(origin, 'c');
    assert_eq!((wheel.cancel(fired), wheel.cancel(cancelled)), (None, None));
    assert_eq!(wheel.cancel(live), Some('c'));
    assert_eq!((size_of::<Key>(), size_of::<Option<Key>>()), (8, 8));
}

#[test]
fn extreme_instants_saturate() {
    let origin = Instant::now() + Duration::from_secs(3600);
    let before = origin - Duration::from_secs(1800);
    // The latest instant that this platform can express.
    let end = (0..64).rev().fold(origin, |t, bit| t.checked_add(Duration::from_secs(1 << bit)).unwrap_or(t));
    let mut wheel = Wheel::new(origin);
    wheel.insert(end, 'z');
    wheel.insert(before, 'a');
    assert_eq!(wheel.next_deadline(), Some(origin));
    assert_eq!(wheel.pop_expired(before), None);
    assert_eq!(wheel.pop_expired(origin), Some('a'));
    assert_eq!(wheel.pop_expired(origin + Duration::from_secs(1 << 40)), None);
    assert!(wheel.next_deadline().is_none_or(|last| last > origin + Duration::from_secs(1 << 40)));
    assert_eq!(wheel.pop_expired(end), Some('z'));
    let late = wheel.insert(origin, 'y');
    assert_eq!(wheel.pop_expired(before), None);
    assert_eq!(wheel.cancel(late), Some('y'));
}

#[test]
fn idle_timers_are_not_touched() {
    let (mut rng, mut pair) = (Rng::new(7), Pair::new());
    const HOUR: u64 = 3_600_000 * MS;
    (0..100_000).for_each(|_| pair.insert(HOUR + rng.nanos(9 * HOUR)));
    for minute in 0..60 {
        assert!(!pair.pop(minute * HOUR / 60));
        pair.check_next();
    }
    assert!(!pair.pop(pair.next().unwrap() - 1));
    assert_eq!(pair.wheel.relinked, 0);
}

#[test]
fn a_timer_moves_once_per_level_at_most() {
    let (mut rng, mut pair) = (Rng::new(7), Pair::new());
    let (mut now, count) = (0, 20_000);
    for _ in 0..count {
        pair.insert(now + rng.nanos(1 << 36));
        now += rng.nanos(16 * MS);
        while pair.pop(now) {}
        pair.check_next();
    }
    assert!(pair.wheel.relinked <= (LEVELS - 1) as u64 * count);
    assert!(pair.wheel.entries.capacity() <= 8192, "some 4,300 are armed at a time");
}
