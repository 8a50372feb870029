//! Rate limits per second: a burst is free, the average holds, and a pause of the host counts
//! against no client.

use super::*;
use crate::{CloseCode, RateLimitPolicy, TimeoutKind, net::sim::masked};

fn per_second(rate_limit: RateLimitPolicy, messages: Option<u32>, bytes: Option<usize>) -> Config {
    Config { rate_limit, max_messages_per_second: messages, max_bytes_per_second: bytes, ..Config::default() }
}

/// Sleeps for `next_timeout` between polls for some time; returns the messages and the number of
/// polls.
fn run(host: &mut Host, time: Duration) -> (Vec<(ClientId, Vec<u8>)>, u32) {
    let (end, mut got, mut polls) = (host.now + time, Vec::new(), 0);
    loop {
        let tick = host.poll();
        host.check();
        polls += 1;
        got.extend(messages(&tick));
        if host.now == end {
            return (got, polls);
        }
        let left = end - host.now;
        let timeout = host.engine.next_timeout(host.now).map_or(left, |timeout| timeout.min(left));
        host.advance(timeout);
    }
}

/// Payloads of 4 bytes that hold a number; their frames have 10 bytes.
fn numbered(numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    numbers.map(|number| number.to_be_bytes().to_vec()).collect()
}

fn payloads(got: Vec<(ClientId, Vec<u8>)>) -> Vec<Vec<u8>> {
    got.into_iter().map(|(_, bytes)| bytes).collect()
}

/// As [`Host::open`], but works under any budget.
fn open(host: &mut Host) -> (Peer, ClientId) {
    let mut peer = host.connect();
    peer.handshake();
    host.settle();
    assert_eq!(peer.frames(), []);
    (peer, host.engine.clients().max().unwrap())
}

fn is_throttled(host: &Host, id: ClientId) -> bool {
    host.engine.get(id).is_some_and(|client| client.resume_at().is_some())
}

/// All messages and ends until the engine has nothing left to do, without advancing the clock.
fn settle(host: &mut Host) -> (Vec<Vec<u8>>, Vec<CloseReason>) {
    let (mut got, mut ends) = (Vec::new(), Vec::new());
    while {
        let tick = host.poll();
        host.check();
        got.extend(payloads(messages(&tick)));
        ends.extend(closes(&tick).into_iter().map(|(_, reason)| reason));
        !host.is_quiet()
    } {}
    (got, ends)
}

#[test]
fn message_above_the_limit_is_not_delivered_and_closes() {
    for event_budget in [1, 4, 16 * 1024] {
        for large in [false, true] {
            let config = per_second(RateLimitPolicy::Close, Some(10), None);
            let mut host = Host::new(Config { event_budget, ..config });
            let (mut other, other_id) = open(&mut host);
            let (mut peer, _) = open(&mut host);
            let body = if large { vec![7; 90_000] } else { vec![7; 9] };
            (0..11).for_each(|_| peer.binary(&body));
            other.text("still here");
            let (got, ends) = settle(&mut host);
            assert_eq!(got.iter().filter(|bytes| **bytes == body).count(), 10, "a burst is free");
            assert_eq!((got.len(), &ends[..]), (11, &[CloseReason::RateLimited][..]));
            let close = Frame::Close(1008, "too many messages per second".into());
            assert_eq!(peer.frames(), [close]);
            let stats = host.engine.stats();
            assert_eq!((stats.messages_in, stats.closed.rate_limited, stats.throttled), (11, 1, 0));
            // Each client has a bucket of its own.
            other.text("and here");
            assert_eq!(messages(&host.poll()), [(other_id, b"and here".to_vec())]);
        }
    }
}

#[test]
fn messages_before_the_byte_limit_are_delivered() {
    let config = per_second(RateLimitPolicy::Close, None, Some(100_000));
    for (event_budget, pieces, len) in [(1, 1, 10), (3, 1, 994), (16_384, 7, 994), (16_384, 1, 30_000)] {
        for read_budget in [1_000, 256 * 1024] {
            for missing in [0, 1] {
                let mut host = Host::new(Config { event_budget, read_budget, ..config.clone() });
                let (mut peer, client) = open(&mut host);
                let header = if len < 126 { 6 } else { 8 };
                let whole = 100_000 / (len + header);
                (0..whole).for_each(|_| peer.binary(&vec![7; len]));
                let rest = 100_000 - whole * (len + header);
                // The beginning of a message that is longer than the rest of the limit.
                let mut more = masked(BINARY, true, &[7; 50_000], 7);
                more.truncate(rest + 1 - missing);
                more.chunks(more.len().div_ceil(pieces).max(1)).for_each(|piece| peer.raw(piece));
                let (got, ends) = settle(&mut host);
                assert_eq!(got.len(), whole, "{len} bytes each");
                if missing == 1 {
                    assert_eq!(ends, [], "the last byte is not one too many");
                    peer.raw(&[0; 1]);
                    let tick = host.poll();
                    assert_eq!(closes(&tick), [(client, CloseReason::RateLimited)]);
                } else {
                    assert_eq!(ends, [CloseReason::RateLimited]);
                }
                host.settle();
                assert_eq!(peer.frames(), [Frame::Close(1008, "too many bytes per second".into())]);
            }
        }
    }
}

