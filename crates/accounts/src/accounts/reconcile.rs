//! Resolves disagreements between the account store and `oauth_creds.json`. Pure.
//!
//! ARCHITECTURE.md has the rules as a table. Each row is a test here.

use super::availability::{Availability, availability};
use std::collections::HashSet;

use crate::model::Binding;
use crate::model::Token;
use crate::model::{fingerprint, same_user};
use crate::store::document::Document;
use crate::store::import_formats::Login;
use crate::store::record::Record;

/// Largest lag of a file's time behind the clock: FAT counts in steps of two seconds, Linux in steps of the timer.
const FILE_TIME_STEP_MS: u64 = 2_000;

/// Contents of `oauth_creds.json`.
#[derive(Debug, Clone)]
pub struct Held {
    /// The tokens.
    pub token: Token,
    /// Time of the last write, in epoch milliseconds.
    pub modified_at: u64,
    /// Fingerprints of the refresh tokens from which the token was rotated while the store could not be written.
    pub predecessors: Vec<String>,
}

/// Result of a reconciliation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconciliation {
    /// Id of the account that `oauth_creds.json` holds.
    pub linked: Option<String>,
    /// Token that `oauth_creds.json` must hold instead: its own is spent, or older than the account's.
    pub repair: Option<Token>,
    /// Ids of new accounts.
    pub adopted: Vec<String>,
}

/// Updates the store from the files. `legacy` is the token of the original plugin's first token file; `new_id` returns
/// a new account id.
pub fn reconcile(
    document: &mut Document,
    held: Option<&Held>,
    legacy: Option<&Token>,
    now_ms: u64,
    mut new_id: impl FnMut() -> String,
) -> Reconciliation {
    let mut result = Reconciliation::default();
    name_records(document, &mut new_id);
    if let Some(held) = held.filter(|held| !document.was_removed(&held.token)) {
        link(document, held, now_ms, &mut new_id, &mut result);
    }
    if let Some(token) = legacy {
        adopt_legacy(document, token, now_ms, &mut new_id, &mut result);
    }
    document.set_linked_id(result.linked.as_deref());
    if document.active_id().and_then(|id| document.record(id)).is_none() {
        let first = document.first_choice().map(str::to_owned);
        document.set_active_id(first.as_deref());
    }
    result
}

/// Accounts are chosen by id, so each needs a unique one.
fn name_records(document: &mut Document, new_id: &mut impl FnMut() -> String) {
    let mut known: HashSet<String> = HashSet::new();
    for record in document.records.iter_mut().chain(&mut document.keys) {
        if record.id().is_empty() || known.contains(record.id()) {
            record.set_id(new_id());
        }
        known.insert(record.id().to_owned());
    }
}

/// Relation of the token in `oauth_creds.json` to an account.
enum Relation {
    /// The same refresh token.
    Same,
    /// A refresh token that was redeemed for the account's current one.
    Spent,
    /// Another token of the same user.
    SameUser,
    /// A token that the account's one was redeemed for.
    Successor,
}

fn relation_of_held(record: &Record, held: &Held) -> Option<Relation> {
    let own = record.token().and_then(|token| token.refresh_token).map(|token| fingerprint(&token));
    let is_successor = own.is_some_and(|own| held.predecessors.contains(&own));
    relation(record, &held.token).or_else(|| is_successor.then_some(Relation::Successor))
}

fn relation(record: &Record, held: &Token) -> Option<Relation> {
    let token = record.token()?;
    let refresh = held.refresh_token.as_ref();
    let same = match refresh {
        Some(_) => token.refresh_token.as_ref() == refresh,
        None => token.access_token == held.access_token,
    };
    if same {
        return Some(Relation::Same);
    }
    if refresh.is_some_and(|refresh| record.has_spent(refresh)) {
        return Some(Relation::Spent);
    }
    same_user(&token, held).then_some(Relation::SameUser)
}

