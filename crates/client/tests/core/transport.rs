//! Connections: proxies and certificates from the environment map, HTTP/2, and unreachable hosts.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use qwen_base::{Code, EventKind, Events};
use qwen_client::FindingState;

use crate::support::home::{document, in_seconds, make_pipe};
use crate::support::port::ClosedPort;
use crate::support::proxies::{self, Asked};
use crate::support::reply::Reply;
use crate::support::server::{DEVICE_PATH, Server};
use crate::support::setup::{Setup, chat, quiet_login, text};
use crate::support::time::until;
use crate::support::tls::{Authority, NAME};

/// Makes the user's account live at `base`.
fn move_account(setup: &Setup, base: &str) {
    setup.home.write(&document("access-0", "refresh-0", in_seconds(3600), base));
}

/// Starts a TLS server at which the setup's user is logged in.
async fn secure(setup: &Setup, authority: &Authority) -> Server {
    let server = Server::serve("https", authority.listen().await);
    server.know("access-0", "refresh-0");
    move_account(setup, &server.url());
    server
}

fn certificate_file(setup: &Setup, authority: &Authority) -> String {
    let path = setup.home.path().join("ca.pem");
    authority.write(&path);
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_refused_connection_is_tried_once_more() {
    let setup = Setup::fresh().await;
    let closed = ClosedPort::new();
    move_account(&setup, &format!("http://{}", closed.address()));
    let error = setup.client().fetch(chat(false)).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Code::Network, true));
    assert_eq!(setup.events.count(EventKind::Retry), 1);
}

#[tokio::test]
async fn a_host_that_comes_up_between_tries_is_reached() {
    let setup = Setup::fresh().await;
    let closed = ClosedPort::new();
    move_account(&setup, &format!("http://{}", closed.address()));
    let (closed, open) = (Mutex::new(Some(closed)), Arc::new(Mutex::new(None)));
    // The port opens between the first try and the second.
    let opening = Arc::clone(&open);
    let events = Events::new(move |event| {
        if event.kind == EventKind::Retry {
            *opening.lock().unwrap() = closed.lock().unwrap().take().map(ClosedPort::listen);
        }
    });
    let client = setup.try_client(&[], false, events).unwrap();
    let (answer, _server) = tokio::join!(client.fetch(chat(false)), async {
        until("the retry", || open.lock().unwrap().is_some()).await;
        let server = Server::serve("http", open.lock().unwrap().take().unwrap());
        server.know("access-0", "refresh-0");
        server
    });
    assert_eq!(answer.unwrap().status, 200);
}

/// Starts a server whose name only a proxy can resolve. Returns the client's variables too.
async fn named(setup: &Setup, authority: &Authority) -> (Server, String) {
    let server = Server::serve("https", authority.listen().await);
    server.know("access-0", "refresh-0");
    let base = format!("https://{NAME}:{}", server.address().port());
    move_account(setup, &base);
    (server, base)
}

#[tokio::test]
async fn a_proxy_from_the_environment_map_is_used() {
    let (setup, authority) = (Setup::fresh().await, Authority::new());
    let (server, _) = named(&setup, &authority).await;
    let certificates = certificate_file(&setup, &authority);
    let socks = proxies::socks().await;
    for (name, scheme) in [
        ("HTTPS_PROXY", "http"),
        ("https_proxy", "http"),
        ("ALL_PROXY", "http"),
        ("all_proxy", "socks"),
        ("ALL_PROXY", "socks5h"),
    ] {
        let (proxy, asked) = tunnel().await;
        let proxy = if scheme == "http" {
            proxy.replace("http://", "\"http://user:p%40ss@") + "\""
        } else {
            format!("{scheme}://{socks}/")
        };
        let client = setup.client_with(&[(name, &proxy), ("NODE_EXTRA_CA_CERTS", &certificates)], false);
        let count = server.api_requests().len();
        assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200, "{name} {scheme}");
        assert_eq!(server.api_requests().len(), count + 1);
        for request in asked.lock().unwrap().iter() {
            assert!(request.to_lowercase().contains("proxy-authorization: basic dxnlcjpwqhnz"), "{request}");
        }
    }
}

