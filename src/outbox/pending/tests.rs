//! Pending messages against a naive model: a list of messages for each lane.

use std::time::Duration;

use super::*;
use crate::{message::Message, util::test_rng::Rng};

const MS: Duration = Duration::from_millis(1);
const LANES: [Priority; 2] = [Priority::High, Priority::Normal];

/// A pending message in the model.
#[derive(Debug, Clone, PartialEq)]
struct Waiting {
    kind: Kind,
    payload: Vec<u8>,
    shared: bool,
    expires: Option<Instant>,
    key: Option<LatestKey>,
}

impl Waiting {
    fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// The lanes: high, then normal.
#[derive(Debug, Default)]
struct Model([Vec<Waiting>; 2]);

impl Model {
    fn lane(&mut self, priority: Priority) -> &mut Vec<Waiting> {
        &mut self.0[usize::from(priority == Priority::Normal)]
    }

    fn push(&mut self, message: Waiting, priority: Priority) -> Pushed {
        let place = |lane: &Vec<Waiting>| {
            lane.iter().position(|other| message.key.is_some() && other.key == message.key)
        };
        if let Some(place) = place(self.lane(priority)) {
            self.lane(priority)[place] = message;
            return Pushed::Replaced;
        }
        let before = self.all().count();
        for lane in &mut self.0 {
            if let Some(place) = place(lane) {
                lane.remove(place);
            }
        }
        let replaced = self.all().count() < before;
        self.lane(priority).push(message);
        if replaced { Pushed::Replaced } else { Pushed::Added }
    }

    fn next(&mut self, priority: Priority, now: Instant, expired: &mut u64) -> Option<Waiting> {
        let lane = self.lane(priority);
        while !lane.is_empty() {
            let first = lane.remove(0);
            if !first.has_expired(now) {
                return Some(first);
            }
            *expired += 1;
        }
        None
    }

    fn expire(&mut self, now: Instant) -> u64 {
        let before = self.all().count();
        self.0.iter_mut().for_each(|lane| lane.retain(|message| !message.has_expired(now)));
        (before - self.all().count()) as u64
    }

    fn all(&self) -> impl Iterator<Item = &Waiting> {
        self.0.iter().flatten()
    }
}

/// One client's pending messages and their model.
#[derive(Debug, Default)]
struct Pair {
    real: Option<Box<Pending>>,
    model: Model,
}

impl Pair {
    fn push(&mut self, pool: &mut PendingPool, message: &Outgoing<'_>, terms: Terms) {
        let waiting = Waiting {
            kind: message.kind(),
            payload: message.payload().to_vec(),
            shared: matches!(message, Outgoing::Prepared(prepared)
                if prepared.frame().len() >= Prepared::SHARE_FROM),
            expires: terms.expires,
            key: terms.latest.clone(),
        };
        let priority = terms.priority;
        assert_eq!(
            pool.push(&mut self.real, message, terms, message.is_shared()),
            self.model.push(waiting, priority)
        );
        self.is_short();
    }

    fn next(&mut self, priority: Priority, now: Instant) {
        let Some(real) = &mut self.real else { return };
        let (mut expired, mut counted) = (0, 0);
        let expected = self.model.next(priority, now, &mut expired);
        let item = real.next(priority, now, &mut counted);
        let got = item.as_ref().map(|item| (item.kind, real.payload(item), item.shared().is_some()));
        assert_eq!(got, expected.as_ref().map(|m| (m.kind, &m.payload[..], m.shared)));
        assert_eq!(counted, expired);
    }

    fn expire(&mut self, now: Instant) {
        let Some(real) = &mut self.real else { return };
        assert_eq!(real.expire(now), self.model.expire(now));
        // No remaining message expires before `next_expiry`.
        let next = self.model.all().filter_map(|message| message.expires).min();
        assert!(next.is_none_or(|next| real.next_expiry.is_some_and(|early| early <= next)));
    }

