//! Names come from certificates and from nowhere else (issue §1, `reliability.md` §2.3).

use std::path::PathBuf;
use std::time::Duration;

use rcgen::string::BmpString;
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose};
use rustix::process::Signal;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::peers::Peer;
use tidegate_tests::peers::agent::{RawAgent, answering};
use tidegate_tests::peers::frame::{Frame, PREFACE, kind};
use tidegate_tests::peers::gateway::RawGateway;
use tidegate_tests::pki::{Pki, common_name, two_common_names};
use tidegate_tests::program::{built, run};
use tidegate_tests::visitors::Visitor;
use tidegate_tests::world::launch_agent;
use tidegate_tests::{HOST, World, within};
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_tunnel_is_filed_under_its_cn_and_every_dns_san() {
    let world = World::start().await;
    let app = HttpApp::start("both").await;
    let identity = world.pki.agent(&["blog.test", "shop.test"]);
    let mut agent = world.launch_agent(&identity, app.target(), &[]);
    agent.ready().await;
    for name in ["blog.test", "shop.test"] {
        assert_eq!(
            world.get(name, "/hello").await.text(),
            "hello from both\n",
            "{name}"
        );
    }
    assert_eq!(world.get("other.test", "/hello").await.status(), 503);
}

#[tokio::test]
async fn names_are_compared_as_parsed_names() {
    let world = World::start().await;
    let peer = raw(&world, &["Blog.TEST", "XN--Bcher-KVA.test"]).await;
    let _agent = answering(peer, |path, _| format!("got {path}"));
    for host in [
        "blog.test",
        "BLOG.test",
        "blog.TEST.",
        "blog.test:8443",
        "xn--bcher-kva.test",
    ] {
        assert_eq!(world.get(host, "/x").await.text(), "got /x", "{host}");
    }
}

/// Each is signed by the right CA, and each is refused: its agent is told, the log says why, nothing is filed.
#[tokio::test]
async fn odd_certificates_are_refused_with_a_reason() {
    let world = World::start().await;
    for (number, (what, params)) in (1..).zip(odd_certificates()) {
        let identity = world.pki.issue(&params, &format!("odd {what}"));
        let (told, _) = within(SOON, what, refusal(&world, number, Some(identity))).await;
        assert!(!told.is_empty(), "{what}: the agent is told why");
        world
            .gateway
            .wait_log(&["refused", "certificate", &format!("127.0.1.{number}:")])
            .await;
    }
    assert_eq!(world.listed().await.len(), 0, "nothing is filed");
    for host in ["odd.test", "10.1.2.3", "x.test", "com", "a.co.uk"] {
        let answer = world.get(host, "/").await;
        assert!(
            matches!(answer.status(), 400 | 503),
            "{host}: {}",
            answer.status()
        );
    }
    assert_eq!(world.get("odd.test", "/").await.reason(), "no-such-name");
}

fn odd_certificates() -> Vec<(&'static str, CertificateParams)> {
    let good = || Pki::agent_params(&["odd.test"]);
    let named = |name: DistinguishedName| {
        let mut params = good();
        params.distinguished_name = name;
        params.subject_alt_names.clear();
        params
    };
    let mut bmp = DistinguishedName::new();
    let text = BmpString::try_from("odd.test").unwrap();
    bmp.push(DnType::CommonName, DnValue::BmpString(text));
    let mut elsewhere = good();
    elsewhere.distinguished_name = common_name("x.test");
    let long = format!("{}.test", "a.".repeat(140));
    let label = format!("{}.test", "a".repeat(64));
    vec![
        ("no CN", named(DistinguishedName::new())),
        ("empty CN", named(common_name(""))),
        ("NUL in CN", named(common_name("odd.test\0.evil.test"))),
        ("TAB in CN", named(common_name("odd\t.test"))),
        ("CRLF in CN", named(common_name("odd.test\r\nHost: x"))),
        ("slash in CN", named(common_name("odd.test/x"))),
        ("two CNs", named(two_common_names("odd.test", "x.test"))),
        ("address as CN", named(common_name("10.1.2.3"))),
        ("over-long name", named(common_name(&long))),
        ("over-long label", named(common_name(&label))),
        ("BMPString", named(bmp)),
        ("bare wildcard", named(common_name("*"))),
        ("wildcard", named(common_name("*.odd.test"))),
        ("top-level wildcard", named(common_name("*.com"))),
        ("public-suffix-wide", named(common_name("*.co.uk"))),
        ("U-label", named(common_name("bücher.test"))),
        ("CN not among the SANs", elsewhere),
    ]
}

