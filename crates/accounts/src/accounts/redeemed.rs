//! Saves redeemed tokens. Disk space is reserved before the refresh token is sent, and afterwards every file that can
//! still be written is tried.

use qwen_base::{
    Code, Error, EventKind, Result, Secret,
    fault::{self, Safeguard},
};

use super::account::Account;
use super::registry::{Guarded, Registry, new_id};
use super::snapshot::Snapshot;
use crate::model::Token;
use crate::store::atomic::{Replaced, Reservation};
use crate::store::credentials::Credentials;
use crate::store::document::Document;
use crate::store::record::Record;
use crate::store::refresh_decision::may_replace;
use crate::store::store_file::Stored;

/// Disk space for the tokens that a refresh will bring.
#[derive(Debug, Default)]
pub struct ReservedSpace {
    credentials: Option<Reservation>,
    store: Option<Reservation>,
}

impl ReservedSpace {
    fn is_elsewhere(&self) -> bool {
        [&self.credentials, &self.store].into_iter().flatten().any(Reservation::is_elsewhere)
    }
}

impl Registry {
    /// Reserves space for new tokens of an account, so that a refresh token is spent only if its successor can be
    /// saved.
    ///
    /// # Errors
    /// `ERR_QWEN_IO` if no file can be written.
    pub fn prepare(&self, _guard: &mut Guarded, snapshot: &Snapshot, id: &str) -> Result<ReservedSpace> {
        if fault::omits(Safeguard::Preparation) {
            return Ok(ReservedSpace::default());
        }
        // Taking the lock shows that the store can be written after the redemption.
        let only_in_store = || {
            let store = self.with_store_locked(|| self.store.reserve())?;
            Ok(ReservedSpace { credentials: None, store })
        };
        if snapshot.linked.as_deref() != Some(id) {
            return only_in_store();
        }
        // A file that can't be replaced may still be written in place, once the tokens are in the store.
        if !self.credentials.is_replaceable() {
            return only_in_store().map_err(|error: Error| error.with_account(id));
        }
        match self.credentials.reserve() {
            Ok(credentials) => Ok(ReservedSpace { credentials, store: self.store.reserve().ok().flatten() }),
            Err(error) => only_in_store().map_err(|_: Error| error.with_account(id)),
        }
    }

    /// Tests everything a login needs before the user is asked to approve it: the directory, the locks, and disk space.
    /// It creates no lock file, so that a failed login leaves no file behind.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`, `ERR_QWEN_LOCK_TIMEOUT`.
    pub fn prepare_login(&self) -> Result<()> {
        if fault::omits(Safeguard::LoginPreparation) {
            return Ok(());
        }
        let reserve = || {
            // Both reservations exist at once, so that there is space for both files.
            let is_replaceable = self.credentials.is_replaceable();
            let credentials = is_replaceable.then(|| self.credentials.reserve()).transpose();
            self.store.reserve().map(drop)?;
            credentials.map(drop)
        };
        let store_locks = self.store.locks();
        if store_locks.are_missing() {
            store_locks.expect_usable()?;
        } else {
            self.with_store_locked(|| Ok(()))?;
        }
        self.store.read()?;
        let locks = self.credentials.locks();
        if locks.are_missing() {
            locks.make_directories()?;
            return reserve();
        }
        self.with_credentials_lock(|_| reserve())
    }

