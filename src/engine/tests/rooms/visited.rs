//! The situations that the sequences of the room model have reached.

use std::collections::BTreeMap;

/// Counts of the situations that the sequences have reached.
#[derive(Debug, Default)]
pub(super) struct Visited {
    pub(super) stale_rooms: usize,
    pub(super) stale_clients: usize,
    pub(super) joined_while_leaving: usize,
    pub(super) slots_used_again: usize,
    pub(super) queued: usize,
    pub(super) dropped: usize,
    pub(super) overflowed: usize,
    pub(super) not_open: usize,
    pub(super) refused: [usize; 4],
    pub(super) reasons: BTreeMap<&'static str, usize>,
}

impl Visited {
    /// Asserts that every situation was reached.
    pub(super) fn check(&self) {
        let Visited { stale_rooms, stale_clients, joined_while_leaving, slots_used_again, refused, .. } =
            self;
        let visits = [*stale_rooms, *stale_clients, *joined_while_leaving, *slots_used_again];
        let deliveries = [self.queued, self.dropped, self.overflowed, self.not_open];
        let all = visits.iter().chain(&deliveries).chain(refused).chain(self.reasons.values());
        assert!(all.clone().all(|count| *count > 0) && self.reasons.len() >= 7, "{self:?}");
    }
}
