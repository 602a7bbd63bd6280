#![expect(clippy::disallowed_methods, reason = "tests make files that no writer of ours would")]

use std::fs;
use std::path::Path;

use Serving::{Maybe, No, Unlikely, Yes};

use super::*;
use qwen_accounts::{Key, Token};
use qwen_base::{KeyPlan, Secret, api_base_url};

const NOW: u64 = 1_700_000_000_000;
const TOKEN_PLAN: &str = "https://token-plan.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1";

fn open(directory: &Path) -> ModelBook {
    open_at(directory, NOW)
}

fn open_at(directory: &Path, now: u64) -> ModelBook {
    ModelBook::new(directory.join("models.json"), Clock::from_fn(move || now), Events::none(), Logger::off())
}

fn key(plan: Option<KeyPlan>, base_url: &str) -> Record {
    let base_url = api_base_url(base_url).unwrap();
    let key = Key { secret: Secret::new("sk-1"), plan, region: None, base_url, tier: None };
    Record::of_key("acct_key", None, &key, NOW)
}

fn login() -> Record {
    let token = Token {
        access_token: Secret::new("t"),
        refresh_token: None,
        token_type: "Bearer".into(),
        resource_url: None,
        scope: None,
        expires_at: NOW,
    };
    Record::new("acct_login", None, &token, NOW)
}

fn list(ids: &[&str]) -> ServerList {
    let mut models: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
    models.sort();
    ServerList { models, left_out: 0 }
}

#[test]
fn the_catalog_is_used_until_the_server_has_answered() {
    let directory = tempfile::tempdir().unwrap();
    let book = open(directory.path());
    let plan = key(Some(KeyPlan::TokenPlan), TOKEN_PLAN);
    let other = key(None, "https://models.example/v1");
    let workspace =
        key(Some(KeyPlan::DashScope), "https://ws1.eu-central-1.maas.aliyuncs.com/compatible-mode/v1");
    for (record, model, serving) in [
        (&login(), "coder-model", Yes),
        (&login(), "qwen3.7-plus", Maybe),
        (&plan, "qwen3.7-plus", Yes),
        (&plan, "qwen3-coder-plus", Unlikely),
        (&plan, "qwen9-new", Maybe),
        (&plan, "coder-model", No),
        (&plan, "", Maybe),
        (&other, "anything", Yes),
        (&workspace, "qwen3-coder-plus", Yes),
    ] {
        assert_eq!(book.serving(record, model), serving, "{record:?} {model}");
    }
    for record in [&plan, &other] {
        book.keep(&ListSource::of(record).unwrap(), Some(&list(&["mine", "qwen3-coder-plus"])), true);
        assert_eq!(book.serving(record, "mine"), Yes);
        assert_eq!(book.serving(record, "qwen9-new"), Maybe);
    }
    assert_eq!(book.serving(&other, "coder-model"), Maybe);
    book.keep(&ListSource::of(&plan).unwrap(), Some(&list(&["qwen3-coder-plus"])), true);
    assert_eq!(book.serving(&plan, "qwen3.7-plus"), No);
    assert_eq!(book.serving(&plan, "coder-model"), No);
    // A list that can't be read, and a server that doesn't answer.
    for was_reached in [true, false] {
        book.keep(&ListSource::of(&plan).unwrap(), None, was_reached);
        assert_eq!(book.list_of(&plan).unwrap(), ["qwen3-coder-plus"]);
    }
    // The key now belongs to another server.
    assert_eq!(book.list_of(&key(Some(KeyPlan::TokenPlan), "https://models.example/v1")), None);
}

#[test]
fn other_processes_know_an_unavailable_model_for_a_day() {
    let directory = tempfile::tempdir().unwrap();
    let plan = key(Some(KeyPlan::TokenPlan), TOKEN_PLAN);
    let book = open(directory.path());
    assert_eq!(book.serving(&plan, "qwen3.7-plus"), Yes);
    book.note_unavailable("acct_key", "qwen3.7-plus");
    let another = open(directory.path());
    for book in [&book, &another] {
        assert_eq!(book.serving(&plan, "qwen3.7-plus"), Unlikely);
        assert_eq!(book.serving(&plan, "qwen3.7-max"), Yes);
    }
    let tomorrow = open_at(directory.path(), NOW + UNAVAILABLE_MS);
    assert_eq!(tomorrow.serving(&plan, "qwen3.7-plus"), Yes);
    book.forget("acct_key");
    assert_eq!(open(directory.path()).serving(&plan, "qwen3.7-plus"), Yes);
}

