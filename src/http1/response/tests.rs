//! Tables of valid and invalid requests and responses.

use super::*;
use crate::http1::head::{HeadLimits, HeadReader};

const MAX: usize = 1_000;

#[track_caller]
fn parse(head: &str) -> RequestHead {
    let limits = HeadLimits { max_bytes: 16 * 1024, max_headers: 100 };
    match HeadReader::default().push(head.as_bytes(), limits) {
        Ok(Some(head)) => head.request,
        other => panic!("{head:?}: {other:?}"),
    }
}

/// The length of the body, or the status of the rejection.
#[track_caller]
fn len_of(head: &str) -> Result<usize, u16> {
    body_len(&parse(head), MAX).map_err(Rejection::status)
}

#[track_caller]
fn len_with(fields: &str) -> Result<usize, u16> {
    len_of(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
}

#[test]
fn content_length_must_be_one_decimal_number() {
    for (fields, len) in [
        ("", Ok(0)),
        ("Content-Length: 0\r\n", Ok(0)),
        ("Content-Length: 5\r\n", Ok(5)),
        ("content-LENGTH:5\r\n", Ok(5)),
        // RFC 9112 §5.1: whitespace around a value is not part of it.
        ("Content-Length: \t 5 \t\r\n", Ok(5)),
        ("Content-Length: 0005\r\n", Ok(5)),
        ("Content-Length: 00000000000000000000000000000005\r\n", Ok(5)),
        ("Content-Length: 999\r\n", Ok(999)),
        ("Content-Length: 1000\r\n", Ok(1000)),
        ("Content-Length: 1001\r\n", Err(413)),
        ("Content-Length: 10000000000\r\n", Err(413)),
        ("Content-Length: 18446744073709551615\r\n", Err(413)),
        // Without an overflow check these wrap to 0 and to 5.
        ("Content-Length: 18446744073709551616\r\n", Err(413)),
        ("Content-Length: 18446744073709551621\r\n", Err(413)),
        ("Content-Length: 340282366920938463463374607431768211461\r\n", Err(413)),
        ("Content-Length:\r\n", Err(400)),
        ("Content-Length: +5\r\n", Err(400)),
        ("Content-Length: -5\r\n", Err(400)),
        ("Content-Length: -0\r\n", Err(400)),
        ("Content-Length: 0x5\r\n", Err(400)),
        ("Content-Length: 5.0\r\n", Err(400)),
        ("Content-Length: 5e1\r\n", Err(400)),
        ("Content-Length: 1_0\r\n", Err(400)),
        ("Content-Length: 1 0\r\n", Err(400)),
        ("Content-Length: 5;\r\n", Err(400)),
        ("Content-Length: 5,5\r\n", Err(400)),
        ("Content-Length: 5, 5\r\n", Err(400)),
        ("Content-Length: \"5\"\r\n", Err(400)),
        ("Content-Length: five\r\n", Err(400)),
        ("Content-Length: \u{665}\r\n", Err(400)),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Err(400)),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(400)),
        ("Content-Length: 5\r\nX: y\r\ncontent-length: 0\r\n", Err(400)),
        // Similar names of other headers.
        ("Content_Length: 5\r\n", Ok(0)),
        ("X-Content-Length: 5\r\n", Ok(0)),
    ] {
        assert_eq!(len_with(fields), len, "{fields:?}");
    }
}

#[test]
fn transfer_codings_are_rejected() {
    for coding in ["chunked", "Chunked", "gzip, chunked", "identity", "chunked ", "xchunked", ""] {
        let fields = format!("Transfer-Encoding: {coding}\r\n");
        assert_eq!(len_with(&fields), Err(501), "{coding:?}");
        // RFC 9112 §6.1: faulty together with a length, in either order, and in HTTP/1.0.
        assert_eq!(len_with(&format!("{fields}Content-Length: 5\r\n")), Err(400));
        assert_eq!(len_with(&format!("Content-Length: 5\r\n{fields}")), Err(400));
        assert_eq!(len_of(&format!("POST / HTTP/1.0\r\nHost: a\r\n{fields}\r\n")), Err(400));
    }
    assert_eq!(len_with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), Err(501));
    assert_eq!(len_with("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), Err(400));
    assert_eq!(len_with("Transfer_Encoding: chunked\r\n"), Ok(0));
}

#[test]
fn only_http_1_0_may_omit_the_host() {
    assert_eq!(len_of("GET / HTTP/1.0\r\n\r\n"), Ok(0));
    assert_eq!(len_of("GET / HTTP/1.1\r\n\r\n"), Err(400));
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        assert_eq!(len_of(&format!("GET / {version}\r\nHost: a\r\nHost: b\r\n\r\n")), Err(400));
        assert_eq!(len_of(&format!("GET / {version}\r\nHost: a b\r\n\r\n")), Err(400));
    }
}

