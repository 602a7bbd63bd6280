//! The local gateway over raw sockets: authorization, forwarding, and clients that leave.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use qwen_base::{Code, Secret};
use qwen_client::{Client, Gateway, GatewayEntry, GatewaySettings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::home::{document, in_seconds};
use crate::support::reply::{Part, Reply};
use crate::support::setup::Setup;
use crate::support::time::{fast_forward, soon, until};

const BODY: &str = r#"{"model":"coder-model","messages":[{"role":"user","content":"hi"}],"stream":true}"#;

struct Scene {
    setup: Setup,
    gateway: Gateway,
    entries: Arc<Mutex<Vec<GatewayEntry>>>,
}

impl Scene {
    async fn new() -> Self {
        let setup = Setup::fresh().await;
        let entries = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&entries);
        let settings = GatewaySettings {
            listener: Some(Arc::new(move |entry| told.lock().unwrap().push(entry))),
            ..GatewaySettings::default()
        };
        let client: Arc<Client> = Arc::new(setup.client());
        let gateway = Gateway::open(client, setup.clock.clone(), settings).await.unwrap();
        Self { setup, gateway, entries }
    }

    fn address(&self) -> String {
        self.gateway.url().trim_start_matches("http://").trim_end_matches("/v1").to_owned()
    }

    /// A request with the right key and further header lines.
    fn request(&self, line: &str, headers: &str, body: &str) -> String {
        let (address, key) = (self.address(), self.gateway.key().expose());
        format!("{line} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n{headers}\r\n{body}")
    }

    fn chat(&self) -> String {
        let headers = format!("content-type: application/json\r\ncontent-length: {}\r\n", BODY.len());
        self.request("POST /v1/chat/completions", &headers, BODY)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    /// Returns all bytes of a connection that closes after one request.
    async fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        soon("the answer", rest(&mut stream)).await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A connection may also be reset.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns all bytes while hours pass.
async fn wound_on(stream: &mut TcpStream) -> String {
    tokio::time::pause();
    let answer = fast_forward(rest(stream)).await;
    tokio::time::resume();
    answer
}

/// Reads until `text` has arrived.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut found = String::new();
    while !found.contains(text) {
        let mut bytes = [0; 4096];
        let count = soon("bytes", stream.read(&mut bytes)).await.unwrap();
        assert!(count > 0, "it ended after {found:?}");
        found.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    found
}

fn endless() -> Reply {
    Reply::events(vec![
        Part::text("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n"),
        Part::Pause(Duration::from_secs(600)),
    ])
}

/// An answer that ends after this time.
fn done_after(pause_ms: u64) -> Reply {
    Reply::events(vec![Part::Pause(Duration::from_millis(pause_ms)), Part::text("data: [DONE]\n\n")])
}

#[tokio::test]
async fn a_half_closed_client_gets_its_answer_and_no_probe() {
    let scene = Scene::new().await;
    scene.setup.server.on_every_api(done_after(150));
    let answer = scene.exchange(&scene.chat()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("data: [DONE]\n\n") && answer.ends_with("0\r\n\r\n"), "{answer}");
    let entries = scene.entries.lock().unwrap().clone();
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((entry.status, entry.model.as_deref()), (Some(200), Some("coder-model")));
    assert_eq!((&*entry.method, &*entry.path), ("POST", "/v1/chat/completions"));
    assert!(entry.account.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_that_half_closes_at_once_gets_its_answer() {
    let scene = Scene::new().await;
    for _ in 0..30 {
        let (address, request) = (scene.address(), scene.chat());
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        let answer = soon("the answer", answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("0\r\n\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_stream_cancels_its_request() {
    // Also after it has half closed, and with a further request behind.
    for (requests, half_closes) in [(1, false), (1, true), (2, false)] {
        let scene = Scene::new().await;
        scene.setup.server.on_every_api(endless());
        let mut stream = scene.connect().await;
        stream.write_all(scene.chat().repeat(requests).as_bytes()).await.unwrap();
        if half_closes {
            stream.shutdown().await.unwrap();
        }
        read_until(&mut stream, "hi").await;
        drop(stream);
        soon("the end", scene.setup.server.until_closed()).await;
        assert_eq!(scene.setup.server.api_requests().len(), 1);
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_cancels_its_request() {
    let scene = Scene::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    scene.setup.home.write(&document("access-0", "refresh-0", in_seconds(3600), &url));
    let mut stream = scene.connect().await;
    stream.write_all(scene.chat().as_bytes()).await.unwrap();
    let (mut upstream, _) = soon("the request", silent.accept()).await.unwrap();
    read_until(&mut upstream, "coder-model").await;
    drop(stream);
    soon("the end", rest(&mut upstream)).await;
    soon("the entry", until("an entry", || scene.entries.lock().unwrap().len() == 1)).await;
    assert_eq!(scene.entries.lock().unwrap()[0].status, None);
}

#[tokio::test]
async fn a_slow_sender_gets_a_timeout() {
    let scene = Scene::new().await;
    for (request, status) in [("GET /v1/models HT".to_owned(), "HTTP/1.1 408 "), (String::new(), "")] {
        let mut stream = scene.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = wound_on(&mut stream).await;
        assert_eq!(answer.get(..13).unwrap_or(&answer), status);
    }
    let mut stream = scene.connect().await;
    stream.write_all(scene.request("POST /v1/x", "content-length: 9\r\n", "12345").as_bytes()).await.unwrap();
    let answer = wound_on(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"ERR_QWEN_TIMEOUT\""), "{answer}");
    assert_eq!(scene.setup.server.all_requests(), 0);
}

#[tokio::test]
async fn further_requests_that_arrive_during_an_answer_are_answered_in_order() {
    let scene = Scene::new().await;
    scene.setup.server.on_every_api(done_after(50));
    let mut stream = scene.connect().await;
    for _ in 0..2 {
        stream.write_all(scene.chat().as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // More than is read ahead.
    let padding = format!("x-padding: {}\r\n", "a".repeat(8 * 1024));
    stream.write_all(scene.request("GET /v1/models", &padding, "").repeat(4).as_bytes()).await.unwrap();
    let mut answers = String::new();
    while answers.matches("]}").count() < 4 {
        answers += &read_until(&mut stream, "\n").await;
    }
    assert_eq!(answers.matches("data: [DONE]").count(), 2, "{answers}");
    assert!(answers.rfind("[DONE]") < answers.find("\"object\""), "{answers}");
}

#[tokio::test]
async fn a_wrong_key_is_refused_before_the_body_and_nothing_is_sent() {
    let scene = Scene::new().await;
    let host = scene.address();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer no\r\n");
    let mut stream = scene.connect().await;
    stream.write_all(format!("{head}content-length: 50000000\r\n\r\n").as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "ERR_QWEN_PERMISSION_DENIED\"").await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.contains("x-qwen-error: ERR_QWEN_PERMISSION_DENIED\r\n"), "{answer}");
    let origin = scene.request("GET /v1/models", "origin: http://localhost\r\n", "");
    assert!(scene.exchange(&origin).await.starts_with("HTTP/1.1 403 "));
    let other = scene.request("GET /v1/models", "", "").replace(&host, "evil.example");
    assert!(scene.exchange(&other).await.starts_with("HTTP/1.1 403 "));
    assert_eq!(scene.setup.server.all_requests(), 0);
}

#[tokio::test]
async fn invalid_http_is_refused_in_the_form_of_the_api() {
    let scene = Scene::new().await;
    let large = format!("x-large: {}\r\n", "a".repeat(17 * 1024));
    let many = "x-many: a\r\n".repeat(300);
    for (request, status, code) in [
        ("\x16\x03\x01\x02garbage\r\n\r\n".to_owned(), "400", "INVALID_ARGUMENT"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "400", "INVALID_ARGUMENT"),
        (scene.request("GET /v1/models", &large, ""), "431", "INVALID_ARGUMENT"),
        (scene.request("GET /v1/models", &many, ""), "431", "INVALID_ARGUMENT"),
        (scene.request("POST /v1/x", "content-length: 67108865\r\n", ""), "413", "INVALID_ARGUMENT"),
        (scene.request("POST /v1/x", "transfer-encoding: chunked\r\n", "zz\r\n"), "400", "INVALID_ARGUMENT"),
        (scene.request("POST /v1/x", "content-length: 10\r\n", "short"), "400", "INVALID_ARGUMENT"),
        (scene.request("GET /v1/../admin", "", ""), "400", "INVALID_ARGUMENT"),
        (scene.request("GET /admin", "", ""), "404", "INVALID_ARGUMENT"),
    ] {
        let answer = scene.exchange(&request).await;
        let line = &request[..request.len().min(40)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1").count() - usize::from(answer.contains("valid HTTP/1.1")),
            1,
            "{answer}"
        );
        assert!(answer.contains(&format!("x-qwen-error: ERR_QWEN_{code}\r\n")), "{line}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"ERR_QWEN_{code}\"")), "{line}: {answer}");
    }
    assert_eq!(scene.setup.server.all_requests(), 0);
}

#[tokio::test]
async fn with_two_lengths_the_chunks_count_and_one_request_is_sent() {
    let scene = Scene::new().await;
    let headers = "content-length: 4\r\ntransfer-encoding: chunked\r\ncontent-type: application/json\r\n";
    let body = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    let answer = scene.exchange(&scene.request("POST /v1/chat/completions", headers, &body)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let requests = scene.setup.server.api_requests();
    let [sent] = &requests[..] else { panic!("{requests:?}") };
    assert!(format!("{sent:?}").contains("coder-model"), "{sent:?}");
}

#[tokio::test]
async fn a_body_of_unknown_length_is_read_up_to_the_limit() {
    let scene = Scene::new().await;
    let (mut reader, mut writer) = scene.connect().await.into_split();
    let head = scene.request("POST /v1/x", "transfer-encoding: chunked\r\n", "4000001\r\n");
    let sending = tokio::spawn(async move {
        writer.write_all(head.as_bytes()).await.unwrap();
        // The connection may close before all of it is sent.
        let _ = writer.write_all(&vec![b' '; 64 * 1024 * 1024 + 1]).await;
        let _ = writer.write_all(b"\r\n0\r\n\r\n").await;
        writer
    });
    let mut answer = String::new();
    while !answer.contains("\r\n\r\n") {
        let mut bytes = [0; 4096];
        let count = soon("an answer", reader.read(&mut bytes)).await.unwrap();
        assert!(count > 0, "it ended after {answer:?}");
        answer.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(scene.setup.server.all_requests(), 0);
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn a_connection_is_kept_for_further_requests() {
    let scene = Scene::new().await;
    let mut stream = scene.connect().await;
    for _ in 0..3 {
        stream.write_all(scene.chat().as_bytes()).await.unwrap();
        read_until(&mut stream, "0\r\n\r\n").await;
        stream.write_all(scene.request("GET /v1/models", "", "").as_bytes()).await.unwrap();
        assert!(read_until(&mut stream, "]}").await.contains("coder-model"));
    }
    assert_eq!(scene.setup.server.api_requests().len(), 3);
    assert!(!format!("{:?}", scene.setup.server.api_requests()).contains(scene.gateway.key().expose()));
}

#[tokio::test]
async fn a_slow_reader_slows_the_server() {
    let scene = Scene::new().await;
    let part = || Part::Bytes(Bytes::from(vec![b'a'; 1024 * 1024]));
    let parts = std::iter::repeat_with(part).take(64).collect();
    scene.setup.server.on_every_api(Reply::new(200, "text/event-stream", parts));
    let mut stream = scene.connect().await;
    stream.write_all(scene.chat().as_bytes()).await.unwrap();
    read_until(&mut stream, "aaa").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sent = scene.setup.server.bytes_sent();
    assert!(sent < 40 * 1024 * 1024, "{sent}");
    drop(stream);
    soon("the end", scene.setup.server.until_closed()).await;
}

#[tokio::test]
async fn all_bytes_before_a_broken_end_are_passed_on() {
    let scene = Scene::new().await;
    let bytes = Bytes::from(vec![b'a'; 700_000]);
    let parts = vec![Part::Bytes(bytes.clone()), Part::Bytes(bytes), Part::Cut];
    scene.setup.server.on_every_api(Reply::new(200, "application/octet-stream", parts));
    let mut stream = scene.connect().await;
    stream.write_all(scene.chat().as_bytes()).await.unwrap();
    let answer = soon("the end", rest(&mut stream)).await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    // Chunk sizes are in capital letters.
    assert_eq!(body.matches('a').count(), 1_400_000);
    assert!(!answer.ends_with("0\r\n\r\n"), "a cut answer looked complete");
}

#[tokio::test]
async fn a_port_that_is_taken_in_either_family_is_named() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(taken) = TcpListener::bind(address).await else { continue };
        let port = taken.local_addr().unwrap().port();
        let setup = Setup::fresh().await;
        let settings = GatewaySettings { port, ..GatewaySettings::default() };
        let error = Gateway::open(Arc::new(setup.client()), setup.clock.clone(), settings).await.unwrap_err();
        assert_eq!(error.code(), Code::PortInUse);
        assert!(error.message().contains(&port.to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_key_that_is_too_short_is_refused() {
    let setup = Setup::fresh().await;
    for key in ["short", &"a".repeat(31), &format!("{} b", "a".repeat(40))] {
        let settings = GatewaySettings { key: Some(Secret::new(key)), ..GatewaySettings::default() };
        let error = Gateway::open(Arc::new(setup.client()), setup.clock.clone(), settings).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(!error.message().contains(key));
    }
}

#[tokio::test]
async fn closing_ends_open_requests_and_frees_the_port() {
    let scene = Scene::new().await;
    scene.setup.server.on_every_api(endless());
    let mut stream = scene.connect().await;
    stream.write_all(scene.chat().as_bytes()).await.unwrap();
    read_until(&mut stream, "hi").await;
    let mut idle = scene.connect().await;
    soon("the close", scene.gateway.close()).await;
    assert!(!rest(&mut stream).await.ends_with("0\r\n\r\n"), "a cut answer looked complete");
    assert_eq!(rest(&mut idle).await, "");
    assert!(TcpStream::connect(scene.address()).await.is_err());
    soon("the end", scene.setup.server.until_closed()).await;
}
