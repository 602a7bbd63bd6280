//! The HTTP client: proxies and certificates from the environment map, dead connections found early.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::{NoProxy, Proxy, Response};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::OnceCell;
use url::{Host, Url};

use crate::environment::Environment;
use crate::error::{Code, Error, Result};
use crate::secret::opaque_debug;

/// A connection at rest is closed after this long, so that a new network is met with a new connection.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// A silent connection is probed after this long, and given up within twice that.
const PROBE_INTERVAL: Duration = Duration::from_secs(8);

/// The variables that name a proxy, each in its two spellings.
pub const PROXY_VARIABLES: [&[&str]; 3] =
    [&["HTTPS_PROXY", "https_proxy"], &["HTTP_PROXY", "http_proxy"], &["ALL_PROXY", "all_proxy"]];

type MakeProxy = fn(Url) -> reqwest::Result<Proxy>;

/// What a [`Http`] is made from.
#[derive(Clone)]
pub struct HttpConfig {
    proxies: Vec<Proxy>,
    connect_timeout: Duration,
    root_certificates: Option<PathBuf>,
    extra_certificates: Option<PathBuf>,
}

opaque_debug!(HttpConfig, Http);

impl HttpConfig {
    /// Reads the proxy and certificate variables.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_CONFIG` where a proxy variable holds no proxy URL. The value is not repeated: it may hold
    /// a password.
    pub fn from_environment(environment: &Environment, connect_timeout: Duration) -> Result<Self> {
        let leaves_out_all = leaves_out_all(environment);
        let exceptions = NoProxy::from_string(exceptions(environment));
        let mut proxies = Vec::new();
        let makers: [MakeProxy; 3] = [Proxy::https::<Url>, Proxy::http::<Url>, Proxy::all::<Url>];
        for (names, make) in PROXY_VARIABLES.into_iter().zip(makers) {
            let Some((name, value)) = environment.first(names) else { continue };
            let proxy = proxy_url(value).and_then(|url| make(url).ok()).ok_or_else(|| {
                Error::new(
                    Code::InvalidConfig,
                    format!("{name} is not a proxy URL. Set it to http://host:port, https://host:port or socks5://host:port, or unset it."),
                )
            })?;
            if !leaves_out_all {
                proxies.push(proxy.no_proxy(exceptions.clone()));
            }
        }
        Ok(Self {
            proxies,
            connect_timeout,
            root_certificates: environment.get("SSL_CERT_FILE").map(PathBuf::from),
            extra_certificates: environment.get("NODE_EXTRA_CA_CERTS").map(PathBuf::from),
        })
    }
}

fn exceptions(environment: &Environment) -> &str {
    environment.first(&["NO_PROXY", "no_proxy"]).map(|(_, hosts)| hosts).unwrap_or_default()
}

/// A lone asterisk is about names to the library, and about every host to everyone else.
fn leaves_out_all(environment: &Environment) -> bool {
    exceptions(environment).split(',').any(|host| host.trim() == "*")
}

/// The proxies that may be asked, by the variable that names them.
#[must_use]
pub fn proxies(environment: &Environment) -> Vec<(&'static str, Url)> {
    if leaves_out_all(environment) {
        return Vec::new();
    }
    let named = PROXY_VARIABLES.into_iter().filter_map(|names| environment.first(names));
    named.filter_map(|(name, value)| Some((name, proxy_url(value)?))).collect()
}

/// How many certificates the file has that `variable` names.
///
/// # Errors
/// `ERR_QWEN_INVALID_CONFIG` where it has none that can be used.
pub fn count_certificates(variable: &str, path: &std::path::Path) -> Result<usize> {
    let certificates = read_certificates(variable, path)?;
    let (usable, _) = rustls::RootCertStore::empty().add_parsable_certificates(certificates);
    if usable == 0 {
        let message = format!(
            "{variable} names {}, whose certificates can't be used. Point it at a PEM file, or unset it.",
            path.display()
        );
        return Err(Error::new(Code::InvalidConfig, message).with_path(path));
    }
    Ok(usable)
}

fn proxy_url(value: &str) -> Option<Url> {
    let value = value.trim();
    let absolute = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let url = Url::parse(&absolute).ok()?;
    let known = matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h" | "socks4" | "socks4a");
    (known && url.has_host()).then_some(url)
}

/// A lazily built HTTP client. Redirects are never followed, bodies are never decoded.
pub struct Http {
    config: HttpConfig,
    client: Mutex<Arc<OnceCell<reqwest::Client>>>,
}

impl Http {
    /// Nothing is opened until the first request.
    #[must_use]
    pub fn new(config: HttpConfig) -> Self {
        Self { config, client: Mutex::default() }
    }

