//! Apps that answer before they have read a request, and what becomes of the rest of it.

use std::time::Duration;

use http::Request;
use tokio::sync::mpsc;
use tokio::time::interval;

use crate::stage::{Played, Stage, Whole, soon};

/// Of a body; more than fits between the agent and an app that does not read.
const LARGE: usize = 12_000_000;

/// So much of it is read slowly, in several times what the app may take nothing for, while the agent itself can write for most of
/// that none of it.
const SLOWLY: usize = 2_500_000;

/// So much at a time: some 450 KiB per second.
const PART: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(35);

#[tokio::test]
async fn an_app_that_answers_first_and_reads_slowly_gets_all_of_it() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let app = Played::by(move |mut part| {
        let tell = tell.clone();
        async move {
            part.head().await;
            part.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
            let (mut read, mut pace) = (0, interval(PAUSE));
            while read < SLOWLY {
                pace.tick().await;
                let some = part.octets(PART).await.len();
                if some == 0 {
                    break;
                }
                read += some;
            }
            read += part.octets(LARGE - read).await.len();
            tell.send(read).unwrap();
        }
    })
    .await;
    let mut stage = Stage::with(&app.target, |settings| {
        settings.rest_within = Duration::from_millis(700);
    })
    .await;
    let request = Request::post("http://a.example/").header("content-length", LARGE);
    let (response, mut stream) = stage.send(request.body(()).unwrap(), false);
    stream.send_data(vec![b'u'; LARGE].into(), true).unwrap();
    assert_eq!(Whole::soon(response).await.text(), "ok");
    let read = soon("the app reads to the end", told.recv()).await;
    assert_eq!(read, Some(LARGE));
}
