//! Backends: what the gateway dials itself (issue 3 §4). The tests of what passes through a tunnel are run once more with a
//! backend in its place; what is a backend's alone stands here.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::Signal;
use socket2::SockRef;
use tidegate_tests::apps::{HttpApp, RawApp};
use tidegate_tests::eventually::{SOON, eventually, within};
use tidegate_tests::http1::Framing;
use tidegate_tests::pki::Pki;
use tidegate_tests::site::{BY_HTTP2, DIALLED};
use tidegate_tests::task::Tasks;
use tidegate_tests::visitors::http1::get;
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::{HOST, World};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;

/// A gateway whose [`HOST`] is a backend with these servers; `more` are keys of it.
async fn world(servers: &[(&str, String)], more: &str) -> World {
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
        .wait_log(&["server one", "has not answered in time: nothing for 200ms"])
        .await;
}

/// Both sites' fault (issue 3 §7): small uploads, and servers that close connections at the wrong moment. None is lost, none
/// arrives twice.
#[tokio::test]
async fn no_upload_is_lost_or_doubled_while_servers_close_connections() {
    const VISITORS: usize = 6;
    const EACH: usize = 40;
    let bodies: Arc<Mutex<HashMap<Vec<u8>, usize>>> = Arc::default();
    let connections = Arc::new(AtomicUsize::new(0));
    let app = {
        let (bodies, connections) = (Arc::clone(&bodies), Arc::clone(&connections));
        RawApp::start(move |mut reader| {
            let (bodies, connections) = (Arc::clone(&bodies), Arc::clone(&connections));
            async move {
                let most = connections.fetch_add(1, Relaxed) % 4 + 1;
                for nth in 1..=most {
                    let Ok(Some(head)) = reader.head().await else {
                        return;
                    };
                    let mut framing = Framing::of_request(&head).unwrap();
                    let body = reader.body(&mut framing).await.unwrap();
                    *bodies.lock().unwrap().entry(body).or_default() += 1;
                    let last = nth == most;
                    // The last answer and the end of the connection come in one segment, unannounced.
                    SockRef::from(reader.io.tcp()).set_tcp_cork(last).unwrap();
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    reader.io.write_all(answer).await.unwrap();
                    if last {
                        reader.io.shutdown().await.unwrap();
                    }
                }
            }
        })
        .await
    };
    let place: SocketAddr = app.target().trim_start_matches("http://").parse().unwrap();
    let world = world(&[("one", at(place)), ("two", at(place))], "retries = 0").await;
    let mut visitors = Tasks::new();
    for visitor in 0..VISITORS {
        let to = world.visitors;
        visitors.spawn(async move {
            let mut conn = Visitor::connect(to).await;
            for nth in 0..EACH {
                let body = format!("{:0<549}", format!("{visitor}-{nth}-"));
                let head =
                    format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 549\r\n\r\n");
                conn.send(head + &body).await;
                let answer = conn.answer("POST").await;
                let said = (answer.status(), answer.reason());
                assert_eq!(said, (200, ""), "{visitor}-{nth}");
            }
        });
    }
    while let Some(done) = within(SOON, "a visitor's uploads", visitors.join_next()).await {
        done.unwrap();
    }
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), VISITORS * EACH);
    assert!(bodies.values().all(|times| *times == 1), "doubled");
}

/// An app that answers with the number of the connection, and closes it behind the answer, unannounced, while `closes`.
async fn numbering(closes: &Arc<AtomicBool>) -> RawApp {
    let (closes, connections) = (Arc::clone(closes), Arc::new(AtomicUsize::new(0)));
    RawApp::start(move |mut reader| {
        let (closes, connections) = (Arc::clone(&closes), Arc::clone(&connections));
        async move {
            let number = connections.fetch_add(1, Relaxed);
            while let Ok(Some(head)) = reader.head().await {
                let mut framing = Framing::of_request(&head).unwrap();
                reader.body(&mut framing).await.unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{number:04}");
                reader.io.write_all(answer.as_bytes()).await.unwrap();
                if closes.load(Relaxed) {
                    return;
                }
            }
        }
    })
    .await
}

