//! The embedded catalog of models and their properties.
//!
//! `npm run catalog` creates the data. A list is parsed when it is first used, not at start-up.

use std::collections::BTreeMap;
use std::sync::{LazyLock, OnceLock};

use qwen_base::KeyPlan;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const DATA: &str = include_str!("../../../../catalog/catalog.json");

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| serde_json::from_str(DATA).unwrap_or_default());

pub type Listed = BTreeMap<&'static str, ModelFacts>;

#[derive(Debug, Default, Deserialize)]
#[serde(bound(deserialize = "'de: 'static"))]
struct Catalog {
    /// Each list is parsed separately: a user with only a login needs two of the models.
    lists: BTreeMap<&'static str, &'static RawValue>,
    not_chat: Vec<&'static str>,
    not_chat_patterns: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CatalogList {
    Login,
    /// Token Plan, in all regions.
    TokenPlan,
    /// Coding Plan, in all regions.
    CodingPlan,
    DashScopeChina,
    DashScopeInternational,
}

impl CatalogList {
    /// All lists. For an unknown account, the first list with the model describes it.
    pub const ALL: [Self; 5] =
        [Self::Login, Self::TokenPlan, Self::CodingPlan, Self::DashScopeInternational, Self::DashScopeChina];

    #[must_use]
    pub fn of_plan(plan: KeyPlan, region: Option<&str>) -> Self {
        match plan {
            KeyPlan::TokenPlan => Self::TokenPlan,
            KeyPlan::CodingPlan => Self::CodingPlan,
            KeyPlan::DashScope if region == Some("cn") => Self::DashScopeChina,
            KeyPlan::DashScope => Self::DashScopeInternational,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::TokenPlan => "token-plan",
            Self::CodingPlan => "coding-plan",
            Self::DashScopeChina => "dashscope-cn",
            Self::DashScopeInternational => "dashscope-intl",
        }
    }

    #[must_use]
    pub fn models(self) -> &'static Listed {
        static LISTS: [OnceLock<Listed>; CatalogList::ALL.len()] =
            [const { OnceLock::new() }; CatalogList::ALL.len()];
        let parse = || {
            let list = CATALOG.lists.get(self.name());
            list.and_then(|list| serde_json::from_str(list.get()).ok()).unwrap_or_default()
        };
        LISTS[self as usize].get_or_init(parse)
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelFacts {
    /// Display name.
    pub name: &'static str,
    /// Context window, in tokens.
    pub context: u64,
    /// Largest output, in tokens.
    pub output: u64,
    /// Kinds of input that the model takes, text first.
    pub input: Vec<Input>,
    /// True if the model can think before it answers.
    #[serde(default)]
    pub reasoning: bool,
    /// Controls for thinking.
    #[serde(default)]
    pub thinking: Thinking,
    /// Field of an assistant message that returns its thoughts.
    #[serde(default)]
    pub interleaved: Option<&'static str>,
    /// True if the model refuses a `temperature`.
    #[serde(default)]
    pub fixed_temperature: bool,
    /// "deprecated" or `None`.
    #[serde(default)]
    pub status: Option<&'static str>,
    /// Release date, `YYYY-MM-DD` or `YYYY-MM`.
    #[serde(default)]
    pub released: Option<&'static str>,
    /// US dollars per million tokens, for metered use.
    #[serde(default)]
    pub prices: Option<Prices>,
    /// True if the qwen CLI sends `enable_thinking: true` with each request.
    #[serde(default)]
    pub enable_thinking_sent: bool,
}

/// A kind of input that a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// Text.
    Text,
    /// Images.
    Image,
    /// PDF files.
    Pdf,
    /// Videos.
    Video,
}

/// Controls for a model's thinking. Empty if there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'static"))]
pub struct Thinking {
    /// True if `enable_thinking` turns thinking on and off.
    pub toggle: bool,
    /// Values of `reasoning_effort`, lowest first.
    pub efforts: Vec<&'static str>,
    /// Largest `thinking_budget`, in tokens.
    pub budget: Option<u64>,
    /// True if thinking can't be turned off.
    pub mandatory: bool,
}

impl Thinking {
    /// True if there are no controls.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        !self.toggle && self.efforts.is_empty() && self.budget.is_none()
    }
}

