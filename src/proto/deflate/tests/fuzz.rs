//! Fuzz targets: compressed payloads and extension headers.

use http::header::SEC_WEBSOCKET_EXTENSIONS;

use super::*;

/// Exchanges messages with plain flate2 on several connections.
pub(crate) fn talking(data: &[u8]) {
    talk(&mut Rng::from_bytes(data));
}

/// Inflates arbitrary bytes, and compares the result with plain flate2.
pub(crate) fn inflating(data: &[u8]) {
    let [kind, payload @ ..] = data else { return };
    let max = [0, 100, 5_000, 1 << 20][usize::from(kind % 4)];
    let mut codec = codec(Deflate::default());
    let mut connection = codec.open(way(15, false), way(15, kind & 4 == 0));
    let mut out = Vec::new();
    let ours = connection.inflate(&mut codec, payload, &mut out, max);
    assert!(out.capacity() as u64 <= max + 1, "{} for {max}", out.capacity());
    match plainly(payload) {
        Plain::Whole(whole) if whole.len() as u64 > max => {
            assert_eq!(ours, Err(ProtocolError::MessageTooBig { len: max + 1, max }));
        }
        Plain::Whole(whole) => {
            assert_eq!(ours, Ok(()));
            assert!(out == whole);
        }
        Plain::Broken => assert!(ours.is_err()),
        Plain::Ends => assert!(ours.is_err() || out.len() as u64 <= max),
    }
    // The next message is not affected.
    let mut out = Vec::new();
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(connection.inflate(&mut codec, &hello, &mut out, 5), Ok(()));
    assert_eq!(out, b"Hello");
}

enum Plain {
    Whole(Vec<u8>),
    Broken,
    /// The stream ended at a final block. RFC 7692 allows more blocks behind it, flate2 does not.
    Ends,
}

/// Inflates as RFC 7692 §7.2.2 describes: all at once, into a buffer of the largest possible size.
fn plainly(payload: &[u8]) -> Plain {
    let mut inflater = Decompress::new(false);
    // Deflate expands by a factor of 1032 at most.
    let mut out = Vec::with_capacity(1032 * (payload.len() + 16));
    for (piece, is_last) in [(payload, false), (&TAIL, false), (&END, true)] {
        // zlib reports an error if it makes no progress.
        if piece.is_empty() {
            continue;
        }
        let (before, len) = (inflater.total_in(), out.len());
        let Ok(status) = inflater.decompress_vec(piece, &mut out, FlushDecompress::Sync) else {
            return Plain::Broken;
        };
        let used = inflater.total_in() - before;
        match status {
            // The last block has ended, and the appended bytes add no output.
            Status::StreamEnd if is_last && (used, len) == (END.len() as u64, out.len()) => {
                return Plain::Whole(out);
            }
            Status::StreamEnd if is_last => return Plain::Broken,
            Status::StreamEnd => return Plain::Ends,
            _ if used < piece.len() as u64 => return Plain::Broken,
            _ => {}
        }
    }
    Plain::Broken
}

/// Negotiates with arbitrary header lines and configurations, on both sides.
pub(crate) fn extensions(data: &[u8]) {
    let [mode, server, client, text @ ..] = data else { return };
    let bits = |byte: u8| 9 + byte % 7;
    let mode = if mode & 1 == 0 { DeflateMode::Shared } else { DeflateMode::Dedicated };
    let config =
        Deflate::new(mode).server_max_window_bits(bits(*server)).client_max_window_bits(bits(*client));
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok());
    let mut headers = HeaderMap::new();
    for line in lines.take(50) {
        headers.append(SEC_WEBSOCKET_EXTENSIONS, line);
    }
    if let Some((agreed, response)) = negotiation::accept(&headers, &config) {
        assert!(agreed.server.bits <= config.server_bits());
        assert!(!agreed.client.takeover || agreed.client.bits <= config.client_bits());
        assert!((8..=15).contains(&agreed.server.bits) && (8..=15).contains(&agreed.client.bits));
        // A client with the most permissive configuration takes the response to mean the same.
        let ample =
            Deflate::new(DeflateMode::Dedicated).server_max_window_bits(15).client_max_window_bits(15);
        let response = HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, response)]);
        let confirmed = negotiation::confirm(&response, &ample);
        let confirmed = confirmed.expect("it fits the offer").expect("it is no refusal");
        assert_eq!(confirmed.client, agreed.client);
        assert_eq!(confirmed.server.takeover, agreed.server.takeover);
        // The server may use a smaller window than the client knows.
        assert!(confirmed.server.bits >= agreed.server.bits);
    }
    if let Ok(Some(agreed)) = negotiation::confirm(&headers, &config) {
        assert!(agreed.server.bits <= config.server_bits() && agreed.client.bits <= config.client_bits());
        assert!(!agreed.server.takeover || config.server_takeover());
        assert!(!agreed.client.takeover || config.client_takeover());
    }
}
