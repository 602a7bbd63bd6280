//! Blocking work off the async thread.

use std::sync::{Arc, Mutex};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::{Error, Result};
use crate::mutex::lock;

/// Starts `work` on a thread that may block, and returns a future of its result. The work runs to its end even if the
/// future is dropped. Needs a runtime.
///
/// # Errors
/// `ERR_QWEN_INTERNAL` if the work panics.
pub fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T>> + Send {
    let result = Arc::new(Mutex::new(None));
    let written = Arc::clone(&result);
    // Boxed, since tokio's code for a task is large and would be compiled for each kind of work.
    let work: Box<dyn FnOnce() + Send> = Box::new(move || *lock(&written) = Some(work()));
    finished(spawn_blocking(work), result)
}

async fn finished<T>(task: JoinHandle<()>, result: Arc<Mutex<Option<T>>>) -> Result<T> {
    task.await.map_err(Error::internal)?;
    lock(&result).take().ok_or_else(|| Error::internal("blocking work left no result"))
}
