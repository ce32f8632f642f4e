//! Answers that are long, false or of no use, and configurations that ask for what cannot be.

use std::collections::HashSet;
use std::ffi::OsString;
use std::net::IpAddr;

use tidegate_tests::dns::{Answer, Data, Dns, Kind, Record};
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::program::{built, run};

use super::{NAME, apps, at, ip, who, world};

#[tokio::test]
async fn a_long_answer_comes_over_tcp_and_has_more_than_there_are_slots() {
    let dns = Dns::start().await;
    let (port, _apps) = apps(100).await;
    let all: Vec<IpAddr> = (1..=100).map(ip).collect();
    dns.set_addresses(NAME, 1, &all);
    let world = world(&dns, &at(port, 3), "").await;
    let mut names = HashSet::new();
    for _ in 0..9 {
        names.insert(who(&world).await);
    }
    assert_eq!(names.len(), 3, "{names:?}");
    world
        .gateway
        .wait_log(&["app.internal has 100 addresses, and `one` 3 slots"])
        .await;
    let asked = dns.asked(NAME, Kind::A);
    assert!(!asked[0].tcp && asked[1].tcp, "{asked:?}");
    let mut turned = all;
    turned.reverse();
    dns.set_addresses(NAME, 1, &turned);
    dns.wait_asked(NAME, Kind::A, 4).await;
    for _ in 0..6 {
        assert!(
            names.contains(&who(&world).await),
            "an address keeps its slot"
        );
    }
    assert_eq!(world.gateway.logged(&["100 addresses"]).len(), 1, "once");
}

/// A firewall forgets a connection that rests, or another machine takes over the address: it is dead, and nobody says so.
#[tokio::test]
async fn a_connection_that_says_nothing_any_more_is_replaced() {
    let dns = Dns::start().await;
    let (port, _apps) = apps(100).await;
    let all: Vec<IpAddr> = (1..=100).map(ip).collect();
    dns.set_addresses(NAME, 1, &all);
    let more = "timeout = \"300ms\"\nhold = 0\nleast_ttl = \"100ms\"\nmost_ttl = \"200ms\"";
    let world = world(&dns, &at(port, 1), more).await;
    let kept = who(&world).await;
    dns.wait_asked(NAME, Kind::A, 6).await;
    assert_eq!(dns.connections(), 1, "one carries all questions");
    dns.silence_connections();
    world
        .gateway
        .wait_log(&["cannot be looked up", "gave no answer within 300ms"])
        .await;
    world.gateway.wait_log(&["is looked up again"]).await;
    assert_eq!(dns.connections(), 2, "the next question had its own");
    dns.wait_asked(NAME, Kind::A, 6).await;
    assert_eq!(dns.connections(), 2, "which those behind it share");
    assert_eq!(who(&world).await, kept);
}

#[tokio::test]
async fn false_answers_and_addresses_that_are_nobodys_do_no_harm() {
    let dns = Dns::start().await;
    let (port, apps) = apps(2).await;
    let record = |name: &str, data: Data| Record {
        name: name.to_owned(),
        ttl: 1,
        data,
    };
    let address = |name: &str, ip: IpAddr| record(name, Data::Address(ip));
    let alias = |name: &str, target: &str| record(name, Data::Alias(target.to_owned()));
    dns.set(NAME, Kind::Aaaa, Answer::Records(Vec::new()));
    let odd = ["0.0.0.0", "224.0.0.1", "255.255.255.255"].map(|ip| ip.parse().unwrap());
    let mut answer: Vec<Record> = odd.map(|ip| address(NAME, ip)).into();
    answer.push(address(NAME, ip(1)));
    // Of somebody else, and in the answer nevertheless.
    answer.push(address("other.internal", ip(2)));
    dns.set(NAME, Kind::A, Answer::FalseFirst(answer));
    let world = world(&dns, &at(port, 9), "hold = 0").await;
    assert_eq!(who(&world).await, "1");
    let line = world
        .gateway
        .wait_log(&["app.internal has addresses that no server can have"])
        .await;
    assert!(
        line.contains("0.0.0.0, 224.0.0.1, 255.255.255.255"),
        "{line}"
    );
    let one = ["server=\"one\""];
    let metrics = world.metrics().await;
    assert_eq!(metrics.sum("tidegate_backend_dns_addresses", &one), 1.0);
    assert_eq!(apps[1].count("/hello"), 0);
    // Aliases, two in the answer and one to be asked for.
    let chain = vec![alias("b.internal", "c.internal"), alias(NAME, "b.internal")];
    dns.set(NAME, Kind::A, Answer::Records(chain));
    dns.set(
        "c.internal",
        Kind::A,
        Answer::Records(vec![address("c.internal", ip(2))]),
    );
    eventually(SOON, "aliases are followed", async || {
        (who(&world).await == "2").then_some(())
    })
    .await;
    let seen = apps[0].count("/hello");
    dns.set(
        "c.internal",
        Kind::A,
        Answer::Records(vec![alias("c.internal", NAME)]),
    );
    world
        .gateway
        .wait_log(&["app.internal cannot be looked up", "aliases in a circle"])
        .await;
    assert_eq!(who(&world).await, "2");
    assert_eq!(apps[0].count("/hello"), seen, "nothing went to the former");
}

