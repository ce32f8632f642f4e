//! What `check` and `run` say of files that are no TOML, or no files, and of values that no machine takes or that would spoil a
//! terminal.

use std::fs;
use std::process::Command;

use super::{FINE, folder, tidegated, told};

/// With the key that it stands at, and what was not looked at because of it.
#[test]
fn what_is_no_toml_is_told_with_its_key_and_hides_no_table_before_it() {
    let text = "wokers = 1\n[limits]\nmax_visitor = 5\nmax_streams = \"x\"\n\
                [listeners.web]\naddress = 0\nadress = 1\nproxy = required\n\
                [[routes]]\nhost = 5\ntunnel = \"nobody\"\n";
    let told = told(text);
    for (place, part) in [
        ("a.toml:1:1: wokers: ", "did you mean `workers`?"),
        (
            "a.toml:3:1: limits.max_visitor: ",
            "did you mean `max_visitors`?",
        ),
        ("a.toml:4:15: limits.max_streams: ", "from 1 to"),
        ("a.toml:8:9: listeners.web.proxy: ", ""),
        (
            "a.toml:8:9: ",
            "nothing of this table and behind it was looked at",
        ),
    ] {
        let found = |line: &String| line.starts_with(place) && line.contains(part);
        assert!(told.iter().any(found), "{place}{part}: {told:#?}");
    }
    assert_eq!(told.len(), 5, "{told:#?}");
}

/// However much of it there is.
#[test]
fn a_large_file_of_something_else_fills_no_terminal() {
    let told = told(&"{ \"a\": [1, 2], }\n".repeat(20_000));
    assert_eq!(told.len(), 1001);
    assert_eq!(told[1000], "and 19001 more like these");
}

#[test]
fn what_goes_too_deep_has_its_place_and_a_sentence() {
    let deep = vec!["a"; 100].join(".");
    for (text, place) in [
        (format!("[limits]\n{deep} = 1\n"), "a.toml:2:1: "),
        (format!("[limits]\n[{deep}]\n"), "a.toml:2:1: "),
        (format!("[limits]\nx = {}\n", "[".repeat(200)), "a.toml:2:"),
    ] {
        let told = told(&text);
        let found =
            |line: &String| line.starts_with(place) && line.contains("goes deeper than 80 tables");
        assert!(told.iter().any(found), "{told:#?}");
    }
}

/// `check` says so, and `run` with the same words and 64.
#[test]
fn what_no_machine_takes_is_told_before_anything_is_opened() {
    for (text, part) in [
        (
            FINE.replace("127.0.0.1:0", "[::ffff:127.0.0.1]:80"),
            "a.toml:3:11: listeners.web.address: `[::ffff:127.0.0.1]:80` is not an address to listen on: it is one of IPv4; write 127.0.0.1:80",
        ),
        (
            FINE.replace("127.0.0.1:0", "[fe80::1]:80"),
            "a.toml:3:11: listeners.web.address: `[fe80::1]:80` is not an address to listen on: it is one of a link",
        ),
        (
            format!("control = \"a\\u0000b\"\n{FINE}"),
            "a.toml:1:11: control: `a\\x00b` is no path",
        ),
    ] {
        let folder = folder(&[("a.toml", &text)]);
        for command in ["check", "run"] {
            let output = tidegated(folder.path(), &[command, "--config", "a.toml"], &[]);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{said}");
            assert!(said.contains(part), "{said}");
        }
    }
}

#[test]
fn what_a_file_holds_steers_no_terminal_and_fills_none() {
    let long = "x".repeat(300_000);
    let text = format!(
        "{FINE}[limits]\nmax_head = \"{long}\"\nmax_body = \"\\u001b[31m\\n\\u202e\"\n\"a\\u001bb\" = 1\n\"{long}\" = 1\n\
         [[routes]]\npath = \"{long}\"\ntunnel = \"{long}\"\n[[routes]]\nheaders = {{ \"{long}é\" = \"\" }}\nlisteners = \"{long}\"\ntunnel = \"a.test\"\n"
    );
    let told = told(&text);
    assert_eq!(told.len(), 8, "{told:#?}");
    for line in &told {
        assert!(line.len() < 2000, "{}: {line}", line.len());
        assert!(
            !line.chars().any(|c| c.is_control() || c == '\u{202e}'),
            "{line:?}"
        );
    }
    let cut = format!("`{}…` is not a size; write it like", "x".repeat(120));
    assert!(told.iter().any(|line| line.contains(&cut)), "{told:#?}");
    let escaped = "`\\x1b[31m\\n\\u{202e}` is not a size";
    assert!(told.iter().any(|line| line.contains(escaped)), "{told:#?}");
}

/// Nobody waits for a pipe, nor reads a device to its end.
#[test]
fn what_is_no_regular_file_is_no_configuration() {
    let folder = folder(&[]);
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    fs::create_dir(folder.path().join("within")).unwrap();
    for (file, what) in [
        ("pipe", "a pipe"),
        ("within", "a folder"),
        ("/dev/zero", "a device"),
    ] {
        for command in ["check", "run", "config"] {
            let output = tidegated(folder.path(), &[command, "--config", file], &[]);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{said}");
            let part =
                format!("{file} (--config) cannot be read: it is {what}, and no regular file");
            assert!(said.contains(&part), "{said}");
        }
    }
}

#[test]
fn what_is_no_toml_or_no_file_is_told_with_its_line() {
    let told_of = told("a = \n[b\n");
    assert!(told_of[0].starts_with("a.toml:1:"), "{told_of:?}");
    assert!(told_of[1].starts_with("a.toml:2:"), "{told_of:?}");
    assert!(
        told_of[0].contains(": a: ") && told_of[1].contains(": b: "),
        "{told_of:?}"
    );
    let twice = told("[limits]\nmax_streams = 1\nmax_streams = 2\n");
    let place = "a.toml:3:1: limits.max_streams: duplicate key";
    assert!(
        twice.iter().any(|line| line.starts_with(place)),
        "{twice:?}"
    );
    let folder = folder(&[]);
    fs::write(folder.path().join("a.toml"), b"# \n\xff").unwrap();
    for (file, part) in [
        ("a.toml", "line 2 is not UTF-8"),
        ("b.toml", "No such file"),
    ] {
        let output = tidegated(folder.path(), &["run", "--config", file], &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(file) && said.contains(part), "{said}");
    }
    let deep = format!("a = {}", "[".repeat(10_000));
    assert!(told(&deep)[0].starts_with("a.toml:1:"));
}
