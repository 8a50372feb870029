//! Arithmetic of deadlines that cannot overflow.

use std::time::{Duration, Instant};

/// Adds `delay` to `start`, or a century if the sum does not fit an `Instant`.
pub(crate) fn after(start: Instant, delay: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    start.checked_add(delay).or_else(|| start.checked_add(CENTURY)).unwrap_or(start)
}
