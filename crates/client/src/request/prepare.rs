//! A request made ready to be sent with any account, as often as it takes: its body is the same each time.

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap};
use qwen_accounts::Kind;
use qwen_base::{Error, Result, opaque_debug};

use super::target::Target;
use crate::chat::body::{BodyRules, Ids, Shaped, shape_body};
use crate::chat::degrade::{Degraded, LeftOut, degrade_body};

/// A larger body is shaped on a thread of its own, so that it does not hold up other requests.
const LARGE_BODY: usize = 64 * 1024;

/// Where a host names the agent that a request is made for. It is not sent on.
const AGENT_HEADER: &str = "x-qwen-agent";
/// Agents whose cut answer would take the place of a conversation, or of its name.
const WHOLE_AGENTS: [&str; 3] = ["compaction", "summary", "title"];

/// How redirects are treated, as in fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Redirect {
    /// Followed on the same origin; one to another origin is the answer.
    #[default]
    Follow,
    /// An error.
    Error,
    /// Always the answer.
    Manual,
}

/// A caller's request.
#[derive(Clone)]
pub struct Request {
    /// Below the client's base URL, or an account's.
    pub url: String,
    /// Any but CONNECT and TRACE.
    pub method: Method,
    /// The caller's headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Option<Bytes>,
    /// How redirects are treated.
    pub redirect: Redirect,
    /// The caller's clock, in minutes ahead of UTC: errors name times of day by it.
    pub utc_offset_minutes: i32,
}

opaque_debug!(Request, Prepared);

/// A request that is ready to be sent.
#[derive(Clone)]
pub struct Prepared {
    /// Where it goes below an account's base URL.
    pub target: Target,
    /// Its method.
    pub method: Method,
    /// The caller's headers.
    pub headers: HeaderMap,
    /// Its body, shaped for the first kind of account.
    pub body: Option<Bytes>,
    /// Its body for other kinds of accounts, where it differs.
    pub other_bodies: Vec<(Kind, Bytes)>,
    /// The model that a chat asks; empty where it names none.
    pub model: String,
    /// How redirects are treated.
    pub redirect: Redirect,
    /// Whether it asks for a chat completion.
    pub is_chat: bool,
    /// Whether it asks for a stream of chat events.
    pub is_chat_stream: bool,
    /// True where a smaller payload may be tried in its place.
    pub may_degrade: bool,
}

impl Prepared {
    /// Shapes the body of a request that leads to `target`. With `ids` that is as the official CLI does it. `kinds` are
    /// those of the accounts that may be asked.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT`.
    pub async fn new(request: Request, target: Target, ids: Option<Ids>, kinds: Vec<Kind>) -> Result<Self> {
        let Request { method, mut headers, mut body, redirect, .. } = request;
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(Error::invalid_argument("method", "must not be CONNECT or TRACE"));
        }
        if body.is_some() && (method == Method::GET || method == Method::HEAD) {
            return Err(Error::invalid_argument("body", "must not be given with GET or HEAD"));
        }
        let agent = headers.remove(AGENT_HEADER);
        let is_whole =
            agent.is_some_and(|agent| WHOLE_AGENTS.iter().any(|whole| agent.as_bytes() == whole.as_bytes()));
        let mut is_chat = false;
        let mut is_chat_stream = false;
        let mut model = String::new();
        let mut other_bodies = Vec::new();
        let shaped =
            |bytes: Bytes| off_thread(bytes.len(), move || shape_for_all(&bytes, ids.as_ref(), &kinds));
        if target.is_chat()
            && let Some(bytes) = &body
            && let Some((shaped, others)) = shaped(bytes.clone()).await?
        {
            is_chat = true;
            is_chat_stream = shaped.stream;
            model = shaped.model;
            body = Some(shaped.bytes.into());
            other_bodies = others;
        }
        if body.is_none() {
            headers.remove(CONTENT_TYPE);
        }
        let may_degrade = is_chat && !is_whole;
        Ok(Self {
            target,
            method,
            headers,
            body,
            other_bodies,
            model,
            redirect,
            is_chat,
            is_chat_stream,
            may_degrade,
        })
    }

    /// Its body for an account of this kind.
    #[must_use]
    pub fn body_for(&self, kind: Kind) -> Option<&Bytes> {
        let other = self.other_bodies.iter().find(|(of, _)| *of == kind).map(|(_, body)| body);
        other.or(self.body.as_ref())
    }

    /// The same request for an account of this kind with a smaller payload, and what that lacks; `None` where nothing can
    /// be left out.
    ///
    /// # Errors
    /// `ERR_QWEN_INTERNAL`.
    pub async fn degraded(&self, kind: Kind) -> Result<Option<(Self, LeftOut)>> {
        let Some(bytes) = self.body_for(kind).cloned().filter(|_| self.may_degrade) else { return Ok(None) };
        let degraded = off_thread(bytes.len(), move || degrade_body(&bytes)).await?;
        Ok(degraded.map(|Degraded { body, left_out }| {
            (Self { body: Some(body.into()), other_bodies: Vec::new(), ..self.clone() }, left_out)
        }))
    }
}

/// Shapes a body for every kind of account. Kinds with the same rules share one body: as a rule there is one.
fn shape_for_all(bytes: &Bytes, ids: Option<&Ids>, kinds: &[Kind]) -> Option<(Shaped, Vec<(Kind, Bytes)>)> {
    let mut kinds = kinds.iter().copied();
    let first = shape_body(bytes, ids, kinds.next().unwrap_or(Kind::OAuth))?;
    let mut others: Vec<(Kind, BodyRules, Bytes)> = Vec::new();
    for kind in kinds {
        let rules = BodyRules::of(kind, &first.model);
        if rules == first.rules || others.iter().any(|(known, ..)| *known == kind) {
            continue;
        }
        let same = others.iter().find(|(_, known, _)| *known == rules).map(|(.., body)| body.clone());
        let body = same.or_else(|| shape_body(bytes, ids, kind).map(|shaped| shaped.bytes.into()))?;
        others.push((kind, rules, body));
    }
    Some((first, others.into_iter().map(|(kind, _, body)| (kind, body)).collect()))
}

/// Does what takes time in proportion to `size`, in bytes.
///
/// # Errors
/// `ERR_QWEN_INTERNAL`.
pub async fn off_thread<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    if size <= LARGE_BODY {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)
}
