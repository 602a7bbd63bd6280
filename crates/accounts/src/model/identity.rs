//! Tells logins and tokens apart. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use qwen_base::Secret;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Token;

/// Fingerprint of a token. It identifies the token in files, and can't be used in its place.
#[must_use]
pub fn fingerprint(token: &Secret) -> String {
    let digest = Sha256::digest(token.expose());
    format!("sha256:{}", URL_SAFE_NO_PAD.encode(&digest[..16]))
}

/// The subject and the issuer of a token that is a JWT (RFC 7519 section 4.1). Most of Qwen's tokens are opaque.
///
/// The signature is not checked, since this only compares the user's own logins.
pub fn subject(token: &Token) -> Option<String> {
    let claims = token.access_token.expose().split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let subject = claims.get("sub")?.as_str().filter(|subject| !subject.is_empty())?;
    let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
    Some(format!("{issuer} {subject}"))
}

/// True if both tokens name the same user.
pub fn same_user(one: &Token, other: &Token) -> bool {
    subject(one).is_some_and(|subject_of_one| subject(other).is_some_and(|subject| subject == subject_of_one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(access_token: &str) -> Token {
        Token {
            access_token: Secret::new(access_token),
            refresh_token: None,
            token_type: "Bearer".into(),
            resource_url: None,
            scope: None,
            expires_at: 0,
        }
    }

    fn jwt(claims: &str) -> Token {
        token(&format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)))
    }

    #[test]
    fn a_jwt_identifies_its_user() {
        assert!(same_user(&jwt(r#"{"sub":"u1","exp":1}"#), &jwt(r#"{"sub":"u1","exp":2}"#)));
        assert!(!same_user(&jwt(r#"{"sub":"u1"}"#), &jwt(r#"{"sub":"u2"}"#)));
        assert!(!same_user(&jwt(r#"{"sub":"u1","iss":"a"}"#), &jwt(r#"{"sub":"u1","iss":"b"}"#)));
    }

    #[test]
    fn opaque_tokens_identify_no_user() {
        for text in ["opaque", "a.b.c", "a..c", "e30.e30.x", ""] {
            assert!(!same_user(&token(text), &token(text)), "{text}");
        }
    }

    #[test]
    fn a_fingerprint_does_not_hold_the_token() {
        let print = fingerprint(&Secret::new("secret-token"));
        assert!(print.starts_with("sha256:") && !print.contains("secret"));
        assert_ne!(print, fingerprint(&Secret::new("secret-token2")));
    }
}
