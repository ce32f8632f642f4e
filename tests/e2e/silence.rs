//! What an upgrade has opened, and on which nothing moves: it ends after a time that a key says, in order on both sides, and the log
//! names the key (issue 3 §4).

use std::time::{Duration, Instant};

use h2::ext::Protocol;
use http::Method;
use socket2::SockRef;
use tidegate_tests::apps::{HttpApp, RawApp};
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::{SOON, eventually, within};
use tidegate_tests::http1::{Head, Reader, pattern};
use tidegate_tests::program::Program;
use tidegate_tests::visitors::http2::{piece, response};
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::websocket::{self, KEY, accept, frame, op};
use tidegate_tests::{HOST, Site, World};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::interval;

async fn open(visitor: Visitor) -> Visitor {
    open_at(visitor, "/ws").await
}

async fn open_at(mut visitor: Visitor, path: &str) -> Visitor {
    visitor
        .send(format!(
            "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        ))
        .await;
    assert_eq!(visitor.head().await.status(), 101);
    visitor
}

/// It ends in order: an end that is none, as of a reset or of TLS that is cut, would be an error.
async fn ends(visitor: &mut Visitor) {
    let rest = within(SOON, "the end", visitor.reader.rest()).await;
    assert_eq!(rest.unwrap(), b"");
}

/// Agrees to an upgrade, as an app of the test's own.
async fn switch(reader: &mut Reader<Conn>) -> Head {
    let head = reader.head().await.unwrap().unwrap();
    let switched = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept(head.get("sec-websocket-key").unwrap())
    );
    reader.io.write_all(switched.as_bytes()).await.unwrap();
    head
}

/// WebSockets of visitors in clear text, over TLS and in HTTP/2: each talks, falls silent, and sees its end `within` that.
async fn all_fall_silent(world: &World, within_ms: u64) {
    let tls = world.visitor_tls(&["http/1.1"]);
    let secure = Visitor::connect_tls(world.visitors_tls, HOST, tls).await;
    let mut http1 = [open(world.visitor().await).await, open(secure).await];
    let mut http2 = H2Visitor::connect(world.visitors).await;
    http2.extended_connect().await;
    let mut head = http2.head(Method::CONNECT, HOST, "/ws");
    head.extensions_mut()
        .insert(Protocol::from_static("websocket"));
    let (future, mut send) = http2.begin(head, false).await;
    let answer = response(future).await;
    assert_eq!(answer.status(), 200);
    let mut receive = answer.into_body();
    let spoke = Instant::now();
    for visitor in &mut http1 {
        visitor.send(frame(op::TEXT, b"here", true)).await;
        let heard = within(SOON, "a frame", websocket::read(&mut visitor.reader)).await;
        assert_eq!(heard.unwrap().1, b"here"[..]);
    }
    send.send_data(frame(op::TEXT, b"here", true).into(), false)
        .unwrap();
    assert_eq!(
        piece(&mut receive).await.unwrap(),
        frame(op::TEXT, b"here", false)
    );
    for visitor in &mut http1 {
        ends(visitor).await;
    }
    // END_STREAM may come on a DATA frame of its own, which is an empty piece.
    let end = piece(&mut receive).await.filter(|piece| !piece.is_empty());
    assert_eq!(end, None);
    assert!(
        spoke.elapsed() >= Duration::from_millis(within_ms),
        "what moved has put it off"
    );
    assert_eq!(
        http2.get(HOST, "/hello").await.status,
        200,
        "the connection is not its stream"
    );
}

/// So many lines say that a time was over, and which.
async fn told(gateway: &Program, count: usize, timeout: &str) {
    let words = ["/ws", "reason=upgraded-timeout", timeout];
    eventually(SOON, "each has its line", async || {
        (gateway.logged(&words).len() == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn through_a_tunnel_silence_ends_a_websocket_in_order() {
    let gateway = World::builder().option("--upgraded-timeout", "800ms");
    let site = Site::start_with(gateway, &[]).await;
    all_fall_silent(&site.world, 800).await;
    let gateway = &site.world.gateway;
    told(gateway, 3, " timeout=times.upgraded_timeout:800ms in=10 ").await;
    eventually(SOON, "the app is rid of them", async || {
        (site.world.streams(HOST).await == 0).then_some(())
    })
    .await;
    let metrics = site.world.metrics().await;
    let reason = ["reason=\"upgraded-timeout\""];
    assert_eq!(metrics.sum("tidegate_requests_failed_total", &reason), 3.0);
}

#[tokio::test]
async fn a_backend_has_a_time_of_its_own_for_it() {
    let app = HttpApp::start("one").await;
    let config = format!(
        "[times]\nupgraded_timeout = \"1h\"\n[backends.site]\nupgraded_timeout = \"800ms\"\n[backends.site.servers]\none = \"{}\"\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n",
        app.address()
    );
    let world = World::builder().config(&config).option("--log", "json");
    let world = world.start().await;
    all_fall_silent(&world, 800).await;
    let words = [
        "\"reason\":\"upgraded-timeout\"",
        "\"timeout\":\"backends.site.upgraded_timeout\",\"timeout_ms\":800.0",
    ];
    eventually(SOON, "each has its line", async || {
        (world.gateway.logged(&words).len() == 3).then_some(())
    })
    .await;
    let metrics = world.metrics().await;
    assert_eq!(metrics.sum("tidegate_backend_in_flight", &[]), 0.0);
}

/// Whether it is one side's or the other's: what moves in one direction is no silence, and the app sees an end in order.
#[tokio::test]
async fn an_app_that_speaks_to_itself_keeps_it_open() {
    let (seen, mut ended) = mpsc::unbounded_channel();
    let app = RawApp::start(move |mut reader| {
        let seen = seen.clone();
        async move {
            switch(&mut reader).await;
            let mut ticks = interval(Duration::from_millis(200));
            for _ in 0..10 {
                ticks.tick().await;
                reader.io.write_all(b".").await.unwrap();
            }
            seen.send(reader.rest().await.map_err(|error| error.kind()))
                .unwrap();
        }
    })
    .await;
    let world = World::builder().option("--upgraded-timeout", "800ms");
    let world = world.start().await;
    let _agent = world.agent(HOST, &app.target()).await;
    let mut visitor = open(world.visitor().await).await;
    let rest = within(SOON, "the end", visitor.reader.rest()).await;
    assert_eq!(rest.unwrap(), b"..........");
    told(
        &world.gateway,
        1,
        " timeout=times.upgraded_timeout:800ms in=0 out=10 ",
    )
    .await;
    let seen = within(SOON, "the app's end", ended.recv()).await;
    assert_eq!(seen, Some(Ok(Vec::new())));
}

/// Once a side has said all, the other one's silence is shorter; and what it says counts.
#[tokio::test]
async fn what_one_side_has_ended_is_waited_for_less_long() {
    let app = RawApp::start(async |mut reader| {
        switch(&mut reader).await;
        // It goes on when the visitor has ended, and falls silent then.
        if reader.rest().await.is_ok() {
            let mut ticks = interval(Duration::from_millis(200));
            for _ in 0..8 {
                ticks.tick().await;
                reader.io.write_all(b".").await.unwrap();
            }
            std::future::pending::<()>().await;
        }
    })
    .await;
    let target = app.target();
    let address = target.strip_prefix("http://").unwrap();
    let config = format!(
        "[times]\nhalf_closed_timeout = \"800ms\"\n[backends.site.servers]\none = \"{address}\"\n[[routes]]\nhost = \"shop.test\"\nbackend = \"site\"\n"
    );
    let world = World::builder().config(&config).start().await;
    let _agent = world.agent(HOST, &target).await;
    for host in [HOST, "shop.test"] {
        let mut visitor = world.visitor().await;
        visitor
            .send(format!(
                "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
            ))
            .await;
        assert_eq!(visitor.head().await.status(), 101);
        visitor.half_close().await;
        let rest = within(SOON, "the end", visitor.reader.rest()).await;
        assert_eq!(rest.unwrap(), b"........", "{host}");
        let mut visitor = H2Visitor::connect(world.visitors).await;
        visitor.extended_connect().await;
        let mut head = visitor.head(Method::CONNECT, host, "/ws");
        head.extensions_mut()
            .insert(Protocol::from_static("websocket"));
        let (future, mut send) = visitor.begin(head, false).await;
        let mut receive = response(future).await.into_body();
        send.send_data(Vec::new().into(), true).unwrap();
        let mut rest = Vec::new();
        while let Some(more) = piece(&mut receive).await {
            rest.extend_from_slice(&more);
        }
        assert_eq!(rest, b"........", "{host}");
    }
    told(
        &world.gateway,
        4,
        " timeout=times.half_closed_timeout:800ms in=0 out=8 ",
    )
    .await;
}

/// So much that it is all in the hands of the systems between, and none of it the gateway's any more.
const LENGTH: usize = 1_000_000;

/// Takes what comes slowly, to its end; what is beyond [`LENGTH`] as it comes.
async fn take_slowly(reader: &mut Reader<Conn>) -> Vec<u8> {
    let mut ticks = interval(Duration::from_millis(40));
    let mut heard = Vec::new();
    while let Some(more) = reader.some(16 * 1024).await.unwrap() {
        heard.extend_from_slice(&more);
        if heard.len() < LENGTH {
            ticks.tick().await;
        }
    }
    heard
}

/// An app that has all to say, or that takes all slowly, and the end of what it heard or says.
async fn app_of_slow_ways(heard: mpsc::UnboundedSender<Vec<u8>>) -> RawApp {
    RawApp::start(move |mut reader| {
        let heard = heard.clone();
        async move {
            SockRef::from(reader.io.tcp())
                .set_recv_buffer_size(32 * 1024)
                .unwrap();
            let head = switch(&mut reader).await;
            if head.target().ends_with("/down") {
                let _broken = reader.io.write_all(&pattern(LENGTH)).await;
                let _broken = reader.io.shutdown().await;
                let _ended = heard.send(reader.rest().await.unwrap_or_default());
            } else {
                let _ended = heard.send(take_slowly(&mut reader).await);
                let _broken = reader.io.write_all(b"thanks").await;
            }
        }
    })
    .await
}

/// What was written long ago and is still being taken is no silence: of the visitor's, in clear text and over TLS, and of the app's.
#[tokio::test]
async fn what_is_taken_slowly_still_moves() {
    let (heard, mut at_app) = mpsc::unbounded_channel();
    let app = app_of_slow_ways(heard).await;
    let target = app.target();
    let address = target.strip_prefix("http://").unwrap();
    let config = format!(
        "[times]\nhalf_closed_timeout = \"600ms\"\n[backends.site.servers]\none = \"{address}\"\n[[routes]]\nhost = \"{HOST}\"\npath = \"/site\"\nbackend = \"site\"\n"
    );
    let world = World::builder().config(&config).start().await;
    let _agent = world.agent(HOST, &target).await;
    // What the app has not taken of what came through a tunnel is its agent's to know.
    for path in ["/down", "/site/down", "/site/up"] {
        let tls = world.visitor_tls(&["http/1.1"]);
        let secure = Visitor::connect_tls(world.visitors_tls, HOST, tls).await;
        for visitor in [world.visitor().await, secure] {
            SockRef::from(visitor.reader.io.tcp())
                .set_recv_buffer_size(32 * 1024)
                .unwrap();
            let mut visitor = open_at(visitor, path).await;
            let (said, due) = if path.ends_with("/down") {
                let all = take_slowly(&mut visitor.reader).await;
                assert!(all == pattern(LENGTH), "{path}");
                visitor.send("thanks").await;
                visitor.half_close().await;
                (b"thanks".to_vec(), "")
            } else {
                visitor.send(pattern(LENGTH)).await;
                visitor.half_close().await;
                (pattern(LENGTH), "thanks")
            };
            let rest = within(SOON, "the end", visitor.reader.rest()).await;
            assert_eq!(rest.unwrap(), due.as_bytes(), "{path}");
            assert!(at_app.recv().await.unwrap() == said, "{path}");
        }
    }
    let mut visitor = H2Visitor::connect(world.visitors).await;
    visitor.extended_connect().await;
    let mut head = visitor.head(Method::CONNECT, HOST, "/site/up");
    head.extensions_mut()
        .insert(Protocol::from_static("websocket"));
    let (future, mut send) = visitor.begin(head, false).await;
    let mut receive = response(future).await.into_body();
    send.send_data(pattern(LENGTH).into(), true).unwrap();
    let mut word = Vec::new();
    while let Some(more) = piece(&mut receive).await {
        word.extend_from_slice(&more);
    }
    assert_eq!(word, b"thanks");
    assert!(at_app.recv().await.unwrap() == pattern(LENGTH));
    assert!(world.gateway.logged(&["upgraded-timeout"]).is_empty());
}

/// The system asks for more only when a good part of what it has is gone. Until then nothing can be written, though the visitor
/// takes some all the time.
#[tokio::test]
async fn who_takes_slowly_has_not_stalled() {
    const MUCH: usize = 16 * LENGTH;
    let app = RawApp::start(async |mut reader| {
        switch(&mut reader).await;
        let _broken = reader.io.write_all(&pattern(MUCH)).await;
    })
    .await;
    let target = app.target();
    let address = target.strip_prefix("http://").unwrap();
    let config = format!(
        "[times]\nstall_timeout = \"600ms\"\n[backends.site.servers]\none = \"{address}\"\n[[routes]]\nhost = \"{HOST}\"\npath = \"/site\"\nbackend = \"site\"\n"
    );
    let world = World::builder().config(&config).start().await;
    let _agent = world.agent(HOST, &target).await;
    for path in ["/ws", "/site"] {
        let mut visitor = open_at(Visitor::connect_narrow(world.visitors).await, path).await;
        let all = take_slowly(&mut visitor.reader).await;
        assert!(all == pattern(MUCH), "{path}: {} octets", all.len());
    }
}

/// A visitor who has closed his half, and whose response does not begin, has perhaps left.
#[tokio::test]
async fn a_request_of_one_who_has_closed_his_half_is_waited_for_so_long() {
    let gateway = World::builder().option("--half-closed-timeout", "500ms");
    let site = Site::start_with(gateway, &[]).await;
    let mut visitor = site.visitor().await;
    visitor
        .send(format!("GET /slow/20000 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
        .await;
    visitor.half_close().await;
    // What the line says that he was told is what he was told.
    assert_eq!(visitor.closed_within(SOON).await, b"");
    let line = site
        .world
        .gateway
        .wait_log(&["/slow/20000", "status=499 reason=visitor-gone"])
        .await;
    assert!(
        line.contains(" timeout=times.half_closed_timeout:500ms "),
        "{line}"
    );
}
