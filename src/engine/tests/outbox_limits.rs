//! Laws 2, 3 and 5 (ARCHITECTURE.md): a message that does not fit follows the overflow policy, and
//! the application gets its reason; bad input ends only its own connection, with the right code; a
//! message leaves whole, and no byte twice.

use super::*;
use crate::{OverflowPolicy, ProtocolError, SendError, util::test_rng::Rng};

/// A client whose socket accepts no bytes for now.
fn stuck(host: &mut Host) -> (Peer, ClientId) {
    let (peer, client) = host.open();
    peer.set_buffers(1_000, 0);
    (peer, client)
}

fn small(max_buffered: usize) -> Config {
    Config { max_buffered, ..Config::default() }
}

#[test]
fn overflow_disconnects_after_queued_messages_left() {
    let mut host = Host::new(small(1_000));
    let (mut peer, client) = stuck(&mut host);
    let message = [7; 300];
    for _ in 0..3 {
        assert_eq!(host.engine.send(client, (&message).into()), Ok(()));
    }
    assert_eq!(host.engine.buffered(client), 3 * 304);
    assert_eq!(host.engine.send(client, (&message).into()), Err(SendError::Overflow(client)));
    assert_eq!(host.engine.send(client, (&message).into()), Err(SendError::Closing(client)));
    let tick = host.poll();
    assert_eq!(closes(&tick), [(client, CloseReason::Overflow)]);
    assert_eq!(host.engine.stats().closed.overflow, 1);
    assert_eq!(host.engine.send(client, (&message).into()), Err(SendError::NotConnected(client)));
    // The client lingers, and its socket becomes writable in time.
    host.advance(9 * SEC);
    peer.set_buffers(1_000, 100_000);
    host.settle();
    let sent = Frame::Binary(message.to_vec());
    assert_eq!(peer.frames(), [sent.clone(), sent.clone(), sent, Frame::Close(1013, "too slow".into())]);
    peer.close(1013);
    peer.fin();
    assert_eq!(host.settle(), 0);
    host.check_empty();
}

#[test]
fn drop_newest_keeps_the_client_and_reports_the_drop() {
    let mut host = Host::new(Config { overflow: OverflowPolicy::DropNewest, ..small(1_000) });
    let (mut peer, client) = stuck(&mut host);
    assert_eq!(host.engine.send(client, (&[7; 900]).into()), Ok(()));
    assert_eq!(host.engine.send(client, (&[8; 100]).into()), Err(SendError::Dropped(client)));
    assert_eq!(host.engine.send(client, (&[9; 10]).into()), Ok(()), "this one fits");
    assert_eq!(host.settle(), 0);
    assert_eq!(host.engine.stats().dropped, 1);
    peer.set_buffers(1_000, 100_000);
    let tick = host.poll();
    assert_eq!(count(&tick, |event| matches!(event, Event::Drained { client: id } if *id == client)), 1);
    assert_eq!(peer.frames(), [Frame::Binary(vec![7; 900]), Frame::Binary(vec![9; 10])]);
}

#[test]
fn overflow_policy_can_be_set_per_client() {
    for (server, own) in [
        (OverflowPolicy::Disconnect, OverflowPolicy::DropNewest),
        (OverflowPolicy::DropNewest, OverflowPolicy::Disconnect),
    ] {
        let mut host = Host::new(Config { overflow: server, ..small(1_000) });
        let clients = [stuck(&mut host), stuck(&mut host)];
        host.engine.set_overflow(clients[1].1, own).unwrap();
        let results = clients.each_ref().map(|(_, client)| {
            host.engine.send(*client, (&[7; 900]).into()).unwrap();
            host.engine.send(*client, (&[7; 900]).into())
        });
        for (result, policy) in results.into_iter().zip([server, own]) {
            match policy {
                OverflowPolicy::Disconnect => assert!(matches!(result, Err(SendError::Overflow(_)))),
                OverflowPolicy::DropNewest => assert!(matches!(result, Err(SendError::Dropped(_)))),
            }
        }
        assert_eq!(closes(&host.poll()).len(), 1);
    }
}

