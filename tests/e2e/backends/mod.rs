//! Backends: what the gateway dials itself (issue 3 §4). The tests of what passes through a tunnel are run once more with a
//! backend in its place; what is a backend's alone stands here.

mod closing; // connections end, uploads do not

mod room; // as many connections as a server may have

mod tls; // and whom it is believed to be

use std::collections::HashMap;
use std::env;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tidegate_tests::apps::{HttpApp, RawApp};
use tidegate_tests::eventually::{SOON, eventually, within};
use tidegate_tests::site::{BY_HTTP2, DIALLED};
use tidegate_tests::visitors::H2Visitor;
use tidegate_tests::visitors::http1::get;
use tidegate_tests::{HOST, World};
use tokio::net::TcpListener;
use tokio::process::Command;

/// A gateway whose [`HOST`] is a backend with these servers; `more` are keys of it.
pub(super) async fn world(servers: &[(&str, String)], more: &str) -> World {
    let servers: String = servers
        .iter()
        .map(|(name, server)| format!("{name} = {server}\n"))
        .collect();
    let text = format!(
        "[backends.site]\n{more}\n[backends.site.servers]\n{servers}[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n"
    );
    World::builder().config(&text).start().await
}

fn at(address: SocketAddr) -> String {
    format!("\"{address}\"")
}

/// An address where nobody listens.
async fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Everything that holds for an app behind a tunnel, as far as it is about what passes.
#[tokio::test]
async fn what_passes_through_a_tunnel_passes_to_a_backend() {
    once_more("1", &[]).await;
}

/// The same where requests share a connection.
#[tokio::test]
async fn what_passes_through_a_tunnel_passes_in_http2_to_a_backend() {
    // There a reset overtakes the head that it cuts short, and the visitor is told 502.
    let resets = ["--skip", "cut_short_is_seen", "--skip", "sees_a_cut_too"];
    once_more(BY_HTTP2, &[&["grpc::"], &resets[..]].concat()).await;
}

/// Runs tests of what passes once more, with the gateway dialling the app in this way.
async fn once_more(how: &str, more: &[&str]) {
    if env::var_os(DIALLED).is_some() {
        return;
    }
    let mut again = Command::new(env::current_exe().unwrap());
    again
        .args([
            "pass_through::",
            "websocket::an_",
            "websocket::frames_",
            "websocket::a_refused_",
        ])
        .args([
            "websocket::other_",
            "trailers::an_http1_visitors",
            "trailers::an_http2_visitors",
        ])
        .args(more)
        // Looks at a tunnel's streams.
        .args(["--skip", "leaves_no_stream"])
        .env(DIALLED, how)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ran = within(Duration::from_secs(300), "the tests", again.output()).await;
    let output = ran.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let passed = said
        .lines()
        .find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next());
    let passed: usize = passed.unwrap().parse().unwrap();
    assert!(passed > 25, "{said}");
}

