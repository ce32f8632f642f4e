//! A name whose last tunnel left moments ago holds its visitors for a bounded time (issue §3).

use std::time::{Duration, Instant};

use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::peers::agent::RawAgent;
use tidegate_tests::peers::field;
use tidegate_tests::{HOST, Site, World};

#[tokio::test]
async fn a_visitor_of_a_restarting_agent_waits_and_is_served() {
    let mut site = Site::start().await;
    site.agent.kill().await;
    site.world.wait_filed(HOST, 0, SOON).await;
    let mut visitor = site.visitor().await;
    visitor.send_get(HOST, "/hello").await;
    site.agent = site.world.agent(HOST, site.app.target()).await;
    let answer = visitor.answer("GET").await;
    assert_eq!(
        (answer.status(), answer.text().as_str()),
        (200, "hello from blog\n")
    );
}

#[tokio::test]
async fn a_request_with_a_body_is_held_and_arrives_whole() {
    let mut site = Site::start().await;
    site.agent.kill().await;
    site.world.wait_filed(HOST, 0, SOON).await;
    let mut visitor = site.visitor().await;
    let body = tidegate_tests::http1::pattern(40_000);
    visitor
        .send(format!(
            "POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 40000\r\n\r\n"
        ))
        .await;
    visitor.send(&body).await;
    site.agent = site.world.agent(HOST, site.app.target()).await;
    assert_eq!(visitor.answer("POST").await.text(), "40000 intact");
}

#[tokio::test]
async fn held_visitors_are_released_in_order() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let mut agent = world.agent(HOST, app.target()).await;
    agent.kill().await;
    world.wait_filed(HOST, 0, SOON).await;
    let mut held = Vec::new();
    for number in 0..5 {
        let mut visitor = world.visitor().await;
        visitor.send_get(HOST, &format!("/{number}")).await;
        // The gateway counts it before the next one comes: otherwise there is no order to keep.
        world.wait_held(number + 1).await;
        held.push(visitor);
    }
    let identity = world.pki.agent(&[HOST]);
    let mut peer = RawAgent::dial(world.tunnels, &world.pki, &identity).await;
    for (number, visitor) in held.iter_mut().enumerate() {
        let (stream, fields) = peer.head().await;
        assert_eq!(field(&fields, ":path"), Some(format!("/{number}").as_str()));
        peer.respond(stream, "released").await.unwrap();
        assert_eq!(visitor.answer("GET").await.text(), "released");
    }
}

#[tokio::test]
async fn the_hold_ends_after_three_seconds() {
    let mut site = Site::start().await;
    site.agent.kill().await;
    site.world.wait_filed(HOST, 0, SOON).await;
    let left = Instant::now();
    let answer = site.get("/hello").await;
    let waited = left.elapsed();
    assert_eq!((answer.status(), answer.reason()), (503, "agent-gone"));
    assert!(answer.head.get("retry-after").is_some());
    assert!(
        (Duration::from_millis(1500)..Duration::from_secs(5)).contains(&waited),
        "held for {waited:?}"
    );
    // The hold is counted from the moment that the tunnel left: a visitor who comes later does not wait.
    let began = Instant::now();
    assert_eq!(site.get("/hello").await.reason(), "agent-gone");
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn an_unknown_name_is_not_held() {
    let world = World::start().await;
    let began = Instant::now();
    assert_eq!(world.get("nobody.test", "/").await.reason(), "no-such-name");
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_held_visitor_who_leaves_is_forgotten() {
    let mut site = Site::start().await;
    site.agent.kill().await;
    site.world.wait_filed(HOST, 0, SOON).await;
    let mut visitor = site.visitor().await;
    visitor.send_get(HOST, "/hello?left").await;
    site.world.wait_held(1).await;
    visitor.reset();
    site.world.wait_held(0).await;
    site.agent = site.world.agent(HOST, site.app.target()).await;
    assert_eq!(site.get("/hello").await.status(), 200);
    assert_eq!(site.app.count("/hello?left"), 0);
}

#[tokio::test]
async fn a_request_that_could_be_repeated_is_told_that_nobody_is_there_and_one_that_could_not_that_its_tunnel_broke()
 {
    let world = World::builder().option("--hold", "200ms").start().await;
    for (method, expected) in [("GET", (503, "agent-gone")), ("POST", (502, "tunnel-lost"))] {
        let mut peer = world.raw_agent(HOST).await;
        let mut visitor = world.visitor().await;
        visitor
            .send(format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
            .await;
        let (_stream, fields) = peer.head().await;
        assert_eq!(field(&fields, ":method"), Some(method));
        drop(peer);
        let answer = visitor.answer(method).await;
        assert_eq!((answer.status(), answer.reason()), expected, "{method}");
        world.wait_filed(HOST, 0, SOON).await;
    }
}

#[tokio::test]
async fn the_visitors_of_one_agent_leave_room_for_those_of_others() {
    let world = World::builder()
        .option("--max-held", "16")
        .option("--hold", "30s")
        .start()
        .await;
    let app = HttpApp::start("blog").await;
    let mut innocent = world.agent(HOST, app.target()).await;
    let names = ["a.greedy.test", "b.greedy.test", "c.greedy.test"];
    let identity = world.pki.agent(&names);
    let greedy = RawAgent::dial(world.tunnels, &world.pki, &identity).await;
    world.wait_filed(names[0], 1, SOON).await;
    drop(greedy);
    world.wait_filed(names[0], 0, SOON).await;
    let mut waiting = Vec::new();
    for name in names.iter().cycle().take(12) {
        let mut visitor = world.visitor().await;
        visitor.send_get(name, "/").await;
        waiting.push(visitor);
    }
    world.wait_held(12).await;
    for name in names {
        let answer = world.get(name, "/").await;
        assert_eq!((answer.status(), answer.reason()), (503, "limit"), "{name}");
    }
    innocent.kill().await;
    world.wait_filed(HOST, 0, SOON).await;
    let mut visitor = world.visitor().await;
    visitor.send_get(HOST, "/hello").await;
    world.wait_held(13).await;
    let _back = world.agent(HOST, app.target()).await;
    assert_eq!(visitor.answer("GET").await.status(), 200);
}
