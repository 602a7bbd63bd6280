use proptest::prelude::*;

use serde_json::{Value, json};

use super::*;
use crate::verdict::{Reading, RequestContext, Verdict};

struct GuardedStream {
    out: String,
    problem: Option<String>,
    server_error: Option<ServerError>,
    is_over: bool,
}

/// Passes a stream through a guard in chunks.
fn run(stream: &[u8], chunk: usize) -> GuardedStream {
    let mut guard = Guard::default();
    let mut out = Vec::new();
    for bytes in stream.chunks(chunk.max(1)) {
        out.extend_from_slice(&guard.pass(Bytes::copy_from_slice(bytes)));
        if guard.has_failed() {
            break;
        }
    }
    let is_over = guard.is_over();
    let (rest, end) = guard.end(None);
    out.extend_from_slice(&rest);
    let problem = end.err().map(|error| error.message().replace('\u{2060}', ""));
    let out = String::from_utf8_lossy(&out).into_owned();
    GuardedStream { out, problem, server_error: guard.take_server_error(), is_over }
}

fn events(out: &str) -> Vec<Value> {
    out.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect()
}

fn text(out: &str) -> String {
    let events = events(out);
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

fn reasons(out: &str) -> Vec<String> {
    let events = events(out);
    let reasons = events.iter().filter_map(|event| event["choices"][0]["finish_reason"].as_str());
    reasons.map(str::to_owned).collect()
}

const GOOD: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[],\"usage\":{}}\n\ndata: [DONE]\n\n";

const GOOD_CALL: &str = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"1\"}}]}}]}\n\n";

fn event(choice: &str) -> String {
    format!("data: {{\"choices\":[{choice}]}}\n\n")
}

#[test]
fn each_reported_stream_ends_as_specified() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../../tests/cases/streams.json")).unwrap();
    for case in &cases {
        let (name, body) = (&case["name"], case["body"].as_str().unwrap());
        for chunk in [1, 7, body.len()] {
            let ended = run(body.as_bytes(), chunk);
            let problem = ended.problem.as_deref();
            match case["expect"]["outcome"].as_str().unwrap() {
                "an error with the code and message of the text" => {
                    let words =
                        "Qwen ended its answer with an error: Requests rate limit exceeded (Throttling)";
                    assert_eq!((problem, text(&ended.out).as_str()), (Some(words), ""));
                    assert_eq!(ended.server_error.unwrap().status, Some(429));
                }
                "an error with the server's words" => {
                    let body = ServerError::of_body(body.as_bytes());
                    assert!(
                        problem.is_some_and(|words| words.contains(&body.message.unwrap()))
                            || body.code.is_none(),
                        "{name}"
                    );
                }
                "exhausted, next account answers" => {
                    let context = RequestContext { is_key: true, model: "m", now_ms: 0 };
                    let reading = Reading::of_inner_error(ended.server_error.unwrap(), &context);
                    assert!(matches!(reading.verdict, Verdict::QuotaExhausted { .. }), "{name}");
                    assert_eq!(reading.status, 429);
                }
                "error" => {
                    assert!(
                        problem.is_some_and(|words| words.starts_with("Qwen broke its answer off (")),
                        "{name}"
                    );
                    assert_eq!(text(&ended.out), "half an answer");
                }
                outcome => {
                    assert_eq!(problem, None, "{name}");
                    let reason = outcome.strip_prefix("ends as ").unwrap_or("stop");
                    assert_eq!(reasons(&ended.out), [reason], "{name}");
                    let said = ["half an answer", "I will look.", "fine", "all at once"];
                    assert!(said.contains(&text(&ended.out).as_str()), "{name}: {}", ended.out);
                    assert!(ended.out.ends_with("data: [DONE]\n\n"), "{name}: {}", ended.out);
                }
            }
        }
    }
}

