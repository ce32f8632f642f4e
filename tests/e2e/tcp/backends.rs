//! A backend as the target of a listener in TCP mode: its servers share connections as they share requests.

use std::collections::HashMap;
use std::net::SocketAddr;

use tidegate_tests::apps::{AbsentApp, Doorman, HttpApp, RawApp};
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::haproxy::free_ports;
use tidegate_tests::task::{Task, Tasks, spawn};
use tidegate_tests::visitors::http1::get;
use tidegate_tests::{HOST, World, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{echo, floods, rest};

/// A gateway whose listener `pg` leads to a backend with these servers; `more` are keys of it.
async fn world(servers: &[String], more: &str) -> World {
    let servers: String = servers
        .iter()
        .enumerate()
        .map(|(nth, server)| format!("s{nth} = {server}\n"))
        .collect();
    let text = format!(
        "[listeners.pg]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nbackend = \"db\"\n\
         [backends.db]\n{more}\n[backends.db.servers]\n{servers}"
    );
    World::builder().config(&text).start().await
}

fn at(address: SocketAddr) -> String {
    format!("\"{address}\"")
}

/// A server that says this to everybody, and then waits for the other side to close.
async fn says(name: &'static str) -> (SocketAddr, Task) {
    says_at(TcpListener::bind("127.0.0.1:0").await.unwrap(), name)
}

fn says_at(listener: TcpListener, name: &'static str) -> (SocketAddr, Task) {
    let address = listener.local_addr().unwrap();
    let task = spawn(async move {
        let mut running = Tasks::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            running.spawn(async move {
                let _gone = tcp.write_all(name.as_bytes()).await;
                let _gone = tcp.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    (address, task)
}

/// What a visitor is told who says nothing; `None` where its connection is broken off.
async fn asked(world: &World) -> Option<String> {
    let pg = world.gateway.address("pg").unwrap();
    let mut visitor = TcpStream::connect(pg).await.unwrap();
    visitor.shutdown().await.ok()?;
    String::from_utf8(rest(&mut visitor).await.ok()?).ok()
}

/// Its `tls` is refused in TCP mode, so nobody is told to write it.
#[tokio::test]
async fn a_server_that_ends_connections_at_once_is_named_with_what_may_be_written_here() {
    let closing = RawApp::start(|mut reader| async move {
        let _request = reader.some(64).await;
    })
    .await;
    let server = closing.target().replace("http://", "\"") + "\"";
    let world = world(&[server], "").await;
    let pg = world.gateway.address("pg").unwrap();
    let mut visitor = TcpStream::connect(pg).await.unwrap();
    visitor.write_all(b"hello").await.unwrap();
    let _ended = rest(&mut visitor).await;
    drop(visitor);
    let said = world
        .gateway
        .wait_log(&[
            "WARN",
            "backend db: server s0",
            "add send_proxy = \"v2\" to",
        ])
        .await;
    assert!(!said.contains("tls = true"), "{said}");
}

#[tokio::test]
async fn servers_take_turns_by_weight_and_line_and_metrics_name_them() {
    let ((one, _one), (two, _two)) = (says("one").await, says("two").await);
    let heavier = format!("{{ address = \"{two}\", weight = 3 }}");
    let world = world(&[at(one), heavier], "").await;
    let mut seen: HashMap<String, usize> = HashMap::new();
    for _ in 0..8 {
        *seen.entry(asked(&world).await.unwrap()).or_default() += 1;
    }
    assert_eq!((seen["one"], seen["two"]), (2, 6));
    let line = world
        .gateway
        .wait_log(&[
            "tcp listener=pg",
            "to=db backend=db server=s1 ended=closed in=0 out=3",
        ])
        .await;
    assert!(!line.contains("attempts="), "{line}");
    let labels = ["backend=\"db\"", "server=\"s1\""];
    let metrics = world.metrics().await;
    for (metric, value) in [
        ("tidegate_backend_requests_total", 6.0),
        ("tidegate_backend_connections_total", 6.0),
        ("tidegate_backend_in_flight", 0.0),
        ("tidegate_backend_open_connections", 0.0),
    ] {
        assert_eq!(metrics.sum(metric, &labels), value, "{metric}");
    }
}

#[tokio::test]
async fn every_octet_arrives_and_a_server_that_is_not_there_costs_nobody_anything() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let absent = AbsentApp::new();
    let servers = [at(absent.address()), at(app.local_addr().unwrap())];
    let world = world(&servers, "eject_after = 1\neject_time = \"60s\"").await;
    let pg = world.gateway.address("pg").unwrap();
    for turn in 0..3 {
        let visitor = TcpStream::connect(pg).await.unwrap();
        let accepted = within(SOON, "the app's connection", app.accept()).await;
        floods(visitor, accepted.unwrap().0, 8_000_001, 8_000_003).await;
        // Once it is left out nobody waits for it any more.
        let attempts = if turn == 0 {
            " attempts=2 "
        } else {
            " accept="
        };
        let ended = format!("backend=db server=s1 ended=closed in=8000001 out=8000003{attempts}");
        world.gateway.wait_log(&[&ended]).await;
    }
    world
        .gateway
        .wait_log(&[
            "backend db: server s0",
            "is left out",
            "a connection failed",
            "connection refused",
        ])
        .await;
    let metrics = world.metrics().await;
    let out = ["backend=\"db\"", "server=\"s0\""];
    assert_eq!(metrics.sum("tidegate_backend_server_out", &out), 1.0);
    assert_eq!(metrics.sum("tidegate_request_retries_total", &[]), 1.0);
}

#[tokio::test]
async fn a_backup_serves_while_nobody_else_can_and_the_first_is_found_again() {
    let (backup, _backup) = says("backup").await;
    let place = free_ports().await.visitors;
    let spare = format!("{{ address = \"{backup}\", backup = true }}");
    let terms = "eject_after = 1\neject_time = \"50ms\"\neject_time_most = \"50ms\"";
    let world = world(&[at(place), spare], terms).await;
    for _ in 0..4 {
        assert_eq!(asked(&world).await.unwrap(), "backup");
    }
    let _first = says_at(TcpListener::bind(place).await.unwrap(), "first");
    eventually(SOON, "the first is found again", async || {
        (asked(&world).await.unwrap() == "first").then_some(())
    })
    .await;
    world
        .gateway
        .wait_log(&["backend db: server s0", "answers again"])
        .await;
}

#[tokio::test]
async fn a_limit_of_connections_holds_and_who_waits_too_long_is_told_of() {
    let (one, _one) = says("one").await;
    let server = format!("{{ address = \"{one}\", max_connections = 1 }}");
    let world = world(&[server], "queue_timeout = \"3s\"").await;
    let pg = world.gateway.address("pg").unwrap();
    let mut first = TcpStream::connect(pg).await.unwrap();
    first.read_exact(&mut [0; 3]).await.unwrap();
    assert_eq!(asked(&world).await, None);
    let line = world.gateway.wait_log(&["ended=backend-busy"]).await;
    let held = line.split(" hold=").nth(1).unwrap();
    let held: f64 = held.split(' ').next().unwrap().parse().unwrap();
    assert!(held >= 3_000.0, "{line}");
    // Who waits gets the place as soon as it is free.
    let waiting = asked(&world);
    let leaving = async {
        eventually(SOON, "one waits", async || {
            let metrics = world.metrics().await;
            (metrics.sum("tidegate_backend_queued", &[]) == 1.0).then_some(())
        })
        .await;
        drop(first);
    };
    let (told, ()) = tokio::join!(waiting, leaving);
    assert_eq!(told.as_deref(), Some("one"));
}

#[tokio::test]
async fn where_no_server_can_be_reached_the_line_says_so() {
    let absent = AbsentApp::new();
    let nobody = world(&[at(absent.address())], "retries = 1").await;
    assert_eq!(asked(&nobody).await, None);
    let words = [
        "to=db backend=db server=s0 ended=server-unreachable",
        "attempts=2",
    ];
    nobody.gateway.wait_log(&words).await;
    nobody
        .gateway
        .wait_log(&["WARN", "backend db: server s0", "connection refused"])
        .await;
}

/// One backend is the target of requests and of connections at once, and its limits are for both.
#[tokio::test]
async fn a_backend_serves_requests_and_connections_side_by_side() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = HttpApp::start_at("both", listener);
    let text = format!(
        "[listeners.raw]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nbackend = \"site\"\n\
         [[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n\
         [backends.site.servers]\none = \"{}\"\n",
        app.address()
    );
    let world = World::builder().config(&text).start().await;
    let raw = world.gateway.address("raw").unwrap();
    for to in [world.visitors, raw] {
        let answer = get(to, HOST, "/hello").await;
        assert_eq!(answer.text(), "hello from both\n");
    }
    let metrics = world.metrics().await;
    let labels = ["backend=\"site\""];
    assert_eq!(metrics.sum("tidegate_backend_requests_total", &labels), 2.0);
}

#[tokio::test]
async fn what_is_open_may_finish_when_the_gateway_stops() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut world = world(&[at(app.local_addr().unwrap())], "").await;
    let pg = world.gateway.address("pg").unwrap();
    let mut visitor = TcpStream::connect(pg).await.unwrap();
    let mut at_app = within(SOON, "the app", app.accept()).await.unwrap().0;
    world.gateway.terminate();
    world.gateway.wait_log(&["stopping"]).await;
    visitor.write_all(b"still here").await.unwrap();
    visitor.shutdown().await.unwrap();
    assert_eq!(rest(&mut at_app).await.unwrap(), b"still here");
    drop(at_app);
    assert!(rest(&mut visitor).await.unwrap().is_empty());
    assert!(world.gateway.ended(SOON).await.success());
}

/// What a server is told of a connection whose TLS passes untouched.
#[tokio::test]
async fn a_backends_servers_are_told_whose_connection_it_is() {
    told_whose_it_is("[[routes]]\nsni = \"a.test\"\nbackend = \"pages\"\n").await;
}

/// The same where connections go there whatever they ask for.
#[tokio::test]
async fn a_backends_servers_are_told_what_a_hello_says_without_a_route_by_name() {
    let (world, doorman) = told_whose_it_is("backend = \"pages\"\n").await;
    // Whoever says nothing, or what is no hello, comes there as well.
    let pg = world.gateway.address("pg").unwrap();
    for (nth, said) in [(2, &b""[..]), (3, b"SSH-2.0-x\r\n"), (4, b"\x16\x03\x01")] {
        let mut visitor = TcpStream::connect(pg).await.unwrap();
        visitor.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
        visitor.write_all(said).await.unwrap();
        visitor.shutdown().await.unwrap();
        eventually(SOON, "its server is told of it", async || {
            (doorman.greeted().len() == nth).then_some(())
        })
        .await;
    }
}

async fn told_whose_it_is(way: &str) -> (World, Doorman) {
    let pki = World::start().await;
    let server = pki
        .pki
        .server_config(&pki.pki.server(&["a.test"]), false, &["h2"]);
    let (app, _app) = echo("there", server).await;
    let doorman = Doorman::before(app.parse().unwrap()).await;
    let text = format!(
        "[listeners.pg]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\n\
         proxy = \"required\"\nproxy_from = [\"127.0.0.1\"]\n\
         {way}\
         [backends.pages]\nsend_proxy = \"v2\"\nproxy_tlvs = [\"authority\", \"alpn\", \"unique-id\", \"ssl\", \"received\"]\n\
         [backends.pages.servers]\none = \"127.0.0.1:{}\"\n",
        doorman.port()
    );
    let world = World::builder().config(&text).start().await;
    let pg = world.gateway.address("pg").unwrap();
    let mut tcp = TcpStream::connect(pg).await.unwrap();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x16".to_vec();
    header.extend_from_slice(&[203, 0, 113, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb]);
    header.extend_from_slice(b"\xea\0\x07\x01vpce-1");
    tcp.write_all(&header).await.unwrap();
    let mut visitor = Conn::tls_over(tcp, "a.test", pki.pki.client(None, &["h2"]))
        .await
        .unwrap();
    visitor.shutdown().await.unwrap();
    assert_eq!(rest(&mut visitor).await.unwrap(), b"there");
    let told = doorman.greeted().remove(0).header;
    let pair = told.ends.pair().unwrap();
    assert_eq!(pair.source().to_string(), "203.0.113.7:56324");
    assert_eq!(pair.destination().to_string(), "198.51.100.1:443");
    let tlvs = &told.tlvs;
    assert_eq!(
        (tlvs.authority(), tlvs.alpn(), tlvs.aws_vpc_endpoint()),
        (Some("a.test"), Some(&b"h2"[..]), Some("vpce-1"))
    );
    assert!(tlvs.ssl().is_none(), "its TLS is not ended here");
    let id = String::from_utf8(tlvs.unique_id().unwrap().to_vec()).unwrap();
    world
        .gateway
        .wait_log(&[&id, "203.0.113.7:56324", "sni=a.test to=pages"])
        .await;
    (world, doorman)
}
