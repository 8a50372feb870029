//! The server-wide memory limit: its steps, their order, and the return to normal.

use super::*;
use crate::{Prepared, Pressure};

const KB: usize = 1000;

/// A limit of 800 KB, so that an eighth is 100 KB.
fn memory_limit() -> Config {
    Config { max_total_buffered: Some(800 * KB), max_buffered: 400 * KB, ..Config::default() }
}

/// A client whose socket accepts only 100 bytes.
fn blocked_client(host: &mut Host) -> (Peer, ClientId) {
    let (peer, client) = host.open();
    peer.set_buffers(256 * 1024, 100);
    (peer, client)
}

/// Queues `kilobytes` in messages that no two clients share. Prepared messages are framed with
/// exactly as much memory as they have bytes.
fn queue(host: &mut Host, client: ClientId, kilobytes: usize) {
    for _ in 0..kilobytes / 10 {
        host.engine.send(client, Prepared::new(vec![7; 10 * KB]).into()).unwrap();
    }
}

fn pressures(tick: &Tick) -> Vec<Pressure> {
    let pressure = |event: Event<'_>| match event {
        Event::Pressure { pressure } => Some(pressure),
        _ => None,
    };
    tick.iter().filter_map(pressure).collect()
}

#[test]
fn memory_pressure_first_rejects_new_connections() {
    let mut host = Host::new(memory_limit());
    let (mut slow, slow_id) = blocked_client(&mut host);
    let (_other, other) = blocked_client(&mut host);
    queue(&mut host, slow_id, 300);
    queue(&mut host, other, 200);
    assert_eq!(pressures(&host.poll()), []);
    queue(&mut host, other, 120);
    assert_eq!(pressures(&host.poll()), [Pressure::Refusing]);
    assert_eq!(host.engine.pressure(), Pressure::Refusing);

    let mut late = host.connect();
    late.handshake();
    host.settle();
    assert_eq!((late.frames(), late.status()), (vec![], Some(503)));
    assert_eq!(host.engine.stats().rejected.overloaded, 1);
    assert_eq!(closes(&host.poll()), []);

    // Between 5/8 and 3/4 of the limit the pressure stays; below it ends.
    slow.set_buffers(256 * 1024, 60 * KB);
    slow.frames();
    host.settle();
    assert_eq!(host.engine.pressure(), Pressure::Refusing);
    slow.set_buffers(256 * 1024, 1 << 20);
    slow.frames();
    assert_eq!(pressures(&host.poll()), [Pressure::Low]);
    host.open();
}

#[test]
fn memory_pressure_then_stops_reading_and_lets_the_host_sleep() {
    let mut host = Host::new(memory_limit());
    let (mut talker, talker_id) = host.open();
    let (mut slow, slow_id) = blocked_client(&mut host);
    let (_other, other) = blocked_client(&mut host);
    talker.text("before");
    assert_eq!(messages(&host.poll()).len(), 1);
    queue(&mut host, slow_id, 350);
    queue(&mut host, other, 360);
    (0..3).for_each(|n| talker.text(&format!("{n}")));
    let tick = host.poll();
    assert_eq!((pressures(&tick), messages(&tick)), (vec![Pressure::NotReading], vec![]));
    for _ in 0..5 {
        assert_eq!(host.poll().len(), 0);
        let sleep = host.engine.next_timeout(host.now).unwrap();
        assert!(sleep > Duration::ZERO && sleep <= 250 * MS, "{sleep:?}");
        talker.ping(b"too");
    }
    assert!(talker.pending() > 0, "TCP has to slow it down");
    assert_eq!(host.engine.stats().reading_stops, 1);

    // Reading resumes once the slow client has taken enough, and no message was lost.
    slow.set_buffers(256 * 1024, 1 << 20);
    let _ = host.poll();
    slow.frames();
    let mut received = Vec::new();
    for _ in 0..5 {
        received.extend(messages(&host.poll()));
    }
    assert_eq!(received, ["0", "1", "2"].map(|text| (talker_id, text.into())));
    assert_eq!(talker.frames().len(), 5, "the pongs");
    assert_eq!(host.engine.stats().closed.total(), 0);
}

