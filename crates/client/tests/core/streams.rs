//! Streamed bodies: byte for byte, at the reader's pace, closed when dropped.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use qwen_base::Code;
use qwen_client::{ReceivedBody, Stream, StreamRead, Streams, receive_body};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::reply::{Part, Reply};
use crate::support::server::GOOD_STREAM;
use crate::support::setup::{Setup, chat, read, text};
use crate::support::time::{soon, until};

const MIB: usize = 1024 * 1024;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Returns the body of the setup's next answer.
async fn received(setup: &Setup) -> (ReceivedBody, UnboundedReceiver<()>) {
    let answer = setup.client().fetch(chat(true)).await.unwrap();
    let (wake, woken) = unbounded_channel();
    let waker = move || {
        // The reader may be gone.
        let _ = wake.send(());
    };
    (receive_body(answer.body, Streams::default(), waker).await, woken)
}

/// As above, for an answer that arrives after its head.
async fn start(setup: &Setup) -> (Stream, UnboundedReceiver<()>) {
    match received(setup).await {
        (ReceivedBody::Stream(stream), woken) => (stream, woken),
        (whole, _) => panic!("{whole:?}"),
    }
}

async fn next(stream: &Stream, woken: &mut UnboundedReceiver<()>) -> StreamRead {
    loop {
        match stream.read() {
            StreamRead::Pending => soon("a wake", woken.recv()).await.unwrap(),
            found => return found,
        }
    }
}

