//! What operators ask of a server that DNS finds is for the machine, wherever the gateway keeps it.

use std::collections::HashSet;
use std::fs;

use serde_json::Value;
use tidegate_tests::program::{Finished, built, run};

use super::*;

async fn ordered(dns: &Dns, port: u16) -> World {
    declared(dns, &at(port, 3)).await
}

async fn declared(dns: &Dns, server: &str) -> World {
    let text = format!(
        "control = \"control\"\nstate_file = \"state.toml\"\n[backends.site.servers]\none = {server}\n[[routes]]\nhost = \"{HOST}\"\n\
         backend = \"site\"\n[resolver]\nservers = \"{}\"\nhold = 0\n",
        dns.address
    );
    World::builder().config(&text).start().await
}

async fn ask(world: &World, words: &[&str]) -> Finished {
    let control = ["--control".into(), world.file("control").into()];
    let words: Vec<_> = words.iter().map(Into::into).chain(control).collect();
    run(&built("tidegated"), &words).await
}

async fn rows(world: &World) -> Vec<Value> {
    let finished = ask(world, &["get", "site", "--json"]).await;
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    serde_json::from_str(&finished.stdout).unwrap()
}

/// The slot at an address, or at none, as `site/one-1`, once there is one.
async fn slot(world: &World, address: &str) -> String {
    let what = format!("a slot has {address}");
    eventually(SOON, &what, async || {
        let all = rows(world).await;
        let mut slots = all.iter().filter(|row| row["state"] != "away");
        let found = slots.find(|row| row["address"] == address)?;
        Some(format!("site/{}", found["server"].as_str().unwrap()))
    })
    .await
}

async fn all(world: &World) -> HashSet<String> {
    let mut names = HashSet::new();
    for _ in 0..6 {
        names.insert(who(world).await);
    }
    names
}

fn named<const N: usize>(names: [&str; N]) -> HashSet<String> {
    names.map(str::to_owned).into()
}

#[tokio::test]
async fn an_order_follows_the_machine_and_meets_no_other() {
    let dns = Dns::start().await;
    let (port, _apps) = apps(3).await;
    let addresses = [1, 2, 3].map(|last| format!("{}:{port}", ip(last)));
    dns.set_addresses(NAME, 1, &[ip(1), ip(2)]);
    let mut world = ordered(&dns, port).await;
    let first = slot(&world, &addresses[0]).await;
    let finished = ask(&world, &["set", &first, "drain", "--why", "disk"]).await;
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for part in ["is drained", &addresses[0], "goes with the address"] {
        assert!(finished.stdout.contains(part), "{}", finished.stdout);
    }
    assert_eq!(all(&world).await, named(["2"]));
    let state = fs::read_to_string(world.file("state.toml")).unwrap();
    assert!(state.contains("server = \"one\""), "{state}");
    assert!(!state.contains("127.0.9."), "{state}");
    // Slots are given out by lot at each start.
    for _ in 0..4 {
        world.gateway.kill().await;
        world.restart_gateway().await;
        let told = [
            &addresses[0],
            "is drained",
            ": disk",
            "as was asked of this address",
        ];
        world.gateway.wait_log(&told).await;
        slot(&world, &addresses[1]).await;
        assert_eq!(all(&world).await, named(["2"]));
    }
    // Another machine in its place, which nobody has asked anything.
    dns.set_addresses(NAME, 1, &[ip(2), ip(3)]);
    slot(&world, &addresses[2]).await;
    let goes = format!(
        "was {}, and what is asked of that (drain) goes with it",
        addresses[0]
    );
    world.gateway.wait_log(&[&goes]).await;
    eventually(SOON, "both are used", async || {
        (all(&world).await == named(["2", "3"])).then_some(())
    })
    .await;
    let shown = ask(&world, &["get"]).await.stdout;
    let away = shown.lines().find(|line| line.contains(" away ")).unwrap();
    for part in [
        "site/one ",
        "drain is asked of an address that DNS does not give",
        ": disk",
    ] {
        assert!(away.contains(part), "{shown}");
    }
    // It comes back, whichever slot it is given.
    dns.set_addresses(NAME, 1, &[ip(1), ip(3)]);
    let back = slot(&world, &addresses[0]).await;
    eventually(SOON, "the other one alone is used", async || {
        (all(&world).await == named(["3"])).then_some(())
    })
    .await;
    let finished = ask(&world, &["set", &back, "ready"]).await;
    assert!(
        finished.stdout.contains("is used as declared"),
        "{}",
        finished.stdout
    );
    assert_eq!(all(&world).await, named(["1", "3"]));
}

