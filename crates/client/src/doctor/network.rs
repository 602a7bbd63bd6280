//! Checks certificates, proxies, the OAuth server, the API hosts of the accounts, and the clock against the server's time.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use http::header::{DATE, HeaderMap, USER_AGENT};
use qwen_accounts::Kind;
use qwen_base::{
    Code, Environment, Error, Http, HttpAnswer, NamedProxy, Proxies, Result, Secret, display_url, epoch_ms,
    read_certificates,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::finding::{Finding, ours, ours_about, unset};
use super::settings::CheckedSettings;
use super::{Doctor, PATIENCE};
use crate::headers::{PRODUCT, for_attempt};
use crate::keys::check::{EndpointAnswer, Inquiry};
use crate::keys::input::CandidateEndpoint;
use crate::verdict::{Reading, RequestContext, Verdict};

const CERTIFICATES: &str = "certificates";
const PROXY: &str = "proxy";
const OAUTH: &str = "oauth-server";
const API: &str = "api";
const CLOCK: &str = "clock";

/// Largest allowed difference to the server's time.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// Largest part of an answer that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

#[derive(Debug)]
pub struct AskedAccount {
    pub id: String,
    pub label: String,
    pub kind: Kind,
    pub base_url: Url,
    /// Token, if it is valid now.
    pub access_token: Option<Secret>,
    /// True for a key that can be checked with a chat of one token: it is not cooling down and not known to be refused.
    pub is_to_be_proved: bool,
    /// True if another account works.
    pub has_alternative: bool,
}

pub async fn check(doctor: &Doctor, settings: &CheckedSettings, accounts: &[AskedAccount]) -> Vec<Finding> {
    let (Some(oauth), Some(config)) = (&settings.oauth, &settings.http) else {
        let message = "No server was asked, because the settings above can't be used.";
        return vec![Finding::warning(
            OAUTH,
            message,
            format!("Fix them, then run {} again", ours("doctor")),
        )];
    };
    let http = Http::new(config.clone());
    let proxies = config.proxies();
    let (mut findings, (oauth_finding, server_time), apis) = tokio::join!(
        check_proxies(proxies),
        ask_oauth_server(&http, &oauth.token_endpoint, proxies),
        join_all(accounts.iter().map(|account| ask_api(&http, account, proxies))),
    );
    findings.push(oauth_finding);
    let (apis, times): (Vec<_>, Vec<_>) = apis.into_iter().unzip();
    let server_time = server_time.or_else(|| times.into_iter().flatten().next());
    findings.extend(apis);
    findings.push(compare_clocks(server_time, doctor.clock.now_ms()));
    findings
}

async fn check_proxies(proxies: &Proxies) -> Vec<Finding> {
    let proxies = proxies.all();
    if proxies.is_empty() {
        return vec![Finding::ok(PROXY, "No proxy is used.")];
    }
    join_all(proxies.into_iter().map(|NamedProxy { variable, url }| async move {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(1080);
        let shown = format!("{}://{host}:{port}", url.scheme());
        let broken = |what: String| {
            Finding::broken(PROXY, format!("The proxy {shown} ({variable}) {what}"), unset(variable))
        };
        match timeout(PATIENCE, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(_)) => Finding::ok(PROXY, format!("The proxy {shown} ({variable}) accepts connections.")),
            Ok(Err(error)) => broken(format!("can't be reached: {error}.")),
            Err(_) => broken("does not answer.".to_owned()),
        }
    }))
    .await
}

async fn ask_oauth_server(http: &Http, endpoint: &Url, proxies: &Proxies) -> (Finding, Option<u64>) {
    let mut root = endpoint.clone();
    root.set_path("/");
    root.set_query(None);
    let shown = root.origin().ascii_serialization();
    match send(http, http::Method::HEAD, root.clone(), HeaderMap::new()).await {
        Ok(answer) => (Finding::ok(OAUTH, format!("The OAuth server {shown} answers.")), date(&answer)),
        Err(error) => (unreachable(OAUTH, &error, &root, proxies), None),
    }
}

