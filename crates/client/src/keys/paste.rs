//! Reads a pasted key. Known wrappings are removed and reported; everything else is refused.

use qwen_base::foreign_keys::foreign_maker;
use qwen_base::{Error, Result, Secret};

/// Longest key, in bytes. Real keys have fewer than 100.
const MAX_KEY: usize = 1024;
/// Longest text that is searched for a key, in bytes. The time grows with the square of the length.
const MAX_TEXT: usize = 16 * 1024;
const TOO_LONG: &str = "is too long to be a key; copy only the key";
/// Longest variable name that a note repeats, in bytes.
const MAX_NAME: usize = 40;

/// Quotation marks of programs, web pages and shells.
const QUOTES: [char; 20] = [
    '"', '\'', '`', '<', '>', '\u{2018}', '\u{2019}', '\u{201a}', '\u{201c}', '\u{201d}', '\u{201e}',
    '\u{ab}', '\u{bb}', '\u{2039}', '\u{203a}', '\u{300c}', '\u{300d}', '\u{300e}', '\u{300f}', '\u{ff02}',
];
/// Punctuation after an entry or a statement.
const ENDS: [char; 6] = [',', ';', '\u{ff0c}', '\u{ff1b}', '\u{3001}', '\u{3002}'];
/// Sequences that terminals put around a paste.
const PASTE_MARKS: [&str; 2] = ["\u{1b}[200~", "\u{1b}[201~"];
const HEADERS: [&str; 5] = ["authorization:", "x-api-key:", "api-key:", "api_key:", "apikey:"];
/// Words before an assignment.
const EXPORTS: [&str; 4] = ["export", "set", "setx", "env"];

const CONSOLES: &str = "Keys are at https://bailian.console.aliyun.com (China) and https://modelstudio.console.alibabacloud.com (international)";

/// Reads a key. Adds a sentence to `notes` about removed text.
///
/// # Errors
/// `ERR_QWEN_INVALID_ARGUMENT` for `key`. The message does not contain the key.
pub fn read_key(text: &str, notes: &mut Vec<String>) -> Result<Secret> {
    if text.trim().len() > MAX_TEXT {
        return Err(Error::invalid_argument("key", TOO_LONG));
    }
    let mut peeled = Peeled::new(text);
    peeled.peel();
    let Peeled { key, left_out, variable } = peeled;
    if let Some(reason) = unreadable(&key) {
        return Err(Error::invalid_argument("key", &format!("{reason}. {CONSOLES}")));
    }
    if let Some(name) = variable {
        notes.push(format!("The key was read from an assignment{name}."));
    }
    if !left_out.is_empty() {
        notes.push(format!("The key was read without {}.", left_out.join(" and ")));
    }
    Ok(Secret::new(key))
}

/// Checks that a key may be Alibaba's before it is sent to a server. The error contains at most the prefix that names its
/// issuer.
pub fn expect_alibaba_form(key: &Secret) -> Result<()> {
    let key = key.expose();
    let refuse = |what: &str| {
        let advice = format!(
            "{what}; nothing was sent. {CONSOLES}. For another server, give its base URL (--base-url)"
        );
        Err(Error::invalid_argument("key", &advice))
    };
    if let Some((part, maker)) = foreign_maker(key) {
        return refuse(&format!("is a secret of {maker} ({part}…), not a key of Alibaba Cloud"));
    }
    if is_web_token(key) {
        return refuse("is a JSON web token (eyJ…), not a key of Alibaba Cloud");
    }
    if key.starts_with("LTAI") {
        return refuse(
            "is an AccessKey ID of Alibaba Cloud (LTAI…), which is not a key for models: those start with sk-",
        );
    }
    let Some(rest) = key.strip_prefix("sk-") else {
        return refuse("is not a key of Alibaba Cloud: those start with sk-");
    };
    let rest = rest.strip_prefix("sp-").unwrap_or(rest);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if rest.is_empty() || !rest.bytes().all(is_word) {
        return refuse(
            "is cut off or contains a character that Alibaba Cloud keys don't have; copy it again",
        );
    }
    Ok(())
}

/// A web token has three parts, the first of which is base64 of a JSON object.
fn is_web_token(key: &str) -> bool {
    key.starts_with("eyJ") && key.split('.').count() >= 3
}

