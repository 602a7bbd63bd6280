use proptest::prelude::*;
use qwen_accounts::QuotaWindow;
use serde_json::{Value, json};

use super::dialect::{Content, MAX_ERROR_BODY, ServerError};
use super::*;

/// 2026-08-04 00:00:00 UTC, a Tuesday.
const NOW: u64 = 1_785_801_600_000;
/// 2026-11-28 18:46:40 UTC.
const NOVEMBER: u64 = 1_795_891_600_000;
const MODEL: &str = "qwen3-coder-plus";

fn asked(is_key: bool) -> RequestContext<'static> {
    RequestContext { is_key, model: MODEL, now_ms: NOW }
}

fn verdict(is_key: bool, status: u16, body: &Value) -> Verdict {
    Reading::of_body(status, body.to_string().as_bytes(), &asked(is_key)).verdict
}

fn key(status: u16, code: &str, message: &str) -> Verdict {
    verdict(true, status, &json!({"error": {"code": code, "message": message}}))
}

fn login(status: u16, code: &str, message: &str) -> Verdict {
    verdict(false, status, &json!({"error": {"code": code, "message": message}}))
}

fn exhausted(window: Option<QuotaWindow>) -> Verdict {
    Verdict::QuotaExhausted { window, until: None }
}

#[test]
fn each_reported_answer_has_the_specified_verdict() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../tests/cases/answers.json")).unwrap();
    for case in &cases {
        let expect = &case["expect"];
        let until = expect["until"].as_str().unwrap_or_default();
        let now_ms = if until.starts_with("12-") { NOVEMBER } else { NOW };
        let asked = RequestContext { now_ms, ..asked(case["account"] != "login") };
        let status = u16::try_from(case["status"].as_u64().unwrap()).unwrap();
        let reading = Reading::of_body(status, case["body"].to_string().as_bytes(), &asked);
        let verdict = reading.verdict;
        let is_right = match expect["account"].as_str() {
            Some("exhausted") => matches!(verdict, Verdict::QuotaExhausted { .. }),
            Some("rate limited") if until.starts_with("1 min") => verdict == Verdict::AllocationLimit,
            Some("rate limited") => verdict == Verdict::RateLimited,
            Some("rejected") => verdict == Verdict::KeyRejected,
            Some("unpaid, again in 1 h") => verdict == Verdict::PaymentRequired,
            Some("good") if expect["model"].is_string() => verdict == Verdict::ModelUnavailable,
            Some("good") if expect["next_account"] == true => verdict == Verdict::PermissionDenied,
            Some("good") if expect["in_opencode"].is_string() => {
                verdict == Verdict::TooLong { limit: Some(1_000_000) }
            }
            Some("good") => verdict == Verdict::ContentFiltered,
            _ => verdict == Verdict::Pass,
        };
        assert!(is_right, "{case}: {verdict:?}");
        if let Verdict::QuotaExhausted { until: found, .. } = verdict {
            let is_timed = until.ends_with("UTC") || until.contains("Monday");
            assert_eq!(found.is_some(), is_timed, "{case}: {verdict:?}");
        }
        // The same error inside a success has the same verdict.
        let mut reader = AnswerReader::default();
        assert_eq!(reader.read(case["body"].to_string().as_bytes()), None);
        let Content::Error(error) = reader.end() else { panic!("{case}") };
        let inner = Reading::of_inner_error(error, &asked);
        assert_eq!((inner.verdict, inner.message()), (verdict, reading.message()), "{case}");
    }
}

