//! What an OAuth endpoint's answer says, before anyone decides what to do about it. Pure.

use qwen_base::opaque_debug;
use serde_json::{Map, Value};

/// An answer of an OAuth endpoint, read whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// How long the server asks to wait.
    pub retry_after_ms: Option<u64>,
    /// The body.
    pub body: Body,
}

/// The body of an answer.
#[derive(Clone, PartialEq)]
pub enum Body {
    /// A JSON object, the only shape the protocol knows.
    Object(Map<String, Value>),
    /// JSON, but no object.
    OtherJson,
    /// Not JSON: a gateway's or captive portal's page, a truncated answer, nothing at all.
    NotJson {
        /// Whether there was no body.
        empty: bool,
    },
    /// More than an OAuth answer can be.
    TooLarge,
}

opaque_debug!(Body);

impl Body {
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

    /// The object, where it is one.
    #[must_use]
    pub fn object(&self) -> Option<&Map<String, Value>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }
}

impl Answer {
    /// The `error` of an error response (RFC 6749 section 5.2), where the answer is one.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.body.object()?.get("error")?.as_str().filter(|error| !error.is_empty())
    }

    /// The `error` as it may be shown: a server could put anything there.
    #[must_use]
    pub fn printable_error(&self) -> Option<String> {
        let error = self.error()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
        Some(error.chars().take(64).map(|c| if plain(c) { c } else { '?' }).collect())
    }
}

/// A string field that is present and not empty.
#[must_use]
pub fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    object.get(field)?.as_str().filter(|text| !text.is_empty())
}

/// A number of seconds that is present, finite and not negative.
#[must_use]
pub fn seconds(object: &Map<String, Value>, field: &str) -> Option<f64> {
    object.get(field)?.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_object_with_a_string_is_an_error_response() {
        let answer = |body: &[u8]| Answer { status: 400, retry_after_ms: None, body: Body::read(Some(body)) };
        assert_eq!(answer(br#"{"error":"invalid_grant"}"#).error(), Some("invalid_grant"));
        for body in [&br#"{"error":7}"#[..], br#"{"error":""}"#, b"[]", b"<html>", b"", b"\xff\xfe"] {
            assert_eq!(answer(body).error(), None);
        }
        assert_eq!(answer(br#"{"error":"a b\n\u001b[31m"}"#).printable_error().unwrap(), "a?b???31m");
    }
}
