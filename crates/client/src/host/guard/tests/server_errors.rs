//! Tests of errors that the server sends within a stream.

use super::*;

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
        assert_eq!(text(&ended.out), if error.contains("delta") { "halfx" } else { "half" });
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
    let more_and_block = block.replace("event:error", r"more\nid:1\nevent:error");
    let finished_block = more_and_block.replace("\"}}]", "\"},\"finish_reason\":\"error_finish\"}]");
    let line = event(r#"{"delta":{"content":"more\n"}}"#);
    let finished_line = event(r#"{"delta":{"content":"more\n"},"finish_reason":null}"#);
    let end = |reason: &str| event(&format!(r#"{{"delta":{{}},"finish_reason":"{reason}"}}"#));
    let error = Some("Qwen ended its answer with an error: no (C)");
    let cut = Some("Qwen ended its answer without finishing it. Send the message again.");
    for (rest, problem, kept) in [
        (end("error_finish"), error, said.clone()),
        (end("error"), error, said.clone()),
        (end("abort"), error, said.clone()),
        (end("network_error"), error, said.clone()),
        (format!("data: ping\n\n{}", end("error_finish")), error, said.clone()),
        ("data: [DONE]\n\n".to_owned(), error, said.clone()),
        (String::new(), error, said.clone()),
        (finished_block, error, format!("{said}{finished_line}")),
        // A block that is not whole is text.
        (
            event(r#"{"delta":{"content":"!"}}"#),
            cut,
            format!("{said}{block}{}", event(r#"{"delta":{"content":"!"}}"#)),
        ),
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
    let ended = run(format!("{more_and_block}{}", end("error_finish")).as_bytes(), 50);
    assert_eq!((ended.problem.as_deref(), ended.out), (error, line));
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
    // Text before the last text, or before a call, is not the server's last word.
    let thought = event(&format!(r#"{{"delta":{{"reasoning_content":"{}"}}}}"#, block(429, "no")));
    let quote =
        block(429, "no").replace("\\n", "\\n\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"");
    for (begun, reason) in [
        (format!("{thought}{said}"), "error_finish"),
        (format!("{thought}{said}"), "abort"),
        (format!("{thought}{GOOD_CALL}"), "abort"),
        (event(&format!(r#"{{"delta":{{"content":"{quote}"}}}}"#)), "abort"),
    ] {
        let end = event(&format!(r#"{{"delta":{{}},"finish_reason":"{reason}"}}"#));
        let ended = run(format!("{begun}{end}").as_bytes(), 64);
        let problem = format!("Qwen broke its answer off ({reason}). Send the message again.");
        assert_eq!((ended.problem, ended.server_error), (Some(problem), None), "{begun}");
        assert!(begun.contains(&ended.out) && ended.out.len() + 20 > begun.len(), "{}", ended.out);
    }
    // The text of a block that is not an error is kept.
    let begun = event(r#"{"delta":{"content":"event: error\nis the first line that the server writes."}}"#);
    for end in
        [String::new(), "data: [DONE]\n\n".to_owned(), event(r#"{"delta":{},"finish_reason":"abort"}"#)]
    {
        let ended = run(format!("{said}{begun}{end}").as_bytes(), 64);
        assert_eq!((ended.out, ended.server_error), (format!("{said}{begun}"), None), "{end}");
        assert!(ended.problem.is_some());
    }
    // A block among the thoughts is held back too.
    for name in ["reasoning_content", "reasoning"] {
        let thought = event(&format!(r#"{{"delta":{{"{name}":"{}"}}}}"#, block(503, "no")));
        let stream = format!("{said}{thought}{}", finish("{}"));
        assert_eq!(run(stream.as_bytes(), 64).out, said, "{name}");
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
