//! Rotation of a log file that several processes share.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::PathBuf;

use crate::kernel_lock::KernelLock;
use crate::private_files;

/// A text file of limited size that several processes append to. A full file is renamed to end in `.1`, and replaces the
/// previous one of that name.
#[derive(Debug)]
pub struct Rotating {
    path: PathBuf,
    max_bytes: u64,
}

impl Rotating {
    /// Opens nothing yet. Lines that other processes append during a check may exceed `max_bytes`.
    pub fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { path, max_bytes }
    }

    /// Appends whole lines in one write, so that lines of other processes don't get in between.
    pub fn append(&self, lines: &[u8]) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            private_files::ensure_directory(directory)?;
        }
        let room = self.max_bytes.saturating_sub(lines.len() as u64);
        let mut file = private_files::open_to_append(&self.path)?;
        if file.metadata()?.len() > room {
            self.rotate(file, room)?;
            file = private_files::open_to_append(&self.path)?;
        }
        file.write_all(lines)
    }

    /// Renames the full file. A lock on that file lets only one process do it.
    fn rotate(&self, file: File, room: u64) -> io::Result<()> {
        let mut lock = KernelLock::new(file);
        let locked = lock.try_lock();
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
}

#[cfg(test)]
#[cfg_attr(unix, expect(clippy::disallowed_methods, reason = "tests play the user and other programs"))]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_late_rotation_leaves_the_new_file_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("debug.log");
        let log = Rotating::new(path.clone(), 10);
        log.append(b"0123456789").unwrap();
        let (mine, theirs) =
            (private_files::open_to_append(&path).unwrap(), private_files::open_to_append(&path).unwrap());
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
    fn lines_go_to_the_full_file_while_another_process_rotates() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("debug.log");
        let log = Rotating::new(path.clone(), 4);
        log.append(b"0123").unwrap();
        let mut lock = KernelLock::new(private_files::open_to_append(&path).unwrap());
        let held = lock.try_lock().unwrap();
        log.append(b"4567").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"01234567");
        drop(held);
        log.append(b"89").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"89");
    }
}
