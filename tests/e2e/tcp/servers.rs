//! Servers that the gateway dials for a listener in TCP mode, and the header that tells them whose connection it is.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tidegate_tests::apps::AbsentApp;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::haproxy::{self, Haproxy};
use tidegate_tests::world::Builder;
use tidegate_tests::{World, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{BY_NAME, echo, floods, rest};

/// A gateway whose listener `pg` leads to servers that it dials.
fn dialling(servers: &[SocketAddr], more: &str) -> Builder {
    let servers: Vec<String> = servers.iter().map(|at| format!("\"{at}\"")).collect();
    let servers = servers.join(", ");
    World::builder().config(&format!(
        "[listeners.pg]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nservers = [{servers}]\n{more}"
    ))
}

#[tokio::test]
async fn a_server_is_dialled_and_one_that_is_not_there_is_passed_over() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (absent, there) = (AbsentApp::new(), app.local_addr().unwrap());
    let world = dialling(&[absent.address(), there], "").start().await;
    let pg = world.gateway.address("pg").unwrap();
    for turn in 0..2 {
        let visitor = TcpStream::connect(pg).await.unwrap();
        let at_app = within(SOON, "the app's connection", app.accept())
            .await
            .unwrap()
            .0;
        floods(visitor, at_app, 24_000_001, 24_000_001).await;
        let attempts = if turn == 0 {
            " attempts=2 "
        } else {
            " accept="
        };
        let server = format!("server={there} ended=closed in=24000001 out=24000001{attempts}");
        world.gateway.wait_log(&["listener=pg", &server]).await;
    }
    let only_absent = dialling(&[absent.address()], "").start().await;
    let mut visitor = TcpStream::connect(only_absent.gateway.address("pg").unwrap())
        .await
        .unwrap();
    assert!(rest(&mut visitor).await.is_err());
    only_absent
        .gateway
        .wait_log(&["ended=server-unreachable"])
        .await;
    let absent = absent.address().to_string();
    for (world, then) in [
        (&world, "the next one is tried"),
        (&only_absent, "there is no other"),
    ] {
        let words = ["WARN", "listener=pg", &absent, "cannot be reached", then];
        world.gateway.wait_log(&words).await;
        assert_eq!(world.gateway.logged(&["cannot be reached"]).len(), 1);
    }
}

#[tokio::test]
async fn a_dialled_servers_reset_stays_one_and_so_does_the_visitors() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = dialling(&[app.local_addr().unwrap()], "").start().await;
    let pg = world.gateway.address("pg").unwrap();
    let mut visitor = TcpStream::connect(pg).await.unwrap();
    let mut at_app = within(SOON, "the app", app.accept()).await.unwrap().0;
    at_app.write_all(b"!").await.unwrap();
    visitor.read_exact(&mut [0]).await.unwrap();
    Conn::Plain(at_app).reset();
    let read = within(SOON, "the visitor sees it", visitor.read(&mut [0])).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    world.gateway.wait_log(&["ended=server-reset"]).await;
    let mut visitor = TcpStream::connect(pg).await.unwrap();
    let mut at_app = within(SOON, "the app", app.accept()).await.unwrap().0;
    at_app.write_all(b"!").await.unwrap();
    visitor.read_exact(&mut [0]).await.unwrap();
    Conn::Plain(visitor).reset();
    let read = within(SOON, "the app sees it", at_app.read(&mut [0])).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    world.gateway.wait_log(&["ended=visitor-reset"]).await;
}

