//! Selects the accounts for a request and their order, and the fallback if none of them can answer. Pure.

use std::collections::VecDeque;

use qwen_accounts::{Account, Availability, Cooldown, CoolingReason, Kind, Record, Serving};
use qwen_base::Price;

use crate::config::Rotation;

/// An account with the facts that decide if it is asked.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub account: &'a Account,
    /// The account in the store.
    pub record: &'a Record,
    pub price: Price,
    pub availability: Availability,
    /// Tells if the account serves the request's model.
    pub serving: Serving,
    /// True if the user chose the account.
    pub is_active: bool,
}

/// The facts about a call that the selection depends on.
#[derive(Debug, Clone, Copy)]
pub struct SelectionInput {
    pub rotation: Rotation,
    /// Number of earlier calls of this client.
    pub turn: usize,
    /// Id of the process.
    pub process: usize,
    /// True if accounts may be asked that are more expensive than the user's choice.
    pub allow_paid_fallback: bool,
    /// True if a shorter request may be sent.
    pub may_degrade: bool,
    /// True if the qwen CLI may be asked.
    pub may_fall_back: bool,
    /// Time in epoch milliseconds.
    pub now_ms: u64,
}

/// The next step of a call.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// Send the request with this account.
    Ask(&'a Candidate<'a>),
    /// Send a shorter request with this account, whose quota is used up.
    Degrade(&'a Candidate<'a>),
    /// Ask the qwen CLI.
    FallBack,
    /// Return the error that no account can be asked now.
    GiveUp,
    /// Return the answer of the last account.
    PassOn,
}

/// The result of a step that did not end the call.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The account is cooling.
    Cooling(Cooldown),
    /// The account can't answer this request.
    Unusable,
    /// The shorter request, or the CLI, was not answered.
    Failed,
}

/// The accounts of one call, and its progress with them.
#[derive(Debug)]
pub struct Selection<'a> {
    /// The accounts that the request may be sent with.
    allowed: Vec<&'a Candidate<'a>>,
    too_expensive: Vec<&'a Candidate<'a>>,
    price_limit: Price,
    queue: VecDeque<&'a Candidate<'a>>,
    current: Option<&'a Candidate<'a>>,
    cooling: Vec<(&'a Candidate<'a>, Cooldown)>,
    may_degrade: bool,
    may_fall_back: bool,
    found_none_ready: bool,
}

