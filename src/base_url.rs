//! API base URLs, in the forms that tokens and users name them.

use url::Url;

use crate::http::is_secure;

/// Where an account's requests go if its token names no host.
pub const DEFAULT_API_BASE_URL: &str = "https://dashscope.aliyuncs.com/compatible-mode/v1";

/// The base URL of an API host: `portal.qwen.ai` becomes `https://portal.qwen.ai/v1`.
///
/// # Errors
/// Why the text names no host that a token may be sent to, to complete "… is not usable: it …".
pub fn api_base_url(text: &str) -> Result<Url, &'static str> {
    let text = text.trim();
    let absolute = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = Url::parse(&absolute).map_err(|_| "is not a URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("holds a query or fragment");
    }
    if !is_secure(&url) {
        return Err("must be https (plain http is for loopback alone)");
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let versioned = if path.ends_with("/v1") { path } else { format!("{path}/v1") };
    url.set_path(&versioned);
    Ok(url)
}

/// A base URL without the slash that `Url` would otherwise print.
#[must_use]
pub fn display(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_become_versioned_base_urls() {
        for (text, expected) in [
            ("portal.qwen.ai", "https://portal.qwen.ai/v1"),
            ("https://portal.qwen.ai", "https://portal.qwen.ai/v1"),
            ("https://portal.qwen.ai/v1//", "https://portal.qwen.ai/v1"),
            ("https://dashscope.aliyuncs.com/compatible-mode/v1", DEFAULT_API_BASE_URL),
            ("dashscope.aliyuncs.com/compatible-mode", DEFAULT_API_BASE_URL),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ] {
            assert_eq!(api_base_url(text).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn a_host_that_must_not_get_a_token_is_refused() {
        for text in [
            "http://portal.qwen.ai",
            "ftp://portal.qwen.ai",
            "https://u:p@portal.qwen.ai",
            "https://portal.qwen.ai/?a=b",
            "https://",
            "",
            "a b",
        ] {
            assert!(api_base_url(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_secure_and_stable(text in ".{0,40}") {
            if let Ok(url) = api_base_url(&text) {
                prop_assert!(is_secure(&url));
                prop_assert_eq!(api_base_url(url.as_str()).unwrap(), url);
            }
        }
    }
}
