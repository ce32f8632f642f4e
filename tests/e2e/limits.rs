//! Every limit has an option, an answer, and a way back (issue §7), and the gateway ends as it should.

use std::time::{Duration, Instant};

use tidegate_tests::apps::HttpApp;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::http1::pattern;
use tidegate_tests::peers::agent::RawAgent;
use tidegate_tests::peers::frame::kind;
use tidegate_tests::visitors::http1::try_get;
use tidegate_tests::visitors::http2;
use tidegate_tests::visitors::{Answer, H2Visitor, Visitor};
use tidegate_tests::{HOST, Site, World};

/// A site whose gateway has one option set.
async fn site(option: &str, value: &str) -> Site {
    Site::start_with(World::builder().option(option, value), &[]).await
}

/// Waits for the one access line of a visitor who was turned away, under the id that it was told, and for the warning.
async fn logged(site: &Site, answer: &Answer) {
    let id = answer
        .head
        .get("tidegate-request-id")
        .unwrap_or_else(|| panic!("no id: {:?}", answer.head));
    let status = format!("status={}", answer.status());
    let reason = format!("reason={}", answer.reason());
    let gateway = &site.world.gateway;
    gateway.wait_log(&[" access ", id, &status, &reason]).await;
    assert_eq!(gateway.logged(&[" access ", id]).len(), 1);
    let label = format!("reason=\"{}\"", answer.reason());
    let metrics = site.world.metrics().await;
    let failed = metrics.sum("tidegate_requests_failed_total", &[&label]);
    assert_eq!(failed, 1.0, "{reason}");
    site.get("/hello").await;
    gateway.wait_log(&["WARN", "turned away", "shed=1"]).await;
    assert_eq!(gateway.logged(&["WARN", "turned away"]).len(), 1);
}

/// Waits until so many have been counted.
async fn counted(site: &Site, metric: &str, label: &str, count: f64) {
    eventually(SOON, &format!("{metric}{{{label}}} {count}"), async || {
        (site.world.metrics().await.sum(metric, &[label]) == count).then_some(())
    })
    .await;
}

const OVERDUE: &str = "tidegate_visitors_overdue_total";
const FAILED: &str = "tidegate_requests_failed_total";

#[tokio::test]
async fn a_head_beyond_its_size_is_a_431() {
    let site = site("--max-head", "8KiB").await;
    let value = "v".repeat(9000);
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX: {value}\r\n\r\n");
    assert_eq!(site.ask("GET", request).await.status(), 431);
    let mut visitor = H2Visitor::connect(site.world.visitors).await;
    let mut head = visitor.head(http::Method::GET, HOST, "/hello");
    for length in [9000, 20_000] {
        let value = "v".repeat(length).parse().unwrap();
        head.headers_mut().insert("x", value);
        let (response, _) = visitor.begin(head.clone(), true).await;
        let answer = http2::answer(response).await;
        assert_eq!(answer.status, 431, "{length}");
        assert_eq!(answer.field("tidegate-reason"), "head-too-large");
        let id = answer.field("tidegate-request-id");
        let gateway = &site.world.gateway;
        gateway
            .wait_log(&[" access ", id, "status=431 reason=head-too-large"])
            .await;
    }
    let long = visitor.head(http::Method::GET, HOST, &format!("/{}", "p".repeat(9000)));
    let (response, _) = visitor.begin(long, true).await;
    let answer = http2::answer(response).await;
    assert_eq!(answer.status, 414);
    assert_eq!(answer.field("tidegate-reason"), "target-too-long");
    // So far beyond it that it is not read to its end.
    let value = "v".repeat(100_000).parse().unwrap();
    head.headers_mut().insert("x", value);
    let (response, _) = visitor.begin(head, true).await;
    assert_eq!(http2::response(response).await.status(), 431);
    counted(&site, FAILED, "reason=\"head-too-large\"", 4.0).await;
    assert_eq!(site.app.requests().len(), 0);
    assert_eq!(site.get("/hello").await.status(), 200);
}

