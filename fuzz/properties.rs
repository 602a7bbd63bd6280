//! Properties of any input from outside. A property takes bytes, and panics if it does not hold. They are fuzzed, and a
//! test of the crate runs them over the corpus.

use std::collections::BTreeSet;

use qwen_accounts::{
    Document, Held, Kind, OAuthAnswer, OAuthBody, PollReply, Redemption, Token, read_device_authorization,
    read_poll, read_refresh, reconcile, recover,
};
use qwen_base::{KeyPlan, Redactor, Secret, api_base_url, display_url, is_secure, retry_after_ms};
use qwen_client::internals::{
    AnswerReader, CliEvent, CliParser, Content, EventReader, Guard, Ids, MAX_ID, MAX_IDS, Reading,
    RequestContext, Target, Verdict, candidate_endpoints, degrade_body, read_key, read_list, shape_body,
    write_prompt,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use url::Url;

/// A property under the name of its fuzz target and its corpus.
pub type Property = (&'static str, fn(&[u8]));

pub const PROPERTIES: [Property; 12] = [
    ("token_answer", token_answer),
    ("store", store),
    ("cli_output", cli_output),
    ("retry_after", retry_after),
    ("urls", urls),
    ("body", body),
    ("model_list", model_list),
    ("key", key),
    ("redaction", redaction),
    ("stream_guard", stream_guard),
    ("answer", answer),
    ("sse", sse),
];

const NOW: u64 = 1_795_531_990_000;

/// Splits the input: the first byte chooses an option, the rest is the text.
fn choice<'a, T: Copy>(of: &[T], data: &'a [u8]) -> (T, &'a [u8]) {
    match data.split_first() {
        Some((first, rest)) => (of[usize::from(*first) % of.len()], rest),
        None => (of[0], data),
    }
}

fn assert_usable(token: &Token) {
    let access = token.access_token.expose();
    assert!(!access.is_empty() && !access.chars().any(char::is_control));
    assert!(token.refresh_token.as_ref().is_none_or(|token| !token.expose().is_empty()));
    assert!(token.expires_at <= 8_640_000_000_000_000);
}

/// Only a JSON object with an `error` is a verdict, and only a usable token is a success. Messages hold no raw text of
/// the server.
pub fn token_answer(data: &[u8]) {
    let (status, bytes) = choice(&[200, 400, 401, 403, 404, 429, 500, 503, 204, 302], data);
    let answer = OAuthAnswer { status, retry_after_ms: None, body: OAuthBody::read(Some(bytes)) };
    let object: Option<Value> = serde_json::from_slice(bytes).ok().filter(Value::is_object);
    let error = object.as_ref().and_then(|object| object["error"].as_str()).filter(|error| !error.is_empty());
    match read_refresh(&answer, NOW) {
        Redemption::Redeemed(token) => {
            assert!((200..300).contains(&status) && object.is_some());
            assert_usable(&token);
        }
        Redemption::Refused(told) => {
            assert!(matches!(status, 400 | 401 | 403) && error.is_some());
            assert!(told.message().chars().all(|c| c.is_ascii() && !c.is_control()), "{}", told.message());
        }
        Redemption::Unusable(told) => assert!((200..300).contains(&status) && told.message().is_ascii()),
        Redemption::Unavailable { cause, .. } => assert!(cause.is_retryable() && cause.message().is_ascii()),
    }
    if let PollReply::Approved(token) = read_poll(&answer, NOW) {
        assert_usable(&token);
    }
    if let Ok(given) = read_device_authorization(&answer, "client", Secret::new("verifier")) {
        for address in [&given.verification_uri, &given.verification_uri_complete] {
            let url = Url::parse(address).unwrap();
            assert!(matches!(url.scheme(), "https" | "http") && url.has_host());
        }
        assert!(!given.user_code.chars().any(char::is_control));
        assert!(given.expires_in > 0.0 && given.interval >= 0.0);
    }
}

/// A readable store is written back unchanged. An unreadable one is never taken as empty, and recovered accounts are
/// whole. Migration is idempotent and loses no account.
pub fn store(data: &[u8]) {
    let recovered = recover(data);
    assert!(recovered.records.iter().all(|record| record.token().is_some()));
    let Ok(document) = Document::parse(data) else { return };
    let again = Document::parse(&document.to_json()).unwrap();
    assert_eq!(again.records.len(), document.records.len());
    assert!(again.to_json() == document.to_json(), "writing is never settled");
    for record in &document.records {
        if let Some(token) = record.token() {
            assert!(!token.access_token.expose().is_empty());
        }
        let _ = (record.label(), record.last_error(), record.created_at(), record.exhausted_until());
    }
    let held = Held {
        token: Token {
            access_token: Secret::new("access"),
            refresh_token: Some(Secret::new("refresh")),
            token_type: "Bearer".to_owned(),
            resource_url: None,
            scope: None,
            expires_at: NOW + 1,
        },
        modified_at: NOW,
        predecessors: Vec::new(),
    };
    let mut count = 0;
    let mut new_id = || {
        count += 1;
        format!("new-{count}")
    };
    let (mut once, before) = (document.clone(), document.records.len());
    reconcile(&mut once, Some(&held), None, NOW, &mut new_id);
    assert!(once.records.len() >= before);
    let ids: BTreeSet<_> = once.records.iter().map(|record| record.id().to_owned()).collect();
    assert_eq!(ids.len(), once.records.len(), "two accounts with one id");
    let mut twice = once.clone();
    let findings = reconcile(&mut twice, Some(&held), None, NOW, &mut new_id);
    assert!(findings.adopted.is_empty() && twice == once, "bringing it up to date is never settled");
}

/// Output means the same however it is cut into pieces, and nothing follows its end.
pub fn cli_output(data: &[u8]) {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut parser = CliParser::default();
        let mut events: Vec<_> = pieces.flat_map(|piece| parser.push(piece)).collect();
        events.extend(parser.end());
        assert!(parser.end().is_empty());
        events
    };
    let whole = read(&mut std::iter::once(data));
    assert_eq!(read(&mut data.chunks(1)), whole);
    assert_eq!(read(&mut data.chunks(7)), whole);
    let is_end = |event: &CliEvent| matches!(event, CliEvent::Finished(_) | CliEvent::Failed(_));
    let ends = whole.iter().filter(|event| is_end(event)).count();
    assert!(ends <= 1 && (ends == 0 || whole.last().is_some_and(is_end)));
    if let Ok(text) = write_prompt(data) {
        // The CLI would obey either of them.
        assert!(!text.contains('@') && !text.trim_start().starts_with('/'));
    }
}

