//! Finds problems that keep requests from working, and tells how to fix them.
//!
//! The checks only read: they change no file and refresh no token. A login's server is asked for its list of models. A key
//! is checked with a chat of one token, because the list may be public.

pub mod finding;

#[cfg(unix)]
mod access;
mod accounts;
mod disks;
mod files;
mod network;
mod opencode;
mod opencode_config;
mod programs;
mod removal;
mod settings;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::ClientOptions;
use finding::Finding;
use qwen_base::{Clock, Environment, Result, Secret, blocking};
use settings::CheckedSettings;

/// Time limit for one question to a server or a program.
const PATIENCE: Duration = Duration::from_secs(5);

/// Settings that `doctor` checks.
#[derive(Debug, Clone)]
pub struct Doctor {
    /// Options of the client.
    pub options: ClientOptions,
    /// Environment of the client.
    pub environment: Environment,
    /// Directory where the search for `OpenCode`'s project configuration starts.
    pub working_directory: PathBuf,
    /// Source of the time.
    pub clock: Clock,
}

impl Doctor {
    /// Runs all checks. Takes about 10 s at most, even if the network doesn't answer.
    ///
    /// # Errors
    /// `ERR_QWEN_INTERNAL`.
    pub async fn examine(self) -> Result<Vec<Finding>> {
        let doctor = Arc::new(self);
        let (settings, mut findings) = settings::check(&doctor);
        let settings = Arc::new(settings);
        let local = {
            let (doctor, settings) = (Arc::clone(&doctor), Arc::clone(&settings));
            blocking(move || doctor.look_at_files(&settings)).await?
        };
        findings.extend(local.findings);
        let (network, qwen_cli, opencode) = tokio::join!(
            network::check(&doctor, &settings, &local.accounts),
            programs::check_qwen_cli(&doctor, &settings),
            opencode::check(&doctor, &settings, local.had_host_login),
        );
        findings.extend(network);
        findings.extend(qwen_cli);
        findings.extend(opencode);
        Ok(findings)
    }

    fn look_at_files(&self, settings: &CheckedSettings) -> Local {
        let mut local = Local::default();
        let Some(paths) = &settings.paths else { return local };
        local.findings.extend(files::check(paths, settings, &self.clock));
        accounts::check(self, settings, &mut local);
        local.findings.extend(accounts::check_other_keys(self, settings, &local));
        local.findings.extend(network::check_certificates(&self.environment));
        local
    }
}

/// Results that need no network.
#[derive(Debug, Default)]
struct Local {
    findings: Vec<Finding>,
    accounts: Vec<network::AskedAccount>,
    had_host_login: bool,
    /// Keys of the accounts.
    keys: Vec<Secret>,
    has_working_account: bool,
}
