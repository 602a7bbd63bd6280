//! Request and response headers. Pure.

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName,
    HeaderValue, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};

use crate::accounts::kind::Kind;
use crate::error::{Code, Error, Result};
use crate::secret::Secret;

/// How this package names itself to the API.
pub const PRODUCT: &str = concat!("opencode-qwen-cli-auth/", env!("CARGO_PKG_VERSION"));

/// Belong to one connection or to our own client, never to the caller.
const NOT_FORWARDED: [HeaderName; 10] = [
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// So many headers are ours.
const ADDED: usize = 6;

/// Reads the caller's headers.
///
/// # Errors
/// `ERR_QWEN_INVALID_ARGUMENT` naming the header, never its value.
pub fn read<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::try_from(name.as_ref()).map_err(|_| {
            Error::new(Code::InvalidArgument, "headers holds a name that is no valid HTTP header name.")
        })?;
        let value = HeaderValue::from_bytes(&latin1(value.as_ref().trim()).unwrap_or_default())
            .ok()
            .filter(|_| latin1(value.as_ref()).is_some())
            .ok_or_else(|| {
                Error::new(
                    Code::InvalidArgument,
                    format!("headers.{name} holds characters that no HTTP header may."),
                )
            })?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// A fetch header value is a byte string: one byte a character.
fn latin1(value: &str) -> Option<Vec<u8>> {
    value.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// The headers of an attempt: the caller's, and over them what Qwen expects.
///
/// # Errors
/// `ERR_QWEN_INTERNAL` where the token is no header value; tokens are checked when they are read.
pub fn for_attempt(callers: &HeaderMap, access_token: &Secret, kind: Kind) -> Result<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(callers.len() + ADDED);
    for (name, value) in callers.iter().filter(|(name, _)| !NOT_FORWARDED.contains(name)) {
        headers.append(name.clone(), value.clone());
    }
    let mut authorization = HeaderValue::try_from(format!("Bearer {}", access_token.expose()))
        .map_err(|_| Error::internal("a token is no header value"))?;
    authorization.set_sensitive(true);
    headers.insert(AUTHORIZATION, authorization);
    headers.insert(USER_AGENT, user_agent(callers, kind));
    headers.insert("x-dashscope-useragent", HeaderValue::from_static(PRODUCT));
    headers.insert("x-dashscope-authtype", HeaderValue::from_static(kind.auth_type()));
    if kind.takes_markers() {
        headers.insert("x-dashscope-cachecontrol", HeaderValue::from_static("enable"));
    }
    // Bodies pass through as they are, so the server must not compress them.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(headers)
}

/// Coding Plan serves only programs whose name it knows, so with a key the caller's own name stays in front of ours.
fn user_agent(callers: &HeaderMap, kind: Kind) -> HeaderValue {
    let ours = HeaderValue::from_static(PRODUCT);
    match callers.get(USER_AGENT) {
        Some(own) if kind != Kind::OAuth && !own.is_empty() => {
            HeaderValue::from_bytes(&[own.as_bytes(), b" ", PRODUCT.as_bytes()].concat()).unwrap_or(ours)
        }
        _ => ours,
    }
}

/// The headers that a caller gets to see.
#[must_use]
pub fn of_answer(mut headers: HeaderMap) -> HeaderMap {
    for name in [CONNECTION, TRANSFER_ENCODING, TRAILER, UPGRADE] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::KeyPlan;

    #[test]
    fn ours_win_and_others_stay() {
        let callers = read([
            ("authorization", "Bearer placeholder"),
            ("User-Agent", "ai-sdk"),
            ("accept-encoding", "gzip"),
            ("content-length", "5"),
            ("x-session-id", "s"),
            ("content-type", "application/json"),
        ])
        .unwrap();
        let headers = for_attempt(&callers, &Secret::new("t0ken"), Kind::OAuth).unwrap();
        assert_eq!(headers["authorization"], "Bearer t0ken");
        assert!(headers["authorization"].is_sensitive());
        assert_eq!(headers["user-agent"], PRODUCT);
        assert_eq!(headers["x-dashscope-authtype"], "qwen-oauth");
        assert_eq!(headers["accept-encoding"], "identity");
        assert!(!headers.contains_key("content-length"));
        assert_eq!(headers["x-session-id"], "s");
        assert_eq!(headers.get_all("authorization").iter().count(), 1);
    }

    #[test]
    fn a_key_says_that_it_is_one() {
        let headers = |kind| for_attempt(&HeaderMap::new(), &Secret::new("sk-1"), kind).unwrap();
        let of_plan = headers(Kind::Key(Some(KeyPlan::CodingPlan)));
        assert_eq!(of_plan["x-dashscope-authtype"], "openai");
        assert_eq!(
            (&of_plan["user-agent"], &of_plan["x-dashscope-cachecontrol"]),
            (&PRODUCT.parse().unwrap(), &"enable".parse().unwrap())
        );
        assert!(!headers(Kind::Key(None)).contains_key("x-dashscope-cachecontrol"));
        let callers = read([("user-agent", "opencode/1.18.33 runtime/bun/1.3")]).unwrap();
        let named = for_attempt(&callers, &Secret::new("sk-1"), Kind::Key(None)).unwrap();
        assert_eq!(named["user-agent"], format!("opencode/1.18.33 runtime/bun/1.3 {PRODUCT}"));
    }

    #[test]
    fn a_header_that_would_split_the_request_is_refused() {
        for (name, value) in
            [("x-a", "b\r\nx-evil: 1"), ("x-a", "b\0"), ("x a", "b"), ("", "b"), ("x-a\n", "\u{1f600}")]
        {
            let error = read([(name, value)]).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(!error.message().contains("evil"));
        }
        assert_eq!(read([("x-a", " caf\u{e9} ")]).unwrap()["x-a"].as_bytes(), b"caf\xe9");
    }
}
