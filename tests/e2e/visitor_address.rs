//! The visitor's address at the app, in a PROXY header of the agent's: whom it names, that a connection which names one visitor
//! is never another's, that no visitor can choose, and what is said where the app does not expect it.

use std::ffi::OsString;
use std::net::SocketAddr;

use http::Method;
use tidegate_shared::proxy_header::{Ends, Version};
use tidegate_tests::apps::{Doorman, Greeted, H2cApp, HttpApp, RawApp};
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::haproxy::{Haproxy, available, free_ports};
use tidegate_tests::http1::{Head, Reader};
use tidegate_tests::nginx::nginx;
use tidegate_tests::peers::gateway::{RawGateway, answer, request};
use tidegate_tests::pki::Pki;
use tidegate_tests::program::{Program, built, run};
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::websocket::{self, KEY, frame, op};
use tidegate_tests::world::launch_agent;
use tidegate_tests::{HOST, World, eventually, within};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A gateway, an app that expects a PROXY header, and an agent that writes one.
struct Scene {
    world: World,
    app: HttpApp,
    doorman: Doorman,
    agent: Program,
}

impl Scene {
    async fn start(version: &str) -> Self {
        let world = World::start().await;
        let app = HttpApp::start("blog").await;
        let doorman = Doorman::before(app.address()).await;
        let target = doorman.port().to_string();
        let options = ["--proxy-protocol", version];
        let agent = world.agent_with(HOST, &target, &options).await;
        Self {
            world,
            app,
            doorman,
            agent,
        }
    }

    /// The header of the connection that was opened last.
    fn last(&self) -> Greeted {
        self.doorman.greeted().pop().expect("a connection")
    }
}

/// A visitor in clear text, and its own address.
async fn visitor(to: SocketAddr) -> (Visitor, SocketAddr) {
    let tcp = TcpStream::connect(to).await.unwrap();
    let from = tcp.local_addr().unwrap();
    (Visitor::over(Conn::Plain(tcp)), from)
}

/// Asks for a path and claims to be somebody else in every way that there is.
async fn lying(visitor: &mut Visitor, path: &str) -> u16 {
    visitor
        .send(format!(
            "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
             Tidegate-Visitor: c=1;f=6.6.6.6:6;r=1\r\n\r\n"
        ))
        .await;
    visitor.answer("GET").await.status()
}

fn source(greeted: &Greeted) -> SocketAddr {
    let pair = greeted.header.ends.pair();
    pair.unwrap_or_else(|| panic!("names nobody: {greeted:?}"))
        .source()
}

/// Nothing of what the two ends say to each other has come to the app.
fn clean(requests: &[Head]) {
    for head in requests {
        let ours = |(name, _): &&(String, String)| name.to_lowercase().starts_with("tidegate-");
        assert_eq!(head.fields.iter().find(ours), None);
    }
}

#[tokio::test]
async fn each_connection_names_its_visitor_and_serves_nobody_else() {
    for version in ["v1", "v2"] {
        let scene = Scene::start(version).await;
        let (mut one, first) = visitor(scene.world.visitors).await;
        let (mut two, second) = visitor(scene.world.visitors).await;
        for round in 0..6 {
            assert_eq!(lying(&mut one, &format!("/one/{round}")).await, 200);
            assert_eq!(lying(&mut two, &format!("/two/{round}")).await, 200);
        }
        let greeted = scene.doorman.greeted();
        let sources: Vec<SocketAddr> = greeted.iter().map(source).collect();
        assert_eq!(sources, [first, second], "kept, and each its own");
        for greeted in &greeted {
            let pair = greeted.header.ends.pair().unwrap();
            assert_eq!(pair.destination(), scene.world.visitors);
            let said = if greeted.octets[0] == b'P' {
                "v1"
            } else {
                "v2"
            };
            assert_eq!(said, version);
        }
        clean(&scene.app.requests());
        assert_eq!(scene.app.requests().len(), 12);
        assert_eq!(
            scene.agent.logged(&["WARN"]).len(),
            0,
            "{:?}",
            scene.agent.log()
        );
        let words = ["visitors go to the app", &format!("PROXY {version} header")];
        scene.agent.wait_log(&words).await;
    }
}

