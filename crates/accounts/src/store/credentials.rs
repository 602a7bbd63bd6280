//! `oauth_creds.json`, the file that is shared with the qwen CLI.

use std::fs;
use std::path::{Path, PathBuf};

use qwen_base::{
    Code, Error, Result, Secret,
    fault::{self, Safeguard},
    instant_from_number, opaque_debug,
};
use serde_json::{Map, Value};

use super::atomic::{self, Replaced, Reservation};
use super::file::{self, Contents, Stamp};
use super::lock::LockPaths;
use crate::oauth::error_response::text;
use crate::oauth::token::Token;

/// No credentials file is anywhere near this large.
const MAX_SIZE: u64 = 1024 * 1024;

/// New tokens may be longer than those that they replace, in bytes.
const ROOM_FOR_LONGER_TOKENS: u64 = 1024;

/// Tokens as a file holds them, and whatever else is in it.
#[derive(Clone)]
pub struct Credentials {
    /// The tokens.
    pub token: Token,
    /// When the file was last written, in epoch milliseconds.
    pub modified_at: u64,
    document: Map<String, Value>,
}

opaque_debug!(Credentials);

/// One credentials file.
#[derive(Debug, Clone)]
pub struct CredentialsFile {
    path: PathBuf,
}

impl CredentialsFile {
    /// Opens nothing.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The locks that guard it.
    #[must_use]
    pub fn locks(&self) -> LockPaths {
        LockPaths::beside(&self.path, Path::with_extension)
    }

    /// What the file is now, or `None` where there is none.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn stamp(&self) -> Result<Option<Stamp>> {
        file::stamp(&self.path)
    }

    /// Reads the file; `None` where there is none.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`, and `ERR_QWEN_CREDENTIALS_INVALID` where the file holds no usable tokens.
    pub fn read(&self) -> Result<Option<Credentials>> {
        match file::read_own(&self.path, MAX_SIZE, Code::CredentialsInvalid)? {
            Contents::Missing => Ok(None),
            Contents::NotAFile => Err(self.invalid("is not a file")),
            Contents::TooLarge => Err(self.invalid("is larger than 1 MiB")),
            Contents::Bytes { bytes, modified_at } => self.parse(&bytes, modified_at).map(Some),
        }
    }

    fn parse(&self, contents: &[u8], modified_at: u64) -> Result<Credentials> {
        let document = match serde_json::from_slice(contents) {
            Ok(Value::Object(document)) => document,
            Ok(_) => return Err(self.invalid("is not a JSON object")),
            Err(_) if contents.trim_ascii().is_empty() => return Err(self.invalid("is empty")),
            Err(_) => return Err(self.invalid("is not JSON")),
        };
        let access_token = text(&document, "access_token")
            .filter(|token| !token.chars().any(char::is_control))
            .ok_or_else(|| self.invalid("has no usable access_token"))?;
        let token = Token {
            access_token: Secret::new(access_token),
            refresh_token: text(&document, "refresh_token").map(Secret::new),
            token_type: text(&document, "token_type").unwrap_or("Bearer").to_owned(),
            resource_url: text(&document, "resource_url").map(str::to_owned),
            scope: text(&document, "scope").map(str::to_owned),
            // Without a usable expiry the token is refreshed before it is used.
            expires_at: document.get("expiry_date").and_then(instant).unwrap_or(0),
        };
        Ok(Credentials { token, modified_at, document })
    }

    /// Replaces the tokens in the file. Fields of `previous` that are not ours are kept.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`; the file is then as it was.
    pub fn write(&self, token: &Token, previous: Option<&Credentials>) -> Result<Replaced> {
        atomic::replace(&self.path, &contents(token, previous)?)
    }

    /// As [`CredentialsFile::write`], unless the file no longer holds the refresh token of `previous` at the last moment.
    /// `reserved` is room that was made for it.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`; the file is then as it was.
    pub fn write_over(
        &self,
        token: &Token,
        previous: &Credentials,
        reserved: Option<Reservation>,
    ) -> Result<Replaced> {
        let contents = contents(token, Some(previous))?;
        atomic::replace_if(&self.path, &contents, reserved, || self.still_holds(previous))
    }

    /// Writes into the file where it can't be replaced, if it still holds the refresh token of `previous`. A crash can leave
    /// it torn, so the tokens must be in the store before.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn write_in_place(&self, token: &Token, previous: &Credentials) -> Result<()> {
        let contents = contents(token, Some(previous))?;
        if self.still_holds(previous) { atomic::overwrite(&self.path, &contents) } else { Ok(()) }
    }

    fn still_holds(&self, previous: &Credentials) -> bool {
        let is_same = |now: Credentials| now.token.refresh_token == previous.token.refresh_token;
        fault::omits(Safeguard::Comparison) || self.read().is_ok_and(|now| now.is_some_and(is_same))
    }

    /// Makes room for other tokens in the file's place.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn reserve(&self) -> Result<Reservation> {
        Reservation::make(&self.path, file::size(&self.path) + ROOM_FOR_LONGER_TOKENS)
    }

    /// Removes the file: the user has removed its account.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn remove(&self) -> Result<()> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one act that removes credentials, and the user's own"
        )]
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", &self.path, &error)),
        }
    }

    /// Moves a file that holds no usable tokens out of the way, under a name that says when.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn set_aside(&self, now_ms: u64) -> Result<PathBuf> {
        let aside = file::aside(&self.path, now_ms);
        fs::rename(&self.path, &aside).map_err(|error| Error::io("move aside", &self.path, &error))?;
        Ok(aside)
    }

    fn invalid(&self, what: &str) -> Error {
        let message = format!(
            "The credentials file {} {what}. Log in again, or restore it from a backup.",
            self.path.display()
        );
        Error::new(Code::CredentialsInvalid, message).with_path(&self.path)
    }
}

