//! The file of model lists, shared by all processes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qwen_accounts::{
    atomic,
    file::{self, Contents, Stamp},
    lock::{self, LockPaths},
};
use qwen_base::{Clock, Code, Error, Result};
use serde::{Deserialize, Serialize};

use super::lists::ModelLists;

const VERSION: u64 = 1;
/// Largest file that is read, in bytes. Real files are far smaller.
const MAX_SIZE: u64 = 8 * 1024 * 1024;
/// Longest wait for the lock. After that, changes stay in memory.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub(super) struct ListsFile {
    path: PathBuf,
    locks: LockPaths,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u64,
    accounts: ModelLists,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Lists(ModelLists),
    /// The file holds no lists. The next change moves it aside.
    Damaged,
}

impl ListsFile {
    pub(super) fn new(path: PathBuf) -> Self {
        let locks = LockPaths { kernel: path.with_extension("flock"), cli: path.with_extension("lock") };
        Self { path, locks }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a value that changes with the file.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        file::stamp(&self.path).ok().flatten()
    }

    /// Fails with `ERR_QWEN_IO`, or with `ERR_QWEN_STORE_UNSUPPORTED` for a file of another version.
    pub(super) fn read(&self) -> Result<Kept> {
        let bytes = match file::read(&self.path, MAX_SIZE)? {
            Contents::Missing => return Ok(Kept::Lists(ModelLists::default())),
            Contents::NotAFile | Contents::TooLarge => return Ok(Kept::Damaged),
            Contents::Bytes { bytes, .. } => bytes,
        };
        match serde_json::from_slice::<Versioned>(&bytes) {
            Ok(Versioned { version }) if version != VERSION => {
                let message = format!(
                    "{} was written by another version of opencode-qwen-cli-auth, so model lists are not kept. Use one version everywhere, or move the file away.",
                    self.path.display()
                );
                Err(Error::new(Code::StoreUnsupported, message).with_path(&self.path))
            }
            _ => Ok(serde_json::from_slice(&bytes)
                .map_or(Kept::Damaged, |document: Document| Kept::Lists(document.accounts))),
        }
    }

    /// Changes the file under its lock and returns the new lists. If `change` returns false or the directory is gone,
    /// nothing is written. On an error, including `ERR_QWEN_LOCK_TIMEOUT`, the file is unchanged.
    pub(super) fn change(
        &self,
        clock: &Clock,
        change: impl FnOnce(&mut ModelLists) -> bool,
    ) -> Result<ModelLists> {
        if self.path.parent().is_some_and(|directory| !directory.exists()) {
            let mut lists = ModelLists::default();
            change(&mut lists);
            return Ok(lists);
        }
        let started = Instant::now();
        let give_up = || (started.elapsed() >= LOCK_LIMIT).then(|| Err(self.busy()));
        lock::exclusively(&self.locks, clock, give_up, |_| {
            let (mut lists, is_damaged) = match self.read()? {
                Kept::Lists(lists) => (lists, false),
                Kept::Damaged => (ModelLists::default(), true),
            };
            if !change(&mut lists) {
                return Ok(Ok(lists));
            }
            if is_damaged {
                file::set_aside(&self.path, clock.now_ms())
                    .map_err(|error| Error::io("set aside", &self.path, &error))?;
            }
            lists.prune(clock.now_ms());
            let document = Document { version: VERSION, accounts: lists };
            atomic::replace(&self.path, &serde_json::to_vec(&document).map_err(Error::internal)?)?;
            Ok(Ok(document.accounts))
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