#[tokio::test]
async fn requests_at_once_have_connections_of_their_own_with_the_same_name() {
    let scene = Scene::start("v2").await;
    let mut slow = H2Visitor::connect(scene.world.visitors).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let head = slow.head(Method::GET, HOST, "/slow/300");
        waiting.push(slow.begin(head, true).await.0);
    }
    for future in waiting {
        let answer = tidegate_tests::visitors::http2::answer(future).await;
        assert_eq!(answer.text(), "slow\n");
    }
    let greeted = scene.doorman.greeted();
    assert_eq!(greeted.len(), 4);
    assert!(
        greeted
            .iter()
            .all(|other| source(other) == source(&greeted[0]))
    );
    assert_eq!(slow.get(HOST, "/hello").await.status, 200);
    assert_eq!(
        scene.doorman.greeted().len(),
        4,
        "one of them is used again"
    );
}

#[tokio::test]
async fn what_is_known_of_tls_is_in_a_header_of_version_2() {
    let scene = Scene::start("v2").await;
    let tls = scene.world.visitor_tls(&["h2"]);
    let mut visitor = H2Visitor::connect_tls(scene.world.visitors_tls, HOST, tls).await;
    assert_eq!(visitor.get(HOST, "/hello").await.status, 200);
    let Greeted { header, .. } = scene.last();
    assert_eq!(header.version, Version::V2);
    let pair = header.ends.pair().unwrap();
    assert_eq!(pair.destination(), scene.world.visitors_tls);
    assert_eq!(header.tlvs.authority(), Some(HOST));
    assert_eq!(header.tlvs.alpn(), Some(&b"h2"[..]));
    let ssl = header.tlvs.ssl().unwrap();
    assert!(ssl.is_tls() && !ssl.has_certificate() && !ssl.is_verified());
    assert_eq!(ssl.version(), Some("TLSv1.3"));
    assert!(
        header.tlvs.iter().any(|tlv| tlv.kind == 3),
        "a checksum: {header:?}"
    );
    let id = String::from_utf8(header.tlvs.unique_id().unwrap().to_vec()).unwrap();
    let access = ["access", &id, "/hello", "status=200"];
    scene.world.gateway.wait_log(&access).await;

    let (mut clear, _) = self::visitor(scene.world.visitors).await;
    clear.send_get("BLOG.test:80", "/hello").await;
    assert_eq!(clear.answer("GET").await.status(), 200);
    let Greeted { header, .. } = scene.last();
    assert_eq!(header.tlvs.authority(), Some(HOST), "whom it asked for");
    assert_eq!((header.tlvs.alpn(), header.tlvs.ssl()), (None, None));
}

