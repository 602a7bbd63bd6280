//! Distinguishes a model that is missing from a feature that a model does not have. Pure.

/// Stands for the end of a sentence.
const END: &str = ".";
/// Words before something that is not the subject of a sentence.
const PREPOSITIONS: [&str; 10] = ["by", "for", "with", "in", "on", "of", "to", "from", "using", "via"];
/// Words for a scope such as a region or plan. A denial "in this region" denies the whole model, not one feature.
/// "compatibility" is among them, since all requests use the compatibility mode.
const WHOLES: [&str; 13] = [
    "account",
    "compatibility",
    "country",
    "endpoint",
    "key",
    "organization",
    "plan",
    "project",
    "region",
    "subscription",
    "tier",
    "users",
    "workspace",
];
/// Words after "not" that deny the subject.
const LACKS: [&str; 15] = [
    "found",
    "supported",
    "exist",
    "exists",
    "available",
    "included",
    "valid",
    "accessible",
    "deployed",
    "enabled",
    "activated",
    "offered",
    "recognized",
    "recognised",
    "served",
];
/// Words after a subject that deny it without "not".
const GONE: [&str; 14] = [
    "不存在",
    "不可用",
    "已下线",
    "未找到",
    "unsupported",
    "unavailable",
    "unknown",
    "nonexistent",
    "deprecated",
    "discontinued",
    "offline",
    "removed",
    "retired",
    "shut",
];
/// Words after one of [`GONE`]. Before any other word it is an adjective: "unsupported parameter".
const AFTER_GONE: [&str; 14] = [
    END, "and", "as", "choose", "down", "model", "now", "or", "please", "see", "since", "switch", "try",
    "use",
];

/// True if a message in lower case says that the model itself is not found, not supported, or does not exist.
pub(super) fn denies_model(message: &str, model: &str) -> bool {
    let words = words_of(message);
    let start = words.iter().position(|word| *word != END && !is_lead(word)).unwrap_or(words.len());
    let words = &words[start..];
    if is_restriction(words) {
        return false;
    }
    let is_named = |word: &&str| !model.is_empty() && *word == model;
    if let Some(at) = words.iter().position(is_named) {
        let (before, after) = (&words[..at], &words[at + 1..]);
        let is_denied_before = (is_subject(before) && ends_in_denial(before)) || denies_access(before);
        return (is_subject(before) && is_denied(after)) || (is_denied_before && !is_restriction(after));
    }
    // If the model is not named, "model" has to be the subject, at the start.
    (words.first() == Some(&"model") && is_denied(&words[1..])) || words.starts_with(&["no", "such", "model"])
}

/// Returns the words of a message without punctuation, but with the ends of sentences.
fn words_of(message: &str) -> Vec<&str> {
    const PUNCTUATION: [char; 16] = [
        '\'', '"', '`', '\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}', '.', ',', ':', ';', '(', ')', '[',
        ']', '!',
    ];
    let words = message.split(|c: char| c.is_whitespace() || c == '=').flat_map(|word| {
        let end = if word.ends_with(['.', ';', '!']) { END } else { "" };
        [word.trim_matches(PUNCTUATION), end]
    });
    words.filter(|word| !word.is_empty()).collect()
}

/// True for words before the subject of a message: articles, and `<400> InternalError.Algo:` of `DashScope`.
fn is_lead(word: &str) -> bool {
    ["the", "this", "your", "requested", "specified", "error", "sorry"].contains(&word)
        || word.starts_with('<')
        || word.starts_with("internalerror")
}

/// True if the model that these words lead to is the subject.
fn is_subject(before: &[&str]) -> bool {
    let last = before.iter().rev().find(|word| **word != "model" && !is_lead(word));
    !last.is_some_and(|word| PREPOSITIONS.contains(word))
}

/// True if the words after a subject deny it: "[is] not found", "does not exist", "[is] unsupported" and the like.
fn is_denied(words: &[&str]) -> bool {
    after_denial(words).is_some_and(|rest| !is_restriction(rest))
}