/// What the gateway tells an agent that it refuses (debug data of GOAWAY, or the TLS error), and all its frames.
/// Each comes from an address of its own: of one source only a line a minute and reason is logged.
async fn refusal(world: &World, number: u8, identity: Option<PathBuf>) -> (String, Vec<Frame>) {
    let connected =
        RawAgent::connect_from(number, world.tunnels, &world.pki, identity.as_deref()).await;
    let mut peer = match connected {
        Ok(conn) => Peer::over(conn),
        Err(error) => return (error.to_string(), Vec::new()),
    };
    let opening = [PREFACE.as_slice(), &RawAgent::settings().encode()].concat();
    let _ = peer.write(&opening).await;
    let mut frames = Vec::new();
    let error = loop {
        match peer.frame().await {
            Ok(frame) => frames.push(frame),
            Err(error) => break error.to_string(),
        }
    };
    let goaway = frames.iter().find(|frame| frame.kind == kind::GOAWAY);
    let told = goaway.map_or(error, |frame| {
        String::from_utf8_lossy(&frame.payload[8..]).into_owned()
    });
    (told, frames)
}

/// These do not get through TLS: closed within a second, not one byte of HTTP, and a line in the log.
#[tokio::test]
async fn wrong_certificates_fail_in_the_handshake() {
    let world = World::start().await;
    let stranger = Pki::create(world.dir(), "stranger");
    let mut expired = Pki::agent_params(&["blog.test"]);
    expired.not_before = OffsetDateTime::now_utc() - Duration::from_secs(7200);
    expired.not_after = OffsetDateTime::now_utc() - Duration::from_secs(60);
    let mut early = Pki::agent_params(&["blog.test"]);
    early.not_before = OffsetDateTime::now_utc() + Duration::from_secs(3600);
    let mut server = Pki::agent_params(&["blog.test"]);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let cases = [
        ("wrong CA", Some(stranger.agent(&["blog.test"]))),
        ("expired", Some(world.pki.issue(&expired, "expired"))),
        ("not yet valid", Some(world.pki.issue(&early, "early"))),
        ("serverAuth only", Some(world.pki.issue(&server, "server"))),
        ("no certificate", None),
    ];
    for (number, (what, identity)) in (1..).zip(cases) {
        let limit = Duration::from_secs(2);
        let (_, frames) = within(limit, what, refusal(&world, number, identity)).await;
        assert_eq!(frames, [], "{what}: not one byte of HTTP");
        world
            .gateway
            .wait_log(&["refused", &format!("127.0.1.{number}:")])
            .await;
    }
    assert_eq!(world.get("blog.test", "/").await.reason(), "no-such-name");
}

