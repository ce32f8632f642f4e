//! What comes to a visitors' port and does not fit it: a PROXY header inside TLS, a second one, a broken one, TLS in clear text's place
//! and the reverse. Each is one complete line (who, expected, got, the line of the file, the remedy) and a count of its own; and a
//! header that names nobody is told of where it hides visitors.

use std::net::SocketAddr;

use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::visitors::Visitor;
use tidegate_tests::visitors::http2::H2Visitor;
use tidegate_tests::{HOST, Site, World, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 56324 443\r\n";
const BINARY: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\xc6\x33\x64\x01\xdc\x04\x01\xbb";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const REQUIRED: &str = "proxy = \"required\"\nproxy_from = [\"127.0.0.1\"]";

/// A gateway with these listeners, each with keys of its own.
async fn world(listeners: &[(&str, &str)]) -> World {
    let config: String = listeners
        .iter()
        .map(|(name, keys)| format!("[listeners.{name}]\naddress = \"127.0.0.1:0\"\n{keys}\n"))
        .collect();
    World::builder().config(&config).start().await
}

/// The keys of a listener with TLS.
fn certificates(home: &World) -> String {
    let file = home.pki.server(&[HOST]);
    format!("certificates = [\"{}\"]", file.display())
}

/// Sends something in clear text, and waits until the gateway closes the connection.
async fn told(to: SocketAddr, octets: &[u8]) {
    let mut tcp = TcpStream::connect(to).await.unwrap();
    tcp.write_all(octets).await.unwrap();
    // A reset is an end as well.
    let _ended = within(SOON, "the end", tcp.read_to_end(&mut Vec::new())).await;
}

/// The same inside TLS, and behind `first` in front of it; in pieces of one octet, if so wished.
async fn told_inside(
    home: &World,
    to: SocketAddr,
    first: &[u8],
    alpn: &[&str],
    octets: &[u8],
    in_pieces: bool,
) {
    let mut tcp = TcpStream::connect(to).await.unwrap();
    tcp.write_all(first).await.unwrap();
    let mut conn = Conn::tls_over(tcp, HOST, home.visitor_tls(alpn))
        .await
        .unwrap();
    for piece in octets.chunks(if in_pieces { 1 } else { octets.len() }) {
        // It may have been refused in the middle.
        let _sent = conn.write_all(piece).await;
        let _sent = conn.flush().await;
    }
    let _ended = within(SOON, "the end", conn.read_to_end(&mut Vec::new())).await;
}

async fn count(world: &World, listener: &str, why: &str) -> f64 {
    let labels = [format!("listener=\"{listener}\""), format!("why=\"{why}\"")];
    let labels = labels.each_ref().map(String::as_str);
    let metrics = world.metrics().await;
    metrics.sum("tidegate_proxy_header_mismatches_total", &labels)
}

/// One line with all of this, and so many counts of the listener, all of them of this kind.
async fn named(world: &World, listener: &str, why: &str, times: f64, words: &[&str]) {
    let who = format!("listener={listener}");
    let words = [&["WARN", "127.0.0.1", who.as_str(), "gateway.toml:"], words].concat();
    world.gateway.wait_log(&words).await;
    assert_eq!(world.gateway.logged(&words).len(), 1, "{words:?}");
    assert_eq!(count(world, listener, why).await, times, "{listener} {why}");
    let of = format!("listener=\"{listener}\"");
    let metrics = world.metrics().await;
    let all = metrics.sum("tidegate_proxy_header_mismatches_total", &[&of]);
    assert_eq!(all, times, "{listener}: nothing else");
}

#[tokio::test]
async fn a_header_inside_tls_says_so_whatever_is_spoken() {
    let home = World::start().await;
    let tls = certificates(&home);
    let required = format!("{tls}\n{REQUIRED}");
    let spoken: [(&str, &[&str], &[u8]); 3] = [
        ("h2", &["h2"], PREFACE),
        ("h1", &["http/1.1"], GET),
        ("none", &[], GET),
    ];
    let listeners: Vec<(String, &str)> = spoken
        .iter()
        .flat_map(|(name, ..)| {
            [
                (format!("{name}-off"), &*tls),
                (format!("{name}-due"), &required),
            ]
        })
        .collect();
    let listeners: Vec<(&str, &str)> = listeners
        .iter()
        .map(|(name, keys)| (name.as_str(), *keys))
        .collect();
    let world = world(&listeners).await;
    for (name, alpn, behind) in spoken {
        for (first, expect, key) in [
            (&b""[..], "off", ".proxy = \"required\" ("),
            (LINE, "due", ".proxy ("),
        ] {
            let listener = format!("{name}-{expect}");
            let to = world.gateway.address(&listener).unwrap();
            let key = format!("listeners.{listener}{key}");
            for (times, version, header) in [(1.0, "v1", LINE), (3.0, "v2", BINARY)] {
                let octets = [header, behind].concat();
                told_inside(&home, to, first, alpn, &octets, false).await;
                let got = format!("expected HTTP inside TLS, got a PROXY {version} header");
                let words = [&*got, &key, "in front of TLS", "send-proxy-v2"];
                named(&world, &listener, "inside-tls", times, &words).await;
                // However it is cut up.
                told_inside(&home, to, first, alpn, &octets, true).await;
                eventually(SOON, "it is counted", async || {
                    (count(&world, &listener, "inside-tls").await == times + 1.0).then_some(())
                })
                .await;
            }
        }
    }
    // A visitor who speaks HTTP/2 is served, and one who breaks it off in its preface has a line as any other.
    let site = Site::start().await;
    let mut fine = H2Visitor::connect_tls(
        site.world.visitors_tls,
        HOST,
        site.world.visitor_tls(&["h2"]),
    )
    .await;
    assert_eq!(fine.get(HOST, "/hello").await.status, 200);
    let to = site.world.visitors_tls;
    told_inside(&site.world, to, b"", &["h2"], GET, false).await;
    let words = [" access ", "GET / HTTP/1.1", "reason=malformed-request"];
    site.world.gateway.wait_log(&words).await;
}

#[tokio::test]
async fn a_second_header_names_who_sent_it_and_the_line() {
    let home = World::start().await;
    let required = format!("{}\n{REQUIRED}", certificates(&home));
    let optional = REQUIRED.replace("required", "optional");
    let listeners = [("due", REQUIRED), ("tls", &required), ("may", &optional)];
    let world = world(&listeners).await;
    for listener in ["due", "tls", "may"] {
        let to = world.gateway.address(listener).unwrap();
        let key = format!("listeners.{listener}.proxy (");
        for (times, second) in [(1.0, LINE), (2.0, BINARY)] {
            told(to, &[LINE, second].concat()).await;
            let words = ["second PROXY v1 header", &key, "leave"];
            named(&world, listener, "second", times, &words).await;
        }
    }
}

#[tokio::test]
async fn a_broken_header_names_the_line() {
    let world = world(&[("due", REQUIRED)]).await;
    let to = world.gateway.address("due").unwrap();
    let mut crc = BINARY.to_vec();
    crc[15] = 19;
    crc.extend_from_slice(b"\x03\0\x04\0\0\0\0");
    let mut short = BINARY.to_vec();
    short[15] = 4;
    for (times, octets) in [
        (
            1.0,
            &b"PROXY TCP4 203.0.113.7 198.51.100.1 056324 443\r\n"[..],
        ),
        (2.0, &crc),
        (3.0, &short),
        (4.0, b"PROXY TCP4 203.0.113.007 198.51.100.1 1 443\r\n"),
    ] {
        told(to, octets).await;
        let words = [
            "expected a PROXY header",
            "proxy-protocol.txt",
            "listeners.due.proxy (",
        ];
        named(&world, "due", "malformed", times, &words).await;
    }
}

#[tokio::test]
async fn tls_and_clear_text_at_the_others_port_name_the_line_and_are_counted() {
    let home = World::start().await;
    let tls = certificates(&home);
    let world = world(&[("clear", ""), ("tls", &tls), ("ssh", "")]).await;
    let address = |listener| world.gateway.address(listener).unwrap();
    for times in [1.0, 2.0] {
        told(
            address("clear"),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        )
        .await;
        let words = [
            "expected HTTP in clear text, got the beginning of a TLS handshake",
            "listeners.clear.certificates (",
        ];
        named(&world, "clear", "tls", times, &words).await;
        told(address("tls"), GET).await;
        let words = [
            "expected TLS, got an HTTP/1.1 request",
            "listeners.tls.certificates (",
        ];
        named(&world, "tls", "clear-text", times, &words).await;
        told(address("ssh"), b"SSH-2.0-OpenSSH_9.9\r\n").await;
        let words = ["expected HTTP in clear text, got an SSH greeting"];
        named(&world, "ssh", "ssh", times, &words).await;
    }
}

/// Passed on, it would be believed by a server that takes headers: visitors would choose their address.
#[tokio::test]
async fn where_headers_are_optional_one_from_elsewhere_never_passes() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = app.local_addr().unwrap();
    let optional = "address = \"127.0.0.1:0\"\nmode = \"tcp\"\nproxy = \"optional\"\nproxy_from = [\"10.0.0.1\"]";
    let config = format!(
        "[backends.app.servers]\none = \"{at}\"\n\
         [listeners.dialled]\n{optional}\nservers = [\"{at}\"]\n\
         [listeners.shared]\n{optional}\nbackend = \"app\"\n\
         [listeners.tunnel]\n{optional}\ntunnel = \"raw.test\"\n"
    );
    let world = World::builder().config(&config).start().await;
    let _agent = world.tcp_agent("raw.test", &at.to_string(), &[]).await;
    for listener in ["dialled", "shared", "tunnel"] {
        let to = world.gateway.address(listener).unwrap();
        for (times, header) in [(1.0, LINE), (3.0, BINARY)] {
            let heard = passed(&app, to, header, false).await;
            assert_eq!(heard, b"", "{listener}");
            refused(&world, listener, times, header).await;
            let heard = passed(&app, to, header, true).await;
            assert!(heard.len() < word(header), "{listener}: {heard:?}");
            assert!(header.starts_with(&heard), "{listener}: {heard:?}");
            refused(&world, listener, times + 1.0, header).await;
        }
        // Whoever speaks first is heard at once, and what only looks like a header passes.
        for said in [&b"\r\n\r\nQ"[..], b"PROXIMA", b"PROX", b"\r\n"] {
            let mut visitor = TcpStream::connect(to).await.unwrap();
            let (mut tcp, _) = within(SOON, "the app", app.accept()).await.unwrap();
            tcp.write_all(b"220").await.unwrap();
            within(SOON, "the greeting", visitor.read_exact(&mut [0; 3]))
                .await
                .unwrap();
            visitor.write_all(said).await.unwrap();
            let mut heard = vec![0; said.len()];
            within(SOON, "what it says", tcp.read_exact(&mut heard))
                .await
                .unwrap();
            assert_eq!(heard, said, "{listener}");
        }
    }
    // Where a listener hears first whom a visitor asks for, nobody is even dialled.
    let config = format!(
        "[listeners.named]\n{optional}\nservers = [\"{at}\"]\n[[routes]]\nsni = \"one.test\"\nservers = [\"{at}\"]\n"
    );
    let world = World::builder().config(&config).start().await;
    let to = world.gateway.address("named").unwrap();
    for (times, header) in [(1.0, LINE), (3.0, BINARY)] {
        told(to, header).await;
        refused(&world, "named", times, header).await;
        // How much of it has come when it is clear that it is no hello, nobody knows.
        said(to, header, true).await;
        refused(&world, "named", times + 1.0, header).await;
    }
    let line = ["ended=header-not-believed", " to=- "];
    assert!(world.gateway.logged(&line).len() >= 2);
}

