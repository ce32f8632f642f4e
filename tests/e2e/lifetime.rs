//! A tunnel lives for weeks: what h2 counts over a connection's life must not be a way to kill it (issue §6,
//! `wire.md` §1.10 rows 17 to 19).

use std::time::{Duration, Instant};

use tidegate_tests::apps::HttpApp;
use tidegate_tests::bystander::Bystander;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::peers::farm::Farm;
use tidegate_tests::peers::frame::{Frame, code, flag, kind};
use tidegate_tests::peers::hpack;
use tidegate_tests::visitors::Visitor;
use tidegate_tests::visitors::http1::try_get;
use tidegate_tests::{HOST, World};

/// A site behind two tunnels of agents by hand.
struct Scene {
    world: World,
    farm: Farm,
}

impl Scene {
    async fn start() -> Self {
        let world = World::start().await;
        let identity = world.pki.agent(&[HOST]);
        let farm = Farm::start(world.tunnels, &world.pki, &identity, 2, answer);
        world.wait_filed(HOST, 2, SOON).await;
        Self { world, farm }
    }
}

/// `/empties`: 300 empty DATA frames before the body. `/padded`: 2 padded empty ones, which count against the tunnel. `/tiny`: 5,000 one-byte frames. `/broken`: a response that
/// the gateway must reset itself. `/reset`: one that the agent resets. Anything else: `plain`.
fn answer(stream: u32, path: &str) -> Vec<Frame> {
    let head = |fields: &[(&str, &str)]| Frame::headers(stream, hpack::encode(fields), false);
    let ok = [(":status", "200")];
    let body = |text: &str| Frame::data(stream, text.as_bytes(), true);
    match path {
        "/empties" => {
            let mut frames = vec![head(&ok)];
            frames.extend((0..300).map(|_| Frame::data(stream, b"", false)));
            frames.push(body("after the empties"));
            frames
        }
        "/padded" => {
            // One octet that says how many of padding follow: none. RFC 9113 §6.1.
            let padded = Frame::new(kind::DATA, flag::PADDED, stream, [0]);
            let mut frames = vec![head(&ok)];
            frames.extend((0..2).map(|_| padded.clone()));
            frames.push(body("after the padding"));
            frames
        }
        "/tiny" => {
            let mut frames = vec![head(&ok)];
            frames.extend((0..5000).map(|_| Frame::data(stream, b"t", false)));
            frames
        }
        "/broken" => vec![
            head(&[(":status", "200"), ("content-length", "2")]),
            body("longer than two"),
        ],
        "/reset" => vec![head(&ok), Frame::reset(stream, code::INTERNAL_ERROR)],
        _ => vec![head(&ok), body("plain")],
    }
}

fn bystander(world: &World) -> Bystander {
    Bystander::watch(world, "/plain", "plain")
}

#[tokio::test]
async fn empty_data_frames_cost_no_other_visitor_anything() {
    let scene = Scene::start().await;
    let bystander = bystander(&scene.world);
    for _ in 0..4 {
        let answer = scene.world.get(HOST, "/empties").await;
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, "after the empties")
        );
    }
    bystander.noticed_nothing().await;
}

/// What `h2` counts and nobody can reset wears a tunnel out: a fresh one comes first, then the worn one is drained.
#[tokio::test]
async fn a_worn_tunnel_is_replaced_and_no_request_fails() {
    let scene = Scene::start().await;
    let bystander = bystander(&scene.world);
    let gateway = &scene.world.gateway;
    let worn = eventually(SOON, "a tunnel is worn", async || {
        let answer = scene.world.get(HOST, "/padded").await;
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, "after the padding")
        );
        gateway.logged(&["tunnel is worn"]).pop()
    });
    worn.await;
    gateway
        .wait_log(&["tunnel gone", "ending=\"replaced\""])
        .await;
    bystander.noticed_nothing().await;
    let metrics = scene.world.metrics().await;
    for ending in ["closed", "flood", "silent"] {
        let ended = metrics.sum("tidegate_tunnels_closed_total", &[ending]);
        assert_eq!(ended, 0.0, "{ending}: {:?}", gateway.log());
    }
    scene.world.wait_filed(HOST, 2, SOON).await;
    // Both took their share of the frames; none is replaced for nothing.
    let dials = scene.farm.dials();
    assert!((3..=4).contains(&dials), "{dials} dials");
}

