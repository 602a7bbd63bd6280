//! The pipeline of one request: where, who, what, and what to do about the answer.
//!
//! [`Plan`] says what comes next; the methods here carry it out.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use http::{HeaderName, StatusCode};
use serde_json::json;
use url::Url;

use super::answer::Answer;
use super::attempt::{Attempt, Budget, Sender};
use super::body::Ids;
use super::classify::Verdict;
use super::host_errors::{Cooling, FinalError, all_cooling};
use super::plan::{Candidate, DEGRADE_INTERVAL_MS, Outcome, Plan, Situation, Step};
use super::prepare::{Prepared, Request};
use crate::accounts::account::Account;
use crate::accounts::registry::View;
use crate::accounts::rotation::Rotation;
use crate::accounts::standing::standing;
use crate::base_url::display;
use crate::cli::CliFallback;
use crate::clock::Clock;
use crate::error::{Code, Error, Result};
use crate::events::{Event, EventKind, Events};
use crate::logging::Logger;
use crate::oauth::token::Token;
use crate::request_log::{self, RequestLog, RequestRecord};
use crate::store::document::Document;
use crate::token_manager::TokenManager;

/// Where a host names its conversation.
const CONVERSATION_HEADER: &str = "x-session-id";
/// Says that a smaller payload was answered.
const DEGRADED_HEADER: HeaderName = HeaderName::from_static("x-qwen-degraded");
/// The longest `Retry-After` that is waited for, and the wait where a rate limit names none.
pub(super) const LONGEST_WAIT_MS: u64 = 10_000;
const DEFAULT_WAIT_MS: u64 = 1_000;
/// What a rate limit is called where the server has not said.
pub(super) const RATE_LIMIT_CODE: &str = "rate_limit_exceeded";
/// What a quota error is called where the server has not said.
pub(super) const QUOTA_CODE: &str = "insufficient_quota";

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
    /// The qwen CLI, where it may be asked when every account is out of quota.
    pub fallback: Option<Arc<CliFallback>>,
}

/// When things happen, and who is told.
#[derive(Debug)]
pub struct Journal {
    /// The time.
    pub clock: Clock,
    /// Who is told what happens.
    pub events: Events,
    /// The debug log.
    pub logger: Logger,
    /// The log of requests.
    pub request_log: RequestLog,
}

/// The request path of a client.
#[derive(Debug)]
pub struct Pipeline {
    pub(super) settings: Settings,
    pub(super) sender: Sender,
    pub(super) tokens: TokenManager,
    pub(super) journal: Journal,
    pub(super) session_id: String,
    pub(super) prompts: AtomicU64,
    pub(super) turns: AtomicUsize,
    pub(super) last_used: Mutex<Option<String>>,
}

/// One call of the caller's, while it lasts.
pub(super) struct Call {
    pub(super) prepared: Prepared,
    pub(super) view: Arc<View>,
    pub(super) plan: Plan,
    pub(super) budget: Budget,
    /// The account that was asked first.
    pub(super) first_asked: Option<String>,
    /// What the last account that was asked came to.
    pub(super) last: Option<Result<Answer>>,
    /// The server's code for the last quota error.
    pub(super) quota_code: Option<String>,
    pub(super) utc_offset_minutes: i32,
    /// Why the CLI did not answer.
    pub(super) cli_failure: Option<Error>,
    pub(super) record: RequestRecord,
}

/// How a step ended: with the call's answer, or with a reason for another step.
pub(super) enum Ended {
    Answered(Box<Answer>),
    With(Outcome),
}