/// However the server ends its connection behind an answer, no request takes of the body of the next.
#[tokio::test]
async fn pipelined_uploads_have_each_its_own_body() {
    let app = RawApp::start(|mut reader| async move {
        let Ok(Some(head)) = reader.head().await else {
            return;
        };
        let mut framing = Framing::of_request(&head).unwrap();
        let body = reader.body(&mut framing).await.unwrap();
        let (length, body) = (body.len(), String::from_utf8(body).unwrap());
        let head =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        let answer = [head, body].concat();
        reader.io.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let place: SocketAddr = app.target().trim_start_matches("http://").parse().unwrap();
    let world = world(&[("one", at(place))], "").await;
    let mut visitor = world.visitor().await;
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n";
    let counted = "Content-Length: 5\r\n\r\nfirst";
    for first in [chunked, counted] {
        let post =
            |path: &str, more: &str| format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{more}");
        let second = post("/2", "Content-Length: 14\r\n\r\nsecond");
        visitor.send(post("/1", first) + &second).await;
        assert_eq!(visitor.answer("POST").await.text(), "first");
        visitor.send(" of two!").await;
        let answer = visitor.answer("POST").await;
        assert_eq!(answer.text(), "second of two!");
        assert_eq!(answer.head.get("connection"), None);
    }
}

/// What closes a connection behind an answer may be on its way when the next request is to go on it, and no look finds it.
#[tokio::test]
async fn a_server_that_closes_behind_its_answers_gets_posts_on_connections_that_have_rested() {
    tokio::join!(
        posts_on_rested("", 20, 2),
        posts_on_rested(", max_connections = 1", 0, 5)
    );
}

/// So many more of them on connections that were used before, and at least so many connections.
async fn posts_on_rested(keys: &str, again_due: usize, connections: usize) {
    // 50, as a clock of whole milliseconds counts them.
    const SETTLED: Duration = Duration::from_millis(49);
    let closes = Arc::new(AtomicBool::new(true));
    let app = numbering(&closes).await;
    let place: SocketAddr = app.target().trim_start_matches("http://").parse().unwrap();
    let world = world(&[("one", format!("{{ address = \"{place}\"{keys} }}"))], "").await;
    // These go on another connection without harm.
    eventually(SOON, "it is found out", async || {
        assert_eq!(world.get(HOST, "/").await.status(), 200);
        let told = ["server one closed a connection", "for 10 minutes"];
        (!world.gateway.logged(&told).is_empty()).then_some(())
    })
    .await;
    closes.store(false, Relaxed);
    let mut visitor = world.visitor().await;
    let mut last_used: HashMap<String, Instant> = HashMap::new();
    let (mut again, end) = (0, Instant::now() + SOON);
    while again < again_due || last_used.len() < connections {
        let began = Instant::now();
        assert!(began < end, "{again} of {}", last_used.len());
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nok");
        visitor.send(head).await;
        let answer = visitor.answer("POST").await;
        assert_eq!(answer.status(), 200);
        if let Some(before) = last_used.insert(answer.text(), began) {
            // It has rested for less than this.
            assert!(before.elapsed() >= SETTLED, "{:?}", before.elapsed());
            again += 1;
        }
    }
    assert_eq!(world.gateway.logged(&["for 10 minutes"]).len(), 1, "once");
}

#[tokio::test]
async fn a_server_that_keeps_its_connections_gets_posts_on_one() {
    let app = numbering(&Arc::default()).await;
    let place: SocketAddr = app.target().trim_start_matches("http://").parse().unwrap();
    let world = world(&[("one", at(place))], "").await;
    let mut visitor = world.visitor().await;
    let mut last: Option<(String, Instant)> = None;
    for _ in 0..20 {
        let began = Instant::now();
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nok");
        visitor.send(head).await;
        let number = visitor.answer("POST").await.text();
        if let Some((before, then)) = last {
            // On a machine that stands still it may have rested for too long.
            assert!(number == before || then.elapsed() > Duration::from_secs(1));
        }
        last = Some((number, began));
    }
}

#[tokio::test]
async fn tls_to_a_server_is_checked_and_a_certificate_shown() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "own");
    let server = pki.server(&["app.internal"]);
    let app = HttpApp::start_tls("secure", pki.server_config(&server, true, &["http/1.1"])).await;
    let client = pki.agent(&["gateway.internal"]);
    let servers = [("one", at(app.address()))];
    let ca = pki.ca_file("own");
    let tls = |keys: &str| format!("retries = 0\ntls = {{ {keys} }}");
    let whole = format!(
        "ca = \"{}\", server_name = \"app.internal\", client_certificate = \"{}\"",
        ca.display(),
        client.display()
    );
    let good = world(&servers, &tls(&whole)).await;
    for _ in 0..2 {
        assert_eq!(good.get(HOST, "/hello").await.text(), "hello from secure\n");
    }
    let named = format!(
        "ca = \"{}\", server_name = \"other.internal\"",
        ca.display()
    );
    for (keys, why) in [
        (named.as_str(), "other.internal"),
        ("server_name = \"app.internal\"", "tls.ca"),
    ] {
        let bad = world(&servers, &tls(keys)).await;
        let answer = bad.get(HOST, "/hello").await;
        assert_eq!(
            (answer.status(), answer.reason()),
            (502, "backend-unreachable")
        );
        bad.gateway
            .wait_log(&["server one", "cannot be reached", why])
            .await;
    }
    let bare = format!("ca = \"{}\", server_name = \"app.internal\"", ca.display());
    let bare = world(&servers, &tls(&bare)).await;
    assert_eq!(bare.get(HOST, "/hello").await.status(), 502);
    let said = [
        "server one",
        "demands a certificate",
        "tls.client_certificate",
    ];
    bare.gateway.wait_log(&said).await;
    let loose = format!(
        "verify = false, client_certificate = \"{}\"",
        client.display()
    );
    let loose = world(&servers, &tls(&loose)).await;
    assert_eq!(loose.get(HOST, "/hello").await.status(), 200);
    loose
        .gateway
        .wait_log(&["backend site", "NOT verified", "verify = false"])
        .await;
}

