//! One refresh: lock, read again, redeem, write, sync, unlock.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qwen_base::{
    Code, Error, EventKind, Result, Secret, Section,
    fault::{self, Point, Safeguard},
    lock,
};
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

use super::{Inner, Outcome, find, no_refresh_token, superseded};
use crate::accounts::account::Account;
use crate::accounts::redeemed::Prepared;
use crate::accounts::registry::Guarded;
use crate::accounts::view::View;
use crate::oauth::refresh::RefreshRetries;
use crate::oauth::refresh_unavailable;
use crate::oauth::token::{Redemption, Token};
use crate::store::lock::TOUCH_INTERVAL;
use crate::store::sharing::was_brought;

/// A whole refresh under the lock, its retries included.
const REFRESH_LIMIT: Duration = Duration::from_secs(20);
/// A refresh that is over its limit by this much was stopped, or on a machine that slept.
const OVERSLEPT: Duration = Duration::from_secs(2);
/// How often a refresh begins again because the CLI's lock was lost.
const ROUNDS: usize = 3;
/// How soon a CLI's lock that an exiting CLI removed is taken again. A waiting CLI looks ten times a second at most.
const WATCH_INTERVAL: Duration = Duration::from_millis(2);
/// How long a CLI is waited for whose lock is gone, but which has written nothing. It may have failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a CLI is waited for that redeems the token that we have just redeemed.
const OUTLAST_LIMIT: Duration = Duration::from_secs(10);

/// One refresh of one account, on a blocking thread.
pub(super) struct Refresh {
    pub(super) inner: Arc<Inner>,
    pub(super) account: Account,
    /// The token that was found not to do, and where.
    pub(super) seen: Arc<Token>,
    pub(super) view: Arc<View>,
    pub(super) rejected: Option<Secret>,
    /// True if the user has chosen this account, though a newer login may have taken its place.
    pub(super) is_chosen: bool,
    /// A refusal that may only mean that a CLI was quicker.
    pub(super) doubted: Mutex<Option<(Secret, Error)>>,
    /// From the moment a refresh token is sent to the one in which what came of it is written: a process that ended in
    /// between would lose the login.
    pub(super) at_stake: Arc<Mutex<Option<Section>>>,
}

impl Drop for Refresh {
    fn drop(&mut self) {
        *lock(&self.at_stake) = None;
    }
}

enum Redeemed {
    ByUs(Token),
    Elsewhere(Arc<Token>),
    /// The lock was lost, or the file holds another refresh token.
    NotYet,
}

impl Refresh {
    pub(super) fn run(self, runtime: &Handle) -> Outcome {
        for _ in 0..ROUNDS {
            let elsewhere = || {
                let view = self.inner.registry.view().ok()?;
                self.refreshed_elsewhere(&view).map(Some)
            };
            let outcome = self.inner.registry.guarded(elsewhere, |guard| self.under_lock(runtime, guard))?;
            if let Some(token) = outcome {
                return Ok(token);
            }
        }
        let message = format!(
            "Other programs keep taking the lock of {}. Try again; if it stays, close other qwen sessions.",
            self.account.path.display()
        );
        let error = Error::new(Code::LockTimeout, message).with_account(&self.account.id);
        Err(error.with_path(&self.account.path).retryable())
    }

    /// The token that another process has brought, where one has.
    fn refreshed_elsewhere(&self, view: &View) -> Option<Arc<Token>> {
        let token = view.record(&self.account.id)?.token()?;
        let now = self.inner.clock.now_ms();
        was_brought(&token, &self.seen, self.rejected.as_ref(), now).then(|| Arc::new(token))
    }