/// A resolver that is wrong in another way each time is one that is wrong.
#[tokio::test]
async fn what_is_odd_otherwise_each_time_is_one_line() {
    let dns = Dns::start().await;
    let (port, _apps) = apps(1).await;
    dns.set_addresses(NAME, 1, &[ip(1)]);
    let more = "least_ttl = \"50ms\"\nmost_ttl = \"100ms\"\nhold = \"1h\"";
    let world = world(&dns, &at(port, 1), more).await;
    assert_eq!(who(&world).await, "1");
    for code in 6..=15 {
        dns.set(NAME, Kind::A, Answer::Code(code));
        dns.set(NAME, Kind::Aaaa, Answer::Code(code));
        dns.wait_asked(NAME, Kind::A, 2).await;
    }
    let told = world.gateway.logged(&["app.internal cannot be looked up"]);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(who(&world).await, "1");
}

#[tokio::test]
async fn mistakes_are_told_where_they_stand_and_values_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.toml");
    let told = async |command: &[&str], servers: &str, resolver: &str, tls: &str| {
        let text = format!(
            "[listeners.a]\naddress = 8080\n[[routes]]\nbackend = \"b\"\n[backends.b]\n{tls}\n[backends.b.servers]\n{servers}\n\
             [resolver]\n{resolver}\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut words: Vec<OsString> = command.iter().map(Into::into).collect();
        words.extend(["--config".into(), file.clone().into()]);
        run(&built("tidegated"), &words).await
    };
    let good = "one = { address = \"App.internal.:80\", slots = 3, family = \"ipv4\" }\n\
                two = { srv = \"_http._tcp.app.internal\", slots = 2 }";
    for (servers, resolver, tls, at, why) in [
        (
            "one = { address = \"10.0.0.1:80\", slots = 2 }",
            "",
            "",
            "8:",
            "leave `slots` out",
        ),
        (
            "one = { address = \"a.test:80\", slots = 0 }",
            "",
            "",
            "8:",
            "servers.one.slots",
        ),
        (
            "one = { address = \"a.test:80\", slots = 257 }",
            "",
            "",
            "8:",
            "256",
        ),
        (
            "one = { address = \"a..test:80\", slots = 2 }",
            "",
            "",
            "8:",
            "cannot be a name in DNS",
        ),
        (
            "one = { address = \"a.test:80\", family = \"ipv4\" }",
            "",
            "",
            "8:",
            "without `slots`",
        ),
        (
            "one = { srv = \"_http._tcp.a.test\" }",
            "",
            "",
            "8:",
            "slots = 5",
        ),
        (
            "one = { srv = \"a.test\", slots = 2 }",
            "",
            "",
            "8:",
            "_http._tcp.app.internal",
        ),
        (
            "one = { srv = \"_http._tcp.a.test\", slots = 2, weight = 3 }",
            "",
            "",
            "8:",
            "comes from the SRV records",
        ),
        (
            "one = { srv = \"_h._tcp.a.test\", address = \"a.test:80\", slots = 2 }",
            "",
            "",
            "8:",
            "not both",
        ),
        (good, "servers = \"dns.test\"", "", "11:", "10.0.0.2:5353"),
        (good, "servers = []", "", "11:", "/etc/resolv.conf"),
        (
            good,
            "least_ttl = \"5m\"",
            "",
            "11:13: resolver.least_ttl: ",
            "most_ttl must not be below",
        ),
        (good, "hold_time = 3", "", "11:", "known here: hold"),
        (
            good,
            "",
            "tls = true",
            "6:7: backends.b.tls: ",
            "tls.server_name",
        ),
        (
            "one = { address = \"a.test:80\", slots = 2 }\none-2 = \"10.0.0.1:80\"",
            "",
            "",
            "9:9: backends.b.servers.one-2: ",
            "two servers called `one-2`",
        ),
    ] {
        let finished = told(&["check"], servers, resolver, tls).await;
        let place = format!("gateway.toml:{at}");
        assert_eq!(finished.code, Some(64), "{servers}");
        let said = finished.stderr.contains(&place) && finished.stderr.contains(why);
        assert!(said, "{place} {why}: {}", finished.stderr);
    }
    let shown = told(
        &["config", "--effective"],
        good,
        "servers = [\"10.0.0.2\"]\nhold = \"5s\"",
        "",
    )
    .await;
    for line in [
        "one = { address = \"app.internal:80\", slots = 3, family = \"ipv4\", weight = 1, backup = false, max_connections = 0 }",
        "two = { srv = \"_http._tcp.app.internal\", slots = 2, family = \"both\", max_connections = 0 }",
        "servers = [\"10.0.0.2:53\"]",
        "hold = \"5s\"",
        "most_ttl = \"60s\"",
    ] {
        let setting = |shown: &str| shown.split(" # ").next().unwrap().trim_end() == line;
        assert!(
            shown.stdout.lines().any(setting),
            "{line}: {}",
            shown.stdout
        );
    }
    // What is shown is a file that means the same.
    std::fs::write(&file, &shown.stdout).unwrap();
    let words = ["check".into(), "--config".into(), file.into()];
    assert_eq!(run(&built("tidegated"), &words).await.code, Some(0));
}
