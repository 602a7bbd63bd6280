//! Errors as `OpenCode` must get them: said once, and not retried. Pure.
//!
//! `OpenCode` shows a 4xx with a message as it is, retries a 429 for as long as its `Retry-After` says, in silence, and
//! takes any error that holds one of its retry words for a 429.

use http::StatusCode;

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

    /// An error that no waiting fixes, in the server's own words.
    #[must_use]
    pub fn of_server(code: Code, words: &str) -> Self {
        let (status, otherwise) = match code {
            Code::PaymentRequired => (
                StatusCode::PAYMENT_REQUIRED,
                "Alibaba refuses this account's requests until its bill is paid.",
            ),
            Code::PermissionDenied => {
                (StatusCode::FORBIDDEN, "The rules of this account don't allow the request.")
            }
            _ => (StatusCode::BAD_REQUEST, "This account can't use the model."),
        };
        Self::new(status, code, if words.is_empty() { otherwise } else { words })
    }

    /// What to make of a rate limit; `None` where it is so short that the host may wait.
    #[must_use]
    pub fn of_rate_limit(retry_after_ms: Option<u64>, now_ms: u64, utc_offset_minutes: i32) -> Option<Self> {
        let wait = retry_after_ms.filter(|ms| *ms > SHORT_WAIT_MS)?;
        let when = moment(now_ms.saturating_add(wait), now_ms, utc_offset_minutes);
        let message =
            format!("This Qwen account takes no more requests for now. It will be tried again {when}.");
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
    }
}