#[test]
fn the_window_of_a_quota_is_read_from_the_message() {
    for (words, window) in [
        ("hour allocated quota exceeded", QuotaWindow::FiveHours),
        ("MONTH allocated quota exceeded, please wait.", QuotaWindow::Month),
        ("Your token-plan 7-day quota has been exhausted.", QuotaWindow::SevenDays),
        ("You have exceeded your 5-hour usage quota.", QuotaWindow::FiveHours),
        ("The monthly allocated quota is exceeded.", QuotaWindow::Month),
        ("Your token-plan 1-week quota has been exhausted.", QuotaWindow::SevenDays),
        ("You've reached your monthly quota.", QuotaWindow::Month),
        (
            "I'm sorry, it's so. Your 'pro' plan can't go on. Your monthly quota has been exhausted.",
            QuotaWindow::Month,
        ),
        (
            "\u{5468}\u{914d}\u{989d}\u{8d85}\u{9650}\u{ff08}month allocated quota exceeded\u{ff09}",
            QuotaWindow::Month,
        ),
    ] {
        for code in ["insufficient_quota", "Throttling.AllocationQuota", ""] {
            assert_eq!(key(429, code, words), exhausted(Some(window)), "{code} {words}");
            assert_eq!(login(403, code, words), exhausted(Some(window)), "{code} {words}");
        }
    }
    // Names, addresses and other words of a request are not limits.
    for (status, words) in [
        (400, "Invalid schema for function 'get_monthly_quota_usage': None is not of type 'object'"),
        (400, "tools.0.function.name 'weekly_quota' is duplicated"),
        (400, "the description of tool get-weekly-quota exceeds 1024 characters"),
        (400, "'weekly quota' exceeds the length of a name"),
        (400, "the month or quota must be a number"),
        (403, "the weekly quota page is not allowed as a tool"),
        (404, "url error: https://x.example/hourly-report/quota.png was not reached"),
        (400, "max_tokens exceeds the limit of 8192; this does not count against your weekly quota."),
        (
            400,
            "Input should be valid: input_value={'text': 'how do I see when my weekly quota is exhausted?'}",
        ),
        (400, "Request body exceeds 6 MB. Your monthly quota is not affected."),
        (403, "insufficient permission to read the monthly quota"),
        (400, "the file report.md exceeded the hour quota of host example.com"),
        (400, "File not found: notes about week and quota exceeded.md"),
        (400, "tool result: my weekly quota exceeded"),
        (400, "bad input {'text': 'oh, weekly quota is exhausted'}"),
        (400, "messages.2: 'please make sure your account is in good standing' is not valid"),
        (400, "Can't parse \"the bill is overdue\""),
        (403, "Unterminated string: 'free allocated quota exceeded'"),
        (400, "I can't read \"well. the weekly quota has been exhausted. ok\""),
        (403, "messages[0].content: 'invalid api key' is not allowed"),
        (403, "The prompt \"token expired\" was blocked"),
        (403, "Content 'access denied' is blocked by policy"),
        (400, "invalid text \u{300c}bill is overdue\u{300d}"),
    ] {
        for code in ["", "invalid_parameter_error"] {
            assert_eq!(
                (key(status, code, words), login(status, code, words)),
                (Verdict::Pass, Verdict::Pass),
                "{words}"
            );
        }
    }
    assert_eq!(key(429, "insufficient_quota", ""), exhausted(None));
    assert_eq!(login(429, "insufficient_quota", "You exceeded your current quota"), exhausted(None));
    assert_eq!(key(403, "insufficient_quota", "You exceeded your current quota"), exhausted(None));
    assert_eq!(verdict(false, 403, &json!({"error": {"type": "quota_exceeded"}})), exhausted(None));
    assert_eq!(verdict(false, 429, &json!({"error": "insufficient_quota"})), exhausted(None));
    assert_eq!(verdict(true, 400, &json!({"error": "Arrearage"})), Verdict::PaymentRequired);
    let spaced = "You  exceeded\u{a0}your current quota";
    assert_eq!(key(429, "insufficient_quota", spaced), Verdict::AllocationLimit);
}

#[test]
fn a_rate_limit_is_not_a_used_up_quota() {
    for (code, message) in [
        ("insufficient_quota", "concurrency allocated quota exceeded"),
        ("Throttling", ""),
        ("limit_requests", "You exceeded your current requests list."),
        ("limit_requests", "Requests rate limit exceeded. This does not affect your weekly quota."),
        ("", "concurrency allocated quota exceeded; week quota unaffected"),
        ("", "Rate limit reached. Monthly quota left: 80%"),
        ("", "Too many requests. Your hourly quota is 1000 requests."),
        ("", "whatever"),
    ] {
        assert_eq!(key(429, code, message), Verdict::RateLimited, "{code}");
    }
    assert_eq!(login(429, "Throttling.AllocationQuota", "slow"), Verdict::RateLimited);
    assert_eq!(Reading::of_body(429, b"<html>", &asked(true)).verdict, Verdict::RateLimited);
}

