//! Answers of OAuth endpoints, before they are interpreted. Pure.

use qwen_base::opaque_debug;
use serde_json::{Map, Value};

/// An answer of an OAuth endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct OAuthAnswer {
    /// HTTP status.
    pub status: u16,
    /// The server's `Retry-After`, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// Body of the answer.
    pub body: OAuthBody,
}

/// Body of an answer.
#[derive(Clone, PartialEq)]
pub enum OAuthBody {
    /// A JSON object, the only form in the protocol.
    Object(Map<String, Value>),
    /// JSON of another type.
    OtherJson,
    /// Not JSON: a page of a gateway or captive portal, a truncated answer, or no body.
    NotJson {
        /// True if there was no body.
        empty: bool,
    },
    /// The body exceeds the limit.
    TooLarge,
}

opaque_debug!(OAuthBody);

impl OAuthBody {
    /// Reads a body; `None` stands for one that was too large.
    #[must_use]
    pub fn read(bytes: Option<&[u8]>) -> Self {
        let Some(bytes) = bytes else { return Self::TooLarge };
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(object)) => Self::Object(object),
            Ok(_) => Self::OtherJson,
            Err(_) => Self::NotJson { empty: bytes.trim_ascii().is_empty() },
        }
    }

    /// The JSON object, if the body is one.
    #[must_use]
    pub fn object(&self) -> Option<&Map<String, Value>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }
}

impl OAuthAnswer {
    /// The `error` of an error response (RFC 6749 section 5.2), if the answer is one.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.body.object()?.get("error")?.as_str().filter(|error| !error.is_empty())
    }

    /// The `error` made safe to show, since a server could send any characters.
    #[must_use]
    pub fn printable_error(&self) -> Option<String> {
        let error = self.error()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
        Some(error.chars().take(64).map(|c| if plain(c) { c } else { '?' }).collect())
    }
}

/// A number of seconds that is present, finite and not negative.
pub fn seconds(object: &Map<String, Value>, field: &str) -> Option<f64> {
    object.get(field)?.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_object_with_a_string_is_an_error_response() {
        let answer = |body: &[u8]| OAuthAnswer {
            status: 400,
            retry_after_ms: None,
            body: OAuthBody::read(Some(body)),
        };
        assert_eq!(answer(br#"{"error":"invalid_grant"}"#).error(), Some("invalid_grant"));
        for body in [&br#"{"error":7}"#[..], br#"{"error":""}"#, b"[]", b"<html>", b"", b"\xff\xfe"] {
            assert_eq!(answer(body).error(), None);
        }
        assert_eq!(answer(br#"{"error":"a b\n\u001b[31m"}"#).printable_error().unwrap(), "a?b???31m");
    }
}
