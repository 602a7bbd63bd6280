//! All accounts at one moment, and their labels.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use qwen_base::{Code, Error, shell};

use super::account::Account;
use crate::model::Kind;
use crate::store::document::Document;
use crate::store::file::Stamp;
use crate::store::record::Record;

/// All accounts at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The store, updated from the credentials file.
    pub document: Document,
    /// Id of the account that the credentials file holds.
    pub linked: Option<String>,
    /// Error of the credentials file.
    pub problem: Option<Error>,
    /// Path of the credentials file.
    pub credentials_path: PathBuf,
    /// Path of the store.
    pub store_path: PathBuf,
    /// Stamps of the files that were read.
    pub(super) seen: Stamps,
    /// Filled at the first use, since default labels depend on all records.
    pub(super) accounts: OnceLock<Vec<Account>>,
    /// Number of each account among its kind, by id; filled at the first use.
    pub(super) numbers: OnceLock<HashMap<String, usize>>,
}

/// Stamps of the credentials file, the store, and the original plugin's first token file.
pub(super) type Stamps = (Option<Stamp>, Option<Stamp>, Option<Stamp>);

impl Snapshot {
    /// The account with an id.
    #[must_use]
    pub fn record(&self, id: &str) -> Option<&Record> {
        self.document.record(id)
    }

    /// Accounts to show. An account is hidden if a newer token of the CLI replaced its token, and its own has expired:
    /// it is most likely an older token of the same login.
    pub fn listed(&self, now_ms: u64) -> impl Iterator<Item = &Record> {
        self.document.all().filter(move |record| is_listed(record, now_ms))
    }

    /// Accounts that requests may be sent with, each with its record.
    pub fn enabled_accounts(&self, now_ms: u64) -> impl Iterator<Item = (&Record, &Account)> {
        self.all().filter(move |(record, _)| is_listed(record, now_ms) && record.is_enabled())
    }

    /// The account with an id, and its record.
    pub(crate) fn find(&self, id: &str) -> Option<(&Record, &Account)> {
        self.all().find(|(record, _)| record.id() == id)
    }

    fn all(&self) -> impl Iterator<Item = (&Record, &Account)> {
        let accounts =
            self.accounts.get_or_init(|| self.document.all().map(|record| self.account(record)).collect());
        self.document.all().zip(accounts)
    }

    /// Records of the accounts that requests may be sent with: listed, and not disabled.
    pub fn enabled(&self, now_ms: u64) -> impl Iterator<Item = &Record> {
        self.listed(now_ms).filter(|record| record.is_enabled())
    }

    /// Returns the account of a record that has tokens.
    #[must_use]
    pub fn account(&self, record: &Record) -> Account {
        let label = record.label().map_or_else(|| self.default_label(record), str::to_owned);
        let label = if record.is_superseded() { format!("{label} (earlier)") } else { label };
        let is_linked = self.linked.as_deref() == Some(record.id());
        let path = if is_linked { self.credentials_path.clone() } else { self.store_path.clone() };
        let binding = record.binding();
        Account { id: record.id().to_owned(), label, kind: record.kind(), path, binding }
    }

    /// Label of an account without a name. Logins are counted, and the keys of each plan.
    fn default_label(&self, record: &Record) -> String {
        let number = self.numbers.get_or_init(|| self.count()).get(record.id()).copied().unwrap_or(1);
        let name = match record.kind() {
            Kind::OAuth => return format!("Account {number}"),
            Kind::Key(Some(plan)) => format!("{} key", plan.title()),
            Kind::Key(None) => "API key".to_owned(),
        };
        if number == 1 { name } else { format!("{name} {number}") }
    }

    /// Numbers the accounts of each kind. A superseded account has the number of the next one.
    fn count(&self) -> HashMap<String, usize> {
        let mut counts: Vec<(Kind, usize)> = Vec::new();
        let mut numbers = HashMap::new();
        for record in self.document.all() {
            let kind = record.kind();
            let at = counts.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
                counts.push((kind, 0));
                counts.len() - 1
            });
            numbers.entry(record.id().to_owned()).or_insert(counts[at].1 + 1);
            if !record.is_superseded() {
                counts[at].1 += 1;
            }
        }
        numbers
    }

    /// The error for a request without an account.
    #[must_use]
    pub fn no_account(&self) -> Error {
        if let Some(disabled) = self.document.all().find(|record| !record.is_enabled()) {
            let message = format!(
                "Every Qwen account is disabled, so there is none to send this with. Enable one with `npx opencode-qwen-cli-auth enable {}`.",
                shell::operand(&self.account(disabled).label)
            );
            return Error::new(Code::NotLoggedIn, message).with_account(disabled.id());
        }
        self.problem.clone().unwrap_or_else(|| {
            let path = &self.credentials_path;
            let message = format!(
                "Not logged in to Qwen: there is no account, and no {}. Log in with `opencode auth login` or `npx opencode-qwen-cli-auth login`, or add a key with `npx opencode-qwen-cli-auth add-key`.",
                path.display()
            );
            Error::new(Code::NotLoggedIn, message).with_path(path)
        })
    }
}

fn is_listed(record: &Record, now_ms: u64) -> bool {
    !record.is_superseded() || record.token().is_some_and(|token| token.expires_at > now_ms)
}
