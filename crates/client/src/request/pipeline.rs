//! The state that all calls of a client share. [`Call`] has the steps of one call.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::HeaderMap;
use qwen_accounts::{
    Account, CoolingReason, Kind, Record, Registry, Serving, Snapshot, Token, TokenManager, availability,
};
use qwen_base::{Clock, Code, Event, EventKind, Events, Logger, Result, lock};
use tokio::runtime::Handle;
use url::Url;

use super::answer::{Answer, Body};
use super::attempt::{Access, Sender};
use super::call::Call;
use super::cooling::{CooldownInput, Cooling};
use super::prepare::{Prepared, Request};
use super::selection::{Candidate, SelectionInput};
use super::target::Target;
use crate::chat::body::Ids;
use crate::cli::CliFallback;
use crate::config::{RequestOptions, Rotation};
use crate::discovery::Discovery;
use crate::host::errors::FinalError;
use crate::models::book::ModelBook;
use crate::request_log::{LogStart, RequestLog, RequestRecord};
use crate::usage::UsageBook;
use crate::verdict::{Reading, RequestContext, Verdict};

/// Header in which a host names its conversation.
const CONVERSATION_HEADER: &str = "x-session-id";
/// A login that was refused because the free tier ended is not refreshed for this many milliseconds after its last update.
const NO_REFRESH_MS: u64 = 10 * 60_000;

/// The settings of a client, which do not change.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The base URL that callers address.
    pub base_url: Url,
    /// True if errors are made final for `OpenCode`.
    pub for_opencode: bool,
    pub options: RequestOptions,
    /// The qwen CLI, if it may be asked when every account is out of quota.
    pub fallback: Option<Arc<CliFallback>>,
    /// The models of each account.
    pub models: ModelBook,
    /// Finds keys that a user without a working account could import.
    pub discovery: Discovery,
}

/// The clock, the listener and the logs.
#[derive(Debug)]
pub struct Journal {
    pub clock: Clock,
    pub events: Events,
    /// The debug log.
    pub logger: Logger,
    pub request_log: RequestLog,
    pub usage: UsageBook,
}

/// The request path of a client.
#[derive(Debug)]
pub struct Pipeline {
    pub(super) settings: Settings,
    pub(super) sender: Sender,
    pub(super) tokens: TokenManager,
    pub(super) journal: Journal,
    pub(super) cooling: Cooling,
    session_id: String,
    prompts: AtomicU64,
    turns: AtomicUsize,
    /// The id of the account that answered last.
    last_used: Mutex<Option<String>>,
}

impl Pipeline {
    /// Creates a pipeline, without sending anything.
    #[must_use]
    pub fn new(settings: Settings, sender: Sender, tokens: TokenManager, journal: Journal) -> Self {
        let session_id = uuid::Uuid::new_v4().to_string();
        let (prompts, turns, last_used) = (AtomicU64::new(0), AtomicUsize::new(0), Mutex::default());
        let RequestOptions { rotation, quota_cooldown_ms, .. } = settings.options;
        let (clock, events) = (journal.clock.clone(), journal.events.clone());
        let cooling = Cooling { tokens: tokens.clone(), clock, events, rotation, quota_cooldown_ms };
        Self { settings, sender, tokens, journal, cooling, session_id, prompts, turns, last_used }
    }

    /// Sends a request. An HTTP error of the API is an answer, not an error.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT`, `ERR_QWEN_NOT_LOGGED_IN`, `ERR_QWEN_NETWORK`, `ERR_QWEN_TIMEOUT`, and those of
    /// [`TokenManager::token`].
    pub async fn fetch(&self, request: Request) -> Result<Answer> {
        let url = request.url.clone();
        // Allocated on the runtime thread: cross-thread frees contend on the allocator lock.
        let answer = Box::pin(Call::run(self, request)).await;
        if !self.settings.for_opencode {
            return answer;
        }
        answer.or_else(|error| {
            let known = FinalError::of_error(&error).zip(Url::parse(&url).ok());
            known.map_or(Err(error), |(final_error, url)| Ok(Answer::without_server(url, &final_error)))
        })
    }

