//! Decides from the bytes of an event if it has to be parsed. Once an answer has begun, most events need no parsing. Pure.

use std::sync::LazyLock;

use memchr::memchr_iter;
use memchr::memmem::Finder;
use qwen_base::ESCAPE_LENGTH;
use serde::de::IgnoredAny;

/// The end of the name `content`, and the quote that begins its value. A finder is created once, since that takes longer than
/// a search.
static TEXT_START: LazyLock<Finder> = LazyLock::new(|| Finder::new(b"content\":\""));
static ARGUMENTS_START: LazyLock<Finder> = LazyLock::new(|| Finder::new(b"arguments\":\""));
static NULL: LazyLock<Finder> = LazyLock::new(|| Finder::new(b"null"));
/// Longest frame in bytes.
const MAX_FRAME: usize = 4 * 1024;
/// The first bytes of a number.
const DIGITS: &[u8] = b"-0123456789";
/// The first bytes of an error block of the native `DashScope` API.
const ERROR_BLOCK_STARTS: [&[u8]; 3] = [b"id:", b"event:", b":HTTP_STATUS/"];

/// The bytes around the text, or the arguments of a tool call, of an event that needed no correction. Most events differ from
/// the previous one only in these, and comparing bytes is several times faster than searching for keys.
#[derive(Debug, Default)]
pub(super) struct Frame {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Frame {
    /// True if the event differs only in its text, so that it needs no parsing.
    pub(super) fn fits(&self, data: &[u8]) -> bool {
        let text = data
            .strip_prefix(self.before.as_slice())
            .and_then(|rest| rest.strip_suffix(self.after.as_slice()));
        !self.before.is_empty()
            && text.is_some_and(|text| end_of_string(text).is_none() && !may_be_error_block(text))
    }

    /// Remembers an event that needed no correction.
    pub(super) fn learn(&mut self, data: &[u8]) {
        let start_by = |finder: &Finder| Some(finder.find(data)? + finder.needle().len());
        let Some(start) = start_by(&ARGUMENTS_START).or_else(|| start_by(&TEXT_START)) else { return };
        let Some(length) = end_of_string(&data[start..]) else { return };
        if data.len() - length > MAX_FRAME {
            return;
        }
        self.before.clear();
        self.before.extend_from_slice(&data[..start]);
        self.after.clear();
        self.after.extend_from_slice(&data[start + length..]);
    }
}

/// Returns the position of the first byte that can't stand inside a JSON string: the quote that ends it, a control character,
/// or the start of a broken escape.
fn end_of_string(text: &[u8]) -> Option<usize> {
    if !has_special(text) {
        return None;
    }
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += match (byte, text.get(at + 1)) {
            (b'\\', Some(b'u')) if is_hex(text.get(at + 2..at + ESCAPE_LENGTH)) => ESCAPE_LENGTH,
            (b'\\', Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => 2,
            (b'"' | b'\\' | 0..b' ', _) => return Some(at),
            _ => 1,
        };
    }
    None
}

/// True if a text has a quote, a backslash or a control character. Looks at eight bytes at once, since it reads each event.
fn has_special(text: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 0xFF;
    const HIGH_BITS: u64 = ONES << 7;
    let each = |byte: u8| ONES * u64::from(byte);
    // Sets the high bit of the first byte below `limit`.
    let below = |word: u64, limit: u8| word.wrapping_sub(each(limit)) & !word & HIGH_BITS;
    let (words, rest) = text.as_chunks();
    let is_in_word = |bytes: &[u8; 8]| {
        let word = u64::from_ne_bytes(*bytes);
        below(word ^ each(b'"'), 1) | below(word ^ each(b'\\'), 1) | below(word, b' ') != 0
    };
    words.iter().any(is_in_word) || rest.iter().any(|byte| matches!(byte, b'"' | b'\\' | 0..b' '))
}

fn is_hex(digits: Option<&[u8]>) -> bool {
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// True if data is one JSON document. Takes a fraction of the time of a parser that keeps the values.
pub(super) fn is_json(data: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(data).is_ok()
}

/// True if an event may end the answer, contains tool calls or an error block, or has a form that the host does not
/// understand. `has_good_calls` is true if its tool calls were read and needed no correction.
pub(super) fn needs_parsing(data: &[u8], has_good_calls: bool) -> bool {
    // An event that was cut has to be reported.
    if !data.trim_ascii_end().ends_with(b"}") {
        return true;
    }
    let mut has_choices = false;
    for colon in memchr_iter(b':', data) {
        let Some(key) = data[..colon].trim_ascii_end().strip_suffix(b"\"") else { continue };
        let value = data[colon + 1..].trim_ascii_start();
        let Some(first) = value.first() else { continue };
        // Null is always allowed.
        let is_odd = |expected: &[u8]| !expected.contains(first) && *first != b'n';
        let is_wanted = match key.last() {
            Some(b'n') if key.ends_with(b"finish_reason") => *first != b'n',
            Some(b'n') => key.ends_with(b"\"function") && is_odd(b"{"),
            Some(b'r') => key.ends_with(b"error"),
            Some(b'e') if key.ends_with(b"\"message") => is_odd(b"\""),
            Some(b'e') if key.ends_with(b"\"role") => is_odd(b"") && !value.starts_with(b"\"assistant\""),
            Some(b'e') if key.ends_with(b"\"usage") => is_odd(b"{"),
            Some(b'g') if key.ends_with(b"\"reasoning") => is_odd(b"\"") || may_be_error_block(&value[1..]),
            Some(b'e' | b'g') => is_error_field(key) && *first != b'n',
            Some(b't') => key.ends_with(b"content") && (is_odd(b"\"") || may_be_error_block(&value[1..])),
            Some(b's') if key.ends_with(b"tool_calls") => is_odd(b"[") || (*first == b'[' && !has_good_calls),
            Some(b's') if key.ends_with(b"choices") => {
                has_choices = true;
                !has_object(value)
            }
            Some(b's') if key.ends_with(b"_tokens") => is_odd(DIGITS),
            Some(b's') if key.ends_with(b"_tokens_details") => is_odd(b"{"),
            Some(b's') => key.ends_with(b"\"arguments") && is_odd(b"\""),
            Some(b'd') if key.ends_with(b"\"created") => is_odd(DIGITS),
            Some(b'd') => key.ends_with(b"\"id") && is_odd(b"\""),
            Some(b'l') => key.ends_with(b"\"model") && is_odd(b"\""),
            Some(b'a') => key.ends_with(b"\"delta") && is_odd(b"{"),
            Some(b'x') => key.ends_with(b"\"index") && is_odd(DIGITS),
            _ => false,
        };
        if is_wanted {
            return true;
        }
    }
    !has_choices || !data.trim_ascii_start().starts_with(b"{") || has_null_item(data)
}

/// True for an array that begins with an object. An event without a choice may be an error.
fn has_object(array: &[u8]) -> bool {
    array.strip_prefix(b"[").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"{"))
}

