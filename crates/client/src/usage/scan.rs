//! Finds the `usage` object in the bytes of an answer.
//!
//! Bytes pass through unchanged, and only the `usage` object is kept. The size of the pieces makes no difference.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::{memchr2, memrchr};
use serde_json::Value;

use crate::sse::{DONE, LineReader, data_of, is_done, start_of};

const KEY: &[u8] = b"usage";
const QUOTED_KEY: &[u8] = b"\"usage\"";
/// Built once, because that takes longer than a search in one event.
static REPORT: LazyLock<Finder> = LazyLock::new(|| Finder::new(QUOTED_KEY));
/// Largest `usage` object, in bytes.
const MAX_OBJECT: usize = 8 * 1024;
/// Largest integer that is exact in JavaScript.
pub const MAX_COUNT: u64 = (1 << 53) - 1;

/// Token counts that an answer reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// Input, including cached tokens.
    pub input: u64,
    /// Input from the server's cache.
    pub cached: u64,
    /// Output, including thoughts.
    pub output: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    /// Server-sent events, with one JSON document per line.
    Events,
    /// One of these, as the first byte says: some servers send events without a type, or with a wrong one.
    Unknown,
    /// Any other body, which is not searched.
    Other,
}

impl Form {
    #[must_use]
    pub fn of_content_type(content_type: &str) -> Self {
        let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "text/event-stream" => Self::Events,
            "" | "text/plain" | "application/json" => Self::Unknown,
            _ if kind.ends_with("+json") => Self::Unknown,
            _ => Self::Other,
        }
    }
}

/// Searches the body of one answer.
#[derive(Debug)]
pub struct Scanner {
    form: Form,
    lines: LineReader,
    json: Json,
    found: Option<Tokens>,
    is_done: bool,
}

impl Scanner {
    #[must_use]
    pub fn new(form: Form) -> Self {
        Self { form, lines: LineReader::default(), json: Json::default(), found: None, is_done: false }
    }

    /// Returns the last reported usage, which includes earlier reports.
    #[must_use]
    pub fn found(&self) -> Option<Tokens> {
        self.found
    }

    /// True if the last event (`[DONE]`) has passed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    pub fn pass(&mut self, bytes: &[u8]) {
        if self.form == Form::Unknown {
            let Some(start) = start_of(bytes) else { return };
            self.form = if matches!(bytes[start], b'{' | b'[') { Form::Json } else { Form::Events };
        }
        match self.form {
            Form::Json => self.json.pass(bytes, &mut self.found),
            Form::Events => self.pass_events(bytes),
            Form::Unknown | Form::Other => {}
        }
    }

    /// Reads an unfinished last line.
    pub fn end(&mut self) {
        let Self { lines, found, .. } = self;
        lines.end(|line| report(line.text, found));
    }

    fn pass_events(&mut self, bytes: &[u8]) {
        let Self { lines, found, .. } = self;
        let mut rest = bytes;
        while !rest.is_empty() {
            if lines.is_at_start() {
                // Nearly all events report nothing, and skipping them avoids splitting them into lines.
                rest = &rest[uninteresting(rest)..];
            }
            let line = lines.read_line(rest, |line| {
                self.is_done |= data_of(line.text).is_some_and(is_done);
                report(line.text, found);
            });
            let Some(length) = line else { break };
            rest = &rest[length..];
        }
        self.is_done |= lines.ends_with_done();
    }
}

/// Reads the usage in a line of an event stream.
fn report(line: &[u8], found: &mut Option<Tokens>) {
    if let Some(data) = data_of(line).filter(|data| REPORT.find(data).is_some()) {
        Json::default().pass(data, found);
    }
}

/// Returns the length of the whole lines at the start that report nothing.
fn uninteresting(bytes: &[u8]) -> usize {
    let Some(end) = memrchr(b'\n', bytes) else { return 0 };
    let whole = &bytes[..=end];
    let reports = |at: &usize| {
        let mut after = whole[at + QUOTED_KEY.len()..].iter().filter(|byte| !byte.is_ascii_whitespace());
        !(after.next() == Some(&b':') && after.next() == Some(&b'n'))
    };
    let at = REPORT.find_iter(whole).find(reports);
    // The last event is at the end.
    let end = whole.trim_ascii_end();
    let at = at.or_else(|| end.ends_with(DONE).then(|| end.len() - DONE.len()));
    at.map_or(whole.len(), |at| memrchr(b'\n', &whole[..at]).map_or(0, |newline| newline + 1))
}