#[tokio::test]
async fn bytes_arrive_as_they_were_sent() {
    let setup = Setup::fresh().await;
    let bytes: Vec<u8> = (0..3 * MIB).map(|index| (index * 31 % 251).to_le_bytes()[0]).collect();
    let mut parts: Vec<_> =
        bytes.chunks(70_001).map(|chunk| Part::Bytes(Bytes::copy_from_slice(chunk))).collect();
    parts.insert(3, Part::Pause(millis(20)));
    setup.server.on_every_api(Reply::new(200, "application/octet-stream", parts));
    let (stream, mut woken) = start(&setup).await;
    let mut received = Vec::new();
    loop {
        match next(&stream, &mut woken).await {
            StreamRead::Data(data) => {
                assert!(!data.is_empty() && data.len() <= 128 * 1024);
                received.extend_from_slice(&data);
            }
            StreamRead::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(received == bytes);
}

#[tokio::test]
async fn a_small_event_is_not_held_back() {
    const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"1\"}}]}\n\n";
    let setup = Setup::fresh().await;
    setup.server.on_every_api(Reply::events(vec![Part::text(EVENT), Part::Stall]));
    let (stream, mut woken) = start(&setup).await;
    let StreamRead::Data(data) = next(&stream, &mut woken).await else { panic!("no data") };
    assert_eq!(data, EVENT);
    assert!(matches!(stream.read(), StreamRead::Pending));
    drop(stream);
    setup.server.until_closed().await;
}

/// Returns the same answer in each encoding.
const COMPRESSED: [(&str, &str); 6] = [
    (
        "gzip",
        "H4sIAAAAAAAAA2WMMQ6DMBAEe78Cbe2KdFeTNnkAspBln4IV8FnxUVn+e0RDQzuamejV09AQVkmBK2huiLypBzUEycpZQVgTenfdmHjzncVR/YfPoPxkL7qofDlX0MMiyF421iT5omO/PvP0fj2dMX/FMfObhgAAAA==",
    ),
    (
        "deflate",
        "eJxljDEOgzAQBHu/Am3tinRXkzZ5ALKQZZ+CFfBZ8VFZ/ntEQ0M7mpno1dPQEFZJgStoboi8qQc1BMnKWUFYE3p33Zh4853FUf2Hz6D8ZC+6qHw5V9DDIsheNtYk+aJjvz7z9H49nTF/FuAtGw==",
    ),
    // Without the zlib header.
    (
        "deflate",
        "ZYwxDoAgEAR7XmGuptKOWlt9gCGGyEWIyBE5K8PfxcbGdnZnrGGjmhtWR37FDGq+wWJgA6pCioyRQYHzUIouQtjfX0u4stnwFdJJR+KFacdYt07WxJECsqf40bZ8nbmfxkEL8QA=",
    ),
    (
        "br",
        "G4UAUIzDOBbcpI+0WZURKh3KbamOC1HbpzrEqkEcahu2Ql8XS50csF++HfDxqSyWALwssIDzgKsyRjrLQJEl/xp5sjsooS+IMfk9VLWRgx1nr3i96LiojmHEKYUvf4l9AA==",
    ),
    (
        "br, gzip",
        "H4sIAAAAAAACAwFhAJ7/G4UAUIzDOBbcpI+0WZURKh3KbamOC1HbpzrEqkEcahu2Ql8XS50csF++HfDxqSyWALwssIDzgKsyRjrLQJEl/xp5sjsooS+IMfk9VLWRgx1nr3i96LiojmHEKYUvf4l9AEzrt51hAAAA",
    ),
    (
        "zstd",
        "KLUv/QRoFQMA8kUUGIBtDqtMe1A0jg+5E5ttqGQIoKLJoNvpAZmKKIzhiIHj1tuwJ0H/3DLcSD8OQ8+hfpX1oieVGVWMb8v17bYds0P96maTw0P/ljVe2CGgq1cSBABLKDhnUaYJOJieggLweGRQ",
    ),
];

#[tokio::test]
async fn compressed_bytes_are_decoded() {
    for (encoding, bytes) in COMPRESSED {
        let setup = Setup::fresh().await;
        let bytes = Part::Bytes(STANDARD.decode(bytes).unwrap().into());
        let reply = Reply::new(200, "text/event-stream", vec![bytes]).header("content-encoding", encoding);
        setup.server.on_every_api(reply);
        let (client, host) = (setup.client(), setup.host_client());
        for client in [&client, &host] {
            let mut answer = client.fetch(chat(true)).await.unwrap();
            assert!(!answer.headers.contains_key("content-encoding"), "{encoding}");
            assert!(!answer.headers.contains_key("content-length"), "{encoding}");
            let said = String::from_utf8(read(&mut answer.body).await.0).unwrap();
            assert!(said.contains(r#"{"content":"hi"}"#), "{encoding}: {said}");
        }
        assert_eq!(setup.server.api_requests()[0].headers["accept-encoding"], "identity");
    }
}

#[tokio::test]
async fn broken_compression_is_an_error() {
    let mut cut = STANDARD.decode(COMPRESSED[0].1).unwrap();
    cut.truncate(cut.len() - 20);
    for bytes in [b"\x1f\x8b\x08not really".to_vec(), cut] {
        let setup = Setup::fresh().await;
        let parts = vec![Part::Bytes(bytes.into())];
        let reply = Reply::new(200, "application/json", parts).header("content-encoding", "gzip");
        setup.server.on_every_api(reply);
        let mut answer = setup.client().fetch(chat(false)).await.unwrap();
        assert_eq!(read(&mut answer.body).await.1, Err(Code::Network));
    }
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let setup = Setup::fresh().await.with_idle_timeout(millis(250));
    setup.server.on_api([Reply::Hang]);
    let error = setup.client().fetch(chat(true)).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Code::Timeout, true));
    setup.server.until_closed().await;

    setup.server.on_api([Reply::events(vec![Part::text("data: 1\n\n"), Part::Stall])]);
    let mut answer = setup.client().fetch(chat(true)).await.unwrap();
    assert_eq!(read(&mut answer.body).await, (b"data: 1\n\n".to_vec(), Err(Code::Timeout)));
    setup.server.until_closed().await;

    // A rate limit is waited for once.
    let limited = Reply::new(429, "text/html", vec![Part::text("<html>"), Part::Stall]);
    setup.server.on_api([limited.clone(), limited]);
    let mut answer = setup.client().fetch(chat(true)).await.unwrap();
    assert_eq!(answer.status, 429);
    assert_eq!(read(&mut answer.body).await, (b"<html>".to_vec(), Err(Code::Timeout)));
    setup.server.until_closed().await;
    assert_eq!(setup.server.api_requests().len(), 4);
}

#[tokio::test]
async fn a_chat_is_over_at_done_though_its_connection_stays_open() {
    let (begun, _) = GOOD_STREAM.split_once("data: [DONE]").unwrap();
    for kind in ["text/event-stream", "text/plain", "application/json", ""] {
        for parts in [
            vec![format!("{begun}data: [DONE]\n\n")],
            vec![format!("{begun}data: [DONE]")],
            vec![format!("{begun}data: [DONE]\n")],
            vec![format!("{begun}data: [DONE]\n\n: ping\n\n")],
            vec![format!("{begun}data: [DONE]\n\n"), ": ping\n\n".to_owned()],
            vec![begun.to_owned(), "data: [DO".to_owned(), "NE]".to_owned()],
            vec![format!("{begun}data: [DO"), "NE]\n\n".to_owned()],
        ] {
            for opencode in [false, true] {
                let setup = Setup::fresh().await;
                let sent = parts.concat();
                let pauses = parts.iter().flat_map(|part| [Part::text(part), Part::Pause(millis(20))]);
                let pieces = pauses.chain([Part::Stall]).collect();
                let reply = Reply::new(200, kind, pieces);
                setup.server.on_every_api(reply);
                let client = setup.client_with(&[], opencode);
                let answer = async { text(client.fetch(chat(true)).await.unwrap()).await };
                let answer = soon("the end", answer).await;
                assert_eq!(answer, if opencode { GOOD_STREAM } else { sent.as_str() }, "{kind} {parts:?}");
                setup.server.until_closed().await;
            }
        }
    }
}

#[tokio::test]
async fn a_live_stream_has_no_time_limit() {
    let setup = Setup::fresh().await.with_idle_timeout(millis(1000));
    let drips = (0..12).flat_map(|_| [Part::text("d"), Part::Pause(millis(150))]).collect();
    setup.server.on_every_api(Reply::events(drips));
    let answer = setup.client().fetch(chat(true)).await.unwrap();
    assert_eq!(text(answer).await, "d".repeat(12));
}

#[tokio::test]
async fn comments_keep_a_silent_chat_alive_in_a_host() {
    let setup = Setup::fresh().await.with_idle_timeout(millis(1000));
    let drips = (0..12).flat_map(|_| [Part::text(": keep-alive\n\n"), Part::Pause(millis(150))]);
    setup.server.on_every_api(Reply::events(drips.chain([Part::text(GOOD_STREAM)]).collect()));
    let answer = text(setup.host_client().fetch(chat(true)).await.unwrap()).await;
    assert_eq!(answer, format!("{}{GOOD_STREAM}", ": keep-alive\n\n".repeat(12)));

    // Silence after the comments is still noticed.
    let parts = vec![Part::text(": keep-alive\n\n"), Part::Stall];
    let setup = Setup::fresh().await.with_idle_timeout(millis(250));
    setup.server.on_every_api(Reply::events(parts));
    let answer = setup.host_client().fetch(chat(true)).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.error_code()), (400, Some(Code::Timeout.as_str())));
}

