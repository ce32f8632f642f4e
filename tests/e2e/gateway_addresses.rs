//! One `--gateway` name, several addresses: each has its tunnels, and one that leaves DNS is left, without a loss
//! (README, `--gateway`).

use std::net::{IpAddr, Ipv4Addr};

use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::hosts::Hosts;
use tidegate_tests::world::launch_agent;
use tidegate_tests::{HOST, World};

/// The gateway's name; the harness's gateways have a certificate for it.
const NAME: &str = "gateway.test";

/// Addresses of this machine with a gateway on each, and one with none.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

#[tokio::test]
async fn every_address_has_its_tunnels_and_one_that_leaves_dns_is_drained() {
    let first = World::builder()
        .tunnels(&format!("{FIRST}:0"))
        .start()
        .await;
    let Some(hosts) = Hosts::available(first.dir()) else {
        return;
    };
    let port = first.tunnels.port();
    let ca = first.pki.ca_file("ca");
    let second = World::builder()
        .tunnels(&format!("{SECOND}:{port}"))
        .identity(first.pki.server(&[NAME]), ca.clone())
        .start()
        .await;
    let app = HttpApp::start("blog").await;
    let [at_first, at_second, at_nobody] = [FIRST, SECOND, NOBODY].map(IpAddr::from);
    // Where attempts fail the agent looks again every second or two: so it does while somebody is named who is not there.
    hosts.set(NAME, &[at_first, at_nobody]);
    let mut agent = launch_agent(
        &hosts.prefix(),
        &format!("{NAME}:{port}"),
        &first.pki.agent(&[HOST]),
        &ca,
        app.target(),
        &["--tunnels", "3"],
    );
    agent.ready().await;
    first.wait_filed(HOST, 3, SOON).await;
    assert_eq!(second.filed(HOST).await, 0);

    agent
        .wait_log(&["WARN", &at_nobody.to_string(), "[TCP]"])
        .await;
    hosts.set(NAME, &[at_first, at_second, at_nobody]);
    second.wait_filed(HOST, 3, SOON).await;
    assert_eq!(first.filed(HOST).await, 3);
    for world in [&first, &second] {
        assert_eq!(world.get(HOST, "/hello").await.text(), "hello from blog\n");
    }

    // What is in flight at the address that leaves is finished.
    let mut slow = second.visitor().await;
    slow.send_get(HOST, "/slow/6000").await;
    app.wait_request("/slow/6000").await;
    hosts.set(NAME, &[at_first, at_nobody]);
    agent
        .wait_log(&[&format!("{at_second}:{port}"), "is gone from DNS"])
        .await;
    second.wait_filed(HOST, 0, SOON).await;
    assert_eq!(slow.answer("GET").await.text(), "slow\n");
    assert_eq!(first.filed(HOST).await, 3);
    assert_eq!(first.get(HOST, "/hello").await.status(), 200);
    // A resolver that fails is no reason to leave anybody.
    hosts.set(NAME, &[]);
    agent.wait_log(&["[resolve]", NAME]).await;
    assert_eq!(first.filed(HOST).await, 3);
}
