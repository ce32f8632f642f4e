//! nginx at either side of the PROXY protocol. It takes both versions, from requests (`listen … proxy_protocol` of its `http`) and
//! from connections (of its `stream`). It sends version 1 alone: `proxy_protocol` of its `stream` is on or off, and its `http`
//! sends none (so in 1.22.1, and in its documentation of 2026).

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::haproxy::free_ports;
use tidegate_tests::nginx::{nginx, stream};
use tidegate_tests::program::Program;
use tidegate_tests::visitors::Visitor;
use tidegate_tests::world::Builder;
use tidegate_tests::{HOST, Site, World, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// What a `stream` answers that takes a header: from where the visitor came, and to where.
const TOLD: &str = "return \"$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port\";";

/// The visitors of these tests, so that their address is nobody else's.
const VISITOR: [u8; 4] = [127, 0, 0, 7];

async fn visitor(to: SocketAddr) -> (TcpStream, SocketAddr) {
    let conn = within(SOON, "a visitor", Conn::plain_from(VISITOR.into(), to)).await;
    let Conn::Plain(tcp) = conn.unwrap() else {
        unreachable!("asked for in clear text")
    };
    let from = tcp.local_addr().unwrap();
    (tcp, from)
}

/// What comes on a connection until its end.
async fn heard(mut tcp: TcpStream) -> String {
    let mut text = String::new();
    let reading = tcp.read_to_string(&mut text);
    within(SOON, "the end", reading).await.unwrap();
    text
}

/// An nginx that sends what comes there on to this address, behind a header.
async fn balancer(world: &World, to: SocketAddr) -> Option<(SocketAddr, Program)> {
    let at = free_ports().await.visitors;
    let body = format!("proxy_pass {to};\nproxy_protocol on;");
    let program = stream(world.dir(), at, "", &body).await?;
    Some((at, program))
}

fn required() -> Builder {
    World::builder()
        .option("--visitors-proxy", "required")
        .option("--visitors-tls-proxy", "required")
        .option("--proxy-from", "127.0.0.1")
}

#[tokio::test]
async fn its_http_takes_both_versions_from_a_backend_in_both_versions_of_http_with_tls_and_without()
{
    let home = World::start().await;
    let (identity, ca) = (home.pki.server(&["app.internal"]), home.pki.ca_file("ca"));
    let identity = identity.display();
    let ports = free_ports().await;
    let ssl = |more: &str| {
        format!(
            " proxy_protocol ssl{more}; ssl_certificate {identity}; ssl_certificate_key {identity}"
        )
    };
    let Some(_clear) = nginx(home.dir(), ports.visitors, " proxy_protocol").await else {
        return;
    };
    let _secure = nginx(home.dir(), ports.tunnels, &ssl("")).await;
    let newer = free_ports().await;
    let _clear_h2 = nginx(home.dir(), newer.visitors, " proxy_protocol http2").await;
    let _secure_h2 = nginx(home.dir(), newer.tunnels, &ssl(" http2")).await;
    let tls = format!(
        "tls = {{ ca = \"{}\", server_name = \"app.internal\" }}",
        ca.display()
    );
    let h2 = "protocol = \"h2\"\n";
    for (at, tls) in [
        (ports.visitors, ""),
        (ports.tunnels, tls.as_str()),
        (newer.visitors, h2),
        (newer.tunnels, &format!("{h2}{tls}")),
    ] {
        for version in ["v1", "v2"] {
            let text = format!(
                "[backends.site]\nsend_proxy = \"{version}\"\n{tls}\n[backends.site.servers]\none = \"{at}\"\n\
                 [[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n"
            );
            let world = World::builder().config(&text).start().await;
            let (tcp, from) = visitor(world.visitors).await;
            let mut one = Visitor::over(Conn::Plain(tcp));
            for _ in 0..2 {
                one.send_get(HOST, "/").await;
                let answer = one.answer("GET").await;
                assert_eq!(answer.text(), from.to_string(), "{version} {tls}");
            }
            let (tcp, from) = visitor(world.visitors).await;
            let mut other = Visitor::over(Conn::Plain(tcp));
            other.send_get(HOST, "/").await;
            assert_eq!(other.answer("GET").await.text(), from.to_string());
        }
    }
}

/// From servers and a backend that the gateway dials in TCP mode, and from `tidegate tcp`.
#[tokio::test]
async fn its_stream_takes_both_versions_from_connections() {
    let home = World::start().await;
    let at = free_ports().await.visitors;
    let Some(_nginx) = stream(home.dir(), at, " proxy_protocol", TOLD).await else {
        return;
    };
    for version in ["v1", "v2"] {
        let tell = format!("send_proxy = \"{version}\"");
        let text = format!(
            "[listeners.servers]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nservers = [\"{at}\"]\n{tell}\n\
             [listeners.backend]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nbackend = \"db\"\n\
             [listeners.tunnel]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\ntunnel = \"db.test\"\n\
             [backends.db]\n{tell}\n[backends.db.servers]\none = \"{at}\"\n"
        );
        let world = World::builder().config(&text).start().await;
        let options = ["--proxy-protocol", version];
        let _agent = world.tcp_agent("db.test", &at.to_string(), &options).await;
        for listener in ["servers", "backend", "tunnel"] {
            let to = world.gateway.address(listener).unwrap();
            let (tcp, from) = visitor(to).await;
            let told = heard(tcp).await;
            assert_eq!(told, format!("{from} {to}"), "{version} from {listener}");
        }
        let metrics = world.metrics().await;
        assert_eq!(metrics.sum("tidegate_tcp_mismatches_total", &[]), 0.0);
        assert_eq!(metrics.sum("tidegate_backend_mismatches_total", &[]), 0.0);
    }
}

#[tokio::test]
async fn it_sends_requests_over_tls_and_in_clear_text_behind_a_header() {
    let site = Site::start_with(required(), &[]).await;
    let world = &site.world;
    let config: Arc<ClientConfig> = world.visitor_tls(&["http/1.1"]);
    for (to, tls) in [(world.visitors, false), (world.visitors_tls, true)] {
        let Some((at, _balancer)) = balancer(world, to).await else {
            return;
        };
        let (tcp, from) = visitor(at).await;
        let conn = if tls {
            let shaking = Conn::tls_over(tcp, HOST, Arc::clone(&config));
            within(SOON, "a handshake", shaking).await.unwrap()
        } else {
            Conn::Plain(tcp)
        };
        let mut one = Visitor::over(conn);
        for nth in 0..2 {
            let path = format!("/hello?{tls}-{nth}");
            one.send_get(HOST, &path).await;
            assert_eq!(one.answer("GET").await.status(), 200);
            let seen = site.app.last_request();
            assert_eq!(seen.get("x-forwarded-for"), Some("127.0.0.7"));
            let who = format!(" {from} ");
            world.gateway.wait_log(&["access", &who, &path]).await;
        }
    }
    let metrics = world.metrics().await;
    let headers = ["version=\"v1\""];
    assert!(metrics.sum("tidegate_proxy_headers_total", &headers) >= 2.0);
    let binary = ["version=\"v2\""];
    assert_eq!(metrics.sum("tidegate_proxy_headers_total", &binary), 0.0);
}

/// Two nginx and the gateway between them, which takes version 1 and sends either: the server learns whose connection it is, and
/// at which address of the first one it arrived.
#[tokio::test]
async fn a_connection_goes_from_one_to_another() {
    let home = World::start().await;
    let server = free_ports().await.visitors;
    let Some(_server) = stream(home.dir(), server, " proxy_protocol", TOLD).await else {
        return;
    };
    for version in ["v1", "v2"] {
        let text = format!(
            "[listeners.pg]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nservers = [\"{server}\"]\nsend_proxy = \"{version}\"\n\
             proxy = \"required\"\nproxy_from = [\"127.0.0.1\"]\n"
        );
        let world = World::builder().config(&text).start().await;
        let pg = world.gateway.address("pg").unwrap();
        let (at, _balancer) = balancer(&world, pg).await.unwrap();
        let (tcp, from) = visitor(at).await;
        assert_eq!(heard(tcp).await, format!("{from} {at}"), "{version}");
        let who = format!(" {from} tcp ");
        let line = world.gateway.wait_log(&[&who, "listener=pg"]).await;
        assert!(line.contains(" ended=closed "), "{line}");
    }
}

/// Of a visitor at a Unix socket nginx says `PROXY UNKNOWN`: then its own address counts.
#[tokio::test]
async fn a_visitor_whose_address_it_cannot_say_has_its_own() {
    let site = Site::start_with(required(), &[]).await;
    let world = &site.world;
    let at = free_ports().await.visitors;
    let path = world.file("visitors.socket");
    let body = format!(
        "listen unix:{};\nproxy_pass {};\nproxy_protocol on;",
        path.display(),
        world.visitors
    );
    let Some(_balancer) = stream(world.dir(), at, "", &body).await else {
        return;
    };
    let mut visitor = UnixStream::connect(&path).await.unwrap();
    let request = format!("GET /hello HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    visitor.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = visitor.read_to_string(&mut answer);
    within(SOON, "the answer", reading).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = site.app.last_request();
    assert_eq!(seen.get("x-forwarded-for"), Some("127.0.0.1"));
}

/// One that sends a header to a listener which reads none, and one that sends none to a listener which requires one.
#[tokio::test]
async fn one_that_does_not_fit_its_listener_is_named() {
    let off = World::start().await;
    let Some((at, _balancer)) = balancer(&off, off.visitors).await else {
        return;
    };
    let ask = async |at| {
        let mut one = Visitor::connect(at).await;
        one.send_get(HOST, "/").await;
        let answer = one.closed_within(SOON).await;
        !answer.starts_with(b"HTTP/1.1 200")
    };
    assert!(ask(at).await);
    let words = [
        "WARN",
        "127.0.0.1",
        "got a PROXY v1 header: none is read here",
    ];
    off.gateway.wait_log(&words).await;
    let required = required().start().await;
    let at = free_ports().await.visitors;
    let body = format!("proxy_pass {};", required.visitors);
    let _silent = stream(required.dir(), at, "", &body).await.unwrap();
    assert!(ask(at).await);
    let words = [
        "WARN",
        "127.0.0.1",
        "expected a PROXY header, got an HTTP/1.1 request",
    ];
    required.gateway.wait_log(&words).await;
}
