//! Visitors who are not there any more while nobody reads what they sent, or has anything to tell them (issue §4).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_tests::apps::RawApp;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::http1::{Framing, pattern};
use tidegate_tests::program::Program;
use tidegate_tests::sockets::{connection, connections};
use tidegate_tests::visitors::Visitor;
use tidegate_tests::{HOST, Site, World};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

/// The name whose app does not read.
const DEAF: &str = "shop.test";

/// Well below every time limit of the gateway's, and enough for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Enough to wait for whoever reads to have had his turn.
const UNREAD: u64 = 32 * 1024;

/// A site, and beside it an app that reads no body until it is told to, and then says how much came.
struct Scene {
    site: Site,
    read: Arc<Notify>,
    _app: RawApp,
    _agent: Program,
}

impl Scene {
    async fn start() -> Self {
        let read = Arc::new(Notify::new());
        let told = Arc::clone(&read);
        let app = RawApp::start(move |mut reader| {
            let told = Arc::clone(&told);
            async move {
                let Ok(Some(head)) = reader.head().await else {
                    return;
                };
                let begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n";
                if head.target() == "/begun" && reader.io.write_all(begun).await.is_err() {
                    return;
                }
                told.notified().await;
                let mut body = Framing::of_request(&head).unwrap();
                let length = reader.body(&mut body).await.unwrap().len().to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{length}",
                    length.len()
                );
                let _gone = reader.io.write_all(answer.as_bytes()).await;
            }
        })
        .await;
        let site = Site::start_with(World::builder(), &[]).await;
        let agent = site.world.agent(DEAF, &app.target()).await;
        Self {
            site,
            read,
            _app: app,
            _agent: agent,
        }
    }

    /// A visitor in clear text, or over TLS.
    async fn visitor(&self, secure: bool) -> Visitor {
        if !secure {
            return self.site.visitor().await;
        }
        let tls = self.site.world.visitor_tls(&["http/1.1"]);
        Visitor::connect_tls(self.site.world.visitors_tls, DEAF, tls).await
    }

    /// Waits until no request is on the tunnels of the app that does not read.
    async fn nobody(&self, what: &str) {
        eventually(AT_ONCE, what, async || {
            (self.site.world.streams(DEAF).await == 0).then_some(())
        })
        .await;
    }
}

fn post(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: {DEAF}\r\n{fields}\r\n")
}

/// Sends pieces until the gateway leaves some unread. How many octets were sent.
async fn send_until_unread(visitor: &mut Visitor, piece: &[u8]) -> usize {
    let tcp = visitor.reader.io.tcp();
    let (near, far) = (tcp.local_addr().unwrap(), tcp.peer_addr().unwrap());
    let mut sent = 0;
    while connection(far, near).unwrap().unread < UNREAD {
        visitor.send(piece).await;
        sent += piece.len();
        assert!(sent < 64 << 20, "back-pressure reaches the visitor");
    }
    sent
}

#[tokio::test]
async fn a_reset_behind_an_upload_that_nobody_reads_is_noticed_at_once() {
    let scene = Scene::start().await;
    let piece = pattern(16_384);
    for path in ["/", "/begun"] {
        for secure in [false, true] {
            let mut visitor = scene.visitor(secure).await;
            visitor
                .send(post(path, "Content-Length: 900000000\r\n"))
                .await;
            if path == "/begun" {
                assert_eq!(visitor.head().await.status(), 200);
            }
            send_until_unread(&mut visitor, &piece).await;
            assert_eq!(scene.site.world.streams(DEAF).await, 1);
            visitor.reset();
            scene.nobody(path).await;
        }
    }
    let gateway = &scene.site.world.gateway;
    eventually(SOON, "each has its line", async || {
        (gateway.logged(&["POST", DEAF, "reason=visitor-gone"]).len() == 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_body_that_ends_early_where_nobody_reads_is_noticed_at_once() {
    let scene = Scene::start().await;
    let piece = pattern(16_384);
    for secure in [false, true] {
        let mut visitor = scene.visitor(secure).await;
        visitor
            .send(post("/", "Content-Length: 900000000\r\n"))
            .await;
        send_until_unread(&mut visitor, &piece).await;
        visitor.half_close().await;
        scene.nobody("an upload that broke off").await;
    }
}

/// Whoever has sent everything may close his half, and waits for as long as the app takes to read it.
#[tokio::test]
async fn a_whole_body_that_nobody_reads_yet_keeps_its_place() {
    let scene = Scene::start().await;
    let octets = pattern(16_384);
    let chunk = [&b"4000\r\n"[..], &octets, b"\r\n"].concat();
    for secure in [false, true] {
        let mut visitor = scene.visitor(secure).await;
        visitor
            .send(post("/", "Transfer-Encoding: chunked\r\n"))
            .await;
        let sent = send_until_unread(&mut visitor, &chunk).await;
        visitor.send("0\r\n\r\n").await;
        visitor.half_close().await;
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            scene
                .site
                .answers_at_once("beside an upload that waits")
                .await;
        }
        assert_eq!(scene.site.world.streams(DEAF).await, 1);
        scene.read.notify_one();
        let answer = visitor.answer("POST").await;
        let octets = sent / chunk.len() * octets.len();
        assert_eq!(answer.text(), octets.to_string());
    }
}

/// A peer that vanishes behind a connection on which nothing is said is found by the system.
#[tokio::test]
async fn visitors_and_apps_are_asked_for_signs_of_life() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    visitor.send_get(HOST, "/hello").await;
    assert_eq!(visitor.answer("GET").await.status(), 200);
    let tcp = visitor.reader.io.tcp();
    let (near, far) = (tcp.local_addr().unwrap(), tcp.peer_addr().unwrap());
    let app = site
        .app
        .target()
        .trim_start_matches("http://")
        .parse()
        .unwrap();
    eventually(SOON, "both connections are kept alive", async || {
        let visitors = connection(far, near).unwrap().keeps_alive;
        let apps = connections()
            .into_iter()
            .any(|socket| socket.remote == app && socket.keeps_alive);
        (visitors && apps).then_some(())
    })
    .await;
}
