//! The request log (`ENABLE_PLUGIN_REQUEST_LOGGING`): one JSON file per request, without secrets.
//!
//! A [`RequestRecord`] collects what happens to a request. A separate thread redacts and writes it. The number and size of
//! files are limited; the process that writes next removes the oldest.

mod writer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use url::Url;

use qwen_base::{
    Background, Clock, Code, KnownSecrets, Logger, Redactor, Secret, display_url, iso_time, truncate,
};
use writer::Writer;
pub use writer::{MAX_FILES, MAX_TOTAL_BYTES};

/// Largest part of a response body that is kept, in bytes.
pub const MAX_RESPONSE_BODY: usize = 64 * 1024;
/// Largest part of a request body that is kept, in bytes, after its strings were cut.
pub const MAX_REQUEST_BODY: usize = 512 * 1024;
/// Largest number of records that wait for the disk; each may have a large body.
const CAPACITY: usize = 16;

/// A log of requests, which may be off. Clones write to the same directory.
#[derive(Clone, Default)]
pub struct RequestLog(Option<Arc<OpenRequestLog>>);

struct OpenRequestLog {
    clock: Clock,
    background: Background<LoggedRequest>,
}

/// A request, for [`RequestLog::start`].
#[derive(Debug, Clone, Copy)]
pub struct LogStart<'a> {
    /// URL from the caller.
    pub url: &'a str,
    /// Method from the caller.
    pub method: &'a Method,
    /// Headers as sent, or from the caller.
    pub headers: &'a HeaderMap,
    /// Body as sent.
    pub body: Option<&'a Bytes>,
    /// True if the caller asks for a stream.
    pub stream: bool,
}

/// The end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogOutcome {
    /// The answer was read completely.
    Completed,
    /// The caller cancelled the request.
    Cancelled,
    /// There was no answer, or it broke off.
    Failed(Code),
}

impl LogOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed(code) => code.as_str(),
        }
    }
}

impl RequestLog {
    /// Returns a log that is off.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Logs to `directory`, which is created with the first file. The log never contains `secrets`. Failed writes are only
    /// reported to `logger`.
    #[must_use]
    pub fn in_directory(directory: &Path, clock: Clock, secrets: KnownSecrets, logger: Logger) -> Self {
        let mut writer = Writer::new(directory.to_owned(), secrets, logger);
        let background = Background::new(CAPACITY, move |records, dropped| writer.write(records, dropped));
        Self(Some(Arc::new(OpenRequestLog { clock, background })))
    }

    /// Starts a record, which is written when it is dropped.
    #[must_use]
    pub fn start(&self, start: &LogStart) -> RequestRecord {
        let Some(open) = &self.0 else { return RequestRecord(None) };
        let record = LoggedRequest {
            at: open.clock.now_ms(),
            started: Instant::now(),
            duration: Duration::ZERO,
            first_byte: None,
            url: start.url.to_owned(),
            method: start.method.clone(),
            stream: start.stream,
            headers: start.headers.clone(),
            body: start.body.cloned(),
            attempts: Vec::new(),
            notes: Vec::new(),
            secrets: Vec::new(),
            response: None,
            outcome: LogOutcome::Cancelled,
        };
        RequestRecord(Some(Box::new(Active { record: Some(record), open: Arc::clone(open) })))
    }

    /// Waits up to `limit` until all ended records are written. Returns true if they are. Dropping the last clone also
    /// waits, up to 2 s.
    #[expect(clippy::must_use_candidate, reason = "waiting is what it is called for")]
    pub fn flush(&self, limit: Duration) -> bool {
        self.0.as_ref().is_none_or(|open| open.background.flush(limit))
    }
}

impl fmt::Debug for RequestLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "RequestLog(on)" } else { "RequestLog(off)" })
    }
}

/// The record of one request. Without [`RequestRecord::finish`], it ends as cancelled when it is dropped.
#[derive(Default)]
pub struct RequestRecord(Option<Box<Active>>);

struct Active {
    /// `None` only after the drop.
    record: Option<LoggedRequest>,
    open: Arc<OpenRequestLog>,
}

impl RequestRecord {
    /// Records an attempt. The token or key is removed from the whole record.
    pub fn attempt_started(&mut self, account: &str, base_url: &Url, secret: &Secret) {
        let Some(record) = self.record() else { return };
        record.end_attempt();
        if !record.secrets.contains(secret) {
            record.secrets.push(secret.clone());
        }
        record.attempts.push(LoggedAttempt {
            account: account.to_owned(),
            base_url: display_url(base_url),
            started: Instant::now(),
            duration: None,
            status: None,
            verdict: None,
        });
    }

    /// Records the attempt's status, if there was an answer, and its verdict.
    pub fn attempt_ended(&mut self, status: Option<u16>, verdict: &'static str) {
        let Some(record) = self.record() else { return };
        if let Some(attempt) = record.attempts.last_mut() {
            (attempt.status, attempt.verdict) = (status, Some(verdict));
        }
        record.end_attempt();
    }

    /// Adds a keyword for an unusual event, such as `degraded`.
    pub fn note(&mut self, note: &'static str) {
        if let Some(record) = self.record() {
            record.notes.push(note);
        }
    }