#[tokio::test]
async fn loopback_is_reached_without_a_proxy_and_without_asking_for_its_name() {
    for host in ["127.0.0.1", "localhost", "api.localhost"] {
        let (mut setup, proxy) = (Setup::expired().await, Server::start().await);
        let own = setup.server.url().replace("127.0.0.1", host);
        setup.options.oauth.base_url = Some(own.clone());
        setup.server.issue_with("resource_url", own.as_str().into());
        setup.home.write(&document("access-0", "refresh-0", in_seconds(-60), &own));
        let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "all_proxy"].map(|name| (name, proxy.url()));
        let variables = proxies.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = setup.client_with(&variables, false).fetch(chat(false)).await.unwrap();
        assert_eq!(answer.status, 200, "{host}");
        assert_eq!(proxy.all_requests(), 0, "{host}");
    }
}

#[tokio::test]
async fn no_proxy_exceptions_bypass_the_proxy() {
    let (setup, authority) = (Setup::fresh().await, Authority::new());
    let (server, _) = named(&setup, &authority).await;
    let (certificates, port) = (certificate_file(&setup, &authority), server.address().port());
    for (exceptions, direct) in [
        (format!("{NAME}:{port}"), true),
        (format!("a.example  *.test {NAME}:1"), true),
        ("*".to_owned(), true),
        (format!("{NAME}:1"), false),
    ] {
        let (proxy, asked) = tunnel().await;
        let variables = [
            ("HTTPS_PROXY", proxy.as_str()),
            ("no_proxy", exceptions.as_str()),
            ("NODE_EXTRA_CA_CERTS", certificates.as_str()),
        ];
        let outcome = setup.client_with(&variables, false).fetch(chat(false)).await;
        // Only the proxy can resolve the name.
        assert_eq!((outcome.is_err(), asked.lock().unwrap().is_empty()), (direct, direct), "{exceptions}");
    }
}

