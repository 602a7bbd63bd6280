//! Recognizes secrets by the name before them or by their form.

use std::ops::Range;

use crate::foreign_keys::{OPENAI_MARK, PREFIXES};

/// Minimum number of characters after a known prefix.
const MIN_KEY: usize = 8;

/// Minimum number of characters after a prefix of another maker. Shorter words with such a prefix are names.
const MIN_FOREIGN_KEY: usize = 16;

/// Number of bytes that are searched for a command that sets a variable, from the end of its name.
const MAX_BEFORE: usize = 100;

/// Prefix of the ids of Alibaba Cloud's access keys.
const ACCESS_KEY_ID: &str = "LTAI";

/// Lower-case ends of names that are followed by a secret anywhere in a text.
const NAMES_IN_TEXT: [&str; 26] = [
    "_token",
    "-token",
    "accesstoken",
    "refreshtoken",
    "idtoken",
    "authtoken",
    "device_code",
    "devicecode",
    "code_verifier",
    "codeverifier",
    "secret",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
    "accesskey",
    "accountkey",
    "secret_key",
    "secretkey",
    "private_key",
    "privatekey",
    "password",
    "passwd",
    "passphrase",
    "signature",
    "credential",
];
/// The lower-case end of a name that is only followed by a secret if something sets a variable of this name.
const NAME_OF_ARGUMENT: &str = "_key";
/// Lower-case parameter names that are too common outside of a URL.
const NAMES_IN_QUERY: [&str; 4] = ["?key", "&key", "?token", "&token"];
/// Lower-case names of headers whose whole line is secret.
const NAMES_OF_LINES: [&str; 2] = ["authorization", "cookie"];

/// Types of declarations such as `accessToken: string`.
const TYPES: [&str; 4] = ["string", "String", "str", "undefined"];

/// True if a JSON field or parameter of this name contains a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    matches!(name.as_str(), "key" | "accountkey" | "cookie" | "setcookie" | "sig" | "pass")
        || [
            "token",
            "apikey",
            "accesskey",
            "secretkey",
            "privatekey",
            "secret",
            "password",
            "passwd",
            "passphrase",
            "devicecode",
            "codeverifier",
            "authorization",
            "signature",
        ]
        .iter()
        .any(|end| name.ends_with(end))
}

/// True if a header of this lower-case name contains a secret.
pub(super) fn is_secret_header(name: &str) -> bool {
    ["authorization", "cookie", "api-key", "apikey", "secret", "password", "credential", "signature"]
        .iter()
        .any(|part| name.contains(part))
        || is_secret_name(name)
}

/// Finds possible secrets in a text, leaving out ranges that are redacted already. Runs in linear time, because no part
/// of a match is searched again.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    // It has the same byte positions as `text`.
    let lower = text.to_ascii_lowercase();
    let mut found = Vec::new();
    find_bearer_tokens(text, &lower, &mut found);
    find_keys(text, &lower, &mut found);
    find_foreign_keys(text, &mut found);
    find_web_tokens(text, &mut found);
    find_users_in_urls(text, &mut found);
    find_named(text, &lower, &mut found);
    found.retain(|range| !text[range.clone()].bytes().all(|byte| byte == b'*'));
    found
}

fn find_bearer_tokens(text: &str, lower: &str, found: &mut Vec<Range<usize>>) {
    for (at, word) in lower.match_indices("bearer") {
        let start = skip(text, at + word.len(), is_blank);
        if start > at + word.len() {
            found.push(start..skip(text, start, is_token));
        }
    }
}

fn find_keys(text: &str, lower: &str, found: &mut Vec<Range<usize>>) {
    let mut end = 0;
    for (at, prefix) in lower.match_indices("sk-") {
        if at >= end {
            end = skip(text, at + prefix.len(), is_word);
        }
        if end - at - prefix.len() >= MIN_KEY && begins_word(text, at) {
            found.push(at..end);
        }
    }
}

fn find_foreign_keys(text: &str, found: &mut Vec<Range<usize>>) {
    for prefix in PREFIXES.iter().map(|(prefix, _)| *prefix).chain([ACCESS_KEY_ID]) {
        let mut end = 0;
        for (at, _) in text.match_indices(prefix) {
            if at < end || !begins_word(text, at) {
                continue;
            }
            end = skip(text, at + prefix.len(), is_word);
            let rest = &text.as_bytes()[at + prefix.len()..end];
            if rest.len() >= MIN_FOREIGN_KEY && is_random(rest) {
                found.push(at..end);
            }
        }
    }
    let mut end = 0;
    for (at, _) in text.match_indices(OPENAI_MARK) {
        if at >= end {
            let before = &text.as_bytes()[end..at];
            let start = before.iter().rposition(|byte| !is_word(*byte)).map_or(end, |last| end + last + 1);
            end = skip(text, at, is_word);
            found.push(start..end);
        }
    }
}

