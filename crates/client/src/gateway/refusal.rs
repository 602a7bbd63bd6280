//! Errors of the gateway, in the API's format.

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use qwen_base::{Code, Error};
use serde_json::json;

use crate::request::answer::ERROR_HEADER;

#[derive(Debug)]
pub(super) struct GatewayRefusal {
    pub(super) status: StatusCode,
    code: Code,
    message: String,
    /// True to close the connection.
    is_last: bool,
}

impl GatewayRefusal {
    fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), is_last: false }
    }

    fn last(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { is_last: true, ..Self::new(status, code, message) }
    }

    pub(super) fn wrong_key() -> Self {
        let message = "The gateway's key is missing or wrong. Send the key that `serve` shows, as \
                       `Authorization: Bearer <key>`.";
        Self::new(StatusCode::UNAUTHORIZED, Code::PermissionDenied, message)
    }

    pub(super) fn foreign_host(port: u16) -> Self {
        let message = format!(
            "The gateway only answers requests to http://127.0.0.1:{port}, but the Host header has another address."
        );
        Self::new(StatusCode::FORBIDDEN, Code::PermissionDenied, message)
    }

    pub(super) fn foreign_origin() -> Self {
        let message = "Web pages can't use the gateway: requests with an Origin header are refused.";
        Self::new(StatusCode::FORBIDDEN, Code::PermissionDenied, message)
    }

    pub(super) fn unknown_path(path: &str) -> Self {
        let message =
            format!("There is nothing at {path}. The API is below /v1, such as /v1/chat/completions.");
        Self::new(StatusCode::NOT_FOUND, Code::InvalidArgument, message)
    }

    pub(super) fn body_too_large(limit: u64) -> Self {
        let message = format!("The request's body is larger than {} MiB.", limit / (1024 * 1024));
        Self::last(StatusCode::PAYLOAD_TOO_LARGE, Code::InvalidArgument, message)
    }

    pub(super) fn head_too_large(limit: usize) -> Self {
        let message = format!("The request's headers are larger than {} KiB.", limit / 1024);
        Self::last(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Code::InvalidArgument, message)
    }

    pub(super) fn too_slow(what: &str) -> Self {
        let message = format!("The request's {what} did not arrive in time. Send it again.");
        Self::last(StatusCode::REQUEST_TIMEOUT, Code::Timeout, message)
    }

    pub(super) fn malformed(what: &str) -> Self {
        let message = format!("The request's {what} is not valid HTTP/1.1.");
        Self::last(StatusCode::BAD_REQUEST, Code::InvalidArgument, message)
    }

    pub(super) fn of_error(error: &Error) -> Self {
        let status = match error.code() {
            Code::NotLoggedIn | Code::RefreshTokenInvalid => StatusCode::UNAUTHORIZED,
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            // Final: a retry would meet the same error.
            Code::PaymentRequired => StatusCode::PAYMENT_REQUIRED,
            Code::ModelUnavailable => StatusCode::NOT_FOUND,
            Code::Network => StatusCode::BAD_GATEWAY,
            Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.code(), error.message())
    }

    /// Answer after a panic.
    pub(super) fn internal() -> Self {
        Self::of_error(&Error::internal("a request panicked"))
    }

    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ERROR_HEADER, HeaderValue::from_static(self.code.as_str()));
        if self.status == StatusCode::UNAUTHORIZED && self.code == Code::PermissionDenied {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.is_last {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        headers
    }

    pub(super) fn body(&self) -> Bytes {
        let kind = if self.status.is_server_error() { "qwen_error" } else { "invalid_request_error" };
        let error = json!({"message": self.message, "type": kind, "param": null, "code": self.code.as_str()});
        json!({"error": error}).to_string().into()
    }

    /// Returns the whole answer, for a connection whose HTTP can't be parsed.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let body = self.body();
        let mut bytes =
            format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", self.status, body.len()).into_bytes();
        for (name, value) in &self.headers() {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&body);
        bytes
    }
}
