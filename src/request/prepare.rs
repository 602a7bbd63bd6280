//! A request made ready to be sent with any account, as often as it takes: its body is the same each time.

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap};

use super::body::{Ids, shape};
use super::degrade::{Degraded, LeftOut, degrade};
use super::target::Target;
use crate::accounts::kind::Kind;
use crate::error::{Error, Result};
use crate::secret::opaque_debug;

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
    /// Its body, shaped.
    pub body: Option<Bytes>,
    /// Its body for servers that take no cache markers, where one of those may be asked.
    pub plain_body: Option<Bytes>,
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
    /// Shapes the body of a request that leads to `target`. With `ids` that is as the official CLI does it. `needs_plain` is
    /// whether a server may be asked that takes no cache markers.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT`.
    pub async fn new(request: Request, target: Target, ids: Option<Ids>, needs_plain: bool) -> Result<Self> {
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
        let mut plain_body = None;
        let shaped = |bytes: Bytes| {
            off_thread(bytes.len(), move || {
                let plain = needs_plain.then(|| shape(&bytes, ids.as_ref(), false)).flatten();
                shape(&bytes, ids.as_ref(), true).map(|shaped| (shaped, plain))
            })
        };
        if target.is_chat()
            && let Some(bytes) = &body
            && let Some((shaped, plain)) = shaped(bytes.clone()).await?
        {
            is_chat = true;
            is_chat_stream = shaped.stream;
            model = shaped.model;
            body = Some(shaped.bytes.into());
            plain_body = plain.map(|plain| plain.bytes.into());
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
            plain_body,
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
        let plain = self.plain_body.as_ref().filter(|_| !kind.takes_markers());
        plain.or(self.body.as_ref())
    }

    /// The same request for an account of this kind with a smaller payload, and what that lacks; `None` where nothing can
    /// be left out.
    ///
    /// # Errors
    /// `ERR_QWEN_INTERNAL`.
    pub async fn degraded(&self, kind: Kind) -> Result<Option<(Self, LeftOut)>> {
        let Some(bytes) = self.body_for(kind).cloned().filter(|_| self.may_degrade) else { return Ok(None) };
        let degraded = off_thread(bytes.len(), move || degrade(&bytes)).await?;
        Ok(degraded.map(|Degraded { body, left_out }| {
            (Self { body: Some(body.into()), plain_body: None, ..self.clone() }, left_out)
        }))
    }
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
