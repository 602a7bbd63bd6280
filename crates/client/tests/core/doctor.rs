//! Findings of the doctor, which only reads. `doctor_commands.rs` and the Node tests apply its fixes.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use qwen_base::Clock;
use qwen_client::{Finding, FindingState};
use serde_json::json;

use crate::support::fleet::Fleet;
use crate::support::home::in_seconds;
use crate::support::proxies::connect;
use crate::support::reply::Reply;
use crate::support::setup::Setup;
use crate::support::time::soon;

/// Gives a login's files the right modes: the tests write them with the machine's default.
pub fn tidy(setup: &Setup) {
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set(&setup.home.qwen_dir(), 0o700);
    if setup.home.credentials().exists() {
        set(&setup.home.credentials(), 0o600);
    }
    if setup.home.store().exists() {
        set(&setup.home.store(), 0o600);
    }
}

async fn examine_with(setup: &Setup, variables: &[(&str, &str)]) -> Vec<Finding> {
    tidy(setup);
    soon("the doctor's findings", setup.doctor(variables).examine()).await.unwrap()
}

async fn examine(setup: &Setup) -> Vec<Finding> {
    examine_with(setup, &[]).await
}

fn broken(findings: &[Finding]) -> Vec<(&'static str, &str)> {
    let broken = findings.iter().filter(|finding| finding.state == FindingState::Broken);
    broken.map(|finding| (finding.id, finding.message.as_str())).collect()
}

fn only<'a>(findings: &'a [Finding], id: &str) -> &'a str {
    let found = broken(findings);
    let [(found_id, message)] = found[..] else { panic!("not one thing is broken: {found:?}") };
    assert_eq!(found_id, id, "{message}");
    message
}

fn fixes(findings: &[Finding]) -> Vec<&str> {
    findings.iter().filter_map(|finding| finding.fix.as_deref()).collect()
}

#[tokio::test]
async fn an_expired_login_is_healthy_and_is_not_refreshed() {
    let setup = Setup::expired().await;
    let before = (setup.home.bytes(), setup.home.files());
    let findings = examine(&setup).await;
    assert!(findings.iter().all(|finding| finding.state == FindingState::Ok), "{findings:?}");
    assert_eq!((setup.home.bytes(), setup.home.files()), before);
    assert_eq!((setup.server.redemptions(), setup.server.token_requests()), (0, 0));
    let asked = setup.server.requests("/v1/models");
    assert_eq!((asked.len(), setup.server.all_requests()), (1, 2));
    assert_eq!((asked[0].uri.path(), asked[0].headers.get("authorization")), ("/v1/models", None));
}

#[tokio::test]
async fn no_finding_holds_a_token() {
    let setup = Setup::fresh().await;
    setup.server.revoke("access-0");
    fs::write(
        setup.home.store(),
        r#"{"version":1,"accounts":[{"id":"a","token":{"access_token":"access-9"}}"#,
    )
    .unwrap();
    let findings = format!("{:?}", examine(&setup).await);
    for secret in ["access-0", "refresh-0", "access-9"] {
        assert!(!findings.contains(secret), "{findings}");
    }
    for variable in ["SSL_CERT_FILE", "QWEN_CLI_PATH", "OPENCODE_QWEN_ACCOUNTS_PATH"] {
        let key = "sk-sp-0123456789abcdef";
        let findings = examine_with(&setup, &[(variable, &format!("/dev/null/{key}"))]).await;
        let findings = format!("{findings:?}");
        assert!(findings.contains("***") && !findings.contains(key), "{findings}");
    }
}

#[tokio::test]
async fn a_damaged_store_is_left_where_it_is() {
    let setup = Setup::fresh().await;
    fs::write(setup.home.store(), "{").unwrap();
    let files = setup.home.files();
    assert!(only(&examine(&setup).await, "store").contains("is damaged"));
    assert_eq!(setup.home.files(), files);
    assert_eq!(fs::read(setup.home.store()).unwrap(), b"{");
}

#[tokio::test]
async fn a_token_that_the_api_refuses_is_found() {
    let setup = Setup::fresh().await;
    setup.server.revoke("access-0");
    assert!(only(&examine(&setup).await, "api").contains("refuses the account's token"));
    assert_eq!(setup.server.redemptions(), 0);
}

