//! Usage of each account, by hour and by day.

use std::collections::BTreeMap;

use qwen_base::{DAY_MS, iso_time};
use serde::{Deserialize, Serialize};

use super::scan::{MAX_COUNT, Tokens};

/// Hours kept per account: a week and the current hour, because a Coding Plan's week is counted in hours.
const MAX_HOURS: usize = 7 * 24 + 1;
/// Number of hours in a summary.
const LISTED_HOURS: u64 = 48;
/// Number of days kept per account.
const MAX_DAYS: usize = 35;
/// Number of accounts kept.
const MAX_ACCOUNTS: usize = 64;
const HOUR_MS: u64 = 3_600_000;
/// Window of subscription quotas, in hours.
const PLAN_HOURS: u64 = 5;
const WEEK_DAYS: u64 = 7;
const MONTH_DAYS: u64 = 30;

/// Usage in a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Counts {
    /// Number of answers with a success status.
    pub requests: u64,
    /// Number of these answers without reported usage.
    pub without_usage: u64,
    /// Input tokens, including cached ones.
    pub input_tokens: u64,
    /// Input tokens from the server's cache.
    pub cached_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
}

impl Counts {
    /// Returns the counts of one answer.
    #[must_use]
    pub fn of_answer(reported: Option<Tokens>) -> Self {
        let Tokens { input, cached, output } = reported.unwrap_or_default();
        Self {
            requests: 1,
            without_usage: u64::from(reported.is_none()),
            input_tokens: input,
            cached_tokens: cached,
            output_tokens: output,
        }
    }

    /// Adds counts. Sums stop at JavaScript's largest exact integer.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.requests, other.requests),
            (&mut self.without_usage, other.without_usage),
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.cached_tokens, other.cached_tokens),
            (&mut self.output_tokens, other.output_tokens),
        ] {
            *sum = sum.saturating_add(more).min(MAX_COUNT);
        }
    }

    fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        all.into_iter().fold(Self::default(), |mut sum, counts| {
            sum.add(counts);
            sum
        })
    }
}

/// A time as the ledger's rows name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Hours since 1970, in UTC.
    pub hour: u64,
    /// Days since 1970, in the user's time zone.
    pub day: u64,
}

impl Moment {
    /// `utc_offset_minutes` is the user's time minus UTC.
    #[must_use]
    pub fn new(now_ms: u64, utc_offset_minutes: i32) -> Self {
        let local_ms = now_ms.saturating_add_signed(i64::from(utc_offset_minutes) * 60_000);
        Self { hour: now_ms / HOUR_MS, day: local_ms / DAY_MS }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Rows {
    hours: BTreeMap<u64, Counts>,
    days: BTreeMap<u64, Counts>,
}

/// The rows of all accounts, by account id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ledger(BTreeMap<String, Rows>);

/// Usage of an account by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Current clock hour.
    pub hour: Counts,
    /// Current hour and the four before.
    pub five_hours: Counts,
    /// Today, in the user's time zone.
    pub today: Counts,
    /// Today and the six days before.
    pub week: Counts,
    /// Today and the 29 days before.
    pub month: Counts,
    /// Usage by start of the hour in epoch milliseconds, for the last 48 hours. Empty hours are left out.
    pub hours: Vec<(u64, Counts)>,
    /// Usage by date, for the last 35 days. Empty days are left out.
    pub days: Vec<(String, Counts)>,
}

impl Ledger {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, account: &str, at: Moment, counts: &Counts) {
        let rows = self.0.entry(account.to_owned()).or_default();
        rows.hours.entry(at.hour).or_default().add(counts);
        rows.days.entry(at.day).or_default().add(counts);
    }

    pub fn merge(&mut self, other: &Self) {
        for (account, theirs) in &other.0 {
            let rows = self.0.entry(account.clone()).or_default();
            for (hour, counts) in &theirs.hours {
                rows.hours.entry(*hour).or_default().add(counts);
            }
            for (day, counts) in &theirs.days {
                rows.days.entry(*day).or_default().add(counts);
            }
        }
    }

