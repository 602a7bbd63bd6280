//! The account store beside `oauth_creds.json`: reading, writing, and the user's choice.

use std::collections::HashSet;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use qwen_accounts::{Availability, Token};
use qwen_base::{Code, EventKind, Secret};
use qwen_client::{Client, LoginOptions};
use serde_json::{Value, json};

use crate::support::fleet::{Fleet, access, ask, quota, refresh, token, who, who_answers};
use crate::support::home::{document, in_seconds};
use crate::support::server::TOKEN_PATH;
use crate::support::setup::{ONLY, Setup, chat};
use crate::support::time::fast_forward;

/// Returns every refresh token that was offered.
fn offered(setup: &Setup) -> Vec<String> {
    setup.server.requests(TOKEN_PATH).iter().map(|seen| seen.field("refresh_token")).collect()
}

async fn active(client: &Client) -> String {
    client.accounts().await.unwrap().into_iter().find(|account| account.active).unwrap().id
}

fn a_login(name: &str) -> Token {
    Token {
        access_token: Secret::new(access(name, 0)),
        refresh_token: Some(Secret::new(refresh(name, 0))),
        token_type: "Bearer".to_owned(),
        resource_url: None,
        scope: None,
        expires_at: in_seconds(3600),
    }
}

#[tokio::test]
async fn one_account_needs_only_the_credentials_file() {
    let setup = Setup::expired().await;
    let client = setup.client();
    assert_eq!(client.fetch(chat(false)).await.unwrap().status, 200);
    assert_eq!(client.accounts().await.unwrap()[0].id, ONLY);
    // The holder of the file may change.
    setup.server.know("access-cli", "refresh-cli");
    setup.home.write(&document("access-cli", "refresh-cli", in_seconds(3600), &setup.server.url()));
    assert_eq!(who(&client.fetch(chat(false)).await.unwrap()), ONLY);
    client.set_active_account(ONLY).await.unwrap();
    setup.registry().add_login(&a_login("ann"), None, Some(ONLY)).unwrap();
    assert_eq!(setup.home.access_token(), access("ann", 0));
    for mistake in [
        client.set_active_account("no\nbody").await.map(drop),
        client.remove_account("", false).await.map(drop),
    ] {
        assert_eq!(mistake.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_becomes_the_active_account_and_what_was_there_is_kept() {
    let setup = Setup::fresh().await;
    let client = setup.client();
    let options =
        LoginOptions { label: Some("Work".to_owned()), open_browser: Some(false), ..LoginOptions::default() };
    let account = fast_forward(client.login(options, |_| {})).await.unwrap();
    assert_eq!((account.label.as_str(), account.active), ("Work", true));
    assert_eq!(setup.home.access_token(), "access-1");
    let accounts = client.accounts().await.unwrap();
    assert_eq!(accounts.iter().map(|account| account.active).collect::<Vec<_>>(), [false, true]);
    assert_eq!(accounts[0].id, ONLY);
    assert_eq!(client.access_token(Some(ONLY)).await.unwrap().access_token.expose(), "access-0");
    let mode = setup.home.store().metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);

    let again = LoginOptions {
        replace: Some(ONLY.to_owned()),
        open_browser: Some(false),
        label: Some("Renewed".to_owned()),
    };
    let renewed = fast_forward(client.login(again, |_| {})).await.unwrap();
    assert_eq!((renewed.id.as_str(), renewed.label.as_str(), renewed.active), (ONLY, "Renewed", true));
    assert_eq!(renewed.created_at, accounts[0].created_at);
    assert_eq!(client.accounts().await.unwrap().len(), 2);
    assert_eq!(setup.home.access_token(), "access-2");
    assert_eq!(client.access_token(Some(&account.id)).await.unwrap().access_token.expose(), "access-1");
}

#[tokio::test]
async fn a_second_login_of_the_same_user_renews_the_account() {
    let setup = Setup::logged_out().await;
    // Two tokens of {"sub":"u1"}, and between them one of {"sub":"u2"}.
    let logins = [
        ("a", "e30.eyJzdWIiOiJ1MSJ9.YQ"),
        ("b", "e30.eyJzdWIiOiJ1MiJ9.YQ"),
        ("c", "e30.eyJzdWIiOiJ1MSJ9.Yg"),
    ];
    let ids = logins.map(|(name, token)| {
        let login = Token { access_token: Secret::new(token), ..a_login(name) };
        setup.registry().add_login(&login, None, None).unwrap()
    });
    assert_eq!(ids[0], ids[2]);
    let accounts = setup.client().accounts().await.unwrap();
    assert_eq!((accounts.len(), accounts[0].active), (2, true));
    assert_eq!(setup.home.access_token(), "e30.eyJzdWIiOiJ1MSJ9.Yg");
}

#[tokio::test]
async fn the_users_choice_is_written_for_the_cli_once_the_old_token_is_safe() {
    let fleet = Fleet::of(2).await;
    let home = &fleet.setup.home;
    // The CLI has rotated its token meanwhile, and keeps a field of its own.
    let mut rotated = token("cli", 3600, &fleet.hosts[0].url());
    rotated["of_the_cli"] = json!([1]);
    home.write(&rotated);
    let (real, link) = (home.path().join("real.json"), home.credentials());
    std::fs::rename(&link, &real).unwrap();
    symlink("../real.json", &link).unwrap();
    let client = fleet.client();
    let account = client.set_active_account("bob").await.unwrap();
    assert_eq!((account.id.as_str(), account.active), ("bob", true));
    assert_eq!(
        (home.access_token(), home.document()["refresh_token"].as_str().unwrap()),
        (access("bob", 1), refresh("bob", 1).as_str())
    );
    assert_eq!(home.document()["resource_url"], fleet.hosts[1].url());
    assert_eq!(home.document()["of_the_cli"], json!([1]));
    assert!(link.symlink_metadata().unwrap().is_symlink());
    let store = fleet.store().to_string();
    for kept in [refresh("ann", 0), refresh("bob", 1), refresh("cli", 0)] {
        assert!(store.contains(&kept), "{kept}");
    }
    assert_eq!(who_answers(&client).await, "bob");
    assert_eq!(active(&fleet.client()).await, "bob");
    assert_eq!(offered(&fleet.setup), [refresh("bob", 0)]);
}

#[tokio::test]
async fn a_chosen_account_is_renewed_for_the_cli() {
    let fleet = Fleet::expiring_in(&[3600, -60]).await;
    let client = fleet.client();
    client.set_active_account("bob").await.unwrap();
    assert_eq!(fleet.setup.home.access_token(), access("bob", 1));
    assert_eq!(fleet.stored("bob")["token"]["refresh_token"], refresh("bob", 1));
    assert_eq!(who_answers(&client).await, "bob");
    client.set_active_account("ann").await.unwrap();
    assert_eq!(fleet.setup.home.access_token(), access("ann", 1));
    assert_eq!(fleet.stored("bob")["token"]["refresh_token"], refresh("bob", 1));
    // Now the file holds this login, so the choice puts no refresh token at stake.
    client.set_active_account("ann").await.unwrap();
    assert_eq!(offered(&fleet.setup), [refresh("bob", 0), refresh("ann", 0)]);
}

#[tokio::test]
async fn a_refresh_of_an_account_that_is_not_the_clis_leaves_its_file() {
    let fleet = Fleet::expiring_in(&[3600, -60]).await;
    let before = fleet.setup.home.bytes();
    fleet.hosts[0].on_every_api(quota());
    assert_eq!(who_answers(&fleet.client()).await, "bob");
    assert_eq!(offered(&fleet.setup), [refresh("bob", 0)]);
    assert_eq!(fleet.stored("bob")["token"]["access_token"], access("bob", 1));
    assert_eq!(fleet.setup.home.bytes(), before);
}

#[tokio::test]
async fn a_removed_account_stays_removed() {
    let fleet = Fleet::of(2).await;
    let (home, old) = (&fleet.setup.home, fleet.setup.home.document());
    let client = fleet.client();
    client.remove_account("ann", false).await.unwrap();
    assert!(!home.credentials().exists());
    let store = fleet.store().to_string();
    assert!(!store.contains(&access("ann", 0)) && !store.contains(&refresh("ann", 0)), "{store}");
    assert_eq!(active(&client).await, "bob");
    // A running CLI writes the login that it still knows; another client starts.
    home.write(&old);
    for client in [&client, &fleet.client()] {
        let ids: Vec<_> = client.accounts().await.unwrap().into_iter().map(|account| account.id).collect();
        assert_eq!(ids, ["bob"]);
        assert_eq!(who_answers(client).await, "bob");
    }
    assert_eq!((home.document(), fleet.setup.events.count(EventKind::StoreRepaired)), (old, 0));
    // A later login with the CLI is another account, and is reported once.
    home.write(&token("ann.later", 3600, &fleet.hosts[0].url()));
    for client in [&client, &fleet.client()] {
        assert_eq!(client.accounts().await.unwrap().len(), 2);
        assert_eq!(active(client).await, "bob");
    }
    assert_eq!(fleet.setup.events.count(EventKind::StoreRepaired), 1);
    client.remove_account("bob", false).await.unwrap();
    assert_eq!(home.access_token(), access("ann.later", 0));
    assert!(!who_answers(&client).await.is_empty());
    assert!(fleet.full_requests() == [1, 2]);
}

#[tokio::test]
async fn the_only_account_too_can_be_removed_for_good() {
    let setup = Setup::expired().await;
    let client = setup.client();
    client.access_token(None).await.unwrap();
    let old = setup.home.document();
    client.remove_account(ONLY, false).await.unwrap();
    assert!(!setup.home.credentials().exists());
    setup.home.write(&old);
    for client in [client, setup.client()] {
        assert!(client.accounts().await.unwrap().is_empty());
        assert_eq!(client.fetch(chat(false)).await.unwrap_err().code(), Code::NotLoggedIn);
    }
    assert_eq!(setup.server.token_requests(), 1);
    setup.registry().add_login(&a_login("ann"), None, None).unwrap();
    assert_eq!(setup.client().accounts().await.unwrap().len(), 1);
    assert_eq!(setup.home.access_token(), access("ann", 0));
}

#[tokio::test]
async fn a_crash_between_the_two_writes_of_a_refresh_is_put_right() {
    let fleet = Fleet::expiring_in(&[-60, 3600]).await;
    let spent = fleet.setup.home.document();
    assert_eq!(who_answers(&fleet.client()).await, "ann");
    let written = fleet.setup.home.bytes();
    // The store was written, and the credentials file was not.
    fleet.setup.home.write(&spent);
    let client = fleet.client();
    assert_eq!(who_answers(&client).await, "ann");
    assert_eq!(fleet.setup.home.document(), serde_json::from_slice::<Value>(&written).unwrap());
    assert_eq!(client.accounts().await.unwrap().len(), 2);
    assert_eq!(offered(&fleet.setup), [refresh("ann", 0)]);
    assert_eq!(fleet.setup.server.redeemed_again(), 0);
}

#[tokio::test]
async fn a_crash_between_the_writes_of_a_choice_loses_nothing() {
    let fleet = Fleet::of(2).await;
    let before = fleet.setup.home.bytes();
    fleet.client().set_active_account("bob").await.unwrap();
    // The choice was noted, and the credentials file was not written.
    std::fs::write(fleet.setup.home.credentials(), &before).unwrap();
    let client = fleet.client();
    assert_eq!(active(&client).await, "bob");
    assert_eq!(client.accounts().await.unwrap().len(), 2);
    assert_eq!(fleet.setup.home.bytes(), before);
    // The credentials file was written, and the store doesn't know its owner yet.
    fleet.setup.home.write(&token("bob", 30 * 24 * 3600, &fleet.hosts[1].url()));
    fleet.edit_store(|store| store["credentialsAccountId"] = json!("ann"));
    let client = fleet.client();
    assert_eq!((active(&client).await.as_str(), client.accounts().await.unwrap().len()), ("bob", 2));
    assert_eq!(who_answers(&client).await, "bob");
    assert_eq!(fleet.setup.events.count(EventKind::StoreRepaired), 0);
}

#[tokio::test]
async fn an_unknown_newer_token_of_the_clis_is_used_and_the_older_kept_and_not_redeemed() {
    let fleet = Fleet::expiring_in(&[120, 3600]).await;
    let client = fleet.client();
    assert_eq!(who_answers(&client).await, "ann");
    fleet.setup.server.know(&access("ann.cli", 0), &refresh("ann.cli", 0));
    let newer = token("ann.cli", 3600, &fleet.hosts[0].url());
    fleet.setup.home.write(&newer);
    let id = who_answers(&client).await;
    assert!(id != "ann" && id != "bob");
    assert_eq!(fleet.hosts[0].api_requests().last().unwrap().bearer(), access("ann.cli", 0));
    assert_eq!((active(&client).await, fleet.setup.home.document()), (id.clone(), newer.clone()));
    assert_eq!(fleet.stored("ann")["token"]["refresh_token"], refresh("ann", 0));

    // Both known good logins are out of quota. The older one is used until its token expires.
    fleet.hosts[0].on_api([quota()]);
    fleet.hosts[1].on_every_api(quota());
    assert_eq!(who_answers(&client).await, "ann");
    fleet.hosts[0].on_every_api(quota());
    fleet.pass_ms(180_000);
    assert_eq!(ask(&client).await.status, 429);
    assert_eq!(client.access_token(Some("ann")).await.unwrap_err().code(), Code::RefreshTokenInvalid);
    assert!(!offered(&fleet.setup).contains(&refresh("ann", 0)), "{:?}", offered(&fleet.setup));
    assert!(client.accounts().await.unwrap().iter().all(|account| account.id != "ann"));
    assert_eq!(fleet.setup.home.document(), newer);

    client.set_active_account("ann").await.unwrap();
    assert!(offered(&fleet.setup).contains(&refresh("ann", 0)));
    assert_eq!(fleet.setup.home.access_token(), access("ann", 1));
    assert_eq!(fleet.stored(&id)["token"]["refresh_token"], refresh("ann.cli", 0));
}

#[tokio::test]
async fn an_unknown_older_token_supersedes_nothing() {
    let fleet = Fleet::of(2).await;
    let backup = token("backup", 60, &fleet.hosts[0].url());
    fleet.setup.home.write(&backup);
    let hours_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(in_seconds(-36_000));
    std::fs::File::options()
        .append(true)
        .open(fleet.setup.home.credentials())
        .unwrap()
        .set_modified(hours_ago)
        .unwrap();
    fleet.edit_store(|store| store["credentialsAccountId"] = json!("ann"));
    let client = fleet.client();
    assert_eq!((active(&client).await.as_str(), who_answers(&client).await.as_str()), ("ann", "ann"));
    assert_eq!(client.accounts().await.unwrap().len(), 3);
    assert_eq!(fleet.setup.home.document(), backup);
}

#[tokio::test]
async fn the_store_works_without_a_usable_credentials_file() {
    for contents in [None, Some(""), Some("{broken"), Some("{}")] {
        let fleet = Fleet::expiring_in(&[-60, 3600]).await;
        let path = fleet.setup.home.credentials();
        std::fs::remove_file(&path).unwrap();
        if let Some(contents) = contents {
            std::fs::write(&path, contents).unwrap();
        }
        let client = fleet.client();
        assert_eq!(who_answers(&client).await, "ann");
        fleet.hosts[0].on_every_api(quota());
        assert_eq!(who_answers(&client).await, "bob");
        assert_eq!(fleet.stored("ann")["token"]["access_token"], access("ann", 1));
        assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), contents);
        assert_eq!(fleet.setup.server.redeemed_again(), 0);
        // A choice sets an unreadable file aside whole.
        client.set_active_account("bob").await.unwrap();
        assert_eq!(fleet.setup.home.access_token(), access("bob", 1));
        let aside =
            fleet.setup.home.files().into_iter().find(|name| name.starts_with("oauth_creds.json.corrupt-"));
        let kept = aside.map(|name| std::fs::read_to_string(fleet.setup.home.qwen_dir().join(name)).unwrap());
        assert_eq!(kept.as_deref(), contents);
    }
}

