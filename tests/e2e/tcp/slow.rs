//! Visitors and servers who take what is for them late, or slowly: what was whole stays whole, and what is still being taken is no
//! silence.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidegate_tests::World;
use tidegate_tests::eventually::SOON;
use tidegate_tests::program::Program;
use tidegate_tests::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::interval;

use super::{pattern, rest};

/// So much that it is all in the hands of the systems between, and none of it the gateway's any more.
const LENGTH: usize = 1_000_000;

/// The time for what one side has ended.
const SILENCE: Duration = Duration::from_millis(600);

/// A gateway with a listener that dials the app, and one that leads to it through a tunnel.
struct Scene {
    world: World,
    app: TcpListener,
    _agent: Program,
}

const WAYS: [&str; 2] = ["dialled", "tunnelled"];

fn narrow() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    socket
}

async fn scene() -> Scene {
    let socket = narrow();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let app = socket.listen(16).unwrap();
    let at = app.local_addr().unwrap().to_string();
    let config = format!(
        "[listeners.dialled]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nservers = [\"{at}\"]\nhalf_closed_timeout = \"600ms\"\n\
         [listeners.tunnelled]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\ntunnel = \"db.test\"\nhalf_closed_timeout = \"600ms\"\n"
    );
    let world = World::builder().config(&config).start().await;
    let _agent = world.tcp_agent("db.test", &at, &[]).await;
    Scene { world, app, _agent }
}

impl Scene {
    /// A visitor of this listener, and its connection as the app sees it.
    async fn connected(&self, way: &str) -> (TcpStream, TcpStream) {
        let to = self.world.gateway.address(way).unwrap();
        let visitor = narrow().connect(to).await.unwrap();
        let accepted = within(SOON, "the app's connection", self.app.accept()).await;
        (visitor, accepted.unwrap().0)
    }

    async fn line(&self, way: &str, words: &str) -> String {
        let words = [" tcp ", &format!(" listener={way} "), words];
        self.world.gateway.wait_log(&words).await
    }
}

#[tokio::test]
async fn what_was_whole_arrives_when_the_time_for_silence_is_over() {
    let scene = scene().await;
    let all = pattern(1, LENGTH);
    for way in WAYS {
        let (mut visitor, mut app) = scene.connected(way).await;
        app.write_all(&all).await.unwrap();
        drop(app);
        scene.line(way, " ended=half-closed ").await;
        assert!(rest(&mut visitor).await.unwrap() == all, "{way}");
        // And the other way round, where the app gets all, and the visitor no end that looks like one.
        let (mut visitor, mut app) = scene.connected(way).await;
        visitor.write_all(&all).await.unwrap();
        visitor.shutdown().await.unwrap();
        let line = scene.line(way, &format!(" in={LENGTH} out=0 ")).await;
        assert!(line.contains(" ended=half-closed "), "{line}");
        assert!(rest(&mut app).await.unwrap() == all, "{way}");
        assert!(rest(&mut visitor).await.is_err(), "{way}");
    }
}

/// Says all of it, and no more; whoever hears it takes it slowly, and has a word to say then.
async fn taken_slowly(mut says: TcpStream, mut hears: TcpStream) {
    let all = pattern(2, LENGTH);
    let began = Instant::now();
    let saying = async {
        says.write_all(&all).await.unwrap();
        says.shutdown().await.unwrap();
        rest(&mut says).await.unwrap()
    };
    let hearing = async {
        let (mut heard, mut part) = (Vec::new(), vec![0; 16 * 1024]);
        let mut ticks = interval(Duration::from_millis(40));
        loop {
            ticks.tick().await;
            let octets = hears.read(&mut part).await.unwrap();
            if octets == 0 {
                break;
            }
            heard.extend_from_slice(&part[..octets]);
        }
        hears.write_all(b"thanks").await.unwrap();
        hears.shutdown().await.unwrap();
        heard
    };
    let (word, heard) = tokio::join!(saying, hearing);
    assert!(heard == all && word == b"thanks");
    assert!(began.elapsed() > 2 * SILENCE, "it was no test");
}

#[tokio::test]
async fn what_a_visitor_still_takes_is_no_silence() {
    let scene = scene().await;
    for way in WAYS {
        let (visitor, app) = scene.connected(way).await;
        taken_slowly(app, visitor).await;
        scene.line(way, " ended=closed ").await;
    }
}

#[tokio::test]
async fn what_a_server_still_takes_is_no_silence() {
    let scene = scene().await;
    let (visitor, app) = scene.connected("dialled").await;
    taken_slowly(visitor, app).await;
    scene.line("dialled", " ended=closed ").await;
}
