//! TLS divided by the name that its visitors ask for, and ended by the app.

use std::net::SocketAddr;
use std::sync::Arc;

use tidegate_tests::apps::HttpApp;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::task::{Task, spawn};
use tidegate_tests::visitors::curl::curl;
use tidegate_tests::{World, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{BY_NAME, echo, rest};

/// Passes what a visitor writes on in records of so many octets, each in a segment of its own.
async fn shredded(to: SocketAddr, each: usize) -> (SocketAddr, Task) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = spawn(async move {
        let (visitor, _) = listener.accept().await.unwrap();
        let gateway = TcpStream::connect(to).await.unwrap();
        gateway.set_nodelay(true).unwrap();
        let (mut from_gateway, mut to_gateway) = gateway.into_split();
        let (mut from_visitor, mut to_visitor) = visitor.into_split();
        let up = async {
            let mut head = [0; 5];
            from_visitor.read_exact(&mut head).await.unwrap();
            let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            from_visitor.read_exact(&mut hello).await.unwrap();
            for part in hello.chunks(each) {
                let length = u16::try_from(part.len()).unwrap().to_be_bytes();
                to_gateway.write_all(&[22, 3, 1]).await.unwrap();
                tokio::task::yield_now().await;
                to_gateway
                    .write_all(&[&length, part].concat())
                    .await
                    .unwrap();
                tokio::task::yield_now().await;
            }
            let _gone = tokio::io::copy(&mut from_visitor, &mut to_gateway).await;
            let _gone = to_gateway.shutdown().await;
        };
        let down = async {
            let _gone = tokio::io::copy(&mut from_gateway, &mut to_visitor).await;
            let _gone = to_visitor.shutdown().await;
        };
        tokio::join!(up, down);
    });
    (address, task)
}

#[tokio::test]
async fn tls_goes_where_its_server_name_leads_and_is_ended_there() {
    let config = BY_NAME.replace("OTHERWISE", "tunnel = \"rest.test\"");
    let world = World::builder().config(&config).start().await;
    let tls = world.gateway.address("tls").unwrap();
    let names = ["one.test", "a.two.test", "elsewhere.test"];
    let server = world
        .pki
        .server_config(&world.pki.server(&names), false, &["echo"]);
    let mut running = Vec::new();
    for name in ["one.test", "two.test", "rest.test"] {
        let (address, app) = echo(name, Arc::clone(&server)).await;
        running.push((
            app,
            world.tcp_agent(name, &address, &["--tunnels", "1"]).await,
        ));
    }
    let client = world.pki.client(None, &["echo"]);
    let through = async |to: SocketAddr, asks: &str, answers: &str| {
        let mut visitor = within(
            SOON,
            "a handshake",
            Conn::tls(to, asks, Arc::clone(&client)),
        )
        .await
        .unwrap();
        assert_eq!(
            visitor.alpn().as_deref(),
            Some(&b"echo"[..]),
            "it is the app's TLS"
        );
        visitor.write_all(b"!").await.unwrap();
        visitor.shutdown().await.unwrap();
        let heard = rest(&mut visitor).await.unwrap();
        assert_eq!(
            String::from_utf8(heard).unwrap(),
            format!("{answers}!"),
            "{asks}"
        );
    };
    for (asks, answers) in [
        ("one.test", "one.test"),
        ("ONE.test", "one.test"),
        ("a.two.test", "two.test"),
        ("elsewhere.test", "rest.test"),
    ] {
        through(tls, asks, answers).await;
    }
    for each in [1, 7, 100] {
        let (address, _shredding) = shredded(tls, each).await;
        through(address, "one.test", "one.test").await;
    }
    let line = world
        .gateway
        .wait_log(&["listener=tls sni=a.two.test to=two.test", "ended=closed"])
        .await;
    assert!(line.contains("name=two.test"), "{line}");
}

#[tokio::test]
async fn curl_reaches_an_https_app_through_both() {
    let config = BY_NAME.replace("OTHERWISE", "");
    let world = World::builder().config(&config).start().await;
    let identity = world.pki.server(&["one.test"]);
    let tls = world.pki.server_config(&identity, false, &["http/1.1"]);
    let app = HttpApp::start_tls("secret", tls).await;
    let target = app.target().trim_start_matches("https://").to_owned();
    let _agent = world.tcp_agent("one.test", &target, &[]).await;
    let port = world.gateway.address("tls").unwrap().port();
    let (resolve, url) = (
        format!("one.test:{port}:127.0.0.1"),
        format!("https://one.test:{port}/hello"),
    );
    let ca = world.pki.ca_file("ca");
    let args = [
        "--resolve",
        &resolve,
        "--cacert",
        ca.to_str().unwrap(),
        &url,
    ];
    let Some(finished) = curl(&args).await else {
        return;
    };
    assert_eq!(
        finished.stdout, "hello from secret\n",
        "{}",
        finished.stderr
    );
}

#[tokio::test]
async fn what_no_route_wants_is_told_so_in_tls_words_or_goes_to_the_listeners_own() {
    let config = BY_NAME.replace("OTHERWISE", "");
    let world = World::builder().config(&config).start().await;
    let tls = world.gateway.address("tls").unwrap();
    let refused = Conn::tls(tls, "elsewhere.test", world.pki.client(None, &[])).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.to_lowercase().contains("unrecognisedname"), "{said}");
    world
        .gateway
        .wait_log(&["sni=elsewhere.test", "ended=no-route"])
        .await;
    let said = async |octets: &[u8], leaves: bool| {
        let mut visitor = TcpStream::connect(tls).await.unwrap();
        visitor.write_all(octets).await.unwrap();
        if leaves {
            visitor.shutdown().await.unwrap();
        }
        rest(&mut visitor).await.unwrap_or_default()
    };
    let contradiction = [&[22, 3, 1, 0, 5, 1, 0, 0, 1][..], &[3]].concat();
    assert_eq!(said(&contradiction, false).await, [21, 3, 3, 0, 2, 2, 50]);
    world.gateway.wait_log(&["ended=bad-hello"]).await;
    assert!(said(b"GET / HTTP/1.1\r\n\r\n", false).await.is_empty());
    world.gateway.wait_log(&["ended=not-tls"]).await;
    assert!(said(&[22, 3, 1], true).await.is_empty());
    world.gateway.wait_log(&["ended=visitor-gone"]).await;
    assert!(said(&[22, 3, 1], false).await.is_empty());
    world.gateway.wait_log(&["ended=hello-timeout"]).await;
    // Where the listener has a target of its own, what is no TLS goes there, and so does silence when its time is over.
    let config = BY_NAME.replace("OTHERWISE", "tunnel = \"rest.test\"");
    let world = World::builder().config(&config).start().await;
    let tls = world.gateway.address("tls").unwrap();
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = app.local_addr().unwrap().to_string();
    let _agent = world.tcp_agent("rest.test", &target, &[]).await;
    for says in [&b"plain"[..], b""] {
        let mut visitor = TcpStream::connect(tls).await.unwrap();
        visitor.write_all(says).await.unwrap();
        let mut at_app = within(SOON, "the app", app.accept()).await.unwrap().0;
        at_app.write_all(b"220").await.unwrap();
        let mut greeting = [0; 3];
        visitor.read_exact(&mut greeting).await.unwrap();
        visitor.shutdown().await.unwrap();
        assert_eq!(rest(&mut at_app).await.unwrap(), says);
    }
}
