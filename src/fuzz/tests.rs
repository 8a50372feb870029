//! Runs each fuzz target with its seeds, with mutated seeds, and with random bytes.
//!
//! `TICKWS_FUZZ_INPUTS=1000000 cargo test --lib fuzz` tries more; a failure prints its input.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
};

use super::*;
use crate::util::test_rng::Rng;

/// Mutated inputs per target.
const INPUTS: u64 = 2_000;
/// Of `outbox`, whose model takes a tenth of a second for each without optimisation.
const OUTBOX_INPUTS: u64 = 200;
/// The largest input in bytes, small enough that targets read most of it.
const MOST: usize = 2_048;

/// The seed files of a target. Empty in the published package, which lacks the folder.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    if !all.exists() {
        return Vec::new();
    }
    let mut paths: Vec<_> =
        fs::read_dir(all.join(name)).expect("seeds").map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{name} has no seeds");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn run(name: &str, target: Target, data: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(data))) {
        eprintln!("{name} failed with: b\"{}\"", data.escape_ascii());
        resume_unwind(panic);
    }
}

/// Makes a mutated seed, a combination of two seeds, or random bytes.
fn changed(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let noise = rng.below(64);
    if seeds.is_empty() || rng.one_in(8) {
        return rng.bytes(8 * noise);
    }
    let mut data = seeds[rng.below(seeds.len())].clone();
    if rng.one_in(4) {
        let other = &seeds[rng.below(seeds.len())];
        data.truncate(rng.below(data.len() + 1));
        data.extend_from_slice(&other[rng.below(other.len() + 1)..]);
    }
    for _ in 0..rng.below(6) {
        let at = rng.below(data.len() + 1);
        let until = (at + rng.below(16)).min(data.len());
        match rng.below(5) {
            0 if at < data.len() => data[at] = rng.next() as u8,
            1 if at < data.len() => data[at] ^= 1 << rng.below(8),
            2 => drop(data.drain(at..until)),
            3 => data.extend_from_within(at..until),
            _ => drop(data.splice(at..at, rng.bytes(until - at))),
        }
    }
    data.truncate(MOST);
    data
}

fn try_out(name: &str) {
    let &(_, target) = TARGETS.iter().find(|target| target.0 == name).expect(name);
    let seeds = seeds(name);
    run(name, target, b"");
    seeds.iter().for_each(|seed| run(name, target, seed));
    let inputs = std::env::var("TICKWS_FUZZ_INPUTS").ok().and_then(|inputs| inputs.parse().ok());
    let few = if name == "outbox" { OUTBOX_INPUTS } else { INPUTS };
    for number in 0..inputs.unwrap_or(few) {
        run(name, target, &changed(&seeds, &mut Rng::new(number)));
    }
}

/// Declares one test per target, so that they run in parallel.
macro_rules! each {
    ($($(#[$only:meta])* $name:ident)*) => {
        $($(#[$only])* #[test] fn $name() { try_out(stringify!($name)); })*

        #[test]
        fn every_target_has_a_test() {
            let tried = [$($(#[$only])* stringify!($name)),*];
            assert!(TARGETS.iter().map(|target| target.0).eq(tried));
        }
    };
}

each! {
    frames_to_server
    frames_to_client
    frames_flawed
    frames_sent
    #[cfg(feature = "deflate")] frames_compressed
    #[cfg(feature = "deflate")] inflate
    #[cfg(feature = "deflate")] deflate
    #[cfg(feature = "deflate")] extensions
    request
    response
    http
    proxy_header
    forwarded
    origin
    url
    #[cfg(unix)] path
    outbox
    wheel
    rooms
    #[cfg(feature = "sim")] recording
    #[cfg(all(feature = "tls", unix))] tls
}
