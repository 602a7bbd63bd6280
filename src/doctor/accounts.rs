//! How each account stands.

use super::finding::{Finding, ours};
use super::network::Asked;
use super::settings::Settings;
use super::{Doctor, Local};
use crate::accounts::registry::{Registry, View};
use crate::accounts::standing::{Standing, standing};
use crate::events::Events;
use crate::store::document::Record;
use crate::store::legacy::LegacyFile;

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
        let fix = ours("login");
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
    let renew = ours(&format!("login --replace {}", account.id));
    let last = record.last_error().map(|error| format!(" {}", error.message)).unwrap_or_default();
    if record.is_refused() || record.rejected_at().is_some() {
        return Finding::broken(ID, format!("{name} needs a new login.{last}"), renew);
    }
    match standing(record, now_ms) {
        Standing::Ready => {
            let active =
                if view.document.active_id() == Some(record.id()) { " and the active one" } else { "" };
            Finding::ok(ID, format!("{name} is ready{active}."))
        }
        Standing::Cooling(until) => {
            let why = if record.is_rate_limited() { "is rate limited" } else { "is out of quota" };
            let minutes = until.saturating_sub(now_ms).div_ceil(60_000);
            let message = format!("{name} {why}; it is asked again in {minutes} min.");
            Finding::warning(ID, message, format!("Wait, or add another account: {}", ours("login")))
        }
        Standing::Rejected | Standing::Dead => {
            Finding::broken(ID, format!("{name} needs a new login.{last}"), renew)
        }
    }
}

/// What its host can be asked without spending anything.
fn asked(view: &View, record: &Record, settings: &Settings, now_ms: u64) -> Option<Asked> {
    let account = view.account(record);
    let token = record.token()?;
    let base_url = account.base_url(&token, settings.base_url_override.as_ref()).ok()?;
    let access_token = token.is_fresh(now_ms).then(|| token.access_token.clone());
    Some(Asked { id: account.id, label: account.label, base_url, access_token })
}
