//! Stores of the original plugin, of other versions, and damaged ones.

use qwen_accounts::Availability;
use qwen_base::{Clock, Code, Event, EventKind, Secret};
use qwen_client::{AccountInfo, Client};
use serde_json::{Value, json};

use crate::odd_places::Unchangeable;
use crate::support::fleet::{Fleet, NAMES, access, ask, quota, token, who, who_answers};
use crate::support::home::{make_pipe, private};
use crate::support::reply::Reply;
use crate::support::server::TOKEN_PATH;
use crate::support::setup::{ONLY, Setup, get, post};
use crate::support::time::soon;

const ORIGINAL_STORE: &str = r#"{
  "version": 1,
  "activeAccountId": "acct_mwutdvyg_7078d7e9",
  "accounts": [
    {
      "id": "acct_mwutdvyg_7078d7e9",
      "token": {
        "access_token": "access-one-AAAA",
        "refresh_token": "refresh-one-BBBB",
        "token_type": "Bearer",
        "expiry_date": 1893456000000,
        "resource_url": "https://portal.qwen.ai"
      },
      "resource_url": "https://portal.qwen.ai",
      "exhaustedUntil": 0,
      "accountKey": "refresh:refresh-one-BBBB",
      "createdAt": 1795531986952,
      "updatedAt": 1795531986957
    },
    {
      "id": "acct_mwutdvyi_60849c84",
      "token": {
        "access_token": "access-two-AAAA",
        "refresh_token": "refresh-two-BBBB",
        "token_type": "Bearer",
        "expiry_date": 1893459600000,
        "resource_url": "https://portal.qwen.ai"
      },
      "resource_url": "https://portal.qwen.ai",
      "exhaustedUntil": 1795533786957,
      "lastErrorCode": "insufficient_quota",
      "accountKey": "refresh:refresh-two-BBBB",
      "createdAt": 1795531986954,
      "updatedAt": 1795531986957
    },
    {
      "id": "acct_mwutdvyk_355ae76c",
      "token": {
        "access_token": "access-three-AAAA",
        "refresh_token": "refresh-three-BBBB",
        "token_type": "Bearer",
        "expiry_date": 1893463200000,
        "resource_url": "https://portal.qwen.ai"
      },
      "resource_url": "https://portal.qwen.ai",
      "exhaustedUntil": 0,
      "accountKey": "refresh:refresh-three-BBBB",
      "createdAt": 1795531986956,
      "updatedAt": 1795531986956
    }
  ]
}"#;
const ORIGINAL_CREDENTIALS: &str = r#"{
  "access_token": "access-one-AAAA",
  "refresh_token": "refresh-one-BBBB",
  "token_type": "Bearer",
  "expiry_date": 1893456000000,
  "resource_url": "https://portal.qwen.ai"
}"#;
const LEGACY: &str = r#"{ "access_token": "access-legacy-AAAA", "refresh_token": "refresh-legacy-BBBB", "expires": 1893456000000, "resource_url": "portal.qwen.ai" }"#;
const LEGACY_STRING: &str = r#"{ "access_token": "access-legacy-AAAA", "refresh_token": "refresh-legacy-BBBB", "token_type": "Bearer", "expiry_date": "1893456000000" }"#;
/// Just after the original wrote its store.
const THEN: u64 = 1_795_531_990_000;

/// A client that sends nothing to the host in the original's files.
fn client_at(setup: &Setup) -> Client {
    setup.client_with(&[("OPENCODE_QWEN_BASE_URL", &setup.server.url())], false)
}

async fn chats(setup: &Setup) -> String {
    let client = client_at(setup);
    let request = post(&format!("{}/chat/completions", client.base_url()), &json!({"messages": []}));
    let answer = client.fetch(request).await.unwrap();
    assert_eq!(answer.status, 200);
    who(&answer)
}

