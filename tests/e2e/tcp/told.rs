//! What does not fit is told of while the connection lasts, which may be for days: as soon as it is known, and each in a line of
//! its own.

use std::net::SocketAddr;

use tidegate_tests::World;
use tidegate_tests::apps::RawApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 56324 443\r\n";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Says back what it hears.
async fn echo() -> RawApp {
    RawApp::start(|reader| async move {
        let (mut from, mut to) = tokio::io::split(reader.io);
        let _ended = tokio::io::copy(&mut from, &mut to).await;
    })
    .await
}

fn address(app: &RawApp) -> String {
    app.target().replace("http://", "")
}

/// Comes from there, says this, and waits until the far end has said it all back.
async fn echoed(from: [u8; 4], to: SocketAddr, ahead: &[u8], says: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut visitor = socket.connect(to).await.unwrap();
    for piece in [ahead, says] {
        visitor.write_all(piece).await.unwrap();
    }
    let mut back = vec![0; says.len()];
    let reading = visitor.read_exact(&mut back);
    within(SOON, "the echo", reading).await.unwrap();
    assert_eq!(back, says);
    visitor
}

/// To servers, to a backend and through a tunnel.
#[tokio::test]
async fn a_header_that_is_passed_on_is_told_of_while_its_connection_lasts() {
    let app = echo().await;
    let at = address(&app);
    let listener = |name: &str, goal: &str| {
        format!("[listeners.{name}]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\n{goal}\n")
    };
    let text = [
        listener("raw", &format!("servers = [\"{at}\"]")),
        listener("shared", "backend = \"site\""),
        listener("far", "tunnel = \"db.test\""),
        format!("[backends.site.servers]\none = \"{at}\"\n"),
    ];
    let world = World::builder().config(&text.concat()).start().await;
    let _agent = world.tcp_agent("db.test", &at, &[]).await;
    let mut open = Vec::new();
    for name in ["raw", "shared", "far"] {
        let to = world.gateway.address(name).unwrap();
        open.push(echoed([127, 0, 0, 1], to, b"", LINE).await);
        let of = format!("listener={name}");
        let told = ["WARN", "got a PROXY v1 header", "not taken off", &of];
        world.gateway.wait_log(&told).await;
    }
    assert!(world.gateway.logged(&[" access "]).is_empty());
}

#[tokio::test]
async fn a_header_that_names_nobody_is_told_of_while_its_connection_lasts() {
    let app = echo().await;
    let text = format!(
        "[listeners.raw]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nproxy = \"required\"\nproxy_from = [\"127.0.0.1\"]\nservers = [\"{}\"]\n",
        address(&app)
    );
    let world = World::builder().config(&text).start().await;
    let to = world.gateway.address("raw").unwrap();
    let _open = echoed([127, 0, 0, 1], to, LOCAL, b"hello").await;
    let told = ["WARN", "LOCAL that names nobody", "listener=raw"];
    world.gateway.wait_log(&told).await;
    assert!(world.gateway.logged(&[" access "]).is_empty());
}

/// The server has hung up at once; its visitor has not noticed yet, or does not care.
#[tokio::test]
async fn a_server_that_does_not_take_the_header_is_told_of_before_its_visitor_leaves() {
    let app = RawApp::start(|mut reader| async move {
        let _header = reader.io.read(&mut [0; 1024]).await;
    })
    .await;
    let at = address(&app);
    let text = format!(
        "[listeners.raw]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nservers = [\"{at}\"]\nsend_proxy = \"v2\"\n\
         [listeners.shared]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nbackend = \"site\"\n\
         [backends.site]\nsend_proxy = \"v2\"\n[backends.site.servers]\none = \"{at}\"\n"
    );
    let world = World::builder().config(&text).start().await;
    let mut open = Vec::new();
    for (name, who) in [
        ("raw", "listener=raw"),
        ("shared", "backend site: server one"),
    ] {
        let to = world.gateway.address(name).unwrap();
        open.push(TcpStream::connect(to).await.unwrap());
        let expected = "expected an answer behind our PROXY v2 header, got a connection that is closed at once";
        world.gateway.wait_log(&["WARN", who, expected]).await;
    }
    assert!(world.gateway.logged(&[" access "]).is_empty());
}

/// Who sends a header that nobody reads is not among those who send a second one.
#[tokio::test]
async fn each_line_is_about_one_thing_that_does_not_fit() {
    let app = echo().await;
    let text = format!(
        "[listeners.raw]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nproxy = \"optional\"\nproxy_from = [\"127.0.0.2\"]\nservers = [\"{}\"]\n",
        address(&app)
    );
    let world = World::builder().config(&text).start().await;
    let to = world.gateway.address("raw").unwrap();
    for _ in 0..3 {
        let mut refused = TcpStream::connect(to).await.unwrap();
        refused.write_all(LINE).await.unwrap();
        // A reset is an end as well.
        let _ended = within(SOON, "the end", refused.read_to_end(&mut Vec::new())).await;
    }
    let told = [
        "WARN",
        "none is believed from there",
        "peer=127.0.0.1:",
        "times=1",
    ];
    world.gateway.wait_log(&told).await;
    let second = echoed([127, 0, 0, 2], to, LOCAL, LINE).await;
    let told = ["WARN", "got a second PROXY v1 header", "peer=127.0.0.2:"];
    let line = world.gateway.wait_log(&told).await;
    assert!(
        line.contains("times=1") && !line.contains("also="),
        "{line}"
    );
    drop(second);
}
