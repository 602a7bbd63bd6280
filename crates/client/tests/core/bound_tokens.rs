//! Tokens stay with the server that issued them and with one API host, whatever a later environment says.

use qwen_base::{Code, Error};
use qwen_client::{Client, Request};
use serde_json::json;

use crate::support::home::{document, in_seconds};
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::setup::{Setup, chat, quiet_login, text};

const ISSUER: &str = "OPENCODE_QWEN_OAUTH_BASE_URL";
const BASE_URL: &str = "OPENCODE_QWEN_BASE_URL";
/// Sends the requests with one account after the other.
const IN_TURN: (&str, &str) = ("OPENCODE_QWEN_ROTATION", "round-robin");

/// A login in the credentials file alone, of a server that only the environment names.
async fn lone(seconds: i64) -> Setup {
    let mut setup = Setup::expiring_in(seconds).await;
    setup.options.oauth.base_url = None;
    setup
}

impl Setup {
    fn in_environment(&self, variables: &[(&str, &str)]) -> Client {
        self.client_with(variables, false)
    }

    /// Lets the token expire, and removes its own host.
    fn expire(&self) {
        let mut held = self.home.document();
        held["expiry_date"] = in_seconds(-60).into();
        self.home.write(&held);
    }
}

async fn token(client: &Client) -> Result<String, Error> {
    client.access_token(None).await.map(|token| token.access_token.expose().to_owned())
}

fn assert_names(error: &Error, parts: &[&str]) {
    assert_eq!(error.code(), Code::InvalidConfig, "{}", error.message());
    for part in parts {
        assert!(error.message().contains(part), "{part}: {}", error.message());
    }
}

#[tokio::test]
async fn a_login_without_a_store_is_redeemed_where_it_was_first_used() {
    for first_is_fresh in [true, false] {
        let setup = lone(if first_is_fresh { 3600 } else { -60 }).await;
        let other = Server::start().await;
        token(&setup.in_environment(&[(ISSUER, &setup.server.url())])).await.unwrap();
        setup.expire();
        let before = setup.home.bytes();

        let error = token(&setup.in_environment(&[(ISSUER, &other.url())])).await.unwrap_err();
        assert_names(&error, &[ISSUER, "belongs to 127.0.0.1", "log in again"]);
        assert_eq!((other.all_requests(), setup.home.bytes()), (0, before));
        let doctor = setup.doctor(&[(ISSUER, &other.url())]);
        let findings = doctor.examine().await.unwrap();
        let found = findings.iter().find(|found| found.message == error.message());
        let fix = found.unwrap_or_else(|| panic!("{findings:?}")).fix.clone();
        assert_eq!(fix.as_deref(), Some("unset OPENCODE_QWEN_OAUTH_BASE_URL"));

        // Without the variable it goes to its own server, not to the default one.
        let count = setup.server.token_requests();
        token(&setup.in_environment(&[])).await.unwrap();
        assert_eq!(setup.server.token_requests(), count + 1);
        setup.expire();
        // The note follows the rotation.
        token(&setup.in_environment(&[])).await.unwrap();
        assert_eq!(setup.server.token_requests(), count + 2);
        assert!(setup.home.store().exists());
        assert_eq!(setup.home.files(), ["oauth_creds.flock", "oauth_creds.json"]);
    }
}

#[tokio::test]
async fn a_server_that_did_not_answer_binds_nothing() {
    let setup = lone(-60).await;
    let dead = Server::start().await;
    dead.on_every_token(Reply::oauth_error(503, "unavailable"));
    token(&setup.in_environment(&[(ISSUER, &dead.url())])).await.unwrap_err();
    token(&setup.in_environment(&[(ISSUER, &setup.server.url())])).await.unwrap();
}

#[tokio::test]
async fn a_token_of_another_login_is_not_sent_to_a_server_that_is_named() {
    let setup = lone(3600).await;
    token(&setup.in_environment(&[(ISSUER, &setup.server.url())])).await.unwrap();
    // The qwen CLI has rotated the token, or another user has logged in: the two look the same.
    setup.server.know("access-7", "refresh-7");
    setup.home.write(&document("access-7", "refresh-7", in_seconds(-60), &setup.server.url()));
    let other = Server::start().await;
    let error = token(&setup.in_environment(&[(ISSUER, &other.url())])).await.unwrap_err();
    assert_names(&error, &[ISSUER]);
    assert_eq!(other.all_requests(), 0);
    token(&setup.in_environment(&[(ISSUER, &setup.server.url())])).await.unwrap();
}

