//! Latest values, expiry and priority, case by case: pending messages and their way to the outbox.

use super::*;
use crate::{
    CloseCode, LatestKey, OverflowPolicy, Prepared, Priority, SendError, SendOptions,
    config::audience::Audience, outbox::pending::Pending,
};

/// A client whose socket accepted one byte of a message of `begun` bytes, and accepts no more for
/// now.
fn blocked(host: &mut Host, begun: usize) -> (Peer, ClientId) {
    let (mut peer, client) = host.open();
    peer.set_buffers(100_000, 1);
    host.engine.send(client, (&vec![0; begun]).into()).unwrap();
    host.settle();
    peer.read(1);
    peer.set_buffers(100_000, 0);
    (peer, client)
}

fn high() -> SendOptions {
    SendOptions::new().priority(Priority::High)
}

fn within(expires_in: Duration) -> SendOptions {
    SendOptions::new().expires_in(expires_in)
}

fn send(host: &mut Host, client: ClientId, message: &str, options: SendOptions) {
    assert_eq!(host.engine.send_with(client, message.into(), &options, Some(host.now)), Ok(()));
}

fn latest(host: &mut Host, client: ClientId, key: impl Into<LatestKey>, message: &str) {
    assert_eq!(host.engine.send_latest(client, key.into(), message.into()), Ok(()));
}

/// Unblocks the socket and reads everything.
fn read_all(host: &mut Host, peer: &mut Peer) -> Vec<Frame> {
    peer.set_buffers(100_000, 1 << 20);
    let mut frames = Vec::new();
    for _ in 0..20 {
        host.settle();
        frames.extend(peer.frames());
    }
    frames
}

/// The texts among the frames, without their filler.
fn texts(frames: &[Frame]) -> Vec<&str> {
    let mut texts = Vec::new();
    for frame in frames {
        if let Frame::Text(text) = frame {
            texts.push(text.trim_end_matches('.'));
        }
    }
    texts
}

fn nothing_is_held(host: &Host, client: ClientId) {
    assert_eq!((host.engine.outbound.held(), host.engine.pending_pool.held()), (0, 0));
    assert!(host.engine.get(client).is_none_or(|client| !client.has_output()));
}

#[test]
fn high_priority_overtakes_a_megabyte_of_normal_priority() {
    let mut host = Host::new(Config { max_buffered: 2 << 20, ..Config::default() });
    let (mut peer, client) = blocked(&mut host, 10);
    (0..1_000).for_each(|_| host.engine.send(client, (&[7; 1_000]).into()).unwrap());
    send(&mut host, client, "fire!", high());
    let frames = read_all(&mut host, &mut peer);
    assert_eq!(frames[..2], [Frame::Binary(vec![0; 10]), text("fire!")]);
    assert_eq!(frames.len(), 1_002);
    nothing_is_held(&host, client);
}

#[test]
fn all_high_priority_messages_come_first() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = blocked(&mut host, 10);
    (0..100).for_each(|_| host.engine.send(client, (&[7; 2_000]).into()).unwrap());
    let names: Vec<String> = (0..20).map(|number| format!("{number:03}")).collect();
    for name in &names {
        send(&mut host, client, &format!("{name:.<3000}"), high());
        // Messages of normal priority between them leave in the same write.
        host.engine.send(client, (&[7; 100]).into()).unwrap();
    }
    let frames = read_all(&mut host, &mut peer);
    assert_eq!(texts(&frames[1..21]), names);
    assert_eq!(frames.len(), 1 + 20 + 120);
}

#[test]
fn high_priority_keeps_order_and_takes_one_write() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    for round in 0..3 {
        let before = peer.calls().1;
        host.engine.send(client, "plain".into()).unwrap();
        latest(&mut host, client, 1, "latest");
        for message in ["one", "two", "three"] {
            send(&mut host, client, message, high());
        }
        host.engine.flush(host.now);
        assert_eq!(texts(&peer.frames()), ["one", "two", "three", "plain", "latest"], "{round}");
        assert_eq!(peer.calls().1, before + 1);
        nothing_is_held(&host, client);
    }
}

