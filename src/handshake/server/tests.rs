//! Heads of browsers and of attackers: in one piece, in two pieces split everywhere, and byte by
//! byte.

pub(crate) mod fuzz;
#[cfg(test)]
mod shapes;

use super::*;
use crate::http1::head::{Head, HeadLimits, HeadReader};
use crate::util::test_rng::Rng;

const LIMITS: HeadLimits = HeadLimits { max_bytes: 16 * 1024, max_headers: 100 };
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\n";

/// The example of RFC 6455 §1.3.
const RFC: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://server.example.com\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";

const FIREFOX: &str = "GET /ws?room=7&name=J%C3%B6rg HTTP/1.1\r\nHost: localhost:9001\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nSec-WebSocket-Version: 13\r\n\
    Origin: http://localhost:9001\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\
    Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nConnection: keep-alive, Upgrade\r\nSec-Fetch-Dest: empty\r\n\
    Sec-Fetch-Mode: websocket\r\nSec-Fetch-Site: same-origin\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\
    Upgrade: websocket\r\n\r\n";

const CHROME: &str = "GET / HTTP/1.1\r\nHost: game.example.com\r\nConnection: Upgrade\r\nPragma: no-cache\r\n\
    Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/126.0.0.0\r\n\
    Upgrade: websocket\r\nOrigin: https://game.example.com\r\nSec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: de-DE,de;q=0.9\r\nCookie: session=a\"b; id=1\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Incomplete { buffered: usize },
    Refused(Rejection),
    Accepted(String),
}

fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: HeadLimits) -> Outcome {
    let mut reader = HeadReader::default();
    let mut pieces = pieces.into_iter();
    while let Some(piece) = pieces.next() {
        match reader.push(piece, limits) {
            // The machine has two buffers, and a copy of what it has read.
            Ok(None) => assert!(reader.memory() <= 2 * limits.max_bytes + (8 << 10)),
            Err(rejection) => return Outcome::Refused(rejection),
            Ok(Some(Head { request, used, .. })) => {
                assert_eq!((reader.buffered(), reader.memory()), (0, 0));
                if used < piece.len() || pieces.any(|piece| !piece.is_empty()) {
                    return Outcome::Refused(early_data(
                        &request,
                        &Forwarded::default(),
                        &OriginPolicy::SameOrigin,
                    ));
                }
                return match check(&request, &Forwarded::default(), &OriginPolicy::SameOrigin) {
                    Ok(opening) => {
                        let bytes = opening.accept(&request, &HeaderMap::new()).unwrap();
                        Outcome::Accepted(String::from_utf8(bytes).unwrap())
                    }
                    Err(rejection) => Outcome::Refused(rejection),
                };
            }
        }
    }
    Outcome::Incomplete { buffered: reader.buffered() }
}

/// The outcome, which must not depend on where the head is split.
fn split_everywhere(head: &[u8], limits: HeadLimits) -> Outcome {
    let whole = feed([head], limits);
    for at in 0..=head.len() {
        assert_eq!(feed([&head[..at], &head[at..]], limits), whole, "split at {at}");
    }
    assert_eq!(feed(head.chunks(1), limits), whole, "byte by byte");
    whole
}

fn status_of(head: &[u8]) -> u16 {
    match split_everywhere(head, LIMITS) {
        Outcome::Incomplete { .. } => 0,
        Outcome::Refused(rejection) => rejection.status(),
        Outcome::Accepted(_) => 101,
    }
}

/// The head of the RFC with one piece of it replaced.
fn with(from: &str, to: &str) -> String {
    assert!(RFC.contains(from), "{from:?}");
    RFC.replacen(from, to, 1)
}

/// A valid head of exactly `len` bytes.
fn head_of(len: usize) -> Vec<u8> {
    let padding = "x".repeat(len - RFC.len() - "X-Padding: \r\n".len());
    with("Origin:", &format!("X-Padding: {padding}\r\nOrigin:")).into_bytes()
}

