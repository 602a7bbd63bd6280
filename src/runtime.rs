//! The async runtime, created at the first call.

use std::sync::OnceLock;

use qwen_base::{Error, Result};
use tokio::runtime::{Builder, Runtime};

/// Each wait for a lock and each name lookup needs a thread.
const MAX_BLOCKING_THREADS: usize = 64;

/// One async thread for the process. All workers share it, and it outlives them.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Starts work on a thread of the runtime that may block. Unlike [`qwen_base::blocking`], it works on threads that are
/// ending.
pub fn start_blocking(runtime: &Runtime, work: impl FnOnce() + Send + 'static) {
    let work: Box<dyn FnOnce() + Send> = Box::new(work);
    runtime.spawn_blocking(work);
}

/// Returns the runtime if it was created.
pub fn started_runtime() -> Option<&'static Runtime> {
    RUNTIME.get()
}

/// Returns the runtime.
///
/// # Errors
/// `ERR_QWEN_INTERNAL` if no thread can be created.
pub fn runtime() -> Result<&'static Runtime> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_name("qwen-auth")
        .enable_all()
        .build()
        .map_err(Error::internal)?;
    // A panic becomes an error of its call. Printing it would garble the terminal.
    std::panic::set_hook(Box::new(|_| {}));
    Ok(RUNTIME.get_or_init(|| runtime))
}