#[test]
fn high_priority_between_two_writes_keeps_its_order() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    peer.set_buffers(100_000, 10);
    // The first message is half sent when the third is queued.
    send(&mut host, client, "first.....................", high());
    send(&mut host, client, "second", high());
    host.engine.send(client, "data".into()).unwrap();
    host.settle();
    send(&mut host, client, "third", high());
    host.engine.send(client, "more data".into()).unwrap();
    let frames = read_all(&mut host, &mut peer);
    assert_eq!(texts(&frames), ["first", "second", "third", "data", "more data"]);
}

#[test]
fn pong_overtakes_unsent_high_priority() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = blocked(&mut host, 10);
    send(&mut host, client, "one", high());
    host.settle();
    peer.ping(b"1");
    peer.ping(b"2");
    host.settle();
    send(&mut host, client, "two", high());
    host.engine.send(client, "data".into()).unwrap();
    let frames = read_all(&mut host, &mut peer);
    assert_eq!(frames[1], Frame::Pong(b"2".to_vec()));
    assert_eq!(texts(&frames), ["one", "two", "data"]);
}

#[test]
fn newer_value_takes_the_position_of_the_older_one() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = blocked(&mut host, 10);
    latest(&mut host, client, "a", "a1");
    host.engine.send(client, "x".into()).unwrap();
    latest(&mut host, client, 7, "7: one");
    latest(&mut host, client, "a", "a2, which is longer");
    host.engine.send(client, "y".into()).unwrap();
    latest(&mut host, client, 7, "7");
    latest(&mut host, client, "7", "another");
    assert_eq!(host.engine.buffered(client), 11 + "a2, which is longerx7yanother".len());
    let frames = read_all(&mut host, &mut peer);
    assert_eq!(texts(&frames), ["a2, which is longer", "x", "7", "y", "another"]);
    let stats = host.engine.stats();
    assert_eq!((stats.messages_out, stats.replaced, stats.expired), (8, 2, 0));
    nothing_is_held(&host, client);
}

#[test]
fn partly_written_value_is_not_replaced() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    peer.set_buffers(100_000, 3);
    latest(&mut host, client, 1, "old value");
    host.settle();
    latest(&mut host, client, 1, "new value");
    latest(&mut host, client, 1, "newest value");
    let frames = read_all(&mut host, &mut peer);
    assert_eq!(texts(&frames), ["old value", "newest value"]);
    assert_eq!(host.engine.stats().replaced, 1);
}

#[test]
fn value_that_changes_priority_moves_to_the_end() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = blocked(&mut host, 10);
    let keyed = |options: SendOptions| options.latest(1);
    latest(&mut host, client, 1, "slow");
    host.engine.send(client, "x".into()).unwrap();
    send(&mut host, client, "urgent", high());
    send(&mut host, client, "fast", keyed(high()));
    send(&mut host, client, "more urgent", high());
    latest(&mut host, client, 2, "other");
    send(&mut host, client, "fastest", keyed(high()));
    assert_eq!(host.engine.stats().replaced, 2);
    send(&mut host, client, "back", keyed(SendOptions::new()));
    send(&mut host, client, "forth", keyed(high()));
    let frames = read_all(&mut host, &mut peer);
    assert_eq!(texts(&frames), ["urgent", "more urgent", "forth", "x", "other"]);
    assert_eq!(host.engine.stats().replaced, 4);
}

#[test]
fn expired_messages_are_not_sent_and_are_counted() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = blocked(&mut host, 10);
    send(&mut host, client, "short", within(100 * MS));
    send(&mut host, client, "long", within(SEC));
    send(&mut host, client, "short and urgent", high().expires_in(100 * MS));
    host.advance(100 * MS);
    host.settle();
    assert_eq!(texts(&read_all(&mut host, &mut peer)), ["long"]);
    assert_eq!(host.engine.stats().expired, 2);
    // An expired message alone causes no write, and leaves no state behind.
    send(&mut host, client, "now or never", within(Duration::ZERO));
    let calls = peer.calls();
    assert_eq!(host.settle(), 0);
    assert_eq!((peer.calls(), host.engine.stats().expired), (calls, 3));
    nothing_is_held(&host, client);
}

