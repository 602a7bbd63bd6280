//! Puts a stream of chat events in order for `OpenCode`. Pure.
//!
//! `OpenCode` asks again, in some versions for ever, where a stream is empty or cut, or ends for a reason that it does not
//! know. Behind the guard such a stream ends for a reason that it knows, or fails with words that it shows once.

use bytes::Bytes;
use qwen_base::{Code, Error, Result};
use serde_json::{Value, json};

use super::chunk::has_to_be_read;
use super::completion::as_events;
use super::errors::plain;
use crate::sse::{Line, LineReader, MAX_LINE, SseEvent};
use crate::verdict::dialect::{Content, ServerError, parsed};

/// Length in bytes of the last events that are kept: the text of an error may stand in them.
const MAX_RECENT: usize = 16 * 1024;

/// The state of one stream. Only whole events are passed on.
#[derive(Debug, Default)]
pub struct Guard {
    lines: LineReader,
    /// The whole body, where it is one JSON document.
    json: Option<Vec<u8>>,
    is_json: bool,
    has_begun: bool,
    events: ChatEvents,
}

/// The events so far.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is independent of the others")]
struct ChatEvents {
    /// The current event as it came, and what it says.
    lines: Vec<u8>,
    event: SseEvent,
    in_event: bool,
    /// True if the bytes that were handed in last hold the current event whole.
    is_verbatim: bool,
    /// The data of the last events, each with an end of its own.
    recent: Vec<u8>,
    has_content: bool,
    has_call: bool,
    is_finished: bool,
    is_done: bool,
    failure: Option<Error>,
    server_error: Option<ServerError>,
}

/// Stands between the data of events. No JSON holds it.
const EVENT_END: u8 = 0;

/// Fate of an event.
enum Fate {
    Kept,
    Replaced(Value),
    Dropped,
}

impl Guard {
    /// True once an event had something to say: text, thought, a call, an error, or why the answer ended.
    #[must_use]
    pub fn has_said_something(&self) -> bool {
        self.events.has_content || self.events.is_finished || self.has_failed()
    }

