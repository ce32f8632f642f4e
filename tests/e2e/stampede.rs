//! A gateway comes back and every agent dials at once: all are filed soon, and who asks meanwhile is served.

use std::time::{Duration, Instant};

use tidegate_tests::apps::HttpApp;
use tidegate_tests::bystander::Bystander;
use tidegate_tests::eventually::SOON;
use tidegate_tests::{HOST, World};

/// Tunnels of each of the two agents; together more than one source may have half-made (`--max-handshakes-per-source`).
const TUNNELS: usize = 400;

/// All of them are filed within this: two processors do some hundred handshakes a second beside other tests.
const ALL_WITHIN: Duration = Duration::from_secs(45);

#[tokio::test]
async fn eight_hundred_tunnels_dial_at_once_after_a_restart() {
    let mut world = World::start().await;
    let app = HttpApp::start("blog").await;
    let tunnels = TUNNELS.to_string();
    let options = ["--tunnels", tunnels.as_str()];
    let names = [HOST, "shop.test"];
    let mut agents = Vec::new();
    for name in names {
        let identity = world.pki.agent(&[name]);
        agents.push(world.launch_agent(&identity, app.target(), &options));
    }
    for name in names {
        world.wait_filed(name, TUNNELS, ALL_WITHIN).await;
    }
    world.gateway.kill().await;
    world.restart_gateway().await;
    let began = Instant::now();
    tidegate_tests::eventually(SOON, "the first tunnel is back", async || {
        (world.filed(HOST).await > 0).then_some(())
    })
    .await;
    // From the first tunnel on there is somebody to answer, and the others' handshakes are not to be felt.
    let bystander = Bystander::watch_for(
        &world,
        "/hello",
        "hello from blog\n",
        Duration::from_secs(3),
    );
    for name in names {
        let left = ALL_WITHIN.saturating_sub(began.elapsed());
        world.wait_filed(name, TUNNELS, left).await;
    }
    bystander.noticed_nothing().await;
    for agent in &mut agents {
        assert!(agent.is_running(), "{:?}", agent.log());
    }
    // Nobody dials again for nothing: each tunnel was made once.
    let metrics = world.metrics().await;
    let opened = metrics.sum("tidegate_tunnels_opened_total", &[]);
    assert_eq!(opened, f64::from(u32::try_from(2 * TUNNELS).unwrap()));
}
