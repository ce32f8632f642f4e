//! The HAProxy dialect byte by byte, from both sides (issue §2, `wire.md` §1.2 and §1.3).

use std::time::{Duration, Instant};

use tidegate_tests::apps::HttpApp;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::peers::agent::RawAgent;
use tidegate_tests::peers::frame::{Frame, PREFACE, code, flag, kind, setting};
use tidegate_tests::peers::gateway::{RawGateway, answer, request};
use tidegate_tests::peers::{Peer, field};
use tidegate_tests::program::Program;
use tidegate_tests::{ByHand, HOST, World, within};
use tokio::time::timeout;

/// The most that an opening may take, and what a loaded machine may add.
const OPENING: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn the_gateway_waits_for_the_preface_and_then_sends_settings() {
    let world = World::start().await;
    let mut peer = connect(&world).await;
    let silence = Duration::from_millis(300);
    assert!(
        timeout(silence, peer.frame()).await.is_err(),
        "nothing before the preface"
    );
    peer.write(&PREFACE[..23]).await.unwrap();
    assert!(
        timeout(silence, peer.frame()).await.is_err(),
        "nothing before its last byte"
    );
    peer.write(&PREFACE[23..]).await.unwrap();
    peer.send(RawAgent::settings()).await;
    let first = within(SOON, "SETTINGS", peer.frame()).await.unwrap();
    assert_eq!(
        (first.kind, first.flags, first.stream),
        (kind::SETTINGS, 0, 0)
    );
    assert_ne!(
        settings_of(&first, setting::ENABLE_PUSH),
        Some(1),
        "pushes are not wanted"
    );
}

#[tokio::test]
async fn requests_have_odd_streams_from_one_also_without_acknowledgements() {
    let world = World::start().await;
    let mut peer = connect(&world).await;
    peer.polite = false;
    let opening = [PREFACE.as_slice(), &RawAgent::settings().encode()].concat();
    peer.write(&opening).await.unwrap();
    world.wait_filed(HOST, 1, SOON).await;
    for (expected, path) in [(1, "/first"), (3, "/second"), (5, "/third")] {
        let mut visitor = world.visitor().await;
        visitor.send_get(HOST, path).await;
        let (stream, fields) = peer.head().await;
        assert_eq!(stream, expected);
        assert_eq!(field(&fields, ":path"), Some(path));
        assert_eq!(field(&fields, ":method"), Some("GET"));
        assert_eq!(field(&fields, ":authority"), Some(HOST));
        peer.respond(stream, path).await.unwrap();
        assert_eq!(visitor.answer("GET").await.text(), path);
    }
}

#[tokio::test]
async fn an_opening_may_arrive_byte_by_byte() {
    let world = World::start().await;
    let mut peer = connect(&world).await;
    let opening = [PREFACE.as_slice(), &RawAgent::settings().encode()].concat();
    for byte in opening {
        // TLS makes a record of each write, so each byte arrives alone.
        peer.write(&[byte]).await.unwrap();
    }
    world.wait_filed(HOST, 1, SOON).await;
    let mut visitor = world.visitor().await;
    visitor.send_get(HOST, "/").await;
    let (stream, _) = peer.head().await;
    peer.respond(stream, "whole").await.unwrap();
    assert_eq!(visitor.answer("GET").await.text(), "whole");
}

#[tokio::test]
async fn nothing_is_filed_before_the_agents_settings() {
    let world = World::start().await;
    let mut peer = connect(&world).await;
    peer.write(PREFACE).await.unwrap();
    assert_eq!(world.get(HOST, "/").await.reason(), "no-such-name");
    assert_eq!(world.filed(HOST).await, 0);
    peer.send(RawAgent::settings()).await;
    world.wait_filed(HOST, 1, SOON).await;
}

/// What came first, and the words for it in the log.
fn false_starts() -> Vec<(Vec<u8>, &'static str)> {
    let proxy2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\x10\x01\x10\x02";
    let after = |frame: Frame| [PREFACE.as_slice(), &frame.encode()].concat();
    let mut huge = after(RawAgent::settings());
    huge[24] = 0xff;
    vec![
        (
            b"GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n".to_vec(),
            "HTTP/1.1 request",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "HTTP/1.1"),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            "TLS",
        ),
        (
            b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n".to_vec(),
            "PROXY v1",
        ),
        (proxy2.to_vec(), "PROXY v2"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec(), ""),
        (after(Frame::ping([0; 8], false)), "PING"),
        (after(Frame::settings_ack()), "SETTINGS"),
        (
            after(Frame::new(kind::SETTINGS, 0, 0, [0, 3, 0])),
            "SETTINGS",
        ),
        (after(Frame::new(kind::SETTINGS, 0, 1, [])), "SETTINGS"),
        (after(Frame::goaway(0, code::NO_ERROR)), "GOAWAY"),
        (huge, "SETTINGS"),
    ]
}

