//! A real HAProxy at either end in our place (issue §9): requests, uploads, WebSocket, GOAWAY, restarts.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::haproxy::{GatewayPorts, Haproxy, Installed, available, free_ports};
use tidegate_tests::http1::pattern;
use tidegate_tests::peers::agent::{RawAgent, answering};
use tidegate_tests::peers::field;
use tidegate_tests::peers::gateway::{RawGateway, answer, request};
use tidegate_tests::pki::Pki;
use tidegate_tests::program::Program;
use tidegate_tests::visitors::http1::{get, try_get};
use tidegate_tests::visitors::{Answer, Visitor};
use tidegate_tests::websocket::{self, KEY, accept, frame, op};
use tidegate_tests::world::launch_agent;
use tidegate_tests::{HOST, World, eventually, within};

use super::succession::{finish, in_flight};

/// What every visitor may expect, whoever the two ends are.
async fn everything_works(visitors: std::net::SocketAddr) {
    for host in [HOST, "BLOG.test", "blog.test:80"] {
        assert_eq!(
            get(visitors, host, "/hello").await.text(),
            "hello from blog\n",
            "{host}"
        );
    }
    assert_eq!(get(visitors, "other.test", "/hello").await.status(), 503);

    let length = 3_000_000;
    let down = get(visitors, HOST, &format!("/size/{length}")).await;
    assert!(
        down.cut.is_none() && down.body == pattern(length),
        "3 MB down"
    );
    for framing in ["length", "chunks"] {
        let mut visitor = Visitor::connect(visitors).await;
        let body = pattern(length);
        if framing == "length" {
            let head = format!(
                "POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n"
            );
            visitor.send(head).await;
            visitor.send(&body).await;
        } else {
            let head = format!(
                "POST /upload HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            visitor.send(head).await;
            for part in body.chunks(100_000) {
                visitor.send(format!("{:x}\r\n", part.len())).await;
                visitor.send(part).await;
                visitor.send("\r\n").await;
            }
            visitor.send("0\r\n\r\n").await;
        }
        assert_eq!(
            visitor.answer("POST").await.text(),
            format!("{length} intact"),
            "{framing}"
        );
    }

    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut visitor = Visitor::connect(visitors).await;
        visitor.send_get(HOST, "/slow/300").await;
        waiting.push(visitor);
    }
    for mut visitor in waiting {
        assert_eq!(visitor.answer("GET").await.text(), "slow\n", "20 at once");
    }
    websocket_works(visitors).await;
}

