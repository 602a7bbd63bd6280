//! Lists the models that the accounts can be asked for.

use std::collections::BTreeMap;

use qwen_accounts::{Kind, Record};
use serde::Serialize;

use super::catalog::{self, CatalogList, Input, ModelFacts, Prices, Thinking};
use super::output_cap_by_name;

/// Defaults for a model without facts, in tokens.
const UNKNOWN_CONTEXT: u64 = 131_072;
const UNKNOWN_OUTPUT: u64 = 8_192;

/// Thinking budgets of the levels low, medium and high, in tokens.
const BUDGETS: [u64; 3] = [4_096, 16_384, 32_768];
/// Thinking budget that every Qwen 3 model accepts, in tokens. Used if a model's own is unknown.
const COMMON_BUDGET: u64 = 38_912;

/// A model that at least one account can be asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferedModel {
    /// Id in requests.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Context window, in tokens.
    pub context: u64,
    /// Largest output, in tokens.
    pub output: u64,
    /// Kinds of input that the model takes, text first.
    pub input: Vec<Input>,
    /// True if the model can think before it answers.
    pub reasoning: bool,
    /// Controls for thinking.
    pub thinking: Thinking,
    /// Field of an assistant message that returns its thoughts.
    pub interleaved: Option<&'static str>,
    /// True if the model accepts a `temperature`.
    pub temperature: bool,
    /// Release date, `YYYY-MM-DD` or `YYYY-MM`.
    pub released: Option<&'static str>,
    /// Prices, if the first account is billed by use.
    pub prices: Option<Prices>,
    /// Ids of the accounts with the model, in the order in which they are asked.
    pub accounts: Vec<String>,
}

/// An account and its server's list, or `None` if the catalog is used.
#[derive(Debug)]
pub struct Offering<'a> {
    pub record: &'a Record,
    pub listed: Option<Vec<String>>,
}

/// Returns the models of these accounts by id. The first account with a model describes it. Without accounts, returns those
/// of a login.
#[must_use]
pub fn offered(accounts: &[Offering]) -> Vec<OfferedModel> {
    let mut models: BTreeMap<String, OfferedModel> = BTreeMap::new();
    if accounts.is_empty() {
        for id in CatalogList::Login.models().keys() {
            models.insert((*id).to_owned(), describe(id, Some(CatalogList::Login)));
        }
    }
    for Offering { record, listed } in accounts {
        let list = list_of(record);
        let ids: Vec<String> = match (listed, list) {
            (Some(listed), _) => listed.iter().filter(|id| !catalog::is_not_chat(id)).cloned().collect(),
            (None, Some(list)) => list.models().keys().map(|id| (*id).to_owned()).collect(),
            (None, None) => Vec::new(),
        };
        for id in ids {
            let model = models.entry(id).or_insert_with_key(|id| describe(id, list));
            model.accounts.push(record.id().to_owned());
        }
    }
    models.into_values().collect()
}

/// Returns the catalog's list for the account's plan, for any server.
fn list_of(record: &Record) -> Option<CatalogList> {
    match record.kind() {
        Kind::OAuth => Some(CatalogList::Login),
        Kind::Key(plan) => plan.map(|plan| CatalogList::of_plan(plan, record.region())),
    }
}

fn describe(id: &str, list: Option<CatalogList>) -> OfferedModel {
    let own = list.and_then(|list| list.models().get(id));
    match own.or_else(|| catalog::find(id)) {
        Some(facts) => known(id, facts, own.is_some()),
        None => unknown(id),
    }
}

/// Describes a model from the catalog. Another plan's prices are left out.
fn known(id: &str, facts: &ModelFacts, is_own: bool) -> OfferedModel {
    OfferedModel {
        id: id.to_owned(),
        name: facts.name.to_owned(),
        context: facts.context,
        output: facts.output,
        input: facts.input.clone(),
        reasoning: facts.reasoning,
        thinking: facts.thinking.clone(),
        interleaved: facts.interleaved,
        temperature: !facts.fixed_temperature,
        released: facts.released,
        prices: facts.prices.clone().filter(|_| is_own),
        accounts: Vec::new(),
    }
}

