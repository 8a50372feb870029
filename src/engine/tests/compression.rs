//! Compression in the engine: negotiation, limits, and the release of its memory.

use super::*;
use crate::{
    Outgoing, Prepared, SendOptions,
    config::compression::{Deflate, DeflateMode},
    error::ProtocolError,
    net::sim::masked,
};

fn config(mode: DeflateMode) -> Config {
    Config { deflate: Some(Deflate::new(mode)), ..Config::default() }
}

/// A client with compression negotiated.
fn open(host: &mut Host) -> (Peer, ClientId) {
    let mut peer = host.connect();
    peer.offers = true;
    peer.handshake();
    host.settle();
    assert_eq!((peer.frames(), peer.status()), (vec![], Some(101)));
    (peer, host.engine.clients().max().unwrap())
}

/// One compressed binary message.
fn compressed(peer: &mut Peer, message: &[u8]) -> Vec<u8> {
    let payload = peer.deflate.as_mut().unwrap().compress(message);
    let mut frame = masked(BINARY, true, &payload, 7);
    frame[0] |= 0x40;
    frame
}

fn line(number: usize) -> String {
    format!("{{\"type\":\"chat\",\"id\":{number},\"text\":\"{}\"}}", "to be or not to be, ".repeat(20))
}

#[test]
fn compression_is_negotiated_only_if_both_sides_want_it() {
    for wanted in [false, true] {
        for offered in [false, true] {
            let mut host = Host::new(if wanted { config(DeflateMode::Dedicated) } else { Config::default() });
            let mut peer = host.connect();
            peer.offers = offered;
            peer.handshake();
            host.settle();
            peer.frames();
            assert_eq!(peer.deflate.is_some(), wanted && offered);
            let id = host.engine.clients().max().unwrap();
            assert_eq!(host.engine.get(id).unwrap().open().unwrap().connection.deflates(), wanted && offered);
            host.engine.send(id, line(1).as_str().into()).unwrap();
            let buffered = host.engine.buffered(id);
            assert_eq!(buffered < 200, wanted && offered, "{buffered}");
            host.settle();
            assert_eq!(peer.frames(), [text(&line(1))]);
        }
    }
}

#[test]
fn an_audience_gets_a_message_uncompressed_on_request() {
    for mode in [DeflateMode::Shared, DeflateMode::Dedicated] {
        let mut host = Host::new(config(mode));
        let mut clients: Vec<_> = (0..3).map(|_| open(&mut host)).collect();
        let ids: Vec<_> = clients.iter().map(|(_, id)| *id).collect();
        let mut costs = |audience: crate::Audience<'_>, options: &SendOptions| {
            let before: Vec<_> = clients.iter().map(|(peer, _)| peer.traffic().1).collect();
            let delivery = host.engine.deliver(audience, line(7).as_str().into(), options, None);
            assert_eq!(delivery.queued, 3);
            host.settle();
            for (peer, _) in &mut clients {
                assert_eq!(peer.frames(), [text(&line(7))]);
            }
            clients.iter().zip(before).map(|((peer, _), before)| peer.traffic().1 - before).max().unwrap()
        };
        for audience in [crate::Audience::Everyone, crate::Audience::Clients(&ids)] {
            let plain = costs(audience, &SendOptions::new().uncompressed());
            assert!(plain > line(7).len() as u64, "{mode:?} {audience:?}: {plain}");
            let compressed = costs(audience, &SendOptions::new());
            assert!(compressed < plain, "{mode:?} {audience:?}: {compressed}");
        }
    }
}

