//! Finds the `usage` object in the bytes of an answer.
//!
//! Bytes pass through unchanged, and their pieces may have any size.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::memrchr;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::sse::{DONE, LineReader, MAX_LINE, data_of, is_done, start_of};

const QUOTED_KEY: &[u8] = b"\"usage\"";
/// Built once, because that takes longer than a search in one event.
static REPORT: LazyLock<Finder> = LazyLock::new(|| Finder::new(QUOTED_KEY));
static LAST: LazyLock<Finder> = LazyLock::new(|| Finder::new(DONE));
/// Largest JSON body whose usage is read, in bytes.
const MAX_DOCUMENT: usize = MAX_LINE;
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
    /// JSON or events, as the first byte says: some servers send them without a type, or with a wrong one.
    Unknown,
    /// Any other body, which is not searched.
    Other,
}

impl Form {
    #[must_use]
    pub fn of_content_type(content_type: &str) -> Self {
        let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "" | "text/event-stream" | "text/plain" | "application/json" => Self::Unknown,
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
    /// A JSON body as far as it has passed. It is parsed at its end.
    document: Vec<u8>,
    found: Option<Tokens>,
    is_done: bool,
}

impl Scanner {
    #[must_use]
    pub fn new(form: Form) -> Self {
        Self { form, lines: LineReader::default(), document: Vec::new(), found: None, is_done: false }
    }

    /// True if the last event (`[DONE]`) has passed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    pub fn pass(&mut self, mut bytes: &[u8]) {
        if self.form == Form::Unknown {
            let Some(start) = start_of(bytes) else { return };
            bytes = &bytes[start..];
            self.form = match bytes[0] {
                b'{' => Form::Json,
                b'[' => Form::Other,
                _ => Form::Events,
            };
        }
        match self.form {
            Form::Json if self.document.len() + bytes.len() <= MAX_DOCUMENT => {
                self.document.extend_from_slice(bytes);
            }
            Form::Json => (self.form, self.document) = (Form::Other, Vec::new()),
            Form::Events => self.pass_events(bytes),
            Form::Unknown | Form::Other => {}
        }
    }

    /// Ends the body, and returns the last reported usage, which includes earlier reports.
    pub fn end(&mut self) -> Option<Tokens> {
        let Self { lines, document, found, .. } = self;
        lines.end(|line| report(line.text, found));
        usage_of(document).or(*found)
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
        *found = usage_of(data).or(*found);
    }
}

/// Returns the length of the whole lines at the start that report nothing and are not the last event.
fn uninteresting(bytes: &[u8]) -> usize {
    let Some(end) = memrchr(b'\n', bytes) else { return 0 };
    let whole = &bytes[..=end];
    let reports = |at: &usize| {
        let mut after = whole[at + QUOTED_KEY.len()..].iter().filter(|byte| !byte.is_ascii_whitespace());
        !(after.next() == Some(&b':') && after.next() == Some(&b'n'))
    };
    let at = REPORT.find_iter(whole).find(reports);
    let at = LAST.find(&whole[..at.unwrap_or(whole.len())]).or(at);
    at.map_or(whole.len(), |at| memrchr(b'\n', &whole[..at]).map_or(0, |newline| newline + 1))
}

/// Returns the usage in a JSON object. `None` if it has neither input nor output.
fn usage_of(document: &[u8]) -> Option<Tokens> {
    #[derive(Deserialize)]
    struct Report<'a> {
        #[serde(borrow)]
        usage: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Usage<'a> {
        #[serde(borrow)]
        prompt_tokens: Option<&'a RawValue>,
        completion_tokens: Option<&'a RawValue>,
        prompt_tokens_details: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Details<'a> {
        #[serde(borrow)]
        cached_tokens: &'a RawValue,
    }
    let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
    let usage: Usage = object(object::<Report>(document)?.usage.get().as_bytes())?;
    let count = |value: &RawValue| value.get().parse().ok().filter(|count| *count <= MAX_COUNT);
    let (input, output) = (usage.prompt_tokens.and_then(count), usage.completion_tokens.and_then(count));
    if input.is_none() && output.is_none() {
        return None;
    }
    let details = usage.prompt_tokens_details.and_then(|details| object::<Details>(details.get().as_bytes()));
    let cached = details.and_then(|details| count(details.cached_tokens)).unwrap_or(0);
    let input = input.unwrap_or(0);
    Some(Tokens { input, cached: cached.min(input), output: output.unwrap_or(0) })
}

/// Reads an object. serde would also read a struct from an array.
fn object<'a, T: Deserialize<'a>>(document: &'a [u8]) -> Option<T> {
    let is_object = document.trim_ascii_start().first() == Some(&b'{');
    is_object.then(|| serde_json::from_slice(document).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

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
        scanner.end()
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
            json!([{"prompt_tokens": 9}]),
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
    fn the_last_event_is_seen_whatever_follows_it() {
        for (text, is_done) in [
            ("data: {}\n\ndata: [DONE]\n\n: ping\n\n", true),
            ("data: [DONE]\n\ndata: {\"usage\":{\"prompt_tokens\":1}}\n\n", true),
            ("data: {\"usage\":null}\n\ndata:[DONE]\nid: 7\n\n", true),
            ("data: {\"content\":\"[DONE]\"}\n\n: [DONE]\n\n", false),
        ] {
            for size in 1..=text.len() {
                let mut scanner = Scanner::new(Form::Events);
                text.as_bytes().chunks(size).for_each(|piece| scanner.pass(piece));
                assert_eq!(scanner.is_done(), is_done, "{text} in pieces of {size}");
            }
        }
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
    fn a_document_above_the_limit_is_neither_kept_nor_read() {
        let document = r#"{"usage":{"prompt_tokens":1}}"#;
        let padded = |size: usize| format!("{document}{}", " ".repeat(size - document.len()));
        assert_eq!(scan(Form::Json, padded(MAX_DOCUMENT).as_bytes(), &[1]), Some(tokens(1, 0, 0)));
        let mut scanner = Scanner::new(Form::Json);
        for piece in [padded(MAX_DOCUMENT + 1).as_bytes(), document.as_bytes()] {
            scanner.pass(&piece[..1]);
            scanner.pass(&piece[1..]);
            assert_eq!(scanner.document.capacity(), 0);
        }
        assert_eq!(scanner.end(), None);
    }

    #[test]
    fn the_content_type_determines_the_form() {
        for (content_type, form) in [
            ("text/event-stream; charset=utf-8", Form::Unknown),
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
        let usage = document.as_object()?.get("usage")?;
        let count = |path: &str| usage.pointer(path)?.as_u64().filter(|count| *count <= MAX_COUNT);
        let (input, output) = (count("/prompt_tokens"), count("/completion_tokens"));
        let cached = count("/prompt_tokens_details/cached_tokens").unwrap_or(0);
        let found = tokens(input.unwrap_or(0), cached.min(input.unwrap_or(0)), output.unwrap_or(0));
        (input.is_some() || output.is_some()).then_some(found)
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
