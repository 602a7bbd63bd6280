//! Where an account store may be: tokens must not be written over somebody else's file, or out of the Qwen directory.

use std::fs;
use std::path::{Component, Path, PathBuf};

use qwen_base::{Code, Error, Result};

/// Files of the qwen CLI's own, and of ours, that are no account store.
const TAKEN: [&str; 10] = [
    "oauth_creds.json",
    "settings.json",
    "settings.json.orig",
    "trustedfolders.json",
    "mcp-oauth-tokens.json",
    "mcp-oauth-tokens-v2.json",
    "google_accounts.json",
    "installation_id.json",
    "package.json",
    "opencode_qwen_usage.json",
];

/// Checks that a path is a `.json` inside `directory` after all links, and none of the CLI's own files. `name` is the
/// setting it came from.
///
/// # Errors
/// `ERR_QWEN_PATH_NOT_ALLOWED`.
pub fn check(name: &str, path: &Path, directory: &Path) -> Result<()> {
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
            return refuse("is no .json file");
        }
        if TAKEN.contains(&file_name.as_str()) {
            return refuse("is the qwen CLI's own file");
        }
    }
    if TAKEN.iter().any(|taken| is_same_file(&target, &directory.join(taken))) {
        return refuse("is another name of the qwen CLI's own file");
    }
    Ok(())
}

/// Checks that the store's default path is none of the CLI's own files. It may be a link of the user's own that leads
/// anywhere, as `oauth_creds.json` may.
///
/// # Errors
/// `ERR_QWEN_PATH_NOT_ALLOWED`.
pub fn check_default(path: &Path, directory: &Path) -> Result<()> {
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

/// The path without links, `.` and `..`, as far as it exists.
fn resolve(path: &Path) -> PathBuf {
    const MAX_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        // A link whose target is missing has to be followed by hand.
        match fs::read_link(&path) {
            Ok(next) => path = path.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => break,
        }
    }
    if let Ok(resolved) = path.canonicalize() {
        return resolved;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        // What is left ends in `..`, below something that does not exist.
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
#[expect(clippy::disallowed_methods, reason = "tests make files that no writer of ours would")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn allowed(path: &Path, directory: &Path) -> bool {
        match check("OPENCODE_QWEN_ACCOUNTS_PATH", path, directory) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.code(), Code::PathNotAllowed);
                assert_eq!(error.path(), Some(path));
                false
            }
        }
    }

    #[test]
    fn a_json_file_of_its_own_inside_the_directory() {
        let home = tempfile::tempdir().unwrap();
        let qwen = home.path().join(".qwen");
        assert!(allowed(&qwen.join("oauth_accounts.json"), &qwen));
        fs::create_dir_all(qwen.join("sub")).unwrap();
        assert!(allowed(&qwen.join("sub/../mine.json"), &qwen));
        assert!(allowed(&qwen.join("sub/mine.JSON"), &qwen));
    }

    #[test]
    fn nothing_outside_by_any_way() {
        let home = tempfile::tempdir().unwrap();
        let qwen = home.path().join(".qwen");
        fs::create_dir_all(&qwen).unwrap();
        fs::create_dir_all(home.path().join(".qwen-other")).unwrap();
        symlink(home.path(), qwen.join("out")).unwrap();
        symlink(home.path().join("elsewhere.json"), qwen.join("link.json")).unwrap();
        for path in [
            "../a.json",
            "sub/../../a.json",
            "out/a.json",
            "link.json",
            "../.qwen-other/a.json",
            "missing/../../a.json",
        ] {
            assert!(!allowed(&qwen.join(path), &qwen), "{path}");
        }
        assert!(!allowed(Path::new("/etc/a.json"), &qwen));
        assert!(!allowed(&qwen, &qwen));
    }

    #[test]
    fn none_of_the_clis_own_files_by_any_name() {
        let home = tempfile::tempdir().unwrap();
        let qwen = home.path().join(".qwen");
        fs::create_dir_all(&qwen).unwrap();
        fs::write(qwen.join("oauth_creds.json"), "{}").unwrap();
        symlink("oauth_creds.json", qwen.join("alias.json")).unwrap();
        fs::hard_link(qwen.join("oauth_creds.json"), qwen.join("hard.json")).unwrap();
        for path in [
            "oauth_creds.json",
            "OAUTH_CREDS.JSON",
            "settings.json",
            "oauth_creds.lock",
            "x.txt",
            "alias.json",
            "hard.json",
        ] {
            assert!(!allowed(&qwen.join(path), &qwen), "{path}");
        }
    }

    #[test]
    fn a_directory_that_is_itself_a_link() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("dotfiles/qwen")).unwrap();
        let qwen = home.path().join(".qwen");
        symlink("dotfiles/qwen", &qwen).unwrap();
        assert!(allowed(&qwen.join("oauth_accounts.json"), &qwen));
    }
}
