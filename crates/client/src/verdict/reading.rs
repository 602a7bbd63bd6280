//! The meaning of an answer, and the reader that finds an error inside a success. Pure.

use qwen_accounts::{Cooldown, CoolingReason, Pause, QuotaWindow, exhausted_until, least_cooldown_ms};

use super::dialect::{Content, MAX_ERROR_BODY, ServerError};
use super::words::Words;
use crate::sse::{EventReader, is_done, start_of};

/// Cooldown in milliseconds after a rate limit without `Retry-After`.
const DEFAULT_COOLDOWN_MS: u64 = 10_000;
/// Cooldown of an unpaid account, in milliseconds.
const UNPAID_COOLDOWN_MS: u64 = 3_600_000;

/// The meaning of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A success, or an error that is passed on and does not concern the account.
    Pass,
    /// The access token of a login was refused.
    TokenRejected,
    /// The key was refused: it is deleted, or belongs to another plan or region.
    KeyRejected,
    /// The account does not have the model.
    ModelUnavailable,
    /// An IP or permission rule refuses the request.
    PermissionDenied,
    /// A quota is used up.
    QuotaExhausted {
        /// The window that is used up, if the server names it.
        window: Option<QuotaWindow>,
        /// Reset time in epoch milliseconds, if it is known.
        until: Option<u64>,
    },
    /// A key's tokens per minute are used up.
    AllocationLimit,
    /// Too many requests.
    RateLimited,
    /// The account is not paid for.
    PaymentRequired,
    /// A content filter refused the request or the answer.
    ContentFiltered,
    /// The conversation is too long for the model.
    TooLong {
        /// Largest input in tokens, if the server names it.
        limit: Option<u64>,
    },
}

impl Verdict {
    /// The name of the verdict in logs.
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
}

/// The facts about a request that are needed to read its answer.
#[derive(Debug, Clone, Copy)]
pub struct RequestContext<'a> {
    /// True for a key, false for a login.
    pub is_key: bool,
    /// The model of the request; empty if it names none.
    pub model: &'a str,
    /// The time in epoch milliseconds.
    pub now_ms: u64,
}

/// The meaning of an answer, with its status and error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The meaning of the answer.
    pub verdict: Verdict,
    /// The status of the answer, or the one that an error inside a success corresponds to.
    pub status: u16,
    /// The server's error.
    pub error: ServerError,
    /// True for an error that a proxy or gateway sent in place of the API. It changes no account.
    pub is_of_proxy: bool,
}

impl Reading {
    /// Returns the reading of a success without an error.
    #[must_use]
    pub fn success(status: u16) -> Self {
        Self { verdict: Verdict::Pass, status, error: ServerError::default(), is_of_proxy: false }
    }

    /// Reads an answer from its status and its body, which may be cut.
    #[must_use]
    pub fn of_body(status: u16, body: &[u8], context: &RequestContext) -> Self {
        if status < 400 {
            return Self::success(status);
        }
        let error = ServerError::of_body(body);
        // The page of a proxy says nothing about the account.
        if matches!(status, 401 | 402) && is_page(body) {
            return Self::of_proxy(status, error, context);
        }
        Self::of_error(status, error, context)
    }

    /// Reads a 401 or 402 of a proxy or gateway. The token of a login may still be the reason.
    #[must_use]
    pub fn of_proxy(status: u16, error: ServerError, context: &RequestContext) -> Self {
        let may_be_token = status == 401 && !context.is_key;
        let verdict = if may_be_token { Verdict::TokenRejected } else { Verdict::PermissionDenied };
        Self { verdict, status, error, is_of_proxy: true }
    }

    /// Reads an error inside a success.
    #[must_use]
    pub fn of_inner_error(error: ServerError, context: &RequestContext) -> Self {
        let status = error.status.unwrap_or_else(|| Words::of(&error).implied_status(context));
        Self::of_error(status, error, context)
    }

    fn of_error(status: u16, error: ServerError, context: &RequestContext) -> Self {
        let verdict = Words::of(&error).verdict(status, context);
        Self { verdict, status, error, is_of_proxy: false }
    }

