//! The agent keeps its tunnels up whatever happens to gateways and paths, and gives them up in good order when it is asked to
//! end (issue §5).

use std::time::{Duration, Instant};

use tidegate_tests::apps::{AbsentApp, HttpApp};
use tidegate_tests::eventually::SOON;
use tidegate_tests::link::Link;
use tidegate_tests::netns::Netns;
use tidegate_tests::peers::field;
use tidegate_tests::peers::frame::{Frame, code, kind};
use tidegate_tests::peers::gateway::{answer, request};
use tidegate_tests::program::Program;
use tidegate_tests::world::launch_agent;
use tidegate_tests::{ByHand, HOST, Site, World, eventually};

#[tokio::test]
async fn four_tunnels_go_to_each_gateway() {
    let first = World::start().await;
    // The second gateway is of the same CA, so that one certificate is good for both.
    let ca = first.pki.ca_file("ca");
    let identity = first.pki.server(&["localhost"]);
    let second = World::builder().identity(identity, ca).start().await;
    let app = HttpApp::start("blog").await;
    let port = format!("localhost:{}", second.tunnels.port());
    let mut one = first.agent(HOST, app.target()).await;
    first.wait_filed(HOST, 4, SOON).await;
    assert_eq!(second.filed(HOST).await, 0);
    one.kill().await;
    first.wait_filed(HOST, 0, SOON).await;
    let _both = first
        .agent_with(HOST, app.target(), &["--gateway", &port, "--tunnels", "3"])
        .await;
    for world in [&first, &second] {
        world.wait_filed(HOST, 3, SOON).await;
        assert_eq!(world.get(HOST, "/hello").await.status(), 200);
    }
}

/// Once for the agent on standard output, and once for each address in the log.
#[tokio::test]
async fn an_agent_that_is_ready_says_so_once() {
    let mut world = World::start().await;
    let app = HttpApp::start("blog").await;
    let agent = world.agent(HOST, app.target()).await;
    let up = |words: &str| format!("all 4 tunnels to {} are up{words}", world.tunnels);
    let (first, again) = (up(""), up(" again"));
    agent.wait_log(&["INFO", &first]).await;
    world.gateway.kill().await;
    world.restart_gateway().await;
    agent.wait_log(&["INFO", &again]).await;
    let lines = agent.logged(&["tunnels to", "are up"]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(!lines[0].contains("again"), "{lines:?}");
    let ready = agent.printed();
    let ready = ready.iter().filter(|line| *line == "ready");
    assert_eq!(ready.count(), 1, "{:?}", agent.printed());
}

#[tokio::test]
async fn one_gateway_that_is_down_does_not_hold_the_other_up() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let absent = AbsentApp::new();
    let dead = absent.address().to_string();
    let agent = world
        .agent_with(HOST, app.target(), &["--gateway", &dead])
        .await;
    world.wait_filed(HOST, 4, SOON).await;
    agent.wait_log(&[&dead]).await;
}

