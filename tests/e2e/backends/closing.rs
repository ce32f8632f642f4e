//! Servers that close their connections, and uploads, of which none may be lost or doubled.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tidegate_tests::HOST;
use tidegate_tests::apps::RawApp;
use tidegate_tests::eventually::{SOON, eventually, within};
use tidegate_tests::http1::Framing;
use tidegate_tests::task::Tasks;
use tidegate_tests::visitors::Visitor;
use tokio::io::AsyncWriteExt;

use super::{at, world};

/// Both sites' fault (issue 3 §7): small uploads, and servers that close connections at the wrong moment. None is lost, none
/// arrives twice.
#[tokio::test]
async fn no_upload_is_lost_or_doubled_while_servers_close_connections() {
    const VISITORS: usize = 6;
    const EACH: usize = 40;
    let bodies: Arc<Mutex<HashMap<Vec<u8>, usize>>> = Arc::default();
    let connections = Arc::new(AtomicUsize::new(0));
    let app = {
        let (bodies, connections) = (Arc::clone(&bodies), Arc::clone(&connections));
        RawApp::start(move |mut reader| {
            let (bodies, connections) = (Arc::clone(&bodies), Arc::clone(&connections));
            async move {
                let most = connections.fetch_add(1, Relaxed) % 4 + 1;
                for nth in 1..=most {
                    let Ok(Some(head)) = reader.head().await else {
                        return;
                    };
                    let mut framing = Framing::of_request(&head).unwrap();
                    let body = reader.body(&mut framing).await.unwrap();
                    *bodies.lock().unwrap().entry(body).or_default() += 1;
                    let last = nth == most;
                    // The last answer and the end of the connection come in one segment, unannounced.
                    SockRef::from(reader.io.tcp()).set_tcp_cork(last).unwrap();
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    reader.io.write_all(answer).await.unwrap();
                    if last {
                        reader.io.shutdown().await.unwrap();
                    }
                }
            }
        })
        .await
    };
    let place: SocketAddr = app.target().trim_start_matches("http://").parse().unwrap();
    let world = world(&[("one", at(place)), ("two", at(place))], "retries = 0").await;
    let mut visitors = Tasks::new();
    for visitor in 0..VISITORS {
        let to = world.visitors;
        visitors.spawn(async move {
            let mut conn = Visitor::connect(to).await;
            for nth in 0..EACH {
                let body = format!("{:0<549}", format!("{visitor}-{nth}-"));
                let head =
                    format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 549\r\n\r\n");
                conn.send(head + &body).await;
                let answer = conn.answer("POST").await;
                let said = (answer.status(), answer.reason());
                assert_eq!(said, (200, ""), "{visitor}-{nth}");
            }
        });
    }
    while let Some(done) = within(SOON, "a visitor's uploads", visitors.join_next()).await {
        done.unwrap();
    }
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), VISITORS * EACH);
    assert!(bodies.values().all(|times| *times == 1), "doubled");
}

/// An app that answers with the number of the connection, and closes it behind the answer, unannounced, while `closes`.
async fn numbering(closes: &Arc<AtomicBool>) -> RawApp {
    let (closes, connections) = (Arc::clone(closes), Arc::new(AtomicUsize::new(0)));
    RawApp::start(move |mut reader| {
        let (closes, connections) = (Arc::clone(&closes), Arc::clone(&connections));
        async move {
            let number = connections.fetch_add(1, Relaxed);
            while let Ok(Some(head)) = reader.head().await {
                let mut framing = Framing::of_request(&head).unwrap();
                reader.body(&mut framing).await.unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{number:04}");
                reader.io.write_all(answer.as_bytes()).await.unwrap();
                if closes.load(Relaxed) {
                    return;
                }
            }
        }
    })
    .await
}

