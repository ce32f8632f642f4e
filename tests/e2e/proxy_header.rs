//! A load balancer in front: whose connection it is says its PROXY header, from those who may send one, and a header that is
//! missing, wrong or out of place names itself in one log line and a counter.

use std::net::SocketAddr;
use std::time::Duration;

use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::haproxy::{Haproxy, available, free_ports};
use tidegate_tests::task::spawn;
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::world::Builder;
use tidegate_tests::{HOST, Site, World, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 56324 443\r\n";

/// From 203.0.113.7:56324 to 198.51.100.1:443, with an authority of which nobody makes use.
fn binary() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x14".to_vec();
    header.extend_from_slice(&[203, 0, 113, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb]);
    header.extend_from_slice(b"\x02\0\x05other");
    header
}

fn local() -> Vec<u8> {
    b"\r\n\r\n\0\r\nQUIT\n\x20\x21\0\x08whatever".to_vec()
}

fn required() -> Builder {
    World::builder()
        .option("--visitors-proxy", "required")
        .option("--visitors-tls-proxy", "required")
        .option("--proxy-from", "127.0.0.1")
}

/// A connection on which these octets were sent, one after the other if so wished.
async fn begun(to: SocketAddr, header: &[u8], in_pieces: bool) -> TcpStream {
    let mut tcp = TcpStream::connect(to).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    if in_pieces {
        for octet in header {
            tcp.write_all(&[*octet]).await.unwrap();
        }
    } else {
        tcp.write_all(header).await.unwrap();
    }
    tcp
}

/// Sends something and returns what comes back until the connection is closed.
async fn told(to: SocketAddr, octets: &[u8]) -> Vec<u8> {
    let mut tcp = begun(to, octets, false).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(SOON, tcp.read_to_end(&mut answer)).await;
    // A reset is an end as well.
    let _ended = read.expect("the gateway closes the connection");
    answer
}

/// The value of a counter of these labels, once it is not zero.
async fn counted(world: &World, metric: &str, labels: &[&str]) -> f64 {
    eventually(SOON, metric, async || {
        let value = world.metrics().await.sum(metric, labels);
        (value > 0.0).then_some(value)
    })
    .await
}

#[tokio::test]
async fn the_visitor_is_whom_the_header_names() {
    let site = Site::start_with(required(), &[]).await;
    for (header, in_pieces, from) in [
        (LINE.to_vec(), false, "203.0.113.7"),
        (LINE.to_vec(), true, "203.0.113.7"),
        (binary(), false, "203.0.113.7"),
        (binary(), true, "203.0.113.7"),
        (local(), false, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), false, "127.0.0.1"),
    ] {
        let tcp = begun(site.world.visitors, &header, in_pieces).await;
        let mut visitor = Visitor::over(Conn::Plain(tcp));
        for _ in 0..2 {
            visitor.send_get(HOST, "/headers").await;
            assert_eq!(visitor.answer("GET").await.status(), 200);
            let head = site.app.last_request();
            assert_eq!(head.get("x-forwarded-for"), Some(from));
        }
        let tcp = begun(site.world.visitors_tls, &header, in_pieces).await;
        let tls = site.world.visitor_tls(&[]);
        let mut visitor = Visitor::over(Conn::tls_over(tcp, HOST, tls).await.unwrap());
        visitor.send_get(HOST, "/headers").await;
        assert_eq!(visitor.answer("GET").await.status(), 200);
        let head = site.app.last_request();
        assert_eq!(head.get("x-forwarded-for"), Some(from));
        assert_eq!(head.get("x-forwarded-proto"), Some("https"));
    }
    let log = &site.world.gateway;
    log.wait_log(&["access", " 203.0.113.7:56324 ", "status=200"])
        .await;
    for (version, times) in [("v1", 3.0), ("v2", 3.0)] {
        for listener in ["visitors", "visitors-tls"] {
            let labels = [
                format!("listener=\"{listener}\""),
                format!("version=\"{version}\""),
            ];
            let labels = labels.each_ref().map(String::as_str);
            let taken = site.world.metrics().await;
            let taken = taken.sum("tidegate_proxy_headers_total", &labels);
            assert_eq!(taken, times, "{labels:?}");
        }
    }
}

