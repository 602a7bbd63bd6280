//! Text from elsewhere, made fit to be shown. Pure.

/// Longest label, in characters.
pub const MAX_LABEL: usize = 100;
/// Longest id or message from a file that is shown, in characters.
pub const MAX_SHOWN: usize = 1_000;

/// One harmless line of at most `limit` characters: line ends become a space, and what steers a terminal or turns the order
/// of a line around becomes U+FFFD.
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

/// Longest message that a person is shown, in bytes.
pub const MAX_MESSAGE: usize = 2_000;
/// The end of a message that is too long, which says what to do next, in bytes.
const MESSAGE_END: usize = 500;

/// Shortens a message in its middle to at most [`MAX_MESSAGE`] bytes.
#[must_use]
pub fn shorten_message(message: String) -> String {
    const LEFT_OUT: &str = " … ";
    if message.len() <= MAX_MESSAGE {
        return message;
    }
    let mut start = MAX_MESSAGE - MESSAGE_END - LEFT_OUT.len();
    while !message.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = message.len() - MESSAGE_END;
    while !message.is_char_boundary(end) {
        end += 1;
    }
    format!("{}{LEFT_OUT}{}", &message[..start], &message[end..])
}

/// What a terminal obeys (C0, DEL, C1), and what turns the order of a line around or breaks it.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_becomes_one_harmless_line() {
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
        fn what_is_clean_stays_and_is_bounded(text in "\\PC{0,40}|.{0,40}", limit in 0_usize..50) {
            let cleaned = one_line(&text, limit);
            prop_assert!(cleaned.chars().count() <= limit);
            prop_assert_eq!(one_line(&cleaned, limit), cleaned.clone());
            prop_assert!(!cleaned.chars().any(is_unsafe));
        }
    }
}
