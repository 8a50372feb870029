//! Compared with plain flate2: one stream per direction, without loading contexts.

pub(crate) mod fuzz;

use std::time::Duration;

use super::*;
use crate::{
    config::compression::DeflateMode, message::Kind, outbox::prepared::Prepared, util::test_rng::Rng,
};

/// A codec with this configuration.
fn codec(config: Deflate) -> Codec {
    Codec::new(&Config {
        deflate: Some(config),
        ping_interval: Some(Duration::from_secs(1)),
        ..Config::default()
    })
}

fn way(bits: u8, takeover: bool) -> Way {
    Way { bits, takeover }
}

/// The peer, implemented with flate2 alone.
struct Other {
    inflater: Decompress,
    compressor: Compress,
    /// The parameters of the messages that this peer sends.
    takeover: Way,
}

impl Other {
    fn new(level: u32, theirs: Way, ours: Way) -> Self {
        assert!(ours.bits >= 9, "flate2 has no smaller window");
        Other {
            inflater: Decompress::new_with_window_bits(false, ours.bits),
            compressor: Compress::new_with_window_bits(Compression::new(level), false, theirs.bits),
            takeover: theirs,
        }
    }

    fn inflate(&mut self, payload: &[u8], takeover: bool) -> Vec<u8> {
        if !takeover {
            self.inflater.reset(false);
        }
        let mut out = Vec::new();
        for input in [payload, &TAIL] {
            let mut used = 0;
            loop {
                // A small output buffer, so that references must come from the window.
                let (len, before) = (out.len(), self.inflater.total_in());
                let mut room = [0; 61];
                let given = self.inflater.total_out();
                let status =
                    self.inflater.decompress(&input[used..], &mut room, FlushDecompress::Sync).unwrap();
                used += (self.inflater.total_in() - before) as usize;
                out.extend_from_slice(&room[..(self.inflater.total_out() - given) as usize]);
                assert_ne!(status, Status::StreamEnd);
                if used == input.len() && out.len() - len < room.len() {
                    break;
                }
            }
        }
        out
    }

    /// Compresses a message into one block or several.
    fn compress(&mut self, message: &[u8], rng: &mut Rng) -> Vec<u8> {
        if !self.takeover.takeover {
            self.compressor.reset();
        }
        let mut out = Vec::new();
        let mut rest = message;
        loop {
            let (now, later) =
                rest.split_at(if rng.one_in(2) { rest.len() } else { rng.below(rest.len() + 1) });
            let last = later.is_empty();
            let flush = if last {
                FlushCompress::Sync
            } else {
                rng.pick(&[FlushCompress::Sync, FlushCompress::Full])
            };
            out.reserve(2 * now.len() + 100);
            self.compressor.compress_vec(now, &mut out, flush).unwrap();
            rest = later;
            if last {
                break;
            }
        }
        assert!(out.ends_with(&TAIL) || message.is_empty());
        if !out.ends_with(&TAIL) {
            // zlib writes nothing for a second flush without input.
            return vec![0];
        }
        out.truncate(out.len() - TAIL.len());
        out
    }
}

/// A message that compresses well or not at all, and sometimes repeats an earlier one.
fn message(rng: &mut Rng, before: &[Vec<u8>]) -> Vec<u8> {
    let len = rng.pick(&[0, 1, 2, 60, 300, 5_000, 40_000]);
    let len = rng.below(len + 1);
    match rng.below(5) {
        0 => rng.bytes(len),
        1 => vec![b'a'; len],
        2 if !before.is_empty() => before[rng.below(before.len())].clone(),
        _ => (0..len).map(|at| b"{\"type\":\"grand\",\"at\":[}"[(at + rng.below(4)) % 23]).collect(),
    }
}

#[test]
fn plain_flate2_reads_our_messages_and_we_read_its() {
    let mut rng = Rng::new(3);
    let compressed: usize = (0..150).map(|_| talk(&mut rng)).sum();
    assert!(compressed > 1_000, "{compressed}");
}

