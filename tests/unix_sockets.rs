//! Servers and clients on Unix domain sockets.
#![cfg(unix)]

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

mod support;

use support::Deadline;
use tickws::{
    BindError, Client, CloseReason, ConnectError, Event, Listener, PeerAddr, Server, ServerBuilder,
    UnixSocket,
};
use tungstenite::Message;

/// A folder that is removed at the end of the test. Its path is short: that of a socket has about
/// 100 bytes at most.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("tickws-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        Folder(folder)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("a.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Echoes every message until the client of tungstenite is done.
fn echo<T: Send>(mut server: Server, client: impl FnOnce() -> T + Send) -> (T, Vec<PeerAddr>) {
    std::thread::scope(|scope| {
        let client = scope.spawn(client);
        let (mut peers, deadline) = (Vec::new(), Deadline::new());
        while !client.is_finished() {
            for event in &server.poll_for(Duration::from_millis(1)).unwrap() {
                match event {
                    Event::Open { client, request } => {
                        assert_eq!(server.remote_addr(client), Some(request.remote_addr()));
                        peers.push(request.peer_addr());
                    }
                    Event::Message { client, message } => server.send(client, message).unwrap(),
                    _ => {}
                }
            }
            deadline.check("the end of the client");
        }
        (client.join().unwrap(), peers)
    })
}

fn talk(stream: UnixStream) {
    let (mut socket, _) = tungstenite::client("ws://localhost/", stream).unwrap();
    for size in [0, 125, 70_000, 1_000_000] {
        socket.send(Message::binary(vec![size as u8; size])).unwrap();
        assert_eq!(socket.read().unwrap(), Message::binary(vec![size as u8; size]));
    }
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
}

