//! Finds the error that a server writes into the text of an answer. Pure.

use serde_json::value::RawValue;
use serde_json::{Deserializer, Value};

use super::shape::{TEXTS, text_of_parts};
use crate::lenient_json::{parsed, readable, written};
use crate::sse::error_status;
use crate::verdict::dialect::{Content, ServerError};

/// The first line of an error block of the native `DashScope` API.
const BLOCK_STARTS: [&str; 2] = ["event:error", "event: error"];
const STATUS_START: &str = ":HTTP_STATUS/";
/// Number of braces at the end of a text where a JSON document may begin.
const MAX_BRACES: usize = 64;

/// Returns the last error in the texts of events.
pub(super) fn error_in(events: &[Value]) -> Option<ServerError> {
    let texts = TEXTS.map(|name| {
        let text: String = events.iter().filter_map(|event| text_of(event, name)).collect();
        readable(&text).into_owned()
    });
    let blocks = texts.iter().filter_map(|text| last_block(text));
    blocks.chain(texts.iter().map(String::as_str)).find_map(error_of)
}

/// Returns the error in the fields of an event, beside its choices.
pub(super) fn error_beside_choices(data: &[u8]) -> Option<ServerError> {
    let Some(Value::Object(mut fields)) = parsed(data) else { return None };
    fields.shift_remove("choices");
    match Content::of_json(written(&fields.into()).as_bytes(), false) {
        Content::Error(error) => Some(error),
        _ => None,
    }
}

/// True if the text of an event is an error block.
pub(super) fn has_error_block(event: &Value) -> bool {
    TEXTS.iter().filter_map(|name| text_of(event, name)).any(|text| is_error_block(&text))
}

fn text_of(event: &Value, name: &str) -> Option<String> {
    let choice = &event["choices"][0];
    let said = if choice["delta"].is_object() { &choice["delta"] } else { &choice["message"] };
    let content = &said[name];
    text_of_parts(content).or_else(|| Some(content.as_str()?.to_owned()))
}

fn is_error_block(text: &str) -> bool {
    text.lines().take(3).any(|line| line.replace(' ', "") == "event:error" || line.starts_with(STATUS_START))
}

/// Returns the text from its last error block on.
fn last_block(text: &str) -> Option<&str> {
    let start = BLOCK_STARTS.iter().filter_map(|start| text.rfind(start)).max();
    start.or_else(|| text.rfind(STATUS_START)).map(|start| &text[start..])
}

/// Returns the last error in a text, with the last status.
fn error_of(text: &str) -> Option<ServerError> {
    let error = last_document(text).or_else(|| ServerError::in_events(text))?;
    let status = text.rsplit_once(STATUS_START).and_then(|(_, rest)| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        error_status(&rest[..end])
    });
    Some(ServerError { status: status.or(error.status), ..error })
}

/// Returns the last JSON document that is an error.
fn last_document(text: &str) -> Option<ServerError> {
    let mut starts: Vec<usize> = text.rmatch_indices('{').take(MAX_BRACES).map(|(at, _)| at).collect();
    starts.reverse();
    let (mut found, mut end) = (None, 0);
    for start in starts {
        // A brace before the end is part of the previous document.
        if start < end {
            continue;
        }
        let mut documents = Deserializer::from_str(&text[start..]).into_iter::<&RawValue>();
        if let Some(Ok(document)) = documents.next() {
            end = start + documents.byte_offset();
            if let Content::Error(error) = Content::of_json(document.get().as_bytes(), false) {
                found = Some(error);
            }
        }
    }
    found
}
