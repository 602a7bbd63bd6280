//! Runs the CLI and its child processes until all have ended.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use process_wrap::tokio::{ChildWrapper, CommandWrap};
use qwen_base::{Busy, BusyGuard, Code, Environment, Error, Result, blocking};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::find::Program;
use super::home::Workspace;
use super::login::CliLogin;

/// Number of bytes kept from the end of standard error.
const MAX_STDERR_TAIL: usize = 4 * 1024;
/// Largest output, in bytes.
const MAX_OUTPUT: usize = 32 * 1024 * 1024;
/// Time for reading the pipe after the process has ended.
const DRAIN: Duration = Duration::from_millis(300);
/// Time for a killed process to end.
const REAP: Duration = Duration::from_secs(5);

/// Tools of 0.15.10 to 0.24.4. The CLI has no switch that turns off all tools.
pub const TOOLS: &str = "agent,artifact,ask_user_question,create_sub_session,cron_create,cron_delete,cron_list,\
    display_image,edit,enter_plan_mode,enter_worktree,exec,exit_plan_mode,exit_worktree,get_goal,glob,grep_search,\
    image_gen,list_agents,list_directory,loop_wakeup,lsp,monitor,notebook_edit,propose_goal,read_file,\
    read_mcp_resource,record_artifact,record_source,report_findings,request_shutdown,run_shell_command,save_memory,\
    send_message,skill,structured_output,task_create,task_list,task_stop,task_update,team_create,team_delete,\
    team_plan_approval,todo_write,tool_call,tool_search,update_goal,web_fetch,web_search,workflow,write_file,\
    zoom_image";

/// Time limits of a CLI run.
#[derive(Debug, Clone, Copy)]
pub struct CliLimits {
    /// Limit for the whole run.
    pub total: Duration,
    /// Limit for the first text. The CLI retries refused requests silently, for minutes.
    pub first_word: Duration,
    /// Time between the request to end and the kill.
    pub grace: Duration,
}

impl Default for CliLimits {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(120),
            first_word: Duration::from_secs(60),
            grace: Duration::from_secs(2),
        }
    }
}

#[derive(Debug)]
pub struct Job {
    pub request: Arc<CliRequest>,
    pub workspace: Workspace,
    /// Environment of the caller.
    pub environment: Arc<Environment>,
    /// Tools to turn off, in addition to [`TOOLS`].
    pub more_tools: Vec<String>,
    pub limits: CliLimits,
    pub permit: OwnedSemaphorePermit,
    /// Makes the host wait while the CLI is stopped and its directories are removed.
    pub busy: Busy,
}

/// The parts of a job that stay the same for another start.
#[derive(Debug)]
pub struct CliRequest {
    pub program: Program,
    pub login: CliLogin,
    pub prompt: String,
}

#[derive(Debug, Clone, Default)]
pub struct CliEnd {
    /// Exit status, if the process ended on its own.
    pub status: Option<ExitStatus>,
    pub timed_out: bool,
    /// End of standard error.
    pub complaint: String,
}

#[derive(Debug)]
pub enum Output {
    Bytes(Bytes),
    /// The output is larger than [`MAX_OUTPUT`].
    TooMuch,
    CliEnd(CliEnd),
}

/// A running CLI. Dropping it kills the CLI and its children, and removes its directories.
#[derive(Debug)]
pub struct Run {
    stdout: ChildStdout,
    has_read: usize,
    ended: oneshot::Receiver<CliEnd>,
    /// Set when the process has ended; the pipe may still contain output.
    end: Option<CliEnd>,
    cancel: Option<oneshot::Sender<BusyGuard>>,
    keeper: Option<JoinHandle<()>>,
    busy: Busy,
}

impl Run {
    /// Starts the CLI without a shell, with the prompt on standard input. Must run in a task and not on a blocking thread,
    /// where the runtime could end between the start of the process and its first use, which would leave the process alive.
    pub fn start(job: Job) -> Result<Self> {
        let CliRequest { program, login, .. } = &*job.request;
        let mut command = CommandWrap::with_new(&program.executable, |command| {
            command.args(&program.script);
            command.args(["--output-format", "stream-json", "--include-partial-messages"]);
            command.args(["--approval-mode", "default", "--chat-recording=false", "--exclude-tools"]);
            command.arg([&[TOOLS.to_owned()], &job.more_tools[..]].concat().join(","));
            command.env_clear().envs(login.variables.iter().map(|(name, value)| (name, value)));
            // Node usually is in the CLI's own directory.
            let directory = program.cli.parent().map(Path::to_owned);
            command.env("PATH", job.environment.program_path(directory)).envs(job.workspace.variables());
            for name in ["QWEN_TELEMETRY_ENABLED", "QWEN_USAGE_STATISTICS_ENABLED"] {
                command.env(name, "false");
            }
            for name in ["QWEN_CODE_NO_RELAUNCH", "NO_COLOR"] {
                command.env(name, "1");
            }
            command.current_dir(job.workspace.work());
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        });
        #[cfg(unix)]
        command.wrap(process_wrap::tokio::ProcessGroup::leader());
        #[cfg(windows)]
        command.wrap(process_wrap::tokio::JobObject).wrap(process_wrap::tokio::KillOnDrop);
        let child = command.spawn().map_err(|error| {
            let cli = program.cli.display();
            Error::new(
                Code::CliFailed,
                format!(
                    "The qwen CLI {cli} can't be started: {error}. Run it by hand, or set QWEN_CLI_PATH."
                ),
            )
            .with_path(&program.cli)
        })?;
        let mut group = Group { child, is_gone: false };
        let (stdin, stderr) = (group.child.stdin().take(), group.child.stderr().take());
        let stdout = group.child.stdout().take().ok_or_else(|| Error::internal("a child without a pipe"))?;
        let (cancel, cancelled) = oneshot::channel();
        let (tell, ended) = oneshot::channel();
        let keeper = Keeper { group, workspace: Some(job.workspace), _permit: job.permit };
        let keeper = tokio::spawn(keeper.keep(stdin, job.request, stderr, cancelled, job.limits, tell));
        let (cancel, keeper) = (Some(cancel), Some(keeper));
        Ok(Self { stdout, has_read: 0, ended, end: None, cancel, keeper, busy: job.busy })
    }