#[test]
fn the_target_must_be_a_path_or_a_uri() {
    for (line, len) in [
        ("GET / HTTP/1.1", Ok(0)),
        ("GET /a?b=c/d HTTP/1.0", Ok(0)),
        ("GET //a/b HTTP/1.1", Ok(0)),
        ("GET /http://b/ HTTP/1.1", Ok(0)),
        ("GET http://a/b HTTP/1.1", Ok(0)),
        ("GET http://a HTTP/1.1", Ok(0)),
        ("OPTIONS / HTTP/1.1", Ok(0)),
        ("BREW /pot HTTP/1.1", Ok(0)),
        ("OPTIONS * HTTP/1.1", Err(400)),
        ("GET a:80 HTTP/1.1", Err(400)),
        ("GET a HTTP/1.1", Err(400)),
        ("CONNECT a:80 HTTP/1.1", Err(400)),
        ("CONNECT / HTTP/1.1", Err(405)),
        ("CONNECT http://a/ HTTP/1.1", Err(405)),
        ("TRACE / HTTP/1.1", Err(405)),
        // Methods are case-sensitive (RFC 9110 §9.1).
        ("trace / HTTP/1.1", Ok(0)),
    ] {
        assert_eq!(len_of(&format!("{line}\r\nHost: a\r\n\r\n")), len, "{line}");
    }
}

#[test]
fn exactly_one_valid_host_is_required() {
    for (fields, is_good) in [
        ("Host: a\r\n", true),
        ("Host: a.example:80\r\n", true),
        ("Host: [::1]:80\r\n", true),
        ("Host: 127.0.0.1\r\n", true),
        ("", false),
        ("Host:\r\n", false),
        ("Host: a\r\nHost: a\r\n", false),
        ("Host: a\r\nHost: b\r\n", false),
        ("Host: a, b\r\n", false),
        ("Host: a b\r\n", false),
        ("Host: a/b\r\n", false),
        ("Host: user@a\r\n", false),
        ("Host: a:80:80\r\n", false),
        ("Host: a:99999\r\n", false),
        ("Host: [::1\r\n", false),
    ] {
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            let len = len_of(&format!("GET / {version}\r\n{fields}\r\n"));
            // RFC 9112 §3.2: only HTTP/1.1 requires one.
            let is_good = is_good || (version == "HTTP/1.0" && fields.is_empty());
            assert_eq!(len, if is_good { Ok(0) } else { Err(400) }, "{fields:?}");
        }
    }
}

#[test]
fn last_request_and_expect_continue_are_recognised() {
    for (version, fields, last, waits) in [
        ("1.1", "", false, false),
        ("1.1", "Connection: keep-alive\r\n", false, false),
        ("1.1", "Connection: close\r\n", true, false),
        ("1.1", "Connection: keep-alive, Close\r\n", true, false),
        ("1.1", "Connection: x\r\nConnection: close\r\n", true, false),
        ("1.1", "Connection: closed\r\n", false, false),
        ("1.1", "Connection: \"close\"\r\n", false, false),
        ("1.0", "", true, false),
        ("1.0", "Connection: keep-alive\r\n", true, false),
        ("1.1", "Expect: 100-continue\r\n", false, true),
        ("1.1", "Expect: 100-Continue\r\n", false, true),
        ("1.1", "Expect: 200-ok\r\n", false, false),
        ("1.0", "Expect: 100-continue\r\n", true, false),
    ] {
        let request = parse(&format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n"));
        assert_eq!((is_last(&request), expects_continue(&request)), (last, waits), "{version} {fields:?}");
    }
}

// ---- responses ----

fn fields(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, value.parse().unwrap());
    }
    headers
}

/// The head without its status line, whether a body follows, and whether the connection is closed.
#[track_caller]
fn head_of(code: u16, pairs: &[(&str, &str)], len: u64, to_head: bool) -> (String, bool, bool) {
    let code = StatusCode::from_u16(code).unwrap();
    let head = response_head(code, &fields(pairs), len, to_head, false, "").unwrap();
    let text = String::from_utf8(head.bytes).unwrap();
    let rest = text.strip_prefix(&format!("HTTP/1.1 {code}\r\n")).expect("the status line").to_owned();
    let closing = response_head(code, &fields(pairs), len, to_head, true, "").unwrap();
    assert!(closing.close && String::from_utf8(closing.bytes).unwrap().contains("Connection: close\r\n"));
    (rest, head.has_body, head.close)
}