#[tokio::test]
async fn a_paused_reader_is_not_a_silent_server() {
    let setup = Setup::fresh().await.with_idle_timeout(millis(200));
    let part = Part::Bytes(vec![b'x'; 4 * MIB].into());
    setup.server.on_every_api(Reply::events(vec![part, Part::text("end")]));
    let (stream, mut woken) = start(&setup).await;
    tokio::time::sleep(millis(700)).await;
    let mut size = 0;
    loop {
        match next(&stream, &mut woken).await {
            StreamRead::Data(data) => size += data.len(),
            StreamRead::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(size, 4 * MIB + 3);
}

#[tokio::test]
async fn a_stream_that_is_cut_is_an_error() {
    let setup = Setup::fresh().await;
    let parts = vec![Part::text("data: 1\n\n"), Part::Pause(millis(20)), Part::Cut];
    setup.server.on_every_api(Reply::events(parts));
    let mut answer = setup.client().fetch(chat(true)).await.unwrap();
    assert_eq!(read(&mut answer.body).await, (b"data: 1\n\n".to_vec(), Err(Code::Network)));
    assert!(matches!(answer.body.next().await, Ok(None)));

    let (stream, mut woken) = start(&setup).await;
    assert!(matches!(next(&stream, &mut woken).await, StreamRead::Data(_)));
    for _ in 0..2 {
        let StreamRead::Failed(error) = next(&stream, &mut woken).await else { panic!("no error") };
        assert_eq!(error.code(), Code::Network);
    }
}

#[tokio::test]
async fn a_dropped_body_closes_its_connection() {
    let setup = Setup::fresh().await;
    setup.server.on_every_api(Reply::events(vec![Part::text("data: 1\n\n"), Part::Stall]));
    let answer = setup.client().fetch(chat(true)).await.unwrap();
    assert_eq!(setup.server.open_requests(), 1);
    drop(answer);
    setup.server.until_closed().await;

    let (stream, mut woken) = start(&setup).await;
    assert!(matches!(next(&stream, &mut woken).await, StreamRead::Data(_)));
    drop(stream);
    setup.server.until_closed().await;

    // These headers are no longer wanted.
    setup.server.on_every_api(Reply::Hang);
    let client = setup.client();
    let waiting = tokio::spawn(async move { client.fetch(chat(true)).await.map(drop) });
    until("the request", || setup.server.open_requests() == 1).await;
    waiting.abort();
    setup.server.until_closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_reader_slows_the_server() {
    let setup = Setup::fresh().await;
    setup.server.on_every_api(Reply::events(vec![Part::Flood(vec![b'x'; 64 * 1024].into())]));
    let (stream, _woken) = start(&setup).await;
    let mut sent = 0;
    // When nothing more is taken for a while, all buffers on the way are full.
    loop {
        tokio::time::sleep(millis(300)).await;
        let now = setup.server.bytes_sent();
        assert!(now < 64 * MIB, "{now}");
        if now == sent {
            break;
        }
        sent = now;
    }
    // Reading makes room for more.
    let mut taken = 0;
    while taken < 2 * sent {
        match stream.read() {
            StreamRead::Data(data) => taken += data.len(),
            StreamRead::Pending => tokio::time::sleep(millis(1)).await,
            other => panic!("{other:?}"),
        }
    }
    assert!(setup.server.bytes_sent() > sent);
    drop(stream);
    setup.server.until_closed().await;
}

#[tokio::test]
async fn error_bodies_are_read_and_passed_on_whole() {
    let setup = Setup::fresh().await;
    let long = "y".repeat(300 * 1024);
    let body = format!("{{\"error\":{{\"code\":\"limit_requests\",\"message\":\"{long}\"}}}}");
    let parts = body.as_bytes().chunks(10_000).map(|chunk| Part::Bytes(Bytes::copy_from_slice(chunk)));
    setup.server.on_every_api(Reply::new(429, "application/json", parts.collect()));
    let answer = setup.client().fetch(chat(false)).await.unwrap();
    assert_eq!(answer.status, 429);
    assert!(text(answer).await == body);
}
