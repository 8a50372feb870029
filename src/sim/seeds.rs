//! Runs a test with many seeds and prints the command that repeats a failure.

use crate::net::sim::seeds;

/// Calls `world` with the seeds below `count`. If it panics, prints the command that repeats the
/// failure.
///
/// `TICKWS_SIM_SEEDS=100000` in the environment replaces `count`. `TICKWS_SIM_SEED=17` runs only
/// that seed.
///
/// # Panics
///
/// If `world` panics. No further seed is run.
///
/// # Examples
///
/// ```
/// use tickws::{Server, sim::{Sim, NetworkConditions, for_each_seed}};
///
/// for_each_seed(20, |seed| {
///     let sim = Sim::with_conditions(seed, NetworkConditions::foul());
///     let mut server = sim.server(Server::builder()).unwrap();
///     // ... a game and its assertions
///     assert!(server.poll_once().unwrap().is_empty());
/// });
/// ```
pub fn for_each_seed(count: u64, world: impl Fn(u64)) {
    seeds::run(count, (0, 1), world);
}
