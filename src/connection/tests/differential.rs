//! Random streams: the outcome must not depend on the cuts, and must be that of tungstenite.
//!
//! tungstenite differs on purpose in these points, which [`agree`] allows for:
//!
//! - It reads a frame only when all of it has arrived. Invalid text, a long control frame, reserved
//!   bits and a wrong mask fail here earlier; if the rest of the frame is missing, it still waits.
//! - It accepts lengths that are not minimal, and any number of empty fragments. Up to there the
//!   outcomes are the same.
//! - An invalid close code is not an error: it delivers 1002 "Protocol violation" instead. It
//!   treats 1014 as invalid.
//! - In a stream with two violations it may report the other one: it calls a length above 2⁶³ too
//!   big, and reports an invalid reason before an invalid code.
//! - It keeps only one automatic pong, so the test counts the pings that it delivers instead.

use std::io::{self, Read, Write};

use tungstenite::{
    Error, Message, WebSocket,
    protocol::{Role as TheirRole, WebSocketConfig},
};

use super::{
    generator::{Stream, stream},
    harness::*,
    *,
};
use crate::util::test_rng::Rng;

/// Streams per side and test.
const SEEDS: u64 = 4000;

/// Prints the seed when a test panics.
struct Seed(u64, Side);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {} as {:?}", self.0, self.1);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Closed,
    Failed(u16),
}

/// Outcome of a stream.
pub(super) struct Found {
    outcomes: Vec<Outcome>,
    pongs: Vec<u8>,
    end: End,
}

fn ours(side: Side, stream: &Stream, rng: &mut Rng) -> (Found, Option<ProtocolError>) {
    let (mut outcomes, pongs) = run(side, stream.limits, rng.cut(&stream.bytes));
    let (end, violation) = match outcomes.last() {
        Some(Outcome::Broken(violation)) => (End::Failed(violation.close_code().into()), Some(*violation)),
        Some(Outcome::Close(..)) => (End::Closed, None),
        _ => (End::Open, None),
    };
    outcomes.truncate(outcomes.len() - usize::from(violation.is_some()));
    (Found { outcomes, pongs, end }, violation)
}

/// A socket that has received `bytes`, and then blocks.
#[derive(Debug)]
pub(crate) struct Memory<'a>(pub(crate) &'a [u8]);

impl Read for Memory<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(room) }
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(side: Side, bytes: &[u8], limits: MessageLimits) -> Found {
    let role = if side == Side::Server { TheirRole::Server } else { TheirRole::Client };
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_frame_size(Some(limits.frame as usize))
        .max_message_size(Some(limits.message as usize));
    let mut socket = WebSocket::from_raw_socket(Memory(bytes), role, Some(config));
    let mut found = Found { outcomes: Vec::new(), pongs: Vec::new(), end: End::Open };
    loop {
        match socket.read() {
            Ok(Message::Text(payload)) => found.outcomes.push(text(&payload)),
            Ok(Message::Binary(payload)) => found.outcomes.push(binary(&payload)),
            Ok(Message::Ping(payload)) => found.pongs.extend(side.sends(0x8a, &payload)),
            Ok(Message::Pong(_)) => {}
            Ok(Message::Close(body)) => {
                let (code, reason) =
                    body.map_or((1005, String::new()), |body| (body.code.into(), body.reason.to_string()));
                found.outcomes.push(Outcome::Close(code, reason));
                found.end = End::Closed;
                return found;
            }
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return found,
            Err(error) => {
                found.end = End::Failed(match error {
                    Error::Protocol(_) => 1002,
                    Error::Utf8(_) => 1007,
                    Error::Capacity(_) => 1009,
                    other => panic!("{other}"),
                });
                return found;
            }
        }
    }
}

/// Compares our outcome with that of tungstenite.
fn agree(stream: &Stream, ours: &Found, violation: Option<ProtocolError>, theirs: &Found) {
    let context = || format!("{} (tidy: {}), ours {violation:?}", stream.flaw, stream.tidy);
    match violation {
        Some(ProtocolError::LengthNotMinimal | ProtocolError::EmptyFragments) => {
            assert!(theirs.outcomes.starts_with(&ours.outcomes), "{}", context());
            assert!(theirs.pongs.starts_with(&ours.pongs), "{}", context());
            return;
        }
        // tungstenite may read a different length: the rest is not compared.
        Some(ProtocolError::ControlTooLong) if !stream.tidy => {
            assert!(theirs.outcomes.starts_with(&ours.outcomes), "{}", context());
            assert!(theirs.pongs.starts_with(&ours.pongs), "{}", context());
            return;
        }
        Some(ProtocolError::InvalidCloseCode(_)) if theirs.end == End::Closed => {
            let (close, before) = theirs.outcomes.split_last().unwrap();
            assert_eq!(close, &Outcome::Close(1002, "Protocol violation".into()), "{}", context());
            assert_eq!((&ours.outcomes[..], &ours.pongs), (before, &theirs.pongs), "{}", context());
            return;
        }
        _ => {}
    }
    if let (Some(Outcome::Close(1014, _)), Some(close)) = (ours.outcomes.last(), theirs.outcomes.last()) {
        assert_eq!(close, &Outcome::Close(1002, "Protocol violation".into()), "{}", context());
        let count = ours.outcomes.len() - 1;
        assert_eq!(ours.outcomes[..count], theirs.outcomes[..count], "{}", context());
    } else {
        assert_eq!(ours.outcomes, theirs.outcomes, "{}", context());
    }
    assert_eq!(ours.pongs, theirs.pongs, "{}", context());
    match (ours.end, theirs.end) {
        (ours, theirs) if ours == theirs => {}
        // The rest of the invalid frame is missing, so tungstenite waits for it.
        (End::Failed(_), End::Open) if !stream.tidy => {}
        // The stream has two violations.
        (End::Failed(_), End::Failed(_)) if !stream.tidy => {}
        (End::Failed(1002), End::Failed(1009)) if violation == Some(ProtocolError::LengthOverflow) => {}
        (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}: {}", context()),
    }
}

