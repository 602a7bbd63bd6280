//! Network faults on every endpoint: the error is clear, files stay unchanged, and the same client works afterwards.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::future::join_all;
use qwen_accounts::OAuthClient;
use qwen_base::{Code, Error, EventKind};
use qwen_client::Client;

use crate::support::apart::{is_apart, run_apart, succeeds};
use crate::support::gate::{Gate, Way};
use crate::support::home::{document, in_seconds};
use crate::support::proxies;
use crate::support::server::{Server, TOKEN_PATH};
use crate::support::setup::{Setup, chat, post, quiet_login, read, text};
use crate::support::skipped;
use crate::support::time::{soon, until};
use crate::support::tls::{Authority, NAME};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    DeviceAuthorization,
    DevicePoll,
    Refresh,
    Api,
}

/// The client's route to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Direct,
    Tls,
    SocksProxy,
    TlsThroughProxy,
    /// By a host name.
    Named,
}

/// The expected error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// No connection, or a broken one.
    Network,
    /// No answer in time.
    Timeout,
    /// An answer with this status, which says nothing about the token.
    Status(u16),
    /// Half an answer.
    Cut,
    /// An answer without an end.
    Drip,
}

#[derive(Debug)]
struct Fault {
    name: &'static str,
    route: Route,
    way: Way,
    finding: Finding,
}

fn http(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}

fn faults(stranger: SocketAddr) -> Vec<Fault> {
    use Finding::{Cut, Drip, Network, Status, Timeout};
    use Route::{Direct, SocksProxy, Tls, TlsThroughProxy};
    let html = "content-type: text/html\r\n";
    let json = "content-type: application/json\r\n";
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n";
    let page = "<html><h1>Gateway</h1></html>";
    let informational =
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(100);
    // A longer limit makes the account cool, which is written down.
    let at_once = |headers: &str| format!("{headers}retry-after: 0\r\n");
    let says = |status: &str, headers: &str, body: &str| Way::Says(http(status, headers, body));
    let fault = |name, route, way, finding| Fault { name, route, way, finding };
    vec![
        fault("offline", Direct, Way::Away, Network),
        fault("a connection that ends at once", Direct, Way::Ends, Network),
        fault("a server that says nothing", Direct, Way::Silent, Timeout),
        fault("another protocol", Direct, Way::Says(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), Network),
        fault(
            "429",
            Direct,
            says("429 Too Many Requests", &at_once(json), "{\"detail\":\"slow\"}"),
            Status(429),
        ),
        fault("429 in HTML", Direct, says("429 Too Many Requests", &at_once(html), page), Status(429)),
        fault("500", Direct, says("500 Internal Server Error", "", ""), Status(500)),
        fault("502 in HTML", Direct, says("502 Bad Gateway", html, page), Status(502)),
        fault("503", Direct, says("503 Service Unavailable", json, "{\"error\":\"busy\"}"), Status(503)),
        fault("a captive portal", Direct, says("200 OK", html, page), Status(200)),
        fault("a portal that asks for a login", Direct, says("403 Forbidden", html, page), Status(403)),
        fault("cut in mid-body", Direct, Way::Says(format!("{half}{{\"access_").into_bytes()), Cut),
        fault("cut in mid-head", Direct, Way::Says(b"HTTP/1.1 200 OK\r\ncontent-ty".to_vec()), Network),
        fault("a slow drip of a body", Direct, Way::Drips(half.into()), Drip),
        fault("a slow drip of a head", Direct, Way::Drips(b"HTTP/1.1 200 OK\r\nx-slow:".to_vec()), Timeout),
        fault("no answer but informational ones", Direct, Way::Repeats(informational), Timeout),
        fault("a proxy that is away", TlsThroughProxy, Way::Away, Network),
        fault(
            "a proxy that wants a login",
            TlsThroughProxy,
            says("407 Proxy Authentication Required", html, page),
            Network,
        ),
        fault(
            "a proxy that finds no server",
            TlsThroughProxy,
            says("504 Gateway Timeout", html, page),
            Network,
        ),
        fault(
            "another server in place of a SOCKS proxy",
            SocksProxy,
            says("400 Bad Request", html, page),
            Network,
        ),
        fault("a SOCKS proxy that refuses", SocksProxy, Way::Says(b"\x05\xff".to_vec()), Network),
        fault("a proxy that refuses to connect", TlsThroughProxy, says("403 Forbidden", html, page), Network),
        fault("a proxy that drops the tunnel", TlsThroughProxy, Way::Ends, Network),
        fault("an untrusted certificate", Tls, Way::To(stranger), Network),
        fault("no TLS", Tls, says("400 Bad Request", html, page), Network),
        fault("a handshake without an end", Tls, Way::Silent, Timeout),
    ]
}