/// Finds JSON Web Tokens: a JSON object in base64 and two more parts.
fn find_web_tokens(text: &str, found: &mut Vec<Range<usize>>) {
    let (mut first_end, mut end, mut parts) = (0, 0, 0);
    for (at, _) in text.match_indices("eyJ") {
        if at >= first_end {
            first_end = skip(text, at, is_word);
            (end, parts) = (first_end, 1);
        }
        while parts < 3 && text[end..].starts_with('.') {
            end = skip(text, end + 1, is_word);
            parts += 1;
        }
        if parts == 3 && begins_word(text, at) {
            found.push(at..end);
        }
    }
}

fn find_users_in_urls(text: &str, found: &mut Vec<Range<usize>>) {
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        let end =
            skip(text, start, |byte| !is_blank(byte) && !br#"/?#"'`<>\"#.contains(&byte) && byte >= b' ');
        if let Some(user) = text[start..end].rfind('@') {
            found.push(start..start + user);
        }
    }
}

/// Finds the values of names such as `access_token`.
fn find_named(text: &str, lower: &str, found: &mut Vec<Range<usize>>) {
    let in_text =
        NAMES_IN_TEXT.iter().chain(&NAMES_IN_QUERY).chain([&NAME_OF_ARGUMENT]).map(|name| (name, false));
    for (name, line) in in_text.chain(NAMES_OF_LINES.iter().map(|name| (name, true))) {
        let mut covered = 0;
        for (at, _) in lower.match_indices(name) {
            let is_ordinary = || *name == NAME_OF_ARGUMENT && !is_argument(text, at + name.len());
            if at < covered || is_ordinary() {
                continue;
            }
            if let Some(range) = value_after(text, at + name.len(), line) {
                covered = range.end;
                found.push(range);
            }
        }
    }
}

/// Finds the value after a name: `name=value`, `name: value`, `"name": "value"`, `\"name\":\"value\"`, `--name value`.
/// With `line`, an unquoted value after a colon extends to the end of the line.
fn value_after(text: &str, name_end: usize, line: bool) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let closing = skip(text, name_end, |byte| byte == b'\\');
    let after_quote =
        if bytes.get(closing).is_some_and(|byte| is_quote(*byte)) { closing + 1 } else { name_end };
    // `environ["NAME"] = "value"`.
    let is_index = after_quote > name_end && bytes.get(after_quote) == Some(&b']');
    let separator = skip(text, after_quote + usize::from(is_index), is_blank);
    let before = &bytes[name_end.saturating_sub(MAX_BEFORE)..name_end];
    let is_option =
        || before.rsplit(|byte| !is_word(*byte)).next().is_some_and(|word| word.starts_with(b"--"));
    let mut is_plausible: fn(&str) -> bool = |_| true;
    let length = match bytes.get(separator..)? {
        [b'=', b'=', ..] => return None,
        [b'|', b'|', b'=', ..] | [b'?', b'?', b'=', ..] => 3,
        [b':' | b'?' | b'+', b'=', ..] | [b'=', b'>', ..] | [b'<', b'-', ..] => 2,
        [b':', ..] => 1 + declared_type(text, separator + 1),
        [b'=', ..] => 1,
        [b',', ..] if is_argument(text, name_end) => 1,
        [b',', ..] if after_quote > name_end => value_field(text, separator)?,
        [_, ..] if separator == name_end => return None,
        _ if is_option() => {
            is_plausible = is_option_value;
            0
        }
        _ if is_argument(text, name_end) => {
            is_plausible = |value| !is_count(value);
            0
        }
        _ => return None,
    };
    let range = value_at(text, separator, length, line)?;
    let value = &text[range.clone()];
    (is_plausible(value) && !TYPES.contains(&value)).then_some(range)
}

/// Returns the value after a separator of this length.
fn value_at(text: &str, separator: usize, length: usize, line: bool) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let line = line && bytes[separator] == b':';
    let value = skip(text, separator + length, is_blank);
    // `$'value'` of shells, `f"value"` of Python.
    let is_marked = bytes.get(value).is_some_and(|byte| *byte == b'$' || byte.is_ascii_alphabetic());
    let is_marked = is_marked && bytes.get(value + 1).is_some_and(|byte| is_quote(*byte));
    let value = value + usize::from(is_marked);
    let opening = skip(text, value, |byte| byte == b'\\');
    if let Some(&quote) = bytes.get(opening).filter(|byte| is_quote(**byte)) {
        let escapes = opening - value;
        let start = opening + 1;
        if let Some(end) = closing_quote(bytes, start, quote, escapes) {
            return (end > start).then_some(start..end);
        }
        return unquoted(text, start, line);
    }
    unquoted(text, value, line)
}

/// Returns the length of a type and its equals sign in `name: type = "value"`; 0 if there is none.
fn declared_type(text: &str, start: usize) -> usize {
    let name = skip(text, start, is_blank);
    let name_end = skip(text, name, |byte| is_word(byte) || b"&.?".contains(&byte));
    let equals = skip(text, name_end, is_blank);
    let value = text.as_bytes().get(equals..).and_then(|rest| rest.strip_prefix(b"="));
    // A longer word may be the secret.
    let value = value.filter(|_| (1..=16).contains(&(name_end - name))).map(<[u8]>::trim_ascii_start);
    if value.is_some_and(|value| value.first().is_some_and(|byte| is_quote(*byte))) {
        equals + 1 - start
    } else {
        0
    }
}