/// The chain of a site whose TLS ends at servers that are told of the visitor by the PROXY protocol.
#[tokio::test]
async fn tls_by_name_to_a_haproxy_that_takes_a_proxy_header() {
    let Some(haproxy) = haproxy::available() else {
        return;
    };
    let to = haproxy::free_ports().await.visitors;
    let servers = format!("servers = [\"{to}\"]\nsend_proxy = \"v2\"");
    let config = BY_NAME
        .replace("OTHERWISE", "")
        .replacen("tunnel = \"one.test\"", &servers, 1);
    let world = World::builder().config(&config).start().await;
    let identity = world.pki.server(&["one.test"]);
    let body = format!(
        "frontend pages\n\
         \x20   bind {to} accept-proxy ssl crt {} alpn http/1.1\n\
         \x20   http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]\"\n",
        identity.display()
    );
    let started = Haproxy::start(&haproxy, world.dir(), "haproxy-pages", &body);
    started.listening(to).await;
    let tls = world.gateway.address("tls").unwrap();
    let client = world.pki.client(None, &["http/1.1"]);
    let mut visitor = within(SOON, "a handshake", Conn::tls(tls, "one.test", client))
        .await
        .unwrap();
    visitor
        .write_all(b"GET / HTTP/1.1\r\nHost: one.test\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let answer = String::from_utf8(rest(&mut visitor).await.unwrap()).unwrap();
    let from = visitor.tcp().local_addr().unwrap();
    let told = format!("{from} {} one.test ", tls.port());
    assert!(answer.contains(&told), "{answer}; expected {told}");
    drop(visitor);
    let line = world.gateway.wait_log(&["sni=one.test", "ended="]).await;
    let id = line.split_whitespace().nth(2).unwrap();
    assert!(answer.contains(id), "{answer}; the line has {id}");
}

/// A listener on `[::]` has IPv4 visitors as well, and both ends of their connections are IPv4 to whoever is told of them.
#[tokio::test]
async fn an_ipv4_visitor_of_a_listener_for_both_is_told_of_as_one() {
    if TcpListener::bind("[::]:0").await.is_err() {
        eprintln!("skipped: no IPv6");
        return;
    }
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::builder()
        .config(&format!(
            "[listeners.pg]\naddress = \"[::]:0\"\nmode = \"tcp\"\nservers = [\"{}\"]\nsend_proxy = \"v1\"\n",
            app.local_addr().unwrap()
        ))
        .start()
        .await;
    let pg = world.gateway.address("pg").unwrap().port();
    let mut visitor = TcpStream::connect(("127.0.0.1", pg)).await.unwrap();
    visitor.write_all(b"hello").await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut server = within(SOON, "the server", app.accept()).await.unwrap().0;
    let from = visitor.local_addr().unwrap().port();
    let meant = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {pg}\r\nhello");
    let told = rest(&mut server).await.unwrap();
    assert_eq!(
        told.escape_ascii().to_string(),
        meant.escape_default().to_string()
    );
}

/// A balancer that sends a header to a listener which reads none: the server behind would get two, or TLS is not found.
#[tokio::test]
async fn a_header_that_nobody_reads_names_itself() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let servers = [app.local_addr().unwrap()];
    let told = dialling(&servers, "send_proxy = \"v2\"\n").start().await;
    let untold = dialling(&servers, "").start().await;
    let by_name = World::builder()
        .config(&BY_NAME.replace("OTHERWISE", ""))
        .start()
        .await;
    for (world, listener, behind) in [
        (&told, "pg", &b"hello"[..]),
        (&untold, "pg", b"hello"),
        (&by_name, "tls", b""),
    ] {
        let to = world.gateway.address(listener).unwrap();
        let mut balancer = TcpStream::connect(to).await.unwrap();
        let header = b"PROXY TCP4 192.0.2.7 192.0.2.9 4242 5432\r\n";
        balancer
            .write_all(&[header, behind].concat())
            .await
            .unwrap();
        balancer.shutdown().await.unwrap();
        if listener == "pg" {
            let mut server = within(SOON, "the server", app.accept()).await.unwrap().0;
            let got = rest(&mut server).await.unwrap();
            assert!(got.ends_with(&[header, behind].concat()), "untouched");
        }
        let _ended = rest(&mut balancer).await;
        let required = format!("listeners.{listener}.proxy = \"required\" (");
        let words = [
            "WARN",
            "got a PROXY v1 header: none is read here",
            &required,
        ];
        world.gateway.wait_log(&words).await;
        let listener = format!("listener=\"{listener}\"");
        let labels = [listener.as_str(), "why=\"unexpected\""];
        let metrics = world.metrics().await;
        let count = metrics.sum("tidegate_proxy_header_mismatches_total", &labels);
        assert_eq!(count, 1.0, "{listener}");
    }
}

/// The incident: a header goes to the port that expects none, and all that the visitor sees is a connection that closes.
#[tokio::test]
async fn a_header_that_a_server_does_not_expect_names_itself() {
    let world = World::start().await;
    let server = world
        .pki
        .server_config(&world.pki.server(&["one.test"]), false, &[]);
    let (address, _app) = echo("tls", server).await;
    let address = address.parse().unwrap();
    let gateway = dialling(&[address], "send_proxy = \"v2\"\n").start().await;
    let pg = gateway.gateway.address("pg").unwrap();
    let refused = Conn::tls(pg, "one.test", world.pki.client(None, &[])).await;
    assert!(refused.is_err());
    let told = gateway
        .gateway
        .wait_log(&["WARN", "expected an answer behind our PROXY v2 header"])
        .await;
    for part in [
        &format!("server={address}"),
        "listeners.pg.send_proxy (",
        "gateway.toml:5",
        &format!("`tidegated probe {address}`"),
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let metrics = gateway.metrics().await;
    assert_eq!(
        metrics.sum(
            "tidegate_tcp_mismatches_total",
            &["listener=\"pg\"", "why=\"header-unwanted\""]
        ),
        1.0
    );
}
