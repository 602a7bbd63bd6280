//! The pipeline of one request: where, who, what, and what to do about the answer.
//!
//! [`Plan`] says what comes next; the methods here carry it out.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use http::{HeaderName, StatusCode};
use serde_json::json;
use url::Url;

use super::answer::Answer;
use super::attempt::{Attempt, Budget, Sender};
use super::body::Ids;
use super::classify::{Verdict, error_code};
use super::host_errors::{FinalError, out_of_quota};
use super::plan::{Candidate, Outcome, Plan, Situation, Step};
use super::prepare::{Prepared, Request};
use crate::accounts::account::Account;
use crate::accounts::cooldown::exhausted_until;
use crate::accounts::registry::View;
use crate::accounts::rotation::Rotation;
use crate::accounts::standing::standing;
use crate::clock::Clock;
use crate::error::{Code, Error, Result};
use crate::events::{Event, EventKind, Events};
use crate::oauth::token::Token;
use crate::store::document::{LastError, Record};
use crate::token_manager::TokenManager;

/// Where a host names its conversation.
const CONVERSATION_HEADER: &str = "x-session-id";
/// Says that a smaller payload was answered.
const DEGRADED_HEADER: HeaderName = HeaderName::from_static("x-qwen-degraded");
/// The longest `Retry-After` that is waited for, and the wait where a rate limit names none.
const LONGEST_WAIT_MS: u64 = 10_000;
const DEFAULT_WAIT_MS: u64 = 1_000;
/// What a quota error is called where the server has not said.
const QUOTA_CODE: &str = "insufficient_quota";

/// What the pipeline needs to know, for a client's life.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The base URL that callers address.
    pub base_url: Url,
    /// Whether bodies are shaped as the official CLI shapes them.
    pub qwen_mode: bool,
    /// Whether errors are made final for `OpenCode`.
    pub for_host: bool,
    /// How requests are spread over the accounts.
    pub rotation: Rotation,
    /// How long an exhausted account is left alone.
    pub quota_cooldown_ms: u64,
    /// Whether a smaller payload is tried when every account is out of quota.
    pub degrade: bool,
}

/// The request path of a client.
#[derive(Debug)]
pub struct Pipeline {
    settings: Settings,
    sender: Sender,
    tokens: TokenManager,
    clock: Clock,
    events: Events,
    session_id: String,
    prompts: AtomicU64,
    turns: AtomicUsize,
    last_used: Mutex<Option<String>>,
}

/// One call of the caller's, while it lasts.
struct Call {
    prepared: Prepared,
    view: Arc<View>,
    plan: Plan,
    budget: Budget,
    /// What the last account that was asked came to.
    last: Option<Result<Answer>>,
    /// The server's code for the last quota error.
    quota_code: Option<String>,
    utc_offset_minutes: i32,
}

/// How a step ended: with the call's answer, or with a reason for another step.
enum Ended {
    Answered(Box<Answer>),
    With(Outcome),
}

impl Pipeline {
    /// Sends nothing until [`Pipeline::fetch`] is called.
    #[must_use]
    pub fn new(
        settings: Settings,
        sender: Sender,
        tokens: TokenManager,
        clock: Clock,
        events: Events,
    ) -> Self {
        Self {
            settings,
            sender,
            tokens,
            clock,
            events,
            session_id: uuid::Uuid::new_v4().to_string(),
            prompts: AtomicU64::new(0),
            turns: AtomicUsize::new(0),
            last_used: Mutex::default(),
        }
    }

    /// Sends a request with the account whose turn it is. An HTTP error of the API is an answer, not an error.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT`, `ERR_QWEN_NOT_LOGGED_IN`, `ERR_QWEN_NETWORK`, `ERR_QWEN_TIMEOUT`, and those of
    /// [`TokenManager::token`].
    pub async fn fetch(&self, request: Request) -> Result<Answer> {
        let url = request.url.clone();
        let answer = self.run(request).await;
        if !self.settings.for_host {
            return answer;
        }
        answer.or_else(|error| {
            let known = FinalError::of_error(&error).zip(Url::parse(&url).ok());
            known.map_or(Err(error), |(final_error, url)| Ok(Answer::without_server(url, &final_error)))
        })
    }

