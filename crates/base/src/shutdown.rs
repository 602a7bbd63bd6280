//! Delays the end of the process until tokens are written.
//!
//! A refresh token is used up when it is sent, and the new tokens are lost unless they reach the disk. A [`Section`]
//! lasts from sending to writing. Every ordinary end of the process waits for it, for up to [`LONGEST_WAIT`].

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fault::{self, Safeguard};
use crate::mutex::lock;

/// Longest delay of the end of the process.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The sections of one process. Clones share them.
#[derive(Clone)]
pub struct Shutdown(Arc<Sections>);

struct Sections {
    state: Mutex<SectionState>,
    changed: Condvar,
    on_change: Box<dyn Fn(SectionChange) + Send + Sync>,
}

/// A change that [`Shutdown::new`] reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionChange {
    /// The first section begins.
    Begun,
    /// The last section ends.
    Ended,
}

#[derive(Default)]
struct SectionState {
    sections: usize,
    /// Time when the process ends, even with open sections.
    ends_at: Option<Instant>,
    is_final: bool,
}

/// Work that delays the end of the process until this is dropped.
#[derive(Debug)]
pub struct Section(Shutdown);

impl Shutdown {
    /// Calls `on_change` at each change of the sections.
    pub fn new(on_change: impl Fn(SectionChange) + Send + Sync + 'static) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Self(Arc::new(Sections { state, changed, on_change: Box::new(on_change) }))
    }

    /// Begins a section; `None` if the process is ending.
    #[must_use]
    pub fn enter(&self) -> Option<Section> {
        let mut state = self.state();
        if state.ends_at.is_some() {
            return None;
        }
        state.sections += 1;
        if state.sections == 1 {
            (self.0.on_change)(SectionChange::Begun);
        }
        Some(Section(self.clone()))
    }

    /// True if the process is ending. No section can begin then.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.state().ends_at.is_some()
    }

    /// Ends all sections for good: no new section begins, and the call waits for open ones. Blocks for up to
    /// [`LONGEST_WAIT`], which several callers share.
    pub fn end(&self) {
        self.state().is_final = true;
        self.wait();
    }

    /// Like [`Shutdown::end`], until [`Shutdown::resume`] is called.
    pub fn wait(&self) {
        let mut state = self.state();
        let ends_at = *state.ends_at.get_or_insert_with(|| Instant::now() + LONGEST_WAIT);
        while state.sections > 0 && !fault::omits(Safeguard::HeldEnd) {
            let Some(left) = ends_at.checked_duration_since(Instant::now()) else { return };
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets sections begin again, because the process continues. Does nothing after [`Shutdown::end`].
    pub fn resume(&self) {
        let mut state = self.state();
        if !state.is_final {
            state.ends_at = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, SectionState> {
        lock(&self.0.state)
    }
}

impl Default for Shutdown {
    /// Creates sections without a callback.
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.sections -= 1;
        if state.sections == 0 {
            (self.0.0.on_change)(SectionChange::Ended);
        }
        self.0.0.changed.notify_all();
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shutdown")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_end_waits_for_open_sections_and_lets_none_begin() {
        let shutdown = Shutdown::default();
        let begun = shutdown.enter().unwrap();
        let ending = shutdown.clone();
        let end = std::thread::spawn(move || ending.wait());
        while !shutdown.is_ending() {
            std::thread::yield_now();
        }
        assert!(shutdown.enter().is_none());
        assert!(!end.is_finished());
        drop(begun);
        end.join().unwrap();
        assert!(shutdown.enter().is_none());
        shutdown.resume();
        assert!(shutdown.enter().is_some());
        shutdown.end();
        shutdown.resume();
        assert!(shutdown.enter().is_none());
    }

    #[test]
    fn the_end_does_not_wait_forever() {
        let shutdown = Shutdown::default();
        let begun = shutdown.enter();
        let started = Instant::now();
        shutdown.end();
        let waited = started.elapsed();
        shutdown.end();
        drop(begun);
        assert!(waited >= LONGEST_WAIT && started.elapsed() < LONGEST_WAIT * 2);
    }

    #[test]
    fn the_changes_of_sections_are_reported() {
        use SectionChange::{Begun, Ended};
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&told);
        let shutdown = Shutdown::new(move |change| listener.lock().unwrap().push(change));
        let (one, other) = (shutdown.enter(), shutdown.enter());
        drop(one);
        drop(other);
        drop(shutdown.enter());
        assert_eq!(*told.lock().unwrap(), [Begun, Ended, Begun, Ended]);
    }
}
