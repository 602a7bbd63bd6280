//! Reads the window of a used-up quota and its reset time from the server's message. Pure.

use qwen_accounts::QuotaWindow;
use qwen_base::DAY_MS;

/// Coding Plan's week begins on Monday 00:00 UTC+8, which is Sunday 16:00 UTC. 1970-01-04 was a Sunday.
const FIRST_WEEK_MS: u64 = 3 * DAY_MS + 16 * 3600 * 1000;
const WEEK_MS: u64 = 7 * DAY_MS;

/// Largest number of words between a window and "quota".
const MAX_BETWEEN: usize = 2;
/// Words that may come before the window in a sentence about the account.
const LEADS: [&str; 19] = [
    "your",
    "the",
    "this",
    "you",
    "you've",
    "have",
    "has",
    "already",
    "account",
    "account's",
    "token-plan",
    "coding-plan",
    "token",
    "coding",
    "plan",
    "error",
    "up",
    "all",
    "of",
];
/// Words between "quota" and a word that says that it is used up.
const AUXILIARIES: [&str; 8] = ["has", "have", "been", "is", "was", "limit", "already", "fully"];
/// Starts of words that say that a quota is used up.
const SPENT: [&str; 6] = ["exceed", "exhaust", "used", "reached", "deplet", "consumed"];

/// Returns the window that a message in lower case names anywhere: `5-hour quota`, `week allocated quota`.
#[must_use]
pub fn window_of(message: &str) -> Option<QuotaWindow> {
    window_in(&words_of(message)).map(|(window, _, _)| window)
}

/// Returns the window whose quota is used up according to a whole sentence of a message in lower case. A message that only
/// mentions a quota says nothing about the account.
#[must_use]
pub fn spent_window_of(message: &str) -> Option<QuotaWindow> {
    const ENDS: [char; 12] =
        ['.', ',', ';', ':', '!', '?', '|', '(', ')', '\u{ff08}', '\u{3002}', '\u{ff0c}'];
    message.split(ENDS).find_map(|sentence| {
        let words = words_of(sentence);
        let (window, at, quota) = window_in(&words)?;
        let is_spent_word = |word: &&str| SPENT.iter().any(|spent| word.starts_with(spent));
        let is_lead_word = |word: &&str| {
            LEADS.contains(word) || is_spent_word(word) || word.starts_with('<') || is_number(word)
        };
        let mut after = words[quota + 1..].iter().skip_while(|word| AUXILIARIES.contains(word));
        let is_used_up = after.next().is_some_and(is_spent_word) || words[..at].iter().any(is_spent_word);
        (words[..at].iter().all(is_lead_word) && is_used_up).then_some(window)
    })
}

/// Returns the first window in words, with its place and that of "quota" after it.
fn window_in(words: &[&str]) -> Option<(QuotaWindow, usize, usize)> {
    let window_at = |at: usize| {
        let count = at.checked_sub(1).map(|before| words[before]).filter(|count| is_number(count));
        match (words[at], count) {
            ("hour" | "hours" | "hourly", None | Some("5")) => Some(QuotaWindow::FiveHours),
            ("day" | "days", Some("7")) | ("week", Some("1")) => Some(QuotaWindow::SevenDays),
            ("week" | "weekly", _) => Some(QuotaWindow::Week),
            ("month" | "monthly", _) | ("day" | "days", Some("30")) => Some(QuotaWindow::Month),
            _ => None,
        }
    };
    let quota_after = |at: usize| {
        let between = words[at + 1..].iter().take(1 + MAX_BETWEEN);
        between.into_iter().position(|word| *word == "quota").map(|offset| at + 1 + offset)
    };
    (0..words.len()).find_map(|at| Some((window_at(at)?, at, quota_after(at)?)))
}

