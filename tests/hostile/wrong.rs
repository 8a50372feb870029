//! Attacks that break a protocol rule, and one that only looks like it.

use super::{
    server_process::{ServerProcess, assert_closed_with, end, frame, write, write_until_closed},
    support::raw::{self, End, Frame},
};

/// Sends each case on a connection of its own, and checks that the connection is closed with the
/// code and that the application gets no message.
fn assert_closed(server: &mut ServerProcess, cases: impl IntoIterator<Item = (String, Vec<u8>, u16)>) -> u64 {
    let before = server.stats();
    let mut count = 0;
    for (what, bytes, code) in cases {
        let mut raw = server.open();
        write_until_closed(&mut raw, &bytes);
        assert_closed_with(&mut raw, code, &what);
        count += 1;
    }
    let after = server.stats();
    let name = "closed_total{cause=\"protocol\"}";
    assert_eq!(after[name] - before[name], count);
    count
}

/// Invalid sequences: a lone byte, a lone continuation, an overlong form, a surrogate, a value
/// above U+10FFFF, and a truncated character.
const BAD_UTF8: &[&[u8]] =
    &[b"\xff", b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82x"];

/// Invalid UTF-8 at every offset of a message, whole and in two fragments.
pub fn utf8(server: &mut ServerProcess) -> u64 {
    let cases = (0..=120).flat_map(|offset| {
        let bad = BAD_UTF8[offset % BAD_UTF8.len()];
        let payload = [&b"x".repeat(offset)[..], bad, &b"x".repeat(121 - offset)].concat();
        let (first, second) = payload.split_at(offset / 2);
        let halves =
            [raw::masked(false, raw::TEXT, first), raw::masked(true, raw::CONTINUE, second)].concat();
        [
            (format!("{bad:x?} at {offset}"), raw::masked(true, raw::TEXT, &payload), 1007),
            (format!("{bad:x?} at {offset} of a fragment"), halves, 1007),
        ]
    });
    // Fragments may split a character, but it must be complete at the end of the message.
    let cut = ("a cut character".to_owned(), raw::masked(true, raw::TEXT, b"ok \xe2\x82"), 1007);
    assert_closed(server, cases.chain([cut]))
}

/// Invalid UTF-8 at every offset of a close frame's reason.
pub fn close_reasons(server: &mut ServerProcess) -> u64 {
    let cases = (0..=118).map(|offset| {
        let bad = BAD_UTF8[offset % BAD_UTF8.len()];
        let body = [&1000u16.to_be_bytes()[..], &b"x".repeat(offset), bad].concat();
        (format!("{bad:x?} at {offset}"), raw::masked(true, raw::CLOSE, &body), 1007)
    });
    assert_closed(server, cases)
}

pub fn opcodes(server: &mut ServerProcess) -> u64 {
    let cases = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].into_iter().flat_map(|opcode| {
        [true, false].map(|fin| (format!("opcode {opcode}, FIN {fin}"), raw::masked(fin, opcode, b"x"), 1002))
    });
    assert_closed(server, cases)
}

pub fn reserved_bits(server: &mut ServerProcess) -> u64 {
    let cases = (1..8u8).flat_map(|bits| {
        [raw::TEXT, raw::BINARY, raw::PING, raw::PONG, raw::CLOSE].map(|opcode| {
            let mut bytes = raw::masked(true, opcode, b"");
            bytes[0] |= bits << 4;
            (format!("bits {bits:03b} of opcode {opcode}"), bytes, 1002)
        })
    });
    assert_closed(server, cases)
}

pub fn unmasked(server: &mut ServerProcess) -> u64 {
    let cases = [raw::TEXT, raw::BINARY, raw::PING, raw::PONG, raw::CLOSE]
        .map(|opcode| (format!("opcode {opcode}"), vec![0x80 | opcode, 2, 3, 232], 1002));
    assert_closed(server, cases)
}

/// A mask of zero is legal; it leaves the payload unchanged.
pub fn zero_masks(server: &mut ServerProcess) -> u64 {
    let mut raw = server.open();
    for len in 0..=125u8 {
        let payload = vec![b'a'; len.into()];
        write(&mut raw, &[&[0x81, 0x80 | len, 0, 0, 0, 0][..], &payload].concat());
        assert_eq!(frame(&mut raw), Frame::new(raw::TEXT, payload));
    }
    126
}

