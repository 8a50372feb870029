//! Forged tapes: whatever stands on one, its replay ends, with an error or without.

use std::{io::Cursor, time::Instant};

use super::*;
use crate::{config::Config, engine::hooks::Services};

/// A file of these blocks, with digests that fit.
fn file(blocks: &[&[u8]]) -> Vec<u8> {
    let mut file = [MAGIC, &[VERSION]].concat();
    for block in blocks {
        let mut digest = Fnv::new();
        digest.add(block);
        file.extend((block.len() as u32).to_le_bytes());
        file.extend(digest.value().to_le_bytes());
        file.extend_from_slice(block);
    }
    file
}

/// Of a server that asks its application about everything.
fn head() -> Vec<u8> {
    let config = Config { http: true, keep_requests: true, ..Config::default() };
    let mut head = Head::new(&config, &Services::default());
    head.on_upgrade = true;
    let mut bytes = Vec::new();
    head.put(&mut bytes);
    bytes
}

/// The first byte says what the others are: a file, what stands in its one block, or entries behind a head.
pub(crate) fn target(data: &[u8]) {
    let Some((form, data)) = data.split_first() else { return };
    let tape = match form % 3 {
        0 => data.to_vec(),
        1 => file(&[data]),
        _ => file(&[&head(), data]),
    };
    replay(&tape, false);
    // What is behind a difference, no user sees. It is there for the engine to be tried with.
    replay(&tape, true);
}

fn replay(tape: &[u8], goes_on: bool) {
    let Ok(mut player) = Player::new(Box::new(Cursor::new(tape.to_vec())), Instant::now()) else { return };
    // Each call reads an entry, and no entry is shorter than a byte.
    for _ in 0..=tape.len() {
        match player.next_tick() {
            Ok(Some(tick)) => assert!(tick.iter().count() == tick.len()),
            Err(ReplayError::Diverged(_)) if goes_on => {}
            Ok(None) | Err(_) => return,
        }
    }
    panic!("a replay without an end");
}

#[test]
fn a_prepared_message_has_its_number_for_as_long_as_it_can_be_sent() {
    let mut numbers = Numbers::default();
    let kept: Vec<_> = (0..5).map(|_| Prepared::new("kept")).collect();
    let first: Vec<_> = kept.iter().map(|message| numbers.of(message)).collect();
    assert_eq!(first, [(1, false), (2, false), (3, false), (4, false), (5, false)]);
    let mut gone = Vec::new();
    for number in 6..=1_000 {
        // At the place of the one before, if that were free.
        let message = Prepared::new("dropped");
        assert_eq!((numbers.of(&message), numbers.of(&message.clone())), ((number, false), (number, true)));
        gone.extend(numbers.take_gone());
        assert!(numbers.by_place.len() < 100);
    }
    let last = gone.iter().copied().max();
    assert!(gone.len() > 900 && gone.is_sorted() && gone[0] == 6, "{last:?}");
    assert_eq!(kept.iter().map(|message| numbers.of(message).0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}
