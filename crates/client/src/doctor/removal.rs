//! Commands that remove, move or copy a file or directory, with all that has to happen before.

use std::path::{Path, PathBuf};

use qwen_accounts::{Obstacle, REMOVE_MARKS};
use qwen_base::shell::{as_root, path as quoted};

use super::finding::unmark;

/// Returns a command that removes a file or directory. For a link, it removes only the link.
#[must_use]
pub fn remove(path: &Path) -> String {
    let is_directory = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let program = match (cfg!(windows), is_directory) {
        (false, false) => "rm",
        (false, true) => "rm -r",
        (true, false) => "del",
        (true, true) => "rmdir /s",
    };
    let mut command = format!("{program} {}", quoted(path));
    let mut before = Vec::new();
    if is_directory {
        let tree = Tree::of(path);
        if tree.is_marked {
            let remove_all_marks = REMOVE_MARKS.replacen(' ', " -R ", 1);
            before.push(as_root(&format!("{remove_all_marks} {}", quoted(path))));
        }
        if tree.is_of_another_user {
            command = as_root(&command);
        } else if tree.is_closed {
            before.push(format!("chmod -R u+rwx {}", quoted(path)));
        }
    }
    before.push(command);
    unblocked(path, &mounts(path), &before.join(" && "))
}

/// Returns a command that moves a file.
#[must_use]
pub fn move_to(path: &Path, target: &Path) -> String {
    let program = if cfg!(windows) { "move" } else { "mv" };
    unblocked(path, &mounts_at(path), &format!("{program} {} {}", quoted(path), quoted(target)))
}

/// Returns a command that puts a copy in the place of a link to a file.
#[must_use]
pub fn own_copy(link: &Path) -> String {
    let (old, new) = (quoted(link), quoted(&free_name(link, ".new")));
    unblocked(link, &mounts_at(link), &format!("cp {old} {new} && chmod 600 {new} && mv {new} {old}"))
}

/// Adds a suffix to a path, and a number if there is such a file.
#[must_use]
pub fn free_name(path: &Path, suffix: &str) -> PathBuf {
    let named = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let numbered = (2..100).map(|number| named(&format!("{suffix}.{number}")));
    let mut candidates = std::iter::once(named(suffix)).chain(numbered);
    candidates.find(|name| name.symlink_metadata().is_err()).unwrap_or_else(|| named(suffix))
}

/// Puts commands before one that removes or moves a file, so that it can succeed.
fn unblocked(path: &Path, mounts: &[PathBuf], command: &str) -> String {
    let mark = match Obstacle::to_removal(path) {
        Some(Obstacle::Marked { path: marked, .. }) => Some(unmark(&marked)),
        _ => None,
    };
    let unmount = mounts.iter().map(|mount| as_root(&format!("umount {}", quoted(mount))));
    let steps: Vec<_> = mark.into_iter().chain(unmount).chain([command.to_owned()]).collect();
    steps.join(" && ")
}

/// Returns the mounts at a path, the last one first.
fn mounts_at(path: &Path) -> Vec<PathBuf> {
    let mut mounts = mounts(path);
    let directory = path.parent().and_then(|directory| directory.canonicalize().ok());
    mounts.retain(|mount| mount.parent() == directory.as_deref());
    mounts
}

/// Returns the mounts at and below a path, the last one first. Several may lie upon each other.
fn mounts(path: &Path) -> Vec<PathBuf> {
    let directory = path.parent().and_then(|directory| directory.canonicalize().ok());
    let (Some(directory), Some(name)) = (directory, path.file_name()) else { return Vec::new() };
    let path = directory.join(name);
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped);
    let mut below: Vec<_> = points.filter(|point| point.starts_with(&path)).collect();
    below.reverse();
    below
}

/// Reads the octal escapes of blanks, line ends and backslashes.
fn unescaped(point: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(
        escapes.iter().fold(point.to_owned(), |point, (escape, plain)| point.replace(escape, plain)),
    )
}

/// Properties of a directory's contents that keep this user from removing it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tree {
    /// Something has a mark against changes.
    is_marked: bool,
    /// A directory of this user forbids it to its owner.
    is_closed: bool,
    /// A directory with contents belongs to another user.
    is_of_another_user: bool,
}

impl Tree {
    fn of(directory: &Path) -> Self {
        #[cfg(unix)]
        return Self::for_user(directory, rustix::process::geteuid().as_raw());
        #[cfg(not(unix))]
        Self::default()
    }

    #[cfg(unix)]
    fn for_user(directory: &Path, user: u32) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        /// Enough for a directory that stands in the place of a file by mistake.
        const MAX_ENTRIES: usize = 1000;
        const ROOT: u32 = 0;
        let mut tree = Self::default();
        let mut rest = vec![directory.to_owned()];
        let mut seen = 0;
        while let Some(path) = rest.pop().filter(|_| seen < MAX_ENTRIES) {
            seen += 1;
            let Ok(found) = path.symlink_metadata() else { continue };
            if found.is_symlink() {
                continue;
            }
            // `unblocked` removes the mark of the directory itself.
            tree.is_marked |= path != directory && Obstacle::within(&path).is_some();
            if !found.is_dir() {
                continue;
            }
            let entries = std::fs::read_dir(&path).map(|entries| entries.flatten().map(|entry| entry.path()));
            let entries: Option<Vec<_>> = entries.ok().map(Iterator::collect);
            let is_empty = entries.as_ref().is_some_and(Vec::is_empty);
            tree.is_of_another_user |= user != ROOT && found.uid() != user && !is_empty;
            tree.is_closed |= user != ROOT && found.uid() == user && found.mode() & 0o700 != 0o700;
            rest.extend(entries.into_iter().flatten());
        }
        tree
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn the_owner_and_mode_of_a_directory_decide_how_it_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("a");
        fs::create_dir_all(directory.join("b")).unwrap();
        let user = fs::metadata(&directory).unwrap().uid();
        let own = if user == 0 { 1000 } else { user };
        if user == 0 {
            for path in [&directory, &directory.join("b")] {
                std::os::unix::fs::chown(path, Some(own), None).unwrap();
            }
        }
        assert_eq!(Tree::for_user(&directory, own), Tree::default());
        assert!(Tree::for_user(&directory, own + 1).is_of_another_user);
        assert!(!Tree::for_user(&directory.join("b"), own + 1).is_of_another_user, "it is empty");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o500)).unwrap();
        assert!(Tree::for_user(&directory, own).is_closed);
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
