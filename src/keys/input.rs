//! What a user gives for a key and its place. What is plain is mended, and told; the rest is refused. Pure.

use url::{Host, Url};

use crate::base_url::{api_base_url, display};
use crate::error::{Error, Result};
use crate::plans::{KeyPlan, Place, is_coding_plan_key, place_of, place_on, plans_of_key, region_from_name};
use crate::secret::Secret;

/// No key is anywhere near this long.
const MAX_KEY: usize = 1024;
/// What a base URL is often given with: the address of one endpoint.
const ENDPOINTS: [&str; 3] = ["/chat/completions", "/completions", "/models"];

/// Where a key may belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its plan; `None` for a server that is not known.
    pub plan: Option<KeyPlan>,
    /// Its region, where that is known.
    pub region: Option<String>,
    /// Where its requests go.
    pub base_url: Url,
}

impl From<&Place> for Candidate {
    fn from(place: &Place) -> Self {
        // The table's URLs are checked by its tests.
        let base_url = Url::parse(place.base_url).unwrap_or_else(|_| unreachable!("{}", place.base_url));
        Self { plan: Some(place.plan), region: Some(place.region.to_owned()), base_url }
    }
}

/// Reads a key. `notes` gets what was mended.
///
/// # Errors
/// `ERR_QWEN_INVALID_ARGUMENT`. The key is not repeated.
pub fn read_key(text: &str, notes: &mut Vec<String>) -> Result<Secret> {
    const QUOTES: [char; 3] = ['"', '\'', '`'];
    let trimmed = |text: &str| text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}').to_owned();
    let mut key = trimmed(text);
    let mut left_out = Vec::new();
    if key.len() < text.len() {
        left_out.push("the spaces around it");
    }
    loop {
        let quote = QUOTES
            .into_iter()
            .find(|quote| key.len() > 1 && key.starts_with(*quote) && key.ends_with(*quote));
        if quote.is_some() {
            key = trimmed(&key[1..key.len() - 1]);
            left_out.push("the quotes around it");
        } else if let Some(rest) = without_prefix(&key, "bearer") {
            key = trimmed(rest);
            left_out.push("\"Bearer\" in front of it");
        } else if let Some(rest) = without_prefix(&key, "authorization:") {
            key = trimmed(rest);
            left_out.push("the header's name in front of it");
        } else {
            break;
        }
    }
    let refuse = |what: &str| Err(Error::invalid_argument("key", what));
    if key.is_empty() {
        return refuse("is empty; give the key itself, such as sk-…");
    }
    if key.len() > MAX_KEY {
        return refuse("is too long to be a key; copy the key alone");
    }
    if key.chars().any(char::is_whitespace) {
        return refuse("holds a space or a line break; copy it again in one piece");
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("holds a character that no key has; copy it again");
    }
    if !left_out.is_empty() {
        left_out.dedup();
        notes.push(format!("The key was taken without {}.", left_out.join(" and ")));
    }
    Ok(Secret::new(key))
}

/// What stands behind a word, in upper or lower case.
fn without_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    let rest = text.get(prefix.len()..)?;
    let is_apart = prefix.ends_with(':') || rest.is_empty() || rest.starts_with(char::is_whitespace);
    (head.eq_ignore_ascii_case(prefix) && is_apart).then_some(rest)
}

