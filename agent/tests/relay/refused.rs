//! An app in HTTP/2 that says of a request that it has not begun with it: by REFUSED_STREAM, or by a GOAWAY that does not count
//! it (RFC 9113 §8.7). Servers do so when they renew their connections or have too much to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use h2::{Reason, server};
use http::{Request, Response};

use crate::stage::{Part, Played, Stage, Whole};

/// Refuses so many requests, each when all of its body is there, or its `x-early` octets of it; then says back what comes.
async fn reluctant(part: Part, refuses: Arc<AtomicUsize>, asked: Arc<AtomicUsize>) {
    let mut connection = server::handshake(part.tcp).await.unwrap();
    let mut streams = futures_util::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                asked.fetch_add(1, SeqCst);
                streams.push(refuse_or_echo(request, respond, Arc::clone(&refuses)));
            }
            Some(()) = futures_util::StreamExt::next(&mut streams) => {}
        }
    }
}

async fn refuse_or_echo(
    request: Request<h2::RecvStream>,
    mut respond: server::SendResponse<Bytes>,
    refuses: Arc<AtomicUsize>,
) {
    let (head, mut recv) = request.into_parts();
    let early = head.headers.get("x-early");
    let enough = early.map_or(usize::MAX, |octets| {
        octets.to_str().unwrap().parse().unwrap()
    });
    let one_less = |left: usize| left.checked_sub(1);
    let refuses = refuses.fetch_update(SeqCst, SeqCst, one_less).is_ok();
    let mut body = Vec::new();
    while !(refuses && body.len() >= enough)
        && let Some(Ok(chunk)) = recv.data().await
    {
        recv.flow_control().release_capacity(chunk.len()).unwrap();
        body.extend_from_slice(&chunk);
    }
    if refuses {
        return respond.send_reset(Reason::REFUSED_STREAM);
    }
    let trailers = recv.trailers().await.unwrap();
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(body.into(), false).unwrap();
    stream.send_trailers(trailers.unwrap_or_default()).unwrap();
}

struct Scene {
    stage: Stage,
    app: Played,
    asked: Arc<AtomicUsize>,
}

impl Scene {
    async fn refusing(times: usize) -> Self {
        let left = Arc::new(AtomicUsize::new(times));
        let asked = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&asked);
        let app = Played::by(move |part| reluctant(part, left.clone(), count.clone())).await;
        let stage = Stage::with(&app.target, |settings| settings.http2 = true).await;
        Self { stage, app, asked }
    }

    async fn post(&mut self, body: &[u8], early: Option<usize>) -> Whole {
        let mut request = Request::post("http://a/svc/Method").body(()).unwrap();
        if let Some(octets) = early {
            let octets = octets.to_string().parse().unwrap();
            request.headers_mut().insert("x-early", octets);
        }
        let (response, mut stream) = self.stage.send(request, false);
        stream
            .send_data(Bytes::copy_from_slice(body), false)
            .unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
        Whole::soon(response).await
    }
}

#[tokio::test]
async fn what_is_refused_is_asked_again_with_its_body_and_trailers() {
    let mut scene = Scene::refusing(2).await;
    let whole = scene.post(b"hello", None).await;
    assert_eq!(whole.text(), "hello");
    assert_eq!(whole.end.unwrap().unwrap()["x-sum"], "7");
    assert_eq!(scene.asked.load(SeqCst), 3);
    assert_eq!(scene.app.connections(), 1, "a refusal is no goodbye");
}

#[tokio::test]
async fn what_is_refused_without_a_body_is_asked_again() {
    let mut scene = Scene::refusing(1).await;
    assert_eq!(scene.stage.get("/").await.text(), "");
    assert_eq!(scene.asked.load(SeqCst), 2);
}

#[tokio::test]
async fn what_is_refused_in_the_middle_of_its_body_is_asked_again_with_all_of_it() {
    let mut scene = Scene::refusing(1).await;
    let body = vec![b'x'; 60_000];
    let whole = scene.post(&body, Some(20_000)).await;
    assert_eq!(
        (whole.head.status.as_u16(), whole.body.len()),
        (200, body.len())
    );
}

#[tokio::test]
async fn who_refuses_every_time_is_asked_four_times_and_more_than_is_kept_once() {
    let refused = "the app broke the request off without an answer (HTTP/2 REFUSED_STREAM)";
    for (length, asked) in [(5, 4), (200_000, 1)] {
        let mut scene = Scene::refusing(usize::MAX).await;
        let whole = scene.post(&vec![b'x'; length], None).await;
        assert_eq!(
            (whole.head.status.as_u16(), whole.reason()),
            (502, "app-invalid-response")
        );
        assert!(whole.text().contains(refused), "{}", whole.text());
        assert_eq!(scene.asked.load(SeqCst), asked, "{length} octets");
    }
}

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// Says goodbye to the first request of its connection, which it does not count, in the way of a server that renews its
/// connections.
async fn leaving(mut part: Part) {
    let _preface = part.octets(24).await;
    part.say(&frame(SETTINGS, 0, 0, &[])).await;
    loop {
        let head = part.octets(9).await;
        let [_, high, low, kind, flags, ..] = head[..] else {
            return;
        };
        let payload = part.octets(usize::from(high) << 8 | usize::from(low)).await;
        match (kind, flags & 1) {
            (SETTINGS, 0) => part.say(&frame(SETTINGS, 1, 0, &[])).await,
            (PING, 0) => part.say(&frame(PING, 1, 0, &payload)).await,
            (HEADERS, _) => break,
            _ => {}
        }
    }
    part.say(&frame(GOAWAY, 0, 0, &[0; 8])).await;
    part.closed().await;
}

#[tokio::test]
async fn a_goodbye_that_does_not_count_a_request_loses_none() {
    let (first, asked) = (Arc::new(AtomicUsize::new(2)), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&asked);
    let app = Played::by(move |part| {
        let (first, count) = (Arc::clone(&first), Arc::clone(&count));
        async move {
            let one_less = |left: usize| left.checked_sub(1);
            if first.fetch_update(SeqCst, SeqCst, one_less).is_ok() {
                return leaving(part).await;
            }
            reluctant(part, Arc::default(), count).await;
        }
    })
    .await;
    let stage = Stage::with(&app.target, |settings| settings.http2 = true).await;
    let mut scene = Scene { stage, app, asked };
    assert_eq!(scene.post(b"hello", None).await.text(), "hello");
    assert_eq!(scene.app.connections(), 3);
    assert_eq!(scene.post(b"more", None).await.text(), "more");
    assert_eq!(scene.app.connections(), 3, "the last one stays");
}
