//! A connection for hyper, with time limits for heads, which distinguishes closed and half-closed clients.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::departure::Departure;

/// Time limit for a request's head. It starts with the connection, later with the head's first byte.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest pause between two requests.
const REST_TIMEOUT: Duration = Duration::from_secs(300);
/// Bytes of further requests that are read during an answer to notice a client that leaves.
const MAX_AHEAD: usize = 16 * 1024;

/// Phase of the current request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// No request is active.
    Head,
    /// The body is being read.
    Body,
    /// The answer is not complete.
    Answer,
    /// The answer is complete, but hyper may not have written it.
    Flush,
}

/// The phase, shared by a connection and its service.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<ProgressState>);

#[derive(Debug, Default)]
struct ProgressState {
    phase: AtomicU8,
    /// True if hyper may hold unwritten bytes.
    has_unwritten: AtomicBool,
    /// True while hyper waits for more of the answer's body.
    awaits_body: AtomicBool,
    waits_for_write: AtomicWaker,
}

impl Progress {
    pub(super) fn set(&self, phase: Phase) {
        self.0.phase.store(phase as u8, Ordering::Release);
    }

    pub(super) fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Acquire) {
            0 => Phase::Head,
            1 => Phase::Body,
            2 => Phase::Answer,
            _ => Phase::Flush,
        }
    }

    /// Records that hyper has bytes to write.
    pub(super) fn note_unwritten(&self) {
        self.0.has_unwritten.store(true, Ordering::Release);
    }

    pub(super) fn note_awaits_body(&self, awaits_body: bool) {
        self.0.awaits_body.store(awaits_body, Ordering::Release);
    }

    fn awaits_body(&self) -> bool {
        self.0.awaits_body.load(Ordering::Acquire)
    }

    /// Resolves when hyper has written everything.
    pub(super) fn poll_written(&self, context: &mut Context<'_>) -> Poll<()> {
        self.0.waits_for_write.register(context.waker());
        if self.0.has_unwritten.load(Ordering::Acquire) { Poll::Pending } else { Poll::Ready(()) }
    }

    fn note_written(&self) {
        if self.0.has_unwritten.swap(false, Ordering::AcqRel) {
            self.0.waits_for_write.wake();
        }
    }
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the connection")]
pub(super) struct Socket {
    stream: TcpStream,
    progress: Progress,
    deadline: Pin<Box<Sleep>>,
    awaits_head: bool,
    /// True while the head's time limit runs.
    is_head_timed: bool,
    has_head_bytes: bool,
    /// True if the client has received a part of the answer.
    has_answered: bool,
    /// Bytes of further requests that were read during an answer.
    ahead: BytesMut,
    /// Set when the client has closed its sending half.
    departure: Option<Departure>,
    is_at_end: bool,
    has_refused: bool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, progress: Progress) -> Self {
        Self {
            stream,
            progress,
            deadline: Box::pin(sleep(HEAD_TIMEOUT)),
            awaits_head: true,
            is_head_timed: true,
            has_head_bytes: false,
            has_answered: false,
            ahead: BytesMut::new(),
            departure: None,
            is_at_end: false,
            has_refused: false,
        }
    }

    /// True if hyper refused a head. Its answer is suppressed in favor of the gateway's.
    pub(super) fn has_refused(&self) -> bool {
        self.has_refused
    }

    /// True if the client has closed its sending half.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// True if a part of a head has arrived.
    pub(super) fn has_head_bytes(&self) -> bool {
        self.has_head_bytes
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }

    fn poll_head(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.awaits_head {
            (self.awaits_head, self.is_head_timed, self.has_head_bytes) = (true, false, false);
            self.has_answered = false;
            self.deadline.as_mut().reset(Instant::now() + REST_TIMEOUT);
        }
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(self.poll_stream(context, buffer))?;
        self.has_head_bytes |= buffer.filled().len() > before;
        if self.has_head_bytes && !self.is_head_timed {
            self.is_head_timed = true;
            self.deadline.as_mut().reset(Instant::now() + HEAD_TIMEOUT);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_stream(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.is_at_end = buffer.filled().len() == before && buffer.remaining() > 0;
        Poll::Ready(Ok(()))
    }

    /// Resolves during an answer when the client is gone. A client that closed only its sending half still waits.
    fn poll_departure(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.departure.is_none() {
            if self.ahead.len() >= MAX_AHEAD {
                return Poll::Pending;
            }
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            self.ahead.extend_from_slice(buffer.filled());
            self.is_at_end = buffer.filled().is_empty();
            if self.is_at_end {
                let (own, peer) = (self.stream.local_addr()?, self.stream.peer_addr()?);
                self.departure = Some(Departure::new(own, peer));
            }
        }
        let may_probe = !self.has_answered && self.progress.phase() == Phase::Answer;
        match &mut self.departure {
            Some(departure) => departure.poll(context, &self.stream, may_probe).map(Ok),
            None => Poll::Pending,
        }
    }

    /// Records a write. Returns true if it is hyper's own refusal, whose bytes are dropped.
    fn leaves_out(&mut self) -> bool {
        let is_refusal = self.progress.phase() == Phase::Head;
        self.has_refused |= is_refusal;
        self.has_answered = true;
        is_refusal
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        match socket.progress.phase() {
            Phase::Head => socket.poll_head(context, buffer),
            _ => socket.poll_stream(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        if socket.leaves_out() {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut socket.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        if socket.leaves_out() {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        Pin::new(&mut socket.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has written everything. Then the request is over.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        ready!(Pin::new(&mut socket.stream).poll_flush(context))?;
        socket.progress.note_written();
        match socket.progress.phase() {
            Phase::Flush => {
                socket.progress.set(Phase::Head);
                socket.awaits_head = false;
            }
            // With `half_close` hyper ignores the end of the input during an answer, so the socket checks if the client is
            // gone.
            Phase::Answer if socket.poll_departure(context)?.is_ready() => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            _ => {}
        }
        // A pending body wakes the connection. If the flush were ready, hyper would poll the body again up to 16 times, so
        // that no other task gets a turn and pieces are written one by one.
        if socket.progress.awaits_body() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if socket.has_refused {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut socket.stream).poll_shutdown(context)
    }
}