#[tokio::test]
async fn a_false_start_ends_the_connection_and_is_named_in_the_log() {
    let world = World::start().await;
    for (number, (bytes, words)) in (1..).zip(false_starts()) {
        let mut peer = connect_from(&world, number).await;
        peer.write(&bytes).await.unwrap();
        let sent = peer.until_closed(OPENING + GRACE).await;
        let answers = sent
            .iter()
            .filter(|frame| frame.kind == kind::HEADERS)
            .count();
        assert_eq!(answers, 0, "{bytes:?}: no request for it");
        world
            .gateway
            .wait_log(&[&format!("127.0.1.{number}:"), words])
            .await;
    }
    assert_eq!(world.filed(HOST).await, 0);
}

#[tokio::test]
async fn silence_and_slowness_end_with_the_deadline() {
    let world = World::start().await;
    let silent = async {
        let began = Instant::now();
        let mut peer = connect_from(&world, 1).await;
        peer.until_closed(OPENING + GRACE).await;
        began.elapsed()
    };
    let slow = async {
        let began = Instant::now();
        let mut peer = connect_from(&world, 2).await;
        let opening = [PREFACE.as_slice(), &RawAgent::settings().encode()].concat();
        let mut every = tokio::time::interval(Duration::from_millis(400));
        for byte in opening {
            every.tick().await;
            if peer.write(&[byte]).await.is_err() {
                break;
            }
        }
        peer.until_closed(GRACE).await;
        began.elapsed()
    };
    // The deadline is for the whole opening: neither saying nothing nor dripping extends it.
    let (silent, slow) = tokio::join!(silent, slow);
    for took in [silent, slow] {
        assert!(took < OPENING + GRACE, "{took:?}");
        assert!(
            took > Duration::from_secs(1),
            "an agent on a slow line gets some time: {took:?}"
        );
    }
    world.gateway.wait_log(&["127.0.1.1:", "nothing"]).await;
    world.gateway.wait_log(&["127.0.1.2:", "waited"]).await;
}

#[tokio::test]
async fn a_tunnel_without_alpn_h2_is_refused() {
    let world = World::start().await;
    let identity = world.pki.agent(&[HOST]);
    for alpn in [&["http/1.1"][..], &["h3"]] {
        let config = world.pki.client(Some(&identity), alpn);
        let outcome = Conn::tls(world.tunnels, "localhost", config).await;
        let refused = match outcome {
            Err(_) => true,
            Ok(conn) => {
                let mut peer = Peer::over(conn);
                let opening = [PREFACE.as_slice(), &RawAgent::settings().encode()].concat();
                let _ = peer.write(&opening).await;
                let frames = peer.until_closed(SOON).await;
                frames.iter().all(|frame| frame.kind == kind::GOAWAY)
            }
        };
        assert!(refused, "{alpn:?}");
    }
    assert_eq!(world.filed(HOST).await, 0);
}

#[tokio::test]
async fn the_agent_speaks_first_and_offers_what_haproxy_needs() {
    let scene = ByHand::start().await;
    let (_, settings) = scene.gateway.opening().await;
    assert_eq!(
        settings_of(&settings, setting::ENABLE_CONNECT_PROTOCOL),
        Some(1),
        "WebSocket"
    );
    let streams = settings_of(&settings, setting::MAX_CONCURRENT_STREAMS);
    // HAProxy ignores the agent's limit and opens up to its own 100 (wire.md §1.4).
    assert!(streams.is_none_or(|most| most >= 100), "{streams:?}");
    assert_ne!(settings_of(&settings, setting::ENABLE_PUSH), Some(1));
}

#[tokio::test]
async fn the_agent_serves_a_request_in_the_same_segment_as_settings() {
    let scene = ByHand::start().await;
    let (mut peer, _) = scene.gateway.opening().await;
    let block = tidegate_tests::peers::hpack::encode(&request("GET", HOST, "/hello"));
    peer.send_all(&[RawGateway::settings(), Frame::headers(1, block, true)])
        .await
        .unwrap();
    let (head, body, _) = answer(&mut peer, 1).await;
    assert_eq!(field(&head, ":status"), Some("200"));
    assert_eq!(body, b"hello from blog\n");
}

