//! The one place that knows how a token gets fresh.
//!
//! Many callers share one refresh in a process; many processes share one by the locks. The sequence lock, read again,
//! redeem, write, sync, unlock stands in [`Refresh::run`] and nowhere else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::runtime::Handle;

use crate::accounts::account::Account;
use crate::busy::Busy;
use crate::clock::Clock;
use crate::error::{Code, Error, Result};
use crate::events::{Event, EventKind, Events};
use crate::oauth::refresh::RefreshRetries;
use crate::oauth::token::{Redemption, Token};
use crate::oauth::{OAuthClient, refresh_unavailable};
use crate::secret::Secret;
use crate::store::credentials::{Credentials, Stamp};
use crate::store::lock::{self, CliLock, TOUCH_INTERVAL};

/// A token is refreshed this long before it expires.
pub const FRESHNESS_MARGIN_MS: u64 = 30_000;
/// A whole refresh under the lock, its retries included.
const REFRESH_LIMIT: Duration = Duration::from_secs(20);

type Outcome = Result<Arc<Token>>;
type SharedRefresh = Shared<BoxFuture<'static, Outcome>>;

/// Gives fresh tokens.
#[derive(Debug, Clone)]
pub struct TokenManager(Arc<Inner>);

struct Inner {
    oauth: OAuthClient,
    clock: Clock,
    events: Events,
    state: Mutex<HashMap<String, AccountState>>,
    busy: Busy,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenManager").finish_non_exhaustive()
    }
}

/// What a process remembers of one account.
#[derive(Default)]
struct AccountState {
    /// The file as it was last read.
    read: Option<(Stamp, Arc<Credentials>)>,
    /// The refresh that is under way.
    refresh: Option<SharedRefresh>,
    /// The refresh token that the server refused, and how.
    refused: Option<(Secret, Error)>,
    /// Tokens that were redeemed and could not be written, and the refresh token they were redeemed for.
    unsaved: Option<(Secret, Token)>,
}

impl TokenManager {
    /// Reads nothing until it is asked for a token. `busy` counts what must reach its end once it has begun.
    #[must_use]
    pub fn new(oauth: OAuthClient, clock: Clock, events: Events, busy: Busy) -> Self {
        Self(Arc::new(Inner { oauth, clock, events, state: Mutex::default(), busy }))
    }

    /// A token that is fresh for 30 s at the least, or was obtained just now. `rejected` is a token that the API
    /// refused: it is not given again.
    ///
    /// # Errors
    /// `ERR_QWEN_NOT_LOGGED_IN`, `ERR_QWEN_CREDENTIALS_INVALID`, `ERR_QWEN_REFRESH_TOKEN_INVALID`,
    /// `ERR_QWEN_REFRESH_UNAVAILABLE`, `ERR_QWEN_INVALID_RESPONSE`, `ERR_QWEN_LOCK_TIMEOUT`, `ERR_QWEN_IO`.
    pub async fn token(&self, account: &Account, rejected: Option<&Secret>) -> Outcome {
        // A refresh that was under way may bring the very token that was refused, so there may be a second one.
        for _ in 0..2 {
            let credentials = self.credentials(account).await?.ok_or_else(|| not_logged_in(account))?;
            let token = self.0.current(account, &credentials);
            if self.0.is_fresh(&token) && Some(&token.access_token) != rejected {
                return Ok(token);
            }
            if let Some(error) = self.0.refusal(account, &credentials) {
                return Err(error);
            }
            let token = self.refresh(account, token, rejected.cloned()).await?;
            if Some(&token.access_token) != rejected {
                return Ok(token);
            }
        }
        Err(Error::new(Code::TokenRejected, "Qwen refused the token that it has just issued. Log in again.")
            .with_account(&account.id))
    }

    /// What the account's file holds now. The file is read again only if it has changed.
    ///
    /// # Errors
    /// `ERR_QWEN_CREDENTIALS_INVALID`, `ERR_QWEN_IO`.
    pub async fn credentials(&self, account: &Account) -> Result<Option<Arc<Credentials>>> {
        let (inner, account) = (Arc::clone(&self.0), account.clone());
        blocking(move || inner.read(&account)).await
    }

