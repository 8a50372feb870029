//! Compressed messages in a connection (RFC 6455, RFC 7692).

use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS};

use super::*;
use crate::{
    config::{
        Config,
        compression::{Deflate, DeflateMode},
    },
    outbox::{
        OutboxPool,
        outgoing::Outgoing,
        pending::{PendingPool, Terms},
    },
    util::test_rng::Rng,
};

/// "Hello", compressed (RFC 7692 §7.2.3.1).
const SMALL: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

/// Both ends of a connection that has negotiated compression.
fn pair(mode: DeflateMode, limits: MessageLimits) -> [Endpoint; 2] {
    let deflate = Deflate::new(mode).threshold(20);
    let [mut server, mut client] = SIDES.map(|side| {
        let mut endpoint = Endpoint::new(side, limits);
        endpoint.codec = Codec::new(&Config { deflate: Some(deflate.clone()), ..Config::default() });
        endpoint
    });
    let header = |value: HeaderValue| HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, value)]);
    let offer = header(client.codec.offer().unwrap());
    let (deflate, answer) = server.codec.negotiate(&offer).unwrap();
    server.connection = Connection::new(Role::Server).with_deflate(Some(deflate));
    let deflate = client.codec.confirm(&header(answer)).unwrap();
    assert!(deflate.is_some());
    client.connection = Connection::new(Side::Client.role()).with_deflate(deflate);
    [server, client]
}

pub(super) fn server(mode: DeflateMode, limits: MessageLimits) -> Endpoint {
    let [server, _] = pair(mode, limits);
    server
}

