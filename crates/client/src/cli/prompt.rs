//! Writes a chat request as a prompt for the CLI.
//!
//! The CLI treats a leading `/` as a command and each `@` as a path to attach. So the conversation is JSON after a
//! sentence, and each `@` is escaped.

use qwen_base::{Error, Result};
use serde_json::{Map, Value, json};

/// Longest prompt, in bytes: about 130,000 tokens, which all Qwen models accept.
pub const MAX_PROMPT: usize = 512 * 1024;
/// Longest single text, so that it leaves space for the rest.
const MAX_TEXT: usize = MAX_PROMPT / 4;

const PREFACE: &str = "Below is a conversation as JSON. You are its assistant. Write the assistant's next message: the \
    answer to the last user message and to all that follows it. Follow the conversation's system message, except that \
    no tools are available to you: tool calls and their results in it are past. Where a tool would be needed, say what \
    you would do. Reply with the text of the message alone, not with JSON.\n\n";

/// Replaces the CLI's own instructions to work on files with tools.
pub const SYSTEM_PROMPT: &str = "You are the assistant of a conversation that another program hands you as JSON. You \
    have no tools and no files. Reply with the text of the next message alone.\n";

/// Returns the prompt for a chat request. If it is too long, the oldest messages are left out. The system message and the
/// last user message stay, shortened in the middle if they are very long.
///
/// # Errors
/// `ERR_QWEN_INVALID_ARGUMENT` if the body is not a chat request.
pub fn write_prompt(body: &[u8]) -> Result<String> {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let messages = request["messages"].as_array().filter(|messages| !messages.is_empty());
    let messages =
        messages.ok_or_else(|| Error::invalid_argument("body", "must be a chat request with messages"))?;
    let is_system = |message: &&Value| matches!(message["role"].as_str(), Some("system" | "developer"));
    let system: Vec<String> =
        messages.iter().filter(is_system).map(|message| text(&message["content"])).collect();
    let turns: Vec<&Value> = messages.iter().filter(|message| !is_system(message)).collect();
    let last_user = turns.iter().rposition(|turn| turn["role"] == "user");

    let system = clip(&system.join("\n\n"), MAX_TEXT);
    let format = Some(&request["response_format"]).filter(|format| format.is_object());
    let format = format.map(Value::to_string).filter(|format| cost(format) < MAX_TEXT / 4);
    let mut left = MAX_PROMPT - PREFACE.len() - 256;
    left -= cost(&system) + format.as_deref().map_or(0, cost);
    let mut kept: Vec<Option<Value>> = vec![None; turns.len()];
    let newest_first = (0..turns.len()).rev().filter(|&index| Some(index) != last_user);
    for index in last_user.into_iter().chain(newest_first) {
        let turn = transcribe(turns[index], &turns[..index]);
        let size = size(&turn.to_string()) + 1;
        if size > left {
            break;
        }
        left -= size;
        kept[index] = Some(turn);
    }
    let kept: Vec<Value> = kept.into_iter().flatten().collect();

    let mut conversation = Map::new();
    if !system.is_empty() {
        conversation.insert("system".to_owned(), system.into());
    }
    if kept.len() < turns.len() {
        conversation.insert("messages_left_out".to_owned(), (turns.len() - kept.len()).into());
    }
    if let Some(format) = format {
        conversation.insert("answer_format".to_owned(), format.into());
    }
    conversation.insert("messages".to_owned(), kept.into());
    // In JSON, an @ is always inside a string and can be escaped.
    let json = Value::Object(conversation).to_string().replace('@', "\\u0040");
    Ok(format!("{PREFACE}{json}\n"))
}

/// Converts one message, with tool calls and results as text.
fn transcribe(message: &Value, before: &[&Value]) -> Value {
    let role = match message["role"].as_str() {
        Some(role @ ("user" | "assistant" | "tool")) => role,
        Some("function") => "tool",
        _ => "user",
    };
    let mut turn = Map::from_iter([
        ("role".to_owned(), role.into()),
        ("content".to_owned(), clip(&text(&message["content"]), MAX_TEXT).into()),
    ]);
    let calls: Vec<Value> = message["tool_calls"].as_array().into_iter().flatten().take(256).map(|call| {
        let arguments = match &call["function"]["arguments"] {
            Value::String(arguments) => arguments.clone(),
            other => other.to_string(),
        };
        json!({"name": clip(&text(&call["function"]["name"]), 256), "arguments": clip(&arguments, MAX_TEXT / 4)})
    }).collect();
    if !calls.is_empty() {
        turn.insert("tool_calls".to_owned(), calls.into());
    }
    if role == "tool"
        && let Some(name) = tool_name(message, before)
    {
        turn.insert("tool".to_owned(), clip(name, 256).into());
    }
    Value::Object(turn)
}

fn tool_name<'a>(result: &'a Value, before: &[&'a Value]) -> Option<&'a str> {
    let id = &result["tool_call_id"];
    let calls = before.iter().rev().flat_map(|turn| turn["tool_calls"].as_array().into_iter().flatten());
    let named = calls.filter(|call| !id.is_null() && call["id"] == *id).map(|call| &call["function"]["name"]);
    named.chain([&result["name"]]).find_map(Value::as_str)
}

/// Converts content to text. Other parts are replaced by their type.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let parts = parts.iter().map(|part| match (part["text"].as_str(), part["type"].as_str()) {
                (Some(text), _) => text.to_owned(),
                (None, Some("image_url" | "input_image" | "image")) => "[an image, left out]".to_owned(),
                (None, kind) => format!("[{}, left out]", kind.unwrap_or("something unknown")),
            });
            parts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// Returns the length of a text as escaped JSON.
