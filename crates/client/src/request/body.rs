//! The body of an answer, as a stream of bytes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use qwen_base::{Error, Result, TransportError, note_arrival};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Timeout, timeout};

use super::error_watch::ErrorWatch;
use crate::cli::CliBody;
use crate::host::guard::Guard;
use crate::request_log::{LogOutcome, RequestRecord};
use crate::usage::Meter;
use crate::verdict::dialect::ServerError;

/// Largest beginning of a stream, in bytes, that is held back until there is content.
const MAX_HELD: usize = 1024 * 1024;
/// Longest wait for the server to close the connection after the last event.
const DONE_GRACE: Duration = Duration::from_millis(100);
/// Length in bytes below which chunks are joined: reading a chunk costs more than copying a small one.
pub(super) const MAX_JOINED: usize = 16 * 1024;
/// Longest time to read an error body ahead.
const MAX_ERROR_TIME: Duration = Duration::from_secs(10);

/// The source of the unread body.
#[derive(Debug)]
enum Source {
    Network(Box<reqwest::Response>),
    Cli(Box<CliBody>),
}

/// Longest time for which the end of a stream waits until its error is noted. A disk may be stuck.
const MAX_REPORT_TIME: Duration = Duration::from_secs(1);

/// The end of a stream, which waits until its error is noted.
#[derive(Debug)]
struct PendingEnd {
    report: Option<Pin<Box<Timeout<JoinHandle<()>>>>>,
    end: Result<Option<Bytes>>,
}

/// The bytes that were looked for did not come in time.
#[derive(Debug)]
pub(super) struct TooLate;

/// The beginning of the answer to a chat.
#[derive(Debug)]
pub enum Beginning {
    /// Content, or a beginning that says nothing yet.
    Content,
    /// An error of the server before any content.
    Error(ServerError),
    /// A stream that ended before any content.
    Problem(Error),
}

/// The body of an answer, which may still be arriving.
#[derive(Debug)]
pub struct Body {
    /// Chunks that were read ahead.
    head: VecDeque<Bytes>,
    /// The same as the server sent them, if a guard reads the stream. The meter, which is set later, counts these.
    raw_head: Vec<Bytes>,
    source: Option<Source>,
    /// The result that follows the chunks that were read ahead. It is not counted in `meter`.
    received: Option<Result<Option<Bytes>>>,
    idle_timeout: Duration,
    /// Start of the wait for the next bytes. A wait that was given up, since it took too long to read ahead, goes on.
    waiting_since: Option<Instant>,
    /// End of the wait for the server to close the connection after the last event.
    done_until: Option<Instant>,
    guard: Option<Guard>,
    error_watch: Option<ErrorWatch>,
    pending_end: Option<PendingEnd>,
    meter: Meter,
    record: RequestRecord,
}

