//! Replacing a file so that a crash leaves the old one or the new one, whole.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::fault::{self, Point, Safeguard};
use crate::safe_open;

/// What the names of temporary files end with.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// Replaces `path` with `contents`, readable by its owner alone.
///
/// A link is written through: the file it leads to is replaced and the link stays. The data is on disk before the new
/// name is, and the name before this returns.
///
/// # Errors
/// `ERR_QWEN_IO`; the old file is then untouched.
pub fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    replace_if(path, contents, || true).map(drop)
}

/// As [`replace`], if `still` agrees. It is asked when all but the renaming is done, and says what is returned.
///
/// # Errors
/// `ERR_QWEN_IO`; the old file is then untouched.
pub fn replace_if(path: &Path, contents: &[u8], still: impl FnOnce() -> bool) -> Result<bool> {
    let target = follow_links(path)?;
    let directory = target.parent().unwrap_or(Path::new("."));
    create_private_directory(directory)?;
    if fault::omits(Safeguard::Replacement) {
        let written = File::create(&target).and_then(|mut file| write_all(&mut file, contents));
        return written.map(|()| true).map_err(|error| Error::io("write", &target, &error));
    }
    // A temporary file is created with mode 0600, which the renamed file keeps.
    let mut file = tempfile::Builder::new()
        .prefix(&format!("{}{}.", temporary_prefix(&target), fingerprint(&target)))
        .suffix(TEMPORARY_SUFFIX)
        .tempfile_in(directory)
        .map_err(|error| Error::io("create a file in", directory, &error))?;
    fault::reached(Point::TemporaryCreated);
    write_all(file.as_file_mut(), contents)
        .and_then(|()| sync_data(file.as_file()))
        .map_err(|error| Error::io("write", &target, &error))?;
    fault::reached(Point::DataSynced);
    if !still() {
        return Ok(false);
    }
    persist(file, &target).map_err(|error| Error::io("replace", &target, &error))?;
    fault::reached(Point::Renamed);
    sync_directory(directory).map_err(|error| Error::io("sync", directory, &error))?;
    fault::reached(Point::DirectorySynced);
    Ok(true)
}

/// Windows replaces no file that somebody has open just then, as a reader or a virus scanner has for a moment.
fn persist(mut file: NamedTempFile, target: &Path) -> std::io::Result<()> {
    let mut tries_left = if cfg!(windows) { 100 } else { 0 };
    loop {
        match file.persist(target) {
            Ok(_) => return Ok(()),
            Err(failed) if tries_left > 0 && failed.error.kind() == ErrorKind::PermissionDenied => {
                tries_left -= 1;
                file = failed.file;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(failed) => return Err(failed.error),
        }
    }
}

/// Whether a write of `path` died before it was renamed.
#[must_use]
pub fn is_interrupted(path: &Path) -> bool {
    follow_links(path).is_ok_and(|target| !leftovers(&target).is_empty())
}

/// Ends the writes of `path` that died before they were renamed, for whoever holds the kernel lock on it and so knows
/// that they are dead. A whole JSON file takes the place of what it was to replace, if that is still there: it may hold
/// tokens that are nowhere else. What else is left is removed.
///
/// What can't be done now is left for the next time.
pub fn complete(path: &Path) {
    let Ok(target) = follow_links(path) else { return };
    let leftovers = leftovers(&target);
    if leftovers.is_empty() {
        return;
    }
    let wanted = format!("{}{}.", temporary_prefix(&target), fingerprint(&target));
    for leftover in leftovers {
        let is_wanted = leftover.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&wanted));
        if is_wanted && !fault::omits(Safeguard::Completion) && put_in_place(&leftover, &target).is_ok() {
            continue;
        }
        remove_leftover(&leftover);
    }
}

fn put_in_place(leftover: &Path, target: &Path) -> std::io::Result<()> {
    let mut file = safe_open::open_own(File::options().read(true), leftover)?;
    let mut contents = Vec::new();
    file.read_to_end(&mut contents)?;
    serde_json::from_slice::<serde::de::IgnoredAny>(&contents)?;
    sync_data(&file)?;
    fs::rename(leftover, target)?;
    sync_directory(target.parent().unwrap_or(Path::new(".")))
}

/// Removes what a dead process left: a temporary file.
pub fn remove_leftover(leftover: &Path) {
    #[expect(clippy::disallowed_methods, reason = "a temporary file, whose writer is dead")]
    let _ = fs::remove_file(leftover);
}

/// Temporary files beside `target` that were to become it.
#[must_use]
pub fn leftovers(target: &Path) -> Vec<PathBuf> {
    let prefix = temporary_prefix(target);
    let is_leftover = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.starts_with(&prefix) && name.ends_with(TEMPORARY_SUFFIX);
        is_ours && entry.file_type().is_ok_and(|kind| kind.is_file())
    };
    let entries = fs::read_dir(target.parent().unwrap_or(Path::new("."))).into_iter().flatten().flatten();
    entries.filter(is_leftover).map(|entry| entry.path()).collect()
}

/// How the names of all temporary files of `target` begin.
#[must_use]
pub fn temporary_prefix(target: &Path) -> String {
    format!(".{}.", target.file_name().unwrap_or_default().to_string_lossy())
}

/// Tells what a temporary file is to replace.
fn fingerprint(target: &Path) -> String {
    use std::fmt::Write as _;
    let Ok(Some(contents)) = safe_open::read(target, u64::MAX - 1) else { return "none".to_owned() };
    Sha256::digest(contents).iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// In two parts, so that a test can be in between.
fn write_all(file: &mut File, contents: &[u8]) -> std::io::Result<()> {
    let (first, rest) = contents.split_at(contents.len() / 2);
    file.write_all(first)?;
    fault::reached(Point::HalfWritten);
    file.write_all(rest)?;
    fault::reached(Point::Written);
    Ok(())
}

fn sync_data(file: &File) -> std::io::Result<()> {
    if fault::omits(Safeguard::DataSync) { Ok(()) } else { file.sync_all() }
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
    if fault::omits(Safeguard::DirectorySync) { Ok(()) } else { File::open(directory)?.sync_all() }
}

/// Windows can't open a directory to sync it, and writes a rename through its journal.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "it is that of other systems that can fail")]
fn sync_directory(_directory: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "tests leave what a dead process would")]
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
    fn an_interrupted_write_is_completed_where_it_still_fits_and_whole() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("creds.json");
        replace(&path, b"{\"a\":1}").unwrap();
        let leave = |contents: &[u8]| {
            let prefix = format!("{}{}.", temporary_prefix(&path), fingerprint(&path));
            fs::write(temporary.path().join(prefix + "abc" + TEMPORARY_SUFFIX), contents).unwrap();
        };
        for torn in [&b""[..], b"{\"a\":2", b"\0\0\0\0"] {
            leave(torn);
            assert!(is_interrupted(&path));
            complete(&path);
            assert_eq!(fs::read(&path).unwrap(), b"{\"a\":1}");
            assert!(!is_interrupted(&path));
        }
        leave(b"{\"a\":3}");
        complete(&path);
        assert_eq!(fs::read(&path).unwrap(), b"{\"a\":3}");
        leave(b"{\"a\":4}");
        replace(&path, b"{\"by\":\"another\"}").unwrap();
        complete(&path);
        assert_eq!(fs::read(&path).unwrap(), b"{\"by\":\"another\"}");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_not_replaced_where_it_no_longer_should_be() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("creds.json");
        replace(&path, b"1").unwrap();
        assert!(!replace_if(&path, b"2", || false).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"1");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
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
