//! Locks on a file of tokens: a kernel lock between our own processes, and the qwen CLI's lock file towards the CLI.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use qwen_base::{
    Clock, Code, Error, Result, epoch_ms,
    fault::{self, Point, Safeguard},
    safe_open::{self, InPlace},
};

use crate::store::atomic::{self, create_private_directory};
use crate::store::ownership;
use crate::store::sharing::is_abandoned;

/// How long a caller waits for its turn.
pub const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// A lock file that is held must be touched more often than this: the CLI up to 0.15 takes one of 10 s for stale.
pub const TOUCH_INTERVAL: Duration = Duration::from_secs(3);
/// The age at which the CLI (0.24) takes a lock file for stale. Older versions use 10 s, but may themselves still be at
/// work then.
const STALE_AFTER: Duration = Duration::from_secs(35);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(150);
/// The second line of a lock file of ours. The CLI writes one line and reads none.
const OWNER: &str = "opencode-qwen-cli-auth";

/// The two locks of one file.
#[derive(Debug, Clone)]
pub struct LockPaths {
    /// Locked by the kernel: empty, permanent, never removed.
    pub kernel: PathBuf,
    /// Created and removed, as the CLI does it.
    pub cli: PathBuf,
}

/// Who has a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nobody.
    Free,
    /// A process that is at work.
    Held,
    /// A process of ours that has not touched its lock for long: it hangs, or was stopped.
    Stuck,
    /// Nobody can be behind the lock file any more.
    Abandoned,
}

impl LockPaths {
    /// Returns the locks of a file with these names beside it. The kernel lock lies beside the file that a link leads to,
    /// so that two links to one file share it; the CLI's lock lies where the CLI looks for it.
    #[must_use]
    pub fn beside(path: &Path, named: impl Fn(&Path, &'static str) -> PathBuf) -> Self {
        let target = atomic::follow_links(path).unwrap_or_else(|_| path.to_owned());
        let shared = named(&target, "flock");
        let is_shared = !fault::omits(Safeguard::SharedLock) && (target == path || is_writable(&shared));
        let kernel = if is_shared { shared } else { named(path, "flock") };
        Self { kernel, cli: named(path, "lock") }
    }

    /// True if neither lock file is there, so that nobody can hold a lock.
    #[must_use]
    pub fn are_missing(&self) -> bool {
        [&self.kernel, &self.cli].iter().all(|path| path.symlink_metadata().is_err())
    }

    /// Makes the directories of the lock files.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn make_directories(&self) -> Result<()> {
        let directories = [&self.kernel, &self.cli].map(|path| path.parent().unwrap_or(Path::new(".")));
        directories.into_iter().try_for_each(create_private_directory)
    }

    /// Checks that the kernel's lock can be taken where its file is there. Makes nothing.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn expect_usable(&self) -> Result<()> {
        match safe_open::open_own(OpenOptions::new().read(true).write(true), &self.kernel) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("open", &self.kernel, &error)),
            _ => Ok(()),
        }
    }

    /// Looks at the CLI's lock file, and changes nothing.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn find(&self, clock: &Clock) -> Result<Found> {
        let modified = match fs::symlink_metadata(&self.cli).and_then(|metadata| metadata.modified()) {
            Ok(modified) => modified,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Free),
            Err(error) => return Err(Error::io("look at", &self.cli, &error)),
        };
        let is_locked = safe_open::open(&self.kernel).is_ok_and(|file| {
            fd_lock::RwLock::new(file).try_read().is_err_and(|error| !is_unsupported(&error))
        });
        let is_stale = u128::from(clock.now_ms().abs_diff(epoch_ms(modified))) >= STALE_AFTER.as_millis();
        Ok(match (is_locked, is_stale) {
            (true, true) => Found::Stuck,
            (false, true) => Found::Abandoned,
            (false, false) if is_ours(&self.cli) => Found::Abandoned,
            (_, false) => Found::Held,
        })
    }
}

