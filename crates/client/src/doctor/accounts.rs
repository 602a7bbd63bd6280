//! Checks the accounts, and looks for keys of other tools.

use std::collections::HashSet;

use qwen_accounts::{
    Account, Availability, CoolingReason, Issuer, Kind, LegacyFile, Record, Registry, Snapshot, availability,
};
use qwen_base::{Code, Events, Secret};
use url::Url;

use super::finding::{Finding, ours, ours_about, unset};
use super::network::AskedAccount;
use super::settings::CheckedSettings;
use super::{Doctor, Local};
use crate::config::DEFAULT_OAUTH_BASE_URL;
use crate::discovery::Discovery;
use crate::request::refusal::FREE_TIER_END_MS;

const ID: &str = "account";
const OTHER_KEYS: &str = "other-keys";

pub fn check(doctor: &Doctor, settings: &CheckedSettings, local: &mut Local) {
    let (Some(paths), Some(store), Some(credentials)) =
        (&settings.paths, settings.store_file(), settings.credentials_file())
    else {
        return;
    };
    let legacy = LegacyFile::new(paths.legacy_token());
    let registry = Registry::new(credentials, store, legacy, doctor.clock.clone(), Events::none());
    // Another check reports a file that can't be read.
    let Ok(snapshot) = registry.peek() else { return };
    local.had_host_login = snapshot.document.had_host_login();
    let now = doctor.clock.now_ms();
    local.keys = snapshot.document.keys.iter().filter_map(|key| Some(key.token()?.access_token)).collect();
    local.has_working_account = snapshot.enabled(now).any(|record| works(record, settings, now));
    let records: Vec<&Record> = snapshot.listed(now).collect();
    if records.is_empty() {
        let fix = format!("{} (a key of a plan), or {}", ours("add-key"), ours("login"));
        local.findings.push(Finding::warning(ID, "There is no account.", fix));
    }
    for record in records {
        local.findings.push(account_finding(&snapshot, record, settings, now));
        local.findings.extend(elsewhere(&snapshot.account(record), record, settings));
        local.accounts.extend(asked(&snapshot, record, settings, now));
    }
}

fn account_finding(snapshot: &Snapshot, record: &Record, settings: &CheckedSettings, now_ms: u64) -> Finding {
    let account = snapshot.account(record);
    let name = format!("The account \"{}\"", account.label);
    if !record.is_enabled() {
        return Finding::ok(ID, format!("{name} is disabled: no request is sent with it."));
    }
    let others = || snapshot.enabled(now_ms).filter(|other| other.id() != record.id());
    let has_other = || others().any(|other| works(other, settings, now_ms));
    let remove = || ours_about("remove", &account.id);
    let last = record.last_error().map(|error| format!(" {}", error.message)).unwrap_or_default();
    if has_lost_its_tier(record) {
        let message = format!(
            "{name} is of the free tier, which Qwen ended on 2026-04-15. Logging in again does not help."
        );
        return if has_other() {
            Finding::warning(ID, message, remove())
        } else {
            Finding::broken(ID, message, ours("add-key"))
        };
    }
    let is_refused = record.is_refused() || record.rejected_at().is_some();
    if !is_refused && is_of_ended_tier(record, settings, now_ms) && !has_other() {
        let message = format!(
            "{name} is a login of qwen.ai. Qwen ended its free tier on 2026-04-15, and most likely refuses requests with it."
        );
        return Finding::warning(ID, message, format!("{} (a key of a plan)", ours("add-key")));
    }
    let (need, renew) = match account.kind {
        Kind::OAuth => ("needs a new login", ours_about("login --replace", &account.id)),
        Kind::Key(_) => {
            ("is refused: its key belongs to another plan or region, or is no longer valid", ours("add-key"))
        }
    };
    if is_refused && has_other() {
        let message = format!("{name} {need}.{last} Another account works.");
        return Finding::warning(ID, message, remove());
    }
    if is_refused {
        return Finding::broken(ID, format!("{name} {need}.{last}"), renew);
    }
    match availability(record, now_ms) {
        Availability::Ready => {
            let active =
                if snapshot.document.active_id() == Some(record.id()) { " and the active one" } else { "" };
            Finding::ok(ID, format!("{name} is ready{active}."))
        }
        Availability::Cooling(until) => {
            let why = match record.cooldown(now_ms).map(|cooldown| cooldown.reason) {
                Some(CoolingReason::RateLimit | CoolingReason::TokenLimit) => "is rate limited",
                Some(CoolingReason::Payment) => "is not paid for",
                Some(CoolingReason::Quota) | None => "is out of quota",
            };
            let minutes = until.saturating_sub(now_ms).div_ceil(60_000);
            let message = format!("{name} {why}; it is asked again in {minutes} min.");
            Finding::warning(ID, message, format!("Wait, or add a key: {}", ours("add-key")))
        }
        Availability::Rejected | Availability::Dead => {
            Finding::broken(ID, format!("{name} {need}.{last}"), renew)
        }
    }
}

