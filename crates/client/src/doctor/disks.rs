//! Checks that new tokens can be written: space, marks, mounts, and locks of the file system.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use qwen_accounts::{Obstacle, StoreFile, Stored, atomic, file, lock::LockPaths, mount_point};
use qwen_base::shell::{as_root, path as quoted};
use qwen_base::{Error, KernelLock};

use super::files::is_of_another_user;
use super::finding::{Finding, ours, unmark};
use super::removal::{own_copy, remove};
use super::settings::CheckedSettings;

pub(super) const FILE_SYSTEM: &str = "file-system";

/// Checks that the directory can be written, with an unnamed file that disappears when it is closed. Fails with a finding.
pub(super) fn writable(directory: &Path) -> Result<Finding, Finding> {
    let shown = directory.display();
    if let Some(Obstacle::Marked { mark, .. }) = Obstacle::within(directory) {
        let message = format!("{shown} is {mark}, so refreshed tokens can't be written there.");
        return Err(Finding::broken(FILE_SYSTEM, message, unmark(directory)));
    }
    let written = tempfile::tempfile_in(directory).and_then(|mut file| {
        file.write_all(&[0; 4096])?;
        file.sync_all()?;
        Ok(file)
    });
    let file = written.map_err(|error| {
        let message = format!("{shown} is not writable: {error}. Refreshed tokens would be lost.");
        Finding::broken(FILE_SYSTEM, message, writable_again(directory, error.kind()))
    })?;
    Ok(locking(directory, KernelLock::new(file).try_lock().map(drop)))
}

/// Returns how a directory or file becomes writable after this error.
pub(super) fn writable_again(path: &Path, error: ErrorKind) -> String {
    let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match (error, mount_point(&place)) {
        (ErrorKind::ReadOnlyFilesystem, Some(mount)) => {
            as_root(&format!("mount -o remount,rw {}", quoted(mount)))
        }
        (ErrorKind::StorageFull | ErrorKind::QuotaExceeded, _) => {
            "Free some disk space, or point QWEN_HOME at another disk".to_owned()
        }
        _ => "Make the directory writable, or point QWEN_HOME at another".to_owned(),
    }
}

/// Reserves space for new tokens, as a refresh and then a login do, and gives it back.
pub(super) fn rooms(settings: &CheckedSettings) -> Vec<Finding> {
    let (Some(credentials), Some(store)) = (settings.credentials_file(), settings.store_file()) else {
        return Vec::new();
    };
    // Other checks report obstacles, huge files and files of others. A missing directory is not created.
    let is_free = |path: &Path| {
        let target = atomic::follow_links(path).ok();
        let is_reported = settings.paths.as_ref().is_some_and(|paths| is_of_another_user(paths, path));
        let is_in_directory =
            !is_reported && target.is_some_and(|target| target.parent().is_some_and(Path::is_dir));
        is_in_directory && Obstacle::to(path).is_none() && file::expect_size(path).is_ok()
    };
    // They stand for the locks that a refresh holds meanwhile.
    let locks = placeholders(&credentials.locks());
    let own =
        is_free(credentials.path()).then(|| locks.as_ref().map_err(Error::clone).and(credentials.reserve()));
    let beside = is_free(store.path()).then(|| store.reserve());
    let found = match (own, beside) {
        (Some(Err(error)), Some(Err(other)))
            if room_again(credentials.path(), &error) != room_again(store.path(), &other) =>
        {
            return vec![no_room(credentials.path(), &error, false), no_room(store.path(), &other, false)];
        }
        (Some(Err(error)), beside) => {
            // A login needs both files.
            let is_in_store = matches!(beside, Some(Ok(_))) && credentials.path().exists();
            no_room(credentials.path(), &error, is_in_store)
        }
        (None, Some(Err(error))) => no_room(store.path(), &error, false),
        // A refresh of the credentials file needs no other space; a login does.
        (Some(Ok(room)), Some(Err(error))) => {
            drop(room);
            match store.reserve() {
                Err(error) if !credentials.path().exists() => no_room(store.path(), &error, false),
                _ => no_room_beside(&store, &error),
            }
        }
        _ => return Vec::new(),
    };
    vec![found]
}

/// Creates unnamed files in the place of the lock files of a refresh.
fn placeholders(locks: &LockPaths) -> Result<Vec<File>, Error> {
    let directory = locks.cli.parent().unwrap_or(&locks.cli);
    let placeholder = |contents: &[u8]| {
        let mut file = tempfile::tempfile_in(directory)?;
        file.write_all(contents).map(|()| file)
    };
    let kernel = (!locks.kernel.exists()).then(|| placeholder(b""));
    let made: io::Result<Vec<_>> = kernel.into_iter().chain([placeholder(b"lock")]).collect();
    made.map_err(|error| Error::io("create a lock in", directory, error))
}

