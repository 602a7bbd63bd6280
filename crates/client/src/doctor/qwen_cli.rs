//! Checks if the qwen CLI is installed and can serve as the fallback.

use std::ffi::OsStr;

use super::Doctor;
use super::finding::{Finding, unset};
use super::programs;
use super::settings::Settings;
use crate::cli::find::find;
use crate::cli::{CliLogin, logged_in_with};

const ID: &str = "qwen-cli";
const VARIABLE: &str = "QWEN_CLI_PATH";
const PACKAGE: &str = "@qwen-code/qwen-code";

pub async fn check(doctor: &Doctor, settings: &Settings) -> Vec<Finding> {
    let (Some(paths), environment) = (&settings.paths, &doctor.environment) else { return Vec::new() };
    let program = match find(environment, paths) {
        Ok(program) => program,
        Err(error) if environment.get(VARIABLE).is_some() => {
            return vec![if settings.cli_fallback {
                Finding::broken(ID, error.message(), unset(VARIABLE))
            } else {
                Finding::warning(ID, format!("{} The CLI fallback is off.", error.message()), unset(VARIABLE))
            }];
        }
        Err(error) if settings.cli_fallback => {
            return vec![Finding::broken(ID, error.message(), format!("npm install -g {PACKAGE}"))];
        }
        Err(_) => {
            return vec![Finding::ok(
                ID,
                "The qwen CLI is not installed; only the CLI fallback, which is off, would need it.",
            )];
        }
    };
    let mut version = programs::packaged(&program.cli, PACKAGE);
    if version.is_none() {
        let script: Vec<&OsStr> = program.script.iter().map(|script| script.as_os_str()).collect();
        version = programs::told(&program.executable, &script, environment).await;
    }
    let version = version.unwrap_or_else(|| "of an unknown version".to_owned());
    let name = format!("The qwen CLI {version} at {}", program.cli.display());
    let login = logged_in_with(environment, paths);
    let what = match login {
        CliLogin::Key => "has a key",
        CliLogin::OAuth => "logs in by OAuth, with which it refuses to answer since 2026-04-15",
        CliLogin::None => "is not logged in",
    };
    vec![if settings.cli_fallback && login != CliLogin::Key {
        let message = format!("{name} {what}: it can't serve as the fallback.");
        Finding::broken(
            ID,
            message,
            "Run `qwen`, then /auth, and give it a key; or unset OPENCODE_QWEN_ENABLE_CLI_FALLBACK",
        )
    } else {
        let fallback =
            if settings.cli_fallback { "The CLI fallback is on." } else { "The CLI fallback is off." };
        Finding::ok(ID, format!("{name} {what}. {fallback}"))
    }]
}
