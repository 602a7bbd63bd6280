//! One request from start to end: it is prepared, sent with one account after another, and answered.
//!
//! [`Selection`] decides the next step, and the methods here carry it out.

use std::sync::Arc;

use http::{Method, StatusCode};
use qwen_accounts::{Account, Kind, Snapshot, is_degraded_try_due};
use qwen_base::{Code, Error, Event, EventKind, Result};
use url::Url;

use super::answer::{Answer, Beginning};
use super::attempt::{Access, Attempt, Budget};
use super::cooling::CooldownInput;
use super::no_account::{self, AllCoolingError};
use super::pipeline::Pipeline;
use super::prepare::{Prepared, Request};
use super::refusal::{Refusal, is_about_login};
use super::selection::{Candidate, Outcome, Selection, Step};
use crate::host::errors::FinalError;
use crate::request_log::{self, RequestRecord};
use crate::verdict::Verdict;

/// The state of one call.
pub(super) struct Call<'a> {
    pipeline: &'a Pipeline,
    snapshot: &'a Arc<Snapshot>,
    prepared: Prepared,
    utc_offset_minutes: i32,
    budget: Budget,
    record: RequestRecord,
    /// The first account that was asked.
    first_asked: Option<&'a Account>,
    /// Time in epoch milliseconds at which the current account was first asked.
    asked_at: u64,
    /// The answer or error of the last account that failed.
    last: Option<Result<Answer>>,
    /// The error of the qwen CLI.
    cli_failure: Option<Error>,
    /// True if the current account is above the price limit.
    is_paid_fallback: bool,
}

/// The result of a step: the call returns the answer, or takes the step after this outcome.
enum Next {
    Return(Box<Answer>),
    After(Outcome),
}

impl<'a> Call<'a> {
    /// Sends a request.
    pub(super) async fn run(pipeline: &'a Pipeline, request: Request) -> Result<Answer> {
        let snapshot = pipeline.tokens.snapshot().await?;
        let (url, utc_offset_minutes) = (request.url.clone(), request.utc_offset_minutes);
        let prepared = pipeline.prepare(request, &snapshot).await?;
        let now_ms = pipeline.now_ms();
        let candidates = pipeline.candidates(&snapshot, &prepared.model, now_ms);
        if candidates.is_empty() {
            return Err(pipeline.settings.discovery.explain(snapshot.no_account(), &snapshot.document).await);
        }
        let mut selection = Selection::new(&candidates, &pipeline.selection_input(&prepared, now_ms));
        if selection.allowed().is_empty() {
            return Err(no_account::no_account_serves(&prepared.model, &selection));
        }
        let mut call = Call {
            pipeline,
            snapshot: &snapshot,
            utc_offset_minutes,
            budget: Budget::for_accounts(selection.allowed().len()),
            record: pipeline.record(&url, &prepared),
            prepared,
            first_asked: None,
            asked_at: now_ms,
            last: None,
            cli_failure: None,
            is_paid_fallback: false,
        };
        match call.take_steps(&mut selection).await {
            Ok(answer) => Ok(answer.recorded(call.record)),
            Err(error) => {
                call.record.finish(request_log::LogOutcome::Failed(error.code()));
                Err(error)
            }
        }
    }

    async fn take_steps(&mut self, selection: &mut Selection<'a>) -> Result<Answer> {
        let mut step = selection.begin();
        loop {
            let next = match step {
                Step::Ask(candidate) => self.ask(candidate, selection).await?,
                Step::Degrade(candidate) => Box::pin(self.degrade(candidate, selection)).await?,
                Step::FallBack => Box::pin(self.fall_back()).await,
                Step::GiveUp => return Ok(self.give_up(selection)),
                Step::PassOn => {
                    let none = || Err(Error::internal("no account was asked"));
                    return self.last.take().unwrap_or_else(none);
                }
            };
            match next {
                Next::Return(mut answer) => {
                    if self.is_paid_fallback {
                        answer.note_paid();
                    }
                    return Ok(*answer);
                }
                Next::After(outcome) => step = selection.after(outcome),
            }
        }
    }