/// Describes a model without facts by careful defaults that work anywhere.
fn unknown(id: &str) -> OfferedModel {
    let sees = id.contains("-vl") || id.contains("-omni");
    OfferedModel {
        id: id.to_owned(),
        name: id.to_owned(),
        context: UNKNOWN_CONTEXT,
        output: output_cap_by_name(id).unwrap_or(UNKNOWN_OUTPUT),
        input: if sees { vec![Input::Text, Input::Image] } else { vec![Input::Text] },
        reasoning: false,
        thinking: Thinking::default(),
        interleaved: None,
        temperature: true,
        released: None,
        prices: None,
        accounts: Vec::new(),
    }
}

/// A choice of how much a model thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ThinkingLevel {
    /// Name of the level.
    pub name: &'static str,
    /// Value of `enable_thinking`, if sent.
    pub enable: Option<bool>,
    /// Value of `thinking_budget` in tokens, if sent.
    pub budget: Option<u64>,
    /// Value of `reasoning_effort`, if sent.
    pub effort: Option<&'static str>,
}

impl OfferedModel {
    /// Returns the levels, lowest first; none for a model without controls.
    #[must_use]
    pub fn thinking_levels(&self) -> Vec<ThinkingLevel> {
        let Thinking { toggle, efforts, budget, mandatory } = &self.thinking;
        let off = ThinkingLevel { name: "none", enable: Some(false), budget: None, effort: None };
        let mut levels = Vec::new();
        if *toggle && !mandatory && !efforts.contains(&"none") {
            levels.push(off);
        }
        if !efforts.is_empty() {
            let allowed = efforts.iter().filter(|effort| !(*mandatory && **effort == "none"));
            levels.extend(allowed.map(|effort| ThinkingLevel {
                name: effort,
                enable: toggle.then_some(*effort != "none"),
                budget: None,
                effort: Some(effort),
            }));
        } else if *toggle || budget.is_some() {
            let largest = budget.unwrap_or(COMMON_BUDGET);
            let [low, medium, high] = BUDGETS;
            let budgets = [
                ("low", low.min(largest / 8)),
                ("medium", medium.min(largest / 2)),
                ("high", if largest > high { high } else { largest / 4 * 3 }),
                ("max", largest),
            ];
            levels.extend(budgets.map(|(name, budget)| ThinkingLevel {
                name,
                enable: toggle.then_some(true),
                budget: Some(budget),
                effort: None,
            }));
        }
        levels
    }
}

#[cfg(test)]
mod tests {
    use qwen_accounts::Key;
    use qwen_base::{ENDPOINTS, KeyPlan, Secret, api_base_url};

    use super::*;

    fn key(id: &str, plan: KeyPlan, region: &str) -> Record {
        let place = ENDPOINTS.iter().find(|place| place.plan == plan && place.region == region).unwrap();
        let base_url = api_base_url(&place.base_url).unwrap();
        let key = Key {
            secret: Secret::new("sk-1"),
            plan: Some(plan),
            region: Some(region.to_owned()),
            base_url,
            tier: None,
        };
        Record::of_key(id, None, &key, 1)
    }

    fn model(models: &[OfferedModel], id: &str) -> OfferedModel {
        models.iter().find(|model| model.id == id).unwrap_or_else(|| panic!("no {id}")).clone()
    }

    #[test]
    fn without_accounts_the_models_of_a_login_are_offered() {
        let models = offered(&[]);
        assert_eq!(
            models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(),
            ["coder-model", "vision-model"]
        );
        assert!(models.iter().all(|model| model.accounts.is_empty() && model.input.contains(&Input::Image)));
    }

