//! Counts what must not be interrupted, so that a host can wait for it before it ends.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::shutdown::Shutdown;

/// A shared count of work that must reach its end.
#[derive(Clone)]
pub struct Busy(Arc<Inner>);

struct Inner {
    count: AtomicUsize,
    shutdown: Shutdown,
    on_idle: Box<dyn Fn() + Send + Sync>,
}

/// Counts as work until it is dropped.
#[derive(Debug)]
pub struct BusyGuard(Busy);

impl Busy {
    /// `on_idle` is called each time the last work has ended; `shutdown` is the process's.
    pub fn new(shutdown: Shutdown, on_idle: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { count: AtomicUsize::new(0), shutdown, on_idle: Box::new(on_idle) }))
    }

    /// Without an idle callback, and with an end of its own.
    #[must_use]
    pub fn unobserved() -> Self {
        Self::new(Shutdown::default(), || {})
    }

    /// True while there is work.
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

    /// The end of the process that this work belongs to.
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
