//! A listener in TCP mode: octets through a tunnel to an app that may speak anything, untouched; TLS divided by the name that its
//! visitors ask for; one line for each connection, however it ended.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tidegate_tests::apps::{AbsentApp, HttpApp};
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::haproxy::{self, Haproxy};
use tidegate_tests::task::{Task, Tasks, spawn};
use tidegate_tests::visitors::curl::curl;
use tidegate_tests::world::Builder;
use tidegate_tests::{World, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const NAME: &str = "db.test";

const LISTENER: &str = r#"
    [listeners.pg]
    address = "127.0.0.1:0"
    mode = "tcp"
    tunnel = "db.test"
"#;

/// A gateway whose listener `pg` leads to the agents of [`NAME`].
fn gateway() -> Builder {
    World::builder().config(LISTENER)
}

/// An app that the test answers for, and an agent in front of it.
struct Scene {
    world: World,
    app: TcpListener,
    agent: tidegate_tests::program::Program,
    pg: SocketAddr,
}

async fn scene(gateway: Builder) -> Scene {
    let world = gateway.start().await;
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = app.local_addr().unwrap().to_string();
    let agent = world.tcp_agent(NAME, &target, &[]).await;
    let pg = world.gateway.address("pg").unwrap();
    Scene {
        world,
        app,
        agent,
        pg,
    }
}

impl Scene {
    /// A visitor, and its connection as the app sees it.
    async fn connected(&self) -> (TcpStream, TcpStream) {
        let visitor = TcpStream::connect(self.pg).await.unwrap();
        let accepted = within(SOON, "the app's connection", self.app.accept()).await;
        (visitor, accepted.unwrap().0)
    }

    /// The same, when the way is open from end to end.
    async fn greeted(&self) -> (TcpStream, TcpStream) {
        let (mut visitor, mut app) = self.connected().await;
        app.write_all(b"!").await.unwrap();
        within(SOON, "the greeting", visitor.read_exact(&mut [0]))
            .await
            .unwrap();
        (visitor, app)
    }

    /// The line of the one connection that ended so.
    async fn line(&self, ended: &str) -> String {
        let words = [" access ", " tcp listener=pg ", &format!("ended={ended} ")];
        self.world.gateway.wait_log(&words).await
    }
}

async fn rest<R: AsyncReadExt + Unpin>(reader: &mut R) -> std::io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    within(SOON, "the end", reader.read_to_end(&mut octets)).await?;
    Ok(octets)
}

