//! Where a text stands that is no TOML: the table and the key around a place in it, found from the lines before it, because there is
//! no tree to ask. Pure.

/// What stands around a place in a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Around {
    /// `listeners.web.address`; empty before the first key.
    pub(super) key: String,
    /// Where the table begins that it is in.
    pub(super) table_at: usize,
}

/// The nearest key at or before `at`, with its table.
pub(super) fn around(text: &str, at: usize) -> Around {
    let (mut table, mut table_at) = (String::new(), 0);
    let mut key = String::new();
    let mut within = None;
    let mut begin = 0;
    let at = at.min(text.len().saturating_sub(1));
    for line in text.split_inclusive('\n') {
        if begin > at {
            break;
        }
        let last = (begin..begin + line.len()).contains(&at);
        if within.is_none() {
            if let Some(name) = head(line, last) {
                (table, table_at) = (name.to_owned(), begin);
                key.clear();
            } else if let Some(name) = setting(line, last) {
                name.clone_into(&mut key);
            }
        }
        within = left_open(line, within);
        begin += line.len();
    }
    let parts = [table.as_str(), key.as_str()];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    Around {
        key: parts.collect::<Vec<_>>().join("."),
        table_at,
    }
}

/// Where a key stands of more parts than a parser goes into, as a table's head or before a value.
pub(super) fn deep(text: &str, parts: usize) -> Option<usize> {
    let mut begin = 0;
    for line in text.split_inclusive('\n') {
        let name = line.split(['=', ']', '#']).next().unwrap_or_default();
        if name.split('.').count() >= parts {
            return Some(begin + line.len() - line.trim_start().len());
        }
        begin += line.len();
    }
    None
}

/// The name in the head of a table; one that is not closed counts where it is what is `broken`.
fn head(line: &str, broken: bool) -> Option<&str> {
    let line = line.trim();
    let rest = line.strip_prefix('[')?;
    let rest = rest.strip_prefix('[').unwrap_or(rest);
    let (name, rest) = match rest.split_once(']') {
        Some((name, rest)) => (name, rest.trim_start_matches(']').trim_start()),
        None if broken => (rest.split('#').next().unwrap_or_default(), ""),
        None => return None,
    };
    let name = name.trim();
    // An array's values may begin a line as well, and are numbers or in quotes.
    let is_name =
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(is_of_key);
    (is_name && (broken || rest.is_empty() || rest.starts_with('#'))).then_some(name)
}

/// The key before a value; where it is `broken`, the word that may have been meant as one.
fn setting(line: &str, broken: bool) -> Option<&str> {
    let line = line.trim();
    let (name, is_set) = match line.split_once('=') {
        Some((name, _)) => (name.trim(), true),
        None => (line, false),
    };
    let whole = !name.is_empty() && name.chars().all(is_of_key);
    if whole && is_set {
        return Some(name);
    }
    let end = name.find(|c: char| !is_of_key(c) || c == ' ');
    let (word, rest) = name.split_at(end.unwrap_or(name.len()));
    // `true,` and `"a" ]` are values of an array.
    let is_value =
        rest.trim_start().starts_with([',', ']', '}']) || matches!(word, "true" | "false");
    let is_key = word.starts_with(|c: char| c.is_ascii_alphabetic()) && !is_value;
    (broken && is_key).then_some(word)
}

fn is_of_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '"' | '\'' | ' ')
}

/// The marks of a string of several lines that is open behind a line, given those before it.
fn left_open(line: &str, within: Option<&'static str>) -> Option<&'static str> {
    let mut rest = line;
    let mut within = within;
    loop {
        if let Some(marks) = within {
            let Some(end) = rest.find(marks) else {
                return within;
            };
            rest = &rest[end + marks.len()..];
        }
        let begin = rest.find(['"', '\'', '#'])?;
        rest = &rest[begin..];
        within = ["\"\"\"", "\'\'\'"]
            .into_iter()
            .find(|marks| rest.starts_with(marks));
        rest = match within {
            Some(marks) => &rest[marks.len()..],
            None if rest.starts_with('#') => return None,
            None => &rest[1 + closed(rest)?..],
        };
    }
}

/// The length of a string of one line, behind its first mark.
fn closed(text: &str) -> Option<usize> {
    let mut octets = text.bytes();
    let mark = octets.next()?;
    let mut escaped = false;
    for (at, octet) in octets.enumerate() {
        if octet == mark && !escaped {
            return Some(at + 1);
        }
        escaped = mark == b'"' && octet == b'\\' && !escaped;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_the_nearest_key_before_it() {
        for (text, key) in [
            ("", ""),
            ("a = §", "a"),
            ("[t]\na = 1\nb = [\n  1,\n  \"x\"\n  §2 ]", "t.b"),
            ("[t]\na = 1\nadress § \"x\"", "t.adress"),
            ("[t]\na = 1\n[listeners.\"a b\"§", "listeners.\"a b\""),
            ("[[routes]] # x\nhost = \"a\" § b", "routes.host"),
            ("[t]\na = \"\"\"\n[not.one]\nno = 1\n§", "t.a"),
            (
                "[t]\na = \'\'\'\n[not.one]\n\'\'\' # \"\"\"\n[u]\nb.c = §",
                "u.b.c",
            ),
            ("a = \"\\\"#\"\n[t]\nc = { d = 1 § e = 2 }", "t.c"),
            ("[t]\na = [\n  \"x\",\n  true,\n  [\"y\"]\n§", "t.a"),
        ] {
            let at = text.find('§').unwrap_or(0);
            let text = text.replace('§', "");
            let found = around(&text, at);
            assert_eq!(found.key, key, "{text}");
            if key.starts_with("t.") {
                let table_at = text.find("[t]").unwrap_or_default();
                assert_eq!(found.table_at, table_at, "{text}");
            }
        }
    }

    #[test]
    fn a_key_of_many_parts_is_found() {
        let deep_one = vec!["a"; 80].join(".");
        assert_eq!(deep(&format!("b = 1\n  {deep_one} = 1\n"), 80), Some(8));
        assert_eq!(deep(&format!("[{deep_one}]\n"), 80), Some(0));
        assert_eq!(deep("a.b = \"........\" # ...", 4), None);
    }
}
