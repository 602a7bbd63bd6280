//! Reads the meaning of an answer once, in any dialect and wherever the error stands. Pure.
//!
//! [`Reading::of_error`] reads an answer with an error status. [`AnswerReader`] finds an error that comes in place of an
//! answer inside a success.

use super::dialect::{Content, MAX_ERROR_BODY, ServerError};
use super::quota::{reset_of, window_of};
use crate::accounts::cooldown::QuotaWindow;
use crate::sse::EventReader;

/// The meaning of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A success, or an error that is passed on and says nothing of the account.
    Pass,
    /// The access token of a login was refused.
    TokenRejected,
    /// The key was refused: deleted, or one of another plan or region.
    KeyRejected,
    /// The account has no such model.
    ModelUnavailable,
    /// A rule on addresses or permissions refuses the request.
    PermissionDenied,
    /// A quota is used up.
    QuotaExhausted {
        /// The part of the plan's quota that is spent, if the server names it.
        window: Option<QuotaWindow>,
        /// When it comes back in epoch milliseconds, if that is known.
        until: Option<u64>,
    },
    /// A key's tokens per minute are used up.
    AllocationLimit,
    /// Too many requests at the moment.
    RateLimited,
    /// The account is not paid for.
    PaymentRequired,
    /// A content filter refuses the request or its answer.
    ContentFiltered,
    /// The conversation is too long for the model.
    TooLong {
        /// Largest input in tokens, if the server names it.
        limit: Option<u64>,
    },
}

/// The thing that a verdict is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This request alone: no other account is asked.
    Request,
    /// The account's token or key.
    Credential,
    /// The account and this model.
    Model,
    /// The account, for some time.
    Account,
}

impl Verdict {
    /// Its name in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::TokenRejected => "token-rejected",
            Self::KeyRejected => "key-rejected",
            Self::ModelUnavailable => "model-unavailable",
            Self::PermissionDenied => "permission-denied",
            Self::QuotaExhausted { .. } => "quota-exhausted",
            Self::AllocationLimit => "allocation-limit",
            Self::RateLimited => "rate-limited",
            Self::PaymentRequired => "payment-required",
            Self::ContentFiltered => "content-filtered",
            Self::TooLong { .. } => "too-long",
        }
    }

    /// The subject.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::Pass | Self::ContentFiltered | Self::TooLong { .. } => Scope::Request,
            Self::TokenRejected | Self::KeyRejected => Scope::Credential,
            Self::ModelUnavailable => Scope::Model,
            Self::PermissionDenied
            | Self::QuotaExhausted { .. }
            | Self::AllocationLimit
            | Self::RateLimited
            | Self::PaymentRequired => Scope::Account,
        }
    }
}

/// The request's side of an answer, needed to read it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// True if a key was used, false for a login.
    pub is_key: bool,
    /// The model that was asked; empty where the request names none.
    pub model: &'a str,
    /// The time in epoch milliseconds.
    pub now_ms: u64,
}

/// An answer once it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What it means.
    pub verdict: Verdict,
    /// The answer's status, or the one that an error inside a success stands for.
    pub status: u16,
    /// The server's error.
    pub error: ServerError,
}

impl Reading {
    /// A success without an error in it.
    #[must_use]
    pub fn success(status: u16) -> Self {
        Self { verdict: Verdict::Pass, status, error: ServerError::default() }
    }

    /// Reads an answer by its status and its body, which may be cut.
    #[must_use]
    pub fn of_body(status: u16, body: &[u8], asked: &Asked) -> Self {
        if status < 400 {
            return Self::success(status);
        }
        Self::of_error(status, ServerError::of_body(body), asked)
    }

    /// Reads an error that came inside a success.
    #[must_use]
    pub fn of_inner_error(error: ServerError, asked: &Asked) -> Self {
        let status = error.status.unwrap_or_else(|| Words::of(&error).implied_status());
        Self::of_error(status, error, asked)
    }

    fn of_error(status: u16, error: ServerError, asked: &Asked) -> Self {
        Self { verdict: Words::of(&error).verdict(status, asked), status, error }
    }

    /// The server's own code.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.error.code.as_deref().or(self.error.kind.as_deref())
    }

    /// The server's words; empty where it gave none.
    #[must_use]
    pub fn message(&self) -> &str {
        self.error.message.as_deref().unwrap_or_default()
    }

    /// True if the server says that it is the login that it refuses, and not what it asks for.
    #[must_use]
    pub fn is_about_login(&self) -> bool {
        let words = Words::of(&self.error);
        self.status == 401
            && (words.is("invalid_api_key") || words.says(&["invalid access token", "token expired"]))
    }
}