/// A session that began with the former certificate, and is resumed, would go on showing it.
#[tokio::test]
async fn what_tls_to_servers_goes_by_is_read_again() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let own = Pki::create(dirs[0].path(), "own");
    let other = Pki::create(dirs[1].path(), "other");
    let server = own.server(&["app.internal"]);
    let app = HttpApp::start_tls("secure", own.server_config(&server, true, &["http/1.1"])).await;
    let (shown, believed) = (
        dirs[0].path().join("shown.pem"),
        dirs[0].path().join("believed.crt"),
    );
    let replace = |with: &Path, what: &Path| {
        let beside = what.with_extension("new");
        fs::copy(with, &beside).unwrap();
        fs::rename(&beside, what).unwrap();
    };
    replace(&own.agent(&["gateway.internal"]), &shown);
    replace(&own.ca_file("own"), &believed);
    let keys = format!(
        "retries = 0\neject_after = 0\nkeep_alive = \"1ms\"\ntls = {{ ca = \"{}\", server_name = \"app.internal\", client_certificate = \"{}\" }}",
        believed.display(),
        shown.display()
    );
    let world = world(&[("one", at(app.address()))], &keys).await;
    for _ in 0..2 {
        assert_eq!(world.get(HOST, "/hello").await.status(), 200);
    }
    replace(&other.agent(&["gateway.internal"]), &shown);
    let said = ["backend site", "the client certificate was read again"];
    world.gateway.wait_log(&said).await;
    assert_eq!(world.get(HOST, "/hello").await.status(), 502);
    replace(&own.agent(&["gateway.internal"]), &shown);
    eventually(SOON, "the former certificate", async || {
        (world.get(HOST, "/hello").await.status() == 200).then_some(())
    })
    .await;
    replace(&other.ca_file("other"), &believed);
    let said = ["backend site", "the authorities in", "were read again"];
    world.gateway.wait_log(&said).await;
    let answer = world.get(HOST, "/hello").await;
    assert_eq!(
        (answer.status(), answer.reason()),
        (502, "backend-unreachable")
    );
}

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