async fn ask_api(http: &Http, account: &AskedAccount, proxies: &Proxies) -> (Finding, Option<u64>) {
    let shown = display_url(&account.base_url);
    let name = format!("The API of \"{}\" ({shown})", account.label);
    if let Some(key) = account.access_token.as_ref().filter(|_| account.is_to_be_proved) {
        return (prove(http, account, key, &name, proxies).await, None);
    }
    let answer = async {
        let url = Url::parse(&format!("{shown}/models")).map_err(Error::internal)?;
        let headers = match &account.access_token {
            Some(token) => {
                let host = url.host_str().unwrap_or_default();
                for_attempt(&HeaderMap::new(), token, account.kind, host)?
            }
            None => HeaderMap::new(),
        };
        send(http, http::Method::GET, url, headers).await
    };
    let answer = match answer.await {
        Ok(answer) => answer,
        Err(error) => return (unreachable(API, &error, &account.base_url, proxies), None),
    };
    let (status, time) = (answer.status.as_u16(), date(&answer));
    let body = answer.body.ok().flatten().unwrap_or_default();
    let context = RequestContext { is_key: account.kind != Kind::OAuth, model: "", now_ms: 0 };
    let verdict = match &account.access_token {
        Some(_) => Reading::of_body(status, &body, &context).verdict,
        None => Verdict::Pass,
    };
    let finding = match verdict {
        Verdict::TokenRejected | Verdict::KeyRejected => refused(account, &name, status),
        Verdict::QuotaExhausted { .. } => Finding::warning(
            API,
            format!("{name} says that the account's quota is used up."),
            format!("Wait, or add a key: {}", ours("add-key")),
        ),
        _ if status >= 500 => Finding::warning(
            API,
            format!("{name} has a problem of its own (status {status})."),
            "Wait, and try again",
        ),
        _ if account.access_token.is_none() => {
            Finding::ok(API, format!("{name} answers. The token has expired; the next request refreshes it."))
        }
        _ => Finding::ok(API, format!("{name} answers.")),
    };
    (finding, time)
}

/// Checks a key with a chat of one token, because a list of models may be public.
async fn prove(http: &Http, account: &AskedAccount, key: &Secret, name: &str, proxies: &Proxies) -> Finding {
    let place =
        CandidateEndpoint { plan: account.kind.plan(), region: None, base_url: account.base_url.clone() };
    let Err(answers) = Inquiry::new(http, key).first_yes(std::slice::from_ref(&place)).await else {
        return Finding::ok(API, format!("{name} accepts the key."));
    };
    match answers.first() {
        Some(EndpointAnswer::Unknown(error)) if error.status().is_some() => {
            Finding::warning(API, format!("{name} has a problem of its own."), "Wait, and try again")
        }
        Some(EndpointAnswer::Unknown(error)) => unreachable(API, error, &account.base_url, proxies),
        Some(EndpointAnswer::NoApi(status)) => Finding::broken(
            API,
            format!("{name} is not an API that accepts keys (status {status})."),
            ours("add-key"),
        ),
        _ => refused(account, name, 401),
    }
}

fn refused(account: &AskedAccount, name: &str, status: u16) -> Finding {
    match account.kind {
        Kind::OAuth => Finding::broken(
            API,
            format!(
                "{name} refuses the account's token, which has not expired (status {status}). If it is only minutes old, the cause is the end of the free tier (2026-04-15): add a key with {}.",
                ours("add-key")
            ),
            ours_about("login --replace", &account.id),
        ),
        Kind::Key(_) if account.has_alternative => Finding::warning(
            API,
            format!(
                "{name} refuses the key: it belongs to another plan or region, or is no longer valid. Another account works."
            ),
            ours_about("remove", &account.id),
        ),
        Kind::Key(_) => Finding::broken(
            API,
            format!(
                "{name} refuses the key: it belongs to another plan or region, or is no longer valid. Add it again to find its server."
            ),
            ours("add-key"),
        ),
    }
}

