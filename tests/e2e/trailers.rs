//! Trailers that would frame or route a message (RFC 9110 §6.5.1) stop at the tunnel, whoever sends them and in whichever
//! version, and what may be a trailer passes, announced in the head or not.

use tidegate_tests::apps::RawApp;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::http1::Head;
use tidegate_tests::peers::frame::{Frame, PREFACE, code, flag, kind};
use tidegate_tests::peers::hpack::{self, Fields};
use tidegate_tests::peers::{Event, Peer};
use tidegate_tests::task::spawn;
use tidegate_tests::visitors::{Answer, H2Visitor, Visitor};
use tidegate_tests::{HOST, Site, World, within};

/// What no trailer may be.
const FORBIDDEN: [(&str, &str); 6] = [
    ("content-length", "3"),
    ("host", "evil.test"),
    ("transfer-encoding", "chunked"),
    ("te", "trailers"),
    ("connection", "x-sum"),
    ("trailer", "x-sum"),
];

const FINE: (&str, &str) = ("x-sum", "fine");

/// The trailers of one case: what is forbidden, beside what is not. `Connection` would have its neighbour removed.
fn trailers(forbidden: (&'static str, &'static str)) -> Vec<(&'static str, &'static str)> {
    vec![forbidden, FINE]
}

fn lines(fields: &[(&str, &str)]) -> String {
    let line = |(name, value): &(&str, &str)| format!("{name}: {value}\r\n");
    fields.iter().map(line).collect()
}

/// No trailer but the fine one, and that unless `Connection` named it.
fn check(case: &str, seen: &[(String, String)]) {
    for (name, value) in seen {
        assert_eq!(
            (name.to_ascii_lowercase().as_str(), value.as_str()),
            FINE,
            "{case}: {seen:?}"
        );
    }
    assert!(
        seen.len() == 1 || case.starts_with("connection"),
        "{case}: {seen:?}"
    );
}

fn check_request(case: &str, head: &Head) {
    assert_eq!(head.get("host"), Some(HOST), "{case}");
    assert_eq!(head.get("content-length"), None, "{case}");
    assert_eq!(head.get("x-sum"), None, "{case}: in the head");
}

#[tokio::test]
async fn an_http1_visitors_trailers() {
    let site = Site::start().await;
    for forbidden in FORBIDDEN {
        let mut visitor = site.visitor().await;
        visitor
            .send(format!(
                "POST /echo HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nConnection: TE\r\n\
                 Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                 5\r\nhello\r\n0\r\n{}\r\n",
                lines(&trailers(forbidden))
            ))
            .await;
        let answer = visitor.answer("POST").await;
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, "hello"),
            "{forbidden:?}"
        );
        check(forbidden.0, &answer.trailers);
        check_request(forbidden.0, &site.app.last_request());
        // What follows on the connection is another request and nothing else.
        visitor.send_get(HOST, "/hello").await;
        assert_eq!(visitor.answer("GET").await.text(), "hello from blog\n");
    }
    assert_eq!(site.app.requests().len(), 2 * FORBIDDEN.len());
}

/// RFC 9113 §8.2.2 and §8.1: a request with such trailers is malformed, or they are ignored; the connection lives on.
#[tokio::test]
async fn an_http2_visitors_trailers() {
    let site = Site::start().await;
    let mut peer = Peer::over(Conn::plain(site.world.visitors).await.unwrap());
    let opening = [PREFACE.as_slice(), &Frame::settings(&[]).encode()].concat();
    peer.write(&opening).await.unwrap();
    for (number, forbidden) in (0..).zip(FORBIDDEN) {
        let stream = 4 * number + 1;
        let head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", HOST),
            (":path", "/echo"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
        ];
        peer.send_head(stream, &head, false).await;
        peer.send(Frame::data(stream, b"hello", false)).await;
        peer.send_head(stream, &trailers(forbidden), true).await;
        if let Some((body, seen)) = whole_or_reset(&mut peer, stream).await {
            assert_eq!(body, b"hello", "{forbidden:?}");
            check(forbidden.0, &seen);
            check_request(forbidden.0, &site.app.last_request());
        }
        let get = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", HOST),
            (":path", "/hello"),
        ];
        peer.send_head(stream + 2, &get, true).await;
        let (body, _) = whole_or_reset(&mut peer, stream + 2).await.unwrap();
        assert_eq!(body, b"hello from blog\n", "{forbidden:?}");
    }
}

