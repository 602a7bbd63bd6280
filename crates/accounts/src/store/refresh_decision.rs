//! Decisions that keep a shared refresh token from being redeemed twice, and a token from being lost. Pure: a test that
//! searches all interleavings of processes calls the same functions.

use qwen_base::Secret;

use crate::model::Token;

/// True if the token in the files ends a refresh, since another process has brought it. `seen` is the token that
/// triggered the refresh, and `rejected` a token that the API refused.
#[must_use]
pub fn was_brought(stored: &Token, seen: &Token, rejected: Option<&Secret>, now_ms: u64) -> bool {
    // A new token is used even shortly before it expires.
    let is_new = stored.access_token != seen.access_token && stored.expires_at > now_ms;
    (stored.is_fresh(now_ms) || is_new) && rejected != Some(&stored.access_token)
}

/// True if a file still holds the redeemed token `spent`, so that its successor may replace it. Otherwise a login or a
/// refresh has changed the file meanwhile, and it stays.
#[must_use]
pub fn may_replace(held: &Token, spent: &Secret) -> bool {
    held.refresh_token.as_ref() == Some(spent)
}

/// True if the holder of a lock file is gone. `is_ours`: a process of ours created it. `is_sole`: no other process of
/// ours can hold it now. `is_stale`: it was not touched for too long.
#[must_use]
pub fn is_abandoned(is_ours: bool, is_sole: bool, is_stale: bool) -> bool {
    is_ours && is_sole || is_stale
}