#[tokio::test]
async fn the_agent_works_with_a_gateway_that_acknowledges_nothing() {
    let scene = ByHand::start().await;
    let (mut peer, _) = scene.gateway.opening().await;
    peer.polite = false;
    peer.send(RawGateway::settings()).await;
    for stream in [1, 3, 5] {
        peer.send_head(stream, &request("GET", HOST, "/hello"), true)
            .await;
        assert_eq!(answer(&mut peer, stream).await.1, b"hello from blog\n");
    }
}

#[tokio::test]
async fn the_agent_accepts_a_host_field_where_authority_is_missing() {
    // A HAProxy gateway forwards an HTTP/1.1 visitor's request so (wire.md §11).
    let scene = ByHand::start().await;
    let mut peer = scene.gateway.reversed().await;
    let fields = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/headers"),
        ("host", HOST),
    ];
    peer.send_head(1, &fields, true).await;
    let (head, body, _) = answer(&mut peer, 1).await;
    assert_eq!(field(&head, ":status"), Some("200"));
    assert!(
        String::from_utf8_lossy(&body)
            .to_lowercase()
            .contains("host: blog.test")
    );
}

#[tokio::test]
async fn the_agent_gives_a_silent_gateway_up_and_says_so() {
    let scene = ByHand::start().await;
    let began = Instant::now();
    let (mut peer, _) = scene.gateway.opening().await;
    peer.until_closed(OPENING + GRACE).await;
    assert!(began.elapsed() < OPENING + GRACE);
    scene.agent.wait_log(&["reversal"]).await;
}

#[tokio::test]
async fn the_agent_names_what_a_false_gateway_said() {
    for (said, words) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..],
            "HTTP/1.1",
        ),
        (&Frame::ping([0; 8], false).encode(), "PING"),
        (PREFACE, "preface"),
    ] {
        let scene = ByHand::start().await;
        let (mut peer, _) = scene.gateway.opening().await;
        peer.write(said).await.unwrap();
        peer.until_closed(OPENING + GRACE).await;
        scene.agent.wait_log(&[words]).await;
        assert!(!scene.agent.printed().contains(&"ready".to_owned()));
    }
}

async fn connect(world: &World) -> Peer {
    let identity = world.pki.agent(&[HOST]);
    let conn = RawAgent::connect(world.tunnels, &world.pki, Some(&identity)).await;
    Peer::over(conn.unwrap())
}

/// From an address of its own: of one source only a line a minute and reason is logged.
async fn connect_from(world: &World, number: u8) -> Peer {
    let identity = world.pki.agent(&[HOST]);
    let conn = RawAgent::connect_from(number, world.tunnels, &world.pki, Some(&identity)).await;
    Peer::over(conn.unwrap())
}

fn settings_of(frame: &Frame, id: u16) -> Option<u32> {
    let entry = frame
        .payload
        .chunks(6)
        .rfind(|entry| entry[..2] == id.to_be_bytes())?;
    Some(u32::from_be_bytes(entry[2..6].try_into().unwrap()))
}

/// The constants of the test itself: an acknowledged SETTINGS frame is the one that the flag says.
#[test]
fn the_flag_of_an_acknowledgement_is_the_first_bit() {
    assert!(Frame::settings_ack().has(flag::ACK));
    assert_eq!(Frame::settings_ack().encode(), [0, 0, 0, 4, 1, 0, 0, 0, 0]);
}

/// Clear text, for tests and trusted networks: an explicit option at both ends, and a loud warning.
#[tokio::test]
async fn a_tunnel_in_clear_text_works_and_warns() {
    let world = World::builder()
        .option("--tunnels-clear", "127.0.0.1:0")
        .option("--tunnels-clear-name", HOST)
        .start()
        .await;
    let clear = world
        .gateway
        .address("tunnels-clear")
        .expect("its address on stdout");
    let app = HttpApp::start("blog").await;
    let args = [
        "http",
        app.target(),
        "--gateway",
        &clear.to_string(),
        "--clear",
    ];
    let args: Vec<std::ffi::OsString> = args.map(Into::into).to_vec();
    let path = tidegate_tests::program::built("tidegate");
    let mut agent = Program::start("tidegate", &path, &args);
    agent.ready().await;
    assert_eq!(world.get(HOST, "/hello").await.text(), "hello from blog\n");
    for program in [&world.gateway, &agent] {
        program.wait_log(&["WARN", "CLEAR TEXT"]).await;
    }
    // The same false starts are named here too.
    let mut stranger = Peer::over(Conn::plain(clear).await.unwrap());
    stranger
        .write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        .await
        .unwrap();
    stranger.until_closed(OPENING + GRACE).await;
    world.gateway.wait_log(&["TLS"]).await;
}
