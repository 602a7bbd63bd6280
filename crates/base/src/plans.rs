//! Plans of keys: their servers and their prices. Pure.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IntoDeserializer as _, value};
use url::Url;

use crate::base_url::display_url;

/// The plan that a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyPlan {
    /// A subscription with quotas per 5 hours, week and month.
    CodingPlan,
    /// A subscription with a number of tokens.
    TokenPlan,
    /// Pay-as-you-go, billed per token.
    #[serde(rename = "dashscope")]
    DashScope,
}

/// The tier of a subscription. It determines the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// The smallest tier.
    Lite,
    /// The middle tier.
    Standard,
    /// The largest tier.
    Pro,
}

impl Tier {
    /// All tiers, the smallest first.
    pub const ALL: [Self; 3] = [Self::Lite, Self::Standard, Self::Pro];

    /// Returns the name in the API and in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lite => "lite",
            Self::Standard => "standard",
            Self::Pro => "pro",
        }
    }

    /// Parses the name in the API and in files.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        named(name)
    }
}

/// The price of a request, in rising order. Nothing switches to a higher price on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Price {
    /// Free of charge.
    Free,
    /// Included in a subscription.
    Subscription,
    /// Billed per token.
    Metered,
}

impl Price {
    /// Returns a description that completes "It is …".
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Subscription => "paid by subscription",
            Self::Metered => "billed by use",
        }
    }
}

/// The server of a plan in one region. A key works only in its own region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The plan.
    pub plan: KeyPlan,
    /// Name of the region, such as `intl`.
    pub region: Cow<'static, str>,
    /// Base URL of its requests.
    pub base_url: Cow<'static, str>,
}

impl Endpoint {
    const fn known(plan: KeyPlan, region: &'static str, base_url: &'static str) -> Self {
        Self { plan, region: Cow::Borrowed(region), base_url: Cow::Borrowed(base_url) }
    }

    /// Returns the URL of the console page that shows its keys.
    #[must_use]
    pub fn key_page(&self) -> &'static str {
        self.plan.key_page(&self.region)
    }
}

/// All endpoints with fixed hosts, current plans first. Workspaces have hosts of their own: see [`endpoint_on_host`].
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

/// Suffix of the hosts of workspaces: `{WorkspaceId}.{region}.maas.aliyuncs.com`.
const WORKSPACE_SUFFIX: &str = ".maas.aliyuncs.com";
/// Workspace name in the hosts of the Token Plan.
const TOKEN_PLAN_WORKSPACE: &str = "token-plan";

/// Alibaba Cloud's names of the regions, and common ones.
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

/// Prefix of most subscription keys. Some begin with plain `sk-`.
pub const SUBSCRIPTION_PREFIX: &str = "sk-sp-";

impl KeyPlan {
    /// All plans, subscriptions first.
    pub const ALL: [Self; 3] = [Self::CodingPlan, Self::TokenPlan, Self::DashScope];

    /// Returns the name in the API and in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CodingPlan => "coding-plan",
            Self::TokenPlan => "token-plan",
            Self::DashScope => "dashscope",
        }
    }

    /// Parses the name in the API and in files.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        named(name)
    }

    /// Returns the name for users.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::CodingPlan => "Coding Plan",
            Self::TokenPlan => "Token Plan",
            Self::DashScope => "DashScope",
        }
    }

    /// Returns the tiers of the plan, smallest first.
    #[must_use]
    pub const fn tiers(self) -> &'static [Tier] {
        match self {
            Self::CodingPlan => &[Tier::Lite, Tier::Pro],
            Self::TokenPlan => &Tier::ALL,
            Self::DashScope => &[],
        }
    }

    /// Returns the price of its requests.
    #[must_use]
    pub const fn price(self) -> Price {
        match self {
            Self::CodingPlan | Self::TokenPlan => Price::Subscription,
            Self::DashScope => Price::Metered,
        }
    }

    /// Returns the URL of the console page that shows the keys of a region.
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

    /// Returns its endpoints.
    pub fn endpoints(self) -> impl Iterator<Item = &'static Endpoint> {
        ENDPOINTS.iter().filter(move |endpoint| endpoint.plan == self)
    }
}

fn named<T: DeserializeOwned>(name: &str) -> Option<T> {
    let name: value::StrDeserializer<'_, value::Error> = name.into_deserializer();
    T::deserialize(name).ok()
}

/// Finds a region by any of its names. Regions that only workspaces have keep Alibaba Cloud's name, such as
/// `eu-central-1`.
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

/// Matches two letters of the area, a word, and a number.
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

/// Returns the endpoint with this base URL.
#[must_use]
pub fn endpoint_of(base_url: &Url) -> Option<Endpoint> {
    let endpoint = endpoint_on_host(base_url.host_str()?)?;
    (display_url(base_url) == endpoint.base_url).then_some(endpoint)
}

/// Returns the endpoint on this host, for any path.
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

/// Returns the endpoints that may have issued a key of this form, most likely first.
#[must_use]
pub fn endpoints_of_key(key: &str) -> Vec<&'static Endpoint> {
    let is_subscription = key.starts_with(SUBSCRIPTION_PREFIX);
    let may_issue = |endpoint: &&Endpoint| !is_subscription || endpoint.plan != KeyPlan::DashScope;
    let mut endpoints: Vec<_> = ENDPOINTS.iter().filter(may_issue).collect();
    if !is_subscription {
        endpoints.sort_by_key(|endpoint| match (endpoint.plan, &*endpoint.region) {
            (KeyPlan::DashScope, "cn" | "intl") => 0,
            (KeyPlan::TokenPlan, "intl") => 1,
            (KeyPlan::DashScope, _) => 2,
            (KeyPlan::TokenPlan, _) => 3,
            (KeyPlan::CodingPlan, _) => 4,
        });
    }
    endpoints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base_url::api_base_url;

    #[test]
    fn every_endpoint_has_its_own_base_url() {
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
    fn a_workspace_is_metered_and_names_its_region() {
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
    fn endpoints_of_a_key_are_ordered_by_likelihood() {
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
    fn every_endpoint_has_a_key_page() {
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
    fn plans_tiers_and_regions_are_found_by_name() {
        for plan in KeyPlan::ALL {
            assert_eq!(KeyPlan::from_name(plan.as_str()), Some(plan));
            assert!(plan.endpoints().count() > 1);
        }
        for tier in Tier::ALL {
            assert_eq!(Tier::from_name(tier.as_str()), Some(tier));
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
}
