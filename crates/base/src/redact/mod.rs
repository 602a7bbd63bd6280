//! Removes secrets from text before it is logged. Pure, except for the list of known secrets that clients share.
//!
//! There are two steps: known secrets (tokens and keys in use) are removed everywhere, and so are possible secrets,
//! recognized by the name of their header, field or parameter, or by their form. The second step may remove too much, which
//! is fine for logs.

mod looks;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use http::HeaderMap;
use serde_json::{Map, Value};
use url::{Url, form_urlencoded};

use crate::mutex::lock;
use crate::secret::Secret;
use crate::text::truncate;

/// Replaces a secret.
pub const HIDDEN: &str = "***";
/// Minimum length of a known secret. Shorter ones would match ordinary words.
const MIN_SECRET: usize = 8;
/// Minimum length of a partial secret at the end of a truncated text.
const MIN_START: usize = 4;
/// Largest string in logged JSON, in bytes.
pub const MAX_STRING: usize = 2 * 1024;
/// Number of bytes of a long string that are searched before it is truncated.
const WINDOW: usize = 16 * 1024;
/// A text that still contains a possible secret after this many passes is hidden completely.
const MAX_PASSES: usize = 32;
/// Enough for current and previous tokens and keys of many accounts.
const MAX_KNOWN: usize = 64;

/// The secrets in use, shared by all writers of logs. Keeps the newest 64.
#[derive(Clone, Default)]
pub struct KnownSecrets(Arc<Mutex<VecDeque<Secret>>>);

impl KnownSecrets {
    /// Keeps a secret out of logs from now on. Secrets of fewer than 8 bytes are ignored.
    pub fn add(&self, secret: &Secret) {
        let mut known = self.lock();
        if secret.expose().len() < MIN_SECRET || known.contains(secret) {
            return;
        }
        if known.len() >= MAX_KNOWN {
            known.pop_front();
        }
        known.push_back(secret.clone());
    }

    /// Returns a redactor of all known secrets.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        self.redactor_with(&[])
    }

    /// Returns a redactor of all known secrets and `more`.
    #[must_use]
    pub fn redactor_with(&self, more: &[Secret]) -> Redactor {
        Redactor::new(self.lock().iter().chain(more))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Secret>> {
        lock(&self.0)
    }
}

impl std::fmt::Debug for KnownSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KnownSecrets({})", self.lock().len())
    }
}

/// Removes secrets. Its output doesn't change when redacted again.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    /// Each known secret in plain form, and as written in a URL or a JSON string.
    needles: Vec<Secret>,
}

