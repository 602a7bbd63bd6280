//! The CLI fallback with commands in place of the qwen CLI, most of them faulty.
#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use qwen_base::{Busy, Clock, Code, Environment, Error, Paths};
use qwen_client::internals::{CliAnswer, CliFallback, CliLimits};
use serde_json::{Value, json};

const INIT: &str = r#"echo '{"type":"system","subtype":"init","model":"m","tools":[]}'"#;

/// A home with a command `qwen`, and a fallback that finds no other.
struct Scene {
    root: tempfile::TempDir,
}

impl Scene {
    fn new(script: &str) -> Self {
        let scene = Self { root: tempfile::tempdir().unwrap() };
        for directory in ["bin", "tmp", ".qwen"] {
            std::fs::create_dir(scene.path(directory)).unwrap();
        }
        scene.write("bin/qwen", &format!("#!/bin/sh\n{script}\n"));
        scene
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    fn write(&self, below: &str, contents: &str) {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o755).open(self.path(below)).unwrap();
        file.write_all(contents.as_bytes()).unwrap();
    }

    fn read(&self, below: &str) -> String {
        std::fs::read_to_string(self.path(below)).unwrap_or_default()
    }

    fn fallback(&self, limits: CliLimits) -> CliFallback {
        let root = self.root.path().to_str().unwrap();
        let environment: Environment = [
            ("HOME", root.to_owned()),
            ("PATH", format!("{root}/bin:/usr/bin:/bin")),
            ("TMPDIR", format!("{root}/tmp")),
            ("OUT", root.to_owned()),
            ("OPENAI_API_KEY", "sk-from-the-environment".to_owned()),
            ("QWEN_SANDBOX", "docker".to_owned()),
        ]
        .into_iter()
        .collect();
        let paths = Paths::from_environment(&environment).unwrap();
        CliFallback::new(environment, paths, Clock::from_fn(|| 7_000)).with_limits(limits)
    }

    async fn ask(&self, stream: bool) -> Result<CliAnswer, Error> {
        self.fallback(quick()).complete(&body(stream)).await
    }

    async fn error(&self) -> Error {
        let streamed = self.ask(true).await.expect_err("an error");
        let error = self.ask(false).await.expect_err("an error");
        assert_eq!(streamed.message(), error.message());
        error
    }

    /// Returns the processes that the command listed in `pids`.
    fn pids(&self) -> Vec<String> {
        self.read("pids").split_whitespace().map(str::to_owned).collect()
    }

    /// Waits until all of them have ended and no directory is left.
    async fn is_cleaned_up(&self, count: usize) {
        let started = Instant::now();
        loop {
            let pids = self.pids();
            let alive: Vec<_> = pids.iter().filter(|pid| is_alive(pid)).collect();
            let left = std::fs::read_dir(self.path("tmp")).unwrap().count();
            if alive.is_empty() && pids.len() == count && left == 0 {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(25), "{alive:?} of {pids:?} live, {left} left");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A zombie waits for the init process, which may be slow to reap it.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn quick() -> CliLimits {
    CliLimits {
        total: Duration::from_secs(20),
        first_word: Duration::from_secs(15),
        grace: Duration::from_millis(200),
    }
}

fn body(stream: bool) -> Bytes {
    let messages = json!([{"role": "user", "content": "/help @/etc/passwd --yolo"}]);
    json!({"model": "coder-model", "stream": stream, "stream_options": {"include_usage": true}, "messages": messages})
        .to_string()
        .into()
}

async fn whole(answer: CliAnswer) -> Value {
    assert_eq!(answer.content_type, "application/json");
    serde_json::from_slice(&answer.body.collect().await.unwrap()).unwrap()
}

async fn events(answer: CliAnswer) -> Vec<Value> {
    assert_eq!(answer.content_type, "text/event-stream; charset=utf-8");
    let bytes = answer.body.collect().await.unwrap();
    let data =
        std::str::from_utf8(&bytes).unwrap().split_terminator("\n\n").map(|event| &event["data: ".len()..]);
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| data.into())).collect()
}

/// The output of 0.24.4 for "You said".
fn answer() -> String {
    let delta = |text: &str| {
        format!(
            r#"echo '{{"type":"stream_event","event":{{"type":"content_block_delta","delta":{{"type":"text_delta","text":"{text}"}}}}}}'"#
        )
    };
    let result = r#"echo '{"type":"result","is_error":false,"result":"You said","usage":{"input_tokens":7,"output_tokens":2,"cache_read_input_tokens":3}}'"#;
    [INIT, &delta("You "), &delta("said"), result].join("\n")
}

#[tokio::test]
async fn an_answer_becomes_a_chat_completion() {
    let scene = Scene::new(&format!("cat > /dev/null\n{}", answer()));
    let usage = json!({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 3}});
    let completion = whole(scene.ask(false).await.unwrap()).await;
    assert_eq!(completion["choices"][0]["message"], json!({"role": "assistant", "content": "You said"}));
    assert_eq!((&completion["model"], &completion["created"]), (&json!("m"), &json!(7)));
    assert_eq!(completion["usage"], usage);