/// The answer of an app that knows nothing of WebSockets.
async fn ignored_upgrade(visitors: std::net::SocketAddr) -> Answer {
    let mut visitor = Visitor::connect(visitors).await;
    visitor
        .send(format!(
            "GET /hello HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Tidegate-Upgrade-Optional: 1\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        ))
        .await;
    visitor.answer("GET").await
}

async fn websocket_works(visitors: std::net::SocketAddr) {
    let mut visitor = Visitor::connect(visitors).await;
    visitor
        .send(format!(
            "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        ))
        .await;
    let head = visitor.head().await;
    assert_eq!(head.status(), 101, "{head:?}");
    assert_eq!(head.get("sec-websocket-accept"), Some(accept(KEY).as_str()));
    for payload in [&b"one"[..], &[3; 60_000]] {
        visitor.send(frame(op::BINARY, payload, true)).await;
        let (opcode, back) = within(SOON, "an echo", websocket::read(&mut visitor.reader))
            .await
            .unwrap();
        assert!(opcode == op::BINARY && back == payload);
    }
    visitor.send(frame(op::CLOSE, &[3, 232], true)).await;
    let closing = within(SOON, "a close", websocket::read(&mut visitor.reader))
        .await
        .unwrap();
    assert_eq!(closing.0, op::CLOSE);
}

/// HAProxy as origin: it dials `tidegated`.
struct Origin {
    world: World,
    app: HttpApp,
    haproxy: Haproxy,
}

impl Origin {
    async fn start(installed: &Installed) -> Self {
        let world = World::start().await;
        let app = HttpApp::start("blog").await;
        let (identity, ca) = (world.pki.agent(&[HOST]), world.pki.ca_file("ca"));
        let haproxy = Haproxy::agent(
            installed,
            world.dir(),
            &identity,
            &ca,
            world.tunnels,
            app.address(),
        );
        world.wait_filed(HOST, 2, SOON).await;
        Self {
            world,
            app,
            haproxy,
        }
    }
}

#[tokio::test]
async fn a_haproxy_origin_serves_through_tidegated() {
    let Some(installed) = available() else { return };
    let origin = Origin::start(&installed).await;
    everything_works(origin.world.visitors).await;
    let ignored = ignored_upgrade(origin.world.visitors).await;
    assert_eq!(
        (ignored.status(), ignored.text().as_str()),
        (200, "hello from blog\n")
    );
    assert_eq!(
        origin.world.filed(HOST).await,
        2,
        "the two first tunnels are still the ones"
    );
}

#[tokio::test]
async fn a_haproxy_origin_that_restarts_is_back() {
    let Some(installed) = available() else { return };
    let mut origin = Origin::start(&installed).await;
    origin.haproxy.restart().await;
    let answer = get(origin.world.visitors, HOST, "/hello").await;
    assert_eq!(answer.status(), 200, "the visitor was held");
    origin.world.wait_filed(HOST, 2, SOON).await;
}

#[tokio::test]
async fn a_haproxy_origin_finds_a_restarted_tidegated() {
    let Some(installed) = available() else { return };
    let mut origin = Origin::start(&installed).await;
    origin.world.gateway.terminate();
    assert!(origin.world.gateway.ended(SOON).await.success());
    origin.world.restart_gateway().await;
    origin.world.wait_filed(HOST, 2, SOON).await;
    assert_eq!(
        get(origin.world.visitors, HOST, "/hello").await.status(),
        200
    );
}

/// HAProxy has as many tunnels as it is told, and dials when one has ended.
#[tokio::test]
async fn a_haproxy_origin_goes_to_the_gateway_that_comes_next() {
    let Some(installed) = available() else { return };
    let mut origin = Origin::start(&installed).await;
    let visitor = in_flight(&origin.world).await;
    origin.world.gateway.terminate();
    let next = origin.world.launch_successor();
    let mut last = std::mem::replace(&mut origin.world.gateway, next);
    origin.world.gateway.ready().await;
    let answer = origin.world.get(HOST, "/hello").await;
    assert_eq!(answer.status(), 200, "the visitor was held");
    origin.world.wait_filed(HOST, 1, SOON).await;
    finish(visitor).await;
    assert!(last.ended(SOON).await.success());
    origin.world.wait_filed(HOST, 2, SOON).await;
}

/// SIGUSR1 is HAProxy's soft stop: GOAWAY, what is in flight is finished, no tunnel is dialed again.
#[tokio::test]
async fn a_haproxy_origin_that_says_goaway_finishes_what_runs() {
    let Some(installed) = available() else { return };
    let origin = Origin::start(&installed).await;
    let mut visitor = origin.world.visitor().await;
    visitor.send_get(HOST, "/slow/800").await;
    origin.app.wait_request("/slow/800").await;
    origin.haproxy.program.signal(Signal::USR1);
    assert_eq!(visitor.answer("GET").await.text(), "slow\n");
}

/// HAProxy as gateway: `tidegate` dials it.
struct Gateway {
    ports: GatewayPorts,
    app: HttpApp,
    haproxy: Haproxy,
    agent: Program,
    _dir: tempfile::TempDir,
}

impl Gateway {
    async fn start(installed: &Installed) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::create(dir.path(), "ca");
        let ports = free_ports().await;
        let (identity, ca) = (pki.server(&["localhost"]), pki.ca_file("ca"));
        let haproxy = Haproxy::gateway(installed, dir.path(), &identity, &ca, ports).await;
        let app = HttpApp::start("blog").await;
        let address = format!("localhost:{}", ports.tunnels.port());
        let mut agent = launch_agent(&[], &address, &pki.agent(&[HOST]), &ca, app.target(), &[]);
        agent.ready().await;
        Self {
            ports,
            app,
            haproxy,
            agent,
            _dir: dir,
        }
    }

    /// Waits, at most `limit`, until a visitor is served.
    async fn serves(&self, limit: Duration) {
        let visitors = self.ports.visitors;
        eventually(limit, "a visitor of HAProxy is served", async || {
            let answer = try_get(visitors, HOST, "/hello", Duration::from_secs(2)).await;
            answer
                .is_ok_and(|answer| answer.status() == 200)
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn tidegate_serves_through_a_haproxy_gateway() {
    let Some(installed) = available() else { return };
    let gateway = Gateway::start(&installed).await;
    everything_works(gateway.ports.visitors).await;
    // HAProxy would take a 200 for an open stream, so it must see a failure even where a visitor claims to know better.
    let ignored = ignored_upgrade(gateway.ports.visitors).await;
    assert_eq!(
        (ignored.status(), ignored.reason()),
        (502, "upgrade-ignored")
    );
}

#[tokio::test]
async fn tidegate_finds_a_restarted_haproxy_gateway() {
    let Some(installed) = available() else { return };
    let mut gateway = Gateway::start(&installed).await;
    gateway.haproxy.restart().await;
    gateway.haproxy.listening(gateway.ports.visitors).await;
    gateway.serves(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn a_restarted_tidegate_serves_through_a_haproxy_gateway() {
    let Some(installed) = available() else { return };
    let mut gateway = Gateway::start(&installed).await;
    let mut visitor = Visitor::connect(gateway.ports.visitors).await;
    visitor.send_get(HOST, "/slow/700").await;
    gateway.app.wait_request("/slow/700").await;
    let began = Instant::now();
    gateway.agent.terminate();
    // HAProxy lets streams up to the last id of a GOAWAY finish.
    assert_eq!(visitor.answer("GET").await.text(), "slow\n");
    assert!(
        gateway.agent.ended(SOON).await.success(),
        "after {:?}",
        began.elapsed()
    );
}

/// HAProxy purges and re-balances as it likes; an agent answers each GOAWAY with another dial.
#[tokio::test]
async fn tidegate_keeps_a_haproxy_gateway_served() {
    let Some(installed) = available() else { return };
    let gateway = Gateway::start(&installed).await;
    for _ in 0..50 {
        let answer = get(gateway.ports.visitors, HOST, "/hello").await;
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(gateway.app.count("/hello"), 50);
}

/// The control: what is asked of us here is what two HAProxies do with each other.
#[tokio::test]
async fn haproxy_at_both_ends_passes_the_same_test() {
    let Some(installed) = available() else { return };
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let ports = free_ports().await;
    let (identity, ca) = (pki.server(&["localhost"]), pki.ca_file("ca"));
    let _gateway = Haproxy::gateway(&installed, dir.path(), &identity, &ca, ports).await;
    let app = HttpApp::start("blog").await;
    let identity = pki.agent(&[HOST]);
    let _agent = Haproxy::agent(
        &installed,
        dir.path(),
        &identity,
        &ca,
        ports.tunnels,
        app.address(),
    );
    eventually(SOON, "the tunnel is up", async || {
        (get(ports.visitors, HOST, "/hello").await.status() == 200).then_some(())
    })
    .await;
    everything_works(ports.visitors).await;
}

/// The control of the raw peers: each of them works with a real HAProxy.
#[tokio::test]
async fn the_raw_peers_work_with_haproxy() {
    let Some(installed) = available() else { return };
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let (server, ca) = (pki.server(&["localhost"]), pki.ca_file("ca"));
    let (agent, app) = (pki.agent(&[HOST]), HttpApp::start("blog").await);

    let ports = free_ports().await;
    let _gateway = Haproxy::gateway(&installed, dir.path(), &server, &ca, ports).await;
    let peer = RawAgent::dial(ports.tunnels, &pki, &agent).await;
    let _task = answering(peer, |path, _| format!("raw {path}"));
    eventually(SOON, "HAProxy has filed the raw agent", async || {
        (get(ports.visitors, HOST, "/x").await.text() == "raw /x").then_some(())
    })
    .await;

    let gateway = RawGateway::listen(&pki, &server).await;
    let _agent = Haproxy::agent(
        &installed,
        dir.path(),
        &agent,
        &ca,
        gateway.address(),
        app.address(),
    );
    let mut peer = gateway.reversed().await;
    peer.send_head(1, &request("GET", HOST, "/size/100000"), true)
        .await;
    let (head, body, _) = answer(&mut peer, 1).await;
    assert_eq!(field(&head, ":status"), Some("200"));
    assert!(body == pattern(100_000));
}
