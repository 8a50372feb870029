//! Pongs to received pings, and received pongs (RFC 6455 §5.5.2, §5.5.3).

use std::time::Duration;

use super::{harness::*, *};

fn ping(side: Side, number: u32) -> Vec<u8> {
    side.gets(0x89, &number.to_be_bytes())
}

fn pong(side: Side, number: u32) -> Vec<u8> {
    side.sends(0x8a, &number.to_be_bytes())
}

#[test]
fn every_ping_gets_a_pong_while_the_peer_reads() {
    for side in SIDES {
        let pings: Vec<_> = (0..1000).map(|number| ping(side, number)).collect();
        let pongs: Vec<_> = (0..1000).map(|number| pong(side, number)).collect();
        assert_eq!(run(side, LIMITS, [&pings.concat()[..]]), (vec![], pongs.concat()));
        assert_eq!(run(side, LIMITS, pings.concat().chunks(5)), (vec![], pongs.concat()));
    }
}

#[test]
fn a_pong_returns_the_payload_of_its_ping() {
    for side in SIDES {
        for len in 0..=frame::MAX_CONTROL_PAYLOAD {
            let payload: Vec<u8> = (0..len as u8).map(|i| i ^ 0xa5).collect();
            let written = side.sends(0x8a, &payload);
            assert_eq!(any_way(side, LIMITS, &side.gets(0x89, &payload)), (vec![], written));
        }
    }
}

#[test]
fn only_the_newest_pong_waits_behind_a_blocked_write() {
    for side in SIDES {
        let frames = [side.sends(0x82, &[1; 100]), side.sends(0x82, &[2; 100])];
        // The kernel stops inside the first frame, between both, and inside the second.
        for room in [1, 50, frames[0].len(), frames[0].len() + 1, frames[0].len() + 100] {
            let mut endpoint = Endpoint::new(side, LIMITS);
            endpoint.send(Kind::Binary, &[1; 100]);
            endpoint.send(Kind::Binary, &[2; 100]);
            endpoint.flush(room);
            assert!(endpoint.outbox.is_blocked());
            let before = endpoint.outbox.len();
            (0..1000).for_each(|number| endpoint.read(&ping(side, number)));
            assert_eq!(endpoint.outbox.len(), before, "a flood of pings queues nothing");
            // Data queued later does not overtake the pong.
            endpoint.send(Kind::Binary, &[3; 100]);
            // The pong leaves however small the writes are.
            while endpoint.outbox.has_work() {
                endpoint.flush(3);
            }
            let whole = if room > frames[0].len() { 2 } else { 1 };
            let expected = [
                frames[..whole].concat(),
                pong(side, 999),
                frames[whole..].concat(),
                side.sends(0x82, &[3; 100]),
            ];
            assert_eq!(endpoint.written, expected.concat(), "{side:?} blocked after {room}");
        }
    }
}

#[test]
fn a_partly_written_pong_is_completed_before_the_next() {
    let side = Side::Server;
    let mut endpoint = Endpoint::new(side, LIMITS);
    endpoint.send(Kind::Binary, &[1; 10]);
    endpoint.flush(5);
    endpoint.read(&ping(side, 1));
    endpoint.flush(10);
    endpoint.read(&[ping(side, 2), ping(side, 3)].concat());
    endpoint.flush(usize::MAX);
    let expected = [side.sends(0x82, &[1; 10]), pong(side, 1), pong(side, 3)];
    assert_eq!(endpoint.written, expected.concat());
}

#[test]
fn pongs_above_half_of_max_buffered_replace_each_other() {
    // One read may contain thousands of pings. Their pongs are bounded even before a write blocks.
    let side = Side::Server;
    let mut endpoint = Endpoint::new(side, LIMITS);
    endpoint.max_buffered = 100;
    let pings: Vec<_> = (0..1000).map(|number| ping(side, number)).collect();
    endpoint.read(&pings.concat());
    assert!(endpoint.outbox.len() < 100 / 2 + 6);
    endpoint.flush(usize::MAX);
    let queued = 50_u32.div_ceil(6);
    let expected: Vec<_> = [999].into_iter().chain(0..queued).map(|number| pong(side, number)).collect();
    assert_eq!(endpoint.written, expected.concat());
    // With an empty outbox each ping gets its pong again.
    endpoint.read(&ping(side, 5000));
    endpoint.flush(usize::MAX);
    assert!(endpoint.written.ends_with(&pong(side, 5000)));
}

