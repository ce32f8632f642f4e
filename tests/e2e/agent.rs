//! The agent keeps its tunnels up, says why when it cannot, and connects only where its owner told it (issue §5).

use std::time::{Duration, Instant};

use tidegate_tests::apps::{AbsentApp, HttpApp};
use tidegate_tests::eventually::SOON;
use tidegate_tests::link::Link;
use tidegate_tests::netns::Netns;
use tidegate_tests::peers::field;
use tidegate_tests::peers::frame::{Frame, code, kind};
use tidegate_tests::peers::gateway::{RawGateway, answer, request};
use tidegate_tests::pki::Pki;
use tidegate_tests::program::{Program, built, run};
use tidegate_tests::world::launch_agent;
use tidegate_tests::{HOST, Site, World, eventually, within};
use tokio::net::TcpListener;

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

#[tokio::test]
async fn every_kind_of_target_is_reached() {
    let world = World::start().await;
    let unix = HttpApp::start_unix("unix", world.dir());
    let tls_config =
        world
            .pki
            .server_config(&world.pki.server(&["localhost"]), false, &["http/1.1"]);
    let tls = HttpApp::start_tls("tls", tls_config).await;
    let plain = HttpApp::start("plain").await;
    let port = plain.address().port();
    let ca = world.pki.ca_file("ca");
    let targets = [
        ("port.test", port.to_string(), "plain"),
        ("host.test", format!("localhost:{port}"), "plain"),
        ("url.test", format!("http://127.0.0.1:{port}"), "plain"),
        ("unix.test", unix.target().to_owned(), "unix"),
        ("tls.test", tls.target().to_owned(), "tls"),
    ];
    for (name, target, app) in targets {
        let options = ["--tunnels", "1", "--target-ca", ca.to_str().unwrap()];
        let options = if app == "tls" {
            &options[..]
        } else {
            &options[..2]
        };
        let _agent = world.agent_with(name, &target, options).await;
        assert_eq!(
            world.get(name, "/hello").await.text(),
            format!("hello from {app}\n"),
            "{target}"
        );
        let head = format!("POST /upload HTTP/1.1\r\nHost: {name}\r\nContent-Length: 1\r\n\r\n\0");
        let mut visitor = world.visitor().await;
        visitor.send(head).await;
        assert_eq!(visitor.answer("POST").await.text(), "1 intact", "{target}");
    }
}

/// A visitor never chooses where an agent connects.
#[tokio::test]
async fn requests_do_not_move_the_agents_target() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let gateway = RawGateway::listen(&pki, &pki.server(&["localhost"])).await;
    let (app, other) = (HttpApp::start("app").await, HttpApp::start("other").await);
    let address = format!("localhost:{}", gateway.address().port());
    let (identity, ca) = (pki.agent(&[HOST]), pki.ca_file("ca"));
    let _agent = launch_agent(
        &[],
        &address,
        &identity,
        &ca,
        app.target(),
        &["--tunnels", "1"],
    );
    let mut peer = gateway.reversed().await;
    let elsewhere = other.address().to_string();
    let absolute = format!("http://{elsewhere}/x");
    let attempts = [
        request("GET", &elsewhere, "/x"),
        request("GET", HOST, &absolute),
        vec![(":method", "CONNECT"), (":authority", &elsewhere)],
        vec![
            (":method", "GET"),
            (":scheme", "unix"),
            (":authority", HOST),
            (":path", "/x"),
        ],
    ];
    for (stream, fields) in (1..).step_by(2).zip(&attempts) {
        peer.send_head(stream, fields, fields[0].1 != "CONNECT")
            .await;
        // Any answer will do, also a reset: what counts is who has not been asked.
        let kinds = [kind::HEADERS, kind::RST_STREAM];
        within(SOON, "an answer", async {
            loop {
                let frame = peer.frame().await.unwrap();
                if frame.stream == stream && kinds.contains(&frame.kind) {
                    return;
                }
            }
        })
        .await;
    }
    assert_eq!(other.connections(), 0);
}

