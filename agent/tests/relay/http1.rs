//! To an HTTP/1.1 app.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use tokio::sync::{Notify, mpsc};

use crate::stage::{Played, Stage, Whole, soon, time_passes};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An app that tells what it was sent.
async fn listening() -> (Played, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    let app = Played::by(move |mut part| {
        let tell = tell.clone();
        async move {
            while let Some(head) = part.head().await {
                tell.send(head).unwrap();
                part.say(OK).await;
            }
        }
    })
    .await;
    (app, told)
}

#[tokio::test]
async fn the_request_arrives_as_the_visitor_sent_it() {
    let (app, mut told) = listening().await;
    let mut stage = Stage::to(&app).await;
    let request = Request::builder()
        .method(Method::from_bytes(b"PROPFIND").unwrap())
        .uri("http://A.example:8080/a%2fb//c/../d?x=%20&y")
        .header("x-many", "1")
        .header("x-many", "2")
        .header("x-bytes", HeaderValue::from_bytes(b"caf\xe9").unwrap())
        .header("te", "trailers")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(())
        .unwrap();
    let (response, _stream) = stage.send(request, true);
    assert_eq!(Whole::soon(response).await.text(), "ok");
    let head = told.recv().await.unwrap();
    assert!(
        head.starts_with("PROPFIND /a%2fb//c/../d?x=%20&y HTTP/1.1\r\n"),
        "{head}"
    );
    for line in [
        "x-many: 1\r\nx-many: 2",
        "x-bytes: caf\u{e9}",
        "te: trailers",
        "connection: te",
        "cookie: a=1; b=2",
        "host: A.example:8080",
    ] {
        assert!(
            head.contains(&format!("\r\n{line}\r\n")),
            "{line} is missing in {head}"
        );
    }
    assert!(
        !head.contains("content-length") && !head.contains("transfer-encoding"),
        "{head}"
    );
    assert_eq!(stage.get("/").await.text(), "ok");
    assert_eq!(app.connections(), 1, "the connection was kept");
}

#[tokio::test]
async fn the_host_can_be_the_targets() {
    let (app, mut told) = listening().await;
    let host = HeaderValue::from_static("localhost:3000");
    let mut stage = Stage::with(&app.target, |settings| settings.host = Some(host)).await;
    assert_eq!(stage.get("/").await.text(), "ok");
    assert!(
        told.recv()
            .await
            .unwrap()
            .contains("\r\nhost: localhost:3000\r\n")
    );
}

#[tokio::test]
async fn a_haproxy_gateways_request_has_host_and_no_authority() {
    let (app, mut told) = listening().await;
    let mut stage = Stage::to(&app).await;
    // What `h2` sends for a request in origin form.
    let mut request = Request::get("/x")
        .header("host", "blog.example:81")
        .body(())
        .unwrap();
    *request.version_mut() = http::Version::HTTP_11;
    let (response, _stream) = stage.send(request, true);
    assert_eq!(Whole::soon(response).await.text(), "ok");
    assert!(
        told.recv()
            .await
            .unwrap()
            .contains("\r\nhost: blog.example:81\r\n")
    );
}

#[tokio::test]
async fn a_body_goes_with_its_length_or_in_chunks_with_trailers() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let app = Played::by(move |mut part| {
        let tell = tell.clone();
        async move {
            while let Some(head) = part.head().await {
                let body = if head.contains("content-length: 10") {
                    part.octets(10).await
                } else {
                    part.until(b"\r\n\r\n").await
                };
                tell.send((head, String::from_utf8(body).unwrap())).unwrap();
                part.say(OK).await;
            }
        }
    })
    .await;
    let mut stage = Stage::to(&app).await;
    let request = Request::post("http://a/")
        .header("content-length", "10")
        .body(())
        .unwrap();
    let (response, mut stream) = stage.send(request, false);
    stream
        .send_data(Bytes::from_static(b"01234"), false)
        .unwrap();
    stream
        .send_data(Bytes::from_static(b"56789"), true)
        .unwrap();
    assert_eq!(Whole::soon(response).await.text(), "ok");
    let (head, body) = told.recv().await.unwrap();
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert_eq!(body, "0123456789");

    // Even a GET may have one.
    let request = Request::get("http://a/")
        .header("trailer", "x-sum")
        .body(())
        .unwrap();
    let (response, mut stream) = stage.send(request, false);
    stream
        .send_data(Bytes::from_static(b"hello"), false)
        .unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("5"));
    stream.send_trailers(trailers).unwrap();
    assert_eq!(Whole::soon(response).await.text(), "ok");
    let (head, body) = told.recv().await.unwrap();
    assert!(
        head.contains("\r\ntransfer-encoding: chunked\r\n"),
        "{head}"
    );
    assert_eq!(body, "5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n");
}

