//! Apps that answer before they have read the request's body: the visitor gets the answer at once, and the body goes on for as
//! long as the one sends and the other reads. One that does not get to its end never looks as if it had.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tidegate_tests::apps::RawApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::http1::Framing;
use tidegate_tests::visitors::http2::answer;
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::{HOST, World, within};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Answers, by how their end is marked.
const ANSWERS: [(&str, &str, &str); 4] = [
    ("/length", "Content-Length: 5\r\n\r\nearly", "early"),
    (
        "/chunked",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n0\r\n\r\n",
        "early",
    ),
    ("/nothing", "Content-Length: 0\r\n\r\n", ""),
    ("/204", "", ""),
];

/// An upload runs on so long behind its answer: longer than any limit for all of it that could be meant well.
const RUNS_ON: Duration = Duration::from_millis(1500);

/// What the app reads of a body.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    Piece(usize),
    /// Its proper end.
    End,
    Broken,
}

/// An app that answers the head, and then tells what it reads of the body.
async fn app() -> (RawApp, UnboundedReceiver<Read>) {
    let (tell, told) = unbounded_channel();
    let app = RawApp::start(move |mut reader| {
        let tell = tell.clone();
        async move {
            while let Ok(Some(head)) = reader.head().await {
                let (status, rest) = match ANSWERS.iter().find(|known| known.0 == head.target()) {
                    Some(("/204", ..)) => ("204 No Content\r\n\r\n", ""),
                    Some((_, rest, _)) => ("200 OK\r\n", *rest),
                    None => ("200 OK\r\n", "Content-Length: 4\r\n\r\nnext"),
                };
                let said = format!("HTTP/1.1 {status}{rest}");
                reader.io.write_all(said.as_bytes()).await.unwrap();
                let mut framing = Framing::of_request(&head).unwrap();
                loop {
                    let piece = match reader.piece(&mut framing).await {
                        Ok(Some(piece)) => Read::Piece(piece.len()),
                        Ok(None) => Read::End,
                        Err(_) => Read::Broken,
                    };
                    let over = !matches!(piece, Read::Piece(_));
                    tell.send(piece).unwrap();
                    if over {
                        break;
                    }
                }
            }
        }
    })
    .await;
    (app, told)
}

/// The next thing that the app reads.
async fn read(told: &mut UnboundedReceiver<Read>) -> Read {
    within(SOON, "the app reads on", told.recv()).await.unwrap()
}

/// Begins a chunked upload and takes the whole answer.
async fn begin(visitor: &mut Visitor, path: &str, text: &str) {
    visitor
        .send(format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ))
        .await;
    assert_eq!(visitor.answer("POST").await.text(), text, "{path}");
}

#[tokio::test]
async fn an_http1_upload_goes_on_behind_its_answer() {
    let world = World::start().await;
    let (app, mut told) = app().await;
    let _agent = world
        .agent_with(HOST, &app.target(), &["--tunnels", "1"])
        .await;
    let mut visitor = world.visitor().await;
    for (path, _, text) in ANSWERS {
        begin(&mut visitor, path, text).await;
        let began = Instant::now();
        while began.elapsed() < RUNS_ON {
            visitor.send("5\r\nhello\r\n").await;
            assert_eq!(read(&mut told).await, Read::Piece(5), "{path}");
        }
        visitor.send("0\r\n\r\n").await;
        assert_eq!(read(&mut told).await, Read::End, "{path}");
        visitor.send_get(HOST, "/next").await;
        assert_eq!(visitor.answer("GET").await.text(), "next", "{path}");
        assert_eq!(read(&mut told).await, Read::End);
    }
}

#[tokio::test]
async fn an_http2_upload_goes_on_behind_its_answer() {
    let world = World::start().await;
    let (app, mut told) = app().await;
    let _agent = world
        .agent_with(HOST, &app.target(), &["--tunnels", "1"])
        .await;
    let mut visitor = H2Visitor::connect(world.visitors).await;
    for (path, _, text) in ANSWERS {
        let head = visitor.head(Method::POST, HOST, path);
        let (response, mut upload) = visitor.begin(head, false).await;
        assert_eq!(answer(response).await.text(), text, "{path}");
        let began = Instant::now();
        while began.elapsed() < RUNS_ON {
            upload
                .send_data(Bytes::from_static(b"hello"), false)
                .unwrap();
            assert_eq!(read(&mut told).await, Read::Piece(5), "{path}");
        }
        upload.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read(&mut told).await, Read::End, "{path}");
    }
}

