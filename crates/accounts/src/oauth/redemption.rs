//! Token answers (RFC 6749 section 5.1) and their meaning for a refresh. Pure.

use qwen_base::{Code, Error, Result};
use serde_json::{Map, Value};

use super::error_response::{OAuthAnswer, OAuthBody, seconds};
use crate::model::Token;

/// Lifetime if the server names none.
const DEFAULT_LIFETIME_S: f64 = 3600.0;
/// Longest lifetime. It keeps instants in the range of JavaScript's numbers.
const MAX_LIFETIME_S: f64 = 100.0 * 365.0 * 24.0 * 3600.0;

/// Reads a token answer.
///
/// An optional field of the wrong type counts as missing: the grant is spent, so everything usable must be kept.
///
/// # Errors
/// `ERR_QWEN_INVALID_RESPONSE` without a usable `access_token`.
pub(super) fn read_token(object: &Map<String, Value>, now_ms: u64) -> Result<Token> {
    let token = Token::read(object).ok_or_else(|| invalid("has no usable access_token"))?;
    let lifetime = seconds(object, "expires_in").unwrap_or(DEFAULT_LIFETIME_S).min(MAX_LIFETIME_S);
    Ok(Token { expires_at: now_ms.saturating_add(seconds_to_ms(lifetime)), ..token })
}

/// Converts seconds, at most [`MAX_LIFETIME_S`], to whole milliseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "callers pass 0 to MAX_LIFETIME_S"
)]
fn seconds_to_ms(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

/// The error for an answer that breaks the protocol.
pub(super) fn invalid(what: &str) -> Error {
    Error::new(
        Code::InvalidResponse,
        format!(
            "The answer of the OAuth server {what}. Check the OAuth URLs and any proxy in between, then try again."
        ),
    )
}

/// The error for a body that can't be used.
pub(super) fn unreadable(body: &OAuthBody) -> Error {
    match body {
        OAuthBody::Object(_) => invalid("lacks required fields"),
        OAuthBody::OtherJson => invalid("is not a JSON object"),
        OAuthBody::NotJson { empty: true } => invalid("is empty"),
        OAuthBody::NotJson { empty: false } => invalid("is not JSON"),
        OAuthBody::TooLarge => invalid("is larger than 1 MiB"),
    }
}

/// Result of one refresh request.
#[derive(Debug, Clone)]
pub enum Redemption {
    /// New tokens. The old refresh token is spent.
    Redeemed(Token),
    /// The server refused the refresh token for good.
    Refused(Error),
    /// A success without usable tokens. Another request could only do harm.
    Unusable(Error),
    /// The server gave no verdict on the refresh token.
    Unavailable {
        /// The error.
        cause: Error,
        /// True if the server may have redeemed the token and its answer was lost.
        in_doubt: bool,
    },
}

/// Errors with status 400 that refuse the refresh token for good.
const VERDICTS: [&str; 4] = ["invalid_grant", "invalid_request", "invalid_client", "unauthorized_client"];

/// Interprets a refresh answer. Only a JSON object with an `error` is a verdict, not the 403 of a captive portal, a
/// redirect or the page of a gateway.
#[must_use]
pub fn read_refresh(answer: &OAuthAnswer, now_ms: u64) -> Redemption {
    if (200..300).contains(&answer.status) {
        return match &answer.body {
            OAuthBody::Object(object) => match read_token(object, now_ms) {
                Ok(token) => Redemption::Redeemed(token),
                Err(error) => Redemption::Unusable(error.with_status(answer.status)),
            },
            OAuthBody::OtherJson | OAuthBody::TooLarge => {
                Redemption::Unusable(unreadable(&answer.body).with_status(answer.status))
            }
            OAuthBody::NotJson { .. } => unavailable(unreadable(&answer.body), answer),
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

fn unavailable(cause: Error, answer: &OAuthAnswer) -> Redemption {
    let cause = cause.with_status(answer.status).with_retry_after_ms(answer.retry_after_ms).retryable();
    Redemption::Unavailable { cause, in_doubt: false }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn answer(status: u16, body: &[u8]) -> OAuthAnswer {
        OAuthAnswer { status, retry_after_ms: None, body: OAuthBody::read(Some(body)) }
    }

    fn parse(value: &Value) -> Result<Token> {
        read_token(value.as_object().unwrap(), 1_000)
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
    fn only_json_errors_are_verdicts() {
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
        let large = OAuthAnswer { status: 200, retry_after_ms: None, body: OAuthBody::read(None) };
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
