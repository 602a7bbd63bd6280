//! Checks the files: where they are, access, wrong types at their paths, locks, and contents.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use qwen_accounts::{
    CredentialsFile, Obstacle, REMOVE_MARKS, StoreFile, Stored, atomic, broken,
    file::{self, Contents, MAX_FILE},
    lock::{LockPaths, LockState},
    read_logins,
};
use qwen_base::{Clock, Code, DEBUG_LOG, KernelLock, Paths, safe_open::InPlace};

#[cfg(unix)]
use super::access::access;
use super::finding::{Finding, move_to, ours, quoted, remove};
use super::settings::CheckedSettings;
use crate::shared_file::{MAX_SIZE, locks_of};

pub(super) const FILES: &str = "files";
const FILE_SYSTEM: &str = "file-system";
const LOCKS: &str = "locks";
const STORE: &str = "store";
const CREDENTIALS: &str = "credentials";
const SET_ASIDE: &str = "set-aside";

pub fn check(paths: &Paths, settings: &CheckedSettings, clock: &Clock) -> Vec<Finding> {
    let mut findings = directory_findings(paths, settings);
    findings.extend(path_findings(paths, settings));
    findings.extend(lock_findings(settings, clock));
    findings.extend(content_findings(settings, clock));
    findings
}

fn directory_findings(paths: &Paths, settings: &CheckedSettings) -> Vec<Finding> {
    let directory = paths.qwen_dir();
    if let (false, Ok(target)) = (directory.exists(), fs::read_link(directory)) {
        let message =
            format!("{} is a link to {}, which does not exist.", directory.display(), target.display());
        let fix = format!("mkdir -p {}", quoted(&directory.parent().unwrap_or(directory).join(target)));
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
    findings.push(writable(directory));
    findings
}

/// Windows protects a user's directory on its own.
#[cfg(not(unix))]
fn access(paths: &Paths, _settings: &CheckedSettings) -> Vec<Finding> {
    vec![Finding::ok(FILES, format!("{} exists.", paths.qwen_dir().display()))]
}

/// Creates an unnamed file, which is gone when it is closed.
fn writable(directory: &Path) -> Finding {
    let written = tempfile::tempfile_in(directory).and_then(|mut file| {
        file.write_all(&[0; 4096])?;
        file.sync_all()?;
        Ok(file)
    });
    let shown = directory.display();
    match written {
        Err(error) => Finding::broken(
            FILE_SYSTEM,
            format!("{shown} is not writable: {error}. Refreshed tokens would be lost."),
            "Free some disk space or make the directory writable, or point QWEN_HOME at another",
        ),
        Ok(file) => locking(directory, KernelLock::new(file).try_lock().map(drop)),
    }
}

fn locking(directory: &Path, locked: std::io::Result<()>) -> Finding {
    let shown = directory.display();
    match locked {
        Err(error) if KernelLock::is_unsupported(&error) => Finding::warning(
            FILE_SYSTEM,
            format!(
                "The file system of {shown} has no locks (flock). Processes are only kept apart by the qwen CLI's lock files."
            ),
            format!("Point QWEN_HOME at a local file system, then log in there: {}", ours("login")),
        ),
        Err(error) => Finding::broken(
            FILE_SYSTEM,
            format!("A file in {shown} can't be locked: {error}."),
            "Point QWEN_HOME at a local file system",
        ),
        Ok(()) => Finding::ok(FILE_SYSTEM, format!("{shown} is writable and supports locks.")),
    }
}

fn path_findings(paths: &Paths, settings: &CheckedSettings) -> Vec<Finding> {
    let credentials = settings.credentials_file();
    let store = settings.store_file();
    let usage_and_models = [paths.usage(), paths.models()];
    let shared = [credentials.as_ref().map(CredentialsFile::path), store.as_ref().map(StoreFile::path)];
    let mut findings: Vec<Finding> =
        shared.iter().flatten().filter_map(|path| in_place(path, InPlace::at)).collect();
    let locks = [credentials.as_ref().map(CredentialsFile::locks), store.as_ref().map(StoreFile::locks)];
    let own =
        own_files(locks.into_iter().flatten().chain(usage_and_models.iter().map(|path| locks_of(path))));
    findings.extend(usage_and_models.iter().filter_map(|path| in_place(path, InPlace::at)));
    let log = paths.logs().join(DEBUG_LOG);
    findings.extend(own.iter().chain([&log]).filter_map(|path| in_place(path, InPlace::at_own)));
    findings.extend(usage_and_models.iter().filter_map(|path| too_large(FILES, path, MAX_SIZE)));
    findings.extend(shared.into_iter().flatten().filter_map(replaceable));
    findings
}

fn own_files(locks: impl Iterator<Item = LockPaths>) -> Vec<PathBuf> {
    locks.flat_map(|locks| [locks.kernel, locks.cli]).collect()
}

fn in_place(path: &Path, at: fn(&Path) -> Option<InPlace>) -> Option<Finding> {
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
    let mut aside = path.as_os_str().to_owned();
    aside.push(".large");
    Some(Finding::broken(id, message, move_to(path, Path::new(&aside))))
}

/// Checks if a write can replace the file.
fn replaceable(path: &Path) -> Option<Finding> {
    if !path.is_file() {
        return None;
    }
    let target = atomic::follow_links(path).ok()?;
    Obstacle::to(&target)
        .map(|obstacle| unchangeable(&target, &obstacle))
        .or_else(|| unwritable_target(path, &target))
}

/// Creates an unnamed file in the directory of the link's target. It is gone when it is closed.
fn unwritable_target(path: &Path, target: &Path) -> Option<Finding> {
    let directory = target.parent().filter(|_| target != path)?;
    let error = tempfile::tempfile_in(directory).err()?;
    let message = format!(
        "{} is a link to {}, which can't be replaced: {error}. Refreshed tokens only go to the account store, and the qwen CLI must log in again.",
        path.display(),
        target.display()
    );
    Some(Finding::warning(
        FILE_SYSTEM,
        message,
        format!("cp --remove-destination {0} {1}", quoted(target), quoted(path)),
    ))
}

fn unchangeable(target: &Path, obstacle: &Obstacle) -> Finding {
    let shown = target.display();
    match obstacle {
        Obstacle::Marked { path, mark } => Finding::broken(
            FILE_SYSTEM,
            format!("{} is {mark}, so refreshed tokens can't be written to {shown}.", path.display()),
            format!("{REMOVE_MARKS} {}", quoted(path)),
        ),
        Obstacle::Mount => {
            let message = format!(
                "{shown} is its own mount and can't be replaced. Tokens are written in place: a crash can leave them incomplete, and processes outside of this container don't see the locks."
            );
            Finding::warning(FILE_SYSTEM, message, "Mount its directory instead of the file")
        }
    }
}

fn lock_findings(settings: &CheckedSettings, clock: &Clock) -> Vec<Finding> {
    let credentials = settings.credentials_file().map(|file| file.locks());
    let store = settings.store_file().map(|file| file.locks());
    let mut findings: Vec<_> =
        [credentials, store].into_iter().flatten().filter_map(|paths| lock_finding(&paths, clock)).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(LOCKS, "No lock is held or left behind."));
    }
    findings
}

fn lock_finding(paths: &LockPaths, clock: &Clock) -> Option<Finding> {
    // Another check reports it.
    if InPlace::at_own(&paths.cli).is_some() {
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
                    ours(&format!("use {id}")),
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

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::super::finding::FindingState;
    use super::*;

    #[test]
    fn a_file_system_without_locks_gives_a_warning() {
        let directory = Path::new("/net/home/.qwen");
        let unsupported = std::io::Error::from(std::io::ErrorKind::Unsupported);
        let finding = locking(directory, Err(unsupported));
        assert_eq!(finding.state, FindingState::Warning);
        assert!(finding.message.contains("flock") && finding.fix.unwrap().contains("QWEN_HOME"));
        let other = std::io::Error::other("broken");
        assert_eq!(locking(directory, Err(other)).state, FindingState::Broken);
        assert_eq!(locking(directory, Ok(())).state, FindingState::Ok);
    }
}