/// Returns the words after a denial at the start.
fn after_denial<'a>(words: &'a [&'a str]) -> Option<&'a [&'a str]> {
    // "the model X you requested does not exist", "the X model is not found"
    const BETWEEN: [&str; 20] = [
        "model",
        "that",
        "which",
        "you",
        "have",
        "requested",
        "specified",
        "selected",
        "provided",
        "is",
        "was",
        "does",
        "do",
        "has",
        "can",
        "could",
        "currently",
        "be",
        "been",
        "taken",
    ];
    let from = words.iter().position(|word| !BETWEEN.contains(word))?;
    let (first, rest) = words[from..].split_first()?;
    let may_follow = |word: &&&str| AFTER_GONE.contains(word) || PREPOSITIONS.contains(word);
    match *first {
        gone if GONE.contains(&gone) => rest.first().is_none_or(|word| may_follow(&word)).then_some(rest),
        "no" if rest.first() == Some(&"longer") => {
            rest.get(1).is_some_and(|lack| LACKS.contains(lack)).then(|| &rest[2..])
        }
        "not" if rest.starts_with(&["in", "the", "list"]) => Some(&rest[3..]),
        "not" | "cannot" | "can't" | "isn't" | "doesn't" | "wasn't" | "couldn't" => {
            let lack = rest.iter().position(|word| !["be", "a", "currently", "yet"].contains(word))?;
            LACKS.contains(&rest[lack]).then(|| &rest[lack + 1..])
        }
        _ => None,
    }
}

/// True for words that restrict a denial to a feature: "with tools", "in thinking mode", but not "in this region".
fn is_restriction(words: &[&str]) -> bool {
    match words.split_first() {
        Some((&("when" | "while" | "if"), _)) => true,
        Some((&("with" | "in" | "for"), what)) => {
            let mut what = what.iter().take_while(|word| **word != END && !PREPOSITIONS.contains(word));
            !what.any(|word| WHOLES.contains(word))
        }
        _ => false,
    }
}

/// True if the words before a model's name deny the access to it: "you do not have access to model".
fn denies_access(words: &[&str]) -> bool {
    const DENIALS: [&str; 7] = ["not", "no", "don't", "doesn't", "cannot", "can't", "without"];
    const RIGHTS: [&str; 6] = ["access", "allowed", "authorized", "entitled", "permission", "permitted"];
    let has_any = |wanted: &[&str]| words.iter().any(|word| wanted.contains(word));
    let end = words.iter().rposition(|word| !["model", "the"].contains(word)).map_or(0, |at| at + 1);
    let leads_to_model = ["to", "access", "use", "call"].iter().any(|verb| words[..end].ends_with(&[*verb]));
    (leads_to_model && has_any(&DENIALS) && has_any(&RIGHTS))
        || (has_any(&["model", "models"]) && words.ends_with(&["you", "passed"]))
        || words.ends_with(&["invalid", "model", "name", "passed", "in", "model"])
}

/// True if the words before a model's name say that it is missing: "unsupported model", "model is not found".
fn ends_in_denial(words: &[&str]) -> bool {
    let ends = [
        &["unsupported", "model"][..],
        &["unknown", "model"],
        &["invalid", "model"],
        &["such", "model"],
        &["no", "model", "named"],
        &["no", "model", "called"],
        &["model", "name"],
        &["model", "id"],
        &["not", "supported", "model"],
        &["not", "support", "model"],
        &["not", "support", "the", "model"],
        &["find", "model"],
        &["find", "the", "model"],
        &["not", "found", "model"],
        &["not", "found", "the", "model"],
        &["plan", "does", "not", "support"],
        &["model_not_found"],
        &["model_not_supported"],
    ];
    let is_whole = |rest: &[&str]| rest.is_empty() || rest == [END];
    let denies_subject =
        |at: usize| is_subject(&words[..at]) && after_denial(&words[at + 1..]).is_some_and(is_whole);
    ends.iter().any(|end| words.ends_with(end))
        || words.iter().rposition(|word| *word == "model").is_some_and(denies_subject)
}