/// Runs `body` while this process holds both locks.
///
/// The kernel lock dies with its holder and is never stolen. It is not held while the CLI's lock is waited for, so that
/// whoever has it is at work. `meanwhile` is asked between tries: it may find that there is nothing left to do.
///
/// # Errors
/// `ERR_QWEN_LOCK_TIMEOUT` after [`WAIT_LIMIT`], `ERR_QWEN_IO`, and what `body` returns.
pub fn exclusively<T>(
    paths: &LockPaths,
    clock: &Clock,
    mut meanwhile: impl FnMut() -> Option<T>,
    body: impl FnOnce(&mut CliLock) -> Result<T>,
) -> Result<T> {
    paths.make_directories()?;
    let file = open_lock_file(&paths.kernel).map_err(|error| Error::io("open", &paths.kernel, &error))?;
    fault::reached(Point::LockFileOpened);
    let mut kernel = fd_lock::RwLock::new(file);
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut waited_for_cli = false;
    loop {
        match kernel.try_write() {
            Ok(guard) => {
                // Taken away by a test, which shows what it is for.
                let _guard = (!fault::omits(Safeguard::KernelLock)).then_some(guard);
                fault::reached(Point::KernelLocked);
                if let Some(mut cli) = CliLock::try_acquire(&paths.cli, clock, true)? {
                    fault::reached(Point::CliLocked);
                    cli.waited_for_cli = waited_for_cli;
                    return body(&mut cli);
                }
                waited_for_cli = true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) if is_unsupported(&error) => {
                if let Some(mut cli) = CliLock::try_acquire(&paths.cli, clock, false)? {
                    return body(&mut cli);
                }
            }
            Err(error) => return Err(Error::io("lock", &paths.kernel, &error)),
        }
        if let Some(done) = meanwhile() {
            return Ok(done);
        }
        if started.elapsed() >= WAIT_LIMIT {
            return Err(timed_out(&paths.cli));
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// True if a lock can be made at a path, or taken where it is.
#[cfg(unix)]
fn is_writable(lock: &Path) -> bool {
    use rustix::fs::{Access, access};
    let is_open = |path: &Path| access(path, Access::READ_OK | Access::WRITE_OK).is_ok();
    is_open(lock) || !lock.exists() && lock.parent().is_some_and(is_open)
}

#[cfg(not(unix))]
fn is_writable(lock: &Path) -> bool {
    lock.exists() || lock.parent().is_some_and(Path::is_dir)
}

fn timed_out(path: &Path) -> Error {
    let message = format!(
        "Another process has held {} for {} s. Try again; if it stays, close other qwen or OpenCode sessions.",
        path.display(),
        WAIT_LIMIT.as_secs()
    );
    Error::new(Code::LockTimeout, message).with_path(path).retryable()
}

fn open_lock_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = safe_open::open_own(&mut options, path)?;
    ownership::inherit(&file, path.parent().unwrap_or(Path::new(".")));
    Ok(file)
}

/// Some network file systems have no such locks; the CLI's kind alone must do there.
#[must_use]
pub fn is_unsupported(error: &std::io::Error) -> bool {
    const NO_LOCKS_AVAILABLE: i32 = if cfg!(target_os = "macos") { 77 } else { 37 };
    error.kind() == ErrorKind::Unsupported || cfg!(unix) && error.raw_os_error() == Some(NO_LOCKS_AVAILABLE)
}

/// The CLI's lock file while it is ours. It can be lost: an exiting qwen process removes it, whoever holds it.
#[derive(Debug)]
pub struct CliLock {
    claim: Claim,
    sole: bool,
    waited_for_cli: bool,
    was_stolen: bool,
}

/// What says whether the CLI's lock file is still ours.
#[derive(Debug, Clone)]
pub struct Claim {
    path: PathBuf,
    contents: String,
}

impl Claim {
    /// Whether the lock file is still the one that this process made.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.holder().is_ok_and(|contents| contents == self.contents)
    }

    fn holder(&self) -> std::io::Result<String> {
        read_short(&self.path)
    }
}

impl CliLock {
    /// One try. `sole` says that no other process of ours can hold it, so that a file of ours is a dead process's.
    fn try_acquire(path: &Path, clock: &Clock, sole: bool) -> Result<Option<Self>> {
        if sole {
            for leftover in atomic::leftovers(path) {
                atomic::remove_leftover(&leftover);
            }
        }
        let contents = format!("{}\n{OWNER} {}\n", uuid::Uuid::new_v4(), std::process::id());
        for _ in 0..2 {
            match create_exclusively(path, &contents) {
                Ok(()) => {
                    let claim = Claim { path: path.to_owned(), contents };
                    return Ok(Some(Self { claim, sole, waited_for_cli: false, was_stolen: false }));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", path, &error)),
            }
            if !remove_if_abandoned(path, clock, sole)? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Whether the kernel's lock is held too, so that no other process of ours is at work.
    #[must_use]
    pub fn is_sole(&self) -> bool {
        self.sole
    }

    /// Whether a CLI was found to have it before. It may be at work still: the exit of another CLI removes its lock.
    #[must_use]
    pub fn waited_for_cli(&self) -> bool {
        self.waited_for_cli
    }

    /// Whether the lock file is still the one that this process made.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.claim.is_held()
    }

    /// For whoever wants to know it later, elsewhere.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.claim.clone()
    }

    /// Whether somebody else was found to have it.
    #[must_use]
    pub fn was_stolen(&self) -> bool {
        self.was_stolen
    }

    /// Keeps the lock from looking stale; takes it again where it was removed and nobody else has it.
    pub fn keep(&mut self, clock: &Clock) {
        if self.retake() && !fault::omits(Safeguard::Touch) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_millis(clock.now_ms());
            // A lock that can't be touched is not lost yet, and there is nobody to tell.
            let _ = safe_open::open_own(OpenOptions::new().write(true), &self.claim.path)
                .and_then(|file| file.set_modified(now));
        }
    }

    /// Takes the lock again where it was removed and nobody else has it. Says whether it is ours.
    pub fn retake(&mut self) -> bool {
        match self.claim.holder() {
            Ok(contents) if contents == self.claim.contents => true,
            // A CLI creates it empty, and writes its name then.
            Ok(_) => {
                self.was_stolen = true;
                false
            }
            Err(_) => create_exclusively(&self.claim.path, &self.claim.contents).is_ok(),
        }
    }
}

impl Drop for CliLock {
    fn drop(&mut self) {
        if self.is_held() {
            #[expect(clippy::disallowed_methods, reason = "a lock is released by removing it")]
            let _ = fs::remove_file(&self.claim.path);
        }
        fault::reached(Point::CliUnlocked);
    }
}

/// Creates a lock file that is never seen without its contents: one that is empty could be anybody's.
fn create_exclusively(path: &Path, contents: &str) -> std::io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(&atomic::temporary_prefix(path))
        .suffix(atomic::TEMPORARY_SUFFIX)
        .tempfile_in(directory)?;
    file.write_all(contents.as_bytes())?;
    ownership::inherit(file.as_file(), directory);
    fault::reached(Point::CliLockPrepared);
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(failed) if failed.error.kind() == ErrorKind::AlreadyExists => Err(failed.error),
        // A file system without links, and without a rename that replaces nothing.
        Err(_) => create_directly(path, contents),
    }
}

