//! The command line of `tidegated` as a user or a script meets it: what is printed, and how it exits.
//! (Also what makes `cargo test --workspace` build the program that the end-to-end tests start: cargo builds a package's
//! programs for the integration tests of that package.)

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it stands"
)]

use std::process::{Command, Output};

fn tidegated(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegated"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command.args(args).output().unwrap()
}

#[test]
fn every_option_has_an_environment_variable_and_a_sentence() {
    let shown = tidegated(&["run", "--help"]);
    assert_eq!(shown.status.code(), Some(0));
    let text = String::from_utf8(shown.stdout).unwrap();
    let options: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("      --"))
        .collect();
    assert!(options.len() > 30, "{} options in:\n{text}", options.len());
    for option in options {
        let (syntax, entry) = option.split_once("  ").unwrap();
        let name = syntax.split(' ').next().unwrap();
        let (sentence, variable) = entry.trim().split_once(" [env: ").unwrap();
        let expected = format!("TIDEGATE_{}=", name.replace('-', "_").to_uppercase());
        assert!(variable.starts_with(&expected), "{name}: {variable}");
        assert!(
            sentence.len() > 10 && sentence.starts_with(char::is_uppercase),
            "{name}: {sentence}"
        );
    }
}

#[test]
fn a_mistake_of_the_users_exits_with_64_and_names_it() {
    for (args, named) in [
        (&["run", "--visitors", "nonsense"][..], "nonsense"),
        (&["run", "--no-such-option"], "--no-such-option"),
        (&["run"], "--tunnels"),
        (&["dance"], "dance"),
    ] {
        let output = tidegated(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}: {said}");
        assert!(said.contains(named), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn an_identity_that_cannot_be_read_is_named() {
    let output = tidegated(&[
        "run",
        "--visitors=127.0.0.1:0",
        "--tunnels=127.0.0.1:0",
        "--identity=no-such-file.pem",
        "--ca=no-such-file.crt",
    ]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("no-such-file"), "{said}");
}
