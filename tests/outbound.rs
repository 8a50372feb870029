//! Outbound connections over real sockets: to tungstenite's server, to tickws, and to raw servers
//! that misbehave.

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use support::{Deadline, Harness, PATIENCE, Seen, blocking::Blocking};
use tickws::{
    Client, ClientId, CloseReason, Connect, ConnectError, Event, ProtocolError, Reconnect, Server, WhileDown,
};
use tungstenite::{
    Message,
    handshake::{
        derive_accept_key,
        server::{Request, Response},
    },
};

/// Runs a server other than tickws on a thread, which serves one connection after the other; gives
/// its address.
fn serve<F>(connections: usize, mut each: F) -> (SocketAddr, thread::JoinHandle<()>)
where
    F: FnMut(Blocking) + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        for _ in 0..connections {
            let (stream, _) = listener.accept().unwrap();
            each(Blocking::new(stream, PATIENCE).unwrap());
        }
    });
    (addr, thread)
}

/// Reads a request head, and gives the accept key for it.
fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
    derive_accept_key(key.as_bytes())
}

fn switching(accept: &str, more: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
}

impl Seen {
    fn is_open(&self) -> bool {
        matches!(self, Seen::Open(..))
    }
}

/// Connects, and waits for `Open`.
fn open(h: &mut Harness, connect: impl Into<Connect>) -> ClientId {
    let id = h.server.connect(connect.into()).unwrap();
    h.until("the connection", |h| {
        h.seen.iter().any(|seen| matches!(seen, Seen::Open(open, _) if *open == id))
    });
    id
}

