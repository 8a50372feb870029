//! Fuzz targets: bytes that a connection receives, and frames that it sends. In each input the
//! first byte chooses side and limits, the second one the places of the cuts or the masking keys.

use super::{
    differential::{hold, send},
    generator::{Stream, stream},
    harness::*,
    *,
};
use crate::util::test_rng::Rng;

/// Arbitrary bytes, received by a server.
pub(crate) fn server(data: &[u8]) {
    raw(Side::Server, data);
}

/// Arbitrary bytes, received by a client.
pub(crate) fn client(data: &[u8]) {
    raw(Side::Client, data);
}

fn raw(side: Side, data: &[u8]) {
    let [kind, cuts, bytes @ ..] = data else { return };
    let limits = match kind % 4 {
        0 => MessageLimits { frame: 40_000, message: 60_000 },
        1 => MessageLimits { frame: 5_000, message: 300 },
        // tungstenite applies a smaller limit to control frames too.
        2 => MessageLimits { frame: 125, message: 300 },
        _ => MessageLimits { frame: 2_000, message: 4_000 },
    };
    let stream = Stream { bytes: bytes.to_vec(), limits, tidy: false, flaw: "fuzzed" };
    same(bytes, *cuts, |pieces| run(side, limits, pieces.iter().copied()));
    hold(side, &stream, &mut Rng::new(u64::from(*cuts)));
}

/// Frames with at most one flaw, generated from the bytes.
pub(crate) fn flawed(data: &[u8]) {
    let [kind, cuts, choices @ ..] = data else { return };
    let side = SIDES[usize::from(kind % 2)];
    let stream = stream(Rng::from_bytes(choices), side);
    same(&stream.bytes, *cuts, |pieces| run(side, stream.limits, pieces.iter().copied()));
    hold(side, &stream, &mut Rng::new(u64::from(*cuts)));
}

/// Frames that we send, to a kernel that takes any part of them.
pub(crate) fn sending(data: &[u8]) {
    let [kind, keys, choices @ ..] = data else { return };
    let side = SIDES[usize::from(kind % 2)];
    send(side, &mut Rng::from_bytes(choices), Rng::new(u64::from(*keys)));
}

/// Arbitrary bytes, received by a server that has negotiated compression.
#[cfg(feature = "deflate")]
pub(crate) fn compressed(data: &[u8]) {
    use super::deflate::server;
    use crate::config::compression::DeflateMode;

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

/// The outcome of these bytes, which must be the same in one piece, in small ones, and cut at
/// random.
fn same<T: PartialEq + std::fmt::Debug>(bytes: &[u8], cuts: u8, run: impl Fn(&[&[u8]]) -> T) -> T {
    let whole = run(&[bytes]);
    // Long inputs are not cut into single bytes, which would take too long.
    let size = 1 + bytes.len() / 4_000;
    assert_eq!(run(&bytes.chunks(size).collect::<Vec<_>>()), whole, "by {size}");
    let pieces = Rng::new(!u64::from(cuts)).cut(bytes);
    assert_eq!(run(&pieces), whole, "cut at random");
    whole
}
