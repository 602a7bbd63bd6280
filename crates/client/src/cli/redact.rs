//! Removes secrets from another program's output.

/// Length of the shortest secret. Shorter ones could be ordinary words.
const MIN_SECRET: usize = 6;
const HIDDEN: &str = "[secret]";

/// Returns one line without secrets and control characters, of at most `limit` characters.
#[must_use]
pub fn line(text: &str, secrets: &[String], limit: usize) -> String {
    let mut text = text.to_owned();
    // One secret may be the beginning of another, so longer ones go first.
    let mut secrets: Vec<&String> =
        secrets.iter().filter(|secret| secret.trim().len() >= MIN_SECRET).collect();
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    for secret in secrets {
        text = text.replace(secret.trim(), HIDDEN);
    }
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line = String::new();
    let mut after_bearer = false;
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(if looks_secret(word) || after_bearer { HIDDEN } else { word });
        after_bearer = word.eq_ignore_ascii_case("bearer");
    }
    match line.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// True for a word that looks like a key. The CLI may have keys from unknown sources.
fn looks_secret(word: &str) -> bool {
    word.match_indices("sk-").any(|(start, _)| {
        let key = word[start + 3..]
            .bytes()
            .take_while(|byte| byte.is_ascii_alphanumeric() || b"-_*".contains(byte));
        key.count() >= 8
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_removed_and_words_stay() {
        let secrets =
            ["hunter2-long".to_owned(), "hunter2-long-er".to_owned(), "us".to_owned(), String::new()];
        assert_eq!(
            line(
                "\u{1b}[31mus hunter2-long-er,\n hunter2-long (sk-abcdefgh1234) Bearer abc task-list",
                &secrets,
                200
            ),
            "[31mus [secret], [secret] [secret] Bearer [secret] task-list"
        );
        assert_eq!(line("abcdef", &[], 3), "abc…");
    }

    proptest! {
        #[test]
        fn secrets_are_removed(before in ".{0,20}", secret in "[A-Za-z0-9]{6,20}", after in ".{0,20}", limit in 0..60_usize) {
            let text = line(&format!("{before}{secret}{after}"), std::slice::from_ref(&secret), limit);
            prop_assert!(!text.contains(&secret));
            prop_assert!(text.chars().count() <= limit + 1 && !text.chars().any(char::is_control));
        }
    }
}
