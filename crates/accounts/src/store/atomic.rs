//! Replaces a file so that a crash leaves the old or the new one, whole.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use qwen_base::{
    Code, Error, Result,
    fault::{self, Point, Safeguard},
    private_files, safe_open,
};
use sha2::{Digest as _, Sha256};

use super::file::MAX_FILE;
use super::obstacle::Obstacle;
use super::ownership;

/// Ends the names of temporary files.
pub const TEMPORARY_SUFFIX: &str = ".tmp";
/// Space for a lock file and its temporary file, in bytes.
const ROOM_FOR_A_LOCK: u64 = 8 * 1024;
/// Marks the names of temporary files that only reserve space.
const RESERVED: &str = "reserved";

/// Result of replacing a file.
#[derive(Debug)]
pub enum Replaced {
    /// The file is replaced, and is on disk.
    Synced,
    /// The file is replaced. Its directory could not be synced, as on some network file systems: a power cut may bring
    /// the old contents back.
    Unsynced(Error),
    /// The caller declined just before the file was renamed.
    Declined,
}

/// Replaces `path` with `contents`, readable by its owner alone.
///
/// If `path` is a link, the file that it leads to is replaced and the link stays. The owner of the file stays. The data
/// is on disk before the file is renamed, and the new name before this returns.
///
/// # Errors
/// `ERR_QWEN_IO`; the old file is then unchanged.
pub fn replace(path: &Path, contents: &[u8]) -> Result<Replaced> {
    replace_if(path, contents, None, &|| true)
}

/// As [`replace`], if `still` returns true just before the file is renamed. `reserved` is disk space for the contents.
///
/// # Errors
/// `ERR_QWEN_IO`; the old file is then unchanged.
pub fn replace_if(
    path: &Path,
    contents: &[u8],
    reserved: Option<Reservation>,
    still: &dyn Fn() -> bool,
) -> Result<Replaced> {
    let target = follow_links(path)?;
    // In an append-only directory, a temporary file could be neither renamed nor removed.
    if let Some(obstacle) = Obstacle::to(&target) {
        return Err(obstacle.error(path));
    }
    let directory = parent(&target);
    create_private_directory(directory)?;
    if fault::omits(Safeguard::Replacement) {
        let written = File::create(&target).and_then(|mut file| write_all(&mut file, contents));
        return written.map(|()| Replaced::Synced).map_err(|error| Error::io("write", &target, error));
    }
    let name = temporary_name(&target, &fingerprint(&target));
    let mut temporary = match reserved.and_then(|reserved| reserved.fitted(&target, &name, contents.len())) {
        Some(temporary) => temporary,
        None => Temporary::create(&target, &name)
            .map_err(|error| Error::io("create a file in", directory, error))?,
    };
    fault::reached(Point::TemporaryCreated);
    write_all(&mut temporary.file, contents)
        .and_then(|()| sync_data(&temporary.file))
        .map_err(|error| Error::io("write", &target, error))?;
    fault::reached(Point::DataSynced);
    if !still() {
        return Ok(Replaced::Declined);
    }
    persist(temporary, &target).map_err(|error| Error::io("replace", &target, error))?;
    fault::reached(Point::Renamed);
    // The file is replaced even if its directory can't be synced.
    let synced = sync_directory(directory);
    fault::reached(Point::DirectorySynced);
    Ok(match synced {
        Ok(()) => Replaced::Synced,
        Err(error) => Replaced::Unsynced(Error::io("sync", directory, error)),
    })
}

/// Replaces a file. If an obstacle prevents that and the file itself can be written, writes it in place.
///
/// # Errors
/// `ERR_QWEN_IO`.
pub fn put(path: &Path, contents: &[u8], reserved: Option<Reservation>) -> Result<Replaced> {
    let Some(obstacle) = Obstacle::to(path) else {
        return replace_if(path, contents, reserved, &|| true);
    };
    obstacle.expect_writable_file(path)?;
    overwrite(path, contents).map(|()| Replaced::Synced)
}

/// Reserves space for `size` bytes of new contents; `None` for a file that [`put`] writes in place.
///
/// # Errors
/// `ERR_QWEN_IO` if the file can't be written.
pub fn reserve(path: &Path, size: u64) -> Result<Option<Reservation>> {
    match Obstacle::to(path) {
        Some(obstacle) => obstacle.expect_writable_file(path).map(|()| None),
        None => Reservation::make(path, size).map(Some),
    }
}

