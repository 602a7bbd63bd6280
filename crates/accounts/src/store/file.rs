//! Reads files that other processes may replace at any moment.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use qwen_base::{
    Code, Error, Result, epoch_ms,
    safe_open::{self, NotAFile},
};

use super::obstacle::Obstacle;
use super::ownership;

/// Largest file in bytes that is read or copied. This package's own files are far smaller.
pub const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Tells two versions of a file apart without reading it. Renaming a file over another changes the inode, even if the
/// clock is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<std::time::SystemTime>,
    length: u64,
    inode: u64,
}

/// Contents of a path.
#[derive(Debug)]
pub enum Contents {
    /// There is no file.
    Missing,
    /// A directory, a device or the like.
    NotAFile,
    /// The file is larger than the limit.
    TooLarge,
    /// A file.
    Bytes {
        /// The whole file. Text with a byte order mark, UTF-16 included, is returned as UTF-8 without one.
        bytes: Vec<u8>,
        /// Time of the last write, in epoch milliseconds.
        modified_at: u64,
    },
}

/// Stamp of a file; `None` if there is none.
///
/// # Errors
/// `ERR_QWEN_IO`.
pub fn stamp(path: &Path) -> Result<Option<Stamp>> {
    match fs::metadata(path) {
        Ok(metadata) => {
            let modified = metadata.modified().ok();
            Ok(Some(Stamp { modified, length: metadata.len(), inode: inode(&metadata) }))
        }
        Err(error) if is_missing(path, &error) => Ok(None),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// As [`stamp`], but a file that can't be examined gets a fixed stamp. The later read reports the error.
#[must_use]
pub fn stamp_or_error(path: &Path) -> Option<Stamp> {
    let unreadable = |_| Some(Stamp { modified: None, length: u64::MAX, inode: 0 });
    stamp(path).unwrap_or_else(unreadable)
}

/// Size of a file in bytes, at most [`MAX_FILE`]; 0 if there is none.
#[must_use]
pub fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len().min(MAX_FILE))
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// `ERR_QWEN_IO`.
pub fn read(path: &Path, limit: u64) -> Result<Contents> {
    read_checked(path, limit, &|_| None)
}

/// As [`read`], but refuses a file of another user, who could have put any login there.
///
/// # Errors
/// `ERR_QWEN_IO`, and `refusal` for another user's file.
pub fn read_own(path: &Path, limit: u64, refusal: Code) -> Result<Contents> {
    read_checked(path, limit, &|metadata| {
        let why = ownership::foreign_owner(path, metadata)?;
        Some(Error::new(refusal, format!("{} {why}", path.display())).with_path(path))
    })
}

fn read_checked(
    path: &Path,
    limit: u64,
    refuse: &dyn Fn(&fs::Metadata) -> Option<Error>,
) -> Result<Contents> {
    let file = match safe_open::open(path) {
        Ok(file) => file,
        Err(error) if NotAFile::of(&error).is_some() => return Ok(Contents::NotAFile),
        Err(error) if is_missing(path, &error) => return Ok(Contents::Missing),
        Err(error) => return Err(unreadable(path, error)),
    };
    let metadata = file.metadata().map_err(|error| unreadable(path, error))?;
    if let Some(error) = refuse(&metadata) {
        return Err(error);
    }
    let modified_at = metadata.modified().map_or(0, epoch_ms);
    let bytes = safe_open::read_open(&file, limit).map_err(|error| unreadable(path, error))?;
    let whole = |bytes| Contents::Bytes { bytes: without_byte_order_mark(bytes), modified_at };
    Ok(bytes.map_or(Contents::TooLarge, whole))
}

/// Removes the byte order mark that Windows' editors and `PowerShell` write, and decodes UTF-16.
fn without_byte_order_mark(bytes: Vec<u8>) -> Vec<u8> {
    let decoded = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, _) = rest.as_chunks::<2>();
        String::from_utf16(&pairs.iter().map(|pair| unit(*pair)).collect::<Vec<_>>()).ok()
    };
    let text = match &bytes[..] {
        [0xEF, 0xBB, 0xBF, rest @ ..] => return rest.to_vec(),
        [0xFF, 0xFE, rest @ ..] => decoded(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => decoded(rest, u16::from_be_bytes),
        _ => None,
    };
    text.map_or(bytes, String::into_bytes)
}

/// Returns a free name for a file that is set aside.
#[must_use]
pub fn aside(path: &Path, now_ms: u64) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(format!(".corrupt-{now_ms}"));
    let mut aside = PathBuf::from(&name);
    let mut count = 1;
    while aside.symlink_metadata().is_ok() {
        count += 1;
        let mut next = name.clone();
        next.push(format!("-{count}"));
        aside = PathBuf::from(next);
    }
    aside
}

/// Checks that a file is not larger than [`MAX_FILE`].
///
/// # Errors
/// `FileTooLarge`.
pub fn expect_size(path: &Path) -> std::io::Result<()> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() > MAX_FILE) {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, "it is larger than 16 MiB"));
    }
    Ok(())
}

/// Keeps a damaged file under a name with the time. A file is copied, so that other processes always find one. The copy
/// gets the owner of the file, if this user may do that.
///
/// # Errors
/// Those of the file system.
pub fn copy_aside(path: &Path, now_ms: u64) -> std::io::Result<PathBuf> {
    let aside = aside(path, now_ms);
    if path.is_file() {
        expect_size(path)?;
        fs::copy(path, &aside)?;
        // Windows can sync only files that are open for writing; elsewhere a copy of a read-only file can't be opened
        // so.
        let copy = File::options().read(true).write(cfg!(windows)).open(&aside)?;
        if let (Ok(target), Some(directory)) = (path.canonicalize(), path.parent()) {
            let _ = ownership::set_owner(&copy, &target, directory);
        }
        copy.sync_all()?;
    } else {
        fs::rename(path, &aside)?;
    }
    Ok(aside)
}

/// As [`copy_aside`], but a file is renamed, which reads nothing of it. A link stays and its target is copied, and so is a
/// file that can't be renamed.
///
/// # Errors
/// Those of the file system.
pub fn rename_aside(path: &Path, now_ms: u64) -> std::io::Result<PathBuf> {
    if path.is_symlink() || Obstacle::to(path).is_some() {
        return copy_aside(path, now_ms);
    }
    let aside = aside(path, now_ms);
    fs::rename(path, &aside).map(|()| aside)
}

/// Windows reports `NotFound` also if a file is in the place of the directory.
fn is_missing(path: &Path, error: &std::io::Error) -> bool {
    let is_blocked = || cfg!(windows) && path.parent().is_some_and(Path::is_file);
    error.kind() == ErrorKind::NotFound && !is_blocked()
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::io("read", path, error)
}

#[cfg(unix)]
fn inode(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_metadata: &fs::Metadata) -> u64 {
    0
}