/// What came before the requests of a connection is in the first one's line, and in no other.
#[tokio::test]
async fn the_time_of_a_header_and_of_a_handshake_is_in_the_first_line() {
    let site = Site::start_with(required(), &[]).await;
    for (secure, first) in [(false, &[" header="][..]), (true, &[" header=", " tls="])] {
        let mut visitor = if secure {
            let tcp = begun(site.world.visitors_tls, LINE, false).await;
            let tls = site.world.visitor_tls(&[]);
            Visitor::over(Conn::tls_over(tcp, HOST, tls).await.unwrap())
        } else {
            Visitor::over(Conn::Plain(begun(site.world.visitors, LINE, false).await))
        };
        for (number, times) in [first, &[]].into_iter().enumerate() {
            let path = format!("/hello?{secure}{number}");
            visitor.send_get(HOST, &path).await;
            assert_eq!(visitor.answer("GET").await.status(), 200);
            let line = site.world.gateway.wait_log(&["access", &path]).await;
            let told = [" header=", " tls="].map(|name| line.contains(name));
            let due = [" header=", " tls="].map(|name| times.contains(&name));
            assert_eq!(told, due, "{line}");
        }
    }
    let gateway = World::builder().option("--log", "json");
    let site = Site::start_with(gateway, &[]).await;
    let tls = site.world.visitor_tls(&["h2"]);
    let mut visitor = H2Visitor::connect_tls(site.world.visitors_tls, HOST, tls).await;
    for (path, is_first) in [("/hello?first", true), ("/hello?next", false)] {
        assert_eq!(visitor.get(HOST, path).await.status, 200);
        let line = site.world.gateway.wait_log(&["\"access\"", path]).await;
        assert_eq!(line.contains("\"tls_ms\":"), is_first, "{line}");
        assert!(!line.contains("header_ms"), "{line}");
    }
}

#[tokio::test]
async fn a_header_arrives_with_what_follows_it() {
    let site = Site::start_with(required(), &[]).await;
    let request = format!("GET /headers HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    for header in [LINE.to_vec(), binary()] {
        let answer = told(site.world.visitors, &[&header, request.as_bytes()].concat()).await;
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            answer.escape_ascii()
        );
        let head = site.app.last_request();
        assert_eq!(head.get("x-forwarded-for"), Some("203.0.113.7"));
    }
}