#[test]
fn message_above_max_buffered_fails_without_side_effects() {
    let mut host = Host::new(small(1_000));
    let (mut peer, client) = host.open();
    assert_eq!(host.engine.send(client, (&[7; 996]).into()), Ok(()));
    let refused = Err(SendError::TooLarge { len: 1_001, max: 1_000 });
    assert_eq!(host.engine.send(client, (&[7; 997]).into()), refused);
    let delivery = host.engine.broadcast((&[7; 997]).into(), None);
    assert_eq!((delivery.queued, delivery.dropped, delivery.overflowed), (0, 1, 0));
    assert_eq!(host.settle(), 0);
    assert_eq!(peer.frames().len(), 1);
    assert_eq!(host.engine.client_count(), 1);
}

#[test]
fn the_delivery_of_a_broadcast_adds_up() {
    for len in [10, 400, 3_000] {
        let mut host = Host::new(small(2 * len));
        let mut fast: Vec<_> = (0..3).map(|_| host.open()).collect();
        let keep: Vec<_> = (0..4).map(|_| stuck(&mut host)).collect();
        let lose: Vec<_> = (0..5).map(|_| stuck(&mut host)).collect();
        let (_closing, closing) = host.open();
        host.engine.close(closing, crate::CloseCode::NORMAL_CLOSURE, "", host.now).unwrap();
        for (_, client) in &keep {
            host.engine.set_overflow(*client, OverflowPolicy::DropNewest).unwrap();
        }
        let message = vec![7; len];
        for (round, (queued, dropped, overflowed)) in
            [(11, 0, 0), (2, 4, 5), (2, 4, 0)].into_iter().enumerate()
        {
            let delivery = host.engine.broadcast((&message).into(), Some(fast[0].1));
            assert_eq!(
                (delivery.queued, delivery.dropped, delivery.overflowed),
                (queued, dropped, overflowed),
                "round {round} of {len} bytes"
            );
            let ended = closes(&host.poll());
            assert!(
                ended.len() == overflowed && ended.iter().all(|(id, _)| lose.iter().any(|(_, l)| l == id))
            );
        }
        assert_eq!(host.engine.stats().messages_out, 11 + 2 + 2);
        assert_eq!(host.engine.stats().dropped, 8);
        assert_eq!(fast[0].0.frames(), []);
        assert_eq!(fast[1].0.frames(), vec![Frame::Binary(message); 3]);
    }
}

#[test]
fn drained_is_reported_once_per_congestion() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    peer.set_buffers(1_000, 500);
    let drained = |tick: &Tick| count(tick, |event| matches!(event, Event::Drained { .. }));
    for round in 1..=3 {
        host.engine.send(client, (&[7; 100]).into()).unwrap();
        assert_eq!(host.settle(), 0, "it never backed up");
        (0..4).for_each(|_| host.engine.send(client, (&[7; 600]).into()).unwrap());
        let mut events = 0;
        for _ in 0..20 * round {
            events += drained(&host.poll());
            peer.read(173);
        }
        assert_eq!((events, peer.frames().len()), (1, 5));
        assert_eq!(host.settle(), 0);
    }
}

#[test]
fn control_frames_overtake_queued_data_at_a_frame_boundary() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    peer.set_buffers(100_000, 100);
    (0..3).for_each(|_| host.engine.send(client, (&[7; 300]).into()).unwrap());
    host.settle();
    (0..1_000_u32).for_each(|number| peer.ping(&number.to_be_bytes()));
    host.settle();
    assert!(host.engine.buffered(client) < 1_000, "pongs pile up");
    let mut frames = Vec::new();
    while host.settle() + peer.read(64) > 0 {
        frames.extend(peer.parse());
    }
    let message = Frame::Binary(vec![7; 300]);
    let newest = Frame::Pong(999_u32.to_be_bytes().to_vec());
    assert_eq!(frames, [message.clone(), newest, message.clone(), message]);
}

