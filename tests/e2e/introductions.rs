//! What a gateway tells its agent of who asked: said in one field to agents that want it, and by nobody but the gateway.

use tidegate_shared::visitor::{self, VISITOR};
use tidegate_tests::conn::Conn;
use tidegate_tests::peers::agent::{RawAgent, answering};
use tidegate_tests::peers::field;
use tidegate_tests::peers::frame::{Frame, setting};
use tidegate_tests::peers::gateway::RawGateway;
use tidegate_tests::pki::Pki;
use tidegate_tests::visitors::Visitor;
use tidegate_tests::world::Builder;
use tidegate_tests::{HOST, World, within};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// The parameter of SETTINGS that two Tidegates know, and the value of one that knows of visitors.
const MARK: (u16, u32) = (0xf744, 0x5447_0001);

/// A tunnel by hand whose agent sends these settings; it answers with the field it was sent.
async fn telling(world: &World, settings: &[(u16, u32)]) -> tidegate_tests::task::Task {
    let identity = world.pki.agent(&[HOST]);
    let settings = Frame::settings(settings);
    let peer = RawAgent::dial_with(world.tunnels, &world.pki, &identity, settings).await;
    let agent = answering(peer, |_, fields| {
        let sent: Vec<&str> = fields
            .iter()
            .filter(|(name, _)| name.starts_with("tidegate-"))
            .map(|(_, value)| value.as_str())
            .collect();
        match field(fields, VISITOR.as_str()) {
            Some(one) if sent == [one] => one.to_owned(),
            None if sent.is_empty() => "nothing".to_owned(),
            _ => format!("more than one: {sent:?}"),
        }
    });
    world
        .wait_filed(HOST, 1, tidegate_tests::eventually::SOON)
        .await;
    agent
}

/// Asks, and says who it is although nobody wants to hear it.
async fn asked(visitor: &mut Visitor) -> String {
    visitor
        .send(format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nTidegate-Visitor: c=1;f=6.6.6.6:6;r=1\r\n\
             tidegate-visitor: c=1;f=6.6.6.6:6;r=1\r\nConnection: tidegate-visitor\r\n\r\n"
        ))
        .await;
    let answer = visitor.answer("GET").await;
    assert_eq!(answer.status(), 200);
    answer.text()
}

fn read(said: &str) -> (visitor::Visitor, Box<str>) {
    visitor::read(said.as_bytes()).unwrap_or_else(|bad| panic!("{bad}: {said}"))
}

#[tokio::test]
async fn an_agent_that_wants_it_is_told_who_asked_and_by_nobody_else() {
    let world = World::start().await;
    let _agent = telling(&world, &[(setting::MAX_CONCURRENT_STREAMS, 100), MARK]).await;
    let tcp = TcpStream::connect(world.visitors).await.unwrap();
    let from = tcp.local_addr().unwrap();
    let mut visitor = Visitor::over(Conn::Plain(tcp));
    let (first, one) = read(&asked(&mut visitor).await);
    assert_eq!(first.from, from);
    assert_eq!(first.to, Some(world.visitors));
    assert_eq!(first.tls, None);
    let (again, two) = read(&asked(&mut visitor).await);
    assert_eq!(again, first, "one connection, one visitor");
    assert_ne!(one, two, "each request has its own id");
    world
        .gateway
        .wait_log(&["access", &one, "status=200"])
        .await;
    world
        .gateway
        .wait_log(&["access", &two, "status=200"])
        .await;
    let (other, _) = read(&asked(&mut world.visitor().await).await);
    assert_ne!(other.connection, first.connection);

    for (alpn, spoken) in [(&["http/1.1"][..], Some(&b"http/1.1"[..])), (&[], None)] {
        let tls = world.visitor_tls(alpn);
        let conn = Conn::tls(world.visitors_tls, HOST, tls).await.unwrap();
        let from = conn.tcp().local_addr().unwrap();
        let (secure, _) = read(&asked(&mut Visitor::over(conn)).await);
        assert_eq!(secure.from, from);
        assert_eq!(secure.to, Some(world.visitors_tls));
        let tls = secure.tls.unwrap();
        assert_eq!(tls.version.as_deref(), Some("TLSv1.3"));
        assert_eq!(tls.server_name.as_deref(), Some(HOST));
        assert_eq!(tls.alpn.as_deref(), spoken);
    }
}

#[tokio::test]
async fn an_agent_that_does_not_ask_is_told_nothing() {
    for settings in [
        &[(setting::MAX_CONCURRENT_STREAMS, 100)][..],
        &[(MARK.0, 1)],
        &[(MARK.0, MARK.1 & !1)],
    ] {
        let world = World::start().await;
        let _agent = telling(&world, settings).await;
        let said = asked(&mut world.visitor().await).await;
        assert_eq!(said, "nothing", "{settings:?}");
    }
}

#[tokio::test]
async fn who_asked_is_whom_a_proxy_header_names() {
    let world = Builder::option(World::builder(), "--visitors-proxy", "required")
        .option("--proxy-from", "127.0.0.1")
        .start()
        .await;
    let _agent = telling(&world, &[MARK]).await;
    let mut tcp = TcpStream::connect(world.visitors).await.unwrap();
    tcp.write_all(b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n")
        .await
        .unwrap();
    let (told, _) = read(&asked(&mut Visitor::over(Conn::Plain(tcp))).await);
    assert_eq!(told.from, "[2001:db8::7]:56324".parse().unwrap());
    assert_eq!(told.to, Some("[2001:db8::1]:443".parse().unwrap()));
}

#[tokio::test]
async fn a_gateway_says_that_it_is_one() {
    let world = World::start().await;
    let identity = world.pki.agent(&[HOST]);
    let conn = RawAgent::connect(world.tunnels, &world.pki, Some(&identity)).await;
    let mut peer = tidegate_tests::peers::Peer::over(conn.unwrap());
    let opening = [
        tidegate_tests::peers::frame::PREFACE.as_slice(),
        &RawAgent::settings().encode(),
    ]
    .concat();
    peer.write(&opening).await.unwrap();
    let settings = within(
        tidegate_tests::eventually::SOON,
        "the gateway's SETTINGS",
        peer.frame(),
    )
    .await
    .unwrap();
    let marks = entries(&settings.payload);
    assert_eq!(marks.last(), Some(&MARK), "{marks:x?}");
    assert_eq!(
        marks.iter().filter(|(id, _)| *id == MARK.0).count(),
        1,
        "{marks:x?}"
    );
}

fn entries(payload: &[u8]) -> Vec<(u16, u32)> {
    let entry = |six: &[u8]| {
        (
            u16::from_be_bytes([six[0], six[1]]),
            u32::from_be_bytes([six[2], six[3], six[4], six[5]]),
        )
    };
    payload.chunks_exact(6).map(entry).collect()
}

#[tokio::test]
async fn an_agent_without_the_wish_does_not_say_it() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let gateway = RawGateway::listen(&pki, &pki.server(&["localhost"])).await;
    let address = format!("localhost:{}", gateway.address().port());
    let _agent = tidegate_tests::world::launch_agent(
        &[],
        &address,
        &pki.agent(&[HOST]),
        &pki.ca_file("ca"),
        "3000",
        &["--tunnels", "1"],
    );
    let (_peer, settings) = gateway.opening().await;
    let said = entries(&settings.payload);
    assert!(said.iter().all(|(id, _)| *id != MARK.0), "{said:x?}");
}
