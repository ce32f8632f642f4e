//! The agent's kept connections to an app that closes them at the wrong moment (RFC 9112 §9.3.1): what may be repeated never
//! fails, and what may not is never sent twice. And to one that waits for acknowledgements.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_tests::apps::RawApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::http1::Framing;
use tidegate_tests::program::Program;
use tidegate_tests::visitors::Visitor;
use tidegate_tests::{HOST, World, within};
use tokio::io::AsyncWriteExt;

/// How the app ends a connection.
#[derive(Clone, Copy, Debug)]
enum Goodbye {
    /// FIN, when a second request has come and has been read.
    UnansweredFin,
    /// RST, likewise.
    UnansweredReset,
    /// FIN right behind the answer, without a word in the head: it crosses the next request.
    BehindTheAnswer,
}

/// How often each request was read to its end, by method and target.
type Seen = Arc<Mutex<BTreeMap<String, usize>>>;

/// An app that answers the first request of a connection and then says goodbye.
async fn app(goodbye: Goodbye) -> (RawApp, Seen) {
    let seen = Seen::default();
    let record = Arc::clone(&seen);
    let app = RawApp::start(move |mut reader| {
        let record = Arc::clone(&record);
        async move {
            for turn in 0..2 {
                let Ok(Some(head)) = reader.head().await else {
                    return;
                };
                let mut framing = Framing::of_request(&head).unwrap();
                if reader.body(&mut framing).await.is_err() {
                    return;
                }
                let request = format!("{} {}", head.method(), head.target());
                *record.lock().unwrap().entry(request).or_default() += 1;
                if turn == 1 {
                    break;
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                reader.io.write_all(answer).await.unwrap();
                if matches!(goodbye, Goodbye::BehindTheAnswer) {
                    return;
                }
            }
            if matches!(goodbye, Goodbye::UnansweredReset) {
                reader.io.reset();
            }
        }
    })
    .await;
    (app, seen)
}

const EVERY_GOODBYE: [Goodbye; 3] = [
    Goodbye::UnansweredFin,
    Goodbye::UnansweredReset,
    Goodbye::BehindTheAnswer,
];

#[tokio::test]
async fn a_get_never_fails_because_the_app_closed_a_kept_connection() {
    for goodbye in EVERY_GOODBYE {
        let (app, seen) = app(goodbye).await;
        let (mut visitor, _up) = visitor_of(&app).await;
        for number in 0..200 {
            visitor.send_get(HOST, &format!("/{number}")).await;
            let answer = visitor.answer("GET").await;
            assert_eq!(
                (answer.status(), answer.text().as_str()),
                (200, "ok"),
                "{goodbye:?}, request {number}"
            );
        }
        let twice = seen
            .lock()
            .unwrap()
            .values()
            .filter(|times| **times > 1)
            .count();
        if !matches!(goodbye, Goodbye::BehindTheAnswer) {
            assert!(twice > 0, "{goodbye:?}: no connection was used again");
        }
    }
}

/// An app that has read a request may have done what it asks (RFC 9110 §9.2.2).
#[tokio::test]
async fn what_cannot_be_repeated_is_never_sent_twice() {
    let bodies = [
        "Content-Length: 4\r\n\r\nbody",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ];
    for goodbye in EVERY_GOODBYE {
        let (app, seen) = app(goodbye).await;
        let (mut visitor, _up) = visitor_of(&app).await;
        let (mut served, mut refused) = (0, 0);
        // What rests is used again once the agent has seen that the app keeps it.
        let uses_again = !matches!(goodbye, Goodbye::BehindTheAnswer);
        let began = Instant::now();
        let mut number = 0;
        while number < 60 || uses_again && refused == 0 && began.elapsed() < SOON {
            let (method, body) = match number % 3 {
                0 => ("POST", bodies[0]),
                1 => ("PUT", bodies[1]),
                _ => ("POST", "Content-Length: 0\r\n\r\n"),
            };
            let request = format!("{method} /{number} HTTP/1.1\r\nHost: {HOST}\r\n{body}");
            visitor.send(request).await;
            let answer = visitor.answer(method).await;
            match (answer.status(), answer.reason()) {
                (200, _) => served += 1,
                (502, "app-closed") => refused += 1,
                other => panic!("{goodbye:?}, {method} {number}: {other:?}"),
            }
            number += 1;
        }
        let seen = seen.lock().unwrap();
        let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "{goodbye:?}: sent again: {twice:?}");
        assert!(served > 0, "{goodbye:?}");
        assert!(
            !uses_again || refused > 0,
            "{goodbye:?}: no connection was used again"
        );
    }
}

/// What was sent before the answer came is the app's to read.
#[tokio::test]
async fn an_app_that_answers_before_it_reads_gets_the_rest() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let app = RawApp::start(move |mut reader| {
        let tell = tell.clone();
        async move {
            while let Ok(Some(head)) = reader.head().await {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                reader.io.write_all(answer).await.unwrap();
                let mut framing = Framing::of_request(&head).unwrap();
                let body = reader.body(&mut framing).await;
                tell.send(body.map(|body| body.len()).ok()).unwrap();
            }
        }
    })
    .await;
    let (mut visitor, _up) = visitor_of(&app).await;
    for _ in 0..100 {
        visitor
            .send(format!(
                "POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nhello"
            ))
            .await;
        assert_eq!(visitor.answer("POST").await.text(), "ok");
        let read = within(SOON, "the app reads the rest", told.recv()).await;
        assert_eq!(read, Some(Some(5)));
    }
}

/// What a kernel waits with an acknowledgement, at least (Linux: `TCP_DELACK_MIN`).
const DELAYED: Duration = Duration::from_millis(40);

/// Python's `http.server` and many another write an answer in several parts and leave Nagle's algorithm on: a part goes out
/// when the one before it was acknowledged.
#[tokio::test]
async fn an_app_that_writes_in_parts_does_not_wait_for_acknowledgements() {
    for parts in [
        ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "o", "k"],
        ["HTTP/1.1 200 OK\r\n", "Content-Length: 2\r\n\r\n", "ok"],
        [
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "2\r\nok\r\n",
            "0\r\n\r\n",
        ],
    ] {
        let app = RawApp::start(move |mut reader| async move {
            while let Ok(Some(_)) = reader.head().await {
                for part in parts {
                    if reader.io.write_all(part.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        let (mut visitor, _up) = visitor_of(&app).await;
        let mut times = Vec::new();
        for _ in 0..41 {
            let began = Instant::now();
            visitor.send_get(HOST, "/").await;
            assert_eq!(visitor.answer("GET").await.text(), "ok");
            times.push(began.elapsed());
        }
        assert_eq!(app.connections(), 1, "the connection is kept");
        times.sort();
        // A stall is in every answer but the first few; a busy machine is late for some.
        assert!(times[20] < DELAYED, "{parts:?}: {times:?}");
    }
}

/// A visitor of this app, through an agent with one tunnel: the only way to its connections. The rest is to be kept.
async fn visitor_of(app: &RawApp) -> (Visitor, (World, Program)) {
    let world = World::start().await;
    let options = ["--tunnels", "1"];
    let agent = world.agent_with(HOST, &app.target(), &options).await;
    (world.visitor().await, (world, agent))
}
