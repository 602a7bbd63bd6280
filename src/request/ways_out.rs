//! What is tried when every account is out of quota, and the last word on it.

use std::sync::Arc;

use http::header::{HeaderValue, RETRY_AFTER};
use http::{HeaderName, StatusCode};
use serde_json::json;

use super::answer::Answer;
use super::classify::Verdict;
use super::fetch::{Call, Ended, Pipeline, QUOTA_CODE};
use super::host_errors::{Cooling, CoolingAccounts, FinalError, all_cooling};
use super::plan::{DEGRADE_INTERVAL_MS, Outcome};
use crate::accounts::kind::Kind;
use crate::error::{Code, Result};
use crate::events::{Event, EventKind};
use crate::store::document::Document;

/// Says that a smaller payload was answered.
const DEGRADED_HEADER: HeaderName = HeaderName::from_static("x-qwen-degraded");

impl Pipeline {
    /// Every account is out of quota: a smaller payload may still be answered.
    pub(super) async fn degrade(&self, call: &mut Call, id: &str) -> Result<Ended> {
        let view = Arc::clone(&call.view);
        let Some(record) = view.record(id) else { return Ok(Ended::With(Outcome::Failed)) };
        let Some(degraded) = call.prepared.degraded(record.kind()).await? else {
            return Ok(Ended::With(Outcome::Failed));
        };
        let account = view.account(record);
        self.note_crossing(call, &account);
        if !self.may_degrade(call.plan.found_none_ready()).await {
            return Ok(Ended::With(Outcome::Failed));
        }
        let Ok(mut access) = self.access(&account, None).await else {
            return Ok(Ended::With(Outcome::Failed));
        };
        call.budget.reserved = usize::MAX;
        call.record.note("degraded");
        let Ok(mut attempt) = self.send(call, &account, &access, &degraded).await else {
            return Ok(Ended::With(Outcome::Failed));
        };
        if attempt.verdict == Verdict::TokenRejected
            && call.budget.may_take()
            && let Ok(Some(renewed)) = self.renewed(&account, record, &access.token).await
        {
            access = renewed;
            attempt = match self.send(call, &account, &access, &degraded).await {
                Ok(attempt) => attempt,
                Err(_) => return Ok(Ended::With(Outcome::Failed)),
            };
        }
        if attempt.verdict == Verdict::TokenRejected && account.kind == Kind::OAuth {
            // A cooldown must not hide that the login itself is refused.
            self.judge(call, &account, record, &access.token, attempt).await?;
            return Ok(Ended::With(Outcome::Failed));
        }
        let mut answer = attempt.answer;
        if !answer.status.is_success() {
            return Ok(Ended::With(Outcome::Failed));
        }
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
    pub(super) async fn fall_back(&self, call: &mut Call) -> Result<Ended> {
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
    pub(super) fn give_up(&self, call: &mut Call) -> Answer {
        let is_discontinued =
            |answer: &Answer| answer.error_code() == Some(Code::FreeTierDiscontinued.as_str());
        let only_logins = call
            .allowed
            .iter()
            .filter_map(|id| call.view.record(id))
            .all(|record| record.kind() == Kind::OAuth);
        if only_logins
            && let Some(Ok(answer)) = call.last.take_if(|last| last.as_ref().is_ok_and(is_discontinued))
        {
            return answer;
        }
        let now = self.journal.clock.now_ms();
        let free_at = call.plan.free_at().unwrap_or(now);
        let listed: Vec<_> = call.allowed.iter().filter_map(|id| call.view.record(id)).collect();
        let cooling: Vec<_> = listed.iter().filter(|record| record.exhausted_until() > now).collect();
        let is_rate_limit = call.quota_code.is_none()
            && !cooling.is_empty()
            && cooling.iter().all(|record| record.is_rate_limited());
        let why = if is_rate_limit { Cooling::RateLimited } else { Cooling::OutOfQuota };
        let mut stored = cooling.iter().filter(|record| is_rate_limit || !record.is_rate_limited());
        let stored = stored.find_map(|record| record.last_error_code());
        let code = call.quota_code.as_deref().or(stored).unwrap_or(QUOTA_CODE);
        let only = if let [only] = listed.as_slice() { Some(*only) } else { None };
        let accounts = CoolingAccounts {
            why,
            count: listed.len(),
            free_at,
            window: only.and_then(|only| call.quota_window.or_else(|| only.quota_window())),
            dearer: &call.dearer,
        };
        let mut message = all_cooling(&accounts, now, call.utc_offset_minutes);
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
