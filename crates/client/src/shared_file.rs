//! A small JSON file, `{"version": 1, "accounts": …}`, that all processes share.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qwen_accounts::{
    Obstacle, atomic,
    file::{self, Contents, Stamp},
    lock::{self, LockPaths},
};
use qwen_base::{Clock, Code, Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const VERSION: u64 = 1;
/// Largest file that is read, in bytes. Real files are far smaller.
pub const MAX_SIZE: u64 = 8 * 1024 * 1024;
/// Longest wait for the lock. After that, changes stay in memory.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct SharedFile<T> {
    path: PathBuf,
    locks: LockPaths,
    /// Completes the error "… was written by another version, so {loss}."
    loss: &'static str,
    contents: PhantomData<fn() -> T>,
}

#[derive(Serialize, Deserialize)]
struct SharedContents<T> {
    version: u64,
    accounts: T,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

/// Result of [`SharedFile::change`].
#[derive(Debug)]
pub struct Changed<T> {
    pub contents: T,
    /// Path to which a damaged file was moved.
    pub set_aside: Option<PathBuf>,
}

/// Returns the locks of a shared file.
#[must_use]
pub fn locks_of(path: &Path) -> LockPaths {
    LockPaths::beside(path, &Path::with_extension)
}

impl<T: Default + Serialize + DeserializeOwned> SharedFile<T> {
    #[must_use]
    pub fn new(path: PathBuf, loss: &'static str) -> Self {
        let locks = locks_of(&path);
        Self { path, locks, loss, contents: PhantomData }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a value that changes with the file.
    pub fn stamp(&self) -> Option<Stamp> {
        file::stamp(&self.path).ok().flatten()
    }

    /// Returns `None` for a damaged file, which the next change moves aside. Fails with `ERR_QWEN_IO`, or with
    /// `ERR_QWEN_STORE_UNSUPPORTED` for a file of another version.
    pub fn read(&self) -> Result<Option<T>> {
        let bytes = match file::read(&self.path, MAX_SIZE)? {
            Contents::Missing => return Ok(Some(T::default())),
            Contents::NotAFile | Contents::TooLarge => return Ok(None),
            Contents::Bytes { bytes, .. } => bytes,
        };
        match serde_json::from_slice::<Versioned>(&bytes) {
            Ok(Versioned { version }) if version != VERSION => {
                let message = format!(
                    "{} was written by another version of opencode-qwen-cli-auth, so {}. Use one version everywhere, or move the file away.",
                    self.path.display(),
                    self.loss
                );
                Err(Error::new(Code::StoreUnsupported, message).with_path(&self.path))
            }
            _ => Ok(serde_json::from_slice(&bytes).ok().map(|document: SharedContents<T>| document.accounts)),
        }
    }

    /// Changes the file under its lock. If `change` returns false or the directory is gone, nothing is written. On an
    /// error, including `ERR_QWEN_LOCK_TIMEOUT`, the file is unchanged.
    pub fn change(&self, clock: &Clock, change: &mut dyn FnMut(&mut T) -> bool) -> Result<Changed<T>> {
        if self.path.parent().is_some_and(|directory| !directory.exists()) {
            let mut contents = T::default();
            change(&mut contents);
            return Ok(Changed { contents, set_aside: None });
        }
        let started = Instant::now();
        let give_up = || (started.elapsed() >= LOCK_LIMIT).then(|| Err(self.busy()));
        lock::exclusively(&self.locks, clock, give_up, |_| {
            let found = self.read()?;
            let is_damaged = found.is_none();
            let mut contents = found.unwrap_or_default();
            if !change(&mut contents) {
                return Ok(Ok(Changed { contents, set_aside: None }));
            }
            // Without this, each process would copy a damaged file that it can't replace.
            if let Some(obstacle) = Obstacle::to(&self.path) {
                return Err(obstacle.error(&self.path));
            }
            let set_aside = is_damaged
                .then(|| file::rename_aside(&self.path, clock.now_ms()))
                .transpose()
                .map_err(|error| Error::io("set aside", &self.path, error))?;
            let document = SharedContents { version: VERSION, accounts: contents };
            atomic::replace(&self.path, &serde_json::to_vec(&document).map_err(Error::internal)?)?;
            Ok(Ok(Changed { contents: document.accounts, set_aside }))
        })?
    }

    fn busy(&self) -> Error {
        let message = format!(
            "Another process has held the lock on {} for {} s. Try again.",
            self.path.display(),
            LOCK_LIMIT.as_secs()
        );
        Error::new(Code::LockTimeout, message).with_path(&self.path).retryable()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make files that no writer of ours would")]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    type Numbers = BTreeMap<String, u64>;

    fn open() -> (tempfile::TempDir, SharedFile<Numbers>) {
        let directory = tempfile::tempdir().unwrap();
        let file = SharedFile::new(directory.path().join("numbers.json"), "nothing is counted");
        (directory, file)
    }

    fn add_one(file: &SharedFile<Numbers>) -> Result<Changed<Numbers>> {
        file.change(&Clock::system(), &mut |numbers| {
            *numbers.entry("acct_1".into()).or_default() += 1;
            true
        })
    }

    fn sum(file: &SharedFile<Numbers>) -> Option<u64> {
        file.read().unwrap().map(|numbers| numbers.values().sum())
    }

    #[test]
    fn changes_add_up_and_leave_no_lock() {
        let (directory, file) = open();
        for _ in 0..3 {
            assert_eq!(add_one(&file).unwrap().set_aside, None);
        }
        assert_eq!(sum(&file), Some(3));
        let mut names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["numbers.flock", "numbers.json"]);
    }

    #[test]
    fn a_damaged_file_is_moved_aside() {
        for contents in ["", "{ no", "[]", r#"{"version":1,"accounts":{"acct_1":"x"}}"#] {
            let (_directory, file) = open();
            fs::write(file.path(), contents).unwrap();
            assert_eq!(sum(&file), None, "{contents}");
            let aside = add_one(&file).unwrap().set_aside.unwrap();
            assert_eq!(fs::read_to_string(aside).unwrap(), contents);
            assert_eq!(sum(&file), Some(1));
        }
        let (_directory, file) = open();
        fs::create_dir(file.path()).unwrap();
        assert!(add_one(&file).unwrap().set_aside.is_some());
        assert_eq!(sum(&file), Some(1));
    }

    #[test]
    fn a_huge_file_is_moved_aside_without_being_read() {
        let (_directory, file) = open();
        fs::File::create(file.path()).unwrap().set_len(10 << 30).unwrap();
        assert_eq!(sum(&file), None);
        let aside = add_one(&file).unwrap().set_aside.unwrap();
        assert_eq!((fs::metadata(aside).unwrap().len(), sum(&file)), (10 << 30, Some(1)));
    }

    #[test]
    fn a_file_of_another_version_is_unchanged() {
        let (_directory, file) = open();
        let contents = r#"{"version":2,"accounts":[]}"#;
        fs::write(file.path(), contents).unwrap();
        let error = add_one(&file).unwrap_err();
        assert_eq!(error.code(), Code::StoreUnsupported);
        assert_eq!(fs::read_to_string(file.path()).unwrap(), contents);
    }

    #[test]
    fn the_wait_for_a_held_lock_is_short() {
        let (_directory, file) = open();
        let added = lock::exclusively(&file.locks, &Clock::system(), || None, |_| Ok(add_one(&file)));
        assert_eq!(added.unwrap().unwrap_err().code(), Code::LockTimeout);
        assert_eq!(sum(&file), Some(0));
    }
}
