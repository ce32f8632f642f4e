//! WebSocket and other upgrades: extended CONNECT on the tunnel, `Upgrade` at the app.

use bytes::Bytes;
use data_encoding::BASE64;
use h2::ext::Protocol;
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stage::{Part, Played, Stage, Whole, soon};

fn connect(protocol: &'static str) -> Request<()> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://a.example/chat?x")
        .header("sec-websocket-protocol", "v1")
        .body(())
        .unwrap();
    request
        .extensions_mut()
        .insert(Protocol::from_static(protocol));
    request
}

fn accept_of(head: &str) -> String {
    let key = head
        .lines()
        .find_map(|line| line.strip_prefix("sec-websocket-key: "))
        .unwrap();
    assert_eq!(BASE64.decode(key.as_bytes()).unwrap().len(), 16);
    let salted = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        salted.as_bytes(),
    );
    BASE64.encode(digest.as_ref())
}

async fn echo(mut part: Part) {
    let head = part.head().await.unwrap();
    assert!(head.starts_with("GET /chat?x HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: Upgrade\r\n"),
        "{head}"
    );
    let accept = accept_of(&head);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\
         sec-websocket-protocol: v1\r\n\r\nwelcome"
    );
    part.say(answer.as_bytes()).await;
    let mut octets = [0; 1024];
    while let Ok(count @ 1..) = part.tcp.read(&mut octets).await {
        part.say(&octets[..count]).await;
    }
    part.say(b"bye").await;
    drop(part.tcp.shutdown().await);
}

#[tokio::test]
async fn a_websocket_is_joined_both_ways_and_closed_both_ways() {
    let app = Played::by(echo).await;
    let mut stage = Stage::to(&app).await;
    let (response, mut stream) = stage.send(connect("websocket"), false);
    let response = soon("the app's agreement", response).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "v1");
    for gone in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(!response.headers().contains_key(gone), "{gone}");
    }
    let mut recv = response.into_body();
    let mut seen = Vec::new();
    while seen != b"welcome" {
        seen.extend(soon("a welcome", recv.data()).await.unwrap().unwrap());
    }
    seen.clear();
    stream
        .send_data(Bytes::from_static(b"hello"), false)
        .unwrap();
    while seen != b"hello" {
        seen.extend(soon("an echo", recv.data()).await.unwrap().unwrap());
    }
    seen.clear();
    stream.send_data(Bytes::new(), true).unwrap();
    while let Some(chunk) = soon("the app's last word", recv.data()).await {
        seen.extend(chunk.unwrap());
    }
    assert_eq!(seen, b"bye");
}

#[tokio::test]
async fn a_refusal_passes_and_a_success_that_is_none_does_not() {
    for (answer, status, reason) in [
        (&b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"[..], 403, None),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", 502, Some("upgrade-ignored")),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: x\r\n\r\n",
            502,
            Some("upgrade-invalid"),
        ),
    ] {
        let app = Played::saying(answer).await;
        let mut stage = Stage::to(&app).await;
        let (response, _stream) = stage.send(connect("websocket"), false);
        let whole = Whole::soon(response).await;
        assert_eq!(whole.head.status.as_u16(), status);
        if let Some(reason) = reason {
            assert_eq!(whole.reason(), reason);
        } else {
            assert_eq!(whole.text(), "no");
        }
    }
}

#[tokio::test]
async fn other_protocols_are_upgraded_without_a_key() {
    let app = Played::by(|mut part| async move {
        let head = part.head().await.unwrap();
        assert!(
            head.contains("\r\nupgrade: echo\r\n") && !head.contains("sec-websocket-key"),
            "{head}"
        );
        part.say(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\n",
        )
        .await;
        let octets = part.octets(3).await;
        part.say(&octets).await;
    })
    .await;
    let mut stage = Stage::to(&app).await;
    let (response, mut stream) = stage.send(connect("echo"), false);
    let response = soon("the app's agreement", response).await.unwrap();
    stream.send_data(Bytes::from_static(b"abc"), false).unwrap();
    assert_eq!(Whole::of(response).await.text(), "abc");
}
