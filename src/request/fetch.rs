//! The pipeline of one request: where, who, what, and what to do about the answer.
//!
//! [`Plan`] says what comes next; the methods here carry it out.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use http::header::HeaderValue;
use http::{HeaderName, Method};
use url::Url;

use super::answer::Answer;
use super::attempt::{Access, Attempt, Budget, Sender};
use super::classify::Verdict;
use super::host_errors::FinalError;
use super::plan::{Outcome, Plan, Step};
use super::prepare::{Prepared, Request};
use crate::accounts::account::Account;
use crate::accounts::cooldown::QuotaWindow;
use crate::accounts::kind::Kind;
use crate::accounts::rotation::Rotation;
use crate::accounts::view::View;
use crate::cli::CliFallback;
use crate::clock::Clock;
use crate::error::{Code, Error, Result};
use crate::events::{EventKind, Events};
use crate::logging::Logger;
use crate::models::book::ModelBook;
use crate::oauth::token::Token;
use crate::plans::Price;
use crate::request_log::{self, RequestLog, RequestRecord};
use crate::store::record::Record;
use crate::token_manager::TokenManager;
use crate::usage::UsageBook;

/// Says that an account answered that costs more than the user's choice.
const PAID_HEADER: HeaderName = HeaderName::from_static("x-qwen-paid-fallback");
/// The longest `Retry-After` that is waited for, and the wait where a rate limit names none.
pub(super) const LONGEST_WAIT_MS: u64 = 10_000;
const DEFAULT_WAIT_MS: u64 = 1_000;
/// A token of this age that was refused before is still as fresh as another would be.
const FRESH_MS: u64 = 10 * 60_000;
/// What a rate limit is called where the server has not said.
pub(super) const RATE_LIMIT_CODE: &str = "rate_limit_exceeded";
/// What a quota error is called where the server has not said.
pub(super) const QUOTA_CODE: &str = "insufficient_quota";

