//! The HTTP client. It takes proxies and certificates from the environment map and detects dead connections early.

pub mod certificates;
pub mod decoding;
pub mod informational;
mod names;
pub mod proxy;
pub mod retry_after;

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use reqwest::Proxy;
use rustls::pki_types::CertificateDer;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use url::{Host, Url};

use self::certificates::read_certificates;
use self::decoding::decoded;
use self::names::{Names, UnknownProxy};
use self::proxy::{NamedProxy, Proxies};
use crate::blocking::blocking;
use crate::clock::Clock;
use crate::environment::Environment;
use crate::error::{Code, Error, Result};
use crate::events::{Event, EventKind, Events};
use crate::mutex::lock;
use crate::opaque_debug;

/// `User-Agent` of this package. Qwen's front end refuses requests without one.
pub const PRODUCT: &str = concat!("opencode-qwen-cli-auth/", env!("CARGO_PKG_VERSION"));

/// Idle connections are closed after this time, so that a change of networks leads to new ones.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// A silent connection is probed after this time and given up within twice this time.
const PROBE_INTERVAL: Duration = Duration::from_secs(8);

/// Settings of an [`Http`].
#[derive(Clone)]
pub struct HttpConfig {
    proxies: Arc<Proxies>,
    connect_timeout: Duration,
    root_certificates: Option<PathBuf>,
    extra_certificates: Option<PathBuf>,
}

opaque_debug!(HttpConfig, Http);

impl HttpConfig {
    /// Reads the proxy and certificate variables. [`HttpConfig::warnings`] reports unreadable values; they stop only
    /// the requests that need them.
    #[must_use]
    pub fn from_environment(environment: &Environment, connect_timeout: Duration) -> Self {
        Self {
            proxies: Arc::new(Proxies::from_environment(environment)),
            connect_timeout,
            root_certificates: environment.get("SSL_CERT_FILE").map(PathBuf::from),
            extra_certificates: environment.get("NODE_EXTRA_CA_CERTS").map(PathBuf::from),
        }
    }

    /// Returns the rules that choose a proxy.
    #[must_use]
    pub fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// Returns a message for each unreadable proxy variable.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.proxies.warnings().iter().map(|warning| warning.message.clone())
    }
}

/// A lazily built HTTP client. It never follows redirects.
pub struct Http {
    config: HttpConfig,
    client: Mutex<Arc<OnceCell<Built>>>,
    /// Receives one event for each problem with a certificate file.
    events: Option<(Events, Clock)>,
}

struct Built {
    client: reqwest::Client,
    /// Set if no certificate is trusted.
    roots_problem: Option<Error>,
}

impl Http {
    /// Opens nothing until the first request.
    #[must_use]
    pub fn new(config: HttpConfig) -> Self {
        Self { config, client: Mutex::default(), events: None }
    }

    /// Reports problems with certificate files as events.
    #[must_use]
    pub fn telling(self, events: Events, clock: Clock) -> Self {
        Self { events: Some((events, clock)), ..self }
    }

    /// Returns the client for requests to this URL, building it at the first call.
    ///
    /// # Errors
    /// `ERR_QWEN_INVALID_CONFIG` if the request needs a proxy variable or `SSL_CERT_FILE` that can't be read.
    pub async fn client_for(&self, url: &Url) -> Result<reqwest::Client> {
        self.config.proxies.for_url(url)?;
        let client = Arc::clone(&lock(&self.client));
        let build = || async {
            let config = self.config.clone();
            // Certificate stores are files, on some systems hundreds of them.
            let (built, warnings) = blocking(move || build(&config)).await??;
            if let Some((events, clock)) = &self.events {
                for warning in warnings {
                    events.emit(Event::new(EventKind::Config, clock.now_ms(), warning.message().to_owned()));
                }
            }
            Ok(built)
        };
        let ready = client.get_or_try_init(build).await?;
        match &ready.roots_problem {
            Some(problem) if url.scheme() == "https" => Err(problem.clone()),
            _ => Ok(ready.client.clone()),
        }
    }

    /// Sends a request and reads its answer, all within `limit`.
    ///
    /// # Errors
    /// Those of [`Http::client_for`], and `ERR_QWEN_NETWORK` or `ERR_QWEN_TIMEOUT` if no answer came.
    pub async fn exchange(
        &self,
        request: reqwest::Request,
        limit: Duration,
        max_body: usize,
    ) -> Result<HttpAnswer> {
        let url = request.url().clone();
        let (client, host) = (self.client_for(&url).await?, url.host_str().unwrap_or_default());
        let ends_at = Instant::now() + limit;
        let no_answer = || TransportError::no_answer(host, limit).error;
        let response = timeout_at(ends_at, client.execute(request)).await.map_err(|_| no_answer())?;
        let mut response = decoded(response.map_err(|error| self.failure(&error, host).error)?);
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let read = async {
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                if body.len() + chunk.len() > max_body {
                    return Ok(None);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Some(body))
        };
        let body = match timeout_at(ends_at, read).await {
            Ok(body) => body.map_err(|error| TransportError::broken_body(&error, host).error),
            Err(_) => Err(no_answer()),
        };
        Ok(HttpAnswer { status, headers, body })
    }

