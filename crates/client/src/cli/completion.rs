//! Formats the CLI's answer as a chat completion, whole or as server-sent events.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::output::{CliFinish, CliUsage};

/// The parts of a chat completion that follow from the request.
#[derive(Debug, Clone)]
pub struct Completion {
    id: String,
    created: u64,
    model: String,
    pub stream: bool,
    include_usage: bool,
}

impl Completion {
    /// Reads the request.
    #[must_use]
    pub fn new(body: &[u8], id: &str, now_ms: u64) -> Self {
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        Self {
            id: format!("chatcmpl-{id}"),
            created: now_ms / 1_000,
            model: request["model"].as_str().unwrap_or("qwen").to_owned(),
            stream: request["stream"] == true,
            include_usage: request["stream_options"]["include_usage"] == true,
        }
    }

    /// Sets the model's name, because the CLI chooses the model.
    pub fn set_model(&mut self, model: &str) {
        model.clone_into(&mut self.model);
    }

    #[must_use]
    pub fn content_type(&self) -> &'static str {
        if self.stream { "text/event-stream; charset=utf-8" } else { "application/json" }
    }

    #[must_use]
    pub fn head(&self) -> Bytes {
        self.chunk(&json!({"role": "assistant", "content": ""}), None)
    }

    #[must_use]
    pub fn text(&self, text: &str) -> Bytes {
        self.chunk(&json!({"content": text}), None)
    }

    #[must_use]
    pub fn thought(&self, thought: &str) -> Bytes {
        self.chunk(&json!({"reasoning_content": thought}), None)
    }

    #[must_use]
    pub fn tail(&self, finish: &CliFinish) -> Bytes {
        let mut tail = self.chunk(&json!({}), Some(reason(finish))).to_vec();
        if let Some(usage) = finish.usage.filter(|_| self.include_usage) {
            let mut event = self.object("chat.completion.chunk", json!([]));
            event.insert("usage".to_owned(), counts(usage));
            tail.extend_from_slice(&event_of(event));
        }
        tail.extend_from_slice(b"data: [DONE]\n\n");
        Bytes::from(tail)
    }

    #[must_use]
    pub fn whole(&self, text: &str, thoughts: &str, finish: &CliFinish) -> Bytes {
        let mut message = json!({"role": "assistant", "content": text});
        if !thoughts.is_empty() {
            message["reasoning_content"] = thoughts.into();
        }
        let choices =
            json!([{"index": 0, "message": message, "logprobs": null, "finish_reason": reason(finish)}]);
        let mut answer = self.object("chat.completion", choices);
        if let Some(usage) = finish.usage {
            answer.insert("usage".to_owned(), counts(usage));
        }
        Bytes::from(Value::Object(answer).to_string())
    }

    fn chunk(&self, delta: &Value, reason: Option<&str>) -> Bytes {
        let choices = json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}]);
        event_of(self.object("chat.completion.chunk", choices))
    }

    fn object(&self, kind: &str, choices: Value) -> Map<String, Value> {
        Map::from_iter([
            ("id".to_owned(), self.id.as_str().into()),
            ("object".to_owned(), kind.into()),
            ("created".to_owned(), self.created.into()),
            ("model".to_owned(), self.model.as_str().into()),
            ("choices".to_owned(), choices),
        ])
    }
}

fn event_of(event: Map<String, Value>) -> Bytes {
    Bytes::from(format!("data: {}\n\n", Value::Object(event)))
}

fn reason(finish: &CliFinish) -> &'static str {
    if finish.is_cut { "length" } else { "stop" }
}

fn counts(usage: CliUsage) -> Value {
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input.saturating_add(usage.output),
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(stream: &[u8]) -> Vec<Value> {
        let stream = std::str::from_utf8(stream).unwrap();
        let data = stream.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| data.into())).collect()
    }

    #[test]
    fn a_whole_answer_is_one_completion() {
        let completion = Completion::new(br#"{"model":"coder-model","messages":[]}"#, "1", 5_999);
        let usage = Some(CliUsage { input: 7, output: 2, cached: 3 });
        let answer = completion.whole("hi", "hm", &CliFinish { usage, is_cut: true });
        assert_eq!(
            serde_json::from_slice::<Value>(&answer).unwrap(),
            json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "coder-model",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi", "reasoning_content": "hm"}, "logprobs": null, "finish_reason": "length"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 3}}})
        );
        assert_eq!(completion.content_type(), "application/json");
    }

    #[test]
    fn a_stream_has_usage_if_requested() {
        for (options, expected) in [(json!({"include_usage": true}), 3), (json!(null), 2)] {
            let body = json!({"stream": true, "stream_options": options}).to_string();
            let mut completion = Completion::new(body.as_bytes(), "1", 0);
            completion.set_model("m");
            let tail =
                events(&completion.tail(&CliFinish { usage: Some(CliUsage::default()), is_cut: false }));
            assert_eq!(tail.len(), expected);
            assert_eq!(tail[0]["choices"][0]["finish_reason"], "stop");
            assert_eq!(tail.last().unwrap(), "[DONE]");
            assert_eq!(tail[0]["model"], "m");
        }
        let completion =
            Completion::new(br#"{"stream":true,"stream_options":{"include_usage":true}}"#, "1", 0);
        assert_eq!(events(&completion.tail(&CliFinish::default())).len(), 2);
    }

    proptest! {
        #[test]
        fn the_text_arrives_unchanged(pieces in proptest::collection::vec(".{0,20}", 0..6)) {
            let completion = Completion::new(br#"{"stream":true}"#, "1", 0);
            let mut stream = completion.head().to_vec();
            for piece in &pieces {
                stream.extend_from_slice(&completion.text(piece));
            }
            let events = events(&stream);
            prop_assert_eq!(&events[0]["choices"][0]["delta"]["role"], "assistant");
            let said: String = events.iter().map(|event| event["choices"][0]["delta"]["content"].as_str().unwrap()).collect();
            prop_assert_eq!(said, pieces.concat());
        }
    }
}