/// Connects, and gives the error of `ConnectFailed`.
fn failure(h: &mut Harness, connect: impl Into<Connect>) -> ConnectError {
    let id = h.server.connect(connect.into()).unwrap();
    let mut found = None;
    h.until("a failure", |h| {
        found = h.seen.iter().find_map(|seen| match seen {
            Seen::Failed(client, error) if *client == id => Some(error.clone()),
            Seen::Open(client, _) if *client == id => panic!("it opened"),
            _ => None,
        });
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn outbound_to_tungstenite_with_headers_and_subprotocols() {
    let (addr, thread) = serve(1, |stream| {
        #[expect(clippy::result_large_err, reason = "tungstenite wants it so")]
        let check = |request: &Request, mut response: Response| {
            assert_eq!(request.uri(), "/chat?room=1");
            assert_eq!(request.headers()["x-token"], "secret");
            assert_eq!(request.headers()["sec-websocket-protocol"], "v2, v1");
            response.headers_mut().insert("sec-websocket-protocol", "v1".parse().unwrap());
            response.headers_mut().insert("x-server", "theirs".parse().unwrap());
            Ok(response)
        };
        let mut socket = tungstenite::accept_hdr(stream, check).unwrap();
        while let Ok(message) = socket.read() {
            if message.is_text() || message.is_binary() {
                socket.send(message).unwrap();
            }
        }
    });
    let mut h = Harness::new();
    let connect = Connect::new(format!("ws://{addr}/chat?room=1"))
        .header("X-Token", "secret")
        .subprotocols(["v2", "v1"]);
    let id = open(&mut h, connect);
    assert_eq!(h.seen[0], Seen::Open(id, format!("ws://{addr}/chat?room=1")));
    assert_eq!((h.server.subprotocol(id), h.server.remote_addr(id)), (Some("v1"), Some(addr.into())));
    assert_eq!(h.server.response(id).unwrap().headers()["x-server"], "theirs");
    let lengths = [0, 1, 125, 126, 127, 1000, 1023, 1024, 65_535, 65_536, 300_000];
    for len in lengths {
        h.server.send(id, vec![len as u8; len]).unwrap();
        h.server.send(id, "ü".repeat(len / 2)).unwrap();
    }
    h.until("all echoes", |h| h.seen.len() > 2 * lengths.len());
    for (index, len) in lengths.into_iter().enumerate() {
        assert_eq!(h.seen[1 + 2 * index], Seen::Binary(id, vec![len as u8; len]));
        assert_eq!(h.seen[2 + 2 * index], Seen::Text(id, "ü".repeat(len / 2)));
    }
    h.server.ping(id).unwrap();
    h.until("a pong", |h| h.server.rtt(id).is_some());
    h.server.close(id, 1000, "done").unwrap();
    assert!(matches!(h.close_reason(id), CloseReason::Local { .. }));
    h.until("the server's FIN", |h| h.server.stats().open == 0);
    thread.join().unwrap();
}

#[test]
fn both_ends_of_a_connection_share_one_loop() {
    let mut h = Harness::new();
    let url = format!("ws://{}/x", h.addr);
    let out = open(&mut h, &url);
    h.until_seen("both ends", 2, Seen::is_open);
    let inside = h.server.clients().find(|id| *id != out).unwrap();
    assert_eq!((h.server.link(inside), h.server.link(out).is_some()), (None, true));
    h.server.join(out, "room").unwrap();
    h.server.join(inside, "room").unwrap();
    let _ = h.server.publish("room", "to both");
    h.until("both messages", |h| {
        let texts = [Seen::Text(out, "to both".into()), Seen::Text(inside, "to both".into())];
        texts.iter().all(|text| h.seen.contains(text))
    });
    h.server.shutdown(1001, "", PATIENCE);
    h.until("the end", |h| h.server.is_drained());
}

/// RFC 6455 §4.1: frames may arrive in the same segment as the 101.
#[test]
fn frames_after_the_101_arrive_wherever_it_is_split() {
    // Sends all at once, and split at each of these places with a pause between.
    let cuts = [0, 1, 60, 129, 130, 131, 132, 133, 140];
    let mut turn = cuts.into_iter();
    let (addr, thread) = serve(cuts.len(), move |mut stream| {
        let accept = read_head(&mut stream);
        let mut bytes = switching(&accept, "").into_bytes();
        bytes.extend_from_slice(b"\x81\x03one\x82\x03two\x89\x00\x81\x05three");
        let (first, second) = bytes.split_at(turn.next().unwrap());
        if !first.is_empty() {
            stream.write_all(first).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        stream.write_all(second).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
    let mut h = Harness::new();
    for _ in cuts {
        h.seen.clear();
        let id = open(&mut h, format!("ws://{addr}/"));
        h.until("three messages", |h| h.seen.len() == 4);
        let (one, two, three) = ("one".into(), b"two".to_vec(), "three".into());
        assert_eq!(h.seen[1..], [Seen::Text(id, one), Seen::Binary(id, two), Seen::Text(id, three)]);
        h.server.disconnect(id).unwrap();
        assert_eq!(h.close_reason(id), CloseReason::Disconnected);
    }
    thread.join().unwrap();
}

#[test]
fn rejected_handshakes_have_distinct_errors() {
    let responses = [
        "HTTP/1.1 301 Moved Permanently\r\nLocation: ws://b.example/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 12\r\n\r\nwho are you?",
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nConnection: close\r\n\r\ntry later",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "+EXT: Sec-WebSocket-Extensions: permessage-deflate\r\n",
        "+SUB: Sec-WebSocket-Protocol: chat\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
        "",
    ];
    let mut turn = 0;
    let (addr, thread) = serve(responses.len(), move |mut stream| {
        let accept = read_head(&mut stream);
        let response = match responses[turn].split_once(": ") {
            Some((mark, line)) if mark.starts_with('+') => switching(&accept, line),
            _ => responses[turn].to_owned(),
        };
        turn += 1;
        stream.write_all(response.as_bytes()).unwrap();
    });
    let mut h = Harness::new();
    let url = format!("ws://{addr}/");
    let errors: Vec<_> = responses.iter().map(|_| failure(&mut h, &url)).collect();
    let ConnectError::Redirect { status, location } = &errors[0] else { panic!("{:?}", errors[0]) };
    assert_eq!((status.as_u16(), &**location), (301, "ws://b.example/"));
    for (error, status, body) in [(&errors[1], 401, "who are you?"), (&errors[2], 503, "try later")] {
        let ConnectError::Refused(rejection) = error else { panic!("{error:?}") };
        assert_eq!((rejection.status.as_u16(), &rejection.body[..]), (status, body.as_bytes()));
    }
    for (error, word) in errors[3..7].iter().zip(["Accept", "extension", "subprotocol", "HTTP"]) {
        assert!(matches!(error, ConnectError::BadResponse(text) if text.contains(word)), "{error:?}");
    }
    assert_eq!(errors[7], ConnectError::HungUp);
    assert_eq!(h.server.stats().dial_failed, 8);
    thread.join().unwrap();
}

/// The server sends part of a good response, a byte more each time, and then nothing.
#[test]
fn a_stalled_handshake_fails_at_its_deadline() {
    let whole = switching(&"x".repeat(28), "").len();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let mut held = Vec::new();
        for end in 0..whole {
            let mut stream = Blocking::new(listener.accept().unwrap().0, PATIENCE).unwrap();
            let accept = read_head(&mut stream);
            stream.write_all(&switching(&accept, "").as_bytes()[..end]).unwrap();
            held.push(stream);
        }
        // Each socket stays open until the client has given up.
        for mut stream in held {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
    });
    let mut h = Harness::new();
    for _ in 0..whole {
        let connect = Connect::new(format!("ws://{addr}/")).timeout(Duration::from_millis(1500));
        h.server.connect(connect).unwrap();
    }
    h.until_seen("all deadlines", whole, |seen| matches!(seen, Seen::Failed(..)));
    for seen in &h.seen {
        let Seen::Failed(_, error) = seen else { panic!("{seen:?}") };
        assert_eq!(*error, ConnectError::Timeout(tickws::ConnectStep::Handshake));
    }
    thread.join().unwrap();
}

#[test]
fn refused_connections_and_unknown_names_fail() {
    let mut h = Harness::new();
    // Bound but not listening, so that no other process takes the port.
    let unused = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    unused.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let addr = unused.local_addr().unwrap().as_socket().unwrap();
    let refused = ConnectError::Io { addr: addr.into(), error: std::io::ErrorKind::ConnectionRefused };
    assert_eq!(failure(&mut h, format!("ws://{addr}/")), refused);
    // RFC 6761 §6.4: `.invalid` never resolves. The result wakes a sleeping server.
    let id = h.server.connect("ws://nowhere.invalid/").unwrap();
    let deadline = Deadline::new();
    loop {
        let tick = h.server.poll_for(PATIENCE).unwrap();
        deadline.check("the resolver");
        match tick.iter().next() {
            None => {}
            Some(Event::ConnectFailed { client, error: ConnectError::Resolve { host, .. }, .. }) => {
                assert_eq!((client, &**host), (id, "nowhere.invalid"));
                break;
            }
            Some(Event::ConnectFailed { error: ConnectError::Timeout(_), .. }) => {
                eprintln!("skipped: this machine's resolver does not respond within 10 s");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn localhost_falls_back_to_a_listening_address() {
    // Listens on only one of 127.0.0.1 and ::1, and connects by name.
    for (bind, other) in [("127.0.0.1:0", "::1"), ("[::1]:0", "127.0.0.1")] {
        let Ok(listener) = TcpListener::bind(bind) else {
            eprintln!("skipped: no {bind} on this machine");
            continue;
        };
        let addr = listener.local_addr().unwrap();
        // Bound but not listening, so that no other test can listen on the same port there.
        let other = SocketAddr::new(other.parse().unwrap(), addr.port());
        let reserved = socket2::Socket::new(socket2::Domain::for_address(other), socket2::Type::STREAM, None)
            .and_then(|socket| socket.bind(&other.into()).map(|()| socket));
        if let Err(error) = &reserved
            && error.kind() == std::io::ErrorKind::AddrInUse
        {
            eprintln!("skipped: another program has {other}");
            continue;
        }
        let mut h = Harness::with(Server::builder().listener(listener));
        let id = open(&mut h, format!("ws://localhost:{}/", addr.port()));
        assert_eq!(h.server.remote_addr(id), Some(addr.into()));
    }
}

#[test]
fn a_server_that_masks_frames_is_closed_with_1002() {
    let (addr, thread) = serve(1, |mut stream| {
        let accept = read_head(&mut stream);
        stream.write_all(switching(&accept, "").as_bytes()).unwrap();
        stream.write_all(b"\x81\x82\x01\x02\x03\x04hi").unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).ok();
        let key = &rest[2..6];
        let code = [rest[6] ^ key[0], rest[7] ^ key[1]];
        assert_eq!((rest[0], rest[1] & 0x80, u16::from_be_bytes(code)), (0x88, 0x80, 1002));
    });
    let builder = Server::builder().close_timeout(Duration::from_millis(100));
    let mut h = Harness::with(builder);
    let id = open(&mut h, format!("ws://{addr}/"));
    assert_eq!(h.close_reason(id), CloseReason::Protocol(ProtocolError::MaskedFrame));
    h.until("the end of the socket", |_| thread.is_finished());
    thread.join().unwrap();
}

#[test]
fn a_client_reconnects_and_sends_kept_messages() {
    let (addr, thread) = serve(3, {
        let mut turn = 0;
        move |stream| {
            turn += 1;
            if turn == 2 {
                return; // hangs up during the handshake
            }
            let mut socket = tungstenite::accept(stream).unwrap();
            let mut count = 0;
            while let Ok(message) = socket.read() {
                if let Message::Text(text) = message {
                    socket.send(Message::text(format!("{turn}: {text}"))).unwrap();
                    count += 1;
                    if turn == 1 && count == 1 {
                        return; // without a close frame
                    }
                }
            }
        }
    });
    let policy = Reconnect::new().base(Duration::from_millis(20));
    let connect = Connect::new(format!("ws://{addr}/")).reconnect(policy).while_down(WhileDown::KeepLast(10));
    let mut client = Client::connect(connect).unwrap();
    client.send("before").unwrap();
    let (mut log, deadline) = (Vec::new(), Deadline::new());
    while !client.is_over() {
        for event in &client.poll_for(Duration::from_millis(50)).unwrap() {
            match event {
                Event::Open { .. } => log.push("open".to_owned()),
                Event::Message { message, .. } => {
                    log.push(message.as_text().unwrap().to_owned());
                    if log.last().is_some_and(|text| text == "3: meanwhile") {
                        client.close(1000, "").unwrap();
                    }
                }
                Event::Close { .. } => {
                    log.push("close".to_owned());
                }
                Event::Reconnecting { attempt, error, .. } => {
                    log.push(format!("again {attempt} {}", error.is_some()));
                    if attempt == 1 {
                        client.send("meanwhile").unwrap();
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        deadline.check("the end");
    }
    let expected =
        ["open", "1: before", "close", "again 1 false", "again 2 true", "open", "3: meanwhile", "close"];
    assert_eq!(log, expected);
    assert!(!client.is_open());
    thread.join().unwrap();
}

#[test]
fn many_outbound_connections_keep_polls_bounded() {
    const COUNT: usize = 300;
    let mut h = Harness::with(Server::builder().accept_budget(16));
    let url = format!("ws://{}/", h.addr);
    for _ in 0..COUNT {
        h.server.connect(&url).unwrap();
    }
    let before = h.server.stats().dialed;
    h.step();
    assert!(h.server.stats().dialed - before <= 16);
    h.until_seen("all to be open at both ends", 2 * COUNT, Seen::is_open);
    assert_eq!(h.server.client_count(), 2 * COUNT);
    h.server.shutdown(1000, "", PATIENCE);
    h.until("the end", |h| h.server.is_drained());
}

/// A `Client` uses the settings of the server that it is created with.
#[cfg(feature = "deflate")]
#[test]
fn a_client_offers_compression_if_configured() {
    use tickws::Deflate;
    let mut server = Server::builder().deflate(Deflate::default()).bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", server.local_addrs()[0]);
    for wanted in [false, true] {
        let builder = Server::builder();
        let builder = if wanted { builder.deflate(Deflate::default()) } else { builder };
        let mut client = Client::with_server(builder.build().unwrap(), Connect::new(&url)).unwrap();
        let text = "again and again ".repeat(100);
        let (mut echo, deadline) = (None, Deadline::new());
        while echo.is_none() {
            for event in &server.poll_for(Duration::from_millis(1)).unwrap() {
                if let Event::Message { client, message } = event {
                    server.send(client, message).unwrap();
                }
            }
            for event in &client.poll_for(Duration::from_millis(1)).unwrap() {
                match event {
                    Event::Open { .. } => client.send(&text).unwrap(),
                    Event::Message { message, .. } => echo = message.as_text().map(str::to_owned),
                    other => panic!("{other:?}"),
                }
            }
            deadline.check("the echo");
        }
        assert_eq!(echo.as_ref(), Some(&text));
        let id = client.id();
        let agreed =
            client.server_mut().response(id).unwrap().headers().contains_key("sec-websocket-extensions");
        let stats = client.server_mut().stats();
        assert_eq!((agreed, stats.bytes_out < 1_000, stats.bytes_in < 1_000), (wanted, wanted, wanted));
    }
}

/// The loop of the documentation ends when the client is over. The server must have its answer by
/// that time.
#[test]
fn a_close_frame_that_is_owed_is_written_before_the_client_is_over() {
    for dropped_at_once in [false, true] {
        let (addr, thread) = serve(1, |stream| {
            let mut socket = tungstenite::accept(stream).unwrap();
            socket.send(Message::text("last words")).unwrap();
            socket
                .close(Some(tungstenite::protocol::CloseFrame { code: 4001.into(), reason: "bye".into() }))
                .unwrap();
            match socket.read() {
                Ok(Message::Close(Some(frame))) => {
                    assert_eq!((u16::from(frame.code), &*frame.reason), (4001, "bye"))
                }
                other => panic!("no reply to the close frame: {other:?}"),
            }
        });
        let mut client = Client::connect(format!("ws://{addr}/")).unwrap();
        let (mut closed, deadline) = (false, Deadline::new());
        while !client.is_over() {
            for event in &client.poll_wait(None).unwrap() {
                closed |= matches!(event, Event::Close { .. });
            }
            if closed && dropped_at_once {
                break;
            }
            deadline.check("the end of the client");
        }
        assert!(closed);
        drop(client);
        thread.join().unwrap();
    }
}

/// The same for a program that drops its server in the tick of the peer's close frame.
#[test]
fn a_dropped_server_has_answered_the_close_frames_that_it_has_reported() {
    let mut h = Harness::new();
    let addr = h.server.local_addrs()[0];
    let peer = thread::spawn(move || {
        let mut socket = support::dial(addr, "/");
        socket
            .close(Some(tungstenite::protocol::CloseFrame { code: 4002.into(), reason: "".into() }))
            .unwrap();
        loop {
            match socket.read() {
                Ok(Message::Close(Some(frame))) => return u16::from(frame.code),
                Ok(_) => {}
                Err(error) => panic!("no reply to the close frame: {error}"),
            }
        }
    });
    h.until_seen("the close", 1, |seen| matches!(seen, Seen::Close(..)));
    drop(h);
    assert_eq!(peer.join().unwrap(), 4002);
}