    /// Asks one account, once more after a refresh, and once more after a short wait.
    async fn ask(&mut self, candidate: &'a Candidate<'a>, selection: &Selection<'a>) -> Result<Next> {
        let (pipeline, account) = (self.pipeline, candidate.account);
        // Two for each account that is left, since its token may have to be renewed, and the shorter request after them.
        self.budget.reserved = 2 * selection.left() + 1;
        self.is_paid_fallback = candidate.price > selection.price_limit();
        if self.is_paid_fallback {
            pipeline.tell_of_paid_fallback(account, self.first_asked);
        }
        // For the first account the snapshot from the start of the call is recent enough.
        let seen = self.first_asked.is_none().then(|| Arc::clone(self.snapshot));
        self.first_asked.get_or_insert(account);
        let mut access = match pipeline.access(account, seen).await {
            Ok(access) => access,
            // An unreachable server is not a verdict about the account.
            Err(error) if error.is_retryable() || !is_about_login(error.code()) => return Err(error),
            Err(error) => {
                self.last = Some(Err(error));
                return Ok(Next::After(Outcome::Unusable));
            }
        };
        self.asked_at = pipeline.now_ms();
        let mut attempt = self.send(candidate, &access, None).await?;
        // A refused token and a rate limit may come in any order. Each has one more try.
        let (mut is_renewed, mut has_waited) = (false, false);
        loop {
            match attempt.reading.verdict {
                Verdict::TokenRejected | Verdict::KeyRejected if !is_renewed => {
                    match pipeline.renewed(candidate, &access.token).await {
                        Ok(None) => break,
                        Ok(Some(renewed)) => (access, is_renewed) = (renewed, true),
                        Err(error) => return self.not_renewed(candidate, &access, attempt, error).await,
                    }
                }
                Verdict::RateLimited | Verdict::AllocationLimit
                    if !has_waited && self.wait_shortly(account, &attempt, is_renewed).await =>
                {
                    has_waited = true;
                }
                _ => break,
            }
            attempt = self.send(candidate, &access, None).await?;
        }
        self.apply_verdict(candidate, &access, attempt, selection).await
    }

    /// Handles a failed renewal: the server refused the account's token, and no other token could be obtained.
    async fn not_renewed(
        &mut self,
        candidate: &Candidate<'_>,
        access: &Access,
        attempt: Attempt,
        error: Error,
    ) -> Result<Next> {
        let Candidate { account, record, .. } = candidate;
        // The login may still be valid, so the caller must not get the 401.
        if error.is_retryable() {
            return Err(error);
        }
        // Only keys are reported here: `Refresh::refuse` has already reported a refused refresh token.
        if account.kind != Kind::OAuth && record.rejected_at().is_none() {
            self.pipeline.tell(EventKind::NeedsLogin, account, error.message(), Some(error.code()));
        }
        Ok(self.reject(account, access, attempt, error).await)
    }

    /// Waits after a rate limit, if the wait is short and the request may be sent again.
    async fn wait_shortly(&self, account: &Account, attempt: &Attempt, is_renewed: bool) -> bool {
        // The next answer may be that the token is refused, which takes one request more.
        let needed = 1 + usize::from(!is_renewed);
        let Some(wait) = attempt.short_wait().filter(|_| self.budget.spare() >= needed) else { return false };
        let message = "Qwen asks for a short break; the request is sent again after it.";
        self.pipeline.tell(EventKind::Retry, account, message, None);
        tokio::time::sleep(wait).await;
        true
    }

