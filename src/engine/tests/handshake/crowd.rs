//! A thousand deferred upgrades, decided in random order, while some clients leave.

use std::collections::HashMap;

use super::*;
use crate::util::test_rng::Rng;

/// The outcome of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Accepted(ClientId),
    Opened(ClientId),
    Rejected,
    Gone,
}

#[test]
fn a_thousand_pending_upgrades_have_one_outcome_each() {
    const COUNT: usize = 1_000;
    for seed in 0..4 {
        let mut rng = Rng::new(seed);
        let event_budget = rng.pick(&[50, 16 * 1024]);
        let config = Config { keep_requests: true, event_budget, ..Config::default() };
        let hooks = Hooks { on_upgrade: Some(Box::new(|_, _| Decision::Defer)), ..Hooks::default() };
        let mut host = Host::with_hooks(config, hooks, Some(Rng::new(rng.next())));
        let mut webs: Vec<_> = (0..COUNT).map(|_| Web::new(&mut host)).collect();
        for (number, web) in webs.iter_mut().enumerate() {
            web.send_request(head(&format!("/{number}"), ""));
        }
        // The undecided upgrades in any order, the path of each upgrade, and the outcomes.
        let mut waiting: Vec<UpgradeId> = Vec::new();
        let mut numbers: HashMap<UpgradeId, usize> = HashMap::new();
        let mut outcomes: HashMap<UpgradeId, Outcome> = HashMap::new();
        let mut statuses = vec![0; COUNT];
        let mut most = 0;
        let mut poll = |host: &mut Host, waiting: &mut Vec<UpgradeId>, outcomes: &mut HashMap<_, _>| {
            let tick = host.poll();
            host.check();
            for event in &tick {
                match event {
                    Event::Upgrade { upgrade, request } => {
                        let number = request.uri().path()[1..].parse().unwrap();
                        assert_eq!(numbers.insert(upgrade, number), None, "asked twice");
                        waiting.push(upgrade);
                    }
                    Event::UpgradeGone { upgrade } => {
                        assert_eq!(outcomes.insert(upgrade, Outcome::Gone), None, "two outcomes");
                        waiting.retain(|id| *id != upgrade);
                    }
                    Event::Open { client, request } => {
                        let accepted = |outcome: &&mut Outcome| **outcome == Outcome::Accepted(client);
                        let outcome = outcomes.values_mut().find(accepted).expect("an accepted one");
                        *outcome = Outcome::Opened(client);
                        assert!(request.uri().path().len() > 1);
                    }
                    Event::Message { .. } | Event::Close { .. } | Event::Drained { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            numbers.len()
        };
        while poll(&mut host, &mut waiting, &mut outcomes) < COUNT {
            most = most.max(waiting.len());
        }
        assert!(most.max(waiting.len()) > COUNT * 9 / 10);
        host.advance(SEC);
        let gone_by_themselves = |rng: &mut Rng, webs: &mut Vec<Web>| {
            let web = &mut webs[rng.below(COUNT)];
            match rng.below(3) {
                0 => web.peer.fin(),
                1 => web.peer.reset(rng.one_in(2)),
                _ => web.peer.text("too early"),
            }
        };
        // A tenth of the upgrades is never decided.
        while waiting.len() > COUNT / 10 {
            for _ in 0..1 + rng.below(8) {
                let id = waiting.swap_remove(rng.below(waiting.len()));
                let outcome = if rng.one_in(4) {
                    host.engine.reject_upgrade(id, &status(401, "no"), host.now).unwrap();
                    Outcome::Rejected
                } else {
                    Outcome::Accepted(host.engine.accept_upgrade(id, HeaderMap::new(), host.now).unwrap())
                };
                assert_eq!(outcomes.insert(id, outcome), None, "two outcomes");
                let again = host.engine.accept_upgrade(id, HeaderMap::new(), host.now);
                assert_eq!(again, Err(UpgradeError::Gone(id)));
            }
            if rng.one_in(3) {
                gone_by_themselves(&mut rng, &mut webs);
            }
            poll(&mut host, &mut waiting, &mut outcomes);
            host.advance(MS);
        }
        let left = waiting.clone();
        host.advance(20 * SEC);
        for _ in 0..50 {
            poll(&mut host, &mut waiting, &mut outcomes);
        }
        assert!(waiting.is_empty());
        assert!(left.iter().all(|id| outcomes[id] == Outcome::Gone));
        assert_eq!(outcomes.len(), COUNT);
        let count = |is: fn(&Outcome) -> bool| outcomes.values().filter(|outcome| is(outcome)).count() as u64;
        let stats = host.engine.stats();
        assert_eq!(count(|outcome| matches!(outcome, Outcome::Accepted(_))), 0, "Open came for each");
        assert_eq!(count(|outcome| matches!(outcome, Outcome::Opened(_))), stats.opened);
        assert_eq!(count(|outcome| *outcome == Outcome::Rejected), stats.rejected.application);
        assert!(stats.rejected.unanswered > 0 && stats.rejected.gone > 0 && stats.rejected.bad_request > 0);
        for (number, web) in webs.iter_mut().enumerate() {
            statuses[number] = web.responses().first().map_or(0, |response| response.status);
            web.peer.reset(true);
        }
        for _ in 0..50 {
            poll(&mut host, &mut waiting, &mut outcomes);
        }
        host.check_empty();
        for (id, number) in numbers {
            let fits = match (outcomes[&id], statuses[number]) {
                // A client that has reset its connection reads nothing.
                (_, 0) => true,
                (Outcome::Opened(_), 101) | (Outcome::Rejected, 401) | (Outcome::Gone, 400 | 503) => true,
                _ => false,
            };
            assert!(fits, "{:?} and {}", outcomes[&id], statuses[number]);
        }
    }
}
