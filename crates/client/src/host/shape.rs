//! Corrects the events that the schema of `OpenCode`'s SDK refuses although they do no harm. Pure.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Number, Value, json};

use crate::lenient_json::written;

/// Counts in the usage of an answer.
const COUNTS: [&str; 3] = ["prompt_tokens", "completion_tokens", "total_tokens"];
/// Parts of the usage with further counts.
const DETAILS: [(&str, &[&str]); 2] = [
    ("prompt_tokens_details", &["cached_tokens"]),
    (
        "completion_tokens_details",
        &["reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"],
    ),
];
/// The texts of a delta.
pub(super) const TEXTS: [&str; 3] = ["content", "reasoning_content", "reasoning"];
/// Length in characters of the part of the answer's id that makes the ids of its tool calls unique.
const ID_PART: usize = 12;

type JsonObject = Map<String, Value>;

/// Corrects the events of one stream.
#[derive(Debug, Default)]
pub(super) struct Shape {
    calls: Calls,
}

impl Shape {
    /// True if a tool call began without a name.
    pub(super) fn has_nameless_call(&self) -> bool {
        self.calls.have_nameless
    }

    /// Corrects an event, except for its finish reasons. Returns true if the event changed.
    pub(super) fn correct(&mut self, event: &mut JsonObject) -> bool {
        // The host takes an event with this member for an error, whatever the value.
        let mut is_changed = event.shift_remove("error").is_some();
        is_changed |= put_right(event, "id", Value::is_string, as_text);
        is_changed |= put_right(event, "model", Value::is_string, as_text);
        is_changed |= put_right(event, "created", Value::is_number, as_number);
        is_changed |= put_right(event, "usage", Value::is_object, |_| None);
        if let Some(usage) = event.get_mut("usage").and_then(Value::as_object_mut) {
            is_changed |= correct_usage(usage);
        }
        is_changed |= !event.get("choices").is_some_and(Value::is_array);
        let choices = event.entry("choices").or_insert(Value::Null);
        *choices = list_of(choices.take()).into();
        let unique = event.get("id").and_then(Value::as_str).map(unique_part).unwrap_or_default();
        let Some(choices) = event.get_mut("choices").and_then(Value::as_array_mut) else { return is_changed };
        is_changed |= keep_objects(choices);
        for choice in choices.iter_mut().filter_map(Value::as_object_mut) {
            is_changed |= correct_delta(choice);
            if let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) {
                is_changed |= self.calls.correct(delta, &unique);
            }
        }
        is_changed
    }
}

/// Returns the items of an array, or an object as the only item.
pub(super) fn list_of(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        Value::Object(fields) => vec![fields.into()],
        _ => Vec::new(),
    }
}

/// Returns the text of content that is an array of parts.
pub(super) fn text_of_parts(content: &Value) -> Option<String> {
    let parts = content.as_array()?;
    Some(parts.iter().filter_map(|part| part["text"].as_str().or_else(|| part.as_str())).collect())
}

/// Replaces a value that is neither null nor good, or removes it. Returns true if it did.
fn put_right(
    fields: &mut JsonObject,
    name: &str,
    is_good: impl Fn(&Value) -> bool,
    better: impl Fn(&Value) -> Option<Value>,
) -> bool {
    let Some(value) = fields.get_mut(name).filter(|value| !value.is_null() && !is_good(value)) else {
        return false;
    };
    match better(value) {
        Some(better) => *value = better,
        None => drop(fields.shift_remove(name)),
    }
    true
}

fn keep_objects(items: &mut Vec<Value>) -> bool {
    let length = items.len();
    items.retain(Value::is_object);
    items.len() < length
}

fn as_text(value: &Value) -> Option<Value> {
    value.is_number().then(|| value.to_string().into())
}

fn as_number(value: &Value) -> Option<Value> {
    serde_json::from_str::<Number>(value.as_str()?.trim()).ok().map(Value::Number)
}

fn as_content(value: &Value) -> Option<Value> {
    if let Some(text) = text_of_parts(value) {
        return Some(text.into());
    }
    let text = ["text", "content"].iter().find_map(|name| value.get(name)?.as_str());
    text.map(Value::from).or_else(|| as_text(value))
}

fn correct_usage(usage: &mut JsonObject) -> bool {
    let mut is_changed = correct_counts(usage, &COUNTS);
    for (name, counts) in DETAILS {
        is_changed |= put_right(usage, name, Value::is_object, |_| None);
        if let Some(details) = usage.get_mut(name).and_then(Value::as_object_mut) {
            is_changed |= correct_counts(details, counts);
        }
    }
    is_changed
}

fn correct_counts(fields: &mut JsonObject, names: &[&str]) -> bool {
    let mut is_changed = false;
    for name in names {
        is_changed |= put_right(fields, name, Value::is_number, as_number);
    }
    is_changed
}

