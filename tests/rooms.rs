//! Rooms and users over real sockets.

mod support;

use std::{collections::BTreeSet, time::Duration};

use support::{Harness, dial, raw};
use tickws::{CloseReason, Delivery, Event, JoinError, Message, NotConnectedError, Server};

fn delivery(queued: usize) -> Delivery {
    let mut delivery = Delivery::default();
    delivery.queued = queued;
    delivery
}

/// The lobby of the README: each client joins at `Open`, and each text is published to all members.
fn lobby(server: &mut Server, event: Event<'_>) {
    match event {
        Event::Open { client, .. } => server.join(client, "lobby").expect("the client has just connected"),
        Event::Message { message: Message::Text(text), .. } => {
            let _ = server.publish("lobby", text);
        }
        _ => {}
    }
}

#[test]
fn a_published_message_reaches_every_member() {
    const CLIENTS: usize = 5;
    let mut h = Harness::new();
    let read = h.serve(lobby, |addr| {
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let mut client = dial(addr, "/");
            client.send(format!("here is {number}").into()).unwrap();
            assert_eq!(client.read().unwrap().to_text().unwrap(), format!("here is {number}"));
            clients.push(client);
        }
        clients[2].send("hello, all".into()).unwrap();
        let mut read = Vec::new();
        for (number, client) in clients.iter_mut().enumerate() {
            // Each client also gets the first messages of the clients that joined after it.
            for later in number + 1..CLIENTS {
                assert_eq!(client.read().unwrap().to_text().unwrap(), format!("here is {later}"));
            }
            read.push(client.read().unwrap().to_text().unwrap().to_owned());
            client.close(None).unwrap();
        }
        read
    });
    assert_eq!(read, ["hello, all"; CLIENTS]);
    h.until("all to be gone", |h| h.server.client_count() == 0);
    assert_eq!((h.server.room_count(), h.server.room_len("lobby")), (0, 0));
}

#[test]
fn send_to_user_reaches_all_clients_of_the_user_only() {
    let mut h = Harness::new();
    let (mut phone, phone_id) = h.connect();
    let (mut laptop, laptop_id) = h.connect();
    let (mut other, other_id) = h.connect();
    for (id, user) in [(phone_id, "ada"), (laptop_id, "ada"), (other_id, "bob")] {
        h.server.set_user(id, user).unwrap();
        assert_eq!(h.server.user(id), Some(user));
    }
    assert_eq!(h.server.clients_of("ada").collect::<BTreeSet<_>>(), BTreeSet::from([phone_id, laptop_id]));
    // A user is not a room.
    assert_eq!((h.server.room_count(), h.server.rooms(phone_id).len()), (0, 0));
    assert_eq!(h.server.publish("ada", "a room?"), delivery(0));

    assert_eq!(h.server.send_to_user("ada", "mail"), delivery(2));
    for device in [&mut phone, &mut laptop] {
        assert_eq!(h.frame(device), raw::Frame::new(raw::TEXT, "mail"));
    }
    phone.half_close();
    h.close_reason(phone_id);
    assert_eq!(h.server.clients_of("ada").collect::<Vec<_>>(), [laptop_id]);
    assert_eq!(h.server.send_to_user("ada", "more mail"), delivery(1));
    assert_eq!(h.frame(&mut laptop), raw::Frame::new(raw::TEXT, "more mail"));

    // Another user signs in on the same connection.
    h.server.set_user(laptop_id, "bob").unwrap();
    assert_eq!((h.server.send_to_user("ada", "?"), h.server.clients_of("ada").len()), (delivery(0), 0));
    assert_eq!(h.server.send_to_user("bob", "hi"), delivery(2));
    assert_eq!(h.server.clear_user(laptop_id), Ok(true));
    assert_eq!((h.server.clear_user(laptop_id), h.server.user(laptop_id)), (Ok(false), None));
    assert_eq!(h.server.send_to_user("bob", "just you"), delivery(1));
    assert_eq!(h.frame(&mut laptop), raw::Frame::new(raw::TEXT, "hi"));
    assert_eq!(
        [h.frame(&mut other), h.frame(&mut other)].map(|frame| frame.payload),
        [b"hi".to_vec(), b"just you".to_vec()]
    );
    h.settle();
    laptop.read_some();
    assert_eq!(laptop.input(), b"", "no message to another user");
}