/// Where a key may belong, the likeliest first: what the user says, and what the key says itself.
///
/// # Errors
/// `ERR_QWEN_INVALID_ARGUMENT` for what is no plan, region or base URL, and for what contradicts itself.
pub fn candidates(
    key: &Secret,
    plan: Option<KeyPlan>,
    region: Option<&str>,
    base_url: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<Vec<Candidate>> {
    if plan.is_some_and(|plan| plan != KeyPlan::CodingPlan) && is_coding_plan_key(key.expose()) {
        let expected = "does not fit the key: one that starts with sk-sp- is a Coding Plan's. Leave plan out, or say coding-plan";
        return Err(Error::invalid_argument("plan", expected));
    }
    let region = region.map(read_region).transpose()?;
    if let Some(base_url) = base_url {
        return elsewhere(key, plan, region, base_url, notes).map(|candidate| vec![candidate]);
    }
    if plan == Some(KeyPlan::CodingPlan) && !is_coding_plan_key(key.expose()) {
        let expected = "does not fit the key: a Coding Plan's starts with sk-sp-. Leave plan out, or say which one it is";
        return Err(Error::invalid_argument("plan", expected));
    }
    let plans = plan.as_ref().map_or_else(|| plans_of_key(key.expose()), std::slice::from_ref);
    let places = plans.iter().flat_map(|plan| plan.places());
    let found: Vec<_> = places
        .filter(|place| region.is_none_or(|region| region == place.region))
        .map(Candidate::from)
        .collect();
    if found.is_empty() {
        let names: Vec<_> =
            plans.iter().map(|plan| format!("{} has {}", plan.title(), regions(*plan))).collect();
        return Err(Error::invalid_argument(
            "region",
            &format!("is none of this plan's: {}", names.join("; ")),
        ));
    }
    Ok(found)
}

/// All other places where a key of this form could belong.
#[must_use]
pub fn other_places(key: &Secret, tried: &[Candidate]) -> Vec<Candidate> {
    let places = plans_of_key(key.expose()).iter().flat_map(|plan| plan.places()).map(Candidate::from);
    places.filter(|place| tried.iter().all(|candidate| candidate.base_url != place.base_url)).collect()
}

/// The regions of a plan, for a person.
#[must_use]
pub fn regions(plan: KeyPlan) -> String {
    plan.places().map(|place| place.region).collect::<Vec<_>>().join(", ")
}

fn read_region(name: &str) -> Result<&'static str> {
    region_from_name(name).ok_or_else(|| {
        let mut names: Vec<_> = crate::plans::PLACES.iter().map(|place| place.region).collect();
        names.sort_unstable();
        names.dedup();
        Error::invalid_argument("region", &format!("must be one of {}", names.join(", ")))
    })
}

