//! Reads proxies and their exceptions from the environment, as Node and curl do. Pure.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use super::is_loopback;
use crate::environment::Environment;
use crate::error::{Code, Error, Result};

/// Proxy variables for https and for plain http. The first readable one counts. As in Node and curl, lower-case names
/// come first.
const FOR_HTTPS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const FOR_HTTP: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
const FORMS: &str =
    "Set it to http://host:port, https://host:port, socks5://host:port or socks5h://host:port, or unset it.";
const SCHEMES: [&str; 6] = ["http", "https", "socks5", "socks5h", "socks4", "socks4a"];

/// A proxy and the variable that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedProxy {
    /// The name of the variable.
    pub variable: &'static str,
    /// The proxy's URL.
    pub url: Url,
}

/// Leaves out the user name and password.
impl fmt::Display for NamedProxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the proxy {}", self.url.host_str().unwrap_or_default())?;
        if let Some(port) = self.url.port_or_known_default() {
            write!(formatter, ":{port}")?;
        }
        write!(formatter, " ({})", self.variable)
    }
}

/// A proxy variable that can't be read.
#[derive(Debug, Clone)]
pub struct UnreadableProxy {
    /// The name of the variable.
    pub variable: &'static str,
    /// Message for the user, beginning with the variable.
    pub message: String,
    /// False if another variable serves the same requests.
    pub stops_requests: bool,
}

/// Chooses the proxy for each request.
#[derive(Clone, Default)]
pub struct Proxies {
    https: Choice,
    http: Choice,
    exceptions: Vec<Exception>,
    warnings: Vec<UnreadableProxy>,
}

crate::opaque_debug!(Proxies);

#[derive(Clone, Default)]
struct Choice {
    proxy: Option<NamedProxy>,
    /// The reason why a set variable can't be used.
    problem: Option<Error>,
}

impl Proxies {
    /// Reads the proxy variables.
    #[must_use]
    pub fn from_environment(environment: &Environment) -> Self {
        let mut warnings = Vec::new();
        let https = choose(environment, &FOR_HTTPS, &mut warnings);
        let http = choose(environment, &FOR_HTTP, &mut warnings);
        let exceptions = environment.first(&["no_proxy", "NO_PROXY"]).map(|(_, hosts)| hosts);
        let exceptions = exceptions.unwrap_or_default().split(|c: char| c == ',' || c.is_whitespace());
        Self { https, http, exceptions: exceptions.filter_map(Exception::read).collect(), warnings }
    }

    /// Returns the proxy for a request to this URL; `None` for a direct connection. Loopback is never proxied.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_CONFIG` if the only variables for the request can't be read. The error doesn't repeat their
    /// values, which may contain a password.
    pub fn for_url(&self, url: &Url) -> Result<Option<&NamedProxy>> {
        if is_loopback(url) || self.exceptions.iter().any(|exception| exception.matches(url)) {
            return Ok(None);
        }
        let choice = if url.scheme() == "http" { &self.http } else { &self.https };
        match (&choice.proxy, &choice.problem) {
            (None, Some(problem)) => Err(problem.clone()),
            (proxy, _) => Ok(proxy.as_ref()),
        }
    }

    /// Returns each proxy that may be used, once.
    #[must_use]
    pub fn all(&self) -> Vec<&NamedProxy> {
        if self.exceptions.contains(&Exception::Everything) {
            return Vec::new();
        }
        let mut all: Vec<&NamedProxy> = Vec::new();
        for proxy in self.https.proxy.iter().chain(&self.http.proxy) {
            if !all.contains(&proxy) {
                all.push(proxy);
            }
        }
        all
    }

    /// Returns the variables that can't be read and what is used instead.
    #[must_use]
    pub fn warnings(&self) -> &[UnreadableProxy] {
        &self.warnings
    }
}

