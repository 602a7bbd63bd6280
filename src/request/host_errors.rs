//! Errors as `OpenCode` must get them: said once, and not retried. Pure.
//!
//! `OpenCode` shows a 4xx with a message as it is, retries a 429 for as long as its `Retry-After` says, in silence, and
//! takes any error that holds one of its retry words for a 429.

use http::StatusCode;

use crate::accounts::cooldown::QuotaWindow;
use crate::error::{Code, Error};

/// A wait of up to this long may pass as a 429.
const SHORT_WAIT_MS: u64 = 60_000;

/// What `OpenCode` 1.18 takes for a reason to retry, wherever it stands.
const RETRY_WORDS: [&str; 29] = [
    "429",
    "500",
    "502",
    "503",
    "504",
    "524",
    "rate limit",
    "rate_limit",
    "too many requests",
    "overloaded",
    "unavailable",
    "internal error",
    "server error",
    "terminated",
    "fetch failed",
    "network error",
    "connection error",
    "econnreset",
    "econnrefused",
    "etimedout",
    "enotfound",
    "epipe",
    "socket hang up",
    "timeout",
    "timed out",
    "exhausted",
    "try again later",
    "temporarily at capacity",
    "too_many_requests",
];

/// The last word on a request, as the host shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct FinalError {
    /// A 4xx that the host does not retry.
    pub status: StatusCode,
    /// One line of advice without a retry word.
    pub message: String,
    /// Which of our errors it is.
    pub code: Code,
}

impl FinalError {
    fn new(status: StatusCode, code: Code, message: &str) -> Self {
        Self { status, message: plain(message), code }
    }

    /// No account can be asked.
    #[must_use]
    pub fn of_cooling(why: Cooling, message: &str) -> Self {
        let code = match why {
            Cooling::OutOfQuota => Code::QuotaExhausted,
            Cooling::RateLimited => Code::RateLimited,
        };
        Self::new(StatusCode::PAYMENT_REQUIRED, code, message)
    }

    /// What to make of a rate limit; `None` where it is so short that the host may wait.
    #[must_use]
    pub fn of_rate_limit(retry_after_ms: Option<u64>, now_ms: u64, utc_offset_minutes: i32) -> Option<Self> {
        let wait = retry_after_ms.filter(|ms| *ms > SHORT_WAIT_MS)?;
        let when = moment(now_ms.saturating_add(wait), now_ms, utc_offset_minutes);
        let message =
            format!("Qwen takes no more requests from this account for now; it is free again {when}.");
        Some(Self::new(StatusCode::PAYMENT_REQUIRED, Code::RateLimited, &message))
    }

    /// What to make of an error of ours; `None` where it may pass by itself, so that the host may try again.
    #[must_use]
    pub fn of_error(error: &Error) -> Option<Self> {
        let status = match error.code() {
            _ if error.is_retryable() => return None,
            Code::NotLoggedIn
            | Code::CredentialsInvalid
            | Code::RefreshTokenInvalid
            | Code::TokenRejected => StatusCode::UNAUTHORIZED,
            Code::FreeTierDiscontinued => StatusCode::PAYMENT_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        };
        Some(Self::new(status, error.code(), error.message()))
    }

    /// A stream that has ended before it said anything.
    #[must_use]
    pub fn of_stream(problem: &Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, problem.code(), problem.message())
    }
}

/// The text with its retry words broken by a character that is not seen.
#[must_use]
pub fn plain(message: &str) -> String {
    const WORD_JOINER: char = '\u{2060}';
    let mut text = message.to_owned();
    for word in RETRY_WORDS {
        while let Some(at) = text.to_ascii_lowercase().find(word) {
            text.insert(at + 1, WORD_JOINER);
        }
    }
    text
}

/// Why no account can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cooling {
    /// Their quota is used up.
    OutOfQuota,
    /// They have been asked too much, all of them.
    RateLimited,
}

/// The accounts that a request could be sent with, none of which can be asked.
#[derive(Debug, Clone, Copy)]
pub struct CoolingAccounts<'a> {
    /// Why.
    pub why: Cooling,
    /// How many there are.
    pub count: usize,
    /// When the first of them can be asked again, in epoch milliseconds.
    pub free_at: u64,
    /// The part of its quota that is spent, where there is only one and that is known.
    pub window: Option<QuotaWindow>,
    /// The names of accounts that would serve too, and cost more than the user has agreed to.
    pub dearer: &'a [String],
}

/// What to say when no account can be asked.
#[must_use]
pub fn all_cooling(accounts: &CoolingAccounts, now_ms: u64, utc_offset_minutes: i32) -> String {
    let when = moment(accounts.free_at, now_ms, utc_offset_minutes);
    let what = match (accounts.why, accounts.count) {
        (Cooling::OutOfQuota, 1) => quota_used_up("This Qwen account", accounts.window, &when),
        (Cooling::OutOfQuota, count) => {
            format!("All {count} accounts are out of quota; the next is free {when}.")
        }
        (Cooling::RateLimited, 1) => {
            format!("Qwen takes no more requests from this account for now; it is free again {when}.")
        }
        (Cooling::RateLimited, count) => {
            format!("Qwen takes no more requests from all {count} accounts for now; the next is free {when}.")
        }
    };
    match accounts.dearer {
        [] => format!("{what} Wait until then, or add an account with `opencode auth login`."),
        [label, ..] => format!(
            "{what} Wait until then, or go on with \"{label}\", which costs more: `npx opencode-qwen-cli-auth use \"{label}\"`."
        ),
    }
}