    /// Classifies the failure of a request to `host`, and names the proxy if there was one.
    #[must_use]
    pub fn failure(&self, error: &reqwest::Error, host: &str) -> TransportError {
        let proxy = error.url().and_then(|url| self.config.proxies.for_url(url).ok().flatten());
        TransportError::new(error, host, proxy)
    }

    /// Closes idle connections now and the others after their last use. Later requests open new ones.
    pub fn close(&self) {
        *lock(&self.client) = Arc::default();
    }
}

/// The answer of [`Http::exchange`].
#[derive(Debug)]
pub struct HttpAnswer {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers of the answer.
    pub headers: HeaderMap,
    /// The decoded body, `None` if it is too large, or the error that ended it early.
    pub body: Result<Option<Vec<u8>>>,
}

/// Variables that [`HttpConfig`] reads.
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

type SharedSettings = ([Option<String>; VARIABLES.len()], Duration);

/// One [`Http`] for callers without a client, because reading the certificates costs more than their request. A change
/// of settings makes a new one.
#[derive(Default)]
pub struct SharedHttp(Mutex<Option<(SharedSettings, Arc<Http>)>>);

impl SharedHttp {
    /// Returns the client for these settings.
    #[must_use]
    pub fn get(&self, environment: &Environment, connect_timeout: Duration) -> Arc<Http> {
        let key = (VARIABLES.map(|name| environment.get(name).map(str::to_owned)), connect_timeout);
        let mut last = lock(&self.0);
        if let Some((_, http)) = last.as_ref().filter(|(known, _)| *known == key) {
            return Arc::clone(http);
        }
        let http = Arc::new(Http::new(HttpConfig::from_environment(environment, connect_timeout)));
        *last = Some((key, Arc::clone(&http)));
        http
    }
}

/// Builds the client. Also returns problems with certificate files.
fn build(config: &HttpConfig) -> Result<(Built, Vec<Error>)> {
    let Roots { store, problem: roots_problem, warnings } = roots(config);
    let names = config.proxies.all().into_iter().filter_map(|proxy| match proxy.url.host()? {
        Host::Domain(name) => Some((name.to_ascii_lowercase(), proxy.variable)),
        _ => None,
    });
    let names = Names { proxies: names.collect() };
    let proxies = Arc::clone(&config.proxies);
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls_config(store)?)
        .user_agent(PRODUCT)
        .dns_resolver(names)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // `HttpConfig` has read the environment map; reqwest must not read the process's own.
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
    let builder = builder.tcp_user_timeout(PROBE_INTERVAL * 2);
    // A proxy rule costs each request two parsed URLs.
    let builder = if proxies.all().is_empty() {
        builder
    } else {
        // `Http::client_for` refuses requests whose proxy variable can't be read.
        builder.proxy(Proxy::custom(move |url| Some(proxies.for_url(url).ok().flatten()?.url.clone())))
    };
    let client = builder.build().map_err(|error| Error::internal(describe(&error)))?;
    Ok((Built { client, roots_problem }, warnings))
}

struct Roots {
    store: rustls::RootCertStore,
    /// Set if no certificate is trusted.
    problem: Option<Error>,
    warnings: Vec<Error>,
}

/// `SSL_CERT_FILE` replaces the system's roots, even if nothing in it can be read. `NODE_EXTRA_CA_CERTS` adds to them.
fn roots(config: &HttpConfig) -> Roots {
    let mut store = rustls::RootCertStore::empty();
    let (mut problem, mut warnings) = (None, Vec::new());
    if let Some(path) = &config.root_certificates {
        let file = read_certificates("SSL_CERT_FILE", path);
        let is_empty = file.certificates.is_empty();
        store.add_parsable_certificates(file.certificates);
        if is_empty { problem = file.problem } else { warnings.extend(file.problem) }
    } else {
        store.add_parsable_certificates(system_certificates());
        if store.is_empty() {
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
    }
    if let Some(path) = &config.extra_certificates {
        let file = read_certificates("NODE_EXTRA_CA_CERTS", path);
        store.add_parsable_certificates(file.certificates);
        warnings.extend(file.problem);
    }
    Roots { store, problem, warnings }
}

fn tls_config(roots: rustls::RootCertStore) -> Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::internal)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

