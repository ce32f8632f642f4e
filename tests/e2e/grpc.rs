//! gRPC-shaped traffic: an HTTP/2 visitor, trailers and long bidirectional streams, to an h2c app (issue §4).

use std::time::Duration;

use http::{HeaderMap, Method, Request};
use tidegate_tests::apps::H2cApp;
use tidegate_tests::program::Program;
use tidegate_tests::site::DIALLED;
use tidegate_tests::visitors::H2Visitor;
use tidegate_tests::visitors::http2::{answer, piece, read, response};
use tidegate_tests::{HOST, World};

struct Scene {
    world: World,
    app: H2cApp,
    _agent: Option<Program>,
    visitor: H2Visitor,
}

impl Scene {
    async fn start() -> Self {
        let app = H2cApp::start().await;
        let (world, agent) = if std::env::var_os(DIALLED).is_some() {
            let file = format!(
                "[backends.grpc]\nprotocol = \"h2\"\n[backends.grpc.servers]\none = \"{}\"\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"grpc\"\n",
                app.address()
            );
            (World::builder().config(&file).start().await, None)
        } else {
            let world = World::start().await;
            let agent = world.agent_with(HOST, &app.target(), &["--h2"]).await;
            (world, Some(agent))
        };
        let tls = world.visitor_tls(&["h2"]);
        let visitor = H2Visitor::connect_tls(world.visitors_tls, HOST, tls).await;
        Self {
            world,
            app,
            _agent: agent,
            visitor,
        }
    }

    fn call(&self, method: &str) -> Request<()> {
        let mut head = self
            .visitor
            .head(Method::POST, HOST, &format!("/test.Echo/{method}"));
        for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
            head.headers_mut().insert(name, value.parse().unwrap());
        }
        head
    }
}

#[tokio::test]
async fn a_bidirectional_stream_runs_and_ends_with_trailers() {
    let mut scene = Scene::start().await;
    let (future, mut send) = scene.visitor.begin(scene.call("Stream"), false).await;
    let response = response(future).await;
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let mut body = response.into_body();
    for number in 0..20_u8 {
        let message = vec![number; 1000];
        send.send_data(message.clone().into(), false).unwrap();
        let mut back = Vec::new();
        while back.len() < message.len() {
            back.extend(piece(&mut body).await.unwrap());
        }
        assert_eq!(back, message);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-request-trailer", "seen".parse().unwrap());
    send.send_trailers(trailers).unwrap();
    assert_eq!(piece(&mut body).await, None);
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-request-trailer"], "seen");
}

#[tokio::test]
async fn errors_in_trailers_and_in_resets_pass() {
    let mut scene = Scene::start().await;
    let (future, mut send) = scene.visitor.begin(scene.call("Fail"), false).await;
    send.send_data("message".into(), true).unwrap();
    let failed = answer(future).await;
    assert_eq!(failed.status, 200);
    let status = failed.field("grpc-status").to_owned();
    let in_trailers = failed
        .trailers
        .and_then(|trailers| trailers.get("grpc-status").cloned());
    assert!(status == "5" || in_trailers.is_some_and(|value| value == "5"));

    let (future, mut send) = scene.visitor.begin(scene.call("Abort"), false).await;
    let mut response = response(future).await;
    assert_eq!(piece(response.body_mut()).await.unwrap(), "one");
    send.send_data("now".into(), false).unwrap();
    let aborted = read(response).await;
    assert!(aborted.cut.is_some(), "a reset is not an end: {aborted:?}");
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_app() {
    let mut scene = Scene::start().await;
    let (future, mut send) = scene.visitor.begin(scene.call("Stream"), false).await;
    let _body = response(future).await.into_body();
    send.send_reset(h2::Reason::CANCEL);
    let limit = Duration::from_secs(1);
    tidegate_tests::eventually(limit, "the app sees the reset", async || {
        (scene.app.resets() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_h2c_visitor_calls_too() {
    let scene = Scene::start().await;
    let mut visitor = H2Visitor::connect(scene.world.visitors).await;
    let head = visitor.head(Method::POST, HOST, "/test.Echo/Stream");
    let echoed = visitor.send(head, "over clear text").await;
    assert_eq!(echoed.body, b"over clear text");
    assert_eq!(echoed.trailers.unwrap()["grpc-status"], "0");
}
