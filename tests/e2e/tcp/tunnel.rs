//! A listener in TCP mode: octets through a tunnel to an app that may speak anything.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tidegate_tests::apps::{AbsentApp, Doorman, HttpApp};
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::haproxy::free_ports;
use tidegate_tests::nginx::nginx;
use tidegate_tests::task::spawn;
use tidegate_tests::world::Builder;
use tidegate_tests::{World, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{BY_NAME, echo, floods, rest};

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
    floods(visitor, app, 24_000_001, 16_000_003).await;
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
    // Reset as soon as it is there, which may be before it is told so.
    if let Ok(mut visitor) = TcpStream::connect(pg).await {
        assert!(rest(&mut visitor).await.is_err());
    }
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
    // Reset as soon as it is there, which may be before it is told so.
    if let Ok(mut visitor) = TcpStream::connect(world.gateway.address("pg").unwrap()).await {
        assert!(rest(&mut visitor).await.is_err());
    }
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
    let cut = ["WARN", "stopped after", "TCP mode that were cut: 1"];
    scene.world.gateway.wait_log(&cut).await;
    assert!(scene.world.gateway.ended(SOON).await.success());
}

#[tokio::test]
async fn silence_is_not_for_ever() {
    let config = format!("{LISTENER}\nidle_timeout = \"400ms\"\n");
    let scene = scene(World::builder().config(&config)).await;
    let (mut visitor, mut app) = scene.connected().await;
    assert!(rest(&mut visitor).await.is_err());
    assert!(rest(&mut app).await.is_err());
    let line = scene.line("idle").await;
    assert!(
        line.contains(" ended=idle timeout=listeners.pg.idle_timeout:400ms in=0 "),
        "{line}"
    );
}

/// Once one side has ended, the other one's silence is shorter; what it says counts.
#[tokio::test]
async fn a_side_that_has_ended_waits_less_long_for_a_silent_one() {
    let config = format!("{LISTENER}\nhalf_closed_timeout = \"500ms\"\n");
    let scene = scene(World::builder().config(&config)).await;
    let (mut stays, mut there) = scene.greeted().await;
    let (mut visitor, mut app) = scene.greeted().await;
    visitor.shutdown().await.unwrap();
    assert_eq!(rest(&mut app).await.unwrap(), b"");
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(150));
    for _ in 0..6 {
        ticks.tick().await;
        app.write_all(b".").await.unwrap();
        let mut heard = [0];
        within(SOON, "an octet", visitor.read_exact(&mut heard))
            .await
            .unwrap();
    }
    assert!(rest(&mut visitor).await.is_err(), "it breaks off");
    let line = scene.line("half-closed").await;
    assert!(
        line.contains(" timeout=listeners.pg.half_closed_timeout:500ms in=0 out=7 "),
        "{line}"
    );
    // One that is silent, and that nobody has ended, has its own time.
    stays.write_all(b"?").await.unwrap();
    within(SOON, "an octet", there.read_exact(&mut [0]))
        .await
        .unwrap();
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

/// The agent tells its app whose connection it is, and what TLS asks for that nobody on the way ends.
#[tokio::test]
async fn an_app_that_expects_a_header_is_told_who_comes() {
    let config = BY_NAME.replace("OTHERWISE", "tunnel = \"rest.test\"");
    let world = World::builder().config(&config).start().await;
    let tls = world.gateway.address("tls").unwrap();
    let server = world
        .pki
        .server_config(&world.pki.server(&["one.test"]), false, &[]);
    let (app, _app) = echo("one", server).await;
    let doorman = Doorman::before(app.parse().unwrap()).await;
    let target = doorman.port().to_string();
    let _agent = world
        .tcp_agent("one.test", &target, &["--proxy-protocol", "v2"])
        .await;
    let client = world.pki.client(None, &[]);
    let mut visitor = Conn::tls(tls, "one.test", client).await.unwrap();
    visitor.shutdown().await.unwrap();
    assert_eq!(rest(&mut visitor).await.unwrap(), b"one");
    let told = doorman.greeted().remove(0).header;
    let pair = told.ends.pair().unwrap();
    let from = visitor.tcp().local_addr().unwrap();
    assert_eq!((pair.source(), pair.destination()), (from, tls));
    assert_eq!(told.tlvs.authority(), Some("one.test"));
    assert!(told.tlvs.ssl().is_none(), "nobody has ended it");
    let id = String::from_utf8(told.tlvs.unique_id().unwrap().to_vec()).unwrap();
    drop(visitor);
    world.gateway.wait_log(&[&id, "to=one.test"]).await;
    // Version 1, to one who says nothing of TLS.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = plain.local_addr().unwrap().to_string();
    let _rest = world
        .tcp_agent("rest.test", &target, &["--proxy-protocol", "v1"])
        .await;
    let mut visitor = TcpStream::connect(tls).await.unwrap();
    visitor.write_all(b"hello").await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut at_app = within(SOON, "the app", plain.accept()).await.unwrap().0;
    let from = visitor.local_addr().unwrap().port();
    let meant = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {from} {}\r\nhello",
        tls.port()
    );
    assert_eq!(rest(&mut at_app).await.unwrap(), meant.as_bytes());
}

