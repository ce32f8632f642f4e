//! A hostile agent hurts only its own names (issue §6, `reliability.md` §2.1, §2.2 response side, §2.5).

use std::time::{Duration, Instant};

use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::peers::agent::RawAgent;
use tidegate_tests::peers::frame::{Frame, PREFACE, code, flag, kind, setting};
use tidegate_tests::peers::{Peer, hpack};
use tidegate_tests::visitors::Answer;
use tidegate_tests::visitors::http1::try_get;
use tidegate_tests::{HOST, Site, World, within};

/// The name of the hostile agent. The site of [`Site`] is the other one.
const EVIL: &str = "evil.test";

/// A good site, and a tunnel of a hostile agent beside it.
struct Scene {
    site: Site,
    peer: Peer,
    memory: u64,
}

impl Scene {
    async fn start() -> Self {
        let site = Site::start().await;
        let identity = site.world.pki.agent(&[EVIL]);
        let peer = RawAgent::dial(site.world.tunnels, &site.world.pki, &identity).await;
        site.world.wait_filed(EVIL, 1, SOON).await;
        let memory = site.world.gateway.resident_kib();
        Self { site, peer, memory }
    }

    fn world(&self) -> &World {
        &self.site.world
    }

    /// Sends a visitor to the hostile agent and returns the stream of his request.
    async fn lure(&mut self) -> (u32, tidegate_tests::task::Task) {
        let visitors = self.world().visitors;
        let task = tidegate_tests::task::spawn(async move {
            let _ = try_get(visitors, EVIL, "/lure", Duration::from_secs(20)).await;
        });
        (self.peer.head().await.0, task)
    }

    /// Writes `frames` over and over until `bytes` have gone or the gateway closes; other visitors are served meanwhile.
    async fn flood(&mut self, frames: &[Frame], bytes: usize) {
        let wire: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let rounds = bytes / wire.len() + 1;
        let Self { site, peer, .. } = self;
        let attack = async {
            for _ in 0..rounds {
                let sent = tokio::time::timeout(Duration::from_secs(3), peer.write(&wire)).await;
                // An error is a closed tunnel; a timeout is a gateway that does not read on. Both are an end.
                if !matches!(sent, Ok(Ok(()))) {
                    break;
                }
            }
        };
        tokio::select! {
            () = attack => {}
            () = others_are_served(site) => {}
        }
    }

    /// The good site is answered as ever, and the gateway has not grown beyond 64 MiB.
    async fn nobody_else_noticed(&self, what: &str) {
        for _ in 0..10 {
            let began = Instant::now();
            assert_eq!(self.site.get("/hello").await.status(), 200, "{what}");
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "{what}: {:?}",
                began.elapsed()
            );
        }
        let grown = self
            .world()
            .gateway
            .resident_kib()
            .saturating_sub(self.memory);
        assert!(grown < 64 * 1024, "{what}: {grown} KiB more");
    }
}

/// Asks the good site without end; fails the test when one answer takes over a second.
async fn others_are_served(site: &Site) {
    loop {
        let began = Instant::now();
        assert_eq!(site.get("/hello").await.status(), 200);
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
    }
}

fn continuations(payload: usize) -> Vec<Frame> {
    (0..1000)
        .map(|_| Frame::new(kind::CONTINUATION, 0, 1, vec![0; payload]))
        .collect()
}

#[tokio::test]
async fn endless_field_blocks_end_the_tunnel() {
    for payload in [0, 1, 16_000] {
        let mut scene = Scene::start().await;
        let (stream, _visitor) = scene.lure().await;
        let block = hpack::encode(&[(":status", "200")]);
        scene
            .peer
            .send(Frame::new(kind::HEADERS, 0, stream, block))
            .await;
        scene.flood(&continuations(payload), 4 << 20).await;
        scene.world().wait_filed(EVIL, 0, SOON).await;
        scene
            .nobody_else_noticed(&format!("CONTINUATION of {payload} bytes"))
            .await;
    }
}

