//! What is said of a configuration, on its way to a terminal: on one line, steering nothing, and not as long as what somebody put
//! into a file by mistake. Pure.

use std::borrow::Cow;

use tidegate_shared::text::steers;

use super::table::Problem;

/// Characters of a value that are told.
const MOST: usize = 120;

/// Characters of a sentence: what is longer quotes what nobody reads.
const MOST_OF_SENTENCE: usize = 2000;

/// Makes a problem one that can be printed.
pub(super) fn clean(problem: &mut Problem) {
    problem.key = plain(&cut(&problem.key, MOST)).into_owned();
    let text = plain(&problem.text).into_owned();
    problem.text = middle_out(text);
}

/// A sentence with a value in it that is cut if it is long.
pub(super) fn with_cut(sentence: String, value: &str) -> String {
    match cut(value, MOST) {
        Cow::Borrowed(_) => sentence,
        Cow::Owned(short) => sentence.replace(value, &short),
    }
}

fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// What is to be done stands at the end.
fn middle_out(text: String) -> String {
    let all = text.chars().count();
    if all <= MOST_OF_SENTENCE {
        return text;
    }
    let end: String = text.chars().skip(all - MOST_OF_SENTENCE / 4).collect();
    format!("{}{end}", cut(&text, MOST_OF_SENTENCE / 2))
}

/// With what steers a terminal escaped, as in a line of the log.
fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match u8::try_from(c) {
            Ok(octet) if octet.is_ascii_control() => {
                plain.push_str(&octet.escape_ascii().to_string())
            }
            _ if steers(c) => plain.extend(c.escape_unicode()),
            _ => plain.push(c),
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_escaped_and_what_is_long_is_cut() {
        assert_eq!(
            plain("a\u{1b}[31m\n\u{85}ü\u{202e}"),
            "a\\x1b[31m\\n\\u{85}ü\\u{202e}"
        );
        let long = "é".repeat(500);
        let told = with_cut(format!("`{long}` is none; write one"), &long);
        assert_eq!(told, format!("`{}…` is none; write one", "é".repeat(120)));
        assert_eq!(with_cut("`a` is none".to_owned(), "a"), "`a` is none");
        let told = middle_out(format!("`{}` is none; write one", "é".repeat(5000)));
        assert!(
            told.chars().count() < 1600 && told.ends_with("write one"),
            "{told}"
        );
    }
}
