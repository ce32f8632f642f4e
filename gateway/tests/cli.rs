//! The command line of `tidegated` as a user or a script meets it: what is printed, and how it exits.
//! (Also what makes `cargo test --workspace` build the program that the end-to-end tests start: cargo builds a package's
//! programs for the integration tests of that package.)

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it stands"
)]

use std::process::{Command, Output};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegated"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

fn tidegated(args: &[&str]) -> Output {
    command(args).output().unwrap()
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

/// What is said of options that are wrong. Where they are right, it is of the certificate, which is not there: no socket is
/// opened in any case.
fn refused(options: &[&str]) -> String {
    let rest = [
        "--visitors=127.0.0.1:0",
        "--tunnels=127.0.0.1:0",
        "--identity=no-such-file.pem",
        "--ca=no-such-file.crt",
    ];
    let output = tidegated(&[&["run"], options, &rest].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{options:?}: {said}");
    // One line for each mistake.
    assert!(
        said.lines().all(|line| line.starts_with("tidegated: ")),
        "{options:?}: {said}"
    );
    said
}

#[test]
fn a_number_out_of_range_is_told_the_range() {
    for (range, wrong, options) in [
        (
            "from 1 to 1000000000",
            ["0", "1000000001"],
            &[
                "--max-visitors",
                "--max-visitors-per-source",
                "--max-tunnels",
                "--max-tunnels-per-name",
                "--max-tunnels-per-source",
                "--max-handshakes-per-source",
            ][..],
        ),
        (
            "from 0 to 1000000000",
            ["-1", "18446744073709551616"],
            &["--body-rate", "--max-held", "--max-held-per-name"],
        ),
        (
            "from 1 to 1073741824",
            ["0", "4294967296"],
            &["--max-streams", "--max-tunnel-streams"],
        ),
        ("from 1 to 4096", ["0", "4097"], &["--max-fields"]),
        ("from 1 to 1024", ["0", "1025"], &["--workers"]),
        ("from 8KiB to 1MiB", ["0", "1G"], &["--max-head"]),
        ("from 512KiB to 128MiB", ["0", "129MiB"], &["--window-max"]),
        (
            "from 50ms to 365d",
            ["0", "49ms"],
            &[
                "--tls-timeout",
                "--head-timeout",
                "--idle-timeout",
                "--stall-timeout",
                "--settle-timeout",
                "--ping-interval",
                "--ping-timeout",
                "--probe-after",
                "--probe-timeout",
            ],
        ),
        (
            "365d or less",
            ["366d", "999999999999999"],
            &["--drain", "--hold", "--response-timeout"],
        ),
    ] {
        for option in options {
            for value in wrong {
                let said = refused(&[&format!("{option}={value}")]);
                assert!(
                    said.contains(option) && said.contains(range),
                    "{option}={value}: {said}"
                );
            }
        }
    }
}

#[test]
fn a_limit_for_a_part_above_the_whole_is_refused_where_it_was_set() {
    for (part, whole) in [
        ("--max-visitors-per-source", "--max-visitors"),
        ("--max-tunnels-per-name", "--max-tunnels"),
        ("--max-tunnels-per-source", "--max-tunnels"),
        ("--max-held-per-name", "--max-held"),
    ] {
        let said = refused(&[&format!("{whole}=10"), &format!("{part}=11")]);
        assert!(
            said.contains(&format!("{part}: 11")) && said.contains(&format!("{whole} is 10")),
            "{said}"
        );
        // Whoever lowers the whole alone, or sets both alike, meets the next mistake.
        for options in [
            vec![format!("{whole}=10")],
            vec![format!("{whole}=10"), format!("{part}=10")],
        ] {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let said = refused(&options);
            assert!(said.contains("no-such-file"), "{options:?}: {said}");
        }
    }
}

#[test]
fn zero_is_taken_where_it_means_something() {
    for option in [
        "--max-body",
        "--max-held",
        "--max-held-per-name",
        "--max-held-octets",
        "--body-rate",
        "--hold",
        "--drain",
        "--response-timeout",
    ] {
        let said = refused(&[&format!("{option}=0")]);
        assert!(said.contains("no-such-file"), "{option}: {said}");
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

#[test]
fn a_mistake_in_a_variable_names_it_and_an_empty_one_is_none() {
    for (variable, value, named) in [
        ("TIDEGATE_MAX_BODY", "many", Some("--max-body")),
        (
            "TIDEGATE_MAX_TUNNELS_PER_NAME",
            "30000",
            Some("--max-tunnels-per-name"),
        ),
        ("TIDEGATE_NO_VIA", "perhaps", Some("--no-via")),
        ("TIDEGATE_ADMIN", "", None),
        ("TIDEGATE_MAX_BODY", "10KB", None),
        ("TIDEGATE_NO_VIA", "1", None),
    ] {
        let output = command(&[
            "run",
            "--visitors=127.0.0.1:0",
            "--tunnels=127.0.0.1:0",
            "--identity=no-such-file.pem",
            "--ca=no-such-file.crt",
        ])
        .env(variable, value)
        .output()
        .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{variable}={value}: {said}");
        let expected = match named {
            Some(option) => format!("{option} comes from the variable {variable}"),
            None => "no-such-file".to_owned(),
        };
        assert!(said.contains(&expected), "{variable}={value}: {said}");
    }
}

/// Whoever asks for an interface that is not there has made a mistake, as with an address that is not.
#[test]
fn what_this_machine_lacks_is_no_fault_of_the_programs() {
    for option in ["--visitors", "--tunnels-clear", "--admin"] {
        let mut words = vec![
            "run",
            "--visitors=127.0.0.1:0",
            "--tunnels-clear=127.0.0.1:0",
        ];
        words.retain(|word| !word.starts_with(&format!("{option}=")));
        let asked = format!("{option}=[fe80::1%77777]:0");
        words.extend(["--tunnels-clear-name=a.test", &asked]);
        let output = tidegated(&words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        let told = "no interface of this machine has the number 77777; `ip link` shows";
        assert!(said.contains(told) && said.contains(option), "{said}");
    }
}

#[test]
fn the_help_says_where_commas_separate() {
    let shown = tidegated(&["run", "--help"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    for option in ["--visitors-cert", "--tunnels-clear-name", "--trust"] {
        let line = text
            .lines()
            .find(|line| line.contains(&format!("{option} ")));
        assert!(line.unwrap().contains("commas"), "{option}");
    }
}
