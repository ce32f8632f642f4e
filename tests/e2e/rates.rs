//! What one source may do (issue 3 §6): each limit, each thing that happens beyond it, and that no source can be
//! somebody else. All of 127.0.0.0/8 is this machine, so that a test has as many sources as it likes.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use http::Method;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::visitors::http2;
use tidegate_tests::visitors::{Answer, H2Visitor, Visitor};
use tidegate_tests::world::Builder;
use tidegate_tests::{HOST, Site, World};

const LIMITED: &str = "tidegate_source_limited_total";

/// A gateway with these options, and an app that it dials.
async fn served(options: &[(&str, &str)]) -> (World, HttpApp) {
    served_with(World::builder(), options, "").await
}

/// The same with more in its file.
pub(super) async fn served_with(
    builder: Builder,
    options: &[(&str, &str)],
    text: &str,
) -> (World, HttpApp) {
    let app = HttpApp::start("blog").await;
    let backend = format!(
        "{text}\n[backends.site.servers]\none = \"{}\"\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n",
        app.address()
    );
    let options = options
        .iter()
        .fold(builder, |all, (name, value)| all.option(name, value));
    (options.config(&backend).start().await, app)
}

/// A GET from 127.0.0.`host` on a connection of its own.
pub(super) async fn get_from(world: &World, host: u8, path: &str) -> Answer {
    let mut visitor = Visitor::connect_from(host, world.visitors).await;
    visitor.send_get(HOST, path).await;
    visitor.answer("GET").await
}

pub(super) async fn limited(world: &World, limit: &str, action: &str) -> f64 {
    let labels = [format!("limit=\"{limit}\""), format!("action=\"{action}\"")];
    let metrics = world.metrics().await;
    metrics.sum(LIMITED, &[&labels[0], &labels[1]])
}

async fn wait_gauge(world: &World, gauge: &str, value: f64) {
    eventually(SOON, &format!("{gauge} {value}"), async || {
        (world.metrics().await.sum(gauge, &[]) == value).then_some(())
    })
    .await;
}

/// A time of an access line, in milliseconds.
fn time(line: &str, name: &str) -> f64 {
    let mut words = line.split(' ');
    let word = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    word.unwrap().trim_end_matches("ms").parse().unwrap()
}

fn told(answer: &Answer) -> (u16, String) {
    (answer.status(), answer.reason().to_owned())
}

