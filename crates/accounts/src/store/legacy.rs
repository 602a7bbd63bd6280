//! The token file of the original plugin's first versions. It is read, and never changed.

use std::path::{Path, PathBuf};

use qwen_base::Code;
use serde_json::{Map, Value};

use super::file::{self, Contents};
use crate::model::Token;

/// Larger files are ignored.
const MAX_SIZE: u64 = 1024 * 1024;

/// `~/.opencode/qwen/oauth_token.json`.
#[derive(Debug, Clone)]
pub struct LegacyFile(PathBuf);

impl LegacyFile {
    /// Creates a handle. It opens no file yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file's tokens, if it holds any.
    #[must_use]
    pub fn read(&self) -> Option<Token> {
        let Ok(Contents::Bytes { bytes, .. }) = file::read_own(&self.0, MAX_SIZE, Code::Io) else {
            return None;
        };
        parse(&bytes)
    }
}

/// Reads the tokens. The expiry has two names.
fn parse(contents: &[u8]) -> Option<Token> {
    let mut fields: Map<String, Value> = serde_json::from_slice(contents).ok()?;
    if let Some(expires) = fields.remove("expires") {
        fields.entry("expiry_date").or_insert(expires);
    }
    Token::read(&fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_expiry_fields_of_the_original_are_read() {
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
