pub(crate) mod fuzz;

use super::*;
use crate::util::test_rng::Rng;

const LIMITS: HeadLimits = HeadLimits { max_bytes: 2048, max_headers: 20 };

/// RFC 6455 §1.3.
const NONCE: &[u8; 16] = b"the sample nonce";
const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

fn asked(subprotocols: &[&str]) -> (RequestHead, String, ResponseReader) {
    let path = "/chat?room=1".parse().unwrap();
    let subprotocols: Vec<String> = subprotocols.iter().map(|name| name.to_string()).collect();
    let mut headers = HeaderMap::new();
    headers.append("x-a", HeaderValue::from_static("1"));
    headers.append("x-a", HeaderValue::from_bytes(b"gr\xfc\xdfe").unwrap());
    let (path, subprotocols) = (&path, &subprotocols[..]);
    let asking = RequestParts {
        authority: "a.example:81",
        path,
        headers,
        subprotocols,
        extensions: None,
        nonce: *NONCE,
    };
    let (request, bytes, reader) = ask(asking).unwrap();
    (request, String::from_utf8_lossy(&bytes).into_owned(), reader)
}

/// The subprotocol and the length of the response in bytes; `None` if more bytes are needed.
type Judged = Result<Option<(Option<Box<str>>, usize)>, ConnectError>;

/// The outcome for these bytes, which must be the same in one piece, byte by byte, and cut in two
/// at any place.
fn judge(subprotocols: &[&str], bytes: &[u8]) -> Judged {
    let mut outcomes = Vec::new();
    let cuts = (0..=bytes.len()).map(|cut| vec![cut]);
    let single = std::iter::once((1..bytes.len()).collect());
    for cuts in cuts.chain(single) {
        outcomes.push(judge_cut(subprotocols, bytes, cuts));
    }
    let first = outcomes.remove(0);
    for (cut, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome, first, "cut {cut} of {}", String::from_utf8_lossy(bytes));
    }
    first
}

/// The outcome if the bytes arrive in pieces that end at these places.
fn judge_cut(subprotocols: &[&str], bytes: &[u8], cuts: Vec<usize>) -> Judged {
    let mut reader = asked(subprotocols).2;
    let mut start = 0;
    let mut outcome = Ok(None);
    for end in cuts.into_iter().chain([bytes.len()]) {
        match reader.push(&bytes[start..end], LIMITS) {
            Ok(None) => start = end,
            Ok(Some(opened)) => {
                outcome = Ok(Some((opened.subprotocol, start + opened.used)));
                break;
            }
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
        // The machine has two buffers, and a copy of what it has read.
        assert!(reader.memory() <= 4 * LIMITS.max_bytes + (8 << 10));
    }
    if outcome == Ok(None) && reader.is_refused() {
        outcome = Err(reader.end());
    }
    outcome
}

fn bad(bytes: &str) -> &'static str {
    match judge(&["a", "b"], bytes.as_bytes()) {
        Err(ConnectError::BadResponse(text)) => text,
        other => panic!("{other:?} for {bytes}"),
    }
}