#[tokio::test]
async fn a_target_beyond_the_heads_size_is_a_414() {
    let site = site("--max-head", "8KiB").await;
    for length in [9_000, 70_000] {
        let request = format!(
            "GET /{} HTTP/1.1\r\nHost: {HOST}\r\n\r\n",
            "a".repeat(length)
        );
        let answer = site.ask("GET", request).await;
        assert_eq!((answer.status(), answer.reason()), (414, "target-too-long"));
    }
    assert_eq!(site.app.requests().len(), 0);
}

#[tokio::test]
async fn too_many_fields_are_a_431() {
    let site = site("--max-fields", "10").await;
    let fields = |count: usize| {
        (0..count)
            .map(|n| format!("X-{n}: 1\r\n"))
            .collect::<String>()
    };
    let request = |count| {
        format!(
            "GET /hello HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n",
            fields(count)
        )
    };
    assert_eq!(site.ask("GET", request(9)).await.status(), 200);
    assert_eq!(site.ask("GET", request(20)).await.status(), 431);
}

#[tokio::test]
async fn a_declared_body_beyond_the_limit_is_a_413() {
    let site = site("--max-body", "1000").await;
    let request = format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1001\r\n\r\n");
    let answer = site.ask("POST", request).await;
    assert_eq!((answer.status(), answer.reason()), (413, "body-too-large"));
    let mut visitor = site.visitor().await;
    visitor
        .send(format!(
            "POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\n"
        ))
        .await;
    visitor.send(pattern(1000)).await;
    assert_eq!(visitor.answer("POST").await.text(), "1000 intact");
    assert_eq!(site.app.requests().len(), 1);
}

#[tokio::test]
async fn a_head_that_takes_too_long_is_a_408() {
    let site = site("--head-timeout", "1s").await;
    let began = Instant::now();
    let mut visitor = site.visitor().await;
    visitor.send("GET / HTTP/1.1\r\nHost: blog").await;
    let said = String::from_utf8(visitor.closed_within(Duration::from_secs(4)).await).unwrap();
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    let took = began.elapsed();
    assert!(took > Duration::from_millis(800), "{took:?}");
    // The log says what the visitor was waited for, and for how long.
    let logged = [" access ", "\"GET / HTTP/1.1\"", "reason=head-timeout"];
    let line = site.world.gateway.wait_log(&logged).await;
    let head = line.split_once(" head=").unwrap().1;
    let head: f64 = head.split(' ').next().unwrap().parse().unwrap();
    assert!((800.0..4000.0).contains(&head), "{line}");
    counted(&site, OVERDUE, "what=\"head\"", 1.0).await;
}

#[tokio::test]
async fn a_tls_handshake_that_takes_too_long_is_ended_and_counted() {
    let site = site("--tls-timeout", "1s").await;
    let mut silent = Visitor::connect(site.world.visitors_tls).await;
    assert_eq!(silent.closed_within(Duration::from_secs(4)).await, b"");
    counted(&site, OVERDUE, "what=\"tls\"", 1.0).await;
    let mut odd = Visitor::connect(site.world.visitors_tls).await;
    odd.send("GET / HTTP/1.1\r\n\r\n").await;
    odd.closed_within(Duration::from_secs(4)).await;
    counted(&site, "tidegate_visitors_tls_failed_total", "", 1.0).await;
    let told = ["TLS with a visitor failed", "listener=", "what=\"not-tls\""];
    site.world.gateway.wait_log(&told).await;
}

/// What an agent would have to do is not what a visitor has done wrong.
#[tokio::test]
async fn a_visitor_whose_protocol_is_none_of_ours_is_told_of_as_one() {
    let site = Site::start().await;
    let config = site.world.visitor_tls(&["imap"]);
    let refused = Conn::tls(site.world.visitors_tls, HOST, config).await;
    assert!(refused.is_err());
    let told = [
        "TLS with a visitor failed: it offers protocols by ALPN, and neither h2 nor http/1.1",
        "what=\"alpn-mismatch\"",
    ];
    site.world.gateway.wait_log(&told).await;
}

