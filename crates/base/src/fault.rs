//! Named points where tests kill or stop a process, and safeguards that tests turn off.
//!
//! A test that passes without its safeguard proves nothing, so each safeguard has a test that fails without it. The
//! feature `fault-points` is for tests only. Without it these functions do nothing and compile to nothing.

/// A step of a refresh or of a file write, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The kernel's lock file is open but not locked.
    LockFileOpened,
    /// The kernel lock is held.
    KernelLocked,
    /// The CLI's lock file exists under a temporary name.
    CliLockPrepared,
    /// Both locks are held.
    CliLocked,
    /// The files were read again under the locks.
    ReadAgain,
    /// The connection is open, and the refresh token is about to be sent.
    Sending,
    /// The new tokens are in memory only.
    Redeemed,
    /// A temporary file was created.
    TemporaryCreated,
    /// Half of the contents are written.
    HalfWritten,
    /// All contents are written.
    Written,
    /// The contents are on disk.
    DataSynced,
    /// The new file has its name.
    Renamed,
    /// The name is on disk.
    DirectorySynced,
    /// All files hold the new tokens.
    Saved,
    /// The CLI's lock file is removed, and the kernel lock is still held.
    CliUnlocked,
}

impl Point {
    /// All values.
    pub const ALL: [Self; 15] = [
        Self::LockFileOpened,
        Self::KernelLocked,
        Self::CliLockPrepared,
        Self::CliLocked,
        Self::ReadAgain,
        Self::Sending,
        Self::Redeemed,
        Self::TemporaryCreated,
        Self::HalfWritten,
        Self::Written,
        Self::DataSynced,
        Self::Renamed,
        Self::DirectorySynced,
        Self::Saved,
        Self::CliUnlocked,
    ];
}

/// A safeguard against losing a token. A test can leave it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safeguard {
    /// The kernel lock between processes that use this package.
    KernelLock,
    /// Reading the files again under the locks.
    ReadAgain,
    /// Touching the CLI's lock file so that it doesn't look abandoned.
    Touch,
    /// Taking the CLI's lock again right after an exiting CLI removed it.
    Retake,
    /// The last check before the refresh token is sent.
    LastLook,
    /// Comparing the file with the redeemed token before replacing it.
    Comparison,
    /// Writing a temporary file and renaming it.
    Replacement,
    /// Syncing the contents to disk.
    DataSync,
    /// Syncing the directory to disk.
    DirectorySync,
    /// Completing an interrupted write.
    Completion,
    /// Waiting for a CLI whose lock was removed when another CLI exited.
    Patience,
    /// Waiting for a CLI that took the lock during a refresh.
    Outlasting,
    /// Delaying the end of the process until the new tokens are written.
    HeldEnd,
    /// Reserving disk space for new tokens before the refresh token is sent.
    Preparation,
    /// Writing in place to a credentials file that can't be replaced.
    InPlace,
    /// Keeping a login that was replaced by another during its refresh.
    KeepingBeside,
    /// Redeeming a token only at the server that issued it.
    Binding,
    /// Refreshing a login before the qwen CLI gets it.
    Proof,
    /// Locking next to the target of a symbolic link.
    SharedLock,
    /// Keeping the owner of a replaced file.
    Ownership,
    /// Opening only regular files, and without blocking.
    SafeOpen,
    /// Testing that a login can be kept before the user is asked to approve it.
    LoginPreparation,
}

impl Safeguard {
    /// All values.
    pub const ALL: [Self; 22] = [
        Self::KernelLock,
        Self::ReadAgain,
        Self::Touch,
        Self::Retake,
        Self::LastLook,
        Self::Comparison,
        Self::Replacement,
        Self::DataSync,
        Self::DirectorySync,
        Self::Completion,
        Self::Patience,
        Self::Outlasting,
        Self::HeldEnd,
        Self::Preparation,
        Self::InPlace,
        Self::KeepingBeside,
        Self::Binding,
        Self::Proof,
        Self::SharedLock,
        Self::Ownership,
        Self::SafeOpen,
        Self::LoginPreparation,
    ];
}

#[cfg(not(feature = "fault-points"))]
mod none {
    /// Reports that a step is reached.
    #[inline]
    pub const fn reached(_point: super::Point) {}

    /// True if a test leaves out the safeguard: never in this build.
    #[inline]
    #[must_use]
    pub const fn omits(_safeguard: super::Safeguard) -> bool {
        false
    }
}
#[cfg(not(feature = "fault-points"))]
pub use none::{omits, reached};

#[cfg(feature = "fault-points")]
mod injected {
    use std::sync::OnceLock;

    use super::{Point, Safeguard};

    /// The faults of a process.
    pub struct Faults {
        /// Called at each point that is reached.
        pub at: Box<dyn Fn(Point) + Send + Sync>,
        /// Safeguards that are left out.
        pub omitted: Vec<Safeguard>,
    }

    static FAULTS: OnceLock<Faults> = OnceLock::new();

    /// Sets the faults of this process. Only the first call counts.
    pub fn inject(faults: Faults) {
        // A second call is a mistake in a test.
        let _ = FAULTS.set(faults);
    }

    /// Reports that a step is reached.
    pub fn reached(point: Point) {
        if let Some(faults) = FAULTS.get() {
            (faults.at)(point);
        }
    }

    /// True if a test leaves out the safeguard.
    #[must_use]
    pub fn omits(safeguard: Safeguard) -> bool {
        FAULTS.get().is_some_and(|faults| faults.omitted.contains(&safeguard))
    }
}
#[cfg(feature = "fault-points")]
pub use injected::{Faults, inject, omits, reached};
