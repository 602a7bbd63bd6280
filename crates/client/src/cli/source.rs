//! Reads a running CLI's events and makes its failures into errors.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use qwen_base::{Code, Error, Redactor, Result, Secret, one_line, opaque_debug};
use tokio::time::{Instant, timeout_at};

use super::completion::Completion;
use super::output::{CliEvent, CliParser};
use super::run::{CliEnd, CliLimits, Output, Run};

/// Longest quote of the CLI's output, in characters.
const MAX_QUOTE: usize = 300;
/// Alternative advice at the end of each message.
pub const TURN_OFF: &str = "or turn the CLI fallback off";

pub struct CliSource {
    run: Run,
    parser: CliParser,
    events: VecDeque<CliEvent>,
    redactor: Redactor,
    limits: CliLimits,
    first_word_by: Instant,
}

opaque_debug!(CliSource);

impl CliSource {
    pub fn new(run: Run, secrets: &[String], limits: CliLimits) -> Self {
        let first_word_by = Instant::now() + limits.first_word;
        let (parser, events) = (CliParser::default(), VecDeque::new());
        Self { run, parser, events, redactor: redactor_of(secrets), limits, first_word_by }
    }

    /// Makes this event the next one.
    pub fn put_back(&mut self, event: CliEvent) {
        self.events.push_front(event);
    }

    /// Stops the CLI and waits until all its processes have ended.
    pub async fn stop(self) {
        self.run.stop().await;
    }

    /// Quotes the CLI's message without secrets.
    pub fn quote(&self, message: &str) -> String {
        quote(&self.redactor, message)
    }

    /// Returns the next event. Fails if the CLI ends without a result or takes too long.
    pub async fn next(&mut self) -> Result<CliEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            match self.run.next().await {
                Output::Bytes(bytes) => self.events.extend(self.parser.push(&bytes)),
                Output::TooMuch => return Err(self.failed("it printed too much for an answer")),
                Output::CliEnd(ended) => {
                    self.events.extend(self.parser.end());
                    if self.events.is_empty() {
                        return Err(self.died(&ended));
                    }
                }
            }
        }
    }

    /// Returns the next event. Fails if the first text takes too long.
    pub async fn next_in_time(&mut self) -> Result<CliEvent> {
        let limit = self.limits.first_word;
        timeout_at(self.first_word_by, self.next())
            .await
            .unwrap_or_else(|_| Err(too_slow("said nothing for", limit)))
    }

    /// Returns the first event with a piece of the answer. Fails if there is none.
    pub async fn first(&mut self) -> Result<CliEvent> {
        loop {
            match self.next_in_time().await? {
                CliEvent::Started { .. } | CliEvent::Restarted => {}
                CliEvent::Failed(message) => return Err(self.failed(&message)),
                CliEvent::Finished(_) => return Err(self.failed("it ended without an answer")),
                event => return Ok(event),
            }
        }
    }

    /// Reads the whole answer. Fails if it breaks off.
    pub async fn whole(&mut self, first: CliEvent, completion: &Completion) -> Result<Bytes> {
        let (mut text, mut thoughts) = (String::new(), String::new());
        let mut event = first;
        loop {
            match event {
                CliEvent::Text(piece) => text.push_str(&piece),
                CliEvent::Thought(piece) => thoughts.push_str(&piece),
                CliEvent::Restarted => (text, thoughts) = (String::new(), String::new()),
                CliEvent::Finished(_) if text.is_empty() => {
                    return Err(self.failed("it ended without an answer"));
                }
                CliEvent::Finished(finish) => return Ok(completion.whole(&text, &thoughts, &finish)),
                CliEvent::Failed(message) => return Err(self.failed(&message)),
                CliEvent::Started { .. } => {}
            }
            event = self.next().await?;
        }
    }

    /// Returns the error for the CLI's message, with advice.
    pub fn failed(&self, message: &str) -> Error {
        if is_oauth_refusal(message) {
            return oauth_ended();
        }
        let quoted = self.quote(message);
        let quoted = quoted.trim_end_matches('.');
        let lower = message.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let text = if has(&["no auth type", "missing api key", "environment variable not found"]) {
            format!(
                "The qwen CLI is not logged in ({quoted}). Run `qwen` and /auth to set a key, {TURN_OFF}."
            )
        } else if has(&["error: 401", "error: 403", "invalid api key", "incorrect api key"]) {
            format!(
                "The qwen CLI's key was refused ({quoted}). Run `qwen` and /auth to set another, {TURN_OFF}."
            )
        } else {
            format!("The qwen CLI could not answer: {quoted}. Run `qwen` by hand to see more, {TURN_OFF}.")
        };
        Error::new(Code::CliFailed, text)
    }

    /// Returns the error for a process that ended without a result.
    fn died(&self, ended: &CliEnd) -> Error {
        if ended.timed_out {
            return too_slow("was not done after", self.limits.total);
        }
        if is_oauth_refusal(&ended.complaint) {
            return oauth_ended();
        }
        let how = match ended.status {
            Some(status) if !status.success() => format!("it ended with {status}"),
            _ => "it ended without an answer".to_owned(),
        };
        match complaint(&ended.complaint) {
            Some(complaint) => self.failed(&format!("{how}: {complaint}")),
            None => self.failed(&how),
        }
    }
}