#[tokio::test]
async fn unknown_fields_in_the_store_are_kept() {
    let fleet = Fleet::expiring_in(&[-60, 3600]).await;
    fleet.edit_store(|store| {
        store["theirs"] = json!({"deep": [1.5, null, "x"]});
        store["accounts"][0]["token"]["id_token"] = json!("kept");
    });
    fleet.hosts[0].on_every_api(quota());
    let client = fleet.client();
    assert_eq!(who_answers(&client).await, "bob");
    client.set_active_account("bob").await.unwrap();
    let store = fleet.store();
    assert_eq!(store["theirs"], json!({"deep": [1.5, null, "x"]}));
    assert_eq!((&store["version"], &store["activeAccountId"]), (&json!(1), &json!("bob")));
    assert_eq!(store["accounts"][0]["colour"], json!(["not", "ours"]));
    assert_eq!(store["accounts"][0]["token"]["id_token"], "kept");
    assert_eq!(store["accounts"][0]["token"]["access_token"], access("ann", 1));
    let ids: HashSet<_> = client.accounts().await.unwrap().into_iter().map(|account| account.id).collect();
    assert_eq!(ids, HashSet::from(["ann".to_owned(), "bob".to_owned()]));
    assert!(matches!(client.accounts().await.unwrap()[0].availability, Availability::Cooling(_)));
}
