//! Shortens a request for an account whose quota is used up. Pure.
//!
//! The shorter request has fewer output tokens and less history. The system message, the tools, and the last user turn with
//! everything after it stay. History is removed by whole turns, oldest first, so that the rest is an unchanged end of the
//! conversation, and tool calls stay together with their results.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde_json::value::RawValue;

use super::fields::{Fields, array};

/// Largest output of a shorter request, in tokens.
pub const MAX_OUTPUT_TOKENS: u64 = 1_024;
/// Number of turns before the last user turn that may stay. This and the size below are fixed, so that degrading twice is the
/// same as degrading once.
const HISTORY_TURNS: usize = 1;
/// Largest size of the turns before the last user turn, in bytes of JSON: about 4,000 tokens. A small previous turn stays,
/// since "now do that to the other file" makes no sense without it.
const HISTORY_BYTES: usize = 16 * 1024;

/// A shorter request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Degraded {
    /// The body of the shorter request.
    pub body: Vec<u8>,
    /// The parts that are missing.
    pub left_out: LeftOut,
}

/// Parts that a shorter request lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// Number of messages, oldest first.
    pub messages: usize,
    /// True if fewer output tokens are asked for.
    pub is_output_lowered: bool,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.messages {
            0 => {}
            1 => f.write_str("without the oldest message")?,
            count => write!(f, "without the {count} oldest messages")?,
        }
        let joint = if self.messages > 0 { ", and " } else { "" };
        match self.is_output_lowered {
            true => write!(f, "{joint}with an answer of at most {MAX_OUTPUT_TOKENS} tokens"),
            false if self.messages == 0 => f.write_str("as it was"),
            false => Ok(()),
        }
    }
}

/// Returns the degraded form of a shaped chat body. Returns `None` if the body is not a JSON object whose `messages` are a
/// non-empty array of objects, or if the output limit of a request with tools would be lowered, since a cut
/// tool call does harm.
///
/// `max_tokens` and `max_completion_tokens` are lowered to [`MAX_OUTPUT_TOKENS`]; without both, `max_tokens` is added. The
/// messages with the role `system` or `developer` stay, the last user turn and everything after it, and the previous turn if
/// it has at most 16 KiB. Everything else stays unchanged.
#[must_use]
pub fn degrade_body(body: &[u8]) -> Option<Degraded> {
    let mut fields: Fields = serde_json::from_str(std::str::from_utf8(body).ok()?).ok()?;
    let messages: Vec<&RawValue> = serde_json::from_str(fields.original("messages")?).ok()?;
    let conversation = Conversation::read(&messages)?;
    let kept: Vec<_> = conversation.kept().map(|message| Cow::Borrowed(message.get())).collect();
    let has_tools = ["tools", "functions"]
        .iter()
        .any(|name| fields.original(name).is_some_and(|tools| !matches!(tools, "null" | "[]")));
    let left_out = messages.len() - kept.len();
    if left_out > 0 {
        fields.set("messages", array(&kept));
    }
    let is_output_lowered = lower_output(&mut fields);
    let left_out = LeftOut { messages: left_out, is_output_lowered };
    (!(has_tools && is_output_lowered)).then(|| Degraded { body: fields.to_json().into_bytes(), left_out })
}

/// Lowers the output limits. Returns true if that changed anything.
fn lower_output(fields: &mut Fields) -> bool {
    const LIMITS: [&str; 2] = ["max_tokens", "max_completion_tokens"];
    let mut is_lowered = false;
    if LIMITS.iter().all(|limit| fields.get(limit).is_none()) {
        fields.set("max_tokens", MAX_OUTPUT_TOKENS.to_string());
        is_lowered = true;
    }
    for limit in LIMITS {
        let Some(asked) = fields.get(limit) else { continue };
        #[expect(clippy::cast_precision_loss, reason = "the limit is far below 2^52")]
        let is_low = serde_json::from_str::<f64>(asked)
            .is_ok_and(|asked| asked > 0.0 && asked <= MAX_OUTPUT_TOKENS as f64);
        if !is_low {
            fields.set(limit, MAX_OUTPUT_TOKENS.to_string());
            is_lowered = true;
        }
    }
    is_lowered
}