#[tokio::test]
async fn the_response_passes_with_interim_ones_trailers_and_without_one_hops_fields() {
    let app = Played::saying(
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
          HTTP/1.1 201 Made\r\ntransfer-encoding: chunked\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\n\
          x-hop: 1\r\nset-cookie: a\r\nset-cookie: b\r\ntrailer: x-end\r\n\r\n3\r\nabc\r\n0\r\nx-end: 1\r\n\r\n",
    )
    .await;
    let mut stage = Stage::to(&app).await;
    for _ in 0..2 {
        let request = Request::get("http://a/").body(()).unwrap();
        let (mut response, _stream) = stage.send(request, true);
        let interim = soon(
            "an interim response",
            std::future::poll_fn(|cx| response.poll_informational(cx)),
        )
        .await
        .unwrap()
        .unwrap();
        assert_eq!(
            (interim.status().as_u16(), &interim.headers()["link"]),
            (103, &HeaderValue::from_static("</a>"))
        );
        let whole = Whole::soon(response).await;
        assert_eq!((whole.head.status.as_u16(), whole.text()), (201, "abc"));
        assert_eq!(whole.head.headers.get_all("set-cookie").iter().count(), 2);
        for gone in ["connection", "keep-alive", "transfer-encoding", "x-hop"] {
            assert!(!whole.head.headers.contains_key(gone), "{gone}");
        }
        assert_eq!(whole.end.unwrap().unwrap()["x-end"], "1");
    }
    assert_eq!(app.connections(), 1, "the connection was kept");
}

