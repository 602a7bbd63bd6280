//! Locks of token files: a kernel lock between processes of this package, and the qwen CLI's lock file against the CLI.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use qwen_base::{
    Clock, Code, Error, KernelLock, Result, epoch_ms,
    fault::{self, Point, Safeguard},
    private_files,
    safe_open::{self, NotAFile},
};

use crate::store::atomic::{self, create_private_directory};
use crate::store::obstacle::Obstacle;
use crate::store::refresh_decision::is_abandoned;

/// Longest wait for a lock.
pub const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// A held lock file must be touched more often than this: the CLI up to 0.15 takes it for stale after 10 s.
pub const TOUCH_INTERVAL: Duration = Duration::from_secs(3);
/// Age at which the CLI (0.24) takes a lock file for stale. Older versions use 10 s, but their lock may still be in use
/// then.
const STALE_AFTER: Duration = Duration::from_secs(35);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(150);
/// Second line of our own lock files. The CLI writes one line and reads none.
const OWNER: &str = "opencode-qwen-cli-auth";

/// The two locks of a file.
#[derive(Debug, Clone)]
pub struct LockPaths {
    /// Path of the file for the kernel's lock. It is empty and permanent.
    pub kernel: PathBuf,
    /// Path of the CLI's lock file, which exists only while it is held.
    pub cli: PathBuf,
}

/// State of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockState {
    /// No process holds it.
    Free,
    /// A running process holds it.
    Held,
    /// A process of ours holds it and has not touched it for long: it hangs, or was stopped.
    Stuck,
    /// The holder is gone.
    Abandoned,
}

impl LockPaths {
    /// Returns the locks of a file, under these names. If the file is a link, the kernel lock is beside its target, so
    /// that two links to one file share it. The CLI's lock is where the CLI looks for it.
    #[must_use]
    pub fn beside(path: &Path, named: &dyn Fn(&Path, &'static str) -> PathBuf) -> Self {
        let target = atomic::follow_links(path).unwrap_or_else(|_| path.to_owned());
        let shared = named(&target, "flock");
        // Nothing is created beside a device.
        let is_usable = || NotAFile::at(&target).is_none() && is_writable(&shared);
        let is_shared = !fault::omits(Safeguard::SharedLock) && (target == path || is_usable());
        let kernel = if is_shared { shared } else { named(path, "flock") };
        Self { kernel, cli: named(path, "lock") }
    }

    /// True if neither lock file exists, so that no process can hold a lock.
    #[must_use]
    pub fn are_missing(&self) -> bool {
        [&self.kernel, &self.cli].iter().all(|path| path.symlink_metadata().is_err())
    }

    /// Creates the directories of the lock files.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`, also for a directory in which a lock file could not be removed.
    pub fn make_directories(&self) -> Result<()> {
        let directories = [&self.kernel, &self.cli].map(|path| atomic::parent(path));
        directories.into_iter().try_for_each(create_private_directory)?;
        let obstacle = Obstacle::within(atomic::parent(&self.cli));
        obstacle.map_or(Ok(()), |obstacle| Err(obstacle.error(&self.cli)))
    }

    /// Checks that nothing else stands in the place of the lock files. Creates nothing.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn expect_usable(&self) -> Result<()> {
        expect_file(&self.cli)?;
        self.expect_openable().map_err(|error| Error::io("open", &self.kernel, error))
    }

    /// Checks that the kernel lock's file can be opened, if it exists.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn expect_openable(&self) -> std::io::Result<()> {
        match safe_open::open_own(OpenOptions::new().read(true).write(true), &self.kernel) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns the state of the CLI's lock file. Changes nothing.
    ///
    /// # Errors
    /// `ERR_QWEN_IO`.
    pub fn state(&self, clock: &Clock) -> Result<LockState> {
        let Some(is_stale) = is_stale(&self.cli, clock)? else { return Ok(LockState::Free) };
        let is_locked = safe_open::open(&self.kernel).is_ok_and(KernelLock::is_held);
        Ok(match (is_locked, is_stale) {
            (true, true) => LockState::Stuck,
            (false, true) => LockState::Abandoned,
            (false, false) if is_ours(&self.cli) => LockState::Abandoned,
            (_, false) => LockState::Held,
        })
    }
}