#[test]
fn reading_resumes_only_below_the_lower_threshold() {
    let mut host = Host::new(memory_limit());
    let (mut slow, slow_id) = blocked_client(&mut host);
    let (_other, other) = blocked_client(&mut host);
    queue(&mut host, slow_id, 360);
    queue(&mut host, other, 350);
    assert_eq!(pressures(&host.poll()), [Pressure::NotReading]);
    slow.set_buffers(256 * 1024, 60 * KB);
    slow.frames();
    host.settle();
    assert!((600 * KB..700 * KB).contains(&host.engine.total_buffered()));
    assert_eq!(host.engine.pressure(), Pressure::NotReading);
}

#[test]
fn closing_clients_are_read_despite_memory_pressure() {
    let mut host = Host::new(memory_limit());
    let (mut leaving, leaving_id) = host.open();
    let (_slow, slow) = blocked_client(&mut host);
    let (_other, other) = blocked_client(&mut host);
    queue(&mut host, slow, 360);
    queue(&mut host, other, 360);
    leaving.text("unread");
    let _ = host.poll();
    host.engine.close(leaving_id, crate::CloseCode::NORMAL_CLOSURE, "bye", host.now).unwrap();
    let _ = host.poll();
    assert!(matches!(leaving.frames()[..], [Frame::Close(1000, _)]));
    leaving.close(1000);
    let mut ended = Vec::new();
    (0..3).for_each(|_| ended.extend(closes(&host.poll())));
    assert_eq!(ended.len(), 1, "{ended:?}");
    leaving.fin();
    host.settle();
    assert!(leaving.is_dropped());
    assert_eq!(host.engine.pressure(), Pressure::NotReading);
}

#[test]
fn lasting_memory_pressure_closes_the_largest_clients() {
    let mut host = Host::new(memory_limit());
    let (mut talker, talker_id) = host.open();
    let mut small: Vec<_> = (0..3).map(|_| blocked_client(&mut host)).collect();
    let (mut large, large_id) = blocked_client(&mut host);
    for (_, client) in &small {
        queue(&mut host, *client, 130);
    }
    queue(&mut host, large_id, 380);
    talker.text("received at the end");
    assert_eq!(pressures(&host.poll()), [Pressure::NotReading]);
    host.advance(249 * MS);
    assert_eq!(host.poll().len(), 0);
    host.advance(MS);
    let tick = host.poll();
    assert_eq!(closes(&tick), [(large_id, CloseReason::Shed)]);
    assert_eq!(pressures(&tick), [Pressure::Low]);
    assert_eq!(host.engine.stats().closed.shed, 1);
    assert_eq!(messages(&tick), [(talker_id, b"received at the end".to_vec())]);

    // The client gets 1013 behind the frame that was half sent.
    large.set_buffers(256 * 1024, 1 << 20);
    let mut frames = Vec::new();
    for _ in 0..3 {
        frames.extend(large.frames());
        let _ = host.poll();
    }
    assert!(matches!(&frames[..], [Frame::Binary(bytes), Frame::Close(1013, _)] if bytes.len() == 10 * KB));
    for (peer, _) in &mut small {
        peer.set_buffers(256 * 1024, 1 << 20);
        host.settle();
        assert_eq!((peer.frames().len(), peer.rest().len()), (13, 0));
    }
}

#[test]
fn held_back_client_is_read_after_each_pause() {
    let mut host = Host::new(memory_limit());
    let (mut talker, talker_id) = host.open();
    let (mut slow, slow_id) = blocked_client(&mut host);
    let (_other, other) = blocked_client(&mut host);
    queue(&mut host, other, 350);
    for round in 1..=3 {
        queue(&mut host, slow_id, 370);
        talker.text("received in spite of it");
        assert_eq!(messages(&host.poll()), []);
        slow.set_buffers(256 * 1024, 1 << 20);
        slow.frames();
        let mut received = Vec::new();
        (0..3).for_each(|_| received.extend(messages(&host.poll())));
        assert_eq!(received, [(talker_id, b"received in spite of it".to_vec())]);
        assert_eq!(host.engine.stats().reading_stops, round);
        slow.frames();
        slow.set_buffers(256 * 1024, 100);
    }
}

