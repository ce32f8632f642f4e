//! `retry_on`: what else of a backend's server a request is sent again for, and what it never is (issue 3 §4).

use tidegate_tests::apps::{HttpApp, RawApp};
use tidegate_tests::{HOST, World};

#[tokio::test]
async fn a_status_that_is_named_is_asked_for_elsewhere_where_that_is_safe() {
    let busy = RawApp::answering(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy",
        false,
    )
    .await;
    let app = HttpApp::start("two").await;
    let target = busy.target();
    let config = format!(
        "[backends.site]\nretry_on = [\"unreachable\", \"closed\", 503]\n[backends.site.servers]\n\
         one = \"{}\"\ntwo = {{ address = \"{}\", backup = true }}\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n",
        target.strip_prefix("http://").unwrap(),
        app.address()
    );
    let world = World::builder().config(&config).start().await;
    for _ in 0..3 {
        let answer = world.get(HOST, "/hello").await;
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, "hello from two\n")
        );
    }
    let line = world.gateway.wait_log(&["/hello", "server=two"]).await;
    assert!(
        line.contains(" status=200 reason=- ") && line.contains(" attempts=2 "),
        "{line}"
    );
    let mut visitor = world.visitor().await;
    for (method, length) in [("POST", 0), ("POST", 2), ("PUT", 2)] {
        let body = "x".repeat(length);
        visitor
            .send(format!(
                "{method} /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n{body}"
            ))
            .await;
        let answer = visitor.answer(method).await;
        assert_eq!((answer.status(), answer.text().as_str()), (503, "busy"));
    }
    assert!(
        app.requests().iter().all(|head| head.target() == "/hello"),
        "nothing was asked twice that may be done once"
    );
    let metrics = world.metrics().await;
    assert_eq!(metrics.sum("tidegate_request_retries_total", &[]), 3.0);
}
