//! Runs the examples as a user runs them.
#![cfg(unix)]

#[path = "support/example.rs"]
mod example;

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use example::{DEADLINE, Example};
use tungstenite::{
    Error, HandshakeError, Message, WebSocket, client::IntoClientRequest, protocol::WebSocketConfig,
};

fn connect(url: &str) -> WebSocket<TcpStream> {
    let request = url.into_client_request().unwrap();
    let addr = format!("{}:{}", request.uri().host().unwrap(), request.uri().port_u16().unwrap());
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    tungstenite::client::client_with_config(request, stream, Some(config)).unwrap().0
}

fn close_code(client: &mut WebSocket<TcpStream>) -> u16 {
    loop {
        match client.read() {
            Ok(Message::Close(Some(frame))) => return frame.code.into(),
            Ok(_) => {}
            Err(error) => panic!("no close frame: {error}"),
        }
    }
}

#[test]
fn echo_broadcast_serves_16_mib_and_closes_with_1001() {
    let mut example = Example::start("echo_broadcast", &["127.0.0.1:0", "--max-message", "16777216"]);
    let url = example.url();
    assert!(get(&url.replace("ws://", "http://")).ends_with("</html>\n"), "a browser gets the page");
    let (mut one, mut two) = (connect(&url), connect(&format!("{url}any/path")));
    let first = example.expect(" joined from");
    example.expect(" joined from");
    let first = first.split(' ').find(|word| word.starts_with('#')).unwrap();
    let large = vec![0xA5; 16 << 20];
    let messages = [
        Message::text("hello"),
        Message::text("grüße, καλημέρα, नमस्ते, 你好, 👋🏽"),
        Message::text(""),
        Message::binary(large),
    ];
    for message in messages {
        one.send(message.clone()).unwrap();
        assert!(one.read().unwrap() == message, "echo to the sender");
        assert!(two.read().unwrap() == message, "broadcast to the other");
    }
    one.close(None).unwrap();
    example.expect(&format!("{first} left: the peer closed with 1005"));
    example.interrupt();
    assert_eq!(close_code(&mut two), 1001);
    // Completes the close handshake.
    while two.read().is_ok() {}
    drop(two);
    assert_eq!(example.exit_code(), Some(0));
}