#[tokio::test]
async fn requests_beyond_a_rate_are_told_when_there_is_room() {
    let (world, app) = served(&[("--request-rate", "3/1h")]).await;
    let mut visitor = Visitor::connect_from(2, world.visitors).await;
    for _ in 0..2 {
        visitor.send_get(HOST, "/hello").await;
        assert_eq!(visitor.answer("GET").await.status(), 200);
    }
    // A stream is a request, on whatever connection.
    let mut streams = H2Visitor::connect_from(2, world.visitors).await;
    assert_eq!(streams.get(HOST, "/hello").await.status, 200);
    let answer = streams.get(HOST, "/hello").await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.field("tidegate-reason"), "too-many-requests");
    visitor.send_get(HOST, "/hello").await;
    let answer = visitor.answer("GET").await;
    assert_eq!(told(&answer), (429, "too-many-requests".to_owned()));
    // One of the three comes back every twenty minutes.
    let retry: u64 = answer.head.get("retry-after").unwrap().parse().unwrap();
    assert!((1100..=1200).contains(&retry), "{retry}");
    // The connection goes on: what is asked is refused, and not who asks.
    visitor
        .send(format!(
            "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ))
        .await;
    assert_eq!(visitor.answer("GET").await.status(), 429);
    assert_eq!(get_from(&world, 3, "/hello").await.status(), 200);
    assert_eq!(app.requests().len(), 4);
    assert_eq!(limited(&world, "request-rate", "429").await, 3.0);
    let words = [
        "a source is beyond its limit of requests (3/3600s)",
        "source=127.0.0.2 ",
        "listener=visitors",
        "action=429",
        "times=1",
    ];
    let gateway = &world.gateway;
    gateway.wait_log(&words).await;
    let id = answer.head.get("tidegate-request-id").unwrap();
    let line = [
        id,
        "status=429 reason=too-many-requests limit=request-rate action=429",
        "blog.test/hello",
    ];
    gateway.wait_log(&line).await;
    assert_eq!(gateway.logged(&["a source is beyond"]).len(), 1);
}

#[tokio::test]
async fn who_is_refused_hears_nothing() {
    let options = [("--request-rate", "1/1h"), ("--request-action", "refuse")];
    let (world, app) = served(&options).await;
    let mut visitor = Visitor::connect_from(2, world.visitors).await;
    visitor.send_get(HOST, "/hello").await;
    assert_eq!(visitor.answer("GET").await.status(), 200);
    visitor.send_get(HOST, "/hello").await;
    assert_eq!(visitor.closed_within(SOON).await, b"");
    let mut streams = H2Visitor::connect_from(2, world.visitors).await;
    let head = streams.head(Method::GET, HOST, "/hello");
    let (response, _) = streams.begin(head, true).await;
    let error = response.await.unwrap_err();
    assert!(error.is_reset() || error.is_go_away(), "{error}");
    eventually(SOON, "the connection has ended", async || {
        streams.is_closed().then_some(())
    })
    .await;
    assert_eq!(app.requests().len(), 1);
    assert_eq!(limited(&world, "request-rate", "refuse").await, 2.0);
    let line = ["reason=too-many-requests limit=request-rate action=refuse"];
    eventually(SOON, "two lines", async || {
        (world.gateway.logged(&line).len() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_a_rate_are_told_where_http_is_spoken() {
    let listener =
        "[listeners.pg]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nservers = [\"127.0.0.1:1\"]\n";
    let options = [("--connection-rate", "2/1h")];
    let (world, _app) = served_with(World::builder(), &options, listener).await;
    for _ in 0..2 {
        assert_eq!(get_from(&world, 2, "/hello").await.status(), 200);
    }
    let answer = get_from(&world, 2, "/hello").await;
    assert_eq!(told(&answer), (429, "too-many-connections".to_owned()));
    let retry: u64 = answer.head.get("retry-after").unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&retry), "{retry}");
    let line = ["reason=too-many-connections limit=connection-rate action=429"];
    world.gateway.wait_log(&line).await;
    // Over TLS as well, to whoever takes HTTP/1.1.
    let source = Ipv4Addr::new(127, 0, 0, 2);
    for (alpn, tells) in [
        (&["h2", "http/1.1"][..], true),
        (&[], true),
        (&["h2"], false),
    ] {
        let config = world.visitor_tls(alpn);
        let conn = Conn::tls_from(source, world.visitors_tls, HOST, config).await;
        assert_eq!(conn.is_ok(), tells, "{alpn:?}");
        if let Ok(conn) = conn {
            let mut secured = Visitor::over(conn);
            secured.send_get(HOST, "/hello").await;
            let answer = secured.answer("GET").await;
            assert_eq!(told(&answer), (429, "too-many-connections".to_owned()));
            let retry: u64 = answer.head.get("retry-after").unwrap().parse().unwrap();
            assert!((1700..=1800).contains(&retry), "{retry}");
        }
    }
    // Who says nothing is not waited for.
    let mut silent = Visitor::connect_from(2, world.visitors_tls).await;
    assert_eq!(silent.closed_within(SOON).await, b"");
    let mut passed = Visitor::connect_from(2, world.gateway.address("pg").unwrap()).await;
    assert_eq!(passed.closed_within(SOON).await, b"");
    let line = ["tcp listener=pg", "ended=too-many-connections"];
    world.gateway.wait_log(&line).await;
    let metrics = world.metrics().await;
    for (listener, times) in [("visitors", 1.0), ("visitors-tls", 4.0), ("pg", 1.0)] {
        let label = format!("listener=\"{listener}\"");
        assert_eq!(
            metrics.sum(LIMITED, &[&label, "connection-rate"]),
            times,
            "{listener}"
        );
    }
    assert_eq!(get_from(&world, 3, "/hello").await.status(), 200);
}

#[tokio::test]
async fn requests_at_once_are_counted_over_all_connections_until_they_end() {
    let (world, app) = served(&[("--max-requests-per-source", "3")]).await;
    let mut streams = H2Visitor::connect_from(2, world.visitors).await;
    let mut open = Vec::new();
    for path in ["/never?1", "/never?2"] {
        let head = streams.head(Method::GET, HOST, path);
        open.push(streams.begin(head, true).await);
        app.wait_request(path).await;
    }
    let mut visitor = Visitor::connect_from(2, world.visitors).await;
    visitor.send_get(HOST, "/sse").await;
    visitor.head().await;
    let answer = get_from(&world, 2, "/hello").await;
    assert_eq!(told(&answer), (429, "too-many-requests".to_owned()));
    assert!(answer.head.get("retry-after").is_some());
    assert_eq!(get_from(&world, 3, "/hello").await.status(), 200);
    assert_eq!(limited(&world, "requests", "429").await, 1.0);
    visitor.reset();
    let again = async || (get_from(&world, 2, "/hello").await.status() == 200).then_some(());
    eventually(SOON, "there is room again", again).await;
    drop(open);
}

/// What issue 2 left: eleven HTTP/2 connections of one source took every place that a name has.
#[tokio::test]
async fn one_source_leaves_places_on_the_tunnels_to_others() {
    let gateway = World::builder()
        .option("--max-tunnel-streams", "4")
        .option("--max-requests-per-source", "12");
    let site = Site::start_with(gateway, &[]).await;
    let (mut open, mut connections) = (Vec::new(), Vec::new());
    let mut told_off = 0;
    for connection in 0..4 {
        let mut streams = H2Visitor::connect_from(2, site.world.visitors).await;
        for stream in 0..5 {
            let head = streams.head(Method::GET, HOST, &format!("/sse?{connection}-{stream}"));
            let (response, _) = streams.begin(head, true).await;
            let response = http2::response(response).await;
            told_off += usize::from(response.status() == 429);
            open.push(response);
        }
        connections.push(streams);
    }
    // Four tunnels with four places each, of which it may have three quarters.
    assert_eq!(told_off, 20 - 12);
    for _ in 0..4 {
        let mut visitor = Visitor::connect_from(3, site.world.visitors).await;
        visitor.send_get(HOST, "/hello").await;
        assert_eq!(visitor.answer("GET").await.status(), 200);
    }
}

#[tokio::test]
async fn a_tarpit_holds_nothing_of_anybody_else_and_ends_with_the_gateway() {
    let options = [
        ("--request-rate", "1/1h"),
        ("--request-action", "tarpit"),
        ("--tarpit-time", "1s"),
        ("--max-tarpitted", "2"),
    ];
    let mut site = Site::start_with(
        options.iter().fold(World::builder(), |all, (name, value)| {
            all.option(name, value)
        }),
        &[],
    )
    .await;
    let world = &site.world;
    assert_eq!(get_from(world, 2, "/hello").await.status(), 200);
    let began = Instant::now();
    let mut held = Visitor::connect_from(2, world.visitors).await;
    held.send_get(HOST, "/hello").await;
    wait_gauge(world, "tidegate_tarpitted", 1.0).await;
    assert_eq!(world.streams(HOST).await, 0);
    let answer = held.answer("GET").await;
    assert_eq!(told(&answer), (429, "too-many-requests".to_owned()));
    let took = began.elapsed();
    assert!((900..4000).contains(&took.as_millis()), "{took:?}");
    let words = ["reason=too-many-requests limit=request-rate action=tarpit"];
    let line = world.gateway.wait_log(&words).await;
    assert!(time(&line, "hold") >= 900.0, "{line}");
    assert!(time(&line, "first") < time(&line, "hold"), "{line}");
    // Who leaves makes room, over HTTP/1 and over HTTP/2.
    let mut streams = H2Visitor::connect_from(2, world.visitors).await;
    let head = streams.head(Method::GET, HOST, "/hello");
    let (response, mut stream) = streams.begin(head, true).await;
    held.send_get(HOST, "/hello").await;
    wait_gauge(world, "tidegate_tarpitted", 2.0).await;
    // There is no room for a third one, who is told at once.
    let began = Instant::now();
    assert_eq!(get_from(world, 2, "/hello").await.status(), 429);
    assert!(began.elapsed() < Duration::from_millis(800));
    stream.send_reset(h2::Reason::CANCEL);
    held.reset();
    drop(response);
    wait_gauge(world, "tidegate_tarpitted", 0.0).await;
    let mut held = Visitor::connect_from(2, world.visitors).await;
    held.send_get(HOST, "/hello").await;
    wait_gauge(world, "tidegate_tarpitted", 1.0).await;
    let began = Instant::now();
    site.world.gateway.terminate();
    assert_eq!(held.answer("GET").await.status(), 429);
    assert!(site.world.gateway.ended(SOON).await.success());
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_connection_in_the_tarpit_is_closed_after_its_time() {
    let options = [
        ("--connection-rate", "1/1h"),
        ("--connection-action", "tarpit"),
        ("--tarpit-time", "1s"),
    ];
    let (mut world, _app) = served(&options).await;
    assert_eq!(get_from(&world, 2, "/hello").await.status(), 200);
    let began = Instant::now();
    let mut held = Visitor::connect_from(2, world.visitors_tls).await;
    assert_eq!(held.closed_within(SOON).await, b"");
    let took = began.elapsed();
    assert!((900..4000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(get_from(&world, 3, "/hello").await.status(), 200);
    assert_eq!(get_from(&world, 3, "/hello").await.status(), 429);
    let words = ["limit=connection-rate action=tarpit in=0"];
    let line = world.gateway.wait_log(&words).await;
    assert!(time(&line, "hold") >= 900.0, "{line}");
    assert!(time(&line, "total") >= time(&line, "hold"), "{line}");
    assert!(time(&line, "head") < 100.0, "{line}");
    let _held = Visitor::connect_from(2, world.visitors_tls).await;
    wait_gauge(&world, "tidegate_tarpitted", 1.0).await;
    let began = Instant::now();
    world.gateway.terminate();
    assert!(world.gateway.ended(SOON).await.success());
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_mark_is_the_gateways_alone() {
    let options = [
        ("--request-rate", "1/1h"),
        ("--request-action", "mark"),
        ("--mark", "X-Over"),
    ];
    let site = Site::start_with(
        options.iter().fold(World::builder(), |all, (name, value)| {
            all.option(name, value)
        }),
        &[],
    )
    .await;
    let marks = |answer: &str| -> Vec<String> {
        let lines = answer.lines().map(str::to_ascii_lowercase);
        lines
            .filter(|line| line.starts_with("x-over") || line.starts_with("x_over"))
            .collect()
    };
    let mut visitor = Visitor::connect_from(2, site.world.visitors).await;
    for expected in [&[][..], &["x-over: request-rate"]] {
        visitor
            .send(format!(
                "GET /headers HTTP/1.1\r\nHost: {HOST}\r\nX-Over: no\r\nx_over: no\r\nX-OVER: never\r\n\r\n"
            ))
            .await;
        let answer = visitor.answer("GET").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(marks(&answer.text()), expected);
    }
    let mut streams = H2Visitor::connect_from(3, site.world.visitors).await;
    for expected in [&[][..], &["x-over: request-rate"]] {
        let mut head = streams.head(Method::GET, HOST, "/headers");
        head.headers_mut().insert("x-over", "no".parse().unwrap());
        let (response, _) = streams.begin(head, true).await;
        assert_eq!(marks(&http2::answer(response).await.text()), expected);
    }
    // Nor in trailers, from which some apps take fields as from a head.
    let mut visitor = Visitor::connect_from(4, site.world.visitors).await;
    visitor
        .send(format!(
            "POST /echo HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nTrailer: X-Sum, X-Over\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Over: no\r\n\r\n"
        ))
        .await;
    let answer = visitor.answer("POST").await;
    let names: Vec<String> = answer
        .trailers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase())
        .collect();
    assert_eq!(names, ["x-sum"]);
    site.world
        .gateway
        .wait_log(&["status=200 reason=- limit=request-rate action=mark"])
        .await;
    assert_eq!(limited(&site.world, "request-rate", "mark").await, 2.0);
}

#[tokio::test]
async fn errors_count_by_their_statuses_and_what_is_malformed_is_one() {
    let options = [
        ("--error-rate", "3/1h"),
        ("--error-statuses", "404,400-403"),
    ];
    let (world, app) = served(&options).await;
    for path in ["/status/404", "/hello", "/status/410", "/status/403"] {
        assert_eq!(get_from(&world, 2, path).await.reason(), "", "{path}");
    }
    let mut visitor = Visitor::connect_from(2, world.visitors).await;
    visitor.send("GET  / HTTP/1.1\r\n\r\n").await;
    assert_eq!(visitor.answer("GET").await.status(), 400);
    let answer = get_from(&world, 2, "/hello").await;
    assert_eq!(told(&answer), (429, "too-many-errors".to_owned()));
    let retry: u64 = answer.head.get("retry-after").unwrap().parse().unwrap();
    assert!((1100..=1200).contains(&retry), "{retry}");
    assert_eq!(app.requests().len(), 4);
    assert_eq!(get_from(&world, 3, "/status/404").await.status(), 404);
    assert_eq!(limited(&world, "error-rate", "429").await, 1.0);
}

#[tokio::test]
async fn who_is_refused_for_errors_does_not_get_as_far_as_tls() {
    let options = [("--error-rate", "1/1h"), ("--error-action", "refuse")];
    let (world, _app) = served(&options).await;
    assert_eq!(get_from(&world, 2, "/status/404").await.status(), 404);
    eventually(SOON, "the error is counted", async || {
        let mut visitor = Visitor::connect_from(2, world.visitors).await;
        visitor
            .closed_within(Duration::from_millis(500))
            .await
            .is_empty()
            .then_some(())
    })
    .await;
    let mut secured = Visitor::connect_from(2, world.visitors_tls).await;
    assert_eq!(secured.closed_within(SOON).await, b"");
    assert!(limited(&world, "error-rate", "refuse").await >= 2.0);
    assert_eq!(get_from(&world, 3, "/hello").await.status(), 200);
}

#[tokio::test]
async fn a_listener_has_limits_of_its_own() {
    let text = "[sources]\nrequest_rate = \"1/1h\"\n\
        [listeners.open]\naddress = \"127.0.0.1:0\"\n[listeners.open.sources]\nrequest_rate = \"2/1h\"\nmax_visitors_per_source = 1\n";
    let (world, _app) = served_with(World::builder(), &[], text).await;
    let open = world.gateway.address("open").unwrap();
    assert_eq!(get_from(&world, 2, "/hello").await.status(), 200);
    assert_eq!(get_from(&world, 2, "/hello").await.status(), 429);
    let mut visitor = Visitor::connect_from(2, open).await;
    for status in [200, 200, 429] {
        visitor.send_get(HOST, "/hello").await;
        assert_eq!(visitor.answer("GET").await.status(), status);
    }
    let mut second = Visitor::connect_from(2, open).await;
    second.send_get(HOST, "/hello").await;
    assert_eq!(second.answer("GET").await.reason(), "too-many-connections");
}

#[tokio::test]
async fn the_source_is_whom_a_trusted_hop_names_and_nobody_elses_word_counts() {
    let text = "[listeners.lb]\naddress = \"127.0.0.1:0\"\nproxy = \"required\"\nproxy_from = \"127.0.0.0/8\"\n";
    let options = [("--request-rate", "1/1h"), ("--trust", "127.0.0.7")];
    let (world, _app) = served_with(World::builder(), &options, text).await;
    let lb = world.gateway.address("lb").unwrap();
    // A PROXY header says whose connection it is; IPv4 as IPv6 has it is IPv4, and an IPv6 site is one source.
    for (header, status) in [
        ("TCP4 203.0.113.7 198.51.100.1", 200),
        ("TCP4 203.0.113.7 198.51.100.1", 429),
        ("TCP6 ::ffff:203.0.113.7 2001:db8::1", 429),
        ("TCP4 203.0.113.8 198.51.100.1", 200),
        ("TCP6 2001:db8:1:2::7 2001:db8::1", 200),
        ("TCP6 2001:db8:1:2:ffff::8 2001:db8::1", 429),
        ("TCP6 2001:db8:1:3::7 2001:db8::1", 200),
    ] {
        let mut visitor = Visitor::connect(lb).await;
        visitor.send(format!("PROXY {header} 5000 443\r\n")).await;
        visitor.send_get(HOST, "/hello").await;
        assert_eq!(visitor.answer("GET").await.status(), status, "{header}");
    }
    // Of a trusted hop each request says for itself, as far as others cannot have written it.
    let mut hop = Visitor::connect_from(7, world.visitors).await;
    let mut stranger = Visitor::connect_from(2, world.visitors).await;
    for (client, status) in [
        ("198.51.100.1", 200),
        ("198.51.100.2", 200),
        ("6.6.6.6, 198.51.100.1", 429),
        ("198.51.100.3, 127.0.0.7", 200),
        ("198.51.100.3", 429),
    ] {
        hop.send(format!(
            "GET /hello HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: {client}\r\n\r\n"
        ))
        .await;
        assert_eq!(hop.answer("GET").await.status(), status, "{client}");
    }
    // Its lines say whose limit it was, and only where that was somebody else's.
    for source in ["198.51.100.1", "198.51.100.3"] {
        let limited = format!("limit=request-rate action=429 source={source} ");
        let words = [" 127.0.0.7:", limited.as_str()];
        world.gateway.wait_log(&words).await;
        assert_eq!(world.gateway.logged(&words).len(), 1);
    }
    for (client, status) in [("198.51.100.8", 200), ("198.51.100.9", 429)] {
        stranger
            .send(format!(
                "GET /hello HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: {client}\r\n\r\n"
            ))
            .await;
        assert_eq!(stranger.answer("GET").await.status(), status, "{client}");
    }
}

/// More sources than there is room for: the gateway forgets, and goes on.
#[tokio::test]
async fn a_flood_of_sources_takes_no_more_memory_than_is_set() {
    let options = [
        ("--request-rate", "1/1h"),
        ("--trust", "127.0.0.0/8"),
        ("--max-sources", "1000"),
        ("--no-access-log", ""),
    ];
    let (world, _app) = served(&options).await;
    let mut hop = Visitor::connect_from(7, world.visitors).await;
    for n in 0..3000_u32 {
        let client = Ipv4Addr::from_bits(0x0a00_0000 + n);
        hop.send(format!(
            "GET /hello HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: {client}\r\n\r\n"
        ))
        .await;
        assert_eq!(hop.answer("GET").await.status(), 200, "{client}");
    }
    let metrics = world.metrics().await;
    let known = metrics.sum("tidegate_sources", &[]);
    assert!((500.0..=1000.0).contains(&known), "{known}");
    let forgotten = metrics.sum("tidegate_sources_forgotten_total", &[]);
    assert!(forgotten >= 2000.0, "{forgotten}");
}
