//! Answers chat requests with the qwen CLI, as a fallback.
//!
//! The CLI is an agent, but must not act as one here. It gets its own home without hooks, servers and memory, an empty
//! directory, no tools, and a prompt without commands and paths.

pub mod completion;
pub mod find;
pub mod home;
pub mod login;
pub mod output;
pub mod prompt;
pub mod run;
mod source;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use qwen_base::{Busy, Clock, Code, Environment, Error, Paths, Result, blocking, lock};
use tokio::sync::Semaphore;

use self::completion::Completion;
use self::find::Program;
use self::home::Workspace;
use self::output::CliEvent;
use self::run::{CliLimits, CliRequest, Job, Run};
use self::source::{CliSource, TURN_OFF, broken_off, oauth_ended};

/// Each run is a Node process of at least 150 MB.
const MAX_RUNS: usize = 2;

/// Answers chat requests by running the qwen CLI.
#[derive(Debug)]
pub struct CliFallback {
    environment: Arc<Environment>,
    paths: Paths,
    clock: Clock,
    limits: CliLimits,
    busy: Busy,
    runs: Arc<Semaphore>,
    /// Tools that newer versions have.
    more_tools: Mutex<Vec<String>>,
}

/// An answer of the CLI that has begun.
#[derive(Debug)]
pub struct CliAnswer {
    /// Value of the `Content-Type` header.
    pub content_type: &'static str,
    /// The body, which is still being written.
    pub body: CliBody,
}

/// The body of a chat completion. Dropping it stops the CLI.
#[derive(Debug)]
pub struct CliBody {
    ready: VecDeque<Bytes>,
    /// `None` after the CLI has been stopped.
    source: Option<CliSource>,
    completion: Completion,
    has_text: bool,
    is_whole: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CliLoginKind {
    /// Qwen's OAuth, which the CLI refuses since the free tier ended.
    OAuth,
    Key,
    None,
}

/// Reads the CLI's settings and the environment.
#[must_use]
pub fn logged_in_with(environment: &Environment, paths: &Paths) -> CliLoginKind {
    let login = home::login(environment, paths);
    if login.is_oauth() {
        CliLoginKind::OAuth
    } else if login.variables.iter().any(|(name, value)| name.ends_with("_API_KEY") && !value.is_empty())
        || !login.secrets().is_empty()
    {
        CliLoginKind::Key
    } else {
        CliLoginKind::None
    }
}

impl CliFallback {
    /// Creates the fallback without looking for the CLI. The CLI gets `environment` without unsafe variables.
    #[must_use]
    pub fn new(environment: Environment, paths: Paths, clock: Clock) -> Self {
        Self {
            environment: Arc::new(environment),
            paths,
            clock,
            limits: CliLimits::default(),
            busy: Busy::unobserved(),
            runs: Arc::new(Semaphore::new(MAX_RUNS)),
            more_tools: Mutex::default(),
        }
    }

