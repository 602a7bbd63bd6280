//! `oauth_accounts.json`: the file of all accounts.

use std::path::{Path, PathBuf};

use qwen_base::{Code, Error, Result};

use super::atomic::{self, Replaced, Reservation};
use super::document::{Document, Unusable};
use super::file::{self, Contents, Stamp};
use super::lock::LockPaths;
use super::recover::recover;

/// No account store is anywhere near this large.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// Room for one more account, or longer tokens, in bytes.
const ROOM_FOR_AN_ACCOUNT: u64 = 4 * 1024;

/// The store's file.
#[derive(Debug, Clone)]
pub struct StoreFile {
    path: PathBuf,
    is_default: bool,
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
    /// Opens nothing.
    #[must_use]
    pub fn new(path: PathBuf, is_default: bool) -> Self {
        Self { path, is_default }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The locks that guard it. An overriding path has its locks beside it, under its whole name.
    #[must_use]
    pub fn locks(&self) -> LockPaths {
        if self.is_default {
            return LockPaths::beside(&self.path, Path::with_extension);
        }
        LockPaths::beside(&self.path, |path, suffix| {
            let mut name = path.to_owned().into_os_string();
            name.push(".");
            name.push(suffix);
            PathBuf::from(name)
        })
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
        let contents = match file::read_own(&self.path, MAX_SIZE, Code::Io)? {
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

    /// Replaces it. `reserved` is room that was made for it.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`; it is then as it was.
    pub fn write(&self, document: &Document, reserved: Option<Reservation>) -> Result<Replaced> {
        atomic::replace_if(&self.path, &document.to_json(), reserved, || true)
    }

    /// Makes room for one more account in the file's place.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn reserve(&self) -> Result<Reservation> {
        Reservation::make(&self.path, file::size(&self.path) + ROOM_FOR_AN_ACCOUNT)
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
