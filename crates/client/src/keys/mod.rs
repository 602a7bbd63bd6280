//! Checks keys before they become accounts.

pub mod check;
pub mod input;
pub mod paste;

use qwen_accounts::Key;
use qwen_base::{Code, Error, Http, KeyPlan, Result, Secret, Tier, display_url, endpoint_of};
use serde::Deserialize;

use self::check::{EndpointAnswer, Inquiry};
use self::input::{CandidateEndpoint, CandidateEndpoints, candidate_endpoints};
use self::paste::read_key;

/// A key and the user's options for it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyOptions {
    /// The key as given.
    pub key: Secret,
    /// Plan, or `None` to detect it.
    pub plan: Option<KeyPlan>,
    /// Region, or `None` to detect it.
    pub region: Option<String>,
    /// Base URL of another server.
    pub base_url: Option<String>,
    /// Name for the account.
    pub label: Option<String>,
    /// Tier of the subscription, for estimates of usage.
    pub tier: Option<Tier>,
    /// True to ask the server before the key is kept. Default: true.
    #[serde(default = "yes")]
    pub check: bool,
}

fn yes() -> bool {
    true
}

/// A checked key.
#[derive(Debug)]
pub struct Recognised {
    pub key: Key,
    /// Sentences for the user about corrections and assumptions.
    pub notes: Vec<String>,
}

/// Finds the server of a key.
///
/// # Errors
/// `ERR_QWEN_INVALID_ARGUMENT` for a key, plan, region or base URL that can't be used, for a tier that the plan doesn't
/// have, and for a key of another plan or region, which the error names; `ERR_QWEN_TOKEN_REJECTED` if all servers refuse
/// the key; `ERR_QWEN_NETWORK` and `ERR_QWEN_TIMEOUT` (retryable) if a server can't be asked.
pub async fn recognise(http: &Http, options: &KeyOptions) -> Result<Recognised> {
    let mut notes = Vec::new();
    let secret = read_key(options.key.expose(), &mut notes)?;
    let (region, base_url) = (options.region.as_deref(), options.base_url.as_deref());
    let mut choice = candidate_endpoints(&secret, options.plan, region, base_url, &mut notes)?;
    expect_tier(options.tier, &choice.places)?;
    let at = if options.check { find(http, &secret, &choice).await? } else { 0 };
    expect_tier(options.tier, &choice.places[at..=at])?;
    if !options.check && choice.places.len() > 1 {
        notes.push(format!(
            "The key was not checked. It is assumed to be for {}. If that is wrong, add it again with --plan and --region.",
            summary(&choice.places[..1])
        ));
    }
    let CandidateEndpoint { plan, region, base_url } = choice.places.swap_remove(at);
    Ok(Recognised { key: Key { secret, plan, region, base_url, tier: options.tier }, notes })
}

/// Checks that one of the plans has this tier.
fn expect_tier(tier: Option<Tier>, places: &[CandidateEndpoint]) -> Result<()> {
    let Some(tier) = tier else { return Ok(()) };
    let mut plans = places.iter().map(|place| place.plan);
    if plans.any(|plan| plan.is_some_and(|plan| plan.tiers().contains(&tier))) {
        return Ok(());
    }
    let plan = places.first().and_then(|place| place.plan);
    let name = plan.map_or("an unknown server", KeyPlan::title);
    let tiers = plan.map_or(&[][..], KeyPlan::tiers).iter().map(|tier| tier.as_str());
    let tiers = tiers.collect::<Vec<_>>().join(", ");
    let known = if tiers.is_empty() { "no tiers".to_owned() } else { format!("the tiers {tiers}") };
    let expected = format!("does not fit the key: {name} has {known}. Leave it out, or name the plan's own");
    Err(Error::invalid_argument("tier", &expected))
}

/// Returns the index of the server that accepts the key.
async fn find(http: &Http, key: &Secret, choice: &CandidateEndpoints) -> Result<usize> {
    let inquiry = Inquiry::new(http, key);
    let answers = match inquiry.first_yes(&choice.places).await {
        Ok(at) => return Ok(at),
        Err(answers) => answers,
    };
    for (place, answer) in choice.places.iter().zip(&answers) {
        match answer {
            EndpointAnswer::Unknown(cause) => return Err(unchecked(place, cause)),
            EndpointAnswer::NoApi(status) => return Err(no_api(place, *status)),
            EndpointAnswer::Yes | EndpointAnswer::Likely | EndpointAnswer::No => {}
        }
    }
    match inquiry.first_yes(&choice.others).await {
        Ok(at) => Err(misplaced(&choice.places, &choice.others[at])),
        Err(answers) => {
            let is_no = |(_, answer): &(_, &EndpointAnswer)| matches!(answer, EndpointAnswer::No);
            let refusing = choice.others.iter().zip(&answers).filter(is_no).map(|(place, _)| place);
            Err(refused(&choice.places.iter().chain(refusing).cloned().collect::<Vec<_>>()))
        }
    }
}

