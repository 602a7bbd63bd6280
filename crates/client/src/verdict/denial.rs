//! Distinguishes a model that is missing from a feature that a model does not have. Pure.

/// True if a message in lower case says that the model itself is not found, not supported, or does not exist.
pub(super) fn denies_model(message: &str, model: &str) -> bool {
    const PUNCTUATION: [char; 16] = [
        '\'', '"', '`', '\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}', '.', ',', ':', ';', '(', ')', '[',
        ']', '!',
    ];
    let words: Vec<&str> = message
        .split_whitespace()
        .map(|word| word.trim_matches(PUNCTUATION))
        .filter(|word| !word.is_empty())
        .collect();
    let is_named = |word: &&str| !model.is_empty() && *word == model;
    if let Some(at) = words.iter().position(is_named) {
        let before = &words[..at];
        let before = before.strip_suffix(&["model"]).unwrap_or(before);
        let is_subject = !before.last().is_some_and(|word| {
            ["by", "for", "with", "in", "on", "of", "to", "from", "using", "via"].contains(word)
        });
        return is_subject && (is_negation(&words[at + 1..]) || ends_in_denial(&words[..at]));
    }
    // If the model is not named, "model" has to be the subject, at the start.
    let start = words.iter().position(|word| !is_lead(word)).unwrap_or(words.len());
    let rest = &words[start..];
    (rest.first() == Some(&"model") && is_negation(&rest[1..])) || rest.starts_with(&["no", "such", "model"])
}

/// True for words before the subject of a message: articles, and `<400> InternalError.Algo:` of `DashScope`.
fn is_lead(word: &str) -> bool {
    ["the", "this", "your", "requested", "specified", "error", "sorry"].contains(&word)
        || word.starts_with('<')
        || word.starts_with("internalerror")
}

/// True for "[is] not found", "does not exist", "[is] unsupported" and the like.
fn is_negation(words: &[&str]) -> bool {
    let is_helper = |word: &&str| {
        ["is", "was", "does", "do", "has", "can", "could", "currently", "be", "been"].contains(word)
    };
    let rest = &words[words.iter().position(|word| !is_helper(word)).unwrap_or(words.len())..];
    let Some((first, rest)) = rest.split_first() else { return false };
    let is_lack = |words: &[&str]| {
        let skipped = words.iter().position(|word| !["be", "a", "currently", "yet"].contains(word));
        skipped.is_some_and(|at| {
            // "not supported with tools" is about the tools.
            let has_condition =
                words.get(at + 1).is_some_and(|next| ["with", "when", "while", "if"].contains(next));
            ["found", "supported", "exist", "exists", "available", "included", "valid", "accessible"]
                .contains(&words[at])
                && !has_condition
        })
    };
    match *first {
        "unsupported" | "unavailable" | "unknown" | "nonexistent" => true,
        "not" | "cannot" | "can't" | "isn't" | "doesn't" | "wasn't" | "couldn't" => is_lack(rest),
        _ => false,
    }
}

/// True if the words before a model's name say that it is missing: "unsupported model", "model not found".
fn ends_in_denial(words: &[&str]) -> bool {
    [
        &["unsupported", "model"][..],
        &["unknown", "model"],
        &["invalid", "model"],
        &["such", "model"],
        &["not", "supported", "model"],
        &["not", "support", "model"],
        &["not", "support", "the", "model"],
        &["find", "model"],
        &["find", "the", "model"],
        &["model", "not", "found"],
        &["model", "not", "exist"],
        &["model", "not", "supported"],
        &["model", "is", "not", "supported"],
        &["model", "does", "not", "exist"],
    ]
    .iter()
    .any(|denial| words.ends_with(denial))
}
