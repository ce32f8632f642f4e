//! What operators ask of servers at run time (issue 3 §5): it holds at once, it is told, it is kept, and it never changes where
//! servers are.

mod paths; // where the socket and the file are

mod state_file; // what is kept

use std::fs;
use std::net::SocketAddr;

use serde_json::Value;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::http1::Framing;
use tidegate_tests::program::{Finished, built, run};
use tidegate_tests::{HOST, World};

/// A file for a backend with these servers, a control socket and a state file.
fn file(servers: &[(&str, SocketAddr)], more: &str) -> String {
    let servers: String = servers
        .iter()
        .map(|(name, at)| format!("{name} = \"{at}\"\n"))
        .collect();
    format!(
        "control = \"control\"\nstate_file = \"state.toml\"\n[backends.site]\n{more}\n[backends.site.servers]\n{servers}[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n"
    )
}

pub(super) async fn world(servers: &[(&str, SocketAddr)]) -> World {
    World::builder().config(&file(servers, "")).start().await
}

/// Runs `tidegated` with these words for the world's gateway.
async fn ask(world: &World, words: &[&str]) -> Finished {
    let words = words.iter().map(Into::into);
    let control = ["--control".into(), world.file("control").into()];
    let words: Vec<_> = words.chain(control).collect();
    run(&built("tidegated"), &words).await
}

/// The same where nothing goes wrong.
pub(super) async fn ask_well(world: &World, words: &[&str]) -> String {
    let finished = ask(world, words).await;
    assert_eq!(
        (finished.code, finished.stderr.as_str()),
        (Some(0), ""),
        "{words:?}"
    );
    finished.stdout
}

/// Which server answers, of so many requests.
async fn answers(world: &World, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..count {
        let text = world.get(HOST, "/").await.text();
        all.push(text.trim_start_matches("hello from ").trim().to_owned());
    }
    all
}

#[tokio::test]
async fn a_drained_server_finishes_what_it_has_and_gets_nothing_new() {
    let (one, two) = (HttpApp::start("one").await, HttpApp::start("two").await);
    let world = world(&[("one", one.address()), ("two", two.address())]).await;
    let mut visitors = Vec::new();
    for _ in 0..2 {
        let mut visitor = world.visitor().await;
        visitor.send_get(HOST, "/sse").await;
        let head = visitor.head().await;
        let framing = Framing::of_answer(&head, "GET").unwrap();
        visitors.push((visitor, framing));
    }
    assert_eq!((one.count("/sse"), two.count("/sse")), (1, 1));
    let said = ask_well(
        &world,
        &[
            "set",
            "site/one",
            "drain",
            "--why",
            "a new\ndisk",
            "--for",
            "2h",
        ],
    )
    .await;
    assert!(said.contains("backend site: server one"), "{said}");
    assert!(
        said.contains("is drained: it gets no new requests, until 20"),
        "{said}"
    );
    assert_eq!(answers(&world, 4).await, ["two"; 4]);
    let shown = ask_well(&world, &["get"]).await;
    let line = shown
        .lines()
        .find(|line| line.starts_with("site/one"))
        .unwrap();
    assert!(line.contains(" drain ") && line.contains("uid "), "{shown}");
    assert!(line.ends_with(": a new disk"), "{shown}");
    let list: Value =
        serde_json::from_str(&ask_well(&world, &["get", "site/one", "--json"]).await).unwrap();
    assert_eq!(list[0]["in_flight"], 1, "{list}");
    assert_eq!(list[0]["mode"]["why"], "a new disk");
    world
        .gateway
        .wait_log(&[
            "backend site: server one",
            "is drained",
            "by ",
            "until",
            ": a new disk",
        ])
        .await;
    let metrics = world.metrics().await;
    let drained = ["server=\"one\"", "mode=\"drain\""];
    assert_eq!(metrics.sum("tidegate_backend_server_asked", &drained), 1.0);
    let of_one = ["server=\"one\""];
    assert_eq!(metrics.sum("tidegate_backend_server_weight", &of_one), 0.0);
    // It still goes on.
    for (mut visitor, mut framing) in visitors {
        assert!(visitor.piece(&mut framing).await.is_some());
    }
    let said = ask_well(&world, &["set", "site/one", "ready"]).await;
    assert!(said.contains("is used as declared"), "{said}");
    let both = answers(&world, 4).await;
    assert!(both.contains(&"one".to_owned()), "{both:?}");
    let state = fs::read_to_string(world.file("state.toml")).unwrap();
    assert!(!state.contains("[[intent]]"), "{state}");
}

#[tokio::test]
async fn maintenance_closes_what_rests_and_a_backend_without_servers_says_so() {
    let one = HttpApp::start("one").await;
    let world = world(&[("one", one.address())]).await;
    assert_eq!(answers(&world, 1).await, ["one"]);
    let open = async || {
        let metrics = world.metrics().await;
        metrics.sum("tidegate_backend_open_connections", &["server=\"one\""])
    };
    assert_eq!(open().await, 1.0);
    ask_well(&world, &["set", "site/one", "maintenance"]).await;
    eventually(SOON, "nothing rests", async || {
        (open().await == 0.0).then_some(())
    })
    .await;
    let answer = world.get(HOST, "/").await;
    assert_eq!((answer.status(), answer.reason()), (503, "no-server"));
    ask_well(&world, &["set", "site/one", "ready"]).await;
    assert_eq!(answers(&world, 1).await, ["one"]);
}