    #[test]
    fn the_first_account_describes_a_shared_model() {
        let (plan, metered) =
            (key("plan", KeyPlan::CodingPlan, "intl"), key("metered", KeyPlan::DashScope, "intl"));
        let of = |records: [&Record; 2]| offered(&records.map(|record| Offering { record, listed: None }));
        let first = model(&of([&plan, &metered]), "qwen3.7-plus");
        assert_eq!(
            (first.output, first.prices.is_some(), first.accounts),
            (64_000, false, vec!["plan".into(), "metered".into()])
        );
        let first = model(&of([&metered, &plan]), "qwen3.7-plus");
        assert_eq!(
            (first.output, first.prices.unwrap().output, first.accounts[0].as_str()),
            (131_072, 3.0, "metered")
        );
        let only = model(&of([&plan, &metered]), "qwen-turbo");
        assert!(only.prices.is_some() && only.accounts == ["metered"]);
    }

    #[test]
    fn unknown_models_of_a_server_get_careful_defaults() {
        let record = key("plan", KeyPlan::TokenPlan, "cn");
        let listed = ["qwen9-max", "new-vl", "wan2.7-image", "qwen3-coder-plus", "qwen3.8-max-preview"];
        let listed = Some(listed.map(str::to_owned).to_vec());
        let models = offered(&[Offering { record: &record, listed }]);
        assert_eq!(models.len(), 4);
        let new = model(&models, "qwen9-max");
        assert_eq!((new.context, new.output, new.input), (131_072, 32_768, vec![Input::Text]));
        assert_eq!(model(&models, "new-vl").input, [Input::Text, Input::Image]);
        // The catalog has the model for another plan, possibly with a price.
        let coder = model(&models, "qwen3-coder-plus");
        assert_eq!((coder.context, coder.prices), (1_000_000, None));
    }

    fn levels(id: &str) -> Vec<ThinkingLevel> {
        let record = key("plan", KeyPlan::TokenPlan, "intl");
        model(&offered(&[Offering { record: &record, listed: None }]), id).thinking_levels()
    }

    fn names(id: &str) -> Vec<&'static str> {
        levels(id).iter().map(|level| level.name).collect()
    }

    #[test]
    fn thinking_levels_follow_the_model() {
        assert_eq!(names("qwen3.7-plus"), ["none", "low", "medium", "high", "max"]);
        assert_eq!(names("qwen3.8-flash"), ["none", "low", "medium", "xhigh"]);
        assert_eq!(names("qwen3.8-max"), ["low", "medium", "xhigh"]);
        assert_eq!(names("kimi-k2.7-code"), ["low", "medium", "high", "max"]);
        assert_eq!(names("deepseek-v4-pro"), ["none", "high", "max"]);
        assert_eq!(names("glm-5.2"), ["high", "max"]);
        assert_eq!(names("MiniMax-M2.5"), [""; 0]);
        let budgets = |id| levels(id).iter().filter_map(|level| level.budget).collect::<Vec<_>>();
        assert_eq!(budgets("qwen3.7-plus"), [4_096, 16_384, 32_768, 262_144]);
        assert_eq!(budgets("glm-5"), [4_096, 16_384, 24_576, 32_768]);
        let record = key("metered", KeyPlan::DashScope, "intl");
        let models = offered(&[Offering { record: &record, listed: None }]);
        let always = model(&models, "qwen3-next-80b-a3b-thinking").thinking_levels();
        let sent = always.iter().map(|level| (level.name, level.enable, level.budget)).collect::<Vec<_>>();
        let budgets = [("low", 4_096), ("medium", 16_384), ("high", 32_768), ("max", 38_912)];
        assert_eq!(sent, budgets.map(|(name, budget)| (name, None, Some(budget))));
        let high = levels("deepseek-v4-pro")[1];
        assert_eq!((high.enable, high.effort, high.budget), (Some(true), Some("high"), None));
    }

    #[test]
    fn no_budget_exceeds_the_limit_of_the_model() {
        for list in CatalogList::ALL {
            for (id, facts) in list.models() {
                let levels = describe(id, Some(list)).thinking_levels();
                let largest = facts.thinking.budget.unwrap_or(COMMON_BUDGET);
                assert!(
                    levels
                        .iter()
                        .filter_map(|level| level.budget)
                        .all(|budget| (1..=largest).contains(&budget)),
                    "{id}"
                );
                assert!(!facts.thinking.mandatory || levels.iter().all(|level| level.name != "none"), "{id}");
            }
        }
    }
}
