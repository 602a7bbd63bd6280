//! Reads the meaning of an error from its code and message. Pure.

use qwen_accounts::QuotaWindow;

use super::denial::denies_model;
use super::dialect::ServerError;
use super::quota::{reset_of, spent_window_of, window_of};
use super::quotations::without_quotations;
use super::reading::{RequestContext, Verdict};

/// The code, type and message of an error, in lower case. The message lacks quotations.
pub(super) struct Words {
    code: String,
    kind: String,
    message: String,
}

/// Codes for an unpaid account.
const UNPAID_CODES: [&str; 4] =
    ["arrearage", "prepaidbilloverdue", "postpaidbilloverdue", "commoditynotpurchased"];
/// Messages about an unpaid account.
const UNPAID_WORDS: [&str; 2] = ["account is in good standing", "bill is overdue"];
/// Messages about a conversation that is too long.
const LENGTH_WORDS: [&str; 11] = [
    "prompt is too long",
    "input is too long",
    "exceeds the maximum number of tokens allowed",
    "exceeds the context window",
    "exceeds the available context size",
    "exceeded model token limit",
    "greater than the context length",
    "context window exceeds limit",
    "maximum prompt length is",
    "request entity too large",
    "max bytes to request body",
];
/// Codes for rate limits whose message contains "quota".
const RATE_CODES: [&str; 4] =
    ["throttling.ratequota", "limit_requests", "limit_burst_rate", "rate_limit_exceeded"];
/// Codes for a model that the account does not have.
const MODEL_CODES: [&str; 7] = [
    "model_not_found",
    "modelnotfound",
    "model_not_supported",
    "model_not_exist",
    "model.accessdenied",
    "accessdenied.unpurchased",
    "model_access_denied",
];
/// Words about trouble that passes.
const PASSING_WORDS: [&str; 6] =
    ["try again", "retry", "temporar", "at the moment", "at this time", "right now"];
/// Messages about a used-up quota. With a key and status 429 they mean its tokens per minute.
const QUOTA_WORDS: [&str; 2] =
    ["you exceeded your current quota", "allocated quota exceeded, please increase your quota limit"];
/// The status for a part of a specific code.
const CODE_STATUSES: [(&str, u16); 23] = [
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
    ("unavailable", 503),
    ("overloaded", 503),
    ("timeout", 504),
    ("invalidparameter", 400),
    ("invalid_parameter", 400),
];
/// The status for a part of a general code.
const GENERAL_CODE_STATUSES: [(&str, u16); 8] = [
    ("invalid", 400),
    ("badrequest", 400),
    ("bad_request", 400),
    ("internal", 500),
    ("server_error", 500),
    ("systemerror", 500),
    ("servicefailed", 500),
    ("api_error", 500),
];
/// The status for words that can only be about the account or the length of the conversation.
const SPECIFIC_WORD_STATUSES: [(&str, u16); 13] = [
    ("free tier of the model has been exhausted", 403),
    ("account is in good standing", 400),
    ("quota exceeded", 429),
    ("exceeded your current quota", 429),
    ("exceeded your quota", 429),
    ("bill is overdue", 429),
    ("quota has been exhausted", 429),
    ("range of input length should be", 400),
    ("maximum context length is", 400),
    ("context window of", 400),
    ("invalid access token", 401),
    ("api key provided", 401),
    ("invalid api-key", 401),
];
/// The status for words that may be about something else, such as the server of an image.
const WORD_STATUSES: [(&str, u16); 5] = [
    ("rate increased too quickly", 429),
    ("throttl", 429),
    ("rate limit", 429),
    ("too many requests", 429),
    ("access denied", 403),
];

/// Returns the status for the first of the parts that a text contains.
fn status_of(text: &str, statuses: &[(&str, u16)]) -> Option<u16> {
    statuses.iter().find(|(part, _)| text.contains(part)).map(|(_, status)| *status)
}

impl Words {
    pub(super) fn of(error: &ServerError) -> Self {
        let lower = |text: &Option<String>| text.as_deref().unwrap_or_default().to_ascii_lowercase();
        let message = without_quotations(&lower(&error.message));
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { code: lower(&error.code), kind: lower(&error.kind), message }
    }

    pub(super) fn is(&self, code: &str) -> bool {
        self.code == code || self.kind == code
    }

    fn is_any(&self, codes: &[&str]) -> bool {
        codes.iter().any(|code| self.is(code))
    }

    pub(super) fn says(&self, words: &[&str]) -> bool {
        words.iter().any(|words| self.message.contains(words))
    }

    /// Returns the status for an error without one. Words that leave no doubt count more than a general code.
    pub(super) fn implied_status(&self, context: &RequestContext) -> u16 {
        let by_code =
            |statuses| [&self.code, &self.kind].into_iter().find_map(|code| status_of(code, statuses));
        by_code(&CODE_STATUSES)
            .or_else(|| status_of(&self.message, &SPECIFIC_WORD_STATUSES))
            .or_else(|| self.begins_with_expired_token().then_some(401))
            .or_else(|| self.says(&LENGTH_WORDS).then_some(400))
            .or_else(|| self.lacks_model(context.model).then_some(404))
            .or_else(|| by_code(&GENERAL_CODE_STATUSES))
            .or_else(|| status_of(&self.message, &WORD_STATUSES))
            .unwrap_or(400)
    }

