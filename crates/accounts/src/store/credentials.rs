//! Reads and replaces `oauth_creds.json`, which the qwen CLI shares.

use std::fs;
use std::path::{Path, PathBuf};

use qwen_base::{
    Code, Error, Result,
    fault::{self, Safeguard},
    opaque_debug,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, error::Category};

use super::atomic::{self, Replaced, Reservation};
use super::file::{self, Contents};
use super::lock::LockPaths;
use super::obstacle::Obstacle;
use super::raw_fields::RawFields;
use crate::model::{FIELDS, Token, fingerprint};

/// Larger files are refused.
const MAX_SIZE: u64 = 1024 * 1024;

/// Our own field: the refresh tokens from which the file's token was rotated while the store could not be written. Without it
/// the token would look like another login, and the spent token of the store would be redeemed again.
const ROTATION: &str = "opencode_qwen_rotation";
/// Number of refresh tokens in the field.
const MAX_PREDECESSORS: usize = 20;

/// Space for longer tokens, in bytes.
const ROOM_FOR_LONGER_TOKENS: u64 = 1024;

/// Tokens and all other fields of a credentials file.
#[derive(Clone)]
pub struct Credentials {
    pub token: Token,
    /// Time of the last write, in epoch milliseconds.
    pub modified_at: u64,
    /// Fingerprints of the refresh tokens that the store may have instead of this one.
    pub predecessors: Vec<String>,
    document: RawFields,
}

/// The value of [`ROTATION`], as fingerprints.
#[derive(Serialize, Deserialize)]
struct Rotation {
    /// The refresh token that this is about. Another program may have kept the field beside its own token.
    to: String,
    from: Vec<String>,
}

opaque_debug!(Credentials);

/// `oauth_creds.json`, the file that is shared with the qwen CLI.
#[derive(Debug, Clone)]
pub struct CredentialsFile {
    path: PathBuf,
}

