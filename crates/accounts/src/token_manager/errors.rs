//! Errors of accounts without a token that works.

use qwen_base::{Code, Error};

use crate::accounts::account::Account;
use crate::store::record::Record;

pub(super) fn without_token(account: &Account) -> Error {
    let message =
        format!("The Qwen account \"{}\" holds no tokens. Log in again, or remove it.", account.label);
    account.error(Code::CredentialsInvalid, message)
}

pub(super) fn no_refresh_token(account: &Account) -> Error {
    let message = format!(
        "The login of the Qwen account \"{}\" has expired and has no refresh token. Log in again.",
        account.label
    );
    account.error(Code::RefreshTokenInvalid, message)
}

pub(super) fn superseded(account: &Account) -> Error {
    let message = format!(
        "The login of the Qwen account \"{}\" has expired, and a newer login has replaced it. Choose it with `use {}` to renew it, or log in again.",
        account.label,
        account.shown_id()
    );
    account.error(Code::RefreshTokenInvalid, message)
}

pub(super) fn refused_key(account: &Account, record: &Record) -> Error {
    let host = record.token().and_then(|token| token.resource_url).unwrap_or_default();
    let place =
        record.place().map(|place| format!(" (plan {}, region {})", place.plan.as_str(), place.region));
    let message = format!(
        "{host} refused the key of the Qwen account \"{}\": it was deleted, or belongs to another plan or region than the one it was added with{}. Add it again with `npx opencode-qwen-cli-auth add-key`, which finds out where it belongs.",
        account.label,
        place.unwrap_or_default(),
    );
    account.error(Code::TokenRejected, message)
}

/// The refusal that another process got from the server.
pub(super) fn refused_elsewhere(account: &Account, record: &Record) -> Error {
    let last = record.last_error().filter(|error| error.code == Code::RefreshTokenInvalid.as_str());
    let message = last.map_or_else(
        || format!("The login of the Qwen account \"{}\" is no longer valid. Log in again.", account.label),
        |error| error.message,
    );
    account.error(Code::RefreshTokenInvalid, message)
}
