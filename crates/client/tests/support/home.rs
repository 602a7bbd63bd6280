//! A home directory with its Qwen directory.

use std::fs;
use std::path::{Path, PathBuf};

use qwen_base::{Clock, Environment};
use serde_json::{Value, json};
use tempfile::TempDir;

pub struct Home(TempDir);

/// The prefixes of every token that the test servers issue.
const TOKENS: [&str; 4] = ["access-", "refresh-", "access.", "refresh."];

/// True if a text holds a token, which ends in a number.
pub fn holds_token(text: &str) -> bool {
    TOKENS.iter().any(|start| {
        text.match_indices(start).any(|(at, _)| {
            let word =
                text[at + start.len()..].split(|c: char| !c.is_ascii_alphanumeric() && c != '.').next();
            word.is_some_and(|word| word.ends_with(|c: char| c.is_ascii_digit()))
        })
    })
}

/// Lists files that hold a token and must not: only JSON files that are not logs may.
fn leaks(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            leaks(&path, found);
        } else if kind.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_log = path.components().any(|part| part.as_os_str() == "logs");
            let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            if holds_token(&name)
                || (is_log || !name.contains(".json")) && holds_token(&text.unwrap_or_default())
            {
                found.push(path);
            }
        }
    }
}

impl Drop for Home {
    /// Fails if the home holds a token in the wrong place.
    fn drop(&mut self) {
        let mut found = Vec::new();
        leaks(self.path(), &mut found);
        assert!(found.is_empty() || std::thread::panicking(), "files hold a token: {found:?}");
    }
}

impl Home {
    pub fn new() -> Self {
        let home = Self(TempDir::new().unwrap());
        fs::create_dir(home.qwen_dir()).unwrap();
        private(&home.qwen_dir());
        home
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn qwen_dir(&self) -> PathBuf {
        self.path().join(".qwen")
    }

    pub fn credentials(&self) -> PathBuf {
        self.qwen_dir().join("oauth_creds.json")
    }

    pub fn store(&self) -> PathBuf {
        self.qwen_dir().join("oauth_accounts.json")
    }

    /// The token file of the original plugin's first versions.
    pub fn legacy(&self) -> PathBuf {
        self.path().join(".opencode/qwen/oauth_token.json")
    }

    pub fn cli_lock(&self) -> PathBuf {
        self.qwen_dir().join("oauth_creds.lock")
    }

    /// Replaces the whole file, as the qwen CLI does.
    pub fn write(&self, document: &Value) {
        let temporary = self.path().join("written-by-the-cli");
        fs::write(&temporary, serde_json::to_vec_pretty(document).unwrap()).unwrap();
        private(&temporary);
        fs::rename(temporary, self.credentials()).unwrap();
    }

    pub fn bytes(&self) -> Vec<u8> {
        fs::read(self.credentials()).unwrap()
    }

    pub fn document(&self) -> Value {
        serde_json::from_slice(&self.bytes()).unwrap()
    }

    pub fn access_token(&self) -> String {
        self.document()["access_token"].as_str().unwrap().to_owned()
    }

    /// Lists the files in the Qwen directory that hold account data. A store that only notes the server of the one login
    /// holds none.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.qwen_dir()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        // A huge file is not read.
        let store = qwen_base::safe_open::read(&self.store(), 1 << 24).ok().flatten();
        let store = store.and_then(|store| serde_json::from_slice::<Value>(&store).ok());
        let is_note = store.is_none_or(|store| store["accounts"] == json!([]) && store["apiKeys"].is_null());
        names.retain(|name| !(is_note && name.starts_with("oauth_accounts.") && !name.contains(".corrupt-")));
        names.sort();
        names
    }

    /// Fails if a lock or a half-written file is left.
    pub fn assert_tidy(&self) {
        let left = ["oauth_creds.lock", "oauth_accounts.lock"];
        let files = self.files();
        assert!(
            files.iter().all(|name| !left.contains(&name.as_str()) && !name.contains(".tmp")),
            "{files:?}"
        );
    }

    /// Variables with this home, and with nothing of the machine's.
    pub fn environment(&self, more: &[(&str, &str)]) -> Environment {
        let home = self.path().to_str().unwrap();
        more.iter().copied().chain([("HOME", home)]).collect()
    }
}

/// Makes a path private to its owner, as the qwen CLI leaves it.
pub fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Makes a named pipe.
pub fn make_pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

pub fn document(access_token: &str, refresh_token: &str, expiry_date: u64, resource_url: &str) -> Value {
    json!({
        "access_token": access_token, "refresh_token": refresh_token, "token_type": "Bearer",
        "resource_url": resource_url, "expiry_date": expiry_date,
    })
}

/// Returns the time in `seconds` from now, in epoch milliseconds.
pub fn in_seconds(seconds: i64) -> u64 {
    Clock::system().now_ms().saturating_add_signed(seconds * 1000)
}
