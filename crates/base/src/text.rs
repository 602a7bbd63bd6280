//! Makes text from outside safe to show. Pure.

/// Longest label of an account, in characters.
pub const MAX_LABEL: usize = 100;
/// Longest id or message that is shown from a file, in characters.
pub const MAX_SHOWN: usize = 1_000;

/// Returns one safe line of at most `limit` characters. Line ends become a space. Terminal control characters and
/// bidirectional controls become U+FFFD.
#[must_use]
pub fn one_line(text: &str, limit: usize) -> String {
    let mut cleaned = String::new();
    let mut was_line_end = false;
    for character in text.chars().take(limit.saturating_mul(2)) {
        let is_line_end = matches!(character, '\r' | '\n');
        if is_line_end && was_line_end {
            continue;
        }
        was_line_end = is_line_end;
        cleaned.push(match character {
            '\r' | '\n' => ' ',
            _ if is_unsafe(character) => '\u{fffd}',
            _ => character,
        });
    }
    match cleaned.char_indices().nth(limit) {
        Some((end, _)) => cleaned[..end].to_owned(),
        None => cleaned,
    }
}

/// True if a text shows nothing: it is empty, or has only white space and characters of no width.
#[must_use]
pub fn shows_nothing(text: &str) -> bool {
    text.chars().all(|character| {
        character.is_whitespace()
            || matches!(character, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
                | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
    })
}

/// Truncates a text to at most `limit` bytes, at a character boundary.
#[must_use]
pub fn truncate(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Longest message for the user, in bytes.
pub const MAX_MESSAGE: usize = 2_000;
/// Bytes kept at the end of a long message, where it says what to do next.
const MESSAGE_END: usize = 500;

/// Leaves out the middle of a message of more than [`MAX_MESSAGE`] bytes.
#[must_use]
pub fn shorten_message(message: String) -> String {
    const LEFT_OUT: &str = " … ";
    if message.len() <= MAX_MESSAGE {
        return message;
    }
    let start = truncate(&message, MAX_MESSAGE - MESSAGE_END - LEFT_OUT.len());
    let mut end = message.len() - MESSAGE_END;
    while !message.is_char_boundary(end) {
        end += 1;
    }
    format!("{start}{LEFT_OUT}{}", &message[end..])
}

/// True for control characters (C0, DEL, C1) and for characters that reorder or break a line.
#[must_use]
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Length of `\uXXXX` in bytes.
pub const ESCAPE_LENGTH: usize = 6;

/// Returns the code unit of the JSON escape `\uXXXX` at this position.
#[must_use]
pub fn escaped_unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..)?.strip_prefix(b"\\u")?.first_chunk::<4>()?;
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    u16::from_str_radix(str::from_utf8(digits).ok().filter(|_| is_hex)?, 16).ok()
}

/// Returns the length in bytes of the JSON escape at this position, and its code unit unless it is part of a surrogate pair.
#[must_use]
pub fn escape_at(text: &[u8], at: usize) -> (usize, Option<u16>) {
    match (escaped_unit(text, at), escaped_unit(text, at + ESCAPE_LENGTH)) {
        (None, _) => (2, None),
        (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (2 * ESCAPE_LENGTH, None),
        (unit, _) => (ESCAPE_LENGTH, unit),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_becomes_one_safe_line() {
        for (text, cleaned) in [
            ("work", "work"),
            ("\u{1b}[2Jwork", "\u{fffd}[2Jwork"),
            ("one\r\n\r\ntwo", "one two"),
            ("a\u{202e}b\u{9b}c\u{7f}", "a\u{fffd}b\u{fffd}c\u{fffd}"),
            ("工作 🦊", "工作 🦊"),
        ] {
            assert_eq!(one_line(text, MAX_LABEL), cleaned);
        }
        assert_eq!(one_line(&"é".repeat(90_000), MAX_LABEL), "é".repeat(MAX_LABEL));
    }

    #[test]
    fn a_long_message_keeps_its_beginning_and_its_end() {
        assert_eq!(shorten_message("short".to_owned()), "short");
        let message = shorten_message(format!("Could not open {}. Try again.", "é".repeat(45_000)));
        assert!(message.len() <= MAX_MESSAGE, "{}", message.len());
        assert!(message.starts_with("Could not open é") && message.ends_with("é. Try again."), "{message}");
    }

    proptest! {
        #[test]
        fn one_line_is_bounded_and_stable(text in "\\PC{0,40}|.{0,40}", limit in 0_usize..50) {
            let cleaned = one_line(&text, limit);
            prop_assert!(cleaned.chars().count() <= limit);
            prop_assert_eq!(one_line(&cleaned, limit), cleaned.clone());
            prop_assert!(!cleaned.chars().any(is_unsafe));
        }
    }
}
