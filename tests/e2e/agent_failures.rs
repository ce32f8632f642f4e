//! The agent says why when it cannot, once and with what to do: to its log what stands between it and a gateway, and to visitors
//! what stands between it and its app (issue §5).

use std::time::{Duration, Instant};

use tidegate_tests::apps::{AbsentApp, HttpApp};
use tidegate_tests::eventually::SOON;
use tidegate_tests::peers::gateway::RawGateway;
use tidegate_tests::pki::Pki;
use tidegate_tests::world::launch_agent;
use tidegate_tests::{HOST, World, eventually};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_gateway_whose_certificate_has_a_cn_only_is_told_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let mut params = Pki::server_params(&["localhost"]);
    params.subject_alt_names.clear();
    let gateway = RawGateway::listen(&pki, &pki.issue(&params, "cn-only")).await;
    let address = format!("localhost:{}", gateway.address().port());
    let (identity, ca) = (pki.agent(&[HOST]), pki.ca_file("ca"));
    let agent = launch_agent(&[], &address, &identity, &ca, "1", &["--tunnels", "1"]);
    let tcp = gateway.accept_tcp().await;
    let config = pki.server_config(&pki.issue(&params, "cn-only"), true, &["h2"]);
    let refused = tidegate_tests::conn::Conn::accept_tls(tcp, config).await;
    assert!(refused.is_err(), "the agent goes on");
    let said = agent.wait_log(&["[certificate]", "localhost"]).await;
    assert!(said.contains("a CN alone does not count"), "{said}");
    assert!(!said.contains("--server-name"), "no name would do: {said}");
}

/// Each failure is logged with its layer.
#[tokio::test]
async fn failures_are_logged_with_their_layer() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let stranger = Pki::create(dir.path(), "stranger");
    let (identity, ca) = (pki.agent(&[HOST]), pki.ca_file("ca"));
    let launch =
        |gateway: &str| launch_agent(&[], gateway, &identity, &ca, "1", &["--tunnels", "1"]);

    launch("no-such-host.invalid:443")
        .wait_log(&["resolve", "no-such-host.invalid"])
        .await;

    let absent = AbsentApp::new();
    let dead = absent.address().to_string();
    launch(&dead).wait_log(&["TCP", &dead]).await;

    let app = HttpApp::start("not-tls").await;
    launch(&app.address().to_string()).wait_log(&["TLS"]).await;

    let stranger = RawGateway::listen(&pki, &stranger.server(&["localhost"])).await;
    let agent = launch(&format!("localhost:{}", stranger.address().port()));
    let tcp = stranger.accept_tcp().await;
    let config = pki.server_config(&pki.server(&["elsewhere.test"]), true, &["h2"]);
    let _ = tidegate_tests::conn::Conn::accept_tls(tcp, config).await;
    agent.wait_log(&["certificate"]).await;

    let identity_of_gateway = pki.server(&["localhost"]);
    let plain = RawGateway::listen_alpn(&pki, &identity_of_gateway, &[]).await;
    let agent = launch(&format!("localhost:{}", plain.address().port()));
    let _conn = plain.accept().await;
    agent.wait_log(&["ALPN"]).await;

    let world = World::start().await;
    let mut odd = Pki::agent_params(&["x.test"]);
    odd.subject_alt_names.clear();
    odd.distinguished_name = tidegate_tests::pki::two_common_names("x.test", "y.test");
    let odd = world.pki.issue(&odd, "odd");
    let agent = world.launch_agent(&odd, "1", &["--tunnels", "1"]);
    agent.wait_log(&["refused"]).await;
}

#[tokio::test]
async fn failures_that_repeat_are_summarised_and_spaced_out() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = listener.local_addr().unwrap().to_string();
    let (identity, ca) = (pki.agent(&[HOST]), pki.ca_file("ca"));
    let agent = launch_agent(&[], &gateway, &identity, &ca, "1", &["--tunnels", "1"]);
    let end = Instant::now() + Duration::from_secs(6);
    let mut dials = 0;
    while let Ok(accepted) = tokio::time::timeout_at(end.into(), listener.accept()).await {
        dials += 1;
        drop(accepted);
    }
    // A HAProxy agent dials thousands of times a second here.
    assert!((2..=20).contains(&dials), "{dials} dials in 6 s");
    assert!(agent.log().len() <= 12, "{:?}", agent.log());
}

#[tokio::test]
async fn an_app_that_is_down_is_a_502_that_says_so_and_is_printed_once() {
    let world = World::start().await;
    let absent = AbsentApp::new();
    let address = absent.address();
    let agent = world.agent(HOST, &format!("http://{address}")).await;
    for _ in 0..3 {
        let answer = world.get(HOST, "/").await;
        assert_eq!(answer.status(), 502);
        let said = format!("{} {}", answer.reason(), answer.text()).to_lowercase();
        assert!(
            said.contains("app"),
            "the agent is there and the app is not: {said}"
        );
    }
    let port = address.port().to_string();
    let unreachable = [&port, "cannot be reached"];
    agent.wait_log(&unreachable).await;
    let _app = HttpApp::start_at("blog", absent.listen());
    assert_eq!(world.get(HOST, "/hello").await.text(), "hello from blog\n");
    assert_eq!(agent.logged(&unreachable).len(), 1, "{:?}", agent.log());
}

/// An agent whose app is down does not take the visitors of one whose app is up.
#[tokio::test]
async fn an_app_that_is_down_beside_one_that_is_up_is_not_noticed() {
    let world = World::start().await;
    let absent = AbsentApp::new();
    let down = format!("http://{}", absent.address());
    let lone = world.agent_with(HOST, &down, &["--tunnels", "2"]).await;
    world.wait_filed(HOST, 2, SOON).await;
    let app = HttpApp::start("blog").await;
    let _other = world
        .agent_with(HOST, app.target(), &["--tunnels", "2"])
        .await;
    world.wait_filed(HOST, 4, SOON).await;
    let mut visitor = world.visitor().await;
    for _ in 0..40 {
        visitor.send_get(HOST, "/hello").await;
        assert_eq!(visitor.answer("GET").await.text(), "hello from blog\n");
    }
    lone.wait_log(&["cannot be reached"]).await;
}

/// The app is not to blame for what its agent lacks, and is served again when there is room.
#[tokio::test]
async fn an_agent_without_descriptors_says_so() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let gateway = format!("localhost:{}", world.tunnels.port());
    let (identity, ca) = (world.pki.agent(&[HOST]), world.pki.ca_file("ca"));
    let limited = ["prlimit", "--nofile=48:48"].map(Into::into);
    let mut agent = launch_agent(&limited, &gateway, &identity, &ca, app.target(), &[]);
    agent.ready().await;
    world.wait_filed(HOST, 4, SOON).await;
    let mut crowd = Vec::new();
    for _ in 0..64 {
        let mut visitor = world.visitor().await;
        visitor.send_get(HOST, "/never").await;
        crowd.push(visitor);
    }
    agent
        .wait_log(&["WARN", "descriptors", "limit of open files"])
        .await;
    drop(crowd);
    eventually(SOON, "the app is reached again", async || {
        (world.get(HOST, "/hello").await.status() == 200).then_some(())
    })
    .await;
}
