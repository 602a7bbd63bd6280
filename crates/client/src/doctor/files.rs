//! Checks the files: where they are, access, wrong types at their paths, locks, and contents.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use qwen_accounts::{
    CredentialsFile, Obstacle, StoreFile, Stored, broken,
    file::{self, Contents, MAX_FILE},
    lock::{LockPaths, LockState},
    read_logins,
};
use qwen_base::shell::path as quoted;
use qwen_base::{Clock, Code, DEBUG_LOG, Paths, safe_open::NotAFile};

#[cfg(unix)]
pub(super) use super::access::is_of_another_user;
#[cfg(unix)]
use super::access::{access, links_of_others};
use super::disks::{FILE_SYSTEM, rooms, unchangeable, writable, writable_again};
use super::finding::{Finding, ours, ours_about, unmark};
use super::removal::{free_name, move_to, remove};
use super::settings::CheckedSettings;
use crate::shared_file::{MAX_SIZE, locks_of};

pub(super) const FILES: &str = "files";
const LOCKS: &str = "locks";
const STORE: &str = "store";
const CREDENTIALS: &str = "credentials";
const SET_ASIDE: &str = "set-aside";

pub fn check(paths: &Paths, settings: &CheckedSettings, clock: &Clock) -> Vec<Finding> {
    let for_accounts = "no account can be kept";
    if let Some(finding) = not_a_directory(paths.qwen_dir(), for_accounts, clock) {
        return vec![finding];
    }
    let links = links_of_others(paths, settings);
    if !links.is_empty() {
        return links;
    }
    let mut findings = directory_findings(paths, settings);
    let logs = paths.logs();
    let up_to_logs = logs.ancestors().take_while(|above| *above != paths.home());
    findings.extend(up_to_logs.filter_map(|above| not_a_directory(above, "nothing can be logged", clock)));
    findings.extend(path_findings(paths, settings));
    findings.extend(lock_findings(settings, clock));
    findings.extend(content_findings(settings, clock));
    findings
}

/// Reports something else in the place of a directory.
fn not_a_directory(directory: &Path, loss: &str, clock: &Clock) -> Option<Finding> {
    let is_other = fs::metadata(directory).is_ok_and(|found| !found.is_dir());
    if !is_other && !leads_in_a_circle(directory) {
        return None;
    }
    let message = format!("{} is not a directory, so {loss}.", directory.display());
    Some(Finding::broken(FILE_SYSTEM, message, move_to(directory, &file::aside(directory, clock.now_ms()))))
}

fn directory_findings(paths: &Paths, settings: &CheckedSettings) -> Vec<Finding> {
    let directory = paths.qwen_dir();
    if let (false, Ok(target)) = (directory.exists(), fs::read_link(directory)) {
        let message =
            format!("{} is a link to {}, which does not exist.", directory.display(), target.display());
        let target = directory.parent().unwrap_or(directory).join(target);
        let above = target.ancestors().skip(1).find(|above| above.exists());
        let make = format!("mkdir -p -m 700 {}", quoted(&target));
        let fix = match above.and_then(|above| Some((above, tempfile::tempfile_in(above).err()?.kind()))) {
            None => make,
            Some((above, kind @ ErrorKind::ReadOnlyFilesystem)) => {
                format!("{} && {make}", writable_again(above, kind))
            }
            Some((above, kind)) => writable_again(above, kind),
        };
        return vec![Finding::broken(FILES, message, fix)];
    }
    if !directory.exists() {
        let above = directory.ancestors().skip(1).find(|above| above.exists());
        if let Some(error) = above.and_then(|above| tempfile::tempfile_in(above).err()) {
            let message = format!("{} does not exist and can't be created: {error}.", directory.display());
            return vec![Finding::broken(FILES, message, "Point QWEN_HOME at a writable directory")];
        }
        let message = format!("{} does not exist yet; a login creates it.", directory.display());
        return vec![Finding::ok(FILES, message)];
    }
    let mut findings = access(paths, settings);
    match writable(directory) {
        Ok(finding) => {
            findings.push(finding);
            findings.extend(rooms(settings));
        }
        Err(finding) => findings.push(finding),
    }
    findings
}

