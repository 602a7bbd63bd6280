//! Files and directories that only their owner may open.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use crate::safe_open::{self, NotAFile};

/// Creates a directory and its parents with mode 0700, and gives an existing directory that mode.
///
/// # Errors
/// [`NotAFile::Link`] if the directory or its parent is a symbolic link, which could lead to another user's files, and
/// errors of the file system.
pub fn ensure_directory(directory: &Path) -> io::Result<()> {
    let is_link = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    if is_link(directory) || directory.parent().is_some_and(is_link) {
        return Err(NotAFile::Link.into());
    }
    create_directory(directory)?;
    #[cfg(unix)]
    {
        let opened = open_directory(directory)?;
        make_private(&opened, 0o700)?;
        inherit_owner_of_parent(&opened, directory);
    }
    Ok(())
}

/// Creates a directory and its missing parents with mode 0700. An existing directory stays as it is. Directories that
/// root creates belong to the owner of the parent directory.
///
/// # Errors
/// Errors of the file system.
pub fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let above = directory.parent().filter(|above| !above.as_os_str().is_empty());
    if let Some(above) = above {
        create_directory(above)?;
    }
    #[cfg_attr(not(unix), expect(unused_mut, reason = "Windows has no modes"))]
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => return Ok(()),
        created => created?,
    }
    #[cfg(unix)]
    if let Some(above) = above {
        inherit_owner(&open_directory(directory)?, above);
    }
    Ok(())
}

/// Gives a new file or directory to the owner of its parent directory, if this user may do that: root, in a container or
/// with sudo, must lock no user out.
#[cfg(unix)]
pub fn inherit_owner(file: &File, directory: &Path) {
    use std::os::unix::fs::MetadataExt as _;

    use rustix::fs::{Gid, Uid, fchown};
    let (Ok(own), Ok(directory)) = (file.metadata(), fs::metadata(directory)) else { return };
    // A user could have linked another user's file to this name.
    let is_linked = own.is_file() && own.nlink() > 1;
    if rustix::process::geteuid().is_root() && own.uid() != directory.uid() && !is_linked {
        // Some file systems have no owners.
        let _ = fchown(file, Some(Uid::from_raw(directory.uid())), Some(Gid::from_raw(directory.gid())));
    }
}

/// Does nothing: Windows gives each user a profile of their own.
#[cfg(not(unix))]
pub fn inherit_owner(_file: &File, _directory: &Path) {}

/// As [`inherit_owner`], with the directory of `path`.
pub fn inherit_owner_of_parent(file: &File, path: &Path) {
    inherit_owner(file, path.parent().unwrap_or(Path::new(".")));
}

/// Opens the directory itself, so that the same directory is checked and changed.
#[cfg(unix)]
fn open_directory(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(directory, flags, Mode::empty())?))
}

/// Creates a file of mode 0600 with these contents. No link is followed.
///
/// # Errors
/// `AlreadyExists` if the name is taken, and errors of the file system. A file that could not be written is removed.
pub fn create_file(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = safe_open::open_own(OpenOptions::new().write(true).create_new(true), path)?;
    inherit_owner_of_parent(&file, path);
    file.write_all(contents).inspect_err(|_| {
        #[expect(
            clippy::disallowed_methods,
            reason = "half a file is of no use, and it is this function's own"
        )]
        let _ = fs::remove_file(path);
    })
}

/// Opens a file of mode 0600 for appending; an existing file gets that mode. No link is followed.
///
/// # Errors
/// A [`NotAFile`], and errors of the file system.
pub fn open_to_append(path: &Path) -> io::Result<File> {
    let file = safe_open::open_own(OpenOptions::new().read(true).append(true).create(true), path)?;
    make_private(&file, 0o600)?;
    inherit_owner_of_parent(&file, path);
    Ok(file)
}

#[cfg(unix)]
fn make_private(open: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if open.metadata()?.permissions().mode() & 0o777 == mode {
        return Ok(());
    }
    open.set_permissions(fs::Permissions::from_mode(mode))
}

/// On Windows, a user's profile is private already.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
fn make_private(_open: &File, _mode: u32) -> io::Result<()> {
    Ok(())
}
