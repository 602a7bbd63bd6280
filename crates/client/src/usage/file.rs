//! The usage file, to which all processes add.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qwen_accounts::{
    atomic,
    file::{self, Contents},
    lock::{self, LockPaths},
};
use qwen_base::{Clock, Code, Error, Result};
use serde::{Deserialize, Serialize};

use super::ledger::{Ledger, Moment};

const VERSION: u64 = 1;
/// Largest file that is read, in bytes. Real files are far smaller.
const MAX_SIZE: u64 = 4 * 1024 * 1024;
/// Longest wait for the lock. After that, the next write includes the figures.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct UsageFile {
    path: PathBuf,
}

/// Contents of the file: account ids, times and numbers.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u64,
    accounts: Ledger,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

/// Result of [`UsageFile::add`].
#[derive(Debug, PartialEq, Eq)]
pub enum Added {
    /// Written, or the directory is gone.
    Written,
    /// Written. The damaged file was moved to this path.
    Repaired(PathBuf),
    /// Another process held the lock.
    Busy,
}

enum Found {
    Ledger(Ledger),
    Damaged,
}

impl UsageFile {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn locks(&self) -> LockPaths {
        LockPaths::beside(&self.path, Path::with_extension)
    }

    /// Reads the sums of all processes. A damaged file reads as empty, and the next addition moves it aside. Fails with
    /// `ERR_QWEN_IO`, or with `ERR_QWEN_STORE_UNSUPPORTED` for a file of another version.
    pub fn read(&self) -> Result<Ledger> {
        Ok(match self.find()? {
            Found::Ledger(ledger) => ledger,
            Found::Damaged => Ledger::default(),
        })
    }

    /// Adds to the file under the lock. Writes nothing if the directory is gone. On an error the file is unchanged.
    pub fn add(&self, more: &Ledger, now: Moment, clock: &Clock) -> Result<Added> {
        if self.path.parent().is_some_and(|directory| !directory.exists()) {
            return Ok(Added::Written);
        }
        let started = Instant::now();
        let give_up = || (started.elapsed() >= LOCK_LIMIT).then_some(Added::Busy);
        lock::exclusively(&self.locks(), clock, give_up, |_| {
            let (mut ledger, aside) = match self.find()? {
                Found::Ledger(ledger) => (ledger, None),
                Found::Damaged => {
                    let aside = file::set_aside(&self.path, clock.now_ms())
                        .map_err(|error| Error::io("set aside", &self.path, &error))?;
                    (Ledger::default(), Some(aside))
                }
            };
            ledger.merge(more);
            ledger.prune(now);
            let document = Document { version: VERSION, accounts: ledger };
            atomic::replace(&self.path, &serde_json::to_vec(&document).map_err(Error::internal)?)?;
            Ok(aside.map_or(Added::Written, Added::Repaired))
        })
    }

    fn find(&self) -> Result<Found> {
        let bytes = match file::read(&self.path, MAX_SIZE)? {
            Contents::Missing => return Ok(Found::Ledger(Ledger::default())),
            Contents::NotAFile | Contents::TooLarge => return Ok(Found::Damaged),
            Contents::Bytes { bytes, .. } => bytes,
        };
        match serde_json::from_slice::<Versioned>(&bytes) {
            Ok(Versioned { version }) if version != VERSION => {
                let message = format!(
                    "{} was written by another version of opencode-qwen-cli-auth, so usage is not counted. Use one version everywhere, or move the file away.",
                    self.path.display()
                );
                Err(Error::new(Code::StoreUnsupported, message).with_path(&self.path))
            }
            _ => Ok(serde_json::from_slice(&bytes)
                .map_or(Found::Damaged, |document: Document| Found::Ledger(document.accounts))),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make files that no writer of ours would")]
mod tests {
    use std::fs;

    use super::*;
    use crate::usage::ledger::Counts;

    const NOW: Moment = Moment { hour: 480_000, day: 20_000 };

    fn open() -> (tempfile::TempDir, UsageFile) {
        let directory = tempfile::tempdir().unwrap();
        let file = UsageFile::new(directory.path().join("usage.json"));
        (directory, file)
    }

    fn one_request() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.add("acct_1", NOW, &Counts::of_answer(None));
        ledger
    }

    fn requests(file: &UsageFile) -> u64 {
        file.read().unwrap().summary("acct_1", NOW).today.requests
    }

    #[test]
    fn additions_are_summed_and_leave_no_lock() {
        let (directory, file) = open();
        for _ in 0..3 {
            assert_eq!(file.add(&one_request(), NOW, &Clock::system()).unwrap(), Added::Written);
        }
        assert_eq!(requests(&file), 3);
        let mut names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["usage.flock", "usage.json"]);
    }

    #[test]
    fn a_damaged_file_is_moved_aside() {
        for contents in ["", "{ no", "[]", r#"{"version":1,"accounts":{"acct_1":{"hours":{"x":{}}}}}"#] {
            let (_directory, file) = open();
            fs::write(file.path(), contents).unwrap();
            assert_eq!(requests(&file), 0);
            let Added::Repaired(aside) = file.add(&one_request(), NOW, &Clock::system()).unwrap() else {
                panic!("not repaired: {contents}")
            };
            assert_eq!(fs::read_to_string(aside).unwrap(), contents);
            assert_eq!(requests(&file), 1);
        }
        let (_directory, file) = open();
        fs::create_dir(file.path()).unwrap();
        assert!(matches!(file.add(&one_request(), NOW, &Clock::system()).unwrap(), Added::Repaired(_)));
        assert_eq!(requests(&file), 1);
    }

    #[test]
    fn a_file_of_another_version_is_unchanged() {
        let (_directory, file) = open();
        let contents = r#"{"version":2,"accounts":[]}"#;
        fs::write(file.path(), contents).unwrap();
        let error = file.add(&one_request(), NOW, &Clock::system()).unwrap_err();
        assert_eq!(error.code(), Code::StoreUnsupported);
        assert_eq!(fs::read_to_string(file.path()).unwrap(), contents);
    }

    #[test]
    fn the_wait_for_a_held_lock_is_short() {
        let (_directory, file) = open();
        let added = lock::exclusively(
            &file.locks(),
            &Clock::system(),
            || None,
            |_| file.add(&one_request(), NOW, &Clock::system()),
        );
        assert_eq!(added.unwrap(), Added::Busy);
        assert_eq!(requests(&file), 0);
    }
}
