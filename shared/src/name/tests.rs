//! Names and patterns: what they become, and why they are refused.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[test]
fn names_have_one_form() {
    for (text, form) in [
        ("app1", "app1"),
        ("localhost", "localhost"),
        ("Blog.Example.COM.", "blog.example.com"),
        ("a-b.c--d.example", "a-b.c--d.example"),
        ("r3---sn-abc.example", "r3---sn-abc.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("7.example", "7.example"),
    ] {
        assert_eq!(AgentName::parse(text).unwrap().as_str(), form);
    }
}

#[test]
fn what_is_not_a_name_is_refused_with_the_reason() {
    let long_label = "a".repeat(64);
    let long_name = [
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(62),
    ]
    .join(".");
    assert_eq!(long_name.len(), 254);
    type Expected = fn(&BadName) -> bool;
    let cases: [(&str, Expected); 22] = [
        ("", |e| *e == BadName::Empty),
        (".", |e| *e == BadName::Empty),
        (&long_name, |e| *e == BadName::TooLong(254)),
        (&long_label, |e| matches!(e, BadName::LabelTooLong(_))),
        ("a..b", |e| matches!(e, BadName::EmptyLabel(_))),
        (".a", |e| matches!(e, BadName::EmptyLabel(_))),
        ("a..", |e| matches!(e, BadName::EmptyLabel(_))),
        ("-a.example", |e| matches!(e, BadName::Hyphen(_))),
        ("a-.example", |e| matches!(e, BadName::Hyphen(_))),
        ("app1\0.evil.example", |e| matches!(e, BadName::Nul(_))),
        ("a\tb", |e| matches!(e, BadName::Control(_))),
        ("a\r\nx: y", |e| matches!(e, BadName::Control(_))),
        ("a/b", |e| {
            matches!(e, BadName::Character { found: '/', .. })
        }),
        ("a_b.example", |e| {
            matches!(e, BadName::Character { found: '_', .. })
        }),
        ("app 1", |e| {
            matches!(e, BadName::Character { found: ' ', .. })
        }),
        ("bücher.example", |e| matches!(e, BadName::NotAscii(_))),
        ("xn--zzzzzzzzz99999.example", |e| {
            matches!(e, BadName::BadPunycode(_))
        }),
        ("xn--abc-.example", |e| matches!(e, BadName::Hyphen(_))),
        ("192.0.2.7", |e| matches!(e, BadName::Address(_))),
        ("127.0x1", |e| matches!(e, BadName::Address(_))),
        ("2001:db8::1", |e| matches!(e, BadName::Address(_))),
        ("*.example.com", |e| matches!(e, BadName::Star(_))),
    ];
    for (text, reason) in cases {
        let refused = AgentName::parse(text).unwrap_err();
        assert!(reason(&refused), "{text:?}: {refused:?}");
    }
}

#[test]
fn the_longest_name_and_label_are_allowed() {
    let name = [
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(61),
    ]
    .join(".");
    assert_eq!(name.len(), MAX_NAME);
    assert_eq!(
        AgentName::parse(&format!("{name}.")).unwrap().as_str(),
        name
    );
    let wide = NamePattern::parse(&format!("*.{name}"));
    assert_eq!(wide, Err(BadName::TooLong(255)));
}

#[test]
fn a_reason_never_carries_raw_control_characters_or_kilobytes() {
    let refused = AgentName::parse("a\r\nSet-Cookie: x")
        .unwrap_err()
        .to_string();
    assert!(!refused.contains(['\r', '\n']), "{refused}");
    let refused = AgentName::parse(&"é".repeat(120)).unwrap_err().to_string();
    assert!(refused.len() < 300, "{refused}");
}

#[test]
fn an_operator_may_write_unicode() {
    let name = AgentName::from_operator("Bücher.example").unwrap();
    assert_eq!(name.as_str(), "xn--bcher-kva.example");
    assert_eq!(name, AgentName::parse("XN--BCHER-KVA.example").unwrap());
    let wildcard = NamePattern::from_operator("*.bücher.example").unwrap();
    assert_eq!(wildcard.to_string(), "*.xn--bcher-kva.example");
    assert!(AgentName::from_operator("a\u{202e}b.example").is_err());
}

#[test]
fn wildcards_cover_one_label() {
    let pattern = NamePattern::parse("*.Example.com").unwrap();
    assert!(pattern.is_wildcard());
    assert!(pattern.matches("a.example.com"));
    for other in [
        "example.com",
        "a.b.example.com",
        ".example.com",
        "a.example.org",
    ] {
        assert!(!pattern.matches(other), "{other}");
    }
    assert!(NamePattern::parse("a.b").unwrap().matches("a.b"));
}

#[test]
fn wildcards_never_cover_strangers() {
    for text in ["*", "*.", "*.."] {
        assert_eq!(
            NamePattern::parse(text),
            Err(BadName::BareWildcard),
            "{text}"
        );
    }
    for text in ["*.com", "*.co.uk", "*.github.io", "*.test", "*.COM."] {
        let refused = NamePattern::parse(text);
        assert!(
            matches!(refused, Err(BadName::PublicSuffix(_))),
            "{text}: {refused:?}"
        );
    }
    for text in [
        "*.*.example.com",
        "a.*.example.com",
        "a*.example.com",
        "**.example.com",
    ] {
        let refused = NamePattern::parse(text);
        assert!(
            matches!(&refused, Err(BadName::OddWildcard(name)) if name.contains(text)),
            "{text}: {refused:?}"
        );
    }
    assert!(NamePattern::parse("*.me.github.io").is_ok());
}

#[test]
fn a_map_is_searched_by_text() {
    let name = AgentName::parse("Blog.example").unwrap();
    let map = BTreeMap::from([(name, 1)]);
    assert_eq!(map.get("blog.example"), Some(&1));
}

proptest! {
    #[test]
    fn what_parses_is_canonical_and_parses_to_itself(text in "\\PC{0,40}|[a-zA-Z0-9.-]{0,300}") {
        for name in [AgentName::parse(&text), AgentName::from_operator(&text)].into_iter().flatten() {
            let form = name.as_str();
            prop_assert!(form.len() <= MAX_NAME);
            prop_assert!(form.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')));
            prop_assert!(form.split('.').all(|label| (1..=MAX_LABEL).contains(&label.len())));
            prop_assert_eq!(&AgentName::parse(form).unwrap(), &name);
            prop_assert_eq!(&AgentName::from_operator(form).unwrap(), &name);
        }
    }

    #[test]
    fn a_pattern_prints_as_it_parses(text in "(\\*\\.)?[a-z]{1,9}(\\.[a-z]{1,9}){0,3}") {
        if let Ok(pattern) = NamePattern::parse(&text) {
            prop_assert_eq!(NamePattern::parse(&pattern.to_string()).unwrap(), pattern);
        }
    }
}