#[test]
fn byte_above_the_limit_completes_no_message() {
    for len in [94, 992, 90_000] {
        // The byte is in the carried input, behind a header, or read directly into a payload.
        let header = masked(BINARY, true, &vec![7; len], 7).len() - len;
        for missing in [0, 1] {
            let limit = 10 + len + header - 1 + missing;
            let mut host = Host::new(per_second(RateLimitPolicy::Close, None, Some(limit)));
            let (mut peer, _) = host.open();
            peer.binary(b"free");
            peer.binary(&vec![7; len]);
            let (got, ends) = settle(&mut host);
            assert_eq!((got.len(), ends.len()), (1 + missing, 1 - missing), "{len} bytes");
        }
    }
}

#[test]
fn local_close_with_an_excess_byte_pending_keeps_its_reason() {
    let mut host =
        Host::new(Config { event_budget: 1, ..per_second(RateLimitPolicy::Close, None, Some(25)) });
    let (mut peer, client) = open(&mut host);
    numbered(0..2).iter().for_each(|bytes| peer.binary(bytes));
    peer.close(1000);
    peer.set_buffers(26, 5_000);
    // The excess byte is carried behind a message that the tick had no room for.
    assert_eq!(host.poll().len(), 1);
    host.engine.close(client, CloseCode::NORMAL_CLOSURE, "", host.now).unwrap();
    let (got, ends) = settle(&mut host);
    let local = CloseReason::Local { code: CloseCode::NORMAL_CLOSURE, text: String::new() };
    assert_eq!((got, ends), (vec![], vec![local]));
    assert!(!peer.was_aborted());
    assert_eq!(host.engine.stats().closed.local, 1);
}

#[test]
fn first_cause_in_the_input_ends_the_connection() {
    let config = per_second(RateLimitPolicy::Close, Some(3), Some(50));
    for (bytes, reason) in [
        (
            &b"\x88\x80abcd"[..],
            CloseReason::Peer { code: CloseCode::NO_STATUS_RECEIVED, text: String::new() },
        ),
        (b"\x83\x80abcd", CloseReason::Protocol(crate::ProtocolError::ReservedOpcode(3))),
    ] {
        let mut host = Host::new(config.clone());
        let (mut peer, _) = open(&mut host);
        numbered(0..3).iter().for_each(|bytes| peer.binary(bytes));
        peer.raw(bytes);
        (0..100).for_each(|_| peer.binary(b"beyond both"));
        assert_eq!(settle(&mut host), (numbered(0..3), vec![reason]));
    }
}

#[test]
fn control_frames_count_as_bytes_only() {
    let mut host = Host::new(per_second(RateLimitPolicy::Close, Some(1), Some(1_000)));
    let (mut peer, client) = open(&mut host);
    (0..100).for_each(|_| peer.ping(b"ping"));
    assert_eq!(settle(&mut host), (vec![], vec![]));
    assert_eq!(peer.frames().len(), 100);
    peer.pong(b"and one more");
    assert_eq!(closes(&host.poll()), [(client, CloseReason::RateLimited)]);
}

#[test]
fn average_rate_holds_and_idle_time_earns_no_credit() {
    let mut host =
        Host::new(Config { silence_timeout: None, ..per_second(RateLimitPolicy::Close, Some(10), None) });
    let (mut peer, client) = open(&mut host);
    // Ten messages at once, then one in each tenth of a second.
    (0..9).for_each(|_| peer.text("burst"));
    for _ in 0..50 {
        peer.text("in time");
        assert_eq!(settle(&mut host).1, []);
        host.advance(SEC / 10);
    }
    for _ in 0..600 {
        host.advance(SEC / 10);
        assert!(host.poll().is_empty());
        peer.frames();
    }
    // Waiting in a poll earns no credit either.
    assert!(host.poll_after(20 * SEC).is_empty());
    peer.text("after a while");
    assert_eq!(messages(&host.poll_after(20 * SEC)).len(), 1);
    (0..9).for_each(|_| peer.text("burst"));
    assert_eq!(settle(&mut host).1, []);
    peer.text("too much");
    assert_eq!(closes(&host.poll()), [(client, CloseReason::RateLimited)]);
}