impl Redactor {
    /// Creates a redactor that also removes `secrets`. Secrets of fewer than 8 bytes are ignored.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut needles: Vec<Secret> = Vec::new();
        for secret in secrets {
            let plain = secret.expose();
            if plain.len() < MIN_SECRET {
                continue;
            }
            let in_url: String = form_urlencoded::byte_serialize(plain.as_bytes()).collect();
            let in_json = Value::from(plain).to_string();
            let in_json = &in_json[1..in_json.len() - 1];
            for form in [plain, &in_url, in_json, &in_json.replace('/', r"\/")] {
                if !needles.iter().any(|known| known.expose() == form) {
                    needles.push(Secret::new(form));
                }
            }
        }
        Self { needles }
    }

    /// Removes secrets from a text.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // Removing one secret can make the rest look like another.
        for _ in 0..MAX_PASSES {
            let mut found = self.known(&text);
            found.extend(looks::find(&text));
            if found.is_empty() {
                return text;
            }
            text = replace(&text, found);
        }
        HIDDEN.to_owned()
    }

    /// Removes secrets from the start of a truncated text, including part of a known secret at its end.
    #[must_use]
    pub fn start_of_text(&self, start: &str) -> String {
        let text = self.text(start);
        let cut = self.needles.iter().filter_map(|needle| {
            let needle = needle.expose();
            let starts = (MIN_START..needle.len()).rev().filter_map(|length| needle.get(..length));
            starts.into_iter().find(|start| text.ends_with(start)).map(str::len)
        });
        match cut.max() {
            Some(length) => self.text(&format!("{}{HIDDEN}", &text[..text.len() - length])),
            None => text,
        }
    }

    /// Prepares a string for a log: removes secrets, truncates it to 2 KiB, and replaces a data URL with a note.
    #[must_use]
    pub fn string(&self, string: &str) -> String {
        if let Some(note) = note_on_data_url(string) {
            return self.text(&note);
        }
        let window = truncate(string, WINDOW);
        let text = if window.len() < string.len() { self.start_of_text(window) } else { self.text(window) };
        if window.len() == string.len() && text.len() <= MAX_STRING {
            return text;
        }
        // The note must fit too, or the next pass would truncate it.
        let kept = truncate(&text, MAX_STRING - 64);
        self.text(&format!("{kept}[cut, {} bytes in all]", string.len()))
    }

    /// Prepares the value of a field like [`Redactor::string`]. Hides it if the name says that it is secret.
    #[must_use]
    pub fn field(&self, name: &str, value: &str) -> String {
        if looks::is_secret_name(name) && !value.is_empty() { HIDDEN.to_owned() } else { self.string(value) }
    }

    /// Removes secrets from a JSON value, and truncates its strings like [`Redactor::string`].
    #[must_use]
    pub fn json(&self, value: &Value) -> Value {
        match value {
            Value::Null | Value::Bool(_) => value.clone(),
            Value::Number(number) => {
                let digits = number.to_string();
                if self.known(&digits).is_empty() { value.clone() } else { HIDDEN.into() }
            }
            Value::String(string) => self.string(string).into(),
            Value::Array(items) => items.iter().map(|item| self.json(item)).collect(),
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| {
                    let shown = self.string(name);
                    let is_secret = looks::is_secret_name(name) || looks::is_secret_name(&shown);
                    (shown, if is_secret { self.hidden(value) } else { self.json(value) })
                });
                Value::Object(fields.collect())
            }
        }
    }

    /// Hides the value of a secret field. An object there describes a secret rather than being one.
    fn hidden(&self, value: &Value) -> Value {
        match value {
            Value::Null | Value::Bool(_) => value.clone(),
            Value::String(string) if string.is_empty() => value.clone(),
            Value::String(_) | Value::Number(_) => HIDDEN.into(),
            Value::Array(items) => items.iter().map(|item| self.hidden(item)).collect(),
            Value::Object(_) => self.json(value),
        }
    }

    /// Returns headers without secrets as a JSON object. A repeated header becomes an array.
    #[must_use]
    pub fn headers(&self, headers: &HeaderMap) -> Value {
        let mut fields = Map::new();
        for name in headers.keys() {
            let mut values = headers.get_all(name).iter().map(|value| {
                if value.is_sensitive() || looks::is_secret_header(name.as_str()) {
                    return Value::from(HIDDEN);
                }
                self.string(&String::from_utf8_lossy(value.as_bytes())).into()
            });
            let first = values.next().unwrap_or_default();
            let rest: Vec<_> = values.collect();
            let value = if rest.is_empty() { first } else { std::iter::once(first).chain(rest).collect() };
            fields.insert(self.string(name.as_str()), value);
        }
        Value::Object(fields)
    }

    /// Removes the user name, password, secret parameters and fragment from a URL.
    #[must_use]
    pub fn url(&self, url: &Url) -> String {
        let mut url = url.clone();
        // Both calls fail only for URLs without credentials.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        let shown = |(name, value): &(String, String)| {
            let (shown, value) = (self.text(name), self.text(value));
            let is_secret = looks::is_secret_name(name) || looks::is_secret_name(&shown);
            (shown, if is_secret { HIDDEN.to_owned() } else { value })
        };
        let pairs: Vec<_> = url.query_pairs().into_owned().collect();
        let shown: Vec<_> = pairs.iter().map(shown).collect();
        if shown != pairs {
            url.query_pairs_mut().clear().extend_pairs(shown);
        }
        self.text(url.as_str())
    }

    fn known(&self, text: &str) -> Vec<Range<usize>> {
        let needles = self.needles.iter().map(Secret::expose);
        needles
            .flat_map(|needle| text.match_indices(needle).map(|(at, found)| at..at + found.len()))
            .collect()
    }
}

