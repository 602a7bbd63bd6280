//! Keeps tokens fresh.
//!
//! All callers in a process share one refresh. The locks share one refresh among all processes. Only [`Refresh`]
//! contains the sequence: lock, read again, redeem, write, sync, unlock.

mod errors;
mod refresh;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use qwen_base::{
    Busy, Clock, Code, DEFAULT_API_BASE_URL, Error, Event, EventKind, Events, KnownSecrets, Result, Secret,
    Section, api_base_url, blocking,
    fault::{self, Safeguard},
    lock,
};
use tokio::runtime::Handle;

use self::errors::{no_refresh_token, refused_elsewhere, refused_key, without_token};
use self::refresh::Refresh;
use crate::accounts::account::{Account, unknown_account};
use crate::accounts::issuer::{BaseUrlOverride, Issuer};
use crate::accounts::registry::Registry;
use crate::accounts::snapshot::Snapshot;
use crate::model::{Binding, Kind, Token};
use crate::oauth::OAuthClient;
use crate::oauth::revoke::Revocation;
use crate::store::record::Record;

/// If the last check of the files took longer than this, the next one runs on a blocking thread.
const QUICK_LOOK: Duration = Duration::from_millis(5);

/// Longest time that a request waits for its account's binding to be written. The write goes on afterwards.
const BINDING_PATIENCE: Duration = Duration::from_secs(2);

type TokenResult = Result<Arc<Token>>;
type SharedRefresh = Shared<BoxFuture<'static, TokenResult>>;

/// Source of fresh tokens for all accounts.
#[derive(Debug, Clone)]
pub struct TokenManager(Arc<Manager>);

struct Manager {
    oauth: OAuthClient,
    /// The issuer that `oauth` asks.
    issuer: Issuer,
    registry: Arc<Registry>,
    clock: Clock,
    events: Events,
    state: Mutex<HashMap<String, AccountState>>,
    busy: Busy,
    secrets: KnownSecrets,
    base_url_override: Option<BaseUrlOverride>,
    /// True if the last stat was fast. Starts false: the files may be on a network mount.
    looks_are_quick: AtomicBool,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenManager").finish_non_exhaustive()
    }
}

/// Knowledge of this process about one account.
#[derive(Default)]
struct AccountState {
    refresh: Option<SharedRefresh>,
    /// The last redeemed tokens, and the refresh token that was spent for them.
    redeemed: Option<(Secret, Token)>,
    /// The refresh token that the server refused, and its error.
    refused: Option<(Secret, Error)>,
    /// True once this process has tried to write the account's binding.
    is_bound: bool,
}

impl TokenManager {
    /// Creates a manager. It opens no file yet. `busy` counts the work that must be finished before the process ends;
    /// `secrets` collects every token, so that logs don't show it.
    #[must_use]
    pub fn new(
        oauth: OAuthClient,
        registry: Arc<Registry>,
        clock: Clock,
        events: Events,
        busy: Busy,
        secrets: KnownSecrets,
        base_url_override: Option<BaseUrlOverride>,
    ) -> Self {
        let looks_are_quick = AtomicBool::new(false);
        let state = Mutex::default();
        Self(Arc::new(Manager {
            issuer: Issuer::of(oauth.config()),
            oauth,
            registry,
            clock,
            events,
            state,
            busy,
            secrets,
            base_url_override,
            looks_are_quick,
        }))
    }

    /// Returns a token that is fresh for at least 30 s, or was just obtained. `rejected` is a token that the API
    /// refused: it is not returned again.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT` for an unknown id, `ERR_QWEN_CREDENTIALS_INVALID`, `ERR_QWEN_REFRESH_TOKEN_INVALID`,
    /// `ERR_QWEN_REFRESH_UNAVAILABLE`, `ERR_QWEN_INVALID_RESPONSE`, `ERR_QWEN_LOCK_TIMEOUT`, `ERR_QWEN_IO`.
    pub async fn token(&self, id: &str, rejected: Option<&Secret>) -> TokenResult {
        self.token_in(self.snapshot().await?, id, rejected).await
    }

    /// As [`TokenManager::token`], with a snapshot that was just taken.
    ///
    /// # Errors
    /// Those of [`TokenManager::token`].
    pub async fn token_in(
        &self,
        snapshot: Arc<Snapshot>,
        id: &str,
        rejected: Option<&Secret>,
    ) -> TokenResult {
        let token = self.fresh_token(Arc::clone(&snapshot), id, rejected).await?;
        self.bind(&snapshot, id, &token).await;
        Ok(token)
    }

