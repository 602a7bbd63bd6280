//! Removes the texts that an error message quotes. Pure.

/// Pairs of marks around a quotation.
const MARKS: [(char, char); 7] = [
    ('\'', '\''),
    ('"', '"'),
    ('`', '`'),
    ('\u{201c}', '\u{201d}'),
    ('\u{2018}', '\u{2019}'),
    ('\u{300c}', '\u{300d}'),
    ('\u{ab}', '\u{bb}'),
];
/// Fields that hold a server's own words. A gateway may quote the error of another server.
const OWN_WORDS: [&str; 4] = ["message", "msg", "error", "detail"];

/// Returns a message with `…` in place of each quotation of several words, since a server may repeat the user's words. A
/// quotation without an end reaches to the end of the message.
pub(super) fn without_quotations(message: &str) -> String {
    let (mut own, mut rest) = (String::with_capacity(message.len()), message);
    while let Some((at, open, close)) = next_mark(&own, rest) {
        own.push_str(&rest[..at]);
        let inside = &rest[at + open.len_utf8()..];
        let length = length_of(inside, close);
        let quoted = &inside[..length];
        let is_name = !quoted.contains(|c: char| c.is_whitespace() || !c.is_ascii());
        if is_name || ends_with_own_field(&own) {
            own.extend([open]);
            own.push_str(quoted);
            own.extend([close]);
        } else {
            own.push('\u{2026}');
        }
        rest = inside.get(length + close.len_utf8()..).unwrap_or_default();
    }
    own + rest
}

/// Returns the place of the next opening mark in `rest`, which follows `own`, and its pair. A straight mark inside a word is an
/// apostrophe.
fn next_mark(own: &str, rest: &str) -> Option<(usize, char, char)> {
    let mut before = own.chars().next_back();
    rest.char_indices().find_map(|(at, character)| {
        let in_word = before.replace(character).is_some_and(|c| c.is_ascii_alphanumeric());
        let (open, close) = *MARKS.iter().find(|(open, _)| *open == character)?;
        (!in_word || open != close).then_some((at, open, close))
    })
}

/// Returns the length of a quotation up to its closing mark.
fn length_of(inside: &str, close: char) -> usize {
    let ends = |at: usize| !inside[at + close.len_utf8()..].starts_with(|c: char| c.is_ascii_alphanumeric());
    inside.match_indices(close).map(|(at, _)| at).find(|at| ends(*at)).unwrap_or(inside.len())
}

/// True if a text ends with a field such as `"message": `, quoted and followed by a colon.
fn ends_with_own_field(text: &str) -> bool {
    let field = text.trim_end_matches([' ', '\\']);
    let name = field.strip_suffix(':').map(str::trim_end).and_then(|field| field.strip_suffix(['"', '\'']));
    name.is_some_and(|name| OWN_WORDS.iter().any(|word| name.trim_end_matches('\\').ends_with(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotations_of_several_words_are_removed() {
        for (message, own) in [
            ("the model 'qwen3' does not exist", "the model 'qwen3' does not exist"),
            ("content: 'prompt is too long' is invalid", "content: \u{2026} is invalid"),
            ("content: \"it's too long\" is invalid", "content: \u{2026} is invalid"),
            ("your account's quota and the users' limit", "your account's quota and the users' limit"),
            ("got=`a b` and \u{201c}c d\u{201d}.", "got=\u{2026} and \u{2026}."),
            (
                "\u{6a21}\u{578b}\u{300c}qwen3\u{300d}\u{4e0d}",
                "\u{6a21}\u{578b}\u{300c}qwen3\u{300d}\u{4e0d}",
            ),
            ("text 'cut off in the", "text \u{2026}"),
            (r#"got {"message": "a b"}, "c d""#, "got {\"message\": \"a b\"}, \u{2026}"),
            (r#"got {\"message\": \"a b\"}"#, r#"got {\"message\": \"a b\"}"#),
            ("'", "''"),
        ] {
            assert_eq!(without_quotations(message), own, "{message}");
        }
    }
}
