//! A request made ready to be sent with any account, as often as it takes: its body is the same each time.

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap};
use url::Url;

use super::body::{Ids, shape};
use super::degrade::degrade;
use super::target::Target;
use crate::error::{Error, Result};

/// A larger body is shaped on a thread of its own, so that it does not hold up other requests.
const LARGE_BODY: usize = 64 * 1024;

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
#[derive(Debug, Clone)]
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

/// A request that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Where it goes below an account's base URL.
    pub target: Target,
    /// Its method.
    pub method: Method,
    /// The caller's headers.
    pub headers: HeaderMap,
    /// Its body, shaped.
    pub body: Option<Bytes>,
    /// How redirects are treated.
    pub redirect: Redirect,
    /// Whether it asks for a chat completion.
    pub is_chat: bool,
    /// Whether it asks for a stream of chat events.
    pub is_chat_stream: bool,
}

impl Prepared {
    /// Checks where a request leads, and shapes its body. With `ids` that is as the official CLI does it.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT`.
    pub async fn new(request: Request, bases: &[Url], ids: Option<Ids>) -> Result<Self> {
        let Request { url, method, mut headers, mut body, redirect, .. } = request;
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(Error::invalid_argument("method", "must not be CONNECT or TRACE"));
        }
        if body.is_some() && (method == Method::GET || method == Method::HEAD) {
            return Err(Error::invalid_argument("body", "must not be given with GET or HEAD"));
        }
        let target = Target::resolve(&url, bases)?;
        let mut is_chat = false;
        let mut is_chat_stream = false;
        if target.is_chat()
            && let Some(bytes) = &body
            && let Some(shaped) = off_thread(bytes.clone(), move |bytes| shape(bytes, ids.as_ref())).await?
        {
            is_chat = true;
            is_chat_stream = shaped.stream;
            body = Some(shaped.bytes.into());
        }
        if body.is_none() {
            headers.remove(CONTENT_TYPE);
        }
        Ok(Self { target, method, headers, body, redirect, is_chat, is_chat_stream })
    }

    /// The same request with a smaller payload; `None` where there is nothing to make smaller.
    ///
    /// # Errors
    /// `ERR_QWEN_INTERNAL`.
    pub async fn degraded(&self) -> Result<Option<Self>> {
        let Some(bytes) = self.body.clone().filter(|_| self.is_chat) else { return Ok(None) };
        let degraded = off_thread(bytes, degrade).await?;
        Ok(degraded.map(|bytes| Self { body: Some(bytes.into()), ..self.clone() }))
    }
}

async fn off_thread<T: Send + 'static>(
    bytes: Bytes,
    work: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<T> {
    if bytes.len() <= LARGE_BODY {
        return Ok(work(&bytes));
    }
    tokio::task::spawn_blocking(move || work(&bytes)).await.map_err(Error::internal)
}
