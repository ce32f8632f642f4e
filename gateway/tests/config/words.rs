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

#[test]
fn a_range_in_the_place_of_a_list_of_ranges_is_told_what_is_due() {
    for (key, range) in [
        ("allow", "10.0.0.0/8"),
        ("deny", "192.0.2.7"),
        ("deny", "2001:db8::/32"),
    ] {
        let text = format!("[listeners.a]\naddress = 0\n[sources]\n{key} = ['{range}']\n");
        let said = format!(
            "sources.{key}: {range} is a range of addresses, and the name of a file of them is due"
        );
        assert_said(&text, &[&said, "one to a line"]);
    }
    // A name that only looks like one is a file's.
    let text = "[listeners.a]\naddress = 0\n[sources]\ndeny = '10.0.0.0.txt'\n";
    assert_said(text, &["10.0.0.0.txt cannot be read: No such file"]);
}

#[test]
fn lists_that_cannot_be_read_are_told_where_nothing_listens() {
    let text = "[limits]\nmax_streams = 0\n[sources]\nallow = 'no.txt'\ndeny = 'none.txt'\nrequest_action = 'mark'\n\
                [times]\nhold = 'long'\n";
    for part in [
        "nothing listens for visitors",
        "a.toml:2:15: limits.max_streams: ",
        "a.toml:4:9: sources.allow: no.txt cannot be read",
        "a.toml:5:8: sources.deny: none.txt cannot be read",
        "a.toml:6:18: sources.request_action: this needs the field to write into",
        "a.toml:8:8: times.hold: ",
    ] {
        assert_said(text, &[part]);
    }
}
