//! The configuration file as a user meets it: what is said of a wrong one, who wins over whom, and what is printed of it.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it stands"
)]

#[path = "config/odd.rs"]
mod odd; // what is no configuration, or nearly none

#[path = "config/places.rs"]
mod places; // where a mistake is told, and that none hides another

#[path = "config/routes.rs"]
mod routes; // routes that nobody meets, and those that are for too many

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

#[test]
fn what_is_missing_is_told_where_the_rest_is_fine() {
    for (text, part) in [
        ("", "nothing listens for visitors"),
        ("", "agents have nowhere to dial"),
        (
            "[listeners.a]\naddress = 0\n[tunnels]\naddress = 0\n",
            "a.toml:4:11: tunnels.address: TLS with agents needs",
        ),
        (
            "[listeners.a]\naddress = 0\n[tunnels]\nclear = 0\n",
            "a.toml:4:9: tunnels.clear: tunnels in clear text",
        ),
        (
            "[listeners.a]\naddress = \"0.0.0.0:81\"\n[listeners.b]\naddress = \"127.0.0.1:81\"\n",
            "a.toml:4:11: listeners.b.address: listeners.a.address (a.toml:2)",
        ),
        (
            "[backends.a]\nretries = 1\n",
            "a.toml:1:1: backends.a: backend `a` has no server; add [backends.a.servers]",
        ),
        (
            "[listeners.a]\naddress = 0\nproxy = \"required\"\n",
            "a.toml:3:9: listeners.a.proxy: this needs --proxy-from",
        ),
        (
            "[listeners.a]\naddress = 0\nproxy_from = \"::1\"\n",
            "a.toml:3:14: listeners.a.proxy_from: this changes nothing",
        ),
        (
            "[listeners.a]\naddress = 0\ncertificates = \"none.pem\"\n",
            "a.toml:3:16: listeners.a.certificates: ",
        ),
        (
            "[listeners.visitors-tls]\naddress = 0\n",
            "a.toml:2:11: listeners.visitors-tls.address: TLS needs a certificate",
        ),
        (
            "[tunnels]\nnames = \"a.test\"\n[[routes]]\ntunnel = \"b.test\"\n",
            "a.toml:4:10: routes.tunnel: no agent may bring",
        ),
        (
            "[tunnels]\nnames = \"a.test\"\nclear = 0\nclear_names = \"b.test\"\n",
            "a.toml:4:15: tunnels.clear_names: b.test is not among",
        ),
        (
            "[backends.a]\nretry_on = [\"closed\", \"conn-failure\"]\n",
            "a.toml:2:23: backends.a.retry_on: `conn-failure` is nothing that a request is sent again for; these are known: unreachable, closed, ",
        ),
        (
            "[sources]\nrequest_rate = \"100\"\n",
            "a.toml:2:16: sources.request_rate: `100` is not a rate; write it like 100/10s",
        ),
        (
            "[sources]\nerror_statuses = [\"404\", \"4xx\"]\n",
            "a.toml:2:26: sources.error_statuses: `4xx` is no status of an error",
        ),
        (
            "[sources]\nrequest_action = \"ban\"\n",
            "a.toml:2:18: sources.request_action: `ban` is none of refuse, 429, tarpit and mark",
        ),
        (
            "[sources]\nmark = \"Host\"\n",
            "a.toml:2:8: sources.mark: `Host` has a meaning of its own",
        ),
        (
            "[listeners.a]\naddress = 0\n[sources]\nrequest_action = \"mark\"\n",
            "a.toml:4:18: sources.request_action: this needs the field to write into: --mark x-source-limit",
        ),
        (
            "[listeners.a]\naddress = 0\nrequest_rate = \"1/s\"\n",
            "a.toml:3:1: listeners.a.request_rate: unknown key here; it belongs in `sources` of the listener",
        ),
        (
            "[listeners.a]\naddress = 0\nsources = { max_sources = 5 }\n",
            "a.toml:3:13: listeners.a.sources.max_sources: unknown key here; it belongs in [sources]",
        ),
        (
            "[listeners.a]\naddress = 0\nsources = { request_rat = \"1/s\" }\n",
            "a.toml:3:13: listeners.a.sources.request_rat: unknown key; did you mean `request_rate`?",
        ),
        (
            "[listeners.a]\naddress = 0\nmode = \"tcp\"\nservers = \"h:1\"\nsources = { request_rate = \"1/s\" }\n",
            "a.toml:5:28: listeners.a.sources.request_rate: a listener in TCP mode knows nothing of requests",
        ),
        (
            "[listeners.a]\naddress = 0\nmode = \"tcp\"\nservers = \"h:1\"\n[sources]\nconnection_action = \"mark\"\nmark = \"x-a\"\n",
            "a.toml:6:21: sources.connection_action: the listener a is in TCP mode and has no fields to mark",
        ),
        (
            "[listeners.a]\naddress = 0\n[listeners.a.sources]\ndeny = \"none.txt\"\n",
            "a.toml:4:8: listeners.a.sources.deny: none.txt cannot be read: No such file",
        ),
    ] {
        let told = told(text);
        assert!(
            told.iter().any(|line| line.contains(part)),
            "{part}: {told:#?}"
        );
    }
}