#[cfg(all(unix, not(target_os = "macos")))]
fn system_certificates() -> Vec<CertificateDer<'static>> {
    // `load_native_certs` would read the process's SSL_CERT_FILE, so the usual paths are read directly.
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

/// A request that got no usable answer.
#[derive(Debug, Clone)]
pub struct TransportError {
    /// The error for the caller.
    pub error: Error,
    /// True if the request failed before any byte was sent.
    pub before_send: bool,
}

impl TransportError {
    /// Classifies the error of a body that broke off.
    #[must_use]
    pub fn broken_body(error: &reqwest::Error, host: &str) -> Self {
        Self { before_send: false, ..Self::new(error, host, None) }
    }

    /// Leaves out the URL, because its query may contain secrets.
    fn new(error: &reqwest::Error, host: &str, proxy: Option<&NamedProxy>) -> Self {
        let before_send = error.is_connect() || error.is_builder();
        let reason = describe(error);
        let (route, check) = match proxy {
            Some(proxy) => (format!("{host} through {proxy}"), proxy.variable),
            None => (host.to_owned(), "the network, DNS and proxy"),
        };
        let (code, message) = if let Some(UnknownProxy { host, variable }) = unknown_proxy(error) {
            let message = format!(
                "The proxy {host} (set in {variable}) could not be found: its name does not resolve. Correct {variable} or unset it, then try again."
            );
            (Code::Network, message)
        } else if error.is_timeout() {
            (
                Code::Timeout,
                format!("{route} could not be reached in time ({reason}). Check {check}, then try again."),
            )
        } else if before_send {
            (Code::Network, format!("Could not connect to {route}: {reason}. Check {check}, then try again."))
        } else {
            (Code::Network, format!("The connection to {host} broke: {reason}. Try again."))
        };
        Self { error: Error::new(code, message).retryable(), before_send }
    }

    /// Creates the error for an answer that did not arrive in time. Informational responses (1xx) don't count as
    /// answers.
    #[must_use]
    pub fn no_answer(host: &str, limit: Duration) -> Self {
        let message = format!(
            "{host} gave no answer for {} s. Check the network, then try again.",
            limit.as_secs_f64()
        );
        Self { error: Error::new(Code::Timeout, message).retryable(), before_send: false }
    }

    /// Creates the error for a server that sends informational responses in place of an answer. Another try would meet the same.
    #[must_use]
    pub fn flood(host: &str) -> Error {
        let message = format!(
            "{host} sends informational responses (1xx) without end and no answer. Check the base URL and the proxy."
        );
        Error::new(Code::InvalidResponse, message)
    }

    /// Creates the error for a body that stopped arriving.
    #[must_use]
    pub fn timeout(host: &str, limit: Duration) -> Self {
        let message =
            format!("{host} sent nothing for {} s. Check the network, then try again.", limit.as_secs_f64());
        Self { error: Error::new(Code::Timeout, message).retryable(), before_send: false }
    }
}

fn unknown_proxy(error: &reqwest::Error) -> Option<&UnknownProxy> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        source = cause.source();
    }
    None
}

/// Returns the innermost causes of an HTTP error. The outer messages only repeat the URL.
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

/// Replaces hyper's parser errors for a connection that the server closed too early.
fn in_plain_words(reason: String) -> String {
    let was_closed = ["unexpected EOF", "before message completed", "before message length reached"];
    if was_closed.iter().any(|text| reason.contains(text)) {
        return "the server closed it early".to_owned();
    }
    reason
}

/// True if a secret may be sent to this URL: https, or http on loopback.
#[must_use]
pub fn is_secure(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => is_loopback(url),
        _ => false,
    }
}

/// True for a loopback URL: 127.0.0.0/8, `::1`, `localhost` and its subdomains.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => is_loopback_name(name),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// True for `localhost` and its subdomains (RFC 6761 section 6.3).
fn is_loopback_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_allowed_for_loopback_only() {
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
    fn connections_are_shared_while_the_settings_are_the_same() {
        let shared = SharedHttp::default();
        let get = |pairs: &[(&str, &str)], seconds| {
            shared.get(&pairs.iter().copied().collect(), Duration::from_secs(seconds))
        };
        let first = get(&[("HOME", "/a")], 1);
        assert!(Arc::ptr_eq(&first, &get(&[("HOME", "/b"), ("HTTP_PROXY", "")], 1)));
        let proxied = get(&[("HTTP_PROXY", "localhost:9")], 1);
        assert!(!Arc::ptr_eq(&first, &proxied));
        assert!(!Arc::ptr_eq(&proxied, &get(&[("HTTP_PROXY", "localhost:9")], 2)));
    }
}
