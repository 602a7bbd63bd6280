//! Runs slow work on a thread of its own.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::mutex::lock;

/// Processes items on its own thread, in order and in batches. The thread starts with the first item. Dropping this
/// waits up to 2 s for the remaining items.
pub struct Background<T: Send + 'static> {
    shared: Arc<SharedBacklog<T>>,
    capacity: usize,
}

type Work<T> = Box<dyn FnMut(VecDeque<T>, u64) + Send>;

struct SharedBacklog<T> {
    state: Mutex<Backlog<T>>,
    changed: Condvar,
}

struct Backlog<T> {
    waiting: VecDeque<T>,
    dropped: u64,
    is_working: bool,
    is_closed: bool,
    has_thread: bool,
    /// Set until the thread starts.
    work: Option<Work<T>>,
}

/// Longest wait on drop, so that a hanging disk doesn't hang the process.
const END_LIMIT: Duration = Duration::from_secs(2);

impl<T: Send + 'static> Background<T> {
    /// Queues at most `capacity` items and drops further ones. `work` gets a batch and the number of items dropped
    /// since the last batch. A batch whose work panics is lost; later ones are processed.
    pub fn new(capacity: usize, work: impl FnMut(VecDeque<T>, u64) + Send + 'static) -> Self {
        let state = Backlog {
            waiting: VecDeque::new(),
            dropped: 0,
            is_working: false,
            is_closed: false,
            has_thread: false,
            work: Some(Box::new(work)),
        };
        Self {
            shared: Arc::new(SharedBacklog { state: Mutex::new(state), changed: Condvar::new() }),
            capacity,
        }
    }

    /// Queues an item without waiting. Returns false if the queue is full.
    pub fn submit(&self, item: T) -> bool {
        let mut state = self.shared.lock();
        if state.is_closed || state.waiting.len() >= self.capacity {
            state.dropped += 1;
            return false;
        }
        state.waiting.push_back(item);
        if let Some(work) = state.work.take() {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("qwen-log".to_owned());
            // Without a thread, items are dropped once the queue is full.
            state.has_thread = thread.spawn(move || shared.run(work)).is_ok();
        }
        drop(state);
        self.shared.changed.notify_all();
        true
    }

    /// Waits up to `limit` until all items are processed. Returns true if they are.
    pub fn flush(&self, limit: Duration) -> bool {
        let state = self.shared.lock();
        let is_busy = |state: &mut Backlog<T>| state.is_working || !state.waiting.is_empty();
        let waited = self.shared.changed.wait_timeout_while(state, limit, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl<T> SharedBacklog<T> {
    fn lock(&self) -> MutexGuard<'_, Backlog<T>> {
        lock(&self.state)
    }

    fn run(&self, mut work: Work<T>) {
        loop {
            let mut state = self
                .changed
                .wait_while(self.lock(), |state| state.waiting.is_empty() && !state.is_closed)
                .unwrap_or_else(PoisonError::into_inner);
            if state.waiting.is_empty() {
                drop(state);
                // Dropping the work may take time, which is part of this thread's end.
                drop(work);
                self.lock().has_thread = false;
                self.changed.notify_all();
                return;
            }
            state.is_working = true;
            let (batch, dropped) = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.dropped));
            drop(state);
            let _ = catch_unwind(AssertUnwindSafe(|| work(batch, dropped)));
            self.lock().is_working = false;
            self.changed.notify_all();
        }
    }
}

impl<T: Send + 'static> Drop for Background<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closed = true;
        self.shared.changed.notify_all();
        let has_thread = |state: &mut Backlog<T>| state.has_thread;
        drop(self.shared.changed.wait_timeout_while(state, END_LIMIT, has_thread));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn items_are_processed_in_order_and_before_drop_returns() {
        let (sender, receiver) = mpsc::channel();
        let background = Background::new(10_000, move |batch: VecDeque<u32>, dropped| {
            assert_eq!(dropped, 0);
            for item in batch {
                sender.send(item).unwrap();
            }
        });
        assert!((0..5_000).all(|item| background.submit(item)));
        drop(background);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), (0..5_000).collect::<Vec<_>>());
    }

    #[test]
    fn dropped_items_are_counted() {
        let (started, is_working) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let (sender, receiver) = mpsc::channel();
        let background = Background::new(2, move |batch: VecDeque<u32>, dropped| {
            started.send(()).unwrap();
            gate.recv().unwrap();
            sender.send((batch, dropped)).unwrap();
        });
        assert!(background.submit(0));
        is_working.recv().unwrap();
        assert!(!background.flush(Duration::from_millis(1)));
        assert_eq!([1, 2, 3, 4].map(|item| background.submit(item)), [true, true, false, false]);
        for _ in 0..2 {
            go.send(()).unwrap();
        }
        assert!(background.flush(Duration::from_secs(30)));
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [(vec![0].into(), 0), (vec![1, 2].into(), 2)]);
    }

    #[test]
    fn a_panic_loses_only_its_batch() {
        let (sender, receiver) = mpsc::channel();
        let background = Background::new(2, move |batch: VecDeque<u32>, _| {
            assert_ne!(batch[0], 0);
            sender.send(batch[0]).unwrap();
        });
        for item in [0, 1] {
            assert!(background.submit(item));
            assert!(background.flush(Duration::from_secs(30)));
        }
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1]);
    }
}
