//! Starts this test program again as a process with one client.

use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use qwen_accounts::{Cooldown, CoolingReason, CredentialsFile, LegacyFile, Registry, StoreFile};
use qwen_base::{Busy, Clock, Code, Environment, Error, Events, Result};
use qwen_client::{Client, ClientOptions, Context};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};

use super::setup::{Setup, chat, quiet_login, read};
use super::time::soon;

/// Set in a process that runs a client.
const ROLE: &str = "OPENCODE_QWEN_TEST_CLIENT";
const MARK: &str = "answer: ";
const COPY: &str = "client";

/// A process with a client. Dropping this value kills it.
pub struct Child {
    process: tokio::process::Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// The directory of the program, if it is a copy.
    _copy: Option<tempfile::TempDir>,
}

impl Child {
    /// Starts a client for the setup's user, and waits until it is ready.
    pub async fn start(setup: &Setup) -> Self {
        Self::start_as(setup, None).await
    }

    /// Starts it under another user id.
    pub async fn start_as(setup: &Setup, user: Option<u32>) -> Self {
        Self::launch(setup, user, &[], &[]).await
    }

    /// Starts it with another program as launcher, and with further variables.
    pub async fn start_by(setup: &Setup, launcher: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::launch(setup, None, launcher, variables).await
    }

    /// Starts it with the faults that a [`Plan`](super::faults::Plan) describes.
    pub async fn start_with(setup: &Setup, faults: &str) -> Self {
        Self::start_under(setup, &[], faults).await
    }

    /// Starts it with a launcher and with faults.
    pub async fn start_under(setup: &Setup, launcher: &[&str], faults: &str) -> Self {
        Self::launch(setup, None, launcher, &[(super::faults::PLAN, faults)]).await
    }