fn redactor_of(secrets: &[String]) -> Redactor {
    let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::new(secret.trim())).collect();
    Redactor::new(&secrets)
}

fn quote(redactor: &Redactor, message: &str) -> String {
    let text = redactor.text(message);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    one_line(&words.collect::<Vec<_>>().join(" "), MAX_QUOTE)
}

/// Returns the line with an error, otherwise the last line.
fn complaint(stderr: &str) -> Option<&str> {
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("at "));
    lines().find(|line| line.to_ascii_lowercase().contains("error:")).or_else(|| lines().next_back())
}

fn is_oauth_refusal(message: &str) -> bool {
    message.contains("OAuth") && message.contains("discontinued")
}

/// The most common case: no key, and OAuth no longer works.
pub fn oauth_ended() -> Error {
    Error::new(
        Code::CliFailed,
        format!(
            "The qwen CLI is only logged in with OAuth, which Qwen ended on 2026-04-15. Run `qwen` and /auth to set a key, \
             {TURN_OFF}."
        ),
    )
}

fn too_slow(what: &str, limit: Duration) -> Error {
    Error::new(
        Code::CliFailed,
        format!(
            "The qwen CLI {what} {} s and was stopped. Its quota may be used up: run `qwen` to check, {TURN_OFF}.",
            limit.as_secs()
        ),
    )
    .retryable()
}

/// Returns the error for an answer of which a part was already passed on.
pub fn broken_off(why: &str) -> Error {
    let why = why.trim_end_matches('.');
    Error::new(Code::CliFailed, format!("The qwen CLI's answer broke off: {why}. Send the message again."))
        .retryable()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_one_line_without_secrets() {
        let redactor = redactor_of(&[" hunter2-long\n".to_owned(), "us".to_owned()]);
        assert_eq!(
            quote(&redactor, "\u{1b}[31mus hunter2-long,\n (sk-abcdefgh1234) Bearer abc task-list"),
            "[31mus ***, (***) Bearer *** task-list"
        );
        assert_eq!(quote(&redactor, &"é".repeat(1_000)).chars().count(), MAX_QUOTE);
    }

    #[test]
    fn the_error_line_of_a_stack_trace_is_shown() {
        let trace = "Ripgrep not available\nAn unexpected critical error occurred:\nError: ENOENT: no such file\n    at x (y:1:2)\n\n";
        assert_eq!(complaint(trace), Some("Error: ENOENT: no such file"));
        assert_eq!(complaint("one\ntwo\n    at x\n"), Some("two"));
        assert_eq!(complaint(" \n"), None);
    }
}
