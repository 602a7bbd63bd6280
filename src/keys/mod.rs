//! Keys of plans as accounts: recognised, checked, kept.

pub mod check;
pub mod input;

use futures_util::future::join_all;

use self::check::{Found, check};
use self::input::{Candidate, candidates, other_places, read_key, regions};
use crate::base_url::display;
use crate::error::{Code, Error, Result};
use crate::http::Http;
use crate::plans::{KeyPlan, place_of};
use crate::secret::Secret;
use crate::store::record::Key;

/// What a user says of a key.
#[derive(Debug, Clone)]
pub struct KeyOptions {
    /// The key, as it was given.
    pub key: Secret,
    /// Its plan; recognised from the key and the base URL where it is not given.
    pub plan: Option<KeyPlan>,
    /// Its region; found out where it is not given.
    pub region: Option<String>,
    /// A base URL of its own.
    pub base_url: Option<String>,
    /// The account's name.
    pub label: Option<String>,
    /// Whether its place is asked about it before it is kept.
    pub check: bool,
}

/// A key that may be kept, and what was mended or assumed on the way.
#[derive(Debug)]
pub struct Recognised {
    /// The key and where it belongs.
    pub key: Key,
    /// What the user should know, a sentence each.
    pub notes: Vec<String>,
}

/// Finds out where a key belongs.
///
/// # Errors
/// `ERR_QWEN_INVALID_ARGUMENT` for what can't be read, and for a key of another plan or region, which is then named;
/// `ERR_QWEN_TOKEN_REJECTED` for a key that is refused everywhere; `ERR_QWEN_NETWORK` and `ERR_QWEN_TIMEOUT`,
/// retryable, where nothing could be learnt.
pub async fn recognise(http: &Http, options: &KeyOptions) -> Result<Recognised> {
    let mut notes = Vec::new();
    let secret = read_key(options.key.expose(), &mut notes)?;
    let (region, base_url) = (options.region.as_deref(), options.base_url.as_deref());
    let mut places = candidates(&secret, options.plan, region, base_url, &mut notes)?;
    let at = if options.check { find(http, &secret, &places).await? } else { 0 };
    if !options.check && places.len() > 1 {
        notes.push(format!("The key was not checked, and is taken for one of {}.", name(&places[0])));
    }
    let Candidate { plan, region, base_url } = places.swap_remove(at);
    Ok(Recognised { key: Key { secret, plan, region, base_url, tier: None }, notes })
}

/// Which of the places takes the key.
async fn find(http: &Http, key: &Secret, places: &[Candidate]) -> Result<usize> {
    let found = join_all(places.iter().map(|place| check(http, key, place))).await;
    if let Some(at) = found.iter().position(|found| matches!(found, Found::Good)) {
        return Ok(at);
    }
    for (place, found) in places.iter().zip(&found) {
        match found {
            Found::Unknown(cause) => return Err(unchecked(place, cause)),
            Found::NoApi(status) => return Err(no_api(place, *status)),
            Found::Good | Found::Refused => {}
        }
    }
    // A key of somebody else's server is nobody else's business.
    let is_own = places.iter().all(|place| place_of(&place.base_url).is_some());
    let others = if is_own { other_places(key, places) } else { Vec::new() };
    let elsewhere = join_all(others.iter().map(|place| check(http, key, place))).await;
    let belongs = others.iter().zip(&elsewhere).find(|(_, found)| matches!(found, Found::Good));
    Err(belongs.map_or_else(|| refused(places), |(place, _)| misplaced(places, place)))
}

fn name(place: &Candidate) -> String {
    match (place.plan, &place.region) {
        (Some(plan), Some(region)) => format!("the {} (region {region})", plan.title()),
        _ => display(&place.base_url),
    }
}

fn names(places: &[Candidate]) -> String {
    places.iter().map(name).collect::<Vec<_>>().join(", nor of ")
}

fn misplaced(tried: &[Candidate], place: &Candidate) -> Error {
    let (plan, region) =
        (place.plan.map_or("", KeyPlan::as_str), place.region.as_deref().unwrap_or_default());
    let field = if tried.iter().any(|tried| tried.plan == place.plan) { "region" } else { "plan" };
    let expected = format!(
        "is not the key's: it is no key of {}, but one of {}. Add it with plan {plan} and region {region}",
        names(tried),
        name(place)
    );
    Error::invalid_argument(field, &expected)
}

fn refused(tried: &[Candidate]) -> Error {
    let plans = tried.iter().filter_map(|place| place.plan).fold(Vec::new(), |mut plans, plan| {
        if !plans.contains(&plan) {
            plans.push(plan);
        }
        plans
    });
    let known: Vec<_> = plans.iter().map(|plan| format!("{}: {}", plan.as_str(), regions(*plan))).collect();
    let hint = if known.is_empty() { String::new() } else { format!(" (regions of {})", known.join("; ")) };
    let message = format!(
        "The key was refused: it is no key of {}. Copy it again, and check that it was not deleted and is of the plan and region given{hint}.",
        names(tried)
    );
    Error::new(Code::TokenRejected, message).with_status(401)
}

fn no_api(place: &Candidate, status: u16) -> Error {
    let expected = format!(
        "leads to no API that takes keys: {}/chat/completions answered with status {status}. Check it, then try again",
        display(&place.base_url)
    );
    Error::invalid_argument("baseUrl", &expected)
}

fn unchecked(place: &Candidate, cause: &Error) -> Error {
    let message = format!(
        "The key could not be checked at {}: {} Try again, or add it unchecked (check: false, or --no-check).",
        display(&place.base_url),
        cause.message()
    );
    Error::new(cause.code(), message).retryable().with_cause(cause.clone())
}
