//! The decisions that keep a refresh token from being redeemed twice, and a token from being lost, where several
//! processes share it. Pure: a search through all interleavings of processes calls the same functions.

use qwen_base::Secret;

use crate::oauth::token::Token;

/// Whether a token that the files hold ends a refresh: somebody else has brought it. `seen` is the token that was found
/// not to do, `rejected` one that the API refused.
#[must_use]
pub fn was_brought(stored: &Token, seen: &Token, rejected: Option<&Secret>, now_ms: u64) -> bool {
    // A token that someone has only just obtained may be used up to its end.
    let is_new = stored.access_token != seen.access_token && stored.expires_at > now_ms;
    (stored.is_fresh(now_ms) || is_new) && rejected != Some(&stored.access_token)
}

/// Whether the tokens that were redeemed for `spent` may take the place of what a file holds. If not, somebody has
/// logged in or refreshed there meanwhile, and that stands.
#[must_use]
pub fn may_replace(held: &Token, spent: &Secret) -> bool {
    held.refresh_token.as_ref() == Some(spent)
}

/// Whether nobody can be behind a lock file any more. `is_ours` says that a process of ours made it, `is_sole` that no
/// other process of ours can be holding it now; `is_stale`, that its holder has not touched it for too long.
#[must_use]
pub fn is_abandoned(is_ours: bool, is_sole: bool, is_stale: bool) -> bool {
    is_ours && is_sole || is_stale
}