    /// The server's error code or type.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.error.code.as_deref().or(self.error.kind.as_deref())
    }

    /// The server's message; empty if there is none.
    #[must_use]
    pub fn message(&self) -> &str {
        self.error.message.as_deref().unwrap_or_default()
    }

    /// Returns the account's cooldown after this answer; `None` if there is none. `quota_cooldown_ms` is the configured
    /// cooldown of an account without quota.
    #[must_use]
    pub fn cooldown(
        &self,
        now_ms: u64,
        quota_cooldown_ms: u64,
        retry_after_ms: Option<u64>,
    ) -> Option<Cooldown> {
        let (reason, until, window) = match self.verdict {
            Verdict::QuotaExhausted { window, until } => {
                let least = least_cooldown_ms(window, quota_cooldown_ms);
                let is_possible = |wait: &u64| window.is_none_or(|window| *wait <= window.length_ms());
                let wait = retry_after_ms.filter(is_possible);
                let until = until.unwrap_or_else(|| exhausted_until(now_ms, least, wait));
                (CoolingReason::Quota, until, window)
            }
            Verdict::RateLimited => {
                let wait = retry_after_ms.or(Some(DEFAULT_COOLDOWN_MS));
                (CoolingReason::RateLimit, exhausted_until(now_ms, 0, wait), None)
            }
            Verdict::AllocationLimit => {
                let pause = Pause::after(None, now_ms, retry_after_ms, quota_cooldown_ms, now_ms);
                (CoolingReason::TokenLimit, pause.ends_at(), None)
            }
            Verdict::PaymentRequired => (CoolingReason::Payment, now_ms + UNPAID_COOLDOWN_MS, None),
            _ => return None,
        };
        let code = self.code().unwrap_or(reason.servers_code()).to_owned();
        Some(Cooldown { until, reason, code, window })
    }

    /// True if the server refuses the login itself.
    #[must_use]
    pub fn refuses_login(&self) -> bool {
        let words = Words::of(&self.error);
        self.status == 401
            && (words.is("invalid_api_key") || words.says(&["invalid access token", "token expired"]))
    }
}

/// Finds the first content or error in the body of a success. The bytes may be cut anywhere.
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
    /// Takes the next bytes of the body. Returns `None` until there is content or an error.
    pub fn read(&mut self, bytes: &[u8]) -> Option<Content> {
        let mut bytes = bytes;
        if self.form == BodyForm::Unknown {
            let start = start_of(bytes)?;
            self.form = if matches!(bytes[start], b'{' | b'[') { BodyForm::Json } else { BodyForm::Events };
            bytes = &bytes[start..];
        }
        if self.form == BodyForm::Json {
            let room = MAX_ERROR_BODY - self.json.len();
            self.json.extend_from_slice(&bytes[..room.min(bytes.len())]);
            return (bytes.len() > room).then(|| match Content::of_json(&self.json, false) {
                // The first 64 KiB contain no error, so this is an answer.
                Content::Nothing => Content::Answer,
                found => found,
            });
        }
        let mut found = None;
        self.events.read(bytes, |event| see(&mut found, &event));
        found
    }

    /// Ends the body, and returns its content.
    #[must_use]
    pub fn end(mut self) -> Content {
        if self.form == BodyForm::Json {
            return Content::of_document(&self.json);
        }
        let mut found = None;
        self.events.end(|event| see(&mut found, &event));
        found.unwrap_or(Content::Nothing)
    }
}

/// True for a document in HTML or XML.
fn is_page(body: &[u8]) -> bool {
    let text = start_of(body).map_or(&[][..], |start| &body[start..]);
    text.starts_with(b"<")
        && text.get(1).is_some_and(|byte| byte.is_ascii_alphabetic() || b"!?".contains(byte))
}

fn see(found: &mut Option<Content>, event: &crate::sse::SseEvent) {
    if found.is_none() {
        *found = match Content::of_event(event) {
            // Data that is not a chat event is passed on.
            Content::Nothing if !is_chat_event(&event.data) => Some(Content::Answer),
            Content::Nothing => None,
            content => Some(content),
        };
    }
}

fn is_chat_event(data: &[u8]) -> bool {
    let data = data.trim_ascii();
    data.is_empty() || data.starts_with(b"{") || is_done(data)
}