    async fn run(&self, request: Request) -> Result<Answer> {
        let mut call = self.begin(request).await?;
        let mut step = call.plan.begin();
        loop {
            let ended = match step {
                Step::Ask(id) => self.ask(&mut call, &id).await?,
                Step::Degrade(id) => self.degrade(&mut call, &id).await?,
                Step::FallBack => Ended::With(Outcome::Failed),
                Step::GiveUp => return Ok(self.give_up(&call)),
                Step::PassOn => {
                    return call.last.unwrap_or_else(|| Err(Error::internal("there was nobody to ask")));
                }
            };
            match ended {
                Ended::Answered(answer) => return Ok(*answer),
                Ended::With(outcome) => step = call.plan.after(outcome),
            }
        }
    }

    /// Looks at the accounts, checks where the request leads, and shapes its body.
    async fn begin(&self, request: Request) -> Result<Call> {
        let view = self.tokens.view().await?;
        let records = &view.document.records;
        let mut bases = vec![self.settings.base_url.clone()];
        bases.extend(records.iter().filter_map(|record| {
            view.account(record).base_url(&record.token()?, self.sender.base_url_override.as_ref()).ok()
        }));
        let utc_offset_minutes = request.utc_offset_minutes;
        let ids = self.settings.qwen_mode.then(|| self.ids(&request.headers));
        let prepared = Prepared::new(request, &bases, ids).await?;
        if records.is_empty() {
            return Err(view.no_account());
        }
        let now_ms = self.clock.now_ms();
        let candidates: Vec<_> = records
            .iter()
            .map(|record| Candidate { id: record.id().to_owned(), standing: standing(record, now_ms) })
            .collect();
        let plan = Plan::new(&Situation {
            candidates: &candidates,
            active: view.document.active_id(),
            rotation: self.settings.rotation,
            turn: self.turns.fetch_add(1, Ordering::Relaxed),
            process: usize::try_from(std::process::id()).unwrap_or_default(),
            now_ms,
            degraded_at: view.document.degraded_at(),
            may_degrade: self.settings.degrade && prepared.is_chat,
            may_fall_back: false,
        });
        let budget = Budget::for_accounts(records.len());
        Ok(Call { prepared, view, plan, budget, last: None, quota_code: None, utc_offset_minutes })
    }

    /// The ids of this request: the host's own session where it names one.
    fn ids(&self, headers: &HeaderMap) -> Ids {
        let named = headers.get(CONVERSATION_HEADER).and_then(|value| value.to_str().ok());
        let session_id = named.unwrap_or(&self.session_id).to_owned();
        let count = self.prompts.fetch_add(1, Ordering::Relaxed);
        Ids { prompt_id: format!("{session_id}########{count}"), session_id }
    }

