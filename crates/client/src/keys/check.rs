//! Asks servers about a key, one after another, with one cheap request each.
//!
//! The request is a chat of one token. Every server has that endpoint and checks the key first, and its error shows if the
//! key is wrong or only has no quota. A list of models may be public.

use std::time::Duration;

use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use qwen_accounts::Kind;
use qwen_base::{Code, Error, Http, Result, Secret, TransportError, display_url};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::input::CandidateEndpoint;
use crate::headers;
use crate::models::COMMON_MODEL;
use crate::verdict::dialect::{MAX_ERROR_BODY, ServerError};
use crate::verdict::{Reading, RequestContext, Verdict};

/// Time limit for one server, so that a silent one doesn't use up the time of the others.
const PLACE_LIMIT: Duration = Duration::from_secs(5);
/// Time limit for all servers.
const TOTAL_LIMIT: Duration = Duration::from_secs(20);

/// A server's answer about a key.
#[derive(Debug, Clone)]
pub enum EndpointAnswer {
    /// The key belongs to this server, even if it has no quota or not this model.
    Yes,
    /// The server refuses this program and may not have checked the key.
    Likely,
    /// The key does not belong to this server.
    No,
    /// The address is not an API that takes keys. Contains the status.
    NoApi(u16),
    /// The server gave no usable answer.
    Unknown(Error),
}

/// Questions about one key with a common time limit.
#[derive(Debug)]
pub struct Inquiry<'a> {
    http: &'a Http,
    key: &'a Secret,
    ends_at: Instant,
}

impl<'a> Inquiry<'a> {
    /// Starts the time limit.
    #[must_use]
    pub fn new(http: &'a Http, key: &'a Secret) -> Self {
        Self { http, key, ends_at: Instant::now() + TOTAL_LIMIT }
    }

    /// Asks the servers in turn. The first `Yes` ends it; without one, the first `Likely` is used. Otherwise returns the
    /// answers of all.
    pub async fn first_yes(&self, places: &[CandidateEndpoint]) -> Result<usize, Vec<EndpointAnswer>> {
        let mut answers = Vec::with_capacity(places.len());
        for (at, place) in places.iter().enumerate() {
            match self.ask(place).await {
                EndpointAnswer::Yes => return Ok(at),
                answer => answers.push(answer),
            }
        }
        answers.iter().position(|answer| matches!(answer, EndpointAnswer::Likely)).ok_or(answers)
    }

    async fn ask(&self, place: &CandidateEndpoint) -> EndpointAnswer {
        let host = place.base_url.host_str().unwrap_or_default();
        match timeout_at(self.ends_at, self.send(place, host)).await {
            Ok(Ok((status, body))) => meaning(status, &body, host),
            Ok(Err(error)) => EndpointAnswer::Unknown(error),
            Err(_) => EndpointAnswer::Unknown(TransportError::no_answer(host, PLACE_LIMIT).error),
        }
    }

    async fn send(&self, place: &CandidateEndpoint, host: &str) -> Result<(u16, Vec<u8>)> {
        let mut callers = HeaderMap::new();
        callers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let headers = headers::for_attempt(&callers, self.key, Kind::Key(place.plan), host)?;
        let message = json!({"role": "user", "content": "hi"});
        let body = json!({"model": COMMON_MODEL, "messages": [message], "max_tokens": 1});
        let url = format!("{}/chat/completions", display_url(&place.base_url));
        let url = Url::parse(&url).map_err(Error::internal)?;
        let mut request = reqwest::Request::new(Method::POST, url);
        (*request.headers_mut(), *request.body_mut()) = (headers, Some(body.to_string().into()));
        let answer = self.http.exchange(request, PLACE_LIMIT, MAX_ERROR_BODY).await?;
        Ok((answer.status.as_u16(), answer.body?.unwrap_or_default()))
    }
}

fn meaning(status: u16, body: &[u8], host: &str) -> EndpointAnswer {
    let is_json = serde_json::from_slice::<Value>(body).is_ok_and(|value| value.is_object());
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    let context = RequestContext { is_key: true, model: COMMON_MODEL, now_ms: 0 };
    let reading = match status {
        400.. => Reading::of_body(status, body, &context),
        _ => Reading::of_inner_error(ServerError::of_body(body), &context),
    };
    match status {
        401 => EndpointAnswer::No,
        _ if reading.verdict == Verdict::KeyRejected => EndpointAnswer::No,
        405 if text.contains("coding agents") => EndpointAnswer::Likely,
        200..300 | 400 | 402 | 403 | 422 if is_json => EndpointAnswer::Yes,
        // A server without the model names it in its error. A server without the endpoint doesn't.
        404 if is_json && text.contains("model") => EndpointAnswer::Yes,
        429 => EndpointAnswer::Yes,
        500.. => {
            let message = format!("{host} answered with status {status}.");
            EndpointAnswer::Unknown(Error::new(Code::Network, message).with_status(status))
        }
        _ => EndpointAnswer::NoApi(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_about_the_key_refuses_it() {
        let answer = |status: u16, body: &str| match meaning(status, body.as_bytes(), "host") {
            EndpointAnswer::Yes => "yes",
            EndpointAnswer::Likely => "likely",
            EndpointAnswer::No => "no",
            EndpointAnswer::NoApi(_) => "no api",
            EndpointAnswer::Unknown(_) => "unknown",
        };
        for (status, body, expected) in [
            (200, "{}", "yes"),
            (200, "<html>", "no api"),
            (200, r#"{"code":"InvalidApiKey","message":"Invalid API-key provided."}"#, "no"),
            (401, r#"{"error":{"code":"invalid_api_key"}}"#, "no"),
            (401, "", "no"),
            (403, r#"{"error":{"message":"invalid api-key"}}"#, "no"),
            (403, r#"{"error":{"code":"AccessDenied","message":"Model access denied."}}"#, "yes"),
            (403, r#"{"error":{"code":"insufficient_quota"}}"#, "yes"),
            (403, "<html>", "no api"),
            (
                400,
                r#"{"error":{"code":"Arrearage","message":"Access denied, account not in good standing"}}"#,
                "yes",
            ),
            (404, r#"{"error":{"code":"model_not_found"}}"#, "yes"),
            (404, "not here", "no api"),
            (404, r#"{"error":{"message":"/v2/chat/completions is not known"}}"#, "no api"),
            (405, r#"{"error":{"message":"currently only available for Coding Agents"}}"#, "likely"),
            (405, "", "no api"),
            (302, "", "no api"),
            (429, "", "yes"),
            (503, "", "unknown"),
        ] {
            assert_eq!(answer(status, body), expected, "{status} {body}");
        }
    }
}