/// Octets after which a header is one.
fn word(header: &[u8]) -> usize {
    if header == LINE { 6 } else { 12 }
}

/// Says this, and waits for the end; what the app has heard of it.
async fn passed(app: &TcpListener, to: SocketAddr, says: &[u8], in_pieces: bool) -> Vec<u8> {
    let hearing = async {
        let (mut tcp, _) = within(SOON, "the app", app.accept()).await.unwrap();
        let mut heard = Vec::new();
        let _ended = within(SOON, "the app's end", tcp.read_to_end(&mut heard)).await;
        heard
    };
    tokio::join!(said(to, says, in_pieces), hearing).1
}

async fn said(to: SocketAddr, says: &[u8], in_pieces: bool) {
    let mut visitor = TcpStream::connect(to).await.unwrap();
    visitor.set_nodelay(true).unwrap();
    for piece in says.chunks(if in_pieces { 1 } else { says.len() }) {
        // It may have been refused in the middle.
        let _sent = visitor.write_all(piece).await;
        tokio::task::yield_now().await;
    }
    let _ended = within(SOON, "the end", visitor.read_to_end(&mut Vec::new())).await;
}

/// One line that says so, and so many counts.
async fn refused(world: &World, listener: &str, times: f64, header: &[u8]) {
    eventually(SOON, "it is counted", async || {
        (count(world, listener, "unexpected").await == times).then_some(())
    })
    .await;
    let version = if header == LINE { "v1" } else { "v2" };
    let got = format!("got a PROXY {version} header: none is believed from there");
    let key = format!("add it to listeners.{listener}.proxy_from (");
    let words = [&*got, &key, "the connection is closed"];
    named(world, listener, "unexpected", times, &words).await;
}

