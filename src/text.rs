//! Text from elsewhere, made fit to be shown. Pure.

/// Longest label, in characters.
pub const MAX_LABEL: usize = 100;
/// Longest id or message from a file that is shown, in characters.
pub const MAX_SHOWN: usize = 1_000;

/// One harmless line of at most `limit` characters: line ends become a space, and what steers a terminal or turns the order
/// of a line around becomes U+FFFD.
#[must_use]
pub fn clean(text: &str, limit: usize) -> String {
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
            assert_eq!(clean(text, MAX_LABEL), cleaned);
        }
        assert_eq!(clean(&"é".repeat(90_000), MAX_LABEL), "é".repeat(MAX_LABEL));
    }

    proptest! {
        #[test]
        fn what_is_clean_stays_and_is_bounded(text in "\\PC{0,40}|.{0,40}", limit in 0_usize..50) {
            let cleaned = clean(&text, limit);
            prop_assert!(cleaned.chars().count() <= limit);
            prop_assert_eq!(clean(&cleaned, limit), cleaned.clone());
            prop_assert!(!cleaned.chars().any(is_unsafe));
        }
    }
}
