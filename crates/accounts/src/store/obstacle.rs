//! Finds in advance why no rename can replace a file: a mount, or a mark of the file or of its directory.

use std::fmt;
use std::path::{Path, PathBuf};

use qwen_base::{Code, Error, Result, safe_open, shell};

use super::atomic;

/// Reason why a file can't be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The file is its own mount. It can be written in place unless the mount is read-only.
    Mount,
    /// The file or its directory has a mark that only root can remove.
    Marked {
        /// The marked file or directory.
        path: PathBuf,
        /// The mark.
        mark: Mark,
    },
}

/// Mark that forbids changes, even to root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// `chattr +i`, or `chflags uchg`.
    Immutable,
    /// `chattr +a`, or `chflags uappnd`.
    AppendOnly,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Immutable => "immutable",
            Self::AppendOnly => "append-only",
        })
    }
}

impl Obstacle {
    /// Returns the obstacle to replacing the file that `path` leads to. Another cause may still prevent it.
    #[must_use]
    pub fn to(path: &Path) -> Option<Self> {
        let target = atomic::follow_links(path).ok()?;
        let found = imp::find(&target);
        let marked = |path: &Path, mark| Self::Marked { path: path.to_owned(), mark };
        let of_file = found.mark.map(|mark| marked(&target, mark));
        of_file.or_else(|| Self::within(atomic::parent(&target))).or(found.is_mount.then_some(Self::Mount))
    }

    /// Returns the mark of a directory in which no file can be replaced or removed.
    #[must_use]
    pub fn within(directory: &Path) -> Option<Self> {
        let mark = imp::find(directory).mark?;
        Some(Self::Marked { path: directory.to_owned(), mark })
    }

    /// Returns the obstacle to removing or renaming `path` itself, even if it is a link.
    #[must_use]
    pub fn to_removal(path: &Path) -> Option<Self> {
        if path.is_symlink() { Self::within(atomic::parent(path)) } else { Self::to(path) }
    }

    /// Checks that the file can be written in place. Changes nothing.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn expect_writable_file(&self, path: &Path) -> Result<()> {
        let mut options = std::fs::File::options();
        safe_open::open_with(options.write(true), path).map(drop).map_err(|_| self.error(path))
    }

    /// Returns the error of a write to `path`.
    #[must_use]
    pub fn error(&self, path: &Path) -> Error {
        let shown = path.display();
        let message = match self {
            Self::Mount => format!(
                "Could not write {shown}: it is its own mount. Mount its directory instead, or make the file writable."
            ),
            Self::Marked { path, mark } => {
                let unmark = shell::as_root(&format!("{REMOVE_MARKS} {}", shell::path(path)));
                format!("Could not write {shown}: {} is {mark}. Remove the mark: {unmark}", path.display())
            }
        };
        Error::new(Code::Io, message).with_path(path)
    }
}

/// Returns the directory or file where the file system of `path` is mounted, if the system tells.
#[must_use]
pub fn mount_point(path: &Path) -> Option<&Path> {
    path.ancestors().find(|above| imp::find(above).is_mount)
}

/// Start of the command with which root removes the marks of a file.
pub const REMOVE_MARKS: &str =
    if cfg!(target_os = "macos") { "chflags nouchg,nouappnd,noschg,nosappnd" } else { "chattr -ia" };

/// Attributes of a file or directory.
#[derive(Debug, Default)]
struct Attributes {
    mark: Option<Mark>,
    is_mount: bool,
}

#[cfg(target_os = "linux")]
mod imp {
    use std::path::Path;

    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

    use super::{Attributes, Mark};

    pub fn find(path: &Path) -> Attributes {
        let Ok(found) = statx(CWD, path, AtFlags::empty(), StatxFlags::empty()) else {
            return Attributes::default();
        };
        let has = |attribute| found.stx_attributes.contains(attribute);
        let append = has(StatxAttributes::APPEND).then_some(Mark::AppendOnly);
        Attributes {
            mark: has(StatxAttributes::IMMUTABLE).then_some(Mark::Immutable).or(append),
            is_mount: has(StatxAttributes::MOUNT_ROOT),
        }
    }
}

/// macOS has no mounts of single files.
#[cfg(target_os = "macos")]
mod imp {
    use std::os::macos::fs::MetadataExt as _;
    use std::path::Path;

    use super::{Attributes, Mark};

    // UF_IMMUTABLE and SF_IMMUTABLE, UF_APPEND and SF_APPEND of <sys/stat.h>.
    const IMMUTABLE: u32 = 0x2 | 0x2_0000;
    const APPEND: u32 = 0x4 | 0x4_0000;

    pub fn find(path: &Path) -> Attributes {
        let flags = std::fs::metadata(path).map_or(0, |found| found.st_flags());
        let has = |bits: u32| flags & bits != 0;
        let append = has(APPEND).then_some(Mark::AppendOnly);
        Attributes { mark: has(IMMUTABLE).then_some(Mark::Immutable).or(append), is_mount: false }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod imp {
    pub fn find(_path: &std::path::Path) -> super::Attributes {
        super::Attributes::default()
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_an_error_names_a_path_with_spaces() {
        let path = Path::new("/home/a b/.qwen");
        let marked = Obstacle::Marked { path: path.to_owned(), mark: Mark::Immutable };
        let error = marked.error(&path.join("oauth_creds.json"));
        let command = shell::as_root(&format!("{REMOVE_MARKS} '/home/a b/.qwen'"));
        assert!(error.message().ends_with(&command), "{}", error.message());
    }
}
