//! Tests of events that are corrected for the host.

use super::*;

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

proptest! {
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
}
