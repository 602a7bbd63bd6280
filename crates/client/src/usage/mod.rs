//! Usage of each account: read from answers, and added up in one file for all processes.
//!
//! Sums are kept in memory and written [`DELAY`] after the first one, or when a client is closed or the process ends. So no
//! request waits for the file, and a killed process loses only the last seconds.

pub mod estimate;
pub mod ledger;
pub mod scan;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tokio::runtime::Handle;

use ledger::{Counts, Ledger, Moment};
use qwen_base::{Clock, Event, EventKind, Events, Logger, Result, blocking, lock};
use scan::{Form, Scanner};

use crate::shared_file::{Changed, SharedFile};

/// Time between counting and writing.
pub const DELAY: Duration = Duration::from_secs(5);

pub type UsageFile = SharedFile<Ledger>;

#[must_use]
pub fn usage_file(path: PathBuf) -> UsageFile {
    SharedFile::new(path, "usage is not counted")
}

/// The sums of a client. Clones share state.
#[derive(Clone)]
pub struct UsageBook {
    shared: Arc<SharedUsage>,
}

struct SharedUsage {
    file: UsageFile,
    clock: Clock,
    events: Events,
    logger: Logger,
    pending: Mutex<Pending>,
    /// Held during a write, because the sums are then neither in memory nor in the file.
    writing: Mutex<()>,
}

/// Usage that is not in the file yet.
#[derive(Default)]
struct Pending {
    ledger: Ledger,
    /// True if a write is scheduled.
    is_awaited: bool,
}

impl UsageBook {
    #[must_use]
    pub fn new(file: UsageFile, clock: Clock, events: Events, logger: Logger) -> Self {
        let (pending, writing) = (Mutex::default(), Mutex::default());
        Self { shared: Arc::new(SharedUsage { file, clock, events, logger, pending, writing }) }
    }

    /// Meters a successful answer of an account. `utc_offset_minutes` is the user's time minus UTC.
    #[must_use]
    pub fn meter(&self, account: &str, utc_offset_minutes: i32, headers: &HeaderMap) -> Meter {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Meter(Some(Box::new(Metering {
            book: self.clone(),
            account: account.to_owned(),
            utc_offset_minutes,
            scanner: Scanner::new(Form::of_content_type(content_type.unwrap_or_default())),
        })))
    }

    fn count(&self, account: &str, utc_offset_minutes: i32, counts: &Counts) {
        let now = Moment::new(self.shared.clock.now_ms(), utc_offset_minutes);
        let mut pending = lock(&self.shared.pending);
        pending.ledger.add(account, now, counts);
        pending.ledger.prune(now);
        // Without a runtime, the caller has to flush.
        if !pending.is_awaited
            && let Ok(runtime) = Handle::try_current()
        {
            pending.is_awaited = true;
            let shared = Arc::clone(&self.shared);
            runtime.spawn(async move {
                tokio::time::sleep(DELAY).await;
                let _ = blocking(move || shared.flush()).await;
            });
        }
    }

    /// Returns the sums of all processes. Blocks. Errors as in [`SharedFile::read`].
    pub fn read(&self) -> Result<Ledger> {
        self.flush();
        let mut ledger = self.shared.file.read()?.unwrap_or_default();
        // Includes usage that can't be written.
        ledger.merge(&lock(&self.shared.pending).ledger);
        Ok(ledger)
    }

    /// Writes pending usage. Blocks, usually for a few milliseconds.
    pub fn flush(&self) {
        self.shared.flush();
    }

    /// Returns a weak handle. Pending usage stays alive until it is written.
    #[must_use]
    pub fn downgrade(&self) -> WeakUsageBook {
        WeakUsageBook(Arc::downgrade(&self.shared))
    }
}

/// A weak handle of the usage of a client.
#[derive(Debug, Clone)]
pub struct WeakUsageBook(Weak<SharedUsage>);

impl WeakUsageBook {
    /// True if there is nothing left to write.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// Writes pending usage. Blocks, usually for a few milliseconds.
    pub fn flush(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.flush();
        }
    }
}

