//! Reads and corrects the events of one chat stream. Pure.

use memchr::memchr2;
use qwen_base::{Code, Error, Redactor};
use serde_json::{Map, Value};

use super::chunk::{Frame, is_json, needs_parsing};
use super::error_text::{error_beside_choices, error_in, split_at_block};
use super::shape::{Shape, TEXTS};
use crate::lenient_json::{parsed, written};
use crate::sse::{DONE, Line, SseEvent, data_of, is_done};
use crate::verdict::dialect::{Content, ServerError};

/// Length in bytes of the last events that are kept, since their text may contain an error.
const MAX_RECENT: usize = 16 * 1024;

/// The state of the stream after the events so far.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is independent of the others")]
pub(super) struct ChatEvents {
    /// The lines of the current event.
    pub(super) lines: Vec<u8>,
    event: SseEvent,
    pub(super) in_event: bool,
    /// True if the current event lies unchanged in the chunk being read.
    pub(super) is_verbatim: bool,
    /// The data of the last events, each followed by [`EVENT_END`].
    recent: Vec<u8>,
    frame: Frame,
    shape: Shape,
    /// An event whose text is an error block. It is held back until the next event: if the answer ends with an error, the
    /// error message already contains the words of the block.
    pub(super) held: Vec<u8>,
    /// The part of the current event that is to be held back.
    next_held: Option<Value>,
    pub(super) has_content: bool,
    has_call: bool,
    pub(super) is_finished: bool,
    pub(super) is_done: bool,
    pub(super) failure: Option<Error>,
    pub(super) server_error: Option<ServerError>,
}

/// The finish reason of `DashScope` for an answer that ends with an error in its text.
const ERROR_FINISH: &str = "error_finish";
/// The finish reasons of an answer that failed. The error may be at the end of its text.
const ERROR_REASONS: [&str; 6] = [
    ERROR_FINISH,
    "error",
    "abort",
    "insufficient_system_resource",
    "network_error",
    "repetition_truncation",
];
/// Ends the data of an event in the list of recent ones. JSON never contains this byte.
const EVENT_END: u8 = 0;

/// The result for one event.
pub(super) enum EventResult {
    Unchanged,
    Replaced(Value),
    Dropped,
}

impl ChatEvents {
    /// Takes the events at the start of `bytes` that need no parsing, and returns their length.
    pub(super) fn skip(&mut self, bytes: &[u8]) -> usize {
        let is_over = self.failure.is_some() || self.is_done;
        if self.in_event || !self.has_content || !self.held.is_empty() || is_over {
            return 0;
        }
        let mut rest = bytes;
        while let Some((data, length)) = only_data(rest)
            && !self.needs_parsing(data)
        {
            self.remember(data);
            rest = &rest[length..];
        }
        bytes.len() - rest.len()
    }

