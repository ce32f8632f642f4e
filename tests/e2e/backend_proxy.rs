//! Servers of a backend that are told whose connection it is (`send_proxy`): what the header says, and that no connection which
//! names one visitor ever carries another's request.

use std::net::SocketAddr;

use http::Method;
use tidegate_shared::proxy_header::{Ends, Version};
use tidegate_tests::apps::{Doorman, HttpApp, RawApp};
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::haproxy::{Haproxy, available, free_ports};
use tidegate_tests::visitors::http1::get;
use tidegate_tests::visitors::http2::answer;
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::world::Builder;
use tidegate_tests::{HOST, World, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A gateway whose [`HOST`] is a backend with this server; `more` are keys of it.
fn site(server: &str, more: &str) -> Builder {
    World::builder().config(&format!(
        "[backends.site]\n{more}\n[backends.site.servers]\none = {server}\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n"
    ))
}

/// An app that expects a header, what it was told, and a gateway in front.
struct Scene {
    app: HttpApp,
    doorman: Doorman,
    world: World,
}

async fn scene(more: &str) -> Scene {
    let app = HttpApp::start("one").await;
    let doorman = Doorman::before(app.address()).await;
    let server = format!("\"127.0.0.1:{}\"", doorman.port());
    let world = site(&server, more).start().await;
    Scene {
        app,
        doorman,
        world,
    }
}

async fn asked(visitor: &mut Visitor) {
    visitor.send_get(HOST, "/hello").await;
    assert_eq!(visitor.answer("GET").await.text(), "hello from one\n");
}

/// A visitor whose address the test knows.
async fn known(to: SocketAddr) -> (Visitor, SocketAddr) {
    let tcp = TcpStream::connect(to).await.unwrap();
    let from = tcp.local_addr().unwrap();
    (Visitor::over(Conn::Plain(tcp)), from)
}

#[tokio::test]
async fn a_server_is_told_who_asks_over_tls_and_in_clear_text() {
    let scene = scene("send_proxy = \"v2\"").await;
    let world = &scene.world;
    let conn = Conn::tls(world.visitors_tls, HOST, world.visitor_tls(&["http/1.1"]))
        .await
        .unwrap();
    let from = conn.tcp().local_addr().unwrap();
    asked(&mut Visitor::over(conn)).await;
    let header = scene.doorman.greeted().remove(0).header;
    let pair = header.ends.pair().unwrap();
    assert_eq!(
        (pair.source(), pair.destination()),
        (from, world.visitors_tls)
    );
    let tlvs = &header.tlvs;
    assert_eq!(
        (tlvs.authority(), tlvs.alpn()),
        (Some(HOST), Some(&b"http/1.1"[..]))
    );
    let ssl = tlvs.ssl().unwrap();
    assert!(ssl.is_tls() && !ssl.has_certificate());
    assert_eq!(ssl.version(), Some("TLSv1.3"));
    assert!(ssl.cipher().unwrap().starts_with("TLS_"), "{ssl:?}");
    assert!(
        ssl.group().is_some_and(|group| group.contains("25519")),
        "{ssl:?}"
    );
    let id = String::from_utf8(tlvs.unique_id().unwrap().to_vec()).unwrap();
    let line = world.gateway.wait_log(&["access", &id]).await;
    assert!(line.contains("server=one status=200"), "{line}");

    let (mut visitor, from) = known(world.visitors).await;
    asked(&mut visitor).await;
    let header = scene.doorman.greeted().remove(1).header;
    assert_eq!(header.ends.pair().unwrap().source(), from);
    assert_eq!(header.tlvs.authority(), Some(HOST), "of the request");
    assert_eq!((header.tlvs.alpn(), header.tlvs.ssl()), (None, None));
    // The fields of the request are as ever.
    let head = scene.app.last_request();
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn version_1_and_chosen_tlvs_say_no_more_than_they_are_to() {
    let old = scene("send_proxy = \"v1\"").await;
    let (mut visitor, from) = known(old.world.visitors).await;
    asked(&mut visitor).await;
    let greeted = old.doorman.greeted().remove(0);
    assert_eq!(greeted.header.version, Version::V1);
    assert_eq!(greeted.header.ends.pair().unwrap().source(), from);
    let chosen = scene("send_proxy = \"v2\"\nproxy_tlvs = [\"authority\"]").await;
    asked(&mut chosen.world.visitor().await).await;
    let kinds: Vec<u8> = chosen.doorman.greeted()[0]
        .header
        .tlvs
        .iter()
        .map(|tlv| tlv.kind)
        .collect();
    assert_eq!(kinds, [2, 3], "the authority and a checksum");
}

/// The header names one visitor's connection, so no other's request may ever go behind it.
#[tokio::test]
async fn each_visitors_connection_has_its_own_and_takes_it_along() {
    const VISITORS: usize = 8;
    let scene = scene("send_proxy = \"v2\"").await;
    let mut visitors = JoinSet::new();
    for _ in 0..VISITORS {
        let to = scene.world.visitors;
        visitors.spawn(async move {
            let (mut visitor, from) = known(to).await;
            for _ in 0..10 {
                asked(&mut visitor).await;
            }
            (visitor, from)
        });
    }
    let mut here = Vec::new();
    while let Some(done) = visitors.join_next().await {
        here.push(done.unwrap());
    }
    let greeted = scene.doorman.greeted();
    assert_eq!(greeted.len(), VISITORS, "one connection for ten requests");
    let mut sources: Vec<SocketAddr> = greeted
        .iter()
        .map(|greeted| greeted.header.ends.pair().unwrap().source())
        .collect();
    let mut known: Vec<SocketAddr> = here.iter().map(|(_, from)| *from).collect();
    sources.sort_unstable();
    known.sort_unstable();
    assert_eq!(sources, known);
    assert_eq!(scene.doorman.open(), VISITORS, "at rest");
    here.pop();
    eventually(SOON, "its visitor's end closes it", async || {
        (scene.doorman.open() == VISITORS - 1).then_some(())
    })
    .await;
    drop(here);
    eventually(SOON, "and the others' theirs", async || {
        (scene.doorman.open() == 0).then_some(())
    })
    .await;
    let metrics = scene.world.metrics().await;
    assert_eq!(metrics.sum("tidegate_backend_open_connections", &[]), 0.0);
}

#[tokio::test]
async fn an_http2_visitor_has_as_many_as_it_has_requests_at_once() {
    let scene = scene("send_proxy = \"v2\"").await;
    let mut visitor = H2Visitor::connect(scene.world.visitors).await;
    for _ in 0..3 {
        let answer = visitor.get(HOST, "/hello").await;
        assert_eq!(answer.text(), "hello from one\n");
    }
    assert_eq!(scene.doorman.greeted().len(), 1);
    let head = visitor.head(Method::GET, HOST, "/slow/300");
    let (slow, _) = visitor.begin(head, true).await;
    scene.app.wait_request("/slow/300").await;
    let quick = visitor.get(HOST, "/hello").await;
    assert_eq!(quick.text(), "hello from one\n");
    assert_eq!(answer(slow).await.text(), "slow\n");
    let greeted = scene.doorman.greeted();
    assert_eq!(greeted.len(), 2);
    let source = |nth: usize| greeted[nth].header.ends.pair().unwrap().source();
    assert_eq!(source(0), source(1), "both are the one visitor's");
    for _ in 0..3 {
        let answer = visitor.get(HOST, "/hello").await;
        assert_eq!(answer.text(), "hello from one\n");
    }
    assert_eq!(scene.doorman.greeted().len(), 2);
}

/// Whoever waits for room gets it from somebody's connection that rests: it cannot be used, and is closed.
#[tokio::test]
async fn a_limit_of_connections_is_no_dead_end() {
    let app = HttpApp::start("one").await;
    let doorman = Doorman::before(app.address()).await;
    let server = format!(
        "{{ address = \"127.0.0.1:{}\", max_connections = 1 }}",
        doorman.port()
    );
    let more = "send_proxy = \"v2\"\nqueue_timeout = \"10s\"";
    let world = site(&server, more).start().await;
    let (mut one, mut two) = (world.visitor().await, world.visitor().await);
    for _ in 0..3 {
        asked(&mut one).await;
        asked(&mut two).await;
    }
    assert_eq!(doorman.greeted().len(), 6);
    let metrics = world.metrics().await;
    let open = metrics.sum("tidegate_backend_open_connections", &[]);
    assert_eq!(open, 1.0);
    // One that is in use is waited for.
    one.send_get(HOST, "/slow/300").await;
    app.wait_request("/slow/300").await;
    asked(&mut two).await;
    assert_eq!(one.answer("GET").await.status(), 200);
}

#[tokio::test]
async fn a_connection_that_the_server_has_closed_is_opened_again_with_its_header() {
    let app = RawApp::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true).await;
    let place = app.target().trim_start_matches("http://").parse().unwrap();
    let doorman = Doorman::before(place).await;
    let server = format!("\"127.0.0.1:{}\"", doorman.port());
    let world = site(&server, "send_proxy = \"v1\"").start().await;
    let (mut visitor, from) = known(world.visitors).await;
    for _ in 0..3 {
        visitor.send_get(HOST, "/").await;
        assert_eq!(visitor.answer("GET").await.text(), "ok");
    }
    let greeted = doorman.greeted();
    assert_eq!(greeted.len(), 3);
    let pairs = greeted.iter().map(|one| one.header.ends.pair().unwrap());
    assert!(pairs.into_iter().all(|pair| pair.source() == from));
}

/// An upgraded connection begins with the header as well.
#[tokio::test]
async fn an_upgraded_connection_is_told_of_too() {
    let scene = scene("send_proxy = \"v2\"").await;
    let (mut visitor, from) = known(scene.world.visitors).await;
    visitor
        .send(format!(
            "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ))
        .await;
    assert_eq!(visitor.head().await.status(), 101);
    let greeted = scene.doorman.greeted();
    assert_eq!(greeted[0].header.ends.pair().unwrap().source(), from);
}

/// Behind a balancer: the address is the one that its header named, and what else it said goes on where that is chosen.
#[tokio::test]
async fn what_a_balancer_said_is_carried_on_where_chosen() {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x1f".to_vec();
    header.extend_from_slice(&[203, 0, 113, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb]);
    header.extend_from_slice(b"\xea\0\x07\x01vpce-1\x02\0\x06lb.xyz");
    for (tlvs, endpoint) in [
        ("proxy_tlvs = [\"authority\", \"received\"]", Some("vpce-1")),
        ("", None),
    ] {
        let app = HttpApp::start("one").await;
        let doorman = Doorman::before(app.address()).await;
        let server = format!("\"127.0.0.1:{}\"", doorman.port());
        let world = site(&server, &format!("send_proxy = \"v2\"\n{tlvs}"))
            .option("--visitors-proxy", "required")
            .option("--proxy-from", "127.0.0.1")
            .start()
            .await;
        let mut tcp = TcpStream::connect(world.visitors).await.unwrap();
        tcp.write_all(&header).await.unwrap();
        asked(&mut Visitor::over(Conn::Plain(tcp))).await;
        let told = doorman.greeted().remove(0).header;
        let pair = told.ends.pair().unwrap();
        assert_eq!(pair.source().to_string(), "203.0.113.7:56324");
        assert_eq!(pair.destination().to_string(), "198.51.100.1:443");
        assert_eq!(told.tlvs.aws_vpc_endpoint(), endpoint);
        assert_eq!(told.tlvs.authority(), Some(HOST), "what is known here wins");
    }
}

/// As sites have it behind such a gateway, with TLS behind the header and without; nginx has a theme of its own.
#[tokio::test]
async fn haproxy_takes_both_versions() {
    let Some(haproxy) = available() else { return };
    let pki = World::start().await;
    let (identity, ca) = (pki.pki.server(&["app.internal"]), pki.pki.ca_file("ca"));
    let tls = format!(
        "tls = {{ ca = \"{}\", server_name = \"app.internal\" }}\n",
        ca.display()
    );
    let some = free_ports().await;
    let answer =
        "http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port]\"";
    let body = format!(
        "frontend clear\n    bind {} accept-proxy\n    {answer}\n\
         frontend tls\n    bind {} accept-proxy ssl crt {}\n    {answer}\n",
        some.visitors,
        some.tunnels,
        identity.display()
    );
    let started = Haproxy::start(&haproxy, pki.dir(), "haproxy-app", &body);
    started.listening(some.tunnels).await;
    for (place, tls) in [(some.visitors, ""), (some.tunnels, tls.as_str())] {
        for version in ["v1", "v2"] {
            let keys = format!("send_proxy = \"{version}\"\n{tls}");
            let world = site(&format!("\"{place}\""), &keys).start().await;
            let (mut visitor, from) = known(world.visitors).await;
            for _ in 0..2 {
                visitor.send_get(HOST, "/").await;
                assert_eq!(visitor.answer("GET").await.text(), from.to_string());
            }
            let other = get(world.visitors, HOST, "/").await.text();
            assert_ne!(other, from.to_string());
        }
    }
}

/// A check is nobody's connection, and says so: `LOCAL`.
#[tokio::test]
async fn checks_begin_with_a_header_that_names_nobody() {
    let scene = scene("send_proxy = \"v2\"\ncheck = \"/hello\"").await;
    let first = eventually(SOON, "a check", async || {
        scene.doorman.greeted().into_iter().next()
    })
    .await;
    assert_eq!(first.header.ends, Ends::Local);
    // Version 1 has no word for that: they name their own ends.
    let old = self::scene("send_proxy = \"v1\"\ncheck = \"/hello\"").await;
    let own = eventually(SOON, "a check in version 1", async || {
        old.doorman.greeted().into_iter().next()
    })
    .await;
    assert!(own.octets.starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 "));
    let pair = own.header.ends.pair().unwrap();
    assert_eq!(pair.destination().port(), old.doorman.port());
    let labels = ["backend=\"site\"", "server=\"one\""];
    eventually(SOON, "it passes", async || {
        let metrics = scene.world.metrics().await;
        let up = metrics.sum("tidegate_backend_server_up", &labels);
        let passed = ["server=\"one\"", "result=\"passed\""];
        let passed = metrics.sum("tidegate_backend_checks_total", &passed);
        (up == 1.0 && passed >= 1.0).then_some(())
    })
    .await;
}
