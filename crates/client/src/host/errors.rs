//! Makes errors final for `OpenCode`, so that it shows them once and does not retry. Pure.
//!
//! `OpenCode` shows the message of a 4xx unchanged. It retries a 429 silently for as long as `Retry-After` says, and treats
//! any error that contains one of its retry words as a 429.

use http::StatusCode;
use qwen_base::{Code, Error};

use crate::verdict::{Reading, Verdict};

/// Longest rate limit, in milliseconds, that `OpenCode` waits for.
pub const SHORT_WAIT_MS: u64 = 60_000;

/// `OpenCode` 1.18 retries an error that contains one of these. A space also matches `-` and `_`.
const RETRY_WORDS: [&str; 46] = [
    "429",
    "500",
    "502",
    "503",
    "504",
    "524",
    "rate increased too quickly",
    "rate limit",
    "ratelimit",
    "too many requests",
    "overloaded",
    "unavailable",
    "internal error",
    "server error",
    "provider returned error",
    "terminated",
    "fetch failed",
    "failed to fetch",
    "network error",
    "upstream connect",
    "connection error",
    "connection refused",
    "connection lost",
    "socket connection was closed",
    "socket hang up",
    "reset before headers",
    "getaddrinfo",
    "econnreset",
    "econnrefused",
    "econnaborted",
    "etimedout",
    "enotfound",
    "epipe",
    "ehostunreach",
    "enetunreach",
    "eai again",
    "timeout",
    "time out",
    "timed out",
    "try your request again",
    "retry your request",
    "exhausted",
    "try again later",
    "try again in",
    "at capacity",
    "enetdown",
];
/// Longest message for a host, in bytes.
const MAX_SHOWN: usize = 2_000;

/// An error that a host shows and does not retry.
#[derive(Debug, PartialEq, Eq)]
pub struct FinalError {
    pub status: StatusCode,
    /// One line without a retry word.
    pub message: String,
    /// The error of this package, if it is one.
    pub code: Option<Code>,
    /// The API's error code, without a retry word.
    pub server_code: Option<String>,
}

impl FinalError {
    fn new(status: StatusCode, code: Code, message: &str) -> Self {
        Self { status, message: plain(message), code: Some(code), server_code: None }
    }

    /// Returns a server error that no waiting fixes, in the server's words; `None` if the host may retry it.
    #[must_use]
    pub fn of_reading(reading: &Reading) -> Option<Self> {
        let status = match (reading.status, reading.verdict) {
            (_, Verdict::PaymentRequired) => 402,
            (408 | 425 | 429, _) => return None,
            // The host retries a conflict.
            (409, _) => 400,
            (status, _) => status,
        };
        let status = StatusCode::from_u16(status).ok().filter(StatusCode::is_client_error)?;
        let code = match reading.verdict {
            Verdict::PaymentRequired => Some(Code::PaymentRequired),
            Verdict::ModelUnavailable => Some(Code::ModelUnavailable),
            Verdict::PermissionDenied => Some(Code::PermissionDenied),
            _ => None,
        };
        let mut message = match (reading.message(), reading.verdict) {
            ("", Verdict::PaymentRequired) => {
                "Alibaba refuses this account's requests until its bill is paid.".to_owned()
            }
            ("", Verdict::ModelUnavailable) => "This account does not have the model.".to_owned(),
            ("", _) if reading.is_of_gateway => format!(
                "A proxy or gateway answered with status {} in place of Qwen. Check the network's login and the proxy variables.",
                status.as_u16()
            ),
            ("", _) => {
                format!("Qwen refused the request with status {} and gave no reason.", status.as_u16())
            }
            (words, _) => plain(words),
        };
        let mut server_code = reading.code().map(plain);
        if let Verdict::TooLong { limit } = reading.verdict {
            // This code and message make the host compact the conversation.
            server_code = Some("context_length_exceeded".to_owned());
            if let Some(limit) = limit.filter(|_| !message.contains("maximum context length")) {
                message = plain(&format!("This model's maximum context length is {limit} tokens. {message}"));
            }
        }
        Some(Self { status, message, code, server_code })
    }

    /// Returns the error for a rate limit; `None` if it is so short that the host may wait.
    #[must_use]
    pub fn of_rate_limit(retry_after_ms: Option<u64>, now_ms: u64, utc_offset_minutes: i32) -> Option<Self> {
        let wait = retry_after_ms.filter(|ms| *ms > SHORT_WAIT_MS)?;
        let when = moment(now_ms.saturating_add(wait), now_ms, utc_offset_minutes);
        let message =
            format!("This Qwen account takes no more requests for now. It will be tried again {when}.");
        Some(Self::new(StatusCode::PAYMENT_REQUIRED, Code::RateLimited, &message))
    }

    /// Returns the final form of an error; `None` if it may pass without action, so that the host may retry.
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

