//! Ends the process safely: waits for a refresh token in progress, and writes the usage.
//!
//! JavaScript handlers can't do this. `OpenCode`'s UI runs plugins in a worker thread, which gets no `exit` event when
//! the main thread calls `process.exit`, and no event at all on a signal. So the C library runs [`finish`], and
//! `signals` delays signals.

use std::sync::{Arc, Condvar, LazyLock, Mutex, Once};
use std::time::Duration;

use qwen_base::{SectionChange, Shutdown, lock};
use qwen_client::WeakUsageBook;

use super::runtime::{start_blocking, started_runtime};
use super::signals;

/// Longest wait for the usage to be written.
const LONGEST_FLUSH: Duration = Duration::from_secs(1);

static SHUTDOWN: LazyLock<Shutdown> = LazyLock::new(|| {
    Shutdown::new(|change| match change {
        SectionChange::Begun => signals::hold(),
        SectionChange::Ended => signals::release(),
    })
});
static BOOKS: Mutex<Vec<WeakUsageBook>> = Mutex::new(Vec::new());

/// Returns the shutdown of this process. The first call installs the exit handler.
pub fn shutdown() -> Shutdown {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| exit_handlers::install(at_exit));
    SHUTDOWN.clone()
}

/// Registers the usage of a client to be written at the end of the process.
pub fn flush_at_end(book: WeakUsageBook) {
    let mut books = lock(&BOOKS);
    books.retain(|book| !book.is_gone());
    books.push(book);
}

/// Ends the work of all environments. Blocks, usually for a few milliseconds, and at most for
/// [`qwen_base::LONGEST_WAIT`] and a second.
pub fn finish() {
    SHUTDOWN.end();
    // The thread that ends the process can't write the usage, so a thread of the runtime writes it.
    let Some(runtime) = started_runtime() else { return };
    let books = std::mem::take(&mut *lock(&BOOKS));
    let written = Arc::new((Mutex::new(false), Condvar::new()));
    let done = Arc::clone(&written);
    start_blocking(runtime, move || {
        books.iter().for_each(WeakUsageBook::flush);
        *lock(&done.0) = true;
        done.1.notify_all();
    });
    let is_written = lock(&written.0);
    // The process ends now, even if writing has not finished.
    let _ = written.1.wait_timeout_while(is_written, LONGEST_FLUSH, |is_written| !*is_written);
}

extern "C" fn at_exit() {
    // A panic must not reach the C library.
    let _ = std::panic::catch_unwind(finish);
}

#[cfg(unix)]
mod exit_handlers {
    #![expect(unsafe_code, reason = "the C library's exit handlers take a function pointer")]

    #[cfg(target_os = "linux")]
    unsafe extern "C" {
        fn at_quick_exit(handler: extern "C" fn()) -> libc::c_int;
    }

    /// Node ends with `exit`, Bun on Linux with `quick_exit`.
    pub fn install(handler: extern "C" fn()) {
        // SAFETY: the handler takes no arguments, never unwinds, and stays loaded: the addon is linked with `nodelete`.
        // If no handler can be added, the end of the process is not delayed.
        let _ = unsafe { libc::atexit(handler) };
        #[cfg(target_os = "linux")]
        // SAFETY: as above.
        let _ = unsafe { at_quick_exit(handler) };
    }
}

/// Windows ends all other threads before a library's exit handlers run, so JavaScript calls [`finish`] there.
#[cfg(not(unix))]
mod exit_handlers {
    pub fn install(_handler: extern "C" fn()) {}
}
