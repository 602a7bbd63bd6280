//! Environment variables as a value: a map that the caller passes in, never the process's own.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::opaque_debug;

/// `PATH` of programs that are started where none is set.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Environment variables. An empty value counts as unset.
#[derive(Clone, Default)]
pub struct Environment(HashMap<String, String>);

opaque_debug!(Environment);

impl Environment {
    /// Returns the value of a variable, if it is set and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.get(name).or_else(|| {
            // Names of variables are case-insensitive on Windows.
            let same = |key: &&String| cfg!(windows) && key.eq_ignore_ascii_case(name);
            self.0.keys().find(same).and_then(|key| self.0.get(key))
        });
        found.map(String::as_str).filter(|value| !value.trim().is_empty())
    }

    /// Returns all variables, including empty ones.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the first of several names that is set, such as `HTTPS_PROXY` and `https_proxy`.
    #[must_use]
    pub fn first(&self, names: &[&'static str]) -> Option<(&'static str, &str)> {
        names.iter().find_map(|&name| self.get(name).map(|value| (name, value)))
    }

    /// Returns the absolute directories of `PATH`. A relative one could find a program in the project that the user works
    /// on.
    pub fn program_directories(&self) -> impl Iterator<Item = PathBuf> {
        std::env::split_paths(self.get("PATH").unwrap_or("")).filter(|directory| directory.is_absolute())
    }

    /// Returns `PATH` for a program that is started: the absolute directories of this one, and `more`.
    #[must_use]
    pub fn program_path(&self, more: Option<PathBuf>) -> OsString {
        let join = |more| std::env::join_paths(self.program_directories().chain(more));
        let path = join(more).or_else(|_| join(None)).unwrap_or_default();
        if path.is_empty() { DEFAULT_PATH.into() } else { path }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn relative_directories_of_path_are_left_out() {
        for (path, more, expected) in [
            (".:.:bin:/usr/bin::../x:/bin", None, "/usr/bin:/bin"),
            ("/usr/bin:bin", Some("/opt/qwen"), "/usr/bin:/opt/qwen"),
            ("bin", None, DEFAULT_PATH),
            ("", None, DEFAULT_PATH),
            ("/usr/bin", Some("/a:b"), "/usr/bin"),
        ] {
            let environment: Environment = [("PATH", path)].into_iter().collect();
            assert_eq!(environment.program_path(more.map(PathBuf::from)), expected, "{path}");
        }
    }
}
