//! WebSocket through a reversed tunnel: HTTP/1.1 Upgrade and RFC 8441, to an HTTP/1.1 app (issue §4).

use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::Method;
use tidegate_tests::apps::RawApp;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::http1::{Reader, pattern};
use tidegate_tests::visitors::http2::{piece, response};
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::websocket::{self, KEY, accept, frame, op};
use tidegate_tests::{HOST, Site, World, within};
use tokio::io::AsyncWriteExt;

/// The opening handshake of a visitor.
fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

async fn open(site: &Site) -> Visitor {
    let mut visitor = site.visitor().await;
    visitor.send(upgrade("/ws")).await;
    let head = visitor.head().await;
    assert_eq!(head.status(), 101, "{head:?}");
    assert!(
        head.lists("connection", "upgrade") && head.lists("upgrade", "websocket"),
        "{head:?}"
    );
    assert_eq!(head.get("sec-websocket-accept"), Some(accept(KEY).as_str()));
    visitor
}

async fn expect(visitor: &mut Visitor, opcode: u8, payload: &[u8]) {
    let got = within(SOON, "a frame", websocket::read(&mut visitor.reader))
        .await
        .unwrap();
    assert_eq!((got.0, got.1.len()), (opcode, payload.len()));
    assert!(got.1 == payload);
}

/// Agrees to an upgrade, as an app of the test's own. Whether one was asked for.
async fn switch(reader: &mut Reader<Conn>) -> bool {
    let Ok(Some(head)) = reader.head().await else {
        return false;
    };
    let switched = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept(head.get("sec-websocket-key").unwrap())
    );
    reader.io.write_all(switched.as_bytes()).await.is_ok()
}

/// Behind the 101 the bytes are the app's own, also where they look like an answer of HTTP/1.
#[tokio::test]
async fn bytes_behind_the_101_are_left_alone() {
    const LIKE_HTTP: &[u8] = b"HTTP/1.1 400 is what this protocol says\r\n\r\n";
    let app = RawApp::start(async |mut reader| {
        if !switch(&mut reader).await {
            return;
        }
        while reader
            .exactly(4)
            .await
            .is_ok_and(|asked| asked == "more"[..])
        {
            reader.io.write_all(LIKE_HTTP).await.unwrap();
        }
    })
    .await;
    let world = World::start().await;
    let _agent = world.agent(HOST, &app.target()).await;
    let mut visitor = world.visitor().await;
    visitor.send(upgrade("/raw")).await;
    assert_eq!(visitor.head().await.status(), 101);
    for _ in 0..3 {
        visitor.send("more").await;
        let got = within(SOON, "bytes", visitor.reader.exactly(LIKE_HTTP.len())).await;
        assert_eq!(got.unwrap(), LIKE_HTTP);
    }
}

#[tokio::test]
async fn an_http1_visitor_talks_over_an_upgrade() {
    let site = Site::start().await;
    let mut visitor = open(&site).await;
    for text in ["one", "two"] {
        visitor.send(frame(op::TEXT, text.as_bytes(), true)).await;
        expect(&mut visitor, op::TEXT, text.as_bytes()).await;
    }
    let large = vec![7; 60_000];
    visitor.send(frame(op::BINARY, &large, true)).await;
    expect(&mut visitor, op::BINARY, &large).await;
    visitor.send(frame(op::PING, b"p", true)).await;
    expect(&mut visitor, op::PONG, b"p").await;
    visitor.send(frame(op::CLOSE, &[3, 232], true)).await;
    expect(&mut visitor, op::CLOSE, &[3, 232]).await;
    assert_eq!(visitor.closed_within(SOON).await, b"");
}

#[tokio::test]
async fn frames_right_behind_the_handshake_are_not_lost() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    let glued = [upgrade("/ws").into_bytes(), frame(op::TEXT, b"early", true)].concat();
    visitor.send(glued).await;
    assert_eq!(visitor.head().await.status(), 101);
    expect(&mut visitor, op::TEXT, b"early").await;
}

