//! Named points at which a test lets a process die or stop, and safeguards that it takes away.
//!
//! A test that also passes without the safeguard it is about shows nothing. So each is shown once to fail without it.
//! All this is built for tests alone (feature `fault-points`); otherwise these functions do nothing and compile to nothing.

/// A step of a refresh, or of a write, in the order in which they are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The kernel's lock file is open, and not locked yet.
    LockFileOpened,
    /// The kernel lock is held.
    KernelLocked,
    /// The CLI's lock file is there under another name.
    CliLockPrepared,
    /// Both locks are held.
    CliLocked,
    /// The files were read again under the locks.
    ReadAgain,
    /// The connection is there; the refresh token is about to be sent.
    Sending,
    /// The new tokens are in memory, and nowhere else.
    Redeemed,
    /// A temporary file was created.
    TemporaryCreated,
    /// Half of the contents is written.
    HalfWritten,
    /// All of the contents is written.
    Written,
    /// The contents is on disk.
    DataSynced,
    /// The new file has its name.
    Renamed,
    /// The name is on disk.
    DirectorySynced,
    /// All files hold the new tokens.
    Saved,
    /// The CLI's lock file is gone; the kernel lock is still held.
    CliUnlocked,
}

impl Point {
    /// All of them.
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

/// What keeps a token from being lost, and can be left out to show that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safeguard {
    /// The kernel's lock between our own processes.
    KernelLock,
    /// Reading the files again under the locks.
    ReadAgain,
    /// Keeping the CLI's lock file from looking abandoned.
    Touch,
    /// Taking the CLI's lock again at once where an exiting CLI has removed it.
    Retake,
    /// The last look before the refresh token is sent.
    LastLook,
    /// Comparing the file with the token that was redeemed, before it is replaced.
    Comparison,
    /// Writing beside the file, and renaming.
    Replacement,
    /// The sync of the contents.
    DataSync,
    /// The sync of the name.
    DirectorySync,
    /// Completing a write that was interrupted.
    Completion,
    /// Waiting for a CLI whose lock another CLI removed on its exit.
    Patience,
    /// Outlasting a CLI that took the lock away in the middle of a refresh.
    Outlasting,
    /// Holding the end of the process up until a token that was sent is written.
    HeldEnd,
    /// Making room for new tokens before the refresh token is sent.
    Preparation,
    /// Writing into a credentials file that can't be replaced.
    InPlace,
    /// Keeping a login whose place another took while it was refreshed.
    KeepingBeside,
    /// Redeeming a token at the server that issued it alone.
    Binding,
    /// Refreshing a login that may be dead before it becomes the qwen CLI's.
    Proof,
    /// The lock beside the file that a link leads to.
    SharedLock,
    /// Giving a file that is replaced to its owner.
    Ownership,
}

impl Safeguard {
    /// All of them.
    pub const ALL: [Self; 20] = [
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
    ];
}

#[cfg(not(feature = "fault-points"))]
mod none {
    /// Says that a step is reached.
    #[inline]
    pub const fn reached(_point: super::Point) {}

    /// Whether a safeguard is left out: never.
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

    /// What a process is to suffer.
    pub struct Faults {
        /// Called at each point that is reached.
        pub at: Box<dyn Fn(Point) + Send + Sync>,
        /// What is left out.
        pub omitted: Vec<Safeguard>,
    }

    static FAULTS: OnceLock<Faults> = OnceLock::new();

    /// Sets the faults of this process, once.
    pub fn inject(faults: Faults) {
        // A second call would be a test's mistake, and changes nothing.
        let _ = FAULTS.set(faults);
    }

    /// Says that a step is reached.
    pub fn reached(point: Point) {
        if let Some(faults) = FAULTS.get() {
            (faults.at)(point);
        }
    }

    /// Whether a safeguard is left out.
    #[must_use]
    pub fn omits(safeguard: Safeguard) -> bool {
        FAULTS.get().is_some_and(|faults| faults.omitted.contains(&safeguard))
    }
}
#[cfg(feature = "fault-points")]
pub use injected::{Faults, inject, omits, reached};