#[test]
fn paused_flood_is_delivered_at_the_rate_without_busy_polls() {
    for (messages, bytes) in [(Some(100), None), (None, Some(1_000)), (Some(100), Some(1_000))] {
        for event_budget in [3, 16 * 1024] {
            for read_budget in [7, 256 * 1024] {
                let mut host = Host::new(Config {
                    event_budget,
                    read_budget,
                    ..per_second(RateLimitPolicy::Pause, messages, bytes)
                });
                let (mut peer, client) = open(&mut host);
                peer.set_buffers(5_000, 5_000);
                numbered(0..10_000).iter().for_each(|bytes| peer.binary(bytes));
                peer.close(1000);
                let mut got = settle(&mut host).0;
                assert!((97..=100).contains(&got.len()), "a burst is free, not {}", got.len());
                assert!(is_throttled(&host, client));
                let throttled = host.engine.stats().throttled;
                for second in 1..=40 {
                    // A paused client resumes 16 times a second.
                    let (more, polls) = run(&mut host, SEC);
                    let carried_over = 2 * (100 / event_budget + 1_000 / read_budget) as u32;
                    assert!(polls <= 40 + carried_over, "{polls} polls a second");
                    got.extend(payloads(more));
                    let allowed = 100 * (second + 1);
                    assert!((allowed - 10..=allowed).contains(&got.len()), "{} in {second} s", got.len());
                    // The peer cannot write the rest, which stays in its own buffer.
                    assert!(peer.pending() > 50_000);
                }
                let throttled = host.engine.stats().throttled - throttled;
                assert!((15 * 40..=17 * 40).contains(&throttled), "{throttled} pauses in 40 s");
                got.extend(payloads(run(&mut host, 60 * SEC).0));
                assert_eq!(got, numbered(0..10_000));
                assert_eq!(host.engine.stats().closed.peer, 1);
                assert_eq!(peer.frames().last(), Some(&Frame::Close(1000, String::new())));
            }
        }
    }
}

#[test]
fn large_message_is_read_no_faster_than_the_limit() {
    let mut host = Host::new(per_second(RateLimitPolicy::Pause, None, Some(50_000)));
    let (mut peer, _) = open(&mut host);
    let head = peer.traffic().0;
    let body: Vec<u8> = (0..300_000).map(|i: u32| (i.wrapping_mul(i) >> 7) as u8).collect();
    peer.binary(&body);
    peer.text("next");
    let mut got = Vec::new();
    for second in 0..6 {
        assert_eq!(got.len(), 0);
        let (more, polls) = run(&mut host, SEC);
        assert!(polls < 50, "{polls} polls");
        got.extend(payloads(more));
        let read = peer.traffic().0 - head;
        assert!(read <= 50_000 * (second + 2) && read >= 50_000 * (second + 1), "{read}");
    }
    assert_eq!(got, [body, b"next".to_vec()]);
}

#[test]
fn paused_flooders_let_the_host_sleep_and_others_send() {
    let mut host = Host::new(per_second(RateLimitPolicy::Pause, Some(20), None));
    let mut flooders: Vec<_> = (0..200).map(|_| open(&mut host).0).collect();
    let (mut peer, client) = open(&mut host);
    host.advance(10 * SEC);
    for flooder in &mut flooders {
        numbered(0..400).iter().for_each(|bytes| flooder.binary(bytes));
    }
    // The messages that were due while the host was away, and a burst.
    assert_eq!(settle(&mut host).0.len(), 200 * 20 * 11);
    assert!(host.engine.next_timeout(host.now).is_some_and(|timeout| timeout >= 40 * MS));
    peer.text("hello");
    assert_eq!(messages(&host.poll()), [(client, b"hello".to_vec())]);
    let (got, polls) = run(&mut host, 4 * SEC);
    assert_eq!(got.len(), 200 * 20 * 4);
    assert!(polls < 200, "{polls} polls");
}