/// Finds out if a body with a success status holds an answer, or an error in its place. The bytes may be cut anywhere.
#[derive(Debug, Default)]
pub struct AnswerReader {
    form: BodyForm,
    json: Vec<u8>,
    events: EventReader,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum BodyForm {
    #[default]
    Unknown,
    Json,
    Events,
}

impl AnswerReader {
    /// Takes the next bytes of the body. `None` as long as the body has said nothing.
    pub fn read(&mut self, bytes: &[u8]) -> Option<Content> {
        let mut bytes = bytes;
        if self.form == BodyForm::Unknown {
            let start = bytes
                .iter()
                .position(|byte| !byte.is_ascii_whitespace() && !b"\xef\xbb\xbf".contains(byte))?;
            self.form = if matches!(bytes[start], b'{' | b'[') { BodyForm::Json } else { BodyForm::Events };
            bytes = &bytes[start..];
        }
        if self.form == BodyForm::Json {
            let room = MAX_ERROR_BODY - self.json.len();
            self.json.extend_from_slice(&bytes[..room.min(bytes.len())]);
            return (bytes.len() > room).then(|| match Content::of_json(&self.json, false) {
                // An error stands at the beginning.
                Content::Nothing => Content::Answer,
                found => found,
            });
        }
        let mut found = None;
        self.events.read(bytes, |event| see(&mut found, &event));
        found
    }

    /// What the body is that ends here.
    #[must_use]
    pub fn end(mut self) -> Content {
        if self.form == BodyForm::Json {
            return Content::of_json(&self.json, false);
        }
        let mut found = None;
        self.events.end(|event| see(&mut found, &event));
        found.unwrap_or(Content::Nothing)
    }

    /// True if the body is one JSON document.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.form == BodyForm::Json
    }
}

fn see(found: &mut Option<Content>, event: &crate::sse::SseEvent) {
    if found.is_none() {
        *found = match Content::of_event(event) {
            // Data that is no chat event is the caller's to read.
            Content::Nothing if !is_chat_event(&event.data) => Some(Content::Answer),
            Content::Nothing => None,
            content => Some(content),
        };
    }
}

fn is_chat_event(data: &[u8]) -> bool {
    let data = data.trim_ascii();
    data.is_empty() || data.starts_with(b"{") || data == b"[DONE]"
}

/// An error's words in lower case.
struct Words {
    code: String,
    kind: String,
    message: String,
}

/// Codes of accounts that nobody pays for.
const UNPAID_CODES: [&str; 4] =
    ["arrearage", "prepaidbilloverdue", "postpaidbilloverdue", "commoditynotpurchased"];
/// Codes of rate limits that say "quota" in their message.
const RATE_CODES: [&str; 4] =
    ["throttling.ratequota", "limit_requests", "limit_burst_rate", "rate_limit_exceeded"];
/// Codes of models that an account does not have.
const MODEL_CODES: [&str; 7] = [
    "model_not_found",
    "modelnotfound",
    "model_not_supported",
    "model_not_exist",
    "model.accessdenied",
    "accessdenied.unpurchased",
    "model_access_denied",
];
/// Words for a key's tokens per minute.
const QUOTA_WORDS: [&str; 2] =
    ["you exceeded your current quota", "allocated quota exceeded, please increase your quota limit"];
/// The status that stands for a code, by a part of the code.
const CODE_STATUSES: [(&str, u16); 24] = [
    ("freetieronly", 403),
    ("quota", 429),
    ("throttling", 429),
    ("limit_requests", 429),
    ("limit_burst", 429),
    ("rate_limit", 429),
    ("ratelimit", 429),
    ("too_many_requests", 429),
    ("overdue", 429),
    ("commoditynotpurchased", 403),
    ("arrearage", 400),
    ("api_key", 401),
    ("apikey", 401),
    ("authentication", 401),
    ("not_found", 404),
    ("notfound", 404),
    ("denied", 403),
    ("permission", 403),
    ("invalid", 400),
    ("internal", 500),
    ("server_error", 500),
    ("unavailable", 503),
    ("overloaded", 503),
    ("timeout", 504),
];
/// The status that stands for words, where the code does not tell.
const WORD_STATUSES: [(&str, u16); 15] = [
    ("free tier of the model has been exhausted", 403),
    ("quota exceeded", 429),
    ("exceeded your current quota", 429),
    ("exceeded your quota", 429),
    ("rate increased too quickly", 429),
    ("throttled", 429),
    ("bill is overdue", 429),
    ("quota has been exhausted", 429),
    ("rate limit", 429),
    ("too many requests", 429),
    ("invalid access token", 401),
    ("token expired", 401),
    ("api key provided", 401),
    ("invalid api-key", 401),
    ("access denied", 403),
];

impl Words {
    fn of(error: &ServerError) -> Self {
        let lower = |text: &Option<String>| text.as_deref().unwrap_or_default().to_ascii_lowercase();
        Self { code: lower(&error.code), kind: lower(&error.kind), message: lower(&error.message) }
    }

    fn is(&self, code: &str) -> bool {
        self.code == code || self.kind == code
    }

    fn is_any(&self, codes: &[&str]) -> bool {
        codes.iter().any(|code| self.is(code))
    }

    fn says(&self, words: &[&str]) -> bool {
        words.iter().any(|words| self.message.contains(words))
    }