/// Returns the reason why no server has such a key, to complete "key …".
fn unreadable(key: &str) -> Option<&'static str> {
    let is_masked = key.contains(['\u{2022}', '\u{2026}', '\u{25cf}', '\u{b7}', '\u{2217}', '\u{ff0a}'])
        || key.contains("**")
        || key.contains("...")
        || (key.starts_with("sk-") && key.contains('*'));
    if key.is_empty() {
        return Some("is empty: no key was given. Give the key itself, such as sk-…");
    }
    if key.len() > MAX_KEY {
        return Some(TOO_LONG);
    }
    if key.contains("://") || key.starts_with("www.") {
        return Some("is an address, not a key; open it and copy the key from there");
    }
    if key.starts_with(['{', '[']) {
        return Some("is JSON; copy only the key, without the text around it");
    }
    if key.starts_with("-----BEGIN") {
        return Some("is a certificate or private key file, not an API key");
    }
    if is_masked {
        return Some(
            "is the masked form that the console shows; copy the key itself with the button beside it",
        );
    }
    if is_placeholder(key) {
        return Some("is a placeholder from an example; give your own key");
    }
    if key.chars().any(char::is_whitespace) {
        return Some("contains a space or a line break; copy it again in one piece");
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some("contains a character that no key has; copy it again");
    }
    None
}

/// True for `sk-xxxx`, `sk-sp-xxxx`, `YOUR_API_KEY`, `$DASHSCOPE_API_KEY` and the like.
fn is_placeholder(key: &str) -> bool {
    let bare = key.trim_start_matches("sk-").trim_start_matches("sp-");
    let lower = key.to_ascii_lowercase();
    (key.starts_with("sk-") && bare.len() > 1 && bare.bytes().all(|byte| matches!(byte, b'x' | b'X')))
        || lower.starts_with("your_")
        || lower.starts_with("your-")
        || lower.starts_with("sk-your")
        || key.starts_with('$')
        || key.starts_with("{env:")
}

/// A pasted text on its way to a key.
struct Peeled {
    key: String,
    /// Removed parts, in order.
    left_out: Vec<&'static str>,
    /// Text of the note about the variable of an assignment.
    variable: Option<String>,
}

impl Peeled {
    fn new(text: &str) -> Self {
        let mut peeled = Self { key: text.to_owned(), left_out: Vec::new(), variable: None };
        peeled.remove_invisible();
        peeled.trim();
        peeled
    }

    fn peel(&mut self) {
        loop {
            let before = self.key.len();
            self.strip_ends();
            self.strip_words();
            self.strip_assignment();
            self.halve();
            if self.key.len() == before {
                break;
            }
        }
    }

    fn note(&mut self, what: &'static str) {
        if !self.left_out.contains(&what) {
            self.left_out.push(what);
        }
    }

    fn trim(&mut self) {
        let trimmed = self.key.trim();
        if trimmed.len() < self.key.len() {
            self.key = trimmed.to_owned();
            self.note("the spaces around it");
        }
    }

    /// Removes the invisible characters of web pages and chats, and the paste marks of terminals.
    fn remove_invisible(&mut self) {
        let mut key = self.key.clone();
        for mark in PASTE_MARKS {
            key = key.replace(mark, "");
        }
        key.retain(|character| !is_invisible(character));
        if key.len() < self.key.len() {
            self.key = key;
            self.note("invisible characters");
        }
    }

    fn strip_ends(&mut self) {
        let without_end = self.key.trim_end_matches(ENDS).trim_end();
        if without_end.len() < self.key.len() {
            self.key = without_end.to_owned();
            self.note("the punctuation after it");
        }
        let without_quotes = self.key.trim_matches(QUOTES);
        if without_quotes.len() < self.key.len() {
            self.key = without_quotes.trim().to_owned();
            self.note("the quotes around it");
        }
    }

    fn strip_words(&mut self) {
        if let Some(rest) = without_word(&self.key, "bearer") {
            self.key = rest.trim().to_owned();
            self.note("\"Bearer\" before it");
        }
        let header = HEADERS.into_iter().find_map(|header| without_word(&self.key, header));
        if let Some(rest) = header {
            self.key = rest.trim().to_owned();
            self.note("the header's name before it");
        }
    }

