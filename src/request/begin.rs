//! How a call begins: who may be asked, where the request leads, and what its body becomes.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use http::header::HeaderMap;

use super::attempt::Budget;
use super::body::Ids;
use super::eligible::{Eligible, Offer, eligible};
use super::fetch::{Call, Pipeline};
use super::plan::{Candidate, Plan, Situation};
use super::prepare::{Prepared, Request};
use super::target::Target;
use crate::accounts::account::Account;
use crate::accounts::availability::availability;
use crate::accounts::view::View;
use crate::error::{Code, Error, Result};
use crate::events::{Event, EventKind};
use crate::models::PLAN_MODELS;
use crate::request_log;
use crate::store::record::Record;

/// Where a host names its conversation.
const CONVERSATION_HEADER: &str = "x-session-id";

impl Pipeline {
    /// Looks at the accounts, checks where the request leads, and shapes its body.
    pub(super) async fn begin(&self, request: Request) -> Result<Call> {
        let view = self.tokens.view().await?;
        let records: Vec<_> = view.document.all().collect();
        // Worked out only where the URL is not below the client's own: there may be many accounts.
        let bases = records.iter().filter_map(|record| {
            view.account(record).base_url(&record.token()?, self.sender.base_url_override.as_ref()).ok()
        });
        let target = Target::resolve(&request.url, &self.settings.base_url, bases)?;
        let needs_plain = records.iter().any(|record| !record.kind().takes_markers());
        let utc_offset_minutes = request.utc_offset_minutes;
        let url = request.url.clone();
        let ids = self.settings.qwen_mode.then(|| self.ids(&request.headers));
        let prepared = Arc::new(Prepared::new(request, target, ids, needs_plain).await?);
        let now_ms = self.journal.clock.now_ms();
        let listed: Vec<_> = view.enabled(now_ms).collect();
        if records.iter().all(|record| !record.is_enabled()) {
            return Err(view.no_account());
        }
        let Eligible { allowed, dearer, agreed } = self.eligible(&view, &listed, &prepared.model);
        let dearer: Vec<_> = dearer.into_iter().map(|at| view.account(listed[at]).label).collect();
        if allowed.is_empty() {
            return Err(nobody_serves(&prepared.model, &dearer));
        }
        let candidates: Vec<_> = allowed
            .into_iter()
            .map(|at| Candidate {
                id: listed[at].id().to_owned(),
                availability: availability(listed[at], now_ms),
                price: listed[at].kind().price(),
            })
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
        drop(listed);
        Ok(Call {
            prepared,
            view,
            plan,
            budget,
            first_asked: None,
            last: None,
            quota_code: None,
            quota_window: None,
            utc_offset_minutes,
            cli_failure: None,
            record,
            allowed: candidates.into_iter().map(|candidate| candidate.id).collect(),
            dearer,
            agreed,
            has_crossed: false,
        })
    }

    fn eligible(&self, view: &View, listed: &[&Record], model: &str) -> Eligible {
        let offers: Vec<_> = listed
            .iter()
            .map(|record| {
                let kind = record.kind();
                Offer {
                    is_active: view.document.active_id() == Some(record.id()),
                    price: kind.price(),
                    serving: self.settings.models.serving(record, model),
                }
            })
            .collect();
        eligible(&offers, self.settings.allow_paid_fallback)
    }

    /// Tells of an account that costs more than the user's choice, before it is asked.
    pub(super) fn note_crossing(&self, call: &mut Call, account: &Account) {
        let price = account.kind.price();
        call.has_crossed = price > call.agreed;
        if !call.has_crossed {
            return;
        }
        let before =
            self.last_used.lock().unwrap_or_else(PoisonError::into_inner).replace(account.id.clone());
        let before = before.or_else(|| call.first_asked.clone());
        if before.as_ref() == Some(&account.id) {
            return;
        }
        let message = format!(
            "Requests go to the Qwen account \"{}\" now, which is {}: the cheaper ones can't answer.",
            account.label,
            price.describe()
        );
        let now = self.journal.clock.now_ms();
        let event = Event::of_account(EventKind::Switched, now, &account.id, &account.label, message);
        self.emit(Event { from_account_id: before, ..event });
    }

    /// The ids of this request: the host's own session where it names one.
    fn ids(&self, headers: &HeaderMap) -> Ids {
        let named = headers.get(CONVERSATION_HEADER).and_then(|value| value.to_str().ok());
        let session_id = named.unwrap_or(&self.session_id).to_owned();
        let count = self.prompts.fetch_add(1, Ordering::Relaxed);
        Ids { prompt_id: format!("{session_id}########{count}"), session_id }
    }
}

/// Why a request can't be sent with any account. `dearer` are the names of those that would cost more than the user has
/// agreed to.
fn nobody_serves(model: &str, dearer: &[String]) -> Error {
    let message = if dearer.is_empty() {
        let models: Vec<_> = PLAN_MODELS.iter().map(|model| model.id).collect();
        format!(
            "No account serves the model {model}: it is one of Qwen logins, and there are only keys. Choose another model ({}), or log in with `opencode auth login`.",
            models.join(", ")
        )
    } else {
        format!(
            "Only an account that is billed by use serves this request: {}. Choose it with `npx opencode-qwen-cli-auth use \"{}\"`, or allow it with OPENCODE_QWEN_ALLOW_PAID_FALLBACK=1.",
            dearer.iter().map(|label| format!("\"{label}\"")).collect::<Vec<_>>().join(", "),
            dearer[0]
        )
    };
    Error::new(Code::InvalidArgument, message)
}
