//! Shapes chat bodies as the official CLI does. Pure.
//!
//! A body can be megabytes of conversation, so it is never parsed completely. Top-level fields stay raw JSON, and only those
//! that change are parsed. Everything else is copied unchanged, in the same order.

use std::borrow::Cow;

use memchr::memmem;
use qwen_accounts::Kind;
use serde_json::value::RawValue;

use super::fields::{Chat, Fields, MESSAGES, array};
use crate::models::{self, takes_close_looks, takes_metadata, takes_plain_texts};

/// The cache marker.
const CACHE_CONTROL: &str = r#"{"type":"ephemeral"}"#;
/// The field of the cache marker.
const CACHE_CONTROL_FIELD: &str = "cache_control";
/// Largest number of cache markers. The server refuses more.
const MAX_MARKERS: usize = 4;
/// Separates texts that are joined.
const TEXT_SEPARATOR: &str = r"\n\n";

/// The ids that the official CLI sends with a chat.
#[derive(Debug, Clone)]
pub struct Ids {
    /// The id of the conversation.
    pub session_id: String,
    /// The id of the request.
    pub prompt_id: String,
}

/// A shaped body.
#[derive(Debug, PartialEq, Eq)]
pub struct Shaped {
    /// The body to send.
    pub bytes: Vec<u8>,
    /// True if the caller asked for a stream.
    pub stream: bool,
    /// The model; empty if the body names none.
    pub model: String,
    /// The rules for the body. Another kind of account with the same rules gets the same body.
    pub rules: BodyRules,
}

/// Rules for a body, by the account's kind and the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyRules {
    /// True if the server accepts Qwen's own fields: cache markers, metadata, thinking.
    is_qwen: bool,
    /// True if the official CLI turns thinking on.
    enables_thinking: bool,
    /// Largest output, in tokens.
    output_cap: Option<u64>,
}

impl BodyRules {
    /// Returns the rules for a model of this kind of account.
    #[must_use]
    pub fn of(kind: Kind, model: &str) -> Self {
        Self {
            is_qwen: kind.takes_markers(),
            enables_thinking: models::enables_thinking(kind, model),
            output_cap: models::output_cap(kind, model),
        }
    }
}

/// Shapes a chat body for one kind of account. Without `ids` it only lowers the output limits. Returns `None` if the body is
/// not a JSON object, which is sent unchanged.
#[must_use]
pub fn shape_body(body: &[u8], ids: Option<&Ids>, kind: Kind) -> Option<Shaped> {
    // Checking UTF-8 once here avoids a check for each value.
    let text = std::str::from_utf8(body).ok()?;
    let chat: Option<Chat> = ids.and_then(|_| serde_json::from_str(text).ok());
    let Chat { mut fields, messages } = match chat {
        Some(chat) => chat,
        None => Chat { fields: serde_json::from_str(text).ok()?, messages: None },
    };
    let stream = fields.get("stream") == Some("true");
    let model: String =
        fields.get("model").and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default();
    let rules = BodyRules::of(kind, &model);
    cap_output(&mut fields, rules.output_cap);
    let plain_texts = takes_plain_texts(&model) && !has_tools(&fields);
    let mut shaping = Shaping {
        stream,
        plain_texts: rules.is_qwen && plain_texts,
        markers_left: if rules.is_qwen && !plain_texts && ids.is_some() {
            MAX_MARKERS.saturating_sub(count_markers(text, &fields, messages.as_deref()))
        } else {
            0
        },
    };
    let messages = messages.map(|messages| shaping.messages(messages));
    if let Some(ids) = ids.filter(|_| rules.is_qwen) {
        if stream && let Some(tools) = fields.get("tools").and_then(|tools| shaping.mark_last_tool(tools)) {
            fields.set("tools", tools);
        }
        if takes_metadata(&model)
            && let Some(metadata) = shape_metadata(fields.get("metadata"), ids)
        {
            fields.set("metadata", metadata);
        }
        set_switches(&mut fields, rules, &model);
    }
    let mut json = String::with_capacity(body.len() + 1024);
    match &messages {
        Some(messages) => fields.write(&mut json, Some((MESSAGES, &|json| write_array(json, messages)))),
        None => fields.write(&mut json, None),
    }
    Some(Shaped { bytes: json.into_bytes(), stream, model, rules })
}