#[test]
fn messages_are_compressed_unless_small_or_opted_out() {
    for mode in [DeflateMode::Shared, DeflateMode::Dedicated] {
        let mut host = Host::new(config(mode));
        let (mut peer, id) = open(&mut host);
        let mut costs = |host: &mut Host, message: Outgoing<'_>, terms: SendOptions| {
            let before = peer.traffic().1;
            host.engine.send_with(id, message, &terms, Some(host.now)).unwrap();
            host.settle();
            assert_eq!(peer.frames(), [text(&line(7))]);
            peer.traffic().1 - before
        };
        let prepared = Prepared::new(line(7));
        let plain = SendOptions::new().uncompressed();
        let urgent = SendOptions::new().priority(crate::Priority::High);
        let latest = SendOptions::new().latest(1);
        let line = line(7);
        for message in [Outgoing::from(&line), Outgoing::from(&prepared)] {
            assert!(costs(&mut host, message.clone(), SendOptions::new()) < 120);
            assert!(costs(&mut host, message.clone(), latest.clone()) < 120);
            assert_eq!(costs(&mut host, message.clone(), plain.clone()), line.len() as u64 + 4);
            let waiting = SendOptions::new().latest(2).uncompressed();
            assert_eq!(costs(&mut host, message.clone(), waiting), line.len() as u64 + 4);
            // High-priority messages are not part of the compression context.
            let urgent = costs(&mut host, message, urgent.clone());
            assert_eq!(urgent < 120, mode == DeflateMode::Shared, "{urgent}");
        }
        let before = peer.traffic().1;
        host.engine.send(id, "short".into()).unwrap();
        host.settle();
        assert_eq!((peer.frames(), peer.traffic().1 - before), (vec![text("short")], 7));
    }
}

#[test]
fn a_broadcast_is_compressed_once_and_held_once() {
    let mut host = Host::new(config(DeflateMode::Shared));
    let mut peers: Vec<_> = (0..20).map(|_| open(&mut host)).collect();
    let noise = crate::util::test_rng::Rng::new(0).bytes(3_000);
    let prepared = Prepared::new(noise.repeat(2));
    let _ = host.engine.broadcast(Outgoing::from(&prepared), None);
    let held = host.engine.total_buffered();
    assert!(held < 3_000 + 20 * 1_000, "{held}");
    let _ = host.engine.broadcast(line(1).as_str().into(), None);
    host.settle();
    for (peer, _) in &mut peers {
        assert_eq!(peer.frames(), [Frame::Binary(noise.repeat(2)), text(&line(1))]);
    }
}

/// This holds for small messages and for pending ones.
#[test]
fn latest_value_for_many_is_compressed_once() {
    for mode in [DeflateMode::Shared, DeflateMode::Dedicated] {
        let mut host = Host::new(config(mode));
        let mut peers: Vec<_> = (0..20).map(|_| open(&mut host)).collect();
        let mut runs = 0;
        for round in 0..5 {
            // The second value replaces the first in its position; the third is pending behind
            // them.
            for number in [2 * round, 2 * round + 1] {
                let message = line(number);
                let options = SendOptions::new().latest(1);
                let delivery =
                    host.engine.deliver(crate::Audience::Everyone, message.as_str().into(), &options, None);
                assert_eq!(delivery.queued, 20);
            }
            let _ = host.engine.broadcast("and this one".repeat(30).as_str().into(), None);
            host.settle();
            assert_eq!(host.engine.codec.runs - runs, 2, "{mode:?}");
            runs = host.engine.codec.runs;
            for (peer, _) in &mut peers {
                assert_eq!(peer.frames(), [text(&line(2 * round + 1)), text(&"and this one".repeat(30))]);
            }
        }
        assert_eq!(host.engine.total_buffered(), 0);
    }
}

