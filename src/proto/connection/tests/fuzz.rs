//! What a fuzzer makes of a connection's input. The first byte chooses, the second cuts.

use super::{
    differential::{hold, send},
    generator::{Stream, stream},
    harness::*,
    *,
};
use crate::test_rng::Rng;

/// Any bytes at all, to a server.
pub(crate) fn server(data: &[u8]) {
    raw(Side::Server, data);
}

/// The same to a client.
pub(crate) fn client(data: &[u8]) {
    raw(Side::Client, data);
}

fn raw(side: Side, data: &[u8]) {
    let [kind, cuts, bytes @ ..] = data else { return };
    let limits = match kind % 4 {
        0 => MessageLimits { frame: 40_000, message: 60_000 },
        1 => MessageLimits { frame: 5_000, message: 300 },
        // A smaller one is one for control frames, too, to tungstenite.
        2 => MessageLimits { frame: 125, message: 300 },
        _ => MessageLimits { frame: 2_000, message: 4_000 },
    };
    let stream = Stream { bytes: bytes.to_vec(), limits, tidy: false, flaw: "fuzzed" };
    same(bytes, *cuts, |pieces| run(side, limits, pieces.iter().copied()));
    hold(side, &stream, &mut Rng::new(u64::from(*cuts)));
}

/// Frames that are right up to one flaw, which the bytes choose.
pub(crate) fn flawed(data: &[u8]) {
    let [kind, cuts, tape @ ..] = data else { return };
    let side = SIDES[usize::from(kind % 2)];
    let stream = stream(Rng::tape(tape), side);
    same(&stream.bytes, *cuts, |pieces| run(side, stream.limits, pieces.iter().copied()));
    hold(side, &stream, &mut Rng::new(u64::from(*cuts)));
}

/// What we send, under a kernel that takes what it likes.
pub(crate) fn sending(data: &[u8]) {
    let [kind, keys, tape @ ..] = data else { return };
    let side = SIDES[usize::from(kind % 2)];
    send(side, &mut Rng::tape(tape), Rng::new(u64::from(*keys)));
}

/// Any bytes at all where compression has been agreed on.
#[cfg(feature = "deflate")]
pub(crate) fn compressed(data: &[u8]) {
    use super::deflate::server;
    use crate::deflate::DeflateMode;

    let [kind, cuts, bytes @ ..] = data else { return };
    let limits = match kind % 4 {
        0 => MessageLimits { frame: 40_000, message: 60_000 },
        1 => MessageLimits { frame: 5_000, message: 300 },
        2 => MessageLimits { frame: 100, message: 300 },
        _ => MessageLimits { frame: 2_000, message: 1 << 20 },
    };
    let mode = if kind & 4 == 0 { DeflateMode::Shared } else { DeflateMode::Dedicated };
    let (outcomes, _) = same(bytes, *cuts, |pieces| {
        let mut endpoint = server(mode, limits);
        endpoint.read_all(pieces.iter().copied());
        (endpoint.outcomes, endpoint.written)
    });
    for outcome in outcomes {
        let len = match outcome {
            Outcome::Text(text) => text.len(),
            Outcome::Binary(bytes) => bytes.len(),
            Outcome::Close(..) | Outcome::Broken(_) => 0,
        };
        assert!(len as u64 <= limits.message);
    }
}

/// The outcome of these bytes in one piece, byte by byte, and cut anywhere.
fn same<T: PartialEq + std::fmt::Debug>(bytes: &[u8], cuts: u8, run: impl Fn(&[&[u8]]) -> T) -> T {
    let whole = run(&[bytes]);
    // Long ones would take their time.
    let size = 1 + bytes.len() / 4_000;
    assert_eq!(run(&bytes.chunks(size).collect::<Vec<_>>()), whole, "by {size}");
    let pieces = Rng::new(!u64::from(cuts)).cut(bytes);
    assert_eq!(run(&pieces), whole, "cut at random");
    whole
}