    /// Returns the error for a stream that ended before any content.
    #[must_use]
    pub fn of_stream(problem: &Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, problem.code(), problem.message())
    }
}

/// Breaks the retry words of a message with an invisible character, and cuts the message to 2,000 bytes.
#[must_use]
pub fn plain(message: &str) -> String {
    const WORD_JOINER: char = '\u{2060}';
    let end =
        (0..=message.len().min(MAX_SHOWN)).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    let mut text = message[..end].to_owned();
    let mut folded = folded(&text);
    for word in RETRY_WORDS {
        while let Some(at) = folded.find(word) {
            text.insert(at + 1, WORD_JOINER);
            folded.insert(at + 1, WORD_JOINER);
        }
    }
    text
}

/// Folds a text as the host does before it compares. The length in bytes stays the same.
fn folded(text: &str) -> String {
    text.to_ascii_lowercase().replace(['-', '_'], " ")
}

/// Formats a moment for users: `at 07:00 (in 1 h)`.
#[must_use]
pub fn moment(at_ms: u64, now_ms: u64, utc_offset_minutes: i32) -> String {
    let minutes = i64::try_from(at_ms / 60_000).unwrap_or(i64::MAX / 2) + i64::from(utc_offset_minutes);
    let (hour, minute) = (minutes.rem_euclid(1440) / 60, minutes.rem_euclid(60));
    format!("at {hour:02}:{minute:02} (in {})", duration(at_ms.saturating_sub(now_ms)))
}

/// Formats a time span for users, in its two largest units.
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
    use serde_json::json;

    use super::*;
    use crate::verdict::Asked;

    fn holds_retry_word(text: &str) -> bool {
        RETRY_WORDS.iter().any(|word| folded(text).contains(word))
    }

    #[test]
    fn an_error_that_no_waiting_fixes_keeps_the_servers_words() {
        let asked = Asked { is_key: true, model: "m", now_ms: 0 };
        let of = |status, code: &str, message: &str| {
            let body = json!({"error": {"code": code, "message": message}, "request_id": "a5021c9e-4290"});
            FinalError::of_reading(&Reading::of_body(status, body.to_string().as_bytes(), &asked))
        };
        for (status, code, message, shown) in [
            (400, "InvalidParameter", "tools is invalid", 400),
            (404, "", "qwen3-max-2504 is out of range", 404),
            (409, "", "conflict: server error 503", 409 - 9),
            (400, "Arrearage", "Access denied", 402),
            (403, "InternalError", "network_error: ECONNRESET, try again in 5 s", 403),
        ] {
            let found = of(status, code, message).unwrap();
            assert_eq!(
                (found.status.as_u16(), found.message.replace('\u{2060}', "")),
                (shown, message.to_owned())
            );
            assert!(
                !holds_retry_word(&found.message)
                    && !found.server_code.is_some_and(|code| holds_retry_word(&code))
            );
        }
        let long = of(400, "InvalidParameter", "Range of input length should be [1, 98304]").unwrap();
        assert_eq!(long.server_code.as_deref(), Some("context_length_exceeded"));
        assert!(long.message.starts_with("This model's maximum context length is 98304 tokens. Range of"));
        for status in [408, 429, 500, 503, 200] {
            assert_eq!(of(status, "", "x"), None);
        }
        let page = Reading::of_body(403, b"<html>429</html>", &asked);
        let page = FinalError::of_reading(&page).unwrap();
        assert_eq!(page.message, "Qwen refused the request with status 403 and gave no reason.");
        assert!(plain(&"5".repeat(9_000)).len() <= MAX_SHOWN);
    }

    #[test]
    fn a_short_rate_limit_is_left_to_the_host_and_a_long_one_is_final() {
        assert_eq!(FinalError::of_rate_limit(Some(5_000), 0, 0), None);
        assert_eq!(FinalError::of_rate_limit(None, 0, 0), None);
        assert!(
            FinalError::of_rate_limit(Some(3_600_000), 0, 0).unwrap().message.contains("at 01:00 (in 1 h)")
        );
    }

    #[test]
    fn a_retryable_error_is_left_to_the_host() {
        assert_eq!(FinalError::of_error(&Error::new(Code::RefreshUnavailable, "x").retryable()), None);
        assert_eq!(
            FinalError::of_error(&Error::new(Code::NotLoggedIn, "x")).unwrap().status,
            StatusCode::UNAUTHORIZED
        );
    }

    #[test]
    fn a_time_span_has_two_units_at_most() {
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
        fn no_retry_word_survives_and_nothing_else_changes(text in "([a-z ]{0,3}(429|500|timeout|Time-out|EXHAUSTED|rate limit|Rate_Limit|5000|unavailable)){0,4}") {
            let made_plain = plain(&text);
            prop_assert!(!holds_retry_word(&made_plain));
            prop_assert_eq!(made_plain.replace('\u{2060}', ""), text);
        }
    }
}