#[test]
fn expired_messages_make_room_before_overflow() {
    for overflow in [OverflowPolicy::Disconnect, OverflowPolicy::DropNewest] {
        let mut host = Host::new(Config { max_buffered: 1_000, overflow, ..Config::default() });
        let (mut peer, client) = blocked(&mut host, 10);
        let room = 1_000 - 11;
        for number in 0..3 {
            let message = format!("{number:.<0$}", room / 3 - Pending::OVERHEAD);
            send(&mut host, client, &message, within(SEC * (1 + number % 2)));
        }
        host.advance(SEC);
        host.engine.flush(host.now);
        // Two have expired: the new message takes all of their room, behind the one that has not.
        let message = format!("{:.<1$}", "new", room / 3 * 2 - Pending::OVERHEAD);
        host.engine.send(client, message.as_str().into()).unwrap();
        assert_eq!(host.engine.stats().expired, 2);
        let full = host.engine.send(client, "a few bytes more than fit".into());
        let (overflowed, dropped) = (SendError::Overflow(client), SendError::Dropped(client));
        assert_eq!(full, Err(if overflow == OverflowPolicy::Disconnect { overflowed } else { dropped }));
        let frames = read_all(&mut host, &mut peer);
        assert_eq!(texts(&frames), ["1", "new"]);
        let ended = frames.last() == Some(&Frame::Close(1013, "too slow".into()));
        assert_eq!(ended, overflow == OverflowPolicy::Disconnect);
    }
}

#[test]
fn plain_message_is_too_large_only_by_its_own_size() {
    let config = Config { max_buffered: 1_000, overflow: OverflowPolicy::DropNewest, ..Config::default() };
    let mut host = Host::new(config);
    let (mut peer, client) = host.open();
    let large = [7; 996];
    let too_large = |len| Err(SendError::TooLarge { len, max: 1_000 });
    // The message fits exactly when nothing is queued. Behind others it does not fit, but it may
    // later.
    send(&mut host, client, "", within(SEC));
    assert_eq!(host.engine.send(client, (&large).into()), Err(SendError::Dropped(client)));
    assert_eq!(host.engine.send(client, (&[7; 997]).into()), too_large(1_001));
    // An expired message does not block the next one.
    send(&mut host, client, "", within(Duration::ZERO));
    host.advance(SEC);
    host.engine.now = host.now;
    assert_eq!(host.engine.send(client, (&large).into()), Ok(()));
    assert_eq!(host.engine.stats().expired, 2);
    assert_eq!(read_all(&mut host, &mut peer), [Frame::Binary(large.to_vec())]);
    nothing_is_held(&host, client);
    // A pending message also costs its overhead, and its key if that is a name.
    let most = 1_000 - Pending::OVERHEAD;
    assert_eq!(host.engine.send_latest(client, 1.into(), (&vec![7; most]).into()), Ok(()));
    assert_eq!(host.engine.send_latest(client, 1.into(), (&vec![8; most]).into()), Ok(()), "in its place");
    assert_eq!(host.engine.send_latest(client, 1.into(), (&vec![7; most + 1]).into()), too_large(1_001));
    assert_eq!(host.engine.send_latest(client, "abc".into(), (&vec![7; most - 2]).into()), too_large(1_001));
    let delivery = host.engine.deliver(
        Audience::Everyone,
        (&vec![7; most + 1]).into(),
        &SendOptions::new().latest(1),
        None,
    );
    assert_eq!((delivery.queued, delivery.dropped, delivery.overflowed), (0, 1, 0));
    assert_eq!(read_all(&mut host, &mut peer), [Frame::Binary(vec![8; most])]);
}