#[tokio::test]
async fn the_originals_store_is_taken_as_it_is() {
    let mut setup = Setup::logged_out().await;
    setup.clock = Clock::from_fn(|| THEN);
    std::fs::write(setup.home.store(), ORIGINAL_STORE).unwrap();
    std::fs::write(setup.home.credentials(), ORIGINAL_CREDENTIALS).unwrap();
    private(&setup.home.store());
    private(&setup.home.credentials());
    for name in ["one", "two", "three"] {
        setup.server.know(&format!("access-{name}-AAAA"), &format!("refresh-{name}-BBBB"));
    }
    let accounts = setup.client().accounts().await.unwrap();
    let ids: Vec<_> = accounts.iter().map(|account| account.id.as_str()).collect();
    assert_eq!(ids, ["acct_mwutdvyg_7078d7e9", "acct_mwutdvyi_60849c84", "acct_mwutdvyk_355ae76c"]);
    assert!(accounts.iter().all(|account| account.base_url == "https://portal.qwen.ai/v1"));
    let availabilities: Vec<_> = accounts.iter().map(|account| account.availability).collect();
    assert_eq!(
        availabilities,
        [Availability::Ready, Availability::Cooling(1_795_533_786_957), Availability::Ready]
    );
    assert_eq!((accounts[0].active, accounts[0].created_at), (true, 1_795_531_986_952));
    assert_eq!(chats(&setup).await, ids[0]);
    setup.server.on_api([quota()]);
    assert_eq!(chats(&setup).await, ids[2]);
    assert_eq!(setup.home.bytes(), ORIGINAL_CREDENTIALS.as_bytes());
    let (before, mut after): (Value, Value) = (
        serde_json::from_str(ORIGINAL_STORE).unwrap(),
        serde_json::from_slice(&std::fs::read(setup.home.store()).unwrap()).unwrap(),
    );
    for field in ["exhaustedUntil", "lastErrorCode", "coolingReason", "updatedAt", "lastError", "binding"] {
        after["accounts"][0].as_object_mut().unwrap().remove(field);
    }
    for (field, value) in after["accounts"][0].as_object().unwrap() {
        assert_eq!(value, &before["accounts"][0][field], "{field}");
    }
    // It has answered, so its host is now known.
    after["accounts"][2].as_object_mut().unwrap().remove("binding");
    assert_eq!(after["accounts"][1], before["accounts"][1]);
    assert_eq!(after["accounts"][2], before["accounts"][2]);
    assert_eq!(after["activeAccountId"], before["activeAccountId"]);
    assert_eq!(setup.events.count(EventKind::StoreRepaired), 0);
}

fn write_legacy(setup: &Setup, contents: &str) {
    std::fs::create_dir_all(setup.home.legacy().parent().unwrap()).unwrap();
    std::fs::write(setup.home.legacy(), contents).unwrap();
}

#[tokio::test]
async fn the_originals_old_token_file_is_taken_over_once_and_left_in_place() {
    for contents in [LEGACY, LEGACY_STRING] {
        let setup = Setup::logged_out().await;
        write_legacy(&setup, contents);
        setup.server.know("access-legacy-AAAA", "refresh-legacy-BBBB");
        let first = chats(&setup).await;
        assert_eq!(chats(&setup).await, first);
        assert_eq!(setup.client().accounts().await.unwrap().len(), 1);
        assert_eq!(std::fs::read_to_string(setup.home.legacy()).unwrap(), contents);
        setup.client().remove_account(&first, false).await.unwrap();
        assert!(setup.client().accounts().await.unwrap().is_empty());
        assert_eq!(std::fs::read_to_string(setup.home.legacy()).unwrap(), contents);
    }
}

#[tokio::test]
async fn an_old_token_file_beside_a_login_is_not_redeemed() {
    let setup = Setup::fresh().await;
    write_legacy(&setup, LEGACY);
    assert_eq!(chats(&setup).await, ONLY);
    let accounts = setup.client().accounts().await.unwrap();
    assert_eq!(
        accounts
            .iter()
            .filter(|account| account.active)
            .map(|account| account.id.as_str())
            .collect::<Vec<_>>(),
        [ONLY]
    );
    // Its access token may be used, but the server doesn't know it.
    setup.server.revoke("access-0");
    setup.server.on_token([Reply::oauth_error(400, "invalid_grant")]);
    let client = client_at(&setup);
    let request = get(&format!("{}/models", client.base_url()));
    assert_eq!(client.fetch(request).await.unwrap().status, 401);
    assert_eq!(setup.server.api_requests().last().unwrap().bearer(), "access-legacy-AAAA");
    assert!(
        setup
            .server
            .requests(TOKEN_PATH)
            .iter()
            .all(|seen| seen.field("refresh_token") != "refresh-legacy-BBBB")
    );
}

