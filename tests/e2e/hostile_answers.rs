//! What a hostile agent says in the place of an answer, or as its last word: the visitor gets a reason or an end, never an answer
//! that looks whole, and the log stays its owner's (issue §6, `reliability.md` §2.2, response side).

use std::time::Duration;

use tidegate_tests::eventually::SOON;
use tidegate_tests::http1::Framing;
use tidegate_tests::peers::frame::{Frame, code, kind};
use tidegate_tests::peers::{Event, field, hpack};
use tidegate_tests::task::spawn;
use tidegate_tests::visitors::http1::try_get;
use tidegate_tests::visitors::{Answer, H2Visitor, Visitor};
use tidegate_tests::{World, within};

/// The name of the hostile agent.
const EVIL: &str = "evil.test";

type RawFields = Vec<(&'static [u8], &'static [u8])>;

/// Heads that no gateway may pass on: the visitor gets a 502 or an end, never the injected bytes.
#[tokio::test]
async fn malformed_heads_do_not_reach_the_visitor() {
    let world = World::builder().option("--hold", "0s").start().await;
    let ok = (&b":status"[..], &b"200"[..]);
    let heads: Vec<(&str, RawFields)> = vec![
        (
            "CRLF in a value",
            vec![ok, (b"x", b"a\r\nSet-Cookie: owned=1")],
        ),
        ("LF in a value", vec![ok, (b"x", b"a\nSet-Cookie: owned=1")]),
        ("NUL in a value", vec![ok, (b"x", b"a\0owned")]),
        (
            "CRLF in a name",
            vec![ok, (b"x: 1\r\nSet-Cookie", b"owned=1")],
        ),
        ("colon in a name", vec![ok, (b"set-cookie: owned", b"1")]),
        ("an empty name", vec![ok, (b"", b"owned")]),
        ("an upper-case name", vec![ok, (b"Set-Cookie", b"owned=1")]),
        ("no status", vec![(b"x", b"owned")]),
        ("status 99", vec![(b":status", b"99"), (b"x", b"owned")]),
        (
            "status of words",
            vec![(b":status", b"200 OK"), (b"x", b"owned")],
        ),
        (
            "two statuses",
            vec![ok, (b":status", b"404"), (b"x", b"owned")],
        ),
        ("an unknown pseudo-field", vec![ok, (b":owned", b"1")]),
        ("a request's pseudo-field", vec![ok, (b":path", b"/owned")]),
        ("a pseudo-field after a field", vec![(b"x", b"owned"), ok]),
        (
            "101 that nobody asked for",
            vec![(b":status", b"101"), (b"x", b"owned")],
        ),
        (
            "transfer-encoding",
            vec![ok, (b"transfer-encoding", b"chunked"), (b"x", b"owned")],
        ),
        (
            "two lengths",
            vec![
                ok,
                (b"content-length", b"1"),
                (b"content-length", b"2"),
                (b"x", b"owned"),
            ],
        ),
        (
            "a length twice",
            vec![
                ok,
                (b"content-length", b"0"),
                (b"content-length", b"0"),
                (b"x", b"owned"),
            ],
        ),
        (
            "an empty length",
            vec![ok, (b"content-length", b""), (b"x", b"owned")],
        ),
    ];
    for (what, fields) in heads {
        let answer = provoke(&world, |stream| {
            let end = Frame::headers(stream, hpack::encode(&fields), true);
            vec![end]
        })
        .await;
        if let Some(answer) = answer {
            let fields = format!("{:?}", answer.head.fields);
            // h2 drops a pseudo-field that only requests have, and takes the rest as it is.
            let dropped = what == "a request's pseudo-field" && answer.status() == 200;
            // Where the whole connection was ended for it, the GET could have been repeated: nobody was left to take it.
            let left = answer.status() == 503 && answer.reason() == "agent-gone";
            assert!(
                answer.status() == 502 || left || dropped,
                "{what}: {} {fields}",
                answer.status()
            );
            assert!(!fields.contains("owned"), "{what}: {fields}");
            assert_eq!(answer.head.get("set-cookie"), None, "{what}");
        }
    }
}

/// Bodies that do not agree with their length, and ends in the middle, are visible as such.
#[tokio::test]
async fn broken_bodies_are_seen_as_broken() {
    let world = World::builder().option("--hold", "0s").start().await;
    let head = |stream: u32, length: &str| {
        let fields = [(":status", "200"), ("content-length", length)];
        Frame::headers(stream, hpack::encode(&fields), false)
    };
    let answer = provoke(&world, |s| {
        vec![head(s, "10"), Frame::data(s, b"short", true)]
    })
    .await;
    assert!(
        answer.is_none_or(|answer| answer.cut.is_some() || answer.status() == 502),
        "short"
    );
    let answer = provoke(&world, |s| {
        vec![head(s, "2"), Frame::data(s, b"longer", true)]
    })
    .await;
    assert!(
        answer.is_none_or(|answer| answer.text() != "longer"),
        "long"
    );
    let answer = provoke(&world, |s| {
        vec![
            head(s, "10"),
            Frame::data(s, b"short", false),
            Frame::headers(s, hpack::encode(&[("x", "1")]), true),
        ]
    })
    .await;
    assert!(
        answer.is_none_or(|answer| answer.cut.is_some() || answer.status() == 502),
        "trailers"
    );
    let chunked = |stream: u32| {
        let head = Frame::headers(stream, hpack::encode(&[(":status", "200")]), false);
        vec![
            head,
            Frame::data(stream, b"half", false),
            Frame::reset(stream, code::INTERNAL_ERROR),
        ]
    };
    let answer = provoke(&world, chunked).await;
    assert!(
        answer.is_none_or(|answer| answer.cut.is_some() || answer.status() == 502),
        "reset"
    );
}