impl<'a> Selection<'a> {
    /// Selects among the candidates, which are in the order of the store.
    #[must_use]
    pub fn new(candidates: &'a [Candidate<'a>], input: &SelectionInput) -> Self {
        let active = candidates.iter().position(|candidate| candidate.is_active);
        let serving = serving(candidates, active.unwrap_or(0));
        let chosen = active.map_or(Price::Free, |active| candidates[active].price);
        let best = serving.iter().filter(|candidate| candidate.serving == serving[0].serving);
        let cheapest = best.map(|candidate| candidate.price).min().unwrap_or(Price::Free);
        // Asking for a model that only a subscription serves allows that subscription, but never a metered key.
        let price_limit = chosen.max(cheapest.min(Price::Subscription));
        let (mut allowed, too_expensive): (Vec<&Candidate>, _) = serving
            .into_iter()
            .partition(|candidate| input.allow_paid_fallback || candidate.price <= price_limit);
        let likely = allowed.partition_point(|candidate| candidate.serving < Serving::Unlikely);
        if likely > 0 {
            allowed.truncate(likely);
        }
        let cooling = allowed.iter().filter_map(|candidate| {
            let is_cooling = matches!(candidate.availability, Availability::Cooling(_));
            let cooldown = candidate.record.cooldown(input.now_ms).filter(|_| is_cooling)?;
            Some((*candidate, cooldown))
        });
        let cooling: Vec<_> = cooling.collect();
        let with = |availability| -> VecDeque<_> {
            allowed.iter().copied().filter(|candidate| candidate.availability == availability).collect()
        };
        let mut queue = with(Availability::Ready);
        let found_none_ready = queue.is_empty();
        rotate(queue.make_contiguous(), input);
        if queue.is_empty() {
            // As a last resort, ask an account again that was refused recently.
            queue = with(Availability::Rejected);
        }
        if queue.is_empty() && cooling.is_empty() {
            // The error of the first account explains the problem.
            queue.extend(allowed.first());
        }
        Self {
            allowed,
            too_expensive,
            price_limit,
            queue,
            current: None,
            cooling,
            may_degrade: input.may_degrade,
            may_fall_back: input.may_fall_back,
            found_none_ready,
        }
    }

    /// Returns the first step.
    #[must_use]
    pub fn begin(&mut self) -> Step<'a> {
        self.next_account().unwrap_or_else(|| self.without_account())
    }

    /// Returns the step after one with this outcome.
    #[must_use]
    pub fn after(&mut self, outcome: Outcome) -> Step<'a> {
        let mut passes_by_itself = false;
        match (outcome, self.current) {
            (Outcome::Failed, _) => return self.without_account(),
            (Outcome::Cooling(cooldown), Some(current)) => {
                // A rate limit passes, so the caller gets the server's `Retry-After`.
                passes_by_itself =
                    matches!(cooldown.reason, CoolingReason::RateLimit | CoolingReason::TokenLimit);
                self.cooling.push((current, cooldown));
            }
            _ => {}
        }
        let can_wait = self.cooling.iter().any(|(_, cooldown)| cooldown.reason != CoolingReason::Payment);
        self.next_account().unwrap_or_else(|| {
            if can_wait && !passes_by_itself { self.without_account() } else { Step::PassOn }
        })
    }

    /// The accounts that the request may be sent with; empty if no account serves it within the price limit.
    #[must_use]
    pub fn allowed(&self) -> &[&'a Candidate<'a>] {
        &self.allowed
    }

    /// The accounts that serve the request, but are above the price limit.
    #[must_use]
    pub fn too_expensive(&self) -> &[&'a Candidate<'a>] {
        &self.too_expensive
    }

    /// The price limit. Accounts above it count as paid fallback.
    #[must_use]
    pub const fn price_limit(&self) -> Price {
        self.price_limit
    }

    /// The number of accounts that are still to be asked.
    #[must_use]
    pub fn left(&self) -> usize {
        self.queue.len()
    }

    /// The account that is still to be asked, if there is just one.
    #[must_use]
    pub fn last(&self) -> Option<&'a Candidate<'a>> {
        self.queue.front().copied().filter(|_| self.queue.len() == 1)
    }

    /// True if no account was ready when the call began.
    #[must_use]
    pub const fn found_none_ready(&self) -> bool {
        self.found_none_ready
    }

    /// The accounts that are cooling.
    #[must_use]
    pub fn cooling(&self) -> &[(&'a Candidate<'a>, Cooldown)] {
        &self.cooling
    }

    fn next_account(&mut self) -> Option<Step<'a>> {
        self.current = self.queue.pop_front();
        self.current.map(Step::Ask)
    }

    /// Tries each fallback once. A key without quota refuses a shorter request too, so only a login gets one.
    fn without_account(&mut self) -> Step<'a> {
        let is_degradable = |(candidate, cooldown): &&(&Candidate, Cooldown)| {
            candidate.account.kind == Kind::OAuth && cooldown.reason == CoolingReason::Quota
        };
        let free_first = self.cooling.iter().filter(is_degradable).min_by_key(|(_, cooldown)| cooldown.until);
        if std::mem::take(&mut self.may_degrade)
            && let Some((candidate, _)) = free_first
        {
            return Step::Degrade(candidate);
        }
        if std::mem::take(&mut self.may_fall_back) { Step::FallBack } else { Step::GiveUp }
    }
}