#[tokio::test]
async fn an_old_token_file_is_still_known_after_many_rotations() {
    let setup = Setup::logged_out().await;
    write_legacy(&setup, LEGACY);
    setup.server.know("access-legacy-AAAA", "refresh-legacy-BBBB");
    let manager = setup.manager();
    let id = manager.snapshot().await.unwrap().document.active_id().unwrap().to_owned();
    let mut current = manager.token(&id, None).await.unwrap();
    for _ in 0..20 {
        current = manager.token(&id, Some(&Secret::new(current.access_token.expose()))).await.unwrap();
    }
    assert_eq!(setup.server.redemptions(), 20);
    assert_eq!(setup.client().accounts().await.unwrap().len(), 1);
    assert_eq!(setup.events.count(EventKind::StoreRepaired), 0);
}

/// Returns the file that was set aside.
fn set_aside(fleet: &Fleet) -> Vec<std::path::PathBuf> {
    let names =
        fleet.setup.home.files().into_iter().filter(|name| name.starts_with("oauth_accounts.json.corrupt-"));
    names.map(|name| fleet.setup.home.qwen_dir().join(name)).collect()
}

#[tokio::test]
async fn a_damaged_store_is_kept_whole_and_what_reads_as_an_account_is_used() {
    let fleet = Fleet::of(3).await;
    let text = serde_json::to_string_pretty(&fleet.store()).unwrap();
    let third = text.find("\"cyd\"").unwrap();
    let mut version_2 = fleet.store();
    version_2["version"] = json!(2);
    let mut odd = fleet.store();
    odd["accounts"].as_array_mut().unwrap().insert(1, json!("no account"));
    let (none, all): (&[&str], &[&str]) = (&[], &NAMES[..3]);
    let cases = [
        (b"".to_vec(), none),
        (b"null".to_vec(), none),
        (b"[]".to_vec(), none),
        (b"{\"version\":1}".to_vec(), none),
        (b"\x00\xff\xfe{{{\"\x80".to_vec(), none),
        (text.as_bytes()[..third].to_vec(), &NAMES[..2]),
        (text.as_bytes()[3..].to_vec(), all),
        (version_2.to_string().into_bytes(), all),
        (odd.to_string().into_bytes(), all),
    ];
    for (contents, recovered) in cases {
        let fleet = Fleet::of(3).await;
        std::fs::write(fleet.setup.home.store(), &contents).unwrap();
        let shown = String::from_utf8_lossy(&contents[..contents.len().min(40)]).into_owned();
        let (first, second) = (fleet.client(), fleet.client());
        for client in [&first, &second, &first] {
            // The credentials file's account is listed in any case.
            let accounts = client.accounts().await.unwrap();
            assert!(accounts.len() >= recovered.len().max(1), "{shown}");
            for id in recovered {
                assert!(accounts.iter().any(|account| account.id == *id), "{shown}: {id}");
            }
        }
        let aside = set_aside(&fleet);
        assert_eq!(aside.len(), 1, "{shown}");
        assert_eq!(std::fs::read(&aside[0]).unwrap(), contents, "{shown}");
        assert_eq!(fleet.setup.events.count(EventKind::StoreRepaired), 1, "{shown}");
        assert_eq!(fleet.store()["version"], 1);
    }
}

/// Damages the store so that it can't be moved aside; `None` where that is not possible.
fn damage_for_good(fleet: &Fleet, how: &str) -> Option<Unchangeable> {
    let store = fleet.setup.home.store();
    match how {
        "huge" => {
            let file = std::fs::File::options().write(true).open(&store).unwrap();
            file.set_len(10 << 30).unwrap();
            None
        }
        "read-only directory" => {
            std::fs::write(&store, "{").unwrap();
            Unchangeable::make(fleet.setup.home.qwen_dir(), "i")
        }
        // The copy could be made, and would be made again and again.
        _ => {
            let target = fleet.setup.home.path().join("target");
            std::fs::create_dir(&target).unwrap();
            std::fs::rename(&store, target.join("store.json")).unwrap();
            std::fs::write(target.join("store.json"), "{").unwrap();
            std::os::unix::fs::symlink(target.join("store.json"), &store).unwrap();
            Unchangeable::make(target.join("store.json"), "i")
        }
    }
}

