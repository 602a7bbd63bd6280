//! The files of logs: for their owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::safe_open::{self, InPlace};

/// Creates the directory of logs, and those above it, for their owner alone.
///
/// # Errors
/// Those of the file system.
pub fn ensure_directory(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    // A link would lead us to change somebody else's files: nothing of ours is one.
    let is_link = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    if is_link(directory) || directory.parent().is_some_and(is_link) {
        return Err(InPlace::Link.into());
    }
    builder.create(directory)?;
    #[cfg(unix)]
    make_private(&open_directory(directory)?, 0o700)?;
    Ok(())
}

/// Opens the directory itself, so that what is checked and changed is the same.
#[cfg(unix)]
fn open_directory(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(directory, flags, Mode::empty())?))
}

/// Creates a file with its contents, for its owner alone.
///
/// # Errors
/// `AlreadyExists` where there is one of that name, and those of the file system; no file is left then.
pub fn create(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = safe_open::open_own(options().write(true).create_new(true), path)?;
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
        let file = safe_open::open_own(options().read(true).append(true).create(true), &self.path)?;
        make_private(&file, 0o600)?;
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
fn make_private(open: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if open.metadata()?.permissions().mode() & 0o777 == mode {
        return Ok(());
    }
    open.set_permissions(fs::Permissions::from_mode(mode))
}

/// A user's profile on Windows is private as it is.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "it is that of other systems that can fail")]
fn make_private(_open: &File, _mode: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg_attr(unix, expect(clippy::disallowed_methods, reason = "tests play the user and other programs"))]
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
    #[cfg(unix)]
    fn no_link_is_followed() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let temporary = tempfile::tempdir().unwrap();
        let victim = temporary.path().join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("file"), "mine").unwrap();
        fs::set_permissions(victim.join("file"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o755)).unwrap();
        let append = |name: &str| Rotating::new(temporary.path().join(name), 99).append(b"x");

        fs::create_dir_all(temporary.path().join("a/logs")).unwrap();
        symlink(victim.join("file"), temporary.path().join("a/logs/debug.log")).unwrap();
        append("a/logs/debug.log").unwrap_err();
        fs::create_dir(temporary.path().join("b")).unwrap();
        symlink(&victim, temporary.path().join("b/logs")).unwrap();
        append("b/logs/debug.log").unwrap_err();
        symlink(&victim, temporary.path().join("c")).unwrap();
        append("c/logs/debug.log").unwrap_err();

        assert_eq!(fs::read(victim.join("file")).unwrap(), b"mine");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&victim), mode(&victim.join("file"))), (0o755, 0o644));
        assert!(!victim.join("debug.log").exists());
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