/// A client that sends `rate` messages a second while the host sleeps for 5 s each time.
fn speaks_while_the_host_sleeps(config: Config, rate: u32) -> (usize, Vec<CloseReason>, u64) {
    let mut host = Host::new(config);
    let (mut peer, _) = open(&mut host);
    let (mut got, mut ends) = (0, Vec::new());
    for _ in 0..6 {
        host.advance(5 * SEC);
        numbered(0..5 * rate).iter().for_each(|bytes| peer.binary(bytes));
        let (more, end) = settle(&mut host);
        got += more.len();
        ends.extend(end);
    }
    (got, ends, host.engine.stats().throttled)
}

#[test]
fn input_during_a_host_pause_is_within_the_limit() {
    for policy in [RateLimitPolicy::Close, RateLimitPolicy::Pause] {
        for (messages, bytes) in [(Some(100), None), (None, Some(1_000)), (Some(100), Some(1_000))] {
            // This also holds if it takes several polls to read everything.
            for (event_budget, read_budget) in [(16_384, 256 * 1024), (7, 256 * 1024), (16_384, 60)] {
                let config = Config { event_budget, read_budget, ..per_second(policy, messages, bytes) };
                let (got, ends, throttled) = speaks_while_the_host_sleeps(config.clone(), 50);
                assert_eq!((got, ends, throttled), (6 * 250, vec![], 0), "{config:?}");
                let (got, ends, throttled) = speaks_while_the_host_sleeps(config.clone(), 200);
                match policy {
                    RateLimitPolicy::Close => {
                        assert!(ends == [CloseReason::RateLimited] && got <= 600, "{got}")
                    }
                    RateLimitPolicy::Pause => assert!(throttled >= 6 && got <= 100 * 31, "{got}"),
                }
            }
        }
    }
}

#[test]
fn input_left_out_by_a_partial_report_is_within_the_limit() {
    let mut host = Host::new(per_second(RateLimitPolicy::Close, Some(10), None));
    let (mut peer, _) = open(&mut host);
    let now = |host: &Host| host.now;
    host.advance(5 * SEC);
    // For two polls the kernel reports only other clients.
    host.engine.start_poll(now(&host), now(&host), true);
    host.advance(MS);
    host.engine.start_poll(now(&host), now(&host), true);
    (0..50).for_each(|_| peer.text("five seconds of it"));
    assert_eq!(settle(&mut host).0.len(), 50);
    // After a complete report all input is known to be new.
    host.advance(5 * SEC);
    host.engine.start_poll(now(&host), now(&host), false);
    (0..50).for_each(|_| peer.text("five seconds of it"));
    assert_eq!(settle(&mut host).1, [CloseReason::RateLimited]);
}

#[test]
fn time_of_an_application_pause_is_credited() {
    for policy in [RateLimitPolicy::Close, RateLimitPolicy::Pause] {
        let mut host = Host::new(per_second(policy, Some(10), Some(200)));
        let (mut peer, client) = open(&mut host);
        // Time that was idle before the pause is not credited.
        for _ in 0..10 {
            host.advance(SEC);
            assert_eq!(host.settle(), 0);
        }
        host.engine.pause_reading(client).unwrap();
        for _ in 0..50 {
            (0..2).for_each(|_| peer.text("x"));
            host.advance(SEC / 10);
            assert_eq!(host.settle(), 0);
        }
        host.engine.resume_reading(client, host.now).unwrap();
        let (got, ends) = settle(&mut host);
        match policy {
            // 5 s at 10 messages per second, and the burst.
            RateLimitPolicy::Close => {
                assert_eq!((got.len(), &ends[..]), (60, &[CloseReason::RateLimited][..]))
            }
            RateLimitPolicy::Pause => {
                assert_eq!((got.len(), host.engine.stats().throttled), (60, 1));
                assert_eq!(run(&mut host, 4 * SEC).0.len(), 40);
            }
        }
    }
}

#[test]
fn application_pause_and_limit_pause_are_independent() {
    let mut host = Host::new(per_second(RateLimitPolicy::Pause, Some(10), None));
    let (mut peer, client) = open(&mut host);
    numbered(0..30).iter().for_each(|bytes| peer.binary(bytes));
    assert_eq!(settle(&mut host).0, numbered(0..10));
    let refill = host.now + SEC / 10;
    // Resuming by the application does not end the limit's pause.
    host.engine.pause_reading(client).unwrap();
    host.engine.resume_reading(client, host.now).unwrap();
    assert!(is_throttled(&host, client));
    assert_eq!(settle(&mut host).0.len(), 0);
    assert!(host.engine.next_timeout(host.now).is_some_and(|timeout| host.now + timeout >= refill));
    // The end of the limit's pause does not end the application's.
    host.engine.pause_reading(client).unwrap();
    assert_eq!(run(&mut host, 30 * SEC).0.len(), 0);
    assert!(!is_throttled(&host, client));
    assert_ne!(host.engine.next_timeout(host.now), Some(Duration::ZERO), "nothing to do");
    host.engine.resume_reading(client, host.now).unwrap();
    assert_eq!(settle(&mut host).0, numbered(10..30));
}