    /// The client itself, built at the first call.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_CONFIG` where a certificate file cannot be read.
    pub async fn client(&self) -> Result<reqwest::Client> {
        let client = Arc::clone(&self.client.lock().unwrap_or_else(PoisonError::into_inner));
        let build = || async {
            let config = self.config.clone();
            // Certificate stores are files, hundreds of them on some systems.
            tokio::task::spawn_blocking(move || build(config)).await.map_err(Error::internal)?
        };
        client.get_or_try_init(build).await.cloned()
    }

    /// Closes the connections that are at rest, and the others as soon as nothing uses them. A later request makes new
    /// ones.
    pub fn close(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }
}

/// What an [`HttpConfig`] is read from.
const VARIABLES: [&str; 10] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
];

type Key = ([Option<String>; VARIABLES.len()], Duration);

/// One [`Http`] for callers that have no client: reading the certificates costs more than their request. It is made anew
/// where the settings have changed.
#[derive(Default)]
pub struct SharedHttp(Mutex<Option<(Key, Arc<Http>)>>);

impl SharedHttp {
    /// The one for these settings.
    ///
    /// # Errors
    /// As [`HttpConfig::from_environment`].
    pub fn get(&self, environment: &Environment, connect_timeout: Duration) -> Result<Arc<Http>> {
        let key = (VARIABLES.map(|name| environment.get(name).map(str::to_owned)), connect_timeout);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, http)) = last.as_ref().filter(|(known, _)| *known == key) {
            return Ok(Arc::clone(http));
        }
        let http = Arc::new(Http::new(HttpConfig::from_environment(environment, connect_timeout)?));
        *last = Some((key, Arc::clone(&http)));
        Ok(http)
    }
}

fn build(config: HttpConfig) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls_config(&config)?)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // The environment was read by `HttpConfig`; reqwest must not read the process's own.
        .no_proxy()
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(POOL_IDLE)
        .tcp_nodelay(true)
        .tcp_keepalive(PROBE_INTERVAL)
        .tcp_keepalive_interval(Duration::from_secs(3))
        .tcp_keepalive_retries(3)
        .http2_keep_alive_interval(PROBE_INTERVAL)
        .http2_keep_alive_timeout(PROBE_INTERVAL)
        .http2_keep_alive_while_idle(true)
        .http2_adaptive_window(true);
    #[cfg(target_os = "linux")]
    {
        builder = builder.tcp_user_timeout(PROBE_INTERVAL * 2);
    }
    for proxy in config.proxies {
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(|error| Error::internal(describe(&error)))
}

fn tls_config(config: &HttpConfig) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = &config.root_certificates {
        roots.add_parsable_certificates(read_certificates("SSL_CERT_FILE", path)?);
    } else {
        roots.add_parsable_certificates(system_certificates());
    }
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = &config.extra_certificates {
        roots.add_parsable_certificates(read_certificates("NODE_EXTRA_CA_CERTS", path)?);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::internal)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

fn read_certificates(variable: &str, path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>> {
    let unusable = |why: &dyn std::fmt::Display| {
        Error::new(
            Code::InvalidConfig,
            format!("{variable} names {}, which holds no readable certificates ({why}). Point it at a PEM file, or unset it.", path.display()),
        )
        .with_path(path)
    };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| unusable(&error))?;
    if certificates.is_empty() {
        return Err(unusable(&"it has no CERTIFICATE section"));
    }
    Ok(certificates)
}

#[cfg(all(unix, not(target_os = "macos")))]
fn system_certificates() -> Vec<CertificateDer<'static>> {
    // `load_native_certs` would look at the process's SSL_CERT_FILE; the known places are asked directly instead.
    const BUNDLES: [&str; 6] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
        "/usr/local/share/certs/ca-root-nss.crt",
    ];
    BUNDLES
        .iter()
        .map(|path| rustls_native_certs::load_certs_from_paths(Some(path.as_ref()), None).certs)
        .find(|certificates| !certificates.is_empty())
        .unwrap_or_default()
}

#[cfg(not(all(unix, not(target_os = "macos"))))]
fn system_certificates() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

/// A request that ended without a usable answer.
#[derive(Debug, Clone)]
pub struct TransportError {
    /// What to tell the caller.
    pub error: Error,
    /// Whether the failure came before any byte of the request was sent.
    pub before_send: bool,
}

impl TransportError {
    /// Classifies what reqwest reports, without the URL: it may hold secrets in its query.
    #[must_use]
    pub fn new(error: &reqwest::Error, host: &str) -> Self {
        let before_send = error.is_connect() || error.is_builder();
        let reason = describe(error);
        let error = if error.is_timeout() {
            Error::new(
                Code::Timeout,
                format!(
                    "{host} could not be reached in time ({reason}). Check the network or proxy, then try again."
                ),
            )
        } else if before_send {
            Error::new(
                Code::Network,
                format!(
                    "Could not connect to {host}: {reason}. Check the network, DNS and proxy, then try again."
                ),
            )
        } else {
            Error::new(Code::Network, format!("The connection to {host} broke: {reason}. Try again."))
        };
        Self { error: error.retryable(), before_send }
    }