/// Splits a text into words, and `5-hour` into two. Other compounds, quotations and names such as `get_weekly_quota` stay
/// whole, since they say nothing about the account.
fn words_of(text: &str) -> Vec<&str> {
    let parts = text.split_whitespace().flat_map(|word| {
        let word = word.trim_start_matches('(').trim_end_matches([')', '.', ',', ';', ':', '!']);
        let (first, second) =
            word.split_once('-').filter(|(count, _)| is_number(count)).unwrap_or((word, ""));
        [first, second]
    });
    parts.filter(|word| !word.is_empty()).collect()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the reset time in epoch milliseconds, from the message (in lower case), or from the window if its end is known.
/// A time in the past, or further away than the window is long, gives `None`.
#[must_use]
pub fn reset_of(message: &str, window: Option<QuotaWindow>, now_ms: u64) -> Option<u64> {
    let longest = window.unwrap_or(QuotaWindow::Month).length_ms();
    let told = ["reset at ", "reset on ", "resets at ", "resets on "].iter().find_map(|words| {
        let (_, rest) = message.split_once(words)?;
        read_moment(rest, now_ms)
    });
    let is_possible = |until: &u64| *until > now_ms && until - now_ms <= longest;
    told.filter(is_possible).or_else(|| (window == Some(QuotaWindow::Week)).then(|| next_week(now_ms)))
}

fn next_week(now_ms: u64) -> u64 {
    let since = now_ms.saturating_add(WEEK_MS).saturating_sub(FIRST_WEEK_MS);
    now_ms.saturating_add(WEEK_MS - since % WEEK_MS)
}

/// Reads `[YYYY-]MM-DD HH:MM[:SS][ UTC[+8]]`. Without a year this is the next such moment, and without a zone UTC.
fn read_moment(text: &str, now_ms: u64) -> Option<u64> {
    let text = text.trim_start();
    let date_end = text.find([' ', 't'])?;
    let mut date = text[..date_end].split('-');
    let mut number = || date.next()?.parse::<u64>().ok();
    let (first, second, third) = (number()?, number()?, number());
    let rest = &text[date_end + 1..];
    let time_end = rest.find(|c: char| !c.is_ascii_digit() && c != ':').unwrap_or(rest.len());
    let mut time = rest[..time_end].split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second_of) = (time.next()??, time.next()??, time.next().unwrap_or(Some(0))?);
    if hour > 23 || minute > 59 || second_of > 60 {
        return None;
    }
    let of_day = ((hour * 60 + minute) * 60 + second_of) * 1000;
    let offset = offset_ms(rest[time_end..].trim_start());
    let at = |year, month, day| {
        let start = i64::try_from(days_before(year, month, day)? * DAY_MS + of_day).ok()?;
        u64::try_from(start - offset).ok()
    };
    if let Some(day) = third {
        return at(first, second, day);
    }
    let this_year = 1970 + now_ms / (DAY_MS * 146_097 / 400);
    (this_year.saturating_sub(1)..=this_year + 1)
        .filter_map(|year| at(year, first, second))
        .find(|moment| *moment > now_ms)
}

/// Reads `UTC+8`, `GMT-05:30`, `+0800`.
fn offset_ms(zone: &str) -> i64 {
    let zone = zone.trim_start_matches(['(', '.', '0']).trim_start_matches("utc").trim_start_matches("gmt");
    let (sign, rest) = match zone.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return 0,
    };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (hours, minutes) = match rest[..end].split_at_checked(2) {
        Some((hours, minutes)) if end == 4 => (hours, minutes),
        _ => (&rest[..end], rest[end..].strip_prefix(':').and_then(|rest| rest.get(..2)).unwrap_or("0")),
    };
    let number = |text: &str| text.parse::<i64>().unwrap_or(0).min(99);
    sign * (number(hours) * 60 + number(minutes)) * 60_000
}