#[tokio::test]
async fn fifteen_hundred_broken_streams_cost_no_other_visitor_anything() {
    let scene = Scene::start().await;
    let bystander = bystander(&scene.world);
    for number in 0..1500 {
        let path = if number % 2 == 0 { "/broken" } else { "/reset" };
        let limit = Duration::from_secs(5);
        if let Ok(answer) = try_get(scene.world.visitors, HOST, path, limit).await {
            assert!(
                answer.cut.is_some() || answer.status() == 502,
                "{path}: {answer:?}"
            );
            assert_ne!(
                answer.text(),
                "longer than two",
                "a broken length is not passed on"
            );
        }
    }
    bystander.noticed_nothing().await;
    // A replaced tunnel is one thing; a storm of dials is another.
    assert!(scene.farm.dials() < 40, "{} dials", scene.farm.dials());
}

#[tokio::test]
async fn tiny_frames_to_a_stuck_visitor_cost_no_other_visitor_anything() {
    let scene = Scene::start().await;
    let bystander = bystander(&scene.world);
    let mut stuck = Vec::new();
    for _ in 0..6 {
        let mut visitor = Visitor::connect_narrow(scene.world.visitors).await;
        visitor.send_get(HOST, "/tiny").await;
        stuck.push(visitor);
    }
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert_eq!(scene.world.get(HOST, "/plain").await.text(), "plain");
    }
    bystander.noticed_nothing().await;
    // What was stuck is not lost.
    let mut visitor = stuck.remove(0);
    let head = visitor.head().await;
    let mut framing = tidegate_tests::http1::Framing::of_answer(&head, "GET").unwrap();
    let mut count = 0;
    while count < 5000 {
        count += visitor.piece(&mut framing).await.unwrap().len();
    }
    assert_eq!(count, 5000);
}

/// Visitors who leave early reset streams on a tunnel: thousands of them are an ordinary day.
#[tokio::test]
async fn thousands_of_visitors_who_leave_do_not_end_a_tunnel() {
    let scene = Scene::start().await;
    // Of so many connections at once Linux may drop one's first segment, which comes again after a second: no fault of a tunnel's.
    let bystander = Bystander::watch_for(&scene.world, "/plain", "plain", SOON / 3);
    for _ in 0..2500 {
        let mut visitor = scene.world.visitor().await;
        visitor.send_get(HOST, "/tiny").await;
        visitor.reset();
    }
    bystander.noticed_nothing().await;
    assert!(scene.farm.dials() < 40, "{} dials", scene.farm.dials());
}

/// An agent that gets no processor for a moment finds all of them at once, opened and reset.
#[tokio::test]
async fn uploads_broken_off_while_an_agent_pauses_end_no_tunnel() {
    // The pause itself is to end none.
    let world = World::builder()
        .option("--probe-timeout", "30s")
        .option("--ping-timeout", "30s")
        .start()
        .await;
    let app = HttpApp::start("blog").await;
    let agent = world
        .agent_with(HOST, app.target(), &["--tunnels", "1"])
        .await;
    let before = world.listed().await[0]["id"].clone();
    assert!(before.is_number(), "{before}");
    agent.freeze();
    for _ in 0..600 {
        let mut visitor = world.visitor().await;
        let head = format!("POST /x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\nabc");
        visitor.send(head).await;
        drop(visitor);
    }
    eventually(SOON, "all of them have left", async || {
        let metrics = world.metrics().await;
        let left = metrics.sum("tidegate_requests_failed_total", &["visitor-gone"]);
        (left >= 600.0).then_some(())
    })
    .await;
    agent.thaw();
    assert_eq!(world.get(HOST, "/hello").await.text(), "hello from blog\n");
    assert_eq!(world.listed().await[0]["id"], before);
    assert!(!world.gateway.log_contains("tunnel gone"));
}