#[test]
fn a_response_states_the_length_of_its_body() {
    let x: &[(&str, &str)] = &[("X-A", "1"), ("x-a", "2"), ("Y", "")];
    for (code, pairs, len, to_head, head, has_body) in [
        (200, &[][..], 4, false, "Content-Length: 4\r\n\r\n", true),
        (200, &[], 0, false, "Content-Length: 0\r\n\r\n", false),
        (200, &[], 4, true, "Content-Length: 4\r\n\r\n", false),
        (404, x, 4, false, "X-A: 1\r\nX-A: 2\r\nY: \r\nContent-Length: 4\r\n\r\n", true),
        (200, &[("Content-Length", "4")], 4, false, "Content-Length: 4\r\n\r\n", true),
        (200, &[("Content-Length", "4")], 4, true, "Content-Length: 4\r\n\r\n", false),
        // The length of a body that was not generated for the HEAD.
        (200, &[("Content-Length", "9")], 0, true, "Content-Length: 9\r\n\r\n", false),
        (200, &[("Content-Length", "0")], 0, false, "Content-Length: 0\r\n\r\n", false),
        // RFC 9110 §8.6: never in a 204; in a 304 that of the 200. §15.4.5: a 304 has no body.
        (204, &[], 4, false, "\r\n", false),
        (204, &[("Content-Length", "0")], 0, false, "\r\n", false),
        (304, &[], 4, false, "\r\n", false),
        (304, &[("Content-Length", "9")], 0, false, "Content-Length: 9\r\n\r\n", false),
        (304, &[("ETag", "\"a\"")], 0, false, "ETag: \"a\"\r\n\r\n", false),
        (999, &[], 1, false, "Content-Length: 1\r\n\r\n", true),
    ] {
        assert_eq!(
            head_of(code, pairs, len, to_head),
            (head.to_owned(), has_body, false),
            "{code} {pairs:?}"
        );
    }
}

#[test]
fn connection_close_is_written_once() {
    for pairs in [&[("Connection", "close")][..], &[("connection", "CLOSE"), ("Connection", "close")]] {
        let (head, has_body, close) = head_of(200, pairs, 1, false);
        assert_eq!(
            (head.as_str(), has_body, close),
            ("Content-Length: 1\r\nConnection: close\r\n\r\n", true, true)
        );
    }
}

#[test]
fn headers_that_change_the_framing_are_rejected() {
    for code in [100, 101, 102, 103, 199] {
        let code = StatusCode::from_u16(code).unwrap();
        assert_eq!(response_head(code, &HeaderMap::new(), 0, false, false, ""), Err(Unfit::Status(code)));
    }
    for (code, pairs, len, to_head) in [
        (200, &[("Content-Length", "3")][..], 4, false),
        (200, &[("Content-Length", "5")], 4, false),
        (200, &[("Content-Length", "5")], 4, true),
        (200, &[("Content-Length", "5")], 0, false),
        (200, &[("Content-Length", "4"), ("Content-Length", "4")], 4, false),
        (304, &[("Content-Length", "4"), ("Content-Length", "5")], 0, false),
        (200, &[("Content-Length", "")], 0, false),
        (200, &[("Content-Length", "4, 4")], 4, false),
        (200, &[("Content-Length", "0x4")], 4, false),
        (200, &[("Content-Length", "-4")], 4, false),
        (304, &[("Content-Length", "18446744073709551616")], 0, false),
        (200, &[("Transfer-Encoding", "chunked")], 4, false),
        (200, &[("Transfer-Encoding", "identity")], 4, false),
        (200, &[("Connection", "keep-alive")], 4, false),
        (200, &[("Connection", "close, upgrade")], 4, false),
        (200, &[("Upgrade", "websocket")], 4, false),
        (200, &[("Trailer", "x")], 4, false),
        (200, &[("Keep-Alive", "timeout=5")], 4, false),
    ] {
        let code = StatusCode::from_u16(code).unwrap();
        let error = response_head(code, &fields(pairs), len, to_head, false, "");
        assert!(matches!(error, Err(Unfit::Header(HeaderError::Reserved(_)))), "{pairs:?}: {error:?}");
    }
}

#[test]
fn a_non_ascii_header_value_is_sent_unchanged() {
    let mut headers = HeaderMap::new();
    headers.insert("x-name", http::HeaderValue::from_bytes(b"J\xfcrgen").unwrap());
    let head = response_head(StatusCode::OK, &headers, 0, false, false, "").unwrap();
    assert!(head.bytes.windows(16).any(|bytes| bytes == b"X-Name: J\xfcrgen\r\n"));
}

#[test]
fn a_response_has_one_date() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let head =
        |pairs| response_head(StatusCode::NOT_MODIFIED, &fields(pairs), 0, false, false, date).unwrap();
    let own = String::from_utf8(head(&[("Date", "mine")]).bytes).unwrap();
    assert_eq!(own, "HTTP/1.1 304 Not Modified\r\nDate: mine\r\n\r\n");
    let ours = String::from_utf8(head(&[]).bytes).unwrap();
    assert_eq!(ours, format!("HTTP/1.1 304 Not Modified\r\nDate: {date}\r\n\r\n"));
}