/// Runs `body` while this process holds both locks.
///
/// The kernel lock ends with its holder and is never stolen. It is released while waiting for the CLI's lock, so that
/// no process keeps it idle. Where the file system has no kernel locks, the CLI's lock file alone is held. `meanwhile` is
/// called between tries, and may end the wait with a result.
///
/// # Errors
/// `ERR_QWEN_LOCK_TIMEOUT` after [`WAIT_LIMIT`], `ERR_QWEN_IO`, and those of `body`.
pub fn exclusively<T>(
    paths: &LockPaths,
    clock: &Clock,
    mut meanwhile: impl FnMut() -> Option<T>,
    body: impl FnOnce(&mut CliLock) -> Result<T>,
) -> Result<T> {
    let (mut body, mut result) = (Some(body), None);
    take_turns(paths, clock, &mut |cli| {
        result = match cli {
            Some(cli) => body.take().map(|body| body(cli)),
            None => meanwhile().map(Ok),
        };
        result.is_some()
    })?;
    result.unwrap_or_else(|| Err(Error::internal("work under a lock left no result")))
}

/// Calls `step` with the CLI's lock once both locks are held, and with `None` after each try that fails. Ends if `step`
/// returns true. Not generic, so that it is compiled once.
fn take_turns(
    paths: &LockPaths,
    clock: &Clock,
    step: &mut dyn FnMut(Option<&mut CliLock>) -> bool,
) -> Result<()> {
    paths.make_directories()?;
    let file = open_lock_file(&paths.kernel).map_err(|error| Error::io("open", &paths.kernel, error))?;
    fault::reached(Point::LockFileOpened);
    let mut kernel = KernelLock::new(file);
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut waited_for_cli = false;
    loop {
        match kernel.try_lock() {
            Ok(guard) => {
                // A test drops the lock here and shows the damage.
                let _guard = (!fault::omits(Safeguard::KernelLock)).then_some(guard);
                fault::reached(Point::KernelLocked);
                if let Some(mut cli) = CliLock::try_acquire(&paths.cli, clock, true)? {
                    fault::reached(Point::CliLocked);
                    cli.waited_for_cli = waited_for_cli;
                    step(Some(&mut cli));
                    return Ok(());
                }
                waited_for_cli = true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) if KernelLock::is_unsupported(&error) => {
                if let Some(mut cli) = CliLock::try_acquire(&paths.cli, clock, false)? {
                    step(Some(&mut cli));
                    return Ok(());
                }
            }
            Err(error) => return Err(Error::io("lock", &paths.kernel, error)),
        }
        if step(None) {
            return Ok(());
        }
        if started.elapsed() >= WAIT_LIMIT {
            return Err(timed_out(&paths.cli));
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// True if a lock file exists and can be opened, or can be created.
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
    private_files::inherit_owner_of_parent(&file, path);
    Ok(file)
}

/// The CLI's lock file while this process holds it. It can be lost: an exiting qwen process removes it, even another's.
#[derive(Debug)]
pub struct CliLock {
    /// Checks the lock from another thread.
    pub(crate) claim: Claim,
    /// True if the kernel lock is held too, so that no other process of ours is at work.
    pub(crate) is_sole: bool,
    /// True if a CLI held the lock before. It may still be at work, since the exit of another CLI removes its lock.
    pub(crate) waited_for_cli: bool,
    /// True if another process has taken the lock.
    pub(crate) was_stolen: bool,
}

/// Tells if the lock file is still the one of this process.
#[derive(Debug, Clone)]
pub struct Claim {
    path: PathBuf,
    contents: String,
}

impl Claim {
    /// True if the lock file is still the one that this process created.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.holder().is_ok_and(|contents| contents == self.contents)
    }

    fn holder(&self) -> std::io::Result<String> {
        read_short(&self.path)
    }
}

impl CliLock {
    /// Tries once. `is_sole` is true if no other process of ours can hold the lock, so that any lock file of ours is left
    /// from a dead process.
    fn try_acquire(path: &Path, clock: &Clock, is_sole: bool) -> Result<Option<Self>> {
        if is_sole {
            for leftover in atomic::leftovers(path) {
                atomic::remove_leftover(&leftover);
            }
        }
        let contents = format!("{}\n{OWNER} {}\n", uuid::Uuid::new_v4(), std::process::id());
        for _ in 0..2 {
            match create_exclusively(path, &contents) {
                Ok(()) => {
                    let claim = Claim { path: path.to_owned(), contents };
                    return Ok(Some(Self { claim, is_sole, waited_for_cli: false, was_stolen: false }));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", path, error)),
            }
            if !remove_if_abandoned(path, clock, is_sole)? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// True if the lock file is still the one that this process created.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.claim.is_held()
    }

    /// Touches the lock file so that it doesn't look stale. If it was removed and nobody else has it, it is taken
    /// again.
    pub fn keep(&mut self, clock: &Clock) {
        if self.retake() && !fault::omits(Safeguard::Touch) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_millis(clock.now_ms());
            // An untouched lock is not lost yet, so a failure is ignored.
            let _ = safe_open::open_own(OpenOptions::new().write(true), &self.claim.path)
                .and_then(|file| file.set_modified(now));
        }
    }

    /// Takes the lock again if it was removed and nobody else has it. Returns true if this process holds it.
    pub fn retake(&mut self) -> bool {
        match self.claim.holder() {
            Ok(contents) if contents == self.claim.contents => true,
            // A CLI creates the file empty and writes its id afterwards.
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

/// Creates a lock file with its contents in one step. An empty lock file would have an unknown owner.
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
    private_files::inherit_owner(file.as_file(), directory);
    fault::reached(Point::CliLockPrepared);
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(failed) if failed.error.kind() == ErrorKind::AlreadyExists => Err(failed.error),
        // The file system has no hard links, and no rename that fails if the target exists.
        Err(_) => create_directly(path, contents),
    }
}

fn create_directly(path: &Path, contents: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let mut file = safe_open::open_own(&mut options, path).map_err(|error| match NotAFile::of(&error) {
        Some(_) => ErrorKind::AlreadyExists.into(),
        None => error,
    })?;
    private_files::inherit_owner_of_parent(&file, path);
    file.write_all(contents.as_bytes()).inspect_err(|_| {
        // On a full disk the file may be created without contents. It would block every process.
        #[expect(clippy::disallowed_methods, reason = "a lock that could not be taken is not left behind")]
        let _ = fs::remove_file(path);
    })
}

/// Removes a lock file whose holder is gone. Returns true if it is worth trying again.
fn remove_if_abandoned(path: &Path, clock: &Clock, is_sole: bool) -> Result<bool> {
    let Some(is_stale) = is_stale(path, clock)? else { return Ok(true) };
    if !is_abandoned(is_ours(path), is_sole, is_stale) {
        return expect_file(path).map(|()| false);
    }
    #[expect(clippy::disallowed_methods, reason = "an abandoned lock is removed, as the CLI does it")]
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io("remove the abandoned lock", path, error)),
    }
}

/// Fails for anything but a file, since no process will ever release it.
fn expect_file(path: &Path) -> Result<()> {
    NotAFile::at_own(path).map_or(Ok(()), |found| Err(Error::io("create", path, found.into())))
}

/// True if a lock file has not been touched for too long; `None` if there is none.
fn is_stale(path: &Path, clock: &Clock) -> Result<Option<bool>> {
    match fs::symlink_metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(modified) => {
            // The absolute difference, since a clock that jumped can put a lock's time into the future.
            let age_ms = clock.now_ms().abs_diff(epoch_ms(modified));
            Ok(Some(u128::from(age_ms) >= STALE_AFTER.as_millis()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("look at", path, error)),
    }
}

fn is_ours(path: &Path) -> bool {
    read_short(path).is_ok_and(|contents| contents.lines().nth(1).is_some_and(|line| line.starts_with(OWNER)))
}

/// Reads the start of a lock file.
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

    #[cfg(unix)]
    #[test]
    fn the_kernel_lock_is_beside_the_target_of_a_link_but_not_beside_a_device() {
        let temporary = tempfile::tempdir().unwrap();
        let file = temporary.path().join("target.json");
        File::create(&file).unwrap();
        for (target, is_shared) in [(file.as_path(), true), (Path::new("/dev/null"), false)] {
            let link = temporary.path().join(format!("{is_shared}.json"));
            std::os::unix::fs::symlink(target, &link).unwrap();
            let beside = if is_shared { target } else { &link };
            let kernel = LockPaths::beside(&link, &Path::with_extension).kernel;
            assert_eq!(kernel, beside.with_extension("flock"));
        }
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
                assert_eq!(KernelLock::new(file).try_lock().unwrap_err().kind(), ErrorKind::WouldBlock);
                Ok(())
            },
        )
        .unwrap();
        assert!(!paths.cli.exists() && paths.kernel.exists());
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
}
