//! What an account's answer means: for the call, for the account, and for those who want to know.

use std::sync::PoisonError;

use super::answer::Answer;
use super::attempt::Attempt;
use super::classify::{Verdict, error_code, quota_reset, quota_window};
use super::fetch::{Call, Ended, LONGEST_WAIT_MS, Pipeline, QUOTA_CODE, RATE_LIMIT_CODE};
use super::host_errors::{FinalError, moment, quota_used_up};
use super::plan::Outcome;
use super::prepare::Prepared;
use super::refusal::Refusal;
use crate::accounts::account::Account;
use crate::accounts::cooldown::{QuotaWindow, cooling_until, exhausted_until, least_cooldown_ms};
use crate::accounts::rotation::Rotation;
use crate::error::{Code, Error, Result};
use crate::events::{Event, EventKind};
use crate::oauth::token::Token;
use crate::store::record::{LastError, Record};

impl Pipeline {
    /// What an account's answer means for the call.
    pub(super) async fn judge(
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
                    self.succeeded(call, account, record).await;
                    answer = self.watched(answer, &call.prepared).await;
                }
                Ok(Ended::Answered(Box::new(answer)))
            }
            Verdict::TokenRejected => {
                let error = Refusal {
                    kind: account.kind,
                    label: &account.label,
                    status: attempt.answer.status.as_u16(),
                    headers: &attempt.answer.headers,
                    body: &attempt.error_body,
                    has_key: !call.view.document.keys.is_empty(),
                }
                .error(self.journal.clock.now_ms())
                .with_account(&account.id);
                let is_news = record.last_error().is_none_or(|last| last.code != error.code().as_str());
                if is_news || error.code() != Code::FreeTierDiscontinued {
                    self.tell(EventKind::NeedsLogin, account, error.message(), Some(error.code()));
                }
                Ok(self.unusable(call, account, token, attempt, &error).await)
            }
            Verdict::QuotaExhausted => {
                let code = error_code(&attempt.error_body).unwrap_or_else(|| QUOTA_CODE.to_owned());
                let window = quota_window(&attempt.error_body);
                (call.quota_code, call.quota_window) = (Some(code.clone()), window);
                let now = self.journal.clock.now_ms();
                let reset = quota_reset(&attempt.error_body, now).map(|until| until - now);
                let retry_after = reset.or(attempt.retry_after_ms);
                let cooldown = least_cooldown_ms(window, self.settings.quota_cooldown_ms, retry_after);
                let until = exhausted_until(now, cooldown, retry_after);
                let message = |until| {
                    let name = format!("The Qwen account \"{}\"", account.label);
                    quota_used_up(&name, window, &moment(until, now, call.utc_offset_minutes))
                };
                let why = Error::new(Code::QuotaExhausted, message(until));
                let (until, is_news) = self.cool(account, until, code, window, &why).await;
                if is_news {
                    let (id, label) = (&account.id, &account.label);
                    let mut message = message(until);
                    // Otherwise that is said when requests go to it.
                    if self.settings.rotation == Rotation::RoundRobin
                        && let Some(last) = call.plan.last().and_then(|last| call.view.record(last))
                    {
                        let last = call.view.account(last).label;
                        message = format!("{message} \"{last}\" is the last one that is ready.");
                    }
                    self.emit(Event {
                        until: Some(until),
                        code: Some(Code::QuotaExhausted),
                        ..Event::of_account(EventKind::Exhausted, now, id, label, message)
                    });
                }
                Ok(Ended::With(Outcome::Exhausted(until)))
            }
            Verdict::RateLimited => {
                let until = attempt.retry_after_ms.filter(|ms| *ms > LONGEST_WAIT_MS);
                let limit = FinalError::of_rate_limit(
                    attempt.retry_after_ms,
                    self.journal.clock.now_ms(),
                    call.utc_offset_minutes,
                );
                let answer = match limit {
                    Some(limit) if self.settings.for_host => attempt.answer.into_final(&limit),
                    _ => attempt.answer,
                };
                let Some(wait) = until else { return Ok(Ended::Answered(Box::new(answer))) };
                let until = exhausted_until(self.journal.clock.now_ms(), 0, Some(wait));
                let code = error_code(&attempt.error_body).unwrap_or_else(|| RATE_LIMIT_CODE.to_owned());
                let message =
                    format!("Qwen takes no more requests from the account \"{}\" for now.", account.label);
                let (until, _) =
                    self.cool(account, until, code, None, &Error::new(Code::RateLimited, message)).await;
                call.last = Some(Ok(answer));
                Ok(Ended::With(Outcome::RateLimited(until)))
            }
        }
    }

    /// The account's login does not work; what the server said is kept in case nobody else can be asked.
    pub(super) async fn unusable(
        &self,
        call: &mut Call,
        account: &Account,
        token: &Token,
        attempt: Attempt,
        error: &Error,
    ) -> Ended {
        let Attempt { mut answer, error_body, .. } = attempt;
        let last = LastError::new(error, self.journal.clock.now_ms());
        let rejected = token.access_token.clone();
        self.note(&account.id, move |record, now| {
            record.set_rejected(Some((&rejected, now)));
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

    /// Lets an account cool, for all processes. One that somebody else has just found so is left as it is. Gives until
    /// when it cools, and whether that is news.
    pub(super) async fn cool(
        &self,
        account: &Account,
        until: u64,
        code: String,
        window: Option<QuotaWindow>,
        why: &Error,
    ) -> (u64, bool) {
        let id = account.id.clone();
        let last = LastError::new(why, self.journal.clock.now_ms());
        let is_rate_limited = why.code() == Code::RateLimited;
        let change = move |record: &mut Record, now: u64| {
            let known = cooling_until(record.exhausted_until(), now);
            if known.is_none_or(|known| until.saturating_sub(known) > LONGEST_WAIT_MS) {
                record.set_exhausted_until(until, Some(&code), now);
                record.set_rate_limited(is_rate_limited);
                record.set_quota_window(window);
                record.set_last_error(Some(&last));
            }
            (cooling_until(record.exhausted_until(), now).unwrap_or(until), known.is_none())
        };
        let written = self.tokens.with_registry(move |registry| registry.with_record(&id, change)).await;
        written.ok().flatten().unwrap_or((until, true))
    }

    /// Notes what a success says of an account, if that is news.
    pub(super) async fn succeeded(&self, call: &Call, account: &Account, record: &Record) {
        let was_exhausted = record.exhausted_until() > 0;
        if was_exhausted {
            let message = format!("The Qwen account \"{}\" can be asked again.", account.label);
            self.tell(EventKind::Ready, account, &message, None);
        }
        if was_exhausted || record.rejected_at().is_some() || record.last_error().is_some() {
            self.note(&account.id, |record, now| {
                record.set_rejected(None);
                record.set_last_error(None);
                if cooling_until(record.exhausted_until(), now).is_none() {
                    record.stop_cooling(now);
                }
            })
            .await;
        }
        let before =
            self.last_used.lock().unwrap_or_else(PoisonError::into_inner).replace(account.id.clone());
        if let Some(before) =
            before.or_else(|| call.first_asked.clone()).filter(|before| *before != account.id)
            && self.settings.rotation != Rotation::RoundRobin
        {
            let mut message = format!("Requests go to the Qwen account \"{}\" now.", account.label);
            if call.plan.left() == 0 && call.view.listed(self.journal.clock.now_ms()).nth(1).is_some() {
                message.push_str(" It is the last one that is ready.");
            }
            let now = self.journal.clock.now_ms();
            let event = Event::of_account(EventKind::Switched, now, &account.id, &account.label, message);
            self.emit(Event { from_account_id: Some(before), ..event });
        }
    }

    /// In a host, a stream that says nothing is an error.
    pub(super) async fn watched(&self, mut answer: Answer, prepared: &Prepared) -> Answer {
        if self.settings.for_host
            && prepared.is_chat_stream
            && let Some(problem) = answer.body.watch().await
        {
            return answer.into_final(&FinalError::of_stream(&problem));
        }
        answer
    }

    /// Writes what is known of an account.
    pub(super) async fn note(&self, id: &str, change: impl FnOnce(&mut Record, u64) + Send + 'static) {
        let id = id.to_owned();
        // What can't be written is only found out again.
        let _ = self.tokens.with_registry(move |registry| registry.with_record(&id, change)).await;
    }

    pub(super) fn tell(&self, kind: EventKind, account: &Account, message: &str, code: Option<Code>) {
        let event = Event::of_account(
            kind,
            self.journal.clock.now_ms(),
            &account.id,
            &account.label,
            message.to_owned(),
        );
        self.emit(Event { code, ..event });
    }

    pub(super) fn emit(&self, event: Event) {
        self.journal.events.emit(event);
    }
}
