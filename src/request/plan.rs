//! What comes next in a call: the states of the pipeline, and its transitions in one place. Pure.

use std::collections::VecDeque;

use crate::accounts::availability::Availability;
use crate::accounts::rotation::Rotation;
use crate::plans::Price;

/// While every account is cooling, a degraded payload is tried at most this often.
pub const DEGRADE_INTERVAL_MS: u64 = 60_000;

/// An account that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// How it stands.
    pub availability: Availability,
    /// What it costs.
    pub price: Price,
}

/// What is known when a call begins.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// All accounts that the request may be sent with, in the store's order.
    pub candidates: &'a [Candidate],
    /// The account that the user has chosen.
    pub active: Option<&'a str>,
    /// How requests are spread.
    pub rotation: Rotation,
    /// Counts this process's requests.
    pub turn: usize,
    /// Tells processes apart.
    pub process: usize,
    /// The time in epoch milliseconds.
    pub now_ms: u64,
    /// When a degraded payload was last tried because every account was cooling.
    pub degraded_at: u64,
    /// Whether a degraded payload may be tried at all: not for requests that are no chat.
    pub may_degrade: bool,
    /// Whether the CLI may be asked.
    pub may_fall_back: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send the payload with this account.
    Ask(String),
    /// Send a degraded payload with this account: every account is out of quota.
    Degrade(String),
    /// Ask the CLI.
    FallBack,
    /// Say that every account is out of quota.
    GiveUp,
    /// Pass on what the last account came to.
    PassOn,
}

/// How a step ended that did not end the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The account is out of quota until then.
    Exhausted(u64),
    /// The account is rate limited until then, which is longer than can be waited for.
    RateLimited(u64),
    /// The account's login does not work.
    Unusable,
    /// The degraded payload, or the CLI, did not bring an answer.
    Failed,
}

/// The course of one call.
#[derive(Debug)]
pub struct Plan {
    queue: VecDeque<String>,
    current: Option<String>,
    /// The exhausted account that is free first, and when.
    free_first: Option<(String, u64)>,
    may_degrade: bool,
    may_fall_back: bool,
    found_none_ready: bool,
}

impl Plan {
    /// Which accounts come into question, in what order.
    #[must_use]
    pub fn new(situation: &Situation) -> Self {
        let Situation { candidates, rotation, turn, process, .. } = situation;
        let active = candidates
            .iter()
            .position(|candidate| Some(candidate.id.as_str()) == situation.active)
            .unwrap_or(0);
        let from_active = || candidates[active.min(candidates.len())..].iter().chain(&candidates[..active]);
        // What the user has chosen comes first, then what costs the least.
        let is_active = |candidate: &Candidate| Some(candidate.id.as_str()) == situation.active;
        let with = |wanted: fn(Availability) -> bool| -> Vec<&Candidate> {
            let mut found: Vec<_> =
                from_active().filter(|candidate| wanted(candidate.availability)).collect();
            found.sort_by_key(|candidate| (!is_active(candidate), candidate.price));
            found
        };
        let mut ready = with(|availability| availability == Availability::Ready);
        if *rotation != Rotation::Sequential {
            // Turns stay within the cheapest kind.
            ready.sort_by_key(|candidate| candidate.price);
            let cheapest = ready.first().map(|candidate| candidate.price);
            let count = ready.iter().filter(|candidate| Some(candidate.price) == cheapest).count();
            let turns: Vec<_> =
                rotation.order(count, 0, *turn, *process).into_iter().map(|at| ready[at]).collect();
            ready.splice(..count, turns);
        }
        let mut queue: VecDeque<String> = ready.iter().map(|candidate| candidate.id.clone()).collect();
        if queue.is_empty() {
            // Nothing else is left: what was refused a moment ago may be believed again.
            queue.extend(
                with(|availability| availability == Availability::Rejected)
                    .into_iter()
                    .map(|candidate| candidate.id.clone()),
            );
        }
        let free_first = candidates.iter().filter_map(|candidate| match candidate.availability {
            Availability::Cooling(until) => Some((candidate.id.clone(), until)),
            _ => None,
        });
        let free_first = free_first.min_by_key(|(_, until)| *until);
        if queue.is_empty() && free_first.is_none() {
            // The first account's own error says what is wrong.
            queue.extend(from_active().next().map(|candidate| candidate.id.clone()));
        }
        let degraded_lately = situation.now_ms.abs_diff(situation.degraded_at) < DEGRADE_INTERVAL_MS;
        let found_none_ready = ready.is_empty();
        let may_degrade = situation.may_degrade && !(found_none_ready && degraded_lately);
        let may_fall_back = situation.may_fall_back;
        Self { queue, current: None, free_first, may_degrade, may_fall_back, found_none_ready }
    }

