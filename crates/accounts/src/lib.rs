//! Accounts: the OAuth grants, the files that tokens are kept in, and the refresh that is safe across processes.

#![forbid(unsafe_code)]

mod accounts;
mod oauth;
mod store;
mod token_manager;

pub use accounts::account::Account;
pub use accounts::account_states::{Cooled, is_degraded_try_due};
pub use accounts::availability::{Availability, availability};
pub use accounts::binding::{BaseUrlOverride, Issuer};
pub use accounts::choices::{AccountChanges, expect_login};
pub use accounts::cooldown::{
    Cooldown, CoolingReason, Pause, QuotaWindow, exhausted_until, least_cooldown_ms,
};
pub use accounts::identity::fingerprint;
pub use accounts::importing;
pub use accounts::kind::{Kind, Serving};
pub use accounts::reconcile::{Held, Imported, reconcile};
pub use accounts::registry::{Registry, disabled_account, unknown_account};
pub use accounts::view::View;
pub use oauth::device::{DeviceAuthorization, QWEN_CLIENT_ID, read_device_authorization};
pub use oauth::error_response::{Answer, Body};
pub use oauth::pkce::code_verifier;
pub use oauth::poll::{Reply, read_poll};
pub use oauth::revoke::Revocation;
pub use oauth::token::{Redemption, Token, read_refresh};
pub use oauth::{OAuthClient, OAuthConfig};
pub use store::accounts::{StoreFile, Stored, broken};
pub use store::credentials::CredentialsFile;
pub use store::document::Document;
pub use store::foreign::Login;
pub use store::legacy::LegacyFile;
pub use store::record::{Key, LastError, Record};
pub use store::recover::recover;
pub use store::sharing::{is_abandoned, may_replace, was_brought};
pub use store::{atomic, file, foreign, lock, place};
pub use token_manager::TokenManager;
