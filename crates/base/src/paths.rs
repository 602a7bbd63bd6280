//! Paths of the files.

use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::error::{Code, Error, Result};

/// The home directory and the Qwen directory, and the files in them.
#[derive(Debug, Clone)]
pub struct Paths {
    home: PathBuf,
    qwen_dir: PathBuf,
}

impl Paths {
    /// Finds the home directory and the Qwen directory (`QWEN_HOME`, or `.qwen` in the home directory). Opens nothing.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_CONFIG` if there is no home directory or `QWEN_HOME` is not a path.
    pub fn from_environment(environment: &Environment) -> Result<Self> {
        let home_variable = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        let home =
            environment.get(home_variable).map(PathBuf::from).or_else(dirs::home_dir).ok_or_else(|| {
                Error::new(
                    Code::InvalidConfig,
                    format!("There is no home directory. Set {home_variable}, or QWEN_HOME."),
                )
            })?;
        let qwen_dir = match environment.get("QWEN_HOME") {
            Some(value) => absolute("QWEN_HOME", &expand_home(value, &home))?,
            None => home.join(".qwen"),
        };
        Ok(Self { home, qwen_dir })
    }

    /// The user's home directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The directory shared with the qwen CLI.
    #[must_use]
    pub fn qwen_dir(&self) -> &Path {
        &self.qwen_dir
    }

    /// The default path of the account store.
    #[must_use]
    pub fn accounts(&self) -> PathBuf {
        self.qwen_dir.join("oauth_accounts.json")
    }

    /// Resolves a path in a setting: `~` is the home directory, and a relative path starts in the Qwen directory.
    #[must_use]
    pub fn from_user(&self, path: &str) -> PathBuf {
        self.qwen_dir.join(expand_home(path, &self.home))
    }

    /// Resolves a path argument: `~` is the home directory, and a relative path starts in the working directory.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT` if it is not a path.
    pub fn named(&self, path: &str) -> Result<PathBuf> {
        std::path::absolute(expand_home(path, &self.home))
            .map_err(|error| Error::invalid_argument("path", &format!("is not a path ({error})")))
    }

    /// The token file of the original plugin's first versions.
    #[must_use]
    pub fn legacy_token(&self) -> PathBuf {
        self.home.join(".opencode/qwen/oauth_token.json")
    }

    /// The credentials file shared with the qwen CLI.
    #[must_use]
    pub fn credentials(&self) -> PathBuf {
        self.qwen_dir.join("oauth_creds.json")
    }

    /// The usage of each account. It is next to the tokens, because it belongs to the accounts in this directory.
    #[must_use]
    pub fn usage(&self) -> PathBuf {
        self.qwen_dir.join("opencode_qwen_usage.json")
    }

    /// The model lists that servers returned for each account.
    #[must_use]
    pub fn models(&self) -> PathBuf {
        self.qwen_dir.join("opencode_qwen_models.json")
    }

    /// The directory of logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.home.join(".opencode").join("logs").join("qwen-plugin")
    }
}

/// Expands a leading `~`, as the qwen CLI does.
#[must_use]
pub fn expand_home(value: &str, home: &Path) -> PathBuf {
    if value == "~" {
        return home.to_owned();
    }
    match value.strip_prefix("~/").or_else(|| value.strip_prefix("~\\")) {
        Some(rest) => home.join(rest),
        None => PathBuf::from(value),
    }
}

fn absolute(variable: &str, path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| {
        Error::new(
            Code::InvalidConfig,
            format!("{variable} is not a usable path: {error}. Set it to a directory, or unset it."),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qwen_dir(pairs: &[(&str, &str)]) -> PathBuf {
        let environment = pairs.iter().copied().collect();
        Paths::from_environment(&environment).unwrap().qwen_dir().to_owned()
    }

    #[test]
    #[cfg(unix)]
    fn qwen_home_wins_and_its_tilde_is_expanded() {
        assert_eq!(qwen_dir(&[("HOME", "/h")]), Path::new("/h/.qwen"));
        assert_eq!(qwen_dir(&[("HOME", "/h"), ("QWEN_HOME", "")]), Path::new("/h/.qwen"));
        assert_eq!(qwen_dir(&[("HOME", "/h"), ("QWEN_HOME", "/q")]), Path::new("/q"));
        assert_eq!(qwen_dir(&[("HOME", "/h"), ("QWEN_HOME", "~/q")]), Path::new("/h/q"));
        assert_eq!(qwen_dir(&[("HOME", "/h"), ("QWEN_HOME", "~")]), Path::new("/h"));
    }
}
