//! Turns a chat completion in one JSON document into the stream that the host asked for. Pure.

use serde_json::{Value, json};

use super::shape::list_of;
use crate::lenient_json::{parsed, written};

/// Returns the events of a completion; `None` if the document is not a completion.
pub(super) fn as_events(json: &[u8]) -> Option<Vec<u8>> {
    let mut completion = parsed(json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json))?;
    let fields = completion.as_object_mut()?;
    let usage = fields.remove("usage").filter(Value::is_object);
    let mut choices = list_of(fields.remove("choices")?);
    choices.retain(Value::is_object);
    let mut ends = Vec::new();
    for choice in &mut choices {
        let message = choice.as_object_mut()?.remove("message").or_else(|| choice.get("delta").cloned());
        let delta = message.filter(Value::is_object)?;
        let index = choice.get("index").cloned().unwrap_or(0.into());
        ends.push(json!({"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}));
        *choice = json!({"index": index, "delta": delta, "finish_reason": null});
    }
    fields.insert("object".to_owned(), "chat.completion.chunk".into());
    let mut event = |choices: Value, usage: Option<Value>| {
        completion["choices"] = choices;
        if let Some(usage) = usage {
            completion["usage"] = usage;
        }
        format!("data: {}\n\n", written(&completion))
    };
    let mut events = event(choices.into(), None) + &event(ends.into(), None);
    if usage.is_some() {
        events += &event(json!([]), usage);
    }
    Some((events + "data: [DONE]\n\n").into_bytes())
}
