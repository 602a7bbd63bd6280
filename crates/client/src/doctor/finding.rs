//! What a check found, and how a command line is quoted in it.

use std::path::Path;

use qwen_base::shorten;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As it should be.
    Ok,
    /// Requests work, and something should be known or put right.
    Warning,
    /// Something does not work, or is not safe.
    Broken,
}

impl State {
    /// The state as callers see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Broken => "broken",
        }
    }
}

/// What a check found. It never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The check; one may have several findings.
    pub id: &'static str,
    /// How bad it is.
    pub state: State,
    /// One line that says what is.
    pub message: String,
    /// A command that mends it, or what to do.
    pub fix: Option<String>,
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn ok(id: &'static str, message: impl Into<String>) -> Self {
        Self { id, state: State::Ok, message: shorten(message.into()), fix: None }
    }

    /// Worth knowing.
    #[must_use]
    pub fn warning(id: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, state: State::Warning, message: shorten(message.into()), fix: Some(shorten(fix.into())) }
    }

    /// To be mended.
    #[must_use]
    pub fn broken(id: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, state: State::Broken, message: shorten(message.into()), fix: Some(shorten(fix.into())) }
    }
}

/// A path as a shell takes it.
#[must_use]
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/\\:._-+~@%,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) && !text.starts_with('~') {
        return text;
    }
    if cfg!(windows) { format!("\"{text}\"") } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// The command that removes a file or a directory. Of a link it removes the link alone.
#[must_use]
pub fn remove(path: &Path) -> String {
    let is_directory = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let program = match (cfg!(windows), is_directory) {
        (false, false) => "rm",
        (false, true) => "rm -r",
        (true, false) => "del",
        (true, true) => "rmdir /s",
    };
    format!("{program} {}", quoted(path))
}

/// The command that unsets a variable.
#[must_use]
pub fn unset(name: &str) -> String {
    if cfg!(windows) { format!("set {name}=") } else { format!("unset {name}") }
}

/// A command of ours.
#[must_use]
pub fn ours(arguments: &str) -> String {
    format!("npx opencode-qwen-cli-auth {arguments}")
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_where_a_shell_would_split_it() {
        assert_eq!(remove(Path::new("/home/u/.qwen/a.lock")), "rm /home/u/.qwen/a.lock");
        assert_eq!(remove(Path::new("/home/my user/it's")), "rm '/home/my user/it'\\''s'");
        assert_eq!(quoted(Path::new("$(x)")), "'$(x)'");
    }
}
