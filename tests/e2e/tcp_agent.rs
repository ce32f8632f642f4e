//! `tidegate tcp`, asked by a gateway of frames: CONNECT leads to TARGET and nowhere else, directions close for themselves, resets
//! stay resets (RFC 9113 §8.5), and what it does not do it says.

use std::io::ErrorKind;

use tempfile::TempDir;
use tidegate_tests::apps::AbsentApp;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::peers::frame::{code, flag, kind};
use tidegate_tests::peers::gateway::{RawGateway, answer, request};
use tidegate_tests::peers::{Event, Frame, Peer, field};
use tidegate_tests::pki::Pki;
use tidegate_tests::program::Program;
use tidegate_tests::world::launch_tcp_agent;
use tidegate_tests::{HOST, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

/// An agent with one tunnel to a gateway by hand.
struct Scene {
    peer: Peer,
    agent: Program,
    _dir: TempDir,
}

async fn scene(target: &str) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let gateway = RawGateway::listen(&pki, &pki.server(&["localhost"])).await;
    let address = format!("localhost:{}", gateway.address().port());
    let (identity, ca) = (pki.agent(&[HOST]), pki.ca_file("ca"));
    let agent = launch_tcp_agent(&address, &identity, &ca, target, &["--tunnels", "1"]);
    let peer = gateway.reversed().await;
    Scene {
        peer,
        agent,
        _dir: dir,
    }
}

/// Asks for a place where nothing is.
async fn connect(peer: &mut Peer, stream: u32) {
    let fields = [(":method", "CONNECT"), (":authority", "elsewhere.test:9")];
    peer.send_head(stream, &fields, false).await;
}

/// The answer that opens a stream.
async fn opened(peer: &mut Peer, stream: u32) {
    let (on, fields) = peer.head().await;
    assert_eq!(on, stream);
    assert_eq!(field(&fields, ":status"), Some("200"), "{fields:?}");
}

/// What comes on a stream until it is closed from the agent's side, however that is.
async fn heard(peer: &mut Peer, stream: u32) -> (Vec<u8>, Option<u32>) {
    let mut octets = Vec::new();
    within(SOON, "the stream is closed", async {
        loop {
            let Event::Frame(frame) = peer.event().await.unwrap() else {
                panic!("a field block on a stream that is open")
            };
            match frame.kind {
                kind::DATA if frame.stream == stream => {
                    octets.extend(&frame.payload);
                    if frame.has(flag::END_STREAM) {
                        return (octets, None);
                    }
                }
                kind::RST_STREAM if frame.stream == stream => return (octets, Some(frame.code())),
                _ => {}
            }
        }
    })
    .await
}

async fn accepted(listener: &TcpListener) -> TcpStream {
    let accepting = listener.accept();
    within(SOON, "the agent connects", accepting)
        .await
        .unwrap()
        .0
}

/// Reads to the end, which has to be one in order.
async fn rest(app: &mut TcpStream) -> Vec<u8> {
    let mut octets = Vec::new();
    within(SOON, "the end", app.read_to_end(&mut octets))
        .await
        .unwrap();
    octets
}

#[tokio::test]
async fn octets_go_both_ways_and_each_way_closes_for_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut scene = scene(&port.to_string()).await;
    let peer = &mut scene.peer;
    connect(peer, 1).await;
    let mut app = accepted(&listener).await;
    opened(peer, 1).await;
    // Who speaks first is no matter.
    app.write_all(b"greeting").await.unwrap();
    assert_eq!(peer.wait_frame(kind::DATA).await.payload, b"greeting");
    peer.send(Frame::data(1, b"question", true)).await;
    assert_eq!(rest(&mut app).await, b"question");
    app.write_all(b"answer").await.unwrap();
    drop(app);
    assert_eq!(heard(peer, 1).await, (b"answer".to_vec(), None));
    // And the other way round: who is told that there is no more still speaks.
    connect(peer, 3).await;
    let mut app = accepted(&listener).await;
    opened(peer, 3).await;
    app.shutdown().await.unwrap();
    assert_eq!(heard(peer, 3).await, (Vec::new(), None));
    peer.send(Frame::data(3, b"late", true)).await;
    assert_eq!(rest(&mut app).await, b"late");
}

