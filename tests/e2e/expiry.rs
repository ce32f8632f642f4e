//! A certificate that runs out during traffic: its tunnels leave, and nobody who asks notices (README, Certificates).

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::bystander::Bystander;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::pki::Pki;
use tidegate_tests::world::names_of;
use tidegate_tests::{HOST, World};

/// What is left of a certificate when its agent starts.
const LEFT: Duration = Duration::from_secs(5);

fn short_lived(world: &World) -> PathBuf {
    world.pki.agent_for(&[HOST], LEFT)
}

/// When the certificates of the tunnels expire, in seconds since 1970.
async fn expiries(world: &World) -> Vec<u64> {
    let listed = world.listed().await;
    let of_host = listed
        .iter()
        .filter(|tunnel| names_of(tunnel).iter().any(|name| name == HOST));
    of_host
        .map(|tunnel| tunnel["certificate_expires"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn a_tunnel_whose_certificate_expires_leaves_and_its_requests_finish() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let identity = short_lived(&world);
    let mut short = world.launch_agent(&identity, app.target(), &["--tunnels", "2"]);
    short.ready().await;
    world.wait_filed(HOST, 2, SOON).await;
    // It is in flight when the certificate expires, and has one of the tunnels to itself.
    let mut slow = world.visitor().await;
    slow.send_get(HOST, "/slow/7000").await;
    app.wait_request("/slow/7000").await;
    let _other = world
        .agent_with(HOST, app.target(), &["--tunnels", "2"])
        .await;
    world.wait_filed(HOST, 4, SOON).await;
    let bystander = Bystander::watch(&world, "/hello", "hello from blog\n");
    let leave = "tunnels of an expired certificate leave the pool";
    eventually(LEFT + Duration::from_secs(5), leave, async || {
        (expiries(&world).await.len() == 2).then_some(())
    })
    .await;
    let answer = slow.answer("GET").await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "slow\n"));
    bystander.noticed_nothing().await;
    world
        .gateway
        .wait_log(&[
            "tunnel gone",
            "its certificate expired",
            "ending=\"expired\"",
        ])
        .await;
    // What the agent can do about it, it says: before, and after.
    short.wait_log(&["WARN", "has expired", "renew it"]).await;
    let ended = async || {
        let metrics = world.metrics().await;
        let gone = metrics.sum("tidegate_tunnels_closed_total", &["expired"]);
        (gone == 2.0).then_some(())
    };
    eventually(SOON, "both tunnels have ended", ended).await;
}

#[tokio::test]
async fn an_agent_whose_file_is_renewed_has_fresh_tunnels_before_the_old_ones_expire() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let identity = short_lived(&world);
    let mut agent = world.launch_agent(&identity, app.target(), &[]);
    agent.ready().await;
    world.wait_filed(HOST, 4, SOON).await;
    let old = expiries(&world).await[0];
    let bystander = Bystander::watch(&world, "/hello", "hello from blog\n");
    let mut slow = world.visitor().await;
    slow.send_get(HOST, "/slow/6000").await;
    app.wait_request("/slow/6000").await;
    // The same file, with a month to go. The agent looks by itself, the more often the less is left.
    let renewed = world
        .pki
        .agent_for(&[HOST], Duration::from_secs(30 * 24 * 3600));
    assert_eq!(renewed, identity);
    agent.wait_log(&["was renewed"]).await;
    let replaced = "every tunnel shows the fresh certificate";
    eventually(LEFT, replaced, async || {
        let present = expiries(&world).await;
        (present.len() == 4 && present.iter().all(|end| *end > old)).then_some(())
    })
    .await;
    assert_eq!(slow.answer("GET").await.text(), "slow\n");
    bystander.noticed_nothing().await;
    let metrics = world.metrics().await;
    let expired = metrics.sum("tidegate_tunnels_closed_total", &["expired"]);
    assert_eq!(expired, 0.0, "none was left to expire");
    // Nothing changed since: no tunnel is replaced for nothing.
    agent.signal(Signal::HUP);
    assert_eq!(expiries(&world).await.len(), 4);
}

/// When a certificate that is not valid yet becomes so.
const WAIT: Duration = Duration::from_secs(6);

/// An agent looks every 10 s at least.
const LOOKS: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_renewed_certificate_that_is_not_valid_yet_is_used_when_it_is() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let month = Duration::from_secs(30 * 24 * 3600);
    let identity = world.pki.agent_for(&[HOST], month - WAIT);
    let mut agent = world.launch_agent(&identity, app.target(), &[]);
    agent.ready().await;
    world.wait_filed(HOST, 4, SOON).await;
    let old = expiries(&world).await[0];
    let bystander = Bystander::watch(&world, "/hello", "hello from blog\n");
    assert_eq!(world.pki.agent_in(&[HOST], WAIT), identity);
    agent.signal(Signal::HUP);
    agent
        .wait_log(&["the one in use stays", "valid only from"])
        .await;
    // What is in use serves on, also for a tunnel that is dialled meanwhile.
    assert_eq!(expiries(&world).await, [old; 4]);
    eventually(LOOKS, "every tunnel shows the fresh one", async || {
        let present = expiries(&world).await;
        (present.len() == 4 && present.iter().all(|end| *end > old)).then_some(())
    })
    .await;
    bystander.noticed_nothing().await;
    assert_eq!(agent.logged(&["valid only from"]).len(), 1);
    let metrics = world.metrics().await;
    let refused = metrics.sum("tidegate_tunnels_refused_total", &[]);
    assert_eq!(refused, 0.0, "no gateway saw it too early");
}

/// A renewal that was issued by somebody else would end every tunnel.
#[tokio::test]
async fn a_renewed_certificate_of_another_authority_is_not_used() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let identity = world.pki.agent(&[HOST]);
    let mut agent = world.launch_agent(&identity, app.target(), &[]);
    agent.ready().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Pki::create(elsewhere.path(), "stranger");
    let renew = |file: PathBuf, over: &PathBuf| {
        let aside = over.with_extension("part");
        std::fs::copy(file, &aside).unwrap();
        std::fs::rename(aside, over).unwrap();
    };
    renew(stranger.agent(&[HOST]), &identity);
    agent.signal(Signal::HUP);
    agent
        .wait_log(&["WARN", "the one in use stays", "does not end at"])
        .await;
    // The gateway's own, which is in use as well.
    let names = ["localhost", "gateway.test", "127.0.0.1"];
    let gateways = world.pki.server(&names);
    world.gateway.signal(Signal::HUP);
    world
        .gateway
        .wait_log(&["the gateway's identity was read again"])
        .await;
    renew(stranger.server(&names), &gateways);
    world.gateway.signal(Signal::HUP);
    world
        .gateway
        .wait_log(&["the gateway's identity", "does not end at"])
        .await;
    let another = world.agent(HOST, app.target()).await;
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
    drop(another);
}
