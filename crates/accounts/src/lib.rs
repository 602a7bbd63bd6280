//! Accounts: OAuth grants, the files that hold tokens, and a refresh that is safe across processes.

#![forbid(unsafe_code)]

mod accounts;
mod model;
mod oauth;
mod store;
mod token_manager;

pub use accounts::account::{Account, disabled_account, unknown_account};
pub use accounts::account_commands::{AccountChanges, expect_login};
pub use accounts::account_states::{Cooled, is_degraded_try_due};
pub use accounts::availability::{Availability, availability};
pub use accounts::import::{ImportFile, describe_left_out};
pub use accounts::issuer::{BaseUrlOverride, Issuer};
pub use accounts::reconcile::{Held, Imported, reconcile};
pub use accounts::registry::Registry;
pub use accounts::snapshot::Snapshot;
pub use model::{
    Cooldown, CoolingReason, Kind, Pause, QuotaWindow, Serving, Token, exhausted_until, fingerprint,
    least_cooldown_ms,
};
pub use oauth::device::{DeviceAuthorization, QWEN_CLIENT_ID, read_device_authorization};
pub use oauth::error_response::{OAuthAnswer, OAuthBody};
pub use oauth::pkce::code_verifier;
pub use oauth::poll::{PollReply, read_poll};
pub use oauth::redemption::{Redemption, read_refresh};
pub use oauth::revoke::Revocation;
pub use oauth::{OAuthClient, OAuthConfig};
pub use store::credentials::CredentialsFile;
pub use store::document::Document;
pub use store::import_formats::{Login, read_logins};
pub use store::legacy::LegacyFile;
pub use store::obstacle::{Mark, Obstacle, REMOVE_MARKS, mount_point};
pub use store::path_policy::{check_default_store_path, check_store_path};
pub use store::record::{Key, LastError, Record};
pub use store::recover::recover;
pub use store::refresh_decision::{is_abandoned, may_replace, was_brought};
pub use store::store_file::{StoreFile, Stored, broken};
pub use store::{atomic, file, lock};
pub use token_manager::TokenManager;