#[tokio::test]
async fn an_idle_visitor_is_closed_without_a_word() {
    let site = site("--idle-timeout", "1s").await;
    let mut visitor = site.visitor().await;
    visitor.send_get(HOST, "/hello").await;
    assert_eq!(visitor.answer("GET").await.status(), 200);
    assert_eq!(visitor.closed_within(Duration::from_secs(4)).await, b"");
    let mut http2 = H2Visitor::connect(site.world.visitors).await;
    assert_eq!(http2.get(HOST, "/hello").await.status, 200);
    let closed = async || http2.is_closed().then_some(());
    eventually(
        Duration::from_secs(4),
        "an idle HTTP/2 connection is closed",
        closed,
    )
    .await;
    counted(&site, OVERDUE, "what=\"idle\"", 2.0).await;
}

#[tokio::test]
async fn a_body_that_stalls_is_a_408_and_ends_for_the_app() {
    let site = site("--stall-timeout", "1s").await;
    let mut visitor = site.visitor().await;
    let head = format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100\r\n\r\nbegun");
    visitor.send(head).await;
    let answer = visitor.answer_within(Duration::from_secs(5), "POST").await;
    assert_eq!((answer.status(), answer.reason()), (408, "body-timeout"));
    eventually(SOON, "no stream is left", async || {
        (site.world.streams(HOST).await == 0).then_some(())
    })
    .await;
}

/// A visitor who takes nothing of his answer is given up, and the stream with him.
#[tokio::test]
async fn a_visitor_who_reads_nothing_is_given_up() {
    let site = site("--stall-timeout", "1s").await;
    let mut visitor = Visitor::connect_narrow(site.world.visitors).await;
    visitor.send_get(HOST, "/size/50000000").await;
    site.app.wait_request("/size/50000000").await;
    let mut http2 = H2Visitor::connect(site.world.visitors).await;
    let head = http2.head(http::Method::GET, HOST, "/size/50000000?h2");
    let (unread, _) = http2.begin(head, true).await;
    let unread = unread.await.unwrap();
    eventually(SOON, "no stream is left", async || {
        (site.world.streams(HOST).await == 0).then_some(())
    })
    .await;
    for path in ["/size/50000000 ", "/size/50000000?h2 "] {
        let logged = [" access ", path, "status=200 reason=visitor-stalled"];
        site.world.gateway.wait_log(&logged).await;
    }
    counted(&site, FAILED, "visitor-stalled", 2.0).await;
    drop(unread);
    // A stream of events is not stalled while its visitor reads, however long it runs.
    let mut events = site.visitor().await;
    events.send_get(HOST, "/sse").await;
    let head = events.head().await;
    let mut framing = tidegate_tests::http1::Framing::of_answer(&head, "GET").unwrap();
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert!(events.piece(&mut framing).await.is_some());
    }
}

#[tokio::test]
async fn an_app_that_does_not_answer_is_a_504() {
    let site = site("--response-timeout", "1s").await;
    let answer = site.get("/never").await;
    assert_eq!(
        (answer.status(), answer.reason()),
        (504, "response-timeout")
    );
    site.app.wait_abandoned("/never", SOON).await;
}

#[tokio::test]
async fn visitors_beyond_the_limit_are_told_and_there_is_room_again() {
    let site = site("--max-visitors", "5").await;
    let mut inside = Vec::new();
    for _ in 0..5 {
        let mut visitor = site.visitor().await;
        visitor.send_get(HOST, "/hello").await;
        assert_eq!(visitor.answer("GET").await.status(), 200);
        inside.push(visitor);
    }
    let answer = site.get("/hello").await;
    assert_eq!((answer.status(), answer.reason()), (503, "limit"));
    assert!(answer.head.get("retry-after").is_some());
    logged(&site, &answer).await;
    inside.pop().unwrap().reset();
    let room = async || (site.get("/hello").await.status() == 200).then_some(());
    eventually(SOON, "there is room again", room).await;
    let shed = site
        .world
        .metrics()
        .await
        .sum("tidegate_visitors_shed_total", &[]);
    assert!(shed >= 1.0, "{shed}");
}