#[tokio::test]
async fn accounts_of_a_store_are_bound_one_by_one_and_a_new_login_anew() {
    let setup = lone(3600).await;
    let (own, other) = (setup.server.url(), Server::start().await);
    token(&setup.in_environment(&[(ISSUER, &own)])).await.unwrap();
    let client = setup.in_environment(&[(ISSUER, &other.url())]);
    let added = client.login(quiet_login(), |_| {}).await.unwrap();
    let redeemed = other.token_requests();
    let store = || -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(setup.home.store()).unwrap()).unwrap()
    };
    let endpoints: Vec<_> = store()["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["binding"]["tokenEndpoint"].clone())
        .collect();
    assert_eq!(
        endpoints,
        [json!(format!("{own}/api/v1/oauth2/token")), json!(format!("{}/api/v1/oauth2/token", other.url()))]
    );

    // Both have expired; each is redeemed at its own server alone.
    let mut expired = store();
    for account in expired["accounts"].as_array_mut().unwrap() {
        account["token"]["expiry_date"] = 1.into();
    }
    std::fs::write(setup.home.store(), expired.to_string()).unwrap();
    std::fs::remove_file(setup.home.credentials()).unwrap();
    let first = expired["accounts"][0]["id"].as_str().unwrap();
    let client = setup.in_environment(&[]);
    client.access_token(Some(&added.id)).await.unwrap();
    assert_eq!((other.token_requests(), setup.server.token_requests()), (redeemed + 1, 0));
    client.access_token(Some(first)).await.unwrap();
    assert_eq!((other.token_requests(), setup.server.token_requests()), (redeemed + 1, 1));
}

#[tokio::test]
async fn requests_go_to_the_host_of_the_first_use_unless_the_user_names_another() {
    let setup = lone(3600).await;
    let (issuer, api, second) = (setup.server.url(), Server::start().await, Server::start().await);
    for server in [&api, &second] {
        server.accept("access-0");
    }
    let mut held = setup.home.document();
    held.as_object_mut().unwrap().remove("resource_url");
    setup.home.write(&held);
    let ask = async |variables: &[(&str, &str)]| {
        let client = setup.in_environment(variables);
        let url = format!("{}/chat/completions", client.base_url());
        client.fetch(Request { url, ..chat(false) }).await
    };
    let said = |answer| async { assert!(text(answer).await.contains("Hello")) };

    said(ask(&[(ISSUER, &issuer), (BASE_URL, &api.url())]).await.unwrap()).await;
    said(ask(&[]).await.unwrap()).await;
    assert_eq!(api.api_requests().len(), 2);
    // The variable holds for accounts of this issuer …
    said(ask(&[(ISSUER, &issuer), (BASE_URL, &second.url())]).await.unwrap()).await;
    assert_eq!((api.api_requests().len(), second.api_requests().len()), (2, 1));
    // … and not for those of another.
    let error = ask(&[(BASE_URL, &second.url())]).await.unwrap_err();
    assert_names(&error, &[BASE_URL, "chat.qwen.ai"]);
    assert_eq!(second.api_requests().len(), 1);
}

/// Two logins whose tokens name no host, each with the issuer and the API server of its first use.
async fn two_bound_logins(first: (&str, &Server), second: (&str, &Server)) -> Setup {
    let setup = lone(3600).await;
    std::fs::remove_file(setup.home.credentials()).unwrap();
    let record = |id: &str, (issuer, api): (&str, &Server)| {
        api.accept(&format!("access-{id}"));
        json!({
            "id": id,
            "token": { "access_token": format!("access-{id}"), "expiry_date": in_seconds(3600) },
            "binding": {
                "tokenEndpoint": format!("{issuer}/api/v1/oauth2/token"),
                "clientId": "client",
                "baseUrl": api.url(),
            },
        })
    };
    let accounts = [record("one", first), record("two", second)];
    let store = json!({ "version": 1, "activeAccountId": "one", "accounts": accounts });
    std::fs::write(setup.home.store(), store.to_string()).unwrap();
    setup
}

async fn ask(client: &Client) -> Result<String, Error> {
    let url = format!("{}/chat/completions", client.base_url());
    Ok(text(client.fetch(Request { url, ..chat(false) }).await?).await)
}

#[tokio::test]
async fn each_account_of_one_client_is_sent_to_its_own_host() {
    let (one, two) = (Server::start().await, Server::start().await);
    let issuer = "https://chat.qwen.ai";
    let setup = two_bound_logins((issuer, &one), (issuer, &two)).await;
    let client = setup.in_environment(&[IN_TURN]);
    for asked in [(1, 0), (1, 1), (2, 1)] {
        assert!(ask(&client).await.unwrap().contains("Hello"));
        assert_eq!((one.api_requests().len(), two.api_requests().len()), asked);
    }
}

#[tokio::test]
async fn a_base_url_of_the_environment_is_for_the_accounts_of_its_issuer_alone() {
    let (own, other, named) = (Server::start().await, Server::start().await, Server::start().await);
    named.accept("access-one");
    let setup = two_bound_logins((&own.url(), &own), (&other.url(), &other)).await;
    let client = setup.in_environment(&[IN_TURN, (ISSUER, &own.url()), (BASE_URL, &named.url())]);
    assert!(ask(&client).await.unwrap().contains("Hello"));
    assert_names(&ask(&client).await.unwrap_err(), &[BASE_URL, "127.0.0.1"]);
    assert_eq!((named.api_requests().len(), other.all_requests()), (1, 0));
}
