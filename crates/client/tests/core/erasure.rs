//! Removing an account erases its tokens, or names the files that still hold one.

use std::fs;

use qwen_base::EventKind;
use serde_json::json;

use crate::support::fleet::Fleet;
use crate::support::home::document;
use crate::support::reply::Reply;
use crate::support::setup::{ONLY, Setup};

#[tokio::test]
async fn damaged_copies_are_erased_and_foreign_copies_named() {
    let fleet = Fleet::of(2).await;
    let qwen = fleet.setup.home.qwen_dir();
    let store = fleet.store();
    let damaged = format!("{store:#}").replace("\"version\": 1", "\"version\" 1");
    // The copy was made before the last refresh.
    let older = damaged.replace("access.ann.0", "access.ann.older.7");
    for (name, contents) in [
        ("oauth_accounts.json.corrupt-1", damaged.as_str()),
        ("oauth_accounts.json.corrupt-2", &older),
        (".oauth_accounts.json.x.1.tmp", "{\"access_token\":\"access.ann.0\"}"),
        ("backup.json", damaged.as_str()),
    ] {
        fs::write(qwen.join(name), contents).unwrap();
    }
    let left = fleet.client().remove_account("ann", false).await.unwrap();
    assert_eq!(left, [qwen.join("backup.json")]);
    fs::remove_file(qwen.join("backup.json")).unwrap();
    for entry in fs::read_dir(&qwen).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("access.ann") && !text.contains("refresh.ann"), "{}: {text}", path.display());
    }
    // The other account keeps everything.
    let copy = fs::read_to_string(qwen.join("oauth_accounts.json.corrupt-1")).unwrap();
    assert!(copy.contains("access.bob.0") && copy.contains("refresh.bob.0"));
}

#[tokio::test]
async fn the_target_of_a_linked_credentials_file_is_named() {
    let setup = Setup::fresh().await;
    let elsewhere = setup.home.path().join("elsewhere.json");
    fs::rename(setup.home.credentials(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, setup.home.credentials()).unwrap();
    let left = setup.client().remove_account(ONLY, false).await.unwrap();
    assert_eq!(left, [elsewhere.canonicalize().unwrap()]);
    assert!(setup.home.credentials().symlink_metadata().is_err());
    // The search for leaked tokens at the end must find nothing of this test's.
    fs::remove_file(elsewhere).unwrap();
}

#[tokio::test]
async fn only_a_server_that_offers_revocation_is_asked_to_revoke() {
    const METADATA: &str = "/.well-known/oauth-authorization-server";
    for (offered, revoked) in [(Some("/revoke"), true), (None, false)] {
        let setup = Setup::fresh().await;
        setup.home.write(&document("access-0", "refresh-0", u64::MAX >> 12, &setup.server.url()));
        let endpoint = offered.map(|path| format!("{}{path}", setup.server.url()));
        setup.server.on_api([Reply::json(200, &json!({"revocation_endpoint": endpoint})), Reply::empty(200)]);
        assert!(setup.client().remove_account(ONLY, true).await.unwrap().is_empty());
        assert_eq!(setup.server.requests(METADATA).len(), 1);
        let sent = setup.server.requests("/revoke");
        assert_eq!(sent.len(), usize::from(revoked));
        if let Some(request) = sent.first() {
            assert!(String::from_utf8_lossy(&request.body).contains("token=refresh-0"));
        }
        let told = setup.events.all();
        let told = told.iter().find(|event| event.kind == EventKind::Config).unwrap();
        let part = if revoked { "has revoked" } else { "support revocation" };
        assert!(told.message.contains(part), "{}", told.message);
    }
}

#[tokio::test]
async fn a_later_choice_is_newer_than_a_logout_of_the_host() {
    let setup = Setup::fresh().await;
    let client = setup.client();
    client.note_host_login().await.unwrap();
    assert!(client.had_host_login().await.unwrap());
    client.set_active_account(ONLY).await.unwrap();
    assert!(!client.had_host_login().await.unwrap());
    client.note_host_login().await.unwrap();
    client.login(crate::support::setup::quiet_login(), |_| {}).await.unwrap();
    assert!(!client.had_host_login().await.unwrap());
}

#[tokio::test]
async fn labels_and_errors_of_a_file_are_one_short_line() {
    let fleet = Fleet::of(2).await;
    fleet.edit_store(|store| {
        store["accounts"][0]["label"] = format!("\u{1b}[2J{}", "x".repeat(90_000)).into();
        store["accounts"][0]["lastError"] =
            json!({"code": "E", "message": format!("\u{1b}]0;{}", "y".repeat(90_000)), "at": 1});
        store["accounts"][1]["label"] = "\u{200b}\u{2060} \u{e0001}".into();
    });
    let accounts = fleet.client().accounts().await.unwrap();
    assert_eq!(accounts[0].label.chars().count(), 100);
    let message = &accounts[0].last_error.as_ref().unwrap().message;
    assert!(message.chars().count() <= 1_000);
    assert!(!accounts[0].label.contains('\u{1b}') && !message.contains('\u{1b}'));
    // A label that shows nothing is none.
    assert!(accounts[1].label.is_ascii() && !accounts[1].label.is_empty(), "{}", accounts[1].label);
}
