//! Finds the qwen CLI and the way to start it without a shell.

use std::path::{Path, PathBuf};

use qwen_base::{Code, Environment, Error, Paths, Result, expand_home, safe_open};

/// Largest batch file that is read, in bytes.
const MAX_SHIM_SIZE: u64 = 64 * 1024;

/// Names of the command, best first.
const NAMES: &[&str] = if cfg!(windows) { &["qwen.exe", "qwen.cmd"] } else { &["qwen"] };
const NODE: &str = if cfg!(windows) { "node.exe" } else { "node" };

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The command, shim or script that was found.
    pub cli: PathBuf,
    /// The executable to start: the command itself, or Node.
    pub executable: PathBuf,
    /// The script that Node runs.
    pub script: Option<PathBuf>,
}

/// Finds the CLI by `QWEN_CLI_PATH`, then on `PATH`, then in the directories of npm and other installers. Fails with
/// `ERR_QWEN_CLI_NOT_FOUND`.
pub fn find_cli(environment: &Environment, paths: &Paths) -> Result<Program> {
    if let Some(value) = environment.get("QWEN_CLI_PATH") {
        let path = expand_home(value, paths.home());
        // The CLI starts in another directory, so a relative path would not find it.
        let path = std::path::absolute(&path).unwrap_or(path);
        let path = if path.extension().is_none() && cfg!(windows) { shim_beside(path) } else { path };
        if !path.is_file() {
            return Err(not_found(format!(
                "QWEN_CLI_PATH points to {}, which is not a file",
                path.display()
            ))
            .with_path(&path));
        }
        return program_for(path, environment);
    }
    let on_path = environment.program_directories();
    let elsewhere = global_directories(environment, paths.home());
    let found = on_path.chain(elsewhere).find_map(|directory| command_in(&directory));
    let cli = found.ok_or_else(|| not_found("There is no qwen CLI on PATH"))?;
    program_for(cli, environment)
}

fn not_found(what: impl std::fmt::Display) -> Error {
    let advice = "Install it (npm install -g @qwen-code/qwen-code), set QWEN_CLI_PATH to it, or turn the CLI \
                  fallback off.";
    Error::new(Code::CliNotFound, format!("{what}. {advice}"))
}

/// npm puts a `.cmd` file for Windows beside the script for Unix shells.
fn shim_beside(path: PathBuf) -> PathBuf {
    let shim = path.with_extension("cmd");
    if shim.is_file() { shim } else { path }
}

