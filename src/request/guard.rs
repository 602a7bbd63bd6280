//! Watches a stream of chat events (SSE) for an end that is none. Pure.
//!
//! A host that meets an empty or cut stream asks again, in some versions for ever. Behind the guard such a stream ends
//! with an error event that says what happened.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::host_errors::plain;
use crate::error::{Code, Error};

/// A longer line is passed on before it has ended.
const MAX_LINE: usize = 4 * 1024 * 1024;

/// The state of one stream. Only whole lines are passed on, so that an error event never lands inside another.
#[derive(Debug, Default)]
pub struct Guard {
    line: Vec<u8>,
    has_content: bool,
    is_finished: bool,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    error: serde_json::Value,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    delta: Option<Delta>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<serde::de::IgnoredAny>>,
}

impl Guard {
    /// Whether an event has had anything to say: text, thought, a tool call, an error, or why the answer ended.
    #[must_use]
    pub fn has_said_something(&self) -> bool {
        self.has_content || self.is_finished
    }

    /// Takes bytes in and gives the lines they complete.
    pub fn pass(&mut self, bytes: &[u8]) -> Bytes {
        self.line.extend_from_slice(bytes);
        let end = match self.line.iter().rposition(|&byte| byte == b'\n') {
            Some(newline) => newline + 1,
            None if self.line.len() > MAX_LINE => self.line.len(),
            None => return Bytes::new(),
        };
        let rest = self.line.split_off(end);
        let lines = std::mem::replace(&mut self.line, rest);
        for line in lines.split(|&byte| byte == b'\n') {
            self.read(line);
        }
        Bytes::from(lines)
    }

    fn read(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let Ok(event) = serde_json::from_slice::<Event>(data) else { return };
        // What the server reports as an error is an end the host understands.
        self.is_finished |= !event.error.is_null();
        for choice in event.choices {
            self.is_finished |= choice.finish_reason.is_some_and(|reason| !reason.is_empty());
            if let Some(delta) = choice.delta {
                let said = |text: Option<String>| text.is_some_and(|text| !text.is_empty());
                self.has_content |= said(delta.content)
                    || said(delta.reasoning_content)
                    || delta.tool_calls.is_some_and(|calls| !calls.is_empty());
            }
        }
    }

    /// What is left to pass on at the end: an error event, unless the stream had ended well.
    pub fn end(&mut self, failure: Option<&Error>) -> Option<Bytes> {
        if self.is_finished {
            let rest = std::mem::take(&mut self.line);
            return (!rest.is_empty()).then(|| Bytes::from(rest));
        }
        let problem = self.problem(failure);
        let event = json!({"error": {"message": plain(problem.message()), "type": "stream_error"}});
        Some(Bytes::from(format!("data: {event}\n\n")))
    }

    /// What is wrong with a stream that ends here.
    #[must_use]
    pub fn problem(&self, failure: Option<&Error>) -> Error {
        let (code, what) = match failure {
            Some(error) => (error.code(), error.message().to_owned()),
            None if self.has_content => {
                (Code::InvalidResponse, "Qwen ended its answer without finishing it.".to_owned())
            }
            None => (Code::InvalidResponse, "Qwen sent an empty answer.".to_owned()),
        };
        Error::new(code, format!("{what} Send the message again."))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stream: &[u8], chunk: usize) -> (Vec<u8>, bool) {
        let mut guard = Guard::default();
        let mut out: Vec<u8> = stream.chunks(chunk.max(1)).flat_map(|bytes| guard.pass(bytes)).collect();
        let end = guard.end(None);
        let failed = end.as_ref().is_some_and(|bytes| bytes.starts_with(br#"data: {"error""#));
        out.extend(end.into_iter().flatten());
        (out, failed)
    }

    const GOOD: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[],\"usage\":{}}\n\ndata: [DONE]\n\n";

    #[test]
    fn a_good_stream_passes_byte_for_byte() {
        for chunk in 1..GOOD.len() {
            assert_eq!(run(GOOD.as_bytes(), chunk), (GOOD.as_bytes().to_vec(), false));
        }
    }

    #[test]
    fn an_empty_or_cut_stream_ends_in_an_error() {
        assert!(run(b"data: [DONE]\n\n", 3).1);
        assert!(run(b"", 1).1);
        let cut = &GOOD.as_bytes()[..100];
        let (out, failed) = run(cut, 7);
        assert!(failed);
        assert!(String::from_utf8(out).unwrap().contains("without finishing it"));
    }

    #[test]
    fn a_thought_a_tool_call_or_an_error_says_something() {
        for event in [
            r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#,
            r#"{"error":{"message":"no"}}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
        ] {
            let mut guard = Guard::default();
            guard.pass(format!("data: {event}\r\n\r\n").as_bytes());
            assert!(guard.has_said_something(), "{event}");
        }
        let mut guard = Guard::default();
        guard.pass(b"data: {\"choices\":[{\"delta\":{\"content\":\"\",\"role\":\"assistant\"},\"finish_reason\":null}]}\n\n");
        assert!(!guard.has_said_something());
    }

    proptest! {
        #[test]
        fn what_came_in_goes_out(stream in proptest::collection::vec(any::<u8>(), 0..300), chunk in 1_usize..50) {
            let (out, failed) = run(&stream, chunk);
            let whole_lines = stream.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
            prop_assert!(out.starts_with(&stream[..whole_lines]));
            prop_assert!(failed || out == stream);
        }
    }
}
