//! All accounts, as the files have them now: `oauth_accounts.json`, and `oauth_creds.json`, which is the qwen CLI's too.
//!
//! Looking costs a few `stat`s; a file is read again only if it has changed. Everything here blocks.
//!
//! Locks are taken in one order: the one of the credentials, then the one of the store.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use qwen_base::{Clock, Code, Error, Event, EventKind, Events, Redactor, Result, Secret, lock, one_line};

use super::account::Account;
use super::binding::Binding;
use super::reconcile::{Findings, Held, reconcile};
use super::view::{Stamps, View};
use crate::oauth::token::Token;
use crate::store::accounts::{self as store, StoreFile, Stored};
use crate::store::atomic::{self, Replaced, Reservation};
use crate::store::credentials::{Credentials, CredentialsFile};
use crate::store::document::Document;
use crate::store::legacy::LegacyFile;
use crate::store::lock::{self, CliLock};
use crate::store::modes::{self, Widened};
use crate::store::record::Record;

/// The id of the account in `oauth_creds.json` while there is no store.
pub(super) const ONLY_ACCOUNT: &str = "qwen-cli";

/// The files and what is known of them. What a user may do to them is in [`super::choices`].
#[derive(Debug)]
pub struct Registry {
    pub(super) credentials: CredentialsFile,
    pub(super) store: StoreFile,
    legacy: LegacyFile,
    pub(super) clock: Clock,
    events: Events,
    cache: Mutex<Option<(Stamps, Arc<View>)>>,
    /// Whose modes a person was told of.
    widened: Mutex<HashSet<PathBuf>>,
    is_unsynced_told: AtomicBool,
    pub(super) needs_cli_login_told: AtomicBool,
}

/// The credentials lock, which a refresh holds for all its length.
pub struct Guarded<'a>(pub &'a mut CliLock);

