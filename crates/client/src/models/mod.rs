//! Qwen's models, from the embedded catalog and the servers' lists.

pub mod book;
pub mod catalog;
pub mod lists;
pub mod offer;

use qwen_accounts::Kind;
use qwen_base::KeyPlan;

use self::catalog::{CatalogList, Input};

/// The models of a Qwen Code login, as offered to `OpenCode`.
pub const CODER_MODEL: &str = "coder-model";
pub const VISION_MODEL: &str = "vision-model";

/// A model that every plan has.
pub const COMMON_MODEL: &str = "qwen3.7-plus";

#[must_use]
pub fn is_of_login(model: &str) -> bool {
    matches!(model, CODER_MODEL | VISION_MODEL)
}

/// Returns the catalog's lists for a kind of account.
fn lists_of(kind: Kind) -> &'static [CatalogList] {
    match kind {
        Kind::OAuth => &[CatalogList::Login],
        Kind::Key(Some(KeyPlan::TokenPlan)) => &[CatalogList::TokenPlan],
        Kind::Key(Some(KeyPlan::CodingPlan)) => &[CatalogList::CodingPlan],
        Kind::Key(Some(KeyPlan::DashScope)) => {
            &[CatalogList::DashScopeInternational, CatalogList::DashScopeChina]
        }
        Kind::Key(None) => &[],
    }
}

/// Returns the largest output of a model, in tokens; `None` if unknown.
#[must_use]
pub fn output_cap(kind: Kind, model: &str) -> Option<u64> {
    match model {
        "" => None,
        // Avoids parsing the catalog for a login.
        CODER_MODEL => Some(65_536),
        VISION_MODEL => Some(8_192),
        _ => {
            let of_kind = lists_of(kind).iter().filter_map(|list| list.models().get(model));
            let known = of_kind.map(|facts| facts.output).max();
            let known = known.or_else(|| catalog::find(model).map(|facts| facts.output));
            known.or_else(|| output_cap_by_name(model))
        }
    }
}

fn output_cap_by_name(model: &str) -> Option<u64> {
    without_family(model, "qwen")?;
    Some(if minor_version(model).is_some() { 65_536 } else { 32_768 })
}

/// Returns the rest of the name of a model of this family, whatever its case.
fn without_family<'a>(model: &'a str, family: &str) -> Option<&'a str> {
    let (start, rest) = model.split_at_checked(family.len())?;
    start.eq_ignore_ascii_case(family).then_some(rest)
}

/// Returns N of `qwen3.N…`.
fn minor_version(model: &str) -> Option<u32> {
    let rest = without_family(model, "qwen3.")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// True if the qwen CLI sends `enable_thinking: true` with requests to this model.
#[must_use]
pub fn enables_thinking(kind: Kind, model: &str) -> bool {
    let of_kind = || lists_of(kind).iter().filter_map(|list| list.models().get(model));
    !model.is_empty() && !is_of_login(model) && of_kind().any(|facts| facts.enable_thinking_sent)
}

/// True if the model accepts the CLI's `metadata`. Models of other makers refuse it.
#[must_use]
pub fn takes_metadata(model: &str) -> bool {
    is_of_login(model) || without_family(model, "qwen").is_some()
}

/// True if the model's server drops text arrays, unless there are tools.
#[must_use]
pub fn takes_plain_texts(model: &str) -> bool {
    without_family(model, "glm").is_some()
}

/// True if the model takes images in high resolution.
#[must_use]
pub fn takes_close_looks(model: &str) -> bool {
    const SERIES: [&str; 3] = ["qwen3.5-plus", "qwen3.6-plus", "qwen3.7-plus"];
    // From this version on the catalog decides, not a list of names.
    const BY_CATALOG: u32 = 8;
    let sees = || catalog::find(model).is_some_and(|facts| facts.input.contains(&Input::Image));
    let lower = model.to_ascii_lowercase();
    is_of_login(model)
        || lower.contains("-vl")
        || lower.contains("-omni")
        || SERIES.iter().any(|series| lower.starts_with(series))
        || (minor_version(model).is_some_and(|minor| minor >= BY_CATALOG) && sees())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN_PLAN: Kind = Kind::Key(Some(KeyPlan::TokenPlan));
    const CODING_PLAN: Kind = Kind::Key(Some(KeyPlan::CodingPlan));

    #[test]
    fn output_caps_come_from_the_plan_then_any_list_then_the_name() {
        for (kind, model, cap) in [
            (Kind::OAuth, "coder-model", Some(65_536)),
            (Kind::OAuth, "vision-model", Some(8_192)),
            (TOKEN_PLAN, "qwen3.7-plus", Some(65_536)),
            (CODING_PLAN, "qwen3.7-plus", Some(64_000)),
            (CODING_PLAN, "deepseek-v4-pro", Some(384_000)),
            (Kind::OAuth, "qwen3.7-plus", Some(65_536)),
            (TOKEN_PLAN, "qwen3.5-anything", Some(65_536)),
            (TOKEN_PLAN, "qwen3.x", Some(32_768)),
            (TOKEN_PLAN, "qwen-next", Some(32_768)),
            (TOKEN_PLAN, "QWEN3.5-Anything", Some(65_536)),
            (TOKEN_PLAN, "Qwen/Qwen3-Coder", Some(32_768)),
            (Kind::Key(None), "gpt-4", None),
            (TOKEN_PLAN, "", None),
        ] {
            assert_eq!(output_cap(kind, model), cap, "{kind:?} {model}");
        }
        for (id, facts) in CatalogList::Login.models() {
            assert_eq!(output_cap(Kind::OAuth, id), Some(facts.output));
            assert!(is_of_login(id));
        }
    }

    #[test]
    fn thinking_follows_the_preset_of_the_plan() {
        for (kind, model, is_sent) in [
            (TOKEN_PLAN, "qwen3.7-plus", true),
            (CODING_PLAN, "MiniMax-M2.5", true),
            (TOKEN_PLAN, "MiniMax-M2.5", false),
            (TOKEN_PLAN, "qwen3.8-flash", false),
            (Kind::OAuth, "coder-model", false),
            (Kind::OAuth, "qwen3.7-plus", false),
            (Kind::Key(None), "qwen3.7-plus", false),
        ] {
            assert_eq!(enables_thinking(kind, model), is_sent, "{kind:?} {model}");
        }
    }

    #[test]
    fn models_with_high_resolution_images() {
        for model in [
            "coder-model",
            "vision-model",
            "qwen3-vl-plus",
            "qwen-vl-max",
            "qwen3.5-plus",
            "qwen3.7-plus-2026-05-26",
            "qwen3.8-max",
            "qwen3-omni-flash",
            "Qwen/Qwen3-VL-8B",
            "QWEN3.6-PLUS",
        ] {
            assert!(takes_close_looks(model), "{model}");
        }
        for model in ["qwen3-coder-plus", "qwen3.7-max", "qwen3.9-coder", "kimi-k2.5", "glm-5", ""] {
            assert!(!takes_close_looks(model), "{model}");
        }
    }

    #[test]
    fn every_plan_has_the_common_model() {
        let plans = CatalogList::ALL.into_iter().filter(|list| *list != CatalogList::Login);
        assert!(plans.into_iter().all(|list| list.models().contains_key(COMMON_MODEL)));
    }
}