/// The messages and the turns of a chat.
struct Conversation<'a> {
    messages: &'a [&'a RawValue],
    is_system: Vec<bool>,
    /// The first message of each turn. Messages before the first user message are a separate turn.
    turns: Vec<usize>,
    /// The earliest message that each message needs: for a tool result, its call.
    needs: Vec<usize>,
}

impl<'a> Conversation<'a> {
    fn read(messages: &'a [&'a RawValue]) -> Option<Self> {
        let (mut is_system, mut turns, mut needs) = (Vec::new(), Vec::new(), Vec::new());
        let mut calls: HashMap<&str, usize> = HashMap::new();
        let mut previous = "";
        for (index, message) in messages.iter().enumerate() {
            let message: Fields = serde_json::from_str(message.get()).ok()?;
            let role = message.original("role").unwrap_or_default();
            is_system.push(matches!(role, r#""system""# | r#""developer""#));
            needs.push(index);
            match role {
                r#""system""# | r#""developer""# => continue,
                r#""user""# if begins_turn(previous, &message) => turns.push(index),
                r#""assistant""# => {
                    // An id may occur again in a later turn. A result belongs to the nearest call before it.
                    calls.extend(call_ids(&message).into_iter().map(|id| (id, index)));
                }
                r#""tool""# => {
                    let call = message.original("tool_call_id").and_then(|id| calls.get(id));
                    needs[index] = call.copied().unwrap_or(index);
                }
                _ => {}
            }
            if turns.is_empty() {
                turns.push(index);
            }
            previous = role;
        }
        (!messages.is_empty()).then_some(Self { messages, is_system, turns, needs })
    }

    fn kept(&self) -> impl Iterator<Item = &'a RawValue> {
        let start = self.start();
        self.messages
            .iter()
            .enumerate()
            .filter(move |(index, _)| *index >= start || self.is_system[*index])
            .map(|(_, message)| *message)
    }

    /// Returns the first message that stays, apart from system messages.
    fn start(&self) -> usize {
        let Some(last) = self.turns.len().checked_sub(1) else { return 0 };
        let last = self.whole_from(last);
        let mut first = last;
        for turn in (last.saturating_sub(HISTORY_TURNS)..last).rev() {
            let turn = self.whole_from(turn);
            if last - turn > HISTORY_TURNS || self.size(turn, last) > HISTORY_BYTES {
                break;
            }
            first = turn;
        }
        self.turns[first]
    }

    /// Returns the last turn, up to the given one, before which a cut separates no call from its result. It is an earlier turn
    /// only if a result came after the next turn began.
    fn whole_from(&self, mut turn: usize) -> usize {
        loop {
            let start = self.turns[turn];
            let needed = self.needs[start..].iter().copied().min().unwrap_or(start);
            if needed >= start {
                return turn;
            }
            turn = self.turns.partition_point(|&start| start <= needed).saturating_sub(1);
        }
    }

    fn size(&self, from: usize, to: usize) -> usize {
        let turns = self.turns[from]..self.turns[to];
        turns.filter(|&index| !self.is_system[index]).map(|index| self.messages[index].get().len()).sum()
    }
}

/// True if a user message begins a turn. Consecutive user messages are one turn. After a tool result, a user message with an
/// attachment belongs to the tool: hosts pass on images from tools this way.
fn begins_turn(previous_role: &str, message: &Fields) -> bool {
    match previous_role {
        r#""user""# => false,
        r#""tool""# => !has_attachment(message),
        _ => true,
    }
}

