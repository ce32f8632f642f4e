//! How the gateway ends (issue §7): what is in flight is finished or cut, and what is cut is told and logged.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidegate_tests::eventually::SOON;
use tidegate_tests::visitors::http2::{answer, read, response};
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::websocket::KEY;
use tidegate_tests::{HOST, Site, World, within};

/// What is open when the gateway is asked to end: over either protocol, before and after an answer's head.
const OPEN: [(&str, &str); 5] = [
    ("/never?1", "503"),
    ("/never?2", "503"),
    ("/sse?1", "200"),
    ("/sse?2", "200"),
    ("/ws", "101"),
];

/// Ends a gateway while requests are in flight that do not finish: by its drain's deadline, or by a second signal.
async fn cut(drain: &str, twice: bool) -> Duration {
    let mut site = Site::start_with(World::builder().option("--drain", drain), &[]).await;
    let mut http2 = H2Visitor::connect(site.world.visitors).await;
    let get = |http2: &H2Visitor, path| http2.head(http::Method::GET, HOST, path);
    let mut waiting = site.visitor().await;
    waiting.send_get(HOST, "/never?1").await;
    let head = get(&http2, "/never?2");
    let (waiting_too, _) = http2.begin(head, true).await;
    let mut reading = site.visitor().await;
    reading.send_get(HOST, "/sse?1").await;
    reading.head().await;
    let head = get(&http2, "/sse?2");
    let (head, _) = http2.begin(head, true).await;
    let reading_too = response(head).await;
    let mut socket = site.visitor().await;
    let upgrade = format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    socket.send(upgrade).await;
    assert_eq!(socket.head().await.status(), 101);
    for (path, _) in &OPEN[..2] {
        site.app.wait_request(path).await;
    }
    let began = Instant::now();
    let gateway = &mut site.world.gateway;
    gateway.terminate();
    if twice {
        gateway.wait_log(&["stopping"]).await;
        gateway.terminate();
    }
    // Who still waits for an answer gets one.
    let told = waiting.answer("GET").await;
    assert_eq!((told.status(), told.reason()), (503, "draining"));
    let told = within(SOON, "a last word over HTTP/2", answer(waiting_too)).await;
    assert_eq!(told.status, 503, "{told:?}");
    assert_eq!(told.field("tidegate-reason"), "draining");
    assert!(!told.field("tidegate-request-id").is_empty(), "{told:?}");
    // And who reads one learns that it is not whole.
    let cut = read(reading_too).await.cut.expect("no end in order");
    assert!(cut.is_reset() && cut.is_remote(), "{cut:?}");
    assert!(gateway.ended(SOON).await.success());
    let took = began.elapsed();
    for (path, status) in OPEN {
        let target = format!("{path} HTTP");
        let status = format!("status={status}");
        gateway
            .wait_log(&[" access ", &target, &status, "reason=draining"])
            .await;
        assert_eq!(gateway.logged(&[" access ", &target]).len(), 1);
    }
    gateway.wait_log(&["stopped after", "were cut: 5"]).await;
    took
}

#[tokio::test]
async fn what_the_deadline_cuts_is_told_and_logged() {
    let took = cut("500ms", false).await;
    assert!(took >= Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn a_second_signal_does_not_wait_and_loses_no_line() {
    let took = cut("60s", true).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
}

/// An operator's habit from another program must not end this one.
#[tokio::test]
async fn signals_that_mean_nothing_here_are_logged_and_end_nothing() {
    let site = Site::start().await;
    for program in [&site.world.gateway, &site.agent] {
        program.signal(Signal::USR1);
        program.wait_log(&["INFO", "SIGUSR1", "SIGHUP"]).await;
        program.signal(Signal::USR2);
        program.wait_log(&["INFO", "SIGUSR2", "SIGTERM"]).await;
    }
    assert_eq!(site.get("/hello").await.status(), 200);
}

/// What stands in the system when the gateway learns that it is to end came before that: on connections that are kept, and on
/// those that nobody has accepted yet.
#[tokio::test]
async fn what_has_come_by_then_is_answered() {
    let mut site = Site::start().await;
    let mut visitors = Vec::new();
    for _ in 0..20 {
        let mut visitor = site.visitor().await;
        visitor.send_get(HOST, "/hello").await;
        assert_eq!(visitor.answer("GET").await.status(), 200);
        visitors.push(visitor);
    }
    let gateway = &mut site.world.gateway;
    gateway.freeze();
    for _ in 0..10 {
        visitors.push(Visitor::connect(site.world.visitors).await);
    }
    for visitor in &mut visitors {
        let post = format!("POST /echo HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nab");
        visitor.send(post).await;
    }
    gateway.terminate();
    gateway.thaw();
    for (number, visitor) in visitors.iter_mut().enumerate() {
        let answer = visitor.answer("POST").await;
        assert_eq!(answer.status(), 200, "of visitor {number}");
    }
    assert!(gateway.ended(SOON).await.success());
}