/// Exchanges messages with flate2 on several connections. Returns how many of ours were compressed.
pub(super) fn talk(rng: &mut Rng) -> usize {
    let mut compressed = 0;
    let (ours, theirs) =
        (way(rng.pick(&[9, 10, 12, 15]), rng.one_in(2)), way(rng.pick(&[9, 10, 12, 15]), rng.one_in(2)));
    let level = 1 + rng.below(9) as u32;
    let mut codec = codec(Deflate::default().level(level).threshold(rng.pick(&[1, 100])));
    // The connections take turns at one codec.
    let mut pairs: Vec<_> =
        (0..3).map(|_| (codec.open(ours, theirs), Other::new(1 + level % 9, theirs, ours))).collect();
    let mut before = Vec::new();
    for _ in 0..30 {
        if rng.is_spent() {
            break;
        }
        let (connection, other) = &mut pairs[rng.below(3)];
        let sent = message(rng, &before);
        let ahead = rng.one_in(5);
        if rng.one_in(6) {
            // Compressed without a context, for all clients.
            let prepared = Prepared::new(&sent);
            if let Some(form) = prepared.compressed(connection.bits(), &mut codec) {
                connection.note(&mut codec, &sent);
                assert_eq!(other.inflate(form.payload(), ours.takeover), sent);
            }
            continue;
        }
        if let Some(payload) = connection.compress(&mut codec, &sent, ahead) {
            assert!(payload.len() < sent.len());
            assert!(!ahead || !ours.takeover);
            assert_eq!(other.inflate(payload, ours.takeover), sent, "level {level} {ours:?}");
            compressed += 1;
        }
        let received = message(rng, &before);
        let payload = other.compress(&received, rng);
        let mut out = Vec::with_capacity(rng.below(3000));
        let max = received.len() as u64 + rng.below(3) as u64;
        assert_eq!(connection.inflate(&mut codec, &payload, &mut out, max), Ok(()), "{theirs:?}");
        assert_eq!(out, received);
        before.extend([sent, received]);
        if rng.one_in(10) {
            connection.rest();
        }
        let most = [ours, theirs].iter().filter(|way| way.takeover).map(|way| 1 << way.bits).sum::<usize>();
        assert!(connection.memory() <= most);
    }
    compressed
}

#[test]
fn a_window_of_256_bytes_is_never_exceeded() {
    // A peer that keeps only the last 256 bytes can inflate every message.
    for level in Deflate::LEVELS {
        for takeover in [false, true] {
            let mut codec = codec(Deflate::default().level(level).threshold(1));
            let mut connection = codec.open(way(8, takeover), way(15, false));
            let mut rng = Rng::new(level.into());
            for _ in 0..40 {
                // The message repeats itself at a distance of 200 to 700 bytes.
                let distance = 200 + rng.below(500);
                let seed = rng.bytes(distance);
                let sent: Vec<u8> = seed.iter().copied().cycle().take(3_000).collect();
                if let Some(payload) = connection.compress(&mut codec, &sent, false) {
                    assert!(payload.len() > 1_500 || distance <= 256, "referred back by {distance}");
                }
            }
        }
    }
}

#[test]
fn an_idle_connection_keeps_only_the_received_context() {
    let mut codec = codec(Deflate::new(DeflateMode::Dedicated));
    let (ours, theirs) = (way(13, true), way(13, true));
    let (mut connection, mut other) = (codec.open(ours, theirs), Other::new(6, theirs, ours));
    assert_eq!(connection.memory(), 0, "nothing was sent yet");
    let mut rng = Rng::new(0);
    let line = "{\"a\":\"and so on and so forth\"}".repeat(20);
    for _ in 0..40 {
        let payload = connection.compress(&mut codec, line.as_bytes(), false).unwrap();
        assert_eq!(other.inflate(payload, true), line.as_bytes());
        let payload = other.compress(line.as_bytes(), &mut rng);
        connection.inflate(&mut codec, &payload, &mut Vec::new(), 1 << 20).unwrap();
    }
    assert_eq!(connection.memory(), 2 << 13);
    connection.rest();
    assert_eq!(connection.memory(), 2 << 13, "it was active");
    connection.rest();
    assert_eq!(connection.memory(), 1 << 13);
    let payload = connection.compress(&mut codec, line.as_bytes(), false).unwrap();
    assert_eq!(other.inflate(payload, true), line.as_bytes());
}

