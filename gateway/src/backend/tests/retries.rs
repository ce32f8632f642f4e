//! What a request is sent again for (`retry_on`), and what it never is.

use super::*;
use crate::backend::retry::{Reason, RetryOn};

/// Answers every request with this head and nothing behind it, and counts them.
fn refusing(status: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let (heads, seen) = mpsc::channel();
    let address = server(move |_, mut stream| {
        while let Some(head) = head(&mut stream) {
            // A body in chunks ends as a head does.
            if !head.contains(" HTTP/1.1\r\n") {
                continue;
            }
            let _over = heads.send(head);
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 4\r\n\r\nbusy");
            if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    (address, seen)
}

fn on(words: &[&str]) -> RetryOn {
    let reasons = words.iter().map(|word| word.parse::<Reason>().unwrap());
    reasons.collect()
}

#[tokio::test]
async fn a_status_that_is_named_is_asked_for_at_another_server() {
    let (busy, asked) = refusing("503 Service Unavailable");
    let world = world(&[busy, echo("b")], |config| {
        config.terms.retry_on = on(&["503"]);
    });
    for _ in 0..4 {
        let answered = world.get().await.unwrap();
        assert!(answered.starts_with('b'), "{answered}");
    }
    assert!(asked.try_iter().count() >= 2, "it has its turns");
    assert_eq!(
        world.gateway.metrics.retries.get(),
        world.backend.servers[0].counts.requests.get()
    );
    let server = &world.backend.servers[0];
    assert_eq!(server.outstanding(), 0);
    assert!(!server.is_out(), "it has answered");
}

#[tokio::test]
async fn an_answer_passes_where_no_attempt_is_left() {
    let (busy, asked) = refusing("503 Service Unavailable");
    let world = world(&[busy], |config| {
        config.terms.retry_on = on(&["503"]);
        config.terms.retries = 1;
    });
    let (parts, answer) = world.ask(Method::GET, None).await.unwrap();
    assert_eq!(parts.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(answer).await.unwrap(), "busy");
    assert_eq!(asked.try_iter().count(), 2);
}

#[tokio::test]
async fn a_status_is_the_visitors_unless_it_is_named_and_the_request_can_be_repeated() {
    let (busy, asked) = refusing("503 Service Unavailable");
    for (words, method, body) in [
        (&["unreachable", "closed", "502"][..], Method::GET, None),
        (&["503"], Method::POST, None),
        (&["503"], Method::POST, Some(Sent::of("once"))),
        (&["503"], Method::PUT, Some(Sent::of("taken"))),
    ] {
        let world = world(&[busy, busy], |config| config.terms.retry_on = on(words));
        let (parts, answer) = world.ask(method, body).await.unwrap();
        assert_eq!(parts.status, StatusCode::SERVICE_UNAVAILABLE);
        drop(answer);
        assert_eq!(asked.try_iter().count(), 1);
        assert_eq!(world.gateway.metrics.retries.get(), 0);
    }
}

#[tokio::test]
async fn what_is_not_named_is_not_tried_again() {
    let closing = server(|_, mut stream| {
        head(&mut stream);
    });
    for (words, failure) in [
        (&["unreachable"][..], Failure::BackendClosed),
        (&["closed"], Failure::BackendUnreachable),
        (&[], Failure::BackendUnreachable),
    ] {
        let first = match failure {
            Failure::BackendClosed => closing,
            _ => nobody(),
        };
        let world = world(&[first, echo("b")], |config| {
            config.terms.retry_on = on(words);
        });
        assert_eq!(world.get().await.unwrap_err(), failure, "{words:?}");
    }
}

#[tokio::test]
async fn silence_is_tried_again_where_it_is_named() {
    let silent = server(|_, mut stream| while head(&mut stream).is_some() {});
    let change = |config: &mut config::Backend| {
        config.terms.retry_on = on(&["timeout"]);
        config.terms.response = Some(Duration::from_millis(50));
    };
    let world = world(&[silent, echo("b")], change);
    assert_eq!(world.get().await.unwrap(), "b0");
    assert_eq!(world.failed(0, What::Timeout), 1);
    let world = self::world(&[silent, echo("b")], change);
    let posted = world.ask(Method::POST, None).await;
    assert_eq!(posted.unwrap_err(), Failure::BackendTimeout);
}