fn create_directly(path: &Path, contents: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let mut file = safe_open::open_own(&mut options, path).map_err(|error| match InPlace::of(&error) {
        Some(_) => ErrorKind::AlreadyExists.into(),
        None => error,
    })?;
    ownership::inherit(&file, path.parent().unwrap_or(Path::new(".")));
    file.write_all(contents.as_bytes()).inspect_err(|_| {
        // On a full disk there is room for a name and none for what says whose it is: it would block everyone.
        #[expect(clippy::disallowed_methods, reason = "a lock that could not be taken is not left behind")]
        let _ = fs::remove_file(path);
    })
}

/// Removes a lock file that nobody can be behind any more. Says whether it is worth trying again.
fn remove_if_abandoned(path: &Path, clock: &Clock, sole: bool) -> Result<bool> {
    let gone = |error: &std::io::Error| error.kind() == ErrorKind::NotFound;
    let modified = match fs::symlink_metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(modified) => modified,
        Err(error) if gone(&error) => return Ok(true),
        Err(error) => return Err(Error::io("look at", path, &error)),
    };
    let is_ours = is_ours(path);
    // A clock that jumped can put a live lock's time into the future, or a dead one's.
    let age_ms = clock.now_ms().abs_diff(epoch_ms(modified));
    let is_stale = u128::from(age_ms) >= STALE_AFTER.as_millis();
    if !is_abandoned(is_ours, sole, is_stale) {
        return Ok(false);
    }
    #[expect(clippy::disallowed_methods, reason = "an abandoned lock is removed, as the CLI does it")]
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if gone(&error) => Ok(true),
        Err(error) => Err(Error::io("remove the abandoned lock", path, &error)),
    }
}

