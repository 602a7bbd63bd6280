//! Sends a request once with the token of one account, and reads the verdict.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, StatusCode};
use qwen_accounts::{Account, BaseUrlOverride, Kind, Token};
use qwen_base::{
    Clock, Code, Error, HIDDEN, Http, Result, Secret, answer_within, decoded, note_arrival, retry_after_of,
};
use url::Url;

use super::answer::{Answer, Beginning, Body};
use super::body::TooLate;
use super::prepare::{Prepared, Redirect};
use crate::headers;
use crate::host::errors::{FinalError, SHORT_WAIT_MS, calmed};
use crate::verdict::dialect::{Content, MAX_ERROR_BODY, ServerError};
use crate::verdict::{AnswerReader, Reading, RequestContext, Verdict};

/// Largest beginning of a success, in bytes, that is searched for an error.
const MAX_READ_AHEAD: usize = 1024 * 1024;

/// Longest `Retry-After`, in milliseconds, that is waited for.
const LONGEST_WAIT_MS: u64 = 10_000;
/// Wait in milliseconds before the second try, without `Retry-After`.
const DEFAULT_WAIT_MS: u64 = 1_000;

/// Longest time for which the head of a stream without content is held back, since an error may come in place of the content.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

/// Limits the number of requests for one call.
#[derive(Debug)]
pub struct Budget {
    left: usize,
    /// Requests that retries must leave: for the remaining accounts and the shorter request.
    pub reserved: usize,
}

impl Budget {
    /// Two requests for each account, and two more.
    #[must_use]
    pub fn for_accounts(accounts: usize) -> Self {
        Self { left: 2 * accounts + 2, reserved: 0 }
    }

    /// The number of requests for further tries.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.left.saturating_sub(self.reserved)
    }

    /// True if a retry leaves the reserved requests.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        self.spare() > 0
    }

    /// True if there is a request left.
    #[must_use]
    pub fn may_take(&self) -> bool {
        self.left > 0
    }

    fn take(&mut self) -> bool {
        let left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        left
    }
}

/// An answer as it is returned to the caller, with its [`Reading`].
#[derive(Debug)]
pub struct Attempt {
    pub answer: Answer,
    pub reading: Reading,
    /// The error body as far as it was read.
    pub error_body: Vec<u8>,
    /// The wait that the server asks for, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Attempt {
    /// Returns the wait before a second try, if it is short enough.
    #[must_use]
    pub fn short_wait(&self) -> Option<Duration> {
        let ms = self.retry_after_ms.unwrap_or(DEFAULT_WAIT_MS);
        (ms <= LONGEST_WAIT_MS).then(|| Duration::from_millis(ms))
    }
}

/// A token, and the only base URL that it may be sent to.
#[derive(Debug, Clone)]
pub struct Access {
    pub token: Arc<Token>,
    pub base_url: Url,
}

/// Sends requests.
#[derive(Debug)]
pub struct Sender {
    pub http: Arc<Http>,
    /// Base URL for OAuth accounts in place of the one in their token.
    pub base_url_override: Option<BaseUrlOverride>,
    /// Longest silence of a server.
    pub idle_timeout: Duration,
    /// True to guard streams for `OpenCode`.
    pub for_opencode: bool,
    pub clock: Clock,
}

impl Sender {
    /// Returns the base URL that an account's token may be sent to.
    ///
    /// # Errors
    /// Those of [`Account::base_url`].
    pub fn access(&self, account: &Account, token: Arc<Token>) -> Result<Access> {
        let base_url = account.base_url(&token, self.base_url_override.as_ref())?;
        Ok(Access { token, base_url })
    }

