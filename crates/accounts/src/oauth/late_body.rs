//! A request body that asks for leave when it is about to be sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

type MaySend = Box<dyn Fn() -> bool + Send + Sync>;

/// Nobody asks for a body before there is a connection to send it on.
pub struct LateBody {
    bytes: Option<Bytes>,
    may_send: MaySend,
    fate: Fate,
}

/// What becomes of a body: it is sent or withheld, once and for all.
#[derive(Clone)]
pub struct Fate(Arc<AtomicU8>);

const OPEN: u8 = 0;
const SENT: u8 = 1;
const WITHHELD: u8 = 2;

impl Fate {
    /// Whether the body was withheld by those who were asked.
    pub fn was_withheld(&self) -> bool {
        self.0.load(Ordering::SeqCst) == WITHHELD
    }

    /// Withholds what was not sent yet; false where it was.
    pub fn withhold(&self) -> bool {
        self.decide(WITHHELD)
    }

    fn decide(&self, fate: u8) -> bool {
        match self.0.compare_exchange(OPEN, fate, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(decided) => decided == fate,
        }
    }
}

/// Ends the request.
#[derive(Debug, thiserror::Error)]
#[error("the request was withheld")]
pub struct Withheld;

impl LateBody {
    /// The body, and what says later what became of it.
    pub fn new(text: String, may_send: MaySend) -> (Self, Fate) {
        let fate = Fate(Arc::new(AtomicU8::new(OPEN)));
        (Self { bytes: Some(text.into()), may_send, fate: fate.clone() }, fate)
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
        // Whoever waits for the answer may have gone while the question was asked: a process can sleep in the middle of it.
        if (this.may_send)() && this.fate.decide(SENT) {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        this.fate.withhold();
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

    fn is_sent(body: &mut LateBody) -> bool {
        let frame = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
        matches!(frame, Poll::Ready(Some(Ok(_))))
    }

    #[test]
    fn what_was_sent_can_not_be_withheld_any_more() {
        let (mut body, fate) = LateBody::new("token".to_owned(), Box::new(|| true));
        assert!(is_sent(&mut body));
        assert!(!fate.withhold() && !fate.was_withheld());
    }

    #[test]
    fn without_leave_nothing_is_sent() {
        let (mut body, fate) = LateBody::new("token".to_owned(), Box::new(|| false));
        assert!(!is_sent(&mut body));
        assert!(fate.was_withheld());
    }

    #[test]
    fn what_nobody_waits_for_is_not_sent_though_there_is_leave() {
        let (mut body, fate) = LateBody::new("token".to_owned(), Box::new(|| true));
        assert!(fate.withhold());
        assert!(!is_sent(&mut body));
    }
}
