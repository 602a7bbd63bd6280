//! All accounts at one moment.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use qwen_base::{Code, Error};

use super::account::Account;
use super::kind::Kind;
use crate::store::document::Document;
use crate::store::file::Stamp;
use crate::store::record::Record;

/// All accounts at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The store, brought up to date with the credentials file.
    pub document: Document,
    /// The account that the credentials file holds.
    pub linked: Option<String>,
    /// What is wrong with the credentials file.
    pub problem: Option<Error>,
    /// Where the credentials file is.
    pub credentials_path: PathBuf,
    /// Where the store is.
    pub store_path: PathBuf,
    /// What the files were.
    pub(super) seen: Stamps,
    /// Made at the first need: a default label takes a look at all records.
    pub(super) accounts: OnceLock<Vec<Account>>,
    /// Which of its kind each account is, by its id, counted at the first use.
    pub(super) numbers: OnceLock<HashMap<String, usize>>,
}

/// The credentials file, the store, and the original's old file.
pub(super) type Stamps = (Option<Stamp>, Option<Stamp>, Option<Stamp>);

impl View {
    /// The account with an id.
    #[must_use]
    pub fn record(&self, id: &str) -> Option<&Record> {
        self.document.record(id)
    }

    /// Accounts that something can be done with. One whose place a newer token of the CLI's took, and whose own has
    /// expired, is most likely that one's past.
    pub fn listed(&self, now_ms: u64) -> impl Iterator<Item = &Record> {
        self.document.all().filter(move |record| is_listed(record, now_ms))
    }

    /// The accounts that requests may be sent with, each with its record.
    pub fn enabled_accounts(&self, now_ms: u64) -> impl Iterator<Item = (&Record, &Account)> {
        let all =
            self.accounts.get_or_init(|| self.document.all().map(|record| self.account(record)).collect());
        self.document
            .all()
            .zip(all)
            .filter(move |(record, _)| is_listed(record, now_ms) && record.is_enabled())
    }

    /// Accounts that requests may be sent with: those that are listed, and that the user has not disabled.
    pub fn enabled(&self, now_ms: u64) -> impl Iterator<Item = &Record> {
        self.listed(now_ms).filter(|record| record.is_enabled())
    }

    /// Who a request is sent as, for an account that has tokens.
    #[must_use]
    pub fn account(&self, record: &Record) -> Account {
        let label = record.label().map_or_else(|| self.default_label(record), str::to_owned);
        let label = if record.is_superseded() { format!("{label} (earlier)") } else { label };
        let is_linked = self.linked.as_deref() == Some(record.id());
        let path = if is_linked { self.credentials_path.clone() } else { self.store_path.clone() };
        let binding = record.binding();
        Account { id: record.id().to_owned(), label, kind: record.kind(), path, binding }
    }

    /// What an account is called that the user has not named: logins are counted, and so are the keys of each plan.
    fn default_label(&self, record: &Record) -> String {
        let number = self.numbers.get_or_init(|| self.count()).get(record.id()).copied().unwrap_or(1);
        let name = match record.kind() {
            Kind::OAuth => return format!("Account {number}"),
            Kind::Key(Some(plan)) => format!("{} key", plan.title()),
            Kind::Key(None) => "API key".to_owned(),
        };
        if number == 1 { name } else { format!("{name} {number}") }
    }

    /// Numbers the accounts of each kind. One whose place a newer token took has the number of the next.
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

    /// Why there is no account to send anything with.
    #[must_use]
    pub fn no_account(&self) -> Error {
        if let Some(disabled) = self.document.all().find(|record| !record.is_enabled()) {
            let message = format!(
                "Every Qwen account is disabled, so there is none to send this with. Enable one with `npx opencode-qwen-cli-auth enable \"{}\"`.",
                self.account(disabled).label
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