#[tokio::test]
async fn one_source_does_not_take_all_places() {
    let site = site("--max-visitors-per-source", "3").await;
    let mut inside = Vec::new();
    for _ in 0..3 {
        let mut visitor = site.visitor().await;
        visitor.send_get(HOST, "/hello").await;
        assert_eq!(visitor.answer("GET").await.status(), 200);
        inside.push(visitor);
    }
    let answer = site.get("/hello").await;
    assert_eq!(
        (answer.status(), answer.reason()),
        (429, "too-many-connections")
    );
    logged(&site, &answer).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.1.7:0".parse().unwrap()).unwrap();
    let other = socket.connect(site.world.visitors).await.unwrap();
    let mut other = Visitor::over(Conn::Plain(other));
    other.send_get(HOST, "/hello").await;
    assert_eq!(
        other.answer("GET").await.status(),
        200,
        "another source has its own places"
    );
}

#[tokio::test]
async fn tunnels_have_limits_in_all_by_name_and_by_source() {
    for option in [
        "--max-tunnels",
        "--max-tunnels-per-name",
        "--max-tunnels-per-source",
    ] {
        let world = World::builder().option(option, "2").start().await;
        let app = HttpApp::start("blog").await;
        let agent = world.launch_agent(&world.pki.agent(&[HOST]), app.target(), &[]);
        world.wait_filed(HOST, 2, SOON).await;
        agent.wait_log(&["refused-by-gateway"]).await;
        assert_eq!(world.filed(HOST).await, 2, "{option}");
        assert_eq!(world.get(HOST, "/hello").await.status(), 200, "{option}");
        let refused = world
            .metrics()
            .await
            .sum("tidegate_tunnels_refused_total", &["limit"]);
        assert!(refused >= 1.0, "{option}: {refused}");
    }
}

#[tokio::test]
async fn connections_that_are_not_tunnels_yet_are_few_per_source() {
    let site = site("--max-handshakes-per-source", "3").await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(Visitor::connect(site.world.tunnels).await);
    }
    let mut fourth = Visitor::connect(site.world.tunnels).await;
    assert_eq!(fourth.closed_within(Duration::from_secs(2)).await, b"");
    assert_eq!(site.get("/hello").await.status(), 200);
    drop(silent);
    let identity = site.world.pki.agent(&["shop.test"]);
    eventually(SOON, "there is room again", async || {
        let conn = RawAgent::connect(site.world.tunnels, &site.world.pki, Some(&identity)).await;
        conn.ok().map(drop)
    })
    .await;
}

/// Two visitors who wait for the site's agent, which is killed for it.
async fn hold_two(site: &mut Site) -> Vec<Visitor> {
    site.agent.kill().await;
    site.world.wait_filed(HOST, 0, SOON).await;
    let mut held = Vec::new();
    for count in 1..=2 {
        let mut visitor = site.visitor().await;
        visitor.send_get(HOST, "/hello").await;
        site.world.wait_held(count).await;
        held.push(visitor);
    }
    held
}

#[tokio::test]
async fn held_requests_are_bounded() {
    for (option, value) in [("--max-held", "2"), ("--max-held-per-name", "2")] {
        let mut site = site(option, value).await;
        let held = hold_two(&mut site).await;
        let began = Instant::now();
        let answer = site.get("/hello").await;
        assert_eq!(answer.status(), 503, "{option}");
        assert!(
            matches!(answer.reason(), "limit" | "agent-gone"),
            "{option}: {}",
            answer.reason()
        );
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{option}: at once"
        );
        let metrics = site.world.metrics().await;
        let refused = metrics.sum("tidegate_held_refused_total", &[]);
        assert_eq!(refused, 1.0, "{option}");
        site.agent = site.world.agent(HOST, site.app.target()).await;
        for mut visitor in held {
            assert_eq!(visitor.answer("GET").await.status(), 200, "{option}");
        }
    }
}

