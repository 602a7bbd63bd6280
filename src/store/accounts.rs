//! `oauth_accounts.json`: the file of all accounts.

use std::path::{Path, PathBuf};

use super::atomic;
use super::document::{Document, Unusable};
use super::file::{self, Contents, Stamp};
use super::lock::LockPaths;
use super::recover::recover;
use crate::error::{Code, Error, Result};

/// No account store is anywhere near this large.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// The store's file.
#[derive(Debug, Clone)]
pub struct StoreFile {
    path: PathBuf,
    locks: LockPaths,
}

/// What is in the store's place.
#[derive(Debug)]
pub enum Stored {
    /// Nothing.
    Missing,
    /// A store.
    Usable(Box<Document>),
    /// Something that is none, and what of it still reads as accounts.
    Broken {
        /// Why.
        reason: Unusable,
        /// The accounts that could be read.
        recovered: Box<Document>,
    },
}

impl StoreFile {
    /// Opens nothing. An overriding path has its locks beside it, under its whole name.
    #[must_use]
    pub fn new(path: PathBuf, is_default: bool) -> Self {
        let locks = if is_default {
            LockPaths { kernel: path.with_extension("flock"), cli: path.with_extension("lock") }
        } else {
            let beside = |suffix: &str| {
                let mut name = path.clone().into_os_string();
                name.push(suffix);
                PathBuf::from(name)
            };
            LockPaths { kernel: beside(".flock"), cli: beside(".lock") }
        };
        Self { path, locks }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The locks that guard it.
    #[must_use]
    pub fn locks(&self) -> &LockPaths {
        &self.locks
    }

    /// What the file is now.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn stamp(&self) -> Result<Option<Stamp>> {
        file::stamp(&self.path)
    }

    /// Reads it.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn read(&self) -> Result<Stored> {
        let contents = match file::read(&self.path, MAX_SIZE)? {
            Contents::Missing => return Ok(Stored::Missing),
            Contents::NotAFile | Contents::TooLarge => {
                return Ok(Stored::Broken { reason: Unusable::Corrupt, recovered: Box::default() });
            }
            Contents::Bytes { bytes, .. } => bytes,
        };
        Ok(match Document::parse(&contents) {
            Ok(document) => Stored::Usable(Box::new(document)),
            Err(reason) => Stored::Broken { reason, recovered: Box::new(recover(&contents)) },
        })
    }

    /// Replaces it.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`; it is then as it was.
    pub fn write(&self, document: &Document) -> Result<()> {
        atomic::replace(&self.path, &document.to_json())
    }

    /// Keeps what is in its place, whole, under a name that says when. A file stays until it is replaced, so that nobody
    /// finds no store at all meanwhile.
    ///
    /// # Errors
    /// `ERR_QWEN_STORE_CORRUPT` or `ERR_QWEN_STORE_UNSUPPORTED` where it can't be kept.
    pub fn set_aside(&self, reason: Unusable, now_ms: u64) -> Result<PathBuf> {
        file::set_aside(&self.path, now_ms).map_err(|error| {
            let message = format!(
                "{} It could not be moved aside ({error}); move it away yourself, then try again.",
                broken(&self.path, reason)
            );
            Error::new(code(reason), message).with_path(&self.path)
        })
    }
}

/// The code of a store that can't be used.
#[must_use]
pub fn code(reason: Unusable) -> Code {
    match reason {
        Unusable::Corrupt => Code::StoreCorrupt,
        Unusable::Unsupported => Code::StoreUnsupported,
    }
}

/// What is wrong with a store that can't be used.
#[must_use]
pub fn broken(path: &Path, reason: Unusable) -> String {
    let what = match reason {
        Unusable::Corrupt => "is damaged",
        Unusable::Unsupported => "was written by another version",
    };
    format!("The account store {} {what}.", path.display())
}
