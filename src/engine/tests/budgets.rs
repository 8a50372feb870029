//! Law 1 (ARCHITECTURE.md): the work of a poll is bounded, the rest continues in turns, and nothing
//! is lost.

use super::*;
use crate::event::tick_buffer::TickBuffer;

#[test]
fn a_flood_delays_others_by_one_round_at_most() {
    for event_budget in [3, 16 * 1024] {
        for floods in [1, 4] {
            let mut host = Host::new(Config { event_budget, ..Config::default() });
            let mut flooders: Vec<_> = (0..floods).map(|_| host.open().0).collect();
            let (mut peer, client) = host.open();
            for round in 0..20_u8 {
                let mut polls = 0;
                loop {
                    for flooder in &mut flooders {
                        while flooder.pending() < 200_000 {
                            flooder.binary(&vec![1; 50 + 137 * usize::from(round)]);
                        }
                    }
                    if polls == 0 {
                        peer.binary(&[round]);
                    }
                    let tick = host.poll();
                    polls += 1;
                    assert!(tick.more() && tick.next_timeout() == Some(Duration::ZERO));
                    let bytes: usize = messages(&tick).iter().map(|(_, bytes)| bytes.len()).sum();
                    assert!(bytes <= TickBuffer::BLOCK + 256 * 1024, "{bytes} bytes in one tick");
                    assert!(tick.len() <= event_budget);
                    if messages(&tick).contains(&(client, vec![round])) {
                        break;
                    }
                }
                assert!(polls <= floods + 1, "{polls} polls for one message");
            }
        }
    }
}

#[test]
fn large_messages_take_few_reads_and_delay_others_by_one_round() {
    for size in [20_000, 65_536, 200_000, 1 << 20] {
        let mut host = Host::new(Config::default());
        let mut flooders: Vec<_> = (0..3).map(|_| host.open().0).collect();
        flooders.iter().for_each(|flooder| flooder.set_buffers(4 << 20, 256 * 1024));
        let (mut peer, client) = host.open();
        let before: usize = flooders.iter().map(|flooder| flooder.calls().0).sum();
        let (mut polls, mut got) = (0, 0);
        for round in 0..20_u8 {
            peer.binary(&[round]);
            for waited in 0.. {
                for flooder in flooders.iter_mut().filter(|flooder| flooder.pending() < 300_000) {
                    flooder.binary(&vec![round; size]);
                }
                let bytes = host.engine.stats().bytes_in;
                let new = messages(&host.poll());
                polls += 1;
                assert!(host.engine.stats().bytes_in - bytes <= 4 * TickBuffer::BLOCK as u64);
                got += new.iter().filter(|(_, bytes)| bytes.len() == size).count();
                if new.contains(&(client, vec![round])) {
                    break;
                }
                assert!(waited <= flooders.len(), "{polls} polls");
            }
        }
        let reads = flooders.iter().map(|flooder| flooder.calls().0).sum::<usize>() - before;
        assert!(got > 0 && reads <= got * (3 + size / 65_536) + 3, "{size}: {reads} reads, {got} messages");
    }
}

#[test]
fn oversized_message_is_rejected_by_its_header() {
    let mut host = Host::new(Config { max_message_size: 50_000, ..Config::default() });
    let (peer, _) = host.open();
    peer.raw(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4]);
    let tick = host.poll();
    assert!(matches!(closes(&tick)[..], [(_, CloseReason::Protocol(_))]), "{tick:?}");
}

