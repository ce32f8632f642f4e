//! Up means up (issue §6): whatever happens to one of two agents, visitors do not notice.

use std::time::{Duration, Instant};

use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::link::Link;
use tidegate_tests::netns::Netns;
use tidegate_tests::peers::field;
use tidegate_tests::peers::frame::{Frame, code, kind};
use tidegate_tests::program::Program;
use tidegate_tests::task::Tasks;
use tidegate_tests::visitors::http1::try_get;
use tidegate_tests::world::launch_agent;
use tidegate_tests::{HOST, World};
use tokio::time::interval;

/// Two agents of one name, each with its own app.
struct Pair {
    world: World,
    apps: [HttpApp; 2],
    agents: [Program; 2],
}

impl Pair {
    async fn start() -> Self {
        let world = World::start().await;
        let apps = [HttpApp::start("one").await, HttpApp::start("two").await];
        let first = world.agent(HOST, apps[0].target()).await;
        let second = world.agent(HOST, apps[1].target()).await;
        let pair = Self {
            world,
            apps,
            agents: [first, second],
        };
        pair.world.wait_filed(HOST, 8, SOON).await;
        // Both are in use before anything happens to one of them.
        let mut visitor = pair.world.visitor().await;
        for _ in 0..16 {
            visitor.send_get(HOST, "/hello").await;
            assert_eq!(visitor.answer("GET").await.status(), 200);
        }
        pair
    }
}