    /// Records the head of the answer for the caller. The last one is kept.
    pub fn response(&mut self, status: u16, headers: &HeaderMap) {
        if let Some(record) = self.record() {
            record.response = Some(Response { status, headers: headers.clone(), body: Vec::new(), bytes: 0 });
        }
    }

    /// Records bytes of the body for the caller.
    pub fn chunk(&mut self, bytes: &[u8]) {
        let Some(record) = self.record() else { return };
        let Some(response) = &mut record.response else { return };
        if !bytes.is_empty() {
            record.first_byte.get_or_insert_with(|| record.started.elapsed());
        }
        response.bytes += bytes.len() as u64;
        let room = MAX_RESPONSE_BODY - response.body.len();
        response.body.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }

    /// Ends the record. Further calls do nothing.
    pub fn finish(&mut self, outcome: LogOutcome) {
        if let Some(record) = self.record() {
            record.outcome = outcome;
            self.0 = None;
        }
    }

    fn record(&mut self) -> Option<&mut LoggedRequest> {
        self.0.as_mut()?.record.as_mut()
    }
}

impl fmt::Debug for RequestRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "RequestRecord(on)" } else { "RequestRecord(off)" })
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.duration = record.started.elapsed();
            record.end_attempt();
            self.open.background.submit(record);
        }
    }
}

struct LoggedRequest {
    at: u64,
    started: Instant,
    duration: Duration,
    first_byte: Option<Duration>,
    url: String,
    method: Method,
    stream: bool,
    headers: HeaderMap,
    body: Option<Bytes>,
    attempts: Vec<LoggedAttempt>,
    notes: Vec<&'static str>,
    /// Secrets of the attempts.
    secrets: Vec<Secret>,
    response: Option<Response>,
    outcome: LogOutcome,
}

struct LoggedAttempt {
    account: String,
    base_url: String,
    started: Instant,
    duration: Option<Duration>,
    status: Option<u16>,
    verdict: Option<&'static str>,
}

struct Response {
    status: u16,
    headers: HeaderMap,
    /// The beginning of the body.
    body: Vec<u8>,
    bytes: u64,
}

impl LoggedRequest {
    fn end_attempt(&mut self) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.duration.get_or_insert_with(|| attempt.started.elapsed());
        }
    }

    fn to_json(&self, redactor: &Redactor) -> Value {
        let url = |url: &str| Url::parse(url).map_or_else(|_| redactor.string(url), |url| redactor.url(&url));
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let attempts = self.attempts.iter().map(|attempt| {
            json!({
                "account": redactor.string(&attempt.account),
                "baseUrl": url(&attempt.base_url),
                "status": attempt.status,
                "durationMs": attempt.duration.map(ms),
                "verdict": attempt.verdict,
            })
        });
        let (model, body) = match &self.body {
            Some(body) => request_body(body, redactor),
            None => (Value::Null, Value::Null),
        };
        let response = self.response.as_ref().map(|response| {
            json!({
                "status": response.status,
                "headers": redactor.headers(&response.headers),
                "body": response_body(response, redactor),
                "bytes": response.bytes,
            })
        });
        json!({
            "at": iso_time(self.at),
            "durationMs": ms(self.duration),
            "firstByteMs": self.first_byte.map(ms),
            "url": url(&self.url),
            "method": self.method.as_str(),
            "model": model,
            "stream": self.stream,
            "account": self.attempts.last().map(|attempt| redactor.string(&attempt.account)),
            "attempts": attempts.collect::<Vec<_>>(),
            "notes": self.notes,
            "outcome": self.outcome.as_str(),
            "request": {
                "headers": redactor.headers(&self.headers),
                "body": body,
                "bytes": self.body.as_ref().map_or(0, Bytes::len),
            },
            "response": response,
        })
    }
}

/// Returns the model that a request names, and its redacted body.
fn request_body(body: &[u8], redactor: &Redactor) -> (Value, Value) {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        let start = &body[..body.len().min(MAX_REQUEST_BODY)];
        return (Value::Null, text_body(start, start.len() == body.len(), redactor));
    };
    let value = redactor.json(&value);
    let model = value.get("model").filter(|model| model.is_string()).cloned().unwrap_or_default();
    let text = value.to_string();
    if text.len() <= MAX_REQUEST_BODY {
        return (model, value);
    }
    // A cut may expose text that looks like a secret, so it is redacted again.
    (model, redactor.text(&format!("{}[cut]", truncate(&text, MAX_REQUEST_BODY))).into())
}

fn response_body(response: &Response, redactor: &Redactor) -> Value {
    let whole = response.bytes == response.body.len() as u64;
    if whole && let Ok(value) = serde_json::from_slice::<Value>(&response.body) {
        return redactor.json(&value);
    }
    text_body(&response.body, whole, redactor)
}

fn text_body(start: &[u8], whole: bool, redactor: &Redactor) -> Value {
    let text = String::from_utf8_lossy(start);
    if whole { redactor.text(&text).into() } else { redactor.start_of_text(&text).into() }
}
