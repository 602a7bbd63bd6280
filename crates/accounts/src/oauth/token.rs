//! The token answer (RFC 6749 section 5.1) and what it means for a refresh. Pure.

use qwen_base::{Code, Error, Result, Secret};
use serde_json::{Map, Value};

use super::error_response::{Answer, Body, seconds, text};

/// A token is refreshed this long before it expires.
pub const FRESHNESS_MARGIN_MS: u64 = 30_000;
/// Assumed lifetime where the server names none.
const DEFAULT_LIFETIME_S: f64 = 3600.0;
/// Longer lifetimes are cut to this, so that an instant always fits a JavaScript number.
const MAX_LIFETIME_S: f64 = 100.0 * 365.0 * 24.0 * 3600.0;

/// Tokens as a server issued them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What authorizes API requests.
    pub access_token: Secret,
    /// What is redeemed for the next access token. A refresh answer may leave it out: the old one stays valid then.
    pub refresh_token: Option<Secret>,
    /// `Bearer`, in practice.
    pub token_type: String,
    /// The API host the token is valid on, in Qwen's dialect.
    pub resource_url: Option<String>,
    /// The granted scope.
    pub scope: Option<String>,
    /// When the access token expires, in epoch milliseconds.
    pub expires_at: u64,
}

impl Token {
    /// Reads a token answer.
    ///
    /// An optional field of the wrong type counts as missing: the grant is spent, so what is usable must be kept.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_RESPONSE` without a usable `access_token`.
    pub fn from_answer(object: &Map<String, Value>, now_ms: u64) -> Result<Self> {
        let access_token = text(object, "access_token")
            .filter(|token| !token.chars().any(char::is_control))
            .ok_or_else(|| invalid("has no usable access_token"))?;
        let lifetime = seconds(object, "expires_in").unwrap_or(DEFAULT_LIFETIME_S).min(MAX_LIFETIME_S);
        Ok(Self {
            access_token: Secret::new(access_token),
            refresh_token: text(object, "refresh_token").map(Secret::new),
            token_type: text(object, "token_type").unwrap_or("Bearer").to_owned(),
            resource_url: text(object, "resource_url").map(str::to_owned),
            scope: text(object, "scope").map(str::to_owned),
            expires_at: now_ms.saturating_add(seconds_to_ms(lifetime)),
        })
    }

    /// Whether it can still be used for a while.
    #[must_use]
    pub fn is_fresh(&self, now_ms: u64) -> bool {
        self.expires_at > now_ms.saturating_add(FRESHNESS_MARGIN_MS)
    }

    /// The token with what a refresh answer left out taken from the token it replaces.
    #[must_use]
    pub fn or_else_from(mut self, old: &Self) -> Self {
        self.refresh_token = self.refresh_token.or_else(|| old.refresh_token.clone());
        self.resource_url = self.resource_url.or_else(|| old.resource_url.clone());
        self.scope = self.scope.or_else(|| old.scope.clone());
        self
    }
}

