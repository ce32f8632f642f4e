//! A stuck visitor or app costs bounded memory and nobody else's time (issue §4, `wire.md` §1.10 rows 17 to 19).

use std::time::{Duration, Instant};

use http::Method;
use tidegate_tests::apps::{HttpApp, RawApp};
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::http1::pattern;
use tidegate_tests::program::Program;
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::{HOST, World, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// What one stuck stream may hold in each program: 256 KiB of ours and the tunnel's stream window.
const PER_STREAM_KIB: u64 = 256 + 512;

/// The window that the bound counts with, also where a busy machine makes the path look long and worth more.
const NEAR: [&str; 2] = ["--window-max", "512KiB"];

/// What an allocator and a busy moment add to a process.
const SLACK_KIB: u64 = 8 * 1024;

#[tokio::test]
async fn stuck_downloads_are_bounded_and_disturb_nobody() {
    let app = HttpApp::start("blog").await;
    let (world, agent) = near(app.target()).await;
    warm(&world).await;
    let before = (world.gateway.resident_kib(), agent.resident_kib());
    let stuck = 20;
    let mut visitors = Vec::new();
    for _ in 0..stuck {
        let mut visitor = Visitor::connect_narrow(world.visitors).await;
        visitor.send_get(HOST, "/size/50000000").await;
        visitors.push(visitor);
    }
    eventually(SOON, "every download has begun", async || {
        (app.count("/size/50000000") == stuck).then_some(())
    })
    .await;
    others_are_served(&world).await;
    assert_grown_by_at_most(
        PER_STREAM_KIB * stuck as u64 + SLACK_KIB,
        before,
        &world,
        &agent,
    );
    // A visitor who was stuck gets every byte when he reads after all.
    let answer = visitors.remove(0).answer("GET").await;
    assert_eq!(answer.body.len(), 50_000_000);
}

#[tokio::test]
async fn five_visitors_who_never_read_tiny_chunks_disturb_nobody() {
    let app = HttpApp::start("blog").await;
    let (world, agent) = near(app.target()).await;
    warm(&world).await;
    let tunnels = world.listed().await;
    let before = (world.gateway.resident_kib(), agent.resident_kib());
    let mut stuck = Vec::new();
    for _ in 0..5 {
        let mut visitor = Visitor::connect_narrow(world.visitors).await;
        visitor.send_get(HOST, "/drip").await;
        stuck.push(visitor);
    }
    eventually(SOON, "every stream has begun", async || {
        (app.count("/drip") == 5).then_some(())
    })
    .await;
    others_are_served(&world).await;
    assert_grown_by_at_most(PER_STREAM_KIB * 5 + SLACK_KIB, before, &world, &agent);
    assert_eq!(
        world.listed().await.len(),
        tunnels.len(),
        "the tunnel lives"
    );
    assert_eq!(world.gateway.logged(&["ENHANCE_YOUR_CALM"]).len(), 0);
}

#[tokio::test]
async fn an_upload_to_an_app_that_does_not_read_is_bounded() {
    let app = RawApp::start(async |mut reader| {
        let head = reader.head().await;
        if head.is_ok_and(|head| head.is_some_and(|head| head.target() == "/stuck")) {
            // The body is never read, and the connection is never closed.
            std::future::pending::<()>().await;
        }
        let _ = reader
            .io
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            .await;
    })
    .await;
    let (world, agent) = near(&app.target()).await;
    let before = (world.gateway.resident_kib(), agent.resident_kib());
    let mut visitor = world.visitor().await;
    let head = format!("POST /stuck HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 900000000\r\n\r\n");
    visitor.send(head).await;
    let part = pattern(100_000);
    let mut taken = 0_u64;
    while tokio::time::timeout(Duration::from_secs(1), visitor.try_send(&part))
        .await
        .is_ok()
    {
        taken += part.len() as u64;
        assert!(taken < 64 << 20, "back-pressure reaches the visitor");
    }
    let began = Instant::now();
    assert_eq!(world.get(HOST, "/other").await.text(), "ok");
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_grown_by_at_most(PER_STREAM_KIB + SLACK_KIB, before, &world, &agent);
}

/// An app that answers at length as soon as it is asked, and reads the request meanwhile: tells when it has all of so many octets.
async fn talkative(body: usize) -> (RawApp, UnboundedReceiver<()>) {
    let (tell, told) = unbounded_channel();
    let app = RawApp::start(move |mut reader| {
        let tell = tell.clone();
        async move {
            if !matches!(reader.head().await, Ok(Some(_))) {
                return;
            }
            // The visitor sends the body when he has seen the head of the answer, so none of it is with the reader.
            let (mut from, mut to) = tokio::io::split(reader.io);
            let answering = async {
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 60000000\r\n\r\n";
                to.write_all(head).await?;
                to.write_all(&vec![b'a'; 60_000_000]).await
            };
            let reading = async {
                let mut room = vec![0; body];
                from.read_exact(&mut room).await?;
                tell.send(()).unwrap();
                std::io::Result::Ok(())
            };
            let _gone = tokio::join!(answering, reading);
        }
    })
    .await;
    (app, told)
}

/// Many clients send all of a request before they read anything of the answer.
#[tokio::test]
async fn a_visitor_who_does_not_read_yet_can_still_send() {
    const BODY: usize = 6_000_000;
    let (app, mut told) = talkative(BODY).await;
    let server = app.target().replace("http://", "");
    let config = format!(
        "[backends.site.servers]\none = \"{server}\"\n[[routes]]\nhost = \"dialled.test\"\nbackend = \"site\"\n"
    );
    let gateway = World::builder().config(&config);
    let world = gateway.option(NEAR[0], NEAR[1]).start().await;
    let options = ["--tunnels", "1", NEAR[0], NEAR[1]];
    let _agent = world.agent_with(HOST, &app.target(), &options).await;
    for host in [HOST, "dialled.test"] {
        let mut visitor = Visitor::connect_narrow(world.visitors).await;
        visitor
            .send(format!(
                "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {BODY}\r\n\r\n"
            ))
            .await;
        assert_eq!(visitor.head().await.status(), 200, "{host}");
        visitor.send(pattern(BODY)).await;
        let all = within(SOON, "the app has all of the request", told.recv());
        assert_eq!(all.await, Some(()), "{host}");

        let mut visitor = H2Visitor::connect(world.visitors).await;
        let head = visitor.head(Method::POST, host, "/");
        let (response, mut upload) = visitor.begin(head, false).await;
        let response = within(SOON, "the answer has begun", response)
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{host}");
        upload.send_data(pattern(BODY).into(), true).unwrap();
        let all = within(SOON, "the app has all of the request", told.recv());
        assert_eq!(all.await, Some(()), "{host}, HTTP/2");
    }
}

/// A gateway, and an agent with one tunnel, whose windows are as large as the bound counts with.
async fn near(target: &str) -> (World, Program) {
    let world = World::builder().option(NEAR[0], NEAR[1]).start().await;
    let options = ["--tunnels", "1", NEAR[0], NEAR[1]];
    let agent = world.agent_with(HOST, target, &options).await;
    (world, agent)
}

/// What both programs hold beyond `before` is bounded. An allocator that gave back what the start needed may hold less.
fn assert_grown_by_at_most(most: u64, before: (u64, u64), world: &World, agent: &Program) {
    let growth = [
        world.gateway.resident_kib().saturating_sub(before.0),
        agent.resident_kib().saturating_sub(before.1),
    ];
    assert!(
        growth.iter().all(|grown| *grown <= most),
        "{growth:?} KiB, at most {most}"
    );
}

/// Lets both programs touch the memory that every request needs.
async fn warm(world: &World) {
    for _ in 0..20 {
        assert_eq!(world.get(HOST, "/size/300000").await.body.len(), 300_000);
    }
}

/// For two seconds every other visitor of the same tunnel is answered, and soon.
async fn others_are_served(world: &World) {
    let end = Instant::now() + Duration::from_secs(2);
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let began = Instant::now();
        assert_eq!(world.get(HOST, "/size/100000").await.body.len(), 100_000);
        slowest = slowest.max(began.elapsed());
    }
    // Milliseconds, in truth; the machine may be busy with other tests.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
