//! Reads the body of a request. It is read whole, since a refused token or a used-up quota means that it is sent again.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::Refusal;

/// Largest body.
pub(super) const MAX_BODY: u64 = 64 * 1024 * 1024;
/// Longest time without a byte of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// All bodies together; further ones are read when there is room again.
const MAX_BODIES: u32 = 256 * 1024 * 1024;
/// A body up to this size needs no room of its own.
const SMALL: u64 = 256 * 1024;

/// The memory that bodies share.
#[derive(Debug, Clone)]
pub(super) struct Uploads(Arc<Semaphore>);

/// A body, and the room that it takes.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Default for Uploads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BODIES as usize)))
    }
}

impl Uploads {
    /// Reads a body to its end.
    pub(super) async fn read(&self, mut body: Incoming) -> Result<Upload, Refusal> {
        let length = body.size_hint().exact();
        if length.is_some_and(|length| length > MAX_BODY) {
            return Err(Refusal::body_too_large(MAX_BODY));
        }
        let mut room = None;
        if let Some(length) = length.filter(|length| *length > SMALL) {
            room = self.room(length).await;
        }
        let mut all = BytesMut::with_capacity(usize::try_from(length.unwrap_or(0)).unwrap_or(0));
        while let Some(bytes) = next(&mut body).await? {
            let size = (all.len() + bytes.len()) as u64;
            if size > MAX_BODY {
                return Err(Refusal::body_too_large(MAX_BODY));
            }
            if length.is_none() && room.is_none() && size > SMALL {
                room = self.room(MAX_BODY).await;
            }
            all.extend_from_slice(&bytes);
        }
        // A body that did not say its length took the most that one may.
        if let Some(room) = &mut room {
            drop(room.split(room.num_permits().saturating_sub(all.len())));
        }
        Ok(Upload { bytes: all.freeze(), _room: room })
    }

    async fn room(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(MAX_BODIES);
        Arc::clone(&self.0).acquire_many_owned(bytes).await.ok()
    }
}

/// The next bytes of a body, or `None` at its end.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        match tokio::time::timeout(BODY_TIMEOUT, frame).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                // Trailers mean nothing to the API.
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
            Ok(Some(Err(_))) => return Err(Refusal::malformed("body")),
            Err(_) => return Err(Refusal::too_slow("body")),
        }
    }
}
