//! Runs a test with many seeds and prints the command that repeats a failure.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    thread,
};

/// Calls `world` with the seeds below `count`. If it panics, prints the command that repeats the
/// failure.
///
/// With `TICKWS_SIM_SEEDS=100000` in the environment that many seeds are tried instead, and with
/// `TICKWS_SIM_SEED=17` only that one.
///
/// # Panics
///
/// If `world` panics; no further seed is tried.
///
/// # Examples
///
/// ```
/// use tickws::{Server, sim::{Sim, Weather, for_each_seed}};
///
/// for_each_seed(20, |seed| {
///     let sim = Sim::with_weather(seed, Weather::foul());
///     let mut server = sim.server(Server::builder()).unwrap();
///     // ... a game, and what must hold of it
///     assert!(server.poll_once().unwrap().is_empty());
/// });
/// ```
pub fn for_each_seed(count: u64, world: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("TICKWS_SIM_SEED") {
        Some(seed) => seed..seed.saturating_add(1),
        None => 0..number("TICKWS_SIM_SEEDS").unwrap_or(count),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| world(seed))) {
            // The test harness names its threads after the tests.
            let current = thread::current();
            let test = current.name().filter(|name| *name != "main").unwrap_or_default();
            eprintln!("repeat with: TICKWS_SIM_SEED={seed} cargo test --all-features {test}");
            resume_unwind(panic);
        }
    }
}
