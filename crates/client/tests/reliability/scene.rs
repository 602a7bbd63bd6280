//! A user whose token has expired, with one account or with two.

use std::io::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::support::fleet::Fleet;
use crate::support::home::Home;
use crate::support::setup::{ONLY, Setup};

pub enum Scene {
    /// The credentials file alone.
    One(Box<Setup>),
    /// A store, and the credentials file with its active account.
    Two(Box<Fleet>),
}

impl Scene {
    pub async fn one() -> Self {
        Self::One(Box::new(Setup::expired().await))
    }

    pub async fn two() -> Self {
        Self::Two(Box::new(Fleet::expiring_in(&[-60, 3600]).await))
    }

    pub fn setup(&self) -> &Setup {
        match self {
            Self::One(setup) => setup,
            Self::Two(fleet) => &fleet.setup,
        }
    }

    pub fn home(&self) -> &Home {
        &self.setup().home
    }

    /// Access token of the first redemption.
    pub fn new_token(&self) -> &'static str {
        match self {
            Self::One(_) => "access-1",
            Self::Two(_) => "access.ann.1",
        }
    }

    fn old_token(&self) -> &'static str {
        match self {
            Self::One(_) => "access-0",
            Self::Two(_) => "access.ann.0",
        }
    }

    /// Returns the token or the error code that a process gets if it starts now.
    pub async fn next_process(&self) -> String {
        let id = if matches!(self, Self::One(_)) { ONLY } else { "ann" };
        match self.setup().manager().token(id, None).await {
            Ok(token) => token.access_token.expose().to_owned(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    /// Fails if a file holds neither the old token nor the new one.
    pub fn assert_whole(&self, when: &str) {
        let held = read(&self.home().credentials()).unwrap_or_else(|| panic!("torn, {when}"));
        self.assert_token(&held, when);
        if let Self::Two(_) = self {
            let store = read(&self.home().store()).unwrap_or_else(|| panic!("torn store, {when}"));
            let accounts = store["accounts"].as_array().unwrap();
            assert_eq!(accounts.len(), 2, "{when}");
            self.assert_token(&accounts[0]["token"], when);
        }
    }

    fn assert_token(&self, token: &Value, when: &str) {
        let access_token = token["access_token"].as_str().unwrap_or_default();
        assert!([self.old_token(), self.new_token()].contains(&access_token), "{when}: {access_token}");
        let is_new = access_token == self.new_token();
        let count = token["refresh_token"].as_str().unwrap().ends_with('1');
        assert_eq!(is_new, count, "tokens of different answers, {when}");
    }

    /// True if any file holds the new token, whole.
    pub fn is_kept(&self) -> bool {
        let entries = std::fs::read_dir(self.home().qwen_dir()).unwrap();
        let mut files = entries.map(|entry| entry.unwrap().path());
        let holds = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.contains(&format!("\"{}\"", self.new_token()))
                && serde_json::from_str::<Value>(&text).is_ok()
        };
        files.any(|path| holds(&path))
    }

    /// Fails if anything but the files and the permanent locks is left.
    pub fn assert_tidy(&self, when: &str) {
        let wanted: &[&str] = match self {
            Self::One(_) => &["oauth_creds.flock", "oauth_creds.json"],
            Self::Two(_) => {
                &["oauth_accounts.flock", "oauth_accounts.json", "oauth_creds.flock", "oauth_creds.json"]
            }
        };
        assert_eq!(self.home().files(), wanted, "{when}");
    }
}

pub fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).ok()
}

/// Returns `few`, or `many` for the long form (`TEST_STRESS=1`).
pub fn times(few: usize, many: usize) -> usize {
    if std::env::var_os("TEST_STRESS").is_some() { many } else { few }
}

/// Prints even if all tests pass.
pub fn tell(text: &str) {
    // `eprintln!` is captured if the test passes.
    let mut stderr = std::io::stderr().lock();
    stderr.write_all(text.as_bytes()).and_then(|()| stderr.write_all(b"\n")).unwrap();
}
