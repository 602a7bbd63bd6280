//! Resolves the URL of a request, so that a token is sent to its own host only. Pure.

use qwen_base::{Code, Error, Result, display_url};
use url::Url;

/// The path and query of a request below the base URL of any account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The path below the base URL, such as `/chat/completions`.
    path: String,
    query: Option<String>,
}

impl Target {
    /// Resolves a URL below the base URL of the client or of an account. The result is joined to the base URL of the chosen
    /// account.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_ARGUMENT` for anything else.
    pub fn resolve(url: &str, own: &Url, accounts: impl IntoIterator<Item = Url>) -> Result<Self> {
        if let Some(path) = plain_path_below(url, own) {
            return Ok(Self { path: path.to_owned(), query: None });
        }
        let url = Url::parse(url).map_err(|error| {
            Error::new(
                Code::InvalidArgument,
                format!("input is not an absolute URL ({error}). Build it from the client's baseUrl."),
            )
        })?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::new(Code::InvalidArgument, "input must not hold a user name or password."));
        }
        let below =
            path_below(&url, own).or_else(|| accounts.into_iter().find_map(|base| path_below(&url, &base)));
        let path = below.ok_or_else(|| {
            let expected = display_url(own);
            let place = format!("{}://{}{}", url.scheme(), url.authority(), url.path());
            Error::new(
                Code::InvalidArgument,
                format!("input leads to {place}, which is not below this client's base URL {expected}. A Qwen token is sent to its own host alone."),
            )
        })?;
        Ok(Self { path: path.to_owned(), query: url.query().map(str::to_owned) })
    }

    /// Returns the URL below an account's base URL.
    #[must_use]
    pub fn url_below(&self, base: &Url) -> Url {
        let mut url = base.clone();
        url.set_path(&format!("{}{}", base.path().trim_end_matches('/'), self.path));
        url.set_query(self.query.as_deref());
        url
    }

    /// True for a chat completion.
    #[must_use]
    pub fn is_chat(&self) -> bool {
        self.path.trim_end_matches('/') == "/chat/completions"
    }
}

/// Returns the path below a base URL if no URL parser would change it. This is the usual case.
fn plain_path_below<'a>(url: &'a str, base: &Url) -> Option<&'a str> {
    let base = base.as_str();
    let path = url.strip_prefix(base.trim_end_matches('/'))?;
    let is_plain =
        path.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_'));
    (path.starts_with('/') && is_plain).then_some(path)
}

fn path_below<'a>(url: &'a Url, base: &Url) -> Option<&'a str> {
    if url.origin() != base.origin() {
        return None;
    }
    let rest = url.path().strip_prefix(base.path().trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolve(url: &str) -> Result<Target> {
        let own = Url::parse("https://dashscope.aliyuncs.com/compatible-mode/v1").unwrap();
        Target::resolve(url, &own, [Url::parse("https://portal.qwen.ai/v1").unwrap()])
    }

    fn sent_to(url: &str) -> Result<String> {
        let account = Url::parse("https://portal.qwen.ai/v1").unwrap();
        Ok(resolve(url)?.url_below(&account).to_string())
    }

    #[test]
    fn a_url_below_any_base_leads_to_the_base_of_the_chosen_account() {
        assert_eq!(
            sent_to("https://dashscope.aliyuncs.com/compatible-mode/v1/chat/completions?a=b#c").unwrap(),
            "https://portal.qwen.ai/v1/chat/completions?a=b"
        );
        assert_eq!(sent_to("https://portal.qwen.ai/v1/models").unwrap(), "https://portal.qwen.ai/v1/models");
        assert_eq!(sent_to("https://portal.qwen.ai/v1").unwrap(), "https://portal.qwen.ai/v1");
    }

    #[test]
    fn all_other_urls_are_refused() {
        for url in [
            "https://evil.example/v1/chat/completions",
            "http://portal.qwen.ai/v1/models",
            "https://portal.qwen.ai:444/v1/models",
            "https://portal.qwen.ai/v1/../admin",
            "https://portal.qwen.ai/v1%2e%2e/admin",
            "https://portal.qwen.ai/v10/models",
            "https://user@portal.qwen.ai/v1/models",
            "https://portal.qwen.ai.evil.example/v1/models",
            "/v1/models",
            "",
        ] {
            assert_eq!(sent_to(url).unwrap_err().code(), Code::InvalidArgument, "{url}");
        }
    }

    proptest! {
        #[test]
        fn a_plain_path_is_read_as_the_parser_reads_it(
            base in prop_oneof![
                Just("https://portal.qwen.ai/v1"), Just("https://portal.qwen.ai"), Just("http://[::1]:8080/a/v1/"),
            ],
            path in "[a-z/._%-]{0,12}",
        ) {
            let base = Url::parse(base).unwrap();
            let text = format!("{}{path}", base.as_str().trim_end_matches('/'));
            if let Some(plain) = plain_path_below(&text, &base) {
                let parsed = Url::parse(&text).unwrap();
                prop_assert_eq!(Some(plain), path_below(&parsed, &base));
            }
        }

        #[test]
        fn the_origin_is_always_the_accounts(path in ".{0,60}") {
            if let Ok(target) = resolve(&format!("https://portal.qwen.ai/v1{path}")) {
                let account = Url::parse("https://other.example:8443/compatible-mode/v1").unwrap();
                let url = target.url_below(&account);
                prop_assert_eq!(url.origin(), account.origin());
                prop_assert!(url.path().starts_with("/compatible-mode/v1"));
            }
        }
    }
}