#[tokio::test]
async fn whoever_waits_for_room_hears_of_a_change() {
    let (one, two) = (HttpApp::start("one").await, HttpApp::start("two").await);
    let servers = format!(
        "one = {{ address = \"{}\", max_connections = 1 }}\ntwo = \"{}\"\n",
        one.address(),
        two.address()
    );
    let more = "queue_timeout = \"60s\"";
    let text = file(&[], more).replace(
        "[backends.site.servers]\n",
        &format!("[backends.site.servers]\n{servers}"),
    );
    let world = World::builder().config(&text).start().await;
    ask_well(&world, &["set", "site/two", "drain"]).await;
    let mut holder = world.visitor().await;
    holder.send_get(HOST, "/never").await;
    one.wait_request("/never").await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut visitor = world.visitor().await;
        visitor.send_get(HOST, "/hello").await;
        waiting.push(visitor);
    }
    eventually(SOON, "three wait", async || {
        let metrics = world.metrics().await;
        (metrics.sum("tidegate_backend_queued", &[]) == 3.0).then_some(())
    })
    .await;
    ask_well(&world, &["set", "site/two", "ready"]).await;
    for mut visitor in waiting {
        assert_eq!(visitor.answer("GET").await.text(), "hello from two\n");
    }
    // And where nothing is left to wait for.
    ask_well(&world, &["set", "site/two", "drain"]).await;
    let mut visitor = world.visitor().await;
    visitor.send_get(HOST, "/hello").await;
    eventually(SOON, "it waits", async || {
        let metrics = world.metrics().await;
        (metrics.sum("tidegate_backend_queued", &[]) == 1.0).then_some(())
    })
    .await;
    ask_well(&world, &["set", "site/one", "drain"]).await;
    let answer = visitor.answer("GET").await;
    assert_eq!((answer.status(), answer.reason()), (503, "no-server"));
}

#[tokio::test]
async fn weights_count_and_end_with_their_time() {
    let (one, two) = (HttpApp::start("one").await, HttpApp::start("two").await);
    let world = world(&[("one", one.address()), ("two", two.address())]).await;
    ask_well(&world, &["set", "site/one", "weight=3"]).await;
    let all = answers(&world, 8).await;
    assert_eq!(
        all.iter().filter(|name| *name == "one").count(),
        6,
        "{all:?}"
    );
    ask_well(&world, &["set", "site/one", "weight=0", "--for", "1s"]).await;
    let shown = ask_well(&world, &["get", "site"]).await;
    assert!(
        shown.contains("unused") && shown.contains("0 of 1"),
        "{shown}"
    );
    let said = ask_well(&world, &["set", "site/one", "ready"]).await;
    assert!(
        said.contains("still gets no requests: weight 0 is asked of it"),
        "{said}"
    );
    world
        .gateway
        .wait_log(&["backend site: the weight 0 of server one", "is over, by "])
        .await;
    let all = answers(&world, 4).await;
    assert_eq!(
        all.iter().filter(|name| *name == "one").count(),
        2,
        "{all:?}"
    );
    eventually(SOON, "the state file is rid of it", async || {
        let state = fs::read_to_string(world.file("state.toml")).unwrap();
        (!state.contains("[[intent]]")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_keeps_a_server_from_its_share_is_shown() {
    let one = HttpApp::start("one").await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let servers = [("one", one.address()), ("two", gone.local_addr().unwrap())];
    drop(gone);
    let more =
        "eject_after = 1\neject_time = \"60s\"\neject_time_most = \"60s\"\nslow_start = \"60s\"";
    let world = World::builder().config(&file(&servers, more)).start().await;
    assert_eq!(
        answers(&world, 2).await,
        ["one", "one"],
        "the other is tried and left out"
    );
    let shown = ask_well(&world, &["get", "site/two"]).await;
    for part in [
        "left out",
        "its requests failed",
        "connection refused",
        "it is tried again in ",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    let list: Value =
        serde_json::from_str(&ask_well(&world, &["get", "site/two", "--json"]).await).unwrap();
    let fault = list[0]["fault"].as_str().unwrap();
    assert!(fault.contains("connection refused"), "{fault}");
    let weight = async || {
        let metrics = world.metrics().await;
        metrics.sum("tidegate_backend_server_weight", &["server=\"one\""])
    };
    assert_eq!(weight().await, 1.0);
    ask_well(&world, &["set", "site/one", "drain"]).await;
    assert_eq!(weight().await, 0.0);
    ask_well(&world, &["set", "site/one", "ready"]).await;
    let shown = ask_well(&world, &["get", "site/one"]).await;
    for part in ["in use, slow start", "0.05 of 1"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(weight().await < 0.2);
}