/// The head says how long the body is, or its chunks do: the app can tell that it is not whole.
#[tokio::test]
async fn an_upload_that_breaks_off_behind_its_answer_is_not_whole_for_the_app() {
    let world = World::builder()
        .option("--stall-timeout", "1s")
        .start()
        .await;
    let (app, mut told) = app().await;
    let _agent = world
        .agent_with(HOST, &app.target(), &["--tunnels", "1"])
        .await;
    for leaves in [true, false] {
        let mut visitor = world.visitor().await;
        begin(&mut visitor, "/length", "early").await;
        visitor.send("5\r\nhello\r\n").await;
        assert_eq!(read(&mut told).await, Read::Piece(5));
        if leaves {
            visitor.reset();
            assert_eq!(read(&mut told).await, Read::Broken);
        } else {
            assert_eq!(read(&mut told).await, Read::Broken, "it stalls");
            assert_eq!(visitor.closed_within(SOON).await, b"");
        }
        let mut visitor = H2Visitor::connect(world.visitors).await;
        let head = visitor.head(Method::POST, HOST, "/length");
        let (response, mut upload) = visitor.begin(head, false).await;
        assert_eq!(answer(response).await.text(), "early");
        upload
            .send_data(Bytes::from_static(b"hello"), false)
            .unwrap();
        assert_eq!(read(&mut told).await, Read::Piece(5));
        if leaves {
            upload.send_reset(h2::Reason::CANCEL);
        }
        assert_eq!(read(&mut told).await, Read::Broken);
    }
}

/// What an app does not want is taken from the visitor all the same, for a while: a connection that is closed on it may take
/// the answer with it.
#[tokio::test]
async fn a_visitor_who_pours_behind_an_answer_is_not_reset() {
    let world = World::start().await;
    // The app closes its connection once the visitor has the answer, and not before: with octets unread its system sends a
    // reset, which may overtake the answer.
    let arrived = Arc::new(Notify::new());
    let app = RawApp::start({
        let arrived = Arc::clone(&arrived);
        move |mut reader| {
            let arrived = Arc::clone(&arrived);
            async move {
                let Ok(Some(head)) = reader.head().await else {
                    return;
                };
                let answer =
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly";
                reader.io.write_all(answer).await.unwrap();
                let mut framing = Framing::of_request(&head).unwrap();
                let _some = reader.piece(&mut framing).await;
                arrived.notified().await;
            }
        }
    })
    .await;
    let _agent = world.agent_with(HOST, &app.target(), &[]).await;
    let mut visitor = world.visitor().await;
    let mebibyte = vec![b'u'; 1 << 20];
    visitor
        .send(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n",
            8 * mebibyte.len()
        ))
        .await;
    visitor.send(&mebibyte).await;
    assert_eq!(visitor.answer("POST").await.text(), "early");
    arrived.notify_one();
    for _ in 0..7 {
        visitor.send(&mebibyte).await;
    }
    visitor.send_get(HOST, "/").await;
    assert_eq!(visitor.answer("GET").await.text(), "early");
}

/// Whether a visitor who was not told to send a body sends it all the same is not known: its connection says that it ends.
#[tokio::test]
async fn a_visitor_who_held_the_body_back_is_told_to_close() {
    let world = World::start().await;
    let (app, _told) = app().await;
    let _agent = world.agent_with(HOST, &app.target(), &[]).await;
    let mut visitor = world.visitor().await;
    visitor
        .send(format!(
            "POST /length HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
        ))
        .await;
    let answer = visitor.answer("POST").await;
    assert_eq!(answer.text(), "early");
    assert!(answer.interim.is_empty() && answer.head.lists("connection", "close"));
    assert_eq!(visitor.closed_within(SOON).await, b"");
}

/// He has had all of it: his line says no more than that, whichever way it came.
#[tokio::test]
async fn who_leaves_an_upload_behind_its_whole_answer_has_not_left_before_it() {
    let (app, mut told) = app().await;
    let server = app.target().replace("http://", "");
    let world = World::builder()
        .config(&format!(
            "[backends.site.servers]\none = \"{server}\"\n[[routes]]\nhost = \"shop.test\"\nbackend = \"site\"\n"
        ))
        .start()
        .await;
    let _agent = world.agent(HOST, &app.target()).await;
    for host in [HOST, "shop.test"] {
        let mut http1 = world.visitor().await;
        let head = format!("POST /length HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99\r\n\r\n");
        http1.send(head + "hello").await;
        assert_eq!(http1.answer("POST").await.text(), "early");
        assert_eq!(read(&mut told).await, Read::Piece(5));
        http1.reset();
        assert_eq!(read(&mut told).await, Read::Broken);
        let mut http2 = H2Visitor::connect(world.visitors).await;
        let head = http2.head(Method::POST, host, "/length");
        let (response, mut upload) = http2.begin(head, false).await;
        let some = Bytes::from_static(b"hello");
        upload.send_data(some, false).unwrap();
        assert_eq!(answer(response).await.text(), "early");
        assert_eq!(read(&mut told).await, Read::Piece(5));
        upload.send_reset(h2::Reason::CANCEL);
        assert_eq!(read(&mut told).await, Read::Broken);
        for version in ["HTTP/1.1", "HTTP/2"] {
            let request = format!("POST {host}/length {version}\"");
            let words = [" access ", &request, "status=200 reason="];
            let line = world.gateway.wait_log(&words).await;
            assert!(line.contains(" reason=- "), "{line}");
        }
    }
}
