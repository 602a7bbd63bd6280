//! How each account stands.

use super::finding::{Finding, ours};
use super::network::Asked;
use super::settings::Settings;
use super::{Doctor, Local};
use crate::accounts::availability::{Availability, availability};
use crate::accounts::kind::Kind;
use crate::accounts::registry::Registry;
use crate::accounts::view::View;
use crate::error::Code;
use crate::events::Events;

use crate::store::legacy::LegacyFile;
use crate::store::record::Record;

const ID: &str = "account";

pub fn check(doctor: &Doctor, settings: &Settings, local: &mut Local) {
    let (Some(paths), Some(store), Some(credentials)) =
        (&settings.paths, settings.store_file(), settings.credentials_file())
    else {
        return;
    };
    let legacy = LegacyFile::new(paths.legacy_token());
    let registry = Registry::new(credentials, store, legacy, doctor.clock.clone(), Events::none());
    // A file that can't be read has its own finding.
    let Ok(view) = registry.peek() else { return };
    local.had_host_login = view.document.had_host_login();
    let now = doctor.clock.now_ms();
    let records: Vec<&Record> = view.listed(now).collect();
    if records.is_empty() {
        let fix = format!("{} (a key of a plan), or {}", ours("add-key"), ours("login"));
        local.findings.push(Finding::warning(ID, "There is no account to send a request with.", fix));
    }
    for record in records {
        local.findings.push(judge(&view, record, now));
        local.accounts.extend(asked(&view, record, settings, now));
    }
}

fn judge(view: &View, record: &Record, now_ms: u64) -> Finding {
    let account = view.account(record);
    let name = format!("The account \"{}\"", account.label);
    let last = record.last_error().map(|error| format!(" {}", error.message)).unwrap_or_default();
    if has_lost_its_tier(record) {
        let message = format!(
            "{name} is of the free tier, which Qwen ended on 2026-04-15. To log in again does not help."
        );
        let has_key = view.document.all().any(|other| {
            matches!(other.kind(), Kind::Key(_)) && availability(other, now_ms) != Availability::Dead
        });
        return if has_key {
            Finding::warning(ID, message, ours(&format!("remove {}", account.id)))
        } else {
            Finding::broken(ID, message, ours("add-key"))
        };
    }
    let (need, renew) = match account.kind {
        Kind::OAuth => ("needs a new login", ours(&format!("login --replace {}", account.id))),
        Kind::Key(_) => {
            ("is refused: its key is of another plan or region, or is no longer valid", ours("add-key"))
        }
    };
    if record.is_refused() || record.rejected_at().is_some() {
        return Finding::broken(ID, format!("{name} {need}.{last}"), renew);
    }
    match availability(record, now_ms) {
        Availability::Ready => {
            let active =
                if view.document.active_id() == Some(record.id()) { " and the active one" } else { "" };
            Finding::ok(ID, format!("{name} is ready{active}."))
        }
        Availability::Cooling(until) => {
            let why = if record.is_rate_limited() { "is rate limited" } else { "is out of quota" };
            let minutes = until.saturating_sub(now_ms).div_ceil(60_000);
            let message = format!("{name} {why}; it is asked again in {minutes} min.");
            Finding::warning(ID, message, format!("Wait, or add a key: {}", ours("add-key")))
        }
        Availability::Rejected | Availability::Dead => {
            Finding::broken(ID, format!("{name} {need}.{last}"), renew)
        }
    }
}

/// Whether the last that was heard of a login is the end of the free tier.
fn has_lost_its_tier(record: &Record) -> bool {
    let is_last = |code: Code| record.last_error().is_some_and(|error| error.code == code.as_str());
    record.kind() == Kind::OAuth && is_last(Code::FreeTierDiscontinued)
}

/// What its host can be asked without spending anything.
fn asked(view: &View, record: &Record, settings: &Settings, now_ms: u64) -> Option<Asked> {
    let account = view.account(record);
    // It would be refused again.
    let token = record.token().filter(|_| !has_lost_its_tier(record))?;
    let base_url = account.base_url(&token, settings.base_url_override.as_ref()).ok()?;
    let access_token = token.is_fresh(now_ms).then(|| token.access_token.clone());
    Some(Asked { id: account.id, label: account.label, kind: account.kind, base_url, access_token })
}