#[tokio::test]
async fn floods_of_control_frames_hurt_nobody_else() {
    let floods = [
        ("PING", vec![Frame::ping([7; 8], false); 100]),
        ("SETTINGS", vec![RawAgent::settings(); 100]),
        ("WINDOW_UPDATE", vec![Frame::window(0, 1); 100]),
        ("PRIORITY", vec![Frame::new(2, 0, 1, [0, 0, 0, 0, 16]); 100]),
        ("unknown", vec![Frame::new(0xbb, 0, 0, vec![1; 100]); 100]),
        (
            "RST_STREAM of idle streams",
            vec![Frame::reset(99, code::CANCEL); 100],
        ),
        (
            "GOAWAY",
            vec![Frame::goaway(0x7fff_ffff, code::NO_ERROR); 100],
        ),
    ];
    for (what, frames) in floods {
        let mut scene = Scene::start().await;
        // Nothing that the gateway answers is read.
        scene.flood(&frames, 400_000).await;
        scene.nobody_else_noticed(what).await;
    }
}

#[tokio::test]
async fn data_beyond_the_window_ends_the_tunnel() {
    let mut scene = Scene::start().await;
    let (stream, _visitor) = scene.lure().await;
    scene
        .peer
        .send_head(stream, &[(":status", "200")], false)
        .await;
    let frame = Frame::data(stream, &[b'x'; 16_000], false);
    scene.flood(&[frame], 64 << 20).await;
    scene.nobody_else_noticed("DATA").await;
}

/// Lets twenty visitors who give no window ask the hostile agent, and begins to answer all of them.
async fn stuck(scene: &mut Scene) -> (Vec<u32>, Vec<Peer>) {
    let request = hpack::encode(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", EVIL),
        (":path", "/"),
    ]);
    let opening = [
        PREFACE.as_slice(),
        &Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]).encode(),
        &Frame::headers(1, request, true).encode(),
    ]
    .concat();
    let (mut streams, mut visitors) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let mut visitor = Peer::over(Conn::plain(scene.world().visitors).await.unwrap());
        visitor.write(&opening).await.unwrap();
        visitors.push(visitor);
        let (stream, _) = scene.peer.head().await;
        let ok = [(":status", "200")];
        scene.peer.send_head(stream, &ok, false).await;
        streams.push(stream);
    }
    (streams, visitors)
}

/// What is kept of DATA that nobody reads is bounded by its octets, however it is cut.
#[tokio::test]
async fn one_octet_at_a_time_to_stuck_visitors_is_no_more_than_many_at_once() {
    let mut scene = Scene::start().await;
    let (streams, _stuck) = stuck(&mut scene).await;
    let run = |stream: &u32| vec![Frame::data(*stream, b"z", false); 2000];
    let frames: Vec<Frame> = streams.iter().flat_map(run).collect();
    scene.flood(&frames, 8 << 20).await;
    scene.nobody_else_noticed("runs of one-octet DATA").await;
    assert_eq!(scene.world().filed(EVIL).await, 1, "the tunnel lives");
}

/// Frames that are kept apart are bounded in number.
#[tokio::test]
async fn one_octet_each_to_stuck_visitors_in_turn_ends_the_tunnel() {
    let mut scene = Scene::start().await;
    let (streams, _stuck) = stuck(&mut scene).await;
    let turn = streams
        .iter()
        .map(|stream| Frame::data(*stream, b"z", false));
    let frames: Vec<Frame> = turn.collect();
    scene.flood(&vec![frames; 300].concat(), 8 << 20).await;
    scene.world().wait_filed(EVIL, 0, SOON).await;
    let gone = ["tunnel gone", "ending=\"flood\""];
    scene.world().gateway.wait_log(&gone).await;
    scene.nobody_else_noticed("one-octet DATA in turn").await;
}

