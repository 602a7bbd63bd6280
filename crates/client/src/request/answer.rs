//! The answer to a call.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use qwen_base::{Code, Error, RETRY_AFTER_MS};
use serde_json::{Value, json};
use url::Url;

pub use super::body::{Beginning, Body};
use crate::chat::degrade::LeftOut;
use crate::cli::CliAnswer;
use crate::host::errors::FinalError;
use crate::request_log::RequestRecord;

/// Contains the error code of this package.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("x-qwen-error");
/// Set if the qwen CLI answered.
const FALLBACK_HEADER: HeaderName = HeaderName::from_static("x-qwen-cli-fallback");
/// Set if an account answered that is more expensive than the user's choice.
const PAID_HEADER: HeaderName = HeaderName::from_static("x-qwen-paid-fallback");
/// Set if a shorter request was answered.
const DEGRADED_HEADER: HeaderName = HeaderName::from_static("x-qwen-degraded");
/// Lists the parts that the shorter request lacked.
const LEFT_OUT_HEADER: HeaderName = HeaderName::from_static("x-qwen-degraded-left-out");
/// Contains the id of the account that answered.
const ACCOUNT_HEADER: HeaderName = HeaderName::from_static("x-qwen-account");

/// A response for the caller.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers of the server and of this package.
    pub headers: HeaderMap,
    /// The URL that answered.
    pub url: Url,
    /// The unread body.
    pub body: Body,
}

impl Answer {
    /// Sets the id of the account that answered.
    pub fn note_account(&mut self, id: &str) {
        if let Ok(id) = HeaderValue::from_str(id) {
            self.headers.insert(ACCOUNT_HEADER, id);
        }
    }

    /// Writes the head and the body to a record.
    #[must_use]
    pub fn recorded(mut self, mut record: RequestRecord) -> Self {
        record.response(self.status.as_u16(), &self.headers);
        self.body.recorded(record);
        self
    }

    /// Marks the answer as one of a more expensive account.
    pub fn note_paid(&mut self) {
        self.headers.insert(PAID_HEADER, HeaderValue::from_static("1"));
    }

    /// Marks the answer as one to a shorter request.
    pub fn note_degraded(&mut self, left_out: LeftOut) {
        self.headers.insert(DEGRADED_HEADER, HeaderValue::from_static("1"));
        if let Ok(left_out) = HeaderValue::from_str(&left_out.to_string()) {
            self.headers.insert(LEFT_OUT_HEADER, left_out);
        }
    }

    /// Sets `Retry-After`, in whole seconds. Clients read `retry-after-ms` first, so the server's must not contradict it.
    pub fn set_retry_after(&mut self, ms: u64) {
        self.headers.remove(RETRY_AFTER_MS);
        self.headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
    }

    /// Removes `Retry-After` in all its forms.
    pub fn remove_retry_after(&mut self) {
        self.headers.remove(RETRY_AFTER);
        self.headers.remove(RETRY_AFTER_MS);
    }

    /// Sets the error code of this package.
    pub fn note_error(&mut self, code: Code) {
        self.headers.insert(ERROR_HEADER, HeaderValue::from_static(code.as_str()));
    }

    /// Returns the error code of this package.
    #[must_use]
    pub fn error_code(&self) -> Option<&str> {
        self.headers.get(ERROR_HEADER)?.to_str().ok()
    }

    /// Replaces the message of an error body. `original` is the body as far as it was read. The server's code and type stay.
    pub fn explain(&mut self, error: &Error, original: &[u8]) {
        let mut document = match serde_json::from_slice(original) {
            Ok(Value::Object(document)) => document,
            _ => serde_json::Map::new(),
        };
        match document.get_mut("error").and_then(Value::as_object_mut) {
            Some(fields) => drop(fields.insert("message".to_owned(), error.message().into())),
            None => drop(document.insert(
                "error".to_owned(),
                json!({"message": error.message(), "type": "invalid_request_error"}),
            )),
        }
        self.set_json(&Value::Object(document));
        self.note_error(error.code());
    }

    /// Turns the answer into an error that a host does not retry.
    #[must_use]
    pub fn into_final(mut self, error: &FinalError) -> Self {
        self.status = error.status;
        self.remove_retry_after();
        let mut document = json!({"error": {"message": error.message, "type": "qwen_error"}});
        if let Some(code) = &error.server_code {
            document["error"]["code"] = code.as_str().into();
        }
        self.set_json(&document);
        if let Some(code) = error.code {
            self.note_error(code);
        }
        self
    }

    /// Guards the stream of chat events for a host. A completion in one JSON document becomes a stream.
    pub async fn watch(&mut self) -> Beginning {
        let beginning = self.body.watch().await;
        if self.body.became_stream() {
            self.headers.remove(CONTENT_LENGTH);
            self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        }
        beginning
    }

    /// Returns the answer of the qwen CLI.
    #[must_use]
    pub fn of_cli(url: Url, answer: CliAnswer) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        headers.insert(FALLBACK_HEADER, HeaderValue::from_static("1"));
        Self { status: StatusCode::OK, headers, url, body: Body::of_cli(answer.body) }
    }

    /// Returns an error as an answer, without a server.
    #[must_use]
    pub fn without_server(url: Url, error: &FinalError) -> Self {
        let empty = Body::from_bytes(Bytes::new());
        Self { status: error.status, headers: HeaderMap::new(), url, body: empty }.into_final(error)
    }

    /// Replaces the body by a JSON document.
    pub fn set_json(&mut self, document: &Value) {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.set_text(document.to_string());
    }

    /// Replaces the body by a text of the same type.
    pub fn set_text(&mut self, text: String) {
        self.headers.remove(CONTENT_LENGTH);
        self.headers.remove(CONTENT_ENCODING);
        self.body = Body::from_bytes(Bytes::from(text));
    }
}
