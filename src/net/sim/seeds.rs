//! Runs a test with many seeds and prints the command that repeats a failure.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    thread,
};

/// Runs `world` with the first `count` seeds whose remainder modulo `class.1` is `class.0`. The
/// environment may set another count (`TICKWS_SIM_SEEDS`) or one seed (`TICKWS_SIM_SEED`).
pub(crate) fn run(count: u64, class: (u64, u64), world: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("TICKWS_SIM_SEED") {
        Some(seed) => seed..seed.saturating_add(1),
        None => 0..class.1 * number("TICKWS_SIM_SEEDS").unwrap_or(count),
    };
    for seed in seeds.filter(|seed| seed % class.1 == class.0) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| world(seed))) {
            // The test harness names each thread after its test.
            let current = thread::current();
            let test = current.name().filter(|name| *name != "main").unwrap_or_default();
            eprintln!("repeat with: TICKWS_SIM_SEED={seed} cargo test --all-features {test}");
            resume_unwind(panic);
        }
    }
}
