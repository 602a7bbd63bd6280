//! All accounts, read from `oauth_accounts.json` and from `oauth_creds.json`, which the qwen CLI shares.
//!
//! A snapshot costs a few `stat`s: a file is read again only if it has changed. Everything here blocks.
//!
//! Locks are taken in one order: first the credentials, then the store.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use qwen_base::{Clock, Code, Error, Event, EventKind, Events, Result, Secret, lock};

use super::reconcile::{Held, Reconciliation, reconcile};
use super::snapshot::{Snapshot, Stamps};
use crate::model::Binding;
use crate::model::Token;
use crate::store::atomic::{self, Replaced, Reservation};
use crate::store::credentials::{Credentials, CredentialsFile};
use crate::store::document::Document;
use crate::store::file;
use crate::store::legacy::LegacyFile;
use crate::store::lock::{self, CliLock};
use crate::store::modes::{self, OpenToOthers};
use crate::store::record::Record;
use crate::store::store_file::{self as store, StoreFile, Stored};

/// Id of the account in `oauth_creds.json` while there is no store.
pub(super) const ONLY_ACCOUNT: &str = "qwen-cli";

/// The account files and the last snapshot of them. [`super::account_commands`] has the changes that a user can make.
#[derive(Debug)]
pub struct Registry {
    pub(super) credentials: CredentialsFile,
    pub(super) store: StoreFile,
    pub(super) legacy: LegacyFile,
    pub(super) clock: Clock,
    events: Events,
    cache: Mutex<Option<(Stamps, Arc<Snapshot>)>>,
    /// Files open to other users that this process has reported.
    told_of_open: Mutex<HashSet<PathBuf>>,
    is_unsynced_told: AtomicBool,
}

/// Proof that the credentials lock is held.
pub struct Guarded<'a>(pub &'a mut CliLock);

/// Writes the store.
type StoreWrite<'a> = &'a dyn Fn(&Document, Option<Reservation>) -> Result<Replaced>;

impl Registry {
    /// Creates a registry. It opens no file yet.
    #[must_use]
    pub fn new(
        credentials: CredentialsFile,
        store: StoreFile,
        legacy: LegacyFile,
        clock: Clock,
        events: Events,
    ) -> Self {
        Self {
            credentials,
            store,
            legacy,
            clock,
            events,
            cache: Mutex::default(),
            told_of_open: Mutex::default(),
            is_unsynced_told: AtomicBool::default(),
        }
    }

