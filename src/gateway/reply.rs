//! The body of an answer on its way to the client: read from the account's server as fast as the client takes it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use hyper::body::{Body, Frame, SizeHint};

use super::entry::Recorder;
use super::socket::{Phase, Progress};
use crate::error::{Error, Result};
use crate::request::answer;

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// The body of an answer. Dropping it cancels what is still to come.
pub(super) struct Reply {
    source: Source,
    recorder: Recorder,
    progress: Progress,
}

enum Source {
    Whole(Option<Bytes>),
    Live(Chunks),
}

impl Reply {
    pub(super) fn whole(bytes: Bytes, recorder: Recorder, progress: Progress) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self { source: Source::Whole(bytes), recorder, progress }
    }

    pub(super) fn live(body: answer::Body, recorder: Recorder, progress: Progress) -> Self {
        let chunks = unfold(Some(body), |body| async {
            let mut body = body?;
            match body.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(body))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Self { source: Source::Live(Box::pin(chunks)), recorder, progress }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let reply = self.get_mut();
        let next = match &mut reply.source {
            Source::Whole(bytes) => bytes.take().map(Ok),
            Source::Live(chunks) => ready!(chunks.as_mut().poll_next(context)),
        };
        if let Some(Ok(bytes)) = &next {
            reply.recorder.chunk(bytes);
        }
        Poll::Ready(next.map(|next| next.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Source::Live(_) => SizeHint::default(),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.progress.set(Phase::Flush);
    }
}
