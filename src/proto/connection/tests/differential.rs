//! Random streams: the same however they are cut, and the same as tungstenite's own decoder finds.
//!
//! Where the two differ on purpose, and how [`agree`] allows for it:
//!
//! - It looks at a frame when all of it has come: bad text, a long control frame, reserved bits and a wrong
//!   mask fail here earlier. If the rest of the frame never comes, it is still waiting.
//! - It takes lengths that are not minimal, and any number of empty fragments. Until then all is the same.
//! - A bad close code is no error to it: it delivers 1002 "Protocol violation". It knows no 1014.
//! - What is wrong twice (a damaged stream may be) it may call by the other name: a length above 2⁶³ is too
//!   big to it, an invalid reason hides an invalid code.
//! - It has one slot for automatic pongs, so the pings that it delivers stand for the pongs it owes.

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
use crate::test_rng::Rng;

/// Streams per side and test.
const SEEDS: u64 = 4000;

/// Names the seed when anything panics.
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

/// What came of a stream.
pub(super) struct Found {
    outcomes: Vec<Outcome>,
    pongs: Vec<u8>,
    end: End,
}

fn ours(side: Side, stream: &Stream, rng: &mut Rng) -> (Found, Option<PeerMisbehaved>) {
    let (mut outcomes, pongs) = run(side, stream.limits, rng.cut(&stream.bytes));
    let (end, violation) = match outcomes.last() {
        Some(Outcome::Broken(violation)) => (End::Failed(violation.close_code().into()), Some(*violation)),
        Some(Outcome::Close(..)) => (End::Closed, None),
        _ => (End::Open, None),
    };
    outcomes.truncate(outcomes.len() - usize::from(violation.is_some()));
    (Found { outcomes, pongs, end }, violation)
}

/// A socket that has received `bytes` and no more.
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

/// Holds what we found against what tungstenite did.
fn agree(stream: &Stream, ours: &Found, violation: Option<PeerMisbehaved>, theirs: &Found) {
    let context = || format!("{} (tidy: {}), ours {violation:?}", stream.flaw, stream.tidy);
    match violation {
        Some(PeerMisbehaved::LengthNotMinimal | PeerMisbehaved::EmptyFragments) => {
            assert!(theirs.outcomes.starts_with(&ours.outcomes), "{}", context());
            assert!(theirs.pongs.starts_with(&ours.pongs), "{}", context());
            return;
        }
        // Its length may stand where that of a long frame does: we look no further.
        Some(PeerMisbehaved::ControlTooLong) if !stream.tidy => {
            assert!(theirs.outcomes.starts_with(&ours.outcomes), "{}", context());
            assert!(theirs.pongs.starts_with(&ours.pongs), "{}", context());
            return;
        }
        Some(PeerMisbehaved::InvalidCloseCode(_)) if theirs.end == End::Closed => {
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
        // The rest of the broken frame has not come.
        (End::Failed(_), End::Open) if !stream.tidy => {}
        // Wrong twice.
        (End::Failed(_), End::Failed(_)) if !stream.tidy => {}
        (End::Failed(1002), End::Failed(1009)) if violation == Some(PeerMisbehaved::LengthOverflow) => {}
        (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}: {}", context()),
    }
}

/// Both read the stream, and agree.
pub(super) fn hold(side: Side, stream: &Stream, cuts: &mut Rng) -> Found {
    let (ours, violation) = ours(side, stream, cuts);
    let theirs = theirs(side, &stream.bytes, stream.limits);
    agree(stream, &ours, violation, &theirs);
    ours
}

#[test]
fn a_stream_is_the_same_however_it_is_cut() {
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
fn tungstenite_reads_the_same() {
    let (mut messages, mut open, mut closed, mut failed) = (0, 0, 0, 0);
    for side in SIDES {
        for seed in 0..SEEDS {
            // Other streams than above.
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
    // A generator that has lost its variety tests nothing.
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

/// Sends some messages, and has tungstenite read them.
pub(super) fn send(side: Side, rng: &mut Rng, mut keys: Rng) {
    let limits = MessageLimits { frame: 1 << 20, message: 1 << 20 };
    let role = match side {
        Side::Server => Role::Server,
        Side::Client => Role::Client(Box::new(move || (keys.next() as u32).to_be_bytes())),
    };
    let mut endpoint = Endpoint::with_role(role, LIMITS);
    let peer = if side == Side::Server { Side::Client } else { Side::Server };
    // Its pings are noted as the pongs it would send; ours number theirs.
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
                // Or a newer one would take its place.
                endpoint.flush(usize::MAX);
            }
            _ => {
                let len = rng.len(5000);
                endpoint.flush(len);
            }
        }
        if rng.one_in(5) {
            // Its answer may be replaced, but must be a frame.
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
        // At its end a tape would mean byte by byte.
        endpoint.flush(if rng.is_spent() { usize::MAX } else { 1 + rng.len(50_000) });
    }
    let found = theirs(peer, &endpoint.written, limits);
    assert_eq!(found.outcomes, expected);
    assert!(!matches!(found.end, End::Failed(_)), "{:?}", found.end);
    let numbers: Vec<u8> = (1..=pings).flat_map(|ping| peer.sends(0x8a, &ping.to_be_bytes())).collect();
    assert_eq!(found.pongs, numbers);
}