#[tokio::test]
async fn a_damaged_store_that_can_not_be_moved_aside_is_not_copied_and_the_other_login_works() {
    for how in ["huge", "read-only directory", "link to a read-only file"] {
        let fleet = Fleet::of(2).await;
        let unchangeable = damage_for_good(&fleet, how);
        if unchangeable.is_none() && how != "huge" {
            return;
        }
        for _ in 0..3 {
            let client = fleet.client();
            assert_eq!(ask(&client).await.status, 200, "{how}");
            assert_eq!(client.accounts().await.unwrap().len(), 1, "{how}");
        }
        assert!(set_aside(&fleet).is_empty(), "{how}");
        let told = fleet.setup.events.all();
        let names_store = |event: &Event| event.message.contains("oauth_accounts.");
        assert!(told.iter().any(names_store), "{how}: {told:?}");
        // Without a login beside it, the store is the reason.
        if how == "huge" {
            std::fs::remove_file(fleet.setup.home.credentials()).unwrap();
            let error = fleet.client().accounts().await.unwrap_err();
            assert_eq!(error.code(), Code::StoreCorrupt);
            assert!(error.message().contains("larger than 16 MiB"), "{error}");
            // The home's end reads all files.
            std::fs::remove_file(fleet.setup.home.store()).unwrap();
        }
    }
}

#[tokio::test]
async fn a_directory_or_a_pipe_in_the_stores_place_is_moved_aside() {
    let fleet = Fleet::of(1).await;
    let store = fleet.setup.home.store();
    std::fs::remove_file(&store).unwrap();
    std::fs::create_dir(&store).unwrap();
    std::fs::write(store.join("inside"), "kept").unwrap();
    assert_eq!(ask(&fleet.client()).await.status, 200);
    assert_eq!(std::fs::read_to_string(set_aside(&fleet)[0].join("inside")).unwrap(), "kept");

    let fleet = Fleet::of(1).await;
    let store = fleet.setup.home.store();
    std::fs::remove_file(&store).unwrap();
    make_pipe(&store);
    let client = fleet.client();
    assert_eq!(soon("an answer", ask(&client)).await.status, 200);
}

#[tokio::test]
async fn accounts_with_the_same_id_or_none_get_ids_of_their_own() {
    let fleet = Fleet::of(4).await;
    fleet.edit_store(|store| {
        store["accounts"][1]["id"] = json!("ann");
        store["accounts"][2].as_object_mut().unwrap().remove("id");
        store["accounts"][3]["id"] = json!(7);
    });
    let client = fleet.client();
    let ids = |accounts: Vec<AccountInfo>| accounts.into_iter().map(|account| account.id).collect::<Vec<_>>();
    let first = ids(client.accounts().await.unwrap());
    assert_eq!(first[0], "ann");
    let mut distinct = first.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!((distinct.len(), distinct.iter().any(String::is_empty)), (4, false));
    assert_eq!(ids(fleet.client().accounts().await.unwrap()), first);
    for (id, host) in first.iter().zip(&fleet.hosts) {
        client.set_active_account(id).await.unwrap();
        assert_eq!(&who_answers(&client).await, id);
        assert_eq!(host.api_requests().len(), 1);
    }
    fleet.assert_apart();
}

#[tokio::test]
async fn accounts_without_a_usable_token_are_kept_and_not_asked() {
    let fleet = Fleet::of(3).await;
    std::fs::remove_file(fleet.setup.home.credentials()).unwrap();
    let odd = json!({"access_token": 5});
    fleet.edit_store(|store| {
        store["accounts"][0]["token"] = odd.clone();
        store["accounts"][1].as_object_mut().unwrap().remove("token");
    });
    let client = fleet.client();
    assert_eq!(who_answers(&client).await, "cyd");
    let accounts = client.accounts().await.unwrap();
    let availabilities: Vec<_> = accounts.iter().map(|account| account.availability).collect();
    assert_eq!(availabilities, [Availability::Dead, Availability::Dead, Availability::Ready]);
    client.set_active_account("cyd").await.unwrap();
    assert_eq!(fleet.store()["accounts"].as_array().unwrap().len(), 3);
    assert_eq!(fleet.stored("ann")["token"], odd);
}

#[tokio::test]
async fn times_in_the_far_future_lock_no_account_out() {
    let fleet = Fleet::of(2).await;
    let never = 8_640_000_000_000_000_u64;
    fleet.edit_store(|store| {
        store["degradedAt"] = json!(never);
        for account in store["accounts"].as_array_mut().unwrap() {
            for field in ["exhaustedUntil", "createdAt", "updatedAt"] {
                account[field] = json!(never);
            }
            account["rejected"] = json!({"token": "x", "at": never});
        }
    });
    assert_eq!(who_answers(&fleet.client()).await, "ann");
    // A login of the CLI's is used all the same.
    fleet.setup.home.write(&token("ann.cli", 3600, &fleet.hosts[0].url()));
    assert_eq!(ask(&fleet.client()).await.status, 200);
    assert_eq!(fleet.hosts[0].api_requests()[1].bearer(), access("ann.cli", 0));
}