    /// `None` where it must begin again.
    fn under_lock(&self, runtime: &Handle, guard: &mut Guarded) -> Result<Option<Arc<Token>>> {
        let mut view = if fault::omits(Safeguard::ReadAgain) {
            Arc::clone(&self.view)
        } else {
            self.inner.registry.view_guarded(guard)?
        };
        fault::reached(Point::ReadAgain);
        if let Some(token) = self.refreshed_elsewhere(&view) {
            return Ok(Some(token));
        }
        let (account, record) = find(&view, &self.account.id)?;
        if record.is_superseded() && !self.is_chosen {
            return Err(superseded(&account));
        }
        let current = self.inner.current(&account, record)?;
        let stored = record.token().and_then(|token| token.refresh_token);
        if let Some(spent) = stored.filter(|stored| current.refresh_token.as_ref() != Some(stored)) {
            // The files still hold a spent token: what was redeemed for it must get there first.
            self.save_or_tell(guard, Prepared::default(), &spent, &current);
            if self.inner.is_fresh(&current) && self.rejected.as_ref() != Some(&current.access_token) {
                return Ok(Some(current));
            }
            view = self.inner.registry.view_guarded(guard)?;
        }
        if guard.0.waited_for_cli() && self.inner.registry.is_current(&self.view) {
            runtime.block_on(self.keeping(guard, self.until_files_change()));
            view = self.inner.registry.view_guarded(guard)?;
            if let Some(token) = self.refreshed_elsewhere(&view) {
                return Ok(Some(token));
            }
            if self.stored(&view) != self.stored(&self.view) {
                return Ok(None);
            }
        }
        let spent = current.refresh_token.clone().ok_or_else(|| no_refresh_token(&account))?;
        if let Some(error) = self.doubted_before(&spent) {
            return Err(self.refuse(&spent, error));
        }
        let prepared = self.inner.registry.prepare(guard, &view, &self.account.id)?;
        let token = match runtime.block_on(self.redeem(&spent, view, guard))? {
            Redeemed::ByUs(token) => token.or_else_from(&current),
            Redeemed::Elsewhere(token) => return Ok(Some(token)),
            Redeemed::NotYet => return Ok(None),
        };
        Ok(Some(self.keep(guard, prepared, &spent, token)))
    }

    /// Redeems the refresh token that `view` holds, keeping the CLI's lock meanwhile.
    async fn redeem(
        &self,
        refresh_token: &Secret,
        mut view: Arc<View>,
        guard: &mut Guarded<'_>,
    ) -> Result<Redeemed> {
        let started = Instant::now();
        let mut retries = RefreshRetries::new(1);
        let basis = self.stored(&view);
        let oauth = self.inner.oauth_of(&find(&view, &self.account.id)?.0)?;
        loop {
            let left = REFRESH_LIMIT.saturating_sub(started.elapsed());
            let look = self.last_look(Arc::clone(&view), guard);
            let request = oauth.redeem_if(refresh_token, left, look);
            let unavailable = match self.keeping(guard, request).await {
                None => None,
                Some(Redemption::Redeemed(token)) => {
                    fault::reached(Point::Redeemed);
                    return Ok(Redeemed::ByUs(token));
                }
                Some(Redemption::Refused(error)) => return self.refused(refresh_token, error, guard),
                Some(Redemption::Unusable(error)) => return Err(error.with_account(&self.account.id)),
                Some(Redemption::Unavailable { cause, in_doubt }) => Some((cause, in_doubt)),
            };
            if let Some((cause, in_doubt)) = unavailable {
                let delay = retries
                    .next_delay(&cause, in_doubt)
                    .filter(|delay| started.elapsed() + *delay < REFRESH_LIMIT);
                let Some(delay) = delay else {
                    // Its time ran out in its sleep, before anything was sent.
                    if !in_doubt && started.elapsed() > REFRESH_LIMIT + OVERSLEPT {
                        return Ok(Redeemed::NotYet);
                    }
                    return Err(refresh_unavailable(cause).with_account(&self.account.id));
                };
                let message = format!("Refreshing the Qwen token is tried again: {}", cause.message());
                self.inner.emit(EventKind::Retry, &self.account, message, Some(cause.code()));
                self.keeping(guard, tokio::time::sleep(delay)).await;
            }
            guard.0.keep(&self.inner.clock);
            if !guard.0.is_held()
                || started.elapsed() >= REFRESH_LIMIT
                || self.inner.busy.shutdown().is_ending()
            {
                // The CLI took our lock, and is at work with the same token now; or this process is about to end.
                return Ok(Redeemed::NotYet);
            }
            // Whoever has put another token there meanwhile has made this one worthless.
            view = self.inner.registry.view_guarded(guard)?;
            if let Some(token) = self.refreshed_elsewhere(&view) {
                return Ok(Redeemed::Elsewhere(token));
            }
            if self.stored(&view) != basis {
                return Ok(Redeemed::NotYet);
            }
        }
    }

    /// An exiting CLI removes the lock of a CLI that is at work. So a lock that went without anything being written may
    /// belong to a redemption of the same token that is under way.
    async fn until_files_change(&self) {
        let started = Instant::now();
        while started.elapsed() < PATIENCE
            && !fault::omits(Safeguard::Patience)
            && self.inner.registry.is_current(&self.view)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The refresh token that the files hold.
    fn stored(&self, view: &View) -> Option<Secret> {
        view.record(&self.account.id)?.token()?.refresh_token
    }

    /// Whether the lock is still ours and the files are what they were. A process may have slept for hours since it
    /// looked, and the CLI takes the lock of a sleeper. Nothing is sent either by a process that is about to end; from here
    /// on it waits with that.
    fn last_look(&self, view: Arc<View>, guard: &Guarded) -> impl Fn() -> bool + Send + Sync + 'static {
        let (inner, claim, at_stake) = (Arc::clone(&self.inner), guard.0.claim(), Arc::clone(&self.at_stake));
        move || {
            fault::reached(Point::Sending);
            let is_ours =
                fault::omits(Safeguard::LastLook) || claim.is_held() && inner.registry.is_current(&view);
            let mut at_stake = lock(&at_stake);
            if is_ours && at_stake.is_none() {
                *at_stake = inner.busy.shutdown().enter();
            }
            is_ours && at_stake.is_some()
        }
    }

