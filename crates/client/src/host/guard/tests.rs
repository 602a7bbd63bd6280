mod corrections;
mod server_errors;

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
    fn the_result_does_not_depend_on_the_chunks(stream in "(data: |\\{\"choices\":\\[\\{\"delta\":\\{\"content\":\"a\"\\}\\}\\]\\}|\\{\"error\":1\\}|\\[DONE\\]|\\{|\n|\n\n|\r|[a-z]){0,30}", chunk in 1_usize..50) {
        let (whole, cut) = (run(stream.as_bytes(), stream.len()), run(stream.as_bytes(), chunk));
        prop_assert_eq!((whole.out, whole.problem, whole.server_error), (cut.out, cut.problem, cut.server_error));
    }
}
