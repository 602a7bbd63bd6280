//! Changes that a user makes to the accounts: log in, add a key, choose, update, import, remove.

use std::path::{Path, PathBuf};

use qwen_base::{Code, Error, EventKind, Result};
use serde::Deserialize;

use super::account::{disabled_account, unknown_account};
use super::availability::availability;
use super::erase::{MAX_DEPTH, MAX_FILES, Traces};
use super::reconcile::{self, Imported};
use super::registry::{ONLY_ACCOUNT, Registry, new_id};
use super::snapshot::Snapshot;
use crate::model::Kind;
use crate::model::Token;
use crate::model::same_user;
use crate::store::atomic;
use crate::store::document::Document;
use crate::store::import_formats::Login;
use crate::store::record::{Key, Record};

/// Changes to an account; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AccountChanges {
    /// New label.
    pub label: Option<String>,
    /// True to send requests with the account.
    pub enabled: Option<bool>,
}

impl Registry {
    /// Adds the account of a new login and returns its id. The login renews the account `replace`, or an account that
    /// is known to belong to the same user. The account becomes the active one, and the qwen CLI's.
    ///
    /// # Errors
    /// As [`Registry::with_store`]; `ERR_QWEN_INVALID_ARGUMENT` if `replace` is no longer a login.
    pub fn add_login(&self, token: &Token, label: Option<&str>, replace: Option<&str>) -> Result<String> {
        self.with_credentials_lock(|guard| {
            // The login in the credentials file must be safe in the store before the file is replaced.
            let snapshot = self.snapshot_guarded(guard)?;
            if let Some(id) = replace {
                expect_login(&snapshot, id)?;
            }
            let needs_no_store = snapshot.document.keeps_nothing() && label.is_none();
            if needs_no_store
                && self.credentials.is_replaceable()
                && self.put_in_credentials(token, false).is_ok()
            {
                return Ok(ONLY_ACCOUNT.to_owned());
            }
            let now = self.clock.now_ms();
            let add = |document: &mut Document| add(document, token, label, replace, now);
            let added = self.with_store(add);
            let id = added.or_else(|cause| self.with_store_in_place(add).map_err(|_| cause))?;
            // The user has approved the login, and the store has it.
            match self.put_in_credentials(token, true) {
                // If this write fails, the next snapshot finds that the two have the same token.
                Ok(()) => drop(self.with_store(|document| document.set_linked_id(Some(&id)))),
                Err(error) => self.tell_of_cli_login(&id, &error),
            }
            Ok(id)
        })
    }

    /// Makes an account the active one. A login becomes the qwen CLI's too; the CLI doesn't use keys.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT`, and those of [`Registry::with_store`].
    pub fn activate(&self, id: &str) -> Result<()> {
        let mut is_changed = false;
        let chosen = self.choose(id, &mut is_changed);
        chosen.map_err(|error| if is_changed { error } else { error.with_advice("Nothing was changed.") })
    }

    fn choose(&self, id: &str, is_changed: &mut bool) -> Result<()> {
        if self.expect_choice(id)? != Kind::OAuth {
            let chosen = self.with_store(|document| {
                document.record(id)?;
                document.set_active_id(Some(id));
                Some(())
            })?;
            return chosen.ok_or_else(|| unknown_account("id", id));
        }
        self.with_credentials_lock(|guard| {
            let snapshot = self.snapshot_guarded(guard)?;
            let record = snapshot.record(id).ok_or_else(|| unknown_account("id", id))?;
            let token = record.token().filter(|_| snapshot.linked.as_deref() != Some(id));
            if let Some(token) = &token {
                self.put_in_credentials(token, true)?;
                *is_changed = true;
            }
            self.with_store(|document| {
                document.set_active_id(Some(id));
                if let Some(record) = document.record_mut(id) {
                    record.set_superseded(false);
                }
                if token.is_some() {
                    document.set_linked_id(Some(id));
                }
            })
        })
    }

    /// Checks that an account can be chosen. Changes nothing.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT`, and those of [`Registry::snapshot`].
    pub fn expect_choice(&self, id: &str) -> Result<Kind> {
        let kind = self.expect_account(id)?;
        let snapshot = self.snapshot()?;
        match snapshot.record(id).filter(|record| !record.is_enabled()) {
            Some(disabled) => Err(disabled_account("id", &snapshot.account(disabled))),
            None => Ok(kind),
        }
    }

