//! Rules for the path of the account store: tokens must not overwrite another program's file, or leave the Qwen
//! directory.

use std::fs;
use std::path::{Component, Path, PathBuf};

use qwen_base::{Code, Error, Result};

use super::atomic::follow_links;

/// Files that can't hold accounts: of the qwen CLI, then of this package.
const TAKEN: [&str; 11] = [
    "oauth_creds.json",
    "settings.json",
    "settings.json.orig",
    "trustedfolders.json",
    "mcp-oauth-tokens.json",
    "mcp-oauth-tokens-v2.json",
    "google_accounts.json",
    "installation_id.json",
    "package.json",
    USAGE,
    MODELS,
];
const USAGE: &str = "opencode_qwen_usage.json";
const MODELS: &str = "opencode_qwen_models.json";

/// Checks that a path leads to a `.json` file inside `directory`, links included, and not to a file of the CLI. `name`
/// is the setting that names the path.
///
/// # Errors
/// `ERR_QWEN_PATH_NOT_ALLOWED`.
pub fn check_store_path(name: &str, path: &Path, directory: &Path) -> Result<()> {
    let refuse = |why: &str| {
        let message = format!(
            "{name} is not allowed: {} {why}. Set it to a .json file of its own inside {}, or leave it out.",
            path.display(),
            directory.display()
        );
        Err(Error::new(Code::PathNotAllowed, message).with_path(path))
    };
    let target = resolve(path);
    let is_resolved = !target.components().any(|step| step == Component::ParentDir);
    if !is_resolved || !target.starts_with(resolve(directory)) || target == resolve(directory) {
        return refuse("leads out of the Qwen directory");
    }
    for path in [path, &target] {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if Path::new(&file_name).extension().is_none_or(|extension| extension != "json") {
            return refuse("is not a .json file");
        }
        if TAKEN.contains(&file_name.as_str()) {
            return refuse(&format!("is {}", purpose(&file_name)));
        }
    }
    if let Some(taken) = TAKEN.iter().find(|taken| is_same_file(&target, &directory.join(taken))) {
        return refuse(&format!("is another name of {}", purpose(taken)));
    }
    Ok(())
}

fn purpose(taken: &str) -> &'static str {
    match taken {
        USAGE => "this package's file of usage figures",
        MODELS => "this package's file of model lists",
        _ => "the qwen CLI's own file",
    }
}

/// Checks that the store's default path is not a file of the CLI. The path may be a link to any place, like
/// `oauth_creds.json`.
///
/// # Errors
/// `ERR_QWEN_PATH_NOT_ALLOWED`.
pub fn check_default_store_path(path: &Path, directory: &Path) -> Result<()> {
    let target = resolve(path);
    let taken = TAKEN.map(|taken| directory.join(taken));
    let Some(taken) = taken.iter().find(|taken| resolve(taken) == target || is_same_file(&target, taken))
    else {
        return Ok(());
    };
    let message = format!(
        "{} is another name of {}, which can't hold accounts. Remove the link {0}.",
        path.display(),
        taken.display()
    );
    Err(Error::new(Code::PathNotAllowed, message).with_path(path))
}

/// Resolves links, `.` and `..` in the part of the path that exists.
fn resolve(path: &Path) -> PathBuf {
    // The target of a link may be missing, which `canonicalize` refuses.
    let path = follow_links(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(resolved) = path.canonicalize() {
        return resolved;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        // The path ends in `..` below a missing directory.
        _ => path,
    }
}

#[cfg(unix)]
fn is_same_file(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    id(one).is_some_and(|one| id(other) == Some(one))
}

#[cfg(not(unix))]
fn is_same_file(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| other == one))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn allowed(path: &Path, directory: &Path) -> bool {
        check_store_path("OPENCODE_QWEN_ACCOUNTS_PATH", path, directory).is_ok()
    }

    #[test]
    fn a_separate_json_file_inside_the_directory_is_allowed() {
        let home = tempfile::tempdir().unwrap();
        let qwen = home.path().join(".qwen");
        assert!(allowed(&qwen.join("oauth_accounts.json"), &qwen));
        fs::create_dir_all(qwen.join("sub")).unwrap();
        assert!(allowed(&qwen.join("sub/../mine.json"), &qwen));
        assert!(allowed(&qwen.join("sub/mine.JSON"), &qwen));
    }

    #[test]
    fn a_linked_directory_is_allowed() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("dotfiles/qwen")).unwrap();
        let qwen = home.path().join(".qwen");
        symlink("dotfiles/qwen", &qwen).unwrap();
        assert!(allowed(&qwen.join("oauth_accounts.json"), &qwen));
    }
}
