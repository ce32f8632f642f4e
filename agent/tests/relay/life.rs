//! How a tunnel ends.

use bytes::Bytes;
use http::Request;
use tidegate_agent::serve::Ending;

use crate::stage::{Played, Stage, Whole, soon};

#[tokio::test]
async fn a_retired_tunnel_finishes_what_is_in_flight() {
    let app = Played::by(|mut part| async move {
        part.head().await;
        part.say(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha")
            .await;
        part.octets(2).await;
        part.say(b"lf").await;
    })
    .await;
    let mut stage = Stage::to(&app).await;
    let request = Request::post("http://a/")
        .header("content-length", "2")
        .body(())
        .unwrap();
    let (response, mut stream) = stage.send(request, false);
    let response = soon("a head", response).await.unwrap();
    stage.control.retire();
    stream.send_data(Bytes::from_static(b"go"), true).unwrap();
    assert_eq!(Whole::of(response).await.text(), "half");
    assert_eq!(
        soon("the end", &mut stage.ending).await,
        Ok(Ending::Retired)
    );
}

#[tokio::test]
async fn an_idle_tunnel_retires_at_once() {
    let app = Played::saying(b"").await;
    let mut stage = Stage::to(&app).await;
    let before = std::time::Instant::now();
    stage.control.retire();
    assert_eq!(
        soon("the end", &mut stage.ending).await,
        Ok(Ending::Retired)
    );
    assert!(
        before.elapsed() < std::time::Duration::from_millis(400),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test]
async fn a_gateway_that_goes_takes_its_requests_along() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let app = Played::by(move |mut part| {
        let tell = tell.clone();
        async move {
            part.head().await;
            tell.send("asked").unwrap();
            part.closed().await;
            tell.send("closed").unwrap();
        }
    })
    .await;
    let mut stage = Stage::to(&app).await;
    let (response, _stream) = stage.send(Request::get("http://a/").body(()).unwrap(), true);
    assert_eq!(soon("the request", told.recv()).await, Some("asked"));
    stage.vanish();
    assert_eq!(soon("the app's end", told.recv()).await, Some("closed"));
    assert!(matches!(
        soon("the end", &mut stage.ending).await,
        Ok(Ending::Closed | Ending::Broken(_))
    ));
    assert!(response.await.is_err());
}