    /// Renames, enables or disables an account. If this disables the active account, the cheapest enabled one becomes
    /// active, unless it is billed by use and the disabled one was not. Returns the id of an account that became active
    /// this way.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT` for an unknown id or the label of another account, and those of
    /// [`Registry::with_store`].
    pub fn update(&self, id: &str, changes: &AccountChanges) -> Result<Option<String>> {
        self.expect_account(id)?;
        if let Some(label) = &changes.label {
            self.expect_free_label(id, label)?;
        }
        let now = self.clock.now_ms();
        let updated = self.with_store(|document| {
            let record = document.record_mut(id)?;
            if let Some(label) = &changes.label {
                record.set_label(label);
            }
            if let Some(enabled) = changes.enabled.filter(|enabled| *enabled != record.is_enabled()) {
                record.set_enabled(enabled, now);
            }
            Some(changes.enabled.and_then(|_| document.leave_disabled()))
        })?;
        updated.ok_or_else(|| unknown_account("id", id))
    }

    /// Removes an account for good, and the credentials file if it holds that account. Its tokens are erased from kept
    /// damaged stores and from temporary files. Returns the files that still hold one of its tokens, or can't be read.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT`, and those of [`Registry::with_store`].
    pub fn remove(&self, id: &str) -> Result<Vec<PathBuf>> {
        if self.expect_account(id)? != Kind::OAuth {
            let removed = self.with_store(|document| document.remove(id))?;
            return Ok(removed.map_or_else(Vec::new, |record| self.erase(&record)));
        }
        self.with_credentials_lock(|guard| {
            let snapshot = self.snapshot_guarded(guard)?;
            snapshot.record(id).ok_or_else(|| unknown_account("id", id))?;
            let removed = self.with_store(|document| document.remove(id))?;
            let removed = removed.ok_or_else(|| unknown_account("id", id))?;
            let mut left = Vec::new();
            if snapshot.linked.as_deref() == Some(id) {
                left.extend(self.remove_credentials(&removed));
            }
            left.extend(self.erase(&removed));
            left.sort();
            left.dedup();
            Ok(left)
        })
    }

    /// Removes the credentials file, or empties it if it can't be removed, such as a mount. Returns the file if it
    /// may still hold a token of the account.
    fn remove_credentials(&self, removed: &Record) -> Option<PathBuf> {
        let path = self.credentials.path();
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if self.credentials.remove().is_err() && Traces::of(removed).may_be_in(path) {
            let _ = atomic::overwrite(path, b"{}\n");
        }
        // If the path is a link, removing it leaves the target, which is the user's own file.
        Traces::of(removed).may_be_in(&target).then_some(target)
    }

    fn erase(&self, removed: &Record) -> Vec<PathBuf> {
        let traces = Traces::of(removed);
        let mut erased = traces.erase(self.credentials.path(), self.store.path());
        if !erased.is_complete {
            let directory = self.credentials.path().parent().unwrap_or(Path::new("")).display();
            let message = format!(
                "Not all files below {directory} were searched for the tokens of the removed account: there are more than {MAX_FILES}, some are more than {MAX_DEPTH} directories deep, or a directory can't be read."
            );
            self.tell(EventKind::Config, message, None, None);
        }
        erased.left.extend(Some(self.legacy.path().to_owned()).filter(|path| traces.may_be_in(path)));
        erased.left
    }

