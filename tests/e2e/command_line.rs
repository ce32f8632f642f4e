//! The programs' options: what is wrong with them is said in a sentence, and each may come from the environment.

use std::collections::BTreeSet;

use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::pki::Pki;
use tidegate_tests::program::{Program, built, run};
use tidegate_tests::{HOST, World};

#[tokio::test]
async fn mistakes_of_the_user_end_with_64_and_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let (identity, ca) = (pki.agent(&[HOST]), pki.ca_file("ca"));
    let (identity, ca) = (identity.to_str().unwrap(), ca.to_str().unwrap());
    let good = [
        "--gateway",
        "localhost:1",
        "--identity",
        identity,
        "--ca",
        ca,
    ];
    let missing = [
        "--gateway",
        "localhost:1",
        "--identity",
        "/no/such/file.pem",
        "--ca",
        ca,
    ];
    let swapped = ["--gateway", "localhost:1", "--identity", ca, "--ca", ca];
    let lines: [(&str, Vec<&str>, &str); 8] = [
        ("tidegate", vec![], ""),
        ("tidegate", vec!["http"], "target"),
        (
            "tidegate",
            [&["http", "ftp://x"], &good[..]].concat(),
            "ftp://x",
        ),
        (
            "tidegate",
            [&["http", "99999"], &good[..]].concat(),
            "99999",
        ),
        (
            "tidegate",
            [&["http", "1"], &missing[..]].concat(),
            "/no/such/file.pem",
        ),
        ("tidegate", [&["http", "1"], &swapped[..]].concat(), ca),
        (
            "tidegate",
            [&["http", "1", "--tunnels", "0"], &good[..]].concat(),
            "tunnels",
        ),
        ("tidegated", vec!["run", "--visitors", "nowhere"], "nowhere"),
    ];
    for (program, args, words) in lines {
        let args: Vec<_> = args.iter().map(Into::into).collect();
        let finished = run(&built(program), &args).await;
        assert_eq!(
            finished.code,
            Some(64),
            "{program} {args:?}: {}",
            finished.stderr
        );
        let said = finished.stderr.to_lowercase();
        assert!(
            said.contains(&words.to_lowercase()),
            "{program} {args:?}: {words} in {said}"
        );
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// Whatever a file's option points at, the program says what is wrong and ends: it does not read for ever.
#[tokio::test]
async fn what_is_no_file_is_refused_by_every_program() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let (agent, server) = (text(pki.agent(&[HOST])), text(pki.server(&["localhost"])));
    let ca = text(pki.ca_file("ca"));
    let (pipe, folder) = (dir.path().join("pipe"), text(dir.path().to_owned()));
    let made = run(std::path::Path::new("mkfifo"), &[pipe.clone().into()]).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let giant = dir.path().join("giant.pem");
    let file = std::fs::File::create(&giant).unwrap();
    file.set_len(1 << 40).unwrap();
    let (pipe, giant) = (text(pipe), text(giant));
    for (odd, reason) in [
        ("/dev/zero", "a device"),
        (&pipe, "a pipe"),
        (&folder, "a directory"),
        (&giant, "larger than 1 MiB"),
    ] {
        let http = |identity, ca| {
            let gateway = ["http", "https://localhost:1", "--gateway", "localhost:1"];
            [&gateway[..], &["--identity", identity, "--ca", ca]].concat()
        };
        let any = "127.0.0.1:0";
        let gateway = |identity, ca| {
            let tunnels = ["run", "--tunnels", any, "--visitors", any];
            [&tunnels[..], &["--identity", identity, "--ca", ca]].concat()
        };
        for (program, args) in [
            ("tidegate", http(odd, &ca)),
            ("tidegate", http(&agent, odd)),
            (
                "tidegate",
                [&http(&agent, &ca)[..], &["--target-ca", odd]].concat(),
            ),
            ("tidegated", gateway(odd, &ca)),
            ("tidegated", gateway(&server, odd)),
            (
                "tidegated",
                [
                    &gateway(&server, &ca)[..],
                    &["--visitors-tls", any, "--visitors-cert", odd],
                ]
                .concat(),
            ),
            ("tidegate-certs", vec!["show", odd]),
        ] {
            let args: Vec<_> = args.iter().map(Into::into).collect();
            let finished = run(&built(program), &args).await;
            let said = &finished.stderr;
            assert_eq!(finished.code, Some(64), "{program} {args:?}: {said}");
            assert!(said.contains(odd), "{program} {args:?}: {said}");
            assert!(said.contains(reason), "{program} {args:?}: {said}");
            let file = args.iter().position(|arg| arg.to_str() == Some(odd));
            let option = args[file.unwrap() - 1].to_str().unwrap();
            let named = !option.starts_with("--") || said.contains(option);
            assert!(named, "{program} {args:?}: {said}");
        }
    }
}