#[tokio::test]
async fn a_refused_upgrade_passes_as_an_answer() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    visitor.send(upgrade("/status/404")).await;
    let answer = visitor.answer("GET").await;
    assert_eq!((answer.status(), answer.text().as_str()), (404, "status\n"));
    visitor.send_get(HOST, "/hello").await;
    assert_eq!(
        visitor.answer("GET").await.status(),
        200,
        "the connection is still HTTP"
    );
}

#[tokio::test]
async fn a_visitor_who_vanishes_closes_the_apps_side() {
    let site = Site::start().await;
    let visitor = open(&site).await;
    let streams = async || site.world.streams(HOST).await;
    assert_eq!(streams().await, 1);
    visitor.reset();
    eventually(Duration::from_secs(1), "the stream ends", async || {
        (streams().await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_idle_websocket_stays_open() {
    let site = Site::start().await;
    let mut visitor = open(&site).await;
    // Longer than the ping interval and than the head timeout: neither is a limit of a WebSocket.
    let silence = tokio::time::timeout(Duration::from_secs(12), visitor.reader.some(1)).await;
    assert!(
        silence.is_err(),
        "nothing may come, and not the end: {silence:?}"
    );
    visitor.send(frame(op::TEXT, b"still here", true)).await;
    expect(&mut visitor, op::TEXT, b"still here").await;
}

#[tokio::test]
async fn other_upgrades_are_not_offered_to_the_app() {
    let site = Site::start().await;
    let request = format!(
        "GET /headers HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    );
    let answer = site.ask("GET", request).await;
    assert_eq!(answer.status(), 200);
    let head = site.app.last_request();
    assert_eq!(
        (head.get("upgrade"), head.get("http2-settings")),
        (None, None)
    );
}

#[tokio::test]
async fn an_app_that_ignores_an_upgrade_is_heard_all_the_same() {
    let site = Site::start().await;
    let ask = |method: &str, path: &str, protocol: &str, more: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
             Tidegate-Status: 200\r\n{more}\r\n"
        )
    };
    for protocol in ["foo", "websocket"] {
        let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
        let mut visitor = site.visitor().await;
        // RFC 9110 §7.8: a server may ignore it. Several on one connection, which is still HTTP.
        for (path, body) in [
            ("/hello", b"hello from blog\n".to_vec()),
            ("/size/100000", pattern(100_000)),
            ("/chunked/70000", pattern(70_000)),
            ("/size/0", Vec::new()),
        ] {
            visitor.send(ask("GET", path, protocol, &key)).await;
            let answer = visitor.answer("GET").await;
            assert_eq!(
                (answer.status(), answer.reason()),
                (200, ""),
                "{protocol} {path}"
            );
            assert!(
                answer.body == body && answer.cut.is_none(),
                "{protocol} {path}"
            );
            for field in ["tidegate-status", "upgrade"] {
                assert_eq!(answer.head.get(field), None, "{protocol} {path}");
            }
        }
        assert_eq!(
            site.app.last_request().get("tidegate-upgrade-optional"),
            None,
            "what the two ends agree on is not the app's"
        );
        // A refusal stays one, and a body goes as ever: without the upgrade.
        visitor
            .send(ask("GET", "/status/403", protocol, &key))
            .await;
        assert_eq!(visitor.answer("GET").await.status(), 403);
        visitor
            .send(ask("POST", "/upload", protocol, "Content-Length: 5\r\n"))
            .await;
        visitor.send(&pattern(5)).await;
        assert_eq!(visitor.answer("POST").await.text(), "5 intact");
    }
    let hello = site.world.gateway.wait_log(&["GET blog.test/hello "]).await;
    assert!(hello.contains(" status=200 "), "{hello}");
}

#[tokio::test]
async fn an_http2_visitor_is_never_told_that_an_ignored_upgrade_was_accepted() {
    let site = Site::start().await;
    let mut visitor = H2Visitor::connect(site.world.visitors).await;
    visitor.extended_connect().await;
    // The second one pretends to know what only a gateway may ask for.
    for forged in [false, true] {
        let mut head = visitor.head(Method::CONNECT, HOST, "/hello");
        head.extensions_mut()
            .insert(Protocol::from_static("websocket"));
        if forged {
            head.headers_mut()
                .insert("tidegate-upgrade-optional", "1".parse().unwrap());
        }
        let (future, _send) = visitor.begin(head, false).await;
        let answer = response(future).await;
        assert_eq!(answer.status(), 502);
        assert_eq!(answer.headers()["tidegate-reason"], "upgrade-ignored");
    }
}

/// One WebSocket of an HTTP/2 visitor.
struct Channel {
    send: SendStream<Bytes>,
    receive: RecvStream,
    buffer: Vec<u8>,
}

impl Channel {
    async fn open(visitor: &mut H2Visitor, path: &str) -> Self {
        visitor.extended_connect().await;
        let mut head = visitor.head(Method::CONNECT, HOST, path);
        head.extensions_mut()
            .insert(Protocol::from_static("websocket"));
        head.headers_mut()
            .insert("sec-websocket-version", "13".parse().unwrap());
        let (future, send) = visitor.begin(head, false).await;
        let response = response(future).await;
        assert_eq!(response.status(), 200);
        assert_eq!(
            response.headers().get("sec-websocket-accept"),
            None,
            "RFC 8441 §5.1"
        );
        Self {
            send,
            receive: response.into_body(),
            buffer: Vec::new(),
        }
    }

    async fn exchange(&mut self, opcode: u8, payload: &[u8]) {
        self.send
            .send_data(frame(opcode, payload, true).into(), false)
            .unwrap();
        let expected = frame(opcode, payload, false);
        while self.buffer.len() < expected.len() {
            self.buffer
                .extend(piece(&mut self.receive).await.expect("more bytes"));
        }
        let rest = self.buffer.split_off(expected.len());
        assert!(self.buffer == expected, "the echo");
        self.buffer = rest;
    }
}

#[tokio::test]
async fn an_http2_visitor_talks_over_extended_connect() {
    let site = Site::start().await;
    let tls = site.world.visitor_tls(&["h2"]);
    let mut visitor = H2Visitor::connect_tls(site.world.visitors_tls, HOST, tls).await;
    let mut one = Channel::open(&mut visitor, "/ws").await;
    let mut two = Channel::open(&mut visitor, "/ws?two").await;
    one.exchange(op::TEXT, b"one").await;
    two.exchange(op::TEXT, b"two").await;
    one.exchange(op::BINARY, &vec![9; 50_000]).await;
    one.exchange(op::CLOSE, &[3, 232]).await;
    // END_STREAM may come on a DATA frame of its own, which is an empty piece.
    let end = piece(&mut one.receive)
        .await
        .filter(|piece| !piece.is_empty());
    assert_eq!(end, None, "END_STREAM after the closing handshake");
    two.exchange(op::TEXT, b"unaffected").await;
    assert_eq!(visitor.get(HOST, "/hello").await.status, 200);
    let head = site
        .app
        .requests()
        .into_iter()
        .find(|head| head.target() == "/ws")
        .unwrap();
    assert_eq!(head.method(), "GET", "the app sees an ordinary handshake");
    assert!(head.get("sec-websocket-key").is_some());
}

#[tokio::test]
async fn an_http2_visitor_learns_of_a_refusal() {
    let site = Site::start().await;
    let mut visitor = H2Visitor::connect(site.world.visitors).await;
    visitor.extended_connect().await;
    let mut head = visitor.head(Method::CONNECT, HOST, "/status/403");
    head.extensions_mut()
        .insert(Protocol::from_static("websocket"));
    let (future, _send) = visitor.begin(head, false).await;
    assert_eq!(response(future).await.status(), 403);
}

/// A connection keeps its place among the visitors for as long as it is open, whatever is spoken on it.
#[tokio::test]
async fn an_upgraded_connection_is_a_visitor_to_its_end() {
    for (option, answer) in [
        ("--max-visitors", (503, "limit")),
        ("--max-visitors-per-source", (429, "too-many-connections")),
    ] {
        let site = Site::start_with(World::builder().option(option, "3"), &[]).await;
        let mut inside = Vec::new();
        for _ in 0..3 {
            let mut visitor = open(&site).await;
            visitor.send(frame(op::TEXT, b"here", true)).await;
            expect(&mut visitor, op::TEXT, b"here").await;
            inside.push(visitor);
        }
        let refused = site.get("/hello").await;
        assert_eq!((refused.status(), refused.reason()), answer, "{option}");
        assert_eq!(visitors(&site).await, 3.0, "{option}");
        inside.pop().unwrap().reset();
        let mut leaving = inside.pop().unwrap();
        leaving.send(frame(op::CLOSE, &[3, 232], true)).await;
        expect(&mut leaving, op::CLOSE, &[3, 232]).await;
        assert_eq!(leaving.closed_within(SOON).await, b"");
        drop(leaving);
        let room = async || (visitors(&site).await == 1.0).then_some(());
        eventually(SOON, "those who left are not counted", room).await;
        assert_eq!(site.get("/hello").await.status(), 200, "{option}");
        inside[0].send(frame(op::TEXT, b"still", true)).await;
        expect(&mut inside[0], op::TEXT, b"still").await;
    }
}

/// Visitors' connections that are open.
async fn visitors(site: &Site) -> f64 {
    let metrics = site.world.metrics().await;
    let of = |metric| metrics.sum(metric, &[]);
    of("tidegate_visitors_opened_total") - of("tidegate_visitors_closed_total")
}

/// Who takes nothing of what the app says is cut, in clear text and over TLS; who has nothing to take is not.
#[tokio::test]
async fn a_visitor_who_takes_nothing_is_cut() {
    let app = RawApp::start(async |mut reader| {
        if switch(&mut reader).await {
            let part = pattern(100_000);
            while reader.io.write_all(&part).await.is_ok() {}
        }
    })
    .await;
    let gateway = World::builder().option("--stall-timeout", "1s");
    let site = Site::start_with(gateway, &[]).await;
    let _other = site.world.agent("shop.test", &app.target()).await;
    let mut quiet = open(&site).await;
    let flood = upgrade("/flood").replace(HOST, "shop.test");
    let mut clear = Visitor::connect_narrow(site.world.visitors).await;
    let tls = site.world.visitor_tls(&["http/1.1"]);
    let mut secure = Visitor::connect_tls(site.world.visitors_tls, "shop.test", tls).await;
    secure.narrow();
    for visitor in [&mut clear, &mut secure] {
        visitor.send(&flood).await;
        assert_eq!(visitor.head().await.status(), 101);
    }
    let gateway = &site.world.gateway;
    eventually(SOON, "both are cut", async || {
        let cut = gateway.logged(&["/flood", "status=101", "reason=visitor-stalled"]);
        (cut.len() == 2).then_some(())
    })
    .await;
    eventually(SOON, "the app is rid of both", async || {
        (site.world.streams("shop.test").await == 0).then_some(())
    })
    .await;
    quiet.send(frame(op::TEXT, b"still", true)).await;
    expect(&mut quiet, op::TEXT, b"still").await;
}

/// The frame code of the harness against the example of RFC 6455 §5.7.
#[tokio::test]
async fn the_masked_hello_of_the_rfc_is_read() {
    let wire: &[u8] = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(frame(op::TEXT, b"Hello", true), wire);
    let (opcode, payload) = websocket::read(&mut Reader::new(wire)).await.unwrap();
    assert_eq!((opcode, payload.as_ref()), (op::TEXT, &b"Hello"[..]));
    assert_eq!(accept(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}