#[test]
fn decompression_bomb_gets_1009_and_affects_no_other_client() {
    let limits = Config { max_message_size: 100_000, ..config(DeflateMode::Shared) };
    let mut host = Host::new(limits);
    let (mut other, id) = open(&mut host);
    let (mut peer, _) = open(&mut host);
    let bomb = compressed(&mut peer, &vec![0; 50 << 20]);
    assert!(bomb.len() * 900 < 50 << 20);
    // The other client sends only the beginning of the bomb.
    peer.raw(&bomb);
    other.raw(&bomb[..10]);
    let (mut reasons, mut most) = (Vec::new(), 0);
    for _ in 0..20 {
        let tick = host.poll();
        reasons.extend(closes(&tick));
        most = most.max(messages(&tick).iter().map(|(_, bytes)| bytes.len()).sum());
    }
    let (_, reason) = &reasons[0];
    assert_eq!(reasons.len(), 1);
    let CloseReason::Protocol(violation) = reason else { panic!("{reason}") };
    assert!(matches!(violation, ProtocolError::MessageTooBig { max: 100_000, .. }), "{violation}");
    assert!(matches!(peer.frames()[..], [Frame::Close(1009, _)]));
    assert_eq!(most, 0);
    host.engine.send(id, "still here".into()).unwrap();
    host.settle();
    assert_eq!(other.frames(), [text("still here")]);
}

/// Each message is within the limit, but a thousand times its input. A tick takes no more of them
/// than of uncompressed large messages.
#[test]
fn small_decompression_bombs_are_spread_over_ticks() {
    let mut host = Host::new(config(DeflateMode::Shared));
    let (mut peer, id) = open(&mut host);
    let (mut other, other_id) = open(&mut host);
    let message = vec![0; 1 << 20];
    let bombs: Vec<u8> = (0..40).flat_map(|_| compressed(&mut peer, &message)).collect();
    assert!(bombs.len() < 64 * 1024);
    peer.raw(&bombs);
    let (mut got, mut sent, mut received) = (0, 0, 0);
    for _ in 0..200 {
        if sent == received {
            other.text("me too");
            sent += 1;
        }
        let tick = host.poll();
        let new = messages(&tick);
        let bytes: usize = new.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes <= 2 << 20, "{bytes} in one tick");
        got += new.iter().filter(|(client, _)| *client == id).count();
        received += new.iter().filter(|(client, _)| *client == other_id).count();
        // No client waits for more than two ticks.
        assert!(sent - received <= 1);
    }
    assert_eq!(got, 40);
    assert!(received > 90, "{received}");
}

/// Messages that arrive after our close frame are discarded, but cost the same work.
#[test]
fn bombs_on_a_closing_connection_are_spread_over_ticks() {
    let mut host = Host::new(config(DeflateMode::Shared));
    let (mut peer, id) = open(&mut host);
    let message = vec![0; 1 << 20];
    let bombs: Vec<u8> = (0..40).flat_map(|_| compressed(&mut peer, &message)).collect();
    host.engine.close(id, 1000.into(), "", host.now).unwrap();
    peer.raw(&bombs);
    peer.close(1000);
    let mut polls = 0;
    while closes(&host.poll()).is_empty() {
        polls += 1;
        assert!(polls < 1_000, "it never ends");
    }
    assert!(polls >= 39, "40 MiB were inflated in {} polls", polls + 1);
}

#[test]
fn idle_client_frees_its_compression_context() {
    let mut host = Host::new(config(DeflateMode::Dedicated));
    let (mut peer, id) = open(&mut host);
    let memory = |host: &Host| {
        let open = host.engine.get(id).unwrap().open().unwrap();
        open.connection.contexts()
    };
    assert_eq!(memory(&host), 0);
    for number in 0..100 {
        host.engine.send(id, line(number).as_str().into()).unwrap();
        let frame = compressed(&mut peer, line(number).as_bytes());
        peer.raw(&frame);
        host.settle();
    }
    assert_eq!(memory(&host), 2 * 8 * 1024);
    assert_eq!(peer.frames().len(), 100);
    // Two pings without a message between them.
    for _ in 0..2 {
        drop(host.poll_after(54 * SEC));
        host.settle();
        for frame in peer.frames() {
            let Frame::Ping(body) = frame else { panic!("{frame:?}") };
            peer.pong(&body);
        }
        host.settle();
    }
    assert_eq!(memory(&host), 8 * 1024);
    host.engine.send(id, line(1).as_str().into()).unwrap();
    host.settle();
    assert_eq!(peer.frames(), [text(&line(1))]);
}
