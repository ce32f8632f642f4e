//! Apps in HTTP/1.1 that close connections behind their answers without saying so, and requests that must not meet that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{Method, Request};
use tokio::sync::Notify;

use crate::stage::{Played, Stage, Whole, soon, stopped, time_passes};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Behind an answer, its connection's end would have come by then.
const SETTLED: Duration = Duration::from_millis(50);

/// An app that closes its first connection as soon as it has read the head of request number `first`, counted from 0, and later
/// ones as soon as they have read that of a second request: on its way, the end of a connection that was closed meets a request.
async fn abrupt(first: usize) -> Played {
    let connections = AtomicUsize::new(0);
    Played::by(move |mut part| {
        let is_first = connections.fetch_add(1, SeqCst) == 0;
        async move {
            for _ in 0..if is_first { first } else { 1 } {
                part.head().await;
                part.say(OK).await;
            }
            part.head().await;
        }
    })
    .await
}

/// An agent whose clock stands still.
async fn stage(app: &Played) -> Stage {
    Stage::with(&app.target, |settings| settings.now_ms = stopped).await
}

async fn asked(stage: &mut Stage, method: Method) {
    let request = Request::builder().method(&method).uri("http://a.example/");
    let (response, _stream) = stage.send(request.body(()).unwrap(), true);
    let whole = Whole::soon(response).await;
    assert_eq!(whole.head.status, 200, "{method} {:?}", whole.text());
}

#[tokio::test]
async fn not_even_the_first_is_lost() {
    for first in [Method::POST, Method::GET] {
        let app = abrupt(1).await;
        let mut stage = stage(&app).await;
        asked(&mut stage, first).await;
        for connections in 2..=4 {
            asked(&mut stage, Method::POST).await;
            assert_eq!(app.connections(), connections);
        }
    }
}

/// The price of that is paid until the app was seen to keep one.
#[tokio::test]
async fn an_app_that_keeps_connections_has_them_used() {
    let app = Played::saying(OK).await;
    let mut stage = stage(&app).await;
    for (rested, connections) in [
        (Duration::ZERO, 1),
        (Duration::ZERO, 2),
        (SETTLED, 2),
        (Duration::ZERO, 2),
        (Duration::ZERO, 2),
    ] {
        time_passes(rested);
        asked(&mut stage, Method::POST).await;
        assert_eq!(app.connections(), connections, "after {rested:?}");
    }
}

/// A GET is sent again, and a POST is not sent where it would have been lost.
#[tokio::test]
async fn what_a_repeated_request_has_met_is_remembered() {
    let app = abrupt(2).await;
    let mut stage = stage(&app).await;
    asked(&mut stage, Method::POST).await;
    time_passes(SETTLED);
    asked(&mut stage, Method::POST).await;
    assert_eq!(app.connections(), 1, "it keeps them");
    asked(&mut stage, Method::GET).await;
    for connections in 3..=5 {
        asked(&mut stage, Method::POST).await;
        assert_eq!(app.connections(), connections, "it does not");
    }
}

#[tokio::test]
async fn what_is_found_closed_while_it_rests_is_remembered() {
    let close = Arc::new(Notify::new());
    let told = Arc::clone(&close);
    let app = Played::by(move |mut part| {
        let told = Arc::clone(&told);
        async move {
            let answering = async {
                while part.head().await.is_some() {
                    part.say(OK).await;
                }
            };
            tokio::select! {
                () = answering => {}
                () = told.notified() => {}
            }
        }
    })
    .await;
    let mut stage = stage(&app).await;
    asked(&mut stage, Method::GET).await;
    time_passes(SETTLED);
    stage.app.sweep();
    asked(&mut stage, Method::POST).await;
    assert_eq!(app.connections(), 1, "it keeps them");
    close.notify_one();
    let rests = |stage: &Stage| format!("{:?}", stage.app).contains("rested_since");
    soon("the end of what rests", async {
        while rests(&stage) {
            tokio::task::yield_now().await;
            stage.app.sweep();
        }
    })
    .await;
    for connections in 2..=3 {
        asked(&mut stage, Method::POST).await;
        assert_eq!(app.connections(), connections, "it does not");
    }
}

/// The agent closes the connection then, and not the app.
#[tokio::test]
async fn a_visitor_who_breaks_off_is_not_the_apps_doing() {
    let seen = Arc::new((Notify::new(), Notify::new()));
    let its = Arc::clone(&seen);
    let app = Played::by(move |mut part| {
        let its = Arc::clone(&its);
        async move {
            while let Some(head) = part.head().await {
                if head.contains("content-length: 9") {
                    its.0.notify_one();
                    part.closed().await;
                    its.1.notify_one();
                    return;
                }
                part.say(OK).await;
            }
        }
    })
    .await;
    let mut stage = stage(&app).await;
    asked(&mut stage, Method::POST).await;
    time_passes(SETTLED);
    asked(&mut stage, Method::POST).await;
    let request = Request::post("http://a.example/").header("content-length", "9");
    let (_response, mut stream) = stage.send(request.body(()).unwrap(), false);
    stream.send_data(Bytes::from_static(b"1"), false).unwrap();
    soon("the request", seen.0.notified()).await;
    stream.send_reset(Reason::CANCEL);
    soon("the end at the app", seen.1.notified()).await;
    for _ in 0..2 {
        asked(&mut stage, Method::POST).await;
        assert_eq!(app.connections(), 2, "it keeps them");
    }
}
