//! Streams the body of an answer. The server is read as fast as the client reads.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use hyper::body::{Body, Frame, SizeHint};
use qwen_base::{Error, Result};
use serde_json::json;

use super::entry::Recorder;
use super::socket::{Phase, Progress};
use crate::request::answer;
use crate::request::stream::next_together;

type Batches = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// The body of an answer. Dropping it cancels the rest.
pub(super) struct Reply {
    source: ReplySource,
    recorder: Recorder,
    progress: Progress,
    /// The error that ends the body, kept until the bytes before it are written.
    failure: Option<Error>,
    tells_failure: bool,
}

enum ReplySource {
    Whole(Option<Bytes>),
    Live(Batches),
}

impl Reply {
    pub(super) fn whole(bytes: Bytes, recorder: Recorder, progress: Progress) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self { source: ReplySource::Whole(bytes), recorder, progress, failure: None, tells_failure: false }
    }

    /// With `tells_failure`, an interrupted event stream ends with an event that gives the reason.
    pub(super) fn live(
        body: answer::Body,
        recorder: Recorder,
        progress: Progress,
        tells_failure: bool,
    ) -> Self {
        let batches = unfold(Rest::Body(Box::new(body)), |rest| async {
            match rest {
                // A system call costs more than a copy, so what arrives together is written together.
                Rest::Body(mut body) => match next_together(&mut body).await {
                    (bytes, Some(end)) if bytes.is_empty() => {
                        end.err().map(|error| (Err(error), Rest::Ended))
                    }
                    (bytes, None) => Some((Ok(bytes), Rest::Body(body))),
                    (bytes, Some(Ok(()))) => Some((Ok(bytes), Rest::Ended)),
                    (bytes, Some(Err(error))) => Some((Ok(bytes), Rest::Failed(error))),
                },
                Rest::Failed(error) => Some((Err(error), Rest::Ended)),
                Rest::Ended => None,
            }
        });
        let source = ReplySource::Live(Box::pin(batches));
        Self { source, recorder, progress, failure: None, tells_failure }
    }
}

impl Reply {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.failure.is_some() {
            return self.poll_failure(context);
        }
        let next = match &mut self.source {
            ReplySource::Whole(bytes) => bytes.take().map(Ok),
            ReplySource::Live(batches) => match ready!(batches.as_mut().poll_next(context)) {
                Some(Err(error)) if self.tells_failure => {
                    self.source = ReplySource::Whole(None);
                    Some(Ok(failure_event(&error)))
                }
                Some(Err(error)) => {
                    self.failure = Some(error);
                    return self.poll_failure(context);
                }
                next => next,
            },
        };
        if let Some(Ok(bytes)) = &next {
            self.recorder.chunk(bytes);
            self.progress.note_unwritten();
        }
        Poll::Ready(next.map(|next| next.map(Frame::data)))
    }

    /// Waits for the write, because hyper drops unwritten bytes when a body fails.
    fn poll_failure(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        ready!(self.progress.poll_written(context));
        Poll::Ready(self.failure.take().map(Err))
    }
}

/// Returns an event with the reason. A host that sees a cut stream would retry.
fn failure_event(error: &Error) -> Bytes {
    let error = json!({"message": error.message(), "type": "qwen_error", "code": error.code().as_str()});
    format!("\n\ndata: {}\n\n", json!({"error": error})).into()
}

enum Rest {
    Body(Box<answer::Body>),
    Failed(Error),
    Ended,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let reply = self.get_mut();
        let next = reply.poll_next(context);
        reply.progress.note_awaits_body(next.is_pending());
        next
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, ReplySource::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            ReplySource::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            ReplySource::Live(_) => SizeHint::default(),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.progress.note_awaits_body(false);
        self.progress.set(Phase::Flush);
    }
}