    fn retain_or_give(&mut self, pool: &mut PendingPool) {
        if let Some(real) = self.real.take() {
            self.real = pool.retain_or_give(real);
            assert_eq!(self.real.is_none(), self.model.all().next().is_none());
        }
        self.is_short();
        if let Some(real) = &self.real {
            // Memory is proportional to the pending messages.
            assert!(
                real.memory() <= 8 * real.cost() + Pending::SLACK,
                "{} for {}",
                real.memory(),
                real.cost()
            );
        }
    }

    /// Checks that a lane has few replaced or expired items.
    fn is_short(&self) {
        let Some(real) = &self.real else { return };
        for lane in [&real.normal, &real.high] {
            assert!(lane.items.len() <= 2 * lane.live + 16, "too many replaced or expired items");
        }
    }

    fn check(&mut self) {
        let all = || self.model.all();
        let Some(real) = &mut self.real else { return assert_eq!(all().count(), 0) };
        let payloads: usize = all().map(|message| message.payload.len()).sum();
        assert_eq!(
            (real.len(), real.count(), real.is_empty()),
            (payloads, all().count(), all().count() == 0)
        );
        let names: usize = all().filter_map(|message| message.key.as_ref()).map(LatestKey::heap).sum();
        assert_eq!((real.names, real.cost()), (names, payloads + names + all().count() * Pending::OVERHEAD));
        let used: usize = all().filter(|message| !message.shared).map(|message| message.payload.len()).sum();
        assert_eq!(real.used, used);
        for (lane, priority) in self.model.0.iter().zip(LANES) {
            assert_eq!((real.waits(priority), real.lane(priority).live), (!lane.is_empty(), lane.len()));
            let items = &real.lane(priority).items;
            assert_eq!(items.iter().filter(|item| item.is_live()).count(), lane.len());
        }
        assert_eq!(real.places.len(), all().filter(|message| message.key.is_some()).count());
        for message in all() {
            let Some(key) = &message.key else { continue };
            assert_eq!(real.cost_of(key), message.payload.len() + key.heap() + Pending::OVERHEAD);
            let (priority, number) = real.places[key];
            assert_eq!(real.lane_mut(priority).at(number).unwrap().latest.as_ref(), Some(key));
        }
        assert_eq!(real.cost_of(&"unused key".into()), 0);
    }
}

fn random_terms(rng: &mut Rng, keys: usize, now: Instant) -> Terms {
    let latest = match rng.below(10) {
        0..5 => Some(LatestKey::from(rng.below(keys))),
        5 | 6 => Some(LatestKey::from(format!("entity {}", rng.below(keys)))),
        _ => None,
    };
    let expires = rng.one_in(4).then(|| now + MS * rng.below(60) as u32);
    let priority = if rng.one_in(4) { Priority::High } else { Priority::Normal };
    Terms { priority, expires, latest, uncompressed: rng.one_in(2) }
}

fn random_payload(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(12) {
        0 => 0,
        1 => Prepared::SHARE_FROM - 8 + rng.below(16),
        2 => rng.below(4_000),
        _ => rng.below(100),
    };
    rng.bytes(len)
}

#[test]
fn random_pushes_match_the_model() {
    for seed in 0..600 {
        let mut rng = Rng::new(seed);
        let mut now = Instant::now();
        let mut pool = PendingPool::default();
        let mut pairs = [Pair::default(), Pair::default()];
        let keys = rng.pick(&[1, 3, 40]);
        // Some seeds fill the lanes, some drain them. Settling rarely accumulates replaced items.
        let (drain, retain_or_give) = (rng.pick(&[2, 6, 12]), rng.pick(&[2, 10]));
        for _ in 0..400 {
            let pair = &mut pairs[rng.below(2)];
            match rng.below(10 + drain) {
                0..9 => {
                    let payload = random_payload(&mut rng);
                    let terms = random_terms(&mut rng, keys, now);
                    let text = "ü".repeat(payload.len() / 2);
                    let message =
                        if rng.one_in(3) { Message::Text(&text) } else { Message::Binary(&payload) };
                    let mut message = Outgoing::Message(message);
                    if rng.one_in(3) {
                        message = Outgoing::Prepared(message.prepare());
                    }
                    pair.push(&mut pool, &message, terms);
                }
                9 => {
                    now += MS * rng.below(20) as u32;
                    if rng.one_in(2) {
                        pair.expire(now);
                    }
                }
                _ => pair.next(rng.pick(&LANES), now),
            }
            pair.check();
            if rng.one_in(retain_or_give) {
                pair.retain_or_give(&mut pool);
                pair.check();
                assert_eq!(
                    pair.real.as_ref().map_or(0, |real| real.counted),
                    pair.real.as_ref().map_or(0, |real| real.memory())
                );
            }
            if rng.one_in(200) {
                let pair = &mut pairs[rng.below(2)];
                if let Some(real) = pair.real.take() {
                    pool.give(real);
                }
                pair.model = Model::default();
            }
            let counted: usize =
                pairs.iter().filter_map(|pair| pair.real.as_ref()).map(|real| real.counted).sum();
            assert_eq!(pool.held(), counted);
            assert_eq!(pool.kept, pool.spare.iter().map(|spare| spare.memory()).sum::<usize>());
            assert!(pool.spare.iter().all(|spare| spare.is_empty() && spare.counted == 0));
        }
        now += 100 * MS;
        for pair in &mut pairs {
            while pair.real.is_some() {
                pair.next(rng.pick(&LANES), now);
                pair.check();
                pair.retain_or_give(&mut pool);
            }
        }
        assert_eq!(pool.held(), 0);
    }
}

/// Makes a binary message.
fn binary(payload: &[u8]) -> Outgoing<'_> {
    Outgoing::Message(Message::Binary(payload))
}

