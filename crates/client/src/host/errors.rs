//! Makes errors final for `OpenCode`, so that it shows them once and does not retry. Pure.
//!
//! `OpenCode` shows the message of a 4xx unchanged. It retries a 429 silently for as long as `Retry-After` says, and treats
//! any error that contains one of its retry words as a 429. After an error with one of its overflow words it replaces the
//! conversation by a summary. To break a word is to insert an invisible character after its first letter.

use http::StatusCode;
use qwen_base::{Code, Error, MAX_MESSAGE, is_unsafe, truncate};
use serde_json::Value;

use crate::lenient_json::{parsed, written};
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
/// `OpenCode` replaces the conversation by a summary after an error that contains one of these. A space also matches `-` and `_`.
const OVERFLOW_WORDS: [&str; 23] = [
    "prompt is too long",
    "prompt too long",
    "input is too long",
    "input length",
    "input token count",
    "exceeds the context window",
    "exceeds the limit of",
    "exceeds the available context size",
    "exceeded model token limit",
    "maximum prompt length",
    "maximum context length",
    "reduce the length of the messages",
    "greater than the context length",
    "context length is only",
    "context length exceeded",
    "context window exceed",
    "request entity too large",
    "request too large",
    "too large for model",
    "too many tokens",
    "token limit exceeded",
    "(no body)",
    "context overflow",
];