#[test]
fn bad_input_ends_its_own_connection_with_the_right_code() {
    use ProtocolError::*;
    let cases: &[(&[u8], u16, ProtocolError)] = &[
        (b"\x81\x01a", 1002, UnmaskedFrame),
        (b"\xc1\x80abcd", 1002, ReservedBits),
        (b"\x83\x80abcd", 1002, ReservedOpcode(3)),
        (b"\x8b\x80abcd", 1002, ReservedOpcode(11)),
        (b"\x09\x80abcd", 1002, FragmentedControl),
        (b"\x89\xfe\x00\x7eabcd", 1002, ControlTooLong),
        (b"\x82\xfe\x00\x01abcdx", 1002, LengthNotMinimal),
        (b"\x82\xff\x80\0\0\0\0\0\0\0abcd", 1002, LengthOverflow),
        (b"\x80\x80abcd", 1002, UnexpectedContinuation),
        (b"\x01\x80abcd\x81\x80abcd", 1002, ExpectedContinuation),
        (b"\x88\x81\0\0\0\0a", 1002, CloseBodyTooShort),
        (b"\x88\x82\0\0\0\0\x03\xee", 1002, InvalidCloseCode(1006)),
        (b"\x81\x82\0\0\0\0a\xff", 1007, InvalidUtf8),
        (b"\x88\x83\0\0\0\0\x03\xe8\xff", 1007, InvalidCloseReason),
        (b"\x82\xfe\x03\xe9abcd", 1009, FrameTooBig { len: 1_001, max: 1_000 }),
    ];
    let mut host = Host::new(Config { max_message_size: 1_000, ..Config::default() });
    let (mut bystander, other) = host.open();
    for (bytes, code, violation) in cases {
        for pieces in [1, 64] {
            let (mut peer, client) = host.open();
            peer.text("before");
            let mut events = Vec::new();
            for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
                peer.raw(piece);
                let tick = host.poll();
                events.extend(messages(&tick).into_iter().map(|(id, _)| (id, None)));
                events.extend(closes(&tick).into_iter().map(|(id, reason)| (id, Some(reason))));
            }
            let reason = CloseReason::Protocol(*violation);
            assert_eq!(events, [(client, None), (client, Some(reason))], "{bytes:x?}");
            // Input behind the violation is discarded.
            (0..100).for_each(|_| peer.text("and another thing"));
            host.settle();
            assert!(matches!(&peer.frames()[..], [Frame::Close(sent, _)] if sent == code), "{bytes:x?}");
            peer.fin();
            host.settle();
            assert!(peer.is_dropped() && !peer.was_aborted());
        }
        bystander.text("still here");
        assert_eq!(messages(&host.poll()), [(other, b"still here".to_vec())]);
    }
    assert_eq!(host.engine.stats().closed.protocol, 2 * cases.len() as u64);
    assert_eq!(host.engine.client_count(), 1);
}

#[test]
fn random_input_never_panics() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut host = Host::new(Config { max_message_size: 100_000, ..Config::default() });
        let (peer, _) = host.open();
        let raw = host.connect();
        for _ in 0..30 {
            for stream in [&peer, &raw] {
                let mut bytes: Vec<u8> = (0..rng.below(200)).map(|_| rng.next() as u8).collect();
                if rng.one_in(2) && bytes.len() > 2 {
                    // Half of the inputs begin like a frame.
                    (bytes[0], bytes[1]) =
                        (rng.pick(&[0x01, 0x00, 0x80, 0x81, 0x82, 0x89]), 0x80 | bytes[1] >> 1);
                }
                stream.raw(&bytes);
            }
            let _ = host.poll();
            host.check();
        }
        peer.reset(rng.one_in(2));
        raw.close_socket();
        host.settle();
        host.check_empty();
    }
}

#[test]
fn blocked_write_is_not_repeated_before_a_writable_event() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    peer.set_buffers(1_000, 100);
    let sent: Vec<u8> = (0..=255).cycle().take(1_500).collect();
    host.engine.send(client, (&sent).into()).unwrap();
    let mut frames = Vec::new();
    host.settle();
    while frames.is_empty() {
        let before = peer.calls().1;
        // The simulated stream panics if it is written to before its writable event.
        for _ in 0..3 {
            host.engine.send(client, "more".into()).unwrap();
            let _ = host.engine.broadcast("and more".into(), None);
            host.settle();
        }
        assert_eq!(peer.calls().1, before);
        peer.read(100);
        host.settle();
        frames = peer.parse();
    }
    assert_eq!(frames[0], Frame::Binary(sent));
}
