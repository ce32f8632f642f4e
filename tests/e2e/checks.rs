//! Active checks of a backend's servers (issue 3 §4): real sockets, servers that fail in every way, and what visitors, log and
//! metrics have of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use rustix::process::Signal;
use serde_json::Value;
use tidegate_tests::apps::{HttpApp, RawApp};
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::haproxy::free_ports;
use tidegate_tests::http1::Framing;
use tidegate_tests::nginx::nginx;
use tidegate_tests::pki::Pki;
use tidegate_tests::program::{built, run};
use tidegate_tests::visitors::Visitor;
use tidegate_tests::visitors::http1::get;
use tidegate_tests::{HOST, World};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

/// Checks often enough for a test.
const OFTEN: &str = "interval = \"50ms\"\ntimeout = \"5s\"\n";

/// A gateway whose [`HOST`] is a backend with these servers; `more` are keys of it, `check` those of its checks.
async fn world(servers: &[(&str, SocketAddr)], more: &str, check: &str) -> World {
    let servers: String = servers
        .iter()
        .map(|(name, at)| format!("{name} = \"{at}\"\n"))
        .collect();
    let text = format!(
        "[backends.site]\n{more}\n[backends.site.check]\n{check}\n[backends.site.servers]\n{servers}\
         [[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n"
    );
    World::builder().config(&text).start().await
}

/// A server whose answers all have a status that the test can change.
struct Switch {
    app: RawApp,
    status: Arc<AtomicU16>,
    checks: Arc<AtomicU16>,
}

