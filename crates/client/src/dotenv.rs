//! Parses `.env` files as the qwen CLI does. The process's environment is not changed.

/// Returns the variables in the file's order. Skips lines that assign nothing.
pub fn variables(file: &str) -> impl Iterator<Item = (String, String)> {
    file.trim_start_matches('\u{feff}').lines().filter_map(|line| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let is_name =
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.is_empty();
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'' | '`')) => value[1..].split(quote).next()?,
            _ => value.split(" #").next()?.trim(),
        };
        is_name.then(|| (name.to_owned(), value.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_parsed() {
        let file =
            "\u{feff}A=1\r\nexport B = 'x y' # c\n# C=2\nD=\"d\" tail\nE= e # c\nnonsense\nF G=1\nH=\nI=a=b";
        let found: Vec<_> = variables(file).collect();
        let expected = [("A", "1"), ("B", "x y"), ("D", "d"), ("E", "e"), ("H", ""), ("I", "a=b")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
