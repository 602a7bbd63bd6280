//! Erases the tokens of a removed account from copies of its files: damaged stores that were kept, and temporary files
//! of interrupted writes.

use std::fs;
use std::path::{Path, PathBuf};

use qwen_base::{Secret, safe_open};

use crate::store::atomic;
use crate::store::record::Record;
use crate::store::recover::recover;

/// Replaces an erased token.
const STRUCK: &str = "removed";
/// Shorter strings are not tokens.
const MIN_TOKEN: usize = 8;
/// Limits of the search below the Qwen directory.
const MAX_DEPTH: usize = 3;
const MAX_FILES: usize = 5_000;
/// Larger files are skipped: no store is larger.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// The tokens of one account, earlier ones included.
pub struct Traces<'a> {
    record: &'a Record,
    /// The current tokens, or the key.
    current: Vec<Secret>,
}

impl<'a> Traces<'a> {
    /// Returns the traces of a removed account.
    pub fn of(record: &'a Record) -> Self {
        let token = record.token();
        let current = token.into_iter().flat_map(|token| [Some(token.access_token), token.refresh_token]);
        Self { record, current: current.flatten().collect() }
    }

    /// Erases the account's tokens from our own files below `directory`. Returns the files that still hold one, since
    /// files of other programs are not changed.
    pub fn erase(&self, directory: &Path, store: &Path) -> Vec<PathBuf> {
        let (mut files, mut left) = (Vec::new(), Vec::new());
        list(directory, MAX_DEPTH, &mut files);
        if files.len() >= MAX_FILES {
            left.push(directory.to_owned());
        }
        for path in files {
            let Ok(Some(contents)) = safe_open::read(&path, MAX_SIZE) else { continue };
            let Some(struck) = self.strike(&contents, is_copy(&path, store)) else { continue };
            if !is_copy(&path, store) || atomic::replace(&path, &struck).is_err() {
                left.push(path);
            }
        }
        left
    }

    /// True if the file holds a token of the account.
    pub fn are_in(&self, path: &Path) -> bool {
        matches!(safe_open::read(path, MAX_SIZE), Ok(Some(contents)) if self.strike(&contents, false).is_some())
    }

    /// Returns the contents without the account's tokens; `None` if there are none. With `is_store`, other tokens under
    /// the account's id are erased too.
    fn strike(&self, contents: &[u8], is_store: bool) -> Option<Vec<u8>> {
        let mut secrets = self.current.clone();
        if is_store {
            let same = recover(contents);
            let same = same.all().filter(|other| other.id() == self.record.id());
            let tokens = same.filter_map(Record::token);
            secrets
                .extend(tokens.flat_map(|token| [Some(token.access_token), token.refresh_token]).flatten());
        }
        let mut kept = Vec::with_capacity(contents.len());
        let (mut found, mut at) = (false, 0);
        // In a damaged file quotes may be unbalanced, so the text between any two quotes is checked.
        while at <= contents.len() {
            let end =
                contents[at..].iter().position(|&byte| byte == b'"').map_or(contents.len(), |to| at + to);
            let is_cut = end == contents.len();
            match self.without(&contents[at..end], &secrets, is_cut) {
                Some(struck) => {
                    found = true;
                    kept.extend_from_slice(struck.as_bytes());
                }
                None => kept.extend_from_slice(&contents[at..end]),
            }
            if !is_cut {
                kept.push(b'"');
            }
            at = end + 1;
        }
        found.then_some(kept)
    }