/// Outcomes and written bytes of a server that receives `bytes`, which must not depend on the cuts.
fn outcomes(limits: MessageLimits, bytes: &[u8]) -> (Vec<Outcome>, Vec<u8>) {
    let run = |pieces: &[&[u8]]| {
        let mut endpoint = server(DeflateMode::Dedicated, limits);
        endpoint.read_all(pieces.iter().copied());
        (endpoint.outcomes, endpoint.written)
    };
    let whole = run(&[bytes]);
    for at in (1..bytes.len()).filter(|at| bytes.len() < 700 || at.is_multiple_of(997)) {
        let (first, second) = bytes.split_at(at);
        assert_eq!(run(&[first, second]), whole, "cut at {at}");
    }
    assert_eq!(run(&bytes.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    whole
}

fn gets(first: u8, payload: &[u8]) -> Vec<u8> {
    Side::Server.gets(first, payload)
}

fn broken(violation: ProtocolError) -> (Vec<Outcome>, Vec<u8>) {
    (vec![Outcome::Broken(violation)], vec![])
}

#[test]
fn compressed_and_plain_messages_are_received() {
    let bytes = [
        gets(0xc1, &SMALL),
        gets(0x81, b"plain"),
        // Refers to the first message.
        gets(0xc2, &[0xf2, 0x00, 0x11, 0x00, 0x00]),
        gets(0xc1, &[0]),
        gets(0xc1, &SMALL),
    ];
    let expected = vec![text("Hello"), text("plain"), binary(b"Hello"), text(""), text("Hello")];
    assert_eq!(outcomes(LIMITS, &bytes.concat()), (expected, vec![]));
}

#[test]
fn compressed_fragments_may_have_control_frames_between() {
    for first in 0..=SMALL.len() {
        for second in first..=SMALL.len() {
            let bytes = [
                gets(0x41, &SMALL[..first]),
                gets(0x89, b"!"),
                gets(0x00, &SMALL[first..second]),
                gets(0x80, &SMALL[second..]),
                gets(0x82, b"next"),
            ];
            let expected = (vec![text("Hello"), binary(b"next")], Side::Server.sends(0x8a, b"!"));
            assert_eq!(outcomes(LIMITS, &bytes.concat()), expected, "{first} {second}");
        }
    }
}

#[test]
fn rsv1_is_allowed_only_on_the_first_frame_of_a_message() {
    let reserved = broken(ProtocolError::ReservedBits);
    let hello = [gets(0x41, &SMALL[..3]), gets(0xc0, &SMALL[3..])].concat();
    assert_eq!(outcomes(LIMITS, &hello), reserved);
    assert_eq!(outcomes(LIMITS, &[gets(0x01, b"a"), gets(0xc0, b"b")].concat()), reserved);
    for control in [0xc8, 0xc9, 0xca] {
        assert_eq!(outcomes(LIMITS, &gets(control, b"")), reserved);
    }
    for other in [0xa1, 0x91, 0xe1] {
        assert_eq!(outcomes(LIMITS, &gets(other, &SMALL)), reserved);
    }
}

#[test]
fn damaged_data_and_invalid_text_are_violations() {
    for payload in [&[0xff, 0xff][..], &SMALL[..5], b"", &[0xf2, 0x48, 0xcd]] {
        assert_eq!(outcomes(LIMITS, &gets(0xc2, payload)), broken(ProtocolError::CorruptDeflate));
    }
    assert_eq!(u16::from(ProtocolError::CorruptDeflate.close_code()), 1007);
    // A stored block with the single byte 0xff.
    let bad = [0, 1, 0, 0xfe, 0xff, 0xff, 0];
    assert_eq!(outcomes(LIMITS, &gets(0xc1, &bad)), broken(ProtocolError::InvalidUtf8));
    assert_eq!(outcomes(LIMITS, &gets(0xc2, &bad)), (vec![binary(b"\xff")], vec![]));
}

#[test]
fn limits_apply_to_the_inflated_message() {
    let limits = MessageLimits { frame: 1_000, message: 1_000 };
    let mut client = pair(DeflateMode::Dedicated, limits).into_iter().nth(1).unwrap();
    let mut framed = |payload: &[u8]| {
        client.send(Kind::Binary, payload);
        client.flush(usize::MAX);
        std::mem::take(&mut client.written)
    };
    // Each message reaches a new server without a context, so it must not refer to an earlier one.
    let noise = Rng::new(0).bytes(2_000);
    let zeros = vec![0; 1_001];
    assert_eq!(
        outcomes(limits, &framed(&zeros)),
        broken(ProtocolError::MessageTooBig { len: 1_001, max: 1_000 })
    );
    assert_eq!(outcomes(limits, &framed(&noise[..1_000])), (vec![binary(&noise[..1_000])], vec![]));
    // Other implementations may send stored blocks: longer than the message, and legal.
    let stored: Vec<u8> = noise[..1_000]
        .chunks(100)
        .flat_map(|part| {
            let len = part.len() as u16;
            [&[0][..], &len.to_le_bytes(), &(!len).to_le_bytes(), part].concat()
        })
        .chain([0])
        .collect();
    assert!(stored.len() > 1_000);
    assert_eq!(outcomes(limits, &gets(0xc2, &stored)), (vec![binary(&noise[..1_000])], vec![]));
    let too_long = ProtocolError::FrameTooBig { len: 2_000, max: 1_189 };
    assert_eq!(outcomes(limits, &gets(0xc2, &noise)), broken(too_long));
    // An incomplete message: the compressed bytes held have a limit of their own.
    let pieces = [gets(0x42, &noise[..1_000]), gets(0x00, &noise[..190])].concat();
    let too_big = ProtocolError::MessageTooBig { len: 1_190, max: 1_189 };
    assert_eq!(outcomes(limits, &pieces), broken(too_big));
}

#[test]
fn both_roles_read_each_other_in_both_modes() {
    let mut rng = Rng::new(7);
    for mode in [DeflateMode::Shared, DeflateMode::Dedicated] {
        let mut ends = pair(mode, LIMITS);
        let mut expected: [Vec<Outcome>; 2] = [vec![], vec![]];
        for _ in 0..300 {
            let from = rng.below(2);
            let words = ["grüße ", "hello ", "привет ", "你好 ", "🦀 "];
            let count = rng.pick(&[0, 1, 5, 60, 600, 9_000]);
            let line: String = (0..rng.below(count + 1)).map(|_| rng.pick(&words)).collect();
            ends[from].send(Kind::Text, line.as_bytes());
            ends[from].flush(usize::MAX);
            let wire = std::mem::take(&mut ends[from].written);
            assert!(line.len() < 3_000 || wire.len() * 2 < line.len());
            for piece in wire.chunks(1 + rng.below(30_000)) {
                ends[1 - from].read(piece);
            }
            expected[1 - from].push(text(&line));
        }
        for (end, expected) in ends.iter().zip(&expected) {
            assert_eq!(&end.outcomes, expected);
        }
    }
}

#[test]
fn a_prepared_message_is_compressed_once_for_both_roles() {
    for mode in [DeflateMode::Shared, DeflateMode::Dedicated] {
        for side in [0, 1] {
            let mut ends = pair(mode, LIMITS);
            let (long, short) = ("to everyone who hears it ".repeat(200), "too short");
            let prepared = [Prepared::new(&long), Prepared::new(short)];
            let mut expected = Vec::new();
            for _ in 0..3 {
                ends[side].send(Kind::Text, b"refers to what was before, as that does: before");
                for message in &prepared {
                    let Endpoint { connection, codec, outbox, outbound, .. } = &mut ends[side];
                    connection.send_prepared(message, Some(codec), outbox, outbound);
                }
                expected.extend([
                    text("refers to what was before, as that does: before"),
                    text(&long),
                    text(short),
                ]);
            }
            assert_eq!(ends[side].codec.runs, 3 + 1);
            ends[side].flush(usize::MAX);
            let wire = std::mem::take(&mut ends[side].written);
            ends[1 - side].read(&wire);
            assert_eq!(ends[1 - side].outcomes, expected);
        }
    }
}

/// A message that overtakes others must not refer to them, nor be referred to by them.
#[test]
fn pending_messages_are_compressed_in_the_order_they_leave() {
    let mut rng = Rng::new(8);
    for mode in [DeflateMode::Shared, DeflateMode::Dedicated] {
        let [mut server, mut client] = pair(mode, LIMITS);
        let mut pool = PendingPool::new(OutboxPool::new(0).shared().clone());
        let (mut pending, mut sent, mut urgent) = (None, 0, 0);
        for round in 0..200 {
            for _ in 0..rng.below(6) {
                sent += 1;
                let line = format!(
                    "message number {sent} of those that are sent and received {}",
                    "x".repeat(sent % 2_000)
                );
                let prepared = Prepared::new(&line);
                let message =
                    if rng.one_in(2) { Outgoing::from(&prepared) } else { Outgoing::from(line.as_str()) };
                let priority = rng.pick(&[Priority::Normal, Priority::Normal, Priority::High]);
                urgent += usize::from(priority == Priority::High);
                let terms = Terms { priority, uncompressed: rng.one_in(4), ..Terms::default() };
                let share = rng.one_in(2);
                pool.push(&mut pending, &message, terms, share);
            }
            if let Some(mut waiting) = pending.take() {
                let room = rng.pick(&[1, 3_000, 64 * 1024]);
                let Endpoint { connection, codec, outbox, outbound, now, .. } = &mut server;
                connection.fill(&mut waiting, room, *now, codec, outbox, outbound);
                pending = pool.retain_or_give(waiting);
            }
            // The kernel takes only a part, so that some messages have left partly.
            let room = if round < 190 { rng.below(2_000) } else { usize::MAX };
            server.flush(room);
            let wire = std::mem::take(&mut server.written);
            client.read(&wire);
        }
        let Endpoint { connection, codec, outbox, outbound, now, .. } = &mut server;
        if let Some(mut waiting) = pending {
            connection.fill(&mut waiting, usize::MAX, *now, codec, outbox, outbound);
        }
        server.flush(usize::MAX);
        client.read(&server.written);
        let mut numbers: Vec<usize> = client
            .outcomes
            .iter()
            .map(|outcome| match outcome {
                Outcome::Text(line) => line.split(' ').nth(2).unwrap().parse().unwrap(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(!numbers.is_sorted() && urgent > 50);
        numbers.sort();
        assert_eq!(numbers, (1..=sent).collect::<Vec<_>>());
    }
}
