//! The plans that keys belong to: where they are served, and what they cost. Pure.

use std::borrow::Cow;

use url::Url;

use crate::base_url::display_url;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The plan.
    pub plan: KeyPlan,
    /// The region's name, as callers give it.
    pub region: Cow<'static, str>,
    /// Where its requests go.
    pub base_url: Cow<'static, str>,
}

impl Endpoint {
    const fn known(plan: KeyPlan, region: &'static str, base_url: &'static str) -> Self {
        Self { plan, region: Cow::Borrowed(region), base_url: Cow::Borrowed(base_url) }
    }

    /// The console's page that shows its keys.
    #[must_use]
    pub fn key_page(&self) -> &'static str {
        self.plan.key_page(&self.region)
    }
}

/// All endpoints whose hosts are known by name. Workspaces have hosts of their own: see [`endpoint_on_host`].
pub static ENDPOINTS: [Endpoint; 8] = [
    Endpoint::known(
        KeyPlan::TokenPlan,
        "cn",
        "https://token-plan.cn-beijing.maas.aliyuncs.com/compatible-mode/v1",
    ),
    Endpoint::known(
        KeyPlan::TokenPlan,
        "intl",
        "https://token-plan.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1",
    ),
    Endpoint::known(KeyPlan::CodingPlan, "cn", "https://coding.dashscope.aliyuncs.com/v1"),
    Endpoint::known(KeyPlan::CodingPlan, "intl", "https://coding-intl.dashscope.aliyuncs.com/v1"),
    Endpoint::known(KeyPlan::DashScope, "cn", "https://dashscope.aliyuncs.com/compatible-mode/v1"),
    Endpoint::known(KeyPlan::DashScope, "intl", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"),
    Endpoint::known(KeyPlan::DashScope, "us", "https://dashscope-us.aliyuncs.com/compatible-mode/v1"),
    Endpoint::known(
        KeyPlan::DashScope,
        "hk",
        "https://cn-hongkong.dashscope.aliyuncs.com/compatible-mode/v1",
    ),
];

/// Where the hosts of workspaces end: `{WorkspaceId}.{region}.maas.aliyuncs.com`.
const WORKSPACE_SUFFIX: &str = ".maas.aliyuncs.com";
/// The workspace whose host serves the Token Plan.
const TOKEN_PLAN_WORKSPACE: &str = "token-plan";

/// Alibaba Cloud's own and everyday names of the regions.
const REGION_NAMES: [(&str, &str); 20] = [
    ("cn-beijing", "cn"),
    ("beijing", "cn"),
    ("china", "cn"),
    ("mainland", "cn"),
    ("ap-southeast-1", "intl"),
    ("singapore", "intl"),
    ("sg", "intl"),
    ("international", "intl"),
    ("global", "intl"),
    ("us-east-1", "us"),
    ("virginia", "us"),
    ("us-virginia", "us"),
    ("usa", "us"),
    ("united-states", "us"),
    ("cn-hongkong", "hk"),
    ("hongkong", "hk"),
    ("hong-kong", "hk"),
    ("hong kong", "hk"),
    ("cn-hong-kong", "hk"),
    ("united states", "us"),
];

/// How a subscription's key begins. Plain `sk-` may be one, too.
const SUBSCRIPTION_PREFIX: &str = "sk-sp-";

/// The indexes in [`ENDPOINTS`] of those that may take a subscription's key, what is sold today first.
const SUBSCRIPTION_ORDER: [usize; 4] = [0, 1, 2, 3];
/// The same of a plain key.
const PLAIN_ORDER: [usize; 8] = [4, 5, 1, 6, 7, 0, 2, 3];

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

    /// Returns the tiers that it is sold in, the smallest first.
    #[must_use]
    pub const fn tiers(self) -> &'static [Tier] {
        match self {
            Self::CodingPlan => &[Tier::Lite, Tier::Pro],
            Self::TokenPlan => &Tier::ALL,
            Self::DashScope => &[],
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

    /// The console's page that shows the keys of a region.
    #[must_use]
    pub fn key_page(self, region: &str) -> &'static str {
        match (self, region == "cn") {
            (Self::TokenPlan, true) => {
                "https://bailian.console.aliyun.com/cn-beijing?tab=plan#/efm/subscription/overview"
            }
            (Self::TokenPlan, false) => {
                "https://modelstudio.console.alibabacloud.com/ap-southeast-1?tab=plan#/efm/subscription/overview"
            }
            (Self::CodingPlan, true) => {
                "https://bailian.console.aliyun.com/cn-beijing?tab=coding-plan#/efm/coding-plan-index"
            }
            (Self::CodingPlan, false) => {
                "https://modelstudio.console.alibabacloud.com/?tab=coding-plan#/efm/coding-plan-index"
            }
            (Self::DashScope, true) => "https://bailian.console.aliyun.com/?tab=model#/api-key",
            (Self::DashScope, false) => "https://modelstudio.console.alibabacloud.com/?tab=model#/api-key",
        }
    }

    /// Where it is served.
    pub fn endpoints(self) -> impl Iterator<Item = &'static Endpoint> {
        ENDPOINTS.iter().filter(move |endpoint| endpoint.plan == self)
    }
}