    /// Erases tokens from one piece of a file; `None` if it holds none.
    fn without(&self, piece: &[u8], secrets: &[Secret], is_cut: bool) -> Option<String> {
        if piece.len() < MIN_TOKEN {
            return None;
        }
        let text = std::str::from_utf8(piece).ok()?;
        let plain = text.replace("\\/", "/");
        // The original plugin writes `refresh:<token>` into a field of its own.
        let bare = plain.strip_prefix("refresh:").unwrap_or(&plain);
        let is_spent = || self.record.has_spent(&Secret::new(bare));
        let is_start = |secret: &&Secret| is_cut && secret.expose().starts_with(bare.trim_end());
        if (bare.len() < 16 * 1024 && is_spent()) || secrets.iter().any(|secret| is_start(&secret)) {
            return Some(STRUCK.to_owned());
        }
        let mut struck = plain.clone();
        for secret in secrets.iter().filter(|secret| secret.expose().len() >= MIN_TOKEN) {
            if struck.contains(secret.expose()) {
                struck = struck.replace(secret.expose(), STRUCK);
            }
        }
        (struck != plain).then_some(struck)
    }
}

fn list(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if files.len() >= MAX_FILES {
            return;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            Ok(kind) if kind.is_dir() && depth > 1 => list(&entry.path(), depth - 1, files),
            // Links are not followed.
            _ => {}
        }
    }
}

/// True for our own copies of a credentials file or store: damaged ones that were kept, and temporary files.
fn is_copy(path: &Path, store: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let store = store.file_name().unwrap_or_default().to_string_lossy();
    ["oauth_creds.json", "oauth_accounts.json", &store].into_iter().any(|own| {
        name.starts_with(&format!("{own}.corrupt-"))
            || (name.starts_with(&format!(".{own}.")) && name.ends_with(atomic::TEMPORARY_SUFFIX))
    })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests play the user and other programs")]
mod tests {
    use super::*;
    use crate::store::document::tests::token;

    fn record() -> Record {
        let mut record = Record::new("ann", None, &token("one", 1), 0);
        record.set_token(&token("two", 2), 0);
        record
    }

    #[test]
    fn only_tokens_of_the_account_are_erased() {
        let record = record();
        let traces = Traces::of(&record);
        for (contents, expected) in [
            (
                r#"{"a":"access-two","b":"refresh-two","c":"access-other"}"#,
                r#"{"a":"removed","b":"removed","c":"access-other"}"#,
            ),
            (r#"{"accountKey":"refresh:refresh-two"}"#, r#"{"accountKey":"refresh:removed"}"#),
            // An earlier token.
            (r#"{"refresh_token": "refresh-one", "x": 1}"#, r#"{"refresh_token": "removed", "x": 1}"#),
            // Damaged files.
            (r#"oken": "refresh-two", "acc"#, r#"oken": "removed", "acc"#),
            (r#"{"refresh_token": "refresh-tw"#, r#"{"refresh_token": "removed"#),
        ] {
            let struck = traces.strike(contents.as_bytes(), true).expect(contents);
            assert_eq!(String::from_utf8(struck).unwrap(), expected);
        }
        let older = r#"{"accounts":[{"id":"ann","token":{"access_token":"access-zero"}},{"id":"bob","token":{"access_token":"access-bob"}}]}"#;
        let struck = String::from_utf8(traces.strike(older.as_bytes(), true).unwrap()).unwrap();
        assert_eq!(struck, older.replace("access-zero", STRUCK));
        for clean in [r#"{"id":"bob","access_token":"access-other"}"#, "", "\""] {
            assert_eq!(traces.strike(clean.as_bytes(), true), None, "{clean}");
        }
    }

    #[test]
    fn only_our_own_copies_are_changed() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("mine.json");
        let write = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "{\"access_token\": \"access-two\"}").unwrap();
            path
        };
        let ours = ["oauth_creds.json.corrupt-1", "mine.json.corrupt-2-3", ".oauth_accounts.json.x.y.tmp"]
            .map(write);
        let mut theirs = ["oauth_creds.json.bak", "tmp/notes.txt"].map(write);
        let record = record();
        let mut left = Traces::of(&record).erase(directory.path(), &store);
        left.sort();
        theirs.sort();
        assert_eq!(left, theirs);
        for path in ours {
            assert_eq!(fs::read_to_string(path).unwrap(), "{\"access_token\": \"removed\"}");
        }
    }
}
