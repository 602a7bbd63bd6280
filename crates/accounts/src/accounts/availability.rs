//! Availability of an account. Pure.

use crate::model::cooling_until;
use crate::store::record::Record;

/// Time until an account whose token the API refused is tried again.
const RETRY_REJECTED_MS: u64 = 60_000;

/// Tells if an account can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// The account can be asked.
    Ready,
    /// The account is out of quota, or rate limited, until this time (epoch milliseconds).
    Cooling(u64),
    /// The API refused the account's token in the last minute.
    Rejected,
    /// The account needs a login.
    Dead,
}

impl Availability {
    /// True if the account can answer requests, now or after a cooldown.
    #[must_use]
    pub const fn works(self) -> bool {
        matches!(self, Self::Ready | Self::Cooling(_))
    }
}

/// Availability of an account at `now_ms`.
#[must_use]
pub fn availability(record: &Record, now_ms: u64) -> Availability {
    let Some(token) = record.token() else { return Availability::Dead };
    let can_renew = || token.refresh_token.is_some() && !record.is_refused() && !record.is_superseded();
    if !token.is_fresh(now_ms) && !can_renew() {
        return Availability::Dead;
    }
    if let Some(until) = cooling_until(record.exhausted_until(), now_ms) {
        return Availability::Cooling(until);
    }
    match record.rejected_at() {
        // If the clock was set back, the refusal must still end.
        Some(at) if now_ms.abs_diff(at) < RETRY_REJECTED_MS => Availability::Rejected,
        _ => Availability::Ready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cooldown, CoolingReason};
    use crate::store::document::tests::token;

    const NOW: u64 = 1_000_000;

    fn record(expires_at: u64) -> Record {
        Record::new("one", None, &token("a", expires_at), 1)
    }

    #[test]
    fn an_expired_token_that_can_be_renewed_is_ready() {
        assert_eq!(availability(&record(0), NOW), Availability::Ready);
        let mut refused = record(0);
        refused.set_refused(&token("a", 0).refresh_token.unwrap());
        assert_eq!(availability(&refused, NOW), Availability::Dead);
        let mut superseded = record(0);
        superseded.set_superseded(true);
        assert_eq!(availability(&superseded, NOW), Availability::Dead);
    }

    #[test]
    fn a_superseded_token_is_used_until_it_expires() {
        let mut superseded = record(NOW + 60_000);
        superseded.set_superseded(true);
        assert_eq!(availability(&superseded, NOW), Availability::Ready);
    }

    #[test]
    fn a_refused_token_is_tried_again_after_a_minute() {
        let mut rejected = record(NOW + 60_000);
        rejected.set_rejected(Some((&token("a", 0).access_token, NOW)));
        assert_eq!(availability(&rejected, NOW + 59_999 - 30_000), Availability::Rejected);
        let mut later = record(NOW + 600_000);
        later.set_rejected(Some((&token("a", 0).access_token, NOW)));
        assert_eq!(availability(&later, NOW + 60_000), Availability::Ready);
        later.set_token(&token("b", NOW + 600_000), NOW);
        assert_eq!(availability(&later, NOW), Availability::Ready);
    }

    #[test]
    fn a_cooldown_ends_by_itself() {
        let mut cooling = record(NOW * 2);
        let (reason, code) = (CoolingReason::Quota, String::new());
        cooling.start_cooling(&Cooldown { until: NOW + 10, reason, code, window: None }, NOW);
        assert_eq!(availability(&cooling, NOW), Availability::Cooling(NOW + 10));
        assert_eq!(availability(&cooling, NOW + 10), Availability::Ready);
    }
}