    /// Saves the tokens that were redeemed for `spent`: first in the store, then in the credentials file if it still
    /// holds `spent`. The file can be repaired from the store.
    ///
    /// # Errors
    /// The reason why neither could be written.
    pub fn replace_token(
        &self,
        guard: &mut Guarded,
        reserved: ReservedSpace,
        account: &Account,
        spent: &Secret,
        token: &Token,
    ) -> Result<()> {
        if reserved.is_elsewhere() {
            let cause = "Its directory was moved or unmounted. If you put it back, log in again there.";
            return self.keep_apart(None, account, spent, token, cause);
        }
        let ReservedSpace { credentials: room, store } = reserved;
        let mut store = Some(store);
        let mut in_store = || match store.take() {
            Some(room) => self.keep_in_store(room, &account.id, token),
            None => Ok(false),
        };
        // Without accounts in the store the credentials file is the only copy.
        let is_kept = self.keeps_accounts();
        let stored = if is_kept { in_store() } else { Ok(false) };
        guard.0.keep(&self.clock);
        let held = match self.credentials.read_again() {
            Ok(Some(held)) if may_replace(&held.token, spent) || fault::omits(Safeguard::Comparison) => held,
            // A missing file means that the user logged out.
            Ok(None) => return stored.map(drop),
            _ if !is_kept => return self.keep_beside(store.take().flatten(), account, spent, token),
            // A directory may be missing for a moment; that is not a logout.
            Err(error) if error.code() == Code::Io => return if stored? { Ok(()) } else { Err(error) },
            Ok(Some(_)) | Err(_) => return stored.map(drop),
        };
        match self.credentials.put_over(token, &held, room, false, !is_kept || stored.is_ok()) {
            Ok(Replaced::Declined) if is_kept => stored.map(drop),
            Ok(Replaced::Declined) => self.keep_beside(store.take().flatten(), account, spent, token),
            Ok(replaced) => {
                self.note_unsynced(&replaced);
                if !is_kept {
                    self.follow(spent, token);
                }
                self.tell_of_store(account, stored);
                Ok(())
            }
            Err(cause) => {
                let stored = if is_kept { stored } else { in_store() };
                self.put_in_place(account, token, &held, stored, cause)
            }
        }
    }

    /// Writes a credentials file that can't be replaced, after the store was tried. Fails with `cause` if neither has the
    /// token.
    fn put_in_place(
        &self,
        account: &Account,
        token: &Token,
        held: &Credentials,
        stored: Result<bool>,
        cause: Error,
    ) -> Result<()> {
        let is_stored = stored.as_ref().is_ok_and(|is_stored| *is_stored);
        // The file's own token is spent, so a file that a crash could tear is better than a lost login.
        match self.credentials.put_over(token, held, None, true, stored.is_ok()) {
            Ok(Replaced::Declined) => return stored.map(drop),
            Ok(_) => self.tell_of_store(account, stored),
            Err(_) if !is_stored => return Err(cause),
            Err(_) => self.tell_of_cli_login(&account.id, &cause),
        }
        Ok(())
    }

    /// Tells the user if the store could not be written and only the credentials file has the tokens.
    fn tell_of_store(&self, account: &Account, stored: Result<bool>) {
        let Err(cause) = stored else { return };
        let message = format!(
            "The refreshed login of the Qwen account \"{}\" is in {} alone: the account store can't be written. {}",
            account.label,
            self.credentials.path().display(),
            cause.message()
        );
        self.tell(EventKind::NeedsAttention, message, Some(cause.code()), Some(&account.id));
    }

    /// Tells the user that only the store has the login of an account.
    pub(super) fn tell_of_cli_login(&self, id: &str, cause: &Error) {
        let message = format!(
            "The qwen CLI has to log in again: its file {} can't be replaced or written to, so the login is in {} alone. {}",
            self.credentials.path().display(),
            self.store.path().display(),
            cause.message()
        );
        self.tell(EventKind::NeedsAttention, message, Some(cause.code()), Some(id));
    }

    fn keeps_accounts(&self) -> bool {
        match self.store.read() {
            Ok(Stored::Missing) => false,
            Ok(Stored::Usable(document)) => !document.keeps_nothing(),
            Ok(Stored::Broken { .. }) | Err(_) => true,
        }
    }