fn choose(environment: &Environment, names: &[&'static str], warnings: &mut Vec<UnreadableProxy>) -> Choice {
    let mut unreadable = Vec::new();
    let mut proxy = None;
    for &variable in names {
        let Some(value) = environment.get(variable) else { continue };
        if let Some(url) = proxy_url(value) {
            proxy = Some(NamedProxy { variable, url });
            break;
        }
        unreadable.push(variable);
    }
    let problem = unreadable
        .first()
        .filter(|_| proxy.is_none())
        .map(|variable| Error::new(Code::InvalidConfig, format!("{variable} is not a proxy URL. {FORMS}")));
    for variable in unreadable {
        if !warnings.iter().any(|known| known.variable == variable) {
            let instead = match &proxy {
                Some(other) => format!("; {} is used instead", other.variable),
                None => String::new(),
            };
            let message = format!("{variable} is not a proxy URL{instead}. {FORMS}");
            warnings.push(UnreadableProxy { variable, message, stops_requests: proxy.is_none() });
        }
    }
    Choice { proxy, problem }
}

/// Reads a proxy's URL: quotes around it are dropped, `http://` may be missing, and `socks://` stands for SOCKS 5 with names
/// resolved by the proxy, as desktops export it.
fn proxy_url(value: &str) -> Option<Url> {
    let value = value.trim();
    let unquoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    let value = unquoted.unwrap_or(value).trim();
    let absolute = match value.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("socks") => format!("socks5h://{rest}"),
        Some(_) => value.to_owned(),
        None => format!("http://{value}"),
    };
    let url = Url::parse(&absolute).ok()?;
    let has_host = url.host_str().is_some_and(|host| !host.is_empty());
    (SCHEMES.contains(&url.scheme()) && has_host).then_some(url)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    /// `*`
    Everything,
    /// A host name with its subdomains, or only the subdomains if written `*.name`; with an optional port.
    Name { name: String, subdomains_only: bool, port: Option<u16> },
    /// One address, a block (`10.0.0.0/8`) or a range (`10.0.0.1-10.0.0.9`); with an optional port.
    Addresses { first: IpAddr, last: IpAddr, port: Option<u16> },
}

impl Exception {
    fn read(text: &str) -> Option<Self> {
        let text = text.trim().trim_matches(['"', '\'']).to_ascii_lowercase();
        let text = text.split_once("://").map_or(text.as_str(), |(_, rest)| rest).trim_end_matches('/');
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Self::Everything);
        }
        if let Some((first, last)) = addresses(text) {
            return Some(Self::Addresses { first, last, port: None });
        }
        let (host, port) = match text.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) => (host, Some(port)),
            _ => (text, None),
        };
        if let Some((first, last)) = addresses(host) {
            return Some(Self::Addresses { first, last, port });
        }
        let subdomains_only = host.starts_with("*.");
        let name = host.trim_start_matches('*').trim_start_matches('.').trim_end_matches('.').to_owned();
        (!name.is_empty()).then_some(Self::Name { name, subdomains_only, port })
    }

    fn matches(&self, url: &Url) -> bool {
        let is_port = |port: &Option<u16>| port.is_none() || *port == url.port_or_known_default();
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        match self {
            Self::Everything => true,
            Self::Addresses { first, last, port } => {
                address.is_some_and(|address| {
                    address.is_ipv4() == first.is_ipv4() && (*first..=*last).contains(&address)
                }) && is_port(port)
            }
            Self::Name { name, subdomains_only, port } => {
                let Some(Host::Domain(host)) = url.host() else { return false };
                let host = host.trim_end_matches('.');
                let above = host.strip_suffix(name.as_str());
                let is_name = above == Some("") && !subdomains_only;
                (is_name || above.is_some_and(|above| above.ends_with('.'))) && is_port(port)
            }
        }
    }
}

