//! Polling for the device access token (RFC 8628 sections 3.4 and 3.5) as a pure state machine.

use std::time::Duration;

use qwen_base::{Code, Error};
use serde_json::{Map, Value};

use super::device::finite_duration;
use super::error_response::{OAuthAnswer, OAuthBody};
use super::redemption::{read_token, unreadable};
use crate::model::{Token, fields::text};

/// Interval if the server names none (RFC 8628 section 3.2).
pub const DEFAULT_INTERVAL_S: f64 = 5.0;
/// Added to the interval at each `slow_down` (RFC 8628 section 3.5).
const SLOW_DOWN_STEP: Duration = Duration::from_secs(5);
/// Timeouts double the interval up to this (RFC 8628 section 3.5 asks for a back-off).
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Shortest interval, since 0 would be a busy loop.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Meaning of one poll's answer.
#[derive(Debug, Clone)]
pub enum PollReply {
    /// The user approved.
    Approved(Token),
    /// The user has not decided yet.
    Pending,
    /// Poll less often.
    SlowDown,
    /// No usable answer: poll again.
    Trouble(Error),
    /// The login has failed.
    Failed(Error),
}

/// Interval and end of the polling.
#[derive(Debug, Clone)]
pub struct Polling {
    interval: Duration,
    expires_in: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait, then ask.
    AskAfter(Duration),
    /// Wait, then give up: the device code will have expired.
    ExpireAfter(Duration),
}

impl Polling {
    /// Creates the polling from the seconds in the device authorization answer.
    pub fn new(interval_s: f64, expires_in_s: f64) -> Self {
        Self {
            interval: finite_duration(interval_s).max(MIN_INTERVAL),
            expires_in: finite_duration(expires_in_s),
        }
    }

    /// Returns the next step, `elapsed` after the start.
    pub fn next(&self, elapsed: Duration) -> Next {
        let left = self.left(elapsed);
        if self.interval < left { Next::AskAfter(self.interval) } else { Next::ExpireAfter(left) }
    }

    /// Remaining lifetime of the device code, `elapsed` after the start.
    pub fn left(&self, elapsed: Duration) -> Duration {
        self.expires_in.saturating_sub(elapsed)
    }

    /// Adapts the interval to a reply.
    pub fn note(&mut self, reply: &PollReply) {
        match reply {
            PollReply::SlowDown => self.interval += SLOW_DOWN_STEP,
            PollReply::Trouble(error) if error.code() == Code::Timeout => {
                self.interval =
                    (self.interval * 2).clamp(self.interval.min(MAX_BACKOFF), MAX_BACKOFF.max(self.interval));
            }
            _ => {}
        }
    }
}

/// Interprets an answer, in RFC 8628's terms and in Qwen's dialect.
#[must_use]
pub fn read_poll(answer: &OAuthAnswer, now_ms: u64) -> PollReply {
    match answer.error() {
        Some("authorization_pending") => return PollReply::Pending,
        Some("slow_down") => return PollReply::SlowDown,
        Some("access_denied") => {
            return failed(
                Code::AccessDenied,
                "The login was refused in the browser. Log in again and approve it.",
                answer,
            );
        }
        Some("expired_token") => return expired(answer),
        _ => {}
    }
    match (answer.status, &answer.body) {
        (200..=299, OAuthBody::Object(object)) => approved(object, answer, now_ms),
        (429, _) => PollReply::SlowDown,
        (401, OAuthBody::NotJson { empty: true }) => expired(answer),
        (500..=599, body) | (_, body @ OAuthBody::NotJson { .. }) => {
            PollReply::Trouble(unreadable(body).with_status(answer.status).retryable())
        }
        (401, _) if !matches!(answer.error(), Some("invalid_client" | "unauthorized_client")) => {
            expired(answer)
        }
        (_, OAuthBody::Object(_)) => {
            let error = answer.printable_error();
            let message = format!(
                "The OAuth server ended the login: {} (HTTP status {}). Log in again; if it stays, check the OAuth settings.",
                error.as_deref().unwrap_or("no reason given"),
                answer.status
            );
            failed(Code::OAuthError, &message, answer)
        }
        (_, body) => PollReply::Failed(unreadable(body).with_status(answer.status)),
    }
}

