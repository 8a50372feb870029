//! Connections that were accepted elsewhere, listeners that close, and the hosts that a server on
//! loopback addresses takes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

mod support;

use support::{
    Deadline, Harness,
    raw::{self, Raw},
};
use tickws::{
    AdoptError, CloseCode, ConfigError, Event, Listener, PeerAddr, Server, ServerBuilder, http::Request,
};
use tungstenite::{Message, WebSocket, protocol::Role};

/// A pair of connected streams: of the client, and the accepted one.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// Polls until `done` returns a value.
fn poll_until<T>(
    server: &mut Server,
    what: &str,
    mut done: impl FnMut(&mut Server, Event<'_>) -> Option<T>,
) -> T {
    let deadline = Deadline::new();
    loop {
        for event in &server.poll_for(Duration::from_millis(1)).unwrap() {
            if let Some(value) = done(server, event) {
                return value;
            }
        }
        deadline.check(what);
    }
}

#[test]
fn an_adopted_stream_makes_its_handshake_here() {
    let mut server = Server::builder().build().unwrap();
    let (client, accepted) = pair();
    let local = client.local_addr().unwrap();
    let client = thread::spawn(move || {
        let (mut socket, _) = tungstenite::client("ws://any.example/", client).unwrap();
        socket.send(Message::text("hello")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("hello"));
    });
    server.adopt(accepted).unwrap();
    poll_until(&mut server, "the message", |server, event| {
        let Event::Message { client, message } = event else { return None };
        assert_eq!(server.remote_addr(client), Some(PeerAddr::from(local)));
        server.send(client, message).unwrap();
        server.flush();
        Some(())
    });
    client.join().unwrap();
}

#[test]
fn an_adopted_websocket_goes_on_with_what_was_read() {
    let mut server = Server::builder().keep_requests(true).build().unwrap();
    let (client, accepted) = pair();
    let client = thread::spawn(move || {
        let mut socket = WebSocket::from_raw_socket(client, Role::Client, None);
        assert_eq!(socket.read().unwrap(), Message::text("welcome"));
        socket.send(Message::text("late")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("early"));
        assert_eq!(socket.read().unwrap(), Message::text("late"));
    });
    let request = Request::get("/chat?room=1").header("Host", "any.example").body(()).unwrap();
    let early = raw::text("early");
    let id = server.adopt_upgraded(accepted, request, &early).unwrap();
    server.send(id, "welcome").unwrap();
    let (mut opened, mut echoed) = (false, 0);
    poll_until(&mut server, "both messages", |server, event| {
        match event {
            Event::Open { client, request } => {
                assert_eq!((client, request.uri().path()), (id, "/chat"));
                assert_eq!(request.header("host"), Some("any.example"));
                opened = true;
            }
            Event::Message { client, message } => {
                server.send(client, message).unwrap();
                echoed += 1;
            }
            other => panic!("{other:?}"),
        }
        server.flush();
        (opened && echoed == 2).then_some(())
    });
    assert_eq!(server.request(id).unwrap().uri().query(), Some("room=1"));
    client.join().unwrap();
}

#[test]
fn limits_apply_to_adopted_connections() {
    let mut server = Server::builder().max_connections(1).build().unwrap();
    let request = || Request::new(());
    let (_first, accepted) = pair();
    server.adopt_upgraded(accepted, request(), b"").unwrap();
    let (mut second, accepted) = pair();
    let error = server.adopt_upgraded(accepted, request(), b"").unwrap_err();
    assert!(matches!(error, AdoptError::AtLimit), "{error}");
    assert_eq!(second.read(&mut [0]).unwrap(), 0, "the stream is closed");
    let (_third, accepted) = pair();
    let error = server.adopt_upgraded(accepted, request(), &[0; 70_000]).unwrap_err();
    assert!(matches!(error, AdoptError::LeftoverTooLarge { .. }), "{error}");
    server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(1));
    let (_fourth, accepted) = pair();
    let error = server.adopt_upgraded(accepted, request(), b"").unwrap_err();
    assert!(matches!(error, AdoptError::ShuttingDown), "{error}");
}