#[test]
fn large_unparsed_input_is_not_starved_by_small_messages() {
    let mut host = Host::new(Config { event_budget: 1_000, ..Config::default() });
    let mut others: Vec<_> = (0..40).map(|_| host.open().0).collect();
    let (mut peer, client) = host.open();
    // As many bytes as the block holds, and more messages than a tick takes.
    (0..9_000).for_each(|_| peer.binary(b"x"));
    let mut got = messages(&host.poll()).len();
    let mut silent_for = 0;
    while got < 9_000 {
        for other in others.iter_mut().filter(|other| other.pending() == 0) {
            other.binary(&[7; 3_000]);
        }
        let tick = host.poll();
        let new = messages(&tick).iter().filter(|(from, _)| *from == client).count();
        (got, silent_for) = (got + new, if new > 0 { 0 } else { silent_for + 1 });
        assert!(silent_for < 10, "starved with {got} of 9000 messages delivered");
    }
}

/// Pings and fragments yield no event, so a flood of them is hostile.
#[test]
fn eventless_frame_is_charged_as_several_events() {
    let flood = |peer: &mut Peer, fragment: bool| match fragment {
        true => peer.frame(CONTINUE, false, b"x"),
        false => peer.ping(b"x"),
    };
    for fragment in [false, true] {
        for event_budget in [10, 2048] {
            let mut host = Host::new(Config { event_budget, ..Config::default() });
            let (mut flooder, _) = host.open();
            let (mut peer, client) = host.open();
            flooder.frame(TEXT, false, b"x");
            let _ = host.poll();
            let most = event_budget.div_ceil(TickBuffer::EVENTLESS_CHARGE);
            for round in 0..20_u8 {
                for _ in 0..5 * most {
                    flood(&mut flooder, fragment);
                }
                peer.binary(&[round]);
                let tick = host.poll();
                assert!(tick.more());
                let new = [messages(&tick), messages(&host.poll())].concat();
                assert_eq!(new, [(client, vec![round])], "after two rounds at most");
                let mut polls = 2;
                while host.poll().more() {
                    polls += 1;
                }
                assert!((4..=6).contains(&polls), "{polls} polls of at most {most} frames");
            }
        }
    }
}

/// A client that was quiet comes before one with input left over from the last poll.
#[test]
fn postponed_client_is_served_after_quiet_ones() {
    let mut host = Host::new(Config::default());
    let (mut flooder, _) = host.open();
    let (mut peer, client) = host.open();
    (0..20 * 2048).for_each(|_| flooder.ping(b"x"));
    assert!(host.poll().more());
    for round in 0..20_u8 {
        peer.binary(&[round]);
        assert_eq!(messages(&host.poll()), [(client, vec![round])]);
    }
}

/// The rest of each read is copied from poll to poll, so it must be small.
#[test]
fn frame_flood_is_read_in_small_pieces() {
    let mut host = Host::new(Config::default());
    let (mut flooder, client) = host.open();
    flooder.set_buffers(4 << 20, 256 * 1024);
    (0..50_000).for_each(|_| flooder.ping(b"x"));
    let mut most = 0;
    for poll in 0.. {
        assert!(host.poll().more());
        let carried = host.engine.clients[client.index()].unparsed.len();
        // The first reads were larger: the flood was not known yet.
        most = if poll < 100 { 0 } else { carried.max(most) };
        if flooder.pending() == 0 {
            assert!(poll > 200, "{poll} polls");
            break;
        }
    }
    assert!(most <= 8 * 1024, "{most} bytes were carried");
}

