//! Direct writes of large messages: the outcome is the same as if they had been queued.

use std::io::ErrorKind;

use super::*;
use crate::{Message, SendError, config::OverflowPolicy, util::test_rng::Rng};

const LARGE: usize = 100_000;

/// A payload whose bytes depend on its number.
fn payload(number: u8, len: usize) -> Vec<u8> {
    (0..len).map(|place| (place / 7) as u8 ^ number).collect()
}

#[test]
fn large_send_takes_one_write_and_no_flush() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    let (before, sent) = (peer.calls().1, host.engine.stats());
    host.engine.send(client, (&payload(1, LARGE)).into()).unwrap();
    assert_eq!(peer.frames(), [Frame::Binary(payload(1, LARGE))]);
    assert_eq!((peer.calls().1 - before, host.engine.buffered(client)), (1, 0));
    let stats = host.engine.stats();
    assert_eq!(stats.messages_out - sent.messages_out, 1);
    assert_eq!(stats.bytes_out - sent.bytes_out, LARGE as u64 + 10);
    assert_ne!(host.engine.next_timeout(host.now), Some(Duration::ZERO), "nothing is left to do");
    assert_eq!(host.settle(), 0, "no `Drained`: nothing ever waited");
}

#[test]
fn small_messages_wait_for_the_flush_and_keep_their_order() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    host.engine.send(client, "before".into()).unwrap();
    host.engine.send(client, (&payload(1, LARGE)).into()).unwrap();
    assert_eq!(peer.frames(), [], "it stands behind what is queued");
    host.engine.flush(host.now);
    assert_eq!(peer.frames(), [text("before"), Frame::Binary(payload(1, LARGE))]);
    host.engine.send(client, (&payload(2, LARGE)).into()).unwrap();
    host.engine.send(client, "after".into()).unwrap();
    assert_eq!(peer.frames(), [Frame::Binary(payload(2, LARGE))]);
    host.engine.flush(host.now);
    assert_eq!(peer.frames(), [text("after")]);
}

#[test]
fn unwritten_rest_stays_in_order() {
    for window in [0, 1, 9, 10, 11, 5_000, LARGE + 9] {
        let mut host = Host::new(Config::default());
        let (mut peer, client) = host.open();
        peer.set_buffers(1 << 20, window);
        host.engine.send(client, (&payload(1, LARGE)).into()).unwrap();
        assert_eq!(host.engine.buffered(client), LARGE + 10 - window);
        host.check();
        host.engine.send(client, (&payload(2, LARGE)).into()).unwrap();
        peer.ping(b"passes");
        host.engine.send(client, "after".into()).unwrap();
        // The simulated stream panics if it is written to before its writable event.
        host.settle();
        peer.set_buffers(1 << 20, 50_000);
        let mut frames = Vec::new();
        while frames.len() < 4 {
            peer.read(usize::MAX);
            host.settle();
            frames.extend(peer.frames());
        }
        let place = frames.iter().position(|frame| *frame == Frame::Pong(b"passes".to_vec())).unwrap();
        assert_eq!(place, usize::from(window > 0), "a pong passes what has not begun");
        frames.remove(place);
        let large = [1, 2].map(|number| Frame::Binary(payload(number, LARGE)));
        assert_eq!(frames, [&large[..], &[text("after")]].concat());
        assert_eq!(host.engine.stats().buffered, 0);
    }
}

#[test]
fn write_timeout_of_a_direct_write_counts_from_the_flush() {
    let mut host = Host::new(Config { write_timeout: 10 * SEC, ..Config::default() });
    let (peer, client) = host.open();
    peer.set_buffers(1 << 20, 5_000);
    host.engine.flush(host.now);
    // The application computed for longer than the write timeout.
    host.advance(11 * SEC);
    host.engine.send(client, (&payload(1, LARGE)).into()).unwrap();
    assert_eq!(host.poll().len(), 0);
    host.advance(9 * SEC);
    assert_eq!(host.poll().len(), 0);
    host.advance(SEC);
    let tick = host.poll();
    assert!(matches!(closes(&tick)[..], [(id, CloseReason::Timeout(_))] if id == client), "{tick:?}");
}

#[test]
fn drained_is_reported_when_the_rest_was_written() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    peer.set_buffers(1 << 20, 60_000);
    host.engine.send(client, (&payload(1, LARGE)).into()).unwrap();
    assert_eq!(host.settle(), 0);
    peer.read(usize::MAX);
    let tick = host.poll();
    assert_eq!(count(&tick, |event| matches!(event, Event::Drained { client: id } if *id == client)), 1);
}

