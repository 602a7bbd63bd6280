//! The token file of the original plugin's first versions. It is read, and left where it is.

use std::path::{Path, PathBuf};

use qwen_base::{Code, Secret, instant_from_number};
use serde_json::Value;

use super::file::{self, Contents, Stamp};
use crate::oauth::error_response::text;
use crate::oauth::token::Token;

/// No token file is anywhere near this large.
const MAX_SIZE: u64 = 1024 * 1024;

/// `~/.opencode/qwen/oauth_token.json`.
#[derive(Debug, Clone)]
pub struct LegacyFile(PathBuf);

impl LegacyFile {
    /// Opens nothing.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the file is now. One that can't be looked at is none.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        file::stamp(&self.0).unwrap_or_default()
    }

    /// Its tokens, if it holds any.
    #[must_use]
    pub fn read(&self) -> Option<Token> {
        let Ok(Contents::Bytes { bytes, .. }) = file::read_own(&self.0, MAX_SIZE, Code::Io) else {
            return None;
        };
        parse(&bytes)
    }
}

/// The expiry has two names, and may be a string.
fn parse(contents: &[u8]) -> Option<Token> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(contents) else { return None };
    let expiry = fields.get("expiry_date").or_else(|| fields.get("expires"));
    let number = expiry.and_then(|value| value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()));
    let access_token = text(&fields, "access_token").filter(|token| !token.chars().any(char::is_control))?;
    Some(Token {
        access_token: Secret::new(access_token),
        refresh_token: text(&fields, "refresh_token").map(Secret::new),
        token_type: text(&fields, "token_type").unwrap_or("Bearer").to_owned(),
        resource_url: text(&fields, "resource_url").map(str::to_owned),
        scope: None,
        expires_at: number.and_then(instant_from_number).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_original() {
        let numbers = br#"{ "access_token": "a", "refresh_token": "r", "expires": 1893456000000, "resource_url": "portal.qwen.ai" }"#;
        let token = parse(numbers).unwrap();
        assert_eq!(
            (token.expires_at, token.resource_url.as_deref()),
            (1_893_456_000_000, Some("portal.qwen.ai"))
        );
        let strings = br#"{ "access_token": "a", "refresh_token": "r", "token_type": "Bearer", "expiry_date": "1893456000000" }"#;
        assert_eq!(parse(strings).unwrap().expires_at, 1_893_456_000_000);
        assert_eq!(parse(b"[]"), None);
        assert_eq!(parse(b""), None);
    }
}