    /// True once nothing more of the stream is wanted: after `[DONE]`, or an error.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.events.is_done || self.events.failure.is_some()
    }

    /// True once the stream ended with an error.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.events.failure.is_some()
    }

    /// True if the stream ended with an error before it had said anything.
    #[must_use]
    pub fn has_failed_at_once(&self) -> bool {
        self.has_failed() && !self.events.has_content
    }

    /// True if the body is one JSON document, which becomes a stream.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.is_json
    }

    /// The error with which the server ended the stream.
    pub fn take_server_error(&mut self) -> Option<ServerError> {
        self.events.server_error.take()
    }

    /// Takes bytes in and gives the lines that they complete.
    pub fn pass(&mut self, bytes: Bytes) -> Bytes {
        let mut bytes = bytes;
        if !self.has_begun {
            let is_blank = |byte: &u8| byte.is_ascii_whitespace() || b"\xef\xbb\xbf".contains(byte);
            let Some(start) = bytes.iter().position(|byte| !is_blank(byte)) else { return Bytes::new() };
            bytes = bytes.slice(start..);
            self.has_begun = true;
            self.is_json = bytes[0] == b'{';
            self.json = self.is_json.then(Vec::new);
        }
        match &mut self.json {
            None => self.pass_lines(&bytes),
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

    fn pass_lines(&mut self, bytes: &Bytes) -> Bytes {
        let Self { lines, events, .. } = self;
        // Bytes that stay as they are are not copied.
        let (mut copied, mut end) = (None::<Vec<u8>>, 0);
        lines.read(bytes, |line| {
            let Some(fate) = events.take(&line) else { return };
            if copied.is_none() && events.is_verbatim && matches!(fate, Fate::Kept) {
                end = line.end;
            } else {
                events.write(&fate, copied.get_or_insert_with(|| bytes[..end].to_vec()));
            }
        });
        events.is_verbatim = false;
        if lines.has_overflowed() || events.lines.len() > MAX_LINE {
            events.fail("Qwen sent an event that is too large.", None);
        }
        copied.map_or_else(|| bytes.slice(..end), Bytes::from)
    }

    /// What is left to pass on at the end.
    ///
    /// # Errors
    /// What is wrong with the stream, in words that make no host retry, unless it had ended well.
    pub fn end(&mut self, failure: Option<&Error>) -> Result<Option<Bytes>> {
        let mut rest = Vec::new();
        if let Some(json) = self.json.take().filter(|_| failure.is_none() && !self.is_over())
            && let Some(events) = as_events(&json)
        {
            rest.extend_from_slice(&self.pass_lines(&Bytes::from(events)));
        }
        let Self { lines, events, .. } = self;
        if failure.is_none() {
            lines.end(|line| drop(events.take(&line)));
        }
        // The last event may lack its empty line.
        if events.in_event
            && let Some(fate) = events.take(&Line::EMPTY)
        {
            events.write(&fate, &mut rest);
        }
        if !events.is_finished || events.failure.is_some() {
            let problem = self.problem(failure);
            return Err(Error::new(problem.code(), plain(problem.message())));
        }
        Ok((!rest.is_empty()).then(|| Bytes::from(rest)))
    }

    /// What is wrong with a stream that ends here.
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

impl ChatEvents {
    /// Takes a line in. Gives the fate of an event that ends with it.
    fn take(&mut self, line: &Line) -> Option<Fate> {
        if self.failure.is_some() || self.is_done {
            return Some(Fate::Dropped);
        }
        if !std::mem::replace(&mut self.in_event, true) {
            self.lines.clear();
            self.event.clear();
            self.is_verbatim = true;
        }
        self.is_verbatim &= line.is_verbatim;
        self.lines.extend_from_slice(line.text);
        self.lines.push(b'\n');
        if !self.event.add(line.text) {
            return None;
        }
        self.in_event = false;
        let data = std::mem::take(&mut self.event.data);
        let fate = self.fate(&data);
        self.event.data = data;
        Some(fate)
    }

    /// Adds the current event to what is passed on.
    fn write(&self, fate: &Fate, out: &mut Vec<u8>) {
        match fate {
            Fate::Kept => out.extend_from_slice(&self.lines),
            Fate::Replaced(event) => out.extend_from_slice(format!("data: {event}\n\n").as_bytes()),
            Fate::Dropped => {}
        }
    }

    fn fate(&mut self, data: &[u8]) -> Fate {
        if data.is_empty() {
            return Fate::Kept;
        }
        if data.trim_ascii() == b"[DONE]" {
            self.is_done = true;
            return Fate::Kept;
        }
        self.remember(data);
        // Once something was said, most events need not be read.
        if self.has_content && !self.event.is_error && !has_to_be_read(data, self.has_call) {
            return Fate::Kept;
        }
        self.read(data)
    }

    fn remember(&mut self, data: &[u8]) {
        if self.recent.len() + data.len() > 2 * MAX_RECENT {
            let kept = self.recent.len().saturating_sub(MAX_RECENT);
            self.recent.drain(..kept);
        }
        let start = data.len().saturating_sub(MAX_RECENT);
        self.recent.extend_from_slice(&data[start..]);
        self.recent.push(EVENT_END);
    }

    fn read(&mut self, data: &[u8]) -> Fate {
        match Content::of_json(data, self.event.is_error) {
            Content::Error(mut error) => {
                error.status = self.event.status.or(error.status);
                self.fail_with(Some(error), None);
                return Fate::Dropped;
            }
            // It says nothing of the account.
            Content::Contradiction(error) => {
                self.fail(&broken_off(error.message.as_deref(), None), None);
                return Fate::Dropped;
            }
            Content::Nothing | Content::Answer => {}
        }
        let Some(Value::Object(mut fields)) = parsed(data) else { return Fate::Kept };
        let (was_finished, mut is_changed) = (self.is_finished, false);
        if !fields.get("choices").is_some_and(Value::is_array) {
            fields.insert("choices".to_owned(), json!([]));
            is_changed = true;
        }
        for choice in fields.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
            match self.put_right(choice) {
                Ok(has_changed) => is_changed |= has_changed,
                Err(reason) => {
                    self.is_finished = was_finished;
                    let error = Some(self.error_in_text()).filter(|_| reason == "error_finish").flatten();
                    self.fail_with(error, Some(&reason));
                    return Fate::Dropped;
                }
            }
        }
        if is_changed { Fate::Replaced(Value::Object(fields)) } else { Fate::Kept }
    }

    /// Puts a choice into a form that the host understands. True if that changed it; the reason of its end where that is an
    /// error.
    fn put_right(&mut self, choice: &mut Value) -> Result<bool, String> {
        let mut is_changed = false;
        if let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) {
            for name in ["content", "reasoning_content"] {
                if let Some(text) = delta.get(name).and_then(text_of_parts) {
                    delta.insert(name.to_owned(), text.into());
                    is_changed = true;
                }
                self.has_content |=
                    delta.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
            }
            if let Some(calls) = delta.get_mut("tool_calls").filter(|calls| calls.is_object()) {
                *calls = json!(if *calls == json!({}) { vec![] } else { vec![calls.take()] });
                is_changed = true;
            }
            // The host knows no `function_call`.
            self.has_call |=
                delta.get("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty());
            self.has_content |= self.has_call;
        }
        let Some(reason) =
            choice.get("finish_reason").and_then(Value::as_str).filter(|reason| !reason.is_empty())
        else {
            return Ok(is_changed);
        };
        let known = self.known_reason(reason).ok_or(reason)?;
        self.is_finished = true;
        if known != reason {
            choice["finish_reason"] = known.into();
            is_changed = true;
        }
        Ok(is_changed)
    }

    /// The reason of an end as the host knows it; `None` for an error.
    fn known_reason(&self, reason: &str) -> Option<&'static str> {
        match reason {
            "length" | "model_context_window_exceeded" | "max_tokens" => Some("length"),
            "content_filter" | "sensitive" => Some("content_filter"),
            "tool_calls" | "function_call" | "tool_use" if self.has_call => Some("tool_calls"),
            "stop" | "tool_calls" | "function_call" => Some("stop"),
            "error_finish"
            | "error"
            | "abort"
            | "insufficient_system_resource"
            | "network_error"
            | "repetition_truncation" => None,
            _ => self.has_content.then_some("stop"),
        }
    }

    /// The error that stands in the text of the last events.
    fn error_in_text(&self) -> Option<ServerError> {
        let events = self.recent.split(|&byte| byte == EVENT_END).filter_map(parsed);
        let text: String = events
            .filter_map(|event| {
                let content = &event["choices"][0]["delta"]["content"];
                text_of_parts(content).or_else(|| Some(content.as_str()?.to_owned()))
            })
            .collect();
        let start = text.rfind("event:error").or_else(|| text.rfind("event: error")).unwrap_or(0);
        ServerError::in_events(&text[start..]).or_else(|| {
            text.match_indices('{').take(8).find_map(|(at, _)| {
                let found = Content::of_json(&text.as_bytes()[at..], false);
                if let Content::Error(error) = found { Some(error) } else { None }
            })
        })
    }

    fn fail_with(&mut self, error: Option<ServerError>, reason: Option<&str>) {
        let code =
            error.as_ref().and_then(|error| error.code.as_deref().or(error.kind.as_deref())).or(reason);
        let message = broken_off(error.as_ref().and_then(|error| error.message.as_deref()), code);
        self.fail(&message, error);
    }

    /// An answer that has ended well is complete, whatever follows it.
    fn fail(&mut self, message: &str, error: Option<ServerError>) {
        if self.failure.is_none() {
            self.failure = (!self.is_finished).then(|| Error::new(Code::InvalidResponse, message));
            self.server_error = error;
        }
    }
}

/// Says that the server ended an answer with an error, in its own words.
fn broken_off(message: Option<&str>, code: Option<&str>) -> String {
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    match message {
        Some(message) => format!("Qwen ended its answer with an error: {message}{code}"),
        None => format!("Qwen broke its answer off{code}. Send the message again."),
    }
}

/// The text of content parts.
fn text_of_parts(content: &Value) -> Option<String> {
    let parts = content.as_array()?;
    Some(parts.iter().filter_map(|part| part["text"].as_str().or_else(|| part.as_str())).collect())
}

/// The message without its last sentence, which is advice for callers who send requests and not messages.
fn without_advice(message: &str) -> &str {
    message.rfind(". ").map_or(message, |end| &message[..=end])
}

#[cfg(test)]
mod tests;