/// Reports a setting that points to a different server than the account's tokens. Nothing is sent then.
fn elsewhere(account: &Account, record: &Record, settings: &CheckedSettings) -> Option<Finding> {
    if !record.is_enabled() || account.kind != Kind::OAuth {
        return None;
    }
    if let Some(issuer) = settings.oauth.as_ref().map(Issuer::of)
        && let Err(error) = issuer.expect(account)
    {
        return Some(Finding::broken(
            ID,
            error.message(),
            unset(issuer.named_by.as_deref().unwrap_or_default()),
        ));
    }
    let set = settings.base_url_override.as_ref()?;
    let error = account.base_url(&record.token()?, Some(set)).err()?;
    Some(Finding::broken(ID, error.message(), unset(&set.named_by)))
}

/// True if the server's last answer said that the free tier ended.
fn has_lost_its_tier(record: &Record) -> bool {
    let is_last = |code: Code| record.last_error().is_some_and(|error| error.code == code.as_str());
    record.kind() == Kind::OAuth && is_last(Code::FreeTierDiscontinued)
}

/// True if the account can answer requests, now or after a cooldown.
fn works(record: &Record, settings: &CheckedSettings, now_ms: u64) -> bool {
    let is_refused = record.is_refused() || record.rejected_at().is_some() || has_lost_its_tier(record);
    availability(record, now_ms).works() && !is_refused && !is_of_ended_tier(record, settings, now_ms)
}

/// True for a login of Qwen's own server after the end of the free tier. Logins of other servers may still work.
fn is_of_ended_tier(record: &Record, settings: &CheckedSettings, now_ms: u64) -> bool {
    let bound = record.binding().map(|binding| binding.token_endpoint);
    let endpoint = bound.or_else(|| settings.oauth.as_ref().map(|oauth| oauth.token_endpoint.clone()));
    let is_qwen = |endpoint: Url| DEFAULT_OAUTH_BASE_URL.strip_prefix("https://") == endpoint.host_str();
    record.kind() == Kind::OAuth && now_ms >= FREE_TIER_END_MS && endpoint.is_some_and(is_qwen)
}

/// Returns the account for a network check that costs nothing.
fn asked(
    snapshot: &Snapshot,
    record: &Record,
    settings: &CheckedSettings,
    now_ms: u64,
) -> Option<AskedAccount> {
    if !record.is_enabled() {
        return None;
    }
    let account = snapshot.account(record);
    // The server would refuse the token again.
    let token = record.token().filter(|_| !has_lost_its_tier(record))?;
    let base_url = account.base_url(&token, settings.base_url_override.as_ref()).ok()?;
    let access_token = token.is_fresh(now_ms).then(|| token.access_token.clone());
    let is_ready = availability(record, now_ms) == Availability::Ready && record.rejected_at().is_none();
    let mut others = snapshot.enabled(now_ms).filter(|other| other.id() != record.id());
    Some(AskedAccount {
        is_to_be_proved: account.kind != Kind::OAuth && is_ready,
        has_alternative: others.any(|other| works(other, settings, now_ms)),
        id: account.id,
        label: account.label,
        kind: account.kind,
        base_url,
        access_token,
    })
}

