//! Reads errors in all forms that servers send. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use qwen_base::{ESCAPE_LENGTH, HIDDEN, Secret, truncate};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::chat::fields::FieldName;
use crate::lenient_json::string_of;
use crate::sse::{EventReader, SseEvent, error_status, is_done};

/// Longest text of an error, in bytes. Longer texts are cut.
const MAX_TEXT: usize = 4 * 1024;
/// Bytes of an error body that are read.
pub const MAX_ERROR_BODY: usize = 64 * 1024;
/// Shortest document, in bytes, that may have been cut.
const MAY_BE_CUT: usize = MAX_ERROR_BODY / 2;
/// Largest number of `error` objects in one another that are opened.
const MAX_NESTED: usize = 4;
/// Codes and words that servers give in place of an error when there is none.
const NO_ERROR: [&str; 10] =
    ["0", "200", "ok", "success", "succeed", "succeeded", "null", "none", "undefined", "false"];

/// The parts of an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerError {
    /// The HTTP status in the error.
    pub status: Option<u16>,
    /// The error code.
    pub code: Option<String>,
    /// The error type.
    pub kind: Option<String>,
    /// The message.
    pub message: Option<String>,
    /// The server's id of the request.
    pub request_id: Option<String>,
}

/// Content of a document or an event of a chat answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// No part that a user sees.
    Nothing,
    /// A part of an answer: text, reasoning, a tool call, or a finish reason.
    Answer,
    /// An error without text, reasoning or a tool call.
    Error(ServerError),
    /// An error beside text, reasoning or a tool call.
    Contradiction(ServerError),
}

impl ServerError {
    /// Reads the body of an answer with an error status. A body in an unknown form is used as the message, unless it is HTML.
    #[must_use]
    pub fn of_body(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        if let Some(fields) = LowercaseFields::read(&closed(text, MAY_BE_CUT)) {
            return fields.error();
        }
        if let Some(error) = Self::in_events(text) {
            return error;
        }
        // The words of a body that broke off are shown, but they may lack the end that decides their meaning.
        let broken_off = || LowercaseFields::read(&closed(text, 0))?.error().message;
        let is_text = !text.starts_with(['<', '{', '[']) && !text.contains('\0');
        let message = if is_text { shortened(text) } else { broken_off() };
        Self { message, ..Self::default() }
    }

    /// Finds the first error in a text of server-sent events. After `[DONE]` the answer is over.
    #[must_use]
    pub fn in_events(text: &str) -> Option<Self> {
        let (mut reader, mut found, mut is_over) = (EventReader::default(), None, false);
        let mut see = |event: SseEvent| {
            is_over |= is_done(&event.data);
            if found.is_none()
                && !is_over
                && let Content::Error(error) = Content::of_event(&event)
            {
                found = Some(error);
            }
        };
        reader.read(text.as_bytes(), &mut see);
        reader.end(&mut see);
        found
    }

    /// Removes a token that the server repeats in its words.
    pub fn hide(&mut self, token: &Secret) {
        if let Some(message) = self.message.as_mut().filter(|message| message.contains(token.expose())) {
            *message = message.replace(token.expose(), HIDDEN);
        }
    }

    /// Returns the error as the API writes it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let kind = self.kind.as_ref().or(self.code.as_ref());
        let mut document = json!({"error": {"code": self.code, "message": self.message, "type": kind}});
        if let Some(id) = &self.request_id {
            document["request_id"] = id.as_str().into();
        }
        document
    }
}

impl Content {
    /// Reads one event.
    #[must_use]
    pub fn of_event(event: &SseEvent) -> Self {
        let found = Self::of_json(&event.data, event.is_error);
        match found {
            Self::Error(error) => Self::Error(ServerError { status: event.status.or(error.status), ..error }),
            found => found,
        }
    }

    /// Reads a whole body that is one JSON document. A message alone, in place of an answer, is an error.
    #[must_use]
    pub fn of_document(data: &[u8]) -> Self {
        match Self::of_json(data, false) {
            Self::Nothing => {
                let text = String::from_utf8_lossy(data);
                let fields = LowercaseFields::read(text.trim_start_matches('\u{feff}'));
                let message = fields.filter(LowercaseFields::is_message_alone);
                message.map_or(Self::Nothing, |fields| Self::Error(fields.error()))
            }
            found => found,
        }
    }