async fn send(http: &Http, method: http::Method, url: Url, mut headers: HeaderMap) -> Result<HttpAnswer> {
    headers.insert(USER_AGENT, http::HeaderValue::from_static(PRODUCT));
    let mut request = reqwest::Request::new(method, url.clone());
    *request.headers_mut() = headers;
    let answer = http.exchange(request, PATIENCE, MAX_BODY).await?;
    if answer.status == http::StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        let host = url.host_str().unwrap_or_default();
        let message = format!("The proxy on the way to {host} asks for a user name and password.");
        return Err(Error::new(Code::Network, message));
    }
    Ok(answer)
}

/// Suspects the proxy first, then a certificate, then the network.
fn unreachable(id: &'static str, error: &Error, url: &Url, proxies: &Proxies) -> Finding {
    let is_about = |word: &str| error.message().to_ascii_lowercase().contains(word);
    let proxy = proxies.for_url(url).ok().flatten().map(|proxy| proxy.variable);
    let fix = match proxy {
        _ if is_about("certificate") => {
            "Point NODE_EXTRA_CA_CERTS at a PEM file with the certificate of the proxy or firewall that inspects your traffic"
                .to_owned()
        }
        Some(name) => unset(name),
        None => "Check the network, DNS and firewall".to_owned(),
    };
    Finding::broken(id, error.message(), fix)
}

fn date(answer: &HttpAnswer) -> Option<u64> {
    let date = answer.headers.get(DATE)?.to_str().ok()?;
    Some(epoch_ms(httpdate::parse_http_date(date).ok()?))
}

fn compare_clocks(server_ms: Option<u64>, own_ms: u64) -> Finding {
    let Some(server_ms) = server_ms else {
        return Finding::ok(CLOCK, "The clock was not checked: no server sent its time.");
    };
    let off = own_ms.abs_diff(server_ms);
    if u128::from(off) <= CLOCK_TOLERANCE.as_millis() {
        return Finding::ok(CLOCK, "The clock is right.");
    }
    let direction = if own_ms > server_ms { "fast" } else { "slow" };
    let message = format!(
        "The clock is {} min {direction}: tokens seem to expire too early or too late.",
        off / 60_000
    );
    let fix = if cfg!(windows) {
        "w32tm /resync"
    } else if cfg!(target_os = "macos") {
        "sudo sntp -sS time.apple.com"
    } else {
        "sudo timedatectl set-ntp true"
    };
    Finding::broken(CLOCK, message, fix)
}

pub fn check_certificates(environment: &Environment) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut named = Vec::new();
    for variable in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] {
        let Some(path) = environment.get(variable) else { continue };
        let file = read_certificates(variable, Path::new(path));
        let count = file.certificates.len();
        match file.problem {
            None => named.push(format!("{variable} names {count}")),
            // The system's certificates and the readable ones in the file are still trusted.
            Some(problem) if count > 0 || variable == "NODE_EXTRA_CA_CERTS" => {
                findings.push(Finding::warning(CERTIFICATES, problem.message(), unset(variable)));
            }
            Some(problem) => findings.push(Finding::broken(CERTIFICATES, problem.message(), unset(variable))),
        }
    }
    if findings.is_empty() {
        let message = if named.is_empty() {
            "The system's certificates are trusted.".to_owned()
        } else {
            format!("Certificates: {}.", named.join(", "))
        };
        findings.push(Finding::ok(CERTIFICATES, message));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::FindingState;
    use super::*;

    #[test]
    fn the_clock_may_differ_by_five_minutes() {
        const NOW: u64 = 1_800_000_000_000;
        assert_eq!(compare_clocks(Some(NOW), NOW + 300_000).state, FindingState::Ok);
        assert_eq!(compare_clocks(Some(NOW), NOW - 300_000).state, FindingState::Ok);
        assert!(compare_clocks(Some(NOW), NOW + 360_000).message.contains("6 min fast"));
        assert!(compare_clocks(Some(NOW), NOW - 3_600_000).message.contains("60 min slow"));
        assert_eq!(compare_clocks(None, NOW).state, FindingState::Ok);
    }
}