    /// Resolves the URL of a request and shapes its body.
    pub(super) async fn prepare(&self, request: Request, snapshot: &Snapshot) -> Result<Prepared> {
        // Evaluated only if the URL is not below the client's base URL, since there may be many accounts.
        let bases = snapshot.document.all().filter_map(|record| {
            snapshot.account(record).base_url(&record.token()?, self.sender.base_url_override.as_ref()).ok()
        });
        let target = Target::resolve(&request.url, &self.settings.base_url, bases)?;
        let kinds = snapshot.document.all().filter(|record| record.is_enabled()).map(Record::kind).collect();
        let ids = self.settings.options.qwen_mode.then(|| self.ids(&request.headers));
        Prepared::new(request, target, ids, kinds, self.settings.for_opencode).await
    }

    /// Returns the enabled accounts for a request for `model`.
    pub(super) fn candidates<'a>(
        &self,
        snapshot: &'a Snapshot,
        model: &str,
        now_ms: u64,
    ) -> Vec<Candidate<'a>> {
        let active = snapshot.document.active_id();
        let candidate = |(record, account): (&'a Record, &'a Account)| Candidate {
            account,
            record,
            price: account.kind.price(),
            availability: availability(record, now_ms),
            // Any account serves a request without a model.
            serving: if model.is_empty() {
                Serving::Yes
            } else {
                self.settings.models.serving(record, model)
            },
            is_active: active == Some(record.id()),
        };
        snapshot.enabled_accounts(now_ms).map(candidate).collect()
    }

    /// Counts the call, and returns the values that the selection needs.
    pub(super) fn selection_input(&self, prepared: &Prepared, now_ms: u64) -> SelectionInput {
        SelectionInput {
            rotation: self.settings.options.rotation,
            turn: self.turns.fetch_add(1, Ordering::Relaxed),
            process: usize::try_from(std::process::id()).unwrap_or_default(),
            allow_paid_fallback: self.settings.options.allow_paid_fallback,
            may_degrade: self.settings.options.degrade && prepared.may_degrade,
            may_fall_back: self.settings.fallback.is_some() && prepared.is_chat,
            now_ms,
        }
    }

    /// Starts the record of a request.
    pub(super) fn record(&self, url: &str, prepared: &Prepared) -> RequestRecord {
        self.journal.request_log.start(&LogStart {
            url,
            method: &prepared.method,
            headers: &prepared.headers,
            body: prepared.body.as_ref(),
            stream: prepared.is_chat_stream,
        })
    }

    /// Returns a fresh token of an account. `seen` is a recent snapshot of the accounts.
    pub(super) async fn access(&self, account: &Account, seen: Option<Arc<Snapshot>>) -> Result<Access> {
        let snapshot = match seen {
            Some(snapshot) => snapshot,
            None => self.tokens.snapshot().await?,
        };
        self.sender.access(account, self.tokens.token_in(snapshot, &account.id, None).await?)
    }

    /// Returns another token after one was refused. Returns `None` if the store has no other token and a refresh would not
    /// help: the token was just obtained, or the free tier is known to have ended for this login.
    pub(super) async fn renewed(&self, candidate: &Candidate<'_>, refused: &Token) -> Result<Option<Access>> {
        let Candidate { account, record, .. } = candidate;
        let was_just_obtained = record.token().is_none_or(|held| held.access_token != refused.access_token);
        let age = self.now_ms().abs_diff(record.updated_at());
        let is_known = age < NO_REFRESH_MS
            && record.rejected_at().is_some()
            && record.last_error().is_some_and(|last| last.code == Code::FreeTierDiscontinued.as_str());
        if was_just_obtained || is_known {
            let snapshot = self.tokens.snapshot().await?;
            let held = snapshot.record(&account.id).and_then(Record::token);
            let other = held.filter(|held| held.access_token != refused.access_token);
            return other.map(|token| self.sender.access(account, Arc::new(token))).transpose();
        }
        let token = self.tokens.token(&account.id, Some(&refused.access_token)).await?;
        self.sender.access(account, token).map(Some)
    }

    /// Changes an account in the store. Returns `None` if the write fails; the next request then learns the same from the
    /// server.
    pub(super) async fn update<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Registry) -> Result<T> + Send + 'static,
    ) -> Option<T> {
        self.tokens.with_registry(change).await.ok()
    }

    /// Notes the account's state if the answer ends with an error. It only affects later requests, since content was already
    /// passed on.
    pub(super) fn note_late_error(
        &self,
        candidate: &Candidate<'_>,
        body: &mut Body,
        input: CooldownInput<'static>,
    ) {
        let (cooling, account) = (self.cooling.clone(), candidate.account.clone());
        let token = candidate.record.token();
        body.on_server_error(move |error| {
            let (is_key, now_ms) = (account.kind != Kind::OAuth, cooling.clock.now_ms());
            let reading = Reading::of_inner_error(error, &RequestContext { is_key, model: "", now_ms });
            let note = async move {
                match (reading.verdict, token) {
                    (Verdict::KeyRejected, Some(key)) => cooling.reject(&account, key.access_token).await,
                    _ => drop(cooling.start(&account, &reading, input).await),
                }
            };
            Some(Handle::try_current().ok()?.spawn(note))
        });
    }

    /// Marks an account as recovered after a success. `is_last` is true if no other account is ready.
    pub(super) async fn succeeded(
        &self,
        candidate: &Candidate<'_>,
        first_asked: Option<&Account>,
        is_last: bool,
    ) {
        let Candidate { account, record, .. } = candidate;
        let was_cooling = record.exhausted_until() > 0;
        if was_cooling && matches!(record.cooling_reason(), CoolingReason::Quota | CoolingReason::Payment) {
            let message = format!("The Qwen account \"{}\" can be asked again.", account.label);
            self.tell(EventKind::Ready, account, &message, None);
        }
        if was_cooling || record.rejected_at().is_some() || record.last_error().is_some() {
            let id = account.id.clone();
            self.update(move |registry| registry.mark_recovered(&id)).await;
        }
        let before = self.moved_on_to(account, first_asked).filter(|before| *before != account.id);
        if let Some(before) = before.filter(|_| self.settings.options.rotation != Rotation::RoundRobin) {
            let mut message = format!("Requests go to the Qwen account \"{}\" now.", account.label);
            if is_last {
                message.push_str(" It is the last one that is ready.");
            }
            self.tell_of_switch(account, Some(before), message);
        }
    }

    /// Reports an account above the price limit before it is asked.
    pub(super) fn tell_of_paid_fallback(&self, account: &Account, first_asked: Option<&Account>) {
        let before = self.moved_on_to(account, first_asked);
        if before.as_ref() != Some(&account.id) {
            let message = format!(
                "Requests go to the Qwen account \"{}\" now, which is {}: the cheaper ones can't answer.",
                account.label,
                account.kind.price().describe()
            );
            self.tell_of_switch(account, before, message);
        }
    }

    fn tell_of_switch(&self, account: &Account, from_account_id: Option<String>, message: String) {
        let event =
            Event::of_account(EventKind::Switched, self.now_ms(), &account.id, &account.label, message);
        self.emit(Event { from_account_id, ..event });
    }

    /// Remembers the account that requests go to. Returns the id of the previous one: the last that answered, or the first that
    /// was asked in this call.
    fn moved_on_to(&self, account: &Account, first_asked: Option<&Account>) -> Option<String> {
        let before = lock(&self.last_used).replace(account.id.clone());
        before.or_else(|| first_asked.map(|first| first.id.clone()))
    }

    /// Reports an event of an account.
    pub(super) fn tell(&self, kind: EventKind, account: &Account, message: &str, code: Option<Code>) {
        let event = Event::of_account(kind, self.now_ms(), &account.id, &account.label, message.to_owned());
        self.emit(Event { code, ..event });
    }

    /// Sends an event to the listener.
    pub(super) fn emit(&self, event: Event) {
        self.journal.events.emit(event);
    }

    /// The time in epoch milliseconds.
    pub(super) fn now_ms(&self) -> u64 {
        self.journal.clock.now_ms()
    }

    /// Returns the ids of a request, with the session of the host if it names one.
    fn ids(&self, headers: &HeaderMap) -> Ids {
        let named = headers.get(CONVERSATION_HEADER).and_then(|value| value.to_str().ok());
        let session_id = named.unwrap_or(&self.session_id).to_owned();
        let count = self.prompts.fetch_add(1, Ordering::Relaxed);
        Ids { prompt_id: format!("{session_id}########{count}"), session_id }
    }
}
