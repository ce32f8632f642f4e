//! Which server takes a request or a connection, seen from outside: slow start, and visitors that keep their server (issue 3 §4).

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use tidegate_tests::apps::{AbsentApp, HttpApp};
use tidegate_tests::eventually::{SOON, eventually, within};
use tidegate_tests::{HOST, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

/// A gateway whose [`HOST`] is a backend with these servers; `more` are keys of it.
async fn world(servers: &[(&str, SocketAddr)], more: &str) -> World {
    let servers: String = servers
        .iter()
        .map(|(name, at)| format!("{name} = \"{at}\"\n"))
        .collect();
    let text = format!(
        "[listeners.tcp]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nbackend = \"site\"\n\
         [backends.site]\n{more}\n[backends.site.servers]\n{servers}[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n"
    );
    World::builder().config(&text).start().await
}

/// Apps of these names, each with its own.
async fn apps(names: &[&'static str]) -> (Vec<HttpApp>, Vec<(&'static str, SocketAddr)>) {
    let mut apps = Vec::new();
    for name in names {
        apps.push(HttpApp::start(name).await);
    }
    let places = names.iter().copied().zip(apps.iter().map(HttpApp::address));
    let places = places.collect();
    (apps, places)
}

async fn is_up(world: &World, server: &str) -> bool {
    let label = format!("server=\"{server}\"");
    let metrics = world.metrics().await;
    metrics.sum("tidegate_backend_server_up", &[&label]) == 1.0
}

async fn wait_up(world: &World, server: &str, up: bool) {
    let what = format!("{server} is up: {up}");
    eventually(SOON, &what, async || {
        (is_up(world, server).await == up).then_some(())
    })
    .await;
}

fn named(answer: &str) -> String {
    let name = answer.rsplit("hello from ").next().unwrap_or_default();
    name.trim().to_owned()
}

/// Which servers take so many requests that have these fields.
async fn taken(world: &World, fields: &str, count: usize) -> Vec<String> {
    let mut visitor = world.visitor().await;
    let mut all = Vec::new();
    for _ in 0..count {
        let request = format!("GET /hello HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n");
        visitor.send(request).await;
        let answer = visitor.answer("GET").await.text();
        all.push(named(&answer));
    }
    all
}

/// 12 of 268 parts of so many requests, where the other server has all of its share.
fn is_little(all: &[String], name: &str) -> bool {
    let taken = all.iter().filter(|one| *one == name).count();
    assert_eq!(all.len(), 63);
    (2..=4).contains(&taken)
}

#[tokio::test]
async fn a_server_that_comes_back_from_being_down_gets_little_at_first() {
    let one = HttpApp::start("one").await;
    for balance in ["round-robin", "least"] {
        let absent = AbsentApp::new();
        let at = absent.address();
        let servers = [("one", one.address()), ("two", at)];
        let more = format!(
            "balance = \"{balance}\"\nslow_start = \"1h\"\ncheck = {{ path = \"/hello\", interval = \"50ms\" }}"
        );
        let world = world(&servers, &more).await;
        wait_up(&world, "two", false).await;
        drop(absent);
        let _two = HttpApp::start_at("two", TcpListener::bind(at).await.unwrap());
        wait_up(&world, "two", true).await;
        let all = taken(&world, "", 63).await;
        assert!(is_little(&all, "two"), "{balance}: {all:?}");
    }
}

#[tokio::test]
async fn a_server_that_was_left_out_gets_little_at_first() {
    let one = HttpApp::start("one").await;
    let absent = AbsentApp::new();
    let at = absent.address();
    let more =
        "slow_start = \"1h\"\neject_after = 1\neject_time = \"50ms\"\neject_time_most = \"50ms\"";
    let world = world(&[("one", one.address()), ("two", at)], more).await;
    taken(&world, "", 4).await;
    world.gateway.wait_log(&["server two", "is left out"]).await;
    drop(absent);
    let _two = HttpApp::start_at("two", TcpListener::bind(at).await.unwrap());
    eventually(SOON, "it is found out that it is back", async || {
        (taken(&world, "", 1).await[0] == "two").then_some(())
    })
    .await;
    let all = taken(&world, "", 63).await;
    assert!(is_little(&all, "two"), "{all:?}");
}

#[tokio::test]
async fn a_visitor_keeps_his_server_and_one_that_goes_takes_nobody_along() {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let (mut apps, servers) = apps(&NAMES).await;
    let more = "balance = { hash = \"cookie\", name = \"sid\" }\ncheck = { interval = \"50ms\", fall = 1 }";
    let world = world(&servers, more).await;
    let cookie = |number: usize| format!("Cookie: theme=dark; sid=user-{number}\r\n");
    let mut before = Vec::new();
    for number in 0..30 {
        let servers = taken(&world, &cookie(number), 3).await;
        assert!(
            servers.iter().all(|name| *name == servers[0]),
            "{servers:?}"
        );
        before.push(servers[0].clone());
    }
    for name in NAMES {
        assert!(before.iter().any(|one| one == name), "{before:?}");
    }
    // Without a cookie one after another.
    let mut turns = taken(&world, "", 3).await;
    turns.sort();
    assert_eq!(turns, NAMES);
    drop(apps.remove(1));
    wait_up(&world, "b", false).await;
    for (number, name) in before.iter().enumerate() {
        let after = taken(&world, &cookie(number), 1).await;
        assert_eq!(after[0] == *name, name != "b", "{number}: {after:?}");
    }
}

/// What an app says to a GET from this address of the machine.
async fn asked_from(source: Ipv4Addr, to: SocketAddr) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    let mut tcp = socket.connect(to).await.unwrap();
    let request = format!("GET /hello HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tcp.read_to_string(&mut answer);
    within(SOON, "the answer", read).await.unwrap();
    named(&answer)
}

#[tokio::test]
async fn an_address_keeps_its_server_for_requests_and_for_connections() {
    let (_apps, servers) = apps(&["a", "b", "c"]).await;
    let world = world(&servers, "balance = \"hash-source\"").await;
    let tcp = world.gateway.address("tcp").unwrap();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for last in 1..=30 {
        let source = Ipv4Addr::new(127, 0, 0, last);
        let server = asked_from(source, world.visitors).await;
        assert_eq!(asked_from(source, world.visitors).await, server);
        assert_eq!(asked_from(source, tcp).await, server);
        *seen.entry(server).or_default() += 1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[tokio::test]
async fn a_bound_sends_what_is_too_much_to_the_next() {
    let (apps, servers) = apps(&["a", "b"]).await;
    let more = "balance = { hash = \"header\", name = \"X-User\", most = 101 }";
    let world = world(&servers, more).await;
    let mut visitors = Vec::new();
    for _ in 0..3 {
        let mut visitor = world.visitor().await;
        let request = format!("GET /sse HTTP/1.1\r\nHost: {HOST}\r\nx-user: ann\r\n\r\n");
        visitor.send(request).await;
        visitor.head().await;
        visitors.push(visitor);
    }
    let mut counts: Vec<usize> = apps.iter().map(|app| app.count("/sse")).collect();
    counts.sort();
    assert_eq!(counts, [1, 2]);
}
