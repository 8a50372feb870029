//! A `Duration` in half the memory.

use std::{num::NonZeroU64, time::Duration};

/// A `Duration` of up to 584 years in eight bytes, also as an `Option`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedDuration(NonZeroU64);

impl PackedDuration {
    /// Packs a duration. One that is too long becomes the longest.
    pub(crate) fn new(span: Duration) -> PackedDuration {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        PackedDuration(NonZeroU64::MIN.saturating_add(nanos))
    }

    pub(crate) fn get(self) -> Duration {
        Duration::from_nanos(self.0.get() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip_and_saturate() {
        for span in [0, 1, 999_999_999, u64::MAX - 1].map(Duration::from_nanos) {
            assert_eq!(PackedDuration::new(span).get(), span);
        }
        let longest = PackedDuration::new(Duration::from_nanos(u64::MAX - 1));
        assert_eq!(PackedDuration::new(Duration::MAX), longest);
        assert_eq!(size_of::<Option<PackedDuration>>(), 8);
    }
}