    async fn fresh_token(
        &self,
        mut snapshot: Arc<Snapshot>,
        id: &str,
        rejected: Option<&Secret>,
    ) -> TokenResult {
        // A refresh that was under way may return the rejected token, so there may be a second refresh.
        for _ in 0..2 {
            let (record, account) = find(&snapshot, id)?;
            let (token, spent) = self.0.current(account, record)?;
            if account.kind != Kind::OAuth && Some(&token.access_token) == rejected {
                return Err(refused_key(account, record));
            }
            let is_good = self.0.is_fresh(&token) && Some(&token.access_token) != rejected;
            if is_good && spent.is_some() {
                // This process alone has the token, so it must be written before the process ends.
                let refreshed =
                    self.refresh(account, Arc::clone(&token), Arc::clone(&snapshot), None, false).await;
                return Ok(refreshed.unwrap_or(token));
            }
            if is_good {
                return Ok(token);
            }
            if let Some(error) = self.0.refused_before(account, record) {
                return Err(error);
            }
            let token = self.refresh(account, token, Arc::clone(&snapshot), rejected.cloned(), false).await?;
            if Some(&token.access_token) != rejected {
                return Ok(token);
            }
            snapshot = self.snapshot().await?;
        }
        let message = "Qwen refused the token that it has just issued. Log in again.";
        Err(Error::new(Code::TokenRejected, message).with_account(id))
    }

    /// Returns the binding of a token that the OAuth server of the settings has just issued; `None` if it names a host
    /// that tokens must not be sent to.
    #[must_use]
    pub fn binding_for(&self, token: &Token) -> Option<Binding> {
        let config = self.0.oauth.config();
        let base_url = match &self.0.base_url_override {
            Some(set) => set.url.clone(),
            None => api_base_url(token.resource_url.as_deref().unwrap_or(DEFAULT_API_BASE_URL)).ok()?,
        };
        Some(Binding {
            token_endpoint: config.token_endpoint.clone(),
            client_id: config.client_id.clone(),
            base_url,
            resource_url: token.resource_url.clone(),
            is_certain: true,
        })
    }

    /// Writes the binding of an account at its first use. It runs after a refresh, so that a wrong server that never
    /// answers is not bound. A binding that can't be written stops no request.
    async fn bind(&self, snapshot: &Snapshot, id: &str, token: &Token) {
        let is_login = |(_, account): &(&Record, &Account)| account.kind == Kind::OAuth;
        let Some((_, account)) = snapshot.find(id).filter(is_login) else { return };
        if !self.0.issuer.must_bind(account.binding.as_ref())
            || self.0.with_state(id, |state| std::mem::replace(&mut state.is_bound, true))
        {
            return;
        }
        let Some(binding) = self.binding_for(token) else { return };
        let id = id.to_owned();
        let note = self.with_registry(move |registry| registry.bind(&id, &binding));
        let _ = tokio::time::timeout(BINDING_PATIENCE, note).await;
    }

    /// Asks the issuer of a refresh token to revoke it.
    ///
    /// # Errors
    /// Those of [`OAuthClient::revoke`], and `ERR_QWEN_INVALID_CONFIG` if the settings name another server.
    pub async fn revoke(&self, account: &Account, refresh_token: &Secret) -> Result<Revocation> {
        self.0.oauth_of(account)?.revoke(refresh_token).await
    }

    /// Refreshes a login before the user's choice of it takes effect, so that a dead login never replaces a good one. A
    /// good login that is already in `oauth_creds.json` replaces nothing, so it is not refreshed. Keys are not tested.
    ///
    /// # Errors
    /// Those of [`TokenManager::token`]; `ERR_QWEN_REFRESH_TOKEN_INVALID` for a login without a refresh token, which
    /// the CLI can't use.
    pub async fn prove(&self, id: &str) -> Result<()> {
        let snapshot = self.snapshot().await?;
        let (record, account) = find(&snapshot, id)?;
        if account.kind != Kind::OAuth || fault::omits(Safeguard::Proof) {
            return Ok(());
        }
        let (token, _) = self.0.current(account, record)?;
        let is_linked = snapshot.linked.as_deref() == Some(id);
        if is_linked && self.0.is_fresh(&token) && record.rejected_at().is_none() {
            return Ok(());
        }
        if token.refresh_token.is_none() {
            return Err(no_refresh_token(account));
        }
        if let Some(error) = self.0.refused_before(account, record) {
            return Err(error);
        }
        let rejected = token.access_token.clone();
        let token = self.refresh(account, token, Arc::clone(&snapshot), Some(rejected), true).await?;
        self.bind(&snapshot, id, &token).await;
        Ok(())
    }

    /// Delays the end of the process until the returned value is dropped.
    #[must_use]
    pub fn hold_end(&self) -> Option<Section> {
        self.0.busy.shutdown().enter()
    }

    /// Hides a secret in the logs from now on.
    pub fn keep_secret(&self, secret: &Secret) {
        self.0.secrets.add(secret);
    }

    /// Returns all accounts as they are now.
    ///
    /// # Errors
    /// Those of [`Registry::snapshot`].
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>> {
        // On a local disk, a stat takes less time than a switch to another thread.
        if self.0.looks_are_quick.load(Ordering::Relaxed)
            && let Some(snapshot) = self.0.look()
        {
            return Ok(snapshot);
        }
        let inner = Arc::clone(&self.0);
        self.with_registry(move |registry| inner.look().map_or_else(|| registry.snapshot(), Ok)).await
    }