    /// Sends a request with an account's token. If a connection fails before anything is sent, calls `reconnecting` and tries
    /// once more.
    ///
    /// # Errors
    /// `ERR_QWEN_NETWORK`, `ERR_QWEN_TIMEOUT`, `ERR_QWEN_INVALID_CONFIG`.
    pub async fn attempt(
        &self,
        account: &Account,
        access: &Access,
        prepared: &Prepared,
        budget: &mut Budget,
        reconnecting: impl FnOnce(&Error),
    ) -> Result<Attempt> {
        let response = self.exchange(access, (prepared, account.kind), budget, reconnecting).await?;
        let (status, url) = (response.status(), response.url().clone());
        let now_ms = self.clock.now_ms();
        let retry_after_ms = retry_after_of(response.headers(), now_ms);
        let headers = headers::of_answer(response.headers());
        let mut answer = Answer { status, headers, url, body: Body::live(response, self.idle_timeout) };
        let context = RequestContext { is_key: account.kind != Kind::OAuth, model: &prepared.model, now_ms };
        let mut error_body = Vec::new();
        let mut reading = Reading::success(status.as_u16());
        if status.is_client_error() {
            error_body = answer.body.peek(MAX_ERROR_BODY).await;
            reading = if status == StatusCode::UNAUTHORIZED && asks_for_password(&answer.headers) {
                Reading::of_proxy(status.as_u16(), ServerError::of_body(&error_body), &context)
            } else {
                Reading::of_body(status.as_u16(), &error_body, &context)
            };
        } else if status.is_success() && prepared.is_chat {
            match self.beginning(&mut answer, prepared).await {
                Beginning::Content => {}
                Beginning::Error(error) => {
                    reading = Reading::of_inner_error(error, &context);
                    let body = reading.error.to_json();
                    answer.status = StatusCode::from_u16(reading.status).unwrap_or(StatusCode::BAD_GATEWAY);
                    answer.set_json(&body);
                    error_body = body.to_string().into_bytes();
                }
                Beginning::Problem(problem) => answer = answer.into_final(&FinalError::of_stream(&problem)),
            }
        }
        reading.error.hide(&access.token.access_token);
        if self.for_opencode {
            let token = &access.token.access_token;
            adapt(&mut answer, reading.verdict, &mut error_body, retry_after_ms, token).await;
        }
        answer.note_account(&account.id);
        Ok(Attempt { answer, reading, error_body, retry_after_ms })
    }

    /// Reads the beginning of a success. For a host, an empty stream is an error.
    async fn beginning(&self, answer: &mut Answer, prepared: &Prepared) -> Beginning {
        if self.for_opencode && prepared.is_chat_stream {
            return answer.watch().await;
        }
        let hold = self.hold_of(answer);
        match first_content_or_error(&mut answer.body, hold).await {
            Ok(Content::Error(error)) => Beginning::Error(error),
            _ => Beginning::Content,
        }
    }

    /// Returns the longest time to hold back the beginning of a success. A JSON document is useless before its end. A body that
    /// is neither JSON nor text is not an answer to a chat.
    fn hold_of(&self, answer: &Answer) -> Duration {
        let content_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        match content_type.map(str::to_ascii_lowercase) {
            Some(kind) if kind.contains("json") => self.idle_timeout,
            Some(kind) if !kind.starts_with("text/") => Duration::ZERO,
            _ => self.idle_timeout.min(LONGEST_HOLD),
        }
    }

