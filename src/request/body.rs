//! Chat bodies, shaped as the official CLI shapes them. Pure.
//!
//! A body can be megabytes of conversation, so it is never parsed whole: top-level fields stay raw JSON, and only those
//! that change are taken apart. Everything else is copied as it came, key order included.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::fields::{Chat, Fields, MESSAGES, array};
use crate::models::{output_cap, takes_images};

/// What a caching server is told to keep.
const CACHE_CONTROL: &str = r#"{"type":"ephemeral"}"#;

/// The ids that the official CLI sends with a chat.
#[derive(Debug, Clone)]
pub struct Ids {
    /// One conversation.
    pub session_id: String,
    /// One request of it.
    pub prompt_id: String,
}

/// A shaped body.
#[derive(Debug, PartialEq, Eq)]
pub struct Shaped {
    /// What goes over the wire.
    pub bytes: Vec<u8>,
    /// Whether the caller asked for a stream.
    pub stream: bool,
    /// The model that is asked; empty where none is named.
    pub model: String,
}

/// Shapes a chat body: output caps always, everything else where `ids` are given. `with_markers` is whether the server
/// takes what only Qwen's know: cache markers and metadata. `None` for what is no JSON object: that goes to the server as
/// it came.
#[must_use]
pub fn shape(body: &[u8], ids: Option<&Ids>, with_markers: bool) -> Option<Shaped> {
    // Checked once here, the text need not be checked again value by value.
    let text = std::str::from_utf8(body).ok()?;
    let chat: Option<Chat> = ids.and_then(|_| serde_json::from_str(text).ok());
    let Chat { mut fields, messages } = match chat {
        Some(chat) => chat,
        None => Chat { fields: serde_json::from_str(text).ok()?, messages: None },
    };
    let stream = fields.get("stream") == Some("true");
    let messages = messages.map(|messages| shape_messages(messages, stream, with_markers));
    let model: String =
        fields.get("model").and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default();
    if let Some(cap) = output_cap(&model) {
        for limit in ["max_tokens", "max_completion_tokens"] {
            let asked = fields.get(limit).and_then(|raw| serde_json::from_str::<f64>(raw).ok());
            #[expect(clippy::cast_precision_loss, reason = "caps are far below 2^52")]
            if asked.is_some_and(|asked| asked > cap as f64) {
                fields.set(limit, cap.to_string());
            }
        }
    }
    if let Some(ids) = ids {
        if stream
            && with_markers
            && let Some(tools) = fields.get("tools").and_then(mark_last_tool)
        {
            fields.set("tools", tools);
        }
        if with_markers && let Some(metadata) = shape_metadata(fields.get("metadata"), ids) {
            fields.set("metadata", metadata);
        }
        if takes_images(&model) && fields.get("vl_high_resolution_images").is_none() {
            fields.set("vl_high_resolution_images", "true");
        }
    }
    let mut json = String::with_capacity(body.len() + 1024);
    match &messages {
        Some(messages) => fields.write(&mut json, Some((MESSAGES, &|json| write_array(json, messages)))),
        None => fields.write(&mut json, None),
    }
    Some(Shaped { bytes: json.into_bytes(), stream, model })
}

fn write_array(json: &mut String, messages: &[Fields]) {
    json.push('[');
    for (index, message) in messages.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        message.write(json, None);
    }
    json.push(']');
}