#[tokio::test]
async fn an_agent_opens_no_streams_and_pushes_nothing() {
    let request = hpack::encode(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", HOST),
        (":path", "/hello"),
    ]);
    let push = [&2_u32.to_be_bytes()[..], &request].concat();
    let attempts = [
        ("an even stream", Frame::headers(2, request.clone(), true)),
        ("an odd stream", Frame::headers(7, request.clone(), true)),
        (
            "a push",
            Frame::new(kind::PUSH_PROMISE, flag::END_HEADERS, 1, push),
        ),
        ("DATA of no stream", Frame::data(9, b"x", false)),
    ];
    for (what, frame) in attempts {
        let mut scene = Scene::start().await;
        let (_, _visitor) = scene.lure().await;
        scene.peer.send(frame).await;
        let frames = scene.peer.until_closed(SOON).await;
        assert!(
            frames
                .iter()
                .any(|frame| frame.kind == kind::GOAWAY && frame.code() != code::NO_ERROR),
            "{what}: GOAWAY with an error: {frames:?}"
        );
        scene.world().wait_filed(EVIL, 0, SOON).await;
        assert_eq!(
            scene.site.app.requests().len(),
            0,
            "{what}: nobody is asked for it"
        );
        scene.nobody_else_noticed(what).await;
    }
}

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
            assert!(
                answer.status() == 502 || dropped,
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
    let scene = Scene::start().await;
    let visitors = scene.world().visitors;
    let mut peer = scene.peer;
    let _agent = tidegate_tests::task::spawn(async move {
        while let Ok(event) = peer.event().await {
            let tidegate_tests::peers::Event::Head { stream, fields, .. } = event else {
                continue;
            };
            let status = tidegate_tests::peers::field(&fields, ":path").unwrap()[1..4].to_owned();
            let head = Frame::headers(stream, hpack::encode(&[(":status", &status)]), false);
            let frames = [head, Frame::data(stream, NEXT, true)];
            peer.send_all(&frames).await.unwrap();
        }
    });
    let mut http1 = tidegate_tests::visitors::Visitor::connect(visitors).await;
    let mut http2 = tidegate_tests::visitors::H2Visitor::connect(visitors).await;
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
            let gateway = &scene.site.world.gateway;
            let line = gateway.wait_log(&["access", &path]).await;
            let whole = format!("status={status} reason=- in=0 out=0");
            assert!(line.contains(&whole), "{line}");
        }
    }
}

