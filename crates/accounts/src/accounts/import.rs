//! Accounts in the file of another tool.

use std::path::Path;

use qwen_base::{Code, Error, Result};

use super::reconcile::Imported;
use crate::store::file::{self, Contents};
use crate::store::import_formats::{Login, read_logins};

/// Larger files are refused.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// Logins in the file of another tool.
#[derive(Debug, Clone, Default)]
pub struct ImportFile {
    /// Usable logins.
    pub usable: Vec<Login>,
    /// Reasons why other logins can't be used. Each completes "it …".
    pub refused: Vec<&'static str>,
}

impl ImportFile {
    /// Reads a file, which stays as it is.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`, and `ERR_QWEN_CREDENTIALS_INVALID` if it holds no usable login.
    pub fn read(path: &Path, now_ms: u64) -> Result<Self> {
        let invalid = |what: &str| {
            let message = format!("{} {what} Nothing was imported.", path.display());
            Error::new(Code::CredentialsInvalid, message).with_path(path)
        };
        let contents = match file::read(path, MAX_SIZE)? {
            Contents::Missing => {
                let message = format!("There is no file {}. Check its name.", path.display());
                return Err(Error::new(Code::Io, message).with_path(path));
            }
            Contents::NotAFile => return Err(invalid("is not a file.")),
            Contents::TooLarge => return Err(invalid("is too large for a file of accounts.")),
            Contents::Bytes { bytes, .. } => bytes,
        };
        let found = read_logins(&contents, now_ms).ok_or_else(|| {
            invalid(
                "holds no accounts in a known format. It can be the accounts file of a Qwen plugin, the qwen CLI's oauth_creds.json, or OpenCode's auth.json.",
            )
        })?;
        let (mut usable, mut refused) = (Vec::new(), Vec::new());
        for login in found {
            match login {
                Ok(login) => usable.push(login),
                Err(why) => refused.push(why),
            }
        }
        match refused.first() {
            None if usable.is_empty() => Err(invalid("holds no Qwen account.")),
            Some(why) if usable.is_empty() => {
                Err(invalid(&format!("holds no account that can be used: it {why}.")))
            }
            _ => Ok(Self { usable, refused }),
        }
    }
}

/// Returns the message about logins that were not imported.
#[must_use]
pub fn describe_left_out(imported: &[Imported], refused: &[&str], path: &Path) -> Option<String> {
    let removed = imported.iter().filter(|one| **one == Imported::Removed).count();
    let mut reasons = Vec::new();
    if let Some(why) = refused.first() {
        reasons.push(format!("{} can't be used (it {why})", refused.len()));
    }
    if removed > 0 {
        reasons.push(format!("{removed} were removed before; log in again to use them"));
    }
    let all = imported.len() + refused.len();
    (!reasons.is_empty())
        .then(|| format!("Of the {all} accounts in {}, {}.", path.display(), reasons.join(", and ")))
}
