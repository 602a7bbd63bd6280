//! Quotes words of the commands that messages advise, so that a pasted command runs nothing else.

use std::fmt::Write as _;
use std::path::Path;

use crate::text::is_unsafe;

/// Quotes a word, such as an id or a label.
#[must_use]
pub fn word(text: &str) -> String {
    if cfg!(windows) {
        // Its shells agree on no escape for these, and a word without them names nothing worse.
        let is_special = |c: char| "\"“”„$%!`".contains(c) || is_unsafe(c);
        return quote(text.replace(is_special, "_").as_bytes());
    }
    quote(text.as_bytes())
}

/// Quotes a path.
#[must_use]
pub fn path(path: &Path) -> String {
    #[cfg(unix)]
    return quote(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
    #[cfg(not(unix))]
    quote(path.display().to_string().as_bytes())
}

/// Quotes an id or a label as an operand of our command line. `--` keeps a leading dash from starting an option.
#[must_use]
pub fn operand(text: &str) -> String {
    if text.starts_with('-') { format!("-- {}", word(text)) } else { word(text) }
}

/// Returns a command that only root may run.
#[must_use]
pub fn as_root(command: &str) -> String {
    #[cfg(unix)]
    if rustix::process::geteuid().is_root() {
        return command.to_owned();
    }
    format!("sudo {command}")
}

fn quote(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let is_plain = |c: char| c.is_alphanumeric() || "/:._-+~@%,".contains(c) || (cfg!(windows) && c == '\\');
    if !text.is_empty() && text.chars().all(is_plain) && !text.starts_with('~') {
        return text.into_owned();
    }
    if cfg!(windows) {
        return format!("\"{text}\"");
    }
    if str::from_utf8(bytes).is_ok_and(|text| !text.contains(is_unsafe)) {
        return format!("'{}'", text.replace('\'', "'\\''"));
    }
    // A terminal shows no line break, control character or broken character as it is.
    let mut quoted = "$'".to_owned();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\'' | '\\' => quoted.extend(['\\', character]),
                '\n' => quoted.push_str("\\n"),
                _ if is_unsafe(character) => {
                    push_octal(&mut quoted, character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => quoted.push(character),
            }
        }
        push_octal(&mut quoted, chunk.invalid());
    }
    quoted.push('\'');
    quoted
}

fn push_octal(quoted: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(quoted, "\\{byte:03o}");
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_each_word_as_it_was() {
        let words: [(&[u8], &str); 11] = [
            (b"/home/u/.qwen/a.lock", "/home/u/.qwen/a.lock"),
            (b"work", "work"),
            ("größe".as_bytes(), "größe"),
            (b"", "''"),
            (b"~/a b", "'~/a b'"),
            (b"/home/my user/it's", "'/home/my user/it'\\''s'"),
            (b"$(x); y`z` # \"", "'$(x); y`z` # \"'"),
            (b"/home/a\\b", "'/home/a\\b'"),
            (b"a\nb\\'c", "$'a\\nb\\\\\\'c'"),
            (b"a\x1b[2J\xff", "$'a\\033[2J\\377'"),
            ("a\u{202e}b".as_bytes(), "$'a\\342\\200\\256b'"),
        ];
        for (bytes, expected) in words {
            let quoted = path(Path::new(OsStr::from_bytes(bytes)));
            assert_eq!(quoted, expected);
            let ran = Command::new("bash").args(["-c", &format!("printf %s {quoted}")]).output().unwrap();
            assert_eq!(ran.stdout, bytes, "{quoted}");
        }
        assert_eq!((operand("-x y"), operand("a b")), ("-- '-x y'".to_owned(), "'a b'".to_owned()));
    }
}
