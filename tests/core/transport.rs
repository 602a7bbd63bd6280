//! Connections: proxies and certificates from the environment map, HTTP/2, and hosts that can't be reached.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use opencode_qwen_cli_auth::client::LoginOptions;
use opencode_qwen_cli_auth::error::Code;
use opencode_qwen_cli_auth::events::{EventKind, Events};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::support::home::{document, in_seconds};
use crate::support::port::ClosedPort;
use crate::support::reply::Reply;
use crate::support::server::{DEVICE_PATH, Server};
use crate::support::setup::{Setup, chat, text};
use crate::support::time::until;
use crate::support::tls::Authority;

/// Makes the user's account live at `base`.
fn move_account(setup: &Setup, base: &str) {
    setup.home.write(&document("access-0", "refresh-0", in_seconds(3600), base));
}

/// A server with the authority's certificate, where the setup's user is logged in.
async fn secure(setup: &Setup, authority: &Authority) -> Server {
    let server = Server::serve("https", authority.listen().await);
    server.know("access-0", "refresh-0");
    move_account(setup, &server.url());
    server
}

/// Writes the authority's certificate into the home directory.
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
async fn a_host_that_comes_up_in_between_is_reached() {
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

#[tokio::test]
async fn a_proxy_from_the_environment_map_is_used() {
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        let (setup, proxy) = (Setup::fresh().await, Server::start().await);
        proxy.know("access-0", "refresh-0");
        let address = proxy.url().replace("http://", "http://user:p%40ss@");
        let answer = setup.client_with(&[(name, &address)], false).fetch(chat(false)).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(setup.server.all_requests(), 0);
        let seen = &proxy.api_requests()[0];
        assert_eq!(seen.uri.to_string(), format!("{}/v1/chat/completions", setup.server.url()));
        assert_eq!(seen.headers["proxy-authorization"], "Basic dXNlcjpwQHNz");
    }
}

#[tokio::test]
async fn exceptions_go_past_the_proxy() {
    for (name, hosts, direct) in [
        ("NO_PROXY", "127.0.0.1", true),
        ("no_proxy", "example.com, 127.0.0.0/8", true),
        ("NO_PROXY", "example.com", false),
        ("NO_PROXY", "", false),
    ] {
        let (setup, proxy) = (Setup::fresh().await, Server::start().await);
        proxy.know("access-0", "refresh-0");
        let variables = [("HTTP_PROXY", proxy.url()), (name, hosts.to_owned())];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        setup.client_with(&variables, false).fetch(chat(false)).await.unwrap();
        assert_eq!(setup.server.all_requests(), usize::from(direct), "{name}={hosts}");
        assert_eq!(proxy.all_requests(), usize::from(!direct), "{name}={hosts}");
    }
}

#[tokio::test]
async fn a_star_goes_past_the_proxy_for_every_host() {
    for host in ["localhost", "127.0.0.1"] {
        let (setup, proxy) = (Setup::fresh().await, Server::start().await);
        move_account(&setup, &setup.server.url().replace("127.0.0.1", host));
        let variables = [("HTTP_PROXY", proxy.url()), ("NO_PROXY", "*".to_owned())];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        setup.client_with(&variables, false).fetch(chat(false)).await.unwrap();
        assert_eq!(proxy.all_requests(), 0, "{host}");
    }
}

#[tokio::test]
async fn logins_and_refreshes_go_through_the_proxy_too() {
    let (setup, proxy) = (Setup::expired().await, Server::start().await);
    proxy.know("access-0", "refresh-0");
    proxy.issue_with("resource_url", setup.server.url().into());
    let client = setup.client_with(&[("HTTP_PROXY", &proxy.url())], false);
    let token = client.access_token(None).await.unwrap();
    assert_eq!(token.access_token.expose(), "access-1");
    proxy.on_device([Reply::oauth_error(400, "invalid_scope")]);
    client
        .login(LoginOptions { open_browser: Some(false), ..LoginOptions::default() }, |_| {})
        .await
        .unwrap_err();
    assert_eq!(proxy.requests(DEVICE_PATH).len(), 1);
    assert_eq!((proxy.token_requests(), setup.server.all_requests()), (1, 0));
}

#[tokio::test]
async fn a_proxy_that_cannot_be_reached_or_read_is_an_error() {
    let setup = Setup::fresh().await;
    let closed = ClosedPort::new();
    let proxy = format!("http://user:hunter2@{}", closed.address());
    let error = setup.client_with(&[("HTTP_PROXY", &proxy)], false).fetch(chat(false)).await.unwrap_err();
    assert_eq!(error.code(), Code::Network);
    assert!(!error.message().contains("hunter2"), "{}", error.message());
    let unreadable = [("HTTPS_PROXY", "ftp://user:hunter2@proxy.example")];
    let error = setup.try_client(&unreadable, false, setup.events.events()).unwrap_err();
    assert_eq!(error.code(), Code::InvalidConfig);
    assert!(!error.message().contains("hunter2"));
    assert_eq!(setup.server.all_requests(), 0);
}

/// A proxy that tunnels; gives its address and the list of where it was asked to connect.
async fn tunnel() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let list = Arc::clone(&list);
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut request = String::new();
                while !request.ends_with("\r\n\r\n") {
                    stream.read_line(&mut request).await.unwrap();
                }
                let target = request.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_owned();
                list.lock().unwrap().push(request);
                let mut server = TcpStream::connect(&target).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut server).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn https_is_tunnelled_through_a_proxy() {
    let (setup, authority) = (Setup::fresh().await, Authority::new());
    let server = secure(&setup, &authority).await;
    let certificates = certificate_file(&setup, &authority);
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let (proxy, asked) = tunnel().await;
        let client = setup.client_with(&[(name, &proxy), ("NODE_EXTRA_CA_CERTS", &certificates)], false);
        assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200);
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 1);
        // What is inside the tunnel is none of the proxy's business.
        assert!(!asked[0].contains("access-0") && !asked[0].to_lowercase().contains("authorization"));
    }
    assert_eq!(server.api_requests().len(), 3);
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
    assert_eq!(server.all_requests(), 2);
}

#[tokio::test]
async fn a_certificate_file_that_cannot_be_read_is_named() {
    let setup = Setup::expired().await;
    let empty = setup.home.path().join("empty.pem");
    std::fs::write(&empty, "no certificate in here\n").unwrap();
    let missing = setup.home.path().join("missing.pem");
    for name in ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"] {
        for path in [&empty, &missing] {
            let client = setup.client_with(&[(name, path.to_str().unwrap())], false);
            for _ in 0..2 {
                let error = client.fetch(chat(false)).await.unwrap_err();
                assert_eq!(error.code(), Code::InvalidConfig, "{}", error.message());
                assert!(error.message().contains(name));
                assert_eq!(error.path(), Some(path.as_path()));
            }
        }
    }
    assert_eq!(setup.server.all_requests(), 0);
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
