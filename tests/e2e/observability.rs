//! What an operator sees (issue §8): one record per request, gauges that add up, tunnels by name.

use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::http1::pattern;
use tidegate_tests::peers::frame::{Frame, PREFACE, flag, kind};
use tidegate_tests::peers::{Peer, hpack};
use tidegate_tests::program::{built, run};
use tidegate_tests::visitors::H2Visitor;
use tidegate_tests::visitors::http1::{Visitor, get, try_get};
use tidegate_tests::visitors::http2::answer;
use tidegate_tests::world::Metrics;
use tidegate_tests::{HOST, Site, World, eventually};

/// A site whose gateway logs JSON.
async fn site() -> Site {
    Site::start_with(World::builder().option("--log", "json"), &[]).await
}

/// Every access record so far.
fn records(world: &World) -> Vec<Value> {
    let lines = world.gateway.log();
    let parsed = lines.iter().map(|line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("not JSON: {line}"))
    });
    parsed.filter(|record| record["kind"] == "access").collect()
}

/// The one record of a request for `path`.
async fn record(world: &World, path: &str) -> Value {
    let of_path = || {
        records(world)
            .into_iter()
            .filter(|record| record["path"] == path)
    };
    eventually(SOON, &format!("a record of {path}"), async || {
        of_path().next()
    })
    .await;
    let all: Vec<Value> = of_path().collect();
    assert_eq!(all.len(), 1, "one record of {path}: {all:?}");
    all[0].clone()
}

/// Events and access records of both programs have the same keys for the same things.
#[tokio::test]
async fn every_line_of_json_has_the_same_four_keys() {
    let site = Site::start_with(
        World::builder().option("--log", "json"),
        &["--log", "json", "--log-level", "debug"],
    )
    .await;
    assert_eq!(site.get("/hello").await.status(), 200);
    record(&site.world, "/hello").await;
    site.agent.wait_log(&["\"kind\":\"event\""]).await;
    for (program, lines) in [
        ("gateway", site.world.gateway.log()),
        ("agent", site.agent.log()),
    ] {
        assert!(!lines.is_empty(), "{program}");
        for line in lines {
            let value: Value = serde_json::from_str(&line)
                .unwrap_or_else(|_| panic!("{program}: not JSON: {line}"));
            let text = |key: &str| {
                value[key]
                    .as_str()
                    .unwrap_or_else(|| panic!("{program}: no {key} in {line}"))
                    .to_owned()
            };
            let time = text("time");
            assert!(time.len() == 24 && time.ends_with('Z'), "{line}");
            assert!(
                ["warn", "info", "debug"].contains(&&*text("level")),
                "{line}"
            );
            assert!(["event", "access"].contains(&&*text("kind")), "{line}");
            assert!(!text("message").is_empty(), "{line}");
            assert_eq!(value["timestamp"], Value::Null, "{line}");
        }
    }
}