/// However the server ends its connection behind an answer, no request takes of the body of the next.
#[tokio::test]
async fn pipelined_uploads_have_each_its_own_body() {
    let app = RawApp::start(|mut reader| async move {
        let Ok(Some(head)) = reader.head().await else {
            return;
        };
        let mut framing = Framing::of_request(&head).unwrap();
        let body = reader.body(&mut framing).await.unwrap();
        let (length, body) = (body.len(), String::from_utf8(body).unwrap());
        let head =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        let answer = [head, body].concat();
        reader.io.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let place: SocketAddr = app.target().trim_start_matches("http://").parse().unwrap();
    let world = world(&[("one", at(place))], "").await;
    let mut visitor = world.visitor().await;
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n";
    let counted = "Content-Length: 5\r\n\r\nfirst";
    for first in [chunked, counted] {
        let post =
            |path: &str, more: &str| format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{more}");
        let second = post("/2", "Content-Length: 14\r\n\r\nsecond");
        visitor.send(post("/1", first) + &second).await;
        assert_eq!(visitor.answer("POST").await.text(), "first");
        visitor.send(" of two!").await;
        let answer = visitor.answer("POST").await;
        assert_eq!(answer.text(), "second of two!");
        assert_eq!(answer.head.get("connection"), None);
    }
}

/// What closes a connection behind an answer may be on its way when the next request is to go on it, and no look finds it.
#[tokio::test]
async fn a_server_that_closes_behind_its_answers_gets_posts_on_connections_that_have_rested() {
    tokio::join!(
        posts_on_rested("", 20, 2),
        posts_on_rested(", max_connections = 1", 0, 5)
    );
}

/// So many more of them on connections that were used before, and at least so many connections.
async fn posts_on_rested(keys: &str, again_due: usize, connections: usize) {
    // 50, as a clock of whole milliseconds counts them.
    const SETTLED: Duration = Duration::from_millis(49);
    let closes = Arc::new(AtomicBool::new(true));
    let app = numbering(&closes).await;
    let place: SocketAddr = app.target().trim_start_matches("http://").parse().unwrap();
    let world = world(&[("one", format!("{{ address = \"{place}\"{keys} }}"))], "").await;
    // These go on another connection without harm.
    eventually(SOON, "it is found out", async || {
        assert_eq!(world.get(HOST, "/").await.status(), 200);
        let told = ["server one closed a connection", "for 10 minutes"];
        (!world.gateway.logged(&told).is_empty()).then_some(())
    })
    .await;
    closes.store(false, Relaxed);
    let mut visitor = world.visitor().await;
    let mut last_used: HashMap<String, Instant> = HashMap::new();
    let (mut again, end) = (0, Instant::now() + SOON);
    while again < again_due || last_used.len() < connections {
        let began = Instant::now();
        assert!(began < end, "{again} of {}", last_used.len());
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nok");
        visitor.send(head).await;
        let answer = visitor.answer("POST").await;
        assert_eq!(answer.status(), 200);
        if let Some(before) = last_used.insert(answer.text(), began) {
            // It has rested for less than this.
            assert!(before.elapsed() >= SETTLED, "{:?}", before.elapsed());
            again += 1;
        }
    }
    assert_eq!(world.gateway.logged(&["for 10 minutes"]).len(), 1, "once");
}

#[tokio::test]
async fn a_server_that_keeps_its_connections_gets_posts_on_one() {
    let app = numbering(&Arc::default()).await;
    let place: SocketAddr = app.target().trim_start_matches("http://").parse().unwrap();
    let world = world(&[("one", at(place))], "").await;
    let mut visitor = world.visitor().await;
    let mut last: Option<(String, Instant)> = None;
    // It is trusted once it was seen to.
    let (mut again, end) = (0, Instant::now() + SOON);
    while again < 20 {
        let began = Instant::now();
        assert!(began < end, "no connection is used again");
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nok");
        visitor.send(head).await;
        let number = visitor.answer("POST").await.text();
        if let Some((before, then)) = last {
            let same = number == before;
            // On a machine that stands still it may have rested for too long.
            assert!(same || again == 0 || then.elapsed() > Duration::from_secs(1));
            again += usize::from(same);
        }
        last = Some((number, began));
    }
}
