//! Finds the error with which a server ends a stream that no guard reads.

use qwen_base::opaque_debug;
use tokio::task::JoinHandle;

use super::body::MAX_JOINED;
use crate::verdict::dialect::ServerError;

/// Length in bytes of the end of an unguarded stream that is searched for an error.
const MAX_TAIL: usize = 8 * 1024;
/// Length in bytes of a chunk from which on it is not an event, so that only the end of it is kept: copying takes time.
const LARGE_CHUNK: usize = MAX_JOINED;
/// Length in bytes of what is kept of a large chunk.
const MAX_LARGE_TAIL: usize = 4 * 1024;

/// Starts a task that notes an error of the server; `None` if there is nothing to note.
type Callback = Box<dyn FnOnce(ServerError) -> Option<JoinHandle<()>> + Send + Sync>;

/// Finds the error at the end of a stream, and passes it to `callback`.
pub(super) struct ErrorWatch {
    callback: Option<Callback>,
    /// The last bytes of a stream that no guard reads.
    tail: Vec<u8>,
    /// The bytes before `tail`, more than [`MAX_TAIL`]. Two buffers spare a copy.
    before: Vec<u8>,
}

opaque_debug!(ErrorWatch);

impl ErrorWatch {
    pub(super) fn new(callback: Callback) -> Self {
        Self { callback: Some(callback), tail: Vec::new(), before: Vec::new() }
    }

    pub(super) fn remember(&mut self, bytes: &[u8]) {
        if self.tail.len() > MAX_TAIL {
            std::mem::swap(&mut self.tail, &mut self.before);
            self.tail.clear();
        }
        let kept = if bytes.len() < LARGE_CHUNK { bytes.len() } else { MAX_LARGE_TAIL };
        self.tail.extend_from_slice(&bytes[bytes.len() - kept..]);
    }

    /// Notes the error that a guard found, or else the one at the end of the stream.
    pub(super) fn report(&mut self, found: Option<ServerError>) -> Option<JoinHandle<()>> {
        let callback = self.callback.take()?;
        let at_end = || {
            let end = [self.before.as_slice(), &self.tail].concat();
            ServerError::in_events(&String::from_utf8_lossy(&end))
        };
        callback(found.or_else(at_end)?)
    }
}

impl Drop for ErrorWatch {
    /// Notes the error of a stream whose reader stops there.
    fn drop(&mut self) {
        self.report(None);
    }
}
