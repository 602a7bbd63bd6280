//! Reads settings that other programs keep for the user.

use std::io::ErrorKind;
use std::path::Path;

use qwen_base::safe_open;
use serde_json::Value;

/// Largest file that is read, in bytes.
pub const MAX_FILE: u64 = 1024 * 1024;

/// Reads a text; `None` if there is no such file. Other problems become notes.
pub fn read_text(path: &Path, limit: u64, notes: &mut Vec<String>) -> Option<String> {
    let shown = path.display();
    match safe_open::read(path, limit) {
        Ok(Some(bytes)) => Some(String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}').to_owned()),
        Ok(None) => {
            notes.push(format!("{shown} is larger than {limit} bytes, so it was not searched for keys."));
            None
        }
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        // A parent of the path is a file.
        Err(error) if error.kind() == ErrorKind::NotADirectory && path.symlink_metadata().is_err() => None,
        Err(error) => {
            notes.push(format!("{shown} was skipped: {error}."));
            None
        }
    }
}

/// Reads a settings file. Null if there is none; problems become notes.
pub fn read_settings(path: &Path, notes: &mut Vec<String>) -> Value {
    let Some(text) = read_text(path, MAX_FILE, notes) else { return Value::Null };
    parse_settings(text).unwrap_or_else(|_| {
        notes.push(format!("{} is not JSON, so it was not searched for keys.", path.display()));
        Value::Null
    })
}

/// Parses settings, which may have comments and trailing commas. The error completes "… can't be read: ".
pub fn parse_settings(mut text: String) -> Result<Value, String> {
    json_strip_comments::strip(&mut text).map_err(|error| error.to_string())?;
    serde_json::from_str(&text)
        .map_err(|error| format!("line {}, column {} is not JSON", error.line(), error.column()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_may_have_comments() {
        let text = "{ // mine\n \"a\": \"//b\" /* c */, }".to_owned();
        assert_eq!(parse_settings(text), Ok(serde_json::json!({"a": "//b"})));
    }
}
