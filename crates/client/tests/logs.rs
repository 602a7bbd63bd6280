//! The debug log and the request log, with real files and several processes that write at once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use qwen_base::{Clock, Code, DEBUG_LOG, KnownSecrets, Logger, MAX_LOG_BYTES, Secret};
use qwen_client::internals::{
    LogOutcome, LogStart, MAX_FILES, MAX_RESPONSE_BODY, MAX_TOTAL_BYTES, RequestLog, RequestRecord,
};
use serde_json::{Value, json};
use url::Url;

const ACCESS_TOKEN: &str = "At.0123456789/abcdef+~=";
const KEY: &str = "sk-sp-0123456789abcdef";
const PASSWORD: &str = "proxy-pass-word";
const LIMIT: Duration = Duration::from_secs(60);
/// Names the directory of a child process.
const DIRECTORY: &str = "QWEN_TEST_LOG_DIRECTORY";

fn secrets() -> KnownSecrets {
    let secrets = KnownSecrets::default();
    secrets.add(&Secret::new(ACCESS_TOKEN));
    secrets
}

fn logger(directory: &Path) -> Logger {
    Logger::in_directory(directory, Clock::system(), secrets())
}

fn request_log(directory: &Path) -> RequestLog {
    RequestLog::in_directory(directory, Clock::system(), secrets(), Logger::off())
}

fn start(log: &RequestLog, body: &'static str) -> RequestRecord {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {ACCESS_TOKEN}")).unwrap());
    headers.insert("x-note", HeaderValue::from_static(ACCESS_TOKEN));
    log.start(&LogStart {
        url: "https://user:proxy-pass-word@portal.qwen.ai/v1/chat/completions?api_key=sk-sp-0123456789abcdef&a=b",
        method: &Method::POST,
        headers: &headers,
        body: Some(&Bytes::from_static(body.as_bytes())),
        stream: true,
    })
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn requests(directory: &Path) -> Vec<PathBuf> {
    let is_request = |name: &String| name.starts_with("request-2");
    names(directory).into_iter().filter(is_request).map(|name| directory.join(name)).collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Fails if anything in the directory is open to others, or holds a secret.
fn check_files(directory: &Path) {
    for name in names(directory) {
        let path = directory.join(name);
        let text = fs::read_to_string(&path).unwrap();
        for secret in [ACCESS_TOKEN, KEY, PASSWORD] {
            assert!(!text.contains(secret), "{} holds a secret", path.display());
        }
        check_mode(&path, 0o600);
    }
    check_mode(directory, 0o700);
}

#[cfg(unix)]
fn check_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
}

#[cfg(not(unix))]
fn check_mode(_path: &Path, _mode: u32) {}

fn process(test: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[expect(clippy::disallowed_methods, reason = "how a child process of a test is told what to do")]
fn directory_of_child() -> PathBuf {
    PathBuf::from(std::env::var_os(DIRECTORY).unwrap())
}

#[test]
fn each_entry_is_one_line() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join(".opencode/logs/qwen-plugin");
    let logger = logger(&directory);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let logger = logger.clone();
            scope.spawn(move || {
                for entry in 0..200 {
                    logger.info("test", &[("thread", &thread), ("entry", &entry), ("token", &ACCESS_TOKEN)]);
                }
            });
        }
    });
    logger.warn("text", &[("why", &format!("no\r\nway: {ACCESS_TOKEN}, {KEY}, password={PASSWORD}"))]);
    drop(logger);

    let text = fs::read_to_string(directory.join(DEBUG_LOG)).unwrap();
    assert_eq!(text.lines().count(), 801);
    let process = std::process::id().to_string();
    for line in text.lines() {
        let parts: Vec<_> = line.split(' ').collect();
        assert!(parts[0].ends_with('Z') && parts[1] == process, "{line}");
        assert!(
            line.ends_with(" token=***") || line.ends_with(r#"why="no\r\nway: ***, ***, password=***""#),
            "{line}"
        );
    }
    check_files(&directory);
}

#[test]
fn the_debug_log_is_bounded_though_two_processes_write_it() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("logs");
    let children = [(), ()].map(|()| process("child_that_fills_the_debug_log", &directory));
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(names(&directory), [DEBUG_LOG.to_owned(), format!("{DEBUG_LOG}.1")]);
    for name in names(&directory) {
        let text = fs::read_to_string(directory.join(&name)).unwrap();
        // Each process may append a block while the other renames the file.
        assert!(text.len() as u64 <= MAX_LOG_BYTES + 256 * 1024, "{name} has {} bytes", text.len());
        assert!(text.lines().all(|line| line.contains(" DEBUG fill filler=x") && line.ends_with('x')));
    }
    assert!(
        fs::metadata(directory.join(format!("{DEBUG_LOG}.1"))).unwrap().len() > MAX_LOG_BYTES - 256 * 1024
    );
    check_files(&directory);
}