/// Octets of which no two places look alike.
fn pattern(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_and_each_way_closes_for_itself() {
    let scene = scene(gateway()).await;
    let (mut visitor, mut app) = scene.connected().await;
    app.write_all(b"220 ready\r\n").await.unwrap();
    let mut greeting = [0; 11];
    within(SOON, "the greeting", visitor.read_exact(&mut greeting))
        .await
        .unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    visitor.write_all(b"question").await.unwrap();
    visitor.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await.unwrap(), b"question");
    app.write_all(b"answer").await.unwrap();
    drop(app);
    assert_eq!(rest(&mut visitor).await.unwrap(), b"answer");
    let address = visitor.local_addr().unwrap().to_string();
    drop(visitor);
    let line = scene.line("closed").await;
    assert!(
        line.contains(&format!(
            " {address} tcp listener=pg sni=- to=db.test name=db.test agent="
        )),
        "{line}"
    );
    assert!(line.contains(" in=8 out=17 accept="), "{line}");
    let metrics = scene.world.metrics().await;
    let of = |metric: &str, labels: &[&str]| metrics.sum(metric, labels);
    let pg = "listener=\"pg\"";
    assert_eq!(
        of("tidegate_tcp_connections_total", &[pg, "ended=\"closed\""]),
        1.0
    );
    assert_eq!(of("tidegate_tcp_connections_total", &[pg]), 1.0);
    assert_eq!(
        of("tidegate_tcp_octets_total", &[pg, "direction=\"in\""]),
        8.0
    );
    assert_eq!(
        of("tidegate_tcp_octets_total", &[pg, "direction=\"out\""]),
        17.0
    );
    assert_eq!(of("tidegate_tcp_open", &[pg]), 0.0);
    eventually(SOON, "its place is free again", async || {
        (scene.world.streams(NAME).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_octet_of_a_large_transfer_arrives_both_ways_at_once() {
    let scene = scene(gateway()).await;
    let (visitor, app) = scene.connected().await;
    let (up, down) = (pattern(1, 24_000_001), pattern(2, 16_000_003));
    let talk = |stream: TcpStream, says: Vec<u8>| async move {
        let (mut reader, mut writer) = stream.into_split();
        let writing = async {
            writer.write_all(&says).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let (read, ()) = tokio::join!(reader.read_to_end(&mut heard), writing);
        read.unwrap();
        heard
    };
    let both = async { tokio::join!(talk(visitor, up.clone()), talk(app, down.clone())) };
    let (at_visitor, at_app) = within(Duration::from_secs(60), "both transfers", both).await;
    assert!(at_visitor == down && at_app == up);
    let line = scene.line("closed").await;
    assert!(line.contains(" in=24000001 out=16000003 "), "{line}");
}

#[tokio::test]
async fn a_reset_stays_one_and_says_whose_it_was() {
    let scene = scene(gateway()).await;
    let (visitor, mut app) = scene.greeted().await;
    Conn::Plain(visitor).reset();
    let read = within(SOON, "the app sees it", app.read(&mut [0])).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    scene.line("visitor-reset").await;
    let (mut visitor, app) = scene.greeted().await;
    Conn::Plain(app).reset();
    let read = within(SOON, "the visitor sees it", visitor.read(&mut [0])).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    scene.line("server-reset").await;
}

#[tokio::test]
async fn a_killed_agent_breaks_its_connections_off_and_the_next_ones_are_told() {
    let mut scene = scene(gateway().option("--hold", "0")).await;
    let (mut visitor, _app) = scene.greeted().await;
    scene.agent.kill().await;
    let read = within(SOON, "the visitor sees it", visitor.read(&mut [0])).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    scene.line("tunnel-lost").await;
    scene.world.wait_filed(NAME, 0, SOON).await;
    // Reset as soon as it is there, which may be before it is told so.
    if let Ok(mut visitor) = TcpStream::connect(scene.pg).await {
        assert!(rest(&mut visitor).await.is_err());
    }
    scene.line("agent-gone").await;
}

#[tokio::test]
async fn an_app_that_is_not_there_is_in_the_line() {
    let world = gateway().start().await;
    let absent = AbsentApp::new();
    let _agent = world
        .tcp_agent(NAME, &absent.address().to_string(), &[])
        .await;
    let pg = world.gateway.address("pg").unwrap();
    let mut visitor = TcpStream::connect(pg).await.unwrap();
    assert!(rest(&mut visitor).await.is_err());
    world
        .gateway
        .wait_log(&["ended=app-unreachable in=0 out=0"])
        .await;
}

#[tokio::test]
async fn agents_of_the_other_kind_are_told_apart() {
    let world = gateway().start().await;
    let (http, tcp) = (
        HttpApp::start("blog").await,
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let _http = world.agent(NAME, http.target()).await;
    let mut visitor = TcpStream::connect(world.gateway.address("pg").unwrap())
        .await
        .unwrap();
    assert!(rest(&mut visitor).await.is_err());
    world.gateway.wait_log(&["ended=connect-unsupported"]).await;
    let told = world
        .gateway
        .wait_log(&["WARN", "start it with `tidegate tcp`"])
        .await;
    assert!(told.contains("the agent of db.test serves HTTP"), "{told}");
    let target = tcp.local_addr().unwrap().to_string();
    let _tcp = world.tcp_agent("blog.test", &target, &[]).await;
    let answer = world.get("blog.test", "/").await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.reason(), "tcp-only");
}

#[tokio::test]
async fn who_does_not_read_holds_up_nobody_else() {
    let scene = scene(gateway()).await;
    let (visitor, mut app) = scene.greeted().await;
    // More than the windows and the sockets on the way can hold.
    let flood = spawn(async move {
        let chunk = vec![0; 1 << 20];
        while app.write_all(&chunk).await.is_ok() {}
    });
    let before = scene.world.gateway.resident_kib();
    for turn in 0..50_u32 {
        let (mut other, mut app) = scene.connected().await;
        let said = turn.to_be_bytes();
        other.write_all(&said).await.unwrap();
        other.shutdown().await.unwrap();
        assert_eq!(rest(&mut app).await.unwrap(), said);
        drop(app);
        assert!(rest(&mut other).await.unwrap().is_empty());
    }
    let grown = scene.world.gateway.resident_kib().saturating_sub(before);
    assert!(grown < 96 * 1024, "{grown} KiB for one who does not read");
    assert!(!flood.is_finished());
    Conn::Plain(visitor).reset();
    scene.line("visitor-reset").await;
}

#[tokio::test]
async fn what_is_open_may_finish_when_the_gateway_stops_and_is_cut_in_the_end() {
    let mut scene = scene(gateway().option("--drain", "2s")).await;
    let (mut visitor, mut app) = scene.greeted().await;
    let (mut stays, _stays) = scene.greeted().await;
    scene.world.gateway.terminate();
    scene.world.gateway.wait_log(&["stopping"]).await;
    eventually(SOON, "nobody listens any more", async || {
        TcpStream::connect(scene.pg).await.is_err().then_some(())
    })
    .await;
    visitor.write_all(b"still here").await.unwrap();
    visitor.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await.unwrap(), b"still here");
    drop(app);
    assert!(rest(&mut visitor).await.unwrap().is_empty());
    scene.line("closed").await;
    assert!(rest(&mut stays).await.is_err(), "it breaks off");
    scene.line("draining").await;
    assert!(scene.world.gateway.ended(SOON).await.success());
}

#[tokio::test]
async fn silence_is_not_for_ever() {
    let config = format!("{LISTENER}\nidle_timeout = \"400ms\"\n");
    let scene = scene(World::builder().config(&config)).await;
    let (mut visitor, mut app) = scene.connected().await;
    assert!(rest(&mut visitor).await.is_err());
    assert!(rest(&mut app).await.is_err());
    scene.line("idle").await;
}

#[tokio::test]
async fn a_connection_beyond_a_limit_has_its_line_too() {
    let limits = gateway().option("--max-visitors-per-source", "1");
    let scene = scene(limits).await;
    let (_visitor, _app) = scene.connected().await;
    let mut more = TcpStream::connect(scene.pg).await.unwrap();
    let _closed = rest(&mut more).await;
    scene.line("too-many-connections").await;
}

#[tokio::test]
async fn a_proxy_header_says_whose_connection_it_is() {
    let config = format!("{LISTENER}\nproxy = \"required\"\nproxy_from = [\"127.0.0.1\"]\n");
    let scene = scene(World::builder().config(&config)).await;
    let mut visitor = TcpStream::connect(scene.pg).await.unwrap();
    visitor
        .write_all(b"PROXY TCP4 192.0.2.7 192.0.2.9 4242 5432\r\nhello")
        .await
        .unwrap();
    visitor.shutdown().await.unwrap();
    let mut app = within(SOON, "the app", scene.app.accept()).await.unwrap().0;
    assert_eq!(rest(&mut app).await.unwrap(), b"hello");
    drop(app);
    assert!(rest(&mut visitor).await.unwrap().is_empty());
    let line = scene.line("closed").await;
    assert!(line.contains(" 192.0.2.7:4242 tcp "), "{line}");
}

#[tokio::test]
async fn a_line_is_an_object_where_logs_are() {
    let scene = scene(gateway().option("--log", "json")).await;
    let (mut visitor, app) = scene.connected().await;
    drop(app);
    assert!(rest(&mut visitor).await.unwrap().is_empty());
    drop(visitor);
    let line = scene
        .world
        .gateway
        .wait_log(&["\"protocol\":\"tcp\""])
        .await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (line["kind"].as_str(), line["ended"].as_str()),
        (Some("access"), Some("closed"))
    );
    assert_eq!(
        (line["listener"].as_str(), line["name"].as_str()),
        (Some("pg"), Some(NAME))
    );
    assert!(
        line["open_ms"].is_number() && line["sni"].is_null(),
        "{line}"
    );
}

/// A TLS server that says its name to everybody, and then what it hears.
async fn echo(name: &'static str, config: Arc<ServerConfig>) -> (String, Task) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = spawn(async move {
        let mut running = Tasks::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let config = Arc::clone(&config);
            running.spawn(async move {
                let Ok(mut conn) = Conn::accept_tls(tcp, config).await else {
                    return;
                };
                let _gone = conn.write_all(name.as_bytes()).await;
                let (mut reader, mut writer) = tokio::io::split(conn);
                let _gone = tokio::io::copy(&mut reader, &mut writer).await;
                let _gone = writer.shutdown().await;
            });
        }
    });
    (address, task)
}

