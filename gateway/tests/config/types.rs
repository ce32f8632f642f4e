//! What `check` says of a value of another type than is due, and of one that is none.

use super::{folder, shown, told};

/// Told with its place, its key and what is due; sizes and times may be either.
#[test]
fn a_number_in_quotes_and_a_word_without_are_refused() {
    let text = r#"workers = "2"
log = true
state_file = 5
[limits]
max_visitors = "5000"
max_fields = "no"
max_head = 65536
max_body = "0"
[sources]
ipv4_prefix = "24"
mark = 5
request_rate = 100
error_statuses = [404, "500-599"]
[times]
body_rate = "100"
hold = "3"
tls_timeout = 5
drain = 1.5
[listeners.web]
address = 80
[listeners.web.sources]
max_visitors_per_source = "7"
[[routes]]
host = 5
backend = "api"
[backends.api]
retries = "3"
max_queued = "10"
eject_after = true
connect_timeout = true
send_proxy = true
balance = { hash = "header", name = 7, most = "150" }
check = { path = "/", method = 5, port = "81", rise = "2", fall = "none" }
[backends.api.servers]
one = { address = "10.0.0.1:80", weight = "2", max_connections = "5" }
two = { address = "a.test:80", slots = "5" }
"#;
    let told = told(text);
    let a_string = "this is a whole number; a string is due";
    let places = [
        (
            "a.toml:1:11: workers: ",
            "this is a string; a whole number is due: workers = 2",
        ),
        ("a.toml:2:7: log: ", "`true` is not"),
        ("a.toml:3:14: state_file: ", a_string),
        (
            "a.toml:5:16: limits.max_visitors: ",
            "a whole number is due: max_visitors = 5000",
        ),
        ("a.toml:6:14: limits.max_fields: ", "from 1 to 4096"),
        ("a.toml:10:15: sources.ipv4_prefix: ", "ipv4_prefix = 24"),
        ("a.toml:11:8: sources.mark: ", a_string),
        (
            "a.toml:12:16: sources.request_rate: ",
            "write it like 100/10s",
        ),
        ("a.toml:15:13: times.body_rate: ", "body_rate = 100"),
        (
            "a.toml:18:9: times.drain: ",
            "`1.5` is not a duration; write it like",
        ),
        (
            "a.toml:22:27: listeners.web.sources.max_visitors_per_source: ",
            "max_visitors_per_source = 7",
        ),
        ("a.toml:24:8: routes.host: ", "a host name is needed"),
        ("a.toml:27:11: backends.api.retries: ", "retries = 3"),
        ("a.toml:28:14: backends.api.max_queued: ", "max_queued = 10"),
        (
            "a.toml:29:15: backends.api.eject_after: ",
            "this is true or false; a whole number is due",
        ),
        (
            "a.toml:30:19: backends.api.connect_timeout: ",
            "`true` is not a duration; write it like",
        ),
        (
            "a.toml:31:14: backends.api.send_proxy: ",
            "write \"v1\" or \"v2\", or leave it out",
        ),
        ("a.toml:32:37: backends.api.balance.name: ", a_string),
        ("a.toml:32:47: backends.api.balance.most: ", "most = 150"),
        ("a.toml:33:32: backends.api.check.method: ", a_string),
        ("a.toml:33:42: backends.api.check.port: ", "port = 81"),
        ("a.toml:33:55: backends.api.check.rise: ", "rise = 2"),
        ("a.toml:33:67: backends.api.check.fall: ", "from 1 to 1000"),
        (
            "a.toml:35:43: backends.api.servers.one.weight: ",
            "a whole number is due: weight = 2",
        ),
        (
            "a.toml:35:66: backends.api.servers.one.max_connections: ",
            "max_connections = 5",
        ),
        (
            "a.toml:36:40: backends.api.servers.two.slots: ",
            "slots = 5",
        ),
    ];
    for (place, part) in places {
        let found = |line: &String| line.starts_with(place) && line.contains(part);
        assert!(told.iter().any(found), "{place}{part}: {told:#?}");
    }
    assert_eq!(told.len(), places.len(), "{told:#?}");
}

/// The command line and the environment have words alone, and what is printed of them is a file that is read again.
#[test]
fn what_a_word_said_is_printed_as_its_type() {
    let folder = folder(&[]);
    let words = ["--visitors=127.0.0.1:0", "--mark=5", "--max-fields=50"];
    let tunnels = ["--tunnels-clear=127.0.0.1:0", "--tunnels-clear-name=a.test"];
    let line = [&words[..], &tunnels].concat();
    let shown = shown(folder.path(), &line, &[("TIDEGATE_WORKERS", "2")]);
    for setting in ["mark = \"5\"", "max_fields = 50", "workers = 2"] {
        assert!(
            shown.iter().any(|(said, _)| said == setting),
            "{setting}: {shown:#?}"
        );
    }
}

/// Numbers, which a library has for levels, are none; nor is nothing at all.
#[test]
fn what_is_no_filter_of_the_log_is_told_with_those_there_are() {
    let part = "write off, error, warn, info, debug or trace, also by target as in `info,h2=debug`";
    for wrong in ["5", "loud", "", "info,", "h2=", "=info", "h2=5", "[x]=info"] {
        let told = told(&format!("log_level = \"{wrong}\"\n"));
        let found =
            |line: &String| line.starts_with("a.toml:1:13: log_level: ") && line.contains(part);
        assert!(told.iter().any(found), "{wrong}: {told:#?}");
    }
    let told = told("log_level = 5\n");
    assert!(
        told.contains(&format!(
            "a.toml:1:13: log_level: `5` is not a log level; {part}"
        )),
        "{told:#?}"
    );
}

/// An empty list would mean the opposite of what somebody who names a key can mean.
#[test]
fn a_list_that_needs_something_has_something() {
    let text = "[listeners.web]\naddress = 80\ncertificates = []\n\
                [listeners.pg]\naddress = 81\nmode = \"tcp\"\nservers = []\n\
                [tunnels]\nclear = 82\nclear_names = \"a.test\"\nnames = []\n\
                [[routes]]\nlisteners = []\ntunnel = \"a.test\"\n\
                [[routes]]\nsni = \"a.test\"\nservers = []\n";
    let told = told(text);
    let places = [
        (
            "a.toml:3:16: listeners.web.certificates: ",
            "an empty list is no certificate",
        ),
        (
            "a.toml:7:11: listeners.pg.servers: ",
            "an empty list is nowhere to go",
        ),
        ("a.toml:11:9: tunnels.names: ", "no agent could bring any"),
        (
            "a.toml:13:13: routes.listeners: ",
            "leave it out for all of them",
        ),
        (
            "a.toml:17:11: routes.servers: ",
            "an empty list is nowhere to go",
        ),
    ];
    for (place, part) in places {
        let found = |line: &String| line.starts_with(place) && line.contains(part);
        assert!(told.iter().any(found), "{place}{part}: {told:#?}");
    }
    assert_eq!(told.len(), places.len(), "{told:#?}");
}