    /// Asks one account, with one second try where the first could do better.
    async fn ask(&self, call: &mut Call, id: &str) -> Result<Ended> {
        // The degraded try comes after all accounts.
        call.budget.reserved = call.plan.left() + 1;
        let Some(record) = call.view.record(id).cloned() else { return Ok(Ended::With(Outcome::Unusable)) };
        let account = call.view.account(&record);
        let mut token = match self.tokens.token(id, None).await {
            Ok(token) => token,
            // A server that can't be reached says nothing of the account.
            Err(error) if error.is_retryable() || !is_about_login(&error) => return Err(error),
            Err(error) => {
                call.last = Some(Err(error));
                return Ok(Ended::With(Outcome::Unusable));
            }
        };
        let mut attempt = self.attempt(call, &account, &token).await?;
        if attempt.verdict == Verdict::TokenRejected {
            let renewed = match self.tokens.token(id, Some(&token.access_token)).await {
                Ok(renewed) => renewed,
                // Nothing is known of the login yet: it is not the caller's 401.
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) => return Ok(self.unusable(call, &account, &token, attempt, &error).await),
            };
            token = renewed;
            attempt = self.attempt(call, &account, &token).await?;
        }
        if attempt.verdict == Verdict::RateLimited
            && let Some(wait) = short_wait(attempt.retry_after_ms)
            && call.budget.may_retry()
        {
            self.tell(
                EventKind::Retry,
                &account,
                "Qwen asks for a short break; the request is sent again after it.",
                None,
            );
            tokio::time::sleep(wait).await;
            attempt = self.attempt(call, &account, &token).await?;
        }
        self.judge(call, &account, &record, &token, attempt).await
    }

    /// What an account's answer means for the call.
    async fn judge(
        &self,
        call: &mut Call,
        account: &Account,
        record: &Record,
        token: &Token,
        attempt: Attempt,
    ) -> Result<Ended> {
        match attempt.verdict {
            Verdict::Pass => {
                let mut answer = attempt.answer;
                if answer.status.is_success() {
                    self.succeeded(account, record).await;
                    answer = self.watched(answer, &call.prepared).await;
                }
                Ok(Ended::Answered(Box::new(answer)))
            }
            Verdict::TokenRejected => {
                let message = "Qwen refused this login, and a fresh token for it too. Log in again with `opencode auth login`.";
                let error = Error::new(Code::TokenRejected, message).with_account(&account.id);
                self.tell(EventKind::NeedsLogin, account, error.message(), Some(error.code()));
                Ok(self.unusable(call, account, token, attempt, &error).await)
            }
            Verdict::QuotaExhausted => {
                call.quota_code = error_code(&attempt.error_body);
                let now = self.clock.now_ms();
                let until = exhausted_until(now, self.settings.quota_cooldown_ms, attempt.retry_after_ms);
                let until = self.cool(account, until, call.quota_code.clone()).await;
                let message = format!("The quota of the Qwen account \"{}\" is used up.", account.label);
                self.emit(Event {
                    until: Some(until),
                    code: Some(Code::QuotaExhausted),
                    ..Event::of_account(EventKind::Exhausted, now, &account.id, &account.label, message)
                });
                Ok(Ended::With(Outcome::Exhausted(until)))
            }
            Verdict::RateLimited => {
                let until = attempt.retry_after_ms.filter(|ms| *ms > LONGEST_WAIT_MS);
                let limit = FinalError::of_rate_limit(
                    attempt.retry_after_ms,
                    self.clock.now_ms(),
                    call.utc_offset_minutes,
                );
                let answer = match limit {
                    Some(limit) if self.settings.for_host => attempt.answer.into_final(&limit),
                    _ => attempt.answer,
                };
                let Some(wait) = until else { return Ok(Ended::Answered(Box::new(answer))) };
                self.cool(account, exhausted_until(self.clock.now_ms(), 0, Some(wait)), None).await;
                call.last = Some(Ok(answer));
                Ok(Ended::With(Outcome::RateLimited))
            }
        }
    }

    async fn attempt(&self, call: &mut Call, account: &Account, token: &Token) -> Result<Attempt> {
        let retry = |error: &Error| self.tell(EventKind::Retry, account, error.message(), Some(error.code()));
        self.sender.attempt(account, token, &call.prepared, &mut call.budget, retry).await
    }

    /// The account's login does not work; what the server said is kept in case nobody else can be asked.
    async fn unusable(
        &self,
        call: &mut Call,
        account: &Account,
        token: &Token,
        attempt: Attempt,
        error: &Error,
    ) -> Ended {
        let Attempt { mut answer, error_body, .. } = attempt;
        let now = self.clock.now_ms();
        let last = LastError {
            code: error.code().as_str().to_owned(),
            message: error.message().to_owned(),
            at: now,
        };
        let rejected = (error.code() == Code::TokenRejected).then(|| token.access_token.clone());
        self.note(&account.id, move |record, now| {
            if let Some(token) = &rejected {
                record.set_rejected(Some((token, now)));
            }
            record.set_last_error(Some(&last));
        })
        .await;
        answer = match FinalError::of_error(error) {
            Some(final_error) if self.settings.for_host => answer.into_final(&final_error),
            _ => {
                answer.explain(error, &error_body);
                answer
            }
        };
        call.last = Some(Ok(answer));
        Ended::With(Outcome::Unusable)
    }

    /// Lets an account cool, for all processes. One that another process has just found exhausted is left as it is.
    async fn cool(&self, account: &Account, until: u64, code: Option<String>) -> u64 {
        let (id, code) = (account.id.clone(), code.unwrap_or_else(|| QUOTA_CODE.to_owned()));
        let change = move |record: &mut Record, now: u64| {
            let known = record.exhausted_until();
            if known <= now || known < until && until - known > LONGEST_WAIT_MS {
                record.set_exhausted_until(until, Some(&code), now);
            }
            record.exhausted_until()
        };
        let written = self.tokens.with_registry(move |registry| registry.with_record(&id, change)).await;
        written.ok().flatten().unwrap_or(until)
    }

    /// Notes what a success says of an account, if that is news.
    async fn succeeded(&self, account: &Account, record: &Record) {
        let was_exhausted = record.exhausted_until() > 0;
        if was_exhausted {
            let message = format!("The Qwen account \"{}\" can be asked again.", account.label);
            self.tell(EventKind::Ready, account, &message, None);
        }
        if was_exhausted || record.rejected_at().is_some() || record.last_error().is_some() {
            self.note(&account.id, |record, now| {
                record.set_rejected(None);
                record.set_last_error(None);
                if record.exhausted_until() <= now {
                    record.set_exhausted_until(0, None, now);
                }
            })
            .await;
        }
        let before =
            self.last_used.lock().unwrap_or_else(PoisonError::into_inner).replace(account.id.clone());
        if let Some(before) = before.filter(|before| *before != account.id)
            && self.settings.rotation != Rotation::RoundRobin
        {
            let message = format!("Requests go to the Qwen account \"{}\" now.", account.label);
            let now = self.clock.now_ms();
            let event = Event::of_account(EventKind::Switched, now, &account.id, &account.label, message);
            self.emit(Event { from_account_id: Some(before), ..event });
        }
    }

    /// In a host, a stream that says nothing is an error.
    async fn watched(&self, mut answer: Answer, prepared: &Prepared) -> Answer {
        if self.settings.for_host
            && prepared.is_chat_stream
            && let Some(problem) = answer.body.watch().await
        {
            return answer.into_final(&FinalError::of_stream(&problem));
        }
        answer
    }

    /// Every account is out of quota: a smaller payload may still be answered.
    async fn degrade(&self, call: &mut Call, id: &str) -> Result<Ended> {
        let (Some(record), Some(degraded)) = (call.view.record(id).cloned(), call.prepared.degraded().await?)
        else {
            return Ok(Ended::With(Outcome::Failed));
        };
        let account = call.view.account(&record);
        let now = self.clock.now_ms();
        let noted = self
            .tokens
            .with_registry(move |registry| registry.with_store(|document| document.set_degraded_at(now)));
        // A store that can't be written must not stop an answer.
        let _ = noted.await;
        let Ok(token) = self.tokens.token(id, None).await else { return Ok(Ended::With(Outcome::Failed)) };
        call.budget.reserved = usize::MAX;
        let sent = self.sender.attempt(&account, &token, &degraded, &mut call.budget, |_| {}).await;
        let Some(mut answer) =
            sent.ok().map(|attempt| attempt.answer).filter(|answer| answer.status.is_success())
        else {
            return Ok(Ended::With(Outcome::Failed));
        };
        self.tell(
            EventKind::Degraded,
            &account,
            "All accounts are out of quota; a shorter request was answered.",
            None,
        );
        answer.headers.insert(DEGRADED_HEADER, HeaderValue::from_static("1"));
        Ok(Ended::Answered(Box::new(self.watched(answer, &degraded).await)))
    }

    /// The last word: every account is out of quota.
    fn give_up(&self, call: &Call) -> Answer {
        let now = self.clock.now_ms();
        let free_at = call.plan.free_at().unwrap_or(now);
        let records = &call.view.document.records;
        let message = out_of_quota(records.len(), free_at, now, call.utc_offset_minutes);
        let url = call.prepared.target.url_below(&self.settings.base_url);
        let final_error = FinalError::of_quota(&message);
        let mut answer = Answer::without_server(url, &final_error);
        if self.settings.for_host {
            return answer;
        }
        let stored = || records.iter().find_map(|record| record.last_error_code().map(str::to_owned));
        let code = call.quota_code.clone().or_else(stored).unwrap_or_else(|| QUOTA_CODE.to_owned());
        answer.status = StatusCode::TOO_MANY_REQUESTS;
        answer.set_json(&json!({"error": {"message": message, "type": QUOTA_CODE, "code": code}}));
        answer.headers.insert(RETRY_AFTER, HeaderValue::from((free_at.saturating_sub(now)).div_ceil(1000)));
        answer
    }

    /// Writes what is known of an account.
    async fn note(&self, id: &str, change: impl FnOnce(&mut Record, u64) + Send + 'static) {
        let id = id.to_owned();
        // What can't be written is only found out again.
        let _ = self.tokens.with_registry(move |registry| registry.with_record(&id, change)).await;
    }

    fn tell(&self, kind: EventKind, account: &Account, message: &str, code: Option<Code>) {
        let event =
            Event::of_account(kind, self.clock.now_ms(), &account.id, &account.label, message.to_owned());
        self.emit(Event { code, ..event });
    }

    fn emit(&self, event: Event) {
        self.events.emit(event);
    }
}

/// A wait that is short enough to be made for the caller.
fn short_wait(retry_after_ms: Option<u64>) -> Option<std::time::Duration> {
    let ms = retry_after_ms.unwrap_or(DEFAULT_WAIT_MS);
    (ms <= LONGEST_WAIT_MS).then(|| std::time::Duration::from_millis(ms))
}

/// Whether an error says that this account's login does not work, so that another may be asked.
fn is_about_login(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::RefreshTokenInvalid
            | Code::CredentialsInvalid
            | Code::TokenRejected
            | Code::InvalidResponse
            | Code::InvalidArgument
    )
}