    /// The account that is still to be asked, where it is the only one.
    #[must_use]
    pub fn last(&self) -> Option<&str> {
        self.queue.front().filter(|_| self.queue.len() == 1).map(String::as_str)
    }

    /// How many accounts are still to be asked.
    #[must_use]
    pub fn left(&self) -> usize {
        self.queue.len()
    }

    /// The first step.
    #[must_use]
    pub fn begin(&mut self) -> Step {
        self.next_account().unwrap_or_else(|| self.without_account())
    }

    /// The step after one that ended so.
    #[must_use]
    pub fn after(&mut self, outcome: Outcome) -> Step {
        if let (Outcome::Exhausted(until) | Outcome::RateLimited(until), Some(id)) =
            (outcome, self.current.clone())
            && self.free_first.as_ref().is_none_or(|(_, first)| until < *first)
        {
            self.free_first = Some((id, until));
        }
        if outcome == Outcome::Failed {
            return self.without_account();
        }
        self.next_account().unwrap_or_else(|| match outcome {
            // A rate limit passes: the caller waits as the server says.
            Outcome::RateLimited(_) => Step::PassOn,
            _ if self.free_first.is_some() => self.without_account(),
            _ => Step::PassOn,
        })
    }

    /// Whether no account was ready when the call began: a degraded payload then needs leave, once a minute for all.
    #[must_use]
    pub fn found_none_ready(&self) -> bool {
        self.found_none_ready
    }

    /// When the first account is free again, in epoch milliseconds.
    #[must_use]
    pub fn free_at(&self) -> Option<u64> {
        self.free_first.as_ref().map(|(_, until)| *until)
    }

    fn next_account(&mut self) -> Option<Step> {
        self.current = self.queue.pop_front();
        self.current.clone().map(Step::Ask)
    }

    /// Every account is out of quota: each way out is tried once.
    fn without_account(&mut self) -> Step {
        if std::mem::take(&mut self.may_degrade)
            && let Some((id, _)) = &self.free_first
        {
            return Step::Degrade(id.clone());
        }
        if std::mem::take(&mut self.may_fall_back) { Step::FallBack } else { Step::GiveUp }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(availabilities: &[Availability]) -> Vec<Candidate> {
        availabilities
            .iter()
            .enumerate()
            .map(|(at, availability)| Candidate {
                id: at.to_string(),
                availability: *availability,
                price: Price::Free,
            })
            .collect()
    }

    fn situation(candidates: &[Candidate]) -> Situation<'_> {
        Situation {
            candidates,
            active: Some("0"),
            rotation: Rotation::Sequential,
            turn: 0,
            process: 0,
            now_ms: 1_000_000,
            degraded_at: 0,
            may_degrade: true,
            may_fall_back: true,
        }
    }

    fn ask(id: &str) -> Step {
        Step::Ask(id.to_owned())
    }

    #[test]
    fn every_ready_account_once_then_degraded_then_the_cli_then_the_end() {
        use Availability::{Cooling, Dead, Ready};
        let all = candidates(&[Ready, Dead, Ready, Cooling(1_000_300)]);
        let mut plan = Plan::new(&situation(&all));
        assert_eq!(plan.begin(), ask("0"));
        assert_eq!(plan.after(Outcome::Exhausted(1_000_900)), ask("2"));
        assert_eq!(plan.after(Outcome::Exhausted(1_000_100)), Step::Degrade("2".into()));
        assert_eq!(plan.after(Outcome::Failed), Step::FallBack);
        assert_eq!(plan.after(Outcome::Failed), Step::GiveUp);
        assert_eq!(plan.free_at(), Some(1_000_100));
    }

    #[test]
    fn while_all_are_cooling_no_full_payload_is_sent_and_a_degraded_one_once_a_minute() {
        let all = candidates(&[Availability::Cooling(1_000_900), Availability::Cooling(1_000_100)]);
        assert_eq!(Plan::new(&situation(&all)).begin(), Step::Degrade("1".into()));
        let lately = Situation { degraded_at: 999_000, ..situation(&all) };
        assert_eq!(Plan::new(&lately).begin(), Step::FallBack);
        let no_cli = Situation { may_fall_back: false, ..lately };
        assert_eq!(Plan::new(&no_cli).begin(), Step::GiveUp);
    }

    #[test]
    fn a_rate_limit_of_the_last_account_is_the_callers() {
        let all = candidates(&[Availability::Ready, Availability::Ready]);
        let mut plan = Plan::new(&situation(&all));
        assert_eq!(plan.begin(), ask("0"));
        assert_eq!(plan.after(Outcome::RateLimited(1_000_200)), ask("1"));
        assert_eq!(plan.after(Outcome::RateLimited(1_000_200)), Step::PassOn);
    }