#[test]
fn broken_connection_is_reported_while_reading_is_stopped() {
    let mut host = Host::new(memory_limit());
    let (mut broken, broken_id) = host.open();
    let [(_slow, slow), (_other, other)] = [blocked_client(&mut host), blocked_client(&mut host)];
    queue(&mut host, slow, 360);
    queue(&mut host, other, 360);
    broken.text("unread");
    assert_eq!(pressures(&host.poll()), [Pressure::NotReading]);
    broken.reset(false);
    host.engine.send(broken_id, "are you there?".into()).unwrap();
    let mut ended = Vec::new();
    (0..3).for_each(|_| ended.extend(closes(&host.poll())));
    assert!(matches!(ended[..], [(id, CloseReason::Io(_))] if id == broken_id), "{ended:?}");
}

#[test]
fn lingering_client_counts_towards_the_memory_limit() {
    let mut host = Host::new(memory_limit());
    let [(leaving, leaving_id), (_other, other)] = [blocked_client(&mut host), blocked_client(&mut host)];
    queue(&mut host, leaving_id, 390);
    while host.engine.send(leaving_id, (&[7; 10 * KB]).into()).is_ok() {}
    assert_eq!(closes(&host.poll()), [(leaving_id, CloseReason::Overflow)]);
    queue(&mut host, other, 340);
    assert_eq!(pressures(&host.poll()), [Pressure::NotReading]);
    host.advance(250 * MS);
    assert_eq!((closes(&host.poll()), host.engine.pressure()), (vec![], Pressure::Low));
    assert!(leaving.is_dropped());
    host.check();
}

#[test]
fn memory_limit_holds_between_flushes_in_every_lane() {
    for latest in [false, true] {
        let mut host = Host::new(memory_limit());
        let all: Vec<_> = (0..5).map(|_| blocked_client(&mut host).1).collect();
        for number in 0..40u32 {
            for client in &all {
                let message = Prepared::new([7; 900]);
                let _ = match latest {
                    true => (0..10).try_for_each(|n| {
                        host.engine.send_latest(*client, (10 * number + n).into(), (&message).into())
                    }),
                    false => (0..10).try_for_each(|_| host.engine.send(*client, (&message).into())),
                };
                assert!(host.engine.total_buffered() <= 800 * KB);
            }
        }
        assert!((1..5).contains(&host.engine.stats().closed.shed), "{}", host.engine.stats());
        let _ = host.poll();
        host.check();
    }
}

#[test]
fn no_more_clients_are_closed_than_necessary() {
    for shared in [false, true] {
        let mut host = Host::new(memory_limit());
        let (talker, talker_id) = host.open();
        talker.raw(&crate::net::sim::masked(BINARY, true, &[7; 9_000], 3)[..5_000]);
        let all: Vec<_> = (0..45).map(|_| blocked_client(&mut host)).collect();
        // The first frame of each client is half sent.
        let first = Prepared::new([7; 15 * KB]);
        for (_, client) in &all {
            let own = Prepared::new([7; 15 * KB]);
            let first = if shared { &first } else { &own };
            host.engine.send(*client, first.into()).unwrap();
            let second = vec![7; if shared { 15 * KB + 500 } else { KB }];
            host.engine.send(*client, Prepared::new(&second).into()).unwrap();
        }
        assert_eq!(pressures(&host.poll()), [Pressure::NotReading]);
        host.advance(250 * MS);
        let ended = closes(&host.poll());
        assert!(ended.iter().all(|(id, _)| *id != talker_id), "{ended:?}");
        assert!((5..=12).contains(&ended.len()), "{}", ended.len());
        assert_eq!(host.engine.pressure(), Pressure::Refusing);
    }
}

