//! Requests that two parsers might read differently, and other protocols. Each is rejected, and
//! nothing after it is read.

mod support;

use support::web::{Application, Web, echo, get, post};
use tickws::Server;

/// Name, request, and the two status lines: with plain HTTP enabled, and without. Each ends the
/// connection.
const HOSTILE: &[(&str, &str, &str, &str)] = &[
    // Requests whose body could be taken to end at different places.
    (
        "CL.CL",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\nContent-Length: 5\r\n\r\nhello!",
        BAD,
        NOT_GET,
    ),
    (
        "CL.CL, equal",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        BAD,
        NOT_GET,
    ),
    ("CL list", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5, 6\r\n\r\nhello", BAD, NOT_GET),
    (
        "CL.TE",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        BAD,
        NOT_GET,
    ),
    (
        "TE.CL",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\nG\r\n0\r\n\r\n",
        BAD,
        NOT_GET,
    ),
    (
        "TE",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CODING,
        NOT_GET,
    ),
    (
        "TE with a trailing space",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked \r\n\r\n0\r\n\r\n",
        CODING,
        NOT_GET,
    ),
    (
        "TE: identity",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: identity\r\n\r\nhello",
        CODING,
        NOT_GET,
    ),
    (
        "TE on GET",
        "GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CODING,
        BAD,
    ),
    (
        "TE and TE",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
        CODING,
        NOT_GET,
    ),
    (
        "TE in 1.0",
        "POST / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD,
        BAD,
    ),
    ("CL with a sign", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\nhello", BAD, NOT_GET),
    ("CL in hex", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0x5\r\n\r\nhello", BAD, NOT_GET),
    (
        "CL that wraps",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
        TOO_LONG,
        NOT_GET,
    ),
    (
        "CL with a space before the colon",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length : 5\r\n\r\nhello",
        BAD,
        BAD,
    ),
    (
        "TE with a space before the colon",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n",
        BAD,
        BAD,
    ),
    (
        "TE with a tab before the colon",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding\t: chunked\r\n\r\n",
        BAD,
        BAD,
    ),
    (
        "TE with VT before the value",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        BAD,
        BAD,
    ),
    ("TE folded", "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", BAD, BAD),
    ("a folded line", "GET / HTTP/1.1\r\nHost: localhost\r\nX: 1\r\n 2\r\n\r\n", BAD, BAD),
    ("a folded first line", "GET / HTTP/1.1\r\n Host: localhost\r\n\r\n", BAD, BAD),
    ("bare LF", "GET / HTTP/1.1\nHost: localhost\n\n", BAD, BAD),
    ("bare LF within", "GET / HTTP/1.1\r\nHost: localhost\r\nX: y\nContent-Length: 5\r\n\r\n", BAD, BAD),
    ("bare LF at the end", "GET / HTTP/1.1\r\nHost: localhost\r\n\n", BAD, BAD),
    ("bare CR", "GET / HTTP/1.1\r\nHost: localhost\r\nX: y\rContent-Length: 5\r\n\r\n", BAD, BAD),
    ("CR CR LF", "GET / HTTP/1.1\r\nHost: localhost\r\r\n\r\n", BAD, BAD),
    ("NUL in a value", "GET / HTTP/1.1\r\nHost: localhost\r\nX: y\0z\r\n\r\n", BAD, BAD),
    ("NUL in a name", "GET / HTTP/1.1\r\nHost: localhost\r\nX\0: y\r\n\r\n", BAD, BAD),
    ("NUL in the target", "GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD, BAD),
    ("a tab in a name", "GET / HTTP/1.1\r\nHost: localhost\r\nX\ty: z\r\n\r\n", BAD, BAD),
    ("no name", "GET / HTTP/1.1\r\nHost: localhost\r\n: y\r\n\r\n", BAD, BAD),
    ("no colon", "GET / HTTP/1.1\r\nHost: localhost\r\nnothing\r\n\r\n", BAD, BAD),
    ("two hosts", "GET / HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n", BAD, BAD),
    ("no host", "GET / HTTP/1.1\r\n\r\n", BAD, BAD),
    ("a host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", BAD, BAD),
    ("two words", "GET /\r\nHost: localhost\r\n\r\n", BAD, BAD),
    ("four words", "GET / x HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD, BAD),
    ("two spaces", "GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD, BAD),
    ("a tab for a space", "GET\t/ HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD, BAD),
    ("HTTP/0.9", "GET /\r\n", BAD, BAD),
    ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: localhost\r\n\r\n", BAD, BAD),
    ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD, BAD),
    ("lower case", "GET / http/1.1\r\nHost: localhost\r\n\r\n", BAD, BAD),
    ("TLS", "\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03", BAD, BAD),
    ("SSH", "SSH-2.0-OpenSSH_9.9\r\n", BAD, BAD),
    ("a proxy", "CONNECT b:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD, NOT_GET),
    ("a proxy with a path", "CONNECT / HTTP/1.1\r\nHost: localhost\r\n\r\n", NOT_GET, NOT_GET),
    ("a fragment", "GET /a#b HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD, BAD),
    ("another scheme", "GET ftp://localhost/a HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD, BAD),
    ("TRACE", "TRACE / HTTP/1.1\r\nHost: localhost\r\nCookie: secret\r\n\r\n", NOT_GET, NOT_GET),
    ("no path", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD, NOT_GET),
];

const BAD: &str = "HTTP/1.1 400 Bad Request";
const NOT_GET: &str = "HTTP/1.1 405 Method Not Allowed";
const CODING: &str = "HTTP/1.1 501 Not Implemented";
const TOO_LONG: &str = "HTTP/1.1 413 Payload Too Large";

#[test]
fn hostile_requests_are_rejected_and_end_the_connection() {
    for http in [true, false] {
        let never: Application = |_, path, _| panic!("the application got a request for {path}");
        let builder = Server::builder().http(http).max_body_size(1_000);
        let mut web = Web { application: Some(never), ..Web::new(builder) };
        for (what, request, with_http, without) in HOSTILE {
            let expected = if http { with_http } else { without };
            // A request that follows must not be read.
            for behind in ["", "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
                let mut raw = web.dial();
                web.write(&mut raw, format!("{request}{behind}").as_bytes());
                let all = web.read_to_end(&mut raw);
                let text = String::from_utf8(all).expect("a text");
                let line = text.lines().next().unwrap_or_default();
                assert_eq!(line, *expected, "{what}, HTTP {http}");
                assert_eq!(text.matches("\r\n\r\n").count(), 1, "{what}: {text}");
                assert!(text.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{what}: {text}");
            }
        }
        let stats = web.server.stats();
        assert_eq!((stats.http_requests, stats.opened), (0, 0));
        assert_eq!(stats.rejected.total(), stats.accepted);
    }
}

#[test]
fn an_absolute_target_takes_precedence_over_host() {
    // RFC 9112 §3.2.2: the target takes precedence over Host.
    let mut web = Web::with(Server::builder().allow_hosts(["b.example"]), echo);
    let mut raw = web.dial();
    let response = web.send_request(&mut raw, "GET http://b.example/x HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(response.text(), "GET http://b.example/x ");
}

#[test]
fn a_body_that_looks_like_a_request_stays_a_body() {
    // A body that looks like a request is still a body; the bytes after it are the next request.
    let mut web = Web::with(Server::builder(), echo);
    let mut raw = web.dial();
    let inner = get("/smuggled");
    web.write(&mut raw, (post("/outer", &inner) + &get("/next")).as_bytes());
    assert_eq!(web.response(&mut raw, false).text(), format!("POST /outer {inner}"));
    assert_eq!(web.response(&mut raw, false).text(), "GET /next ");
    assert_eq!(web.server.stats().http_requests, 2);
}