    /// Handles `NAME=key`, `export NAME='key'`, `$env:NAME = "key"` and `NAME: key`.
    fn strip_assignment(&mut self) {
        let exported =
            EXPORTS.into_iter().find_map(|word| without_word(&self.key, word)).map(str::trim_start);
        let assignment = exported.unwrap_or(&self.key);
        let assignment = assignment.strip_prefix("$env:").unwrap_or(assignment);
        let Some((name, value)) = assignment.split_once(['=', ':']) else { return };
        let (name, value) = (name.trim().trim_matches(QUOTES), value.trim());
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_name) || value.starts_with(['=', '/']) {
            return;
        }
        let is_variable = name.contains('_') && !name.bytes().any(|byte| byte.is_ascii_lowercase());
        if !is_variable && !value.trim_start_matches(QUOTES).starts_with("sk-") {
            return;
        }
        let is_telling = is_variable && name.len() <= MAX_NAME && name.contains("KEY");
        self.variable = Some(if is_telling { format!(" to {name}") } else { String::new() });
        self.key = value.to_owned();
    }

    /// Removes the second copy of a key that was pasted twice, as often happens at a hidden prompt.
    fn halve(&mut self) {
        let (first, second) = self.key.as_bytes().split_at(self.key.len() / 2);
        if first == second && first.starts_with(b"sk-") {
            self.key.truncate(self.key.len() / 2);
            self.note("its second copy");
        }
    }
}

const fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{2069}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
    )
}