fn link(
    document: &mut Document,
    held: &Held,
    now_ms: u64,
    new_id: &mut impl FnMut() -> String,
    result: &mut Reconciliation,
) {
    let related = document
        .records
        .iter_mut()
        .find_map(|record| relation_of_held(record, held).map(|found| (record, found)));
    let Some((record, relation)) = related else { return adopt(document, held, now_ms, new_id, result) };
    let Some(own) = record.token() else { return };
    result.linked = Some(record.id().to_owned());
    let held_is_newer = held.token.expires_at > own.expires_at;
    match relation {
        Relation::Spent => result.repair = Some(own),
        Relation::Successor => record.set_token(&held.token.clone().or_else_from(&own), now_ms),
        Relation::Same | Relation::SameUser if held_is_newer => {
            record.set_token(&held.token.clone().or_else_from(&own), now_ms);
        }
        Relation::Same if own.expires_at > held.token.expires_at => result.repair = Some(own),
        // An older token of the same user may be the CLI's own, which the CLI will refresh.
        Relation::Same | Relation::SameUser => {}
    }
}

/// Adds an unknown token. A rotation by the CLI and another login look the same, so the new token is used and the old
/// one is kept.
fn adopt(
    document: &mut Document,
    held: &Held,
    now_ms: u64,
    new_id: &mut impl FnMut() -> String,
    result: &mut Reconciliation,
) {
    let id = new_id();
    let before = document.linked_id().map(str::to_owned);
    let (mut label, mut enabled) = (None, true);
    let mut binding = None;
    if let Some(record) = before.as_deref().and_then(|id| document.record_mut(id)) {
        // A time in the future was noted by a wrong clock.
        let is_later =
            held.modified_at + FILE_TIME_STEP_MS >= record.updated_at() || record.updated_at() > now_ms;
        let is_newer =
            is_later || record.token().is_none_or(|token| held.token.expires_at >= token.expires_at);
        if is_newer {
            record.set_superseded(true);
            label = record.label().map(str::to_owned);
            enabled = record.is_enabled();
            // A rotated token has the binding of the old one; another login may not.
            binding = record.binding().map(|binding| Binding { is_certain: false, ..binding });
            if document.active_id() == before.as_deref() {
                document.set_active_id(Some(&id));
            }
        }
    }
    let mut record = Record::new(&id, label.as_deref(), &held.token, now_ms);
    record.set_enabled(enabled, now_ms);
    if let Some(binding) = &binding {
        record.set_binding(binding);
    }
    document.records.push(record);
    result.linked = Some(id.clone());
    result.adopted.push(id);
}

/// Adds the token of the original plugin's first token file once, unless an account has or had it, or was removed with
/// it.
fn adopt_legacy(
    document: &mut Document,
    token: &Token,
    now_ms: u64,
    new_id: &mut impl FnMut() -> String,
    result: &mut Reconciliation,
) {
    if document.knows_legacy(token) {
        return;
    }
    document.note_legacy(token);
    let is_known = document.records.iter().any(|record| relation(record, token).is_some());
    if is_known || document.was_removed(token) {
        return;
    }
    let id = new_id();
    let mut record = Record::new(&id, None, token, now_ms);
    // If there are other logins, this may be an old, spent token of one of them.
    record.set_superseded(!document.records.is_empty());
    document.records.push(record);
    result.adopted.push(id);
}

/// Result of importing a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// The login is a new account with this id.
    Added(String),
    /// The login renewed the account with this id, which needed a login.
    Renewed(String),
    /// An account has the login, or had it before.
    Known,
    /// The user has removed the login.
    Removed,
}

impl Imported {
    /// True if the login changes the store.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        matches!(self, Self::Added(_) | Self::Renewed(_))
    }
}

