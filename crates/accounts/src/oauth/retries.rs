//! Retries of a refresh that got no verdict. Pure.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use qwen_base::Error;

/// Longest `Retry-After` that is waited for. A longer one ends the retries.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Delays of up to two retries.
#[derive(Debug)]
pub struct RefreshRetries {
    delays: ExponentialBackoff,
    replays_left: u32,
}

impl RefreshRetries {
    /// `replays` limits how often a request is sent again after its answer was lost, since its refresh token may be
    /// spent.
    pub fn new(replays: u32) -> Self {
        let delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(300))
            .with_factor(3.0)
            .with_max_times(2)
            .with_jitter()
            .build();
        Self { delays, replays_left: replays }
    }

    /// Returns the delay before the next try; `None` to give up.
    pub fn next_delay(&mut self, cause: &Error, in_doubt: bool) -> Option<Duration> {
        if in_doubt {
            self.replays_left = self.replays_left.checked_sub(1)?;
        }
        let delay = self.delays.next()?;
        match cause.retry_after_ms().map(Duration::from_millis) {
            Some(asked) if asked > LONGEST_WAIT => None,
            Some(asked) => Some(asked.max(delay)),
            None => Some(delay),
        }
    }
}

#[cfg(test)]
mod tests {
    use qwen_base::Code;

    use super::*;

    fn cause() -> Error {
        Error::new(Code::Network, "reset")
    }

    #[test]
    fn two_retries_and_no_more() {
        let mut retries = RefreshRetries::new(9);
        assert!(retries.next_delay(&cause(), false).is_some());
        assert!(retries.next_delay(&cause(), true).is_some());
        assert!(retries.next_delay(&cause(), false).is_none());
    }

    #[test]
    fn a_lost_answer_is_replayed_once() {
        let mut retries = RefreshRetries::new(1);
        assert!(retries.next_delay(&cause(), true).is_some());
        assert!(retries.next_delay(&cause(), true).is_none());
    }

    #[test]
    fn a_retry_after_delays_or_ends_the_retries() {
        let asked = |ms| cause().with_retry_after_ms(Some(ms));
        assert!(RefreshRetries::new(1).next_delay(&asked(2_000), false).unwrap() >= Duration::from_secs(2));
        assert!(RefreshRetries::new(1).next_delay(&asked(60_000), false).is_none());
    }
}
