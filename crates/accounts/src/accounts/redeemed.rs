//! Keeping what a refresh token is redeemed for: room is made before the token is sent, and every place that can still be
//! written to is tried afterwards.

use std::sync::atomic::Ordering;

use qwen_base::{
    Code, Error, EventKind, Result, Secret,
    fault::{self, Safeguard},
};

use super::account::Account;
use super::registry::{Guarded, Registry, new_id};
use super::view::View;
use crate::oauth::token::Token;
use crate::store::accounts::Stored;
use crate::store::atomic::{Replaced, Reservation};
use crate::store::credentials::Credentials;
use crate::store::document::Document;
use crate::store::record::Record;
use crate::store::sharing::may_replace;

/// Room on the disk for the tokens that a refresh will bring.
#[derive(Debug, Default)]
pub struct Prepared {
    credentials: Option<Reservation>,
    store: Option<Reservation>,
}

impl Registry {
    /// Makes room for new tokens of an account, so that its refresh token is not spent for tokens that can't be kept.
    ///
    /// # Errors
    /// `ERR_QWEN_IO` where they could be written nowhere.
    pub fn prepare(&self, _guard: &mut Guarded, view: &View, id: &str) -> Result<Prepared> {
        if fault::omits(Safeguard::Preparation) {
            return Ok(Prepared::default());
        }
        let store = self.store.reserve();
        if view.linked.as_deref() != Some(id) {
            return Ok(Prepared { credentials: None, store: Some(store?) });
        }
        match (self.credentials.reserve(), store) {
            (Err(error), Err(_)) => Err(error.with_account(id)),
            // A file that can't be replaced may still be written in place, once the tokens are in the store.
            (credentials, store) => Ok(Prepared { credentials: credentials.ok(), store: store.ok() }),
        }
    }

    /// Tries what a login needs, before its user is asked to approve it: the directory, the locks, and room for its tokens.
    /// Lock files that are missing are not made, so that a login that fails leaves no file behind.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`, `ERR_QWEN_LOCK_TIMEOUT`.
    pub fn prepare_login(&self) -> Result<()> {
        let reserve = || {
            // A file that can't be replaced is no obstacle where the store can be.
            let credentials = self.credentials.reserve();
            self.store.reserve().map(drop)?;
            credentials.map(drop)
        };
        self.store.locks().expect_usable()?;
        let locks = self.credentials.locks();
        if locks.are_missing() {
            locks.make_directories()?;
            return reserve();
        }
        self.guarded(|| None, |_| reserve())
    }

    /// Keeps the tokens that were redeemed for `spent`: in the store, and in the credentials file if that still holds
    /// `spent`. The store is first: from it the other can be put right.
    ///
    /// # Errors
    /// Why neither could be written.
    pub fn replace_token(
        &self,
        guard: &mut Guarded,
        prepared: Prepared,
        account: &Account,
        spent: &Secret,
        token: &Token,
    ) -> Result<()> {
        let Prepared { credentials: room, store } = prepared;
        let mut store = Some(store);
        let mut in_store = || match store.take() {
            Some(room) => self.keep_in_store(room, &account.id, token),
            None => Ok(false),
        };
        // Without a store the credentials file is all there is.
        let is_kept = self.keeps_accounts();
        let stored = if is_kept { in_store() } else { Ok(false) };
        guard.0.keep(&self.clock);
        let held = match self.credentials.read() {
            Ok(Some(held)) if may_replace(&held.token, spent) || fault::omits(Safeguard::Comparison) => held,
            // A directory that is away for a moment is no logout.
            Err(error) if error.code() == Code::Io => {
                return if stored? { Ok(()) } else { Err(error) };
            }
            // A logout is the user's word, not ours.
            Ok(None) => return stored.map(drop),
            Ok(Some(_)) | Err(_) => {
                return if is_kept { stored.map(drop) } else { self.keep_beside(account, token) };
            }
        };
        match self.credentials.write_over(token, &held, room) {
            Ok(Replaced::Declined) if is_kept => stored.map(drop),
            Ok(Replaced::Declined) => self.keep_beside(account, token),
            Ok(replaced) => {
                self.note_unsynced(&replaced);
                if !is_kept {
                    self.follow(spent, token);
                }
                Ok(())
            }
            Err(error) => {
                let is_stored = if is_kept { stored? } else { in_store().is_ok_and(|is_stored| is_stored) };
                if !is_stored || fault::omits(Safeguard::InPlace) {
                    return if is_stored { Ok(()) } else { Err(error) };
                }
                self.write_in_place(account, token, &held, &error);
                Ok(())
            }
        }
    }

    /// The tokens are safe in the store; what is left is the qwen CLI's login.
    fn write_in_place(&self, account: &Account, token: &Token, held: &Credentials, cause: &Error) {
        if self.credentials.write_in_place(token, held).is_ok() {
            return;
        }
        if self.needs_cli_login_told.swap(true, Ordering::Relaxed) {
            return;
        }
        let message = format!(
            "The qwen CLI has to log in again: its file {} can't be replaced or written to, so the refreshed login is in {} alone. {}",
            self.credentials.path().display(),
            self.store.path().display(),
            cause.message()
        );
        self.tell(EventKind::NeedsAttention, message, Some(cause.code()), Some(&account.id));
    }

    fn keeps_accounts(&self) -> bool {
        match self.store.read() {
            Ok(Stored::Missing) => false,
            Ok(Stored::Usable(document)) => !document.keeps_nothing(),
            Ok(Stored::Broken { .. }) | Err(_) => true,
        }
    }

    /// Says if the account is there.
    fn keep_in_store(&self, room: Option<Reservation>, id: &str, token: &Token) -> Result<bool> {
        let now = self.clock.now_ms();
        let keep = |document: &mut Document| {
            let record = document.record_mut(id)?;
            record.set_token(token, now);
            record.set_rejected(None);
            record.set_last_error(None);
            Some(())
        };
        self.with_store_in(room, keep).map(|kept| kept.is_some())
    }

    /// Another login took the place of the one that was refreshed, which has its tokens nowhere: it becomes an account of
    /// the store. The other one stays the qwen CLI's, and active.
    fn keep_beside(&self, account: &Account, token: &Token) -> Result<()> {
        if fault::omits(Safeguard::KeepingBeside) {
            return Ok(());
        }
        let now = self.clock.now_ms();
        let id = new_id(now);
        let mut record = Record::new(&id, Some("earlier login"), token, now);
        if let Some(binding) = &account.binding {
            record.set_binding(binding);
        }
        self.with_store(|document| document.records.push(record))?;
        let message = format!(
            "Another login took the place of the Qwen account \"{}\" while its token was refreshed. It is kept as the account \"earlier login\".",
            account.label
        );
        self.tell(EventKind::StoreRepaired, message, None, Some(&id));
        Ok(())
    }

    /// Puts a token back whose file somebody has removed who was refused the one before it.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn put_back(&self, _guard: &mut Guarded, token: &Token) -> Result<()> {
        if let Ok(None) = self.credentials.read() {
            self.note_unsynced(&self.credentials.write(token, None)?);
        }
        Ok(())
    }
}
