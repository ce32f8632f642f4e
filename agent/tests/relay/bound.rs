//! Connections that begin with a PROXY header: kept for the visitor that the header names, for a while, and not without bound.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use tidegate_agent::app::Plan;
use tidegate_shared::proxy_header::Version;
use tidegate_shared::visitor::VISITOR;
use tokio::sync::mpsc;

use crate::stage::{Played, Stage, Whole, soon, stopped, time_passes};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An app that expects a header of version 1, and the first line of each connection, then an empty one when it ends.
async fn expecting() -> (Played, mpsc::UnboundedReceiver<String>) {
    let (told, lines) = mpsc::unbounded_channel();
    let told = Arc::new(told);
    let app = Played::by(move |mut part| {
        let told = Arc::clone(&told);
        async move {
            let line = part.until(b"\r\n").await;
            told.send(String::from_utf8(line).unwrap()).unwrap();
            while part.head().await.is_some() {
                part.say(OK).await;
            }
            // The test may be over.
            let _heard = told.send(String::new());
        }
    });
    (app.await, lines)
}

async fn stage(app: &Played) -> Stage {
    Stage::with(&app.target, |settings| {
        settings.greeting = Some(Plan {
            version: Version::V1,
            from: None,
        });
    })
    .await
}

/// A request of the visitor of this number.
async fn asked(stage: &mut Stage, method: &Method, visitor: usize) {
    let port = 1024 + visitor;
    let field = format!("c={visitor};f=192.0.2.1:{port};t=198.51.100.7:80;r=1");
    let request = Request::builder()
        .method(method)
        .uri("http://a/")
        .header(VISITOR, field);
    let (response, _stream) = stage.send(request.body(()).unwrap(), true);
    assert_eq!(Whole::soon(response).await.text(), "ok");
}

fn line(visitor: usize) -> String {
    let port = 1024 + visitor;
    format!("PROXY TCP4 192.0.2.1 198.51.100.7 {port} 80\r\n")
}

#[tokio::test]
async fn one_that_is_not_used_ends_and_one_that_has_rested_takes_no_post() {
    let (app, mut lines) = expecting().await;
    let mut stage = stage(&app).await;
    for (rested, method, connections) in [
        (Duration::ZERO, Method::GET, 1),
        (Duration::from_secs(8), Method::GET, 1),
        (Duration::from_secs(2), Method::POST, 2),
        (Duration::ZERO, Method::POST, 2),
    ] {
        time_passes(rested);
        stage.app.sweep();
        asked(&mut stage, &method, 1).await;
        assert_eq!(app.connections(), connections, "{method} after {rested:?}");
    }
    asked(&mut stage, &Method::GET, 2).await;
    for visitor in [1, 1, 2] {
        assert_eq!(soon("a header", lines.recv()).await, Some(line(visitor)));
    }
    time_passes(Duration::from_secs(10));
    stage.app.sweep();
    for _ in 0..3 {
        assert_eq!(soon("an end", lines.recv()).await.as_deref(), Some(""));
    }
}

#[tokio::test]
async fn the_one_that_has_rested_longest_makes_room() {
    let (app, mut lines) = expecting().await;
    let mut stage = stage(&app).await;
    for visitor in 0..=512 {
        asked(&mut stage, &Method::GET, visitor).await;
        assert_eq!(soon("a header", lines.recv()).await, Some(line(visitor)));
    }
    assert_eq!(soon("an end", lines.recv()).await.as_deref(), Some(""));
    for (visitor, connections) in [(512, 513), (1, 513), (0, 514)] {
        asked(&mut stage, &Method::GET, visitor).await;
        assert_eq!(app.connections(), connections, "visitor {visitor}");
    }
}

/// A gateway that has said that it is Tidegate and does not say who asks gets nobody's connection, and each request its own.
#[tokio::test]
async fn a_request_of_nobody_is_kept_apart() {
    let (app, mut lines) = expecting().await;
    let mut stage = stage(&app).await;
    for field in [None, Some("c=1;f=192.0.2.1:1025;r=1"), Some("c=1"), None] {
        let mut request = Request::get("http://a/");
        if let Some(field) = field {
            request = request.header(VISITOR, field);
        }
        let (response, _stream) = stage.send(request.body(()).unwrap(), true);
        assert_eq!(Whole::soon(response).await.text(), "ok");
        let expected = if field == Some("c=1;f=192.0.2.1:1025;r=1") {
            "PROXY TCP4 192.0.2.1 0.0.0.0 1025 0\r\n"
        } else {
            "PROXY UNKNOWN\r\n"
        };
        let mut next = soon("a header", lines.recv()).await.unwrap();
        if next.is_empty() {
            next = soon("a header", lines.recv()).await.unwrap();
        }
        assert_eq!(next, expected, "{field:?}");
    }
    assert_eq!(app.connections(), 4);
}

/// Each connection is closed under the second request's feet.
#[tokio::test]
async fn what_cannot_be_repeated_waits_until_the_app_was_seen_to_keep_one() {
    let app = Played::by(|mut part| async move {
        part.until(b"\r\n").await;
        part.head().await;
        part.say(OK).await;
        part.head().await;
    })
    .await;
    let mut stage = Stage::with(&app.target, |settings| {
        settings.greeting = Some(Plan {
            version: Version::V1,
            from: None,
        });
        settings.now_ms = stopped;
    })
    .await;
    for connections in 1..=3 {
        asked(&mut stage, &Method::POST, 1).await;
        assert_eq!(app.connections(), connections);
    }
}
