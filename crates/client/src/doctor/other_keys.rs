//! Looks for keys of other tools that could be imported.

use std::collections::HashSet;

use qwen_base::Secret;

use super::finding::{Finding, ours};
use super::settings::Settings;
use super::{Doctor, Local};
use crate::discovery::Discovery;

const ID: &str = "other-keys";

/// Returns the first key that no account has. It is only a warning if no account works.
pub fn check(doctor: &Doctor, settings: &Settings, local: &Local) -> Option<Finding> {
    let discovery = Discovery {
        environment: doctor.environment.clone(),
        paths: settings.paths.clone()?,
        working_directory: Some(doctor.working_directory.clone()),
    };
    let known: HashSet<_> = local.keys.iter().map(Secret::expose).collect();
    let found = discovery.look().keys;
    let mut fresh = found.iter().filter(|key| !known.contains(key.secret.expose()));
    let first = fresh.next()?;
    let more = match fresh.count() {
        0 => String::new(),
        count => format!(", and {count} more elsewhere"),
    };
    let (sentence, import) = (first.sentence(), ours("import"));
    Some(if local.has_working_account {
        Finding::ok(ID, format!("{sentence}{more}: {import} makes an account of it."))
    } else {
        Finding::warning(ID, format!("{sentence}{more}; no account works."), import)
    })
}
