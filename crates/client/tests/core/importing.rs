//! Accounts from the files of other tools.

use std::fs;

use qwen_base::{Code, EventKind};
use serde_json::{Value, json};

use crate::support::fleet::ask;
use crate::support::home::{document, in_seconds};
use crate::support::setup::Setup;

fn write(setup: &Setup, name: &str, contents: &Value) -> String {
    let path = setup.home.path().join(name);
    fs::write(&path, contents.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A file of opencode-qwen-auth.
fn accounts_file(setup: &Setup, names: &[&str], lifetime: i64) -> Value {
    let accounts: Vec<_> = names
        .iter()
        .map(|name| {
            let (access, refresh) = (format!("access-{name}"), format!("refresh-{name}"));
            setup.server.know(&access, &refresh);
            json!({"refreshToken": refresh, "accessToken": access, "expires": in_seconds(lifetime),
                "resourceUrl": setup.server.url(), "addedAt": 1, "lastUsed": 2})
        })
        .collect();
    json!({"version": 1, "activeIndex": 0, "accounts": accounts})
}

#[tokio::test]
async fn imported_accounts_work_and_the_choice_stays() {
    let setup = Setup::fresh().await;
    let before = setup.home.bytes();
    let contents = accounts_file(&setup, &["a", "b"], 3600);
    let path = write(&setup, "theirs.json", &contents);
    let client = setup.client();
    let added = client.import_accounts(&path).await.unwrap();
    assert_eq!(added.len(), 2);
    assert!(added.iter().all(|account| !account.active && account.base_url.starts_with(&setup.server.url())));
    assert_eq!(setup.home.bytes(), before);
    assert_eq!(fs::read_to_string(&path).unwrap(), contents.to_string());

    let accounts = client.accounts().await.unwrap();
    assert_eq!(accounts.len(), 3);
    assert!(accounts[0].active);
    let token = client.access_token(Some(&added[1].id)).await.unwrap();
    assert_eq!(token.access_token.expose(), "access-b");
    assert_eq!(setup.server.redemptions(), 0);
}

#[tokio::test]
async fn without_a_login_the_first_is_used_at_once() {
    let setup = Setup::logged_out().await;
    let path = write(&setup, "theirs.json", &accounts_file(&setup, &["a", "b"], -60));
    let client = setup.client();
    let added = client.import_accounts(&path).await.unwrap();
    assert_eq!(added.iter().map(|account| account.active).collect::<Vec<_>>(), [true, false]);
    assert_eq!(ask(&client).await.status, 200);
    // The qwen CLI is not logged in by it.
    assert!(!setup.home.credentials().exists());
}

#[tokio::test]
async fn importing_twice_adds_nothing_and_removed_accounts_stay_removed() {
    let setup = Setup::fresh().await;
    let path = write(&setup, "theirs.json", &accounts_file(&setup, &["a", "b"], 3600));
    let client = setup.client();
    let added = client.import_accounts(&path).await.unwrap();
    let store = fs::read(setup.home.store()).unwrap();
    assert!(client.import_accounts(&path).await.unwrap().is_empty());
    assert_eq!(fs::read(setup.home.store()).unwrap(), store);

    client.remove_account(&added[0].id, false).await.unwrap();
    assert!(client.import_accounts(&path).await.unwrap().is_empty());
    assert_eq!(client.accounts().await.unwrap().len(), 2);
    let notes = setup.events.all();
    assert!(
        notes.iter().any(|note| note.kind == EventKind::Config && note.message.contains("removed before"))
    );
}

#[tokio::test]
async fn the_qwen_clis_own_file_holds_nothing_new() {
    let setup = Setup::fresh().await;
    let client = setup.client();
    assert!(client.import_accounts("~/.qwen/oauth_creds.json").await.unwrap().is_empty());
    assert!(!setup.home.store().exists());
}

#[tokio::test]
async fn a_credentials_file_in_another_plugins_form_is_read() {
    let setup = Setup::logged_out().await;
    setup.server.know("access-0", "refresh-0");
    setup.home.write(&json!({"accessToken": "access-0", "refreshToken": "refresh-0", "tokenType": "Bearer",
        "expiryDate": in_seconds(3600), "resourceUrl": setup.server.url()}));
    let client = setup.client();
    assert_eq!(client.accounts().await.unwrap_err().code(), Code::CredentialsInvalid);
    let added = client.import_accounts("~/.qwen/oauth_creds.json").await.unwrap();
    assert_eq!(ask(&client).await.status, 200);
    // The user's choice writes the qwen CLI's file, and keeps the login that was there.
    client.set_active_account(&added[0].id).await.unwrap();
    assert_eq!(setup.home.access_token(), "access-1");
    assert!(setup.home.files().iter().any(|name| name.starts_with("oauth_creds.json.corrupt-")));
}

#[tokio::test]
async fn a_bad_file_is_reported_and_changes_nothing() {
    let setup = Setup::fresh().await;
    let client = setup.client();
    let files = setup.home.files();
    let expired = json!({"access_token": "a", "expiry_date": 5});
    for (name, contents, code, says) in [
        ("a.json", "{", Code::CredentialsInvalid, "in a known format"),
        ("b.json", "{\"accounts\":[],\"version\":1}", Code::CredentialsInvalid, "no Qwen account"),
        ("c.json", &expired.to_string(), Code::CredentialsInvalid, "expired"),
        ("d.json", "\"sk-sp-secret\"", Code::CredentialsInvalid, "in a known format"),
    ] {
        let path = setup.home.path().join(name);
        fs::write(&path, contents).unwrap();
        let error = client.import_accounts(path.to_str().unwrap()).await.unwrap_err();
        assert_eq!((error.code(), error.path()), (code, Some(path.as_path())), "{name}");
        assert!(error.message().contains(says) && !error.message().contains("secret"), "{error}");
    }
    let missing = client.import_accounts("~/missing.json").await.unwrap_err();
    assert_eq!(missing.code(), Code::Io);
    assert!(missing.message().contains("missing.json"));
    let directory = client.import_accounts("~/.qwen").await.unwrap_err();
    assert_eq!(directory.code(), Code::CredentialsInvalid);
    assert_eq!(setup.home.files(), files);
}

#[tokio::test]
async fn only_usable_accounts_of_a_file_are_imported() {
    let setup = Setup::fresh().await;
    let mut contents = accounts_file(&setup, &["a"], 3600);
    contents["accounts"].as_array_mut().unwrap().push(json!({"addedAt": 1}));
    let path = write(&setup, "theirs.json", &contents);
    assert_eq!(setup.client().import_accounts(&path).await.unwrap().len(), 1);
    let notes = setup.events.all();
    assert!(
        notes.iter().any(|note| note.message.contains("1 can't be used (it holds no tokens)")),
        "{notes:?}"
    );
}

#[tokio::test]
async fn the_qwen_clis_file_of_another_home() {
    let setup = Setup::fresh().await;
    setup.server.know("access-x", "refresh-x");
    let other = document("access-x", "refresh-x", in_seconds(3600), &setup.server.url());
    let path = write(&setup, "oauth_creds.json", &other);
    let added = setup.client().import_accounts(&path).await.unwrap();
    assert_eq!(added.len(), 1);
    assert_eq!(setup.home.access_token(), "access-0");
}
