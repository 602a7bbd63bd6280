//! Log lines of the gateway, one for each request.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use qwen_base::Clock;
use serde::Deserialize;

use crate::usage::scan::{Form, Scanner, Tokens};

/// Called with the entry of each request when it has ended.
pub type EntryListener = Arc<dyn Fn(GatewayEntry) + Send + Sync>;

/// Log entry of one request, without keys and query.
#[derive(Debug, Clone, Default)]
pub struct GatewayEntry {
    /// Time of arrival, in epoch milliseconds.
    pub at: u64,
    /// HTTP method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Model that the request names.
    pub model: Option<String>,
    /// Id of the account that answered.
    pub account: Option<String>,
    /// Status of the answer; `None` if the client disconnected before.
    pub status: Option<u16>,
    /// Time from the head to the last byte of the answer, in milliseconds.
    pub duration_ms: u64,
    /// Usage that the answer reports.
    pub tokens: Option<Tokens>,
}

/// Collects an entry and reports it on drop.
pub(super) struct Recorder(Option<Box<Recording>>);

struct Recording {
    listener: EntryListener,
    started: Instant,
    entry: GatewayEntry,
    scanner: Option<Scanner>,
}

impl Recorder {
    pub(super) fn new(listener: Option<&EntryListener>, clock: &Clock, method: &str, path: &str) -> Self {
        Self(listener.map(|listener| {
            let (method, path) = (method.to_owned(), path.to_owned());
            Box::new(Recording {
                listener: Arc::clone(listener),
                started: Instant::now(),
                entry: GatewayEntry { at: clock.now_ms(), method, path, ..GatewayEntry::default() },
                scanner: None,
            })
        }))
    }

    pub(super) fn body(&mut self, bytes: &[u8]) {
        #[derive(Deserialize)]
        struct Named {
            model: String,
        }
        if let Some(recording) = &mut self.0 {
            recording.entry.model = serde_json::from_slice::<Named>(bytes).ok().map(|named| named.model);
        }
    }

    pub(super) fn head(&mut self, status: u16, headers: &HeaderMap) {
        if let Some(recording) = &mut self.0 {
            let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            recording.entry.status = Some(status);
            recording.entry.account = text("x-qwen-account").map(str::to_owned);
            let form = Form::of_content_type(text(CONTENT_TYPE.as_str()).unwrap_or_default());
            recording.scanner = Some(Scanner::new(form));
        }
    }

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
        entry.tokens = self.scanner.as_mut().and_then(Scanner::end);
        (self.listener)(entry);
    }
}
