//! Responses to requests other than a WebSocket upgrade: each is complete and followed by FIN.

mod support;

use support::{Harness, Seen, raw};
use tickws::{Server, ServerBuilder};

/// A response, checked for the parts that every response must have.
struct HttpResponse {
    status: u16,
    head: String,
}

impl HttpResponse {
    #[track_caller]
    fn parse(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).expect("a response is text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
        let status = head.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1")[..3].parse().unwrap();
        let response = HttpResponse { status, head: head.to_owned() };
        let length: usize = response.field("Content-Length").expect("a length").parse().unwrap();
        assert_eq!(body.len(), length, "{text}");
        // A connection above a limit is refused before its request is read, which may be a HEAD.
        let short = body.len() < 200 && body.ends_with('\n');
        assert!(if status == 503 { body.is_empty() } else { short }, "{body:?}");
        assert!(response.field("Date").expect("a date").ends_with(" GMT"));
        let connection = response.field("Connection").expect("Connection");
        assert!(connection.split(", ").any(|token| token == "close"), "{connection}");
        assert!(response.field("Content-Type").unwrap().starts_with("text/plain"));
        response
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Sends `request` on a new connection and reads to the end.
#[track_caller]
fn send_request(h: &mut Harness, request: &str) -> HttpResponse {
    let mut raw = h.dial();
    h.write(&mut raw, request.as_bytes());
    HttpResponse::parse(&h.read_to_end(&mut raw))
}

#[test]
fn a_request_without_an_upgrade_gets_a_4xx_response() {
    let mut h = Harness::new();
    for junk in ["\x16\x03\x01\x02\0", "SSH-2.0-OpenSSH_9.9\r\n", "GET /\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        assert_eq!(send_request(&mut h, junk).status, 400, "{junk:?}");
    }
    assert_eq!(h.server.stats().rejected.bad_request, 4);

    let post = send_request(&mut h, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!((post.status, post.field("Allow")), (405, Some("GET")));

    let get = send_request(&mut h, "GET /index.html HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!((get.status, get.field("Sec-WebSocket-Version")), (426, Some("13")));
    assert_eq!(get.field("Upgrade"), Some("websocket"));

    let old = raw::upgrade_request("/", "").replace("Version: 13", "Version: 8");
    let old = send_request(&mut h, &old);
    assert_eq!((old.status, old.field("Sec-WebSocket-Version")), (426, Some("13")));
    assert_eq!(h.server.stats().rejected.not_an_upgrade, 3);

    for broken in ["Connection: Upgrade\r\n", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"] {
        let request = raw::upgrade_request("/", "");
        assert_eq!(send_request(&mut h, &request.replace(broken, "")).status, 400, "without {broken}");
    }
    assert_eq!(h.seen, [], "the application gets no event");
    assert_eq!(h.server.stats().rejected.total(), h.server.stats().accepted);
    assert_eq!(h.server.client_count(), 0);
}

#[test]
fn bytes_after_an_upgrade_request_are_rejected() {
    let mut h = Harness::new();
    let early = String::from_utf8_lossy(&raw::text("!")).into_owned();
    assert_eq!(send_request(&mut h, &(raw::upgrade_request("/", "") + &early)).status, 400);
    assert_eq!(h.seen, []);
}

#[test]
fn heads_above_the_limits_get_431() {
    let mut h = Harness::with(Server::builder().max_head_bytes(1000).max_headers(8));
    let fits = raw::upgrade_request("/", "");
    let long = raw::upgrade_request("/", &format!("Cookie: {}\r\n", "c".repeat(1000 - fits.len() - 10 + 1)));
    assert_eq!(long.len(), 1001);
    assert_eq!(send_request(&mut h, &long).status, 431);
    let many = raw::upgrade_request("/", "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n");
    assert_eq!(send_request(&mut h, &many).status, 431);
    assert_eq!(h.server.stats().rejected.head_too_large, 2);

    let exact = raw::upgrade_request("/", &format!("Cookie: {}\r\n", "c".repeat(1000 - fits.len() - 10)));
    assert_eq!(exact.len(), 1000);
    let mut raw = h.dial();
    h.upgrade(&mut raw, &exact);
}

#[test]
fn a_response_is_not_lost_to_a_reset_while_input_goes_on() {
    let mut h = Harness::new();
    let mut raw = h.dial();
    // The request is rejected at its head, and megabytes follow. Closing a socket with unread input
    // would reset the connection, and the response could be lost.
    h.write(&mut raw, b"PUT /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n");
    h.write(&mut raw, &vec![b'x'; 4_000_000]);
    assert_eq!(HttpResponse::parse(&h.read_to_end(&mut raw)).status, 405);
    h.until("the upload to be read and thrown away", |h| h.server.stats().bytes_in > 4_000_000);
    assert_eq!(h.server.stats().rejected.total(), 1);

    let mut raw = h.dial();
    h.write(&mut raw, "GET / HTTP/1.1\r\nHost: localhost\r\nX: ".as_bytes());
    h.write(&mut raw, &vec![b'x'; 1_000_000]);
    assert_eq!(HttpResponse::parse(&h.read_to_end(&mut raw)).status, 431);
}

#[test]
fn above_max_connections_upgrades_get_503() {
    let mut h = Harness::with(Server::builder().max_connections(2));
    let (_first, _) = h.connect();
    let (second, second_id) = h.connect();
    let full = send_request(&mut h, &raw::upgrade_request("/", ""));
    assert_eq!(full.status, 503);
    assert!(full.field("Retry-After").is_some());
    assert_eq!(h.server.stats().rejected.at_capacity, 1);

    drop(second);
    h.close_reason(second_id);
    h.settle();
    h.connect();
    assert_eq!(h.server.client_count(), 2);
}

#[test]
fn rejected_connections_do_not_disturb_open_clients() {
    let mut h = Harness::with(Server::builder().max_connections(1));
    let (mut good, id) = h.connect();
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(h.dial());
        h.step();
    }
    h.until("all to be accepted", |h| h.server.stats().accepted == 201);
    assert_eq!(h.server.stats().rejected.at_capacity, 200);
    h.write(&mut good, &raw::text("here"));
    h.until("the message", |h| h.texts(id) == ["here"]);
    // The rejected clients have not hung up, but no longer count towards the limit.
    h.server.disconnect(id).unwrap();
    h.connect();
    drop(flood);
}

/// The status of a request with the given Origin.
#[track_caller]
fn status_of(builder: ServerBuilder, origin: &str) -> u16 {
    let mut h = Harness::with(builder);
    let mut raw = h.dial();
    h.write(&mut raw, raw::upgrade_request("/", &format!("Origin: {origin}\r\n")).as_bytes());
    let head = h.head(&mut raw);
    let status = head["HTTP/1.1 ".len()..][..3].parse().unwrap();
    h.settle();
    assert_eq!(h.server.stats().opened, u64::from(status == 101));
    assert_eq!(h.server.stats().rejected.origin, u64::from(status == 403));
    status
}

#[test]
fn check_origin_replaces_the_rules_and_is_asked_without_an_origin_too() {
    let checked = |path: &str, origin: Option<&str>| {
        let builder = Server::builder().check_origin(|request| {
            let origin = request.header("origin");
            origin == Some("https://friend.example") || request.query("key").as_deref() == Some("1")
        });
        let mut h = Harness::with(builder);
        let mut raw = h.dial();
        let origin = origin.map(|origin| format!("Origin: {origin}\r\n")).unwrap_or_default();
        h.write(&mut raw, raw::upgrade_request(path, &origin).as_bytes());
        let status = h.head(&mut raw)[9..12].parse::<u16>().unwrap();
        (status, h.server.stats().rejected.origin)
    };
    assert_eq!(checked("/", Some("https://friend.example")), (101, 0));
    assert_eq!(checked("/", Some("http://localhost")), (403, 1), "the host of the request");
    assert_eq!(checked("/", None), (403, 1));
    assert_eq!(checked("/?key=1", None), (101, 0));
}

#[test]
fn cross_origin_upgrades_get_403_unless_allowed() {
    assert_eq!(status_of(Server::builder(), "https://evil.example"), 403);
    assert_eq!(status_of(Server::builder(), "null"), 403);
    assert_eq!(status_of(Server::builder(), "http://localhost"), 101, "the Host of the request");
    let listed = || Server::builder().allow_origins(["https://game.example"]);
    assert_eq!(status_of(listed(), "https://game.example"), 101);
    assert_eq!(status_of(listed(), "http://localhost"), 101);
    assert_eq!(status_of(listed(), "http://game.example"), 403, "another scheme");
    assert_eq!(status_of(listed(), "https://game.example.evil.example"), 403);
    assert_eq!(status_of(Server::builder().allow_any_origin(), "https://evil.example"), 101);
}

#[test]
fn a_403_response_is_complete() {
    let mut h = Harness::new();
    let request = raw::upgrade_request("/", "Origin: https://evil.example\r\n");
    assert_eq!(send_request(&mut h, &request).status, 403);
    // tungstenite's client gets the same status.
    let status = h.serve(support::echo, |addr| {
        let url = format!("ws://{addr}/");
        let mut request = tungstenite::client::IntoClientRequest::into_client_request(url).unwrap();
        request.headers_mut().insert("Origin", "https://evil.example".parse().unwrap());
        match tungstenite::client::client(request, support::blocking(addr).unwrap()) {
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                response.status()
            }
            other => panic!("a foreign page got {other:?}"),
        }
    });
    assert_eq!(status, 403);
}

#[test]
fn open_has_the_request_and_keep_requests_keeps_it() {
    let request = raw::upgrade_request("/room/7?name=J%C3%BCrgen", "X-Token: secret\r\n");
    for keep in [false, true] {
        let mut h = Harness::with(Server::builder().keep_requests(keep));
        let mut raw = h.dial();
        h.write(&mut raw, request.as_bytes());
        let deadline = support::Deadline::new();
        let mut opened = None;
        while opened.is_none() {
            let tick = h.server.poll_once().unwrap();
            for event in &tick {
                let tickws::Event::Open { client, request } = event else { panic!("{event:?}") };
                assert_eq!(request.uri().path(), "/room/7");
                assert_eq!(request.uri().query(), Some("name=J%C3%BCrgen"));
                assert_eq!(request.headers()["x-token"], "secret");
                opened = Some(client);
            }
            deadline.check("Open");
        }
        let id = opened.unwrap();
        let kept = h.server.request(id).map(|request| request.uri().path());
        assert_eq!(kept, keep.then_some("/room/7"));
        // The accept key is the example of RFC 6455 §1.3.
        let head = h.head(&mut raw).to_ascii_lowercase();
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
        drop(raw);
        h.close_reason(id);
        h.step();
        assert!(h.server.request(id).is_none());
        assert!(!h.seen.iter().any(|seen| matches!(seen, Seen::Open(..))), "there is one Open event");
    }
}

#[test]
fn above_max_connections_per_ip_upgrades_get_503() {
    let mut h = Harness::with(Server::builder().max_connections_per_ip(2));
    let (_first, _) = h.connect();
    let (second, second_id) = h.connect();
    assert_eq!(send_request(&mut h, &raw::upgrade_request("/", "")).status, 503);
    let rejected = h.server.stats().rejected;
    assert_eq!((rejected.per_ip, rejected.at_capacity), (1, 0));
    drop(second);
    h.close_reason(second_id);
    let _third = h.connect();
    assert_eq!(h.server.client_count(), 2);
}

#[test]
fn closed_clients_do_not_count_towards_limits() {
    let mut h = Harness::with(Server::builder().max_connections(2).max_connections_per_ip(2));
    let mut lingering = Vec::new();
    for _ in 0..5 {
        let (mut raw, id) = h.connect();
        h.write(&mut raw, &raw::close(1000, ""));
        h.close_reason(id);
        h.server.flush();
        // The client's end of the socket stays open.
        lingering.push(raw);
    }
    let _accepted = [h.connect(), h.connect()];
    assert_eq!(h.server.client_count(), 2);
    assert_eq!(send_request(&mut h, &raw::upgrade_request("/", "")).status, 503);
}
