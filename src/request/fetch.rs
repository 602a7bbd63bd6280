//! The pipeline of one request: where, who, what, and what to do about the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use http::{Method, StatusCode};
use url::Url;

use super::answer::{Answer, Body};
use super::body::{Ids, shape};
use super::classify::{Verdict, classify, needs_body};
use super::headers;
use super::host_errors::FinalError;
use super::target::Target;
use crate::accounts::account::Account;
use crate::accounts::health::Health;
use crate::clock::Clock;
use crate::error::{Code, Error, Result};
use crate::events::{Event, EventKind, Events};
use crate::http::{Http, TransportError, retry_after_ms};
use crate::oauth::token::Token;
use crate::secret::Secret;
use crate::token_manager::TokenManager;

/// Error bodies are looked at up to this size.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// A larger body is shaped on a thread of its own, so that it does not hold up other requests.
const LARGE_BODY: usize = 64 * 1024;
/// Where a host names its conversation.
const CONVERSATION_HEADER: &str = "x-session-id";

/// How redirects are treated, as in fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Redirect {
    /// Followed on the same origin; one to another origin is the answer.
    #[default]
    Follow,
    /// An error.
    Error,
    /// Always the answer.
    Manual,
}

/// A caller's request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Below the client's base URL, or an account's.
    pub url: String,
    /// Any but CONNECT and TRACE.
    pub method: Method,
    /// The caller's headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Option<Bytes>,
    /// How redirects are treated.
    pub redirect: Redirect,
}

/// What the pipeline needs to know, for a client's life.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The base URL that callers address.
    pub base_url: Url,
    /// Where OAuth accounts are sent instead of their own host.
    pub base_url_override: Option<Url>,
    /// Whether bodies are shaped as the official CLI shapes them.
    pub qwen_mode: bool,
    /// How long a request may stay silent.
    pub idle_timeout: Duration,
    /// Whether errors are made final for `OpenCode`.
    pub for_host: bool,
}

/// The request path of a client.
#[derive(Debug)]
pub struct Pipeline {
    settings: Settings,
    http: Arc<Http>,
    tokens: TokenManager,
    health: Arc<Health>,
    clock: Clock,
    events: Events,
    session_id: String,
    prompts: AtomicU64,
}

/// A request that is ready to be sent with any account, as often as it takes: its body is the same each time.
struct Prepared {
    target: Target,
    method: Method,
    headers: HeaderMap,
    body: Option<Bytes>,
    redirect: Redirect,
    is_chat_stream: bool,
}

/// Bounds what one call may cost the API, whatever goes wrong.
struct Budget(u32);

impl Budget {
    fn for_accounts(accounts: u32) -> Self {
        Self(2 * accounts + 2)
    }

    fn take(&mut self) -> bool {
        let left = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        left
    }
}

/// An answer, and what it means for the account that it was asked with.
struct Attempt {
    answer: Answer,
    verdict: Verdict,
    /// The error body as far as it was read.
    error_body: Vec<u8>,
    retry_after_ms: Option<u64>,
    /// What we know of a refusal beyond what the server says.
    failure: Option<Error>,
}

impl Pipeline {
    /// Sends nothing until [`Pipeline::fetch`] is called.
    #[must_use]
    pub fn new(
        settings: Settings,
        http: Arc<Http>,
        tokens: TokenManager,
        health: Arc<Health>,
        clock: Clock,
        events: Events,
    ) -> Self {
        let session_id = uuid::Uuid::new_v4().to_string();
        Self { settings, http, tokens, health, clock, events, session_id, prompts: AtomicU64::new(0) }
    }

    /// Sends a request with the account's token. An HTTP error of the API is an answer, not an error.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT`, `ERR_QWEN_NETWORK`, `ERR_QWEN_TIMEOUT`, and those of [`TokenManager::token`].
    pub async fn fetch(&self, account: &Account, request: Request) -> Result<Answer> {
        let url = request.url.clone();
        let sent = self.send(account, request).await;
        if !self.settings.for_host {
            return sent;
        }
        sent.or_else(|error| {
            let known = FinalError::of_error(&error).zip(Url::parse(&url).ok());
            known.map_or(Err(error), |(final_error, url)| Ok(Answer::without_server(url, &final_error)))
        })
    }