/// Where a file says where agents come in, their listener is called as it is there.
#[tokio::test]
async fn a_header_at_a_tunnels_listener_of_the_file_names_its_keys() {
    let tunnels = "[tunnels]\nclear = \"127.0.0.1:0\"\nclear_names = [\"blog.test\"]\n";
    let world = World::builder().config(tunnels).start().await;
    let to = world.gateway.address("tunnels-clear").unwrap();
    told(to, LINE).await;
    let words = [
        "got a PROXY v1 header",
        "tunnels.proxy = \"required\" (",
        "and 127.0.0.1 in tunnels.proxy_from (",
    ];
    named(&world, "tunnels-clear", "unexpected", 1.0, &words).await;
}

/// Each has to be mended for himself.
#[tokio::test]
async fn all_who_send_what_does_not_fit_are_named() {
    let required = REQUIRED.replace("127.0.0.1", "127.0.0.0/8");
    let world = world(&[("off", ""), ("due", &required)]).await;
    for (listener, octets, words) in [
        ("off", [BINARY, GET].concat(), "got a PROXY v2 header"),
        (
            "due",
            GET.to_vec(),
            "expected a PROXY header, got an HTTP/1.1 request",
        ),
    ] {
        let to = world.gateway.address(listener).unwrap();
        for _ in 0..2 {
            for host in 1..=3 {
                told_from([127, 0, 0, host], to, &octets).await;
            }
        }
        for host in 1..=3 {
            let (from, listener) = (format!("127.0.0.{host}:"), format!("listener={listener}"));
            let line = ["WARN", words, &from, &listener, "gateway.toml:"];
            world.gateway.wait_log(&line).await;
            assert_eq!(world.gateway.logged(&line).len(), 1, "{line:?}");
        }
        // And not without end: by whom else it was is told with the next line.
        for host in 4..=100 {
            told_from([127, 0, 0, host], to, &octets).await;
        }
        let of = format!("listener={listener}");
        world.gateway.wait_log(&[words, "127.0.0.8:", &of]).await;
        assert_eq!(world.gateway.logged(&["WARN", words, &of]).len(), 8);
    }
    // Who is set up wrongly smuggles nothing, whatever octets that takes.
    let smuggled = world.metrics().await;
    assert_eq!(smuggled.sum("tidegate_smuggling_refused_total", &[]), 0.0);
    assert_eq!(world.gateway.logged(&[" form="]), [""; 0]);
}

