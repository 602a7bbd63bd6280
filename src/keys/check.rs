//! One cheap request that tells whether a key works at a place.
//!
//! It is a chat of one token: every place has that endpoint, it looks at the key before anything else, and it tells a
//! key that is refused from one that is good and has no quota left. A list of models may be open to everyone.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};

use url::Url;

use super::input::Candidate;
use crate::accounts::kind::Kind;
use crate::base_url::display;
use crate::error::{Code, Error, Result};
use crate::http::{Http, TransportError};
use crate::models::COMMON_MODEL;
use crate::request::classify::{Verdict, classify};
use crate::request::headers;
use crate::secret::Secret;

/// Limit of one check.
const LIMIT: Duration = Duration::from_secs(20);
/// Error bodies are looked at up to this size.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// What a place says to a key.
#[derive(Debug)]
pub enum Found {
    /// It is a key of this place, even if it has no quota left, or not this model.
    Good,
    /// It is none.
    Refused,
    /// This is no place for keys.
    NoApi(u16),
    /// Nothing was learnt.
    Unknown(Error),
}

/// Asks a place about a key.
pub async fn check(http: &Http, key: &Secret, place: &Candidate) -> Found {
    let host = place.base_url.host_str().unwrap_or_default().to_owned();
    let answered = tokio::time::timeout(LIMIT, ask(http, key, place, &host)).await;
    match answered.unwrap_or_else(|_| Err(TransportError::timeout(&host, LIMIT).error)) {
        Ok((status, body)) => meaning(status, &body, &host),
        Err(error) => Found::Unknown(error),
    }
}

async fn ask(http: &Http, key: &Secret, place: &Candidate, host: &str) -> Result<(u16, Vec<u8>)> {
    let mut callers = HeaderMap::new();
    callers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let headers = headers::for_attempt(&callers, key, Kind::Key(place.plan))?;
    let message = json!({"role": "user", "content": "hi"});
    let body = json!({"model": COMMON_MODEL, "messages": [message], "max_tokens": 1});
    let url =
        Url::parse(&format!("{}/chat/completions", display(&place.base_url))).map_err(Error::internal)?;
    let request = http.client_for(&url).await?.post(url).headers(headers).body(body.to_string());
    let mut response = request.send().await.map_err(|error| TransportError::new(&error, host).error)?;
    let mut body = Vec::new();
    while body.len() < MAX_ERROR_BODY
        && let Some(chunk) =
            response.chunk().await.map_err(|error| TransportError::new(&error, host).error)?
    {
        body.extend_from_slice(&chunk);
    }
    Ok((response.status().as_u16(), body))
}

fn meaning(status: u16, body: &[u8], host: &str) -> Found {
    let is_json = serde_json::from_slice::<Value>(body).is_ok_and(|value| value.is_object());
    // A place that has not this model says so; where there is no such endpoint, nothing is said of a model.
    let names_model = String::from_utf8_lossy(body).to_ascii_lowercase().contains("model");
    match status {
        _ if classify(status, body) == Verdict::TokenRejected => Found::Refused,
        200..300 | 400 | 402 | 403 | 422 if is_json => Found::Good,
        404 if is_json && names_model => Found::Good,
        429 => Found::Good,
        500.. => {
            let message = format!("{host} answered with status {status}.");
            Found::Unknown(Error::new(Code::Network, message).with_status(status))
        }
        _ => Found::NoApi(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_refused_by_its_own_error_alone() {
        let found = |status: u16, body: &str| match meaning(status, body.as_bytes(), "host") {
            Found::Good => "good",
            Found::Refused => "refused",
            Found::NoApi(_) => "no api",
            Found::Unknown(_) => "unknown",
        };
        for (status, body, expected) in [
            (200, "{}", "good"),
            (200, "<html>", "no api"),
            (401, r#"{"error":{"code":"invalid_api_key"}}"#, "refused"),
            (401, "", "refused"),
            (403, r#"{"error":{"message":"Access denied."}}"#, "refused"),
            (403, r#"{"error":{"code":"insufficient_quota"}}"#, "good"),
            (404, r#"{"error":{"code":"model_not_found"}}"#, "good"),
            (404, "not here", "no api"),
            (404, r#"{"error":{"message":"/v2/chat/completions is not known"}}"#, "no api"),
            (302, "", "no api"),
            (429, "", "good"),
            (503, "", "unknown"),
        ] {
            assert_eq!(found(status, body), expected, "{status} {body}");
        }
    }
}