/// Any `retry-after` is a time, and whole seconds are read exactly.
pub fn retry_after(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = retry_after_ms(&text, NOW);
    let digits = text.trim();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let exact = digits.parse::<u64>().ok().and_then(|seconds| seconds.checked_mul(1000));
        assert_eq!(read, Some(exact.unwrap_or(u64::MAX)));
    }
}

/// No text sends a token to a host that is not its own.
pub fn urls(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(base) = api_base_url(&text) {
        assert!(is_secure(&base) && base.username().is_empty() && base.password().is_none());
        assert!(base.query().is_none() && base.fragment().is_none());
        assert_eq!(api_base_url(base.as_str()).unwrap(), base);
        assert_eq!(api_base_url(&display_url(&base)).unwrap(), base);
    }
    let bases = ["https://portal.qwen.ai/v1", "http://127.0.0.1:8080/compatible-mode/v1"];
    let bases = bases.map(|base| Url::parse(base).unwrap());
    let own = Url::parse("https://own.example:8443/a/v1").unwrap();
    let below = format!("https://portal.qwen.ai/v1/{text}");
    for address in [&*text, &below] {
        let Ok(target) = Target::resolve(address, &bases[0], [bases[1].clone()]) else { continue };
        let asked = Url::parse(address).unwrap();
        assert!(bases.iter().any(|base| base.origin() == asked.origin()));
        let url = target.url_below(&own);
        assert_eq!(url.origin(), own.origin());
        assert!(url.path() == "/a/v1" || url.path().starts_with("/a/v1/"), "{url}");
        assert!(url.username().is_empty() && url.password().is_none());
    }
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// True for JSON with numbers that no number type holds. They are passed on unchanged.
fn has_huge_numbers(data: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(data).is_ok() && serde_json::from_slice::<Value>(data).is_err()
}

/// A body stays JSON, shaping and degrading are idempotent, and other fields stay unchanged.
pub fn body(data: &[u8]) {
    let ids = Ids { session_id: "session".to_owned(), prompt_id: "prompt".to_owned() };
    let plan = Kind::Key(Some(KeyPlan::TokenPlan));
    for (ids, kind) in [(None, plan), (Some(&ids), plan), (Some(&ids), Kind::Key(None))] {
        let Some(shaped) = shape_body(data, ids, kind) else { continue };
        if has_huge_numbers(data) {
            assert!(serde_json::from_slice::<&RawValue>(&shaped.bytes).is_ok());
            continue;
        }
        let (before, after) = (parsed(data), parsed(&shaped.bytes));
        let own = [
            "max_tokens",
            "max_completion_tokens",
            "messages",
            "tools",
            "metadata",
            "vl_high_resolution_images",
        ];
        for (name, value) in before.as_object().unwrap() {
            if !own.contains(&name.as_str()) {
                assert_eq!(&after[name], value, "{name}");
            }
        }
        assert_eq!(shaped.stream, before["stream"] == Value::Bool(true));
        let again = shape_body(&shaped.bytes, ids, kind).unwrap();
        assert_eq!(parsed(&again.bytes), after, "shaping is never settled");
    }
    if let Some(small) = degrade_body(data).map(|degraded| degraded.body).filter(|_| !has_huge_numbers(data))
    {
        let (before, after) = (parsed(data), parsed(&small));
        assert_eq!((&before["tools"], &before["stream"]), (&after["tools"], &after["stream"]));
        let (all, kept) = (before["messages"].as_array().unwrap(), after["messages"].as_array().unwrap());
        assert!(!kept.is_empty() && kept.len() <= all.len());
        assert_eq!(kept.last(), all.last());
        assert_eq!(parsed(&degrade_body(&small).unwrap().body), after, "degrading is never settled");
    }
}

/// Prefixes of other makers' secrets.
const OTHER_MAKERS: [&str; 8] =
    ["sk-ant-", "sk-proj-", "sk-or-", "ghp_", "github_pat_", "AKIA", "AIza", "eyJ"];
/// Texts around a copied key.
const AROUND: [(&str, &str); 8] = [
    (" ", "\r\n"),
    ("Bearer ", ""),
    ("Authorization: Bearer ", ""),
    ("export DASHSCOPE_API_KEY='", "'"),
    ("\u{201c}", "\u{201d}"),
    ("\"apiKey\": \"", "\","),
    ("\u{200b}", "\u{2060}"),
    ("<", ">;"),
];

/// Reading a key either succeeds or refuses. The key is a part of the text, and only Alibaba's form goes to Alibaba's
/// endpoints. A key is found inside the text it was copied with, and another maker's secret never passes.
pub fn key(data: &[u8]) {
    let ((before, after), data) = choice(&AROUND, data);
    let (maker, data) = choice(&OTHER_MAKERS, data);
    let text = String::from_utf8_lossy(data);
    let places = |text: &str| {
        let mut notes = Vec::new();
        let key = read_key(text, &mut notes).ok()?;
        candidate_endpoints(&key, None, None, None, &mut notes).ok()?;
        Some(key.expose().to_owned())
    };
    if let Some(key) = places(&text) {
        assert!(key.starts_with("sk-") && key.bytes().all(|byte| byte.is_ascii_graphic()), "{key}");
        assert!(OTHER_MAKERS.iter().all(|maker| !key.starts_with(maker)), "{key}");
        assert_eq!(places(&key).as_deref(), Some(key.as_str()), "it does not read as itself");
    }
    let word: String = text.chars().filter(char::is_ascii_alphanumeric).take(100).collect();
    let key = format!("sk-sp-a0{word}");
    assert_eq!(places(&format!("{before}{key}{after}")), Some(key));
    let foreign = format!("{maker}a0{word}.b.c");
    assert_eq!(places(&format!("{before}{foreign}{after}")), None);
}

/// A model list holds valid ids, each once. Reading one never fails.
pub fn model_list(data: &[u8]) {
    let Some(list) = read_list(data) else { return };
    assert!(!list.models.is_empty() && list.models.len() <= MAX_IDS);
    assert!(list.models.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(list.models.iter().all(|id| id.len() <= MAX_ID && !id.contains(char::is_control)));
    let body = json!({"data": list.models.iter().map(|id| json!({"id": id})).collect::<Vec<_>>()});
    assert_eq!(read_list(body.to_string().as_bytes()).unwrap().models, list.models);
}

/// No output holds a known secret.
pub fn redaction(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let secret = Secret::new("plum-tree-in-april");
    let redactor = Redactor::new([&secret]);
    let middle = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= text.len() / 2).last();
    let (start, end) = text.split_at(middle.unwrap_or(0));
    for text in [text.clone().into_owned(), format!("{start}{}{end}", secret.expose())] {
        let clean = redactor.text(&text);
        assert!(!clean.contains(secret.expose()), "{clean}");
        assert!(!redactor.string(&text).contains(secret.expose()));
        assert!(!redactor.field("note", &text).contains(secret.expose()));
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            assert!(!redactor.json(&value).to_string().contains(secret.expose()));
        }
    }
}

