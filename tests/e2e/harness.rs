//! The harness proves itself where a test would otherwise trust it blindly: the relay and the apps, without a gateway.

use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::http1::pattern;
use tidegate_tests::link::Link;
use tidegate_tests::visitors::http1::{Visitor, get, try_get};
use tidegate_tests::within;

#[tokio::test]
async fn a_frozen_link_passes_nothing_and_a_cut_one_closes() {
    let app = HttpApp::start("app").await;
    let link = Link::to(app.address()).await;
    assert_eq!(
        get(link.address(), "a.test", "/hello").await.text(),
        "hello from app\n"
    );
    let mut visitor = Visitor::connect(link.address()).await;
    visitor.send_get("a.test", "/hello").await;
    assert_eq!(visitor.answer("GET").await.status(), 200);
    link.freeze();
    let late = std::time::Duration::from_millis(200);
    let frozen = try_get(link.address(), "a.test", "/hello", late).await;
    assert_eq!(frozen.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    link.cut();
    assert_eq!(visitor.closed_within(SOON).await, b"");
    link.thaw();
    assert_eq!(get(link.address(), "a.test", "/hello").await.status(), 200);
}

#[tokio::test]
async fn the_app_answers_as_its_table_says() {
    let app = HttpApp::start("app").await;
    let ask = async |path: &str| get(app.address(), "a.test", path).await;
    assert_eq!(ask("/size/1000").await.body, pattern(1000));
    assert_eq!(ask("/chunked/2500").await.body, pattern(2500));
    assert_eq!(ask("/trailers").await.trailers.len(), 2);
    assert_eq!(ask("/hints").await.interim[0].status(), 103);
    assert_eq!(ask("/status/204").await.status(), 204);
    for path in ["/cut", "/chunkcut", "/reset"] {
        assert!(ask(path).await.cut.is_some(), "{path}");
    }
    let mut visitor = Visitor::connect(app.address()).await;
    visitor.send_get("a.test", "/never").await;
    app.wait_request("/never").await;
    visitor.reset();
    within(SOON, "it is seen", app.wait_abandoned("/never", SOON)).await;
}
