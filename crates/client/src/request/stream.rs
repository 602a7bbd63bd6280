//! A bounded queue between the network and a reader that may be slow.
//!
//! One task for each answer fills the queue, and stops reading from the network while it is full. So memory stays bounded,
//! and the server sends no faster than the reader reads. Cancelling drops the connection at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use qwen_base::{Error, lock};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::answer::Body;

/// Bytes of one stream that may wait for its reader. With few streams each has the largest capacity, with 2,048 or more the
/// smallest. Data that the HTTP library has read ahead is not counted.
const MAX_CAPACITY: usize = 384 * 1024;
const MIN_CAPACITY: usize = 32 * 1024;
/// Bytes of all streams together that may wait, unless the smallest capacities add up to more.
const TOTAL_CAPACITY: usize = 64 * 1024 * 1024;
/// Largest result of one read, in bytes.
const MAX_READ: usize = 128 * 1024;
/// Largest body, in bytes, that is returned whole if it arrives together with the head.
const MAX_WHOLE: usize = 64 * 1024;

/// The result of a read.
#[derive(Debug)]
pub enum StreamRead {
    /// Bytes, never empty.
    Data(Bytes),
    /// No data yet. The queue calls its waker once there is.
    Pending,
    /// The end of the body.
    End,
    /// The body was cut by this error.
    Failed(Error),
}

/// The body of an answer at the time of its head.
#[derive(Debug)]
pub enum ReceivedBody {
    /// The whole body.
    Whole(Bytes),
    /// A body that is still arriving.
    Stream(Stream),
}

/// The reader of a body. Dropping it cancels the answer.
pub struct Stream {
    queue: Arc<Queue>,
    /// The task that reads from the network; `None` if the body is complete.
    pump: Option<AbortHandle>,
}

/// The streams that share the memory for unread data. Each stream has a clone.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<()>);

impl Streams {
    /// True if there are so many streams that their capacity is reduced.
    fn are_crowded(&self) -> bool {
        self.capacity() < MAX_CAPACITY
    }

    fn capacity(&self) -> usize {
        // One of the clones belongs to the creator and is not a stream.
        let share = TOTAL_CAPACITY / (Arc::strong_count(&self.0) - 1).max(1);
        share.clamp(MIN_CAPACITY, MAX_CAPACITY)
    }
}

struct Queue {
    state: Mutex<StreamState>,
    room: Notify,
    waker: Box<dyn Fn() + Send + Sync>,
    streams: Streams,
}

#[derive(Default)]
struct StreamState {
    chunks: VecDeque<Bytes>,
    size: usize,
    end: Option<Result<(), Error>>,
    reader_waits: bool,
}

impl StreamState {
    fn take(&mut self, next: Result<Option<Bytes>, Error>) {
        match next {
            Ok(Some(chunk)) if chunk.is_empty() => {}
            Ok(Some(chunk)) => {
                self.size += chunk.len();
                self.chunks.push_back(chunk);
            }
            Ok(None) => self.end = Some(Ok(())),
            Err(error) => self.end = Some(Err(error)),
        }
    }

    /// Takes the data that is available without waiting.
    async fn take_available(&mut self, body: &mut Body) {
        while self.end.is_none()
            && self.size < MAX_WHOLE
            && let Some(next) = body.next_available().await
        {
            self.take(next);
        }
    }

    /// True if this is a small body that is complete.
    fn is_whole(&self) -> bool {
        self.size <= MAX_WHOLE && matches!(self.end, Some(Ok(())))
    }

    /// Takes the available data. Frees the buffers of the HTTP library for the next answer of the connection, or if there are
    /// many streams.
    async fn gather(&mut self, body: &mut Body, streams: &Streams) {
        self.take_available(body).await;
        if self.is_whole() || streams.are_crowded() {
            self.compact();
        }
    }

    /// Copies all chunks into one. Even a small chunk of the HTTP library keeps a buffer of up to 400 KB alive.
    fn compact(&mut self) {
        let mut compact = BytesMut::with_capacity(self.size);
        for chunk in self.chunks.drain(..) {
            compact.extend_from_slice(&chunk);
        }
        self.chunks.extend((!compact.is_empty()).then(|| compact.freeze()));
    }

    fn append(&mut self, mut news: Self) {
        self.size += news.size;
        self.chunks.append(&mut news.chunks);
        self.end = news.end;
    }
}

/// Waits for data and returns all that is then available as one piece, with the end of the body if it has come. A single
/// piece is not copied.
pub(crate) async fn next_together(body: &mut Body) -> (Bytes, Option<Result<(), Error>>) {
    let mut news = StreamState::default();
    news.take(body.next().await);
    news.take_available(body).await;
    if news.chunks.len() > 1 {
        news.compact();
    }
    (news.chunks.pop_front().unwrap_or_default(), news.end)
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, StreamState> {
        lock(&self.state)
    }

    fn change(&self, change: impl FnOnce(&mut StreamState)) {
        let wake = {
            let mut state = self.lock();
            change(&mut state);
            std::mem::take(&mut state.reader_waits)
        };
        if wake {
            (self.waker)();
        }
    }

    async fn fill(&self, mut body: Body) {
        loop {
            let room = self.room.notified();
            if self.lock().size >= self.streams.capacity() {
                room.await;
                continue;
            }
            let mut news = StreamState::default();
            news.take(body.next().await);
            news.gather(&mut body, &self.streams).await;
            let is_end = news.end.is_some();
            if is_end || news.size > 0 {
                self.change(|state| state.append(news));
            }
            if is_end {
                return;
            }
        }
    }
}

