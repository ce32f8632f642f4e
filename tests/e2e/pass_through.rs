//! What must pass a tunnel unharmed (issue §4): bodies, interim answers, ends and resets, in both directions.

use std::time::{Duration, Instant};

use tidegate_tests::apps::RawApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::http1::{Framing, pattern};
use tidegate_tests::visitors::http1::try_get;
use tidegate_tests::visitors::http2::{answer, piece, response};
use tidegate_tests::visitors::{Answer, H2Visitor, Visitor};
use tidegate_tests::{HOST, Site, World, within};

/// What "at once" means for an event that has to cross three processes on a loaded machine.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn bodies_of_any_size_come_down_whole() {
    let site = Site::start().await;
    for length in [0, 1, 16_383, 16_384, 65_536, 5_000_000] {
        for route in ["size", "chunked"] {
            let answer = site.get(&format!("/{route}/{length}")).await;
            assert!(answer.cut.is_none(), "{route} {length}: {:?}", answer.cut);
            assert!(
                answer.body == pattern(length),
                "{route} {length}: {} bytes",
                answer.body.len()
            );
        }
    }
    let sized = site.get("/size/1234").await;
    assert_eq!(
        sized.head.get("content-length"),
        Some("1234"),
        "a known length stays known"
    );
    let chunked = site.get("/chunked/1234").await;
    assert!(chunked.head.lists("transfer-encoding", "chunked"));
    assert_eq!(chunked.head.get("content-length"), None);
}

#[tokio::test]
async fn bodies_of_any_size_go_up_whole() {
    let site = Site::start().await;
    for length in [0, 1, 16_384, 65_537, 3_000_000] {
        let body = pattern(length);
        let mut visitor = site.visitor().await;
        let head =
            format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n");
        visitor.send(head).await;
        visitor.send(&body).await;
        assert_eq!(
            visitor.answer("POST").await.text(),
            format!("{length} intact")
        );

        let head =
            format!("PUT /upload HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
        visitor.send(head).await;
        for part in body.chunks(70_000) {
            visitor.send(format!("{:X};ext=1\r\n", part.len())).await;
            visitor.send(part).await;
            visitor.send("\r\n").await;
        }
        visitor.send("0\r\n\r\n").await;
        assert_eq!(
            visitor.answer("PUT").await.text(),
            format!("{length} intact"),
            "chunked"
        );
    }
}

#[tokio::test]
async fn the_length_of_a_request_stays_known() {
    let site = Site::start().await;
    let request = format!("POST /headers HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(site.ask("POST", request).await.status(), 200);
    let head = site.app.last_request();
    assert_eq!(head.get("content-length"), Some("3"));
    assert!(
        !head.lists("transfer-encoding", "chunked"),
        "never two ways to say a length"
    );
    assert_eq!(site.get("/headers").await.status(), 200);
    let head = site.app.last_request();
    assert_eq!(
        (head.get("content-length"), head.get("transfer-encoding")),
        (None, None)
    );
}

#[tokio::test]
async fn bytes_are_echoed_while_the_upload_runs() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    visitor
        .send(format!(
            "POST /echo HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nConnection: TE\r\n\
             Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        ))
        .await;
    let head = visitor.head_within(SOON).await;
    let mut framing = Framing::of_answer(&head, "POST").unwrap();
    for word in ["one", "two!", "three"] {
        visitor
            .send(format!("{:x}\r\n{word}\r\n", word.len()))
            .await;
        let mut back = Vec::new();
        while back.len() < word.len() {
            back.extend(visitor.piece(&mut framing).await.unwrap());
        }
        assert_eq!(back, word.as_bytes());
    }
    visitor.send("0\r\nX-Sum: 12\r\n\r\n").await;
    assert_eq!(visitor.piece(&mut framing).await, None);
    let sum = ("X-Sum".to_owned(), "12".to_owned());
    let trailers: Vec<_> = visitor
        .reader
        .trailers
        .iter()
        .map(|(n, v)| (n.to_lowercase(), v.clone()))
        .collect();
    assert_eq!(
        trailers,
        [("x-sum".to_owned(), sum.1)],
        "trailers go up and come down"
    );
}

#[tokio::test]
async fn a_100_continue_comes_from_the_app_and_before_the_body() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    visitor.send(head("/expect/honour")).await;
    assert_eq!(visitor.head().await.status(), 100);
    visitor.send(&pattern(4)).await;
    let answer = visitor.answer("POST").await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "4 intact"));

    let mut visitor = site.visitor().await;
    visitor.send(head("/expect/refuse")).await;
    let answer = visitor.answer("POST").await;
    assert_eq!(answer.status(), 417);
    assert!(
        answer.interim.is_empty(),
        "the app has not asked for the body: {:?}",
        answer.interim
    );
}