/// Back within 3 s of the path being there (issue §5).
const BACK: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_cut_path_is_back_within_three_seconds() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let link = Link::to(world.tunnels).await;
    let _agent = through(&world, &link, app.target()).await;
    link.cut();
    eventually(BACK, "the site is back", async || {
        let answer = world.get(HOST, "/hello").await;
        (answer.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_path_that_froze_for_long_is_back_within_three_seconds() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let link = Link::to(world.tunnels).await;
    let _agent = through(&world, &link, app.target()).await;
    link.freeze();
    // Both ends give the tunnels up by themselves: ping interval and timeout are 5 s each.
    world.wait_filed(HOST, 0, Duration::from_secs(15)).await;
    link.thaw();
    eventually(BACK, "the site is back", async || {
        (world.filed(HOST).await > 0).then_some(())
    })
    .await;
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
}

/// A laptop that moves to another network: the connections from its former address are dead, and nobody says so.
#[tokio::test]
async fn a_changed_network_is_back_within_three_seconds() {
    let Some(mut cable) = Netns::available() else {
        return;
    };
    let tunnels = format!("{}:0", cable.host);
    let world = World::builder().tunnels(&tunnels).start().await;
    let app = HttpApp::start_unix("blog", world.dir());
    let agent = world.agent_inside(&cable, HOST, app.target()).await;
    world.wait_filed(HOST, 4, SOON).await;
    let former = cable.inside.to_string();
    cable.change_address();
    let fresh = format!("{}:", cable.inside);
    eventually(BACK, "tunnels come from the new address", async || {
        let listed = world.listed().await;
        let from_here = listed.iter().filter(|tunnel| {
            let agent = tunnel["agent"].as_str().unwrap();
            agent.starts_with(&fresh)
        });
        (from_here.count() == 4).then_some(())
    })
    .await;
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
    agent.wait_log(&["INFO", &former, "replaced"]).await;
}

#[tokio::test]
async fn a_restarted_gateway_has_its_tunnels_back_within_three_seconds() {
    let mut site = Site::start().await;
    site.world.gateway.kill().await;
    // One failed attempt, at least: then the agent is in its backoff.
    site.agent.wait_log(&["refused"]).await;
    site.world.restart_gateway().await;
    site.world.wait_filed(HOST, 4, BACK).await;
    assert_eq!(site.get("/hello").await.status(), 200);
}

/// Its tunnels die young, which says nothing against a gateway that is back.
#[tokio::test]
async fn a_gateway_that_restarts_again_and_again_is_in_use_within_three_seconds_each_time() {
    let mut world = World::start().await;
    let app = HttpApp::start("blog").await;
    let agent = world
        .agent_with(HOST, app.target(), &["--tunnels", "64"])
        .await;
    for restart in 1..=4 {
        world.gateway.kill().await;
        let refused = ["TCP", "refused"];
        eventually(BACK, "the agent dials again", async || {
            (agent.logged(&refused).len() >= restart).then_some(())
        })
        .await;
        world.restart_gateway().await;
        eventually(BACK, "the site is back", async || {
            (world.filed(HOST).await > 0).then_some(())
        })
        .await;
        assert_eq!(world.get(HOST, "/hello").await.status(), 200);
    }
    world.wait_filed(HOST, 64, SOON).await;
}

#[tokio::test]
async fn a_gateways_goaway_is_followed_by_another_tunnel() {
    let scene = ByHand::start().await;
    let mut first = scene.gateway.reversed().await;
    first
        .send_head(1, &request("GET", HOST, "/slow/500"), true)
        .await;
    scene.app.wait_request("/slow/500").await;
    first.send(Frame::goaway(0, code::NO_ERROR)).await;
    let mut second = scene.gateway.reversed().await;
    second
        .send_head(1, &request("GET", HOST, "/hello"), true)
        .await;
    let (head, _, _) = answer(&mut second, 1).await;
    assert_eq!(field(&head, ":status"), Some("200"));
    assert_eq!(
        answer(&mut first, 1).await.1,
        b"slow\n",
        "what was in flight is finished"
    );
}

#[tokio::test]
async fn sigterm_ends_an_idle_agent_at_once() {
    let mut site = Site::start().await;
    assert_eq!(site.get("/hello").await.status(), 200);
    let began = Instant::now();
    site.agent.terminate();
    let status = site.agent.ended(Duration::from_secs(1)).await;
    assert!(status.success(), "{status} after {:?}", began.elapsed());
    site.world.wait_filed(HOST, 0, SOON).await;
}

#[tokio::test]
async fn sigterm_lets_requests_finish_first() {
    let mut site = Site::start().await;
    let mut visitor = site.visitor().await;
    visitor.send_get(HOST, "/slow/1500").await;
    site.app.wait_request("/slow/1500").await;
    site.agent.terminate();
    assert_eq!(visitor.answer("GET").await.text(), "slow\n");
    assert!(site.agent.ended(SOON).await.success());
}

#[tokio::test]
async fn without_a_drain_sigterm_cuts_what_is_in_flight() {
    let mut site = Site::start_with(World::builder(), &["--drain", "0"]).await;
    let mut visitor = site.visitor().await;
    visitor.send_get(HOST, "/sse").await;
    visitor.head().await;
    site.agent.terminate();
    assert!(site.agent.ended(Duration::from_secs(1)).await.success());
}

#[tokio::test]
async fn sigterm_says_goaway_and_takes_no_more() {
    let mut scene = ByHand::start().await;
    let mut peer = scene.gateway.reversed().await;
    peer.send_head(1, &request("GET", HOST, "/slow/700"), true)
        .await;
    scene.app.wait_request("/slow/700").await;
    scene.agent.terminate();
    let goaway = peer.wait_frame(kind::GOAWAY).await;
    assert_eq!(goaway.code(), code::NO_ERROR);
    assert_eq!(answer(&mut peer, 1).await.1, b"slow\n");
    assert!(scene.agent.ended(SOON).await.success());
}

/// An agent whose tunnels run through a link.
async fn through(world: &World, link: &Link, target: &str) -> Program {
    let gateway = format!("localhost:{}", link.address().port());
    let (identity, ca) = (world.pki.agent(&[HOST]), world.pki.ca_file("ca"));
    let mut agent = launch_agent(&[], &gateway, &identity, &ca, target, &[]);
    agent.ready().await;
    world.wait_filed(HOST, 4, SOON).await;
    agent
}