    async fn exchange(
        &self,
        access: &Access,
        (prepared, kind): (&Prepared, Kind),
        budget: &mut Budget,
        reconnecting: impl FnOnce(&Error),
    ) -> Result<reqwest::Response> {
        let mut url = prepared.target.url_below(&access.base_url);
        let client = self.http.client_for(&url).await?;
        let mut reconnecting = Some(reconnecting);
        loop {
            let host = url.host_str().unwrap_or("Qwen").to_owned();
            if !budget.take() {
                let message = format!(
                    "{host} took more tries than one request may cost. Check the base URL, then try again."
                );
                return Err(Error::new(Code::Network, message));
            }
            let mut request = reqwest::Request::new(prepared.method.clone(), url.clone());
            *request.headers_mut() =
                headers::for_attempt(&prepared.headers, &access.token.access_token, kind, &host)?;
            *request.body_mut() = prepared.body_for(kind).cloned().map(reqwest::Body::from);
            let answered = answer_within(&host, self.idle_timeout, client.execute(request)).await?;
            let response = match answered {
                Ok(response) => decoded(response),
                Err(error) => {
                    let failure = self.http.failure(&error, &host);
                    match reconnecting.take().filter(|_| failure.before_send && budget.may_retry()) {
                        Some(tell) => tell(&failure.error),
                        None => return Err(failure.error),
                    }
                    continue;
                }
            };
            note_arrival();
            let Some(next) = redirected(&response, &url, &prepared.method) else { return Ok(response) };
            match prepared.redirect {
                Redirect::Follow if next.origin() == url.origin() && budget.may_retry() => url = next,
                Redirect::Follow | Redirect::Manual => return Ok(response),
                Redirect::Error => {
                    let message =
                        format!("{host} answered with a redirect, which redirect: \"error\" does not allow.");
                    return Err(Error::new(Code::Network, message).with_status(response.status().as_u16()));
                }
            }
        }
    }
}

/// Changes an answer for `OpenCode`. It obeys any `Retry-After`, and replaces the conversation by a summary after some words,
/// so long waits are removed and those words are broken.
async fn adapt(
    answer: &mut Answer,
    verdict: Verdict,
    error_body: &mut Vec<u8>,
    retry_after_ms: Option<u64>,
    token: &Secret,
) {
    let status = answer.status;
    let is_temporary = status.is_server_error() || matches!(status.as_u16(), 408 | 425);
    match retry_after_ms {
        Some(ms) if is_temporary && ms > SHORT_WAIT_MS => answer.remove_retry_after(),
        Some(ms) => answer.set_retry_after(ms),
        // The host might understand a value that is unreadable here.
        None => answer.remove_retry_after(),
    }
    if status.is_server_error() && error_body.is_empty() {
        *error_body = answer.body.peek(MAX_ERROR_BODY).await;
    }
    hide(answer, error_body, token);
    let is_failure = status.is_client_error() || status.is_server_error();
    if is_failure
        && !matches!(verdict, Verdict::TooLong { .. })
        && let Some(calm) = calmed(error_body)
    {
        answer.set_text(calm);
    }
}

/// Removes a token that the server repeats in an error.
fn hide(answer: &mut Answer, error_body: &mut Vec<u8>, token: &Secret) {
    let text = String::from_utf8_lossy(error_body);
    if text.contains(token.expose()) {
        let hidden = text.replace(token.expose(), HIDDEN);
        *error_body = hidden.clone().into_bytes();
        answer.set_text(hidden);
    }
}

/// Reads ahead to the first content or error in the body of a success, for `limit` at most.
async fn first_content_or_error(body: &mut Body, limit: Duration) -> Result<Content, TooLate> {
    let mut reader = AnswerReader::default();
    let found = body.read_ahead(MAX_READ_AHEAD, limit, |bytes| reader.read(bytes)).await?;
    Ok(found.unwrap_or_else(|| reader.end()))
}

/// True if a proxy or gateway asks for a login of its own, which is not the account's.
fn asks_for_password(headers: &HeaderMap) -> bool {
    const SCHEMES: [&str; 4] = ["basic", "digest", "negotiate", "ntlm"];
    let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    challenges
        .filter_map(|value| value.split([' ', ',']).next())
        .any(|scheme| SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()))
}

/// Returns the location of a redirect that keeps the method. Others would turn a POST into a GET.
fn redirected(response: &reqwest::Response, from: &Url, method: &Method) -> Option<Url> {
    let keeps_method = match response.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
            method == Method::GET || method == Method::HEAD
        }
        _ => false,
    };
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    keeps_method.then(|| from.join(location).ok()).flatten()
}
