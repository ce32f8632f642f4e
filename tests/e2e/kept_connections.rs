//! The gateway's kept connections to a server that closes each behind its answer without a word of it, and to one whose visitors
//! break off: what cannot be repeated is neither lost nor sent twice, and nobody is held to account for what he has not done.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_tests::apps::RawApp;
use tidegate_tests::eventually::{SOON, eventually, within};
use tidegate_tests::http1::Framing;
use tidegate_tests::task::Tasks;
use tidegate_tests::visitors::Visitor;
use tidegate_tests::{HOST, World};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// The server keeps a connection for so long.
const KEPT: Duration = Duration::from_millis(5);

/// On a machine that stands still it has kept one for nearly as long as makes the gateway trust it, and rightly.
const LONG: Duration = Duration::from_millis(40);

const POSTS: usize = 40;

/// What the server has seen.
#[derive(Debug, Default)]
struct Seen {
    bodies: HashMap<Vec<u8>, usize>,
    /// For which it has kept a connection.
    longest: Duration,
}

/// A server that closes each connection a moment behind its answer, without an answer to what has come by then.
async fn silent_closer() -> (RawApp, Arc<Mutex<Seen>>) {
    let seen = Arc::<Mutex<Seen>>::default();
    let record = Arc::clone(&seen);
    let app = RawApp::start(move |mut reader| {
        let record = Arc::clone(&record);
        async move {
            let Ok(Some(head)) = reader.head().await else {
                return;
            };
            let mut framing = Framing::of_request(&head).unwrap();
            let body = reader.body(&mut framing).await.unwrap();
            let times = |seen: &mut Seen| *seen.bodies.entry(body).or_default() += 1;
            times(&mut record.lock().unwrap());
            let answered = Instant::now();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            reader.io.write_all(answer).await.unwrap();
            let _unanswered = timeout(KEPT, reader.head()).await;
            drop(reader);
            let mut seen = record.lock().unwrap();
            seen.longest = seen.longest.max(answered.elapsed());
        }
    })
    .await;
    (app, seen)
}

fn at(app: &RawApp) -> SocketAddr {
    app.target().trim_start_matches("http://").parse().unwrap()
}

/// A visitor's POSTs, one after the other. Counts those that came to nothing.
async fn posts(to: SocketAddr, visitor: usize, each: usize, lost: Arc<AtomicUsize>) {
    let mut conn = Visitor::connect(to).await;
    for nth in 0..each {
        let body = format!("{visitor:03}-{nth:03}");
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 7\r\n\r\n");
        conn.send(head + &body).await;
        let answer = conn.answer("POST").await;
        match (answer.status(), answer.reason()) {
            (200, "") => {}
            (502, "backend-closed") => _ = lost.fetch_add(1, Relaxed),
            other => panic!("{body}: {other:?}"),
        }
    }
}

/// So many visitors at once have none lost and none doubled.
async fn none_is_lost(visitors: usize, keys: &str) {
    let end = Instant::now() + SOON;
    loop {
        let (app, seen) = silent_closer().await;
        let server = format!("{{ address = \"{}\"{keys} }}", at(&app));
        let terms = "retries = 0\neject_after = 0";
        let world = super::backends::world(&[("one", server)], terms).await;
        let began = Instant::now();
        let lost = Arc::<AtomicUsize>::default();
        let mut asking = Tasks::new();
        for visitor in 0..visitors {
            let lost = Arc::clone(&lost);
            asking.spawn(posts(world.visitors, visitor, POSTS / visitors, lost));
        }
        while let Some(done) = within(SOON, "a visitor's posts", asking.join_next()).await {
            done.unwrap();
        }
        let (took, lost) = (began.elapsed(), lost.load(Relaxed));
        let seen = seen.lock().unwrap();
        assert!(seen.bodies.values().all(|times| *times == 1), "doubled");
        assert_eq!(seen.bodies.len(), POSTS - lost);
        if lost == 0 {
            return;
        }
        // Where there is no room for one that rests, it is trusted after a second.
        let excused = seen.longest >= LONG || !keys.is_empty() && took >= Duration::from_secs(1);
        assert!(
            excused && Instant::now() < end,
            "{visitors} visitors{keys}: {lost} were lost"
        );
    }
}

#[tokio::test]
async fn posts_one_after_the_other_are_not_lost() {
    none_is_lost(1, "").await;
    none_is_lost(1, ", max_connections = 1").await;
}

#[tokio::test]
async fn posts_at_the_same_time_are_not_lost() {
    none_is_lost(8, "").await;
    none_is_lost(8, ", max_connections = 4").await;
}

/// A server that keeps its connections, and answers with the number of each.
async fn numbering() -> RawApp {
    let connections = Arc::<Mutex<usize>>::default();
    RawApp::start(move |mut reader| {
        let connections = Arc::clone(&connections);
        async move {
            let number = {
                let mut connections = connections.lock().unwrap();
                *connections += 1;
                *connections
            };
            while let Ok(Some(head)) = reader.head().await {
                let mut framing = Framing::of_request(&head).unwrap();
                if reader.body(&mut framing).await.is_err() {
                    return;
                }
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{number:04}");
                reader.io.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await
}

async fn number_of(visitor: &mut Visitor) -> String {
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nok");
    visitor.send(head).await;
    visitor.answer("POST").await.text()
}

async fn until_trusted(visitor: &mut Visitor) {
    let mut before = String::new();
    let end = Instant::now() + SOON;
    loop {
        let number = number_of(visitor).await;
        if number == before {
            return;
        }
        before = number;
        assert!(Instant::now() < end, "no connection was used again");
    }
}

/// He leaves in the middle of it, on a connection that was kept: neither is the request sent elsewhere, nor is any of it the
/// server's doing.
#[tokio::test]
async fn a_visitor_who_breaks_an_upload_off_is_not_the_servers_doing() {
    let (app, other) = (numbering().await, numbering().await);
    let servers = [
        ("one", format!("\"{}\"", at(&app))),
        (
            "two",
            format!("{{ address = \"{}\", backup = true }}", at(&other)),
        ),
    ];
    let world: World = super::backends::world(&servers, "eject_after = 1").await;
    let mut visitor = world.visitor().await;
    until_trusted(&mut visitor).await;
    let before = app.connections();
    for resets in [true, false] {
        let mut leaving = world.visitor().await;
        let path = if resets { "/resets" } else { "/closes" };
        leaving
            .send(format!(
                "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 99\r\n\r\nhalf"
            ))
            .await;
        eventually(SOON, "it is with the server", async || {
            let metrics = world.metrics().await;
            (metrics.sum("tidegate_backend_in_flight", &[]) == 1.0).then_some(())
        })
        .await;
        if resets {
            leaving.reset();
        } else {
            drop(leaving);
        }
        let words = [" access ", path, "status=499 reason=visitor-gone"];
        world.gateway.wait_log(&words).await;
        // The next one needs another connection, and has that used again at once.
        let number = number_of(&mut visitor).await;
        let began = Instant::now();
        let next = number_of(&mut visitor).await;
        assert!(next == number || began.elapsed() > Duration::from_secs(1));
    }
    assert!(app.connections() <= before + 2, "{}", app.connections());
    assert_eq!(other.connections(), 0, "it goes nowhere else");
    assert!(!world.gateway.log_contains("closed a connection within"));
    let metrics = world.metrics().await;
    for none in [
        "tidegate_backend_failures_total",
        "tidegate_backend_server_out",
        "tidegate_request_retries_total",
    ] {
        assert_eq!(metrics.sum(none, &[]), 0.0, "{none}");
    }
}
