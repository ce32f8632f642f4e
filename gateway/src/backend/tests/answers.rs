//! What comes back from a server, and what goes on behind it.

use super::*;

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_as_broken() {
    let address = server(|_, mut stream| {
        head(&mut stream);
        say(
            &mut stream,
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        );
    });
    let world = world(&[address], |_| {});
    let (_, answer) = world.ask(Method::GET, None).await.unwrap();
    assert!(matches!(text(answer).await, Err(Cut::Backend(_))));
    assert_eq!(world.failed(0, What::Cut), 1);
    assert_eq!(world.gateway.metrics.failures(Failure::ResponseCut), 1);
}

#[tokio::test]
async fn an_answer_that_stops_coming_is_given_up() {
    let address = server(|_, mut stream| {
        head(&mut stream);
        say(
            &mut stream,
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        );
        // Until the gateway closes.
        head(&mut stream);
    });
    let world = world(&[address], |config| {
        config.terms.inactivity = Some(Duration::from_millis(50));
    });
    let (_, answer) = world.ask(Method::GET, None).await.unwrap();
    assert!(matches!(text(answer).await, Err(Cut::Stalled)));
    assert_eq!(world.gateway.metrics.failures(Failure::BackendTimeout), 1);
    assert_eq!(world.failed(0, What::Stalled), 1);
    assert_eq!(world.failed(0, What::Cut), 0);
}

#[tokio::test]
async fn a_visitor_who_leaves_ends_the_servers_connection() {
    let (ended, end) = mpsc::channel();
    let address = server(move |_, mut stream| {
        head(&mut stream);
        say(&mut stream, "HTTP/1.1 200 OK\r\n\r\nbegun");
        ended.send(stream.read(&mut [0; 1]).unwrap_or(0)).unwrap();
    });
    let world = world(&[address], |_| {});
    let (_, mut answer) = world.ask(Method::GET, None).await.unwrap();
    let begun = poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await;
    assert_eq!(begun.unwrap().unwrap().into_data().unwrap(), "begun");
    drop(answer);
    assert_eq!(end.recv_timeout(SOON).unwrap(), 0);
    assert_eq!(world.backend.servers[0].outstanding(), 0);
}

#[tokio::test]
async fn trailers_and_interim_responses_pass() {
    let address = server(|_, mut stream| {
        head(&mut stream);
        say(
            &mut stream,
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\
             trailer: x-sum\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n",
        );
        head(&mut stream);
    });
    let world = world(&[address], |_| {});
    let mut side = Waits::default();
    let (parts, mut answer) = world
        .ask_as(&mut side, Method::GET, None, &[("te", "trailers")])
        .await
        .unwrap();
    assert_eq!(side.interims, [StatusCode::EARLY_HINTS]);
    assert!(!parts.headers.contains_key("transfer-encoding"));
    let (octets, trailers) = frames(&mut answer).await.unwrap();
    assert_eq!(
        (&octets[..], &trailers.unwrap()["x-sum"]),
        (&b"hi"[..], &HeaderValue::from_static("7"))
    );
}

#[tokio::test]
async fn a_body_that_is_held_back_comes_when_the_server_asks_for_it() {
    let (bodies, seen) = mpsc::channel();
    let address = server(move |_, mut stream| {
        let head = head(&mut stream).unwrap();
        assert!(head.contains("expect: 100-continue\r\n"), "{head}");
        say(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n");
        let mut body = [0; 4];
        stream.read_exact(&mut body).unwrap();
        bodies.send(body).unwrap();
        say(&mut stream, &answer("ok"));
    });
    let world = world(&[address], |_| {});
    let mut side = Waits::default();
    let fields = [("expect", "100-continue"), ("content-length", "4")];
    let (_, answer) = world
        .ask_as(&mut side, Method::POST, Some(Sent::of("body")), &fields)
        .await
        .unwrap();
    assert!(side.told_to_go_on && side.interims.is_empty());
    assert_eq!(text(answer).await.unwrap(), "ok");
    assert_eq!(&seen.recv_timeout(SOON).unwrap(), b"body");
}

#[tokio::test]
async fn a_body_goes_on_behind_an_early_answer() {
    let (bodies, seen) = mpsc::channel();
    let address = server(move |_, mut stream| {
        head(&mut stream);
        say(&mut stream, &answer("early"));
        let mut body = [0; 8];
        stream.read_exact(&mut body).unwrap();
        bodies.send(body).unwrap();
        head(&mut stream);
    });
    let world = world(&[address], |_| {});
    let (send, chunks) = tokio::sync::mpsc::unbounded_channel();
    send.send(Bytes::from_static(b"half")).unwrap();
    let (_, mut answer) = world
        .ask_as(
            &mut Waits::default(),
            Method::POST,
            Some(Sent::Channel(chunks)),
            &[("content-length", "8")],
        )
        .await
        .unwrap();
    assert_eq!(frames(&mut answer).await.unwrap().0, b"early");
    assert!(answer.is_whole() && answer.leaves_rest());
    let mut rest = async || poll_fn(|cx| Poll::Ready(answer.poll_rest(cx))).await;
    assert_eq!(rest().await, Rest::Due(4));
    send.send(Bytes::from_static(b"more")).unwrap();
    drop(send);
    let until = Instant::now() + SOON;
    while rest().await != Rest::Done {
        assert!(Instant::now() < until);
        tokio::task::yield_now().await;
    }
    assert_eq!(&seen.recv_timeout(SOON).unwrap(), b"halfmore");
    drop(answer);
    assert_eq!(world.backend.servers[0].open(), 1, "it rests");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_the_visitors_failure() {
    let address = server(|_, mut stream| {
        head(&mut stream);
        let _all = stream.read_to_end(&mut Vec::new());
    });
    let mut world = world(&[address], |_| {});
    world.gateway.max_body = Some(3);
    let post = world.ask(Method::POST, Some(Sent::of("four"))).await;
    assert_eq!(post.err(), Some(Failure::BodyTooLarge));
    assert_eq!(world.failed(0, What::Closed), 0);
}

#[tokio::test]
async fn what_is_no_http_is_said_to_be_none() {
    let address = server(|_, mut stream| {
        head(&mut stream);
        say(&mut stream, "SSH-2.0-x\r\n");
    });
    let world = world(&[address], |_| {});
    assert_eq!(world.get().await.unwrap_err(), Failure::BackendInvalid);
    let switched = self::world(
        &[server(|_, mut stream| {
            head(&mut stream);
            say(
                &mut stream,
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            );
        })],
        |_| {},
    );
    assert_eq!(switched.get().await.unwrap_err(), Failure::BackendInvalid);
}
