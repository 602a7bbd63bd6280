//! The fallback: a chat request answered by the qwen CLI, with whatever it is logged in with.
//!
//! The CLI is an agent. Here it is kept from acting as one: it gets a home of its own without hooks, servers and memory,
//! an empty directory, no tools, and a text in which nothing is a command or a path.

pub mod completion;
pub mod find;
pub mod home;
pub mod login;
pub mod output;
pub mod prompt;
pub mod redact;
pub mod run;
mod source;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;

use self::completion::Completion;
use self::find::Program;
use self::login::Login;
use self::output::Event;
use self::run::{Job, Limits, Run};
use self::source::{Source, TURN_OFF, broken_off, oauth_ended};
use crate::clock::Clock;
use crate::environment::Environment;
use crate::error::{Code, Error, Result};
use crate::paths::Paths;

/// Each is a Node process of 150 MB and more.
const MAX_RUNS: usize = 2;

/// Answers chat requests by running the qwen CLI.
#[derive(Debug)]
pub struct CliFallback {
    environment: Environment,
    paths: Paths,
    clock: Clock,
    limits: Limits,
    runs: Arc<Semaphore>,
    /// Tools that a version has which we did not know of.
    more_tools: Mutex<Vec<String>>,
}

/// An answer that has begun.
#[derive(Debug)]
pub struct CliAnswer {
    /// For the response's header.
    pub content_type: &'static str,
    /// What is still to be read.
    pub body: CliBody,
}

/// A chat completion, as it comes. Dropping it stops the CLI.
#[derive(Debug)]
pub struct CliBody {
    ready: VecDeque<Bytes>,
    /// `None` once the answer is whole.
    source: Option<Source>,
    completion: Completion,
    has_text: bool,
}

impl CliFallback {
    /// Looks for nothing yet. The environment is what the CLI gets, less what would lead it astray.
    #[must_use]
    pub fn new(environment: Environment, paths: Paths, clock: Clock) -> Self {
        Self {
            environment,
            paths,
            clock,
            limits: Limits::default(),
            runs: Arc::new(Semaphore::new(MAX_RUNS)),
            more_tools: Mutex::default(),
        }
    }

    /// Other limits than the usual ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Where the CLI is.
    ///
    /// # Errors
    /// `ERR_QWEN_CLI_NOT_FOUND`.
    pub fn find(&self) -> Result<Program> {
        find::find(&self.environment, &self.paths)
    }

    /// Answers a chat request: a JSON object, or events where the request asks for a stream. It returns once the model
    /// has begun to answer, so that what goes wrong before is an error and not a broken answer.
    ///
    /// # Errors
    /// `ERR_QWEN_CLI_NOT_FOUND`; `ERR_QWEN_CLI_FAILED` for all that keeps the CLI from answering; `ERR_QWEN_IO` where no
    /// temporary files can be made; `ERR_QWEN_INVALID_ARGUMENT` where the body is no chat request.
    pub async fn complete(&self, body: &[u8]) -> Result<CliAnswer> {
        let program = self.find()?;
        let prompt: Arc<str> = prompt::prompt(body)?.into();
        let login = home::login(&self.environment, &self.paths);
        if login.is_oauth() {
            return Err(oauth_ended());
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let mut completion = Completion::new(body, &id, self.clock.now_ms());
        let (mut source, model) = self.ask(&program, &login, &prompt).await?;
        if let Some(model) = model {
            completion.set_model(&model);
        }
        let first = source.first().await?;
        let (bytes, source) = if completion.stream {
            source.put_back(first);
            (completion.head(), Some(source))
        } else {
            (source.whole(first, &completion).await?, None)
        };
        let content_type = completion.content_type();
        let ready = VecDeque::from([bytes]);
        Ok(CliAnswer { content_type, body: CliBody { ready, source, completion, has_text: false } })
    }

    /// Starts the CLI, again if it turns out to have tools that are not turned off yet.
    async fn ask(
        &self,
        program: &Program,
        login: &Login,
        prompt: &Arc<str>,
    ) -> Result<(Source, Option<String>)> {
        for is_last in [false, true] {
            let permit = Arc::clone(&self.runs).acquire_owned().await.map_err(Error::internal)?;
            let more_tools = self.more_tools.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let run = Run::start(Job {
                program,
                environment: &self.environment,
                login,
                prompt: Arc::clone(prompt),
                more_tools: &more_tools,
                limits: self.limits,
                permit,
            })?;
            let mut source = Source::new(run, login.secrets(), self.limits);
            let (model, tools) = match source.next_in_time().await? {
                Event::Started { model, tools } => (model, tools),
                Event::Failed(message) => return Err(source.failed(&message)),
                other => {
                    source.put_back(other);
                    (None, Vec::new())
                }
            };
            if tools.is_empty() {
                return Ok((source, model));
            }
            if is_last {
                break;
            }
            self.more_tools.lock().unwrap_or_else(PoisonError::into_inner).extend(tools);
        }
        Err(Error::new(
            Code::CliFailed,
            format!(
                "This version of the qwen CLI has tools that can't be turned off. Install another one, {TURN_OFF}."
            ),
        ))
    }
}

impl CliBody {
    /// The next bytes, or `None` at the end.
    ///
    /// # Errors
    /// `ERR_QWEN_CLI_FAILED` where the answer breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(bytes));
            }
            let Some(source) = &mut self.source else { return Ok(None) };
            let failure = match source.next().await {
                Ok(Event::Text(text)) => {
                    self.has_text = true;
                    self.ready.push_back(self.completion.text(&text));
                    continue;
                }
                Ok(Event::Thought(thought)) => {
                    self.ready.push_back(self.completion.thought(&thought));
                    continue;
                }
                Ok(Event::Finished(finish)) if self.has_text => {
                    self.ready.push_back(self.completion.tail(&finish));
                    self.source = None;
                    continue;
                }
                Ok(Event::Restarted) if self.has_text => broken_off("the connection to the model was lost"),
                Ok(Event::Started { .. } | Event::Restarted) => continue,
                Ok(Event::Finished(_)) => broken_off("it ended with a thought"),
                Ok(Event::Failed(message)) => broken_off(&source.quote(&message)),
                Err(error) => error,
            };
            self.source = None;
            return Err(failure);
        }
    }

    /// Reads to the end.
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
