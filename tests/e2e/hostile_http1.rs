//! Visitors who send HTTP/1 that two readers could understand differently, or that never ends (`reliability.md` §2.2).

use std::time::{Duration, Instant};

use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::visitors::Visitor;
use tidegate_tests::{HOST, Site, World};

/// Sends bytes and expects a refusal: one of `statuses` and a closed connection, and nothing at the app.
async fn refused(site: &Site, what: &str, bytes: impl AsRef<[u8]>, statuses: &[u16]) {
    let before = site.app.requests().len();
    let mut visitor = site.visitor().await;
    visitor.send(bytes).await;
    let answer = visitor.answer("GET").await;
    assert!(
        statuses.contains(&answer.status()),
        "{what}: {}",
        answer.status()
    );
    assert_ne!(answer.reason(), "", "{what}: says why");
    let id = answer.head.get("tidegate-request-id").unwrap().to_owned();
    site.world.gateway.wait_log(&[" access ", &id]).await;
    let rest = visitor.closed_within(SOON).await;
    assert!(
        rest.is_empty(),
        "{what}: one answer only: {:?}",
        String::from_utf8_lossy(&rest)
    );
    let seen = site.app.requests().split_off(before);
    assert!(seen.is_empty(), "{what} reached the app: {seen:?}");
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n{body}")
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: blog.test\r\n\r\n";

#[tokio::test]
async fn two_framings_are_refused() {
    let site = Site::start().await;
    let chunked = "Transfer-Encoding: chunked\r\n";
    let cases = [
        ("CL.TE", format!("Content-Length: 6\r\n{chunked}")),
        ("TE.CL", format!("{chunked}Content-Length: 6\r\n")),
        ("two TE", format!("{chunked}{chunked}")),
        (
            "TE identity, then chunked",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n".into(),
        ),
        (
            "chunked not last",
            "Transfer-Encoding: chunked, gzip\r\n".into(),
        ),
        (
            "chunked twice",
            "Transfer-Encoding: chunked, chunked\r\n".into(),
        ),
        ("xchunked", "Transfer-Encoding: xchunked\r\n".into()),
        (
            "space before the colon",
            "Transfer-Encoding : chunked\r\n".into(),
        ),
        ("vertical tab", "Transfer-Encoding: \u{b}chunked\r\n".into()),
        ("quoted", "Transfer-Encoding: \"chunked\"\r\n".into()),
        ("folded", "Transfer-Encoding:\r\n chunked\r\n".into()),
        (
            "two lengths",
            "Content-Length: 5\r\nContent-Length: 6\r\n".into(),
        ),
        ("two lengths in a list", "Content-Length: 5, 6\r\n".into()),
    ];
    for (what, fields) in cases {
        let body = format!("0\r\n\r\n{SMUGGLED}");
        refused(&site, what, post(&fields, &body), &[400, 501]).await;
    }
    for both in [
        format!("Content-Length: 6\r\n{chunked}"),
        "Content-Length: 5\r\nContent-Length: 6\r\n".into(),
    ] {
        let answer = site.ask("POST", post(&both, "0\r\n\r\n")).await;
        assert_eq!(answer.reason(), "ambiguous-framing", "{both}");
    }
    // Wherever the head stands in what arrives: behind another request in the same segment, behind a body, behind an empty
    // line, and while the request before it is in hand.
    let bad = post(&format!("Content-Length: 6\r\n{chunked}"), "0\r\n\r\nG");
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for (what, before, later) in [
        ("behind a request", get("/hello"), false),
        (
            "behind a body",
            post("Content-Length: 5\r\n", "hello"),
            false,
        ),
        (
            "behind chunks",
            post(chunked, "5\r\nhello\r\n0\r\n\r\n"),
            false,
        ),
        ("behind empty lines", "\r\n\n\r\n".to_owned(), false),
        ("while another is in hand", get("/slow/300"), true),
    ] {
        let seen = site.app.requests().len();
        let mut visitor = site.visitor().await;
        if later {
            visitor.send(&before).await;
            site.app.wait_request("/slow/300").await;
            visitor.send(&bad).await;
        } else {
            visitor.send(format!("{before}{bad}")).await;
        }
        let rest = visitor.closed_within(SOON).await;
        let text = String::from_utf8_lossy(&rest).into_owned();
        assert!(
            text.contains("tidegate-reason: ambiguous-framing"),
            "{what}: {text}"
        );
        let reached = site.app.requests().len() - seen;
        assert!(reached <= 1, "{what}: {reached} requests reached the app");
    }
    // And one that is clear is served wherever it stands.
    let clear = post(chunked, "5\r\nhello\r\n0\r\n\r\n");
    let mut visitor = site.visitor().await;
    visitor.send(get("/slow/300")).await;
    site.app.wait_request("/slow/300").await;
    visitor.send(format!("{clear}{clear}")).await;
    for method in ["GET", "POST", "POST"] {
        assert_eq!(visitor.answer(method).await.status(), 200, "{method}");
    }
    let old = format!("POST /x HTTP/1.0\r\nHost: {HOST}\r\n{chunked}\r\n0\r\n\r\n{SMUGGLED}");
    refused(&site, "TE in HTTP/1.0", old, &[400, 501]).await;
}

#[tokio::test]
async fn lengths_that_are_no_numbers_are_refused() {
    let site = Site::start().await;
    for length in [
        "+5",
        "-1",
        "0x10",
        "",
        "5 5",
        "1e3",
        "5;",
        "18446744073709551614",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551619",
        "99999999999999999999999999",
        "\u{661}",
        "5\u{b}",
    ] {
        let fields = format!("Content-Length: {length}\r\n");
        refused(&site, &fields, post(&fields, "hello"), &[400, 413]).await;
    }
    for line in site.world.gateway.logged(&[" access "]) {
        assert!(line.contains("reason=malformed-request"), "{line}");
    }
}

#[tokio::test]
async fn broken_chunks_do_not_become_requests() {
    let site = Site::start().await;
    for (what, body) in [
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("negative", "-5\r\nhello\r\n0\r\n\r\n"),
        ("prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("17 digits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("too short", "4\r\nhello\r\n0\r\n\r\n"),
        ("bare LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("bare CR", "5\rhello\r\n0\r\n\r\n"),
        ("space", "5 5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let mut visitor = site.visitor().await;
        let request = post(
            "Transfer-Encoding: chunked\r\n",
            &format!("{body}{SMUGGLED}"),
        );
        visitor.send(request).await;
        // The head was good and may have been passed on; the body is not, so no second request may follow it.
        let rest = visitor.closed_within(SOON).await;
        let text = String::from_utf8_lossy(&rest).into_owned();
        assert!(
            text.is_empty() || text.contains("HTTP/1.1 400") || text.contains("HTTP/1.1 502"),
            "{what}: {text}"
        );
        assert_eq!(site.app.count("/smuggled"), 0, "{what}");
    }
}

/// Ends of a chunked body in which a line does not end with CRLF. A reader that takes LF for a part of a trailer looks for its
/// end in what follows, and so takes another's body for a request.
const BARE: [&str; 9] = [
    "0\r\nX: y\n\r\n",
    "0\r\nX: y\n\n",
    "0\r\n\n",
    "0\r\nX: y\r\n\n",
    "0\r\nX: y\rZ\r\n\r\n",
    "0\n\r\n",
    "0\n\n",
    "1\r\na\n0\r\n\r\n",
    "1;a\nb\r\na\r\n0\r\n\r\n",
];

#[tokio::test]
async fn behind_a_bare_line_end_in_a_body_nothing_is_a_request() {
    let site = Site::start().await;
    let second = format!(
        "POST /second HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
        SMUGGLED.len()
    );
    let reason = "reason=\"malformed-request\"";
    let failed = async || {
        let metrics = site.world.metrics().await;
        metrics.sum("tidegate_requests_failed_total", &[reason])
    };
    for (at, end) in BARE.into_iter().enumerate() {
        let path = format!("/upload?{at}");
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n");
        let mut visitor = site.visitor().await;
        visitor
            .send(format!("{head}\r\n5\r\nhello\r\n{end}{second}"))
            .await;
        let answer = visitor.answer("POST").await;
        assert_eq!(
            (answer.status(), answer.reason()),
            (400, "malformed-request"),
            "{end:?}"
        );
        assert_eq!(visitor.closed_within(SOON).await, b"", "{end:?}");
        let line = [path.as_str(), "status=400", "reason=malformed-request"];
        site.world.gateway.wait_log(&line).await;
        assert_eq!(failed().await, (at + 1) as f64, "{end:?}");
    }
    // One whose answer has begun is cut.
    let mut visitor = site.visitor().await;
    let head = format!("POST /echo HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
    visitor.send(format!("{head}5\r\nhello\r\n")).await;
    assert_eq!(visitor.head().await.status(), 200);
    visitor.send(format!("{}{second}", BARE[0])).await;
    let rest = visitor.closed_within(SOON).await;
    assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1"));
    let line = ["/echo", "status=200", "reason=malformed-request"];
    site.world.gateway.wait_log(&line).await;
    for path in ["/second", "/smuggled"] {
        assert_eq!(site.app.count(path), 0, "{path}");
    }
}

#[tokio::test]
async fn malformed_heads_are_refused() {
    let site = Site::start().await;
    let host = format!("Host: {HOST}\r\n");
    for (what, head) in [
        (
            "an empty name",
            format!("GET / HTTP/1.1\r\n{host}: x\r\n\r\n"),
        ),
        (
            "space in a name",
            format!("GET / HTTP/1.1\r\n{host}X Y: z\r\n\r\n"),
        ),
        (
            "space before the colon",
            format!("GET / HTTP/1.1\r\n{host}X : z\r\n\r\n"),
        ),
        (
            "a folded value",
            format!("GET / HTTP/1.1\r\n{host}X: a\r\n b\r\n\r\n"),
        ),
        (
            "NUL in a value",
            format!("GET / HTTP/1.1\r\n{host}X: a\0b\r\n\r\n"),
        ),
        (
            "CR in a value",
            format!("GET / HTTP/1.1\r\n{host}X: a\rb\r\n\r\n"),
        ),
        (
            "no colon",
            format!("GET / HTTP/1.1\r\n{host}nothing\r\n\r\n"),
        ),
        ("a space first", format!("GET / HTTP/1.1\r\n {host}\r\n")),
        (
            "two spaces in the line",
            format!("GET  / HTTP/1.1\r\n{host}\r\n"),
        ),
        ("version 1.7", format!("GET / HTTP/1.7\r\n{host}\r\n")),
        ("version 2.0", format!("GET / HTTP/2.0\r\n{host}\r\n")),
        ("no version", format!("GET /\r\n{host}\r\n")),
        (
            "a method with brackets",
            format!("G(T / HTTP/1.1\r\n{host}\r\n"),
        ),
        (
            "NUL in the target",
            format!("GET /\0 HTTP/1.1\r\n{host}\r\n"),
        ),
        (
            "LF alone behind the request line",
            format!("GET / HTTP/1.1\n{host}\r\n"),
        ),
        (
            "LF alone behind a field",
            format!("GET / HTTP/1.1\r\nX: a\n{host}\r\n"),
        ),
        (
            "LF alone behind the head",
            format!("GET / HTTP/1.1\r\n{host}\n"),
        ),
        ("not HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned()),
        (
            "a PROXY v1 header",
            format!("PROXY TCP4 9.9.9.9 9.9.9.9 1 2\r\nGET / HTTP/1.1\r\n{host}\r\n"),
        ),
    ] {
        refused(&site, what, head, &[400, 405, 414, 431, 505]).await;
    }
}

#[tokio::test]
async fn what_would_smuggle_is_counted_by_its_form() {
    let site = Site::start().await;
    let chunked = "Transfer-Encoding: chunked\r\n";
    let mut total = 0.0;
    for (form, fields, body) in [
        ("empty-name", ": x\r\n".to_owned(), ""),
        (
            "length-and-coding",
            format!("Content-Length: 5\r\n{chunked}"),
            "0\r\n\r\n",
        ),
        (
            "several-lengths",
            "Content-Length: 5\r\nContent-Length: 6\r\n".to_owned(),
            "hello",
        ),
        (
            "several-codings",
            format!("{chunked}{chunked}"),
            "0\r\n\r\n",
        ),
        (
            "other-coding",
            "Transfer-Encoding: xchunked\r\n".to_owned(),
            "0\r\n\r\n",
        ),
        ("odd-length", "Content-Length: +5\r\n".to_owned(), "hello"),
        ("space-in-name", "X : z\r\n".to_owned(), ""),
        ("folded-line", "X: a\r\n b\r\n".to_owned(), ""),
        ("control-octet", "X: a\0b\r\n".to_owned(), ""),
        ("bare-line-feed", "X: a\n".to_owned(), ""),
        ("chunks", chunked.to_owned(), "0\r\nX: y\n\r\n"),
        ("chunks", chunked.to_owned(), "-5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let refusals = async || {
            let metrics = site.world.metrics().await;
            let label = format!("form=\"{form}\"");
            let of_form = metrics.sum("tidegate_smuggling_refused_total", &[&label]);
            (
                of_form,
                metrics.sum("tidegate_smuggling_refused_total", &[]),
            )
        };
        let (before, _) = refusals().await;
        let mut visitor = site.visitor().await;
        visitor.send(post(&fields, body)).await;
        visitor.closed_within(SOON).await;
        total += 1.0;
        let counted = async || (refusals().await == (before + 1.0, total)).then_some(());
        eventually(SOON, &format!("{form} is counted once"), counted).await;
    }
    // Whom a request is for can be told in two ways as well; the framing is sound, and the connection goes on.
    for second in ["Host: other.test", &format!("Host: {HOST}")] {
        let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{second}\r\n\r\n");
        assert_eq!(site.ask("GET", head).await.reason(), "many-hosts");
        total += 1.0;
    }
    let metrics = site.world.metrics().await;
    let of_form = ["form=\"several-hosts\""];
    let hosts = metrics.sum("tidegate_smuggling_refused_total", &of_form);
    assert_eq!(hosts, 2.0);
    // What is only wrong is not one of them.
    let answer = site.ask("GET", "GET  / HTTP/1.1\r\n\r\n").await;
    assert_eq!(answer.status(), 400);
    let metrics = site.world.metrics().await;
    assert_eq!(metrics.sum("tidegate_smuggling_refused_total", &[]), total);
}

/// What is sent ahead of its turn is refused in its turn, and the answer before it is whole.
#[tokio::test]
async fn a_malformed_head_behind_a_request_is_refused_after_its_answer() {
    let site = Site::start().await;
    for path in ["/hello", "/size/300000"] {
        let mut visitor = site.visitor().await;
        let first = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        visitor
            .send(format!("{first}GET  / HTTP/1.1\r\n\r\n"))
            .await;
        let answer = visitor.answer("GET").await;
        assert_eq!(
            (answer.status(), answer.cut.is_none()),
            (200, true),
            "{path}"
        );
        let refusal = visitor.answer("GET").await;
        assert_eq!(
            (refusal.status(), refusal.reason()),
            (400, "malformed-request")
        );
        assert_eq!(refusal.text(), "The request is not well-formed HTTP.\n");
        assert!(visitor.closed_within(SOON).await.is_empty());
    }
}

/// These are well framed, so that the connection may go on; the app does not see them.
#[tokio::test]
async fn odd_targets_are_refused() {
    let site = Site::start().await;
    for target in [
        "x",
        "*",
        "x/y",
        "http://",
        "http:///x",
        "ftp://blog.test/",
        HOST,
        "blog.test:80",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        assert_eq!(site.ask("GET", request).await.status(), 400, "{target}");
    }
    assert_eq!(site.app.requests().len(), 0);
    // What is no target at all is told as it came.
    let request = format!("GET /<b> HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    assert_eq!(site.ask("GET", request).await.status(), 400);
    let told = [" access ", "\"GET /<b> HTTP/1.1\"", "status=400"];
    site.world.gateway.wait_log(&told).await;
    // The asterisk is OPTIONS's own (RFC 9112 §3.2.4).
    let request = format!("OPTIONS * HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    assert_eq!(site.ask("OPTIONS", request).await.status(), 200);
    assert_eq!(site.app.last_request().target(), "*");
}

#[tokio::test]
async fn connect_and_trace_do_not_make_a_proxy() {
    let site = Site::start().await;
    let connect = "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n";
    let answer = site.ask("GET", connect).await;
    assert!(matches!(answer.status(), 400 | 405), "{}", answer.status());
    let connect = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n");
    let answer = site.ask("GET", connect).await;
    assert!(matches!(answer.status(), 400 | 405), "{}", answer.status());
    let told = format!("\"CONNECT {HOST}:443 HTTP/1.1\"");
    site.world.gateway.wait_log(&[" access ", &told]).await;
    assert_eq!(site.app.requests().len(), 0);
}

#[tokio::test]
async fn tls_bytes_on_the_clear_port_are_closed() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    visitor
        .send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        .await;
    visitor.half_close().await;
    visitor.closed_within(SOON).await;
    assert_eq!(site.get("/hello").await.status(), 200);
}

#[tokio::test]
async fn bytes_behind_an_upgrade_stay_http_when_it_is_refused() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    let upgrade = format!(
        "GET /status/404 HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    visitor
        .send(format!(
            "{upgrade}GET /hello HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
        ))
        .await;
    assert_eq!(visitor.answer("GET").await.status(), 404);
    assert_eq!(visitor.answer("GET").await.text(), "hello from blog\n");
}

#[tokio::test]
async fn heads_that_are_too_large_are_a_431() {
    let site = Site::start().await;
    let value = "v".repeat(300_000);
    let many: String = (0..1000).map(|n| format!("X-{n}: 1\r\n")).collect();
    let path = "p".repeat(300_000);
    for (what, head) in [
        (
            "a large value",
            format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX: {value}\r\n\r\n"),
        ),
        (
            "1,000 fields",
            format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{many}\r\n"),
        ),
        (
            "a long target",
            format!("GET /{path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        ),
    ] {
        let mut visitor = site.visitor().await;
        // The gateway answers before it has read all: what is still being sent may meet a closed connection.
        let _ = visitor.try_send(head).await;
        if let Ok(answer) = visitor.try_answer("GET").await {
            assert!(
                matches!(answer.status(), 414 | 431),
                "{what}: {}",
                answer.status()
            );
            let reason = answer.reason();
            assert!(
                matches!(reason, "target-too-long" | "head-too-large"),
                "{what}: {reason}"
            );
        }
        assert_eq!(site.app.requests().len(), 0, "{what}");
    }
    let fits = "v".repeat(30_000);
    let head = format!("GET /hello HTTP/1.1\r\nHost: {HOST}\r\nX: {fits}\r\n\r\n");
    assert_eq!(
        site.ask("GET", head).await.status(),
        200,
        "30 KB is not too large"
    );
}

/// Slowloris: silence, half a head, a byte now and then. Each ends with the head's deadline (10 s), all at once here.
#[tokio::test]
async fn heads_that_never_end_are_ended() {
    let world = World::start().await;
    let limit = Duration::from_secs(13);
    let began = Instant::now();
    let stalled = async |bytes: &str| {
        let mut visitor = world.visitor().await;
        visitor.send(bytes).await;
        String::from_utf8_lossy(&visitor.closed_within(limit).await).into_owned()
    };
    let dripping = async {
        let mut visitor = world.visitor().await;
        visitor
            .send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n"))
            .await;
        let mut every = tokio::time::interval(Duration::from_millis(500));
        while began.elapsed() < limit && visitor.try_send("X: y\r\n").await.is_ok() {
            every.tick().await;
        }
        visitor.closed_within(Duration::from_secs(1)).await;
    };
    let tls = async {
        // A TLS handshake that stops after its first bytes.
        let mut visitor = Visitor::connect(world.visitors_tls).await;
        visitor.send(b"\x16\x03\x01\x02\x00\x01").await;
        visitor.closed_within(limit).await;
    };
    let (silent, half, (), ()) = tokio::join!(stalled(""), stalled("GET / HT"), dripping, tls);
    assert!(silent.is_empty() || silent.contains(" 408 "), "{silent}");
    assert!(half.is_empty() || half.contains(" 408 "), "{half}");
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());
}

#[tokio::test]
async fn two_hundred_slow_visitors_keep_nobody_out() {
    let site = Site::start().await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut visitor = site.visitor().await;
        visitor
            .send(format!(
                "POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n"
            ))
            .await;
        slow.push(visitor);
    }
    site.answers_at_once("beside 200 slow visitors").await;
}