/// Passes what a visitor writes on in records of so many octets, each in a segment of its own.
async fn shredded(to: SocketAddr, each: usize) -> (SocketAddr, Task) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = spawn(async move {
        let (visitor, _) = listener.accept().await.unwrap();
        let gateway = TcpStream::connect(to).await.unwrap();
        gateway.set_nodelay(true).unwrap();
        let (mut from_gateway, mut to_gateway) = gateway.into_split();
        let (mut from_visitor, mut to_visitor) = visitor.into_split();
        let up = async {
            let mut head = [0; 5];
            from_visitor.read_exact(&mut head).await.unwrap();
            let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            from_visitor.read_exact(&mut hello).await.unwrap();
            for part in hello.chunks(each) {
                let length = u16::try_from(part.len()).unwrap().to_be_bytes();
                to_gateway.write_all(&[22, 3, 1]).await.unwrap();
                tokio::task::yield_now().await;
                to_gateway
                    .write_all(&[&length, part].concat())
                    .await
                    .unwrap();
                tokio::task::yield_now().await;
            }
            let _gone = tokio::io::copy(&mut from_visitor, &mut to_gateway).await;
            let _gone = to_gateway.shutdown().await;
        };
        let down = async {
            let _gone = tokio::io::copy(&mut from_gateway, &mut to_visitor).await;
            let _gone = to_visitor.shutdown().await;
        };
        tokio::join!(up, down);
    });
    (address, task)
}

