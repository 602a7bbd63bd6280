//! Cooldowns of accounts. Pure.

use qwen_base::{Code, DAY_MS};
use serde::{Deserialize, Serialize};

use super::fields::read_instant;

/// Longest believable cooldown. No quota window of Qwen is longer than a month.
const LONGEST_COOLDOWN_MS: u64 = 32 * 24 * 3600 * 1000;

const HOUR_MS: u64 = 3600 * 1000;

/// The part of a plan's quota that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaWindow {
    /// Five hours: rolling for a Coding Plan, from the first call for a Token Plan.
    FiveHours,
    /// Seven days from the first call (Token Plan).
    SevenDays,
    /// A week that ends on Monday 00:00 UTC+8 (Coding Plan).
    Week,
    /// A month that ends on the subscription's day (Coding Plan).
    Month,
}

impl QuotaWindow {
    /// All windows.
    pub const ALL: [Self; 4] = [Self::FiveHours, Self::SevenDays, Self::Week, Self::Month];

    /// Name in the store and in messages ("5-hour quota").
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FiveHours => "5-hour",
            Self::SevenDays => "7-day",
            Self::Week => "weekly",
            Self::Month => "monthly",
        }
    }

    /// Reads the name, also in the form of earlier versions.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "hour" => Some(Self::FiveHours),
            "week" => Some(Self::Week),
            "month" => Some(Self::Month),
            _ => Self::ALL.into_iter().find(|window| window.as_str() == name),
        }
    }

    /// Longest time until the window ends, in milliseconds.
    #[must_use]
    pub const fn length_ms(self) -> u64 {
        match self {
            Self::FiveHours => 5 * HOUR_MS,
            Self::SevenDays | Self::Week => 7 * DAY_MS,
            Self::Month => 31 * DAY_MS,
        }
    }
}

/// Reason of a cooldown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoolingReason {
    /// The quota is used up.
    Quota,
    /// The account was asked too often.
    RateLimit,
    /// The account may use no more tokens for a time that the server doesn't give. The pause grows with each refusal.
    TokenLimit,
    /// The account is not paid for.
    Payment,
}

impl CoolingReason {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Quota, Self::RateLimit, Self::TokenLimit, Self::Payment];

    /// Name in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::RateLimit => "rate-limit",
            Self::TokenLimit => "token-limit",
            Self::Payment => "payment",
        }
    }

    /// The error code of this package.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Quota => Code::QuotaExhausted,
            Self::RateLimit | Self::TokenLimit => Code::RateLimited,
            Self::Payment => Code::PaymentRequired,
        }
    }

    /// The code that Qwen's servers use. It stands in for a missing one.
    #[must_use]
    pub const fn servers_code(self) -> &'static str {
        match self {
            Self::Quota => "insufficient_quota",
            Self::RateLimit | Self::TokenLimit => "rate_limit_exceeded",
            Self::Payment => "Arrearage",
        }
    }

    /// Reads the name. The original plugin writes none, and has cooldowns for quotas only.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name).unwrap_or(Self::Quota)
    }
}

/// A cooldown: no request is sent with the account until its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cooldown {
    /// The end, in epoch milliseconds.
    pub until: u64,
    /// Reason of the cooldown.
    pub reason: CoolingReason,
    /// Code of the server's error.
    pub code: String,
    /// The quota window that is used up, if the server names it.
    pub window: Option<QuotaWindow>,
}

/// A pause of a key that has used up its tokens per minute. Each pause is longer than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Start of the pause, in epoch milliseconds.
    #[serde(rename = "at", deserialize_with = "read_instant")]
    pub started_at: u64,
    /// Length of the pause, in milliseconds.
    #[serde(rename = "ms", deserialize_with = "read_instant")]
    pub length_ms: u64,
}

impl Pause {
    /// Length of the first pause. Each of the next ones is twice as long.
    const FIRST_MS: u64 = 60_000;

    /// Returns the pause after a refusal at `now_ms`. `asked_at` is the time of the first try of the refused request.
    /// If that is before the start of `previous`, `previous` is returned: refusals of requests that were under way
    /// count once. A pause is not longer than `longest_ms`, even if the server's `Retry-After` is.
    #[must_use]
    pub fn after(
        previous: Option<Self>,
        asked_at: u64,
        retry_after_ms: Option<u64>,
        longest_ms: u64,
        now_ms: u64,
    ) -> Self {
        let grown = match previous {
            Some(pause) if asked_at <= pause.started_at && pause.started_at <= now_ms => return pause,
            Some(pause) => pause.length_ms.saturating_mul(2),
            None => Self::FIRST_MS,
        };
        let length_ms = exhausted_until(0, grown, retry_after_ms).min(longest_ms);
        Self { started_at: now_ms, length_ms }
    }