/// One system message, first, as an array whose last part is marked for caching; no role `developer`. A stream's last
/// message is marked too.
fn shape_messages(messages: Vec<Fields<'_>>, stream: bool, with_markers: bool) -> Vec<Fields<'_>> {
    let mut system: Option<Fields> = None;
    let mut system_parts: Vec<Cow<str>> = Vec::new();
    let mut others = Vec::with_capacity(messages.len() + 1);
    for message in messages {
        if !matches!(message.get("role"), Some(r#""system""# | r#""developer""#)) {
            others.push(message);
            continue;
        }
        if let Some(content) = message.original("content") {
            system_parts.extend(parts(content));
        }
        system.get_or_insert(message);
    }
    if stream
        && with_markers
        && let Some(last) = others.last_mut()
    {
        let marked = last.get("content").and_then(|content| {
            let mut parts = parts(content);
            mark_last(&mut parts).then(|| array(&parts))
        });
        if let Some(content) = marked {
            last.set("content", content);
        }
    }
    if let Some(mut system) = system {
        if with_markers {
            mark_last(&mut system_parts);
        }
        system.set("role", r#""system""#);
        system.set("content", array(&system_parts));
        others.insert(0, system);
    }
    others
}

/// A content as the parts of an array: a string becomes one text part, an empty one none.
fn parts(content: &str) -> Vec<Cow<'_, str>> {
    match content.as_bytes().first() {
        Some(b'"') if content.len() > 2 => vec![Cow::Owned(format!(r#"{{"type":"text","text":{content}}}"#))],
        Some(b'[') => {
            let parts: Vec<&RawValue> = serde_json::from_str(content).unwrap_or_default();
            parts.into_iter().map(|part| Cow::Borrowed(part.get())).collect()
        }
        _ => Vec::new(),
    }
}

/// Adds the cache marker to the last part, where that is an object without one. Says whether it is marked now.
fn mark_last(parts: &mut [Cow<str>]) -> bool {
    let Some(last) = parts.last_mut() else { return false };
    let marked = marked(last);
    if let Some(marked) = marked {
        *last = Cow::Owned(marked);
        return true;
    }
    false
}

fn marked(object: &str) -> Option<String> {
    let mut fields: Fields = serde_json::from_str(object).ok()?;
    if fields.get("cache_control").is_none() {
        fields.set("cache_control", CACHE_CONTROL);
    }
    Some(fields.to_json())
}

fn mark_last_tool(raw: &str) -> Option<String> {
    let tools: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
    let mut tools: Vec<_> = tools.into_iter().map(|tool| Cow::Borrowed(tool.get())).collect();
    mark_last(&mut tools).then(|| array(&tools))
}

/// The CLI's ids under the caller's own metadata. `None` where that is no object.
fn shape_metadata(raw: Option<&str>, ids: &Ids) -> Option<String> {
    let mut metadata: Fields = serde_json::from_str(raw.unwrap_or("{}")).ok()?;
    for (name, id) in [("sessionId", &ids.session_id), ("promptId", &ids.prompt_id)] {
        if metadata.get(name).is_none() {
            metadata.set(name, serde_json::Value::from(id.as_str()).to_string());
        }
    }
    Some(metadata.to_json())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn ids() -> Ids {
        Ids { session_id: "s".into(), prompt_id: "p".into() }
    }

    fn shaped(body: &Value) -> Value {
        serde_json::from_slice(&shape(body.to_string().as_bytes(), Some(&ids()), true).unwrap().bytes)
            .unwrap()
    }

    fn capped(body: &Value) -> Value {
        serde_json::from_slice(&shape(body.to_string().as_bytes(), None, true).unwrap().bytes).unwrap()
    }

    #[test]
    fn one_system_message_first_and_no_developer() {
        let body = shaped(&json!({"model": "coder-model", "messages": [
            {"role": "user", "content": "hi"},
            {"role": "developer", "content": "be brief"},
            {"role": "system", "content": [{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": "hello"},
        ]}));
        assert_eq!(
            body["messages"],
            json!([
                {"role": "system", "content": [
                    {"type": "text", "text": "be brief"},
                    {"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}
                ]},
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "hello"},
            ])
        );
        assert_eq!(body["metadata"], json!({"sessionId": "s", "promptId": "p"}));
    }

    #[test]
    fn a_stream_marks_the_last_message_and_the_last_tool() {
        let body = shaped(&json!({"model": "coder-model", "stream": true,
            "messages": [{"role": "system", "content": "sys"}, {"role": "user", "content": "hi"}],
            "tools": [{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "b"}}]}));
        let marker = json!({"type": "ephemeral"});
        assert_eq!(body["messages"][0]["content"][0]["cache_control"], marker);
        assert_eq!(
            body["messages"][1]["content"],
            json!([{"type": "text", "text": "hi", "cache_control": marker}])
        );
        assert_eq!(body["tools"][0].get("cache_control"), None);
        assert_eq!(body["tools"][1]["cache_control"], marker);
    }

    #[test]
    fn a_server_that_is_not_qwens_gets_no_markers() {
        let body = json!({"model": "m", "stream": true, "metadata": {"mine": 1}, "tools": [{"type": "function"}],
            "messages": [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hi"}]});
        let plain = shape(body.to_string().as_bytes(), Some(&ids()), false).unwrap();
        assert_eq!((plain.stream, plain.model.as_str()), (true, "m"));
        let plain: Value = serde_json::from_slice(&plain.bytes).unwrap();
        let mut expected = body.clone();
        expected["messages"][0] =
            json!({"role": "system", "content": [{"type": "text", "text": "be brief"}]});
        assert_eq!(plain, expected);
    }

    #[test]
    fn a_last_message_without_content_stays_as_it_is() {
        for content in [json!(null), json!(""), json!([])] {
            let message = json!({"role": "assistant", "content": content, "tool_calls": [{"id": "1"}]});
            let body = shaped(&json!({"model": "coder-model", "stream": true, "messages": [message]}));
            assert_eq!(body["messages"][0], message);
        }
    }

    #[test]
    fn caps_lower_and_never_raise_or_invent() {
        assert_eq!(capped(&json!({"model": "coder-model", "max_tokens": 99_999_999}))["max_tokens"], 65_536);
        assert_eq!(
            capped(&json!({"model": "vision-model", "max_completion_tokens": 9_000.5}))["max_completion_tokens"],
            8_192
        );
        assert_eq!(capped(&json!({"model": "coder-model", "max_tokens": 5}))["max_tokens"], 5);
        assert_eq!(capped(&json!({"model": "other", "max_tokens": 99_999_999}))["max_tokens"], 99_999_999);
        assert_eq!(
            capped(&json!({"model": "coder-model", "max_tokens": null})),
            json!({"model": "coder-model", "max_tokens": null})
        );
        assert_eq!(capped(&json!({"model": "coder-model"})), json!({"model": "coder-model"}));
    }

    #[test]
    fn without_ids_only_the_caps_change() {
        let body = json!({"messages": [{"role": "developer", "content": "x"}], "stream": true, "model": "vision-model", "max_tokens": 9_000});
        let mut expected = body.clone();
        expected["max_tokens"] = json!(8_192);
        assert_eq!(capped(&body), expected);
    }

    #[test]
    fn the_callers_metadata_and_image_setting_win() {
        let body = shaped(
            &json!({"model": "vision-model", "metadata": {"promptId": "mine", "x": 1}, "vl_high_resolution_images": false}),
        );
        assert_eq!(body["metadata"], json!({"promptId": "mine", "x": 1, "sessionId": "s"}));
        assert_eq!(body["vl_high_resolution_images"], false);
        assert_eq!(shaped(&json!({"model": "vision-model"}))["vl_high_resolution_images"], true);
        assert_eq!(shaped(&json!({"model": "coder-model"})).get("vl_high_resolution_images"), None);
    }

    #[test]
    fn what_is_no_chat_body_is_left_alone() {
        for body in [&b"[]"[..], b"not json", b"", b"{\"a\":", b"\xff"] {
            assert_eq!(shape(body, Some(&ids()), true), None);
        }
        for messages in [json!("text"), json!([1]), json!(null), json!({})] {
            assert_eq!(shaped(&json!({"messages": messages}))["messages"], messages);
        }
    }

    #[test]
    fn numbers_strings_and_key_order_survive_as_they_were_written() {
        let body =
            r#"{"z":1.0e+2,"a":"\u00e9\n","big":12345678901234567890123,"model":"m","a\u0062c":[ 1 , 2 ]}"#;
        let bytes = shape(body.as_bytes(), None, true).unwrap().bytes;
        assert_eq!(String::from_utf8(bytes).unwrap(), body.replace(r"a\u0062c", "abc"));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((".{0,4}", inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    fn any_message() -> impl Strategy<Value = Value> {
        let role =
            prop_oneof![Just("system"), Just("developer"), Just("user"), Just("assistant"), Just("tool")];
        let text_parts = proptest::collection::vec(
            "[a-z]{0,6}".prop_map(|text| json!({"type": "text", "text": text})),
            0..3,
        );
        let content = prop_oneof![
            "[a-z]{0,6}".prop_map(Value::from),
            text_parts.prop_map(Value::from),
            Just(Value::Null)
        ];
        (role, content).prop_map(|(role, content)| json!({"role": role, "content": content}))
    }

    proptest! {
        #[test]
        fn no_body_panics(body in any_json(), messages in any_json(), tools in any_json()) {
            let _ = shape(body.to_string().as_bytes(), Some(&ids()), true);
            let chat = json!({"model": "coder-model", "stream": true, "messages": messages, "tools": tools, "metadata": body});
            prop_assert!(shaped(&chat).is_object());
        }

        #[test]
        fn no_text_is_lost_and_shaping_twice_changes_nothing(messages in proptest::collection::vec(any_message(), 0..8), stream in any::<bool>()) {
            let texts = |body: &Value| {
                let mut all: Vec<String> = body["messages"].as_array().unwrap().iter().flat_map(|message| match &message["content"] {
                    Value::String(text) => vec![text.clone()],
                    Value::Array(parts) => parts.iter().map(|part| part["text"].as_str().unwrap().to_owned()).collect(),
                    _ => vec![],
                }).filter(|text| !text.is_empty()).collect();
                all.sort();
                all
            };
            let body = json!({"model": "coder-model", "stream": stream, "messages": messages});
            let once = shaped(&body);
            prop_assert_eq!(texts(&body), texts(&once));
            prop_assert_eq!(&shaped(&once), &once);
            let systems: Vec<_> = once["messages"].as_array().unwrap().iter().enumerate().filter(|(_, message)| message["role"] == "system").map(|(index, _)| index).collect();
            prop_assert!(systems.is_empty() || systems == [0]);
        }
    }
}
