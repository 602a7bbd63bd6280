//! Debug output of our types, as a panic, a log or a debugger prints it.

use std::fmt::Debug;

use qwen_accounts::{CredentialsFile, Document, OAuthAnswer, OAuthBody, StoreFile, Token};
use qwen_base::Environment;
use qwen_client::ClientOptions;
use qwen_client::internals::ClientConfig;
use serde_json::json;

use crate::support::fleet::Fleet;
use crate::support::reply::Reply;
use crate::support::setup::{Setup, chat, quiet_login};

const SECRETS: [&str; 7] =
    ["access-", "refresh-", "access.", "refresh.", "device-code", "hunter2", "sk-secret"];

fn assert_silent(value: &impl Debug) {
    for text in [format!("{value:?}"), format!("{value:#?}")] {
        let found = SECRETS.iter().find(|secret| text.contains(**secret));
        assert_eq!(found, None, "{text}");
    }
}

#[tokio::test]
async fn no_debug_print_shows_a_secret() {
    let fleet = Fleet::expiring_in(&[-60, 3600]).await;
    let setup = &fleet.setup;
    let variables = [
        ("HTTPS_PROXY", "http://user:hunter2@proxy.example:3128"),
        ("OPENAI_API_KEY", "sk-secret-1234567890"),
        ("OPENCODE_QWEN_ENABLE_CLI_FALLBACK", "1"),
        ("DEBUG_QWEN_PLUGIN", "1"),
    ];
    let client = setup.client_with(&variables, false);
    let given = client.access_token(None).await.unwrap();
    assert!(given.access_token.expose().starts_with("access."));
    client.fetch(chat(false)).await.unwrap();
    let mut authorization = None;
    setup.server.on_token([Reply::oauth_error(400, "access_denied")]);
    let refused = client.login(quiet_login(), |given| authorization = Some(given.clone())).await.unwrap_err();
    assert_silent(&client);
    assert_silent(&given);
    assert_silent(&authorization.unwrap());
    assert_silent(&refused);
    assert_silent(&client.accounts().await.unwrap());

    let environment: Environment = setup.home.environment(&variables);
    assert_silent(&environment);
    assert_silent(&ClientConfig::read(&ClientOptions::default(), &environment).unwrap());
    let manager = setup.manager();
    manager.token("ann", None).await.unwrap();
    let snapshot = manager.snapshot().await.unwrap();
    assert_silent(&manager);
    assert_silent(&snapshot);
    assert_silent(&snapshot.document.records);
    let registry = setup.registry();
    registry.snapshot().unwrap();
    assert_silent(&registry);
    assert_silent(&CredentialsFile::new(setup.home.credentials()).read().unwrap());
    assert_silent(&StoreFile::new(setup.home.store(), true).read().unwrap());
    assert_silent(&Document::parse(&std::fs::read(setup.home.store()).unwrap()).unwrap());

    let body =
        json!({"access_token": "access-9", "refresh_token": "refresh-9", "device_code": "device-code-9"});
    let answer = OAuthAnswer {
        status: 200,
        retry_after_ms: None,
        body: OAuthBody::read(Some(body.to_string().as_bytes())),
    };
    assert_silent(&answer);
    assert_silent(&Token::read(body.as_object().unwrap()).unwrap());
    let mut request = chat(false);
    request.headers.insert("authorization", "Bearer sk-secret-of-the-caller".parse().unwrap());
    request.url.push_str("?api_key=sk-secret-in-the-url");
    assert_silent(&request);
}

#[tokio::test]
async fn no_panic_shows_a_secret() {
    let setup = Setup::fresh().await;
    let credentials = CredentialsFile::new(setup.home.credentials()).read().unwrap();
    let caught = std::panic::catch_unwind(|| assert!(credentials.is_none(), "{credentials:?}"));
    let message = caught.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("Credentials") && !message.contains("access-0"), "{message}");
}