/// The file with other tokens in it. Fields of `previous` that are not ours are kept.
fn contents(token: &Token, previous: Option<&Credentials>) -> Result<Vec<u8>> {
    let mut document = previous.map(|credentials| credentials.document.clone()).unwrap_or_default();
    let mut set = |field: &str, value: Option<&str>| match value {
        Some(value) => drop(document.insert(field.to_owned(), Value::from(value))),
        None => drop(document.shift_remove(field)),
    };
    set("access_token", Some(token.access_token.expose()));
    set("refresh_token", token.refresh_token.as_ref().map(Secret::expose));
    set("token_type", Some(&token.token_type));
    set("resource_url", token.resource_url.as_deref());
    document.insert("expiry_date".to_owned(), Value::from(token.expires_at));
    // Two spaces and no final newline, as the CLI writes it.
    serde_json::to_vec_pretty(&document).map_err(Error::internal)
}

/// An instant in epoch milliseconds: a number, or a string that holds one.
fn instant(value: &Value) -> Option<u64> {
    instant_from_number(value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make files that no writer of ours would")]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn file_with(contents: &[u8]) -> (tempfile::TempDir, CredentialsFile) {
        let temporary = tempfile::tempdir().unwrap();
        let file = CredentialsFile::new(temporary.path().join("oauth_creds.json"));
        fs::write(file.path(), contents).unwrap();
        (temporary, file)
    }

    #[test]
    fn the_clis_form_and_unknown_fields_survive_a_write() {
        let original = json!({
            "access_token": "a", "refresh_token": "r", "token_type": "Bearer", "resource_url": "portal.qwen.ai",
            "expiry_date": 1_893_456_000_000_u64, "added_by_cli_0.99": {"kept": true}
        });
        let (_temporary, file) = file_with(serde_json::to_string_pretty(&original).unwrap().as_bytes());
        let mut credentials = file.read().unwrap().unwrap();
        assert_eq!(credentials.token.expires_at, 1_893_456_000_000);
        file.write(&credentials.token, Some(&credentials)).unwrap();
        assert_eq!(
            fs::read_to_string(file.path()).unwrap(),
            serde_json::to_string_pretty(&original).unwrap()
        );

        credentials.token.access_token = Secret::new("b");
        file.write(&credentials.token, Some(&credentials)).unwrap();
        let written: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
        assert_eq!(written["access_token"], "b");
        assert_eq!(written["added_by_cli_0.99"], original["added_by_cli_0.99"]);
    }

    #[test]
    fn an_expiry_may_be_a_string_and_a_missing_one_means_expired() {
        let expiry = |value: Value| {
            let (_temporary, file) =
                file_with(json!({"access_token": "a", "expiry_date": value}).to_string().as_bytes());
            file.read().unwrap().unwrap().token.expires_at
        };
        assert_eq!(expiry(json!("1893456000000")), 1_893_456_000_000);
        for bad in [json!(null), json!("soon"), json!(-1), json!(1e300), json!({})] {
            assert_eq!(expiry(bad), 0);
        }
    }

    #[test]
    fn what_holds_no_tokens_is_an_error_that_names_the_file() {
        for contents in [
            &b""[..],
            b"{",
            b"[]",
            b"{}",
            b"\x00\xff",
            br#"{"access_token":""}"#,
            b"{\"access_token\":\"a\\u0000\"}",
        ] {
            let (_temporary, file) = file_with(contents);
            let error = file.read().unwrap_err();
            assert_eq!(error.code(), Code::CredentialsInvalid);
            assert_eq!(error.path(), Some(file.path()));
            assert_eq!(fs::read(file.path()).unwrap(), contents);
        }
        let (_temporary, file) = file_with(&vec![b' '; 1024 * 1024 + 1]);
        assert!(file.read().unwrap_err().message().contains("1 MiB"));
    }

    #[test]
    fn a_rewrite_changes_the_stamp() {
        let (_temporary, file) = file_with(br#"{"access_token":"a"}"#);
        let before = file.stamp().unwrap();
        let credentials = file.read().unwrap();
        assert_eq!(file.stamp().unwrap(), before);
        file.write(&credentials.as_ref().unwrap().token, credentials.as_ref()).unwrap();
        assert_ne!(file.stamp().unwrap(), before);
    }

    proptest! {
        #[test]
        fn reading_never_panics(contents in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (_temporary, file) = file_with(&contents);
            let _ = file.read();
        }
    }
}