fn is_ours(path: &Path) -> bool {
    read_short(path).is_ok_and(|contents| contents.lines().nth(1).is_some_and(|line| line.starts_with(OWNER)))
}

/// Reads a lock file; anything longer than a lock file is not one of ours.
fn read_short(path: &Path) -> std::io::Result<String> {
    let mut contents = String::new();
    safe_open::open_own(OpenOptions::new().read(true), path)?.take(256).read_to_string(&mut contents)?;
    Ok(contents)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests take locks away, as the CLI does")]
mod tests {
    use super::*;

    fn paths(directory: &Path) -> LockPaths {
        LockPaths { kernel: directory.join("oauth_creds.flock"), cli: directory.join("oauth_creds.lock") }
    }

    fn foreign_lock(path: &Path, age: Duration) {
        create_exclusively(path, "0b6f2f0e-0000-4000-8000-000000000000").unwrap();
        let now = Clock::system().now_ms();
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(now) - age;
        OpenOptions::new().write(true).open(path).unwrap().set_modified(modified).unwrap();
    }

    #[test]
    fn both_locks_are_held_and_the_cli_lock_is_released() {
        let temporary = tempfile::tempdir().unwrap();
        let paths = paths(temporary.path());
        let clock = Clock::system();
        exclusively(
            &paths,
            &clock,
            || None,
            |cli| {
                assert!(cli.is_held());
                let file = open_lock_file(&paths.kernel).unwrap();
                assert_eq!(fd_lock::RwLock::new(file).try_write().unwrap_err().kind(), ErrorKind::WouldBlock);
                Ok(())
            },
        )
        .unwrap();
        assert!(!paths.cli.exists() && paths.kernel.exists());
    }

    #[test]
    fn a_dead_process_of_ours_does_not_block() {
        let temporary = tempfile::tempdir().unwrap();
        let paths = paths(temporary.path());
        create_exclusively(&paths.cli, &format!("some-uuid\n{OWNER} 1\n")).unwrap();
        exclusively(&paths, &Clock::system(), || None, |_| Ok(())).unwrap();
    }

    #[test]
    fn a_lock_of_the_cli_is_waited_for_until_it_is_stale() {
        let temporary = tempfile::tempdir().unwrap();
        let paths = paths(temporary.path());
        foreign_lock(&paths.cli, Duration::from_secs(34));
        let waited = exclusively(&paths, &Clock::system(), || Some("waited"), |_| Ok("entered")).unwrap();
        assert_eq!(waited, "waited");
        fs::remove_file(&paths.cli).unwrap();
        foreign_lock(&paths.cli, Duration::from_secs(36));
        assert_eq!(exclusively(&paths, &Clock::system(), || None, |_| Ok("entered")).unwrap(), "entered");
    }

    #[test]
    fn a_lock_that_was_taken_away_is_noticed_and_left_to_its_new_holder() {
        let temporary = tempfile::tempdir().unwrap();
        let paths = paths(temporary.path());
        let clock = Clock::system();
        exclusively(
            &paths,
            &clock,
            || None,
            |cli| {
                fs::remove_file(&paths.cli).unwrap();
                assert!(!cli.is_held());
                cli.keep(&clock);
                assert!(cli.is_held());
                fs::remove_file(&paths.cli).unwrap();
                foreign_lock(&paths.cli, Duration::ZERO);
                cli.keep(&clock);
                assert!(!cli.is_held());
                Ok(())
            },
        )
        .unwrap();
        assert!(paths.cli.exists());
    }

    #[test]
    fn two_threads_are_never_inside_at_once() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let temporary = tempfile::tempdir().unwrap();
        let paths = paths(temporary.path());
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        exclusively(
                            &paths,
                            &Clock::system(),
                            || None,
                            |_| {
                                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                                std::thread::yield_now();
                                inside.fetch_sub(1, Ordering::SeqCst);
                                Ok(())
                            },
                        )
                        .unwrap();
                    }
                });
            }
        });
    }
}