    /// Waits for `future`, and keeps the CLI's lock meanwhile.
    async fn keeping<T>(&self, guard: &mut Guarded<'_>, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut watch = tokio::time::interval(WATCH_INTERVAL);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut touched = Instant::now();
        loop {
            tokio::select! {
                output = &mut future => return output,
                _ = watch.tick() => {
                    if touched.elapsed() >= TOUCH_INTERVAL {
                        touched = Instant::now();
                        guard.0.keep(&self.inner.clock);
                    } else if !fault::omits(Safeguard::Retake) {
                        guard.0.retake();
                    }
                }
            }
        }
    }

    fn refused(&self, refresh_token: &Secret, error: Error, guard: &mut Guarded) -> Result<Redeemed> {
        // The CLI may have redeemed the same token in the moment before.
        let view = self.inner.registry.view_guarded(guard)?;
        if let Some(token) = self.refreshed_elsewhere(&view) {
            return Ok(Redeemed::Elsewhere(token));
        }
        let error = error.with_account(&self.account.id).with_path(&self.account.path);
        if !guard.0.is_held() {
            // Whoever has our lock may be about to write what came of it.
            *lock(&self.doubted) = Some((refresh_token.clone(), error));
            return Ok(Redeemed::NotYet);
        }
        Err(self.refuse(refresh_token, error))
    }

    fn doubted_before(&self, refresh_token: &Secret) -> Option<Error> {
        let doubted = lock(&self.doubted).take();
        doubted.filter(|(token, _)| token == refresh_token).map(|(_, error)| error)
    }

    /// Notes the server's verdict for everybody.
    fn refuse(&self, refresh_token: &Secret, error: Error) -> Error {
        self.inner.with_state(&self.account.id, |state| {
            state.refused = Some((refresh_token.clone(), error.clone()));
        });
        let noted = self.inner.registry.mark_refused(&self.account.id, refresh_token, &error);
        // What can't be noted for others is known here all the same.
        let _ = noted;
        self.inner.emit(EventKind::NeedsLogin, &self.account, error.message().to_owned(), Some(error.code()));
        error
    }

    fn keep(&self, guard: &mut Guarded, prepared: Prepared, spent: &Secret, token: Token) -> Arc<Token> {
        self.inner.know(&token);
        self.inner.with_state(&self.account.id, |state| state.unsaved = Some((spent.clone(), token.clone())));
        let message = format!("The token of the Qwen account \"{}\" was refreshed.", self.account.label);
        self.inner.emit(EventKind::Refreshed, &self.account, message, None);
        self.save_or_tell(guard, prepared, spent, &token);
        // The store has no part in it: the CLI knows one account.
        let is_linked = self.view.linked.as_deref() == Some(&self.account.id);
        if is_linked && guard.0.was_stolen() && !fault::omits(Safeguard::Outlasting) {
            self.outlast(guard, &token);
        }
        fault::reached(Point::Saved);
        Arc::new(token)
    }

    /// A token that can't be written works all the same, and is written as soon as that is possible.
    fn save_or_tell(&self, guard: &mut Guarded, prepared: Prepared, spent: &Secret, token: &Token) {
        match self.inner.registry.replace_token(guard, prepared, &self.account, spent, token) {
            Ok(()) => self.inner.with_state(&self.account.id, |state| state.unsaved = None),
            Err(error) => {
                let message = format!(
                    "The refreshed login of the Qwen account \"{}\" can't be written and is lost when this process ends. {}",
                    self.account.label,
                    error.message()
                );
                self.inner.emit(EventKind::NeedsAttention, &self.account, message, Some(error.code()));
            }
        }
    }

    /// A CLI that took the lock away while we redeemed offers the same refresh token, is refused, and then removes the
    /// file, whatever is in it by then. So it is waited for, and the file put back.
    fn outlast(&self, guard: &mut Guarded, token: &Token) {
        let started = Instant::now();
        while !guard.0.retake() && started.elapsed() < OUTLAST_LIMIT {
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Err(error) = self.inner.registry.put_back(guard, token) {
            self.inner.emit(EventKind::Retry, &self.account, error.message().to_owned(), Some(error.code()));
        }
    }
}
