//! What a client shows of an account.

use qwen_accounts::{Availability, Kind, LastError, QuotaWindow, Record, View, availability};
use qwen_base::{KeyPlan, Result, Secret, Tier, display};

use super::Client;

/// An account as a person sees it: no secret is in it.
#[derive(Debug, Clone)]
pub struct AccountInfo {
    /// A stable id.
    pub id: String,
    /// A name for a person.
    pub label: String,
    /// How it authenticates.
    pub kind: Kind,
    /// The plan of a key; `None` for a login, and for a key of another server.
    pub plan: Option<KeyPlan>,
    /// The region of the plan, where it is known.
    pub region: Option<String>,
    /// The tier of the plan, where the user named it.
    pub tier: Option<Tier>,
    /// The window of its quota that is spent, while it cools.
    pub quota_window: Option<QuotaWindow>,
    /// Whether it is the user's choice.
    pub active: bool,
    /// False where the user has disabled it.
    pub enabled: bool,
    /// Whether requests can be sent with it.
    pub availability: Availability,
    /// Where they go.
    pub base_url: String,
    /// When the access token expires, in epoch milliseconds.
    pub expires_at: Option<u64>,
    /// In epoch milliseconds.
    pub created_at: u64,
    /// In epoch milliseconds.
    pub updated_at: u64,
    /// What went wrong last.
    pub last_error: Option<LastError>,
}

/// A token for someone who sends requests without us.
#[derive(Debug, Clone)]
pub struct AccessToken {
    /// The token.
    pub access_token: Secret,
    /// The only host it may be sent to.
    pub base_url: String,
    /// Whose it is.
    pub account_id: String,
    /// When it expires, in epoch milliseconds.
    pub expires_at: u64,
}

impl Client {
    /// What a person may see of an account.
    pub(super) fn describe(&self, view: &View, record: &Record) -> AccountInfo {
        let account = view.account(record);
        let token = record.token();
        let base_url = token.as_ref().map(|token| account.base_url(token, self.base_url_override.as_ref()));
        let mut availability = availability(record, self.clock.now_ms());
        if record.is_refused() || record.rejected_at().is_some() {
            availability = Availability::Dead;
        }
        AccountInfo {
            plan: match account.kind {
                Kind::Key(plan) => plan,
                Kind::OAuth => None,
            },
            region: record.region().map(str::to_owned),
            tier: record.tier(),
            quota_window: record.cooldown(self.clock.now_ms()).and_then(|cooldown| cooldown.window),
            enabled: record.is_enabled(),
            active: view.document.active_id() == Some(record.id()),
            availability,
            base_url: display(base_url.and_then(Result::ok).as_ref().unwrap_or(&self.base_url)),
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
