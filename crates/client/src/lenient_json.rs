//! JSON documents of servers. Some have half of a surrogate pair in a string, which Rust strings can't hold: a server that cuts
//! its text anywhere sends the other half with the next event. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use qwen_base::{ESCAPE_LENGTH, escape_at};
use serde_json::Value;
use serde_json::value::RawValue;

/// Depth of JSON values that are kept. The arguments of a tool call are at this depth.
const PARSED_DEPTH: usize = 8;
/// Replaces the `\u` of half a surrogate pair while the document is a Rust string. Ordinary text does not contain this
/// noncharacter. If a server sends it, it is escaped in the same way.
const MARK: char = '\u{fdd0}';
/// Length of `XXXX` in bytes.
const DIGITS: usize = 4;

/// Parses a JSON document. Invalid UTF-8 is replaced, and values that are too deep for the parser become null. Only
/// [`written`] and [`readable`] understand the halves of surrogate pairs in its strings.
#[must_use]
pub fn parsed(data: &[u8]) -> Option<Value> {
    let text = String::from_utf8_lossy(data);
    let text = marked(&text);
    serde_json::from_str(&text).ok().or_else(|| shallow(&text, PARSED_DEPTH))
}

/// Writes a document of [`parsed`], with each half of a surrogate pair as it came.
#[must_use]
pub fn written(document: &Value) -> String {
    let text = document.to_string();
    if text.contains(MARK) { text.replace(MARK, "\\u") } else { text }
}

/// Returns a text of a document of [`parsed`] for users: U+FFFD takes the place of each half of a surrogate pair.
#[must_use]
pub fn readable(text: &str) -> Cow<'_, str> {
    if !text.contains(MARK) {
        return Cow::Borrowed(text);
    }
    let mut pieces = text.split(MARK);
    let mut readable = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        readable.push(char::REPLACEMENT_CHARACTER);
        readable.push_str(piece.get(DIGITS..).unwrap_or_default());
    }
    Cow::Owned(readable)
}

/// Returns the text of a JSON string for users.
#[must_use]
pub fn string_of(raw: &str) -> Option<String> {
    let text: String = serde_json::from_str(&marked(raw)).ok()?;
    Some(readable(&text).into_owned())
}

fn shallow(text: &str, depth: usize) -> Option<Value> {
    if depth == 0 {
        return None;
    }
    let value = |raw: &RawValue| {
        serde_json::from_str(raw.get()).ok().or_else(|| shallow(raw.get(), depth - 1)).unwrap_or_default()
    };
    if let Ok(fields) = serde_json::from_str::<BTreeMap<String, &RawValue>>(text) {
        return Some(fields.into_iter().map(|(name, raw)| (name, value(raw))).collect());
    }
    let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    Some(items.into_iter().map(value).collect())
}

/// Marks the escapes that are half of a surrogate pair, so that the parser takes them for text.
fn marked(text: &str) -> Cow<'_, str> {
    let text = if text.contains(MARK) {
        Cow::Owned(text.replace(MARK, "\\ufdd0"))
    } else if text.contains("\\u") {
        Cow::Borrowed(text)
    } else {
        return Cow::Borrowed(text);
    };
    let (mut marked, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = memchr::memchr(b'\\', &text.as_bytes()[at..]) {
        at += found;
        let (length, unit) = escape_at(text.as_bytes(), at);
        if matches!(unit, Some(0xd800..=0xdfff | 0xfdd0)) {
            marked.push_str(&text[copied..at]);
            marked.push(MARK);
            copied = at + ESCAPE_LENGTH - DIGITS;
        }
        at = (at + length).min(text.len());
    }
    if copied == 0 {
        return text;
    }
    marked.push_str(&text[copied..]);
    Cow::Owned(marked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn halves_of_surrogate_pairs_are_kept() {
        for (text, shown_text) in [
            (r"a\ud83d", "a\u{fffd}"),
            (r"\ude00b", "\u{fffd}b"),
            (r"\uD83D\uD83D\uDE00", "\u{fffd}\u{1f600}"),
            (r"\ud83d\n\ude00", "\u{fffd}\n\u{fffd}"),
            (r"\\ud83d \ufdd0", "\\ud83d \u{fffd}"),
        ] {
            let raw = format!(r#"{{"{text}":["{text}"]}}"#);
            let document = parsed(raw.as_bytes()).unwrap();
            let written = written(&document);
            assert_eq!(written.to_lowercase(), raw.to_lowercase().replace(r"\ud83d\ude00", "\u{1f600}"));
            assert_eq!(string_of(&format!("\"{text}\"")).as_deref(), Some(shown_text));
        }
        assert_eq!(written(&parsed("\"\u{fdd0}d83d\"".as_bytes()).unwrap()), r#""\ufdd0d83d""#);
    }

    #[test]
    fn broken_escapes_are_no_document() {
        for text in [r#""\u"#, r#""\ud8"#, r#""\ud83d\"#, r#""\ud83dé"#, r#""\u+123""#, r#""\"#] {
            assert_eq!(parsed(text.as_bytes()), None, "{text}");
        }
        let deep = format!("[{}1{}]", "[".repeat(1_000), "]".repeat(1_000));
        assert!(parsed(deep.as_bytes()).is_some_and(|document| document.is_array()));
    }

    proptest! {
        #[test]
        fn a_document_is_written_as_it_was_read(
            text in r#"(\\\\|\\"|\\n|\\ud83d|\\uDE00|\\u00e9|\\ufdd0|[a-d0-9u\u{fdd0}é])*"#,
        ) {
            let once = written(&parsed(format!("\"{text}\"").as_bytes()).unwrap());
            let again = written(&parsed(once.as_bytes()).unwrap());
            prop_assert_eq!(&once, &again);
            if let Ok(whole) = serde_json::from_str::<Value>(&format!("\"{text}\"")) {
                prop_assert_eq!(serde_json::from_str::<Value>(&once).unwrap(), whole);
            }
        }

        #[test]
        fn other_documents_are_read_as_usual(names in proptest::collection::vec("[a-zé\"\\\\\n]{0,9}", 0..4)) {
            let document = json!({"names": names});
            prop_assert_eq!(parsed(document.to_string().as_bytes()), Some(document));
        }
    }
}
