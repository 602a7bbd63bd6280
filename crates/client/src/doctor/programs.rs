//! Finds the versions of other programs, and checks if the qwen CLI can serve as the fallback.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use qwen_base::{Environment, safe_open};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::finding::{Finding, unset};
use super::settings::CheckedSettings;
use super::{Doctor, PATIENCE};
use crate::cli::find::find_cli;
use crate::cli::{CliLoginKind, logged_in_with};

const ID: &str = "qwen-cli";
const CLI_VARIABLE: &str = "QWEN_CLI_PATH";
const CLI_PACKAGE: &str = "@qwen-code/qwen-code";

/// Largest `package.json` that is read, in bytes.
pub const MAX_MANIFEST_SIZE: u64 = 1024 * 1024;

/// Returns the version in the `package.json` above a program, if the package has this name.
pub fn packaged_version(program: &Path, name: &str) -> Option<String> {
    const DEPTH: usize = 4;
    let program = program.canonicalize().ok()?;
    program.ancestors().skip(1).take(DEPTH).find_map(|directory| {
        let text = safe_open::read_text(&directory.join("package.json"), MAX_MANIFEST_SIZE).ok()?;
        let manifest: Value = serde_json::from_str(&text).ok()?;
        (manifest["name"] == name).then(|| manifest["version"].as_str().map(str::to_owned))?
    })
}

/// Returns the version that a program prints. The program can start nothing from the working directory, such as a `node`
/// of the project that the user works on.
pub async fn printed_version(
    program: &Path,
    arguments: &[&OsStr],
    environment: &Environment,
) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).arg("--version").env_clear().envs(environment.iter());
    command.env("PATH", environment.program_path(None));
    if cfg!(unix) {
        command.current_dir("/");
    }
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.ok()?.ok()?;
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

pub async fn check_qwen_cli(doctor: &Doctor, settings: &CheckedSettings) -> Vec<Finding> {
    let (Some(paths), environment) = (&settings.paths, &doctor.environment) else { return Vec::new() };
    let program = match find_cli(environment, paths) {
        Ok(program) => program,
        Err(error) if environment.get(CLI_VARIABLE).is_some() => {
            return vec![if settings.cli_fallback {
                Finding::broken(ID, error.message(), unset(CLI_VARIABLE))
            } else {
                Finding::warning(
                    ID,
                    format!("{} The CLI fallback is off.", error.message()),
                    unset(CLI_VARIABLE),
                )
            }];
        }
        Err(error) if settings.cli_fallback => {
            return vec![Finding::broken(ID, error.message(), format!("npm install -g {CLI_PACKAGE}"))];
        }
        Err(_) => {
            return vec![Finding::ok(
                ID,
                "The qwen CLI is not installed; only the CLI fallback needs it, and that is off.",
            )];
        }
    };
    let mut version = packaged_version(&program.cli, CLI_PACKAGE);
    if version.is_none() {
        let script: Vec<&OsStr> = program.script.iter().map(|script| script.as_os_str()).collect();
        version = printed_version(&program.executable, &script, environment).await;
    }
    let version = version.unwrap_or_else(|| "of an unknown version".to_owned());
    let name = format!("The qwen CLI {version} at {}", program.cli.display());
    let login = logged_in_with(environment, paths);
    let what = match login {
        CliLoginKind::Key => "has a key",
        CliLoginKind::OAuth => "uses OAuth, with which it answers nothing since 2026-04-15",
        CliLoginKind::None => "is not logged in",
    };
    vec![if settings.cli_fallback && login != CliLoginKind::Key {
        let message = format!("{name} {what}: it can't serve as the fallback.");
        Finding::broken(
            ID,
            message,
            "Run `qwen`, then /auth, and enter a key; or unset OPENCODE_QWEN_ENABLE_CLI_FALLBACK",
        )
    } else {
        let fallback =
            if settings.cli_fallback { "The CLI fallback is on." } else { "The CLI fallback is off." };
        Finding::ok(ID, format!("{name} {what}. {fallback}"))
    }]
}

#[cfg(test)]
#[cfg_attr(unix, expect(clippy::disallowed_methods, reason = "tests play the user and other programs"))]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[tokio::test]
    async fn a_program_can_start_nothing_from_the_working_directory() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("qwen");
        let told = directory.path().join("told");
        let script = format!("#!/bin/sh\necho \"$PWD $PATH\" > {}\necho 1.2.3\n", told.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let environment = [("PATH", ".:bin::/usr/bin:/bin")].into_iter().collect();
        assert_eq!(printed_version(&program, &[], &environment).await.as_deref(), Some("1.2.3"));
        assert_eq!(std::fs::read_to_string(&told).unwrap(), "/ /usr/bin:/bin\n");
    }

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
