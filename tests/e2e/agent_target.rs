//! The agent connects where its owner told it and nowhere else, and what it says there can be read in one way (issue §5).

use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::peers::frame::kind;
use tidegate_tests::peers::gateway::{answer, request};
use tidegate_tests::{ByHand, HOST, World, within};

#[tokio::test]
async fn every_kind_of_target_is_reached() {
    let world = World::start().await;
    let unix = HttpApp::start_unix("unix", world.dir());
    let tls_config =
        world
            .pki
            .server_config(&world.pki.server(&["localhost"]), false, &["http/1.1"]);
    let tls = HttpApp::start_tls("tls", tls_config).await;
    let plain = HttpApp::start("plain").await;
    let port = plain.address().port();
    let ca = world.pki.ca_file("ca");
    let targets = [
        ("port.test", port.to_string(), "plain"),
        ("host.test", format!("localhost:{port}"), "plain"),
        ("url.test", format!("http://127.0.0.1:{port}"), "plain"),
        ("unix.test", unix.target().to_owned(), "unix"),
        ("tls.test", tls.target().to_owned(), "tls"),
    ];
    for (name, target, app) in targets {
        let options = ["--tunnels", "1", "--target-ca", ca.to_str().unwrap()];
        let options = if app == "tls" {
            &options[..]
        } else {
            &options[..2]
        };
        let _agent = world.agent_with(name, &target, options).await;
        assert_eq!(
            world.get(name, "/hello").await.text(),
            format!("hello from {app}\n"),
            "{target}"
        );
        let head = format!("POST /upload HTTP/1.1\r\nHost: {name}\r\nContent-Length: 1\r\n\r\n\0");
        let mut visitor = world.visitor().await;
        visitor.send(head).await;
        assert_eq!(visitor.answer("POST").await.text(), "1 intact", "{target}");
    }
}

/// A visitor never chooses where an agent connects.
#[tokio::test]
async fn requests_do_not_move_the_agents_target() {
    let scene = ByHand::start().await;
    let other = HttpApp::start("other").await;
    let mut peer = scene.gateway.reversed().await;
    let elsewhere = other.address().to_string();
    let absolute = format!("http://{elsewhere}/x");
    let attempts = [
        request("GET", &elsewhere, "/x"),
        request("GET", HOST, &absolute),
        vec![(":method", "CONNECT"), (":authority", &elsewhere)],
        vec![
            (":method", "GET"),
            (":scheme", "unix"),
            (":authority", HOST),
            (":path", "/x"),
        ],
    ];
    for (stream, fields) in (1..).step_by(2).zip(&attempts) {
        peer.send_head(stream, fields, fields[0].1 != "CONNECT")
            .await;
        // Any answer will do, also a reset: what counts is who has not been asked.
        let kinds = [kind::HEADERS, kind::RST_STREAM];
        within(SOON, "an answer", async {
            loop {
                let frame = peer.frame().await.unwrap();
                if frame.stream == stream && kinds.contains(&frame.kind) {
                    return;
                }
            }
        })
        .await;
    }
    assert_eq!(other.connections(), 0);
}

/// Whatever a gateway lets through: the app's HTTP/1 can be read in one way.
#[tokio::test]
async fn requests_that_would_smuggle_do_not_reach_the_app() {
    let scene = ByHand::start().await;
    let mut peer = scene.gateway.reversed().await;
    let with = |method, more: &[(&'static str, &'static str)]| {
        let mut fields = request(method, HOST, "/upload");
        fields.extend(more);
        fields
    };
    let upgrade = |protocol| {
        let mut fields = request("CONNECT", HOST, "/ws");
        fields.insert(1, (":protocol", protocol));
        fields
    };
    let attempts = [
        with("POST", &[("content-length", "0"), ("content-length", "00")]),
        with("POST", &[("content-length", "")]),
        upgrade("h2c"),
        upgrade("TLS/1.3"),
        upgrade("foo\r\nX-Owned: 1"),
        upgrade("a b"),
        upgrade(""),
    ];
    let mut stream = 1;
    for fields in &attempts {
        peer.send_head(stream, fields, fields[0].1 == "POST").await;
        let (head, _, _) = answer(&mut peer, stream).await;
        let status = head.iter().find(|(name, _)| name == ":status");
        assert_eq!(
            status.map(|(_, status)| status.as_str()),
            Some("400"),
            "{fields:?}"
        );
        assert!(
            scene.app.requests().is_empty(),
            "{fields:?}: {:?}",
            scene.app.requests()
        );
        stream += 2;
    }
    peer.send_head(stream, &request("GET", HOST, "/hello"), true)
        .await;
    assert_eq!(answer(&mut peer, stream).await.1, b"hello from blog\n");
}