    /// Runs `action` on a thread that may block. It runs to its end even if the caller gives up.
    ///
    /// # Errors
    /// Those of `action`.
    pub async fn with_registry<T: Send + 'static>(
        &self,
        action: impl FnOnce(&Registry) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let registry = Arc::clone(&self.0.registry);
        let busy = self.0.busy.enter();
        blocking(move || {
            let _busy = busy;
            action(&registry)
        })
        .await?
    }

    /// Joins the refresh that is under way, or starts one. It runs to its end even if every caller gives up, since a
    /// redeemed token must be written.
    fn refresh(
        &self,
        account: &Account,
        seen: Arc<Token>,
        snapshot: Arc<Snapshot>,
        rejected: Option<Secret>,
        is_chosen: bool,
    ) -> SharedRefresh {
        self.0.with_state(&account.id, |state| {
            if let Some(refresh) = &state.refresh {
                return refresh.clone();
            }
            let inner = Arc::clone(&self.0);
            let busy = inner.busy.enter();
            let doubtful_refusal = Mutex::default();
            let held_end = Arc::default();
            let work = Refresh {
                inner,
                account: account.clone(),
                seen,
                snapshot,
                rejected,
                is_chosen,
                doubtful_refusal,
                held_end,
            };
            let task = tokio::spawn(async move {
                let (inner, id) = (Arc::clone(&work.inner), work.account.id.clone());
                let runtime = Handle::current();
                let outcome = blocking(move || work.run(&runtime)).await.and_then(|outcome| outcome);
                inner.with_state(&id, |state| state.refresh = None);
                drop(busy);
                outcome
            });
            let refresh = async move { task.await.unwrap_or_else(|failure| Err(Error::internal(failure))) }
                .boxed()
                .shared();
            state.refresh = Some(refresh.clone());
            refresh
        })
    }
}

impl Manager {
    /// Returns the last snapshot if no file has changed, and measures the time that this takes.
    fn look(&self) -> Option<Arc<Snapshot>> {
        let started = Instant::now();
        let snapshot = self.registry.unchanged();
        self.looks_are_quick.store(started.elapsed() < QUICK_LOOK, Ordering::Relaxed);
        snapshot
    }

    fn with_state<T>(&self, id: &str, action: impl FnOnce(&mut AccountState) -> T) -> T {
        // A panic elsewhere can't leave the map inconsistent: each change is one assignment.
        let mut states = lock(&self.state);
        action(states.entry(id.to_owned()).or_default())
    }

    /// Returns the token in the files, or the one that was redeemed for it. With that comes the spent refresh token, which the
    /// files still hold: the redeemed token could not be written, or old files came back.
    fn current(&self, account: &Account, record: &Record) -> Result<(Arc<Token>, Option<Secret>)> {
        let stored = record.token().ok_or_else(|| without_token(account))?;
        let unsaved = self.with_state(&account.id, |state| {
            let (spent, token) = state.redeemed.as_ref()?;
            // Some servers keep the refresh token.
            let is_newer =
                token.refresh_token.as_ref() != Some(spent) || token.expires_at > stored.expires_at;
            let is_spent = stored.refresh_token.as_ref() == Some(spent);
            (is_spent && is_newer).then(|| (token.clone(), Some(spent.clone())))
        });
        let (token, spent) = unsaved.unwrap_or((stored, None));
        self.hide_in_logs(&token);
        Ok((Arc::new(token), spent))
    }

    /// Returns the server's earlier refusal, since asking again would bring the same.
    fn refused_before(&self, account: &Account, record: &Record) -> Option<Error> {
        let refresh_token = record.token()?.refresh_token?;
        let refused = self.with_state(&account.id, |state| state.refused.clone());
        let known = refused.filter(|(token, _)| *token == refresh_token).map(|(_, error)| error);
        known.or_else(|| record.is_refused().then(|| refused_elsewhere(account, record)))
    }

    fn hide_in_logs(&self, token: &Token) {
        for secret in token.secrets() {
            self.secrets.add(secret);
        }
    }

    /// Returns the OAuth server that the account's refresh token may be sent to.
    fn oauth_of(&self, account: &Account) -> Result<OAuthClient> {
        self.issuer.expect(account)?;
        let binding = self.issuer.effective(account.binding.as_ref());
        Ok(match binding.filter(|binding| binding.token_endpoint != self.issuer.token_endpoint) {
            None => self.oauth.clone(),
            Some(binding) => self.oauth.at(binding.token_endpoint.clone(), binding.client_id.clone()),
        })
    }

    fn is_fresh(&self, token: &Token) -> bool {
        token.is_fresh(self.clock.now_ms())
    }

    fn emit(&self, kind: EventKind, account: &Account, message: String, code: Option<Code>) {
        let event = Event::of_account(kind, self.clock.now_ms(), &account.id, &account.label, message);
        self.events.emit(Event { code, ..event });
    }
}

fn find<'a>(snapshot: &'a Snapshot, id: &str) -> Result<(&'a Record, &'a Account)> {
    snapshot.find(id).ok_or_else(|| unknown_account("accountId", id))
}