#[tokio::test]
async fn an_order_whose_machine_is_gone_ends_with_its_time_or_is_taken_back() {
    let dns = Dns::start().await;
    let (port, _apps) = apps(2).await;
    let addresses = [1, 2].map(|last| format!("{}:{port}", ip(last)));
    dns.set_addresses(NAME, 1, &[ip(1), ip(2)]);
    let mut world = ordered(&dns, port).await;
    let first = slot(&world, &addresses[0]).await;
    let empty = slot(&world, "no address").await;
    for change in ["drain", "weight=3", "ready"] {
        let finished = ask(&world, &["set", &empty, change]).await;
        assert_eq!(finished.code, Some(64), "{}", finished.stdout);
        assert!(
            finished.stderr.contains("no address for the time being"),
            "{}",
            finished.stderr
        );
    }
    ask(&world, &["set", &first, "weight=3"]).await;
    ask(&world, &["set", &first, "maintenance", "--for", "1s"]).await;
    world.gateway.kill().await;
    dns.set_addresses(NAME, 1, &[ip(2)]);
    world.restart_gateway().await;
    let waits = [
        "of what DNS finds for one, the machine of which it was asked",
        "has weight 3",
    ];
    world.gateway.wait_log(&waits).await;
    slot(&world, &addresses[1]).await;
    assert_eq!(all(&world).await, named(["2"]));
    eventually(SOON, "one order is left", async || {
        let state = fs::read_to_string(world.file("state.toml")).unwrap();
        (!state.contains("maintenance") && state.contains("weight = 3")).then_some(())
    })
    .await;
    for (words, code, said) in [
        (
            ["set", "site/one", "drain"],
            64,
            "one of the servers that it finds: one-1, one-2, one-3",
        ),
        (["set", "site/one", "weight=declared"], 0, "is taken back"),
        (
            ["set", "site/one", "weight=declared"],
            64,
            "nothing of that kind is asked",
        ),
    ] {
        let finished = ask(&world, &words).await;
        assert_eq!(finished.code, Some(code), "{}", finished.stderr);
        let told = finished.stdout + &finished.stderr;
        assert!(told.contains(said), "{told}");
    }
    let state = fs::read_to_string(world.file("state.toml")).unwrap();
    assert!(!state.contains("[[intent]]"), "{state}");
    assert!(rows(&world).await.iter().all(|row| row["state"] != "away"));
}

#[tokio::test]
async fn what_records_say_is_shown() {
    const SERVICE: &str = "_http._tcp.app.internal";
    let dns = Dns::start().await;
    let (port, _apps) = apps(3).await;
    let service = |priority, weight, last: u8| {
        let target = format!("h{last}.internal");
        dns.set_addresses(&target, 1, &[ip(last)]);
        Record {
            name: SERVICE.to_owned(),
            ttl: 1,
            data: Data::Service {
                priority,
                weight,
                port,
                target,
            },
        }
    };
    let all = vec![service(10, 30, 1), service(10, 10, 2), service(20, 5, 3)];
    dns.set(SERVICE, Kind::Srv, Answer::Records(all));
    let world = declared(&dns, &format!("{{ srv = \"{SERVICE}\", slots = 3 }}")).await;
    for (last, weight, priority, backup) in
        [(1, 30, 10, false), (2, 10, 10, false), (3, 5, 20, true)]
    {
        let address = format!("{}:{port}", ip(last));
        let slot = slot(&world, &address).await;
        let name = slot.trim_start_matches("site/");
        let all = rows(&world).await;
        let row = all.iter().find(|row| row["server"] == name).unwrap();
        assert_eq!(
            (&row["weight"], &row["declared_weight"]),
            (&weight.into(), &weight.into())
        );
        assert_eq!(
            (&row["priority"], &row["backup"]),
            (&priority.into(), &backup.into())
        );
        let metrics = world.metrics().await;
        let label = format!("server=\"{name}\"");
        let value = |metric| metrics.sum(metric, &[&label]);
        assert_eq!(value("tidegate_backend_server_weight"), f64::from(weight));
        assert_eq!(
            value("tidegate_backend_server_priority"),
            f64::from(priority)
        );
        assert_eq!(
            value("tidegate_backend_server_backup"),
            f64::from(u8::from(backup))
        );
    }
    let shown = ask(&world, &["get"]).await.stdout;
    assert!(shown.contains("in use, backup, priority 20"), "{shown}");
    // Another weight than the records', and not a multiple of it.
    let heavy = slot(&world, &format!("{}:{port}", ip(1))).await;
    ask(&world, &["set", &heavy, "weight=10"]).await;
    let mut seen = HashMap::<String, usize>::new();
    for _ in 0..10 {
        *seen.entry(who(&world).await).or_default() += 1;
    }
    assert_eq!(
        seen,
        HashMap::from([("1".to_owned(), 5), ("2".to_owned(), 5)])
    );
}