#[tokio::test]
async fn a_reset_stays_one_in_both_directions() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut scene = scene(&listener.local_addr().unwrap().to_string()).await;
    let peer = &mut scene.peer;
    connect(peer, 1).await;
    let app = accepted(&listener).await;
    opened(peer, 1).await;
    Conn::Plain(app).reset();
    assert_eq!(
        heard(peer, 1).await,
        (Vec::new(), Some(code::CONNECT_ERROR))
    );
    connect(peer, 3).await;
    let mut app = accepted(&listener).await;
    opened(peer, 3).await;
    peer.send(Frame::reset(3, code::CANCEL)).await;
    let read = within(SOON, "the app sees it", app.read(&mut [0])).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_unix_socket_is_a_target_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut scene = scene(&format!("unix:{}", path.display())).await;
    connect(&mut scene.peer, 1).await;
    let (mut app, _) = within(SOON, "the agent connects", listener.accept())
        .await
        .unwrap();
    opened(&mut scene.peer, 1).await;
    app.write_all(b"hello").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(heard(&mut scene.peer, 1).await, (b"hello".to_vec(), None));
}

#[tokio::test]
async fn an_app_that_is_not_there_is_said_and_logged_once() {
    let app = AbsentApp::new();
    let mut scene = scene(&app.address().to_string()).await;
    for stream in [1, 3] {
        connect(&mut scene.peer, stream).await;
        let (fields, _, _) = answer(&mut scene.peer, stream).await;
        assert_eq!(field(&fields, ":status"), Some("502"));
        assert_eq!(field(&fields, "tidegate-reason"), Some("app-unreachable"));
        let detail = field(&fields, "tidegate-detail").unwrap();
        assert!(detail.contains("connection refused"), "{detail}");
    }
    let line = scene.agent.wait_log(&["cannot be reached"]).await;
    let meant = format!(
        "the app at {} cannot be reached: connection refused; visitors' connections are closed until it answers",
        app.address()
    );
    assert!(line.contains(&meant), "{line}");
    let listener = app.listen();
    connect(&mut scene.peer, 5).await;
    opened(&mut scene.peer, 5).await;
    let _app = accepted(&listener).await;
    scene.agent.wait_log(&["answers again"]).await;
    assert_eq!(scene.agent.logged(&["cannot be reached"]).len(), 1);
}

#[tokio::test]
async fn a_request_is_told_that_there_is_no_http_here() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut scene = scene(&app.local_addr().unwrap().to_string()).await;
    let mut upgrade = request("CONNECT", HOST, "/ws");
    upgrade.insert(1, (":protocol", "websocket"));
    for (stream, fields) in [(1, request("GET", HOST, "/")), (3, upgrade)] {
        let ends = fields[0].1 == "GET";
        scene.peer.send_head(stream, &fields, ends).await;
        let (fields, body, _) = answer(&mut scene.peer, stream).await;
        assert_eq!(field(&fields, ":status"), Some("502"));
        assert_eq!(field(&fields, "tidegate-reason"), Some("tcp-only"));
        let page = String::from_utf8(body).unwrap();
        assert!(page.contains("served by tidegate tcp"), "{page}");
    }
    let line = scene.agent.wait_log(&["tcp-only"]).await;
    assert!(line.contains("`tidegate http`"), "{line}");
    // Nobody has asked the app anything.
    connect(&mut scene.peer, 5).await;
    let first = accepted(&app).await;
    opened(&mut scene.peer, 5).await;
    assert_eq!(
        first.try_read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
}

/// What is in flight when it is told to end may finish.
#[tokio::test]
async fn a_connection_in_flight_outlives_the_signal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut scene = scene(&listener.local_addr().unwrap().to_string()).await;
    connect(&mut scene.peer, 1).await;
    let mut app = accepted(&listener).await;
    opened(&mut scene.peer, 1).await;
    scene.agent.terminate();
    scene.agent.wait_log(&["no more requests are taken"]).await;
    app.write_all(b"still here").await.unwrap();
    assert_eq!(
        scene.peer.wait_frame(kind::DATA).await.payload,
        b"still here"
    );
    drop(app);
    scene.peer.send(Frame::data(1, b"", true)).await;
    assert!(scene.agent.ended(SOON).await.success());
}
