//! Replaces values in a store that Rust can't hold, so that they cost no account. Pure.

use qwen_base::escape_at;

/// Values within more arrays and objects become null, since the parser of stores refuses them.
const MAX_DEPTH: usize = 100;

/// Returns JSON in which `NaN`, `Infinity`, too large numbers and too deep values are null, and U+FFFD takes the place of
/// invalid UTF-8 and of each half of a surrogate pair.
#[must_use]
pub fn sanitized(contents: &[u8]) -> String {
    let text = String::from_utf8_lossy(contents);
    let (mut sanitized, mut copied, mut at) = (String::with_capacity(text.len()), 0, 0);
    let (mut is_string, mut depth) = (false, 0_usize);
    while let Some(byte) = text.as_bytes().get(at) {
        let was_too_deep = depth > MAX_DEPTH;
        let (length, instead) = match byte {
            b'"' => {
                is_string = !is_string;
                (1, None)
            }
            b'\\' => escape(text.as_bytes(), at),
            _ if is_string => (1, None),
            b'{' | b'[' => {
                depth += 1;
                (1, (depth > MAX_DEPTH).then_some("null"))
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                (1, None)
            }
            _ => word(&text.as_bytes()[at..]),
        };
        if let Some(instead) = instead.filter(|_| !was_too_deep) {
            sanitized.push_str(&text[copied..at]);
            sanitized.push_str(instead);
            copied = at + length;
        }
        at += length;
        if was_too_deep {
            copied = at.min(text.len());
        }
    }
    sanitized.push_str(&text[copied..]);
    sanitized
}

/// Returns the length of an escape, and its replacement.
fn escape(text: &[u8], at: usize) -> (usize, Option<&'static str>) {
    let (length, unit) = escape_at(text, at);
    (length, unit.filter(|unit| (0xd800..=0xdfff).contains(unit)).map(|_| "\\ufffd"))
}

/// Returns the length of a number or a word, and its replacement.
fn word(text: &[u8]) -> (usize, Option<&'static str>) {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let word = &text[..text.iter().position(|byte| !is_part(byte)).unwrap_or(text.len())];
    let number = str::from_utf8(word).ok().and_then(|word| word.parse::<f64>().ok());
    (word.len().max(1), number.filter(|number| !number.is_finite()).map(|_| "null"))
}