/// Who dials everything has no agents.
#[test]
fn a_gateway_that_only_dials_needs_no_tunnels() {
    let web = "[listeners.web]\naddress = 0\n";
    let pass = "[listeners.pass]\naddress = 0\nmode = \"tcp\"\n";
    let api = "[backends.api.servers]\none = \"10.0.0.1:80\"\n[[routes]]\nbackend = \"api\"\n";
    for fine in [
        format!("{api}{web}"),
        format!("{pass}servers = \"10.0.0.1:80\"\n"),
        format!("{pass}[[routes]]\nsni = \"a.test\"\nservers = \"10.0.0.1:80\"\n"),
    ] {
        let folder = folder(&[("a.toml", &fine)]);
        let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
        assert_eq!(output.status.code(), Some(0), "{fine}{output:?}");
    }
    for lacking in [
        format!("{api}[[routes]]\nhost = \"a.test\"\ntunnel = \"b.test\"\n{web}"),
        format!("{pass}tunnel = \"db.test\"\n"),
        web.to_owned(),
    ] {
        let told = told(&lacking);
        assert!(
            told.iter()
                .any(|line| line.contains("agents have nowhere to dial")),
            "{lacking}{told:?}"
        );
    }
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let text = format!(
        "{FINE}[limits]\nmax_streams = 5\nmax_fields = 6\nmax_held = 7\n[forwarding]\nno_via = true\nno_forwarded = true\n"
    );
    let folder = folder(&[("a.toml", &text)]);
    let shown = shown(
        folder.path(),
        &[
            "--config",
            "a.toml",
            "--max-streams",
            "50",
            "--visitors",
            "127.0.0.1:1",
        ],
        &[
            ("TIDEGATE_MAX_STREAMS", "51"),
            ("TIDEGATE_MAX_FIELDS", "61"),
            ("TIDEGATE_NO_VIA", "no"),
        ],
    );
    for (setting, comment) in [
        ("max_streams = 50", "--max-streams"),
        ("max_fields = 61", "the variable TIDEGATE_MAX_FIELDS"),
        ("max_held = 7", "a.toml:10"),
        ("no_forwarded = true", "a.toml:13"),
        ("no_via = false", "the variable TIDEGATE_NO_VIA"),
        ("address = \"127.0.0.1:1\"", "--visitors"),
        ("[listeners.visitors]", ""),
        ("[listeners.web]", ""),
    ] {
        let pair = (setting.to_owned(), comment.to_owned());
        assert!(shown.contains(&pair), "{pair:?}: {shown:#?}");
    }
    assert!(
        !shown.iter().any(|(setting, _)| setting == "no_via = true"),
        "{shown:#?}"
    );
    assert!(
        !shown.iter().any(|(_, comment)| comment == "default"),
        "{shown:#?}"
    );
}