/// A stream passes on the same events and the same end however it is cut into pieces. Only whole events pass.
pub fn stream_guard(data: &[u8]) {
    let pass = |size: usize| {
        let mut guard = Guard::default();
        let mut passed = Vec::new();
        for chunk in data.chunks(size) {
            passed.extend_from_slice(&guard.pass(chunk.to_vec().into()));
            if guard.has_failed() {
                break;
            }
        }
        let (rest, end) = guard.end(None);
        let end = end.map_err(|error| error.message().to_owned());
        passed.extend_from_slice(&rest);
        assert!(passed.is_empty() || passed.ends_with(b"\n"));
        (passed, end.err(), guard.take_server_error(), guard.has_said_something())
    };
    let whole = pass(data.len().max(1));
    assert!(pass(1) == whole && pass(13) == whole, "the pieces make a difference");
}

/// An answer means the same however it is cut into pieces, and only a refusal is about the account.
pub fn answer(data: &[u8]) {
    let (status, body) = choice(&[200, 400, 401, 402, 403, 404, 405, 413, 429, 500, 503, 302], data);
    for asked in [true, false].map(|is_key| RequestContext { is_key, model: "qwen3-coder-plus", now_ms: NOW })
    {
        let reading = Reading::of_body(status, body, &asked);
        assert!(reading.message().len() <= 4096);
        if !(400..500).contains(&status) {
            assert_eq!(reading.verdict, Verdict::Pass);
        }
        let read = |size: usize| {
            let mut reader = AnswerReader::default();
            let found = body.chunks(size).find_map(|piece| reader.read(piece));
            match found.unwrap_or_else(|| reader.end()) {
                Content::Error(error) => Some(Reading::of_inner_error(error, &asked)),
                _ => None,
            }
        };
        let whole = read(body.len().max(1));
        assert!(read(1) == whole && read(13) == whole, "the pieces make a difference");
        for reading in whole.iter().chain([&reading]) {
            if let Verdict::QuotaExhausted { until: Some(until), .. } = reading.verdict {
                assert!(until > NOW && until - NOW <= 31 * 24 * 3_600_000);
            }
        }
    }
}

/// A stream has the same events however it is cut into pieces.
pub fn sse(data: &[u8]) {
    let read = |size: usize| {
        let (mut reader, mut events) = (EventReader::default(), Vec::new());
        for piece in data.chunks(size) {
            reader.read(piece, |event| events.push(event));
        }
        reader.end(|event| events.push(event));
        assert!(events.iter().map(|event| event.data.len()).sum::<usize>() <= data.len());
        events
    };
    let whole = read(data.len().max(1));
    assert!(read(1) == whole && read(13) == whole, "the pieces make a difference");
}
