//! The file of `--ca`: what it must hold, and that it is looked at again (README, Certificates).

use std::path::Path;

use rustix::process::Signal;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::pki::Pki;
use tidegate_tests::program::{Finished, built, run};
use tidegate_tests::world::launch_agent;
use tidegate_tests::{HOST, World};

/// Runs the gateway, and the agent, with this file as `--ca`; both are to refuse it.
async fn refused(pki: &Pki, ca: &Path) -> [Finished; 2] {
    let (gateways, agents) = (pki.server(&["localhost"]), pki.agent(&["blog.test"]));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let common = |identity: &Path| ["--identity".into(), path(identity), "--ca".into(), path(ca)];
    let mut gateway = vec!["run".to_owned(), "--tunnels=127.0.0.1:0".into()];
    gateway.push("--visitors=127.0.0.1:0".into());
    gateway.extend(common(&gateways));
    let mut agent = vec![
        "http".to_owned(),
        "1".into(),
        "--gateway=localhost:1".into(),
    ];
    agent.extend(common(&agents));
    let words = |all: Vec<String>| all.into_iter().map(Into::into).collect::<Vec<_>>();
    [
        run(&built("tidegated"), &words(gateway)).await,
        run(&built("tidegate"), &words(agent)).await,
    ]
}

/// It would start, and then fail every handshake and blame the other end.
#[tokio::test]
async fn a_file_without_an_authority_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let wrong = dir.path().join("wrong.crt");
    replace(&wrong, &leaf_of(&pki.agent(&["shop.test"])));
    for refused in refused(&pki, &wrong).await {
        assert_eq!(refused.code, Some(64), "{}", refused.stderr);
        for part in ["wrong.crt", "CN=shop.test", "Tidegate test CA ca", "ca.crt"] {
            assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
        }
    }
}

/// The first certificate of a bundle, in which the authority's follows.
fn leaf_of(bundle: &Path) -> String {
    let text = std::fs::read_to_string(bundle).unwrap();
    let end = "-----END CERTIFICATE-----\n";
    text[..text.find(end).unwrap() + end.len()].to_owned()
}

/// As a renewal does it: nobody reads half of it.
fn replace(file: &Path, text: &str) {
    let aside = file.with_extension("part");
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, file).unwrap();
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}

/// An authority is replaced by naming both for a while. Whoever is connected stays connected.
#[tokio::test]
async fn a_gateway_takes_up_authorities_and_keeps_its_tunnels() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let (ours, ca) = (world.pki.ca_file("ca"), text(&world.pki.ca_file("ca")));
    let stranger = Pki::create(world.dir(), "stranger");
    let old = world
        .agent_with(HOST, app.target(), &["--tunnels", "1"])
        .await;
    let tunnel = world.listed().await[0]["id"].clone();
    let theirs = stranger.agent(&["shop.test"]);
    let agents_ca = world.file("agents-ca.crt");
    replace(&agents_ca, &ca);
    let gateway = format!("localhost:{}", world.tunnels.port());
    let mut other = launch_agent(&[], &gateway, &theirs, &agents_ca, app.target(), &[]);
    other.wait_log(&["[certificate]", "does not trust"]).await;
    replace(
        &ours,
        &[ca.as_str(), &text(&stranger.ca_file("stranger"))].concat(),
    );
    world.gateway.signal(Signal::HUP);
    world
        .gateway
        .wait_log(&["INFO", "ca.crt", "(--ca)", "was read again"])
        .await;
    other.ready().await;
    assert_eq!(world.get("shop.test", "/hello").await.status(), 200);
    // A file of no use changes nothing, and is told once.
    replace(&ours, &leaf_of(&theirs));
    world.gateway.signal(Signal::HUP);
    world
        .gateway
        .wait_log(&["ERROR", "(--ca)", "the one in use stays", "CN=shop.test"])
        .await;
    drop(other);
    world.wait_filed("shop.test", 0, SOON).await;
    let mut again = launch_agent(&[], &gateway, &theirs, &agents_ca, app.target(), &[]);
    again.ready().await;
    assert_eq!(
        world
            .gateway
            .logged(&["(--ca)", "the one in use stays"])
            .len(),
        1
    );
    // The first one's authority goes: its tunnel stays, and it would not be taken again.
    replace(&ours, &text(&stranger.ca_file("stranger")));
    world.gateway.signal(Signal::HUP);
    let taken_up = "the authorities are taken up once more";
    tidegate_tests::eventually(SOON, taken_up, async || {
        (world.gateway.logged(&["(--ca)", "was read again"]).len() == 2).then_some(())
    })
    .await;
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
    assert!(
        world
            .listed()
            .await
            .iter()
            .any(|listed| listed["id"] == tunnel)
    );
    drop(old);
    let late = world.pki.agent(&["late.test"]);
    let late = launch_agent(&[], &gateway, &late, &agents_ca, app.target(), &[]);
    late.wait_log(&["[certificate]", "does not trust"]).await;
}

/// It dials at once with them, whatever its pause has grown to.
#[tokio::test]
async fn an_agent_takes_up_authorities() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let stranger = Pki::create(world.dir(), "stranger");
    let ca = world.file("agents-ca.crt");
    replace(&ca, &text(&stranger.ca_file("stranger")));
    let gateway = format!("localhost:{}", world.tunnels.port());
    let identity = world.pki.agent(&[HOST]);
    let mut agent = launch_agent(&[], &gateway, &identity, &ca, app.target(), &[]);
    agent
        .wait_log(&["[certificate]", "does not end at an authority"])
        .await;
    replace(&ca, &leaf_of(&identity));
    agent.signal(Signal::HUP);
    agent
        .wait_log(&["WARN", "agents-ca.crt", "the one in use stays"])
        .await;
    replace(&ca, &text(&world.pki.ca_file("ca")));
    agent.signal(Signal::HUP);
    agent
        .wait_log(&["INFO", "agents-ca.crt", "was read again"])
        .await;
    agent.ready().await;
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
}

/// The file of authorities and the identity are renewed in whatever order.
#[tokio::test]
async fn an_identity_of_an_authority_that_comes_later_is_used_then() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let stranger = Pki::create(world.dir(), "stranger");
    let theirs = text(&stranger.ca_file("stranger"));
    let both = [text(&world.pki.ca_file("ca")).as_str(), &theirs].concat();
    let identity = world.pki.agent(&[HOST]);
    let agents_ca = world.file("agents-ca.crt");
    replace(&agents_ca, &text(&world.pki.ca_file("ca")));
    replace(&world.pki.ca_file("ca"), &both);
    world.gateway.signal(Signal::HUP);
    world.gateway.wait_log(&["(--ca)", "was read again"]).await;
    let gateway = format!("localhost:{}", world.tunnels.port());
    let mut agent = launch_agent(&[], &gateway, &identity, &agents_ca, app.target(), &[]);
    agent.ready().await;
    replace(
        &identity,
        &text(&stranger.agent(&["blog.test", "of-the-other.test"])),
    );
    agent.signal(Signal::HUP);
    agent
        .wait_log(&["WARN", "the one in use stays", "does not end at"])
        .await;
    replace(&agents_ca, &both);
    agent.signal(Signal::HUP);
    agent.wait_log(&["was renewed"]).await;
    world.wait_filed("of-the-other.test", 4, SOON).await;
}
