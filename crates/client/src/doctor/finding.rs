//! Results of checks, and the commands that they advise.

use std::path::Path;

use qwen_accounts::{Obstacle, REMOVE_MARKS};
use qwen_base::shell::{self, as_root, path as quoted};
use qwen_base::{MAX_MESSAGE, Redactor, shorten_message};
use serde::Serialize;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingState {
    /// No problem.
    Ok,
    /// Requests work, but something needs attention.
    Warning,
    /// Something doesn't work or isn't safe.
    Broken,
}

/// Result of one check. It never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check. A check may have several findings.
    pub id: &'static str,
    /// Severity.
    pub state: FindingState,
    /// One line that describes the state.
    pub message: String,
    /// A command or an action that fixes the problem.
    pub fix: Option<String>,
}

impl Finding {
    #[must_use]
    pub(crate) fn ok(id: &'static str, message: impl Into<String>) -> Self {
        Self { id, state: FindingState::Ok, message: shown(&message.into()), fix: None }
    }

    #[must_use]
    pub(crate) fn warning(id: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            id,
            state: FindingState::Warning,
            message: shown(&message.into()),
            fix: Some(whole(fix.into())),
        }
    }

    #[must_use]
    pub(crate) fn broken(id: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            id,
            state: FindingState::Broken,
            message: shown(&message.into()),
            fix: Some(whole(fix.into())),
        }
    }
}

/// Removes secrets, since a key can get into a path or a variable by mistake.
fn shown(message: &str) -> String {
    shorten_message(Redactor::default().text(message))
}

/// Replaces a command that is too long to be shown or has a secret. A part of it would do something else.
fn whole(fix: String) -> String {
    if fix.len() > MAX_MESSAGE {
        "Correct it by hand: the command is too long".to_owned()
    } else if Redactor::default().text(&fix) == fix {
        fix
    } else {
        "Correct it by hand: there is a key in the command, or in the path or variable that it names"
            .to_owned()
    }
}

/// Puts the removal of a file's marks before a command that changes its owner or mode.
#[must_use]
pub fn unmarked(path: &Path, command: String) -> String {
    if Obstacle::within(path).is_some() { format!("{} && {command}", unmark(path)) } else { command }
}

/// Returns a command that removes the marks of a file or directory.
#[must_use]
pub fn unmark(path: &Path) -> String {
    as_root(&format!("{REMOVE_MARKS} {}", quoted(path)))
}

/// Returns a command that unsets a variable.
#[must_use]
pub fn unset(name: &str) -> String {
    if cfg!(windows) { format!("set {name}=") } else { format!("unset {name}") }
}

/// Returns a command of this package.
#[must_use]
pub fn ours(arguments: &str) -> String {
    format!("npx opencode-qwen-cli-auth {arguments}")
}

/// Returns a command of this package about an account.
#[must_use]
pub fn ours_about(command: &str, id: &str) -> String {
    // An option takes a value with a leading dash only after an equals sign.
    let argument = if command.contains("--") {
        format!("={}", shell::word(id))
    } else {
        format!(" {}", shell::operand(id))
    };
    ours(&format!("{command}{argument}"))
}