/// Writes `contents` into a file that can't be replaced: a mount, or a file in a read-only directory. A crash can leave
/// the file torn, so save the contents elsewhere first if possible.
///
/// # Errors
/// `ERR_QWEN_IO`.
pub fn overwrite(path: &Path, contents: &[u8]) -> Result<()> {
    let written = safe_open::open_with(File::options().read(true).write(true), path).and_then(|mut file| {
        let before = safe_open::read_open(&file, MAX_FILE)?;
        write_over(&mut file, contents).inspect_err(|_| {
            // On a full disk the old contents still have their space.
            let _ = before.map(|before| write_over(&mut file, &before));
        })?;
        file.sync_all()
    });
    written.map_err(|error| Error::io("write", path, error))
}

fn write_over(file: &mut File, contents: &[u8]) -> std::io::Result<()> {
    file.rewind()?;
    file.write_all(contents)?;
    file.set_len(contents.len() as u64)
}

/// Reserved disk space for later contents: a temporary file beside the one that they will replace.
#[derive(Debug)]
pub struct Reservation {
    temporary: Temporary,
    target: PathBuf,
}

impl Reservation {
    /// Writes and syncs a file with room for `size` bytes and for a lock. This finds a full disk, a used-up quota, a
    /// read-only directory, a failing disk, and an owner that can't be kept.
    fn make(path: &Path, size: u64) -> Result<Self> {
        let target = follow_links(path)?;
        // File systems that copy on write need space for both versions of a block.
        let size = size.saturating_mul(2).saturating_add(ROOM_FOR_A_LOCK);
        let directory = parent(&target);
        create_private_directory(directory)?;
        let made =
            Temporary::create(&target, &temporary_name(&target, RESERVED)).and_then(|mut temporary| {
                // Random bytes, since some file systems store zeros without using space.
                let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
                getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
                temporary.file.write_all(&bytes)?;
                temporary.file.sync_all()?;
                temporary.file.rewind()?;
                Ok(temporary)
            });
        match made {
            Ok(temporary) => Ok(Self { temporary, target }),
            Err(error) => Err(Error::io("reserve space for new tokens in", directory, error)),
        }
    }

    /// Returns the file under the name for new contents of `target`, without surplus space; `None` if that fails.
    fn fitted(self, target: &Path, name: &str, size: usize) -> Option<Temporary> {
        let temporary = (self.target == target).then(|| self.temporary.renamed(name))?.ok()?;
        // Surplus space is given back before the write; the rest stays reserved.
        temporary.file.set_len(size as u64).ok().map(|()| temporary)
    }

    /// True if the directory was moved or unmounted meanwhile. If it was deleted, the file is gone too.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            let Ok(file) = self.temporary.file.metadata() else { return false };
            let is_here = |found: fs::Metadata| (found.dev(), found.ino()) == (file.dev(), file.ino());
            file.nlink() > 0 && !fs::symlink_metadata(&self.temporary.path).is_ok_and(is_here)
        }
        // Windows moves no directory with an open file.
        #[cfg(not(unix))]
        false
    }

    /// Gives half of the space back, so that a lock can be created on a full disk.
    pub fn make_room_for_a_lock(&self) {
        let file = &self.temporary.file;
        // If it fails, the disk may still have space for the lock.
        let _ = file.metadata().and_then(|found| file.set_len(found.len() / 2));
    }
}

/// A temporary file. It is removed on drop unless it was renamed.
#[derive(Debug)]
struct Temporary {
    file: File,
    path: PathBuf,
}

impl Temporary {
    fn create(target: &Path, name: &str) -> std::io::Result<Self> {
        let directory = parent(target);
        // `tempfile` creates it with mode 0600, which stays when it is renamed.
        let made = tempfile::Builder::new().prefix(name).suffix(TEMPORARY_SUFFIX).tempfile_in(directory)?;
        let (file, path) = made.keep()?;
        let temporary = Self { file, path };
        ownership::set_owner(&temporary.file, target, directory)?;
        Ok(temporary)
    }

    /// Renames the temporary file to another temporary name.
    fn renamed(mut self, name: &str) -> std::io::Result<Self> {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let path = parent(&self.path).join(format!("{name}{}{TEMPORARY_SUFFIX}", &random[..6]));
        fs::rename(&self.path, &path)?;
        self.path = path;
        Ok(self)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            remove_leftover(&self.path);
        }
    }
}