/// Corrects the delta of a choice, except for its tool calls.
fn correct_delta(choice: &mut JsonObject) -> bool {
    let as_delta = |value: &Value| value.is_string().then(|| json!({"content": value}));
    let mut is_changed = put_right(choice, "delta", Value::is_object, as_delta);
    if choice.get("delta").is_none_or(Value::is_null)
        && let Some(message) = choice.shift_remove("message").filter(Value::is_object)
    {
        choice.insert("delta".to_owned(), message);
        is_changed = true;
    }
    let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) else { return is_changed };
    is_changed |= put_right(delta, "role", |role| role == "assistant", |_| None);
    for name in TEXTS {
        is_changed |= put_right(delta, name, Value::is_string, as_content);
    }
    is_changed
}

/// Returns the end of an answer's id, in characters that are allowed in the id of a tool call.
fn unique_part(id: &str) -> String {
    let letters: Vec<char> = id.chars().filter(char::is_ascii_alphanumeric).collect();
    letters[letters.len().saturating_sub(ID_PART)..].iter().chain(&['_']).collect()
}

/// The tool calls of one stream.
#[derive(Debug, Default)]
struct Calls {
    /// The indexes of the calls that have an id.
    identified: HashSet<u64>,
    /// The index of each id.
    indexes: HashMap<String, u64>,
    /// The index of the last delta.
    last: Option<u64>,
    next: u64,
    /// The indexes of the calls that have begun.
    begun: HashSet<u64>,
    have_nameless: bool,
}

impl Calls {
    fn correct(&mut self, delta: &mut JsonObject, unique: &str) -> bool {
        let mut is_changed = put_right(delta, "tool_calls", Value::is_array, |value| {
            value.is_object().then(|| json!([value]))
        });
        let Some(calls) = delta.get_mut("tool_calls").and_then(Value::as_array_mut) else {
            return is_changed;
        };
        let length = calls.len();
        calls.retain_mut(|call| {
            let Some(call) = call.as_object_mut() else { return false };
            is_changed |= correct_call(call);
            let is_kept = !self.is_empty_start(call);
            is_changed |= is_kept && self.identify(call, unique);
            is_kept
        });
        is_changed || calls.len() < length
    }

    /// True for a part that would begin a call, but says nothing about it. The host would refuse the whole answer.
    fn is_empty_start(&self, call: &JsonObject) -> bool {
        let function = &call["function"];
        let parts = [call.get("id"), function.get("name"), function.get("arguments")];
        let index = call.get("index").and_then(Value::as_u64).or(self.last);
        parts.into_iter().all(|part| said(part).is_none())
            && !index.is_some_and(|index| self.begun.contains(&index))
    }

    /// Gives a call the index and the id that it lacks. Returns true if it lacked one.
    fn identify(&mut self, call: &mut JsonObject, unique: &str) -> bool {
        let (id, has_name) = (said(call.get("id")), said(call["function"].get("name")).is_some());
        let given = call.get("index").and_then(Value::as_u64);
        let index = given.unwrap_or_else(|| self.index_of(id.as_deref(), has_name));
        let mut is_odd = given.is_none();
        if is_odd {
            call.insert("index".to_owned(), index.into());
        }
        self.have_nameless |= self.begun.insert(index) && !call["function"]["name"].is_string();
        match id {
            Some(id) => {
                self.identified.insert(index);
                self.indexes.insert(id, index);
            }
            None if has_name && self.identified.insert(index) => {
                call.insert("id".to_owned(), format!("call_{unique}{index}").into());
                is_odd = true;
            }
            None => {}
        }
        self.last = Some(index);
        self.next = self.next.max(index.saturating_add(1));
        is_odd
    }

    /// Chooses an index for a delta that has none. One with a new id, or with a name and no id, begins a new call; any other
    /// continues the last call.
    fn index_of(&self, id: Option<&str>, has_name: bool) -> u64 {
        match (id.and_then(|id| self.indexes.get(id)), self.last) {
            (Some(index), _) => *index,
            (None, Some(last)) if id.is_none() && !has_name => last,
            (None, _) => self.next,
        }
    }
}

/// Returns a text that is not blank.
fn said(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).filter(|text| !text.trim().is_empty()).map(str::to_owned)
}

/// Corrects the parts of one tool call.
fn correct_call(call: &mut JsonObject) -> bool {
    let mut is_changed = put_right(call, "id", Value::is_string, as_text);
    is_changed |= put_right(call, "index", Value::is_number, as_number);
    is_changed |= put_right(call, "extra_content", Value::is_object, |_| None);
    let function = call.entry("function").or_insert(Value::Null);
    if !function.is_object() {
        *function = json!({});
        is_changed = true;
    }
    let Some(function) = function.as_object_mut() else { return is_changed };
    is_changed |= put_right(function, "name", Value::is_string, as_text);
    is_changed | put_right(function, "arguments", Value::is_string, |value| Some(written(value).into()))
}
