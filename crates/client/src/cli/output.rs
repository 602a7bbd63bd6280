//! Parses the CLI's output: `--output-format json` (one array) or `stream-json` (one object per line).
//!
//! Errors can look like answers. 0.15.10 reports success with the text `[API Error: …]`, and both it and 0.24.4 send that
//! text as the last delta of a stream. Such a text is held back until the result shows if it is an error.

use serde_json::Value;

/// Longest line, in bytes. Longer ones are skipped.
const MAX_LINE: usize = 8 * 1024 * 1024;
const ERROR_START: &str = "[API Error: ";

/// An event in the CLI's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CliEvent {
    /// The settings were read, and the model will be asked.
    Started {
        /// Name of the model.
        model: Option<String>,
        /// Names of the tools that are turned on.
        tools: Vec<String>,
    },
    /// A piece of the answer.
    Text(String),
    /// A piece of the model's thoughts.
    Thought(String),
    /// The model is asked again, and the answer starts over.
    Restarted,
    /// The answer is complete.
    Finished(CliFinish),
    /// There is no answer, for this reason.
    Failed(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CliFinish {
    pub usage: Option<CliUsage>,
    /// True if the model reached its output limit.
    pub is_cut: bool,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CliUsage {
    /// Input, including cached tokens.
    pub input: u64,
    pub output: u64,
    /// Input that came from a cache.
    pub cached: u64,
}

/// Parses output piece by piece.
#[derive(Debug)]
pub struct CliParser {
    /// Start of an unfinished line; `None` while the rest of a line that is too long is skipped.
    line: Option<Vec<u8>>,
    /// True if the current message came in pieces.
    has_deltas: bool,
    has_text: bool,
    stop_reason: Option<String>,
    /// Text that looks like an error.
    held: Option<String>,
    is_done: bool,
}

impl Default for CliParser {
    fn default() -> Self {
        let line = Some(Vec::new());
        Self { line, has_deltas: false, has_text: false, stop_reason: None, held: None, is_done: false }
    }
}

impl CliParser {
    /// Parses bytes. Returns nothing more after the result.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<CliEvent> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while let Some(newline) = rest.iter().position(|&byte| byte == b'\n') {
            self.append(&rest[..newline]);
            self.end_line(&mut events);
            rest = &rest[newline + 1..];
        }
        self.append(rest);
        events
    }

    /// Parses the rest at the end of the output.
    pub fn end(&mut self) -> Vec<CliEvent> {
        let mut events = Vec::new();
        self.end_line(&mut events);
        if let Some(held) = self.held.take().filter(|_| !self.is_done) {
            self.is_done = true;
            events.push(CliEvent::Failed(held));
        }
        events
    }

    fn append(&mut self, bytes: &[u8]) {
        match &mut self.line {
            Some(line) if line.len() + bytes.len() <= MAX_LINE => line.extend_from_slice(bytes),
            _ => self.line = None,
        }
    }

    fn end_line(&mut self, events: &mut Vec<CliEvent>) {
        let Some(line) = self.line.replace(Vec::new()) else { return };
        match serde_json::from_slice(&line) {
            Ok(Value::Array(items)) => items.iter().for_each(|item| self.read(item, events)),
            Ok(item) => self.read(&item, events),
            // A warning or other text.
            Err(_) => {}
        }
    }

    fn read(&mut self, item: &Value, events: &mut Vec<CliEvent>) {
        // A subagent's text is not part of the answer.
        if self.is_done || item["parent_tool_use_id"].is_string() {
            return;
        }
        match (item["type"].as_str(), item["subtype"].as_str()) {
            (Some("system"), Some("init")) => {
                let tools = item["tools"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let model = item["model"].as_str().map(str::to_owned);
                events.push(CliEvent::Started { model, tools: tools.map(str::to_owned).collect() });
            }
            (Some("system"), Some("retry")) => {
                (self.held, self.has_deltas) = (None, false);
                events.push(CliEvent::Restarted);
            }
            (Some("stream_event"), _) => self.read_stream_event(&item["event"], events),
            (Some("assistant"), _) => self.read_message(&item["message"], events),
            (Some("result"), _) => self.read_result(item, events),
            _ => {}
        }
    }

    fn read_stream_event(&mut self, event: &Value, events: &mut Vec<CliEvent>) {
        let delta = &event["delta"];
        match event["type"].as_str() {
            Some("message_start") => self.has_deltas = false,
            Some("content_block_delta") => {
                if let Some(text) = delta["text"].as_str() {
                    self.has_deltas = true;
                    self.text(text, events);
                } else if let Some(thought) = delta["thinking"].as_str() {
                    self.has_deltas = true;
                    thought_event(thought, events);
                }
            }
            Some("message_delta") => self.note_stop(&delta["stop_reason"]),
            _ => {}
        }
    }

    /// Reads a whole message, which repeats the pieces if there were any.
    fn read_message(&mut self, message: &Value, events: &mut Vec<CliEvent>) {
        self.note_stop(&message["stop_reason"]);
        if std::mem::take(&mut self.has_deltas) {
            return;
        }
        for block in message["content"].as_array().into_iter().flatten() {
            match block["type"].as_str() {
                Some("text") => {
                    self.whole_text(block["text"].as_str().unwrap_or(""), &message["usage"], events);
                }
                Some("thinking") => thought_event(block["thinking"].as_str().unwrap_or(""), events),
                _ => {}
            }
        }
    }

    /// In a whole text, an error is at the end.
    fn whole_text(&mut self, text: &str, usage: &Value, events: &mut Vec<CliEvent>) {
        let error =
            text.rfind(ERROR_START).filter(|_| text.ends_with(']') && count(usage, "output_tokens") == 0);
        let (said, error) = text.split_at(error.unwrap_or(text.len()));
        self.text(said, events);
        self.text(error, events);
    }

    fn text(&mut self, text: &str, events: &mut Vec<CliEvent>) {
        if text.is_empty() {
            return;
        }
        // More text follows, so the held text was not an error.
        if let Some(held) = self.held.take() {
            self.say(held, events);
        }
        if text.starts_with(ERROR_START) && text.ends_with(']') {
            self.held = Some(text.to_owned());
        } else {
            self.say(text.to_owned(), events);
        }
    }

    fn say(&mut self, text: String, events: &mut Vec<CliEvent>) {
        self.has_text = true;
        events.push(CliEvent::Text(text));
    }

    fn note_stop(&mut self, reason: &Value) {
        if let Some(reason) = reason.as_str() {
            self.stop_reason = Some(reason.to_ascii_lowercase());
        }
    }

    fn read_result(&mut self, item: &Value, events: &mut Vec<CliEvent>) {
        self.is_done = true;
        let said = item["result"].as_str().unwrap_or("");
        let held = self.held.take();
        let counts = &item["usage"];
        let usage = CliUsage {
            input: count(counts, "input_tokens"),
            output: count(counts, "output_tokens"),
            cached: count(counts, "cache_read_input_tokens"),
        };
        if item["is_error"] == true || !item["error"].is_null() {
            let error = &item["error"];
            let message = error["message"].as_str().or(error.as_str()).or(held.as_deref()).unwrap_or(said);
            events.push(CliEvent::Failed(message.to_owned()));
            return;
        }
        // If the model wrote the text, tokens were counted. An error after the answer is not the model's.
        let is_error = |text: &str| text.starts_with(ERROR_START) && (usage.output == 0 || self.has_text);
        match held {
            Some(held) if is_error(&held) => return events.push(CliEvent::Failed(held)),
            Some(held) => self.say(held, events),
            None if !self.has_text && is_error(said) => {
                return events.push(CliEvent::Failed(said.to_owned()));
            }
            None if !self.has_text && !said.is_empty() => self.say(said.to_owned(), events),
            None => {}
        }
        let usage = Some(usage).filter(|usage| usage.input > 0 || usage.output > 0);
        let is_cut = matches!(self.stop_reason.as_deref(), Some("max_tokens" | "length"));
        events.push(CliEvent::Finished(CliFinish { usage, is_cut }));
    }
}

fn thought_event(thought: &str, events: &mut Vec<CliEvent>) {
    if !thought.is_empty() {
        events.push(CliEvent::Thought(thought.to_owned()));
    }
}

fn count(usage: &Value, name: &str) -> u64 {
    usage[name].as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn all(output: &str) -> Vec<CliEvent> {
        let mut parser = CliParser::default();
        let mut events = parser.push(output.as_bytes());
        events.extend(parser.end());
        events
    }

    fn lines(items: &[Value]) -> String {
        items.iter().flat_map(|item| [item.to_string(), "\n".to_owned()]).collect()
    }

    fn delta(text: &str) -> Value {
        json!({"type": "stream_event", "parent_tool_use_id": null, "event": {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}})
    }

    fn thinking(text: &str) -> Value {
        json!({"type": "stream_event", "event": {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": text}}})
    }

    fn start() -> Value {
        json!({"type": "stream_event", "event": {"type": "message_start", "message": {"role": "assistant", "content": []}}})
    }

    fn assistant(text: &str, output_tokens: u64) -> Value {
        json!({"type": "assistant", "message": {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}], "stop_reason": null, "usage": {"input_tokens": 3 * output_tokens, "output_tokens": output_tokens}}})
    }

    fn result(text: &str, output_tokens: u64) -> Value {
        json!({"type": "result", "subtype": "success", "is_error": false, "result": text, "usage": {"input_tokens": 3 * output_tokens, "output_tokens": output_tokens, "cache_read_input_tokens": 1}})
    }

    fn text(text: &str) -> CliEvent {
        CliEvent::Text(text.to_owned())
    }

    fn finished(output: u64) -> CliEvent {
        let usage = CliUsage { input: 3 * output, output, cached: 1 };
        CliEvent::Finished(CliFinish { usage: (output > 0).then_some(usage), is_cut: false })
    }

    #[test]
    fn a_stream_gives_each_piece_once() {
        let init =
            json!({"type": "system", "subtype": "init", "model": "m", "tools": ["a"], "slash_commands": []});
        let output = lines(&[
            init,
            json!({"type": "goal_state"}),
            start(),
            thinking("hm"),
            delta("You "),
            delta("said"),
            assistant("You said", 2),
            result("You said", 2),
        ]);
        let expected = [
            CliEvent::Started { model: Some("m".into()), tools: vec!["a".into()] },
            CliEvent::Thought("hm".into()),
            text("You "),
            text("said"),
            finished(2),
        ];
        assert_eq!(all(&output), expected);
    }

    #[test]
    fn arrays_and_whole_messages_give_the_same_events() {
        let items = [
            json!({"type": "system", "subtype": "init", "tools": []}),
            assistant("You said", 2),
            result("You said", 2),
        ];
        let expected = [
            CliEvent::Started { model: None, tools: vec![] },
            CliEvent::Thought("hm".into()),
            text("You said"),
            finished(2),
        ];
        assert_eq!(all(&lines(&items)), expected);
        assert_eq!(all(&Value::from(items.to_vec()).to_string()), expected);
        assert_eq!(all(&lines(&[result("only this", 1)])), [text("only this"), finished(1)]);
    }

    #[test]
    fn errors_that_look_like_answers_are_failures() {
        let error = "[API Error: 401 invalid access token]";
        let failed = |said: &[CliEvent]| [said, &[CliEvent::Failed(error.to_owned())]].concat();
        assert_eq!(all(&lines(&[start(), delta(error), assistant(error, 0), result(error, 0)])), failed(&[]));
        assert_eq!(
            all(&lines(&[
                json!({"type": "assistant", "message": {"content": [{"type": "text", "text": error}]}}),
                result(error, 0)
            ])),
            failed(&[])
        );
        assert_eq!(all(&lines(&[result(error, 0)])), failed(&[]));
        // 0.15.10 reports a cut answer as a success.
        let both = format!("You {error}");
        assert_eq!(
            all(&lines(&[start(), delta("You "), delta(error), assistant(&both, 0), result(&both, 0)])),
            failed(&[text("You ")])
        );
        assert_eq!(all(&lines(&[assistant(&both, 0), result(&both, 0)]))[1..], failed(&[text("You ")]));
        assert_eq!(
            all(&lines(&[start(), delta("You "), delta(error), result(&both, 9)])),
            failed(&[text("You ")])
        );
        // 0.24.4 reports an error.
        let honest = json!({"type": "result", "subtype": "error_during_execution", "is_error": true, "usage": {"output_tokens": 4}, "error": {"message": error}});
        assert_eq!(all(&lines(&[start(), delta(error), honest])), failed(&[]));
        // The process ends without a result.
        assert_eq!(all(&lines(&[start(), delta(error)])), failed(&[]));
    }

    #[test]
    fn text_about_errors_is_not_a_failure() {
        let quoted = "[API Error: x]";
        assert_eq!(
            all(&lines(&[start(), delta(quoted), delta(" is"), result("", 2)])),
            [text(quoted), text(" is"), finished(2)]
        );
        assert_eq!(all(&lines(&[start(), delta(quoted), result(quoted, 2)])), [text(quoted), finished(2)]);
        assert_eq!(
            all(&lines(&[start(), delta("a [API Error: x]"), result("", 2)])),
            [text("a [API Error: x]"), finished(2)]
        );
    }

    #[test]
    fn retries_and_cut_answers_are_reported() {
        let retry =
            json!({"type": "system", "subtype": "retry", "data": {"reason": "retry", "preserveText": true}});
        let stop = json!({"type": "stream_event", "event": {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}}});
        let events = all(&lines(&[start(), delta("You "), retry, delta("You said"), stop, result("", 0)]));
        let cut = CliEvent::Finished(CliFinish { usage: None, is_cut: true });
        assert_eq!(events, [text("You "), CliEvent::Restarted, text("You said"), cut]);
    }

    #[test]
    fn text_of_subagents_and_after_the_result_is_ignored() {
        let mut sub = delta("sub");
        sub["parent_tool_use_id"] = "t".into();
        assert_eq!(all(&lines(&[sub, result("", 0), delta("late"), result("", 3)])), [finished(0)]);
    }

    proptest! {
        #[test]
        fn any_piece_size_gives_the_same_events(texts in proptest::collection::vec("[a-z\\[\\]é ]{0,8}", 0..5), rubbish in "[^\\[{\"0-9tfn\n]{0,20}", size in 1..40_usize) {
            let mut items: Vec<Value> = texts.iter().map(|text| delta(text)).collect();
            items.push(result("", 2));
            let output = format!("{rubbish}\n{}", lines(&items));
            let mut parser = CliParser::default();
            let mut events: Vec<CliEvent> = output.as_bytes().chunks(size).flat_map(|bytes| parser.push(bytes)).collect();
            events.extend(parser.end());
            prop_assert_eq!(&events, &all(&output));
            let said: String = events.iter().filter_map(|event| match event { CliEvent::Text(text) => Some(text.as_str()), _ => None }).collect();
            prop_assert_eq!(said, texts.concat());
        }

        #[test]
        fn any_bytes_are_handled(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut parser = CliParser::default();
            parser.push(&bytes);
            parser.end();
        }
    }
}