/// What an agent says last is shown to operators and visitors: as text, on one line, and not at any length.
#[tokio::test]
async fn a_farewell_writes_no_lines_and_steers_no_terminal() {
    const SAID: &[u8] = b"bye\r\n2026-11-21T00:00:00Z access forged \x1b[31m<b>\xe2\x80\xae\xff\0";
    let world = World::builder().option("--hold", "0s").start().await;
    let identity = world.pki.agent(&[EVIL]);
    for error in [code::NO_ERROR, code::INTERNAL_ERROR] {
        let mut peer = RawAgent::dial(world.tunnels, &world.pki, &identity).await;
        world.wait_filed(EVIL, 1, SOON).await;
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
    let identity = world.pki.agent(&[EVIL]);
    let mut peer = RawAgent::dial(world.tunnels, &world.pki, &identity).await;
    world.wait_filed(EVIL, 1, SOON).await;
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

/// A tunnel that dies in the middle of an answer: not the end of the body, and not silence.
#[tokio::test]
async fn an_agent_that_dies_in_the_middle_is_seen() {
    let mut scene = Scene::start().await;
    let mut visitor = scene.world().visitor().await;
    visitor.send_get(EVIL, "/").await;
    let (stream, _) = scene.peer.head().await;
    scene
        .peer
        .send_head(stream, &[(":status", "200")], false)
        .await;
    scene
        .peer
        .send(Frame::data(stream, b"half of it", false))
        .await;
    let head = visitor.head().await;
    assert_eq!(head.status(), 200);
    scene.peer.into_conn().reset();
    let mut framing = tidegate_tests::http1::Framing::of_answer(&head, "GET").unwrap();
    let rest = within(
        Duration::from_secs(2),
        "an end",
        visitor.reader.body(&mut framing),
    )
    .await;
    assert!(rest.is_err(), "no final chunk: {rest:?}");
}

/// An agent that takes requests and says nothing: its visitors wait or get a 504, the others do not wait.
#[tokio::test]
async fn a_silent_agent_hurts_only_its_own_name() {
    let mut scene = Scene::start().await;
    scene.peer.polite = false;
    let mut waiting = Vec::new();
    for _ in 0..150 {
        let mut visitor = scene.world().visitor().await;
        visitor.send_get(EVIL, "/").await;
        waiting.push(visitor);
    }
    scene
        .nobody_else_noticed("150 visitors of a silent agent")
        .await;
    // It answers no ping: out of the pool, and everybody who waited is told.
    let answer = waiting.remove(0).answer("GET").await;
    assert!(matches!(answer.status(), 502..=504), "{}", answer.status());
    assert!(!answer.reason().is_empty());
}

/// More streams than the agent's SETTINGS allow are not sent to it.
#[tokio::test]
async fn an_agents_stream_limit_is_kept() {
    let world = World::start().await;
    let identity = world.pki.agent(&[HOST]);
    let settings = Frame::settings(&[(setting::MAX_CONCURRENT_STREAMS, 3)]);
    let mut peer = RawAgent::dial_with(world.tunnels, &world.pki, &identity, settings).await;
    world.wait_filed(HOST, 1, SOON).await;
    let mut visitors = Vec::new();
    for number in 0..6 {
        let mut visitor = world.visitor().await;
        visitor.send_get(HOST, &format!("/{number}")).await;
        visitors.push(visitor);
    }
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(peer.head().await.0);
    }
    let fourth = tokio::time::timeout(Duration::from_millis(700), async {
        loop {
            if let tidegate_tests::peers::Event::Head { stream, .. } = peer.event().await.unwrap() {
                return stream;
            }
        }
    })
    .await;
    assert!(
        fourth.is_err(),
        "a fourth stream on a tunnel for three: {fourth:?}"
    );
    for stream in open {
        peer.respond(stream, "ok").await.unwrap();
    }
    let mut statuses = Vec::new();
    let serve = async {
        loop {
            let (stream, _) = peer.head().await;
            peer.respond(stream, "ok").await.unwrap();
        }
    };
    let collect = async {
        for visitor in &mut visitors {
            statuses.push(visitor.answer("GET").await.status());
        }
    };
    tokio::select! {
        () = collect => {}
        () = serve => {}
    }
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(
        served >= 3 && statuses.iter().all(|status| matches!(status, 200 | 503)),
        "{statuses:?}"
    );
}

/// A source whose handshakes fail is held back: few connections, few log lines, no effect on others.
#[tokio::test]
async fn a_source_that_keeps_failing_is_held_back() {
    let site = Site::start().await;
    let stranger = tidegate_tests::pki::Pki::create(site.world.dir(), "stranger");
    let identity = stranger.agent(&[EVIL]);
    let lines = site.world.gateway.log().len();
    let cpu = site.world.gateway.cpu_time();
    let end = Instant::now() + Duration::from_secs(4);
    let mut failures = 0;
    while Instant::now() < end {
        // As a HAProxy agent does: no pause at all between a failure and the next dial.
        let config = site.world.pki.client(Some(&identity), &["h2"]);
        let attempt = async {
            if let Ok(conn) = Conn::tls(site.world.tunnels, "localhost", config).await {
                Peer::over(conn).until_closed(SOON).await;
            }
        };
        if tokio::time::timeout_at(end.into(), attempt).await.is_ok() {
            failures += 1;
        }
    }
    assert!(
        (2..=40).contains(&failures),
        "{failures} failed handshakes in 4 s"
    );
    let logged = site.world.gateway.log().len() - lines;
    assert!(logged <= 5, "{logged} log lines");
    let used = site.world.gateway.cpu_time() - cpu;
    assert!(used < Duration::from_secs(1), "{used:?} of CPU");
    // The same source address, with a good certificate: the agents that are there are not affected.
    assert_eq!(site.get("/hello").await.status(), 200);
    assert_eq!(site.world.filed(HOST).await, 4);
}