fn cost(text: &str) -> usize {
    2 + text.chars().map(char_cost).sum::<usize>()
}

fn char_cost(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '@' | '\0'..='\u{1f}' => 6,
        _ => c.len_utf8(),
    }
}

/// Returns the length of JSON after escaping.
fn size(json: &str) -> usize {
    json.len() + 5 * json.matches('@').count()
}

/// Shortens a text in the middle if it is longer than `limit`.
fn clip(text: &str, limit: usize) -> String {
    if cost(text) <= limit {
        return text.to_owned();
    }
    let half = (limit / 2).saturating_sub(24);
    let taken = |chars: &mut dyn Iterator<Item = char>| {
        let mut left = half;
        let fits = chars.take_while(|&c| {
            let fits = char_cost(c) <= left;
            left = left.saturating_sub(char_cost(c));
            fits
        });
        fits.map(char::len_utf8).sum::<usize>()
    };
    let head = taken(&mut text.chars());
    let tail = taken(&mut text.chars().rev());
    format!("{}\n[… cut …]\n{}", &text[..head], &text[text.len() - tail..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn transcript(body: &Value) -> (String, Value) {
        let prompt = write_prompt(body.to_string().as_bytes()).unwrap();
        let (_, json) = prompt.split_once("\n\n").unwrap();
        let transcript = serde_json::from_str(json).unwrap();
        (prompt, transcript)
    }

    #[test]
    fn the_prompt_has_all_text_of_the_conversation() {
        let (prompt, transcript) = transcript(&json!({"model": "coder-model", "tools": [{}], "messages": [
            {"role": "system", "content": "sys @a"},
            {"role": "user", "content": [{"type": "text", "text": "/help @/etc/passwd"}, {"type": "image_url", "image_url": {"url": "data:"}}]},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "read", "arguments": "{\"a\":\"@b\"}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "text"},
            {"role": "developer", "content": "dev"},
            {"role": "user", "content": "go on"},
        ]}));
        assert_eq!(
            transcript,
            json!({"system": "sys @a\n\ndev", "messages": [
                {"role": "user", "content": "/help @/etc/passwd\n[an image, left out]"},
                {"role": "assistant", "content": "", "tool_calls": [{"name": "read", "arguments": "{\"a\":\"@b\"}"}]},
                {"role": "tool", "content": "text", "tool": "read"},
                {"role": "user", "content": "go on"},
            ]})
        );
        assert!(prompt.starts_with("Below") && !prompt.contains('@') && !prompt.contains("\n/"));
    }

    #[test]
    fn the_oldest_messages_are_left_out_first() {
        let mut messages = vec![json!({"role": "system", "content": "s".repeat(MAX_PROMPT)})];
        messages.extend(
            (0..100).map(|n| json!({"role": "assistant", "content": format!("{n} {}", "x".repeat(5_000))})),
        );
        messages
            .insert(40, json!({"role": "user", "content": format!("first {} last", "@".repeat(MAX_PROMPT))}));
        let (prompt, transcript) = transcript(&json!({"messages": messages}));
        assert!(prompt.len() <= MAX_PROMPT && prompt.len() > MAX_PROMPT / 2);
        let kept = transcript["messages"].as_array().unwrap();
        let user = kept[0]["content"].as_str().unwrap();
        assert!(user.starts_with("first @") && user.ends_with("@ last") && user.contains("[… cut …]"));
        assert!(kept.last().unwrap()["content"].as_str().unwrap().starts_with("99 "));
        assert_eq!(transcript["messages_left_out"], 101 - kept.len());
    }

    #[test]
    fn a_body_that_is_not_a_chat_is_refused() {
        for body in ["", "[]", "{}", r#"{"messages":[]}"#, r#"{"messages":"x"}"#] {
            assert!(write_prompt(body.as_bytes()).is_err(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn the_prompt_has_no_command_and_no_path(texts in proptest::collection::vec("[@/!\\\\\"a\n\u{0}\u{7f}é ]{0,40}", 1..8), roles in proptest::collection::vec(0..5_usize, 8)) {
            let names = ["system", "user", "assistant", "tool", "other"];
            let messages: Vec<_> = texts.iter().zip(&roles).map(|(text, &role)| json!({"role": names[role], "content": text, "name": text})).collect();
            let (prompt, transcript) = transcript(&json!({"messages": messages}));
            prop_assert!(!prompt.contains('@') && prompt.starts_with("Below") && prompt.len() <= MAX_PROMPT);
            // The sentence, an empty line and the JSON.
            prop_assert_eq!(prompt.lines().count(), 3);
            let said: Vec<_> = transcript["messages"].as_array().unwrap().iter().map(|turn| turn["content"].as_str().unwrap()).collect();
            let meant: Vec<_> = texts.iter().zip(&roles).filter(|&(_, &role)| role != 0).map(|(text, _)| text.as_str()).collect();
            prop_assert_eq!(said, meant);
        }

        #[test]
        fn a_shortened_text_fits(text in "[@\"a\u{1}é]{0,300}", limit in 80..400_usize) {
            let clipped = clip(&text, limit);
            prop_assert!(cost(&clipped) <= limit);
            prop_assert_eq!(clipped == text, cost(&text) <= limit);
        }

        #[test]
        fn the_cost_equals_the_length(text in ".{0,60}") {
            let json = Value::from(text.as_str()).to_string().replace('@', "\\u0040");
            prop_assert_eq!(cost(&text), json.len());
        }
    }
}