#[test]
fn the_request_has_the_headers_that_the_rfc_requires() {
    let (request, text, reader) = asked(&["a", "b"]);
    assert!(text.starts_with("GET /chat?room=1 HTTP/1.1\r\nHost: a.example:81\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n") && text.matches("\r\n\r\n").count() == 1);
    for line in ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "X-A: 1"] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{line}");
    }
    assert!(text.contains("\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "{text}");
    assert!(text.contains("\r\nSec-WebSocket-Protocol: a, b\r\n"), "{text}");
    assert_eq!(request.uri(), "ws://a.example:81/chat?room=1");
    assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
    assert_eq!(reader.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    // Our server's side accepts it.
    let limits = HeadLimits { max_bytes: 4096, max_headers: 20 };
    let head =
        crate::http1::head::HeadReader::default().push(asked(&["a"]).1.as_bytes(), limits).unwrap().unwrap();
    let opening = super::super::server::check(
        &head.request,
        &crate::http1::forwarded::Forwarded::default(),
        &crate::config::OriginPolicy::SameOrigin,
    )
    .unwrap();
    assert_eq!(opening.offered, ["a"]);
}

#[test]
fn a_101_opens_and_the_bytes_behind_it_are_left() {
    let head = format!("{GOOD}\r\n");
    for behind in [&b""[..], b"\x81\x02hi", &[0; 300]] {
        let bytes = [head.as_bytes(), behind].concat();
        assert_eq!(judge(&["a"], &bytes), Ok(Some((None, head.len()))));
    }
    // Tokens in lists and in any case, and unrelated headers.
    let head = "HTTP/1.1 101 \r\nUPGRADE: WebSocket\r\nconnection: keep-alive\r\nConnection: x, uPGRADE\r\n\
        Server: x\r\nSec-WebSocket-Protocol: b\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(judge(&["a", "b"], head.as_bytes()), Ok(Some((Some("b".into()), head.len()))));
    // An empty list names no extension, whether one was offered or not.
    let head = format!("{GOOD}Sec-WebSocket-Extensions: ,\r\nSec-WebSocket-Extensions:\r\n\r\n");
    assert_eq!(judge(&[], head.as_bytes()), Ok(Some((None, head.len()))));
    // Interim responses are skipped.
    let head = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{GOOD}\r\n");
    assert_eq!(judge(&[], head.as_bytes()), Ok(Some((None, head.len()))));
    assert_eq!(judge(&[], GOOD.as_bytes()), Ok(None), "the empty line is missing");
}

#[test]
fn a_101_that_violates_the_rfc_is_an_error() {
    let without = |line: &str| {
        let lines: Vec<_> = GOOD.split_inclusive("\r\n").filter(|kept| !kept.starts_with(line)).collect();
        lines.concat()
    };
    let accept = "Sec-WebSocket-Accept does not match the key";
    for (head, text) in [
        (without("Upgrade"), "Upgrade must be websocket"),
        (without("Upgrade") + "Upgrade: websocket2\r\n", "Upgrade must be websocket"),
        (without("Upgrade") + "Upgrade: h2c, websocket\r\n", "Upgrade must be websocket"),
        (GOOD.to_owned() + "Upgrade: h2c\r\n", "Upgrade must be websocket"),
        (without("Connection"), "Connection must contain upgrade"),
        (without("Connection") + "Connection: close\r\n", "Connection must contain upgrade"),
        (without("Sec"), accept),
        (without("Sec") + "Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", accept),
        (GOOD.to_owned() + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", accept),
        (
            GOOD.to_owned() + "Sec-WebSocket-Extensions: permessage-deflate\r\n",
            "it has an extension that was not offered",
        ),
        (GOOD.to_owned() + "Sec-WebSocket-Protocol: c\r\n", "it has a subprotocol that was not offered"),
        (GOOD.to_owned() + "Sec-WebSocket-Protocol: a, b\r\n", "it has a subprotocol that was not offered"),
        (GOOD.to_owned() + "Sec-WebSocket-Protocol: A\r\n", "it has a subprotocol that was not offered"),
        (
            GOOD.to_owned() + "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n",
            "it has a subprotocol that was not offered",
        ),
    ] {
        assert_eq!(bad(&format!("{head}\r\n")), text, "{head}");
    }
}

#[test]
fn other_protocols_fail_early_and_the_head_is_limited() {
    for bytes in
        ["SSH-2.0-x", "HTTP/1.0 101 x\r\n", "HTTP/2 200\r\n", "\r\nHTTP/1.1", "\x15\x03\x01", "http/1.1 101"]
    {
        assert_eq!(bad(bytes), "it is not HTTP/1.1: is this the right port?", "{bytes}");
    }
    assert_eq!(bad("HTTP/1.1 101 x\nUpgrade: websocket\n\n"), "its lines must end with CRLF");
    for head in [
        "HTTP/1.1 xyz\r\n\r\n",
        "HTTP/1.1 101 x\r\na b: c\r\n\r\n",
        "HTTP/1.1 101 x\r\n folded\r\n\r\n",
        "HTTP/1.1 099 x\r\n\r\n",
    ] {
        assert_eq!(bad(head), "its head is malformed", "{head}");
    }
    assert_eq!(bad(&format!("{GOOD}{}\r\n", "a: b\r\n".repeat(18))), "it has too many headers");
    assert_eq!(bad(&format!("{GOOD}a: {}", "b".repeat(2048))), "its head is too long");
    assert_eq!(bad(&"HTTP/1.1 100 x\r\n\r\n".repeat(200)), "its head is too long");
    // The limit is exact to the byte.
    let fill = LIMITS.max_bytes - GOOD.len() - "x: \r\n\r\n".len();
    let fits = format!("{GOOD}x: {}\r\n\r\n", "y".repeat(fill));
    assert_eq!(judge(&[], fits.as_bytes()), Ok(Some((None, LIMITS.max_bytes))));
    assert_eq!(bad(&format!("{GOOD}x: {}\r\n\r\n", "y".repeat(fill + 1))), "its head is too long");
}

#[test]
fn a_refusal_keeps_status_headers_and_start_of_body() {
    let refusal = |bytes: &str| match judge(&[], bytes.as_bytes()) {
        Err(ConnectError::Refused(refusal)) => *refusal,
        other => panic!("{other:?} for {bytes}"),
    };
    for (status, fields, body, expected) in [
        (401, "WWW-Authenticate: Bearer\r\nContent-Length: 9", "who? you?GET", "who? you?"),
        (503, "Retry-After: 10", "try again later", "try again later"),
        (503, "Content-Length: 0", "", ""),
        (200, "Content-Length: 9", "half", "half"),
        (403, "Transfer-Encoding: chunked", "3\r\nno,\r\n4;x=y\r\n no.\r\n0\r\n\r\n", "no, no."),
        (403, "Transfer-Encoding: chunked", "3\r\nno,\r\nzzz", "no,"),
        (403, "Transfer-Encoding: chunked", &"1\r\nz\r\n".repeat(600), &"z".repeat(341)),
        (304, "X: y", "", ""),
    ] {
        let refusal = refusal(&format!("HTTP/1.1 {status} x\r\n{fields}\r\n\r\n{body}"));
        assert_eq!((refusal.status.as_u16(), &refusal.body[..]), (status, expected.as_bytes()), "{fields}");
        assert_eq!(refusal.headers.len(), fields.lines().count());
    }
    let long = refusal(&format!("HTTP/1.1 500 x\r\nContent-Length: 5000\r\n\r\n{}", "z".repeat(1500)));
    assert_eq!(long.body, "z".repeat(1024));
    let text = ConnectError::Refused(Box::new(refusal("HTTP/1.1 401 x\r\n\r\nwho are\nyou?"))).to_string();
    assert_eq!(text, "the server refused: 401 Unauthorized, \"who are\"");
}

#[test]
fn a_redirect_is_reported_and_not_followed() {
    let error = judge(&[], b"HTTP/1.1 301 Moved\r\nLocation: ws://b.example/\r\nContent-Length: 9\r\n\r\n");
    let location = "ws://b.example/".to_owned();
    assert_eq!(error, Err(ConnectError::Redirect { status: StatusCode::MOVED_PERMANENTLY, location }));
    // A redirect without a Location is a refusal.
    assert!(matches!(
        judge(&[], b"HTTP/1.1 302 x\r\nContent-Length: 0\r\n\r\n"),
        Err(ConnectError::Refused(_))
    ));
}

#[test]
fn damaged_responses_never_panic() {
    let mut rng = Rng::new(6);
    let mut opened = 0;
    for _ in 0..20_000 {
        let mut bytes = format!("{GOOD}Sec-WebSocket-Protocol: a\r\n\r\n").into_bytes();
        for _ in 0..rng.below(4) {
            let at = rng.below(bytes.len());
            bytes[at] = rng.next() as u8;
        }
        bytes.truncate(bytes.len().saturating_sub(rng.below(3)));
        let mut reader = asked(&["a"]).2;
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes.len().min(at + 1 + rng.below(60));
            match reader.push(&bytes[at..end], LIMITS) {
                Ok(None) => at = end,
                Ok(Some(_)) => {
                    opened += 1;
                    break;
                }
                Err(_) => break,
            }
        }
    }
    assert!(opened > 1000, "{opened}");
}