/// Reads the stream with both decoders and compares the outcomes.
pub(super) fn hold(side: Side, stream: &Stream, cuts: &mut Rng) -> Found {
    let (ours, violation) = ours(side, stream, cuts);
    let theirs = theirs(side, &stream.bytes, stream.limits);
    agree(stream, &ours, violation, &theirs);
    ours
}

#[test]
fn the_outcome_does_not_depend_on_the_cuts() {
    for side in SIDES {
        for seed in 0..SEEDS {
            let _seed = Seed(seed, side);
            let Stream { bytes, limits, flaw, .. } = stream(Rng::new(seed), side);
            let mut rng = Rng::new(!seed);
            let whole = run(side, limits, [&bytes[..]]);
            for _ in 0..2 {
                let pieces = rng.cut(&bytes);
                assert_eq!(run(side, limits, pieces), whole, "{flaw}");
            }
        }
    }
}

#[test]
fn tungstenite_reads_the_same_from_random_streams() {
    let (mut messages, mut open, mut closed, mut failed) = (0, 0, 0, 0);
    for side in SIDES {
        for seed in 0..SEEDS {
            // Streams other than those of the test above.
            let seed = seed + 1_000_000;
            let _seed = Seed(seed, side);
            let stream = stream(Rng::new(seed), side);
            let ours = hold(side, &stream, &mut Rng::new(!seed));
            messages += ours.outcomes.len();
            match ours.end {
                End::Open => open += 1,
                End::Closed => closed += 1,
                End::Failed(_) => failed += 1,
            }
        }
    }
    // The generator must still produce all kinds of streams.
    assert!(
        messages > 9000 && open > 800 && closed > 200 && failed > 2000,
        "{messages} {open} {closed} {failed}"
    );
}

#[test]
fn tungstenite_reads_what_we_send() {
    for side in SIDES {
        for seed in 0..1000 {
            let _seed = Seed(seed, side);
            send(side, &mut Rng::new(seed), Rng::new(!seed));
        }
    }
}

/// Sends random messages, and reads them with tungstenite.
pub(super) fn send(side: Side, rng: &mut Rng, mut keys: Rng) {
    let limits = MessageLimits { frame: 1 << 20, message: 1 << 20 };
    let role = match side {
        Side::Server => Role::Server,
        Side::Client => Role::Client(Box::new(Box::new(move || (keys.next() as u32).to_be_bytes()))),
    };
    let mut endpoint = Endpoint::with_role(role, LIMITS);
    let peer = if side == Side::Server { Side::Client } else { Side::Server };
    // `theirs` records received pings as pongs; our pings are numbered from 1.
    let (mut expected, mut pings) = (Vec::new(), 0_u32);
    for _ in 0..rng.below(20) {
        if rng.is_spent() {
            break;
        }
        match rng.below(8) {
            0..3 => {
                let len = rng.len(70_000);
                let payload = rng.text(len);
                endpoint.send(Kind::Text, payload.as_bytes());
                expected.push(Outcome::Text(payload));
            }
            3..6 => {
                let len = rng.len(70_000);
                let payload = rng.bytes(len);
                endpoint.send(Kind::Binary, &payload);
                expected.push(Outcome::Binary(payload));
            }
            6 => {
                endpoint.ping();
                pings += 1;
                // Without this flush a newer ping could replace it.
                endpoint.flush(usize::MAX);
            }
            _ => {
                let len = rng.len(5000);
                endpoint.flush(len);
            }
        }
        if rng.one_in(5) {
            // A later pong may replace its pong, but no pong may damage the stream.
            endpoint.read(&side.gets(0x89, &[5; 20]));
        }
    }
    if rng.one_in(2) {
        let len = rng.len(close::MAX_REASON);
        let (code, reason) = (rng.pick(&[1000, 1001, 1011, 1013, 3000, 4999]), rng.text(len));
        let body = (!rng.one_in(4)).then_some((code, reason.as_str()));
        endpoint.close(body);
        let (code, reason) = body.unwrap_or((1005, ""));
        expected.push(Outcome::Close(code, reason.into()));
    }
    while endpoint.outbox.has_work() {
        // A source without bytes yields zeros, and would flush byte by byte.
        endpoint.flush(if rng.is_spent() { usize::MAX } else { 1 + rng.len(50_000) });
    }
    let found = theirs(peer, &endpoint.written, limits);
    assert_eq!(found.outcomes, expected);
    assert!(!matches!(found.end, End::Failed(_)), "{:?}", found.end);
    let numbers: Vec<u8> = (1..=pings).flat_map(|ping| peer.sends(0x8a, &ping.to_be_bytes())).collect();
    assert_eq!(found.pongs, numbers);
}