/// Connections that wait in the backlog of a listener that closes would be reset by the system.
#[test]
fn a_shutdown_responds_to_connections_that_wait_to_be_accepted() {
    let mut server = Server::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0];
    let waiting: Vec<_> = (0..100).map(|_| TcpStream::connect(addr).unwrap()).collect();
    server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(60));
    assert_eq!(server.local_addrs(), []);
    // No more than 64 rejected connections are kept at a time.
    assert!(!server.is_drained() && server.stats().accepted == 64);
    let clients: Vec<_> = waiting
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                text
            })
        })
        .collect();
    let deadline = Deadline::new();
    while !server.is_drained() {
        let _ = server.poll_for(Duration::from_millis(1)).unwrap();
        deadline.check("the end of the shutdown");
    }
    for client in clients {
        assert!(client.join().unwrap().starts_with("HTTP/1.1 503 "));
    }
    assert_eq!(server.stats().rejected.at_capacity, 100);
    assert!(TcpStream::connect(addr).is_err(), "the listener is closed");
}

/// Clients that connect while the server does not poll find room in the backlog.
#[test]
fn a_backlog_holds_the_clients_of_a_frame() {
    let mut server = Server::builder().accept_budget(10_000).bind("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0];
    let limit: usize = std::fs::read_to_string("/proc/sys/net/core/somaxconn")
        .map_or(128, |text| text.trim().parse().unwrap());
    let count = limit.min(500);
    let clients: Vec<_> = (0..count).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let _ = server.poll_once().unwrap();
    assert_eq!(server.stats().accepted, count as u64);
    drop(clients);
}

/// The status of the response that a client reads.
fn status(h: &mut Harness, stream: &mut Raw) -> u16 {
    h.head(stream)[9..12].parse().unwrap()
}

fn status_of(builder: ServerBuilder, host: &str, origin: &str) -> u16 {
    let mut h = Harness::with(builder);
    let mut stream = h.dial();
    let request = raw::upgrade_request("/", &format!("Origin: {origin}\r\n"));
    let request = request.replace("Host: localhost", &format!("Host: {host}"));
    h.write(&mut stream, request.as_bytes());
    status(&mut h, &mut stream)
}

#[test]
fn a_server_on_loopback_addresses_takes_loopback_names_alone() {
    let evil = ("evil.example", "http://evil.example");
    assert_eq!(status_of(Server::builder(), evil.0, evil.1), 421);
    assert_eq!(status_of(Server::builder().allow_any_origin(), evil.0, evil.1), 421);
    for host in ["localhost", "127.0.0.1", "[::1]", "game.localhost"] {
        assert_eq!(status_of(Server::builder(), host, &format!("http://{host}")), 101, "{host}");
    }
    let listed = || Server::builder().allow_hosts(["game.example"]);
    assert_eq!(status_of(listed(), "game.example", "http://game.example"), 101);
    assert_eq!(status_of(listed(), evil.0, evil.1), 421);
    assert_eq!(status_of(listed(), "localhost", "http://localhost"), 421);
    // A proxy on this machine passes the host on.
    let proxied = Server::builder().trusted_proxies(["127.0.0.1"]);
    assert_eq!(status_of(proxied, "game.example", "http://game.example"), 101);
    // And a server that others can reach has a host of its own.
    let mut open = Server::builder().health("/healthz").bind("0.0.0.0:0").unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], open.local_addrs()[0].port()));
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: game.example\r\nConnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    let deadline = Deadline::new();
    while !client.is_finished() {
        let _ = open.poll_for(Duration::from_millis(1)).unwrap();
        deadline.check("the response");
    }
    assert!(client.join().unwrap().starts_with("HTTP/1.1 200 "));
}

#[test]
fn settings_that_can_never_match_are_errors() {
    let error = |builder: ServerBuilder| match builder.build() {
        Err(tickws::BindError::Config(error)) => error,
        other => panic!("{other:?}"),
    };
    for origin in
        ["https://bücher.example", "https://a.example:99999", "https://a.example/", "wss://a.example"]
    {
        let found = error(Server::builder().allow_origins([origin]));
        assert_eq!(found, ConfigError::InvalidOrigin(origin.to_owned()));
    }
    for host in ["bücher.example", "http://a.example", "a.example:99999", "a/b", ""] {
        let found = error(Server::builder().allow_hosts([host]));
        assert_eq!(found, ConfigError::InvalidHost(host.to_owned()));
    }
    for path in ["ws", "/a/../b", "/a?b", "/a#b", "/a\\b"] {
        let invalid = ConfigError::InvalidPath(path.to_owned());
        assert_eq!(error(Server::builder().path(path)), invalid);
        assert_eq!(error(Server::builder().health(path)), invalid);
        assert_eq!(error(Server::builder().metrics(path)), invalid);
    }
    let same = error(Server::builder().health("/\u{fc}").metrics("/%C3%BC"));
    assert_eq!(same, ConfigError::SamePath("/%C3%BC".to_owned()));
    let dots = error(Server::builder().serve_bytes("/a/../b", "text/plain", "x"));
    assert_eq!(dots, ConfigError::InvalidPath("/a/../b".to_owned()));
    for proxy in ["localhost", "10.0.0.0/33"] {
        let found = error(Server::builder().trusted_proxies([proxy]));
        assert_eq!(found, ConfigError::InvalidProxy(proxy.to_owned()));
    }
    let none: [&str; 0] = [];
    assert_eq!(error(Server::builder().allow_hosts(none)), ConfigError::Zero("allow_hosts"));
    let listener = Listener::from(TcpListener::bind("127.0.0.1:0").unwrap()).proxy_protocol();
    assert_eq!(error(Server::builder().listener(listener)), ConfigError::NoTrustedProxies);
    assert_eq!(error(Server::builder().backlog(0)), ConfigError::Zero("backlog"));
}