/// A region by any of its names. Regions that only workspaces have keep Alibaba Cloud's name, such as `eu-central-1`.
#[must_use]
pub fn region_from_name(name: &str) -> Option<Cow<'static, str>> {
    let name = name.trim().to_ascii_lowercase();
    let alias = REGION_NAMES.iter().find(|(alias, _)| *alias == name).map(|(_, region)| *region);
    if let Some(region) = alias.or_else(|| table_region(&name)) {
        return Some(Cow::Borrowed(region));
    }
    is_cloud_region(&name).then_some(Cow::Owned(name))
}

fn table_region(name: &str) -> Option<&'static str> {
    ["cn", "intl", "us", "hk"].into_iter().find(|region| *region == name)
}

/// Two letters of the area, a word, a number.
fn is_cloud_region(name: &str) -> bool {
    let parts: Vec<_> = name.split('-').collect();
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    match parts[..] {
        [area, word, number] => {
            area.len() == 2
                && is_word(area)
                && is_word(word)
                && number.bytes().all(|byte| byte.is_ascii_digit())
                && !number.is_empty()
        }
        _ => false,
    }
}

/// The endpoint with this base URL.
#[must_use]
pub fn endpoint_of(base_url: &Url) -> Option<Endpoint> {
    let endpoint = endpoint_on_host(base_url.host_str()?)?;
    (display_url(base_url) == endpoint.base_url).then_some(endpoint)
}

/// The endpoint on this host, whatever the path is.
#[must_use]
pub fn endpoint_on_host(host: &str) -> Option<Endpoint> {
    let known = ENDPOINTS.iter().find(|endpoint| {
        let rest = endpoint.base_url.strip_prefix("https://").and_then(|rest| rest.strip_prefix(host));
        rest.is_some_and(|rest| rest.starts_with('/'))
    });
    known.cloned().or_else(|| workspace_on(host))
}

fn workspace_on(host: &str) -> Option<Endpoint> {
    let (workspace, region) = host.strip_suffix(WORKSPACE_SUFFIX)?.split_once('.')?;
    if workspace.is_empty() || region.is_empty() || region.contains('.') {
        return None;
    }
    let plan = if workspace == TOKEN_PLAN_WORKSPACE { KeyPlan::TokenPlan } else { KeyPlan::DashScope };
    let region = region_from_name(region).unwrap_or_else(|| Cow::Owned(region.to_owned()));
    Some(Endpoint { plan, region, base_url: Cow::Owned(format!("https://{host}/compatible-mode/v1")) })
}

