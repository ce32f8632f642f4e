//! Where a mistake is told that lies between two keys, what is told of a name that there is not, and that no mistake hides another.

use super::told;

/// Each of `places` begins a line that has the text beside it, and there are no others.
fn assert_told(text: &str, places: &[(&str, &str)]) {
    let told = told(text);
    for (place, part) in places {
        let found = |line: &String| line.starts_with(place) && line.contains(part);
        assert!(told.iter().any(found), "{place}{part}: {told:#?}");
    }
    assert_eq!(told.len(), places.len(), "{told:#?}");
}

#[test]
fn keys_that_exclude_each_other_are_told_at_the_key_and_not_at_the_table() {
    let text = r#"
[listeners.web]
address = 80
[listeners.pg]
address = 81
mode = "tcp"
tunnel = "db.test"
servers = ["10.0.0.1:5432"]
[listeners.two]
address = 82
mode = "tcp"
send_proxy = "v2"
backend = "a"
[tunnels]
clear = 83
clear_names = "db.test"
[backends.a]
protocol = "h2"
send_proxy = "v1"
proxy_tlvs = ["alpn"]
retries = 11
check = { send_proxy = false, tls = true }
[backends.a.servers]
one = "10.0.0.1:80"
[backends.b]
protocol = "auto"
check = { send_proxy = true }
eject_time = "2m"
proxy_tlvs = ["alpn"]
servers = { one = { address = "10.0.0.1:80", weight = 0 } }
[backends.c]
tls = { verify = false, ca = "ca.pem" }
servers = { one = "10.0.0.1:80" }
[backends.d]
tls = true
[backends.d.servers]
one = { srv = "_a._tcp.a.test", slots = 2 }
one-1 = "10.0.0.1:80"
[backends.e]
retries = 1
[resolver]
most_ttl = "500ms"
"#;
    assert_told(
        text,
        &[
            (
                "a.toml:8:11: listeners.pg.servers: ",
                "two places to go; leave one of them out",
            ),
            (
                "a.toml:12:14: listeners.two.send_proxy: ",
                "those of a backend are told by its own",
            ),
            (
                "a.toml:20:14: backends.a.proxy_tlvs: ",
                "room that only version 2 has",
            ),
            ("a.toml:21:11: backends.a.retries: ", "11 retries"),
            ("a.toml:22:37: backends.a.check.tls: ", "whom to believe"),
            ("a.toml:26:12: backends.b.protocol: ", "no ALPN"),
            (
                "a.toml:27:24: backends.b.check.send_proxy: ",
                "no header to send",
            ),
            (
                "a.toml:28:14: backends.b.eject_time: ",
                "eject_time_most = 60s",
            ),
            (
                "a.toml:29:14: backends.b.proxy_tlvs: ",
                "add send_proxy = \"v2\"",
            ),
            ("a.toml:30:11: backends.b.servers: ", "weight 0"),
            ("a.toml:32:30: backends.c.tls.ca: ", "verify = false"),
            ("a.toml:35:7: backends.d.tls: ", "tls.server_name"),
            (
                "a.toml:38:9: backends.d.servers.one-1: ",
                "two servers called `one-1`",
            ),
            ("a.toml:39:1: backends.e: ", "no server"),
            (
                "a.toml:42:12: resolver.most_ttl: ",
                "most_ttl must not be below",
            ),
        ],
    );
}

#[test]
fn whatever_wants_tunnels_where_there_are_none_is_told_at_its_place() {
    let nowhere = "agents have nowhere to dial; give --tunnels ADDR";
    let text = r#"
[listeners.web]
address = 80
[listeners.pg]
address = 81
mode = "tcp"
tunnel = "db.test"
[tunnels]
names = ["db.test"]
ca = "ca.pem"
proxy_from = "::1"
[[routes]]
host = "bad host"
tunnel = "db.test"
[[routes]]
sni = "a.test"
tunnel = "db.test"
[[routes]]
backend = "api"
[backends.api.servers]
one = "10.0.0.1:80"
"#;
    assert_told(
        text,
        &[
            ("a.toml:7:10: listeners.pg.tunnel: ", nowhere),
            ("a.toml:9:9: tunnels.names: ", nowhere),
            ("a.toml:10:6: tunnels.ca: ", nowhere),
            ("a.toml:11:14: tunnels.proxy_from: ", nowhere),
            ("a.toml:13:8: routes.host: ", ""),
            ("a.toml:14:10: routes.tunnel: ", nowhere),
            ("a.toml:17:10: routes.tunnel: ", nowhere),
        ],
    );
}

