//! Finds and imports the keys and logins of other tools.

use std::path::PathBuf;
use std::sync::Arc;

use qwen_accounts::{ImportFile, Imported, Kind, Login, Snapshot, describe_left_out, fingerprint};
use qwen_base::{Code, Event, EventKind, Price, Result, api_base_url, blocking, display_url};

use super::{AccountInfo, Client};
use crate::discovery::{Discovered, Discovery, FoundKey, is_known, last_four};

/// Provider name shown for a login in another tool's file.
const LOGIN_PROVIDER: &str = "qwen-code";

/// A key or login of another tool, without its secret.
#[derive(Debug, Clone)]
pub struct FoundCredential {
    /// Stable id of this entry.
    pub id: String,
    /// The file or variable that holds it.
    pub source: String,
    /// Other files and variables that hold it.
    pub also_in: Vec<String>,
    /// The tool's name for the provider.
    pub provider: String,
    /// Login, or key with its plan if that is known.
    pub kind: Kind,
    /// Region of the plan, if known.
    pub region: Option<String>,
    /// Base URL of its requests, if known.
    pub base_url: Option<String>,
    /// Last four characters of the key.
    pub last_four: String,
    /// True if an account already has it.
    pub known: bool,
    /// True if its requests go to a server that is not an API host of a plan.
    pub foreign: bool,
    /// False if a project's file sends the key to a server of its own. It is then imported only if the user selects it.
    pub taken_with_all: bool,
}

/// Result of importing one key.
#[derive(Debug)]
pub struct ImportedKey {
    /// The key.
    pub found: FoundCredential,
    /// The new account, or the reason why there is none.
    pub outcome: Result<AccountInfo>,
}

struct FileContents {
    path: PathBuf,
    logins: ImportFile,
    keys: Vec<FoundKey>,
    /// The accounts when the file was read.
    snapshot: Arc<Snapshot>,
}

impl Client {
    /// Finds the keys that other tools on this machine keep. Copies nothing and asks no server. Project files are searched
    /// from the working directory upward.
    ///
    /// # Errors
    /// Those of [`Registry::snapshot`](qwen_accounts::Registry::snapshot).
    pub async fn find_credentials(&self, working_directory: Option<PathBuf>) -> Result<Vec<FoundCredential>> {
        let Discovered { keys, notes } = self.discover(working_directory).await?;
        for note in notes {
            self.events.emit(Event::new(EventKind::Config, self.clock.now_ms(), note));
        }
        let snapshot = self.tokens.snapshot().await?;
        Ok(keys.iter().map(|key| found_credential(key, &snapshot)).collect())
    }

    /// Imports the found keys with these ids. Each is checked at its server first. Without ids, imports all keys that no
    /// account has, except those that a project's file sends to a server of its own.
    ///
    /// # Errors
    /// Those of [`Client::find_credentials`].
    pub async fn import_found(
        &self,
        working_directory: Option<PathBuf>,
        chosen: Option<&[String]>,
    ) -> Result<Vec<ImportedKey>> {
        let keys = self.discover(working_directory).await?.keys;
        let snapshot = self.tokens.snapshot().await?;
        let is_wanted = |key: &FoundKey| match chosen {
            Some(ids) => ids.contains(&key.id()),
            None => key.is_taken_with_all() && !is_known(key, &snapshot.document),
        };
        let wanted = keys.into_iter().filter(is_wanted).collect();
        let imported = self.import_keys(wanted, &snapshot).await;
        if chosen.is_none() {
            self.tell_failures(&imported);
        }
        Ok(imported)
    }