impl CredentialsFile {
    /// Creates a handle. It opens no file yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The locks of the file.
    #[must_use]
    pub fn locks(&self) -> LockPaths {
        LockPaths::beside(&self.path, &Path::with_extension)
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`, and `ERR_QWEN_CREDENTIALS_INVALID` if the file holds no usable tokens.
    pub fn read(&self) -> Result<Option<Credentials>> {
        match file::read_own(&self.path, MAX_SIZE, Code::CredentialsInvalid)? {
            Contents::Missing => Ok(None),
            Contents::NotAFile => Err(self.invalid("is not a file")),
            Contents::TooLarge => Err(self.invalid("is larger than 1 MiB")),
            Contents::Bytes { bytes, modified_at } => self.parse(&bytes, modified_at).map(Some),
        }
    }

    fn parse(&self, contents: &[u8], modified_at: u64) -> Result<Credentials> {
        let document = match RawFields::parse(contents) {
            Ok(document) => document,
            Err(error) if error.classify() == Category::Data => {
                return Err(self.invalid("is not a JSON object"));
            }
            Err(_) if contents.trim_ascii().is_empty() => return Err(self.invalid("is empty")),
            Err(_) => return Err(self.invalid("is not JSON")),
        };
        let token =
            Token::read(&known(&document)).ok_or_else(|| self.invalid("has no usable access_token"))?;
        let rotation = document.get(ROTATION).and_then(|field| serde_json::from_value(field).ok());
        let rotation = rotation.filter(|rotation: &Rotation| is_of(&token, &rotation.to));
        let predecessors = rotation.map_or_else(Vec::new, |rotation| rotation.from);
        Ok(Credentials { token, modified_at, predecessors, document })
    }

    /// As [`CredentialsFile::read`], with a second try: a network file system fails now and then, and the CLI may be
    /// writing the file.
    ///
    /// # Errors
    /// Those of [`CredentialsFile::read`].
    pub fn read_again(&self) -> Result<Option<Credentials>> {
        self.read().or_else(|_| self.read())
    }

    /// Writes new tokens. Other fields of `previous` stay.
    ///
    /// The file is replaced. If that is impossible and `may_tear` is true, it is written in place. A crash can
    /// then leave it torn, so callers allow this if the store has the tokens, or if nothing else can take them.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`; the reason why the file can't be replaced.
    pub fn put(&self, token: &Token, previous: Option<&Credentials>, may_tear: bool) -> Result<Replaced> {
        self.put_if(&contents(token, previous, None)?, None, may_tear, &|| true)
    }

    /// As [`CredentialsFile::put`], if the file still holds the refresh token of `previous` just before it is written.
    /// `reserved` is disk space from [`CredentialsFile::reserve`]. `is_stored` is false if the store may still have the
    /// token of `previous`.
    ///
    /// # Errors
    /// Those of [`CredentialsFile::put`].
    pub fn put_over(
        &self,
        token: &Token,
        previous: &Credentials,
        reserved: Option<Reservation>,
        may_tear: bool,
        is_stored: bool,
    ) -> Result<Replaced> {
        let rotation = if is_stored { None } else { previous.rotation_to(token) };
        let contents = contents(token, Some(previous), rotation)?;
        self.put_if(&contents, reserved, may_tear, &|| self.still_holds(previous))
    }

    fn put_if(
        &self,
        contents: &[u8],
        reserved: Option<Reservation>,
        may_tear: bool,
        still: &dyn Fn() -> bool,
    ) -> Result<Replaced> {
        let replaced = atomic::replace_if(&self.path, contents, reserved, still);
        let Err(cause) = replaced else { return replaced };
        if !may_tear || fault::omits(Safeguard::InPlace) {
            return Err(cause);
        }
        if !still() {
            return Ok(Replaced::Declined);
        }
        atomic::overwrite(&self.path, contents).map(|()| Replaced::Synced).map_err(|_| cause)
    }

    fn still_holds(&self, previous: &Credentials) -> bool {
        let is_same = |now: Credentials| now.token.refresh_token == previous.token.refresh_token;
        fault::omits(Safeguard::Comparison) || self.read_again().is_ok_and(|now| now.is_some_and(is_same))
    }

    /// Reserves space for new tokens; `None` if the file can only be written in place.
    ///
    /// # Errors
    /// `ERR_QWEN_IO` if the file can't be written.
    pub fn reserve(&self) -> Result<Option<Reservation>> {
        atomic::reserve(&self.path, file::size(&self.path) + ROOM_FOR_LONGER_TOKENS)
    }

    /// False if no new file can take its place.
    #[must_use]
    pub fn is_replaceable(&self) -> bool {
        Obstacle::to(&self.path).is_none()
    }

    /// Removes the file after the user has removed its account.
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
            Err(error) => Err(Error::io("remove", &self.path, error)),
        }
    }

    /// Keeps a file without usable tokens under a name with the time.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn set_aside(&self, now_ms: u64) -> Result<PathBuf> {
        file::rename_aside(&self.path, now_ms).map_err(|error| Error::io("move aside", &self.path, error))
    }

    fn invalid(&self, what: &str) -> Error {
        let message = format!(
            "The credentials file {} {what}. Log in again, or restore it from a backup.",
            self.path.display()
        );
        Error::new(Code::CredentialsInvalid, message).with_path(&self.path)
    }
}

impl Credentials {
    fn rotation_to(&self, token: &Token) -> Option<Rotation> {
        let mut from = self.predecessors.clone();
        from.push(fingerprint(self.token.refresh_token.as_ref()?));
        from.drain(..from.len().saturating_sub(MAX_PREDECESSORS));
        Some(Rotation { to: fingerprint(token.refresh_token.as_ref()?), from })
    }
}

fn is_of(token: &Token, print: &str) -> bool {
    token.refresh_token.as_ref().is_some_and(|token| fingerprint(token) == print)
}

