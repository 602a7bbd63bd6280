//! Answers that a server can give to a request.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;

/// One answer, or the lack of one.
#[derive(Debug, Clone)]
pub enum Reply {
    /// The answer of a healthy server.
    Real,
    /// The request is acted on, but the answer is lost.
    Lost,
    /// The connection closes without an answer.
    Close,
    /// No answer ever comes.
    Hang,
    Answer(Answer),
}

#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<Part>,
}

/// A piece of a body.
#[derive(Debug, Clone)]
pub enum Part {
    Bytes(Bytes),
    /// Silence, and then more.
    Pause(Duration),
    /// Silence for ever.
    Stall,
    /// The connection closes in mid-body.
    Cut,
    /// The same bytes over and over, as fast as they are read.
    Flood(Bytes),
}

impl Part {
    pub fn text(text: &str) -> Self {
        Self::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl Reply {
    pub fn new(status: u16, content_type: &str, body: Vec<Part>) -> Self {
        Self::Answer(Answer { status, headers: vec![("content-type", content_type.to_owned())], body })
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", vec![Part::text(&body.to_string())])
    }

    pub fn html(status: u16) -> Self {
        Self::new(status, "text/html", vec![Part::text("<html><h1>Gateway</h1></html>")])
    }

    pub fn empty(status: u16) -> Self {
        Self::Answer(Answer { status, headers: Vec::new(), body: Vec::new() })
    }

    pub fn redirect(status: u16, location: &str) -> Self {
        Self::empty(status).header("location", location)
    }

    pub fn oauth_error(status: u16, error: &str) -> Self {
        Self::json(status, &serde_json::json!({"error": error, "error_description": "as the test says"}))
    }

    pub fn api_error(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &serde_json::json!({"error": {"code": code, "message": message, "type": "t"}}))
    }

    pub fn events(parts: Vec<Part>) -> Self {
        Self::new(200, "text/event-stream", parts)
    }

    pub fn header(self, name: &'static str, value: &str) -> Self {
        match self {
            Self::Answer(mut answer) => {
                answer.headers.push((name, value.to_owned()));
                Self::Answer(answer)
            }
            other => other,
        }
    }
}

impl Answer {
    pub fn has_header(&self, name: &str) -> bool {
        self.headers.iter().any(|(key, _)| *key == name)
    }

    /// The part of the body that is there from the start.
    pub fn text(&self) -> String {
        let bytes = self.body.iter().filter_map(|part| match part {
            Part::Bytes(bytes) => Some(bytes.as_ref()),
            _ => None,
        });
        String::from_utf8(bytes.collect::<Vec<_>>().concat()).unwrap()
    }

    /// Sends the answer. `on_bytes` gets each count of bytes sent; `alive` is dropped when the answer ends or its connection
    /// closes.
    pub fn respond(
        self,
        on_bytes: impl Fn(usize) + Send + Sync + 'static,
        alive: impl Send + Sync + 'static,
    ) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap();
        for (name, value) in self.headers {
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap());
        }
        if let [Part::Bytes(whole)] = self.body.as_slice() {
            on_bytes(whole.len());
            *response.body_mut() = Body::from(whole.clone());
        } else if !self.body.is_empty() {
            let parts = self.body.into_iter().collect::<std::collections::VecDeque<_>>();
            let stream = futures_util::stream::unfold(
                (parts, on_bytes, alive),
                |(mut parts, on_bytes, alive)| async move {
                    loop {
                        let item = match parts.pop_front()? {
                            Part::Bytes(bytes) => Ok(bytes),
                            Part::Pause(pause) => {
                                tokio::time::sleep(pause).await;
                                continue;
                            }
                            Part::Stall => std::future::pending().await,
                            Part::Cut => Err(std::io::Error::other("cut")),
                            Part::Flood(bytes) => {
                                parts.push_front(Part::Flood(bytes.clone()));
                                Ok(bytes)
                            }
                        };
                        on_bytes(item.as_ref().map_or(0, Bytes::len));
                        return Some((item, (parts, on_bytes, alive)));
                    }
                },
            );
            *response.body_mut() = Body::from_stream(stream);
        }
        response
    }
}