#[test]
fn no_pong_leaves_behind_our_close() {
    // Tries every place where the kernel may stop while pongs wait.
    for side in SIDES {
        for first in 1..30 {
            for second in 1..30 {
                let mut endpoint = Endpoint::new(side, LIMITS);
                endpoint.send(Kind::Binary, &[1; 10]);
                endpoint.flush(first);
                endpoint.read(&ping(side, 1));
                endpoint.flush(second);
                endpoint.read(&ping(side, 2));
                endpoint.close(Some((1000, "")));
                endpoint.read(&ping(side, 3));
                while endpoint.outbox.has_work() {
                    endpoint.flush(7);
                }
                let close = side.sends(0x88, b"\x03\xe8");
                assert!(endpoint.written.ends_with(&close), "{side:?} {first} {second}");
                let pongs = [pong(side, 1), pong(side, 2)].concat();
                let data = side.sends(0x82, &[1; 10]);
                let len = endpoint.written.len();
                // The second pong may have replaced the first.
                let all = data.len() + pongs.len() + close.len();
                assert!(len == all || len == all - pongs.len() / 2, "{side:?} {first} {second}");
            }
        }
    }
}

#[test]
fn a_pong_measures_the_round_trip_of_our_ping() {
    for side in SIDES {
        let mut endpoint = Endpoint::new(side, LIMITS);
        assert_eq!(endpoint.connection.rtt(), None);
        endpoint.ping();
        endpoint.flush(usize::MAX);
        assert_eq!(endpoint.written, side.sends(0x89, &1_u32.to_be_bytes()));
        endpoint.now += Duration::from_millis(30);
        // Pongs that do not answer this ping.
        for other in [&b""[..], &0_u32.to_be_bytes(), &2_u32.to_be_bytes(), &[0, 0, 0, 1, 0]] {
            endpoint.read(&side.gets(0x8a, other));
            assert_eq!(endpoint.connection.rtt(), None);
        }
        endpoint.read(&side.gets(0x8a, &1_u32.to_be_bytes()));
        assert_eq!(endpoint.connection.rtt(), Some(Duration::from_millis(30)));
        // A second pong to the same ping is ignored.
        endpoint.now += Duration::from_millis(30);
        endpoint.read(&side.gets(0x8a, &1_u32.to_be_bytes()));
        assert_eq!(endpoint.connection.rtt(), Some(Duration::from_millis(30)));
        assert!(endpoint.outcomes.is_empty());
    }
}

#[test]
fn overlapping_pings_still_measure_the_round_trip() {
    for side in SIDES {
        let mut endpoint = Endpoint::new(side, LIMITS);
        let trip = Duration::from_millis(50);
        // A ping every 10 ms, each with its pong 50 ms later.
        for round in 1..=20 {
            endpoint.ping();
            endpoint.now += Duration::from_millis(10);
            if round >= 5 {
                endpoint.read(&side.gets(0x8a, &(round - 4_u32).to_be_bytes()));
                assert_eq!(endpoint.connection.rtt(), Some(trip), "round {round}");
            }
        }
    }
}

#[test]
fn a_pong_to_a_later_ping_gives_no_round_trip_time() {
    for side in SIDES {
        let mut endpoint = Endpoint::new(side, LIMITS);
        let answer = |number: u32| side.gets(0x8a, &number.to_be_bytes());
        endpoint.ping();
        endpoint.now += Duration::from_secs(1);
        endpoint.ping();
        // A pong to a ping that was never sent is ignored.
        endpoint.read(&answer(3));
        endpoint.now += Duration::from_millis(20);
        endpoint.read(&answer(2));
        assert_eq!(endpoint.connection.rtt(), None);
        endpoint.ping();
        endpoint.now += Duration::from_millis(20);
        endpoint.read(&answer(3));
        assert_eq!(endpoint.connection.rtt(), Some(Duration::from_millis(20)));
    }
}