impl SharedUsage {
    /// Writes pending usage. If that fails, it is kept for the next write.
    fn flush(&self) {
        let _writing = lock(&self.writing);
        let Pending { ledger, .. } = std::mem::take(&mut *lock(&self.pending));
        if ledger.is_empty() {
            return;
        }
        let now = Moment::new(self.clock.now_ms(), 0);
        let mut add = |sums: &mut Ledger| {
            sums.merge(&ledger);
            sums.prune(now);
            true
        };
        match self.file.change(&self.clock, &mut add) {
            Ok(Changed { set_aside: None, .. }) => {}
            Ok(Changed { set_aside: Some(aside), .. }) => {
                let message = format!(
                    "{} was damaged. It was moved to {}, and counting starts anew.",
                    self.file.path().display(),
                    aside.display()
                );
                self.events.emit(Event::new(EventKind::StoreRepaired, self.clock.now_ms(), message));
            }
            Err(error) => {
                lock(&self.pending).ledger.merge(&ledger);
                self.logger.warn("usage-not-written", &[("error", &error)]);
            }
        }
    }
}

impl std::fmt::Debug for SharedUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedUsage").field("file", &self.file).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for UsageBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsageBook").field("file", &self.shared.file).finish_non_exhaustive()
    }
}

/// Watches one answer. The usage is counted at the end of the answer or on drop.
#[derive(Debug, Default)]
pub struct Meter(Option<Box<Metering>>);

#[derive(Debug)]
struct Metering {
    book: UsageBook,
    account: String,
    utc_offset_minutes: i32,
    scanner: Scanner,
}

impl Meter {
    /// Takes bytes of the body as the server sent them.
    pub fn chunk(&mut self, bytes: &[u8]) {
        if let Some(metering) = &mut self.0 {
            metering.scanner.pass(bytes);
        }
    }

    /// True if a stream's last event has passed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.as_ref().is_some_and(|metering| metering.scanner.is_done())
    }

    /// Ends the answer. Further calls do nothing.
    pub fn finish(&mut self) {
        self.0 = None;
    }
}

impl Drop for Metering {
    fn drop(&mut self) {
        let counts = Counts::of_answer(self.scanner.end());
        self.book.count(&self.account, self.utc_offset_minutes, &counts);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make files that no writer of ours would")]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Instant;

    use super::*;

    const NOW: u64 = 1_700_049_600_000;

    fn open(directory: &Path) -> UsageBook {
        let file = usage_file(directory.join("usage.json"));
        UsageBook::new(file, Clock::from_fn(|| NOW), Events::none(), Logger::off())
    }

    fn today(ledger: &Ledger) -> Counts {
        ledger.summary("acct_1", Moment::new(NOW, 0)).today
    }

    fn answer(book: &UsageBook, body: &[u8]) {
        let headers = [(CONTENT_TYPE, "application/json".parse().unwrap())].into_iter().collect();
        let mut meter = book.meter("acct_1", 0, &headers);
        meter.chunk(body);
        meter.finish();
        meter.finish();
    }

    #[test]
    fn many_books_share_a_file_without_loss() {
        let directory = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let book = open(directory.path());
                    for _ in 0..50 {
                        answer(&book, br#"{"usage":{"prompt_tokens":3,"completion_tokens":2}}"#);
                    }
                    answer(&book, b"{}");
                    book.read().unwrap();
                });
            }
        });
        let total = today(&open(directory.path()).read().unwrap());
        assert_eq!((total.requests, total.without_usage), (204, 4));
        assert_eq!((total.input_tokens, total.output_tokens), (600, 400));
    }

    #[tokio::test(start_paused = true)]
    async fn pending_usage_is_written_after_its_book_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let book = open(directory.path());
        for _ in 0..20 {
            answer(&book, b"");
        }
        drop(book);
        let file = usage_file(directory.path().join("usage.json"));
        assert_eq!(today(&file.read().unwrap().unwrap()).requests, 0);
        let deadline = Instant::now() + Duration::from_secs(30);
        while today(&file.read().unwrap().unwrap()).requests < 20 {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    #[test]
    fn usage_that_cannot_be_written_is_still_reported() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("qwen");
        fs::create_dir(&place).unwrap();
        fs::write(place.join("usage.json"), r#"{"version":2}"#).unwrap();
        let book = open(&place);
        answer(&book, b"");
        book.flush();
        assert_eq!(today(&lock(&book.shared.pending).ledger).requests, 1);
        fs::remove_file(place.join("usage.json")).unwrap();
        answer(&book, b"");
        assert_eq!(today(&book.read().unwrap()).requests, 2);
        assert!(lock(&book.shared.pending).ledger.is_empty());
    }
    #[test]
    fn a_removed_directory_is_not_created_again() {
        let directory = tempfile::tempdir().unwrap();
        let book = open(&directory.path().join("removed"));
        answer(&book, b"");
        book.flush();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(lock(&book.shared.pending).ledger.is_empty());
    }
}