    /// Replaces the account's tokens by those of a new login.
    ///
    /// # Errors
    /// `ERR_QWEN_LOCK_TIMEOUT`, `ERR_QWEN_IO`.
    pub async fn store_login(&self, account: &Account, token: Token) -> Result<()> {
        let (inner, account) = (Arc::clone(&self.0), account.clone());
        let busy = inner.busy.enter();
        blocking(move || {
            let _busy = busy;
            let file = &account.credentials;
            lock::exclusively(
                &file.locks(),
                &inner.clock,
                || None,
                |_| {
                    let previous = match file.read() {
                        Ok(previous) => previous,
                        Err(error) if error.code() == Code::CredentialsInvalid => {
                            file.set_aside(inner.clock.now_ms())?;
                            None
                        }
                        Err(error) => return Err(error),
                    };
                    file.write(&token, previous.as_ref())
                },
            )?;
            inner.with_state(&account, |state| {
                state.refused = None;
                state.unsaved = None;
            });
            Ok(())
        })
        .await
    }

    /// Takes tokens over that were kept elsewhere, if the account has no file yet. Says whether it did.
    ///
    /// # Errors
    /// `ERR_QWEN_LOCK_TIMEOUT`, `ERR_QWEN_IO`.
    pub async fn adopt(&self, account: &Account, token: Token) -> Result<bool> {
        if self.credentials(account).await.is_ok_and(|found| found.is_some()) {
            return Ok(false);
        }
        let (inner, account) = (Arc::clone(&self.0), account.clone());
        let busy = inner.busy.enter();
        blocking(move || {
            let _busy = busy;
            let file = &account.credentials;
            lock::exclusively(
                &file.locks(),
                &inner.clock,
                || None,
                |_| {
                    // A file that is there but broken may be mended by its owner.
                    if file.stamp()?.is_some() {
                        return Ok(false);
                    }
                    file.write(&token, None).map(|()| true)
                },
            )
        })
        .await
    }

    /// Whether the account's refresh token was refused, and how. A new token in the file clears it.
    #[must_use]
    pub fn refusal(&self, account: &Account, credentials: &Credentials) -> Option<Error> {
        self.0.refusal(account, credentials)
    }