/// An app that takes no header and one that misses it close without a word: the agent says so.
#[tokio::test]
async fn an_agent_names_an_app_that_a_header_does_not_fit() {
    let world = gateway().start().await;
    let pg = world.gateway.address("pg").unwrap();
    let ask = async || {
        let mut visitor = TcpStream::connect(pg).await.unwrap();
        visitor.write_all(b"hello").await.unwrap();
        let _ended = rest(&mut visitor).await;
    };
    let server = world
        .pki
        .server_config(&world.pki.server(&["one.test"]), false, &[]);
    let (app, _app) = echo("tls", server).await;
    let mut told = world
        .tcp_agent(NAME, &app, &["--proxy-protocol", "v2"])
        .await;
    ask().await;
    let line = told
        .wait_log(&["WARN", "PROXY v2 header that comes first"])
        .await;
    assert!(line.contains("leave --proxy-protocol out"), "{line}");
    told.kill().await;
    world.wait_filed(NAME, 0, SOON).await;
    let doorman = Doorman::before(app.parse().unwrap()).await;
    let target = doorman.port().to_string();
    let untold = world.tcp_agent(NAME, &target, &[]).await;
    ask().await;
    untold
        .wait_log(&["WARN", "if it expects a PROXY header, add --proxy-protocol"])
        .await;
}

/// One that takes a header for a request says 400 to everybody.
#[tokio::test]
async fn an_agent_names_an_app_that_takes_a_header_for_a_request() {
    let world = gateway().start().await;
    let pg = world.gateway.address("pg").unwrap();
    let plain = free_ports().await.visitors;
    let Some(_nginx) = nginx(world.dir(), plain, "").await else {
        return;
    };
    let target = plain.to_string();
    let options = ["--proxy-protocol", "v2"];
    let agent = world.tcp_agent(NAME, &target, &options).await;
    for _ in 0..3 {
        let mut visitor = TcpStream::connect(pg).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
        visitor.write_all(request).await.unwrap();
        let answer = rest(&mut visitor).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 400"));
    }
    let words = [
        "WARN",
        "nothing but 400 yet",
        "may not expect the PROXY v2 header that comes first",
    ];
    agent.wait_log(&words).await;
    assert_eq!(agent.logged(&words).len(), 1, "{:?}", agent.log());
}

/// A balancer's header that this gateway does not read goes to the app with the rest, and is told of.
#[tokio::test]
async fn a_header_that_goes_through_unread_names_itself() {
    let world = gateway().start().await;
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = app.local_addr().unwrap().to_string();
    let _agent = world.tcp_agent(NAME, &target, &[]).await;
    let pg = world.gateway.address("pg").unwrap();
    let mut balancer = TcpStream::connect(pg).await.unwrap();
    let said = b"PROXY TCP4 192.0.2.7 192.0.2.9 4242 5432\r\nhello";
    balancer.write_all(said).await.unwrap();
    balancer.shutdown().await.unwrap();
    let mut at_app = within(SOON, "the app", app.accept()).await.unwrap().0;
    assert_eq!(rest(&mut at_app).await.unwrap(), said);
    drop(at_app);
    let _ended = rest(&mut balancer).await;
    let words = [
        "WARN",
        "listener=pg",
        "got a PROXY v1 header: none is read here",
        "listeners.pg.proxy = \"required\" (",
    ];
    world.gateway.wait_log(&words).await;
}
