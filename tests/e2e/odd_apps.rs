//! Apps whose answers are not what a well-behaved app says: the visitor gets all of an answer, or a reason.

use tidegate_tests::apps::{AbsentApp, H2cApp, RawApp};
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::peers::frame::Frame;
use tidegate_tests::visitors::H2Visitor;
use tidegate_tests::{HOST, World};

/// What an app says, and what the visitor is to see of it: a status, and the body or the reason.
type Case = (&'static str, u16, &'static str);

#[tokio::test]
async fn an_answer_whose_length_is_in_doubt_is_refused_with_a_reason() {
    const REFUSED: &str = "app-invalid-response";
    let cases: [Case; 15] = [
        // RFC 9112 §6.3: both is an error, whichever of them is right.
        (
            "200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            502,
            REFUSED,
        ),
        (
            "200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            502,
            REFUSED,
        ),
        (
            "200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            502,
            REFUSED,
        ),
        // A coding that was never asked for: without its name the visitor would take it for the content.
        (
            "200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            502,
            REFUSED,
        ),
        (
            "200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
            502,
            REFUSED,
        ),
        (
            "200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nhello",
            502,
            REFUSED,
        ),
        (
            "200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
            502,
            REFUSED,
        ),
        (
            "200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            502,
            REFUSED,
        ),
        (
            "200 OK\r\nContent-Length: 5\r\nContent-Length: 4\r\n\r\nhello",
            502,
            REFUSED,
        ),
        ("200 OK\r\nContent-Length: 5, 4\r\n\r\nhello", 502, REFUSED),
        ("200 OK\r\nContent-Length: +5\r\n\r\nhello", 502, REFUSED),
        ("200 OK\r\nContent-Length: five\r\n\r\nhello", 502, REFUSED),
        // The same length twice is one length (RFC 9112 §6.3).
        (
            "200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            200,
            "hello",
        ),
        ("200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", 200, "hello"),
        (
            "200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            200,
            "hello",
        ),
    ];
    check(&cases).await;
}