impl Body {
    /// Returns a body of known bytes.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self {
            head: VecDeque::from([bytes]),
            raw_head: Vec::new(),
            source: None,
            received: None,
            idle_timeout: Duration::MAX,
            waiting_since: None,
            done_until: None,
            guard: None,
            error_watch: None,
            pending_end: None,
            meter: Meter::default(),
            record: RequestRecord::default(),
        }
    }

    /// Returns the body of a response. `idle_timeout` is the longest silence.
    #[must_use]
    pub fn live(response: reqwest::Response, idle_timeout: Duration) -> Self {
        let source = Some(Source::Network(Box::new(response)));
        Self { head: VecDeque::new(), source, idle_timeout, ..Self::from_bytes(Bytes::new()) }
    }

    /// Returns the body of an answer of the qwen CLI.
    #[must_use]
    pub fn of_cli(body: CliBody) -> Self {
        Self {
            head: VecDeque::new(),
            source: Some(Source::Cli(Box::new(body))),
            ..Self::from_bytes(Bytes::new())
        }
    }

    /// Counts the usage in all bytes that the server sends.
    pub fn metered(&mut self, meter: Meter) {
        self.meter = meter;
        let raw = std::mem::take(&mut self.raw_head);
        let unguarded = self.head.iter().filter(|_| raw.is_empty());
        for chunk in raw.iter().chain(unguarded) {
            self.meter.chunk(chunk);
        }
        if self.source.is_none() {
            self.meter.finish();
        }
    }

    /// Calls `callback` with the error with which the server ends a stream of events. The end of the stream waits for its task.
    pub fn on_server_error(
        &mut self,
        callback: impl FnOnce(ServerError) -> Option<JoinHandle<()>> + Send + Sync + 'static,
    ) {
        self.error_watch = Some(ErrorWatch::new(Box::new(callback)));
    }

    /// Writes all bytes and the end to a record.
    pub fn recorded(&mut self, record: RequestRecord) {
        self.record = record;
    }

    /// Returns the next bytes, or `None` at the end. Bytes can be lost if the future is dropped.
    ///
    /// # Errors
    /// `ERR_QWEN_TIMEOUT` after the longest silence, `ERR_QWEN_NETWORK` if the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(next) = self.next_available().await {
                return next;
            }
            if let Some(PendingEnd { report, .. }) = &mut self.pending_end {
                if let Some(report) = report.take() {
                    // A failed or late note must not hold the end back.
                    let _ = report.await;
                }
            } else {
                self.received = Some(self.wait().await);
            }
        }
    }

    /// Returns the result of [`next`](Self::next) if it is available once the ready tasks have run. The CLI's reader must not be
    /// dropped in the middle of a read, so its bytes always need a wait.
    pub async fn next_available(&mut self) -> Option<Result<Option<Bytes>>> {
        let next = self.next_unrecorded().await?;
        match &next {
            Ok(Some(bytes)) => self.record.chunk(bytes),
            Ok(None) => self.record.finish(LogOutcome::Completed),
            Err(error) => self.record.finish(LogOutcome::Failed(error.code())),
        }
        Some(next)
    }

    async fn next_unrecorded(&mut self) -> Option<Result<Option<Bytes>>> {
        if let Some(bytes) = self.head.pop_front() {
            if self.guard.is_none() {
                self.remember(&bytes);
            }
            return Some(Ok(Some(bytes)));
        }
        while self.pending_end.is_none() {
            if self.guard.as_ref().is_some_and(Guard::has_failed) {
                self.stop();
            }
            let chunks = self.receive_together().await?;
            match (&mut self.guard, chunks) {
                (Some(guard), Ok(Some(bytes))) => {
                    let lines = guard.pass(bytes);
                    if !lines.is_empty() {
                        return Some(Ok(Some(lines)));
                    }
                }
                (Some(guard), end) => {
                    let (rest, end) = guard.end(end.as_ref().err());
                    let error = guard.take_server_error();
                    (self.guard, self.source) = (None, None);
                    let mut end = end.map(|()| None);
                    if !rest.is_empty() {
                        self.received = Some(std::mem::replace(&mut end, Ok(Some(rest))));
                    }
                    self.end_with(end, error);
                }
                (None, Ok(Some(bytes))) => {
                    self.remember(&bytes);
                    return Some(Ok(Some(bytes)));
                }
                (None, end) => self.end_with(end, None),
            }
        }
        if let Some(PendingEnd { report: Some(report), .. }) = &mut self.pending_end {
            let _ = report.now_or_never()?;
        }
        self.pending_end.take().map(|pending| pending.end)
    }

    /// Ends the stream, and notes the error that a guard found or that is at its end.
    fn end_with(&mut self, end: Result<Option<Bytes>>, found: Option<ServerError>) {
        let report = self.error_watch.take().and_then(|mut watch| watch.report(found));
        let report = report.map(|report| Box::pin(timeout(MAX_REPORT_TIME, report)));
        self.pending_end = Some(PendingEnd { report, end });
    }

    /// Keeps the end of an unguarded stream.
    fn remember(&mut self, bytes: &[u8]) {
        if let Some(watch) = &mut self.error_watch {
            watch.remember(bytes);
        }
    }

    /// Drops the connection.
    fn stop(&mut self) {
        self.meter.finish();
        (self.source, self.received) = (None, None);
    }

    async fn receive(&mut self) -> Result<Option<Bytes>> {
        let received = match self.receive_soon().await {
            Some(received) => received,
            None => self.wait().await,
        };
        self.meter(&received);
        received
    }

    /// Receives the available chunks, small ones as one.
    async fn receive_together(&mut self) -> Option<Result<Option<Bytes>>> {
        let received = match self.receive_soon().await? {
            Ok(Some(first)) if first.len() < MAX_JOINED => Ok(Some(self.join(first).await)),
            received => received,
        };
        self.meter(&received);
        Some(received)
    }

    /// Returns a chunk together with the small ones that follow it and are available.
    async fn join(&mut self, first: Bytes) -> Bytes {
        let mut joined = BytesMut::new();
        while let Some(next) = self.receive_soon().await {
            match next {
                Ok(Some(next)) if first.len().max(joined.len()) + next.len() < MAX_JOINED => {
                    if joined.is_empty() {
                        joined.extend_from_slice(&first);
                    }
                    joined.extend_from_slice(&next);
                }
                next => {
                    self.received = Some(next);
                    break;
                }
            }
        }
        if joined.is_empty() { first } else { joined.freeze() }
    }

    /// Receives what is available once the ready tasks have run: the connection's task delivers one chunk per turn.
    async fn receive_soon(&mut self) -> Option<Result<Option<Bytes>>> {
        if let Some(received) = self.receive_now() {
            return Some(received);
        }
        turn().await;
        self.receive_now()
    }

    /// Receives what is available without waiting.
    fn receive_now(&mut self) -> Option<Result<Option<Bytes>>> {
        if self.received.is_some() {
            return self.received.take();
        }
        let grace = self.grace();
        let received = match &mut self.source {
            None => Ok(None),
            Some(Source::Network(_)) if grace == Some(Duration::ZERO) => Ok(None),
            Some(Source::Network(response)) => {
                let chunk = response.chunk().now_or_never()?;
                chunk.or_else(|error| if grace.is_some() { Ok(None) } else { Err(broken(response, &error)) })
            }
            Some(Source::Cli(_)) => return None,
        };
        self.waiting_since = None;
        note_arrival();
        Some(received)
    }

    async fn wait(&mut self) -> Result<Option<Bytes>> {
        let grace = self.grace();
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let received = match &mut self.source {
            None => Ok(None),
            Some(Source::Network(response)) => {
                let limit = grace.unwrap_or_else(|| self.idle_timeout.saturating_sub(since.elapsed()));
                match timeout(limit, response.chunk()).await {
                    Ok(Ok(chunk)) => Ok(chunk),
                    _ if grace.is_some() => Ok(None),
                    Ok(Err(error)) => Err(broken(response, &error)),
                    Err(_) => Err(TransportError::timeout(host(response), self.idle_timeout).error),
                }
            }
            // The CLI has its own time limits.
            Some(Source::Cli(body)) => body.next().await,
        };
        self.waiting_since = None;
        note_arrival();
        received
    }

    /// Returns the time left for the server to close the connection after the last event. Some servers leave it open.
    fn grace(&mut self) -> Option<Duration> {
        let is_over = self.meter.is_done() || self.guard.as_ref().is_some_and(Guard::is_over);
        is_over.then(|| {
            let end = *self.done_until.get_or_insert_with(|| Instant::now() + DONE_GRACE);
            end.saturating_duration_since(Instant::now())
        })
    }

    fn meter(&mut self, received: &Result<Option<Bytes>>) {
        if let Ok(Some(bytes)) = received {
            self.meter.chunk(bytes);
        } else {
            self.meter.finish();
            self.source = None;
        }
    }

    /// Reads up to `limit` bytes ahead, for 10 s at most, and returns them. They stay part of the body. If the body breaks off,
    /// [`Body::next`] returns the error after these bytes.
    pub async fn peek(&mut self, limit: usize) -> Vec<u8> {
        let mut seen = Vec::new();
        let take = |bytes: &[u8]| {
            seen.extend_from_slice(bytes);
            None::<()>
        };
        // The beginning of an endless body is enough.
        let _ = self.read_ahead(limit, MAX_ERROR_TIME, take).await;
        seen.truncate(limit);
        seen
    }

    /// Reads ahead until `see` returns a value, or for about `limit` bytes. They stay part of the body. If the body breaks off,
    /// [`Body::next`] returns the error after these bytes. Fails if the value doesn't come in `time`.
    pub(super) async fn read_ahead<T>(
        &mut self,
        limit: usize,
        time: Duration,
        mut see: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, TooLate> {
        let (mut seen, begun) = (0, Instant::now());
        while seen < limit {
            let left = time.saturating_sub(begun.elapsed());
            if seen > 0 && left.is_zero() {
                return Err(TooLate);
            }
            // Most bytes have already come, and a timer costs as much as reading a small chunk.
            let received = match self.receive_soon().await {
                Some(received) => received,
                None => timeout(left, self.wait()).await.map_err(|_| TooLate)?,
            };
            self.meter(&received);
            match received {
                Ok(Some(chunk)) => {
                    seen += chunk.len();
                    let found = see(&chunk);
                    self.head.push_back(chunk);
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.received = Some(Err(error));
                    break;
                }
            }
        }
        Ok(None)
    }

    /// Guards the stream of chat events for a host, and reads ahead to its first content or its end.
    pub async fn watch(&mut self) -> Beginning {
        let mut guard = Guard::default();
        let problem = match self.watch_for_content(&mut guard).await {
            Ok(()) if guard.has_content() || !guard.has_failed() => {
                self.guard = Some(guard);
                return Beginning::Content;
            }
            Ok(()) => guard.problem(None),
            Err(problem) => problem,
        };
        guard.take_server_error().map_or(Beginning::Problem(problem), Beginning::Error)
    }

    /// True if the body was one JSON document, which the guard turned into a stream.
    #[must_use]
    pub fn became_stream(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::is_json)
    }

    async fn watch_for_content(&mut self, guard: &mut Guard) -> Result<()> {
        let (mut held, begun) = (0, Instant::now());
        // Comments keep a stream alive as long as the server thinks, so its head is not held back for ever.
        while !guard.has_said_something() && held < MAX_HELD && begun.elapsed() < self.idle_timeout {
            let next = if guard.is_over() { Ok(None) } else { self.receive().await };
            match next {
                Ok(Some(bytes)) => {
                    held += bytes.len();
                    self.raw_head.push(bytes.clone());
                    self.head.push_back(guard.pass(bytes));
                }
                end => {
                    // A completion in one JSON document becomes a stream here. An error after its content ends the body.
                    let (rest, problem) = guard.end(end.as_ref().err());
                    self.head.push_back(rest);
                    self.received = Some(end);
                    return if guard.has_content() { Ok(()) } else { problem };
                }
            }
        }
        Ok(())
    }
}

/// Lets the ready tasks run first. Unlike `yield_now` of tokio it does not poll the system for events.
async fn turn() {
    let mut had_turn = false;
    poll_fn(|context| {
        if had_turn {
            return Poll::Ready(());
        }
        had_turn = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn host(response: &reqwest::Response) -> &str {
    response.url().host_str().unwrap_or("Qwen")
}

fn broken(response: &reqwest::Response, error: &reqwest::Error) -> Error {
    TransportError::broken_body(error, host(response)).error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_the_note_of_an_error_but_not_for_ever() {
        let error = Bytes::from_static(b"data: {\"error\":\"no\"}\n\n");
        let mut body = Body::from_bytes(error.clone());
        body.on_server_error(|_| Some(tokio::spawn(std::future::pending())));
        assert_eq!(body.next().await.unwrap(), Some(error));
        assert!(body.next_available().await.is_none());
        let before = Instant::now();
        assert_eq!(body.next().await.unwrap(), None);
        assert_eq!(before.elapsed().as_secs(), MAX_REPORT_TIME.as_secs());
    }
}
