//! The broadcast batch: the outcome is the same as if each message had been queued at once.

use super::*;
use crate::{
    SendError, SendOptions,
    config::{
        OverflowPolicy,
        send_options::{LatestKey, Priority},
    },
    event::delivery::Delivery,
    id::Serial,
    outbox::{outgoing::Outgoing, prepared::Prepared},
    util::test_rng::Rng,
};

fn queued(queued: usize) -> Delivery {
    Delivery { queued, ..Delivery::default() }
}

/// A host with open clients.
fn with(clients: usize, config: Config) -> (Host, Vec<(Peer, ClientId)>) {
    let mut host = Host::new(config);
    let peers = (0..clients).map(|_| host.open()).collect();
    (host, peers)
}

#[test]
fn batched_broadcasts_leave_in_one_write_at_the_flush() {
    let (mut host, mut peers) = with(3, Config::default());
    let calls: Vec<_> = peers.iter().map(|(peer, _)| peer.calls().1).collect();
    let sent = host.engine.stats();
    for message in ["one", "two", "three"] {
        assert_eq!(host.engine.broadcast(message.into(), None), queued(3));
    }
    assert_eq!(host.engine.next_timeout(host.now), Some(Duration::ZERO));
    for (peer, client) in &mut peers {
        assert_eq!(host.engine.buffered(*client), 3 * 2 + 11);
        assert_eq!(peer.frames(), []);
    }
    host.engine.flush(host.now);
    for ((peer, client), before) in peers.iter_mut().zip(calls) {
        assert_eq!(peer.calls().1 - before, 1);
        assert_eq!(host.engine.buffered(*client), 0);
        assert_eq!(peer.frames(), [text("one"), text("two"), text("three")]);
    }
    let stats = host.engine.stats();
    assert_eq!((stats.messages_out - sent.messages_out, stats.bytes_out - sent.bytes_out), (9, 3 * 17));
    assert_ne!(host.engine.next_timeout(host.now), Some(Duration::ZERO), "nothing is left to do");
}

#[test]
fn later_sends_stay_behind_batched_broadcasts() {
    type Act = fn(&mut Host, ClientId);
    let acts: [(Act, &[Frame]); 8] = [
        (|host, id| host.engine.send(id, "then".into()).unwrap(), &[text("then")]),
        (|host, id| host.engine.send(id, (&[7; 20_000]).into()).unwrap(), &[Frame::Binary(vec![7; 20_000])]),
        (|host, id| host.engine.send_latest(id, 1.into(), "then".into()).unwrap(), &[text("then")]),
        (
            |host, id| {
                _ = host
                    .engine
                    .broadcast("then".into(), Some(ClientId::new(id.index() as u32, Serial::new(0))))
            },
            &[text("then")],
        ),
        (|host, _| _ = host.engine.broadcast((&[7; 5_000]).into(), None), &[Frame::Binary(vec![7; 5_000])]),
        (
            |host, id| host.engine.close(id, 4000.into(), "then", host.now).unwrap(),
            &[Frame::Close(4000, "then".into())],
        ),
        (
            |host, _| host.engine.shutdown(4000.into(), "", SEC, host.now),
            &[Frame::Close(4000, String::new())],
        ),
        (|host, id| host.engine.ping(id, host.now).unwrap(), &[]),
    ];
    for (number, (act, behind)) in acts.into_iter().enumerate() {
        let (mut host, mut peers) = with(2, Config::default());
        assert_eq!(host.engine.broadcast("first".into(), None), queued(2));
        act(&mut host, peers[0].1);
        host.engine.flush(host.now);
        let mut frames = peers[0].0.frames();
        frames.retain(|frame| !matches!(frame, Frame::Ping(_)));
        assert_eq!(frames, [&[text("first")], behind].concat(), "act {number}");
        assert_eq!(peers[1].0.frames()[0], text("first"), "act {number}");
        host.check();
    }
}

