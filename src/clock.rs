//! Wall-clock time, handed to whoever needs it so that tests can set it.

use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// A source of the current time in milliseconds since the Unix epoch.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(|| {
            #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
            let now = std::time::SystemTime::now();
            epoch_ms(now)
        })
    }

    /// A clock that a test controls.
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

/// A file time or other instant in epoch milliseconds; 0 for anything before 1970.
#[must_use]
pub fn epoch_ms(time: std::time::SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// An instant as JavaScript has it, in epoch milliseconds; `None` for a number that is no instant there.
#[must_use]
pub fn instant_from_number(number: f64) -> Option<u64> {
    const MAX_INSTANT: f64 = 8.64e15;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    (0.0..=MAX_INSTANT).contains(&number).then_some(number as u64)
}