fn has_attachment(message: &Fields) -> bool {
    let content = message.original("content").unwrap_or_default();
    let parts: Vec<Fields> = serde_json::from_str(content).unwrap_or_default();
    parts.iter().any(|part| part.get("type").is_some_and(|kind| kind != r#""text""#))
}

/// Returns the ids of an assistant's tool calls, as raw JSON.
fn call_ids<'a>(message: &Fields<'a>) -> Vec<&'a str> {
    let calls = message.original("tool_calls").unwrap_or_default();
    let calls: Vec<&RawValue> = serde_json::from_str(calls).unwrap_or_default();
    let id = |call: &'a RawValue| serde_json::from_str::<Fields>(call.get()).ok()?.original("id");
    calls.into_iter().filter_map(id).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn degraded(body: &Value) -> Value {
        serde_json::from_slice(&degrade_body(body.to_string().as_bytes()).unwrap().body).unwrap()
    }

    fn messages(messages: &Value) -> Vec<Value> {
        let body = degraded(&json!({"messages": messages}));
        body["messages"].as_array().unwrap().clone()
    }

    fn call(id: &str) -> Value {
        json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": id, "type": "function", "function": {"name": "read", "arguments": "{}"}}
        ]})
    }

    fn result(id: &str) -> Value {
        json!({"role": "tool", "tool_call_id": id, "content": "found"})
    }

    fn user(text: &str) -> Value {
        json!({"role": "user", "content": text})
    }

    fn assistant(text: &str) -> Value {
        json!({"role": "assistant", "content": text})
    }

    fn system() -> Value {
        json!({"role": "system", "content": [{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}]})
    }

    #[test]
    fn the_end_of_the_conversation_stays() {
        let all = json!([
            system(),
            user("one"),
            assistant("1"),
            user("two"),
            call("a"),
            result("a"),
            assistant("2"),
            user("three"),
            call("a"),
            result("a"),
        ]);
        let mut expected = all.as_array().unwrap()[3..].to_vec();
        expected.insert(0, system());
        assert_eq!(messages(&all), expected);
    }

    #[test]
    fn a_large_turn_goes_and_the_last_one_stays_whatever_its_size() {
        let large = "x".repeat(HISTORY_BYTES);
        let all = json!([system(), user("one"), assistant(&large), user(&large), call("a"), result("a")]);
        assert_eq!(messages(&all), [system(), user(&large), call("a"), result("a")]);
    }

    #[test]
    fn consecutive_user_messages_are_one_turn() {
        let large = "x".repeat(HISTORY_BYTES);
        let all = json!([user("old"), assistant("1"), user(&large), user("explain")]);
        assert_eq!(messages(&all), all.as_array().unwrap()[..]);
        let all = json!([
            user("older"),
            assistant("0"),
            user("old"),
            assistant("1"),
            user(&large),
            user("explain")
        ]);
        assert_eq!(messages(&all), all.as_array().unwrap()[2..]);
    }

    #[test]
    fn an_image_that_a_tool_returned_does_not_begin_a_turn() {
        let image = json!({"role": "user", "content": [{"type": "text", "text": "Attached:"}, {"type": "image_url"}]});
        let large = "x".repeat(HISTORY_BYTES);
        let all = json!([
            user("old"),
            assistant(&large),
            user(&large),
            call("a"),
            result("a"),
            image,
            assistant("2")
        ]);
        assert_eq!(messages(&all), all.as_array().unwrap()[2..]);
        // A text after a tool result begins a turn.
        let all = json!([user(&large), call("a"), result("a"), user("stop"), assistant("2")]);
        assert_eq!(messages(&all), all.as_array().unwrap()[3..]);
    }

    #[test]
    fn a_result_that_comes_late_keeps_its_call() {
        let all = json!([
            user("0"),
            assistant(&"x".repeat(HISTORY_BYTES)),
            user("1"),
            call("a"),
            user("2"),
            assistant("2"),
            user("3"),
            result("a")
        ]);
        assert_eq!(messages(&all), all.as_array().unwrap()[2..]);
    }

    #[test]
    fn output_is_lowered_and_never_raised() {
        let limits = |limits: Value| {
            let mut body = limits;
            body["messages"] = json!([user("hi")]);
            let body = degraded(&body);
            (body["max_tokens"].clone(), body["max_completion_tokens"].clone())
        };
        assert_eq!(limits(json!({})), (json!(1024), json!(null)));
        assert_eq!(limits(json!({"max_tokens": 65_536})), (json!(1024), json!(null)));
        assert_eq!(limits(json!({"max_tokens": 10})), (json!(10), json!(null)));
        assert_eq!(limits(json!({"max_tokens": null})), (json!(1024), json!(null)));
        assert_eq!(limits(json!({"max_completion_tokens": 4096})), (json!(null), json!(1024)));
        assert_eq!(limits(json!({"max_tokens": -1, "max_completion_tokens": 5})), (json!(1024), json!(5)));
    }

    #[test]
    fn everything_else_is_unchanged() {
        let body = r#"{"z":1.0e+2,"stream":true,"messages":[ {"role":"user","content":"\u00e9"} ],"tools":[{"type":"function"}],"max_tokens":7}"#;
        assert_eq!(degrade_body(body.as_bytes()).unwrap().body, body.as_bytes());
    }

    #[test]
    fn other_bodies_are_none() {
        for body in [
            "",
            "[]",
            "{}",
            "not json",
            r#"{"messages":[]}"#,
            r#"{"messages":{}}"#,
            r#"{"messages":[1]}"#,
            r#"{"messages":null}"#,
            r#"{"input":"text"}"#,
            "{\"messages\":[{}]",
        ] {
            assert_eq!(degrade_body(body.as_bytes()), None, "{body}");
        }
    }

    fn any_text() -> impl Strategy<Value = Value> {
        prop_oneof![
            4 => "[a-z]{0,12}".prop_map(Value::from),
            1 => (1_usize..40_000).prop_map(|size| Value::from("x".repeat(size))),
        ]
    }

    fn any_content() -> impl Strategy<Value = Value> {
        prop_oneof![
            5 => any_text(),
            1 => Just(json!([{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "data:,"}}])),
            1 => Just(Value::Null),
        ]
    }

    /// Messages in any order, with ids that are repeated, missing, or answered late, twice or never.
    fn any_message() -> impl Strategy<Value = Value> {
        let id = prop_oneof![(0..4_u8).prop_map(|id| json!(format!("call_{id}"))), Just(Value::Null)];
        let ids = proptest::collection::vec(id.clone(), 0..3);
        prop_oneof![
            1 => any_content().prop_map(|content| json!({"role": "system", "content": content})),
            4 => any_content().prop_map(|content| json!({"role": "user", "content": content})),
            4 => (any_content(), ids).prop_map(|(content, ids)| {
                let calls: Vec<_> = ids.iter().map(|id| json!({"id": id, "type": "function"})).collect();
                json!({"role": "assistant", "content": content, "tool_calls": calls})
            }),
            4 => (any_content(), id).prop_map(|(content, id)| json!({"role": "tool", "content": content, "tool_call_id": id})),
            1 => Just(json!({"role": "critic"})),
            1 => Just(json!({"tool_calls": 7, "role": ["user"]})),
        ]
    }

    /// Numbers the messages, so that equal ones can be distinguished.
    fn any_messages() -> impl Strategy<Value = Vec<Value>> {
        proptest::collection::vec(any_message(), 1..24).prop_map(|mut messages| {
            for (number, message) in messages.iter_mut().enumerate() {
                message["n"] = json!(number);
            }
            messages
        })
    }

    /// Turns as a correct host sends them.
    fn any_conversation() -> impl Strategy<Value = Vec<Value>> {
        let round = proptest::collection::vec(any_content(), 1..4);
        let turn = (any_text(), proptest::collection::vec(round, 0..3), any::<bool>());
        (any::<bool>(), proptest::collection::vec(turn, 1..8)).prop_map(|(with_system, turns)| {
            let mut all = if with_system { vec![system()] } else { vec![] };
            for (content, rounds, answered) in turns {
                all.push(json!({"role": "user", "content": content}));
                for results in rounds {
                    let calls: Vec<_> =
                        (0..results.len()).map(|id| json!({"id": format!("c{id}")})).collect();
                    all.push(json!({"role": "assistant", "tool_calls": calls}));
                    for (id, result) in results.into_iter().enumerate() {
                        all.push(
                            json!({"role": "tool", "tool_call_id": format!("c{id}"), "content": result}),
                        );
                    }
                }
                if answered {
                    all.push(assistant("done"));
                }
            }
            for (number, message) in all.iter_mut().enumerate() {
                message["n"] = json!(number);
            }
            all
        })
    }

    fn is_system(message: &Value) -> bool {
        message["role"] == "system"
    }

    /// Returns the numbers of each result's message and of the nearest call before it.
    fn pairs(messages: &[Value]) -> Vec<(u64, u64)> {
        let number = |message: &Value| message["n"].as_u64().unwrap();
        let mut pairs = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let id = &message["tool_call_id"];
            let calls =
                |other: &&Value| other["role"] == "assistant" && ids(other).iter().any(|other| other == id);
            if let Some(call) =
                (message["role"] == "tool").then(|| messages[..index].iter().rev().find(calls)).flatten()
            {
                pairs.push((number(call), number(message)));
            }
        }
        pairs
    }

    fn ids(message: &Value) -> Vec<Value> {
        message["tool_calls"].as_array().into_iter().flatten().map(|call| call["id"].clone()).collect()
    }

    #[test]
    fn a_request_with_tools_is_sent_only_if_its_answer_is_not_cut() {
        let body = |tools: Value, limit: Value| {
            json!({"messages": [{"role": "user", "content": "hi"}], "tools": tools, "max_tokens": limit})
                .to_string()
        };
        for (tools, limit, is_sent) in [
            (json!([{"type": "function"}]), json!(32_000), false),
            (json!([{"type": "function"}]), Value::Null, false),
            (json!([{"type": "function"}]), json!(900), true),
            (json!([]), json!(32_000), true),
        ] {
            assert_eq!(degrade_body(body(tools, limit).as_bytes()).is_some(), is_sent);
        }
    }

    #[test]
    fn the_left_out_parts_are_described() {
        let left_out = |messages, is_output_lowered| LeftOut { messages, is_output_lowered }.to_string();
        assert_eq!(
            left_out(12, true),
            "without the 12 oldest messages, and with an answer of at most 1024 tokens"
        );
        assert_eq!(left_out(1, false), "without the oldest message");
        assert_eq!(left_out(0, true), "with an answer of at most 1024 tokens");
    }

    fn check(all: &[Value]) -> Result<(), TestCaseError> {
        let body =
            json!({"model": "m", "messages": all, "stop": [{"a": 1}], "stream": true, "max_tokens": 9_999});
        let text = body.to_string();
        let bytes = degrade_body(text.as_bytes()).unwrap().body;
        prop_assert!(bytes.len() <= text.len());
        prop_assert_eq!(&degrade_body(&bytes).unwrap().body, &bytes);
        let degraded: Value = serde_json::from_slice(&bytes).unwrap();
        let kept = degraded["messages"].as_array().unwrap();

        let (mut expected, mut found) = (body.clone(), degraded.clone());
        (expected["messages"], found["messages"], expected["max_tokens"]) = (json!(0), json!(0), json!(1024));
        prop_assert_eq!(expected, found);

        let stayed: Vec<_> = all.iter().filter(|message| kept.contains(message)).cloned().collect();
        prop_assert_eq!(kept, &stayed);
        prop_assert!(all.iter().filter(|message| is_system(message)).all(|system| kept.contains(system)));
        if let Some(last) = all.iter().rposition(|message| message["role"] == "user") {
            prop_assert!(kept.ends_with(&all[last..]));
        } else {
            prop_assert_eq!(kept.len(), all.len());
        }
        let has = |number: u64| kept.iter().any(|message| message["n"] == number);
        for (call, result) in pairs(all) {
            prop_assert_eq!(has(call), has(result));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn messages_stay_in_order_and_calls_keep_their_results(all in any_messages()) {
            check(&all)?;
        }

        #[test]
        fn a_conversation_stays_valid(all in any_conversation()) {
            check(&all)?;
            let kept = degraded(&json!({"messages": all}));
            let kept = kept["messages"].as_array().unwrap();
            let others: Vec<_> = kept.iter().filter(|message| !is_system(message)).collect();
            prop_assert_eq!(&others[0]["role"], "user");
            prop_assert!(kept.iter().rposition(is_system).is_none_or(|index| index == 0));
            for (index, message) in kept.iter().enumerate() {
                if message["role"] == "tool" {
                    let call = kept[..index].iter().rev().find(|other| other["role"] == "assistant").unwrap();
                    prop_assert!(ids(call).contains(&message["tool_call_id"]));
                }
            }
            let begins = |index: &usize| others[*index]["role"] == "user" && (*index == 0 || others[index - 1]["role"] != "user");
            let turns: Vec<_> = (0..others.len()).filter(begins).collect();
            prop_assert!(turns.len() <= 1 + HISTORY_TURNS);
            let history: usize = others[..*turns.last().unwrap()].iter().map(|message| message.to_string().len()).sum();
            prop_assert!(history <= HISTORY_BYTES, "{}", history);
        }

        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..200), text in r#"[\[\]{}",:a-z0-9\\ ]{0,80}"#) {
            let _ = degrade_body(&body);
            let _ = degrade_body(text.as_bytes());
            let _ = degrade_body(format!(r#"{{"messages":[{{"role":"user","content":{text}}}]}}"#).as_bytes());
        }
    }
}