    /// Returns all accounts as they are now.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`, `ERR_QWEN_STORE_CORRUPT`, `ERR_QWEN_STORE_UNSUPPORTED`, `ERR_QWEN_LOCK_TIMEOUT`.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>> {
        self.read(None)
    }

    /// Returns all accounts without repairing any file.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn peek(&self) -> Result<Snapshot> {
        let document = match self.store.read()? {
            Stored::Missing => Document::default(),
            Stored::Usable(document) | Stored::Broken { recovered: document, .. } => *document,
        };
        Ok(self.reconciled(document).0)
    }

    /// Returns all accounts while the credentials lock is held.
    ///
    /// # Errors
    /// As [`Registry::snapshot`].
    pub fn snapshot_guarded(&self, guard: &mut Guarded) -> Result<Arc<Snapshot>> {
        self.read(Some(guard))
    }

    /// Returns the last snapshot if no file has changed. Takes a `stat` of each file, and no file lock.
    #[must_use]
    pub fn unchanged(&self) -> Option<Arc<Snapshot>> {
        self.known(&self.stamps().ok()?)
    }

    fn known(&self, stamps: &Stamps) -> Option<Arc<Snapshot>> {
        let cache = lock(&self.cache);
        cache.as_ref().filter(|(known, _)| known == stamps).map(|(_, snapshot)| Arc::clone(snapshot))
    }

    fn read(&self, guard: Option<&mut Guarded>) -> Result<Arc<Snapshot>> {
        let stamps = self.stamps()?;
        if let Some(snapshot) = self.known(&stamps) {
            return Ok(snapshot);
        }
        let open = self.restrict_modes();
        let (before, is_sound) = match self.store.read()? {
            Stored::Missing => (Document::default(), true),
            Stored::Usable(document) => (*document, true),
            Stored::Broken { recovered, .. } => (*recovered, false),
        };
        let (snapshot, reconciliation) = self.reconciled(before.clone());
        self.report_open_modes(open, &snapshot, is_sound);
        let is_settled = if before.keeps_nothing() {
            needs_no_store(&snapshot)
        } else {
            before == snapshot.document && reconciliation.repair.is_none()
        };
        if is_sound && is_settled {
            return Ok(self.remember(stamps, snapshot));
        }
        match self.settle(guard, reconciliation.repair.is_some()) {
            Ok(snapshot) => Ok(self.remember(self.stamps()?, snapshot)),
            // The accounts can be used without being written: a read-only home or a damaged store that can't be moved
            // aside must not stop a chat.
            Err(error) if is_usable_unwritten(&error, is_sound, &snapshot) => {
                self.tell(EventKind::Config, error.message().to_owned(), Some(error.code()), None);
                Ok(self.remember(stamps, snapshot))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the files private, and returns those that other users could open. Old CLIs, editors and backups leave such
    /// files.
    fn restrict_modes(&self) -> [Option<OpenToOthers>; 3] {
        let directory = self.credentials.path().parent().and_then(modes::restrict);
        // File names are not secret, so a readable directory is not reported. A writable one is.
        let directory = directory.filter(OpenToOthers::was_writable);
        [directory, modes::restrict(self.credentials.path()), modes::restrict(self.store.path())]
    }

    /// Tells the user about each file or directory that other users could open: once for all processes if they still can.
    fn report_open_modes(&self, open: [Option<OpenToOthers>; 3], snapshot: &Snapshot, is_sound: bool) {
        let [directory, credentials, store] = open;
        let credentials = credentials.filter(|_| snapshot.problem.is_none());
        let found = [directory, credentials, store.filter(|_| is_sound)];
        if snapshot.document.is_empty() {
            return;
        }
        for open in found.into_iter().flatten() {
            let mut told = lock(&self.told_of_open);
            let is_news = told.insert(open.path.clone());
            drop(told);
            if is_news && !(open.is_still_open() && self.was_told_before(snapshot, &open.path)) {
                self.tell(EventKind::StoreRepaired, open.message(), None, None);
            }
        }
    }

    /// Notes for all processes that the user was told. Returns true if it was noted before.
    fn was_told_before(&self, snapshot: &Snapshot, path: &Path) -> bool {
        if snapshot.document.was_told_of_open(path) {
            return true;
        }
        // If the note can't be written, each process tells the user once.
        let _ = self.with_notes(&|document| {
            document.note_told_of_open(path);
            Ok(())
        });
        false
    }

    fn stamps(&self) -> Result<Stamps> {
        let [credentials, legacy] = [self.credentials.path(), self.legacy.path()].map(file::stamp_or_error);
        Ok((credentials, file::stamp(self.store.path())?, legacy))
    }

    /// True if the files have not changed since this snapshot.
    #[must_use]
    pub fn is_current(&self, snapshot: &Snapshot) -> bool {
        self.stamps().is_ok_and(|stamps| stamps == snapshot.seen)
    }

    fn remember(&self, stamps: Stamps, snapshot: Snapshot) -> Arc<Snapshot> {
        let snapshot = Arc::new(Snapshot { seen: stamps.clone(), ..snapshot });
        // A file that could not be read may be readable the next time without a new stamp.
        if snapshot.problem.as_ref().is_some_and(|problem| problem.code() == Code::Io) {
            return snapshot;
        }
        *lock(&self.cache) = Some((stamps, Arc::clone(&snapshot)));
        snapshot
    }

    fn reconciled(&self, mut document: Document) -> (Snapshot, Reconciliation) {
        let mut first_id = document.keeps_nothing().then(|| ONLY_ACCOUNT.to_owned());
        let (held, problem) = match self.credentials.read() {
            Ok(held) => (held, None),
            Err(error) => (None, Some(error)),
        };
        let held = held.map(|Credentials { token, modified_at, predecessors, .. }| Held {
            token,
            modified_at,
            predecessors,
        });
        let legacy = self.legacy.read();
        let now = self.clock.now_ms();
        let new_id = || first_id.take().unwrap_or_else(|| new_id(now));
        let lone = held.as_ref().filter(|_| document.keeps_nothing());
        let lone = lone.and_then(|held| document.single_binding(&held.token));
        let reconciliation = reconcile(&mut document, held.as_ref(), legacy.as_ref(), now, new_id);
        if let Some((id, binding)) = reconciliation.linked.as_deref().zip(lone)
            && let Some(record) = document.record_mut(id)
        {
            record.set_binding(&binding);
            document.set_single_binding(None);
        }
        let snapshot = Snapshot {
            document,
            linked: reconciliation.linked.clone(),
            problem,
            credentials_path: self.credentials.path().to_owned(),
            store_path: self.store.path().to_owned(),
            ..Snapshot::default()
        };
        (snapshot, reconciliation)
    }

    /// Writes the result of a reconciliation, and repairs the credentials file if it is outdated.
    fn settle(&self, guard: Option<&mut Guarded>, needs_repair: bool) -> Result<Snapshot> {
        match guard {
            Some(guard) => self.settle_guarded(guard),
            None if needs_repair => self.with_credentials_lock(|guard| self.settle_guarded(guard)),
            None => self.settle_store().map(|(snapshot, _)| snapshot),
        }
    }

    fn settle_guarded(&self, _guard: &mut Guarded) -> Result<Snapshot> {
        let (snapshot, reconciliation) = self.settle_store()?;
        if let Some(token) = reconciliation.repair {
            self.repair_credentials(&token)?;
        }
        Ok(snapshot)
    }

    /// Writes an account's newer token over the one that was redeemed for it.
    fn repair_credentials(&self, token: &Token) -> Result<()> {
        let previous = self.credentials.read().unwrap_or_default();
        // The store has the token already.
        self.note_unsynced(&self.credentials.put(token, previous.as_ref(), true)?);
        Ok(())
    }

    fn settle_store(&self) -> Result<(Snapshot, Reconciliation)> {
        self.with_store(|document| {
            let (snapshot, reconciliation) = self.reconciled(std::mem::take(document));
            *document = snapshot.document.clone();
            let first = snapshot.document.records.len() == reconciliation.adopted.len();
            for id in reconciliation.adopted.iter().filter(|_| !first) {
                let message = "An unknown login was found and added as an account.".to_owned();
                self.tell(EventKind::StoreRepaired, message, None, Some(id));
            }
            (snapshot, reconciliation)
        })
    }

    /// Reads the store under its lock, changes it, and writes it if it differs.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`, `ERR_QWEN_STORE_CORRUPT`, `ERR_QWEN_STORE_UNSUPPORTED`, `ERR_QWEN_LOCK_TIMEOUT`.
    pub fn with_store<T>(&self, change: impl FnOnce(&mut Document) -> T) -> Result<T> {
        self.with_store_in(None, change)
    }

    /// As [`Registry::with_store`], with reserved disk space for the file.
    pub(super) fn with_store_in<T>(
        &self,
        reserved: Option<Reservation>,
        change: impl FnOnce(&mut Document) -> T,
    ) -> Result<T> {
        if let Some(reserved) = &reserved {
            reserved.make_room_for_a_lock();
        }
        self.with_store_by(&|document, reserved| self.store.write(document, reserved), reserved, change)
    }

    /// As [`Registry::with_store`], but a store that can't be replaced is written in place. A crash can then leave it torn,
    /// so this is for tokens that are nowhere else.
    pub(super) fn with_store_in_place<T>(&self, change: impl FnOnce(&mut Document) -> T) -> Result<T> {
        self.with_store_by(&|document, _| self.store.write_in_place(document), None, change)
    }

    fn with_store_by<T>(
        &self,
        write: StoreWrite<'_>,
        reserved: Option<Reservation>,
        change: impl FnOnce(&mut Document) -> T,
    ) -> Result<T> {
        let (mut change, mut result) = (Some(change), None);
        let mut change = |document: &mut Document| result = change.take().map(|change| change(document));
        self.change_store(write, reserved, &mut change)?;
        result.ok_or_else(|| Error::internal("a change of the store was not made"))
    }

    /// The non-generic part of [`Registry::with_store_by`], so that it is compiled once.
    fn change_store(
        &self,
        write: StoreWrite<'_>,
        mut reserved: Option<Reservation>,
        change: &mut dyn FnMut(&mut Document),
    ) -> Result<()> {
        self.with_store_locked(|| {
            let mut must_write = false;
            let mut document = match self.store.read()? {
                Stored::Missing => Document::default(),
                Stored::Usable(document) => *document,
                Stored::Broken { reason, recovered } => {
                    // A store that can't be written stays damaged: a copy at each attempt would fill the disk.
                    if reserved.is_none() {
                        reserved = self.store.reserve()?;
                    }
                    let aside = self.store.set_aside(reason, self.clock.now_ms())?;
                    let message = format!(
                        "{} It was kept as {}; {} accounts could be recovered from it.",
                        store::broken(self.store.path(), reason),
                        aside.display(),
                        recovered.all().count()
                    );
                    self.tell(EventKind::StoreRepaired, message, Some(store::code(reason)), None);
                    must_write = true;
                    *recovered
                }
            };
            if document.keeps_nothing() {
                let (snapshot, _) = self.reconciled(document);
                must_write |= !needs_no_store(&snapshot);
                document = snapshot.document;
            }
            let before = document.clone();
            change(&mut document);
            if must_write || document != before {
                self.note_unsynced(&write(&document, reserved)?);
            }
            Ok(())
        })
    }

    pub(super) fn with_store_locked<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        lock::exclusively(
            &self.store.locks(),
            &self.clock,
            || None,
            |cli| {
                if cli.is_sole {
                    atomic::complete(self.store.path());
                }
                body()
            },
        )
    }

    /// Records in the store that `auth.json` of `OpenCode` has an entry of this plugin. This note alone doesn't move
    /// accounts into the store.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn note_host_login(&self) -> Result<()> {
        self.set_host_login(true)
    }

    /// Clears the note of [`Registry::note_host_login`] after a login, a new key or a choice, so that an earlier logout
    /// in `OpenCode` no longer counts.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn forget_host_login(&self) -> Result<()> {
        if self.snapshot()?.document.had_host_login() { self.set_host_login(false) } else { Ok(()) }
    }

    fn set_host_login(&self, had_one: bool) -> Result<()> {
        self.with_notes(&|document| {
            document.set_host_login(had_one);
            Ok(())
        })
    }

    /// Changes notes in the store. A note alone doesn't move accounts into the store.
    fn with_notes(&self, note: &dyn Fn(&mut Document) -> Result<()>) -> Result<()> {
        self.with_store_locked(|| {
            let mut document = match self.store.read()? {
                Stored::Missing => Document::default(),
                Stored::Usable(document) => *document,
                // The next snapshot moves the damaged store aside.
                Stored::Broken { .. } => return Ok(()),
            };
            let before = document.clone();
            note(&mut document)?;
            if document != before {
                self.note_unsynced(&self.store.write(&document, None)?);
            }
            Ok(())
        })
    }

    /// Notes the binding of an account that has none. For a login without a store, only a note is written.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn bind(&self, id: &str, binding: &Binding) -> Result<()> {
        self.set_binding(id, &|known| {
            let is_known = known.is_some_and(|known| known.is_certain);
            (!is_known).then(|| binding.clone())
        })
    }

    /// Replaces the binding of an account after a login.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn rebind(&self, id: &str, binding: &Binding) -> Result<()> {
        self.set_binding(id, &|_| Some(binding.clone()))
    }

    fn set_binding(&self, id: &str, change: &dyn Fn(Option<Binding>) -> Option<Binding>) -> Result<()> {
        self.with_notes(&|document| {
            if !document.keeps_nothing() {
                let Some(record) = document.record_mut(id) else { return Ok(()) };
                if let Some(binding) = change(record.binding()) {
                    record.set_binding(&binding);
                }
            } else if let Some(held) = self.credentials.read()? {
                let known = document.single_binding(&held.token);
                if let Some(binding) = change(known) {
                    document.set_single_binding(Some((&binding, &held.token)));
                }
            }
            Ok(())
        })
    }

    /// Moves the binding of a login without a store to the refreshed token.
    pub(super) fn follow(&self, spent: &Secret, token: &Token) {
        let before = Token { refresh_token: Some(spent.clone()), ..token.clone() };
        let known = match self.store.read() {
            Ok(Stored::Usable(document)) if document.keeps_nothing() => document.single_binding(&before),
            _ => None,
        };
        // If it can't be written, the token is bound again at its next use.
        if let Some(binding) = known.filter(|binding| binding.is_certain) {
            let _ = self.rebind(ONLY_ACCOUNT, &binding);
        }
    }

    /// Changes one account of the store. Returns `None` if it is gone.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn with_record<T>(&self, id: &str, change: impl FnOnce(&mut Record, u64) -> T) -> Result<Option<T>> {
        let now = self.clock.now_ms();
        self.with_store(|document| document.record_mut(id).map(|record| change(record, now)))
    }

    /// Runs `body` with the credentials lock.
    pub(super) fn with_credentials_lock<T>(&self, body: impl FnOnce(&mut Guarded) -> Result<T>) -> Result<T> {
        self.guarded(|| None, body)
    }

    /// Runs `body` with the credentials lock. While waiting for the lock, `meanwhile` is called between tries, and may
    /// end the wait.
    ///
    /// # Errors
    /// `ERR_QWEN_LOCK_TIMEOUT`, `ERR_QWEN_IO`, and what `body` returns.
    pub fn guarded<T>(
        &self,
        meanwhile: impl FnMut() -> Option<T>,
        body: impl FnOnce(&mut Guarded) -> Result<T>,
    ) -> Result<T> {
        lock::exclusively(&self.credentials.locks(), &self.clock, meanwhile, |cli| {
            if cli.is_sole {
                self.complete_writes()?;
            }
            body(&mut Guarded(cli))
        })
    }

    /// Completes the writes of processes that have died.
    fn complete_writes(&self) -> Result<()> {
        for path in [self.credentials.path(), self.store.path()] {
            atomic::remove_reservations(path);
        }
        atomic::complete(self.credentials.path());
        // A dead process may have left new tokens there. They must be found before the spent token is offered again.
        if atomic::is_interrupted(self.store.path()) {
            self.with_store_locked(|| Ok(()))?;
        }
        Ok(())
    }

    /// Tells the user once per process that a directory can't be synced. Only a power cut can lose data then.
    pub(super) fn note_unsynced(&self, replaced: &Replaced) {
        let Replaced::Unsynced(error) = replaced else { return };
        if !self.is_unsynced_told.swap(true, Ordering::Relaxed) {
            let message = format!(
                "{} The file is written, but a power cut could bring the old one back.",
                error.message()
            );
            self.tell(EventKind::Config, message, Some(error.code()), None);
        }
    }

    pub(super) fn tell(
        &self,
        kind: EventKind,
        message: String,
        code: Option<Code>,
        account_id: Option<&str>,
    ) {
        let account_id = account_id.map(str::to_owned);
        self.events.emit(Event { account_id, code, ..Event::new(kind, self.clock.now_ms(), message) });
    }
}

/// True if the accounts of a snapshot can be used although writing them failed.
fn is_usable_unwritten(error: &Error, is_sound: bool, snapshot: &Snapshot) -> bool {
    match error.code() {
        Code::Io | Code::StoreCorrupt | Code::StoreUnsupported => is_sound || !snapshot.document.is_empty(),
        _ => false,
    }
}

/// True if `oauth_creds.json` alone is enough: its account is the only one.
fn needs_no_store(snapshot: &Snapshot) -> bool {
    let Document { records, keys, .. } = &snapshot.document;
    let is_linked = |record: &Record| snapshot.linked.as_deref() == Some(record.id());
    keys.is_empty() && records.len() <= 1 && records.iter().all(is_linked)
}

/// Returns a new id in the original plugin's form.
pub(super) fn new_id(now_ms: u64) -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("acct_{now_ms:x}_{}", &random[..8])
}
