//! Servers that expect something else than they are told: a PROXY header too many or too few, TLS or clear text. The visitor sees a
//! connection that closes or a 400; the log says in one line what was expected, what came, and which line to change.

use std::net::SocketAddr;

use tidegate_tests::apps::{Doorman, H2cApp, HttpApp, RawApp};
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::haproxy::{Haproxy, Installed, available, free_ports};
use tidegate_tests::nginx::nginx;
use tidegate_tests::{HOST, World, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A gateway whose [`HOST`] is a backend with this server, and whose listener `raw` leads to the same one by its address.
async fn world(server: SocketAddr, backend: &str, listener: &str) -> World {
    let text = format!(
        "[backends.site]\n{backend}\n[backends.site.servers]\none = \"{server}\"\n\
         [[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n\
         [listeners.raw]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nservers = [\"{server}\"]\n{listener}\n"
    );
    World::builder().config(&text).start().await
}

/// Asks, and finds the one line about the backend's server that has all of this; and the count of what did not fit.
async fn named(world: &World, server: SocketAddr, why: &str, parts: &[&str]) {
    let status = world.get(HOST, "/").await.status();
    assert!([400, 502].contains(&status), "{status}");
    let who = format!("backend site: server one ({server})");
    let probe = format!("`tidegated probe {server}`");
    let words: Vec<&str> = [&["WARN", who.as_str(), probe.as_str()], parts].concat();
    world.gateway.wait_log(&words).await;
    let why = format!("why=\"{why}\"");
    let metrics = world.metrics().await;
    let count = metrics.sum("tidegate_backend_mismatches_total", &[&why]);
    assert!(count >= 1.0, "{why}");
    assert_eq!(
        metrics.sum("tidegate_backend_mismatches_total", &[]),
        count,
        "nothing else does not fit"
    );
}

/// The same of the listener `raw`, whose visitor says this.
async fn named_raw(world: &World, says: &[u8], why: &str, parts: &[&str]) {
    let raw = world.gateway.address("raw").unwrap();
    let mut visitor = TcpStream::connect(raw).await.unwrap();
    visitor.write_all(says).await.unwrap();
    // A reset is an end as well.
    let _ended = within(SOON, "the end", visitor.read_to_end(&mut Vec::new())).await;
    drop(visitor);
    let words: Vec<&str> = [&["WARN", "listener=raw", "does not fit"], parts].concat();
    world.gateway.wait_log(&words).await;
    let why = format!("why=\"{why}\"");
    let labels = ["listener=\"raw\"", &why];
    let metrics = world.metrics().await;
    let count = metrics.sum("tidegate_tcp_mismatches_total", &labels);
    assert_eq!(count, 1.0, "{why}");
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n";
const HEADER: [&str; 3] = [
    "expected an answer behind our PROXY v2 header",
    "send_proxy (",
    "gateway.toml:",
];

/// HAProxy with a port for each kind: clear, TLS, a header before either.
async fn haproxy(installed: &Installed, world: &World) -> (Haproxy, [SocketAddr; 4]) {
    let identity = world.pki.server(&["app.internal"]);
    let (some, more) = (free_ports().await, free_ports().await);
    let ports = [some.visitors, some.tunnels, more.visitors, more.tunnels];
    let tls = format!("ssl crt {}", identity.display());
    let binds = ["", &tls, "accept-proxy", &format!("accept-proxy {tls}")];
    let body: String = ports
        .iter()
        .zip(binds)
        .map(|(port, keys)| {
            format!(
                "frontend f{}\n    bind {port} {keys}\n    http-request return status 200\n",
                port.port()
            )
        })
        .collect();
    let started = Haproxy::start(installed, world.dir(), "haproxy-app", &body);
    started.listening(more.tunnels).await;
    (started, ports)
}

#[tokio::test]
async fn every_port_of_haproxy_that_is_spoken_to_wrongly_is_named() {
    let Some(installed) = available() else { return };
    let home = World::start().await;
    let (_haproxy, [clear, tls, header, both]) = haproxy(&installed, &home).await;
    let tell = "send_proxy = \"v2\"";
    let secure = "tls = { verify = false }";
    let both_keys = format!("{tell}\n{secure}");
    let wants_tls = ["if it waits for TLS behind the header, add tls = true"];
    let wants_header = ["got a connection that is closed at once", "add send_proxy"];
    for (server, backend, why, parts) in [
        // The incident: the header goes to the port that expects none.
        (tls, both_keys.as_str(), "header-unwanted", &HEADER[..]),
        (clear, tell, "header-unwanted", &HEADER),
        (both, tell, "header-unwanted", &wants_tls),
        (header, "", "header-wanted", &wants_header),
        (both, secure, "header-wanted", &wants_header),
        (
            clear,
            secure,
            "tls-unwanted",
            &[
                "expected TLS, got clear text",
                "leave `tls` of backends.site (",
            ],
        ),
    ] {
        let world = world(server, backend, "").await;
        named(&world, server, why, parts).await;
    }
}

/// In HTTP/2 the same is named, of checks as well.
#[tokio::test]
async fn every_port_that_is_spoken_to_wrongly_in_http2_is_named() {
    let home = World::start().await;
    let identity = home.pki.server(&["app.internal"]);
    let config = home.pki.server_config(&identity, false, &["h2"]);
    let ours = HttpApp::start_tls("secure", config).await;
    let ours = ours.address();
    let h2 = "protocol = \"h2\"";
    let secure = "protocol = \"h2\"\ntls = { verify = false }";
    let either = "protocol = \"auto\"\ntls = { verify = false }";
    let closed = "got a connection that is closed at once";
    let add = "add send_proxy = \"v2\" to backends.site (";
    let alert = [
        "got a TLS alert",
        "its port is for TLS; add tls = true to backends.site (",
    ];
    let mut ports = vec![(ours, h2, "tls-wanted", alert.to_vec())];
    let installed = available();
    let haproxy = match &installed {
        Some(installed) => Some(haproxy(installed, &home).await),
        None => None,
    };
    if let Some((_, [_, tls, header, both])) = &haproxy {
        let wanted = [closed, add];
        let or_tls = [
            "and if it speaks TLS, tls = true; if it speaks HTTP/1.1, leave out its `protocol`",
            closed,
        ];
        ports.extend([
            (
                *header,
                h2,
                "header-wanted",
                [&wanted[..], &or_tls].concat(),
            ),
            (*both, h2, "header-wanted", wanted.to_vec()),
            (*tls, h2, "header-wanted", or_tls.to_vec()),
            (*both, secure, "header-wanted", wanted.to_vec()),
            (*both, either, "header-wanted", wanted.to_vec()),
        ]);
    }
    let found = free_ports().await;
    let (wants, tls) = (found.visitors, found.tunnels);
    let keys = format!(
        " ssl;\nssl_certificate {0};\nssl_certificate_key {0}",
        identity.display()
    );
    let wants_header = nginx(home.dir(), wants, " http2 proxy_protocol").await;
    let wants_tls = nginx(home.dir(), tls, &keys).await;
    if wants_header.is_some() && wants_tls.is_some() {
        let may = [
            "its port may be for TLS; if it is, add tls = true",
            "leave `protocol` out",
        ];
        ports.extend([
            (wants, h2, "header-wanted", vec![add]),
            (tls, h2, "tls-wanted", may.to_vec()),
        ]);
    }
    for (server, keys, why, parts) in ports {
        let asked = world(server, keys, "").await;
        named(&asked, server, why, &parts).await;
        let checked = world(server, &format!("{keys}\ncheck = \"/\""), "").await;
        let down = [&["is down", "tidegated probe"], &parts[..]].concat();
        checked.gateway.wait_log(&down).await;
        let why = format!("why=\"{why}\"");
        let metrics = checked.metrics().await;
        assert!(metrics.sum("tidegate_backend_mismatches_total", &[&why]) >= 1.0);
    }
    // One that takes it is not complained of, whatever it answers.
    let app = H2cApp::start().await;
    let fine = world(app.address(), &format!("{h2}\ncheck = \"tcp\""), "").await;
    fine.get(HOST, "/hello").await;
    let metrics = fine.metrics().await;
    assert_eq!(metrics.sum("tidegate_backend_mismatches_total", &[]), 0.0);
}

/// To a check that opens a connection alone, whoever hangs up behind the header is no better than whoever is not there.
#[tokio::test]
async fn a_check_without_a_question_looks_whether_its_header_is_taken() {
    let home = World::start().await;
    let identity = home.pki.server(&["app.internal"]);
    let config = home.pki.server_config(&identity, false, &["http/1.1"]);
    let secure = HttpApp::start_tls("secure", config).await;
    let closing = RawApp::start(|mut reader| async move {
        let _header = reader.io.read(&mut [0]).await;
    })
    .await;
    let closing: SocketAddr = closing
        .target()
        .trim_start_matches("http://")
        .parse()
        .unwrap();
    for version in ["v1", "v2"] {
        let keys = format!("send_proxy = \"{version}\"\ncheck = \"tcp\"");
        for (server, got) in [(secure.address(), "got "), (closing, "closed at once")] {
            let world = world(server, &keys, "").await;
            let who = format!("backend site: server one ({server}) is down");
            let header = format!("expected an answer behind our PROXY {version} header");
            let place = ["send_proxy (", "tidegated probe"];
            let words = [&[&*who, &*header, got], &place[..]].concat();
            world.gateway.wait_log(&words).await;
        }
        // Whoever waits for more, or greets first, takes it.
        let app = HttpApp::start("behind").await;
        let doorman = Doorman::before(app.address()).await;
        let silent = SocketAddr::from(([127, 0, 0, 1], doorman.port()));
        let greeting = RawApp::start(|mut reader| async move {
            let _sent = reader.io.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
            reader.closed().await;
        })
        .await;
        let greeting: SocketAddr = greeting
            .target()
            .trim_start_matches("http://")
            .parse()
            .unwrap();
        for server in [silent, greeting] {
            let world = world(server, &keys, "").await;
            eventually(SOON, "it passes", async || {
                let passed = ["server=\"one\"", "result=\"passed\""];
                let metrics = world.metrics().await;
                (metrics.sum("tidegate_backend_checks_total", &passed) >= 2.0).then_some(())
            })
            .await;
            assert!(world.gateway.logged(&["is down"]).is_empty());
        }
    }
}

#[tokio::test]
async fn an_nginx_that_expects_no_header_is_named_though_it_answers() {
    let home = World::start().await;
    let ports = free_ports().await;
    let (plain, wants) = (ports.visitors, ports.tunnels);
    let Some(_plain) = nginx(home.dir(), plain, "").await else {
        return;
    };
    let _wants = nginx(home.dir(), wants, " proxy_protocol").await;
    let tell = "send_proxy = \"v2\"";
    let told = world(plain, tell, tell).await;
    named(&told, plain, "header-unwanted", &HEADER).await;
    named_raw(&told, GET, "header-unwanted", &HEADER).await;
    let untold = world(wants, "", "").await;
    let parts = ["got a connection that is closed at once", "add send_proxy"];
    named(&untold, wants, "header-wanted", &parts).await;
    let beside = ["add send_proxy = \"v2\" beside listeners.raw.servers ("];
    let parts = [&parts[..], &beside].concat();
    named_raw(&untold, GET, "header-wanted", &parts).await;
}

/// What answers in clear text to a header and TLS may be a port for clear text, or one for TLS that takes no header.
#[tokio::test]
async fn an_nginx_for_tls_that_takes_no_header_has_both_causes_told() {
    let home = World::start().await;
    let identity = home.pki.server(&["app.internal"]);
    let identity = identity.display();
    let keys = format!("ssl_certificate {identity};\nssl_certificate_key {identity}");
    let ports = free_ports().await;
    let (tls, both) = (ports.visitors, ports.tunnels);
    let Some(_tls) = nginx(home.dir(), tls, &format!(" ssl;\n{keys}")).await else {
        return;
    };
    let _both = nginx(home.dir(), both, &format!(" ssl proxy_protocol;\n{keys}")).await;
    for version in ["v1", "v2"] {
        let told = format!("send_proxy = \"{version}\"\ntls = {{ verify = false }}");
        let header = format!("expected TLS behind our PROXY {version} header, got clear text");
        let parts = [
            header.as_str(),
            "it answered in clear text",
            "its port takes no such header",
            "or it is for clear text",
            "leave backends.site.send_proxy (",
            "or `tls` of backends.site (",
        ];
        let asked = world(tls, &told, "").await;
        named(&asked, tls, "tls-unwanted", &parts).await;
        let checked = world(tls, &format!("{told}\ncheck = \"/\""), "").await;
        let down = [&["is down"], &parts[..]].concat();
        checked.gateway.wait_log(&down).await;
        // And the reverse: a header alone, where TLS has to follow it.
        let tell = format!("send_proxy = \"{version}\"");
        let parts = ["if it waits for TLS behind the header, add tls = true"];
        let asked = world(both, &tell, &tell).await;
        named(&asked, both, "header-unwanted", &parts).await;
        let parts = ["if it waits for TLS behind the header, have visitors speak TLS"];
        named_raw(&asked, GET, "header-unwanted", &parts).await;
        let checked = world(both, &format!("{tell}\ncheck = \"/\""), "").await;
        let down = [
            "is down",
            "if it waits for TLS behind the header, add tls = true",
        ];
        checked.gateway.wait_log(&down).await;
    }
}

/// Where a server greets first, its visitors wait for it, and it for a header: nobody says anything until it has had enough.
#[tokio::test]
async fn a_server_that_would_greet_and_waits_for_a_header_is_named() {
    let Some(installed) = available() else { return };
    let home = World::start().await;
    let at = free_ports().await.visitors;
    let body = format!(
        "frontend greeter\n    mode tcp\n    timeout client 2500ms\n    bind {at} accept-proxy\n    tcp-request content reject\n"
    );
    let greeter = Haproxy::start(&installed, home.dir(), "greeter", &body);
    greeter.listening(at).await;
    let text = format!(
        "[listeners.raw]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nservers = [\"{at}\"]\n\
         [listeners.shared]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nbackend = \"site\"\n\
         [backends.site.servers]\none = \"{at}\"\n"
    );
    let world = World::builder().config(&text).start().await;
    let silent = async |listener: &str| {
        let to = world.gateway.address(listener).unwrap();
        let mut visitor = TcpStream::connect(to).await.unwrap();
        // A reset is an end as well.
        let _ended = within(SOON, "the end", visitor.read_to_end(&mut Vec::new())).await;
    };
    let wait = "if it greets, and waits for a PROXY header before, add send_proxy = \"v2\"";
    let said = async |place: &str| {
        let words = [
            "WARN",
            "does not fit",
            "on which nobody said anything",
            wait,
            place,
        ];
        world.gateway.wait_log(&words).await
    };
    // Once or twice visitors may have had their reasons.
    tokio::join!(
        silent("raw"),
        silent("raw"),
        silent("shared"),
        silent("shared")
    );
    assert!(world.gateway.logged(&["does not fit"]).is_empty());
    tokio::join!(silent("raw"), silent("shared"));
    said("beside listeners.raw.servers (").await;
    said("to backends.site (").await;
    let metrics = world.metrics().await;
    let wanted = ["why=\"header-wanted\""];
    assert_eq!(metrics.sum("tidegate_tcp_mismatches_total", &wanted), 1.0);
    assert_eq!(
        metrics.sum("tidegate_backend_mismatches_total", &wanted),
        1.0
    );
}

/// In TCP mode an event has the fields of one of requests.
#[tokio::test]
async fn a_mismatch_in_tcp_mode_has_its_fields_in_json() {
    let app = HttpApp::start_tls("secure", {
        let home = World::start().await;
        let identity = home.pki.server(&["app.internal"]);
        home.pki.server_config(&identity, false, &["http/1.1"])
    })
    .await;
    let text = format!(
        "[listeners.raw]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nservers = [\"{}\"]\n",
        app.address()
    );
    let world = World::builder().config(&text).option("--log", "json");
    let world = world.start().await;
    let raw = world.gateway.address("raw").unwrap();
    let mut visitor = TcpStream::connect(raw).await.unwrap();
    visitor.write_all(GET).await.unwrap();
    let _ended = within(SOON, "the end", visitor.read_to_end(&mut Vec::new())).await;
    drop(visitor);
    let words = [
        "does not fit",
        "\"what\":\"tls-wanted\"",
        "\"why\":\"expected ",
    ];
    world.gateway.wait_log(&words).await;
}

#[tokio::test]
async fn tls_and_clear_text_are_told_apart() {
    let home = World::start().await;
    let identity = home.pki.server(&["app.internal"]);
    let config = home.pki.server_config(&identity, false, &["http/1.1"]);
    let (secure, clear) = (
        HttpApp::start_tls("secure", config).await,
        HttpApp::start("clear").await,
    );
    let wants_tls = ["got a TLS alert", "its port is for TLS"];
    let told = world(secure.address(), "", "").await;
    named(
        &told,
        secure.address(),
        "tls-wanted",
        &[&wants_tls[..], &["add tls = true to backends.site ("]].concat(),
    )
    .await;
    named_raw(&told, GET, "tls-wanted", &wants_tls).await;
    // And a visitor's TLS to a server that has none: nginx and HAProxy answer it with a 400.
    let Some(installed) = available() else { return };
    let (_haproxy, [plain, ..]) = haproxy(&installed, &home).await;
    let untouched = world(plain, "", "").await;
    let raw = untouched.gateway.address("raw").unwrap();
    let refused = Conn::tls(raw, "app.internal", home.visitor_tls(&[])).await;
    assert!(refused.is_err());
    let words = [
        "listener=raw",
        "expected TLS, got",
        "listeners.raw.servers (",
    ];
    untouched.gateway.wait_log(&words).await;
    // What fits is not complained of, whatever a visitor asks for.
    let fine = world(clear.address(), "", "").await;
    for path in [
        "/status/400",
        "/hello",
        "/status/400",
        "/status/400",
        "/status/400",
    ] {
        fine.get(HOST, path).await;
    }
    let metrics = fine.metrics().await;
    assert_eq!(metrics.sum("tidegate_backend_mismatches_total", &[]), 0.0);
}

/// One that was understood, and is not any more: once is chance, and the third time in a row it is told.
#[tokio::test]
async fn a_server_that_changes_while_it_is_used_is_named_too() {
    let place = free_ports().await.visitors;
    let listener = tokio::net::TcpListener::bind(place).await.unwrap();
    let first = HttpApp::start_at("first", listener);
    let world = world(place, "retries = 0\neject_after = 0", "").await;
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
    drop(first);
    let app = HttpApp::start("behind").await;
    let _doorman = eventually(SOON, "the place is free", async || {
        Doorman::before_on(app.address(), place).await.ok()
    })
    .await;
    let answers = async || world.get(HOST, "/hello").await.status();
    eventually(SOON, "it is doubted", async || {
        assert_eq!(answers().await, 502);
        let metrics = world.metrics().await;
        let wanted = ["why=\"header-wanted\""];
        (metrics.sum("tidegate_backend_mismatches_total", &wanted) >= 1.0).then_some(())
    })
    .await;
}

/// What only checks ask: requests never get to a server that they find down.
#[tokio::test]
async fn a_check_in_clear_text_of_a_port_for_tls_names_itself() {
    let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    let app = RawApp::answering(answer, true).await;
    let server: SocketAddr = app.target().trim_start_matches("http://").parse().unwrap();
    let world = world(server, "check = \"/health\"", "").await;
    let who = format!("backend site: server one ({server}) is down");
    let words = [
        who.as_str(),
        "HTTP status 400",
        "its port may be for TLS",
        "add tls = true",
    ];
    world.gateway.wait_log(&words).await;
}