    /// Sends the request, or `degraded` in its place, once with one account.
    async fn send(
        &mut self,
        candidate: &Candidate<'_>,
        access: &Access,
        degraded: Option<&Prepared>,
    ) -> Result<Attempt> {
        let (pipeline, account) = (self.pipeline, candidate.account);
        let prepared = degraded.unwrap_or(&self.prepared);
        let retry =
            |error: &Error| pipeline.tell(EventKind::Retry, account, error.message(), Some(error.code()));
        self.record.attempt_started(&account.label, &access.base_url, &access.token.access_token);
        let mut attempt = pipeline.sender.attempt(account, access, prepared, &mut self.budget, retry).await;
        if let Ok(Attempt { answer, reading, .. }) = &mut attempt
            && reading.status < 300
            && prepared.method == Method::POST
        {
            let usage = &pipeline.journal.usage;
            answer.body.metered(usage.meter(&account.id, self.utc_offset_minutes, &answer.headers));
        }
        let (status, verdict) = match &attempt {
            Ok(Attempt { answer, reading, .. }) => (Some(answer.status.as_u16()), reading.verdict.as_str()),
            Err(error) => (None, error.code().as_str()),
        };
        self.record.attempt_ended(status, verdict);
        let fields: [(&str, &dyn std::fmt::Display); 3] =
            [("account", &account.id), ("status", &status.unwrap_or_default()), ("verdict", &verdict)];
        pipeline.journal.logger.debug("attempt", &fields);
        attempt
    }

    /// Applies the verdict on an answer to the account and to the call.
    async fn apply_verdict(
        &mut self,
        candidate: &'a Candidate<'a>,
        access: &Access,
        attempt: Attempt,
        selection: &Selection<'a>,
    ) -> Result<Next> {
        let (pipeline, account, now) = (self.pipeline, candidate.account, self.pipeline.now_ms());
        let (verdict, retry_after_ms) = (attempt.reading.verdict, attempt.retry_after_ms);
        let last = selection.last().map(|last| last.account);
        let input = CooldownInput { last, ..self.cooldown_input(&attempt) };
        let cooldown = pipeline.cooling.start(account, &attempt.reading, input).await;
        // The caller waits for the account that is available first.
        let wait_ms = cooldown.as_ref().map_or(0, |cooldown| {
            let others = selection.cooling().iter().map(|(_, other)| other.until);
            others.fold(cooldown.until, u64::min).saturating_sub(pipeline.now_ms())
        });
        match (verdict, cooldown) {
            _ if attempt.reading.is_of_proxy => Ok(self.cannot_answer(attempt, Code::PermissionDenied)),
            (Verdict::TokenRejected | Verdict::KeyRejected, _) => {
                let error = self.refusal(account, &attempt);
                let is_news =
                    candidate.record.last_error().is_none_or(|last| last.code != error.code().as_str());
                if is_news || error.code() != Code::FreeTierDiscontinued {
                    pipeline.tell(EventKind::NeedsLogin, account, error.message(), Some(error.code()));
                }
                Ok(self.reject(account, access, attempt, error).await)
            }
            (Verdict::ModelUnavailable, _) => {
                pipeline.settings.models.note_unavailable(&account.id, &self.prepared.model);
                Ok(self.cannot_answer(attempt, Code::ModelUnavailable))
            }
            (Verdict::PermissionDenied, _) => Ok(self.cannot_answer(attempt, Code::PermissionDenied)),
            (Verdict::AllocationLimit, Some(cooldown)) => {
                let mut answer = attempt.answer;
                answer.set_retry_after(wait_ms);
                answer.note_error(Code::RateLimited);
                self.last = Some(Ok(answer));
                Ok(Next::After(Outcome::Cooling(cooldown)))
            }
            (_, Some(cooldown)) => {
                if verdict == Verdict::PaymentRequired {
                    self.cannot_answer(attempt, Code::PaymentRequired);
                } else if verdict == Verdict::RateLimited {
                    let (mut answer, wait_ms) = (attempt.answer, retry_after_ms.map(|_| wait_ms));
                    if let Some(wait_ms) = wait_ms.filter(|_| pipeline.settings.for_opencode) {
                        answer.set_retry_after(wait_ms);
                    }
                    let limit = FinalError::of_rate_limit(wait_ms, now, self.utc_offset_minutes);
                    answer.note_error(Code::RateLimited);
                    self.last = Some(Ok(self.for_opencode(answer, limit)));
                }
                Ok(Next::After(Outcome::Cooling(cooldown)))
            }
            (_, None) => Ok(Next::Return(Box::new(self.answered(candidate, attempt, selection).await))),
        }
    }

