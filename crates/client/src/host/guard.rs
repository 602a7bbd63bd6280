//! Corrects a stream of chat events for `OpenCode`. Pure.
//!
//! `OpenCode` repeats a request, in some versions forever, if the stream is empty or cut, or has an unknown finish reason. The
//! guard gives such a stream a known finish reason, or an error that `OpenCode` shows once.

use bytes::Bytes;
use qwen_base::{Code, Error, Result};

use super::chat_events::{ChatEvents, EventResult};
use super::chunk::is_json;
use super::completion::as_events;
use super::errors::plain;
use crate::sse::{Line, LineReader, MAX_LINE, start_of};
use crate::verdict::dialect::{Content, ServerError};

/// Corrects one stream. Passes on whole events only.
#[derive(Debug, Default)]
pub struct Guard {
    lines: LineReader,
    /// The body so far, if it is one JSON document.
    json: Option<Vec<u8>>,
    is_json: bool,
    has_begun: bool,
    events: ChatEvents,
}

impl Guard {
    /// True once an event contained text, reasoning, a tool call, an error, or a finish reason.
    #[must_use]
    pub fn has_said_something(&self) -> bool {
        self.events.has_content || self.events.is_finished || self.has_failed()
    }

    /// True after `[DONE]`, even without its line ends, or after an error. The rest of the stream is ignored.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.events.is_over() || self.lines.ends_with_done()
    }

    /// True if the stream ended with an error.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.events.failure.is_some()
    }

    /// True once an event contained text, reasoning or a tool call.
    #[must_use]
    pub fn has_content(&self) -> bool {
        self.events.has_content
    }

    /// True if the body is one JSON document. The guard turns it into a stream.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.is_json
    }

    /// Takes the error with which the server ended the stream.
    pub fn take_server_error(&mut self) -> Option<ServerError> {
        self.events.server_error.take()
    }

    /// Takes the next bytes and returns the events that they complete.
    pub fn pass(&mut self, bytes: Bytes) -> Bytes {
        let mut bytes = bytes;
        if !self.has_begun {
            let Some(start) = start_of(&bytes) else { return Bytes::new() };
            bytes = bytes.slice(start..);
            self.has_begun = true;
            self.is_json = matches!(bytes[0], b'{' | b'[');
            self.json = self.is_json.then(Vec::new);
        }
        match &mut self.json {
            None => self.pass_lines(bytes),
            Some(json) => {
                if json.len() + bytes.len() <= MAX_LINE {
                    json.extend_from_slice(&bytes);
                } else {
                    self.events.fail("Qwen sent an answer that is too large.", None);
                }
                Bytes::new()
            }
        }
    }

    fn pass_lines(&mut self, bytes: Bytes) -> Bytes {
        let Self { lines, events, .. } = self;
        // Unchanged events are passed on without a copy: those before `end`.
        let (mut copied, mut at, mut end) = (None::<Vec<u8>>, 0, 0);
        loop {
            if lines.is_at_start() {
                let length = events.skip(&bytes[at..]);
                match &mut copied {
                    Some(copied) => copied.extend_from_slice(&bytes[at..at + length]),
                    None if length > 0 => end = at + length,
                    None => {}
                }
                at += length;
            }
            let mut event = None;
            let Some(length) = lines.read_line(&bytes[at..], |line| event = events.take(&line)) else {
                break;
            };
            at += length;
            match event {
                Some(EventResult::Unchanged) if copied.is_none() && events.passes_unchanged() => end = at,
                Some(event) => events.write(&event, copied.get_or_insert_with(|| bytes[..end].to_vec())),
                None => {}
            }
        }
        events.is_verbatim = false;
        if lines.has_overflowed() || events.lines.len() > MAX_LINE {
            events.fail("Qwen sent an event that is too large.", None);
        }
        match copied {
            Some(copied) => Bytes::from(copied),
            None if end == bytes.len() => bytes,
            None => bytes.slice(..end),
        }
    }

    /// Ends the stream. Returns the last bytes to pass on, and the reason if the stream is incomplete, without words that make
    /// `OpenCode` retry. `failure` is the error that broke the connection.
    pub fn end(&mut self, failure: Option<&Error>) -> (Bytes, Result<()>) {
        let mut rest = Vec::new();
        if let Some(json) = self.json.take().filter(|_| failure.is_none() && !self.is_over()) {
            if let Some(events) = as_events(&json) {
                rest.extend_from_slice(&self.pass_lines(Bytes::from(events)));
            } else if let Content::Error(error) = Content::of_document(&json) {
                self.events.fail_with(Some(error), None);
            }
        }
        let Self { lines, events, .. } = self;
        // The last line may be whole although the connection broke.
        if failure.is_none() || lines.unended_data().is_some_and(is_json) {
            lines.end(|line| drop(events.take(&line)));
        }
        // The last event may end without an empty line.
        if events.in_event
            && let Some(event) = events.take(&Line::EMPTY)
        {
            events.write(&event, &mut rest);
        }
        if !events.held.is_empty()
            && let Some(error) = events.error_in_text(false)
        {
            events.fail_with(Some(error), None);
        }
        if events.server_error.is_none() {
            rest.append(&mut events.held);
        }
        let is_good = events.is_finished && events.failure.is_none();
        let problem = (!is_good).then(|| self.problem(failure));
        let end = problem.map_or(Ok(()), |problem| Err(Error::new(problem.code(), plain(problem.message()))));
        (Bytes::from(rest), end)
    }

    /// Returns the problem of a stream that ends here without a good end.
    #[must_use]
    pub fn problem(&self, failure: Option<&Error>) -> Error {
        if let Some(failure) = &self.events.failure {
            return failure.clone();
        }
        let (code, what) = match failure {
            Some(error) => (error.code(), without_advice(error.message())),
            None if self.events.has_content => {
                (Code::InvalidResponse, "Qwen ended its answer without finishing it.")
            }
            None => (Code::InvalidResponse, "Qwen sent an empty answer."),
        };
        Error::new(code, format!("{what} Send the message again."))
    }
}

/// Removes the last sentence, whose advice is for API callers. `OpenCode`'s users send messages, not requests.
fn without_advice(message: &str) -> &str {
    message.rfind(". ").map_or(message, |end| &message[..=end])
}

#[cfg(test)]
mod tests;