/// Body and trailers of a stream that ended properly; `None` for one that was reset or refused with a status.
async fn whole_or_reset(peer: &mut Peer, stream: u32) -> Option<(Vec<u8>, Fields)> {
    within(SOON, "the end of a stream", async {
        let (mut body, mut head) = (Vec::new(), None);
        loop {
            match peer.event().await.unwrap() {
                Event::Head {
                    stream: on,
                    fields,
                    end,
                } if on == stream => match head {
                    None if end => return None,
                    None => head = Some(fields),
                    Some(_) => return Some((body, fields)),
                },
                Event::Frame(frame) if frame.stream == stream && frame.kind == kind::DATA => {
                    body.extend(&frame.payload);
                    if frame.has(flag::END_STREAM) {
                        return Some((body, Fields::new()));
                    }
                }
                Event::Frame(frame) if frame.stream == stream && frame.kind == kind::RST_STREAM => {
                    assert_eq!(frame.code(), code::PROTOCOL_ERROR);
                    return None;
                }
                Event::Frame(frame) => assert_ne!(frame.kind, kind::GOAWAY, "{frame:?}"),
                Event::Head { .. } => {}
            }
        }
    })
    .await
}

/// Both kinds of visitor ask, twice on one connection.
async fn ask_twice(world: &World) -> Vec<(Option<Answer>, Vec<(String, String)>)> {
    let mut seen = Vec::new();
    let mut visitor = Visitor::connect(world.visitors).await;
    for _ in 0..2 {
        visitor
            .send(format!(
                "GET / HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nConnection: TE\r\n\r\n"
            ))
            .await;
        let mut answer = visitor.answer("GET").await;
        let trailers = std::mem::take(&mut answer.trailers);
        seen.push((Some(answer), trailers));
    }
    let mut visitor = H2Visitor::connect(world.visitors).await;
    for _ in 0..2 {
        let answer = visitor.get(HOST, "/").await;
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (200, "hello")
        );
        assert_eq!(answer.field("content-length"), "");
        let trailers = answer.trailers.unwrap_or_default();
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        let fields = trailers.iter();
        seen.push((
            None,
            fields
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
        ));
    }
    seen
}

#[tokio::test]
async fn an_http1_apps_trailers() {
    let world = World::start().await;
    for (number, forbidden) in (0..).zip(FORBIDDEN) {
        let announced = ["Trailer: X-Sum\r\n", ""][number % 2];
        let app = RawApp::answering(
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{announced}\r\n\
                 5\r\nhello\r\n0\r\n{}\r\n",
                lines(&trailers(forbidden))
            ),
            false,
        )
        .await;
        let mut agent = world.agent(HOST, &app.target()).await;
        for (answer, seen) in ask_twice(&world).await {
            if let Some(answer) = answer {
                assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
                assert_eq!(answer.head.get("content-length"), None);
            }
            check(forbidden.0, &seen);
        }
        agent.kill().await;
        world.wait_filed(HOST, 0, SOON).await;
    }
}

/// An app, or a foreign agent, that speaks frames: answers every request with `hello` and these trailers.
async fn answer_all(mut peer: Peer, trailers: Vec<(&'static str, &'static str)>) {
    while let Ok(event) = peer.event().await {
        if let Event::Head { stream, .. } = event {
            let head = hpack::encode(&[(":status", "200"), ("trailer", "x-sum")]);
            let frames = [
                Frame::headers(stream, head, false),
                Frame::data(stream, b"hello", false),
                Frame::headers(stream, hpack::encode(&trailers), true),
            ];
            if peer.send_all(&frames).await.is_err() {
                return;
            }
        }
    }
}

/// What only HTTP/1 has is an error in HTTP/2, and the visitor may see that; the rest must not come through.
const FIT_FOR_HTTP2: [(&str, &str); 3] = [FORBIDDEN[0], FORBIDDEN[1], FORBIDDEN[5]];

#[tokio::test]
async fn a_foreign_agents_trailers() {
    let world = World::start().await;
    for forbidden in FIT_FOR_HTTP2 {
        let peer = world.raw_agent(HOST).await;
        let agent = spawn(answer_all(peer, trailers(forbidden)));
        for (answer, seen) in ask_twice(&world).await {
            if let Some(answer) = answer {
                assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
                assert_eq!(answer.head.get("content-length"), None);
            }
            check(forbidden.0, &seen);
        }
        drop(agent);
        world.wait_filed(HOST, 0, SOON).await;
    }
}

#[tokio::test]
async fn an_http2_apps_trailers() {
    let world = World::start().await;
    for forbidden in FIT_FOR_HTTP2 {
        let app = RawApp::start(move |mut reader| async move {
            if reader.exactly(PREFACE.len()).await.is_err() {
                return;
            }
            // The preface and the SETTINGS behind it come in one piece: the peer goes on with the same reader.
            let mut peer = Peer::on(reader);
            peer.send(Frame::settings(&[])).await;
            answer_all(peer, trailers(forbidden)).await;
        })
        .await;
        let mut agent = world.agent_with(HOST, &app.target(), &["--h2"]).await;
        for (answer, seen) in ask_twice(&world).await {
            if let Some(answer) = answer {
                assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
                assert_eq!(answer.head.get("content-length"), None);
            }
            check(forbidden.0, &seen);
        }
        agent.kill().await;
        world.wait_filed(HOST, 0, SOON).await;
    }
}