/// True if an array may have null after another item. In an object, a name follows each comma.
fn has_null_item(data: &[u8]) -> bool {
    NULL.find_iter(data).any(|at| data[..at].trim_ascii_end().ends_with(b","))
}

/// True for the fields of an error that stands beside the choices.
fn is_error_field(key: &[u8]) -> bool {
    [&b"error_code"[..], b"error_type", b"error_message", b"error_msg"].iter().any(|name| key.ends_with(name))
}

/// True if a text may be an error block of the native `DashScope` API.
fn may_be_error_block(text: &[u8]) -> bool {
    ERROR_BLOCK_STARTS.iter().any(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(text: &str) -> String {
        format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}},"finish_reason":null}}]}}"#)
    }

    proptest! {
        #[test]
        fn eight_bytes_at_once_are_read_as_one_by_one(text in proptest::collection::vec(any::<u8>(), 0..20)) {
            let found = text.iter().any(|byte| matches!(byte, b'"' | b'\\' | 0..b' '));
            prop_assert_eq!(has_special(&text), found);
        }

        #[test]
        fn an_event_that_fits_the_frame_needs_no_parsing(
            first in "[a-z]{0,3}", text in r#"(\\|"|\[|\{|:|,|\t|a|u12ef|content|error|finish_reason|id:){0,9}"#,
        ) {
            let mut frame = Frame::default();
            prop_assert!(!frame.fits(event(&text).as_bytes()));
            frame.learn(event(&first).as_bytes());
            prop_assert!(frame.fits(event(r#"other \" text"#).as_bytes()));
            let other = event(&text);
            let is_plain = !needs_parsing(other.as_bytes(), false) && is_json(other.as_bytes());
            prop_assert!(!frame.fits(other.as_bytes()) || is_plain, "{}", other);
        }
    }
}
