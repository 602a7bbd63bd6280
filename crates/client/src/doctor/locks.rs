//! Checks for lock files left behind.

use qwen_accounts::lock::{LockPaths, LockState};
use qwen_base::{Clock, safe_open::InPlace};

use super::finding::{Finding, remove};
use super::settings::Settings;

const ID: &str = "locks";

pub fn check(settings: &Settings, clock: &Clock) -> Vec<Finding> {
    let credentials = settings.credentials_file().map(|file| file.locks());
    let store = settings.store_file().map(|file| file.locks());
    let mut findings: Vec<_> =
        [credentials, store].into_iter().flatten().filter_map(|paths| judge(&paths, clock)).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(ID, "No lock is held or left behind."));
    }
    findings
}

fn judge(paths: &LockPaths, clock: &Clock) -> Option<Finding> {
    // Another check reports it.
    if InPlace::at_own(&paths.cli).is_some() {
        return None;
    }
    let shown = paths.cli.display();
    Some(match paths.state(clock) {
        Ok(LockState::Free) => return None,
        Ok(LockState::Held) => {
            Finding::ok(ID, format!("{shown} is held by a process that is at work just now."))
        }
        Ok(LockState::Stuck) => Finding::warning(
            ID,
            format!("{shown} is held by a process that does not move."),
            "Close OpenCode sessions that hang or were suspended",
        ),
        Ok(LockState::Abandoned) => Finding::broken(
            ID,
            format!(
                "{shown} was left behind by a process that is gone. A refresh of the token has to wait for it."
            ),
            remove(&paths.cli),
        ),
        Err(error) => Finding::broken(ID, error.message(), remove(&paths.cli)),
    })
}
