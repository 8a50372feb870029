//! The public API as a newcomer tries it from its documentation: owned arguments, audiences,
//! matches on errors.

use std::{borrow::Cow, sync::Arc, time::Duration};

use tickws::{
    Audience, BindError, Bytes, CloseCode, CloseError, CloseReason, Connect, ConnectError, Event, JoinError,
    Message, NotConnectedError, OverflowPolicy, OwnedAudience, Prepared, Priority, SendError, SendOptions,
    Server, TimeoutKind, http::Response,
};

mod support;

use support::{Harness, raw};

/// What an entity component system asks of a resource.
fn is_resource<T: Send + Sync + 'static>(_: &T) {}

#[test]
fn a_server_and_its_parts_can_be_resources_of_an_ecs() {
    let mut server = Server::bind("127.0.0.1:0").unwrap();
    is_resource(&server);
    is_resource(&server.handle());
    is_resource(&server.poll_once().unwrap());
    is_resource(&Prepared::new("x"));
    is_resource(&tickws::Client::connect("ws://127.0.0.1:1/").unwrap());
    // With closures that are only `Send`.
    let (sender, receiver) = std::sync::mpsc::channel::<u8>();
    let builder = Server::builder()
        .check_origin(move |_| receiver.try_recv().is_err())
        .on_http(move |_| Response::new(Bytes::from(sender.send(1).is_ok().to_string())));
    is_resource(&builder.build().unwrap());
}

#[test]
fn all_kinds_of_text_and_bytes_can_be_sent() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    let (name, bytes) = (String::from("ann"), vec![1, 2, 3]);
    let server = &mut h.server;
    let text = Message::Text("a message");
    server.send(id, "text").unwrap();
    server.send(id, name.clone()).unwrap();
    server.send(id, &name).unwrap();
    server.send(id, format!("{name} joined")).unwrap();
    server.send(id, Cow::Borrowed("cow")).unwrap();
    server.send(id, Box::<str>::from("box")).unwrap();
    server.send(id, Arc::<str>::from("arc")).unwrap();
    server.send(id, text).unwrap();
    server.send(id, Prepared::new("prepared")).unwrap();
    server.send(id, b"bytes").unwrap();
    server.send(id, &bytes).unwrap();
    server.send(id, &bytes[..2]).unwrap();
    server.send(id, bytes).unwrap();
    server.send(id, [9u8, 9]).unwrap();
    server.send(id, Bytes::from_static(b"shared")).unwrap();
    let texts = ["text", "ann", "ann", "ann joined", "cow", "box", "arc", "a message", "prepared"];
    for expected in texts {
        assert_eq!(h.frame(&mut raw), raw::Frame::new(raw::TEXT, expected));
    }
    for expected in [&b"bytes"[..], &[1, 2, 3], &[1, 2], &[1, 2, 3], &[9, 9], b"shared"] {
        assert_eq!(h.frame(&mut raw), raw::Frame::new(raw::BINARY, expected));
    }
}

#[test]
fn each_audience_gets_a_message_with_all_options() {
    let mut h = Harness::new();
    let (mut ann, ann_id) = h.connect();
    let (mut bob, bob_id) = h.connect();
    let (gone, gone_id) = h.connect();
    drop(gone);
    h.close_reason(gone_id);
    h.settle();
    h.server.join(ann_id, "red").unwrap();
    h.server.set_user(bob_id, "bob").unwrap();
    let red = h.server.room("red").unwrap();
    let plain = SendOptions::new();
    let mut deliver = |audience: Audience<'_>, text: &str, options: &SendOptions| {
        let delivery = h.server.deliver(audience, text, options);
        assert_eq!((delivery.dropped, delivery.overflowed), (0, 0));
        (delivery.queued, delivery.not_open)
    };
    assert_eq!(deliver(Audience::Everyone, "all", &plain), (2, 0));
    assert_eq!(deliver(Audience::Everyone, "but ann", &SendOptions::new().except(ann_id)), (1, 0));
    assert_eq!(deliver(ann_id.into(), "ann", &plain), (1, 0));
    assert_eq!(deliver(gone_id.into(), "nobody", &plain), (0, 1));
    assert_eq!(deliver((&[ann_id, bob_id, gone_id]).into(), "three", &plain), (2, 1));
    assert_eq!(deliver(Audience::Room("red".into()), "red", &plain), (1, 0));
    assert_eq!(deliver(red.into(), "red by id", &plain), (1, 0));
    assert_eq!(deliver(Audience::Room("blue".into()), "no such room", &plain), (0, 0));
    assert_eq!(deliver(Audience::User("bob"), "bob", &plain), (1, 0));
    // The second of two latest values leaves, and one that has expired does not.
    let latest = SendOptions::new().latest("score").uncompressed();
    assert_eq!(deliver(Audience::Everyone, "1:0", &latest), (2, 0));
    assert_eq!(deliver(Audience::Everyone, "2:0", &latest), (2, 0));
    assert_eq!(deliver(Audience::Everyone, "late", &SendOptions::new().expires_in(Duration::ZERO)), (2, 0));
    let urgent = SendOptions::new().priority(Priority::High).expires_in(Duration::from_secs(60));
    assert_eq!(deliver(Audience::Room("red".into()), "urgent", &urgent), (1, 0));
    let mut texts = |raw: &mut raw::Raw, expected: &[&str]| {
        let mut found: Vec<_> = expected.iter().map(|_| h.frame(raw).payload).collect();
        let mut expected: Vec<_> = expected.iter().map(|text| text.as_bytes().to_vec()).collect();
        // A message of high priority passes others; the order is tested elsewhere.
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    };
    texts(&mut ann, &["all", "ann", "three", "red", "red by id", "2:0", "urgent"]);
    texts(&mut bob, &["all", "but ann", "three", "bob", "2:0"]);
    assert_eq!(h.server.stats().expired, 2);
    assert_eq!(h.server.stats().replaced, 2);
}

