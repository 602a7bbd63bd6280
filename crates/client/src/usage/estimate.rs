//! Estimates the used share of a plan's limits, from the requests of this machine.
//!
//! Only the limits of a Coding Plan count requests. A Token Plan counts credits, and the price of a request in credits is
//! unknown.

use qwen_accounts::QuotaWindow;
use qwen_base::{KeyPlan, Tier};

use super::ledger::{Ledger, Moment};

/// China's time minus UTC, in hours. Weeks begin by that clock.
const CHINA_OFFSET_HOURS: u64 = 8;
const DAY_HOURS: u64 = 24;
const WEEK_HOURS: u64 = 7 * DAY_HOURS;
/// Hours from Monday 00:00 to 1970-01-01 00:00, a Thursday.
const EPOCH_HOURS_INTO_WEEK: u64 = 3 * DAY_HOURS;
const FIVE_HOURS: u64 = 5;
const MONTH_DAYS: u64 = 30;

/// Estimated use of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Window of the limit.
    pub window: QuotaWindow,
    /// Requests sent by this machine in the window.
    pub requests: u64,
    /// Requests that the plan allows in the window.
    pub limit: u64,
}

impl Estimate {
    /// Returns the used share in percent, rounded down. It may exceed 100.
    #[must_use]
    pub const fn percent(&self) -> u64 {
        self.requests.saturating_mul(100) / self.limit
    }
}

/// Returns the allowed requests in five hours, in a week and in a month.
const fn limits(plan: KeyPlan, tier: Tier) -> Option<[u64; 3]> {
    match (plan, tier) {
        (KeyPlan::CodingPlan, Tier::Lite) => Some([1_200, 9_000, 18_000]),
        (KeyPlan::CodingPlan, Tier::Pro) => Some([6_000, 45_000, 90_000]),
        _ => None,
    }
}

/// Returns estimates for an account; none if its limits are unknown. The start of its month is unknown, so the last 30 days
/// are counted.
#[must_use]
pub fn estimates(
    ledger: &Ledger,
    account: &str,
    plan: Option<KeyPlan>,
    tier: Option<Tier>,
    now: Moment,
) -> Vec<Estimate> {
    let Some([five_hours, week, month]) = plan.zip(tier).and_then(|(plan, tier)| limits(plan, tier)) else {
        return Vec::new();
    };
    let week_hours = (now.hour + CHINA_OFFSET_HOURS + EPOCH_HOURS_INTO_WEEK) % WEEK_HOURS + 1;
    let in_hours = |hours| ledger.requests_in_hours(account, hours, now);
    [
        (QuotaWindow::FiveHours, in_hours(FIVE_HOURS), five_hours),
        (QuotaWindow::Week, in_hours(week_hours), week),
        (QuotaWindow::Month, ledger.requests_in_days(account, MONTH_DAYS, now), month),
    ]
    .map(|(window, requests, limit)| Estimate { window, requests, limit })
    .into()
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Counts;
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    /// Sunday 2026-11-29 15:30 UTC, half an hour before China's week ends.
    const SUNDAY: u64 = 1_795_966_200_000;

    fn ledger(requests: &[(u64, u64)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (hours_ago, count) in requests {
            let counts = Counts { requests: *count, ..Counts::default() };
            ledger.add("a", Moment::new(SUNDAY - hours_ago * HOUR_MS, 0), &counts);
        }
        ledger
    }

    #[test]
    fn a_week_begins_on_monday_by_chinas_clock() {
        let ledger = ledger(&[(0, 744), (4, 1), (5, 10), (167, 100), (168, 1_000)]);
        let at = |ms| {
            let plan = Some(KeyPlan::CodingPlan);
            let found = estimates(&ledger, "a", plan, Some(Tier::Lite), Moment::new(ms, 0));
            found.iter().map(|found| (found.requests, found.percent())).collect::<Vec<_>>()
        };
        assert_eq!(at(SUNDAY), [(745, 62), (855, 9), (1_855, 10)]);
        assert_eq!(at(SUNDAY + HOUR_MS), [(744, 62), (0, 0), (1_855, 10)]);
    }

    #[test]
    fn there_is_no_estimate_without_known_limits() {
        let ledger = ledger(&[(0, 1)]);
        for (plan, tier) in [
            (None, Some(Tier::Pro)),
            (Some(KeyPlan::CodingPlan), None),
            (Some(KeyPlan::CodingPlan), Some(Tier::Standard)),
            (Some(KeyPlan::TokenPlan), Some(Tier::Pro)),
            (Some(KeyPlan::DashScope), Some(Tier::Pro)),
        ] {
            assert_eq!(estimates(&ledger, "a", plan, tier, Moment::new(SUNDAY, 0)), []);
        }
        let found =
            estimates(&ledger, "b", Some(KeyPlan::CodingPlan), Some(Tier::Pro), Moment::new(SUNDAY, 0));
        assert_eq!(
            found.iter().map(|found| (found.requests, found.limit)).collect::<Vec<_>>(),
            [(0, 6_000), (0, 45_000), (0, 90_000)]
        );
    }
}