/// Returns the days from 1970-01-01 to a date; `None` if the date does not exist.
fn days_before(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, 28 + u64::from(is_leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month.checked_sub(1)?).ok()?;
    if !(1970..10_000).contains(&year) || !(1..=*lengths.get(month)?).contains(&day) {
        return None;
    }
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    Some((year - 1970) * 365 + leap_days + lengths[..month].iter().sum::<u64>() + day - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qwen_base::iso_time;

    use super::*;

    const HOUR_MS: u64 = 3600 * 1000;
    /// 2026-11-28 18:46:40 UTC, a Saturday.
    const NOW: u64 = 1_795_891_600_000;

    fn reset(message: &str, now_ms: u64) -> Option<String> {
        let message = message.to_lowercase();
        reset_of(&message, window_of(&message), now_ms).map(iso_time)
    }

    #[test]
    fn the_reset_time_is_read_from_the_message() {
        for (words, end) in [
            ("5-hour quota. reset at 11-28 20:00:00 UTC.", Some("2026-11-28T20:00:00")),
            ("5-hour quota. reset at 11-28 20:00:00.", Some("2026-11-28T20:00:00")),
            ("5-hour quota. reset at 11-29 04:00:00 UTC+8", Some("2026-11-28T20:00:00")),
            ("5-hour quota. reset at 11-29 04:00 (GMT+08:00)", Some("2026-11-28T20:00:00")),
            ("5-hour quota. reset at 2026-11-28T20:00:00Z", Some("2026-11-28T20:00:00")),
            ("7-day quota. reset at 12-02 16:00:00.", Some("2026-12-02T16:00:00")),
            ("5-hour quota. reset at 11-28 18:00:00 UTC.", None),
            ("5-hour quota. reset at 11-29 18:00:00 UTC.", None),
            ("7-day quota. reset at 08-04 04:11:00 UTC.", None),
            ("7-day quota. reset at 13-41 04:11:00 UTC.", None),
            ("7-day quota. reset at 12-02 25:00:00.", None),
            ("7-day quota. reset at soon.", None),
            ("hour allocated quota exceeded", None),
            ("month allocated quota exceeded", None),
            ("week allocated quota exceeded", Some("2026-11-29T16:00:00")),
        ] {
            let found = reset(words, NOW);
            assert_eq!(found.as_deref().map(|time| &time[..19]), end, "{words}");
        }
    }

    #[test]
    fn without_a_year_the_reset_time_is_the_next_such_moment() {
        let new_years_eve = days_before(2026, 12, 31).unwrap() * DAY_MS + 22 * HOUR_MS;
        let found = reset("5-hour quota. reset at 01-01 01:30:00 UTC", new_years_eve).unwrap();
        assert!(found.starts_with("2027-01-01T01:30:00"), "{found}");
        let leap = days_before(2028, 2, 28).unwrap() * DAY_MS + 22 * HOUR_MS;
        let found = reset("5-hour quota. reset at 02-29 01:30:00 UTC", leap).unwrap();
        assert!(found.starts_with("2028-02-29T01:30:00"), "{found}");
        assert_eq!(reset("5-hour quota. reset at 02-29 01:30:00 UTC", NOW), None);
    }

    #[test]
    fn a_week_ends_on_monday_at_midnight_utc_plus_8() {
        for (now, end) in [
            ("2026-11-29T15:59:59", "2026-11-29T16:00:00"),
            ("2026-11-29T16:00:00", "2026-12-06T16:00:00"),
            ("2026-12-03T00:00:00", "2026-12-06T16:00:00"),
        ] {
            let now = read_moment(&now.to_lowercase(), 0).unwrap();
            assert!(iso_time(next_week(now)).starts_with(end));
        }
    }

    proptest! {
        #[test]
        fn a_reset_time_is_within_the_window(text in "(reset at )?[0-9 :tzutc+-]{0,30}", window in 0_usize..5, now in 0_u64..4_000_000_000_000) {
            let window = QuotaWindow::ALL.get(window).copied();
            if let Some(until) = reset_of(&text, window, now) {
                prop_assert!(until > now && until - now <= window.unwrap_or(QuotaWindow::Month).length_ms());
            }
        }

        #[test]
        fn a_written_date_is_read_back(day in 0_u64..60_000) {
            let written = iso_time(day * DAY_MS).to_lowercase();
            prop_assert_eq!(read_moment(&written, 0), Some(day * DAY_MS));
        }
    }
}
