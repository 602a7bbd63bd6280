//! A client's connection as the HTTP library sees it: with limits on the time that a head may take, and with a closed
//! connection told from a half-closed one.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::departure::Departure;

/// Longest time for a request's head. On a new connection it starts at once, later with the head's first byte.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest rest between two requests.
const REST_TIMEOUT: Duration = Duration::from_secs(300);

/// How far the request of a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// No request is under way.
    Head,
    /// The head is here, the body is being read.
    Body,
    /// The body is here, the answer is not complete.
    Answer,
    /// The answer is complete, and may wait in the HTTP library to be written.
    Flush,
}

/// Shares the phase between a connection and its service.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
    /// Whether the HTTP library may hold bytes of an answer.
    has_unwritten: AtomicBool,
    /// Whether the answer's next bytes are still to come.
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

    /// Says that the HTTP library was given bytes to write.
    pub(super) fn note_unwritten(&self) {
        self.0.has_unwritten.store(true, Ordering::Release);
    }

    /// Says whether the answer's body was asked for bytes that are still to come.
    pub(super) fn note_awaits_body(&self, awaits_body: bool) {
        self.0.awaits_body.store(awaits_body, Ordering::Release);
    }

    fn awaits_body(&self) -> bool {
        self.0.awaits_body.load(Ordering::Acquire)
    }

    /// Resolves when the HTTP library has written all that it was given.
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

/// A client's connection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the connection")]
pub(super) struct Socket {
    stream: TcpStream,
    progress: Progress,
    deadline: Pin<Box<Sleep>>,
    awaits_head: bool,
    /// Whether the limit for the head runs.
    has_head_begun: bool,
    has_head_bytes: bool,
    /// Whether the answer under way has reached the client in part.
    has_answered: bool,
    /// Set once the client has said that it sends no more.
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
            has_head_begun: true,
            has_head_bytes: false,
            has_answered: false,
            departure: None,
            is_at_end: false,
            has_refused: false,
        }
    }

    /// Whether the HTTP library wanted to refuse a head that it could not read. Its words are left out: ours come instead.
    pub(super) fn has_refused(&self) -> bool {
        self.has_refused
    }

    /// Whether the client has said that it sends no more.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// Whether a part of a head has come.
    pub(super) fn has_begun_head(&self) -> bool {
        self.has_head_bytes
    }

    /// The connection itself.
    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }

    fn poll_head(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.awaits_head {
            (self.awaits_head, self.has_head_begun, self.has_head_bytes) = (true, false, false);
            self.has_answered = false;
            self.deadline.as_mut().reset(Instant::now() + REST_TIMEOUT);
        }
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(self.poll_stream(context, buffer))?;
        self.has_head_bytes |= buffer.filled().len() > before;
        if self.has_head_bytes && !self.has_head_begun {
            self.has_head_begun = true;
            self.deadline.as_mut().reset(Instant::now() + HEAD_TIMEOUT);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_stream(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.is_at_end = buffer.filled().len() == before && buffer.remaining() > 0;
        Poll::Ready(Ok(()))
    }

    /// While a request is being answered, the end is only reported once the client is gone: one that has closed its half
    /// still waits for its answer.
    fn poll_departure(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.departure.is_none() {
            ready!(self.poll_stream(context, buffer))?;
            if !self.is_at_end {
                return Poll::Ready(Ok(()));
            }
            let (own, peer): (SocketAddr, SocketAddr) = (self.stream.local_addr()?, self.stream.peer_addr()?);
            self.departure = Some(Departure::new(own, peer));
        }
        let may_probe = !self.has_answered && self.progress.phase() == Phase::Answer;
        match &mut self.departure {
            Some(departure) => departure.poll(context, &self.stream, may_probe).map(Ok),
            None => Poll::Ready(Ok(())),
        }
    }

    /// What is written before a service has seen a request is a refusal of the HTTP library's own.
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
        let phase = socket.progress.phase();
        if phase == Phase::Head {
            return socket.poll_head(context, buffer);
        }
        socket.awaits_head = false;
        match phase {
            Phase::Head | Phase::Body => socket.poll_stream(context, buffer),
            Phase::Answer | Phase::Flush => socket.poll_departure(context, buffer),
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

    /// The HTTP library flushes when it has written all that it holds: then the request is over.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        ready!(Pin::new(&mut socket.stream).poll_flush(context))?;
        socket.progress.note_written();
        if socket.progress.phase() == Phase::Flush {
            socket.progress.set(Phase::Head);
        }
        // A body that is pending wakes the connection. After a flush that is ready, the HTTP library would ask the body again
        // at once, up to 16 times: no other task would get a turn, and chunks that come together would be written one by one.
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