/// A length that is none, and yet a body: the visitor is told, and the log does not blame him.
#[tokio::test]
async fn a_body_behind_an_empty_length_is_a_bad_response() {
    let world = World::builder().option("--hold", "0s").start().await;
    let answer = provoke(&world, |s| {
        let fields = [(":status", "200"), ("content-length", "")];
        let head = Frame::headers(s, hpack::encode(&fields), false);
        vec![head, Frame::data(s, b"ok", true)]
    })
    .await
    .expect("an answer");
    assert_eq!((answer.status(), answer.reason()), (502, "bad-response"));
    let line = world.gateway.wait_log(&["access", EVIL]).await;
    assert!(line.contains("status=502 reason=bad-response"), "{line}");
}

/// What follows the head of a 204 or a 304 is nobody's (RFC 9110 §15.3.5, §15.4.5): an HTTP/1 visitor would take it for the
/// next answer.
#[tokio::test]
async fn nothing_follows_an_answer_that_has_no_body() {
    const NEXT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nowned";
    let world = World::start().await;
    let mut peer = world.raw_agent(EVIL).await;
    let _agent = spawn(async move {
        while let Ok(event) = peer.event().await {
            let Event::Head { stream, fields, .. } = event else {
                continue;
            };
            let status = field(&fields, ":path").unwrap()[1..4].to_owned();
            let head = Frame::headers(stream, hpack::encode(&[(":status", &status)]), false);
            let frames = [head, Frame::data(stream, NEXT, true)];
            peer.send_all(&frames).await.unwrap();
        }
    });
    let mut http1 = Visitor::connect(world.visitors).await;
    let mut http2 = H2Visitor::connect(world.visitors).await;
    for status in [204, 304, 204] {
        http1.send_get(EVIL, &format!("/{status}?1")).await;
        let answer = http1.answer("GET").await;
        assert_eq!((answer.status(), answer.body.len()), (status, 0));
        let answer = http2.get(EVIL, &format!("/{status}?2")).await;
        assert_eq!(answer.status.as_u16(), status);
        assert!(
            answer.body.is_empty() && answer.cut.is_none(),
            "{status}: {answer:?}"
        );
        for path in [format!("/{status}?1"), format!("/{status}?2")] {
            let line = world.gateway.wait_log(&["access", &path]).await;
            let whole = format!("status={status} reason=- in=0 out=0");
            assert!(line.contains(&whole), "{line}");
        }
    }
}

/// A tunnel that dies in the middle of an answer: not the end of the body, and not silence.
#[tokio::test]
async fn an_agent_that_dies_in_the_middle_is_seen() {
    let world = World::start().await;
    let mut peer = world.raw_agent(EVIL).await;
    let mut visitor = world.visitor().await;
    visitor.send_get(EVIL, "/").await;
    let (stream, _) = peer.head().await;
    peer.send_head(stream, &[(":status", "200")], false).await;
    peer.send(Frame::data(stream, b"half of it", false)).await;
    let head = visitor.head().await;
    assert_eq!(head.status(), 200);
    peer.into_conn().reset();
    let mut framing = Framing::of_answer(&head, "GET").unwrap();
    let rest = within(
        Duration::from_secs(2),
        "an end",
        visitor.reader.body(&mut framing),
    )
    .await;
    assert!(rest.is_err(), "no final chunk: {rest:?}");
}

/// What an agent says last is shown to operators and visitors: as text, on one line, and not at any length.
#[tokio::test]
async fn a_farewell_writes_no_lines_and_steers_no_terminal() {
    const SAID: &[u8] = b"bye\r\n2026-11-21T00:00:00Z access forged \x1b[31m<b>\xe2\x80\xae\xff\0";
    let world = World::builder().option("--hold", "0s").start().await;
    for error in [code::NO_ERROR, code::INTERNAL_ERROR] {
        let mut peer = world.raw_agent(EVIL).await;
        let payload = [&0_u32.to_be_bytes()[..], &error.to_be_bytes(), SAID].concat();
        peer.send(Frame::new(kind::GOAWAY, 0, 0, payload)).await;
        world.wait_filed(EVIL, 0, SOON).await;
        let page = world.get(EVIL, "/").await;
        assert_eq!((page.status(), page.reason()), (503, "agent-gone"));
        let text = page.text();
        assert!(
            text.contains("bye\\r\\n2026") && text.contains("forged"),
            "{text:?}"
        );
        let steers = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!text.trim_end_matches('\n').contains(steers), "{text:?}");
        let line = world.gateway.wait_log(&["gone", "bye"]).await;
        assert!(line.contains("forged"), "all on one line: {line:?}");
    }
    for line in world.gateway.log() {
        assert!(!line.starts_with("2026-11-21T00:00:00Z"), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

/// One GET to a hostile agent that answers it with these frames and then closes the tunnel.
async fn provoke(world: &World, frames: impl Fn(u32) -> Vec<Frame>) -> Option<Answer> {
    let mut peer = world.raw_agent(EVIL).await;
    let visitor = try_get(world.visitors, EVIL, "/", Duration::from_secs(8));
    let agent = async {
        let (stream, _) = peer.head().await;
        let _ = peer.send_all(&frames(stream)).await;
        // A tunnel with an open stream would be asked again: it is the answer to this one that counts.
        let _ = peer
            .write(&Frame::goaway(stream, code::NO_ERROR).encode())
            .await;
        while peer.event().await.is_ok() {}
    };
    let (answer, ()) = within(SOON * 2, "the answer and the end of the tunnel", async {
        tokio::join!(visitor, agent)
    })
    .await;
    world.wait_filed(EVIL, 0, SOON).await;
    answer.ok()
}