#[test]
fn data_drained_during_a_host_pause_prevents_closing() {
    let mut host = Host::new(memory_limit());
    let (mut slow, slow_id) = blocked_client(&mut host);
    let (_other, other) = blocked_client(&mut host);
    queue(&mut host, slow_id, 380);
    queue(&mut host, other, 340);
    assert_eq!(pressures(&host.poll()), [Pressure::NotReading]);
    slow.set_buffers(256 * 1024, 1 << 20);
    slow.frames();
    host.advance(SEC);
    let tick = host.poll();
    assert_eq!((closes(&tick), pressures(&tick)), (vec![], vec![Pressure::Low]));
}

#[test]
fn exceeding_the_memory_limit_closes_the_largest_at_once() {
    let mut host = Host::new(memory_limit());
    let healthy: Vec<_> = (0..5).map(|_| host.open()).collect();
    let all: Vec<_> = (0..5).map(|_| blocked_client(&mut host)).collect();
    let mut ended = Vec::new();
    let mut sent = 0;
    while ended.is_empty() {
        // The messages are small enough to be copied, so that each client holds its own.
        let _ = host.engine.broadcast((&[7; 900]).into(), None);
        sent += 1;
        ended.extend(closes(&host.poll()));
        assert!(host.engine.total_buffered() <= 800 * KB);
        assert!(sent < 400);
    }
    assert!(
        ended.iter().all(|(id, reason)| *reason == CloseReason::Shed && all.iter().any(|(_, a)| a == id))
    );
    for (mut peer, _) in healthy {
        assert_eq!(peer.frames().len(), sent);
    }
}

#[test]
fn partial_messages_count_and_the_largest_is_closed() {
    let mut host = Host::new(memory_limit());
    let mut peers: Vec<_> = (0..10).map(|_| host.open()).collect();
    for (number, (peer, _)) in peers.iter_mut().enumerate() {
        let mut bytes = crate::net::sim::masked(BINARY, true, &vec![number as u8; 200 * KB], 3);
        bytes.truncate((60 + 5 * number) * KB);
        peer.raw(&bytes);
    }
    let mut ended = Vec::new();
    // The clients become leaders one after the other, and stall.
    for _ in 0..400 {
        ended.extend(closes(&host.poll()));
        host.check();
        host.advance(10 * MS);
    }
    assert!(!ended.is_empty() && ended.iter().all(|(_, reason)| *reason == CloseReason::Shed), "{ended:?}");
    assert!(host.engine.pressure() < Pressure::NotReading);
    // The clients that are left can complete their messages.
    let (peer, client) = peers.iter_mut().find(|(_, id)| ended.iter().all(|(gone, _)| gone != id)).unwrap();
    peer.raw(&crate::net::sim::masked(BINARY, true, &vec![0; 200 * KB], 3)[60 * KB..]);
    let mut received = Vec::new();
    (0..20).for_each(|_| received.extend(messages(&host.poll())));
    assert_eq!(received.len(), 1, "{received:?}");
    assert_eq!((received[0].0, received[0].1.len()), (*client, 200 * KB));
}

#[test]
fn incomplete_request_heads_count_towards_the_memory_limit() {
    let mut host = Host::new(Config { max_total_buffered: Some(20 * KB), ..Config::default() });
    let peers: Vec<_> = (0..10).map(|_| host.connect()).collect();
    for peer in &peers {
        let filler = "x".repeat(3 * KB);
        peer.raw(format!("GET / HTTP/1.1\r\nX-Filler: {filler}").as_bytes());
    }
    for _ in 0..40 {
        assert_eq!(closes(&host.poll()), []);
        assert!(host.engine.total_buffered() <= 24 * KB, "{}", host.engine.total_buffered());
        host.check();
        host.advance(10 * MS);
    }
    assert!(host.engine.stats().rejected.overloaded > 0);
}