    /// Imports the accounts in another tool's file: the qwen CLI's `oauth_creds.json`, the files of other Qwen plugins, and
    /// `OpenCode`'s `auth.json`. Returns the new accounts in the file's order. The file is not changed.
    ///
    /// # Errors
    /// `ERR_QWEN_IO` if the file can't be read, `ERR_QWEN_CREDENTIALS_INVALID` if it has no usable account; those of
    /// [`Registry::import`](qwen_accounts::Registry::import).
    pub async fn import_accounts(&self, path: &str) -> Result<Vec<AccountInfo>> {
        let file = self.read_file(path).await?;
        let logins = file.logins.usable.clone();
        let imported = self.tokens.with_registry(move |registry| registry.import(&logins)).await?;
        self.tell_left_out(&file, &imported);
        let mut accounts = Vec::new();
        for one in &imported {
            if let Imported::Added(id) | Imported::Renewed(id) = one {
                accounts.push(self.account(id).await?);
            }
        }
        let FileContents { keys, snapshot, .. } = file;
        let keys = keys.into_iter().filter(|key| !is_known(key, &snapshot.document)).collect();
        let mut failed = None;
        let imported = self.import_keys(keys, &snapshot).await;
        self.tell_failures(&imported);
        for ImportedKey { outcome, .. } in imported {
            match outcome {
                Ok(account) => accounts.push(account),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if accounts.is_empty() => Err(error),
            _ => Ok(accounts),
        }
    }

    /// Returns the accounts that [`Client::import_accounts`] would import, logins first. Changes nothing and asks no
    /// server.
    ///
    /// # Errors
    /// As [`Client::import_accounts`].
    pub async fn preview_import(&self, path: &str) -> Result<Vec<FoundCredential>> {
        let file = self.read_file(path).await?;
        let logins = file.logins.usable.clone();
        let imported = self.tokens.with_registry(move |registry| registry.preview_import(&logins)).await?;
        self.tell_left_out(&file, &imported);
        let source = file.path.display().to_string();
        let logins = file.logins.usable.iter().zip(&imported);
        let logins = logins.filter(|(_, imported)| **imported != Imported::Removed);
        let mut found: Vec<_> =
            logins.map(|(login, imported)| found_login(login, imported, &source)).collect();
        found.extend(file.keys.iter().map(|key| found_credential(key, &file.snapshot)));
        Ok(found)
    }

    async fn read_file(&self, path: &str) -> Result<FileContents> {
        let path = self.paths.named(path)?;
        let (now, discovery) = (self.clock.now_ms(), self.discovery(None));
        let file = self.tokens.with_registry(move |registry| {
            let snapshot = registry.snapshot()?;
            let keys = discovery.in_file(&path);
            let logins = match ImportFile::read(&path, now) {
                Err(error) if error.code() == Code::CredentialsInvalid && !keys.is_empty() => {
                    ImportFile::default()
                }
                logins => logins?,
            };
            Ok(FileContents { path, logins, keys, snapshot })
        });
        file.await
    }

    fn tell_left_out(&self, file: &FileContents, imported: &[Imported]) {
        if let Some(message) = describe_left_out(imported, &file.logins.refused, &file.path) {
            self.events.emit(Event::new(EventKind::Config, self.clock.now_ms(), message));
        }
    }

    /// Adds keys as accounts. A failed key does not stop the others. Subscription keys go first: the first added account
    /// may become the active one, and it must not be billed by use.
    pub(super) async fn import_keys(&self, mut keys: Vec<FoundKey>, snapshot: &Snapshot) -> Vec<ImportedKey> {
        keys.sort_by_key(|key| match key.plan {
            Some(plan) => (plan.price() == Price::Metered, 0),
            None => (key.is_foreign, 1),
        });
        let mut imported: Vec<ImportedKey> = Vec::new();
        for key in keys {
            let outcome = self.add_api_key(key.options()).await;
            imported.push(ImportedKey { found: found_credential(&key, snapshot), outcome });
        }
        imported
    }

    /// Reports the keys that were not imported, and why.
    pub(super) fn tell_failures(&self, imported: &[ImportedKey]) {
        for ImportedKey { found, outcome } in imported {
            let Err(error) = outcome else { continue };
            let message = format!("The key in {} was not imported: {}", found.source, error.message());
            let event = Event::new(EventKind::Config, self.clock.now_ms(), message);
            self.events.emit(Event { code: Some(error.code()), ..event });
        }
    }

    pub(super) fn discovery(&self, working_directory: Option<PathBuf>) -> Discovery {
        Discovery { environment: self.environment.clone(), paths: self.paths.clone(), working_directory }
    }

    async fn discover(&self, working_directory: Option<PathBuf>) -> Result<Discovered> {
        let discovery = self.discovery(working_directory);
        let found = blocking(move || discovery.look()).await?;
        for key in &found.keys {
            self.tokens.keep_secret(&key.secret);
        }
        Ok(found)
    }
}

fn found_credential(key: &FoundKey, snapshot: &Snapshot) -> FoundCredential {
    FoundCredential {
        id: key.id(),
        source: key.source.clone(),
        also_in: key.also_in.clone(),
        provider: key.provider.clone(),
        kind: Kind::Key(key.plan),
        region: key.region.clone(),
        base_url: key.base_url.as_ref().map(display_url),
        last_four: key.last_four().to_owned(),
        known: is_known(key, &snapshot.document),
        foreign: key.is_foreign,
        taken_with_all: key.is_taken_with_all(),
    }
}

fn found_login(login: &Login, imported: &Imported, source: &str) -> FoundCredential {
    let base_url = login.token.resource_url.as_deref().and_then(|url| api_base_url(url).ok());
    FoundCredential {
        id: fingerprint(&login.token.access_token),
        source: source.to_owned(),
        also_in: Vec::new(),
        provider: LOGIN_PROVIDER.to_owned(),
        kind: Kind::OAuth,
        region: None,
        base_url: base_url.as_ref().map(display_url),
        last_four: last_four(&login.token.access_token).to_owned(),
        known: !imported.is_new(),
        foreign: false,
        taken_with_all: true,
    }
}
