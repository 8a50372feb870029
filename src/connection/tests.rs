//! The rules and examples of RFC 6455, with the input cut in every way.

mod closing;
#[cfg(feature = "deflate")]
mod deflate;
pub(crate) mod differential;
pub(crate) mod fuzz;
mod generator;
mod harness;
mod pongs;

use harness::*;

use super::*;

const HELLO: &str = "Hello";

// ---- §5.7, Examples ----

#[test]
fn a_single_frame_unmasked_text_message() {
    let bytes = b"\x81\x05\x48\x65\x6c\x6c\x6f";
    expect(Side::Client, bytes, &[text(HELLO)]);
    expect(Side::Server, bytes, &[Outcome::Broken(ProtocolError::UnmaskedFrame)]);
}

#[test]
fn a_single_frame_masked_text_message() {
    let bytes = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    expect(Side::Server, bytes, &[text(HELLO)]);
    expect(Side::Client, bytes, &[Outcome::Broken(ProtocolError::MaskedFrame)]);
}

#[test]
fn a_fragmented_unmasked_text_message() {
    expect(Side::Client, b"\x01\x03\x48\x65\x6c\x80\x02\x6c\x6f", &[text(HELLO)]);
    let masked = b"\x01\x83\x37\xfa\x21\x3d\x7f\x9f\x4d\x80\x82\x37\xfa\x21\x3d\x5b\x95";
    expect(Side::Server, masked, &[text(HELLO)]);
}

#[test]
fn unmasked_ping_request_and_masked_ping_response() {
    let ping = b"\x89\x05\x48\x65\x6c\x6c\x6f";
    let pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(any_way(Side::Client, LIMITS, ping), (vec![], pong.to_vec()));
    // The pong is unsolicited at the server: legal, and ignored (§5.5.3).
    expect(Side::Server, pong, &[]);

    let masked = b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(any_way(Side::Server, LIMITS, masked), (vec![], b"\x8a\x05Hello".to_vec()));
}

#[test]
fn a_binary_message_of_256_bytes_in_a_single_frame() {
    let payload: Vec<u8> = (0..=255).collect();
    let unmasked = [&b"\x82\x7e\x01\x00"[..], &payload].concat();
    expect(Side::Client, &unmasked, &[binary(&payload)]);
    let masked = Side::Server.gets(0x82, &payload);
    assert_eq!(masked[..8], *b"\x82\xfe\x01\x00\x37\xfa\x21\x3d");
    expect(Side::Server, &masked, &[binary(&payload)]);
}