#[test]
fn a_context_makes_small_messages_smaller() {
    let line = |number: u32| {
        format!("{{\"type\":\"chat\",\"id\":{number},\"text\":\"to be or not to be, {number}\"}}")
    };
    let mut sizes = Vec::new();
    for takeover in [false, true] {
        let mut codec = codec(Deflate::default().threshold(1));
        let mut connection = codec.open(way(12, takeover), way(15, false));
        let size =
            |number| connection.compress(&mut codec, line(number).as_bytes(), false).map_or(64, <[u8]>::len);
        sizes.push((0..50).map(size).sum::<usize>());
    }
    assert!(sizes[1] * 3 < sizes[0], "{sizes:?}");
}

/// The examples of RFC 7692 §7.2.3.
#[test]
fn rfc_examples_are_inflated() {
    let mut codec = codec(Deflate::default());
    let mut connection = codec.open(way(15, false), way(15, true));
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    for (payload, what) in [
        (&hello[..], "one block"),
        (&[0xf2, 0x00, 0x11, 0x00, 0x00], "sharing the window"),
        (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], "no compression"),
        (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], "a final block"),
        (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], "a final block and nothing behind"),
        (&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], "two blocks"),
        (&[0xf2, 0x00, 0x11, 0x00, 0x00], "and the window again"),
    ] {
        let mut out = Vec::new();
        assert_eq!(connection.inflate(&mut codec, payload, &mut out, 5), Ok(()), "{what}");
        assert_eq!(out, b"Hello", "{what}");
        assert_eq!(
            connection.inflate(&mut codec, payload, &mut Vec::new(), 4),
            Err(ProtocolError::MessageTooBig { len: 5, max: 4 }),
            "{what}"
        );
    }
    // §7.2.3.6: an empty message.
    let mut out = Vec::new();
    assert_eq!((connection.inflate(&mut codec, &[0], &mut out, 0), out.len()), (Ok(()), 0));
}

#[test]
fn truncated_and_damaged_messages_are_violations() {
    let mut codec = codec(Deflate::default());
    let mut rng = Rng::new(1);
    let theirs = way(15, false);
    let mut connection = codec.open(way(15, false), theirs);
    let mut other = Other::new(6, theirs, theirs);
    let whole: Vec<u8> = (0..2_000u32).flat_map(|at| (at * at).to_le_bytes()).collect();
    let payload = other.compress(&whole, &mut Rng::new(6));
    let mut missed = 0;
    for end in 0..payload.len() {
        let mut out = Vec::new();
        match connection.inflate(&mut codec, &payload[..end], &mut out, 1 << 20) {
            // The cut lies between two blocks, or seems to.
            Ok(()) => missed += 1,
            Err(error) => assert_eq!(error, ProtocolError::CorruptDeflate),
        }
    }
    assert!(missed < 4, "{missed} of {}", payload.len());
    // An empty payload has no block that could end.
    assert_eq!(connection.inflate(&mut codec, &[], &mut Vec::new(), 9), Err(ProtocolError::CorruptDeflate));
    // Damaged input neither panics, nor exceeds the limit, nor affects the next message.
    for _ in 0..20_000 {
        let mut damaged = payload[..rng.below(payload.len().min(200))].to_vec();
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(damaged.len() + 1);
            damaged.insert(at, rng.next() as u8);
        }
        let mut out = Vec::new();
        if connection.inflate(&mut codec, &damaged, &mut out, 10_000).is_ok() {
            assert!(out.len() <= 10_000);
        }
    }
    let mut out = Vec::new();
    assert_eq!(connection.inflate(&mut codec, &payload, &mut out, 1 << 20), Ok(()));
    assert_eq!(out, whole);
}

