//! The kernel's lock on an open file (`flock`, `LockFileEx`). It ends with its holder.

use std::fs::File;
use std::io::{self, ErrorKind};

/// An open file that can be locked against other processes and other handles of this process.
#[derive(Debug)]
pub struct KernelLock(fd_lock::RwLock<File>);

/// Holds the lock until it is dropped.
pub type KernelGuard<'a> = fd_lock::RwLockWriteGuard<'a, File>;

impl KernelLock {
    /// Wraps a file without locking it.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self(fd_lock::RwLock::new(file))
    }

    /// Takes the lock without waiting.
    ///
    /// # Errors
    /// `WouldBlock` if another handle holds it, and those of the file system: see [`KernelLock::is_unsupported`].
    pub fn try_lock(&mut self) -> io::Result<KernelGuard<'_>> {
        self.0.try_write()
    }

    /// True if another handle holds the lock of this file.
    #[must_use]
    pub fn is_held(file: File) -> bool {
        fd_lock::RwLock::new(file).try_read().is_err_and(|error| !Self::is_unsupported(&error))
    }

    /// True if the error says that the file system has no such locks, as some network file systems.
    #[must_use]
    pub fn is_unsupported(error: &io::Error) -> bool {
        const NO_LOCKS_AVAILABLE: i32 = if cfg!(target_os = "macos") { 77 } else { 37 };
        error.kind() == ErrorKind::Unsupported
            || cfg!(unix) && error.raw_os_error() == Some(NO_LOCKS_AVAILABLE)
    }
}