#[tokio::test]
async fn logins_and_refreshes_go_through_the_proxy_too() {
    let (mut setup, authority) = (Setup::logged_out().await, Authority::new());
    let (server, base) = named(&setup, &authority).await;
    setup.options.oauth.base_url = Some(base.clone());
    setup.home.write(&document("access-0", "refresh-0", in_seconds(-60), &base));
    let (proxy, asked) = tunnel().await;
    let certificates = certificate_file(&setup, &authority);
    let client = setup.client_with(&[("ALL_PROXY", &proxy), ("NODE_EXTRA_CA_CERTS", &certificates)], false);
    let token = client.access_token(None).await.unwrap();
    assert_eq!(token.access_token.expose(), "access-1");
    server.on_device([Reply::oauth_error(400, "invalid_scope")]);
    client.login(quiet_login(), |_| {}).await.unwrap_err();
    assert_eq!((server.requests(DEVICE_PATH).len(), server.token_requests()), (1, 1));
    assert!(!asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_proxy_that_cannot_be_reached_or_read_is_an_error() {
    let (setup, authority) = (Setup::fresh().await, Authority::new());
    let (server, _) = named(&setup, &authority).await;
    let closed = ClosedPort::new();
    let proxy = format!("http://user:hunter2@{}", closed.address());
    let ask = async |name, value: &str| {
        setup.client_with(&[(name, value)], false).fetch(chat(false)).await.unwrap_err()
    };
    let error = ask("HTTPS_PROXY", &proxy).await;
    assert_eq!(error.code(), Code::Network);
    let message = error.message();
    let named = format!("the proxy {} (HTTPS_PROXY)", closed.address());
    assert!(message.contains(&named) && !message.contains("hunter2"), "{message}");
    let error = ask("HTTPS_PROXY", "ftp://user:hunter2@proxy.example").await;
    assert_eq!(error.code(), Code::InvalidConfig);
    assert!(error.message().contains("HTTPS_PROXY") && !error.message().contains("hunter2"));
    // The error blames the proxy, not the API.
    let error = ask("all_proxy", "http://user:hunter2@proxy.invalid:3128").await;
    assert_eq!((error.code(), error.is_retryable()), (Code::Network, true));
    let message = error.message();
    assert!(message.contains("proxy.invalid") && message.contains("all_proxy"), "{message}");
    assert!(!message.contains("hunter2") && !message.contains(NAME), "{message}");
    assert_eq!(server.all_requests(), 0);
}

#[tokio::test]
async fn a_proxy_variable_that_cannot_be_read_stops_only_what_needs_it() {
    let (setup, authority) = (Setup::fresh().await, Authority::new());
    let bad = ("HTTPS_PROXY", "gopher://user:hunter2@proxy.example");
    // Loopback needs no proxy.
    assert_eq!(setup.client_with(&[bad], false).fetch(chat(false)).await.unwrap().status, 200);
    let (server, _) = named(&setup, &authority).await;
    let certificates = certificate_file(&setup, &authority);
    let (proxy, _) = tunnel().await;
    let client =
        setup.client_with(&[bad, ("ALL_PROXY", &proxy), ("NODE_EXTRA_CA_CERTS", &certificates)], false);
    assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200);
    assert_eq!(server.api_requests().len(), 1);
    let told = setup.events.all();
    let is_warning = |message: &str| message.contains("HTTPS_PROXY") && message.contains("ALL_PROXY is used");
    assert!(told.iter().any(|event| is_warning(&event.message)), "{told:?}");
}

/// Starts a proxy that tunnels. Returns its address, and the list of its targets.
async fn tunnel() -> (String, Asked) {
    let (address, asked) = proxies::connect(0).await;
    (format!("http://{address}"), asked)
}

#[tokio::test]
async fn a_tunnel_that_is_refused_is_asked_for_once_more() {
    let (setup, authority) = (Setup::fresh().await, Authority::new());
    let (server, _) = named(&setup, &authority).await;
    let certificates = certificate_file(&setup, &authority);
    for (refusals, tries, is_answered) in [(1, 2, true), (usize::MAX, 2, false)] {
        let (address, asked) = proxies::connect(refusals).await;
        let proxy = format!("http://{address}");
        let client =
            setup.client_with(&[("HTTPS_PROXY", &proxy), ("NODE_EXTRA_CA_CERTS", &certificates)], false);
        match client.fetch(chat(false)).await {
            Ok(answer) => assert_eq!((answer.status.as_u16(), is_answered), (200, true)),
            Err(error) => {
                assert_eq!((error.code(), error.is_retryable(), is_answered), (Code::Network, true, false));
            }
        }
        assert_eq!(asked.lock().unwrap().len(), tries);
    }
    assert_eq!((server.api_requests().len(), setup.events.count(EventKind::Retry)), (1, 2));
}

#[tokio::test]
async fn https_is_tunnelled_through_a_proxy() {
    let (setup, authority) = (Setup::fresh().await, Authority::new());
    let (server, _) = named(&setup, &authority).await;
    let certificates = certificate_file(&setup, &authority);
    let (proxy, asked) = tunnel().await;
    let client = setup.client_with(&[("HTTPS_PROXY", &proxy), ("NODE_EXTRA_CA_CERTS", &certificates)], false);
    assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200);
    let asked = asked.lock().unwrap();
    assert_eq!((asked.len(), server.api_requests().len()), (1, 1));
    // The proxy must not see into the tunnel.
    assert!(!asked[0].contains("access-0") && !asked[0].to_lowercase().contains("authorization"));
}

#[tokio::test]
async fn further_roots_come_from_the_environment_map() {
    let (setup, authority) = (Setup::fresh().await, Authority::new());
    let server = secure(&setup, &authority).await;
    let certificates = certificate_file(&setup, &authority);
    for name in ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"] {
        let client = setup.client_with(&[(name, &certificates)], false);
        assert!(text(client.fetch(chat(false)).await.unwrap()).await.contains("Hello"), "{name}");
    }
    let stranger = Authority::new();
    let others = certificate_file(&setup, &stranger);
    for variables in [vec![], vec![("SSL_CERT_FILE", others.as_str())]] {
        let error = setup.client_with(&variables, false).fetch(chat(false)).await.unwrap_err();
        assert_eq!(error.code(), Code::Network);
        assert!(error.message().contains("certificate"), "{}", error.message());
    }
    let findings = setup.doctor(&[]).examine().await.unwrap();
    let api = findings.iter().find(|finding| finding.id == "api").unwrap();
    assert!(api.state == FindingState::Broken && api.message.contains("certificate"), "{api:?}");
    assert!(api.fix.as_ref().unwrap().contains("NODE_EXTRA_CA_CERTS"), "{api:?}");
    assert_eq!(server.all_requests(), 2);
}