#[tokio::test]
async fn what_is_no_header_is_not_answered_and_named_once() {
    let site = Site::start_with(required(), &[]).await;
    let world = &site.world;
    let request = format!("GET /headers HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut wrong_sum = binary();
    wrong_sum[15] = 0x13;
    wrong_sum.truncate(28);
    wrong_sum.extend_from_slice(b"\x03\0\x04\0\0\0\0");
    for (octets, why, words) in [
        (
            request.as_bytes(),
            "missing",
            [
                "expected a PROXY header, got an HTTP/1.1 request",
                "send-proxy-v2",
            ],
        ),
        (
            b"PROXY TCP4 203.0.113.7 198.51.100.1 056324 443\r\n",
            "malformed",
            ["has a port that is no number", "proxy-protocol.txt"],
        ),
        (&wrong_sum, "malformed", ["", ""]),
    ] {
        let before = site.app.requests().len();
        for to in [world.visitors, world.visitors_tls] {
            let answer = told(to, octets).await;
            assert!(answer.is_empty(), "{}", answer.escape_ascii());
        }
        assert_eq!(site.app.requests().len(), before, "nothing reaches the app");
        let label = format!("why=\"{why}\"");
        counted(world, "tidegate_proxy_header_mismatches_total", &[&label]).await;
        if !words[0].is_empty() {
            let line = world
                .gateway
                .wait_log(&["WARN", "127.0.0.1", words[0], words[1]])
                .await;
            assert!(line.contains("--visitors") || why == "malformed", "{line}");
        }
    }
    let tls = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    assert!(told(world.visitors_tls, &tls).await.is_empty());
    let missing = "expected a PROXY header, got an HTTP/1.1 request";
    let said = site.world.gateway.logged(&[missing]);
    assert_eq!(said.len(), 2, "one a minute and listener: {said:?}");
}

#[tokio::test]
async fn a_header_that_does_not_come_is_waited_for_for_so_long() {
    let site = Site::start_with(required().option("--proxy-timeout", "200ms"), &[]).await;
    for octets in [&b""[..], &LINE[..10], &binary()[..20]] {
        assert!(told(site.world.visitors, octets).await.is_empty());
    }
    let labels = ["listener=\"visitors\"", "why=\"overdue\""];
    counted(
        &site.world,
        "tidegate_proxy_header_mismatches_total",
        &labels,
    )
    .await;
    site.world
        .gateway
        .wait_log(&[
            "WARN",
            "expected a PROXY header within 200ms",
            "--visitors-proxy off",
        ])
        .await;
    assert!(told(site.world.visitors_tls, b"PROX").await.is_empty());
    let part = ["WARN", "200ms, got only a part of a PROXY v1 header"];
    site.world.gateway.wait_log(&part).await;
}

/// It may be a good one: whoever reads the line is told which of our limits it is over.
#[tokio::test]
async fn a_header_that_is_longer_than_is_read_names_the_limit() {
    let site = Site::start_with(required(), &[]).await;
    let mut long = binary();
    long[14..16].copy_from_slice(&5_000_u16.to_be_bytes());
    assert!(told(site.world.visitors, &long).await.is_empty());
    let said = site
        .world
        .gateway
        .wait_log(&["WARN", "more than the 4096", "max_proxy_header"])
        .await;
    assert!(!said.contains("proxy-protocol.txt"), "{said}");
}

/// Listeners have their own line each: one that is told of every minute does not hide another.
#[tokio::test]
async fn a_header_at_one_listener_does_not_hide_one_at_another() {
    let config = "[listeners.opt]\naddress = \"127.0.0.1:0\"\nproxy = \"optional\"\nproxy_from = [\"10.0.0.0/8\"]\n\
                  [listeners.none]\naddress = \"127.0.0.1:0\"\n";
    let world = World::builder().config(config).start().await;
    for (listener, remedy) in [
        ("opt", "add it to listeners.opt.proxy_from ("),
        ("none", "listeners.none.proxy = \"required\" ("),
    ] {
        let answer = told(world.gateway.address(listener).unwrap(), LINE).await;
        assert!(answer.starts_with(b"HTTP/1.1 400"));
        let named = format!("listener={listener}");
        let words = ["WARN", &named, "got a PROXY v1 header", remedy];
        world.gateway.wait_log(&words).await;
    }
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let gateway = World::builder()
        .option("--visitors-proxy", "required")
        .option("--visitors-tls-proxy", "optional")
        .option("--proxy-from", "192.0.2.0/24,2001:db8::/32");
    let site = Site::start_with(gateway, &[]).await;
    let request = format!("GET /headers HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for octets in [[LINE, request.as_bytes()].concat(), request.into_bytes()] {
        assert!(told(site.world.visitors, &octets).await.is_empty());
    }
    site.world
        .gateway
        .wait_log(&[
            "WARN",
            "may not send a PROXY header",
            "add it to --proxy-from",
        ])
        .await;
    let labels = ["listener=\"visitors\"", "why=\"source\""];
    counted(
        &site.world,
        "tidegate_proxy_header_mismatches_total",
        &labels,
    )
    .await;
    // Where headers are optional, those who are not listed do without.
    let tls = site.world.visitor_tls(&[]);
    let mut visitor = Visitor::connect_tls(site.world.visitors_tls, HOST, tls).await;
    visitor.send_get(HOST, "/headers").await;
    assert_eq!(visitor.answer("GET").await.status(), 200);
    let answer = told(site.world.visitors_tls, LINE).await;
    assert!(!answer.starts_with(b"HTTP/"), "{}", answer.escape_ascii());
    site.world
        .gateway
        .wait_log(&[
            "WARN",
            "expected TLS, got a PROXY v1 header",
            "if 127.0.0.1 is a load balancer of yours, add it to --proxy-from",
        ])
        .await;
}

#[tokio::test]
async fn an_optional_header_may_be_left_out() {
    let gateway = World::builder()
        .option("--visitors-proxy", "optional")
        .option("--visitors-tls-proxy", "optional")
        .option("--proxy-from", "127.0.0.0/8");
    let site = Site::start_with(gateway, &[]).await;
    let request = |method: &str| {
        format!(
            "{method} /headers HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
    };
    for (octets, from) in [
        (request("GET").into_bytes(), "127.0.0.1"),
        (request("POST").into_bytes(), "127.0.0.1"),
        ([LINE, request("POST").as_bytes()].concat(), "203.0.113.7"),
        (
            [&binary(), request("GET").as_bytes()].concat(),
            "203.0.113.7",
        ),
    ] {
        for in_pieces in [false, true] {
            let mut tcp = begun(site.world.visitors, &octets, in_pieces).await;
            let mut answer = Vec::new();
            tcp.read_to_end(&mut answer).await.unwrap();
            assert!(
                answer.starts_with(b"HTTP/1.1 200"),
                "{}",
                answer.escape_ascii()
            );
            let head = site.app.last_request();
            assert_eq!(head.get("x-forwarded-for"), Some(from));
        }
    }
    let tls = site.world.visitor_tls(&["http/1.1"]);
    let mut visitor = Visitor::connect_tls(site.world.visitors_tls, HOST, tls).await;
    visitor.send_get(HOST, "/headers").await;
    assert_eq!(visitor.answer("GET").await.status(), 200);
}

#[tokio::test]
async fn a_header_where_none_is_due_names_itself() {
    let site = Site::start().await;
    for header in [LINE.to_vec(), binary()] {
        for to in [site.world.visitors_tls, site.world.tunnels] {
            told(to, &[&header[..], &[0x16, 3, 1, 0, 1, 1]].concat()).await;
        }
        let answer = told(site.world.visitors, &header).await;
        assert!(
            answer.starts_with(b"HTTP/1.1 400"),
            "{}",
            answer.escape_ascii()
        );
    }
    let labels = ["listener=\"visitors\"", "why=\"unexpected\""];
    let metric = "tidegate_proxy_header_mismatches_total";
    assert_eq!(counted(&site.world, metric, &labels).await, 2.0);
    let twice = site
        .world
        .gateway
        .logged(&["what makes this port one for TLS"]);
    assert!(twice.is_empty(), "one line each: {twice:?}");
    for (listener, option) in [
        (
            "visitors-tls",
            "--visitors-tls-proxy required, and 127.0.0.1 in --proxy-from",
        ),
        (
            "tunnels",
            "--tunnels-proxy required, and 127.0.0.1 in --proxy-from",
        ),
    ] {
        let label = format!("listener=\"{listener}\"");
        let unexpected = "why=\"unexpected\"";
        let metric = "tidegate_proxy_header_mismatches_total";
        assert_eq!(
            counted(&site.world, metric, &[&label, unexpected]).await,
            2.0
        );
        site.world
            .gateway
            .wait_log(&[
                "WARN",
                listener,
                "expected TLS, got a PROXY v1 header",
                option,
            ])
            .await;
    }
}

/// Relays to `target`, with these octets first: a load balancer.
async fn balancer(target: SocketAddr, header: Vec<u8>) -> (SocketAddr, tidegate_tests::task::Task) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut from, _)) = listener.accept().await {
            let mut to = begun(target, &header, false).await;
            open.push(spawn(async move {
                let _moved = copy_bidirectional(&mut from, &mut to).await;
            }));
        }
    });
    (address, task)
}

