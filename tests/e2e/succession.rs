//! A gateway is restarted: the next one starts while the last one still answers those whom it has, and takes its place.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::http1::Framing;
use tidegate_tests::program::{Finished, Program, built, run};
use tidegate_tests::visitors::Visitor;
use tidegate_tests::visitors::http1::get;
use tidegate_tests::{HOST, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::intent::ask_well;

/// What a start costs at most that comes to nothing, whoever has the addresses, also on a loaded machine.
const DEAD_WITHIN: Duration = Duration::from_secs(10);

/// Two servers that nobody visits, for orders.
const SERVERS: &str = "[backends.shop.servers]\none = \"127.0.0.1:9\"\ntwo = \"127.0.0.1:9\"\n[[routes]]\nhost = \"shop.test\"\nbackend = \"shop\"\n";

/// A gateway with a control socket and a state file.
async fn world() -> World {
    let kept = "control = \"control\"\nstate_file = \"state.toml\"\n";
    World::builder()
        .config(&format!("{kept}{SERVERS}"))
        .start()
        .await
}

/// A visitor who is in the middle of an upload that is sent back to him.
pub(super) async fn in_flight(world: &World) -> (Visitor, Framing) {
    let mut visitor = world.visitor().await;
    let head = format!("POST /echo HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
    visitor.send(format!("{head}5\r\nfirst\r\n")).await;
    let head = visitor.head().await;
    assert_eq!(head.status(), 200);
    let mut framing = Framing::of_answer(&head, "POST").unwrap();
    assert_eq!(visitor.piece(&mut framing).await.unwrap(), "first");
    (visitor, framing)
}

/// He finishes it, and everything has come back.
pub(super) async fn finish((mut visitor, mut framing): (Visitor, Framing)) {
    visitor.send("4\r\nlast\r\n0\r\n\r\n").await;
    assert_eq!(visitor.piece(&mut framing).await.unwrap(), "last");
    assert!(visitor.piece(&mut framing).await.is_none());
}

async fn is_ready(world: &World) -> u16 {
    get(world.admin, "localhost", "/ready").await.status()
}

/// Another gateway that wants what these words say and listens elsewhere.
async fn rival(words: &[&str]) -> (Finished, Duration) {
    let any = "127.0.0.1:0";
    let all = ["run", "--visitors", any, "--tunnels-clear", any];
    let all = [&all[..], &["--tunnels-clear-name", "a.test"], words].concat();
    let all: Vec<_> = all.iter().map(Into::into).collect();
    let began = Instant::now();
    let finished = run(&built("tidegated"), &all).await;
    (finished, began.elapsed())
}

#[tokio::test]
async fn a_gateway_is_restarted_while_it_still_answers() {
    let mut world = world().await;
    let app = HttpApp::start("blog").await;
    let _agent = world.agent(HOST, app.target()).await;
    let (control, state) = (world.file("control"), world.file("state.toml"));
    let visitor = in_flight(&world).await;
    ask_well(&world, &["set", "shop/one", "drain", "--for", "4s"]).await;
    world.gateway.terminate();
    let next = world.launch_successor();
    let mut last = std::mem::replace(&mut world.gateway, next);
    world.gateway.ready().await;
    assert_eq!(is_ready(&world).await, 200);
    // The agents are told where to go, and whoever comes before them waits.
    let answer = world.get(HOST, "/hello").await;
    assert_eq!((answer.status(), answer.reason()), (200, ""));
    assert_eq!(answer.text(), "hello from blog\n");
    let took = "from a gateway that is draining";
    for (part, gave) in [
        ("the admin address", "the admin address"),
        ("the control socket", "the control socket"),
    ] {
        world
            .gateway
            .wait_log(&["INFO", "took over", part, took])
            .await;
        last.wait_log(&["INFO", "gave way", gave]).await;
    }
    let mode = fs::metadata(&control).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Orders have come along, and what is asked here stays although the other one still has orders that end.
    let shown = ask_well(&world, &["get", "shop/one"]).await;
    assert!(shown.contains("drain"), "{shown}");
    ask_well(&world, &["set", "shop/two", "weight=7"]).await;
    last.wait_log(&["shop", "the drain of server one", "is over"])
        .await;
    finish(visitor).await;
    assert!(last.ended(SOON).await.success());
    assert!(!last.log_contains("were cut") && !last.log_contains("not up to date"));
    let kept = fs::read_to_string(&state).unwrap();
    assert!(kept.contains("weight = 7"), "{kept}");
    let shown = ask_well(&world, &["get", "shop/two"]).await;
    assert!(shown.contains("7 of 1"), "{shown}");
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
}

/// So nobody is refused for longer than it takes to see that a port is free.
#[tokio::test]
async fn one_that_is_started_first_waits_for_the_other_to_be_stopped() {
    let mut world = world().await;
    let app = HttpApp::start("blog").await;
    let _agent = world.agent(HOST, app.target()).await;
    let visitor = in_flight(&world).await;
    let next = world.launch_successor();
    let mut last = std::mem::replace(&mut world.gateway, next);
    let visitors = world.visitors.to_string();
    let waits = ["INFO", &visitors, "(--visitors)", "is in use"];
    world.gateway.wait_log(&waits).await;
    last.terminate();
    world.gateway.ready().await;
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
    finish(visitor).await;
    assert!(last.ended(SOON).await.success());
    ask_well(&world, &["get"]).await;
}

/// Nobody asks for the admin address: the drain can be watched, and the agents are sent on all the same.
#[tokio::test]
async fn where_nobody_comes_the_drain_can_be_watched_to_its_end() {
    let mut world = world().await;
    let app = HttpApp::start("blog").await;
    let agent = world.agent(HOST, app.target()).await;
    let visitor = in_flight(&world).await;
    world.gateway.terminate();
    agent.wait_log(&["TCP", "refused"]).await;
    assert_eq!(is_ready(&world).await, 503);
    ask_well(&world, &["get"]).await;
    finish(visitor).await;
    assert!(world.gateway.ended(SOON).await.success());
    assert!(!world.file("control").exists());
    assert!(!world.gateway.log_contains("gave way"));
}

#[tokio::test]
async fn one_that_goes_on_keeps_what_it_has() {
    let world = world().await;
    let (admin, control) = (world.admin.to_string(), world.file("control"));
    let (second, took) = rival(&["--admin", &admin]).await;
    assert_eq!(second.code, Some(64), "{}", second.stderr);
    let said = "is another gateway running there?";
    assert!(second.stderr.contains(said), "{}", second.stderr);
    assert!(took < DEAD_WITHIN, "{took:?}");
    let (second, took) = rival(&["--control", control.to_str().unwrap()]).await;
    assert_eq!(second.code, Some(64), "{}", second.stderr);
    let said = "another gateway answers there; choose another path";
    assert!(second.stderr.contains(said), "{}", second.stderr);
    assert!(took < DEAD_WITHIN, "{took:?}");
    let mut second: Program = world.launch_successor();
    assert_eq!(second.ended(DEAD_WITHIN).await.code(), Some(64));
    // Whoever asks is told, and a page of a browser not even that.
    for (host, status) in [("localhost", 409), ("evil.test", 403)] {
        let mut asking = Visitor::connect(world.admin).await;
        let question = format!("POST /give-way HTTP/1.1\r\nHost: {host}\r\n\r\n");
        asking.send(question).await;
        assert_eq!(asking.answer("POST").await.status(), status);
    }
    assert_eq!(
        get(world.admin, "localhost", "/give-way").await.status(),
        405
    );
    assert_eq!(is_ready(&world).await, 200);
    ask_well(&world, &["get"]).await;
}

#[tokio::test]
async fn what_is_no_gateway_is_left_alone_and_costs_a_moment() {
    let said = "is another gateway running there?";
    // One that answers: it is asked one harmless thing.
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let answering = async {
        let (mut stream, _) = other.accept().await.unwrap();
        let mut asked = [0; 11];
        stream.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"GET /ready ");
        let answer = b"HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\nbusy\n";
        stream.write_all(answer).await.unwrap();
        drop(stream);
        other.accept().await
    };
    let words = ["--admin", &address];
    let (finished, took) = tokio::select! {
        ended = rival(&words) => ended,
        asked_again = answering => panic!("asked again: {asked_again:?}"),
    };
    assert_eq!(finished.code, Some(64), "{}", finished.stderr);
    assert!(finished.stderr.contains(said), "{}", finished.stderr);
    assert!(took < DEAD_WITHIN, "{took:?}");
    // One that is silent, at either place.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (finished, took) = rival(&["--admin", &address]).await;
    assert!(finished.stderr.contains(said), "{}", finished.stderr);
    assert!(took < DEAD_WITHIN, "{took:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let _silent = UnixListener::bind(&path).unwrap();
    let (finished, took) = rival(&["--control", path.to_str().unwrap()]).await;
    let said = "another gateway answers there";
    assert!(finished.stderr.contains(said), "{}", finished.stderr);
    assert!(took < DEAD_WITHIN, "{took:?}");
    assert!(path.exists());
}

/// A connection that stays is told that its gateway has gone, with its next answer.
#[tokio::test]
async fn whoever_is_connected_to_a_page_that_gives_way_is_answered_once_more() {
    let mut world = world().await;
    let app = HttpApp::start("blog").await;
    let _agent = world.agent(HOST, app.target()).await;
    let visitor = in_flight(&world).await;
    let mut connected = Visitor::connect(world.admin).await;
    connected.send_get("localhost", "/ready").await;
    assert_eq!(connected.answer("GET").await.status(), 200);
    world.gateway.terminate();
    let next = world.launch_successor();
    let mut last = std::mem::replace(&mut world.gateway, next);
    world.gateway.ready().await;
    connected.send_get("localhost", "/ready").await;
    let answer = connected.answer("GET").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.head.get("connection"), Some("close"));
    connected.closed_within(SOON).await;
    // All of its agents' tunnels are at the next one.
    world.wait_filed(HOST, 4, SOON).await;
    finish(visitor).await;
    eventually(SOON, "the last one has ended", async || {
        (!last.is_running()).then_some(())
    })
    .await;
}