    /// Sets other limits than the default.
    #[must_use]
    pub fn with_limits(mut self, limits: CliLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Makes the host wait while a CLI is stopped and its directories are removed.
    #[must_use]
    pub fn with_busy(mut self, busy: Busy) -> Self {
        self.busy = busy;
        self
    }

    /// Finds the CLI.
    ///
    /// # Errors
    /// `ERR_QWEN_CLI_NOT_FOUND`.
    pub fn find_cli(&self) -> Result<Program> {
        find::find_cli(&self.environment, &self.paths)
    }

    /// Answers a chat request with a JSON object, or with events if the request asks for a stream. Returns when the answer
    /// has begun, so that earlier failures are errors and not cut answers.
    ///
    /// # Errors
    /// `ERR_QWEN_CLI_NOT_FOUND`; `ERR_QWEN_CLI_FAILED` if the CLI can't answer; `ERR_QWEN_IO` if temporary files can't be
    /// created; `ERR_QWEN_INVALID_ARGUMENT` if the body is not a chat request.
    pub async fn complete(&self, body: &Bytes) -> Result<CliAnswer> {
        let request = self.prepare(body.clone()).await?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let mut completion = Completion::new(body, &id, self.clock.now_ms());
        let (mut source, model) = self.ask(&request).await?;
        if let Some(model) = model {
            completion.set_model(&model);
        }
        let first = match source.first().await {
            Ok(first) => first,
            Err(error) => return stopped(source, error).await,
        };
        let content_type = completion.content_type();
        if completion.stream {
            source.put_back(first);
            let (ready, source) = (VecDeque::from([completion.head()]), Some(source));
            let body = CliBody { ready, source, completion, has_text: false, is_whole: false };
            return Ok(CliAnswer { content_type, body });
        }
        match source.whole(first, &completion).await {
            Ok(whole) => {
                source.stop().await;
                let ready = VecDeque::from([whole]);
                let body = CliBody { ready, source: None, completion, has_text: true, is_whole: true };
                Ok(CliAnswer { content_type, body })
            }
            Err(error) => stopped(source, error).await,
        }
    }

    /// Finds the CLI and its login and writes the prompt, on a thread that may block.
    async fn prepare(&self, body: Bytes) -> Result<Arc<CliRequest>> {
        let (environment, paths) = (Arc::clone(&self.environment), self.paths.clone());
        let preparing = move || {
            let program = find::find_cli(&environment, &paths)?;
            let prompt = prompt::write_prompt(&body)?;
            let login = home::login(&environment, &paths);
            if login.is_oauth() {
                return Err(oauth_ended());
            }
            Ok(Arc::new(CliRequest { program, login, prompt }))
        };
        blocking(preparing).await?
    }

    /// Starts the CLI, and again if it offers tools that were not turned off.
    async fn ask(&self, request: &Arc<CliRequest>) -> Result<(CliSource, Option<String>)> {
        for is_last in [false, true] {
            let permit = Arc::clone(&self.runs).acquire_owned().await.map_err(Error::internal)?;
            let (environment, asked) = (Arc::clone(&self.environment), Arc::clone(request));
            let workspace = blocking(move || Workspace::create(&environment, &asked.login)).await??;
            let job = Job {
                request: Arc::clone(request),
                workspace,
                environment: Arc::clone(&self.environment),
                more_tools: lock(&self.more_tools).clone(),
                limits: self.limits,
                permit,
                busy: self.busy.clone(),
            };
            let run = Run::start(job)?;
            let mut source = CliSource::new(run, &request.login.secrets(), self.limits);
            let (model, tools) = match source.next_in_time().await {
                Ok(CliEvent::Started { model, tools }) => (model, tools),
                Ok(CliEvent::Failed(message)) => {
                    let error = source.failed(&message);
                    return stopped(source, error).await;
                }
                Ok(other) => {
                    source.put_back(other);
                    (None, Vec::new())
                }
                Err(error) => return stopped(source, error).await,
            };
            if tools.is_empty() {
                return Ok((source, model));
            }
            source.stop().await;
            if is_last {
                break;
            }
            lock(&self.more_tools).extend(tools);
        }
        Err(Error::new(
            Code::CliFailed,
            format!(
                "This version of the qwen CLI has tools that can't be turned off. Install another one, {TURN_OFF}."
            ),
        ))
    }
}

/// Stops the CLI and returns the error.
async fn stopped<T>(source: CliSource, error: Error) -> Result<T> {
    source.stop().await;
    Err(error)
}

impl CliBody {
    /// Returns the next bytes, or `None` at the end.
    ///
    /// # Errors
    /// `ERR_QWEN_CLI_FAILED` if the answer breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(bytes));
            }
            let Some(source) = &mut self.source else { return Ok(None) };
            if self.is_whole {
                self.stop().await;
                return Ok(None);
            }
            let failure = match source.next().await {
                Ok(CliEvent::Text(text)) => {
                    self.has_text = true;
                    self.ready.push_back(self.completion.text(&text));
                    continue;
                }
                Ok(CliEvent::Thought(thought)) => {
                    self.ready.push_back(self.completion.thought(&thought));
                    continue;
                }
                Ok(CliEvent::Finished(finish)) if self.has_text => {
                    self.ready.push_back(self.completion.tail(&finish));
                    self.is_whole = true;
                    continue;
                }
                Ok(CliEvent::Restarted) if self.has_text => {
                    broken_off("the connection to the model was lost")
                }
                Ok(CliEvent::Started { .. } | CliEvent::Restarted) => continue,
                Ok(CliEvent::Finished(_)) => broken_off("it ended with a thought"),
                Ok(CliEvent::Failed(message)) => broken_off(&source.quote(&message)),
                Err(error) => error,
            };
            self.stop().await;
            return Err(failure);
        }
    }

    async fn stop(&mut self) {
        if let Some(source) = self.source.take() {
            source.stop().await;
        }
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// As [`CliBody::next`].
    pub async fn collect(mut self) -> Result<Bytes> {
        let mut all = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }
}
