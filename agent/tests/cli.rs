//! The command line as scripts meet it: exit statuses, and sentences that say what to do.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it stands"
)]

use std::process::{Command, Output};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

fn tidegate(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
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
        &["http", "-V"],
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
        (vec!["udp", "3000"], "unrecognized subcommand"),
        (vec!["tcp", "5432"], "--gateway"),
        (with(&["tcp", "http://db:5432"]), "with `tidegate http`"),
        (with(&["tcp", "db"]), "write db:PORT"),
        (with(&["tcp", "5432", "--h2"]), "unexpected argument"),
        (vec!["http", "3000"], "--gateway"),
        (
            vec!["http", "3000", "--gateway", "127.0.0.1:1"],
            "--identity",
        ),
        (with(&["http", "http://app/path"]), "has a path or a query"),
        (with(&["http", "ftp://app"]), "is not a scheme"),
        (with(&["http", "app"]), "says no port"),
        (with(&["http", "3000", "--tunnels", "0"]), "from 1 to 16384"),
        (
            with(&["http", "3000", "--tunnels", "16385"]),
            "from 1 to 16384",
        ),
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

/// What is said of `http 3000` with these variables, and these arguments besides.
fn error_with(variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = command(&["http"])
        .args(arguments)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{variables:?}: {error}");
    error
}

#[test]
fn variables_do_what_options_do_and_are_named_where_they_are_wrong() {
    let error = error_with(
        &[("TIDEGATE_GATEWAY", "gw-one:1,wrong")],
        &["3000", "--clear"],
    );
    assert!(error.contains("`wrong` is not HOST:PORT"), "{error}");
    assert!(
        error.contains("(--gateway comes from the variable TIDEGATE_GATEWAY)"),
        "{error}"
    );
    let drain = [("TIDEGATE_DRAIN", "soon"), ("TIDEGATE_TARGET", "app")];
    let rest = ["--clear", "--gateway", "gw:1"];
    let error = error_with(&drain[..1], &[&["3000"][..], &rest].concat());
    assert!(
        error.contains("(--drain comes from the variable TIDEGATE_DRAIN)"),
        "{error}"
    );
    let error = error_with(&drain[1..], &rest);
    assert!(
        error.contains("(<TARGET> comes from the variable TIDEGATE_TARGET)"),
        "{error}"
    );
    // What was typed counts, and is not blamed on a variable.
    let error = error_with(
        &drain[..1],
        &[&["3000", "--drain=never"][..], &rest].concat(),
    );
    assert!(
        error.contains("`never`") && !error.contains("TIDEGATE_DRAIN"),
        "{error}"
    );
}

#[test]
fn an_empty_variable_is_none_and_a_flag_takes_the_usual_words() {
    let rest = ["3000", "--gateway", "wrong"];
    let both = ["--identity", "no-such.pem", "--ca", "no-such.crt"];
    for (value, clear) in [("1", true), ("yes", true), ("true", true), ("on", true)]
        .into_iter()
        .chain([("0", false), ("no", false), ("false", false), ("", false)])
    {
        let variables = [("TIDEGATE_CLEAR", value), ("TIDEGATE_DRAIN", "")];
        let error = error_with(&variables, &rest);
        let meant = if clear {
            "is not HOST:PORT"
        } else {
            "--identity"
        };
        assert!(error.contains(meant), "{value:?}: {error}");
        let error = error_with(&variables, &[&rest[..], &both].concat());
        let meant = if clear {
            "cannot be used with"
        } else {
            "no-such.pem"
        };
        assert!(error.contains(meant), "{value:?}: {error}");
    }
    let error = error_with(&[("TIDEGATE_H2", "perhaps")], &rest);
    assert!(
        error.contains("neither yes nor no") && error.contains("variable TIDEGATE_H2"),
        "{error}"
    );
}
