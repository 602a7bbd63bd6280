//! Erases the tokens of a removed account from copies of its files: damaged stores that were kept, and temporary files
//! of interrupted writes.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use qwen_base::{
    ESCAPE_LENGTH, Secret, escaped_unit,
    safe_open::{self, NotAFile},
};
use serde_json::Value;

use crate::store::atomic;
use crate::store::file::MAX_FILE;
use crate::store::record::Record;
use crate::store::recover::for_each_object;

/// Replaces an erased token.
const ERASED: &str = "removed";
/// Shorter strings are not tokens.
const MIN_TOKEN: usize = 8;
/// Limits of the search below the Qwen directory.
pub const MAX_DEPTH: usize = 6;
pub const MAX_FILES: usize = 5_000;

/// Result of erasing the tokens of an account.
#[derive(Debug, PartialEq, Eq)]
pub struct Erased {
    /// Files that still hold a token, or can't be read.
    pub left: Vec<PathBuf>,
    /// False if some files below the Qwen directory were not searched.
    pub is_complete: bool,
}

/// The tokens of one account, earlier ones included.
pub struct Traces<'a> {
    record: &'a Record,
    /// The current tokens, or the key.
    current: Vec<Secret>,
}

impl<'a> Traces<'a> {
    /// Returns the traces of a removed account.
    pub fn of(record: &'a Record) -> Self {
        Self { record, current: secrets_of(record).collect() }
    }

    /// Erases the account's tokens from our own copies of `credentials` and `store`, and finds them in the files of other
    /// programs below the Qwen directory, which are not changed.
    pub fn erase(&self, credentials: &Path, store: &Path) -> Erased {
        let own: Vec<PathBuf> = [credentials, store].into_iter().flat_map(with_target).collect();
        let mut copies = BTreeSet::new();
        for directory in own.iter().filter_map(|path| path.parent()).collect::<BTreeSet<_>>() {
            list(directory, 1, &mut |path| {
                if is_copy(&path, &own) {
                    copies.insert(path);
                }
                true
            });
        }
        let mut others = Vec::new();
        let directory = credentials.parent().unwrap_or(Path::new(""));
        let is_complete = list(directory, MAX_DEPTH, &mut |path| {
            if !copies.contains(&path) {
                others.push(path);
            }
            others.len() < MAX_FILES
        });
        let mut left: Vec<_> = copies.into_iter().chain(others).collect();
        left.retain(|path| self.erase_from(path, is_copy(path, &own)));
        Erased { left, is_complete }
    }

    /// True if the file holds a token of the account, or can't be searched for one.
    pub fn may_be_in(&self, path: &Path) -> bool {
        self.erase_from(path, false)
    }

    /// Erases the account's tokens from a copy; other files are only searched. True if the file may still hold one.
    fn erase_from(&self, path: &Path, is_copy: bool) -> bool {
        // The bytes themselves: a byte order mark says little about a damaged file.
        match safe_open::read(path, MAX_FILE) {
            Ok(Some(bytes)) => match self.erase_tokens(&bytes, is_copy) {
                Some(erased) => !is_copy || atomic::replace(path, &erased).is_err(),
                None => false,
            },
            Ok(None) => true,
            Err(error) if NotAFile::of(&error).is_some() => false,
            // A parent of the path may be a file.
            Err(_) => path.symlink_metadata().is_ok(),
        }
    }

    /// Returns the contents without the account's tokens; `None` if there are none. With `is_store`, other tokens under
    /// the account's id are erased too.
    fn erase_tokens(&self, contents: &[u8], is_store: bool) -> Option<Vec<u8>> {
        let mut secrets = self.current.clone();
        if is_store {
            // In UTF-16 and UTF-32, JSON has zeros between its characters.
            let narrow: Vec<u8> = contents.iter().copied().filter(|byte| *byte != 0).collect();
            for_each_object(&narrow, &mut |object| self.collect(&Value::Object(object), &mut secrets));
        }
        let mut erased = None;
        // The numbers of bytes per character in UTF-8, UTF-16 and UTF-32.
        for width in [1, 2, 4] {
            let without = self.erase_in_words(erased.as_deref().unwrap_or(contents), width, &secrets);
            erased = without.or(erased);
        }
        erased
    }

    /// Collects the tokens of all objects with the account's id, at any depth.
    fn collect(&self, value: &Value, secrets: &mut Vec<Secret>) {
        match value {
            Value::Object(fields) => {
                if fields.get("id").and_then(Value::as_str) == Some(self.record.id()) {
                    let record = Record::from_fields(fields.clone(), fields.get("token").is_none());
                    secrets.extend(secrets_of(&record));
                }
                fields.values().for_each(|value| self.collect(value, secrets));
            }
            Value::Array(values) => values.iter().for_each(|value| self.collect(value, secrets)),
            _ => {}
        }
    }