/// Returns the first key that no account has. It is only a warning if no account works.
pub fn check_other_keys(doctor: &Doctor, settings: &CheckedSettings, local: &Local) -> Option<Finding> {
    let discovery = Discovery {
        environment: doctor.environment.clone(),
        paths: settings.paths.clone()?,
        working_directory: Some(doctor.working_directory.clone()),
    };
    let known: HashSet<_> = local.keys.iter().map(Secret::expose).collect();
    let found = discovery.look().keys;
    let mut fresh = found.iter().filter(|key| !known.contains(key.secret.expose()));
    let first = fresh.next()?;
    let more = match fresh.count() {
        0 => String::new(),
        count => format!(", and {count} more elsewhere"),
    };
    let (sentence, import) = (first.sentence(), ours("import"));
    Some(if local.has_working_account {
        Finding::ok(OTHER_KEYS, format!("{sentence}{more}: {import} adds it as an account."))
    } else {
        Finding::warning(OTHER_KEYS, format!("{sentence}{more}; no account works."), import)
    })
}

#[cfg(test)]
mod tests {
    use qwen_accounts::Key;
    use qwen_base::{Environment, KeyPlan};

    use super::super::finding::FindingState;
    use super::*;
    use crate::config::{OAuthOptions, oauth_config};
    use crate::test_tokens::token;

    fn settings(variables: &[(&str, &str)]) -> CheckedSettings {
        let environment: Environment = variables.iter().copied().collect();
        let oauth = oauth_config(&OAuthOptions::default(), &environment, "").unwrap();
        CheckedSettings { oauth: Some(oauth), ..CheckedSettings::default() }
    }

    fn key(id: &str) -> Record {
        let key = Key {
            secret: Secret::new(format!("sk-sp-{}", id.len())),
            plan: Some(KeyPlan::TokenPlan),
            region: None,
            base_url: Url::parse("https://host.example/v1").unwrap(),
            tier: None,
        };
        Record::of_key(id, None, &key, 1)
    }

    fn found(
        snapshot: &Snapshot,
        id: &str,
        settings: &CheckedSettings,
        now_ms: u64,
    ) -> (FindingState, String) {
        let finding = account_finding(snapshot, snapshot.record(id).unwrap(), settings, now_ms);
        (finding.state, finding.fix.unwrap_or_default())
    }

    #[test]
    fn a_qwen_login_warns_about_the_ended_free_tier() {
        let mut snapshot = Snapshot::default();
        snapshot.document.records.push(Record::new("login", None, &token("a", u64::MAX), 1));
        let own = settings(&[]);
        let (state, fix) = found(&snapshot, "login", &own, FREE_TIER_END_MS);
        assert!(state == FindingState::Warning && fix.contains("add-key"), "{fix}");
        assert_eq!(found(&snapshot, "login", &own, FREE_TIER_END_MS - 1).0, FindingState::Ok);
        let elsewhere = settings(&[("OPENCODE_QWEN_OAUTH_BASE_URL", "https://login.example")]);
        assert_eq!(found(&snapshot, "login", &elsewhere, FREE_TIER_END_MS).0, FindingState::Ok);
        snapshot.document.keys.push(key("key"));
        assert_eq!(found(&snapshot, "login", &own, FREE_TIER_END_MS).0, FindingState::Ok);
        snapshot.document.keys[0].set_enabled(false, 2);
        assert_eq!(found(&snapshot, "login", &own, FREE_TIER_END_MS).0, FindingState::Warning);
        assert_eq!(found(&snapshot, "key", &own, FREE_TIER_END_MS).0, FindingState::Ok);
    }

    #[test]
    fn remove_is_advised_for_a_refused_key_if_another_account_works() {
        let mut snapshot = Snapshot::default();
        snapshot.document.keys.push(key("-a; id"));
        let secret = snapshot.document.keys[0].token().unwrap().access_token;
        snapshot.document.keys[0].set_rejected(Some((&secret, 1)));
        let own = settings(&[]);
        let (state, fix) = found(&snapshot, "-a; id", &own, FREE_TIER_END_MS);
        assert!(state == FindingState::Broken && fix.contains("add-key"), "{fix}");
        snapshot.document.keys.push(key("good"));
        let (state, fix) = found(&snapshot, "-a; id", &own, FREE_TIER_END_MS);
        assert!(state == FindingState::Warning && fix.ends_with("remove -- '-a; id'"), "{fix}");
    }
}