#[tokio::test]
async fn numbers_and_options_that_are_none_are_told_in_words() {
    let http = |more: &[&str]| {
        let words = ["http", "3000", "--gateway", "localhost:1", "--clear"];
        [&words[..], more]
            .concat()
            .into_iter()
            .map(Into::into)
            .collect::<Vec<_>>()
    };
    for (more, said) in [
        (
            &["--tunnels", "0"][..],
            "`0` is not a whole number from 1 to 16384",
        ),
        (&["--tunnels", ":8443"], "`:8443` is not a whole number"),
        (
            &["--workers", "x"],
            "`x` is not a whole number from 1 to 1024",
        ),
        (
            &["--tunels", "2"],
            "unexpected argument '--tunels' found; a similar argument exists: '--tunnels'",
        ),
    ] {
        let finished = run(&built("tidegate"), &http(more)).await;
        assert_eq!(finished.code, Some(64), "{more:?}");
        assert!(
            finished.stderr.contains(said),
            "{more:?}: {}",
            finished.stderr
        );
    }
    let negative = run(&built("tidegate"), &http(&["--drain", "-1s"])).await;
    assert_eq!(negative.code, Some(64));
    assert!(
        !negative.stderr.contains("as a value"),
        "{}",
        negative.stderr
    );
}

#[tokio::test]
async fn the_list_of_tunnels_says_who_answers_in_a_gateways_place() {
    let world = World::start().await;
    let ask = async |address: &str| {
        let words = ["tunnels", "--admin", address].map(Into::into);
        run(&built("tidegated"), &words).await
    };
    let other = ask(&world.tunnels.to_string()).await;
    assert_eq!(other.code, Some(64), "{}", other.stderr);
    assert!(
        other.stderr.contains("no gateway's admin page"),
        "{}",
        other.stderr
    );
    let prints = |c: char| c == '\n' || (c.is_ascii() && !c.is_ascii_control());
    assert!(other.stderr.chars().all(prints), "{:?}", other.stderr);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let none = ask(&address).await;
    assert_eq!(
        none.code,
        Some(1),
        "nobody was told anything wrong: {}",
        none.stderr
    );
    assert!(
        none.stderr.contains("no gateway answers at"),
        "{}",
        none.stderr
    );
}

#[tokio::test]
async fn an_address_in_use_ends_with_a_sentence() {
    let world = World::start().await;
    let taken = world.visitors.to_string();
    let (identity, ca) = (world.pki.server(&["localhost"]), world.pki.ca_file("ca"));
    let mut args: Vec<std::ffi::OsString> =
        ["run", "--visitors", &taken, "--tunnels", "127.0.0.1:0"]
            .map(Into::into)
            .to_vec();
    args.extend([
        "--identity".into(),
        identity.into(),
        "--ca".into(),
        ca.into(),
    ]);
    let finished = run(&built("tidegated"), &args).await;
    assert!(matches!(finished.code, Some(1 | 64)), "{:?}", finished.code);
    assert!(finished.stderr.contains(&taken), "{}", finished.stderr);
    assert!(!finished.stdout.contains("ready"));
    args[4] = "127.0.0.1:7".into();
    args[2] = "127.0.0.1:7".into();
    let finished = run(&built("tidegated"), &args).await;
    assert_eq!(finished.code, Some(64), "{}", finished.stderr);
    let said = "--visitors and --tunnels are both to listen on 127.0.0.1:7";
    assert!(finished.stderr.contains(said), "{}", finished.stderr);
}

