//! The command line as scripts meet it: exit statuses, and sentences that say what to do.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it stands"
)]

use std::process::{Command, Output};

fn tidegate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).output().unwrap()
}

fn error_of(arguments: &[&str]) -> String {
    let output = tidegate(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{arguments:?}: {error}");
    assert!(
        output.stdout.is_empty(),
        "{arguments:?} wrote to standard output"
    );
    error
}

#[test]
fn help_and_version_are_no_mistake() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["http", "--help"],
        &["help", "http"],
    ] {
        let output = tidegate(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn every_option_has_a_variable_and_a_sentence() {
    let help = String::from_utf8(tidegate(&["http", "--help"]).stdout).unwrap();
    let options: Vec<&str> = help
        .lines()
        .filter(|line| line.trim_start().starts_with("--"))
        .collect();
    assert!(options.len() > 20, "{help}");
    for option in options {
        let name = option.trim_start().split([' ', '=']).next().unwrap();
        let entry = &help[help.find(option).unwrap() + option.len()..];
        let entry = &entry[..entry.find("\n      --").unwrap_or(entry.len())];
        let variable = format!("TIDEGATE_{}", name[2..].replace('-', "_").to_uppercase());
        assert!(
            entry.contains(&format!("[env: {variable}=")),
            "{name}: {entry}"
        );
        let sentence = entry.trim().split("\n\n").next().unwrap();
        assert!(
            sentence.len() > 20 && sentence.starts_with(char::is_uppercase),
            "{name}: {sentence}"
        );
    }
}

#[test]
fn mistakes_exit_with_64_and_a_reason() {
    let clear = ["--gateway", "127.0.0.1:1", "--clear"];
    let with = |arguments: &[&'static str]| [arguments, &clear].concat();
    for (arguments, reason) in [
        (vec!["http"], "TARGET"),
        (vec!["tcp", "3000"], "unrecognized subcommand"),
        (vec!["http", "3000"], "--gateway"),
        (
            vec!["http", "3000", "--gateway", "127.0.0.1:1"],
            "--identity",
        ),
        (with(&["http", "http://app/path"]), "has a path or a query"),
        (with(&["http", "ftp://app"]), "is not a scheme"),
        (with(&["http", "app"]), "says no port"),
        (with(&["http", "3000", "--tunnels", "0"]), "1..=16384"),
        (with(&["http", "3000", "--tunnels", "16385"]), "1..=16384"),
        (
            with(&["http", "3000", "--drain", "soon"]),
            "is not a duration",
        ),
        (
            with(&["http", "3000", "--ping-interval", "1ms"]),
            "`1ms` is too short; it must be from 50ms to 365d",
        ),
        (
            with(&["http", "3000", "--window-max", "1k"]),
            "from 512KiB to 128MiB",
        ),
        (
            with(&["http", "3000", "--log", "xml"]),
            "is not a log format",
        ),
        (
            with(&["http", "3000", "--log-level", "a=b=c"]),
            "is not a log level",
        ),
        (
            with(&["http", "3000", "--host-header", "mine"]),
            "possible values: keep, target",
        ),
        (
            with(&["http", "3000", "--target-insecure"]),
            "is none; write https://",
        ),
        (
            with(&["http", "3000", "--identity", "x.pem"]),
            "cannot be used with",
        ),
        (
            vec!["http", "3000", "--gateway", "nowhere", "--clear"],
            "is not HOST:PORT",
        ),
        (
            vec!["http", "3000", "--gateway", "gw:0", "--clear"],
            "is not HOST:PORT",
        ),
    ] {
        let error = error_of(&arguments);
        assert!(error.contains(reason), "{arguments:?}: {error}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.pem");
    let path = path.to_str().unwrap();
    let arguments = [
        "http",
        "3000",
        "--gateway",
        "127.0.0.1:1",
        "--identity",
        path,
        "--ca",
        path,
    ];
    let missing = error_of(&arguments);
    assert!(
        missing.contains("--identity") && missing.contains(path),
        "{missing}"
    );
    std::fs::write(path, "no certificate").unwrap();
    let empty = error_of(&arguments);
    assert!(empty.contains(path), "{empty}");
}

#[test]
fn variables_do_what_options_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["http", "3000", "--clear"])
        .env("TIDEGATE_GATEWAY", "gw-one:1,wrong")
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(error.contains("`wrong` is not HOST:PORT"), "{error}");
}
