//! The files of logs: for their owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Creates the directory of logs, and those above it, for their owner alone.
///
/// # Errors
/// Those of the file system.
pub fn ensure_directory(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)?;
    make_private(directory, &fs::metadata(directory)?, 0o700)
}

/// Creates a file with its contents, for its owner alone.
///
/// # Errors
/// `AlreadyExists` where there is one of that name, and those of the file system; no file is left then.
pub fn create(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = options().write(true).create_new(true).open(path)?;
    file.write_all(contents).inspect_err(|_| {
        #[expect(clippy::disallowed_methods, reason = "half a log file is of no use to anyone")]
        let _ = fs::remove_file(path);
    })
}

/// A text file that several processes append to, of a bounded size: when it is full, it takes the place of the one
/// before it, whose name ends in `.1`.
#[derive(Debug)]
pub struct Rotating {
    path: PathBuf,
    max_bytes: u64,
}

impl Rotating {
    /// Opens nothing yet. `max_bytes` is kept but for what other processes append meanwhile.
    #[must_use]
    pub fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { path, max_bytes }
    }

    /// Appends whole lines in one write, so that those of other processes do not get in between.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn append(&self, lines: &[u8]) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            ensure_directory(directory)?;
        }
        let room = self.max_bytes.saturating_sub(lines.len() as u64);
        let mut file = self.open()?;
        if file.metadata()?.len() > room {
            self.rotate(file, room)?;
            file = self.open()?;
        }
        file.write_all(lines)
    }

    /// Only one process does it: the lock is on the file that is full, and the next one is not.
    fn rotate(&self, file: File, room: u64) -> io::Result<()> {
        let mut lock = fd_lock::RwLock::new(file);
        let locked = lock.try_write();
        if locked.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            return Ok(());
        }
        if fs::metadata(&self.path)?.len() > room {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            fs::rename(&self.path, older)?;
        }
        Ok(())
    }

    fn open(&self) -> io::Result<File> {
        let file = options().read(true).append(true).create(true).open(&self.path)?;
        make_private(&self.path, &file.metadata()?, 0o600)?;
        Ok(file)
    }
}

#[cfg(unix)]
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(not(unix))]
fn options() -> OpenOptions {
    OpenOptions::new()
}

#[cfg(unix)]
fn make_private(path: &Path, found: &fs::Metadata, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if found.permissions().mode() & 0o777 == mode {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// A user's profile on Windows is private as it is.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "it is that of other systems that can fail")]
fn make_private(_path: &Path, _found: &fs::Metadata, _mode: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_late_to_a_rotation_leaves_the_new_file_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("debug.log");
        let log = Rotating::new(path.clone(), 10);
        log.append(b"0123456789").unwrap();
        let (mine, theirs) = (log.open().unwrap(), log.open().unwrap());
        log.rotate(theirs, 9).unwrap();
        log.append(b"new").unwrap();
        log.rotate(mine, 9).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read(temporary.path().join("debug.log.1")).unwrap(), b"0123456789");
    }

    #[test]
    fn while_another_process_rotates_lines_go_to_the_full_file() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("debug.log");
        let log = Rotating::new(path.clone(), 4);
        log.append(b"0123").unwrap();
        let mut lock = fd_lock::RwLock::new(log.open().unwrap());
        let held = lock.try_write().unwrap();
        log.append(b"4567").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"01234567");
        drop(held);
        log.append(b"89").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"89");
    }
}