#[tokio::test]
async fn responses_without_a_body_end_with_their_head() {
    for (method, response) in [
        (
            Method::HEAD,
            &b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"[..],
        ),
        (Method::GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (
            Method::GET,
            b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\netag: x\r\n\r\n",
        ),
        (Method::GET, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ] {
        let app = Played::saying(response).await;
        let mut stage = Stage::to(&app).await;
        for _ in 0..2 {
            let request = Request::builder()
                .method(&method)
                .uri("http://a/")
                .body(())
                .unwrap();
            let (response, _stream) = stage.send(request, true);
            let response = soon("a response", response).await.unwrap();
            assert!(
                response.body().is_end_stream(),
                "{method} {}",
                response.status()
            );
        }
        assert_eq!(app.connections(), 1, "the connection was kept");
    }
}

#[tokio::test]
async fn a_response_that_is_cut_short_is_reset_and_never_ended() {
    for response in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    ] {
        let app = Played::by(move |mut part| async move {
            part.head().await;
            part.say(response).await;
        })
        .await;
        let mut stage = Stage::to(&app).await;
        let (response, _stream) = stage.send(Request::get("http://a/").body(()).unwrap(), true);
        // An app that dies fast enough takes the head along, which has not left the agent yet.
        let error = match soon("a response or its reset", response).await {
            Ok(response) => {
                let whole = Whole::of(response).await;
                assert!(b"hello".starts_with(&whole.body));
                whole.end.unwrap_err()
            }
            Err(error) => error,
        };
        assert!(error.is_reset(), "{error}");
    }
}

#[tokio::test]
async fn a_response_that_ends_with_the_connection_is_whole() {
    let app = Played::by(|mut part| async move {
        part.head().await;
        part.say(b"HTTP/1.0 200 OK\r\n\r\nhello").await;
    })
    .await;
    assert_eq!(Stage::to(&app).await.get("/").await.text(), "hello");
}

#[tokio::test]
async fn an_answer_comes_while_the_upload_still_runs_and_then_the_upload_is_called_off() {
    let app = Played::by(|mut part| async move {
        part.head().await;
        part.until(b"first").await;
        part.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 9\r\n\r\nfar ")
            .await;
        part.until(b"second").await;
        part.say(b"too m").await;
        part.closed().await;
    })
    .await;
    let mut stage = Stage::to(&app).await;
    let request = Request::post("http://a/")
        .header("content-length", "1000000")
        .body(())
        .unwrap();
    let (response, mut stream) = stage.send(request, false);
    stream
        .send_data(Bytes::from_static(b"first"), false)
        .unwrap();
    let response = soon("an early answer", response).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    stream
        .send_data(Bytes::from_static(b"second"), false)
        .unwrap();
    assert_eq!(Whole::of(response).await.text(), "far too m");
    let reset = soon(
        "the end of the upload",
        std::future::poll_fn(|cx| stream.poll_reset(cx)),
    )
    .await;
    assert_eq!(reset.unwrap(), Reason::NO_ERROR);
}

#[tokio::test]
async fn a_visitor_who_goes_closes_the_apps_connection_at_once() {
    for (path, answer) in [
        ("/waits", &b""[..]),
        (
            "/streams",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n",
        ),
    ] {
        let seen = Arc::new((Notify::new(), Notify::new()));
        let its = Arc::clone(&seen);
        let app = Played::by(move |mut part| {
            let its = Arc::clone(&its);
            async move {
                part.head().await;
                part.say(answer).await;
                its.0.notify_one();
                part.closed().await;
                its.1.notify_one();
            }
        })
        .await;
        let mut stage = Stage::to(&app).await;
        let (response, mut stream) = stage.send(
            Request::post(format!("http://a{path}")).body(()).unwrap(),
            false,
        );
        soon("the request", seen.0.notified()).await;
        if !answer.is_empty() {
            assert_eq!(soon("a response", response).await.unwrap().status(), 200);
        }
        stream.send_reset(Reason::CANCEL);
        soon("the end at the app", seen.1.notified()).await;
    }
}

#[tokio::test]
async fn a_rested_connection_that_turns_out_closed_costs_the_visitor_nothing() {
    let app = Played::by(|mut part| async move {
        // Each connection carries one request, whatever it says about itself, and is closed under the second one's feet.
        part.head().await;
        part.say(OK).await;
        part.head().await;
    })
    .await;
    let mut stage = Stage::to(&app).await;
    assert_eq!(stage.get("/").await.text(), "ok");
    // However short it rested.
    assert_eq!(stage.get("/").await.text(), "ok");
    assert_eq!(app.connections(), 2);
    time_passes(Duration::from_secs(50));
    assert_eq!(stage.get("/").await.text(), "ok");
    assert_eq!(app.connections(), 3);
}

/// The app may be about to close what has rested, and there is no second try.
#[tokio::test]
async fn a_request_that_cannot_be_repeated_takes_no_connection_that_has_rested() {
    let app = Played::saying(OK).await;
    let mut stage = Stage::to(&app).await;
    let second = Duration::from_secs(1);
    for (rested, method, connections) in [
        (Duration::ZERO, Method::POST, 1),
        (second / 2, Method::POST, 1),
        (2 * second, Method::GET, 1),
        (2 * second, Method::POST, 2),
    ] {
        time_passes(rested);
        let request = Request::builder().method(&method).uri("http://a/");
        let (response, _stream) = stage.send(request.body(()).unwrap(), true);
        let whole = Whole::soon(response).await;
        assert_eq!(whole.text(), "ok");
        assert_eq!(app.connections(), connections, "{method} after {rested:?}");
    }
}

/// The app has closed the connection a moment ago, and the runtime has not heard of it.
#[tokio::test]
async fn a_request_that_cannot_be_repeated_goes_on_no_connection_that_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let (close, told) = std::sync::mpsc::channel();
    let (closed, done) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(stream.read_line(&mut head).unwrap() > 0, "a whole head");
            }
            stream.get_mut().write_all(OK).unwrap();
            if told.recv().is_err() {
                return;
            }
            drop(stream);
            closed.send(()).unwrap();
        }
    });
    let mut stage = Stage::with(&target, |_| {}).await;
    for _ in 0..4 {
        let request = Request::post("http://a.example/once").body(()).unwrap();
        let (response, _stream) = stage.send(request, true);
        assert_eq!(Whole::soon(response).await.text(), "ok");
        close.send(()).unwrap();
        // The thread waits: nobody has a turn to hear of it before the next request.
        done.recv().unwrap();
        // Its end is on its way no more, for all that is known.
        time_passes(Duration::from_millis(50));
    }
}

