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

use super::errors::{no_refresh_token, superseded};
use super::{Manager, TokenResult, find};
use crate::accounts::account::Account;
use crate::accounts::redeemed::ReservedSpace;
use crate::accounts::registry::Guarded;
use crate::accounts::snapshot::Snapshot;
use crate::model::Token;
use crate::oauth::redemption::Redemption;
use crate::oauth::refresh_unavailable;
use crate::oauth::retries::RefreshRetries;
use crate::store::lock::TOUCH_INTERVAL;
use crate::store::refresh_decision::was_brought;

/// Limit of a refresh under the lock, retries included.
const REFRESH_LIMIT: Duration = Duration::from_secs(20);
/// A refresh that exceeds its limit by this much was suspended with its process or machine.
const OVERSLEPT: Duration = Duration::from_secs(2);
/// Number of attempts if the CLI's lock is lost.
const ROUNDS: usize = 3;
/// Interval in which the CLI's lock is checked, and taken again if an exiting CLI removed it. A waiting CLI checks ten
/// times a second at most.
const WATCH_INTERVAL: Duration = Duration::from_millis(2);
/// Longest wait for a CLI whose lock is gone and which has written nothing. It may have failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for a CLI that redeems the token that we have just redeemed.
const OUTLAST_LIMIT: Duration = Duration::from_secs(10);

/// One refresh of one account, on a blocking thread.
pub(super) struct Refresh {
    pub(super) inner: Arc<Manager>,
    pub(super) account: Account,
    /// The stale or rejected token that triggered this refresh.
    pub(super) seen: Arc<Token>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) rejected: Option<Secret>,
    /// True if the user has chosen this account, even if a newer login replaced it.
    pub(super) is_chosen: bool,
    /// A refusal that may only mean that a CLI was faster.
    pub(super) doubtful_refusal: Mutex<Option<(Secret, Error)>>,
    /// Exists from the moment a refresh token is sent until the new tokens are written. A process that ended in between
    /// would lose the login.
    pub(super) held_end: Arc<Mutex<Option<Section>>>,
}

impl Drop for Refresh {
    fn drop(&mut self) {
        *lock(&self.held_end) = None;
    }
}

enum RefreshStep {
    Redeemed(Token),
    DoneElsewhere(Arc<Token>),
    /// Nothing usable was redeemed: the lock was lost, the time ran out, the process is ending, or the file holds
    /// another refresh token.
    StartAgain,
}

