//! What an API answer means for the account it was asked with. Pure.

use serde_json::Value;

use super::quota::{reset_of, window_of};
use crate::accounts::cooldown::QuotaWindow;

/// The meaning of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the caller's: a success, or an error that says nothing of the account.
    Pass,
    /// The access token was refused.
    TokenRejected,
    /// The account's quota is used up.
    QuotaExhausted,
    /// Too many requests just now; the account is fine.
    RateLimited,
}

impl Verdict {
    /// Its name in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::TokenRejected => "token-rejected",
            Self::QuotaExhausted => "quota-exhausted",
            Self::RateLimited => "rate-limited",
        }
    }
}

/// Whether the body has to be looked at to tell what the answer means.
#[must_use]
pub fn needs_body(status: u16) -> bool {
    matches!(status, 401 | 403 | 429)
}

/// Decides what an answer means. `body` may be cut.
#[must_use]
pub fn classify(status: u16, body: &[u8]) -> Verdict {
    let error = ApiError::read(body);
    match status {
        401 => Verdict::TokenRejected,
        403 | 429 if error.is_quota() => Verdict::QuotaExhausted,
        429 => Verdict::RateLimited,
        403 if error.is_about_token() => Verdict::TokenRejected,
        _ => Verdict::Pass,
    }
}

/// The part of a quota that an error says is spent.
#[must_use]
pub fn quota_window(body: &[u8]) -> Option<QuotaWindow> {
    window_of(&ApiError::read(body).message)
}

/// When a spent quota comes back, in epoch milliseconds, where that is known.
#[must_use]
pub fn quota_reset(body: &[u8], now_ms: u64) -> Option<u64> {
    let message = ApiError::read(body).message;
    reset_of(&message, window_of(&message), now_ms)
}

/// The server's own code of an error body.
#[must_use]
pub fn error_code(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let error = value.get("error").filter(|error| error.is_object()).unwrap_or(&value);
    ["code", "type"].iter().find_map(|name| error.get(*name)?.as_str()).map(str::to_owned)
}

/// The parts of an OpenAI-style error, in lower case.
#[derive(Debug, Default)]
struct ApiError {
    code: String,
    kind: String,
    message: String,
}

impl ApiError {
    fn read(body: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(body) else { return Self::default() };
        // DashScope's own form has the fields at the top.
        let error = value.get("error").filter(|error| error.is_object()).unwrap_or(&value);
        let field =
            |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
        Self { code: field("code"), kind: field("type"), message: field("message") }
    }

    fn is_quota(&self) -> bool {
        let named = |name: &str| self.code == name || self.kind == name;
        if named("insufficient_quota") || named("quota_exceeded") {
            return !self.message.contains("concurrency");
        }
        self.message.contains("free allocated quota exceeded") || window_of(&self.message).is_some()
    }

    fn is_about_token(&self) -> bool {
        ["invalid access token", "token expired", "access denied"]
            .iter()
            .any(|words| self.message.contains(words))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn verdict(status: u16, code: &str, message: &str) -> Verdict {
        classify(status, json!({"error": {"code": code, "message": message}}).to_string().as_bytes())
    }

    #[test]
    fn quota_is_not_a_rate_limit() {
        assert_eq!(
            verdict(429, "insufficient_quota", "Free allocated quota exceeded."),
            Verdict::QuotaExhausted
        );
        assert_eq!(verdict(403, "insufficient_quota", ""), Verdict::QuotaExhausted);
        assert_eq!(classify(403, br#"{"error":{"type":"quota_exceeded"}}"#), Verdict::QuotaExhausted);
        assert_eq!(verdict(429, "", "week allocated quota exceeded"), Verdict::QuotaExhausted);
        assert_eq!(
            verdict(429, "insufficient_quota", "concurrency allocated quota exceeded"),
            Verdict::RateLimited
        );
        assert_eq!(verdict(429, "Throttling.RateQuota", "slow"), Verdict::RateLimited);
        assert_eq!(verdict(429, "Throttling.AllocationQuota", "slow"), Verdict::RateLimited);
        assert_eq!(classify(429, b"<html>"), Verdict::RateLimited);
    }

    #[test]
    fn a_refused_token_is_not_a_forbidden_thing() {
        assert_eq!(
            verdict(401, "invalid_api_key", "invalid access token or token expired"),
            Verdict::TokenRejected
        );
        assert_eq!(classify(401, b""), Verdict::TokenRejected);
        assert_eq!(verdict(403, "", "Access denied."), Verdict::TokenRejected);
        assert_eq!(classify(403, br#"{"code":"x","message":"Token expired"}"#), Verdict::TokenRejected);
        assert_eq!(verdict(403, "content_filter", "not in your region"), Verdict::Pass);
    }

    proptest! {
        #[test]
        fn only_three_statuses_are_about_the_account(status in 100_u16..600, body in proptest::collection::vec(any::<u8>(), 0..80)) {
            if !needs_body(status) {
                prop_assert_eq!(classify(status, &body), Verdict::Pass);
            }
        }
    }
}