#[tokio::test]
async fn an_agent_too_may_come_through_a_load_balancer() {
    let gateway = World::builder()
        .option("--tunnels-proxy", "required")
        .option("--proxy-from", "127.0.0.1");
    let world = gateway.start().await;
    let app = tidegate_tests::apps::HttpApp::start("blog").await;
    let (address, _balancer) = balancer(world.tunnels, binary()).await;
    let mut agent = tidegate_tests::world::launch_agent(
        &[],
        &format!("localhost:{}", address.port()),
        &world.pki.agent(&[HOST]),
        &world.pki.ca_file("ca"),
        app.target(),
        &["--tunnels", "1"],
    );
    agent.ready().await;
    world.wait_filed(HOST, 1, SOON).await;
    let listed = world.listed().await;
    assert_eq!(listed[0]["agent"], "203.0.113.7:56324", "{listed:?}");
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
    // One that comes straight is refused, and told so in the log.
    let straight = world.launch_agent(&world.pki.agent(&["shop.test"]), app.target(), &[]);
    straight
        .wait_log(&[
            "during the handshake",
            "where it requires a PROXY header (its --tunnels-proxy): dial the load balancer",
        ])
        .await;
    world
        .gateway
        .wait_log(&[
            "WARN",
            "tunnels",
            "expected a PROXY header, got the beginning of a TLS handshake",
        ])
        .await;
    let labels = ["layer=\"proxy\""];
    counted(&world, "tidegate_tunnels_refused_total", &labels).await;
    // And one whose balancer does not say who it is.
    let (address, _nameless) = balancer(world.tunnels, local()).await;
    let _nobodys = tidegate_tests::world::launch_agent(
        &[],
        &format!("localhost:{}", address.port()),
        &world.pki.agent(&["shop.test"]),
        &world.pki.ca_file("ca"),
        app.target(),
        &["--tunnels", "1"],
    );
    world.wait_filed("shop.test", 1, SOON).await;
    let words = [
        "WARN",
        "listener=tunnels",
        "--tunnels-proxy",
        "an agent's tunnel behind a PROXY v2 header LOCAL",
    ];
    world.gateway.wait_log(&words).await;
}

