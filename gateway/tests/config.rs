//! The configuration file as a user meets it: what is said of a wrong one, who wins over whom, and what is printed of it.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it stands"
)]

#[path = "config/backends.rs"]
mod backends; // servers that the gateway dials

#[path = "config/files.rs"]
mod files; // those that are named

#[path = "config/missing.rs"]
mod missing; // what has to be and is not

#[path = "config/odd.rs"]
mod odd; // what is no configuration, or nearly none

#[path = "config/places.rs"]
mod places; // where a mistake is told, and that none hides another

#[path = "config/printed.rs"]
mod printed; // what holds, and by whose word

#[path = "config/routes.rs"]
mod routes; // routes that nobody meets, and those that are for too many

#[path = "config/tcp_mode.rs"]
mod tcp_mode; // listeners that pass on what comes

#[path = "config/types.rs"]
mod types; // what stands where something else is due

#[path = "config/unmeant.rs"]
mod unmeant; // what is allowed and seldom meant

#[path = "config/values.rs"]
mod values; // where values come from, and where they are kept

#[path = "config/words.rs"]
mod words; // what is said to who brings another program's words

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn tidegated(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegated"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).args(args);
    command.envs(variables.iter().copied()).output().unwrap()
}

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// What is said of a file that is wrong.
fn told(text: &str) -> Vec<String> {
    let folder = folder(&[("a.toml", text)]);
    let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(output.stdout.is_empty(), "{said}");
    said.lines()
        .map(|line| line.strip_prefix("tidegated: ").unwrap().to_owned())
        .collect()
}

/// What is printed of a configuration, comments and spaces apart.
fn shown(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let output = tidegated(folder, &[&["config"], args].concat(), variables);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let (setting, comment) = line.split_once(" # ").unwrap_or((line, ""));
        (setting.trim().to_owned(), comment.trim().to_owned())
    };
    text.lines().map(line).collect()
}

const FINE: &str = r#"
[listeners.web]
address = "127.0.0.1:0"
[tunnels]
clear = "127.0.0.1:0"
clear_names = "a.test"
"#;

#[test]
fn every_mistake_has_its_place_and_all_are_told_at_once() {
    let wrong = r#"
max_visitors = 5
wokers = 2
log = "humann"
[limits]
max_visitors = "many"
max_streams = 1.5
max_visitors_per_source = 20000
[listeners.web]
adress = ":80"
[listeners."we b"]
address = ":81"
[listeners.two]
address = "nonsense"
proxy = "requird"
mode = "tpc"
[tunnels]
address = "127.0.0.1:8443"
identity = "none.pem"
ca = "7"
clear = "127.0.0.1:8443"
[[routes]]
host = "*.x.test"
path = "api"
tunnel = "a"
[[routes]]
listeners = ["tow"]
headers = { "x y" = "1" }
[[routes]]
tunnel = "b"
[[routes]]
tunnel = "c"
"#;
    let told = told(wrong);
    let places = [
        ("a.toml:2:1: max_visitors: ", "it belongs in [limits]"),
        ("a.toml:3:1: wokers: ", "did you mean `workers`?"),
        ("a.toml:4:7: log: ", "humann"),
        ("a.toml:6:16: limits.max_visitors: ", "from 1 to 1000000000"),
        (
            "a.toml:7:15: limits.max_streams: ",
            "a number with a fraction",
        ),
        (
            "a.toml:8:27: limits.max_visitors_per_source: 20000 could",
            "--max-visitors is 10000",
        ),
        ("a.toml:19:12: tunnels.identity: ", "cannot read none.pem"),
        ("a.toml:9:1: listeners.web: ", "no `address`"),
        (
            "a.toml:10:1: listeners.web.adress: ",
            "did you mean `address`?",
        ),
        ("a.toml:11:1: listeners.\"we b\": ", "letters, digits"),
        ("a.toml:14:11: listeners.two.address: ", "write it like"),
        (
            "a.toml:15:9: listeners.two.proxy: ",
            "off, required and optional",
        ),
        ("a.toml:16:8: listeners.two.mode: ", "tpc"),
        ("a.toml:20:6: tunnels.ca: ", "cannot read 7"),
        (
            "a.toml:21:9: tunnels.clear: ",
            "no certificate that names them",
        ),
        (
            "a.toml:21:9: tunnels.clear: ",
            "both to listen on 127.0.0.1:8443",
        ),
        ("a.toml:24:8: routes.path: ", "begins with `/`"),
        ("a.toml:26:1: routes: ", "goes nowhere"),
        ("a.toml:27:14: routes.listeners: ", "did you mean `two`?"),
        (
            "a.toml:28:21: routes.headers.\"x y\": ",
            "no name of a header field",
        ),
        (
            "a.toml:31:1: routes: ",
            "no request comes here: the route at a.toml:29:1 takes all that it wants",
        ),
    ];
    for (place, part) in places {
        assert!(
            told.iter()
                .any(|line| line.starts_with(place) && line.contains(part)),
            "{place}{part}: {told:#?}"
        );
    }
    assert_eq!(told.len(), places.len(), "{told:#?}");
}

#[test]
fn as_many_as_there_are_are_listed_and_of_a_flood_the_rest_is_counted() {
    for (mistakes, listed) in [(200, 200), (1200, 1000)] {
        let keys = (0..mistakes).map(|number| format!("zzz{number} = 1\n"));
        let told = told(&format!("{}{FINE}", keys.collect::<String>()));
        let unknown = told.iter().filter(|line| line.contains("unknown key"));
        assert_eq!(unknown.count(), listed);
        let rest =
            (mistakes > listed).then(|| format!("and {} more like these", mistakes - listed));
        assert_eq!(told.len(), listed + usize::from(rest.is_some()));
        if let Some(rest) = rest {
            assert_eq!(told.last().unwrap(), &rest);
        }
    }
}

#[test]
fn a_file_that_is_fine_says_so_and_what_is_not_advised() {
    let text = format!("{FINE}proxy = \"optional\"\nproxy_from = \"10.0.0.0/8\"\n");
    let folder = folder(&[("a.toml", &text)]);
    let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.starts_with("advice: a.toml:7:9: tunnels.proxy: `optional`"),
        "{said}"
    );
    assert!(
        said.ends_with("ok: 1 for visitors, 0 routes, 0 backends\n"),
        "{said}"
    );
}