    /// Removes the rows farthest from `now` until the limits are met. A clock that is briefly wrong then costs only one
    /// row.
    pub fn prune(&mut self, now: Moment) {
        for rows in self.0.values_mut() {
            keep_nearest(&mut rows.hours, now.hour, MAX_HOURS);
            keep_nearest(&mut rows.days, now.day, MAX_DAYS);
        }
        while self.0.len() > MAX_ACCOUNTS {
            let distance = |rows: &Rows| rows.days.keys().map(|day| day.abs_diff(now.day)).min();
            let farthest =
                self.0.iter().max_by_key(|(_, rows)| distance(rows).unwrap_or(u64::MAX)).map(|(id, _)| id);
            let Some(id) = farthest.cloned() else { return };
            self.0.remove(&id);
        }
    }

    /// Returns the number of requests in the last `count` hours, including the current one.
    #[must_use]
    pub fn requests_in_hours(&self, account: &str, count: u64, now: Moment) -> u64 {
        let hours = now.hour.saturating_sub(count.saturating_sub(1))..=now.hour;
        self.0
            .get(account)
            .map_or(0, |rows| Counts::sum(rows.hours.range(hours).map(|(_, counts)| counts)).requests)
    }

    /// Returns the number of requests in the last `count` days, including today.
    #[must_use]
    pub fn requests_in_days(&self, account: &str, count: u64, now: Moment) -> u64 {
        let days = now.day.saturating_sub(count.saturating_sub(1))..=now.day;
        self.0
            .get(account)
            .map_or(0, |rows| Counts::sum(rows.days.range(days).map(|(_, counts)| counts)).requests)
    }

    #[must_use]
    pub fn summary(&self, account: &str, now: Moment) -> Summary {
        let none = Rows::default();
        let Rows { hours, days } = self.0.get(account).unwrap_or(&none);
        let last_hours = |count: u64| hours.range(now.hour.saturating_sub(count - 1)..=now.hour);
        let last_days = |count: u64| days.range(now.day.saturating_sub(count - 1)..=now.day);
        let in_hours = |count| Counts::sum(last_hours(count).map(|(_, counts)| counts));
        let in_days = |count| Counts::sum(last_days(count).map(|(_, counts)| counts));
        let date =
            |day: u64| iso_time(day.saturating_mul(DAY_MS)).chars().take_while(|c| *c != 'T').collect();
        Summary {
            hour: in_hours(1),
            five_hours: in_hours(PLAN_HOURS),
            today: in_days(1),
            week: in_days(WEEK_DAYS),
            month: in_days(MONTH_DAYS),
            hours: last_hours(LISTED_HOURS).map(|(hour, counts)| (hour * HOUR_MS, *counts)).collect(),
            days: last_days(MAX_DAYS as u64).map(|(day, counts)| (date(*day), *counts)).collect(),
        }
    }
}