#[tokio::test]
async fn an_upgrade_has_a_connection_of_its_own_that_names_its_visitor() {
    let scene = Scene::start("v1").await;
    let (mut visitor, from) = visitor(scene.world.visitors).await;
    assert_eq!(lying(&mut visitor, "/x").await, 200);
    visitor
        .send(format!(
            "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Tidegate-Visitor: c=1;f=6.6.6.6:6;r=1\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        ))
        .await;
    assert_eq!(visitor.head().await.status(), 101);
    visitor.send(frame(op::BINARY, b"here", true)).await;
    let echo = websocket::read(&mut visitor.reader);
    assert_eq!(
        within(SOON, "an echo", echo).await.unwrap().1,
        b"here".as_slice()
    );
    let sources: Vec<SocketAddr> = scene.doorman.greeted().iter().map(source).collect();
    assert_eq!(sources, [from, from]);
    clean(&scene.app.requests());
}

#[tokio::test]
async fn it_comes_before_tls_and_through_unix_sockets_too() {
    let world = World::start().await;
    let identity = world.pki.server(&["localhost"]);
    let config = world.pki.server_config(&identity, false, &["http/1.1"]);
    let tls = HttpApp::start_tls("tls", config).await;
    let (before_tls, path) = (Doorman::before(tls.address()).await, world.file("app.sock"));
    let plain = HttpApp::start("plain").await;
    let at_unix = Doorman::before_at(plain.address(), &path);
    let ca = world.pki.ca_file("ca");
    for (name, target, doorman) in [
        (
            "tls.test",
            format!("https://localhost:{}", before_tls.port()),
            &before_tls,
        ),
        ("unix.test", format!("unix:{}", path.display()), &at_unix),
    ] {
        let mut options = vec!["--proxy-protocol", "v2"];
        if target.starts_with("https") {
            options.extend(["--target-ca", ca.to_str().unwrap()]);
        }
        let _agent = world.agent_with(name, &target, &options).await;
        let (mut one, from) = visitor(world.visitors).await;
        for _ in 0..2 {
            one.send_get(name, "/hello").await;
            assert_eq!(one.answer("GET").await.status(), 200, "{name}");
        }
        let sources: Vec<SocketAddr> = doorman.greeted().iter().map(source).collect();
        assert_eq!(sources, [from], "{name}");
    }
}

#[tokio::test]
async fn an_http2_app_has_a_connection_for_each_visitor() {
    let world = World::start().await;
    let app = H2cApp::start().await;
    let doorman = Doorman::before(app.address()).await;
    let target = doorman.port().to_string();
    let options = ["--proxy-protocol", "v2", "--h2", "--workers", "1"];
    let _agent = world.agent_with(HOST, &target, &options).await;
    let mut visitors = Vec::new();
    for _ in 0..2 {
        visitors.push(H2Visitor::connect(world.visitors).await);
    }
    for _ in 0..3 {
        for visitor in &mut visitors {
            let head = visitor.head(Method::POST, HOST, "/test.Echo/Stream");
            let answer = visitor.send(head, "said").await;
            assert_eq!(answer.text(), "said");
        }
    }
    let greeted = doorman.greeted();
    assert_eq!(greeted.len(), 2, "one each, and kept");
    assert_ne!(source(&greeted[0]), source(&greeted[1]));
    eventually(SOON, "unused ones are closed", async || {
        (doorman.open() == 0).then_some(())
    })
    .await;
}

/// A gateway that does not say that it is Tidegate is not believed, whatever it passes on.
#[tokio::test]
async fn another_gateways_visitors_cannot_say_who_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let gateway = RawGateway::listen(&pki, &pki.server(&["localhost"])).await;
    let address = format!("localhost:{}", gateway.address().port());
    let app = HttpApp::start("blog").await;
    for (options, named, said) in [
        (&["--proxy-protocol", "v2"][..], None, "--visitor-from"),
        (
            &[
                "--proxy-protocol",
                "v2",
                "--visitor-from",
                "X-Forwarded-For",
            ],
            Some("192.0.2.7:0"),
            "",
        ),
        (
            &["--proxy-protocol", "v1", "--visitor-from", "x-real-ip"],
            None,
            "x-real-ip",
        ),
    ] {
        let doorman = Doorman::before(app.address()).await;
        let mut words = vec!["--tunnels", "1"];
        words.extend(options);
        let (identity, ca) = (pki.agent(&[HOST]), pki.ca_file("ca"));
        let target = doorman.port().to_string();
        let agent = launch_agent(&[], &address, &identity, &ca, &target, &words);
        let mut peer = gateway.reversed().await;
        for (stream, path) in [(1, "/a"), (3, "/b"), (5, "/c")] {
            let mut fields = request("GET", HOST, path);
            fields.extend([
                ("tidegate-visitor", "c=1;f=6.6.6.6:6;r=1"),
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-for", "7.7.7.7, 192.0.2.7"),
            ]);
            peer.send_head(stream, &fields, true).await;
            let (head, ..) = answer(&mut peer, stream).await;
            assert_eq!(tidegate_tests::peers::field(&head, ":status"), Some("200"));
        }
        let greeted = doorman.greeted();
        assert_eq!(greeted.len(), 3, "each request has its own: {options:?}");
        for greeted in greeted {
            let pair = greeted.header.ends.pair();
            assert_eq!(
                pair.map(|pair| pair.source().to_string()).as_deref(),
                named,
                "{options:?}"
            );
            if named.is_none() {
                assert!(matches!(greeted.header.ends, Ends::Local | Ends::Unknown));
            }
        }
        if said.is_empty() {
            assert_eq!(agent.logged(&["WARN"]).len(), 0, "{:?}", agent.log());
        } else {
            agent.wait_log(&["WARN", "names nobody", said]).await;
            assert_eq!(agent.logged(&["names nobody"]).len(), 1, "once");
        }
    }
    clean(&app.requests());
}

#[tokio::test]
async fn behind_a_haproxy_gateway_the_operators_field_counts() {
    let Some(installed) = available() else { return };
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let ports = free_ports().await;
    let (server, ca) = (pki.server(&["localhost"]), pki.ca_file("ca"));
    let line = "option forwardfor";
    let _haproxy = Haproxy::gateway_with(&installed, dir.path(), &server, &ca, ports, line).await;
    let gateway = format!("localhost:{}", ports.tunnels.port());
    let app = HttpApp::start("blog").await;
    for (more, named) in [
        (&["--visitor-from", "x-forwarded-for"][..], true),
        (&[], false),
    ] {
        let doorman = Doorman::before(app.address()).await;
        let target = doorman.port().to_string();
        let options = [&["--proxy-protocol", "v2"], more].concat();
        let mut agent = launch_agent(&[], &gateway, &pki.agent(&[HOST]), &ca, &target, &options);
        agent.ready().await;
        for _ in 0..2 {
            let (mut visitor, from) = visitor(ports.visitors).await;
            assert_eq!(lying(&mut visitor, "/x").await, 200);
            let greeted = doorman.greeted().pop().unwrap();
            let known = greeted.header.ends.pair().map(|pair| pair.source().ip());
            assert_eq!(known, named.then_some(from.ip()), "{greeted:?}");
        }
        assert_eq!(doorman.greeted().len(), 2, "one each");
        if !named {
            let words = [
                "WARN",
                "names nobody (LOCAL)",
                "--visitor-from x-forwarded-for",
            ];
            agent.wait_log(&words).await;
        }
        agent.terminate();
        assert!(agent.ended(SOON).await.success());
    }
    clean(&app.requests());
}

#[tokio::test]
async fn a_haproxy_app_takes_both_versions() {
    let Some(installed) = available() else { return };
    let world = World::start().await;
    for version in ["v1", "v2"] {
        let ports = free_ports().await;
        let at = ports.visitors;
        let body = format!(
            "frontend app\n\x20   bind {at} accept-proxy\n\
             \x20   http-request return status 200 content-type text/plain lf-string \
             \"%[src]:%[src_port] %[dst]:%[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]\"\n"
        );
        let app = Haproxy::start(&installed, world.dir(), &format!("app-{version}"), &body);
        app.listening(at).await;
        let name = format!("{version}.test");
        let options = ["--proxy-protocol", version];
        let _agent = world
            .agent_with(&name, &at.port().to_string(), &options)
            .await;
        let (mut one, from) = visitor(world.visitors).await;
        one.send_get(&name, "/").await;
        let answer = one.answer("GET").await;
        let text = answer.text();
        assert_eq!(answer.status(), 200, "{text}");
        let ends = format!("{from} {}", world.visitors);
        assert!(text.starts_with(&ends), "{text}");
        if version == "v2" {
            let id = text.rsplit(' ').next().unwrap();
            assert!(text.contains(&format!(" {name} ")), "{text}");
            world.gateway.wait_log(&["access", id, "status=200"]).await;
        }
    }
}

#[tokio::test]
async fn an_nginx_app_takes_both_versions() {
    let world = World::start().await;
    let at = free_ports().await.visitors;
    let Some(_nginx) = nginx(world.dir(), at, " proxy_protocol").await else {
        return;
    };
    for version in ["v1", "v2"] {
        let name = format!("{version}.test");
        let options = ["--proxy-protocol", version];
        let _agent = world
            .agent_with(&name, &at.port().to_string(), &options)
            .await;
        let (mut one, from) = visitor(world.visitors).await;
        for _ in 0..2 {
            one.send_get(&name, "/").await;
            assert_eq!(one.answer("GET").await.text(), from.to_string());
        }
    }
}

#[tokio::test]
async fn an_app_that_does_not_expect_it_is_told_from_one_that_does() {
    let world = World::start().await;
    let identity = world.pki.server(&["localhost"]);
    let config = world.pki.server_config(&identity, false, &["http/1.1"]);
    let tls = HttpApp::start_tls("tls", config).await;
    let refusing = RawApp::start(|mut reader: Reader<Conn>| async move {
        // What begins like no request of its own is refused, and the rest of it read so that nothing is reset.
        let _line = reader.some(4096).await;
        let refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        reader.io.write_all(refusal).await.unwrap();
        reader.closed().await;
    })
    .await;
    let closing = RawApp::answering("", true).await;
    let doorman = Doorman::before(tls.address()).await;
    let ca = world.pki.ca_file("ca");
    let ca = ca.to_str().unwrap();
    let expected = format!("https://localhost:{}", doorman.port());
    let leave = "leave --proxy-protocol out";
    let add = "add --proxy-protocol";
    for (name, target, options, status, said) in [
        (
            "400.test",
            refusing.target(),
            &["--proxy-protocol", "v1"][..],
            400,
            ["answered nothing but 400", leave],
        ),
        (
            "closed.test",
            closing.target(),
            &["--proxy-protocol", "v2"],
            502,
            ["without an answer", leave],
        ),
        (
            "tls.test",
            tls.target().to_owned(),
            &["--proxy-protocol", "v2", "--target-ca", ca],
            502,
            ["cannot be reached", leave],
        ),
        (
            "missing.test",
            closing.target(),
            &[],
            502,
            ["without an answer", add],
        ),
        (
            "missing-tls.test",
            expected,
            &["--target-ca", ca],
            502,
            ["cannot be reached", add],
        ),
    ] {
        let agent = world.agent_with(name, &target, options).await;
        for _ in 0..3 {
            assert_eq!(world.get(name, "/").await.status(), status, "{name}");
        }
        let words = ["WARN", said[0], said[1]];
        agent.wait_log(&words).await;
        assert_eq!(agent.logged(&words).len(), 1, "{:?}", agent.log());
    }
    // An app that has been understood may say 400 for a reason of its own.
    let scene = Scene::start("v2").await;
    assert_eq!(scene.world.get(HOST, "/hello").await.status(), 200);
    assert_eq!(scene.world.get(HOST, "/status/400").await.status(), 400);
    assert_eq!(scene.agent.logged(&["WARN"]).len(), 0);
}

#[tokio::test]
async fn a_real_nginx_and_a_real_haproxy_that_do_not_expect_it_are_named() {
    let Some(installed) = available() else { return };
    let world = World::start().await;
    let ports = free_ports().await;
    let Some(_nginx) = nginx(world.dir(), ports.visitors, "").await else {
        return;
    };
    let body = format!(
        "frontend app\n\x20   bind {}\n\x20   http-request return status 200\n",
        ports.tunnels
    );
    let haproxy = Haproxy::start(&installed, world.dir(), "plain", &body);
    haproxy.listening(ports.tunnels).await;
    for (kind, at) in [("nginx", ports.visitors), ("haproxy", ports.tunnels)] {
        for version in ["v1", "v2"] {
            let name = format!("{kind}-{version}.test");
            let options = ["--proxy-protocol", version];
            let agent = world
                .agent_with(&name, &at.port().to_string(), &options)
                .await;
            assert_ne!(world.get(&name, "/").await.status(), 200);
            let words = [
                "WARN",
                &format!("PROXY {version}"),
                "leave --proxy-protocol out",
            ];
            agent.wait_log(&words).await;
        }
    }
}

#[tokio::test]
async fn its_options_say_what_is_wrong_with_them() {
    for (options, said) in [
        (&["--proxy-protocol", "v3"][..], "neither v1 nor v2"),
        (&["--visitor-from", "x-forwarded-for"], "--proxy-protocol"),
        (
            &["--proxy-protocol", "v1", "--visitor-from", "a b"],
            "no field's name",
        ),
    ] {
        let mut words = ["http", "3000", "--gateway", "localhost:1", "--clear"].to_vec();
        words.extend(options);
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let finished = run(&built("tidegate"), &words).await;
        assert_eq!(finished.code, Some(64), "{options:?}: {finished:?}");
        assert!(finished.stderr.contains(said), "{options:?}: {finished:?}");
    }
}