/// What could not be read is not missing for all that.
#[test]
fn one_mistake_hides_no_other_and_makes_none_up() {
    assert_told(
        "[listeners.web]\nadress = 80\naddress = 80\n",
        &[
            ("a.toml:2:1: listeners.web.adress: ", "unknown key"),
            ("agents have nowhere to dial", ""),
        ],
    );
    assert_told(
        "[limits]\nmax_fields = 0\n[listeners.web]\naddress = 80\n[tunnels]\naddress = 81\n",
        &[
            ("a.toml:2:14: limits.max_fields: ", ""),
            ("a.toml:6:11: tunnels.address: ", "TLS with agents needs"),
        ],
    );
    assert_told(
        "wokers = 1\n",
        &[
            ("a.toml:1:1: wokers: ", ""),
            ("nothing listens for visitors", ""),
            ("agents have nowhere to dial", ""),
        ],
    );
    for (text, place) in [
        (
            "[listeners]\nweb = 80\n[tunnels]\nclear = 81\nclear_names = 'a.test'\n",
            "a.toml:2:7: listeners.web: ",
        ),
        (
            "[listeners.web]\naddress = 80\nmode = 'tpc'\n",
            "a.toml:3:8: listeners.web.mode: ",
        ),
        (
            "[listeners.web]\naddress = 80\n[tunnels]\naddress = 'x'\nidentity = 'a'\nca = 'b'\nnames = 'a.test'\n",
            "a.toml:4:11: tunnels.address: ",
        ),
        (
            "[listeners.web]\naddress = 80\n[tunnels]\nclear = 81\nclear_names = ['a b']\n",
            "a.toml:5:16: tunnels.clear_names: ",
        ),
    ] {
        assert_told(text, &[(place, "")]);
    }
    assert_told(
        "[listeners.web]\naddress = 80\n[tunnels]\naddress = 81\nidentity = 'none.pem'\nca = 7\n",
        &[
            ("a.toml:5:12: tunnels.identity: ", "cannot read none.pem"),
            ("a.toml:6:6: tunnels.ca: ", "a string is due"),
        ],
    );
    let text = r#"
[listeners.web]
address = 80
[[routes]]
backend = "a"
[[routes]]
path = "/b"
backend = "b"
[backends.a]
protocol = "h2"
send_proxy = "v2"
servers = { one = "nonsense" }
[backends.b]
tls = 5
send_proxy = "v3"
check = { tls = true, send_proxy = true }
protocol = "auto"
servers = { one = "10.0.0.1:80" }
"#;
    assert_told(
        text,
        &[
            ("a.toml:12:19: backends.a.servers.one: ", "HOST:PORT"),
            ("a.toml:14:7: backends.b.tls: ", "this is a whole number"),
            ("a.toml:15:14: backends.b.send_proxy: ", "`v3`"),
        ],
    );
}

#[test]
fn a_name_that_there_is_not_is_told_with_those_that_there_are() {
    let listeners: String = (0..10)
        .map(|at| format!("[listeners.l{at}]\naddress = {}\n", 8000 + at))
        .collect();
    let text = format!(
        "{listeners}[tunnels]\nclear = 1\nclear_names = 'b.test'\nnames = ['one.test', '*.two.test']\n\
         [[routes]]\nbackend = 'nope'\nlisteners = 'zzzzz'\n[[routes]]\npath = '/a'\ntunnel = 'db.internal'\n\
         [[routes]]\npath = '/b'\ntunnel = 'ome.test'\n\
         [backends.alpha.servers]\na = 'h:1'\n[backends.beta.servers]\na = 'h:1'\n"
    );
    assert_told(
        &text,
        &[
            (
                "a.toml:23:15: tunnels.clear_names: ",
                "b.test is not among tunnels.names; there are: one.test, *.two.test",
            ),
            (
                "a.toml:26:11: routes.backend: ",
                "there is no backend `nope`; there are: alpha, beta",
            ),
            (
                "a.toml:27:13: routes.listeners: ",
                "no listener `zzzzz`; there are: l0, l1, l2, l3, l4, l5, l6, l7 and 2 more",
            ),
            (
                "a.toml:30:10: routes.tunnel: ",
                "not among tunnels.names; there are: one.test, *.two.test",
            ),
            ("a.toml:33:10: routes.tunnel: ", "did you mean `one.test`?"),
        ],
    );
    assert_told(
        "[listeners.web]\naddress = 80\n[[routes]]\nbackend = 'nope'\n[backends]\n",
        &[(
            "a.toml:4:11: routes.backend: ",
            "there is no backend `nope`; there is none",
        )],
    );
}

#[test]
fn a_key_that_stands_twice_is_named() {
    for (text, told) in [
        (
            "[limits]\nmax_streams = 1\nmax_streams = 2\n",
            "a.toml:3:1: limits.max_streams: duplicate key: there is a `max_streams` already",
        ),
        (
            "[listeners.web]\naddress = 80\n[listeners.web]\nproxy = 'off'\n",
            "a.toml:3:12: listeners.web: duplicate key: there is a `web` already",
        ),
    ] {
        let said = super::told(text);
        assert!(said.iter().any(|line| line.starts_with(told)), "{said:?}");
        // It hides nothing: agents have nowhere to dial in both.
        assert!(
            said.iter().any(|line| line.contains("nowhere to dial")),
            "{said:?}"
        );
        assert!(
            !said.iter().any(|line| line.contains("no `address`")),
            "{said:?}"
        );
    }
}

/// What a host or a path has too much is named.
#[test]
fn a_host_has_neither_scheme_nor_port() {
    let text = "[listeners.web]\naddress = 80\n[tunnels]\nclear = 1\nclear_names = 'b.test'\n\
                [[routes]]\nhost = 'x.test:8080'\ntunnel = 'b.test'\n\
                [[routes]]\nhost = 'http://x.test/'\ntunnel = 'b.test'\n\
                [[routes]]\nhost = 'https://*.x.test:80'\ntunnel = 'b.test'\n";
    assert_told(
        text,
        &[
            ("a.toml:7:8: routes.host: ", "left out, as in \"x.test\""),
            ("a.toml:10:8: routes.host: ", "left out, as in \"x.test\""),
            ("a.toml:13:8: routes.host: ", "left out, as in \"*.x.test\""),
        ],
    );
}