async fn told_from(from: [u8; 4], to: SocketAddr, octets: &[u8]) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut tcp = socket.connect(to).await.unwrap();
    tcp.write_all(octets).await.unwrap();
    // A reset is an end as well.
    let _ended = within(SOON, "the end", tcp.read_to_end(&mut Vec::new())).await;
}

/// Where a header is due, who comes without one may be a balancer that is set up wrongly, or visitors who come past it.
#[tokio::test]
async fn what_comes_in_the_place_of_a_header_is_named_each() {
    let world = world(&[("due", REQUIRED)]).await;
    let to = world.gateway.address("due").unwrap();
    for (octets, got) in [
        (GET, "got an HTTP/1.1 request"),
        (
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            "got the beginning of a TLS handshake",
        ),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "got an SSH greeting"),
    ] {
        for _ in 0..2 {
            told(to, octets).await;
        }
        let line = ["WARN", "listener=due", "expected a PROXY header", got];
        world.gateway.wait_log(&line).await;
        assert_eq!(world.gateway.logged(&line).len(), 1, "{got}");
    }
    assert_eq!(count(&world, "due", "missing").await, 6.0);
}

/// The operator's page has a port as well, at which a balancer's check or a scraper can be wrong.
#[tokio::test]
async fn headers_and_tls_at_the_admin_page_are_named() {
    let world = World::start().await;
    for (octets, why, times, parts) in [
        (
            &[LINE, GET].concat()[..],
            "unexpected",
            1.0,
            ["got a PROXY v1 header", "reads none"],
        ),
        (
            BINARY,
            "unexpected",
            2.0,
            ["have 127.0.0.1 send none", "--admin"],
        ),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            "tls",
            1.0,
            ["got the beginning of a TLS handshake", "in clear text"],
        ),
    ] {
        told(world.admin, octets).await;
        let line = [&["WARN", "listener=admin", "127.0.0.1"], &parts[..]].concat();
        world.gateway.wait_log(&line).await;
        assert_eq!(world.gateway.logged(&line).len(), 1);
        assert_eq!(count(&world, "admin", why).await, times);
    }
}

