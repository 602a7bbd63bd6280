//! Watches a stream of chat events (SSE) for an end that is none. Pure.
//!
//! A host that meets an empty or cut stream asks again, in some versions for ever. Behind the guard such a stream fails
//! with an error that says what happened, and that the host shows as it is.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memchr;
use memchr::memmem::Finder;
use serde::Deserialize;

use super::host_errors::plain;
use crate::error::{Code, Error, Result};

/// The ends of keys whose values may end an answer. Made once: that takes longer than it takes to look through an event.
static ENDINGS: LazyLock<[Finder; 2]> =
    LazyLock::new(|| [Finder::new(b"finish_reason\""), Finder::new(b"error\"")]);
/// A longer line is passed on before it has ended.
const MAX_LINE: usize = 4 * 1024 * 1024;

/// The state of one stream. Only whole lines are passed on: a host that meets half an event complains about that, and not
/// of what happened.
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
    pub fn pass(&mut self, bytes: Bytes) -> Bytes {
        if self.line.is_empty() && bytes.last() == Some(&b'\n') {
            self.read_all(&bytes);
            return bytes;
        }
        self.line.extend_from_slice(&bytes);
        let end = match self.line.iter().rposition(|&byte| byte == b'\n') {
            Some(newline) => newline + 1,
            None if self.line.len() > MAX_LINE => self.line.len(),
            None => return Bytes::new(),
        };
        let rest = self.line.split_off(end);
        let lines = std::mem::replace(&mut self.line, rest);
        self.read_all(&lines);
        Bytes::from(lines)
    }

    fn read_all(&mut self, lines: &[u8]) {
        let mut rest = lines;
        while !rest.is_empty() && !self.is_finished {
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            self.read(&rest[..end]);
            rest = rest.get(end + 1..).unwrap_or_default();
        }
    }

    fn read(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else { return };
        // Once something was said, only the end is news: most events need not be parsed.
        if self.has_content && !may_end(data) {
            return;
        }
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

    /// What is left to pass on at the end.
    ///
    /// # Errors
    /// What is wrong with the stream, in words that make no host retry, unless it had ended well.
    pub fn end(&mut self, failure: Option<&Error>) -> Result<Option<Bytes>> {
        if !self.is_finished {
            let problem = self.problem(failure);
            return Err(Error::new(problem.code(), plain(problem.message())));
        }
        let rest = std::mem::take(&mut self.line);
        Ok((!rest.is_empty()).then(|| Bytes::from(rest)))
    }

    /// What is wrong with a stream that ends here.
    #[must_use]
    pub fn problem(&self, failure: Option<&Error>) -> Error {
        let (code, what) = match failure {
            Some(error) => (error.code(), without_advice(error.message())),
            None if self.has_content => {
                (Code::InvalidResponse, "Qwen ended its answer without finishing it.")
            }
            None => (Code::InvalidResponse, "Qwen sent an empty answer."),
        };
        Error::new(code, format!("{what} Send the message again."))
    }
}

/// Whether an event may say why the answer ends: it names a reason or an error, and that is not null.
fn may_end(data: &[u8]) -> bool {
    ENDINGS.iter().any(|key| {
        key.find_iter(data).any(|start| {
            let value = data[start + key.needle().len()..].trim_ascii_start();
            let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii_start();
            !value.starts_with(b"null")
        })
    })
}

/// The message without its last sentence, which is advice for callers who send requests and not messages.
fn without_advice(message: &str) -> &str {
    message.rfind(". ").map_or(message, |end| &message[..=end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stream: &[u8], chunk: usize) -> (Vec<u8>, bool) {
        let mut guard = Guard::default();
        let mut out: Vec<u8> =
            stream.chunks(chunk.max(1)).flat_map(|bytes| guard.pass(Bytes::copy_from_slice(bytes))).collect();
        let end = guard.end(None);
        let failed = end.is_err();
        out.extend(end.into_iter().flatten().flatten());
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
        let (out, failed) = run(&GOOD.as_bytes()[..100], 7);
        assert!(failed && out.ends_with(b"\n"));
    }

    #[test]
    fn what_went_wrong_is_said_with_one_advice_and_no_retry_word() {
        let mut guard = Guard::default();
        assert_eq!(guard.problem(None).message(), "Qwen sent an empty answer. Send the message again.");
        guard.pass(Bytes::from_static(&GOOD.as_bytes()[..150]));
        assert_eq!(
            guard.problem(None).message(),
            "Qwen ended its answer without finishing it. Send the message again."
        );
        let failure = Error::new(Code::Network, "The connection to qwen.ai broke: timed out. Try again.");
        let error = guard.end(Some(&failure)).unwrap_err();
        assert_eq!(error.code(), Code::Network);
        assert_eq!(
            error.message().replace('\u{2060}', ""),
            "The connection to qwen.ai broke: timed out. Send the message again."
        );
        assert!(!error.message().contains("timed out"));
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
            guard.pass(format!("data: {event}\r\n\r\n").into());
            assert!(guard.has_said_something(), "{event}");
        }
        let mut guard = Guard::default();
        guard.pass(Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\"\",\"role\":\"assistant\"},\"finish_reason\":null}]}\n\n"));
        assert!(!guard.has_said_something());
    }

    #[test]
    fn an_end_is_found_among_events_that_only_look_like_one() {
        let event = |choice: &str| format!("data: {{\"choices\":[{choice}]}}\n\n");
        let said = event(r#"{"delta":{"content":"hi"},"finish_reason":null}"#);
        let quoted = event(r#"{"delta":{"content":"\"finish_reason\":\"stop\""},"finish_reason" : null}"#);
        for (end, is_end) in [
            (event(r#"{"delta":{},"finish_reason": "stop"}"#), true),
            (event(r#"{"finish_reason":null},{"finish_reason":"stop"}"#), true),
            ("data: {\"error\" : {\"message\":\"no\"}}\n\n".to_owned(), true),
            ("data: {\"error\":null,\"choices\":[]}\n\n".to_owned(), false),
            (event(r#"{"delta":{"content":"error"},"finish_reason":null}"#), false),
        ] {
            let stream = format!("{said}{quoted}{end}");
            assert_eq!(run(stream.as_bytes(), stream.len()).1, !is_end, "{end}");
        }
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