#[tokio::test]
async fn server_trouble_or_a_missing_model_list_is_not_a_finding_about_the_user() {
    let setup = Setup::fresh().await;
    for (status, state) in [(503, FindingState::Warning), (404, FindingState::Ok)] {
        setup.server.on_every_api(Reply::html(status));
        let findings = examine(&setup).await;
        let api = findings.iter().find(|finding| finding.id == "api").unwrap();
        assert_eq!(api.state, state, "{}", api.message);
        assert!(broken(&findings).is_empty());
    }
}

#[tokio::test]
async fn a_wrong_clock_is_found() {
    let mut setup = Setup::fresh().await;
    setup.clock = Clock::from_fn(|| Clock::system().now_ms() + 400_000);
    let findings = examine(&setup).await;
    assert!(only(&findings, "clock").contains("6 min fast"), "{findings:?}");
}

#[tokio::test]
async fn the_check_of_a_silent_server_times_out() {
    let mut setup = Setup::fresh().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    setup.options.oauth.base_url = Some(format!("http://{}", silent.local_addr().unwrap()));
    let findings = examine(&setup).await;
    let found = broken(&findings);
    assert!(
        found.iter().any(|(id, message)| *id == "oauth-server" && message.contains("gave no answer")),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_leftover_lock_is_judged_by_its_holder() {
    let setup = Setup::fresh().await;
    let lock = setup.home.cli_lock();
    let age = |seconds| {
        let time = SystemTime::now() - Duration::from_secs(seconds);
        File::options().write(true).open(&lock).unwrap().set_modified(time).unwrap();
    };
    fs::write(&lock, "some-uuid").unwrap();
    assert!(broken(&examine(&setup).await).is_empty());
    age(36);
    assert!(only(&examine(&setup).await, "locks").contains("left behind"));
    fs::write(&lock, "some-uuid\nopencode-qwen-cli-auth 1\n").unwrap();
    assert!(only(&examine(&setup).await, "locks").contains("left behind"));
    // A process of ours holds it and no longer touches it.
    let kernel = File::create(setup.home.qwen_dir().join("oauth_creds.flock")).unwrap();
    let mut kernel = qwen_base::KernelLock::new(kernel);
    let held = kernel.try_lock().unwrap();
    assert!(broken(&examine(&setup).await).is_empty());
    age(36);
    let findings = examine(&setup).await;
    assert!(findings.iter().any(
        |finding| finding.state == FindingState::Warning && finding.message.contains("makes no progress")
    ));
    drop(held);
    assert!(lock.exists());
}

#[tokio::test]
async fn all_bad_variables_are_found_at_once_and_unset_by_their_fixes() {
    let setup = Setup::fresh().await;
    let cases = [
        ("HTTP_PROXY", "http://user:hunter2@127.0.0.1:9", "proxy"),
        ("https_proxy", "gopher://u:hunter2@x", "settings"),
        ("ALL_PROXY", "::", "settings"),
        ("SSL_CERT_FILE", "/nope.pem", "certificates"),
        ("OPENCODE_QWEN_ACCOUNTS_PATH", "../../etc/x.json", "settings"),
        ("OPENCODE_QWEN_BASE_URL", "http://portal.example", "settings"),
        ("OPENCODE_QWEN_ROTATION", "maybe", "settings"),
        ("OPENCODE_QWEN_QUOTA_COOLDOWN_MS", "half an hour", "settings"),
        ("QWEN_MODE", "maybe", "settings"),
        ("OPENCODE_QWEN_ROTATON", "hybrid", "settings"),
    ];
    let variables = cases.map(|(name, value, _)| (name, value));
    let findings = examine_with(&setup, &variables).await;
    for (name, _, id) in cases {
        let found = findings.iter().find(|finding| finding.fix.as_deref() == Some(&format!("unset {name}")));
        let found = found.unwrap_or_else(|| panic!("{name}: {findings:?}"));
        assert!(found.id == id && found.message.contains(name), "{found:?}");
        // A misspelled name only has no effect.
        let is_misspelled = name == "OPENCODE_QWEN_ROTATON";
        assert_eq!(found.state == FindingState::Warning, is_misspelled, "{found:?}");
    }
    assert_eq!(broken(&findings).len(), cases.len() - 1, "{findings:?}");
    assert!(!format!("{findings:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_read_only_directory_is_found() {
    let setup = Setup::fresh().await;
    fs::remove_dir_all(setup.home.qwen_dir()).unwrap();
    // A file in place of the directory.
    fs::write(setup.home.qwen_dir(), json!({}).to_string()).unwrap();
    let findings = setup.doctor(&[]).examine().await.unwrap();
    assert!(broken(&findings).iter().any(|(id, _)| *id == "file-system"), "{findings:?}");
}

#[tokio::test]
async fn a_proxy_that_refuses_tunnels_is_found() {
    let mut setup = Setup::fresh().await;
    setup.options.oauth.base_url = Some("https://qwen.test:9".to_owned());
    let (proxy, _) = connect(usize::MAX).await;
    let findings = examine_with(&setup, &[("HTTPS_PROXY", &format!("http://{proxy}"))]).await;
    only(&findings, "oauth-server");
    assert!(fixes(&findings).contains(&"unset HTTPS_PROXY"), "{findings:?}");
}

#[tokio::test]
async fn a_fallback_needs_a_cli_with_a_key() {
    let setup = Setup::fresh().await;
    let on = ("OPENCODE_QWEN_ENABLE_CLI_FALLBACK", "1");
    let gone = ("QWEN_CLI_PATH", "/nope");
    let findings = examine_with(&setup, &[gone]).await;
    assert!(broken(&findings).is_empty() && fixes(&findings).contains(&"unset QWEN_CLI_PATH"));
    let findings = examine_with(&setup, &[gone, on]).await;
    only(&findings, "qwen-cli");
    assert_eq!(fixes(&findings), ["unset QWEN_CLI_PATH"]);
    let path = ("PATH", setup.home.path().to_str().unwrap());
    let findings = examine_with(&setup, &[path, on]).await;
    only(&findings, "qwen-cli");
    assert_eq!(fixes(&findings), ["npm install -g @qwen-code/qwen-code"]);

    let program = setup.home.path().join("qwen");
    fs::write(&program, "#!/bin/sh\necho 0.24.4\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = json!({"security": {"auth": {"selectedType": "qwen-oauth"}}});
    fs::write(setup.home.qwen_dir().join("settings.json"), settings.to_string()).unwrap();
    assert!(only(&examine_with(&setup, &[path, on]).await, "qwen-cli").contains("uses OAuth"));
    fs::remove_file(setup.home.qwen_dir().join("settings.json")).unwrap();
    let findings = examine_with(&setup, &[path, on, ("OPENAI_API_KEY", "sk-of-the-cli")]).await;
    assert!(broken(&findings).is_empty(), "{findings:?}");
}

#[tokio::test]
async fn cooling_and_ended_accounts_are_told_apart() {
    let fleet = Fleet::of(2).await;
    fleet.edit_store(|store| store["accounts"][1]["exhaustedUntil"] = json!(in_seconds(600)));
    let findings = examine(&fleet.setup).await;
    assert!(broken(&findings).is_empty(), "{findings:?}");
    assert!(
        findings.iter().any(|finding| finding.message.contains("out of quota; it is asked again in 10 min"))
    );
    let ended = json!({"code": "ERR_QWEN_FREE_TIER_DISCONTINUED", "message": "It ended.", "at": 1});
    fleet.edit_store(|store| store["accounts"][0]["lastError"] = ended.clone());
    let findings = examine(&fleet.setup).await;
    assert!(broken(&findings).is_empty(), "{findings:?}");
    assert!(fixes(&findings).iter().any(|fix| fix.ends_with("remove ann")), "{findings:?}");
    fleet.edit_store(|store| store["accounts"][1]["lastError"] = ended);
    let findings = examine(&fleet.setup).await;
    assert_eq!(broken(&findings).len(), 2, "{findings:?}");
    assert!(fixes(&findings).iter().all(|fix| fix.ends_with("add-key")), "{findings:?}");
}
