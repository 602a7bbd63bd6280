//! Checks for wrong file types at the paths of this package's files, and for files that can't be replaced.

use std::path::{Path, PathBuf};

use qwen_accounts::{CredentialsFile, StoreFile, atomic, lock::LockPaths};
use qwen_base::{Paths, safe_open::InPlace};

use super::finding::{Finding, quoted, remove};
use super::settings::Settings;
use crate::usage::file::UsageFile;

const IN_PLACE: &str = "files";
const REPLACEABLE: &str = "file-system";

pub fn check(paths: &Paths, settings: &Settings) -> Vec<Finding> {
    let credentials = settings.credentials_file();
    let store = settings.store_file();
    let usage = UsageFile::new(paths.usage());
    let shared = [credentials.as_ref().map(CredentialsFile::path), store.as_ref().map(StoreFile::path)];
    let mut findings: Vec<Finding> =
        shared.iter().flatten().filter_map(|path| in_place(path, InPlace::at)).collect();
    let locks = [credentials.as_ref().map(CredentialsFile::locks), store.as_ref().map(StoreFile::locks)];
    let own = own_files(locks.into_iter().flatten().chain([usage.locks()]));
    findings.extend(in_place(usage.path(), InPlace::at));
    findings.extend(own.iter().filter_map(|path| in_place(path, InPlace::at_own)));
    findings.extend(shared.into_iter().flatten().filter_map(replaceable));
    findings
}

fn own_files(locks: impl Iterator<Item = LockPaths>) -> Vec<PathBuf> {
    locks.flat_map(|locks| [locks.kernel, locks.cli]).collect()
}

fn in_place(path: &Path, at: fn(&Path) -> Option<InPlace>) -> Option<Finding> {
    let found = at(path)?;
    let message = format!("{} can't be used: {found}.", path.display());
    Some(Finding::broken(IN_PLACE, message, remove(path)))
}

/// Checks if a write can replace the file.
fn replaceable(path: &Path) -> Option<Finding> {
    if !path.is_file() {
        return None;
    }
    let target = atomic::follow_links(path).ok()?;
    fixed(&target).or_else(|| beside(path, &target))
}

/// Creates an unnamed file in the directory of the link's target. It is gone when it is closed.
fn beside(path: &Path, target: &Path) -> Option<Finding> {
    let directory = target.parent().filter(|_| target != path)?;
    let error = tempfile::tempfile_in(directory).err()?;
    let message = format!(
        "{} is a link to {}, which can't be replaced: {error}. Refreshed tokens go to the account store alone, and the qwen CLI has to log in again.",
        path.display(),
        target.display()
    );
    Some(Finding::warning(
        REPLACEABLE,
        message,
        format!("cp --remove-destination {0} {1}", quoted(target), quoted(path)),
    ))
}

#[cfg(target_os = "linux")]
fn fixed(target: &Path) -> Option<Finding> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let attributes = |path: &Path| {
        let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).ok();
        found.map_or(StatxAttributes::empty(), |found| found.stx_attributes)
    };
    let shown = target.display();
    let unchangeable = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    for path in [Some(target), target.parent()].into_iter().flatten() {
        if attributes(path).intersects(unchangeable) {
            let message =
                format!("{} is immutable, so refreshed tokens can't be kept in {shown}.", path.display());
            return Some(Finding::broken(REPLACEABLE, message, format!("sudo chattr -ia {}", quoted(path))));
        }
    }
    attributes(target).contains(StatxAttributes::MOUNT_ROOT).then(|| {
        let message = format!(
            "{shown} is a mount of its own, which can't be replaced. Tokens are written into it, which a crash can leave torn, and processes outside of this container don't see its locks."
        );
        Finding::warning(REPLACEABLE, message, "Mount the directory that it is in, and not the file")
    })
}

#[cfg(not(target_os = "linux"))]
fn fixed(_target: &Path) -> Option<Finding> {
    None
}