#[test]
fn shared_frame_counts_once_towards_the_memory_limit() {
    let mut host = Host::new(memory_limit());
    let mut all: Vec<_> = (0..50).map(|_| blocked_client(&mut host)).collect();
    assert_eq!(host.engine.broadcast((&vec![7; 300 * KB]).into(), None).queued, 50);
    assert_eq!(pressures(&host.poll()), []);
    let total = host.engine.total_buffered();
    assert!((300 * KB..330 * KB).contains(&total), "{total}");
    for (peer, _) in &mut all {
        peer.set_buffers(256 * 1024, 1 << 20);
    }
    host.settle();
    assert_eq!(host.engine.total_buffered(), 0);
    for (peer, _) in &mut all {
        assert_eq!(peer.frames(), [Frame::Binary(vec![7; 300 * KB])]);
    }
}

#[test]
fn nothing_is_shed_without_a_memory_limit() {
    let mut host = Host::new(Config { max_total_buffered: None, max_buffered: 1 << 20, ..Config::default() });
    let all: Vec<_> = (0..4).map(|_| blocked_client(&mut host)).collect();
    for (_, client) in &all {
        queue(&mut host, *client, 1_000);
    }
    assert_eq!(host.poll().len(), 0);
    assert!(host.engine.total_buffered() > 4_000 * KB);
}

// ---- many large messages at a time ----

const SENDERS: usize = 60;
const MESSAGE: usize = 100_000;

fn crowd() -> (Host, Vec<(Peer, ClientId)>) {
    let config = Config {
        max_total_buffered: Some(2_000_000),
        max_message_size: MESSAGE,
        silence_timeout: None,
        ..Config::default()
    };
    let mut host = Host::new(config);
    let peers: Vec<_> = (0..SENDERS).map(|_| host.open()).collect();
    (host, peers)
}

/// Sends the message of each sender in pieces, in turns, from `from` to `to`.
fn send_pieces(host: &mut Host, peers: &[(Peer, ClientId)], from: usize, to: usize) -> Vec<ClientId> {
    let message = crate::net::sim::masked(BINARY, true, &[7; MESSAGE], 1);
    let (mut at, mut complete) = (from, Vec::new());
    while at < to.min(message.len()) {
        let end = (at + 5_000).min(message.len()).min(to);
        for (peer, _) in peers {
            peer.raw(&message[at..end]);
        }
        at = end;
        let tick = host.poll();
        assert_eq!(closes(&tick), []);
        host.check();
        complete.extend(messages(&tick).into_iter().map(|(client, _)| client));
    }
    complete
}

/// Polls until `count` messages are complete.
fn poll_until(host: &mut Host, complete: &mut Vec<ClientId>, count: usize) {
    for _ in 0..5_000 {
        if complete.len() == count {
            return;
        }
        host.advance(5 * MS);
        let tick = host.poll();
        assert_eq!(closes(&tick), []);
        host.check();
        complete.extend(messages(&tick).into_iter().map(|(client, _)| client));
    }
}

#[test]
fn large_messages_of_a_crowd_are_completed_and_nobody_is_shed() {
    let (mut host, peers) = crowd();
    let mut complete = send_pieces(&mut host, &peers, 0, usize::MAX);
    poll_until(&mut host, &mut complete, SENDERS);
    complete.sort();
    assert_eq!(complete, peers.iter().map(|(_, id)| *id).collect::<Vec<_>>());
    assert_eq!(host.engine.stats().closed.total(), 0);
    assert_eq!(host.engine.stats().reading_stops, 0, "reading went on for some all the time");
}

#[test]
fn stalled_large_messages_do_not_keep_others_from_completing() {
    let (mut host, peers) = crowd();
    let (stalled, others) = peers.split_at(SENDERS / 10);
    // The stalled ones begin first, and so have precedence.
    let mut complete = send_pieces(&mut host, stalled, 0, 60_000);
    complete.extend(send_pieces(&mut host, others, 0, usize::MAX));
    poll_until(&mut host, &mut complete, others.len());
    complete.sort();
    assert_eq!(complete, others.iter().map(|(_, id)| *id).collect::<Vec<_>>());
    assert!(host.elapsed() < 5 * SEC, "{:?}", host.elapsed());
    // The stalled ones may go on.
    let more = send_pieces(&mut host, stalled, 60_000, usize::MAX);
    let mut late = more.len();
    for _ in 0..500 {
        host.advance(5 * MS);
        late += messages(&host.poll()).len();
    }
    assert_eq!((late, host.engine.stats().closed.total()), (stalled.len(), 0));
}

