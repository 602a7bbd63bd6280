//! Requests that a server received.

use std::net::SocketAddr;

use axum::http::{HeaderMap, Method, Uri, Version};
use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
    pub peer: SocketAddr,
}

impl Seen {
    pub fn form(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }

    pub fn field(&self, name: &str) -> String {
        self.form().into_iter().find(|(key, _)| key == name).map(|(_, value)| value).unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// True for the smaller chat that is tried when every account is out of quota. The tests' own chats set no
    /// limit.
    pub fn is_degraded(&self) -> bool {
        serde_json::from_slice::<Value>(&self.body).is_ok_and(|body| body["max_tokens"] == 1024)
    }

    pub fn bearer(&self) -> &str {
        let value = self.headers.get("authorization").and_then(|value| value.to_str().ok());
        value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
    }
}