/// Lowers the caller's output limits to the model's.
fn cap_output(fields: &mut Fields, cap: Option<u64>) {
    let Some(cap) = cap else { return };
    for limit in ["max_tokens", "max_completion_tokens"] {
        let asked = fields.get(limit).and_then(|raw| serde_json::from_str::<f64>(raw).ok());
        #[expect(clippy::cast_precision_loss, reason = "caps are far below 2^52")]
        if asked.is_some_and(|asked| asked > cap as f64) {
            fields.set(limit, cap.to_string());
        }
    }
}

/// Sets switches that the caller left out.
fn set_switches(fields: &mut Fields, rules: BodyRules, model: &str) {
    let mut switch = |name, is_wanted: bool| {
        if is_wanted && fields.get(name).is_none() {
            fields.set(name, "true");
        }
    };
    switch("vl_high_resolution_images", takes_close_looks(model));
    switch("preserve_thinking", true);
    let thinks = rules.enables_thinking && may_think(fields);
    if thinks && fields.get("enable_thinking").is_none() {
        fields.set("enable_thinking", "true");
    }
}

/// False if the caller turned thinking off, or asks for something that Qwen's models refuse while they think: a forced tool
/// or an answer in JSON.
fn may_think(fields: &Fields) -> bool {
    let is_free = |name: &str, free: &[&str]| fields.get(name).is_none_or(|value| free.contains(&value));
    let answers_in_json = fields.get("response_format").is_some_and(|format| format.contains("json"));
    is_free("tool_choice", &["null", r#""auto""#, r#""none""#])
        && fields.get("reasoning_effort") != Some(r#""none""#)
        && !answers_in_json
}

fn has_tools(fields: &Fields) -> bool {
    let tools = fields.get("tools").unwrap_or_default();
    tools.starts_with('[') && !tools[1..].trim_start().starts_with(']')
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

/// Counts the caller's own cache markers. One search shows that nearly all bodies have none.
fn count_markers(text: &str, fields: &Fields, messages: Option<&[Fields]>) -> usize {
    if memmem::find(text.as_bytes(), CACHE_CONTROL_FIELD.as_bytes()).is_none() {
        return 0;
    }
    let in_array = |raw: &str| {
        let is_marked = |part: &Cow<str>| {
            serde_json::from_str::<Fields>(part).is_ok_and(|part| part.get(CACHE_CONTROL_FIELD).is_some())
        };
        if raw.contains(CACHE_CONTROL_FIELD) {
            parts(raw).iter().filter(|part| is_marked(part)).count()
        } else {
            0
        }
    };
    let messages = messages.unwrap_or_default();
    let on_messages = messages.iter().filter(|message| message.get(CACHE_CONTROL_FIELD).is_some()).count();
    let contents = messages.iter().filter_map(|message| message.get("content"));
    on_messages + contents.chain(fields.get("tools")).map(in_array).sum::<usize>()
}

/// Shapes the messages of one body.
struct Shaping {
    stream: bool,
    /// True if texts stay strings, without markers.
    plain_texts: bool,
    /// Number of markers that may still be set.
    markers_left: usize,
}

impl Shaping {
    /// Joins the messages with the role `system` or `developer` to one system message at the start, and marks its last part.
    /// Marks the last message of a stream.
    fn messages<'a>(&mut self, messages: Vec<Fields<'a>>) -> Vec<Fields<'a>> {
        let mut system: Option<Fields> = None;
        let mut system_parts: Vec<Cow<str>> = Vec::new();
        let mut others = Vec::with_capacity(messages.len() + 1);
        for message in messages {
            if !matches!(message.get("role"), Some(r#""system""# | r#""developer""#)) {
                others.push(message);
                continue;
            }
            if let Some(content) = message.original("content") {
                system_parts.extend(parts(content).into_iter().filter(|part| !is_empty_text(part)));
            }
            system.get_or_insert(message);
        }
        // The server refuses empty content.
        let system = system.filter(|_| !system_parts.is_empty());
        if system.is_some() {
            self.mark_last(&mut system_parts);
        }
        if self.plain_texts {
            others.iter_mut().for_each(join_content);
        } else if self.stream
            && let Some(last) = others.last_mut()
        {
            let marked = last.get("content").and_then(|content| {
                let mut parts = parts(content);
                self.mark_last(&mut parts).then(|| array(&parts))
            });
            if let Some(content) = marked {
                last.set("content", content);
            }
        }
        if let Some(mut system) = system {
            let joined = if self.plain_texts { join_texts(&system_parts) } else { None };
            system.set("role", r#""system""#);
            system.set("content", joined.unwrap_or_else(|| array(&system_parts)));
            others.insert(0, system);
        }
        others
    }

    /// Adds a cache marker to the last part, if that is an object without one and a marker is left. Returns true if it changed.
    fn mark_last(&mut self, parts: &mut [Cow<str>]) -> bool {
        let Some(last) = parts.last_mut().filter(|_| self.markers_left > 0) else { return false };
        let Ok(mut fields) = serde_json::from_str::<Fields>(last) else { return false };
        if fields.get(CACHE_CONTROL_FIELD).is_some() {
            return false;
        }
        fields.set(CACHE_CONTROL_FIELD, CACHE_CONTROL);
        let marked = fields.to_json();
        *last = Cow::Owned(marked);
        self.markers_left -= 1;
        true
    }

    fn mark_last_tool(&mut self, raw: &str) -> Option<String> {
        let tools: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
        let mut tools: Vec<_> = tools.into_iter().map(|tool| Cow::Borrowed(tool.get())).collect();
        self.mark_last(&mut tools).then(|| array(&tools))
    }
}

/// Returns the parts of a content. A string becomes one text part, and an empty string none.
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

/// True for an empty text part. A long part is never empty.
fn is_empty_text(part: &str) -> bool {
    const LONGEST: usize = 200;
    part.len() < LONGEST
        && serde_json::from_str::<Fields>(part)
            .is_ok_and(|part| part.get("type") == Some(r#""text""#) && part.get("text") == Some(r#""""#))
}

/// Joins a content that is an array of texts to one string. Other contents stay.
fn join_content(message: &mut Fields) {
    let joined = message
        .get("content")
        .filter(|content| content.starts_with('['))
        .and_then(|content| join_texts(&parts(content)));
    if let Some(joined) = joined {
        message.set("content", joined);
    }
}

/// Joins text parts to one JSON string; `None` if there are other parts, or none.
fn join_texts(parts: &[Cow<str>]) -> Option<String> {
    let mut joined = String::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        let part: Fields = serde_json::from_str(part).ok()?;
        let text = part.get("text").filter(|_| part.get("type") == Some(r#""text""#))?;
        let inner = text.strip_prefix('"')?.strip_suffix('"')?;
        joined.push_str(if joined.is_empty() { "\"" } else { TEXT_SEPARATOR });
        joined.push_str(inner);
    }
    joined.push('"');
    (!parts.is_empty()).then_some(joined)
}

/// Adds the ids to the caller's metadata; `None` if that is not an object.
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
    use qwen_base::KeyPlan;
    use serde_json::{Value, json};

    use super::*;

    fn ids() -> Ids {
        Ids { session_id: "s".into(), prompt_id: "p".into() }
    }

    fn shaped(body: &Value) -> Value {
        serde_json::from_slice(
            &shape_body(body.to_string().as_bytes(), Some(&ids()), Kind::OAuth).unwrap().bytes,
        )
        .unwrap()
    }

    fn shaped_for_plan(body: &Value) -> Value {
        let kind = Kind::Key(Some(KeyPlan::TokenPlan));
        serde_json::from_slice(&shape_body(body.to_string().as_bytes(), Some(&ids()), kind).unwrap().bytes)
            .unwrap()
    }

    fn capped(body: &Value) -> Value {
        serde_json::from_slice(&shape_body(body.to_string().as_bytes(), None, Kind::OAuth).unwrap().bytes)
            .unwrap()
    }

    #[test]
    fn system_and_developer_messages_become_one_at_the_start() {
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
    fn another_providers_server_gets_no_markers() {
        let body = json!({"model": "m", "stream": true, "metadata": {"mine": 1}, "tools": [{"type": "function"}],
            "messages": [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hi"}]});
        let plain = shape_body(body.to_string().as_bytes(), Some(&ids()), Kind::Key(None)).unwrap();
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
    fn output_limits_are_lowered_and_never_raised_or_added() {
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
    fn without_ids_only_the_output_limits_change() {
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
        assert_eq!(shaped(&json!({"model": "coder-model"}))["vl_high_resolution_images"], true);
        assert_eq!(shaped(&json!({"model": "qwen3-max"})).get("vl_high_resolution_images"), None);
    }

    #[test]
    fn metadata_is_for_qwens_own_models() {
        for (model, is_sent) in [
            ("qwen3.7-plus", true),
            ("vision-model", true),
            ("QWEN3-Max", true),
            ("glm-5", false),
            ("kimi-k2.5", false),
            ("MiniMax-M2.5", false),
        ] {
            let body = shaped_for_plan(&json!({"model": model, "messages": []}));
            assert_eq!(body.get("metadata").is_some(), is_sent, "{model}");
            assert_eq!(body["preserve_thinking"], true);
        }
    }

    #[test]
    fn thinking_is_on_if_the_preset_says_so_and_the_caller_does_not_object() {
        let thinks = |body: Value| {
            let mut body = body;
            body["model"] = json!("qwen3.7-plus");
            shaped_for_plan(&body).get("enable_thinking").cloned()
        };
        assert_eq!(thinks(json!({})), Some(json!(true)));
        assert_eq!(thinks(json!({"enable_thinking": false})), Some(json!(false)));
        assert_eq!(
            thinks(json!({"tool_choice": "auto", "response_format": {"type": "text"}})),
            Some(json!(true))
        );
        for refused in [
            json!({"tool_choice": "required"}),
            json!({"tool_choice": {"type": "function", "function": {"name": "f"}}}),
            json!({"response_format": {"type": "json_schema"}}),
            json!({"reasoning_effort": "none"}),
        ] {
            assert_eq!(thinks(refused), None);
        }
        assert_eq!(shaped_for_plan(&json!({"model": "qwen3.8-flash"})).get("enable_thinking"), None);
        assert_eq!(
            shaped_for_plan(&json!({"model": "qwen3.7-plus", "preserve_thinking": false}))["preserve_thinking"],
            false
        );
        let body = json!({"model": "qwen3.8-max", "reasoning_effort": "low"});
        assert_eq!(shaped_for_plan(&body)["reasoning_effort"], "low");
        assert_eq!(shaped_for_plan(&json!({"model": "qwen3.8-max"})).get("reasoning_effort"), None);
    }

    #[test]
    fn texts_of_glm_stay_strings_unless_there_are_tools() {
        let image = json!({"type": "image_url", "image_url": {"url": "data:,"}});
        let text = |text: &str| json!({"type": "text", "text": text});
        let mut body = json!({"model": "glm-5", "stream": true, "tools": [], "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "system", "content": [text("be\n\"kind\"")]},
            {"role": "user", "content": [text("a"), text("b")]},
            {"role": "user", "content": [text("look"), image]},
            {"role": "user", "content": "hi"},
        ]});
        let plain = shaped_for_plan(&body);
        let contents = plain["messages"].as_array().unwrap().iter().map(|message| message["content"].clone());
        assert_eq!(
            contents.collect::<Vec<_>>(),
            [json!("be brief\n\nbe\n\"kind\""), json!("a\n\nb"), json!([text("look"), image]), json!("hi")]
        );
        body["tools"] = json!([{"type": "function"}]);
        let marked = shaped_for_plan(&body);
        assert!(marked["messages"][0]["content"].is_array());
        assert_eq!(marked.to_string().matches("cache_control").count(), 3);
    }

    #[test]
    fn there_are_at_most_four_markers_and_the_callers_own_stay() {
        let marked = |at: usize| json!({"type": "text", "text": at.to_string(), "cache_control": {"type": "ephemeral"}});
        for (own, of_system, of_last, of_tools) in
            [(0, 1, 1, 1), (1, 1, 1, 1), (2, 1, 1, 0), (3, 1, 0, 0), (4, 0, 0, 0), (6, 0, 0, 0)]
        {
            let own_parts: Vec<_> = (0..own).map(marked).collect();
            let body = shaped(
                &json!({"model": "coder-model", "stream": true, "tools": [{"type": "function"}], "messages": [
                    {"role": "system", "content": "sys"}, {"role": "user", "content": own_parts}, {"role": "user", "content": "the text cache_control"},
                ]}),
            );
            let count = |value: &Value| value.to_string().matches(r#""cache_control""#).count();
            assert_eq!(
                (
                    count(&body["messages"][0]),
                    count(&body["messages"][1]),
                    count(&body["messages"][2]),
                    count(&body["tools"])
                ),
                (of_system, own, of_last, of_tools)
            );
        }
    }

    #[test]
    fn an_empty_system_message_is_left_out() {
        for content in [json!(""), json!([]), json!(null), json!([{"type": "text", "text": ""}])] {
            let body = shaped(
                &json!({"model": "coder-model", "messages": [{"role": "system", "content": content}, {"role": "user", "content": "hi"}]}),
            );
            assert_eq!(body["messages"], json!([{"role": "user", "content": "hi"}]));
        }
    }

    #[test]
    fn other_bodies_are_not_changed() {
        for body in [&b"[]"[..], b"not json", b"", b"{\"a\":", b"\xff"] {
            assert_eq!(shape_body(body, Some(&ids()), Kind::OAuth), None);
        }
        for messages in [json!("text"), json!([1]), json!(null), json!({})] {
            assert_eq!(shaped(&json!({"messages": messages}))["messages"], messages);
        }
    }

    #[test]
    fn numbers_strings_and_key_order_are_not_changed() {
        let body =
            r#"{"z":1.0e+2,"a":"\u00e9\n","big":12345678901234567890123,"model":"m","a\u0062c":[ 1 , 2 ]}"#;
        let bytes = shape_body(body.as_bytes(), None, Kind::OAuth).unwrap().bytes;
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
            let _ = shape_body(body.to_string().as_bytes(), Some(&ids()), Kind::OAuth);
            let chat = json!({"model": "coder-model", "stream": true, "messages": messages, "tools": tools, "metadata": body});
            prop_assert!(shaped(&chat).is_object());
        }

        #[test]
        fn no_text_is_lost_and_shaping_twice_changes_nothing(messages in proptest::collection::vec(any_message(), 0..8), stream in any::<bool>(), model in prop_oneof![Just("coder-model"), Just("glm-5")]) {
            let texts = |body: &Value| {
                let mut all: Vec<String> = body["messages"].as_array().unwrap().iter().flat_map(|message| match &message["content"] {
                    Value::String(text) => text.split("\n\n").map(str::to_owned).collect(),
                    Value::Array(parts) => parts.iter().map(|part| part["text"].as_str().unwrap().to_owned()).collect(),
                    _ => vec![],
                }).filter(|text| !text.is_empty()).collect();
                all.sort();
                all
            };
            let body = json!({"model": model, "stream": stream, "messages": messages});
            let once = shaped(&body);
            prop_assert_eq!(texts(&body), texts(&once));
            prop_assert_eq!(&shaped(&once), &once);
            let systems: Vec<_> = once["messages"].as_array().unwrap().iter().enumerate().filter(|(_, message)| message["role"] == "system").map(|(index, _)| index).collect();
            prop_assert!(systems.is_empty() || systems == [0]);
        }
    }
}
