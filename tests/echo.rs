//! Messages of many sizes and languages, to and from tungstenite's client.

mod support;

use support::{Harness, Seen, dial, echo, raw};
use tickws::{CloseReason, ProtocolError, Server};
use tungstenite::{Error, Message};

/// A payload in which a shift, a swap or a missing piece shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn text_and_binary_are_echoed_unchanged() {
    let messages = [
        Message::text("Hello"),
        Message::text(""),
        Message::text("Grüße, 世界, שלום, привет, नमस्ते, 👩‍🚀\0\u{10ffff}"),
        Message::text("ß".repeat(70_000)),
        Message::binary(vec![]),
        Message::binary(vec![0, 255, 128]),
        Message::binary("not text although it could be".as_bytes().to_vec()),
    ];
    let mut h = Harness::new();
    h.serve(echo, |addr| {
        let mut socket = dial(addr, "/");
        for message in messages {
            socket.send(message.clone()).unwrap();
            assert_eq!(socket.read().unwrap(), message);
        }
        socket.close(None).unwrap();
        assert!(matches!(socket.read(), Ok(Message::Close(None))));
        assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
    });
    assert_eq!(h.server.stats().messages_in, 7);
    assert_eq!(h.server.stats().messages_out, 7);
}

#[test]
fn every_length_encoding_is_echoed_byte_for_byte() {
    let max = 16 << 20;
    let mut h = Harness::with(Server::builder().max_message_size(max).max_buffered(max + 64));
    h.serve(echo, |addr| {
        let mut socket = dial(addr, "/");
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20, max] {
            let payload = pattern(len);
            socket.send(Message::binary(payload.clone())).unwrap();
            let Message::Binary(back) = socket.read().unwrap() else { panic!("{len}: no binary message") };
            assert!(back == payload, "{len} bytes were echoed as {} different bytes", back.len());
        }
    });
    assert_eq!(h.server.stats().closed.protocol, 0);
}

#[test]
fn the_largest_message_allowed_by_default_is_echoed() {
    let mut h = Harness::new();
    h.serve(echo, |addr| {
        let mut socket = dial(addr, "/");
        let message = Message::binary(pattern(1 << 20));
        socket.send(message.clone()).unwrap();
        assert!(socket.read().unwrap() == message);
    });
}

#[test]
fn many_messages_in_flight_are_echoed_in_order() {
    let mut h = Harness::new();
    h.serve(echo, |addr| {
        let mut socket = dial(addr, "/");
        for i in 0..2_000 {
            socket.write(Message::text(i.to_string())).unwrap();
        }
        socket.flush().unwrap();
        for i in 0..2_000 {
            assert_eq!(socket.read().unwrap(), Message::text(i.to_string()));
        }
    });
}

#[test]
fn a_message_above_the_limit_closes_with_1009() {
    let mut h = Harness::with(Server::builder().max_message_size(1000));
    h.serve(echo, |addr| {
        let mut socket = dial(addr, "/");
        socket.send(Message::binary(pattern(1000))).unwrap();
        assert_eq!(socket.read().unwrap().len(), 1000, "a message at the limit is accepted");
        socket.send(Message::binary(pattern(1001))).unwrap();
        let Message::Close(Some(close)) = socket.read().unwrap() else { panic!("no close frame") };
        assert_eq!(u16::from(close.code), 1009);
    });
    let id = first_opened(&h);
    let reason = h.close_reason(id);
    assert_eq!(reason, CloseReason::Protocol(ProtocolError::FrameTooBig { len: 1001, max: 1000 }));
}

#[test]
fn the_limit_of_one_client_is_its_own() {
    let mut h = Harness::with(Server::builder().max_message_size(1000));
    let (mut more, more_id) = h.connect();
    let (mut less, less_id) = h.connect();
    h.server.set_max_message_size(more_id, 3000).unwrap();
    h.server.set_max_message_size(less_id, 10).unwrap();
    h.write(&mut more, &raw::text(&"x".repeat(3000)));
    h.until("a message above the server's limit", |h| h.texts(more_id).len() == 1);
    h.write(&mut less, &raw::text("0123456789"));
    h.until("a message at the client's limit", |h| h.texts(less_id).len() == 1);
    h.write(&mut less, &raw::text("0123456789a"));
    let too_big = |len, max| CloseReason::Protocol(ProtocolError::FrameTooBig { len, max });
    assert_eq!(h.close_reason(less_id), too_big(11, 10));
    h.write(&mut more, &raw::text(&"x".repeat(3001)));
    assert_eq!(h.close_reason(more_id), too_big(3001, 3000));
    // Fragments count together.
    let (mut split, split_id) = h.connect();
    h.server.set_max_message_size(split_id, 10).unwrap();
    h.write(&mut split, &raw::masked(false, raw::TEXT, b"12345678"));
    h.write(&mut split, &raw::masked(true, 0, b"abc"));
    let reason = h.close_reason(split_id);
    assert_eq!(reason, CloseReason::Protocol(ProtocolError::MessageTooBig { len: 11, max: 10 }));
    h.settle();
    assert!(h.server.set_max_message_size(split_id, 10).is_err());
}