/// Whatever a gateway lets through: the app's HTTP/1 can be read in one way.
#[tokio::test]
async fn requests_that_would_smuggle_do_not_reach_the_app() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let gateway = RawGateway::listen(&pki, &pki.server(&["localhost"])).await;
    let app = HttpApp::start("app").await;
    let address = format!("localhost:{}", gateway.address().port());
    let _agent = launch_agent(
        &[],
        &address,
        &pki.agent(&[HOST]),
        &pki.ca_file("ca"),
        app.target(),
        &["--tunnels", "1"],
    );
    let mut peer = gateway.reversed().await;
    let with = |method, more: &[(&'static str, &'static str)]| {
        let mut fields = request(method, HOST, "/upload");
        fields.extend(more);
        fields
    };
    let upgrade = |protocol| {
        let mut fields = request("CONNECT", HOST, "/ws");
        fields.insert(1, (":protocol", protocol));
        fields
    };
    let attempts = [
        with("POST", &[("content-length", "0"), ("content-length", "00")]),
        with("POST", &[("content-length", "")]),
        upgrade("h2c"),
        upgrade("TLS/1.3"),
        upgrade("foo\r\nX-Owned: 1"),
        upgrade("a b"),
        upgrade(""),
    ];
    let mut stream = 1;
    for fields in &attempts {
        peer.send_head(stream, fields, fields[0].1 == "POST").await;
        let (head, _, _) = answer(&mut peer, stream).await;
        let status = head.iter().find(|(name, _)| name == ":status");
        assert_eq!(
            status.map(|(_, status)| status.as_str()),
            Some("400"),
            "{fields:?}"
        );
        assert!(
            app.requests().is_empty(),
            "{fields:?}: {:?}",
            app.requests()
        );
        stream += 2;
    }
    peer.send_head(stream, &request("GET", HOST, "/hello"), true)
        .await;
    assert_eq!(answer(&mut peer, stream).await.1, b"hello from app\n");
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
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let gateway = RawGateway::listen(&pki, &pki.server(&["localhost"])).await;
    let app = HttpApp::start("app").await;
    let address = format!("localhost:{}", gateway.address().port());
    let (identity, ca) = (pki.agent(&[HOST]), pki.ca_file("ca"));
    let mut agent = launch_agent(
        &[],
        &address,
        &identity,
        &ca,
        app.target(),
        &["--tunnels", "1"],
    );
    let mut peer = gateway.reversed().await;
    peer.send_head(1, &request("GET", HOST, "/slow/700"), true)
        .await;
    app.wait_request("/slow/700").await;
    agent.terminate();
    let goaway = peer.wait_frame(kind::GOAWAY).await;
    assert_eq!(goaway.code(), code::NO_ERROR);
    assert_eq!(answer(&mut peer, 1).await.1, b"slow\n");
    assert!(agent.ended(SOON).await.success());
}

#[tokio::test]
async fn a_gateways_goaway_is_followed_by_another_tunnel() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let gateway = RawGateway::listen(&pki, &pki.server(&["localhost"])).await;
    let app = HttpApp::start("app").await;
    let address = format!("localhost:{}", gateway.address().port());
    let (identity, ca) = (pki.agent(&[HOST]), pki.ca_file("ca"));
    let _agent = launch_agent(
        &[],
        &address,
        &identity,
        &ca,
        app.target(),
        &["--tunnels", "1"],
    );
    let mut first = gateway.reversed().await;
    first
        .send_head(1, &request("GET", HOST, "/slow/500"), true)
        .await;
    app.wait_request("/slow/500").await;
    first.send(Frame::goaway(0, code::NO_ERROR)).await;
    let mut second = gateway.reversed().await;
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
async fn mistakes_of_the_user_end_with_64_and_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let (identity, ca) = (pki.agent(&[HOST]), pki.ca_file("ca"));
    let (identity, ca) = (identity.to_str().unwrap(), ca.to_str().unwrap());
    let good = [
        "--gateway",
        "localhost:1",
        "--identity",
        identity,
        "--ca",
        ca,
    ];
    let missing = [
        "--gateway",
        "localhost:1",
        "--identity",
        "/no/such/file.pem",
        "--ca",
        ca,
    ];
    let swapped = ["--gateway", "localhost:1", "--identity", ca, "--ca", ca];
    let lines: [(&str, Vec<&str>, &str); 8] = [
        ("tidegate", vec![], ""),
        ("tidegate", vec!["http"], "target"),
        (
            "tidegate",
            [&["http", "ftp://x"], &good[..]].concat(),
            "ftp://x",
        ),
        (
            "tidegate",
            [&["http", "99999"], &good[..]].concat(),
            "99999",
        ),
        (
            "tidegate",
            [&["http", "1"], &missing[..]].concat(),
            "/no/such/file.pem",
        ),
        ("tidegate", [&["http", "1"], &swapped[..]].concat(), ca),
        (
            "tidegate",
            [&["http", "1", "--tunnels", "0"], &good[..]].concat(),
            "tunnels",
        ),
        ("tidegated", vec!["run", "--visitors", "nowhere"], "nowhere"),
    ];
    for (program, args, words) in lines {
        let args: Vec<_> = args.iter().map(Into::into).collect();
        let finished = run(&built(program), &args).await;
        assert_eq!(
            finished.code,
            Some(64),
            "{program} {args:?}: {}",
            finished.stderr
        );
        let said = finished.stderr.to_lowercase();
        assert!(
            said.contains(&words.to_lowercase()),
            "{program} {args:?}: {words} in {said}"
        );
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// Whatever a file's option points at, the program says what is wrong and ends: it does not read for ever.
#[tokio::test]
async fn what_is_no_file_is_refused_by_every_program() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let (agent, server) = (text(pki.agent(&[HOST])), text(pki.server(&["localhost"])));
    let ca = text(pki.ca_file("ca"));
    let (pipe, folder) = (dir.path().join("pipe"), text(dir.path().to_owned()));
    let made = run(std::path::Path::new("mkfifo"), &[pipe.clone().into()]).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let giant = dir.path().join("giant.pem");
    let file = std::fs::File::create(&giant).unwrap();
    file.set_len(1 << 40).unwrap();
    let (pipe, giant) = (text(pipe), text(giant));
    for (odd, reason) in [
        ("/dev/zero", "a device"),
        (&pipe, "a pipe"),
        (&folder, "a directory"),
        (&giant, "larger than 1 MiB"),
    ] {
        let http = |identity, ca| {
            let gateway = ["http", "https://localhost:1", "--gateway", "localhost:1"];
            [&gateway[..], &["--identity", identity, "--ca", ca]].concat()
        };
        let any = "127.0.0.1:0";
        let gateway = |identity, ca| {
            let tunnels = ["run", "--tunnels", any, "--visitors", any];
            [&tunnels[..], &["--identity", identity, "--ca", ca]].concat()
        };
        for (program, args) in [
            ("tidegate", http(odd, &ca)),
            ("tidegate", http(&agent, odd)),
            (
                "tidegate",
                [&http(&agent, &ca)[..], &["--target-ca", odd]].concat(),
            ),
            ("tidegated", gateway(odd, &ca)),
            ("tidegated", gateway(&server, odd)),
            (
                "tidegated",
                [
                    &gateway(&server, &ca)[..],
                    &["--visitors-tls", any, "--visitors-cert", odd],
                ]
                .concat(),
            ),
            ("tidegate-certs", vec!["show", odd]),
        ] {
            let args: Vec<_> = args.iter().map(Into::into).collect();
            let finished = run(&built(program), &args).await;
            let said = &finished.stderr;
            assert_eq!(finished.code, Some(64), "{program} {args:?}: {said}");
            assert!(said.contains(odd), "{program} {args:?}: {said}");
            assert!(said.contains(reason), "{program} {args:?}: {said}");
        }
    }
}