/// Returns the candidates that may serve the request, best first: sorted by how surely the account serves the model, then the
/// active account, then price. Ties keep the store's order, counted from the active account.
fn serving<'a>(candidates: &'a [Candidate<'a>], active: usize) -> Vec<&'a Candidate<'a>> {
    let (before, from_active) = candidates.split_at(active.min(candidates.len()));
    let is_key = |candidate: &Candidate| candidate.account.kind != Kind::OAuth;
    let may_serve = |candidate: &Candidate| match candidate.serving {
        Serving::Yes => true,
        Serving::Maybe => is_key(candidate),
        Serving::Unlikely | Serving::No => false,
    };
    let (others_may, has_key) = (candidates.iter().any(may_serve), candidates.iter().any(is_key));
    // A login is asked for an unknown model only if no other account may have it, and beside keys only if it works.
    let is_wanted = |candidate: &&Candidate| match candidate.serving {
        Serving::Yes | Serving::Unlikely => true,
        Serving::Maybe => is_key(candidate) || (!others_may && (candidate.availability.works() || !has_key)),
        Serving::No => false,
    };
    let mut found: Vec<_> = from_active.iter().chain(before).filter(is_wanted).collect();
    found.sort_by_key(|candidate| (candidate.serving, !candidate.is_active, candidate.price));
    found
}