/// 40 visitors, one every 25 ms, each on a connection of its own: none fails, at most 4 take over 1 s, none over 4 s.
async fn forty_gets(world: &World) {
    let visitors = world.visitors;
    let (results, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let mut running = Tasks::new();
    let mut every = interval(Duration::from_millis(25));
    for number in 0..40 {
        every.tick().await;
        let results = results.clone();
        running.spawn(async move {
            let began = Instant::now();
            let path = format!("/hello?{number}");
            let answer = try_get(visitors, HOST, &path, Duration::from_secs(10)).await;
            let outcome = match answer {
                Ok(answer) if answer.cut.is_none() => {
                    format!("{}{}", answer.status(), answer.reason())
                }
                Ok(_) => "cut".to_owned(),
                Err(error) => error.to_string(),
            };
            results.send((number, outcome, began.elapsed())).unwrap();
        });
    }
    drop(results);
    let mut all = Vec::new();
    while let Some(answer) = answers.recv().await {
        all.push(answer);
    }
    let failed: Vec<_> = all
        .iter()
        .filter(|(_, outcome, _)| outcome != "200")
        .collect();
    assert!(
        failed.is_empty(),
        "of 40 GETs {} failed: {failed:?}",
        failed.len()
    );
    let slow: Vec<_> = all
        .iter()
        .filter(|(_, _, took)| *took > Duration::from_secs(1))
        .collect();
    assert!(
        slow.len() <= 4,
        "of 40 GETs {} took over 1 s: {slow:?}",
        slow.len()
    );
    let slowest = all.iter().map(|(_, _, took)| *took).max().unwrap();
    assert!(
        slowest <= Duration::from_secs(4),
        "the slowest of 40 GETs took {slowest:?}"
    );
}

#[tokio::test]
async fn a_frozen_agent_is_not_noticed() {
    let pair = Pair::start().await;
    pair.agents[0].freeze();
    forty_gets(&pair.world).await;
    // Its four tunnels leave the pool, each with a line that says why.
    pair.world
        .wait_filed(HOST, 4, Duration::from_secs(15))
        .await;
    forty_gets(&pair.world).await;
    pair.agents[0].thaw();
    // A laptop that slept: back without anybody's help (reliability.md §2.5).
    pair.world
        .wait_filed(HOST, 8, Duration::from_secs(15))
        .await;
    let before = pair.apps[0].requests().len();
    forty_gets(&pair.world).await;
    assert!(pair.apps[0].requests().len() > before, "it serves again");
}

#[tokio::test]
async fn a_killed_agent_is_not_noticed() {
    let mut pair = Pair::start().await;
    pair.agents[0].kill().await;
    forty_gets(&pair.world).await;
    pair.world.wait_filed(HOST, 4, SOON).await;
}

#[tokio::test]
async fn an_agent_killed_in_the_middle_of_a_burst_is_not_noticed() {
    let mut pair = Pair::start().await;
    in_a_burst(&mut pair, async |agent| agent.kill().await).await;
}

#[tokio::test]
async fn a_goaway_in_the_middle_of_a_burst_is_not_noticed() {
    let mut pair = Pair::start().await;
    in_a_burst(&mut pair, async |agent| agent.terminate()).await;
    assert!(pair.agents[0].ended(SOON).await.success());
}

/// Forty GETs, and in their middle something that happens to the first agent.
async fn in_a_burst(pair: &mut Pair, happens: impl AsyncFnOnce(&mut Program)) {
    let Pair {
        world,
        apps,
        agents,
    } = pair;
    let asked = || apps[0].requests().len() + apps[1].requests().len();
    let before = asked();
    let middle = async {
        eventually(SOON, "the burst has begun", async || {
            (asked() > before + 10).then_some(())
        })
        .await;
        happens(&mut agents[0]).await;
    };
    tokio::join!(forty_gets(world), middle);
}

#[tokio::test]
async fn a_frozen_network_is_not_noticed() {
    let world = World::start().await;
    let (one, two) = (HttpApp::start("one").await, HttpApp::start("two").await);
    let link = Link::to(world.tunnels).await;
    let gateway = format!("localhost:{}", link.address().port());
    let (identity, ca) = (world.pki.agent(&[HOST]), world.pki.ca_file("ca"));
    let mut far = launch_agent(&[], &gateway, &identity, &ca, one.target(), &[]);
    far.ready().await;
    let _near = world.agent(HOST, two.target()).await;
    world.wait_filed(HOST, 8, SOON).await;
    link.freeze();
    forty_gets(&world).await;
}

/// A pulled cable: packets are dropped in a namespace, nobody is told, the TCP connections stay half-open.
#[tokio::test]
async fn a_pulled_cable_is_not_noticed() {
    let Some(cable) = Netns::available() else {
        return;
    };
    let world = World::builder()
        .tunnels(&format!("{}:0", cable.host))
        .start()
        .await;
    // A Unix socket is in reach of the namespace, with and without the cable.
    let (one, two) = (
        HttpApp::start_unix("one", world.dir()),
        HttpApp::start("two").await,
    );
    let gateway = world.tunnels.to_string();
    let (identity, ca) = (world.pki.agent(&[HOST]), world.pki.ca_file("ca"));
    let _far = world.agent_inside(&cable, HOST, one.target()).await;
    let options = ["--server-name", "localhost"];
    let mut near = launch_agent(&[], &gateway, &identity, &ca, two.target(), &options);
    near.ready().await;
    world.wait_filed(HOST, 8, SOON).await;
    cable.drop_packets();
    forty_gets(&world).await;
    world.wait_filed(HOST, 4, Duration::from_secs(15)).await;
    cable.heal();
    world.wait_filed(HOST, 8, Duration::from_secs(15)).await;
}

/// The only agent is cut off: out of the pool within 15 s, then an immediate 503. HAProxy: a 504 after 3 s, for ever.
#[tokio::test]
async fn the_only_agent_cut_off_leaves_the_pool_and_then_503_is_immediate() {
    let Some(cable) = Netns::available() else {
        return;
    };
    let world = World::builder()
        .tunnels(&format!("{}:0", cable.host))
        .start()
        .await;
    let _agent = world.agent_inside(&cable, HOST, "1").await;
    world.wait_filed(HOST, 4, SOON).await;
    cable.drop_packets();
    world.wait_filed(HOST, 0, Duration::from_secs(15)).await;
    // The hold of 3 s comes first, for those who are early.
    let quick = async || {
        let began = Instant::now();
        let answer = world.get(HOST, "/").await;
        let quick = began.elapsed() < Duration::from_millis(50);
        (answer.status() == 503 && quick).then_some(answer)
    };
    let answer = eventually(Duration::from_secs(5), "a 503 in under 50 ms", quick).await;
    assert!(
        matches!(answer.reason(), "agent-gone" | "all-ejected"),
        "{}",
        answer.reason()
    );
    // One may meet a busy machine; none waits for a tunnel, which takes seconds.
    let mut slow = 0;
    for _ in 0..5 {
        slow += usize::from(quick().await.is_none());
    }
    assert!(slow <= 1, "{slow} of 5 took 50 ms or more");
}

/// What is idempotent may be repeated although the agent has its body (RFC 9110 §9.2.2), as long as that is kept.
#[tokio::test]
async fn puts_on_a_frozen_agent_are_repeated() {
    let pair = Pair::start().await;
    pair.agents[0].freeze();
    let mut asked = Vec::new();
    for _ in 0..20 {
        let mut visitor = pair.world.visitor().await;
        let head = format!("PUT /hello HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\n01234");
        visitor.send(head).await;
        asked.push(visitor);
    }
    for mut visitor in asked {
        let answer = visitor.answer_within(Duration::from_secs(20), "PUT").await;
        assert_eq!(answer.text(), "hello from two\n", "{}", answer.reason());
    }
    let repeated = pair
        .world
        .metrics()
        .await
        .sum("tidegate_request_retries_total", &[]);
    assert!(repeated >= 1.0, "{repeated}");
}

/// A request that cannot be repeated safely is answered with the reason, and reaches no second app.
#[tokio::test]
async fn a_post_on_a_frozen_agent_is_not_repeated() {
    let pair = Pair::start().await;
    let mut stuck = pair.world.visitor().await;
    let head =
        format!("POST /never HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\n0123456789");
    stuck.send(head).await;
    let at = eventually(SOON, "the POST is at an app", async || {
        pair.apps.iter().position(|app| app.count("/never") == 1)
    })
    .await;
    pair.agents[at].freeze();
    let answer = stuck.answer_within(Duration::from_secs(20), "POST").await;
    assert!(matches!(answer.status(), 502 | 504), "{}", answer.status());
    assert!(!answer.reason().is_empty(), "the reason: {:?}", answer.head);
    assert_eq!(pair.apps[1 - at].count("/never"), 0, "not repeated");
}

/// GOAWAY(last=0) with a stream in flight: HAProxy lets its visitor wait for a 504.
#[tokio::test]
async fn streams_above_the_last_of_a_goaway_go_to_another_tunnel() {
    let world = World::start().await;
    let mut leaving = world.raw_agent(HOST).await;
    let mut visitors = Vec::new();
    for method in ["GET", "POST"] {
        let mut visitor = world.visitor().await;
        let head = format!("{method} /hello HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n");
        visitor.send(head).await;
        leaving.head().await;
        visitors.push((method, visitor));
    }
    let app = HttpApp::start("stays").await;
    let _agent = world.agent(HOST, app.target()).await;
    leaving.send(Frame::goaway(0, code::NO_ERROR)).await;
    for (method, mut visitor) in visitors {
        // Streams above the last one were not processed (RFC 9113 §6.8): any method may be repeated.
        assert_eq!(
            visitor.answer(method).await.text(),
            "hello from stays\n",
            "{method}"
        );
    }
    // With no stream left the gateway closes at once, so that the agent may dial again (wire.md §1.5).
    leaving.until_closed(SOON).await;
}

#[tokio::test]
async fn a_refused_stream_goes_to_another_tunnel() {
    let world = World::start().await;
    let mut refusing = world.raw_agent(HOST).await;
    let mut visitor = world.visitor().await;
    visitor
        .send(format!(
            "POST /hello HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n"
        ))
        .await;
    let (stream, _) = refusing.head().await;
    let app = HttpApp::start("stays").await;
    let _agent = world.agent(HOST, app.target()).await;
    refusing
        .send(Frame::reset(stream, code::REFUSED_STREAM))
        .await;
    assert_eq!(visitor.answer("POST").await.text(), "hello from stays\n");
}

#[tokio::test]
async fn both_ends_ping_an_idle_tunnel_within_its_interval() {
    let world = World::start().await;
    let mut peer = world.raw_agent(HOST).await;
    let ping = peer.wait_frame(kind::PING).await;
    assert_eq!(ping.payload.len(), 8);
    // An agent that answers nothing is out within interval and timeout.
    peer.polite = false;
    peer.until_closed(Duration::from_secs(12)).await;
    world.wait_filed(HOST, 0, SOON).await;
}

/// Silence is measured on the data path: an agent that answers pings and no request stays, one that answers neither goes.
#[tokio::test]
async fn a_request_that_waits_a_second_asks_for_a_ping() {
    let world = World::start().await;
    let mut peer = world.raw_agent(HOST).await;
    peer.wait_frame(kind::PING).await;
    // Its answer must be there first: it would be a sign of life after the request.
    eventually(SOON, "a round trip is measured", async || {
        world.listed().await[0]["rtt_ms"].is_number().then_some(())
    })
    .await;
    let mut visitor = world.visitor().await;
    visitor.send_get(HOST, "/slow").await;
    let (stream, fields) = peer.head().await;
    assert_eq!(field(&fields, ":path"), Some("/slow"));
    let began = Instant::now();
    peer.wait_frame(kind::PING).await;
    let waited = began.elapsed();
    assert!(
        waited < Duration::from_millis(2500),
        "an extra ping after 1 s, not {waited:?}"
    );
    peer.respond(stream, "late").await.unwrap();
    assert_eq!(
        visitor.answer("GET").await.text(),
        "late",
        "slow is not dead"
    );
}