#[test]
fn disconnected_client_is_left_out_of_later_broadcasts() {
    let (mut host, mut peers) = with(2, Config::default());
    let _ = host.engine.broadcast("first".into(), None);
    host.engine.disconnect(peers[0].1).unwrap();
    assert_eq!(host.engine.broadcast("second".into(), None), queued(1));
    assert_eq!(host.engine.send(peers[0].1, "third".into()), Err(SendError::NotConnected(peers[0].1)));
    host.settle();
    assert_eq!(peers[1].0.frames(), [text("first"), text("second")]);
    host.check();
}

#[test]
fn new_client_gets_only_later_broadcasts() {
    let (mut host, mut peers) = with(1, Config::default());
    let _ = host.engine.broadcast("first".into(), None);
    let (mut late, _) = host.open();
    let _ = host.engine.broadcast("second".into(), None);
    host.settle();
    assert_eq!(peers[0].0.frames(), [text("first"), text("second")]);
    assert_eq!(late.frames(), [text("second")]);
}

/// Runs the same script on two engines. On one of them each broadcast excludes a client that does
/// not exist, which prevents batching.
#[test]
fn batched_and_immediate_broadcasts_are_equivalent() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let overflow = if rng.one_in(2) { OverflowPolicy::DropNewest } else { OverflowPolicy::Disconnect };
        let config = Config { max_buffered: 2_000, overflow, ..Config::default() };
        let mut sides = [with(5, config.clone()), with(5, config)];
        for (number, (peer, _)) in sides.iter().flat_map(|(_, peers)| peers).enumerate() {
            peer.set_buffers(1 << 20, [1 << 20, 900, 60][number % 5 % 3]);
        }
        for step in 0..120 {
            let (act, who, len, key) = (rng.below(20), rng.below(5), rng.below(400), rng.below(3) as u64);
            let [first, second] = &mut sides;
            let outcome = run(first, None, act, who, len, key);
            let other = run(second, Some(ClientId::new(1_000, Serial::new(1))), act, who, len, key);
            assert_eq!(outcome, other, "seed {seed}, step {step}, act {act}");
        }
    }

    /// The return value of the call, some counters, and the queued bytes and received frames of
    /// each client.
    type Outcome = (String, [u64; 4], Vec<(usize, Vec<Frame>)>);

    fn run(
        (host, peers): &mut (Host, Vec<(Peer, ClientId)>),
        except: Option<ClientId>,
        act: usize,
        who: usize,
        len: usize,
        key: u64,
    ) -> Outcome {
        let (peer, client) = &mut peers[who];
        let payload = vec![len as u8; len];
        let engine = &mut host.engine;
        let outcome = match act {
            0..=9 => format!("{:?}", engine.broadcast((&payload).into(), except)),
            10 => format!("{:?}", engine.broadcast(Outgoing::Prepared(Prepared::new("framed")), except)),
            11 => format!("{:?}", engine.broadcast((&vec![1; 1_500]).into(), except)),
            12 => format!("{:?}", engine.send(*client, (&payload).into())),
            13 => format!("{:?}", engine.send_latest(*client, LatestKey::from(key), (&payload).into())),
            14 => {
                let options = SendOptions::new().priority(Priority::High);
                format!("{:?}", engine.send_with(*client, (&payload).into(), &options, Some(host.now)))
            }
            15 if key == 0 => format!("{:?}", engine.close(*client, 1000.into(), "", host.now)),
            15 if key == 1 => format!("{:?}", engine.disconnect(*client)),
            16 => format!("{}", peer.read(len)),
            17 => {
                engine.flush(host.now);
                String::new()
            }
            18 => format!("{:?}", closes(&host.poll())),
            _ => {
                peers.iter_mut().for_each(|(peer, _)| _ = peer.read(usize::MAX));
                format!("{:?}", closes(&host.poll()))
            }
        };
        host.check();
        let seen = peers.iter_mut().map(|(peer, client)| (host.engine.buffered(*client), peer.parse()));
        let seen = seen.collect();
        let stats = host.engine.stats();
        (outcome, [stats.messages_out, stats.replaced, stats.dropped, stats.open], seen)
    }
}
