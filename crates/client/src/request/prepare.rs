//! Prepares a request, so that it can be sent with several accounts.

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap};
use qwen_accounts::Kind;
use qwen_base::{Error, Result, blocking, opaque_debug};

use super::target::Target;
use crate::chat::body::{BodyRules, Ids, Shaped, shape_body};
use crate::chat::degrade::{Degraded, LeftOut, degrade_body};

/// Largest body, in bytes, that is shaped on the async thread. A larger one would delay other requests.
const LARGE_BODY: usize = 64 * 1024;

/// Header in which a host names the agent or the kind of a request. It is removed.
const AGENT_HEADER: &str = "x-qwen-agent";
/// Agents whose requests must stay whole, since the answer replaces a conversation or its title.
const WHOLE_AGENTS: [&str; 3] = ["compaction", "summary", "title"];

/// The redirect mode of fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Redirect {
    /// Follows redirects on the same origin, and returns those to another origin.
    #[default]
    Follow,
    /// Fails on a redirect.
    Error,
    /// Returns every redirect.
    Manual,
}

/// A caller's request.
#[derive(Clone)]
pub struct Request {
    /// A URL below the base URL of the client or of an account.
    pub url: String,
    /// The method. CONNECT and TRACE are refused.
    pub method: Method,
    /// The caller's headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Option<Bytes>,
    /// The redirect mode.
    pub redirect: Redirect,
    /// Offset of the caller's time zone in minutes ahead of UTC, for times of day in messages.
    pub utc_offset_minutes: i32,
}

opaque_debug!(Request, Prepared);

/// A request that is ready to be sent.
#[derive(Clone)]
pub struct Prepared {
    pub target: Target,
    pub method: Method,
    /// The caller's headers.
    pub headers: HeaderMap,
    /// The body for the first kind of account.
    pub body: Option<Bytes>,
    /// The bodies for other kinds of accounts, if they differ.
    pub other_bodies: Vec<(Kind, Bytes)>,
    /// The model of a chat; empty if it names none.
    pub model: String,
    /// The redirect mode.
    pub redirect: Redirect,
    /// True for a chat completion.
    pub is_chat: bool,
    /// True for a chat completion as a stream.
    pub is_chat_stream: bool,
    /// True if a shorter request may be sent in its place.
    pub may_degrade: bool,
}

impl Prepared {
    /// Shapes the body of a request to `target`. With `ids` it is shaped as the official CLI does. `kinds` are the kinds of
    /// the enabled accounts. With `for_opencode` it comes from `OpenCode`.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT`.
    pub async fn new(
        request: Request,
        target: Target,
        ids: Option<Ids>,
        kinds: Vec<Kind>,
        for_opencode: bool,
    ) -> Result<Self> {
        let Request { method, mut headers, mut body, redirect, .. } = request;
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(Error::invalid_argument("method", "must not be CONNECT or TRACE"));
        }
        if body.is_some() && (method == Method::GET || method == Method::HEAD) {
            return Err(Error::invalid_argument("body", "must not be given with GET or HEAD"));
        }
        let agent = headers.remove(AGENT_HEADER);
        // A host that can't name the agent, such as OpenCode 1.0, may be asking for a summary.
        let may_be_cut = agent.map_or(!for_opencode, |agent| {
            WHOLE_AGENTS.iter().all(|whole| agent.as_bytes() != whole.as_bytes())
        });
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
        let may_degrade = is_chat && may_be_cut;
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

    /// Returns the body for an account of this kind.
    #[must_use]
    pub fn body_for(&self, kind: Kind) -> Option<&Bytes> {
        let other = self.other_bodies.iter().find(|(of, _)| *of == kind).map(|(_, body)| body);
        other.or(self.body.as_ref())
    }

    /// Returns a shorter request for an account of this kind, and the parts that it lacks; `None` if none may be sent.
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

/// Shapes a body for every kind of account. Kinds with the same rules share one body.
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

/// Runs work that takes time in proportion to `size`, in bytes, on another thread if it is large.
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
    blocking(work).await
}