fn approved(object: &Map<String, Value>, answer: &OAuthAnswer, now_ms: u64) -> PollReply {
    if text(object, "access_token").is_none() && text(object, "status") == Some("pending") {
        return PollReply::Pending;
    }
    match read_token(object, now_ms) {
        Ok(token) => PollReply::Approved(token),
        Err(error) => PollReply::Failed(error.with_status(answer.status)),
    }
}

pub fn expired_error() -> Error {
    Error::new(
        Code::DeviceCodeExpired,
        "The login was not approved in time, and its code has expired. Log in again.",
    )
}

fn expired(answer: &OAuthAnswer) -> PollReply {
    PollReply::Failed(expired_error().with_status(answer.status).with_oauth_error(answer.printable_error()))
}

fn failed(code: Code, message: &str, answer: &OAuthAnswer) -> PollReply {
    PollReply::Failed(
        Error::new(code, message).with_status(answer.status).with_oauth_error(answer.printable_error()),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(status: u16, body: &str) -> PollReply {
        read_poll(
            &OAuthAnswer { status, retry_after_ms: None, body: OAuthBody::read(Some(body.as_bytes())) },
            0,
        )
    }

    #[test]
    fn replies_in_qwens_dialect_and_of_the_rfc_are_read() {
        assert!(matches!(read(400, r#"{"error":"authorization_pending"}"#), PollReply::Pending));
        assert!(matches!(read(200, r#"{"status":"pending"}"#), PollReply::Pending));
        assert!(matches!(read(429, r#"{"error":"slow_down"}"#), PollReply::SlowDown));
        assert!(matches!(read(400, r#"{"error":"slow_down"}"#), PollReply::SlowDown));
        assert!(matches!(read(429, r#"{"message":"too many"}"#), PollReply::SlowDown));
        assert!(matches!(read(504, "<html>Gateway Time-out</html>"), PollReply::Trouble(_)));
        assert!(matches!(read(200, "<html>wifi</html>"), PollReply::Trouble(_)));
        assert!(matches!(read(502, r#"{"error":"bad_gateway"}"#), PollReply::Trouble(_)));
        assert!(matches!(read(200, r#"{"access_token":"a"}"#), PollReply::Approved(_)));
    }

    #[test]
    fn errors_that_end_the_polling_have_codes() {
        let code = |status, body: &str| match read(status, body) {
            PollReply::Failed(error) => error.code(),
            other => panic!("{status} {body}: {other:?}"),
        };
        assert_eq!(code(400, r#"{"error":"access_denied"}"#), Code::AccessDenied);
        assert_eq!(code(403, r#"{"error":"access_denied"}"#), Code::AccessDenied);
        assert_eq!(code(400, r#"{"error":"expired_token"}"#), Code::DeviceCodeExpired);
        assert_eq!(code(401, ""), Code::DeviceCodeExpired);
        assert_eq!(code(401, r#"{"error":"invalid_token"}"#), Code::DeviceCodeExpired);
        assert_eq!(code(401, r#"{"error":"invalid_client"}"#), Code::OAuthError);
        assert_eq!(code(400, r#"{"error":"invalid_grant"}"#), Code::OAuthError);
        assert_eq!(code(200, r#"{"access_token":""}"#), Code::InvalidResponse);
        assert_eq!(code(200, "[]"), Code::InvalidResponse);
    }

    proptest! {
        #[test]
        fn the_interval_never_shrinks_and_the_end_is_never_passed(
            interval in 0.0_f64..100.0, expires_in in 0.0_f64..2000.0, steps in proptest::collection::vec(0_u8..3, 0..60),
        ) {
            let mut polling = Polling::new(interval, expires_in);
            let mut elapsed = Duration::ZERO;
            let mut slowdowns = 0;
            for step in steps {
                match polling.next(elapsed) {
                    Next::ExpireAfter(left) => {
                        prop_assert_eq!(elapsed + left, finite_duration(expires_in).max(elapsed));
                        return Ok(());
                    }
                    Next::AskAfter(wait) => {
                        prop_assert!(wait >= finite_duration(interval) + SLOW_DOWN_STEP * slowdowns);
                        elapsed += wait;
                        prop_assert!(elapsed < finite_duration(expires_in));
                    }
                }
                let reply = match step {
                    0 => PollReply::Pending,
                    1 => PollReply::SlowDown,
                    _ => PollReply::Trouble(Error::new(Code::Timeout, "")),
                };
                slowdowns += u32::from(step == 1);
                polling.note(&reply);
            }
        }
    }
}