#[test]
fn publish_except_skips_the_given_client() {
    let mut h = Harness::new();
    let mut members: Vec<_> = (0..4).map(|_| h.connect()).collect();
    for (_, id) in &members {
        h.server.join(*id, "lobby").unwrap();
    }
    let (outsider, outsider_id) = h.connect();
    for (number, (_, sender)) in members.iter().enumerate() {
        let text = format!("from {number}");
        assert_eq!(h.server.publish_except("lobby", *sender, &text), delivery(3));
    }
    // The excluded client need not be a member.
    assert_eq!(h.server.publish_except("lobby", outsider_id, "from outside"), delivery(4));
    for (at, (raw, _)) in members.iter_mut().enumerate() {
        let mut got = Vec::new();
        while got.last().is_none_or(|last| last != "from outside") {
            got.push(String::from_utf8(h.frame(raw).payload).unwrap());
        }
        let expected = (0..4).filter(|other| *other != at).map(|other| format!("from {other}"));
        assert_eq!(got, expected.chain(["from outside".to_owned()]).collect::<Vec<_>>());
    }
    h.settle();
    assert_eq!(outsider.input(), b"");
}

#[test]
fn a_closed_client_has_left_its_rooms_at_its_close_event() {
    type Way = fn(raw::Raw) -> Option<raw::Raw>;
    let ways: [Way; 4] = [
        |mut peer| peer.write_some(&raw::close(1000, "")).map(|_| peer).ok(),
        |mut peer| {
            peer.half_close();
            Some(peer)
        },
        |mut peer| peer.write_some(b"\x81\x01a").map(|_| peer).ok(),
        |peer| {
            drop(peer);
            None
        },
    ];
    let mut h = Harness::new();
    let (mut stays, stays_id) = h.connect();
    h.server.join(stays_id, "lobby").unwrap();
    for leave in ways {
        let (mut peer, id) = h.connect();
        h.server.join(id, "lobby").unwrap();
        h.server.join(id, "of its own").unwrap();
        h.server.set_user(id, "ada").unwrap();
        assert_eq!(h.server.room_len("lobby"), 2);
        peer.write_some(&raw::text("bye")).unwrap();
        let _peer = leave(peer);
        let mut seen = false;
        h.until("a Close event", |h| {
            let tick = h.server.poll_for(Duration::from_millis(1)).unwrap();
            for event in &tick {
                if let Event::Close { client, .. } = event {
                    assert_eq!(client, id);
                    assert_eq!(h.server.members("lobby").collect::<Vec<_>>(), [stays_id]);
                    assert_eq!((h.server.rooms(id).len(), h.server.user(id)), (0, None));
                    assert_eq!((h.server.room_count(), h.server.clients_of("ada").len()), (1, 0));
                    assert_eq!(h.server.join(id, "lobby"), Ok(()));
                    assert_eq!(h.server.publish("lobby", "it left"), delivery(1));
                    seen = true;
                }
            }
            seen
        });
        h.step();
        assert_eq!(h.server.join(id, "lobby"), Err(JoinError::NotConnected(id)));
        assert_eq!(h.server.leave_all(id), Err(NotConnectedError(id)));
        assert_eq!(h.frame(&mut stays), raw::Frame::new(raw::TEXT, "it left"));
    }
}