#[tokio::test]
async fn every_option_has_a_sentence_and_a_variable() {
    for (program, args) in [
        ("tidegated", &["run", "--help"][..]),
        ("tidegate", &["http", "--help"]),
    ] {
        let args: Vec<_> = args.iter().map(Into::into).collect();
        let finished = run(&built(program), &args).await;
        assert_eq!(finished.code, Some(0), "{program}: {}", finished.stderr);
        let options = finished.stdout.matches("\n      --").count()
            + finished.stdout.matches("\n  -").count();
        let variables = finished.stdout.matches("[env: TIDEGATE_").count();
        // --help (and --version, where it is) has none.
        assert!(
            options > 4 && variables + 3 > options,
            "{options} options, {variables} variables"
        );
    }
}

/// What the README leaves out a user does not find, and what it names wrongly he looks for in vain.
#[tokio::test]
async fn the_readme_names_every_option_and_no_other() {
    let named = options_of_the_readme();
    // Every program's, cargo's and the benchmark's.
    let others = [
        "--help",
        "--bench",
        "--bin",
        "--only",
        "--pairs",
        "--quick",
        "--release",
        "--test",
        "--workspace",
    ];
    let mut there = BTreeSet::from(others.map(ToOwned::to_owned));
    for (program, command) in [
        ("tidegate", "http"),
        ("tidegate", "tcp"),
        ("tidegated", "run"),
        ("tidegated", "check"),
        ("tidegated", "config"),
        ("tidegated", "tunnels"),
        ("tidegated", "get"),
        ("tidegated", "set"),
        ("tidegated", "probe"),
        ("tidegate-certs", "init"),
        ("tidegate-certs", "issue"),
        ("tidegate-certs", "show"),
    ] {
        let finished = run(&built(program), &[command.into(), "--help".into()]).await;
        let lines = finished.stdout.lines().map(str::trim_start);
        let options = lines.filter(|line| line.starts_with("--")).map(option);
        for name in options {
            assert!(named.contains(name), "{program} {command} {name}");
            there.insert(name.to_owned());
        }
    }
    let unknown: Vec<_> = named.difference(&there).collect();
    assert!(unknown.is_empty(), "no program has {unknown:?}");
}

/// Every `--name`, and every `-ending` that stands beside one as another ending for it.
fn options_of_the_readme() -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for line in include_str!("../../README.md").lines() {
        for (at, _) in line.match_indices("--") {
            named.insert(option(&line[at..]).to_owned());
        }
        let mut stem = "";
        for code in line.split('`').skip(1).step_by(2) {
            if code.starts_with("--") {
                stem = option(code);
            } else if code.starts_with('-') && !stem.is_empty() && option(code) == code {
                named.insert(format!("{stem}{code}"));
            }
        }
    }
    // Rules of tables are none.
    named.retain(|name| name.contains(|letter: char| letter.is_ascii_lowercase()));
    named
}

/// The option that a text begins with, without its value.
fn option(text: &str) -> &str {
    let of_name = |letter: char| letter == '-' || letter.is_ascii_alphanumeric();
    &text[..text.find(|letter| !of_name(letter)).unwrap_or(text.len())]
}

#[tokio::test]
async fn options_may_come_from_the_environment() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let mut command = tokio::process::Command::new(built("tidegate"));
    command.args(["http", app.target()]);
    command.env(
        "TIDEGATE_GATEWAY",
        format!("localhost:{}", world.tunnels.port()),
    );
    command.env("TIDEGATE_IDENTITY", world.pki.agent(&[HOST]));
    command.env("TIDEGATE_CA", world.pki.ca_file("ca"));
    command.env("TIDEGATE_TUNNELS", "2");
    let mut agent = Program::spawn("tidegate", &mut command);
    agent.ready().await;
    world.wait_filed(HOST, 2, SOON).await;
}
