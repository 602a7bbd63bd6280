//! Checks owners and permissions of files on Unix.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use qwen_base::Paths;
use qwen_base::shell::{as_root, path as quoted};

use rustix::fs::Access;

use super::files::FILES;
use super::finding::{Finding, unmarked};
use super::removal::{own_copy, remove};
use super::settings::CheckedSettings;

const ROOT: u32 = 0;

/// Returns files that may contain a secret.
fn secret_files(paths: &Paths, settings: &CheckedSettings) -> Vec<PathBuf> {
    let store = settings.store.as_ref().map(|(path, _)| path.clone());
    let stores = [paths.qwen_dir().to_owned()]
        .into_iter()
        .chain(store.as_deref().and_then(Path::parent).map(Path::to_owned));
    let mut files: Vec<PathBuf> = Vec::new();
    for directory in stores {
        files.extend(entries(&directory, |name| {
            let is_ours = name.starts_with("oauth_") || name.starts_with("opencode_qwen_");
            is_ours && [".json", ".flock"].iter().any(|part| name.contains(part))
        }));
    }
    files.extend(store.filter(|path| path.is_file()));
    files.extend(Some(paths.legacy_token()).filter(|path| path.is_file()));
    files.extend(entries(&paths.logs(), |_| true));
    files.sort();
    files.dedup();
    files
}

fn entries(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(move |entry| is_wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
}

/// Returns the user whose files these should be.
fn owner(paths: &Paths) -> u32 {
    let user = rustix::process::geteuid();
    // Root works for the directory's owner, in a container or with sudo.
    match fs::metadata(paths.qwen_dir()) {
        Ok(directory) if user.is_root() => directory.uid(),
        _ => user.as_raw(),
    }
}

/// True for a file that [`access`] reports as another user's. Other advice about it would be wrong.
pub(super) fn is_of_another_user(paths: &Paths, path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.uid() != owner(paths))
}

/// Reports links that lead away from the files of their owner. No command may follow them: that user could choose the file.
pub(super) fn links_of_others(paths: &Paths, settings: &CheckedSettings) -> Vec<Finding> {
    let files = secret_files(paths, settings);
    let places = files.iter().map(PathBuf::as_path).chain([paths.qwen_dir()]);
    // The place of the home is the administrator's choice.
    let below_home = |path: &&Path| !paths.home().starts_with(path);
    let mut findings: Vec<_> = places
        .filter_map(|path| path.ancestors().take_while(below_home).find_map(link_of_another_user))
        .collect();
    findings.dedup();
    findings
}

pub(super) fn access(paths: &Paths, settings: &CheckedSettings) -> Vec<Finding> {
    let owner = owner(paths);
    let files = secret_files(paths, settings);
    let directory = paths.qwen_dir();
    let mut findings = Vec::new();
    for path in std::iter::once(directory).chain(files.iter().map(PathBuf::as_path)) {
        let Ok(metadata) = fs::metadata(path) else { continue };
        if metadata.uid() != owner {
            findings.push(foreign(path, &metadata, owner));
            // Its mode is its owner's business, unless the file itself can be handed over.
            if path.is_symlink() {
                continue;
            }
        }
        findings.extend(mode(path, &metadata));
    }
    if findings.is_empty() {
        let message =
            format!("{} and {} files in and beside it belong only to you.", directory.display(), files.len());
        findings.push(Finding::ok(FILES, message));
    }
    findings
}

fn link_of_another_user(path: &Path) -> Option<Finding> {
    let link = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_symlink)?.uid();
    let target = fs::metadata(path).ok()?.uid();
    let user = rustix::process::geteuid().as_raw();
    // A link to a user's own files, such as that of a home, leads nowhere else.
    if [target, ROOT, user].contains(&link) || (target == user && user != ROOT) {
        return None;
    }
    let message = format!(
        "{} is a link of another user (uid {link}) to a file or directory of uid {target}.",
        path.display()
    );
    Some(Finding::broken(FILES, message, remove(path)))
}

/// Reports a file of another user. Only a file with one name is surely the one that belongs in this place.
fn foreign(path: &Path, metadata: &fs::Metadata, owner: u32) -> Finding {
    let (shown, uid) = (path.display(), metadata.uid());
    let is_elsewhere = path.is_symlink() || (metadata.is_file() && metadata.nlink() > 1);
    if !is_elsewhere {
        let message = format!("{shown} belongs to another user (uid {uid}).");
        let fix = unmarked(path, as_root(&format!("chown -h {owner} {}", quoted(path))));
        return Finding::broken(FILES, message, fix);
    }
    let message = format!("{shown} leads to a file of another user (uid {uid}).");
    let is_own = !rustix::process::geteuid().is_root() && fs::File::open(path).is_ok();
    Finding::broken(FILES, message, if is_own && metadata.is_file() { own_copy(path) } else { remove(path) })
}

fn mode(path: &Path, metadata: &fs::Metadata) -> Option<Finding> {
    const OTHERS: u32 = 0o077;
    const OTHERS_WRITE: u32 = 0o022;
    let mode = metadata.permissions().mode() & 0o777;
    let shown = path.display();
    if metadata.is_file() {
        let is_read_only = rustix::fs::access(path, Access::WRITE_OK) == Err(rustix::io::Errno::ROFS);
        let fix = if path.is_symlink() && is_read_only {
            own_copy(path)
        } else {
            unmarked(path, format!("chmod 600 {}", quoted(path)))
        };
        // Lock files contain no secret.
        let is_secret = path.extension().is_none_or(|extension| extension != "flock");
        return if is_secret && mode & OTHERS != 0 {
            Some(Finding::broken(
                FILES,
                format!("{shown} can be read or written by others (mode {mode:03o})."),
                fix,
            ))
        } else if mode & 0o600 != 0o600 {
            Some(Finding::broken(FILES, format!("{shown} can't be read and written (mode {mode:03o})."), fix))
        } else {
            None
        };
    }
    let fix = unmarked(path, format!("chmod 700 {}", quoted(path)));
    if mode & OTHERS_WRITE != 0 || mode & 0o700 != 0o700 {
        Some(Finding::broken(FILES, format!("{shown} has the wrong mode ({mode:03o})."), fix))
    } else if mode & OTHERS != 0 {
        Some(Finding::warning(FILES, format!("{shown} can be listed by others (mode {mode:03o})."), fix))
    } else {
        None
    }
}