/// The endpoints that may have issued a key of this form, the likeliest first.
#[must_use]
pub fn endpoints_of_key(key: &str) -> Vec<&'static Endpoint> {
    let order = if key.starts_with(SUBSCRIPTION_PREFIX) { &SUBSCRIPTION_ORDER[..] } else { &PLAIN_ORDER };
    order.iter().map(|at| &ENDPOINTS[*at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base_url::api_base_url;

    #[test]
    fn every_place_is_a_base_url_of_its_own() {
        for endpoint in &ENDPOINTS {
            let url = api_base_url(&endpoint.base_url).unwrap();
            assert_eq!(display_url(&url), endpoint.base_url);
            assert_eq!(endpoint_of(&url).as_ref(), Some(endpoint));
            assert_eq!(endpoint_on_host(url.host_str().unwrap()).as_ref(), Some(endpoint));
            assert_eq!(region_from_name(&endpoint.region).unwrap(), endpoint.region);
        }
        assert_eq!(endpoint_on_host("dashscope.aliyuncs"), None);
    }

    #[test]
    fn a_workspace_is_billed_by_use_and_names_its_region() {
        for (host, plan, region) in [
            ("ws-1.ap-southeast-1.maas.aliyuncs.com", KeyPlan::DashScope, "intl"),
            ("llm-x.eu-central-1.maas.aliyuncs.com", KeyPlan::DashScope, "eu-central-1"),
            ("ws-1.cn-hongkong.maas.aliyuncs.com", KeyPlan::DashScope, "hk"),
            ("token-plan.eu-central-1.maas.aliyuncs.com", KeyPlan::TokenPlan, "eu-central-1"),
        ] {
            let url = Url::parse(&format!("https://{host}/compatible-mode/v1")).unwrap();
            let endpoint = endpoint_of(&url).unwrap();
            assert_eq!((endpoint.plan, endpoint.region.as_ref()), (plan, region), "{host}");
        }
        for host in [
            "maas.aliyuncs.com",
            "ap-southeast-1.maas.aliyuncs.com",
            ".x.maas.aliyuncs.com",
            "a.b.c.maas.aliyuncs.com",
            "ws.ap-southeast-1.maas.aliyuncs.com.evil.example",
        ] {
            assert_eq!(endpoint_on_host(host), None, "{host}");
        }
    }

    #[test]
    fn both_forms_of_keys_are_asked_about_in_their_likeliest_order() {
        let order = |key| {
            endpoints_of_key(key)
                .iter()
                .map(|endpoint| (endpoint.plan.as_str(), endpoint.region.as_ref()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            order("sk-sp-1"),
            [("token-plan", "cn"), ("token-plan", "intl"), ("coding-plan", "cn"), ("coding-plan", "intl")]
        );
        let plain = order("sk-1");
        assert_eq!(plain[..3], [("dashscope", "cn"), ("dashscope", "intl"), ("token-plan", "intl")]);
        assert_eq!(plain.len(), ENDPOINTS.len());
    }

    #[test]
    fn every_place_has_a_key_page_of_its_console() {
        for endpoint in &ENDPOINTS {
            let console = if endpoint.region == "cn" {
                "https://bailian.console.aliyun.com/"
            } else {
                "https://modelstudio.console.alibabacloud.com/"
            };
            assert!(endpoint.key_page().starts_with(console), "{endpoint:?}");
        }
    }

    #[test]
    fn plans_and_regions_by_their_names() {
        for plan in KeyPlan::ALL {
            assert_eq!(KeyPlan::from_name(plan.as_str()), Some(plan));
            assert!(plan.endpoints().count() > 1);
        }
        assert_eq!(KeyPlan::from_name("free"), None);
        for (name, region) in [
            (" AP-southeast-1 ", "intl"),
            ("Hongkong", "hk"),
            ("virginia", "us"),
            ("eu-central-1", "eu-central-1"),
        ] {
            assert_eq!(region_from_name(name).unwrap(), region);
        }
        for name in ["mars", "", "e-central-1", "eu-central", "eu--1", "eu-central-"] {
            assert_eq!(region_from_name(name), None, "{name}");
        }
    }

    #[test]
    fn prices_have_an_order() {
        assert!(Price::Free < Price::Subscription && Price::Subscription < Price::Metered);
    }
}