    /// The end, in epoch milliseconds.
    #[must_use]
    pub const fn ends_at(self) -> u64 {
        self.started_at.saturating_add(self.length_ms)
    }
}

/// Shortest cooldown for a used-up quota, in milliseconds. The end of a month is unknown, so the account is tried once a day.
/// Other windows use the configured cooldown, `otherwise_ms`.
#[must_use]
pub fn least_cooldown_ms(window: Option<QuotaWindow>, otherwise_ms: u64) -> u64 {
    if window == Some(QuotaWindow::Month) { DAY_MS } else { otherwise_ms }
}

/// End of a cooldown that starts at `now_ms`: the configured length, or the server's `Retry-After` if that is longer.
#[must_use]
pub fn exhausted_until(now_ms: u64, cooldown_ms: u64, retry_after_ms: Option<u64>) -> u64 {
    let wait = cooldown_ms.max(retry_after_ms.unwrap_or(0)).min(LONGEST_COOLDOWN_MS);
    now_ms.saturating_add(wait)
}

/// Returns the end of a cooldown that is under way. An end in the far future is a mistake, and is ignored.
pub fn cooling_until(exhausted_until: u64, now_ms: u64) -> Option<u64> {
    let left = exhausted_until.checked_sub(now_ms).filter(|left| *left > 0)?;
    (left <= LONGEST_COOLDOWN_MS).then_some(exhausted_until)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_monthly_quota_is_tried_daily_and_others_after_the_cooldown() {
        for (window, least) in [
            (Some(QuotaWindow::FiveHours), 9),
            (Some(QuotaWindow::Week), 9),
            (Some(QuotaWindow::Month), DAY_MS),
            (None, 9),
        ] {
            assert_eq!(least_cooldown_ms(window, 9), least);
        }
        for window in QuotaWindow::ALL {
            assert_eq!(QuotaWindow::from_name(window.as_str()), Some(window));
        }
        assert_eq!(QuotaWindow::from_name("hour"), Some(QuotaWindow::FiveHours));
    }

    #[test]
    fn an_end_in_the_far_future_is_a_mistake() {
        assert_eq!(cooling_until(8_640_000_000_000_000, 1_000), None);
        assert_eq!(cooling_until(2_000, 1_000), Some(2_000));
        assert_eq!(cooling_until(1_000, 1_000), None);
    }

    #[test]
    fn pauses_double_up_to_the_limit_and_count_concurrent_requests_once() {
        let mut pause = Pause::after(None, 0, None, 300_000, 1_000);
        assert_eq!(pause, Pause { started_at: 1_000, length_ms: 60_000 });
        assert_eq!(Pause::after(Some(pause), 900, None, 300_000, 90_000), pause);
        for expected in [120_000, 240_000, 300_000, 300_000] {
            let now = pause.ends_at() + 5;
            pause = Pause::after(Some(pause), now - 1, None, 300_000, now);
            assert_eq!((pause.started_at, pause.length_ms), (now, expected));
        }
        for (retry_after_ms, longest_ms, expected) in
            [(None, 5_000, 5_000), (Some(90_000), 300_000, 90_000), (Some(900_000), 300_000, 300_000)]
        {
            assert_eq!(Pause::after(None, 0, retry_after_ms, longest_ms, 9).length_ms, expected);
        }
        // If the clock was set back, a pause must still end.
        let future = Pause { started_at: 1_000_000, length_ms: 60_000 };
        assert_eq!(Pause::after(Some(future), 10, None, 300_000, 20).started_at, 20);
    }

    proptest! {
        #[test]
        fn every_cooldown_ends(now in 0_u64..4_000_000_000_000, cooldown in any::<u64>(), retry_after in any::<Option<u64>>()) {
            let until = exhausted_until(now, cooldown, retry_after);
            prop_assert!(until >= now);
            prop_assert_eq!(cooling_until(until, now).unwrap_or(now), until);
            prop_assert_eq!(cooling_until(until, until), None);
        }
    }
}
