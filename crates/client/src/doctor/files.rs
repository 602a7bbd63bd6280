//! Checks access to the files, and if the directory can hold them.

use std::io::Write as _;
use std::path::Path;

use qwen_base::{KernelLock, Paths};

#[cfg(unix)]
use super::access::access;
use super::finding::{Finding, ours, quoted};
use super::settings::Settings;

pub(super) const MODES: &str = "files";
const PLACE: &str = "file-system";

pub fn check(paths: &Paths, settings: &Settings) -> Vec<Finding> {
    let directory = paths.qwen_dir();
    if let (false, Ok(target)) = (directory.exists(), std::fs::read_link(directory)) {
        let message =
            format!("{} is a link to {}, where there is nothing.", directory.display(), target.display());
        let fix = format!("mkdir -p {}", quoted(&directory.parent().unwrap_or(directory).join(target)));
        return vec![Finding::broken(MODES, message, fix)];
    }
    if !directory.exists() {
        let above = directory.ancestors().skip(1).find(|above| above.exists());
        if let Some(error) = above.and_then(|above| tempfile::tempfile_in(above).err()) {
            let message = format!("{} does not exist and can't be made: {error}.", directory.display());
            return vec![Finding::broken(
                MODES,
                message,
                "Point QWEN_HOME at a directory that can be written to",
            )];
        }
        let message = format!("{} does not exist yet; a login makes it.", directory.display());
        return vec![Finding::ok(MODES, message)];
    }
    let mut findings = access(paths, settings);
    findings.push(place(directory));
    findings
}

/// Windows protects a user's directory on its own.
#[cfg(not(unix))]
fn access(paths: &Paths, _settings: &Settings) -> Vec<Finding> {
    vec![Finding::ok(MODES, format!("{} is there.", paths.qwen_dir().display()))]
}

/// Creates an unnamed file, which is gone when it is closed.
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
        Ok(file) => locking(directory, KernelLock::new(file).try_lock().map(drop)),
    }
}

fn locking(directory: &Path, locked: std::io::Result<()>) -> Finding {
    let shown = directory.display();
    match locked {
        Err(error) if KernelLock::is_unsupported(&error) => Finding::warning(
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
    fn a_file_system_without_locks_gives_a_warning() {
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
