//! The end of the process: a refresh token that was sent is waited for, and figures that were counted are written.
//!
//! Handlers in JavaScript can't do it: `OpenCode`'s screen runs plugins in a worker thread, whose `exit` event never comes
//! when the main thread calls `process.exit`, and no event comes at all on a signal. So the C library runs [`finish`], and
//! `signals` holds signals back meanwhile.

use std::sync::{Arc, Condvar, LazyLock, Mutex, Once};
use std::time::Duration;

use qwen_base::{Shutdown, lock};
use qwen_client::WeakUsageBook;

use super::runtime::started_runtime;
use super::signals;

/// Longest time that the end of the process waits for figures to be written.
const LONGEST_FLUSH: Duration = Duration::from_secs(1);

static SHUTDOWN: LazyLock<Shutdown> = LazyLock::new(|| {
    Shutdown::new(|begins| {
        if begins {
            signals::hold();
        } else {
            signals::release();
        }
    })
});
static BOOKS: Mutex<Vec<WeakUsageBook>> = Mutex::new(Vec::new());

/// The end of this process. The first call installs the handler of its exit.
pub fn shutdown() -> Shutdown {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| exit_handlers::install(at_exit));
    SHUTDOWN.clone()
}

/// Has the figures of a client written at the end of the process.
pub fn flush_at_end(book: WeakUsageBook) {
    let mut books = lock(&BOOKS);
    books.retain(|book| !book.is_gone());
    books.push(book);
}

/// Ends the work of all environments of this process. Blocks: for a few milliseconds as a rule, and at most for
/// [`qwen_base::LONGEST_WAIT`] and a second.
pub fn finish() {
    SHUTDOWN.end();
    // Threads of the runtime can still do this when a thread that is ending can't.
    let Some(runtime) = started_runtime() else { return };
    let books = std::mem::take(&mut *lock(&BOOKS));
    let written = Arc::new((Mutex::new(false), Condvar::new()));
    let done = Arc::clone(&written);
    runtime.spawn_blocking(move || {
        books.iter().for_each(WeakUsageBook::flush);
        *lock(&done.0) = true;
        done.1.notify_all();
    });
    let is_written = lock(&written.0);
    // The process ends now, whether they are written or not.
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

    /// Node ends by `exit`, Bun on Linux by `quick_exit`.
    pub fn install(handler: extern "C" fn()) {
        // SAFETY: the handler takes nothing, never unwinds, and stays loaded: the addon is linked with `nodelete`.
        // Where there is no room for a handler, the end of the process is not held up; there is nobody to tell.
        let _ = unsafe { libc::atexit(handler) };
        #[cfg(target_os = "linux")]
        // SAFETY: as above.
        let _ = unsafe { at_quick_exit(handler) };
    }
}

/// Windows has ended all other threads when a library's exit handlers run, so JavaScript calls [`finish`] there.
#[cfg(not(unix))]
mod exit_handlers {
    pub fn install(_handler: extern "C" fn()) {}
}
