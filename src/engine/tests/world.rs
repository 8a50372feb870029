//! The loop that all random worlds share, and the seeds with which they run.

use super::*;
use crate::net::sim::seeds;

/// Runs `world`, which returns a digest of all events, with seeds of one parity.
pub(super) fn run(parity: u64, default: u64, world: impl Fn(u64) -> u64) {
    seeds::run(default, (parity, 2), |seed| {
        let hash = world(seed);
        // The same seed must give the same events and bytes.
        assert!(seed % 20 > 1 || world(seed) == hash, "not deterministic");
    });
}

/// An engine with random peers and a random application, and a model of both.
pub(super) trait RandomWorld: Sized {
    /// Polls after which a world must have come to the state that a test waits for.
    const PATIENCE: usize = 60_000;

    fn host(&mut self) -> &mut Host;

    /// Random actions of the peers and of the application.
    fn act(&mut self);

    /// Runs one poll, and compares its events with the model.
    fn step(&mut self);

    /// The time that passes before the next actions.
    fn pause(&mut self) -> Duration;

    /// Lets everything arrive, and checks that nothing is missing.
    fn settle(&mut self);

    /// Ends all connections, and checks that nothing is left.
    fn finish(&mut self);

    /// A digest of all events and bytes.
    fn digest(&self) -> u64;

    /// Helps a world that only waits to make progress, before each poll.
    fn wait(&mut self) {}

    /// Runs the world, and returns its digest.
    fn play(mut self, rounds: usize) -> u64 {
        for _ in 0..rounds {
            self.act();
            self.step();
            let pause = self.pause();
            self.host().advance(pause);
        }
        self.settle();
        self.finish();
        self.digest()
    }

    /// Polls until `done`.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..Self::PATIENCE {
            self.wait();
            self.step();
            if done(self) {
                return;
            }
        }
        panic!("never {what}: {:?}", self.host());
    }
}
