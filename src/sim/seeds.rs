//! Runs a test with many seeds and prints the command that repeats a failure.

use crate::net::sim::seeds;

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
    seeds::run(count, (0, 1), world);
}
