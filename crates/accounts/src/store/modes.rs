//! File modes: only the owner may open files with tokens.

use std::path::{Path, PathBuf};

/// A file or directory that other users could open.
#[derive(Debug)]
pub struct OpenToOthers {
    pub path: PathBuf,
    mode: u32,
    /// Reason why other users still can.
    failure: Option<String>,
}

impl OpenToOthers {
    /// True if other users could write there.
    pub fn was_writable(&self) -> bool {
        self.mode & 0o022 != 0
    }

    /// True if other users still can open it.
    pub fn is_still_open(&self) -> bool {
        self.failure.is_some()
    }

    pub fn message(&self) -> String {
        let found = format!(
            "{} was open to other users of this machine (mode {:03o})",
            self.path.display(),
            self.mode
        );
        match &self.failure {
            None => {
                format!("{found}, and is private now. If others use this machine, log in again.")
            }
            Some(why) => {
                format!(
                    "{} is open to other users of this machine (mode {:03o}), and {why}. If others use this machine, point QWEN_HOME at another disk and log in there.",
                    self.path.display(),
                    self.mode
                )
            }
        }
    }
}

/// Removes the permissions of other users; `None` if they had none.
pub fn restrict(path: &Path) -> Option<OpenToOthers> {
    imp::restrict(path)
}

#[cfg(unix)]
mod imp {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use qwen_base::safe_open;

    use super::OpenToOthers;
    use crate::store::ownership;

    const OTHERS: u32 = 0o077;
    const STICKY: u32 = 0o1000;

    pub fn restrict(path: &Path) -> Option<OpenToOthers> {
        let is_directory = fs::metadata(path).ok()?.is_dir();
        let opened = if is_directory { File::open(path) } else { safe_open::open(path) };
        // The open file is changed, not the name: another user may put a link there at any time.
        let (file, metadata) = opened.and_then(|file| file.metadata().map(|found| (file, found))).ok()?;
        let mode = metadata.permissions().mode() & 0o7777;
        let is_kept = metadata.is_dir() && is_shared(path, mode);
        if mode & OTHERS == 0 || is_kept || ownership::foreign_owner(path, &metadata).is_some() {
            return None;
        }
        // Permissions are only removed: a read-only file stays read-only.
        let changed = file.set_permissions(Permissions::from_mode(mode & !OTHERS));
        // Some file systems have no modes and still report success.
        let is_closed = file.metadata().is_ok_and(|now| now.permissions().mode() & OTHERS == 0);
        let failure = match changed {
            _ if is_closed => None,
            Err(error) => Some(format!("that can't be changed: {error}")),
            Ok(()) => Some("its file system has no modes".to_owned()),
        };
        Some(OpenToOthers { path: path.to_owned(), mode: mode & 0o777, failure })
    }

    /// `QWEN_HOME` may name a directory that others use too.
    fn is_shared(directory: &Path, mode: u32) -> bool {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        mode & STICKY != 0 || !name.ends_with("qwen")
    }
}

/// Windows protects a user's profile from other users by itself.
#[cfg(not(unix))]
mod imp {
    pub fn restrict(_path: &std::path::Path) -> Option<super::OpenToOthers> {
        None
    }
}

#[cfg(test)]
#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "tests make files as others would")]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn made(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn permissions_of_others_are_removed_and_reported() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join(".qwen");
        let file = directory.join("oauth_creds.json");
        fs::create_dir(&directory).unwrap();
        fs::write(&file, "tokens").unwrap();
        for (path, wide, narrowed) in
            [(&file, 0o644, 0o600), (&file, 0o620, 0o600), (&file, 0o444, 0o400), (&directory, 0o755, 0o700)]
        {
            made(path, wide);
            let told = restrict(path).unwrap();
            assert_eq!((told.path.as_path(), told.was_writable()), (path.as_path(), wide == 0o620));
            assert!(told.message().contains(&format!("(mode {wide:o})")), "{}", told.message());
            assert_eq!(mode(path), narrowed);
            assert!(restrict(path).is_none());
        }
        made(&file, 0o400);
        assert_eq!((restrict(&file).is_none(), mode(&file)), (true, 0o400));
    }

    #[test]
    fn a_shared_directory_keeps_its_mode() {
        let temporary = tempfile::tempdir().unwrap();
        let (team, sticky) = (temporary.path().join("project"), temporary.path().join("tmp-qwen"));
        for (path, wide) in [(&team, 0o775), (&sticky, 0o1777)] {
            fs::create_dir(path).unwrap();
            made(path, wide);
            assert_eq!((restrict(path).is_none(), mode(path)), (true, wide));
        }
        assert!(restrict(&temporary.path().join("nothing")).is_none());
    }
}