    async fn launch(setup: &Setup, user: Option<u32>, launcher: &[&str], variables: &[(&str, &str)]) -> Self {
        let copy = user.map(|_| copy_for_other_users());
        let program =
            copy.as_ref().map_or_else(|| std::env::current_exe().unwrap(), |copy| copy.path().join(COPY));
        let mut command = match launcher {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command
            .args(["--exact", "support::child::client", "--nocapture", "--test-threads=1"])
            .env_clear()
            .envs(variables.iter().copied())
            .env(ROLE, "1")
            .env("HOME", setup.home.path())
            .env("OPENCODE_QWEN_OAUTH_BASE_URL", setup.server.url())
            .current_dir(Path::new("/"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut child = Self { process, input, output, _copy: copy };
        assert_eq!(child.answer().await, "ready");
        child
    }

    /// Asks for a fresh token, without waiting for it.
    pub async fn ask(&mut self) {
        self.order("token").await;
    }

    async fn order(&mut self, order: &str) {
        self.input.write_all(format!("{order}\n").as_bytes()).await.unwrap();
    }

    /// Sends a chat. Returns the status and the account, or the error code.
    pub async fn chat(&mut self) -> String {
        self.order("chat").await;
        self.answer().await
    }

    /// Returns the kinds of all events so far.
    pub async fn told(&mut self) -> String {
        self.order("told").await;
        self.answer().await
    }

    /// Marks an account as out of quota.
    pub async fn exhaust(&mut self, id: &str) -> String {
        self.order(&format!("exhaust {id}")).await;
        self.answer().await
    }

    /// Makes an account the active one. Returns its id, or the error code.
    pub async fn choose(&mut self, id: &str) -> String {
        self.order(&format!("use {id}")).await;
        self.answer().await
    }

    /// Logs in. Returns the account's id, or the error code.
    pub async fn login(&mut self) -> String {
        self.order("login").await;
        self.answer().await
    }

    /// Returns the path from outside of an absolute path that the process sees.
    pub fn path(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix("/").unwrap();
        Path::new("/proc").join(self.process.id().unwrap().to_string()).join("root").join(below)
    }

    /// Sends `count` chats and reads each to its end, without waiting for them.
    pub async fn meter(&mut self, count: usize) {
        self.order(&format!("meter {count}")).await;
    }

    /// Asks for a fresh token. The process exits without waiting for it once [`Child::exit`] is called.
    pub async fn ask_and_exit(&mut self) {
        self.order("exit").await;
    }

    pub async fn exit(mut self) {
        self.order("now").await;
        assert!(soon("a client process's end", self.process.wait()).await.unwrap().success());
    }

    /// Lets it end by itself.
    pub async fn end(self) {
        let Self { mut process, input, output, _copy: _ } = self;
        drop(input);
        assert!(soon("a client process's end", process.wait()).await.unwrap().success());
        drop(output);
    }

    /// Waits for the token or the error code.
    pub async fn answer(&mut self) -> String {
        soon("a client process's answer", self.next_answer()).await
    }

    /// Waits for the next answer, without a time limit.
    pub async fn next_answer(&mut self) -> String {
        loop {
            let line = self.output.next_line().await.unwrap().expect("the client process has ended");
            // The test harness prints lines too, and may leave the first answer on one of them.
            if let Some((_, answer)) = line.split_once(MARK) {
                return answer.to_owned();
            }
        }
    }

    pub async fn token(&mut self) -> String {
        self.ask().await;
        self.answer().await
    }

    /// Sends a signal, named as for kill(1).
    pub async fn signal(&self, name: &str) {
        let id = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().await.unwrap().success());
    }

    /// Kills the process with SIGKILL.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    /// Waits until it has killed itself.
    pub async fn died(mut self) {
        use std::os::unix::process::ExitStatusExt as _;
        let status = soon("a client process's end", self.process.wait()).await.unwrap();
        assert_eq!(status.signal(), Some(9), "{status}");
    }

    /// Waits until it has stopped itself.
    pub async fn stopped(&self) {
        let id = self.process.id().unwrap().to_string();
        let is_stopped = || {
            let state = std::process::Command::new("ps").args(["-o", "stat=", "-p", &id]).output();
            state.is_ok_and(|output| output.stdout.starts_with(b"T"))
        };
        let proc = format!("/proc/{id}/stat");
        super::time::until("a client process that stops", || match std::fs::read_to_string(&proc) {
            Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')),
            Err(_) => is_stopped(),
        })
        .await;
    }
}

/// Copies this program to where any user may run it: other users may not be able to enter the checkout.
fn copy_for_other_users() -> tempfile::TempDir {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(std::env::current_exe().unwrap(), directory.path().join(COPY)).unwrap();
    directory
}

fn say(answer: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{MARK}{answer}").unwrap();
    output.flush().unwrap();
}

fn exhaust(id: &str) -> Result<String> {
    let directory = Path::new(&std::env::var("HOME").unwrap()).join(".qwen");
    let registry = Registry::new(
        CredentialsFile::new(directory.join("oauth_creds.json")),
        StoreFile::new(directory.join("oauth_accounts.json"), true),
        LegacyFile::new(directory.join("none")),
        Clock::system(),
        Events::none(),
    );
    let until = Clock::system().now_ms() + 3_600_000;
    let cooldown = Cooldown { until, reason: CoolingReason::Quota, code: id.to_owned(), window: None };
    registry.mark_cooling(id, &cooldown, &Error::new(Code::QuotaExhausted, "spent"))?;
    Ok("exhausted".to_owned())
}

/// Not a test: the main function of a client process.
#[test]
fn client() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    super::faults::inject();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let environment: Environment = std::env::vars().collect();
    let busy = Busy::unobserved();
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    let events = Events::new(move |event| listener.lock().unwrap().push(event.kind.as_str()));
    let context = Context { for_opencode: false, clock: Clock::system(), events, busy: busy.clone() };
    let client = Arc::new(Client::new(&ClientOptions::default(), environment, context).unwrap());
    say("ready");
    let mut lines = std::io::stdin().lock().lines();
    while let Some(line) = lines.next() {
        let line = line.unwrap();
        let outcome = match line.split_once(' ') {
            None if line == "token" => {
                let token = runtime.block_on(client.access_token(None));
                token.map(|token| token.access_token.expose().to_owned())
            }
            None if line == "chat" => runtime.block_on(client.fetch(chat(false))).map(|answer| {
                let account =
                    answer.headers.get("x-qwen-account").map_or("nobody", |id| id.to_str().unwrap());
                format!("{} {account}", answer.status.as_u16())
            }),
            None if line == "exit" => {
                let asked = Arc::clone(&client);
                runtime.spawn(async move { asked.access_token(None).await });
                lines.next();
                // The binding does this at the end of a process.
                busy.shutdown().end();
                std::process::exit(0);
            }
            None if line == "login" => {
                runtime.block_on(client.login(quiet_login(), |_| {})).map(|account| account.id)
            }
            None if line == "told" => Ok(told.lock().unwrap().join(" ")),
            Some(("exhaust", id)) => exhaust(id),
            Some(("use", id)) => runtime.block_on(client.set_active_account(id)).map(|account| account.id),
            Some(("meter", count)) => {
                for _ in 0..count.parse().unwrap() {
                    let mut answer = runtime.block_on(client.fetch(chat(true))).unwrap();
                    runtime.block_on(read(&mut answer.body)).1.unwrap();
                }
                Ok("metered".to_owned())
            }
            _ => panic!("no order: {line}"),
        };
        say(&outcome.unwrap_or_else(|error| error.code().as_str().to_owned()));
    }
    client.flush();
}