#[test]
fn close_frame_follows_all_pending_messages() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = blocked(&mut host, 10);
    (0..500).for_each(|number| latest(&mut host, client, number, "a value that is not the last"));
    (0..500).for_each(|number| latest(&mut host, client, number, &format!("value {number}")));
    send(&mut host, client, "urgent", high());
    send(&mut host, client, "gone", within(MS));
    host.advance(MS);
    host.engine.flush(host.now);
    host.engine.close(client, CloseCode::from(4000), "enough", host.now).unwrap();
    let refused = host.engine.send_latest(client, 1.into(), "more".into());
    assert_eq!(refused, Err(SendError::Closing(client)));
    let frames = read_all(&mut host, &mut peer);
    assert_eq!(frames.len(), 1 + 1 + 500 + 1);
    assert_eq!(frames[1], text("urgent"));
    for (number, frame) in frames[2..502].iter().enumerate() {
        assert_eq!(*frame, text(&format!("value {number}")));
    }
    assert_eq!(frames[502], Frame::Close(4000, "enough".into()));
    nothing_is_held(&host, client);
}

#[test]
fn pending_messages_reach_a_peer_that_sent_close_or_fin() {
    for closes in [true, false] {
        let mut host = Host::new(Config::default());
        let (mut peer, client) = blocked(&mut host, 10);
        (0..500).for_each(|number| latest(&mut host, client, number, "a value"));
        send(&mut host, client, "urgent", high());
        send(&mut host, client, "gone", within(SEC));
        host.settle();
        host.advance(SEC);
        if closes {
            peer.close(1001)
        } else {
            peer.fin()
        }
        host.settle();
        let frames = read_all(&mut host, &mut peer);
        assert_eq!(frames.len(), 1 + 1 + 500 + usize::from(closes));
        assert_eq!(frames[1], text("urgent"));
        assert_eq!(frames.last() == Some(&Frame::Close(1001, String::new())), closes);
        assert_eq!((host.engine.client_count(), host.engine.stats().expired), (0, 1));
        nothing_is_held(&host, client);
        peer.fin();
        host.settle();
        host.check_empty();
    }
}

#[test]
fn abrupt_end_frees_all_pending_messages() {
    for end in 0..4 {
        let mut host = Host::new(Config::default());
        let (mut peer, client) = blocked(&mut host, 10);
        (0..500).for_each(|number| latest(&mut host, client, number, "a value"));
        (0..5).for_each(|_| send(&mut host, client, "urgent", high()));
        peer.ping(b"?");
        host.settle();
        match end {
            0 => host.engine.disconnect(client).unwrap(),
            1 => peer.reset(false),
            2 => peer.close_socket(),
            // The write timeout passes.
            _ => host.advance(10 * SEC),
        }
        host.settle();
        if end == 2 {
            peer.set_buffers(100_000, 1 << 20);
            host.settle();
            peer.reset(true);
        }
        host.settle();
        host.check_empty();
    }
}

#[test]
fn a_thousand_small_values_take_one_write_for_each_flush() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    for round in 0..5 {
        let before = peer.calls().1;
        for key in 0..1_000_u32 {
            latest(&mut host, client, key, &format!("{round} of {key}"));
        }
        host.engine.flush(host.now);
        assert_eq!(peer.calls().1, before + 1);
        assert_eq!(peer.frames().len(), 1_000);
        nothing_is_held(&host, client);
    }
}

#[test]
fn slow_client_has_few_framed_bytes() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = blocked(&mut host, 10);
    (0..2_000).for_each(|number| latest(&mut host, client, number, "a value of thirty bytes or so"));
    peer.set_buffers(100_000, 1_000);
    host.settle();
    let framed = host.engine.get(client).unwrap().outbox.len();
    assert!(framed < 5_000, "{framed} bytes are framed");
    // Once the client has caught up, one write takes all.
    peer.set_buffers(100_000, 1 << 20);
    let drained = |tick: &Tick| count(tick, |event| matches!(event, Event::Drained { .. }));
    let mut events = 0;
    for _ in 0..10 {
        events += drained(&host.poll());
        peer.frames();
    }
    assert_eq!(events, 1);
    let before = peer.calls().1;
    (0..1_000).for_each(|number| latest(&mut host, client, number, "a value of thirty bytes or so"));
    host.settle();
    assert_eq!(peer.calls().1, before + 1);
}