/// Clients that hold more than a quarter of the limit, and keep their connections busy with a byte
/// per poll, delay neither small messages nor, for long, large ones.
#[test]
fn trickling_clients_do_not_keep_others_from_being_read() {
    for rest in [1, 16] {
        let (mut host, peers) = crowd();
        let (slow, healthy) = peers.split_at(SENDERS / 6);
        send_pieces(&mut host, slow, 0, 70_000);
        let message = crate::net::sim::masked(BINARY, true, &[7; MESSAGE], 1);
        let (small, large) = (&healthy[0], &healthy[1..]);
        for (peer, _) in large {
            peer.raw(&message);
        }
        let mut complete = Vec::new();
        for round in 0..1_000 {
            for (peer, _) in slow {
                peer.raw(&message[70_000 + rest * round..70_000 + rest * (round + 1)]);
            }
            small.0.raw(&crate::net::sim::masked(BINARY, true, b"small", 1));
            host.advance(10 * MS);
            let tick = host.poll();
            host.check();
            assert_eq!(closes(&tick), []);
            let mut received = messages(&tick);
            received.retain(|(client, message)| (*client, message.len()) != (small.1, 5));
            assert_eq!(messages(&tick).len(), received.len() + 1, "each small message is read at once");
            complete.extend(received.into_iter().map(|(client, _)| client));
            if complete.len() == large.len() {
                break;
            }
        }
        complete.sort();
        assert_eq!(complete, large.iter().map(|(_, id)| *id).collect::<Vec<_>>());
        assert!(host.elapsed() < 2 * SEC, "{:?}", host.elapsed());
    }
}

#[test]
fn leader_gives_its_precedence_up_when_its_message_is_complete() {
    let (mut host, peers) = crowd();
    let (stalled, others) = peers.split_at(SENDERS / 6);
    send_pieces(&mut host, stalled, 0, 70_000);
    for _ in 0..6 {
        host.advance(SEC);
        let _ = host.poll();
    }
    // Five clients lead, and one waits.
    let (leaders, (waits, waiting)) = (&others[..5], &others[5]);
    let bytes = crate::net::sim::masked(BINARY, true, &[7; 7_000], 1).repeat(2);
    let mut send = |range: std::ops::Range<usize>| {
        leaders.iter().for_each(|(peer, _)| peer.raw(&bytes[range.clone()]));
        messages(&host.poll())
    };
    assert_eq!((send(0..6_000), send(6_000..6_500)), (vec![], vec![]));
    waits.raw(&crate::net::sim::masked(BINARY, true, &[7; MESSAGE], 1));
    assert_eq!(send(0..0), []);
    // With the last bytes of the leaders' messages most of their next ones arrive.
    let received = send(6_500..13_500);
    assert_eq!(received.len(), 6, "the message of each leader, and the one that waited");
    assert!(received.iter().any(|(client, message)| (client, message.len()) == (waiting, MESSAGE)));
}

#[test]
fn clients_that_leave_while_they_wait_do_not_make_the_queue_grow() {
    let (mut host, peers) = crowd();
    send_pieces(&mut host, &peers, 0, 70_000);
    let bytes = crate::net::sim::masked(BINARY, true, &[7; MESSAGE], 1);
    for _ in 0..400 {
        let (peer, client) = host.open();
        for range in [0..4_000, 4_000..8_000, 8_000..12_000] {
            peer.raw(&bytes[range]);
            let _ = host.poll();
        }
        let _ = host.engine.disconnect(client);
        let _ = host.poll();
        let _ = host.poll();
        host.check();
    }
    let waiting = host.engine.precedence.waiting();
    assert!((1..=2 * SENDERS + 70).contains(&waiting), "{waiting} clients wait");
}