    /// Stops the CLI and waits until all its processes have ended.
    pub async fn stop(mut self) {
        let keeper = self.keeper.take();
        drop(self);
        if let Some(keeper) = keeper {
            let _ = timeout(2 * REAP, keeper).await;
        }
    }

    /// Returns the next output. Cancel-safe.
    pub async fn next(&mut self) -> Output {
        let mut buffer = BytesMut::with_capacity(16 * 1024);
        loop {
            if let Some(end) = &self.end {
                // A child outside of the group could keep the pipe open forever.
                return match timeout(DRAIN, self.stdout.read_buf(&mut buffer)).await {
                    Ok(Ok(read)) if read > 0 => self.output(buffer),
                    _ => Output::CliEnd(end.clone()),
                };
            }
            tokio::select! {
                biased;
                read = self.stdout.read_buf(&mut buffer) => match read {
                    Ok(read) if read > 0 => return self.output(buffer),
                    // The host's SIGCHLD handler may hide the end of the process.
                    _ => {
                        let end = timeout(REAP, &mut self.ended).await;
                        self.end = Some(end.ok().and_then(Result::ok).unwrap_or_default());
                    }
                },
                end = &mut self.ended => self.end = Some(end.unwrap_or_default()),
            }
        }
    }

    fn output(&mut self, buffer: BytesMut) -> Output {
        self.has_read += buffer.len();
        if self.has_read > MAX_OUTPUT { Output::TooMuch } else { Output::Bytes(buffer.freeze()) }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            // If the keeper task has ended, the send fails and nothing has to be awaited.
            let _ = cancel.send(self.busy.enter());
        }
    }
}

/// The process and its children: a process group on Unix, a job on Windows.
#[derive(Debug)]
struct Group {
    child: Box<dyn ChildWrapper>,
    is_gone: bool,
}

impl Group {
    async fn kill(&mut self) {
        // This fails if the process has ended.
        let _ = self.child.start_kill();
        let _ = timeout(REAP, self.child.wait()).await;
        self.is_gone = true;
    }

    /// Asks the processes to end, and kills them after `grace`.
    async fn end(&mut self, grace: Duration) {
        #[cfg(unix)]
        if self.child.signal(SIGTERM).is_ok() {
            let _ = timeout(grace, self.child.wait()).await;
        }
        #[cfg(not(unix))]
        let _ = grace;
        self.kill().await;
    }
}

#[cfg(unix)]
const SIGTERM: i32 = 15;

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_gone {
            let _ = self.child.start_kill();
        }
    }
}

/// Waits for the end of a process, even if its answer is no longer needed. Fields are dropped in order: the directories go
/// after the processes that write there.
struct Keeper {
    group: Group,
    workspace: Option<Workspace>,
    _permit: OwnedSemaphorePermit,
}

impl Keeper {
    async fn keep(
        mut self,
        stdin: Option<ChildStdin>,
        request: Arc<CliRequest>,
        mut stderr: Option<ChildStderr>,
        cancelled: oneshot::Receiver<BusyGuard>,
        limits: CliLimits,
        tell: oneshot::Sender<CliEnd>,
    ) {
        let mut ended = CliEnd::default();
        let mut tail = Vec::new();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // If the CLI ends early, its output has the reason.
                let _ = stdin.write_all(request.prompt.as_bytes()).await;
            }
        };
        let background = async {
            tokio::join!(feed, read_tail(&mut stderr, &mut tail));
            std::future::pending::<()>().await;
        };
        let cause = tokio::select! {
            status = self.group.child.wait() => Cause::Exit(status.ok()),
            () = sleep(limits.total) => Cause::Timeout,
            guard = cancelled => Cause::Cancelled(guard.ok()),
            () = background => Cause::Cancelled(None),
        };
        let mut guard = None;
        match cause {
            Cause::Exit(status) => {
                ended.status = status;
                self.group.kill().await;
            }
            Cause::Timeout => {
                ended.timed_out = true;
                self.group.end(limits.grace).await;
            }
            Cause::Cancelled(busy) => {
                guard = busy;
                self.group.kill().await;
            }
        }
        let _ = timeout(DRAIN, read_tail(&mut stderr, &mut tail)).await;
        ended.complaint = String::from_utf8_lossy(&tail).into_owned();
        let _ = tell.send(ended);
        let workspace = self.workspace.take();
        let _ = blocking(move || drop(workspace)).await;
        drop(guard);
    }
}

enum Cause {
    Exit(Option<ExitStatus>),
    Timeout,
    Cancelled(Option<BusyGuard>),
}

/// Reads to the end and keeps the last bytes.
async fn read_tail(stderr: &mut Option<ChildStderr>, tail: &mut Vec<u8>) {
    let Some(stderr) = stderr else { return };
    let mut buffer = [0; 4 * 1024];
    while let Ok(read) = stderr.read(&mut buffer).await
        && read > 0
    {
        tail.extend_from_slice(&buffer[..read]);
        let surplus = tail.len().saturating_sub(MAX_STDERR_TAIL);
        tail.drain(..surplus);
    }
}
