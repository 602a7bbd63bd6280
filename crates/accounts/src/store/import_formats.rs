//! Reads logins in files of other tools: the qwen CLI, other Qwen plugins for `OpenCode`, and `OpenCode` itself. Pure.

use qwen_base::{Secret, api_base_url};
use serde_json::{Map, Value};

use super::document::{Document, Unusable};
use super::record::Record;
use crate::model::{
    Token,
    fields::{instant, text},
    fingerprint,
};

/// Provider names of the plugins, which are the names of their entries in `OpenCode`'s `auth.json`.
const PROVIDERS: [&str; 3] = ["qwen-code", "qwen", "alibaba"];
/// Begins the placeholders that this plugin writes to `auth.json` in place of tokens.
const STAND_IN: &str = "opencode-qwen-cli-auth:";

/// A login, or the reason why it can't be used. The reason completes "… can't be used: it …".
pub type LoginResult = Result<Login, &'static str>;

/// A login of another tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Name of the account in the other tool.
    pub label: Option<String>,
    /// The login's tokens.
    pub token: Token,
}

/// Returns the logins in a file, in order; `None` if its format is unknown.
#[must_use]
pub fn read_logins(contents: &[u8], now_ms: u64) -> Option<Vec<LoginResult>> {
    let contents = contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(contents);
    let Value::Object(file) = serde_json::from_slice(contents).ok()? else { return None };
    let found: Vec<LoginResult> = if let Some(Value::Array(accounts)) = file.get("accounts") {
        match Document::parse(contents) {
            Ok(document) if accounts.iter().any(|account| account.get("token").is_some()) => {
                document.records.iter().map(stored).collect()
            }
            Err(Unusable::Unsupported) => return None,
            _ => {
                accounts.iter().map(|account| account.as_object().ok_or(NO_TOKENS).and_then(login)).collect()
            }
        }
    } else if has_token(&file) {
        vec![login(&file)]
    } else {
        entries(&file)?
    };
    let usable = |found: LoginResult| found.and_then(|login| check(login, now_ms));
    Some(found.into_iter().map(usable).collect())
}

const NO_TOKENS: &str = "holds no tokens";

/// Reads an account of the original plugin's store, or of ours.
fn stored(record: &Record) -> LoginResult {
    Ok(Login { label: record.label().map(str::to_owned), token: record.token().ok_or(NO_TOKENS)? })
}

/// Reads the entries of `OpenCode`'s `auth.json`, which has one per provider.
fn entries(file: &Map<String, Value>) -> Option<Vec<LoginResult>> {
    let is_auth = file.values().all(|entry| entry.get("type").is_some_and(Value::is_string));
    let entry = |provider: &&str| file.get(*provider)?.as_object();
    let ours = PROVIDERS.iter().filter_map(entry).filter(|entry| entry["type"] == "oauth");
    let real = ours.filter(|entry| !text(entry, "access").is_some_and(|text| text.starts_with(STAND_IN)));
    is_auth.then(|| real.map(login).collect())
}

fn has_token(object: &Map<String, Value>) -> bool {
    ["access_token", "accessToken", "refresh_token", "refreshToken"]
        .iter()
        .any(|name| object.contains_key(*name))
}

/// Reads one login. Each tool has its own names for the same four fields.
fn login(object: &Map<String, Value>) -> LoginResult {
    let refresh_token = first_text(object, &["refresh_token", "refreshToken", "refresh"]).map(Secret::new);
    let access_token = first_text(object, &["access_token", "accessToken", "access"]).map(Secret::new);
    let expiry = ["expiry_date", "expiryDate", "expires", "expires_at", "expiresAt"];
    let expires_at = expiry.iter().find_map(|name| instant(object.get(*name)?)).unwrap_or(0);
    let (access_token, expires_at) = match (access_token, &refresh_token) {
        (Some(token), _) => (token, expires_at),
        // The access token is refreshed before it is used. Its placeholder must differ between accounts.
        (None, Some(refresh_token)) => (Secret::new(fingerprint(refresh_token)), 0),
        (None, None) => return Err(NO_TOKENS),
    };
    Ok(Login {
        label: text(object, "label").map(str::to_owned),
        token: Token {
            access_token,
            refresh_token,
            token_type: first_text(object, &["token_type", "tokenType"]).unwrap_or("Bearer").to_owned(),
            resource_url: first_text(object, &["resource_url", "resourceUrl"]).map(str::to_owned),
            scope: text(object, "scope").map(str::to_owned),
            expires_at,
        },
    })
}

fn check(login: Login, now_ms: u64) -> LoginResult {
    let Login { token, .. } = &login;
    if token.secrets().any(|secret| secret.expose().chars().any(|c| c.is_control() || c.is_whitespace())) {
        return Err("holds a token with invalid characters");
    }
    if token.refresh_token.is_none() && !token.is_fresh(now_ms) {
        return Err("has expired, and has no refresh token");
    }
    match token.resource_url.as_deref().map(api_base_url) {
        Some(Err(_)) => Err("names a host that tokens must not be sent to"),
        _ => Ok(login),
    }
}

