//! The shapes of a request that are accepted: fields, sizes, origins.

use super::*;

/// tungstenite's `create_response` refuses some of these; the response is the same as for those
/// that it takes.
#[test]
fn every_shape_that_the_rfc_allows_gets_the_same_response() {
    let accepted = |head: &str| match split_everywhere(head.as_bytes(), LIMITS) {
        Outcome::Accepted(response) => response,
        _ => panic!("{head}"),
    };
    let plain = accepted(RFC);
    for (from, to) in [
        ("Upgrade: websocket", "Upgrade: websocket, h2c"),
        ("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: WebSocket"),
        ("Upgrade: websocket", "Upgrade: , WEBSOCKET,"),
        ("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        ("Connection: Upgrade", "Connection: close\r\nConnection: upgrade"),
        ("Connection: Upgrade", "connection:\tUPGRADE\t,x"),
    ] {
        assert_eq!(accepted(&with(from, to)), plain, "{to}");
    }
    // The example of RFC 6455 §4.1, whose unused bits are not zero.
    let key = with("dGhlIHNhbXBsZSBub25jZQ==", "AQIDBAUGBwgJCgsMDQ4PEC==");
    let accept = tungstenite::handshake::derive_accept_key(b"AQIDBAUGBwgJCgsMDQ4PEC==");
    assert_eq!(accepted(&key), plain.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &accept));
    for name in ["Connection: ", "Upgrade: ", "Sec-WebSocket-Accept: "] {
        assert!(plain.contains(&format!("\r\n{name}")), "{plain}");
    }
}

/// A head of the largest size, with a body behind it, in one piece and split at every size.
#[test]
fn a_head_of_the_largest_size_is_no_attack_with_bytes_behind_it() {
    for size in [1 << 10, 16 << 10, 64 << 10] {
        let limits = HeadLimits { max_bytes: size, ..LIMITS };
        let head = head_of(size);
        let bytes = [&head[..], &[0x81; 70_000]].concat();
        for piece in (1..=200).chain([4_096, 65_536, bytes.len()]) {
            let mut reader = HeadReader::default();
            let mut arrived = 0;
            let found = bytes.chunks(piece).find_map(|bytes| {
                let head = reader.push(bytes, limits).unwrap_or_else(|error| panic!("{piece}: {error:?}"));
                arrived += bytes.len();
                head.map(|head| (head.len, arrived - bytes.len() + head.used))
            });
            assert_eq!(found, Some((size, size)), "pieces of {piece} bytes");
        }
    }
}

#[test]
fn subdomains_and_origins_without_a_host_are_allowed_by_name() {
    let entries = ["https://*.game.example", "http://*.local:8080", "null", "file://"];
    let list = OriginPolicy::AllowList(entries.map(String::from).to_vec());
    let none = OriginPolicy::AllowList(vec!["https://other.example".into()]);
    for (origin, passes) in [
        ("https://a.game.example", true),
        ("https://a.b.game.example", true),
        ("HTTPS://A.Game.Example:443", true),
        ("https://game.example", false),
        ("https://.game.example", false),
        ("https://evilgame.example", false),
        ("https://a.game.example.evil.net", false),
        ("http://a.game.example", false),
        ("https://a.game.example:8443", false),
        ("http://printer.local:8080", true),
        ("http://printer.local", false),
        ("https://\u{fc}.game.example", false),
        ("null", true),
        ("NULL", false),
        ("file://", true),
        ("FILE://", true),
        ("file:///home", false),
        ("null\r\nOrigin: null", false),
    ] {
        let head = with("server.example.com", "host.example").replace("http://server.example.com", origin);
        let Head { request, .. } = HeadReader::default().push(head.as_bytes(), LIMITS).unwrap().unwrap();
        let expected = |passes| if passes { Ok(()) } else { Err(Rejection::OriginForbidden) };
        assert_eq!(check(&request, &Forwarded::default(), &list).map(drop), expected(passes), "{origin:?}");
        assert_eq!(check(&request, &Forwarded::default(), &none).map(drop), expected(false), "{origin:?}");
    }
}