#[test]
fn a_small_event_budget_loses_nothing() {
    for event_budget in 1..=5 {
        let mut host = Host::new(Config { event_budget, ..Config::default() });
        let mut peers: Vec<_> = (0..3).map(|_| host.open()).collect();
        for (peer, _) in &mut peers {
            for number in 0..50 {
                peer.text(&number.to_string());
                peer.ping(b"in between");
            }
            // The budget also cuts between two fragments.
            peer.frame(TEXT, false, b"5");
            peer.frame(CONTINUE, true, b"0");
            peer.close(1000);
        }
        let mut got = vec![Vec::new(); 3];
        let (mut closed, mut polls) = (0, 0);
        while closed < 3 {
            polls += 1;
            let tick = host.poll();
            host.check();
            assert!(tick.len() <= event_budget);
            for (client, bytes) in messages(&tick) {
                got[client.index()].push(String::from_utf8(bytes).unwrap());
            }
            closed += closes(&tick).len();
            // Each stream has to be read once more to find it drained.
            assert!(tick.more() == (closed < 3) || has_windows_readiness(), "after {polls} polls");
        }
        // 50 messages, 50 pings, two fragments and a close frame per client.
        let frames = 3 * (50 + 50 + 3);
        assert!((frames / event_budget..frames + 10).contains(&polls), "{polls} polls");
        let expected: Vec<String> = (0..51).map(|number| number.to_string()).collect();
        assert_eq!(got, [expected.clone(), expected.clone(), expected]);
        assert_eq!(closed, 3);
        host.settle();
        for (peer, _) in &mut peers {
            assert_eq!(peer.frames().len(), 51, "a pong for each ping, and the close frame");
        }
    }
}

#[test]
fn the_read_budget_is_per_client_and_poll() {
    let mut host = Host::new(Config { read_budget: 10, ..Config::default() });
    // The handshake also takes several polls.
    let mut open = || {
        let mut peer = host.connect();
        peer.handshake();
        host.settle();
        assert_eq!(peer.frames(), []);
        (peer, host.engine.clients().max().unwrap())
    };
    let (mut large, id) = open();
    let (mut small, other) = open();
    large.binary(&[7; 992]);
    let mut delivered = Vec::new();
    for poll in 1..=100 {
        small.binary(&[1, 2, 3, 4]);
        let before = host.engine.stats().bytes_in;
        let tick = host.poll();
        host.check();
        assert_eq!(host.engine.stats().bytes_in - before, 20);
        assert!(tick.more(), "poll {poll}: `more` is missing");
        assert_eq!(messages(&tick).iter().filter(|(from, _)| *from == other).count(), 1);
        delivered.extend(messages(&tick).into_iter().filter(|(from, _)| *from == id));
    }
    assert_eq!(delivered, [(id, vec![7; 992])]);
    host.settle();
}

#[test]
fn a_message_far_larger_than_a_block_comes_whole() {
    for read_budget in [1_000, 256 * 1024, usize::MAX] {
        let mut host = Host::new(Config { read_budget, max_message_size: 4 << 20, ..Config::default() });
        let (mut peer, client) = host.open();
        peer.set_buffers(8 << 20, 1_000);
        let bytes: Vec<u8> = (0..3 << 20).map(|i: u32| (i.wrapping_mul(i) >> 7) as u8).collect();
        peer.binary(&bytes);
        peer.text("next");
        let mut got = Vec::new();
        while got.len() < 2 {
            let before = host.engine.stats().bytes_in;
            got.extend(messages(&host.poll()));
            let read = host.engine.stats().bytes_in - before;
            assert!(
                read <= (4 * TickBuffer::BLOCK as u64).saturating_add(read_budget as u64),
                "{read} bytes in one poll"
            );
        }
        assert_eq!(got, [(client, bytes), (client, b"next".to_vec())]);
    }
}

#[test]
fn pause_holds_back_unparsed_input() {
    let mut host = Host::new(Config { event_budget: 2, ..Config::default() });
    let (mut peer, client) = host.open();
    (0..7_u8).for_each(|number| peer.binary(&[number]));
    let mut got = Vec::new();
    let tick = host.poll();
    assert!(tick.more());
    got.extend(messages(&tick));
    host.engine.pause_reading(client).unwrap();
    peer.binary(&[7]);
    assert_eq!(host.settle(), 0);
    assert_ne!(host.engine.next_timeout(host.now), Some(Duration::ZERO), "nothing to do");
    host.engine.resume_reading(client, host.now).unwrap();
    assert_eq!(host.engine.next_timeout(host.now), Some(Duration::ZERO), "there is");
    while got.len() < 8 {
        let tick = host.poll();
        assert!(!tick.is_empty());
        got.extend(messages(&tick));
        // Pausing and resuming within one tick has no effect.
        host.engine.pause_reading(client).unwrap();
        host.engine.resume_reading(client, host.now).unwrap();
    }
    assert_eq!(got, (0..8_u8).map(|number| (client, vec![number])).collect::<Vec<_>>());
}

