//! Who can read and write the files, and whether the place is one where they can be kept.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::finding::{Finding, ours, quoted};
use super::settings::Settings;
use crate::paths::Paths;
use crate::store::lock;

const MODES: &str = "files";
const PLACE: &str = "file-system";

pub fn check(paths: &Paths, settings: &Settings) -> Vec<Finding> {
    let directory = paths.qwen_dir();
    if !directory.exists() {
        let message = format!("{} does not exist yet; a login makes it.", directory.display());
        return vec![Finding::ok(MODES, message)];
    }
    let mut findings = access(paths, settings);
    findings.push(place(directory));
    findings
}

/// Files that hold, or may hold, a secret.
#[cfg(unix)]
fn secret_files(paths: &Paths, settings: &Settings) -> Vec<PathBuf> {
    let store = settings.store.as_ref().map(|(path, _)| path.clone());
    let stores = [paths.qwen_dir().to_owned()]
        .into_iter()
        .chain(store.as_deref().and_then(Path::parent).map(Path::to_owned));
    let mut files: Vec<PathBuf> = Vec::new();
    for directory in stores {
        files.extend(entries(&directory, |name| {
            (name.starts_with("oauth_") || name.starts_with("opencode_qwen_")) && name.contains(".json")
        }));
    }
    files.extend(store.filter(|path| path.exists()));
    files.extend(Some(paths.legacy_token()).filter(|path| path.exists()));
    files.extend(entries(&paths.logs(), |_| true));
    files.sort();
    files.dedup();
    files
}

#[cfg(unix)]
fn entries(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(move |entry| is_wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
}

#[cfg(unix)]
fn access(paths: &Paths, settings: &Settings) -> Vec<Finding> {
    use std::os::unix::fs::MetadataExt as _;
    let user = rustix::process::geteuid().as_raw();
    let files = secret_files(paths, settings);
    let directory = paths.qwen_dir();
    let mut findings = Vec::new();
    for path in std::iter::once(directory).chain(files.iter().map(PathBuf::as_path)) {
        let Ok(metadata) = fs::metadata(path) else { continue };
        if metadata.uid() != user {
            let message = format!("{} belongs to another user (uid {}).", path.display(), metadata.uid());
            let sudo = if user == 0 { "" } else { "sudo " };
            findings.push(Finding::broken(MODES, message, format!("{sudo}chown {user} {}", quoted(path))));
        }
        findings.extend(mode(path, &metadata));
    }
    if findings.is_empty() {
        let message =
            format!("{} and {} files in it and beside it are yours alone.", directory.display(), files.len());
        findings.push(Finding::ok(MODES, message));
    }
    findings
}

#[cfg(unix)]
fn mode(path: &Path, metadata: &fs::Metadata) -> Option<Finding> {
    use std::os::unix::fs::PermissionsExt as _;
    const OTHERS: u32 = 0o077;
    const OTHERS_WRITE: u32 = 0o022;
    let mode = metadata.permissions().mode() & 0o777;
    let shown = path.display();
    if metadata.is_file() {
        let fix = format!("chmod 600 {}", quoted(path));
        return if mode & OTHERS != 0 {
            Some(Finding::broken(
                MODES,
                format!("{shown} can be read or written by others (mode {mode:03o})."),
                fix,
            ))
        } else if mode & 0o600 != 0o600 {
            Some(Finding::broken(MODES, format!("{shown} can't be read and written (mode {mode:03o})."), fix))
        } else {
            None
        };
    }
    let fix = format!("chmod 700 {}", quoted(path));
    if mode & OTHERS_WRITE != 0 || mode & 0o700 != 0o700 {
        Some(Finding::broken(MODES, format!("{shown} has the wrong mode ({mode:03o})."), fix))
    } else if mode & OTHERS != 0 {
        Some(Finding::warning(MODES, format!("{shown} can be looked into by others (mode {mode:03o})."), fix))
    } else {
        None
    }
}

/// Windows keeps a user's directory from others by itself.
#[cfg(not(unix))]
fn access(paths: &Paths, _settings: &Settings) -> Vec<Finding> {
    vec![Finding::ok(MODES, format!("{} is there.", paths.qwen_dir().display()))]
}

/// Tries a file that has no name, and is gone when it is closed.
fn place(directory: &Path) -> Finding {
    let written = tempfile::tempfile_in(directory).and_then(|mut file| {
        file.write_all(&[0; 4096])?;
        file.sync_all()?;
        Ok(file)
    });
    let shown = directory.display();
    match written {
        Err(error) => Finding::broken(
            PLACE,
            format!("Nothing can be written to {shown}: {error}. Refreshed tokens would be lost."),
            "Free some disk space or make the directory writable, or point QWEN_HOME at another",
        ),
        Ok(file) => locking(directory, fd_lock::RwLock::new(file).try_write().map(drop)),
    }
}

fn locking(directory: &Path, locked: std::io::Result<()>) -> Finding {
    let shown = directory.display();
    match locked {
        Err(error) if lock::is_unsupported(&error) => Finding::warning(
            PLACE,
            format!(
                "The file system of {shown} has no locks (flock). Processes keep apart by the qwen CLI's lock files alone."
            ),
            format!("Point QWEN_HOME at a local file system, then log in there: {}", ours("login")),
        ),
        Err(error) => Finding::broken(
            PLACE,
            format!("A file in {shown} can't be locked: {error}."),
            "Point QWEN_HOME at a local file system",
        ),
        Ok(()) => Finding::ok(PLACE, format!("{shown} can be written to, and locked.")),
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_file_system_without_locks_is_a_warning() {
        let directory = Path::new("/net/home/.qwen");
        let unsupported = std::io::Error::from(std::io::ErrorKind::Unsupported);
        let finding = locking(directory, Err(unsupported));
        assert_eq!(finding.state, State::Warning);
        assert!(finding.message.contains("flock") && finding.fix.unwrap().contains("QWEN_HOME"));
        let other = std::io::Error::other("broken");
        assert_eq!(locking(directory, Err(other)).state, State::Broken);
        assert_eq!(locking(directory, Ok(())).state, State::Ok);
    }
}