    /// Writes new tokens to an account of the store. Returns false if the account is gone.
    fn keep_in_store(&self, room: Option<Reservation>, id: &str, token: &Token) -> Result<bool> {
        let now = self.clock.now_ms();
        let keep = |document: &mut Document| {
            let record = document.record_mut(id)?;
            record.set_token(token, now);
            record.set_rejected(None);
            record.set_last_error(None);
            Some(())
        };
        // A write that failed once may succeed, and the token is nowhere else.
        let kept = self.with_store_in(room, keep).or_else(|_| self.with_store(keep));
        Ok(kept.or_else(|cause| self.with_store_in_place(keep).map_err(|_| cause))?.is_some())
    }

    /// Saves a refreshed login in the store, since the credentials file changed during the refresh or can't be read.
    fn keep_beside(
        &self,
        room: Option<Reservation>,
        account: &Account,
        spent: &Secret,
        token: &Token,
    ) -> Result<()> {
        let problem = match self.credentials.read_again() {
            Ok(Some(held)) if !may_replace(&held.token, spent) => {
                return self.keep_as_new_account(account, token);
            }
            Ok(None) => return Ok(()),
            found => found.err(),
        };
        let cause = problem.as_ref().map(Error::message).unwrap_or_default();
        self.keep_apart(room, account, spent, token, cause)
    }

    /// Saves a refreshed login in the store, and tells why the credentials file does not have it.
    fn keep_apart(
        &self,
        room: Option<Reservation>,
        account: &Account,
        spent: &Secret,
        token: &Token,
        cause: &str,
    ) -> Result<()> {
        let now = self.clock.now_ms();
        let before = Token { refresh_token: Some(spent.clone()), ..token.clone() };
        self.with_store_in(room, |document| {
            let holds_spent = |record: &Record| {
                record.token().is_some_and(|held| held.refresh_token.as_ref() == Some(spent))
            };
            if let Some(record) = document.records.iter_mut().find(|record| holds_spent(record)) {
                return record.set_token(token, now);
            }
            // The record knows the spent token, so the credentials file is repaired once it can be read.
            let mut record = bound_record(account, &new_id(now), None, &before, now);
            record.set_token(token, now);
            document.records.push(record);
        })?;
        let message = format!(
            "{} could not be read during a refresh, so the refreshed login of the Qwen account \"{}\" is in {}. {cause}",
            self.credentials.path().display(),
            account.label,
            self.store.path().display(),
        );
        self.tell(
            EventKind::NeedsAttention,
            message.trim_end().to_owned(),
            Some(Code::Io),
            Some(&account.id),
        );
        Ok(())
    }

    /// Saves a refreshed login as a new account of the store, since another login has replaced it in the credentials
    /// file. The other login stays active and the qwen CLI's.
    fn keep_as_new_account(&self, account: &Account, token: &Token) -> Result<()> {
        if fault::omits(Safeguard::KeepingBeside) {
            return Ok(());
        }
        let now = self.clock.now_ms();
        let id = new_id(now);
        let record = bound_record(account, &id, Some("earlier login"), token, now);
        self.with_store(|document| document.records.push(record))?;
        let message = format!(
            "Another login replaced the Qwen account \"{}\" while its token was refreshed. The refreshed login is kept as the account \"earlier login\".",
            account.label
        );
        self.tell(EventKind::StoreRepaired, message, None, Some(&id));
        Ok(())
    }

    /// Writes the token again if a CLI whose refresh token was refused has removed the file.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn put_back(&self, _guard: &mut Guarded, token: &Token) -> Result<()> {
        if let Ok(None) = self.credentials.read() {
            self.note_unsynced(&self.credentials.put(token, None, false)?);
        }
        Ok(())
    }
}

/// Returns a new account that is bound as `account` is.
fn bound_record(account: &Account, id: &str, label: Option<&str>, token: &Token, now_ms: u64) -> Record {
    let mut record = Record::new(id, label, token, now_ms);
    if let Some(binding) = &account.binding {
        record.set_binding(binding);
    }
    record
}