#[test]
fn too_many_final_blocks_are_a_violation() {
    let mut codec = codec(Deflate::default());
    let mut connection = codec.open(way(15, false), way(15, true));
    // `03 00` is an empty final block.
    for (blocks, expected) in [(1, Ok(())), (8, Ok(())), (100_000, Err(ProtocolError::CorruptDeflate))] {
        let payload = [3, 0].repeat(blocks);
        assert_eq!(connection.inflate(&mut codec, &payload, &mut Vec::new(), 9), expected, "{blocks}");
    }
}

/// Tries the inputs with the longest output, and lengths beyond the sizes of zlib's buffers.
#[test]
fn incompressible_messages_are_not_compressed() {
    let mut rng = Rng::new(4);
    // Bytes above 143 have fixed codes of 9 bits (RFC 1951 §3.2.6).
    let high: Vec<u8> = rng.bytes(300_000).into_iter().map(|byte| 144 + byte % 112).collect();
    let noise = rng.bytes(300_000);
    for level in Deflate::LEVELS {
        for bits in [9, 15] {
            let mut codec = codec(Deflate::default().level(level));
            let mut connection = codec.open(way(bits, true), way(15, false));
            let mut other = Other::new(6, way(15, false), way(bits, true));
            for len in [300, 65_535, 65_536, 300_000] {
                assert_eq!(connection.compress(&mut codec, &noise[..len], false), None);
                if let Some(payload) = connection.compress(&mut codec, &high[..len], false) {
                    assert!(payload.len() < len);
                    assert!(other.inflate(payload, true) == high[..len]);
                }
                let text = "and then ".repeat(len / 9);
                let payload =
                    connection.compress(&mut codec, text.as_bytes(), false).expect("the text shrinks");
                assert!(other.inflate(payload, true) == text.as_bytes());
            }
        }
    }
}

#[test]
fn a_zip_bomb_takes_no_more_memory_than_the_limit() {
    let mut codec = codec(Deflate::default());
    let mut connection = codec.open(way(15, false), way(15, true));
    let theirs = way(15, true);
    let bomb = Other::new(9, theirs, theirs).compress(&vec![0; 64 << 20], &mut Rng::new(6));
    assert!(bomb.len() < 80_000);
    for max in [0, 1, 1_000, 1 << 20] {
        let mut out = Vec::new();
        let outcome = connection.inflate(&mut codec, &bomb, &mut out, max);
        assert!(matches!(outcome, Err(ProtocolError::MessageTooBig { .. })), "{outcome:?}");
        assert!(out.capacity() as u64 <= max + 1, "{} for {max}", out.capacity());
    }
    assert_eq!(connection.memory(), 0);
}

#[test]
fn a_prepared_message_is_compressed_once_per_window() {
    let mut codec = codec(Deflate::default());
    let text = "again and again, ".repeat(500);
    let prepared = Prepared::new(&text);
    let form = |bits, codec: &mut Codec| prepared.compressed(bits, codec).map(|form| form.frame().as_ptr());
    let first = form(15, &mut codec).unwrap();
    let other = form(9, &mut codec).unwrap();
    assert_ne!(first, other);
    assert_eq!((form(15, &mut codec), form(9, &mut codec)), (Some(first), Some(other)));
    let compressed = prepared.clone().compressed(15, &mut codec).unwrap().clone();
    assert_eq!((compressed.frame()[0], compressed.kind()), (0xc1, Kind::Text));
    let mut other = Other::new(6, way(15, false), way(15, false));
    assert_eq!(other.inflate(compressed.payload(), false), text.as_bytes());
    assert!(Prepared::new("too short").compressed(15, &mut codec).is_none());
    let noise = Rng::new(0).bytes(5_000);
    assert!(Prepared::new(&noise).compressed(15, &mut codec).is_none());
    assert!(prepared.compressed(7, &mut codec).is_none() && prepared.compressed(16, &mut codec).is_none());
}