#[test]
fn one_process_asks_a_server_once_a_day() {
    let directory = tempfile::tempdir().unwrap();
    let source = ListSource::of(&key(None, "https://models.example/v1")).unwrap();
    let claimed: usize = std::thread::scope(|scope| {
        let claims: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| open(directory.path()).claim(std::slice::from_ref(&source)).len()))
            .collect();
        claims.into_iter().map(|claim| claim.join().unwrap()).sum()
    });
    assert_eq!(claimed, 1);
    let due_at = |now| open_at(directory.path(), now).is_due(&source, false);
    // The process may have ended before the answer.
    assert!(!due_at(NOW) && due_at(NOW + CLAIM_MS));
    open(directory.path()).keep(&source, None, true);
    assert!(!due_at(NOW + REFRESH_MS - 1) && due_at(NOW + REFRESH_MS));
    open(directory.path()).keep(&source, None, false);
    assert!(!due_at(NOW) && due_at(NOW + UNREACHED_MS));
    // A request doesn't ask a server that was never asked.
    let other = ListSource { account: "acct_new".into(), ..source };
    assert!(!open(directory.path()).is_due(&other, true) && open(directory.path()).is_due(&other, false));
}

#[test]
fn an_unusable_file_is_ignored_and_kept() {
    let source = ListSource::of(&key(None, "https://models.example/v1")).unwrap();
    for contents in ["", "{ no", "[]", r#"{"version":1,"accounts":{"acct_key":{"models":7}}}"#] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("models.json"), contents).unwrap();
        let book = open(directory.path());
        assert_eq!(book.serving(&key(Some(KeyPlan::TokenPlan), TOKEN_PLAN), "qwen3.7-plus"), Yes);
        assert_eq!(fs::read_to_string(directory.path().join("models.json")).unwrap(), contents);
        book.keep(&source, Some(&list(&["m"])), true);
        let aside = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        let aside = aside.filter(|path| path.to_string_lossy().contains("corrupt")).collect::<Vec<_>>();
        assert_eq!(aside.len(), 1, "{contents}");
        assert_eq!(fs::read_to_string(&aside[0]).unwrap(), contents);
        assert!(open(directory.path()).list_of(&key(None, "https://models.example/v1")).is_some());
    }
}

#[test]
fn a_file_of_a_later_version_stays_and_memory_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let contents = r#"{"version":2,"accounts":[]}"#;
    fs::write(directory.path().join("models.json"), contents).unwrap();
    let book = open(directory.path());
    let record = key(None, "https://models.example/v1");
    book.keep(&ListSource::of(&record).unwrap(), Some(&list(&["m"])), true);
    assert_eq!(book.list_of(&record).unwrap(), ["m"]);
    assert_eq!(fs::read_to_string(directory.path().join("models.json")).unwrap(), contents);
}

#[test]
#[cfg(unix)]
fn what_is_not_a_file_delays_nothing() {
    let record = key(None, "https://models.example/v1");
    let make: [fn(&Path); 3] = [
        |path| fs::create_dir(path).unwrap(),
        |path| {
            rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
        },
        |path| fs::File::create(path).unwrap().set_len(50 * 1024 * 1024).unwrap(),
    ];
    for make in make {
        let directory = tempfile::tempdir().unwrap();
        make(&directory.path().join("models.json"));
        let book = open(directory.path());
        assert_eq!(book.list_of(&record), None);
        book.keep(&ListSource::of(&record).unwrap(), Some(&list(&["m"])), true);
        assert_eq!(open(directory.path()).list_of(&record).unwrap(), ["m"]);
    }
}