/// Formats servers as `Token Plan (cn, intl), Coding Plan (cn)`.
fn summary(places: &[CandidateEndpoint]) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for place in places {
        let (title, region) = match (place.plan, &place.region) {
            (Some(plan), Some(region)) => (plan.title().to_owned(), region.as_str()),
            _ => (display_url(&place.base_url), ""),
        };
        match groups.iter_mut().find(|(known, _)| *known == title) {
            Some((_, regions)) => regions.push(region),
            None => groups.push((title, vec![region])),
        }
    }
    let name = |(title, regions): &(String, Vec<&str>)| match regions.join(", ") {
        regions if regions.is_empty() => title.clone(),
        regions => format!("{title} ({regions})"),
    };
    groups.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Lists the web pages where the keys are shown.
fn key_pages(places: &[CandidateEndpoint]) -> String {
    let mut pages = Vec::new();
    for place in places.iter().filter(|place| endpoint_of(&place.base_url).is_some()) {
        let page = place.plan.zip(place.region.as_deref()).map(|(plan, region)| plan.key_page(region));
        pages.extend(page.filter(|page| !pages.contains(page)));
    }
    if pages.is_empty() { String::new() } else { format!(" Key pages: {}", pages.join(" , ")) }
}

fn misplaced(tried: &[CandidateEndpoint], place: &CandidateEndpoint) -> Error {
    let (plan, region) =
        (place.plan.map_or("", KeyPlan::as_str), place.region.as_deref().unwrap_or_default());
    let field = if tried.iter().any(|tried| tried.plan == place.plan) { "region" } else { "plan" };
    let expected = format!(
        "does not fit the key: {} refused it, and {} takes it. Add it with plan {plan} and region {region}",
        summary(tried),
        summary(std::slice::from_ref(place))
    );
    Error::invalid_argument(field, &expected)
}

fn refused(asked: &[CandidateEndpoint]) -> Error {
    let message = format!(
        "The key was refused by {}. Copy it again and check that it was not deleted; for a workspace or another server, give its base URL (--base-url).{}",
        summary(asked),
        key_pages(asked)
    );
    Error::new(Code::TokenRejected, message).with_status(401)
}

fn no_api(place: &CandidateEndpoint, status: u16) -> Error {
    let expected = format!(
        "is not an API that accepts keys: {}/chat/completions answered with status {status}. Check it, then try again",
        display_url(&place.base_url)
    );
    Error::invalid_argument("baseUrl", &expected)
}

fn unchecked(place: &CandidateEndpoint, cause: &Error) -> Error {
    let message = format!(
        "The key could not be checked at {}: {} Try again, or name its plan and region and add it unchecked (check: false, or --no-check).",
        display_url(&place.base_url),
        cause.message()
    );
    Error::new(cause.code(), message).retryable().with_source(cause.clone())
}

#[cfg(test)]
mod tests {
    use qwen_base::endpoints_of_key;

    use super::*;

    #[test]
    fn a_tier_must_belong_to_the_plan() {
        let places = |key| endpoints_of_key(key).into_iter().map(CandidateEndpoint::from).collect::<Vec<_>>();
        let of_plan = |plan| {
            let places = places("sk-1").into_iter().filter(|place| place.plan == Some(plan));
            places.collect::<Vec<_>>()
        };
        let (coding, token) = (of_plan(KeyPlan::CodingPlan), of_plan(KeyPlan::TokenPlan));
        let metered = of_plan(KeyPlan::DashScope);
        let unknown = [CandidateEndpoint { plan: None, ..metered[0].clone() }];
        for (tier, places, is_known) in [
            (Some(Tier::Lite), &coding[..], true),
            (Some(Tier::Standard), &coding, false),
            (Some(Tier::Standard), &token, true),
            (Some(Tier::Lite), &metered, false),
            (Some(Tier::Lite), &unknown, false),
            (None, &metered, true),
            (Some(Tier::Standard), &places("sk-sp-1"), true),
        ] {
            assert_eq!(expect_tier(tier, places).is_ok(), is_known, "{tier:?} {places:?}");
        }
        assert!(
            expect_tier(Some(Tier::Pro), &metered).unwrap_err().message().contains("DashScope has no tiers")
        );
    }

    #[test]
    fn a_refusal_names_the_servers_and_key_pages() {
        let asked: Vec<_> = endpoints_of_key("sk-sp-1").into_iter().map(CandidateEndpoint::from).collect();
        let error = refused(&asked);
        let message = error.message();
        assert!(message.contains("Token Plan (cn, intl), Coding Plan (cn, intl)"), "{message}");
        assert!(message.contains("--base-url") && message.contains("https://bailian.console.aliyun.com/"));
        for place in endpoints_of_key("sk-sp-1") {
            assert!(message.contains(place.key_page()), "{message}");
        }
    }
}