/// Says that an account has used up its quota, and when it is tried again: `when` is a [`moment`].
#[must_use]
pub fn quota_used_up(account: &str, window: Option<QuotaWindow>, when: &str) -> String {
    let quota = window.map_or_else(|| "quota".to_owned(), |window| format!("{} quota", window.as_str()));
    format!("{account} has used up its {quota}. It will be tried again {when}.")
}

/// A moment for a person: the time of day, and how long it is until then.
#[must_use]
pub fn moment(at_ms: u64, now_ms: u64, utc_offset_minutes: i32) -> String {
    let minutes = i64::try_from(at_ms / 60_000).unwrap_or(i64::MAX / 2) + i64::from(utc_offset_minutes);
    let (hour, minute) = (minutes.rem_euclid(1440) / 60, minutes.rem_euclid(60));
    format!("at {hour:02}:{minute:02} (in {})", duration(at_ms.saturating_sub(now_ms)))
}

/// A time span for a person, in its two largest units.
fn duration(ms: u64) -> String {
    let minutes = ms.div_ceil(60_000);
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min"),
        (0, _) if minutes == 0 => format!("{hours} h"),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds_retry_word(text: &str) -> bool {
        RETRY_WORDS.iter().any(|word| text.to_ascii_lowercase().contains(word))
    }

    fn cooling(count: usize, free_at: u64) -> CoolingAccounts<'static> {
        CoolingAccounts { why: Cooling::OutOfQuota, count, free_at, window: None, dearer: &[] }
    }

    #[test]
    fn the_part_of_the_quota_that_is_spent_and_who_could_go_on_are_named() {
        let now = 1_795_500_000_000;
        let hour = CoolingAccounts { window: Some(QuotaWindow::FiveHours), ..cooling(1, now + 3_600_000) };
        assert_eq!(
            all_cooling(&hour, now, 0),
            "This Qwen account has used up its 5-hour quota. It will be tried again at 07:00 (in 1 h). Wait until then, or add an account with `opencode auth login`."
        );
        let dearer = ["Billed".to_owned()];
        let week = CoolingAccounts { window: Some(QuotaWindow::Week), dearer: &dearer, ..hour };
        assert_eq!(
            all_cooling(&week, now, 0),
            "This Qwen account has used up its weekly quota. It will be tried again at 07:00 (in 1 h). Wait until then, or go on with \"Billed\", which costs more: `npx opencode-qwen-cli-auth use \"Billed\"`."
        );
    }

    #[test]
    fn a_used_up_quota_is_final_and_says_when_it_is_free() {
        let now = 1_795_500_000_000;
        let message = all_cooling(&cooling(3, now + 720_000), now, 60);
        assert_eq!(
            message,
            "All 3 accounts are out of quota; the next is free at 07:12 (in 12 min). Wait until then, or add an account with `opencode auth login`."
        );
        let final_error = FinalError::of_cooling(Cooling::OutOfQuota, &message);
        assert_eq!((final_error.status, final_error.message), (StatusCode::PAYMENT_REQUIRED, message));
    }

    #[test]
    fn a_short_wait_passes_and_a_long_one_does_not() {
        assert_eq!(FinalError::of_rate_limit(Some(5_000), 0, 0), None);
        assert_eq!(FinalError::of_rate_limit(None, 0, 0), None);
        assert!(
            FinalError::of_rate_limit(Some(3_600_000), 0, 0).unwrap().message.contains("at 01:00 (in 1 h)")
        );
    }

    #[test]
    fn trouble_that_may_pass_is_left_to_the_hosts_retries() {
        assert_eq!(FinalError::of_error(&Error::new(Code::RefreshUnavailable, "x").retryable()), None);
        assert_eq!(
            FinalError::of_error(&Error::new(Code::NotLoggedIn, "x")).unwrap().status,
            StatusCode::UNAUTHORIZED
        );
    }

    #[test]
    fn spans_are_short() {
        for (ms, text) in [
            (1, "1 min"),
            (720_000, "12 min"),
            (3_600_000, "1 h"),
            (5_400_000, "1 h 30 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    proptest! {
        #[test]
        fn no_retry_word_survives_and_nothing_else_changes(text in "([a-z ]{0,3}(429|500|timeout|Time-out|EXHAUSTED|rate limit|5000|unavailable)){0,4}") {
            let made_plain = plain(&text);
            prop_assert!(!holds_retry_word(&made_plain));
            prop_assert_eq!(made_plain.replace('\u{2060}', ""), text);
        }

        #[test]
        fn any_moment_is_free_of_retry_words(accounts in 1_usize..100, free_at in any::<u64>(), now in any::<u64>(), offset in -840..840) {
            let message = all_cooling(&cooling(accounts, free_at), now, offset);
            prop_assert!(!holds_retry_word(&plain(&message)));
        }
    }
}