/// Returns the file's contents with other tokens. Other fields of `previous` stay.
fn contents(token: &Token, previous: Option<&Credentials>, rotation: Option<Rotation>) -> Result<Vec<u8>> {
    let mut document = previous.map(|credentials| credentials.document.clone()).unwrap_or_default();
    let before = known(&document);
    let mut after = before.clone();
    token.write(&mut after);
    for name in FIELDS.into_iter().filter(|name| before.get(*name) != after.get(*name)) {
        document.set(name, after.get(name)).map_err(Error::internal)?;
    }
    let rotation = rotation.map(serde_json::to_value).transpose().map_err(Error::internal)?;
    document.set(ROTATION, rotation.as_ref()).map_err(Error::internal)?;
    Ok(document.to_json())
}

/// Returns the fields of a token.
fn known(document: &RawFields) -> Map<String, Value> {
    FIELDS.into_iter().filter_map(|name| Some((name.to_owned(), document.get(name)?))).collect()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make files that no writer of ours would")]
mod tests {
    use proptest::prelude::*;
    use qwen_base::Secret;
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
        file.put(&credentials.token, Some(&credentials), false).unwrap();
        assert_eq!(
            fs::read_to_string(file.path()).unwrap(),
            serde_json::to_string_pretty(&original).unwrap()
        );

        credentials.token.access_token = Secret::new("b");
        file.put(&credentials.token, Some(&credentials), false).unwrap();
        let written: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
        assert_eq!(written["access_token"], "b");
        assert_eq!(written["added_by_cli_0.99"], original["added_by_cli_0.99"]);
    }

    #[test]
    fn fields_of_others_stay_as_they_are_written() {
        let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        for (field, kept) in [
            (r#""x":12345678901234567890123"#.as_bytes(), None),
            (br#""x":[1e5,1.0,-0]"#, None),
            (br#""x":1e400"#, None),
            (br#""x":"a\ud800b","\ud800":"\u0061""#, None),
            (format!("\"x\":{deep}").as_bytes(), None),
            (br#""x":1,"x":2"#, None),
            (b"\"x\":\"caf\xe9\"", Some("\"x\":\"caf\u{fffd}\"")),
        ] {
            let (_temporary, file) =
                file_with(&[b"{\"access_token\":\"a\",", field, b",\"expiry_date\":5}"].concat());
            let mut credentials = file.read().unwrap().unwrap();
            credentials.token.access_token = Secret::new("b");
            file.put(&credentials.token, Some(&credentials), false).unwrap();
            let written = fs::read_to_string(file.path()).unwrap().replace(['\n', ' '], "");
            let kept = kept.unwrap_or_else(|| str::from_utf8(field).unwrap());
            let expected = format!(r#"{{"access_token":"b",{kept},"expiry_date":5,"token_type":"Bearer"}}"#);
            assert_eq!(written, expected);
            assert_eq!(file.read().unwrap().unwrap().token, credentials.token);
        }
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
        let (_temporary, file) = file_with(br#"{"access_token":"a","expiry_date":1e400}"#);
        assert_eq!(file.read().unwrap().unwrap().token.expires_at, 0);
    }

    #[test]
    fn a_file_without_tokens_is_an_error_that_names_it() {
        for contents in [
            &b""[..],
            b"{",
            b"[]",
            b"{}",
            b"\xef\xbb\xbf{}",
            b"\x00\xff",
            br#"{"access_token":""}"#,
            b"{\"access_token\":\"a\\u0000\"}",
            b"{\"access_token\":\"a\",\"x\":NaN}",
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
        let before = file::stamp(file.path()).unwrap();
        let credentials = file.read().unwrap();
        assert_eq!(file::stamp(file.path()).unwrap(), before);
        file.put(&credentials.as_ref().unwrap().token, credentials.as_ref(), false).unwrap();
        assert_ne!(file::stamp(file.path()).unwrap(), before);
    }

    proptest! {
        #[test]
        fn reading_never_panics(contents in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (_temporary, file) = file_with(&contents);
            let _ = file.read();
        }
    }
}
