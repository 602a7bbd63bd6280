//! Owners of files: a replaced file keeps its owner, and a new file gets the owner of its directory. So root, in a
//! container or with sudo, locks no user out.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

/// Sets the owner of a new file that will replace `target` in `directory`.
///
/// # Errors
/// `PermissionDenied` with advice if this user can't write for that owner.
pub fn set_owner(file: &File, target: &Path, directory: &Path) -> io::Result<()> {
    imp::set_owner(file, target, directory)
}

/// Returns the reason why a login can't be used: its file belongs to another user, who could have put it there. Root
/// may use files of the directory's owner, and that owner may use files that root wrote. Root follows no link of another
/// user to a file that is not that user's.
pub fn foreign_owner(path: &Path, file: &Metadata) -> Option<String> {
    imp::foreign_owner(path, file)
}

#[cfg(unix)]
mod imp {
    use std::fs::{self, File, Metadata};
    use std::io::{self, ErrorKind};
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use qwen_base::fault::{self, Safeguard};
    use qwen_base::shell;
    use rustix::fs::{Gid, Uid, fchown};
    use rustix::process::geteuid;

    const ROOT: u32 = 0;
    const STICKY: u32 = 0o1000;

    pub fn set_owner(file: &File, target: &Path, directory: &Path) -> io::Result<()> {
        if fault::omits(Safeguard::Ownership) {
            return Ok(());
        }
        let (own, directory) = (file.metadata()?, fs::metadata(directory)?);
        let replaced = fs::symlink_metadata(target).ok();
        let wanted = replaced.as_ref().unwrap_or(&directory);
        if own.uid() != wanted.uid() && change(file, Some(wanted.uid()), None).is_err() {
            // Files that root left in this user's own directory become the user's again.
            let is_taken_back = wanted.uid() == ROOT && directory.uid() == own.uid();
            // A new file in a shared directory replaces nobody's file.
            let is_for_all = directory.uid() == ROOT || directory.mode() & STICKY != 0;
            let is_shared = replaced.is_none() && is_for_all;
            if !is_taken_back && !is_shared {
                let message = format!(
                    "it belongs to another user (uid {}), whom a file of uid {} would lock out",
                    wanted.uid(),
                    own.uid()
                );
                return Err(io::Error::new(ErrorKind::PermissionDenied, message));
            }
        }
        // The mode gives the group no permissions, so a group that can't be kept does no harm.
        if own.gid() != wanted.gid() {
            let _ = change(file, None, Some(wanted.gid()));
        }
        Ok(())
    }

    fn change(file: &File, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
        Ok(fchown(file, user.map(Uid::from_raw), group.map(Gid::from_raw))?)
    }

    pub fn foreign_owner(path: &Path, file: &Metadata) -> Option<String> {
        if let Some((link, owner)) = link_of_another_user(path, file.uid()) {
            return Some(format!(
                "is not used: root does not follow {}, a link of another user (uid {owner}), to a file of uid {}. Remove the link, then try again",
                link.display(),
                file.uid()
            ));
        }
        // The directory of the link counts, since the target may be in a system directory.
        let directory = path.parent().and_then(|directory| fs::metadata(directory).ok());
        let directory = directory.map(|directory| directory.uid());
        let user = geteuid().as_raw();
        if may_use(user, file.uid(), directory) {
            return None;
        }
        // Root works for the directory's owner.
        let heir = directory.filter(|_| user == ROOT).unwrap_or(user);
        let chown = shell::as_root(&format!("chown -h {heir} {}", shell::path(path)));
        let (owner, whose) = (file.uid(), if heir == user { "yours" } else { "of the directory's owner" });
        Some(format!("belongs to another user (uid {owner}). If its login is {whose}, hand it over: {chown}"))
    }

    /// Returns the link through which another user leads root to a file of the user `target`.
    fn link_of_another_user(path: &Path, target: u32) -> Option<(&Path, u32)> {
        if geteuid().as_raw() != ROOT {
            return None;
        }
        [Some(path), path.parent()].into_iter().flatten().find_map(|place| {
            let owner = fs::symlink_metadata(place).ok().filter(Metadata::is_symlink)?.uid();
            (owner != ROOT && owner != target).then_some((place, owner))
        })
    }

    /// Compares the user with the owner of the file and of its directory.
    fn may_use(user: u32, file: u32, directory: Option<u32>) -> bool {
        let of_directorys_owner = user == ROOT && directory == Some(file);
        let left_by_root = file == ROOT && directory == Some(user);
        file == user || of_directorys_owner || left_by_root
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_login_of_another_user_is_not_used() {
            let (ann, bob) = (1000, 1001);
            assert!(may_use(ann, ann, Some(bob)));
            assert!(may_use(ROOT, ann, Some(ann)) && may_use(ann, ROOT, Some(ann)));
            assert!(!may_use(ann, bob, Some(ann)) && !may_use(ann, bob, Some(bob)));
            assert!(!may_use(ROOT, bob, Some(ann)) && !may_use(ann, ROOT, Some(ROOT)));
            assert!(!may_use(ann, bob, None));
        }
    }
}

/// Windows gives each user a profile of their own.
#[cfg(not(unix))]
mod imp {
    use std::fs::{File, Metadata};
    use std::io;
    use std::path::Path;

    #[expect(clippy::unnecessary_wraps, reason = "it is that of other systems that can fail")]
    pub fn set_owner(_file: &File, _target: &Path, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    pub fn foreign_owner(_path: &Path, _file: &Metadata) -> Option<String> {
        None
    }
}