/// A held request counts by its size too: a large head finds no room where small ones do.
#[tokio::test]
async fn heads_of_held_requests_are_bounded_in_octets() {
    let mut site = site("--max-held-octets", "2000").await;
    let held = hold_two(&mut site).await;
    let large = "v".repeat(1000);
    let large = format!("GET /hello HTTP/1.1\r\nHost: {HOST}\r\nX: {large}\r\n\r\n");
    let answer = site.ask("GET", large).await;
    assert_eq!((answer.status(), answer.reason()), (503, "limit"));
    site.agent = site.world.agent(HOST, site.app.target()).await;
    for mut visitor in held {
        assert_eq!(visitor.answer("GET").await.status(), 200);
    }
}

#[tokio::test]
async fn holding_can_be_switched_off() {
    for option in [
        "--hold",
        "--max-held",
        "--max-held-per-name",
        "--max-held-octets",
    ] {
        let mut site = site(option, "0").await;
        site.agent.kill().await;
        site.world.wait_filed(HOST, 0, SOON).await;
        let began = Instant::now();
        assert_eq!(site.get("/").await.reason(), "agent-gone", "{option}");
        let took = began.elapsed();
        assert!(took < Duration::from_millis(500), "{option}: {took:?}");
    }
}

#[tokio::test]
async fn a_limit_of_zero_octets_for_bodies_is_none() {
    let site = site("--max-body", "0").await;
    let mut visitor = site.visitor().await;
    let head = format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\n");
    visitor.send(head).await;
    visitor.send(pattern(1000)).await;
    assert_eq!(visitor.answer("POST").await.text(), "1000 intact");
}

#[tokio::test]
async fn the_descriptor_limit_is_raised_to_the_hard_one() {
    let most = ("--max-visitors", "5000");
    let gateway = World::builder().prlimit("--nofile=64:1024");
    let world = gateway.option(most.0, most.1).start().await;
    // Who has set it counts on it.
    let cut = ["WARN", "1024 descriptors", "--max-visitors says 5000"];
    world.gateway.wait_log(&cut).await;
    let mut visitors = Vec::new();
    for _ in 0..200 {
        let mut visitor = world.visitor().await;
        visitor.send_get(HOST, "/").await;
        assert_eq!(visitor.answer("GET").await.status(), 503);
        visitors.push(visitor);
    }
}

/// Out of descriptors: visitors are shed, tunnels are not, nothing spins, and it passes.
#[tokio::test]
async fn running_out_of_descriptors_sheds_visitors_and_recovers() {
    let gateway = World::builder().prlimit("--nofile=256:256");
    let site = Site::start_with(gateway, &[]).await;
    // Of an agent's tunnels one is waited for otherwise, and the crowd would be there before the others.
    eventually(SOON, "all tunnels are filed", async || {
        let filed = site.world.gateway.logged(&["filed"]).len();
        (filed == 4).then_some(())
    })
    .await;
    let mut crowd = Vec::new();
    for _ in 0..400 {
        crowd.push(Visitor::connect(site.world.visitors).await);
    }
    let cpu = site.world.gateway.cpu_time();
    let mut every = tokio::time::interval(Duration::from_millis(500));
    for _ in 0..5 {
        every.tick().await;
        assert_eq!(
            site.world.gateway.logged(&["filed"]).len(),
            4,
            "the tunnels stay"
        );
    }
    let used = site.world.gateway.cpu_time() - cpu;
    assert!(used < Duration::from_millis(250), "{used:?} of CPU in 2 s");
    let log = site.world.gateway.log();
    let (told, rest): (Vec<_>, Vec<_>) = log.iter().partition(|line| line.contains("reason=limit"));
    assert!(!told.is_empty() && told.len() < 200, "{told:?}");
    assert!(rest.len() < 30, "{rest:?}");
    site.world
        .gateway
        .wait_log(&["WARN", "connections are open", "descriptors"])
        .await;
    // There is still a descriptor for an agent.
    let shop = HttpApp::start("shop").await;
    let _agent = site
        .world
        .agent_with("shop.test", shop.target(), &["--tunnels", "1"])
        .await;
    drop(crowd);
    let limit = Duration::from_secs(2);
    eventually(limit, "visitors are served again", async || {
        let answer = try_get(site.world.visitors, HOST, "/hello", limit).await;
        answer
            .is_ok_and(|answer| answer.status() == 200)
            .then_some(())
    })
    .await;
    assert_eq!(site.world.filed(HOST).await, 4);
}