/// What the pipeline needs to know, for a client's life.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the user's")]
pub struct Settings {
    /// The base URL that callers address.
    pub base_url: Url,
    /// Whether bodies are shaped as the official CLI shapes them.
    pub qwen_mode: bool,
    /// Whether errors are made final for `OpenCode`.
    pub for_host: bool,
    /// How requests are spread over the accounts.
    pub rotation: Rotation,
    /// Whether a request may move on to a dearer kind of account.
    pub allow_paid_fallback: bool,
    /// How long an exhausted account is left alone.
    pub quota_cooldown_ms: u64,
    /// Whether a smaller payload is tried when every account is out of quota.
    pub degrade: bool,
    /// The qwen CLI, where it may be asked when every account is out of quota.
    pub fallback: Option<Arc<CliFallback>>,
    /// Which models each account serves.
    pub models: ModelBook,
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
    /// What accounts have given.
    pub usage: UsageBook,
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
    pub(super) prepared: Arc<Prepared>,
    pub(super) view: Arc<View>,
    pub(super) plan: Plan,
    pub(super) budget: Budget,
    /// The account that was asked first.
    pub(super) first_asked: Option<String>,
    /// What the last account that was asked came to.
    pub(super) last: Option<Result<Answer>>,
    /// The server's code for the last quota error.
    pub(super) quota_code: Option<String>,
    /// The part of the quota that it says is spent.
    pub(super) quota_window: Option<QuotaWindow>,
    pub(super) utc_offset_minutes: i32,
    /// Why the CLI did not answer.
    pub(super) cli_failure: Option<Error>,
    pub(super) record: RequestRecord,
    /// The accounts that it may be sent with.
    pub(super) allowed: Vec<String>,
    /// The names of those that would serve too, and cost more than the user has agreed to.
    pub(super) dearer: Vec<String>,
    /// What costs more is a crossing.
    pub(super) agreed: Price,
    /// Whether the account that was asked last is dearer than that.
    pub(super) has_crossed: bool,
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
        // Made by the thread that runs it: what one thread allocates and another frees, both wait for.
        let answer = Box::pin(self.run(request)).await;
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
                Step::Degrade(id) => Box::pin(self.degrade(call, &id)).await?,
                Step::FallBack => Box::pin(self.fall_back(call)).await?,
                Step::GiveUp => return Ok(self.give_up(call)),
                Step::PassOn => {
                    return call
                        .last
                        .take()
                        .unwrap_or_else(|| Err(Error::internal("there was nobody to ask")));
                }
            };
            match ended {
                Ended::Answered(mut answer) => {
                    if call.has_crossed {
                        answer.headers.insert(PAID_HEADER, HeaderValue::from_static("1"));
                    }
                    return Ok(*answer);
                }
                Ended::With(outcome) => step = call.plan.after(outcome),
            }
        }
    }

    /// Asks one account, with one second try where the first could do better.
    async fn ask(&self, call: &mut Call, id: &str) -> Result<Ended> {
        // The degraded try comes after all accounts.
        call.budget.reserved = call.plan.left() + 1;
        let view = Arc::clone(&call.view);
        let Some(record) = view.record(id) else { return Ok(Ended::With(Outcome::Unusable)) };
        let account = view.account(record);
        self.note_crossing(call, &account);
        // The first account was looked at when the call began.
        let seen = call.first_asked.is_none().then(|| Arc::clone(&view));
        call.first_asked.get_or_insert_with(|| account.id.clone());
        let mut access = match self.access(&account, seen).await {
            Ok(access) => access,
            // A server that can't be reached says nothing of the account.
            Err(error) if error.is_retryable() || !is_about_login(&error) => return Err(error),
            Err(error) => {
                call.last = Some(Err(error));
                return Ok(Ended::With(Outcome::Unusable));
            }
        };
        let mut attempt = self.attempt(call, &account, &access).await?;
        if attempt.verdict == Verdict::TokenRejected {
            let renewed = match self.renewed(&account, record, &access.token).await {
                Ok(renewed) => renewed,
                // Nothing is known of the login yet: it is not the caller's 401.
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) => {
                    // A refused refresh token was told of by whoever redeemed it.
                    if account.kind != Kind::OAuth && record.rejected_at().is_none() {
                        self.tell(EventKind::NeedsLogin, &account, error.message(), Some(error.code()));
                    }
                    return Ok(self.unusable(call, &account, &access.token, attempt, &error).await);
                }
            };
            if let Some(renewed) = renewed {
                access = renewed;
                attempt = self.attempt(call, &account, &access).await?;
            }
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
            attempt = self.attempt(call, &account, &access).await?;
        }
        self.judge(call, &account, record, &access.token, attempt).await
    }

    /// A fresh token of an account, by the accounts as they are now or were `seen` a moment ago.
    pub(super) async fn access(&self, account: &Account, seen: Option<Arc<View>>) -> Result<Access> {
        let view = match seen {
            Some(view) => view,
            None => self.tokens.view().await?,
        };
        self.sender.access(account, self.tokens.token_in(view, &account.id, None).await?)
    }

    /// Another token in place of one that was refused; `None` where that was as fresh as a token can be, so that another
    /// would be refused too.
    pub(super) async fn renewed(
        &self,
        account: &Account,
        record: &Record,
        refused: &Token,
    ) -> Result<Option<Access>> {
        let was_just_obtained = record.token().is_none_or(|held| held.access_token != refused.access_token);
        let age = self.journal.clock.now_ms().abs_diff(record.updated_at());
        let is_known = age < FRESH_MS
            && record.rejected_at().is_some()
            && record.last_error().is_some_and(|last| last.code == Code::FreeTierDiscontinued.as_str());
        if was_just_obtained || is_known {
            let view = self.tokens.view().await?;
            let held = view.record(record.id()).and_then(Record::token);
            let other = held.filter(|held| held.access_token != refused.access_token);
            return other.map(|token| self.sender.access(account, Arc::new(token))).transpose();
        }
        let token = self.tokens.token(record.id(), Some(&refused.access_token)).await?;
        self.sender.access(account, token).map(Some)
    }

    async fn attempt(&self, call: &mut Call, account: &Account, access: &Access) -> Result<Attempt> {
        let prepared = Arc::clone(&call.prepared);
        self.send(call, account, access, &prepared).await
    }

    pub(super) async fn send(
        &self,
        call: &mut Call,
        account: &Account,
        access: &Access,
        prepared: &Prepared,
    ) -> Result<Attempt> {
        let retry = |error: &Error| self.tell(EventKind::Retry, account, error.message(), Some(error.code()));
        call.record.attempt_started(&account.label, &access.base_url, &access.token.access_token);
        let mut attempt = self.sender.attempt(account, access, prepared, &mut call.budget, retry).await;
        if let Ok(Attempt { answer, .. }) = &mut attempt
            && answer.status.is_success()
            && prepared.method == Method::POST
        {
            let usage = &self.journal.usage;
            answer.body.metered(usage.meter(&account.id, call.utc_offset_minutes, &answer.headers));
        }
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