/// Imports a login. It becomes active only if no account is.
pub fn import(
    document: &mut Document,
    login: &Login,
    now_ms: u64,
    new_id: impl FnOnce() -> String,
) -> Imported {
    let Login { label, token } = login;
    if document.was_removed(token) {
        return Imported::Removed;
    }
    let related =
        document.records.iter_mut().find_map(|record| relation(record, token).map(|found| (record, found)));
    if let Some((record, relation)) = related {
        let is_in_need = availability(record, now_ms) == Availability::Dead;
        if !is_in_need || !matches!(relation, Relation::SameUser) {
            return Imported::Known;
        }
        record.set_token(token, now_ms);
        record.set_superseded(false);
        record.set_rejected(None);
        record.set_last_error(None);
        return Imported::Renewed(record.id().to_owned());
    }
    let id = new_id();
    document.records.push(Record::new(&id, label.as_deref(), token, now_ms));
    if document.active_id().is_none() {
        document.set_active_id(Some(&id));
    }
    Imported::Added(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qwen_base::Secret;

    use super::*;
    use crate::store::document::tests::token;

    fn held(name: &str, expires_at: u64) -> Held {
        Held { token: token(name, expires_at), modified_at: 50, predecessors: Vec::new() }
    }

    fn ids() -> impl FnMut() -> String {
        let mut count = 0;
        move || {
            count += 1;
            format!("new-{count}")
        }
    }

    /// Returns a store with one account, which is active and the CLI's.
    fn store(name: &str, expires_at: u64) -> Document {
        let mut document = Document::default();
        document.records.push(Record::new("one", Some("Mine"), &token(name, expires_at), 1));
        document.set_active_id(Some("one"));
        document.set_linked_id(Some("one"));
        document
    }

    fn run(document: &mut Document, held: Option<&Held>) -> Reconciliation {
        reconcile(document, held, None, 100, ids())
    }

    #[test]
    fn no_credentials_file_leaves_the_store() {
        let mut document = store("a", 10);
        let result = run(&mut document, None);
        assert_eq!((result.linked, result.repair), (None, None));
        assert_eq!(document.records[0].token(), Some(token("a", 10)));
        assert_eq!(document.active_id(), Some("one"));
    }

    #[test]
    fn a_single_cli_login_becomes_the_first_account() {
        let mut document = Document::default();
        let result = run(&mut document, Some(&held("a", 10)));
        assert_eq!(result.adopted, ["new-1"]);
        assert_eq!((document.active_id(), document.linked_id()), (Some("new-1"), Some("new-1")));
    }

    #[test]
    fn the_same_refresh_token_with_a_newer_access_token_is_adopted() {
        let mut document = store("a", 10);
        let newer =
            Held { token: Token { access_token: Secret::new("newer"), ..token("a", 20) }, ..held("a", 20) };
        let result = run(&mut document, Some(&newer));
        assert_eq!((result.linked.as_deref(), result.repair), (Some("one"), None));
        assert_eq!(document.records[0].token().unwrap().access_token.expose(), "newer");
        assert_eq!(document.records.len(), 1);
    }

    #[test]
    fn the_same_refresh_token_with_an_older_access_token_is_repaired() {
        let mut document = store("a", 20);
        let result = run(&mut document, Some(&held("a", 10)));
        assert_eq!(result.repair, Some(token("a", 20)));
    }

    #[test]
    fn a_spent_token_in_the_credentials_file_is_repaired() {
        let mut document = store("a", 10);
        document.records[0].set_token(&token("b", 20), 5);
        let result = run(&mut document, Some(&held("a", 10)));
        assert_eq!((result.linked.as_deref(), result.repair), (Some("one"), Some(token("b", 20))));
        assert_eq!(document.records.len(), 1);
    }

    #[test]
    fn an_unknown_newer_token_is_used_and_the_older_kept() {
        let mut document = store("a", 10);
        let result = run(&mut document, Some(&held("b", 20)));
        assert_eq!((result.linked.as_deref(), result.repair), (Some("new-1"), None));
        assert_eq!(document.active_id(), Some("new-1"));
        assert_eq!(document.records[1].label(), Some("Mine"));
        assert_eq!(document.records[0].token(), Some(token("a", 10)));
        assert!(document.records[0].is_superseded() && !document.records[1].is_superseded());
    }

    #[test]
    fn a_token_that_names_the_accounts_one_as_its_predecessor_is_the_accounts() {
        let mut document = store("a", 10);
        let spent = token("a", 10).refresh_token.unwrap();
        let successor = Held { predecessors: vec![fingerprint(&spent)], ..held("b", 20) };
        let result = run(&mut document, Some(&successor));
        assert_eq!((result.linked.as_deref(), result.repair), (Some("one"), None));
        assert_eq!((document.records.len(), document.records[0].token()), (1, Some(token("b", 20))));
        assert!(document.records[0].has_spent(&spent));
    }

    #[test]
    fn an_unknown_older_token_supersedes_nothing() {
        let mut document = store("a", 20);
        document.records[0].set_token(&token("a", 20), 10_000);
        let older = Held { modified_at: 10_000 - FILE_TIME_STEP_MS - 1, ..held("b", 10) };
        let result = reconcile(&mut document, Some(&older), None, 10_000, ids());
        assert_eq!((result.linked.as_deref(), result.repair), (Some("new-1"), None));
        assert_eq!(document.active_id(), Some("one"));
        assert!(!document.records[0].is_superseded());
    }

    #[test]
    fn a_coarse_file_time_does_not_make_a_token_older() {
        let mut document = store("a", 20);
        document.records[0].set_token(&token("a", 20), 10_000);
        let coarse = Held { modified_at: 10_000 - FILE_TIME_STEP_MS, ..held("b", 10) };
        reconcile(&mut document, Some(&coarse), None, 10_000, ids());
        assert_eq!(document.active_id(), Some("new-1"));
    }

    #[test]
    fn an_unlinked_cli_login_is_added_beside_other_accounts() {
        let mut document = store("a", 10);
        document.set_linked_id(None);
        run(&mut document, Some(&held("b", 20)));
        assert_eq!(document.active_id(), Some("one"));
        assert!(document.records.iter().all(|record| !record.is_superseded()));
    }

    #[test]
    fn a_removed_token_does_not_come_back() {
        let mut document = store("a", 10);
        document.remove("one").unwrap();
        assert_eq!(run(&mut document, Some(&held("a", 10))), Reconciliation::default());
        assert!(document.records.is_empty());
        let result = run(&mut document, Some(&held("b", 20)));
        assert_eq!(result.adopted, ["new-1"]);
    }

    #[test]
    fn a_legacy_token_is_added_once_and_not_redeemed_beside_a_newer_login() {
        let mut document = Document::default();
        let legacy = token("old", 5);
        assert_eq!(reconcile(&mut document, None, Some(&legacy), 100, ids()).adopted, ["new-1"]);
        assert_eq!(document.active_id(), Some("new-1"));
        assert_eq!(reconcile(&mut document, None, Some(&legacy), 100, ids()), Reconciliation::default());

        let mut document = store("a", 10);
        reconcile(&mut document, Some(&held("a", 10)), Some(&legacy), 100, ids());
        assert!(document.records[1].is_superseded());
        assert_eq!(document.active_id(), Some("one"));
    }

    #[test]
    fn an_imported_login_is_added_once_and_keeps_the_active_account() {
        let mut document = store("a", 10);
        let login = |name| Login { label: Some("Theirs".into()), token: token(name, 20) };
        let bring = |document: &mut Document, name| import(document, &login(name), 100, || "new".into());
        assert_eq!(bring(&mut document, "b"), Imported::Added("new".into()));
        assert_eq!((document.active_id(), document.records[1].label()), (Some("one"), Some("Theirs")));
        let before = document.clone();
        assert_eq!(bring(&mut document, "b"), Imported::Known);
        assert_eq!(document, before);

        document.records[1].set_token(&token("c", 30), 5);
        assert_eq!(bring(&mut document, "b"), Imported::Known, "its past is not its present");
        document.remove("new");
        assert_eq!(bring(&mut document, "c"), Imported::Removed);

        let mut empty = Document::default();
        assert_eq!(bring(&mut empty, "a"), Imported::Added("new".into()));
        assert_eq!(empty.active_id(), Some("new"));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_twice_is_once(
            steps in proptest::collection::vec((0_u8..4, 0_u64..5, 0_u64..40), 1..12),
        ) {
            let mut document = Document::default();
            let mut make_id = ids();
            let mut seen: Vec<Secret> = Vec::new();
            for (kind, name, expires_at) in steps {
                let held = held(&name.to_string(), expires_at);
                let held = (kind > 0).then_some(held);
                seen.extend(held.iter().filter_map(|held| held.token.refresh_token.clone()));
                let result = reconcile(&mut document, held.as_ref(), None, 100, &mut make_id);
                if let Some(repair) = &result.repair {
                    prop_assert!(held.as_ref().is_some_and(|held| held.token.expires_at < repair.expires_at));
                }
                let again = held.clone().map(|held| Held { token: result.repair.clone().unwrap_or(held.token), ..held });
                let before = document.clone();
                let second = reconcile(&mut document, again.as_ref(), None, 100, &mut make_id);
                prop_assert_eq!(&document, &before);
                prop_assert_eq!(second.repair, None);
                let kept = |secret: &Secret| document.records.iter().any(|record| {
                    record.token().is_some_and(|token| token.refresh_token.as_ref() == Some(secret)) || record.has_spent(secret)
                });
                prop_assert!(seen.iter().all(kept));
            }
        }
    }
}