impl Pipeline {
    /// Sends nothing until [`Pipeline::fetch`] is called.
    #[must_use]
    pub fn new(settings: Settings, sender: Sender, tokens: TokenManager, journal: Journal) -> Self {
        Self {
            settings,
            sender,
            tokens,
            journal,
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
        let answer = self.carry_out(&mut call).await;
        let mut record = call.record;
        match answer {
            Ok(mut answer) => {
                record.response(answer.status.as_u16(), &answer.headers);
                answer.body.recorded(record);
                Ok(answer)
            }
            Err(error) => {
                record.finish(request_log::Outcome::Failed(error.code()));
                Err(error)
            }
        }
    }

    async fn carry_out(&self, call: &mut Call) -> Result<Answer> {
        let mut step = call.plan.begin();
        loop {
            let ended = match step {
                Step::Ask(id) => self.ask(call, &id).await?,
                Step::Degrade(id) => self.degrade(call, &id).await?,
                Step::FallBack => self.fall_back(call).await?,
                Step::GiveUp => return Ok(self.give_up(call)),
                Step::PassOn => {
                    return call
                        .last
                        .take()
                        .unwrap_or_else(|| Err(Error::internal("there was nobody to ask")));
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
        let url = request.url.clone();
        let ids = self.settings.qwen_mode.then(|| self.ids(&request.headers));
        let prepared = Prepared::new(request, &bases, ids).await?;
        if records.is_empty() {
            return Err(view.no_account());
        }
        let now_ms = self.journal.clock.now_ms();
        let candidates: Vec<_> = view
            .listed(now_ms)
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
            may_fall_back: self.settings.fallback.is_some() && prepared.is_chat,
        });
        let budget = Budget::for_accounts(candidates.len());
        let record = self.journal.request_log.start(&request_log::Start {
            url: &url,
            method: &prepared.method,
            headers: &prepared.headers,
            body: prepared.body.as_ref(),
            stream: prepared.is_chat_stream,
        });
        Ok(Call {
            prepared,
            view,
            plan,
            budget,
            first_asked: None,
            last: None,
            quota_code: None,
            utc_offset_minutes,
            cli_failure: None,
            record,
        })
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
        call.first_asked.get_or_insert_with(|| account.id.clone());
        let mut token = match self.tokens.token(id, None).await {
            Ok(token) => token,
            // A server that can't be reached says nothing of the account.
            Err(error) if error.is_retryable() || !is_about_login(&error) => return Err(error),
            Err(error) => {
                call.last = Some(Err(error));
                return Ok(Ended::With(Outcome::Unusable));
            }
        };
        if let Err(error) = account.base_url(&token, self.sender.base_url_override.as_ref()) {
            call.last = Some(Err(error));
            return Ok(Ended::With(Outcome::Unusable));
        }
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

    async fn attempt(&self, call: &mut Call, account: &Account, token: &Token) -> Result<Attempt> {
        let prepared = call.prepared.clone();
        self.send(call, account, token, &prepared).await
    }

    async fn send(
        &self,
        call: &mut Call,
        account: &Account,
        token: &Token,
        prepared: &Prepared,
    ) -> Result<Attempt> {
        let retry = |error: &Error| self.tell(EventKind::Retry, account, error.message(), Some(error.code()));
        let base_url =
            account.base_url(token, self.sender.base_url_override.as_ref()).map(|url| display(&url));
        call.record.attempt_started(&account.label, &base_url.unwrap_or_default(), &token.access_token);
        let attempt = self.sender.attempt(account, token, prepared, &mut call.budget, retry).await;
        let (status, verdict) = match &attempt {
            Ok(attempt) => (Some(attempt.answer.status.as_u16()), attempt.verdict.as_str()),
            Err(error) => (None, error.code().as_str()),
        };
        call.record.attempt_ended(status, verdict);
        let shown_status = status.unwrap_or_default();
        self.journal
            .logger
            .debug("attempt", &[("account", &account.id), ("status", &shown_status), ("verdict", &verdict)]);
        attempt
    }

    /// Every account is out of quota: a smaller payload may still be answered.
    async fn degrade(&self, call: &mut Call, id: &str) -> Result<Ended> {
        let (Some(record), Some(degraded)) = (call.view.record(id).cloned(), call.prepared.degraded().await?)
        else {
            return Ok(Ended::With(Outcome::Failed));
        };
        let account = call.view.account(&record);
        if !self.may_degrade(call.plan.found_none_ready()).await {
            return Ok(Ended::With(Outcome::Failed));
        }
        let Ok(token) = self.tokens.token(id, None).await else { return Ok(Ended::With(Outcome::Failed)) };
        call.budget.reserved = usize::MAX;
        call.record.note("degraded");
        let sent = self.send(call, &account, &token, &degraded).await;
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

    /// Whether a degraded payload may be sent. If every account was cooling to begin with, that is once a minute for all
    /// processes.
    async fn may_degrade(&self, needs_leave: bool) -> bool {
        let now = self.journal.clock.now_ms();
        let claim = move |document: &mut Document| {
            let is_free = now.abs_diff(document.degraded_at()) >= DEGRADE_INTERVAL_MS;
            if is_free || !needs_leave {
                document.set_degraded_at(now);
            }
            is_free || !needs_leave
        };
        let claimed = self.tokens.with_registry(move |registry| registry.with_store(claim)).await;
        // A store that can't be written must not stop an answer.
        claimed.unwrap_or(true)
    }

    /// Every account is out of quota: the qwen CLI has a login or key of its own.
    async fn fall_back(&self, call: &mut Call) -> Result<Ended> {
        let (Some(fallback), Some(body)) = (self.settings.fallback.clone(), call.prepared.body.clone())
        else {
            return Ok(Ended::With(Outcome::Failed));
        };
        call.record.note("cli-fallback");
        let answer = match fallback.complete(&body).await {
            Ok(answer) => answer,
            Err(error) => {
                call.cli_failure = Some(error);
                return Ok(Ended::With(Outcome::Failed));
            }
        };
        let now = self.journal.clock.now_ms();
        let message = "All accounts are out of quota; the qwen CLI answered.".to_owned();
        self.emit(Event::new(EventKind::CliFallback, now, message));
        let url = call.prepared.target.url_below(&self.settings.base_url);
        let answer = Answer::of_cli(url, answer);
        Ok(Ended::Answered(Box::new(self.watched(answer, &call.prepared).await)))
    }

    /// The last word: every account is out of quota.
    fn give_up(&self, call: &Call) -> Answer {
        let now = self.journal.clock.now_ms();
        let free_at = call.plan.free_at().unwrap_or(now);
        let listed: Vec<_> = call.view.listed(now).collect();
        let cooling: Vec<_> = listed.iter().filter(|record| record.exhausted_until() > now).collect();
        let is_rate_limit = call.quota_code.is_none()
            && !cooling.is_empty()
            && cooling.iter().all(|record| record.is_rate_limited());
        let why = if is_rate_limit { Cooling::RateLimited } else { Cooling::OutOfQuota };
        let mut stored = cooling.iter().filter(|record| is_rate_limit || !record.is_rate_limited());
        let stored = stored.find_map(|record| record.last_error_code());
        let code = call.quota_code.as_deref().or(stored).unwrap_or(QUOTA_CODE);
        let mut message = all_cooling(why, listed.len(), free_at, now, call.utc_offset_minutes);
        if let Some(failure) = &call.cli_failure {
            message = format!("{message}\n{}", failure.message());
        }
        let url = call.prepared.target.url_below(&self.settings.base_url);
        let final_error = FinalError::of_cooling(why, &message);
        let mut answer = Answer::without_server(url, &final_error);
        if self.settings.for_host {
            return answer;
        }
        answer.status = StatusCode::TOO_MANY_REQUESTS;
        answer.set_json(&json!({"error": {"message": message, "type": code, "code": code}}));
        answer.headers.insert(RETRY_AFTER, HeaderValue::from((free_at.saturating_sub(now)).div_ceil(1000)));
        answer
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