/// A client paused by its limit, with more input carried over and in the kernel.
fn throttled(config: Config) -> (Host, Peer, ClientId) {
    let mut host = Host::new(config);
    let (mut peer, client) = open(&mut host);
    peer.set_buffers(5_000, 100_000);
    numbered(0..1_000).iter().for_each(|bytes| peer.binary(bytes));
    assert_eq!(settle(&mut host).0.len(), 10);
    assert!(is_throttled(&host, client) && peer.pending() > 0);
    (host, peer, client)
}

fn both() -> [Config; 2] {
    [(Some(10), None), (None, Some(100))]
        .map(|(messages, bytes)| per_second(RateLimitPolicy::Pause, messages, bytes))
}

#[test]
fn closing_a_throttled_client_reads_it_without_delay() {
    for config in both() {
        for how in 0..3 {
            let (mut host, mut peer, client) =
                throttled(Config { max_lifetime: Some(40 * MS), ..config.clone() });
            peer.close(1000);
            match how {
                0 => host.engine.close(client, CloseCode::NORMAL_CLOSURE, "", host.now).unwrap(),
                1 => host.engine.shutdown(CloseCode::NORMAL_CLOSURE, "", SEC, host.now),
                _ => host.advance(40 * MS),
            }
            let (got, ends) = settle(&mut host);
            let reason = match how {
                0 => CloseReason::Local { code: CloseCode::NORMAL_CLOSURE, text: String::new() },
                1 => CloseReason::Shutdown,
                _ => CloseReason::Timeout(TimeoutKind::Lifetime),
            };
            assert_eq!((got, ends), (vec![], vec![reason]), "its messages mean nothing any more");
            assert!(matches!(peer.frames()[..], [Frame::Close(1000 | 1001, _)]));
            peer.fin();
            host.settle();
            host.check_empty();
        }
    }
}

#[test]
fn throttled_client_ends_when_its_connection_ends() {
    for config in both() {
        // After FIN, everything is delivered at the limited rate.
        let (mut host, peer, _) = throttled(config.clone());
        peer.fin();
        let (got, polls) = run(&mut host, 98 * SEC);
        assert!(got.len() < 990 && polls < 20 * 98 && host.engine.client_count() == 1);
        let (more, _) = run(&mut host, 2 * SEC);
        assert_eq!(payloads([got, more].concat()), numbered(10..1_000));
        assert_eq!(host.engine.stats().closed.eof, 1);

        // The next read finds a reset.
        let (mut host, peer, _) = throttled(config.clone());
        peer.reset(true);
        let _ = run(&mut host, 60 * SEC);
        assert_eq!(host.engine.stats().closed.io, 1);

        // The peer is gone: input that has arrived is delivered at once, then the end is reported.
        let (mut host, peer, client) = throttled(config);
        peer.close_socket();
        host.engine.send(client, "hello?".into()).unwrap();
        host.settle();
        host.engine.send(client, "hello?".into()).unwrap();
        let (got, ends) = settle(&mut host);
        assert!(got.len() >= 100 && got[..] == numbered(10..10 + got.len() as u32), "{}", got.len());
        assert!(matches!(ends[..], [CloseReason::Io(_)]), "{ends:?}");
        host.check_empty();
    }
}

#[test]
fn failed_write_does_not_bypass_the_closing_limit() {
    let mut host = Host::new(per_second(RateLimitPolicy::Close, Some(10), None));
    let (mut peer, client) = open(&mut host);
    host.engine.pause_reading(client).unwrap();
    numbered(0..30).iter().for_each(|bytes| peer.binary(bytes));
    assert_eq!(host.settle(), 0);
    peer.close_socket();
    host.engine.send(client, "hello?".into()).unwrap();
    assert_eq!(host.settle(), 0);
    host.engine.send(client, "hello?".into()).unwrap();
    assert_eq!(settle(&mut host), (numbered(0..10), vec![CloseReason::RateLimited]));
}

