//! A body that crawls is given up and one that merely takes its time is not, over HTTP/1 and HTTP/2 (README, `--body-rate`
//! and `--stall-timeout`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tidegate_tests::apps::RawApp;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::http1::{Framing, pattern};
use tidegate_tests::program::Program;
use tidegate_tests::visitors::{H2Visitor, http2};
use tidegate_tests::world::Builder;
use tidegate_tests::{HOST, Site, World};

/// A gateway that gives up after two seconds of nothing, or of less than 500 octets per second.
fn gateway() -> Builder {
    World::builder()
        .option("--stall-timeout", "2s")
        .option("--body-rate", "500")
}

/// An app that counts the bodies which broke off before their end.
async fn app_that_counts_cuts() -> (RawApp, Arc<AtomicUsize>) {
    let cuts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&cuts);
    let app = RawApp::start(move |mut reader| {
        let counter = Arc::clone(&counter);
        async move {
            while let Ok(Some(head)) = reader.head().await {
                let mut framing = Framing::of_request(&head).unwrap();
                if reader.body(&mut framing).await.is_err() {
                    counter.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
    })
    .await;
    (app, cuts)
}

/// A site whose app never answers and counts the bodies that broke off.
async fn patient_site() -> (World, RawApp, Program, Arc<AtomicUsize>) {
    let world = gateway().start().await;
    let (app, cuts) = app_that_counts_cuts().await;
    let agent = world.agent(HOST, &app.target()).await;
    (world, app, agent, cuts)
}

async fn wait_cuts(cuts: &AtomicUsize, count: usize) {
    let what = format!("the app sees {count} bodies break off");
    eventually(SOON, &what, async || {
        (cuts.load(Ordering::Relaxed) == count).then_some(())
    })
    .await;
}

/// Five pieces a second.
fn metronome() -> tokio::time::Interval {
    tokio::time::interval(Duration::from_millis(200))
}

#[tokio::test]
async fn a_body_that_crawls_is_a_408_and_breaks_off_for_the_app() {
    let (world, _app, _agent, cuts) = patient_site().await;
    let mut visitor = world.visitor().await;
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n");
    visitor.send(head).await;
    let began = Instant::now();
    let mut beat = metronome();
    let answer = loop {
        tokio::select! {
            biased;
            answer = visitor.reader.head() => break answer.unwrap().unwrap(),
            _ = beat.tick() => {}
        }
        // A connection that is closed has its answer before it.
        let _closed = visitor.try_send("ten octets").await;
        assert!(began.elapsed() < SOON, "10 octets at a time for {SOON:?}");
    };
    let took = began.elapsed();
    assert_eq!(
        (answer.status(), answer.get("tidegate-reason")),
        (408, Some("body-timeout"))
    );
    assert!(
        took >= Duration::from_secs(2) && took < Duration::from_secs(8),
        "{took:?}"
    );
    wait_cuts(&cuts, 1).await;
}

#[tokio::test]
async fn an_http2_body_that_crawls_is_a_408_and_breaks_off_for_the_app() {
    let (world, _app, _agent, cuts) = patient_site().await;
    let mut visitor = H2Visitor::connect(world.visitors).await;
    let head = visitor.head(Method::POST, HOST, "/");
    let (mut response, mut upload) = visitor.begin(head, false).await;
    let began = Instant::now();
    let mut beat = metronome();
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut response => break answer.unwrap(),
            _ = beat.tick() => {}
        }
        // A stream that is closed has its answer before it.
        let _closed = upload.send_data(Bytes::from_static(b"ten octets"), false);
        assert!(began.elapsed() < SOON, "10 octets at a time for {SOON:?}");
    };
    let took = began.elapsed();
    assert_eq!(answer.status(), 408);
    assert_eq!(answer.headers()["tidegate-reason"], "body-timeout");
    assert!(
        took >= Duration::from_secs(2) && took < Duration::from_secs(8),
        "{took:?}"
    );
    wait_cuts(&cuts, 1).await;
}

/// 30 pieces of 400 octets at 2,000 octets per second, for three times the stall time.
const PIECES: usize = 30;
const PIECE: usize = 400;

#[tokio::test]
async fn a_body_above_the_rate_may_take_its_time() {
    let site = Site::start_with(gateway(), &[]).await;
    let mut visitor = site.visitor().await;
    let length = PIECES * PIECE;
    let head = format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n");
    visitor.send(head).await;
    let mut beat = metronome();
    for piece in pattern(length).chunks(PIECE) {
        beat.tick().await;
        visitor.send(piece).await;
    }
    assert_eq!(visitor.answer("POST").await.text(), "12000 intact");
}

#[tokio::test]
async fn an_http2_body_above_the_rate_may_take_its_time() {
    let site = Site::start_with(gateway(), &[]).await;
    let mut visitor = H2Visitor::connect(site.world.visitors).await;
    let head = visitor.head(Method::POST, HOST, "/upload");
    let (response, mut upload) = visitor.begin(head, false).await;
    let mut beat = metronome();
    for piece in pattern(PIECES * PIECE).chunks(PIECE) {
        beat.tick().await;
        upload
            .send_data(Bytes::copy_from_slice(piece), false)
            .unwrap();
    }
    upload.send_data(Bytes::new(), true).unwrap();
    assert_eq!(http2::answer(response).await.text(), "12000 intact");
}

/// Whoever sends nothing at all is given up by the stall time, however much came before.
#[tokio::test]
async fn an_http2_body_that_stalls_is_a_408() {
    let (world, _app, _agent, cuts) = patient_site().await;
    let mut visitor = H2Visitor::connect(world.visitors).await;
    let head = visitor.head(Method::POST, HOST, "/");
    let (response, mut upload) = visitor.begin(head, false).await;
    upload.send_data(pattern(60_000).into(), false).unwrap();
    let answer = http2::answer(response).await;
    assert_eq!(
        (answer.status.as_u16(), answer.field("tidegate-reason")),
        (408, "body-timeout")
    );
    wait_cuts(&cuts, 1).await;
}
