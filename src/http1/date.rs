//! The `Date` field (RFC 9110 §6.6.1).

use std::time::{Duration, Instant, SystemTime};

/// The value of `Date`, which is written anew once a second.
#[derive(Debug, Default)]
pub(crate) struct DateValue {
    text: String,
    /// The end of the second that `text` names.
    until: Option<Instant>,
}

impl DateValue {
    /// The value as of the last `at`; empty before.
    pub(crate) fn value(&self) -> &str {
        &self.text
    }

    /// The value at `now`. `wall_clock` gives the time since 1970-01-01 UTC.
    pub(crate) fn at(&mut self, now: Instant, wall_clock: impl FnOnce() -> Duration) -> &str {
        if self.until.is_none_or(|until| now >= until) {
            let elapsed = wall_clock();
            let rest =
                Duration::from_secs(1).saturating_sub(Duration::from_nanos(elapsed.subsec_nanos().into()));
            self.until = now.checked_add(rest);
            self.text.clear();
            if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(elapsed).filter(|_| elapsed < YEAR_10000) {
                self.text = httpdate::fmt_http_date(time);
            }
        }
        &self.text
    }
}

/// The year has four digits in the format (RFC 9110 §5.6.7). After that there is no `Date`.
const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_read_once_a_second() {
        let mut date = DateValue::default();
        let start = Instant::now();
        let first = Duration::new(784_111_777, 900_000_000);
        assert_eq!(date.at(start, || first), "Sun, 06 Nov 1994 08:49:37 GMT");
        let soon = start + Duration::from_millis(99);
        assert_eq!(date.at(soon, || unreachable!()), "Sun, 06 Nov 1994 08:49:37 GMT");
        let next = start + Duration::from_millis(100);
        assert_eq!(date.at(next, || first + Duration::from_millis(100)), "Sun, 06 Nov 1994 08:49:38 GMT");
        // A clock that was set back is right again after a second.
        let later = start + Duration::from_millis(1_100);
        assert_eq!(date.at(later, || Duration::ZERO), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date.at(start + Duration::from_secs(9), || YEAR_10000), "");
        assert_eq!(date.at(start + Duration::from_secs(19), || Duration::MAX), "");
    }
}
