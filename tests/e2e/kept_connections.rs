//! The gateway's kept connections to a server that closes each behind its answer without a word of it: what cannot be
//! repeated is neither lost nor sent twice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_tests::HOST;
use tidegate_tests::apps::RawApp;
use tidegate_tests::eventually::{SOON, within};
use tidegate_tests::http1::Framing;
use tidegate_tests::task::Tasks;
use tidegate_tests::visitors::Visitor;
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