#[tokio::test]
async fn every_request_is_one_record_whatever_became_of_it() {
    let site = site().await;
    let world = &site.world;
    assert_eq!(site.get("/size/1000").await.status(), 200);
    let served = record(world, "/size/1000").await;
    assert_eq!(
        (&served["status"], &served["name"]),
        (&200.into(), &HOST.into())
    );
    assert_eq!(
        (&served["bytes_out"], &served["bytes_in"]),
        (&1000.into(), &0.into())
    );
    assert!(
        served["visitor"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:")
    );
    assert!(served["agent"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(served["reason"].is_null(), "{served}");

    assert_eq!(world.get("nobody.test", "/unknown").await.status(), 503);
    let unknown = record(world, "/unknown").await;
    assert_eq!(
        (&unknown["status"], &unknown["reason"]),
        (&503.into(), &"no-such-name".into())
    );

    let head = "POST /upload?up HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 4\r\n\r\n1234";
    assert_eq!(site.ask("POST", head).await.status(), 200);
    assert_eq!(record(world, "/upload?up").await["bytes_in"], 4);

    let mut visitor = site.visitor().await;
    visitor.send_get(HOST, "/never?left").await;
    site.app.wait_request("/never?left").await;
    visitor.reset();
    assert_eq!(record(world, "/never?left").await["reason"], "visitor-gone");

    // What went up counts, also of an upload that broke off; nothing was said to one who had left.
    let mut visitor = site.visitor().await;
    visitor
        .send("POST /never?broken HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 90000\r\n\r\n")
        .await;
    visitor.send(pattern(30_000)).await;
    site.app.wait_request("/never?broken").await;
    eventually(SOON, "the gateway has passed all that came", async || {
        let sent = |tunnel: &Value| tunnel["octets_sent"].as_u64().unwrap_or_default();
        let tunnels = world.listed().await;
        (tunnels.iter().map(sent).max() >= Some(30_000)).then_some(())
    })
    .await;
    visitor.reset();
    let broken = record(world, "/never?broken").await;
    assert_eq!(broken["reason"], "visitor-gone", "{broken}");
    assert_eq!(
        (&broken["bytes_in"], &broken["bytes_out"]),
        (&30_000.into(), &0.into()),
        "{broken}"
    );

    let cut = try_get(world.visitors, HOST, "/chunkcut", SOON).await;
    assert!(cut.is_err() || cut.is_ok_and(|answer| answer.cut.is_some()));
    assert_eq!(record(world, "/chunkcut").await["reason"], "response-cut");

    assert_eq!(
        site.ask("GET", "GET /bad HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
            .await
            .status(),
        400
    );
    let bad = eventually(SOON, "a record of the bad request", async || {
        records(world)
            .into_iter()
            .find(|record| record["status"] == 400)
    })
    .await;
    assert!(bad["reason"].is_string());

    let mut visitor = H2Visitor::connect(world.visitors).await;
    assert_eq!(visitor.get(HOST, "/hello?h2").await.status, 200);
    assert_eq!(record(world, "/hello?h2").await["version"], "HTTP/2");

    let all = records(world);
    let mut ids: Vec<&str> = all
        .iter()
        .map(|record| record["id"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all.len(), "ids are unique");
}

/// Who stalls, in one line: a visitor within its body, or an app that has all of it.
#[tokio::test]
async fn a_visitor_who_lets_its_body_wait_is_told_from_an_app_that_takes_its_time() {
    let site = site().await;
    let mut visitor = site.visitor().await;
    let head =
        format!("POST /upload?visitor HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 549\r\n\r\n");
    visitor.send(head + &"x".repeat(100)).await;
    site.app.wait_request("/upload?visitor").await;
    // So long at least, as nothing takes less time.
    assert_eq!(site.get("/slow/300").await.status(), 200);
    visitor.send("x".repeat(449)).await;
    assert_eq!(visitor.answer("POST").await.status(), 200);
    let ms = |record: &Value, phase: &str| record[format!("{phase}_ms")].as_f64();
    let stalled = record(&site.world, "/upload?visitor").await;
    let upload = ms(&stalled, "upload").unwrap();
    assert!(upload >= 290.0, "{stalled}");
    assert!(ms(&stalled, "first").unwrap() < upload, "{stalled}");
    let parts = ["head", "hold", "pick", "upload", "first", "body"];
    let parts: f64 = parts.iter().map(|part| ms(&stalled, part).unwrap()).sum();
    assert!(parts <= ms(&stalled, "total").unwrap() + 1.0, "{stalled}");

    let mut http2 = H2Visitor::connect(site.world.visitors).await;
    let head = http2.head(http::Method::POST, HOST, "/upload?http2");
    let (future, mut body) = http2.begin(head, false).await;
    body.send_data(pattern(100).into(), false).unwrap();
    site.app.wait_request("/upload?http2").await;
    assert_eq!(site.get("/slow/301").await.status(), 200);
    body.send_data(pattern(449).into(), true).unwrap();
    assert_eq!(answer(future).await.status, 200);
    let stalled = record(&site.world, "/upload?http2").await;
    assert!(ms(&stalled, "upload").unwrap() >= 290.0, "{stalled}");

    let slow = record(&site.world, "/slow/300").await;
    assert_eq!(ms(&slow, "upload"), None, "{slow}");
}

#[tokio::test]
async fn the_record_says_where_the_time_went() {
    let mut site = site().await;
    assert_eq!(site.get("/slow/400").await.status(), 200);
    let slow = record(&site.world, "/slow/400").await;
    let ms = |record: &Value, phase: &str| record[format!("{phase}_ms")].as_f64().unwrap();
    assert!(ms(&slow, "first") >= 390.0, "{slow}");
    assert!(
        ms(&slow, "hold") < 100.0 && ms(&slow, "head") < 200.0,
        "{slow}"
    );
    let parts: f64 = ["head", "hold", "pick", "first", "body"]
        .iter()
        .map(|p| ms(&slow, p))
        .sum();
    assert!(
        parts <= ms(&slow, "total") + 1.0,
        "the parts are of the whole: {slow}"
    );

    site.agent.kill().await;
    site.world.wait_filed(HOST, 0, SOON).await;
    let mut visitor = site.visitor().await;
    visitor.send_get(HOST, "/hello?held").await;
    site.world.wait_held(1).await;
    let began = Instant::now();
    site.agent = site.world.agent(HOST, site.app.target()).await;
    assert_eq!(visitor.answer("GET").await.status(), 200);
    let held = record(&site.world, "/hello?held").await;
    assert!(ms(&held, "hold") > 1.0, "{held}");
    assert!(
        ms(&held, "hold") < began.elapsed().as_secs_f64() * 1000.0 + 3000.0,
        "{held}"
    );
}

/// As over HTTP/1: from its first octet to its last.
#[tokio::test]
async fn the_record_of_an_http2_request_says_how_long_its_head_took() {
    let site = site().await;
    let mut peer = Peer::over(Conn::plain(site.world.visitors).await.unwrap());
    let opening = [PREFACE.as_slice(), &Frame::settings(&[]).encode()].concat();
    peer.write(&opening).await.unwrap();
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", HOST),
        (":path", "/hello?h2"),
    ];
    let block = hpack::encode(&fields);
    let (first, rest) = block.split_at(block.len() / 2);
    let began = Instant::now();
    peer.send(Frame::new(kind::HEADERS, flag::END_STREAM, 1, first))
        .await;
    assert_eq!(site.get("/slow/400").await.status(), 200);
    peer.send(Frame::new(kind::CONTINUATION, flag::END_HEADERS, 1, rest))
        .await;
    let slow = record(&site.world, "/hello?h2").await;
    let head = slow["head_ms"].as_f64().unwrap();
    let most = began.elapsed().as_secs_f64() * 1000.0;
    assert!((350.0..=most).contains(&head), "{slow}");
    assert!(slow["total_ms"].as_f64().unwrap() >= head, "{slow}");
}

#[tokio::test]
async fn the_human_log_has_one_line_per_request_that_nobody_can_forge() {
    let site = Site::start().await;
    assert_eq!(site.get("/hello?human").await.status(), 200);
    let line = site
        .world
        .gateway
        .wait_log(&["access", "/hello?human"])
        .await;
    for part in ["status=200", "name=blog.test", "127.0.0.1:"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let mut visitor = site.visitor().await;
    visitor
        .send("GET /\u{1b}[31m HTTP/1.1\r\nHost: blog.test\r\n\r\n")
        .await;
    let answer = visitor.answer("GET").await;
    let out = format!(" out={} ", answer.body.len());
    site.world
        .gateway
        .wait_log(&["access", "reason=malformed-request", &out])
        .await;
    for line in site.world.gateway.log() {
        assert!(
            !line.contains('\u{1b}'),
            "no escape sequence of a visitor's: {line:?}"
        );
    }
}

#[tokio::test]
async fn tunnels_that_come_and_go_are_one_line_each() {
    let mut site = Site::start().await;
    let lines = |word: &str| site.world.gateway.logged(&[word, HOST]).len();
    eventually(
        SOON,
        "four lines about tunnels that are filed",
        async || (lines("filed") == 4).then_some(()),
    )
    .await;
    assert_eq!(lines("gone"), 0);
    site.agent.terminate();
    site.agent.ended(SOON).await;
    site.world.wait_filed(HOST, 0, SOON).await;
    let gone = || site.world.gateway.logged(&["gone", HOST]).len() == 4;
    eventually(SOON, "four lines about tunnels that are gone", async || {
        gone().then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_list_of_tunnels_says_who_is_attached() {
    let site = Site::start().await;
    let listed = site.world.listed().await;
    assert_eq!(listed.len(), 4);
    for tunnel in &listed {
        assert_eq!(tidegate_tests::world::names_of(tunnel), [HOST]);
        for field in ["agent", "expires", "age", "rtt", "streams"] {
            let found = tunnel
                .as_object()
                .unwrap()
                .keys()
                .any(|key| key.contains(field));
            assert!(found, "{field} in {tunnel}");
        }
    }
    let mut visitor = site.visitor().await;
    visitor.send_get(HOST, "/never").await;
    site.app.wait_request("/never").await;
    assert_eq!(site.world.streams(HOST).await, 1);

    let admin = site.world.admin.to_string();
    let ask = async |more: &[&str]| {
        let args = [&["tunnels", "--admin", admin.as_str()], more].concat();
        let args: Vec<_> = args.iter().map(Into::into).collect();
        let finished = run(&built("tidegated"), &args).await;
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished.stdout
    };
    let table = ask(&[]).await;
    assert_eq!(table.matches(HOST).count(), 4, "{table}");
    let json: Value = serde_json::from_str(&ask(&["--json"]).await).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 4, "{json}");
}

#[tokio::test]
async fn live_and_ready_answer() {
    let world = World::start().await;
    for path in ["/live", "/ready"] {
        assert_eq!(
            get(world.admin, "localhost", path).await.status(),
            200,
            "{path}"
        );
    }
    assert_eq!(
        get(world.admin, "localhost", "/nothing").await.status(),
        404
    );
}

/// A page of a browser may point at loopback; it cannot choose its Host (DNS rebinding).
#[tokio::test]
async fn the_admin_port_answers_only_to_its_own_name() {
    let world = World::start().await;
    let answer = get(world.admin, "evil.test", "/metrics").await;
    assert!(
        matches!(answer.status(), 400 | 403 | 421),
        "{}",
        answer.status()
    );
}

/// Gauges add up: opened − closed = live, the sum over names = the total, and nothing is negative.
fn adds_up(metrics: &Metrics) {
    let sum = |metric: &str| metrics.sum(metric, &[]);
    let live = sum("tidegate_tunnels_opened_total") - sum("tidegate_tunnels_closed_total");
    assert_eq!(
        live,
        sum("tidegate_tunnels_filed"),
        "opened - closed = live"
    );
    assert_eq!(
        sum("tidegate_tunnels"),
        sum("tidegate_tunnels_filed"),
        "sum over names = total"
    );
    let visitors = sum("tidegate_visitors_opened_total") - sum("tidegate_visitors_closed_total");
    assert_eq!(visitors, sum("tidegate_visitors"), "visitors");
    for (series, value) in metrics.iter() {
        assert!(value >= 0.0, "{series} {value}");
    }
}

#[tokio::test]
async fn metrics_add_up_through_everything() {
    let mut site = Site::start().await;
    adds_up(&site.world.metrics().await);
    let before = site.world.metrics().await;
    for path in ["/hello", "/size/1000", "/status/404", "/chunkcut"] {
        let _ = try_get(site.world.visitors, HOST, path, SOON).await;
    }
    assert_eq!(site.world.get("nobody.test", "/").await.status(), 503);
    let mut streaming = site.visitor().await;
    streaming.send_get(HOST, "/sse").await;
    streaming.head().await;
    let during = site.world.metrics().await;
    adds_up(&during);
    assert_eq!(during.sum("tidegate_streams", &[HOST]), 1.0);
    assert_eq!(during.sum("tidegate_tunnels", &[HOST]), 4.0);
    assert_eq!(during.sum("tidegate_visitors", &[]), 1.0);
    for reason in ["no-such-name", "response-cut"] {
        let failed = during.sum("tidegate_requests_failed_total", &[reason]);
        assert_eq!(failed, 1.0, "{reason}");
    }
    let octets = during.sum("tidegate_response_octets_total", &[]);
    assert!(octets >= before.sum("tidegate_response_octets_total", &[]) + 1000.0);
    streaming.reset();
    site.agent.kill().await;
    site.world.wait_filed(HOST, 0, SOON).await;
    eventually(SOON, "everything is over", async || {
        let metrics = site.world.metrics().await;
        let over = metrics.sum("tidegate_streams", &[]) == 0.0
            && metrics.sum("tidegate_visitors", &[]) == 0.0;
        over.then_some(())
    })
    .await;
    let after = site.world.metrics().await;
    adds_up(&after);
    assert_eq!(after.sum("tidegate_tunnels_filed", &[]), 0.0);
    assert_eq!(
        after.sum("tidegate_requests_total", &[]),
        6.0,
        "each request once, by class"
    );
}

/// A log that nobody reads must not hold a request up.
#[tokio::test]
async fn a_log_that_is_not_read_blocks_nobody() {
    let site = Site::start().await;
    site.world.gateway.stop_reading_log();
    // More than the pipe's 64 KiB and the gateway's own 4 MiB: some lines have to be dropped, and counted.
    let path = format!("/hello?{}", "x".repeat(8000));
    let mut visitor = site.visitor().await;
    for _ in 0..700 {
        visitor.send_get(HOST, &path).await;
        assert_eq!(
            visitor
                .answer_within(Duration::from_secs(2), "GET")
                .await
                .status(),
            200
        );
    }
    assert!(
        site.world
            .metrics()
            .await
            .sum("tidegate_log_dropped_total", &[])
            > 0.0
    );
}

/// Who says nothing keeps nobody from being answered, from the same address as well.
#[tokio::test]
async fn silent_admin_connections_delay_nobody() {
    let world = World::start().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(Visitor::connect(world.admin).await);
    }
    for _ in 0..20 {
        let began = Instant::now();
        let answer = get(world.admin, "localhost", "/live").await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "live\n"));
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
    }
    // What they cost is bounded, and the last of them are still served.
    let mut last = silent.pop().unwrap();
    last.send_get("localhost", "/live").await;
    assert_eq!(last.answer("GET").await.status(), 200);
}