#[tokio::test]
async fn visitors_of_one_balancer_are_counted_by_their_own_addresses() {
    let gateway = required().option("--max-visitors-per-source", "1");
    let site = Site::start_with(gateway, &[]).await;
    let from = |last: u8| format!("PROXY TCP4 203.0.113.{last} 198.51.100.1 1 443\r\n");
    let mut kept = Vec::new();
    for last in 1..=3 {
        let tcp = begun(site.world.visitors, from(last).as_bytes(), false).await;
        let mut visitor = Visitor::over(Conn::Plain(tcp));
        visitor.send_get(HOST, "/hello").await;
        assert_eq!(visitor.answer("GET").await.status(), 200);
        kept.push(visitor);
    }
    let answer = told(site.world.visitors, from(2).as_bytes()).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 429"),
        "{}",
        answer.escape_ascii()
    );
}

#[tokio::test]
async fn haproxy_sends_both_versions() {
    let Some(installed) = available() else {
        return;
    };
    let site = Site::start_with(required(), &[]).await;
    let ports = free_ports().await;
    for (at, server) in [
        (ports.visitors, "send-proxy"),
        (
            ports.tunnels,
            "send-proxy-v2 proxy-v2-options unique-id,crc32c",
        ),
    ] {
        let body = format!(
            "listen balancer\n\x20   mode tcp\n\x20   bind {at}\n\x20   unique-id-format %{{+X}}o%ci:%cp\n\
             \x20   server gateway {} {server}\n",
            site.world.visitors
        );
        let name = format!("haproxy-{}", at.port());
        let balancer = Haproxy::start(&installed, site.world.dir(), &name, &body);
        balancer.listening(at).await;
        let before = site.app.requests().len();
        let tcp = TcpStream::connect(at).await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let mut visitor = Visitor::over(Conn::Plain(tcp));
        visitor.send_get(HOST, "/headers").await;
        assert_eq!(
            visitor
                .answer_within(Duration::from_secs(10), "GET")
                .await
                .status(),
            200
        );
        assert_eq!(site.app.requests().len(), before + 1);
        site.world
            .gateway
            .wait_log(&["access", &format!(" 127.0.0.1:{port} "), "status=200"])
            .await;
    }
}

#[tokio::test]
async fn options_that_need_each_other_say_so() {
    use tidegate_tests::program::{built, run};
    for (options, said) in [
        (
            &["--visitors-proxy", "required"][..],
            "--visitors-proxy: this needs --proxy-from",
        ),
        (
            &["--proxy-from", "10.0.0.0/8"],
            "--proxy-from: this changes nothing without",
        ),
        (
            &["--visitors-proxy", "on"],
            "none of off, required and optional",
        ),
        (&["--proxy-from", "10.0.0.0/33"], "not an address range"),
        (
            &["--max-proxy-header", "100"],
            "not a size for PROXY headers",
        ),
    ] {
        let mut words: Vec<std::ffi::OsString> = vec!["run".into()];
        words.extend(
            [
                "--visitors",
                "127.0.0.1:0",
                "--tunnels-clear",
                "127.0.0.1:0",
            ]
            .map(Into::into),
        );
        words.extend(["--tunnels-clear-name", HOST].map(Into::into));
        words.extend(options.iter().map(Into::into));
        let finished = run(&built("tidegated"), &words).await;
        assert_eq!(finished.code, Some(64), "{options:?}: {finished:?}");
        assert!(finished.stderr.contains(said), "{options:?}: {finished:?}");
    }
}
