//! Servers that speak HTTP/2 (issue 3 §4): requests share connections, and none is lost or doubled when one ends.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream, client};
use http::{Request, Response};
use tidegate_tests::apps::{Doorman, HttpApp, RawApp};
use tidegate_tests::eventually::{SOON, eventually, within};
use tidegate_tests::peers::frame::{PREFACE, flag};
use tidegate_tests::peers::{Event, Frame, Peer as RawPeer, kind};
use tidegate_tests::task::{Task, Tasks, spawn};
use tidegate_tests::visitors::Visitor;
use tidegate_tests::{HOST, World};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// A gateway whose [`HOST`] is a backend with these servers; `more` are keys of it.
async fn world(servers: &[(&str, SocketAddr)], more: &str) -> World {
    let servers: String = servers
        .iter()
        .map(|(name, at)| format!("{name} = \"{at}\"\n"))
        .collect();
    let text = format!(
        "[backends.site]\n{more}\n[backends.site.servers]\n{servers}[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n"
    );
    World::builder().config(&text).start().await
}

/// An HTTP/2 server in clear text.
struct Peer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _task: Task,
}

/// What one does with a request, the so-many-th of its connection.
enum Does {
    Answer,
    Refuse,
    /// Answers, and takes no more on this connection.
    AnswerLast,
    /// The connection ends at once.
    Drop,
    /// A body without an end, as fast as the windows let it.
    Pour,
    /// Nothing more is read or said on this connection, which stays open.
    Freeze,
}