/// The age of the oldest value that a reader of `rate` bytes per second gets, in the last half of a
/// minute, of 20 values that change 100 times per second.
fn oldest(window: usize, rate: usize, latest: bool) -> Duration {
    let mut host = Host::new(Config { max_buffered: 64 << 20, ..Config::default() });
    let (mut peer, client) = host.open();
    peer.set_buffers(100_000, window);
    let mut worst = Duration::ZERO;
    let mut allowed = 0;
    for step in 0..6_000 {
        for key in 0..20_u8 {
            let value = format!("{:.<100}", host.elapsed().as_millis());
            match latest {
                true => host.engine.send_latest(client, key.into(), value.as_str().into()).unwrap(),
                false => host.engine.send(client, value.as_str().into()).unwrap(),
            }
        }
        drop(host.poll());
        allowed += rate;
        let taken = peer.read(allowed / 100);
        allowed -= taken * 100;
        for value in texts(&peer.parse()) {
            let sent = Duration::from_millis(value.parse().unwrap());
            if step > 3_000 {
                worst = worst.max(host.elapsed() - sent);
            }
        }
        host.advance(10 * MS);
    }
    worst
}

#[test]
fn slow_reader_gets_fresh_values_instead_of_a_queue() {
    for (window, rate) in [(2_000, 8_000), (16_000, 8_000), (64_000, 40_000)] {
        let most = SEC * (window + 8 * 1024) as u32 / rate as u32;
        let age = oldest(window, rate, true);
        assert!(age < most, "{age:?} old, {most:?} are the window and what is framed");
        let age = oldest(window, rate, false);
        assert!(age > 20 * SEC, "a queue cannot be that fresh: {age:?}");
    }
}

#[test]
fn pending_message_to_many_is_held_once() {
    let mut host = Host::new(Config::default());
    let mut clients: Vec<_> = (0..20).map(|_| blocked(&mut host, 10)).collect();
    let large = Prepared::new(vec![7; 50_000]);
    let before = host.engine.outbound.held();
    assert_eq!(
        host.engine.deliver(Audience::Everyone, (&large).into(), &SendOptions::new().latest(1), None).queued,
        20
    );
    assert_eq!(
        host.engine.deliver(Audience::Everyone, (&large).into(), &SendOptions::new().latest(1), None).queued,
        20
    );
    assert_eq!(host.engine.broadcast((&large).into(), None).queued, 20);
    assert_eq!(host.engine.stats().replaced, 20);
    let held = host.engine.outbound.held() + host.engine.pending_pool.held() - before;
    assert!((50_000..100_000).contains(&held), "{held} bytes for 40 times the same");
    drop(large);
    for (peer, client) in &mut clients {
        assert_eq!(read_all(&mut host, peer).len(), 3);
        assert_eq!(host.engine.buffered(*client), 0);
    }
    assert_eq!((host.engine.outbound.held(), host.engine.pending_pool.held()), (0, 0));
    // A small message is framed in recycled memory.
    assert_eq!(host.engine.broadcast("small".into(), None).queued, 20);
    host.settle();
    assert!(clients.iter_mut().all(|(peer, _)| peer.frames() == [text("small")]));
}

#[test]
fn drained_follows_a_dropped_value() {
    let config = Config { max_buffered: 1_000, overflow: OverflowPolicy::DropNewest, ..Config::default() };
    let mut host = Host::new(config);
    let (mut peer, client) = host.open();
    // Both values are queued within one tick, while nothing is blocked.
    assert_eq!(host.engine.send_latest(client, 1.into(), (&[1; 800]).into()), Ok(()));
    assert_eq!(
        host.engine.send_latest(client, 2.into(), (&[2; 800]).into()),
        Err(SendError::Dropped(client))
    );
    let tick = host.poll();
    assert_eq!(count(&tick, |event| matches!(event, Event::Drained { .. })), 1);
    assert_eq!(peer.frames(), [Frame::Binary(vec![1; 800])]);
    let stats = host.engine.stats();
    assert_eq!((stats.messages_out, stats.dropped, stats.replaced), (1, 1, 0));
}
