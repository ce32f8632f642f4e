//! What was asked is kept in a file: over the gateway's end, and whatever stands at its path.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::{SOON, within};
use tidegate_tests::{HOST, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{answers, ask, ask_well, file, world};

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