    /// Takes a line. Returns a result if the line ends an event.
    pub(super) fn take(&mut self, line: &Line) -> Option<EventResult> {
        if self.failure.is_some() || self.is_done {
            return Some(EventResult::Dropped);
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
        let result = self.result_of(&data);
        self.event.data = data;
        Some(result)
    }

    /// True after `[DONE]`, even without an empty line, or after an error.
    pub(super) fn is_over(&self) -> bool {
        self.is_done || self.failure.is_some() || (self.in_event && is_done(&self.event.data))
    }

    fn needs_parsing(&mut self, data: &[u8]) -> bool {
        if self.frame.fits(data) {
            return false;
        }
        // The host sends the request again after a broken event.
        let needs_parsing = needs_parsing(data, false) || !is_json(data);
        if !needs_parsing {
            self.frame.learn(data);
        }
        needs_parsing
    }

    /// True if the current event can be passed on without a copy.
    pub(super) fn passes_unchanged(&self) -> bool {
        self.is_verbatim && self.held.is_empty()
    }

    /// Writes the event that was held back, and then the current one.
    pub(super) fn write(&mut self, result: &EventResult, out: &mut Vec<u8>) {
        // A comment or a dropped event doesn't release the held block.
        let is_dropped = matches!(result, EventResult::Dropped) && self.next_held.is_none();
        let is_event = !self.event.data.is_empty() && !is_dropped;
        if is_event && self.failure.is_none() && !self.is_done {
            out.append(&mut self.held);
        }
        match result {
            EventResult::Unchanged => out.extend_from_slice(&self.lines),
            EventResult::Replaced(event) => out.extend_from_slice(&event_of(event)),
            EventResult::Dropped => {}
        }
        if let Some(block) = self.next_held.take() {
            self.held = event_of(&block);
        }
    }

    fn result_of(&mut self, data: &[u8]) -> EventResult {
        if data.is_empty() {
            // Comments are kept. The host does not understand empty data.
            let has_data = self.lines.split(|&byte| byte == b'\n').any(|line| data_of(line).is_some());
            return if has_data { EventResult::Dropped } else { EventResult::Unchanged };
        }
        if is_done(data) {
            self.is_done = true;
            // The host compares this event byte for byte.
            if data != DONE {
                self.lines = [b"data: ", DONE, b"\n\n"].concat();
                self.is_verbatim = false;
            }
            // OpenCode 2 stops reading at `[DONE]`, so it is dropped if an error event follows.
            return if self.is_finished { EventResult::Unchanged } else { EventResult::Dropped };
        }
        self.remember(data);
        // After the first content most events need no parsing.
        if self.has_content && !self.event.is_error && !self.needs_parsing(data) {
            return EventResult::Unchanged;
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

    fn read(&mut self, data: &[u8]) -> EventResult {
        // Only a piece of the tool call that was read last needs no parsing.
        self.frame = Frame::default();
        let contradiction = match Content::of_json(data, self.event.is_error) {
            Content::Error(mut error) => {
                error.status = self.event.status.or(error.status);
                self.fail_with(Some(error), None);
                return EventResult::Dropped;
            }
            Content::Contradiction(error) => Some(error),
            Content::Nothing | Content::Answer => None,
        };
        let is_object = data.trim_ascii_start().starts_with(b"{");
        let Some(mut fields) = parsed(data).and_then(only_object) else {
            // The host does not understand a sign of life such as `ping`, and sends the request again after a broken event.
            if is_object {
                self.fail("Qwen sent an event that is not valid JSON. Send the message again.", None);
            }
            return EventResult::Dropped;
        };
        let mut is_changed = !is_object;
        is_changed |= self.shape.correct(&mut fields);
        // The host refuses the whole answer, even if the name follows.
        if self.shape.has_nameless_call() {
            self.fail("Qwen sent a tool call without a name. Send the message again.", None);
            return EventResult::Dropped;
        }
        let was_finished = self.is_finished;
        let mut error_reason = None;
        for choice in fields.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
            match self.correct(choice) {
                Ok(has_changed) => is_changed |= has_changed,
                Err(reason) => error_reason = Some(reason),
            }
        }
        let event = Value::Object(fields);
        if contradiction.is_some() || error_reason.is_some() {
            self.is_finished = was_finished;
            return self.fail_after(event, data, contradiction, error_reason.as_deref());
        }
        if !self.is_finished
            && let Some((before, block)) = split_at_block(&event)
        {
            self.next_held = Some(block);
            return if has_words(&before) { EventResult::Replaced(before) } else { EventResult::Dropped };
        }
        if is_changed {
            return EventResult::Replaced(event);
        }
        if self.has_call && !needs_parsing(data, true) && is_json(data) {
            self.frame.learn(data);
        }
        EventResult::Unchanged
    }

    /// Ends the stream with an event that has an error beside its content, or a finish reason that means an error. Keeps the
    /// content of the event.
    fn fail_after(
        &mut self,
        event: Value,
        data: &[u8],
        contradiction: Option<ServerError>,
        reason: Option<&str>,
    ) -> EventResult {
        let in_fields = contradiction.clone().or_else(|| error_beside_choices(data));
        let in_text = match in_fields {
            None => self.error_in_text(reason == Some(ERROR_FINISH)),
            Some(_) => None,
        };
        // The error message has the words of an error in the text.
        let content = match (&in_text, split_at_block(&event)) {
            (None, _) => Some(event),
            (Some(_), split) => split.map(|(before, _)| before),
        };
        match (contradiction, reason) {
            // An error beside content is only a verdict about the account if it has a code, or ended the answer.
            (Some(error), None) if error.code.is_none() => {
                self.fail(&broken_off(error.message.as_deref(), None), None);
            }
            _ => self.fail_with(in_fields.or(in_text), reason),
        }
        let Some(mut content) = content.filter(|content| !self.is_finished && has_words(content)) else {
            return EventResult::Dropped;
        };
        for choice in content["choices"].as_array_mut().into_iter().flatten() {
            choice["finish_reason"] = Value::Null;
        }
        EventResult::Replaced(content)
    }

    /// Corrects a choice for the host. Returns true if the choice changed. Fails with the finish reason if that means an error.
    fn correct(&mut self, choice: &mut Value) -> Result<bool, String> {
        let has_call = has_call(choice);
        self.has_call |= has_call;
        self.has_content |= has_call || has_text(choice);
        let Some(reason) = choice.get("finish_reason").filter(|reason| !reason.is_null()) else {
            return Ok(false);
        };
        let Some(reason) = reason.as_str().filter(|reason| !matches!(*reason, "" | "null")) else {
            // OpenCode would take an empty or unknown value for the finish reason.
            choice["finish_reason"] = Value::Null;
            return Ok(true);
        };
        let known = self.known_reason(reason).ok_or(reason)?;
        self.is_finished = true;
        let is_changed = known != reason;
        if is_changed {
            choice["finish_reason"] = known.into();
        }
        Ok(is_changed)
    }

    /// Returns the finish reason that the host knows; `None` for an error.
    fn known_reason(&self, reason: &str) -> Option<&'static str> {
        match reason {
            "length" | "model_context_window_exceeded" | "max_tokens" => Some("length"),
            "content_filter" | "sensitive" => Some("content_filter"),
            "tool_calls" | "function_call" | "tool_use" if self.has_call => Some("tool_calls"),
            "stop" | "tool_calls" | "function_call" => Some("stop"),
            _ if ERROR_REASONS.contains(&reason) => None,
            _ => self.has_content.then_some("stop"),
        }
    }

    /// Finds an error in the text of the last events. `is_announced` is true if the finish reason says that it is there.
    pub(super) fn error_in_text(&self, is_announced: bool) -> Option<ServerError> {
        let events: Vec<Value> = self.recent.split(|&byte| byte == EVENT_END).filter_map(parsed).collect();
        error_in(&events, is_announced)
    }

    pub(super) fn fail_with(&mut self, error: Option<ServerError>, reason: Option<&str>) {
        let code =
            error.as_ref().and_then(|error| error.code.as_deref().or(error.kind.as_deref())).or(reason);
        let message = broken_off(error.as_ref().and_then(|error| error.message.as_deref()), code);
        self.fail(&message, error);
    }

    /// Ends the stream with an error, unless the answer already had a good end.
    pub(super) fn fail(&mut self, message: &str, error: Option<ServerError>) {
        if self.failure.is_none() {
            self.failure = (!self.is_finished).then(|| Error::new(Code::InvalidResponse, message));
            self.server_error = error;
        }
    }
}

/// Returns the data and the length of the event at the start of `bytes`, if that is whole, short, and a single `data` line.
fn only_data(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr2(b'\n', b'\r', &bytes[..bytes.len().min(MAX_RECENT)])?;
    let data = data_of(&bytes[..end])?;
    bytes[end..].starts_with(b"\n\n").then_some((data, end + 2))
}

/// True if a choice has a text.
fn has_text(choice: &Value) -> bool {
    TEXTS.iter().any(|name| choice["delta"][name].as_str().is_some_and(|text| !text.is_empty()))
}

/// True if a choice has a tool call. The host ignores `function_call`.
fn has_call(choice: &Value) -> bool {
    choice["delta"]["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty())
}

/// True if an event has text or a tool call.
fn has_words(event: &Value) -> bool {
    event["choices"].as_array().into_iter().flatten().any(|choice| has_text(choice) || has_call(choice))
}

/// Writes an event as the stream has it.
fn event_of(data: &Value) -> Vec<u8> {
    format!("data: {}\n\n", written(data)).into_bytes()
}

/// Returns the fields of an object, or of the only one in an array.
fn only_object(document: Value) -> Option<Map<String, Value>> {
    match document {
        Value::Object(fields) => Some(fields),
        Value::Array(mut items) if items.len() == 1 => items.pop().and_then(only_object),
        _ => None,
    }
}

/// Returns the message about an answer that the server ended with an error.
fn broken_off(message: Option<&str>, code: Option<&str>) -> String {
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    match message {
        Some(message) => {
            // A server may repeat the key.
            let message = Redactor::new([]).text(message);
            format!("Qwen ended its answer with an error: {message}{code}")
        }
        None => format!("Qwen broke its answer off{code}. Send the message again."),
    }
}
