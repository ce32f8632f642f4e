//! What `check` advises against: what is allowed and seldom meant.

use tidegate_certs::ca::{Authority, Validity};

use super::{folder, tidegated};

/// The lines of advice about a file that is right.
fn advised(text: &str) -> Vec<String> {
    let folder = folder(&[("a.toml", text)]);
    let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
    assert_eq!(output.status.code(), Some(0), "{text}{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines = said
        .lines()
        .filter_map(|line| line.strip_prefix("advice: "));
    lines.map(str::to_owned).collect()
}

/// One line, with both parts; none where there are no parts.
fn assert_advised(text: &str, parts: Option<[&str; 2]>) {
    let said = advised(text);
    let fits =
        |line: &String| parts.is_some_and(|parts| parts.iter().all(|part| line.contains(part)));
    assert_eq!(said.len(), usize::from(parts.is_some()), "{text}{said:#?}");
    assert!(said.iter().all(fits), "{parts:?}: {text}{said:#?}");
}

#[test]
fn a_route_that_leaves_tunnels_without_visitors_is_told_of() {
    let any = "[tunnels]\nclear = '127.0.0.1:1'\nclear_names = ['a.test', 'b.test']\n";
    let named = format!("{any}names = ['a.test', 'b.test', '*.c.test']\n");
    let file = |tunnels: &str, routes: &str| {
        format!(
            "[listeners.web]\naddress = '127.0.0.1:80'\n[listeners.inner]\naddress = '127.0.0.1:81'\n{tunnels}{routes}\
             [backends.x.servers]\none = '10.0.0.1:80'\n"
        )
    };
    let backend = "[[routes]]\nbackend = 'x'\n";
    let at_a = "[[routes]]\nhost = 'a.test'\ntunnel = 'a.test'\n";
    for (tunnels, routes, said) in [
        (
            any,
            backend.to_owned(),
            Some("requests for a.test, b.test come here"),
        ),
        (
            &named,
            backend.to_owned(),
            Some("requests for a.test, b.test, *.c.test come here"),
        ),
        (
            &named,
            format!("{at_a}{backend}"),
            Some("requests for b.test, *.c.test come here"),
        ),
        (
            &named,
            format!("{backend}host = '*.c.test'\n"),
            Some("requests for *.c.test come here"),
        ),
        (
            &named,
            "[[routes]]\ntunnel = 'a.test'\n".to_owned() + backend + "path = '/x'\n",
            Some("requests for b.test, *.c.test come"),
        ),
        (&named, format!("{backend}path = '/api'\n"), None),
        (&named, format!("{backend}host = 'd.test'\n"), None),
        (
            &named,
            format!("{backend}headers = {{ x-a = '1' }}\n"),
            None,
        ),
        // At the other one they come to their tunnels.
        (&named, format!("{backend}listeners = 'web'\n"), None),
        // Its visitors come in TCP mode.
        (
            &named,
            format!(
                "{backend}[listeners.db]\naddress = '127.0.0.1:82'\nmode = 'tcp'\ntunnel = 'b.test'\n"
            ),
            Some("requests for a.test, *.c.test come here"),
        ),
        ("", backend.to_owned(), None),
    ] {
        let parts = said.map(|said| [": routes: ", said]);
        assert_advised(&file(tunnels, &routes), parts);
    }
}

/// Without `tunnels.names` agents may bring any name.
#[test]
fn a_route_for_everything_is_told_of_where_agents_may_bring_any_name() {
    let authority = Authority::create(Validity::days(1)).unwrap();
    let issued = authority.issue_gateway(&["gw.test"], Validity::days(1));
    let (issued, ca) = (issued.unwrap(), authority.certificate_pem());
    let everything = "[[routes]]\nbackend = 'x'\n";
    let thought_of = format!("{everything}[[routes]]\nhost = 'a.test'\ntunnel = 'a.test'\n");
    let of_host = format!("{everything}host = '*.test'\n");
    for (routes, times) in [(everything, 1), (&thought_of, 0), (&of_host, 0)] {
        let text = format!(
            "[listeners.web]\naddress = '127.0.0.1:80'\n[tunnels]\naddress = '127.0.0.1:1'\nidentity = 'gw.pem'\nca = 'ca.crt'\n\
             {routes}[backends.x.servers]\none = '10.0.0.1:80'\n"
        );
        let folder = folder(&[("a.toml", &text), ("gw.pem", issued.pem()), ("ca.crt", ca)]);
        let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
        let said = String::from_utf8(output.stdout).unwrap();
        let told = "advice: a.toml:7:1: routes: every request that no other route wants comes here, and none to the tunnels";
        assert_eq!(said.matches(told).count(), times, "{routes}{said}");
    }
}

#[test]
fn believing_everyone_is_advised_against() {
    let web = "[listeners.web]\naddress = '127.0.0.1:80'\nmode = 'tcp'\nservers = '10.0.0.1:80'\n";
    for (more, part) in [
        (
            "proxy = 'required'\nproxy_from = ['10.0.0.0/8', '0.0.0.0/0']\n",
            Some("a.toml:6:14: listeners.web.proxy_from: 0.0.0.0/0 is everyone: whoever connects"),
        ),
        (
            "proxy = 'required'\nproxy_from = '::/0'\n",
            Some("::/0 is everyone"),
        ),
        ("proxy = 'required'\nproxy_from = '10.0.0.0/8'\n", None),
        (
            "[proxy_protocol]\nproxy_from = '0.0.0.0/0'\n[listeners.a]\naddress = '127.0.0.1:81'\nproxy = 'required'\nmode = 'tcp'\nservers = '10.0.0.1:80'\n[listeners.b]\naddress = '127.0.0.1:82'\nproxy = 'required'\nmode = 'tcp'\nservers = '10.0.0.1:80'\n",
            Some("a.toml:6:14: proxy_protocol.proxy_from: 0.0.0.0/0 is everyone"),
        ),
        (
            "[forwarding]\ntrust = '0.0.0.0/0'\n",
            Some(
                "a.toml:6:9: forwarding.trust: 0.0.0.0/0 is everyone: what any visitor says in X-Forwarded-For",
            ),
        ),
        ("[forwarding]\ntrust = '10.0.0.0/8'\n", None),
    ] {
        assert_advised(
            &format!("{web}{more}"),
            part.map(|part| [part, "name the "]),
        );
    }
}

#[test]
fn a_server_that_is_the_gateway_itself_is_told_of() {
    let file = |web: &str, server: &str| {
        format!(
            "[listeners.web]\naddress = '{web}'\n[[routes]]\nbackend = 'x'\n[backends.x.servers]\none = '10.0.0.1:80'\ntwo = '{server}'\n"
        )
    };
    let circle = Some([
        "a.toml:7:7: backends.x.servers.two: ",
        "is where listeners.web.address (a.toml:2) listens, whose visitors come here again",
    ]);
    for (web, server, said) in [
        ("127.0.0.1:80", "127.0.0.1:80", circle),
        (":80", "127.0.0.1:80", circle),
        ("0.0.0.0:80", "localhost:80", circle),
        ("[::]:80", "[::1]:80", circle),
        (":80", "127.0.0.1:81", None),
        (":80", "192.0.2.7:80", None),
        ("127.0.0.2:80", "127.0.0.1:80", None),
    ] {
        assert_advised(&file(web, server), said);
    }
    // By server name first, to the listener that ends TLS then: no circle, unless that one leads back.
    let front = |inner: &str| {
        format!(
            "[listeners.tls]\naddress = ':443'\nmode = 'tcp'\nservers = '127.0.0.1:80'\n[listeners.web]\naddress = '127.0.0.1:80'\n\
             [[routes]]\nbackend = 'x'\n[backends.x.servers]\none = '{inner}'\n"
        )
    };
    assert_advised(&front("10.0.0.1:443"), None);
    let said = advised(&front("127.0.0.1:443"));
    assert_eq!(said.len(), 2, "{said:#?}");
    assert!(
        said[0].contains(
            "a.toml:4:11: listeners.tls.servers: 127.0.0.1:80 is where listeners.web.address"
        ),
        "{said:#?}"
    );
    assert!(
        said[1].contains("backends.x.servers.one: 127.0.0.1:443 is where listeners.tls.address"),
        "{said:#?}"
    );
}

#[test]
fn checks_that_overlap_and_servers_that_are_waited_for_are_told_of() {
    let file = |check: &str| {
        format!(
            "[listeners.web]\naddress = '127.0.0.1:80'\n[[routes]]\nbackend = 'x'\n[backends.x]\ncheck = {check}\nservers = {{ one = '10.0.0.1:80' }}\n"
        )
    };
    let longer = Some([
        "a.toml:6:40: backends.x.check.timeout: ",
        "longer than `interval` (2s)",
    ]);
    for (check, said) in [
        ("{ path = '/healthz', timeout = '5s' }", longer),
        ("{ path = '/', interval = '5s', timeout = '5s' }", None),
        // Nobody has said how long it may take.
        ("{ path = '/', interval = '1s' }", None),
    ] {
        assert_advised(&file(check), said);
    }
    let optional = |mode: &str| {
        format!(
            "[listeners.web]\naddress = '127.0.0.1:80'\nproxy = 'optional'\nproxy_from = '10.0.0.0/8'\n{mode}\n"
        )
    };
    let waits = "where the server speaks first (SSH, SMTP, MySQL), who sends no header waits for `proxy_timeout` (5s)";
    assert_advised(
        &optional("mode = 'tcp'\nservers = '10.0.0.1:22'"),
        Some(["listeners.web.proxy: `optional`", waits]),
    );
    let http = advised(&optional(
        "[[routes]]\nbackend = 'x'\n[backends.x.servers]\none = '10.0.0.1:80'",
    ));
    assert!(http.len() == 1 && !http[0].contains(waits), "{http:#?}");
}

/// Each at its key; one that checks or requests go by is not told of.
#[test]
fn what_is_about_requests_is_told_of_where_only_connections_come() {
    let listener = "[listeners.pg]\naddress = 5432\nmode = \"tcp\"\nbackend = \"b\"\n";
    let keys = "[backends.b]\nretry_on = [\"unreachable\", \"closed\", 503]\nresponse_timeout = \"5s\"\n\
                inactivity_timeout = \"5s\"\nupgraded_timeout = \"5s\"\nkeep_alive = \"5s\"\nprotocol = \"h2\"\n\
                balance = { hash = \"cookie\", name = \"s\" }\nretries = 1\nconnect_timeout = \"1s\"\nmax_queued = 5\n\
                [backends.b.servers]\none = \"10.0.0.1:5432\"\n";
    let advised = |text: String| -> Vec<String> {
        let all = advised(&text).into_iter();
        all.filter(|line| line.contains("only connections in TCP mode"))
            .collect()
    };
    let told = advised(format!("{listener}{keys}"));
    for (place, part) in [
        (
            "a.toml:6:12: backends.b.retry_on: ",
            "`closed`, `503` changes nothing",
        ),
        ("a.toml:7:20: backends.b.response_timeout: ", "leave it out"),
        (
            "a.toml:8:22: backends.b.inactivity_timeout: ",
            "leave it out",
        ),
        ("a.toml:9:20: backends.b.upgraded_timeout: ", "leave it out"),
        ("a.toml:10:14: backends.b.keep_alive: ", "leave it out"),
        ("a.toml:11:12: backends.b.protocol: ", "leave it out"),
        (
            "a.toml:12:11: backends.b.balance",
            "write balance = \"hash-source\", or",
        ),
    ] {
        let found = |line: &String| line.starts_with(place) && line.contains(part);
        assert!(told.iter().any(found), "{place}{part}: {told:#?}");
    }
    assert_eq!(told.len(), 7, "{told:#?}");
    let web = "[listeners.web]\naddress = 80\n[[routes]]\nbackend = \"b\"\n";
    assert_eq!(advised(format!("{listener}{web}{keys}")), [""; 0]);
    let checked = keys.replace(
        "[backends.b.servers]",
        "check = \"/up\"\n[backends.b.servers]",
    );
    let told = advised(format!("{listener}{checked}"));
    assert!(
        !told.iter().any(|line| line.contains("protocol")),
        "{told:#?}"
    );
    assert_eq!(told.len(), 6, "{told:#?}");
}

/// `10ms` for `10s`: each is told of at its line and key, and nothing is said of what is usual or switched off.
#[test]
fn a_time_in_which_nothing_can_happen_is_told_of() {
    let listeners = "[listeners.web]\naddress = '127.0.0.1:80'\n";
    let passing =
        "[listeners.pg]\naddress = '127.0.0.1:81'\nmode = 'tcp'\nservers = ['10.0.0.1:1']\n";
    let backend = "[[routes]]\nbackend = 'x'\n[backends.x]\n";
    let servers = "[backends.x.servers]\none = '10.0.0.1:80'\n";
    let dns = "[backends.x.servers]\none = { address = 'app.test:80', slots = 2 }\n";
    let file = |passing: &str, keys: &str, servers: &str, rest: &str| {
        format!("{listeners}{passing}{backend}{keys}\n{servers}{rest}\n")
    };
    let mut tried = Vec::new();
    for (key, short, least) in [
        ("connect_timeout", "50ms", "100ms"),
        ("response_timeout", "10ms", "100ms"),
        ("inactivity_timeout", "10ms", "100ms"),
        ("upgraded_timeout", "10ms", "1s"),
        ("check.timeout", "60ms", "100ms"),
        ("check.interval", "50ms", "500ms"),
        ("check.fast_interval", "50ms", "500ms"),
        ("check.down_interval", "50ms", "500ms"),
    ] {
        tried.push((
            file("", &format!("{key} = '{short}'"), servers, ""),
            "a.toml:6:".to_owned(),
            format!("backends.x.{key}: {short} is short"),
            least,
        ));
    }
    for (key, short, least) in [
        ("hold", "1ms", "100ms"),
        ("tls_timeout", "50ms", "1s"),
        ("head_timeout", "50ms", "1s"),
        ("idle_timeout", "50ms", "1s"),
        ("stall_timeout", "50ms", "1s"),
        ("response_timeout", "10ms", "100ms"),
        ("upgraded_timeout", "10ms", "1s"),
        ("half_closed_timeout", "10ms", "100ms"),
        ("settle_timeout", "50ms", "1s"),
        ("ping_interval", "50ms", "500ms"),
        ("ping_timeout", "50ms", "1s"),
        ("probe_timeout", "50ms", "1s"),
        ("drain", "10ms", "1s"),
    ] {
        let rest = format!("[times]\n{key} = '{short}'");
        tried.push((
            file("", "", servers, &rest),
            "a.toml:10:".to_owned(),
            format!("times.{key}: {short} is short"),
            least,
        ));
    }
    for (key, short, least) in [
        ("hello_timeout", "50ms", "500ms"),
        ("connect_timeout", "50ms", "100ms"),
        ("idle_timeout", "10ms", "1s"),
        ("half_closed_timeout", "10ms", "100ms"),
    ] {
        let passing = format!("{passing}{key} = '{short}'\n");
        tried.push((
            file(&passing, "", servers, ""),
            "a.toml:7:".to_owned(),
            format!("listeners.pg.{key}: {short} is short"),
            least,
        ));
    }
    let rest = "[proxy_protocol]\nproxy_timeout = '1s'";
    tried.push((
        file("", "", servers, rest),
        "a.toml:10:".to_owned(),
        "proxy_protocol.proxy_timeout: 1s is short".to_owned(),
        "3s",
    ));
    let rest = "[resolver]\ntimeout = '50ms'";
    tried.push((
        file("", "", dns, rest),
        "a.toml:10:".to_owned(),
        "resolver.timeout: 50ms is short".to_owned(),
        "100ms",
    ));
    for (text, place, said, least) in tried {
        let told = advised(&text);
        let [line] = &told[..] else {
            panic!("{text}{told:#?}");
        };
        assert!(
            line.starts_with(&place) && line.contains(&said),
            "{said}: {line}"
        );
        assert!(
            line.ends_with(&format!("; {least} is the least that is advised")),
            "{line}"
        );
    }
    for keys in [
        "response_timeout = 0\nkeep_alive = 0",
        "response_timeout = '100ms'",
    ] {
        let rest = "[times]\nhold = 0\nresponse_timeout = 0\ndrain = 0\nhalf_closed_timeout = 0";
        assert_advised(&file(passing, keys, servers, rest), None);
    }
}
