//! Quotes words of commands for the user's shell.
#![expect(clippy::needless_pass_by_value, reason = "napi passes owned strings")]

use napi_derive::napi;
use qwen_base::shell;

/// Quotes a word, such as an id.
#[napi(catch_unwind)]
pub fn shell_word(text: String) -> String {
    shell::word(&text)
}

/// Quotes an id or a label as an operand of this package's command line.
#[napi(catch_unwind)]
pub fn shell_operand(text: String) -> String {
    shell::operand(&text)
}