    /// Erases tokens from the words of a file, which may be damaged; `None` if it holds none. A word is a run of
    /// characters of `width` bytes without a quote or a space. In big-endian text, a character's zero bytes come first, so
    /// a word here starts at the last byte of its first character.
    fn erase_in_words(&self, contents: &[u8], width: usize, secrets: &[Secret]) -> Option<Vec<u8>> {
        let is_char = |at: usize| {
            contents[at].is_ascii_graphic()
                && contents[at] != b'"'
                && contents.get(at + 1..at + width).is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
        };
        let is_quote = |at: Option<usize>| at.and_then(|at| contents.get(at)) == Some(&b'"');
        let mut kept = Vec::with_capacity(contents.len());
        let (mut found, mut at) = (false, 0);
        while at < contents.len() {
            let start = at;
            while at < contents.len() && is_char(at) {
                at += width;
            }
            if at == start {
                kept.push(contents[at]);
                at += 1;
                continue;
            }
            let word: String =
                contents[start..at].iter().step_by(width).map(|byte| char::from(*byte)).collect();
            let is_torn = !is_quote(start.checked_sub(width)) || !is_quote(Some(at));
            match self.erase_in_word(&word, secrets, is_torn) {
                Some(erased) => {
                    found = true;
                    for byte in erased.bytes() {
                        kept.push(byte);
                        kept.resize(kept.len() + width - 1, 0);
                    }
                }
                None => kept.extend_from_slice(&contents[start..at]),
            }
        }
        found.then_some(kept)
    }

    /// Erases tokens from a word; `None` if it holds none. A torn word may be the beginning or the end of a token.
    fn erase_in_word(&self, word: &str, secrets: &[Secret], is_torn: bool) -> Option<String> {
        if word.len() < MIN_TOKEN {
            return None;
        }
        let plain = unescaped(word);
        // The original plugin writes `refresh:<token>` into a field of its own. JSON in JSON escapes its quotes.
        let bare = plain.strip_prefix("refresh:").unwrap_or(&plain).trim_matches('\\');
        // The last escape may be torn.
        let bare =
            bare.rfind('\\').filter(|at| at + ESCAPE_LENGTH > bare.len()).map_or(bare, |at| &bare[..at]);
        let is_spent = || self.record.has_spent(&Secret::new(bare));
        let is_part = |secret: &Secret| {
            let is_part = secret.expose().starts_with(bare) || secret.expose().ends_with(bare);
            is_torn && bare.len() >= MIN_TOKEN && is_part
        };
        if (bare.len() < 16 * 1024 && is_spent()) || secrets.iter().any(is_part) {
            return Some(plain.replace(bare, ERASED));
        }
        let mut erased = plain.to_string();
        for secret in secrets.iter().filter(|secret| secret.expose().len() >= MIN_TOKEN) {
            if erased.contains(secret.expose()) {
                erased = erased.replace(secret.expose(), ERASED);
            }
        }
        (erased != plain).then_some(erased)
    }
}

/// Decodes the JSON escapes of characters that a token may have, also those of JSON in JSON.
fn unescaped(word: &str) -> Cow<'_, str> {
    let (mut plain, mut copied) = (String::new(), 0);
    for (at, _) in word.match_indices('\\') {
        let character = match word.as_bytes().get(at + 1) {
            Some(b'/') => Some(('/', 2)),
            _ => escaped_unit(word.as_bytes(), at)
                .and_then(|unit| char::from_u32(unit.into()))
                .filter(|character| character.is_ascii_graphic() && !r#""\"#.contains(*character))
                .map(|character| (character, ESCAPE_LENGTH)),
        };
        if let Some((character, length)) = character {
            plain.push_str(word[copied..at].trim_end_matches('\\'));
            plain.push(character);
            copied = at + length;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(word);
    }
    plain.push_str(&word[copied..]);
    Cow::Owned(plain)
}

/// Returns the tokens of an account, or its key.
fn secrets_of(record: &Record) -> impl Iterator<Item = Secret> + use<> {
    let token = record.token();
    token.into_iter().flat_map(|token| [Some(token.access_token), token.refresh_token]).flatten()
}

/// Calls `take` with each file until it returns false. Returns false if not all files were taken.
fn list(directory: &Path, depth: usize, take: &mut dyn FnMut(PathBuf) -> bool) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return !directory.exists() };
    let mut is_complete = true;
    for entry in entries {
        let Ok(entry) = entry else { return false };
        match entry.file_type() {
            Ok(kind) if kind.is_file() && !take(entry.path()) => return false,
            Ok(kind) if kind.is_dir() && depth > 1 => is_complete &= list(&entry.path(), depth - 1, take),
            Ok(kind) if kind.is_dir() => is_complete = false,
            // Links are not followed.
            _ => {}
        }
    }
    is_complete
}