/// A client whose connections all go through a gate, and the gate's target.
struct World {
    setup: Setup,
    server: Server,
    gate: Gate,
    route: Route,
    client: Client,
    variables: Vec<(&'static str, String)>,
    /// The gate's target while the network works.
    home_way: SocketAddr,
}

impl World {
    async fn new(route: Route, endpoint: Endpoint, authority: &Authority) -> Self {
        let mut setup = Setup::logged_out().await;
        setup.options.connect_timeout = Some(Duration::from_secs(8));
        setup = setup.with_oauth_timeout(Duration::from_secs(4)).with_idle_timeout(Duration::from_secs(4));
        let is_tls = matches!(route, Route::Tls | Route::TlsThroughProxy | Route::SocksProxy | Route::Named);
        let server =
            if is_tls { Server::serve("https", authority.listen().await) } else { Server::start().await };
        server.know("access-0", "refresh-0");
        let home_way = match route {
            Route::Direct | Route::Tls | Route::Named => server.address(),
            Route::SocksProxy => proxies::socks().await,
            Route::TlsThroughProxy => proxies::connect(0).await.0,
        };
        let gate = Gate::to(home_way).await;
        let base = match route {
            Route::Direct => format!("http://{}", gate.address()),
            Route::Tls => format!("https://{}", gate.address()),
            Route::Named => format!("https://{NAME}:{}", gate.address().port()),
            // Loopback is never proxied, so the proxies resolve a name.
            Route::SocksProxy | Route::TlsThroughProxy => {
                format!("https://{NAME}:{}", server.address().port())
            }
        };
        server.issue_with("resource_url", base.as_str().into());
        setup.options.oauth.base_url = Some(base.clone());
        if endpoint != Endpoint::DevicePoll && endpoint != Endpoint::DeviceAuthorization {
            let lifetime = if endpoint == Endpoint::Refresh { -60 } else { 3600 };
            setup.home.write(&document("access-0", "refresh-0", in_seconds(lifetime), &base));
        }
        let certificates = setup.home.path().join("ca.pem");
        authority.write(&certificates);
        let proxy = gate.address().to_string();
        let (http, socks) = (format!("http://u:p4ssw0rd@{proxy}"), format!("socks://{proxy}"));
        let mut variables = vec![("NODE_EXTRA_CA_CERTS", certificates.to_str().unwrap().to_owned())];
        match route {
            Route::Direct | Route::Tls | Route::Named => {}
            Route::TlsThroughProxy => variables.push(("HTTPS_PROXY", http)),
            Route::SocksProxy => variables.push(("ALL_PROXY", socks)),
        }
        let client = setup.client_with(&borrowed(&variables), false);
        Self { setup, server, gate, route, client, variables, home_way }
    }

    /// The client's route to the OAuth server.
    fn oauth(&self) -> OAuthClient {
        self.setup.oauth_client_with(&borrowed(&self.variables))
    }

    fn fail(&self, way: &Way) {
        if self.route == Route::Named {
            write_hosts("");
        } else {
            self.gate.set(way.clone());
        }
    }