/// Windows protects a user's directory on its own.
#[cfg(not(unix))]
fn access(paths: &Paths, _settings: &CheckedSettings) -> Vec<Finding> {
    vec![Finding::ok(FILES, format!("{} exists.", paths.qwen_dir().display()))]
}

#[cfg(not(unix))]
fn links_of_others(_paths: &Paths, _settings: &CheckedSettings) -> Vec<Finding> {
    Vec::new()
}

#[cfg(not(unix))]
pub(super) fn is_of_another_user(_paths: &Paths, _path: &Path) -> bool {
    false
}

fn path_findings(paths: &Paths, settings: &CheckedSettings) -> Vec<Finding> {
    let credentials = settings.credentials_file();
    let store = settings.store_file();
    let usage_and_models = [paths.usage(), paths.models()];
    let shared = [credentials.as_ref().map(CredentialsFile::path), store.as_ref().map(StoreFile::path)];
    let mut findings: Vec<Finding> =
        shared.iter().flatten().filter_map(|path| not_a_file(path, NotAFile::at)).collect();
    let locks = [credentials.as_ref().map(CredentialsFile::locks), store.as_ref().map(StoreFile::locks)];
    let own =
        own_files(locks.into_iter().flatten().chain(usage_and_models.iter().map(|path| locks_of(path))));
    findings.extend(usage_and_models.iter().filter_map(|path| not_a_file(path, NotAFile::at)));
    let log = paths.logs().join(DEBUG_LOG);
    findings.extend(own.iter().chain([&log]).filter_map(|path| not_a_file(path, NotAFile::at_own)));
    findings.extend(usage_and_models.iter().filter_map(|path| too_large(FILES, path, MAX_SIZE)));
    findings.extend(shared.into_iter().flatten().filter_map(|path| unchangeable(path, paths.qwen_dir())));
    findings
}

fn own_files(locks: impl Iterator<Item = LockPaths>) -> Vec<PathBuf> {
    locks.flat_map(|locks| [locks.kernel, locks.cli]).collect()
}

fn not_a_file(path: &Path, at: fn(&Path) -> Option<NotAFile>) -> Option<Finding> {
    let found = at(path).map(|found| found.to_string());
    let found = found.or_else(|| leads_in_a_circle(path).then(|| "its links lead in a circle".to_owned()))?;
    let message = format!("{} can't be used: {found}.", path.display());
    Some(Finding::broken(FILES, message, remove(path)))
}