const BY_NAME: &str = r#"
    [listeners.tls]
    address = "127.0.0.1:0"
    mode = "tcp"
    hello_timeout = "1s"
    OTHERWISE
    [[routes]]
    sni = "one.test"
    tunnel = "one.test"
    [[routes]]
    sni = "*.two.test"
    tunnel = "two.test"
"#;

#[tokio::test]
async fn tls_goes_where_its_server_name_leads_and_is_ended_there() {
    let config = BY_NAME.replace("OTHERWISE", "tunnel = \"rest.test\"");
    let world = World::builder().config(&config).start().await;
    let tls = world.gateway.address("tls").unwrap();
    let names = ["one.test", "a.two.test", "elsewhere.test"];
    let server = world
        .pki
        .server_config(&world.pki.server(&names), false, &["echo"]);
    let mut running = Vec::new();
    for name in ["one.test", "two.test", "rest.test"] {
        let (address, app) = echo(name, Arc::clone(&server)).await;
        running.push((
            app,
            world.tcp_agent(name, &address, &["--tunnels", "1"]).await,
        ));
    }
    let client = world.pki.client(None, &["echo"]);
    let through = async |to: SocketAddr, asks: &str, answers: &str| {
        let mut visitor = within(
            SOON,
            "a handshake",
            Conn::tls(to, asks, Arc::clone(&client)),
        )
        .await
        .unwrap();
        assert_eq!(
            visitor.alpn().as_deref(),
            Some(&b"echo"[..]),
            "it is the app's TLS"
        );
        visitor.write_all(b"!").await.unwrap();
        visitor.shutdown().await.unwrap();
        let heard = rest(&mut visitor).await.unwrap();
        assert_eq!(
            String::from_utf8(heard).unwrap(),
            format!("{answers}!"),
            "{asks}"
        );
    };
    for (asks, answers) in [
        ("one.test", "one.test"),
        ("ONE.test", "one.test"),
        ("a.two.test", "two.test"),
        ("elsewhere.test", "rest.test"),
    ] {
        through(tls, asks, answers).await;
    }
    for each in [1, 7, 100] {
        let (address, _shredding) = shredded(tls, each).await;
        through(address, "one.test", "one.test").await;
    }
    let line = world
        .gateway
        .wait_log(&["listener=tls sni=a.two.test to=two.test", "ended=closed"])
        .await;
    assert!(line.contains("name=two.test"), "{line}");
}