/// Sorts by [`Serving`] and price, then rotates the accounts of the best rank. Sequential rotation keeps the order.
fn rotate(ready: &mut [&Candidate], input: &SelectionInput) {
    let turn = match input.rotation {
        Rotation::Sequential => return,
        Rotation::RoundRobin => input.turn,
        Rotation::Hybrid => input.process,
    };
    let rank = |candidate: &Candidate| (candidate.serving, candidate.price);
    ready.sort_by_key(|candidate| rank(candidate));
    let cheapest = ready.iter().take_while(|candidate| rank(candidate) == rank(ready[0])).count();
    if cheapest > 0 {
        ready[..cheapest].rotate_left(turn % cheapest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qwen_accounts::{Cooldown, availability};
    use qwen_base::KeyPlan;

    use super::*;
    use crate::test_tokens::token;

    const NOW: u64 = 1_000_000;
    const LOGIN: Kind = Kind::OAuth;
    const PLAN: Kind = Kind::Key(Some(KeyPlan::CodingPlan));
    const METERED: Kind = Kind::Key(Some(KeyPlan::DashScope));

    /// The state of an account in a test.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Health {
        Ready,
        Rejected,
        Dead,
        Cooling(u64, CoolingReason),
    }
    use Health::{Dead, Ready, Rejected};

    struct Scene(Vec<(Account, Record, Kind, Serving)>);

    impl Scene {
        fn new(all: &[(Kind, Health, Serving)]) -> Self {
            let account = |(at, (kind, state, serving)): (usize, &(Kind, Health, Serving))| {
                let id = at.to_string();
                let mut record = Record::new(&id, None, &token(&id, NOW + 60_000), 1);
                match state {
                    Ready => {}
                    Rejected => record.set_rejected(Some((&token(&id, 0).access_token, NOW))),
                    Dead => record = Record::new(&id, None, &token(&id, 0), 1),
                    Health::Cooling(until, reason) => record.start_cooling(&cooldown(*until, *reason), NOW),
                }
                if *state == Dead {
                    record.set_superseded(true);
                }
                let account = Account { label: id.clone(), id, kind: *kind, path: "f".into(), binding: None };
                (account, record, *kind, *serving)
            };
            Self(all.iter().enumerate().map(account).collect())
        }

        fn logins(states: &[Health]) -> Self {
            Self::new(&states.iter().map(|state| (LOGIN, *state, Serving::Yes)).collect::<Vec<_>>())
        }

        fn candidates(&self, active: usize) -> Vec<Candidate<'_>> {
            self.0
                .iter()
                .enumerate()
                .map(|(at, (account, record, kind, serving))| Candidate {
                    account,
                    record,
                    price: kind.price(),
                    availability: availability(record, NOW),
                    serving: *serving,
                    is_active: at == active,
                })
                .collect()
        }
    }

    fn cooldown(until: u64, reason: CoolingReason) -> Cooldown {
        Cooldown { until, reason, code: String::new(), window: None }
    }

    fn spent(until: u64) -> Outcome {
        Outcome::Cooling(cooldown(until, CoolingReason::Quota))
    }

    fn limited(until: u64) -> Outcome {
        Outcome::Cooling(cooldown(until, CoolingReason::RateLimit))
    }

    const INPUT: SelectionInput = SelectionInput {
        rotation: Rotation::Sequential,
        turn: 0,
        process: 0,
        allow_paid_fallback: false,
        may_degrade: true,
        may_fall_back: true,
        now_ms: NOW,
    };

    fn name(step: Step) -> String {
        match step {
            Step::Ask(candidate) => format!("ask {}", candidate.account.id),
            Step::Degrade(candidate) => format!("degrade {}", candidate.account.id),
            Step::FallBack => "fall back".to_owned(),
            Step::GiveUp => "give up".to_owned(),
            Step::PassOn => "pass on".to_owned(),
        }
    }

    /// Returns the steps of a call with these outcomes.
    fn course(scene: &Scene, active: usize, input: &SelectionInput, outcomes: &[Outcome]) -> Vec<String> {
        let candidates = scene.candidates(active);
        let mut selection = Selection::new(&candidates, input);
        let first = name(selection.begin());
        let rest = outcomes.iter().map(|outcome| name(selection.after(outcome.clone())));
        std::iter::once(first).chain(rest).collect()
    }

    fn asked(scene: &Scene, active: usize, input: &SelectionInput) -> String {
        let steps = course(scene, active, input, &vec![Outcome::Unusable; 9]);
        steps.iter().filter_map(|step| step.strip_prefix("ask ")).collect()
    }

    #[test]
    fn each_ready_account_is_asked_once_then_a_smaller_request_then_the_cli() {
        let scene = Scene::logins(&[Ready, Dead, Ready, Health::Cooling(NOW + 300, CoolingReason::Quota)]);
        let steps = course(
            &scene,
            0,
            &INPUT,
            &[spent(NOW + 900), spent(NOW + 100), Outcome::Failed, Outcome::Failed],
        );
        assert_eq!(steps, ["ask 0", "ask 2", "degrade 2", "fall back", "give up"]);
    }

    #[test]
    fn while_all_accounts_cool_no_full_request_is_sent() {
        let quota = |until| Health::Cooling(until, CoolingReason::Quota);
        let scene = Scene::logins(&[quota(NOW + 900), quota(NOW + 100)]);
        assert_eq!(course(&scene, 0, &INPUT, &[]), ["degrade 1"]);
        let without = SelectionInput { may_degrade: false, ..INPUT };
        assert_eq!(course(&scene, 0, &without, &[]), ["fall back"]);
        assert_eq!(course(&scene, 0, &SelectionInput { may_fall_back: false, ..without }, &[]), ["give up"]);
    }

    #[test]
    fn only_a_login_without_quota_gets_a_smaller_request() {
        for (kind, outcome, next) in [
            (LOGIN, spent(NOW + 9), "degrade 0"),
            (PLAN, spent(NOW + 9), "fall back"),
            (LOGIN, limited(NOW + 9), "pass on"),
            (PLAN, limited(NOW + 9), "pass on"),
        ] {
            let scene = Scene::new(&[(kind, Ready, Serving::Yes)]);
            assert_eq!(course(&scene, 0, &INPUT, &[outcome])[1], next);
        }
    }

    #[test]
    fn the_last_answer_is_returned_if_no_fallback_helps() {
        let unpaid = Outcome::Cooling(cooldown(NOW + 900, CoolingReason::Payment));
        let both = Scene::logins(&[Ready, Ready]);
        for (first, second, last) in [
            (limited(NOW + 200), limited(NOW + 200), "pass on"),
            (unpaid.clone(), unpaid.clone(), "pass on"),
            (Outcome::Unusable, unpaid.clone(), "pass on"),
            (spent(NOW + 200), unpaid, "degrade 0"),
            (spent(NOW + 200), Outcome::Unusable, "degrade 0"),
            (limited(NOW + 200), Outcome::Unusable, "fall back"),
        ] {
            assert_eq!(course(&both, 0, &INPUT, &[first, second]), ["ask 0", "ask 1", last]);
        }
    }

    #[test]
    fn a_rejected_account_is_asked_only_if_none_is_ready() {
        assert_eq!(asked(&Scene::logins(&[Rejected, Ready]), 0, &INPUT), "1");
        assert_eq!(asked(&Scene::logins(&[Rejected, Dead]), 0, &INPUT), "0");
        assert_eq!(asked(&Scene::logins(&[Dead, Dead]), 1, &INPUT), "1");
    }

    #[test]
    fn the_users_choice_comes_first_and_then_the_cheapest() {
        let all = [(PLAN, Ready), (METERED, Ready), (LOGIN, Ready), (PLAN, Ready)];
        let scene = Scene::new(&all.map(|(kind, state)| (kind, state, Serving::Yes)));
        let free = SelectionInput { allow_paid_fallback: true, ..INPUT };
        assert_eq!(asked(&scene, 1, &free), "1230");
        assert_eq!(asked(&scene, 0, &free), "0231");
        assert_eq!((asked(&scene, 0, &INPUT), asked(&scene, 2, &INPUT)), ("023".into(), "2".into()));
        let turns = |turn| SelectionInput { rotation: Rotation::RoundRobin, turn, ..free };
        assert_eq!(
            (asked(&scene, 0, &turns(0)), asked(&scene, 0, &turns(1))),
            ("2031".into(), "2031".into())
        );
        let scene = Scene::new(&[
            (PLAN, Ready, Serving::Yes),
            (LOGIN, Dead, Serving::Yes),
            (PLAN, Ready, Serving::Yes),
        ]);
        assert_eq!((asked(&scene, 0, &turns(0)), asked(&scene, 0, &turns(1))), ("02".into(), "20".into()));
    }

    #[test]
    fn accounts_that_have_the_model_come_before_those_that_may_have_it() {
        use Serving::{Maybe, No, Unlikely, Yes};
        for (servings, active, expected) in [
            // A login, two keys of a plan, and a metered key.
            ([Maybe, Yes, Maybe, Yes], 0, "12"),
            ([Maybe, Maybe, Yes, No], 0, "21"),
            ([Maybe, No, No, No], 0, "0"),
            ([No, No, No, Yes], 0, ""),
            ([No, No, No, Yes], 3, "3"),
            ([No, Unlikely, Maybe, No], 1, "2"),
            ([No, Unlikely, No, Yes], 0, "1"),
            ([No, Unlikely, Unlikely, No], 2, "21"),
            ([Yes, Yes, Yes, Yes], 0, "0"),
        ] {
            let kinds = [LOGIN, PLAN, PLAN, METERED];
            let all: Vec<_> =
                kinds.into_iter().zip(servings).map(|(kind, serving)| (kind, Ready, serving)).collect();
            assert_eq!(asked(&Scene::new(&all), active, &INPUT), expected, "{servings:?}");
        }
    }

    #[test]
    fn a_login_that_does_not_work_is_not_asked_for_a_model_of_a_plan() {
        for state in [Rejected, Dead] {
            let login = (LOGIN, state, Serving::Maybe);
            for key in [(PLAN, Ready, Serving::Unlikely), (PLAN, Rejected, Serving::Yes)] {
                assert_eq!(asked(&Scene::new(&[login, key]), 0, &INPUT), "1");
            }
            assert_eq!(asked(&Scene::new(&[login, (PLAN, Ready, Serving::No)]), 0, &INPUT), "");
            // Without another account, its error explains the problem.
            assert_eq!(asked(&Scene::new(&[login]), 0, &INPUT), "0");
        }
    }

    fn any_state() -> impl Strategy<Value = Health> {
        let reason = proptest::sample::select(&CoolingReason::ALL[..]);
        prop_oneof![
            3 => Just(Ready),
            1 => Just(Rejected),
            1 => Just(Dead),
            2 => (NOW + 1..NOW * 2, reason).prop_map(|(until, reason)| Health::Cooling(until, reason)),
        ]
    }

    fn any_candidate() -> impl Strategy<Value = (Kind, Health, Serving)> {
        let kind = prop_oneof![Just(LOGIN), Just(PLAN), Just(METERED), Just(Kind::Key(None))];
        let serving = prop_oneof![4 => Just(Serving::Yes), 1 => Just(Serving::Maybe), 1 => Just(Serving::Unlikely), 1 => Just(Serving::No)];
        (kind, any_state(), serving)
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        let reason = proptest::sample::select(&CoolingReason::ALL[..]);
        prop_oneof![
            (NOW + 1..NOW * 2, reason).prop_map(|(until, reason)| Outcome::Cooling(cooldown(until, reason))),
            Just(Outcome::Unusable),
        ]
    }

    proptest! {
        #[test]
        fn each_account_is_asked_at_most_once_within_the_price_limit(
            all in proptest::collection::vec(any_candidate(), 0..7),
            outcomes in proptest::collection::vec(any_outcome(), 20),
            active in 0_usize..8, turn in any::<usize>(), rotation in 0_usize..3,
            [may_degrade, may_fall_back, allow_paid_fallback] in any::<[bool; 3]>(),
        ) {
            let rotation = [Rotation::Sequential, Rotation::RoundRobin, Rotation::Hybrid][rotation];
            let input =
                SelectionInput { rotation, turn, process: turn, allow_paid_fallback, may_degrade, may_fall_back, ..INPUT };
            let scene = Scene::new(&all);
            let candidates = scene.candidates(active);
            let mut selection = Selection::new(&candidates, &input);
            let is_empty = selection.allowed().is_empty() && selection.too_expensive().is_empty();
            prop_assert!(is_empty || all.iter().any(|(_, _, serving)| *serving != Serving::No));
            // Beside a key, a login that does not work may be left out.
            let serves_nothing = |(kind, _, serving): &(Kind, Health, Serving)| {
                *serving == Serving::No || *kind == LOGIN && *serving == Serving::Maybe
            };
            let may_be_empty = all.iter().all(serves_nothing);
            prop_assert!(!is_empty || may_be_empty);
            let limit = selection.price_limit();
            let chosen = all.get(active).map_or(Price::Free, |(kind, _, _)| kind.price());
            prop_assert!(limit < Price::Metered || chosen == Price::Metered);
            let ready: Vec<_> = selection.allowed().iter().filter(|candidate| candidate.availability == Availability::Ready).map(|candidate| candidate.account.id.clone()).collect();
            let mut step = selection.begin();
            let mut asked = Vec::new();
            let (mut degraded, mut fell_back, mut is_over) = (0, 0, false);
            for outcome in outcomes {
                step = match step {
                    Step::Ask(candidate) => {
                        prop_assert_eq!(degraded + fell_back, 0);
                        prop_assert!(allow_paid_fallback || candidate.price <= limit);
                        prop_assert!(candidate.serving != Serving::No);
                        prop_assert!(!matches!(candidate.availability, Availability::Cooling(_)));
                        asked.push(candidate.account.id.clone());
                        selection.after(outcome)
                    }
                    Step::Degrade(candidate) => {
                        prop_assert_eq!(candidate.account.kind, LOGIN);
                        degraded += 1;
                        selection.after(Outcome::Failed)
                    }
                    Step::FallBack => { fell_back += 1; selection.after(Outcome::Failed) }
                    Step::GiveUp | Step::PassOn => { is_over = true; break; }
                };
            }
            prop_assert!(is_over);
            let mut sorted = asked.clone();
            sorted.sort();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), asked.len());
            if !ready.is_empty() {
                let mut ready = ready;
                ready.sort();
                prop_assert_eq!(sorted, ready);
            }
            prop_assert!(degraded <= usize::from(may_degrade) && fell_back <= usize::from(may_fall_back));
        }

        #[test]
        fn each_account_gets_the_same_number_of_turns(count in 1_usize..7, rounds in 1_usize..5) {
            let scene = Scene::logins(&vec![Ready; count]);
            let mut times = vec![0; count];
            for turn in 0..count * rounds {
                let input = SelectionInput { rotation: Rotation::RoundRobin, turn, ..INPUT };
                let first: usize = asked(&scene, 0, &input)[..1].parse().unwrap();
                times[first] += 1;
            }
            prop_assert!(times.iter().all(|times| *times == rounds));
        }
    }
}
