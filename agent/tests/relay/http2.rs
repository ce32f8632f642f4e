//! To an app that speaks HTTP/2 without an upgrade.

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, server};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::sync::mpsc;

use crate::stage::{Part, Played, Stage, Whole, soon};

/// What an app saw of a request.
type Seen = (Method, String, HeaderMap);

/// Echoes each body as it comes, then sends trailers; `/refuse` resets, `/hang` waits for the visitor's reset, `/early` answers
/// first and tells how the body ended.
async fn echo(part: Part, tell: mpsc::UnboundedSender<Seen>, hung: mpsc::UnboundedSender<Reason>) {
    let mut connection = server::Builder::new()
        .enable_connect_protocol()
        .max_concurrent_streams(2)
        .handshake::<_, Bytes>(part.tcp)
        .await
        .unwrap();
    let mut streams = futures_util::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                streams.push(echo_one(request, respond, tell.clone(), hung.clone()));
            }
            Some(()) = futures_util::StreamExt::next(&mut streams) => {}
        }
    }
}

async fn echo_one(
    request: Request<h2::RecvStream>,
    mut respond: server::SendResponse<Bytes>,
    tell: mpsc::UnboundedSender<Seen>,
    hung: mpsc::UnboundedSender<Reason>,
) {
    let (head, mut body) = request.into_parts();
    let path = head.uri.path().to_owned();
    tell.send((head.method, head.uri.to_string(), head.headers))
        .unwrap();
    if path == "/refuse" {
        return respond.send_reset(Reason::ENHANCE_YOUR_CALM);
    }
    if path == "/hang" {
        let reason = std::future::poll_fn(|cx| respond.poll_reset(cx))
            .await
            .unwrap();
        return hung.send(reason).unwrap();
    }
    if path == "/early" {
        let _ended = respond.send_response(Response::new(()), true).unwrap();
        let ended = loop {
            match body.data().await {
                Some(Ok(chunk)) => body.flow_control().release_capacity(chunk.len()).unwrap(),
                Some(Err(error)) => break error.reason().unwrap(),
                None => break Reason::NO_ERROR,
            }
        };
        return hung.send(ended).unwrap();
    }
    let mut stream = respond
        .send_response(
            Response::builder()
                .header("content-type", "application/grpc")
                .body(())
                .unwrap(),
            false,
        )
        .unwrap();
    while let Some(chunk) = body.data().await {
        let Ok(chunk) = chunk else { return };
        body.flow_control().release_capacity(chunk.len()).unwrap();
        stream.send_data(chunk, false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers).unwrap();
}

struct Scene {
    stage: Stage,
    seen: mpsc::UnboundedReceiver<Seen>,
    hung: mpsc::UnboundedReceiver<Reason>,
    app: Played,
}

impl Scene {
    async fn set() -> Self {
        let (tell, seen) = mpsc::unbounded_channel();
        let (hang, hung) = mpsc::unbounded_channel();
        let app = Played::by(move |part| echo(part, tell.clone(), hang.clone())).await;
        let stage = Stage::with(&app.target, |settings| settings.http2 = true).await;
        Self {
            stage,
            seen,
            hung,
            app,
        }
    }
}

#[tokio::test]
async fn grpc_streams_both_ways_and_ends_with_trailers() {
    let mut scene = Scene::set().await;
    let request = Request::post("http://a.example:81/svc/Method")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut stream) = scene.stage.send(request, false);
    let response = soon("a head before any body", response).await.unwrap();
    let (method, uri, headers) = scene.seen.recv().await.unwrap();
    assert_eq!(
        (method, uri.as_str()),
        (Method::POST, "http://a.example:81/svc/Method")
    );
    assert_eq!(headers["te"], "trailers");
    assert!(!headers.contains_key("host"));
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let (head, mut recv) = response.into_parts();
    for message in ["one", "two"] {
        stream
            .send_data(Bytes::from_static(message.as_bytes()), false)
            .unwrap();
        assert_eq!(
            soon("an echo", recv.data()).await.unwrap().unwrap(),
            message
        );
    }
    stream.send_data(Bytes::new(), true).unwrap();
    let whole = Whole::of(Response::from_parts(head, recv)).await;
    assert_eq!(whole.end.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn resets_go_both_ways() {
    let mut scene = Scene::set().await;
    let (_response, mut stream) = scene
        .stage
        .send(Request::post("http://a/hang").body(()).unwrap(), false);
    soon("the request", scene.seen.recv()).await.unwrap();
    stream.send_reset(Reason::CANCEL);
    assert_eq!(
        soon("the reset at the app", scene.hung.recv()).await,
        Some(Reason::CANCEL)
    );

    let whole = scene.stage.get("/refuse").await;
    assert_eq!(
        (whole.head.status.as_u16(), whole.reason()),
        (502, "app-invalid-response")
    );
    let said = "the app broke the request off without an answer (HTTP/2 ENHANCE_YOUR_CALM)";
    assert!(whole.text().contains(said), "{}", whole.text());
}

#[tokio::test]
async fn an_upload_goes_on_behind_its_answer_and_ends_as_it_ended() {
    let mut scene = Scene::set().await;
    for (ends, seen) in [(true, Reason::NO_ERROR), (false, Reason::CANCEL)] {
        let request = Request::post("http://a/early").body(()).unwrap();
        let (response, mut stream) = scene.stage.send(request, false);
        assert_eq!(Whole::soon(response).await.text(), "");
        stream
            .send_data(Bytes::from_static(b"more"), false)
            .unwrap();
        if ends {
            stream.send_data(Bytes::new(), true).unwrap();
        }
        let told = soon("the end of the upload", scene.hung.recv()).await;
        assert_eq!(told, Some(seen), "it ends: {ends}");
    }
}

#[tokio::test]
async fn more_streams_than_the_app_allows_open_another_connection() {
    let mut scene = Scene::set().await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let (response, stream) = scene
            .stage
            .send(Request::post("http://a/echo").body(()).unwrap(), false);
        held.push((soon("a head", response).await.unwrap(), stream));
    }
    assert_eq!(scene.app.connections(), 3);
}

#[tokio::test]
async fn a_websocket_goes_on_as_extended_connect() {
    let mut scene = Scene::set().await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://a/chat")
        .body(())
        .unwrap();
    request
        .extensions_mut()
        .insert(Protocol::from_static("websocket"));
    let (response, mut stream) = scene.stage.send(request, false);
    let response = soon("the app's agreement", response).await.unwrap();
    assert_eq!(response.status(), 200);
    let (method, uri, _headers) = scene.seen.recv().await.unwrap();
    assert_eq!((method, uri.as_str()), (Method::CONNECT, "http://a/chat"));
    stream
        .send_data(Bytes::from_static(b"hello"), true)
        .unwrap();
    assert_eq!(Whole::of(response).await.text(), "hello");
}