#[tokio::test]
async fn curl_reaches_an_https_app_through_both() {
    let config = BY_NAME.replace("OTHERWISE", "");
    let world = World::builder().config(&config).start().await;
    let identity = world.pki.server(&["one.test"]);
    let tls = world.pki.server_config(&identity, false, &["http/1.1"]);
    let app = HttpApp::start_tls("secret", tls).await;
    let target = app.target().trim_start_matches("https://").to_owned();
    let _agent = world.tcp_agent("one.test", &target, &[]).await;
    let port = world.gateway.address("tls").unwrap().port();
    let (resolve, url) = (
        format!("one.test:{port}:127.0.0.1"),
        format!("https://one.test:{port}/hello"),
    );
    let ca = world.pki.ca_file("ca");
    let args = [
        "--resolve",
        &resolve,
        "--cacert",
        ca.to_str().unwrap(),
        &url,
    ];
    let Some(finished) = curl(&args).await else {
        return;
    };
    assert_eq!(
        finished.stdout, "hello from secret\n",
        "{}",
        finished.stderr
    );
}

#[tokio::test]
async fn what_no_route_wants_is_told_so_in_tls_words_or_goes_to_the_listeners_own() {
    let config = BY_NAME.replace("OTHERWISE", "");
    let world = World::builder().config(&config).start().await;
    let tls = world.gateway.address("tls").unwrap();
    let refused = Conn::tls(tls, "elsewhere.test", world.pki.client(None, &[])).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.to_lowercase().contains("unrecognisedname"), "{said}");
    world
        .gateway
        .wait_log(&["sni=elsewhere.test", "ended=no-route"])
        .await;
    let said = async |octets: &[u8], leaves: bool| {
        let mut visitor = TcpStream::connect(tls).await.unwrap();
        visitor.write_all(octets).await.unwrap();
        if leaves {
            visitor.shutdown().await.unwrap();
        }
        rest(&mut visitor).await.unwrap_or_default()
    };
    let contradiction = [&[22, 3, 1, 0, 5, 1, 0, 0, 1][..], &[3]].concat();
    assert_eq!(said(&contradiction, false).await, [21, 3, 3, 0, 2, 2, 50]);
    world.gateway.wait_log(&["ended=bad-hello"]).await;
    assert!(said(b"GET / HTTP/1.1\r\n\r\n", false).await.is_empty());
    world.gateway.wait_log(&["ended=not-tls"]).await;
    assert!(said(&[22, 3, 1], true).await.is_empty());
    world.gateway.wait_log(&["ended=visitor-gone"]).await;
    assert!(said(&[22, 3, 1], false).await.is_empty());
    world.gateway.wait_log(&["ended=hello-timeout"]).await;
    // Where the listener has a target of its own, what is no TLS goes there, and so does silence when its time is over.
    let config = BY_NAME.replace("OTHERWISE", "tunnel = \"rest.test\"");
    let world = World::builder().config(&config).start().await;
    let tls = world.gateway.address("tls").unwrap();
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = app.local_addr().unwrap().to_string();
    let _agent = world.tcp_agent("rest.test", &target, &[]).await;
    for says in [&b"plain"[..], b""] {
        let mut visitor = TcpStream::connect(tls).await.unwrap();
        visitor.write_all(says).await.unwrap();
        let mut at_app = within(SOON, "the app", app.accept()).await.unwrap().0;
        at_app.write_all(b"220").await.unwrap();
        let mut greeting = [0; 3];
        visitor.read_exact(&mut greeting).await.unwrap();
        visitor.shutdown().await.unwrap();
        assert_eq!(rest(&mut at_app).await.unwrap(), says);
    }
}

