//! Finds the servers that a key may belong to, from the key and the user's options.

use std::borrow::Cow;

use qwen_base::{
    ENDPOINTS, Endpoint, Error, KeyPlan, Result, Secret, api_base_url, display_url, endpoint_of,
    endpoint_on_host, endpoints_of_key, region_from_name,
};
use url::Url;

use crate::keys::paste::expect_alibaba_form;

/// A server that a key may belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateEndpoint {
    /// Plan; `None` for an unknown server.
    pub plan: Option<KeyPlan>,
    /// Region, if known.
    pub region: Option<String>,
    pub base_url: Url,
}

impl From<&Endpoint> for CandidateEndpoint {
    fn from(place: &Endpoint) -> Self {
        // Tests check the table's URLs, and a workspace's host comes from a URL.
        let base_url = Url::parse(&place.base_url).unwrap_or_else(|_| unreachable!("{}", place.base_url));
        Self { plan: Some(place.plan), region: Some(place.region.to_string()), base_url }
    }
}

/// Servers for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateEndpoints {
    /// Servers that match the user's options, most likely first.
    pub places: Vec<CandidateEndpoint>,
    /// Servers that are asked after all of `places` have refused the key, so that an error can name the right one.
    pub others: Vec<CandidateEndpoint>,
}

/// Finds the servers that a key may belong to. The user's plan, region and base URL are trusted.
///
/// # Errors
/// `ERR_QWEN_INVALID_ARGUMENT` for a key that can't be Alibaba's, for an unknown region or base URL, and for a plan, region
/// and base URL that contradict each other.
pub fn candidate_endpoints(
    key: &Secret,
    plan: Option<KeyPlan>,
    region: Option<&str>,
    base_url: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<CandidateEndpoints> {
    let region = region.map(read_region).transpose()?;
    if let Some(base_url) = base_url {
        let candidate = at_base_url(plan, region, base_url, notes)?;
        if endpoint_of(&candidate.base_url).is_some() {
            expect_alibaba_form(key)?;
        }
        return Ok(CandidateEndpoints { places: vec![candidate], others: Vec::new() });
    }
    expect_alibaba_form(key)?;
    let likely = endpoints_of_key(key.expose());
    let fits = |place: &&'static Endpoint| {
        plan.is_none_or(|plan| plan == place.plan)
            && region.as_ref().is_none_or(|region| *region == place.region)
    };
    let mut places: Vec<_> = likely.iter().copied().filter(fits).collect();
    if places.is_empty() {
        places = ENDPOINTS.iter().filter(fits).collect();
    }
    if places.is_empty() {
        return Err(no_such_region(plan));
    }
    let others =
        likely.iter().filter(|place| !places.contains(place)).map(|place| CandidateEndpoint::from(*place));
    Ok(CandidateEndpoints {
        others: others.collect(),
        places: places.into_iter().map(CandidateEndpoint::from).collect(),
    })
}

fn no_such_region(plan: Option<KeyPlan>) -> Error {
    let plans = plan.as_ref().map_or(&KeyPlan::ALL[..], std::slice::from_ref);
    let names: Vec<_> = plans.iter().map(|plan| format!("{} has {}", plan.title(), regions(*plan))).collect();
    let expected = format!(
        "is not a region of this plan: {}. For a workspace in another region, give its base URL (--base-url)",
        names.join("; ")
    );
    Error::invalid_argument("region", &expected)
}

/// Lists the regions of a plan.
fn regions(plan: KeyPlan) -> String {
    plan.endpoints().map(|place| place.region.as_ref()).collect::<Vec<_>>().join(", ")
}

fn read_region(name: &str) -> Result<Cow<'static, str>> {
    region_from_name(name).ok_or_else(|| Error::invalid_argument("region", "must be one of cn, hk, intl, us"))
}