#[test]
fn a_listener_of_the_command_line_takes_the_place_of_one_of_the_same_name() {
    let text = FINE.replace("[listeners.web]", "[listeners.visitors]");
    let folder = folder(&[("a.toml", &text)]);
    let shown = shown(
        folder.path(),
        &["--config", "a.toml", "--visitors", "127.0.0.1:1"],
        &[],
    );
    let addresses: Vec<_> = shown
        .iter()
        .filter(|(setting, _)| setting.starts_with("address"))
        .collect();
    assert_eq!(
        addresses,
        [&(
            "address = \"127.0.0.1:1\"".to_owned(),
            "--visitors".to_owned()
        )]
    );
}

#[test]
fn what_is_printed_is_a_file_that_means_the_same() {
    let text = format!(
        "{FINE}names = [\"a.test\", \"*.b.test\"]\nproxy = \"required\"\nproxy_from = \"10.0.0.0/8\"\n\
         [listeners.\"odd.name\"]\naddress = \"[::1]:0\"\nproxy = \"optional\"\nproxy_from = [\"::1\", \"10.1.0.0/16\"]\n\
         [[routes]]\nhost = \"*.test\"\npath = \"/a%20b\"\nheaders = {{ x-a = \"\\\"1\\\" \\\\\" }}\nlisteners = \"odd.name\"\ntunnel = \"a.test\"\n\
         [[routes]]\ntunnel = \"x.b.test\"\n[times]\nhold = 0\n\
         [backends.api]\ntls = true\nbalance = \"hash-source\"\n[backends.api.check]\npath = \"/up?x=%20\"\nmethod = \"OPTIONS\"\nhost = \"a.test:1\"\nstatus = [\"200-299\", 401]\n\
         port = 81\ninterval = \"3s\"\ndown_interval = \"250ms\"\nfall = 1\n[backends.api.servers]\none = \"a.test:443\"\n\
         [backends.two]\ncheck = \"tcp\"\nbalance = {{ hash = \"cookie\", name = \"s.id\", most = 125 }}\nslow_start = \"30s\"\n[backends.two.servers]\none = \"a.test:80\"\n"
    );
    let folder = folder(&[("a.toml", &text)]);
    let once = shown(folder.path(), &["--effective", "--config", "a.toml"], &[]);
    let settings: Vec<&str> = once.iter().map(|(setting, _)| setting.as_str()).collect();
    fs::write(folder.path().join("b.toml"), settings.join("\n")).unwrap();
    let again = shown(folder.path(), &["--effective", "--config", "b.toml"], &[]);
    let values = |lines: &[(String, String)]| -> Vec<String> {
        lines
            .iter()
            .map(|(setting, _)| setting.clone())
            .filter(|setting| !setting.starts_with('#'))
            .collect()
    };
    assert_eq!(values(&once), values(&again));
    assert!(
        once.contains(&("hold = 0".into(), "a.toml:23".into())),
        "{once:#?}"
    );
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

#[test]
fn what_is_wrong_with_a_check_or_a_balance_is_told() {
    let wrong = r#"
[backends.a]
check = "htpp"
[backends.b]
check = { pth = "/", method = "GET", interval = 0 }
[backends.c]
check = { path = "health", port = 0 }
[backends.d]
check = { path = "/", method = "CONNECT", host = "a b", status = ["200", "2xx"], fall = 0 }
[backends.e]
check = { tls = true }
servers = { one = "10.0.0.1:80" }
[backends.f]
check = 5
[backends.g]
balance = "hash"
[backends.h]
balance = { hash = "header", most = 100 }
[backends.i]
balance = { hash = "ip", name = "x" }
[backends.j]
balance = { name = "x" }
[backends.k]
balance = { hash = "source", name = "x" }
[backends.l]
balance = { hash = "cookie", name = "a b" }
[backends.m]
check = { path = "bad", status = [] }
[backends.n]
eject_time = "100s"
servers = { one = "10.0.0.1:80" }
"#;
    let told = told(wrong);
    let places = [
        (
            "a.toml:3:9: backends.a.check: ",
            "write \"tcp\", a path like",
        ),
        (
            "a.toml:5:11: backends.b.check.pth: ",
            "did you mean `path`?",
        ),
        ("a.toml:5:31: backends.b.check.method: ", "add path = \"/\""),
        ("a.toml:5:49: backends.b.check.interval: ", "50ms"),
        (
            "a.toml:7:18: backends.c.check.path: ",
            "write one like /health",
        ),
        ("a.toml:7:35: backends.c.check.port: ", "from 1 to 65535"),
        (
            "a.toml:9:32: backends.d.check.method: ",
            "GET, HEAD or OPTIONS",
        ),
        ("a.toml:9:50: backends.d.check.host: ", "no host to ask for"),
        ("a.toml:9:74: backends.d.check.status: ", "from 200 to 599"),
        ("a.toml:9:89: backends.d.check.fall: ", "from 1 to 1000"),
        ("a.toml:11:17: backends.e.check.tls: ", "check.tls = true"),
        ("a.toml:14:9: backends.f.check: ", "`5` is no check"),
        (
            "a.toml:16:11: backends.g.balance: ",
            "hash-source, or a table",
        ),
        ("a.toml:18:11: backends.h.balance: ", "it has no `name`"),
        (
            "a.toml:18:37: backends.h.balance.most: ",
            "from 101 to 100000",
        ),
        (
            "a.toml:20:20: backends.i.balance.hash: ",
            "write source, header or cookie",
        ),
        ("a.toml:22:11: backends.j.balance: ", "it has no `hash`"),
        ("a.toml:24:37: backends.k.balance.name: ", "leave it out"),
        (
            "a.toml:26:37: backends.l.balance.name: ",
            "no name of a cookie",
        ),
        (
            "a.toml:28:18: backends.m.check.path: ",
            "write one like /health",
        ),
        (
            "a.toml:28:34: backends.m.check.status: ",
            "such as \"200-399\"",
        ),
        (
            "a.toml:30:14: backends.n.eject_time: ",
            "eject_time = 100s at first and eject_time_most = 60s",
        ),
    ];
    for (place, part) in places {
        assert!(
            told.iter()
                .any(|line| line.starts_with(place) && line.contains(part)),
            "{place}{part}: {told:#?}"
        );
    }
}

#[test]
fn what_tcp_mode_is_not_for_is_told() {
    let wrong = r#"
[listeners.web]
address = "127.0.0.1:80"
idle_timeout = "1h"
servers = ["10.0.0.1:1"]
[listeners.pg]
address = "127.0.0.1:5432"
mode = "tcp"
certificates = ["site.pem"]
hello_timeout = "0"
[listeners.two]
address = "127.0.0.1:5433"
mode = "tcp"
tunnel = "db.test"
servers = ["10.0.0.1", "[::1]:5", "a b:5"]
[listeners.three]
address = "127.0.0.1:5434"
mode = "tcp"
tunnel = "db.test"
send_proxy = "v3"
[[routes]]
host = "a.test"
listeners = ["two"]
tunnel = "a.test"
[[routes]]
sni = "a.test"
listeners = ["web"]
path = "/x"
tunnel = "a.test"
[[routes]]
sni = "b.test"
listeners = ["two"]
[[routes]]
sni = "b.test"
listeners = ["two"]
tunnel = "c.test"
[[routes]]
sni = "b.test"
listeners = ["two"]
tunnel = "d.test"
[tunnels]
clear = "127.0.0.1:5435"
clear_names = "db.test"
"#;
    let told = told(wrong);
    let places = [
        ("a.toml:4:1: listeners.web.idle_timeout: ", "mode = \"tcp\""),
        ("a.toml:5:1: listeners.web.servers: ", "mode = \"tcp\""),
        ("a.toml:7:11: listeners.pg.address: ", "go nowhere"),
        (
            "a.toml:9:16: listeners.pg.certificates: ",
            "passed on and not ended",
        ),
        ("a.toml:10:17: listeners.pg.hello_timeout: ", ""),
        ("a.toml:15:12: listeners.two.servers: ", "write HOST:PORT"),
        ("a.toml:15:35: listeners.two.servers: ", "write HOST:PORT"),
        ("a.toml:15:11: listeners.two.servers: ", "two places to go"),
        (
            "a.toml:20:14: listeners.three.send_proxy: ",
            "write \"v1\" or \"v2\"",
        ),
        (
            "a.toml:20:14: listeners.three.send_proxy: ",
            "this is what `servers` are told",
        ),
        ("a.toml:23:14: routes.listeners: ", "in tcp mode"),
        ("a.toml:27:14: routes.listeners: ", "in http mode"),
        ("a.toml:28:1: routes.path: ", "in a route for requests"),
        ("a.toml:30:1: routes: ", "it goes nowhere; add tunnel"),
        (
            "a.toml:37:1: routes: ",
            "no connection comes here: the route at a.toml:33:1 takes all that it wants",
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
    let nowhere = self::told(
        "[listeners.pg]\naddress = '127.0.0.1:5432'\nmode = 'tcp'\n[tunnels]\nclear = '127.0.0.1:1'\nclear_names = ['a.test']\n",
    );
    assert!(
        nowhere[0].contains("listeners.pg.address: its connections go nowhere"),
        "{nowhere:?}"
    );
    let alone = self::told(
        "[listeners.a]\naddress = '127.0.0.1:80'\n[tunnels]\nclear = '127.0.0.1:1'\nclear_names = ['a.test']\n[[routes]]\nsni = 'a.test'\ntunnel = 'a.test'\n",
    );
    assert!(alone[0].contains("no listener is in tcp mode"), "{alone:?}");
}

#[test]
fn a_backend_in_tcp_mode_is_one_that_there_is_and_has_no_tls() {
    let text = r#"
[listeners.pg]
address = "127.0.0.1:5432"
mode = "tcp"
backend = "dbs"
[listeners.two]
address = "127.0.0.1:5433"
mode = "tcp"
backend = "db"
servers = ["10.0.0.1:5432"]
[[routes]]
sni = "a.test"
backend = "secure"
[backends.db.servers]
one = "10.0.0.1:5432"
[backends.secure]
tls = true
[backends.secure.servers]
one = "10.0.0.1:443"
"#;
    let told = told(text);
    let places = [
        (
            "a.toml:5:11: listeners.pg.backend: ",
            "no backend `dbs`; did you mean `db`?",
        ),
        (
            "a.toml:10:11: listeners.two.servers: ",
            "`backend` and `servers` are two places to go",
        ),
        (
            "a.toml:13:11: routes.backend: ",
            "in tcp mode octets pass untouched",
        ),
    ];
    for (place, part) in places {
        let found = |line: &String| line.starts_with(place) && line.contains(part);
        assert!(told.iter().any(found), "{place}{part}: {told:#?}");
    }
    assert_eq!(told.len(), places.len(), "{told:#?}");
    let fine = "[listeners.pg]\naddress = \"127.0.0.1:5432\"\nmode = \"tcp\"\nbackend = \"db\"\n\
                [backends.db.servers]\none = \"10.0.0.1:5432\"\n";
    let folder = folder(&[("a.toml", fine)]);
    let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "ok: 1 for visitors, 0 routes, 1 backends\n");
    let once = shown(folder.path(), &["--config", "a.toml"], &[]);
    let goal = ("backend = \"db\"".to_owned(), "a.toml:4".to_owned());
    assert!(once.contains(&goal), "{once:#?}");
}

#[test]
fn what_servers_are_told_has_to_fit_its_version() {
    let text = r#"
[listeners.pg]
address = "127.0.0.1:5432"
mode = "tcp"
backend = "db"
send_proxy = "v2"
[[routes]]
sni = "a.test"
servers = ["10.0.0.1:5432"]
send_proxy = "v1"
proxy_tlvs = ["alpn"]
[backends.db]
proxy = "v2"
proxy_tlvs = ["authority", "sni"]
[backends.db.servers]
one = "10.0.0.1:5432"
"#;
    let told = told(text);
    let places = [
        (
            "a.toml:6:14: listeners.pg.send_proxy: ",
            "those of a backend are told by its own",
        ),
        (
            "a.toml:11:14: routes.proxy_tlvs: ",
            "room that only version 2 has",
        ),
        (
            "a.toml:14:14: backends.db.proxy_tlvs: ",
            "add send_proxy = \"v2\"",
        ),
        ("a.toml:13:1: backends.db.proxy: ", "is `send_proxy`"),
        (
            "a.toml:14:28: backends.db.proxy_tlvs: ",
            "write some of authority, alpn, unique-id, ssl and received",
        ),
    ];
    for (place, part) in places {
        let found = |line: &String| line.starts_with(place) && line.contains(part);
        assert!(told.iter().any(found), "{place}{part}: {told:#?}");
    }
    assert_eq!(told.len(), places.len(), "{told:#?}");
}

#[test]
fn a_file_of_a_backends_tls_is_told_of_at_its_own_line() {
    let text = "[listeners.web]\naddress = \"127.0.0.1:80\"\n[[routes]]\nbackend = \"one\"\n\
                [backends.one.servers]\na = \"10.0.0.1:443\"\n[backends.one.tls]\nca = \"absent.pem\"\n\
                [[routes]]\npath = \"/b\"\nbackend = \"two\"\n[backends.two]\n\
                tls = { client_certificate = \"gone.pem\" }\n[backends.two.servers]\na = \"10.0.0.2:443\"\n";
    let told = told(text);
    for (place, file) in [
        ("a.toml:8:6: backends.one.tls.ca: ", "absent.pem"),
        (
            "a.toml:13:30: backends.two.tls.client_certificate: ",
            "gone.pem",
        ),
    ] {
        let found = |line: &String| line.starts_with(place) && line.contains(file);
        assert!(told.iter().any(found), "{place}{file}: {told:#?}");
    }
    assert_eq!(told.len(), 2, "{told:#?}");
}

/// One mistake hides no other, where two files are wrong that belong together.
#[test]
fn every_file_that_cannot_be_used_is_told() {
    let text = "[listeners.web]\naddress = \"127.0.0.1:443\"\ncertificates = [\"one.pem\", \"two.pem\"]\n\
                [tunnels]\naddress = \"127.0.0.1:8443\"\nidentity = \"id.pem\"\nca = \"ca.pem\"\n\
                [[routes]]\nbackend = \"api\"\n[backends.api.servers]\na = \"10.0.0.1:443\"\n\
                [backends.api.tls]\nca = \"their-ca.pem\"\nclient_certificate = \"ours.pem\"\n";
    let told = told(text);
    let places = [
        ("a.toml:3:16: listeners.web.certificates: ", "one.pem"),
        ("a.toml:3:16: listeners.web.certificates: ", "two.pem"),
        ("a.toml:6:12: tunnels.identity: ", "id.pem"),
        ("a.toml:7:6: tunnels.ca: ", "ca.pem"),
        ("a.toml:13:6: backends.api.tls.ca: ", "their-ca.pem"),
        (
            "a.toml:14:22: backends.api.tls.client_certificate: ",
            "ours.pem",
        ),
    ];
    for (place, file) in places {
        let found = |line: &String| line.starts_with(place) && line.contains(file);
        assert!(told.iter().any(found), "{place}{file}: {told:#?}");
    }
    assert_eq!(told.len(), places.len(), "{told:#?}");
}
