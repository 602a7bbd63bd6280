//! Which account a request is sent with, and which come after it. Pure.

/// How requests are spread over the accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rotation {
    /// The active account until it is exhausted.
    #[default]
    Sequential,
    /// A turn for each request.
    RoundRobin,
    /// Like sequential, with each process starting at another account.
    Hybrid,
}

impl Rotation {
    /// Reads its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "sequential" => Some(Self::Sequential),
            "round-robin" => Some(Self::RoundRobin),
            "hybrid" => Some(Self::Hybrid),
            _ => None,
        }
    }

    /// The order in which `count` accounts are asked: the active one is at `active`, `turn` counts this process's
    /// requests, and `process` tells processes apart.
    #[must_use]
    pub fn order(self, count: usize, active: usize, turn: usize, process: usize) -> Vec<usize> {
        if count == 0 {
            return Vec::new();
        }
        let first = match self {
            Self::Sequential => active,
            Self::RoundRobin => active.wrapping_add(turn),
            Self::Hybrid => active.wrapping_add(process),
        };
        (0..count).map(|step| (first % count + step) % count).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn where_each_strategy_begins() {
        assert_eq!(Rotation::Sequential.order(3, 1, 7, 8), [1, 2, 0]);
        let firsts: Vec<_> = (0..4).map(|turn| Rotation::RoundRobin.order(3, 1, turn, 8)[0]).collect();
        assert_eq!(firsts, [1, 2, 0, 1]);
        assert_eq!(Rotation::Hybrid.order(3, 1, 7, 1), [2, 0, 1]);
    }

    fn any_rotation() -> impl Strategy<Value = Rotation> {
        prop_oneof![Just(Rotation::Sequential), Just(Rotation::RoundRobin), Just(Rotation::Hybrid)]
    }

    proptest! {
        #[test]
        fn every_account_once(rotation in any_rotation(), count in 0_usize..20, active in 0_usize..20, turn in any::<usize>(), process in any::<usize>()) {
            let mut order = rotation.order(count, active, turn, process);
            order.sort_unstable();
            prop_assert_eq!(order, (0..count).collect::<Vec<_>>());
        }

        #[test]
        fn turns_are_fair(count in 1_usize..10, active in 0_usize..10, rounds in 1_usize..5) {
            let mut asked = vec![0; count];
            for turn in 0..count * rounds {
                asked[Rotation::RoundRobin.order(count, active, turn, 0)[0]] += 1;
            }
            prop_assert!(asked.iter().all(|times| *times == rounds));
        }
    }
}
