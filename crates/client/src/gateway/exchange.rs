//! Handles one request.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};
use http::{Method, StatusCode};
use hyper::body::Incoming;
use qwen_base::Clock;

use super::entry::{EntryListener, Recorder};
use super::gate::{Gate, KEY_HEADER};
use super::models;
use super::refusal::GatewayRefusal;
use super::reply::Reply;
use super::socket::{Phase, Progress};
use super::upload::Uploads;
use crate::client::Client;
use crate::request::answer::{Answer, ERROR_HEADER};
use crate::request::prepare::{Redirect, Request};

/// Largest head of a request, in bytes.
pub(super) const MAX_HEAD: usize = 16 * 1024;
/// Tells `OpenCode` 2 if it may send the request again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

pub(super) struct Exchange {
    pub(super) client: Arc<Client>,
    pub(super) gate: Gate,
    pub(super) uploads: Uploads,
    pub(super) listener: Option<EntryListener>,
    pub(super) clock: Clock,
    /// True to tell `OpenCode` 2 which errors are final and which are pauses.
    pub(super) for_opencode: bool,
    pub(super) utc_offset_minutes: i32,
}

enum ExchangeOutcome {
    Answer(Box<Answer>),
    Json(String),
}

impl Exchange {
    /// Answers a request. Dropping the future cancels it.
    pub(super) async fn answer(
        &self,
        progress: Progress,
        request: http::Request<Incoming>,
    ) -> http::Response<Reply> {
        progress.set(Phase::Body);
        let (method, path) = (request.method().as_str(), request.uri().path());
        let mut recorder = Recorder::new(self.listener.as_ref(), &self.clock, method, path);
        let outcome =
            AssertUnwindSafe(self.carry_out(&progress, request, &mut recorder)).catch_unwind().await;
        progress.set(Phase::Answer);
        let (status, mut headers, body) = match outcome.unwrap_or_else(|_| Err(GatewayRefusal::internal())) {
            Ok(ExchangeOutcome::Answer(answer)) => {
                (answer.status, response_headers(answer.headers), Ok(answer.body))
            }
            Ok(ExchangeOutcome::Json(json)) => {
                let kind = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
                (StatusCode::OK, HeaderMap::from_iter([kind]), Err(json.into()))
            }
            Err(refusal) => (refusal.status, refusal.headers(), Err(refusal.body())),
        };
        if let Some(should_retry) = should_retry(status, &headers).filter(|_| self.for_opencode) {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static(should_retry));
        }
        recorder.head(status.as_u16(), &headers);
        let mut response = http::Response::new(match body {
            Ok(body) => Reply::live(body, recorder, progress, self.for_opencode && is_stream(&headers)),
            Err(bytes) => Reply::whole(bytes, recorder, progress),
        });
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    async fn carry_out(
        &self,
        progress: &Progress,
        request: http::Request<Incoming>,
        recorder: &mut Recorder,
    ) -> Result<ExchangeOutcome, GatewayRefusal> {
        let (head, body) = request.into_parts();
        if head_size(&head) > MAX_HEAD {
            return Err(GatewayRefusal::head_too_large(MAX_HEAD));
        }
        self.gate.check(&head.uri, &head.headers)?;
        let path = head.uri.path();
        let Some(below) = path.strip_prefix("/v1").filter(|rest| rest.is_empty() || rest.starts_with('/'))
        else {
            return Err(GatewayRefusal::unknown_path(path));
        };
        let upload = self.uploads.read(body).await?;
        progress.set(Phase::Answer);
        if head.method == Method::GET && below == "/models" {
            return models::list(&self.client)
                .await
                .map(ExchangeOutcome::Json)
                .map_err(|error| GatewayRefusal::of_error(&error));
        }
        recorder.body(&upload.bytes);
        let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let request = Request {
            url: format!("{}{below}{query}", self.client.base_url()),
            body: (!upload.bytes.is_empty()).then(|| upload.bytes.clone()),
            headers: request_headers(head.headers),
            method: head.method,
            redirect: Redirect::Follow,
            utc_offset_minutes: self.utc_offset_minutes,
        };
        let answer = self.client.fetch(request).await.map_err(|error| GatewayRefusal::of_error(&error))?;
        Ok(ExchangeOutcome::Answer(Box::new(answer)))
    }
}

/// Returns the approximate size of a head.
fn head_size(head: &http::request::Parts) -> usize {
    let target = head.uri.path_and_query().map_or(1, |target| target.as_str().len());
    let fields: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    head.method.as_str().len() + target + fields
}

/// Removes the headers that are for the gateway.
fn request_headers(mut headers: HeaderMap) -> HeaderMap {
    drop_hop_headers(&mut headers);
    headers.remove(AUTHORIZATION);
    headers.remove(KEY_HEADER);
    headers
}

/// Removes headers of the server's connection. A stream of events also loses its length, because an error may end it early.
fn response_headers(mut headers: HeaderMap) -> HeaderMap {
    drop_hop_headers(&mut headers);
    if is_stream(&headers) {
        headers.remove(CONTENT_LENGTH);
    }
    headers
}

fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

fn drop_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in
        named.into_iter().chain([CONNECTION, TRANSFER_ENCODING, HeaderName::from_static("keep-alive")])
    {
        headers.remove(name);
    }
}

/// Returns the value of `x-should-retry`; without one, `OpenCode` 2 decides. A 504 is final, since a retry would wait just as
/// long. A stream is final, since it may end with an error.
fn should_retry(status: StatusCode, headers: &HeaderMap) -> Option<&'static str> {
    let is_final = match status.as_u16() {
        // The account pauses, although the message may name a used-up quota.
        429 => return Some("true"),
        200 => is_stream(headers),
        408 | 425 => false,
        504 => headers.contains_key(ERROR_HEADER),
        _ => status.is_client_error(),
    };
    is_final.then_some("false")
}