/// A gateway whose listener `pg` leads to servers that it dials.
fn dialling(servers: &[SocketAddr], more: &str) -> Builder {
    let servers: Vec<String> = servers.iter().map(|at| format!("\"{at}\"")).collect();
    let servers = servers.join(", ");
    World::builder().config(&format!(
        "[listeners.pg]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nservers = [{servers}]\n{more}"
    ))
}

#[tokio::test]
async fn a_server_is_dialled_and_one_that_is_not_there_is_passed_over() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (absent, there) = (AbsentApp::new(), app.local_addr().unwrap());
    let world = dialling(&[absent.address(), there], "").start().await;
    let pg = world.gateway.address("pg").unwrap();
    let (up, down) = (pattern(3, 24_000_001), pattern(4, 24_000_001));
    for turn in 0..2 {
        let visitor = TcpStream::connect(pg).await.unwrap();
        let at_app = within(SOON, "the app's connection", app.accept())
            .await
            .unwrap()
            .0;
        let talk = |stream: TcpStream, says: Vec<u8>| async move {
            let (mut reader, mut writer) = stream.into_split();
            let writing = async {
                writer.write_all(&says).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let mut heard = Vec::new();
            let (read, ()) = tokio::join!(reader.read_to_end(&mut heard), writing);
            read.unwrap();
            heard
        };
        let both = async { tokio::join!(talk(visitor, up.clone()), talk(at_app, down.clone())) };
        let (at_visitor, at_app) = within(Duration::from_secs(60), "both transfers", both).await;
        assert!(at_visitor == down && at_app == up);
        let attempts = if turn == 0 {
            " attempts=2 "
        } else {
            " accept="
        };
        let server = format!("server={there} ended=closed in=24000001 out=24000001{attempts}");
        world.gateway.wait_log(&["listener=pg", &server]).await;
    }
    let only_absent = dialling(&[absent.address()], "").start().await;
    let mut visitor = TcpStream::connect(only_absent.gateway.address("pg").unwrap())
        .await
        .unwrap();
    assert!(rest(&mut visitor).await.is_err());
    only_absent
        .gateway
        .wait_log(&["ended=server-unreachable"])
        .await;
    let absent = absent.address().to_string();
    let words = [
        "WARN",
        &absent,
        "cannot be reached",
        "the next one is tried",
    ];
    world.gateway.wait_log(&words).await;
}

