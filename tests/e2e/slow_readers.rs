//! Who takes an answer slowly is served to its end, and who takes nothing is not, whatever else he does (README, `--stall-timeout`).

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tidegate_tests::apps::RawApp;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::http1::Framing;
use tidegate_tests::link::Link;
use tidegate_tests::visitors::http2::{piece, response};
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::world::Builder;
use tidegate_tests::{HOST, Site, World};
use tokio::io::AsyncWriteExt;

fn gateway() -> Builder {
    World::builder().option("--stall-timeout", "2s")
}

/// Of an answer; more than fits between a gateway and a visitor who does not read.
const LARGE: usize = 50_000_000;

/// So much of it is taken slowly, in three times the stall time, while the gateway itself can write for none of it.
const SLOWLY: usize = 3_000_000;

/// 16 KiB each; some 450 KiB per second.
const PAUSE: Duration = Duration::from_millis(35);

#[tokio::test]
async fn a_visitor_who_reads_slowly_gets_all_of_it() {
    let site = Site::start_with(gateway(), &[]).await;
    let links = [(); 2].map(|()| Link::to(site.world.visitors));
    let [one, other] = links;
    let (one, other) = tokio::join!(one, other);
    one.delay(PAUSE);
    other.delay(PAUSE);
    let http1 = async {
        let mut visitor = Visitor::connect(one.address()).await;
        visitor.send_get(HOST, &format!("/size/{LARGE}")).await;
        let head = visitor.head().await;
        let mut framing = Framing::of_answer(&head, "GET").unwrap();
        let mut taken = 0;
        while let Some(piece) = visitor.piece(&mut framing).await {
            taken += piece.len();
            if taken >= SLOWLY {
                one.delay(Duration::ZERO);
            }
        }
        assert_eq!(taken, LARGE);
    };
    let http2 = async {
        let mut settings = h2::client::Builder::new();
        // As browsers have it: the window is no reason to wait.
        settings
            .initial_window_size(16 << 20)
            .initial_connection_window_size(16 << 20);
        let mut visitor = H2Visitor::connect_with(other.address(), settings).await;
        let head = visitor.head(Method::GET, HOST, &format!("/size/{LARGE}"));
        let (answer, _) = visitor.begin(head, true).await;
        let mut body = response(answer).await.into_body();
        let mut taken = 0;
        while let Some(some) = piece(&mut body).await {
            taken += some.len();
            if taken >= SLOWLY {
                other.delay(Duration::ZERO);
            }
        }
        assert_eq!(taken, LARGE);
    };
    tokio::join!(http1, http2);
}

/// An app that begins a large answer at once, and does not look at what is sent to it.
async fn hasty() -> RawApp {
    RawApp::start(|mut reader| async move {
        while let Ok(Some(_head)) = reader.head().await {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
            let mut told = reader.io.write_all(head.as_bytes()).await;
            while told.is_ok() {
                told = reader.io.write_all(&[b'a'; 65536]).await;
            }
        }
    })
    .await
}

/// An octet of the request now and then is no excuse.
#[tokio::test]
async fn a_visitor_who_takes_nothing_and_drips_is_cut() {
    let world = gateway().start().await;
    let app = hasty().await;
    let _agent = world.agent(HOST, &app.target()).await;
    let began = Instant::now();
    let mut beat = tokio::time::interval(Duration::from_millis(500));
    let mut http1 = world.visitor().await;
    http1
        .send(format!(
            "POST /one HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n"
        ))
        .await;
    let mut http2 = H2Visitor::connect(world.visitors).await;
    let head = http2.head(Method::POST, HOST, "/two");
    let (answer, mut upload) = http2.begin(head, false).await;
    let _unread = response(answer).await;
    let cut = async |path: &str| {
        let words = [path, "reason=visitor-stalled"];
        (!world.gateway.logged(&words).is_empty()).then_some(())
    };
    while cut("/one").await.is_none() || cut("/two").await.is_none() {
        beat.tick().await;
        // Those that are cut take no more.
        let _cut = http1.try_send("x").await;
        let _cut = upload.send_data(Bytes::from_static(b"x"), false);
        assert!(began.elapsed() < SOON, "an octet at a time for {SOON:?}");
    }
    eventually(SOON, "the app is rid of both", async || {
        (world.streams(HOST).await == 0).then_some(())
    })
    .await;
}
