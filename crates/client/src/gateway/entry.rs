//! One line for each request, for whoever runs the gateway.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use qwen_base::Clock;
use serde::Deserialize;

use crate::usage::scan::{Form, Scanner, Tokens};

/// Takes the line of each request when the request is over.
pub type Listener = Arc<dyn Fn(Entry) + Send + Sync>;

/// What came of a request. Never holds a key or a query.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// When it came, in epoch milliseconds.
    pub at: u64,
    /// Its method.
    pub method: String,
    /// Its path without the query.
    pub path: String,
    /// The model that it names.
    pub model: Option<String>,
    /// The id of the account that answered.
    pub account: Option<String>,
    /// The answer's status; `None` if the client left before there was one.
    pub status: Option<u16>,
    /// From its head to the last byte of the answer, in milliseconds.
    pub duration_ms: u64,
    /// Usage that the answer reports.
    pub tokens: Option<Tokens>,
}

/// Gathers an entry, and tells it when it is dropped.
pub(super) struct Recorder(Option<Box<Recording>>);

struct Recording {
    listener: Listener,
    started: Instant,
    entry: Entry,
    scanner: Option<Scanner>,
}

impl Recorder {
    pub(super) fn new(listener: Option<&Listener>, clock: &Clock, method: &str, path: &str) -> Self {
        Self(listener.map(|listener| {
            let (method, path) = (method.to_owned(), path.to_owned());
            Box::new(Recording {
                listener: Arc::clone(listener),
                started: Instant::now(),
                entry: Entry { at: clock.now_ms(), method, path, ..Entry::default() },
                scanner: None,
            })
        }))
    }

    /// The request's body.
    pub(super) fn body(&mut self, bytes: &[u8]) {
        #[derive(Deserialize)]
        struct Named {
            model: String,
        }
        if let Some(recording) = &mut self.0 {
            recording.entry.model = serde_json::from_slice::<Named>(bytes).ok().map(|named| named.model);
        }
    }

    /// The answer's head.
    pub(super) fn head(&mut self, status: u16, headers: &HeaderMap) {
        if let Some(recording) = &mut self.0 {
            let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            recording.entry.status = Some(status);
            recording.entry.account = text("x-qwen-account").map(str::to_owned);
            let form = Form::of_content_type(text(CONTENT_TYPE.as_str()).unwrap_or_default());
            recording.scanner = Some(Scanner::new(form));
        }
    }

    /// Bytes of the answer's body.
    pub(super) fn chunk(&mut self, bytes: &[u8]) {
        if let Some(scanner) = self.0.as_mut().and_then(|recording| recording.scanner.as_mut()) {
            scanner.pass(bytes);
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let mut entry = std::mem::take(&mut self.entry);
        entry.duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        entry.tokens = self.scanner.as_ref().and_then(Scanner::found);
        (self.listener)(entry);
    }
}