    /// Reads a JSON document. `is_error` is true if it is known to be an error.
    #[must_use]
    pub fn of_json(data: &[u8], is_error: bool) -> Self {
        let text = String::from_utf8_lossy(data);
        let text = closed(text.trim_start_matches('\u{feff}').trim(), MAY_BE_CUT);
        let Some(fields) = LowercaseFields::read(&text) else {
            return match shortened(&text) {
                None => Self::Nothing,
                // Unknown data is passed on.
                Some(_) if !is_error => Self::Answer,
                message => Self::Error(ServerError { message, ..ServerError::default() }),
            };
        };
        let choices = fields.choices();
        if choices.iter().any(LowercaseFields::has_content) {
            if fields.is_error() { Self::Contradiction(fields.error()) } else { Self::Answer }
        } else if is_error || fields.is_error() {
            Self::Error(fields.error())
        } else if choices.iter().any(|choice| choice.raw("finish_reason").is_some()) {
            Self::Answer
        } else {
            // A stream may begin with an event without choices, and go on with an error.
            Self::Nothing
        }
    }
}

/// The fields of a JSON object, with names in lower case. Values are parsed on demand, so that deep ones do no harm.
struct LowercaseFields<'a>(BTreeMap<FieldName<'a>, &'a RawValue>);

impl<'a> LowercaseFields<'a> {
    /// Reads an object, or the first one in an array. Text after it is ignored.
    fn read(text: &'a str) -> Option<Self> {
        let first = first_item(text);
        let mut documents = serde_json::Deserializer::from_str(first.unwrap_or(text)).into_iter();
        let fields: BTreeMap<FieldName, &RawValue> = documents.next()?.ok()?;
        if fields.keys().all(FieldName::is_lowercase) {
            return Some(Self(fields));
        }
        Some(Self(fields.into_iter().map(|(name, value)| (name.into_lowercase(), value)).collect()))
    }

    /// Returns the raw value; `None` if it is empty, zero, false or null.
    fn raw(&self, name: &str) -> Option<&'a str> {
        let raw = self.0.get(name)?.get();
        let is_empty = raw.starts_with(['{', '[']) && raw[1..raw.len() - 1].trim().is_empty();
        (!is_empty && !matches!(raw, "null" | "false" | "0" | "\"\"")).then_some(raw)
    }

    fn object(&self, name: &str) -> Option<Self> {
        Self::read(self.raw(name)?)
    }

    /// Returns the first of the fields that is a string, a number, or an array that begins with one.
    fn text(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| {
            let raw = self.raw(name)?;
            let raw = first_item(raw).unwrap_or(raw);
            let is_number = raw.starts_with(|c: char| c.is_ascii_digit());
            shortened(&string_of(raw).or_else(|| is_number.then(|| raw.to_owned()))?)
        })
    }

    fn code(&self) -> Option<String> {
        self.text(&["code", "error_code", "errorcode", "err_code"])
    }

    fn message(&self) -> Option<String> {
        self.text(&[
            "message",
            "error_message",
            "error_msg",
            "errormessage",
            "error_description",
            "msg",
            "detail",
        ])
    }

    fn is_error(&self) -> bool {
        let names = ["error", "errors", "error_code", "error_type", "error_message", "error_msg"];
        let has_code = || self.code().is_some_and(|code| is_failure(&code));
        names.iter().any(|name| self.names_error(name, MAX_NESTED))
            || self.raw("object") == Some("\"error\"")
            || (!self.is_answer() && (has_code() || self.is_failure_report()))
    }

    /// True for a message without anything else but the id of the request.
    fn is_message_alone(&self) -> bool {
        const NAMES: [&str; 5] = ["message", "msg", "detail", "request_id", "requestid"];
        self.0.keys().all(|name| NAMES.contains(&name.as_str()))
            && self.message().is_some_and(|message| is_failure(&message))
    }

    /// True for a message beside a sign of failure: `{"success":false,"message":"text"}`, `{"status":429,"message":"text"}`.
    fn is_failure_report(&self) -> bool {
        const SIGNS: [(&str, &[&str]); 3] = [
            ("success", &["false"]),
            ("type", &["error"]),
            ("status", &["error", "fail", "failed", "failure"]),
        ];
        let value = |name: &str| self.0.get(name).map(|raw| raw.get().trim_matches('"'));
        let has_sign =
            |(name, signs): &(&str, &[&str])| value(name).is_some_and(|value| signs.contains(&value));
        let is_error_status = || {
            ["status", "status_code"]
                .into_iter()
                .filter_map(value)
                .any(|status| error_status(status).is_some())
        };
        (SIGNS.iter().any(has_sign) || is_error_status()) && self.message().is_some()
    }

    /// True if a field says that there is an error. Some servers send an `error` whose value means "no error".
    fn names_error(&self, name: &str, depth: usize) -> bool {
        let Some(raw) = self.raw(name) else { return false };
        if let Some(text) = self.text(&[name]) {
            return is_failure(&text);
        }
        let Some(fields) = Self::read(raw).filter(|_| depth > 0) else { return true };
        let says_success = fields.0.get("code").is_some_and(|code| !is_failure(code.get().trim_matches('"')));
        !(says_success && self.is_answer())
            && fields.0.keys().any(|name| fields.names_error(name.as_str(), depth - 1))
    }

    /// True for a document that has the parts of an answer, so that a code beside them is not an error.
    fn is_answer(&self) -> bool {
        let has_parts = |name: &&str| {
            let parts = self.object(name);
            parts.is_some_and(|parts| parts.0.keys().any(|name| parts.raw(name.as_str()).is_some()))
        };
        self.raw("choices").is_some() || ["output", "data", "usage"].iter().any(has_parts)
    }

    fn error(&self) -> ServerError {
        let within = |outer: &Self| ["error", "errors", "detail"].iter().find_map(|name| outer.object(name));
        let inner: Vec<Self> = std::iter::successors(within(self), within).take(MAX_NESTED).collect();
        // The innermost first: the others fill in what it lacks.
        let levels = || inner.iter().rev().chain([self]);
        let plain = levels().find_map(|fields| fields.text(&["error", "errors"]));
        // `{"error":"code","message":"text"}`, `{"error":"code"}` or `{"error":"text"}`.
        let (code, message) = match (levels().find_map(Self::code), levels().find_map(Self::message)) {
            (code, Some(message)) => (code.or(plain), Some(message)),
            (None, None) if plain.as_deref().is_some_and(is_code) => (plain.clone(), plain),
            (code, None) => (code, plain),
        };
        let kind = inner.last().unwrap_or(self).text(&["type", "error_type"]);
        let mut statuses = levels().flat_map(|fields| {
            ["status", "status_code", "http_status", "statuscode", "code", "error_code"]
                .into_iter()
                .filter_map(|name| error_status(&fields.text(&[name])?))
        });
        ServerError {
            status: statuses.next(),
            code,
            kind: kind.or_else(|| levels().find_map(|fields| fields.text(&["error_type"]))),
            message,
            request_id: levels().find_map(|fields| fields.text(&["request_id", "requestid"])),
        }
    }

    fn choices(&self) -> Vec<Self> {
        let choices = self.raw("choices").and_then(|raw| serde_json::from_str::<Vec<&RawValue>>(raw).ok());
        choices.into_iter().flatten().filter_map(|choice| Self::read(choice.get())).collect()
    }

    /// True if a choice has text, reasoning, or a tool call. A finish reason beside an error may be a part of the error.
    fn has_content(&self) -> bool {
        const NAMES: [&str; 7] =
            ["content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "audio"];
        let mut parts = ["delta", "message"].into_iter().filter_map(|name| self.object(name));
        self.raw("text").is_some() || parts.any(|part| NAMES.iter().any(|name| part.raw(name).is_some()))
    }
}