/// Windows can't replace a file that is open, as for a moment by a reader or a virus scanner.
fn persist(mut temporary: Temporary, target: &Path) -> std::io::Result<()> {
    let mut tries_left = if cfg!(windows) { 100 } else { 0 };
    loop {
        match fs::rename(&temporary.path, target) {
            Ok(()) => {
                temporary.path = PathBuf::new();
                return Ok(());
            }
            Err(error) if tries_left > 0 && error.kind() == ErrorKind::PermissionDenied => {
                tries_left -= 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    }
}

/// True if a write of `path` was interrupted before its rename.
#[must_use]
pub fn is_interrupted(path: &Path) -> bool {
    follow_links(path).is_ok_and(|target| !leftovers(&target).is_empty())
}

/// Completes interrupted writes of `path`. The caller must hold its kernel lock, so that the writers are dead. A whole
/// JSON file replaces the file that it was made for, since it may hold the only copy of a token. Other leftovers are
/// removed. Anything that fails is left for the next time.
pub fn complete(path: &Path) {
    let Ok(target) = follow_links(path) else { return };
    let leftovers = leftovers(&target);
    if leftovers.is_empty() {
        return;
    }
    let wanted = temporary_name(&target, &fingerprint(&target));
    for leftover in leftovers {
        let is_wanted = leftover.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&wanted));
        if is_wanted && !fault::omits(Safeguard::Completion) && put_in_place(&leftover, &target).is_ok() {
            continue;
        }
        remove_leftover(&leftover);
    }
}

fn put_in_place(leftover: &Path, target: &Path) -> std::io::Result<()> {
    let file = safe_open::open_own(File::options().read(true), leftover)?;
    let mut contents = Vec::new();
    (&file).take(MAX_FILE + 1).read_to_end(&mut contents)?;
    serde_json::from_slice::<serde::de::IgnoredAny>(&contents)?;
    sync_data(&file)?;
    fs::rename(leftover, target)?;
    sync_directory(parent(target))
}

/// Removes the temporary file of a dead process.
pub fn remove_leftover(leftover: &Path) {
    #[expect(clippy::disallowed_methods, reason = "a temporary file, whose writer is dead")]
    let _ = fs::remove_file(leftover);
}

/// Removes reservations for `path` that dead processes left. The caller must hold the lock of all reservations.
pub fn remove_reservations(path: &Path) {
    let Ok(target) = follow_links(path) else { return };
    for leftover in temporary_files(&target, &|name| name.starts_with(&temporary_name(&target, RESERVED))) {
        remove_leftover(&leftover);
    }
}

/// Temporary files beside `target` that were to replace it.
#[must_use]
pub fn leftovers(target: &Path) -> Vec<PathBuf> {
    // A reservation may belong to a running process.
    temporary_files(target, &|name| !name.starts_with(&temporary_name(target, RESERVED)))
}

fn temporary_files(target: &Path, is_wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let prefix = temporary_prefix(target);
    let is_leftover = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.starts_with(&prefix) && name.ends_with(TEMPORARY_SUFFIX) && is_wanted(&name);
        is_ours && entry.file_type().is_ok_and(|kind| kind.is_file())
    };
    let entries = fs::read_dir(parent(target)).into_iter().flatten().flatten();
    entries.filter(is_leftover).map(|entry| entry.path()).collect()
}

/// Returns the fixed part of a temporary file's name. `what` is the fingerprint of the contents to be replaced, or
/// [`RESERVED`].
fn temporary_name(target: &Path, what: &str) -> String {
    format!("{}{what}.", temporary_prefix(target))
}

/// Returns the directory of a file.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Starts the names of all temporary files of `target`.
#[must_use]
pub fn temporary_prefix(target: &Path) -> String {
    format!(".{}.", target.file_name().unwrap_or_default().to_string_lossy())
}