/// Seconds, at most [`MAX_LIFETIME_S`], in whole milliseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "callers pass 0 to MAX_LIFETIME_S"
)]
fn seconds_to_ms(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

/// An error for an answer that is not what the protocol promises.
pub(super) fn invalid(what: &str) -> Error {
    Error::new(
        Code::InvalidResponse,
        format!(
            "The answer of the OAuth server {what}. Check the OAuth URLs and any proxy in between, then try again."
        ),
    )
}

/// Why a body can't be used at all.
pub(super) fn unreadable(body: &Body) -> Error {
    match body {
        Body::Object(_) => invalid("lacks required fields"),
        Body::OtherJson => invalid("is not a JSON object"),
        Body::NotJson { empty: true } => invalid("is empty"),
        Body::NotJson { empty: false } => invalid("is not JSON"),
        Body::TooLarge => invalid("is larger than 1 MiB"),
    }
}

/// What one refresh request came to.
#[derive(Debug, Clone)]
pub enum Redemption {
    /// New tokens: the old refresh token is spent.
    Redeemed(Token),
    /// A verdict: this refresh token is dead.
    Refused(Error),
    /// The answer is a success that cannot be used; asking again could only make it worse.
    Unusable(Error),
    /// No verdict on the refresh token.
    Unavailable {
        /// What happened.
        cause: Error,
        /// Whether the request may have been carried out without its answer arriving.
        in_doubt: bool,
    },
}

/// Errors on status 400 that condemn the refresh token.
const VERDICTS: [&str; 4] = ["invalid_grant", "invalid_request", "invalid_client", "unauthorized_client"];

/// Decides what a refresh answer says. Only a JSON object with an `error` is a verdict; a captive portal's 403, a
/// redirect or a gateway's page is none.
#[must_use]
pub fn read_refresh(answer: &Answer, now_ms: u64) -> Redemption {
    if (200..300).contains(&answer.status) {
        return match &answer.body {
            Body::Object(object) => match Token::from_answer(object, now_ms) {
                Ok(token) => Redemption::Redeemed(token),
                Err(error) => Redemption::Unusable(error.with_status(answer.status)),
            },
            Body::OtherJson | Body::TooLarge => {
                Redemption::Unusable(unreadable(&answer.body).with_status(answer.status))
            }
            Body::NotJson { .. } => unavailable(unreadable(&answer.body), answer),
        };
    }
    let refused = match (answer.status, answer.error()) {
        (400, Some(error)) => VERDICTS.contains(&error),
        (401 | 403, Some(_)) => true,
        _ => false,
    };
    if refused {
        let error = answer.printable_error();
        let message = format!(
            "The Qwen login is no longer valid: the server refused its refresh token ({}). Log in again.",
            error.as_deref().unwrap_or("no reason given")
        );
        return Redemption::Refused(
            Error::new(Code::RefreshTokenInvalid, message).with_status(answer.status).with_oauth_error(error),
        );
    }
    let message = format!("The OAuth server answered with HTTP status {}.", answer.status);
    unavailable(Error::new(Code::OAuthError, message).with_oauth_error(answer.printable_error()), answer)
}

fn unavailable(cause: Error, answer: &Answer) -> Redemption {
    let cause = cause.with_status(answer.status).with_retry_after_ms(answer.retry_after_ms).retryable();
    Redemption::Unavailable { cause, in_doubt: false }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn answer(status: u16, body: &[u8]) -> Answer {
        Answer { status, retry_after_ms: None, body: Body::read(Some(body)) }
    }

    fn parse(value: &Value) -> Result<Token> {
        Token::from_answer(value.as_object().unwrap(), 1_000)
    }

    #[test]
    fn fields_of_the_wrong_type_count_as_missing() {
        let token = parse(&json!({"access_token": "a", "refresh_token": 1, "token_type": [], "resource_url": {}, "expires_in": "soon"})).unwrap();
        assert_eq!(token.refresh_token, None);
        assert_eq!(token.token_type, "Bearer");
        assert_eq!(token.resource_url, None);
        assert_eq!(token.expires_at, 1_000 + 3_600_000);
    }

    #[test]
    fn an_access_token_is_a_non_empty_string_without_control_characters() {
        for bad in [
            json!({}),
            json!({"access_token": ""}),
            json!({"access_token": 5}),
            json!({"access_token": "a\r\nX: y"}),
        ] {
            assert_eq!(parse(&bad).unwrap_err().code(), Code::InvalidResponse);
        }
    }

    #[test]
    fn a_refresh_keeps_what_the_answer_leaves_out() {
        let old =
            parse(&json!({"access_token": "a", "refresh_token": "r", "resource_url": "portal.qwen.ai"}))
                .unwrap();
        let new = parse(&json!({"access_token": "b"})).unwrap().or_else_from(&old);
        assert_eq!(new.refresh_token, old.refresh_token);
        assert_eq!(new.resource_url.as_deref(), Some("portal.qwen.ai"));
        assert_eq!(new.access_token.expose(), "b");
    }

    #[test]
    fn verdicts_are_json_errors_alone() {
        for (status, body) in [
            (400, r#"{"error":"invalid_grant"}"#),
            (400, r#"{"error":"invalid_request","error_description":"Invalid refresh token or client_id"}"#),
            (400, r#"{"error":"invalid_client"}"#),
            (400, r#"{"error":"unauthorized_client"}"#),
            (401, r#"{"error":"anything"}"#),
            (403, r#"{"error":"anything"}"#),
        ] {
            assert!(
                matches!(read_refresh(&answer(status, body.as_bytes()), 0), Redemption::Refused(_)),
                "{status} {body}"
            );
        }
        for (status, body) in [
            (400, r#"{"error":"temporarily_unavailable"}"#),
            (400, "<html>"),
            (401, "<html>"),
            (403, r#"{"error":{"code":1}}"#),
            (403, ""),
            (429, r#"{"error":"invalid_grant"}"#),
            (500, r#"{"error":"invalid_grant"}"#),
            (302, ""),
            (200, "<html>log in to the airport wifi</html>"),
            (200, r#"{"access_tok"#),
        ] {
            assert!(
                matches!(read_refresh(&answer(status, body.as_bytes()), 0), Redemption::Unavailable { .. }),
                "{status} {body}"
            );
        }
        assert!(matches!(read_refresh(&answer(200, b"{}"), 0), Redemption::Unusable(_)));
        let large = Answer { status: 200, retry_after_ms: None, body: Body::read(None) };
        assert!(matches!(read_refresh(&large, 0), Redemption::Unusable(_)));
    }

    proptest! {
        #[test]
        fn no_answer_panics_and_no_message_repeats_it(status in 100_u16..600, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_refresh(&answer(status, &body), u64::MAX);
        }

        #[test]
        fn lifetimes_stay_in_range(lifetime in any::<f64>()) {
            let token = parse(&json!({"access_token": "a", "expires_in": lifetime})).unwrap();
            prop_assert!(token.expires_at <= 1_000 + seconds_to_ms(MAX_LIFETIME_S));
        }
    }
}