#[tokio::test]
async fn early_hints_pass() {
    let site = Site::start().await;
    let answer = site.get("/hints").await;
    assert_eq!(answer.interim.len(), 1);
    assert_eq!(answer.interim[0].status(), 103);
    assert_eq!(
        answer.interim[0].get("link"),
        Some("</style.css>; rel=preload")
    );
    assert_eq!(
        (answer.status(), answer.text().as_str()),
        (200, "after the hints\n")
    );
}

#[tokio::test]
async fn an_http10_visitor_gets_no_interim_answer_and_no_chunks() {
    let site = Site::start().await;
    for path in ["/hints", "/chunked/3000"] {
        let answer = site
            .ask(
                "GET",
                format!("GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n"),
            )
            .await;
        assert!(answer.interim.is_empty(), "{path}");
        assert_eq!(answer.head.get("transfer-encoding"), None, "{path}");
        assert!(answer.body.len() >= 16, "{path}");
    }
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_keep_the_connection() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    let mut ask = async |method: &str, path: &str| -> Answer {
        visitor
            .send(format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
            .await;
        visitor.answer(method).await
    };
    let head = ask("HEAD", "/size/1000").await;
    assert_eq!(
        (head.status(), head.head.get("content-length")),
        (200, Some("1000"))
    );
    let empty = ask("GET", "/status/204").await;
    assert_eq!((empty.status(), empty.body.len()), (204, 0));
    assert_eq!(
        (
            empty.head.get("content-length"),
            empty.head.get("transfer-encoding")
        ),
        (None, None)
    );
    let fresh = ask("GET", "/status/304").await;
    assert_eq!(
        (fresh.status(), fresh.head.get("etag")),
        (304, Some("\"tide\""))
    );
    for code in [201, 299, 404, 418, 500, 599] {
        assert_eq!(ask("GET", &format!("/status/{code}")).await.status(), code);
    }
    assert_eq!(ask("GET", "/hello").await.text(), "hello from blog\n");
}

#[tokio::test]
async fn trailers_reach_http1_and_http2_visitors() {
    let site = Site::start().await;
    let request =
        format!("GET /trailers HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    let answer = site.ask("GET", request).await;
    let trailer = |name: &str| {
        let found = answer
            .trailers
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(
        (trailer("x-check"), trailer("x-count")),
        (Some("fine"), Some("4"))
    );

    let mut visitor = H2Visitor::connect(site.world.visitors).await;
    let answer = visitor.get(HOST, "/trailers").await;
    assert_eq!(answer.body, b"body");
    assert_eq!(answer.trailers.unwrap()["x-check"], "fine");
}

#[tokio::test]
async fn an_early_answer_arrives_while_the_upload_runs() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    let length = 2_000_000;
    visitor
        .send(format!(
            "POST /early-413 HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n"
        ))
        .await;
    visitor.send(&pattern(10_000)).await;
    let answer = visitor.answer("POST").await;
    assert_eq!(
        (answer.status(), answer.text().as_str()),
        (413, "too large")
    );
}

#[tokio::test]
async fn a_visitor_may_close_his_half_and_still_gets_the_answer() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    visitor.send_get(HOST, "/slow/400").await;
    visitor.half_close().await;
    assert_eq!(visitor.answer("GET").await.text(), "slow\n");
}

#[tokio::test]
async fn a_visitor_may_close_his_half_behind_a_body() {
    let site = Site::start().await;
    for body in [
        "Content-Length: 5\r\n\r\n\0\u{1}\u{2}\u{3}\u{4}",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut visitor = site.visitor().await;
        visitor
            .send(format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\n{body}"))
            .await;
        visitor.half_close().await;
        assert!(visitor.answer("POST").await.text().ends_with("intact"));
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    let paths = ["/slow/200", "/hello", "/size/100"];
    let all: String = paths
        .iter()
        .map(|path| format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
        .collect();
    visitor.send(all).await;
    assert_eq!(visitor.answer("GET").await.text(), "slow\n");
    assert_eq!(visitor.answer("GET").await.text(), "hello from blog\n");
    assert_eq!(visitor.answer("GET").await.body, pattern(100));
}

#[tokio::test]
async fn a_visitor_who_leaves_is_gone_for_the_app_at_once() {
    let site = Site::start().await;
    for path in ["/sse", "/never"] {
        let mut visitor = site.visitor().await;
        visitor.send_get(HOST, path).await;
        site.app.wait_request(path).await;
        if path == "/sse" {
            assert_eq!(visitor.head().await.status(), 200);
        }
        visitor.reset();
        site.app.wait_abandoned(path, AT_ONCE).await;
    }
    let mut visitor = H2Visitor::connect(site.world.visitors).await;
    let head = visitor.head(http::Method::GET, HOST, "/sse?h2");
    let (future, mut stream) = visitor.begin(head, true).await;
    let mut body = response(future).await.into_body();
    assert!(piece(&mut body).await.is_some());
    stream.send_reset(h2::Reason::CANCEL);
    site.app.wait_abandoned("/sse?h2", AT_ONCE).await;
    // The visitor's other streams do not notice.
    assert_eq!(visitor.get(HOST, "/hello").await.status, 200);
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_not_complete_for_the_app() {
    let site = Site::start().await;
    let before = site.app.connections();
    let mut visitor = site.visitor().await;
    visitor
        .send(format!(
            "POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\nhalf"
        ))
        .await;
    site.app.wait_request("/upload").await;
    visitor.reset();
    // The app's connection is not used for another request: that would become the rest of the body.
    let answer = site.get("/hello").await;
    assert_eq!(answer.text(), "hello from blog\n");
    assert!(site.app.connections() > before);
}

#[tokio::test]
async fn an_answer_that_is_cut_short_is_seen_as_cut_short() {
    let site = Site::start().await;
    let mut http2 = H2Visitor::connect(site.world.visitors).await;
    for path in ["/cut", "/chunkcut", "/reset"] {
        let began = Instant::now();
        // A reset may overtake the head: then the gateway has nothing better to say than 502, or to close.
        if let Ok(answer) = try_get(site.world.visitors, HOST, path, SOON).await {
            let overtaken = path == "/reset" && answer.status() == 502;
            assert!(answer.cut.is_some() || overtaken, "{path}: {answer:?}");
        }
        assert!(began.elapsed() < AT_ONCE, "{path}: {:?}", began.elapsed());
        let head = http2.head(http::Method::GET, HOST, path);
        let (future, _) = http2.begin(head, true).await;
        if let Ok(response) = within(SOON, path, future).await {
            let status = response.status();
            let answer = tidegate_tests::visitors::http2::read(response).await;
            assert!(answer.cut.is_some() || status == 502, "{path} over HTTP/2");
        }
    }
}

/// Towards HTTP/1.0 the end of the connection is the end of a body without a length: one that broke off ends with a reset.
#[tokio::test]
async fn an_http10_visitor_sees_a_cut_too() {
    let site = Site::start().await;
    let ask = async |path: &str| {
        let mut visitor = site.visitor().await;
        visitor
            .send(format!("GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n"))
            .await;
        visitor.answer("GET").await
    };
    for _ in 0..3 {
        let cut = ask("/chunkcut").await;
        assert_eq!(cut.status(), 200);
        assert_eq!(
            cut.cut.map(|error| error.kind()),
            Some(std::io::ErrorKind::ConnectionReset)
        );
        for path in ["/chunked/3000", "/chunked/700000", "/size/0", "/trailers"] {
            let whole = ask(path).await;
            assert_eq!(whole.status(), 200);
            assert!(whole.cut.is_none(), "{path}: {:?}", whole.cut);
        }
        assert_eq!(ask("/chunked/700000").await.body, pattern(700_000));
    }
}

/// The same where it is the gateway that gives the visitor up, who reads on later.
#[tokio::test]
async fn an_http10_visitor_who_stopped_reading_sees_that_it_missed_something() {
    let world = World::builder().option("--stall-timeout", "1s");
    let site = Site::start_with(world, &[]).await;
    let mut visitor = Visitor::connect_narrow(site.world.visitors).await;
    visitor
        .send(format!(
            "GET /chunked/20000000 HTTP/1.0\r\nHost: {HOST}\r\n\r\n"
        ))
        .await;
    let line = site.world.gateway.wait_log(&["access", "/chunked/2"]).await;
    assert!(line.contains("visitor-stalled"), "{line}");
    let answer = visitor.answer("GET").await;
    assert!(answer.body.len() < 20_000_000);
    assert!(
        answer.cut.is_some(),
        "{} octets look whole",
        answer.body.len()
    );
}

#[tokio::test]
async fn events_are_not_delayed() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    let began = Instant::now();
    visitor.send_get(HOST, "/sse").await;
    let head = visitor.head().await;
    assert_eq!(head.get("content-type"), Some("text/event-stream"));
    let mut framing = Framing::of_answer(&head, "GET").unwrap();
    let mut text = String::new();
    while !text.contains("data: 20\n\n") {
        let piece = visitor.piece(&mut framing).await.unwrap();
        assert!(piece.len() < 80, "events are not collected: {piece:?}");
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    // 20 intervals of 50 ms; a second more for a loaded machine.
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn old_and_odd_apps_are_understood() {
    let world = World::start().await;
    let cases = [
        ("HTTP/1.0 200 OK\r\n\r\nuntil the end", "until the end"),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
            "until the end",
        ),
        ("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", "ok"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            "ok",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2;x=y\r\nok\r\n0\r\n\r\n",
            "ok",
        ),
    ];
    for (count, (wire, expected)) in cases.into_iter().enumerate() {
        let app = RawApp::answering(wire, true).await;
        let name = format!("app{count}.test");
        let _agent = world
            .agent_with(&name, &app.target(), &["--tunnels", "1"])
            .await;
        let answer = world.get(&name, "/").await;
        assert!(answer.cut.is_none(), "{wire:?}: {:?}", answer.cut);
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, expected),
            "{wire:?}"
        );
    }
}

#[tokio::test]
async fn an_http2_visitor_gets_the_same() {
    let site = Site::start().await;
    let tls = site.world.visitor_tls(&["h2"]);
    let mut visitor = H2Visitor::connect_tls(site.world.visitors_tls, HOST, tls).await;
    let down = visitor.get(HOST, "/size/3000000").await;
    assert!(down.cut.is_none() && down.body == pattern(3_000_000));
    assert_eq!(down.field("content-length"), "3000000");
    let head = visitor.head(http::Method::POST, HOST, "/upload");
    let up = visitor.send(head, pattern(3_000_000)).await;
    assert_eq!(up.text(), "3000000 intact");
    let head = visitor.head(http::Method::HEAD, HOST, "/size/10");
    let (future, _) = visitor.begin(head, true).await;
    let head = answer(future).await;
    assert_eq!(
        (
            head.status.as_u16(),
            head.field("content-length"),
            head.body.len()
        ),
        (200, "10", 0)
    );
    for code in [204, 304, 404] {
        assert_eq!(
            visitor
                .get(HOST, &format!("/status/{code}"))
                .await
                .status
                .as_u16(),
            code
        );
    }
    let head = visitor.head(http::Method::POST, HOST, "/early-413");
    let (future, mut upload) = visitor.begin(head, false).await;
    upload.send_data(pattern(10_000).into(), false).unwrap();
    assert_eq!(answer(future).await.status, 413);
}

#[tokio::test]
async fn many_streams_of_one_visitor_run_side_by_side() {
    let site = Site::start().await;
    let mut visitor = H2Visitor::connect(site.world.visitors).await;
    let began = Instant::now();
    let mut futures = Vec::new();
    for _ in 0..30 {
        let head = visitor.head(http::Method::GET, HOST, "/slow/500");
        futures.push(visitor.begin(head, true).await.0);
    }
    for future in futures {
        assert_eq!(answer(future).await.text(), "slow\n");
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_visitor_over_tls_who_closes_properly_leaves_no_stream() {
    let site = Site::start().await;
    let tls = site.world.visitor_tls(&["http/1.1"]);
    let mut visitor = Visitor::connect_tls(site.world.visitors_tls, HOST, tls).await;
    visitor.send_get(HOST, "/sse?tls").await;
    assert_eq!(visitor.head().await.status(), 200);
    visitor.half_close().await;
    drop(visitor);
    site.app.wait_abandoned("/sse?tls", AT_ONCE).await;
}