#[tokio::test]
async fn servers_take_turns_and_log_and_metrics_name_them() {
    let (one, two) = (HttpApp::start("one").await, HttpApp::start("two").await);
    let servers = [("one", at(one.address())), ("two", at(two.address()))];
    let world = world(&servers, "").await;
    let mut visitor = world.visitor().await;
    let mut seen: HashMap<String, usize> = HashMap::new();
    for _ in 0..4 {
        visitor.send_get(HOST, "/hello").await;
        *seen.entry(visitor.answer("GET").await.text()).or_default() += 1;
    }
    let mut visitor = H2Visitor::connect(world.visitors).await;
    for _ in 0..4 {
        *seen
            .entry(visitor.get(HOST, "/hello").await.text())
            .or_default() += 1;
    }
    assert_eq!(seen["hello from one\n"], 4);
    assert_eq!(seen["hello from two\n"], 4);
    let line = world
        .gateway
        .wait_log(&[
            "GET blog.test/hello HTTP/1.1",
            "backend=site server=two status=200",
        ])
        .await;
    assert!(line.contains(" connect="), "{line}");
    let labels = ["backend=\"site\"", "server=\"one\""];
    let metrics = world.metrics().await;
    assert_eq!(metrics.sum("tidegate_backend_requests_total", &labels), 4.0);
    assert_eq!(metrics.sum("tidegate_backend_in_flight", &labels), 0.0);
    let head = one.last_request();
    assert_eq!(head.get("host"), Some(HOST));
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn a_server_that_is_gone_costs_nobody_anything_and_is_told_of_until_it_is_back() {
    let one = HttpApp::start("one").await;
    let place = free().await;
    let servers = [("one", at(one.address())), ("two", at(place))];
    let world = world(&servers, "eject_time = \"3s\"\neject_time_most = \"3s\"").await;
    let ask = async || get(world.visitors, HOST, "/hello").await.text();
    for _ in 0..8 {
        assert_eq!(ask().await, "hello from one\n");
    }
    world
        .gateway
        .wait_log(&[
            "backend site: server two",
            "cannot be reached: connection refused",
        ])
        .await;
    world
        .gateway
        .wait_log(&[
            "backend site: server two",
            "is left out",
            "3 requests in a row",
            "connection refused",
        ])
        .await;
    let out = ["backend=\"site\"", "server=\"two\""];
    let metrics = world.metrics().await;
    assert_eq!(metrics.sum("tidegate_backend_server_out", &out), 1.0);
    let _two = HttpApp::start_at("two", TcpListener::bind(place).await.unwrap());
    eventually(SOON, "it is found out that it is back", async || {
        (ask().await == "hello from two\n").then_some(())
    })
    .await;
    world
        .gateway
        .wait_log(&["backend site: server two", "answers again, after"])
        .await;
}

#[tokio::test]
async fn where_there_is_no_server_the_visitor_and_the_log_are_told() {
    let place = free().await;
    let world = world(&[("one", at(place))], "retries = 0").await;
    let answer = world.get(HOST, "/").await;
    assert_eq!(
        (answer.status(), answer.reason()),
        (502, "backend-unreachable")
    );
    assert!(
        !answer.text().contains(&place.port().to_string()),
        "{}",
        answer.text()
    );
    world
        .gateway
        .wait_log(&["server=one status=502 reason=backend-unreachable"])
        .await;
}

#[tokio::test]
async fn a_server_that_says_nothing_is_a_504_in_its_time() {
    let app = HttpApp::start("one").await;
    let world = world(
        &[("one", at(app.address()))],
        "response_timeout = \"200ms\"",
    )
    .await;
    let answer = world.get(HOST, "/never").await;
    assert_eq!((answer.status(), answer.reason()), (504, "backend-timeout"));
    app.wait_abandoned("/never", SOON).await;
    assert_eq!(app.count("/never"), 1, "not tried again");
    world
        .gateway
        .wait_log(&[
            "server one",
            "has not answered in time: nothing for 200ms (response_timeout)",
        ])
        .await;
}

/// It is the gateway that breaks off then, and the line says at whose word.
#[tokio::test]
async fn an_answer_that_stops_coming_names_the_time_that_ended_it() {
    let half = RawApp::answering("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", false).await;
    let server = half.target().replace("http://", "\"") + "\"";
    let world = world(&[("one", server)], "inactivity_timeout = \"200ms\"").await;
    let mut visitor = world.visitor().await;
    visitor.send_get(HOST, "/").await;
    assert_eq!(visitor.head().await.status(), 200);
    let words = [
        "WARN backend site: server one (",
        "stopped in the middle of its answer: nothing more of it came for 200ms (inactivity_timeout)",
    ];
    world.gateway.wait_log(&words).await;
    let metrics = world.metrics().await;
    let stalled = ["server=\"one\"", "why=\"stalled\""];
    assert_eq!(
        metrics.sum("tidegate_backend_failures_total", &stalled),
        1.0
    );
}

#[tokio::test]
async fn a_gateway_that_stops_answers_what_is_in_flight() {
    let app = HttpApp::start("one").await;
    let mut world = world(&[("one", at(app.address()))], "").await;
    let mut visitor = world.visitor().await;
    visitor.send_get(HOST, "/slow/500").await;
    app.wait_request("/slow/500").await;
    world.gateway.signal(Signal::TERM);
    assert_eq!(visitor.answer("GET").await.status(), 200);
    assert!(world.gateway.ended(SOON).await.success());
}

#[tokio::test]
async fn an_upgraded_connection_ends_with_its_visitor() {
    let app = HttpApp::start("one").await;
    let world = world(&[("one", at(app.address()))], "").await;
    let mut visitor = world.visitor().await;
    visitor
        .send(format!(
            "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ))
        .await;
    assert_eq!(visitor.head().await.status(), 101);
    let in_flight = async || {
        let metrics = world.metrics().await;
        metrics.sum("tidegate_backend_in_flight", &[])
    };
    assert_eq!(in_flight().await, 1.0);
    visitor.reset();
    eventually(SOON, "the server's connection ends", async || {
        (in_flight().await == 0.0).then_some(())
    })
    .await;
    world
        .gateway
        .wait_log(&["GET blog.test/ws", "server=one status=101"])
        .await;
}
