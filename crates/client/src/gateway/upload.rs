//! Reads whole request bodies, because a refused token or a used-up quota means that the body is sent again.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::GatewayRefusal;

/// Largest body, in bytes.
pub(super) const MAX_BODY: u64 = 64 * 1024 * 1024;
/// Longest pause between two pieces of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Limit for all bodies together, in bytes. Further ones wait for space.
const MAX_BODIES: u32 = 256 * 1024 * 1024;
/// Bodies up to this size, in bytes, don't count.
const SMALL: u64 = 256 * 1024;

/// Memory shared by all bodies.
#[derive(Debug, Clone)]
pub(super) struct Uploads(Arc<Semaphore>);

/// A body and its share of the memory.
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
    pub(super) async fn read(&self, mut body: Incoming) -> Result<Upload, GatewayRefusal> {
        let length = body.size_hint().exact();
        if length.is_some_and(|length| length > MAX_BODY) {
            return Err(GatewayRefusal::body_too_large(MAX_BODY));
        }
        let mut room = None;
        if let Some(length) = length.filter(|length| *length > SMALL) {
            room = self.room(length).await;
        }
        let mut all = BytesMut::with_capacity(usize::try_from(length.unwrap_or(0)).unwrap_or(0));
        while let Some(bytes) = next(&mut body).await? {
            let size = (all.len() + bytes.len()) as u64;
            if size > MAX_BODY {
                return Err(GatewayRefusal::body_too_large(MAX_BODY));
            }
            if length.is_none() && room.is_none() && size > SMALL {
                room = self.room(MAX_BODY).await;
            }
            all.extend_from_slice(&bytes);
        }
        // A body without a length reserved the maximum.
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

/// Returns the next bytes, or `None` at the end.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, GatewayRefusal> {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        match tokio::time::timeout(BODY_TIMEOUT, frame).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                // The API has no trailers.
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
            Ok(Some(Err(_))) => return Err(GatewayRefusal::malformed("body")),
            Err(_) => return Err(GatewayRefusal::too_slow("body")),
        }
    }
}
