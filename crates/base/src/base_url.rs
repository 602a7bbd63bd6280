//! Reads API base URLs as tokens and users give them.

use url::{Host, Url};

use crate::http::is_secure;

/// Base URL of an account whose token names no host.
pub const DEFAULT_API_BASE_URL: &str = "https://dashscope.aliyuncs.com/compatible-mode/v1";

/// Paths of full endpoints that users paste in place of a base URL.
const ENDPOINT_PATHS: [&str; 5] =
    ["/chat/completions", "/completions", "/embeddings", "/responses", "/models"];
/// Words that are not hosts: programs write them for a missing host, and users to turn an option on or off.
const NO_HOSTS: [&str; 12] =
    ["null", "undefined", "none", "nan", "http", "https", "true", "false", "on", "off", "yes", "no"];
const NAMES_NO_HOST: &str = "names no host";

/// Returns the base URL of an API host: `portal.qwen.ai` becomes `https://portal.qwen.ai/v1`. The paths of Qwen's and
/// Alibaba's own hosts are known and replace any other path. On other hosts, the path of a full endpoint is cut off.
///
/// # Errors
/// Returns why a token may not be sent to this host. The reason completes "… is not usable: it …".
pub fn api_base_url(text: &str) -> Result<Url, &'static str> {
    let mut url = host_url(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("holds a query or fragment");
    }
    let path = match url.host_str().and_then(path_on) {
        Some(path) => path.to_owned(),
        None => versioned(url.path()),
    };
    url.set_path(&path);
    Ok(url)
}

/// Parses a URL that a secret may be sent to. `https://` may be missing, and the scheme may be followed by one slash or
/// none.
///
/// # Errors
/// Same as [`api_base_url`].
pub fn host_url(text: &str) -> Result<Url, &'static str> {
    let text = text.trim();
    let url = Url::parse(&absolute(text)?).map_err(|_| "is not a URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password");
    }
    if !is_secure(&url) {
        return Err("must be https (plain http is allowed for loopback only)");
    }
    if names_host(&url) { Ok(url) } else { Err(NAMES_NO_HOST) }
}

fn names_host(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => !name.is_empty() && !NO_HOSTS.contains(&name),
        // A URL parser reads the number 1 as the address 0.0.0.1. No server has an address in this block.
        Some(Host::Ipv4(address)) => address.octets()[0] != 0,
        Some(Host::Ipv6(address)) => !address.is_unspecified(),
        None => false,
    }
}

fn absolute(text: &str) -> Result<String, &'static str> {
    let lower = text.to_ascii_lowercase();
    let scheme = ["https:", "http:"].into_iter().find(|scheme| lower.starts_with(scheme));
    let Some(scheme) = scheme else {
        return Ok(if text.contains("://") { text.to_owned() } else { format!("https://{text}") });
    };
    let rest = &text[scheme.len()..];
    let host = rest.trim_start_matches(['/', '\\']);
    // `https:///v1` has a path but no host. A URL parser would read the path as the host.
    if host.is_empty() || rest.len() - host.len() > 2 {
        return Err(NAMES_NO_HOST);
    }
    Ok(format!("{scheme}//{host}"))
}

/// Returns the path of the OpenAI-compatible API on Qwen's and Alibaba's own hosts.
fn path_on(host: &str) -> Option<&'static str> {
    if host.trim_end_matches('.') == "portal.qwen.ai" { Some("/v1") } else { plan_path_on(host) }
}

/// True for the API hosts of plans. On other hosts of Alibaba Cloud, such as those of Function Compute, its customers run
/// their own programs.
#[must_use]
pub fn is_plan_host(host: &str) -> bool {
    plan_path_on(host).is_some()
}

fn plan_path_on(host: &str) -> Option<&'static str> {
    let name = host.trim_end_matches('.').strip_suffix(".aliyuncs.com")?;
    let (subdomain, name) = name.rsplit_once('.').unwrap_or(("", name));
    if name == "dashscope" && (subdomain == "coding" || subdomain.starts_with("coding-")) {
        return Some("/v1");
    }
    let is_compatible = match subdomain {
        "" => name == "dashscope" || name.starts_with("dashscope-"),
        _ => name == "dashscope" || name == "maas",
    };
    is_compatible.then_some("/compatible-mode/v1")
}

