//! Environment variables as a value: a map that the caller passes in, never the process's own.

use std::collections::HashMap;

use crate::opaque_debug;

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
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}