    /// Joins the refresh that is under way, or starts one. It runs to its end even if every caller gives up: a token
    /// that was redeemed must be written.
    fn refresh(&self, account: &Account, seen: Arc<Token>, rejected: Option<Secret>) -> SharedRefresh {
        self.0.with_state(account, |state| {
            if let Some(refresh) = &state.refresh {
                return refresh.clone();
            }
            let inner = Arc::clone(&self.0);
            let busy = inner.busy.enter();
            let work = Refresh { inner, account: account.clone(), seen, rejected };
            let task = tokio::spawn(async move {
                let (inner, account) = (Arc::clone(&work.inner), work.account.clone());
                let runtime = Handle::current();
                let outcome = blocking(move || work.run(&runtime)).await;
                inner.with_state(&account, |state| state.refresh = None);
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

impl Inner {
    fn with_state<T>(&self, account: &Account, action: impl FnOnce(&mut AccountState) -> T) -> T {
        // A panic elsewhere can't leave this map half-changed: each change is one assignment.
        let mut states = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        action(states.entry(account.id.clone()).or_default())
    }

    fn read(&self, account: &Account) -> Result<Option<Arc<Credentials>>> {
        let Some(stamp) = account.credentials.stamp()? else {
            self.with_state(account, |state| state.read = None);
            return Ok(None);
        };
        let known = self.with_state(account, |state| state.read.clone());
        if let Some((known_stamp, credentials)) = known
            && known_stamp == stamp
        {
            return Ok(Some(credentials));
        }
        let credentials = account.credentials.read()?.map(Arc::new);
        // Were the file replaced between the two looks, its stamp would differ again at the next.
        self.with_state(account, |state| {
            state.read = credentials.clone().map(|credentials| (stamp, credentials));
        });
        Ok(credentials)
    }

    /// The account's token: what its file holds, unless that was redeemed already and could not be replaced.
    fn current(&self, account: &Account, credentials: &Credentials) -> Arc<Token> {
        let unsaved = self.with_state(account, |state| state.unsaved.clone());
        match unsaved {
            Some((spent, token)) if credentials.token.refresh_token.as_ref() == Some(&spent) => {
                Arc::new(token)
            }
            _ => Arc::new(credentials.token.clone()),
        }
    }

    fn is_fresh(&self, token: &Token) -> bool {
        token.expires_at > self.clock.now_ms().saturating_add(FRESHNESS_MARGIN_MS)
    }

    fn refusal(&self, account: &Account, credentials: &Credentials) -> Option<Error> {
        let refused = self.with_state(account, |state| state.refused.clone());
        refused
            .filter(|(token, _)| credentials.token.refresh_token.as_ref() == Some(token))
            .map(|(_, error)| error)
    }

    fn emit(&self, kind: EventKind, account: &Account, message: String, code: Option<Code>) {
        let event =
            Event { kind, at: self.clock.now_ms(), message, account_id: Some(account.id.clone()), code };
        self.events.emit(event);
    }
}

/// One refresh of one account, on a blocking thread.
struct Refresh {
    inner: Arc<Inner>,
    account: Account,
    /// The token that was found not to do.
    seen: Arc<Token>,
    rejected: Option<Secret>,
}

impl Refresh {
    fn run(self, runtime: &Handle) -> Outcome {
        let locks = self.account.credentials.locks();
        let meanwhile = || self.refreshed_elsewhere().ok().flatten().map(Ok);
        lock::exclusively(&locks, &self.inner.clock, meanwhile, |cli| Ok(self.under_lock(runtime, cli)))?
    }

    /// The token that another process has put into the file, where one has.
    fn refreshed_elsewhere(&self) -> Result<Option<Arc<Token>>> {
        let Some(credentials) = self.inner.read(&self.account)? else {
            return Err(not_logged_in(&self.account));
        };
        let token = &credentials.token;
        let now = self.inner.clock.now_ms();
        // A token that someone has only just obtained may be used up to its end.
        let usable = self.inner.is_fresh(token)
            || token.access_token != self.seen.access_token && token.expires_at > now;
        let refused = self.rejected.as_ref() == Some(&token.access_token);
        Ok((usable && !refused).then(|| Arc::new(token.clone())))
    }

    fn under_lock(&self, runtime: &Handle, cli: &mut CliLock) -> Outcome {
        if let Some(token) = self.refreshed_elsewhere()? {
            return Ok(token);
        }
        let credentials = self.inner.read(&self.account)?.ok_or_else(|| not_logged_in(&self.account))?;
        let current = self.inner.current(&self.account, &credentials);
        if current.refresh_token != credentials.token.refresh_token {
            // The file still holds a spent token: what was redeemed for it must get there first.
            self.save(&credentials, &current)?;
            if self.inner.is_fresh(&current) && self.rejected.as_ref() != Some(&current.access_token) {
                return Ok(current);
            }
        }
        let spent = current.refresh_token.clone().ok_or_else(|| no_refresh_token(&self.account))?;
        let token = match runtime.block_on(self.redeem(&spent, cli))? {
            Redeemed::ByUs(token) => token.or_else_from(&current),
            Redeemed::Elsewhere(token) => return Ok(token),
        };
        Ok(self.keep(&spent, token, cli))
    }

    /// Redeems the refresh token, keeping the CLI's lock fresh meanwhile.
    async fn redeem(&self, refresh_token: &Secret, cli: &mut CliLock) -> Result<Redeemed> {
        let started = Instant::now();
        let mut retries = RefreshRetries::new(1);
        let mut touch = tokio::time::interval(TOUCH_INTERVAL);
        loop {
            let left = REFRESH_LIMIT.saturating_sub(started.elapsed());
            let mut request = std::pin::pin!(self.inner.oauth.redeem(refresh_token, left));
            let redemption = loop {
                tokio::select! {
                    redemption = &mut request => break redemption,
                    _ = touch.tick() => cli.keep(&self.inner.clock),
                }
            };
            let (cause, in_doubt) = match redemption {
                Redemption::Redeemed(token) => return Ok(Redeemed::ByUs(token)),
                Redemption::Refused(error) => return self.refused(refresh_token, error),
                Redemption::Unusable(error) => return Err(error.with_account(&self.account.id)),
                Redemption::Unavailable { cause, in_doubt } => (cause, in_doubt),
            };
            let delay = retries
                .next_delay(&cause, in_doubt)
                .filter(|delay| started.elapsed() + *delay < REFRESH_LIMIT);
            let Some(delay) = delay else {
                return Err(refresh_unavailable(cause).with_account(&self.account.id));
            };
            let message = format!("Refreshing the Qwen token is tried again: {}", cause.message());
            self.inner.emit(EventKind::Retry, &self.account, message, Some(cause.code()));
            tokio::time::sleep(delay).await;
            cli.keep(&self.inner.clock);
            // Whoever has put another token there meanwhile has made this one worthless.
            if let Some(token) = self.refreshed_elsewhere()? {
                return Ok(Redeemed::Elsewhere(token));
            }
        }
    }

    fn refused(&self, refresh_token: &Secret, error: Error) -> Result<Redeemed> {
        // The CLI may have redeemed the same token in the moment before.
        if let Some(token) = self.refreshed_elsewhere()? {
            return Ok(Redeemed::Elsewhere(token));
        }
        let error = error.with_account(&self.account.id).with_path(self.account.credentials.path());
        self.inner
            .with_state(&self.account, |state| state.refused = Some((refresh_token.clone(), error.clone())));
        self.inner.emit(EventKind::NeedsLogin, &self.account, error.message().to_owned(), Some(error.code()));
        Err(error)
    }

    /// Puts new tokens where the spent one was, and nowhere else.
    fn keep(&self, spent: &Secret, token: Token, cli: &mut CliLock) -> Arc<Token> {
        cli.keep(&self.inner.clock);
        self.inner.with_state(&self.account, |state| state.unsaved = Some((spent.clone(), token.clone())));
        self.inner.emit(
            EventKind::Refreshed,
            &self.account,
            "The Qwen token was refreshed.".to_owned(),
            None,
        );
        let found = self.inner.read(&self.account);
        match found {
            Ok(Some(credentials)) if credentials.token.refresh_token.as_ref() == Some(spent) => {
                if let Err(error) = self.save(&credentials, &token) {
                    // The token works all the same, and is written as soon as that is possible.
                    self.inner.emit(
                        EventKind::Retry,
                        &self.account,
                        error.message().to_owned(),
                        Some(error.code()),
                    );
                }
            }
            // Another login, a logout or a broken file took its place meanwhile: that is the user's word, not ours.
            _ => self.inner.with_state(&self.account, |state| state.unsaved = None),
        }
        Arc::new(token)
    }

    fn save(&self, previous: &Credentials, token: &Token) -> Result<()> {
        self.account.credentials.write(token, Some(previous))?;
        self.inner.with_state(&self.account, |state| state.unsaved = None);
        Ok(())
    }
}

enum Redeemed {
    ByUs(Token),
    Elsewhere(Arc<Token>),
}

/// The error of an account without credentials.
fn not_logged_in(account: &Account) -> Error {
    let path = account.credentials.path();
    let message =
        format!("Not logged in to Qwen: there is no {}. Log in with `opencode auth login`.", path.display());
    Error::new(Code::NotLoggedIn, message).with_path(path)
}

fn no_refresh_token(account: &Account) -> Error {
    let path = account.credentials.path();
    let message =
        format!("The Qwen login in {} has expired and has no refresh token. Log in again.", path.display());
    Error::new(Code::RefreshTokenInvalid, message).with_path(path).with_account(&account.id)
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|failure| Err(Error::internal(failure)))
}