/// Starts reading. After a read without data, `waker` is called from another thread once there is data.
pub async fn receive_body(
    mut body: Body,
    streams: Streams,
    waker: impl Fn() + Send + Sync + 'static,
) -> ReceivedBody {
    let mut state = StreamState::default();
    state.gather(&mut body, &streams).await;
    if state.is_whole() {
        return ReceivedBody::Whole(state.chunks.pop_front().unwrap_or_default());
    }
    let is_over = state.end.is_some();
    let queue =
        Arc::new(Queue { state: Mutex::new(state), room: Notify::new(), waker: Box::new(waker), streams });
    let filling = Arc::clone(&queue);
    let pump = (!is_over).then(|| tokio::spawn(async move { filling.fill(body).await }).abort_handle());
    ReceivedBody::Stream(Stream { queue, pump })
}

impl Stream {
    /// Takes the available data. Never blocks.
    #[must_use]
    pub fn read(&self) -> StreamRead {
        let mut state = self.queue.lock();
        let Some(first) = state.chunks.pop_front() else {
            return match &state.end {
                Some(Ok(())) => StreamRead::End,
                Some(Err(error)) => StreamRead::Failed(error.clone()),
                None => {
                    state.reader_waits = true;
                    StreamRead::Pending
                }
            };
        };
        let data = take(&mut state, first);
        state.size -= data.len();
        let has_room = state.size < self.queue.streams.capacity();
        drop(state);
        if has_room {
            self.queue.room.notify_one();
        }
        StreamRead::Data(data)
    }
}

/// Joins small chunks, since each read from JavaScript costs more than copying a small chunk.
fn take(state: &mut StreamState, first: Bytes) -> Bytes {
    if first.len() > MAX_READ {
        let mut first = first;
        let rest = first.split_off(MAX_READ);
        state.chunks.push_front(rest);
        return first;
    }
    let fits = |length: usize, next: Option<&Bytes>| next.is_some_and(|next| length + next.len() <= MAX_READ);
    if !fits(first.len(), state.chunks.front()) {
        return first;
    }
    let mut joined = BytesMut::from(first.as_ref());
    while fits(joined.len(), state.chunks.front()) {
        let Some(next) = state.chunks.pop_front() else { break };
        joined.extend_from_slice(&next);
    }
    joined.freeze()
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(pump) = &self.pump {
            pump.abort();
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_bytes_arrive_in_order_and_the_reader_is_woken_once_for_each_wait() {
        let (wake, mut woken) = tokio::sync::mpsc::unbounded_channel();
        let bytes = Bytes::from((0..1_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
        let body = Body::from_bytes(bytes.clone());
        let received = receive_body(body, Streams::default(), move || wake.send(()).unwrap()).await;
        let ReceivedBody::Stream(stream) = received else { panic!("{received:?}") };
        let mut received = Vec::new();
        loop {
            match stream.read() {
                StreamRead::Data(data) => {
                    assert!(!data.is_empty() && data.len() <= MAX_READ);
                    received.extend_from_slice(&data);
                }
                StreamRead::Pending => woken.recv().await.unwrap(),
                StreamRead::End => break,
                StreamRead::Failed(error) => panic!("{error}"),
            }
        }
        assert_eq!(received, bytes);
        assert!(woken.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_small_complete_body_is_returned_whole() {
        for text in ["", "all of it"] {
            let body = Body::from_bytes(Bytes::from_static(text.as_bytes()));
            let received = receive_body(body, Streams::default(), || {}).await;
            assert!(matches!(received, ReceivedBody::Whole(bytes) if bytes == text));
        }
    }

    #[test]
    fn many_streams_share_the_capacity() {
        let streams = Streams::default();
        let few = vec![streams.clone(); 128];
        assert_eq!(streams.capacity(), MAX_CAPACITY);
        let many = vec![streams.clone(); 896];
        assert_eq!(streams.capacity(), TOTAL_CAPACITY / 1024);
        let most = vec![streams.clone(); 9_000];
        assert_eq!(streams.capacity(), MIN_CAPACITY);
        drop((few, many, most));
        assert_eq!((streams.capacity(), Arc::strong_count(&streams.0)), (MAX_CAPACITY, 1));
    }

    #[test]
    fn compacting_leaves_one_chunk_or_none() {
        let mut state = StreamState::default();
        state.compact();
        assert!(state.chunks.is_empty());
        for chunk in ["a", "", "bc"] {
            state.take(Ok(Some(Bytes::from_static(chunk.as_bytes()))));
        }
        state.compact();
        assert_eq!((state.chunks, state.size), (VecDeque::from([Bytes::from_static(b"abc")]), 3));
    }

    #[test]
    fn small_chunks_are_joined_and_large_ones_split() {
        let mut state = StreamState::default();
        state.chunks.extend([
            Bytes::from_static(b"b"),
            Bytes::from_static(b"c"),
            Bytes::from(vec![0; MAX_READ]),
        ]);
        assert_eq!(take(&mut state, Bytes::from_static(b"a")).as_ref(), b"abc");
        assert_eq!(state.chunks.len(), 1);
        let large = take(&mut state, Bytes::from(vec![1; MAX_READ + 1]));
        assert_eq!((large.len(), state.chunks[0].len()), (MAX_READ, 1));
    }
}
