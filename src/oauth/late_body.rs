//! A request body that asks for leave when it is about to be sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

type MaySend = Box<dyn Fn() -> bool + Send + Sync>;

/// Nobody asks for a body before there is a connection to send it on.
pub struct LateBody {
    bytes: Option<Bytes>,
    may_send: MaySend,
    withheld: Arc<AtomicBool>,
}

/// Ends the request.
#[derive(Debug, thiserror::Error)]
#[error("the request was withheld")]
pub struct Withheld;

impl LateBody {
    /// The body, and what says later whether it was withheld.
    pub fn new(text: String, may_send: MaySend) -> (Self, Arc<AtomicBool>) {
        let withheld = Arc::new(AtomicBool::new(false));
        (Self { bytes: Some(text.into()), may_send, withheld: Arc::clone(&withheld) }, withheld)
    }
}

impl From<LateBody> for reqwest::Body {
    fn from(body: LateBody) -> Self {
        Self::wrap(body)
    }
}

impl Body for LateBody {
    type Data = Bytes;
    type Error = Withheld;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Withheld>>> {
        let this = self.get_mut();
        let Some(bytes) = this.bytes.take() else { return Poll::Ready(None) };
        if (this.may_send)() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        this.withheld.store(true, Ordering::SeqCst);
        Poll::Ready(Some(Err(Withheld)))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
