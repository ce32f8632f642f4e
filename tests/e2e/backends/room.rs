//! Servers that may have so many connections and no more, and who waits for one.

use http::Method;
use tidegate_tests::HOST;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::visitors::H2Visitor;

use super::world;

#[tokio::test]
async fn a_limit_of_connections_is_kept_and_what_finds_no_room_is_told() {
    let app = HttpApp::start("one").await;
    let server = format!("{{ address = \"{}\", max_connections = 1 }}", app.address());
    let terms = "queue_timeout = \"200ms\"\nmax_queued = 1";
    let world = world(&[("one", server)], terms).await;
    let mut first = world.visitor().await;
    first.send_get(HOST, "/sse").await;
    first.head().await;
    let answer = world.get(HOST, "/hello").await;
    assert_eq!((answer.status(), answer.reason()), (503, "backend-busy"));
    assert!(answer.head.get("retry-after").is_some());
    // Which of the two limits it was is told.
    let too_long = "none became free within 200ms (queue_timeout)";
    let place = "raise what is too low in backends.site (";
    let words = ["WARN", "backend site", "backend-busy", too_long, place];
    world.gateway.wait_log(&words).await;
    let ask = async || world.get(HOST, "/hello").await.reason().to_owned();
    eventually(SOON, "one finds another in the queue", async || {
        let (one, two) = tokio::join!(ask(), ask());
        assert_eq!(
            (one.as_str(), two.as_str()),
            ("backend-busy", "backend-busy")
        );
        let crowded = "1 wait already, as many as may (max_queued)";
        let said = world.gateway.logged(&["WARN", "backend-busy", crowded]);
        (said.len() == 1).then_some(())
    })
    .await;
    first.reset();
    eventually(SOON, "there is room again", async || {
        (world.get(HOST, "/hello").await.status() == 200).then_some(())
    })
    .await;
    let open = world.metrics().await;
    assert_eq!(open.sum("tidegate_backend_open_connections", &[]), 1.0);
}

/// Time in the queue is time in the queue, also of a visitor who does not wait for its end.
#[tokio::test]
async fn the_log_says_how_long_a_visitor_who_left_had_waited_for_room() {
    let app = HttpApp::start("one").await;
    let server = format!("{{ address = \"{}\", max_connections = 1 }}", app.address());
    let world = world(&[("one", server)], "").await;
    let mut first = world.visitor().await;
    first.send_get(HOST, "/sse").await;
    first.head().await;
    let mut second = world.visitor().await;
    second.send_get(HOST, "/hello").await;
    let mut third = H2Visitor::connect(world.visitors).await;
    let head = third.head(Method::GET, HOST, "/hello");
    let asked = third.begin(head, true).await;
    eventually(SOON, "both wait", async || {
        let metrics = world.metrics().await;
        (metrics.sum("tidegate_backend_queued", &[]) == 2.0).then_some(())
    })
    .await;
    second.reset();
    drop((asked, third));
    for version in ["HTTP/1.1\"", "HTTP/2\""] {
        let told = [&format!("GET blog.test/hello {version}"), "status=499"];
        let line = world.gateway.wait_log(&told).await;
        let time = |name: &str| -> f64 {
            let value = line.split(&format!(" {name}=")).nth(1).unwrap();
            value.split(' ').next().unwrap().parse().unwrap()
        };
        assert!(time("hold") > time("first"), "{line}");
    }
}
