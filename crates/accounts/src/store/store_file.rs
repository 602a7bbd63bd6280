//! Reads and replaces `oauth_accounts.json`, the account store.

use std::path::{Path, PathBuf};

use qwen_base::{Code, Error, Result};

use super::atomic::{self, Replaced, Reservation};
use super::document::{Document, Unusable};
use super::file::{self, Contents, MAX_FILE};
use super::lock::LockPaths;
use super::recover::recover;

/// Space for one more account, or longer tokens, in bytes.
const ROOM_FOR_AN_ACCOUNT: u64 = 4 * 1024;

/// `oauth_accounts.json`, the file of all accounts.
#[derive(Debug, Clone)]
pub struct StoreFile {
    path: PathBuf,
    is_default: bool,
}

/// Contents of the store.
#[derive(Debug)]
pub enum Stored {
    /// There is no file.
    Missing,
    /// A store.
    Usable(Box<Document>),
    /// A damaged store, or one of another version.
    Broken {
        /// The reason.
        reason: Unusable,
        /// The accounts that could be read.
        recovered: Box<Document>,
    },
}

impl StoreFile {
    /// Creates a handle. It opens no file yet.
    #[must_use]
    pub fn new(path: PathBuf, is_default: bool) -> Self {
        Self { path, is_default }
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The locks of the file. The locks of an overriding path have its whole name and an extension.
    #[must_use]
    pub fn locks(&self) -> LockPaths {
        if self.is_default {
            return LockPaths::beside(&self.path, &Path::with_extension);
        }
        LockPaths::beside(&self.path, &|path, suffix| {
            let mut name = path.to_owned().into_os_string();
            name.push(".");
            name.push(suffix);
            PathBuf::from(name)
        })
    }

    /// Reads the store.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn read(&self) -> Result<Stored> {
        let contents = match file::read_own(&self.path, MAX_FILE, Code::Io)? {
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

    /// Replaces the store, or writes it in place if an obstacle prevents that. `reserved` is disk space from
    /// [`StoreFile::reserve`].
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn write(&self, document: &Document, reserved: Option<Reservation>) -> Result<Replaced> {
        atomic::put(&self.path, &document.to_json(), reserved)
    }

    /// Writes the store in place. A crash can leave it torn.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn write_in_place(&self, document: &Document) -> Result<Replaced> {
        atomic::overwrite(&self.path, &document.to_json()).map(|()| Replaced::Synced)
    }

    /// Reserves space for one more account; `None` if the store is written in place.
    ///
    /// # Errors
    /// `ERR_QWEN_IO` if the store can't be written, and `ERR_QWEN_STORE_CORRUPT` if it is too large to be read.
    pub fn reserve(&self) -> Result<Option<Reservation>> {
        file::expect_size(&self.path).map_err(|error| self.immovable(Unusable::Corrupt, &error))?;
        atomic::reserve(&self.path, file::size(&self.path) + ROOM_FOR_AN_ACCOUNT)
    }

    /// Keeps a damaged store under a name with the time. A file is copied, so that other processes always find one.
    ///
    /// # Errors
    /// `ERR_QWEN_STORE_CORRUPT` or `ERR_QWEN_STORE_UNSUPPORTED` if it can't be kept.
    pub fn set_aside(&self, reason: Unusable, now_ms: u64) -> Result<PathBuf> {
        file::copy_aside(&self.path, now_ms).map_err(|error| self.immovable(reason, &error))
    }

    fn immovable(&self, reason: Unusable, error: &std::io::Error) -> Error {
        let message = format!(
            "{} It could not be moved aside ({error}); move it away yourself, then try again.",
            broken(&self.path, reason)
        );
        Error::new(code(reason), message).with_path(&self.path)
    }
}

/// The error code of a store that can't be used.
pub fn code(reason: Unusable) -> Code {
    match reason {
        Unusable::Corrupt => Code::StoreCorrupt,
        Unusable::Unsupported => Code::StoreUnsupported,
    }
}

/// The message about a store that can't be used.
#[must_use]
pub fn broken(path: &Path, reason: Unusable) -> String {
    let what = match reason {
        Unusable::Corrupt => "is damaged",
        Unusable::Unsupported => "was written by another version",
    };
    format!("The account store {} {what}.", path.display())
}