#[test]
fn a_handle_reaches_the_same_audiences() {
    let mut h = Harness::new();
    let (mut ann, ann_id) = h.connect();
    let (mut bob, bob_id) = h.connect();
    h.server.join(ann_id, "red").unwrap();
    h.server.set_user(bob_id, "bob").unwrap();
    let handle = h.server.handle();
    let options = SendOptions::new();
    std::thread::spawn(move || {
        handle.deliver(OwnedAudience::Everyone, String::from("all"), &options)?;
        handle.deliver(vec![ann_id], "ann", &options)?;
        handle.deliver(Audience::Room("red".into()), "red", &options)?;
        handle.deliver(OwnedAudience::User("bob".into()), "bob", &options)?;
        handle.publish_except("red", ann_id, "nobody")?;
        handle.publish_latest("red", "key", "latest red")?;
        handle.broadcast_latest("key", "latest")
    })
    .join()
    .unwrap()
    .unwrap();
    for expected in ["all", "ann", "red", "latest"] {
        assert_eq!(h.frame(&mut ann), raw::Frame::new(raw::TEXT, expected));
    }
    for expected in ["all", "bob", "latest"] {
        assert_eq!(h.frame(&mut bob), raw::Frame::new(raw::TEXT, expected));
    }
    assert_eq!(h.server.stats().undelivered, 0);
    h.server.handle().deliver(h.server.clients().next().unwrap(), "x", &SendOptions::new()).unwrap();
}

#[test]
fn errors_can_be_matched_and_converted() {
    let mut h = Harness::new();
    let (raw, id) = h.connect();
    drop(raw);
    h.close_reason(id);
    h.settle();
    let server = &mut h.server;
    match server.send(id, "x") {
        Err(SendError::NotConnected(stale)) => assert_eq!(stale, id),
        other => panic!("{other:?}"),
    }
    assert!(matches!(server.close(id, CloseCode::NORMAL_CLOSURE, "bye"), Err(CloseError::NotConnected(_))));
    assert!(matches!(server.join(id, "room"), Err(JoinError::NotConnected(_))));
    assert_eq!(server.set_overflow(id, OverflowPolicy::DropNewest), Err(NotConnectedError(id)));
    assert_eq!(SendError::from(NotConnectedError(id)), SendError::NotConnected(id));
    assert!(matches!(server.connect("http://a.example/"), Err(ConnectError::Url(_))));
    let encrypted = server.connect(Connect::new("wss://a.example/"));
    assert!(matches!(encrypted, Err(ConnectError::Tls)) != cfg!(feature = "tls"));
    let taken = server.local_addrs()[0];
    match Server::bind(taken) {
        Err(BindError::Listen { addr, .. }) => assert_eq!(addr, taken),
        other => panic!("{other:?}"),
    }
    let invalid = Server::builder().max_message_size(0).bind("127.0.0.1:0");
    assert!(matches!(invalid, Err(BindError::Config(_))));
    /// `?` works where everything is an `io::Error`.
    fn io(addr: std::net::SocketAddr) -> std::io::Result<Server> {
        Ok(Server::bind(addr)?)
    }
    assert_eq!(io(taken).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn close_codes_are_numbers_with_names() {
    let reason = CloseReason::Peer { code: 1014.into(), text: String::new() };
    assert_eq!(reason.code(), CloseCode::BAD_GATEWAY);
    assert!(CloseCode::BAD_GATEWAY.is_sendable() && reason.code() == 1014);
    match CloseReason::Timeout(TimeoutKind::Silence).code() {
        CloseCode::ABNORMAL_CLOSURE => {}
        other => panic!("{other}"),
    }
    const APPLICATION: CloseCode = CloseCode::new(4001);
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    h.server.close(id, APPLICATION, "kicked").unwrap();
    assert_eq!(h.frame(&mut raw), raw::Frame::close(4001, "kicked"));
}

#[test]
fn an_open_event_has_path_query_cookies_and_address() {
    let mut h = Harness::new();
    let mut raw = h.dial();
    let request = raw::upgrade_request("/chat?room=red%20team&x", "Cookie: a=1; session=abc\r\n");
    let addr = raw.local_addr();
    h.write(&mut raw, request.as_bytes());
    loop {
        let tick = h.server.poll_for(Duration::from_millis(10)).unwrap();
        let Some(Event::Open { client, request }) = tick.iter().next() else { continue };
        assert_eq!((request.method().as_str(), request.uri().path()), ("GET", "/chat"));
        assert_eq!(request.query("room").as_deref(), Some("red team"));
        assert_eq!(request.query("x").as_deref(), Some(""));
        assert_eq!((request.cookie("session"), request.cookie("none")), (Some("abc"), None));
        assert_eq!(request.header("HOST"), Some("localhost"));
        assert_eq!(request.remote_addr(), addr);
        assert_eq!((request.is_secure(), request.body().len()), (support::is_over_tls(), 0));
        assert!(h.server.is_open(client) && h.server.last_heard(client).is_some());
        assert_eq!(h.server.remote_addr(client).unwrap().port(), Some(addr.port()));
        break;
    }
}