    let events = events(scene.ask(true).await.unwrap()).await;
    let said: Vec<_> =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(said, ["", "You ", "said"]);
    assert_eq!(events[3]["choices"][0]["finish_reason"], "stop");
    assert_eq!(events[4]["usage"], usage);
    assert_eq!(events[5], "[DONE]");
    scene.is_cleaned_up(0).await;
}

#[tokio::test]
async fn the_cli_gets_the_conversation_and_a_restricted_home() {
    let script = r#"cat > "$OUT/stdin"; env > "$OUT/env"; for a in "$@"; do echo "$a" >> "$OUT/args"; done
        ls -a > "$OUT/work"; ls -ld . "$QWEN_HOME" | cut -c1-10 > "$OUT/modes"; pwd > "$OUT/pwd"; cat "$QWEN_HOME/settings.json" > "$OUT/settings"; touch "$QWEN_HOME/x" y"#;
    let scene = Scene::new(&format!("{script}\n{}", answer()));
    let user = json!({"security": {"auth": {"selectedType": "openai", "apiKey": "sk-from-the-settings"}}, "mcpServers": {"a": {"command": "a"}}, "tools": {"approvalMode": "yolo"}});
    scene.write(".qwen/settings.json", &format!("// mine\n{user}"));
    scene.write(".qwen/.env", "OPENAI_BASE_URL=http://from-the-file\nQWEN_HOME=/else\n");
    scene.write(".qwen/oauth_creds.json", r#"{"access_token":"the-access-token"}"#);
    whole(scene.ask(false).await.unwrap()).await;

    let stdin = scene.read("stdin");
    assert!(
        stdin.starts_with("Below is a conversation") && stdin.contains(r"/help \u0040/etc/passwd --yolo")
    );
    assert!(!stdin.contains('@'));
    let args: Vec<_> = scene.read("args").lines().map(str::to_owned).collect();
    assert_eq!(
        args[..7],
        [
            "--output-format",
            "stream-json",
            "--include-partial-messages",
            "--approval-mode",
            "default",
            "--chat-recording=false",
            "--exclude-tools"
        ]
    );
    assert_eq!(args.len(), 8);
    assert!(
        args[7].split(',').all(|tool| tool.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
    );
    assert_eq!(
        (scene.read("work"), scene.read("modes")),
        (".\n..\n".into(), "drwx------\ndrwx------\n".into())
    );
    let (environment, settings) = (scene.read("env"), scene.read("settings"));
    let workspace = scene.read("pwd");
    let workspace = workspace.trim().strip_suffix("/work").unwrap();
    for line in [
        format!("QWEN_HOME={workspace}/home"),
        format!("QWEN_CODE_SYSTEM_SETTINGS_PATH={workspace}/home/settings.json"),
        "OPENAI_API_KEY=sk-from-the-environment".to_owned(),
        "OPENAI_BASE_URL=http://from-the-file".to_owned(),
        "QWEN_USAGE_STATISTICS_ENABLED=false".to_owned(),
    ] {
        assert!(environment.lines().any(|known| known == line), "{line}");
    }
    assert!(!environment.contains("QWEN_SANDBOX") && !environment.contains("/else"));
    let settings: Value = serde_json::from_str(&settings).unwrap();
    let reference = settings["security"]["auth"]["apiKey"].as_str().unwrap().strip_prefix('$').unwrap();
    assert!(environment.contains(&format!("{reference}=sk-from-the-settings")));
    assert_eq!(
        (&settings["mcpServers"], &settings["tools"]["approvalMode"]),
        (&json!({}), &json!("default"))
    );
    assert!(!settings.to_string().contains("sk-from") && !environment.contains("the-access-token"));
    scene.is_cleaned_up(0).await;
}

#[tokio::test]
async fn a_failed_cli_is_explained_without_secrets() {
    let scene = Scene::new("cat > /dev/null; echo 'Error: no luck with sk-from-the-environment' >&2; exit 3");
    let error = scene.error().await;
    assert_eq!(error.code(), Code::CliFailed);
    assert!(
        error.message().contains("exit status: 3") && error.message().contains("no luck with ***"),
        "{error}"
    );

    let empty = r#"echo '{"type":"result","is_error":false,"result":""}'"#;
    for (script, expected) in
        [("exit 0", "without an answer"), (empty, "without an answer"), ("kill -9 $$", "signal")]
    {
        let error = Scene::new(script).error().await;
        assert!(error.message().contains(expected), "{script}: {error}");
    }

    let result = |error: &str| {
        format!(
            "{INIT}\necho '{{\"type\":\"result\",\"is_error\":true,\"error\":{{\"message\":\"{error}\"}}}}'; exit 1"
        )
    };
    let scene = Scene::new(&result("Qwen OAuth free tier was discontinued on 2026-04-15. Run /auth"));
    assert!(scene.error().await.message().starts_with("The qwen CLI is only logged in with OAuth"));
    let scene = Scene::new(&result("No auth type is selected. Please configure"));
    assert!(scene.error().await.message().starts_with("The qwen CLI is not logged in"));
    let scene = Scene::new(&result("[API Error: 401 invalid access token]"));
    assert!(scene.error().await.message().starts_with("The qwen CLI's key was refused"));
    scene.is_cleaned_up(0).await;
}

#[tokio::test]
async fn an_oauth_login_is_refused_without_a_process() {
    let scene = Scene::new("touch $OUT/started");
    scene.write(".qwen/settings.json", r#"{"security":{"auth":{"selectedType":"qwen-oauth"}}}"#);
    assert!(scene.error().await.message().contains("ended on 2026-04-15"));
    assert!(!scene.path("started").exists());
}

#[tokio::test]
async fn a_missing_or_broken_cli_is_reported() {
    let scene = Scene::new("");
    std::fs::rename(scene.path("bin/qwen"), scene.path("bin/other")).unwrap();
    let on_system =
        ["/usr/bin/qwen", "/bin/qwen", "/usr/local/bin/qwen"].iter().any(|path| Path::new(path).exists());
    if !on_system {
        assert_eq!(scene.error().await.code(), Code::CliNotFound);
    }
    scene.write("bin/qwen", "#!/no/such/interpreter\n");
    let error = scene.error().await;
    assert_eq!(error.code(), Code::CliFailed);
    assert!(error.message().contains("can't be started"), "{error}");
    scene.is_cleaned_up(0).await;
}

#[tokio::test]
async fn a_cli_that_hangs_is_stopped_with_its_children() {
    // It ignores SIGTERM, and its child does too.
    let script =
        format!("trap '' TERM; {INIT}; sleep 600 & echo $$ $! > \"$OUT/pids\"; while :; do sleep 600; done");
    for limits in [
        CliLimits { first_word: Duration::from_millis(300), ..quick() },
        CliLimits { total: Duration::from_millis(300), ..quick() },
    ] {
        let scene = Scene::new(&script);
        let error = scene.fallback(limits).complete(&body(true)).await.unwrap_err();
        assert!(error.message().contains("was stopped") && error.is_retryable(), "{error}");
        scene.is_cleaned_up(2).await;
    }
}

#[tokio::test]
async fn an_abort_and_a_dropped_answer_kill_the_group() {
    let delta =
        r#"echo '{"type":"stream_event","event":{"type":"content_block_delta","delta":{"text":"You "}}}'"#;
    let spawn = "trap '' TERM HUP; sleep 600 & echo $$ $! > \"$OUT/pids\"";
    let scene = Scene::new(&format!("{spawn}\n{INIT}\n{delta}\nwait"));
    let mut answer = scene.ask(true).await.unwrap();
    assert!(answer.body.next().await.unwrap().is_some());
    assert_eq!(scene.pids().iter().filter(|pid| is_alive(pid)).count(), 2);
    drop(answer);
    scene.is_cleaned_up(2).await;

    let scene = Scene::new(&format!("{spawn}\n{INIT}\nwait"));
    let fallback = scene.fallback(quick());
    let body = body(false);
    tokio::select! {
        _ = fallback.complete(&body) => panic!("it hangs"),
        () = async { while scene.pids().len() < 2 { tokio::time::sleep(Duration::from_millis(10)).await; } } => {}
    }
    scene.is_cleaned_up(2).await;
}

#[tokio::test]
async fn no_process_is_left_after_an_answer_and_a_host_can_wait_for_an_abort() {
    let left = |scene: &Scene| std::fs::read_dir(scene.path("tmp")).unwrap().count();
    let spawn = "trap '' TERM HUP; sleep 600 & echo $$ $! > \"$OUT/pids\"";
    for end in ["wait", "exit 1"] {
        let scene = Scene::new(&format!("{spawn}\n{}\n{end}", answer()));
        let mut answer = scene.ask(true).await.unwrap();
        while answer.body.next().await.unwrap().is_some() {}
        assert_eq!(left(&scene), 0);
        scene.is_cleaned_up(2).await;
        let scene = Scene::new(&format!("{spawn}\n{INIT}\n{end}"));
        let limits = CliLimits { first_word: Duration::from_millis(500), ..quick() };
        scene.fallback(limits).complete(&body(true)).await.unwrap_err();
        assert_eq!(left(&scene), 0);
        scene.is_cleaned_up(2).await;
    }

    let scene = Scene::new(&format!("{spawn}\n{}\nwait", answer()));
    let (idle, mut is_idle) = tokio::sync::mpsc::unbounded_channel();
    let busy = Busy::new(qwen_base::Shutdown::default(), move || {
        let _ = idle.send(());
    });
    let answer = scene.fallback(quick()).with_busy(busy.clone()).complete(&body(true)).await.unwrap();
    assert!(!busy.is_busy());
    drop(answer);
    assert!(busy.is_busy());
    is_idle.recv().await.unwrap();
    assert_eq!(left(&scene), 0);
    scene.is_cleaned_up(2).await;
}

#[test]
fn the_end_of_the_runtime_kills_the_group() {
    let scene = Scene::new(&format!("trap '' TERM; sleep 600 & echo $$ $! > \"$OUT/pids\"\n{INIT}\nwait"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fallback = scene.fallback(quick());
    runtime.spawn(async move { fallback.complete(&body(true)).await.map(drop) });
    while scene.pids().len() < 2 {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(runtime);
    tokio::runtime::Runtime::new().unwrap().block_on(scene.is_cleaned_up(2));
}

#[tokio::test]
async fn a_child_left_behind_is_killed_and_not_waited_for() {
    let scene = Scene::new(&format!("sleep 600 & echo $! > \"$OUT/pids\"\ncat > /dev/null\n{}", answer()));
    assert_eq!(whole(scene.ask(false).await.unwrap()).await["choices"][0]["message"]["content"], "You said");
    scene.is_cleaned_up(1).await;

    // It holds the pipe open, and no result ends the answer.
    let scene = Scene::new("sleep 600 & echo $! > \"$OUT/pids\"; exit 1");
    assert!(scene.ask(true).await.unwrap_err().message().contains("exit status: 1"));
    scene.is_cleaned_up(1).await;
}

#[tokio::test]
async fn invalid_lines_are_skipped_and_too_many_are_an_error() {
    let scene =
        Scene::new(&format!("cat > /dev/null\necho rubbish\nprintf '\\377\\n[{{'\necho\n{}", answer()));
    assert_eq!(whole(scene.ask(false).await.unwrap()).await["choices"][0]["message"]["content"], "You said");

    for flood in ["yes rubbish | head -c 100000000", "head -c 100000000 /dev/zero"] {
        let scene = Scene::new(&format!("echo $$ > \"$OUT/pids\"; {INIT}; {flood}"));
        let error = scene.ask(true).await.unwrap_err();
        assert!(error.message().contains("too much for an answer"), "{error}");
        scene.is_cleaned_up(1).await;
    }
}

#[tokio::test]
async fn long_error_output_is_cut_and_blocks_nothing() {
    let scene = Scene::new("yes complaint | head -c 1000000 >&2; echo 'the last word' >&2; exit 1");
    let error = scene.ask(false).await.unwrap_err();
    assert!(error.message().contains("the last word") && error.message().len() < 500, "{error}");
}

#[tokio::test]
async fn a_broken_answer_ends_in_an_error() {
    let delta =
        r#"echo '{"type":"stream_event","event":{"type":"content_block_delta","delta":{"text":"You "}}}'"#;
    let retry = r#"echo '{"type":"system","subtype":"retry","data":{}}'"#;
    let error = r#"echo '{"type":"stream_event","event":{"type":"content_block_delta","delta":{"text":"[API Error: terminated]"}}}'; echo '{"type":"result","subtype":"success","is_error":false,"result":"You [API Error: terminated]","usage":{}}'"#;
    for (end, expected) in [(error, "terminated"), ("exit 1", "exit status: 1"), (retry, "was lost")] {
        let scene = Scene::new(&format!("cat > /dev/null\n{INIT}\n{delta}\n{end}\n{}", answer()));
        let mut answer = scene.ask(true).await.unwrap();
        let mut said = String::new();
        let error = loop {
            match answer.body.next().await {
                Ok(bytes) => said.push_str(std::str::from_utf8(&bytes.expect("no silent end")).unwrap()),
                Err(error) => break error,
            }
        };
        assert!(said.contains("You ") && !said.contains("API Error") && !said.contains("[DONE]"));
        assert!(error.message().contains(expected), "{error}");
        assert_eq!(answer.body.next().await.unwrap(), None);
    }
    // A caller that reads the whole answer gets the second try alone.
    let scene = Scene::new(&format!("cat > /dev/null\n{INIT}\n{delta}\n{retry}\n{}", answer()));
    assert_eq!(whole(scene.ask(false).await.unwrap()).await["choices"][0]["message"]["content"], "You said");
}

#[tokio::test]
async fn tools_of_a_later_version_are_turned_off_too() {
    let script = r#"cat > /dev/null; echo run >> "$OUT/runs"
        case "$*" in *,teleport*) ;; *) echo '{"type":"system","subtype":"init","tools":["teleport"]}'; sleep 600;; esac"#;
    let scene = Scene::new(&format!("{script}\n{}", answer()));
    let fallback = scene.fallback(quick());
    for runs in [2, 3] {
        whole(fallback.complete(&body(false)).await.unwrap()).await;
        assert_eq!(scene.read("runs").lines().count(), runs);
    }
    let scene = Scene::new(r#"echo '{"type":"system","subtype":"init","tools":["stubborn"]}'; sleep 600"#);
    assert!(scene.error().await.message().contains("can't be turned off"));
    scene.is_cleaned_up(0).await;
}

#[tokio::test]
async fn a_large_prompt_is_fed_while_the_answer_is_read() {
    let scene = Scene::new(&format!(
        "{INIT}\nhead -c 5000000 /dev/zero | tr '\\0' '\\n'\nwc -c > \"$OUT/size\"\n{}",
        answer()
    ));
    let text = "x".repeat(120_000);
    let messages: Vec<_> = (0..10).map(|_| json!({"role": "user", "content": text})).collect();
    let body = Bytes::from(json!({"messages": messages}).to_string());
    whole(scene.fallback(quick()).complete(&body).await.unwrap()).await;
    let size: usize = scene.read("size").trim().parse().unwrap();
    assert!((300_000..=512 * 1024).contains(&size), "{size}");

    // A CLI that doesn't read it can answer, too.
    let scene = Scene::new(&format!("exec 0<&-\n{}", answer()));
    let completion = whole(scene.fallback(quick()).complete(&body).await.unwrap()).await;
    assert_eq!(completion["choices"][0]["message"]["content"], "You said");
}

#[tokio::test]
async fn more_requests_than_may_run_at_once_are_all_answered() {
    let scene = Scene::new(&format!("cat > /dev/null\necho $$ >> \"$OUT/pids\"\n{}", answer()));
    let (fallback, body) = (scene.fallback(quick()), body(false));
    let answers = futures_util::future::join_all((0..5).map(|_| fallback.complete(&body))).await;
    for answer in answers {
        assert_eq!(whole(answer.unwrap()).await["choices"][0]["message"]["content"], "You said");
    }
    scene.is_cleaned_up(5).await;
}
