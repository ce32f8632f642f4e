//! What `check` says of routes that hide others, make others wait, or are very many.

use super::{FINE, folder, tidegated, told};

/// A mistake wherever all that a route is for is taken before it, by however many; none where anything is left to it.
#[test]
fn a_route_that_nobody_can_meet_is_told_with_those_that_hide_it() {
    let listeners = "[tunnels]\nclear = '127.0.0.1:1'\nclear_names = ['a.test']\n[listeners.a]\naddress = '127.0.0.1:80'\n\
                     [listeners.b]\naddress = '127.0.0.1:81'\n[listeners.c]\naddress = '127.0.0.1:82'\nmode = 'tcp'\n\
                     [listeners.d]\naddress = '127.0.0.1:83'\nmode = 'tcp'\ntunnel = 'a.test'\n";
    let file = |routes: &[&str]| {
        let mut text = listeners.to_owned();
        for route in [&["sni = 'none.test'"], routes].concat() {
            text.push_str(&format!("[[routes]]\ntunnel = 'a.test'\n{route}\n"));
        }
        text
    };
    for (routes, by) in [
        (&["", "listeners = 'b'"][..], "18:1"),
        (
            &["path = '/x'", "path = '/x'\nlisteners = ['b', 'b', 'a']"],
            "18:1",
        ),
        (
            &[
                "listeners = 'a'\nhost = '*.test'",
                "listeners = 'b'\nhost = '*.test'",
                "host = '*.test'",
            ],
            "18:1 and a.toml:22:1",
        ),
        (
            &[
                "headers = { X-A = '1', x-b = '2' }",
                "headers = { x-b = '2', x-a = '1' }\nlisteners = 'a'",
            ],
            "18:1",
        ),
        (
            &[
                "headers = { x-a = '1', X-A = '1' }",
                "headers = { x-a = '1' }",
            ],
            "18:1",
        ),
        (
            &["sni = 'a.test'", "sni = 'a.test'\nlisteners = 'c'"],
            "18:1",
        ),
        (
            &[
                "sni = '*.test'\nlisteners = 'd'",
                "sni = '*.test'\nlisteners = 'c'",
                "sni = '*.test'",
            ],
            "18:1 and a.toml:22:1",
        ),
    ] {
        let told = told(&file(routes));
        assert_eq!(told.len(), 1, "{routes:?}: {told:#?}");
        assert!(
            told[0].contains(": routes: no ")
                && told[0].contains(" comes here: the route")
                && told[0].contains(&format!("at a.toml:{by} take")),
            "{routes:?}: {told:#?}"
        );
    }
    for routes in [
        &["listeners = 'a'", ""][..],
        &["listeners = 'a'", "listeners = 'b'"],
        &["", "path = '/'"],
        &["path = '/x'", "path = '/x/'"],
        &["host = '*.test'", "host = 'a.test'", ""],
        &["headers = { x-a = '1' }", "headers = { x-a = '2' }"],
        &["", "headers = { x-a = '2' }"],
        &["sni = 'a.test'\nlisteners = 'c'", "sni = 'a.test'"],
        &["sni = '*.test'", "sni = 'a.test'", "host = 'a.test'"],
    ] {
        let folder = folder(&[("a.toml", &file(routes))]);
        let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{routes:?}: {said}");
    }
}

#[test]
fn listeners_that_wait_for_tls_because_of_a_route_for_all_are_told_of() {
    let advice = |listeners: &str| {
        let text = format!(
            "[listeners.tls]\naddress = \"127.0.0.1:443\"\nmode = \"tcp\"\n\
             [listeners.ssh]\naddress = \"127.0.0.1:22\"\nmode = \"tcp\"\nservers = \"10.0.0.1:22\"\n\
             [[routes]]\nsni = \"a.test\"\nservers = \"10.0.0.2:443\"\n{listeners}\n"
        );
        let folder = folder(&[("a.toml", &text)]);
        let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        said
    };
    let said = advice("");
    assert!(
        said.starts_with("advice: a.toml:8:1: routes: it is for every listener in tcp mode"),
        "{said}"
    );
    assert!(said.contains("visitors of `ssh` (5s) come to"), "{said}");
    for fine in ["listeners = \"tls\"", "listeners = [\"tls\", \"ssh\"]"] {
        assert!(advice(fine).starts_with("ok: "));
    }
}

/// Half a million lines are read in moments, and a lookup in them costs what it costs in ten (see `route`).
#[test]
fn a_hundred_thousand_routes_are_read() {
    use std::fmt::Write as _;
    let mut text = FINE.to_owned();
    for number in 0..100_000 {
        write!(
            text,
            "[[routes]]\nhost = \"h{number}.test\"\npath = \"/p{number}\"\ntunnel = \"a.test\"\n"
        )
        .unwrap();
    }
    let folder = folder(&[("a.toml", &text)]);
    let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.ends_with("100000 routes, 0 backends\n"), "{said}");
}