/// Returns a path, and the file that it leads to if it is a link.
fn with_target(path: &Path) -> BTreeSet<PathBuf> {
    let target = atomic::follow_links(path).unwrap_or_else(|_| path.to_owned());
    BTreeSet::from([path.to_owned(), target])
}

/// True for our own copies of a credentials file or store: damaged ones that were kept, and temporary files.
fn is_copy(path: &Path, own: &[PathBuf]) -> bool {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let defaults = ["oauth_creds.json", "oauth_accounts.json"].map(str::to_owned);
    own.iter().map(|own| name(own)).chain(defaults).any(|own| {
        let name = name(path);
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
            ("sh-two-tail esh-two\", \"refresh-two\n", "sh-two-tail esh-two\", \"removed\n"),
            (
                r#"{"note":"{\"refresh_token\":\"refresh-one\"}"}"#,
                r#"{"note":"{\"refresh_token\":\"removed\"}"}"#,
            ),
            // Escaped characters.
            (
                r#"{"a":"\u0061ccess\u002dtwo","b":"refresh\u002Done","c":"\u00e9"}"#,
                r#"{"a":"removed","b":"removed","c":"\u00e9"}"#,
            ),
            (
                r#"{"note":"{\"a\":\"\\u0061ccess-two\",\u0022b\u0022:\u0022refresh-two\u0022}"}"#,
                r#"{"note":"{\"a\":\"removed\",\u0022b\u0022:\u0022removed\u0022}"}"#,
            ),
            (r#"oken": "refresh\u002dtw"#, r#"oken": "removed"#),
            (r#"oken": "refresh\u002dt\u00"#, r#"oken": "removed\u00"#),
        ] {
            let erased = traces.erase_tokens(contents.as_bytes(), true).expect(contents);
            assert_eq!(String::from_utf8(erased).unwrap(), expected);
        }
        let older = r#"{"accounts":[{"id":"ann","token":{"access_token":"access-zero"}},{"id":"bob","token":{"access_token":"access-bob"}}]}"#;
        let erased = String::from_utf8(traces.erase_tokens(older.as_bytes(), true).unwrap()).unwrap();
        assert_eq!(erased, older.replace("access-zero", ERASED));
        let deep = r#"{"a":[{"b":{"accounts":[{"id":"ann","token":{"access_token":"access-zero"}}]}}]}"#;
        let erased = String::from_utf8(traces.erase_tokens(deep.as_bytes(), true).unwrap()).unwrap();
        assert_eq!(erased, deep.replace("access-zero", ERASED));
        for clean in [r#"{"id":"bob","access_token":"access-other"}"#, "", "\""] {
            assert_eq!(traces.erase_tokens(clean.as_bytes(), true), None, "{clean}");
        }
    }

    const HELD: &str = "{\"access_token\": \"access-two\"}";

    fn utf16(text: &str) -> Vec<u8> {
        "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
    }

    /// The paths of the credentials file and of the store in a directory.
    fn own_files(directory: &Path, store: &str) -> [PathBuf; 2] {
        [directory.join("oauth_creds.json"), directory.join(store)]
    }

    fn write(path: PathBuf, contents: impl AsRef<[u8]>) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }

    #[test]
    fn only_our_own_copies_are_changed() {
        let directory = tempfile::tempdir().unwrap();
        let [credentials, store] = own_files(directory.path(), "mine.json");
        let in_directory = |name: &str| write(directory.path().join(name), HELD);
        let ours = ["oauth_creds.json.corrupt-1", "mine.json.corrupt-2-3", ".oauth_accounts.json.x.y.tmp"]
            .map(in_directory);
        let mut theirs =
            ["oauth_creds.json.bak", "tmp/notes.txt", "1/2/3/4/5/at-the-limit.txt"].map(in_directory);
        theirs.sort();
        let record = record();
        let mut erased = Traces::of(&record).erase(&credentials, &store);
        erased.left.sort();
        assert_eq!(erased, Erased { left: theirs.into(), is_complete: true });
        for path in ours {
            assert_eq!(fs::read_to_string(path).unwrap(), "{\"access_token\": \"removed\"}");
        }
        in_directory("1/2/3/4/5/6/too-deep.txt");
        let again = Traces::of(&record).erase(&credentials, &store);
        assert_eq!((again.left.len(), again.is_complete), (erased.left.len(), false));
    }

    #[test]
    fn a_copy_is_erased_in_any_encoding_or_named() {
        type Encode = fn(&str) -> Vec<u8>;
        let encodings: [(&str, Encode); 5] = [
            ("UTF-8", |text| text.as_bytes().to_vec()),
            ("UTF-16LE", |text| text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
            ("UTF-16BE", |text| text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
            ("UTF-32LE", |text| text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect()),
            ("UTF-32BE", |text| text.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect()),
        ];
        // An earlier token, the current one, and one that only the copy has, without byte order mark.
        let text = r#"{"x":{"id":"ann","refresh_token":"refresh-one","token":{"access_token":"access-zero"}},"y":"access-two"}"#;
        let expected = ["refresh-one", "access-zero", "access-two"]
            .iter()
            .fold(text.to_owned(), |text, token| text.replace(token, ERASED));
        let record = record();
        let traces = Traces::of(&record);
        for (name, encode) in encodings {
            for torn in [&b""[..], b"\xff\xd8\xfe"] {
                let copy = [torn, &encode(text)[..], torn].concat();
                let erased = traces.erase_tokens(&copy, true).unwrap();
                assert_eq!(erased, [torn, &encode(&expected)[..], torn].concat(), "{name}");
            }
            let cut = encode("{\"y\":\"access-two");
            let erased = traces.erase_tokens(&cut[..cut.len() - 1], true).unwrap();
            assert!(!erased.windows(encode("access").len()).any(|part| part == encode("access")), "{name}");
        }

        let directory = tempfile::tempdir().unwrap();
        let [credentials, store] = own_files(directory.path(), "oauth_accounts.json");
        let in_directory = |name: &str, contents: &[u8]| write(directory.path().join(name), contents);
        let erasable = in_directory("oauth_accounts.json.corrupt-1", &utf16(&format!("{HELD},")));
        // One byte is missing after the mark, or 8-bit text follows it.
        let without_a_byte =
            in_directory("oauth_accounts.json.corrupt-4", &[&[0xff, 0xfe], &utf16(HELD)[3..]].concat());
        let mixed =
            in_directory("oauth_accounts.json.corrupt-5", &[&utf16("{}")[..], HELD.as_bytes()].concat());
        let undecodable = [&utf16(HELD)[..], &[0, 0xd8, 0, 0]].concat();
        let undecodable = in_directory("oauth_accounts.json.corrupt-2", &undecodable);
        let too_large = in_directory("oauth_accounts.json.corrupt-3", b"");
        fs::File::options().write(true).open(&too_large).unwrap().set_len(MAX_FILE + 1).unwrap();
        let erased = traces.erase(&credentials, &store);
        assert_eq!(erased.left, [too_large]);
        let expected = "{\"access_token\": \"removed\"}";
        assert_eq!(fs::read(erasable).unwrap(), utf16(&format!("{expected},")));
        let rest = &utf16(expected)[3..];
        assert_eq!(fs::read(without_a_byte).unwrap(), [&[0xff, 0xfe], rest].concat());
        assert_eq!(fs::read(mixed).unwrap(), [&utf16("{}")[..], expected.as_bytes()].concat());
        assert!(!traces.may_be_in(&undecodable));
    }

    #[cfg(unix)]
    #[test]
    fn copies_are_found_wherever_the_files_are() {
        let directory = tempfile::tempdir().unwrap();
        let [credentials, store] = own_files(directory.path(), "a/b/c/d/store.json");
        let elsewhere = tempfile::tempdir().unwrap();
        let target = elsewhere.path().join("mine.json");
        fs::create_dir_all(store.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&target, &store).unwrap();
        let aside = write(crate::store::file::aside(&store, 1), HELD);
        let temporary = write(elsewhere.path().join(".mine.json.x.y.tmp"), HELD);
        let record = record();
        let erased = Traces::of(&record).erase(&credentials, &store);
        assert_eq!(erased, Erased { left: Vec::new(), is_complete: true });
        for path in [aside, temporary] {
            assert_eq!(fs::read_to_string(path).unwrap(), "{\"access_token\": \"removed\"}");
        }
    }

    #[test]
    fn the_limit_of_files_does_not_concern_our_own_copies() {
        let directory = tempfile::tempdir().unwrap();
        let [credentials, store] = own_files(directory.path(), "oauth_accounts.json");
        for at in 0..=MAX_FILES {
            fs::write(directory.path().join(format!("{at}")), "").unwrap();
        }
        let copy = write(directory.path().join("oauth_accounts.json.corrupt-1"), HELD);
        let record = record();
        let erased = Traces::of(&record).erase(&credentials, &store);
        assert_eq!(erased, Erased { left: Vec::new(), is_complete: false });
        assert_eq!(fs::read_to_string(copy).unwrap(), "{\"access_token\": \"removed\"}");
    }
}