/// A balancer's own connections are its checks'. Where visitors come on them, nobody knows whose they are.
#[tokio::test]
async fn a_header_that_names_nobody_is_told_of_once_where_a_request_follows() {
    let config = format!(
        "[listeners.due]\naddress = \"127.0.0.1:0\"\n{REQUIRED}\n\
         [listeners.old]\naddress = \"127.0.0.1:0\"\n{REQUIRED}\n"
    );
    let site = Site::start_with(World::builder().config(&config), &[]).await;
    let world = &site.world;
    let taken = async |listener: &str, names: &str| {
        let labels = [
            format!("listener=\"{listener}\""),
            format!("names=\"{names}\""),
        ];
        let labels = labels.each_ref().map(String::as_str);
        let metrics = world.metrics().await;
        metrics.sum("tidegate_proxy_headers_total", &labels)
    };
    for (listener, header, names, got) in [
        ("due", LOCAL, "local", "a PROXY v2 header LOCAL"),
        ("old", b"PROXY UNKNOWN\r\n", "unknown", "PROXY v1 header"),
    ] {
        let to = world.gateway.address(listener).unwrap();
        let who = format!("listener={listener}");
        let line = ["WARN", &who, "127.0.0.1", got];
        // Checks: one that says nothing more, and one that asks for nobody's host.
        let mut check = TcpStream::connect(to).await.unwrap();
        check.write_all(header).await.unwrap();
        check.shutdown().await.unwrap();
        within(SOON, "the end", check.read_to_end(&mut Vec::new()))
            .await
            .unwrap();
        told(to, &[header, b"OPTIONS / HTTP/1.0\r\n\r\n"].concat()).await;
        assert_eq!(taken(listener, names).await, 2.0);
        assert!(world.gateway.logged(&line).is_empty());
        for _ in 0..3 {
            let mut tcp = TcpStream::connect(to).await.unwrap();
            tcp.write_all(header).await.unwrap();
            let mut visitor = Visitor::over(Conn::Plain(tcp));
            for _ in 0..2 {
                visitor.send_get(HOST, "/hello").await;
                assert_eq!(visitor.answer("GET").await.status(), 200);
            }
        }
        let key = format!("listeners.{listener}.proxy (");
        let words = [&line[..], &["gateway.toml:", &key, "expected"]].concat();
        world.gateway.wait_log(&words).await;
        assert_eq!(world.gateway.logged(&line).len(), 1, "once");
        assert_eq!(taken(listener, names).await, 5.0);
        assert_eq!(taken(listener, "visitor").await, 0.0);
    }
}

/// Nothing, a part, something else, or a client that has its answer and says no more: what had come tells them apart, one line a
/// minute, beside those of handshakes that fail.
#[tokio::test]
async fn a_tls_handshake_that_takes_too_long_is_told_of_by_what_had_come() {
    let finished = b"\x14\x03\x03\0\x01\x01";
    for (came, sent, then) in [
        ("nothing came", &b""[..], &b""[..]),
        (
            "a TLS alert came, and a ClientHello was due",
            b"\x15\x03\x01",
            b"",
        ),
        (
            "6 octets of a ClientHello came",
            b"\x16\x03\x01\x02\0\x01",
            b"",
        ),
        ("was answered, and nothing came behind", b"hello", b""),
        ("answered, and 6 octets behind it", b"hello", finished),
    ] {
        let world = World::builder().option("--tls-timeout", "1s").start().await;
        let to = world.visitors_tls;
        told(to, GET).await;
        let mut slow = TcpStream::connect(to).await.unwrap();
        if sent == b"hello" {
            let config = world.visitor_tls(&["h2"]);
            let name = HOST.try_into().unwrap();
            let mut client = rustls::ClientConnection::new(config, name).unwrap();
            let mut hello = Vec::new();
            client.write_tls(&mut hello).unwrap();
            slow.write_all(&hello).await.unwrap();
            slow.read_exact(&mut [0; 5]).await.unwrap();
        } else {
            slow.write_all(sent).await.unwrap();
        }
        slow.write_all(then).await.unwrap();
        let line = [
            "INFO TLS with a visitor failed: it was not finished within 1s (`tls_timeout`): ",
            came,
            &format!("visitor={}", slow.local_addr().unwrap()),
            "listener=visitors-tls what=\"timeout\" times=1",
        ];
        world.gateway.wait_log(&line).await;
        // Another one waits for the next minute, and is counted.
        told(to, b"").await;
        eventually(SOON, "both are counted", async || {
            let metrics = world.metrics().await;
            let overdue = "tidegate_visitors_overdue_total";
            (metrics.sum(overdue, &["what=\"tls\""]) == 2.0).then_some(())
        })
        .await;
        assert_eq!(world.gateway.logged(&["what=\"timeout\""]).len(), 1);
    }
}