#[tokio::test]
async fn answers_without_a_body_may_say_what_they_like_of_its_length() {
    check(&[
        ("204 No Content\r\nContent-Length: 5\r\n\r\n", 204, ""),
        ("304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, ""),
        (
            "103 Early Hints\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            200,
            "hello",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_change_of_protocol_that_nobody_asked_for_is_refused_with_a_reason() {
    check(&[(
        "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nhello",
        502,
        "app-invalid-response",
    )])
    .await;
}

/// What a 304 says of the length is about the content that it stands for (RFC 9110 §8.6); a 204 has none to speak of.
#[tokio::test]
async fn the_length_that_a_304_tells_arrives_and_that_of_a_204_does_not() {
    let world = World::start().await;
    for (line, expected) in [("304 Not Modified", Some("5")), ("204 No Content", None)] {
        let name = format!("app{}.test", &line[..3]);
        let wire = format!("HTTP/1.1 {line}\r\nContent-Length: 5\r\n\r\n");
        let app = RawApp::answering(wire, false).await;
        let _agent = world.agent(&name, &app.target()).await;
        let mut kept = world.visitor().await;
        for method in ["GET", "HEAD", "GET"] {
            let request = format!("{method} / HTTP/1.1\r\nHost: {name}\r\n\r\n");
            kept.send(request).await;
            let answer = kept.answer(method).await;
            assert_eq!(
                (answer.head.get("content-length"), answer.cut.is_none()),
                (expected, true),
                "{method} {line}: {:?}",
                answer.head
            );
        }
        let mut visitor = H2Visitor::connect(world.visitors).await;
        let answer = visitor.get(&name, "/").await;
        let seen = answer.fields.get("content-length");
        assert_eq!(
            seen.and_then(|length| length.to_str().ok()),
            expected,
            "{line}"
        );
    }
}

#[tokio::test]
async fn the_page_about_an_absent_app_is_the_gateways_and_has_the_requests_id() {
    let world = World::start().await;
    let app = AbsentApp::new();
    let target = format!("http://{}", app.address());
    let _agent = world.agent(HOST, &target).await;
    let text = world.get(HOST, "/text").await;
    let id = text.head.get("tidegate-request-id").unwrap().to_owned();
    assert_eq!((text.status(), text.reason()), (502, "app-unreachable"));
    assert_eq!(
        text.text(),
        "The agent of this name is connected, its app is not. \
         The agent says: the app cannot be reached: connection refused.\n"
    );
    assert_eq!(text.head.get("tidegate-detail"), None);
    let line = world.gateway.wait_log(&[id.as_str()]).await;
    assert!(
        line.contains(" status=502 reason=app-unreachable "),
        "{line}"
    );

    let mut visitor = world.visitor().await;
    // On one connection, which a failure of the app is no reason to close.
    for _ in 0..2 {
        visitor.send_browser_get(HOST, "/page").await;
        let page = visitor.answer("GET").await;
        let id = page.head.get("tidegate-request-id").unwrap().to_owned();
        assert_eq!(
            page.head.get("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert!(
            page.text().contains(&format!("request <code>{id}</code>")),
            "{}",
            page.text()
        );
    }
    let mut visitor = H2Visitor::connect(world.visitors).await;
    let page = visitor.get(HOST, "/").await;
    assert_eq!(page.status, 502);
    assert!(page.field("tidegate-request-id").len() > 3);
}

#[tokio::test]
async fn an_agent_cannot_write_into_the_page() {
    let world = World::start().await;
    let mut agent = world.raw_agent(HOST).await;
    let mut visitor = world.visitor().await;
    visitor.send_browser_get(HOST, "/").await;
    let (stream, _) = agent.head().await;
    let fields = [
        (":status", "502"),
        ("content-type", "text/html"),
        ("set-cookie", "a=b"),
        ("tidegate-reason", "app-unreachable"),
        ("tidegate-detail", "<script>one</script>"),
    ];
    agent.send_head(stream, &fields, false).await;
    agent
        .send(Frame::data(stream, b"<script>two</script>", true))
        .await;
    let page = visitor.answer("GET").await;
    let text = page.text();
    assert_eq!(page.reason(), "app-unreachable");
    assert!(text.contains("&lt;script&gt;one&lt;/script&gt;"), "{text}");
    assert!(!text.contains("<script>"), "{text}");
    assert_eq!(page.head.get("set-cookie"), None);
}

#[tokio::test]
async fn an_apps_own_502_is_the_apps_whatever_it_says_of_itself() {
    let world = World::start().await;
    for (at, (status, fields)) in [
        ("200 OK", "Tidegate-Reason: app-unreachable\r\n"),
        // As behind a gateway of ours that is an app itself: its page is not ours.
        ("502 Bad Gateway", "Tidegate-Reason: app-unreachable\r\n"),
        (
            "502 Bad Gateway",
            "Tidegate-Reason: app-unreachable\r\nTidegate-Detail: forged\r\nTidegate-Status: 200\r\n",
        ),
        (
            "504 Gateway Timeout",
            "Tidegate-Reason: app-timeout\r\nTidegate-Detail: forged\r\n",
        ),
        ("200 OK", "Tidegate-Detail: forged\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("odd{at}.example.com");
        let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nTidegate-Detail: forged\r\n\r\n";
        let wire = format!("{hint}HTTP/1.1 {status}\r\n{fields}Content-Length: 4\r\n\r\nmine");
        let app = RawApp::answering(wire, false).await;
        let _agent = world.agent(&name, &app.target()).await;
        let mut visitor = world.visitor().await;
        // An app may ignore an upgrade, and its answer comes another way.
        for upgrade in ["", "Connection: Upgrade\r\nUpgrade: foo\r\n"] {
            visitor
                .send(format!("GET / HTTP/1.1\r\nHost: {name}\r\n{upgrade}\r\n"))
                .await;
            let early = visitor.head().await;
            assert_eq!((early.status(), early.get("tidegate-detail")), (103, None));
            let answer = visitor.answer("GET").await;
            let seen = format!("{} {}", answer.status(), answer.text());
            assert_eq!(seen, format!("{} mine", &status[..3]), "{fields}{upgrade}");
            assert_eq!(answer.head.get("tidegate-detail"), None, "{fields}{upgrade}");
        }
        // Nor does it write into the log.
        let lines = eventually(SOON, "both requests are in the log", async || {
            let lines = world.gateway.logged(&[" access ", &format!("name={name} ")]);
            (lines.len() == 2).then_some(lines)
        })
        .await;
        assert!(lines.iter().all(|line| line.contains(" reason=- ")), "{lines:?}");
    }
    let app = H2cApp::start().await;
    let _agent = world.agent_with(HOST, &app.target(), &["--h2"]).await;
    let answer = world.get(HOST, "/test.Echo/Forge").await;
    assert_eq!((answer.status(), answer.text().as_str()), (502, "mine"));
    assert_eq!(answer.head.get("tidegate-detail"), None);
}

#[tokio::test]
async fn what_an_agent_says_beside_the_page_is_bounded_and_stays_between_it_and_the_gateway() {
    let world = World::start().await;
    let mut agent = world.raw_agent(HOST).await;
    let mut visitor = world.visitor().await;
    let long = "<".repeat(9_000);
    for (status, reason, detail, page) in [
        ("502", "app-closed", long.as_bytes(), true),
        ("502", "app-closed", b"not \xff text", true),
        // Not an agent's, or not with this status: passed as an app's.
        ("502", "no-such-name", b"x", false),
        ("500", "app-closed", b"x", false),
        ("200", "app-closed", b"x", false),
        ("404", "", b"x", false),
    ] {
        visitor.send_get(HOST, "/").await;
        let (stream, _) = agent.head().await;
        let early: [(&str, &[u8]); 2] = [(":status", b"103"), ("tidegate-detail", b"x")];
        agent.send_head(stream, &early, false).await;
        let fields: [(&str, &[u8]); 3] = [
            (":status", status.as_bytes()),
            ("tidegate-reason", reason.as_bytes()),
            ("tidegate-detail", detail),
        ];
        agent.send_head(stream, &fields, false).await;
        agent.send(Frame::data(stream, b"its own", true)).await;
        assert_eq!(visitor.head().await.get("tidegate-detail"), None);
        let answer = visitor.answer("GET").await;
        assert_eq!(answer.status().to_string(), status);
        assert_eq!(
            answer.head.get("tidegate-detail"),
            None,
            "{status} {reason}"
        );
        assert_eq!(answer.text() != "its own", page, "{status} {reason}");
        assert!(answer.text().len() < 700, "{}", answer.text().len());
    }
    let mut browser = world.visitor().await;
    browser.send_browser_get(HOST, "/").await;
    let (stream, _) = agent.head().await;
    let fields = [
        (":status", "502"),
        ("tidegate-reason", "app-closed"),
        ("tidegate-detail", long.as_str()),
    ];
    agent.send_head(stream, &fields, true).await;
    let text = browser.answer("GET").await.text();
    assert_eq!(text.matches("&lt;").count(), 500, "{text}");
}

/// Asks each app twice, so that what one answer leaves behind would be seen in the next.
async fn check(cases: &[Case]) {
    let world = World::start().await;
    for (number, (wire, status, expected)) in cases.iter().enumerate() {
        for close in [true, false] {
            let name = format!("app{number}-{close}.test");
            let app = RawApp::answering(format!("HTTP/1.1 {wire}"), close).await;
            let _agent = world.agent(&name, &app.target()).await;
            for _ in 0..2 {
                let answer = world.get(&name, "/").await;
                let seen = if answer.status() == 502 {
                    answer.reason().to_owned()
                } else {
                    answer.text()
                };
                let told = (answer.status(), seen.as_str(), answer.cut.is_none());
                assert_eq!(
                    told,
                    (*status, *expected, true),
                    "{wire:?}: {:?}",
                    answer.head
                );
            }
        }
    }
}