/// True if the name that ends here is the first argument of something that sets a variable: `setenv NAME value`, `set -x
/// NAME value`, `ENV NAME value`, `#define NAME value`, `Setenv("NAME", "value")`. It may stand in a JSON string, in a
/// diff, or after the name and line of a file.
fn is_argument(text: &str, name_end: usize) -> bool {
    let before = without_escapes(&text.as_bytes()[name_end.saturating_sub(MAX_BEFORE)..name_end]);
    let command_end = before.iter().rposition(|byte| !is_word(*byte)).map_or(0, |last| last + 1);
    let ends_command = |byte: &u8| !byte.is_ascii_whitespace() && !is_quote(*byte);
    let command_end = before[..command_end].iter().rposition(ends_command).map_or(0, |last| last + 1);
    let command = &before[..command_end];
    let (command, is_call) = command.strip_suffix(b"(").map_or((command, false), |name| (name, true));
    let mut words = command.rsplit(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).peekable();
    let mut exports = false;
    // A diff has a dash before other words, too.
    let is_flag = |word: &[u8]| {
        let is_short = word.len() <= 4 && !word.ends_with(b"ENV") && !word.ends_with(b"set");
        word.starts_with(b"-") && (is_short || word == b"--export")
    };
    while let Some(flag) = words.next_if(|word| is_flag(word)) {
        exports |= flag.contains(&b'x');
    }
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_#".contains(byte);
    let mut next =
        || words.next().and_then(|word| word.rsplit(|byte| !is_part(byte)).next()).unwrap_or_default();
    let (last, first) = (next(), next());
    let is = |names: &[&str]| names.iter().any(|name| last.eq_ignore_ascii_case(name.as_bytes()));
    if exports {
        return last == b"set";
    }
    last == b"ENV"
        || last == b"#define"
        || (last == b"define" && (is_call || first.ends_with(b"#")))
        || is(&["setx"])
        || (is_call && is(&["putenv", "set_var", "setdefault", "SetEnvironmentVariable"]))
        || last.to_ascii_lowercase().ends_with(b"setenv")
}

/// Replaces the escapes of line ends, tabs and quotes in JSON strings, even nested ones, by what they stand for.
fn without_escapes(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut is_escaped = false;
    for &byte in text {
        match byte {
            b'\\' => {}
            b'n' | b'r' | b't' if is_escaped => plain.push(b' '),
            _ => plain.push(byte),
        }
        is_escaped = byte == b'\\';
    }
    plain
}

/// True for the value of an option of a command line in `--api-key value`, but not for the next word of a sentence or a
/// number of tokens.
fn is_option_value(value: &str) -> bool {
    !value.starts_with('-') && !value.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// True for a short number, as in `#define MAX_KEY 255`.
fn is_count(value: &str) -> bool {
    value.len() < 6 && value.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the length up to the value in `"NAME", "value": "…"`.
fn value_field(text: &str, comma: usize) -> Option<usize> {
    let is_mark = |byte| byte <= b' ' || is_quote(byte) || byte == b'\\';
    let name = skip(text, comma + 1, is_mark);
    let rest = text.get(name..)?.strip_prefix("value")?;
    let colon = skip(text, text.len() - rest.len(), is_mark);
    text.as_bytes().get(colon).filter(|byte| **byte == b':').map(|_| colon + 1 - comma)
}

fn unquoted(text: &str, start: usize, line: bool) -> Option<Range<usize>> {
    let end = if line {
        skip(text, start, |byte| !br#""'`\"#.contains(&byte) && byte != b'\n' && byte != b'\r')
    } else {
        skip(text, start, |byte| byte > b' ' && !br#"&,;"'`<>(){}[]|\"#.contains(&byte))
    };
    (end > start).then_some(start..end)
}

/// Returns the end of a quoted value: the next quote that is escaped as often as the opening one.
fn closing_quote(bytes: &[u8], start: usize, quote: u8, escapes: usize) -> Option<usize> {
    let mut backslashes = 0;
    for (index, &byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'\\' => backslashes += 1,
            _ if byte == quote && backslashes == escapes => return Some(index - escapes),
            b'\n' | b'\r' => return None,
            _ => backslashes = 0,
        }
    }
    None
}

/// Returns the end of a run of matching bytes, always at a character boundary.
fn skip(text: &str, start: usize, is_part: impl Fn(u8) -> bool) -> usize {
    let rest = &text.as_bytes()[start..];
    start + rest.iter().position(|byte| !is_part(*byte)).unwrap_or(rest.len())
}

/// True for a text with digits, or with letters of both cases, as random text has them.
fn is_random(text: &[u8]) -> bool {
    let has = |is_kind: fn(&u8) -> bool| text.iter().any(is_kind);
    has(u8::is_ascii_digit) || (has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase))
}

fn begins_word(text: &str, at: usize) -> bool {
    at == 0 || !text.as_bytes()[at - 1].is_ascii_alphanumeric()
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'`')
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn is_token(byte: u8) -> bool {
    is_word(byte) || b".~+/=".contains(&byte)
}
