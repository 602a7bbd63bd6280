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
/// last piece of it. A model may write about an error anywhere else. If `is_announced` is false, only the last piece counts.
pub(super) fn error_in(events: &[Value], is_announced: bool) -> Option<ServerError> {
    let has_call = |event: &Value| event["choices"][0]["delta"]["tool_calls"].is_array();
    let says = |event: &Value, name: &str| text_of(event, name).is_some_and(|text| !text.trim().is_empty());
    let said = |event: &Value| TEXTS.iter().find(|name| says(event, name));
    let last = events.iter().rev().find(|event| has_call(event) || said(event).is_some())?;
    let name = said(last).filter(|_| !has_call(last))?;
    let pieces = events.iter().filter_map(|event| text_of(event, name));
    let pieces: Vec<String> = pieces.map(|piece| readable(&piece).into_owned()).collect();
    let piece = pieces.iter().rev().find(|piece| !piece.trim().is_empty())?;
    if !is_announced {
        return block_error(piece).or_else(|| document_error(piece));
    }
    let text = pieces.concat();
    block_error(&text).or_else(|| document_error(&text)).or_else(|| document_error(piece))
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

/// Splits an event whose text has an error block: the event with the text before the block, and the event with the block.
pub(super) fn split_at_block(event: &Value) -> Option<(Value, Value)> {
    TEXTS.iter().find_map(|name| {
        let text = event["choices"][0]["delta"][name].as_str()?;
        let (before, block) = text.split_at(block_start(text)?);
        let with_text = |text: &str| {
            let mut part = event.clone();
            part["choices"][0]["delta"][name] = text.into();
            part
        };
        Some((with_text(before), with_text(block)))
    })
}

fn text_of(event: &Value, name: &str) -> Option<String> {
    let choice = &event["choices"][0];
    let said = if choice["delta"].is_object() { &choice["delta"] } else { &choice["message"] };
    let content = &said[name];
    text_of_parts(content).or_else(|| Some(content.as_str()?.to_owned()))
}

/// Returns the start of an error block in a text, which may be its `id` line.
fn block_start(text: &str) -> Option<usize> {
    let (mut at, mut id_at) = (0, None);
    text.split_inclusive('\n').find_map(|line| {
        let start = at;
        at += line.len();
        let line = line.trim_end();
        if line.replace(' ', "") == "event:error" || line.starts_with(STATUS_START) {
            return Some(id_at.unwrap_or(start));
        }
        id_at = line.starts_with("id:").then_some(start);
        None
    })
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
