//! Checks the contents of the credentials file and the account store, and reports damaged files that were kept.

use std::fs;
use std::path::PathBuf;

use qwen_accounts::{
    StoreFile, Stored, broken,
    file::{self, Contents},
    read_logins,
};
use qwen_base::{Clock, Code};

use super::finding::{Finding, ours, quoted, remove};
use super::settings::Settings;

const STORE: &str = "store";
const CREDENTIALS: &str = "credentials";
const SET_ASIDE: &str = "set-aside";

pub fn check(settings: &Settings, clock: &Clock) -> Vec<Finding> {
    let store = settings.store_file();
    let mut findings: Vec<_> = store.as_ref().map(look_at_store).into_iter().collect();
    findings.extend(look_at_credentials(settings, clock));
    findings.extend(set_aside(settings));
    findings
}

fn look_at_store(store: &StoreFile) -> Finding {
    let shown = store.path().display();
    match store.read() {
        Ok(Stored::Missing) => {
            Finding::ok(STORE, "There is no account store: oauth_creds.json holds the only account.")
        }
        Ok(Stored::Usable(document)) => {
            Finding::ok(STORE, format!("{shown} can be read ({} logins).", document.records.len()))
        }
        Ok(Stored::Broken { reason, recovered }) => {
            let readable = recovered.records.len();
            let message = format!(
                "{} {readable} logins can still be read in it; they are used, and it is kept whole under another name.",
                broken(store.path(), reason)
            );
            Finding::broken(STORE, message, ours("accounts"))
        }
        Err(error) => Finding::broken(STORE, error.message(), format!("ls -l {}", quoted(store.path()))),
    }
}

fn look_at_credentials(settings: &Settings, clock: &Clock) -> Option<Finding> {
    let credentials = settings.credentials_file()?;
    let shown = credentials.path().display();
    Some(match credentials.read() {
        Ok(None) => {
            Finding::ok(CREDENTIALS, format!("There is no {shown}: the qwen CLI is not logged in by OAuth."))
        }
        Ok(Some(_)) => Finding::ok(CREDENTIALS, format!("{shown} holds a login.")),
        Err(error) if error.code() == Code::CredentialsInvalid => {
            let contents = file::read(credentials.path(), 1024 * 1024).ok();
            let logins = contents.and_then(|contents| match contents {
                Contents::Bytes { bytes, .. } => read_logins(&bytes, clock.now_ms()),
                _ => None,
            });
            let is_foreign = logins.is_some_and(|logins| logins.iter().any(Result::is_ok));
            let first = settings.store_file().and_then(|store| match store.read() {
                Ok(Stored::Usable(document)) => {
                    document.active_id().filter(|id| document.record(id).is_some()).map(str::to_owned)
                }
                _ => None,
            });
            match (first, is_foreign) {
                (Some(id), _) => Finding::broken(
                    CREDENTIALS,
                    format!(
                        "{shown} holds no login that the qwen CLI can read. It is kept under another name, and an account of yours put there."
                    ),
                    ours(&format!("use {id}")),
                ),
                (None, true) => Finding::broken(
                    CREDENTIALS,
                    format!("{shown} was written by another plugin, in a form that the qwen CLI can't read."),
                    ours(&format!("import {}", quoted(credentials.path()))),
                ),
                (None, false) => Finding::broken(CREDENTIALS, error.message(), ours("login")),
            }
        }
        Err(error) => {
            Finding::broken(CREDENTIALS, error.message(), format!("ls -l {}", quoted(credentials.path())))
        }
    })
}

/// Reports damaged files that were moved aside.
fn set_aside(settings: &Settings) -> Vec<Finding> {
    let directories = [
        settings.paths.as_ref().map(|paths| paths.qwen_dir().to_owned()),
        settings.store.as_ref().and_then(|(path, _)| path.parent().map(PathBuf::from)),
    ];
    let entries =
        directories.iter().flatten().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    let mut kept: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().contains(".json.corrupt-"))
        .map(|entry| entry.path())
        .collect();
    kept.sort();
    kept.dedup();
    let finding = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let holds_accounts = !name.starts_with("opencode_qwen_");
        let advice = if holds_accounts { "Once you miss no account, it can go." } else { "It can go." };
        let message = format!("{} was set aside when it could not be read. {advice}", path.display());
        Finding::warning(SET_ASIDE, message, remove(path))
    };
    kept.iter().map(finding).collect()
}
