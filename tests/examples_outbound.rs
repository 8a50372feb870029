//! Runs the examples that make outbound connections as a user runs them.
#![cfg(unix)]

#[path = "support/example.rs"]
mod example;

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use example::{DEADLINE, Example};
use socket2::{Domain, Socket, Type};
use tungstenite::{Message, WebSocket};

fn accept(listener: &TcpListener) -> WebSocket<TcpStream> {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    tungstenite::accept(stream).unwrap()
}

#[test]
fn client_relays_stdin_and_messages() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let mut example = Example::start("client", &[&url, "--header", "X-A: b"]);
    // Written before the connection is open: two lines at once, and a last one without a line feed.
    example.stdin.as_mut().unwrap().write_all("grüße\nzwei\ndrei".as_bytes()).unwrap();
    let mut socket = accept(&listener);
    example.expect("connected");
    for line in ["grüße", "zwei"] {
        assert_eq!(socket.read().unwrap(), Message::text(line));
    }
    socket.send(Message::text("hello back")).unwrap();
    example.expect("hello back");
    socket.send(Message::binary(vec![0; 7])).unwrap();
    example.expect("<7 bytes>");
    drop(example.stdin.take());
    assert_eq!(socket.read().unwrap(), Message::text("drei"));
    assert!(matches!(socket.read().unwrap(), Message::Close(Some(frame)) if frame.code == 1000.into()));
    while socket.read().is_ok() {}
    drop(socket);
    assert_eq!(example.exit_code(), Some(0));
}

#[test]
fn client_prints_why_it_cannot_connect() {
    // Bound but not listening, so that no other process takes the port.
    let unused = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    unused.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let url = format!("ws://{}/", unused.local_addr().unwrap().as_socket().unwrap());
    let mut example = Example::start("client", &[&url]);
    example.expect("connection refused");
    assert_eq!(example.exit_code(), Some(1));
    if cfg!(not(feature = "tls")) {
        let mut example = Example::start("client", &["wss://a.example/"]);
        example.expect("TLS");
        assert_eq!(example.exit_code(), Some(1));
    }
}

/// The chat's own certificate is the authority that the client trusts.
#[cfg(feature = "tls")]
#[test]
fn client_speaks_tls_with_a_server_whose_authority_it_is_given() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let dir = std::env::temp_dir().join(format!("tickws-wss-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| dir.join(name).to_str().unwrap().to_owned());
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut server = Example::start("echo_broadcast", &["127.0.0.1:0", "--tls", &chain, &key]);
    let url = server.expect_url("wss://");
    let mut client = Example::start("client", &[&url, "--authority", &chain]);
    client.stdin.as_mut().unwrap().write_all(b"over TLS\n").unwrap();
    client.expect("over TLS");
    // The end of its input.
    client.stdin = None;
    assert_eq!(client.exit_code(), Some(0));
    let mut client = Example::start("client", &[&url]);
    client.expect("the TLS handshake failed: invalid peer certificate");
    assert_eq!(client.exit_code(), Some(1));
    std::fs::remove_dir_all(dir).unwrap();
}

/// Fifty bots, and a server that goes away and comes back: tungstenite's.
#[test]
fn bots_reconnect_when_the_server_is_back() {
    const BOTS: usize = 50;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut bots = Example::start("bots", &["--url", &format!("ws://{addr}/"), "--bots", "50"]);
    let mut sockets: Vec<_> = (0..BOTS).map(|_| accept(&listener)).collect();
    bots.expect("50 of 50 bots are there");
    // All sockets are dropped without a close frame, and nothing listens any more.
    drop(listener);
    sockets.clear();
    bots.expect("s: 0 of 50 bots are there");
    let server = thread::spawn(move || {
        let listener = TcpListener::bind(addr).unwrap();
        // A bot may leave at any time, even during its handshake, and be replaced.
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                let Ok(mut socket) = tungstenite::accept(stream) else { return };
                while socket.read().is_ok() {}
            });
        }
    });
    // A bot that is leaving and its replacement may be connected at the same time.
    while bot_count(&bots.expect(" of 50 bots are there")) < BOTS {}
    assert!(!server.is_finished());
}

/// The number of bots in a line such as `  12 s: 49 of 50 bots are there | …`.
fn bot_count(line: &str) -> usize {
    let (_, counts) = line.split_once("s: ").unwrap();
    counts.split_once(' ').unwrap().0.parse().unwrap()
}