    /// Adds logins from another tool. The active account and the qwen CLI's account stay the same.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn import(&self, logins: &[Login]) -> Result<Vec<Imported>> {
        // Without a new login nothing is written.
        let found = self.preview_import(logins)?;
        if !found.iter().any(Imported::is_new) {
            return Ok(found);
        }
        self.with_store(|document| self.take_in(document, logins))
    }

    /// Returns the results that [`Registry::import`] would have. Changes nothing.
    ///
    /// # Errors
    /// As [`Registry::snapshot`].
    pub fn preview_import(&self, logins: &[Login]) -> Result<Vec<Imported>> {
        let mut snapshot = (*self.snapshot()?).clone();
        Ok(self.take_in(&mut snapshot.document, logins))
    }

    fn take_in(&self, document: &mut Document, logins: &[Login]) -> Vec<Imported> {
        let now = self.clock.now_ms();
        logins.iter().map(|login| reconcile::import(document, login, now, || new_id(now))).collect()
    }

    /// Adds a key, or renews the account that has it, and returns the account's id. The key becomes active only if the
    /// active account doesn't work and no cheaper account works.
    ///
    /// # Errors
    /// As [`Registry::with_store`].
    pub fn add_key(&self, key: &Key, label: Option<&str>) -> Result<String> {
        let now = self.clock.now_ms();
        self.with_store(|document| {
            let id = keep_key(document, key, label, now);
            if !is_surpassed(document, &id, now) {
                document.set_active_id(Some(&id));
            }
            id
        })
    }

    /// Runs before a lock is taken, since a mistyped id must leave no lock file behind.
    fn expect_account(&self, id: &str) -> Result<Kind> {
        self.snapshot()?.record(id).map(Record::kind).ok_or_else(|| unknown_account("id", id))
    }

    /// Labels must be unique, since users choose accounts by label.
    fn expect_free_label(&self, id: &str, label: &str) -> Result<()> {
        let snapshot = self.snapshot()?;
        let is_taken = |record: &Record| record.id() == label || snapshot.account(record).label == label;
        match snapshot.document.all().find(|record| record.id() != id && is_taken(record)) {
            Some(other) => {
                let other = snapshot.account(other).shown_id();
                let expected = format!("is taken: the account {other} has this label. Choose another label");
                Err(Error::invalid_argument("label", &expected).with_account(id))
            }
            None => Ok(()),
        }
    }

    /// Writes a login into the credentials file. With `is_kept`, the store has the login already.
    fn put_in_credentials(&self, token: &Token, is_kept: bool) -> Result<()> {
        let previous = match self.credentials.read() {
            Ok(previous) => previous,
            Err(error) if error.code() == Code::CredentialsInvalid => {
                let aside = self.credentials.set_aside(self.clock.now_ms())?;
                let message = format!("{} It was kept as {}.", error.message(), aside.display());
                self.tell(EventKind::StoreRepaired, message, Some(error.code()), None);
                None
            }
            Err(error) => return Err(error),
        };
        self.note_unsynced(&self.credentials.put(token, previous.as_ref(), is_kept)?);
        Ok(())
    }
}

fn add(
    document: &mut Document,
    token: &Token,
    label: Option<&str>,
    replace: Option<&str>,
    now: u64,
) -> String {
    let same_user = |record: &Record| record.token().is_some_and(|own| same_user(&own, token));
    let renewed = replace.map(str::to_owned).or_else(|| {
        document.records.iter().find(|record| same_user(record)).map(|record| record.id().to_owned())
    });
    let id = renewed.unwrap_or_else(|| new_id(now));
    if let Some(record) = document.record_mut(&id) {
        record.set_token(token, now);
        record.set_superseded(false);
        record.set_enabled(true, now);
        record.start_afresh(now);
        if let Some(label) = label {
            record.set_label(label);
        }
    } else {
        document.records.push(Record::new(&id, label, token, now));
    }
    document.set_active_id(Some(&id));
    id
}

/// Checks that a login can renew the account.
///
/// # Errors
/// `ERR_QWEN_INVALID_ARGUMENT`.
pub fn expect_login(snapshot: &Snapshot, id: &str) -> Result<()> {
    match snapshot.record(id).map(Record::kind) {
        Some(Kind::OAuth) => Ok(()),
        Some(Kind::Key(_)) => {
            let expected = "is a key, which a login can't renew; add the key again instead";
            Err(Error::invalid_argument("replace", expected).with_account(id))
        }
        None => Err(unknown_account("replace", id)),
    }
}

fn keep_key(document: &mut Document, key: &Key, label: Option<&str>, now: u64) -> String {
    let has_key = |record: &&mut Record| record.token().is_some_and(|token| token.access_token == key.secret);
    let Some(record) = document.keys.iter_mut().find(has_key) else {
        let id = new_id(now);
        document.keys.push(Record::of_key(&id, label, key, now));
        return id;
    };
    record.set_key(key, now);
    record.set_enabled(true, now);
    record.start_afresh(now);
    if let Some(label) = label {
        record.set_label(label);
    }
    record.id().to_owned()
}

/// True if the active account works, or if a cheaper account than `id` works.
fn is_surpassed(document: &Document, id: &str, now: u64) -> bool {
    let Some(price) = document.record(id).map(|record| record.kind().price()) else { return true };
    let is_active = |record: &Record| document.active_id() == Some(record.id());
    let works = |record: &Record| {
        record.is_enabled() && availability(record, now).works() && record.rejected_at().is_none()
    };
    document.all().any(|record| {
        record.id() != id && works(record) && (is_active(record) || record.kind().price() < price)
    })
}

