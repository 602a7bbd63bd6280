//! Finds the error that a server writes into the text of an answer. Pure.

use serde_json::Value;

use super::chunk::is_json;
use super::shape::{TEXTS, text_of_parts};
use crate::lenient_json::{parsed, readable, written};
use crate::verdict::dialect::{Content, ServerError};

/// The first line of an error block of the native `DashScope` API.
const BLOCK_STARTS: [&str; 2] = ["event:error", "event: error"];
const STATUS_START: &str = ":HTTP_STATUS/";
/// The starts of the lines of a block.
const LINE_STARTS: [&str; 4] = ["id:", "event:", "data:", ":"];

/// Returns the error with which the texts of events end: an error block, or an error document that is a whole text or the
/// last piece of it. A model may write about an error anywhere else.
pub(super) fn error_in(events: &[Value]) -> Option<ServerError> {
    TEXTS.iter().find_map(|name| {
        let pieces = events.iter().filter_map(|event| text_of(event, name));
        let pieces: Vec<String> = pieces.map(|piece| readable(&piece).into_owned()).collect();
        let text = pieces.concat();
        let last = pieces.iter().rev().find(|piece| !piece.trim().is_empty())?;
        block_error(&text).or_else(|| document_error(&text)).or_else(|| document_error(last))
    })
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

/// Returns the error of the last block, if nothing follows the block.
fn block_error(text: &str) -> Option<ServerError> {
    let start = BLOCK_STARTS.iter().filter_map(|start| text.rfind(start)).max();
    let block = &text[start.or_else(|| text.rfind(STATUS_START))?..];
    let is_line = |line: &str| line.is_empty() || LINE_STARTS.iter().any(|start| line.starts_with(start));
    block.lines().all(is_line).then(|| ServerError::in_events(block))?
}

/// Returns the error in a text that is one JSON document.
fn document_error(text: &str) -> Option<ServerError> {
    let document = text.trim().as_bytes();
    match Content::of_json(document, false) {
        Content::Error(error) if is_json(document) => Some(error),
        _ => None,
    }
}
