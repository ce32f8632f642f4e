//! What `check` says to who brings the words of another program, or takes a key for another thing.

use super::told;

/// The one line that has all of `parts`.
fn assert_said(text: &str, parts: &[&str]) {
    let told = told(text);
    let said = |line: &&String| parts.iter().all(|part| line.contains(part));
    assert!(told.iter().any(|line| said(&line)), "{parts:?}: {told:#?}");
}

#[test]
fn a_star_elsewhere_than_in_front_is_told_with_the_name_as_it_is_written() {
    let route = |key: &str| format!("[[routes]]\n{key}\nbackend = 'a'\n");
    for (text, name) in [
        (route("host = '*.*.a.test'"), "*.*.a.test"),
        (route("host = 'a.*.test'"), "a.*.test"),
        (route("host = 'w*.a.test'"), "w*.a.test"),
        (route("sni = '*.*.a.test'"), "*.*.a.test"),
        ("[tunnels]\nnames = '*.*.a.test'\n".to_owned(), "*.*.a.test"),
    ] {
        let star = format!("in \"{name}\" a star stands elsewhere than in front");
        assert_said(&text, &[&star, "one `*.` before a name", "*.example.com"]);
    }
    let one = "[[routes]]\ntunnel = '*.a.test'\n";
    assert_said(one, &["\"*.a.test\"", "one name is due, without a star"]);
}