#[test]
fn each_finish_reason_has_one_end() {
    const UNFINISHED: &str = "Qwen ended its answer without finishing it. Send the message again.";
    let end = |reason: &str| event(&format!(r#"{{"delta":{{}},"finish_reason":{reason}}}"#));
    for (content, reason, expected) in [
        ("hi", r#""stop""#, Ok("stop")),
        ("hi", r#""length""#, Ok("length")),
        ("hi", r#""content_filter""#, Ok("content_filter")),
        ("hi", r#""max_tokens""#, Ok("length")),
        ("hi", "null", Err(UNFINISHED)),
        ("hi", r#""""#, Err(UNFINISHED)),
        ("hi", r#""error_finish""#, Err("Qwen broke its answer off (error_finish). Send the message again.")),
        ("hi", r#""error""#, Err("Qwen broke its answer off (error). Send the message again.")),
        (
            "hi",
            r#""network_error""#,
            Err("Qwen broke its answer off (network_error). Send the message again."),
        ),
        (
            "hi",
            r#""repetition_truncation""#,
            Err("Qwen broke its answer off (repetition_truncation). Send the message again."),
        ),
        ("", r#""eos""#, Err("Qwen broke its answer off (eos). Send the message again.")),
        ("", "null", Err("Qwen sent an empty answer. Send the message again.")),
    ] {
        let said = event(&format!(r#"{{"delta":{{"role":"assistant","content":"{content}"}}}}"#));
        let ended = run(format!("{said}{}data: [DONE]\n\n", end(reason)).as_bytes(), 30);
        match expected {
            Ok(shown) => {
                assert_eq!((reasons(&ended.out), ended.problem), (vec![shown.to_owned()], None), "{reason}");
            }
            Err(problem) => assert_eq!(ended.problem.as_deref(), Some(problem), "{reason}"),
        }
    }
}

#[test]
fn a_good_stream_is_passed_on_unchanged_and_without_a_copy() {
    for chunk in 1..GOOD.len() {
        let ended = run(GOOD.as_bytes(), chunk);
        assert_eq!((ended.out.as_str(), ended.problem), (GOOD, None));
    }
    let bytes = Bytes::from_static(GOOD.as_bytes());
    assert_eq!(Guard::default().pass(bytes.clone()).as_ptr(), bytes.as_ptr());
}

#[test]
fn nothing_is_passed_on_after_done() {
    let ended = run(format!("{GOOD}data: {{\"error\":1}}\n\n").as_bytes(), 9);
    assert_eq!((ended.out.as_str(), ended.is_over, ended.problem), (GOOD, true, None));
    assert_eq!(run(GOOD.trim_end().as_bytes(), 5).out, GOOD);
}

#[test]
fn all_line_ends_become_lf() {
    for end in ["\r", "\r\n"] {
        let stream = format!("\u{feff}{}", GOOD.replace('\n', end));
        for chunk in [1, 4, stream.len()] {
            assert_eq!(run(stream.as_bytes(), chunk).out, GOOD, "{end:?}");
        }
    }
}

#[test]
fn an_empty_or_cut_stream_ends_with_an_error() {
    assert!(run(b"data: [DONE]\n\n", 3).problem.is_some());
    assert!(run(b"", 1).problem.is_some());
    assert!(run(b"{\"no\":\"answer\"}", 4).problem.is_some());
    let ended = run(&GOOD.as_bytes()[..100], 7);
    assert!(ended.problem.is_some() && ended.out.ends_with('\n'));
    assert!(run(event(r#"{"delta":{},"finish_reason":"eos"}"#).as_bytes(), 9).problem.is_some());
}

#[test]
fn a_problem_has_one_piece_of_advice_and_no_retry_word() {
    let mut guard = Guard::default();
    assert_eq!(guard.problem(None).message(), "Qwen sent an empty answer. Send the message again.");
    guard.pass(Bytes::from_static(&GOOD.as_bytes()[..150]));
    assert_eq!(
        guard.problem(None).message(),
        "Qwen ended its answer without finishing it. Send the message again."
    );
    let failure = Error::new(Code::Network, "The connection to qwen.ai broke: timed out. Try again.");
    let error = guard.end(Some(&failure)).1.unwrap_err();
    assert_eq!(error.code(), Code::Network);
    assert_eq!(
        error.message().replace('\u{2060}', ""),
        "The connection to qwen.ai broke: timed out. Send the message again."
    );
    assert!(!error.message().contains("timed out"));
}

#[test]
fn reasoning_a_tool_call_or_an_error_counts_as_content() {
    for event in [
        r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f"}}]}}]}"#,
        r#"{"error":{"message":"no"}}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
    ] {
        let mut guard = Guard::default();
        guard.pass(format!("data: {event}\r\n\r\n").into());
        assert!(guard.has_said_something(), "{event}");
    }
    let mut guard = Guard::default();
    guard.pass(Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\"\",\"role\":\"assistant\"},\"finish_reason\":null}]}\n\n"));
    assert!(!guard.has_said_something());
}

#[test]
fn a_quoted_finish_reason_is_not_an_end() {
    let said = event(r#"{"delta":{"content":"hi"},"finish_reason":null}"#);
    let quoted = event(r#"{"delta":{"content":"\"finish_reason\":\"stop\""},"finish_reason" : null}"#);
    for (end, is_end) in [
        (event(r#"{"delta":{},"finish_reason": "stop"}"#), true),
        (event(r#"{"finish_reason":null},{"finish_reason":"stop"}"#), true),
        ("data: {\"error\":null,\"choices\":[]}\n\n".to_owned(), false),
        (event(r#"{"delta":{"content":"error"},"finish_reason":null}"#), false),
    ] {
        let stream = format!("{said}{quoted}{end}");
        assert_eq!(run(stream.as_bytes(), stream.len()).problem.is_none(), is_end, "{end}");
    }
}

#[test]
fn a_long_event_in_single_bytes_takes_linear_time() {
    // In quadratic time this would take an hour.
    let long =
        event(&format!(r#"{{"delta":{{"content":"{}"}},"finish_reason":"stop"}}"#, "x".repeat(2_000_000)));
    let ended = run(long.as_bytes(), 1);
    assert_eq!((ended.out.len(), ended.problem), (long.len(), None));
    let endless = vec![b'x'; MAX_LINE + 1];
    assert!(run(&[GOOD.as_bytes(), b"data: ", endless.as_slice()].concat(), 50_000).problem.is_none());
    let ended = run(&[event(r#"{"delta":{"content":"a"}}"#).as_bytes(), endless.as_slice()].concat(), 50_000);
    assert_eq!(ended.problem.as_deref(), Some("Qwen sent an event that is too large."));
}

#[test]
fn a_tool_call_after_text_allows_the_finish_reason_tool_calls() {
    let said = event(r#"{"delta":{"content":"hi"}}"#);
    let call =
        event(r#"{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":""}}]}}"#);
    let no_call = event(r#"{"delta":{"content":"tool_calls _call","tool_calls":null}}"#);
    let end = event(r#"{"delta":{},"finish_reason":"tool_calls"}"#);
    assert_eq!(reasons(&run(format!("{said}{call}{end}").as_bytes(), 50).out), ["tool_calls"]);
    assert_eq!(reasons(&run(format!("{said}{no_call}{end}").as_bytes(), 50).out), ["stop"]);
}

#[test]
fn an_error_in_the_middle_is_reported_in_the_servers_words() {
    let said = event(r#"{"delta":{"content":"half"}}"#);
    for (error, words) in [
        ("event:error\n:HTTP_STATUS/400\ndata:{\"code\":\"C\",\"message\":\"no\"}\n\n", "no (C)"),
        ("data: {\"error\":{\"message\":\"no\"}}\n\n", "no"),
        ("data: {\"choices\":[],\"code\":\"C\",\"message\":\"no\",\"request_id\":\"r\"}\n\n", "no (C)"),
        ("data: {\"choices\":[ ],\"error_code\":\"C\",\"error_message\":\"no\"}\n\n", "no (C)"),
        ("data: {\"object\":\"error\",\"choices\":[],\"code\":\"C\",\"message\":\"no\"}\n\n", "no (C)"),
        ("data: {\"choices\":[{\"index\":0}],\"error_code\":\"C\",\"error_msg\":\"no\"}\n\n", "no (C)"),
        ("data: {\"error\":{\"message\":\"no\"},\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n", "no"),
        ("data: {\"error\":{\"message\":\"no\"},\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n", "no"),
    ] {
        let ended = run(format!("{said}{error}data: [DONE]\n\n").as_bytes(), 5);
        assert_eq!(ended.problem, Some(format!("Qwen ended its answer with an error: {words}")));
        assert_eq!(text(&ended.out), "half");
        // An error beside content is not a verdict about the account.
        assert_eq!(ended.server_error.is_some(), !error.contains("delta"));
    }
    let parts = r#"{"delta":{"content":[{"type":"text","text":"event:error\ndata:{\"code\":\"C\",\"message\":\"no\"}"}]},"finish_reason":"error_finish"}"#;
    let ended = run(format!("{said}{}", event(parts)).as_bytes(), 64);
    assert_eq!(ended.problem.as_deref(), Some("Qwen ended its answer with an error: no (C)"));
    let block = r#"{"delta":{"content":"half {event: error\n:HTTP_STATUS/503\ndata: {\"code\":\"C\","}}"#;
    let rest = r#"{"delta":{"content":"\"message\":\"no\"}"},"finish_reason":"error_finish"}"#;
    let ended = run(format!("{}{}", event(block), event(rest)).as_bytes(), 64);
    assert_eq!(ended.problem.as_deref(), Some("Qwen ended its answer with an error: no (C)"));
    assert_eq!(ended.server_error.unwrap().status, Some(503));
}

#[test]
fn an_error_block_is_held_back_until_the_next_event() {
    let said = event(r#"{"delta":{"content":"half"}}"#);
    let block = event(
        r#"{"delta":{"content":"event:error\n:HTTP_STATUS/429\ndata:{\"code\":\"C\",\"message\":\"no\"}"}}"#,
    );
    let more = event(r#"{"delta":{"content":"more"}}"#);
    let end = |reason: &str| event(&format!(r#"{{"delta":{{}},"finish_reason":"{reason}"}}"#));
    let error = Some("Qwen ended its answer with an error: no (C)");
    for (rest, problem, kept) in [
        (end("error_finish"), error, said.clone()),
        (end("error"), error, said.clone()),
        (end("abort"), error, said.clone()),
        (end("network_error"), error, said.clone()),
        (format!("data: ping\n\n{}", end("error_finish")), error, said.clone()),
        ("data: [DONE]\n\n".to_owned(), error, said.clone()),
        (String::new(), error, said.clone()),
        // Here the model wrote the block.
        (format!("{more}{}", end("stop")), None, format!("{said}{block}{more}{}", end("stop"))),
        (format!("{block}{}", end("stop")), None, format!("{said}{block}{block}{}", end("stop"))),
    ] {
        let stream = format!("{said}{block}{rest}");
        for chunk in [1, 50, stream.len()] {
            let ended = run(stream.as_bytes(), chunk);
            assert_eq!((ended.problem.as_deref(), &ended.out), (problem, &kept), "{rest}");
        }
    }
}

#[test]
fn an_error_after_a_good_end_is_ignored() {
    let good = format!(
        "{}{}",
        event(r#"{"delta":{"content":"hi"}}"#),
        event(r#"{"delta":{},"finish_reason":"stop"}"#)
    );
    let quota = "data: {\"error\":{\"code\":\"insufficient_quota\",\"message\":\"no\"}}\n\n".to_owned();
    for (late, is_noted) in [
        (quota, true),
        ("event:error\n:HTTP_STATUS/500\ndata:{\"code\":\"C\",\"message\":\"no\"}\n\n".to_owned(), true),
        (event(r#"{"delta":{},"finish_reason":"error"}"#), false),
        (event(r#"{"delta":{},"finish_reason":"stop"},{"delta":{},"finish_reason":"abort"}"#), false),
    ] {
        let ended = run(format!("{good}{late}data: [DONE]\n\n").as_bytes(), 9);
        assert_eq!((ended.problem, ended.out), (None, format!("{good}data: [DONE]\n\n")), "{late}");
        assert_eq!(ended.server_error.is_some(), is_noted, "{late}");
    }
    let both = event(r#"{"delta":{},"finish_reason":"stop"},{"delta":{},"finish_reason":"abort"}"#);
    assert!(run(both.as_bytes(), 9).problem.is_some());
}

#[test]
fn a_tool_call_that_the_host_ignores_does_not_count() {
    let said = event(r#"{"delta":{"content":"hi"}}"#);
    for (delta, reason) in [
        (r#"{"function_call":{"name":"f","arguments":"{}"}}"#, "stop"),
        (r#"{"tool_calls":{}}"#, "stop"),
        (r#"{"tool_calls":[]}"#, "stop"),
        (r#"{"content":"x","tool_calls":[{}]}"#, "stop"),
        (r#"{"tool_calls":[{"index":0,"id":"","function":{"name":"","arguments":""}}]}"#, "stop"),
        (r#"{"tool_calls":{"index":0,"function":{"name":"f"}}}"#, "tool_calls"),
    ] {
        for end in ["tool_calls", "function_call"] {
            let end = event(&format!(r#"{{"delta":{{}},"finish_reason":"{end}"}}"#));
            let call = event(&format!(r#"{{"delta":{delta}}}"#));
            for stream in [format!("{said}{call}{end}"), format!("{call}{end}")] {
                let ended = run(stream.as_bytes(), 11);
                assert_eq!((reasons(&ended.out), ended.problem), (vec![reason.to_owned()], None), "{delta}");
                assert!(!ended.out.contains(r#""tool_calls":{"#));
            }
        }
    }
}

#[test]
fn a_tool_call_without_a_name_ends_the_answer_with_an_error() {
    let said = event(r#"{"delta":{"content":"hi"}}"#);
    let rest =
        event(r#"{"delta":{"tool_calls":[{"index":0,"function":{"name":"f"}}]},"finish_reason":"stop"}"#);
    for call in [
        r#"[{"index":0,"id":"x","function":{"arguments":"{}"}}]"#,
        r#"[{"index":0,"id":"x","function":{"name":null,"arguments":""}}]"#,
        r#"{"id":"x"}"#,
        r#"[{"index":2,"id":"w","function":{"name":"f"}},{"index":1,"id":"x","function":{}}]"#,
    ] {
        let call =
            event(&format!(r#"{{"delta":{{"tool_calls":{call}}}}}"#)).replace(r#""index":0"#, r#""index":7"#);
        for begun in ["", &said, &format!("{GOOD_CALL}{GOOD_CALL}")] {
            let ended = run(format!("{begun}{call}{rest}").as_bytes(), 30);
            let problem = "Qwen sent a tool call without a name. Send the message again.";
            assert_eq!((ended.problem.as_deref(), ended.out.as_str()), (Some(problem), begun), "{call}");
        }
    }
}

#[test]
fn the_pieces_of_a_tool_call_and_the_next_calls_are_corrected() {
    let end = event(r#"{"delta":{},"finish_reason":"tool_calls"}"#);
    let named = |call: &str| format!(r#"[{{{call},"function":{{"name":"g"}}}}]"#);
    for (calls, corrected) in [
        ("[{}]", r#"[{"function":{},"index":0}]"#.to_owned()),
        (r#"[{"index":0,"id":"a"}]"#, r#"[{"index":0,"id":"a","function":{}}]"#.to_owned()),
        (r#"[{"index":0,"function":null}]"#, r#"[{"index":0,"function":{}}]"#.to_owned()),
        (
            r#"[{"index":0,"function":{}},{}]"#,
            r#"[{"index":0,"function":{}},{"function":{},"index":0}]"#.to_owned(),
        ),
        (r#"[{"index":0,"function":{}},null]"#, r#"[{"index":0,"function":{}}]"#.to_owned()),
        (r#"[{"index":0,"extra_content":"","function":{}}]"#, r#"[{"index":0,"function":{}}]"#.to_owned()),
        (r#"[{"index":1,"id":"","function":{"name":"","arguments":""}}]"#, "[]".to_owned()),
        (
            r#"[{"index":1,"function":{"name":"g"}}]"#,
            r#"[{"index":1,"function":{"name":"g"},"id":"call_1"}]"#.to_owned(),
        ),
        (
            r#"[{"index":1,"id":"b","function":{"name":7}}]"#,
            r#"[{"index":1,"id":"b","function":{"name":"7"}}]"#.to_owned(),
        ),
        (&named(r#""id":"b""#), r#"[{"id":"b","function":{"name":"g"},"index":1}]"#.to_owned()),
        (&named(r#""index":1,"id":"b""#), named(r#""index":1,"id":"b""#)),
    ] {
        let odd = event(&format!(r#"{{"delta":{{"tool_calls":{calls}}}}}"#));
        for before in [1, 3] {
            let stream = format!("{}{odd}{GOOD_CALL}{end}", GOOD_CALL.repeat(before));
            for chunk in [1, 33, stream.len()] {
                let ended = run(stream.as_bytes(), chunk);
                let found = events(&ended.out)[before]["choices"][0]["delta"]["tool_calls"].to_string();
                assert_eq!((found, ended.problem), (corrected.clone(), None));
            }
        }
    }
}

#[test]
fn an_event_may_have_several_lines_invalid_utf8_or_deep_json() {
    let said = event(r#"{"delta":{"content":"hi"}}"#);
    let deep = format!("{}1{}", "[".repeat(1_000), "]".repeat(1_000));
    let deep = event(&format!(r#"{{"delta":{{"x":{deep}}},"finish_reason":"eos"}}"#));
    let events: [&[u8]; 3] = [
        b"data: {\"choices\":[{\"delta\":{},\ndata: \"finish_reason\":\"eos\"}]}\n\n",
        b"data: {\"choices\":[{\"delta\":{\"content\":\"\xff\"},\"finish_reason\":\"eos\"}]}\n\n",
        deep.as_bytes(),
    ];
    for end in events {
        let stream = [said.as_bytes(), end, b"data: [DONE]\n\n"].concat();
        for chunk in [1, 40, stream.len()] {
            let ended = run(&stream, chunk);
            assert_eq!((reasons(&ended.out), ended.problem), (vec!["stop".to_owned()], None));
            assert!(ended.is_over);
        }
    }
    let many = format!("{said}{}", "data: x\n".repeat(MAX_LINE / 8 + 1));
    assert_eq!(
        run(many.as_bytes(), 50_000).problem.as_deref(),
        Some("Qwen sent an event that is too large.")
    );
}

#[test]
fn events_that_the_host_refuses_are_corrected() {
    let said = event(r#"{"delta":{"content":"hi"}}"#);
    let parts = event(r#"{"delta":{"content":[{"type":"text","text":" you"},{"type":"text","text":"!"}]}}"#);
    let end = event(r#"{"delta":{},"finish_reason":"stop"}"#);
    for usage in [r#"{"choices":null,"usage":{"total_tokens":1}}"#, r#"{"usage":{"total_tokens":1}}"#] {
        let ended = run(format!("{said}{parts}{end}data: {usage}\n\n").as_bytes(), 30);
        assert_eq!(text(&ended.out), "hi you!");
        let last = events(&ended.out).pop().unwrap();
        assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(1)));
    }
}

#[test]
fn a_field_that_the_host_refuses_is_corrected_wherever_it_comes() {
    let cases = [
        (
            r#"{"choices":[{"delta":{"role":"","content":"x"}}]}"#,
            r#"{"choices":[{"delta":{"content":"x"}}]}"#,
        ),
        (
            r#"{"choices":[{"delta":{"content":"x","role":"tool"}}]}"#,
            r#"{"choices":[{"delta":{"content":"x"}}]}"#,
        ),
        (r#"{"choices":[{"delta":{}}],"usage":""}"#, r#"{"choices":[{"delta":{}}]}"#),
        (r#"{"choices":[{"delta":{}}],"usage":[]}"#, r#"{"choices":[{"delta":{}}]}"#),
        (
            r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":"12","total_tokens":" 1.5","completion_tokens":"x","prompt_tokens_details":{"cached_tokens":"3"},"completion_tokens_details":""}}"#,
            r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":12,"total_tokens":1.5,"prompt_tokens_details":{"cached_tokens":3}}}"#,
        ),
        (r#"{"created":"1700","choices":[{"delta":{}}]}"#, r#"{"created":1700,"choices":[{"delta":{}}]}"#),
        (r#"{"created":"soon","choices":[{"delta":{}}]}"#, r#"{"choices":[{"delta":{}}]}"#),
        (
            r#"{"id":7,"model":3.5,"choices":[{"delta":{}}]}"#,
            r#"{"id":"7","model":"3.5","choices":[{"delta":{}}]}"#,
        ),
        (r#"{"choices":[null,{"delta":{"content":"x"}}]}"#, r#"{"choices":[{"delta":{"content":"x"}}]}"#),
        (r#"{"choices":[{"delta":{"content":"x"}}, null]}"#, r#"{"choices":[{"delta":{"content":"x"}}]}"#),
        (r#"{"choices":{"delta":{"content":"x"}}}"#, r#"{"choices":[{"delta":{"content":"x"}}]}"#),
        (r#"[{"choices":[{"delta":{"content":"x"}}]}]"#, r#"{"choices":[{"delta":{"content":"x"}}]}"#),
        (r#"{"choices":[{"message":{"content":"x"}}]}"#, r#"{"choices":[{"delta":{"content":"x"}}]}"#),
        (r#"{"choices":[{"delta":"x"}]}"#, r#"{"choices":[{"delta":{"content":"x"}}]}"#),
        (r#"{"choices":[{"delta":{"content":{"text":"x"}}}]}"#, r#"{"choices":[{"delta":{"content":"x"}}]}"#),
        (r#"{"choices":[{"delta":{"content":5}}]}"#, r#"{"choices":[{"delta":{"content":"5"}}]}"#),
        (r#"{"choices":[{"delta":{"content":true}}]}"#, r#"{"choices":[{"delta":{}}]}"#),
        (r#"{"choices":[{"delta":{"reasoning_content":{}}}]}"#, r#"{"choices":[{"delta":{}}]}"#),
        (
            r#"{"choices":[{"delta":{"tool_calls":[{"index":"0","id":"c","function":{"name":"f","arguments":{"a":["\ud83d"]}}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{\"a\":[\"\\ud83d\"]}"}}]}}]}"#,
        ),
        (
            r#"{"id":"chatcmpl-0123456789ab","choices":[{"delta":{"tool_calls":[{"function":{"name":"f"}},{"id":"","function":{"name":"g"}}]}}]}"#,
            r#"{"id":"chatcmpl-0123456789ab","choices":[{"delta":{"tool_calls":[{"function":{"name":"f"},"index":0,"id":"call_0123456789ab_0"},{"id":"call_0123456789ab_1","function":{"name":"g"},"index":1}]}}]}"#,
        ),
        (
            r#"{"choices":[{"delta":{"tool_calls":{"id":"c","function":{"name":7}}}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"id":"c","function":{"name":"7"},"index":0}]}}]}"#,
        ),
        (
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f"}},{"index":0,"function":null}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f"}},{"index":0,"function":{}}]}}]}"#,
        ),
        (
            r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"null"}]}"#,
            r#"{"choices":[{"delta":{"content":"x"},"finish_reason":null}]}"#,
        ),
        (r#"{"type":"ping"}"#, r#"{"type":"ping","choices":[]}"#),
        (r#"{"choices":[{"delta":{"content":"x"}}],"choices":null}"#, r#"{"choices":[]}"#),
    ];
    let said = event(r#"{"delta":{"content":"hi"}}"#);
    let end = event(r#"{"delta":{},"finish_reason":"stop"}"#);
    for (odd, corrected) in cases {
        for before in [0, 1, 2] {
            let stream = format!("{}data: {odd}\n\n{said}{end}", said.repeat(before));
            for chunk in [1, 33, stream.len()] {
                let ended = run(stream.as_bytes(), chunk);
                assert_eq!(
                    (events(&ended.out)[before].to_string(), ended.problem),
                    (corrected.to_owned(), None)
                );
            }
        }
    }
    for nothing in ["", " ", "null", "[]", "ping", "\"x\"", "1", "[1,2]"] {
        for before in [0, 1, 2] {
            let rest = format!("{said}{end}data: [DONE]\n\n");
            let stream = format!("{}: alive\n\ndata\n\ndata:{nothing}\n\n{rest}", said.repeat(before));
            for chunk in [1, 33, stream.len()] {
                let ended = run(stream.as_bytes(), chunk);
                assert_eq!(ended.out, format!("{}: alive\n\n{rest}", said.repeat(before)), "{nothing}");
            }
        }
    }
}

#[test]
fn a_server_without_indexes_and_ids_of_tool_calls_is_understood() {
    let call = |call: &str| event(&format!(r#"{{"delta":{{"tool_calls":[{call}]}}}}"#));
    let stream = [
        call(r#"{"function":{"name":"f","arguments":"{"}}"#),
        call(r#"{"function":{"name":null,"arguments":"}"}}"#),
        call(r#"{"function":{"name":"g","arguments":"{}"}}"#),
        call(r#"{"id":"c","function":{"name":"h","arguments":"["}}"#),
        call(r#"{"id":"c","function":{"arguments":"]"}}"#),
        event(r#"{"delta":{},"finish_reason":"tool_calls"}"#),
    ]
    .concat();
    for chunk in [1, 40, stream.len()] {
        let ended = run(stream.as_bytes(), chunk);
        let calls: Vec<_> = events(&ended.out)
            .iter()
            .filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0).cloned())
            .map(|call| (call["index"].clone(), call["id"].clone(), call["function"]["arguments"].clone()))
            .collect();
        let expected = [
            (json!(0), json!("call_0"), json!("{")),
            (json!(0), json!(null), json!("}")),
            (json!(1), json!("call_1"), json!("{}")),
            (json!(2), json!("c"), json!("[")),
            (json!(2), json!("c"), json!("]")),
        ];
        assert_eq!((calls, reasons(&ended.out)), (expected.to_vec(), vec!["tool_calls".to_owned()]));
    }
}

#[test]
fn the_last_error_in_the_text_is_reported_wherever_it_stands() {
    let said = event(r#"{"delta":{"content":"half {\"code\":\"Q\",\"message\":\"quoted\"} {"}}"#);
    let block = |status: u16, words: &str| {
        format!(r#"event: error\n:HTTP_STATUS/{status}\ndata: {{\"code\":\"C\",\"message\":\"{words}\"}}\n"#)
    };
    let finish = |delta: &str| event(&format!(r#"{{"delta":{delta},"finish_reason":"error_finish"}}"#));
    let two = format!("event:error\\n{}{}", block(500, "first"), block(429, "no"));
    for (end, status) in [
        (finish(&format!(r#"{{"content":"{two}"}}"#)), Some(429)),
        (finish(&format!(r#"{{"reasoning_content":"{}"}}"#, block(503, "no"))), Some(503)),
        (finish(&format!(r#"{{"reasoning":"{}"}}"#, block(503, "no"))), Some(503)),
        (
            event(&format!(
                r#"{{"message":{{"content":"{}"}},"finish_reason":"error_finish"}}"#,
                block(503, "no")
            )),
            Some(503),
        ),
        (finish(r#"{"content":"{\"error\":{\"code\":\"C\",\"message\":\"no\",\"status\":429}}"}"#), Some(429)),
        (finish(r#"{"content":":HTTP_STATUS/400\n:HTTP_STATUS/429\ndata:{\"code\":\"C\",\"message\":\"no\"}"}"#), Some(429)),
        (
            "data: {\"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":\"error_finish\"}],\"code\":\"C\",\"message\":\"no\",\"status\":429}\n\n".to_owned(),
            Some(429),
        ),
        (
            "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":\"error_finish\"}],\"error\":{\"code\":\"C\",\"message\":\"no\"}}\n\n".to_owned(),
            None,
        ),
    ] {
        let ended = run(format!("{said}{end}").as_bytes(), 64);
        assert_eq!(ended.problem.as_deref(), Some("Qwen ended its answer with an error: no (C)"), "{end}");
        assert_eq!(ended.server_error.map(|error| error.status), Some(status), "{end}");
    }
    // The model may write about an error.
    for quoted in [
        r#"Example: {\"code\":\"insufficient_quota\",\"message\":\"q\"} was the reply."#,
        r#"Example: {\"code\":\"insufficient_quota\",\"message\":\"q\"}"#,
        r#"event:error\ndata:{\"code\":\"insufficient_quota\",\"message\":\"q\"}\n\nThis was the reply."#,
    ] {
        let said = event(&format!(r#"{{"delta":{{"content":"{quoted}"}}}}"#));
        let ended = run(format!("{said}{}", finish("{}")).as_bytes(), 64);
        let problem = "Qwen broke its answer off (error_finish). Send the message again.";
        assert_eq!((ended.problem.as_deref(), ended.server_error), (Some(problem), None), "{quoted}");
    }
    // A block among the thoughts is held back too.
    for name in ["reasoning_content", "reasoning"] {
        let thought = event(&format!(r#"{{"delta":{{"{name}":"{}"}}}}"#, block(503, "no")));
        let stream = format!("{said}{thought}{}", finish("{}"));
        assert_eq!(run(stream.as_bytes(), 64).out, said, "{name}");
    }
}

#[test]
fn a_finish_reason_without_a_name_becomes_null() {
    let said = event(r#"{"delta":{"content":"hi"},"finish_reason":null}"#);
    let end = event(r#"{"delta":{},"finish_reason":"stop"}"#);
    for none in [r#""""#, "false", "0", "{}"] {
        let before = event(&format!(r#"{{"delta":{{"content":" you"}},"finish_reason":{none}}}"#));
        let after = event(&format!(r#"{{"index":0,"delta":{{}},"finish_reason":{none}}}"#));
        let ended = run(format!("{said}{before}{end}{after}data: [DONE]\n\n").as_bytes(), 30);
        let found: Vec<_> =
            events(&ended.out).iter().map(|event| event["choices"][0]["finish_reason"].clone()).collect();
        assert_eq!(
            (found, text(&ended.out)),
            (vec![json!(null), json!(null), json!("stop"), json!(null)], "hi you".to_owned())
        );
        assert_eq!(ended.problem, None, "{none}");
    }
}

#[test]
fn an_error_member_without_an_error_is_dropped() {
    for none in ["null", "{}", r#""""#, "false"] {
        let body: String = [r#""content":"hi""#, r#""content":" you""#, r#""content":"!""#]
            .map(|delta| format!("data: {{\"error\":{none},\"choices\":[{{\"delta\":{{{delta}}}}}]}}\n\n"))
            .concat();
        let end = format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"stop"}}],"error" : {none}}}"#);
        let usage = format!(r#"{{"choices":[],"usage":{{"total_tokens":3}},"error":{none}}}"#);
        let stream = format!("{body}data: {end}\n\ndata: {usage}\n\ndata: [DONE]\n\n");
        for chunk in [7, stream.len()] {
            let ended = run(stream.as_bytes(), chunk);
            assert!(!ended.out.contains("error"), "{}", ended.out);
            assert_eq!((text(&ended.out).as_str(), ended.problem), ("hi you!", None));
            assert!(ended.out.contains(r#""usage":{"total_tokens":3}"#), "{}", ended.out);
        }
    }
}

#[test]
fn a_completion_with_tool_calls_becomes_a_stream() {
    let completion = json!({"id": "c", "created": 1, "model": "m", "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
        "role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}}],
        "usage": {"total_tokens": 6}});
    let ended = run(completion.to_string().as_bytes(), 11);
    let events = events(&ended.out);
    assert_eq!(events[0]["choices"][0]["delta"]["tool_calls"][0]["index"], 0);
    assert_eq!(
        (reasons(&ended.out), &events[2]["usage"]["total_tokens"]),
        (vec!["tool_calls".to_owned()], &json!(6))
    );
    assert!(ended.out.ends_with("data: [DONE]\n\n"));
}

#[test]
fn half_a_surrogate_pair_is_passed_on_as_it_came() {
    let end = event(r#"{"delta":{},"finish_reason":"stop"}"#);
    for (first, second, kept) in [
        (
            r#"{"delta":{"content":"a\ud83d"}}"#,
            r#"{"delta":{"content":"\ude00b"}}"#,
            [r"a\ud83d", r"\ude00b"],
        ),
        (
            r#"{"delta":{"content":[{"text":"a\ud83d"}]},"finish_reason":""}"#,
            r#"{"delta":{"content":[{"text":"\ude00b"}]},"finish_reason":""}"#,
            [r#""content":"a\ud83d""#, r#""content":"\ude00b""#],
        ),
        (
            r#"{"delta":{"tool_calls":{"index":0,"function":{"name":"f","arguments":"{\"\ud83d"}}}}"#,
            r#"{"delta":{"tool_calls":{"index":0,"function":{"arguments":"\ude00\":1}"}}}}"#,
            [r#""arguments":"{\"\ud83d""#, r#""arguments":"\ude00\":1}""#],
        ),
        (
            r#"{"delta":{"reasoning_content":"\ud83d"},"finish_reason":false}"#,
            r#"{"delta":{"reasoning_content":"\ude00"},"finish_reason":false}"#,
            [r#""reasoning_content":"\ud83d""#, r#""reasoning_content":"\ude00""#],
        ),
    ] {
        let stream = format!("{}{}{end}", event(first), event(second));
        for chunk in [1, 20, stream.len()] {
            let ended = run(stream.as_bytes(), chunk);
            assert_eq!(ended.problem, None, "{first}");
            let at = kept.map(|kept| ended.out.find(kept).unwrap_or_else(|| panic!("{kept}: {}", ended.out)));
            assert!(at[0] < at[1], "{first}");
        }
    }
    let completion = r#"{"choices":[{"message":{"content":"a\ud83d"},"finish_reason":"stop"}],"usage":{"total_tokens":1}}"#;
    let ended = run(completion.as_bytes(), 9);
    assert_eq!(ended.problem, None);
    assert!(ended.out.contains(r#""content":"a\ud83d""#), "{}", ended.out);
    for error in [
        "data: {\"error\":{\"code\":\"C\",\"message\":\"no \\ud83d\"}}\n\n".to_owned(),
        event(
            r#"{"delta":{"content":"event:error\ndata:{\"code\":\"C\",\"message\":\"no \ud83d\"}"},"finish_reason":"error_finish"}"#,
        ),
    ] {
        let ended = run(error.as_bytes(), 9);
        assert_eq!(ended.problem.as_deref(), Some("Qwen ended its answer with an error: no \u{fffd} (C)"));
    }
}

/// Each is an event in a form that some server sends.
fn odd_event() -> impl Strategy<Value = String> {
    const TEXTS: [&str; 7] =
        [r#""hi""#, "null", "5", "true", r#"{"text":"x"}"#, "{}", r#"[{"type":"text","text":"x"}]"#];
    const SCALARS: [&str; 6] = [r#""x""#, r#""12""#, "null", "7", "false", "{}"];
    const CALLS: [&str; 10] = [
        "[{}]",
        r#"[{"index":0,"function":null},{"index":0}]"#,
        "null",
        "[]",
        "{}",
        r#""x""#,
        r#"[{"index":"0","function":{"name":"f","arguments":{"a":1}}}]"#,
        r#"{"id":7,"function":{"name":8,"arguments":""}}"#,
        r#"[null,{"index":0,"id":"c","function":{"name":"f"}}]"#,
        r#"[{"index":null,"id":null,"function":{"name":"g","arguments":null},"extra_content":1}]"#,
    ];
    const USAGES: [&str; 6] = [
        "null",
        r#""""#,
        "[]",
        r#"{"prompt_tokens":"1","total_tokens":2}"#,
        r#"{"completion_tokens":null,"prompt_tokens_details":{"cached_tokens":"3"}}"#,
        r#"{"total_tokens":{},"completion_tokens_details":[]}"#,
    ];
    const CHOICES: [(&str, &str); 6] = [
        ("[", "]"),
        ("", ""),
        ("[null,", "]"),
        ("[", ",null]"),
        (r#"["x","#, "]"),
        ("[", r#",{"delta":null}]"#),
    ];
    let select = |of: &'static [&'static str]| proptest::sample::select(of);
    let roles = select(&[r#""assistant""#, r#""""#, r#""tool""#, "null", "1"]);
    let delta = (select(&TEXTS), select(&TEXTS), roles, select(&CALLS), select(&["delta", "message"]));
    let rest = (select(&SCALARS), select(&SCALARS), select(&SCALARS), select(&USAGES));
    (delta, rest, proptest::sample::select(&CHOICES[..]), select(&["null", r#""null""#, r#""""#])).prop_map(
        |((content, reasoning, role, calls, name), (id, model, created, usage), (open, close), reason)| {
            let delta = format!(r#"{{"role":{role},"content":{content},"reasoning_content":{reasoning},"tool_calls":{calls}}}"#);
            let choices = format!(r#"{open}{{"{name}":{delta},"finish_reason":{reason}}}{close}"#);
            format!("data: {{\"id\":{id},\"model\":{model},\"created\":{created},\"choices\":{choices},\"usage\":{usage}}}\n\n")
        },
    )
}

/// True if the host's SDK accepts an event. `@ai-sdk/openai-compatible` has the schema.
fn fits_schema(event: &Value) -> bool {
    let fits = |value: &Value, is_good: fn(&Value) -> bool| value.is_null() || is_good(value);
    let usage = &event["usage"];
    let details = [&usage["prompt_tokens_details"], &usage["completion_tokens_details"]];
    let counts = ["prompt_tokens", "completion_tokens", "total_tokens"].map(|name| &usage[name]);
    let is_call = |call: &Value| {
        let function = &call["function"];
        function.is_object()
            && call["index"].is_number()
            && fits(&call["id"], Value::is_string)
            && fits(&call["extra_content"], Value::is_object)
            && ["name", "arguments"].iter().all(|name| fits(&function[name], Value::is_string))
    };
    let is_choice = |choice: &Value| {
        let delta = &choice["delta"];
        choice.is_object()
            && fits(&choice["finish_reason"], Value::is_string)
            && fits(delta, Value::is_object)
            && fits(&delta["role"], |role| role == "assistant")
            && ["content", "reasoning_content"].iter().all(|name| fits(&delta[name], Value::is_string))
            && fits(&delta["tool_calls"], Value::is_array)
            && delta["tool_calls"].as_array().is_none_or(|calls| calls.iter().all(is_call))
    };
    ["id", "model"].iter().all(|name| fits(&event[name], Value::is_string))
        && fits(&event["created"], Value::is_number)
        && fits(usage, Value::is_object)
        && details.iter().all(|details| fits(details, Value::is_object))
        && counts.iter().all(|count| fits(count, Value::is_number))
        && fits(&usage["prompt_tokens_details"]["cached_tokens"], Value::is_number)
        && event["choices"].as_array().is_some_and(|choices| choices.iter().all(is_choice))
        && event.get("error").is_none()
}

#[test]
fn white_space_around_the_last_event_is_removed_and_a_broken_event_ends_the_stream() {
    let (begun, end) =
        (event(r#"{"delta":{"content":"hi"}}"#), event(r#"{"delta":{},"finish_reason":"stop"}"#));
    for done in ["data: [DONE] \n\n", "data:\t[DONE]\n\n", "data:   [DONE]\t\r\n\r\n"] {
        let stream = format!("{begun}{end}{done}");
        for chunk in [1, stream.len()] {
            let ended = run(stream.as_bytes(), chunk);
            assert_eq!((ended.out, ended.problem), (format!("{begun}{end}data: [DONE]\n\n"), None));
        }
    }
    for (before, broken) in [
        ("", r#"{"choices":[{"delta":{"content":"cut"#),
        (&*begun, r#"{"choices":[{"delta":{"content":"cut"#),
        ("", r#"{"choices":[{"delta":{"content":"a"}}"#),
        (&*begun, r#"{"choices":[{"delta":{"content":"a"}}"#),
        (&*begun, r#"{"choices":[{"delta":{"content":"a"}}]}}"#),
        (&*begun, r#"{"choices":[{"delta":{"content":"a\x"}}]}"#),
        (&*begun, r#"{"choices":[{"delta":{"content":"\u12g4"}}]}"#),
        (&*begun, "{\"choices\":[{\"delta\":{\"content\":\"a\tb\"}}]}"),
        (&*begun, r#"{"choices":[{"delta":{"content":"a","x":tru}}]}"#),
    ] {
        let stream = format!("{before}data: {broken}\n\n{end}data: [DONE]\n\n");
        let ended = run(stream.as_bytes(), stream.len());
        assert_eq!(ended.out, before, "{broken}");
        assert!(ended.problem.is_some_and(|problem| problem.contains("not valid JSON")), "{broken}");
    }
    let repeated = r#"data: {"error":{"code":"Throttling","message":"limit for sk-sp-0123456789abcdef"}}"#;
    let ended = run(format!("{begun}{repeated}\n\n").as_bytes(), 64);
    assert!(ended.problem.is_some_and(|problem| problem.contains("limit for ***")));
}

proptest! {
    #[test]
    fn a_comment_is_passed_on_an_unknown_event_dropped_and_a_broken_one_ends_the_stream(
        stream in "(data: |\\{|\\[|\"a\"|[a-z:\n]){0,60}", chunk in 1_usize..50,
    ) {
        let stream = stream.trim_start();
        let missing_end = match stream {
            "" => "",
            _ if stream.ends_with("\n\n") => "",
            _ if stream.ends_with('\n') => "\n",
            _ => "\n\n",
        };
        let whole_events = format!("{stream}{missing_end}");
        let data_in = |event: &str| -> Vec<String> {
            let data = event.lines().filter_map(|line| crate::sse::data_of(line.as_bytes()));
            data.map(|data| String::from_utf8_lossy(data).into_owned()).collect()
        };
        let mut kept = String::new();
        let mut event = String::new();
        for line in whole_events.split_inclusive('\n') {
            event.push_str(line);
            if line == "\n" {
                let data = data_in(&event);
                // The first line with data is the start of it.
                if data.iter().find(|data| !data.is_empty()).is_some_and(|data| data.trim_start().starts_with('{')) {
                    break;
                }
                if data.is_empty() {
                    kept.push_str(&event);
                }
                event.clear();
            }
        }
        let ended = run(stream.as_bytes(), chunk);
        let is_json = stream.starts_with(['{', '[']);
        prop_assert!(is_json || ended.out == kept, "{:?} {:?}", ended.out, kept);
    }

    #[test]
    fn every_event_that_is_passed_on_fits_the_hosts_schema(
        calls in 0_usize..3, events in proptest::collection::vec(odd_event(), 1..5), chunk in 1_usize..200,
    ) {
        let end = event(r#"{"delta":{},"finish_reason":"stop"}"#);
        let stream = format!("{}{}{end}", GOOD_CALL.repeat(calls), events.concat());
        let ended = run(stream.as_bytes(), chunk);
        prop_assert_eq!(ended.problem, None);
        for event in ended.out.split_terminator("\n\n") {
            let event: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
            prop_assert!(fits_schema(&event), "{}", event);
        }
    }

    #[test]
    fn the_result_does_not_depend_on_the_chunks(stream in "(data: |\\{\"choices\":\\[\\{\"delta\":\\{\"content\":\"a\"\\}\\}\\]\\}|\\{\"error\":1\\}|\\[DONE\\]|\\{|\n|\n\n|\r|[a-z]){0,30}", chunk in 1_usize..50) {
        let (whole, cut) = (run(stream.as_bytes(), stream.len()), run(stream.as_bytes(), chunk));
        prop_assert_eq!((whole.out, whole.problem, whole.server_error), (cut.out, cut.problem, cut.server_error));
    }
}