/// Tracks the structure of one JSON document.
#[derive(Debug, Default)]
struct Json {
    depth: usize,
    /// True if the outermost value is an object.
    is_object: bool,
    in_string: bool,
    is_escaped: bool,
    place: Position,
    /// The part of the `usage` object that has passed.
    object: Option<Vec<u8>>,
}

/// Position in the outermost object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Position {
    #[default]
    BeforeKey,
    /// The number of bytes that match `usage`; `None` in another key.
    InKey(Option<usize>),
    AfterKey {
        is_usage: bool,
    },
    Value {
        is_usage: bool,
    },
}

impl Json {
    fn pass(&mut self, bytes: &[u8], found: &mut Option<Tokens>) {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            if !self.in_string {
                self.structure(byte, found);
                rest = after;
            } else if std::mem::take(&mut self.is_escaped) {
                self.text(&rest[..1]);
                rest = after;
            } else {
                let end = memchr2(b'"', b'\\', rest);
                self.text(&rest[..end.unwrap_or(rest.len())]);
                let Some(end) = end else { return };
                self.keep(&rest[end..=end]);
                if rest[end] == b'"' {
                    self.end_string();
                } else {
                    self.is_escaped = true;
                    // Keys with escapes are not compared.
                    self.differ();
                }
                rest = &rest[end + 1..];
            }
        }
    }

    fn text(&mut self, bytes: &[u8]) {
        self.keep(bytes);
        if let Position::InKey(Some(seen)) = self.place {
            let matches = KEY[seen..].starts_with(bytes);
            self.place = Position::InKey(matches.then_some(seen + bytes.len()));
        }
    }

    fn differ(&mut self) {
        if matches!(self.place, Position::InKey(_)) {
            self.place = Position::InKey(None);
        }
    }

    fn end_string(&mut self) {
        self.in_string = false;
        if let Position::InKey(seen) = self.place {
            self.place = Position::AfterKey { is_usage: seen == Some(KEY.len()) };
        }
    }

    /// Handles a byte outside of strings.
    fn structure(&mut self, byte: u8, found: &mut Option<Tokens>) {
        self.keep(&[byte]);
        let is_top = self.depth == 1 && self.is_object;
        match byte {
            b'"' => {
                self.in_string = true;
                if is_top && self.place == Position::BeforeKey {
                    self.place = Position::InKey(Some(0));
                }
            }
            b'{' | b'[' => {
                if self.depth == 0 {
                    (self.is_object, self.place) = (byte == b'{', Position::BeforeKey);
                } else if is_top && byte == b'{' && self.place == (Position::Value { is_usage: true }) {
                    self.object = Some(vec![byte]);
                }
                self.depth += 1;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 1
                    && let Some(object) = self.object.take()
                {
                    *found = read(&object).or(*found);
                }
            }
            b',' if is_top => self.place = Position::BeforeKey,
            b':' if is_top => {
                if let Position::AfterKey { is_usage } = self.place {
                    self.place = Position::Value { is_usage };
                }
            }
            _ => {}
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(object) = &mut self.object {
            object.extend_from_slice(bytes);
            if object.len() > MAX_OBJECT {
                self.object = None;
            }
        }
    }
}

