//! Counts work that must finish, so that the host can stay alive for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::shutdown::Shutdown;

/// A shared count of work that must finish. Unlike a [`Section`](crate::Section), it keeps the host's event loop
/// running but doesn't delay an exit.
#[derive(Clone)]
pub struct Busy(Arc<Counter>);

struct Counter {
    count: AtomicUsize,
    shutdown: Shutdown,
    on_idle: Box<dyn Fn() + Send + Sync>,
}

/// Counts as work until it is dropped.
#[derive(Debug)]
pub struct BusyGuard(Busy);

impl Busy {
    /// Calls `on_idle` each time the last work ends. `shutdown` belongs to the process.
    pub fn new(shutdown: Shutdown, on_idle: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Counter { count: AtomicUsize::new(0), shutdown, on_idle: Box::new(on_idle) }))
    }

    /// Creates a count without an idle callback and with its own [`Shutdown`].
    #[must_use]
    pub fn unobserved() -> Self {
        Self::new(Shutdown::default(), || {})
    }

    /// True while work is in progress.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.count.load(Ordering::Acquire) > 0
    }

    /// Begins a piece of work.
    #[must_use]
    pub fn enter(&self) -> BusyGuard {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        BusyGuard(self.clone())
    }

    /// Returns the shutdown of the process.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.0.shutdown
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        if self.0.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            (self.0.0.on_idle)();
        }
    }
}

impl fmt::Debug for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Busy").field("count", &self.0.count).finish_non_exhaustive()
    }
}