#[test]
fn a_refused_login_a_refused_key_and_a_permission_rule_are_distinguished() {
    assert_eq!(Reading::of_body(401, b"", &asked(false)).verdict, Verdict::TokenRejected);
    assert_eq!(Reading::of_body(401, b"", &asked(true)).verdict, Verdict::KeyRejected);
    assert_eq!(login(403, "", "Access denied."), Verdict::TokenRejected);
    assert_eq!(key(403, "", "Access denied."), Verdict::PermissionDenied);
    assert_eq!(key(403, "Workspace.AccessDenied", "no"), Verdict::PermissionDenied);
    for is_key in [false, true] {
        let denied = json!({"code": "AccessDenied", "message": "IP access denied."});
        assert_eq!(verdict(is_key, 403, &denied), Verdict::PermissionDenied);
        let other = json!({"error": {"message": "not in your region"}});
        assert_eq!(verdict(is_key, 403, &other), Verdict::Pass);
    }
    assert_eq!(login(403, "x", "Token expired"), Verdict::TokenRejected);
    assert_eq!(login(403, "Model.AccessDenied", "Model access denied."), Verdict::Pass);
}

#[test]
fn the_page_of_a_proxy_says_nothing_about_the_account() {
    for status in [401, 402] {
        for page in ["<html>Sign in</html>", "\u{feff}\n<!DOCTYPE html>", "<?xml version=\"1.0\"?>"] {
            for is_key in [false, true] {
                let reading = Reading::of_body(status, page.as_bytes(), &asked(is_key));
                assert!(reading.is_of_proxy, "{status} {page}");
                // A login is renewed once, since its token may be the reason.
                let is_login = status == 401 && !is_key;
                assert_eq!(reading.verdict == Verdict::TokenRejected, is_login, "{status} {page}");
            }
        }
    }
    let plain = Reading::of_body(401, b"<401> Incorrect API key provided.", &asked(true));
    assert_eq!(plain.verdict, Verdict::KeyRejected);
    assert_eq!(Reading::of_body(413, b"<html>", &asked(true)).verdict, Verdict::TooLong { limit: None });
}

#[test]
fn a_window_in_an_event_with_status_400_is_used_up() {
    let event = ":HTTP_STATUS/400\nevent:error\ndata:{\"message\":\"week allocated quota exceeded\"}\n\n";
    let Content::Error(error) = inner(event) else { panic!("{event}") };
    let verdict = Reading::of_inner_error(error, &asked(true)).verdict;
    assert!(
        matches!(verdict, Verdict::QuotaExhausted { window: Some(QuotaWindow::Week), .. }),
        "{verdict:?}"
    );
}

#[test]
fn a_limit_that_its_words_name_has_any_status() {
    for status in [400, 403, 404] {
        for (code, message, verdict) in [
            ("Throttling.RateQuota", "slow down", Verdict::RateLimited),
            ("limit_requests", "", Verdict::RateLimited),
            ("Throttling.AllocationQuota", "", Verdict::AllocationLimit),
            ("insufficient_quota", "Free allocated quota exceeded.", exhausted(None)),
            ("AllocationQuota.FreeTierOnly", "", exhausted(None)),
            ("", "hour allocated quota exceeded", exhausted(Some(QuotaWindow::FiveHours))),
        ] {
            assert_eq!(key(status, code, message), verdict, "{status} {code} {message}");
        }
    }
}