#[tokio::test]
async fn a_dialled_servers_reset_stays_one_and_so_does_the_visitors() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = dialling(&[app.local_addr().unwrap()], "").start().await;
    let pg = world.gateway.address("pg").unwrap();
    let mut visitor = TcpStream::connect(pg).await.unwrap();
    let mut at_app = within(SOON, "the app", app.accept()).await.unwrap().0;
    at_app.write_all(b"!").await.unwrap();
    visitor.read_exact(&mut [0]).await.unwrap();
    Conn::Plain(at_app).reset();
    let read = within(SOON, "the visitor sees it", visitor.read(&mut [0])).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    world.gateway.wait_log(&["ended=server-reset"]).await;
    let mut visitor = TcpStream::connect(pg).await.unwrap();
    let mut at_app = within(SOON, "the app", app.accept()).await.unwrap().0;
    at_app.write_all(b"!").await.unwrap();
    visitor.read_exact(&mut [0]).await.unwrap();
    Conn::Plain(visitor).reset();
    let read = within(SOON, "the app sees it", at_app.read(&mut [0])).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    world.gateway.wait_log(&["ended=visitor-reset"]).await;
}

/// The chain of a site whose TLS ends at servers that are told of the visitor by the PROXY protocol.
#[tokio::test]
async fn tls_by_name_to_a_haproxy_that_takes_a_proxy_header() {
    let Some(haproxy) = haproxy::available() else {
        return;
    };
    let to = haproxy::free_ports().await.visitors;
    let servers = format!("servers = [\"{to}\"]\nsend_proxy = \"v2\"");
    let config = BY_NAME
        .replace("OTHERWISE", "")
        .replacen("tunnel = \"one.test\"", &servers, 1);
    let world = World::builder().config(&config).start().await;
    let identity = world.pki.server(&["one.test"]);
    let body = format!(
        "frontend pages\n\
         \x20   bind {to} accept-proxy ssl crt {} alpn http/1.1\n\
         \x20   http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]\"\n",
        identity.display()
    );
    let started = Haproxy::start(&haproxy, world.dir(), "haproxy-pages", &body);
    started.listening(to).await;
    let tls = world.gateway.address("tls").unwrap();
    let client = world.pki.client(None, &["http/1.1"]);
    let mut visitor = within(SOON, "a handshake", Conn::tls(tls, "one.test", client))
        .await
        .unwrap();
    visitor
        .write_all(b"GET / HTTP/1.1\r\nHost: one.test\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let answer = String::from_utf8(rest(&mut visitor).await.unwrap()).unwrap();
    let from = visitor.tcp().local_addr().unwrap();
    let told = format!("{from} {} one.test ", tls.port());
    assert!(answer.contains(&told), "{answer}; expected {told}");
    drop(visitor);
    let line = world.gateway.wait_log(&["sni=one.test", "ended="]).await;
    let id = line.split_whitespace().nth(2).unwrap();
    assert!(answer.contains(id), "{answer}; the line has {id}");
}

/// The incident: a header goes to the port that expects none, and all that the visitor sees is a connection that closes.
#[tokio::test]
async fn a_header_that_a_server_does_not_expect_names_itself() {
    let world = World::start().await;
    let server = world
        .pki
        .server_config(&world.pki.server(&["one.test"]), false, &[]);
    let (address, _app) = echo("tls", server).await;
    let address = address.parse().unwrap();
    let gateway = dialling(&[address], "send_proxy = \"v2\"\n").start().await;
    let pg = gateway.gateway.address("pg").unwrap();
    let refused = Conn::tls(pg, "one.test", world.pki.client(None, &[])).await;
    assert!(refused.is_err());
    let told = gateway
        .gateway
        .wait_log(&["WARN", "closed at once after our PROXY v2 header"])
        .await;
    assert!(
        told.contains(&format!("server={address}")) && told.contains("`send_proxy`"),
        "{told}"
    );
    let metrics = gateway.metrics().await;
    assert_eq!(
        metrics.sum(
            "tidegate_tcp_proxy_header_refused_total",
            &["listener=\"pg\""]
        ),
        1.0
    );
}