#[test]
#[ignore = "run by another test as a process of its own"]
fn child_that_fills_the_debug_log() {
    let logger = logger(&directory_of_child());
    let filler = "x".repeat(1_000);
    for entry in 0..8_000 {
        logger.debug("fill", &[("filler", &filler)]);
        if entry % 500 == 0 {
            assert!(logger.flush(LIMIT));
        }
    }
    assert!(logger.flush(LIMIT));
}

#[test]
fn files_open_to_others_become_private() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("logs");
    fs::create_dir(&directory).unwrap();
    fs::File::create(directory.join(DEBUG_LOG)).unwrap();
    #[cfg(unix)]
    for (path, mode) in [(directory.clone(), 0o755), (directory.join(DEBUG_LOG), 0o644)] {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    logger(&directory).debug("event", &[]);
    check_files(&directory);
}

/// Root in a user's home, as in a container or with sudo.
#[test]
#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "the test plays the user")]
fn logs_that_root_writes_in_a_users_home_belong_to_that_user() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    const USER: u32 = 54_321;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let home = temporary.path().join("home");
    let directory = home.join(".opencode/logs/qwen");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(USER), Some(USER)).unwrap();
    // Another user's file is not given away, even if a link names it as a log.
    for is_linked in [false, true] {
        let log = logger(&directory);
        log.debug("event", &[]);
        assert!(log.flush(LIMIT));
        let request_log = request_log(&directory);
        drop(start(&request_log, "{}"));
        assert!(request_log.flush(LIMIT));
        let files = names(&directory).into_iter().map(|name| directory.join(name));
        let directories = [".opencode", ".opencode/logs", ".opencode/logs/qwen"].map(|name| home.join(name));
        for path in files.chain(directories) {
            let found = fs::metadata(&path).unwrap();
            let owner = if is_linked && path.ends_with(DEBUG_LOG) { 0 } else { USER };
            assert_eq!((found.uid(), found.gid()), (owner, owner), "{}", path.display());
        }
        let debug_log = directory.join(DEBUG_LOG);
        fs::remove_file(&debug_log).unwrap();
        fs::write(home.join("roots"), "").unwrap();
        fs::hard_link(home.join("roots"), &debug_log).unwrap();
    }
}

#[test]
fn a_request_is_one_file_that_says_what_happened() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("logs");
    let log = request_log(&directory);
    let mut record = start(
        &log,
        r#"{"model":"vision-model","messages":[{"role":"user","content":[{"type":"text","text":"my key is sk-sp-0123456789abcdef"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}"#,
    );
    record.attempt_started("first", &url("https://portal.qwen.ai/v1"), &Secret::new(ACCESS_TOKEN));
    record.attempt_ended(Some(429), "quota-exhausted");
    record.attempt_started("second", &url("https://other.example/v1"), &Secret::new(PASSWORD));
    record.attempt_ended(Some(200), "pass");
    record.note("degraded");
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/event-stream"));
    headers.insert("set-cookie", HeaderValue::from_static("a=proxy-pass-word"));
    record.response(200, &headers);
    record.chunk(b"data: {\"choices\":[]}\n\n");
    record.chunk(format!("data: {ACCESS_TOKEN} {PASSWORD}\n\n").as_bytes());
    record.finish(LogOutcome::Completed);
    drop(record);
    assert!(log.flush(LIMIT));

    let [path] = &requests(&directory)[..] else { panic!("one file") };
    let mut found = read(path);
    for field in ["at", "durationMs", "firstByteMs"] {
        assert!(!found[field].is_null(), "{field}");
        found[field] = json!(0);
    }
    for attempt in found["attempts"].as_array_mut().unwrap() {
        assert!(attempt["durationMs"].is_u64());
        attempt["durationMs"] = json!(0);
    }
    let expected = json!({
        "at": 0,
        "durationMs": 0,
        "firstByteMs": 0,
        "url": "https://portal.qwen.ai/v1/chat/completions?api_key=***&a=b",
        "method": "POST",
        "model": "vision-model",
        "stream": true,
        "account": "second",
        "attempts": [
            {"account": "first", "baseUrl": "https://portal.qwen.ai/v1", "status": 429, "durationMs": 0, "verdict": "quota-exhausted"},
            {"account": "second", "baseUrl": "https://other.example/v1", "status": 200, "durationMs": 0, "verdict": "pass"},
        ],
        "notes": ["degraded"],
        "outcome": "completed",
        "request": {
            "headers": {"authorization": "***", "x-note": "***"},
            "body": {"model": "vision-model", "messages": [{"role": "user", "content": [
                {"type": "text", "text": "my key is ***"},
                {"type": "image_url", "image_url": {"url": "[image/png data URL, 4 bytes]"}},
            ]}]},
            "bytes": 193,
        },
        "response": {
            "status": 200,
            "headers": {"content-type": "text/event-stream", "set-cookie": "***"},
            "body": "data: {\"choices\":[]}\n\ndata: *** ***\n\n",
            "bytes": 69,
        },
    });
    assert_eq!(found, expected);
    check_files(&directory);
}