#[test]
fn failed_direct_write_is_reported_by_the_next_poll() {
    let mut host = Host::new(Config::default());
    let (mut peer, client) = host.open();
    peer.text("last words");
    host.engine.flush(host.now);
    peer.reset(true);
    assert_eq!(host.engine.send(client, (&payload(1, LARGE)).into()), Ok(()));
    assert_eq!(host.engine.send(client, (&payload(2, LARGE)).into()), Ok(()));
    assert_eq!(host.engine.next_timeout(host.now), Some(Duration::ZERO));
    let tick = host.poll();
    let kind = ErrorKind::ConnectionReset;
    assert!(matches!(closes(&tick)[..], [(_, CloseReason::Io(k))] if k == kind), "{tick:?}");
    host.settle();
    host.check_empty();
}

#[test]
fn close_frame_follows_a_direct_write() {
    for window in [5_000, 1 << 20] {
        let mut host = Host::new(Config::default());
        let (mut peer, client) = host.open();
        peer.set_buffers(1 << 20, window);
        host.engine.send(client, (&payload(1, LARGE)).into()).unwrap();
        host.engine.close(client, crate::CloseCode::NORMAL_CLOSURE, "done", host.now).unwrap();
        assert_eq!(host.engine.send(client, (&payload(2, LARGE)).into()), Err(SendError::Closing(client)));
        let mut frames = Vec::new();
        while frames.len() < 2 {
            host.settle();
            frames.extend(peer.frames());
        }
        assert_eq!(frames, [Frame::Binary(payload(1, LARGE)), Frame::Close(1000, "done".into())]);
    }
}

#[test]
fn max_buffered_counts_only_the_unwritten_rest() {
    let config =
        Config { max_buffered: LARGE + 10, overflow: OverflowPolicy::DropNewest, ..Config::default() };
    let mut host = Host::new(config);
    let (mut peer, client) = host.open();
    let (len, max) = (LARGE + 11, LARGE + 10);
    let large = payload(0, LARGE + 1);
    assert_eq!(host.engine.send(client, (&large).into()), Err(SendError::TooLarge { len, max }));
    // Three times the limit fits, because each message leaves before the next.
    for number in 0..3 {
        host.engine.send(client, (&payload(number, LARGE)).into()).unwrap();
        assert_eq!(peer.frames().len(), 1);
    }
    peer.set_buffers(1 << 20, 20_000);
    host.engine.send(client, (&payload(3, LARGE)).into()).unwrap();
    assert_eq!(host.engine.send(client, (&payload(4, 20_000)).into()), Err(SendError::Dropped(client)));
    assert_eq!(host.engine.send(client, (&payload(4, 19_990)).into()), Ok(()));
}

#[test]
fn memory_limit_counts_the_unwritten_rest() {
    let mut host = Host::new(Config { max_total_buffered: Some(80_000), ..Config::default() });
    let (mut peer, client) = host.open();
    host.engine.send(client, (&payload(1, LARGE)).into()).unwrap();
    assert_eq!((peer.frames().len(), host.engine.stats().closed.shed), (1, 0));
    peer.set_buffers(1 << 20, 10_000);
    host.engine.send(client, (&payload(1, LARGE)).into()).unwrap();
    assert_eq!(host.engine.stats().closed.shed, 1);
}

#[test]
fn direct_writes_arrive_whole_and_in_order_under_faults() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut host = Host::with_chaos(Config::default(), Some(Rng::new(rng.next())));
        let mut peer = host.connect();
        peer.handshake();
        while host.engine.clients().count() == 0 || peer.unread() == 0 {
            let _ = host.poll();
        }
        let client = host.engine.clients().next().unwrap();
        let (mut sent, mut got, mut number) = (Vec::new(), Vec::new(), 0);
        peer.read(usize::MAX);
        peer.set_buffers(1 << 20, rng.pick(&[30_000, 60_000, 400_000]));
        for _ in 0..60 {
            for _ in 0..rng.below(3) {
                let size = rng.pick(&[5, 2_000, 16 * 1024 - 1, 16 * 1024, 70_000]);
                let bytes = payload(number, size);
                if host.engine.send(client, Message::Binary(&bytes).into()).is_ok() {
                    sent.push(Frame::Binary(bytes));
                }
                number += 1;
            }
            if rng.one_in(2) {
                let _ = host.poll();
                host.check();
            }
            peer.read(rng.below(80_000));
            got.extend(peer.parse());
            if host.engine.get(client).is_none() {
                break;
            }
        }
        for _ in 0..300 {
            let _ = host.poll();
            got.extend(peer.frames());
        }
        assert!(sent.iter().zip(&got).all(|(sent, got)| sent == got), "seed {seed}");
        if host.engine.get(client).is_some() {
            assert_eq!(got.len(), sent.len(), "seed {seed}");
        }
    }
}
