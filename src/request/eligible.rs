//! Which accounts a request may be sent with at all: those that serve its model, and cost no more than its user agreed to.
//! Pure.

use crate::accounts::kind::Serving;
use crate::plans::Price;

/// What an account offers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Whether it is the user's choice.
    pub is_active: bool,
    /// What it costs.
    pub price: Price,
    /// Whether it serves the model.
    pub serving: Serving,
}

/// Which of the offers may be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eligible {
    /// Their places.
    pub allowed: Vec<usize>,
    /// The places of those that would serve too, and cost more than may be spent without being asked.
    pub dearer: Vec<usize>,
    /// What may be spent without the user's leave. Whatever costs more is a crossing, which is told.
    pub agreed: Price,
}

/// Chooses among the offers. Without `may_cross` nothing dearer is taken than the account that the user has chosen. A
/// model that only a subscription serves is a choice of that; it is never one of a metered key.
#[must_use]
pub fn eligible(offers: &[Offer], may_cross: bool) -> Eligible {
    let with =
        |serving| -> Vec<usize> { (0..offers.len()).filter(|at| offers[*at].serving == serving).collect() };
    let tiers = [Serving::Yes, Serving::Maybe, Serving::Unlikely];
    let serving = tiers.into_iter().map(with).find(|tier| !tier.is_empty()).unwrap_or_default();
    let chosen = offers.iter().find(|offer| offer.is_active).map_or(Price::Free, |offer| offer.price);
    let least = serving.iter().map(|at| offers[*at].price).min().unwrap_or(Price::Free);
    let agreed = chosen.max(least.min(Price::Subscription));
    let (allowed, dearer) = serving.into_iter().partition(|at| may_cross || offers[*at].price <= agreed);
    Eligible { allowed, dearer, agreed }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn offer(is_active: bool, price: Price, serving: Serving) -> Offer {
        Offer { is_active, price, serving }
    }

    #[test]
    fn what_is_known_to_serve_goes_before_what_might() {
        use Price::{Free, Subscription};
        let offers = [offer(true, Free, Serving::Maybe), offer(false, Subscription, Serving::Yes)];
        assert_eq!(eligible(&offers, false).allowed, [1]);
        let offers = [offer(true, Free, Serving::Maybe), offer(false, Subscription, Serving::No)];
        assert_eq!(eligible(&offers, false).allowed, [0]);
        assert_eq!(eligible(&[offer(true, Subscription, Serving::No)], true).allowed, [0; 0]);
    }

    #[test]
    fn a_step_up_takes_leave_or_the_users_choice() {
        use Price::{Free, Metered, Subscription};
        let offers = |active: usize| {
            [Free, Subscription, Metered].map(|price| offer(price as usize == active, price, Serving::Yes))
        };
        for (active, may_cross, allowed) in
            [(0, false, 1), (1, false, 2), (2, false, 3), (0, true, 3), (1, true, 3)]
        {
            let found = eligible(&offers(active), may_cross);
            assert_eq!((found.allowed.len(), found.dearer.len()), (allowed, 3 - allowed));
        }
        // Nobody else serves the model.
        let only = [offer(true, Free, Serving::No), offer(false, Metered, Serving::Yes)];
        assert_eq!(eligible(&only, false).dearer, [1]);
        assert_eq!((eligible(&only, true).allowed, eligible(&only, true).agreed), (vec![1], Subscription));
    }

    fn any_offers() -> impl Strategy<Value = Vec<Offer>> {
        let price = prop_oneof![Just(Price::Free), Just(Price::Subscription), Just(Price::Metered)];
        let serving = prop_oneof![Just(Serving::Yes), Just(Serving::Maybe), Just(Serving::No)];
        let offers = proptest::collection::vec((price, serving), 0..8);
        (offers, 0_usize..8).prop_map(|(offers, active)| {
            let offers = offers.into_iter().enumerate();
            offers.map(|(at, (price, serving))| offer(at == active, price, serving)).collect()
        })
    }

    proptest! {
        #[test]
        fn nothing_metered_without_leave_or_choice(offers in any_offers()) {
            let found = eligible(&offers, false);
            let chosen = offers.iter().find(|offer| offer.is_active).map_or(Price::Free, |offer| offer.price);
            if chosen != Price::Metered {
                prop_assert!(found.allowed.iter().all(|at| offers[*at].price != Price::Metered));
            }
            prop_assert!(found.allowed.iter().all(|at| offers[*at].serving != Serving::No));
            let with_leave = eligible(&offers, true);
            prop_assert_eq!(with_leave.allowed.len(), found.allowed.len() + found.dearer.len());
        }
    }
}