#[test]
fn clients_are_served_on_a_unix_socket_and_known_by_their_process() {
    let folder = Folder::new("served");
    let path = folder.socket();
    let server = Server::builder().max_connections_per_ip(1).bind_unix(&path).unwrap();
    assert_eq!(server.local_addrs(), []);
    let ((), peers) = echo(server, || {
        talk(UnixStream::connect(&path).unwrap());
        talk(UnixStream::connect(&path).unwrap());
    });
    assert_eq!(peers.len(), 2);
    for peer in peers {
        assert_eq!((peer.ip(), peer.port()), (None, None));
        if cfg!(any(target_os = "linux", target_os = "android")) {
            let PeerAddr::Unix(Some(process)) = peer else { panic!("{peer}") };
            assert_eq!(process.pid, std::process::id());
            assert_eq!(process.uid, rustix::process::geteuid().as_raw());
            assert_eq!(process.gid, rustix::process::getegid().as_raw());
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn abstract_names_need_no_file() {
    let name = format!("tickws-test-{}", std::process::id());
    let server = Server::builder().bind_unix(UnixSocket::abstract_name(&name)).unwrap();
    let taken = Server::builder().bind_unix(UnixSocket::abstract_name(&name)).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    assert!(taken.to_string().contains(&format!("@{name}")), "{taken}");
    let mut client = Client::connect(format!("ws+unix://@{name}:/chat")).unwrap();
    let ((), peers) = echo(server, || {
        let deadline = Deadline::new();
        let mut opened = false;
        while !client.is_over() {
            let tick = client.poll_for(Duration::from_millis(1)).unwrap();
            for event in &tick {
                match event {
                    Event::Open { request, .. } => {
                        assert_eq!(request.remote_addr(), PeerAddr::Unix(None));
                        assert_eq!(request.uri().path(), "/chat");
                        opened = true;
                    }
                    Event::Message { message, .. } => assert_eq!(message.as_text(), Some("hello")),
                    other => assert!(matches!(other, Event::Close { .. }), "{other:?}"),
                }
            }
            if std::mem::take(&mut opened) {
                client.send("hello").unwrap();
                client.close(1000, "").unwrap();
            }
            deadline.check("the end of the connection");
        }
    });
    assert_eq!(peers.len(), 1);
}

#[test]
fn mode_bits_are_set_before_the_socket_listens() {
    let folder = Folder::new("mode");
    for bits in [0o600, 0o660, 0o777] {
        let path = folder.socket();
        let server = Server::builder().bind_unix(UnixSocket::path(&path).mode(bits)).unwrap();
        let file = fs::metadata(&path).unwrap();
        assert!(file.file_type().is_socket());
        assert_eq!(file.permissions().mode() & 0o777, bits);
        drop(server);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn only_a_stale_socket_is_replaced_and_only_on_request() {
    let folder = Folder::new("stale");
    let path = folder.socket();
    let kind = |socket: UnixSocket| Server::builder().bind_unix(socket).map_err(|error| error.kind());
    let running = kind(UnixSocket::path(&path)).unwrap();
    // In use by a running server, whose backlog may be full.
    assert_eq!(kind(UnixSocket::path(&path).replace_stale()).unwrap_err(), ErrorKind::AddrInUse);
    assert!(UnixStream::connect(&path).is_ok(), "the running server is still there");
    drop(running);
    assert_eq!(kind(UnixSocket::path(&path)).unwrap_err(), ErrorKind::AddrInUse, "not on request");
    let next = kind(UnixSocket::path(&path).replace_stale()).unwrap();
    assert!(UnixStream::connect(&path).is_ok());
    drop(next);
    // Files that are no sockets stay.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert_eq!(kind(UnixSocket::path(&path).replace_stale()).unwrap_err(), ErrorKind::AddrInUse);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert_eq!(kind(UnixSocket::path(folder.0.join("a\0b"))).unwrap_err(), ErrorKind::InvalidInput);
    let long = Path::new("/tmp").join("x".repeat(200));
    assert!(matches!(Server::builder().bind_unix(long), Err(BindError::ListenUnix { .. })));
}

/// A server on a Unix domain socket and on TCP, where clients on the former may name any host.
#[test]
fn a_unix_socket_has_no_restriction_of_hosts() {
    let folder = Folder::new("hosts");
    let path = folder.socket();
    let listener = UnixListener::bind(&path).unwrap();
    let server = Server::builder().listener(listener).health("/healthz").bind("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0];
    let (statuses, _) = echo(server, || {
        let request = b"GET /healthz HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n";
        let mut unix = UnixStream::connect(&path).unwrap();
        unix.write_all(request).unwrap();
        let mut tcp = std::net::TcpStream::connect(addr).unwrap();
        tcp.write_all(request).unwrap();
        let mut texts = [String::new(), String::new()];
        unix.read_to_string(&mut texts[0]).unwrap();
        tcp.read_to_string(&mut texts[1]).unwrap();
        texts.map(|text| text[9..12].to_owned())
    });
    assert_eq!(statuses, ["200", "421"]);
}

#[test]
fn unix_proxies_are_trusted_by_name() {
    let folder = Folder::new("proxy");
    let status = |builder: ServerBuilder, header: &str| {
        let path = folder.socket();
        let _ = fs::remove_file(&path);
        let listener = Listener::from(UnixListener::bind(&path).unwrap()).proxy_protocol();
        let builder = builder.on_http(|request| {
            tickws::http::Response::new(format!("{} {}", request.remote_addr(), request.is_secure()).into())
        });
        let server = builder.listener(listener).build().unwrap();
        let (text, _) = echo(server, || {
            let mut stream = UnixStream::connect(&path).unwrap();
            let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            stream.write_all(format!("{header}{request}").as_bytes()).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        text.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()
    };
    let header = "PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n";
    assert_eq!(status(Server::builder().trusted_proxies(["unix:"]), header), "192.0.2.7:5000 false");
    assert!(status(Server::builder().trusted_proxies(["127.0.0.1"]), header).starts_with("unix"));
    let without = Server::builder().trusted_proxies(["unix:"]);
    assert_eq!(status(without, ""), "this port is for a proxy that speaks the PROXY protocol\n");
}

#[test]
fn connect_errors_of_unix_sockets_are_reported() {
    let folder = Folder::new("errors");
    let missing = folder.0.join("missing.sock");
    let mut server = Server::builder().build().unwrap();
    server.connect(format!("ws+unix://{}:/", missing.display())).unwrap();
    let deadline = Deadline::new();
    loop {
        let tick = server.poll_for(Duration::from_millis(1)).unwrap();
        if let Some(event) = tick.iter().next() {
            let Event::ConnectFailed { error, .. } = event else { panic!("{event:?}") };
            let error = error.clone();
            let expected = ConnectError::Io { addr: PeerAddr::Unix(None), error: ErrorKind::NotFound };
            assert_eq!(error, expected);
            return;
        }
        deadline.check("the error");
    }
}

#[test]
fn a_peer_that_vanishes_is_reported() {
    let folder = Folder::new("gone");
    let path = folder.socket();
    let mut server = Server::builder().bind_unix(&path).unwrap();
    let client = std::thread::spawn({
        let path = path.clone();
        move || drop(tungstenite::client("ws://localhost/", UnixStream::connect(path).unwrap()).unwrap())
    });
    let deadline = Deadline::new();
    let mut reason = None;
    while reason.is_none() {
        for event in &server.poll_for(Duration::from_millis(1)).unwrap() {
            if let Event::Close { reason: why, .. } = event {
                reason = Some(why.clone());
            }
        }
        deadline.check("the close");
    }
    assert_eq!(reason, Some(CloseReason::Eof));
    client.join().unwrap();
}