#[tokio::test]
async fn an_idle_gateway_ends_at_once() {
    let mut site = Site::start().await;
    assert_eq!(site.get("/hello").await.status(), 200);
    site.world.gateway.terminate();
    assert!(
        site.world
            .gateway
            .ended(Duration::from_secs(1))
            .await
            .success()
    );
}

/// The drain's 30 s are for requests. Nobody here has one in flight.
#[tokio::test]
async fn peers_that_only_idle_do_not_hold_up_the_end() {
    let mut site = Site::start().await;
    let world = &site.world;
    let mut idlers = Vec::new();
    for (port, said) in [
        (world.visitors_tls, &b""[..]),
        (world.visitors, b""),
        (world.visitors, b"GET / HT"),
        (world.visitors, b"PRI "),
        (
            world.visitors,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        ),
        (world.tunnels, b""),
    ] {
        let mut idler = Visitor::connect(port).await;
        idler.send(said).await;
        idlers.push(idler);
    }
    let mut visitor = site.visitor().await;
    visitor.send_get(HOST, "/hello").await;
    assert_eq!(visitor.answer("GET").await.status(), 200);
    visitor.send("GET / H").await;
    site.world.gateway.terminate();
    let ended = site.world.gateway.ended(Duration::from_secs(5)).await;
    assert!(ended.success());
}

#[tokio::test]
async fn a_gateway_that_ends_finishes_what_is_in_flight() {
    let mut site = Site::start().await;
    let mut visitor = site.visitor().await;
    visitor.send_get(HOST, "/slow/1200").await;
    site.app.wait_request("/slow/1200").await;
    let mut http2 = H2Visitor::connect(site.world.visitors).await;
    let head = http2.head(http::Method::GET, HOST, "/slow/1300");
    let (response, _) = http2.begin(head, true).await;
    site.app.wait_request("/slow/1300").await;
    site.world.gateway.terminate();
    assert_eq!(visitor.answer("GET").await.text(), "slow\n");
    let answer = http2::answer(response).await;
    assert_eq!(answer.text(), "slow\n");
    assert!(site.world.gateway.ended(SOON).await.success());
}

#[tokio::test]
async fn a_gateway_that_ends_says_goaway_to_its_agents() {
    let mut world = World::start().await;
    let mut peer = world.raw_agent(HOST).await;
    world.gateway.terminate();
    peer.wait_frame(kind::GOAWAY).await;
    assert!(world.gateway.ended(SOON).await.success());
}

#[tokio::test]
async fn the_drain_has_a_deadline() {
    let ms = Duration::from_millis;
    for (drain, within) in [("1s", ms(800)..ms(4000)), ("0", ms(0)..ms(800))] {
        let mut site = site("--drain", drain).await;
        let mut visitor = site.visitor().await;
        visitor.send_get(HOST, "/sse").await;
        visitor.head().await;
        let began = Instant::now();
        site.world.gateway.terminate();
        assert!(site.world.gateway.ended(SOON).await.success(), "{drain}");
        let took = began.elapsed();
        assert!(within.contains(&took), "{drain}: {took:?}");
    }
}
