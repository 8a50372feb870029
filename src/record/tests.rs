//! Forged recordings: whatever they hold, the replay ends, with an error or without.

use std::{io::Cursor, time::Instant};

use super::{
    ReplayError, Replayer,
    format::{
        block,
        codec::Encode,
        header::{Header, MAGIC, VERSION},
    },
};
use crate::{config::Config, engine::hooks::Hooks};

/// A recording of these blocks, with digests that match.
fn file(blocks: &[&[u8]]) -> Vec<u8> {
    let mut file = [MAGIC, &[VERSION]].concat();
    for block in blocks {
        file.extend(block::prefix(block).expect("a block is short"));
        file.extend_from_slice(block);
    }
    file
}

/// The header of a server that has its application decide everything.
fn header() -> Vec<u8> {
    let config = Config { http: true, keep_requests: true, ..Config::default() };
    let mut header = Header::new(&config, &Hooks::default());
    header.on_upgrade = true;
    let mut bytes = Vec::new();
    header.put(&mut bytes);
    bytes
}

/// The first byte says what the others are: a file, the content of its one block, or entries that
/// follow a valid header.
fn recording(data: &[u8]) -> Option<Vec<u8>> {
    let (form, data) = data.split_first()?;
    Some(match form % 3 {
        0 => data.to_vec(),
        1 => file(&[data]),
        _ => file(&[&header(), data]),
    })
}

pub(crate) fn target(data: &[u8]) {
    let Some(recording) = recording(data) else { return };
    replay(&recording, false);
    // Users never see what follows a divergence. It is replayed to try out the engine.
    replay(&recording, true);
}

/// Gives the number of the calls of `next_tick`.
fn replay(recording: &[u8], past_divergence: bool) -> usize {
    let Ok(mut replayer) = Replayer::new(Box::new(Cursor::new(recording.to_vec())), Instant::now()) else {
        return 0;
    };
    // Each call reads an entry, and no entry is shorter than a byte.
    for calls in 1..=recording.len() + 1 {
        match replayer.next_tick() {
            Ok(Some(tick)) => assert!(tick.iter().count() == tick.len()),
            Err(ReplayError::Diverged(_)) if past_divergence => {}
            Ok(None) | Err(_) => return calls,
        }
    }
    panic!("the replay does not end");
}

/// The seeds of the fuzz target have to follow the format: with an outdated header or outdated
/// entries they would try out nothing.
#[cfg(test)]
#[test]
fn fuzz_seeds_reach_the_engine() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/recording");
    // The published package lacks the folder.
    let Ok(seeds) = std::fs::read_dir(seeds) else { return };
    for seed in seeds {
        let path = seed.unwrap().path();
        let recording = recording(&std::fs::read(&path).unwrap()).unwrap();
        // A damaged entry ends a seed, but each has a tick or a divergence before.
        assert!(replay(&recording, true) > 1, "{}", path.display());
    }
}