/// Sends a plain GET; gives the whole response, head and body.
fn get(url: &str) -> String {
    let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(authority).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

#[test]
fn chat_checks_tokens_before_upgrades_and_keeps_history() {
    let mut example = Example::start("chat", &["127.0.0.1:0", "--token", "secret"]);
    let page = example.expect_url("http://");
    let response = get(&page);
    assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with("</html>\n"), "{response}");
    assert!(get(&page.replace("/?", "/healthz?")).starts_with("HTTP/1.1 200 "));

    let upgrade = |token: &str| {
        let authority = page.strip_prefix("http://").unwrap().split('/').next().unwrap();
        let stream = TcpStream::connect(authority).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        tungstenite::client(format!("ws://{authority}/ws?token={token}"), stream).map_err(Box::new)
    };
    let error = *upgrade("letmein").expect_err("a wrong token is rejected");
    let HandshakeError::Failure(Error::Http(response)) = error else { panic!("{error}") };
    assert_eq!(response.status(), 401);

    // Clients that leave while their token is looked up cause no trouble.
    drop((0..20).map(|_| TcpStream::connect(page.split('/').nth(2).unwrap()).unwrap()).inspect(
        |mut stream| {
            let head =
                "GET /ws?token=secret HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
            let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            stream.write_all([head, key].concat().as_bytes()).unwrap();
        },
    ));

    let (mut ada, response) = upgrade("secret").unwrap();
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("chat-session=") && cookie.contains("HttpOnly"), "{cookie}");
    let say = |client: &mut WebSocket<TcpStream>, text: &str| client.send(Message::text(text)).unwrap();
    let receive = |client: &mut WebSocket<TcpStream>| client.read().unwrap().into_text().unwrap().to_string();
    say(&mut ada, r#"{"type":"say","data":"is this on?"}"#);
    assert_eq!(receive(&mut ada), r#"{"type":"error","data":"join a room first"}"#);
    say(&mut ada, r#"{"type":"join","data":{"room":"büro","name":"ada"}}"#);
    assert_eq!(receive(&mut ada), r#"{"type":"joined","data":{"room":"büro","history":[]}}"#);
    assert_eq!(receive(&mut ada), r#"{"type":"rooms","data":["büro"]}"#);
    assert_eq!(receive(&mut ada), r#"{"type":"here","data":["ada"]}"#);
    say(&mut ada, r#"{"type":"say","data":" 你好 "}"#);
    let said = receive(&mut ada);
    assert!(said.ends_with(r#","who":"ada","text":"你好"}}"#), "{said}");
    say(&mut ada, &format!(r#"{{"type":"say","data":"{}"}}"#, "x".repeat(1001)));
    assert!(receive(&mut ada).contains("at most 1000 characters"));

    let (mut bob, _) = upgrade("secret").unwrap();
    say(&mut bob, r#"{"type":"join","data":{"room":"büro","name":"bob"}}"#);
    assert!(receive(&mut bob).contains(r#""who":"ada","text":"你好"}]"#));
    say(&mut ada, r#"{"type":"kick","data":"bob"}"#);
    assert_eq!(close_code(&mut bob), 4001);
}

#[test]
fn dashboard_reports_its_load() {
    let mut example = Example::start("dashboard", &["127.0.0.1:0", "--load", "2"]);
    let page = example.expect_url("http://");
    assert!(get(&page).ends_with("</html>\n"));
    let mut client = connect(&format!("{}stats", page.replace("http", "ws")));
    let busy = |sample: &serde_json::Value| sample["open"] == 3 && sample["messages_out"].as_u64() > Some(20);
    loop {
        let text = client.read().unwrap().into_text().unwrap();
        let sample: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(sample["type"], "stats");
        if busy(&sample["data"]) {
            break;
        }
    }
    assert!(get(&format!("{page}metrics")).contains("tickws_messages_out_total"));
    example.interrupt();
    assert_eq!(close_code(&mut client), 1001);
    while client.read().is_ok() {}
    drop(client);
    assert_eq!(example.exit_code(), Some(0));
}

#[test]
fn game_tick_sends_a_snapshot_per_frame() {
    let mut example = Example::start("game_tick", &["127.0.0.1:0"]);
    let url = example.url();
    let mut client = connect(&url);
    client.send(Message::text("right")).unwrap();
    let mut frames = Vec::new();
    let mut furthest = 0;
    while frames.len() < 10 || furthest == 0 {
        let Ok(Message::Binary(bytes)) = client.read() else { panic!("the snapshots end: {frames:?}") };
        frames.push(u64::from_be_bytes(bytes[..8].try_into().unwrap()));
        if bytes.len() >= 12 {
            furthest = furthest.max(i16::from_be_bytes(bytes[10..12].try_into().unwrap()));
        }
    }
    assert!(frames.windows(2).all(|pair| pair[1] == pair[0] + 1), "a frame is missing: {frames:?}");
}

#[test]
fn snapshots_stay_recent_for_a_slow_reader_of_latest() {
    let mut example = Example::start("snapshots", &["3"]);
    example.expect("fast, send_latest   slow, send_latest          slow, send");
    let mut rows = Vec::new();
    for second in 1..=3 {
        let row = example.expect(" ms");
        let mut columns = row.split_whitespace().filter(|column| *column != "ms");
        assert_eq!(columns.next(), Some(second.to_string().as_str()), "{row}");
        rows.push(columns.map(|ms| ms.parse::<u64>().unwrap()).collect::<Vec<_>>());
    }
    let [fast, latest, plain] = rows[2][..] else { panic!("no three readers: {rows:?}") };
    // An idle machine prints 17, 600 and 2500. The delay of a reader that gets every message grows
    // at the same rate on any machine.
    assert!(plain > rows[0][2] && plain > 1200, "the reader of every message is not late: {rows:?}");
    assert!(2 * fast < plain && 3 * latest < 2 * plain, "{rows:?}");
    assert_eq!(example.exit_code(), Some(0));
}

#[test]
fn external_loop_relays_stdin_and_messages() {
    let mut example = Example::start("external_loop", &["127.0.0.1:0"]);
    let url = example.url();
    let mut client = connect(&url);
    client.send(Message::text("hi there")).unwrap();
    example.expect("#1: hi there");
    example.stdin.as_mut().unwrap().write_all(b"welcome\n").unwrap();
    assert_eq!(client.read().unwrap(), Message::text("welcome"));
    drop(example.stdin.take());
    assert_eq!(close_code(&mut client), 1001);
    while client.read().is_ok() {}
    drop(client);
    assert_eq!(example.exit_code(), Some(0));
}

#[test]
fn threads_broadcasts_results_of_a_worker() {
    let mut example = Example::start("threads", &["127.0.0.1:0"]);
    let url = example.url();
    let mut client = connect(&url);
    let found: Vec<u64> = (0..5)
        .map(|_| {
            let text = client.read().unwrap().into_text().unwrap();
            let (found, limit) = text.split_once(" primes up to ").unwrap();
            assert!(limit.parse::<u64>().unwrap() >= 2);
            found.parse().unwrap()
        })
        .collect();
    assert!(found.is_sorted(), "{found:?}");
    example.expect("1 clients are told of");
    example.interrupt();
    assert_eq!(close_code(&mut client), 1001);
    while client.read().is_ok() {}
    drop(client);
    example.expect("the worker ended: Err(ServerGone)");
    assert_eq!(example.exit_code(), Some(0));
}

#[cfg(feature = "json")]
#[test]
fn rooms_carries_out_json_commands() {
    let mut example = Example::start("rooms", &["127.0.0.1:0"]);
    let url = example.url();
    let (mut ada, mut phone, mut bob) = (connect(&url), connect(&url), connect(&url));
    let say = |client: &mut WebSocket<TcpStream>, text: &str| client.send(Message::text(text)).unwrap();
    let said = |room: &str, who: &str, text: &str| {
        format!(r#"{{"type":"said","data":{{"room":"{room}","who":"{who}","text":"{text}"}}}}"#)
    };
    let reply = |text: &str| format!(r#"{{"type":"reply","data":"{text}"}}"#);
    let receive = |client: &mut WebSocket<TcpStream>| client.read().unwrap().into_text().unwrap().to_string();

    say(&mut ada, r#"{"type":"name","data":"ada"}"#);
    say(&mut ada, r#"{"type":"join","data":"büro"}"#);
    assert_eq!(receive(&mut ada), said("büro", "ada", "joined"));
    say(&mut phone, r#"{"type":"name","data":"ada"}"#);
    // Bob joins twice: the second join changes nothing.
    say(&mut bob, r#"{"type":"name","data":"bob"}"#);
    say(&mut bob, r#"{"type":"join","data":"büro"}"#);
    say(&mut bob, r#"{"type":"join","data":"büro"}"#);
    for client in [&mut ada, &mut bob] {
        assert_eq!(receive(client), said("büro", "bob", "joined"));
    }
    say(&mut bob, r#"{"type":"say","data":{"room":"büro","text":"你好"}}"#);
    for client in [&mut ada, &mut bob] {
        assert_eq!(receive(client), said("büro", "bob", "你好"));
    }

    // A bad command gets an error reply, and the connection stays open.
    say(&mut bob, r#"{"type":"say","data":{"room":"attic","text":"boo"}}"#);
    assert_eq!(receive(&mut bob), reply(r#"join \"attic\" first"#));
    say(&mut bob, r#"{"type":"say","data":{"room":"attic"}}"#);
    assert!(receive(&mut bob).contains("missing field `text`"));
    say(&mut bob, "{");
    assert!(receive(&mut bob).contains("line 1"));

    // Ada is on two devices; the phone has joined no room.
    say(&mut phone, r#"{"type":"leave","data":"attic"}"#);
    assert_eq!(receive(&mut phone), reply(r#"join \"attic\" first"#));
    say(&mut bob, r#"{"type":"tell","data":{"user":"ada","text":"psst"}}"#);
    for client in [&mut ada, &mut phone] {
        assert_eq!(receive(client), reply("bob: psst"));
    }
    say(&mut bob, r#"{"type":"leave","data":"büro"}"#);
    for client in [&mut ada, &mut bob] {
        assert_eq!(receive(client), said("büro", "bob", "left"));
    }
    say(&mut bob, r#"{"type":"join","data":"büro"}"#);
    assert_eq!(receive(&mut ada), said("büro", "bob", "joined"));
    drop(bob);
    assert_eq!(receive(&mut ada), said("büro", "bob", "left"));
}

/// The WebSocket changes over from hyper, with bytes that hyper has read behind the request.
#[test]
fn hyper_hands_its_websockets_over() {
    let mut example = Example::start("hyper", &["127.0.0.1:0"]);
    let url = example.expect_url("http://");
    assert!(get(&url).contains("<title>tickws beside hyper</title>"));
    let authority = url.split('/').nth(2).unwrap();

    let mut client = connect(&format!("ws://{authority}/ws"));
    client.send(Message::text("hello")).unwrap();
    assert_eq!(client.read().unwrap(), Message::text("hello"));
    example.expect("came to /ws");
    client.close(None).unwrap();
    example.expect("left: ");

    // A message in the same segment as the request is not lost.
    let mut stream = TcpStream::connect(authority).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {authority}\r\nOrigin: http://{authority}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    // "hi", with a mask of zeros.
    stream.write_all(&[request.as_bytes(), b"\x81\x82\0\0\0\0hi"].concat()).unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\x81\x02hi") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    assert!(bytes.starts_with(b"HTTP/1.1 101 "));

    // A page of another site does not get in.
    let request = request.replace(&format!("Origin: http://{authority}"), "Origin: http://evil.example");
    let mut stream = TcpStream::connect(authority).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 403");
}

#[cfg(feature = "tls")]
#[test]
fn chat_makes_a_certificate_and_prints_its_fingerprint() {
    let mut example = Example::start("chat", &["127.0.0.1:0", "--dev-tls"]);
    let line = example.expect("SHA-256 fingerprint ");
    let printed = line.rsplit(' ').next().unwrap();
    let url = example.expect_url("https://");
    let authority = url.split('/').nth(2).unwrap();
    // OpenSSL computes the same from the certificate that the server shows.
    let command = format!(
        "openssl s_client -connect {authority} </dev/null | openssl x509 -noout -fingerprint -sha256"
    );
    let shown = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.trim().ends_with(printed), "{shown} is not {printed}");
}