impl Registry {
    /// Opens nothing.
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
            widened: Mutex::default(),
            is_unsynced_told: AtomicBool::default(),
            needs_cli_login_told: AtomicBool::default(),
        }
    }

    pub(super) fn store_path(&self) -> &Path {
        self.store.path()
    }

    pub(super) fn legacy_path(&self) -> &Path {
        self.legacy.path()
    }

    /// All accounts as they are now.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`, `ERR_QWEN_STORE_CORRUPT`, `ERR_QWEN_STORE_UNSUPPORTED`, `ERR_QWEN_LOCK_TIMEOUT`.
    pub fn view(&self) -> Result<Arc<View>> {
        self.look(None)
    }

    /// All accounts as the files have them, without putting anything right.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn peek(&self) -> Result<View> {
        let document = match self.store.read()? {
            Stored::Missing => Document::default(),
            Stored::Usable(document) | Stored::Broken { recovered: document, .. } => *document,
        };
        Ok(self.reconciled(document).0)
    }

    /// The same while the credentials lock is held.
    ///
    /// # Errors
    /// As [`Registry::view`].
    pub fn view_guarded(&self, guard: &mut Guarded) -> Result<Arc<View>> {
        self.look(Some(guard))
    }

    /// The accounts as they are known, unless a file has changed. That takes a `stat` of each, and no lock of theirs.
    #[must_use]
    pub fn unchanged(&self) -> Option<Arc<View>> {
        self.known(&self.stamps().ok()?)
    }

    fn known(&self, stamps: &Stamps) -> Option<Arc<View>> {
        let cache = lock(&self.cache);
        cache.as_ref().filter(|(known, _)| known == stamps).map(|(_, view)| Arc::clone(view))
    }

    fn look(&self, guard: Option<&mut Guarded>) -> Result<Arc<View>> {
        let stamps = self.stamps()?;
        if let Some(view) = self.known(&stamps) {
            return Ok(view);
        }
        let widened = self.narrow_modes();
        let (before, is_sound) = match self.store.read()? {
            Stored::Missing => (Document::default(), true),
            Stored::Usable(document) => (*document, true),
            Stored::Broken { .. } => (Document::default(), false),
        };
        let (view, findings) = self.reconciled(before.clone());
        self.tell_of_modes(widened, &view, is_sound);
        let is_settled = if before.keeps_nothing() {
            is_sound && needs_no_store(&view)
        } else {
            before == view.document && findings.repair.is_none()
        };
        if is_settled {
            return Ok(self.remember(stamps, view));
        }
        match self.settle(guard, findings.repair.is_some()) {
            Ok(view) => Ok(self.remember(self.stamps()?, view)),
            // The accounts can be used without being written: a read-only home must not stop a chat.
            Err(error) if is_sound && error.code() == Code::Io => {
                self.tell(EventKind::Config, error.message().to_owned(), Some(error.code()), None);
                Ok(self.remember(stamps, view))
            }
            Err(error) => Err(error),
        }
    }

    /// The qwen CLI's older versions, an editor or a backup may have left the files open to others.
    fn narrow_modes(&self) -> [Option<Widened>; 3] {
        let directory = self.credentials.path().parent().and_then(modes::narrow);
        // Names in it are no secret; that others could put files there is worth telling.
        let directory = directory.filter(Widened::was_writable);
        [directory, modes::narrow(self.credentials.path()), modes::narrow(self.store.path())]
    }

    /// Tells once of each place where others could have come by tokens.
    fn tell_of_modes(&self, widened: [Option<Widened>; 3], view: &View, is_sound: bool) {
        let [directory, credentials, store] = widened;
        let credentials = credentials.filter(|_| view.problem.is_none());
        let found = [directory, credentials, store.filter(|_| is_sound)];
        if view.document.is_empty() {
            return;
        }
        for widened in found.into_iter().flatten() {
            let mut told = lock(&self.widened);
            let is_news = told.insert(widened.path().to_owned());
            drop(told);
            if is_news && !(widened.is_still_open() && self.was_told_before(view, widened.path())) {
                self.tell(EventKind::StoreRepaired, widened.message(), None, None);
            }
        }
    }

    /// Remembers for all processes that a person was told of a file that can't be closed to others.
    fn was_told_before(&self, view: &View, path: &Path) -> bool {
        if view.document.was_told_of_open(path) {
            return true;
        }
        // If it can't be written, each process tells it once.
        let _ = self.with_notes(|document| document.note_told_of_open(path));
        false
    }

    fn stamps(&self) -> Result<Stamps> {
        Ok((self.credentials.stamp()?, self.store.stamp()?, self.legacy.stamp()))
    }

    /// Whether the files are what they were for this view.
    #[must_use]
    pub fn is_current(&self, view: &View) -> bool {
        self.stamps().is_ok_and(|stamps| stamps == view.seen)
    }

    fn remember(&self, stamps: Stamps, view: View) -> Arc<View> {
        let view = Arc::new(View { seen: stamps.clone(), ..view });
        // What could not be read may be readable the next time, though the file looks the same.
        if view.problem.as_ref().is_some_and(|problem| problem.code() == Code::Io) {
            return view;
        }
        *lock(&self.cache) = Some((stamps, Arc::clone(&view)));
        view
    }

    fn reconciled(&self, mut document: Document) -> (View, Findings) {
        let mut first_id = document.keeps_nothing().then(|| ONLY_ACCOUNT.to_owned());
        let (held, problem) = match self.credentials.read() {
            Ok(held) => (held, None),
            Err(error) => (None, Some(error)),
        };
        let held = held.map(|Credentials { token, modified_at, .. }| Held { token, modified_at });
        let legacy = self.legacy.read();
        let now = self.clock.now_ms();
        let new_id = || first_id.take().unwrap_or_else(|| new_id(now));
        let lone = held.as_ref().filter(|_| document.keeps_nothing());
        let lone = lone.and_then(|held| document.lone_binding(&held.token));
        let findings = reconcile(&mut document, held.as_ref(), legacy.as_ref(), now, new_id);
        if let Some((id, binding)) = findings.linked.as_deref().zip(lone)
            && let Some(record) = document.record_mut(id)
        {
            record.set_binding(&binding);
            document.set_lone_binding(None);
        }
        let view = View {
            document,
            linked: findings.linked.clone(),
            problem,
            credentials_path: self.credentials.path().to_owned(),
            store_path: self.store.path().to_owned(),
            ..View::default()
        };
        (view, findings)
    }

    /// Writes what was found, and puts the credentials file right where it is behind.
    fn settle(&self, guard: Option<&mut Guarded>, needs_repair: bool) -> Result<View> {
        match guard {
            Some(guard) => self.settle_guarded(guard),
            None if needs_repair => self.guarded(|| None, |guard| self.settle_guarded(guard)),
            None => self.settle_store().map(|(view, _)| view),
        }
    }

    fn settle_guarded(&self, _guard: &mut Guarded) -> Result<View> {
        let (view, findings) = self.settle_store()?;
        if let Some(token) = findings.repair {
            self.put_right(&token)?;
        }
        Ok(view)
    }

    /// Writes an account's newer token over the one that it was redeemed for.
    fn put_right(&self, token: &Token) -> Result<()> {
        let previous = self.credentials.read().unwrap_or_default();
        match (self.credentials.write(token, previous.as_ref()), &previous) {
            (Ok(replaced), _) => {
                self.note_unsynced(&replaced);
                Ok(())
            }
            // The store has it already.
            (Err(_), Some(previous)) => self.credentials.write_in_place(token, previous),
            (Err(error), None) => Err(error),
        }
    }

    fn settle_store(&self) -> Result<(View, Findings)> {
        self.with_store(|document| {
            let (view, findings) = self.reconciled(std::mem::take(document));
            *document = view.document.clone();
            let first = view.document.records.len() == findings.adopted.len();
            for id in findings.adopted.iter().filter(|_| !first) {
                let message = "A login that was not known was found, and added as an account.".to_owned();
                self.tell(EventKind::StoreRepaired, message, None, Some(id));
            }
            (view, findings)
        })
    }

    /// Changes the store: under its lock it is read again, changed, and written if that made a difference.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`, `ERR_QWEN_STORE_CORRUPT`, `ERR_QWEN_STORE_UNSUPPORTED`, `ERR_QWEN_LOCK_TIMEOUT`.
    pub fn with_store<T>(&self, change: impl FnOnce(&mut Document) -> T) -> Result<T> {
        self.with_store_in(None, change)
    }

    /// As [`Registry::with_store`], in room that was made for it.
    pub(super) fn with_store_in<T>(
        &self,
        reserved: Option<Reservation>,
        change: impl FnOnce(&mut Document) -> T,
    ) -> Result<T> {
        self.with_store_locked(|| {
            let mut must_write = false;
            let mut document = match self.store.read()? {
                Stored::Missing => Document::default(),
                Stored::Usable(document) => *document,
                Stored::Broken { reason, recovered } => {
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
                let (view, _) = self.reconciled(document);
                must_write |= !needs_no_store(&view);
                document = view.document;
            }
            let before = document.clone();
            let result = change(&mut document);
            if must_write || document != before {
                self.note_unsynced(&self.store.write(&document, reserved)?);
            }
            Ok(result)
        })
    }

    fn with_store_locked<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        lock::exclusively(
            &self.store.locks(),
            &self.clock,
            || None,
            |cli| {
                if cli.is_sole() {
                    atomic::complete(self.store.path());
                }
                body()
            },
        )
    }

    /// Notes that `OpenCode` has an entry of ours. That alone is no reason to keep accounts in the store.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn note_host_login(&self) -> Result<()> {
        self.set_host_login(true)
    }

    /// Notes that the user has logged in, added a key or chosen an account since `OpenCode` had an entry of ours: a logout
    /// there is older than that.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn forget_host_login(&self) -> Result<()> {
        if self.view()?.document.had_host_login() { self.set_host_login(false) } else { Ok(()) }
    }

    fn set_host_login(&self, had_one: bool) -> Result<()> {
        self.with_notes(|document| document.set_host_login(had_one))
    }

    /// Notes something in the store that is no account, and no reason to keep accounts there.
    fn with_notes(&self, note: impl FnOnce(&mut Document)) -> Result<()> {
        self.with_store_locked(|| {
            let mut document = match self.store.read()? {
                Stored::Missing => Document::default(),
                Stored::Usable(document) => *document,
                // The next look at the accounts moves it aside.
                Stored::Broken { .. } => return Ok(()),
            };
            note(&mut document);
            self.note_unsynced(&self.store.write(&document, None)?);
            Ok(())
        })
    }

    /// Notes where an account's tokens belong, unless that is known. A login without a store gets a note alone.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn bind(&self, id: &str, binding: &Binding) -> Result<()> {
        self.set_binding(id, |known| {
            let is_known = known.is_some_and(|known| known.is_certain);
            (!is_known).then(|| binding.clone())
        })
    }

    /// Notes where an account's tokens belong since its last login.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn rebind(&self, id: &str, binding: &Binding) -> Result<()> {
        self.set_binding(id, |_| Some(binding.clone()))
    }

    fn set_binding(&self, id: &str, change: impl FnOnce(Option<Binding>) -> Option<Binding>) -> Result<()> {
        self.with_store_locked(|| {
            let mut document = match self.store.read()? {
                Stored::Missing => Document::default(),
                Stored::Usable(document) => *document,
                // The next look at the accounts moves it aside.
                Stored::Broken { .. } => return Ok(()),
            };
            let before = document.clone();
            if !document.keeps_nothing() {
                let Some(record) = document.record_mut(id) else { return Ok(()) };
                if let Some(binding) = change(record.binding()) {
                    record.set_binding(&binding);
                }
            } else if let Some(held) = self.credentials.read()? {
                let known = document.lone_binding(&held.token);
                if let Some(binding) = change(known) {
                    document.set_lone_binding(Some((&binding, &held.token)));
                }
            }
            if document != before {
                self.note_unsynced(&self.store.write(&document, None)?);
            }
            Ok(())
        })
    }

    /// Lets the note of a login without a store follow its refreshed token.
    pub(super) fn follow(&self, spent: &Secret, token: &Token) {
        let before = Token { refresh_token: Some(spent.clone()), ..token.clone() };
        let known = match self.store.read() {
            Ok(Stored::Usable(document)) if document.keeps_nothing() => document.lone_binding(&before),
            _ => None,
        };
        // If it can't be written, the token counts as one that is used for the first time.
        if let Some(binding) = known.filter(|binding| binding.is_certain) {
            let _ = self.rebind(ONLY_ACCOUNT, &binding);
        }
    }

    /// Changes one account of the store, if it is still there.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn with_record<T>(&self, id: &str, change: impl FnOnce(&mut Record, u64) -> T) -> Result<Option<T>> {
        let now = self.clock.now_ms();
        self.with_store(|document| document.record_mut(id).map(|record| change(record, now)))
    }

    /// Runs `body` with the credentials lock; `meanwhile` is asked while it is waited for.
    ///
    /// # Errors
    /// `ERR_QWEN_LOCK_TIMEOUT`, `ERR_QWEN_IO`, and what `body` returns.
    pub fn guarded<T>(
        &self,
        meanwhile: impl FnMut() -> Option<T>,
        body: impl FnOnce(&mut Guarded) -> Result<T>,
    ) -> Result<T> {
        lock::exclusively(&self.credentials.locks(), &self.clock, meanwhile, |cli| {
            if cli.is_sole() {
                for path in [self.credentials.path(), self.store.path()] {
                    atomic::remove_reservations(path);
                }
                atomic::complete(self.credentials.path());
                // What a dead process redeemed may be there, and must be found before the spent token is offered again.
                if atomic::is_interrupted(self.store.path()) {
                    self.with_store_locked(|| Ok(()))?;
                }
            }
            body(&mut Guarded(cli))
        })
    }

    /// Tells once in this process that a directory can't be synced, which loses nothing but in a power cut.
    pub(super) fn note_unsynced(&self, replaced: &Replaced) {
        let Replaced::Unsynced(error) = replaced else { return };
        if !self.is_unsynced_told.swap(true, Ordering::Relaxed) {
            let message =
                format!("{} The file is written; a power cut could bring the old one back.", error.message());
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

/// Whether there is nothing to keep beside the credentials file. Its account is the only one, and the file may change
/// hands as it likes.
fn needs_no_store(view: &View) -> bool {
    if !view.document.keys.is_empty() {
        return false;
    }
    match view.document.records.as_slice() {
        [] => true,
        [record] => view.linked.as_deref() == Some(record.id()),
        _ => false,
    }
}

/// An id in the original's form.
pub(super) fn new_id(now_ms: u64) -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("acct_{now_ms:x}_{}", &random[..8])
}

/// The error for an account that the user has disabled, where one is needed that requests can be sent with.
#[must_use]
pub fn disabled_account(field: &str, account: &Account) -> Error {
    let label = &account.label;
    let expected = format!(
        "is the account \"{label}\", which is disabled. Enable it first: npx opencode-qwen-cli-auth enable \"{label}\""
    );
    Error::invalid_argument(field, &expected).with_account(&account.id)
}

/// The error for an id that no account has.
#[must_use]
pub fn unknown_account(field: &str, id: &str) -> Error {
    let shown = Redactor::default().text(&one_line(id, 64));
    Error::new(
        Code::InvalidArgument,
        format!("{field} is no account: {shown}. The list of accounts has their ids."),
    )
}
