//! What `check` says of listeners and routes in TCP mode.

use super::{folder, shown, tidegated, told};

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
    let nowhere = super::told(
        "[listeners.pg]\naddress = '127.0.0.1:5432'\nmode = 'tcp'\n[tunnels]\nclear = '127.0.0.1:1'\nclear_names = ['a.test']\n",
    );
    assert!(
        nowhere[0].contains("listeners.pg.address: its connections go nowhere"),
        "{nowhere:?}"
    );
    let alone = super::told(
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