#[tokio::test]
async fn an_agent_accepts_only_the_gateway_that_it_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let stranger = Pki::create(dir.path(), "stranger");
    let mut client_only = Pki::server_params(&["localhost"]);
    client_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let identities = [
        (
            "another name",
            pki.server(&["elsewhere.test"]),
            "is not valid for localhost; it names elsewhere.test",
        ),
        (
            "another CA",
            stranger.server(&["localhost"]),
            "does not end at an authority",
        ),
        (
            "clientAuth only",
            pki.issue(&client_only, "client-only"),
            "gateways need serverAuth",
        ),
    ];
    for (what, identity, told) in identities {
        let gateway = RawGateway::listen(&pki, &identity).await;
        let address = format!("localhost:{}", gateway.address().port());
        let agent = launch_agent(
            &[],
            &address,
            &pki.agent(&["blog.test"]),
            &pki.ca_file("ca"),
            "1",
            &[],
        );
        let tcp = gateway.accept_tcp().await;
        let config = pki.server_config(&identity, true, &["h2"]);
        let outcome = within(SOON, what, Conn::accept_tls(tcp, config)).await;
        // TLS 1.3: the server's side of the handshake ends with the client's alert.
        assert!(outcome.is_err(), "{what}: the agent must not go on");
        agent.wait_log(&["[certificate]", told]).await;
        assert!(!agent.printed().contains(&"ready".to_owned()), "{what}");
    }
}

#[tokio::test]
async fn an_agent_accepts_the_name_that_server_name_gives() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let gateway = RawGateway::listen(&pki, &pki.server(&["elsewhere.test"])).await;
    let address = format!("127.0.0.1:{}", gateway.address().port());
    let options = ["--server-name", "elsewhere.test", "--tunnels", "1"];
    let mut agent = launch_agent(
        &[],
        &address,
        &pki.agent(&["blog.test"]),
        &pki.ca_file("ca"),
        "1",
        &options,
    );
    let _tunnel = gateway.reversed().await.idle();
    agent.ready().await;
}

/// A resumed session would reuse a chain without verifying it: rustls would, if it were offered a ticket.
#[tokio::test]
async fn the_tunnel_listener_does_not_resume_sessions() {
    let world = World::start().await;
    let identity = world.pki.agent(&["blog.test"]);
    let config = world.pki.client(Some(&identity), &["h2"]);
    for attempt in 0..3 {
        let conn = Conn::tls(world.tunnels, "localhost", config.clone())
            .await
            .unwrap();
        let mut peer = Peer::over(conn);
        let opening = [PREFACE.as_slice(), &RawAgent::settings().encode()].concat();
        peer.write(&opening).await.unwrap();
        // Tickets come before application data, so the gateway's SETTINGS are the sign that they would be here.
        peer.wait_frame(kind::SETTINGS).await;
        let Conn::Tls(session) = peer.into_conn() else {
            unreachable!("dialed with TLS")
        };
        let state = session.get_ref().1;
        assert_eq!(
            state.handshake_kind(),
            Some(rustls::HandshakeKind::Full),
            "connection {attempt}"
        );
    }
}

#[tokio::test]
async fn a_tunnel_ends_when_its_certificate_expires() {
    let world = World::start().await;
    let lives = Duration::from_secs(4);
    let identity = world.pki.agent_for(&["blog.test"], lives);
    let mut peer = RawAgent::dial(world.tunnels, &world.pki, &identity).await;
    world.wait_filed("blog.test", 1, SOON).await;
    let limit = lives + Duration::from_secs(60);
    let frames = peer.until_closed(limit).await;
    assert!(
        frames.iter().any(|frame| frame.kind == kind::GOAWAY),
        "the agent is told: {frames:?}"
    );
    world.wait_filed("blog.test", 0, SOON).await;
    world.gateway.wait_log(&["expire"]).await;
}

/// It may be the clock that is wrong, and a renewal is taken up without a restart: the gateway starts, and says it.
#[tokio::test]
async fn a_gateway_whose_own_certificate_has_expired_says_so() {
    let first = World::start().await;
    let expired = first
        .pki
        .server_expired(&["localhost"], Duration::from_secs(3600));
    let ca = first.pki.ca_file("ca");
    let world = World::builder().identity(expired, ca).start().await;
    let said = world
        .gateway
        .wait_log(&["ERROR", "--identity", "has expired"])
        .await;
    assert!(
        said.contains("expired-localhost") && said.contains("renew it"),
        "{said}"
    );
}