/// Trims a text and cuts it to 4 KiB; `None` if it is empty.
fn shortened(text: &str) -> Option<String> {
    let text = truncate(text.trim(), MAX_TEXT);
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns the first item of an array.
fn first_item(text: &str) -> Option<&str> {
    let items: Vec<&RawValue> = text.starts_with('[').then(|| serde_json::from_str(text).ok())??;
    items.first().map(|item| item.get())
}

/// True for one word, such as `insufficient_quota`.
fn is_code(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn is_failure(code: &str) -> bool {
    !NO_ERROR.contains(&code.to_ascii_lowercase().as_str())
}

/// Closes a JSON document that was cut. Texts in other forms, and texts shorter than `shortest` bytes, stay unchanged.
fn closed(text: &str, shortest: usize) -> Cow<'_, str> {
    let is_json = |text: &str| serde_json::from_str::<&RawValue>(text).is_ok();
    if text.len() < shortest || !text.starts_with('{') || is_json(text) {
        return Cow::Borrowed(text);
    }
    let (mut closers, mut in_text, mut escape, mut last_item) = (Vec::new(), false, None, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escape.is_some_and(|escape| escape + 1 == at) => {}
            b'\\' if in_text => escape = Some(at),
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => {
                closers.push(if byte == b'{' { '}' } else { ']' });
                last_item = at + 1;
            }
            b'}' | b']' => drop(closers.pop()),
            b',' => last_item = at,
            _ => {}
        }
    }
    let mut whole = escape.filter(|at| in_text && at + ESCAPE_LENGTH > text.len()).unwrap_or(text.len());
    // A high surrogate without its low surrogate is not valid.
    let half = text.as_bytes()[..whole].last_chunk::<ESCAPE_LENGTH>();
    if in_text && half.is_some_and(|half| half.starts_with(b"\\ud") && b"89abAB".contains(&half[3])) {
        whole -= ESCAPE_LENGTH;
    }
    let end: String = closers.into_iter().rev().collect();
    let in_value = format!("{}{}{end}", &text[..whole], if in_text { "\"" } else { "" });
    Cow::Owned(if is_json(&in_value) { in_value } else { format!("{}{end}", &text[..last_item]) })
}