#[tokio::test]
async fn a_connection_that_has_rested_for_a_minute_is_closed() {
    let closed = Arc::new(Notify::new());
    let its = Arc::clone(&closed);
    let app = Played::by(move |mut part| {
        let its = Arc::clone(&its);
        async move {
            part.head().await;
            part.say(OK).await;
            part.closed().await;
            its.notify_one();
        }
    })
    .await;
    let mut stage = Stage::to(&app).await;
    assert_eq!(stage.get("/").await.text(), "ok");
    let rests = |stage: &Stage| format!("{:?}", stage.app).contains("rested_since");
    time_passes(Duration::from_secs(58));
    stage.app.sweep();
    assert!(rests(&stage), "a minute has not passed");
    time_passes(Duration::from_secs(2));
    stage.app.sweep();
    assert!(!rests(&stage));
    soon("the end at the app", closed.notified()).await;
}

#[tokio::test]
async fn what_the_app_gets_wrong_is_named() {
    let app = Played::by(|mut part| async move {
        part.head().await;
    })
    .await;
    let whole = Stage::to(&app).await.get("/").await;
    assert_eq!(
        (whole.head.status.as_u16(), whole.reason()),
        (502, "app-closed")
    );

    let app = Played::saying(b"SSH-2.0-OpenSSH\r\n\r\n").await;
    let whole = Stage::to(&app).await.get("/").await;
    assert_eq!(
        (whole.head.status.as_u16(), whole.reason()),
        (502, "app-invalid-response")
    );

    let app = Played::by(|mut part| async move { part.closed().await }).await;
    let limit = Some(Duration::from_millis(50));
    let mut stage = Stage::with(&app.target, |settings| settings.first_byte_within = limit).await;
    let whole = stage.get("/").await;
    assert_eq!(
        (whole.head.status.as_u16(), whole.reason()),
        (504, "app-timeout")
    );

    // A port that was open and is not any more.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = closed.local_addr().unwrap().to_string();
    drop(closed);
    let mut stage = Stage::with(&target, |_| {}).await;
    let whole = stage.get("/").await;
    assert_eq!(
        (whole.head.status.as_u16(), whole.reason()),
        (502, "app-unreachable")
    );
    assert!(
        whole
            .text()
            .contains("The agent is connected, but the app cannot be reached: connection refused."),
        "{}",
        whole.text()
    );
}

#[tokio::test]
async fn connect_goes_nowhere() {
    let app = Played::saying(OK).await;
    let mut stage = Stage::to(&app).await;
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("db.internal:5432")
        .body(())
        .unwrap();
    let (response, _stream) = stage.send(request, false);
    let whole = Whole::soon(response).await;
    assert_eq!(
        (whole.head.status.as_u16(), whole.reason()),
        (501, "connect-unsupported")
    );
    assert_eq!(app.connections(), 0);
}