impl Switch {
    async fn start(status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let checks = Arc::new(AtomicU16::new(0));
        let (said, met) = (Arc::clone(&status), Arc::clone(&checks));
        let app = RawApp::start(move |mut reader| {
            let (said, met) = (Arc::clone(&said), Arc::clone(&met));
            async move {
                while let Ok(Some(head)) = reader.head().await {
                    let mut body = Framing::of_request(&head).unwrap();
                    reader.body(&mut body).await.unwrap();
                    if head.get("user-agent") == Some("tidegated-check") {
                        met.fetch_add(1, Relaxed);
                    }
                    let said = said.load(Relaxed);
                    let answer = format!("HTTP/1.1 {said} X\r\nContent-Length: 2\r\n\r\nok");
                    if reader.io.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self {
            app,
            status,
            checks,
        }
    }

    fn at(&self) -> SocketAddr {
        place(&self.app)
    }

    fn say(&self, status: u16) {
        self.status.store(status, Relaxed);
    }
}

fn place(app: &RawApp) -> SocketAddr {
    app.target().trim_start_matches("http://").parse().unwrap()
}

/// Whether the metrics say that a server is up.
async fn is_up(world: &World, server: &str) -> bool {
    let label = format!("server=\"{server}\"");
    let metrics = world.metrics().await;
    metrics.sum("tidegate_backend_server_up", &[&label]) == 1.0
}

async fn wait_up(world: &World, server: &str, up: bool) {
    let what = format!("{server} is up: {up}");
    eventually(SOON, &what, async || {
        (is_up(world, server).await == up).then_some(())
    })
    .await;
}

async fn checks(world: &World, server: &str, result: &str) -> f64 {
    let labels = [
        format!("server=\"{server}\""),
        format!("result=\"{result}\""),
    ];
    let labels = labels.each_ref().map(String::as_str);
    let metrics = world.metrics().await;
    metrics.sum("tidegate_backend_checks_total", &labels)
}

async fn wait_checks(world: &World, server: &str, result: &str, count: f64) {
    let what = format!("{count} checks of {server}: {result}");
    eventually(SOON, &what, async || {
        (checks(world, server, result).await >= count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_whose_checks_fail_gets_nothing_until_they_pass() {
    let one = Switch::start(200).await;
    let two = HttpApp::start("two").await;
    let check = format!("{OFTEN}path = \"/hello?check\"\nstatus = \"200-299\"\nfall = 2\n");
    let servers = [("one", one.at()), ("two", two.address())];
    let world = world(&servers, "", &check).await;
    wait_checks(&world, "one", "passed", 2.0).await;
    assert!(is_up(&world, "one").await && is_up(&world, "two").await);
    one.say(500);
    world
        .gateway
        .wait_log(&[
            "backend site: a check of server one",
            "failed; it is down if the next 1 in a row do: HTTP status 500 where 200-299 was expected",
        ])
        .await;
    world
        .gateway
        .wait_log(&[
            "WARN",
            "backend site: server one",
            "is down: 2 checks in a row failed, the last one for this: HTTP status 500 where 200-299 was expected",
        ])
        .await;
    wait_up(&world, "one", false).await;
    for _ in 0..6 {
        assert_eq!(world.get(HOST, "/hello").await.text(), "hello from two\n");
    }
    // What stays as it is is said once, and what changes in it once more.
    let failed = checks(&world, "one", "status").await;
    wait_checks(&world, "one", "status", failed + 3.0).await;
    assert_eq!(world.gateway.logged(&["server one", "is down:"]).len(), 1);
    one.say(204);
    world
        .gateway
        .wait_log(&[
            "backend site: server one",
            "is up again, after",
            "2 checks in a row passed",
        ])
        .await;
    eventually(SOON, "both take turns", async || {
        (world.get(HOST, "/").await.status() == 204).then_some(())
    })
    .await;
    let head = two
        .requests()
        .into_iter()
        .find(|head| head.target() == "/hello?check");
    let head = head.unwrap();
    assert_eq!(head.get("host"), Some(two.address().to_string().as_str()));
    assert_eq!(head.get("connection"), Some("close"));
    assert_eq!(head.start.split(' ').next(), Some("GET"));
}

#[tokio::test]
async fn where_all_are_down_visitors_are_told_so_and_the_first_check_decides() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let world = world(&[("one", at)], "", &format!("{OFTEN}rise = 3\n")).await;
    world
        .gateway
        .wait_log(&["server one", "is down: a check failed: connection refused"])
        .await;
    world
        .gateway
        .wait_log(&[
            "ERROR",
            "backend site: every server is down by its checks",
            "503 servers-down",
        ])
        .await;
    let answer = world.get(HOST, "/").await;
    assert_eq!((answer.status(), answer.reason()), (503, "servers-down"));
    assert_eq!(answer.head.get("retry-after"), Some("5"));
    world
        .gateway
        .wait_log(&["backend=site server=- status=503 reason=servers-down"])
        .await;
    assert!(checks(&world, "one", "unreachable").await >= 1.0);
    let _one = HttpApp::start_at("one", TcpListener::bind(at).await.unwrap());
    wait_up(&world, "one", true).await;
    assert_eq!(world.get(HOST, "/hello").await.text(), "hello from one\n");
}

/// Who waits for room at a server that goes down does not wait for nothing.
#[tokio::test]
async fn who_waits_for_a_server_that_goes_down_is_told_at_once() {
    let app = HttpApp::start("one").await;
    let health = Switch::start(200).await;
    let text = format!(
        "[backends.site]\nqueue_timeout = \"60s\"\n[backends.site.check]\n{OFTEN}path = \"/\"\nport = {}\nfall = 1\n\
         [backends.site.servers]\none = {{ address = \"{}\", max_connections = 1 }}\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n",
        health.at().port(),
        app.address()
    );
    let world = World::builder().config(&text).start().await;
    let mut first = world.visitor().await;
    first.send_get(HOST, "/sse").await;
    first.head().await;
    let mut second = world.visitor().await;
    second.send_get(HOST, "/hello").await;
    eventually(SOON, "it waits", async || {
        let metrics = world.metrics().await;
        (metrics.sum("tidegate_backend_queued", &[]) == 1.0).then_some(())
    })
    .await;
    health.say(503);
    let answer = second.answer("GET").await;
    assert_eq!((answer.status(), answer.reason()), (503, "servers-down"));
}

#[tokio::test]
async fn a_check_without_a_request_is_a_connection() {
    let app = HttpApp::start("one").await;
    let text = format!(
        "[backends.site]\ncheck = \"tcp\"\n[backends.site.servers]\none = \"{}\"\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n",
        app.address()
    );
    let world = World::builder().config(&text).start().await;
    wait_checks(&world, "one", "passed", 1.0).await;
    assert_eq!(app.requests().len(), 0);
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
}

#[tokio::test]
async fn every_way_to_fail_has_its_words() {
    let silent = RawApp::start(|mut reader| async move {
        let _asked = reader.head().await;
        // Until the other side has had enough.
        let _more = reader.head().await;
    })
    .await;
    let mute = RawApp::start(|mut reader| async move {
        let _asked = reader.head().await;
    })
    .await;
    let babble = RawApp::answering("220 smtp ready\r\n", false).await;
    let endless = RawApp::start(|mut reader| async move {
        let _asked = reader.head().await;
        let field = format!("x: {}\r\n", "y".repeat(1000));
        let _begun = reader.io.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while reader.io.write_all(field.as_bytes()).await.is_ok() {}
    })
    .await;
    let hints = RawApp::start(|mut reader| async move {
        let _asked = reader.head().await;
        let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        while reader.io.write_all(hint.as_bytes()).await.is_ok() {}
    })
    .await;
    for (app, result, why) in [
        (&silent, "timeout", "nothing within 300ms"),
        (
            &mute,
            "closed",
            "it closed the connection without an answer",
        ),
        (
            &babble,
            "invalid-response",
            "did not answer in HTTP as it should be",
        ),
        (&endless, "invalid-response", "more than 64 KiB"),
        (&hints, "invalid-response", "interim responses have no end"),
    ] {
        let check = "path = \"/\"\ninterval = \"50ms\"\ntimeout = \"300ms\"\n";
        let world = world(&[("one", place(app))], "", check).await;
        world
            .gateway
            .wait_log(&["server one", "is down: a check failed", why])
            .await;
        wait_checks(&world, "one", result, 2.0).await;
        assert_eq!(world.get(HOST, "/").await.reason(), "servers-down");
    }
}

#[tokio::test]
async fn checks_speak_tls_where_requests_do_and_another_port_where_they_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "own");
    let config = pki.server_config(&pki.server(&["app.internal"]), false, &["http/1.1"]);
    let app = HttpApp::start_tls("secure", config).await;
    let clear = HttpApp::start("clear").await;
    let ca = pki.ca_file("own");
    let tls = |name: &str| {
        format!(
            "tls = {{ ca = \"{}\", server_name = \"{name}\" }}",
            ca.display()
        )
    };
    let servers = [("one", app.address())];
    let ask = format!("{OFTEN}path = \"/hello\"\nmethod = \"HEAD\"\nhost = \"app.internal\"\n");
    let good = world(&servers, &tls("app.internal"), &ask).await;
    wait_checks(&good, "one", "passed", 2.0).await;
    let head = app.last_request();
    assert_eq!(head.get("host"), Some("app.internal"));
    assert_eq!(head.start, "HEAD /hello HTTP/1.1");
    for check in [ask.as_str(), OFTEN] {
        let bad = world(&servers, &tls("other.internal"), check).await;
        bad.gateway
            .wait_log(&["server one", "is down: a check failed", "other.internal"])
            .await;
    }
    // Where the wrong name does not matter.
    let beside = format!("{ask}tls = false\nport = {}\n", clear.address().port());
    let beside = world(&servers, &tls("other.internal"), &beside).await;
    wait_checks(&beside, "one", "passed", 2.0).await;
    assert!(clear.count("/hello") >= 2);
}

/// What is wrong with how a server is spoken to stands behind a check's failure as it does behind a request's.
#[tokio::test]
async fn a_check_that_does_not_fit_is_named_with_what_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports().await;
    let (plain, wants) = (ports.visitors, ports.tunnels);
    let Some(_plain) = nginx(dir.path(), plain, "").await else {
        return;
    };
    let _wants = nginx(dir.path(), wants, " proxy_protocol").await;
    let (tell, without) = ("send_proxy = \"v2\"", "send_proxy = false\n");
    let secure = "tls = { verify = false }";
    for (server, more, check, words) in [
        (plain, tell, "", "got 400 to whatever is asked"),
        (plain, secure, "", "expected TLS, got clear text"),
        (
            plain,
            secure,
            "",
            "or, for checks alone, tls = false in its `check`",
        ),
        (wants, "", "", "add send_proxy = \"v2\" to backends.site ("),
        (
            wants,
            tell,
            without,
            "leave send_proxy = false out of the `check` of backends.site (",
        ),
    ] {
        let check = format!("{OFTEN}path = \"/\"\n{check}");
        let world = world(&[("one", server)], more, &check).await;
        let probe = format!("`tidegated probe {server}`");
        let down = ["WARN", "server one", "is down", words, &probe];
        world.gateway.wait_log(&down).await;
        let metrics = world.metrics().await;
        assert!(metrics.sum("tidegate_backend_mismatches_total", &[]) >= 1.0);
    }
    // One that fits is up, and nothing is said.
    let world = world(&[("one", wants)], tell, &format!("{OFTEN}path = \"/\"\n")).await;
    wait_checks(&world, "one", "passed", 1.0).await;
    let metrics = world.metrics().await;
    assert_eq!(metrics.sum("tidegate_backend_mismatches_total", &[]), 0.0);
}

#[tokio::test]
async fn nginx_is_up_while_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let Some(mut server) = nginx(dir.path(), at, "").await else {
        return;
    };
    let check = format!("{OFTEN}path = \"/\"\nstatus = 200\n");
    let world = world(&[("one", at)], "", &check).await;
    wait_checks(&world, "one", "passed", 3.0).await;
    assert_eq!(world.get(HOST, "/").await.status(), 200);
    server.kill().await;
    world
        .gateway
        .wait_log(&[
            "server one",
            "is down: 3 checks in a row failed",
            "connection refused",
        ])
        .await;
    let _back = nginx(dir.path(), at, "").await;
    world.gateway.wait_log(&["server one", "is up again"]).await;
    assert_eq!(world.get(HOST, "/").await.status(), 200);
}

/// In maintenance nobody knocks at a server's door, and what was found before is forgotten.
#[tokio::test]
async fn a_server_in_maintenance_is_not_checked() {
    let one = Switch::start(500).await;
    let text = format!(
        "control = \"control\"\n[backends.site]\n[backends.site.check]\n{OFTEN}path = \"/\"\n\
         [backends.site.servers]\none = \"{}\"\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n",
        one.at()
    );
    let world = World::builder().config(&text).start().await;
    let control = world.file("control");
    let ask = async |words: &[&str]| {
        let words = words.iter().map(Into::into);
        let control = ["--control".into(), control.clone().into()];
        let words: Vec<_> = words.chain(control).collect();
        let finished = run(&built("tidegated"), &words).await;
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished.stdout
    };
    wait_up(&world, "one", false).await;
    let shown = ask(&["get", "site/one"]).await;
    assert!(
        shown.contains(" down ") && shown.contains("HTTP status 500 where 200-399 was expected"),
        "{shown}"
    );
    ask(&["set", "site/one", "maintenance"]).await;
    wait_up(&world, "one", true).await;
    let before = one.checks.load(Relaxed);
    assert_eq!(world.get(HOST, "/").await.reason(), "no-server");
    one.say(200);
    ask(&["set", "site/one", "ready"]).await;
    wait_checks(&world, "one", "passed", 1.0).await;
    assert!(one.checks.load(Relaxed) > before);
    let failed = checks(&world, "one", "status").await;
    assert!(
        failed <= f64::from(before),
        "none while it was in maintenance"
    );
    assert_eq!(world.get(HOST, "/").await.status(), 200);
}

/// A backend of connections is checked as one of requests is.
#[tokio::test]
async fn a_connection_whose_servers_are_down_is_told_of_in_its_line() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let text = format!(
        "[listeners.pg]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nbackend = \"db\"\n\
         [backends.db]\n[backends.db.check]\n{OFTEN}[backends.db.servers]\none = \"{at}\"\n"
    );
    let world = World::builder().config(&text).start().await;
    wait_up(&world, "one", false).await;
    let pg = world.gateway.address("pg").unwrap();
    // It is broken off whatever it has to say, and would not have the time to say it.
    let mut visitor = Visitor::connect(pg).await;
    visitor.closed_within(SOON).await;
    world
        .gateway
        .wait_log(&["tcp listener=pg", "to=db", "ended=servers-down"])
        .await;
    let _one = HttpApp::start_at("one", TcpListener::bind(at).await.unwrap());
    wait_up(&world, "one", true).await;
    assert_eq!(get(pg, HOST, "/hello").await.text(), "hello from one\n");
}

#[tokio::test]
async fn checks_end_when_the_gateway_is_to_stop() {
    let app = HttpApp::start("one").await;
    let health = Switch::start(200).await;
    let check = format!("{OFTEN}path = \"/\"\nport = {}\n", health.at().port());
    let mut world = world(&[("one", app.address())], "", &check).await;
    let met = || health.checks.load(Relaxed);
    eventually(SOON, "checks", async || (met() > 2).then_some(())).await;
    let mut visitor = world.visitor().await;
    visitor.send_get(HOST, "/slow/1000").await;
    app.wait_request("/slow/1000").await;
    world.gateway.signal(Signal::TERM);
    world
        .gateway
        .wait_log(&["stopping: visitors in hand"])
        .await;
    let before = met();
    assert_eq!(visitor.answer("GET").await.status(), 200);
    assert!(world.gateway.ended(SOON).await.success());
    assert!(met() <= before + 1, "{} after {before}", met());
}

/// What a machine wants to know of a line is not in its sentence alone.
#[tokio::test]
async fn what_is_said_of_servers_has_fields_in_json() {
    let one = Switch::start(200).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = closed.local_addr().unwrap();
    drop(closed);
    let text = format!(
        "log = \"json\"\n[backends.site]\neject_after = 1\nretries = 0\n[backends.site.servers]\none = \"{gone}\"\n\
         [backends.seen]\n[backends.seen.check]\n{OFTEN}path = \"/\"\nfall = 1\n[backends.seen.servers]\none = \"{}\"\n\
         [[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n",
        one.at()
    );
    let world = World::builder().config(&text).start().await;
    let event = async |backend: &str, what: &str| -> Value {
        let words = [
            format!("\"backend\":\"{backend}\""),
            format!("\"what\":\"{what}\""),
        ];
        let words = words.each_ref().map(String::as_str);
        serde_json::from_str(&world.gateway.wait_log(&words).await).unwrap()
    };
    assert_eq!(world.get(HOST, "/").await.status(), 502);
    for what in ["unreachable", "left-out"] {
        let said = event("site", what).await;
        assert_eq!(said["server"], "one", "{said}");
        assert_eq!(said["address"], gone.to_string(), "{said}");
        assert_eq!(said["why"], "connection refused", "{said}");
    }
    wait_checks(&world, "one", "passed", 1.0).await;
    one.say(500);
    let said = event("seen", "down").await;
    assert_eq!(said["address"], one.at().to_string(), "{said}");
    assert_eq!(
        said["why"], "HTTP status 500 where 200-399 was expected",
        "{said}"
    );
    event("seen", "all-down").await;
    one.say(200);
    let said = event("seen", "up").await;
    assert_eq!(said["server"], "one", "{said}");
    assert!(said["after_ms"].is_u64(), "{said}");
}

/// A server that was restarted is left out for the requests that found nobody, and back with its checks.
#[tokio::test]
async fn checks_that_pass_end_its_being_left_out_where_nobody_was_there() {
    let app = HttpApp::start("one").await;
    let at = app.address();
    let keys = "eject_after = 2\neject_time = \"1h\"\neject_time_most = \"1h\"\nretries = 0";
    let check = "path = \"/hello\"\nrise = 2\nfall = 1000\ninterval = \"100ms\"";
    let world = world(&[("one", at)], keys, check).await;
    eventually(SOON, "a check passes", async || {
        let passed = ["server=\"one\"", "result=\"passed\""];
        let metrics = world.metrics().await;
        (metrics.sum("tidegate_backend_checks_total", &passed) >= 1.0).then_some(())
    })
    .await;
    drop(app);
    eventually(SOON, "requests fail", async || {
        assert_eq!(world.get(HOST, "/hello").await.status(), 502);
        let left_out = world.gateway.log_contains("is left out for 3600s");
        left_out.then_some(())
    })
    .await;
    let listener = TcpListener::bind(at).await.unwrap();
    let _app = HttpApp::start_at("one", listener);
    let back = [
        "server one",
        "is no longer left out, after",
        "2 checks in a row passed",
    ];
    world.gateway.wait_log(&back).await;
    let answer = world.get(HOST, "/hello").await;
    let said = (answer.status(), answer.text());
    assert_eq!(said, (200, "hello from one\n".to_owned()));
}
