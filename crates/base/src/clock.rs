//! Wall-clock time, passed in so that tests can set it.

use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// The last instant that JavaScript can represent, in epoch milliseconds. Expiry time of keys.
pub const NEVER: u64 = 8_640_000_000_000_000;

/// Milliseconds of a day.
pub const DAY_MS: u64 = 86_400_000;

/// A source of the current time in milliseconds since the Unix epoch.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// Reads the system clock.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(|| {
            #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
            let now = std::time::SystemTime::now();
            epoch_ms(now)
        })
    }

    /// Reads the time from a function, for tests.
    pub fn from_fn(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_ms))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Converts a time to epoch milliseconds; 0 for a time before 1970.
#[must_use]
pub fn epoch_ms(time: std::time::SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Converts a JavaScript time in epoch milliseconds; `None` if the number is out of JavaScript's range.
#[must_use]
pub fn instant_from_number(number: f64) -> Option<u64> {
    const MAX_INSTANT: f64 = 8.64e15;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    (0.0..=MAX_INSTANT).contains(&number).then_some(number as u64)
}

/// Formats epoch milliseconds as ISO 8601 in UTC: `2026-04-15T08:30:00.000Z`.
#[must_use]
pub fn iso_time(epoch_ms: u64) -> String {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // Counting days from 1 March of the year 0 puts the leap day at the end of the year.
    let days = epoch_ms / DAY_MS + 719_468;
    let (cycle, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day + 2) / 153;
    let day = day - (153 * march_month + 2) / 5 + 1;
    let (month, in_new_year) = if march_month < 10 { (march_month + 3, 0) } else { (march_month - 9, 1) };
    let year = cycle * 400 + year + in_new_year;
    let ms = epoch_ms % DAY_MS;
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn leap_days_and_ends_of_years() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(iso_time(ms), expected);
        }
        assert!(iso_time(u64::MAX).ends_with('Z'));
    }

    proptest! {
        #[test]
        fn iso_time_agrees_with_httpdate(ms in 0..253_402_300_800_000_u64) {
            let other = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(ms));
            let [_, day, month, year, time, _] = other.split(' ').collect::<Vec<_>>()[..] else { panic!("{other}") };
            let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
            let month = months.iter().position(|name| *name == month).unwrap() + 1;
            prop_assert_eq!(iso_time(ms), format!("{year}-{month:02}-{day}T{time}.{:03}Z", ms % 1000));
        }
    }
}