/// Returns the directories of globally installed commands, for hosts without a login shell's `PATH`.
fn global_directories(environment: &Environment, home: &Path) -> Vec<PathBuf> {
    let prefix = environment.first(&["npm_config_prefix", "NPM_CONFIG_PREFIX"]).map(|(_, value)| value);
    let mut directories: Vec<PathBuf> = Vec::new();
    if cfg!(windows) {
        directories.extend(prefix.map(PathBuf::from));
        directories.extend(environment.get("APPDATA").map(|roaming| Path::new(roaming).join("npm")));
    } else {
        directories.extend(prefix.map(|prefix| Path::new(prefix).join("bin")));
        directories.extend([".npm-global/bin", ".local/bin", ".bun/bin"].map(|below| home.join(below)));
        directories.extend(["/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from));
    }
    directories.extend(environment.get("PNPM_HOME").map(PathBuf::from));
    directories.retain(|directory| directory.is_absolute());
    directories
}

fn command_in(directory: &Path) -> Option<PathBuf> {
    NAMES.iter().map(|name| directory.join(name)).find(|path| is_executable(path))
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(path: &Path) -> bool {
    path.is_file()
}

fn program_for(cli: PathBuf, environment: &Environment) -> Result<Program> {
    let extension = cli.extension().and_then(|extension| extension.to_str()).unwrap_or("");
    let script = match extension.to_ascii_lowercase().as_str() {
        "js" | "mjs" | "cjs" => cli.clone(),
        "cmd" | "bat" => {
            // A batch file needs cmd.exe, which doesn't take arguments safely.
            let shim = safe_open::read_text(&cli, MAX_SHIM_SIZE).unwrap_or_default();
            let script = script_of_shim(&shim, cli.parent().unwrap_or(Path::new("")));
            script.filter(|script| script.is_file()).ok_or_else(|| {
                let what = format!("{} doesn't start a script that can be run directly", cli.display());
                not_found(what).with_path(&cli)
            })?
        }
        _ => return Ok(Program { executable: cli.clone(), cli, script: None }),
    };
    let beside = cli.parent().map(|directory| directory.join(NODE));
    let on_path = environment.program_directories().map(|directory| directory.join(NODE));
    let node = beside.into_iter().chain(on_path).find(|path| is_executable(path)).ok_or_else(|| {
        Error::new(
            Code::CliNotFound,
            "The qwen CLI needs Node.js, which is not on PATH. Install it, or turn the CLI fallback off.",
        )
    })?;
    Ok(Program { cli, executable: node, script: Some(script) })
}

/// Returns the script that a `.cmd` file of npm, pnpm or yarn passes to Node.
fn script_of_shim(shim: &str, directory: &Path) -> Option<PathBuf> {
    let command = shim.lines().filter(|line| line.contains("%*"));
    let quoted = command.flat_map(|line| line.split('"').skip(1).step_by(2));
    let script = quoted.filter(|text| {
        let lower = text.to_ascii_lowercase();
        [".js", ".mjs", ".cjs"].iter().any(|end| lower.ends_with(end))
    });
    let script = script.last()?;
    let below = ["%dp0%", "%~dp0"].iter().find_map(|start| script.strip_prefix(start));
    let (mut path, rest) = match below {
        Some(rest) => (directory.to_owned(), rest),
        None if !script.starts_with(['\\', '/']) => (PathBuf::new(), script),
        None => return None,
    };
    if rest.contains('%') {
        return None;
    }
    path.extend(rest.split(['\\', '/']).filter(|step| !step.is_empty()));
    Some(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NPM: &str = "@ECHO off\r\nGOTO start\r\n:find_dp0\r\nSET dp0=%~dp0\r\nEXIT /b\r\n:start\r\nSETLOCAL\r\nCALL :find_dp0\r\n\r\nIF EXIST \"%dp0%\\node.exe\" (\r\n  SET \"_prog=%dp0%\\node.exe\"\r\n) ELSE (\r\n  SET \"_prog=node\"\r\n  SET PATHEXT=%PATHEXT:;.JS;=;%\r\n)\r\n\r\nendLocal & goto #_undefined_# 2>NUL || title %COMSPEC% & \"%_prog%\"  \"%dp0%\\node_modules\\@qwen-code\\qwen-code\\cli.js\" %*\r\n";

    #[test]
    fn the_script_is_read_from_a_shim() {
        let directory = Path::new("npm");
        let script = Path::new("npm/node_modules/@qwen-code/qwen-code/cli.js");
        assert_eq!(script_of_shim(NPM, directory).as_deref(), Some(script));
        let old = "@IF EXIST \"%~dp0\\node.exe\" (\r\n  \"%~dp0\\node.exe\"  \"%~dp0\\node_modules\\@qwen-code\\qwen-code\\cli.js\" %*\r\n) ELSE (\r\n  node  \"%~dp0\\node_modules\\@qwen-code\\qwen-code\\cli.js\" %*\r\n)";
        assert_eq!(script_of_shim(old, directory).as_deref(), Some(script));
        let pnpm =
            "@SETLOCAL\r\n@node  \"%~dp0\\..\\global\\5\\node_modules\\@qwen-code\\qwen-code\\cli.js\" %*";
        let below = Path::new("npm/../global/5/node_modules/@qwen-code/qwen-code/cli.js");
        assert_eq!(script_of_shim(pnpm, directory).as_deref(), Some(below));
        for other in [
            "",
            "\"%dp0%\\qwen.exe\" %*",
            "node \"%APPDATA%\\cli.js\" %*",
            "node \"\\\\host\\cli.js\" %*",
            "echo \"a.js\"",
        ] {
            assert_eq!(script_of_shim(other, directory), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_shim_is_handled(shim in ".{0,200}") {
            let _ = script_of_shim(&shim, Path::new("d"));
        }
    }

    #[cfg(unix)]
    mod unix {
        use std::os::unix::fs::OpenOptionsExt as _;

        use super::*;

        fn executable(path: &Path) {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o755)
                .open(path)
                .unwrap();
        }

        fn find_in(pairs: &[(&str, &str)]) -> Result<Program> {
            let environment = pairs.iter().copied().collect();
            find_cli(&environment, &Paths::from_environment(&environment).unwrap())
        }

        #[test]
        fn qwen_cli_path_wins_over_path() {
            let temporary = tempfile::tempdir().unwrap();
            let home = temporary.path().to_str().unwrap();
            let (on_path, named) = (temporary.path().join("bin/qwen"), temporary.path().join("x/my qwen"));
            executable(&on_path);
            executable(&named);
            let path = format!("relative:/nowhere:{home}/bin");
            let found = find_in(&[("HOME", home), ("PATH", &path)]).unwrap();
            assert_eq!(found, Program { cli: on_path.clone(), executable: on_path, script: None });
            let found =
                find_in(&[("HOME", home), ("PATH", &path), ("QWEN_CLI_PATH", "~/x/my qwen")]).unwrap();
            assert_eq!(found.executable, named);
            // A file of this crate, where tests run.
            let found = find_in(&[("HOME", home), ("QWEN_CLI_PATH", "Cargo.toml")]).unwrap();
            assert_eq!(found.executable, std::env::current_dir().unwrap().join("Cargo.toml"));
        }

        #[test]
        fn a_script_in_npms_global_directory_is_run_by_node() {
            let temporary = tempfile::tempdir().unwrap();
            let home = temporary.path().to_str().unwrap();
            executable(&temporary.path().join("prefix/bin/qwen"));
            let prefix = format!("{home}/prefix");
            let found = find_in(&[("HOME", home), ("npm_config_prefix", &prefix)]).unwrap();
            assert_eq!(found.cli, temporary.path().join("prefix/bin/qwen"));

            let script = temporary.path().join("lib/cli.js");
            executable(&script);
            let script = script.to_str().unwrap();
            let error = find_in(&[("HOME", home), ("QWEN_CLI_PATH", script)]).unwrap_err();
            assert!(error.message().contains("Node.js"), "{error}");
            executable(&temporary.path().join("bin/node"));
            let path = format!("{home}/bin");
            let found = find_in(&[("HOME", home), ("QWEN_CLI_PATH", script), ("PATH", &path)]).unwrap();
            assert_eq!(found.executable, temporary.path().join("bin/node"));
            assert_eq!(found.script.as_deref(), Some(Path::new(script)));
        }

        #[test]
        fn the_error_names_the_missing_file() {
            let temporary = tempfile::tempdir().unwrap();
            let home = temporary.path().to_str().unwrap();
            let error = find_in(&[("HOME", home), ("QWEN_CLI_PATH", "/no/such/qwen")]).unwrap_err();
            assert_eq!(error.code(), Code::CliNotFound);
            assert!(error.message().contains("/no/such/qwen"));
            let error = find_in(&[("HOME", home), ("QWEN_CLI_PATH", home)]).unwrap_err();
            assert!(error.message().contains("not a file"));
        }
    }
}