#[test]
fn fragments_that_sum_above_the_limit_close_with_1009() {
    let mut h = Harness::with(Server::builder().max_message_size(1000));
    let (mut raw, id) = h.connect();
    h.write(&mut raw, &raw::masked(false, raw::BINARY, &[1; 600]));
    h.write(&mut raw, &raw::masked(true, raw::CONTINUE, &[2; 400]));
    h.until_seen("the message at the limit", 1, |seen| matches!(seen, Seen::Binary(_, b) if b.len() == 1000));
    h.write(&mut raw, &raw::masked(false, raw::BINARY, &[1; 600]));
    h.write(&mut raw, &raw::masked(true, raw::CONTINUE, &[2; 401]));
    let frame = h.frame(&mut raw);
    assert_eq!((frame.opcode, &frame.payload[..2]), (raw::CLOSE, &1009u16.to_be_bytes()[..]));
    assert!(matches!(h.close_reason(id), CloseReason::Protocol(ProtocolError::MessageTooBig { .. })));
}

#[test]
fn max_frame_size_may_be_below_max_message_size() {
    let mut h = Harness::with(Server::builder().max_frame_size(100));
    let (mut raw, id) = h.connect();
    h.write(&mut raw, &raw::masked(false, raw::BINARY, &[1; 100]));
    h.write(&mut raw, &raw::masked(true, raw::CONTINUE, &[1; 100]));
    h.until_seen("the message", 1, |seen| *seen == Seen::Binary(id, vec![1; 200]));
    h.write(&mut raw, &raw::binary(&[1; 101]));
    let reason = h.close_reason(id);
    assert_eq!(reason, CloseReason::Protocol(ProtocolError::FrameTooBig { len: 101, max: 100 }));
}

#[test]
fn a_header_that_claims_gigabytes_closes_with_1009() {
    let mut h = Harness::new();
    let (mut raw, id) = h.connect();
    h.write(&mut raw, &[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4]);
    let frame = h.frame(&mut raw);
    assert_eq!((frame.opcode, &frame.payload[..2]), (raw::CLOSE, &1009u16.to_be_bytes()[..]));
    assert!(matches!(h.close_reason(id), CloseReason::Protocol(ProtocolError::FrameTooBig { .. })));
}

#[test]
fn bad_input_closes_only_its_own_connection() {
    let unmasked = b"\x81\x02hi".to_vec();
    let cases: [(&str, Vec<u8>, u16); 6] = [
        ("unmasked", unmasked, 1002),
        ("reserved opcode", raw::masked(true, 3, b""), 1002),
        ("fragmented ping", raw::masked(false, raw::PING, b""), 1002),
        ("stray continuation", raw::masked(true, raw::CONTINUE, b"x"), 1002),
        ("bad UTF-8", raw::masked(true, raw::TEXT, b"\xc3\x28"), 1007),
        ("bad close code", raw::close(1005, ""), 1002),
    ];
    let mut h = Harness::new();
    let (mut good, good_id) = h.connect();
    for (name, bytes, code) in cases {
        let (mut bad, id) = h.connect();
        h.write(&mut bad, &raw::text("before"));
        h.write(&mut bad, &bytes);
        h.write(&mut bad, &raw::text("after"));
        let frame = h.frame(&mut bad);
        assert_eq!((frame.opcode, &frame.payload[..2]), (raw::CLOSE, &code.to_be_bytes()[..]), "{name}");
        assert_eq!(h.read_to_end(&mut bad), b"", "{name}");
        assert!(matches!(h.close_reason(id), CloseReason::Protocol(_)), "{name}");
        assert_eq!(h.texts(id), ["before"], "{name}");
        h.write(&mut good, &raw::text(name));
    }
    h.until("the good client's messages", |h| h.texts(good_id).len() == 6);
    assert_eq!(h.server.stats().closed.protocol, 6);
    assert_eq!(h.closes(good_id).next(), None);
}

fn first_opened(h: &Harness) -> tickws::ClientId {
    let opened = h.seen.iter().find_map(|seen| match seen {
        Seen::Open(id, _) => Some(*id),
        _ => None,
    });
    opened.expect("a client opened")
}