/// Prices in US dollars per million tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// Input that isn't cached.
    pub input: f64,
    /// Output.
    pub output: f64,
    /// Input read from the cache.
    pub cache_read: Option<f64>,
    /// Input written to the cache.
    pub cache_write: Option<f64>,
    /// Prices for requests of more than 200,000 tokens.
    pub context_over_200k: Option<Box<Prices>>,
}

/// Returns the first list's description of a model.
#[must_use]
pub fn find(model: &str) -> Option<&'static ModelFacts> {
    CatalogList::ALL.into_iter().find_map(|list| list.models().get(model))
}

/// True for models of images, speech and the like, and for translators. They are not offered.
#[must_use]
pub fn is_not_chat(model: &str) -> bool {
    let id = model.to_ascii_lowercase();
    // Some lists have the maker's name in front.
    let name = id.rsplit('/').next().unwrap_or(&id);
    CATALOG.not_chat.iter().any(|known| known.eq_ignore_ascii_case(name))
        || CATALOG.not_chat_patterns.iter().any(|pattern| matches_pattern(name, pattern))
}

/// Matches a pattern with `*` at its start or end.
fn matches_pattern(name: &str, pattern: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(rest), Some(_)) => name.contains(rest.trim_end_matches('*')),
        (Some(end), None) => name.ends_with(end),
        (None, Some(start)) => name.starts_with(start),
        (None, None) => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_can_be_read_and_has_models() {
        let catalog: Catalog = serde_json::from_str(DATA).unwrap();
        assert_eq!(catalog.lists.len(), CatalogList::ALL.len());
        for list in CatalogList::ALL {
            assert!(!list.models().is_empty(), "{list:?}");
            assert!(list.models().keys().all(|id| !is_not_chat(id)), "{list:?}");
        }
        assert!(!catalog.not_chat.is_empty() && !catalog.not_chat_patterns.is_empty());
    }

    #[test]
    fn the_lists_of_all_sources_are_merged() {
        let of = |list: CatalogList, id: &str| &list.models()[id];
        let plus = of(CatalogList::TokenPlan, "qwen3.7-plus");
        assert_eq!((plus.context, plus.output), (1_000_000, 65_536));
        assert!(plus.input.contains(&Input::Image) && plus.enable_thinking_sent);
        assert_eq!((plus.thinking.toggle, plus.thinking.budget), (true, Some(262_144)));
        // One list has a toggle; the other says that the model always thinks.
        assert!(of(CatalogList::TokenPlan, "qwen3.8-max").thinking.mandatory);
        let flash = of(CatalogList::TokenPlan, "deepseek-v4-flash-0731");
        assert_eq!(flash.thinking.efforts, ["low", "high", "max"]);
        assert!(of(CatalogList::DashScopeInternational, "qwen3.7-plus").prices.is_some());
        assert!(plus.prices.is_none());
        assert!(!CatalogList::TokenPlan.models().contains_key("qwen3-coder-plus"));
    }

    #[test]
    fn other_models_are_told_from_chat_models() {
        for id in [
            "wan2.7-image",
            "qwen-image-2.0",
            "text-embedding-v4",
            "qwen3-asr-flash",
            "qwen-vl-ocr",
            "cosyvoice-v3",
            "Qwen-Image-Edit",
            "vendor/wan2.7",
        ] {
            assert!(is_not_chat(id), "{id}");
        }
        for id in ["qwen3.7-plus", "coder-model", "qwen3-vl-plus", "glm-5", "siliconflow/deepseek-v3.2"] {
            assert!(!is_not_chat(id), "{id}");
        }
    }
}