#[test]
fn a_binary_message_of_64_kib_in_a_single_frame() {
    let payload: Vec<u8> = (0..65536).map(|i| (i * 7 / 3) as u8).collect();
    let unmasked = [&b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"[..], &payload].concat();
    expect(Side::Client, &unmasked, &[binary(&payload)]);
    expect(Side::Server, &Side::Server.gets(0x82, &payload), &[binary(&payload)]);
}

// ---- Sending ----

#[test]
fn sent_frames_match_the_examples_of_the_rfc() {
    for (side, expected) in [
        (Side::Server, &b"\x81\x05\x48\x65\x6c\x6c\x6f"[..]),
        (Side::Client, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"),
    ] {
        let mut endpoint = Endpoint::new(side, LIMITS);
        endpoint.send(Kind::Text, HELLO.as_bytes());
        assert_eq!(endpoint.outbox.len(), expected.len());
        assert_eq!(endpoint.connection.frame_len(HELLO.len()), expected.len());
        endpoint.flush(usize::MAX);
        assert_eq!(endpoint.written, expected);
        assert_eq!(endpoint.connection.masks(), side == Side::Client);
    }
}

#[test]
fn a_client_masks_each_frame_with_a_new_key() {
    let mut next = 0_u32;
    let source = Box::new(move || {
        next += 1;
        next.to_be_bytes()
    });
    let mut endpoint = Endpoint::with_role(Role::Client(Box::new(source)), LIMITS);
    endpoint.send(Kind::Binary, b"abcdefgh");
    endpoint.ping();
    endpoint.read(b"\x89\x02hi");
    endpoint.send(Kind::Text, &[b'x'; 300]);
    endpoint.close(Some((1000, "bye")));
    endpoint.flush(usize::MAX);
    let key = |number: u32| Some(number.to_be_bytes());
    let expected = [
        frame(0x82, key(1), b"abcdefgh"),
        frame(0x89, key(2), &[0, 0, 0, 1]),
        frame(0x8a, key(3), b"hi"),
        frame(0x81, key(4), &[b'x'; 300]),
        frame(0x88, key(5), b"\x03\xe8bye"),
    ];
    assert_eq!(endpoint.written, expected.concat());
}

#[test]
fn frame_len_is_the_length_of_the_queued_frame() {
    for side in SIDES {
        for len in [0, 1, 125, 126, 127, 65535, 65536, 70_000] {
            let mut endpoint = Endpoint::new(side, LIMITS);
            endpoint.send(Kind::Binary, &vec![5; len]);
            assert_eq!(endpoint.connection.frame_len(len), endpoint.outbox.len(), "{side:?} {len}");
            endpoint.flush(usize::MAX);
            assert_eq!(endpoint.written, side.sends(0x82, &vec![5; len]));
        }
    }
}

// ---- Fragmentation, §5.4 ----

#[test]
fn control_frames_may_stand_between_fragments() {
    for side in SIDES {
        let bytes = [
            side.gets(0x01, "grü".as_bytes()),
            side.gets(0x89, b"one"),
            side.gets(0x8a, b"unasked"),
            side.gets(0x00, b""),
            side.gets(0x89, b""),
            side.gets(0x80, "ße".as_bytes()),
            side.gets(0x82, b"next"),
            side.gets(0x02, b"and "),
            side.gets(0x88, b"\x03\xe9"),
        ];
        let pongs = [side.sends(0x8a, b"one"), side.sends(0x8a, b"")].concat();
        let outcomes = vec![text("grüße"), binary(b"next"), Outcome::Close(1001, String::new())];
        assert_eq!(any_way(side, LIMITS, &bytes.concat()), (outcomes, pongs));
    }
}

#[test]
fn empty_messages_are_delivered() {
    for side in SIDES {
        let bytes = [
            side.gets(0x81, b""),
            side.gets(0x82, b""),
            side.gets(0x01, b""),
            side.gets(0x00, b""),
            side.gets(0x80, b""),
        ];
        expect(side, &bytes.concat(), &[text(""), binary(b""), text("")]);
    }
}

#[test]
fn fragments_out_of_order_are_violations() {
    for side in SIDES {
        for first in [0x80, 0x00] {
            let (at, violation) = breaks(side, LIMITS, &side.gets(first, b"x"));
            assert_eq!(violation, ProtocolError::UnexpectedContinuation);
            assert_eq!(at, side.gets(first, b"").len(), "known by the header");
            // The same behind a complete message.
            let behind = [side.gets(0x01, b"a"), side.gets(0x80, b"b"), side.gets(first, b"x")].concat();
            assert_eq!(breaks(side, LIMITS, &behind).1, ProtocolError::UnexpectedContinuation);
        }
        for first in [0x81, 0x82, 0x01, 0x02] {
            let bytes = [side.gets(0x01, b"a"), side.gets(first, b"b")].concat();
            assert_eq!(breaks(side, LIMITS, &bytes).1, ProtocolError::ExpectedContinuation);
        }
    }
}

// ---- Text, §5.6 and §8.1 ----

#[test]
fn a_code_point_may_be_split_over_frames() {
    let crab = "🦀".as_bytes();
    for side in SIDES {
        for first in 0..=4 {
            for second in first..=4 {
                let bytes = [
                    side.gets(0x01, &crab[..first]),
                    side.gets(0x89, b"!"),
                    side.gets(0x00, &crab[first..second]),
                    side.gets(0x80, &crab[second..]),
                ];
                let outcome = any_way(side, LIMITS, &bytes.concat());
                assert_eq!(outcome, (vec![text("🦀")], side.sends(0x8a, b"!")), "{first} {second}");
            }
        }
    }
}

#[test]
fn invalid_text_fails_at_its_first_invalid_byte() {
    // The payload, and after how many of its bytes it is known to be invalid.
    let cases: [(&[u8], usize); 9] = [
        (b"\x80abc", 1),
        (b"abc\xffdef", 4),
        (b"\xc0\xaf", 1),
        (b"\xe2\x28\xa1xyz", 2),
        (b"\xed\xa0\x80", 2),
        (b"\xf0\x9f\xa6A...", 4),
        (b"\xf4\x90\x80\x80", 2),
        (b"\xf5", 1),
        (b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64", 13),
    ];
    for side in SIDES {
        for (payload, known) in cases {
            // It fails before most of the frame has arrived.
            let long = [payload, &[b'.'; 300]].concat();
            let bytes = side.gets(0x81, &long);
            let head = bytes.len() - long.len();
            let expected = (head + known, ProtocolError::InvalidUtf8);
            assert_eq!(breaks(side, LIMITS, &bytes), expected, "{payload:x?}");

            // The same, split over two frames at any place.
            for cut in 0..=payload.len() {
                let first = side.gets(0x01, &payload[..cut]);
                let second = side.gets(0x80, &payload[cut..]);
                let head = second.len() - (payload.len() - cut);
                let at =
                    if known <= cut { first.len() - cut + known } else { first.len() + head + known - cut };
                let found = breaks(side, LIMITS, &[first, second].concat());
                assert_eq!(found, (at, ProtocolError::InvalidUtf8), "{payload:x?} cut at {cut}");
            }
        }
    }
}

#[test]
fn text_that_ends_inside_a_code_point_fails_at_its_end() {
    for side in SIDES {
        for payload in [&b"ok \xf0\x9f\xa6"[..], b"\xc3", b"\xe2\x82"] {
            let bytes = side.gets(0x81, payload);
            assert_eq!(breaks(side, LIMITS, &bytes), (bytes.len(), ProtocolError::InvalidUtf8));
            let bytes = [side.gets(0x01, payload), side.gets(0x00, b""), side.gets(0x80, b"")].concat();
            assert_eq!(breaks(side, LIMITS, &bytes), (bytes.len(), ProtocolError::InvalidUtf8));
        }
        // Binary payloads are not validated.
        let bytes = [side.gets(0x02, b"\xff\xc3"), side.gets(0x80, b"\xed\xa0")].concat();
        expect(side, &bytes, &[binary(b"\xff\xc3\xed\xa0")]);
    }
}

#[test]
fn invalid_text_is_found_in_payload_that_is_read_directly() {
    // From 8 KiB on, payload is read directly into `room`.
    for side in SIDES {
        let mut payload = vec![b'a'; 40_000];
        payload[30_000] = 0xff;
        let bytes = side.gets(0x81, &payload);
        let at = bytes.len() - payload.len() + 30_001;
        assert_eq!(breaks(side, LIMITS, &bytes), (at, ProtocolError::InvalidUtf8));
        payload[29_999..30_003].copy_from_slice("🦀".as_bytes());
        expect(side, &side.gets(0x81, &payload), &[text(std::str::from_utf8(&payload).unwrap())]);
    }
}

// ---- Limits ----

#[test]
fn sizes_above_a_limit_fail_at_the_header() {
    use ProtocolError::*;
    let limits = MessageLimits { frame: 200, message: 300 };
    for side in SIDES {
        let outcome = any_way(side, limits, &side.gets(0x82, &[1; 200])).0;
        assert_eq!(outcome, [binary(&[1; 200])]);
        let bytes = side.gets(0x82, &[1; 201]);
        let head = bytes.len() - 201;
        assert_eq!(breaks(side, limits, &bytes), (head, FrameTooBig { len: 201, max: 200 }));

        let fragments = |last: usize| {
            [side.gets(0x02, &[1; 150]), side.gets(0x00, &[2; 100]), side.gets(0x80, &vec![3; last])]
        };
        let bytes = fragments(50).concat();
        let whole = [[1; 150].as_slice(), &[2; 100], &[3; 50]].concat();
        assert_eq!(any_way(side, limits, &bytes).0, [binary(&whole)]);
        let bytes = fragments(51).concat();
        let head = bytes.len() - 51;
        assert_eq!(breaks(side, limits, &bytes), (head, MessageTooBig { len: 301, max: 300 }));

        // The sum of the lengths does not overflow.
        let huge = [side.gets(0x02, &[1]), header(0x80, side.key(), (1 << 63) - 1)].concat();
        let max = u64::MAX >> 1;
        let limits = MessageLimits { frame: max, message: max };
        assert_eq!(breaks(side, limits, &huge).1, MessageTooBig { len: 1 << 63, max });

        // A single frame that only the limit for messages forbids.
        let limits = MessageLimits { frame: 1000, message: 300 };
        assert_eq!(any_way(side, limits, &side.gets(0x81, &[b'x'; 300])).0.len(), 1);
        let bytes = side.gets(0x81, &[b'x'; 301]);
        assert_eq!(breaks(side, limits, &bytes).1, MessageTooBig { len: 301, max: 300 });
    }
}

#[test]
fn four_mib_in_fragments_of_64_bytes_are_legal() {
    let limits = MessageLimits { frame: 4 << 20, message: 4 << 20 };
    let side = Side::Server;
    let count = (4 << 20) / 64;
    let mut bytes = Vec::new();
    let mut payload = Vec::new();
    for i in 0..count {
        let first = if i == 0 { 0x02 } else { 0x00 } | if i == count - 1 { 0x80 } else { 0 };
        let part = [(i % 251) as u8; 64];
        bytes.extend(side.gets(first, &part));
        payload.extend(part);
    }
    // In blocks as large as a read of the engine, and in pieces that end anywhere.
    for size in [64 * 1024, 1447] {
        assert_eq!(run(side, limits, bytes.chunks(size)).0, [binary(&payload)]);
    }
    // A message inside this message, and a limit of one byte less, are violations.
    let more = [side.gets(0x02, b"x"), bytes].concat();
    let found = run(side, limits, more.chunks(64 * 1024)).0;
    assert_eq!(found, [Outcome::Broken(ProtocolError::ExpectedContinuation)]);
    let limits = MessageLimits { frame: 4 << 20, message: (4 << 20) - 1 };
    let found = run(side, limits, more[side.gets(0x02, b"x").len()..].chunks(64 * 1024)).0;
    let too_big = ProtocolError::MessageTooBig { len: 4 << 20, max: (4 << 20) - 1 };
    assert_eq!(found, [Outcome::Broken(too_big)]);
}

#[test]
fn empty_fragments_in_a_row_are_capped() {
    for side in SIDES {
        let empty = |count| side.gets(0x00, b"").repeat(count);
        // 64 in a row with a ping between them, then a fragment with a byte, then 64 again.
        let bytes = [
            side.gets(0x01, b""),
            empty(30),
            side.gets(0x89, b"between"),
            empty(33),
            side.gets(0x00, b"x"),
            empty(64),
            side.gets(0x80, b""),
            side.gets(0x81, b"next"),
        ];
        let (outcomes, written) = any_way(side, LIMITS, &bytes.concat());
        assert_eq!(outcomes, [text("x"), text("next")]);
        assert_eq!(written, side.sends(0x8a, b"between"));

        let bytes = [side.gets(0x01, b""), empty(63), side.gets(0x8a, b"between"), empty(1)].concat();
        assert_eq!(breaks(side, LIMITS, &bytes), (bytes.len(), ProtocolError::EmptyFragments));
        // Empty messages do not count as empty fragments.
        let bytes = side.gets(0x82, b"").repeat(200);
        assert_eq!(run(side, LIMITS, [&bytes[..]]).0.len(), 200);
    }
}

#[test]
fn small_reads_do_not_copy_the_message_each_time() {
    let (side, limits) = (Side::Server, MessageLimits { frame: 16 << 20, message: 16 << 20 });
    let mut endpoint = Endpoint::new(side, limits);
    endpoint.read(&header(0x82, side.key(), 16 << 20));
    let mut arrived = 0;
    let (mut reads, mut moves, mut place) = (0, 0, None);
    while endpoint.outcomes.is_empty() {
        endpoint.read(&[0; 1448]);
        reads += 1;
        arrived += 1448;
        // Bytes arrived plus room left: the length of the buffer, which changes only when it grows.
        let room = endpoint.connection.room(usize::MAX).map(|room| room.len() + arrived);
        if let Some(end) = room
            && place != Some(end)
        {
            (moves, place) = (moves + 1, Some(end));
        }
    }
    assert!(reads > 11_000);
    assert!(moves < 20, "the buffer grew {moves} times in {reads} reads");
}

// ---- Violations ----

/// Streams with a violation: the side that receives it, its bytes, the violation and its close
/// code.
fn violations() -> Vec<(Side, Vec<u8>, ProtocolError, u16)> {
    use ProtocolError::*;
    let mut list = vec![
        (Side::Server, frame(0x81, None, b"a"), UnmaskedFrame, 1002),
        (Side::Server, frame(0x89, None, b""), UnmaskedFrame, 1002),
        (Side::Client, frame(0x81, Some(KEY), b"a"), MaskedFrame, 1002),
        (Side::Client, frame(0x88, Some([0; 4]), b""), MaskedFrame, 1002),
    ];
    for side in SIDES {
        for bits in 1..8 {
            for first in [0x81, 0x02, 0x88, 0x89, 0x8a] {
                list.push((side, side.gets(first | bits << 4, b"\x03\xe8"), ReservedBits, 1002));
            }
        }
        for opcode in (3..8).chain(11..16) {
            for fin in [0, 0x80] {
                list.push((side, side.gets(fin | opcode, b"abc"), ReservedOpcode(opcode), 1002));
            }
        }
        for opcode in 8..11 {
            list.push((side, side.gets(opcode, b"\x03\xe8"), FragmentedControl, 1002));
            for len in [126, 127, 200, 65536] {
                list.push((side, side.gets(0x80 | opcode, &vec![3; len]), ControlTooLong, 1002));
            }
        }
        let masked = if side == Side::Server { 0x80 } else { 0 };
        let key = side.key().unwrap_or_default();
        for len in [0, 1, 125_u16] {
            let bytes = [&[0x82, masked | 126], &len.to_be_bytes()[..], &key, &[0; 125]].concat();
            list.push((side, bytes, LengthNotMinimal, 1002));
        }
        for len in [0, 125, 126, 65535_u64] {
            let bytes = [&[0x82, masked | 127], &len.to_be_bytes()[..], &key, &[0; 125]].concat();
            list.push((side, bytes, LengthNotMinimal, 1002));
        }
        for len in [1 << 63, u64::MAX] {
            let bytes = [&[0x81, masked | 127], &len.to_be_bytes()[..], &key].concat();
            list.push((side, bytes, LengthOverflow, 1002));
        }
        let len = (1 << 63) - 1;
        list.push((side, header(0x81, side.key(), len), FrameTooBig { len, max: LIMITS.frame }, 1009));
        list.push((side, side.gets(0x80, b""), UnexpectedContinuation, 1002));
        let two = [side.gets(0x01, b""), side.gets(0x81, b"")].concat();
        list.push((side, two, ExpectedContinuation, 1002));
        list.push((side, side.gets(0x81, b"\xff"), InvalidUtf8, 1007));
        let len = LIMITS.message + 1;
        let two = [side.gets(0x01, b"a"), header(0x80, side.key(), LIMITS.message)].concat();
        list.push((side, two, MessageTooBig { len, max: LIMITS.message }, 1009));
        let empty = [side.gets(0x01, b""), side.gets(0, b"").repeat(64)].concat();
        list.push((side, empty, EmptyFragments, 1008));
        list.push((side, side.gets(0x88, b"\x03"), CloseBodyTooShort, 1002));
        list.push((side, side.gets(0x88, b"\x03\xed"), InvalidCloseCode(1005), 1002));
        list.push((side, side.gets(0x88, b"\x03\xe8\xff"), InvalidCloseReason, 1007));
    }
    list
}

#[test]
fn every_violation_is_found_and_has_its_close_code() {
    // No wildcard, so that a new variant has to be added here, and then to the list.
    let number = |violation| match violation {
        ProtocolError::UnmaskedFrame => 0,
        ProtocolError::MaskedFrame => 1,
        ProtocolError::ReservedBits => 2,
        ProtocolError::ReservedOpcode(_) => 3,
        ProtocolError::FragmentedControl => 4,
        ProtocolError::ControlTooLong => 5,
        ProtocolError::LengthNotMinimal => 6,
        ProtocolError::LengthOverflow => 7,
        ProtocolError::UnexpectedContinuation => 8,
        ProtocolError::ExpectedContinuation => 9,
        ProtocolError::InvalidUtf8 => 10,
        ProtocolError::FrameTooBig { .. } => 11,
        ProtocolError::MessageTooBig { .. } => 12,
        ProtocolError::EmptyFragments => 13,
        ProtocolError::CloseBodyTooShort => 14,
        ProtocolError::InvalidCloseCode(_) => 15,
        ProtocolError::InvalidCloseReason => 16,
        // Needs compression: tested in `deflate`.
        ProtocolError::CorruptDeflate => 17,
    };
    let mut seen = [false; 17];
    for (side, bytes, violation, code) in violations() {
        // The message before the violation must be delivered, the one behind it must not.
        let bytes = [side.gets(0x82, b"before"), bytes, side.gets(0x82, b"behind")].concat();
        let (outcomes, written) = any_way(side, LIMITS, &bytes);
        assert_eq!(outcomes, [binary(b"before"), Outcome::Broken(violation)], "{side:?}");
        assert!(written.is_empty());
        assert_eq!(u16::from(violation.close_code()), code, "{violation:?}");
        assert!(close::check(code, &violation.to_string()).is_ok(), "{violation} is too long for a reason");
        seen[number(violation)] = true;
    }
    assert_eq!(seen, [true; 17]);
}