#[cfg(test)]
mod tests {
    use qwen_base::{KeyPlan, Secret};
    use url::Url;

    use super::*;
    use crate::model::{Cooldown, CoolingReason};
    use crate::store::document::tests::token;

    const NOW: u64 = 1_000_000;

    fn key(name: &str, plan: Option<KeyPlan>) -> Key {
        let base_url = Url::parse("https://host.example/v1").unwrap();
        Key { secret: Secret::new(format!("sk-{name}")), plan, region: None, base_url, tier: None }
    }

    /// Returns the active account after a key of `plan` is added.
    fn active_after(document: &mut Document, plan: Option<KeyPlan>) -> &'static str {
        let id = keep_key(document, &key("new", plan), None, NOW);
        if is_surpassed(document, &id, NOW) { "old" } else { "new" }
    }

    fn cool(record: &mut Record) {
        let (reason, code) = (CoolingReason::Quota, "insufficient_quota".to_owned());
        record.start_cooling(&Cooldown { until: NOW + 1, reason, code, window: None }, NOW);
    }

    type Change = fn(&mut Record);

    const STATES: [(&str, bool, Change); 7] = [
        ("ready", true, |_| {}),
        ("cooling", true, |record| cool(record)),
        ("rejected", false, |record| {
            let token = record.token().unwrap().access_token;
            record.set_rejected(Some((&token, NOW)));
        }),
        ("rejected long ago", false, |record| {
            let token = record.token().unwrap().access_token;
            record.set_rejected(Some((&token, 1)));
        }),
        ("needs a login", false, |record| {
            record.set_token(&Token { refresh_token: None, ..token("b", 1) }, NOW);
        }),
        ("disabled", false, |record| record.set_enabled(false, NOW)),
        ("disabled and cooling", false, |record| {
            record.set_enabled(false, NOW);
            cool(record);
        }),
    ];

    #[test]
    fn a_key_becomes_active_only_if_the_active_account_does_not_work() {
        for plan in [None, Some(KeyPlan::DashScope), Some(KeyPlan::TokenPlan)] {
            for (state, works, change) in STATES {
                let mut document = Document::default();
                let mut login = Record::new("login", None, &token("a", NOW * 2), 1);
                change(&mut login);
                document.records.push(login);
                document.set_active_id(Some("login"));
                let expected = if works { "old" } else { "new" };
                assert_eq!(active_after(&mut document, plan), expected, "{plan:?}, the login is {state}");
            }
            assert_eq!(active_after(&mut Document::default(), plan), "new");
        }
    }

    #[test]
    fn a_metered_key_does_not_become_active_beside_a_cheaper_working_account() {
        for plan in [None, Some(KeyPlan::DashScope)] {
            for (active_state, active_works, change_active) in STATES {
                for (state, works, change) in
                    STATES.into_iter().filter(|(state, ..)| *state != "needs a login")
                {
                    for cheaper in ["login", "key"] {
                        let mut document = Document::default();
                        let mut active = Record::new("active", None, &token("a", NOW * 2), 1);
                        change_active(&mut active);
                        let mut other = match cheaper {
                            "login" => Record::new("other", None, &token("c", NOW * 2), 1),
                            _ => Record::of_key("other", None, &key("other", Some(KeyPlan::CodingPlan)), 1),
                        };
                        change(&mut other);
                        document.records.push(active);
                        if cheaper == "login" {
                            document.records.push(other);
                        } else {
                            document.keys.push(other);
                        }
                        document.set_active_id(Some("active"));
                        let expected = if active_works || works { "old" } else { "new" };
                        let case =
                            format!("{plan:?}, active is {active_state}, the other {cheaper} is {state}");
                        assert_eq!(active_after(&mut document, plan), expected, "{case}");
                    }
                }
            }
        }
    }

    #[test]
    fn another_metered_key_does_not_keep_a_metered_key_from_becoming_active() {
        let mut document = Document::default();
        let mut active = Record::new("active", None, &token("a", NOW * 2), 1);
        active.set_enabled(false, NOW);
        document.records.push(active);
        document.keys.push(Record::of_key("other", None, &key("other", None), 1));
        document.set_active_id(Some("active"));
        assert_eq!(active_after(&mut document, Some(KeyPlan::DashScope)), "new");
        document.set_active_id(Some("other"));
        assert_eq!(active_after(&mut document, Some(KeyPlan::DashScope)), "old");
    }
}