/// Everything else that RFC 6455 §5 forbids.
pub fn framing(server: &mut ServerProcess) -> u64 {
    let with_len = |first: u8, len: &[u8], payload: &[u8]| [&[first], len, &[0; 4], payload].concat();
    let mut cases = vec![
        ("a ping in fragments".to_owned(), raw::masked(false, raw::PING, b"x"), 1002),
        ("a close in fragments".to_owned(), raw::masked(false, raw::CLOSE, b""), 1002),
        ("a ping of 126 bytes".to_owned(), raw::masked(true, raw::PING, &[7; 126]), 1002),
        ("a continuation of nothing".to_owned(), raw::masked(true, raw::CONTINUE, b"x"), 1002),
        (
            "a message within a message".to_owned(),
            [raw::masked(false, raw::TEXT, b"x"), raw::text("y")].concat(),
            1002,
        ),
        ("5 bytes as 16 bits".to_owned(), with_len(0x82, &[0x80 | 126, 0, 5], b"hello"), 1002),
        (
            "5 bytes as 64 bits".to_owned(),
            with_len(0x82, &[0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 5], b"hello"),
            1002,
        ),
        ("a length of 64 bits".to_owned(), with_len(0x82, &[0xff; 9], b""), 1002),
        ("a close frame of one byte".to_owned(), raw::masked(true, raw::CLOSE, b"\x03"), 1002),
    ];
    // RFC 6455 §7.4: codes that are reserved, or that must not appear in a close frame.
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        cases.push((format!("close code {code}"), raw::close(code, ""), 1002));
    }
    assert_closed(server, cases)
}

/// Sends each case on a connection of its own, and checks that the server responds once, with the
/// status, and ends the connection.
fn assert_responses(server: &mut ServerProcess, cases: &[(&str, Vec<u8>, u16)], counter: &str) -> u64 {
    let before = server.rejected(counter);
    for (what, bytes, status) in cases {
        let mut raw = server.dial();
        write_until_closed(&mut raw, bytes);
        assert_eq!(end(&mut raw), End::Fin, "{what}");
        let head = raw.take_head().unwrap_or_else(|| panic!("{what}: {:?}", raw.input()));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {head}");
        assert!(raw.take_head().is_none(), "{what}: one response");
    }
    assert_eq!(server.rejected(counter) - before, cases.len() as u64);
    cases.len() as u64
}

/// A TLS ClientHello.
fn client_hello() -> Vec<u8> {
    let mut bytes = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    bytes.extend((0..506u32).map(|i| (i * 37) as u8));
    bytes
}

pub fn other_protocols(server: &mut ServerProcess) -> u64 {
    let cases = [
        ("TLS", client_hello(), 400),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0".to_vec(), 400),
        ("SSH", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), 400),
        ("WebSocket without a handshake", raw::text("hello").repeat(10), 400),
        ("noise", (0..1000u32).map(|i| (i * i * 31 + 128) as u8).collect(), 400),
    ];
    assert_responses(server, &cases, "bad_request")
}

pub fn header_bombs(server: &mut ServerProcess) -> u64 {
    let request = |extra: &str| raw::upgrade_request("/", extra).into_bytes();
    let cases = [
        ("200 headers", request(&"X: y\r\n".repeat(200)), 431),
        ("a value of 20 KiB", request(&format!("X: {}\r\n", "y".repeat(20_000))), 431),
        ("a name of 20 KiB", request(&format!("{}: y\r\n", "x".repeat(20_000))), 431),
        ("a path of 20 KiB", raw::upgrade_request(&format!("/{}", "x".repeat(20_000)), "").into_bytes(), 431),
        ("a head without end", "X: y\r\n".repeat(100_000).into_bytes(), 400),
        ("a line without end", [b"GET /".to_vec(), b"x".repeat(1 << 20)].concat(), 431),
    ];
    let (bombs, junk): (Vec<_>, Vec<_>) = cases.into_iter().partition(|(_, _, status)| *status == 431);
    assert_responses(server, &bombs, "head_too_large") + assert_responses(server, &junk, "bad_request")
}