    #[test]
    fn logins_that_do_not_work_are_said_by_the_last_of_them() {
        let all = candidates(&[Availability::Rejected, Availability::Dead]);
        let mut plan = Plan::new(&situation(&all));
        assert_eq!(plan.begin(), ask("0"));
        assert_eq!(plan.after(Outcome::Unusable), Step::PassOn);
        let all = candidates(&[Availability::Dead, Availability::Dead]);
        assert_eq!(Plan::new(&Situation { active: Some("1"), ..situation(&all) }).begin(), ask("1"));
    }

    #[test]
    fn a_refused_account_is_asked_only_if_nothing_is_ready() {
        let all = candidates(&[Availability::Rejected, Availability::Ready]);
        let mut plan = Plan::new(&situation(&all));
        assert_eq!(plan.begin(), ask("1"));
        assert_eq!(plan.left(), 0);
    }

    #[test]
    fn the_users_choice_first_and_then_what_costs_the_least() {
        let mut all = candidates(&[Availability::Ready; 4]);
        for (candidate, price) in
            all.iter_mut().zip([Price::Subscription, Price::Metered, Price::Free, Price::Subscription])
        {
            candidate.price = price;
        }
        let order = |situation: &Situation| {
            let mut plan = Plan::new(situation);
            let mut step = plan.begin();
            let mut asked = String::new();
            while let Step::Ask(id) = step {
                asked.push_str(&id);
                step = plan.after(Outcome::Unusable);
            }
            asked
        };
        assert_eq!(order(&Situation { active: Some("1"), ..situation(&all) }), "1230");
        assert_eq!(order(&Situation { active: Some("0"), ..situation(&all) }), "0231");
        let turns =
            |turn| Situation { rotation: Rotation::RoundRobin, active: Some("0"), turn, ..situation(&all) };
        assert_eq!((order(&turns(0)), order(&turns(1))), ("2031".to_owned(), "2031".to_owned()));
        all[2].availability = Availability::Dead;
        let turns =
            |turn| Situation { rotation: Rotation::RoundRobin, active: Some("0"), turn, ..situation(&all) };
        assert_eq!((order(&turns(0)), order(&turns(1))), ("031".to_owned(), "301".to_owned()));
    }

    fn any_availability() -> impl Strategy<Value = Availability> {
        prop_oneof![
            Just(Availability::Ready),
            Just(Availability::Rejected),
            Just(Availability::Dead),
            (1_000_001_u64..2_000_000).prop_map(Availability::Cooling),
        ]
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            (1_000_001_u64..2_000_000).prop_map(Outcome::Exhausted),
            (1_000_001_u64..2_000_000).prop_map(Outcome::RateLimited),
            Just(Outcome::Unusable),
        ]
    }

    proptest! {
        #[test]
        fn each_account_is_asked_once_and_the_call_ends(
            availabilities in proptest::collection::vec(any_availability(), 0..7),
            outcomes in proptest::collection::vec(any_outcome(), 20),
            active in 0_usize..8, turn in any::<usize>(), may_degrade in any::<bool>(), may_fall_back in any::<bool>(),
        ) {
            let all = candidates(&availabilities);
            let active = active.to_string();
            let situation = Situation { active: Some(&active), rotation: Rotation::RoundRobin, turn, may_degrade, may_fall_back, ..situation(&all) };
            let mut plan = Plan::new(&situation);
            let mut step = plan.begin();
            let mut asked = Vec::new();
            let (mut degraded, mut fell_back) = (0, 0);
            for outcome in outcomes {
                step = match step {
                    Step::Ask(id) => {
                        prop_assert_eq!(degraded + fell_back, 0);
                        asked.push(id);
                        plan.after(outcome)
                    }
                    Step::Degrade(_) => { degraded += 1; plan.after(Outcome::Failed) }
                    Step::FallBack => { fell_back += 1; plan.after(Outcome::Failed) }
                    Step::GiveUp | Step::PassOn => { step = Step::GiveUp; break; }
                };
            }
            prop_assert_eq!(step, Step::GiveUp);
            let ready: Vec<_> = all.iter().filter(|candidate| candidate.availability == Availability::Ready).map(|candidate| candidate.id.clone()).collect();
            let mut sorted = asked.clone();
            sorted.sort();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), asked.len());
            if !ready.is_empty() {
                prop_assert_eq!(sorted, ready);
            }
            prop_assert!(degraded <= usize::from(may_degrade) && fell_back <= usize::from(may_fall_back));
        }
    }
}
