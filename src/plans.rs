//! The plans that keys belong to: where they are served, and what they cost. Pure.

use url::Url;

use crate::base_url::display;

/// What a key was bought with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPlan {
    /// A subscription with quotas by the hour, the week and the month.
    CodingPlan,
    /// A subscription with a number of tokens.
    TokenPlan,
    /// Billed by the token.
    DashScope,
}

/// The tier of a subscription, which tells how large its quota is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// The smallest.
    Lite,
    /// The one in the middle.
    Standard,
    /// The largest.
    Pro,
}

impl Tier {
    /// All tiers, the smallest first.
    pub const ALL: [Self; 3] = [Self::Lite, Self::Standard, Self::Pro];

    /// Its name, as callers give it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lite => "lite",
            Self::Standard => "standard",
            Self::Pro => "pro",
        }
    }

    /// Reads its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == name)
    }
}

/// What a request costs its user, in the order that matters: nothing moves up in it by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Price {
    /// Nothing.
    Free,
    /// Nothing beyond the subscription.
    Subscription,
    /// Each token.
    Metered,
}

impl Price {
    /// Its name for a person, to complete "It is …".
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Subscription => "paid by subscription",
            Self::Metered => "billed by use",
        }
    }
}

/// A region of a plan. A key works in its own alone.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The plan.
    pub plan: KeyPlan,
    /// The region's name, as callers give it.
    pub region: &'static str,
    /// Where its requests go.
    pub base_url: &'static str,
}

/// All places there are. The first of a plan is the one that is meant where nothing says which.
pub const PLACES: [Place; 7] = [
    Place { plan: KeyPlan::CodingPlan, region: "cn", base_url: "https://coding.dashscope.aliyuncs.com/v1" },
    Place {
        plan: KeyPlan::CodingPlan,
        region: "intl",
        base_url: "https://coding-intl.dashscope.aliyuncs.com/v1",
    },
    Place {
        plan: KeyPlan::TokenPlan,
        region: "cn",
        base_url: "https://token-plan.cn-beijing.maas.aliyuncs.com/compatible-mode/v1",
    },
    Place {
        plan: KeyPlan::TokenPlan,
        region: "intl",
        base_url: "https://token-plan.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1",
    },
    Place {
        plan: KeyPlan::DashScope,
        region: "cn",
        base_url: "https://dashscope.aliyuncs.com/compatible-mode/v1",
    },
    Place {
        plan: KeyPlan::DashScope,
        region: "intl",
        base_url: "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
    },
    Place {
        plan: KeyPlan::DashScope,
        region: "us",
        base_url: "https://dashscope-us.aliyuncs.com/compatible-mode/v1",
    },
];

/// What Alibaba Cloud's own names for its regions mean here.
const REGION_NAMES: [(&str, &str); 6] = [
    ("china", "cn"),
    ("cn-beijing", "cn"),
    ("international", "intl"),
    ("ap-southeast-1", "intl"),
    ("singapore", "intl"),
    ("us-east-1", "us"),
];

/// How a Coding Plan's key begins, and no other.
const CODING_PLAN_PREFIX: &str = "sk-sp-";

impl KeyPlan {
    /// All plans, the ones first that cost nothing more.
    pub const ALL: [Self; 3] = [Self::CodingPlan, Self::TokenPlan, Self::DashScope];

    /// Its name, as callers give it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CodingPlan => "coding-plan",
            Self::TokenPlan => "token-plan",
            Self::DashScope => "dashscope",
        }
    }

    /// Reads its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plan| plan.as_str() == name)
    }

    /// Its name for a person.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::CodingPlan => "Coding Plan",
            Self::TokenPlan => "Token Plan",
            Self::DashScope => "DashScope",
        }
    }

    /// What its requests cost.
    #[must_use]
    pub const fn price(self) -> Price {
        match self {
            Self::CodingPlan | Self::TokenPlan => Price::Subscription,
            Self::DashScope => Price::Metered,
        }
    }

    /// Where it is served.
    pub fn places(self) -> impl Iterator<Item = &'static Place> {
        PLACES.iter().filter(move |place| place.plan == self)
    }
}

/// A region by any of its names.
#[must_use]
pub fn region_from_name(name: &str) -> Option<&'static str> {
    let name = name.trim().to_ascii_lowercase();
    let alias = REGION_NAMES.iter().find(|(alias, _)| *alias == name).map(|(_, region)| *region);
    alias.or_else(|| PLACES.iter().find(|place| place.region == name).map(|place| place.region))
}

/// The place with this base URL.
#[must_use]
pub fn place_of(base_url: &Url) -> Option<&'static Place> {
    let base_url = display(base_url);
    PLACES.iter().find(|place| place.base_url == base_url)
}

/// The place on this host, whatever the path is.
#[must_use]
pub fn place_on(host: &str) -> Option<&'static Place> {
    PLACES.iter().find(|place| {
        let rest = place.base_url.strip_prefix("https://").and_then(|rest| rest.strip_prefix(host));
        rest.is_some_and(|rest| rest.starts_with('/'))
    })
}

/// Whether this can only be a Coding Plan's key.
#[must_use]
pub fn is_coding_plan_key(key: &str) -> bool {
    key.starts_with(CODING_PLAN_PREFIX)
}

/// The plans that a key may be of, by its form: the ones first that are most likely.
#[must_use]
pub fn plans_of_key(key: &str) -> &'static [KeyPlan] {
    if is_coding_plan_key(key) {
        &[KeyPlan::CodingPlan]
    } else if key.starts_with("sk-") {
        &[KeyPlan::DashScope, KeyPlan::TokenPlan]
    } else {
        &[KeyPlan::TokenPlan]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base_url::api_base_url;

    #[test]
    fn every_place_is_a_base_url_of_its_own() {
        for place in &PLACES {
            let url = api_base_url(place.base_url).unwrap();
            assert_eq!(display(&url), place.base_url);
            assert_eq!(place_of(&url), Some(place));
            assert_eq!(place_on(url.host_str().unwrap()), Some(place));
            assert_eq!(region_from_name(place.region), Some(place.region));
        }
        assert_eq!(place_on("dashscope.aliyuncs"), None);
    }

    #[test]
    fn a_key_tells_its_plan_as_far_as_it_can() {
        assert_eq!(plans_of_key("sk-sp-1"), [KeyPlan::CodingPlan]);
        assert_eq!(plans_of_key("sk-1"), [KeyPlan::DashScope, KeyPlan::TokenPlan]);
        assert_eq!(plans_of_key("tp_1"), [KeyPlan::TokenPlan]);
    }

    #[test]
    fn plans_and_regions_by_their_names() {
        for plan in KeyPlan::ALL {
            assert_eq!(KeyPlan::from_name(plan.as_str()), Some(plan));
            assert!(plan.places().count() > 1);
        }
        assert_eq!(KeyPlan::from_name("free"), None);
        assert_eq!(region_from_name(" AP-southeast-1 "), Some("intl"));
        assert_eq!(region_from_name("mars"), None);
    }

    #[test]
    fn prices_have_an_order() {
        assert!(Price::Free < Price::Subscription && Price::Subscription < Price::Metered);
    }
}
