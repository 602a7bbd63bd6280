//! How long an account is left alone. Pure.

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