#[test]
fn valid_requests_are_accepted_however_they_are_split() {
    let two_lines = with("Connection: Upgrade", "Connection: keep-alive\r\nconnection: ,UPGRADE");
    let cases = [
        (RFC, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        (CHROME, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        (FIREFOX, "HSmrc0sMlYUkAGmm5OPpG2HaGWk="),
        (&two_lines, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ];
    for (head, accept) in cases {
        let Outcome::Accepted(response) = split_everywhere(head.as_bytes(), LIMITS) else { panic!("{head}") };
        assert!(response.starts_with(SWITCHING) && response.ends_with("\r\n\r\n"), "{response}");
        let fields = response.to_ascii_lowercase();
        assert!(
            fields.contains("\r\nconnection: upgrade\r\n") && fields.contains("\r\nupgrade: websocket\r\n")
        );
        let accept = format!("\r\nSec-WebSocket-Accept: {accept}\r\n");
        assert!(response.contains(&accept), "{response}");
    }
}

#[test]
fn the_request_keeps_its_uri_and_headers() {
    let Head { request, .. } = HeadReader::default().push(FIREFOX.as_bytes(), LIMITS).unwrap().unwrap();
    assert_eq!((request.uri().path(), request.uri().query()), ("/ws", Some("room=7&name=J%C3%B6rg")));
    assert_eq!(request.headers()["sec-fetch-mode"], "websocket");
    assert_eq!(request.headers().len(), 16);
}

#[test]
fn variants_that_the_rfcs_allow_are_accepted() {
    for (from, to) in [
        ("GET", "\r\n\r\nGET"),
        ("Upgrade: websocket", "upgrade:WebSocket"),
        ("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: foo,\tWebSocket ,bar"),
        ("Connection: Upgrade", "Connection: keep-alive ,upgrade"),
        ("GET /chat", "GET http://server.example.com/chat"),
        ("GET /chat", "GET http://server.example.com"),
        ("GET /chat", "GET //chat?a^b|c"),
        ("Origin: http://server.example.com\r\n", ""),
        ("Origin: http://server.example.com\r\n", "Content-Length: 0\r\n"),
        ("Host: server.example.com\r\n", "Host: \t SERVER.Example.com:80 \t\r\n"),
        ("Sec-WebSocket-Protocol: chat", "X-Latin: gr\u{fc}n\r\nX-Empty:\r\nSec-WebSocket-Protocol: chat"),
    ] {
        assert_eq!(status_of(with(from, to).as_bytes()), 101, "{to}");
    }
}

#[test]
fn malformed_heads_get_their_status() {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for (status, from, to) in [
        // Request lines.
        (400, "GET /chat HTTP/1.1", "GET /chat"),
        (400, "GET /chat HTTP/1.1", "GET  /chat HTTP/1.1"),
        (400, "GET /chat HTTP/1.1", "GET /chat HTTP/1.1 "),
        (400, "GET /chat HTTP/1.1", " GET /chat HTTP/1.1"),
        (400, "GET /chat", "GET /ch\0at"),
        (400, "GET /chat", "GET /a b"),
        (400, "GET /chat", "GET *"),
        (400, "GET /chat", "GET server.example.com:80"),
        (400, "GET /chat", "GET http:///chat"),
        (400, "GET", "\r\r\nGET"),
        (400, "GET", "\nGET"),
        (400, "HTTP/1.1", "HTTP/1.0"),
        (400, "HTTP/1.1", "HTTP/0.9"),
        (400, "HTTP/1.1", "HTTP/2.0"),
        (400, "HTTP/1.1", "HTTP/1.10"),
        (400, "HTTP/1.1", "http/1.1"),
        (400, "GET", "G(T"),
        // Smuggling.
        (400, "HTTP/1.1\r\n", "HTTP/1.1\n"),
        (400, "\r\nUpgrade", "\nUpgrade"),
        (400, "\r\nUpgrade", "\rUpgrade"),
        (400, "13\r\n\r\n", "13\n\n"),
        (400, "13\r\n\r\n", "13\r\n\n"),
        (400, "13\r\n\r\n", "13\r\n \r\n\r\n"),
        (400, "Upgrade: websocket", "X: a\r\n b\r\nUpgrade: websocket"),
        (400, "Host: server.example.com", " Host: server.example.com"),
        (400, "Upgrade: websocket", "Upgrade : websocket"),
        (400, "Upgrade: websocket", "Upgrade\t: websocket"),
        (400, "Upgrade: websocket", ": websocket"),
        (400, "Upgrade: websocket", "websocket"),
        (400, "Upgrade: websocket", "Upgr\u{e4}de: websocket"),
        (400, "Upgrade: websocket", "Upgrade: web\0socket"),
        (400, "Upgrade: websocket", "Upgrade: websocket\x7f"),
        (400, "Origin:", "Content-Length: 1\r\nOrigin:"),
        (400, "Origin:", "Content-Length: 0\r\nContent-Length: 5\r\nOrigin:"),
        (400, "Origin:", "Transfer-Encoding: chunked\r\nOrigin:"),
        (400, "Origin:", "Transfer-Encoding: identity\r\nOrigin:"),
        // Host.
        (400, "Host: server.example.com\r\n", ""),
        (400, "Host: server.example.com", "Host:"),
        (400, "Host: server.example.com", "Host: server.example.com\r\nhost: server.example.com"),
        (400, "Host: server.example.com", "Host: user@server.example.com"),
        (400, "Host: server.example.com", "Host: http://server.example.com"),
        (400, "Host: server.example.com", "Host: server.example.com:port"),
        (400, "Host: server.example.com", "Host: server.example.com:65536"),
        (400, "Host: server.example.com", "Host: a, b"),
        (400, "Host: server.example.com", "Host: [::1"),
        (400, "Host: server.example.com", "Host: [::g]"),
        (400, "Host: server.example.com", "Host: gr\u{fc}n"),
        // Methods.
        (405, "GET", "POST"),
        (405, "GET", "get"),
        (405, "GET", "BREW"),
        (405, "GET /chat", "OPTIONS *"),
        (405, "GET /chat", "CONNECT server.example.com:80"),
        (426, "GET", "HEAD"),
        // Headers of the upgrade.
        (426, "Upgrade: websocket\r\n", ""),
        (426, "Upgrade: websocket", "Upgrade: websockets"),
        (426, "Upgrade: websocket", "Upgrade: web socket"),
        (426, "Upgrade: websocket", "Upgrade: h2c"),
        (400, "Connection: Upgrade\r\n", ""),
        (400, "Connection: Upgrade", "Connection: keep-alive"),
        (400, "Connection: Upgrade", "Connection: Upgrade-Insecure-Requests"),
        (426, "Sec-WebSocket-Version: 13\r\n", ""),
        (426, "Version: 13", "Version: 8"),
        (426, "Version: 13", "Version: 013"),
        (426, "Version: 13", "Version: 13, 8"),
        (426, "Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13"),
        (400, key, "X: y"),
        (400, key, "Sec-WebSocket-Key:"),
        (400, key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"),
        (400, key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ= "),
        (400, key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j-Q=="),
        (400, key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ===="),
        (400, key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZS0x"),
        (400, key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\u{fc}=="),
        (
            400,
            key,
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
        // Origin.
        (403, "Origin: http://server", "Origin: http://evil"),
        // Data behind the head. A body does not hide other faults of the request.
        (400, "13\r\n\r\n", "13\r\n\r\n\u{81}\0"),
        (400, "13\r\n\r\n", "13\r\n\r\n\r\n"),
        (405, "GET /chat HTTP/1.1\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"),
        (426, "GET /chat HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        assert_eq!(status_of(with(from, to).as_bytes()), status, "{to:?}");
    }
}

#[test]
fn other_protocols_are_rejected_before_an_empty_line() {
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0",
        b"\r\n\x80",
        b"{\"type\":",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GET /\r\n",
        b"EHLO example.com\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\n",
    ] {
        assert_eq!(status_of(bytes), 400, "{bytes:?}");
    }
    for bytes in [&b""[..], b"G", b"\r\n\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r", b"PROXY TCP4 1.2.3.4"]
    {
        assert_eq!(split_everywhere(bytes, LIMITS), Outcome::Incomplete { buffered: bytes.len() });
    }
}

#[test]
fn max_bytes_is_exact_to_the_byte() {
    for max_bytes in [400, 4095, 4096, 4097, 8192] {
        let limits = HeadLimits { max_bytes, ..LIMITS };
        let refused = Outcome::Refused(Rejection::HeadTooLarge);
        let endless = vec![b'x'; max_bytes + 1];
        assert!(matches!(feed([&*head_of(max_bytes)], limits), Outcome::Accepted(_)));
        assert!(matches!(feed(head_of(max_bytes).chunks(1), limits), Outcome::Accepted(_)));
        assert!(matches!(feed(head_of(max_bytes).chunks(97), limits), Outcome::Accepted(_)));
        for chunk in [1, 2, 97, max_bytes, max_bytes + 1] {
            assert_eq!(feed(head_of(max_bytes + 1).chunks(chunk), limits), refused);
            assert_eq!(feed(endless.chunks(chunk), limits), refused);
            let full = Outcome::Incomplete { buffered: max_bytes };
            assert_eq!(feed(endless[..max_bytes].chunks(chunk), limits), full);
        }
        // Data behind a complete head does not count for its length.
        let junk = [head_of(max_bytes), vec![0; 9]].concat();
        for chunk in [97, max_bytes + 1, max_bytes + 9] {
            assert_eq!(feed(junk.chunks(chunk), limits), Outcome::Refused(Rejection::JunkAfterRequest));
        }
    }
    let tiny = HeadLimits { max_bytes: RFC.len(), ..LIMITS };
    assert!(matches!(split_everywhere(RFC.as_bytes(), tiny), Outcome::Accepted(_)));
    let tiny = HeadLimits { max_bytes: RFC.len() - 1, ..LIMITS };
    assert_eq!(split_everywhere(RFC.as_bytes(), tiny), Outcome::Refused(Rejection::HeadTooLarge));
}

#[test]
fn max_headers_is_exact_to_the_header() {
    let head = |extra| with("Origin:", &format!("{}Origin:", "A: b\r\n".repeat(extra)));
    let count = RFC.matches(": ").count();
    for max_headers in [count, 100, 256] {
        let limits = HeadLimits { max_headers, ..LIMITS };
        let most = head(max_headers - count);
        assert!(matches!(split_everywhere(most.as_bytes(), limits), Outcome::Accepted(_)));
        let more = head(max_headers - count + 1);
        assert_eq!(split_everywhere(more.as_bytes(), limits), Outcome::Refused(Rejection::TooManyHeaders));
    }
}

#[test]
fn the_longest_heads_may_arrive_byte_by_byte() {
    assert!(matches!(feed(head_of(LIMITS.max_bytes).chunks(1), LIMITS), Outcome::Accepted(_)));
    // The longest head that the configuration allows.
    let limits = HeadLimits { max_bytes: 64 * 1024, ..LIMITS };
    assert!(matches!(feed(head_of(limits.max_bytes).chunks(1), limits), Outcome::Accepted(_)));
}

#[test]
fn only_an_incomplete_head_holds_memory() {
    assert!(size_of::<HeadReader>() <= 32);
    let mut reader = HeadReader::default();
    assert!(reader.push(RFC.as_bytes(), LIMITS).unwrap().is_some());
    assert!(reader.push(&RFC.as_bytes()[..20], LIMITS).unwrap().is_none());
    assert_eq!(reader.buffered(), 20);
    assert!(reader.push(&RFC.as_bytes()[20..], LIMITS).unwrap().is_some());
    assert_eq!((reader.buffered(), reader.memory()), (0, 0));
    assert!(reader.push(b"GET /", LIMITS).unwrap().is_none());
    assert!(reader.push(b"\n", LIMITS).is_err());
    assert_eq!((reader.buffered(), reader.memory()), (0, 0));
}

#[test]
fn origins_are_compared_with_the_host_and_the_list() {
    let list = OriginPolicy::AllowList(
        ["https://play.example", "http://localhost:3000", "tauri://localhost", "https://[2001:db8::1]:443"]
            .map(String::from)
            .to_vec(),
    );
    let same = OriginPolicy::SameOrigin;
    // Host, Origin, whether it is the same origin, whether the list allows it (with the same
    // origin).
    for (host, origin, is_same, is_listed) in [
        ("example.com", "http://example.com", true, true),
        ("example.com", "https://example.com", true, true),
        ("Example.COM", "HTTP://eXample.com", true, true),
        ("example.com:80", "http://example.com", true, true),
        ("example.com", "http://example.com:80", true, true),
        ("example.com:443", "https://example.com", true, true),
        ("example.com", "wss://example.com:443", true, true),
        ("example.com:", "ws://example.com", true, true),
        ("example.com:80", "https://example.com", false, false),
        ("example.com:9001", "http://example.com", false, false),
        ("example.com", "http://example.com:9001", false, false),
        ("[::1]:9001", "http://[::1]:9001", true, true),
        ("[::1]", "http://[::1]:80", true, true),
        ("[::1]:9001", "http://[::2]:9001", false, false),
        ("example.com", "http://sub.example.com", false, false),
        ("example.com", "http://example.com.evil.net", false, false),
        ("example.com", "http://evil.net@example.com", false, false),
        ("example.com", "http://example.com/", false, false),
        ("example.com", "http://example.com http://evil.net", false, false),
        ("example.com", "http://evil.net\r\nOrigin: http://example.com", false, false),
        ("example.com", "http://example.com\r\nOrigin: http://example.com", false, false),
        ("example.com", "example.com", false, false),
        ("example.com", "//example.com", false, false),
        ("example.com", "http://example.com:+80", false, false),
        ("example.com", "http://[::1]80", false, false),
        ("example.com", "http://example.com\u{fc}", false, false),
        ("example.com", "null", false, false),
        ("example.com", "", false, false),
        ("example.com", "file://", false, false),
        ("localhost", "tauri://localhost", false, true),
        ("abcdef", "chrome-extension://abcdef", false, false),
        ("example.com", "HTTPS://Play.Example:443", false, true),
        ("example.com", "http://play.example", false, false),
        ("example.com", "https://play.example:8443", false, false),
        ("example.com", "http://localhost:3000", false, true),
        ("example.com", "http://localhost", false, false),
        ("example.com", "https://[2001:DB8::1]", false, true),
    ] {
        let head = with("server.example.com", host).replace("http://server.example.com", origin);
        let Head { request, .. } = HeadReader::default().push(head.as_bytes(), LIMITS).unwrap().unwrap();
        let answer = |policy: &OriginPolicy| check(&request, &Forwarded::default(), policy).map(drop);
        let expected = |passes| if passes { Ok(()) } else { Err(Rejection::OriginForbidden) };
        assert_eq!(answer(&same), expected(is_same), "{origin:?} at {host:?}");
        assert_eq!(answer(&list), expected(is_listed), "{origin:?} at {host:?}");
        assert_eq!(answer(&OriginPolicy::Any), Ok(()), "{origin:?} at {host:?}");
    }
}

#[test]
fn the_authority_of_an_absolute_target_replaces_host() {
    for (target, status) in
        [("http://server.example.com", 101), ("http://evil.net", 403), ("http://a:b@c", 403)]
    {
        assert_eq!(status_of(with("GET ", &format!("GET {target}")).as_bytes()), status, "{target}");
    }
}

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// Parses the response with another parser and checks the headers that all rejections have.
fn check_response(rejection: Rejection) -> String {
    let bytes = rejection.response(DATE);
    let mut slots = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut slots);
    let httparse::Status::Complete(len) = response.parse(&bytes).unwrap() else { panic!("{rejection:?}") };
    assert_eq!((response.version, response.code), (Some(1), Some(rejection.status())));
    let field = |name| {
        let mut fields = response.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        let value = fields.next().map(|field| std::str::from_utf8(field.value).unwrap());
        assert!(fields.next().is_none(), "{name} twice");
        value
    };
    let body = bytes.len() - len;
    let announced: usize = field("content-length").unwrap().parse().unwrap();
    assert!(body == announced && body > 1);
    assert_eq!(rejection.response_to_head(DATE), bytes[..len]);
    let unread = String::from_utf8(rejection.response_to_unread(DATE)).unwrap();
    assert!(unread.ends_with("Content-Length: 0\r\n\r\n"), "{unread}");
    assert_eq!(field("date"), Some(DATE));
    assert_eq!(field("content-type"), Some("text/plain; charset=utf-8"));
    let upgrade = rejection.status() == 426;
    assert_eq!(field("connection"), Some(if upgrade { "close, Upgrade" } else { "close" }));
    assert_eq!(field("upgrade"), upgrade.then_some("websocket"));
    assert_eq!(field("sec-websocket-version"), upgrade.then_some("13"));
    assert_eq!(field("allow"), (rejection.status() == 405).then_some("GET"));
    assert_eq!(field("retry-after").is_some(), rejection.status() == 503);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn every_rejection_is_a_complete_http_response() {
    for (rejection, status) in [
        (Rejection::BadRequest("no"), 400),
        (Rejection::JunkAfterRequest, 400),
        (Rejection::OriginForbidden, 403),
        (Rejection::MethodNotAllowed, 405),
        (Rejection::UpgradeRequired, 426),
        (Rejection::HostForbidden, 421),
        (Rejection::BodyTimeout, 408),
        (Rejection::UnsupportedVersion, 426),
        (Rejection::HeadTooLarge, 431),
        (Rejection::TooManyHeaders, 431),
        (Rejection::AtCapacity, 503),
    ] {
        assert_eq!(rejection.status(), status);
        check_response(rejection);
    }
    assert_eq!(
        check_response(Rejection::BadRequest("no")),
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n\r\nno\n"
    );
}

fn mutate(head: &mut Vec<u8>, rng: &mut Rng) {
    const PIECES: [&[u8]; 16] = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b",",
        b"\0",
        b"\xff",
        b"\r\n\r\n",
        b"A: b\r\n",
        b"13",
        b"HEAD ",
        b"Content-Length: 0\r\n",
        b"Origin: null\r\n",
        b"Host: a\r\n",
    ];
    let at = rng.below(head.len() + 1);
    let to = (at + rng.below(24)).min(head.len());
    match rng.below(6) {
        0 => head.truncate(at),
        1 => drop(head.drain(at..to)),
        2 => head.extend_from_within(at..to),
        3 => drop(head.splice(at..at, rng.pick(&PIECES).iter().copied())),
        4 => drop(head.splice(at..to, rng.pick(&PIECES).iter().copied())),
        _ if at < head.len() => head[at] = rng.below(256) as u8,
        _ => {}
    }
}

/// Found by fuzzing: the response depended on whether the data came with the request or after it.
#[test]
fn early_data_does_not_change_the_rejection_of_an_origin() {
    let head = with("Origin: http://server.", "Origin: http://other.");
    for rest in ["", "early data"] {
        let bytes = [head.as_bytes(), rest.as_bytes()].concat();
        assert_eq!(split_everywhere(&bytes, LIMITS), Outcome::Refused(Rejection::OriginForbidden), "{rest}");
    }
}

/// The outcome, which must be the same in one piece, byte by byte, and cut at random.
fn one_outcome(head: &[u8], limits: HeadLimits, rng: &mut Rng) -> Outcome {
    let whole = feed([head], limits);
    let mut pieces = Vec::new();
    let mut rest = head;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(1 + rng.below(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    let text = String::from_utf8_lossy(head);
    assert_eq!(feed(pieces, limits), whole, "{text:?}");
    assert_eq!(feed(head.chunks(1), limits), whole, "{text:?}");
    if let Outcome::Refused(rejection) = whole {
        check_response(rejection);
    }
    whole
}

#[test]
fn mutated_heads_get_the_same_response_whole_and_split() {
    let mut rng = Rng::new(0x7469_636b_7773);
    let mut seen = std::collections::BTreeMap::<u16, u32>::new();
    for _ in 0..20_000 {
        let mut head = rng.pick(&[RFC, FIREFOX, CHROME]).as_bytes().to_vec();
        for _ in 0..=rng.below(4) {
            mutate(&mut head, &mut rng);
        }
        let limits = HeadLimits { max_bytes: 300 + rng.below(900), max_headers: 6 + rng.below(12) };
        let status = match one_outcome(&head, limits, &mut rng) {
            Outcome::Refused(rejection) => rejection.status(),
            Outcome::Accepted(_) => 101,
            Outcome::Incomplete { .. } => 0,
        };
        *seen.entry(status).or_default() += 1;
    }
    // The mutations reach all statuses.
    for status in [0, 101, 400, 403, 405, 426, 431] {
        assert!(seen.contains_key(&status), "{seen:?}");
    }
}

#[test]
fn more_than_100_subprotocols_are_rejected() {
    let names = |count: usize| (0..count).map(|number| format!("{number:x}")).collect::<Vec<_>>().join(",");
    let offering = |count| with("chat, superchat", &names(count));
    let outcome = |head: &str| feed([head.as_bytes()], LIMITS);
    assert!(matches!(outcome(&offering(100)), Outcome::Accepted(_)));
    let refused = Rejection::BadRequest("Sec-WebSocket-Protocol must list distinct tokens, 100 at most");
    assert_eq!(outcome(&offering(3_800)), Outcome::Refused(refused));
    assert_eq!(outcome(&offering(101)), Outcome::Refused(refused));
}
