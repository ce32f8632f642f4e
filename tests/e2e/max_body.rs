//! `--max-body` holds for every body, however its length is told (issue §7): no agent sees a complete one that is too large.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tidegate_tests::apps::RawApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::http1::pattern;
use tidegate_tests::peers::agent::RawAgent;
use tidegate_tests::peers::frame::{flag, kind};
use tidegate_tests::peers::{Event, Peer};
use tidegate_tests::visitors::H2Visitor;
use tidegate_tests::visitors::http2::{answer, response};
use tidegate_tests::{HOST, World, within};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Reads frames of one stream until it is reset; fails the test when it ends otherwise. Octets of DATA before that.
async fn reset_of(peer: &mut Peer, stream: u32) -> usize {
    let mut octets = 0;
    within(SOON, "the agent's stream is reset", async {
        loop {
            if let Event::Frame(frame) = peer.event().await.unwrap()
                && frame.stream == stream
            {
                match frame.kind {
                    kind::DATA => octets += frame.payload.len(),
                    kind::RST_STREAM => return octets,
                    _ => {}
                }
                assert!(!frame.has(flag::END_STREAM), "a complete upload: {frame:?}");
            }
        }
    })
    .await
}

const CHUNKED: &str =
    "POST /upload HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Whether or not the head had said it.
#[tokio::test]
async fn a_body_that_grows_beyond_the_limit_is_a_413_and_no_upload() {
    let world = World::builder().option("--max-body", "1000").start().await;
    let mut peer = RawAgent::dial(world.tunnels, &world.pki, &world.pki.agent(&[HOST])).await;
    world.wait_filed(HOST, 1, SOON).await;
    let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
    for end in ["", "0\r\n\r\n"] {
        let mut visitor = world.visitor().await;
        visitor.send(format!("{CHUNKED}{chunk}")).await;
        let (stream, _) = peer.head().await;
        visitor.send(format!("{chunk}{end}")).await;
        let answer = visitor.answer("POST").await;
        assert_eq!((answer.status(), answer.reason()), (413, "body-too-large"));
        assert!(reset_of(&mut peer, stream).await <= 1000);
    }
    let mut http2 = H2Visitor::connect(world.visitors).await;
    let head = http2.head(http::Method::POST, HOST, "/upload");
    let (future, mut body) = http2.begin(head, false).await;
    body.send_data(pattern(600).into(), false).unwrap();
    let (stream, _) = peer.head().await;
    body.send_data(pattern(600).into(), true).unwrap();
    let refused = answer(future).await;
    assert_eq!(refused.status, 413);
    assert_eq!(refused.field("tidegate-reason"), "body-too-large");
    assert!(reset_of(&mut peer, stream).await <= 1000);
    // What is within the limit passes, to the octet.
    let mut visitor = world.visitor().await;
    let fits = format!("1f4\r\n{0}\r\n1f4\r\n{0}\r\n0\r\n\r\n", "x".repeat(500));
    visitor.send(format!("{CHUNKED}{fits}")).await;
    let (stream, _) = peer.head().await;
    peer.respond(stream, "taken").await.unwrap();
    assert_eq!(visitor.answer("POST").await.text(), "taken");
    let metrics = world.metrics().await;
    let refused = metrics.sum("tidegate_requests_failed_total", &["body-too-large"]);
    assert_eq!(refused, 3.0);
}

/// The connection is not reset under its last answer (RFC 9112 §9.6).
#[tokio::test]
async fn who_goes_on_sending_behind_a_413_reads_it() {
    let world = World::builder().option("--max-body", "1000").start().await;
    let mut visitor = world.visitor().await;
    let length = 64 * 1024 * 1024;
    let body = vec![b'x'; length];
    let head = format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n");
    visitor.send(head).await;
    visitor.send(body).await;
    let answer = visitor.answer("POST").await;
    assert_eq!((answer.status(), answer.reason()), (413, "body-too-large"));
    assert!(visitor.closed_within(SOON).await.is_empty());
}

#[tokio::test]
async fn a_body_that_grows_beyond_the_limit_cuts_a_response_that_has_begun() {
    let world = World::builder().option("--max-body", "1000").start().await;
    let mut peer = RawAgent::dial(world.tunnels, &world.pki, &world.pki.agent(&[HOST])).await;
    world.wait_filed(HOST, 1, SOON).await;
    let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
    let mut visitor = world.visitor().await;
    visitor.send(format!("{CHUNKED}{chunk}")).await;
    let (stream, _) = peer.head().await;
    peer.send_head(stream, &[(":status", "200")], false).await;
    assert_eq!(visitor.head().await.status(), 200);
    visitor.send(format!("{chunk}0\r\n\r\n")).await;
    assert!(reset_of(&mut peer, stream).await <= 1000);
    let rest = visitor.closed_within(SOON).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    world
        .gateway
        .wait_log(&["/upload", "status=200", "reason=body-too-large"])
        .await;
}

/// An app that has written nothing for so long has filled what lies between it and its visitor.
const FULL: Duration = Duration::from_millis(200);

/// What he did first is what ended it, though it is his not reading that keeps him from seeing that.
#[tokio::test]
async fn who_does_not_read_is_still_one_who_sent_too_much() {
    let full = Arc::new(Notify::new());
    let app = {
        let full = Arc::clone(&full);
        RawApp::start(move |mut reader| {
            let full = Arc::clone(&full);
            async move {
                let Ok(Some(_head)) = reader.head().await else {
                    return;
                };
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n";
                let mut told = reader.io.write_all(head).await;
                while told.is_ok() {
                    let piece = reader.io.write_all(&[b'a'; 65536]);
                    let mut piece = pin!(piece);
                    told = match timeout(FULL, &mut piece).await {
                        Ok(told) => told,
                        Err(_elapsed) => {
                            full.notify_one();
                            piece.await
                        }
                    };
                }
            }
        })
        .await
    };
    let text = format!(
        "[backends.site.servers]\none = \"{}\"\n[[routes]]\nhost = \"shop.test\"\nbackend = \"site\"\n",
        app.target().trim_start_matches("http://")
    );
    let world = World::builder()
        .option("--max-body", "1000")
        .option("--stall-timeout", "1s")
        .config(&text)
        .start()
        .await;
    let _agent = world.agent(HOST, &app.target()).await;
    for host in [HOST, "shop.test"] {
        let [one, two] = ["one", "two"].map(|name| format!("/{host}/{name}"));
        let head =
            format!("POST {one} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
        let mut http1 = world.visitor().await;
        http1.send(format!("{head}{chunk}")).await;
        http1.head().await;
        within(SOON, "the way is full", full.notified()).await;
        http1.send(chunk).await;
        let mut http2 = H2Visitor::connect(world.visitors).await;
        let head = http2.head(http::Method::POST, host, &two);
        let (answer, mut upload) = http2.begin(head, false).await;
        upload.send_data(pattern(600).into(), false).unwrap();
        let _unread = response(answer).await;
        within(SOON, "the way is full", full.notified()).await;
        upload.send_data(pattern(600).into(), false).unwrap();
        for path in [one, two] {
            let words = [" access ", &path, "status=200 reason=body-too-large"];
            world.gateway.wait_log(&words).await;
        }
    }
}
