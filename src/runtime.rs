//! The async runtime, made at the first call.

use std::sync::OnceLock;

use qwen_base::{Error, Result};
use tokio::runtime::{Builder, Runtime};

/// Waiting for locks and name look-ups need a thread each.
const MAX_BLOCKING_THREADS: usize = 64;

/// One async thread for the process: workers share it, and it outlives them.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// The runtime, if anything was called yet.
pub fn started_runtime() -> Option<&'static Runtime> {
    RUNTIME.get()
}

/// The runtime.
///
/// # Errors
/// `ERR_QWEN_INTERNAL` where the system gives no thread.
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
    // A panic becomes an error of the call it happened in. Printed, it would land on a terminal screen.
    std::panic::set_hook(Box::new(|_| {}));
    Ok(RUNTIME.get_or_init(|| runtime))
}