/// Not one visitor notices that the certificate behind the site was about to expire.
#[tokio::test]
async fn an_agent_dials_anew_with_a_renewed_certificate() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let lives = Duration::from_secs(12);
    let identity = world.pki.agent_for(&["blog.test"], lives);
    let mut agent = world.launch_agent(&identity, app.target(), &["--tunnels", "1"]);
    agent.ready().await;
    let expires = tokio::time::Instant::now() + lives;
    assert_eq!(
        world
            .pki
            .agent_for(&["blog.test"], Duration::from_secs(86_400)),
        identity
    );
    let mut every = tokio::time::interval(Duration::from_millis(100));
    while tokio::time::Instant::now() < expires + Duration::from_secs(2) {
        every.tick().await;
        assert_eq!(world.get("blog.test", "/hello").await.status(), 200);
    }
}

/// A file that was renewed wrongly changes nothing, at either end, until it is renewed rightly.
#[tokio::test]
async fn a_renewed_certificate_that_would_be_refused_is_not_used() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let identity = world.pki.agent(&["blog.test"]);
    let file = identity.file_stem().unwrap().to_str().unwrap();
    let mut agent = world.launch_agent(&identity, app.target(), &["--tunnels", "1"]);
    agent.ready().await;
    let mut expired = Pki::agent_params(&["blog.test"]);
    expired.not_after = OffsetDateTime::now_utc() - Duration::from_secs(60);
    for (params, reason) in [
        (Pki::server_params(&["blog.test"]), "clientAuth"),
        (expired, "expired"),
    ] {
        assert_eq!(world.pki.issue(&params, file), identity);
        agent.signal(Signal::HUP);
        agent
            .wait_log(&["WARN", file, "in use stays", reason])
            .await;
    }
    assert_eq!(world.get("blog.test", "/hello").await.status(), 200);
    assert!(!agent.log_contains("was renewed"), "{:?}", agent.log());
    assert_eq!(world.pki.agent(&["blog.test"]), identity);
    agent.signal(Signal::HUP);
    agent.wait_log(&[file, "was renewed"]).await;

    let identity = world
        .pki
        .server(&["localhost", "gateway.test", "127.0.0.1"]);
    let file = identity.file_stem().unwrap().to_str().unwrap();
    assert_eq!(
        world.pki.issue(&Pki::agent_params(&["localhost"]), file),
        identity
    );
    world.gateway.signal(Signal::HUP);
    world
        .gateway
        .wait_log(&["ERROR", file, "in use stays", "serverAuth"])
        .await;
}