#[tokio::test]
async fn an_address_in_use_ends_with_a_sentence() {
    let world = World::start().await;
    let taken = world.visitors.to_string();
    let (identity, ca) = (world.pki.server(&["localhost"]), world.pki.ca_file("ca"));
    let mut args: Vec<std::ffi::OsString> =
        ["run", "--visitors", &taken, "--tunnels", "127.0.0.1:0"]
            .map(Into::into)
            .to_vec();
    args.extend([
        "--identity".into(),
        identity.into(),
        "--ca".into(),
        ca.into(),
    ]);
    let finished = run(&built("tidegated"), &args).await;
    assert!(matches!(finished.code, Some(1 | 64)), "{:?}", finished.code);
    assert!(finished.stderr.contains(&taken), "{}", finished.stderr);
    assert!(!finished.stdout.contains("ready"));
}

#[tokio::test]
async fn every_option_has_a_sentence_and_a_variable() {
    for (program, args) in [
        ("tidegated", &["run", "--help"][..]),
        ("tidegate", &["http", "--help"]),
    ] {
        let args: Vec<_> = args.iter().map(Into::into).collect();
        let finished = run(&built(program), &args).await;
        assert_eq!(finished.code, Some(0), "{program}: {}", finished.stderr);
        let options = finished.stdout.matches("\n      --").count()
            + finished.stdout.matches("\n  -").count();
        let variables = finished.stdout.matches("[env: TIDEGATE_").count();
        // --help (and --version, where it is) has none.
        assert!(
            options > 4 && variables + 3 > options,
            "{options} options, {variables} variables"
        );
    }
}

#[tokio::test]
async fn options_may_come_from_the_environment() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let mut command = tokio::process::Command::new(built("tidegate"));
    command.args(["http", app.target()]);
    command.env(
        "TIDEGATE_GATEWAY",
        format!("localhost:{}", world.tunnels.port()),
    );
    command.env("TIDEGATE_IDENTITY", world.pki.agent(&[HOST]));
    command.env("TIDEGATE_CA", world.pki.ca_file("ca"));
    command.env("TIDEGATE_TUNNELS", "2");
    let mut agent = Program::spawn("tidegate", &mut command);
    agent.ready().await;
    world.wait_filed(HOST, 2, SOON).await;
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