/// A base URL of the user's.
fn elsewhere(
    key: &Secret,
    plan: Option<KeyPlan>,
    region: Option<&'static str>,
    text: &str,
    notes: &mut Vec<String>,
) -> Result<Candidate> {
    let unusable = |reason: &str| {
        let expected = format!("is not usable: it {reason}. Give one such as https://host.example/v1");
        Error::invalid_argument("baseUrl", &expected)
    };
    let given = text.trim();
    if given.is_empty() {
        return Err(unusable("is empty"));
    }
    if given.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(unusable("holds a space or a control character"));
    }
    let mut bare = given.trim_end_matches('/');
    for endpoint in ENDPOINTS {
        bare = bare.strip_suffix(endpoint).unwrap_or(bare).trim_end_matches('/');
    }
    let mut base_url = api_base_url(bare).map_err(unusable)?;
    // The host alone names the place: the rest of its address is known.
    if let Some(Host::Domain(host)) = base_url.host()
        && let Some(place) = place_on(host)
    {
        base_url = Candidate::from(place).base_url;
    }
    if display(&base_url) != given {
        notes.push(format!("The base URL was taken as {}.", display(&base_url)));
    }
    let Some(place) = place_of(&base_url) else {
        let plan = plan.or_else(|| is_coding_plan_key(key.expose()).then_some(KeyPlan::CodingPlan));
        return Ok(Candidate { plan, region: region.map(str::to_owned), base_url });
    };
    if plan.is_some_and(|plan| plan != place.plan) || region.is_some_and(|region| region != place.region) {
        let (plan, region) = (place.plan.as_str(), place.region);
        let expected =
            format!("is the one of plan {plan} in region {region}, and something else was said of them");
        return Err(Error::invalid_argument("baseUrl", &expected));
    }
    Ok(Candidate::from(place))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Code;

    fn key(text: &str) -> Result<(String, usize)> {
        let mut notes = Vec::new();
        let key = read_key(text, &mut notes)?;
        Ok((key.expose().to_owned(), notes.len()))
    }

    fn found(
        key: &str,
        plan: Option<KeyPlan>,
        region: Option<&str>,
        base_url: Option<&str>,
    ) -> Result<Vec<String>> {
        let found = candidates(&Secret::new(key), plan, region, base_url, &mut Vec::new())?;
        Ok(found.iter().map(|candidate| display(&candidate.base_url)).collect())
    }

    #[test]
    fn what_is_plain_is_mended_and_told() {
        assert_eq!(key("sk-1").unwrap(), ("sk-1".to_owned(), 0));
        for text in [
            " sk-1\n",
            "\"sk-1\"",
            "'sk-1'\r\n",
            "`sk-1`",
            "Bearer sk-1",
            "bearer\tsk-1",
            "\"Bearer sk-1\"",
            "Authorization: Bearer sk-1",
            "\u{feff}sk-1",
            "Bearer \"sk-1\"",
        ] {
            assert_eq!(key(text).unwrap(), ("sk-1".to_owned(), 1), "{text:?}");
            let mut notes = Vec::new();
            read_key(text, &mut notes).unwrap();
            assert!(!notes[0].contains("sk-1"), "{}", notes[0]);
        }
        assert_eq!(key("bearersk-1").unwrap().0, "bearersk-1");
    }

    #[test]
    fn what_is_not_plain_is_refused_and_not_repeated() {
        for text in [
            "",
            "  ",
            "\"\"",
            "Bearer ",
            "sk-1 sk-2",
            "sk-1\nsk-2",
            "sk-\u{1}1",
            "sk-\u{e9}1",
            "sk-1\u{200b}",
            &"k".repeat(2000),
        ] {
            let error = key(text).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{text:?}");
            assert!(
                !error.message().contains("sk-1") && error.message().contains("key"),
                "{}",
                error.message()
            );
        }
    }

    #[test]
    fn a_key_and_a_choice_lead_to_places() {
        assert_eq!(found("sk-sp-1", None, None, None).unwrap().len(), 2);
        assert_eq!(found("sk-1", None, None, None).unwrap().len(), 5);
        assert_eq!(
            found("sk-1", None, Some("us"), None).unwrap(),
            ["https://dashscope-us.aliyuncs.com/compatible-mode/v1"]
        );
        assert_eq!(
            found("sk-sp-1", Some(KeyPlan::CodingPlan), Some("intl"), None).unwrap(),
            ["https://coding-intl.dashscope.aliyuncs.com/v1"]
        );
        for (key, plan, region) in [
            ("sk-sp-1", Some(KeyPlan::DashScope), None),
            ("sk-1", Some(KeyPlan::CodingPlan), None),
            ("sk-sp-1", None, Some("us")),
            ("sk-1", None, Some("mars")),
        ] {
            assert_eq!(found(key, plan, region, None).unwrap_err().code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn a_base_url_is_mended_where_it_is_plain_what_was_meant() {
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
        ] {
            assert_eq!(found("sk-1", None, None, Some(text)).unwrap(), [expected], "{text}");
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
            let error = found("sk-1", None, None, Some(text)).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{text}");
            assert!(!error.message().contains("pass@"), "{}", error.message());
        }
    }

    #[test]
    fn a_base_url_tells_the_plan_or_it_is_not_known() {
        let found = |key: &str, plan, base_url| {
            candidates(&Secret::new(key), plan, None, Some(base_url), &mut Vec::new())
                .map(|mut all| all.remove(0))
        };
        let known = found("tp1", None, "https://token-plan.cn-beijing.maas.aliyuncs.com").unwrap();
        assert_eq!((known.plan, known.region.as_deref()), (Some(KeyPlan::TokenPlan), Some("cn")));
        assert_eq!(found("sk-1", None, "https://host.example").unwrap().plan, None);
        assert_eq!(found("sk-sp-1", None, "https://host.example").unwrap().plan, Some(KeyPlan::CodingPlan));
        assert_eq!(
            found("x", Some(KeyPlan::CodingPlan), "https://host.example").unwrap().plan,
            Some(KeyPlan::CodingPlan)
        );
        assert!(found("tp1", Some(KeyPlan::TokenPlan), "https://dashscope.aliyuncs.com").is_err());
    }

    proptest! {
        #[test]
        fn a_key_that_is_taken_fits_into_a_header(text in ".{0,40}") {
            if let Ok((key, _)) = key(&text) {
                prop_assert!(key.bytes().all(|byte| byte.is_ascii_graphic()));
                let again = read_key(&key, &mut Vec::new()).unwrap();
                prop_assert_eq!(again.expose(), key);
            }
        }
    }
}
