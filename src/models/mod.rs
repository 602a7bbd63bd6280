//! Qwen's models: the embedded catalog, and what the server says that each account has.

pub mod book;
pub mod catalog;
pub mod lists;
mod lists_file;

/// The models of the Qwen Code login, as they are offered to `OpenCode`.
pub const CODER_MODEL: &str = "coder-model";
/// The one that takes images.
pub const VISION_MODEL: &str = "vision-model";

/// A model of the plans that keys belong to.
#[derive(Debug, PartialEq, Eq)]
pub struct PlanModel {
    /// Its id.
    pub id: &'static str,
    /// Its name for a person.
    pub name: &'static str,
    /// How much it reads and writes in all, in tokens.
    pub context: u64,
    /// How much it writes, in tokens.
    pub output: u64,
}

/// The models of the plans.
pub const PLAN_MODELS: [PlanModel; 5] = [
    PlanModel { id: "qwen3.7-max", name: "Qwen3.7 Max", context: 1_000_000, output: 65_536 },
    PlanModel { id: "qwen3.7-plus", name: "Qwen3.7 Plus", context: 1_000_000, output: 64_000 },
    PlanModel { id: "qwen3-coder-plus", name: "Qwen3 Coder Plus", context: 1_000_000, output: 65_536 },
    PlanModel { id: "qwen3-coder-next", name: "Qwen3 Coder Next", context: 262_144, output: 65_536 },
    PlanModel { id: "qwen3-max-2026-01-23", name: "Qwen3 Max", context: 262_144, output: 32_768 },
];

/// The plans' model with this id.
#[must_use]
pub fn of_plans(model: &str) -> Option<&'static PlanModel> {
    PLAN_MODELS.iter().find(|known| known.id == model)
}

/// Whether this is a model of the Qwen Code login.
#[must_use]
pub fn is_of_login(model: &str) -> bool {
    matches!(model, CODER_MODEL | VISION_MODEL)
}

/// The largest output the API takes for a model, in tokens; `None` for a name that is not known.
#[must_use]
pub fn output_cap(model: &str) -> Option<u64> {
    match model {
        CODER_MODEL => Some(65_536),
        VISION_MODEL => Some(8_192),
        _ => {
            if let Some(known) = of_plans(model) {
                return Some(known.output);
            }
            let rest = model.strip_prefix("qwen")?;
            let minor = rest.strip_prefix("3.").and_then(|minor| minor.chars().next());
            Some(if minor.is_some_and(|c| c.is_ascii_digit()) { 65_536 } else { 32_768 })
        }
    }
}

/// Whether a model looks at images, and so may be asked to look closely.
#[must_use]
pub fn takes_images(model: &str) -> bool {
    let vision_series =
        model.strip_prefix("qwen").is_some_and(|rest| rest.contains("-vl") || rest.contains("-omni"));
    model == VISION_MODEL || vision_series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_by_first_match() {
        for (model, cap) in [
            ("coder-model", Some(65_536)),
            ("vision-model", Some(8_192)),
            ("qwen3.7-plus", Some(64_000)),
            ("qwen3-max-2026-01-23", Some(32_768)),
            ("qwen3.5-anything", Some(65_536)),
            ("qwen3.x", Some(32_768)),
            ("qwen-turbo", Some(32_768)),
            ("qwen3-coder-flash", Some(32_768)),
            ("gpt-4", None),
            ("", None),
        ] {
            assert_eq!(output_cap(model), cap, "{model}");
        }
    }

    #[test]
    fn vision_models() {
        assert!(takes_images("vision-model") && takes_images("qwen3-vl-plus") && takes_images("qwen-vl-max"));
        assert!(!takes_images("coder-model") && !takes_images("qwen3-coder-plus") && !takes_images("my-vl"));
    }
}
