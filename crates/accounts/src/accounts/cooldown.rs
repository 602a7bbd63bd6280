//! How long an account is left alone. Pure.

use qwen_base::Code;

/// Longer cooldowns are a mistake of somebody's: no window of Qwen's is longer than a month.
const LONGEST_COOLDOWN_MS: u64 = 32 * 24 * 3600 * 1000;

const HOUR_MS: u64 = 3600 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The part of a plan's quota that is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaWindow {
    /// Five hours: rolling for a Coding Plan, from the first call on for a Token Plan.
    FiveHours,
    /// Seven days from the first call on (Token Plan).
    SevenDays,
    /// A week that ends on Monday 00:00 UTC+8 (Coding Plan).
    Week,
    /// A month that ends on the subscription's day (Coding Plan).
    Month,
}

impl QuotaWindow {
    /// All of them.
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

    /// Reads its name, also as earlier versions wrote it.
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

/// The reason why an account is left alone for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoolingReason {
    /// Its quota is used up.
    Quota,
    /// It may not be asked that often.
    RateLimit,
    /// It may use no more tokens for a time that the server does not tell: a pause that grows.
    TokenLimit,
    /// It is not paid for.
    Payment,
}

impl CoolingReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Quota, Self::RateLimit, Self::TokenLimit, Self::Payment];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::RateLimit => "rate-limit",
            Self::TokenLimit => "token-limit",
            Self::Payment => "payment",
        }
    }

    /// The code of ours for it.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Quota => Code::QuotaExhausted,
            Self::RateLimit | Self::TokenLimit => Code::RateLimited,
            Self::Payment => Code::PaymentRequired,
        }
    }

    /// The server's code for it, where it gave none.
    #[must_use]
    pub const fn servers_code(self) -> &'static str {
        match self {
            Self::Quota => "insufficient_quota",
            Self::RateLimit | Self::TokenLimit => "rate_limit_exceeded",
            Self::Payment => "Arrearage",
        }
    }

    /// Reads its name. The original plugin writes none, and knows of quotas alone.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name).unwrap_or(Self::Quota)
    }
}

/// Why and until when an account is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cooldown {
    /// The end, in epoch milliseconds.
    pub until: u64,
    /// The reason.
    pub reason: CoolingReason,
    /// The server's code.
    pub code: String,
    /// The part of its quota that is spent, where the server names it.
    pub window: Option<QuotaWindow>,
}

/// One of the growing pauses of a key whose tokens a minute are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// The start, in epoch milliseconds.
    pub started_at: u64,
    /// The length, in milliseconds.
    pub length_ms: u64,
}

impl Pause {
    /// The first one; the next ones are twice as long each.
    const FIRST_MS: u64 = 60_000;

    /// The pause after a refusal at `now_ms` of a request that the account was asked first at `asked_at`. Returns `previous` itself where the
    /// request was under way when that pause started: such refusals count once. A pause is no longer than `longest_ms`,
    /// unless the server's `Retry-After` is.
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
        let length_ms = exhausted_until(0, grown.min(longest_ms), retry_after_ms);
        Self { started_at: now_ms, length_ms }
    }

    /// The end, in epoch milliseconds.
    #[must_use]
    pub const fn ends_at(self) -> u64 {
        self.started_at.saturating_add(self.length_ms)
    }
}

/// Shortest time in milliseconds for which an account with a spent quota is left alone. The end of a month is not known
/// without `Retry-After`: the account is asked again once a day. Other windows wait for `otherwise_ms`, the cooldown.
#[must_use]
pub fn least_cooldown_ms(window: Option<QuotaWindow>, otherwise_ms: u64, retry_after_ms: Option<u64>) -> u64 {
    match (window, retry_after_ms) {
        (Some(QuotaWindow::Month), None) => DAY_MS,
        _ => otherwise_ms,
    }
}

/// Until when an account that ran out of quota at `now_ms` is left alone: for the cooldown, or for the server's longer
/// `Retry-After`.
#[must_use]
pub fn exhausted_until(now_ms: u64, cooldown_ms: u64, retry_after_ms: Option<u64>) -> u64 {
    let wait = cooldown_ms.max(retry_after_ms.unwrap_or(0)).min(LONGEST_COOLDOWN_MS);
    now_ms.saturating_add(wait)
}

/// Until when an account is cooling, if it is. An end that is too far off to be true is none.
#[must_use]
pub fn cooling_until(exhausted_until: u64, now_ms: u64) -> Option<u64> {
    let left = exhausted_until.checked_sub(now_ms).filter(|left| *left > 0)?;
    (left <= LONGEST_COOLDOWN_MS).then_some(exhausted_until)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longer_of_cooldown_and_retry_after() {
        assert_eq!(exhausted_until(1_000, 500, None), 1_500);
        assert_eq!(exhausted_until(1_000, 500, Some(100)), 1_500);
        assert_eq!(exhausted_until(1_000, 500, Some(9_000)), 10_000);
    }

    #[test]
    fn a_month_is_tried_once_a_day_and_other_windows_after_the_cooldown() {
        for (window, retry_after, least) in [
            (Some(QuotaWindow::FiveHours), None, 9),
            (Some(QuotaWindow::Week), None, 9),
            (Some(QuotaWindow::Month), None, DAY_MS),
            (Some(QuotaWindow::Month), Some(5), 9),
            (None, None, 9),
        ] {
            assert_eq!(least_cooldown_ms(window, 9, retry_after), least);
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
    fn pauses_double_up_to_the_longest_and_count_once_for_requests_that_were_under_way() {
        let mut pause = Pause::after(None, 0, None, 300_000, 1_000);
        assert_eq!(pause, Pause { started_at: 1_000, length_ms: 60_000 });
        assert_eq!(Pause::after(Some(pause), 900, None, 300_000, 90_000), pause);
        for expected in [120_000, 240_000, 300_000, 300_000] {
            let now = pause.ends_at() + 5;
            pause = Pause::after(Some(pause), now - 1, None, 300_000, now);
            assert_eq!((pause.started_at, pause.length_ms), (now, expected));
        }
        assert_eq!(Pause::after(None, 0, None, 5_000, 9).length_ms, 5_000);
        assert_eq!(Pause::after(None, 0, Some(90_000), 300_000, 9).length_ms, 90_000);
        // A clock that was set back must not keep a pause for ever.
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