fn first_text<'a>(object: &'a Map<String, Value>, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| text(object, name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const LATER: u64 = 1_893_456_000_000;

    fn read(file: &Value) -> Option<Vec<LoginResult>> {
        read_logins(file.to_string().as_bytes(), 1_000)
    }

    fn only(file: &Value) -> Token {
        let [Ok(login)] = &read(file).unwrap()[..] else { panic!("{file}") };
        login.token.clone()
    }

    fn parts(token: &Token) -> (&str, Option<&str>, Option<&str>, u64) {
        let refresh = token.refresh_token.as_ref().map(Secret::expose);
        (token.access_token.expose(), refresh, token.resource_url.as_deref(), token.expires_at)
    }

    #[test]
    fn all_field_names_of_other_tools_are_read() {
        let portal = "portal.qwen.ai";
        for file in [
            json!({"access_token": "a", "refresh_token": "r", "resource_url": portal, "expiry_date": LATER}),
            json!({"access_token": "a", "refresh_token": "r", "resource_url": portal, "expires": LATER.to_string()}),
            json!({"accessToken": "a", "refreshToken": "r", "resourceUrl": portal, "expiryDate": LATER, "tokenType": "Bearer"}),
            json!({"qwen": {"type": "oauth", "access": "a", "refresh": "r", "resourceUrl": portal, "expires": LATER}}),
            json!({"version": 1, "activeIndex": 0, "accounts": [
                {"accessToken": "a", "refreshToken": "r", "resourceUrl": portal, "expires": LATER, "addedAt": 1, "lastUsed": 2}]}),
            json!({"version": 1, "accounts": [
                {"id": "x", "token": {"access_token": "a", "refresh_token": "r", "expiry_date": LATER}, "resource_url": portal}]}),
        ] {
            assert_eq!(parts(&only(&file)), ("a", Some("r"), Some(portal), LATER), "{file}");
        }
    }

    #[test]
    fn an_account_without_an_access_token_is_refreshed_first() {
        let accounts = json!({"version": 1, "activeIndex": 0, "accounts": [{"refreshToken": "r"}, {"refreshToken": "s"}]});
        let found = read(&accounts).unwrap();
        let tokens: Vec<_> = found.into_iter().map(|login| login.unwrap().token).collect();
        assert!(tokens.iter().all(|token| !token.is_fresh(0)));
        assert_ne!(tokens[0].access_token, tokens[1].access_token);
    }

    #[test]
    fn only_qwen_logins_are_read_from_opencodes_file() {
        let file = json!({
            "anthropic": {"type": "oauth", "access": "not-ours", "refresh": "r", "expires": LATER},
            "alibaba": {"type": "api", "key": "sk-x"},
            "qwen-code": {"type": "oauth", "access": "opencode-qwen-cli-auth:qwen-cli", "refresh": "opencode-qwen-cli-auth:qwen-cli", "expires": LATER},
        });
        assert_eq!(read(&file), Some(vec![]));
    }

    #[test]
    fn an_unusable_login_gives_the_reason() {
        let why = |file: Value| read(&file).unwrap()[0].clone().unwrap_err();
        assert!(why(json!({"access_token": "a", "expiry_date": 5})).contains("expired"));
        assert!(why(json!({"access_token": "a\nb", "refresh_token": "r"})).contains("characters"));
        assert!(
            why(json!({"access_token": "a", "refresh_token": "r", "resource_url": "http://x.example"}))
                .contains("host")
        );
        assert!(why(json!({"access_token": "", "refresh_token": 1})).contains("no tokens"));
        assert!(why(json!({"version": 1, "accounts": [7]})).contains("no tokens"));
    }

    #[test]
    fn unknown_files_differ_from_files_without_accounts() {
        for file in
            [json!({"name": "package"}), json!([1]), json!("a"), json!({"version": 9, "accounts": []})]
        {
            assert_eq!(read(&file), None, "{file}");
        }
        assert_eq!(read_logins(b"{ not json", 0), None);
        for file in [json!({}), json!({"version": 1, "accounts": [], "activeIndex": 0})] {
            assert_eq!(read(&file), Some(vec![]), "{file}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(contents in proptest::collection::vec(any::<u8>(), 0..80), text in ".{0,20}", shape in 0..4_usize) {
            let _ = read_logins(&contents, 0);
            let file = match shape {
                0 => json!({"version": 1, "accounts": [{"token": text}]}),
                1 => json!({"access_token": text, "refreshToken": [text], "expires": text}),
                2 => json!({"qwen": {"type": "oauth", "access": text, "refresh": text}}),
                _ => json!({"accounts": {"a": text}, text: 1}),
            };
            for login in read(&file).unwrap_or_default().into_iter().flatten() {
                prop_assert!(!login.token.access_token.expose().is_empty());
            }
        }
    }
}
