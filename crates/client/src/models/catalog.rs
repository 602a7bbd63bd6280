//! The embedded catalog: which models each plan has, and what they take. Pure.
//!
//! `npm run catalog` makes the data. A list is parsed at the first look-up in it, never at start-up.

use std::collections::BTreeMap;
use std::sync::{LazyLock, OnceLock};

use qwen_base::KeyPlan;
use serde::Deserialize;
use serde_json::value::RawValue;

const DATA: &str = include_str!("../../../../catalog/catalog.json");

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| serde_json::from_str(DATA).unwrap_or_default());

/// The models of one list, by id.
pub type Listed = BTreeMap<&'static str, ModelFacts>;

#[derive(Debug, Default, Deserialize)]
#[serde(bound(deserialize = "'de: 'static"))]
struct Catalog {
    /// Each list is parsed by itself: a user with a login alone needs two models of all.
    lists: BTreeMap<&'static str, &'static RawValue>,
    not_chat: Vec<&'static str>,
    not_chat_patterns: Vec<&'static str>,
}

/// A list of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CatalogList {
    /// The models of a Qwen login.
    Login,
    /// Token Plan, in all regions.
    TokenPlan,
    /// Coding Plan, in all regions.
    CodingPlan,
    /// `DashScope` in Beijing.
    DashScopeChina,
    /// `DashScope` everywhere else.
    DashScopeInternational,
}

impl CatalogList {
    /// All lists. The first one that has a model describes it where no account is known.
    pub const ALL: [Self; 5] =
        [Self::Login, Self::TokenPlan, Self::CodingPlan, Self::DashScopeInternational, Self::DashScopeChina];

    /// Returns the list of a plan in a region.
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

    /// Returns its models.
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

/// Facts about a model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelFacts {
    /// Name for a person.
    pub name: &'static str,
    /// Tokens of input and output together.
    pub context: u64,
    /// Largest output, in tokens.
    pub output: u64,
    /// Kinds of input that a message may hold, text first.
    pub input: Vec<Input>,
    /// True if it can think before it answers.
    #[serde(default)]
    pub reasoning: bool,
    /// How its thinking is controlled.
    #[serde(default)]
    pub thinking: Thinking,
    /// The field of an assistant message in which its thoughts go back.
    #[serde(default)]
    pub interleaved: Option<&'static str>,
    /// True if it refuses a `temperature`.
    #[serde(default)]
    pub fixed_temperature: bool,
    /// "deprecated", if so.
    #[serde(default)]
    pub status: Option<&'static str>,
    /// Release date, as `YYYY-MM-DD` or `YYYY-MM`.
    #[serde(default)]
    pub released: Option<&'static str>,
    /// US dollars per million tokens, where use is metered.
    #[serde(default)]
    pub prices: Option<Prices>,
    /// True if the qwen CLI sends `enable_thinking: true` with each request.
    #[serde(default)]
    pub enable_thinking_sent: bool,
}

/// A kind of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
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

impl Input {
    /// Returns its name, as callers see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Pdf => "pdf",
            Self::Video => "video",
        }
    }
}

/// How a model's thinking is controlled. Empty for a model that has no control.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'static"))]
pub struct Thinking {
    /// True if `enable_thinking` turns it on and off.
    pub toggle: bool,
    /// The values that `reasoning_effort` takes, from little to much.
    pub efforts: Vec<&'static str>,
    /// Largest `thinking_budget`, in tokens.
    pub budget: Option<u64>,
    /// True if it can't be turned off.
    pub mandatory: bool,
}

impl Thinking {
    /// True if there is nothing to control.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        !self.toggle && self.efforts.is_empty() && self.budget.is_none()
    }
}

/// US dollars per million tokens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Prices {
    /// Input that is not cached.
    pub input: f64,
    /// Output.
    pub output: f64,
    /// Input read from the cache.
    pub cache_read: Option<f64>,
    /// Input written to the cache.
    pub cache_write: Option<f64>,
    /// Prices of requests with more than 200,000 tokens.
    pub context_over_200k: Option<Box<Prices>>,
}

/// Returns what the first list that has a model says of it.
#[must_use]
pub fn find(model: &str) -> Option<&'static ModelFacts> {
    CatalogList::ALL.into_iter().find_map(|list| list.models().get(model))
}

/// True for a model that makes images, speech and the like, or that translates: it is not offered for chats.
#[must_use]
pub fn is_not_chat(model: &str) -> bool {
    let id = model.to_ascii_lowercase();
    // Some lists name the maker first.
    let name = id.rsplit('/').next().unwrap_or(&id);
    CATALOG.not_chat.iter().any(|known| known.eq_ignore_ascii_case(name))
        || CATALOG.not_chat_patterns.iter().any(|pattern| matches_pattern(name, pattern))
}

/// Matches a name with a pattern in which `*` stands for any text at the start or the end.
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
    fn the_data_is_readable_and_every_list_has_models() {
        let catalog: Catalog = serde_json::from_str(DATA).unwrap();
        assert_eq!(catalog.lists.len(), CatalogList::ALL.len());
        for list in CatalogList::ALL {
            assert!(!list.models().is_empty(), "{list:?}");
            assert!(list.models().keys().all(|id| !is_not_chat(id)), "{list:?}");
        }
        assert!(!catalog.not_chat.is_empty() && !catalog.not_chat_patterns.is_empty());
    }

    #[test]
    fn the_lists_of_the_sources_are_joined() {
        let of = |list: CatalogList, id: &str| &list.models()[id];
        let plus = of(CatalogList::TokenPlan, "qwen3.7-plus");
        assert_eq!((plus.context, plus.output), (1_000_000, 65_536));
        assert!(plus.input.contains(&Input::Image) && plus.enable_thinking_sent);
        assert_eq!((plus.thinking.toggle, plus.thinking.budget), (true, Some(262_144)));
        // One list has a toggle, the other says that it always thinks.
        assert!(of(CatalogList::TokenPlan, "qwen3.8-max").thinking.mandatory);
        let flash = of(CatalogList::TokenPlan, "deepseek-v4-flash-0731");
        assert_eq!(flash.thinking.efforts, ["low", "high", "max"]);
        assert!(of(CatalogList::DashScopeInternational, "qwen3.7-plus").prices.is_some());
        assert!(plus.prices.is_none());
        assert!(!CatalogList::TokenPlan.models().contains_key("qwen3-coder-plus"));
    }

    #[test]
    fn makers_of_other_things_are_told_from_chat_models() {
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
