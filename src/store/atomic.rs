//! Replacing a file so that a crash leaves the old one or the new one, whole.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Replaces `path` with `contents`, readable by its owner alone.
///
/// A link is written through: the file it leads to is replaced and the link stays. The data is on disk before the new
/// name is, and the name before this returns.
///
/// # Errors
/// `ERR_QWEN_IO`; the old file is then untouched.
pub fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    let target = follow_links(path)?;
    let directory = target.parent().unwrap_or(Path::new("."));
    create_private_directory(directory)?;
    // A temporary file is created with mode 0600, which the renamed file keeps.
    let mut file = tempfile::Builder::new()
        .prefix(".oauth-")
        .suffix(".tmp")
        .tempfile_in(directory)
        .map_err(|error| Error::io("create a file in", directory, &error))?;
    file.write_all(contents)
        .and_then(|()| file.as_file().sync_all())
        .map_err(|error| Error::io("write", &target, &error))?;
    file.persist(&target).map_err(|failed| Error::io("replace", &target, &failed.error))?;
    sync_directory(directory).map_err(|error| Error::io("sync", directory, &error))
}

/// Creates a directory, and those above it, for its owner alone. One that exists is left as it is.
///
/// # Errors
/// `ERR_QWEN_IO`.
pub fn create_private_directory(directory: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(|error| Error::io("create", directory, &error))
}

/// Where a path leads. The last step may be missing, a dangling link's target included.
fn follow_links(path: &Path) -> Result<PathBuf> {
    // As many as the kernel follows.
    const MAX_LINKS: usize = 40;
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            Ok(next) => target = target.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => return Ok(target),
        }
    }
    let looped = std::io::Error::other("too many symbolic links");
    Err(Error::io("follow", path, &looped))
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Windows can't open a directory to sync it, and writes a rename through its journal.
#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_and_its_directory_are_private() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b/file.json");
        replace(&path, b"one").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_written_through() {
        let temporary = tempfile::tempdir().unwrap();
        let (real, link) =
            (temporary.path().join("dotfiles/creds.json"), temporary.path().join("creds.json"));
        replace(&real, b"old").unwrap();
        symlink("dotfiles/creds.json", &link).unwrap();
        replace(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
    }

    #[test]
    fn a_circle_of_links_is_an_error() {
        let temporary = tempfile::tempdir().unwrap();
        let link = temporary.path().join("creds.json");
        symlink(&link, &link).unwrap();
        assert!(replace(&link, b"x").unwrap_err().message().contains("symbolic links"));
    }

    #[test]
    fn a_failure_leaves_the_old_file() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("directory-in-the-way");
        fs::create_dir_all(path.join("child")).unwrap();
        let error = replace(&path, b"x").unwrap_err();
        assert_eq!(error.path(), Some(path.as_path()));
        assert!(path.join("child").is_dir());
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    }
}
