//! Request and response headers. Pure.

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName,
    HeaderValue, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use qwen_accounts::Kind;
use qwen_base::{Code, Error, Result, Secret};

pub use qwen_base::PRODUCT;

/// Headers that belong to the connection, so that those of the caller are dropped.
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

/// Number of headers that are added.
const ADDED: usize = 6;

/// Reads the caller's headers.
///
/// # Errors
/// `ERR_QWEN_INVALID_ARGUMENT` naming the header, never its value.
pub fn read<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::try_from(name.as_ref()).map_err(|_| {
            Error::new(Code::InvalidArgument, "headers contains an invalid HTTP header name.")
        })?;
        let value = HeaderValue::from_bytes(&latin1(value.as_ref().trim()).unwrap_or_default())
            .ok()
            .filter(|_| latin1(value.as_ref()).is_some())
            .ok_or_else(|| {
                Error::new(
                    Code::InvalidArgument,
                    format!("headers.{name} contains characters that are not allowed in an HTTP header."),
                )
            })?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Encodes a header value as Latin-1; fetch allows only characters up to U+00FF.
fn latin1(value: &str) -> Option<Vec<u8>> {
    value.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// Returns the headers of an attempt: the caller's, overridden by those that Qwen expects.
///
/// # Errors
/// `ERR_QWEN_INTERNAL` if the token is not a header value. Tokens are checked when they are read.
pub fn for_attempt(callers: &HeaderMap, access_token: &Secret, kind: Kind, host: &str) -> Result<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(callers.len() + ADDED);
    for (name, value) in callers.iter().filter(|(name, _)| !NOT_FORWARDED.contains(name)) {
        headers.append(name.clone(), value.clone());
    }
    let mut authorization = HeaderValue::try_from(format!("Bearer {}", access_token.expose()))
        .map_err(|_| Error::internal("a token is not a header value"))?;
    authorization.set_sensitive(true);
    headers.insert(AUTHORIZATION, authorization);
    headers.insert(USER_AGENT, user_agent(callers, kind));
    headers.insert("x-dashscope-useragent", HeaderValue::from_static(PRODUCT));
    headers.insert("x-dashscope-authtype", HeaderValue::from_static(kind.auth_type()));
    if kind == Kind::OAuth || is_alibaba(host) {
        headers.insert("x-dashscope-cachecontrol", HeaderValue::from_static("enable"));
    }
    // Compression delays the events of a stream. If a server compresses anyway, the body is decoded.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(headers)
}

/// Coding Plan only answers programs that it knows, so for a key the caller's name comes before ours.
fn user_agent(callers: &HeaderMap, kind: Kind) -> HeaderValue {
    let own = HeaderValue::from_static(PRODUCT);
    match callers.get(USER_AGENT) {
        Some(theirs) if kind != Kind::OAuth && !theirs.is_empty() => {
            HeaderValue::from_bytes(&[theirs.as_bytes(), b" ", PRODUCT.as_bytes()].concat()).unwrap_or(own)
        }
        _ => own,
    }
}

fn is_alibaba(host: &str) -> bool {
    host.ends_with(".aliyuncs.com")
}

/// Returns the headers for the caller, without those of the connection and those that only this package may set.
#[must_use]
pub fn of_answer(headers: &HeaderMap) -> HeaderMap {
    let is_of_connection =
        |name: &HeaderName| [CONNECTION, TRANSFER_ENCODING, TRAILER, UPGRADE].contains(name);
    let is_dropped = |name: &HeaderName| {
        is_of_connection(name) || name == "keep-alive" || name.as_str().starts_with("x-qwen-")
    };
    let kept = headers.iter().filter(|(name, _)| !is_dropped(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use qwen_base::KeyPlan;

    use super::*;

    #[test]
    fn headers_of_this_package_win_and_others_stay() {
        let callers = read([
            ("authorization", "Bearer placeholder"),
            ("User-Agent", "ai-sdk"),
            ("accept-encoding", "gzip"),
            ("content-length", "5"),
            ("x-session-id", "s"),
            ("content-type", "application/json"),
        ])
        .unwrap();
        let headers = for_attempt(&callers, &Secret::new("t0ken"), Kind::OAuth, "portal.qwen.ai").unwrap();
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
    fn a_key_has_its_own_auth_type_and_keeps_the_callers_user_agent() {
        let headers = |user_agent: &str, kind, host| {
            let callers = read([("user-agent", user_agent)]).unwrap();
            for_attempt(&callers, &Secret::new("sk-1"), kind, host).unwrap()
        };
        let key = Kind::Key(Some(KeyPlan::CodingPlan));
        let of_plan = headers("opencode/1.18.33 ai-sdk/5", key, "coding.dashscope.aliyuncs.com");
        assert_eq!(of_plan["x-dashscope-authtype"], "openai");
        assert_eq!(of_plan["user-agent"], format!("opencode/1.18.33 ai-sdk/5 {PRODUCT}"));
        assert_eq!(of_plan["x-dashscope-useragent"], PRODUCT);
        assert_eq!(of_plan["x-dashscope-cachecontrol"], "enable");
        let elsewhere = headers("", key, "aliyuncs.com.example");
        assert!(!elsewhere.contains_key("x-dashscope-cachecontrol"));
        assert_eq!(elsewhere["user-agent"], PRODUCT);
        assert_eq!(headers("mine", Kind::OAuth, "portal.qwen.ai")["user-agent"], PRODUCT);
    }

    #[test]
    fn a_server_cannot_set_a_header_of_this_package() {
        let sent =
            read([("x-qwen-error", "a"), ("X-Qwen-New", "b"), ("x-request-id", "c"), ("connection", "d")]);
        let kept = of_answer(&sent.unwrap());
        assert_eq!(kept.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-request-id"]);
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