/// Reads a `usage` object. `None` if it has neither input nor output.
fn read(object: &[u8]) -> Option<Tokens> {
    let object: Value = serde_json::from_slice(object).ok()?;
    let count = |value: Option<&Value>| value?.as_u64().filter(|count| *count <= MAX_COUNT);
    let input = count(object.get("prompt_tokens"));
    let output = count(object.get("completion_tokens"));
    if input.is_none() && output.is_none() {
        return None;
    }
    let cached = count(object.pointer("/prompt_tokens_details/cached_tokens")).unwrap_or(0);
    let input = input.unwrap_or(0);
    Some(Tokens { input, cached: cached.min(input), output: output.unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn scan(form: Form, body: &[u8], cuts: &[usize]) -> Option<Tokens> {
        let mut scanner = Scanner::new(form);
        let mut from = 0;
        for cut in cuts.iter().map(|cut| cut % (body.len() + 1)).chain([body.len()]) {
            if cut >= from {
                scanner.pass(&body[from..cut]);
                from = cut;
            }
        }
        scanner.found()
    }

    /// Scans all bytes at once and one by one.
    fn scan_both(form: Form, body: &str) -> Option<Tokens> {
        let whole = scan(form, body.as_bytes(), &[]);
        let single = scan(form, body.as_bytes(), &(0..body.len()).collect::<Vec<_>>());
        assert_eq!(whole, single, "{body}");
        whole
    }

    const fn tokens(input: u64, cached: u64, output: u64) -> Tokens {
        Tokens { input, cached, output }
    }

    fn event(value: &Value) -> String {
        format!("data: {value}\n\n")
    }

    #[test]
    fn usage_is_found_anywhere_in_a_document() {
        let usage = json!({"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 8}});
        for document in [
            json!({"usage": usage, "choices": [{"message": {"content": "{\"usage\":{\"prompt_tokens\":9}}"}}]}),
            json!({"id": "usage", "choices": [{"usage": {"prompt_tokens": 9}}], "usage": usage}),
            json!({"a": {"usage": {"prompt_tokens": 9}}, "b": "\\\"", "usage": usage, "c": null}),
        ] {
            assert_eq!(scan_both(Form::Json, &document.to_string()), Some(tokens(12, 8, 3)));
            assert_eq!(scan_both(Form::Json, &format!("{document:#}")), Some(tokens(12, 8, 3)));
            assert_eq!(scan_both(Form::Events, &event(&document)), Some(tokens(12, 8, 3)));
        }
    }

    #[test]
    fn similar_text_is_not_a_report() {
        for document in [
            json!([{"usage": {"prompt_tokens": 9}}]),
            json!({"Usage": {"prompt_tokens": 9}, "usages": {"prompt_tokens": 9}, "usag": {"prompt_tokens": 9}}),
            json!({"usage": null}),
            json!({"usage": "prompt_tokens"}),
            json!({"usage": {}}),
            json!({"usage": {"prompt_tokens": "9", "completion_tokens": -1}}),
            json!({"usage": {"prompt_tokens": u64::MAX}}),
            json!({"usage": {"prompt_tokens": 9, "padding": "x".repeat(MAX_OBJECT)}}),
            json!({"text": "usage", "more": {"prompt_tokens": 9}}),
        ] {
            assert_eq!(scan_both(Form::Json, &document.to_string()), None, "{document}");
            assert_eq!(scan_both(Form::Events, &event(&document)), None, "{document}");
        }
        assert_eq!(scan_both(Form::Other, r#"{"usage":{"prompt_tokens":9}}"#), None);
    }

    #[test]
    fn the_last_report_is_used() {
        let stream = [
            json!({"choices": [{"delta": {"content": "one"}}], "usage": null}),
            json!({"choices": [{"delta": {"content": "two"}}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}),
            json!({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}),
            json!({"choices": [], "usage": {"total_tokens": 7}}),
        ];
        let stream: String = stream.iter().map(event).chain(["data: [DONE]\n\n".to_owned()]).collect();
        assert_eq!(scan_both(Form::Events, &stream), Some(tokens(5, 0, 2)));
        assert_eq!(scan_both(Form::Events, &stream.replace('\n', "\r\n")), Some(tokens(5, 0, 2)));
        assert_eq!(scan_both(Form::Events, &stream.replace('\n', "\r")), Some(tokens(5, 0, 2)));
        assert_eq!(scan_both(Form::Events, &stream.replace("data:", "event:")), None);
    }

    #[test]
    fn a_cut_line_does_not_hide_the_next_one() {
        let stream =
            "data: {\"choices\":[{\"delta\":{\"content\":\"bro\n\ndata:{\"usage\":{\"prompt_tokens\":1}}\n\n";
        assert_eq!(scan_both(Form::Events, stream), Some(tokens(1, 0, 0)));
    }

    #[test]
    fn cached_tokens_do_not_exceed_the_input() {
        let usage = json!({"usage": {"prompt_tokens": 4, "prompt_tokens_details": {"cached_tokens": 9}}});
        assert_eq!(scan_both(Form::Json, &usage.to_string()), Some(tokens(4, 4, 0)));
    }

    #[test]
    fn a_long_answer_needs_little_memory() {
        let mut scanner = Scanner::new(Form::Json);
        scanner.pass(b"{\"usage\":{\"x\":\"");
        for _ in 0..1_000 {
            scanner.pass(&[b'y'; 10_000]);
            assert!(scanner.json.object.as_ref().is_none_or(|object| object.capacity() <= 4 * MAX_OBJECT));
        }
        assert_eq!(scanner.json.object, None);
    }

    #[test]
    fn the_content_type_determines_the_form() {
        for (content_type, form) in [
            ("text/event-stream; charset=utf-8", Form::Events),
            ("Application/JSON", Form::Unknown),
            ("application/problem+json", Form::Unknown),
            ("text/plain", Form::Unknown),
            ("", Form::Unknown),
            ("text/html", Form::Other),
        ] {
            assert_eq!(Form::of_content_type(content_type), form, "{content_type}");
        }
    }

    #[test]
    fn the_first_byte_determines_an_unknown_form() {
        let usage = r#"{"usage":{"prompt_tokens":1}}"#;
        for (body, is_done) in [
            (format!("\u{feff} \n{usage}"), false),
            (format!("\u{feff}\ndata: {usage}\n\ndata: [DONE]"), true),
            (format!(": ping\n\ndata: {usage}\n\ndata: [DONE]\n\n"), true),
        ] {
            assert_eq!(scan_both(Form::Unknown, &body), Some(tokens(1, 0, 0)), "{body}");
            let mut scanner = Scanner::new(Form::Unknown);
            scanner.pass(body.as_bytes());
            assert_eq!(scanner.is_done(), is_done, "{body}");
        }
    }

    /// The result of a JSON parser.
    fn parsed(document: &Value) -> Option<Tokens> {
        document.as_object()?.get("usage").filter(|usage| usage.is_object())?;
        read(document["usage"].to_string().as_bytes())
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            Just("usage".to_owned()),
            Just("prompt_tokens".to_owned()),
            Just("completion_tokens".to_owned()),
            Just("\"usage\":{\"prompt_tokens\":3}".to_owned()),
            any::<String>(),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<u16>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((text.clone(), inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_scan_agrees_with_a_parser(documents in proptest::collection::vec(any_json(), 1..5), cuts in proptest::collection::vec(any::<usize>(), 0..8)) {
            let mut cuts = cuts;
            let stream: String = documents.iter().map(event).collect();
            let expected = documents.iter().filter_map(parsed).next_back();
            cuts.sort_by_key(|cut| cut % (stream.len() + 1));
            prop_assert_eq!(scan(Form::Events, stream.as_bytes(), &cuts), expected);
            let one = documents[0].to_string();
            cuts.sort_by_key(|cut| cut % (one.len() + 1));
            prop_assert_eq!(scan(Form::Json, one.as_bytes(), &cuts), parsed(&documents[0]));
        }

        #[test]
        fn any_piece_sizes_give_the_same_result(
            pieces in proptest::collection::vec(prop_oneof![
                Just("\"usage\":".to_owned()), Just("\"usage\":{\"prompt_tokens\":1}".to_owned()), Just("data:".to_owned()),
                Just("data: {".to_owned()), Just("\n".to_owned()), Just("\r\n".to_owned()), Just("null".to_owned()),
                Just("}".to_owned()), Just("{".to_owned()), Just("[".to_owned()), Just("\\".to_owned()), Just("\"".to_owned()),
                Just(",".to_owned()), any::<String>(),
            ], 0..30),
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let body = pieces.concat();
            let mut cuts = cuts;
            cuts.sort_by_key(|cut| cut % (body.len() + 1));
            for form in [Form::Json, Form::Events] {
                let single: Vec<_> = (0..body.len()).collect();
                let expected = scan(form, body.as_bytes(), &single);
                prop_assert_eq!(scan(form, body.as_bytes(), &cuts), expected);
                prop_assert_eq!(scan(form, body.as_bytes(), &[]), expected);
            }
        }
    }
}