fn at_base_url(
    plan: Option<KeyPlan>,
    region: Option<Cow<'static, str>>,
    text: &str,
    notes: &mut Vec<String>,
) -> Result<CandidateEndpoint> {
    let unusable = |reason: &str| {
        let expected = format!("is not usable: it {reason}. Give one such as https://host.example/v1");
        Error::invalid_argument("baseUrl", &expected)
    };
    let given = text.trim();
    if given.is_empty() {
        return Err(unusable("is empty"));
    }
    if given.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(unusable("contains a space or a control character"));
    }
    let mut base_url = api_base_url(given).map_err(unusable)?;
    // The host determines the server. Other paths, such as Anthropic's API, lead to the same one.
    let place = base_url.host_str().and_then(endpoint_on_host);
    if let Some(place) = &place {
        base_url = CandidateEndpoint::from(place).base_url;
    }
    if display_url(&base_url) != given {
        notes.push(format!("The base URL was taken as {}.", display_url(&base_url)));
    }
    let Some(place) = place else {
        return Ok(CandidateEndpoint { plan, region: region.map(Cow::into_owned), base_url });
    };
    if plan.is_some_and(|plan| plan != place.plan) || region.is_some_and(|region| region != place.region) {
        let expected = format!(
            "belongs to plan {} in region {}, which contradicts the plan or region given",
            place.plan.as_str(),
            place.region
        );
        return Err(Error::invalid_argument("baseUrl", &expected));
    }
    Ok(CandidateEndpoint::from(&place))
}

#[cfg(test)]
mod tests {
    use qwen_base::Code;

    use super::*;

    fn choose_places(
        key: &str,
        plan: Option<KeyPlan>,
        region: Option<&str>,
        base_url: Option<&str>,
    ) -> Result<Vec<String>> {
        let choice = candidate_endpoints(&Secret::new(key), plan, region, base_url, &mut Vec::new())?;
        Ok(choice.places.iter().map(|candidate| display_url(&candidate.base_url)).collect())
    }

