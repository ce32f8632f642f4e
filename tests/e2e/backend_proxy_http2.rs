//! Servers that are told whose connection it is and speak HTTP/2: a visitor's requests share one, and nobody else's ever go on it.

use std::net::SocketAddr;

use http::Method;
use tidegate_shared::proxy_header::Ends;
use tidegate_tests::apps::{Doorman, HttpApp};
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::haproxy::{Haproxy, available, free_ports};
use tidegate_tests::visitors::http2::answer;
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::{HOST, World, eventually};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const TOLD: &str = "send_proxy = \"v2\"\nprotocol = \"h2\"";

/// A gateway whose [`HOST`] is a backend with this server; `more` are keys of it.
async fn site(server: &str, more: &str) -> World {
    let text = format!(
        "[backends.site]\n{more}\n[backends.site.servers]\none = {server}\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n"
    );
    World::builder().config(&text).start().await
}

/// An app that speaks HTTP/2 in clear text, which another gateway does for it; what it was told, and a gateway in front.
struct Scene {
    app: HttpApp,
    _speaker: World,
    doorman: Doorman,
    world: World,
}

/// `of_server` are keys of the server, with a comma before.
async fn scene(more: &str, of_server: &str) -> Scene {
    let app = HttpApp::start("one").await;
    let speaker = site(&format!("\"{}\"", app.address()), "").await;
    let doorman = Doorman::before(speaker.visitors).await;
    let server = format!(
        "{{ address = \"127.0.0.1:{}\"{of_server} }}",
        doorman.port()
    );
    let world = site(&server, &format!("{TOLD}\n{more}")).await;
    Scene {
        app,
        _speaker: speaker,
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

fn sources(doorman: &Doorman) -> Vec<SocketAddr> {
    let greeted = doorman.greeted();
    let pairs = greeted.iter().map(|one| one.header.ends.pair().unwrap());
    let mut sources: Vec<SocketAddr> = pairs.map(|pair| pair.source()).collect();
    sources.sort_unstable();
    sources
}

#[tokio::test]
async fn each_visitor_has_one_of_its_own_for_as_long_as_it_is_there() {
    const VISITORS: usize = 8;
    let scene = scene("", "").await;
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
    let mut known: Vec<SocketAddr> = here.iter().map(|(_, from)| *from).collect();
    known.sort_unstable();
    assert_eq!(sources(&scene.doorman), known, "each has one");
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
async fn a_visitors_requests_at_once_share_it() {
    let scene = scene("", "").await;
    let mut visitor = H2Visitor::connect(scene.world.visitors).await;
    let mut slow = Vec::new();
    for nth in 0..5 {
        let path = format!("/slow/30{nth}");
        let head = visitor.head(Method::GET, HOST, &path);
        slow.push(visitor.begin(head, true).await.0);
        scene.app.wait_request(&path).await;
    }
    let quick = visitor.get(HOST, "/hello").await;
    assert_eq!(quick.text(), "hello from one\n");
    let mut other = H2Visitor::connect(scene.world.visitors).await;
    assert_eq!(other.get(HOST, "/hello").await.text(), "hello from one\n");
    for slow in slow {
        assert_eq!(answer(slow).await.text(), "slow\n");
    }
    let sources = sources(&scene.doorman);
    assert_eq!(sources.len(), 2);
    assert_ne!(sources[0], sources[1], "another visitor's is another one");
}

/// A place on one's own is there however many connections there may be; others' make room once nothing is in flight on them.
#[tokio::test]
async fn a_limit_of_connections_is_no_dead_end() {
    let scene = scene("queue_timeout = \"10s\"", ", max_connections = 1").await;
    let world = &scene.world;
    let (mut one, mut two) = (world.visitor().await, world.visitor().await);
    for _ in 0..3 {
        asked(&mut one).await;
        asked(&mut two).await;
    }
    assert_eq!(scene.doorman.greeted().len(), 6);
    let metrics = world.metrics().await;
    let open = metrics.sum("tidegate_backend_open_connections", &[]);
    assert_eq!(open, 1.0);
    let mut many = H2Visitor::connect(world.visitors).await;
    let head = many.head(Method::GET, HOST, "/slow/300");
    let (slow, _) = many.begin(head, true).await;
    scene.app.wait_request("/slow/300").await;
    assert_eq!(many.get(HOST, "/hello").await.text(), "hello from one\n");
    // One that is in use is waited for.
    asked(&mut two).await;
    assert_eq!(answer(slow).await.text(), "slow\n");
    assert_eq!(scene.doorman.greeted().len(), 8);
}

/// With TLS behind the header, which server and gateway agree by on what is spoken, and without.
#[tokio::test]
async fn haproxy_takes_both_versions() {
    let Some(haproxy) = available() else { return };
    let pki = World::start().await;
    let (identity, ca) = (pki.pki.server(&["app.internal"]), pki.pki.ca_file("ca"));
    let tls = format!(
        "tls = {{ ca = \"{}\", server_name = \"app.internal\" }}\n",
        ca.display()
    );
    let (some, more) = (free_ports().await, free_ports().await);
    let answer = "http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port] %[req.ver]\"";
    let crt = identity.display();
    let body = format!(
        "frontend clear\n    bind {} accept-proxy proto h2\n    {answer}\n\
         frontend tls\n    bind {} accept-proxy ssl crt {crt} alpn h2,http/1.1\n    {answer}\n\
         frontend old\n    bind {} accept-proxy ssl crt {crt} alpn http/1.1\n    {answer}\n",
        some.visitors, some.tunnels, more.visitors,
    );
    let started = Haproxy::start(&haproxy, pki.dir(), "haproxy-app", &body);
    started.listening(more.visitors).await;
    for (place, keys, spoken) in [
        (some.visitors, "protocol = \"h2\"\n", "2.0"),
        (some.tunnels, &format!("protocol = \"h2\"\n{tls}"), "2.0"),
        (some.tunnels, &format!("protocol = \"auto\"\n{tls}"), "2.0"),
        (more.visitors, &format!("protocol = \"auto\"\n{tls}"), "1.1"),
    ] {
        for version in ["v1", "v2"] {
            let keys = format!("send_proxy = \"{version}\"\n{keys}");
            let world = site(&format!("\"{place}\""), &keys).await;
            let (mut visitor, from) = known(world.visitors).await;
            let (mut other, another) = known(world.visitors).await;
            for _ in 0..3 {
                for (visitor, from) in [(&mut visitor, from), (&mut other, another)] {
                    visitor.send_get(HOST, "/").await;
                    let answer = visitor.answer("GET").await.text();
                    assert_eq!(answer, format!("{from} {spoken}"), "{keys}");
                }
            }
            let metrics = world.metrics().await;
            let opened = metrics.sum("tidegate_backend_connections_total", &[]);
            assert_eq!(opened, 2.0, "{keys}");
        }
    }
}

/// A check is nobody's connection, and says so.
#[tokio::test]
async fn checks_begin_with_a_header_that_names_nobody() {
    let scene = scene(
        "check = { path = \"/hello\", status = \"200-599\", interval = \"100ms\" }",
        "",
    )
    .await;
    let first = eventually(SOON, "a check", async || {
        scene.doorman.greeted().into_iter().next()
    })
    .await;
    assert_eq!(first.header.ends, Ends::Local);
    let passed = ["server=\"one\"", "result=\"passed\""];
    eventually(SOON, "they are answered", async || {
        let metrics = scene.world.metrics().await;
        let passed = metrics.sum("tidegate_backend_checks_total", &passed);
        (passed >= 2.0).then_some(())
    })
    .await;
}

/// It takes the header for what HTTP/2 begins with.
#[tokio::test]
async fn one_that_takes_no_header_is_named() {
    let Some(haproxy) = available() else { return };
    let some = free_ports().await;
    let pki = World::start().await;
    let body = format!(
        "frontend app\n    bind {} proto h2\n    http-request return status 200\n",
        some.visitors
    );
    let started = Haproxy::start(&haproxy, pki.dir(), "haproxy-app", &body);
    started.listening(some.visitors).await;
    let keys = format!("{TOLD}\nretries = 0");
    let world = site(&format!("\"{}\"", some.visitors), &keys).await;
    assert_eq!(world.get(HOST, "/").await.status(), 502);
    let words = [
        "server one",
        "expected an answer behind our PROXY v2 header",
        "it may take none, or v1; set backends.site.send_proxy (",
    ];
    world.gateway.wait_log(&words).await;
}
