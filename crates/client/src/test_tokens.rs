//! Tokens for unit tests.

use qwen_accounts::Token;
use qwen_base::Secret;

/// Returns the login `name`, which expires at an instant in epoch milliseconds.
pub fn token(name: &str, expires_at: u64) -> Token {
    Token {
        access_token: Secret::new(format!("access-{name}")),
        refresh_token: Some(Secret::new(format!("refresh-{name}"))),
        token_type: "Bearer".into(),
        resource_url: Some("portal.qwen.ai".into()),
        scope: None,
        expires_at,
    }
}
