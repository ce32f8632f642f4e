//! Changes of protocol, as an HTTP/2 visitor asks for them.

use h2::ext::Protocol;
use tidegate_shared::message::UPGRADE_OPTIONAL;

use super::*;
use crate::visitor::accept;

impl World {
    async fn upgrade(&self, protocol: &'static str, body: Option<Sent>, optional: bool) -> Opened {
        let mut record =
            self.gateway
                .access
                .record(&Arc::new("192.0.2.1:5".into()), false, Instant::now());
        let mut headers = HeaderMap::new();
        if optional {
            headers.insert(UPGRADE_OPTIONAL, HeaderValue::from_static("1"));
        }
        let ask = Ask {
            target: Target::Tunnel("app.test".to_owned()),
            head: Box::new(Outgoing {
                method: Method::CONNECT,
                scheme: Scheme::HTTP,
                authority: HeaderValue::from_static("app.test"),
                path: PathAndQuery::from_static("/chat"),
                headers,
            }),
            body,
            protocol: Some(Protocol::from_static(protocol)),
            expects: false,
            octets: 0,
            mark: None,
        };
        let mut side = Waits::default();
        let caller = Caller::from([192, 0, 2, 1].into());
        let opening = exchange::open(
            &self.gateway,
            &self.backend,
            ask,
            &caller,
            &mut record,
            &mut side,
        );
        match timeout(SOON, opening).await.expect("in time") {
            Ok(opened) => Ok(Answer::of(opened, record)),
            Err(unavailable) => Err(unavailable.failure),
        }
    }
}

fn field<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .unwrap_or_else(|| panic!("no {name} in {head}"))
}

/// Agrees to everything, then says back what it hears, and says so when that is all.
fn agreeable() -> SocketAddr {
    server(|_, mut stream| {
        let head = head(&mut stream).unwrap();
        assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
        assert!(!head.contains("tidegate-"), "{head}");
        assert_eq!(field(&head, "connection"), "Upgrade");
        let protocol = field(&head, "upgrade");
        let accepted = match protocol {
            "websocket" => {
                let accept = accept(field(&head, "sec-websocket-key").as_bytes());
                format!("sec-websocket-accept: {accept}\r\n")
            }
            _ => String::new(),
        };
        say(
            &mut stream,
            &format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n{accepted}\r\nahead "
            ),
        );
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        say(&mut stream, &format!("heard {all}"));
    })
}

#[tokio::test]
async fn octets_go_both_ways_and_each_direction_ends_by_itself() {
    for protocol in ["websocket", "other"] {
        let world = world(&[agreeable()], |_| {});
        let (send, chunks) = tokio::sync::mpsc::unbounded_channel();
        let body = Some(Sent::Channel(chunks));
        let (parts, mut answer) = world.upgrade(protocol, body, false).await.unwrap();
        assert_eq!(parts.status, StatusCode::OK);
        assert!(parts.headers.is_empty(), "{:?}", parts.headers);
        let first = poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await;
        assert_eq!(first.unwrap().unwrap().into_data().unwrap(), "ahead ");
        send.send(Bytes::from_static(b"this")).unwrap();
        drop(send);
        assert_eq!(frames(&mut answer).await.unwrap().0, b"heard this");
        assert!(answer.is_whole());
        drop(answer);
        assert_eq!(world.backend.servers[0].open(), 0, "it never comes back");
    }
}

#[tokio::test]
async fn an_upgrade_that_is_ignored_is_an_answer_only_for_who_takes_one() {
    let world = world(&[echo("a")], |_| {});
    let strict = world.upgrade("websocket", None, false).await;
    assert_eq!(strict.err(), Some(Failure::UpgradeIgnored));
    let (parts, answer) = world.upgrade("websocket", None, true).await.unwrap();
    assert_eq!(parts.status, StatusCode::OK);
    assert_eq!(text(answer).await.unwrap(), "a1");
}

#[tokio::test]
async fn a_key_that_is_answered_wrongly_is_refused() {
    let address = server(|_, mut stream| {
        head(&mut stream);
        say(
            &mut stream,
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        head(&mut stream);
    });
    let world = world(&[address], |_| {});
    let wrong = world.upgrade("websocket", None, false).await;
    assert_eq!(wrong.err(), Some(Failure::UpgradeInvalid));
}
