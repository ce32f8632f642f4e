//! What `check` says of backends, and of what their servers are told.

use super::told;

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