/// One line a minute for each reason, and of an old client the one that mends it: whatever else it lacks is because of that.
#[tokio::test]
async fn a_visitor_of_before_tls_1_2_is_told_of_as_one_beside_others() {
    let world = World::start().await;
    let body = [&[3, 2][..], &[7; 32], &[0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    let hello = [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat();
    for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], &hello] {
        let mut visitor = Visitor::connect(world.visitors_tls).await;
        visitor.send(said.to_vec()).await;
        visitor.closed_within(SOON).await;
    }
    for words in [
        "what=\"not-tls\"",
        "it speaks no TLS 1.2 or later, but TLS 1.1 at most",
    ] {
        let told = ["INFO", "TLS with a visitor failed", words];
        world.gateway.wait_log(&told).await;
    }
    let failed = world.metrics().await;
    assert_eq!(failed.sum("tidegate_visitors_tls_failed_total", &[]), 2.0);
}

/// The file is named, for there may be many.
#[tokio::test]
async fn a_certificate_for_visitors_that_was_read_again_is_named() {
    let world = World::start().await;
    let file = world.pki.server(&[HOST]);
    world.gateway.signal(Signal::HUP);
    let name = file.file_name().unwrap().to_str().unwrap();
    let said = ["the certificate for visitors in ", name, "was read again"];
    world.gateway.wait_log(&said).await;
    assert_eq!(world.gateway.logged(&["for visitors in "]).len(), 1);
}

/// The commands of the README: what `tidegate-certs` makes is what the two programs want.
#[tokio::test]
async fn certificates_of_tidegate_certs_make_a_tunnel() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let certs = async |args: &[&str]| {
        let args: Vec<_> = args.iter().map(Into::into).collect();
        let finished = run(&built("tidegate-certs"), &args).await;
        assert_eq!(finished.code, Some(0), "{args:?}: {}", finished.stderr);
        finished.stdout
    };
    certs(&["init", "--dir", path]).await;
    certs(&["issue", "--dir", path, "--gateway", "localhost,127.0.0.1"]).await;
    certs(&["issue", "--dir", path, "--agent", "blog.test,shop.test"]).await;
    let file = |name: &str| dir.path().join(name);
    let shown = certs(&["show", file("blog.test.pem").to_str().unwrap()]).await;
    for name in ["blog.test", "shop.test"] {
        assert!(shown.contains(name), "show prints {name}: {shown}");
    }
    for secret in ["ca.key", "localhost.pem", "blog.test.pem"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(file(secret)).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let world = World::builder()
        .identity(file("localhost.pem"), file("ca.crt"))
        .start()
        .await;
    let app = HttpApp::start("blog").await;
    let gateway = format!("localhost:{}", world.tunnels.port());
    let identity = file("blog.test.pem");
    let mut agent = launch_agent(&[], &gateway, &identity, &file("ca.crt"), app.target(), &[]);
    agent.ready().await;
    assert_eq!(
        world.get("shop.test", "/hello").await.text(),
        "hello from blog\n"
    );
}

/// A raw agent with a good certificate for `names`, filed.
async fn raw(world: &World, names: &[&str]) -> Peer {
    let identity = world.pki.agent(names);
    let peer = RawAgent::dial(world.tunnels, &world.pki, &identity).await;
    world.wait_filed(&names[0].to_lowercase(), 1, SOON).await;
    peer
}

/// An agent that closes its side at once must not leave a name behind.
#[tokio::test]
async fn a_tunnel_that_is_gone_is_not_listed() {
    let world = World::start().await;
    let peer = raw(&world, &["blog.test"]).await;
    let mut conn = peer.into_conn();
    conn.shutdown().await.unwrap();
    drop(conn);
    world.wait_filed("blog.test", 0, SOON).await;
}

/// `*.example.com` counts only where the gateway is told so; then for one label, and never over an exact name.
#[tokio::test]
async fn wildcards_count_only_where_they_are_allowed() {
    let world = World::builder()
        .option("--allow-wildcards", "")
        .start()
        .await;
    let wild = RawAgent::dial(
        world.tunnels,
        &world.pki,
        &world.pki.agent(&["*.shop.test"]),
    )
    .await;
    let _wild = answering(wild, |_, _| "wildcard".to_owned());
    world.wait_filed("*.shop.test", 1, SOON).await;
    let exact = RawAgent::dial(
        world.tunnels,
        &world.pki,
        &world.pki.agent(&["a.shop.test"]),
    )
    .await;
    let _exact = answering(exact, |_, _| "exact".to_owned());
    world.wait_filed("a.shop.test", 1, SOON).await;
    for (host, expected) in [("a.shop.test", "exact"), ("b.shop.test", "wildcard")] {
        for _ in 0..5 {
            assert_eq!(world.get(host, "/").await.text(), expected, "{host}");
        }
    }
    for host in ["shop.test", "a.b.shop.test"] {
        assert_eq!(
            world.get(host, "/").await.reason(),
            "no-such-name",
            "{host}"
        );
    }
    for (number, name) in (1..).zip(["*", "*.com", "*.co.uk", "a.*.test", "*a.shop.test"]) {
        let mut params = Pki::agent_params(&["x.test"]);
        params.subject_alt_names.clear();
        params.distinguished_name = common_name(name);
        let identity = world.pki.issue(&params, &format!("wild {number}"));
        let (told, _) = within(SOON, name, refusal(&world, number, Some(identity))).await;
        assert!(!told.is_empty(), "{name}");
    }
    assert_eq!(world.listed().await.len(), 2);
}