impl Refresh {
    pub(super) fn run(self, runtime: &Handle) -> TokenResult {
        for _ in 0..ROUNDS {
            let elsewhere = || {
                let snapshot = self.inner.registry.snapshot().ok()?;
                self.refreshed_elsewhere(&snapshot).map(Some)
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

    /// Returns the token that another process has brought.
    fn refreshed_elsewhere(&self, snapshot: &Snapshot) -> Option<Arc<Token>> {
        let token = snapshot.record(&self.account.id)?.token()?;
        let now = self.inner.clock.now_ms();
        was_brought(&token, &self.seen, self.rejected.as_ref(), now).then(|| Arc::new(token))
    }

    /// Returns `None` if the refresh must start again.
    fn under_lock(&self, runtime: &Handle, guard: &mut Guarded) -> Result<Option<Arc<Token>>> {
        let mut snapshot = if fault::omits(Safeguard::ReadAgain) {
            Arc::clone(&self.snapshot)
        } else {
            self.inner.registry.snapshot_guarded(guard)?
        };
        fault::reached(Point::ReadAgain);
        if let Some(token) = self.refreshed_elsewhere(&snapshot) {
            return Ok(Some(token));
        }
        let (record, account) = find(&snapshot, &self.account.id)?;
        if record.is_superseded() && !self.is_chosen {
            return Err(superseded(account));
        }
        let (current, spent) = self.inner.current(account, record)?;
        if let Some(spent) = spent {
            // The files still hold a spent token, so its successor must be written first.
            self.save_or_tell(guard, ReservedSpace::default(), &spent, &current);
            if self.inner.is_fresh(&current) && self.rejected.as_ref() != Some(&current.access_token) {
                return Ok(Some(current));
            }
            snapshot = self.inner.registry.snapshot_guarded(guard)?;
        }
        if guard.0.waited_for_cli && self.inner.registry.is_current(&self.snapshot) {
            runtime.block_on(self.keeping_lock(guard, self.until_files_change()));
            snapshot = self.inner.registry.snapshot_guarded(guard)?;
            if let Some(token) = self.refreshed_elsewhere(&snapshot) {
                return Ok(Some(token));
            }
            if self.stored_refresh_token(&snapshot) != self.stored_refresh_token(&self.snapshot) {
                return Ok(None);
            }
        }
        let spent = current.refresh_token.clone().ok_or_else(|| no_refresh_token(&self.account))?;
        if let Some(error) = self.doubtful_refusal_of(&spent) {
            return Err(self.refuse(&spent, error));
        }
        let reserved = self.inner.registry.prepare(guard, &snapshot, &self.account.id)?;
        let token = match runtime.block_on(self.redeem(&spent, snapshot, guard))? {
            RefreshStep::Redeemed(token) => token.or_else_from(&current),
            RefreshStep::DoneElsewhere(token) => return Ok(Some(token)),
            RefreshStep::StartAgain => return Ok(None),
        };
        Ok(Some(self.keep(guard, reserved, &spent, token)))
    }

    /// Redeems `refresh_token`, and keeps the CLI's lock meanwhile. Stops if the files no longer hold what `snapshot` holds.
    async fn redeem(
        &self,
        refresh_token: &Secret,
        mut snapshot: Arc<Snapshot>,
        guard: &mut Guarded<'_>,
    ) -> Result<RefreshStep> {
        let started = Instant::now();
        let mut retries = RefreshRetries::new(1);
        let basis = self.stored_refresh_token(&snapshot);
        let oauth = self.inner.oauth_of(find(&snapshot, &self.account.id)?.1)?;
        loop {
            let left = REFRESH_LIMIT.saturating_sub(started.elapsed());
            let look = self.final_check(Arc::clone(&snapshot), guard);
            let request = oauth.redeem_if(refresh_token, left, look);
            let unavailable = match self.keeping_lock(guard, request).await {
                None => None,
                Some(Redemption::Redeemed(token)) => {
                    fault::reached(Point::Redeemed);
                    return Ok(RefreshStep::Redeemed(token));
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
                    // The process slept past the limit before anything was sent.
                    if !in_doubt && started.elapsed() > REFRESH_LIMIT + OVERSLEPT {
                        return Ok(RefreshStep::StartAgain);
                    }
                    return Err(refresh_unavailable(cause).with_account(&self.account.id));
                };
                let message = format!("Retrying the refresh of the Qwen token: {}", cause.message());
                self.inner.emit(EventKind::Retry, &self.account, message, Some(cause.code()));
                // The process may end during the pause: no answer is on its way.
                *lock(&self.held_end) = None;
                self.keeping_lock(guard, tokio::time::sleep(delay)).await;
            }
            guard.0.keep(&self.inner.clock);
            if !guard.0.is_held()
                || started.elapsed() >= REFRESH_LIMIT
                || self.inner.busy.shutdown().is_ending()
            {
                // The lock is lost, the time is up, or the process is ending: the token is not sent again.
                return Ok(RefreshStep::StartAgain);
            }
            // Another process may have replaced the token meanwhile.
            snapshot = self.inner.registry.snapshot_guarded(guard)?;
            if let Some(token) = self.refreshed_elsewhere(&snapshot) {
                return Ok(RefreshStep::DoneElsewhere(token));
            }
            if self.stored_refresh_token(&snapshot) != basis {
                return Ok(RefreshStep::StartAgain);
            }
        }
    }

    /// Waits up to 2 s for the files to change. An exiting CLI removes another CLI's lock, so a CLI may still be
    /// redeeming this token although its lock is gone.
    async fn until_files_change(&self) {
        let started = Instant::now();
        while started.elapsed() < PATIENCE
            && !fault::omits(Safeguard::Patience)
            && self.inner.registry.is_current(&self.snapshot)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the refresh token in the files.
    fn stored_refresh_token(&self, snapshot: &Snapshot) -> Option<Secret> {
        snapshot.record(&self.account.id)?.token()?.refresh_token
    }

    /// Returns a check that runs just before the token is sent: the lock is still ours and the files are unchanged. The
    /// process may have slept since it read them, and the CLI takes the lock of a sleeper. The check also fails if the
    /// process is about to end; once it succeeds, the end waits.
    fn final_check(
        &self,
        snapshot: Arc<Snapshot>,
        guard: &Guarded,
    ) -> impl Fn() -> bool + Send + Sync + 'static {
        let (inner, claim, held_end) =
            (Arc::clone(&self.inner), guard.0.claim.clone(), Arc::clone(&self.held_end));
        move || {
            fault::reached(Point::Sending);
            let is_ours =
                fault::omits(Safeguard::LastLook) || claim.is_held() && inner.registry.is_current(&snapshot);
            let mut held_end = lock(&held_end);
            // An answer to a second try could come after the end.
            let may_send = is_ours && !inner.busy.shutdown().is_ending();
            if may_send && held_end.is_none() {
                *held_end = inner.busy.shutdown().enter();
            }
            may_send && held_end.is_some()
        }
    }

    /// Awaits `future` and keeps the CLI's lock meanwhile.
    async fn keeping_lock<T>(&self, guard: &mut Guarded<'_>, future: impl Future<Output = T>) -> T {
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

    fn refused(&self, refresh_token: &Secret, error: Error, guard: &mut Guarded) -> Result<RefreshStep> {
        // The CLI may have redeemed the same token just before.
        let snapshot = self.inner.registry.snapshot_guarded(guard)?;
        if let Some(token) = self.refreshed_elsewhere(&snapshot) {
            return Ok(RefreshStep::DoneElsewhere(token));
        }
        let error = error.with_account(&self.account.id).with_path(&self.account.path);
        if !guard.0.is_held() {
            // The process that took our lock may be about to write the new token.
            *lock(&self.doubtful_refusal) = Some((refresh_token.clone(), error));
            return Ok(RefreshStep::StartAgain);
        }
        Err(self.refuse(refresh_token, error))
    }

    fn doubtful_refusal_of(&self, refresh_token: &Secret) -> Option<Error> {
        let doubtful_refusal = lock(&self.doubtful_refusal).take();
        doubtful_refusal.filter(|(token, _)| token == refresh_token).map(|(_, error)| error)
    }

    /// Writes the refusal for all processes.
    fn refuse(&self, refresh_token: &Secret, error: Error) -> Error {
        self.inner.with_state(&self.account.id, |state| {
            state.refused = Some((refresh_token.clone(), error.clone()));
        });
        // This process knows the refusal even if it can't be written.
        let _ = self.inner.registry.mark_refused(&self.account.id, refresh_token, &error);
        self.inner.emit(EventKind::NeedsLogin, &self.account, error.message().to_owned(), Some(error.code()));
        error
    }

    fn keep(&self, guard: &mut Guarded, reserved: ReservedSpace, spent: &Secret, token: Token) -> Arc<Token> {
        self.inner.hide_in_logs(&token);
        self.inner
            .with_state(&self.account.id, |state| state.redeemed = Some((spent.clone(), token.clone())));
        let message = format!("The token of the Qwen account \"{}\" was refreshed.", self.account.label);
        self.inner.emit(EventKind::Refreshed, &self.account, message, None);
        self.save_or_tell(guard, reserved, spent, &token);
        // The CLI knows only the account in its file.
        let is_linked = self.snapshot.linked.as_deref() == Some(&self.account.id);
        if is_linked && guard.0.was_stolen && !fault::omits(Safeguard::Outlasting) {
            self.outlast(guard, &token);
        }
        fault::reached(Point::Saved);
        Arc::new(token)
    }

    /// Writes the token, or tells the user. An unsaved token still works, and is written at the next chance.
    fn save_or_tell(&self, guard: &mut Guarded, reserved: ReservedSpace, spent: &Secret, token: &Token) {
        let saved = self.inner.registry.replace_token(guard, reserved, &self.account, spent, token);
        let Err(error) = saved else { return };
        let message = format!(
            "The refreshed login of the Qwen account \"{}\" can't be written and is lost when this process ends. {}",
            self.account.label,
            error.message()
        );
        self.inner.emit(EventKind::NeedsAttention, &self.account, message, Some(error.code()));
    }

    /// Waits for a CLI that took the lock during our redemption. It offers the spent token, is refused, and removes the
    /// file with our new token, which is then written again.
    fn outlast(&self, guard: &mut Guarded, token: &Token) {
        let started = Instant::now();
        while !guard.0.retake() && started.elapsed() < OUTLAST_LIMIT {
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Err(error) = self.inner.registry.put_back(guard, token) {
            self.inner.emit(
                EventKind::NeedsAttention,
                &self.account,
                error.message().to_owned(),
                Some(error.code()),
            );
        }
    }
}
