//! Rooms and users in the whole engine: a client leaves them before its `Close` is handed out.

mod model;
mod visited;

use super::*;
use crate::{CloseCode, Delivery, JoinError, NotConnectedError, SendOptions, config::audience::Audience};

fn members(host: &Host, room: &str) -> Vec<ClientId> {
    host.engine.rooms().members(room.into()).collect()
}

fn publish(host: &mut Host, room: &str, text: &str) -> Delivery {
    host.engine.deliver(Audience::Room(room.into()), text.into(), &SendOptions::new(), None)
}

#[test]
fn join_in_the_tick_of_an_orderly_close_has_no_effect() {
    let ways: [fn(&mut Peer); 3] =
        [|peer| peer.close(1000), |peer| peer.fin(), |peer| peer.raw(b"\x81\x01a")];
    for leaves in ways {
        let mut host = Host::new(Config::default());
        let (mut peer, client) = host.open();
        host.engine.join(client, "lobby".into()).unwrap();
        host.engine.set_user(client, "ada").unwrap();
        peer.text("let me in");
        leaves(&mut peer);
        let tick = host.poll();
        assert_eq!((messages(&tick).len(), closes(&tick).len()), (1, 1));
        assert_eq!((members(&host, "lobby"), host.engine.users().room_count()), (vec![], 0));
        assert_eq!(host.engine.join(client, "lobby".into()), Ok(()));
        assert_eq!(host.engine.set_user(client, "ada"), Ok(()));
        assert_eq!((host.engine.rooms().room_count(), host.engine.users().room_count()), (0, 0));
        assert_eq!(publish(&mut host, "lobby", "anyone?"), Delivery::default());
        // Messages to it are still sent.
        assert_eq!(host.engine.send(client, "too late".into()), Ok(()));
        let _ = host.poll();
        assert_eq!(peer.frames()[0], text("too late"));
        assert_eq!(host.engine.join(client, "lobby".into()), Err(JoinError::NotConnected(client)));
        assert_eq!(host.engine.leave(client, "lobby".into()), Err(NotConnectedError(client)));
        assert_eq!(host.engine.leave_all(client), Err(NotConnectedError(client)));
        assert_eq!(host.engine.set_user(client, "ada"), Err(NotConnectedError(client)));
        assert_eq!(host.engine.clear_user(client), Err(NotConnectedError(client)));
    }
}

#[test]
fn failed_connection_is_stale_in_the_tick_of_its_close() {
    let mut host = Host::new(Config { event_budget: 2, ..Config::default() });
    let (_other, other) = host.open();
    let (mut peer, client) = host.open();
    for id in [other, client] {
        host.engine.join(id, "lobby".into()).unwrap();
    }
    // A tick takes two messages, so the third comes together with the reset.
    (0..3).for_each(|_| peer.text("let me in"));
    assert_eq!(messages(&host.poll()).len(), 2);
    peer.reset(false);
    let tick = host.poll();
    assert!(matches!(closes(&tick)[..], [(id, CloseReason::Io(_))] if id == client));
    assert_eq!(messages(&tick), [(client, b"let me in".to_vec())]);
    assert_eq!(host.engine.join(client, "lobby".into()), Err(JoinError::NotConnected(client)));
    assert_eq!(host.engine.set_user(client, "ada"), Err(NotConnectedError(client)));
    assert_eq!(members(&host, "lobby"), [other]);
}

#[test]
fn shutdown_keeps_members_but_sends_them_nothing() {
    let mut host = Host::new(Config::default());
    let mut clients: Vec<_> = (0..3).map(|_| host.open()).collect();
    for (_, client) in &clients {
        host.engine.join(*client, "lobby".into()).unwrap();
    }
    host.engine.shutdown(CloseCode::GOING_AWAY, "", SEC, host.now);
    assert_eq!(publish(&mut host, "lobby", "still here?"), Delivery::default());
    for left in (0..3).rev() {
        assert_eq!(members(&host, "lobby").len(), left + 1);
        let (mut peer, _) = clients.pop().unwrap();
        host.settle();
        assert_eq!(peer.frames(), [Frame::Close(1001, String::new())]);
        peer.close(1001);
        assert_eq!(closes(&host.poll()).len(), 1);
        assert_eq!(members(&host, "lobby").len(), left);
        peer.fin();
    }
    host.settle();
    host.check_empty();
}

#[test]
fn publish_latest_replaces_per_member() {
    for len in [10, 2_000] {
        let mut host = Host::new(Config::default());
        let (mut fast, fast_id) = host.open();
        let (mut slow, slow_id) = host.open();
        for client in [fast_id, slow_id] {
            host.engine.join(client, "lobby".into()).unwrap();
        }
        let (_, outsider) = host.open();
        slow.set_buffers(1_000, 100);
        // This message blocks the ones that follow.
        host.engine.send(slow_id, (&[7; 200]).into()).unwrap();
        host.settle();
        let position = |number: usize| format!("{number:len$}");
        for number in 0..5 {
            let text = position(number);
            let audience = Audience::Room("lobby".into());
            let delivery =
                host.engine.deliver(audience, text.as_str().into(), &SendOptions::new().latest(1), None);
            assert_eq!(delivery, Delivery { queued: 2, ..Delivery::default() });
            host.settle();
        }
        assert_eq!(fast.frames(), (0..5).map(|number| text(&position(number))).collect::<Vec<_>>());
        assert_eq!(host.engine.stats().replaced, 4);
        assert_eq!(host.engine.buffered(outsider), 0);
        slow.set_buffers(1_000, 100_000);
        slow.read(10);
        host.settle();
        assert_eq!(slow.frames(), [Frame::Binary(vec![7; 200]), text(&position(4))]);
    }
}