/// Returns a file with the authority's certificate between other lines.
fn odd_files(setup: &Setup, authority: &Authority) -> Vec<(&'static str, String, bool)> {
    let pem = std::fs::read_to_string(certificate_file(setup, authority)).unwrap();
    let cut = format!("{pem}{}", &pem[..pem.len() / 2]);
    let files = [
        ("a byte order mark", format!("\u{feff}{pem}"), false),
        ("another label", pem.replace("CERTIFICATE", "X509 CERTIFICATE"), false),
        ("a comment and Windows's line ends", format!("our CA\r\n{}", pem.replace('\n', "\r\n")), false),
        ("a last block that is cut", cut, true),
        (
            "a block that is not a certificate",
            format!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{pem}"),
            true,
        ),
    ];
    let write = |(name, contents, is_told): (&'static str, String, bool)| {
        let path = setup.home.path().join(format!("{}.pem", name.replace(' ', "-")));
        std::fs::write(&path, contents).unwrap();
        (name, path.to_str().unwrap().to_owned(), is_told)
    };
    files.map(write).to_vec()
}

#[tokio::test]
async fn readable_parts_of_a_certificate_file_are_used() {
    let (setup, authority) = (Setup::fresh().await, Authority::new());
    let _server = secure(&setup, &authority).await;
    for variable in ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"] {
        for (name, path, is_told) in odd_files(&setup, &authority) {
            let before = setup.events.count(EventKind::Config);
            let client = setup.client_with(&[(variable, &path)], false);
            assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200, "{variable} {name}");
            let told = setup.events.count(EventKind::Config) - before;
            assert_eq!(told, usize::from(is_told), "{variable} {name}");
        }
    }
}

#[tokio::test]
async fn a_certificate_file_that_cannot_be_read_is_named() {
    let (setup, authority) = (Setup::fresh().await, Authority::new());
    let own = certificate_file(&setup, &authority);
    let empty = setup.home.path().join("empty.pem");
    std::fs::write(&empty, "no certificate in here\n").unwrap();
    let missing = setup.home.path().join("missing.pem");
    let fifo = setup.home.path().join("fifo.pem");
    make_pipe(&fifo);
    for path in [&empty, &missing, &fifo] {
        let path = path.to_str().unwrap();
        // Other requests don't need it.
        move_account(&setup, &setup.server.url());
        let plain = setup.client_with(&[("SSL_CERT_FILE", path)], false);
        assert_eq!(plain.fetch(chat(false)).await.unwrap().status, 200);

        let server = secure(&setup, &authority).await;
        // It replaces the system's roots, so no others are used.
        let client = setup.client_with(&[("SSL_CERT_FILE", path), ("NODE_EXTRA_CA_CERTS", &own)], false);
        for _ in 0..2 {
            let error = client.fetch(chat(false)).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidConfig, "{}", error.message());
            assert!(error.message().contains("SSL_CERT_FILE"));
            assert_eq!(error.path(), Some(std::path::Path::new(path)));
        }
        assert_eq!(server.all_requests(), 0);
        // The further roots are an addition: the others are used without them.
        let client = setup.client_with(&[("SSL_CERT_FILE", &own), ("NODE_EXTRA_CA_CERTS", path)], false);
        assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200);
        let told = setup.events.all();
        assert!(told.iter().any(|event| event.message.contains(path)), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_requests_share_one_http2_connection() {
    let (setup, authority) = (Setup::fresh().await, Authority::new());
    let server = secure(&setup, &authority).await;
    let certificates = certificate_file(&setup, &authority);
    let client = setup.client_with(&[("NODE_EXTRA_CA_CERTS", &certificates)], false);
    assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200);
    let answers =
        join_all((0..16).map(|_| async { text(client.fetch(chat(true)).await.unwrap()).await })).await;
    assert!(answers.iter().all(|answer| answer.contains("[DONE]")));
    let requests = server.api_requests();
    assert_eq!(requests.len(), 17);
    assert!(requests.iter().all(|seen| seen.version == http::Version::HTTP_2), "{:?}", requests[0].version);
    assert!(requests.iter().all(|seen| seen.peer == requests[0].peer));
    assert!(!requests[0].headers.contains_key("connection"));
}

#[tokio::test]
async fn connections_are_used_again() {
    let setup = Setup::fresh().await;
    let client = setup.client();
    for _ in 0..5 {
        text(client.fetch(chat(false)).await.unwrap()).await;
    }
    let requests = setup.server.api_requests();
    assert!(requests.iter().all(|seen| seen.peer == requests[0].peer));
}