    #[test]
    fn key_and_options_determine_the_servers() {
        assert_eq!(choose_places("sk-sp-1", None, None, None).unwrap().len(), 4);
        assert_eq!(choose_places("sk-1", None, None, None).unwrap().len(), ENDPOINTS.len());
        for (key, plan, region, hosts) in [
            ("sk-1", None, Some("us"), vec!["dashscope-us.aliyuncs.com"]),
            ("sk-1", None, Some("Hongkong"), vec!["cn-hongkong.dashscope.aliyuncs.com"]),
            ("sk-sp-1", Some(KeyPlan::CodingPlan), Some("intl"), vec!["coding-intl.dashscope.aliyuncs.com"]),
            (
                "sk-sp-1",
                None,
                Some("singapore"),
                vec!["token-plan.ap-southeast-1.maas.aliyuncs.com", "coding-intl.dashscope.aliyuncs.com"],
            ),
            // The prefix doesn't determine the plan, so the user's option is trusted.
            ("sk-sp-1", Some(KeyPlan::DashScope), Some("cn"), vec!["dashscope.aliyuncs.com"]),
            ("sk-sp-1", None, Some("us"), vec!["dashscope-us.aliyuncs.com"]),
            ("sk-1", Some(KeyPlan::CodingPlan), Some("cn"), vec!["coding.dashscope.aliyuncs.com"]),
            (
                "sk-1",
                Some(KeyPlan::TokenPlan),
                None,
                vec![
                    "token-plan.ap-southeast-1.maas.aliyuncs.com",
                    "token-plan.cn-beijing.maas.aliyuncs.com",
                ],
            ),
        ] {
            let places = choose_places(key, plan, region, None).unwrap();
            let found: Vec<_> = places.iter().filter_map(|url| url.split('/').nth(2)).collect();
            assert_eq!(found, hosts, "{key} {plan:?} {region:?}");
        }
        for (key, plan, region) in [
            ("sk-1", None, Some("mars")),
            ("sk-1", None, Some("eu-central-1")),
            ("sk-sp-1", Some(KeyPlan::CodingPlan), Some("us")),
            ("tp1", Some(KeyPlan::TokenPlan), None),
            ("ghp_1", None, None),
        ] {
            let error = choose_places(key, plan, region, None).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn other_servers_are_kept_for_the_error() {
        let key = Secret::new("sk-sp-1");
        let choice =
            candidate_endpoints(&key, Some(KeyPlan::TokenPlan), Some("cn"), None, &mut Vec::new()).unwrap();
        assert_eq!((choice.places.len(), choice.others.len()), (1, 3));
        let own =
            candidate_endpoints(&key, None, None, Some("https://host.example"), &mut Vec::new()).unwrap();
        assert_eq!((own.places.len(), own.others.len()), (1, 0));
    }

    #[test]
    fn an_obvious_mistake_in_a_base_url_is_corrected() {
        for (text, expected) in [
            ("http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1"),
            ("http://127.0.0.1:1/v1/", "http://127.0.0.1:1/v1"),
            (" https://host.example \n", "https://host.example/v1"),
            ("https://host.example/api/v1/chat/completions", "https://host.example/api/v1"),
            ("dashscope-intl.aliyuncs.com", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"),
            (
                "https://dashscope.aliyuncs.com/v1/models/",
                "https://dashscope.aliyuncs.com/compatible-mode/v1",
            ),
            (
                "https://coding-intl.dashscope.aliyuncs.com/apps/anthropic/v1",
                "https://coding-intl.dashscope.aliyuncs.com/v1",
            ),
            (
                "https://token-plan.cn-beijing.maas.aliyuncs.com/apps/anthropic/v1/messages",
                "https://token-plan.cn-beijing.maas.aliyuncs.com/compatible-mode/v1",
            ),
            (
                "https://ws-1.eu-central-1.maas.aliyuncs.com/apps/anthropic",
                "https://ws-1.eu-central-1.maas.aliyuncs.com/compatible-mode/v1",
            ),
        ] {
            assert_eq!(choose_places("sk-1", None, None, Some(text)).unwrap(), [expected], "{text}");
        }
        for text in [
            "https://user:pass@host.example/v1",
            "https://host.example/v1?x=1",
            "https://host.example/v1#x",
            "http://host.example/v1",
            "ftp://host.example",
            "https://ho st.example",
            "",
        ] {
            let error = choose_places("sk-1", None, None, Some(text)).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{text}");
            assert!(!error.message().contains("pass@"), "{}", error.message());
        }
    }

    #[test]
    fn a_base_url_determines_the_plan_if_it_is_known() {
        let at = |key: &str, plan, region, base_url| {
            candidate_endpoints(&Secret::new(key), plan, region, Some(base_url), &mut Vec::new())
                .map(|mut choice| choice.places.remove(0))
                .map(|place| (place.plan, place.region))
        };
        let host = "https://host.example";
        let token_plan = "https://token-plan.cn-beijing.maas.aliyuncs.com";
        let workspace = "https://ws-1.eu-central-1.maas.aliyuncs.com/compatible-mode/v1";
        for (key, plan, region, base_url, expected) in [
            ("sk-sp-1", None, None, token_plan, (Some(KeyPlan::TokenPlan), Some("cn"))),
            ("sk-1", None, None, workspace, (Some(KeyPlan::DashScope), Some("eu-central-1"))),
            ("sk-1", None, Some("eu-central-1"), workspace, (Some(KeyPlan::DashScope), Some("eu-central-1"))),
            // Keys of other servers may have any form, and the user's plan is trusted.
            ("sk-sp-1", None, None, host, (None, None)),
            ("AIza1", Some(KeyPlan::CodingPlan), Some("cn"), host, (Some(KeyPlan::CodingPlan), Some("cn"))),
        ] {
            let (plan, region) = at(key, plan, region, base_url).unwrap();
            assert_eq!((plan, region.as_deref()), expected, "{key} {base_url}");
        }
        for (key, plan, region, base_url) in [
            ("sk-1", Some(KeyPlan::TokenPlan), None, "https://dashscope.aliyuncs.com"),
            ("sk-1", None, Some("intl"), workspace),
            ("tp1", None, None, token_plan),
            ("ghp_1", None, None, workspace),
        ] {
            at(key, plan, region, base_url).unwrap_err();
        }
    }
}