#[test]
fn the_words_of_an_error_are_found_wherever_they_are() {
    for (body, message) in [
        (r#"{"detail":[{"loc":["body"],"msg":"M","type":"value_error"}]}"#, "M"),
        (r#"{"detail":{"message":"M"}}"#, "M"),
        (r#"{"errors":[{"message":"M"},{"message":"N"}]}"#, "M"),
        (r#"{"errors":["M","N"]}"#, "M"),
        (r#"{"message":["M"]}"#, "M"),
        (r#"[{"error":{"message":"M"}},{"error":{"message":"N"}}]"#, "M"),
        ("{\"error\":{\"message\":\"M\"}}\ntrailing line", "M"),
        (r#"{"error":{"message":"M","type":"invalid_requ"#, "M"),
        (r#"{"error":{"message":"half a sen"#, "half a sen"),
    ] {
        let reading = Reading::of_body(400, body.as_bytes(), &asked(true));
        assert_eq!((reading.message(), reading.verdict), (message, Verdict::Pass), "{body}");
    }
}

#[test]
fn a_missing_model_and_a_missing_feature_are_distinguished() {
    for message in [
        "model 'qwen3-coder-plus' is not supported.",
        "Model qwen3-coder-plus not supported",
        "The model `QWEN3-coder-plus` does not exist or you do not have access to it.",
        "Unsupported model `qwen3-coder-plus` for OpenAI compatibility mode.",
        "No such model: qwen3-coder-plus",
        "Model not exist.",
        "<400> InternalError.Algo: The model does not exist",
        "qwen3-coder-plus is not a valid model",
        "Your plan does not support model qwen3-coder-plus.",
        "The requested model qwen3-coder-plus isn't available in your plan",
        "The qwen3-coder-plus model does not exist.",
        "The 'qwen3-coder-plus' model is not supported",
        "`qwen3-coder-plus` model not found",
        "The model 'qwen3-coder-plus' you requested does not exist",
        "Model is not found: qwen3-coder-plus",
        "Model not found. (qwen3-coder-plus)",
        "model=qwen3-coder-plus not found",
        "Invalid request: model does not exist: qwen3-coder-plus",
        "Model qwen3-coder-plus is not supported in this region.",
        "Model qwen3-coder-plus is not supported for your account",
        "Model qwen3-coder-plus is not available with your current plan",
        "The model is unavailable in the region of this workspace",
        "Sorry. Model qwen3-coder-plus does not exist. For details, see the list of models.",
        "The model qwen3-coder-plus is no longer available.",
        "Model qwen3-coder-plus has been deprecated, use qwen3.7-plus",
        "The model `qwen3-coder-plus` was retired on 2026-10-01.",
        "model qwen3-coder-plus has been taken offline",
        "This model has been discontinued.",
        "Model qwen3-coder-plus is not enabled for this workspace",
        "Model qwen3-coder-plus is not deployed.",
        "qwen3-coder-plus is not in the list of models",
        "There is no model named qwen3-coder-plus",
        "Invalid model name: qwen3-coder-plus",
        "You do not have access to model qwen3-coder-plus.",
        "You don't have permission to use the model qwen3-coder-plus",
        "This key is not authorized to access model 'qwen3-coder-plus'",
        "The supported API model names are qwen3.7-plus or glm-5, but you passed qwen3-coder-plus.",
        "Not found the model qwen3-coder-plus or Permission denied",
        "模型 qwen3-coder-plus 不存在",
        "your current token plan does not support qwen3-coder-plus",
        "model_not_supported: qwen3-coder-plus",
        "Invalid model name passed in model=qwen3-coder-plus. Call `/v1/models` to view the models.",
    ] {
        for status in [400, 404] {
            assert_eq!(
                key(status, "invalid_parameter_error", message),
                Verdict::ModelUnavailable,
                "{message}"
            );
            assert_eq!(login(status, "", message), Verdict::Pass);
        }
    }
    for message in [
        "tool_choice required is not supported by this model",
        "tools is not supported by model qwen3-coder-plus",
        "The thinking mode of model qwen3-coder-plus is not supported",
        "The thinking mode of the model is not supported",
        "Model qwen3-coder-plus does not support tool_choice",
        "model qwen3-coder-plus is not supported with tools",
        "model qwen3-coder-plus is not supported in thinking mode",
        "The model is not supported in thinking mode. Choose another one of your plan.",
        "The qwen3-coder-plus model is unsupported for tool calls",
        "Unsupported model qwen3-coder-plus for tool calls",
        "In thinking mode, the model qwen3-coder-plus is not supported",
        "Thinking with the qwen3-coder-plus model is not supported",
        "The thinking mode of the model is not supported: qwen3-coder-plus",
        "The other-model model is not supported. Use qwen3-coder-plus",
        "model other-model is not supported",
        "Model qwen3-coder-plus: unsupported parameter top_k",
        "qwen3-coder-plus: deprecated field functions",
        "Model qwen3-coder-plus is not enabled for tool calls",
        "You are not allowed to use the model qwen3-coder-plus with tools",
        "You can access model qwen3-coder-plus with a shorter input",
        "File not found",
        "The image was not found. model: qwen3-coder-plus",
        "The model is currently unavailable, please try again later",
        "Model qwen3-coder-plus is not available at the moment.",
        "messages[1].content: 'model qwen3-coder-plus does not exist' is invalid",
        "",
    ] {
        assert_eq!(key(400, "invalid_parameter_error", message), Verdict::Pass, "{message}");
    }
    assert_eq!(key(403, "Model.AccessDenied", ""), Verdict::ModelUnavailable);
    assert_eq!(key(404, "", "/v2/chat/completions not found"), Verdict::Pass);
}

#[test]
fn a_conversation_that_is_too_long_has_the_limit_of_the_message() {
    for (status, code, message, limit) in [
        (400, "", "This model's maximum context length is 131072 tokens. However, you", Some(131_072)),
        (400, "InvalidParameter", "Range of input length should be [1, 98304]", Some(98_304)),
        (400, "context_length_exceeded", "too long", None),
        (400, "", "The input token count (9) exceeds the maximum number of tokens allowed (8).", None),
        (400, "", "prompt is too long: 9 tokens > 8 maximum", None),
        (400, "", "Your input exceeds the context window of this model", None),
        (400, "RequestEntityTooLarge", "Exceeded limit on max bytes to request body: 6291456", None),
        (400, "", "Your input of 9 tokens exceeds the context window of 8192 tokens", Some(8_192)),
        (
            400,
            "",
            "OpenAIException - {\"message\": \"Range of input length should be [1, 8192]\"}",
            Some(8_192),
        ),
        (413, "", "", None),
    ] {
        assert_eq!(key(status, code, message), Verdict::TooLong { limit });
    }
    for message in [
        "Range of max_tokens should be [1, 65536]",
        "messages[0].content 'prompt is too long' is invalid",
        "Invalid value for messages[2].content: \"This model's maximum context length is 8 tokens\"",
        "tools are not available in the context window of this model",
        "max_tokens must be less than the context window of 8192",
        "Range of input length should be [1, 2048] for tool name",
    ] {
        assert_eq!(key(400, "", message), Verdict::Pass, "{message}");
    }
    assert_eq!(key(429, "Throttling", "the maximum context length is 8"), Verdict::RateLimited);
}

#[test]
fn only_client_errors_concern_the_account() {
    let quota = json!({"error": {"code": "insufficient_quota", "message": "x"}});
    for status in [200, 302, 400, 405, 500, 503] {
        assert_eq!(verdict(true, status, &quota), Verdict::Pass, "{status}");
    }
    assert_eq!(key(405, "", "Coding Plan is currently only available for Coding Agents"), Verdict::Pass);
}

fn inner(body: &str) -> Content {
    let mut reader = AnswerReader::default();
    reader.read(body.as_bytes()).unwrap_or_else(|| reader.end())
}

#[test]
fn an_error_is_found_in_every_dialect() {
    let native =
        "id:1\nevent:error\n:HTTP_STATUS/429\ndata:{\"code\":\"C\",\"message\":\"M\",\"request_id\":\"r\"}";
    for (body, status) in [
        (r#"{"error":{"code":"C","message":"M","type":"t"}}"#, None),
        (r#"{"code":"C","message":"M","request_id":"r"}"#, None),
        (r#"{"error_code":"C","error_message":"M"}"#, None),
        (r#"{"error_type":"C","error_message":"M"}"#, None),
        (r#"{"object":"error","code":"C","message":"M"}"#, None),
        (r#"{"error":"M","code":"C"}"#, None),
        (r#"{"error":"C","message":"M"}"#, None),
        (r#"{"Code":"C","Message":"M","RequestId":"r"}"#, None),
        ("\u{feff}{\"error\":{\"code\":\"C\",\"message\":\"M\"},\"choices\":null}", None),
        (native, Some(429)),
        (&native.replace("event:error", "event:result").replace("/429", "/200"), None),
        (&format!("{native}\n\n").replace('\n', "\r"), Some(429)),
        (
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\ndata: {\"error\":{\"code\":\"C\",\"message\":\"M\",\"status\":503}}\n\n",
            Some(503),
        ),
        (r#"{"object":"error","message":"M","type":"C","code":400}"#, Some(400)),
        (r#"{"success":false,"errorCode":"C","message":"M"}"#, None),
        (r#"{"status":429,"type":"C","message":"M"}"#, Some(429)),
        (r#"{"id":"r","code":"C","message":"M"}"#, None),
        (r#"{"choices":[ ],"data":{ },"code":"C","message":"M"}"#, None),
        (r#"{"error":{"error":{"code":"C","message":"M"}}}"#, None),
        (
            r#"{"error":{"status":429,"message":"bad gateway","error":{"error":{"code":"C","message":"M"}}}}"#,
            Some(429),
        ),
        (r#"{"error":{"code":"C","error":"M"}}"#, None),
        (r#"[{"error":{"code":"C","message":"M"}}]"#, None),
        ("data: [{\"error\":{\"code\":\"C\",\"message\":\"M\"}}]\n\n", None),
        (r#"{"error":{"code":"C","message":"M"},"choices":[{"message":{},"finish_reason":"error"}]}"#, None),
        ("data: {\"error\":{\"code\":\"C\",\ndata: \"message\":\"M\"}}\n\n", None),
    ] {
        let Content::Error(error) = inner(body) else { panic!("{body}") };
        let code = error.code.iter().chain(&error.kind).any(|code| code == "C");
        assert_eq!((code, error.message.as_deref(), error.status), (true, Some("M"), status), "{body}");
        // The same with an error status.
        let of_body = ServerError::of_body(body.as_bytes());
        assert_eq!((of_body.message, of_body.code), (error.message, error.code), "{body}");
    }
    for body in [
        r#"{"code":"insufficient_quota","request_id":"r"}"#,
        r#"{"code":"insufficient_quota","message":"","output":{"text":null}}"#,
        "data: {\"code\":\"insufficient_quota\",\"data\":\"x\",\"choices\":[]}\n\n",
        r#"{"error":{"code":"insufficient_quota","message":""},"choices":[]}"#,
    ] {
        let Content::Error(error) = inner(body) else { panic!("{body}") };
        assert_eq!(error.code.as_deref(), Some("insufficient_quota"), "{body}");
    }
    for body in [
        "{\"error\":\"text\"}",
        "event: error\ndata: text\n\n",
        r#"{"success":false,"message":"text"}"#,
        r#"{"status":"error","message":"text"}"#,
        "data: {\"type\":\"error\",\"message\":\"text\"}\n\n",
        r#"{"message":"text"}"#,
        "\u{feff}{\"Msg\":\"text\",\"request_id\":\"r\"}",
        r#"{"detail":"text"}"#,
    ] {
        assert!(matches!(inner(body), Content::Error(error) if error.message.as_deref() == Some("text")));
    }
}

#[test]
fn content_beside_an_error_is_not_an_error() {
    for body in [
        r#"{"error":{"code":"insufficient_quota"},"choices":[{"message":{"content":"hi"}}]}"#,
        "data: {\"error\":{\"code\":\"x\"},\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n",
        r#"{"choices":[{"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"error":null}"#,
        "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: [DONE]\n\n",
        "data: 1\n\n",
    ] {
        assert!(matches!(inner(body), Content::Answer | Content::Contradiction(_)), "{body}");
    }
    for body in [
        "",
        r#"{"choices":[{"delta":{"content":"hi"}}],"error_code":0,"error_msg":"success"}"#,
        r#"{"choices":[ ],"usage":{},"error":0}"#,
        r#"{"choices":[{"delta":{"role":"assistant"}}],"error_code":0,"error":{ }}"#,
        r#"{"output":{"text":"hi"},"code":"C","message":"M"}"#,
        r#"{"choices":[{"message":{"content":"hi"}}],"error":{"code":null,"message":"","type":""}}"#,
        r#"{"choices":[{"message":{"content":"hi"}}],"error":{"code":0,"message":"Request succeeded."}}"#,
        r#"{"choices":[{"message":{"content":"hi"}}],"error":"null"}"#,
        r#"{"choices":[],"usage":{"total_tokens":1},"code":"C"}"#,
        "{}",
        "<html>",
        ": ping\n\n",
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
        r#"{"object":"list","data":[]}"#,
        r#"{"code":"","message":"","output":{"text":"hi"}}"#,
        r#"{"code":"Success","message":"fine"}"#,
        r#"{"success":true,"status":200,"message":"fine"}"#,
        r#"{"error":{},"message":"fine"}"#,
        r#"{"message":"OK"}"#,
        r#"{"message":{"role":"assistant","content":"hi"}}"#,
        "data: {\"message\":\"text\"}\n\n",
    ] {
        assert!(!matches!(inner(body), Content::Error(_) | Content::Contradiction(_)), "{body}");
    }
}

/// Returns the verdict on an error inside a success. The window of a used-up quota stays, its end does not.
fn inner_verdict(is_key: bool, error: &Value) -> Verdict {
    let Content::Error(error) = inner(&error.to_string()) else { panic!("{error}") };
    match Reading::of_inner_error(error, &asked(is_key)).verdict {
        Verdict::QuotaExhausted { window, .. } => exhausted(window),
        other => other,
    }
}

#[test]
fn an_error_without_a_code_has_the_status_of_its_words() {
    for (message, verdict) in [
        ("You exceeded your current quota, please check your plan.", Verdict::AllocationLimit),
        ("Request rate increased too quickly.", Verdict::RateLimited),
        ("Requests were throttled", Verdict::RateLimited),
        ("week allocated quota exceeded", exhausted(Some(QuotaWindow::Week))),
        ("The free tier of the model has been exhausted.", exhausted(None)),
        ("invalid api-key", Verdict::KeyRejected),
        ("The prepaid bill is overdue.", Verdict::PaymentRequired),
        ("Your postpaid bill is overdue.", Verdict::PaymentRequired),
        ("Range of input length should be [1, 8]", Verdict::TooLong { limit: Some(8) }),
        ("The model qwen3-coder-plus does not exist", Verdict::ModelUnavailable),
        ("The token expired.", Verdict::KeyRejected),
        ("Download of the image failed: token expired", Verdict::Pass),
        ("tools is invalid", Verdict::Pass),
    ] {
        assert_eq!(inner_verdict(true, &json!({"error": {"message": message}})), verdict, "{message}");
    }
}

#[test]
fn words_about_the_account_outweigh_a_general_code_but_not_a_specific_one() {
    let spent = exhausted(Some(QuotaWindow::FiveHours));
    for (is_key, code, kind, message, verdict) in [
        (true, None, "invalid_request_error", "hour allocated quota exceeded", spent),
        (true, Some("InternalError"), "", "hour allocated quota exceeded", spent),
        (true, None, "server_error", "hour allocated quota exceeded", spent),
        (
            false,
            None,
            "invalid_request_error",
            "invalid access token or token expired",
            Verdict::TokenRejected,
        ),
        (true, None, "invalid_request_error", "Incorrect API key provided.", Verdict::KeyRejected),
        (
            true,
            Some("limit_requests"),
            "",
            "week allocated quota exceeded",
            exhausted(Some(QuotaWindow::Week)),
        ),
        (
            true,
            Some("InternalError.Algo"),
            "",
            "Range of input length should be [1, 9]",
            Verdict::TooLong { limit: Some(9) },
        ),
        (
            true,
            Some("InternalError"),
            "",
            "Access denied, please make sure your account is in good standing.",
            Verdict::PaymentRequired,
        ),
        (true, Some("server_error"), "", "Model qwen3-coder-plus not exist.", Verdict::ModelUnavailable),
        (true, None, "BadRequest", "tools[0]: rate limit is an unknown field", Verdict::Pass),
        (true, None, "BadRequest", "Access denied by the host of an image", Verdict::Pass),
        (true, None, "BadRequest", "messages[0].content: 'token expired' is invalid", Verdict::Pass),
        (true, Some("ServiceUnavailable"), "", "hour allocated quota exceeded", Verdict::Pass),
        (true, Some("model_not_found"), "invalid_request_error", "token expired", Verdict::ModelUnavailable),
        (false, Some("InvalidParameter"), "", "Could not load the image: access denied", Verdict::Pass),
    ] {
        let error = json!({"error": {"message": message, "type": kind, "param": null, "code": code}});
        assert_eq!(inner_verdict(is_key, &error), verdict, "{error}");
        let native = json!({"code": code.unwrap_or(kind), "message": message});
        assert_eq!(inner_verdict(is_key, &native), verdict, "{native}");
    }
}

#[test]
fn the_beginning_of_a_long_error_is_enough() {
    let long = "\\u00e9\\ud83d\\ude00".repeat(20_000);
    let error = r#""code":"insufficient_quota","message":"no""#;
    for (body, message) in [
        (format!(r#"{{"error":{{{error},"param":"{long}"}},"request_id":"r"}}"#), "no"),
        (format!(r#"{{"error":{{{error},"inner":{{"a":[1,{{"{long}":"#), "no"),
        (format!(r#"{{"error":{{{error},"{long}"#), "no"),
        (format!(r#"{{"error":{{{error}}},"all":[{}"#, "[1,2],".repeat(20_000)), "no"),
        (format!(r#"{{{error},"n":{}"#, "1".repeat(100_000)), "no"),
        (format!(r#"{{"error":{{"code":"insufficient_quota","message":"{long}"#), "\u{e9}\u{1f600}"),
    ] {
        for cut in 0..14 {
            let cut = &body.as_bytes()[..MAX_ERROR_BODY - cut];
            let reading = Reading::of_body(429, cut, &asked(true));
            assert!(reading.message().starts_with(message), "{}", reading.message());
            assert_eq!(reading.verdict, exhausted(None));
        }
        for chunk in [1_000, body.len()] {
            let mut reader = AnswerReader::default();
            let found = body.as_bytes().chunks(chunk).find_map(|piece| reader.read(piece));
            assert!(matches!(found, Some(Content::Error(error)) if error.code.is_some()), "{}", &body[..80]);
        }
    }
    let answer = format!(r#"{{"error":null,"choices":[{{"message":{{"content":"{long}"#);
    assert_eq!(AnswerReader::default().read(answer.as_bytes()), Some(Content::Answer));
    let event = format!("data: {{\"error\":{{{error},\"param\":\"{long}");
    assert_eq!(Reading::of_body(429, &event.as_bytes()[..MAX_ERROR_BODY], &asked(true)).message(), "no");
}

#[test]
fn bad_input_takes_bounded_memory() {
    let deep = format!(
        "{{\"error\":{{\"code\":\"insufficient_quota\",\"x\":{}1{}}}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert_eq!(Reading::of_body(429, deep.as_bytes(), &asked(true)).verdict, exhausted(None));
    let nested =
        format!(r#"{}{{"code":"insufficient_quota"}}{}"#, r#"{"error":"#.repeat(5_000), "}".repeat(5_000));
    assert_eq!(Reading::of_body(429, nested.as_bytes(), &asked(true)).code(), None);
    let long = json!({"error": {"message": "\u{e9}".repeat(60_000)}}).to_string();
    assert!(Reading::of_body(400, long.as_bytes(), &asked(true)).message().len() <= 4096);
    let cut = r#"{"error":{"code":"insufficient_quota","message":"Free allocated quota exce"#;
    assert_eq!(Reading::of_body(429, cut.as_bytes(), &asked(true)).verdict, Verdict::RateLimited);
    let invalid = Reading::of_body(400, b"{\"error\":{\"message\":\"a\xff\"}}", &asked(true));
    assert_eq!(invalid.message(), "a\u{fffd}");
    let mut endless = AnswerReader::default();
    assert_eq!(endless.read(b"{"), None);
    assert_eq!(endless.read(&vec![b' '; MAX_ERROR_BODY]), Some(Content::Answer));
    assert_eq!(Reading::of_body(400, b"plain words", &asked(true)).message(), "plain words");
    assert_eq!(Reading::of_body(403, b"<html>words</html>", &asked(true)).message(), "");
}

proptest! {
    #[test]
    fn the_content_does_not_depend_on_the_chunks(body in "(data: |event: error|:HTTP_STATUS/4|29|\\{|\\}|\"error\":|\"choices\":\\[|\\]|\"a\"|\n|\r|\u{feff}|[a-z ]){0,20}", chunk in 1_usize..9) {
        let read = |chunk: usize| {
            let mut reader = AnswerReader::default();
            let found = body.as_bytes().chunks(chunk).find_map(|piece| reader.read(piece));
            found.unwrap_or_else(|| reader.end())
        };
        prop_assert_eq!(read(chunk), read(body.len().max(1)));
    }

    #[test]
    fn any_body_has_a_verdict(status in 100_u16..600, is_key in any::<bool>(), body in proptest::collection::vec(any::<u8>(), 0..80)) {
        let reading = Reading::of_body(status, &body, &asked(is_key));
        if !(400..500).contains(&status) {
            prop_assert_eq!(reading.verdict, Verdict::Pass);
        }
    }
}