#[cfg(unix)]
fn leads_in_a_circle(path: &Path) -> bool {
    let error = fs::metadata(path).err().and_then(|error| error.raw_os_error());
    path.is_symlink() && error == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// Windows has links, but reports no circles.
#[cfg(not(unix))]
fn leads_in_a_circle(_path: &Path) -> bool {
    false
}

fn too_large(id: &'static str, path: &Path, limit: u64) -> Option<Finding> {
    fs::metadata(path).ok().filter(|found| found.is_file() && found.len() > limit)?;
    let message = format!("{} is larger than {} MiB, so it is not read.", path.display(), limit >> 20);
    Some(Finding::broken(id, message, move_to(path, &free_name(path, ".large"))))
}

fn lock_findings(settings: &CheckedSettings, clock: &Clock) -> Vec<Finding> {
    let credentials = settings.credentials_file().map(|file| file.locks());
    let store = settings.store_file().map(|file| file.locks());
    let locks: Vec<_> = [credentials, store].into_iter().flatten().collect();
    let mut findings: Vec<_> = locks.iter().filter_map(|paths| lock_finding(paths, clock)).collect();
    findings.extend(locks.iter().filter_map(unusable_lock));
    if findings.is_empty() {
        findings.push(Finding::ok(LOCKS, "No lock is held or left behind."));
    }
    findings
}

fn lock_finding(paths: &LockPaths, clock: &Clock) -> Option<Finding> {
    // `path_findings` reports a path that is not a file.
    if NotAFile::at_own(&paths.cli).is_some() {
        return None;
    }
    let shown = paths.cli.display();
    Some(match paths.state(clock) {
        Ok(LockState::Free) => return None,
        Ok(LockState::Held) => Finding::ok(LOCKS, format!("{shown} is held by a running process.")),
        Ok(LockState::Stuck) => Finding::warning(
            LOCKS,
            format!("{shown} is held by a process that makes no progress."),
            "Close OpenCode sessions that hang or are suspended",
        ),
        Ok(LockState::Abandoned) => Finding::broken(
            LOCKS,
            format!("{shown} was left behind by a process that has ended. Token refreshes must wait for it."),
            remove(&paths.cli),
        ),
        Err(error) => Finding::broken(LOCKS, error.message(), remove(&paths.cli)),
    })
}

/// Reports a kernel lock's file that can't be opened.
fn unusable_lock(paths: &LockPaths) -> Option<Finding> {
    let (path, error) = (&paths.kernel, paths.expect_openable().err()?);
    let fix = match Obstacle::to_removal(path) {
        // `path_findings` reports it.
        _ if NotAFile::of(&error).is_some() => return None,
        Some(Obstacle::Marked { path: marked, .. }) => unmark(&marked),
        // A check of modes and owners reports it.
        _ if cfg!(unix) && error.kind() == ErrorKind::PermissionDenied => return None,
        _ => writable_again(path, error.kind()),
    };
    let message =
        format!("{} can't be opened: {error}. Tokens can't be refreshed without it.", path.display());
    Some(Finding::broken(LOCKS, message, fix))
}

fn content_findings(settings: &CheckedSettings, clock: &Clock) -> Vec<Finding> {
    let store = settings.store_file();
    let mut findings: Vec<_> = store.as_ref().map(store_finding).into_iter().collect();
    findings.extend(credentials_finding(settings, clock));
    findings.extend(set_aside(settings));
    findings
}

fn store_finding(store: &StoreFile) -> Finding {
    if let Some(finding) = too_large(STORE, store.path(), MAX_FILE) {
        return finding;
    }
    let shown = store.path().display();
    match store.read() {
        Ok(Stored::Missing) => {
            Finding::ok(STORE, "There is no account store. oauth_creds.json has the only account, if any.")
        }
        Ok(Stored::Usable(document)) => {
            Finding::ok(STORE, format!("{shown} can be read ({} logins).", document.records.len()))
        }
        Ok(Stored::Broken { reason, recovered }) => {
            let readable = recovered.records.len();
            let message = format!(
                "{} {readable} logins in it can still be read and are used. The damaged file is kept under another name.",
                broken(store.path(), reason)
            );
            Finding::broken(STORE, message, ours("accounts"))
        }
        Err(error) => Finding::broken(STORE, error.message(), format!("ls -l {}", quoted(store.path()))),
    }
}

fn credentials_finding(settings: &CheckedSettings, clock: &Clock) -> Option<Finding> {
    let credentials = settings.credentials_file()?;
    let shown = credentials.path().display();
    Some(match credentials.read() {
        Ok(None) => Finding::ok(
            CREDENTIALS,
            format!("There is no {shown}: the qwen CLI is not logged in with OAuth."),
        ),
        Ok(Some(_)) => Finding::ok(CREDENTIALS, format!("{shown} holds a login.")),
        // A check of owners reports it.
        Err(_)
            if settings.paths.as_ref().is_some_and(|paths| is_of_another_user(paths, credentials.path())) =>
        {
            return None;
        }
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
                        "{shown} has no login that the qwen CLI can read. The fix keeps it under another name and writes one of your accounts there."
                    ),
                    ours_about("use", &id),
                ),
                (None, true) => Finding::broken(
                    CREDENTIALS,
                    format!(
                        "{shown} was written by another plugin in a format that the qwen CLI can't read."
                    ),
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
fn set_aside(settings: &CheckedSettings) -> Vec<Finding> {
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
        let advice =
            if holds_accounts { "You can delete it if no account is missing." } else { "You can delete it." };
        let message = format!("{} was moved aside because it could not be read. {advice}", path.display());
        Finding::warning(SET_ASIDE, message, remove(path))
    };
    kept.iter().map(finding).collect()
}
