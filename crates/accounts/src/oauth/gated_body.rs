//! A request body that asks for permission just before it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

type MaySend = Box<dyn Fn() -> bool + Send + Sync>;

/// A body with a permission check. It is polled once a connection is open.
pub struct GatedBody {
    bytes: Option<Bytes>,
    may_send: MaySend,
    send_state: SendState,
}

/// State of a body: open, then sent or withheld for good.
#[derive(Clone)]
pub struct SendState(Arc<AtomicU8>);

const OPEN: u8 = 0;
const SENT: u8 = 1;
const WITHHELD: u8 = 2;

impl SendState {
    /// True if the body was withheld.
    pub fn was_withheld(&self) -> bool {
        self.0.load(Ordering::SeqCst) == WITHHELD
    }

    /// Withholds the body. Returns false if it was sent already.
    pub fn withhold(&self) -> bool {
        self.decide(WITHHELD)
    }

    fn decide(&self, send_state: u8) -> bool {
        match self.0.compare_exchange(OPEN, send_state, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(decided) => decided == send_state,
        }
    }
}

/// Error that ends the request.
#[derive(Debug, thiserror::Error)]
#[error("the request was withheld")]
pub struct Withheld;

impl GatedBody {
    /// Returns the body, and its state for later.
    pub fn new(text: String, may_send: MaySend) -> (Self, SendState) {
        let send_state = SendState(Arc::new(AtomicU8::new(OPEN)));
        (Self { bytes: Some(text.into()), may_send, send_state: send_state.clone() }, send_state)
    }
}

impl From<GatedBody> for reqwest::Body {
    fn from(body: GatedBody) -> Self {
        Self::wrap(body)
    }
}

impl Body for GatedBody {
    type Data = Bytes;
    type Error = Withheld;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Withheld>>> {
        let this = self.get_mut();
        let Some(bytes) = this.bytes.take() else { return Poll::Ready(None) };
        // The caller may have given up during the check: the process can sleep in it.
        if (this.may_send)() && this.send_state.decide(SENT) {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        this.send_state.withhold();
        Poll::Ready(Some(Err(Withheld)))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn is_sent(body: &mut GatedBody) -> bool {
        let frame = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
        matches!(frame, Poll::Ready(Some(Ok(_))))
    }

    #[test]
    fn a_sent_body_can_not_be_withheld() {
        let (mut body, send_state) = GatedBody::new("token".to_owned(), Box::new(|| true));
        assert!(is_sent(&mut body));
        assert!(!send_state.withhold() && !send_state.was_withheld());
    }

    #[test]
    fn a_body_without_permission_is_not_sent() {
        let (mut body, send_state) = GatedBody::new("token".to_owned(), Box::new(|| false));
        assert!(!is_sent(&mut body));
        assert!(send_state.was_withheld());
    }

    #[test]
    fn a_body_withheld_by_the_caller_is_not_sent() {
        let (mut body, send_state) = GatedBody::new("token".to_owned(), Box::new(|| true));
        assert!(send_state.withhold());
        assert!(!is_sent(&mut body));
    }
}