    async fn repair(&self) {
        if self.route == Route::Named {
            write_hosts(&format!("127.0.0.1 {NAME}\n"));
        }
        self.gate.set(Way::To(self.home_way));
        while tokio::net::TcpStream::connect(self.gate.address()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns everything in the Qwen directory but the empty, permanent lock files.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let names = self.setup.home.files().into_iter().filter(|name| !name.contains(".flock"));
        names
            .map(|name| {
                let bytes = std::fs::read(self.setup.home.qwen_dir().join(&name)).unwrap();
                (name, bytes)
            })
            .collect()
    }

    fn address(&self) -> String {
        format!("{}/chat/completions", self.client.base_url())
    }
}

fn borrowed<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn assert_clear(error: &Error, row: &str) {
    let message = error.message();
    assert!(message.len() > 20 && message.lines().count() <= 2, "{row}: {message}");
    assert!(
        message.chars().next().unwrap().is_uppercase() || message.starts_with("127."),
        "{row}: {message}"
    );
    for secret in ["access-", "refresh-", "p4ssw0rd", "device-code"] {
        assert!(!format!("{message}{error:?}").contains(secret), "{row}: {message}");
    }
}

/// Returns a finding's code for requests other than a refresh.
fn code_of(finding: Finding, otherwise: Code) -> Code {
    match finding {
        Finding::Network | Finding::Cut => Code::Network,
        Finding::Timeout | Finding::Drip => Code::Timeout,
        Finding::Status(_) => otherwise,
    }
}

async fn run(endpoint: Endpoint, fault: &Fault, authority: &Authority) {
    let row = &format!("{endpoint:?}, {}", fault.name);
    let world = World::new(fault.route, endpoint, authority).await;
    let before = world.files();
    world.fail(&fault.way);
    match endpoint {
        Endpoint::DeviceAuthorization => {
            let error = world.client.login(quiet_login(), |_| {}).await.unwrap_err();
            assert_clear(&error, row);
            let refused = match fault.finding {
                Finding::Status(200) => Code::InvalidResponse,
                _ => Code::DeviceAuthorizationFailed,
            };
            assert_eq!(error.code(), code_of(fault.finding, refused), "{row}: {}", error.message());
            assert_eq!(world.files(), before, "{row}");
            world.repair().await;
            world.client.login(quiet_login(), |_| {}).await.unwrap();
            assert_eq!(world.setup.home.access_token(), "access-1", "{row}");
        }
        Endpoint::DevicePoll => {
            world.repair().await;
            let oauth = world.oauth();
            let mut authorization = oauth.request_device_authorization().await.unwrap();
            authorization.interval = 0.0;
            world.fail(&fault.way);
            let before_it = world.gate.taken();
            let polling = tokio::spawn(async move { oauth.poll_device_token(&authorization).await });
            if matches!(fault.way, Way::Away) {
                tokio::time::sleep(Duration::from_millis(1500)).await;
            } else {
                until("a poll that fails", || world.gate.taken() > before_it).await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            // Polling goes on: network trouble is not a verdict on the device code.
            world.repair().await;
            let approved = soon(row, polling).await.unwrap();
            let token = approved.unwrap_or_else(|error| panic!("{row}: {}", error.message()));
            assert_eq!(token.access_token.expose(), "access-1", "{row}");
            assert_eq!(world.files(), before, "{row}");
        }
        Endpoint::Refresh => {
            let error = world.client.access_token(None).await.unwrap_err();
            assert_clear(&error, row);
            assert_eq!(error.code(), Code::RefreshUnavailable, "{row}: {}", error.message());
            assert!(error.is_retryable(), "{row}");
            let answered = match fault.finding {
                Finding::Status(200) => Code::InvalidResponse,
                _ => Code::OAuthError,
            };
            assert_eq!(error.cause().unwrap().code(), code_of(fault.finding, answered), "{row}");
            assert_eq!(world.files(), before, "{row}");
            assert_eq!(world.setup.events.count(EventKind::NeedsLogin), 0, "{row}");
            world.repair().await;
            let token = world.client.access_token(None).await.unwrap();
            assert_eq!(token.access_token.expose(), "access-1", "{row}");
            assert_eq!(world.server.requests(TOKEN_PATH).len(), 1, "{row}");
            assert_eq!(world.server.redeemed_again(), 0, "{row}");
        }
        Endpoint::Api => {
            let outcome =
                world.client.fetch(post(&world.address(), &serde_json::json!({"messages": []}))).await;
            match (fault.finding, outcome) {
                (Finding::Status(status), Ok(answer)) => {
                    assert_eq!(answer.status.as_u16(), status, "{row}");
                }
                (Finding::Cut, Ok(mut answer)) => {
                    let (bytes, end) = read(&mut answer.body).await;
                    assert_eq!((bytes.as_slice(), end), (&b"{\"access_"[..], Err(Code::Network)), "{row}");
                }
                (Finding::Drip, Ok(mut answer)) => {
                    // A slow answer is still an answer. The caller may cancel it.
                    assert!(answer.body.next().await.unwrap().is_some(), "{row}");
                }
                (finding, Err(error)) => {
                    assert_clear(&error, row);
                    assert!(error.is_retryable(), "{row}: {}", error.message());
                    let code = code_of(finding, Code::Internal);
                    assert_eq!(error.code(), code, "{row}: {}", error.message());
                }
                (finding, Ok(answer)) => panic!("{row}: {} instead of {finding:?}", answer.status),
            }
            assert_eq!(world.files(), before, "{row}");
            world.repair().await;
            let answer = world.client.fetch(chat(false)).await.unwrap();
            assert!(text(answer).await.contains("Hello"), "{row}");
            assert_eq!(world.files(), before, "{row}");
        }
    }
    world.setup.home.assert_tidy();
}

async fn on_every_network(endpoint: Endpoint) {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let impostor = Server::serve("https", stranger.listen().await);
    let faults = faults(impostor.address());
    join_all(faults.iter().map(|fault| run(endpoint, fault, &authority))).await;
    assert_eq!(impostor.all_requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_refused_clearly_on_every_broken_network() {
    on_every_network(Endpoint::DeviceAuthorization).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_outlives_every_broken_network() {
    on_every_network(Endpoint::DevicePoll).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_survives_every_broken_network() {
    on_every_network(Endpoint::Refresh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_is_answered_after_every_broken_network() {
    on_every_network(Endpoint::Api).await;
}

#[test]
fn a_flood_of_informational_answers_ends_long_before_the_idle_limit() {
    // The answers of other tests in the same process would explain why its threads are busy.
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "network_faults::a_flood_of_informational_answers", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
#[ignore = "run by another test as a process of its own"]
async fn a_flood_of_informational_answers() {
    let setup = Setup::fresh().await;
    let flood = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(1000);
    let gate = Gate::to(setup.server.address()).await;
    gate.set(Way::Repeats(flood));
    let base = format!("http://{}/v1", gate.address());
    let client = setup.client_with(&[("OPENCODE_QWEN_BASE_URL", &base)], false);
    let request = post(&format!("{base}/chat/completions"), &serde_json::json!({}));
    let limit = Duration::from_secs(60);
    let error = tokio::time::timeout(limit, client.fetch(request)).await.expect("an end").unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Code::InvalidResponse, false), "{error}");
    assert!(error.message().contains("1xx"), "{error}");
}

#[tokio::test]
async fn a_client_recovers_from_names_that_cannot_be_resolved() {
    let Some(text) = run_apart("network_faults::on_a_network_without_names").await else { return };
    assert!(text.contains("every endpoint got over it"), "{text}");
}

/// This process's copy of /etc/hosts.
static HOSTS_PATH: OnceLock<PathBuf> = OnceLock::new();

fn write_hosts(lines: &str) {
    std::fs::write(HOSTS_PATH.get().unwrap(), lines).unwrap();
}

/// Not a test by itself: this part runs in a network without name servers, with its own hosts file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_network_without_names() {
    if !is_apart().await {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (name, lines) in
        [("hosts", ""), ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")]
    {
        let path = directory.path().join(name);
        std::fs::write(&path, lines).unwrap();
        if !succeeds("mount", &["--bind", path.to_str().unwrap(), &format!("/etc/{name}")]).await {
            skipped("no mount");
            return;
        }
    }
    // The bind-mounted copy, never the machine's own file.
    HOSTS_PATH.set(directory.path().join("hosts")).unwrap();
    let authority = Authority::new();
    let fault = Fault {
        name: "a name that can't be resolved",
        route: Route::Named,
        way: Way::Away,
        finding: Finding::Network,
    };
    for endpoint in [Endpoint::DeviceAuthorization, Endpoint::DevicePoll, Endpoint::Refresh, Endpoint::Api] {
        run(endpoint, &fault, &authority).await;
    }
    writeln!(std::io::stdout(), "every endpoint got over it").unwrap();
}