    pub(super) fn verdict(&self, status: u16, context: &RequestContext) -> Verdict {
        let is_client_error = (400..500).contains(&status);
        if !is_client_error {
            return Verdict::Pass;
        }
        if self.is_any(&UNPAID_CODES) || self.says(&UNPAID_WORDS) || status == 402 {
            return Verdict::PaymentRequired;
        }
        if self.is_any(&["data_inspection_failed", "datainspectionfailed", "content_filter"])
            || self.says(&["datainspectionfailed"])
        {
            return Verdict::ContentFiltered;
        }
        if let Some(too_long) = self.too_long(status) {
            return too_long;
        }
        if matches!(status, 400 | 403 | 404) && self.is_limit() {
            return self.quota(429, context).unwrap_or(Verdict::RateLimited);
        }
        match status {
            401 if context.is_key => Verdict::KeyRejected,
            401 => Verdict::TokenRejected,
            403 | 429 => self.quota(status, context).unwrap_or_else(|| self.refusal(status, context)),
            400 | 404 if context.is_key && self.lacks_model(context.model) => Verdict::ModelUnavailable,
            _ => Verdict::Pass,
        }
    }

    /// True for a limit that its words name beyond doubt. Servers give such errors any status.
    fn is_limit(&self) -> bool {
        let is_throttled = |code: &String| code.starts_with("throttling");
        is_throttled(&self.code)
            || is_throttled(&self.kind)
            || self.is_any(&RATE_CODES)
            || self.is_free_quota()
            || self.spent_window().is_some()
    }

    /// Returns the window whose quota is used up. With a code for a quota, the message only has to name it.
    fn spent_window(&self) -> Option<QuotaWindow> {
        let codes = ["insufficient_quota", "quota_exceeded", "throttling.allocationquota"];
        let named = window_of(&self.message).filter(|_| self.is_any(&codes));
        named.or_else(|| spent_window_of(&self.message))
    }

    fn is_free_quota(&self) -> bool {
        self.is("allocationquota.freetieronly")
            || self.says(&[
                "free allocated quota exceeded",
                "free quota has been exhausted",
                "free tier of the model has been exhausted",
            ])
    }

    fn too_long(&self, status: u16) -> Option<Verdict> {
        let limit = |words: &str| {
            let rest = self.message.split_once(words)?.1.trim_start_matches([' ', '[', ':']);
            // `[1, N]` or `N tokens`.
            let rest = rest.strip_prefix("1,").unwrap_or(rest).trim_start();
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            // `[1, N] for tool name`
            let is_of_part = rest[end..].trim_start_matches([']', ' ']).starts_with("for ");
            (!is_of_part).then(|| Verdict::TooLong { limit: rest[..end].parse().ok() })
        };
        let in_words = || {
            limit("range of input length should be")
                .or_else(|| limit("maximum context length is"))
                .or_else(|| limit("context window of").filter(|_| self.says(&["exceed", "too long"])))
                .or_else(|| self.says(&LENGTH_WORDS).then_some(Verdict::TooLong { limit: None }))
        };
        let is_known = status == 413 || self.is("context_length_exceeded");
        let found = if is_known || status == 400 { in_words() } else { None };
        found.or_else(|| is_known.then_some(Verdict::TooLong { limit: None }))
    }

    fn quota(&self, status: u16, context: &RequestContext) -> Option<Verdict> {
        let window = self.spent_window();
        let is_rate = self.says(&["concurrency allocated quota exceeded"]) || self.is_any(&RATE_CODES);
        if is_rate && window.is_none() {
            return None;
        }
        // Without a code, the words are enough.
        let is_quota = self.is_any(&["insufficient_quota", "quota_exceeded"])
            || (self.code.is_empty() && self.kind.is_empty() && self.says(&QUOTA_WORDS));
        let is_allocation = self.is("throttling.allocationquota");
        let is_exhausted =
            || Verdict::QuotaExhausted { window, until: reset_of(&self.message, window, context.now_ms) };
        if window.is_some() || self.is_free_quota() {
            return Some(is_exhausted());
        }
        if context.is_key && status == 429 && (is_allocation || (is_quota && self.says(&QUOTA_WORDS))) {
            return Some(Verdict::AllocationLimit);
        }
        is_quota.then(is_exhausted)
    }

    /// Returns the meaning of a 429 or 403 that is not about a quota.
    fn refusal(&self, status: u16, context: &RequestContext) -> Verdict {
        let is_about_token = self.says(&["invalid access token", "token expired"]);
        let is_about_key = self.is_any(&["invalid_api_key", "invalidapikey"])
            || self.says(&["invalid api-key", "invalid api key", "incorrect api key"]);
        let is_denied =
            self.says(&["access denied"]) || self.code.contains("accessdenied") || self.is("access_denied");
        match (status, context.is_key) {
            (429, _) => Verdict::RateLimited,
            (_, true) if is_about_key || is_about_token => Verdict::KeyRejected,
            (_, true) if self.lacks_model(context.model) => Verdict::ModelUnavailable,
            (_, true) if is_denied => Verdict::PermissionDenied,
            (_, false) if self.lacks_model(context.model) => Verdict::Pass,
            (_, false) if self.says(&["ip access denied", "workspace access denied"]) => {
                Verdict::PermissionDenied
            }
            (_, false) if is_about_token || is_about_key || self.says(&["access denied"]) => {
                Verdict::TokenRejected
            }
            _ => Verdict::Pass,
        }
    }

    /// True for "Token expired." and the like, but not for the token of another server: "the image's token expired".
    fn begins_with_expired_token(&self) -> bool {
        const LEADS: [&str; 6] = ["", "the", "your", "this", "access", "login"];
        let lead = self.message.split_once("token expired").map(|(lead, _)| lead);
        lead.is_some_and(|lead| lead.split(' ').all(|word| LEADS.contains(&word)))
    }

    fn lacks_model(&self, model: &str) -> bool {
        self.is_any(&MODEL_CODES)
            || self.says(&["model access denied", "access to model denied"])
            || (!self.says(&PASSING_WORDS) && denies_model(&self.message, &model.to_ascii_lowercase()))
    }
}