/// Fingerprint of the contents that a temporary file replaces.
fn fingerprint(target: &Path) -> String {
    use std::fmt::Write as _;
    let Ok(Some(contents)) = safe_open::read(target, MAX_FILE) else { return "none".to_owned() };
    Sha256::digest(contents).iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes in two parts, so that a test can stop in between.
fn write_all(file: &mut File, contents: &[u8]) -> std::io::Result<()> {
    let (first, rest) = contents.split_at(contents.len() / 2);
    file.write_all(first)?;
    fault::reached(Point::HalfWritten);
    file.write_all(rest)?;
    fault::reached(Point::Written);
    Ok(())
}

fn sync_data(file: &File) -> std::io::Result<()> {
    if fault::omits(Safeguard::DataSync) { Ok(()) } else { file.sync_all() }
}

/// As [`private_files::create_directory`].
///
/// # Errors
/// `ERR_QWEN_IO`, with advice about a link to a missing directory.
pub fn create_private_directory(directory: &Path) -> Result<()> {
    private_files::create_directory(directory).map_err(|error| {
        let missing = directory.ancestors().take_while(|path| !path.is_dir() && path.parent().is_some());
        let failed = missing.last().unwrap_or(directory);
        let Ok(target) = fs::read_link(failed) else { return Error::io("create", failed, error) };
        // The link may lead to a disk that is not mounted now.
        let message = format!(
            "{} is a link to {}, where there is no directory. Create that directory or remove the link, then try again.",
            failed.display(),
            target.display()
        );
        Error::new(Code::Io, message).with_path(failed)
    })
}

/// Returns the path that a chain of links leads to. The target may be missing.
///
/// # Errors
/// `ERR_QWEN_IO` for links that form a loop.
pub fn follow_links(path: &Path) -> Result<PathBuf> {
    // The kernel's own limit.
    const MAX_LINKS: usize = 40;
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            Ok(next) => target = target.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => return Ok(target),
        }
    }
    let looped = std::io::Error::other("too many symbolic links");
    Err(Error::io("follow", path, looped))
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    if fault::omits(Safeguard::DirectorySync) { Ok(()) } else { File::open(directory)?.sync_all() }
}

/// Windows can't sync a directory; it journals renames.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "it is that of other systems that can fail")]
fn sync_directory(_directory: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "tests leave what a dead process would")]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_and_its_directory_are_private() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b/file.json");
        replace(&path, b"one").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let temporary = tempfile::tempdir().unwrap();
        let link = temporary.path().join("creds.json");
        symlink(&link, &link).unwrap();
        assert!(replace(&link, b"x").unwrap_err().message().contains("symbolic links"));
    }

    #[test]
    fn a_whole_interrupted_write_is_completed_if_its_target_is_unchanged() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("creds.json");
        replace(&path, b"{\"a\":1}").unwrap();
        let leave = |contents: &[u8]| {
            let prefix = temporary_name(&path, &fingerprint(&path));
            fs::write(temporary.path().join(prefix + "abc" + TEMPORARY_SUFFIX), contents).unwrap();
        };
        for torn in [&b""[..], b"{\"a\":2", b"\0\0\0\0"] {
            leave(torn);
            assert!(is_interrupted(&path));
            complete(&path);
            assert_eq!(fs::read(&path).unwrap(), b"{\"a\":1}");
            assert!(!is_interrupted(&path));
        }
        leave(b"{\"a\":3}");
        complete(&path);
        assert_eq!(fs::read(&path).unwrap(), b"{\"a\":3}");
        leave(b"{\"a\":4}");
        replace(&path, b"{\"by\":\"another\"}").unwrap();
        complete(&path);
        assert_eq!(fs::read(&path).unwrap(), b"{\"by\":\"another\"}");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_declined_write_leaves_the_file() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("creds.json");
        replace(&path, b"1").unwrap();
        assert!(matches!(replace_if(&path, b"2", None, &|| false).unwrap(), Replaced::Declined));
        assert_eq!(fs::read(&path).unwrap(), b"1");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    }

    #[test]
    fn reserved_space_is_used_and_never_completed_as_a_write() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("creds.json");
        replace(&path, b"{}").unwrap();
        let count = || fs::read_dir(temporary.path()).unwrap().count();
        let reserved = Reservation::make(&path, 4096).unwrap();
        complete(&path);
        assert_eq!((count(), is_interrupted(&path)), (2, false));
        replace_if(&path, b"{\"a\":1}", Some(reserved), &|| true).unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), count()), (&b"{\"a\":1}"[..], 1));
        drop(Reservation::make(&path, 1).unwrap());
        assert_eq!(count(), 1);
        std::mem::forget(Reservation::make(&path, 1).unwrap());
        remove_reservations(&path);
        assert_eq!(count(), 1);
    }

    #[test]
    fn a_failure_leaves_the_old_file() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("directory-in-the-way");
        fs::create_dir_all(path.join("child")).unwrap();
        let error = replace(&path, b"x").unwrap_err();
        assert_eq!(error.path(), Some(path.as_path()));
        assert!(path.join("child").is_dir());
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    }
}