fn replace(text: &str, mut ranges: Vec<Range<usize>>) -> String {
    ranges.sort_by_key(|range| range.start);
    let mut replaced = String::with_capacity(text.len());
    let mut done = 0;
    for range in ranges {
        // Overlapping ranges are replaced together.
        if range.start >= done {
            replaced.push_str(&text[done..range.start]);
            replaced.push_str(HIDDEN);
        }
        done = done.max(range.end);
    }
    replaced.push_str(&text[done..]);
    replaced
}

/// Describes a data URL, such as `data:image/png;base64,…`.
fn note_on_data_url(string: &str) -> Option<String> {
    let rest = string.get(..5)?.eq_ignore_ascii_case("data:").then(|| &string[5..])?;
    let (kind, data) = rest.split_once(',')?;
    let kind = kind.split(';').next().unwrap_or_default();
    let is_kind = kind.len() <= 80 && kind.bytes().all(|byte| byte.is_ascii_graphic());
    is_kind.then(|| format!("[{kind} data URL, {} bytes]", data.len()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const TOKEN: &str = "Qx7/9+aB~secret.Value=";

    fn redactor() -> Redactor {
        Redactor::new([&Secret::new(TOKEN), &Secret::new("short")])
    }

    #[test]
    fn known_secrets_are_removed_everywhere() {
        let redactor = redactor();
        assert_eq!(redactor.text(&format!("a{TOKEN}b{TOKEN}, short")), "a***b***, short");
        assert_eq!(redactor.text("q=Qx7%2F9%2BaB%7Esecret.Value%3D&x=1"), "q=***&x=1");
        assert_eq!(redactor.text(r#"{"t":"Qx7\/9+aB~secret.Value="}"#), r#"{"t":"***"}"#);
        let digits = Redactor::new([&Secret::new("123456789")]);
        assert_eq!(digits.json(&json!({"n": 1_234_567_890, "m": 1})), json!({"n": "***", "m": 1}));
        let value = json!({TOKEN: [TOKEN, {"deep": format!("x {TOKEN}")}]});
        assert_eq!(redactor.json(&value), json!({"***": ["***", {"deep": "x ***"}]}));
    }

    #[test]
    fn hostile_repetition_takes_linear_time() {
        // An algorithm of quadratic time would need minutes for each of these.
        for part in [
            "eyJ",
            "eyJa.",
            "sk-",
            "xsk-",
            "password=",
            "authorization: ",
            "bearer ",
            "://",
            "password=\"",
            "?key=",
            "ghp_",
            "T3BlbkFJ",
            "x_token=",
            "x_token: a",
            "setenv x_token ",
            "setenv x_key ",
        ] {
            let text = part.repeat(4 * 1024 * 1024 / part.len());
            let redacted = redactor().text(&text);
            assert!(redacted.len() <= text.len(), "{part}");
        }
    }

    #[test]
    fn values_of_commands_and_calls_are_removed() {
        for (text, expected) in [
            (
                "set -gx A_TOKEN abc; setenv A_TOKEN abc\nset the A_TOKEN x",
                "set -gx A_TOKEN ***; setenv A_TOKEN ***\nset the A_TOKEN x",
            ),
            ("ENV A_API_KEY abc\n#define A_SECRET \"abc\"", "ENV A_API_KEY ***\n#define A_SECRET \"***\""),
            ("#define A_KEY \"abc\"; sort_key: a", "#define A_KEY \"***\"; sort_key: a"),
            ("os.Setenv(\"A_TOKEN\", \"abc\")", "os.Setenv(\"A_TOKEN\", \"***\")"),
            (
                "A_API_KEY: string = \"abc\"; A_TOKEN: &str = \"abc\"",
                "A_API_KEY: string = \"***\"; A_TOKEN: &str = \"***\"",
            ),
            (
                r#"{"a":"b\nENV A_API_KEY abc\n#define A_API_KEY \"abc\"\nset -gx A_TOKEN abc\nSetenv(\"A_KEY\", \"abc\")"}"#,
                r#"{"a":"b\nENV A_API_KEY ***\n#define A_API_KEY \"***\"\nset -gx A_TOKEN ***\nSetenv(\"A_KEY\", \"***\")"}"#,
            ),
            (
                r#"{"a":"{\"b\":\"+\\tputenv(\\n\\t\\\"A_KEY\\\", \\\"abc\\\")\"}"}"#,
                r#"{"a":"{\"b\":\"+\\tputenv(\\n\\t\\\"A_KEY\\\", \\\"***\\\")\"}"}"#,
            ),
            (
                "+ENV A_API_KEY abc\n-ENV A_TOKEN abc\n+#define A_KEY abc\na:1:ENV A_PASSWORD abc\n+# define A_KEY abc",
                "+ENV A_API_KEY ***\n-ENV A_TOKEN ***\n+#define A_KEY ***\na:1:ENV A_PASSWORD ***\n+# define A_KEY ***",
            ),
            (
                "-#define A_KEY abc\n-setx A_KEY abc\n-set --export A_KEY abc\n-setenv A_KEY abc",
                "-#define A_KEY ***\n-setx A_KEY ***\n-set --export A_KEY ***\n-setenv A_KEY ***",
            ),
            ("accessToken: string; a_token: str)", "accessToken: string; a_token: str)"),
            ("setx A_KEY abc\nset -g -x A_KEY abc", "setx A_KEY ***\nset -g -x A_KEY ***"),
            (
                "set_var( \"A_KEY\", \"abc\"); environ.setdefault('A_KEY', 'abc'); define('A_KEY','abc')",
                "set_var( \"A_KEY\", \"***\"); environ.setdefault('A_KEY', '***'); define('A_KEY','***')",
            ),
            (
                "[Environment]::SetEnvironmentVariable(\"A_KEY\", \"abc\"); putenv(\n  \"A_KEY\", \"abc\")",
                "[Environment]::SetEnvironmentVariable(\"A_KEY\", \"***\"); putenv(\n  \"A_KEY\", \"***\")",
            ),
            (
                "A_TOKEN ||= 'abc'; A_TOKEN ??= 'abc'; a_token <- 'abc'",
                "A_TOKEN ||= '***'; A_TOKEN ??= '***'; a_token <- '***'",
            ),
            (
                r#"{"name": "A_API_KEY", "value": "abc"}, {"name":"A_API_KEY","kind":"abc"}"#,
                r#"{"name": "A_API_KEY", "value": "***"}, {"name":"A_API_KEY","kind":"abc"}"#,
            ),
            (
                "x --api-key abc1 --password 'a B'; _authToken=abc;AccountKey=abc",
                "x --api-key *** --password '***'; _authToken=***;AccountKey=***",
            ),
            (
                "#define MAX_KEY 255; pass --api-key to it, define A_TOKEN well",
                "#define MAX_KEY 255; pass --api-key to it, define A_TOKEN well",
            ),
        ] {
            assert_eq!(Redactor::default().text(text), expected);
        }
    }

    #[test]
    fn possible_secrets_are_removed_too() {
        for (text, expected) in [
            ("Bearer abc.DEF-1~2+3/4=", "Bearer ***"),
            ("authorization: Basic dXNlcjpwYXNz\nnext: 1", "authorization: ***\nnext: 1"),
            (r#"-H "Authorization: Token abc" -d 1"#, r#"-H "Authorization: ***" -d 1"#),
            ("Set-Cookie: a=b; c=d\r\nx: y", "Set-Cookie: ***\r\nx: y"),
            ("key sk-0123456789abcdef, sk-sp-0123456789", "key ***, ***"),
            ("the task-management-tool", "the task-management-tool"),
            ("grant_type=x&refresh_token=abc&scope=y", "grant_type=x&refresh_token=***&scope=y"),
            (r#"{"access_token":"a\"b","n":1}"#, r#"{"access_token":"***","n":1}"#),
            (
                r#"{"a":"{\"device_code\": \"abc\",\"n\":1}"}"#,
                r#"{"a":"{\"device_code\": \"***\",\"n\":1}"}"#,
            ),
            ("DASHSCOPE_API_KEY=abc node", "DASHSCOPE_API_KEY=*** node"),
            ("apiKey: 'abc',", "apiKey: '***',"),
            (
                "OPENAI_API_KEY=\"abc\" ANTHROPIC_API_KEY: abc",
                "OPENAI_API_KEY=\"***\" ANTHROPIC_API_KEY: ***",
            ),
            (
                "export HF_TOKEN=abc; $env:AWS_SECRET_ACCESS_KEY = 'abc'",
                "export HF_TOKEN=***; $env:AWS_SECRET_ACCESS_KEY = '***'",
            ),
            ("DB_PASSWORD=abc\nSLACK_SIGNING_SECRET: abc", "DB_PASSWORD=***\nSLACK_SIGNING_SECRET: ***"),
            ("max_tokens=5 DASHSCOPE_API_KEY is not set", "max_tokens=5 DASHSCOPE_API_KEY is not set"),
            ("a proj-a1T3BlbkFJb2c, x", "a ***, x"),
            ("sk-cp-0123456789 sk-api-0123456789 sk-helicone-0123456", "*** *** ***"),
            ("in (ghp_0123456789abcdef) gsk_0123456789abcdef", "in (***) ***"),
            ("AKIA0123456789ABCDEF, xghp_0123456789abcdef", "***, xghp_0123456789abcdef"),
            ("npm_config_registry hf_transfer", "npm_config_registry hf_transfer"),
            ("glpat-abcdefGHIJklmnopqrst LTAI5tAbCdEfGhIjKlMnOp", "*** ***"),
            (
                "os.environ[\"MY_API_KEY\"] = \"abc\"; process.env['A_SECRET']='abc'",
                "os.environ[\"MY_API_KEY\"] = \"***\"; process.env['A_SECRET']='***'",
            ),
            ("A_TOKEN := abc, 'B_PASSWORD' => 'abc'", "A_TOKEN := ***, 'B_PASSWORD' => '***'"),
            (
                "A_TOKEN ?= abc B_TOKEN=$'abc' C_TOKEN=f\"abc\"",
                "A_TOKEN ?= *** B_TOKEN=$'***' C_TOKEN=f\"***\"",
            ),
            ("password == x, max_tokens: 5", "password == x, max_tokens: 5"),
            ("https://u:p@host.example/a?key=b&c=d", "https://***@host.example/a?key=***&c=d"),
            ("mail user@host.example", "mail user@host.example"),
            ("id eyJhbGciOi.eyJzdWIi.c2ln-x_y, z", "id ***, z"),
            ("authorization=abc&d=e", "authorization=***&d=e"),
            ("\"password\":\"caf\u{e9} \u{1f600}\" \u{e9}", "\"password\":\"***\" \u{e9}"),
        ] {
            assert_eq!(Redactor::default().text(text), expected);
        }
    }

    #[test]
    fn secret_fields_are_hidden_but_not_their_descriptions() {
        let value = json!({
            "access_token": "a", "refreshToken": "b", "device-code": "c", "key": "d", "X-Api-Key": ["e", 1],
            "password": 5, "client_secret": null, "token": "", "max_tokens": 10, "id": "f",
            "properties": {"key": {"type": "string"}, "required": ["key"]},
        });
        let expected = json!({
            "access_token": "***", "refreshToken": "***", "device-code": "***", "key": "***", "X-Api-Key": ["***", "***"],
            "password": "***", "client_secret": null, "token": "", "max_tokens": 10, "id": "f",
            "properties": {"key": {"type": "string"}, "required": ["key"]},
        });
        assert_eq!(Redactor::default().json(&value), expected);
    }

    #[test]
    fn headers_and_urls_are_redacted() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer abc"),
            ("set-cookie", "a=b"),
            ("x-api-key", "k"),
            ("x-auth-token", "t"),
            ("x-ratelimit-remaining-tokens", "5"),
            ("x-other", TOKEN),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.append("set-cookie", HeaderValue::from_static("c=d"));
        let mut sensitive = HeaderValue::from_static("quiet");
        sensitive.set_sensitive(true);
        headers.append("x-quiet", sensitive);
        assert_eq!(
            redactor().headers(&headers),
            json!({
                "authorization": "***", "set-cookie": ["***", "***"], "x-api-key": "***", "x-auth-token": "***",
                "x-ratelimit-remaining-tokens": "5", "x-other": "***", "x-quiet": "***",
            })
        );
        let url = |url: &str| redactor().url(&Url::parse(url).unwrap());
        assert_eq!(
            url("https://u:p@h.example/v1/chat?access_token=a&q=%51x7/9%2baB~secret.Value%3d&n=1#f"),
            "https://h.example/v1/chat?access_token=***&q=***&n=1"
        );
        assert_eq!(url("https://h.example/v1/models?q=a%20b"), "https://h.example/v1/models?q=a%20b");
    }

    #[test]
    fn long_strings_are_truncated_and_data_urls_described() {
        let redactor = redactor();
        let long = "\u{e9}".repeat(3000);
        let string = redactor.string(&long);
        assert!(string.len() <= MAX_STRING && string.ends_with("[cut, 6000 bytes in all]"), "{string}");
        let image = format!("data:image/png;base64,{}", "A".repeat(5000));
        assert_eq!(redactor.string(&image), "[image/png data URL, 5000 bytes]");
        assert_eq!(redactor.string("data: of the week, sorted"), "data: of the week, sorted");
        // The text is truncated inside this secret.
        let text = format!("{}{TOKEN}", "x".repeat(WINDOW - 10));
        assert!(!redactor.start_of_text(truncate(&text, WINDOW)).contains("Qx7/"));
    }

    #[test]
    fn only_the_newest_secrets_are_kept() {
        let known = KnownSecrets::default();
        for number in 0..=MAX_KNOWN {
            known.add(&Secret::new(format!("secret-number-{number:03}")));
            known.add(&Secret::new(format!("secret-number-{number:03}")));
        }
        let text = known.redactor().text("secret-number-000 secret-number-001 secret-number-064");
        assert_eq!(text, "secret-number-000 *** ***");
        assert_eq!(format!("{known:?}"), "KnownSecrets(64)");
    }

    fn any_token() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "[A-Za-z0-9._~+/=-]{8,40}",
            1 => "sk-[a-z0-9]{8,20}",
            1 => "\\*{8,12}",
            1 => "[ab*]{8,10}",
        ]
    }

    /// Text that hides secrets or nearly looks like one.
    fn any_text(secrets: Vec<String>) -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            3 => proptest::sample::select(secrets),
            3 => ".{0,6}",
            1 => "[ab*]{0,9}",
            3 => proptest::sample::select(vec![
                "Bearer ", "bearer", "sk-", "k-", "s", "api_key", "=", ": ", "\"", "\\\"", "\\", "password\":\"",
                "authorization", "://", "@", "eyJ", ".", "?key=", "ghp_", "0123456789abcdef", "T3BlbkFJ", "A_TOKEN", "\n", "access_token", "***", "data:a/b,", "\u{e9}",
            ]).prop_map(str::to_owned),
            1 => (1_usize..3000).prop_map(|length| "x".repeat(length)),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn any_case() -> impl Strategy<Value = (Vec<String>, String)> {
        proptest::collection::vec(any_token(), 1..4)
            .prop_flat_map(|secrets| (Just(secrets.clone()), any_text(secrets)))
    }

    fn any_json() -> impl Strategy<Value = (Vec<String>, Value)> {
        proptest::collection::vec(any_token(), 1..4).prop_flat_map(|secrets| {
            let text = any_text(secrets.clone()).boxed();
            let leaf = prop_oneof![
                text.clone().prop_map(Value::from),
                any::<i64>().prop_map(Value::from),
                Just(Value::Null)
            ];
            let value = leaf.prop_recursive(3, 16, 4, move |inner| {
                let name = prop_oneof![
                    text.clone(),
                    proptest::sample::select(vec!["key", "token"]).prop_map(str::to_owned)
                ];
                prop_oneof![
                    proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                    proptest::collection::vec((name, inner), 0..4)
                        .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
                ]
            });
            (Just(secrets), value)
        })
    }

    fn strings(value: &Value, all: &mut Vec<String>) {
        match value {
            Value::String(string) => all.push(string.clone()),
            Value::Array(items) => items.iter().for_each(|item| strings(item, all)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    all.push(name.clone());
                    strings(value, all);
                }
            }
            _ => all.push(value.to_string()),
        }
    }

    fn of(secrets: &[String]) -> Redactor {
        Redactor::new(&secrets.iter().map(Secret::new).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn no_secret_survives_in_text((secrets, text) in any_case()) {
            let redactor = of(&secrets);
            for output in [redactor.text(&text), redactor.string(&text), redactor.start_of_text(&text)] {
                for secret in &secrets {
                    prop_assert!(!output.contains(secret), "{output}");
                }
                prop_assert_eq!(redactor.text(&output), output);
            }
            let string = redactor.string(&text);
            prop_assert!(string.len() <= MAX_STRING);
            prop_assert_eq!(redactor.string(&string), string);
        }

        #[test]
        fn no_secret_survives_in_json((secrets, value) in any_json()) {
            let redactor = of(&secrets);
            let output = redactor.json(&value);
            let mut all = Vec::new();
            strings(&output, &mut all);
            for secret in &secrets {
                prop_assert!(!all.iter().any(|string| string.contains(secret)), "{output}");
            }
            prop_assert_eq!(redactor.json(&output), output);
        }

        #[test]
        fn no_secret_survives_in_urls_and_headers((secrets, text) in any_case(), name in "[a-z]{1,8}") {
            // A secret that begins with the slash after the host would leave no valid URL.
            prop_assume!(!secrets.iter().any(|secret| secret.starts_with('/')));
            let redactor = of(&secrets);
            let mut url = Url::parse("https://host.example/v1").unwrap();
            url.query_pairs_mut().append_pair(&name, &text).append_pair(&text, &name);
            url.set_path(&format!("/{text}/x"));
            let output = redactor.url(&url);
            let decoded = Url::parse(&output).unwrap();
            let pairs: Vec<_> = decoded.query_pairs().into_owned().collect();
            for secret in &secrets {
                prop_assert!(!output.contains(secret), "{output}");
                prop_assert!(!pairs.iter().any(|(name, value)| name.contains(secret) || value.contains(secret)));
            }
            prop_assert_eq!(redactor.url(&decoded), output);
            if let Ok(value) = HeaderValue::from_str(&text) {
                let headers: HeaderMap = [(http::HeaderName::try_from(&name).unwrap(), value)].into_iter().collect();
                let output = redactor.headers(&headers).to_string();
                for secret in secrets.iter().filter(|secret| !secret.contains('"')) {
                    prop_assert!(!output.contains(secret), "{output}");
                }
            }
        }
    }
}