    fn implied_status(&self) -> u16 {
        let by_code = [&self.code, &self.kind]
            .into_iter()
            .find_map(|code| CODE_STATUSES.iter().find(|(part, _)| code.contains(part)));
        let by_words = || WORD_STATUSES.iter().find(|(words, _)| self.message.contains(words));
        by_code.or_else(by_words).map_or(400, |(_, status)| *status)
    }

    fn verdict(&self, status: u16, asked: &Asked) -> Verdict {
        let is_final = (400..500).contains(&status);
        if !is_final {
            return Verdict::Pass;
        }
        if self.is_any(&UNPAID_CODES) || self.says(&["account is in good standing"]) || status == 402 {
            return Verdict::PaymentRequired;
        }
        if self.is_any(&["data_inspection_failed", "datainspectionfailed", "content_filter"]) {
            return Verdict::ContentFiltered;
        }
        if let Some(too_long) = self.too_long(status) {
            return too_long;
        }
        match status {
            401 if asked.is_key => Verdict::KeyRejected,
            401 => Verdict::TokenRejected,
            403 | 429 => self.quota(status, asked).unwrap_or_else(|| self.refusal(status, asked)),
            400 | 404 if asked.is_key && self.lacks_model(asked.model) => Verdict::ModelUnavailable,
            _ => Verdict::Pass,
        }
    }

    fn too_long(&self, status: u16) -> Option<Verdict> {
        let limit = |words: &str| {
            let rest = self.message.split_once(words)?.1.trim_start_matches([' ', '[', ':']);
            // `[1, N]` or `N tokens`.
            let rest = rest.strip_prefix("1,").unwrap_or(rest).trim_start();
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            Some(Verdict::TooLong { limit: rest[..end].parse().ok() })
        };
        limit("range of input length should be")
            .or_else(|| limit("maximum context length is"))
            .or_else(|| limit("context window of"))
            .or_else(|| {
                (status == 413 || self.is("context_length_exceeded"))
                    .then_some(Verdict::TooLong { limit: None })
            })
    }

    fn quota(&self, status: u16, asked: &Asked) -> Option<Verdict> {
        if self.says(&["concurrency allocated quota exceeded"]) || self.is_any(&RATE_CODES) {
            return None;
        }
        let window = window_of(&self.message);
        // Words alone are as plain as their code.
        let is_quota = self.is_any(&["insufficient_quota", "quota_exceeded"])
            || (self.code.is_empty() && self.kind.is_empty() && self.says(&QUOTA_WORDS));
        let is_allocation = self.is("throttling.allocationquota");
        let is_free_quota = self.is("allocationquota.freetieronly")
            || self.says(&[
                "free allocated quota exceeded",
                "free quota has been exhausted",
                "free tier of the model has been exhausted",
            ]);
        let is_exhausted =
            || Verdict::QuotaExhausted { window, until: reset_of(&self.message, window, asked.now_ms) };
        if window.is_some() || is_free_quota {
            return Some(is_exhausted());
        }
        if asked.is_key && status == 429 && (is_allocation || (is_quota && self.says(&QUOTA_WORDS))) {
            return Some(Verdict::AllocationLimit);
        }
        is_quota.then(is_exhausted)
    }

    /// Meaning of a 429 or 403 that is not about a quota.
    fn refusal(&self, status: u16, asked: &Asked) -> Verdict {
        let is_about_token = self.says(&["invalid access token", "token expired"]);
        let is_about_key = self.is_any(&["invalid_api_key", "invalidapikey"])
            || self.says(&["invalid api-key", "invalid api key", "incorrect api key"]);
        let is_denied =
            self.says(&["access denied"]) || self.code.contains("accessdenied") || self.is("access_denied");
        match (status, asked.is_key) {
            (429, _) => Verdict::RateLimited,
            (_, true) if is_about_key || is_about_token => Verdict::KeyRejected,
            (_, true) if self.lacks_model(asked.model) => Verdict::ModelUnavailable,
            (_, true) if is_denied => Verdict::PermissionDenied,
            (_, false) if self.says(&["ip access denied", "workspace access denied"]) => {
                Verdict::PermissionDenied
            }
            (_, false) if is_about_token || is_about_key || self.says(&["access denied"]) => {
                Verdict::TokenRejected
            }
            _ => Verdict::Pass,
        }
    }

    fn lacks_model(&self, model: &str) -> bool {
        self.is_any(&MODEL_CODES)
            || self.says(&["model access denied", "access to model denied"])
            || denies_model(&self.message, &model.to_ascii_lowercase())
    }
}

/// True if a message (in lower case) says of the model, and of nothing else, that it is not there.
fn denies_model(message: &str, model: &str) -> bool {
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
    // A subject without a name stands at the beginning.
    let start = words.iter().position(|word| !is_lead(word)).unwrap_or(words.len());
    let rest = &words[start..];
    (rest.first() == Some(&"model") && is_negation(&rest[1..])) || rest.starts_with(&["no", "such", "model"])
}

/// Words that may stand before a message's subject: articles, and `DashScope`'s `<400> InternalError.Algo:`.
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
            // "not supported with tools" denies the tools.
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

/// True if words before a model's name deny it: "unsupported model", "no such model", "model not found".
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

#[cfg(test)]
mod tests;