fn keep_nearest(rows: &mut BTreeMap<u64, Counts>, now: u64, limit: usize) {
    while rows.len() > limit {
        let (Some((&first, _)), Some((&last, _))) = (rows.first_key_value(), rows.last_key_value()) else {
            return;
        };
        rows.remove(if first.abs_diff(now) >= last.abs_diff(now) { &first } else { &last });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: u64 = 1_700_049_600_000;

    fn counts(requests: u64) -> Counts {
        Counts { requests, input_tokens: 10 * requests, ..Counts::default() }
    }

    fn at(ms: u64) -> Moment {
        Moment::new(ms, 0)
    }

    #[test]
    fn windows_count_whole_hours_and_days_until_now() {
        let mut ledger = Ledger::default();
        for (hours_ago, requests) in [(0, 1), (1, 10), (4, 100), (5, 1_000), (24, 10_000), (24 * 7, 100_000)]
        {
            ledger.add("a", at(NOON - hours_ago * HOUR_MS), &counts(requests));
        }
        ledger.add("a", at(NOON + 24 * HOUR_MS), &counts(7_000_000));
        let summary = ledger.summary("a", at(NOON));
        let requests = |counts: Counts| counts.requests;
        assert_eq!(requests(summary.hour), 1);
        assert_eq!(requests(summary.five_hours), 111);
        assert_eq!(requests(summary.today), 1_111);
        assert_eq!(requests(summary.week), 11_111);
        assert_eq!(requests(summary.month), 111_111);
        assert_eq!(summary.hours.len(), 5);
        assert_eq!(summary.hours[4], (NOON, counts(1)));
        let dates: Vec<_> = summary.days.iter().map(|(date, _)| date.as_str()).collect();
        assert_eq!(dates, ["2023-11-08", "2023-11-14", "2023-11-15"]);
        assert_eq!(ledger.summary("b", at(NOON)).month, Counts::default());
    }

    #[test]
    fn a_day_begins_at_midnight_in_the_users_time_zone() {
        let evening = NOON + 11 * HOUR_MS + 1;
        assert_eq!(Moment::new(evening, 60).day, Moment::new(evening, 0).day + 1);
        assert_eq!(Moment::new(NOON, -13 * 60).day, Moment::new(NOON, 0).day - 1);
        assert_eq!(Moment::new(evening, 60).hour, Moment::new(evening, -600).hour);
        assert_eq!(Moment::new(0, -60), Moment { hour: 0, day: 0 });
        assert!(Moment::new(u64::MAX, i32::MAX).day > 0);
    }

    #[test]
    fn a_briefly_wrong_clock_costs_one_row() {
        let mut ledger = Ledger::default();
        for hour in 0..200 {
            ledger.add("a", at(NOON + hour * HOUR_MS), &counts(1));
            ledger.prune(at(NOON + hour * HOUR_MS));
        }
        let now = NOON + 199 * HOUR_MS;
        assert_eq!(ledger.0["a"].hours.len(), MAX_HOURS);
        for wrong in [0, u64::MAX] {
            ledger.add("a", at(wrong), &counts(1));
            ledger.prune(at(wrong));
        }
        ledger.prune(at(now));
        let rows = &ledger.0["a"];
        assert!(rows.hours.len() <= MAX_HOURS && rows.days.len() <= MAX_DAYS);
        assert!(ledger.0["a"].hours.len() >= MAX_HOURS - 2);
    }

    #[test]
    fn the_oldest_accounts_are_removed_first() {
        let mut ledger = Ledger::default();
        for account in 0..100_u64 {
            ledger.add(&account.to_string(), at(NOON + account * DAY_MS), &counts(1));
        }
        ledger.prune(at(NOON + 99 * DAY_MS));
        assert_eq!(ledger.0.len(), MAX_ACCOUNTS);
        assert!(ledger.0.contains_key("99") && !ledger.0.contains_key("0"));
    }

    #[test]
    fn sums_stop_at_javascripts_largest_exact_integer() {
        let mut sum = counts(MAX_COUNT);
        sum.add(&counts(MAX_COUNT));
        assert_eq!((sum.requests, sum.input_tokens), (MAX_COUNT, MAX_COUNT));
    }

    proptest! {
        #[test]
        fn additions_commute(
            answers in proptest::collection::vec((0_u64..3, 0_u64..40, 0_u64..1_000), 0..60), split in any::<usize>(),
        ) {
            let mut whole = Ledger::default();
            let (mut one, mut other) = (Ledger::default(), Ledger::default());
            for (index, (account, hour, requests)) in answers.iter().enumerate() {
                let moment = at(NOON + hour * HOUR_MS);
                whole.add(&account.to_string(), moment, &counts(*requests));
                let part = if index < split % (answers.len() + 1) { &mut one } else { &mut other };
                part.add(&account.to_string(), moment, &counts(*requests));
            }
            other.merge(&one);
            prop_assert_eq!(&other, &whole);
            let text = serde_json::to_string(&whole).unwrap();
            prop_assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), whole);
        }

        #[test]
        fn a_ledger_stays_within_its_limits(
            answers in proptest::collection::vec((any::<u8>(), any::<u64>()), 0..300), now in any::<u64>(),
        ) {
            let mut ledger = Ledger::default();
            for (account, ms) in answers {
                ledger.add(&account.to_string(), at(ms), &counts(1));
            }
            ledger.prune(at(now));
            prop_assert!(ledger.0.len() <= MAX_ACCOUNTS);
            prop_assert!(ledger.0.values().all(|rows| rows.hours.len() <= MAX_HOURS && rows.days.len() <= MAX_DAYS));
            let _ = ledger.summary("1", at(now));
        }
    }
}