/// An error that a host shows and does not retry.
#[derive(Debug, PartialEq, Eq)]
pub struct FinalError {
    pub status: StatusCode,
    /// The message, without a retry word. It may have several lines.
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
            ("", _) if reading.is_of_proxy => format!(
                "A proxy or gateway answered with status {} in place of Qwen. Check the network's login and the proxy variables.",
                status.as_u16()
            ),
            ("", _) => {
                format!("Qwen refused the request with status {} and gave no reason.", status.as_u16())
            }
            (words, Verdict::TooLong { .. }) => without_retry_words(words),
            (words, _) => plain(words),
        };
        let mut server_code = reading.code().map(plain);
        if let Verdict::TooLong { limit } = reading.verdict {
            // This code and message make the host compact the conversation.
            server_code = Some("context_length_exceeded".to_owned());
            if let Some(limit) = limit.filter(|_| !message.contains("maximum context length")) {
                let said = format!("This model's maximum context length is {limit} tokens. {message}");
                message = without_retry_words(&said);
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

/// Cuts a message to 2,000 bytes, replaces its control characters by spaces, and breaks its retry and overflow words.
#[must_use]
pub fn plain(message: &str) -> String {
    break_words(&visible(message), |text| {
        starts_with_any(text, &RETRY_WORDS) || starts_with_any(text, &OVERFLOW_WORDS)
    })
}

/// Breaks only the retry words. `OpenCode` may replace the conversation by a summary after this message.
fn without_retry_words(message: &str) -> String {
    break_words(&visible(message), |text| starts_with_any(text, &RETRY_WORDS))
}

/// Breaks the overflow words in an error body, and replaces its control characters by spaces. Returns `None` if the body needs
/// no change.
#[must_use]
pub fn calmed(body: &[u8]) -> Option<String> {
    let calm = |text: &str| break_words(text, |text| starts_with_any(text, &OVERFLOW_WORDS));
    let Some(document) = parsed(body).filter(Value::is_object) else {
        let text = String::from_utf8_lossy(body);
        let calmed = calm(&without_controls(&text, &['\n', '\r', '\t']));
        return (calmed != text).then_some(calmed);
    };
    let mut calmed = document.clone();
    for_each_text(&mut calmed, &|text| calm(&without_controls(text, &['\n', '\t'])));
    (calmed != document).then(|| written(&calmed))
}

fn for_each_text(value: &mut Value, change: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| for_each_text(item, change)),
        Value::Object(fields) => fields.values_mut().for_each(|value| for_each_text(value, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn starts_with_any(text: &[u8], words: &[&str]) -> bool {
    words.iter().any(|word| text.starts_with(word.as_bytes()))
}

/// Cuts a text to 2,000 bytes, and replaces its control characters except newline and tab by spaces.
fn visible(text: &str) -> String {
    without_controls(truncate(text, MAX_MESSAGE), &['\n', '\t'])
}

/// Replaces the characters that control a terminal or reorder a line by spaces.
fn without_controls(text: &str, kept: &[char]) -> String {
    text.replace(|character| is_unsafe(character) && !kept.contains(&character), " ")
}

/// Inserts an invisible character after the first character of each retry or overflow word.
fn break_words(text: &str, is_word: impl Fn(&[u8]) -> bool) -> String {
    const WORD_JOINER: char = '\u{2060}';
    let folded = Folded::of(text);
    let (mut broken, mut copied) = (String::new(), 0);
    for start in (0..folded.text.len()).filter(|start| is_word(&folded.text[*start..])) {
        let end = folded.origins[start] + 1;
        broken.push_str(&text[copied..end]);
        broken.push(WORD_JOINER);
        copied = end;
    }
    broken.push_str(&text[copied..]);
    broken
}

/// A text as the host compares it: in lower case, with one space for each run of white space, `-` and `_`.
struct Folded {
    text: Vec<u8>,
    /// The position in the text of each byte.
    origins: Vec<usize>,
}

impl Folded {
    fn of(text: &str) -> Self {
        let mut folded = Self { text: Vec::new(), origins: Vec::new() };
        for (at, character) in text.char_indices() {
            let is_space = character.is_whitespace() || matches!(character, '-' | '_' | '\u{feff}');
            // Only ASCII characters are part of a word.
            let byte = match u8::try_from(character) {
                _ if is_space && folded.text.last() == Some(&b' ') => continue,
                _ if is_space => b' ',
                Ok(byte) if byte.is_ascii() => byte.to_ascii_lowercase(),
                _ => 0,
            };
            folded.text.push(byte);
            folded.origins.push(at);
        }
        folded
    }
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
    use crate::verdict::RequestContext;

    fn holds(text: &str, words: &[&str]) -> bool {
        let text = Folded::of(text).text;
        (0..text.len()).any(|start| starts_with_any(&text[start..], words))
    }

    fn holds_retry_word(text: &str) -> bool {
        holds(text, &RETRY_WORDS)
    }

    #[test]
    fn an_error_that_no_waiting_fixes_keeps_the_servers_words() {
        let context = RequestContext { is_key: true, model: "m", now_ms: 0 };
        let of = |status, code: &str, message: &str| {
            let body = json!({"error": {"code": code, "message": message}, "request_id": "a5021c9e-4290"});
            FinalError::of_reading(&Reading::of_body(status, body.to_string().as_bytes(), &context))
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
        let page = Reading::of_body(403, b"<html>429</html>", &context);
        let page = FinalError::of_reading(&page).unwrap();
        assert_eq!(page.message, "Qwen refused the request with status 403 and gave no reason.");
        assert!(plain(&"5".repeat(9_000)).len() <= MAX_MESSAGE);
    }

    #[test]
    fn only_a_conversation_that_is_too_long_makes_the_host_compact() {
        for message in [
            "The prompt is too long: 9 > 1 maximum",
            "Input is too long for requested model.",
            "Your input exceeds the context window of this model",
            "The input token count (9) exceeds the maximum number of tokens allowed (1)",
            "This model's maximum prompt length is 1 but the request contains 9 tokens",
            "Please reduce the length of the messages or completion",
            "This model's maximum context length is 1 tokens.",
            "The prompt token count of 9 exceeds the limit of 1",
            "the request exceeds the available context size",
            "tokens to keep is greater than the context length",
            "invalid params, context window exceeds limit",
            "Your request exceeded model token limit: 1",
            "context_length_exceeded",
            "Request Entity  Too\u{a0}Large",
            "Too many tokens per\u{1b}[31m minute",
            "token limit exceeded",
            "input length 9 exceeds",
            "400 status code (no body)",
        ] {
            let body = json!({"error": {"message": message, "code": message}}).to_string();
            let calm = calmed(body.as_bytes()).unwrap();
            for text in [&plain(message), &calm, &calmed(message.as_bytes()).unwrap()] {
                assert!(!holds(text, &OVERFLOW_WORDS) && !text.contains('\u{1b}'), "{text}");
            }
            let shown: Value = serde_json::from_str(&calm).unwrap();
            assert_eq!(
                shown["error"]["message"].as_str().unwrap().replace('\u{2060}', ""),
                message.replace('\u{1b}', " ")
            );
        }
        // The host waits for this one, in the server's words.
        let limit = r#"{"error":{"message":"Requests rate limit exceeded, try again later"},"n":[1,null]}"#;
        assert_eq!(calmed(limit.as_bytes()), None);
        assert_eq!(calmed(b"<html>\r\n\t503</html>"), None);
        let context = RequestContext { is_key: true, model: "m", now_ms: 0 };
        let long = br#"{"error":{"message":"This model's maximum context length is 98304 tokens."}}"#;
        let long = FinalError::of_reading(&Reading::of_body(400, long, &context)).unwrap();
        assert_eq!(long.message, "This model's maximum context length is 98304 tokens.");
    }

    #[test]
    fn words_are_found_across_all_white_space_and_control_characters_are_not_shown() {
        for (message, shown) in [
            ("Rate\u{a0}limit", "R\u{2060}ate\u{a0}limit"),
            ("try  again\t\nin 5 s", "t\u{2060}ry  again\t\nin 5 s"),
            ("too\u{3000}many-_requests", "t\u{2060}oo\u{3000}many-_requests"),
            ("server\u{0}error", "s\u{2060}erver error"),
            ("a\u{1b}[31mb\u{9b}c\u{202e}d\u{2066}e\rf", "a [31mb c d e f"),
            ("epipepipe", "e\u{2060}pipe\u{2060}pipe"),
            ("é 5000 ü", "é 5\u{2060}000 ü"),
        ] {
            assert_eq!(plain(message), shown);
        }
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
        fn no_word_survives_and_nothing_else_changes(text in "([a-z ]{0,3}(429|500|timeout|Time-out|EXHAUSTED|rate limit|Rate_Limit|5000|unavailable|prompt is too long|Too\u{a0}\tmany_tokens)){0,4}") {
            let made_plain = plain(&text);
            prop_assert!(!holds_retry_word(&made_plain) && !holds(&made_plain, &OVERFLOW_WORDS));
            prop_assert_eq!(made_plain.replace('\u{2060}', ""), text);
        }
    }
}
