//! What operators ask of servers at run time (issue 3 §5): it holds at once, it is told, it is kept, and it never changes where
//! servers are.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use serde_json::Value;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::{SOON, eventually, within};
use tidegate_tests::http1::Framing;
use tidegate_tests::program::{Finished, built, run};
use tidegate_tests::{HOST, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

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

/// The incident of a site whose saved state restored a port that was not declared any more: here it cannot.
#[tokio::test]
async fn what_was_asked_outlives_the_gateway_and_not_a_change_of_the_server() {
    let (one, two) = (HttpApp::start("one").await, HttpApp::start("two").await);
    let mut world = world(&[("one", one.address()), ("two", two.address())]).await;
    ask_well(&world, &["set", "site/one", "drain", "--why", "upgrade"]).await;
    ask_well(&world, &["set", "site/two", "weight=7"]).await;
    let state = fs::read_to_string(world.file("state.toml")).unwrap();
    let mode = fs::metadata(world.file("state.toml"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    for (name, app) in [("one", &one), ("two", &two)] {
        assert!(state.contains(&format!("server = \"{name}\"")), "{state}");
        assert!(
            !state.contains(&app.address().port().to_string()),
            "{state}"
        );
    }
    assert!(
        state.contains("why = \"upgrade\"") && state.contains("since = \"20"),
        "{state}"
    );
    // Killed: nothing is written at the end.
    world.gateway.kill().await;
    world.restart_gateway().await;
    world
        .gateway
        .wait_log(&[
            "backend site: server one is drained",
            ": upgrade (state file)",
        ])
        .await;
    assert_eq!(answers(&world, 4).await, ["two"; 4]);
    world.gateway.terminate();
    assert!(
        within(SOON, "the end", world.gateway.ended(SOON))
            .await
            .success()
    );
    // The server moves, another takes its former place, a third is gone.
    let moved = HttpApp::start("moved").await;
    let text = file(&[("one", moved.address()), ("three", one.address())], "");
    fs::write(world.file("gateway.toml"), text).unwrap();
    world.restart_gateway().await;
    let line = world
        .gateway
        .wait_log(&["what was asked of server one of backend site is given up"])
        .await;
    let place = format!("declared at another address by now, {}", moved.address());
    assert!(line.contains(&place), "{line}");
    world
        .gateway
        .wait_log(&["what was asked of server two of backend site is given up: there is no such server any more"])
        .await;
    let mut all = answers(&world, 4).await;
    all.sort();
    assert_eq!(all, ["moved", "moved", "one", "one"]);
}

#[tokio::test]
async fn a_state_file_that_is_broken_stops_nothing_and_is_kept() {
    let one = HttpApp::start("one").await;
    let mut world = world(&[("one", one.address())]).await;
    ask_well(&world, &["set", "site/one", "weight=2"]).await;
    let good = fs::read_to_string(world.file("state.toml")).unwrap();
    let head = good.lines().next().unwrap();
    for broken in [
        "[[intent",
        "[[intent]]\nbackend = \"site\"\naddress = \"127.0.0.1:1\"\n",
        "\0\u{ff}",
    ] {
        let broken = format!("{head}\n{broken}");
        world.gateway.kill().await;
        fs::write(world.file("state.toml"), &broken).unwrap();
        world.restart_gateway().await;
        world
            .gateway
            .wait_log(&[
                "the state file cannot be read",
                "state.toml:",
                "as it is declared",
            ])
            .await;
        assert_eq!(answers(&world, 1).await, ["one"]);
        assert_eq!(
            fs::read_to_string(world.file("state.toml")).unwrap(),
            broken
        );
        ask_well(&world, &["set", "site/one", "weight=2"]).await;
        let aside = fs::read_to_string(world.file("state.toml.unreadable")).unwrap();
        assert_eq!(aside, broken);
        assert!(
            fs::read_to_string(world.file("state.toml"))
                .unwrap()
                .contains("weight = 2")
        );
    }
}

/// What stands at the path by somebody's mistake stays there as it is, whatever is asked.
#[tokio::test]
async fn what_is_no_state_file_is_left_alone() {
    let one = HttpApp::start("one").await;
    let mut world = world(&[("one", one.address())]).await;
    let path = world.file("state.toml");
    let unsaved = async |world: &World| world.metrics().await.sum("tidegate_state_unsaved", &[]);
    world.gateway.kill().await;
    fs::write(&path, "# our networks\n10.0.0.0/8\n").unwrap();
    world.restart_gateway().await;
    let told = ["there is no state file", "state.toml", "left alone"];
    world.gateway.wait_log(&told).await;
    assert_eq!(unsaved(&world).await, 1.0);
    let finished = ask(&world, &["set", "site/one", "drain"]).await;
    assert_eq!(finished.code, Some(1));
    for part in ["is drained", "not in the state file", "left alone"] {
        assert!(finished.stderr.contains(part), "{}", finished.stderr);
    }
    assert_eq!(world.get(HOST, "/").await.reason(), "no-server", "it holds");
    let kept = fs::read_to_string(&path).unwrap();
    assert_eq!(kept, "# our networks\n10.0.0.0/8\n");
    assert!(!world.file("state.toml.unreadable").exists());
    // A folder that takes its place while the gateway runs fares no worse.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("precious"), "x").unwrap();
    let finished = ask(&world, &["set", "site/one", "weight=2"]).await;
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains("stands a directory"),
        "{}",
        finished.stderr
    );
    assert!(path.join("precious").exists());
    fs::remove_dir_all(&path).unwrap();
    ask_well(&world, &["set", "site/one", "ready"]).await;
    assert_eq!(unsaved(&world).await, 0.0);
    assert!(fs::read_to_string(&path).unwrap().contains("weight = 2"));
}

/// `check` and `run` refuse such a path, and nothing there changes.
#[tokio::test]
async fn paths_that_the_gateway_may_not_write_over_are_refused() {
    let one = HttpApp::start("one").await;
    let world = world(&[("one", one.address())]).await;
    let text = fs::read_to_string(world.file("gateway.toml")).unwrap()
        + "[listeners.a]\naddress = 0\n[listeners.a.sources]\ndeny = [\"deny.txt\"]\n";
    fs::write(world.file("deny.txt"), "10.0.0.0/8\n").unwrap();
    fs::create_dir(world.file("dir")).unwrap();
    std::os::unix::fs::symlink("dir", world.file("link")).unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(world.file("fifo"))
        .status();
    assert!(fifo.unwrap().success());
    let long = format!("dir/{}", "x".repeat(120));
    for (key, value, said) in [
        ("state_file", "dir", "a directory stands there"),
        ("state_file", "none/", "name a file in it"),
        ("state_file", "link", "a directory stands there"),
        ("state_file", "fifo", "a pipe stands there"),
        ("state_file", "/dev/null", "a device stands there"),
        ("state_file", "second.toml", "the file of --config as well"),
        (
            "state_file",
            "dir/../deny.txt",
            "the file of listeners.a.sources.deny as well",
        ),
        ("state_file", "socket", "the path of `control` as well"),
        ("control", "dir", "no socket stands there"),
        ("control", "none/socket", "must be there"),
        ("control", "second.toml", "no socket stands there"),
        ("control", &long, "longer than a socket's may be, by "),
    ] {
        let own = |known: &str, usual: &str| {
            let value = if known == key { value } else { usual };
            format!("{known} = \"{value}\"\n")
        };
        let text = text
            .replace(
                "state_file = \"state.toml\"\n",
                &own("state_file", "s.toml"),
            )
            .replace("control = \"control\"\n", &own("control", "socket"));
        let second = world.file("second.toml");
        fs::write(&second, &text).unwrap();
        for command in ["check", "run"] {
            let words = [command.into(), "--config".into(), second.clone().into()];
            let finished = run(&built("tidegated"), &words).await;
            let line = text.lines().position(|line| line.starts_with(key)).unwrap() + 1;
            let place = format!("second.toml:{line}:");
            assert_eq!(finished.code, Some(64), "{value}: {}", finished.stdout);
            assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
            for part in [place.as_str(), key, said] {
                assert!(
                    finished.stderr.contains(part),
                    "{part}: {}",
                    finished.stderr
                );
            }
        }
        assert_eq!(fs::read_to_string(&second).unwrap(), text);
    }
    assert!(world.file("dir").is_dir());
    // What is no mistake by itself is told of.
    for (value, said) in [
        (
            "deny2.txt",
            "no state file, by its first line, which is left alone",
        ),
        ("none/s.toml", "is not there"),
    ] {
        fs::write(world.file("deny2.txt"), "10.0.0.0/8\n").unwrap();
        let text = text.replace("\"state.toml\"", &format!("\"{value}\""));
        fs::write(
            world.file("second.toml"),
            text.replace("\"control\"", "\"c2\""),
        )
        .unwrap();
        let words = [
            "check".into(),
            "--config".into(),
            world.file("second.toml").into(),
        ];
        let finished = run(&built("tidegated"), &words).await;
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(finished.stdout.contains("advice: "), "{}", finished.stdout);
        assert!(finished.stdout.contains(said), "{}", finished.stdout);
    }
}

/// Whoever writes last writes what holds.
#[tokio::test]
async fn orders_given_at_once_are_kept_as_they_hold() {
    let one = HttpApp::start("one").await;
    let world = world(&[("one", one.address())]).await;
    for _ in 0..8 {
        let mut waiting = Vec::new();
        for weight in 1..=12 {
            let mut stream = UnixStream::connect(world.file("control")).await.unwrap();
            let order = format!(
                "{{\"set\":{{\"place\":{{\"backend\":\"site\",\"server\":\"one\"}},\"change\":{{\"weight\":{weight}}},\"seconds\":null,\"why\":null,\"who\":null}}}}\n"
            );
            stream.write_all(order.as_bytes()).await.unwrap();
            waiting.push(stream);
        }
        for mut stream in waiting {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("\"unsaved\":null"), "{answer}");
        }
        let list: Value =
            serde_json::from_str(&ask_well(&world, &["get", "site/one", "--json"]).await).unwrap();
        let state = fs::read_to_string(world.file("state.toml")).unwrap();
        let kept = format!("weight = {}\n", list[0]["weight"]);
        assert!(state.contains(&kept), "{kept}: {state}");
    }
}

#[tokio::test]
async fn a_state_file_that_cannot_be_written_is_told_of_and_tried_again() {
    let one = HttpApp::start("one").await;
    let text = file(&[("one", one.address())], "").replace("state.toml", "folder/state.toml");
    let world = World::builder().config(&text).start().await;
    let finished = ask(&world, &["set", "site/one", "drain"]).await;
    assert_eq!(finished.code, Some(1));
    for part in [
        "is drained",
        "not in the state file",
        "folder/state.toml cannot be written: No such file",
    ] {
        assert!(finished.stderr.contains(part), "{}", finished.stderr);
    }
    assert_eq!(world.get(HOST, "/").await.reason(), "no-server", "it holds");
    let unsaved = async || world.metrics().await.sum("tidegate_state_unsaved", &[]);
    assert_eq!(unsaved().await, 1.0);
    fs::create_dir(world.file("folder")).unwrap();
    world
        .gateway
        .wait_log(&["the state file is up to date again"])
        .await;
    assert_eq!(unsaved().await, 0.0);
    let state = fs::read_to_string(world.file("folder/state.toml")).unwrap();
    assert!(state.contains("mode = \"drain\""), "{state}");
}

#[tokio::test]
async fn the_socket_is_the_owners_and_nobody_holds_it_up() {
    let one = HttpApp::start("one").await;
    let mut world = world(&[("one", one.address())]).await;
    let path = world.file("control");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Silent ones, and one that says too much.
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(UnixStream::connect(&path).await.unwrap());
    }
    for said in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\n",
        b"{\"set\":{}}\n",
        &[b'['; 15_000],
        &[b'x'; 100_000],
    ] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        // The gateway may have answered before it was all there.
        let _all = stream.write_all(said).await;
        let _closed = stream.shutdown().await;
        let mut answer = String::new();
        if within(SOON, "an answer", stream.read_to_string(&mut answer))
            .await
            .is_ok()
        {
            assert!(answer.contains("not understood"), "{answer}");
        }
    }
    for (words, said) in [
        (
            ["set", "site/two", "drain"],
            "backend `site` has no server `two`; it has one",
        ),
        (
            ["set", "shop/one", "drain"],
            "there is no backend `shop`; there is site",
        ),
        (
            ["set", "site/one", "stop"],
            "write ready, drain, maintenance",
        ),
        (["set", "site", "drain"], "write BACKEND/SERVER"),
        (["set", "site/one", "weight=999"], "from 0 to 256"),
    ] {
        let finished = ask(&world, &words).await;
        assert_eq!(finished.code, Some(64), "{words:?}");
        assert!(finished.stderr.contains(said), "{}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    }
    // A second gateway at the same socket does not start, and the first keeps it.
    let second = [
        "run",
        "--visitors",
        "127.0.0.1:0",
        "--tunnels-clear",
        "127.0.0.1:0",
        "--tunnels-clear-name",
        "a.test",
        "--control",
    ];
    let words = second
        .map(Into::into)
        .into_iter()
        .chain([path.clone().into()]);
    let words: Vec<_> = words.collect();
    let finished = run(&built("tidegated"), &words).await;
    assert_eq!(finished.code, Some(64));
    assert!(
        finished.stderr.contains("another gateway answers there"),
        "{}",
        finished.stderr
    );
    ask_well(&world, &["get"]).await;
    // What one leaves that was killed is replaced; one that ends in peace takes it along.
    world.gateway.kill().await;
    assert!(path.exists());
    let finished = ask(&world, &["get"]).await;
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains("no gateway answers at"),
        "{}",
        finished.stderr
    );
    world.restart_gateway().await;
    ask_well(&world, &["get"]).await;
    world.gateway.signal(Signal::TERM);
    assert!(world.gateway.ended(SOON).await.success());
    assert!(!path.exists());
    fs::write(&path, "no socket").unwrap();
    let finished = run(&built("tidegated"), &words).await;
    assert!(
        finished.stderr.contains("no socket stands there"),
        "{}",
        finished.stderr
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "no socket");
}

/// `--config` is as good as `--control`.
#[tokio::test]
async fn the_gateway_is_found_by_its_file() {
    let one = HttpApp::start("one").await;
    let world = world(&[("one", one.address())]).await;
    let file = world.file("gateway.toml");
    let words = ["get".into(), "--config".into(), file.clone().into()];
    // That it is not enough to run a gateway is another matter.
    let finished = run(&built("tidegated"), &words).await;
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains("site/one"), "{}", finished.stdout);
    fs::write(&file, "admin = 0\n").unwrap();
    let finished = run(&built("tidegated"), &words).await;
    assert_eq!(finished.code, Some(64));
    assert!(
        finished.stderr.contains("has no `control`"),
        "{}",
        finished.stderr
    );
    let finished = run(&built("tidegated"), &["get".into()]).await;
    assert!(
        finished.stderr.contains("--control PATH"),
        "{}",
        finished.stderr
    );
}