    async fn send(&self, account: &Account, request: Request) -> Result<Answer> {
        let prepared = self.prepare(account, request).await?;
        let mut budget = Budget::for_accounts(1);
        let token = self.tokens.token(account, None).await?;
        let mut attempt = self.attempt(account, &token, &prepared, &mut budget).await?;
        if attempt.verdict == Verdict::TokenRejected {
            attempt = self.renew(account, &token, attempt, &prepared, &mut budget).await?;
        }
        // A verdict on quota or rate is where another account's turn comes: `attempt` may be made again with it.
        let mut answer = if attempt.answer.status.is_success() {
            self.health.recovered(&account.id);
            self.succeed(attempt.answer, &prepared).await
        } else {
            self.fail(account, attempt)
        };
        answer.note_account(&account.id);
        Ok(answer)
    }

    /// The token was refused: gets another one and asks once more.
    async fn renew(
        &self,
        account: &Account,
        refused: &Token,
        mut attempt: Attempt,
        prepared: &Prepared,
        budget: &mut Budget,
    ) -> Result<Attempt> {
        match self.tokens.token(account, Some(&refused.access_token)).await {
            Ok(token) => {
                attempt = self.attempt(account, &token, prepared, budget).await?;
                if attempt.verdict == Verdict::TokenRejected {
                    let message = "Qwen refused this login, and a fresh token for it too. Log in again with `opencode auth login`.";
                    let error = Error::new(Code::TokenRejected, message).with_account(&account.id);
                    self.needs_login(account, &token.access_token, &error);
                    attempt.failure = Some(error);
                }
            }
            // Nothing is known of the login yet: it is not the caller's 401.
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                self.health.failed(&account.id, &refused.access_token, &error, self.clock.now_ms());
                attempt.failure = Some(error);
            }
        }
        Ok(attempt)
    }

    async fn succeed(&self, mut answer: Answer, prepared: &Prepared) -> Answer {
        if self.settings.for_host
            && prepared.is_chat_stream
            && let Some(problem) = answer.body.watch().await
        {
            return answer.into_final(&FinalError::of_stream(&problem));
        }
        answer
    }

    fn fail(&self, account: &Account, attempt: Attempt) -> Answer {
        let Attempt { mut answer, verdict, error_body, retry_after_ms, failure } = attempt;
        if let Some(failure) = failure {
            return match FinalError::of_error(&failure) {
                Some(final_error) if self.settings.for_host => answer.into_final(&final_error),
                _ => {
                    answer.explain(&failure, &error_body);
                    answer
                }
            };
        }
        let limit = FinalError::of_verdict(verdict, retry_after_ms);
        if verdict == Verdict::QuotaExhausted {
            answer.note_error(Code::QuotaExhausted);
        }
        let Some(limit) = limit else { return answer };
        self.health.limited(&account.id, limit.code, &limit.message, self.clock.now_ms());
        if self.settings.for_host { answer.into_final(&limit) } else { answer }
    }

    fn needs_login(&self, account: &Account, access_token: &Secret, error: &Error) {
        self.health.failed(&account.id, access_token, error, self.clock.now_ms());
        self.tell(EventKind::NeedsLogin, account, error);
    }

    fn tell(&self, kind: EventKind, account: &Account, error: &Error) {
        self.events.emit(Event {
            kind,
            at: self.clock.now_ms(),
            message: error.message().to_owned(),
            account_id: Some(account.id.clone()),
            code: Some(error.code()),
        });
    }

    /// Checks where the request leads and shapes its body, once for all attempts.
    async fn prepare(&self, account: &Account, request: Request) -> Result<Prepared> {
        if request.method == Method::CONNECT || request.method == Method::TRACE {
            return Err(Error::invalid_argument("method", "must not be CONNECT or TRACE"));
        }
        if request.body.is_some() && (request.method == Method::GET || request.method == Method::HEAD) {
            return Err(Error::invalid_argument("body", "must not be given with GET or HEAD"));
        }
        let mut bases = vec![self.settings.base_url.clone()];
        if let Ok(Some(credentials)) = self.tokens.credentials(account).await {
            bases.extend(account.base_url(&credentials.token, self.settings.base_url_override.as_ref()).ok());
        }
        let target = Target::resolve(&request.url, &bases)?;
        let Request { method, mut headers, mut body, redirect, .. } = request;
        let mut is_chat_stream = false;
        if target.is_chat()
            && let Some(bytes) = &body
        {
            let ids = self.settings.qwen_mode.then(|| self.ids(&headers));
            let bytes = bytes.clone();
            let shaped = if bytes.len() > LARGE_BODY {
                let shaping = move || shape(&bytes, ids.as_ref());
                tokio::task::spawn_blocking(shaping).await.map_err(Error::internal)?
            } else {
                shape(&bytes, ids.as_ref())
            };
            if let Some(shaped) = shaped {
                is_chat_stream = shaped.stream;
                body = Some(shaped.bytes.into());
            }
        }
        if body.is_none() {
            headers.remove(CONTENT_TYPE);
        }
        Ok(Prepared { target, method, headers, body, redirect, is_chat_stream })
    }

    /// The ids of this request: the host's own session where it names one.
    fn ids(&self, headers: &HeaderMap) -> Ids {
        let named = headers.get(CONVERSATION_HEADER).and_then(|value| value.to_str().ok());
        let session_id = named.unwrap_or(&self.session_id).to_owned();
        let count = self.prompts.fetch_add(1, Ordering::Relaxed);
        Ids { prompt_id: format!("{session_id}########{count}"), session_id }
    }

    async fn attempt(
        &self,
        account: &Account,
        token: &Token,
        prepared: &Prepared,
        budget: &mut Budget,
    ) -> Result<Attempt> {
        let base = account.base_url(token, self.settings.base_url_override.as_ref())?;
        let url = prepared.target.url_below(&base);
        let headers = headers::for_attempt(&prepared.headers, &token.access_token)?;
        let response = self.exchange(account, url, headers, prepared, budget).await?;
        let (status, url) = (response.status(), response.url().clone());
        let headers = headers::of_answer(response.headers().clone());
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after_ms = retry_after.and_then(|value| retry_after_ms(value, self.clock.now_ms()));
        let mut answer =
            Answer { status, headers, url, body: Body::live(response, self.settings.idle_timeout) };
        let error_body =
            if needs_body(status.as_u16()) { answer.body.peek(MAX_ERROR_BODY).await } else { Vec::new() };
        let verdict = classify(status.as_u16(), &error_body);
        Ok(Attempt { answer, verdict, error_body, retry_after_ms, failure: None })
    }

    /// One exchange with the server, redirects on the same origin included. A connection that failed before anything
    /// was sent is tried once more.
    async fn exchange(
        &self,
        account: &Account,
        mut url: Url,
        headers: HeaderMap,
        prepared: &Prepared,
        budget: &mut Budget,
    ) -> Result<reqwest::Response> {
        let client = self.http.client().await?;
        let mut may_reconnect = true;
        loop {
            if !budget.take() {
                return Err(Error::new(
                    Code::Network,
                    "Qwen's host redirects again and again. Check the base URL, then try again.",
                ));
            }
            let host = url.host_str().unwrap_or("Qwen").to_owned();
            let mut request = client.request(prepared.method.clone(), url.clone()).headers(headers.clone());
            if let Some(body) = &prepared.body {
                request = request.body(body.clone());
            }
            let response = match tokio::time::timeout(self.settings.idle_timeout, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => {
                    let failure = TransportError::new(&error, &host);
                    if failure.before_send && std::mem::take(&mut may_reconnect) {
                        self.tell(EventKind::Retry, account, &failure.error);
                        continue;
                    }
                    return Err(failure.error);
                }
                Err(_) => return Err(TransportError::timeout(&host, self.settings.idle_timeout).error),
            };
            let Some(next) = redirected(&response, &url, prepared) else { return Ok(response) };
            match prepared.redirect {
                Redirect::Follow if next.origin() == url.origin() => url = next,
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

/// Where a redirect leads that keeps the method: others would turn a POST into a GET.
fn redirected(response: &reqwest::Response, from: &Url, prepared: &Prepared) -> Option<Url> {
    let keeps_method = match response.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
            prepared.method == Method::GET || prepared.method == Method::HEAD
        }
        _ => false,
    };
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    keeps_method.then(|| from.join(location).ok()).flatten()
}