    /// Returns the input for a cooldown after an answer.
    fn cooldown_input(&self, attempt: &Attempt) -> CooldownInput<'static> {
        let (asked_at, retry_after_ms) = (self.asked_at, attempt.retry_after_ms);
        let utc_offset_minutes = self.utc_offset_minutes;
        CooldownInput { asked_at, ended_pause: None, retry_after_ms, last: None, utc_offset_minutes }
    }

    /// Makes an error final for `OpenCode`.
    fn for_opencode(&self, answer: Answer, error: Option<FinalError>) -> Answer {
        match error.filter(|_| self.pipeline.settings.for_opencode) {
            Some(error) => answer.into_final(&error),
            None => answer,
        }
    }

    /// Returns an answer that ends the call.
    async fn answered(
        &mut self,
        candidate: &Candidate<'_>,
        attempt: Attempt,
        selection: &Selection<'_>,
    ) -> Answer {
        let input = CooldownInput { ended_pause: candidate.record.pause(), ..self.cooldown_input(&attempt) };
        let Attempt { mut answer, reading, .. } = attempt;
        if !answer.status.is_success() {
            return self.for_opencode(answer, FinalError::of_reading(&reading));
        }
        let is_last = selection.left() == 0 && selection.allowed().len() > 1;
        self.pipeline.succeeded(candidate, self.first_asked, is_last).await;
        if self.prepared.is_chat_stream {
            self.pipeline.note_late_error(candidate, &mut answer.body, input);
        }
        answer
    }

    /// Keeps the answer of an account that can't answer this request, in case no other account can.
    fn cannot_answer(&mut self, attempt: Attempt, code: Code) -> Next {
        let Attempt { mut answer, reading, .. } = attempt;
        answer.note_error(code);
        self.last = Some(Ok(self.for_opencode(answer, FinalError::of_reading(&reading))));
        Next::After(Outcome::Unusable)
    }

    /// Marks an account as rejected. Keeps its answer in case no other account can be asked.
    async fn reject(&mut self, account: &Account, access: &Access, attempt: Attempt, error: Error) -> Next {
        let Attempt { mut answer, error_body, .. } = attempt;
        let (id, token, why) = (account.id.clone(), access.token.access_token.clone(), error.clone());
        self.pipeline.update(move |registry| registry.mark_rejected(&id, &token, &why)).await;
        let error = self.pipeline.settings.discovery.explain(error, &self.snapshot.document).await;
        answer.explain(&error, &error_body);
        self.last = Some(Ok(self.for_opencode(answer, FinalError::of_error(&error))));
        Next::After(Outcome::Unusable)
    }

    /// Returns the reason why the API refuses an account with a fresh token.
    fn refusal(&self, account: &Account, attempt: &Attempt) -> Error {
        let (kind, label, has_key) = (account.kind, &account.label, !self.snapshot.document.keys.is_empty());
        let (reading, headers) = (&attempt.reading, &attempt.answer.headers);
        let refusal = Refusal { kind, label, reading, headers, has_key };
        refusal.error(self.pipeline.now_ms()).with_account(&account.id)
    }

    /// Sends a shorter request after every account is out of quota.
    async fn degrade(&mut self, candidate: &Candidate<'_>, selection: &Selection<'_>) -> Result<Next> {
        let (pipeline, account) = (self.pipeline, candidate.account);
        let failed = Ok(Next::After(Outcome::Failed));
        let is_limited = selection.found_none_ready();
        if is_limited && !is_degraded_try_due(&self.snapshot.document, pipeline.now_ms()) {
            return failed;
        }
        let Some((degraded, left_out)) = self.prepared.degraded(account.kind).await? else { return failed };
        let claimed = pipeline.update(move |registry| registry.claim_degraded_try(is_limited)).await;
        // A store that can't be written must not prevent an answer.
        if claimed == Some(false) {
            return failed;
        }
        let Ok(mut access) = pipeline.access(account, None).await else { return failed };
        (self.budget.reserved, self.is_paid_fallback) = (usize::MAX, false);
        self.record.note("degraded");
        let Ok(mut attempt) = self.send(candidate, &access, Some(&degraded)).await else { return failed };
        if attempt.reading.verdict == Verdict::TokenRejected
            && self.budget.may_take()
            && let Ok(Some(renewed)) = pipeline.renewed(candidate, &access.token).await
        {
            access = renewed;
            let Ok(again) = self.send(candidate, &access, Some(&degraded)).await else { return failed };
            attempt = again;
        }
        if attempt.reading.verdict == Verdict::TokenRejected && !attempt.reading.is_of_proxy {
            // Report the refused login, not the cooldown.
            let error = self.refusal(account, &attempt);
            self.reject(account, &access, attempt, error).await;
            return failed;
        }
        let mut answer = attempt.answer;
        if !answer.status.is_success() {
            return failed;
        }
        let message = format!("All accounts are out of quota; a shorter request was answered: {left_out}.");
        pipeline.tell(EventKind::Degraded, account, &message, None);
        answer.note_degraded(left_out);
        Ok(Next::Return(Box::new(answer)))
    }

    /// Asks the qwen CLI, which has its own login or key.
    async fn fall_back(&mut self) -> Next {
        let (fallback, body) = (self.pipeline.settings.fallback.clone(), self.prepared.body.clone());
        let (Some(fallback), Some(body)) = (fallback, body) else { return Next::After(Outcome::Failed) };
        self.record.note("cli-fallback");
        self.is_paid_fallback = false;
        let answer = match fallback.complete(&body).await {
            Ok(answer) => answer,
            Err(error) => {
                self.cli_failure = Some(error);
                return Next::After(Outcome::Failed);
            }
        };
        let message = "All accounts are out of quota; the qwen CLI answered.".to_owned();
        self.pipeline.emit(Event::new(EventKind::CliFallback, self.pipeline.now_ms(), message));
        let mut answer = Answer::of_cli(self.own_url(), answer);
        if self.pipeline.settings.for_opencode
            && self.prepared.is_chat_stream
            && let Beginning::Problem(problem) = answer.watch().await
        {
            answer = answer.into_final(&FinalError::of_stream(&problem));
        }
        Next::Return(Box::new(answer))
    }

    /// Returns the error for a call that found no account.
    fn give_up(&mut self, selection: &Selection<'_>) -> Answer {
        let is_discontinued =
            |answer: &Answer| answer.error_code() == Some(Code::FreeTierDiscontinued.as_str());
        let only_logins = selection.allowed().iter().all(|candidate| candidate.account.kind == Kind::OAuth);
        if only_logins
            && let Some(Ok(answer)) = self.last.take_if(|last| last.as_ref().is_ok_and(is_discontinued))
        {
            return answer;
        }
        let (now, for_opencode) = (self.pipeline.now_ms(), self.pipeline.settings.for_opencode);
        let error = AllCoolingError::new(selection, self.cli_failure.as_ref(), now, self.utc_offset_minutes);
        let mut answer = Answer::without_server(self.own_url(), &error.final_error(for_opencode));
        if !for_opencode {
            answer.set_json(&error.to_json());
        }
        if answer.status == StatusCode::TOO_MANY_REQUESTS || !for_opencode {
            answer.set_retry_after(error.wait_ms);
        }
        answer
    }

    fn own_url(&self) -> Url {
        self.prepared.target.url_below(&self.pipeline.settings.base_url)
    }
}