#[test]
fn every_end_is_logged_and_bodies_are_bounded() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("logs");
    let log = request_log(&directory);
    let end = |record: RequestRecord| {
        drop(record);
        assert!(log.flush(LIMIT));
        read(requests(&directory).last().unwrap())
    };
    let mut record = start(&log, "no json, password=proxy-pass-word");
    record.attempt_started("a", &url("https://portal.qwen.ai/v1"), &Secret::new(PASSWORD));
    let cancelled = end(record);
    assert_eq!(cancelled["outcome"], "cancelled");
    assert_eq!((&cancelled["response"], &cancelled["model"]), (&json!(null), &json!(null)));
    assert_eq!(cancelled["request"]["body"], "no json, password=***");
    assert!(cancelled["attempts"][0]["durationMs"].is_u64() && cancelled["attempts"][0]["verdict"].is_null());

    let mut record = start(&log, "{}");
    record.attempt_started("a", &url("https://portal.qwen.ai/v1"), &Secret::new(PASSWORD));
    record.response(200, &HeaderMap::new());
    record.chunk("x".repeat(MAX_RESPONSE_BODY - 5).as_bytes());
    // The cut goes through a secret.
    record.chunk(PASSWORD.as_bytes());
    record.finish(LogOutcome::Failed(Code::Network));
    record.finish(LogOutcome::Completed);
    let failed = end(record);
    assert_eq!(failed["outcome"], "ERR_QWEN_NETWORK");
    let body = failed["response"]["body"].as_str().unwrap();
    assert!(body.len() <= MAX_RESPONSE_BODY && body.ends_with("x***"));
    assert_eq!(failed["response"]["bytes"], MAX_RESPONSE_BODY - 5 + PASSWORD.len());

    let mut record = start(&log, "{}");
    record.response(400, &HeaderMap::new());
    record.chunk(br#"{"error":{"message":"bad","access_token":"short"}}"#);
    assert_eq!(end(record)["response"]["body"], json!({"error": {"message": "bad", "access_token": "***"}}));
    check_files(&directory);
}

#[test]
fn the_newest_requests_stay_though_two_processes_write_them() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("logs");
    fs::create_dir(&directory).unwrap();
    let old = directory.join("request-20000101T000000000Z-1-000000.json");
    let others = ["debug.log", "request-notes.json", "request-20000101T000000000Z-1-000000.json.bak"];
    for path in others.iter().map(|name| directory.join(name)).chain([old.clone()]) {
        private_file(&path);
    }
    let children = [(), ()].map(|()| process("child_that_logs_requests", &directory));
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let found = requests(&directory);
    assert_eq!(found.len(), MAX_FILES + 1, "and the .bak, which is not a record");
    assert!(!old.exists());
    for name in others {
        assert!(directory.join(name).exists(), "{name}");
    }
    for path in found.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        assert_eq!(read(path)["outcome"], "completed");
    }
    check_files(&directory);
}

/// Creates a file as private as the log's own.
fn private_file(path: &Path) {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).unwrap();
}

#[test]
#[ignore = "run by another test as a process of its own"]
fn child_that_logs_requests() {
    let directory = directory_of_child();
    // Two clients in one process, whose file names must differ too.
    let logs = [request_log(&directory), request_log(&directory)];
    std::thread::scope(|scope| {
        for log in &logs {
            scope.spawn(move || {
                for _ in 0..100 {
                    start(log, r#"{"model":"m"}"#).finish(LogOutcome::Completed);
                    assert!(log.flush(LIMIT));
                }
            });
        }
    });
}

#[test]
fn all_log_files_together_have_a_bounded_size() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("logs");
    fs::create_dir(&directory).unwrap();
    let sized = |day: u32, size: u64| {
        let path = directory.join(format!("request-200001{day:02}T000000000Z-1-000000.json"));
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        path
    };
    let (third, second, first) = (sized(3, MAX_TOTAL_BYTES / 2), sized(2, MAX_TOTAL_BYTES / 2), sized(1, 10));
    let log = request_log(&directory);
    start(&log, "{}").finish(LogOutcome::Completed);
    assert!(log.flush(LIMIT));
    assert!(third.exists() && !second.exists() && !first.exists());
    assert_eq!(requests(&directory).len(), 2);
}

#[test]
fn a_disabled_or_unwritable_log_stops_no_request() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("logs");
    let log = RequestLog::off();
    let mut record = start(&log, "{}");
    record.attempt_started("a", &url("https://portal.qwen.ai/v1"), &Secret::new(KEY));
    record.finish(LogOutcome::Completed);
    Logger::off().warn("event", &[]);
    assert!(log.flush(Duration::ZERO) && !directory.exists());

    let in_the_way = temporary.path().join("in-the-way");
    private_file(&in_the_way);
    let log = RequestLog::in_directory(&in_the_way, Clock::system(), secrets(), logger(&directory));
    start(&log, "{}").finish(LogOutcome::Completed);
    drop(log);
    let logger = logger(&in_the_way);
    logger.warn("event", &[]);
    assert!(logger.flush(LIMIT));
    assert!(
        fs::read_to_string(directory.join(DEBUG_LOG)).unwrap().contains(" WARN request-log-failed error=")
    );
}