/// Reports a file that can't be replaced by new tokens. `is_in_store` is true if they can be saved in the store.
fn no_room(path: &Path, error: &Error, is_in_store: bool) -> Finding {
    const ONLY_IN_STORE: &str =
        "Refreshed tokens only go to the account store, and the qwen CLI must log in again.";
    let shown = path.display();
    if is_in_store {
        let message = format!("{shown} can't be replaced. {ONLY_IN_STORE} {}", error.message());
        return Finding::warning(FILE_SYSTEM, message, room_again(path, error));
    }
    let message = format!("New tokens can't be saved in {shown}. {}", error.message());
    Finding::broken(FILE_SYSTEM, message, room_again(path, error))
}

/// Reports a store that can't be written although the credentials file can.
fn no_room_beside(store: &StoreFile, error: &Error) -> Finding {
    let fix = room_again(store.path(), error);
    let has_others = store.read().is_ok_and(|stored| match stored {
        Stored::Usable(document) => {
            document.records.iter().any(|record| Some(record.id()) != document.linked_id())
        }
        Stored::Missing | Stored::Broken { .. } => false,
    });
    if has_others {
        let message = format!("Only the login of oauth_creds.json can be refreshed. {}", error.message());
        return Finding::broken(FILE_SYSTEM, message, fix);
    }
    let message = format!("Tokens can be refreshed, but no further login can be saved. {}", error.message());
    Finding::warning(FILE_SYSTEM, message, fix)
}

fn room_again(path: &Path, error: &Error) -> String {
    let target = atomic::follow_links(path).unwrap_or_else(|_| path.to_owned());
    if target.parent() != path.parent() {
        return if path.exists() { own_copy(path) } else { remove(path) };
    }
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let kind = cause.map_or(ErrorKind::Other, io::Error::kind);
    writable_again(path.parent().unwrap_or(path), kind)
}

fn locking(directory: &Path, locked: io::Result<()>) -> Finding {
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

/// Reports a file that can't be replaced.
pub(super) fn unchangeable(path: &Path, qwen_dir: &Path) -> Option<Finding> {
    if !path.is_file() {
        return None;
    }
    let target = atomic::follow_links(path).ok()?;
    let obstacle = Obstacle::to(&target)?;
    let is_writable = obstacle.expect_writable_file(&target).is_ok();
    let is_mount = obstacle == Obstacle::Mount;
    let (place, why, fix) = match obstacle {
        // Another check reports the directory.
        Obstacle::Marked { path: marked, .. } if marked == qwen_dir => return None,
        Obstacle::Marked { path: marked, mark } => {
            let fix = unmark(&marked);
            (marked, mark.to_string(), fix)
        }
        Obstacle::Mount => {
            let fix = if is_writable {
                "Mount its directory instead of the file".to_owned()
            } else {
                writable_again(&target, ErrorKind::ReadOnlyFilesystem)
            };
            (target.clone(), "its own mount".to_owned(), fix)
        }
    };
    let file = if place == target { "it".to_owned() } else { target.display().to_string() };
    let place = place.display();
    if !is_writable {
        let message = format!("{place} is {why}, so refreshed tokens can't be written to {file}.");
        return Some(Finding::broken(FILE_SYSTEM, message, fix));
    }
    let unseen = if is_mount { ", and processes outside of this container don't see the locks" } else { "" };
    let message = format!(
        "{place} is {why}, so {file} can't be replaced. Tokens are written in place: a crash can leave them incomplete{unseen}."
    );
    Some(Finding::warning(FILE_SYSTEM, message, fix))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::super::finding::FindingState;
    use super::*;

    #[test]
    fn a_file_system_without_locks_gives_a_warning() {
        let directory = Path::new("/net/home/.qwen");
        let unsupported = io::Error::from(ErrorKind::Unsupported);
        let finding = locking(directory, Err(unsupported));
        assert_eq!(finding.state, FindingState::Warning);
        assert!(finding.message.contains("flock") && finding.fix.unwrap().contains("QWEN_HOME"));
        let other = io::Error::other("broken");
        assert_eq!(locking(directory, Err(other)).state, FindingState::Broken);
        assert_eq!(locking(directory, Ok(())).state, FindingState::Ok);
    }
}