impl Peer {
    /// `seen` is given the bodies; `most` is how many requests one connection takes at once.
    async fn start(
        most: u32,
        seen: impl Fn(Vec<u8>) + Clone + Send + Sync + 'static,
        does: impl Fn(usize) -> Does + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = spawn(async move {
            let mut running = Tasks::new();
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                let (seen, does) = (seen.clone(), does.clone());
                running.spawn(async move {
                    let mut builder = server::Builder::new();
                    builder.max_concurrent_streams(most);
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(tcp).await else {
                        return;
                    };
                    let mut streams = Tasks::new();
                    let mut nth = 0;
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        nth += 1;
                        match does(nth) {
                            Does::Refuse => respond.send_reset(Reason::REFUSED_STREAM),
                            Does::Drop => return,
                            Does::Pour => {
                                streams.spawn(pour(respond));
                            }
                            Does::Freeze => std::future::pending().await,
                            Does::AnswerLast => {
                                streams.spawn(answer(request, respond, seen.clone()));
                                connection.graceful_shutdown();
                            }
                            Does::Answer => {
                                streams.spawn(answer(request, respond, seen.clone()));
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            connections,
            _task: task,
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    seen: impl Fn(Vec<u8>),
) {
    let mut body = request.into_body();
    let mut whole = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        let _gone = body.flow_control().release_capacity(piece.len());
        whole.extend_from_slice(&piece);
    }
    seen(whole);
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else {
        return;
    };
    let _gone = stream.send_data(Bytes::from_static(b"ok"), true);
}

async fn pour(mut respond: SendResponse<Bytes>) {
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else {
        return;
    };
    loop {
        stream.reserve_capacity(16 * 1024);
        let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return;
        };
        let piece = Bytes::from(vec![b'x'; room]);
        if stream.send_data(piece, false).is_err() {
            return;
        }
    }
}

/// Uploads of 549 octets by a few visitors, each of its own.
async fn uploads(world: &World, visitors: usize, each: usize) {
    let mut tasks = Tasks::new();
    for visitor in 0..visitors {
        let to = world.visitors;
        tasks.spawn(async move {
            let mut conn = Visitor::connect(to).await;
            for nth in 0..each {
                let body = format!("{:0<549}", format!("{visitor}-{nth}-"));
                let head =
                    format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 549\r\n\r\n");
                conn.send(head + &body).await;
                let answer = conn.answer("POST").await;
                let said = (answer.status(), answer.reason());
                assert_eq!(said, (200, ""), "{visitor}-{nth}");
            }
        });
    }
    while let Some(done) = within(SOON, "a visitor's uploads", tasks.join_next()).await {
        done.unwrap();
    }
}

type Bodies = Arc<Mutex<HashMap<Vec<u8>, usize>>>;

fn note(bodies: &Bodies) -> impl Fn(Vec<u8>) + Clone + Send + Sync + 'static {
    let bodies = Arc::clone(bodies);
    move |body| *bodies.lock().unwrap().entry(body).or_default() += 1
}

fn each_once(bodies: &Bodies, count: usize) {
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), count);
    assert!(bodies.values().all(|times| *times == 1), "doubled");
}

#[tokio::test]
async fn requests_share_a_connection() {
    let bodies = Bodies::default();
    let peer = Peer::start(100, note(&bodies), |_nth| Does::Answer).await;
    let world = world(&[("one", peer.address)], "protocol = \"h2\"").await;
    uploads(&world, 20, 10).await;
    each_once(&bodies, 200);
    // One for each worker.
    let most = std::thread::available_parallelism().unwrap().get();
    let connections = peer.connections.load(Relaxed);
    assert!((1..=most).contains(&connections), "{connections}");
    let metrics = world.metrics().await;
    let one = ["server=\"one\""];
    let opened = metrics.sum("tidegate_backend_connections_total", &one);
    assert_eq!(opened, connections as f64);
    assert_eq!(metrics.sum("tidegate_backend_requests_total", &one), 200.0);
    assert_eq!(metrics.sum("tidegate_backend_in_flight", &one), 0.0);
}

#[tokio::test]
async fn no_upload_is_lost_or_doubled_while_connections_end() {
    let bodies = Bodies::default();
    let peer = Peer::start(100, note(&bodies), |nth| match nth % 5 {
        0 => Does::AnswerLast,
        _ => Does::Answer,
    })
    .await;
    let world = world(&[("one", peer.address)], "protocol = \"h2\"\nretries = 10").await;
    uploads(&world, 6, 30).await;
    each_once(&bodies, 180);
    assert!(peer.connections.load(Relaxed) > 5);
}

#[tokio::test]
async fn no_upload_is_lost_or_doubled_while_visitors_own_connections_end() {
    let bodies = Bodies::default();
    let peer = Peer::start(100, note(&bodies), |nth| match nth % 5 {
        0 => Does::AnswerLast,
        _ => Does::Answer,
    })
    .await;
    let doorman = Doorman::before(peer.address).await;
    let address = SocketAddr::from(([127, 0, 0, 1], doorman.port()));
    let keys = "protocol = \"h2\"\nsend_proxy = \"v2\"\nretries = 10";
    let world = world(&[("one", address)], keys).await;
    uploads(&world, 6, 30).await;
    each_once(&bodies, 180);
    // Each has six requests at most before its server ends it: the one that comes with its end may still be taken.
    let greeted = doorman.greeted();
    assert!(greeted.len() >= 30, "{}", greeted.len());
}

#[tokio::test]
async fn a_refused_request_goes_elsewhere() {
    let bodies = Bodies::default();
    let refuses = Peer::start(100, |_| panic!("took it"), |_| Does::Refuse).await;
    let takes = Peer::start(100, note(&bodies), |_| Does::Answer).await;
    let servers = [("one", refuses.address), ("two", takes.address)];
    let world = world(&servers, "protocol = \"h2\"").await;
    for _ in 0..4 {
        let answer = world.get(HOST, "/").await;
        assert_eq!((answer.status(), answer.reason()), (200, ""));
    }
    world
        .gateway
        .wait_log(&["server one", "it refused the stream"])
        .await;
}

#[tokio::test]
async fn a_broken_connection_is_told_of_and_what_may_be_repeated_is() {
    let drops = Peer::start(100, |_| (), |_| Does::Drop).await;
    let takes = Peer::start(100, |_| (), |_| Does::Answer).await;
    let servers = [("one", drops.address), ("two", takes.address)];
    let world = world(&servers, "protocol = \"h2\"\neject_after = 0").await;
    for _ in 0..4 {
        assert_eq!(world.get(HOST, "/").await.status(), 200);
    }
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let mut visitor = world.visitor().await;
        visitor
            .send(format!(
                "POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\n\r\nx"
            ))
            .await;
        let answer = visitor.answer("POST").await;
        statuses.push((answer.status(), answer.reason().to_owned()));
    }
    statuses.sort();
    let closed = (502, "backend-closed".to_owned());
    assert_eq!(statuses, [(200, String::new()), closed]);
}

#[tokio::test]
async fn a_connection_that_says_nothing_holds_up_nobody_else() {
    let bodies = Bodies::default();
    let first = Arc::new(AtomicUsize::new(0));
    let peer = Peer::start(100, note(&bodies), move |nth| {
        // Only the first connection, and from its third request on.
        match nth {
            3 if first.fetch_add(1, Relaxed) == 0 => Does::Freeze,
            _ => Does::Answer,
        }
    })
    .await;
    let text = format!(
        "workers = 1\n[backends.site]\nprotocol = \"h2\"\nresponse_timeout = \"60s\"\n[backends.site.servers]\none = \"{}\"\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n",
        peer.address
    );
    let world = World::builder().config(&text).start().await;
    for _ in 0..2 {
        assert_eq!(world.get(HOST, "/").await.status(), 200);
    }
    // It freezes the connection, and must not be sent twice.
    let mut stuck = world.visitor().await;
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\n\r\nx");
    stuck.send(head).await;
    eventually(SOON, "the frozen request", async || {
        let metrics = world.metrics().await;
        (metrics.sum("tidegate_backend_requests_total", &[]) >= 3.0).then_some(())
    })
    .await;
    // One that may be repeated is, as soon as the connection is in doubt; those that come later do not meet it at all.
    for _ in 0..3 {
        assert_eq!(world.get(HOST, "/").await.status(), 200);
    }
    assert_eq!(peer.connections.load(Relaxed), 2);
    let doubts = "tidegate_backend_doubts_total";
    assert_eq!(world.metrics().await.sum(doubts, &[]) as u64, 1);
    let said = [
        "server one says nothing on an HTTP/2 connection",
        "PING: the last octet came ",
    ];
    world.gateway.wait_log(&said).await;
    let answer = within(SOON * 2, "the frozen request's end", stuck.answer("POST")).await;
    assert_eq!((answer.status(), answer.reason()), (502, "backend-closed"));
    assert_eq!(
        bodies.lock().unwrap().len(),
        1,
        "only requests without a body"
    );
}

/// A server in HTTP/2, frame by frame, that leaves PINGs alone. One that `settles` acknowledges our SETTINGS and answers requests.
async fn without_ping(settles: bool) -> RawApp {
    RawApp::start(move |mut reader| async move {
        if reader.exactly(PREFACE.len()).await.is_err() {
            return;
        }
        let mut peer = RawPeer::on(reader);
        peer.polite = false;
        let _gone = peer.send_all(&[Frame::settings(&[])]).await;
        while let Ok(event) = peer.event().await {
            let answered = match event {
                _ if !settles => Ok(()),
                Event::Head { stream, .. } => peer.respond(stream, "hello").await,
                Event::Frame(frame) if frame.kind == kind::SETTINGS && !frame.has(flag::ACK) => {
                    peer.send_all(&[Frame::settings_ack()]).await
                }
                Event::Frame(_) => Ok(()),
            };
            if answered.is_err() {
                return;
            }
        }
    })
    .await
}

fn address(app: &RawApp) -> SocketAddr {
    app.target().replace("http://", "").parse().unwrap()
}

/// A PING that is not answered says nothing of a server that answers none: it is told of, and serves.
#[tokio::test]
async fn a_server_that_answers_requests_and_no_ping_is_served_with() {
    let app = without_ping(true).await;
    let text = format!(
        "workers = 1\n[backends.site]\nprotocol = \"h2\"\n[backends.site.servers]\none = \"{}\"\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n",
        address(&app)
    );
    let world = World::builder().config(&text).start().await;
    for _ in 0..3 {
        assert_eq!(world.get(HOST, "/").await.status(), 200);
    }
    let said = "server one answers no PING on its HTTP/2 connections, which RFC 9113 §6.7 demands";
    world.gateway.wait_log(&["WARN", said]).await;
    assert_eq!(world.get(HOST, "/").await.status(), 200);
    assert_eq!(app.connections(), 1);
    assert_eq!(world.gateway.logged(&[said]).len(), 1);
    assert!(world.gateway.logged(&["says nothing"]).is_empty());
}

/// What it did say stands in the line.
#[tokio::test]
async fn a_connection_on_which_http2_does_not_come_about_is_told_of_by_what_came() {
    let silent = RawApp::start(|mut reader| async move { reader.closed().await }).await;
    let stuck = without_ping(false).await;
    let other = RawApp::start(|mut reader| async move {
        let _gone = reader.io.write_all(b"\0\0\x04").await;
        reader.closed().await;
    })
    .await;
    for (app, said) in [
        (silent, "said nothing; does it speak HTTP/2 there?"),
        (
            stuck,
            "began HTTP/2, but neither acknowledged our SETTINGS nor answered a PING; is it stuck?",
        ),
        (other, "(00 00 04), but did not begin HTTP/2;"),
    ] {
        let more = "protocol = \"h2\"\nconnect_timeout = \"300ms\"\nretries = 0\n";
        let world = world(&[("one", address(&app))], more).await;
        let answer = world.get(HOST, "/").await;
        assert_eq!(answer.reason(), "backend-unreachable");
        let began = "cannot be reached: within 300ms it took the connection and ";
        world.gateway.wait_log(&[began, said]).await;
    }
}

/// Every place on a connection but one belongs to streams whose visitor reads nothing of a body without an end.
#[tokio::test]
async fn visitors_who_do_not_read_hold_up_nobody_else() {
    const STUCK: usize = 95;
    let bodies = Bodies::default();
    let does = |nth| {
        if nth <= STUCK {
            Does::Pour
        } else {
            Does::Answer
        }
    };
    let peer = Peer::start(100, note(&bodies), does).await;
    let text = format!(
        "workers = 1\n[backends.site]\nprotocol = \"h2\"\n[backends.site.servers]\none = {{ address = \"{}\", max_connections = 1 }}\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n",
        peer.address
    );
    let world = World::builder().config(&text).start().await;
    let tcp = TcpStream::connect(world.visitors).await.unwrap();
    let (mut requests, connection) = client::Builder::new()
        .initial_window_size(0)
        .handshake::<_, Bytes>(tcp)
        .await
        .unwrap();
    let _driver = spawn(async move {
        let _ended = connection.await;
    });
    let mut stuck = Vec::new();
    for _ in 0..STUCK {
        requests = within(SOON, "a place", requests.ready()).await.unwrap();
        let request = Request::get(format!("http://{HOST}/")).body(()).unwrap();
        let (response, _) = requests.send_request(request, true).unwrap();
        stuck.push(within(SOON, "a head", response).await.unwrap());
    }
    for _ in 0..3 {
        let answer = within(SOON, "an answer beside them", world.get(HOST, "/")).await;
        assert_eq!((answer.status(), answer.text()), (200, "ok".to_owned()));
    }
    assert_eq!(peer.connections.load(Relaxed), 1);
}

/// One request at a time, on one connection of one worker: the others wait their turn, those of the other worker too.
#[tokio::test]
async fn those_who_find_no_place_wait_for_one() {
    let bodies = Bodies::default();
    let peer = Peer::start(1, note(&bodies), |_| Does::Answer).await;
    let text = format!(
        "workers = 2\n[backends.site]\nprotocol = \"h2\"\n[backends.site.servers]\none = {{ address = \"{}\", max_connections = 1 }}\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n",
        peer.address
    );
    let world = World::builder().config(&text).start().await;
    uploads(&world, 8, 10).await;
    each_once(&bodies, 80);
    assert_eq!(peer.connections.load(Relaxed), 1);
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_named() {
    let plain = HttpApp::start("plain").await;
    let world = world(
        &[("one", plain.address())],
        "protocol = \"h2\"\nretries = 0",
    )
    .await;
    let answer = world.get(HOST, "/").await;
    assert_eq!(
        (answer.status(), answer.reason()),
        (502, "backend-unreachable")
    );
    world
        .gateway
        .wait_log(&[
            "server one",
            "does not speak HTTP/2 there",
            "leave `protocol` out",
        ])
        .await;
    // Servers that speak first show what they are.
    let speaks_first = RawApp::start(|mut reader| async move {
        reader.io.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        reader.closed().await;
    })
    .await;
    let place: SocketAddr = speaks_first
        .target()
        .trim_start_matches("http://")
        .parse()
        .unwrap();
    let world = self::world(&[("one", place)], "retries = 0").await;
    let answer = world.get(HOST, "/").await;
    assert_eq!(answer.status(), 502);
    world
        .gateway
        .wait_log(&[
            "server one",
            "it speaks HTTP/2 there: write protocol = \"h2\"",
        ])
        .await;
}

/// Checks are made as requests are.
#[tokio::test]
async fn a_check_is_in_http2_as_well() {
    let up = Peer::start(100, |_| (), |_| Does::Answer).await;
    let down = HttpApp::start("plain").await;
    let more = "protocol = \"h2\"\ncheck = { path = \"/up\", interval = \"100ms\", fall = 1 }";
    let servers = [("one", up.address), ("two", down.address())];
    let world = world(&servers, more).await;
    world
        .gateway
        .wait_log(&[
            "server two",
            "is down: a check failed",
            "does not speak HTTP/2",
        ])
        .await;
    for _ in 0..3 {
        assert_eq!(world.get(HOST, "/").await.status(), 200);
    }
    let passed = ["server=\"one\"", "result=\"passed\""];
    eventually(SOON, "three checks passed", async || {
        let metrics = world.metrics().await;
        (metrics.sum("tidegate_backend_checks_total", &passed) >= 3.0).then_some(())
    })
    .await;
}

/// Over TLS both sides say what they speak.
#[tokio::test]
async fn alpn_decides_where_it_is_left_to_it() {
    let app = HttpApp::start("plain").await;
    let direct = format!(
        "[backends.app.servers]\none = \"{}\"\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"app\"\n",
        app.address()
    );
    let inner = World::builder().config(&direct).start().await;
    let ca = inner.pki.ca_file("ca");
    let tls = format!(
        "tls = {{ ca = \"{}\", server_name = \"{HOST}\" }}",
        ca.display()
    );
    for (protocol, version) in [
        ("auto", "HTTP/2"),
        ("h2", "HTTP/2"),
        ("http/1.1", "HTTP/1.1"),
    ] {
        let more = format!("protocol = \"{protocol}\"\n{tls}");
        let world = world(&[("one", inner.visitors_tls)], &more).await;
        let path = format!("/{}", protocol.replace('/', "-"));
        let answer = world.get(HOST, &path).await;
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, "hello from plain\n")
        );
        inner
            .gateway
            .wait_log(&[&format!("\"GET {HOST}{path} {version}\"")])
            .await;
    }
    // One that knows nothing of ALPN is taken to speak HTTP/1.1.
    let shown = inner.pki.server(&[HOST]);
    let without = inner.pki.server_config(&shown, false, &[]);
    let secured = HttpApp::start_tls("secured", without).await;
    let world = world(
        &[("one", secured.address())],
        &format!("protocol = \"auto\"\n{tls}"),
    )
    .await;
    for _ in 0..3 {
        assert_eq!(world.get(HOST, "/").await.text(), "hello from secured\n");
    }
}
