//! Describes accounts for people.

use qwen_accounts::{Availability, Kind, LastError, QuotaWindow, Record, Snapshot, availability};
use qwen_base::{Result, Secret, Tier, display_url};

use super::Client;

/// An account without its secrets.
#[derive(Debug, Clone)]
pub struct AccountInfo {
    /// Stable id.
    pub id: String,
    /// Display name.
    pub label: String,
    /// Login, or key with its plan.
    pub kind: Kind,
    /// Region of the plan, if known.
    pub region: Option<String>,
    /// Tier of the plan, if the user named it.
    pub tier: Option<Tier>,
    /// Quota window that is used up, while the account cools down.
    pub quota_window: Option<QuotaWindow>,
    /// True if it is the active account.
    pub active: bool,
    /// False if the user has disabled it.
    pub enabled: bool,
    /// Tells if requests can be sent with it.
    pub availability: Availability,
    /// Base URL of its requests.
    pub base_url: String,
    /// Expiry of the access token, in epoch milliseconds.
    pub expires_at: Option<u64>,
    /// Creation time, in epoch milliseconds.
    pub created_at: u64,
    /// Time of the last change, in epoch milliseconds.
    pub updated_at: u64,
    /// Last error of the account.
    pub last_error: Option<LastError>,
}

/// A token for callers that send their own requests.
#[derive(Debug, Clone)]
pub struct AccessToken {
    /// The token.
    pub access_token: Secret,
    /// The only base URL that the token may be sent to.
    pub base_url: String,
    /// Id of the account that the token belongs to.
    pub account_id: String,
    /// Expiry, in epoch milliseconds.
    pub expires_at: u64,
}

impl Client {
    pub(super) fn describe(&self, snapshot: &Snapshot, record: &Record) -> AccountInfo {
        let account = snapshot.account(record);
        let token = record.token();
        let base_url = token.as_ref().map(|token| account.base_url(token, self.base_url_override.as_ref()));
        let mut availability = availability(record, self.clock.now_ms());
        if record.is_refused() || record.rejected_at().is_some() {
            availability = Availability::Dead;
        }
        AccountInfo {
            region: record.region().map(str::to_owned),
            tier: record.tier(),
            quota_window: record.cooldown(self.clock.now_ms()).and_then(|cooldown| cooldown.window),
            enabled: record.is_enabled(),
            active: snapshot.document.active_id() == Some(record.id()),
            availability,
            base_url: display_url(base_url.and_then(Result::ok).as_ref().unwrap_or(&self.base_url)),
            expires_at: token.filter(|_| account.kind == Kind::OAuth).map(|token| token.expires_at),
            kind: account.kind,
            created_at: record.created_at(),
            updated_at: record.updated_at(),
            last_error: record.last_error(),
            id: account.id,
            label: account.label,
        }
    }
}