#[test]
fn throttled_client_is_pinged_and_not_silent() {
    let config = Config {
        ping_interval: Some(2 * SEC),
        silence_timeout: Some(3 * SEC),
        // A message takes 100 s at this rate.
        ..per_second(RateLimitPolicy::Pause, None, Some(10))
    };
    let mut host = Host::new(config);
    let (mut peer, client) = open(&mut host);
    peer.binary(&[7; 992]);
    peer.ping(b"and you?");
    let (got, _) = run(&mut host, 90 * SEC);
    assert_eq!(got, []);
    assert!(host.engine.stats().pings >= 40);
    assert!(!peer.frames().iter().any(|frame| matches!(frame, Frame::Pong(_))), "it has to wait");
    let (got, _) = run(&mut host, 11 * SEC);
    assert_eq!(got, [(client, vec![7; 992])]);
    assert!(peer.frames().contains(&Frame::Pong(b"and you?".to_vec())));
    // A client that is really silent is still found.
    let (got, _) = run(&mut host, 4 * SEC);
    assert_eq!((got, host.engine.stats().closed.silence), (vec![], 1));
}

#[test]
fn limit_pause_longer_than_silence_timeout_is_not_silence() {
    for (ping, silence) in [(200 * MS, 300 * MS), (2 * SEC, 3 * SEC)] {
        let mut host = Host::new(Config {
            ping_interval: Some(ping),
            silence_timeout: Some(silence),
            ..per_second(RateLimitPolicy::Pause, Some(1), None)
        });
        let (mut peer, _) = open(&mut host);
        // The first read takes all of it, so that nothing more arrives from the client.
        numbered(0..20).iter().for_each(|bytes| peer.binary(bytes));
        let (got, polls) = run(&mut host, 19 * SEC + SEC / 2);
        assert_eq!(payloads(got), numbered(0..20));
        assert!(polls < 20 * 20, "{polls} polls");
        let (_, polls) = run(&mut host, 4 * SEC);
        assert_eq!((host.engine.stats().closed.silence, polls < 80), (1, true));
    }
}

#[test]
fn client_that_stops_after_its_burst_is_not_paused() {
    let mut host = Host::new(per_second(RateLimitPolicy::Pause, Some(10), None));
    let (mut peer, client) = host.open();
    numbered(0..10).iter().for_each(|bytes| peer.binary(bytes));
    assert_eq!(settle(&mut host).0, numbered(0..10));
    // As on Windows, only a read tells that there is no more, and the limit allows none.
    let is_paused = is_throttled(&host, client) || host.engine.stats().throttled > 0;
    assert_eq!(is_paused, has_windows_readiness());
}

#[test]
fn paused_client_without_input_earns_no_credit() {
    let mut host = Host::new(Config {
        event_budget: 1,
        silence_timeout: None,
        ..per_second(RateLimitPolicy::Close, Some(10), None)
    });
    let (mut peer, client) = open(&mut host);
    peer.text("fills the tick");
    assert_eq!(host.poll().len(), 1);
    // The pause comes before the client's next turn.
    host.engine.pause_reading(client).unwrap();
    assert_eq!(host.settle(), 0);
    host.engine.resume_reading(client, host.now).unwrap();
    for _ in 0..30 {
        host.advance(SEC);
        assert_eq!(host.settle(), 0);
    }
    numbered(0..100).iter().for_each(|bytes| peer.binary(bytes));
    assert_eq!(settle(&mut host), (numbered(0..10), vec![CloseReason::RateLimited]));
}

#[test]
fn limit_of_one_per_second_works() {
    let mut host = Host::new(per_second(RateLimitPolicy::Pause, Some(1), Some(1)));
    let (mut peer, client) = open(&mut host);
    (0..3).for_each(|_| peer.text(""));
    // Each message has 6 bytes, and the first byte is free.
    for second in 0..18 {
        let (got, polls) = run(&mut host, SEC - MS);
        assert_eq!((got.len(), polls <= 4), (usize::from(second % 6 == 5), true), "after {second} s");
        host.advance(MS);
    }
    assert!(!is_throttled(&host, client) || run(&mut host, SEC).0.is_empty());
}

#[test]
fn without_limits_an_open_client_has_no_limiter() {
    let mut host = Host::new(Config::default());
    let (_peer, client) = open(&mut host);
    assert!(host.engine.get(client).and_then(|client| client.open()).unwrap().rate_limiter.is_none());
    assert!(size_of::<crate::connection::rate_limiter::RateLimiter>() <= 128);
}