fn versioned(path: &str) -> String {
    let mut path = path.trim_end_matches('/');
    let ends_with = |path: &str, end: &str| {
        path.len()
            .checked_sub(end.len())
            .and_then(|at| path.get(at..))
            .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
    };
    while let Some(end) = ENDPOINT_PATHS.into_iter().find(|end| ends_with(path, end)) {
        path = path[..path.len() - end.len()].trim_end_matches('/');
    }
    if ends_with(path, "/v1") { path.to_owned() } else { format!("{path}/v1") }
}

/// Formats a base URL without the trailing slash that `Url` prints.
#[must_use]
pub fn display_url(url: &Url) -> String {
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
            ("https:/portal.qwen.ai", "https://portal.qwen.ai/v1"),
            ("https:portal.qwen.ai:8443", "https://portal.qwen.ai:8443/v1"),
            ("HTTPS://PORTAL.QWEN.AI/V1", "https://portal.qwen.ai/v1"),
            ("portal.qwen.ai/v1/chat/completions/", "https://portal.qwen.ai/v1"),
            ("Gateway.example:8443/Qwen/V1/chat/completions", "https://gateway.example:8443/Qwen/V1"),
            ("http://localhost:4000/chat/completions", "http://localhost:4000/v1"),
        ] {
            assert_eq!(api_base_url(text).as_ref().map(Url::as_str), Ok(expected), "{text}");
        }
    }

    #[test]
    fn the_paths_of_alibabas_hosts_are_known() {
        for (text, path) in [
            ("dashscope-intl.aliyuncs.com", "/compatible-mode/v1"),
            ("https://dashscope.aliyuncs.com/v1", "/compatible-mode/v1"),
            ("https://dashscope-us.aliyuncs.com/api/v1/", "/compatible-mode/v1"),
            ("cn-hongkong.dashscope.aliyuncs.com", "/compatible-mode/v1"),
            ("ws-1.eu-central-1.maas.aliyuncs.com/v1/chat/completions", "/compatible-mode/v1"),
            ("https://coding.dashscope.aliyuncs.com/apps/anthropic", "/v1"),
            ("coding-intl.dashscope.aliyuncs.com", "/v1"),
            ("https://DASHSCOPE-INTL.aliyuncs.com:443", "/compatible-mode/v1"),
            ("dashscope.aliyuncs.com.evil.example", "/v1"),
            ("oss.aliyuncs.com/mine", "/mine/v1"),
        ] {
            assert_eq!(api_base_url(text).unwrap().path(), path, "{text}");
        }
    }

    #[test]
    fn hosts_of_alibabas_customers_are_not_plan_hosts() {
        for host in
            ["dashscope-intl", "cn-hongkong.dashscope", "coding-intl.dashscope", "ws-1.eu-central-1.maas"]
        {
            assert!(is_plan_host(&format!("{host}.aliyuncs.com")), "{host}");
            assert!(!is_plan_host(&format!("{host}.aliyuncs.com.evil.example")), "{host}");
        }
        for host in
            ["1.cn-hangzhou.fc", "x.pai-eas", "dashscope-1.oss-cn-beijing", "dashscope.x", "maas", "x-maas"]
        {
            assert!(!is_plan_host(&format!("{host}.aliyuncs.com")), "{host}");
        }
        assert!(!is_plan_host("portal.qwen.ai") && !is_plan_host("xdashscope.aliyuncs.com"));
    }

    #[test]
    fn a_host_that_must_not_get_a_token_is_refused() {
        for text in [
            "http://portal.qwen.ai",
            "ftp://portal.qwen.ai",
            "https://u:p@portal.qwen.ai",
            "https://portal.qwen.ai/?a=b",
            "https://",
            "https:///v1",
            "https:",
            "https:////portal.qwen.ai",
            "https://https://portal.qwen.ai",
            "null",
            "undefined",
            "https://null/v1",
            "false",
            "True",
            "https://off/v1",
            "on",
            "no",
            "yes",
            "0",
            "1",
            "0.0.0.0:8080",
            "https://[::]/v1",
            "",
            "a b",
        ] {
            assert!(api_base_url(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn accepted_urls_are_secure_and_stable(text in ".{0,40}") {
            if let Ok(url) = api_base_url(&text) {
                prop_assert!(is_secure(&url));
                prop_assert_eq!(api_base_url(url.as_str()).unwrap(), url);
            }
        }
    }
}