fn latest(key: impl Into<LatestKey>) -> Terms {
    Terms { latest: Some(key.into()), ..Terms::default() }
}

#[test]
fn empty_payloads_move_when_gaps_are_closed() {
    let now = Instant::now();
    let mut pool = PendingPool::default();
    let mut pair = Pair::default();
    // The empty payload is behind bytes that are removed.
    pair.push(&mut pool, &binary(&[1; 10_000]), latest(1));
    pair.push(&mut pool, &binary(&[]), Terms::default());
    pair.next(Priority::Normal, now);
    pair.push(&mut pool, &binary(&[2; 3]), Terms::default());
    pair.next(Priority::Normal, now);
    pair.next(Priority::Normal, now);
    pair.retain_or_give(&mut pool);
    assert_eq!(pool.held(), 0);
}

#[test]
fn replacing_values_of_varying_size_keeps_memory_bounded() {
    let mut rng = Rng::new(1);
    let mut pool = PendingPool::default();
    let mut pair = Pair::default();
    for round in 0..20_000 {
        let len = rng.below(200);
        pair.push(&mut pool, &binary(&vec![round as u8; len]), latest(round % 50));
    }
    let held = pair.real.as_ref().unwrap().memory();
    assert!(held < 64 * 1024, "{held} bytes for 50 values");
    pair.check();
    (0..50).for_each(|_| pair.next(Priority::Normal, Instant::now()));
    pair.retain_or_give(&mut pool);
}

#[test]
fn a_key_that_alternates_between_lanes_accumulates_no_items() {
    let mut pool = PendingPool::default();
    let mut pair = Pair::default();
    for round in 0..10_000_u32 {
        let priority = if round % 2 == 0 { Priority::High } else { Priority::Normal };
        let name = format!("a rather long name of an entity {}", round % 7);
        pair.push(&mut pool, &binary(&[7; 30]), Terms { priority, ..latest(name) });
        // Keeps replaced items away from the front.
        pair.push(&mut pool, &binary(&[8; 30]), Terms { priority, ..latest(7) });
    }
    let real = pair.real.as_ref().unwrap();
    assert_eq!(real.count(), 8);
    assert!(real.normal.items.len() + real.high.items.len() <= 2 * 8 + 2 * 17);
    pair.check();
}