/// Returns the text after a word, ignoring case.
fn without_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (head, rest) = (text.get(..word.len())?, text.get(word.len()..)?);
    let is_apart = word.ends_with(':') || rest.is_empty() || rest.starts_with(char::is_whitespace);
    (head.eq_ignore_ascii_case(word) && is_apart).then_some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qwen_base::Code;
    use qwen_base::foreign_keys::PREFIXES;

    use super::*;

    const PLAIN: &str = "sk-0123456789abcdef0123456789abcdef";
    const OF_PLAN: &str = "sk-sp-0123456789abcdef0123456789abcdef";

    fn read(text: &str) -> Result<(String, Vec<String>)> {
        let mut notes = Vec::new();
        let key = read_key(text, &mut notes)?;
        Ok((key.expose().to_owned(), notes))
    }

    #[test]
    fn text_around_a_key_is_removed() {
        assert_eq!(read(PLAIN).unwrap(), (PLAIN.to_owned(), vec![]));
        for (given, key) in [
            ("  KEY\r\n", OF_PLAN),
            ("Bearer KEY", PLAIN),
            ("bearer\tKEY", PLAIN),
            ("\"Bearer KEY\"", PLAIN),
            ("Bearer \"KEY\"", PLAIN),
            ("Authorization: Bearer KEY", PLAIN),
            ("x-api-key: KEY", PLAIN),
            ("\u{201c}KEY\u{201d}", PLAIN),
            ("\u{2018}KEY\u{2019}", PLAIN),
            ("\u{300c}KEY\u{300d}", PLAIN),
            ("\"KEY\",", PLAIN),
            ("'KEY';", PLAIN),
            ("`KEY`", PLAIN),
            ("KEY,", PLAIN),
            ("\"KEY", PLAIN),
            ("\u{200b}KEY\u{2060}", PLAIN),
            ("\u{feff}KEY\u{a0}", PLAIN),
            ("<KEY>", PLAIN),
            ("\u{1b}[200~KEY\u{1b}[201~", PLAIN),
        ] {
            let (found, notes) = read(&given.replace("KEY", key)).unwrap();
            assert_eq!((found.as_str(), notes.len()), (key, 1), "{given:?}");
            assert!(!notes[0].contains("0123"), "{}", notes[0]);
        }
        assert_eq!(read(&PLAIN.repeat(2)).unwrap().0, PLAIN);
        assert_eq!(read("sk-0123\u{200b}4567").unwrap().0, "sk-01234567");
        assert_eq!(read("bearersk-1").unwrap().0, "bearersk-1");
    }

    #[test]
    fn an_assignment_is_parsed_and_its_variable_is_named() {
        for (given, name) in [
            ("DASHSCOPE_API_KEY=@", " to DASHSCOPE_API_KEY"),
            ("export OPENAI_API_KEY='@'", " to OPENAI_API_KEY"),
            ("export OPENAI_API_KEY=\"@\";", " to OPENAI_API_KEY"),
            ("set BAILIAN_TOKEN_PLAN_API_KEY=@", " to BAILIAN_TOKEN_PLAN_API_KEY"),
            ("$env:DASHSCOPE_API_KEY = \"@\"", " to DASHSCOPE_API_KEY"),
            ("DASHSCOPE_API_KEY: @", " to DASHSCOPE_API_KEY"),
            ("\"apiKey\": \"@\",", ""),
            ("api_key=@", ""),
        ] {
            let (key, notes) = read(&given.replace('@', OF_PLAN)).unwrap();
            assert_eq!(key, OF_PLAN, "{given}");
            assert_eq!(notes[0], format!("The key was read from an assignment{name}."), "{given}");
            assert!(notes.iter().all(|note| !note.contains("0123")), "{notes:?}");
        }
        for key in ["dGVzdA==", "dGVzdAo=", "a=b", "user:pass", "a:/b"] {
            assert_eq!(read(key).unwrap(), (key.to_owned(), vec![]));
        }
    }

    #[test]
    fn text_that_is_not_a_key_is_refused_and_not_repeated() {
        for (text, reason) in [
            ("", "no key was given"),
            ("  ", "no key was given"),
            ("\"\"", "no key was given"),
            ("Bearer ", "no key was given"),
            ("DASHSCOPE_API_KEY=", "no key was given"),
            ("sk-sp-****cdef", "masked form"),
            ("sk-012*cdef", "masked form"),
            ("sk-0123\u{2026}cdef", "masked form"),
            ("sk-0123...cdef", "masked form"),
            ("sk-\u{2022}\u{2022}\u{2022}\u{2022}cdef", "masked form"),
            ("https://bailian.console.aliyun.com/?tab=model#/api-key", "address"),
            ("www.aliyun.com", "address"),
            ("{\"api_key\":\"sk-0123456789abcdef\"}", "JSON"),
            ("[\"sk-0123456789abcdef\"]", "JSON"),
            ("sk-xxxxxxxx", "placeholder"),
            ("sk-sp-xxxxxxxx", "placeholder"),
            ("<YOUR_API_KEY>", "placeholder"),
            ("$DASHSCOPE_API_KEY", "placeholder"),
            ("-----BEGIN PRIVATE KEY-----", "private key file"),
            ("sk-0123 sk-4567", "a space"),
            ("sk-0123\nsk-4567", "a space"),
            ("sk-\u{1}0123", "character"),
            ("sk-\u{e9}0123", "character"),
            (&"k".repeat(2000), "too long"),
            (&"A_KEY=".repeat(400_000), "too long"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{text:?}");
            assert!(
                error.message().starts_with("key ") && error.message().contains(reason),
                "{text:?}: {error}"
            );
            assert!(!error.message().contains("0123") && !error.message().contains("cdef"), "{error}");
        }
    }

    #[test]
    fn keys_of_other_companies_are_recognised() {
        let web_token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
        let prefixes = PREFIXES.iter().map(|(prefix, _)| *prefix).chain(["sk-sk-ant-", "sk-sp-sk-ant-"]);
        let others = prefixes.map(|prefix| format!("{prefix}0123456789abcdef"));
        let more = [web_token, "LTAI5t0123456789", "hunter2", "sk-0123456789T3BlbkFJ0123456789"];
        for text in others.chain(more.map(str::to_owned)) {
            let (key, _) = read(&text).unwrap();
            let error = expect_alibaba_form(&Secret::new(key)).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{text}");
            assert!(error.message().contains("--base-url") && error.message().contains("nothing was sent"));
            assert!(!error.message().contains(&text[text.len() - 4..]), "{error}");
        }
        for text in ["sk-", "sk-sp-", "sk-a/b"] {
            expect_alibaba_form(&Secret::new(text)).unwrap_err();
        }
        for text in [PLAIN, OF_PLAN, "sk-1"] {
            expect_alibaba_form(&Secret::new(text)).unwrap();
        }
    }

    proptest! {
        #[test]
        fn an_accepted_key_fits_into_a_header_and_reads_the_same(text in "([sk:=_A-Z\"'<*. -]|.){0,40}") {
            if let Ok((key, _)) = read(&text) {
                prop_assert!(key.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert_eq!(read(&key).unwrap(), (key, vec![]));
            }
        }

        #[test]
        fn errors_and_notes_contain_no_part_of_the_key(
            before in "[ \"'<\u{200b}]{0,3}|Bearer |export A_KEY=", after in "[ \"'>,;*\u{2026}\n]{0,3}", secret in "[0-9a-f]{32}"
        ) {
            let mut notes = Vec::new();
            let text = format!("{before}sk-{secret}{after}");
            let told = read_key(&text, &mut notes).err().map(|error| error.to_string()).unwrap_or_default();
            prop_assert!(!told.contains(&secret[..8]) && !notes.concat().contains(&secret[..8]));
        }
    }
}