#[test]
fn a_room_id_is_stale_after_its_room_is_empty() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    assert_eq!(h.server.room("lobby"), None);
    h.server.join(id, "lobby").unwrap();
    let first = h.server.room("lobby").unwrap();
    assert_eq!(h.server.room_name(first), Some("lobby"));
    assert_eq!(h.server.publish(first, "1"), delivery(1));
    assert_eq!(h.server.leave(id, first), Ok(true));
    assert_eq!(h.server.leave(id, first), Ok(false));
    assert_eq!((h.server.room_name(first), h.server.room_len(first)), (None, 0));
    assert_eq!(h.server.join(id, first), Err(JoinError::NoSuchRoom(first)));

    // The same name now makes a new room.
    h.server.join(id, &String::from("lobby")).unwrap();
    let second = h.server.room("lobby").unwrap();
    assert!(second > first);
    assert_eq!((h.server.publish(first, "2"), h.server.members(first).len()), (delivery(0), 0));
    assert_eq!(h.server.publish(second, "3"), delivery(1));
    assert_eq!(h.server.leave_all(id), Ok(1));
    assert_eq!(h.server.publish("lobby", "4"), delivery(0));
    assert_eq!([h.frame(&mut raw), h.frame(&mut raw)].map(|frame| frame.payload), [b"1", b"3"]);
}

#[test]
fn room_limits_of_the_builder_apply() {
    let mut h = Harness::with(Server::builder().max_rooms(2).max_rooms_per_client(2).max_room_name(5));
    let ids = [h.connect(), h.connect()].map(|(_, id)| id);
    assert_eq!(h.server.join(ids[0], "sixsix"), Err(JoinError::NameTooLong { len: 6, max: 5 }));
    h.server.join(ids[0], "five5").unwrap();
    h.server.join(ids[0], "other").unwrap();
    let full = JoinError::TooManyForClient { client: ids[0], max: 2 };
    assert_eq!(h.server.join(ids[0], "third"), Err(full));
    assert_eq!(h.server.join(ids[1], "third"), Err(JoinError::TooManyRooms { max: 2 }));
    assert_eq!(h.server.join(ids[1], "other"), Ok(()));
    // Users do not count towards the limits.
    h.server.set_user(ids[0], "a name as long as you like").unwrap();
    assert_eq!(h.server.leave_all(ids[0]), Ok(2));
    assert_eq!(h.server.join(ids[1], "third"), Ok(()));
}

#[test]
fn an_overflowing_member_does_not_affect_others() {
    let message = vec![7; 32 * 1024];
    let mut h = Harness::with(Server::builder().max_buffered(512 * 1024));
    let (_slow, slow_id) = h.connect();
    let mut others: Vec<_> = (0..3).map(|_| h.connect()).collect();
    for id in others.iter().map(|(_, id)| *id).chain([slow_id]) {
        h.server.join(id, "lobby").unwrap();
    }
    let room = h.server.room("lobby").unwrap();
    let mut after = 0;
    // More bytes than the socket buffers of any kernel hold.
    for _ in 0..4096 {
        let sent = h.server.publish(room, &message);
        match after {
            0 if sent.overflowed == 0 => assert_eq!(sent, delivery(4)),
            0 => {
                assert_eq!((sent.queued, sent.dropped, sent.overflowed), (3, 0, 1));
                assert!(
                    h.server.members(room).all(|id| id != slow_id),
                    "it leaves the room in the same call"
                );
                after = 1;
            }
            _ => {
                assert_eq!(sent, delivery(3));
                after += 1;
            }
        }
        for (raw, _) in &mut others {
            assert!(h.frame(raw) == raw::Frame::new(raw::BINARY, &message), "a message is not whole");
        }
        if after == 10 {
            break;
        }
    }
    assert_eq!(after, 10, "the slow member never overflowed");
    assert_eq!(h.close_reason(slow_id), CloseReason::Overflow);
    assert_eq!((h.server.room_len(room), h.server.stats().closed.total()), (3, 1));
}
