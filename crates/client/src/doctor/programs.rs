//! Finds the versions of other programs.

use std::path::Path;
use std::process::Stdio;

use qwen_base::{Environment, safe_open};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::PATIENCE;

/// Largest `package.json` that is read, in bytes.
pub const MAX_MANIFEST_SIZE: u64 = 1024 * 1024;

/// Returns the version in the `package.json` above a program, if the package has this name.
pub fn packaged(program: &Path, name: &str) -> Option<String> {
    const DEPTH: usize = 4;
    let program = program.canonicalize().ok()?;
    program.ancestors().skip(1).take(DEPTH).find_map(|directory| {
        let text = safe_open::read_text(&directory.join("package.json"), MAX_MANIFEST_SIZE).ok()?;
        let manifest: Value = serde_json::from_str(&text).ok()?;
        (manifest["name"] == name).then(|| manifest["version"].as_str().map(str::to_owned))?
    })
}

/// Returns the version that a program prints.
pub async fn told(
    program: &Path,
    arguments: &[&std::ffi::OsStr],
    environment: &Environment,
) -> Option<String> {
    let run = Command::new(program)
        .args(arguments)
        .arg("--version")
        .env_clear()
        .envs(environment.iter())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, run).await.ok()?.ok()?;
    version_in(&String::from_utf8_lossy(&output.stdout)).map(str::to_owned)
}

/// Returns the first word that looks like a version.
fn version_in(text: &str) -> Option<&str> {
    let words = text.split_whitespace().map(|word| word.strip_prefix('v').unwrap_or(word));
    words.into_iter().find(|word| numbers(word).is_some() && word.len() < 40)
}

pub fn numbers(version: &str) -> Option<[u64; 3]> {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse().ok());
    let mut next = || parts.next().flatten();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_a_programs_output() {
        assert_eq!(version_in("0.24.4\n"), Some("0.24.4"));
        assert_eq!(version_in("opencode v1.18.33 (linux)"), Some("1.18.33"));
        assert_eq!(version_in("1.3.0-beta.2"), Some("1.3.0-beta.2"));
        assert_eq!(version_in("no version at 12:30"), None);
        assert_eq!(numbers("1.3.0-beta.2"), Some([1, 3, 0]));
        assert!(numbers("1.3.2") < numbers("1.18.33"));
    }
}
