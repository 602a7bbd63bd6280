//! The debug log of `DEBUG_QWEN_PLUGIN`. It is a file, because printed text would garble the host's screen.
//!
//! Each entry is one line: time, process, level, event, and fields as `name=value`. A background thread writes them. If
//! it can't keep up, entries are dropped and counted. Logging never fails a request.

pub mod background;
mod rotating;

use std::collections::VecDeque;
use std::fmt::{self, Display, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, iso_time};
use crate::redact::{KnownSecrets, Redactor};
use crate::text::is_unsafe;
use background::Background;
use rotating::Rotating;

/// File name of the log. The previous log ends in `.1`.
pub const DEBUG_LOG: &str = "debug.log";
/// Largest size of the log in bytes. The log and the previous one take up to twice that.
pub const MAX_LOG_BYTES: u64 = 5 * 1024 * 1024;
/// Largest number of queued entries.
const CAPACITY: usize = 1024;
/// Lines are joined to writes of about this many bytes.
const WRITE_BYTES: usize = 64 * 1024;

/// Severity of a log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Normal steps.
    Debug,
    /// Noteworthy steps.
    Info,
    /// Problems that were handled.
    Warn,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
        }
    }
}

/// A log that may be off. Clones write to the same file.
#[derive(Clone, Default)]
pub struct Logger(Option<Arc<OpenLog>>);

struct OpenLog {
    clock: Clock,
    background: Background<Entry>,
}

struct Entry {
    at: u64,
    level: Level,
    event: &'static str,
    fields: Vec<(&'static str, String)>,
}

impl Logger {
    /// Returns a log that writes nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Logs to [`DEBUG_LOG`] in `directory`, which is created with the first entry. Keeps `secrets` out.
    #[must_use]
    pub fn in_directory(directory: &Path, clock: Clock, secrets: KnownSecrets) -> Self {
        let file = Rotating::new(directory.join(DEBUG_LOG), MAX_LOG_BYTES);
        let work = move |entries, dropped| write(&file, &secrets.redactor(), entries, dropped);
        Self(Some(Arc::new(OpenLog { clock, background: Background::new(CAPACITY, work) })))
    }

    /// True if anything is written. Lets callers skip expensive fields.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Logs a normal step.
    pub fn debug(&self, event: &'static str, fields: &[(&'static str, &dyn Display)]) {
        self.log(Level::Debug, event, fields);
    }

    /// Logs a noteworthy step.
    pub fn info(&self, event: &'static str, fields: &[(&'static str, &dyn Display)]) {
        self.log(Level::Info, event, fields);
    }

    /// Logs a problem that was handled.
    pub fn warn(&self, event: &'static str, fields: &[(&'static str, &dyn Display)]) {
        self.log(Level::Warn, event, fields);
    }

    /// Logs an entry. Never waits and never fails.
    pub fn log(&self, level: Level, event: &'static str, fields: &[(&'static str, &dyn Display)]) {
        let Some(open) = &self.0 else { return };
        let fields = fields.iter().map(|(name, value)| (*name, value.to_string())).collect();
        open.background.submit(Entry { at: open.clock.now_ms(), level, event, fields });
    }

    /// Waits up to `limit` until all entries are written. Returns true if they are. Dropping the last clone also waits,
    /// for up to 2 s.
    #[expect(clippy::must_use_candidate, reason = "callers may only want to wait")]
    pub fn flush(&self, limit: Duration) -> bool {
        self.0.as_ref().is_none_or(|open| open.background.flush(limit))
    }
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Logger(on)" } else { "Logger(off)" })
    }
}

fn write(file: &Rotating, redactor: &Redactor, entries: VecDeque<Entry>, dropped: u64) {
    let mut lines = String::new();
    if dropped > 0
        && let Some(first) = entries.front()
    {
        let fields = vec![("dropped", dropped.to_string())];
        let entry = Entry { at: first.at, level: Level::Warn, event: "log-overrun", fields };
        write_line(&mut lines, &entry, redactor);
    }
    let mut rest = entries.into_iter().peekable();
    while let Some(entry) = rest.next() {
        write_line(&mut lines, &entry, redactor);
        if lines.len() >= WRITE_BYTES || rest.peek().is_none() {
            // A failure of the log itself can't be reported anywhere.
            let _ = file.append(lines.as_bytes());
            lines.clear();
        }
    }
}

fn write_line(line: &mut String, entry: &Entry, redactor: &Redactor) {
    let Entry { at, level, event, fields } = entry;
    let _ = write!(line, "{} {} {} ", iso_time(*at), std::process::id(), level.as_str());
    escape(line, event);
    for (name, value) in fields {
        line.push(' ');
        escape(line, name);
        line.push('=');
        let value = redactor.field(name, value);
        if value.is_empty() || value.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '=' | '\\')) {
            line.push('"');
            escape(line, &value);
            line.push('"');
        } else {
            escape(line, &value);
        }
    }
    line.push('\n');
}

/// Escapes quotes and unsafe characters, so that an entry stays on its line and can't
/// affect a terminal.
fn escape(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            _ if is_unsafe(c) => line.extend(c.escape_unicode()),
            _ => line.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secret::Secret;

    fn line(fields: Vec<(&'static str, String)>) -> String {
        let entry = Entry { at: 1_744_705_800_123, level: Level::Warn, event: "refresh", fields };
        let mut line = String::new();
        write_line(&mut line, &entry, &Redactor::new([&Secret::new("known-secret")]));
        line
    }

    #[test]
    fn an_entry_is_one_line() {
        let fields = vec![
            ("account", "work laptop".to_owned()),
            ("ms", 12.to_string()),
            ("why", "a \"quoted\"\nline\u{1b}[31m\u{202e}".to_owned()),
            ("none", String::new()),
            ("refresh_token", "abc".to_owned()),
            ("seen", "known-secret".to_owned()),
        ];
        assert_eq!(
            line(fields),
            format!(
                "2025-04-15T08:30:00.123Z {} WARN refresh account=\"work laptop\" ms=12 why=\"a \\\"quoted\\\"\\nline\\u{{1b}}[31m\\u{{202e}}\" none=\"\" refresh_token=*** seen=***\n",
                std::process::id()
            )
        );
    }

    #[test]
    fn a_log_that_is_off_does_not_format_the_fields() {
        struct Panics;
        impl Display for Panics {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("the field was formatted")
            }
        }
        let logger = Logger::off();
        logger.debug("event", &[("field", &Panics)]);
        assert!(!logger.is_on() && logger.flush(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn no_value_breaks_out_of_its_line(value in ".{0,60}|[\\s\\\\\"=\u{0}-\u{20}\u{7f}-\u{9f}]{0,20}") {
            let line = line(vec![("a", value), ("b", "end".to_owned())]);
            prop_assert!(line.ends_with(" b=end\n"));
            prop_assert!(!line[..line.len() - 1].chars().any(char::is_control));
        }
    }
}