#[test]
fn replaced_items_are_swept_when_the_lane_drains() {
    let now = Instant::now();
    let mut pool = PendingPool::default();
    let mut pair = Pair::default();
    (0..40).for_each(|_| pair.push(&mut pool, &binary(&[7]), Terms::default()));
    for priority in [Priority::Normal, Priority::High] {
        (0..40).for_each(|key| pair.push(&mut pool, &binary(&[8]), Terms { priority, ..latest(key) }));
    }
    pair.push(&mut pool, &binary(&[9]), latest(100));
    assert_eq!(pair.real.as_ref().unwrap().normal.items.len(), 81, "not yet swept");
    (0..40).for_each(|_| pair.next(Priority::Normal, now));
    pair.retain_or_give(&mut pool);
    assert_eq!(pair.real.as_ref().unwrap().normal.items.len(), 1);
    // The key still finds the message.
    pair.push(&mut pool, &binary(&[10]), latest(100));
    pair.check();
}

#[test]
fn memory_is_freed_while_the_lane_drains() {
    let now = Instant::now();
    let mut pool = PendingPool::default();
    let mut pair = Pair::default();
    for number in 0..5_000 {
        pair.push(
            &mut pool,
            &binary(&[7; 200]),
            if number % 2 == 0 { latest(number) } else { Terms::default() },
        );
    }
    let most = pool.held();
    for _ in 0..4_990 {
        pair.next(Priority::Normal, now);
        pair.retain_or_give(&mut pool);
    }
    assert!(pool.held() < 40_000 && most > 1_000_000, "{} of {most}", pool.held());
    pair.check();
    for _ in 0..10 {
        pair.next(Priority::Normal, now);
        pair.retain_or_give(&mut pool);
    }
    assert_eq!((pool.held(), pair.real.is_none()), (0, true));
    assert!(pool.kept > 0 && pool.kept <= PendingPool::MAX_EACH, "{} bytes are kept", pool.kept);
}

#[test]
fn spare_memory_is_bounded() {
    let mut pool = PendingPool::default();
    let mut used: Vec<Pair> = Vec::new();
    for _ in 0..200 {
        let mut pair = Pair::default();
        (0..100).for_each(|_| pair.push(&mut pool, &binary(&[7; 1_000]), Terms::default()));
        used.push(pair);
    }
    used.drain(..).for_each(|pair| pool.give(pair.real.unwrap()));
    assert_eq!(pool.held(), 0);
    assert!(pool.kept <= PendingPool::MAX_KEPT && pool.spare.len() > 10, "{} bytes", pool.kept);
    // A spare that is too large is not kept.
    let (mut pool, mut pair) = (PendingPool::default(), Pair::default());
    pair.push(&mut pool, &binary(&vec![7; PendingPool::MAX_EACH]), latest(1));
    pool.give(pair.real.unwrap());
    assert_eq!((pool.held(), pool.kept, pool.spare.len()), (0, 0, 0));
}

#[test]
fn expire_drops_messages_at_their_instant() {
    let start = Instant::now();
    let mut pool = PendingPool::default();
    let mut pair = Pair::default();
    let terms = |ms: u32| Terms { expires: Some(start + ms * MS), ..Terms::default() };
    pair.push(&mut pool, &binary(&[1]), terms(50));
    pair.push(&mut pool, &binary(&[2]), terms(20));
    pair.push(&mut pool, &binary(&[3]), Terms::default());
    assert_eq!(pair.real.as_ref().unwrap().next_expiry, Some(start + 20 * MS));
    pair.expire(start + 19 * MS);
    assert_eq!(pair.real.as_ref().unwrap().count(), 3);
    pair.expire(start + 20 * MS);
    let real = pair.real.as_ref().unwrap();
    assert_eq!((real.count(), real.next_expiry), (2, Some(start + 50 * MS)));
    pair.expire(start + 50 * MS);
    assert_eq!(pair.real.as_ref().unwrap().next_expiry, None);
    pair.check();
}