#[test]
fn a_paused_client_can_be_closed() {
    let mut host = Host::new(Config { event_budget: 2, ..Config::default() });
    let (mut peer, client) = host.open();
    (0..7_u8).for_each(|number| peer.binary(&[number]));
    assert_eq!(host.poll().len(), 2);
    host.engine.pause_reading(client).unwrap();
    host.settle();
    host.engine.close(client, crate::CloseCode::NORMAL_CLOSURE, "", host.now).unwrap();
    assert_eq!(host.engine.pause_reading(client), Ok(()), "the close handshake goes on");
    assert_eq!(host.settle(), 0, "its messages mean nothing any more");
    peer.close(1000);
    let tick = host.poll();
    assert!(matches!(closes(&tick)[..], [(_, CloseReason::Local { .. })]), "{tick:?}");
}

#[test]
fn a_kept_tick_stays_valid_and_dropped_ones_are_recycled() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    peer.text("keep me");
    let kept = host.poll();
    let mut blocks = std::collections::HashSet::new();
    for _ in 0..1_000 {
        peer.text("passing by");
        let tick = host.poll();
        let Some(Event::Message { message, .. }) = tick.iter().next() else { panic!("no message") };
        blocks.insert(message.as_bytes().as_ptr());
    }
    assert!(blocks.len() <= 2, "{} blocks for 1000 ticks", blocks.len());
    assert_eq!(messages(&kept), [(client, b"keep me".to_vec())]);
    let Some(Event::Message { message, .. }) = kept.iter().next() else { panic!("no message") };
    assert!(!blocks.contains(&message.as_bytes().as_ptr()));
    drop(host);
    assert_eq!(messages(&kept), [(client, b"keep me".to_vec())], "longer than the server");
}

#[test]
fn an_idle_client_owns_no_buffers() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    for round in 0..5 {
        peer.binary(&vec![7; 70_000 * round]);
        peer.frame(TEXT, false, b"in two");
        peer.frame(CONTINUE, true, b" pieces");
        peer.raw(b"\x82");
        host.settle();
        peer.raw(b"\x80key!");
        host.engine.send(client, (&vec![7; 300_000]).into()).unwrap();
        let _ = host.engine.broadcast("small".into(), None);
        let _ = host.engine.broadcast((&vec![7; 5_000]).into(), None);
        while host.settle() + peer.read(usize::MAX) > 0 {}
        host.check();
        let slot = &host.engine.clients[client.index()];
        assert_eq!((slot.unparsed.capacity(), slot.outbox.capacity(), slot.outbox.len()), (0, 0, 0));
    }
    assert_eq!(host.engine.stats().messages_in, 15);
}

#[test]
fn tick_takes_one_read_and_one_vectored_write() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    let before = peer.calls();
    (0..30).for_each(|_| peer.text("pipelined"));
    let tick = host.poll();
    assert_eq!(tick.len(), 30);
    for (client, bytes) in messages(&tick) {
        host.engine.send(client, (&bytes).into()).unwrap();
        let _ = host.engine.broadcast((&vec![1; 2_000]).into(), None);
    }
    host.engine.send(client, "and this".into()).unwrap();
    host.engine.flush(host.now);
    let after = peer.calls();
    // 30 shared frames with small ones between them: more slices than one vectored write takes.
    // As on Windows, a second read finds the stream drained.
    let reads = if has_windows_readiness() { 2 } else { 1 };
    assert_eq!((after.0 - before.0, after.1 - before.1), (reads, 2));
    assert_eq!(peer.frames().len(), 61);
}
