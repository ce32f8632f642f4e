//! Apps whose answers are not what a well-behaved app says: the visitor gets all of an answer, or a reason.

use tidegate_tests::World;
use tidegate_tests::apps::RawApp;
use tidegate_tests::visitors::H2Visitor;

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