fn addresses(text: &str) -> Option<(IpAddr, IpAddr)> {
    let parse = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    if let Some((first, last)) = text.split_once('-') {
        return Some((parse(first)?, parse(last)?));
    }
    let Some((address, length)) = text.split_once('/') else { return parse(text).map(|one| (one, one)) };
    let length: u32 = length.parse().ok()?;
    match parse(address)? {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(length).unwrap_or(0);
            let bits = u32::from(address);
            (length <= 32).then_some((IpAddr::V4((bits & !host).into()), IpAddr::V4((bits | host).into())))
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(length).unwrap_or(0);
            let bits = u128::from(address);
            (length <= 128).then_some((IpAddr::V6((bits & !host).into()), IpAddr::V6((bits | host).into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies(pairs: &[(&str, &str)]) -> Proxies {
        Proxies::from_environment(&pairs.iter().copied().collect())
    }

    fn by(proxies: &Proxies, url: &str) -> Option<(&'static str, String)> {
        let proxy = proxies.for_url(&Url::parse(url).unwrap()).unwrap();
        proxy.map(|proxy| (proxy.variable, proxy.url.as_str().trim_end_matches('/').to_owned()))
    }

    const API: &str = "https://portal.qwen.ai/v1";

    #[test]
    fn the_first_variable_that_can_be_read_serves_the_request() {
        for (variables, variable, url) in [
            (&[("HTTPS_PROXY", "p:3128")][..], "HTTPS_PROXY", "http://p:3128"),
            (&[("all_proxy", "socks://127.0.0.1:7897/")], "all_proxy", "socks5h://127.0.0.1:7897"),
            (&[("all_proxy", "socks://a:1"), ("HTTPS_PROXY", "http://b:2")], "HTTPS_PROXY", "http://b:2"),
            (&[("HTTPS_PROXY", "gopher://u:hunter2@x"), ("ALL_PROXY", "c:3")], "ALL_PROXY", "http://c:3"),
            (&[("https_proxy", "'http://d:4'")], "https_proxy", "http://d:4"),
            (&[("https_proxy", "\"e:5\"")], "https_proxy", "http://e:5"),
            (&[("https_proxy", "f:6"), ("HTTPS_PROXY", "g:7")], "https_proxy", "http://f:6"),
            (&[("https_proxy", ""), ("HTTPS_PROXY", "g:7")], "HTTPS_PROXY", "http://g:7"),
            (&[("ALL_PROXY", "SOCKS5://[::1]:9")], "ALL_PROXY", "socks5://[::1]:9"),
        ] {
            assert_eq!(by(&proxies(variables), API), Some((variable, url.to_owned())), "{variables:?}");
        }
        assert_eq!(by(&proxies(&[("HTTP_PROXY", "p:1")]), API), None);
    }

    #[test]
    fn an_unreadable_variable_stops_only_the_requests_that_need_it() {
        let alone = proxies(&[("HTTPS_PROXY", "gopher://user:hunter2@proxy")]);
        let error = alone.for_url(&Url::parse(API).unwrap()).unwrap_err();
        assert_eq!(error.code(), Code::InvalidConfig);
        assert!(error.message().contains("HTTPS_PROXY") && !error.message().contains("hunter2"));
        assert_eq!(by(&alone, "http://127.0.0.1:8080/"), None);
        let beside = proxies(&[("HTTPS_PROXY", "gopher://user:hunter2@proxy"), ("ALL_PROXY", "p:1")]);
        let told = beside.warnings();
        assert_eq!(told.len(), 1);
        let message = &told[0].message;
        assert!(message.contains("HTTPS_PROXY") && message.contains("ALL_PROXY is used instead"));
        for nonsense in ["http://", "http://us er@:x:y", "socks://", "://"] {
            assert_eq!(proxies(&[("ALL_PROXY", nonsense)]).warnings().len(), 1, "{nonsense}");
        }
    }

    #[test]
    fn exceptions_are_read_as_in_node_and_curl() {
        for (exceptions, url, direct) in [
            ("*", API, true),
            ("example.com,*", API, true),
            ("qwen.ai", API, true),
            (".qwen.ai", API, true),
            ("*.qwen.ai", API, true),
            ("*.qwen.ai", "https://qwen.ai/", false),
            ("QWEN.AI", "https://qwen.ai./", true),
            ("wen.ai", API, false),
            ("portal.qwen.ai:443", API, true),
            ("portal.qwen.ai:8443", API, false),
            ("portal.qwen.ai:8443", "https://portal.qwen.ai:8443/v1", true),
            ("a.example portal.qwen.ai", API, true),
            ("a.example\tb.example,  portal.qwen.ai ,", API, true),
            ("https://portal.qwen.ai/", API, true),
            ("10.0.0.0/8", "https://10.2.3.4/", true),
            ("10.0.0.0/8", "https://11.2.3.4/", false),
            ("10.0.0.1-10.0.0.9", "https://10.0.0.5/", true),
            ("10.0.0.5:8443", "https://10.0.0.5:8443/", true),
            ("10.0.0.5:8443", "https://10.0.0.5/", false),
            ("fd00::/8", "https://[fd12::1]/", true),
            ("[fd12::1]:8443", "https://[fd12::1]:8443/", true),
            ("0.0.0.0/0", "https://10.0.0.5/", true),
            ("0.0.0.0/0", API, false),
            ("", API, false),
        ] {
            let proxies = proxies(&[("HTTPS_PROXY", "p:1"), ("NO_PROXY", exceptions)]);
            assert_eq!(by(&proxies, url).is_none(), direct, "{exceptions:?} {url}");
        }
    }

    #[test]
    fn loopback_is_never_proxied() {
        let proxies = proxies(&[("ALL_PROXY", "http://p:1")]);
        for url in [
            "http://127.0.0.1:1/",
            "http://127.9.9.9/",
            "http://[::1]/",
            "https://localhost/",
            "http://a.localhost/",
            "https://localhost./",
        ] {
            assert_eq!(by(&proxies, url), None, "{url}");
        }
        assert!(by(&proxies, "https://localhost.example/").is_some());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(value in "\\PC{0,40}", exceptions in "[*.:/0-9a-f, \\-\\[\\]]{0,40}") {
            let proxies = proxies(&[("ALL_PROXY", &value), ("NO_PROXY", &exceptions)]);
            let _ = proxies.for_url(&Url::parse(API).unwrap());
        }
    }
}
