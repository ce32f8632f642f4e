//! A hostile agent hurts only its own names, whatever frames it sends or keeps back (issue §6, `reliability.md` §2.1, §2.5).

use std::time::{Duration, Instant};

use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::peers::agent::RawAgent;
use tidegate_tests::peers::frame::{Frame, PREFACE, code, flag, kind, setting};
use tidegate_tests::peers::{Peer, hpack};
use tidegate_tests::visitors::http1::try_get;
use tidegate_tests::{HOST, Site, World};

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
        let peer = site.world.raw_agent(EVIL).await;
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
            self.site.answers_at_once(what).await;
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
        site.answers_at_once("during a flood").await;
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
