//! How much of a plan's known limits an account has used, as far as this machine knows. Pure.
//!
//! Only a Coding Plan's limits count requests. A Token Plan counts credits, and nothing tells what a request costs.

use qwen_accounts::QuotaWindow;
use qwen_base::{KeyPlan, Tier};

use super::ledger::{Ledger, Moment};

/// Hours that China is ahead of UTC, by whose clock a week begins.
const CHINA_OFFSET_HOURS: u64 = 8;
const DAY_HOURS: u64 = 24;
const WEEK_HOURS: u64 = 7 * DAY_HOURS;
/// Hours from a Monday 00:00 to 1970-01-01 00:00, a Thursday.
const EPOCH_HOURS_INTO_WEEK: u64 = 3 * DAY_HOURS;
const FIVE_HOURS: u64 = 5;
const MONTH_DAYS: u64 = 30;

/// Use of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The window that the limit is for.
    pub window: QuotaWindow,
    /// Requests that this machine has sent in it.
    pub requests: u64,
    /// Requests that the plan allows in it.
    pub limit: u64,
}

impl Estimate {
    /// The used share in percent, rounded down; more than 100 where the limit is exceeded.
    #[must_use]
    pub const fn percent(&self) -> u64 {
        self.requests.saturating_mul(100) / self.limit
    }
}

/// Requests that a tier of a plan allows in five hours, in a week and in a month.
const fn limits(plan: KeyPlan, tier: Tier) -> Option<[u64; 3]> {
    match (plan, tier) {
        (KeyPlan::CodingPlan, Tier::Lite) => Some([1_200, 9_000, 18_000]),
        (KeyPlan::CodingPlan, Tier::Pro) => Some([6_000, 45_000, 90_000]),
        _ => None,
    }
}

/// Estimates what an account has used of its limits; nothing where those are not known. The day on which a month begins
/// is not known, so the last 30 days stand for it.
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
    /// Sunday 2026-11-29 15:30 UTC: half an hour before the week ends in China.
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
    fn a_week_begins_on_monday_in_china() {
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
    fn nothing_is_estimated_without_known_limits() {
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
