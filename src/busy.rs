//! Counts what must not be interrupted, so that a host can wait for it before it ends.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A shared count of work that must reach its end.
#[derive(Clone)]
pub struct Busy(Arc<Inner>);

struct Inner {
    count: AtomicUsize,
    critical: Mutex<Critical>,
    none_critical: Condvar,
    on_idle: Box<dyn Fn() + Send + Sync>,
}

/// Work that may not even be cut by the end of the process.
#[derive(Default)]
struct Critical {
    count: usize,
    is_closed: bool,
}

/// Counts as work until it is dropped.
#[derive(Debug)]
pub struct BusyGuard(Busy);

/// Holds the end of the process up until it is dropped.
#[derive(Debug)]
pub struct CriticalGuard(Busy);

impl Busy {
    /// `on_idle` is called each time the last work has ended.
    pub fn new(on_idle: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            count: AtomicUsize::new(0),
            critical: Mutex::default(),
            none_critical: Condvar::new(),
            on_idle: Box::new(on_idle),
        }))
    }

    /// Nobody waits.
    #[must_use]
    pub fn unobserved() -> Self {
        Self::new(|| {})
    }

    /// Whether there is work.
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

    /// Begins what the process may not end in the middle of; `None` where it is about to end.
    #[must_use]
    pub fn enter_critical(&self) -> Option<CriticalGuard> {
        let mut critical = self.0.critical.lock().unwrap_or_else(PoisonError::into_inner);
        if critical.is_closed {
            return None;
        }
        critical.count += 1;
        Some(CriticalGuard(self.clone()))
    }

    /// Whether nothing critical may begin any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.critical.lock().unwrap_or_else(PoisonError::into_inner).is_closed
    }

    /// Lets nothing critical begin any more, and waits for what has begun, for at most `limit`. Blocks.
    pub fn close(&self, limit: Duration) {
        let mut critical = self.0.critical.lock().unwrap_or_else(PoisonError::into_inner);
        critical.is_closed = true;
        // Whatever it says, the process ends now.
        let _ = self.0.none_critical.wait_timeout_while(critical, limit, |critical| critical.count > 0);
    }
}

impl Drop for CriticalGuard {
    fn drop(&mut self) {
        let inner = &self.0.0;
        inner.critical.lock().unwrap_or_else(PoisonError::into_inner).count -= 1;
        inner.none_critical.notify_all();
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_end_waits_for_what_has_begun_and_nothing_begins_after_it() {
        let busy = Busy::unobserved();
        let begun = busy.enter_critical().unwrap();
        let ending = busy.clone();
        let end = std::thread::spawn(move || ending.close(LONG));
        while !busy.is_closed() {
            std::thread::yield_now();
        }
        assert!(busy.enter_critical().is_none());
        assert!(!end.is_finished());
        drop(begun);
        end.join().unwrap();
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let busy = Busy::unobserved();
        let begun = busy.enter_critical();
        busy.close(Duration::from_millis(10));
        drop(begun);
        let started = Instant::now();
        busy.close(LONG);
        assert!(started.elapsed() < LONG);
    }
}