#[test]
fn paths_in_unicode_match_their_encoded_form() {
    let builder = Server::builder()
        .path("/b\u{fc}cher/*")
        .health("/zust\u{e4}nde")
        .metrics("/zahlen \u{fc}ber uns")
        .serve_bytes("/\u{fc}ber", "text/plain", "text");
    let mut h = Harness::with(builder);
    for (path, status) in [
        ("/b%C3%BCcher/7", 101),
        ("/b%c3%bccher/7", 101),
        ("/bcher/7", 404),
        ("/zust%C3%A4nde", 200),
        ("/zahlen%20%C3%BCber%20uns", 200),
        ("/%C3%BCber", 200),
    ] {
        let mut stream = h.dial();
        let request = match status == 200 {
            true => format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            false => raw::upgrade_request(path, ""),
        };
        h.write(&mut stream, request.as_bytes());
        assert_eq!(self::status(&mut h, &mut stream), status, "{path}");
    }
}

/// An address that never responds: its backlog is full.
#[cfg(target_os = "linux")]
fn silent() -> (SocketAddr, Vec<TcpStream>, TcpListener) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let listener: TcpListener = socket.into();
    let addr = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(100)) {
        waiting.push(stream);
    }
    (addr, waiting, listener)
}

#[cfg(target_os = "linux")]
#[test]
fn an_address_that_does_not_respond_does_not_hold_up_the_next() {
    let (dead, _waiting, _listener) = silent();
    let mut target = Server::bind("127.0.0.1:0").unwrap();
    let live = target.local_addrs()[0];
    let mut server = Server::builder().build().unwrap();
    // The deadline of the attempt is far away: only the race ends it in time.
    let connect =
        tickws::Connect::new("ws://localhost/").addrs([dead, live]).timeout(Duration::from_secs(3600));
    let id = server.connect(connect).unwrap();
    let deadline = Deadline::new();
    while !server.is_open(id) {
        let _ = server.poll_for(Duration::from_millis(1)).unwrap();
        let _ = target.poll_for(Duration::from_millis(1)).unwrap();
        deadline.check("the second address");
    }
    assert_eq!(server.remote_addr(id), Some(live.into()));
    server.send(id, "hello").unwrap();
    let text = loop {
        let _ = server.poll_for(Duration::from_millis(1)).unwrap();
        let tick = target.poll_for(Duration::from_millis(1)).unwrap();
        let text = tick.iter().find_map(|event| match event {
            Event::Message { message, .. } => Some(message.as_text().unwrap().to_owned()),
            _ => None,
        });
        if let Some(text) = text {
            break text;
        }
        deadline.check("the message");
    };
    assert_eq!(text, "hello");
}

/// The kernel's send buffer is small for WebSockets only.
#[cfg(target_os = "linux")]
#[test]
fn the_send_buffer_is_set_when_a_websocket_opens() {
    let mut server = Server::builder().send_buffer(16 * 1024).build().unwrap();
    let (client, accepted) = pair();
    let other = accepted.try_clone().unwrap();
    let size = || socket2::SockRef::from(&other).send_buffer_size().unwrap();
    let before = size();
    server.adopt(accepted).unwrap();
    let _ = server.poll_once().unwrap();
    assert_eq!(size(), before);
    let client = thread::spawn(move || tungstenite::client("ws://localhost/", client).unwrap());
    poll_until(&mut server, "the opening", |_, event| matches!(event, Event::Open { .. }).then_some(()));
    assert_eq!(size(), 32 * 1024, "Linux doubles the number");
    server.flush();
    drop(client.join().unwrap());
}
