//! Every poll makes progress: neither a client nor an event keeps the engine from reading the other
//! clients.

use super::*;

/// A read for large messages takes up to 320 KiB. If small frames follow the large message, most of
/// the read stays unparsed until the next polls: more than the part of the block for small
/// messages.
#[test]
fn unparsed_input_longer_than_the_block_stops_no_client() {
    for event_budget in [2048, 100, 2, 1] {
        let mut host = Host::new(Config { event_budget, ..Config::default() });
        let (mut flooder, client) = host.open();
        let (mut peer, other) = host.open();
        flooder.set_buffers(4 << 20, 1 << 20);
        flooder.binary(&vec![1; 20_000]);
        assert_eq!(host.poll().len(), 1);
        let pings = 30_000;
        (0..pings).for_each(|_| flooder.ping(b"x"));
        flooder.text("end");
        let (mut round, mut polls, mut most) = (0_u8, 0, 0);
        loop {
            peer.binary(&[round]);
            let tick = host.poll();
            let new = [messages(&tick), messages(&host.poll())].concat();
            host.check();
            assert!(new.contains(&(other, vec![round])), "round {round} was not reported in two polls");
            most = most.max(host.engine.clients[client.index()].unparsed.len());
            (round, polls) = (round.wrapping_add(1), polls + 2);
            if new.contains(&(client, b"end".to_vec())) {
                break;
            }
            assert!(polls < 3 * pings, "the flooder itself is starved");
        }
        // As on Windows, each read is followed by one that may find the stream drained: less input
        // is read ahead.
        assert!(most > 100_000 || has_windows_readiness(), "{most} unparsed bytes are too few for this test");
        host.settle();
    }
}

/// A `Drained` of each slow client comes in every poll: its socket takes a part of the message in
/// the flush, and the rest before the poll reads.
#[test]
fn events_of_the_flush_take_nothing_from_input_and_timers() {
    for event_budget in [1, 2, 3] {
        let mut host = Host::new(Config { event_budget, ..Config::default() });
        let mut slow: Vec<_> = (0..4).map(|_| host.open()).collect();
        slow.iter().for_each(|(peer, _)| peer.set_buffers(256 * 1024, 100));
        let (mut peer, client) = host.open();
        host.engine.set_timer(MS, true, host.now);
        let (mut heard, mut fired, mut drained) = (0, 0, 0);
        for round in 0..40_u8 {
            peer.binary(&[round]);
            for (slow, id) in &mut slow {
                slow.read(usize::MAX);
                host.engine.send(*id, (&[0; 150]).into()).unwrap();
            }
            // Blocked now; there is room before the poll.
            host.engine.flush(host.now);
            slow.iter_mut().for_each(|(peer, _)| _ = peer.read(usize::MAX));
            host.advance(MS);
            let tick = host.poll();
            host.check();
            drained += count(&tick, |event| matches!(event, Event::Drained { .. }));
            fired += count(&tick, |event| matches!(event, Event::Timer { .. }));
            heard += messages(&tick).iter().filter(|(from, _)| *from == client).count();
        }
        assert_eq!(drained, 160, "a `Drained` of each in each poll");
        // With a budget of one event it goes to either by turns.
        let least = if event_budget == 1 { 19 } else { 39 };
        assert!(heard >= least && fired >= least, "{heard} messages and {fired} timers");
    }
}
