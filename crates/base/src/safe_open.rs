//! Opens files safely when another process may have put a FIFO, a device or a link in their place.
//!
//! Files are opened with `O_NONBLOCK`, and the open descriptor is checked, not the name.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use crate::fault::{self, Safeguard};

/// An object that is not a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAFile {
    /// A directory.
    #[error("a directory is in its place")]
    Directory,
    /// A symbolic link that must not be followed.
    #[error("a symbolic link is in its place")]
    Link,
    /// A named pipe.
    #[error("a named pipe (FIFO) is in its place")]
    Fifo,
    /// A socket, a device or a similar object.
    #[error("something that is not a regular file is in its place")]
    Other,
}

impl NotAFile {
    /// Returns the object at `path` if it is not a regular file. Follows links.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().and_then(|found| Self::of_metadata(&found))
    }

    /// Like [`NotAFile::at`], for a file that only this package writes, such as a lock. Doesn't follow links.
    #[must_use]
    pub fn at_own(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().and_then(|found| Self::of_metadata(&found))
    }

    /// Returns the object that caused an error of this module.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }

    fn of_metadata(found: &Metadata) -> Option<Self> {
        let kind = found.file_type();
        if kind.is_file() {
            None
        } else if kind.is_dir() {
            Some(Self::Directory)
        } else if kind.is_symlink() {
            Some(Self::Link)
        } else {
            Some(if is_fifo(kind) { Self::Fifo } else { Self::Other })
        }
    }
}

impl From<NotAFile> for io::Error {
    fn from(found: NotAFile) -> Self {
        // `Error::io` gives advice for this kind.
        Self::new(ErrorKind::NotADirectory, found)
    }
}

#[cfg(unix)]
fn is_fifo(kind: fs::FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&kind)
}

#[cfg(not(unix))]
fn is_fifo(_kind: fs::FileType) -> bool {
    false
}

/// Opens a regular file for reading. Follows links.
///
/// # Errors
/// A [`NotAFile`], and errors of the file system.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

/// Opens a regular file with these options. Follows links.
///
/// # Errors
/// A [`NotAFile`], and errors of the file system.
pub fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    checked(options, path, flags::follow, NotAFile::at)
}

/// Opens a file that only this package writes: a lock, a log, a temporary file. Doesn't follow links. A new file gets
/// mode 0600.
///
/// # Errors
/// A [`NotAFile`], and errors of the file system.
pub fn open_own(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    checked(options, path, flags::own, NotAFile::at_own)
}

/// Reads a regular file of at most `limit` bytes; `None` if it is larger. Follows links.
///
/// # Errors
/// A [`NotAFile`], and errors of the file system.
pub fn read(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    read_open(&open(path)?, limit)
}

/// Reads an open file of at most `limit` bytes; `None` if it is larger.
///
/// # Errors
/// Errors of the file system.
pub fn read_open(file: &File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    // A huge file is refused without reading it.
    let length = file.metadata()?.len();
    if length > limit {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// Reads a regular UTF-8 file of at most `limit` bytes. Follows links.
///
/// # Errors
/// A [`NotAFile`], errors of the file system, and `InvalidData` for a larger file or invalid UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let bytes =
        read(path, limit)?.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "it is too large"))?;
    // The error of `String` holds the bytes, which may be a secret.
    String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error.utf8_error()))
}

fn checked(
    options: &mut OpenOptions,
    path: &Path,
    with_flags: fn(&mut OpenOptions) -> &OpenOptions,
    at: fn(&Path) -> Option<NotAFile>,
) -> io::Result<File> {
    if fault::omits(Safeguard::SafeOpen) {
        return options.open(path);
    }
    // Checked before opening, because opening a device can have effects, and after, because the file may have been
    // replaced meanwhile.
    if let Some(found) = at(path) {
        return Err(found.into());
    }
    let file = with_flags(options).open(path).map_err(|error| at(path).map_or(error, io::Error::from))?;
    match NotAFile::of_metadata(&file.metadata()?) {
        Some(found) => Err(found.into()),
        None => Ok(file),
    }
}

#[cfg(unix)]
mod flags {
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::OFlags;

    pub fn follow(options: &mut OpenOptions) -> &OpenOptions {
        set(options, OFlags::NONBLOCK | OFlags::NOCTTY)
    }

    pub fn own(options: &mut OpenOptions) -> &OpenOptions {
        set(options.mode(0o600), OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW)
    }

    fn set(options: &mut OpenOptions, flags: OFlags) -> &OpenOptions {
        options.custom_flags(flags.bits().cast_signed())
    }
}

#[cfg(windows)]
mod flags {
    use std::fs::OpenOptions;
    use std::os::windows::fs::OpenOptionsExt as _;

    /// Opens a link itself instead of its target (`FILE_FLAG_OPEN_REPARSE_POINT`). The check then finds the link.
    const OPEN_LINK: u32 = 0x0020_0000;

    pub fn follow(options: &mut OpenOptions) -> &OpenOptions {
        options
    }

    pub fn own(options: &mut OpenOptions) -> &OpenOptions {
        options.custom_flags(OPEN_LINK)
    }
}

#[cfg(test)]
#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "tests put things in a file's place")]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::process::Command;

    use super::*;

    fn in_place(outcome: io::Result<File>) -> Option<NotAFile> {
        NotAFile::of(&outcome.unwrap_err())
    }

    #[test]
    fn only_a_regular_file_is_opened_and_nothing_blocks() {
        let temporary = tempfile::tempdir().unwrap();
        let path = |name: &str| temporary.path().join(name);
        let own = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true);
            options
        };
        assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
        fs::create_dir(path("directory")).unwrap();
        fs::write(path("file"), "text").unwrap();
        symlink("file", path("link")).unwrap();
        symlink("fifo", path("link-to-fifo")).unwrap();
        let found =
            [("fifo", NotAFile::Fifo), ("directory", NotAFile::Directory), ("link-to-fifo", NotAFile::Fifo)];
        for (name, kind) in found {
            assert_eq!(in_place(open(&path(name))), Some(kind), "{name}");
            assert_eq!(
                in_place(open_with(OpenOptions::new().append(true), &path(name))),
                Some(kind),
                "{name}"
            );
        }
        assert_eq!(in_place(open(Path::new("/dev/zero"))), Some(NotAFile::Other));
        for (name, kind) in
            [("fifo", NotAFile::Fifo), ("directory", NotAFile::Directory), ("link", NotAFile::Link)]
        {
            assert_eq!(in_place(open_own(&mut own(), &path(name))), Some(kind), "{name}");
        }
        assert_eq!(read(&path("link"), 4).unwrap().unwrap(), b"text");
        assert_eq!(read(&path("file"), 3).unwrap(), None);
        assert_eq!(open(&path("missing")).unwrap_err().kind(), ErrorKind::NotFound);
        let made = open_own(&mut own(), &path("new")).unwrap();
        assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_error_about_text_contains_nothing_of_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"sk-secret\xff").unwrap();
        let error = read_text(file.path(), 100).unwrap_err();
        // The bytes of "sk-".
        assert!(!format!("{error:?}").contains("115, 107, 45"), "{error:?}");
    }
}