    /// Nothing arrived within the time allowed.
    #[must_use]
    pub fn timeout(host: &str, limit: Duration) -> Self {
        let message =
            format!("{host} sent nothing for {} s. Check the network, then try again.", limit.as_secs_f64());
        Self { error: Error::new(Code::Timeout, message).retryable(), before_send: false }
    }
}

/// The innermost causes of an HTTP error; its outer texts only repeat the URL.
fn describe(error: &reqwest::Error) -> String {
    let mut reasons = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        source = cause.source();
        let text = in_plain_words(cause.to_string());
        if source.is_none() || text.contains("dns") || text.contains("proxy") || text.contains("certificate")
        {
            reasons.push(text);
        }
    }
    reasons.dedup();
    if reasons.is_empty() { "no further reason was given".to_owned() } else { reasons.join(": ") }
}

/// What hyper says of a connection that the other side closed too early speaks of its parser.
fn in_plain_words(reason: String) -> String {
    let was_closed = ["unexpected EOF", "before message completed", "before message length reached"];
    if was_closed.iter().any(|text| reason.contains(text)) {
        return "the server closed it early".to_owned();
    }
    reason
}

/// Reads a body of at most `limit` bytes; `None` where it is larger.
///
/// # Errors
/// Whatever ended the body early.
pub async fn read_limited(response: &mut Response, limit: usize) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// `Retry-After` in milliseconds, from seconds or an HTTP date (RFC 9110 section 10.2.3).
#[must_use]
pub fn retry_after_ms(value: &str, now_ms: u64) -> Option<u64> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(value.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1000));
    }
    let date: SystemTime = httpdate::parse_http_date(value).ok()?;
    Some(crate::clock::epoch_ms(date).saturating_sub(now_ms))
}

/// Whether a secret may be sent to this URL: https, or http that does not leave the machine.
#[must_use]
pub fn is_secure(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => is_loopback(url),
        _ => false,
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        assert_eq!(retry_after_ms("7", 0), Some(7_000));
        assert_eq!(retry_after_ms(" 120 ", 0), Some(120_000));
        assert_eq!(retry_after_ms("Thu, 01 Jan 1970 00:01:00 GMT", 20_000), Some(40_000));
        assert_eq!(retry_after_ms("Thu, 01 Jan 1970 00:01:00 GMT", 90_000), Some(0));
        assert_eq!(retry_after_ms("99999999999999999999999", 0), Some(u64::MAX));
        for unreadable in ["", "-1", "1.5", "soon"] {
            assert_eq!(retry_after_ms(unreadable, 0), None, "{unreadable}");
        }
    }

    #[test]
    fn plain_http_is_for_loopback_alone() {
        for url in [
            "https://portal.qwen.ai/v1",
            "http://127.0.0.1:1/",
            "http://127.8.0.1/",
            "http://localhost/",
            "http://[::1]/",
        ] {
            assert!(is_secure(&Url::parse(url).unwrap()), "{url}");
        }
        for url in [
            "http://portal.qwen.ai/",
            "http://localhost.evil.example/",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
        ] {
            assert!(!is_secure(&Url::parse(url).unwrap()), "{url}");
        }
    }

    #[test]
    fn a_bad_proxy_is_named_but_not_repeated() {
        let environment: Environment = [("HTTPS_PROXY", "gopher://user:hunter2@proxy")].into_iter().collect();
        let error = HttpConfig::from_environment(&environment, Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.code(), Code::InvalidConfig);
        assert!(error.message().contains("HTTPS_PROXY"));
        assert!(!error.message().contains("hunter2"));
    }

    #[test]
    fn connections_are_shared_while_the_settings_are_the_same() {
        let shared = SharedHttp::default();
        let get = |pairs: &[(&str, &str)], seconds| {
            shared.get(&pairs.iter().copied().collect(), Duration::from_secs(seconds))
        };
        let first = get(&[("HOME", "/a")], 1).unwrap();
        assert!(Arc::ptr_eq(&first, &get(&[("HOME", "/b"), ("HTTP_PROXY", "")], 1).unwrap()));
        let proxied = get(&[("HTTP_PROXY", "localhost:9")], 1).unwrap();
        assert!(!Arc::ptr_eq(&first, &proxied));
        assert!(!Arc::ptr_eq(&proxied, &get(&[("HTTP_PROXY", "localhost:9")], 2).unwrap()));
        assert!(get(&[("HTTP_PROXY", "gopher://")], 1).is_err());
    }

    #[test]
    fn a_proxy_may_leave_out_its_scheme() {
        assert_eq!(proxy_url("proxy.example:3128").unwrap().as_str(), "http://proxy.example:3128/");
        assert_eq!(proxy_url("socks5://127.0.0.1:9").unwrap().scheme(), "socks5");
        assert!(proxy_url("http://").is_none());
    }
}
